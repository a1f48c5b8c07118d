/**
 * Progress and lines of handlers, on their way to the server: they go with a heartbeat of their own, within {@link DELAY_MS}, and before
 * the outcome of their job, because the server takes none of a job that has ended.
 *
 * They are news, not outcomes: the newest progress of a job counts; of the lines the last {@link MAX_LINES} are kept while the server is
 * unavailable; what the server refuses is dropped.
 */
import { messageOf } from "../errors.js";
import type { News } from "../execution.js";
import { isRefused } from "./calls.js";
import type { Logger } from "./log.js";

/** So long news gather. */
const DELAY_MS = 500;

/** After a failure. */
const RETRY_MS = 2_000;

const MAX_LINES = 5_000;

/** Of one heartbeat; the server takes 1,000 of each. */
const MAX_PER_BEAT = 1_000;

/** Characters of one heartbeat, about. */
const MAX_CHARACTERS = 4 * 1024 * 1024;

interface Line {
  readonly job: string;
  readonly line: string;
}

/** What one heartbeat brings. */
export interface Bulletin {
  /** JSON texts. */
  readonly progress: ReadonlyMap<string, string>;
  readonly lines: readonly Line[];
}

export class NewsDesk implements News {
  readonly #send: (bulletin: Bulletin) => Promise<void>;
  readonly #log: Logger;
  #progress = new Map<string, string>();
  #lines: Line[] = [];
  #dropped = 0;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #isClosed = false;

  constructor(send: (bulletin: Bulletin) => Promise<void>, log: Logger) {
    this.#send = send;
    this.#log = log;
  }

  progress(job: string, value: string): void {
    this.#progress.set(job, value);
    this.#schedule(DELAY_MS);
  }

  log(job: string, line: string): void {
    if (this.#lines.length >= MAX_LINES) {
      this.#lines.shift();
      this.#dropped += 1;
    }
    this.#lines.push({ job, line });
    this.#schedule(DELAY_MS);
  }

  /** Sends what there is of these jobs, in one try. */
  async flush(jobs: Iterable<string>): Promise<void> {
    if (this.#progress.size === 0 && this.#lines.length === 0 && this.#sending === undefined) return;
    await this.#sending;
    const those = new Set(jobs);
    const concerns = [...this.#progress.keys()].some((job) => those.has(job)) || this.#lines.some(({ job }) => those.has(job));
    if (concerns) await this.#deliver();
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
  }

  #schedule(ms: number): void {
    if (this.#timer !== undefined || this.#isClosed) return;
    this.#timer = setTimeout(() => void this.#deliver(), ms);
  }

  #deliver(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sending ??= this.#deliverOne().finally(() => {
      this.#sending = undefined;
    });
    return this.#sending;
  }

  async #deliverOne(): Promise<void> {
    const bulletin = this.#take();
    let again = DELAY_MS;
    try {
      await this.#send(bulletin);
    } catch (error) {
      if (isRefused(error)) {
        this.#log.error("the server refuses progress or lines, they are dropped", { error: messageOf(error) });
      } else {
        this.#putBack(bulletin);
        again = RETRY_MS;
      }
    }
    if (this.#dropped > 0) this.#log.warn("lines of handlers were dropped", { lines: this.#dropped });
    this.#dropped = 0;
    if (this.#progress.size > 0 || this.#lines.length > 0) this.#schedule(again);
  }

  #take(): Bulletin {
    const progress = new Map<string, string>();
    let characters = 0;
    for (const [job, value] of this.#progress) {
      characters += value.length;
      if (progress.size === MAX_PER_BEAT || (progress.size > 0 && characters > MAX_CHARACTERS)) break;
      progress.set(job, value);
      this.#progress.delete(job);
    }
    let count = 0;
    for (const { line } of this.#lines) {
      characters += line.length;
      if (count === MAX_PER_BEAT || (count > 0 && characters > MAX_CHARACTERS)) break;
      count += 1;
    }
    return { progress, lines: this.#lines.splice(0, count) };
  }

  #putBack({ progress, lines }: Bulletin): void {
    // What the handlers have reported in the meantime is newer.
    this.#progress = new Map([...progress, ...this.#progress]);
    this.#lines = [...lines, ...this.#lines].slice(-MAX_LINES);
  }
}
