/**
 * Determine which keys were valid for whom and when; verify that each statement was signed by such a key.
 *
 * A *change* is what one KEY or LEDGER entry states of a key; a *validity* is the time that follows from changes.
 * Source: ledger-format.md, "Keys in force".
 */

import { encodeHex } from "./bytes.js";
import * as codec from "./codec.js";
import * as ed25519 from "./ed25519.js";
import { SignatureError, UnknownKeyError } from "./errors.js";
import type { ChainProof, VerifiedEntry } from "./history.js";
import { ANYBODY, DELEGATION, KEY, KINDS, LEDGER, MANDATE, NOTICE, type Owner, PARTICIPANT } from "./kinds.js";
import { decodeKeyStatement, decodeLedgerStatement, type LedgerStatement } from "./payloads.js";
import { mayGiveMandates, readAuthoritySeq, readGiver, readPublisher, STATEMENT_ROLE } from "./payloads.js";

/** How far an author's clock may be from the ledger's. */
export const MAX_AUTHOR_SKEW_MS = 600_000n;
/** Name of the chain that states which keys are the daemon's. */
export const LEDGER_CHAIN = "ledger";
/** How the names of participants' chains begin. */
export const PARTICIPANT_PREFIX = "participant/";

type ChainName = Pick<ChainProof, "tag" | "publicName">;

/** What an entry states of a key: from its time on the key is valid or, if retired, no longer. */
export interface KeyChange {
  readonly key: Uint8Array;
  readonly timeMs: bigint;
  readonly retired: boolean;
  /** Seq of the AUTHORITY whose representative owns the key; 0 or absent: the owner of the chain does. */
  readonly authority?: bigint;
}

/** What the payload of a statement names, on which it depends who may sign the statement. */
export interface Named {
  /** The participant that a MANDATE names as the one that gives it; empty: none. */
  readonly giver: string;
  /** The participant that a NOTICE names as the one whose it is; empty: none. */
  readonly publisher: string;
  /** Seq of the AUTHORITY under which a representative makes the statement; 0: none. */
  readonly authority: bigint;
}

/** When a key was valid and for whom, both ends included. */
export interface KeyValidity {
  readonly owner: Owner;
  /** The participant's id; the person's tag in hexadecimal, and of a representative the seq of the authority after it;
   * empty for the daemon. */
  readonly name: string;
  readonly fromMs: bigint;
  /** null: it was not retired. */
  readonly untilMs: bigint | null;
}

/** Report whether a public chain states which keys are an author's: the ledger's own chain, or a participant's. */
export function hasAuthorKeys(name: string): boolean {
  return name === LEDGER_CHAIN || name.startsWith(PARTICIPANT_PREFIX);
}

/** By key, when it was valid and for whom. */
export class ValidKeys {
  readonly #validities = new Map<string, KeyValidity[]>();
  /** Whether this version understands every entry that states something of a key. */
  isWhole = true;

  /** Apply the changes that a chain's entries state, in their order.
   *
   * Only the chain that made a key valid can retire it.
   */
  apply(chain: ChainName, changes: readonly KeyChange[]): void {
    const owner = ownerOf(chain);
    for (const change of changes) this.#apply(owner, change);
  }

  /** Report whether this key was ever valid for anyone. */
  has(key: Uint8Array): boolean {
    return Boolean(this.#validities.get(encodeHex(key))?.length);
  }

  /** Return the validity by which this key may sign this entry; undefined: it may not. *named*: see `namedBy`. */
  find(key: Uint8Array, event: codec.Event, named: Named): KeyValidity | undefined {
    // If a key has several owners, the same one is named in whatever order the chains were sent.
    const found = this.findAll(key, event, named);
    return found.reduce((one, other) => (rank(other) < rank(one) ? other : one), found[0]!);
  }

  /** Report whether only the daemon may sign this entry with this key. */
  isDaemonsAlone(key: Uint8Array, event: codec.Event, named: Named): boolean {
    return this.has(key) && this.findAll(key, event, named).every(({ owner }) => owner === "ledger");
  }

  /** Report whether this key was valid for the daemon, and for nobody else at any time. */
  isDaemonsOnly(key: Uint8Array): boolean {
    return (this.#validities.get(encodeHex(key)) ?? []).every(({ owner }) => owner === "ledger");
  }

  /** Return the validities by which this key may sign this entry. */
  findAll(key: Uint8Array, event: codec.Event, named: Named): KeyValidity[] {
    const { giver, authority } = named;
    const authors = KINDS.get(event.kind)?.authors ?? ANYBODY;
    const found = this.#validities.get(encodeHex(key))?.filter(
      ({ owner, name, fromMs, untilMs }) =>
        authors.has(owner) &&
        fromMs <= event.timeMs &&
        (untilMs === null || event.timeMs <= untilMs) &&
        // A person's own key may sign only in that person's chain, and it states no key of a representative.
        (owner !== "subject" || (name === encodeHex(event.tag) && (event.kind !== KEY || !authority))) &&
        (owner !== "representative" || mayRepresentativeSign(name, event, authority)) &&
        // A mandate that names a giver is the giver's, and no other mandate is a participant's.
        (owner !== "ledger" || !giver) &&
        (owner !== "participant" || mayParticipantSign(name, event, named)),
    );
    return found ?? [];
  }

  #apply(chain: Pick<KeyValidity, "owner" | "name">, { key, timeMs, retired, authority }: KeyChange): void {
    const { owner, name } = authority ? representativeOf(chain.name, authority) : chain;
    const known = this.#validities.get(encodeHex(key)) ?? [];
    const at = known.findIndex((one) => one.owner === owner && one.name === name && one.untilMs === null);
    if (at >= 0 && retired) known[at] = { ...known[at]!, untilMs: timeMs };
    if (at < 0 && !retired) known.push({ owner, name, fromMs: timeMs, untilMs: null });
    this.#validities.set(encodeHex(key), known);
  }
}

/** Return what the payload of an entry names. The end of an authority names it by the entry's ref. */
export function namedBy({ kind, ref }: codec.Event, { payload }: codec.Statement): Named {
  const giver = kind === MANDATE ? readGiver(payload) : "";
  const publisher = kind === NOTICE ? readPublisher(payload) : "";
  return { giver, publisher, authority: readAuthoritySeq(kind, ref, payload) };
}

/** Read nothing from a payload: for an entry whose author may be anybody that nothing shows. */
export function namesNothing(): Named {
  return { giver: "", publisher: "", authority: 0n };
}

function representativeOf(tag: string, authority: bigint): Pick<KeyValidity, "owner" | "name"> {
  return { owner: "representative", name: `${tag} ${authority}` };
}

/** Report whether a representative may sign an entry: in the person's chain, and only what names the authority.
 *
 * INVARIANT: otherwise a KEY entry could put a key of a representative in force as the person's own.
 */
function mayRepresentativeSign(name: string, { kind, tag }: codec.Event, authority: bigint): boolean {
  const chain = encodeHex(tag);
  return KINDS.has(kind) ? name === representativeOf(chain, authority).name : name.startsWith(`${chain} `);
}

function mayParticipantSign(name: string, { kind, tag }: codec.Event, { giver, publisher }: Named): boolean {
  // A mandate is in the auditor's chain, and nobody gives one to itself.
  if (kind === MANDATE) return giver !== "" && name === giver && !isChainOf(name, tag);
  // The payload says whose notice it is. That the chain's name says so too, the daemon and auditors check.
  if (kind === NOTICE) return publisher !== "" && name === publisher;
  // Of participants, only the one whose chain it is states its record and its keys, and who may act for it.
  return (kind !== PARTICIPANT && kind !== KEY && kind !== DELEGATION) || isChainOf(name, tag);
}

/** Verify that the giver of a mandate had the role, by the entries of its own chain, in order.
 *
 * A history does not show the order of entries of one millisecond in two chains. So the entry before counts, and each
 * of the same millisecond. An entry that this version does not understand may have given the role.
 *
 * @throws {SignatureError} by none of these entries is the giver an active public authority.
 */
export function verifyGiver(mandate: codec.Event, chain: readonly VerifiedEntry[]): void {
  let [before, together] = [false, false];
  for (const { event, statement } of chain) {
    if (event.kind !== PARTICIPANT || statement === null) continue;
    if (event.timeMs < mandate.timeMs) before = mayGiveMandates(statement.payload) !== false;
    else if (event.timeMs === mandate.timeMs) together ||= mayGiveMandates(statement.payload) !== false;
  }
  if (!before && !together) {
    throw new SignatureError(`giver of the mandate was no active public authority: seq \`${mandate.seq}\``);
  }
}

function isChainOf(participant: string, tag: Uint8Array): boolean {
  return encodeHex(codec.publicTag(PARTICIPANT_PREFIX + participant)) === encodeHex(tag);
}

function rank({ owner, name }: KeyValidity): string {
  return `${["ledger", "participant", "subject", "representative"].indexOf(owner)}${name}`;
}

/** Return whose keys a chain states. Any chain but the ledger's and the participants' counts as a person's. */
function ownerOf({ tag, publicName }: ChainName): Pick<KeyValidity, "owner" | "name"> {
  if (publicName === LEDGER_CHAIN) return { owner: "ledger", name: "" };
  if (publicName.startsWith(PARTICIPANT_PREFIX)) {
    return { owner: "participant", name: publicName.slice(PARTICIPANT_PREFIX.length) };
  }
  return { owner: "subject", name: encodeHex(tag) };
}

/** What the LEDGER and KEY entries of a chain state. */
export interface StatedKeys {
  readonly changes: readonly KeyChange[];
  /** What chain `ledger` states of the ledger itself. */
  readonly ledger: readonly LedgerStatement[];
  /** The entries that this version does not understand. Nothing follows from them. */
  readonly unread: readonly codec.Event[];
}

/** Decode what a chain's entries state of keys. */
export function statedKeys({ publicName }: { publicName: string }, entries: readonly VerifiedEntry[]): StatedKeys {
  const [changes, ledger, unread]: [KeyChange[], LedgerStatement[], codec.Event[]] = [[], [], []];
  for (const { event, statement } of entries) {
    const { kind, timeMs } = event;
    if (statement === null) continue;
    if (kind === LEDGER) {
      const stated = decodeLedgerStatement(statement.payload);
      if (stated === null) unread.push(event);
      else if (publicName === LEDGER_CHAIN) {
        ledger.push(stated);
        changes.push(...changesOf(stated, timeMs));
      }
    } else if (kind === KEY) {
      const stated = decodeKeyStatement(statement.payload);
      if (stated === null) unread.push(event);
      // Only in the chain of a person does somebody represent the owner of the chain.
      else if (stated.authority && (hasAuthorKeys(publicName) || stated.authority >= event.seq)) continue;
      // Only LEDGER entries make the daemon's keys valid. A KEY entry in their chain can only retire one.
      else if (stated.retired || publicName !== LEDGER_CHAIN) changes.push({ ...stated, timeMs });
    }
  }
  return { changes, ledger, unread };
}

/** Return what a LEDGER entry states of the daemon's statement keys. */
function changesOf({ statementKey, rotation }: LedgerStatement, timeMs: bigint): KeyChange[] {
  if (rotation === null) return statementKey.length ? [{ key: statementKey, timeMs, retired: false }] : [];
  if (rotation.role !== STATEMENT_ROLE) return [];
  const { oldKey, newKey } = rotation;
  return [{ key: oldKey, timeMs, retired: true }, ...(newKey.length ? [{ key: newKey, timeMs, retired: false }] : [])];
}

/** Verify that each statement was signed by a key that was valid at its leaf's time and may state its kind; return for
 * each entry the validity of that key, and null for an entry whose statement is gone.
 *
 * Any author may state a kind that this version does not know, so the caller must report such an entry as undetermined.
 * *namedIn* reads what a payload names.
 *
 * @throws {UnknownKeyError} no valid key, as far as this version understands the entries that state keys.
 * @throws {SignatureError} no valid key, an author who may not state the kind, clocks too far apart, or a wrong
 * signature.
 */
export function verifyAuthors(
  entries: readonly VerifiedEntry[],
  origin: string,
  keys: ValidKeys,
  namedIn: (event: codec.Event, statement: codec.Statement) => Named = namedBy,
): (KeyValidity | null)[] {
  return entries.map(({ event, statement }) => {
    if (statement === null) return null;
    const skew = event.timeMs - statement.authorTimeMs;
    if (skew > MAX_AUTHOR_SKEW_MS || -skew > MAX_AUTHOR_SKEW_MS) {
      throw new SignatureError("author's clock is more than ten minutes from the ledger's");
    }
    const validity = keys.find(statement.key, event, namedIn(event, statement));
    if (validity === undefined) {
      const unknown = `author's key was not in force for this entry: seq \`${event.seq}\``;
      if (keys.isWhole) throw new SignatureError(unknown);
      throw new UnknownKeyError(`${unknown}, or was put in force by an entry that this version cannot read`);
    }
    ed25519.verify(statement.key, codec.signedMessage(origin, event, statement), statement.signature);
    return validity;
  });
}

/** An entry and its changes; `entry` null: its author was verified before, and only the changes are held. */
interface Change {
  readonly chain: ChainName;
  readonly entry: VerifiedEntry | null;
  readonly timeMs: bigint;
  readonly changes: readonly KeyChange[];
}

/** Verify the entries that make keys valid or retire them, in time order; return the validities that follow.
 *
 * Each entry must be signed by a key that is valid before it, so that no key vouches for itself. Leaf 0 is the only
 * exception: it names the key that signs it.
 *
 * A proof does not show the order between entries of different chains in the same millisecond. So among those, an entry
 * is accepted as soon as its author's key is valid and all earlier entries of its own chain are accepted. If a pass
 * over all chains accepts no entry, the remaining entries have no valid author.
 *
 * @param held changes that the reader holds of the first chain.
 * @param isWhole whether this version understands every entry that states something of a key.
 * @throws {SignatureError} the key of an author was not valid.
 */
export function verifyKeyChanges(
  chains: readonly { readonly chain: ChainName; readonly entries: readonly VerifiedEntry[] }[],
  held: readonly KeyChange[], origin: string, isWhole: boolean,
): ValidKeys {
  const inOrder: Change[] = held.map((change) => {
    return { chain: chains[0]!.chain, entry: null, timeMs: change.timeMs, changes: [change] };
  });
  for (const { chain, entries } of chains) {
    for (const entry of entries) {
      const { kind, timeMs } = entry.event;
      if (entry.statement === null || (kind !== LEDGER && kind !== KEY)) continue;
      inOrder.push({ chain, entry, timeMs, changes: statedKeys(chain, [entry]).changes });
    }
  }
  inOrder.sort((a, b) => (a.timeMs < b.timeMs ? -1 : a.timeMs > b.timeMs ? 1 : 0)); // stable: chains keep their order
  const keys = new ValidKeys();
  keys.isWhole = isWhole;
  for (let at = 0; at < inOrder.length; ) {
    const timeMs = inOrder[at]!.timeMs;
    const queues = new Map<ChainName, Change[]>();
    for (; inOrder[at]?.timeMs === timeMs; at++) {
      const queue = queues.get(inOrder[at]!.chain) ?? [];
      queue.push(inOrder[at]!);
      queues.set(inOrder[at]!.chain, queue);
    }
    acceptAll([...queues.values()], origin, keys);
  }
  return keys;
}

/** Accept the entries of one millisecond, one queue for each chain. */
function acceptAll(queues: readonly Change[][], origin: string, keys: ValidKeys): void {
  let waiting = queues;
  while (waiting.length) {
    let accepted = 0;
    let failure: unknown;
    for (const queue of waiting) {
      try {
        // INVARIANT: an entry is accepted only after all earlier entries of its chain. Otherwise the sender could
        // choose an order in which a key that is retired becomes valid afterwards.
        for (; queue.length; queue.shift(), accepted++) accept(queue[0]!, origin, keys);
      } catch (error) {
        if (!(error instanceof SignatureError)) throw error;
        failure = error;
      }
    }
    waiting = waiting.filter((queue) => queue.length);
    if (waiting.length && !accepted) throw failure;
  }
}

function accept({ chain, entry, changes }: Change, origin: string, keys: ValidKeys): void {
  // Leaf 0 names the key that signs it, so its change is applied before its author is verified.
  if (chain.publicName === LEDGER_CHAIN && entry?.event.seq === 1n) keys.apply(chain, changes);
  if (entry !== null) verifyAuthors([entry], origin, keys);
  keys.apply(chain, changes);
}
