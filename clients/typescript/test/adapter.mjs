#!/usr/bin/env node
// The adapter of the conformance suite: commands on standard input, answers on standard output. clients/conformance/README.md says what
// each command means. It uses the public API of the package alone.
import { existsSync } from "node:fs";
import { appendFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import {
  ApiError, App, Client, ConfigurationError, ConnectionError, Discard, PayloadError, Retry, Snooze, WaitTimeoutError,
} from "@holdfast/client";
import { CLIENT, Worker, withFields } from "@holdfast/client/worker";

class Unsupported extends Error {}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const logAs = (level) => (message, fields) => say({ event: "log", level, message: withFields(message, fields) });
const logger = { debug: logAs("debug"), info: logAs("info"), warn: logAs("warning"), error: logAs("error") };

/** What `open` was given, and its client. */
let server;
const workers = new Map();

const commands = {
  hello: () => ({ client: CLIENT.name, version: CLIENT.version, language: CLIENT.language }),

  open: ({ url, key }) => {
    server = { url, key: key ?? undefined };
    server.client = new Client(server);
    return {};
  },

  describe: () => {
    const things = [server.client, ...[...workers.values()].map(({ worker }) => worker)];
    return { text: things.map((thing) => `${inspect(thing, { depth: 9, showHidden: true })} ${thing} ${JSON.stringify(thing)}`).join("\n") };
  },

  declare: async ({ kinds }) => {
    for (const { name, ...definition } of kinds) await server.client.declare(name, withoutNulls(definition));
    return {};
  },

  enqueue: async ({ kind, payload, options }) => {
    const { id, duplicate } = await server.client.enqueue(kind, payload, optionsOf(options));
    return { id, duplicate };
  },

  enqueue_many: async ({ jobs, idempotency_key }) => {
    const requests = jobs.map(({ kind, payload, options }) => ({ ...optionsOf(options), kind, payload }));
    const handles = await server.client.enqueueMany(requests, { idempotencyKey: idempotency_key ?? undefined });
    return { ids: handles.map(({ id }) => id) };
  },

  wait: async ({ job, timeout_seconds }) => {
    const ended = await server.client.job(job).ended({ timeoutSeconds: timeout_seconds });
    return { state: ended.state, result: ended.result ?? null, error: ended.errors.at(-1)?.message ?? null };
  },

  cancel: async ({ job }) => {
    await server.client.job(job).cancel();
    return {};
  },

  "worker.start": async (command) => {
    const app = new App(server);
    for (const kind of command.kinds) app.job(kind, { queue: command.queues[0] }, handle);
    const name = command.worker ?? "main";
    const worker = new Worker(app, {
      name,
      queues: command.queues,
      concurrency: command.concurrency,
      graceSeconds: command.grace_seconds ?? undefined,
      heldLimit: command.held_limit ?? undefined,
      signals: command.signals ?? false,
      logger,
    });
    const ended = worker.run();
    ended.catch(() => undefined);
    await worker.start();
    workers.set(name, { worker, ended });
    if (command.signals) void ended.finally(() => process.exit(0));
    return { worker_id: worker.stats.workerId };
  },

  "worker.stats": (command) => {
    const { workerId, running, held, heldLimit } = workerOf(command).worker.stats;
    return { worker_id: workerId, running, held, held_limit: heldLimit };
  },

  "worker.stop": async (command) => {
    await workerOf(command).worker.stop({ graceSeconds: command.grace_seconds ?? undefined });
    return {};
  },

  "worker.wait": async (command) => ({ reason: await workerOf(command).ended }),
};

function workerOf({ worker }) {
  const name = worker ?? "main";
  if (!workers.has(name)) throw new Error(`there is no worker ${name}`);
  return workers.get(name);
}

function withoutNulls(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null && value !== undefined));
}

/** The options of `POST /v1/jobs` in the words of this client. */
function optionsOf(options) {
  const { run_at, delay_seconds, expires_at, max_attempts, timeout_seconds, unique_key, limit_key, idempotency_key, then, ...same } = withoutNulls(options ?? {});
  return {
    ...same,
    runAt: run_at,
    delaySeconds: delay_seconds,
    expiresAt: expires_at,
    maxAttempts: max_attempts,
    timeoutSeconds: timeout_seconds,
    uniqueKey: unique_key,
    limitKey: limit_key,
    idempotencyKey: idempotency_key,
    then: then && { kind: then.kind, payload: then.payload, ...optionsOf(without(then, "kind", "payload")) },
  };
}

function without(fields, ...names) {
  return Object.fromEntries(Object.entries(fields).filter(([name]) => !names.includes(name)));
}

// --- The handler ----------------------------------------------------------------------------------------------------

const executions = new Map();

async function handle(payload, ctx) {
  const record = (word) => payload.record && appendFile(payload.record, `${ctx.id} ${ctx.attempt} ${word}\n`);
  await record("start");
  if (payload.hold) {
    while (!existsSync(payload.hold)) {
      if (ctx.cancelled) {
        await record("cancelled");
        throw ctx.signal.reason;
      }
      await sleep(50);
    }
  }
  const result = await behaviours[payload.do](payload, ctx, record);
  await record("end");
  return result;
}

const behaviours = {
  echo: ({ value }) => value,
  fail: ({ message, times }, ctx) => {
    if (ctx.attempt <= times) throw new Error(message);
    return "recovered";
  },
  discard: ({ message }) => {
    throw new Discard(message);
  },
  snooze: ({ seconds, times }, ctx) => {
    const count = (executions.get(ctx.id) ?? 0) + 1;
    executions.set(ctx.id, count);
    if (count <= times) throw new Snooze({ after: seconds });
    return "awake";
  },
  retry_after: ({ seconds }, ctx) => {
    if (ctx.attempt === 1) throw new Retry("later", { after: seconds });
    return "retried";
  },
  sleep: async ({ seconds }) => {
    await sleep(seconds * 1000);
    return "slept";
  },
  block: ({ seconds, idle }) => {
    if (idle) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, seconds * 1000);
    const end = performance.now() + seconds * 1000;
    while (!idle && performance.now() < end);
    return "blocked";
  },
  wait_cancel: async ({ seconds }, ctx, record) => {
    try {
      await sleep(seconds * 1000, undefined, { signal: ctx.signal });
    } catch (error) {
      await record("cancelled");
      throw error;
    }
    return "not cancelled";
  },
  progress: async ({ values, every_seconds }, ctx) => {
    for (const [index, value] of values.entries()) {
      if (index > 0 && every_seconds) await sleep(every_seconds * 1000);
      ctx.progress(value);
    }
    return values.at(-1);
  },
  log: ({ lines }, ctx) => {
    for (const line of lines) ctx.log(line);
    return lines.length;
  },
  context: (_payload, ctx) => ({
    job: ctx.id,
    kind: ctx.kind,
    queue: ctx.queue,
    attempt: ctx.attempt,
    max_attempts: ctx.maxAttempts,
    deadline_seconds: ctx.deadlineSeconds,
    traceparent: ctx.traceparent ?? null,
    previous_result: ctx.previousResult ?? null,
    batch: ctx.batch ?? null,
  }),
  big: ({ bytes }) => "x".repeat(bytes),
  exit: () => process.exit(7),
};

// --- The protocol ---------------------------------------------------------------------------------------------------

function errorOf(error) {
  const message = String(error?.message ?? error);
  if (error instanceof Unsupported) return { type: "unsupported", message };
  if (error instanceof WaitTimeoutError) return { type: "wait-timeout", message };
  if (error instanceof ConfigurationError || error instanceof PayloadError) return { type: "invalid", message };
  if (error instanceof ConnectionError) return { type: "unavailable", message };
  if (error instanceof ApiError) {
    const { status, title, detail, errors, retryAfterSeconds } = error;
    const type = error.type === "about:blank" ? "unavailable" : error.slug;
    return { type, message, status, title, detail, errors, retry_after: retryAfterSeconds };
  }
  return { type: "internal", message: error?.stack ?? message };
}

async function carryOut({ id, do: name, ...command }) {
  try {
    const run = commands[name];
    if (run === undefined) throw new Unsupported(`there is no command ${name}`);
    say({ id, ok: await run(command) });
  } catch (error) {
    say({ id, error: errorOf(error) });
  }
}

const lines = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY });
lines.on("line", (line) => void carryOut(JSON.parse(line)));
lines.on("close", () => process.exit(0));
