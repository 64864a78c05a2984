/**
 * Decode the two payloads that state keys: `KeyStatement` and `LedgerStatement` of `consentd.v1`.
 *
 * A small table describes each message, so that this package needs no protobuf runtime. A message with a field that is
 * not in the table is not decoded at all, because a field of a later version may change the meaning of the others. If a
 * field is there twice, the last one counts, as everywhere in protobuf. Text must be UTF-8.
 */

import { decodeText } from "./bytes.js";
import { MalformedError } from "./errors.js";

/** The type of each field, by its number: a varint of so many bits, bytes, text, texts, or another message. */
interface Fields {
  readonly [number: number]: 32 | 64 | "bytes" | "text" | "texts" | Fields;
}

/** The values of the fields that are present, by field number. */
type Values = Map<number, Value>;
type Value = bigint | Uint8Array | string | string[] | Values;

const ATTESTATION: Fields = { 1: "text", 2: "text" };
const KEY_STATEMENT: Fields = { 1: "bytes", 2: 64, 3: ATTESTATION };
const PRUNING: Fields = { 1: 64, 2: 64 };
const LEDGER_STATEMENT: Fields = {
  1: "text", 2: "texts", 3: "bytes", 4: "text", 5: "bytes", 6: 32, 7: "bytes", 8: 32, 9: PRUNING,
};

const VARINT = 0;
const LENGTH = 2;

/** A `KeyStatement`: the key is valid from this entry on or, if retired, no longer. */
export interface KeyStatement {
  readonly key: Uint8Array;
  readonly retired: boolean;
}

/** What a ledger states to have pruned. */
export interface Pruning {
  /** Every entry of this time or later is kept. */
  readonly keptFromMs: bigint;
  /** Size of the tree at which a new reader starts. */
  readonly startSize: bigint;
}

/** A `LedgerStatement`, as far as it is about keys and retention. */
export interface LedgerStatement {
  readonly origin: string;
  /** C2SP vkeys of the log. */
  readonly verifierKeys: readonly string[];
  /** The key with which the daemon signs statements; empty: this entry makes none valid. */
  readonly statementKey: Uint8Array;
  /** In leaf 0: how old an entry must be before it may be pruned; 0: nothing is ever pruned. */
  readonly retentionDays: number;
  /** null: this entry states no pruning. */
  readonly pruning: Pruning | null;
}

/** Decode a `KeyStatement`; null: this version does not understand all of it. */
export function decodeKeyStatement(payload: Uint8Array): KeyStatement | null {
  const values = read(payload, KEY_STATEMENT);
  return values && { key: bytesOf(values.get(1)), retired: (values.get(2) ?? 0n) !== 0n };
}

/** Decode a `LedgerStatement`; null: this version does not understand all of it. */
export function decodeLedgerStatement(payload: Uint8Array): LedgerStatement | null {
  const values = read(payload, LEDGER_STATEMENT);
  if (values === null) return null;
  const origin = values.get(1);
  const verifierKeys = values.get(2);
  const pruning = values.get(9);
  return {
    origin: typeof origin === "string" ? origin : "",
    verifierKeys: Array.isArray(verifierKeys) ? verifierKeys : [],
    statementKey: bytesOf(values.get(3)),
    retentionDays: Number(values.get(8) ?? 0n),
    // An empty message is present too. It states that nothing is pruned.
    pruning: pruning instanceof Map ? readPruning(pruning) : null,
  };
}

function readPruning(values: Values): Pruning {
  const [keptFrom, startSize] = [values.get(1), values.get(2)].map((value) => (typeof value === "bigint" ? value : 0n));
  return { keptFromMs: BigInt.asIntN(64, keptFrom!), startSize: startSize! };
}

function bytesOf(value: Value | undefined): Uint8Array {
  return value instanceof Uint8Array ? value : new Uint8Array();
}

function read(payload: Uint8Array, fields: Fields): Values | null {
  try {
    return new Reader(payload).message(fields);
  } catch (error) {
    if (error instanceof MalformedError) return null;
    throw error;
  }
}

class Reader {
  #at = 0;

  constructor(readonly bytes: Uint8Array) {}

  /** Read fields until the end, and add them to *values*, the fields of the same message read earlier. */
  message(fields: Fields, values: Values = new Map()): Values {
    while (this.#at < this.bytes.length) {
      const tag = this.#varint(5);
      const number = Number(tag >> 3n);
      const field = fields[number];
      if (field === undefined || tag !== BigInt(number * 8 + (typeof field === "number" ? VARINT : LENGTH))) {
        throw new MalformedError("payload has a field that is not known");
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
        values.set(number, [...(Array.isArray(before) ? before : []), decodeText(content, "payload")]);
      } else {
        const before = values.get(number);
        values.set(number, new Reader(content).message(field, before instanceof Map ? before : new Map()));
      }
    }
    return values;
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
