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
 * Source: ledger-format.md, "History proof", "Keys in force".
 */

import { encodeHex, equal } from "./bytes.js";
import { type Checkpoint, MAX_SIZE, openCheckpoint } from "./checkpoint.js";
import * as codec from "./codec.js";
import * as ed25519 from "./ed25519.js";
import { MalformedError, ProofError, SignatureError, UnreadKeyError } from "./errors.js";
import { ANYBODY, ERASURE, KEY, KINDS, LEDGER, type Owner } from "./kinds.js";
import { leafHash, verifyConsistency, verifyInclusion } from "./merkle.js";
import type { Note, Verifier } from "./note.js";
import { verifyAbsence, verifyPresence } from "./patricia.js";
import { decodeKeyStatement, decodeLedgerStatement, type LedgerStatement } from "./wire.js";

/** How far an author's clock may be from the ledger's. */
export const MAX_AUTHOR_SKEW_MS = 600_000n;

const MAX_NAME = 128;
const SALT_SIZE = 32;
/** Name of the chain that names the ledger's own keys. */
export const LEDGER_NAME = "ledger";
/** How the names of participants' chains begin. */
export const PARTICIPANT = "participant/";

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
  /** seq of the first of `entries`: 1, or the one after those held. */
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
  /** What its entries held say of keys. */
  readonly keys: readonly HeldKey[];
}

/** A key that an entry put in force, or, retired, out of it. */
export interface HeldKey {
  readonly key: Uint8Array;
  readonly timeMs: bigint;
  readonly retired: boolean;
}

/** What all chains of one proof are verified against: a checkpoint that holds, and its seal. */
export interface Anchor {
  readonly checkpoint: Checkpoint;
  readonly note: Note;
  readonly seal: codec.Seal;
}

/** An entry that is part of the chain, and what it commits to (null: erased); not who signed it. */
export interface VerifiedEntry {
  readonly event: codec.Event;
  readonly statement: codec.Statement | null;
}

/** When whose key was in force, both ends included. */
export interface KeyTerm {
  readonly owner: Owner;
  /** The participant's id; the person's tag in hexadecimal; empty for the daemon. */
  readonly name: string;
  readonly fromMs: bigint;
  /** null: it was not retired. */
  readonly untilMs: bigint | null;
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

/** Verify that these entries are all that the chain has, or all after what is held; return them.
 *
 * @throws {MalformedError} a leaf, statement, tag or name is not one.
 * @throws {ProofError} the map does not say so, an entry is missing, foreign, altered or out of order, or an opening is
 * missing from a chain that was not erased.
 */
export function verifyChain(chain: ChainProof, seal: codec.Seal, held: HeldChain | null = null): VerifiedEntry[] {
  verifyStanding(chain, seal.mapRoot);
  const start = held?.count ?? 0n;
  if (chain.count < start) {
    throw new ProofError(`chain is shorter than what is held: \`${chain.count}\` and \`${start}\``);
  }
  if (chain.firstSeq !== start + 1n || BigInt(chain.entries.length) !== chain.count - start) {
    throw new ProofError(`chain does not have the entries after \`${start}\` up to \`${chain.count}\``);
  }
  let [seq, head, timeMs] = [start, start ? held!.head : codec.ZERO_HASH, 0n];
  let erased = held?.erased ?? false;
  const verified: VerifiedEntry[] = [];
  for (const { leaf, opening } of chain.entries) {
    const event = codec.decodeLeaf(leaf);
    if (erased) throw new ProofError("entry follows an ERASURE");
    if (event.type !== "event" || !equal(event.tag, chain.tag)) throw new ProofError("entry is not of this chain");
    if (event.seq !== seq + 1n || !equal(event.prev, head)) {
      throw new ProofError(`entry does not follow the one before: seq \`${event.seq}\` after \`${seq}\``);
    }
    if (event.timeMs < timeMs || event.timeMs > seal.timeMs) {
      throw new ProofError("entry is earlier than the one before, or later than the seal");
    }
    [seq, head, timeMs] = [event.seq, codec.chainHash(leaf), event.timeMs];
    erased = event.kind === ERASURE;
    verified.push({ event, statement: opening && openStatement(event, opening) });
  }
  if (!equal(head, chain.count ? chain.head : codec.ZERO_HASH)) {
    throw new ProofError("last entry is not the head that the map has");
  }
  // INVARIANT: an erased person's statements are gone, nobody else's may be; the ERASURE itself stands in the clear.
  const hasTombstones = verified.some(({ statement }) => statement === null);
  if (hasTombstones && !(erased && verified.at(-1)?.statement)) {
    throw new ProofError("opening is missing, and the chain does not end in an ERASURE");
  }
  return verified;
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

/** Which key was in force for whom, and when. */
export class KeyTerms {
  readonly #terms = new Map<string, KeyTerm[]>();
  /** Whether every entry was read that puts keys in force or out of it. */
  isWhole = true;

  /** Add what a chain's entries say of keys, in their order.
   *
   * A key is retired by a KEY entry in the chain that put it in force, and in no other.
   */
  addAll(chain: Pick<ChainProof, "tag" | "publicName">, keys: readonly HeldKey[]): void {
    const owner = ownerOf(chain);
    for (const { key, timeMs, retired } of keys) this.#add(encodeHex(key), owner, timeMs, retired);
  }

  /** Tell whether this key was ever in force for anyone. */
  has(key: Uint8Array): boolean {
    return Boolean(this.#terms.get(encodeHex(key))?.length);
  }

  /** Return a term of this key in which it may sign this entry. */
  find(key: Uint8Array, event: codec.Event): KeyTerm | undefined {
    const authors = KINDS.get(event.kind)?.authors ?? ANYBODY;
    return this.#terms.get(encodeHex(key))?.find(
      ({ owner, name, fromMs, untilMs }) =>
        authors.has(owner) &&
        fromMs <= event.timeMs &&
        (untilMs === null || event.timeMs <= untilMs) &&
        // A person's own key is good for that person's chain only.
        (owner !== "subject" || name === encodeHex(event.tag)),
    );
  }

  #add(key: string, { owner, name }: Pick<KeyTerm, "owner" | "name">, timeMs: bigint, retired: boolean): void {
    const known = this.#terms.get(key) ?? [];
    const at = known.findIndex((term) => term.owner === owner && term.name === name && term.untilMs === null);
    if (at >= 0 && retired) known[at] = { ...known[at]!, untilMs: timeMs };
    if (at < 0 && !retired) known.push({ owner, name, fromMs: timeMs, untilMs: null });
    this.#terms.set(key, known);
  }
}

/** What a chain's entries say of keys. */
export interface ChainKeys {
  readonly keys: readonly HeldKey[];
  /** What the chain `ledger` says of the ledger itself. */
  readonly ledger: readonly LedgerStatement[];
  /** LEDGER and KEY entries that this version cannot read: nothing follows from them. */
  readonly unread: readonly codec.Event[];
}

/** Decode what a chain's entries say of keys. */
export function readKeys({ publicName }: Pick<ChainProof, "publicName">, entries: readonly VerifiedEntry[]): ChainKeys {
  const [keys, ledger, unread]: [HeldKey[], LedgerStatement[], codec.Event[]] = [[], [], []];
  for (const { event, statement } of entries) {
    const { kind, timeMs } = event;
    if (statement === null) continue;
    if (kind === LEDGER) {
      const said = decodeLedgerStatement(statement.payload);
      if (said === null) unread.push(event);
      else if (publicName === LEDGER_NAME) {
        ledger.push(said);
        keys.push({ key: said.statementKey, timeMs, retired: false });
      }
    } else if (kind === KEY) {
      const said = decodeKeyStatement(statement.payload);
      if (said === null) unread.push(event);
      else keys.push({ ...said, timeMs });
    }
  }
  return { keys, ledger, unread };
}

/** Tell whose keys stand in a chain. One that is neither the ledger's nor a participant's is good for itself only. */
function ownerOf({ tag, publicName }: Pick<ChainProof, "tag" | "publicName">): Pick<KeyTerm, "owner" | "name"> {
  if (publicName === LEDGER_NAME) return { owner: "ledger", name: "" };
  if (publicName.startsWith(PARTICIPANT)) return { owner: "participant", name: publicName.slice(PARTICIPANT.length) };
  return { owner: "subject", name: encodeHex(tag) };
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
