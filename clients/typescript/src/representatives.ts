/**
 * Verify who acted for a person: the representative of an AUTHORITY entry that is in force and covers the act.
 *
 * A verifier has no vocabulary. So the end for research, which is the later one, counts for every consent.
 * Source: ledger-format.md, "Authorities".
 */

import { encodeHex } from "./bytes.js";
import type { Event, Statement } from "./codec.js";
import { SignatureError } from "./errors.js";
import type { HeldChain, NamedEntry, VerifiedEntry } from "./history.js";
import { namedBy, type ValidKeys } from "./key_validity.js";
import { AUTHORITY, KEY, READ, SERVED } from "./kinds.js";
import { type Act, type AuthorityStatement, decodeKeyStatement, readAct, readAuthority } from "./payloads.js";

/** The act that each kind of entry is: GRANT, AMEND, PAUSE, RESUME (which is a PAUSE), REVOKE, READ. */
const ACTS: ReadonlyMap<number, bigint> = new Map([[8, 1n], [9, 2n], [10, 3n], [11, 3n], [12, 4n], [READ, 5n]]);

const RESEARCH_AGE = 18;
const SEOUL_MS = 9n * 3_600_000n;
const LAST_YEAR = 9999;

/** An authority, as far as it is verified. */
interface Authority {
  /** Empty: a key is the representative's. */
  readonly participant: string;
  /** In hexadecimal; empty: a participant is the representative. */
  readonly key: string;
  readonly isAgent: boolean;
  readonly acts: ReadonlySet<bigint>;
  readonly startMs: bigint;
  /** null: it has no end. */
  readonly endMs: bigint | null;
  readonly ended: boolean;
}

const NOTHING: Authority = {
  participant: "", key: "", isAgent: false, acts: new Set(), startMs: 0n, endMs: 0n, ended: false,
};

const NOT_HELD = { count: 0n, named: [], unreadTo: 0n };

/** Return what a reader keeps of entries, to verify later statements of the chain: authorities, and keys of
 * representatives. */
export function namedAmong(entries: readonly VerifiedEntry[]): NamedEntry[] {
  return entries.flatMap(({ event: { kind, seq, ref, timeMs }, statement }) => {
    const isNamed = kind === AUTHORITY || (kind === KEY && statement !== null && !isOfOwner(statement.payload));
    return isNamed && statement !== null ? [{ kind, seq, ref, timeMs, payload: statement.payload }] : [];
  });
}

/** Report whether a KEY names no authority, and is understood: then it is a key of the chain's owner. */
function isOfOwner(payload: Uint8Array): boolean {
  return readAct(KEY, payload)?.authoritySeq === 0n;
}

/** Verify who acted for the person, as far as the AUTHORITY entries are among *entries*, in the order of the chain.
 *
 * An entry that this version does not understand may say something else, so nothing follows from it. A key that is not
 * among *keys* is not determined.
 *
 * @param held what is kept of the entries of the same chain that were verified earlier.
 * @returns the `unreadTo` of the chain of the first entry, which is kept with what was read of the chain.
 * @throws {SignatureError} a statement names an authority that is none, was ended, is not in force or does not cover
 * the act; another one than the representative made it; or a KEY puts a key in force that the authority does not pin,
 * or that its representative did not have.
 */
export function verifyRepresentatives(
  entries: readonly VerifiedEntry[], keys: ValidKeys, held: Pick<HeldChain, "count" | "named" | "unreadTo"> = NOT_HELD,
): bigint {
  // null: the entry is no authority. Of an entry that is not here, it is not known.
  const seen = new Map<string, Authority | null>();
  const keyed = new Set<string>();
  const own = entries.length ? `${encodeHex(entries[0]!.event.tag)} ` : "";
  // Of each chain, the last seq, and the last one that may be a KEY which is not here, or not understood.
  const readTo = new Map([[own, held.count]]);
  const unreadTo = new Map([[own, held.unreadTo]]);
  const follow = (chain: string, { kind, seq }: Pick<Event, "kind" | "seq">, payload: Uint8Array | undefined): void => {
    const isRead = payload !== undefined && readAct(kind, payload) !== null;
    if (kind === KEY && !isRead) unreadTo.set(chain, seq);
    else if (seq !== (readTo.get(chain) ?? 0n) + 1n) unreadTo.set(chain, seq - 1n);
    readTo.set(chain, seq);
  };
  // The entries between those that are kept were read too, so what is not here is no gap.
  for (const one of held.named) {
    const stated = one.kind === AUTHORITY ? readAuthority(one.payload) : null;
    if (stated !== null) addAuthority(seen, own, one, stated);
    if (one.kind === KEY) keyed.add(`${own}${readAct(KEY, one.payload)?.authoritySeq}`);
  }
  for (const { event, statement } of entries) {
    const chain = `${encodeHex(event.tag)} `;
    follow(chain, event, statement?.payload);
    if (statement === null) continue;
    if (event.kind === AUTHORITY) {
      const stated = readAuthority(statement.payload);
      if (stated !== null) addAuthority(seen, chain, event, stated);
      continue;
    }
    seen.set(`${chain}${event.seq}`, null);
    const act = readAct(event.kind, statement.payload);
    if (act === null || act.authoritySeq === 0n) continue;
    const at = `${chain}${act.authoritySeq}`;
    const found = seen.get(at);
    if (found === undefined && act.authoritySeq < event.seq) continue;
    if (!found) throw new SignatureError(`statement rests on no authority: seq \`${event.seq}\``);
    if (event.kind === KEY) {
      verifyKey(event, statement, found, !keyed.has(at) && (unreadTo.get(chain) ?? 0n) < act.authoritySeq);
      keyed.add(at);
    } else verifyAct(event, statement, act, found, keys);
  }
  return unreadTo.get(own)!;
}

function addAuthority(
  seen: Map<string, Authority | null>, chain: string, event: Pick<Event, "seq" | "ref" | "timeMs">,
  stated: AuthorityStatement,
): void {
  const end = (at: string): void => {
    const ended = seen.get(at);
    if (ended) seen.set(at, { ...ended, ended: true });
  };
  if (stated.ended) end(`${chain}${event.ref}`);
  if (stated.endsAgents) {
    for (const [at, one] of [...seen]) if (one?.isAgent && at.startsWith(chain)) end(at);
  }
  seen.set(`${chain}${event.seq}`, stated.ended ? null : authorityOf(stated, event.timeMs));
}

function verifyAct(event: Event, statement: Statement, act: Act, found: Authority, keys: ValidKeys): void {
  if (event.kind !== SERVED && !found.acts.has(ACTS.get(event.kind)!)) {
    throw new SignatureError(`statement rests on no authority for this act: seq \`${event.seq}\``);
  }
  const hasEnded = found.ended || (found.endMs !== null && event.timeMs >= found.endMs);
  if (hasEnded || event.timeMs < found.startMs) {
    throw new SignatureError(`statement rests on an authority that is not in force: seq \`${event.seq}\``);
  }
  // Whoever showed a notice states that it was shown to the representative.
  if (event.kind === SERVED) return;
  const isNamed = act.attestedBy !== "" && act.attestedBy === found.participant;
  if (event.kind === READ) {
    if (found.key || isNamed) return;
    throw new SignatureError(`reading rests on the authority of another representative: seq \`${event.seq}\``);
  }
  // Of a single entry, the key may be in an entry that is not here.
  if (!keys.has(statement.key)) return;
  const owner = found.key ? "representative" : "ledger";
  const validities = keys.findAll(statement.key, event, namedBy(event, statement));
  if (!(found.key || isNamed) || !validities.some((one) => one.owner === owner)) {
    throw new SignatureError(`statement rests on an authority of another representative: seq \`${event.seq}\``);
  }
}

function verifyKey(event: Event, { payload }: Statement, found: Authority, isFirst: boolean): void {
  const { key, retired } = decodeKeyStatement(payload)!;
  if (!found.key || (isFirst && (encodeHex(key) !== found.key || retired))) {
    throw new SignatureError(`key is not the one that the authority pins: seq \`${event.seq}\``);
  }
  if (!retired && (found.ended || (found.endMs !== null && event.timeMs >= found.endMs))) {
    throw new SignatureError(`key is of an authority that has ended: seq \`${event.seq}\``);
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
  if (grown === null || !stated.isComplete) return NOTHING;
  const ends = [...(grown === undefined ? [] : [grown]), ...(stated.endMs > 0n ? [stated.endMs] : [])];
  return {
    participant: stated.participantId,
    key: encodeHex(stated.key),
    isAgent: stated.isAgent,
    acts: stated.acts,
    startMs: stated.startMs > timeMs ? stated.startMs : timeMs,
    endMs: ends.length ? ends.reduce((one, other) => (other < one ? other : one)) : null,
    ended: false,
  };
}
