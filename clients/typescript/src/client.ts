/** The way in: `connect`. */

import { AccountSocketError } from "./errors.js";
import type { DiffUpdate, FieldsUpdate, FullUpdate, Update } from "./messages.js";
import { checkNames } from "./selection.js";
import type { DiffSelection, FieldsSelection, Selection, WholeSelection } from "./selection.js";
import { defaultSocket, type SocketConstructor } from "./socket.js";
import { Subscription, type Settings } from "./subscription.js";

const DEFAULTS: Settings = {
  timeoutMs: 10_000,
  heartbeatMs: 15_000,
  firstRetryMs: 250,
  maxRetryMs: 30_000,
  maxQueued: 10_000,
  waitForServer: false,
};

/** A day: a timer of more than 24 days would run off at once. */
const MOST_MS = 86_400_000;

export interface Options extends Partial<Settings> {
  /** The WebSocket to use instead of the runtime's own, such as that of the package `ws`. */
  WebSocket?: SocketConstructor;
}

/** A server to subscribe at. It holds no connection by itself: each subscription has one. */
export class Client {
  private readonly subscriptions = new Set<Subscription>();
  private readonly socket: Promise<SocketConstructor>;
  private readonly settings: Settings;

  /** Use `connect`. */
  constructor(
    private readonly url: string,
    options: Options,
  ) {
    const { WebSocket, ...settings } = options;
    this.socket = WebSocket ? Promise.resolve(WebSocket) : defaultSocket();
    this.settings = { ...DEFAULTS, ...settings };
  }

  /**
   * Subscribe. Throws AccountSocketError `invalid_options`; what the server refuses ends the subscription.
   *
   * Without `fields` and `mode: "diff"` every update is whole; a diff's first is, and each that follows on a hole.
   */
  subscribe(selection: WholeSelection): Subscription<FullUpdate>;
  subscribe(selection: FieldsSelection): Subscription<FieldsUpdate | FullUpdate>;
  subscribe(selection: DiffSelection): Subscription<DiffUpdate | FullUpdate>;
  subscribe(selection: Selection): Subscription;
  subscribe(selection: Selection): Subscription<Update> {
    const subscription = new Subscription(this.url, this.socket, this.settings, selection);
    this.subscriptions.add(subscription);
    void subscription.closed.then(() => this.subscriptions.delete(subscription));
    return subscription;
  }

  /** Close every subscription. */
  close(): void {
    for (const subscription of this.subscriptions) subscription.close();
  }
}

/**
 * Name a server and how to wait for it. Nothing is connected before something is subscribed to.
 *
 * @param url such as `wss://host/ws`
 * @throws AccountSocketError `invalid_options`
 */
export function connect(url: string, options: Options = {}): Client {
  if (!/^wss?:\/\/[^/]/i.test(url) || !URL.canParse(url)) {
    // The URL is not repeated: it may hold a key.
    throw new AccountSocketError("invalid_options", "the URL must be like ws://host:port/ws or wss://host/ws");
  }
  checkNames("connect", options, [...Object.keys(DEFAULTS), "WebSocket"]);
  const { WebSocket: _, waitForServer = false, ...numbers } = options;
  if (typeof waitForServer !== "boolean") {
    throw new AccountSocketError("invalid_options", "waitForServer must be true or false");
  }
  for (const [name, value] of Object.entries(numbers)) {
    if (!(typeof value === "number" && value > 0)) {
      throw new AccountSocketError("invalid_options", `${name} must be a number above 0`);
    }
    if (name.endsWith("Ms") && value > MOST_MS) {
      throw new AccountSocketError("invalid_options", `${name} must be at most ${MOST_MS}`);
    }
  }
  return new Client(url, options);
}
