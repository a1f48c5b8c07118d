// A web server whose requests enqueue jobs. Start it with HOLDFAST_URL, and HOLDFAST_API_KEY if the server wants keys.
import { pathToFileURL } from "node:url";
import { NotFoundError, PayloadError } from "@holdfast/client";
import express from "express";
import { app as jobs, sendWelcome } from "./jobs.js";

export const web = express();
web.use(express.json());

web.post("/signups", async (request, response) => {
  const { email, name } = request.body ?? {};
  // The same sign-up sent twice, by a nervous browser, is one job.
  const job = await sendWelcome.enqueue({ to: email, name }, { uniqueKey: String(email) });
  response.status(202).location(`/signups/${job.id}`).json({ id: job.id });
});

web.get("/signups/:id", async (request, response) => {
  const { state, result } = await jobs.client.job(request.params.id).show();
  response.json({ state, result });
});

web.use((error, _request, response, next) => {
  if (error instanceof PayloadError) response.status(422).json({ issues: error.issues });
  else if (error instanceof NotFoundError) response.status(404).json({ error: "no such sign-up" });
  else next(error);
});

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const port = process.env.PORT ?? 3000;
  web.listen(port, () => console.log(`http://127.0.0.1:${port}`));
}
