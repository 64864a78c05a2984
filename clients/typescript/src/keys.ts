/**
 * Settle which keys were in force for whom: each key rests on one in force before it, and the first on leaf 0.
 *
 * Entries of one millisecond may stand in different chains, whose order to each other is not in a proof: of these each
 * is taken as soon as its author is in force. So no key vouches for itself, but leaf 0's, and no two for each other.
 */

import { SignatureError } from "./errors.js";
import { type ChainProof, type VerifiedEntry, verifyAuthors } from "./history.js";
import { KEY, LEDGER } from "./kinds.js";
import { type HeldKey, KeyTerms, LEDGER_NAME, readKeys } from "./terms.js";

/** A chain, and its entries as they were verified. */
export interface VerifiedChain {
  readonly chain: Pick<ChainProof, "tag" | "publicName">;
  readonly entries: readonly VerifiedEntry[];
}

/** What says something of keys: an entry, or, `entry` null, what is held of one whose author was verified before. */
interface Said {
  readonly chain: VerifiedChain["chain"];
  readonly entry: VerifiedEntry | null;
  readonly timeMs: bigint;
  readonly keys: readonly HeldKey[];
}

/** Verify the entries that put keys in force or out of it, in their order; return the terms that follow.
 *
 * @param held what is held of keys of the first of the chains.
 * @param isWhole whether every entry was read that puts keys in force or out of it.
 * @throws {SignatureError} the author of one was not in force.
 */
export function settleKeys(
  chains: readonly VerifiedChain[],
  held: readonly HeldKey[],
  origin: string,
  isWhole: boolean,
): KeyTerms {
  const said: Said[] = [];
  for (const key of held) said.push({ chain: chains[0]!.chain, entry: null, timeMs: key.timeMs, keys: [key] });
  for (const { chain, entries } of chains) {
    for (const entry of entries) {
      const { kind, timeMs } = entry.event;
      if (entry.statement === null || (kind !== LEDGER && kind !== KEY)) continue;
      said.push({ chain, entry, timeMs, keys: readKeys(chain, [entry]).keys });
    }
  }
  said.sort((a, b) => (a.timeMs < b.timeMs ? -1 : a.timeMs > b.timeMs ? 1 : 0)); // stable: each chain keeps its order
  const terms = new KeyTerms();
  terms.isWhole = isWhole;
  for (let at = 0; at < said.length; ) {
    const timeMs = said[at]!.timeMs;
    let waiting: Said[] = [];
    for (; said[at]?.timeMs === timeMs; at++) waiting.push(said[at]!);
    while (waiting.length) {
      const refused: Said[] = [];
      let failure: unknown;
      for (const one of waiting) {
        // Leaf 0 names the very key that signs it.
        if (one.chain.publicName === LEDGER_NAME && one.entry?.event.seq === 1n) terms.addAll(one.chain, one.keys);
        try {
          if (one.entry !== null) verifyAuthors([one.entry], origin, terms);
        } catch (error) {
          if (!(error instanceof SignatureError)) throw error;
          failure = error;
          refused.push(one);
          continue;
        }
        terms.addAll(one.chain, one.keys);
      }
      if (refused.length === waiting.length) throw failure;
      waiting = refused;
    }
  }
  return terms;
}
