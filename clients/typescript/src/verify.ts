/**
 * Verify a history file or a receipt as a whole, and say what was proven.
 *
 * What neither proves stands in `NOT_PROVEN`; whoever shows a history says so beside it.
 */

import { equal } from "./bytes.js";
import { type Checkpoint, verifyProof } from "./checkpoint.js";
import { decodeLeaf, type Event, type Seal, type Statement } from "./codec.js";
import { MalformedError, ProofError } from "./errors.js";
import { parseHistory } from "./file.js";
import {
  type ChainProof,
  type Held,
  type HeldChain,
  type HistoryProof,
  type VerifiedEntry,
  verifyAnchor,
  verifyAuthors,
  verifyChain,
} from "./history.js";
import { settleKeys } from "./keys.js";
import { ERASURE, KINDS } from "./kinds.js";
import { formatVkey, type Verifier } from "./note.js";
import type { Cosignature } from "./policy.js";
import { isPruned, missingBetween, readKeptFrom, readRetentionDays, type SeqRange } from "./pruned.js";
import { type KeyTerm, LEDGER_NAME, PARTICIPANT, readKeys } from "./terms.js";
import { checkWitnesses, readTrust, type Trust } from "./trust.js";
import type { LedgerStatement } from "./wire.js";

/** What a history, or a bundle, does not prove of what was pruned. */
export const NOT_PROVEN_OF_PRUNED = "that what was pruned was kept as long as it had to be: who watched the ledger then";

/** What a history does not prove, however whole it is. */
export const NOT_PROVEN: readonly string[] = [
  "that every access was reported to the ledger",
  "that the tag is a certain person's, or the person's only one",
  "that the map the log committed to is right: auditors compute it again",
  "that everybody is shown the same tree: witnesses, and clients that compare",
  "that what a statement says is true: only who said it, and when",
];

/** How to verify a history. */
export interface HistoryOptions extends Trust {
  /** Whose history it must be: the person's tag, 32 bytes. Without it or `publicName`, look at the evidence's. */
  readonly tag?: Uint8Array;
  /** Whose history it must be: a public chain's name. */
  readonly publicName?: string;
  /** What `HistoryEvidence.held` was the last time. */
  readonly held?: Held;
  /** What `HistoryEvidence.heldChain` was the last time, where only later entries were asked for. */
  readonly heldChain?: HeldChain;
}

/** An entry of a chain, proven. */
export interface ProvenEntry {
  readonly event: Event;
  /** null: erased or pruned. */
  readonly statement: Statement | null;
  /** Whose key signed it, and when that was in force; null: erased or pruned. */
  readonly author: KeyTerm | null;
  /** What it said is gone, as the ledger states, past its published retention; otherwise, the person was erased. */
  readonly pruned: boolean;
}

/** Where an entry stands that this version cannot read. */
export interface Unread {
  /** Of its chain; empty for the person's. */
  readonly publicName: string;
  readonly seq: bigint;
  readonly kind: number;
}

/** What a history proof proves. */
export interface HistoryEvidence {
  readonly checkpoint: Checkpoint;
  readonly cosignatures: readonly Cosignature[];
  readonly seal: Seal;
  readonly tag: Uint8Array;
  /** Empty for a person's chain. */
  readonly publicName: string;
  /** How many entries the chain has, those held before included. 0: none. */
  readonly count: bigint;
  /** All entries, or all after those held, but for those in `missing`. */
  readonly entries: readonly ProvenEntry[];
  /** Which entries were pruned, and neither are shown nor were held. */
  readonly missing: readonly SeqRange[];
  /** The time before which the ledger has pruned persons' chains, under its published policy; 0n: nothing. */
  readonly keptFromMs: bigint;
  /** The chain ends in an ERASURE. */
  readonly erased: boolean;
  /** Entries that are proven, but say something that this version cannot tell: nothing follows from them. */
  readonly unread: readonly Unread[];
  /** To be kept, and given again the next time. */
  readonly held: Held;
  /** To be kept, and given again the next time, where only later entries are asked for then. */
  readonly heldChain: HeldChain;
}

/** What a receipt proves. */
export interface ReceiptEvidence {
  readonly checkpoint: Checkpoint;
  readonly cosignatures: readonly Cosignature[];
  /** Of the leaf, from 0. */
  readonly index: bigint;
  readonly leaf: Event | Seal;
}

/** Verify a history file, or a proof made of the stream's pieces, as ledger-format.md, "History proof", says.
 *
 * @throws {MalformedError} something is not the format it claims to be.
 * @throws {SignatureError} a signature does not verify, its key was not in force, or too few witnesses cosigned.
 * @throws {ProofError} a proof does not lead to where it should, or this is another chain's history.
 * @throws {TypeError} the options cannot be.
 */
export function verifyHistory(
  document: Uint8Array | string | HistoryProof,
  options: HistoryOptions,
): HistoryEvidence {
  const trust = readTrust(options);
  const proof = typeof document === "string" || document instanceof Uint8Array ? parseHistory(document) : document;
  const [asked, ...others] = proof.chains;
  if (asked === undefined) throw new MalformedError("history has no chain");
  const { held = null, heldChain = null } = options;
  const { checkpoint, note, seal } = verifyAnchor(proof, trust.origin, trust.log, held, trust.witnesses);
  const cosignatures = checkWitnesses(note, trust, seal.timeMs);
  checkAsked(asked, options);

  const authorChains: { chain: ChainProof; entries: VerifiedEntry[] }[] = [];
  for (const chain of others) {
    checkNeeded(chain, asked, authorChains);
    authorChains.push({ chain, entries: verifyChain(chain, seal) });
  }
  const ledger = authorChains.find(({ chain }) => chain.publicName === LEDGER_NAME);
  const statedMs = readKeptFrom(ledger?.entries ?? []);
  const keptFromMs = asked.publicName ? 0n : statedMs;
  checkContinues(asked, heldChain?.count ?? 0n);
  const chains = [{ chain: asked, entries: verifyChain(asked, seal, { held: heldChain, keptFromMs }) }, ...authorChains];
  const isLedger = asked.publicName === LEDGER_NAME;
  const retentionDays = isLedger ? readRetentionDays(chains[0]!.entries, heldChain?.retentionDays) : 0;
  if (isLedger) readKeptFrom(chains[0]!.entries, retentionDays);
  const said = chains.map(({ chain, entries }) => readKeys(chain, entries));
  const terms = settleKeys(chains, heldChain?.keys ?? [], trust.origin, said.every(({ unread }) => !unread.length));
  const authors = chains.map(({ entries }) => verifyAuthors(entries, trust.origin, terms));
  // Of the chain `ledger` itself what is held was held against what is pinned when it was verified.
  checkLedger(said.flatMap(({ ledger }) => ledger), trust, isLedger && Boolean(heldChain?.count));

  const last = chains[0]!.entries.at(-1)?.event;
  const erased = last ? last.kind === ERASURE : heldChain?.erased ?? false;
  const entries = chains[0]!.entries.map((entry, i) => ({
    ...entry,
    author: authors[0]![i]!,
    pruned: isPruned(entry, keptFromMs, erased),
  }));
  const missing = [...(heldChain?.missing ?? []), ...missingBetween(heldChain?.count ?? 0n, asked.firstSeq)];
  const { tag, publicName, count, head } = asked;
  return {
    checkpoint,
    cosignatures,
    seal,
    tag,
    publicName,
    count,
    entries,
    missing,
    keptFromMs,
    erased,
    unread: chains.flatMap(({ chain }, place) => {
      // Of an author's chain only what it says of keys matters, of the one asked for everything.
      const unknown = place ? [] : chains[0]!.entries.map(({ event }) => event).filter(({ kind }) => !KINDS.has(kind));
      return [...unknown, ...said[place]!.unread].map(({ kind, seq }) => ({ publicName: chain.publicName, seq, kind }));
    }),
    held: { treeSize: checkpoint.size, root: checkpoint.root },
    heldChain: {
      count,
      head,
      erased,
      timeMs: last?.timeMs ?? heldChain?.timeMs ?? 0n,
      retentionDays,
      keys: [...(heldChain?.keys ?? []), ...said[0]!.keys],
      missing,
    },
  };
}

/** Verify, offline, that a receipt shows this leaf in a tree that the log signed.
 *
 * @throws {MalformedError} the receipt or the leaf is not one.
 * @throws {SignatureError} the log has not signed the checkpoint, a signature is wrong, or too few witnesses cosigned.
 * @throws {ProofError} another origin, or the proof does not lead from the leaf to the root.
 * @throws {TypeError} the options cannot be.
 */
export function verifyReceipt(tlogProof: Uint8Array, leaf: Uint8Array, options: Trust): ReceiptEvidence {
  const trust = readTrust(options);
  const [bundle, checkpoint, note] = verifyProof(tlogProof, leaf, trust.origin, trust.log, trust.witnesses);
  const decoded = decodeLeaf(leaf);
  const cosignatures = checkWitnesses(note, trust, decoded.timeMs);
  return { checkpoint, cosignatures, index: bundle.index, leaf: decoded };
}

function checkAsked(chain: ChainProof, { tag, publicName }: HistoryOptions): void {
  if (tag === undefined && publicName === undefined) return;
  // That a public name is its tag's is verified with the chain.
  if (chain.publicName !== (publicName ?? "") || (tag !== undefined && !equal(chain.tag, tag))) {
    throw new ProofError("history is of another chain than the one asked for");
  }
}

/** Refuse a chain that does not go on behind what is held. */
function checkContinues({ count, firstSeq }: ChainProof, heldCount: bigint): void {
  if (count < heldCount) throw new ProofError(`chain is shorter than what is held: \`${count}\` and \`${heldCount}\``);
  if (firstSeq <= heldCount) throw new ProofError("chain does not continue what is held");
}

/** Refuse a chain that is there twice, or that is no author's. */
function checkNeeded(
  { tag, publicName }: ChainProof,
  asked: ChainProof,
  before: readonly { chain: ChainProof }[],
): void {
  const isTwice = equal(tag, asked.tag) || before.some(({ chain }) => equal(chain.tag, tag));
  if (isTwice || !(publicName === LEDGER_NAME || publicName.startsWith(PARTICIPANT))) {
    throw new ProofError("history has a chain that nobody needs");
  }
}

/** Hold what the ledger says of itself against what is pinned; *isHeld*: what it said before was, and more may follow.
 *
 * @throws {ProofError} it names another origin, or not the log key.
 */
export function checkLedger(
  statements: readonly LedgerStatement[],
  { origin, log }: { readonly origin: string; readonly log: Verifier },
  isHeld = false,
): void {
  if ((!statements.length && !isHeld) || statements.some((said) => said.origin !== origin)) {
    throw new ProofError("ledger names another origin for itself than the one pinned");
  }
  if (!isHeld && !statements.some(({ verifierKeys }) => verifierKeys.includes(formatVkey(log)))) {
    throw new ProofError("ledger does not name the pinned log key as its own");
  }
}
