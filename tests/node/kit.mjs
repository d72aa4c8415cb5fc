// Reads and subscribes with @solana/kit, unchanged; what both servers answer must be equal.
import assert from "node:assert/strict";
import { address, createSolanaRpc, createSolanaRpcSubscriptions } from "@solana/kit";

const { OURS, OURS_WS, NODE, PROGRAM, POOL, OTHER, HEAD } = process.env;
const ours = createSolanaRpc(OURS);
const node = createSolanaRpc(NODE);
const program = address(PROGRAM);
const pool = address(POOL);
const config = { commitment: "confirmed", encoding: "base64" };

async function same(name, read) {
  const mine = await read(ours).send();
  const theirs = await read(node).send();
  assert.deepStrictEqual(mine.value ?? mine, theirs.value ?? theirs, name);
}

const filters = [{ dataSize: 1112n }, { memcmp: { offset: 0n, bytes: HEAD, encoding: "base64" } }];
await same("getAccountInfo", (rpc) => rpc.getAccountInfo(pool, config));
await same("getMultipleAccounts", (rpc) => rpc.getMultipleAccounts([pool, address(OTHER)], config));
await same("getProgramAccounts", (rpc) => rpc.getProgramAccounts(program, { ...config, filters, withContext: true }));
assert.equal(typeof (await ours.getSlot({ commitment: "confirmed" }).send()), "bigint");
assert.equal(await ours.getHealth().send(), "ok");
const parsed = await ours.getAccountInfo(pool, { commitment: "confirmed", encoding: "jsonParsed" }).send();
assert.equal(parsed.value.data.parsed.type, "pool");

const subscriptions = createSolanaRpcSubscriptions(OURS_WS);
const stop = new AbortController();
const options = { abortSignal: stop.signal };
const account = await subscriptions.accountNotifications(pool, config).subscribe(options);
const programs = await subscriptions.programNotifications(program, { ...config, filters }).subscribe(options);
const slots = await subscriptions.slotNotifications().subscribe(options);
console.log("subscribing");

async function first(notifications) {
  for await (const notification of notifications) return notification;
}
const show = (kind, slot, info) =>
  console.log(
    JSON.stringify({ kind, slot: Number(slot), data: info.data[0], lamports: Number(info.lamports), owner: info.owner }),
  );
const [a, p, s] = await Promise.all([first(account), first(programs), first(slots)]);
show("account", a.context.slot, a.value);
show("program", p.context.slot, p.value.account);
console.log(JSON.stringify({ kind: "slot", slot: Number(s.slot), parent: Number(s.parent), root: Number(s.root) }));
stop.abort();
process.exit(0);
