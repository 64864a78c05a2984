/**
 * Verify who reported the outcome of a transfer: a participant that had a part in the access.
 *
 * Source: ledger-format.md, "Keys in force".
 */

import { encodeHex } from "./bytes.js";
import { SignatureError } from "./errors.js";
import type { VerifiedEntry } from "./history.js";
import { namedBy, type ValidKeys } from "./key_validity.js";
import { ACCESS, OUTCOME } from "./kinds.js";
import { readParties, readReporter } from "./payloads.js";

/** Verify who reported the outcomes among entries whose signatures are verified, as far as their ACCESS is there.
 *
 * An entry that this version does not understand may name other parties, so nothing follows from it.
 *
 * @throws {SignatureError} the reporter of an outcome had no part in the access.
 */
export function verifyReporters(entries: readonly VerifiedEntry[], keys: ValidKeys): void {
  const accesses = new Map<string, ReadonlySet<string>>();
  for (const { event, statement } of entries) {
    if (statement === null) continue;
    const chain = encodeHex(event.tag);
    if (event.kind === ACCESS) {
      const parties = readParties(statement.payload);
      if (parties !== null) accesses.set(`${chain} ${event.seq}`, parties);
    }
    const parties = event.kind === OUTCOME ? accesses.get(`${chain} ${event.ref}`) : undefined;
    const attester = parties === undefined ? null : readReporter(statement.payload);
    if (parties === undefined || attester === null) continue;
    const validities = keys.findAll(statement.key, event, namedBy(event, statement));
    const reporters = validities.map(({ owner, name }) => (owner === "ledger" ? attester : name));
    if (reporters.length && !reporters.some((one) => parties.has(one))) {
      throw new SignatureError(`reporter of the outcome had no part in the access: seq \`${event.seq}\``);
    }
  }
}
