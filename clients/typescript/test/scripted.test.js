/** Servers that do one thing wrong, on real sockets. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer as createHttpServer } from "node:http";
import { createServer } from "node:net";
import { after, test } from "node:test";

import { AccountSocketError, connect } from "account-socket";

import { next } from "./chains.js";

const servers = [];
after(() => servers.forEach((server) => server.close()));

async function listen(server) {
  servers.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `ws://127.0.0.1:${server.address().port}/ws`;
}

const UPGRADE = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";

/** A server that says `frames` after the handshake. */
function says(...frames) {
  const server = createHttpServer();
  server.on("upgrade", (request, stream) => {
    const salted = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const accept = createHash("sha1").update(salted).digest("base64");
    stream.on("error", () => {});
    stream.write(`${UPGRADE}Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
    for (const frame of frames) stream.write(frame);
  });
  return listen(server);
}
const frame = (opcode, payload) => Buffer.from([0x80 | opcode, payload.length, ...payload]);
const closeFrame = (code, reason) => frame(8, Buffer.from([code >> 8, code & 255, ...Buffer.from(reason)]));

const PUBKEYS = ["11111111111111111111111111111111"];
const FAST = { firstRetryMs: 5, maxRetryMs: 10, timeoutMs: 100, heartbeatMs: 100 };

/** How the first connection to a server ends, as it is told. */
async function firstDisconnect(url, options = FAST) {
  const client = connect(url, options);
  try {
    return await next(client.subscribe({ pubkeys: PUBKEYS }).events(), "disconnected");
  } finally {
    client.close();
  }
}

test("a close code that is final ends the subscription with its reason", { timeout: 5000 }, async () => {
  const subscription = connect(await says(closeFrame(4403, "origin refused")), FAST).subscribe({ pubkeys: PUBKEYS });
  const error = await subscription.closed;
  assert.ok(error instanceof AccountSocketError);
  assert.deepEqual([error.code, error.message], ["closed_4403", "origin refused"]);
});

test("a server that asks for patience gets it", { timeout: 5000 }, async () => {
  const busy = await firstDisconnect(await says(closeFrame(1013, "full")));
  assert.deepEqual([busy.code, busy.reason, busy.retryInMs >= 5000], [1013, "full", true]);
  const angry = await firstDisconnect(await says(closeFrame(4029, "rate limited")));
  assert.equal(angry.retryInMs >= 30_000, true);
});

test("every way not to answer is told, and tried again", { timeout: 5000 }, async () => {
  const nobody = await listen(createServer());
  servers.pop().close();
  const cases = [
    [await listen(createServer(() => {})), /the handshake took too long/],
    [await listen(createServer((socket) => socket.destroy())), /./],
    [nobody, /ECONNREFUSED/],
    [await listen(createHttpServer((_, answer) => answer.writeHead(404).end())), /HTTP status 404/],
    [await listen(createServer((socket) => socket.write(`${UPGRADE}\r\n`))), /handshake is wrong/],
    [await says(), /no answer to a ping/],
    [await says(frame(1, Buffer.from("nonsense"))), /no JSON object/],
    [await says(frame(1, Buffer.from([0xff]))), /not UTF-8/],
    [await says(frame(2, Buffer.from("x"))), /neither text nor control/],
    [await says(Buffer.from([0xf1, 0])), /reserved bits/],
  ];
  for (const [url, reason] of cases) {
    const told = await firstDisconnect(url);
    assert.match(told.reason, reason);
  }
});

/** A server that serves every subscription, and ends its connection at once. */
function servesAndEnds() {
  const server = createHttpServer();
  server.on("upgrade", (request, stream) => {
    const salted = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const accept = createHash("sha1").update(salted).digest("base64");
    stream.on("error", () => {});
    stream.write(`${UPGRADE}Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
    const acks = [
      { type: "ack", id: 1, action: "unsubscribe", epoch: "e" },
      { type: "ack", id: 2, action: "subscribe", epoch: "e", found: [], foreign: [] },
    ];
    stream.once("data", () => {
      for (const ack of acks) stream.write(frame(1, Buffer.from(JSON.stringify(ack))));
      stream.end(closeFrame(1011, "broken"));
    });
  });
  return listen(server);
}

test("waits grow while connections end at once, although each was answered", { timeout: 5000 }, async () => {
  const client = connect(await servesAndEnds(), { ...FAST, firstRetryMs: 8, maxRetryMs: 60_000 });
  const waits = [];
  for await (const event of client.subscribe({ pubkeys: PUBKEYS }).events()) {
    if (event.type === "disconnected" && waits.push(event.retryInMs) === 6) break;
  }
  client.close();
  assert.ok(waits[5] >= 8 * 2 ** 5, `waits of ${waits} ms`);
});

test("close ends a handshake at once", { timeout: 5000 }, async () => {
  const server = createServer(() => {});
  const url = await listen(server);
  const [stream] = await new Promise((resolve) => {
    const subscription = connect(url).subscribe({ pubkeys: PUBKEYS });
    server.once("connection", (socket) => {
      socket.on("error", () => {});
      socket.resume();
      subscription.close();
      resolve([socket]);
    });
  });
  await new Promise((resolve) => stream.once("close", resolve));
});

test("wrong options are refused before anything is connected, without the URL's key", () => {
  for (const url of ["", "http://host/?api-key=SECRET", "ws://", "host?api-key=SECRET"]) {
    assert.throws(() => connect(url), (error) => error.code === "invalid_options" && !error.message.includes("SECRET"));
  }
  for (const options of [{ maxQueued: 0 }, { timeoutMs: Infinity }, { maxRetryMs: 2 ** 31 }]) {
    assert.throws(() => connect("ws://host", options), { code: "invalid_options" });
  }
  for (const selection of [{}, { pubkeys: [] }, { fields: ["a"] }]) {
    assert.throws(() => connect("ws://host").subscribe(selection), { code: "invalid_options" });
  }
});

test("a refusal in many words is tried again by a strict WebSocket", { timeout: 5000 }, async () => {
  const words = "wait ".repeat(40);
  /** As browsers have it, whose `close` throws for a long reason. */
  class Strict {
    constructor() {
      setTimeout(() => this.onopen({}));
    }
    send(text) {
      const answer = { type: "error", id: JSON.parse(text).id, code: "rate_limited", message: words };
      setTimeout(() => this.onmessage({ data: JSON.stringify(answer) }));
    }
    close(_code, reason = "") {
      if (reason.length > 123) throw new SyntaxError("the reason is too long");
    }
  }
  const told = await firstDisconnect("ws://host", { ...FAST, WebSocket: Strict });
  assert.equal(told.reason, words);
});

test("a WebSocket that cannot be made ends the subscription", { timeout: 5000 }, async () => {
  class Refused {
    constructor() {
      throw new Error("insecure");
    }
  }
  const error = await connect("ws://host", { WebSocket: Refused }).subscribe({ pubkeys: PUBKEYS }).closed;
  assert.equal(error.code, "no_socket");
});
