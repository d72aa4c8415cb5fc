/** What a subscription tells, and to whom. */

import type { AccountSocketError } from "./errors.js";
import type { Update } from "./messages.js";

/** One thing that happened to a subscription; `type` tells which. In order: a `resumed` stands where it happened. */
export type SubscriptionEvent<Told extends Update = Update> =
  | { type: "update"; update: Told }
  /** Subscribed: the states have come (by filter: they come). `foreign` belong to programs the server does not read. */
  | { type: "subscribed"; found: string[]; foreign: string[]; stale: boolean }
  /**
   * After a cut. `recovered`: what was missed has come, nothing is lost. Otherwise updates of these accounts (by
   * filter: of any; the list is empty) may be missing, and their states come again, as at the start.
   */
  | { type: "resumed"; recovered: boolean; unrecovered: string[] }
  /** By filter: all `count` states have been told. */
  | { type: "snapshotEnd"; count: number }
  /** The connection ended; the next attempt is in `retryInMs`. */
  | { type: "disconnected"; code: number; reason: string; retryInMs: number }
  /** The queue is full: the connection is let go until the half of it is consumed, then resumed. */
  | { type: "paused"; queued: number }
  /** The last event; `error` is null after a `close()`. */
  | { type: "end"; error: AccountSocketError | null };

export type EventType = SubscriptionEvent["type"];
export type EventOf<Type extends EventType, Told extends Update = Update> = Extract<
  SubscriptionEvent<Told>,
  { type: Type }
>;
export type EventListener<Type extends EventType, Told extends Update = Update> = (event: EventOf<Type, Told>) => void;

/** Listeners by type of event. */
export class Listeners {
  private readonly byType = new Map<EventType, Set<(event: never) => void>>();

  /** Returns a function that takes the listener off again. */
  add<Type extends EventType, Told extends Update>(type: Type, listener: EventListener<Type, Told>): () => void {
    const listeners = this.byType.get(type) ?? new Set();
    this.byType.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  has(type: EventType): boolean {
    return (this.byType.get(type)?.size ?? 0) > 0;
  }

  tell(event: SubscriptionEvent): void {
    for (const listener of this.byType.get(event.type) ?? []) {
      try {
        listener(event as never);
      } catch (error) {
        // A fault of the listener is its program's, as an uncaught one; the stream goes on.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
