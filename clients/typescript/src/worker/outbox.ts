/**
 * Outcomes that the server has not answered yet, of one registration of a worker.
 *
 * States of an outcome: waiting → sent → answered. One request is under way at a time: while it is, further outcomes gather, so that a
 * busy worker sends few large requests and an idle one sends each outcome immediately.
 *
 * # Invariants
 * - An outcome is dropped only when the server has answered it (`stored`, `lease_lost`, `unknown`), or when it was refused and so was
 *   what was put in its place. A request whose reply was lost or late is sent again as it was: the server answers `stored`.
 * - Bounded: the worker pulls no more while {@link Outbox.size} or {@link Outbox.characters} is above its limit.
 *
 * # When things fail
 * - The server is unavailable: tries go on, with growing delays and as `Retry-After` says, until the outbox is closed.
 * - The server refuses a request (400, 413, 422): one outcome must be the reason. The request is halved until it is alone, and then
 *   replaced by a discard that names the reason.
 * - The worker is not known (404): its leases are lost; every outcome is.
 * - The key was revoked (401, 403): outcomes are held, as while the server is unavailable; the worker ends for this reason.
 */
import type { FinishedJob } from "../api-types.js";
import { type Backoff, delayMs, sleep } from "../backoff.js";
import { ConnectionError, type InvalidRequestError, messageOf, retryAfterMs } from "../errors.js";
import type { Outcome } from "../execution.js";
import { cut } from "../json.js";
import { Bell } from "./bell.js";
import { isGone, isRefused } from "./calls.js";
import type { Logger } from "./log.js";

/** Most outcomes of one request; the server takes 1,000. */
const MAX_OUTCOMES = 500;

/** Most characters of one request, about, so that it is small enough for proxies. A larger single outcome goes alone. */
const MAX_CHARACTERS = 4 * 1024 * 1024;

const BACKOFF: Backoff = { baseMs: 250, capMs: 10_000 };

export interface HeldOutcome {
  readonly job: string;
  readonly fence: string;
  /** Tells executions of the same job apart. */
  readonly serial: number;
  /** As the server takes it: JSON text. */
  readonly text: string;
}

export interface OutboxEvents {
  /** Sends the outcomes. Rejects as `Api.call` does. */
  send(texts: readonly string[], outcomes: readonly HeldOutcome[], signal: AbortSignal): Promise<readonly FinishedJob[]>;
  /** The server has answered: the job is no longer held. */
  answered(outcome: HeldOutcome): void;
  failed(error: unknown): void;
}

export class Outbox {
  readonly #events: OutboxEvents;
  readonly #log: Logger;
  readonly #closing = new AbortController();
  readonly #emptied = new Bell();
  #waiting: HeldOutcome[] = [];
  #size = 0;
  #characters = 0;
  #running = false;

  constructor(events: OutboxEvents, log: Logger) {
    this.#events = events;
    this.#log = log;
  }

  /** Outcomes that are not answered. */
  get size(): number {
    return this.#size;
  }

  /** Of their texts. */
  get characters(): number {
    return this.#characters;
  }

  add(outcome: HeldOutcome): void {
    this.#size += 1;
    this.#characters += outcome.text.length;
    this.#waiting.push(outcome);
    if (this.#running || this.#closing.signal.aborted) return;
    this.#running = true;
    // Handlers that end in this turn of the event loop go into one request.
    setImmediate(() => void this.#run());
  }

  /** Resolves when every outcome is answered. */
  async emptied(): Promise<void> {
    while (this.#size > 0) await this.#emptied.rung();
  }

  /** Stops sending. What is left is returned to its queue by the worker's deletion, or when its lease ends. */
  close(): void {
    this.#closing.abort(new Error("the outbox was closed"));
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 && !this.#closing.signal.aborted) {
      await this.#deliver(this.#take());
    }
    this.#running = false;
  }

  #take(): HeldOutcome[] {
    let characters = 0;
    let count = 0;
    for (const { text } of this.#waiting) {
      characters += text.length;
      if (count === MAX_OUTCOMES || (count > 0 && characters > MAX_CHARACTERS)) break;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }

  /** Sends until there is an answer, or the outbox is closed. */
  async #deliver(batch: readonly HeldOutcome[]): Promise<void> {
    const texts = batch.map(({ text }) => text);
    for (let failures = 1; !this.#closing.signal.aborted; failures += 1) {
      try {
        const answers = await this.#events.send(texts, batch, this.#closing.signal);
        if (answers?.length !== batch.length) throw new ConnectionError("the server has not answered every outcome");
        return this.#settle(batch, answers);
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        if (isGone(error)) return this.#settle(batch, batch.map(({ job }) => ({ job, status: "lease_lost" as const })));
        if (isRefused(error)) return this.#divide(batch, error);
        this.#events.failed(error);
        const delay = delayMs(BACKOFF, failures, retryAfterMs(error));
        this.#log.warn("outcomes cannot be sent and are held", {
          "outcomes.held": this.#size,
          "retry.in_ms": Math.round(delay),
          error: messageOf(error),
        });
        await sleep(delay, this.#closing.signal).catch(() => undefined);
      }
    }
  }

  async #divide(batch: readonly HeldOutcome[], error: InvalidRequestError): Promise<void> {
    const [first] = batch;
    if (first === undefined) return;
    if (batch.length > 1) {
      const half = batch.length >> 1;
      await this.#deliver(batch.slice(0, half));
      await this.#deliver(batch.slice(half));
      return;
    }
    this.#log.error("the server refuses an outcome", { "job.id": first.job, error: messageOf(error) });
    const replacement = outcomeText(first.job, first.fence, { verb: "discard", error: `the outcome was refused: ${messageOf(error)}` });
    if (first.text === replacement) this.#settle(batch, [{ job: first.job, status: "unknown" }]);
    else {
      this.#characters += replacement.length - first.text.length;
      await this.#deliver([{ ...first, text: replacement }]);
    }
  }

  #settle(batch: readonly HeldOutcome[], answers: readonly FinishedJob[]): void {
    for (const [place, outcome] of batch.entries()) {
      const answer = answers[place];
      const fields = { "job.id": outcome.job };
      if (answer?.status === "lease_lost" || answer?.status === "unknown") {
        this.#log.warn(`an outcome came too late (${answer.status}): the job is no longer this worker's`, fields);
      } else if (answer?.status !== "stored") {
        this.#log.warn("an outcome is dropped: its status is none that this client knows", { ...fields, status: String(answer?.status) });
      } else if (answer.refused) {
        this.#log.error("the server refused a result, the job is a dead letter", { ...fields, reason: answer.refused });
      }
      this.#size -= 1;
      this.#characters -= outcome.text.length;
      this.#events.answered(outcome);
    }
    if (this.#size === 0) this.#emptied.ring();
  }
}

/** An outcome as `finish` takes it. */
export function outcomeText(job: string, fence: string, outcome: Outcome): string {
  const { verb } = outcome;
  const head = `{"job":${JSON.stringify(job)},"fence":${JSON.stringify(fence)},"outcome":"${verb}"`;
  switch (verb) {
    case "completed":
      return outcome.result === undefined ? `${head}}` : `${head},"result":${outcome.result}}`;
    case "failed":
      return `${head},"error":${JSON.stringify(cut(outcome.error, 4096))}${afterText(outcome.after)}}`;
    case "discard":
      return `${head},"error":${JSON.stringify(cut(outcome.error, 4096))}}`;
    case "snooze":
      return `${head}${afterText(outcome.after)}}`;
    case "cancelled":
      return `${head}}`;
  }
}

function afterText(after: number | undefined): string {
  return after === undefined ? "" : `,"retry_after_seconds":${after}`;
}
