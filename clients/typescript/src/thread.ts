/** A subscription's thread through its connections: what is asked for on each, and what the answers mean. No I/O. */

import type { SubscriptionEvent } from "./events.js";
import type { Ack, SnapshotEnd, Update } from "./messages.js";
import { FilterProgress, PubkeysProgress } from "./progress.js";
import type { Request } from "./selection.js";

type Ask = (request: { action: string; [key: string]: unknown }) => Promise<Ack>;
type Tell = (event: SubscriptionEvent) => void;

export interface Thread {
  /** Whether the connection may be let go now without that anything begins from the start. */
  readonly canPause: boolean;
  /** Subscribe on a new connection. Throws what a request throws. */
  begin(ask: Ask): Promise<void>;
  update(update: Update): void;
  snapshotEnd(end: SnapshotEnd): void;
  acked(ack: Ack, request: object): void;
}

/**
 * Unsubscribing from what nobody subscribes to: its ack tells the epoch before the first update comes. Without it a
 * cut between a state and its ack would leave ids of which nobody knows what they mean.
 */
const HELLO = { action: "unsubscribe", pubkeys: ["11111111111111111111111111111111"] };

function subscribed(ack: Ack): SubscriptionEvent {
  return { type: "subscribed", found: ack.found ?? [], foreign: ack.foreign ?? [], stale: ack.stale === true };
}

/** Named accounts, `requests` holding some each. */
export class PubkeysThread implements Thread {
  private readonly progress = new PubkeysProgress();
  /** What of the request under way begins anew although it resumes others. */
  private lost: string[] = [];
  readonly canPause = true;

  constructor(
    private readonly requests: readonly Request[],
    private readonly tell: Tell,
  ) {}

  async begin(ask: Ask): Promise<void> {
    const hello = ask(HELLO);
    // Only who has seen something must know the epoch before asking; a rejection is awaited below.
    if (this.progress.hasSeen) await hello;
    for (const each of this.requests) {
      const { request, lost } = this.progress.resume(each);
      if (lost.length && !("after" in request)) this.tell({ type: "resumed", recovered: false, unrecovered: lost });
      this.lost = lost;
      await Promise.all([hello, ask(request)]);
    }
  }

  update(update: Update): void {
    if (this.progress.see(update)) this.tell({ type: "update", update });
  }

  snapshotEnd(): void {}

  acked(ack: Ack, request: object): void {
    const lostThread = this.progress.enter(ack.epoch);
    if (lostThread.length) this.tell({ type: "resumed", recovered: false, unrecovered: lostThread });
    if (ack.action !== "subscribe") return;
    if ("after" in request) {
      const unrecovered = [...(ack.unrecovered ?? []), ...this.lost];
      this.tell({ type: "resumed", recovered: ack.recovered === true && !unrecovered.length, unrecovered });
    }
    this.tell(subscribed(ack));
  }
}

/** Accounts by type, program and fields: one request. */
export class FilterThread implements Thread {
  private readonly progress: FilterProgress;
  private settled = false;

  constructor(
    private readonly request: Request,
    resumable: boolean,
    private readonly tell: Tell,
  ) {
    this.progress = new FilterProgress(resumable);
  }

  get canPause(): boolean {
    return this.settled;
  }

  async begin(ask: Ask): Promise<void> {
    this.settled = false;
    const hello = ask(HELLO);
    if (this.progress.hasSeen) await hello;
    const { request, lost } = this.progress.resume(this.request);
    if (lost) this.tell({ type: "resumed", recovered: false, unrecovered: [] });
    await Promise.all([hello, ask(request)]);
  }

  update(update: Update): void {
    if (this.progress.see(update)) this.tell({ type: "update", update });
  }

  snapshotEnd(end: SnapshotEnd): void {
    this.settled = true;
    const recovered = this.progress.finish(end);
    if (recovered !== undefined) this.tell({ type: "resumed", recovered, unrecovered: [] });
    this.tell({ type: "snapshotEnd", count: end.count });
  }

  acked(ack: Ack): void {
    const lost = this.progress.enter(ack.epoch);
    if (lost) this.tell({ type: "resumed", recovered: false, unrecovered: [] });
    if (ack.action === "subscribe") this.tell(subscribed(ack));
  }
}
