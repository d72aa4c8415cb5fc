/** Which WebSocket carries a connection. */

/** What is used of a WebSocket: browsers', Node.js 22's and that of the package `ws` all have it. */
export interface Socket {
  binaryType: string;
  onopen: ((event: any) => unknown) | null;
  onmessage: ((event: any) => unknown) | null;
  onerror: ((event: any) => unknown) | null;
  onclose: ((event: any) => unknown) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type SocketConstructor = new (url: string) => Socket;

/**
 * The runtime's own WebSocket; on Node.js 20, which has none without a flag, ours on top of `node:http`.
 *
 * It is imported only there: browsers and bundlers never load it (`browser` in package.json).
 */
export async function defaultSocket(): Promise<SocketConstructor> {
  const native = (globalThis as { WebSocket?: SocketConstructor }).WebSocket;
  return native ?? (await import("./node-websocket.js")).NodeWebSocket;
}
