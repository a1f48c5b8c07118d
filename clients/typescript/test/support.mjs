// What the tests share: a scripted transport, a fake server in a thread of its own, and a real one.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker as Thread } from "node:worker_threads";

/** Generous: the machine may be busy. */
export const DEADLINE_MS = 30_000;

/** A transport that answers by a list, and keeps what it was asked. Its last answer is repeated. */
export function scripted(...answers) {
  const requests = [];
  const transport = async (request) => {
    const answer = answers[Math.min(requests.length, answers.length - 1)];
    requests.push(request);
    const given = typeof answer === "function" ? await answer(request) : answer;
    if (given instanceof Error) throw given;
    const { status = 200, retryAfter, body = {} } = given;
    return { status, retryAfter, body: typeof body === "string" ? body : JSON.stringify(body) };
  };
  return { transport, requests };
}

export function problem(status, slug, more = {}) {
  return { status, body: { type: `urn:holdfast:problem:${slug}`, title: slug, status, detail: "because", ...more } };
}

export const silent = { debug() {}, info() {}, warn() {}, error() {} };

/** A logger that keeps what was logged. */
export function recorder() {
  const lines = [];
  const at = (level) => (message, fields = {}) => void lines.push({ level, message, ...fields });
  return { lines, debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** Resolves when the condition holds. */
export async function eventually(condition, what) {
  const end = performance.now() + DEADLINE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > end) throw new Error(`not within ${DEADLINE_MS / 1000} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/**
 * The worker's side of the API, in a thread: it answers while the test's thread is blocked. `counts[0]` are heartbeats, `counts[1]` those
 * to be refused with 503, `counts[2]` those to be answered 404.
 */
export async function fakeServer(heartbeatSeconds = 0.1) {
  const counts = new Int32Array(new SharedArrayBuffer(12));
  const source = `
    const { createServer } = require("node:http");
    const { parentPort, workerData: { counts, heartbeatSeconds } } = require("node:worker_threads");
    const take = (place) => Atomics.load(counts, place) > 0 && Atomics.sub(counts, place, 1) > 0;
    const server = createServer((request, response) => {
      const answer = (status, body) => { response.writeHead(status, { "content-type": "application/json" }); response.end(JSON.stringify(body)); };
      request.resume().on("end", () => {
        if (request.url.endsWith("/heartbeat")) {
          Atomics.add(counts, 0, 1);
          if (take(1)) return answer(503, { type: "urn:holdfast:problem:unavailable" });
          if (take(2)) return answer(404, { type: "urn:holdfast:problem:worker-not-found" });
          return answer(200, { cancel: [], lost: [], drain: false });
        }
        if (request.method === "DELETE") return answer(204);
        if (request.url.endsWith("/pull")) return setTimeout(() => answer(200, { jobs: [], drain: false, register_again: false }), 1000);
        answer(201, { id: "W", heartbeat_seconds: heartbeatSeconds, lost_after_seconds: heartbeatSeconds * 3 });
      });
    });
    server.listen(0, "127.0.0.1", () => parentPort.postMessage(server.address().port));
  `;
  const thread = new Thread(source, { eval: true, workerData: { counts, heartbeatSeconds } });
  const port = await new Promise((resolve) => thread.once("message", resolve));
  return { url: `http://127.0.0.1:${port}`, counts, close: () => thread.terminate() };
}

/** The built program: HOLDFAST_BINARY, or where cargo puts it. */
export function holdfastProgram() {
  const root = fileURLToPath(new URL("../../..", import.meta.url));
  const places = [process.env.HOLDFAST_BINARY, join(root, "target/debug/holdfast"), join(root, "target/release/holdfast")];
  return places.find((place) => place && existsSync(place));
}

/** Why tests with a real server are skipped, or false. */
export const withoutServer = holdfastProgram() === undefined && "there is no built holdfast: set HOLDFAST_BINARY, or run cargo build";

/** A fresh `holdfast dev` on a free port. */
export async function realServer(settings = {}) {
  const directory = mkdtempSync(join(tmpdir(), "holdfast-ts-"));
  const port = await freePort();
  const env = { PATH: process.env.PATH, HOME: directory, PORT: String(port), ...settings };
  const child = spawn(holdfastProgram(), ["dev"], { cwd: directory, env, stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (printed += text));
  const url = `http://127.0.0.1:${port}`;
  const isReady = async () => {
    if (child.exitCode !== null) throw new Error(`holdfast dev has ended:\n${printed}`);
    return fetch(`${url}/health/ready`).then((answer) => answer.ok, () => false);
  };
  await eventually(isReady, "holdfast dev is ready");
  const close = async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    rmSync(directory, { recursive: true, force: true });
  };
  return { url, close, log: () => printed };
}

export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
