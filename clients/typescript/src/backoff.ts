/** Delays between tries, and waits that a signal ends. */

export interface Backoff {
  /** The longest delay after the first failure; it doubles after each further one. */
  readonly baseMs: number;
  readonly capMs: number;
}

/**
 * The delay before try `failures + 1`, in milliseconds: random between half of the exponential delay and all of it, so that clients
 * that failed together do not come back together. Never less than the server asked for.
 */
export function delayMs({ baseMs, capMs }: Backoff, failures: number, leastMs = 0): number {
  const longest = Math.min(capMs, baseMs * 2 ** Math.min(failures - 1, 20));
  return leastMs + longest * (0.5 + Math.random() / 2);
}

/** Resolves after the time. Rejects with the signal's reason if that is aborted first. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort, { once: true });
  });
}
