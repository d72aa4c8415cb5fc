/** What is asked for: options become requests. */

import { AccountSocketError } from "./errors.js";
import type { Integer, Json } from "./messages.js";

/** A value of a `where`; a bigint is compared as its decimal string. */
export type WhereValue = string | Integer | boolean | null;

interface ByPubkeys {
  /** Accounts, base58. */
  pubkeys: readonly string[];
  accountType?: undefined;
  program?: undefined;
  where?: undefined;
}

interface ByFilter {
  pubkeys?: undefined;
  /** The layout's name, such as `Pool`. */
  accountType?: string;
  /** The owning program, base58. */
  program?: string;
  /** Equality by dotted path; several are AND, a list of values is OR. */
  where?: { readonly [path: string]: WhereValue | readonly WhereValue[] };
  /** `false`: no states at the start, only what happens. */
  snapshot?: boolean;
}

interface Full {
  mode?: "full";
  fields?: undefined;
  maxRateMs?: undefined;
  /** `every`: never only the newest; a client that lags is cut off and resumes from history. */
  delivery?: "every";
}

interface OnlyFields {
  /** Dotted paths into `data_json`. */
  fields: readonly string[];
  mode?: undefined;
  maxRateMs?: undefined;
  delivery?: "every";
}

interface Diff {
  mode: "diff";
  fields?: undefined;
  maxRateMs?: undefined;
  delivery?: "every";
}

interface Paced {
  mode?: "full";
  fields?: undefined;
  /** At most one update of an account in so many ms; the last one always comes. */
  maxRateMs: number;
  delivery?: undefined;
}

type Accounts = ByPubkeys | ByFilter;

/** What of the accounts is told whole. */
export type WholeSelection = Accounts & (Full | Paced);
export type FieldsSelection = Accounts & OnlyFields;
export type DiffSelection = Accounts & Diff;

/** What to subscribe to, and in which shape. */
export type Selection = WholeSelection | FieldsSelection | DiffSelection;

/** One subscribe request without `id`, `after`, `epoch`. */
export interface Request {
  action: "subscribe";
  pubkeys?: readonly string[];
  [key: string]: unknown;
}

/** How many keys go into one request: with `after` beside them it stays well below the server's 64 KiB. */
const KEYS_PER_REQUEST = 400;

/** The requests of a selection: several if it has many pubkeys. Throws AccountSocketError `invalid_options`. */
export function toRequests(selection: Selection): Request[] {
  const options: { [key: string]: unknown } = selection as object as { [key: string]: unknown };
  checkNames("subscribe", options, ["pubkeys", "where", ...Object.keys(KEYS)]);
  const shared: Request = { action: "subscribe" };
  for (const [option, key] of Object.entries(KEYS)) {
    if (options[option] !== undefined) shared[key] = options[option];
  }
  if (selection.where) shared["where"] = mapWhere(selection.where);
  if (selection.pubkeys === undefined) {
    if (!("account_type" in shared || "program" in shared || "where" in shared)) {
      throw new AccountSocketError("invalid_options", "say what: pubkeys, or accountType, program, where");
    }
    return [shared];
  }
  const pubkeys = [...new Set(selection.pubkeys)];
  if (!pubkeys.length) throw new AccountSocketError("invalid_options", "pubkeys is empty; name at least one account");
  const requests: Request[] = [];
  for (let start = 0; start < pubkeys.length; start += KEYS_PER_REQUEST) {
    requests.push({ ...shared, pubkeys: pubkeys.slice(start, start + KEYS_PER_REQUEST) });
  }
  return requests;
}

const KEYS = {
  accountType: "account_type",
  program: "program",
  fields: "fields",
  mode: "mode",
  maxRateMs: "max_rate_ms",
  delivery: "delivery",
  snapshot: "snapshot",
} as const;

/** Refuse names that nobody knows, lest what is misspelt does nothing. Throws AccountSocketError `invalid_options`. */
export function checkNames(taker: string, options: object, known: readonly string[]): void {
  const unknown = Object.keys(options).filter((name) => !known.includes(name));
  if (!unknown.length) return;
  const listed = [...known].sort().join(", ");
  throw new AccountSocketError("invalid_options", `${taker} knows no ${unknown.join(", ")}; it knows ${listed}`);
}

function mapWhere(where: NonNullable<ByFilter["where"]>): { [path: string]: Json } {
  const text = (value: WhereValue): Json => (typeof value === "bigint" ? value.toString() : value);
  const entries = Object.entries(where).map(([path, value]): [string, Json] => [
    path,
    Array.isArray(value) ? value.map(text) : text(value as WhereValue),
  ]);
  return Object.fromEntries(entries);
}

/** Whether a selection by filter goes on behind a cut: history has no parts of states, and leaves none out. */
export function isResumable(selection: Selection): boolean {
  return selection.fields === undefined && selection.mode !== "diff" && selection.maxRateMs === undefined;
}
