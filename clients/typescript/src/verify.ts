/**
 * Verify a file of evidence or a receipt as a whole, and return what was proven.
 *
 * `NOT_PROVEN` lists what no history proves. A program that shows a history should show that list too.
 */

import { equal } from "./bytes.js";
import { type ProvenChain, type ProvenChains, type ProvenEntry, type Unread } from "./chains.js";
import { unreadOf, verifyChains, verifyGivers } from "./chains.js";
import { type Checkpoint, verifyProof } from "./checkpoint.js";
import { decodeLeaf, type Event, type Seal, type Statement } from "./codec.js";
import { MalformedError, ProofError } from "./errors.js";
import { type Evidence, parseEvidence, type Scope, scopeTag, type SingleEntry } from "./evidence.js";
import { followRotations, verifyContinues } from "./follow.js";
import { type Held, type HeldChain, type HistoryProof, openStatement } from "./history.js";
import { type SealedCheckpoint, type SeqRange, verifySealedCheckpoint } from "./history.js";
import { type KeyValidity, LEDGER_CHAIN, PARTICIPANT_PREFIX, statedKeys, ValidKeys } from "./key_validity.js";
import { namesNothing, verifyAuthors } from "./key_validity.js";
import { KINDS } from "./kinds.js";
import { leafHash, verifyInclusion } from "./merkle.js";
import { type Cosignature, readTrust, type ReadTrust, type Trust, verifyWitnessed } from "./quorum.js";
import { verifyOnce } from "./recent_statements.js";
import { verifyReporters } from "./reporters.js";
import { namedAmong, verifyRepresentatives } from "./representatives.js";
import type { FollowedKey } from "./rotation.js";

/** What a history does not prove, however complete it is. */
export const NOT_PROVEN: readonly string[] = [
  "that every access was reported to the ledger",
  "that the tag is a certain person's, or the person's only one",
  "that the map the log committed to is right: auditors compute it again",
  "that everybody is shown the same tree: witnesses, and clients that compare",
  "that what a statement says is true: only who said it, and when",
];

/** How to verify a history. */
export interface HistoryOptions extends Trust {
  /** The person's tag that the history must be about, 32 bytes. Without it or `publicName`, look at the result's. */
  readonly tag?: Uint8Array;
  /** The public chain that the history must be about. */
  readonly publicName?: string;
  /** `HistoryResult.held` of the last time. */
  readonly held?: Held;
  /** `HistoryResult.heldChain` of the last time, if only later entries were asked for. */
  readonly heldChain?: HeldChain;
  /** How many entries were asked for, of a long history that is read in parts. Default: all. */
  readonly most?: bigint;
}

interface Verified {
  readonly checkpoint: Checkpoint;
  /** Who cosigned, if a policy was given. */
  readonly cosignatures: readonly Cosignature[];
}

interface Followed {
  /** The log keys from the pinned one to the one that signed the checkpoint; empty: the pinned one signed it. */
  readonly logKeys: readonly FollowedKey[];
}

/** What a history proves. */
export interface HistoryResult extends Verified, Followed {
  readonly seal: Seal;
  readonly tag: Uint8Array;
  /** Empty for a person's chain. */
  readonly publicName: string;
  /** How many entries the chain has, those held and those not read yet included; 0n: none. */
  readonly count: bigint;
  /** Whether the entries reach the chain's end. If not, nothing is proven of the ledger yet: read the next part. */
  readonly complete: boolean;
  /** All entries, or all after those held, except for those in `missing`. */
  readonly entries: readonly ProvenEntry[];
  /** Entries that were pruned, and are neither shown nor were held. */
  readonly missing: readonly SeqRange[];
  /** The time before which the ledger has pruned persons' chains, under its published policy; 0n: nothing. */
  readonly keptFromMs: bigint;
  /** Whether the chain ends in an ERASURE. */
  readonly erased: boolean;
  readonly unread: readonly Unread[];
  /** Keep this, and pass it the next time. */
  readonly held: Held;
  /** Keep this, and pass it the next time if only later entries are asked for then. */
  readonly heldChain: HeldChain;
}

/** A single entry, proven to be in the tree at its index. */
export interface ProvenSingle {
  readonly index: bigint;
  readonly leaf: Event | Seal;
  /** null: it is a seal's, or not in the file. */
  readonly statement: Statement | null;
  /** null: there is no statement, or it may be signed by the person's own key, whose chain is not in the file. */
  readonly author: KeyValidity | null;
}

/** What evidence proves. */
export interface EvidenceResult extends Verified, Followed {
  readonly seal: Seal;
  /** What the file contains. A range and a chain are proven to be complete. */
  readonly scope: Scope;
  readonly chains: readonly ProvenChain[];
  readonly entries: readonly ProvenSingle[];
  /** The time before which the ledger has pruned persons' chains, as far as the file shows; 0n: nothing. */
  readonly keptFromMs: bigint;
  /** How many entries lack their statement: it is erased, pruned, or withheld by the maker of the file. */
  readonly closed: number;
  /** How many statements may be signed by a person's own key, which only that person's chain could show. */
  readonly unproven: number;
  readonly unread: readonly Unread[];
}

/** What a receipt proves. */
export interface ReceiptResult extends Verified {
  /** Of the leaf, from 0. */
  readonly index: bigint;
  readonly leaf: Event | Seal;
}

/** A receipt in the reduced form, for those without a right to the leaf. All of it is claims. */
export interface ReducedReceipt {
  readonly index: bigint;
  /** 32 bytes. */
  readonly leafHash: Uint8Array;
  /** A `.tlog-proof`. */
  readonly proof: Uint8Array;
}

/** What a receipt in the reduced form proves: that the log has a leaf of this hash at this index. */
export interface ReducedReceiptResult extends Verified {
  readonly index: bigint;
  readonly leafHash: Uint8Array;
}

/** Verify the history that a file of evidence is about, or a proof made of the stream's pieces.
 *
 * @throws {MalformedError} something is not the format it claims to be.
 * @throws {SignatureError} a signature does not verify, its key was not in force, or there is no quorum of witnesses.
 * @throws {ProofError} a proof does not lead to where it should, or this is another chain's history or none.
 * @throws {TypeError} the options are the caller's error.
 */
export function verifyHistory(document: Uint8Array | HistoryProof, options: HistoryOptions): HistoryResult {
  const trust = readTrust(options);
  const evidence = document instanceof Uint8Array ? parseEvidence(document) : ofProof(document);
  const { held = null, heldChain = null, most = null, tag, publicName } = options;
  const { sealed, cosignatures, proven, logKeys } = verifyAll(evidence, trust, held, heldChain, most);
  const [asked] = evidence.proof.chains;
  const [first] = proven.chains;
  if (asked === undefined || first === undefined || proven.last === null) {
    throw new ProofError("evidence is of a range of entries, and not of one chain");
  }
  const isOther = asked.publicName !== (publicName ?? "") || (tag !== undefined && !equal(asked.tag, tag));
  if ((tag !== undefined || publicName !== undefined) && isOther) {
    throw new ProofError("history is of another chain than the one asked for");
  }
  const { checkpoint, seal } = sealed;
  const { last, unreadTo } = proven;
  const missing = [...(heldChain?.missing ?? []), ...first.missing];
  const { count } = asked;
  // Of an author's chain only what it states of keys matters, of the one asked for every entry.
  const unread = proven.unread.filter(({ publicName, kind }) => publicName === asked.publicName || KINDS.has(kind));
  const retentionDays = asked.publicName === "ledger" ? proven.retentionDays : 0;
  const keys = [...(heldChain?.keys ?? []), ...proven.changes];
  const named = [...(heldChain?.named ?? []), ...namedAmong(first.entries)];
  const ledgerKeys = asked.publicName === LEDGER_CHAIN ? (proven.ledger?.keys ?? null) : null;
  return {
    checkpoint, cosignatures, logKeys,
    seal, count, missing, unread, erased: last.erased, complete: last.count === count,
    tag: asked.tag, publicName: asked.publicName, entries: first.entries,
    keptFromMs: asked.publicName ? 0n : proven.keptFromMs,
    held: { treeSize: checkpoint.size, root: checkpoint.root },
    heldChain: { ...last, retentionDays, keys, named, unreadTo, ledgerKeys, recent: proven.recent, missing },
  };
}

/** Verify evidence, offline.
 *
 * @throws {MalformedError} it is not evidence, or a part of it is not what it should be.
 * @throws {SignatureError} the log, an author or a quorum of witnesses has not signed.
 * @throws {ProofError} something in it is not proven, or an entry of its scope is missing.
 * @throws {TypeError} the options are the caller's error.
 */
export function verifyEvidence(content: Uint8Array, options: Trust): EvidenceResult {
  const trust = readTrust(options);
  const evidence = parseEvidence(content);
  const { sealed, cosignatures, proven, entries, logKeys } = verifyAll(evidence, trust);
  const singles = entries.flatMap(({ leaf, ...signed }) => (leaf.type === "event" ? [{ event: leaf, ...signed }] : []));
  const all = [...proven.chains.flatMap((chain) => chain.entries), ...singles];
  return {
    ...sealed, cosignatures, logKeys, entries,
    scope: evidence.scope, chains: proven.chains, keptFromMs: proven.keptFromMs,
    closed: all.filter(({ statement }) => statement === null).length,
    unproven: all.filter(({ statement, author }) => statement !== null && author === null).length,
    unread: [...proven.unread, ...unreadOf("", singles, statedKeys({ publicName: "" }, singles).unread)],
  };
}

/** Verify, offline, that a receipt (`.tlog-proof`) shows this leaf in a tree that the log signed.
 *
 * @throws {MalformedError} the receipt or the leaf is not one.
 * @throws {SignatureError} the log has not signed the checkpoint, a signature is wrong, or there is no quorum.
 * @throws {ProofError} another origin, or the proof does not lead from the leaf to the root.
 * @throws {TypeError} the options are the caller's error.
 */
export function verifyReceipt(tlogProof: Uint8Array, leaf: Uint8Array, options: Trust): ReceiptResult {
  const trust = readTrust(options);
  const [receipt, checkpoint] = verifyProof(tlogProof, leafHash(leaf), trust.origin, trust.log);
  const decoded = decodeLeaf(leaf);
  const cosignatures = verifyWitnessed(receipt.checkpointNote, decoded.timeMs, trust);
  return { checkpoint, cosignatures, index: receipt.index, leaf: decoded };
}

/** Verify, offline, a receipt in the reduced form (ledger-format.md, "Receipts").
 *
 * The leaf's time is unknown, so a cosignature of any time counts.
 *
 * @throws {MalformedError} the proof is not one, or the hash is not 32 bytes long.
 * @throws {SignatureError} the log has not signed the checkpoint, a signature is wrong, or there is no quorum.
 * @throws {ProofError} another origin or index, or the proof does not lead from the hash to the root.
 * @throws {TypeError} the options are the caller's error.
 */
export function verifyReducedReceipt({ index, leafHash, proof }: ReducedReceipt, options: Trust): ReducedReceiptResult {
  const trust = readTrust(options);
  const [receipt, checkpoint] = verifyProof(proof, leafHash, trust.origin, trust.log);
  if (receipt.index !== index) throw new ProofError("proof is of another index than the receipt");
  return { checkpoint, cosignatures: verifyWitnessed(receipt.checkpointNote, 0n, trust), index, leafHash };
}

function ofProof(proof: HistoryProof): Evidence {
  const [first] = proof.chains;
  if (first === undefined) throw new MalformedError("history has no chain");
  return { scope: { tag: first.tag }, proof, entries: [], keys: [], policy: "" };
}

interface VerifiedAll extends Followed {
  readonly sealed: SealedCheckpoint;
  readonly cosignatures: readonly Cosignature[];
  readonly proven: ProvenChains;
  readonly entries: readonly ProvenSingle[];
}

/** Verify everything in a file, in the order of evidence-format.md, "Verification". */
function verifyAll(
  { scope, proof, entries }: Evidence, pinned: ReadTrust, held: Held | null = null, heldChain: HeldChain | null = null,
  most: bigint | null = null,
): VerifiedAll {
  const followed = followRotations(proof, pinned);
  const trust = { ...pinned, log: followed.log };
  const sealed = verifySealedCheckpoint(proof, trust.origin, trust.log, held);
  const cosignatures = verifyWitnessed(proof.checkpoint, sealed.seal.timeMs, trust);
  const asked = scopeTag(scope);
  const [first] = proof.chains;
  if (asked !== null && !(first && equal(first.tag, asked))) {
    throw new ProofError("first history is not the chain that the scope names");
  }
  if ("participant" in scope && first?.publicName !== `${PARTICIPANT_PREFIX}${scope.participant}`) {
    throw new ProofError("first history is not named as the participant's chain");
  }
  const proven = verifyChains(proof.chains, sealed, asked, trust, heldChain, most);
  verifyContinues(followed, proven.ledger?.entries ?? []);
  const singles = verifySingles(entries, sealed).map((single) => {
    return { ...single, author: verifyAuthor(single, trust.origin, proven) };
  });
  const ofSingles = singles.flatMap(({ leaf, ...one }) => (leaf.type === "event" ? [{ event: leaf, ...one }] : []));
  verifyGivers(ofSingles, proven.chains.map((chain) => ({ chain, entries: chain.entries })));
  verifyReporters(ofSingles, proven.keys);
  verifyRepresentatives(ofSingles, proven.keys);
  // Without chain `ledger`, a key that no chain states may be the daemon's.
  const hasLedger = proof.chains.some(({ publicName }) => publicName === LEDGER_CHAIN);
  const signed = singles.flatMap(({ leaf: event, statement }) => {
    return event.type === "event" && statement !== null ? [{ event, statement }] : [];
  });
  verifyOnce(signed.filter(({ statement }) => hasLedger || proven.keys.has(statement.key)), proven.keys);
  verifyRange(scope, entries, sealed.checkpoint);
  return { sealed, cosignatures, proven, entries: singles, logKeys: followed.keys };
}

/** Verify that each single entry is included at its index, in rising order of index and time. */
function verifySingles(
  claimed: readonly SingleEntry[], { checkpoint: { size, root }, seal }: SealedCheckpoint,
): Omit<ProvenSingle, "author">[] {
  let [next, timeMs] = [0n, 0n];
  return claimed.map(({ index, leaf, opening, inclusion }) => {
    verifyInclusion(inclusion, { index, size, leafHash: leafHash(leaf), root });
    const decoded = decodeLeaf(leaf);
    if (index < next) throw new ProofError("entry is there twice, or out of order");
    if (decoded.timeMs < timeMs || decoded.timeMs > seal.timeMs) {
      throw new ProofError("entry is earlier than the one before, or later than the seal");
    }
    [next, timeMs] = [index + 1n, decoded.timeMs];
    if (decoded.type === "event") {
      return { index, leaf: decoded, statement: opening && openStatement(decoded, opening) };
    }
    if (opening !== null) throw new MalformedError("seal has an opening");
    if (decoded.covers !== index) throw new ProofError("seal is not at the index that it states");
    return { index, leaf: decoded, statement: null };
  });
}

/** Verify who signed a single entry. Return null if there is no statement, or if its key may be the person's own. */
function verifyAuthor(
  { index, leaf, statement }: Omit<ProvenSingle, "author">, origin: string, { keys, ledger }: ProvenChains,
): KeyValidity | null {
  if (leaf.type === "seal" || statement === null) return null;
  const entry = { event: leaf, statement };
  if (keys.has(statement.key)) {
    const author = verifyAuthors([entry], origin, keys)[0]!;
    // Unlike an entry of a chain, a single entry has an index, so it shows on which side of a rotation it is.
    if (keys.isDaemonsOnly(statement.key)) ledger?.keys.verifyTerm(statement.key, index);
    return author;
  }
  // If a person may sign this kind, the signature must verify, and the key's owner stays unproven. It may also be that
  // of a representative, so it does not matter whether the payload names an authority.
  const own = new ValidKeys();
  own.isWhole = keys.isWhole;
  own.apply({ tag: leaf.tag, publicName: "" }, [{ key: statement.key, timeMs: 0n, retired: false }]);
  verifyAuthors([entry], origin, own, namesNothing);
  return null;
}

function verifyRange(scope: Scope, entries: readonly SingleEntry[], { size }: Checkpoint): void {
  if (!("range" in scope)) return;
  const [first, last] = scope.range;
  if (last >= size) throw new MalformedError("evidence has a scope of a range that ends outside of the tree");
  // Single entries are in order, and each is there once, so the right number of them means that all are there.
  const inRange = entries.filter(({ index }) => first <= index && index <= last).length;
  if (BigInt(inRange) !== last - first + 1n) throw new ProofError("an entry of the range is missing");
}


