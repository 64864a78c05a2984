/**
 * Say what a ledger no longer keeps, and hold it to what it published.
 *
 * Source: ledger-format.md, "Pruning".
 */

import { ProofError } from "./errors.js";
import type { VerifiedEntry } from "./history.js";
import { LEDGER } from "./kinds.js";
import { decodeLedgerStatement } from "./wire.js";

const DAY_MS = 86_400_000n;

/** First and last seq of entries of one chain. */
export type SeqRange = readonly [first: bigint, last: bigint];

/** Return the time before which the ledger has pruned, by the word of its chain `ledger`; 0n: it has not.
 *
 * @throws {ProofError} it states to have pruned what its published policy keeps.
 */
export function readKeptFrom(ledger: readonly VerifiedEntry[]): bigint {
  let [days, keptFromMs] = [0, 0n];
  for (const { event, statement } of ledger) {
    const said = event.kind === LEDGER && statement ? decodeLedgerStatement(statement.payload) : null;
    if (said === null) continue;
    // INVARIANT: the policy counts as leaf 0 published it: who may write later entries could change it.
    if (event.seq === 1n) days = said.retentionDays;
    if (said.pruning === null) continue;
    const stated = said.pruning.keptFromMs;
    if (!days || stated + BigInt(days) * DAY_MS > event.timeMs) {
      throw new ProofError("ledger states to have pruned what its retention policy keeps");
    }
    if (stated > keptFromMs) keptFromMs = stated;
  }
  return keptFromMs;
}

/** Name what is missing of a chain between what is held and its first entry that is shown. */
export function missingBetween(heldCount: bigint, firstSeq: bigint): SeqRange[] {
  return firstSeq > heldCount + 1n ? [[heldCount + 1n, firstSeq - 1n]] : [];
}

/** Tell whether what an entry said was pruned; of an erased person it was erased, whatever its time. */
export function isPruned({ event, statement }: VerifiedEntry, keptFromMs: bigint, isErased: boolean): boolean {
  return statement === null && event.timeMs < keptFromMs && !isErased;
}
