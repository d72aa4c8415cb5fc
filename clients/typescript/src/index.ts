/** Client of account-socket: live, decoded Solana account state. */

export { connect, Client, type Options } from "./client.js";
export { AccountSocketError } from "./errors.js";
export type { EventListener, EventOf, EventType, SubscriptionEvent } from "./events.js";
export type {
  Account,
  AccountHead,
  ClosedAccount,
  DiffUpdate,
  Fields,
  FieldsUpdate,
  FullUpdate,
  Integer,
  Json,
  Update,
} from "./messages.js";
export type { DiffSelection, FieldsSelection, Selection, WhereValue, WholeSelection } from "./selection.js";
export type { Socket, SocketConstructor } from "./socket.js";
export { Subscription } from "./subscription.js";
