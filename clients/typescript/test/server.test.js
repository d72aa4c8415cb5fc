/** Against a real server: ACCOUNT_SOCKET_URL, and ACCOUNT_SOCKET_OTHER_URL with a database of its own. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "account-socket";

import { chainChecker, next } from "./chains.js";
import { FAST, proxy, pubkeys, URL_, withServer } from "./real-server.js";

const OTHER_URL = process.env.ACCOUNT_SOCKET_OTHER_URL;

withServer("with a server", () => {
  test("the states come, then every update of each account", { timeout: 6000 }, async () => {
    const check = chainChecker();
    const seen = new Set();
    let count = 0;
    for await (const update of connect(URL_).subscribe({ pubkeys })) {
      check(update);
      if (!seen.has(update.pubkey)) assert.equal(update.account.account_type, "Pool");
      seen.add(update.pubkey);
      count += 1;
      if (count >= 40 && seen.size === 30) break;
    }
  });

  test("events come in their order, to loops and listeners", { timeout: 6000 }, async () => {
    const client = connect(URL_);
    const subscription = client.subscribe({ pubkeys: [...pubkeys, "So11111111111111111111111111111111111111112"] });
    const types = [];
    subscription.on("subscribed", (event) => types.push(event.type));
    for await (const event of subscription.events()) {
      types.push(event.type);
      if (event.type === "subscribed") {
        assert.deepEqual(event.found.sort(), [...pubkeys].sort());
        break;
      }
    }
    assert.equal(types.filter((type) => type === "subscribed").length, 2);
    assert.equal(types.filter((type) => type === "update").length >= pubkeys.length, true);
    assert.equal(await subscription.closed, null);
  });

  test("listeners alone get every update, and none is queued", { timeout: 6000 }, async () => {
    const client = connect(URL_, { maxQueued: 2 });
    const check = chainChecker();
    const subscription = client.subscribe({ pubkeys });
    let count = 0;
    subscription.on("paused", () => assert.fail("nobody is slow"));
    subscription.on("update", ({ update }) => {
      check(update);
      count += 1;
      if (count === 60) client.close();
    });
    assert.equal(await subscription.closed, null);
    assert.equal(count, 60);
  });

  test("over 100 cuts no update is lost and none comes twice", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, FAST);
    const check = chainChecker();
    let cuts = 0;
    let resumed = 0;
    for await (const event of client.subscribe({ pubkeys }).events()) {
      if (event.type === "update") check(event.update);
      if (event.type === "resumed") {
        assert.deepEqual(event, { type: "resumed", recovered: true, unrecovered: [] });
        resumed += 1;
      }
      if (proxy.pairs.size && Math.random() < 0.15) {
        proxy.cut();
        cuts += 1;
      }
      if (cuts >= 100 && resumed >= 20) break;
    }
  });

  test("a slow consumer pauses the subscription, and loses nothing", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, { ...FAST, maxQueued: 8 });
    const check = chainChecker();
    let pauses = 0;
    for await (const event of client.subscribe({ pubkeys }).events()) {
      if (event.type === "update") check(event.update);
      if (event.type === "paused") pauses += 1;
      if (pauses === 3) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  test("a paused subscription goes on for a listener that comes late", { timeout: 6000 }, async () => {
    const client = connect(URL_, { ...FAST, maxQueued: 8 });
    const subscription = client.subscribe({ pubkeys });
    await new Promise((resolve) => subscription.on("paused", resolve));
    await new Promise((resolve) => setTimeout(resolve, 50)); // it waits for its consumer by now
    await new Promise((resolve) => subscription.on("update", resolve));
    client.close();
  });

  test("a line that is silent is found dead, and the next one resumes", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, { ...FAST, heartbeatMs: 60, timeoutMs: 60 });
    const check = chainChecker();
    const subscription = client.subscribe({ pubkeys });
    const events = subscription.events();
    subscription.on("disconnected", () => (proxy.frozen = false));
    await next(events, "subscribed");
    proxy.frozen = true;
    const { reason } = await next(events, "disconnected");
    assert.equal(reason, "no answer to a ping");
    assert.equal((await next(events, "resumed")).recovered, true);
    client.close();
    assert.equal(await subscription.closed, null);
  });

  test("a server with another database says that nothing is recovered, before its states", { timeout: 6000 }, async () => {
    const client = connect(proxy.url, FAST);
    const events = client.subscribe({ pubkeys }).events();
    await next(events, "subscribed");
    proxy.lead(OTHER_URL);
    proxy.cut();
    await next(events, "disconnected");
    const { recovered, unrecovered } = await next(events, "resumed");
    proxy.lead(URL_);
    assert.equal(recovered, false);
    assert.deepEqual(unrecovered.sort(), [...pubkeys].sort());
    assert.equal((await next(events, "update")).update.source === "realtime", false);
    await next(events, "subscribed");
    client.close();
  });

  test("what the server refuses ends the loop with its words", { timeout: 6000 }, async () => {
    const subscription = connect(URL_).subscribe({ pubkeys: ["nonsense"] });
    await assert.rejects(async () => {
      for await (const _update of subscription);
    }, { name: "AccountSocketError", code: "invalid_pubkey" });
    assert.equal((await subscription.closed).code, "invalid_pubkey");
  });

  const noWs = !process.env.ACCOUNT_SOCKET_WS && "ACCOUNT_SOCKET_WS names no file of the package ws";
  test("another WebSocket carries it, and is cut the same", { timeout: 6000, skip: noWs }, async () => {
    const { WebSocket } = await import(process.env.ACCOUNT_SOCKET_WS);
    const check = chainChecker();
    let cuts = 0;
    for await (const event of connect(proxy.url, { ...FAST, WebSocket }).subscribe({ pubkeys }).events()) {
      if (event.type === "update") check(event.update);
      if (event.type === "resumed") assert.equal(event.recovered, true);
      if (event.type === "subscribed") {
        if (cuts === 5) break;
        proxy.cut();
        cuts += 1;
      }
    }
  });

  test("leaving a loop closes the connection", { timeout: 6000 }, async () => {
    for await (const _update of connect(proxy.url).subscribe({ pubkeys })) break;
    while (proxy.pairs.size) await new Promise((resolve) => setTimeout(resolve, 5));
  });
});
