/** JSON that keeps every digit of 64 bits. */

// 16 digits are the fewest that a number may not hold. Strings start with a quote, so hardly any message has to be
// looked at closely; a hit inside a string costs time alone.
const MAY_LOSE_DIGITS = /[:[,]\s*-?\d{16}/;
// Strings are taken run by run: a step for each character is slow, and overflows the stack on long ones.
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const LONG_INTEGER = /^-?\d{16,}$/;
const BIGINT_MARK = "\u0000integer:";

/** Parse JSON; integers beyond 2^53 come as `bigint`. Throws SyntaxError. */
export function parse(text: string): unknown {
  if (!MAY_LOSE_DIGITS.test(text)) return JSON.parse(text);
  const marked = text.replace(STRING_OR_NUMBER, (token) =>
    LONG_INTEGER.test(token) && !Number.isSafeInteger(Number(token)) ? `"\\u0000integer:${token}"` : token,
  );
  return JSON.parse(marked, (_key, value: unknown) =>
    typeof value === "string" && value.startsWith(BIGINT_MARK) ? BigInt(value.slice(BIGINT_MARK.length)) : value,
  );
}

/** The JSON of `value`, whose `bigint`s become numbers with all their digits. */
export function stringify(value: unknown): string {
  const text = JSON.stringify(value, (_key, each: unknown) =>
    typeof each === "bigint" ? `${BIGINT_MARK}${each}` : each,
  );
  return text.includes("\\u0000integer:") ? text.replace(/"\\u0000integer:(-?\d+)"/g, "$1") : text;
}
