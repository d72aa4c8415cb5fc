import assert from "node:assert/strict";
import { test } from "node:test";

import { encodeFrame, FrameError, FrameReader, Opcode } from "../dist/frames.js";

/** A frame as a server sends it: not masked. */
function serverFrame(opcode, payload, first = 0x80 | opcode) {
  const size = payload.length;
  const head = size < 126 ? [size] : size < 65536 ? [126, size >> 8, size & 255] : [127, 0, 0, 0, 0, ...bytesOf(size)];
  return Uint8Array.from([first, ...head, ...payload]);
}
const bytesOf = (size) => [size >>> 24, (size >>> 16) & 255, (size >>> 8) & 255, size & 255];

test("frames of every size are cut out of a stream that comes in any pieces", () => {
  const sizes = [0, 1, 125, 126, 127, 65535, 65536, 70000];
  const sent = sizes.map((size) => Uint8Array.from({ length: size }, (_, index) => (index * 7) & 255));
  const stream = Buffer.concat(sent.map((payload) => serverFrame(Opcode.TEXT, payload)));
  for (const piece of [1, 2, 3, 1000, 65536, stream.length]) {
    const reader = new FrameReader();
    const found = [];
    for (let start = 0; start < stream.length; start += piece) {
      for (const frame of reader.read(stream.subarray(start, start + piece))) found.push(Buffer.from(frame.payload));
    }
    assert.deepEqual(found, sent.map((payload) => Buffer.from(payload)), `pieces of ${piece}`);
  }
});

test("our frames are masked, with a new mask each", () => {
  const payload = new TextEncoder().encode("x".repeat(300));
  const [frame, again] = [encodeFrame(Opcode.TEXT, payload), encodeFrame(Opcode.TEXT, payload)];
  assert.deepEqual([...frame.subarray(0, 4)], [0x81, 0x80 | 126, 1, 44]);
  const unmasked = frame.subarray(8).map((byte, index) => byte ^ frame[4 + (index & 3)]);
  assert.deepEqual(unmasked, payload);
  assert.notDeepEqual(frame.subarray(4, 8), again.subarray(4, 8));
});

test("what RFC 6455 forbids is an error, and so is a message without end", () => {
  const wrong = {
    "reserved bits": [serverFrame(1, [], 0xc1), 1002],
    "a mask": [Uint8Array.from([0x81, 0x80, 1, 2, 3, 4]), 1002],
    "a fragmented ping": [serverFrame(9, [], 0x09), 1002],
    "a large ping": [serverFrame(9, new Uint8Array(126)), 1002],
    "4 GiB": [Uint8Array.from([0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0]), 1009],
  };
  for (const [what, [bytes, code]] of Object.entries(wrong)) {
    const isRight = (error) => error instanceof FrameError && error.code === code;
    assert.throws(() => [...new FrameReader().read(bytes)], isRight, what);
  }
});
