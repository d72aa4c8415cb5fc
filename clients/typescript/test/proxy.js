/** A line between client and server that can be cut, frozen and laid elsewhere. */

import { connect, createServer } from "node:net";

export class Proxy {
  /** @param {string} url of the server */
  static async to(url) {
    const proxy = new Proxy();
    proxy.lead(url);
    proxy.server = createServer((near) => proxy.join(near));
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.url = `ws://127.0.0.1:${proxy.server.address().port}/ws`;
    return proxy;
  }

  pairs = new Set();
  frozen = false;
  /** How many connections there have been. */
  connections = 0;

  /** Lead connections to another server from now on. */
  lead(url) {
    this.target = Number(new URL(url).port);
  }

  join(near) {
    const far = connect(this.target, "127.0.0.1");
    const pair = { near, far };
    this.connections += 1;
    this.pairs.add(pair);
    const end = () => {
      near.destroy();
      far.destroy();
      this.pairs.delete(pair);
    };
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on("data", (bytes) => this.frozen || to.write(bytes));
      from.on("close", end);
      from.on("error", end);
    }
  }

  /** Break every connection off, without a word. */
  cut() {
    for (const { near, far } of this.pairs) {
      near.destroy();
      far.destroy();
    }
  }

  close() {
    this.cut();
    this.server.close();
  }
}
