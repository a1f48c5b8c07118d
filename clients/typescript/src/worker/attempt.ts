/**
 * One attempt of a job: the handler's call, its deadline, and its end.
 *
 * States: new → running → decided (there is an outcome, or there will be none) → settled (the handler has returned, or is given up).
 * Usually the last two happen together. They do not if
 * - the deadline passes: the outcome is `failed` immediately. The handler is asked to stop, and keeps its place until it does.
 * - the job is lost to another worker: there is no outcome. The same.
 * - the job was cancelled: the handler is asked to stop and has {@link STOP_GRACE_MS} to decide; after that the outcome is `cancelled`.
 * - the worker ends: the same with the worker's own patience; what is not decided goes back to its queue.
 *
 * A handler cannot be ended from outside. One that does not stop is given up after {@link STOP_GRACE_MS}: its place is free again, and
 * what it returns is ignored.
 *
 * The deadline is a timer of the monotonic clock. If the event loop was blocked past it, the timer fires when the loop turns again; a
 * handler that returned in the meantime has completed.
 */
import type { PulledJob } from "../api-types.js";
import { ExecutionContext, type News, type Outcome, type Runnable, execute } from "../execution.js";
import type { StopCause } from "../outcomes.js";

/** How long a handler may go on after it was asked to stop. */
export const STOP_GRACE_MS = 10_000;

/** Longest delay of a timer; a longer one would fire immediately. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface AttemptEvents {
  /** Once. `undefined`: the job is not this worker's any more. */
  decided(attempt: Attempt, outcome: Outcome | undefined): void;
  /** Once, not before `decided`: the place is free. `false`: the handler was given up, and still runs. */
  settled(attempt: Attempt, returned: boolean): void;
}

/** What puts a job back into its queue without an attempt. */
export const HANDED_BACK: Outcome = { verb: "snooze", after: 0 };

export class Attempt {
  readonly job: PulledJob;
  /** Later attempts have larger ones. */
  readonly serial: number;
  readonly #context: ExecutionContext;
  readonly #events: AttemptEvents;
  readonly #kind: Runnable;
  #deadline: NodeJS.Timeout | undefined;
  #giveUp: NodeJS.Timeout | undefined;
  #isDecided = false;
  #isSettled = false;

  constructor(job: PulledJob, serial: number, kind: Runnable, news: News, events: AttemptEvents) {
    this.job = job;
    this.serial = serial;
    this.#events = events;
    this.#kind = kind;
    this.#context = new ExecutionContext(job, news);
  }

  /** Calls the handler, unless the attempt is to stop already. What it does before its first `await` happens here. */
  start(): void {
    if (this.#isSettled) return;
    if (this.#context.cancelled) return this.#end(true);
    this.#deadline = setTimeout(() => this.#expire(), Math.min(this.job.deadline_seconds * 1000, MAX_TIMER_MS));
    void execute(this.#kind, this.job, this.#context).then((outcome) => this.#returned(outcome));
  }

  /** Asks the handler to stop. The first reason counts, but for the loss of the job: that counts always. */
  stop(why: StopCause, reason: string): void {
    if (this.#isSettled) return;
    this.#context.stop(why, reason);
    if (why === "lost") this.#decide(undefined);
    this.#giveUp ??= setTimeout(() => this.giveUp(), STOP_GRACE_MS);
  }

  /** Waits for the handler no longer. */
  giveUp(): void {
    if (!this.#isSettled) this.#end(false);
  }

  #expire(): void {
    const seconds = this.job.deadline_seconds;
    const reason = `timed out: the attempt took longer than ${seconds} s`;
    const wasAsked = this.#context.cancelled;
    this.stop("timeout", reason);
    // A cancelled job is not one that failed.
    if (!wasAsked) this.#decide({ verb: "failed", error: reason });
  }

  #returned(outcome: Outcome): void {
    if (this.#isSettled) return;
    const isStopped = outcome.verb === "failed" && outcome.after === undefined && this.#context.why === "shutdown";
    this.#decide(isStopped ? HANDED_BACK : outcome);
    this.#settle(true);
  }

  /** Without a word of the handler. */
  #end(returned: boolean): void {
    this.#decide(this.#context.why === "cancelled" ? { verb: "cancelled" } : HANDED_BACK);
    this.#settle(returned);
  }

  #decide(outcome: Outcome | undefined): void {
    if (this.#isDecided) return;
    this.#isDecided = true;
    this.#events.decided(this, outcome);
  }

  #settle(returned: boolean): void {
    this.#isSettled = true;
    clearTimeout(this.#deadline);
    clearTimeout(this.#giveUp);
    this.#events.settled(this, returned);
  }
}
