/**
 * Jobs on a server, over HTTP.
 *
 * Every call here may be made twice: an enqueue carries an `Idempotency-Key`, and the others name a job. So all of them are repeated
 * while the server is unavailable.
 */
import type { Api, Patience } from "./api.js";
import type { AcceptedBatch, AcceptedJob, Job, SteeredJob } from "./api-types.js";
import { sleep } from "./backoff.js";
import { type Backend, type CallOptions, type EnqueueManyOptions, type EnqueueOptions, type JobRequest, bodyOf } from "./enqueue.js";
import { InvalidRequestError } from "./errors.js";

/** Most jobs of one request: the server's default. */
export const MAX_BATCH = 10_000;

/** Most characters of one request's jobs: 12 MiB at most in UTF-8. The server takes 16 MiB unless it is configured otherwise. */
const MAX_BATCH_CHARACTERS = 4 * 1024 * 1024;

/** Beside the time that a request may wait at the server. */
const MARGIN_MS = 10_000;

/** Between two looks at a job, where the server allows no waiting. */
const POLL_MS = 500;

export class ServerBackend implements Backend {
  readonly #api: Api;
  readonly #patience: Patience;
  readonly #timeoutMs: number;
  /** What the server has allowed, in seconds. */
  #longestWait = Number.POSITIVE_INFINITY;

  constructor(api: Api, patience: Patience, timeoutMs: number) {
    this.#api = api;
    this.#patience = patience;
    this.#timeoutMs = timeoutMs;
  }

  async enqueue(request: JobRequest, options: EnqueueOptions): Promise<{ id: string; duplicate: boolean }> {
    const headers = headersOf(options.idempotencyKey ?? newKey(), options.traceparent);
    const job = await this.#post<AcceptedJob>("/v1/jobs", bodyOf(request), headers, options.signal);
    return { id: job.id, duplicate: job.duplicate ?? false };
  }

  async enqueueMany(requests: readonly JobRequest[], options: EnqueueManyOptions): Promise<string[]> {
    const key = options.idempotencyKey ?? newKey();
    const ids: string[] = [];
    const parts = partsOf(requests.map(bodyOf));
    for (const [number, bodies] of parts.entries()) {
      // The parts of one call are the same for the same jobs, so a repeat under the same key finds each of them.
      const headers = headersOf(number === 0 ? key : `${key}.${number}`, options.traceparent);
      const body = `{"jobs":[${bodies.join(",")}]}`;
      const accepted = await this.#post<AcceptedBatch>("/v1/jobs/batch", body, headers, options.signal);
      for (const id of accepted.ids) ids.push(id);
    }
    return ids;
  }

  async show(id: string, waitSeconds: number, { signal }: CallOptions): Promise<Job> {
    const wait = Math.min(waitSeconds, this.#longestWait);
    const path = `/v1/jobs/${encodeURIComponent(id)}${wait > 0 ? `?wait=${wait}` : ""}`;
    const timeoutMs = wait * 1000 + MARGIN_MS;
    const patience = { ...this.#patience, totalMs: this.#patience.totalMs + wait * 1000 };
    try {
      const job = await this.#api.repeat<Job>({ method: "GET", path, timeoutMs, signal }, patience);
      if (waitSeconds > 0 && wait === 0 && job.finished_at == null) await sleep(Math.min(POLL_MS, waitSeconds * 1000), signal);
      return job;
    } catch (error) {
      if (wait === 0 || !(error instanceof InvalidRequestError) || error.field !== "wait") throw error;
      // `server.max_wait_seconds` is smaller.
      this.#longestWait = wait > 1 ? wait / 2 : 0;
      return this.show(id, waitSeconds, { signal });
    }
  }

  async cancel(id: string, { signal }: CallOptions): Promise<string> {
    return (await this.#post<SteeredJob>(`/v1/jobs/${encodeURIComponent(id)}/cancel`, undefined, {}, signal)).state;
  }

  async retry(id: string, { signal }: CallOptions): Promise<string> {
    return (await this.#post<SteeredJob>(`/v1/jobs/${encodeURIComponent(id)}/retry`, undefined, {}, signal)).state;
  }

  #post<T>(path: string, body: string | undefined, headers: Record<string, string>, signal: AbortSignal | undefined): Promise<T> {
    return this.#api.repeat<T>({ method: "POST", path, body, headers, timeoutMs: this.#timeoutMs, signal }, this.#patience);
  }
}

function newKey(): string {
  return crypto.randomUUID();
}

function headersOf(key: string, traceparent: string | undefined): Record<string, string> {
  return traceparent === undefined ? { "idempotency-key": key } : { "idempotency-key": key, traceparent };
}

function partsOf(bodies: readonly string[]): string[][] {
  const parts: string[][] = [];
  let characters = 0;
  for (const body of bodies) {
    const last = parts.at(-1);
    if (last === undefined || last.length >= MAX_BATCH || characters + body.length > MAX_BATCH_CHARACTERS) {
      parts.push([body]);
      characters = 0;
    } else {
      last.push(body);
    }
    characters += body.length;
  }
  return parts;
}
