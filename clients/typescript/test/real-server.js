/** Tests against the server that ACCOUNT_SOCKET_URL names. */

import { after, before, describe } from "node:test";

import { busyAccounts } from "./chains.js";
import { Proxy } from "./proxy.js";

export const URL_ = process.env.ACCOUNT_SOCKET_URL;
export const FAST = { firstRetryMs: 5, maxRetryMs: 20 };

/** A line to the server, and its busiest accounts, while the tests of `withServer` run. */
export let proxy;
export let pubkeys;

/** A suite of tests that need the server; skipped where there is none. */
export function withServer(name, tests) {
  const skip = !URL_ && "ACCOUNT_SOCKET_URL names no server; `make test` starts one";
  describe(name, { skip }, () => {
    before(async () => {
      proxy = await Proxy.to(URL_);
      pubkeys = await busyAccounts(URL_, 30);
    });
    after(() => proxy.close());
    tests();
  });
}
