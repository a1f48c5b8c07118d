import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type } from "arktype";
import * as v from "valibot";
import { z } from "zod";
import { App, ConfigurationError, Discard, JobFailedError, PayloadError, Retry, Snooze, enqueueIn, enqueueManyIn, enqueueManyStatement, enqueueStatement, jsonSchemaOf } from "@holdfast/client";

describe("schemas", () => {
  const schemas = {
    zod: z.object({ url: z.string(), width: z.number().default(100) }),
    valibot: v.object({ url: v.string(), width: v.optional(v.number(), 100) }),
    arktype: type({ url: "string", width: "number = 100" }),
  };

  for (const [name, schema] of Object.entries(schemas)) {
    it(`of ${name} check payloads before they are enqueued and before the handler`, async () => {
      const app = new App({ queue: "media" });
      const seen = [];
      const make = app.job("make", { schema }, (payload) => void seen.push(payload));
      const testing = app.testing();
      await make.enqueue({ url: "a" });
      await assert.rejects(make.enqueue({ url: 5 }), (error) => error instanceof PayloadError && error.issues[0].path === "url");
      await assert.rejects(make.enqueueMany([{ url: "b" }, {}]), PayloadError);
      assert.equal(testing.jobs().length, 1);
      await app.client.enqueue("make", { url: 5 });
      await testing.run();
      assert.deepEqual(seen, [{ url: "a", width: 100 }]);
      assert.equal(testing.jobs()[1].state, "discarded");
    });
  }

  it("of zod and arktype say themselves as JSON Schema of what is enqueued", () => {
    for (const schema of [schemas.zod, schemas.arktype]) {
      const json = jsonSchemaOf(schema);
      assert.deepEqual(json.required, ["url"]);
      assert.equal(json.properties.url.type, "string");
      assert.equal(json.$schema, undefined);
    }
    assert.equal(jsonSchemaOf(z.object({ at: z.date() })), undefined, "a date has no JSON Schema");
  });

  it("given explicitly come first", () => {
    const app = new App({ queue: "q" });
    const kind = app.job("a", { schema: schemas.zod, jsonSchema: { type: "object" }, timeoutSeconds: 5, retry: { maxAttempts: 2 }, redact: ["/url"] });
    assert.deepEqual(kind.definition(), { queue: "q", timeout_seconds: 5, retry: { max_attempts: 2 }, payload_schema: { type: "object" }, redact: ["/url"] });
  });
});

describe("an app", () => {
  it("needs a queue for each kind, and each kind once", () => {
    const app = new App();
    assert.throws(() => app.job("a"), ConfigurationError);
    app.job("a", { queue: "q" });
    assert.throws(() => app.job("a", { queue: "q" }), ConfigurationError);
  });
});

describe("the testing mode", () => {
  it("runs jobs, their chains and their retries without a server", async () => {
    const app = new App({ queue: "q" });
    const double = app.job("double", {}, ({ n }, ctx) => {
      if (ctx.attempt === 1) throw new Retry("first", { after: 3600 });
      ctx.progress({ percent: 50 });
      ctx.log("half");
      return n * 2;
    });
    const report = app.job("report", {}, (_, ctx) => ctx.previousResult + 1);
    const testing = app.testing();
    const job = await double.enqueue({ n: 4 }, { then: await report.request({}) });
    assert.equal(await job.wait(), 8);
    const [first, second] = testing.jobs();
    assert.deepEqual([first.attempt, first.errors, first.progress, first.log], [2, ["first"], [{ percent: 50 }], ["half"]]);
    assert.deepEqual([second.kind, second.result], ["report", 9]);
  });

  it("ends attempts as the server does", async () => {
    const app = new App({ queue: "q" });
    const fail = app.job("fail", { retry: { maxAttempts: 2 } }, () => {
      throw new Error("boom");
    });
    const discard = app.job("discard", {}, () => {
      throw new Discard("never");
    });
    let naps = 0;
    const snooze = app.job("snooze", {}, (_, ctx) => {
      naps += 1;
      if (naps < 3) throw new Snooze(60);
      return ctx.attempt;
    });
    const testing = app.testing();
    await assert.rejects((await fail.enqueue({})).wait(), JobFailedError);
    await assert.rejects((await discard.enqueue({})).wait(), /never/);
    assert.equal(await (await snooze.enqueue({})).wait(), 1);
    assert.equal(testing.jobs("fail")[0].attempt, 2);
    assert.equal(testing.jobs("discard")[0].attempt, 1);
  });

  it("keeps unique and idempotency keys, cancels, and is left", async () => {
    const app = new App({ queue: "q", url: "http://127.0.0.1:1" });
    const kind = app.job("a", {}, () => 1);
    const before = app.client;
    const testing = app.testing();
    const one = await kind.enqueue({}, { uniqueKey: "u" });
    assert.equal((await kind.enqueue({}, { uniqueKey: "u" })).id, one.id);
    assert.ok((await kind.enqueue({}, { uniqueKey: "u" })).duplicate);
    await one.cancel();
    assert.equal(await testing.run(), 0);
    const two = await kind.enqueue({}, { idempotencyKey: "i" });
    assert.equal((await kind.enqueue({}, { idempotencyKey: "i" })).id, two.id);
    testing.restore();
    assert.equal(app.client, before);
  });
});

describe("SQL", () => {
  // The same 128 bits, as the server writes both.
  const [UUID, ULID] = ["01a22bc6-4572-36c4-90ca-74e6c075d5da", "01M8NWCHBJ6V291JKMWV07BNET"];

  it("passes kind, payload and options as parameters", () => {
    const statement = enqueueStatement("it's", { a: "'; DROP" }, { delaySeconds: 5, idempotencyKey: "k" });
    assert.match(statement.text, /holdfast\.enqueue\(\$1::text, \$2::json, \$3::jsonb\)/);
    assert.deepEqual(statement.values, ["it's", `{"a":"'; DROP"}`, '{"delay_seconds":5,"idempotency_key":"k"}']);
    const many = enqueueManyStatement([{ kind: "a", payload: 1, priority: "low", idempotencyKey: "k" }, { kind: "b" }]);
    assert.deepEqual(JSON.parse(many.values[0]), [{ kind: "a", payload: 1, priority: "low", idempotency_key: "k" }, { kind: "b", payload: null }]);
    assert.throws(() => enqueueStatement("a", {}, { then: { kind: "b" } }), ConfigurationError);
  });

  it("returns the job's id as the API writes it, and checks the payload first", async () => {
    const asked = [];
    const transaction = { query: async (text, values) => (asked.push([text, values]), { rows: [{ id: UUID }] }) };
    const app = new App({ queue: "q" });
    const kind = app.job("a", { schema: z.object({ n: z.number() }) });
    assert.equal(await kind.enqueueIn(transaction, { n: 1 }), ULID);
    assert.deepEqual(await enqueueManyIn(transaction, [{ kind: "a" }]), [ULID]);
    assert.deepEqual(await enqueueManyIn(transaction, []), []);
    await assert.rejects(kind.enqueueIn(transaction, { n: "1" }), PayloadError);
    assert.equal(asked.length, 2);
    await assert.rejects(enqueueIn({ query: async () => ({ rows: [] }) }, "a", {}), ConfigurationError);
  });
});
