// Jobs that are enqueued in a transaction of PostgreSQL, with `pg`, against a private PostgreSQL and a real server.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import pg from "pg";
import { z } from "zod";
import { App, enqueueIn, enqueueManyIn } from "@holdfast/client";
import { Worker } from "@holdfast/client/worker";
import { postgres, postgresPrograms } from "./postgres.mjs";
import { realServer, silent, withoutServer } from "./support.mjs";

const missing = withoutServer || (postgresPrograms() === undefined && "there is no PostgreSQL on this machine");

describe("in a transaction", { skip: missing }, () => {
  const app = new App({ queue: "media" });
  const make = app.job("thumbnail.make", { schema: z.object({ n: z.number() }) }, ({ n }) => n * 2);
  let database, server, worker, connection, isOlder;

  before(async () => {
    database = await postgres();
    server = await realServer({ DATABASE_URL: database.url });
    process.env.HOLDFAST_URL = server.url;
    await app.declare();
    worker = new Worker(app, { logger: silent });
    await worker.start();
    connection = new pg.Client({ connectionString: database.url });
    await connection.connect();
    isOlder = (await connection.query("SELECT to_regnamespace('holdfast') IS NULL AS older")).rows[0].older;
  });

  after(async () => {
    await connection?.end();
    await worker?.stop();
    await server?.close();
    await database?.close();
  });

  async function within(end, work) {
    await connection.query("BEGIN");
    try {
      return await work();
    } finally {
      await connection.query(end);
    }
  }

  it("a job runs if the transaction commits, and there never was one if it is rolled back", async (t) => {
    if (isOlder) return t.skip("this holdfast has no SQL functions");
    const lost = await within("ROLLBACK", () => make.enqueueIn(connection, { n: 1 }));
    const id = await within("COMMIT", () => make.enqueueIn(connection, { n: 21 }, { maxAttempts: 2 }));
    await app.client.ring("media");
    assert.equal(await app.client.job(id).wait({ timeoutSeconds: 30 }), 42);
    assert.equal((await app.client.job(id).show()).max_attempts, 2);
    await assert.rejects(app.client.job(lost).show(), { slug: "job-not-found" });
  });

  it("many jobs are enqueued in order, and those with a key once", async (t) => {
    if (isOlder) return t.skip("this holdfast has no SQL functions");
    const requests = [1, 2, 3].map((n) => ({ kind: "thumbnail.make", payload: { n }, idempotencyKey: `key-${n}` }));
    const ids = await within("COMMIT", () => enqueueManyIn(connection, requests));
    assert.deepEqual(await Promise.all(ids.map((id) => app.client.job(id).wait({ timeoutSeconds: 30 }))), [2, 4, 6]);
    assert.deepEqual(await within("COMMIT", () => enqueueManyIn(connection, requests)), ids);
  });

  it("what the function refuses is an error of the database that names the field", async (t) => {
    if (isOlder) return t.skip("this holdfast has no SQL functions");
    const refused = (work) => within("ROLLBACK", () => work().then(() => undefined, ({ constraint, column }) => [constraint, column]));
    assert.deepEqual(await refused(() => make.enqueueIn(connection, { n: 1 }, { priority: "urgent" })), ["invalid-field", "priority"]);
    assert.deepEqual(await refused(() => enqueueIn(connection, "no.such", {})), ["unknown-kind", "kind"]);
  });
});
