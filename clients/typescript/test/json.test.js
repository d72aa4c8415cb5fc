import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, stringify } from "../dist/json.js";

test("integers of 64 bits keep every digit, and nothing else changes", () => {
  const text = '{"id":9007199254740993,"list":[-9223372036854775808,18446744073709551615],"small":9007199254740991}';
  assert.deepEqual(parse(text), {
    id: 9007199254740993n,
    list: [-9223372036854775808n, 18446744073709551615n],
    small: 9007199254740991,
  });
  assert.equal(stringify(parse(text)), text);
});

test("digits inside strings and fractions are left alone", () => {
  const value = { a: 'x":9007199254740993', b: '[12345678901234567890', c: 0.12345678901234568, d: "\\" };
  const text = JSON.stringify({ ...value, e: 1 }).replace(/1}$/, "9007199254740993}");
  assert.deepEqual(parse(text), { ...value, e: 9007199254740993n });
});

test("a string of 30 MB is read beside an integer of 64 bits", () => {
  const value = { long: 'x\\"'.repeat(1000) + "x".repeat(30_000_000) };
  const text = JSON.stringify({ ...value, e: 1 }).replace(/1}$/, "9007199254740993}");
  assert.deepEqual(parse(text), { ...value, e: 9007199254740993n });
});

test("what JSON.parse refuses is refused", () => {
  for (const text of ["", "{", '{"a":12345678901234567890', '{"a":"\\u0000integer:x","b":12345678901234567890}']) {
    assert.throws(() => parse(text), SyntaxError, text);
  }
});
