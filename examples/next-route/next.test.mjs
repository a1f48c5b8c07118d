// With Next itself: puts the route into an application of Next, builds and serves it, and calls it over HTTP. `npm run test:next` needs
// npm and about a minute.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Worker } from "@holdfast/client/worker";
import { app } from "./dist/jobs/reports.js";

const VERSIONS = { next: "16.4.6", react: "19.3.1", "react-dom": "19.3.1" };
const DEADLINE_MS = 60_000;

const directory = mkdtempSync(join(tmpdir(), "holdfast-next-"));
let worker;
let server;
let url;

before(async () => {
  // As JavaScript: Next would install TypeScript otherwise.
  cpSync("dist/app", join(directory, "app"), { recursive: true });
  cpSync("dist/jobs", join(directory, "jobs"), { recursive: true });
  writeFileSync(join(directory, "package.json"), JSON.stringify({ private: true, type: "module", dependencies: VERSIONS }));
  run("npm", "install", "--silent", "--no-audit", "--no-fund");
  for (const name of ["@holdfast/client", "valibot"]) {
    cpSync(join("node_modules", name), join(directory, "node_modules", name), { recursive: true, dereference: true });
  }
  run("npx", "next", "build");
  const port = await freePort();
  url = `http://127.0.0.1:${port}/api/reports`;
  server = spawn("node", ["node_modules/next/dist/bin/next", "start", "--port", String(port), "--hostname", "127.0.0.1"], {
    cwd: directory, stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, NEXT_TELEMETRY_DISABLED: "1" },
  });
  await answers();
  await app.declare();
  worker = new Worker(app);
  await worker.start();
});

after(async () => {
  await worker?.stop();
  server?.kill();
  rmSync(directory, { recursive: true, force: true });
});

test("a route handler that Next serves starts a report and shows its result", async () => {
  const answer = await post({ month: "2026-02" });
  assert.equal(answer.status, 202);
  const { id } = await answer.json();
  await app.client.job(id).wait({ timeoutSeconds: 30 });
  const shown = await (await fetch(`${url}?id=${id}`)).json();
  assert.deepEqual([shown.state, shown.result], ["completed", { month: "2026-02", days: 28 }]);
});

test("it refuses what the schema refuses", async () => {
  assert.equal((await post({ month: "February" })).status, 422);
});

function post(body) {
  return fetch(url, { method: "POST", body: JSON.stringify(body) });
}

function run(command, ...more) {
  execFileSync(command, more, { cwd: directory, stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, NEXT_TELEMETRY_DISABLED: "1" } });
}

function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

async function answers() {
  const until = Date.now() + DEADLINE_MS;
  while (!(await fetch(url).then(() => true, () => false))) {
    assert.ok(Date.now() < until, "Next does not answer");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
