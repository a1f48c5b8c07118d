/**
 * The testing mode: jobs are enqueued into memory and run in this process, when the test says so. `App.testing` starts it.
 *
 * Payloads and results go through JSON, as over the wire. Time is not waited for: delays, retries and snoozes are due as soon as
 * {@link Testing.run} comes to them. Unique and idempotency keys, attempts, chains (`then`) and dead letters are as on the server; limits,
 * batches and the order of priorities are not.
 */
import type { Job, PulledJob } from "./api-types.js";
import type { JobKind } from "./app.js";
import { type Backend, type CallOptions, type EnqueueOptions, type JobRequest, momentOf, payloadText } from "./enqueue.js";
import { HoldfastError } from "./errors.js";
import { ExecutionContext, type Outcome, execute } from "./execution.js";

/** A job in a test's memory. */
export interface TestJob {
  readonly id: string;
  readonly kind: string;
  readonly payload: unknown;
  /** How it was enqueued. */
  readonly request: JobRequest;
  readonly state: "available" | "running" | "completed" | "discarded" | "cancelled";
  /** Attempts with an outcome. */
  readonly attempt: number;
  readonly result: unknown;
  /** One for each failed attempt. */
  readonly errors: readonly string[];
  /** Every value that its handler reported. */
  readonly progress: readonly unknown[];
  readonly log: readonly string[];
}

type StoredJob = { -readonly [K in keyof TestJob]: TestJob[K] } & {
  errors: string[];
  progress: unknown[];
  log: string[];
  snoozes: number;
  previous: unknown;
  context: ExecutionContext | undefined;
};

/** Attempts of a job whose kind names none: the server's default. */
const MAX_ATTEMPTS = 4;

/** A job that snoozes more often than this would never end. */
const MAX_SNOOZES = 100;

/** Jobs that one `run` runs at most: handlers that enqueue their own kind would never end. */
const MAX_RUNS = 10_000;

const FINAL: ReadonlySet<string> = new Set(["completed", "discarded", "cancelled"]);

export class Testing {
  readonly #kinds: ReadonlyMap<string, JobKind>;
  readonly #restore: () => void;
  readonly #jobs: StoredJob[] = [];
  readonly #keys = new Map<string, StoredJob>();

  /** @internal */
  constructor(kinds: ReadonlyMap<string, JobKind>, restore: () => void) {
    this.#kinds = kinds;
    this.#restore = restore;
  }

  /** Every job that was enqueued, in order, or those of one kind. */
  jobs(kind?: string): readonly TestJob[] {
    return this.#jobs.filter((job) => kind === undefined || job.kind === kind);
  }

  /** Runs jobs one after the other until none waits, those included that handlers enqueue. @returns how many attempts were made */
  async run(): Promise<number> {
    for (let runs = 0; ; runs += 1) {
      const job = this.#jobs.find(({ state }) => state === "available");
      if (job === undefined) return runs;
      if (runs === MAX_RUNS) throw new HoldfastError(`more than ${MAX_RUNS} jobs were run, and more wait: does a job enqueue itself?`);
      await this.#attempt(job);
    }
  }

  /** Forgets every job. */
  clear(): void {
    this.#jobs.length = 0;
    this.#keys.clear();
  }

  /** Ends the testing mode: the app enqueues at the server again. */
  restore(): void {
    this.#restore();
  }

  [Symbol.dispose](): void {
    this.restore();
  }

  /** @internal */
  get backend(): Backend {
    return {
      enqueue: async (request, options) => this.#enqueue(request, options),
      enqueueMany: async (requests, { idempotencyKey }) =>
        requests.map((request, index) => {
          const key = idempotencyKey === undefined ? undefined : `${idempotencyKey} ${index}`;
          return this.#enqueue(request, { idempotencyKey: key }).id;
        }),
      show: async (id, waitSeconds) => {
        if (waitSeconds > 0 && !FINAL.has(this.#job(id).state)) await this.run();
        return viewOf(this.#job(id));
      },
      cancel: async (id, _options: CallOptions) => {
        const job = this.#job(id);
        if (job.state === "available") job.state = "cancelled";
        job.context?.stop("cancelled", "the job was cancelled");
        return job.state;
      },
      retry: async (id, _options: CallOptions) => {
        const job = this.#job(id);
        if (job.state === "discarded") job.state = "available";
        return job.state;
      },
    };
  }

  #job(id: string): StoredJob {
    const job = this.#jobs.find((job) => job.id === id);
    if (job === undefined) throw new HoldfastError(`no job ${id} was enqueued in this test`);
    return job;
  }

  #enqueue(request: JobRequest, options: EnqueueOptions, previous?: unknown): { id: string; duplicate: boolean } {
    const known = this.#known(request, options);
    if (known !== undefined) return { id: known.id, duplicate: true };
    const payload: unknown = JSON.parse(payloadText(request.kind, request.payload));
    const { idempotencyKey: _key, traceparent: _trace, signal: _signal, ...settings } = request as EnqueueOptions & JobRequest;
    const job: StoredJob = {
      id: crypto.randomUUID(),
      kind: request.kind,
      payload,
      request: settings,
      state: "available",
      attempt: 0,
      result: undefined,
      errors: [],
      progress: [],
      log: [],
      snoozes: 0,
      previous,
      context: undefined,
    };
    this.#jobs.push(job);
    if (options.idempotencyKey !== undefined) this.#keys.set(options.idempotencyKey, job);
    return { id: job.id, duplicate: false };
  }

  #known({ kind, uniqueKey }: JobRequest, { idempotencyKey }: EnqueueOptions): StoredJob | undefined {
    if (idempotencyKey !== undefined && this.#keys.has(idempotencyKey)) return this.#keys.get(idempotencyKey);
    if (uniqueKey === undefined) return undefined;
    return this.#jobs.find((job) => job.kind === kind && job.request.uniqueKey === uniqueKey && !FINAL.has(job.state));
  }

  async #attempt(job: StoredJob): Promise<void> {
    const kind = this.#kinds.get(job.kind);
    if (kind === undefined) throw new HoldfastError(`the app has no kind ${job.kind}`);
    const pulled = pulledOf(job, kind);
    const news = {
      progress: (_id: string, value: string) => void job.progress.push(JSON.parse(value)),
      log: (_id: string, line: string) => void job.log.push(line),
    };
    job.state = "running";
    job.context = new ExecutionContext(pulled, news);
    const outcome = await execute(kind, pulled, job.context);
    job.context = undefined;
    this.#store(job, outcome, pulled.max_attempts);
  }

  #store(job: StoredJob, outcome: Outcome, maxAttempts: number): void {
    if (outcome.verb === "snooze") {
      job.snoozes += 1;
      if (job.snoozes > MAX_SNOOZES) throw new HoldfastError(`the job ${job.id} (${job.kind}) snoozed ${MAX_SNOOZES} times`);
      job.state = "available";
      return;
    }
    job.attempt += 1;
    if (outcome.verb === "completed") {
      job.state = "completed";
      job.result = outcome.result === undefined ? null : JSON.parse(outcome.result);
      if (job.request.then !== undefined) this.#enqueue(job.request.then, {}, job.result);
    } else if (outcome.verb === "cancelled") {
      job.state = "cancelled";
    } else {
      job.errors.push(outcome.error);
      job.state = outcome.verb === "failed" && job.attempt < maxAttempts ? "available" : "discarded";
    }
  }
}

function pulledOf(job: StoredJob, kind: JobKind): PulledJob {
  const { queue, retry, timeout_seconds } = kind.definition();
  return {
    id: job.id,
    kind: job.kind,
    queue: job.request.queue ?? queue,
    payload: structuredClone(job.payload),
    attempt: job.attempt + 1,
    max_attempts: job.request.maxAttempts ?? retry?.max_attempts ?? MAX_ATTEMPTS,
    fence: "",
    deadline_seconds: job.request.timeoutSeconds ?? timeout_seconds ?? 300,
    headers: {},
    previous_result: job.previous,
  };
}

function viewOf(job: StoredJob): Job {
  const now = new Date().toISOString();
  return {
    id: job.id,
    kind: job.kind,
    queue: job.request.queue ?? "testing",
    state: job.state,
    priority: job.request.priority ?? "normal",
    durability: "ledger",
    payload: job.payload,
    attempt: job.attempt,
    max_attempts: job.request.maxAttempts ?? MAX_ATTEMPTS,
    crashes: 0,
    timeout_seconds: job.request.timeoutSeconds ?? 300,
    run_at: now,
    expires_at: momentOf("expiresAt", job.request.expiresAt) ?? null,
    tags: [...(job.request.tags ?? [])],
    created_at: now,
    finished_at: FINAL.has(job.state) ? now : null,
    result: job.result,
    progress: job.progress.at(-1),
    errors: job.errors.map((message, index) => ({ at: now, attempt: index + 1, class: "transient", message })),
    cancel_requested: job.state === "cancelled",
  };
}
