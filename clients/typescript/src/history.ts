/**
 * Verify a history: these entries of a tag are all of them, and each was stated by whom it says.
 *
 * A history proof goes from what everyone can see to what one person holds, each step leaning on the one before:
 *
 *     checkpoint      signed by the log; consistent with the one held, and not smaller         verifyAnchor
 *       └─ seal       leaf n-1 of its tree; says where every chain stood                        verifyAnchor
 *            └─ map   (count, head) of this tag, or that the tag has no entry                   verifyChain
 *                 └─ leaves     seq 1 … count without a gap, the last one hashing to head       verifyChain
 *                      └─ openings      each commits to its statement                           verifyChain
 *                           └─ authors  signed by a key in force then, of who may state this    verifyAuthors
 *
 * A ledger states in its own chain what it has pruned (`readKeptFrom`): that much of a person's chain may be missing.
 *
 * Source: ledger-format.md, "History proof", "Keys in force".
 */

import { equal } from "./bytes.js";
import { type Checkpoint, MAX_SIZE, openCheckpoint } from "./checkpoint.js";
import * as codec from "./codec.js";
import * as ed25519 from "./ed25519.js";
import { MalformedError, ProofError, SignatureError, UnreadKeyError } from "./errors.js";
import { ERASURE, isPrunable } from "./kinds.js";
import { leafHash, verifyConsistency, verifyInclusion } from "./merkle.js";
import type { Note, Verifier } from "./note.js";
import { verifyAbsence, verifyPresence } from "./patricia.js";
import type { SeqRange } from "./pruned.js";
import type { HeldKey, KeyTerm, KeyTerms } from "./terms.js";

/** How far an author's clock may be from the ledger's. */
export const MAX_AUTHOR_SKEW_MS = 600_000n;

const MAX_NAME = 128;
const SALT_SIZE = 32;
const NOTHING = new Uint8Array();

/** What opens a leaf's commitment. */
export interface Opening {
  /** 32 bytes. */
  readonly salt: Uint8Array;
  readonly statement: Uint8Array;
}

/** A leaf, and what it commits to; null for a tombstone. */
export interface HistoryEntry {
  readonly leaf: Uint8Array;
  readonly opening: Opening | null;
}

/** Where a chain stands, and its entries. */
export interface ChainProof {
  readonly tag: Uint8Array;
  /** `participant/ID` and the like; empty for a person's chain. */
  readonly publicName: string;
  /** As the map has it; 0 where the tag has no entry. */
  readonly count: bigint;
  /** Chain hash of the last leaf; empty where count is 0. */
  readonly head: Uint8Array;
  /** Of presence, or of absence where count is 0. */
  readonly mapProof: Uint8Array;
  /** seq of the first of `entries`: 1, the one after those held, or the first that is not pruned. */
  readonly firstSeq: bigint;
  readonly entries: readonly HistoryEntry[];
}

/** A history as it is sent: all claims, nothing verified. */
export interface HistoryProof {
  /** The signed note, verbatim. */
  readonly checkpoint: Uint8Array;
  /** From the checkpoint held to this one; empty where none is held. */
  readonly consistency: readonly Uint8Array[];
  /** The last leaf of the checkpoint's tree. */
  readonly seal: Uint8Array;
  readonly sealInclusion: readonly Uint8Array[];
  /** The chain asked for first, then those of its authors' keys. */
  readonly chains: readonly ChainProof[];
}

/** The checkpoint that the client has verified before. */
export interface Held {
  readonly treeSize: bigint;
  readonly root: Uint8Array;
}

/** How much of the chain the client has verified before. */
export interface HeldChain {
  readonly count: bigint;
  readonly head: Uint8Array;
  /** Its last entry held is an ERASURE. */
  readonly erased: boolean;
  /** Of its last entry held: those after it are not earlier. */
  readonly timeMs: bigint;
  /** Of the chain `ledger`: for how long it published to keep entries, in its leaf 0; else 0. */
  readonly retentionDays: number;
  /** What its entries held say of keys. */
  readonly keys: readonly HeldKey[];
  /** What was pruned of it before it was ever seen. */
  readonly missing: readonly SeqRange[];
}

/** What all chains of one proof are verified against: a checkpoint that holds, and its seal. */
export interface Anchor {
  readonly checkpoint: Checkpoint;
  readonly note: Note;
  readonly seal: codec.Seal;
}

/** An entry that is part of the chain, and what it commits to (null: erased or pruned); not who signed it. */
export interface VerifiedEntry {
  readonly event: codec.Event;
  readonly statement: codec.Statement | null;
}

/** Verify what a proof stands on: checkpoint, consistency with the one held, seal.
 *
 * @throws {MalformedError} checkpoint or seal is not one.
 * @throws {SignatureError} the log has not signed the checkpoint.
 * @throws {ProofError} another origin, a smaller or contradicting tree, or the seal is not its last leaf.
 */
export function verifyAnchor(
  proof: HistoryProof,
  origin: string,
  log: Verifier,
  held: Held | null = null,
  witnesses: readonly Verifier[] = [],
): Anchor {
  const [checkpoint, note] = openCheckpoint(proof.checkpoint, origin, log, witnesses);
  const { size, root } = checkpoint;
  if (held === null) {
    if (proof.consistency.length) throw new ProofError("consistency proof leads from no checkpoint that is held");
  } else {
    if (size < held.treeSize) {
      throw new ProofError(`checkpoint is smaller than the one held: \`${size}\` and \`${held.treeSize}\``);
    }
    verifyConsistency(proof.consistency, { size1: held.treeSize, root1: held.root, size2: size, root2: root });
  }
  const seal = codec.decodeLeaf(proof.seal);
  // INVARIANT: a seal covers at least one event, so sizes 0 and 1 are never signed.
  if (seal.type !== "seal" || seal.covers !== size - 1n || size < 2n) {
    throw new ProofError("seal is not the one that covers this checkpoint's tree");
  }
  verifyInclusion(proof.sealInclusion, { index: size - 1n, size, leafHash: leafHash(proof.seal), root });
  return { checkpoint, note, seal };
}

/** What a chain is verified under, beside the seal. */
export interface ChainRules {
  /** How much of it the client has verified before. Default: nothing. */
  readonly held?: Pick<HeldChain, "count" | "head" | "erased" | "timeMs"> | null;
  /** Of a person's chain, entries before this time may be missing where it begins, and openings of kinds that can be
   * pruned anywhere. Default: 0. */
  readonly keptFromMs?: bigint;
}

/** Verify that these entries are all that the chain has, or all after what is held; return them.
 *
 * @throws {MalformedError} a leaf, statement, tag or name is not one.
 * @throws {ProofError} the map does not say so, an entry is missing, foreign, altered or out of order, or an opening is
 * missing from a chain that was neither erased nor pruned there.
 */
export function verifyChain(chain: ChainProof, seal: codec.Seal, rules: ChainRules = {}): VerifiedEntry[] {
  verifyStanding(chain, seal.mapRoot);
  const start = rules.held?.count ?? 0n;
  const keptFromMs = chain.publicName ? 0n : (rules.keptFromMs ?? 0n);
  if (chain.count < start) {
    throw new ProofError(`chain is shorter than what is held: \`${chain.count}\` and \`${start}\``);
  }
  if (chain.firstSeq <= start || BigInt(chain.entries.length) !== chain.count - chain.firstSeq + 1n) {
    throw new ProofError(`chain does not have the entries after \`${start}\` up to \`${chain.count}\``);
  }
  // Behind a gap nobody knows the chain hash of the entry before.
  let head = start ? rules.held!.head : codec.ZERO_HASH;
  const hasGap = chain.firstSeq > start + 1n;
  if (hasGap) verifyGap(chain.entries[0], start, keptFromMs);
  let [seq, timeMs, erased] = [chain.firstSeq - 1n, rules.held?.timeMs ?? 0n, rules.held?.erased ?? false];
  const verified: VerifiedEntry[] = [];
  for (const { leaf, opening } of chain.entries) {
    const event = codec.decodeLeaf(leaf);
    if (erased) throw new ProofError("entry follows an ERASURE");
    if (event.type !== "event" || !equal(event.tag, chain.tag)) throw new ProofError("entry is not of this chain");
    const isBehindGap = hasGap && !verified.length;
    if (event.seq !== seq + 1n || !(isBehindGap || equal(event.prev, head))) {
      throw new ProofError(`entry does not follow the one before: seq \`${event.seq}\` after \`${seq}\``);
    }
    if (event.timeMs < timeMs) throw new ProofError("entry is earlier than the one before");
    [seq, head, timeMs] = [event.seq, codec.chainHash(leaf), event.timeMs];
    erased = event.kind === ERASURE;
    verified.push({ event, statement: opening && openStatement(event, opening) });
  }
  if (verified.length && timeMs > seal.timeMs) throw new ProofError("entry is later than the seal");
  if (!equal(head, chain.count ? chain.head : codec.ZERO_HASH)) {
    throw new ProofError("last entry is not the head that the map has");
  }
  // INVARIANT: an erased person's statements are gone, and pruned ones; nobody else's may be. The ERASURE itself stands
  // in the clear.
  const isGone = verified.some(
    ({ event, statement }) => statement === null && !(event.timeMs < keptFromMs && isPrunable(event.kind)),
  );
  if (isGone && !(erased && verified.at(-1)?.statement)) {
    throw new ProofError("opening is missing, and the chain does not end in an ERASURE");
  }
  return verified;
}

/** Verify that what is missing before this entry may be.
 *
 * INVARIANT: what is missing is not later than the entry behind it, and that one is old enough to be pruned.
 */
function verifyGap(first: HistoryEntry | undefined, start: bigint, keptFromMs: bigint): void {
  const event = first && codec.decodeLeaf(first.leaf);
  if (event?.type !== "event" || event.timeMs >= keptFromMs) {
    throw new ProofError(`chain does not have the entries after \`${start}\`, and they are not pruned`);
  }
}

/** Verify that each statement was signed by a key in force at its leaf's time, of one who may state this kind; return
 * for each entry the term of that key, null for a tombstone: what it said is gone.
 *
 * A kind that this version does not know may be anybody's; whoever shows the history says that it could not tell.
 *
 * @throws {UnreadKeyError} no such key in force, by those entries that could be read.
 * @throws {SignatureError} no such key in force, the wrong author, clocks too far apart, or the signature is wrong.
 */
export function verifyAuthors(
  entries: readonly VerifiedEntry[],
  origin: string,
  terms: KeyTerms,
): (KeyTerm | null)[] {
  return entries.map(({ event, statement }) => {
    if (statement === null) return null;
    const skew = event.timeMs - statement.authorTimeMs;
    if (skew > MAX_AUTHOR_SKEW_MS || -skew > MAX_AUTHOR_SKEW_MS) {
      throw new SignatureError("author's clock is more than ten minutes from the ledger's");
    }
    const term = terms.find(statement.key, event);
    if (term === undefined) {
      const unknown = `author's key was not in force for this entry: seq \`${event.seq}\``;
      if (terms.isWhole) throw new SignatureError(unknown);
      throw new UnreadKeyError(`${unknown}, or was put in force by an entry that this version cannot read`);
    }
    ed25519.verify(statement.key, codec.signedMessage(origin, event, statement), statement.signature);
    return term;
  });
}

/** Verify what the map says of the tag, and that a public name is the tag's. */
function verifyStanding({ tag, publicName, count, head, mapProof }: ChainProof, mapRoot: Uint8Array): void {
  if (tag.length !== codec.HASH_SIZE || count < 0n || count > MAX_SIZE || [...publicName].length > MAX_NAME) {
    throw new MalformedError("chain has an impossible tag, name or count");
  }
  const isAscii = /^[\x00-\x7f]*$/.test(publicName);
  if (publicName && !(isAscii && equal(codec.publicTag(publicName), tag))) {
    throw new ProofError("public name is not the tag's");
  }
  const key = codec.mapKey(tag);
  if (count === 0n) {
    if (!equal(head, NOTHING)) throw new MalformedError("chain without entries has a head");
    verifyAbsence(mapRoot, key, mapProof);
    return;
  }
  if (head.length !== codec.HASH_SIZE) throw new MalformedError("chain head is not 32 bytes long");
  verifyPresence(mapRoot, key, codec.mapValue(tag, count, head), mapProof);
}

/** Return the statement of an opening that its leaf commits to.
 *
 * @throws {MalformedError} the salt or the statement is not one.
 * @throws {ProofError} it is not what the leaf commits to.
 */
export function openStatement(event: codec.Event, { salt, statement }: Opening): codec.Statement {
  // INVARIANT: the salt's length is fixed, or the same hash would open to other statements.
  if (salt.length !== SALT_SIZE) throw new MalformedError("salt is not 32 bytes long");
  if (!equal(codec.commit(salt, statement), event.commit)) {
    throw new ProofError(`opening is not what its leaf commits to: seq \`${event.seq}\``);
  }
  return codec.decodeStatement(statement);
}
