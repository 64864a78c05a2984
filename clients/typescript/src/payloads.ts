/**
 * Decode the payloads on which authorship depends: `KeyStatement` and `LedgerStatement` of `consentd.v1` state keys, a
 * `MandateStatement` names its giver, a `ParticipantStatement` the roles of that giver, and a `NoticeStatement` the
 * participant whose it is; an `AccessStatement` names
 * the parties of an access, and an `OutcomeStatement` who attests it; an `AuthorityStatement` says who may act for a
 * person, and `GrantStatement` … `RevokeStatement` under which authority somebody did.
 *
 * A small table describes each message, so that this package needs no protobuf runtime. A message with a field that is
 * not in the table is not decoded at all, because a field of a later version may change the meaning of the others. If a
 * field is there twice, the last one counts, as everywhere in protobuf. Text must be UTF-8.
 */

import { decodeText } from "./bytes.js";
import { MalformedError } from "./errors.js";
import { AUTHORITY, KEY, READ, SERVED } from "./kinds.js";

/** The type of each field, by its number: a varint of so many bits, a list of varints, bytes, text, texts, or another
 * message. */
interface Fields {
  readonly [number: number]: 32 | 64 | "numbers" | "bytes" | "text" | "texts" | Fields;
}

/** The values of the fields that are present, by field number. */
type Values = Map<number, Value>;
type Value = bigint | bigint[] | Uint8Array | string | string[] | Values;

const AUTHENTICATION: Fields = { 1: "text", 2: "text", 3: "texts", 4: 64 };
const ATTESTATION: Fields = { 1: "text", 2: "text", 3: AUTHENTICATION };
const KEY_STATEMENT: Fields = { 1: "bytes", 2: 64, 3: ATTESTATION, 4: 64 };
const PRUNING: Fields = { 1: 64, 2: 64 };
const ROTATION: Fields = { 1: 32, 2: "bytes", 3: "bytes", 4: 64, 5: "text", 6: "bytes" };
const LEDGER_STATEMENT: Fields = {
  1: "text", 2: "texts", 3: "bytes", 5: "bytes", 6: 32, 7: "bytes", 8: 32, 9: PRUNING, 10: ROTATION,
};
// Of name and attestation nothing depends here, so their fields are not looked at.
const PARTICIPANT_STATEMENT: Fields = {
  1: "text", 2: "bytes", 3: "numbers", 4: "numbers", 5: "texts", 6: "text", 7: 64, 8: "bytes", 9: "text", 10: 32,
};
const PERIOD: Fields = { 1: 64, 2: 64 };
const CODE_SET: Fields = { 1: "texts" };
const ACTOR: Fields = { 1: "text", 2: "text", 3: "text", 4: "text", 5: "text", 6: "texts", 7: 64 };
const QUESTION: Fields = {
  1: { 1: "text", 2: "text" }, 2: ACTOR, 3: "text", 4: "text", 5: "text", 6: "texts", 7: CODE_SET, 8: CODE_SET,
  9: PERIOD, 10: { 1: "text" }, 12: "numbers", 13: "text",
};
const REASON: Fields = { 1: 32, 2: 32, 3: "text", 4: 32, 5: "text" };
const RESIDUAL_FIELDS = { 1: 32, 2: "texts", 3: "texts", 4: "texts", 5: PERIOD, 6: 32, 8: "texts", 9: "text" } as const;
const RESIDUAL: Fields = { ...RESIDUAL_FIELDS, get 7(): Fields { return RESIDUAL; } };
const DECISION: Fields = {
  1: 32, 2: "texts", 3: "texts", 4: "texts", 5: "texts", 6: REASON, 7: "numbers", 8: RESIDUAL, 9: 64,
  10: { 1: 64, 2: "bytes" }, 11: "text", 12: "bytes", 13: 64, 14: 32, 15: 32, 16: 64, 17: "texts", 18: "text",
};
const ASKED: Fields = { 1: "bytes", 2: "text", 3: "bytes", 4: "bytes", 5: 64, 6: "text", 7: "bytes" };
const RECURRENCE_USE: Fields = { 1: 64, 2: "texts", 3: 64 };
const ACCESS_STATEMENT: Fields = { 1: ASKED, 2: DECISION, 3: RECURRENCE_USE };
const OUTCOME_STATEMENT: Fields = { 1: 32, 2: "texts", 3: 32, 4: 64, 5: 64, 6: "text", 7: ATTESTATION };
const PROVISION_FIELDS = {
  1: 32, 2: "texts", 3: "texts", 4: "texts", 5: "texts", 6: "texts", 7: "texts", 8: "texts", 9: PERIOD, 10: PERIOD,
  12: "text",
} as const;
const PROVISION: Fields = { ...PROVISION_FIELDS, get 11(): Fields { return PROVISION; } };
const CONSENT: Fields = {
  1: 32, 2: PROVISION, 3: "text", 4: 64, 5: 32, 6: "text", 7: 32, 9: "text", 10: "text", 11: "text", 12: "texts",
  13: "text",
};
const CHANGE: Fields = { 1: 64, 2: ATTESTATION, 3: 64 };
const AUTHORITY_STATEMENT: Fields = {
  1: "text", 2: "bytes", 3: 32, 4: "numbers", 5: 32, 6: "text", 7: { 1: "text", 2: "bytes" }, 8: 32, 9: 64, 10: 64,
  11: 64, 12: ATTESTATION,
};
const SERVED_STATEMENT: Fields = {
  1: "text", 2: 32, 3: "text", 4: "text", 5: 64, 6: "bytes", 7: ATTESTATION, 8: 64,
};
const READ_STATEMENT: Fields = { 1: "text", 2: 32, 3: 64, 4: 64 };
/** Of the statements that name an authority, by kind: the fields, and the numbers of the attestation (of a reading: of
 * the reader) and of the authority among them. */
const ACT_STATEMENTS: ReadonlyMap<number, readonly [Fields, number, number]> = new Map([
  [8, [{ 1: CONSENT, 2: ATTESTATION, 3: 64, 4: 64 }, 2, 4]],
  [9, [{ 1: CONSENT, 2: 64, 3: 32, 4: ATTESTATION, 5: 64, 6: 64 }, 4, 6]],
  [10, [CHANGE, 2, 3]],
  [11, [CHANGE, 2, 3]],
  [12, [{ 1: 64, 2: "text", 3: ATTESTATION, 4: 64 }, 3, 4]],
  [KEY, [KEY_STATEMENT, 3, 4]],
  [SERVED, [SERVED_STATEMENT, 7, 8]],
  [READ, [READ_STATEMENT, 1, 4]],
]);
const [MINOR, DECEASED] = [1n, 2n];
const AGENT = 2n;
/** The capacities that this version knows are 0 to this one. */
const LAST_CAPACITY = 8n;
const PUBLIC_AUTHORITY = 5n;
const MANDATE_STATEMENT: Fields = { 1: "text", 2: "text", 3: "text", 4: 64, 5: 64, 6: ATTESTATION, 7: "text" };
const GIVER = 7;
const TITLE: Fields = { 1: "text", 2: "text" };
const NOTICE_TEXT: Fields = { 1: "text", 2: { 1: "bytes", 2: "text" } };
const NOTICE_STATEMENT: Fields = {
  1: "text", 2: 32, 3: TITLE, 6: ATTESTATION, 7: NOTICE_TEXT, 8: 32, 9: 64, 10: "text",
};
const PUBLISHER = 10;
/** The number of the field `ended` of an authority. */
const ENDED = 11;
const [ORIGIN_FIELD, ROTATION_FIELD] = [1, 10];

/** Role of the key that signs checkpoints. */
export const LOG_ROLE = 1;
/** Role of the key with which the daemon signs statements. */
export const STATEMENT_ROLE = 2;

const VARINT = 0;
const FIXED64 = 1;
const LENGTH = 2;
const GROUP = 3;
const GROUP_END = 4;
const FIXED32 = 5;
/** The most messages and groups within each other that a reader accepts. */
const MAX_DEPTH = 100;

/** A `KeyStatement`: the key is valid from this entry on or, if retired, no longer. */
export interface KeyStatement {
  readonly key: Uint8Array;
  readonly retired: boolean;
  /** Seq of the AUTHORITY whose representative owns the key; 0: the chain's owner does. */
  readonly authority: bigint;
}

/** What a ledger states to have pruned. */
export interface Pruning {
  /** Every entry of this time or later is kept. */
  readonly keptFromMs: bigint;
  /** Size of the tree at which a new reader starts. */
  readonly startSize: bigint;
}

/** What a ledger states of a key that it replaces. */
export interface Rotation {
  /** `LOG_ROLE` or `STATEMENT_ROLE`. */
  readonly role: number;
  readonly oldKey: Uint8Array;
  readonly newKey: Uint8Array;
  readonly fromSize: bigint;
  readonly reason: string;
  /** By the new key. */
  readonly newSignature: Uint8Array;
}

/** A `LedgerStatement`, as far as it is about keys and retention. */
export interface LedgerStatement {
  readonly origin: string;
  /** C2SP vkeys of the log. */
  readonly verifierKeys: readonly string[];
  /** The key with which the daemon signs statements; empty: this entry makes none valid. */
  readonly statementKey: Uint8Array;
  /** In leaf 0: the last checkpoint of the ledger in whose place this one begins, a signed note; empty: none. */
  readonly predecessor: Uint8Array;
  /** In leaf 0: how old an entry must be before it may be pruned; 0: nothing is ever pruned. */
  readonly retentionDays: number;
  /** null: this entry states no pruning. */
  readonly pruning: Pruning | null;
  /** null: this entry replaces no key. */
  readonly rotation: Rotation | null;
  /** Whether the entry states nothing beside its origin and its rotation. */
  readonly isAlone: boolean;
}

/** An `AuthorityStatement`, as far as it says who may act for a person. */
export interface AuthorityStatement {
  /** Empty: a key is the representative's. */
  readonly participantId: string;
  /** Empty: a participant is the representative. */
  readonly key: Uint8Array;
  /** A power of attorney. */
  readonly isAgent: boolean;
  /** Whether it names one representative, in a capacity that this version knows. */
  readonly isComplete: boolean;
  /** The person is dead, so every earlier power of attorney ends with this entry. */
  readonly endsAgents: boolean;
  readonly acts: ReadonlySet<bigint>;
  readonly isMinor: boolean;
  readonly birthDate: string;
  /** 0: none is stated. */
  readonly startMs: bigint;
  readonly endMs: bigint;
  /** Whether the entry ends the authority of the entry that it refers to. */
  readonly ended: boolean;
}

/** What a statement says of who acts. */
export interface Act {
  /** 0: the person acts. */
  readonly authoritySeq: bigint;
  /** Empty: nobody attests the statement. */
  readonly attestedBy: string;
}

/** Decode a `KeyStatement`; null: this version does not understand all of it. */
export function decodeKeyStatement(payload: Uint8Array): KeyStatement | null {
  const values = read(payload, KEY_STATEMENT);
  if (values === null) return null;
  const [retired, authority] = [numberOf(values.get(2)) !== 0n, numberOf(values.get(4))];
  return { key: bytesOf(values.get(1)), retired, authority };
}

/** Decode a `LedgerStatement`; null: this version does not understand all of it. */
export function decodeLedgerStatement(payload: Uint8Array): LedgerStatement | null {
  const values = read(payload, LEDGER_STATEMENT);
  if (values === null) return null;
  const origin = values.get(1);
  const verifierKeys = values.get(2);
  const pruning = values.get(9);
  const stated = values.get(ROTATION_FIELD);
  const rotation = stated instanceof Map ? readRotation(stated) : null;
  if (rotation && rotation.role !== LOG_ROLE && rotation.role !== STATEMENT_ROLE) return null;
  const beside = [...values].filter(([number]) => number !== ORIGIN_FIELD && number !== ROTATION_FIELD);
  return {
    origin: typeof origin === "string" ? origin : "",
    verifierKeys: Array.isArray(verifierKeys) ? (verifierKeys as string[]) : [],
    statementKey: bytesOf(values.get(3)),
    predecessor: bytesOf(values.get(5)),
    retentionDays: Number(values.get(8) ?? 0n),
    // An empty message is present too. It states that nothing is pruned.
    pruning: pruning instanceof Map ? readPruning(pruning) : null,
    rotation,
    isAlone: beside.every(([, value]) => isDefault(value)),
  };
}

/** Report whether a field that is present has the value of an absent one. An empty message does not. */
function isDefault(value: Value): boolean {
  if (typeof value === "bigint") return value === 0n;
  return !(value instanceof Map) && value.length === 0;
}

function readRotation(values: Values): Rotation {
  const [role, fromSize] = [values.get(1), values.get(4)].map((value) => (typeof value === "bigint" ? value : 0n));
  const reason = values.get(5);
  return {
    role: Number(role), oldKey: bytesOf(values.get(2)), newKey: bytesOf(values.get(3)), fromSize: fromSize!,
    reason: typeof reason === "string" ? reason : "", newSignature: bytesOf(values.get(6)),
  };
}

/** Return the giver that a `MandateStatement` names; empty: it names none, or this is no such message.
 *
 * It is read from a message of a later version too: whoever signed it is whom it names.
 */
export function readGiver(payload: Uint8Array): string {
  return textOf(read(payload, MANDATE_STATEMENT, true)?.get(GIVER));
}

/** Return the participant whose notice a `NoticeStatement` states; empty: the realm's, or this is no such message.
 *
 * It is read from a message of a later version too.
 */
export function readPublisher(payload: Uint8Array): string {
  return textOf(read(payload, NOTICE_STATEMENT, true)?.get(PUBLISHER));
}

/** Report whether a `ParticipantStatement` describes an active public authority, which may give mandates; null: this
 * version does not understand all of it.
 */
export function mayGiveMandates(payload: Uint8Array): boolean | null {
  const values = read(payload, PARTICIPANT_STATEMENT);
  if (values === null) return null;
  const roles = values.get(3);
  const isAuthority = Array.isArray(roles) && roles.some((role) => role === PUBLIC_AUTHORITY);
  return isAuthority && (values.get(7) ?? 0n) !== 0n;
}

/** Return the participants that an `AccessStatement` names as parties of the access: who asked, the holder, and all
 * that the actor names; null: this version does not understand all of it.
 */
export function readParties(payload: Uint8Array): ReadonlySet<string> | null {
  const access = read(payload, ACCESS_STATEMENT);
  const asked = mapOf(access?.get(1));
  const question = read(bytesOf(asked.get(1)), QUESTION);
  if (access === null || question === null) return null;
  const actor = mapOf(question.get(2));
  const named = [asked.get(2), question.get(3), actor.get(1), actor.get(4), actor.get(5), ...textsOf(actor.get(6))];
  return new Set(named.filter((one): one is string => typeof one === "string" && one !== ""));
}

/** Return who attests an `OutcomeStatement`; empty: nobody; null: this version does not understand all of it. */
export function readReporter(payload: Uint8Array): string | null {
  const outcome = read(payload, OUTCOME_STATEMENT);
  const name = mapOf(outcome?.get(7)).get(1);
  return outcome && (typeof name === "string" ? name : "");
}

/** Decode an `AuthorityStatement`; null: this version does not understand all of it. */
export function readAuthority(payload: Uint8Array): AuthorityStatement | null {
  const values = read(payload, AUTHORITY_STATEMENT);
  if (values === null) return null;
  const acts = values.get(4);
  const [startMs, endMs] = [9, 10].map((number) => BigInt.asIntN(64, numberOf(values.get(number))));
  const [participantId, key, capacity] = [textOf(values.get(1)), bytesOf(values.get(2)), numberOf(values.get(3))];
  const ended = numberOf(values.get(11)) !== 0n;
  return {
    participantId, key, isAgent: capacity === AGENT,
    isComplete: (participantId !== "") !== (key.length > 0) && capacity <= LAST_CAPACITY,
    endsAgents: !ended && numberOf(values.get(5)) === DECEASED,
    acts: new Set(Array.isArray(acts) ? (acts as bigint[]) : []),
    isMinor: numberOf(values.get(5)) === MINOR, birthDate: textOf(values.get(6)), startMs: startMs!, endMs: endMs!,
    ended,
  };
}

/** Return the seq of the authority that an entry of this kind and ref names; 0: none, or the payload does not decode.
 *
 * It is read from a message of a later version too: whoever signed it is whom it names.
 */
export function readAuthoritySeq(kind: number, ref: bigint, payload: Uint8Array): bigint {
  const [fields, , number] = kind === AUTHORITY ? [AUTHORITY_STATEMENT, 0, ENDED] : (ACT_STATEMENTS.get(kind) ?? []);
  if (fields === undefined || kind === READ) return 0n;
  const found = numberOf(read(payload, fields, true)?.get(number!));
  return kind !== AUTHORITY ? found : found ? ref : 0n;
}

/** Return who acts by an entry that may name an authority; null: it is of another kind, or this version does not
 * understand all of it. */
export function readAct(kind: number, payload: Uint8Array): Act | null {
  const [fields, attestation, authority] = ACT_STATEMENTS.get(kind) ?? [];
  const values = fields === undefined ? null : read(payload, fields);
  if (values === null) return null;
  const by = values.get(attestation!);
  const attestedBy = kind === READ ? textOf(by) : textOf(mapOf(by).get(1));
  return { authoritySeq: numberOf(values.get(authority!)), attestedBy };
}

function numberOf(value: Value | undefined): bigint {
  return typeof value === "bigint" ? value : 0n;
}

function textOf(value: Value | undefined): string {
  return typeof value === "string" ? value : "";
}

function mapOf(value: Value | undefined): Values {
  return value instanceof Map ? value : new Map<number, Value>();
}

function textsOf(value: Value | undefined): readonly string[] {
  return Array.isArray(value) ? (value as string[]) : [];
}

function readPruning(values: Values): Pruning {
  const [keptFrom, startSize] = [values.get(1), values.get(2)].map((value) => (typeof value === "bigint" ? value : 0n));
  return { keptFromMs: BigInt.asIntN(64, keptFrom!), startSize: startSize! };
}

function bytesOf(value: Value | undefined): Uint8Array {
  return value instanceof Uint8Array ? value : new Uint8Array();
}

/** Read a payload; null: it does not decode or, unless *isLenient*, has a field that is not in the table. */
function read(payload: Uint8Array, fields: Fields, isLenient = false): Values | null {
  try {
    return new Reader(payload, isLenient).message(fields);
  } catch (error) {
    if (error instanceof MalformedError) return null;
    throw error;
  }
}

class Reader {
  #at = 0;

  /** *isLenient*: skip what is not in the table, as a reader of a protobuf runtime does. */
  constructor(readonly bytes: Uint8Array, readonly isLenient = false, readonly depth = 0) {
    if (depth > MAX_DEPTH) throw new MalformedError("payload has too many messages within each other");
  }

  /** Read fields until the end, and add them to *values*, the fields of the same message read earlier. */
  message(fields: Fields, values: Values = new Map()): Values {
    while (this.#at < this.bytes.length) {
      const tag = this.#tag();
      const number = Number(tag >> 3n);
      const field = fields[number];
      const isOneOfNumbers = field === "numbers" && tag === BigInt(number * 8 + VARINT);
      const wireType = typeof field === "number" || isOneOfNumbers ? VARINT : LENGTH;
      if (field === undefined || tag !== BigInt(number * 8 + wireType)) {
        if (!this.isLenient) throw new MalformedError("payload has a field that is not known");
        this.#skip(number, Number(tag & 7n));
        continue;
      }
      if (field === "numbers") {
        const before = values.get(number);
        const found = isOneOfNumbers ? [this.#varint(10)] : new Reader(this.#take(Number(this.#varint(5)))).numbers();
        const enums = found.map((one) => BigInt.asUintN(32, one));
        values.set(number, [...(Array.isArray(before) ? (before as bigint[]) : []), ...enums]);
        continue;
      }
      if (typeof field === "number") {
        values.set(number, BigInt.asUintN(field, this.#varint(10)));
        continue;
      }
      const content = this.#take(Number(this.#varint(5)));
      if (field === "bytes") values.set(number, content.slice());
      else if (field === "text") values.set(number, decodeText(content, "payload"));
      else if (field === "texts") {
        const before = values.get(number);
        values.set(number, [...(Array.isArray(before) ? (before as string[]) : []), decodeText(content, "payload")]);
      } else {
        const before = values.get(number);
        const reader = new Reader(content, this.isLenient, this.depth + 1);
        values.set(number, reader.message(field, before instanceof Map ? before : new Map()));
      }
    }
    return values;
  }

  /** Read numbers until the end. */
  numbers(): bigint[] {
    const found: bigint[] = [];
    while (this.#at < this.bytes.length) found.push(this.#varint(10));
    return found;
  }

  /** Skip a field that is not known. A group ends with its own number. */
  #skip(number: number, wireType: number, depth = this.depth): void {
    if (wireType === VARINT) this.#varint(10);
    else if (wireType === FIXED64) this.#take(8);
    else if (wireType === LENGTH) this.#take(Number(this.#varint(5)));
    else if (wireType === FIXED32) this.#take(4);
    else if (wireType !== GROUP || depth >= MAX_DEPTH) {
      throw new MalformedError("payload has a field of a type that is not known");
    } else {
      for (;;) {
        const tag = this.#tag();
        const [inner, type] = [Number(tag >> 3n), Number(tag & 7n)];
        if (type === GROUP_END && inner === number) return;
        this.#skip(inner, type, depth + 1);
      }
    }
  }

  #tag(): bigint {
    const tag = this.#varint(5);
    if (tag >> 3n === 0n || tag >> 32n) throw new MalformedError("payload has a field without a number");
    return tag;
  }

  #varint(most: number): bigint {
    let value = 0n;
    for (let i = 0; i < most; i++) {
      const byte = this.#take(1)[0]!;
      value |= BigInt(byte & 0x7f) << BigInt(7 * i);
      if (byte < 0x80) return value;
    }
    throw new MalformedError("payload has a number without end");
  }

  #take(length: number): Uint8Array {
    if (length > this.bytes.length - this.#at) throw new MalformedError("payload ends within a field");
    this.#at += length;
    return this.bytes.subarray(this.#at - length, this.#at);
  }
}
