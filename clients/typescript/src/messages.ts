/** What the server sends, as it stands on the wire (docs/protocol.md). */

/** An integer of up to 64 bits: a `number` where that keeps every digit, else a `bigint`. */
export type Integer = number | bigint;

/** Any JSON value; integers that no `number` holds are `bigint`. */
export type Json = null | boolean | Integer | string | Json[] | { [key: string]: Json };

/** Decoded fields by their names. 64 bits and more are decimal strings. */
export type Fields = { [key: string]: Json };

/** What every shape tells of an account. */
export interface AccountHead {
  /** Grows with every update of any account; null while the database cannot commit. */
  id: Integer | null;
  pubkey: string;
  slot: Integer;
  /** The layout's name, or `Unknown`. */
  account_type: string;
  owner: string;
  lamports: Integer;
  /** `YYYY-MM-DDTHH:MM:SS.ffffffZ`. */
  created_at: string;
  /** The id of this account's update before this one. */
  prev_id: Integer | null;
  /** Of the transaction, base58; only where the upstream tells it. */
  signature?: string;
}

/** An account with its decoded fields. */
export interface Account extends AccountHead {
  closed?: undefined;
  data_json: Fields;
}

/** An account that is gone, or belongs to another program. */
export interface ClosedAccount extends AccountHead {
  closed: true;
  data_json: null;
}

interface Envelope {
  pubkey: string;
  /** `realtime` as it happens; `cache`, `database`, `rpc`: a state or a missed update, and where it was found. */
  source: "realtime" | "cache" | "database" | "rpc";
  /** `retracted`: a fork took newer states back. `left`: it matches your subscription no more. */
  event?: "retracted" | "left";
  /** The state may not be the newest. */
  stale?: true;
}

/** The whole state. */
export interface FullUpdate extends Envelope {
  shape?: undefined;
  account: Account | ClosedAccount;
}

/** The asked-for `fields` alone. */
export interface FieldsUpdate extends Envelope {
  shape: "fields";
  account: Account | ClosedAccount;
}

/** What changed against the update `account.prev_id`: `{path: [old, new]}`. */
export interface DiffUpdate extends Envelope {
  shape: "diff";
  account: AccountHead;
  changed: { [path: string]: [Json, Json] };
}

/** One update; `shape` tells which of the three. */
export type Update = FullUpdate | FieldsUpdate | DiffUpdate;

/** The answer to a request that succeeded. */
export interface Ack {
  type: "ack";
  id: number;
  action: "subscribe" | "unsubscribe";
  epoch: string;
  found?: string[];
  foreign?: string[];
  stale?: true;
  sub?: number;
  recovered?: boolean;
  unrecovered?: string[];
}

/** The answer to one that did not. */
export interface ErrorAnswer {
  type: "error";
  id?: number;
  code: string;
  message: string;
}

/** All states of a numbered subscription, or all that was missed, have been sent. */
export interface SnapshotEnd {
  type: "snapshot_end";
  sub: number;
  count: number;
  recovered?: boolean;
}
