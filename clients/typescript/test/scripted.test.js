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

/** A server that does `act` with the stream of each connection after the handshake. */
function serves(act) {
  const http = createHttpServer();
  http.on("upgrade", (request, stream) => {
    const salted = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const accept = createHash("sha1").update(salted).digest("base64");
    stream.on("error", () => {});
    stream.write(`${UPGRADE}Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
    act(stream);
  });
  return listen(http);
}
/** A server that says `frames` after the handshake. */
const says = (...frames) => serves((stream) => frames.forEach((each) => stream.write(each)));
/** A server that says `messages` once a request came. */
const answers = (...messages) =>
  serves((stream) => stream.once("data", () => messages.forEach((each) => stream.write(frame(1, Buffer.from(each))))));
function frame(opcode, payload) {
  const { length } = payload;
  return Buffer.from([0x80 | opcode, ...(length < 126 ? [length] : [126, length >> 8, length & 255]), ...payload]);
}
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

/** The error that ends a plain loop. */
async function errorOfLoop(url, options = FAST) {
  try {
    for await (const _ of connect(url, options).subscribe({ pubkeys: PUBKEYS }));
  } catch (error) {
    return error;
  }
}

const page = (status) => (_, answer) => answer.writeHead(status, { "content-type": "text/html" }).end("<html>");
const PLAIN_HTTP = "HTTP/1.0 404 File not found\r\nServer: SimpleHTTP/0.6\r\n\r\n<html>";

test("what is no server ends the loop at the first connection, waited for or not", { timeout: 5000 }, async () => {
  const cases = [
    [await listen(createHttpServer(page(200))), /HTTP status 200/],
    [await listen(createHttpServer(page(404))), /HTTP status 404/],
    [await listen(createServer((socket) => socket.end(PLAIN_HTTP))), /HTTP status 404/],
    [await listen(createServer((socket) => socket.write(`${UPGRADE}\r\n`))), /handshake is wrong/],
    [await says(frame(1, Buffer.from("nonsense"))), /no JSON object/],
    [await answers('{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":1}'), /no type/],
  ];
  for (const [url, reason] of cases) {
    for (const waitForServer of [false, true]) {
      const error = await errorOfLoop(url, { ...FAST, waitForServer });
      assert.ok(error instanceof AccountSocketError);
      assert.equal(error.code, "no_server");
      assert.match(error.message, /^what answers is not an account-socket server: /);
      assert.match(error.message, reason);
    }
  }
});

test("a server that is not there at first ends the loop, unless it is waited for", { timeout: 5000 }, async () => {
  const nobody = await listen(createServer());
  servers.pop().close();
  const cases = [
    [await listen(createServer(() => {})), /the handshake took too long/],
    [await listen(createServer((socket) => socket.destroy())), /./],
    [nobody, /ECONNREFUSED/],
    [await listen(createHttpServer(page(502))), /HTTP status 502/],
    [await says(), /no answer to a ping/],
    [await says(frame(1, Buffer.from([0xff]))), /not UTF-8/],
    [await says(frame(2, Buffer.from("x"))), /neither text nor control/],
    [await says(Buffer.from([0xf1, 0])), /reserved bits/],
  ];
  for (const [url, reason] of cases) {
    const error = await errorOfLoop(url);
    assert.equal(error.code, "no_server");
    assert.match(error.message, /^no server answers: /);
    assert.match(error.message, reason);
    const events = connect(url, { ...FAST, waitForServer: true }).subscribe({ pubkeys: PUBKEYS }).events();
    for (let times = 0; times < 2; times += 1) assert.match((await next(events, "disconnected")).reason, reason);
    await events.return();
  }
});

test("a page in the place of a server that had answered is tried again", { timeout: 5000 }, async () => {
  const url = await servesAndEnds();
  const server = servers.at(-1);
  const events = connect(url, FAST).subscribe({ pubkeys: PUBKEYS }).events();
  assert.equal((await next(events, "disconnected")).code, 1011);
  const serve = server.listeners("upgrade")[0];
  server.off("upgrade", serve).on("request", page(200));
  for (let times = 0; times < 3; times += 1) assert.match((await next(events, "disconnected")).reason, /status 200/);
  server.on("upgrade", serve);
  await next(events, "subscribed");
  await events.return();
});

const [KEY] = PUBKEYS;
const HELLO = { type: "ack", id: 1, action: "unsubscribe", epoch: "e" };
const ACK = { type: "ack", id: 2, action: "subscribe", epoch: "e", found: [KEY], foreign: [] };
const ACCOUNT = {
  id: 1,
  pubkey: KEY,
  slot: 1,
  account_type: "Pool",
  owner: KEY,
  lamports: 1,
  created_at: "2026-11-23T12:00:00.123456Z",
  data_json: {},
  prev_id: null,
};
/** A state, and the same with something else in its place. */
const state = (account = {}, beside = {}) => {
  return { pubkey: KEY, source: "cache", account: { ...ACCOUNT, ...account }, ...beside };
};
const WRONG = [
  [[], /no JSON object/],
  [5, /no JSON object/],
  [{ account: null }, /pubkey of an update/],
  [{ account: 5 }, /pubkey of an update/],
  [state({}, { account: null }), /account of an update/],
  [state({}, { account: 5 }), /account of an update/],
  [state({}, { account: [] }), /account of an update/],
  [state({}, { pubkey: "another" }), /two pubkeys/],
  [state({}, { source: null }), /source of an update/],
  [state({}, { stale: "yes" }), /stale of an update/],
  [state({ id: "5" }), /id of account/],
  [state({ id: 1.5 }), /id of account/],
  [state({ id: undefined }), /id of account/],
  [state({ slot: "5" }), /slot of account/],
  [state({ created_at: 5 }), /created_at of account/],
  [state({ data_json: null }), /shape of an update/],
  [state({ data_json: [] }), /shape of an update/],
  [state({ closed: true }), /shape of an update/],
  [state({}, { shape: "fields", account: { ...ACCOUNT, data_json: 5 } }), /shape of an update/],
  [state({}, { shape: "diff" }), /shape of an update/],
  [state({}, { shape: "diff", changed: { path: 5 } }), /shape of an update/],
  [state({}, { shape: "delta" }), /shape of an update/],
  [{}, /no type/],
  [{ type: 5 }, /no type/],
  [{ type: "ack", id: 1 }, /action of type ack/],
  [{ ...HELLO, epoch: undefined }, /epoch of type ack/],
  [{ ...ACK, found: 5 }, /found of type ack/],
  [{ ...ACK, unrecovered: [5] }, /unrecovered of type ack/],
  [{ ...ACK, recovered: "no" }, /recovered of type ack/],
  [{ type: "error", id: 2 }, /code of type error/],
  [{ type: "error", id: 2, code: null, message: null }, /code of type error/],
  [{ type: "error", id: 2, code: "internal" }, /message of type error/],
  [{ type: "snapshot_end" }, /count of type snapshot_end/],
  [{ type: "snapshot_end", sub: 1, count: 1, recovered: 1 }, /recovered of type snapshot_end/],
];

/** What is told of the first connection to a server that answers, without the update. */
async function toldOf(url) {
  const client = connect(url, FAST);
  const told = [];
  for await (const event of client.subscribe({ pubkeys: PUBKEYS }).events()) {
    if (event.type !== "update") told.push(event);
    if (event.type === "disconnected") break;
  }
  return told;
}

test("a wrong message ends its connection, is told, and nothing else is", { timeout: 20_000 }, async () => {
  for (const [message, reason] of WRONG) {
    const text = JSON.stringify(message);
    const early = await errorOfLoop(await answers(text));
    assert.equal(early.code, "no_server", text);
    assert.match(early.message, reason, text);
    const url = await answers(...[HELLO, state(), ACK, message].map((each) => JSON.stringify(each)));
    const told = await toldOf(url);
    assert.deepEqual(told.map(({ type }) => type), ["subscribed", "disconnected"], text);
    assert.match(told[1].reason, reason, text);
  }
});

test("behind a wrong message the next connection is made", { timeout: 5000 }, async () => {
  const url = await answers(...[HELLO, state(), ACK, { account: null }].map((each) => JSON.stringify(each)));
  const events = connect(url, FAST).subscribe({ pubkeys: PUBKEYS }).events();
  for (let times = 0; times < 3; times += 1) assert.equal((await next(events, "disconnected")).code, 1002);
  await events.return();
});

test("an answer to another action than was asked is none", { timeout: 5000 }, async () => {
  const [told, ...none] = await toldOf(await answers(JSON.stringify({ ...ACK, id: 1 })));
  assert.deepEqual([told.type, told.code, none], ["disconnected", 1002, []]);
  assert.match(told.reason, /not asked/);
});

test("what is nested without end is no message", { timeout: 5000 }, async () => {
  for (const start of ["[", '{"a":', '{"account":']) {
    const error = await errorOfLoop(await answers(start.repeat(60_000 / start.length)));
    assert.equal(error.code, "no_server");
  }
});

test("every right message is told as it came", { timeout: 5000 }, async () => {
  const right = [
    state(),
    state({ id: 2, closed: true, data_json: null, signature: "s" }, { event: "left", stale: true }),
    state({ id: 3, prev_id: 2 }, { shape: "fields" }),
    state({ id: 4, closed: true, data_json: null }, { shape: "fields" }),
    state({ id: 5, data_json: undefined }, { shape: "diff", changed: { a: ["1", null] } }),
    state({ id: null }),
  ];
  const later = { type: "of a later version", account_type: "x" };
  const url = await answers(...[HELLO, later, ...right, ACK].map((each) => JSON.stringify(each)));
  const told = [];
  for await (const update of connect(url, FAST).subscribe({ pubkeys: PUBKEYS })) {
    if (told.push(update) === right.length) break;
  }
  assert.deepEqual(told, JSON.parse(JSON.stringify(right)));
});

/** A server that serves every subscription, and ends its connection at once. */
const servesAndEnds = () =>
  serves((stream) =>
    stream.once("data", () => {
      for (const ack of [HELLO, ACK]) stream.write(frame(1, Buffer.from(JSON.stringify(ack))));
      stream.end(closeFrame(1011, "broken"));
    }),
  );

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
  assert.throws(() => connect("ws://host", { waitForServer: 1 }), { code: "invalid_options" });
  for (const selection of [{}, { pubkeys: [] }, { fields: ["a"] }]) {
    assert.throws(() => connect("ws://host").subscribe(selection), { code: "invalid_options" });
  }
});

test("a misspelt option is named, and those that there are", () => {
  const known = "WebSocket, firstRetryMs, heartbeatMs, maxQueued, maxRetryMs, timeoutMs, waitForServer";
  assert.throws(() => connect("ws://host", { timeout: 1 }), {
    code: "invalid_options",
    message: `connect knows no timeout; it knows ${known}`,
  });
  const client = connect("ws://host");
  const shapes = "accountType, delivery, fields, maxRateMs, mode, program, pubkeys, snapshot, where";
  for (const name of ["max_rate_ms", "field", "account_type", "constructor", "__proto__x"]) {
    assert.throws(() => client.subscribe({ pubkeys: PUBKEYS, [name]: 1 }), {
      code: "invalid_options",
      message: `subscribe knows no ${name}; it knows ${shapes}`,
    });
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
