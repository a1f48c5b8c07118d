/**
 * The thread that sends the heartbeats of a worker. See `pacemaker.ts`.
 *
 * Each round: ask the main thread what it holds, wait for that {@link ASK_MS} at most, send one heartbeat for each session with what is
 * known. A main thread that does not answer is blocked by a handler; its leases live on.
 */
import { writeSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { Api } from "../api.js";
import { delayMs, sleep } from "../backoff.js";
import { messageOf, retryAfterMs } from "../errors.js";
import { WorkerCalls, isDenied, isGone } from "./calls.js";
import { nodeTransport } from "./node-transport.js";
import { type FromThread, type PacemakerData, type Snapshot, type SnapshotSession, monotonicMs } from "./pacemaker-protocol.js";

/** How long a round waits for the main thread. */
const ASK_MS = 250;

/** Between two rounds while there is no session. */
const IDLE_MS = 1_000;

const port = parentPort;
const data = workerData as PacemakerData;

class PacemakerThread {
  readonly #calls: WorkerCalls;
  #snapshot: Snapshot;
  #heardAt = monotonicMs();
  #awaiting: (() => void) | undefined;
  #hasAsked = false;
  #wasStuck = false;
  #retryAfterMs = 0;

  constructor({ base, headers, snapshot }: PacemakerData) {
    this.#snapshot = snapshot;
    const destination = { base, headers: () => ({ ...headers }) };
    this.#calls = new WorkerCalls(new Api(destination, nodeTransport(base).transport));
  }

  receive(snapshot: Snapshot): void {
    this.#snapshot = snapshot;
    this.#heardAt = monotonicMs();
    this.#hasAsked = false;
    this.#awaiting?.();
  }

  async run(): Promise<never> {
    let failures = 0;
    for (;;) {
      await sleep(this.#pauseMs(failures));
      await this.#ask();
      if (this.#isStuck()) continue;
      const { sessions, serial } = this.#snapshot;
      const errors = await Promise.all(sessions.map((session) => this.#beat(session, serial)));
      const failed = errors.filter((error) => error !== undefined);
      failures = failed.length === 0 ? 0 : failures + 1;
      this.#retryAfterMs = Math.max(0, ...failed.map(retryAfterMs));
    }
  }

  /** Until the next round: a heartbeat's time, or less after a failure. */
  #pauseMs(failures: number): number {
    const { sessions } = this.#snapshot;
    const heartbeat = sessions.length === 0 ? IDLE_MS : Math.min(...sessions.map(({ heartbeatMs }) => heartbeatMs));
    if (failures === 0) return heartbeat * (0.9 + Math.random() / 10);
    // As long as the server asks, but not so long that the lease ends for it.
    const lostAfter = Math.min(...sessions.map(({ lostAfterMs }) => lostAfterMs));
    return delayMs({ baseMs: heartbeat / 10, capMs: heartbeat / 2 }, failures, Math.min(this.#retryAfterMs, lostAfter / 3));
  }

  async #ask(): Promise<void> {
    // One question at a time: a blocked thread would find them all in the end.
    if (!this.#hasAsked) send({ type: "ask" });
    this.#hasAsked = true;
    const answered = new Promise<void>((resolve) => {
      this.#awaiting = resolve;
    });
    const time = new AbortController();
    await Promise.race([answered, sleep(ASK_MS, time.signal).catch(() => undefined)]);
    time.abort();
    this.#awaiting = undefined;
  }

  #isStuck(): boolean {
    const deadline = Atomics.load(data.deadline, 0);
    const expected = deadline > this.#heardAt ? deadline : this.#heardAt;
    const late = monotonicMs() - expected;
    if (late < BigInt(data.stuckMs)) {
      this.#wasStuck = false;
      return false;
    }
    if (!this.#wasStuck) {
      const seconds = Number((monotonicMs() - this.#heardAt) / 1000n);
      send({ type: "stuck", seconds });
      if (data.endsProcess) endProcess(seconds);
    }
    this.#wasStuck = true;
    return true;
  }

  async #beat({ id, heartbeatMs, running }: SnapshotSession, serial: number): Promise<unknown> {
    try {
      const answer = await this.#calls.heartbeat(id, JSON.stringify({ running }), heartbeatMs);
      send({ type: "answered", id, answer, serial });
      return undefined;
    } catch (error) {
      if (isGone(error)) {
        const { sessions } = this.#snapshot;
        this.#snapshot = { ...this.#snapshot, sessions: sessions.filter((session) => session.id !== id) };
        send({ type: "gone", id });
        return undefined;
      }
      const denied = isDenied(error);
      send({ type: "failed", id, message: messageOf(error), denied });
      // Another try would be denied as well: it has time.
      return denied ? undefined : error;
    }
  }
}

function send(message: FromThread): void {
  port?.postMessage(message);
}

/** The platform starts it again; its jobs return when the lease ends. */
function endProcess(seconds: number): void {
  // Not process.stderr: what a thread writes there goes through the main thread.
  writeSync(2, `holdfast: the event loop has been blocked for ${seconds} s, past every deadline: the process ends\n`);
  setTimeout(() => process.kill(process.pid, "SIGKILL"), 500);
}

const thread = new PacemakerThread(data);
port?.on("message", (snapshot: Snapshot) => thread.receive(snapshot));
void thread.run();
