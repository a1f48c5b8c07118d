/** How a handler ends other than by returning: it throws one of these, or any error. */
import { HoldfastError } from "./errors.js";

export interface RetryOptions extends ErrorOptions {
  /** Seconds until the next attempt. Default: as the kind's retry policy says. */
  readonly after?: number;
}

/** The attempt failed, and is to be tried again after a certain time. It counts as an attempt. */
export class Retry extends HoldfastError {
  override name = "Retry";
  readonly after: number | undefined;

  /** `new Retry({ after: 30 })`, or with a reason for people: `new Retry("rate limited", { after: 30 })`. */
  constructor(reason?: string | RetryOptions, options?: RetryOptions) {
    const given = typeof reason === "object" ? reason : options;
    super(typeof reason === "string" ? reason : "the handler asked for a retry", given);
    this.after = secondsOf("Retry", given?.after);
  }
}

/** The job can never succeed: it is not tried again, and becomes a dead letter with this reason. */
export class Discard extends HoldfastError {
  override name = "Discard";

  constructor(reason = "the handler discarded the job", options?: ErrorOptions) {
    super(reason, options);
  }
}

/** The job is to run again later, and this was no attempt. */
export class Snooze extends HoldfastError {
  override name = "Snooze";
  readonly after: number | undefined;

  /** @param after Seconds. Default: the server's, 15. */
  constructor(after?: number | { readonly after?: number }) {
    super("the handler snoozed the job");
    this.after = secondsOf("Snooze", typeof after === "object" ? after.after : after);
  }
}

function secondsOf(name: string, after: number | undefined): number | undefined {
  if (after !== undefined && !(after >= 0 && Number.isFinite(after))) {
    throw new RangeError(`${name}: after must be a number of seconds from 0, not ${after}`);
  }
  return after;
}

/** Why a handler is to stop: the reason of `ctx.signal`. */
export class Stopped extends HoldfastError {
  override name = "Stopped";
  readonly why: StopCause;

  constructor(why: StopCause, reason: string) {
    super(reason);
    this.why = why;
  }
}

/**
 * - `cancelled`: someone cancelled the job.
 * - `timeout`: the attempt took longer than its deadline.
 * - `lost`: the job is no longer this worker's; what the handler returns is ignored.
 * - `shutdown`: the worker ends, and the job goes back to its queue.
 */
export type StopCause = "cancelled" | "timeout" | "lost" | "shutdown";
