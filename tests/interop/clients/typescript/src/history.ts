/**
 * Make a file of evidence from the stream of GetHistory, for `verifyHistory`: evidence-format.md.
 */

import type {
  GetHistoryResponse,
  HistoryChain,
  HistoryHead,
  HistoryRotation,
  LedgerEntry,
} from "./consentd/v1/ledger_service.js";

/** Return the file that the pieces of a stream make, about the chain of *tag*. */
export function evidenceOf(pieces: readonly GetHistoryResponse[], tag: Buffer): Buffer {
  let head: HistoryHead | undefined;
  const histories: { chain: HistoryChain; entries: LedgerEntry[] }[] = [];
  for (const { piece } of pieces) {
    if (piece?.$case === "head") head = piece.value;
    else if (piece?.$case === "chain") histories.push({ chain: piece.value, entries: [] });
    else if (piece?.$case === "entries") histories.at(-1)!.entries.push(...piece.value.entries);
    else throw new Error("unknown piece");
  }
  if (!head) throw new Error("stream has no head");
  return Buffer.from(
    JSON.stringify({
      format: "consentd/evidence/v2",
      scope: { tag: base64(tag) },
      checkpoint: base64(head.checkpoint),
      consistency: head.consistency.map(base64),
      seal: base64(head.seal),
      seal_inclusion: head.sealInclusion.map(base64),
      histories: histories.map(({ chain, entries }) => historyOf(chain, entries)),
      entries: [],
      rotations: head.rotations.map(rotationOf),
      keys: [],
      policy: "",
    }),
  );
}

function rotationOf({ checkpoint, seal, sealInclusion, chain, entries, consistency }: HistoryRotation): object {
  if (!chain) throw new Error("rotation has no chain");
  return {
    checkpoint: base64(checkpoint),
    seal: base64(seal),
    seal_inclusion: sealInclusion.map(base64),
    history: historyOf(chain, entries),
    consistency: consistency.map(base64),
  };
}

function historyOf(chain: HistoryChain, entries: readonly LedgerEntry[]): object {
  return {
    tag: base64(chain.tag),
    public_name: chain.publicName,
    count: Number(chain.count),
    head: base64(chain.head),
    map_proof: base64(chain.mapProof),
    first_seq: Number(chain.firstSeq),
    entries: entries.map(({ leaf, opening }) => ({
      leaf: base64(leaf),
      opening: opening ? { salt: base64(opening.salt), statement: base64(opening.statement) } : null,
    })),
  };
}

function base64(bytes: Buffer): string {
  return bytes.toString("base64");
}
