/** What a program may write is what the types allow: compiled, never run. */

import { connect, type FullUpdate, type Selection, type SubscriptionEvent, type Update } from "account-socket";

const client = connect("ws://127.0.0.1:8080/ws", { maxQueued: 100 });

client.subscribe({ pubkeys: ["a"], delivery: "every" });
client.subscribe({ accountType: "Pool", where: { token_a_mint: ["a", "b"], "reward_infos.0.initialized": 1n } });
client.subscribe({ accountType: "Pool", fields: ["sqrt_price"], delivery: "every" });
client.subscribe({ program: "p", mode: "diff", snapshot: false });
client.subscribe({ accountType: "Pool", mode: "full", maxRateMs: 5 });

// @ts-expect-error: by pubkeys or by filter, not both
client.subscribe({ pubkeys: ["a"], accountType: "Pool" });
// @ts-expect-error: fields or diff, not both
client.subscribe({ pubkeys: ["a"], fields: ["sqrt_price"], mode: "diff" });
// @ts-expect-error: paced or fields, not both
client.subscribe({ pubkeys: ["a"], fields: ["sqrt_price"], maxRateMs: 5 });
// @ts-expect-error: never conflated, so not paced either
client.subscribe({ pubkeys: ["a"], delivery: "every", maxRateMs: 5 });
// @ts-expect-error: no such shape
client.subscribe({ pubkeys: ["a"], mode: "delta" });

// @ts-expect-error: no such option
client.subscribe({ pubkeys: ["a"], max_rate_ms: 5 });
// @ts-expect-error: no such option
connect("ws://127.0.0.1:8080/ws", { timeout: 1 });

/** Updates are of the kinds that the selection can bring. */
export async function read(selection: Selection): Promise<void> {
  const whole = client.subscribe({ accountType: "Pool", maxRateMs: 5 });
  for await (const { account } of whole) account.data_json?.["sqrt_price"];
  whole.on("update", ({ update }) => update.account.data_json);
  for await (const event of whole.events()) if (event.type === "update") event.update satisfies FullUpdate;
  for await (const update of client.subscribe({ pubkeys: ["a"], fields: ["x"] })) update.account.data_json?.["x"];
  for await (const update of client.subscribe({ pubkeys: ["a"], mode: "diff" })) {
    // @ts-expect-error: a diff has none
    update.account.data_json;
    if (update.shape === "diff") update.changed satisfies object;
    else update.account.data_json;
  }
  for await (const update of client.subscribe(selection)) update satisfies Update;
}

export function describe(update: Update): string {
  if (update.shape === "diff") return Object.keys(update.changed).join();
  // @ts-expect-error: only a diff has it
  update.changed;
  if (update.account.closed) return `${update.account.data_json satisfies null} ${update.account.owner}`;
  if (update.shape === "fields") return JSON.stringify(update.account.data_json);
  return String(update.account.data_json["sqrt_price"]);
}

export function name(event: SubscriptionEvent): string {
  switch (event.type) {
    case "update":
      return describe(event.update);
    case "subscribed":
      return event.found.join();
    case "resumed":
      return event.unrecovered.join();
    case "snapshotEnd":
      return event.count.toFixed();
    case "disconnected":
      return event.reason;
    case "paused":
      return event.queued.toFixed();
    case "end":
      return event.error?.code ?? "";
  }
}

client.subscribe({ pubkeys: ["a"] }).on("resumed", (event) => event.recovered satisfies boolean);
