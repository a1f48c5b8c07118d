/** What a job is enqueued with, and how that is written as the API's JSON. */
import type { Job, NewJob } from "./api-types.js";
import { ConfigurationError, PayloadError } from "./errors.js";
import { NotJsonError, jsonOf } from "./json.js";

/** How a job is to run. Every field has the server's default. */
export interface JobSettings {
  /** Default: the kind's queue. */
  readonly queue?: string | undefined;
  /** Not before this time; a text is RFC 3339. Not together with `delaySeconds`. */
  readonly runAt?: Date | string | undefined;
  /** Not before so many seconds from now, by the database's clock. */
  readonly delaySeconds?: number | undefined;
  /** The job is cancelled if it has not begun by then; a text is RFC 3339. Not for a follow-up (`then`). */
  readonly expiresAt?: Date | string | undefined;
  readonly priority?: "high" | "normal" | "low" | undefined;
  /** 1 to 100, the first attempt included. */
  readonly maxAttempts?: number | undefined;
  /** Longest duration of one attempt, in seconds; at most a day. */
  readonly timeoutSeconds?: number | undefined;
  /** At most one job of its kind with this key waits or runs; a further one is answered with the first. */
  readonly uniqueKey?: string | undefined;
  /** The key for limits by key, such as a customer's id. */
  readonly limitKey?: string | undefined;
  /** Words by which the job is found (`tag:vip`): at most 8, each once, of 1 to 64 characters. */
  readonly tags?: readonly string[] | undefined;
  /** Enqueued when this job completes, in the same transaction. */
  readonly then?: JobRequest | undefined;
}

/** A job to be enqueued: `kind.request(payload)` makes one with a checked payload. */
export interface JobRequest extends JobSettings {
  readonly kind: string;
  /** Any JSON. */
  readonly payload?: unknown;
}

/** How the call is made. */
export interface CallOptions {
  /** Ends the call: it rejects with the signal's reason. The job may have been enqueued. */
  readonly signal?: AbortSignal | undefined;
}

export interface EnqueueOptions extends JobSettings, CallOptions {
  /**
   * The same key enqueues the same job once, also from another process. Default: a random key for each call, so that a repeat after a
   * lost reply makes no second job. 1 to 200 printable ASCII characters.
   */
  readonly idempotencyKey?: string | undefined;
  /** The W3C trace context that the job continues. */
  readonly traceparent?: string | undefined;
}

export type EnqueueManyOptions = Pick<EnqueueOptions, "idempotencyKey" | "traceparent" | "signal">;

/** What stands behind a `Client`: the server, or a test's memory. */
export interface Backend {
  enqueue(request: JobRequest, options: EnqueueOptions): Promise<{ id: string; duplicate: boolean }>;
  /** Ids in the order of the requests. */
  enqueueMany(requests: readonly JobRequest[], options: EnqueueManyOptions): Promise<string[]>;
  /** Answers when the job is final, or after the wait. */
  show(id: string, waitSeconds: number, options: CallOptions): Promise<Job>;
  cancel(id: string, options: CallOptions): Promise<string>;
  retry(id: string, options: CallOptions): Promise<string>;
}

/** The body of `POST /v1/jobs`. @throws PayloadError if the payload is not JSON, ConfigurationError for what is no setting */
export function bodyOf(request: JobRequest): string {
  const { kind, payload, then } = request;
  if (typeof kind !== "string" || kind === "") throw new ConfigurationError("a job needs a kind: the name of what it does");
  const fields = [`"kind":${JSON.stringify(kind)}`, `"payload":${payloadText(kind, payload)}`];
  const settings = JSON.stringify(settingsOf(request)).slice(1, -1);
  if (settings !== "") fields.push(settings);
  if (then !== undefined) fields.push(`"then":${bodyOf(then)}`);
  return `{${fields.join(",")}}`;
}

/** The settings in the API's words; those that are not given are left to the server, which may be older than a setting. */
export function settingsOf(settings: JobSettings): Omit<NewJob, "kind" | "payload" | "then"> {
  return defined({
    queue: settings.queue,
    run_at: momentOf("runAt", settings.runAt),
    delay_seconds: numberOf("delaySeconds", settings.delaySeconds),
    expires_at: momentOf("expiresAt", settings.expiresAt),
    priority: settings.priority,
    max_attempts: numberOf("maxAttempts", settings.maxAttempts),
    timeout_seconds: numberOf("timeoutSeconds", settings.timeoutSeconds),
    unique_key: settings.uniqueKey,
    limit_key: settings.limitKey,
    tags: settings.tags === undefined ? undefined : [...settings.tags],
  });
}

export function payloadText(kind: string, payload: unknown): string {
  try {
    return jsonOf(payload);
  } catch (error) {
    if (!(error instanceof NotJsonError)) throw error;
    throw new PayloadError(kind, [{ path: "", message: error.message }], { cause: error });
  }
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

export function defined<T extends object>(fields: T): Defined<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Defined<T>;
}

export function momentOf(name: string, moment: Date | string | undefined): string | undefined {
  if (!(moment instanceof Date)) return moment;
  if (Number.isNaN(moment.getTime())) throw new ConfigurationError(`${name} is an invalid date`);
  return moment.toISOString();
}

/** JSON has no NaN and no infinity: they would be sent as null, and mean the default. */
function numberOf(name: string, value: number | undefined): number | undefined {
  if (value !== undefined && !Number.isFinite(value)) throw new ConfigurationError(`${name} must be a number, not ${value}`);
  return value;
}
