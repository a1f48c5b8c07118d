/** One call of a handler, and the outcome that it means. Shared by the worker and the testing mode. */
import type { EndedBatchView, PulledJob } from "./api-types.js";
import type { JobContext } from "./context.js";
import { PayloadError } from "./errors.js";
import { NotJsonError, cut, jsonOf, wellFormed } from "./json.js";
import { Discard, Retry, Snooze, type StopCause, Stopped } from "./outcomes.js";

/** How an attempt ended, in the API's words. `result` is JSON text. */
export type Outcome =
  | { readonly verb: "completed"; readonly result: string | undefined }
  | { readonly verb: "failed"; readonly error: string; readonly after?: number | undefined }
  | { readonly verb: "discard"; readonly error: string }
  | { readonly verb: "snooze"; readonly after?: number | undefined }
  | { readonly verb: "cancelled" };

/** What is stored of an error, in bytes; the server's limit. */
const MAX_ERROR_BYTES = 4_096;

/** Causes of an error that are told. */
const MAX_CAUSES = 5;

/** Longest progress of one job, in bytes; the server's limit. */
const MAX_PROGRESS_BYTES = 65_536;

/** Where a handler's progress and lines go. */
export interface News {
  /** JSON text. */
  progress(job: string, value: string): void;
  log(job: string, line: string): void;
}

export class ExecutionContext implements JobContext {
  readonly #job: PulledJob;
  readonly #news: News;
  /** Made when the handler first asks for it: most never do. */
  #abort: AbortController | undefined;
  #stopped: Stopped | undefined;

  constructor(job: PulledJob, news: News) {
    this.#job = job;
    this.#news = news;
  }

  get id(): string {
    return this.#job.id;
  }
  get kind(): string {
    return this.#job.kind;
  }
  get queue(): string {
    return this.#job.queue;
  }
  get attempt(): number {
    return this.#job.attempt;
  }
  get maxAttempts(): number {
    return this.#job.max_attempts;
  }
  get deadlineSeconds(): number {
    return this.#job.deadline_seconds;
  }
  get traceparent(): string | undefined {
    return this.#job.headers?.traceparent ?? undefined;
  }
  get previousResult(): unknown {
    return this.#job.previous_result;
  }
  get batch(): string | undefined {
    return this.#job.batch ?? undefined;
  }
  get endedBatch(): EndedBatchView | undefined {
    return this.#job.ended_batch ?? undefined;
  }

  get cancelled(): boolean {
    return this.#stopped !== undefined;
  }
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#stopped !== undefined) this.#abort.abort(this.#stopped);
    }
    return this.#abort.signal;
  }

  progress(value: unknown): void {
    const text = jsonOf(value);
    if (new TextEncoder().encode(text).length > MAX_PROGRESS_BYTES) {
      throw new RangeError(`the progress of a job may have ${MAX_PROGRESS_BYTES} bytes as JSON`);
    }
    this.#news.progress(this.id, text);
  }

  log(line: string): void {
    this.#news.log(this.id, cut(wellFormed(String(line)), MAX_ERROR_BYTES));
  }

  /** Why the handler was asked to stop. */
  get why(): StopCause | undefined {
    return this.#stopped?.why;
  }

  /** Asks the handler to stop. The first reason counts. @internal */
  stop(why: StopCause, reason: string): void {
    if (this.#stopped !== undefined) return;
    this.#stopped = new Stopped(why, reason);
    this.#abort?.abort(this.#stopped);
  }
}

/** Something that runs payloads: a `JobKind`. */
export interface Runnable {
  run(payload: unknown, ctx: JobContext): unknown;
}

/** Calls the handler. Never rejects. */
export async function execute(kind: Runnable, job: PulledJob, ctx: ExecutionContext): Promise<Outcome> {
  try {
    return completed(await kind.run(job.payload, ctx));
  } catch (error) {
    return failure(error, ctx.why);
  }
}

function completed(result: unknown): Outcome {
  try {
    return { verb: "completed", result: result === undefined ? undefined : jsonOf(result) };
  } catch (error) {
    if (!(error instanceof NotJsonError)) throw error;
    // It would be no JSON the next time either.
    return { verb: "discard", error: `the handler's result ${error.message}` };
  }
}

/** What an error of a handler means. */
function failure(error: unknown, why: StopCause | undefined): Outcome {
  if (error instanceof Retry) return { verb: "failed", error: described(error, false), after: error.after };
  if (error instanceof Discard) return { verb: "discard", error: described(error, false) };
  if (error instanceof Snooze) return { verb: "snooze", after: error.after };
  // The same payload will be refused in every attempt.
  if (error instanceof PayloadError) return { verb: "discard", error: described(error, false) };
  if (why === "cancelled") return { verb: "cancelled" };
  return { verb: "failed", error: described(error, true) };
}

function described(error: unknown, stack: boolean): string {
  const texts: string[] = [];
  for (let cause = error; cause !== undefined && texts.length < MAX_CAUSES; cause = cause instanceof Error ? cause.cause : undefined) {
    texts.push(textOf(cause, stack));
  }
  return cut(wellFormed(texts.join("\ncaused by: ")), MAX_ERROR_BYTES);
}

/** The message comes first: lists of jobs show the first line. */
function textOf(error: unknown, stack: boolean): string {
  if (!(error instanceof Error)) return stringOf(error);
  const head = error.name === "Error" || !stack ? error.message || error.name : `${error.name}: ${error.message}`;
  const frames = stack ? (error.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line)) : [];
  return [head, ...frames].join("\n");
}

function stringOf(value: unknown): string {
  try {
    return typeof value === "string" ? value : (JSON.stringify(value) ?? String(value));
  } catch {
    return "a value that is not JSON was thrown";
  }
}
