/**
 * Verify one chain of a history: its entries are complete and unaltered.
 *
 * Each step of a history proof relies on the step above it:
 *
 *     checkpoint      signed by the log; consistent with the one held, and not smaller    verifySealedCheckpoint
 *       └─ seal       leaf n-1 of the checkpoint's tree; commits to the map                verifySealedCheckpoint
 *            └─ map   count and head of this tag, or that the tag has no entry             verifyChain
 *                 └─ leaves     seq 1 … count without a gap; the last one hashes to head   verifyChain
 *                      └─ openings      each leaf commits to its statement                 verifyChain
 *                           └─ authors  signed by a key that was valid (`key_validity.ts`)  verifyAuthors
 *
 * A ledger states in its own chain what it has pruned (`chains.ts`). That much of a person's chain may be missing.
 *
 * Source: ledger-format.md, "History proof", "Keys in force".
 */

import { equal } from "./bytes.js";
import { type Checkpoint, MAX_SIZE, openCheckpoint } from "./checkpoint.js";
import * as codec from "./codec.js";
import { MalformedError, ProofError } from "./errors.js";
import { ERASURE, isPrunable, isPublic } from "./kinds.js";
import type { KeyChange } from "./key_validity.js";
import { leafHash, verifyConsistency, verifyInclusion } from "./merkle.js";
import type { Verifier } from "./note.js";
import { verifyAbsence, verifyPresence } from "./patricia.js";
import type { LedgerKeys } from "./rotation.js";
import type { RecentStatement } from "./recent_statements.js";

const MAX_NAME = 128;
const SALT_SIZE = 32;
const NOTHING = new Uint8Array();

/** First and last seq of entries of one chain. */
export type SeqRange = readonly [first: bigint, last: bigint];

/** What opens a leaf's commitment. */
export interface Opening {
  /** 32 bytes. */
  readonly salt: Uint8Array;
  readonly statement: Uint8Array;
}

/** A leaf, and the opening of its commitment; null: the statement was erased, pruned or withheld. */
export interface HistoryEntry {
  readonly leaf: Uint8Array;
  readonly opening: Opening | null;
}

/** A chain, with the proof of its count and head in the map. All of it is claims. */
export interface ChainProof {
  readonly tag: Uint8Array;
  /** `participant/ID` and the like; empty for a person's chain. */
  readonly publicName: string;
  /** Number of entries, as the map has it; 0: the tag has no entry. */
  readonly count: bigint;
  /** Chain hash of the last leaf; empty where count is 0. */
  readonly head: Uint8Array;
  /** Of presence, or of absence where count is 0. */
  readonly mapProof: Uint8Array;
  /** seq of the first of `entries`: 1, the one after those held, or the first that is not pruned. */
  readonly firstSeq: bigint;
  readonly entries: readonly HistoryEntry[];
}

/** A history as it is sent. All of it is claims. */
export interface HistoryProof {
  /** The signed note, verbatim. */
  readonly checkpoint: Uint8Array;
  /** Hashes, from the checkpoint held to this one; empty if none is held. */
  readonly consistency: readonly Uint8Array[];
  /** The last leaf of the checkpoint's tree. */
  readonly seal: Uint8Array;
  readonly sealInclusion: readonly Uint8Array[];
  /** The chain asked for first, then those of its authors' keys. */
  readonly chains: readonly ChainProof[];
  /** How to reach the key that signed the checkpoint from an earlier log key, oldest first. Default: none. */
  readonly rotations?: readonly RotationProof[];
}

/** A checkpoint that a log key signed before it was replaced, and chain `ledger` at that time. All of it is claims. */
export interface RotationProof {
  /** The signed note, verbatim. */
  readonly checkpoint: Uint8Array;
  readonly seal: Uint8Array;
  readonly sealInclusion: readonly Uint8Array[];
  /** The whole chain `ledger`. */
  readonly history: ChainProof;
  /** Hashes, from this checkpoint to that of the next rotation, or to the history's own. */
  readonly consistency: readonly Uint8Array[];
}

/** The checkpoint that the client has verified before. */
export interface Held {
  readonly treeSize: bigint;
  readonly root: Uint8Array;
}

/** Of an entry that later statements of its chain name: where and when it is, and the payload of its statement. */
export interface NamedEntry {
  readonly kind: number;
  readonly seq: bigint;
  readonly ref: bigint;
  readonly timeMs: bigint;
  readonly payload: Uint8Array;
}

/** How much of the chain the client has verified before. */
export interface HeldChain {
  readonly count: bigint;
  readonly head: Uint8Array;
  /** Whether the last entry held is an ERASURE. */
  readonly erased: boolean;
  /** Time of the last entry held. Later entries may not be earlier. */
  readonly timeMs: bigint;
  /** A statement of the entries held is missing, not pruned. Only an ERASURE at the end of the chain explains that. */
  readonly lacksStatements: boolean;
  /** Of chain `ledger`: for how many days leaf 0 published to keep entries; of other chains 0. */
  readonly retentionDays: number;
  /** What the entries held state of keys. */
  readonly keys: readonly KeyChange[];
  /** Of the entries held, those on which later statements rest: AUTHORITY, and KEY of representatives. */
  readonly named: readonly NamedEntry[];
  /** The last seq held that may be a KEY which was not there, or not understood; 0n: none may be. */
  readonly unreadTo: bigint;
  /** Of chain `ledger`: what the entries held state of the ledger's own keys; of other chains null. */
  readonly ledgerKeys: LedgerKeys | null;
  /** Statements of the entries held that later ones must not repeat. */
  readonly recent: readonly RecentStatement[];
  /** Entries that were pruned before the client could read them. */
  readonly missing: readonly SeqRange[];
}

/** A verified checkpoint and the seal that is its last leaf. All chains of one proof are verified against both. */
export interface SealedCheckpoint {
  readonly checkpoint: Checkpoint;
  readonly seal: codec.Seal;
}

/** An entry of a chain, and its statement (null: erased or pruned). Who signed the statement is not verified yet. */
export interface VerifiedEntry {
  readonly event: codec.Event;
  readonly statement: codec.Statement | null;
}

/** Verify what all chains of a proof rely on: the checkpoint, its consistency with the one held, and the seal.
 *
 * @throws {MalformedError} checkpoint or seal is not one.
 * @throws {SignatureError} the log has not signed the checkpoint.
 * @throws {ProofError} another origin, a smaller or contradicting tree, or the seal is not its last leaf.
 */
export function verifySealedCheckpoint(
  proof: HistoryProof,
  origin: string,
  log: Verifier,
  held: Held | null = null,
): SealedCheckpoint {
  const [checkpoint] = openCheckpoint(proof.checkpoint, origin, log);
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
  return { checkpoint, seal };
}

/** What decides which entries and openings a chain may lack. */
export interface ChainRules {
  /** How much of it the client has verified before. Default: nothing. */
  readonly held?: Pick<HeldChain, "count" | "head" | "erased" | "timeMs" | "lacksStatements"> | null;
  /** How many entries were asked for, of a chain that is read in parts. Default: all. */
  readonly most?: bigint | null;
  /** In a person's chain, the first entries may be missing if they are older than this, and openings of prunable kinds
   * anywhere. Default: 0. */
  readonly keptFromMs?: bigint;
}

/** Verify that these entries are all that the chain has, or all after what is held; return them.
 *
 * @throws {MalformedError} a leaf, statement, tag or name is not one.
 * @throws {ProofError} the map does not say so, an entry is missing, foreign, altered or out of order, or an opening is
 * missing from a chain that was neither erased nor pruned there, or a public chain has no public name.
 */
export function verifyChain(chain: ChainProof, seal: codec.Seal, rules: ChainRules = {}): VerifiedEntry[] {
  return verifyPart(chain, seal, rules).entries;
}

/** The entries of one part of a chain, and what is held of the chain after it. */
export interface VerifiedPart {
  readonly entries: VerifiedEntry[];
  /** Seq and chain hash of the last entry that is verified, and what else `HeldChain` has of it. */
  readonly last: Pick<HeldChain, "count" | "head" | "erased" | "timeMs" | "lacksStatements">;
}

/** Verify a chain, or a part of it: the first `rules.most` entries after what is held.
 *
 * INVARIANT: the part is the whole chain only if its count is the chain's. Before that, no proof leads from its entries
 * to the ledger: the entries follow each other, and the part that reaches the count proves them all.
 *
 * @throws as `verifyChain`.
 */
export function verifyPart(chain: ChainProof, seal: codec.Seal, rules: ChainRules = {}): VerifiedPart {
  verifyMapEntry(chain, seal.mapRoot);
  const start = rules.held?.count ?? 0n;
  const keptFromMs = chain.publicName ? 0n : (rules.keptFromMs ?? 0n);
  if (chain.count < start) {
    throw new ProofError(`chain is shorter than what is held: \`${chain.count}\` and \`${start}\``);
  }
  let wanted = chain.count - chain.firstSeq + 1n;
  if (rules.most != null && rules.most < wanted) wanted = rules.most;
  if (chain.firstSeq <= start || BigInt(chain.entries.length) !== wanted) {
    throw new ProofError(`chain does not have the entries after \`${start}\` up to \`${chain.count}\``);
  }
  // The chain hash of an entry that is missing is unknown.
  let head = start ? rules.held!.head : codec.ZERO_HASH;
  const hasGap = chain.firstSeq > start + 1n;
  if (hasGap) verifyGap(chain.entries[0], start, keptFromMs);
  let [seq, timeMs, erased] = [chain.firstSeq - 1n, rules.held?.timeMs ?? 0n, rules.held?.erased ?? false];
  const verified: VerifiedEntry[] = [];
  for (const { leaf, opening } of chain.entries) {
    const event = codec.decodeLeaf(leaf);
    if (erased) throw new ProofError("entry follows an ERASURE");
    if (event.type !== "event" || !equal(event.tag, chain.tag)) throw new ProofError("entry is not of this chain");
    const isAfterGap = hasGap && !verified.length;
    if (event.seq !== seq + 1n || !(isAfterGap || equal(event.prev, head))) {
      throw new ProofError(`entry does not follow the one before: seq \`${event.seq}\` after \`${seq}\``);
    }
    if (event.timeMs < timeMs) throw new ProofError("entry is earlier than the one before");
    [seq, head, timeMs] = [event.seq, codec.chainHash(leaf), event.timeMs];
    erased = event.kind === ERASURE;
    verified.push({ event, statement: opening && openStatement(event, opening) });
  }
  // INVARIANT: a chain without a public name counts as a person's, so its first entries may be missing. Otherwise the
  // sender could leave out the name of a public chain, and then entries that are never pruned.
  if (!chain.publicName && verified.some(({ event }) => isPublic(event.kind))) {
    throw new ProofError("chain has an entry of a public chain, but no public name");
  }
  if (verified.length && timeMs > seal.timeMs) throw new ProofError("entry is later than the seal");
  const isGone = verified.some(
    ({ event, statement }) => statement === null && !(event.timeMs < keptFromMs && isPrunable(event.kind)),
  );
  const lacksStatements = isGone || (rules.held?.lacksStatements ?? false);
  const count = verified.length ? seq : start;
  const last = { count, head: start || verified.length ? head : NOTHING, erased, timeMs, lacksStatements };
  if (verified.length && count < chain.count) return { entries: verified, last };
  if (!equal(head, chain.count ? chain.head : codec.ZERO_HASH)) {
    throw new ProofError("last entry is not the head that the map has");
  }
  // INVARIANT: statements may be missing only if they were pruned, or if the person was erased. The ERASURE itself has
  // its statement.
  if (lacksStatements && !(erased && (!verified.length || verified.at(-1)?.statement))) {
    throw new ProofError("opening is missing, and the chain does not end in an ERASURE");
  }
  return { entries: verified, last };
}

/** Verify that what is missing before this entry may be.
 *
 * INVARIANT: missing entries are not later than the entry after them, and that entry is old enough to be pruned.
 */
function verifyGap(first: HistoryEntry | undefined, start: bigint, keptFromMs: bigint): void {
  const event = first && codec.decodeLeaf(first.leaf);
  if (event?.type !== "event" || event.timeMs >= keptFromMs) {
    throw new ProofError(`chain does not have the entries after \`${start}\`, and they are not pruned`);
  }
}

/** Verify the count and head of a tag, or its absence, against the map; and that a public name belongs to the tag. */
function verifyMapEntry({ tag, publicName, count, head, mapProof }: ChainProof, mapRoot: Uint8Array): void {
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

/** Verify that an opening is what a leaf commits to; return the decoded statement.
 *
 * @throws {MalformedError} the salt or the statement is not one.
 * @throws {ProofError} the leaf commits to something else.
 */
export function openStatement(event: codec.Event, { salt, statement }: Opening): codec.Statement {
  // INVARIANT: the length of a salt is fixed. Otherwise one hash could open to several statements.
  if (salt.length !== SALT_SIZE) throw new MalformedError("salt is not 32 bytes long");
  if (!equal(codec.commit(salt, statement), event.commit)) {
    throw new ProofError(`opening is not what its leaf commits to: seq \`${event.seq}\``);
  }
  return codec.decodeStatement(statement);
}
