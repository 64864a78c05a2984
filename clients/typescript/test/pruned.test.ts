/** The result for a pruned history, as text and as JSON, and what is held of one. The vectors have what is refused. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { NOT_PROVEN_OF_PRUNED } from "../src/chains.js";
import { heldJson, parseHeld } from "../src/held.js";
import { evidenceJson, evidenceText, historyJson, historyText } from "../src/report.js";
import { type HistoryResult, NOT_PROVEN, verifyEvidence, verifyHistory } from "../src/verify.js";
import { bytes, readVectors, withoutVectors } from "./vectors.js";

function historyNamed(name: string): HistoryResult {
  const { content, under } = readVectors("history").find((vector) => vector.name === name)!;
  const trust = { origin: under["origin"] as string, logKey: under["log_key"] as string };
  let kept: Partial<Pick<HistoryResult, "held" | "heldChain">> = {};
  for (const before of (under["before"] ?? []) as string[]) {
    const { held, heldChain } = verifyHistory(bytes(before), { ...trust, ...kept });
    kept = { held, heldChain };
  }
  return verifyHistory(bytes(content), { ...trust, ...kept });
}

const json = (value: unknown): Record<string, unknown> => JSON.parse(JSON.stringify(value));

test("a history that begins after what was pruned", { skip: withoutVectors }, () => {
  const evidence = historyNamed("pruned: stated: five are missing, and one is a tombstone");
  assert.deepEqual(evidence.missing, [[1n, 5n]]);
  assert.equal(evidence.keptFromMs, BigInt(1_800_000_000_000 + 5 * 86_400_000));
  const shown = evidence.entries.map(({ event, pruned }) => [event.seq, pruned]);
  assert.deepEqual(shown, [[6n, true], [7n, false], [8n, false]]);
  const lines = historyText(evidence);
  assert.match(lines[0]!, /has these entries and no others but those that were pruned in ledger\.example/);
  assert.match(lines[1]!, /^entries 1 to 5 were pruned, .* everything from 2027-01-20T08:00:00\.000Z on is here$/);
  assert.match(lines[2]!, /^ +6 .* ACCESS +\(pruned\)$/);
  assert.equal(lines.at(-1), `  ${NOT_PROVEN_OF_PRUNED}`);
  const said = json(historyJson(evidence));
  assert.deepEqual([said["missing"], said["kept_from_ms"]], [[[1, 5]], Number(evidence.keptFromMs)]);
  assert.deepEqual((said["entries"] as { pruned: boolean }[]).map(({ pruned }) => pruned), [true, false, false]);
  assert.deepEqual(said["not_proven"], [...NOT_PROVEN, NOT_PROVEN_OF_PRUNED]);
});

test("a statement that was pruned is not one that was erased", { skip: withoutVectors }, () => {
  const pruned = historyNamed("pruned: tombstones from 3 to 6");
  const seqs = pruned.entries.map(({ event, pruned }) => (pruned ? Number(event.seq) : 0));
  assert.deepEqual(seqs, [0, 0, 3, 4, 5, 6, 0, 0]);
  assert.equal(historyText(pruned).filter((line) => line.endsWith("(pruned)")).length, 4);
  assert.deepEqual(pruned.missing, []);
  assert.equal(historyText(pruned).at(-1), `  ${NOT_PROVEN_OF_PRUNED}`);
  const erased = historyNamed("pruned: tombstones before a last ERASURE");
  assert.ok(erased.erased && erased.entries.every((entry) => !entry.pruned));
  assert.equal(historyText(erased).filter((line) => line.endsWith("(erased)")).length, 7);
});

test("entries after a gap are shown apart from those held", { skip: withoutVectors }, () => {
  const evidence = historyNamed("retention: news, early");
  assert.deepEqual(evidence.missing, [[5n, 7n]]);
  const lines = historyText(evidence);
  assert.match(lines[1]!, /^entries 5 to 7 were pruned/);
  assert.equal(lines[2], "(those up to 4 were verified before)");
  assert.match(lines[3]!, /^ +8 /);

  const later = historyNamed("retention: news behind a gap that is held");
  assert.deepEqual(later.missing, [[5n, 7n]]);
  assert.deepEqual(later.entries.map(({ event }) => event.seq), [12n]);
  assert.equal(historyText(later)[2], "(those up to 11 were verified before)");
});

test("a LEDGER entry without a key puts none in force", { skip: withoutVectors }, () => {
  const { entries, heldChain } = historyNamed("pruned: ledger asked for");
  assert.deepEqual([entries.length, heldChain.keys.length], [2, 1]);
});

test("what is missing is kept for the next time", { skip: withoutVectors }, () => {
  const { tag, held, heldChain } = historyNamed("retention: news, early");
  const kept = json(heldJson({ tag, held, heldChain }));
  assert.deepEqual(kept["missing"], [["5", "7"]]);
  assert.deepEqual(parseHeld(JSON.stringify(kept)).heldChain, heldChain);
  assert.deepEqual(parseHeld(JSON.stringify({ ...kept, missing: undefined })).heldChain.missing, []);
  for (const missing of [1, [1], [[1, 2]], [["1"]], "5 to 7", [null]]) {
    assert.throws(() => parseHeld(JSON.stringify({ ...kept, missing })), TypeError);
  }
});

test("evidence of a person whose chain was pruned", { skip: withoutVectors }, () => {
  const { content, under } = readVectors("evidence").find(({ name }) => name === "pruned evidence: a person")!;
  const trust = { origin: under["origin"] as string, logKey: under["log_key"] as string };
  const evidence = verifyEvidence(bytes(content), trust);
  const missing = evidence.chains.map((chain) => [chain.publicName, chain.missing]);
  assert.deepEqual(missing, [["", [[1n, 4n]]], ["ledger", []]]);
  assert.deepEqual(evidence.chains[0]!.entries.map(({ pruned }) => pruned), [true, false, false]);
  const text = evidenceText(evidence);
  assert.match(text[1]!, /its chain is whole from 5 on$/);
  assert.match(text[2]!, /has these entries and no others but those that were pruned:$/);
  assert.match(text[3]!, /^entries 1 to 4 were pruned/);
  assert.equal(text.at(-1), `  ${NOT_PROVEN_OF_PRUNED}`);
  const said = json(evidenceJson(evidence)) as { chains: { missing: unknown }[]; kept_from_ms: number };
  assert.deepEqual(said.chains.map(({ missing }) => missing), [[[1, 4]], []]);
  assert.equal(said.kept_from_ms, Number(evidence.keptFromMs));
});
