/**
 * Enqueuing inside a transaction of your own: the SQL function `holdfast.enqueue(kind, payload, options)`, which Holdfast's migrations
 * install in PostgreSQL. If the transaction commits the job runs; if it is rolled back there never was one.
 *
 * Workers see such a job at their next look at the database, a quarter of a second later at most; `Client.ring` after the commit makes
 * them look at once.
 */
import { type JobSettings, bodyOf, defined, payloadText, settingsOf } from "./enqueue.js";
import { ConfigurationError } from "./errors.js";

/** A connection with an open transaction: of `pg`, or anything with the same `query`. */
export interface Queryable {
  query(text: string, values: unknown[]): PromiseLike<{ readonly rows: readonly unknown[] }>;
}

/** A statement with parameters, for clients with another interface. It returns one row with the column `id`. */
export interface Statement {
  readonly text: string;
  readonly values: [kind: string, payload: string, options: string];
}

export interface SqlSettings extends JobSettings {
  /** The same key enqueues the same job once. */
  readonly idempotencyKey?: string | undefined;
}

/** The call of `holdfast.enqueue`. @throws PayloadError if the payload is not JSON */
export function enqueueStatement(kind: string, payload: unknown, settings: SqlSettings = {}): Statement {
  if (typeof kind !== "string" || kind === "") throw new ConfigurationError("a job needs a kind: the name of what it does");
  const options = {
    ...settingsOf(settings),
    ...defined({ idempotency_key: settings.idempotencyKey, then: settings.then && JSON.parse(bodyOf(settings.then)) }),
  };
  return {
    text: "SELECT holdfast.enqueue($1::text, $2::json, $3::jsonb) AS id",
    values: [kind, payloadText(kind, payload), JSON.stringify(options)],
  };
}

/** Enqueues a job in the transaction that `transaction` has open. @returns the job's id */
export async function enqueueIn(transaction: Queryable, kind: string, payload: unknown, settings: SqlSettings = {}): Promise<string> {
  const { text, values } = enqueueStatement(kind, payload, settings);
  const { rows } = await transaction.query(text, values);
  const id = (rows[0] as { id?: unknown } | undefined)?.id;
  if (typeof id !== "string") throw new ConfigurationError("holdfast.enqueue has returned no id: is the connection one of PostgreSQL?");
  return id;
}
