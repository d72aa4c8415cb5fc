/**
 * A WebSocket for Node.js 20: Node's HTTP client does the handshake and TLS, frames.ts the rest.
 *
 * It has what `Socket` asks for, takes text only and offers no extension.
 */

import { createHash } from "node:crypto";
import { request as requestHttp, type Answer, type Request, type Stream } from "node:http";
import { request as requestHttps } from "node:https";

import { BROKEN_OFF as ABNORMAL, PROTOCOL_ERROR } from "./errors.js";
import { encodeFrame, FrameError, FrameReader, MAX_MESSAGE_BYTES, Opcode, type Frame } from "./frames.js";
import type { Socket } from "./socket.js";

const HANDSHAKE_SALT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/** How long the peer may take to answer our close frame. */
const CLOSE_TIMEOUT_MS = 2000;
/** Of a proxy, or a server that is full: what the next attempt may not meet. */
const PASSING_STATUSES = [408, 429, 500, 502, 503, 504];

export class NodeWebSocket implements Socket {
  binaryType = "arraybuffer";
  onopen: ((event: any) => unknown) | null = null;
  onmessage: ((event: any) => unknown) | null = null;
  onerror: ((event: any) => unknown) | null = null;
  onclose: ((event: any) => unknown) | null = null;

  private readonly key = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(16))));
  private readonly request: Request;
  private readonly reader = new FrameReader();
  private stream: Stream | null = null;
  private parts: Uint8Array[] = [];
  private partsSize = 0;
  private closing = false;
  private ended = false;
  private closeInfo = { code: ABNORMAL, reason: "the connection broke off" };

  constructor(url: string) {
    const target = new URL(url.replace(/^ws/i, "http"));
    const headers = {
      connection: "Upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": this.key,
    };
    const begin = target.protocol === "https:" ? requestHttps : requestHttp;
    this.request = begin(target, { headers, agent: false });
    this.request.on("upgrade", (answer, stream, head) => this.open(answer, stream, head));
    this.request.on("response", (answer) => {
      answer.resume();
      const told = `the server answered with HTTP status ${answer.statusCode}, not with a WebSocket`;
      this.fail(PASSING_STATUSES.includes(answer.statusCode!) ? ABNORMAL : PROTOCOL_ERROR, told);
    });
    this.request.on("error", (error) => this.fail(ABNORMAL, error.message));
    this.request.end();
  }

  send(text: string): void {
    if (this.stream && !this.closing) this.stream.write(encodeFrame(Opcode.TEXT, new TextEncoder().encode(text)));
  }

  close(code = 1000, reason = ""): void {
    if (!this.stream) return this.fail(ABNORMAL, "closed before it was open");
    this.sendClose(code, reason);
  }

  private open(answer: Answer, stream: Stream, head: Uint8Array): void {
    if (this.ended) return stream.destroy();
    stream.on("error", (error) => this.fail(ABNORMAL, error.message));
    const expected = createHash("sha1").update(this.key + HANDSHAKE_SALT).digest("base64");
    if (answer.headers["sec-websocket-accept"] !== expected) {
      stream.destroy();
      return this.fail(PROTOCOL_ERROR, "the server's handshake is wrong: it is no WebSocket server");
    }
    this.stream = stream;
    stream.setTimeout(0);
    stream.setNoDelay();
    stream.on("data", (chunk) => this.take(chunk));
    stream.on("end", () => this.finish());
    stream.on("close", () => this.finish());
    this.onopen?.({});
    if (head.length) this.take(head);
  }

  private take(chunk: Uint8Array): void {
    if (this.ended) return;
    try {
      for (const frame of this.reader.read(chunk)) this.takeFrame(frame);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.sendClose(error.code, error.message);
      this.fail(ABNORMAL, error.message);
    }
  }

  private takeFrame(frame: Frame): void {
    switch (frame.opcode) {
      case Opcode.PING:
        if (!this.closing) this.stream?.write(encodeFrame(Opcode.PONG, frame.payload));
        return;
      case Opcode.PONG:
        return;
      case Opcode.CLOSE:
        return this.takeClose(frame.payload);
      case Opcode.TEXT:
      case Opcode.CONTINUATION:
        return this.takePart(frame);
      default:
        throw new FrameError(frame.opcode === Opcode.BINARY ? 1003 : 1002, "a frame that is neither text nor control");
    }
  }

  private takePart(frame: Frame): void {
    const begins = frame.opcode === Opcode.TEXT;
    if (begins === this.parts.length > 0) throw new FrameError(1002, "fragments in a wrong order");
    this.parts.push(frame.payload);
    this.partsSize += frame.payload.length;
    if (this.partsSize > MAX_MESSAGE_BYTES) throw new FrameError(1009, "a message over 64 MiB");
    if (!frame.final) return;
    const bytes = this.parts.length === 1 ? frame.payload : joined(this.parts, this.partsSize);
    this.parts = [];
    this.partsSize = 0;
    if (!this.closing) this.onmessage?.({ data: decodeText(bytes) });
  }

  private takeClose(payload: Uint8Array): void {
    const code = payload.length >= 2 ? (payload[0]! << 8) | payload[1]! : 1005;
    this.closeInfo = { code, reason: decodeText(payload.subarray(2)) };
    this.sendClose(code === 1005 ? 1000 : code, "");
    this.stream?.end();
    this.finish();
  }

  private sendClose(code: number, reason: string): void {
    if (this.closing || !this.stream) return;
    this.closing = true;
    const text = new TextEncoder().encode(reason).subarray(0, 123);
    this.stream.write(encodeFrame(Opcode.CLOSE, new Uint8Array([code >> 8, code & 0xff, ...text])));
    later(() => this.fail(ABNORMAL, "no answer to the close frame"));
  }

  private fail(code: number, reason: string): void {
    if (this.ended) return;
    this.closeInfo = { code, reason };
    this.onerror?.({ message: reason });
    this.finish();
    this.stream?.destroy();
    this.request.destroy();
  }

  private finish(): void {
    if (this.ended) return;
    this.ended = true;
    // A peer that never ends its side would keep the socket, and the process, for ever.
    later(() => this.stream?.destroy());
    this.onclose?.(this.closeInfo);
  }
}

/** Act when the peer had its time; a process that has nothing else to do ends before. */
function later(act: () => void): void {
  const timer: unknown = setTimeout(act, CLOSE_TIMEOUT_MS);
  (timer as { unref(): void }).unref();
}

function joined(parts: Uint8Array[], size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new FrameError(1007, "text that is not UTF-8");
  }
}
