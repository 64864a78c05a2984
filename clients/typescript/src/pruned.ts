/**
 * Read what a ledger states to have pruned, and compare it with the retention policy that it published.
 *
 * Source: ledger-format.md, "Pruning".
 */

import { ProofError } from "./errors.js";
import type { VerifiedEntry } from "./history.js";
import { LEDGER } from "./kinds.js";
import { decodeLedgerStatement, type LedgerStatement } from "./payloads.js";

const DAY_MS = 86_400_000n;

/** First and last seq of entries of one chain. */
export type SeqRange = readonly [first: bigint, last: bigint];

/** Return for how many days leaf 0 published to keep entries; *held* if leaf 0 is not sent again. */
export function readRetentionDays(ledger: readonly VerifiedEntry[], held = 0): number {
  // INVARIANT: only leaf 0 sets the policy. Otherwise the writer of a later entry could shorten the retention.
  const [first] = ledger.filter(({ event }) => event.seq === 1n);
  if (first === undefined) return held;
  return read(first)?.retentionDays ?? 0;
}

/** Return the time before which the ledger has pruned, as its chain `ledger` states; 0n: it has not.
 *
 * @param days for how many days leaf 0 published to keep entries.
 * @throws {ProofError} it states to have pruned what its published policy keeps.
 */
export function readKeptFrom(ledger: readonly VerifiedEntry[], days: number): bigint {
  let keptFromMs = 0n;
  for (const entry of ledger) {
    const { event } = entry;
    const stated = read(entry)?.pruning?.keptFromMs;
    if (stated === undefined) continue;
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

/** Return the range of entries that are missing between those held and the first one sent. */
export function missingBetween(heldCount: bigint, firstSeq: bigint): SeqRange[] {
  return firstSeq > heldCount + 1n ? [[heldCount + 1n, firstSeq - 1n]] : [];
}
