/** Updates of accounts as chains: each names the one before. */

import assert from "node:assert/strict";

/** A check to call with each update: nothing missing, nothing twice. */
export function chainChecker() {
  const last = new Map();
  return (update) => {
    const { id, prev_id } = update.account;
    if (last.has(update.pubkey)) {
      assert.equal(prev_id, last.get(update.pubkey), `after ${last.get(update.pubkey)} of ${update.pubkey} came ${id}`);
    }
    last.set(update.pubkey, id);
  };
}

/** The busiest accounts of a type. */
export async function busyAccounts(url, count, type = "Pool") {
  const list = `${url.replace("ws://", "http://").replace(/\/ws$/, "")}/v1/accounts?account_type=${type}&limit=1000`;
  for (;;) {
    const { accounts } = await (await fetch(list)).json();
    const busy = accounts.filter((account) => account.prev_id !== null).sort((a, b) => b.id - a.id);
    if (busy.length >= count) return busy.slice(0, count).map((account) => account.pubkey);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The next event of a type; what comes before it is passed over. */
export async function next(events, type) {
  for (;;) {
    const { value, done } = await events.next();
    assert.ok(!done, `the subscription ended before any ${type}`);
    if (value.type === type) return value;
  }
}
