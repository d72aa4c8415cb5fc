/** Selecting and shaping, against a real server: ACCOUNT_SOCKET_URL. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "account-socket";

import { NodeWebSocket } from "../dist/node-websocket.js";
import { chainChecker, next } from "./chains.js";
import { FAST, proxy, pubkeys, URL_, withServer } from "./real-server.js";

withServer("selections and shapes", () => {
  test("a filter gives the states that match, their end, and what happens to them", { timeout: 6000 }, async () => {
    const client = connect(URL_);
    const seen = new Set();
    let count = null;
    let live = 0;
    for await (const event of client.subscribe({ accountType: "Pool", where: { activation_type: [0, 1] } }).events()) {
      if (event.type === "update") {
        assert.equal(event.update.account.account_type, "Pool");
        seen.add(event.update.pubkey);
        live += event.update.source === "realtime" ? 1 : 0;
      }
      if (event.type === "snapshotEnd") {
        count = event.count;
        assert.ok(seen.size >= count && count > 0);
      }
      if (count !== null && live >= 20) break;
    }
  });

  test("the server sends nothing twice, while states come and behind them", { timeout: 6000 }, async () => {
    for (let round = 0; round < 5; round += 1) {
      const socket = new NodeWebSocket(URL_);
      socket.onopen = () => socket.send('{"action":"subscribe","account_type":"Pool","id":1}');
      const ids = [];
      let left = Infinity;
      await new Promise((resolve) => {
        socket.onmessage = ({ data }) => {
          const message = JSON.parse(data);
          if (message.account) ids.push(message.account.id);
          if (message.type === "snapshot_end") left = 100;
          else if ((left -= 1) === 0) resolve();
        };
      });
      socket.close();
      assert.equal(new Set(ids).size, ids.length);
    }
  });

  test("over cuts a filter goes on where it was, without a hole and without a repeat", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, FAST);
    let check = chainChecker();
    let ended = false;
    let whole = false;
    let resumed = 0;
    for await (const event of client.subscribe({ accountType: "Pool" }).events()) {
      if (event.type === "disconnected") {
        if (!ended) check = chainChecker();
        whole = false;
      }
      if (event.type === "update") check(event.update);
      if (event.type === "resumed") {
        assert.deepEqual(event, { type: "resumed", recovered: ended, unrecovered: [] });
        resumed += ended ? 1 : 0;
      }
      if (event.type === "snapshotEnd") ended = whole = true;
      if (resumed >= 10) break;
      if (proxy.pairs.size && Math.random() < (whole ? 0.1 : 0.005)) proxy.cut();
    }
  });

  test("fields are all that comes, and by filter a cut of them is told as a new start", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, FAST);
    const fields = ["sqrt_price", "pool_fees.base_fee.mode"];
    const events = client.subscribe({ accountType: "Pool", fields }).events();
    const { update } = await next(events, "update");
    assert.equal(update.shape, "fields");
    assert.deepEqual(Object.keys(update.account.data_json).sort(), ["pool_fees", "sqrt_price"]);
    await next(events, "snapshotEnd");
    proxy.cut();
    await next(events, "disconnected");
    assert.equal((await next(events, "resumed")).recovered, false);
    assert.equal((await next(events, "update")).update.shape, "fields");
    client.close();
  });

  test("by pubkeys every shape goes on behind a cut, without a hole and without a repeat", { timeout: 20_000 }, async () => {
    const shapes = [{ fields: ["sqrt_price"] }, { mode: "diff" }, { maxRateMs: 20 }];
    for (const shape of shapes) {
      const client = connect(proxy.url, FAST);
      const check = shape.maxRateMs ? () => {} : chainChecker();
      let cuts = 0;
      let since = 0;
      for await (const event of client.subscribe({ pubkeys, ...shape }).events()) {
        if (event.type === "update") {
          check(event.update);
          since += 1;
        }
        if (event.type === "resumed") assert.deepEqual(event, { type: "resumed", recovered: true, unrecovered: [] });
        if (event.type === "subscribed") since = 0;
        if (since < 5 || event.type !== "update") continue;
        if (cuts === 10) break;
        proxy.cut();
        since = 0;
        cuts += 1;
      }
    }
  });

  test("a diff is against the state that came before", { timeout: 6000 }, async () => {
    const client = connect(URL_);
    const states = new Map();
    let diffs = 0;
    for await (const update of client.subscribe({ pubkeys, mode: "diff" })) {
      if (update.shape === "diff") {
        assert.equal(update.account.prev_id, states.get(update.pubkey));
        assert.ok(Object.keys(update.changed).length > 0);
        diffs += 1;
      }
      states.set(update.pubkey, update.account.id);
      if (diffs >= 20) break;
    }
  });

  test("a paced subscription tells an account once in its time", { timeout: 6000 }, async () => {
    const client = connect(URL_);
    const told = new Map();
    let count = 0;
    const subscription = client.subscribe({ pubkeys, maxRateMs: 300 });
    for await (const update of subscription) {
      const now = performance.now();
      if (update.source === "realtime") {
        const before = told.get(update.pubkey);
        if (before !== undefined) assert.ok(now - before > 200, `${now - before} ms`);
        told.set(update.pubkey, now);
        count += 1;
      }
      if (count >= 60) break;
    }
  });

  test("a filter that no account can match is refused with a word why", { timeout: 6000 }, async () => {
    const error = await connect(URL_).subscribe({ accountType: "Pool", where: { no_such_field: 1 } }).closed;
    assert.equal(error.code, "invalid_filter");
    assert.match(error.message, /no_such_field/);
  });
});
