/**
 * Follow the rotations in a proof: from the log key that a reader pinned to the key that signed the proof's checkpoint.
 *
 * Each rotation has a checkpoint that a log key signed before it was replaced, with the whole chain `ledger` at that
 * checkpoint, which states the key that signs larger checkpoints. A reader that pinned a later key begins where its key
 * signs; nothing before is verified or used. Source: evidence-format.md, "Rotations".
 */

import { equal } from "./bytes.js";
import { verifyChains } from "./chains.js";
import { type Checkpoint, parseCheckpoint } from "./checkpoint.js";
import { type Event, publicTag } from "./codec.js";
import { ProofError, SignatureError } from "./errors.js";
import { type HistoryProof, type RotationProof, type VerifiedEntry, verifySealedCheckpoint } from "./history.js";
import { LEDGER_CHAIN } from "./key_validity.js";
import { verifyConsistency } from "./merkle.js";
import { formatVkey, isBy, parseNote, parseVkey, Verifier } from "./note.js";
import { type ReadTrust, verifyWitnessed } from "./quorum.js";
import type { FollowedKey } from "./rotation.js";

/** The log key that must have signed a proof's checkpoint, and how it was reached. */
export interface Followed {
  readonly log: Verifier;
  /** From the pinned key to `log`; empty if no rotation was followed. */
  readonly keys: readonly FollowedKey[];
  /** The entries of chain `ledger` at the last checkpoint of an earlier key. */
  readonly ledger: readonly VerifiedEntry[];
}

/** Verify the rotations of a proof from the pinned log key on; return the key that must have signed its checkpoint.
 *
 * @throws {MalformedError} a part has a wrong form.
 * @throws {UnknownKeyError} a checkpoint is signed by another key than the one reached: a rotation is missing.
 * @throws {SignatureError} a signature is wrong, or there is no quorum.
 * @throws {ProofError} checkpoints are out of order or do not continue each other; a chain is not `ledger`, is not
 * whole or does not continue the one before; or a rotation leads to no other key.
 */
export function followRotations({ checkpoint, rotations = [] }: HistoryProof, trust: ReadTrust): Followed {
  let followed: Followed = { log: trust.log, keys: [], ledger: [] };
  if (!rotations.length) return followed;
  const points = parsePoints([...rotations.map((one) => one.checkpoint), checkpoint], trust.origin);
  const start = rotations.findIndex((one) => {
    return parseNote(one.checkpoint).unverified.some((line) => isBy(line, trust.log));
  });
  if (start < 0) return followed;
  followed = { ...followed, keys: [{ vkey: formatVkey(trust.log), fromSize: 0n }] };
  for (let at = start; at < rotations.length; at++) {
    verifySigned(followed, rotations[at]!.checkpoint);
    const [point, next] = [points[at]!, points[at + 1]!];
    followed = follow(rotations[at]!, followed, trust, next.size);
    const trees = { size1: point.size, root1: point.root, size2: next.size, root2: next.root };
    verifyConsistency(rotations[at]!.consistency, trees);
  }
  verifySigned(followed, checkpoint);
  return followed;
}

/** Verify that the only known log key with a line on a note is not one that was replaced. */
function verifySigned({ log, keys }: Followed, checkpoint: Uint8Array): void {
  const lines = parseNote(checkpoint).unverified;
  const isBySome = (key: Verifier): boolean => lines.some((line) => isBy(line, key));
  if (!isBySome(log) && keys.slice(0, -1).some(({ vkey }) => isBySome(parseVkey(vkey)))) {
    throw new SignatureError("checkpoint is signed by a log key that the ledger has replaced before");
  }
}

/** Verify that a later chain `ledger` begins with the one that was followed.
 *
 * @throws {ProofError} it does not.
 */
export function verifyContinues({ ledger }: Followed, later: readonly VerifiedEntry[]): void {
  const isSame = (one: VerifiedEntry, at: number): boolean => {
    return later[at] !== undefined && sameEvent(one.event, later[at].event);
  };
  if (later.length && !ledger.every(isSame)) {
    throw new ProofError("chain `ledger` does not continue the one that an earlier log key signed");
  }
}

function sameEvent(one: Event, other: Event): boolean {
  return one.seq === other.seq && equal(one.prev, other.prev) && equal(one.commit, other.commit) &&
    one.kind === other.kind && one.timeMs === other.timeMs && one.ref === other.ref;
}

/** Parse checkpoints, of which only the form, the origin and the order of the sizes are verified. */
function parsePoints(notes: readonly Uint8Array[], origin: string): Checkpoint[] {
  const points = notes.map((one) => parseCheckpoint(parseNote(one).text));
  if (points.some((point) => point.origin !== origin)) {
    throw new ProofError("checkpoint of a rotation is of another origin");
  }
  if (points.some(({ size }, at) => at > 0 && size <= points[at - 1]!.size)) {
    throw new ProofError("checkpoints of rotations are out of order");
  }
  return points;
}

/** Verify one rotation, whose checkpoint `before.log` must have signed; return the key that signs the next one. */
function follow(step: RotationProof, before: Followed, pinned: ReadTrust, nextSize: bigint): Followed {
  const trust = { ...pinned, log: before.log, nowMs: null, maxAgeMs: null };
  const { checkpoint, seal, sealInclusion, history } = step;
  const proof = { checkpoint, consistency: [], seal, sealInclusion, chains: [] };
  const sealed = verifySealedCheckpoint(proof, trust.origin, trust.log);
  verifyWitnessed(checkpoint, sealed.seal.timeMs, trust);
  const tag = publicTag(LEDGER_CHAIN);
  if (!equal(history.tag, tag) || history.publicName !== LEDGER_CHAIN) {
    throw new ProofError("history of a rotation is not chain `ledger`");
  }
  const { ledger } = verifyChains([history], sealed, tag, trust);
  verifyContinues(before, ledger!.entries);
  const { size } = sealed.checkpoint;
  const terms = ledger!.keys.logTerms.filter(({ fromSize }) => size < fromSize && fromSize <= nextSize);
  const verifiers = terms.map(({ key }) => new Verifier(trust.origin, key));
  const [log] = verifiers.slice(-1);
  if (log === undefined) throw new ProofError("rotation leads to no other log key");
  const keys = terms.map(({ fromSize }, at) => ({ vkey: formatVkey(verifiers[at]!), fromSize }));
  return { log, keys: [...before.keys, ...keys], ledger: ledger!.entries };
}
