/**
 * One registration of a worker: its id at the server, the jobs that it holds, and their outcomes.
 *
 * States: current (it pulls) → retiring (its id is worn: another one pulls, this one ends its jobs, and is deleted) → ended. Or → gone:
 * the server does not know it any more. What it runs is void then; its outcomes are still sent, because some may have been stored by a
 * request whose reply was lost, and the server says of each what became of it.
 *
 * # Invariants
 * - `held` has every job that was pulled and whose outcome is not answered. It is the `have` of every pull, so no job is given twice.
 * - A job that is pulled again with the same fence while it is held is ignored: it was on its way twice.
 * - A job that is pulled with another fence while it is held was lost in between, and given to this worker again. The first attempt is
 *   void; the second one runs.
 * - A heartbeat's answer is about the time when the heartbeat was made. It counts for attempts that had begun by then: a later attempt of
 *   the same job is not concerned (`serial`).
 */
import type { HeartbeatAnswer, PulledJob, PulledJobs, RegisteredWorker } from "../api-types.js";
import type { Outcome, Runnable } from "../execution.js";
import { Attempt, HANDED_BACK } from "./attempt.js";
import type { WorkerCalls } from "./calls.js";
import type { Logger } from "./log.js";
import { type Bulletin, NewsDesk } from "./news.js";
import { type HeldOutcome, Outbox, outcomeText } from "./outbox.js";

interface HeldJob {
  readonly fence: string;
  readonly serial: number;
  /** Until its outcome is decided. */
  readonly attempt: Attempt | undefined;
}

export interface SessionEvents {
  kindOf(name: string): Runnable | undefined;
  /** A number larger than all before. */
  nextSerial(): number;
  started(attempt: Attempt): void;
  settled(attempt: Attempt, returned: boolean): void;
  /** Jobs or outcomes have become fewer. */
  changed(): void;
  /** To be given to the session it came from, and to the worker. */
  answered(session: Session, answer: HeartbeatAnswer, serial: number): void;
  failed(error: unknown): void;
}

/** Handlers are called for so long in one turn of the event loop. */
const LONGEST_TURN_MS = 20;

/** How long a job is put back for which there is no handler, in seconds: what the server does for kinds that were not registered. */
const UNKNOWN_KIND_SECONDS = 15;

export class Session {
  readonly id: string;
  readonly heartbeatMs: number;
  readonly lostAfterMs: number;
  readonly #calls: WorkerCalls;
  readonly #events: SessionEvents;
  readonly #log: Logger;
  readonly #held = new Map<string, HeldJob>();
  readonly #outbox: Outbox;
  readonly #news: NewsDesk;
  readonly #ending = new AbortController();
  #pulling: AbortController | undefined;
  #isGone = false;

  constructor(registered: RegisteredWorker, calls: WorkerCalls, events: SessionEvents, log: Logger) {
    this.id = registered.id;
    // An older or a newer server may leave them out.
    this.heartbeatMs = secondsOr(registered.heartbeat_seconds, 5) * 1000;
    this.lostAfterMs = secondsOr(registered.lost_after_seconds, 15) * 1000;
    this.#calls = calls;
    this.#events = events;
    this.#log = log;
    this.#news = new NewsDesk((bulletin) => this.#report(bulletin), log);
    this.#outbox = new Outbox(
      {
        send: (texts, outcomes, signal) => this.#finish(texts, outcomes, signal),
        answered: (outcome) => this.#answered(outcome),
        failed: (error) => events.failed(error),
      },
      log,
    );
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  /** Outcomes that the server has not answered. */
  get outcomes(): number {
    return this.#outbox.size;
  }

  /** Characters of these outcomes. */
  get outcomeCharacters(): number {
    return this.#outbox.characters;
  }

  /** Jobs that it holds. */
  get size(): number {
    return this.#held.size;
  }

  /** No job is held, and no outcome. */
  get isIdle(): boolean {
    return this.#held.size === 0 && this.#outbox.size === 0;
  }

  /** Every job that it holds. */
  have(): string[] {
    return [...this.#held.keys()];
  }

  /** Asks for jobs. One pull at a time: the one before is given up. */
  async pull(max: number, waitSeconds: number): Promise<Partial<PulledJobs>> {
    this.#pulling?.abort(new Error("another pull took its place"));
    const pulling = new AbortController();
    this.#pulling = pulling;
    try {
      return await this.#calls.pull(this.id, { max, waitSeconds, have: this.have(), signal: pulling.signal });
    } finally {
      if (this.#pulling === pulling) this.#pulling = undefined;
    }
  }

  /** Starts the attempts of pulled jobs. @param isStopping They go back instead */
  take(jobs: readonly PulledJob[], isStopping: boolean): void {
    const attempts: Attempt[] = [];
    for (const job of jobs) {
      const known = this.#held.get(job.id);
      if (known?.fence === job.fence) continue;
      known?.attempt?.stop("lost", "the job was given to this worker anew: its first lease was lost");
      const attempt = isStopping ? this.#handBack(job, HANDED_BACK) : this.#hold(job);
      if (attempt !== undefined) attempts.push(attempt);
    }
    // A handler may block the thread: everything that was pulled is known by then.
    this.#startAll(attempts);
  }

  /** Handlers that block one after the other let the event loop turn in between. */
  #startAll(attempts: readonly Attempt[]): void {
    const from = performance.now();
    for (const [index, attempt] of attempts.entries()) {
      attempt.start();
      if (performance.now() > from + LONGEST_TURN_MS) {
        setImmediate(() => this.#startAll(attempts.slice(index + 1)));
        return;
      }
    }
  }

  /** What a heartbeat was answered. @param serial Of the last attempt that had begun when the heartbeat was made */
  heard(answer: HeartbeatAnswer, serial: number): void {
    const concerned = (ids: readonly string[] | undefined) =>
      (ids ?? []).flatMap((id) => {
        const job = this.#held.get(id);
        return job !== undefined && job.serial <= serial ? [{ id, attempt: job.attempt }] : [];
      });
    for (const { attempt } of concerned(answer.cancel)) attempt?.stop("cancelled", "the job was cancelled");
    for (const { id, attempt } of concerned(answer.lost)) {
      // Without an attempt its outcome is on the way: the answer to that will say the same.
      if (attempt === undefined) continue;
      this.#log.warn("a job was lost to another worker (lease_lost): its handler is stopped, its outcome ignored", { "job.id": id });
      attempt.stop("lost", "the job is no longer this worker's");
    }
  }

  /** The server does not know the worker: everything that it runs is void. */
  lose(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#pulling?.abort(new Error("the worker's lease is lost"));
    for (const { attempt } of this.#held.values()) attempt?.stop("lost", "the worker's lease is lost");
    this.#news.close();
  }

  /** Resolves when every outcome is answered. */
  emptied(): Promise<void> {
    return this.#outbox.emptied();
  }

  /** Ends every call. Nothing is sent any more. */
  close(): void {
    this.#pulling?.abort(new Error("the worker ends"));
    this.#ending.abort(new Error("the worker ends"));
    this.#outbox.close();
    this.#news.close();
  }

  #hold(job: PulledJob): Attempt | undefined {
    const kind = this.#events.kindOf(job.kind);
    if (kind === undefined) {
      this.#log.warn("a job of an unknown kind is put back", { "job.id": job.id, "job.kind": job.kind });
      return this.#handBack(job, { verb: "snooze", after: UNKNOWN_KIND_SECONDS });
    }
    const attempt = new Attempt(job, this.#events.nextSerial(), kind, this.#news, {
      decided: (attempt, outcome) => this.#decided(attempt, outcome),
      settled: (attempt, returned) => this.#events.settled(attempt, returned),
    });
    this.#held.set(job.id, { fence: job.fence, serial: attempt.serial, attempt });
    this.#events.started(attempt);
    return attempt;
  }

  #handBack(job: PulledJob, outcome: Outcome): undefined {
    const serial = this.#events.nextSerial();
    this.#held.set(job.id, { fence: job.fence, serial, attempt: undefined });
    this.#outbox.add({ job: job.id, fence: job.fence, serial, text: outcomeText(job.id, job.fence, outcome) });
  }

  #decided({ job, serial }: Attempt, outcome: Outcome | undefined): void {
    if (outcome === undefined) {
      this.#release(job.id, serial);
      return;
    }
    if (this.#held.get(job.id)?.serial === serial) this.#held.set(job.id, { fence: job.fence, serial, attempt: undefined });
    this.#outbox.add({ job: job.id, fence: job.fence, serial, text: outcomeText(job.id, job.fence, outcome) });
  }

  #answered({ job, serial }: HeldOutcome): void {
    this.#release(job, serial);
  }

  #release(job: string, serial: number): void {
    if (this.#held.get(job)?.serial === serial) this.#held.delete(job);
    this.#events.changed();
  }

  async #finish(texts: readonly string[], outcomes: readonly HeldOutcome[], signal: AbortSignal) {
    await this.#news.flush(outcomes.map(({ job }) => job));
    const { outcomes: answers } = await this.#calls.finish(this.id, texts, signal);
    return answers;
  }

  /** A heartbeat with news. */
  async #report({ progress, lines }: Bulletin): Promise<void> {
    const serial = this.#events.nextSerial();
    const running = this.have();
    const held = new Set(running);
    const values = [...progress].filter(([job]) => held.has(job)).map(([job, value]) => `${JSON.stringify(job)}:${value}`);
    const log = JSON.stringify(lines);
    const body = `{"running":${JSON.stringify(running)},"progress":{${values.join(",")}},"log":${log}}`;
    const answer = await this.#calls.heartbeat(this.id, body, this.heartbeatMs, this.#ending.signal);
    this.#events.answered(this, answer, serial);
  }
}

function secondsOr(value: unknown, otherwise: number): number {
  return typeof value === "number" && value > 0 ? value : otherwise;
}
