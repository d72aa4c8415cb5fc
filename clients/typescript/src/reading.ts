/** Reads what the server sends: whatever is relied on is checked here, once (docs/protocol.md). No I/O. */

import { parse } from "./json.js";
import type { Ack, ErrorAnswer, SnapshotEnd, Update } from "./messages.js";

export type Message = Update | Ack | ErrorAnswer | SnapshotEnd;

/** The message is none of our server. */
export class WrongMessage extends Error {}

/** What a message says; null: of a kind that only later versions know. Throws WrongMessage. */
export function readMessage(data: unknown): Message | null {
  const message = readObject(data);
  if ("account" in message) {
    checkUpdate(message);
    return message as unknown as Update;
  }
  if (!isText(message["type"])) throw new WrongMessage("the server sent a wrong message: it has no type");
  const checks = ANSWERS.get(message["type"]);
  if (!checks) return null;
  check(message, checks, `type ${message["type"]}`);
  return message as unknown as Message;
}

type Value = { [key: string]: unknown };
type Check = (value: unknown) => boolean;
type Checks = [key: string, check: Check][];

const isText: Check = (value) => typeof value === "string";
const isFlag: Check = (value) => typeof value === "boolean";
const isInteger: Check = (value) => typeof value === "bigint" || Number.isSafeInteger(value);
const isTexts: Check = (value) => Array.isArray(value) && value.every(isText);
const isChange: Check = (value) => Array.isArray(value) && value.length === 2;
const isObject = (value: unknown): value is Value =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const orNull = (check: Check): Check => (value) => value === null || check(value);
const optional = (check: Check): Check => (value) => value === undefined || check(value);

const ENVELOPE: Checks = Object.entries({
  pubkey: isText,
  source: isText,
  event: optional(isText),
  stale: optional(isFlag),
  account: isObject,
});
const ACCOUNT: Checks = Object.entries({
  id: orNull(isInteger),
  pubkey: isText,
  slot: isInteger,
  account_type: isText,
  owner: isText,
  lamports: isInteger,
  created_at: isText,
  prev_id: orNull(isInteger),
  closed: optional(isFlag),
  signature: optional(isText),
});
const ACK: Checks = Object.entries({
  id: isInteger,
  action: isText,
  epoch: isText,
  found: optional(isTexts),
  foreign: optional(isTexts),
  stale: optional(isFlag),
  recovered: optional(isFlag),
  unrecovered: optional(isTexts),
});
const ANSWERS = new Map<unknown, Checks>([
  ["ack", ACK],
  ["error", Object.entries({ code: isText, message: isText })],
  ["snapshot_end", Object.entries({ count: Number.isSafeInteger, recovered: optional(isFlag) })],
]);

function readObject(data: unknown): Value {
  let message: unknown;
  try {
    message = typeof data === "string" ? parse(data) : undefined;
  } catch {
    message = undefined; // no JSON, or nested deeper than the stack
  }
  if (!isObject(message)) throw new WrongMessage("the server sent what is no JSON object");
  return message;
}

function check(value: Value, checks: Checks, kind: string): void {
  for (const [key, isRight] of checks) {
    if (!isRight(value[key])) throw new WrongMessage(`the server sent a wrong message: ${key} of ${kind}`);
  }
}

function checkUpdate(update: Value): void {
  check(update, ENVELOPE, "an update");
  const account = update["account"] as Value;
  check(account, ACCOUNT, "account");
  if (account["pubkey"] !== update["pubkey"]) throw new WrongMessage("the server sent a wrong message: two pubkeys");
  if (!hasItsShape(update, account)) throw new WrongMessage("the server sent a wrong message: shape of an update");
}

function hasItsShape(update: Value, { closed, data_json: fields }: Value): boolean {
  switch (update["shape"]) {
    case undefined:
      return closed ? fields === null : isObject(fields);
    case "fields":
      return isObject(fields) || (closed === true && fields === null);
    case "diff":
      return isObject(update["changed"]) && Object.values(update["changed"]).every(isChange);
    default:
      return false;
  }
}
