/** What a handler is given beside its payload. */
import type { EndedBatchView } from "./api-types.js";

export interface JobContext {
  /** The same in every attempt of the job. */
  readonly id: string;
  readonly kind: string;
  readonly queue: string;
  /** The number of this attempt, from 1. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** Longest time that the attempt may take, in seconds from its start. */
  readonly deadlineSeconds: number;
  /** The W3C trace context of the job's producer. */
  readonly traceparent: string | undefined;
  /** What the job before this one in its chain returned. */
  readonly previousResult: unknown;
  /** The batch that the job is part of. */
  readonly batch: string | undefined;
  /** How the batch ended whose callback the job is. */
  readonly endedBatch: EndedBatchView | undefined;

  /**
   * Aborted when the handler is to stop; `signal.reason` is a {@link Stopped} that says why. Pass it to `fetch` and its like. A handler
   * that stops throws what they throw, or `signal.reason`: after a cancellation the outcome is then `cancelled`. It has 10 seconds.
   */
  readonly signal: AbortSignal;
  /** Whether the handler is to stop. */
  readonly cancelled: boolean;

  /** Shows the progress of the job, any JSON of up to 64 KiB. The newest counts; it is sent within a second. */
  progress(value: unknown): void;
  /** Writes a line to the log of the job. 4,096 bytes are stored. */
  log(line: string): void;
}
