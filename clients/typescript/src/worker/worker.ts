/**
 * Runs an app's jobs: registers with the server, pulls, calls handlers, reports outcomes.
 *
 * # States
 * registering → running → draining → ended. Draining begins with `stop()`, a signal, an order of the server, or an error that no try
 * can mend (the key was revoked, the queue was deleted).
 *
 * # Parts
 * - The worker (here): its places, the loop of pulls, and how it ends.
 * - A `Session` for each registration: the jobs that it holds, and an `Outbox` with their outcomes. There is one, and more only while an id
 *   is exchanged for another.
 * - The `Pacemaker`: heartbeats, from a thread of their own.
 *
 * # Invariants
 * - One pull at a time, of one session, for as many jobs as there are free places. None while {@link WorkerOptions.heldLimit} outcomes
 *   wait to be answered.
 * - What was pulled is run or handed back. What has run is reported until the server has answered.
 * - Times are durations of the monotonic clock.
 *
 * # What if a step is late, not absent
 * - *A registration's reply is lost*: the worker registers again. The server forgets the other id, which was given no jobs.
 * - *A signal comes during the registration*: the call is given up. If it still has its effect, see above.
 * - *A pull is given up (no answer in time), and claims jobs afterwards*: they are leased to this worker and not in the `have` of its next
 *   pull, which is given them. Its reply goes to a closed connection.
 * - *A stop comes during a pull*: the pull goes on while handlers do, and jobs that it brings are handed back at once, without an attempt. If
 *   the worker ends first, its deletion hands back what the pull has claimed.
 * - *An outcome's request had its effect, but not in time*: it is repeated, and answered `stored`.
 * - *The order to drain comes twice, or after a stop*: it changes nothing.
 *
 * # When things fail
 * - *The server is unavailable*: handlers go on, outcomes are held, pulls and heartbeats are repeated with growing random delays, at least
 *   as long as `Retry-After` says.
 * - *The worker was silent for too long* (`worker-not-found`): its attempts are void, their signals are aborted; it registers again.
 * - *The process is killed*: the server notices after `lost_after_seconds`, and its jobs return with one crash each.
 */
import { Api } from "../api.js";
import type { HeartbeatAnswer, NewWorker, PulledJobs } from "../api-types.js";
import type { App, JobKind } from "../app.js";
import { type Backoff, delayMs, sleep } from "../backoff.js";
import type { Connection } from "../connection.js";
import { messageOf, retryAfterMs } from "../errors.js";
import type { Attempt } from "./attempt.js";
import { Bell } from "./bell.js";
import { WorkerCalls, isDenied, isGone, isTemporary } from "./calls.js";
import { type Logger, lineLogger } from "./log.js";
import { type NodeTransport, nodeTransport } from "./node-transport.js";
import { MAX_HELD, type WorkerOptions, registrationOf, secondsOf, whole } from "./options.js";
import { Pacemaker } from "./pacemaker.js";
import type { Snapshot } from "./pacemaker-protocol.js";
import { Session } from "./session.js";

/** Why a worker has ended: the server's order, `stop()`, or a signal. */
export type EndReason = "drain" | "stop" | "signal";

export interface WorkerStats {
  /** The newest id that the server gave. */
  readonly workerId: string | undefined;
  /** Handlers at work. */
  readonly running: number;
  /** Outcomes that the server has not answered. */
  readonly held: number;
  readonly heldLimit: number;
}

/** Most jobs of one pull; the server's limit. */
const MAX_PULL = 500;

/** While outcomes with so many characters wait to be answered, no jobs are pulled. */
const MAX_HELD_CHARACTERS = 64 * 1024 * 1024;

/** Of a server that names none. */
const DEFAULT_DEADLINE_SECONDS = 300;

/** How long a pull waits at the server. */
const PULL_WAIT_SECONDS = 20;

/** A pull that is answered with nothing in less than this was not waited for: the next one comes after a pause. */
const QUICK_MS = 100;
const QUICK_PAUSE_MS = 200;

const BACKOFF: Backoff = { baseMs: 250, capMs: 5_000 };

/** Between two tries to exchange a worn id. */
const RENEW_PAUSE_MS = 10_000;

/** How long handlers have to stop once the grace is over. */
const SETTLE_MS = 2_000;

/** How long outcomes are sent at the end, at least. */
const FLUSH_MS = 5_000;

/** A signal that comes again within this time is the same: a terminal and npm both pass Ctrl-C on. */
const SAME_SIGNAL_MS = 200;

/** How long the deletion is tried. */
const LEAVE_MS = 5_000;

export class Worker {
  readonly #app: App;
  readonly #registration: NewWorker;
  readonly #kinds: ReadonlyMap<string, JobKind>;
  readonly #connection: Connection;
  readonly #graceSeconds: number;
  readonly #heldLimit: number;
  readonly #handlesSignals: boolean;
  readonly #log: Logger;
  readonly #http: NodeTransport;
  readonly #calls: WorkerCalls;
  readonly #pacemaker: Pacemaker;
  readonly #sessions = new Map<string, Session>();
  /** Those that have a place, and when their deadlines pass, in ms of the monotonic clock. */
  readonly #attempts = new Map<Attempt, number>();
  /** Places, outcomes or sessions have changed. */
  readonly #changed = new Bell();
  readonly #stopping = new AbortController();
  #current: Session | undefined;
  #serial = 0;
  #renewedAt = Number.NEGATIVE_INFINITY;
  #running: Promise<EndReason> | undefined;
  #reason: EndReason = "stop";
  #error: unknown;
  #grace: number;

  constructor(app: App, options: WorkerOptions = {}) {
    this.#app = app;
    this.#kinds = new Map([...app.kinds].filter(([, kind]) => kind.hasHandler));
    this.#registration = registrationOf(this.#kinds, options);
    this.#connection = app.connection(options.url, options.key);
    this.#graceSeconds = secondsOf("graceSeconds", options.graceSeconds ?? 25);
    this.#grace = this.#graceSeconds;
    this.#heldLimit = whole("heldLimit", options.heldLimit ?? Math.max(1_000, this.#registration.concurrency));
    this.#handlesSignals = options.signals ?? false;
    this.#log = options.logger ?? lineLogger();
    this.#http = nodeTransport(this.#connection.base);
    this.#calls = new WorkerCalls(new Api(this.#connection, this.#http.transport));
    this.#pacemaker = new Pacemaker(
      this.#connection,
      options.watchdog ?? false,
      {
        snapshot: () => this.#snapshot(),
        remainingMs: () => this.#remainingMs(),
        answered: ({ id, answer, serial }) => this.#heard(this.#sessions.get(id), answer, serial),
        gone: (id) => this.#lose(this.#sessions.get(id)),
        failed: (error) => this.#fail(error),
      },
      this.#log,
    );
  }

  get stats(): WorkerStats {
    let held = 0;
    for (const session of this.#sessions.values()) held += session.outcomes;
    return { workerId: this.#current?.id, running: this.#attempts.size, held, heldLimit: this.#heldLimit };
  }

  /** The app that it runs. */
  get app(): App {
    return this.#app;
  }

  /**
   * Runs until the worker has ended.
   * @throws ApiError if the server refuses the worker: its key, its queues. While the server is unavailable it is tried again.
   */
  run(): Promise<EndReason> {
    this.#running ??= this.#run();
    return this.#running;
  }

  /** Starts the worker. Resolves when it is registered. `run()` then resolves when it has ended. @throws as `run` */
  async start(): Promise<void> {
    const ended = this.run();
    while (this.#current === undefined) {
      if ((await Promise.race([ended, this.#changed.rung()])) !== undefined) return;
    }
  }

  /**
   * Ends the worker gracefully: it pulls no more, waits for its handlers, sends their outcomes, and hands the rest back. Resolves when
   * that is done.
   * @param graceSeconds How long handlers may go on
   */
  async stop({ graceSeconds = this.#graceSeconds }: { readonly graceSeconds?: number | undefined } = {}): Promise<void> {
    this.#grace = secondsOf("graceSeconds", graceSeconds);
    this.#end("stop");
    await this.#running;
  }

  async #run(): Promise<EndReason> {
    const forget = this.#handlesSignals ? this.#handleSignals() : () => undefined;
    try {
      await this.#register();
      const pulling = this.#pullJobs().catch((error: unknown) => this.#fail(error));
      await aborted(this.#stopping.signal);
      await this.#drain();
      await pulling;
    } catch (error) {
      if (!this.#stopping.signal.aborted) throw error;
    } finally {
      forget();
      await this.#pacemaker.stop();
      this.#http.close();
    }
    if (this.#error !== undefined) throw this.#error;
    this.#log.info("the worker has ended", { reason: this.#reason });
    return this.#reason;
  }

  // --- Registration -------------------------------------------------------------------------------------------------

  /** Registers, as often as it takes. */
  async #register(): Promise<Session> {
    const { signal } = this.#stopping;
    for (let failures = 1; ; failures += 1) {
      try {
        return this.#begin(await this.#calls.register(this.#registration, signal));
      } catch (error) {
        if (signal.aborted || !isTemporary(error)) throw error;
        await this.#pause("the worker cannot register", error, failures);
      }
    }
  }

  #begin(registered: Awaited<ReturnType<WorkerCalls["register"]>>): Session {
    const session = new Session(
      registered,
      this.#calls,
      {
        kindOf: (name) => this.#kinds.get(name),
        nextSerial: () => ++this.#serial,
        started: (attempt) => this.#started(attempt),
        settled: (attempt, returned) => this.#settled(attempt, returned),
        changed: () => this.#changed.ring(),
        answered: (from, answer, serial) => this.#heard(from, answer, serial),
        failed: (error) => {
          if (isDenied(error)) this.#fail(error);
        },
      },
      this.#log,
    );
    this.#sessions.set(session.id, session);
    this.#current = session;
    this.#pacemaker.update();
    const { name, queues, concurrency } = this.#registration;
    this.#log.info("the worker is registered", { "worker.id": session.id, "worker.name": name, queues: queues.join(","), concurrency });
    this.#changed.ring();
    return session;
  }

  /** The id was given many jobs, and slows the database down: another one goes on, this one ends its jobs. */
  async #renew(worn: Session): Promise<void> {
    if (performance.now() < this.#renewedAt + RENEW_PAUSE_MS) return;
    this.#renewedAt = performance.now();
    try {
      this.#begin(await this.#calls.register(this.#registration, this.#stopping.signal));
    } catch (error) {
      this.#log.debug("the worker keeps its id for now", { error: messageOf(error) });
      return;
    }
    void this.#retire(worn);
  }

  async #retire(worn: Session): Promise<void> {
    while (!worn.isIdle && !worn.isGone && !this.#stopping.signal.aborted) await this.#changed.rung();
    if (!worn.isIdle || worn.isGone) return;
    this.#remove(worn);
    await this.#leave(worn);
  }

  #lose(session: Session | undefined): void {
    if (session === undefined || session.isGone) return;
    this.#log.error("the worker was silent for too long (worker-not-found): its jobs are lost, and it registers again", {
      "worker.id": session.id,
    });
    session.lose();
    this.#pacemaker.update();
    this.#changed.ring();
    void session.emptied().then(() => this.#remove(session));
  }

  #remove(session: Session): void {
    if (session === this.#current && !session.isGone) return;
    this.#sessions.delete(session.id);
    session.close();
    this.#pacemaker.update();
    this.#changed.ring();
  }

  // --- Pulls --------------------------------------------------------------------------------------------------------

  async #pullJobs(): Promise<void> {
    let failures = 0;
    while (!this.#stopping.signal.aborted) {
      const session = this.#current;
      if (session === undefined || session.isGone) {
        await this.#register();
        continue;
      }
      const room = this.#room(session);
      if (room <= 0) {
        await this.#changed.rung();
        continue;
      }
      try {
        const startedAt = performance.now();
        const pulled = await session.pull(Math.min(room, MAX_PULL), PULL_WAIT_SECONDS);
        failures = 0;
        await this.#pulled(session, pulled, performance.now() - startedAt);
      } catch (error) {
        if (isGone(error)) this.#lose(session);
        else if (!session.isGone && !this.#stopping.signal.aborted) {
          if (!isTemporary(error)) throw error;
          failures += 1;
          await this.#pause("jobs cannot be pulled", error, failures);
        }
      }
    }
  }

  /** Free places; none while too many outcomes wait. */
  #room(session: Session): number {
    if (this.stats.held >= this.#heldLimit) return 0;
    let characters = 0;
    for (const session of this.#sessions.values()) characters += session.outcomeCharacters;
    if (characters >= MAX_HELD_CHARACTERS) return 0;
    return Math.min(this.#registration.concurrency - this.#attempts.size, MAX_HELD - session.size);
  }

  async #pulled(session: Session, pulled: Partial<PulledJobs>, elapsedMs: number): Promise<void> {
    const { jobs = [], drain, register_again } = pulled;
    if (drain) this.#end("drain");
    // The lease was lost while the answer was on its way: others run these jobs.
    if (session.isGone) return;
    const complete = jobs.map((job) => ({ ...job, deadline_seconds: job.deadline_seconds ?? DEFAULT_DEADLINE_SECONDS }));
    session.take(complete, this.#stopping.signal.aborted);
    if (register_again) await this.#renew(session);
    if (jobs.length === 0 && elapsedMs < QUICK_MS) await this.#sleep(QUICK_PAUSE_MS);
  }

  #started(attempt: Attempt): void {
    const deadlineMs = attempt.job.deadline_seconds * 1000;
    this.#attempts.set(attempt, performance.now() + deadlineMs);
    this.#pacemaker.expect(deadlineMs);
  }

  #settled(attempt: Attempt, returned: boolean): void {
    if (!returned) {
      this.#log.error("a handler did not stop and is given up: it still runs, and its place is free", {
        "job.id": attempt.job.id,
        "job.kind": attempt.job.kind,
      });
    }
    this.#attempts.delete(attempt);
    this.#changed.ring();
  }

  // --- Heartbeats ---------------------------------------------------------------------------------------------------

  #snapshot(): Snapshot {
    const sessions = [...this.#sessions.values()].filter((session) => !session.isGone);
    return {
      serial: this.#serial,
      sessions: sessions.map((session) => ({
        id: session.id,
        heartbeatMs: session.heartbeatMs,
        lostAfterMs: session.lostAfterMs,
        running: session.have(),
      })),
    };
  }

  #remainingMs(): number {
    let last = 0;
    for (const at of this.#attempts.values()) last = Math.max(last, at);
    return last === 0 ? 0 : last - performance.now();
  }

  #heard(session: Session | undefined, answer: HeartbeatAnswer, serial: number): void {
    if (session === undefined || session.isGone) return;
    session.heard(answer, serial);
    if (answer.drain) this.#end("drain");
  }

  // --- The end ------------------------------------------------------------------------------------------------------

  /** Draining begins. The first reason counts. */
  #end(reason: EndReason): void {
    if (this.#stopping.signal.aborted) return;
    this.#reason = reason;
    this.#log.info("the worker takes no more jobs", { reason, running: this.#attempts.size });
    this.#stopping.abort(new Error("the worker ends"));
    this.#changed.ring();
  }

  #fail(error: unknown): void {
    if (this.#stopping.signal.aborted) return;
    this.#error = error;
    this.#log.error("the worker cannot go on", { error: messageOf(error) });
    this.#end("stop");
  }

  async #drain(): Promise<void> {
    const graceEnds = performance.now() + this.#grace * 1000;
    await this.#until(() => this.#attempts.size === 0, graceEnds);
    for (const attempt of [...this.#attempts.keys()]) attempt.stop("shutdown", "the worker ends");
    await this.#until(() => this.#attempts.size === 0, performance.now() + SETTLE_MS);
    for (const attempt of [...this.#attempts.keys()]) attempt.giveUp();
    const sessions = [...this.#sessions.values()];
    await this.#until(() => this.stats.held === 0, Math.max(graceEnds, performance.now() + FLUSH_MS));
    const { held } = this.stats;
    if (held > 0) this.#log.error("outcomes could not be sent: their jobs will run again", { "outcomes.held": held });
    for (const session of sessions) session.close();
    await Promise.all(sessions.filter((session) => !session.isGone).map((session) => this.#leave(session)));
  }

  /** Deletes the worker: what it still holds goes back. */
  async #leave(session: Session): Promise<void> {
    try {
      await this.#calls.delete(session.id, LEAVE_MS);
    } catch (error) {
      const fields = { "worker.id": session.id, error: messageOf(error) };
      this.#log.warn("the worker could not be deleted; the server will notice that it is silent", fields);
    }
  }

  #handleSignals(): () => void {
    let first: number | undefined;
    const handle = (signal: NodeJS.Signals) => {
      first ??= performance.now();
      if (performance.now() > first + SAME_SIGNAL_MS) {
        this.#log.warn("a second signal: the process ends, its jobs return when the lease ends");
        process.exit(signal === "SIGINT" ? 130 : 143);
      }
      this.#end("signal");
    };
    process.on("SIGTERM", handle).on("SIGINT", handle);
    return () => void process.off("SIGTERM", handle).off("SIGINT", handle);
  }

  // --- Waiting ------------------------------------------------------------------------------------------------------

  async #pause(message: string, error: unknown, failures: number): Promise<void> {
    const delay = delayMs(BACKOFF, failures, retryAfterMs(error));
    this.#log.warn(message, { "retry.in_ms": Math.round(delay), error: messageOf(error) });
    await this.#sleep(delay);
  }

  /** Ends early when the worker is to stop. */
  async #sleep(ms: number): Promise<void> {
    await sleep(ms, this.#stopping.signal).catch(() => undefined);
  }

  /** Resolves when the condition holds, or at this time of the monotonic clock. */
  async #until(condition: () => boolean, end: number): Promise<void> {
    while (!condition() && performance.now() < end) {
      const time = new AbortController();
      const left = sleep(Math.max(0, end - performance.now()), time.signal).catch(() => undefined);
      await Promise.race([this.#changed.rung(), left]);
      time.abort();
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
