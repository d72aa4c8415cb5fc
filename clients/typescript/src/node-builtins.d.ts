/** The few parts of Node.js that node-websocket.ts uses: its types' package would be a dependency of every user. */

declare module "node:http" {
  export interface Stream {
    on(event: "data", listener: (chunk: Uint8Array) => void): void;
    on(event: "error", listener: (error: Error) => void): void;
    on(event: "end" | "close", listener: () => void): void;
    write(bytes: Uint8Array): boolean;
    end(): void;
    destroy(): void;
    setNoDelay(): void;
    setTimeout(ms: number): void;
  }
  export interface Answer {
    statusCode?: number;
    headers: { [name: string]: string | undefined };
    resume(): void;
  }
  export interface Request {
    on(event: "upgrade", listener: (answer: Answer, stream: Stream, head: Uint8Array) => void): void;
    on(event: "response", listener: (answer: Answer) => void): void;
    on(event: "error", listener: (error: Error) => void): void;
    end(): void;
    destroy(): void;
  }
  export function request(url: URL, options: { headers: { [name: string]: string }; agent: false }): Request;
}

declare module "node:https" {
  export { request } from "node:http";
}

declare module "node:crypto" {
  export function createHash(algorithm: "sha1"): { update(text: string): { digest(encoding: "base64"): string } };
}
