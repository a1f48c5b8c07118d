import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { inspect } from "node:util";
import {
  Client, ConfigurationError, ConnectionError, ForbiddenError, InvalidRequestError, JobFailedError, PayloadError, RequestTimeoutError,
  UnavailableError, WaitTimeoutError,
} from "@holdfast/client";
import { problem, scripted } from "./support.mjs";

const URL_ = "http://jobs.example.com";
const ACCEPTED = { status: 202, body: { id: "J1", duplicate: false } };

function clientOf(...answers) {
  const { transport, requests } = scripted(...answers);
  return { client: new Client({ url: URL_, key: "secret-key", transport, ...answers.options }), requests };
}

const bodies = (requests) => requests.map(({ body }) => JSON.parse(body));

describe("the connection", () => {
  it("refuses a URL with credentials and does not repeat them", () => {
    assert.throws(
      () => new Client({ url: "https://ada:hunter2@jobs.example.com" }),
      (error) => error instanceof ConfigurationError && !error.message.includes("hunter2"),
    );
  });

  it("refuses URLs of other schemes, with queries, and text that is no URL", () => {
    for (const url of ["ftp://jobs.example.com", "https://jobs.example.com?key=1", "jobs", ""]) {
      assert.throws(() => new Client({ url }), ConfigurationError);
    }
  });

  it("keeps a path that the server is behind", async () => {
    const { transport, requests } = scripted(ACCEPTED);
    await new Client({ url: "https://example.com/jobs/", transport }).enqueue("k");
    assert.equal(requests[0].url, "https://example.com/jobs/v1/jobs");
  });

  it("takes the server and the key from the environment", async () => {
    const before = { ...process.env };
    Object.assign(process.env, { HOLDFAST_URL: "http://from.env", HOLDFAST_API_KEY: "env-key" });
    const { transport, requests } = scripted(ACCEPTED);
    await new Client({ transport }).enqueue("k");
    process.env = before;
    assert.equal(requests[0].url, "http://from.env/v1/jobs");
    assert.equal(requests[0].headers.authorization, "Bearer env-key");
  });

  it("refuses a key that cannot be a header, without showing it", () => {
    assert.throws(
      () => new Client({ url: URL_, key: "abc\ndef" }),
      (error) => error instanceof ConfigurationError && !error.message.includes("abc"),
    );
  });

  it("shows the key nowhere", () => {
    const { client } = clientOf(ACCEPTED);
    const shown = inspect(client, { depth: 9, showHidden: true }) + JSON.stringify(client) + String(client) + inspect(client.connection);
    assert.ok(!shown.includes("secret-key"));
  });
});

describe("enqueue", () => {
  it("sends the settings in the API's words, and leaves out what is not given", async () => {
    const { client, requests } = clientOf(ACCEPTED);
    const runAt = new Date("2030-01-02T03:04:05Z");
    const expiresAt = new Date("2030-01-03T00:00:00Z");
    await client.enqueue("a", { x: 1 }, { queue: "q", runAt, expiresAt, maxAttempts: 3, uniqueKey: "u", tags: ["vip"], then: { kind: "b", delaySeconds: 2 } });
    assert.deepEqual(bodies(requests), [{
      kind: "a",
      payload: { x: 1 },
      queue: "q",
      run_at: "2030-01-02T03:04:05.000Z",
      expires_at: "2030-01-03T00:00:00.000Z",
      max_attempts: 3,
      unique_key: "u",
      tags: ["vip"],
      then: { kind: "b", payload: null, delay_seconds: 2 },
    }]);
  });

  it("repeats a call whose reply was lost under the same idempotency key", async () => {
    const { client, requests } = clientOf(new ConnectionError("lost"), { status: 503 }, ACCEPTED);
    const job = await client.enqueue("a");
    assert.equal(job.id, "J1");
    const keys = requests.map(({ headers }) => headers["idempotency-key"]);
    assert.equal(keys.length, 3);
    assert.equal(new Set(keys).size, 1);
    await client.enqueue("a");
    assert.notEqual(requests[3].headers["idempotency-key"], keys[0]);
  });

  it("does not repeat what would be refused again, and says what is wrong", async () => {
    const { client, requests } = clientOf(problem(422, "invalid-payload", { field: "payload.x", errors: [{ field: "payload.x", reason: "no" }] }));
    await assert.rejects(client.enqueue("a"), (error) => {
      assert.ok(error instanceof InvalidRequestError);
      assert.equal(error.type, "urn:holdfast:problem:invalid-payload");
      assert.deepEqual([error.status, error.field, error.errors], [422, "payload.x", [{ field: "payload.x", reason: "no" }]]);
      return true;
    });
    assert.equal(requests.length, 1);
  });

  it("waits as long as Retry-After says, and gives up when that is beyond its patience", async () => {
    const { transport, requests } = scripted({ status: 503, retryAfter: "60" });
    const client = new Client({ url: URL_, transport, totalSeconds: 1 });
    await assert.rejects(client.enqueue("a"), UnavailableError);
    assert.equal(requests.length, 1);
  });

  it("ends after its number of tries", async () => {
    const { transport, requests } = scripted(new ConnectionError("refused"));
    await assert.rejects(new Client({ url: URL_, transport, tries: 3 }).enqueue("a"), ConnectionError);
    assert.equal(requests.length, 3);
  });

  it("ends a try that takes too long", async () => {
    const never = ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    const { transport } = scripted(never);
    await assert.rejects(new Client({ url: URL_, transport, tries: 1, timeoutSeconds: 0.05 }).enqueue("a"), RequestTimeoutError);
  });

  it("ends when its signal is aborted", async () => {
    const { client } = clientOf(({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))));
    const reason = new Error("enough");
    const abort = new AbortController();
    const call = client.enqueue("a", {}, { signal: abort.signal });
    abort.abort(reason);
    await assert.rejects(call, reason);
    await assert.rejects(client.enqueue("a", {}, { signal: abort.signal }), reason);
  });

  it("refuses what is not JSON and numbers that are none, before it sends anything", async () => {
    const { client, requests } = clientOf(ACCEPTED);
    const loop = {};
    loop.self = loop;
    for (const payload of [1n, loop, () => 1, Symbol("x")]) await assert.rejects(client.enqueue("a", payload), PayloadError);
    await assert.rejects(client.enqueue("a", {}, { delaySeconds: Number.NaN }), ConfigurationError);
    await assert.rejects(client.enqueue("a", {}, { runAt: new Date("no") }), ConfigurationError);
    await assert.rejects(client.enqueue("a", {}, { expiresAt: new Date("no") }), /expiresAt is an invalid date/);
    await assert.rejects(client.enqueue(""), ConfigurationError);
    assert.equal(requests.length, 0);
  });

  it("names a proxy's page without repeating it", async () => {
    const { client } = clientOf({ status: 403, body: "<html>secret</html>" });
    await assert.rejects(client.enqueue("a"), (error) => error instanceof ForbiddenError && error.type === "about:blank");
  });
});

describe("enqueueMany", () => {
  it("sends more jobs than one request may have in several, each under its own key", async () => {
    const accept = ({ body }) => ({ status: 202, body: { ids: JSON.parse(body).jobs.map(({ payload }) => `J${payload}`) } });
    const { client, requests } = clientOf(accept);
    const jobs = await client.enqueueMany(Array.from({ length: 25_000 }, (_, n) => ({ kind: "a", payload: n })), { idempotencyKey: "day-1" });
    assert.deepEqual(jobs.map(({ id }) => id), Array.from({ length: 25_000 }, (_, n) => `J${n}`));
    assert.deepEqual(requests.map(({ headers }) => headers["idempotency-key"]), ["day-1", "day-1.1", "day-1.2"]);
  });

  it("sends nothing for no jobs", async () => {
    const { client, requests } = clientOf(ACCEPTED);
    assert.deepEqual(await client.enqueueMany([]), []);
    assert.equal(requests.length, 0);
  });
});

describe("wait", () => {
  const job = (state, more = {}) => ({ body: { id: "J1", kind: "a", state, errors: [], result: null, finished_at: null, ...more } });

  it("asks until the job has ended, and returns its result", async () => {
    const { client, requests } = clientOf(job("available"), new ConnectionError("lost"), job("completed", { result: { ok: true } }));
    assert.deepEqual(await client.job("J1").wait(), { ok: true });
    assert.equal(requests.length, 3);
  });

  it("ends with the job if that was discarded", async () => {
    const { client } = clientOf(job("discarded", { errors: [{ message: "boom\n at x" }] }));
    await assert.rejects(client.job("J1").wait(), (error) => error instanceof JobFailedError && error.message.endsWith("boom") && error.job.id === "J1");
  });

  it("ends after its time", async () => {
    const { client } = clientOf(job("running"));
    await assert.rejects(client.job("J1").wait({ timeoutSeconds: 0.05 }), WaitTimeoutError);
  });

  it("asks more often where the server lets nobody wait", async () => {
    const answer = ({ url }) => (url.includes("?wait=") ? problem(400, "invalid-parameter", { field: "wait" }) : job("completed", { result: 7 }));
    const { client, requests } = clientOf(answer);
    assert.equal(await client.job("J1").wait(), 7);
    assert.ok(requests.length < 10);
  });
});
