/** Frames of a WebSocket client (RFC 6455, 5): bytes in, bytes out, no I/O. */

export const Opcode = { CONTINUATION: 0, TEXT: 1, BINARY: 2, CLOSE: 8, PING: 9, PONG: 10 } as const;

/** The largest message taken; an account's largest state, 10 MiB, is below 40 MiB as JSON. */
export const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
const MAX_CONTROL_BYTES = 125;

export interface Frame {
  opcode: number;
  final: boolean;
  payload: Uint8Array;
}

/** The peer does not speak the protocol; `code` is what to close with. */
export class FrameError extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

/** One final frame, masked as a client's must be. */
export function encodeFrame(opcode: number, payload: Uint8Array): Uint8Array {
  const size = payload.length;
  const extended = size < 126 ? 0 : size < 65536 ? 2 : 8;
  const frame = new Uint8Array(2 + extended + 4 + size);
  const view = new DataView(frame.buffer);
  frame[0] = 0x80 | opcode;
  frame[1] = 0x80 | (extended === 0 ? size : extended === 2 ? 126 : 127);
  if (extended === 2) view.setUint16(2, size);
  if (extended === 8) view.setBigUint64(2, BigInt(size));
  const mask = crypto.getRandomValues(new Uint8Array(4));
  frame.set(mask, 2 + extended);
  const start = 6 + extended;
  for (let index = 0; index < size; index += 1) frame[start + index] = payload[index]! ^ mask[index & 3]!;
  return frame;
}

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  private chunks: Uint8Array[] = [];
  private size = 0;
  private needed = 2;

  /** Take bytes; the frames that are complete now. Throws FrameError. */
  *read(chunk: Uint8Array): Generator<Frame> {
    this.chunks.push(chunk);
    this.size += chunk.length;
    // Joined only when a frame may be complete: a large one comes in hundreds of chunks.
    while (this.size >= this.needed) {
      const bytes = this.join();
      const frame = this.cut(bytes);
      if (frame) yield frame;
    }
  }

  private join(): Uint8Array {
    if (this.chunks.length === 1) return this.chunks[0]!;
    const bytes = new Uint8Array(this.size);
    let offset = 0;
    for (const chunk of this.chunks) {
      bytes.set(chunk, offset);
      offset += chunk.length;
    }
    this.chunks = [bytes];
    return bytes;
  }

  private cut(bytes: Uint8Array): Frame | null {
    const [first, second] = [bytes[0]!, bytes[1]!];
    if (first & 0x70 || second & 0x80) throw new FrameError(1002, "a frame with reserved bits or a mask");
    const short = second & 0x7f;
    const head = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (bytes.length < head) return this.wait(head);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = short < 126 ? short : short === 126 ? view.getUint16(2) : Number(view.getBigUint64(2));
    const opcode = first & 0x0f;
    const final = (first & 0x80) !== 0;
    if (opcode >= 8 && (size > MAX_CONTROL_BYTES || !final)) throw new FrameError(1002, "a control frame too large");
    if (size > MAX_MESSAGE_BYTES) throw new FrameError(1009, "a message over 64 MiB");
    if (bytes.length < head + size) return this.wait(head + size);
    const rest = bytes.subarray(head + size);
    this.chunks = rest.length ? [rest] : [];
    this.size = rest.length;
    this.needed = 2;
    return { opcode, final, payload: bytes.subarray(head, head + size) };
  }

  private wait(needed: number): null {
    this.needed = needed;
    return null;
  }
}
