/**
 * Calls of the server's HTTP API: one try ({@link Api.call}), or several ({@link Api.repeat}).
 *
 * A call whose reply was lost may have had its effect. `repeat` is only for calls that may be made twice: reads, `PUT`, and
 * enqueues, which carry an `Idempotency-Key`.
 */
import { type Backoff, delayMs, sleep } from "./backoff.js";
import { ConnectionError, RequestTimeoutError, apiError, isTransient, retryAfterMs } from "./errors.js";
import type { HttpRequest, Transport } from "./transport.js";

export interface Call {
  readonly method: HttpRequest["method"];
  /** Under the server's URL, such as `/v1/jobs`. */
  readonly path: string;
  /** JSON text. */
  readonly body?: string | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** For one try. */
  readonly timeoutMs: number;
  /** Ends the call; it rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

export interface Patience {
  /** Tries in all. */
  readonly tries: number;
  /** For all tries and the delays between them. */
  readonly totalMs: number;
}

/** Delays between the tries of a producer's call. */
const BACKOFF: Backoff = { baseMs: 200, capMs: 5_000 };

/** Where calls go, and the headers that each of them carries. */
export interface Destination {
  readonly base: string;
  headers(): Record<string, string>;
}

export class Api {
  readonly #destination: Destination;
  readonly #transport: Transport;

  constructor(destination: Destination, transport: Transport) {
    this.#destination = destination;
    this.#transport = transport;
  }

  /** One try. @throws ApiError, ConnectionError, or the signal's reason */
  async call<T>({ method, path, body, headers: extra, timeoutMs, signal }: Call): Promise<T> {
    // One signal for each call, and no `AbortSignal.any`: that keeps memory for as long as the caller's signal lives.
    const ending = new AbortController();
    const abort = () => ending.abort(signal?.reason);
    const expire = () => {
      ending.abort(new RequestTimeoutError(`the server has not answered ${method} ${path} within ${Math.ceil(timeoutMs / 100) / 10} s`));
    };
    signal?.throwIfAborted();
    signal?.addEventListener("abort", abort, { once: true });
    const timer = setTimeout(expire, timeoutMs);
    const headers = { ...this.#destination.headers(), ...extra };
    if (body !== undefined) headers["content-type"] = "application/json";
    try {
      const url = this.#destination.base + path;
      return answerOf(await this.#transport({ method, url, headers, body, signal: ending.signal })) as T;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Tries as long as the server is unavailable and the patience lasts. The last failure is thrown. */
  async repeat<T>(call: Call, { tries, totalMs }: Patience): Promise<T> {
    const end = performance.now() + totalMs;
    for (let failures = 1; ; failures += 1) {
      const left = end - performance.now();
      try {
        return await this.call<T>({ ...call, timeoutMs: Math.max(1, Math.min(call.timeoutMs, left)) });
      } catch (error) {
        const delay = delayMs(BACKOFF, failures, retryAfterMs(error));
        if (!isTransient(error) || failures >= tries || performance.now() + delay >= end) throw error;
        await sleep(delay, call.signal);
      }
    }
  }
}

function answerOf({ status, retryAfter, body }: { status: number; retryAfter: string | undefined; body: string }): unknown {
  if (status < 200 || status >= 300) throw apiError(status, body, secondsOf(retryAfter));
  if (body === "") return undefined;
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new ConnectionError("the answer is not JSON: it was cut, or is not Holdfast's", { cause: error });
  }
}

/** Longest `Retry-After` that is obeyed, in seconds: a proxy's mistake does not silence a client for a day. */
const MAX_RETRY_AFTER_SECONDS = 300;

/** `Retry-After` in seconds. A date is not read: it would need a right clock. */
function secondsOf(retryAfter: string | undefined): number | undefined {
  if (retryAfter === undefined || !/^\d+(\.\d+)?$/.test(retryAfter)) return undefined;
  return Math.min(Number(retryAfter), MAX_RETRY_AFTER_SECONDS);
}
