/**
 * Say what a ledger no longer keeps, and hold it to what it published.
 *
 * Source: ledger-format.md, "Pruning".
 */

import { ProofError } from "./errors.js";
import type { VerifiedEntry } from "./history.js";
import { LEDGER } from "./kinds.js";
import { decodeLedgerStatement, type LedgerStatement } from "./wire.js";

const DAY_MS = 86_400_000n;

/** First and last seq of entries of one chain. */
export type SeqRange = readonly [first: bigint, last: bigint];

/** Return for how many days the ledger published, in its leaf 0, to keep entries; *held* where that is not sent again. */
export function readRetentionDays(ledger: readonly VerifiedEntry[], held = 0): number {
  // INVARIANT: the policy counts as leaf 0 published it: who may write later entries could change it.
  const [first] = ledger.filter(({ event }) => event.seq === 1n);
  if (first === undefined) return held;
  return read(first)?.retentionDays ?? 0;
}

/** Return the time before which the ledger has pruned, by the word of its chain `ledger`; 0n: it has not.
 *
 * @param heldDays what leaf 0 published, where it is held and not sent again.
 * @throws {ProofError} it states to have pruned what its published policy keeps.
 */
export function readKeptFrom(ledger: readonly VerifiedEntry[], heldDays = 0): bigint {
  const days = readRetentionDays(ledger, heldDays);
  let keptFromMs = 0n;
  for (const entry of ledger) {
    const { event } = entry;
    const said = read(entry);
    if (said === null) continue;
    if (said.pruning === null) continue;
    const stated = said.pruning.keptFromMs;
    if (!days || stated + BigInt(days) * DAY_MS > event.timeMs) {
      throw new ProofError("ledger states to have pruned what its retention policy keeps");
    }
    if (stated > keptFromMs) keptFromMs = stated;
  }
  return keptFromMs;
}

function read({ event, statement }: VerifiedEntry): LedgerStatement | null {
  return event.kind === LEDGER && statement ? decodeLedgerStatement(statement.payload) : null;
}

/** Name what is missing of a chain between what is held and its first entry that is shown. */
export function missingBetween(heldCount: bigint, firstSeq: bigint): SeqRange[] {
  return firstSeq > heldCount + 1n ? [[heldCount + 1n, firstSeq - 1n]] : [];
}

/** Tell whether what an entry said was pruned; of an erased person it was erased, whatever its time. */
export function isPruned({ event, statement }: VerifiedEntry, keptFromMs: bigint, isErased: boolean): boolean {
  return statement === null && event.timeMs < keptFromMs && !isErased;
}
