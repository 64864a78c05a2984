/**
 * Verify a history file or a receipt as a whole, and say what was proven.
 *
 * What neither proves stands in `NOT_PROVEN`; whoever shows a history says so beside it.
 */

import { equal } from "./bytes.js";
import { type Checkpoint, verifyProof } from "./checkpoint.js";
import { decodeLeaf, type Event, publicTag, type Seal, type Statement } from "./codec.js";
import { MalformedError, ProofError, SignatureError } from "./errors.js";
import { parseHistory } from "./file.js";
import {
  type ChainProof,
  type Held,
  type HeldChain,
  type HistoryProof,
  type KeyTerm,
  LEDGER_NAME,
  PARTICIPANT,
  readKeys,
  verifyAnchor,
  verifyAuthors,
  verifyChain,
} from "./history.js";
import { settleKeys } from "./keys.js";
import { ERASURE, KINDS } from "./kinds.js";
import { COSIGNATURE, formatVkey, isBy, type Note, parseVkey, timeOf, Verifier } from "./note.js";
import type { Cosignature } from "./policy.js";
import type { LedgerStatement } from "./wire.js";

/** How long ago a cosignature may have been made. */
export const MAX_AGE_MS = 5 * 60_000;
/** How far clocks of ledger, witnesses and reader may be apart. */
export const MAX_SKEW_MS = 60_000;

/** What a history does not prove, however whole it is. */
export const NOT_PROVEN: readonly string[] = [
  "that every access was reported to the ledger",
  "that the tag is a certain person's, or the person's only one",
  "that the map the log committed to is right: auditors compute it again",
  "that everybody is shown the same tree: witnesses, and clients that compare",
  "that what a statement says is true: only who said it, and when",
];

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

/** An entry of a history, proven. */
export interface ProvenEntry {
  readonly event: Event;
  /** null: erased. */
  readonly statement: Statement | null;
  /** Whose key signed it, and when that was in force; null: erased. */
  readonly author: KeyTerm | null;
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
  /** All entries, or all after those held. */
  readonly entries: readonly ProvenEntry[];
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

  const chains = [{ chain: asked, entries: verifyChain(asked, seal, heldChain) }];
  for (const chain of others) {
    checkNeeded(chain, chains);
    chains.push({ chain, entries: verifyChain(chain, seal) });
  }
  const said = chains.map(({ chain, entries }) => readKeys(chain, entries));
  const terms = settleKeys(chains, heldChain?.keys ?? [], trust.origin, said.every(({ unread }) => !unread.length));
  const authors = chains.map(({ entries }) => verifyAuthors(entries, trust.origin, terms));
  // Of the chain `ledger` itself what is held was held against what is pinned when it was verified.
  if (asked.publicName !== LEDGER_NAME || !heldChain?.count) checkLedger(said.flatMap(({ ledger }) => ledger), trust);

  const entries = chains[0]!.entries.map((entry, i) => ({ ...entry, author: authors[0]![i]! }));
  const last = entries.at(-1)?.event;
  const erased = last ? last.kind === ERASURE : heldChain?.erased ?? false;
  const { tag, publicName, count, head } = asked;
  return {
    checkpoint,
    cosignatures,
    seal,
    tag,
    publicName,
    count,
    entries,
    erased,
    unread: chains.flatMap(({ chain }, place) => {
      // Of an author's chain only what it says of keys matters, of the one asked for everything.
      const unknown = place ? [] : chains[0]!.entries.map(({ event }) => event).filter(({ kind }) => !KINDS.has(kind));
      return [...unknown, ...said[place]!.unread].map(({ kind, seq }) => ({ publicName: chain.publicName, seq, kind }));
    }),
    held: { treeSize: checkpoint.size, root: checkpoint.root },
    heldChain: { count, head, erased, keys: [...(heldChain?.keys ?? []), ...said[0]!.keys] },
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

interface ReadTrust {
  readonly origin: string;
  readonly log: Verifier;
  readonly witnesses: readonly Verifier[];
  readonly quorum: number;
  readonly nowMs: number | null;
  readonly maxAgeMs: number;
}

function readTrust(options: Trust): ReadTrust {
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

function checkAsked(chain: ChainProof, { tag, publicName }: HistoryOptions): void {
  if (tag === undefined && publicName === undefined) return;
  const expected = publicName === undefined ? tag! : publicTag(publicName);
  if (chain.publicName !== (publicName ?? "") || !equal(chain.tag, expected)) {
    throw new ProofError("history is of another chain than the one asked for");
  }
}

/** Refuse a chain that is there twice, or that is no author's. */
function checkNeeded({ tag, publicName }: ChainProof, before: readonly { chain: ChainProof }[]): void {
  const isTwice = before.some(({ chain }) => equal(chain.tag, tag));
  if (isTwice || !(publicName === LEDGER_NAME || publicName.startsWith(PARTICIPANT))) {
    throw new ProofError("history has a chain that nobody needs");
  }
}

/** Hold what the ledger says of itself against what is pinned.
 *
 * @throws {ProofError} it names another origin, or not the log key.
 */
export function checkLedger(
  statements: readonly LedgerStatement[],
  { origin, log }: { readonly origin: string; readonly log: Verifier },
): void {
  if (!statements.length || statements.some((said) => said.origin !== origin)) {
    throw new ProofError("ledger names another origin for itself than the one pinned");
  }
  if (!statements.some(({ verifierKeys }) => verifierKeys.includes(formatVkey(log)))) {
    throw new ProofError("ledger does not name the pinned log key as its own");
  }
}

/** Verify quorum and freshness; *timeMs* is the leaf's that the checkpoint is about. */
function checkWitnesses(note: Note, trust: ReadTrust, timeMs: bigint): Cosignature[] {
  const { witnesses, quorum, nowMs, maxAgeMs } = trust;
  if (nowMs !== null && timeMs > BigInt(Math.floor(nowMs)) + BigInt(MAX_SKEW_MS)) {
    throw new ProofError("leaf is of a time that has not come yet");
  }
  const cosignatures: Cosignature[] = [];
  let counting = 0;
  for (const witness of witnesses) {
    const times = note.verified.filter((line) => isBy(line, witness)).map(({ signature }) => timeOf(signature));
    if (!times.length) continue;
    const latest = times.reduce((a, b) => (a > b ? a : b)) * 1000n;
    cosignatures.push({ name: witness.name, timeMs: Number(latest) });
    const isFresh =
      nowMs === null || (Number(latest) >= nowMs - maxAgeMs && Number(latest) <= nowMs + MAX_SKEW_MS);
    // A cosignature that is older than the leaf cannot have covered it.
    if (isFresh && timeMs <= latest + BigInt(MAX_SKEW_MS)) counting += 1;
  }
  if (counting < quorum) throw new SignatureError(`fewer witnesses cosigned than asked for: \`${counting}\``);
  return cosignatures;
}
