/**
 * Verify that a chain has no signed statement twice.
 *
 * A statement that an author signed can be copied into a second entry of its chain, and its signature still verifies.
 * So two statements with one key and one request_id are refused if their entries are within `REPEAT_WINDOW_MS`. Copies
 * are never further apart, because each entry is at most `MAX_AUTHOR_SKEW_MS` from the author's clock. The daemon's own
 * statements do not count. Source: ledger-format.md, "Recorded once".
 */

import { encodeHex } from "./bytes.js";
import { ProofError } from "./errors.js";
import type { VerifiedEntry } from "./history.js";
import { MAX_AUTHOR_SKEW_MS, namedBy, type ValidKeys } from "./key_validity.js";

/** Two entries with the same statement differ in time by at most this. */
export const REPEAT_WINDOW_MS = 2n * MAX_AUTHOR_SKEW_MS;

/** A signed statement that later entries of its chain must not repeat. */
export interface RecentStatement {
  readonly timeMs: bigint;
  readonly tag: Uint8Array;
  readonly key: Uint8Array;
  /** 16 bytes. */
  readonly requestId: Uint8Array;
}

/** Verify that no statement repeats another of its chain; return those that later entries must not repeat.
 *
 * @param entries in time order, each with its statement verified; of one chain or of several.
 * @param known what an earlier call returned, for the entries before these.
 * @throws {ProofError} a chain has a signed statement twice.
 */
export function verifyOnce(
  entries: readonly VerifiedEntry[], keys: ValidKeys, known: readonly RecentStatement[] = [],
): RecentStatement[] {
  const recent = new Map(known.map((one) => [identityOf(one), one]));
  for (const { event, statement } of entries) {
    if (statement === null || keys.isDaemonsAlone(statement.key, event, namedBy(event, statement))) continue;
    // A Map keeps the order in which statements were added, and times do not decrease.
    for (const [identity, { timeMs }] of recent) {
      if (timeMs >= event.timeMs - REPEAT_WINDOW_MS) break;
      recent.delete(identity);
    }
    const one = { timeMs: event.timeMs, tag: event.tag, key: statement.key, requestId: statement.requestId };
    if (recent.has(identityOf(one))) throw new ProofError("signed statement is recorded twice in its chain");
    recent.set(identityOf(one), one);
  }
  return [...recent.values()];
}

function identityOf({ tag, key, requestId }: RecentStatement): string {
  return [tag, key, requestId].map(encodeHex).join(" ");
}
