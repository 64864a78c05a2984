/**
 * Settle which keys were in force for whom: each key rests on one in force before it, and the first on leaf 0.
 *
 * Entries of one millisecond may stand in different chains, whose order to each other is not in a proof: of these each
 * is taken as soon as its author is in force and the one before it in its chain is taken. So no key vouches for itself,
 * but leaf 0's, and no two for each other.
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
    const queues = new Map<VerifiedChain["chain"], Said[]>();
    for (; said[at]?.timeMs === timeMs; at++) {
      const queue = queues.get(said[at]!.chain) ?? [];
      queue.push(said[at]!);
      queues.set(said[at]!.chain, queue);
    }
    let waiting = [...queues.values()];
    while (waiting.length) {
      let taken = 0;
      let failure: unknown;
      for (const queue of waiting) {
        try {
          // INVARIANT: nothing is taken before what stands before it in its chain, or what is retired could come into
          // force after it, as the chains happen to be sent.
          for (; queue.length; queue.shift(), taken++) take(queue[0]!, origin, terms);
        } catch (error) {
          if (!(error instanceof SignatureError)) throw error;
          failure = error;
        }
      }
      waiting = waiting.filter((queue) => queue.length);
      if (waiting.length && !taken) throw failure;
    }
  }
  return terms;
}

/** Verify the author of one entry, and add what it says to the terms.
 *
 * @throws {SignatureError} the author was not in force.
 */
function take({ chain, entry, keys }: Said, origin: string, terms: KeyTerms): void {
  // Leaf 0 names the very key that signs it.
  if (chain.publicName === LEDGER_NAME && entry?.event.seq === 1n) terms.addAll(chain, keys);
  if (entry !== null) verifyAuthors([entry], origin, terms);
  terms.addAll(chain, keys);
}
