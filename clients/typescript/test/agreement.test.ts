/** Two verifiers, one word: each vector comes to what our Python verifier says of it. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { verifyBundle } from "../src/bundle.js";
import { openCheckpoint } from "../src/checkpoint.js";
import { verify } from "../src/ed25519.js";
import { parseVkey } from "../src/note.js";
import { parsePolicy, verifyCosigned } from "../src/policy.js";
import { isTold } from "../src/report.js";
import { type HistoryOptions, verifyHistory, verifyReceipt } from "../src/verify.js";
import { decodeKeyStatement, decodeLedgerStatement } from "../src/wire.js";
import { bytes, readVectors, type Vector, verdict, withoutVectors } from "./vectors.js";

/** How many vectors of each kind there are at least: fewer would mean that they are not read. */
const LEAST: Readonly<Record<string, number>> = { history: 1500, receipt: 200, note: 250, signature: 700, policy: 700, bundle: 8000 };

function verifyVector({ kind, content, under }: Vector): unknown {
  const evidence = bytes(content);
  const { origin, log_key } = under as { origin: string; log_key: string };
  if (kind === "receipt") return verifyReceipt(evidence, bytes(under["leaf"]), { origin, logKey: log_key });
  if (kind === "bundle") {
    const policy = under["policy"] === undefined ? {} : { policy: bytes(under["policy"]) };
    return isTold(verifyBundle(evidence, { origin, logKey: log_key, ...policy }));
  }
  if (kind === "policy") return verifyCosigned(evidence, parsePolicy(bytes(under["policy"])), parseVkey(log_key));
  if (kind === "signature") return verify(bytes(under["key"]), bytes(under["message"]), evidence);
  if (kind === "note") {
    const witnesses = (under["witnesses"] as string[]).map(parseVkey);
    return openCheckpoint(evidence, origin, parseVkey(log_key), witnesses);
  }
  const options: HistoryOptions = {
    origin,
    logKey: log_key,
    ...(under["tag"] !== undefined && { tag: bytes(under["tag"]) }),
    ...(under["public_name"] !== undefined && { publicName: under["public_name"] as string }),
  };
  let kept: Pick<HistoryOptions, "held" | "heldChain"> = {};
  for (const before of (under["before"] ?? []) as string[]) {
    const { held, heldChain } = verifyHistory(bytes(before), { ...options, ...kept });
    kept = under["hold"] === "checkpoint" ? { held } : { held, heldChain };
  }
  return verifyHistory(evidence, { ...options, ...kept });
}

for (const [kind, least] of Object.entries(LEAST)) {
  test(`${kind}: the same verdict`, { skip: withoutVectors }, () => {
    const vectors = readVectors(kind);
    assert.ok(vectors.length >= least, `${vectors.length} vectors`);
    const apart = vectors
      .map((vector) => ({ name: vector.name, want: vector.want, said: verdict(() => verifyVector(vector)) }))
      .filter(({ want, said }) => (want ? want !== said && want !== "any" : said === "ok" || said === "untold"));
    assert.deepEqual(apart, []);
  });
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
      const { origin, verifierKeys: verifier_keys } = said ?? {};
      reads = said && { origin, verifier_keys, statement_key: base64(said.statementKey) };
    }
    assert.deepEqual(reads, under["reads"], `${kind}, ${name}: ${Buffer.from(content, "base64").toString("hex")}`);
  }
});
