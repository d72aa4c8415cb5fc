/** One WebSocket connection: requests and their answers, updates, heartbeat. */

import { AccountSocketError, BROKEN_OFF, PROTOCOL_ERROR } from "./errors.js";
import { stringify } from "./json.js";
import type { Ack, ErrorAnswer, SnapshotEnd, Update } from "./messages.js";
import { readMessage, WrongMessage, type Message } from "./reading.js";
import type { Socket, SocketConstructor } from "./socket.js";

export interface Timing {
  /** How long a handshake, or the answer to a ping, may take. */
  timeoutMs: number;
  /** After how long a silence the server is asked whether it is still there. */
  heartbeatMs: number;
}

/** Who listens to a connection; called in the order of the messages, before the next one is read. */
export interface Listener {
  update(update: Update): void;
  snapshotEnd(end: SnapshotEnd): void;
  acked(ack: Ack, request: object): void;
}

/** How a connection ended; 1006: without a word; 1002: what the server said is nothing of ours. */
export interface CloseInfo {
  code: number;
  reason: string;
}

/** The connection ended before the answer came; `closed` says why. */
export class ConnectionLost extends Error {}

/** A request may have to wait for states from the node; a server that is dead is found by the heartbeat. */
const ANSWER_TIMEOUT_MS = 60_000;

interface Pending {
  request: { action: string };
  resolve(ack: Ack): void;
  reject(error: Error): void;
}

export class Connection {
  /** Settles when the connection has ended, for whatever reason; never rejects. */
  readonly closed: Promise<CloseInfo>;
  /** Whether a message of an account-socket server has come. */
  heard = false;
  /** Settles when the connection is open, or has ended, if it never came to be open; never rejects. */
  readonly opened: Promise<void>;

  private readonly socket: Socket;
  private readonly pending = new Map<number, Pending>();
  private lastRequest = 0;
  private heardAt = Date.now();
  private pingedAt: number | null = null;
  private pulse: ReturnType<typeof setInterval> | undefined;
  private settle!: (info: CloseInfo) => void;
  private settleOpened!: () => void;
  private handshake: ReturnType<typeof setTimeout> | undefined;
  private ended = false;

  /** Connect. Throws what `makeSocket` throws. */
  constructor(
    makeSocket: SocketConstructor,
    url: string,
    private readonly timing: Timing,
    private readonly listener: Listener,
  ) {
    this.closed = new Promise((resolve) => (this.settle = resolve));
    this.opened = new Promise((resolve) => (this.settleOpened = resolve));
    this.socket = new makeSocket(url);
    this.socket.binaryType = "arraybuffer";
    let fault = "";
    this.handshake = setTimeout(() => this.drop("the handshake took too long"), timing.timeoutMs);
    this.socket.onopen = () => {
      clearTimeout(this.handshake);
      if (this.ended) return;
      this.pulse = setInterval(() => this.beat(), Math.min(timing.heartbeatMs, timing.timeoutMs) / 2);
      this.settleOpened();
    };
    this.socket.onerror = (event: { message?: string }) => (fault = event.message ?? "");
    this.socket.onclose = (event: CloseInfo) => {
      this.end({ code: event.code, reason: event.reason || fault || "the connection broke off" });
    };
    this.socket.onmessage = (event: { data: unknown }) => this.take(event.data);
  }

  /** Send a request. Throws AccountSocketError for an error answer, ConnectionLost if none came. */
  request(request: { action: string; [key: string]: unknown }): Promise<Ack> {
    if (this.ended) return Promise.reject(new ConnectionLost());
    this.lastRequest += 1;
    const id = this.lastRequest;
    this.socket.send(stringify({ ...request, id }));
    return new Promise<Ack>((resolve, reject) => {
      const timer = setTimeout(() => this.drop("a request was not answered"), ANSWER_TIMEOUT_MS);
      const settled = <Value>(settle: (value: Value) => void) => (value: Value): void => {
        clearTimeout(timer);
        settle(value);
      };
      this.pending.set(id, { request, resolve: settled(resolve), reject: settled(reject) });
    });
  }

  /** Close with a close frame; nothing of it is heard from now on. */
  close(reason: string): void {
    this.end({ code: 1000, reason });
    this.socket.close(1000); // the reason may be longer than the 123 bytes that a close frame holds
  }

  private drop(reason: string, code = BROKEN_OFF): void {
    this.end({ code, reason });
    this.socket.close();
  }

  private end(info: CloseInfo): void {
    if (this.ended) return;
    this.ended = true;
    clearTimeout(this.handshake);
    clearInterval(this.pulse);
    for (const { reject } of this.pending.values()) reject(new ConnectionLost());
    this.pending.clear();
    this.settle(info);
    this.settleOpened();
  }

  private beat(): void {
    const now = Date.now();
    if (this.pingedAt !== null) {
      if (now - this.pingedAt >= this.timing.timeoutMs) this.drop("no answer to a ping");
    } else if (now - this.heardAt >= this.timing.heartbeatMs) {
      this.pingedAt = now;
      this.socket.send('{"action":"ping","id":0}');
    }
  }

  private take(data: unknown): void {
    if (this.ended) return;
    this.heardAt = Date.now();
    this.pingedAt = null;
    let message: Message | null;
    try {
      message = readMessage(data);
    } catch (error) {
      if (error instanceof WrongMessage) return this.drop(error.message, PROTOCOL_ERROR);
      throw error;
    }
    if (message === null) return; // it was not asked for
    this.heard = true;
    if ("account" in message) return this.listener.update(message);
    if (message.type === "snapshot_end") return this.listener.snapshotEnd(message);
    this.takeAnswer(message);
  }

  private takeAnswer(answer: Ack | ErrorAnswer): void {
    const pending = this.pending.get(answer.id as number);
    if (!pending) return;
    if (answer.type === "ack" && answer.action !== pending.request.action) {
      return this.drop("the server answered what was not asked", PROTOCOL_ERROR);
    }
    this.pending.delete(answer.id as number);
    if (answer.type === "error") return pending.reject(new AccountSocketError(answer.code, answer.message));
    this.listener.acked(answer, pending.request);
    pending.resolve(answer);
  }
}
