/** Events on their way to one consumer. */

/** First in, first out; `take` waits for what comes. Not bounded by itself: who puts looks at `size`. */
export class Queue<Event> {
  private items: Event[] = [];
  private head = 0;
  private waiting: Array<() => void> = [];
  private ended: { error: Error | null } | null = null;

  get size(): number {
    return this.items.length - this.head;
  }

  put(event: Event): void {
    if (this.ended) return;
    this.items.push(event);
    this.wake();
  }

  /** No more events: what is queued is still taken, then the end, or the error. The first end counts. */
  end(error: Error | null): void {
    this.ended ??= { error };
    this.wake();
  }

  /** Drop what is queued. */
  clear(): void {
    this.items = [];
    this.head = 0;
  }

  /** The next event; `undefined` at the end. Throws the error it ended with. */
  async take(): Promise<Event | undefined> {
    while (this.size === 0) {
      if (this.ended?.error) throw this.ended.error;
      if (this.ended) return undefined;
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
    const event = this.items[this.head];
    this.head += 1;
    // Moved up rarely: shifting at each event would cost as many steps as there are events.
    if (this.head > 1024 && this.head * 2 > this.items.length) {
      this.items = this.items.slice(this.head);
      this.head = 0;
    }
    return event;
  }

  private wake(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}
