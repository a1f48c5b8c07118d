/**
 * Enqueuing inside a transaction of your own: the SQL functions `holdfast.enqueue` and `holdfast.enqueue_many`, which Holdfast's migrations
 * install in PostgreSQL. If the transaction commits the jobs run; if it is rolled back there never were any.
 *
 * What the functions refuse is an error of the database: its `constraint` is the problem's type, such as `unknown-kind`, its `column` the
 * field. It ends the transaction. A payload's schema is checked here, by `JobKind.enqueueIn`, and by the server before the first attempt.
 *
 * Workers see such jobs at their next poll, within 250 ms, or within 5 s where there is Redis. `Client.ring` after the commit wakes them.
 */
import { type JobRequest, type JobSettings, bodyOf, defined, payloadText, settingsOf } from "./enqueue.js";
import { ConfigurationError } from "./errors.js";

/** A connection with an open transaction: of `pg`, or anything with the same `query`. */
export interface Queryable {
  query(text: string, values: unknown[]): PromiseLike<{ readonly rows: readonly unknown[] }>;
}

/** A statement with parameters, for clients with another interface. The column `id` of its rows is a `uuid`: see {@link jobIdOf}. */
export interface Statement {
  readonly text: string;
  readonly values: string[];
}

/** Follow-ups (`then`) are enqueued over HTTP only. */
export interface SqlSettings extends Omit<JobSettings, "then"> {
  /** The same key enqueues the same job once, over SQL. */
  readonly idempotencyKey?: string | undefined;
  /** The W3C trace context that the job continues. */
  readonly traceparent?: string | undefined;
}

/** The call of `holdfast.enqueue`. @throws PayloadError if the payload is not JSON */
export function enqueueStatement(kind: string, payload: unknown, settings: SqlSettings = {}): Statement {
  checkKind(kind, settings);
  const options = JSON.stringify(optionsOf(settings));
  return { text: "SELECT holdfast.enqueue($1::text, $2::json, $3::jsonb) AS id", values: [kind, payloadText(kind, payload), options] };
}

/** The call of `holdfast.enqueue_many`: one row for each job, in the order of the requests. */
export function enqueueManyStatement(requests: readonly (SqlSettings & Pick<JobRequest, "kind" | "payload">)[]): Statement {
  const jobs = requests.map((request) => {
    checkKind(request.kind, request);
    const options = JSON.stringify(defined({ idempotency_key: request.idempotencyKey, traceparent: request.traceparent })).slice(1, -1);
    return options === "" ? bodyOf(request) : `${bodyOf(request).slice(0, -1)},${options}}`;
  });
  return { text: 'SELECT id FROM holdfast.enqueue_many($1::json) ORDER BY "position"', values: [`[${jobs.join(",")}]`] };
}

/** Enqueues a job in the transaction that `transaction` has open. @returns the job's id */
export async function enqueueIn(transaction: Queryable, kind: string, payload: unknown, settings: SqlSettings = {}): Promise<string> {
  const [id] = await idsOf(transaction, enqueueStatement(kind, payload, settings), 1);
  return id as string;
}

/** Enqueues many jobs: all of them, or none. @returns their ids in the order of the requests */
export async function enqueueManyIn(
  transaction: Queryable,
  requests: readonly (SqlSettings & Pick<JobRequest, "kind" | "payload">)[],
): Promise<string[]> {
  return requests.length === 0 ? [] : idsOf(transaction, enqueueManyStatement(requests), requests.length);
}

async function idsOf(transaction: Queryable, { text, values }: Statement, count: number): Promise<string[]> {
  const { rows } = await transaction.query(text, values);
  const ids = rows.map((row) => (row as { id?: unknown }).id);
  if (ids.length !== count || !ids.every((id) => typeof id === "string")) {
    throw new ConfigurationError("holdfast.enqueue has not returned the job's id: is this a connection to PostgreSQL?");
  }
  return ids.map(jobIdOf);
}

const BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** A job's id as the API writes it (a ULID), of the `uuid` that the SQL functions return. They are the same 128 bits. */
export function jobIdOf(uuid: string): string {
  const digits = uuid.replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/i.test(digits)) return uuid;
  let rest = BigInt(`0x${digits}`);
  let id = "";
  for (let place = 0; place < 26; place += 1) {
    id = BASE32.charAt(Number(rest & 31n)) + id;
    rest >>= 5n;
  }
  return id;
}

function optionsOf(settings: SqlSettings) {
  return { ...settingsOf(settings), ...defined({ idempotency_key: settings.idempotencyKey, traceparent: settings.traceparent }) };
}

function checkKind(kind: unknown, settings: object): void {
  if (typeof kind !== "string" || kind === "") throw new ConfigurationError("a job needs a kind: the name of what it does");
  if ("then" in settings && settings.then !== undefined) {
    throw new ConfigurationError("follow-up jobs (then) are enqueued over HTTP, not in a transaction");
  }
}
