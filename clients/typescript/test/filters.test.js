/** Selecting and shaping, against a real server: ACCOUNT_SOCKET_URL. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { connect } from "account-socket";

import { busyAccounts, chainChecker, next } from "./chains.js";
import { Proxy } from "./proxy.js";

const URL_ = process.env.ACCOUNT_SOCKET_URL;
const skip = !URL_ && "ACCOUNT_SOCKET_URL names no server; `make test` starts one";
const FAST = { firstRetryMs: 5, maxRetryMs: 20 };

describe("selections and shapes", { skip }, () => {
  let proxy;
  let pubkeys;
  before(async () => {
    proxy = await Proxy.to(URL_);
    pubkeys = await busyAccounts(URL_, 30);
  });
  after(() => proxy.close());

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

  test("over cuts a filter goes on without a hole or a repeat", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, FAST);
    const events = client.subscribe({ accountType: "Pool" }).events();
    let check = chainChecker();
    let held = null; // whether a chain goes on is known once `resumed` came
    let ended = false;
    let resumed = 0;
    for await (const event of events) {
      if (event.type === "disconnected") held ??= [];
      if (event.type === "update") held ? held.push(event.update) : check(event.update);
      if (event.type === "resumed") {
        if (event.recovered) held.forEach(check);
        else check = chainChecker();
        held = null;
        resumed += 1;
      }
      ended = event.type === "snapshotEnd" || (ended && event.type !== "disconnected");
      if (resumed >= 10) break;
      if (ended && proxy.pairs.size && Math.random() < 0.1) proxy.cut();
    }
  });

  test("fields are all that comes, and a cut of them is told as a new start", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, FAST);
    const fields = ["sqrt_price", "pool_fees.base_fee.mode"];
    const events = client.subscribe({ pubkeys, fields }).events();
    const { update } = await next(events, "update");
    assert.equal(update.shape, "fields");
    assert.deepEqual(Object.keys(update.account.data_json).sort(), ["pool_fees", "sqrt_price"]);
    await next(events, "subscribed");
    proxy.cut();
    await next(events, "disconnected");
    const resumed = await next(events, "resumed");
    assert.equal(resumed.recovered, false);
    assert.deepEqual(resumed.unrecovered.sort(), [...pubkeys].sort());
    assert.equal((await next(events, "update")).update.shape, "fields");
    client.close();
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
