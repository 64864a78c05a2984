/**
 * Know which key was in force for whom, and when, from what the entries of a chain say of keys.
 *
 * Source: ledger-format.md, "Keys in force".
 */

import { encodeHex } from "./bytes.js";
import type * as codec from "./codec.js";
import type { ChainProof, VerifiedEntry } from "./history.js";
import { ANYBODY, KEY, KINDS, LEDGER, type Owner } from "./kinds.js";
import { decodeKeyStatement, decodeLedgerStatement, type LedgerStatement } from "./wire.js";

/** Name of the chain that names the ledger's own keys. */
export const LEDGER_NAME = "ledger";
/** How the names of participants' chains begin. */
export const PARTICIPANT = "participant/";

/** A key that an entry put in force, or, retired, out of it. */
export interface HeldKey {
  readonly key: Uint8Array;
  readonly timeMs: bigint;
  readonly retired: boolean;
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
    const found = this.#terms.get(encodeHex(key))?.filter(
      ({ owner, name, fromMs, untilMs }) =>
        authors.has(owner) &&
        fromMs <= event.timeMs &&
        (untilMs === null || event.timeMs <= untilMs) &&
        // A person's own key is good for that person's chain only.
        (owner !== "subject" || name === encodeHex(event.tag)),
    );
    // Of several whose key it is the same one is named, in whatever order their chains were sent.
    return found?.reduce((one, other) => (rank(other) < rank(one) ? other : one), found[0]!);
  }

  #add(key: string, { owner, name }: Pick<KeyTerm, "owner" | "name">, timeMs: bigint, retired: boolean): void {
    const known = this.#terms.get(key) ?? [];
    const at = known.findIndex((term) => term.owner === owner && term.name === name && term.untilMs === null);
    if (at >= 0 && retired) known[at] = { ...known[at]!, untilMs: timeMs };
    if (at < 0 && !retired) known.push({ owner, name, fromMs: timeMs, untilMs: null });
    this.#terms.set(key, known);
  }
}

function rank({ owner, name }: KeyTerm): string {
  return `${["ledger", "participant", "subject"].indexOf(owner)}${name}`;
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
        if (said.statementKey.length) keys.push({ key: said.statementKey, timeMs, retired: false });
      }
    } else if (kind === KEY) {
      const said = decodeKeyStatement(statement.payload);
      if (said === null) unread.push(event);
      // The daemon's keys come into force by LEDGER entries alone; a KEY in their chain may retire one.
      else if (said.retired || publicName !== LEDGER_NAME) keys.push({ ...said, timeMs });
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
