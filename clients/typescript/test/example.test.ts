/** The worked example of proto/ledger-format.md: its bytes, its receipt, and its person's history. */

import assert from "node:assert/strict";
import { test } from "node:test";

import * as codec from "../src/codec.js";
import { verify } from "../src/ed25519.js";
import { ProofError, SignatureError } from "../src/errors.js";
import { leafHash, nodeHash, verifyConsistency } from "../src/merkle.js";
import { verifyAbsence } from "../src/patricia.js";
import { kindName } from "../src/report.js";
import { verifyHistory, verifyReceipt } from "../src/verify.js";
import { hashes, ledger, ORIGIN, PERSON, person, proof, RECEIPT, TRUST, value } from "./example.js";

const EVENTS = [0, 1, 2, 4, 5, 6, 7, 8, 9];

test("every leaf has the hashes that the example shows", () => {
  for (const index of [...EVENTS, 3, 10]) {
    const leaf = value(`leaf ${index}`);
    assert.deepEqual(leafHash(leaf), value(`leaf hash ${index}`));
    assert.deepEqual(codec.chainHash(leaf), value(`chain hash ${index}`));
    assert.equal(codec.decodeLeaf(leaf).type, EVENTS.includes(index) ? "event" : "seal");
  }
});

test("tags, keys and values of the map", () => {
  for (const name of ["ledger", "vocabulary/example", "rules/realm", "participant/clinic-b"]) {
    assert.deepEqual(codec.publicTag(name), value(`tag of ${name}`));
    assert.deepEqual(codec.mapKey(value(`tag of ${name}`)), value(`map key of ${name}`));
  }
  assert.deepEqual(codec.mapKey(PERSON), value("map key of the person"));
  assert.deepEqual(codec.mapValue(PERSON, 4n, value("chain hash 9")), value("map value of the person"));
});

test("statement, commitment, message and signature of leaf 8", () => {
  const { leaf, opening } = person.entries[2]!;
  assert.deepEqual(opening?.statement, value("statement 8"));
  assert.deepEqual(codec.commit(opening!.salt, opening!.statement), value("commit 8"));
  const event = codec.decodeLeaf(leaf);
  assert.ok(event.type === "event");
  const made = codec.decodeStatement(opening!.statement);
  assert.deepEqual(codec.signedMessage(ORIGIN, event, made), value("message 8"));
  verify(made.key, value("message 8"), made.signature);
  verify(value("key of clinic-b"), value("question message"), value("question signature"));
});

test("the stranger is absent, the tree of 4 leaves is a beginning, the receipt holds", () => {
  verifyAbsence(value("map root"), value("map key of the stranger"), value("map proof of the stranger"));
  const pair = (index: number): Uint8Array => nodeHash(value(`leaf hash ${index}`), value(`leaf hash ${index + 1}`));
  const root1 = nodeHash(pair(0), pair(2));
  verifyConsistency(hashes("consistency from 4"), { size1: 4n, root1, size2: 11n, root2: value("root") });
  const { index, leaf, checkpoint } = verifyReceipt(RECEIPT, value("leaf 8"), TRUST);
  assert.deepEqual([index, leaf.type, checkpoint.size, checkpoint.root], [8n, "event", 11n, value("root")]);
});

test("the person's history is whole", () => {
  const evidence = verifyHistory(proof, { ...TRUST, tag: PERSON, held: { treeSize: 11n, root: value("root") } });
  assert.deepEqual(
    evidence.entries.map(({ event, author }) => [kindName(event.kind), author?.owner]),
    [
      ["ENROL", "ledger"],
      ["KEY", "ledger"],
      ["GRANT", "subject"],
      ["ACCESS", "ledger"],
    ],
  );
  assert.deepEqual([evidence.count, evidence.unread, evidence.erased], [4n, [], false]);
  assert.deepEqual(evidence.heldChain.head, value("chain hash 9"));
});

test("what comes after what is held", () => {
  const key = { key: value("key of the person"), timeMs: 1_760_000_007_000n, retired: false };
  const head = value("chain hash 8");
  const more = { lacksStatements: false, retentionDays: 0, keys: [key], ledgerKeys: null, recent: [], missing: [] };
  const heldChain = { count: 3n, head, erased: false, timeMs: 0n, named: [], unreadTo: 0n, ...more };
  const later = { ...proof, chains: [{ ...person, firstSeq: 4n, entries: person.entries.slice(3) }, ledger] };
  const verify = (change: object): unknown =>
    verifyHistory(later, { ...TRUST, heldChain: { ...heldChain, ...change } });
  verify({});
  assert.throws(() => verify({ erased: true }), { name: "ProofError", message: "entry follows an ERASURE" });
  assert.throws(() => verify({ head: value("chain hash 7") }), ProofError);
  assert.throws(() => verify({ count: 2n }), ProofError);
  assert.throws(() => verify({ count: 5n }), ProofError);
});

test("the person's history with less than all of it", () => {
  const fewer = { ...person, count: 3n, entries: person.entries.slice(0, 3) };
  assert.throws(() => verifyHistory({ ...proof, chains: [fewer, ledger] }, TRUST), ProofError);
  assert.throws(() => verifyHistory({ ...proof, chains: [person] }, TRUST), SignatureError);
  assert.throws(() => verifyHistory(proof, { ...TRUST, tag: new Uint8Array(32) }), ProofError);
});
