/** Wakes those who wait for something to change. What changed they look up themselves: a ring that nobody waits for is not kept. */
export class Bell {
  #waiting: Array<() => void> = [];

  ring(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  rung(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
