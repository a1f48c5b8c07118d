/** The five calls of a pull worker. Each may be repeated; who repeats it, and when, is decided by the callers. */
import type { Api } from "../api.js";
import type { FinishedJobs, HeartbeatAnswer, NewWorker, PulledJobs, RegisteredWorker } from "../api-types.js";
import { ApiError, ConnectionError, InvalidRequestError, NotFoundError, isTransient } from "../errors.js";

/** Beside the time that a pull may wait at the server. A pull that takes longer is given up, and its reply ignored. */
const PULL_MARGIN_MS = 10_000;

/** Of the other calls. Outcomes may wait 2 s for locks at the server. */
const CALL_MS = 15_000;

/** A heartbeat that takes longer is sent again. */
const LONGEST_BEAT_MS = 10_000;

const NOT_OURS = "the answer is not Holdfast's: something in between has answered";

export interface PullArguments {
  readonly max: number;
  readonly waitSeconds: number;
  readonly have: readonly string[];
  readonly signal: AbortSignal;
}

export class WorkerCalls {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  async register(worker: NewWorker, signal: AbortSignal): Promise<RegisteredWorker> {
    const registered = await this.#post<RegisteredWorker>("/v1/workers", JSON.stringify(worker), CALL_MS, signal);
    if (typeof registered.id !== "string") throw new ConnectionError(NOT_OURS);
    return registered;
  }

  pull(id: string, { max, waitSeconds, have, signal }: PullArguments): Promise<Partial<PulledJobs>> {
    const body = JSON.stringify({ max, wait_seconds: waitSeconds, have });
    const timeoutMs = waitSeconds * 1000 + PULL_MARGIN_MS;
    return this.#post(`${pathOf(id)}/pull`, body, timeoutMs, signal);
  }

  /** @param outcomes JSON texts */
  finish(id: string, outcomes: readonly string[], signal: AbortSignal): Promise<FinishedJobs> {
    const body = `{"outcomes":[${outcomes.join(",")}]}`;
    return this.#post(`${pathOf(id)}/finish`, body, CALL_MS, signal);
  }

  /** @param body JSON text */
  heartbeat(id: string, body: string, heartbeatMs: number, signal?: AbortSignal): Promise<HeartbeatAnswer> {
    const timeoutMs = Math.min(Math.max(heartbeatMs, 1_000), LONGEST_BEAT_MS);
    return this.#post(`${pathOf(id)}/heartbeat`, body, timeoutMs, signal);
  }

  delete(id: string, timeoutMs: number): Promise<void> {
    return this.#api.repeat({ method: "DELETE", path: pathOf(id), timeoutMs }, { tries: 5, totalMs: timeoutMs });
  }

  async #post<T>(path: string, body: string, timeoutMs: number, signal: AbortSignal | undefined): Promise<T> {
    const answer = await this.#api.call<T>({ method: "POST", path, body, timeoutMs, signal });
    if (typeof answer !== "object" || answer === null) throw new ConnectionError(NOT_OURS);
    return answer;
  }
}

function pathOf(id: string): string {
  return `/v1/workers/${encodeURIComponent(id)}`;
}

/**
 * Whether a worker may hope that the same call succeeds later: there was no answer, the server has failed, or something in between has
 * answered in its place, such as a platform's "application not found" while it deploys.
 */
export function isTemporary(error: unknown): boolean {
  return isTransient(error) || (error instanceof ApiError && (error.status >= 500 || !error.isProblem));
}

/** The request is refused, and would be again. A proxy may refuse its size. */
export function isRefused(error: unknown): error is InvalidRequestError {
  return error instanceof InvalidRequestError && (error.isProblem || error.status === 413);
}

/** The worker was silent for too long, or the server has lost its memory: what it runs is void. */
export function isGone(error: unknown): boolean {
  return error instanceof NotFoundError && error.slug === "worker-not-found";
}

/** The key is wrong, was revoked, or lacks the scope. */
export function isDenied(error: unknown): boolean {
  return error instanceof ApiError && error.isProblem && (error.status === 401 || error.status === 403);
}
