/**
 * Read what the reader trusts, and hold a checkpoint's cosignatures against it.
 */

import { MalformedError, ProofError, SignatureError } from "./errors.js";
import { COSIGNATURE, isBy, type Note, parseVkey, timeOf, Verifier } from "./note.js";
import type { Cosignature } from "./policy.js";

/** How long ago a cosignature may have been made. */
export const MAX_AGE_MS = 5 * 60_000;
/** How far clocks of ledger, witnesses and reader may be apart. */
export const MAX_SKEW_MS = 60_000;

/** What the reader trusts. */
export interface Trust {
  /** The ledger's name in its checkpoints. */
  readonly origin: string;
  /** The log's key, as C2SP vkey text or parsed. Get both on another way than with the proof. */
  readonly logKey: string | Verifier;
  /** Keys of witnesses. A signature by one of them that is wrong refuses the checkpoint. */
  readonly witnesses?: readonly (string | Verifier)[];
  /** How many of the witnesses must have cosigned. Default 0: it is the log's word alone that this tree is new. */
  readonly quorum?: number;
  /** The reader's clock, in ms since 1970. Default: no time is compared with it. */
  readonly now?: number;
  /** With `now`: how old a cosignature may be. Default `MAX_AGE_MS`. */
  readonly maxAgeMs?: number;
}

/** The same, read. */
export interface ReadTrust {
  readonly origin: string;
  readonly log: Verifier;
  readonly witnesses: readonly Verifier[];
  readonly quorum: number;
  readonly nowMs: number | null;
  readonly maxAgeMs: number;
}

/** Read what the reader trusts.
 *
 * @throws {TypeError} it cannot be.
 */
export function readTrust(options: Trust): ReadTrust {
  const { origin, quorum = 0, now = null, maxAgeMs = MAX_AGE_MS } = options;
  const log = readKey(options.logKey);
  const witnesses = (options.witnesses ?? []).map(readKey);
  if (witnesses.some(({ kind }) => kind !== COSIGNATURE)) throw new TypeError("witness has a key of another type");
  const distinct = witnesses.filter((one, at) => witnesses.findIndex((other) => other.equals(one)) === at);
  if (!Number.isInteger(quorum) || quorum < 0 || quorum > distinct.length) {
    throw new TypeError("quorum is not a number of the witnesses");
  }
  return { origin, log, witnesses: distinct, quorum, nowMs: now, maxAgeMs };
}

/** Read a pinned key.
 *
 * @throws {TypeError} it is none.
 */
export function readKey(key: string | Verifier): Verifier {
  if (key instanceof Verifier) return key;
  try {
    return parseVkey(key);
  } catch (error) {
    // The reader's own key is no evidence: a mistake in it must not pass for a verdict on the proof.
    if (error instanceof MalformedError) throw new TypeError(`key of log or witness is malformed: ${error.message}`);
    throw error;
  }
}

/** Verify quorum and freshness; *timeMs* is the leaf's that the checkpoint is about.
 *
 * @throws {SignatureError} too few have cosigned, or too long ago.
 * @throws {ProofError} the leaf is of a time that has not come yet.
 */
export function checkWitnesses(note: Note, trust: ReadTrust, timeMs: bigint): Cosignature[] {
  const { witnesses, quorum, nowMs, maxAgeMs } = trust;
  if (nowMs !== null && timeMs > BigInt(Math.floor(nowMs)) + BigInt(MAX_SKEW_MS)) {
    throw new ProofError("leaf is of a time that has not come yet");
  }
  // A cosignature's time has no more than seconds.
  const secondMs = nowMs === null ? null : Math.floor(nowMs / 1000) * 1000;
  const cosignatures: Cosignature[] = [];
  let counting = 0;
  for (const witness of witnesses) {
    const times = note.verified.filter((line) => isBy(line, witness)).map(({ signature }) => timeOf(signature));
    if (!times.length) continue;
    const latest = times.reduce((a, b) => (a > b ? a : b)) * 1000n;
    cosignatures.push({ name: witness.name, timeMs: Number(latest) });
    const isFresh =
      secondMs === null || (Number(latest) >= secondMs - maxAgeMs && Number(latest) <= secondMs + MAX_SKEW_MS);
    // A cosignature that is older than the leaf cannot have covered it.
    if (isFresh && timeMs <= latest + BigInt(MAX_SKEW_MS)) counting += 1;
  }
  if (counting < quorum) throw new SignatureError(`fewer witnesses cosigned than asked for: \`${counting}\``);
  return cosignatures;
}
