/**
 * Verify an audit bundle: everything in it against the log's key, and nothing against what it says of itself.
 *
 *     checkpoint            signed by the log; cosigned by a quorum, where a policy asks for one
 *       ├─ seal             leaf n-1 of its tree; says where every chain stood
 *       │    └─ chains      each whole, as in a history; a person's from where the ledger keeps it
 *       ├─ single entries   each included at its index; each opening what its leaf commits to
 *       │    └─ authors     signed by a key in force then, by the chains; or by a person's own, which stays open
 *       └─ scope            the range is there without a gap, or the chain that was asked for
 *
 * That it is *this* that was asked for is the maker's word: a bundle with less in it, whose scope says so, is as good.
 * So is the index of an entry of a whole chain, which a chain does not prove. That the seals say the truth, and that
 * everybody is shown the same tree, is for auditors who hold all leaves, and for witnesses.
 */

import { equal } from "./bytes.js";
import { type BundleFile, type BundleScope, parseBundle, type SingleEntry } from "./bundle_file.js";
import type { Checkpoint } from "./checkpoint.js";
import { decodeLeaf, type Event, publicTag, type Seal, type Statement } from "./codec.js";
import { MalformedError, ProofError } from "./errors.js";
import { type ChainProof, openStatement, type VerifiedEntry } from "./history.js";
import { verifyAnchor, verifyAuthors, verifyChain } from "./history.js";
import { settleKeys } from "./keys.js";
import { ERASURE, KINDS } from "./kinds.js";
import { leafHash, verifyInclusion } from "./merkle.js";
import type { Verifier } from "./note.js";
import { type Cosignature, parsePolicy, type Policy, verifyCosigned } from "./policy.js";
import { isPruned, missingBetween, readKeptFrom, type SeqRange } from "./pruned.js";
import { type KeyTerm, KeyTerms, LEDGER_NAME, PARTICIPANT, readKeys } from "./terms.js";
import { readKey } from "./trust.js";
import { checkLedger, type ProvenEntry, type Unread } from "./verify.js";

/** What the reader of a bundle trusts. */
export interface BundleOptions {
  /** The ledger's name in its checkpoints. */
  readonly origin: string;
  /** The log's key, as C2SP vkey text or parsed. Get both on another way than with the bundle. */
  readonly logKey: string | Verifier;
  /** Witnesses of whom a quorum must have cosigned, whenever that was: a C2SP tlog-policy file. Default: nobody. */
  readonly policy?: Uint8Array | Policy;
}

/** A chain of a bundle, proven to be whole, but for what is missing. */
export interface BundleChain {
  readonly tag: Uint8Array;
  /** Empty for a person's chain. */
  readonly publicName: string;
  readonly entries: readonly ProvenEntry[];
  /** Which entries were pruned: nothing, or those before the first. */
  readonly missing: readonly SeqRange[];
}

/** A single entry of a bundle, proven to stand at its index. */
export interface BundleEntry {
  readonly index: bigint;
  readonly leaf: Event | Seal;
  /** null: a seal's, or not in the bundle. */
  readonly statement: Statement | null;
  /** null where there is no statement; or it was signed by what may be a person's own key, whose chain is not there. */
  readonly author: KeyTerm | null;
}

/** What a bundle proves. */
export interface BundleEvidence {
  readonly checkpoint: Checkpoint;
  /** Where a policy was given. */
  readonly cosignatures: readonly Cosignature[];
  readonly seal: Seal;
  /** What it says it was made of. A range and a chain are proven to be whole. */
  readonly scope: BundleScope;
  readonly chains: readonly BundleChain[];
  readonly entries: readonly BundleEntry[];
  /** The time before which the ledger has pruned persons' chains, where chain `ledger` is there to say so; 0n: nothing. */
  readonly keptFromMs: bigint;
  /** How many entries have no statement in the bundle: erased, pruned, or outside the mandate of who made it. */
  readonly closed: number;
  /** How many statements were signed, but by whose key could not be told, for want of the person's chain. */
  readonly unproven: number;
  /** Entries that are proven, but say something that this version cannot tell. */
  readonly unread: readonly Unread[];
}

/** Verify an audit bundle, offline.
 *
 * @throws {MalformedError} it is not a bundle, or a part of it is not what it should be.
 * @throws {SignatureError} the log, an author, or too few witnesses have signed.
 * @throws {ProofError} something in it is not proven, or an entry is missing.
 * @throws {TypeError} the options cannot be.
 */
export function verifyBundle(content: Uint8Array, options: BundleOptions): BundleEvidence {
  const { origin } = options;
  const log = readKey(options.logKey);
  const policy = readPolicy(options.policy);
  const file = parseBundle(content);
  const { checkpoint, seal } = verifyAnchor({ ...file, consistency: [] }, origin, log);
  const cosignatures = policy === null ? [] : verifyCosigned(file.checkpoint, policy, log);

  const asked = askedTag(file.scope);
  file.chains.forEach((chain, place) => checkNeeded(chain, asked, file.chains.slice(0, place)));
  // What was pruned of a person's chain stands in the ledger's own.
  const isLedgers = ({ publicName }: ChainProof): boolean => publicName === LEDGER_NAME;
  const own = new Map(file.chains.filter(isLedgers).map((chain) => [chain, verifyChain(chain, seal)]));
  const keptFromMs = readKeptFrom([...own.values()].flat());
  const verified = file.chains.map((chain) => ({
    chain,
    entries: own.get(chain) ?? verifyChain(chain, seal, { keptFromMs }),
  }));
  const said = verified.map(({ chain, entries }) => readKeys(chain, entries));
  const terms = settleKeys(verified, [], origin, said.every(({ unread }) => !unread.length));
  const chains = verified.map(({ chain: { tag, publicName, firstSeq }, entries }) => {
    const authors = verifyAuthors(entries, origin, terms);
    const isErased = entries.at(-1)?.event.kind === ERASURE;
    const proven = entries.map((entry, place) => {
      return { ...entry, author: authors[place]!, pruned: isPruned(entry, keptFromMs, isErased) };
    });
    return { tag, publicName, entries: proven, missing: missingBetween(0n, firstSeq) };
  });
  if (own.size) checkLedger(said.flatMap(({ ledger }) => ledger), { origin, log });

  const entries = verifyEntries(file.entries, checkpoint, { origin, seal, terms });
  checkScope(file, checkpoint, asked);
  const singles = entries.flatMap(({ leaf, statement, author }) =>
    leaf.type === "event" ? [{ event: leaf, statement, author }] : [],
  );
  const all: readonly Omit<ProvenEntry, "pruned">[] = [...chains.flatMap((chain) => chain.entries), ...singles];
  return {
    checkpoint,
    cosignatures,
    seal,
    scope: file.scope,
    chains,
    entries,
    keptFromMs,
    closed: all.filter(({ statement }) => statement === null).length,
    unproven: all.filter(({ statement, author }) => statement !== null && author === null).length,
    unread: [
      ...verified.flatMap(({ chain, entries }, place) => unreadOf(chain.publicName, entries, said[place]!.unread)),
      ...unreadOf("", singles, readKeys({ publicName: "" }, singles).unread),
    ],
  };
}

interface Under {
  readonly origin: string;
  readonly seal: Seal;
  readonly terms: KeyTerms;
}

/** Verify that each single entry stands at its index, is what its opening says, and was signed by whom it says. */
function verifyEntries(
  claimed: readonly SingleEntry[],
  { size, root }: Checkpoint,
  { origin, seal, terms }: Under,
): BundleEntry[] {
  let [next, timeMs] = [0n, 0n];
  const placed = claimed.map(({ index, leaf, opening, inclusion }) => {
    verifyInclusion(inclusion, { index, size, leafHash: leafHash(leaf), root });
    const decoded = decodeLeaf(leaf);
    if (index < next) throw new ProofError("entry is there twice, or out of order");
    next = index + 1n;
    if (decoded.timeMs < timeMs || decoded.timeMs > seal.timeMs) {
      throw new ProofError("entry is earlier than the one before, or later than the seal");
    }
    timeMs = decoded.timeMs;
    if (decoded.type === "seal") {
      if (opening !== null) throw new MalformedError("seal has an opening");
      if (decoded.covers !== index) throw new ProofError("seal does not stand where it says");
      return { index, leaf: decoded, statement: null };
    }
    return { index, leaf: decoded, statement: opening && openStatement(decoded, opening) };
  });
  return placed.map((entry) => ({ ...entry, author: authorOf(entry, origin, terms) }));
}

/** Verify who signed a single entry; null: nobody did, or perhaps the person, whose chain is not here. */
function authorOf({ leaf, statement }: Omit<BundleEntry, "author">, origin: string, terms: KeyTerms): KeyTerm | null {
  if (leaf.type === "seal" || statement === null) return null;
  const entry = { event: leaf, statement };
  if (terms.has(statement.key)) return verifyAuthors([entry], origin, terms)[0]!;
  // Perhaps the person's own key. Then it may sign what a person may, and whose it is stays open.
  const own = new KeyTerms();
  own.addAll({ tag: leaf.tag, publicName: "" }, [{ key: statement.key, timeMs: 0n, retired: false }]);
  verifyAuthors([entry], origin, own);
  return null;
}

function askedTag({ tag, participant }: BundleScope): Uint8Array | null {
  return participant === null ? tag : publicTag(`${PARTICIPANT}${participant}`);
}

/** Refuse a chain that is there twice, or is neither asked for nor an author's. */
function checkNeeded({ tag, publicName }: ChainProof, asked: Uint8Array | null, before: readonly ChainProof[]): void {
  const isAuthors = publicName === LEDGER_NAME || publicName.startsWith(PARTICIPANT);
  const isAsked = asked !== null && equal(tag, asked);
  if (before.some((chain) => equal(chain.tag, tag)) || !(isAuthors || isAsked)) {
    throw new ProofError("bundle has a chain that nobody needs");
  }
}

/** Verify that what the bundle says it is made of is all there. */
function checkScope({ scope, origin, size, chains, entries }: BundleFile, point: Checkpoint, asked: Uint8Array | null): void {
  if (origin !== point.origin || size !== point.size) {
    throw new ProofError("bundle says it is of another ledger or size than its checkpoint");
  }
  if (scope.range !== null) {
    const [first, last] = scope.range;
    if (last >= point.size) throw new MalformedError("bundle has a range that is none");
    // In order, each once, and each in the tree: so many in the range are all of it.
    const inRange = entries.filter(({ index }) => first <= index && index <= last).length;
    if (BigInt(inRange) !== last - first + 1n) throw new ProofError("an entry of the range is missing");
  }
  if (asked !== null && !chains.some(({ tag }) => equal(tag, asked))) {
    throw new ProofError("the chain that it is made of is missing");
  }
}

/** Name the entries that say something this version cannot tell: of kinds that it does not know, and those of *more*. */
function unreadOf(publicName: string, entries: readonly VerifiedEntry[], more: readonly Event[]): Unread[] {
  const unknown = entries.map(({ event }) => event).filter(({ kind }) => !KINDS.has(kind));
  return [...unknown, ...more].map(({ seq, kind }) => ({ publicName, seq, kind }));
}

function readPolicy(policy: Uint8Array | Policy | undefined): Policy | null {
  if (!(policy instanceof Uint8Array)) return policy ?? null;
  try {
    return parsePolicy(policy);
  } catch (error) {
    // The reader's own file is no evidence: a mistake in it must not pass for a verdict on the bundle.
    if (error instanceof MalformedError) throw new TypeError(`policy is malformed: ${error.message}`);
    throw error;
  }
}
