/**
 * Verify who acted for a person: the representative of an AUTHORITY entry that is in force and covers the act.
 *
 * A verifier has no vocabulary. So the end for research, which is the later one, counts for every consent.
 * Source: ledger-format.md, "Authorities".
 */

import { encodeHex } from "./bytes.js";
import { SignatureError } from "./errors.js";
import type { VerifiedEntry } from "./history.js";
import type { ValidKeys } from "./key_validity.js";
import { AUTHORITY } from "./kinds.js";
import { type AuthorityStatement, readAct, readAuthority } from "./payloads.js";

/** The act that each kind of entry is: GRANT, AMEND, PAUSE, RESUME (which is a PAUSE), REVOKE. */
const ACTS: ReadonlyMap<number, bigint> = new Map([[8, 1n], [9, 2n], [10, 3n], [11, 3n], [12, 4n]]);

const RESEARCH_AGE = 18;
const SEOUL_MS = 9n * 3_600_000n;
const LAST_YEAR = 9999;

/** An authority, as far as it is verified. */
interface Authority {
  readonly participant: string;
  readonly acts: ReadonlySet<bigint>;
  readonly startMs: bigint;
  /** null: it has no end. */
  readonly endMs: bigint | null;
  readonly ended: boolean;
}

const NOTHING: Authority = { participant: "", acts: new Set(), startMs: 0n, endMs: 0n, ended: false };

/** Verify who acted for the person, as far as the AUTHORITY entries are among *entries*, in the order of the chain.
 *
 * An entry that this version does not understand may say something else, so nothing follows from it.
 *
 * @throws {SignatureError} a statement names an authority that is none, was ended, is not in force or does not cover
 * the act; or another one than the representative attests it.
 */
export function verifyRepresentatives(entries: readonly VerifiedEntry[], keys: ValidKeys): void {
  // null: the entry is no authority. Of an entry that is not here, it is not known.
  const seen = new Map<string, Authority | null>();
  for (const { event, statement } of entries) {
    if (statement === null) continue;
    const chain = encodeHex(event.tag);
    if (event.kind === AUTHORITY) {
      const stated = readAuthority(statement.payload);
      if (stated === null) continue;
      seen.set(`${chain} ${event.seq}`, stated.ended ? null : authorityOf(stated, event.timeMs));
      const ended = stated.ended ? seen.get(`${chain} ${event.ref}`) : undefined;
      if (ended) seen.set(`${chain} ${event.ref}`, { ...ended, ended: true });
      continue;
    }
    seen.set(`${chain} ${event.seq}`, null);
    const wanted = ACTS.get(event.kind);
    const act = wanted === undefined ? null : readAct(event.kind, statement.payload);
    if (act === null || act.authoritySeq === 0n) continue;
    const found = seen.get(`${chain} ${act.authoritySeq}`);
    if (found === undefined && act.authoritySeq < event.seq) continue;
    const byDaemon = keys.findAll(statement.key, event).some(({ owner }) => owner === "ledger");
    if (!found || !byDaemon || act.attestedBy !== found.participant || !found.acts.has(wanted!)) {
      throw new SignatureError(`statement rests on no authority of its attester for this act: seq \`${event.seq}\``);
    }
    const hasEnded = found.ended || (found.endMs !== null && event.timeMs >= found.endMs);
    if (hasEnded || event.timeMs < found.startMs) {
      throw new SignatureError(`statement rests on an authority that is not in force: seq \`${event.seq}\``);
    }
  }
}

/** Return the instant at which somebody born on a date is so many years old, UTC ms: midnight in Asia/Seoul.
 *
 * Who was born on 29 February completes a year that has no such day on 1 March. null: the text is no date, or the
 * birthday is after the year 9999.
 */
export function birthdayMs(birthDate: string, years: number): bigint | null {
  const found = /^([0-9]{4})-([0-9]{2})-([0-9]{2})$/.exec(birthDate);
  if (found === null) return null;
  const [year, month, day] = found.slice(1).map(Number) as [number, number, number];
  const isDate = midnight(year, month, day).getUTCDate() === day && month >= 1 && month <= 12 && day >= 1 && year >= 1;
  if (!isDate || year + years > LAST_YEAR) return null;
  return BigInt(midnight(year + years, month, day).getTime()) - SEOUL_MS;
}

/** Return midnight in UTC; a day that the month does not have is one of the next month. */
function midnight(year: number, month: number, day: number): Date {
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day); // `Date.UTC` takes the years 0 to 99 for 1900 to 1999
  return date;
}

function authorityOf(stated: AuthorityStatement, timeMs: bigint): Authority {
  const grown = stated.isMinor ? birthdayMs(stated.birthDate, RESEARCH_AGE) : undefined;
  if (grown === null) return NOTHING;
  const ends = [...(grown === undefined ? [] : [grown]), ...(stated.endMs > 0n ? [stated.endMs] : [])];
  return {
    participant: stated.participantId,
    acts: stated.acts,
    startMs: stated.startMs > timeMs ? stated.startMs : timeMs,
    endMs: ends.length ? ends.reduce((one, other) => (other < one ? other : one)) : null,
    ended: false,
  };
}
