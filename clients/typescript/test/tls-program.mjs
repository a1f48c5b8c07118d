// A program of tls.test.mjs: it enqueues a job that takes longer than a lease of 3 s, and runs it.
import { setTimeout as sleep } from "node:timers/promises";
import { App } from "@holdfast/client";
import { Worker } from "@holdfast/client/worker";

const app = new App({ queue: "tls" });
const slow = app.job("tls.longer-than-a-lease", {}, async (_, ctx) => {
  // Blocked, so that the heartbeats are those of the thread.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 6_000);
  await sleep(1);
  return ctx.attempt;
});

await app.declare();
const worker = new Worker(app, { signals: false });
const ended = worker.run();
await worker.start();
const job = await slow.enqueue({});
console.log(`completed in attempt ${await job.wait({ timeoutSeconds: 60 })}`);
await worker.stop();
await ended;
