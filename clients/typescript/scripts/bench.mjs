#!/usr/bin/env node
// The figures of the worker: no-ops per second, and the delay from an accepted job to its handler on an idle system.
//
//   HOLDFAST_URL=http://127.0.0.1:8080 node scripts/bench.mjs [JOBS] [CONCURRENCY]
//
// Build first. The server should be a release build with nothing else to do.
import { App } from "@holdfast/client";
import { Worker, lineLogger } from "@holdfast/client/worker";

const [jobs = 50_000, concurrency = 200] = process.argv.slice(2).map(Number);
const PICK_UPS = 200;

const app = new App({ queue: "bench" });
let left = jobs;
let done;
const noop = app.job("bench.noop", {}, () => {
  left -= 1;
  if (left === 0) done();
});
const started = new Map();
const pickUp = app.job("bench.pick-up", {}, (_, ctx) => started.get(ctx.id)?.(performance.now()) ?? started.set(ctx.id, performance.now()));

await app.declare();
await app.client.enqueueMany(Array.from({ length: jobs }, () => ({ kind: noop.name, payload: {} })));
const finished = new Promise((resolve) => (done = resolve));
const worker = new Worker(app, { concurrency, logger: lineLogger("warn") });
const [cpu, from] = [process.cpuUsage(), performance.now()];
await worker.start();
await finished;
while (worker.stats.held > 0) await new Promise((resolve) => setTimeout(resolve, 1));
const seconds = (performance.now() - from) / 1000;
const { user, system } = process.cpuUsage(cpu);
const used = (user + system) / 1e6;
console.log(`figure: ${Math.round(jobs / seconds)} no-ops/s (${jobs} jobs, concurrency ${concurrency}, ${((used / jobs) * 1e6).toFixed(1)} us CPU of this process each)`);

const delays = [];
for (let n = 0; n < PICK_UPS; n += 1) {
  const job = await pickUp.enqueue({});
  const accepted = performance.now();
  const begun = started.get(job.id) ?? (await new Promise((resolve) => started.set(job.id, resolve)));
  delays.push(begun - accepted);
}
delays.sort((a, b) => a - b);
const at = (share) => delays[Math.floor(PICK_UPS * share)].toFixed(1);
console.log(`figure: pick-up p50 ${at(0.5)} ms, p95 ${at(0.95)} ms after the reply to enqueue (${PICK_UPS} jobs, one at a time; below 0: before the reply)`);
await worker.stop();
