/** An audit bundle of the worked example. What must be refused is in the vectors. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { verifyBundle } from "../src/bundle.js";
import { MalformedError, ProofError, SignatureError } from "../src/errors.js";
import { bundleParts, PERSON, TRUST, VKEY, zip } from "./example.js";

test("a person's chain, whole, and whose key signed each entry", () => {
  const evidence = verifyBundle(zip(bundleParts()), TRUST);
  assert.deepEqual(evidence.scope, { range: null, tag: PERSON, participant: null });
  assert.deepEqual(
    evidence.chains.map(({ publicName, entries }) => [publicName, entries.length]),
    [["", 4], ["ledger", 1]],
  );
  assert.deepEqual(
    evidence.chains[0]!.entries.map(({ author }) => author?.owner),
    ["ledger", "ledger", "subject", "ledger"],
  );
  assert.deepEqual([evidence.closed, evidence.unproven, evidence.unread], [0, 0, []]);
  assert.equal(evidence.checkpoint.size, 11n);
});

test("a chain that is missing, shorter, or nobody's", () => {
  const parts = bundleParts();
  const lines = parts["chains.jsonl"]!.split("\n").slice(0, -1);
  const chains = (...some: string[]): Uint8Array => zip({ ...parts, "chains.jsonl": some.map((one) => `${one}\n`).join("") });
  assert.throws(() => verifyBundle(chains(...lines.slice(5)), TRUST), ProofError);
  assert.throws(() => verifyBundle(chains(...lines.slice(0, 5)), TRUST), SignatureError);
  const shorter = lines[0]!.replace('"entries":4', '"entries":3');
  assert.throws(() => verifyBundle(chains(shorter, ...lines.slice(1, 4), ...lines.slice(5)), TRUST), ProofError);
  assert.throws(() => verifyBundle(chains(...lines, ...lines.slice(5)), TRUST), ProofError);
  const other = parts["scope.json"]!.replace("aa", "ab");
  assert.throws(() => verifyBundle(zip({ ...parts, "scope.json": other }), TRUST), ProofError);
});

test("options that cannot be are the caller's mistake", () => {
  const content = zip(bundleParts());
  const policy = (text: string): Uint8Array => new TextEncoder().encode(text);
  assert.throws(() => verifyBundle(content, { ...TRUST, logKey: "x" }), TypeError);
  assert.throws(() => verifyBundle(content, { ...TRUST, policy: policy("quorum none") }), TypeError);
  assert.deepEqual(verifyBundle(content, { ...TRUST, policy: policy("quorum none\n") }).cosignatures, []);
  assert.deepEqual(verifyBundle(content, { ...TRUST, policy: policy(`log ${VKEY}\nquorum none\n`) }).cosignatures, []);
});

test("what is no bundle", () => {
  const parts = bundleParts();
  for (const content of [new Uint8Array(), zip({}), zip({ ...parts, more: "" })]) {
    assert.throws(() => verifyBundle(content, TRUST), MalformedError);
  }
});
