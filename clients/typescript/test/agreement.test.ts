/** Two verifiers agree: each vector comes to the verdict of our Python verifier. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { openCheckpoint } from "../src/checkpoint.js";
import { verify } from "../src/ed25519.js";
import { parseVkey } from "../src/note.js";
import { parsePolicy, verifyCosigned } from "../src/quorum.js";
import { isDetermined } from "../src/report.js";
import { type EvidenceResult, type HistoryOptions, type HistoryResult } from "../src/verify.js";
import { verifyEvidence, verifyHistory, verifyReceipt, verifyReducedReceipt } from "../src/verify.js";
import { decodeKeyStatement, decodeLedgerStatement } from "../src/payloads.js";
import { bytes, readVectors, type Vector, verdict, withoutVectors } from "./vectors.js";

/** How many vectors of each kind there are at least: fewer would mean that they are not read. */
const LEAST = { history: 2300, receipt: 200, note: 250, signature: 700, policy: 700, evidence: 9000 };

function verifyVector(vector: Vector): unknown {
  const { kind, content, under } = vector;
  const evidence = bytes(content);
  const { origin, log_key } = under as { origin: string; log_key: string };
  if (kind === "history") return (evidenceOf(vector) as HistoryResult).complete;
  if (kind === "receipt" && under["leaf"] === undefined) {
    const receipt = { index: BigInt(under["index"] as string), leafHash: bytes(under["leaf_hash"]), proof: evidence };
    return verifyReducedReceipt(receipt, { origin, logKey: log_key });
  }
  if (kind === "receipt") return verifyReceipt(evidence, bytes(under["leaf"]), { origin, logKey: log_key });
  if (kind === "evidence") return isDetermined(evidenceOf(vector) as EvidenceResult);
  if (kind === "policy") return verifyCosigned(evidence, parsePolicy(bytes(under["policy"])), parseVkey(log_key));
  if (kind === "signature") return verify(bytes(under["key"]), bytes(under["message"]), evidence);
  const witnesses = (under["witnesses"] as string[]).map(parseVkey);
  return openCheckpoint(evidence, origin, parseVkey(log_key), witnesses);
}

/** Verify a history or other evidence. */
function evidenceOf({ kind, content, under }: Vector): HistoryResult | EvidenceResult {
  const evidence = bytes(content);
  const { origin, log_key } = under as { origin: string; log_key: string };
  if (kind === "evidence") {
    const policy = under["policy"] === undefined ? {} : { policy: bytes(under["policy"]) };
    return verifyEvidence(evidence, { origin, logKey: log_key, ...policy });
  }
  const options: HistoryOptions = {
    origin,
    logKey: log_key,
    ...(under["tag"] !== undefined && { tag: bytes(under["tag"]) }),
    ...(under["public_name"] !== undefined && { publicName: under["public_name"] as string }),
  };
  let kept: Pick<HistoryOptions, "held" | "heldChain"> = {};
  const sizes = ((under["most"] ?? []) as number[]).map((size) => (size ? { most: BigInt(size) } : {}));
  ((under["before"] ?? []) as string[]).forEach((before, place) => {
    const { held, heldChain } = verifyHistory(bytes(before), { ...options, ...kept, ...sizes[place] });
    kept = under["hold"] === "checkpoint" ? { held } : { held, heldChain };
  });
  return verifyHistory(evidence, { ...options, ...kept, ...sizes.at(-1) });
}

for (const [kind, least] of Object.entries(LEAST)) {
  test(`${kind}: the same verdict`, { skip: withoutVectors }, () => {
    const vectors = readVectors(kind);
    assert.ok(vectors.length >= least, `${vectors.length} vectors`);
    const apart = vectors
      .map((vector) => ({ name: vector.name, want: vector.want, said: verdict(() => verifyVector(vector)) }))
      .filter(({ want, said }) => (want ? want !== said && want !== "any" : said === "ok" || said === "undetermined"));
    assert.deepEqual(apart, []);
  });
}

test("what was pruned: the same reading", { skip: withoutVectors }, () => {
  const vectors = readVectors("history", "evidence").filter(({ under }) => under["reads"] !== undefined);
  assert.ok(vectors.length >= 700, `${vectors.length} vectors`);
  let lacking = 0;
  for (const vector of vectors) {
    const evidence = evidenceOf(vector);
    assert.deepEqual(readPruned(evidence), vector.under["reads"], vector.name);
    if ("heldChain" in evidence && evidence.missing.length) lacking += 1;
  }
  assert.ok(lacking >= 30, `${lacking} of which something is missing`);
});

function readPruned(evidence: HistoryResult | EvidenceResult): unknown {
  const kept_from_ms = Number(evidence.keptFromMs);
  if ("chains" in evidence) {
    const ranges = evidence.chains.flatMap(({ missing }) => missing);
    return { missing: ranges.reduce((count, [first, last]) => count + Number(last - first + 1n), 0), kept_from_ms };
  }
  return {
    missing: evidence.missing.map((range) => range.map(Number)),
    kept_from_ms,
    pruned: evidence.entries.filter(({ pruned }) => pruned).map(({ event }) => Number(event.seq)),
    authors: evidence.entries.map(({ author }) =>
      author?.owner === "participant"
        ? `participant/${author.name}`
        : author?.owner === "representative"
          ? `representative/${author.name.split(" ")[1]}`
          : (author?.owner ?? ""),
    ),
  };
}

test("payloads: the same reading", { skip: withoutVectors }, () => {
  const vectors = readVectors("key", "ledger");
  assert.ok(vectors.length >= 700, `${vectors.length} vectors`);
  const base64 = (content: Uint8Array): string => Buffer.from(content).toString("base64");
  for (const { kind, name, content, under } of vectors) {
    let reads: unknown;
    if (kind === "key") {
      const said = decodeKeyStatement(bytes(content));
      reads = said && { key: base64(said.key), retired: said.retired };
    } else {
      const said = decodeLedgerStatement(bytes(content));
      const { origin, verifierKeys: verifier_keys, retentionDays: retention_days, pruning, rotation } = said ?? {};
      reads = said && {
        origin,
        verifier_keys,
        statement_key: base64(said.statementKey),
        retention_days,
        pruning: pruning ? [String(pruning.keptFromMs), String(pruning.startSize)] : null,
        rotation: rotation
          ? {
              role: rotation.role,
              old_key: base64(rotation.oldKey),
              new_key: base64(rotation.newKey),
              reason: rotation.reason,
              from_size: String(rotation.fromSize),
              new_signature: base64(rotation.newSignature),
              is_alone: said.isAlone,
            }
          : null,
      };
    }
    assert.deepEqual(reads, under["reads"], `${kind}, ${name}: ${Buffer.from(content, "base64").toString("hex")}`);
  }
});
