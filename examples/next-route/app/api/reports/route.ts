// A route handler of Next: web-standard Request and Response, for the Node and the edge runtime alike.
import { NotFoundError, PayloadError } from "@holdfast/client";
import { app, makeReport } from "../../../jobs/reports.js";

export const dynamic = "force-dynamic";

/** Starts a report. */
export async function POST(request: Request): Promise<Response> {
  const body: unknown = await request.json().catch(() => undefined);
  try {
    // The schema checks the payload: what it refuses is a PayloadError.
    const job = await makeReport.enqueue(body as { month: string });
    return Response.json({ id: job.id }, { status: 202 });
  } catch (error) {
    if (error instanceof PayloadError) return Response.json({ issues: error.issues }, { status: 422 });
    throw error;
  }
}

/** Shows how far it is: `GET /api/reports?id=…`. */
export async function GET(request: Request): Promise<Response> {
  const id = new URL(request.url).searchParams.get("id") ?? "";
  try {
    const { state, progress, result } = await app.client.job(id).show();
    return Response.json({ state, progress, result });
  } catch (error) {
    if (error instanceof NotFoundError) return Response.json({ error: "no such report" }, { status: 404 });
    throw error;
  }
}
