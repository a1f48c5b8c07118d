/**
 * The heartbeats of a worker, sent by a thread of their own: a handler that blocks the event loop does not lose its lease.
 *
 * # What if a step is late, not absent
 * - *The main thread is blocked*: the thread sends what it knew last. A job that has been pulled since then is not named in `running`;
 *   that costs nothing, because the worker's row is the lease of all its jobs.
 * - *An answer is handled late, when the main thread is free again*: it carries the serial number of the snapshot that it was asked
 *   with, and concerns no later attempt.
 * - *A heartbeat arrives after the lease has passed*: while the worker's row is there the server renews it, and answers which jobs were
 *   lost. If the row is gone it answers `worker-not-found`: the session is void, and the worker registers again.
 * - *The machine's clock jumps*: nothing here reads it. *The machine sleeps*: the lease passes, as above.
 *
 * # When things fail
 * - *The thread dies*: another one is started, after a growing delay. `lost_after_seconds` is three heartbeats, time enough. If it dies
 *   again and again without a heartbeat, the worker ends.
 * - *The main thread is stuck for good* (past every deadline and a minute more): the thread stops, so that the jobs return to other
 *   workers. With `endsProcess`, which is what the command does, it ends the process.
 * - *The key is revoked*: reported, and tried again; the worker ends for this reason.
 */
import { Worker as Thread } from "node:worker_threads";
import { delayMs } from "../backoff.js";
import type { Connection } from "../connection.js";
import { ConfigurationError, HoldfastError } from "../errors.js";
import type { Logger } from "./log.js";
import { type FromThread, type PacemakerData, type Snapshot, monotonicMs } from "./pacemaker-protocol.js";

/** A main thread that is blocked for so long past the last deadline of what it runs is stuck: its leases are given up. */
const STUCK_MS = 60_000;

/** So often the thread is started again without a heartbeat in between. */
const MAX_DEATHS = 8;

export interface PacemakerEvents {
  snapshot(): Snapshot;
  /** When the last deadline of what runs passes, in ms from now. */
  remainingMs(): number;
  answered(message: Extract<FromThread, { type: "answered" }>): void;
  gone(id: string): void;
  /** There will be no heartbeats: another try would not help. */
  failed(error: Error): void;
}

export class Pacemaker {
  readonly #data: Omit<PacemakerData, "snapshot">;
  readonly #events: PacemakerEvents;
  readonly #log: Logger;
  #thread: Thread | undefined;
  #deaths = 0;
  #restart: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(connection: Connection, endsProcess: boolean, events: PacemakerEvents, log: Logger, stuckMs = STUCK_MS) {
    const deadline = new BigInt64Array(new SharedArrayBuffer(8));
    this.#data = { base: connection.base, headers: connection.headers(), deadline, stuckMs, endsProcess };
    this.#events = events;
    this.#log = log;
  }

  /** A session has begun or ended. */
  update(): void {
    if (this.#isStopped) return;
    if (this.#thread === undefined && this.#restart === undefined) this.#start();
    else this.#thread?.postMessage(this.#events.snapshot());
  }

  /** An attempt begins whose deadline passes after this time. */
  expect(deadlineMs: number): void {
    const passes = monotonicMs() + BigInt(Math.ceil(deadlineMs));
    if (passes > Atomics.load(this.#data.deadline, 0)) Atomics.store(this.#data.deadline, 0, passes);
  }

  /** For tests. @internal */
  get thread(): Thread | undefined {
    return this.#thread;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#restart);
    await this.#thread?.terminate();
  }

  #start(): void {
    const data: PacemakerData = { ...this.#data, snapshot: this.#events.snapshot() };
    const options = { workerData: data, name: "holdfast heartbeat", execArgv: [], resourceLimits: { maxOldGenerationSizeMb: 64 } };
    const thread = new Thread(new URL("./pacemaker-thread.js", import.meta.url), options);
    this.#thread = thread;
    thread.on("message", (message: FromThread) => this.#receive(message));
    thread.on("error", (error) => this.#log.error("the thread of the heartbeats has failed", { error: String(error) }));
    thread.on("exit", () => this.#died());
  }

  #died(): void {
    this.#thread = undefined;
    if (this.#isStopped) return;
    this.#deaths += 1;
    if (this.#deaths > MAX_DEATHS) {
      this.#events.failed(new HoldfastError("the thread of the heartbeats cannot run: was the package bundled?"));
      return;
    }
    const delay = delayMs({ baseMs: 50, capMs: 5_000 }, this.#deaths);
    this.#log.error("the thread of the heartbeats has ended and is started again", { "retry.in_ms": Math.round(delay) });
    this.#restart = setTimeout(() => {
      this.#restart = undefined;
      this.#start();
    }, delay);
  }

  #receive(message: FromThread): void {
    switch (message.type) {
      case "ask": {
        const remaining = this.#events.remainingMs();
        Atomics.store(this.#data.deadline, 0, remaining > 0 ? monotonicMs() + BigInt(Math.ceil(remaining)) : 0n);
        this.#thread?.postMessage(this.#events.snapshot());
        return;
      }
      case "answered":
        this.#deaths = 0;
        this.#events.answered(message);
        return;
      case "gone":
        this.#events.gone(message.id);
        return;
      case "failed":
        this.#log.warn("a heartbeat has failed and is repeated", { "worker.id": message.id, error: message.message });
        if (message.denied) {
          this.#events.failed(new ConfigurationError(`the server refuses the worker's key: ${message.message}`));
        }
        return;
      case "stuck":
        this.#log.error("the event loop was blocked past every deadline: the worker's lease was given up", { seconds: message.seconds });
    }
  }
}
