/** What a worker is given, and what it makes of that. Everything is checked before the first request. */
import { hostname } from "node:os";
import type { NewWorker } from "../api-types.js";
import type { JobKind } from "../app.js";
import { ConfigurationError } from "../errors.js";
import { VERSION } from "../version.js";
import type { Logger } from "./log.js";

export interface WorkerOptions {
  /** Default: those of the app. */
  readonly url?: string | URL | undefined;
  /** A key with the scope `work`. Default: the app's. */
  readonly key?: string | undefined;
  /** Handlers at the same time, 1 to 10,000. Default: 16. */
  readonly concurrency?: number | undefined;
  /** The queues to take jobs from. Default: those of the app's kinds that have handlers. */
  readonly queues?: readonly string[] | undefined;
  /** Shown in lists of workers. Default: the host's name. */
  readonly name?: string | undefined;
  /** How long handlers may go on after a stop, in seconds. Default: 25. */
  readonly graceSeconds?: number | undefined;
  /** While so many outcomes wait to be answered, no jobs are pulled. Default: 1,000, or the concurrency if that is larger. */
  readonly heldLimit?: number | undefined;
  /** Stop on SIGTERM and SIGINT; a second signal ends the process immediately. Default: false. */
  readonly signals?: boolean | undefined;
  /** End the process when its event loop is blocked for a minute past every deadline. Default: false. */
  readonly watchdog?: boolean | undefined;
  readonly logger?: Logger | undefined;
}

/** How this client names itself. */
export const CLIENT = { name: "@holdfast/client", version: VERSION, language: "typescript" } as const;

/** Most jobs that a worker may hold; the server's limit. */
export const MAX_HELD = 10_000;

export function registrationOf(kinds: ReadonlyMap<string, JobKind>, options: WorkerOptions): NewWorker {
  if (kinds.size === 0) throw new ConfigurationError("the app has no kind with a handler: a worker would have nothing to do");
  const queues = options.queues ?? [...new Set([...kinds.values()].map(({ queue }) => queue))];
  if (queues.length === 0) throw new ConfigurationError("a worker needs a queue to take jobs from");
  return {
    name: (options.name ?? hostname()).slice(0, 100),
    queues: [...queues],
    concurrency: whole("concurrency", options.concurrency ?? 16),
    client: CLIENT,
    kinds: [...kinds.keys()],
  };
}

export function whole(name: string, value: number): number {
  const isWhole = Number.isInteger(value) && value >= 1 && value <= MAX_HELD;
  if (!isWhole) throw new ConfigurationError(`${name} must be a whole number from 1 to ${MAX_HELD}, not ${value}`);
  return value;
}

export function secondsOf(name: string, value: number): number {
  if (!(value >= 0 && Number.isFinite(value))) throw new ConfigurationError(`${name} must be a number of seconds from 0, not ${value}`);
  return value;
}
