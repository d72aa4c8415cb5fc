/** What ends a subscription, and how long to wait otherwise. */

/** A fault that trying again cannot mend. */
export class AccountSocketError extends Error {
  override readonly name = "AccountSocketError";

  /**
   * @param code an error code of the protocol (`invalid_pubkey`), `closed_4403` for a close code, `no_server`, or
   *   `invalid_options`
   */
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** Error answers that say "not now". */
const PASSING_ERRORS = new Set(["rate_limited", "internal"]);

/** Close codes that would come again: what was sent, or who sent it, is wrong. */
const FINAL_CLOSES = new Set([1003, 1007, 1009, 4401, 4403]);

/** Seconds to wait at least, by close code: the server is full, or we asked too much. */
const LEAST_WAIT: { [code: number]: number } = { 1013: 5, 4029: 30 };

/** What browsers say of every connection that could not be made, too. */
export const BROKEN_OFF = 1006;
/** The other side speaks something else. */
export const PROTOCOL_ERROR = 1002;

export const isPassing = (code: string): boolean => PASSING_ERRORS.has(code);

export const isFinalClose = (code: number): boolean => FINAL_CLOSES.has(code);

/**
 * How long to wait before the next attempt, in ms.
 *
 * @param failures attempts in a row, this one included, that did not last; 0 after a connection that worked
 * @param closeCode of the connection that ended
 */
export function waitBeforeRetry(failures: number, closeCode: number, firstMs: number, mostMs: number): number {
  const ceiling = Math.min(mostMs, firstMs * 2 ** Math.min(failures, 30));
  const least = (LEAST_WAIT[closeCode] ?? 0) * 1000;
  // Half of it is chance, so that the clients of a server that restarts do not come back all at once.
  return least + ceiling * (0.5 + 0.5 * Math.random());
}
