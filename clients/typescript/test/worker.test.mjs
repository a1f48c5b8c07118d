// The parts of the worker, each with what can come late or twice. The worker as a whole is tested by the conformance suite.
import assert from "node:assert/strict";
import { after, before, describe, it, mock } from "node:test";
import { ApiError, App, Client, ConfigurationError, Discard, InvalidRequestError, NotFoundError, Retry, Snooze, UnavailableError } from "@holdfast/client";
import { Worker } from "@holdfast/client/worker";
import { ExecutionContext, execute } from "../dist/execution.js";
import { Attempt, STOP_GRACE_MS } from "../dist/worker/attempt.js";
import { NewsDesk } from "../dist/worker/news.js";
import { Outbox, outcomeText } from "../dist/worker/outbox.js";
import { Pacemaker } from "../dist/worker/pacemaker.js";
import { Session } from "../dist/worker/session.js";
import { Connection } from "../dist/connection.js";
import { DEADLINE_MS, eventually, fakeServer, recorder, silent } from "./support.mjs";

const GONE = new NotFoundError(404, { type: "urn:holdfast:problem:worker-not-found" });
const AWAY = new UnavailableError(503, {}, 0);

function pulled(id, fence = "0.0", more = {}) {
  return { id, fence, kind: "k", queue: "q", payload: {}, attempt: 1, max_attempts: 3, deadline_seconds: 60, headers: {}, ...more };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("an execution", () => {
  const run = (handler, stop) => {
    const context = new ExecutionContext(pulled("J"), { progress() {}, log() {} });
    if (stop) context.stop(...stop);
    return execute({ run: handler }, pulled("J"), context);
  };
  const fail = (error) => run(() => Promise.reject(error));

  it("means an outcome for everything that a handler returns or throws", async () => {
    assert.deepEqual(await run(() => ({ a: 1 })), { verb: "completed", result: '{"a":1}' });
    assert.deepEqual(await run(() => undefined), { verb: "completed", result: undefined });
    assert.equal((await run(() => 1n)).verb, "discard");
    assert.deepEqual(await fail(new Retry("later", { after: 5 })), { verb: "failed", error: "later", after: 5 });
    assert.deepEqual(await fail(new Discard("no")), { verb: "discard", error: "no" });
    assert.deepEqual(await fail(new Snooze({ after: 2 })), { verb: "snooze", after: 2 });
    assert.match((await fail(new TypeError("boom", { cause: new Error("why") }))).error, /^TypeError: boom\n[^]*caused by: why/);
    for (const thrown of [undefined, null, "text", { a: 1 }, 5n]) assert.equal((await fail(thrown)).verb, "failed");
    assert.ok((await fail(new Error("half a pair \ud83d, U+0000 \0"))).error.startsWith("half a pair \ufffd, U+0000 \ufffd\n"));
    assert.ok(Buffer.byteLength((await fail(new Error("é".repeat(9_000)))).error) <= 4_096);
  });

  it("is cancelled only if the job was", async () => {
    const stopped = (why) => run((_, ctx) => Promise.reject(ctx.signal.reason), [why, "because"]);
    assert.deepEqual(await stopped("cancelled"), { verb: "cancelled" });
    assert.equal((await stopped("timeout")).verb, "failed");
  });
});

describe("an attempt", () => {
  before(() => mock.timers.enable({ apis: ["setTimeout"] }));
  after(() => mock.timers.reset());

  function attemptOf(run, job = pulled("J")) {
    const seen = [];
    const events = { decided: (_, outcome) => seen.push(outcome?.verb ?? "void"), settled: (_, returned) => seen.push(returned ? "returned" : "given up") };
    const attempt = new Attempt(job, 1, { run }, { progress() {}, log() {} }, events);
    attempt.start();
    return { seen, attempt };
  }

  it("fails at its deadline, and keeps its place until the handler stops", async () => {
    const { seen } = attemptOf((_, ctx) => new Promise((_, reject) => ctx.signal.addEventListener("abort", () => setTimeout(reject, 100))));
    mock.timers.tick(60_000);
    assert.deepEqual(seen, ["failed"]);
    mock.timers.tick(100);
    await turn();
    assert.deepEqual(seen, ["failed", "returned"]);
  });

  it("gives a handler up that does not stop", () => {
    const { seen } = attemptOf(() => new Promise(() => undefined));
    mock.timers.tick(60_000);
    mock.timers.tick(STOP_GRACE_MS);
    assert.deepEqual(seen, ["failed", "given up"]);
  });

  it("waits for a cancelled handler, which may still complete", async () => {
    let complete;
    const { seen, attempt } = attemptOf(() => new Promise((resolve) => (complete = resolve)));
    attempt.stop("cancelled", "because");
    assert.deepEqual(seen, []);
    complete();
    await turn();
    assert.deepEqual(seen, ["completed", "returned"]);
  });

  it("is cancelled when the handler goes on, also past its deadline", () => {
    const { seen, attempt } = attemptOf(() => new Promise(() => undefined), pulled("J", "0.0", { deadline_seconds: 5 }));
    attempt.stop("cancelled", "because");
    mock.timers.tick(STOP_GRACE_MS);
    assert.deepEqual(seen, ["cancelled", "given up"]);
  });

  it("has no outcome once the job is lost, whatever it was asked before", async () => {
    let complete;
    const { seen, attempt } = attemptOf(() => new Promise((resolve) => (complete = resolve)));
    attempt.stop("cancelled", "because");
    attempt.stop("lost", "because");
    complete();
    await turn();
    assert.deepEqual(seen, ["void", "returned"]);
  });

  it("goes back to its queue if it fails because the worker ends", async () => {
    const { seen, attempt } = attemptOf((_, ctx) => new Promise((_, reject) => ctx.signal.addEventListener("abort", reject)));
    await turn();
    attempt.stop("shutdown", "because");
    await turn();
    assert.deepEqual(seen, ["snooze", "returned"]);
  });
});

describe("an outbox", () => {
  function outboxOf(send, log = silent) {
    const [sent, answered] = [[], []];
    const events = {
      send: async (texts) => {
        sent.push(texts);
        return send(texts);
      },
      answered: ({ job }) => answered.push(job),
      failed() {},
    };
    const outbox = new Outbox(events, log);
    const add = (...jobs) => jobs.forEach((job, n) => outbox.add({ job, fence: "0.0", serial: n, text: outcomeText(job, "0.0", { verb: "completed", result: '"r"' }) }));
    return { outbox, sent, answered, add };
  }
  const stored = (texts) => texts.map((text) => ({ job: JSON.parse(text).job, status: "stored" }));

  it("sends in one request what ends together", async () => {
    const { outbox, sent, add } = outboxOf(stored);
    add("a", "b", "c");
    await outbox.emptied();
    assert.deepEqual(sent.map(({ length }) => length), [3]);
  });

  it("holds outcomes while the server is unavailable, and repeats the same request", async () => {
    let failures = 2;
    const { outbox, sent, answered, add } = outboxOf((texts) => {
      if (failures-- > 0) throw AWAY;
      return stored(texts);
    });
    add("a");
    await turn();
    assert.equal(outbox.size, 1);
    await outbox.emptied();
    assert.deepEqual(sent[0], sent[2]);
    assert.deepEqual(answered, ["a"]);
  });

  it("finds the outcome that the server refuses, and puts a discard in its place", async () => {
    const refusal = new InvalidRequestError(413, { type: "urn:holdfast:problem:body-too-large", detail: "too large" });
    const { outbox, sent, answered, add } = outboxOf((texts) => {
      if (texts.some((text) => JSON.parse(text).job === "c" && JSON.parse(text).outcome === "completed")) throw refusal;
      return stored(texts);
    });
    add("a", "b", "c", "d", "e");
    await outbox.emptied();
    assert.deepEqual(answered.sort(), ["a", "b", "c", "d", "e"]);
    const last = sent.flat().map(JSON.parse).filter(({ job }) => job === "c").at(-1);
    assert.equal(last.outcome, "discard");
    assert.match(last.error, /too large/);
  });

  it("holds outcomes while something in between answers", async () => {
    let pages = [new InvalidRequestError(400, {}), new NotFoundError(404, {}), new ApiError(500, { type: "urn:holdfast:problem:internal" })];
    const { outbox, sent, answered, add } = outboxOf((texts) => {
      const page = pages.shift();
      if (page) throw page;
      return stored(texts);
    });
    add("a", "b");
    await outbox.emptied();
    assert.deepEqual(answered, ["a", "b"]);
    assert.equal(new Set(sent.map(String)).size, 1);
  });

  it("drops outcomes of lost leases, and says so", async () => {
    const log = recorder();
    const { outbox, answered, add } = outboxOf((texts) => texts.map((_, n) => ({ status: ["stored", "lease_lost", "unknown", "of-the-future"][n] })), log);
    add("a", "b", "c", "d");
    await outbox.emptied();
    assert.deepEqual(answered, ["a", "b", "c", "d"]);
    assert.deepEqual(log.lines.map((line) => line["job.id"]), ["b", "c", "d"]);
    const gone = outboxOf(() => Promise.reject(GONE), log);
    gone.add("x");
    await gone.outbox.emptied();
    assert.match(log.lines.at(-1).message, /lease_lost/);
  });

  it("sends nothing after it was closed", async () => {
    const { outbox, sent, add } = outboxOf(() => Promise.reject(AWAY));
    add("a");
    await turn();
    outbox.close();
    add("b");
    await turn();
    assert.deepEqual([sent.length, outbox.size], [1, 2]);
  });
});

describe("a session", () => {
  function sessionOf(run, calls = {}) {
    const finished = [];
    let serial = 0;
    const events = {
      kindOf: (name) => (name === "k" ? { run } : undefined),
      nextSerial: () => ++serial,
      started() {},
      settled() {},
      changed() {},
      answered() {},
      failed() {},
    };
    const finish = async (_, texts) => {
      finished.push(...texts.map((text) => JSON.parse(text)));
      return { outcomes: texts.map((text) => ({ job: JSON.parse(text).job, status: "stored" })) };
    };
    const session = new Session({ id: "W", heartbeat_seconds: 5, lost_after_seconds: 15 }, { finish, ...calls }, events, silent);
    return { session, finished, serial: () => serial };
  }

  const opened = [];
  after(() => opened.flat().forEach(({ resolve }) => resolve()));

  /** A handler that ends when the test says so, and at the end of the tests. */
  function controlled() {
    const calls = [];
    opened.push(calls);
    const run = (_, ctx) => new Promise((resolve, reject) => calls.push({ ctx, resolve, reject }));
    return { calls, run };
  }

  it("starts a job once that is given twice", async () => {
    const { calls, run } = controlled();
    const { session } = sessionOf(run);
    session.take([pulled("J")], false);
    session.take([pulled("J")], false);
    assert.equal(calls.length, 1);
    assert.deepEqual(session.have(), ["J"]);
  });

  it("knows every job of a pull before the first handler runs", () => {
    let known;
    const { session } = sessionOf(() => (known ??= session.have()));
    session.take([pulled("A"), pulled("B")], false);
    assert.deepEqual(known, ["A", "B"]);
  });

  it("lets the event loop turn between handlers that block it, and does not call one whose job was lost meanwhile", async () => {
    const called = [];
    const { session, serial } = sessionOf((_, ctx) => {
      called.push(ctx.id);
      for (const end = performance.now() + 50; performance.now() < end; );
    });
    session.take([pulled("A"), pulled("B"), pulled("C")], false);
    assert.deepEqual(called, ["A"]);
    session.heard({ lost: ["C"] }, serial());
    await eventually(() => session.isIdle, "A and B are answered");
    assert.deepEqual(called, ["A", "B"]);
  });

  it("names a job until its outcome is answered", async () => {
    let answer;
    const { calls, run } = controlled();
    const { session } = sessionOf(run, { finish: () => new Promise((resolve) => (answer = resolve)) });
    session.take([pulled("J")], false);
    calls[0].resolve();
    await eventually(() => answer, "the outcome is sent");
    assert.deepEqual(session.have(), ["J"]);
    answer({ outcomes: [{ job: "J", status: "stored" }] });
    await session.emptied();
    assert.deepEqual(session.have(), []);
  });

  it("stops the first attempt when the job comes again with another fence, and reports the second", async () => {
    const { calls, run } = controlled();
    const { session, finished } = sessionOf(run);
    session.take([pulled("J", "0.0")], false);
    session.take([pulled("J", "0.1")], false);
    assert.equal(calls[0].ctx.signal.reason.why, "lost");
    calls[0].resolve("first");
    calls[1].resolve("second");
    await eventually(() => session.isIdle, "the session is idle");
    assert.deepEqual(finished.map(({ fence, result }) => [fence, result]), [["0.1", "second"]]);
  });

  it("does not stop an attempt for a heartbeat that is older", async () => {
    const { calls, run } = controlled();
    const { session, serial } = sessionOf(run);
    session.take([pulled("J", "0.0")], false);
    const before = serial();
    calls[0].reject(new Retry({ after: 0 }));
    await eventually(() => session.isIdle, "the first attempt is answered");
    session.take([pulled("J", "1.0")], false);
    session.heard({ cancel: [], lost: ["J"], drain: false }, before);
    assert.ok(!calls[1].ctx.cancelled);
    session.heard({ cancel: ["J"], lost: [], drain: false }, serial());
    assert.equal(calls[1].ctx.signal.reason.why, "cancelled");
  });

  it("hands back what comes during a stop, and jobs that it has no handler for", async () => {
    const { calls, run } = controlled();
    const { session, finished } = sessionOf(run);
    session.take([pulled("A")], true);
    session.take([pulled("B", "0.0", { kind: "other" })], false);
    await eventually(() => session.isIdle, "both are handed back");
    assert.equal(calls.length, 0);
    assert.deepEqual(finished.map(({ job, outcome, retry_after_seconds }) => [job, outcome, retry_after_seconds]), [["A", "snooze", 0], ["B", "snooze", 15]]);
  });

  it("voids what runs when the server does not know it, and still sends outcomes that were decided", async () => {
    const { calls, run } = controlled();
    const { session, finished } = sessionOf(run);
    session.take([pulled("A"), pulled("B")], false);
    calls[0].resolve("decided");
    await Promise.resolve();
    await turn();
    session.lose();
    assert.equal(calls[1].ctx.signal.reason.why, "lost");
    calls[1].resolve("late");
    await eventually(() => session.isIdle, "the outcome is sent");
    assert.deepEqual(finished.map(({ job }) => job), ["A"]);
  });

  it("sends progress and lines of a job before its outcome", async () => {
    const order = [];
    const { session } = sessionOf((_, ctx) => (ctx.progress(1), ctx.progress(2), ctx.log("line"), "r"), {
      heartbeat: async (_, body) => (order.push(JSON.parse(body)), { cancel: [], lost: [], drain: false }),
      finish: async (_, texts) => (order.push("finish"), { outcomes: [{ status: "stored" }] }),
    });
    session.take([pulled("J")], false);
    await eventually(() => session.isIdle, "the job is answered");
    assert.deepEqual(order, [{ running: ["J"], progress: { J: 2 }, log: [{ job: "J", line: "line" }] }, "finish"]);
  });
});

describe("news", () => {
  it("are kept while the server is unavailable, and dropped when it refuses them", async () => {
    const sent = [];
    let error = AWAY;
    const desk = new NewsDesk(async (bulletin) => {
      sent.push(bulletin);
      if (error) throw error;
    }, silent);
    desk.progress("J", "1");
    await desk.flush(["J"]);
    desk.progress("J", "2");
    error = new InvalidRequestError(422, { type: "urn:holdfast:problem:invalid-field" });
    await desk.flush(["J"]);
    assert.deepEqual(sent.map(({ progress }) => [...progress]), [[["J", "1"]], [["J", "2"]]]);
    await desk.flush(["J"]);
    assert.equal(sent.length, 2);
    desk.close();
  });

  it("are bounded", async () => {
    const sent = [];
    const desk = new NewsDesk(async (bulletin) => void sent.push(bulletin), silent);
    for (let n = 0; n < 6_000; n += 1) desk.log("J", String(n));
    await desk.flush(["J"]);
    assert.equal(sent[0].lines.length, 1_000);
    assert.equal(sent[0].lines[0].line, "1000");
    desk.close();
  });
});

describe("the pacemaker", () => {
  /** With a server of its own. */
  async function pacemakerOf(t, events = {}, stuckMs = undefined, remainingMs = 60_000) {
    const server = await fakeServer();
    const snapshot = () => ({ serial: 1, sessions: [{ id: "W", heartbeatMs: 100, lostAfterMs: 300, running: [] }] });
    const log = recorder();
    const all = { snapshot, remainingMs: () => remainingMs, answered() {}, gone() {}, failed() {}, ...events };
    const pacemaker = new Pacemaker(new Connection(server.url, "k"), false, all, log, stuckMs);
    t.after(async () => {
      await pacemaker.stop();
      await server.close();
    });
    return { pacemaker, log, counts: server.counts, beats: () => Atomics.load(server.counts, 0) };
  }

  it("begins and goes on while the event loop is blocked", async (t) => {
    const { pacemaker, beats } = await pacemakerOf(t);
    pacemaker.update();
    for (const end = performance.now() + DEADLINE_MS; beats() < 3 && performance.now() < end; );
    assert.ok(beats() >= 3);
  });

  it("repeats a heartbeat that failed, and reports a session that is gone", async (t) => {
    const gone = [];
    const { pacemaker, log, counts, beats } = await pacemakerOf(t, { gone: (id) => gone.push(id) });
    Atomics.store(counts, 1, 1);
    pacemaker.update();
    await eventually(() => log.lines.length === 1, "the failure is logged");
    const before = beats();
    await eventually(() => beats() > before, "it is repeated");
    Atomics.store(counts, 2, 1);
    await eventually(() => gone.length > 0, "the session is gone");
  });

  it("gives the lease up when the event loop is blocked past every deadline", async (t) => {
    const { pacemaker, log, beats } = await pacemakerOf(t, {}, 300, 0);
    pacemaker.update();
    await eventually(() => beats() > 0, "the first heartbeat");
    // Blocked until there has been no heartbeat for a second.
    const end = performance.now() + DEADLINE_MS;
    for (let seen = -1, since = 0; performance.now() < Math.min(end, since + 1_000) || seen < 0; ) {
      if (beats() !== seen) [seen, since] = [beats(), performance.now()];
    }
    assert.ok(performance.now() < end);
    await eventually(() => log.lines.some(({ message }) => message.includes("past every deadline")), "it is logged");
  });

  it("starts another thread when one dies", async (t) => {
    const { pacemaker, log, beats } = await pacemakerOf(t);
    pacemaker.update();
    await eventually(() => beats() > 0, "the first heartbeat");
    await pacemaker.thread.terminate();
    const before = beats();
    await eventually(() => beats() > before + 1, "heartbeats of the next thread");
    assert.match(log.lines[0].message, /started again/);
  });
});

describe("a worker", () => {
  it("refuses options that mean nothing", () => {
    const app = new App({ queue: "q", url: "http://127.0.0.1:1" });
    assert.throws(() => new Worker(app), /no kind with a handler/);
    app.job("a", {}, () => 1);
    for (const options of [{ concurrency: 0 }, { concurrency: Number.NaN }, { concurrency: 1.5 }, { queues: [] }, { graceSeconds: -1 }, { heldLimit: 0 }]) {
      assert.throws(() => new Worker(app, options), ConfigurationError);
    }
  });

  it("takes the server and the key from its options, or else from the app", () => {
    const of = (options, ...given) => {
      const { base, ...rest } = new App(options).connection(...given);
      return [base, new App(options).connection(...given).headers().authorization, ...Object.keys(rest)];
    };
    const [a, b] = ["http://a", "http://b"];
    assert.deepEqual(of({ url: a, key: "1" }), [a, "Bearer 1"]);
    assert.deepEqual(of({ url: a, key: "1" }, undefined, "2"), [a, "Bearer 2"]);
    assert.deepEqual(of({ key: "1" }, b), [b, "Bearer 1"]);
    assert.deepEqual(of({ client: new Client({ url: a, key: "1" }) }, b), [b, "Bearer 1"]);
  });

  it("that is stopped while it registers ends", async () => {
    const app = new App({ queue: "q", url: "http://127.0.0.1:1" });
    app.job("a", {}, () => 1);
    const log = recorder();
    const worker = new Worker(app, { logger: log });
    const ended = worker.run();
    await eventually(() => log.lines.length > 0, "the first try has failed");
    await worker.stop();
    assert.equal(await ended, "stop");
  });

  it("registers, waits, and leaves", async () => {
    const server = await fakeServer();
    const app = new App({ queue: "q", url: server.url });
    app.job("a", {}, () => 1);
    const worker = new Worker(app, { logger: silent });
    await worker.start();
    assert.equal(worker.stats.workerId, "W");
    await worker.stop();
    await server.close();
  });
});
