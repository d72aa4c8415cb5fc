// Reads and subscribes with @solana/web3.js, unchanged; what both servers answer must be equal.
import assert from "node:assert/strict";
import { Connection, PublicKey } from "@solana/web3.js";

const { OURS, OURS_WS, NODE, PROGRAM, POOL, OTHER } = process.env;
const ours = new Connection(OURS, { commitment: "confirmed", wsEndpoint: OURS_WS });
const node = new Connection(NODE, { commitment: "confirmed" });
const program = new PublicKey(PROGRAM);
const pool = new PublicKey(POOL);

async function same(name, read) {
  const mine = await read(ours);
  assert.ok(mine !== undefined, name);
  assert.deepStrictEqual(mine, await read(node), name);
}

const filters = [{ dataSize: 1112 }, { memcmp: { offset: 0, bytes: process.env.HEAD, encoding: "base64" } }];
await same("getAccountInfo", (c) => c.getAccountInfo(pool));
await same("dataSlice", (c) => c.getAccountInfo(pool, { dataSlice: { offset: 8, length: 16 } }));
await same("getMultipleAccountsInfo", (c) => c.getMultipleAccountsInfo([pool, new PublicKey(OTHER), pool]));
await same("getProgramAccounts", (c) => c.getProgramAccounts(program));
await same("filters", (c) => c.getProgramAccounts(program, { filters, dataSlice: { offset: 8, length: 40 } }));
await same("getGenesisHash", (c) => c.getGenesisHash()); // the node's, by RPC_PROXY
const parsed = await ours.getParsedAccountInfo(pool);
assert.equal(parsed.value.data.program, "meteora-damm-v2");
assert.equal(parsed.value.data.parsed.type, "pool");
assert.equal(parsed.value.data.space, 1112);
const listed = await ours.getParsedProgramAccounts(program, { filters });
assert.ok(listed.length > 0 && listed.every(({ account }) => account.data.parsed.type === "pool"));
const withContext = await ours.getAccountInfoAndContext(pool);
assert.ok(withContext.context.slot >= 1);
assert.equal(typeof (await ours.getSlot()), "number");
assert.ok((await ours.getVersion())["solana-core"]);
await assert.rejects(ours.getAccountInfo(pool, { minContextSlot: 2 ** 50 }), /Minimum context slot/);
await assert.rejects(ours.getBalance(pool), /Method not found/); // which the local node has not, either

const wanted = new Set(["account", "program", "slot"]);
const ids = [];
function told(kind, value) {
  if (!wanted.delete(kind)) return;
  console.log(JSON.stringify({ kind, ...value }));
  if (wanted.size === 0) {
    Promise.all([
      ours.removeAccountChangeListener(ids[0]),
      ours.removeProgramAccountChangeListener(ids[1]),
      ours.removeSlotChangeListener(ids[2]),
    ]).then(() => process.exit(0));
  }
}
const shown = ({ data, lamports, owner, executable }) => ({ data: data.toString("base64"), lamports, owner, executable });
ids.push(ours.onAccountChange(pool, (info, { slot }) => told("account", { slot, ...shown(info) })));
ids.push(
  ours.onProgramAccountChange(
    program,
    ({ accountId, accountInfo }, { slot }) => told("program", { slot, pubkey: accountId, ...shown(accountInfo) }),
    { filters },
  ),
);
ids.push(ours.onSlotChange((slot) => told("slot", slot)));
console.log("subscribing");
