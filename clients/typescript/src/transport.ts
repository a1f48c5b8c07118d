/** One HTTP exchange. What a call means, and whether it is repeated, is decided in `api.ts`. */
import { ConnectionError } from "./errors.js";

export interface HttpRequest {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
  readonly signal: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  /** The value of `Retry-After`. */
  readonly retryAfter: string | undefined;
  readonly body: string;
}

/** Rejects with {@link ConnectionError}, or with the signal's reason. */
export type Transport = (request: HttpRequest) => Promise<HttpAnswer>;

/** Requests of one client that are under way at the same time; further ones wait. So many connections there are at most. */
export const MAX_CONNECTIONS = 64;

/** `fetch`, for every runtime that has it. */
export function fetchTransport(maxConnections = MAX_CONNECTIONS): Transport {
  const places = new Places(maxConnections);
  return async (request) => {
    await places.take(request.signal);
    try {
      return await exchange(request);
    } finally {
      places.giveBack();
    }
  };
}

async function exchange({ url, method, headers, body, signal }: HttpRequest): Promise<HttpAnswer> {
  try {
    // A redirect is answered as an error: a POST that becomes a GET, and a key that goes elsewhere, are worse.
    const init = { method, headers, signal, redirect: "manual" as const, ...(body === undefined ? {} : { body }) };
    const response = await fetch(url, init);
    const text = await response.text();
    return { status: response.status, retryAfter: response.headers.get("retry-after") ?? undefined, body: text };
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new ConnectionError("the server cannot be reached", { cause: error });
  }
}

/** A counting semaphore, first come first served. */
class Places {
  #free: number;
  readonly #waiting: Array<() => void> = [];

  constructor(places: number) {
    this.#free = places;
  }

  take(signal: AbortSignal): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const abort = () => {
        this.#waiting.splice(this.#waiting.indexOf(next), 1);
        reject(signal.reason);
      };
      const next = () => {
        signal.removeEventListener("abort", abort);
        resolve();
      };
      if (signal.aborted) return reject(signal.reason);
      signal.addEventListener("abort", abort, { once: true });
      this.#waiting.push(next);
    });
  }

  giveBack(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}
