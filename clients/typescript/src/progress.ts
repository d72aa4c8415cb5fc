/** What of a subscription has been seen, and how to ask for what came later. No I/O. */

import type { Integer, SnapshotEnd, Update } from "./messages.js";
import type { Request } from "./selection.js";

/** A subscription to named accounts: the last update of each. */
export class PubkeysProgress {
  private epoch: string | null = null;
  private readonly last = new Map<string, { id: Integer | null; createdAt: string }>();

  get hasSeen(): boolean {
    return this.last.size > 0;
  }

  /** The server's epoch, told before anything of it. Returns the accounts whose thread is lost thereby. */
  enter(epoch: string): string[] {
    const lost = this.epoch === null || this.epoch === epoch ? [] : [...this.last.keys()];
    this.epoch = epoch;
    if (lost.length) this.last.clear();
    return lost;
  }

  /** Note an update. Returns false for a repeat, which a state may be that was sent before a cut. */
  see(update: Update): boolean {
    const { id, created_at: createdAt } = update.account;
    const last = this.last.get(update.pubkey);
    if (last && id !== null && last.id === id && last.createdAt === createdAt) return false;
    this.last.set(update.pubkey, { id: id ?? last?.id ?? null, createdAt });
    return true;
  }

  /** A request for what came later than what has been seen, and the accounts of it that begin anew. */
  resume(request: Request): { request: Request; lost: string[] } {
    const seen = (request.pubkeys ?? []).filter((pubkey) => this.last.has(pubkey));
    const after: { [pubkey: string]: Integer } = {};
    const lost: string[] = [];
    for (const pubkey of seen) {
      const id = this.last.get(pubkey)!.id;
      if (id === null) lost.push(pubkey);
      else after[pubkey] = id;
    }
    if (lost.length === seen.length) return { request, lost };
    return { request: { ...request, after, epoch: this.epoch }, lost };
  }
}

/** A subscription by filter: the highest id, once all states have been seen. */
export class FilterProgress {
  hasSeen = false;
  private epoch: string | null = null;
  private highest: Integer | null = null;
  private complete = false;
  /** What has come before the end of the states: a page may repeat it, and so does a resume that is cut. */
  private repeated: Set<Integer> | null = new Set();
  private resumedFrom: Integer | null = null;

  constructor(private readonly resumable: boolean) {}

  /** Returns whether the thread is lost thereby. */
  enter(epoch: string): boolean {
    const lost = this.hasSeen && this.epoch !== null && this.epoch !== epoch;
    this.epoch = epoch;
    if (lost) this.restart();
    return lost;
  }

  see(update: Update): boolean {
    const { id } = update.account;
    this.hasSeen = true;
    if (id === null) return true;
    if (this.resumable && this.repeated?.has(id)) return false;
    this.repeated?.add(id);
    if (this.highest === null || id > this.highest) this.highest = id;
    return true;
  }

  /** As of PubkeysProgress, for all accounts at once. */
  resume(request: Request): { request: Request; lost: boolean } {
    const from = this.resumedFrom ?? this.highest;
    if (!this.resumable || !this.complete || from === null) {
      const lost = this.hasSeen;
      this.restart();
      return { request, lost };
    }
    this.resumedFrom = from;
    this.repeated ??= new Set();
    return { request: { ...request, after_id: from, epoch: this.epoch }, lost: false };
  }

  /** All states, or all that was missed, has come. Returns whether a resume worked; undefined if there was none. */
  finish(end: SnapshotEnd): boolean | undefined {
    const recovered = this.resumedFrom === null ? undefined : end.recovered === true;
    // What began anew says what is highest; the id that did not lead on may be above all others.
    if (recovered === false) this.highest = highestOf(this.repeated);
    this.complete = true;
    this.repeated = null;
    this.resumedFrom = null;
    return recovered;
  }

  private restart(): void {
    this.hasSeen = false;
    this.highest = null;
    this.complete = false;
    this.repeated = new Set();
    this.resumedFrom = null;
  }
}

function highestOf(ids: Iterable<Integer> | null): Integer | null {
  let highest: Integer | null = null;
  for (const id of ids ?? []) if (highest === null || id > highest) highest = id;
  return highest;
}
