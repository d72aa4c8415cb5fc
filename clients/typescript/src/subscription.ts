/** A subscription: connects, follows, resumes, until it is closed or cannot go on. */

import { Connection, ConnectionLost, type CloseInfo, type Timing } from "./connection.js";
import { AccountSocketError, BROKEN_OFF, isFinalClose, isPassing, PROTOCOL_ERROR, waitBeforeRetry } from "./errors.js";
import { Listeners, type EventListener, type EventType, type SubscriptionEvent } from "./events.js";
import type { Update } from "./messages.js";
import { Queue } from "./queue.js";
import { isResumable, toRequests, type Selection } from "./selection.js";
import type { SocketConstructor } from "./socket.js";
import { FilterThread, PubkeysThread, type Thread } from "./thread.js";

/** How a client connects and waits; every one is optional in `connect`. */
export interface Settings extends Timing {
  /** Wait before the first attempt to reconnect; each further one doubles it. */
  firstRetryMs: number;
  maxRetryMs: number;
  /** Updates waiting for a slow consumer; more pause the subscription. */
  maxQueued: number;
  /** Whether a server that is not there at first is waited for; else it ends the subscription with `no_server`. */
  waitForServer: boolean;
}

/** States cannot be asked for from the middle on, so that many times `maxQueued` may wait while they come. */
const QUEUES_OF_STATES = 16;

/** A connection that lasted so long worked: the wait before the next one begins anew. */
const STEADY_MS = 30_000;

/**
 * Updates of a selection of accounts, over a connection of its own.
 *
 * Iterate over it, or over `events()`, or use `on`; leaving a loop closes it.
 */
export class Subscription<Told extends Update = Update> implements AsyncIterable<Told> {
  /** Settles with the last event: null after `close()`, else why it could not go on. Never rejects. */
  readonly closed: Promise<AccountSocketError | null>;

  private readonly queue = new Queue<SubscriptionEvent>();
  private readonly listeners = new Listeners();
  private readonly thread: Thread;
  private connection: Connection | null = null;
  /** Whether an account-socket server has ever answered. */
  private heard = false;
  private iterated = false;
  private ended = false;
  private paused = false;
  private wake: () => void = () => {};
  private settle!: (error: AccountSocketError | null) => void;

  /** Use `Client.subscribe`. Throws AccountSocketError `invalid_options`. */
  constructor(
    private readonly url: string,
    private readonly socket: Promise<SocketConstructor>,
    private readonly settings: Settings,
    selection: Selection,
  ) {
    const tell = (event: SubscriptionEvent): void => this.tell(event);
    const requests = toRequests(selection);
    this.thread = selection.pubkeys
      ? new PubkeysThread(requests, tell)
      : new FilterThread(requests[0]!, isResumable(selection), tell);
    this.closed = new Promise((resolve) => (this.settle = resolve));
    this.run().catch((error: unknown) => this.end(new AccountSocketError("no_socket", String(error))));
  }

  /** Call `listener` at each event of a type. Returns a function that takes it off. With one for updates none queue. */
  on<Type extends EventType>(type: Type, listener: EventListener<Type, Told>): () => void {
    if (type === "update") {
      this.queue.clear();
      if (this.paused) this.wake();
    }
    return this.listeners.add(type, listener);
  }

  /** Stop: the connection is closed, what is queued is dropped, loops end. Again is harmless. */
  close(): void {
    this.queue.clear();
    this.end(null);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Told, void, undefined> {
    for await (const event of this.events()) if (event.type === "update") yield event.update;
  }

  /** Every event in order, updates among them. Throws AccountSocketError where it cannot go on. */
  async *events(): AsyncGenerator<SubscriptionEvent<Told>, void, undefined> {
    if (this.iterated) throw new AccountSocketError("invalid_options", "this subscription is already iterated over");
    this.iterated = true;
    try {
      for (let event; (event = await this.queue.take()); ) {
        if (this.paused && !this.isFull()) this.wake();
        yield event as SubscriptionEvent<Told>;
      }
    } finally {
      this.close();
    }
  }

  /** Whether a paused subscription has to wait on. */
  private isFull(): boolean {
    return !this.ended && this.queue.size > this.settings.maxQueued / 2;
  }

  private async run(): Promise<void> {
    const socket = await this.socket;
    let failures = 0;
    while (!this.ended) {
      const [connectedMs, info] = await this.live(socket);
      failures = connectedMs >= STEADY_MS ? 0 : failures + 1;
      if (this.ended) return;
      if (isFinalClose(info.code)) return this.end(new AccountSocketError(`closed_${info.code}`, info.reason));
      if (this.isNoServer(info.code)) return this.end(noServer(info));
      if (this.paused) {
        while (this.isFull()) await new Promise<void>((resolve) => (this.wake = resolve));
        this.paused = false;
        failures = 0;
        continue;
      }
      const retryInMs = waitBeforeRetry(failures, info.code, this.settings.firstRetryMs, this.settings.maxRetryMs);
      this.tell({ type: "disconnected", ...info, retryInMs: Math.round(retryInMs) });
      await this.wait(retryInMs);
    }
  }

  /** The life of one connection. Returns for how long it was open, and how it ended. */
  private async live(socket: SocketConstructor): Promise<[number, CloseInfo]> {
    const connection = new Connection(socket, this.url, this.settings, {
      update: (update) => this.thread.update(update),
      snapshotEnd: (end) => this.thread.snapshotEnd(end),
      acked: (ack, request) => this.thread.acked(ack, request),
    });
    this.connection = connection;
    await connection.opened;
    const openedAt = Date.now();
    try {
      await this.thread.begin((request) => connection.request(request));
    } catch (error) {
      this.judge(connection, error);
    }
    const info = await connection.closed;
    this.heard ||= connection.heard;
    this.connection = null;
    return [Date.now() - openedAt, info];
  }

  /** Whether nobody answers at this URL, or somebody else. Once a server has, a proxy may stand in its place. */
  private isNoServer(code: number): boolean {
    if (this.heard) return false;
    return code === PROTOCOL_ERROR || (code === BROKEN_OFF && !this.settings.waitForServer);
  }

  private judge(connection: Connection, error: unknown): void {
    if (error instanceof ConnectionLost) return;
    if (error instanceof AccountSocketError && isPassing(error.code)) return connection.close(error.message);
    this.end(error instanceof AccountSocketError ? error : new AccountSocketError("internal", String(error)));
  }

  private tell(event: SubscriptionEvent): void {
    if (this.ended) return;
    this.listeners.tell(event);
    if (this.listeners.has("update")) return;
    this.queue.put(event);
    if (event.type === "update" && this.queue.size >= this.settings.maxQueued) this.takeAPause();
  }

  private takeAPause(): void {
    const { maxQueued } = this.settings;
    if (this.paused) return;
    if (this.thread.canPause) {
      this.paused = true;
      this.connection?.close("the consumer is slow");
      this.tell({ type: "paused", queued: this.queue.size });
    } else if (this.queue.size >= QUEUES_OF_STATES * maxQueued) {
      const waiting = `${this.queue.size} states and updates wait to be consumed`;
      this.end(new AccountSocketError("too_many_states", `${waiting}; raise maxQueued or select less`));
    }
  }

  private end(error: AccountSocketError | null): void {
    if (this.ended) return;
    this.tell({ type: "end", error });
    this.ended = true;
    this.queue.end(error);
    this.connection?.close("");
    this.wake();
    this.settle(error);
  }

  /** Wait, or until it is closed. */
  private async wait(ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.wake = resolve;
      timer = setTimeout(resolve, ms);
    });
    clearTimeout(timer);
  }
}

function noServer({ code, reason }: CloseInfo): AccountSocketError {
  const told = code === PROTOCOL_ERROR ? "what answers is not an account-socket server" : "no server answers";
  return new AccountSocketError("no_server", `${told}: ${reason}`);
}
