import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Worker } from "@holdfast/client/worker";
import { GET, POST } from "./app/api/reports/route.js";
import { app } from "./jobs/reports.js";

const ROUTE = "https://shop.example/api/reports";

let worker: Worker | undefined;

before(async () => {
  await app.declare();
  worker = new Worker(app);
  await worker.start();
});

after(async () => {
  await worker?.stop();
});

const post = (body: unknown) => POST(new Request(ROUTE, { method: "POST", body: JSON.stringify(body) }));

test("the route starts a report and shows its result", async () => {
  const answer = await post({ month: "2026-02" });
  assert.equal(answer.status, 202);
  const { id } = (await answer.json()) as { id: string };
  await app.client.job(id).wait({ timeoutSeconds: 30 });
  const shown = (await (await GET(new Request(`${ROUTE}?id=${id}`))).json()) as { state: string; result: unknown };
  assert.deepEqual([shown.state, shown.result], ["completed", { month: "2026-02", days: 28 }]);
});

test("the route refuses what the schema refuses, and knows no other report", async () => {
  assert.equal((await post({ month: "February" })).status, 422);
  assert.equal((await POST(new Request(ROUTE, { method: "POST", body: "{" }))).status, 422);
  assert.equal((await GET(new Request(`${ROUTE}?id=01JD3V0S7W8Q4M2XKZC5T9R6BH`))).status, 404);
});
