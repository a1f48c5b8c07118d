/** A job that was enqueued. */
import type { Job } from "./api-types.js";
import { sleep } from "./backoff.js";
import type { Backend, CallOptions } from "./enqueue.js";
import { JobFailedError, WaitTimeoutError } from "./errors.js";

export interface WaitOptions extends CallOptions {
  /** Default: without end. */
  readonly timeoutSeconds?: number | undefined;
}

const FINAL = new Set(["completed", "discarded", "cancelled"]);

/** Longest wait of one request, in seconds. The server may allow less. */
const LONGEST_WAIT_SECONDS = 10;

/** An answer that comes in less than this was not waited for: the next request comes after a pause. */
const QUICK_MS = 200;

export class JobHandle<Result = unknown> {
  readonly id: string;
  /** It already existed under its idempotency key or unique key. Unknown, and false, for jobs of `enqueueMany`. */
  readonly duplicate: boolean;
  readonly #backend: Backend;

  /** @internal */
  constructor(backend: Backend, id: string, duplicate = false) {
    this.#backend = backend;
    this.id = id;
    this.duplicate = duplicate;
  }

  /** The job as the server has it. Needs the scope `read`. @throws NotFoundError */
  show(options: CallOptions = {}): Promise<Job> {
    return this.#backend.show(this.id, 0, options);
  }

  /**
   * Waits until the job has ended, and returns what its handler returned. Needs the scope `read:payload`; with `read` alone the result is
   * `"[redacted]"`.
   * @throws JobFailedError if it was discarded or cancelled, WaitTimeoutError after `timeoutSeconds`
   */
  async wait({ timeoutSeconds = Number.POSITIVE_INFINITY, signal }: WaitOptions = {}): Promise<Result> {
    const job = await this.ended({ timeoutSeconds, signal });
    if (job.state !== "completed") throw new JobFailedError(job);
    return job.result as Result;
  }

  /** Waits until the job has ended, however that is. Needs the scope `read`. @throws WaitTimeoutError */
  async ended({ timeoutSeconds = Number.POSITIVE_INFINITY, signal }: WaitOptions = {}): Promise<Job> {
    const end = performance.now() + timeoutSeconds * 1000;
    for (;;) {
      const askedAt = performance.now();
      const left = Math.max(0, (end - askedAt) / 1000);
      const job = await this.#backend.show(this.id, Math.min(left, LONGEST_WAIT_SECONDS), { signal });
      if (FINAL.has(job.state)) return job;
      if (performance.now() >= end) throw new WaitTimeoutError(this.id, timeoutSeconds);
      // A server that stops answers without waiting.
      if (performance.now() < askedAt + QUICK_MS) await sleep(Math.min(QUICK_MS, end - performance.now()), signal);
    }
  }

  /** A waiting job never runs; a running one is asked to stop. @returns the job's state: `cancelled`, or `running` until it stops */
  cancel(options: CallOptions = {}): Promise<string> {
    return this.#backend.cancel(this.id, options);
  }

  /** Makes a discarded or delayed job available now. @returns the job's state */
  retry(options: CallOptions = {}): Promise<string> {
    return this.#backend.retry(this.id, options);
  }

  toJSON(): string {
    return this.id;
  }
}
