/**
 * Verify a set of chains at one checkpoint: the chain asked for, and the chains of the authors' keys.
 *
 * Chain `ledger` comes first, because it states what may be missing from the others. What it states to have pruned is
 * compared with the retention policy that it published. Source: ledger-format.md, "Pruning".
 */

import { equal } from "./bytes.js";
import type { Event } from "./codec.js";
import { ProofError } from "./errors.js";
import { type ChainProof, type HeldChain, type SealedCheckpoint, type SeqRange } from "./history.js";
import { type VerifiedEntry, type VerifiedPart, verifyPart } from "./history.js";
import { hasAuthorKeys, type KeyChange, type KeyValidity, LEDGER_CHAIN, statedKeys } from "./key_validity.js";
import { namedBy, PARTICIPANT_PREFIX, type ValidKeys, verifyAuthors, verifyGiver } from "./key_validity.js";
import { verifyKeyChanges } from "./key_validity.js";
import { ERASURE, KEY, KINDS, LEDGER } from "./kinds.js";
import { decodeKeyStatement, decodeLedgerStatement, type LedgerStatement } from "./payloads.js";
import type { ReadTrust } from "./quorum.js";
import { type RecentStatement, verifyOnce } from "./recent_statements.js";
import { verifyReporters } from "./reporters.js";
import { verifyRepresentatives } from "./representatives.js";
import { LedgerKeys } from "./rotation.js";

const DAY_MS = 86_400_000n;

/** What a history or other evidence does not prove of what was pruned. */
export const NOT_PROVEN_OF_PRUNED =
  "that what was pruned was kept for as long as it had to be: who watched the ledger then can tell";

/** An entry of a chain, proven. */
export interface ProvenEntry extends VerifiedEntry {
  /** Whose key signed it, and when that key was valid; null: the statement is erased or pruned. */
  readonly author: KeyValidity | null;
  /** The statement was pruned, past the ledger's published retention. A missing statement was erased otherwise. */
  readonly pruned: boolean;
}

/** An entry that this version does not understand. It is proven, and nothing follows from it. */
export interface Unread {
  /** Of its chain; empty for a person's. */
  readonly publicName: string;
  readonly seq: bigint;
  readonly kind: number;
}

/** A chain, proven to be whole, except for what is missing. */
export interface ProvenChain {
  readonly tag: Uint8Array;
  /** Empty for a person's chain. */
  readonly publicName: string;
  /** All entries, or those after what is held. */
  readonly entries: readonly ProvenEntry[];
  /** Which entries were pruned, between what is held and the first of `entries`. */
  readonly missing: readonly SeqRange[];
}

/** Chains whose statements were all signed by valid keys. */
export interface ProvenChains {
  /** In the order of the proof. */
  readonly chains: readonly ProvenChain[];
  readonly keys: ValidKeys;
  /** Entries of persons before this time may be pruned, as chain `ledger` states; 0n: none may. */
  readonly keptFromMs: bigint;
  /** The entries of chain `ledger`, and what they state of the ledger's own keys; null: the chain is not there. */
  readonly ledger: { readonly entries: readonly VerifiedEntry[]; readonly keys: LedgerKeys } | null;
  /** Of chain `ledger`: for how many days it published to keep entries; 0: it is not there, or keeps all. */
  readonly retentionDays: number;
  /** What the entries of the first chain state of keys. */
  readonly changes: readonly KeyChange[];
  /** The statements of the first chain that later entries must not repeat. */
  readonly recent: readonly RecentStatement[];
  /** The last entry that is verified of the chain asked for; null: none was asked for. */
  readonly last: VerifiedPart["last"] | null;
  /** Of the chain asked for: the `unreadTo` that `HeldChain` has. */
  readonly unreadTo: bigint;
  readonly unread: readonly Unread[];
}

/** Verify chains: each is whole, and every statement was signed by a key in force.
 *
 * @param asked tag of the chain asked for, which then is the first; all others must be authors' chains. null: none is.
 * @param heldChain what the reader holds of the chain asked for.
 * @param most how many entries of the chain asked for were asked for; null: all.
 * @throws {MalformedError} a part of one is not what it should be.
 * @throws {UnknownKeyError} an author's key was not in force, but an entry of a later version may have made it so.
 * @throws {SignatureError} an author's key was not in force, or a signature is wrong.
 * @throws {ProofError} a chain is not whole or not needed, or has a signed statement twice; or chain `ledger`
 * contradicts what is pinned, its own policy, or what it stated of its keys before.
 */
export function verifyChains(
  proofs: readonly ChainProof[], { checkpoint, seal }: SealedCheckpoint, asked: Uint8Array | null, trust: ReadTrust,
  heldChain: HeldChain | null = null, most: bigint | null = null,
): ProvenChains {
  const isAsked = ({ tag }: ChainProof): boolean => asked !== null && equal(tag, asked);
  proofs.forEach((chain, place) => {
    if (proofs.slice(0, place).some(({ tag }) => equal(tag, chain.tag))) throw new ProofError("a chain is there twice");
    if (!isAsked(chain) && !hasAuthorKeys(chain.publicName)) {
      throw new ProofError("a chain is there that was not asked for, and is no author's");
    }
  });
  let [keptFromMs, retentionDays] = [0n, 0];
  let last: VerifiedPart["last"] | null = null;
  const isLedger = ({ publicName }: ChainProof): boolean => publicName === LEDGER_CHAIN;
  const verified = new Map<ChainProof, VerifiedEntry[]>();
  for (const chain of [...proofs.filter(isLedger), ...proofs.filter((one) => !isLedger(one))]) {
    const held = isAsked(chain) ? heldChain : null;
    if (held !== null && (chain.count < held.count || chain.firstSeq <= held.count)) {
      throw new ProofError("chain is shorter than what is held, or does not continue it");
    }
    const part = verifyPart(chain, seal, { held, keptFromMs, most: isAsked(chain) ? most : null });
    const { entries } = part;
    verified.set(chain, entries);
    if (isAsked(chain)) last = part.last;
    if (!isLedger(chain)) continue;
    retentionDays = readRetentionDays(entries, held?.retentionDays);
    keptFromMs = readKeptFrom(entries, retentionDays);
  }
  const chains = proofs.map((chain) => ({ chain, entries: verified.get(chain)! }));
  const stated = chains.map(({ chain, entries }) => statedKeys(chain, entries));
  const isWhole = stated.every(({ unread }) => !unread.length);
  const keys = verifyKeyChanges(chains, heldChain?.keys ?? [], trust.origin, isWhole);
  const authors = chains.map(({ entries }) => verifyAuthors(entries, trust.origin, keys));
  // Of the chain asked for, the entries that are held are not there, and so not the giver's roles before.
  const wholeChains = chains.filter(({ chain }) => !isAsked(chain) || !heldChain?.count);
  for (const { entries } of chains) verifyGivers(entries, wholeChains);
  let unreadTo = 0n;
  for (const { entries } of chains.filter(({ chain }) => isAsked(chain))) {
    verifyReporters(entries, keys);
    unreadTo = verifyRepresentatives(entries, keys, heldChain ?? undefined);
  }
  const [recent = []] = chains.map(({ chain, entries }) => {
    return verifyOnce(entries, keys, isAsked(chain) ? (heldChain?.recent ?? []) : []);
  });
  let ledgerKeys: LedgerKeys | null = null;
  if (asked !== null || proofs.some(isLedger)) {
    const place = proofs.findIndex(isLedger);
    // The reader compared what is held of chain `ledger` with the pins when it verified that.
    const held = place >= 0 && isAsked(proofs[place]!) ? heldChain : null;
    const entries = place < 0 ? [] : chains[place]!.entries;
    ledgerKeys = verifyLedger(entries, stated[place]?.ledger ?? [], trust, checkpoint.size, held);
  }
  return {
    chains: chains.map(({ chain, entries }, place) => {
      const { tag, publicName, firstSeq } = chain;
      const isErased = entries.at(-1)?.event.kind === ERASURE;
      const proven = entries.map((entry, at) => {
        const pruned = entry.statement === null && entry.event.timeMs < keptFromMs && !isErased;
        return { ...entry, author: authors[place]![at]!, pruned };
      });
      const heldCount = isAsked(chain) ? (heldChain?.count ?? 0n) : 0n;
      return { tag, publicName, entries: proven, missing: missingBetween(heldCount, firstSeq) };
    }),
    keys,
    keptFromMs,
    ledger: ledgerKeys && { entries: chains.find(({ chain }) => isLedger(chain))?.entries ?? [], keys: ledgerKeys },
    retentionDays,
    changes: stated[0]?.changes ?? [],
    recent,
    last,
    unreadTo,
    unread: chains.flatMap(({ chain, entries }, place) => unreadOf(chain.publicName, entries, stated[place]!.unread)),
  };
}

/** Verify the givers of the mandates among *entries*, as far as *chains* has the chain of the giver.
 *
 * @throws {SignatureError} a giver was no active public authority.
 */
export function verifyGivers(
  entries: readonly VerifiedEntry[],
  chains: readonly { readonly chain: { readonly publicName: string }; readonly entries: readonly VerifiedEntry[] }[],
): void {
  for (const { event, statement } of entries) {
    const giver = statement === null ? "" : namedBy(event, statement).giver;
    const found = giver && chains.find(({ chain }) => chain.publicName === PARTICIPANT_PREFIX + giver);
    if (found) verifyGiver(event, found.entries);
  }
}

/** Return the entries that this version does not understand: of unknown kinds, and *more*. */
export function unreadOf(publicName: string, entries: readonly VerifiedEntry[], more: readonly Event[]): Unread[] {
  const unknown = entries.map(({ event }) => event).filter(({ kind }) => !KINDS.has(kind));
  return [...unknown, ...more].map(({ seq, kind }) => ({ publicName, seq, kind }));
}

/** Verify what the entries of chain `ledger` state of the ledger itself; return its keys.
 *
 * @param statements of the entries that this version understands.
 * @param size of the tree whose checkpoint the log key signed.
 * @param held what the reader holds of that chain; null: nothing.
 * @throws {ProofError} it names another origin, a rotation contradicts it, or another log key signs such checkpoints.
 * @throws {SignatureError} the new key of a rotation did not sign it.
 */
function verifyLedger(
  entries: readonly VerifiedEntry[], statements: readonly LedgerStatement[], { origin, log }: ReadTrust, size: bigint,
  held: HeldChain | null,
): LedgerKeys {
  const keys = held?.ledgerKeys?.copy() ?? new LedgerKeys(origin);
  for (const { event, statement } of entries) {
    if (statement === null) continue;
    const stated = event.kind === LEDGER ? decodeLedgerStatement(statement.payload) : null;
    if (stated) keys.add(stated, event.seq, statement.key, size);
    const changed = event.kind === KEY ? decodeKeyStatement(statement.payload) : null;
    if (changed?.retired) keys.retire(changed.key);
  }
  if ((!statements.length && !held?.count) || statements.some((stated) => stated.origin !== origin)) {
    throw new ProofError("ledger names another origin for itself than the one pinned");
  }
  keys.verifyLogKey(log, size);
  return keys;
}

/** Return for how many days leaf 0 published to keep entries; *held* if leaf 0 is not sent again. */
function readRetentionDays(ledger: readonly VerifiedEntry[], held = 0): number {
  // INVARIANT: only leaf 0 sets the policy. Otherwise the writer of a later entry could shorten the retention.
  const [first] = ledger.filter(({ event }) => event.seq === 1n);
  if (first === undefined) return held;
  return read(first)?.retentionDays ?? 0;
}

/** Return the time before which the ledger has pruned, as its chain `ledger` states; 0n: it has not.
 *
 * @param days for how many days leaf 0 published to keep entries.
 * @throws {ProofError} it states to have pruned what its published policy keeps.
 */
function readKeptFrom(ledger: readonly VerifiedEntry[], days: number): bigint {
  let keptFromMs = 0n;
  for (const entry of ledger) {
    const { event } = entry;
    const stated = read(entry)?.pruning?.keptFromMs;
    if (stated === undefined) continue;
    if (!days || stated + BigInt(days) * DAY_MS > event.timeMs) {
      throw new ProofError("ledger states to have pruned what its retention policy keeps");
    }
    if (stated > keptFromMs) keptFromMs = stated;
  }
  return keptFromMs;
}

function read({ event, statement }: VerifiedEntry): LedgerStatement | null {
  return event.kind === LEDGER && statement ? decodeLedgerStatement(statement.payload) : null;
}

/** Return the range of entries that are missing between those held and the first one sent. */
function missingBetween(heldCount: bigint, firstSeq: bigint): SeqRange[] {
  return firstSeq > heldCount + 1n ? [[heldCount + 1n, firstSeq - 1n]] : [];
}
