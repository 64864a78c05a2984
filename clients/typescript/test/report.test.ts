import assert from "node:assert/strict";
import { test } from "node:test";
import { predecessorText } from "../src/report.js";

const utf8 = new TextEncoder();

/** Return a `LedgerStatement` with this predecessor. */
function statement(note: string): Uint8Array {
  const bytes = utf8.encode(note);
  assert.ok(bytes.length < 128);
  return Uint8Array.of(0x0a, 1, 0x61, 0x2a, bytes.length, ...bytes);
}

test("the predecessor that leaf 0 states is shown", () => {
  const root = "A".repeat(43) + "=";
  const shown = predecessorText(statement(`old.example.org\n7\n${root}\n\n— old.example.org AAAAAAA=\n`));
  assert.equal(shown, ` in the place of old.example.org @7 ${"0".repeat(64)}`);
});

test("a predecessor that is no checkpoint is not passed over", () => {
  for (const note of ["garbage", "old\n7\n\n\n— a AAAAAAA=\n", "\u0007"]) {
    assert.equal(predecessorText(statement(note)), " in the place of a ledger that cannot be read");
  }
  assert.equal(predecessorText(statement("")), "");
});
