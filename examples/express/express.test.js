import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Worker } from "@holdfast/client/worker";
import { app, sendWelcome } from "./jobs.js";
import { web } from "./server.js";

let worker, listener, base;

before(async () => {
  await app.declare();
  worker = new Worker(app, { concurrency: 4 });
  await worker.start();
  listener = web.listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  base = `http://127.0.0.1:${listener.address().port}`;
});

after(async () => {
  listener?.close();
  listener?.closeAllConnections();
  await worker?.stop();
});

const signUp = (body) =>
  fetch(`${base}/signups`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

test("a sign-up is answered at once, and its mail is sent by the worker", async () => {
  const answer = await signUp({ email: "ada@example.org", name: "Ada" });
  assert.equal(answer.status, 202);
  const { id } = await answer.json();
  await app.client.job(id).wait({ timeoutSeconds: 30 });
  const shown = await (await fetch(base + answer.headers.get("location"))).json();
  assert.deepEqual(shown, { state: "completed", result: { to: "ada@example.org", subject: "Welcome, Ada!", attempt: 1 } });
});

test("an invalid sign-up is refused, and no job is made", async () => {
  const answer = await signUp({ email: "nobody", name: "" });
  assert.equal(answer.status, 422);
  const { issues } = await answer.json();
  assert.deepEqual(issues.map(({ path }) => path), ["to", "name"]);
  assert.equal((await fetch(`${base}/signups/01JD3V0S7W8Q4M2XKZC5T9R6BH`)).status, 404);
});

test("the handler runs without a server", async () => {
  const testing = app.testing();
  const job = await sendWelcome.enqueue({ to: "grace@example.invalid", name: "Grace" });
  await assert.rejects(job.wait(), /takes no mail/);
  testing.restore();
});
