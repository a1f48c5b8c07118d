/** What the worker's main thread and the thread of its heartbeats say to each other. */
import type { HeartbeatAnswer } from "../api-types.js";

export interface PacemakerData {
  readonly base: string;
  /** With the key: given to the thread in memory, and nowhere else. */
  readonly headers: Readonly<Record<string, string>>;
  /** When the last deadline of a running attempt passes, in ms of the monotonic clock that all threads share; 0: nothing runs. */
  readonly deadline: BigInt64Array;
  /** Of the start: the thread does not depend on a message to begin. */
  readonly snapshot: Snapshot;
  /** A main thread that is blocked for so long past the last deadline of what it runs is stuck, in ms. */
  readonly stuckMs: number;
  /** End the process when its event loop is stuck. */
  readonly endsProcess: boolean;
}

/** What the worker holds at one moment. */
export interface Snapshot {
  readonly sessions: readonly SnapshotSession[];
  /** Of the last attempt that had begun. */
  readonly serial: number;
}

export interface SnapshotSession {
  readonly id: string;
  readonly heartbeatMs: number;
  readonly lostAfterMs: number;
  readonly running: readonly string[];
}

export type FromThread =
  /** Send a snapshot. */
  | { readonly type: "ask" }
  | { readonly type: "answered"; readonly id: string; readonly answer: HeartbeatAnswer; readonly serial: number }
  | { readonly type: "gone"; readonly id: string }
  | { readonly type: "failed"; readonly id: string; readonly message: string; readonly denied: boolean }
  | { readonly type: "stuck"; readonly seconds: number };

/** Milliseconds of the monotonic clock, the same in every thread. */
export function monotonicMs(): bigint {
  return process.hrtime.bigint() / 1_000_000n;
}
