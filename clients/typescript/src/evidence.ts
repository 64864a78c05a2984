/**
 * Parse evidence: one file that holds ledger entries and everything that proves them. Nothing is verified here.
 *
 * The format is that of evidence-format.md; `verify.ts` verifies what this module returns.
 */

import { decodeBase64, decodeText } from "./bytes.js";
import { HASH_SIZE, publicTag } from "./codec.js";
import { MalformedError } from "./errors.js";
import type { ChainProof, HistoryEntry, HistoryProof, RotationProof } from "./history.js";
import { type JsonValue, parseJson } from "./json.js";
import { PARTICIPANT_PREFIX } from "./key_validity.js";

/** The `format` of a file. */
export const EVIDENCE_FORMAT = "consentd/evidence/v2";
/** Most bytes of a file. */
export const MAX_EVIDENCE_SIZE = 384 * 2 ** 20;

const MAX_NESTING = 8;
const BYTES_PER_MARK = 24;
const FREE_MARKS = 1000;
const MAX_HASHES = 64;
const FILE =
  "format scope checkpoint consistency seal seal_inclusion histories entries rotations keys policy".split(" ");
const ROTATION = "checkpoint seal seal_inclusion history consistency".split(" ");

/** What a file claims to contain: a range of indexes (both ends included), a chain, or what concerns a participant. */
export type Scope =
  | { readonly range: readonly [first: bigint, last: bigint] }
  | { readonly tag: Uint8Array }
  | { readonly participant: string };

/** A leaf with its claimed index and inclusion proof, outside of any history. */
export interface SingleEntry extends HistoryEntry {
  readonly index: bigint;
  readonly inclusion: readonly Uint8Array[];
}

/** A file as it was parsed: all of it is claims. */
export interface Evidence {
  readonly scope: Scope;
  /** Checkpoint, seal, histories and rotations. */
  readonly proof: HistoryProof;
  /** Single entries. */
  readonly entries: readonly SingleEntry[];
  /** vkeys of the log, as the maker of the file claims. Never verify with them: pin your own. */
  readonly keys: readonly string[];
  /** A witness policy, as the maker of the file claims. Never verify with it. */
  readonly policy: string;
}

/** Return the tag of the chain that a scope names; null for a range. */
export function scopeTag(scope: Scope): Uint8Array | null {
  if ("participant" in scope) return publicTag(`${PARTICIPANT_PREFIX}${scope.participant}`);
  return "tag" in scope ? scope.tag : null;
}

/** Parse the bytes of a file.
 *
 * @throws {MalformedError} it breaks a rule of evidence-format.md, "Strictness".
 */
export function parseEvidence(content: Uint8Array): Evidence {
  if (content.length > MAX_EVIDENCE_SIZE) throw new MalformedError("evidence is larger than 384 MiB");
  const maxMarks = FREE_MARKS + Math.floor(content.length / BYTES_PER_MARK);
  const file = new Fields(parseJson(decodeText(content, "evidence"), MAX_NESTING, maxMarks), FILE);
  if (file.text("format") !== EVIDENCE_FORMAT) {
    throw new MalformedError(`evidence is of another format: its \`format\` is not \`${EVIDENCE_FORMAT}\``);
  }
  return {
    scope: parseScope(file.value("scope")),
    proof: {
      checkpoint: file.bytes("checkpoint"), consistency: file.hashes("consistency"), seal: file.bytes("seal"),
      sealInclusion: file.hashes("seal_inclusion"), chains: file.list("histories").map(parseHistory),
      rotations: file.list("rotations").map(parseRotation),
    },
    entries: file.list("entries").map(parseSingle),
    keys: file.list("keys").map(textOf),
    policy: file.text("policy"),
  };
}

function parseScope(value: JsonValue): Scope {
  const has = (name: string): boolean => value instanceof Map && value.has(name);
  if (has("tag")) {
    const tag = new Fields(value, ["tag"]).bytes("tag");
    if (tag.length !== HASH_SIZE) throw new MalformedError("evidence has a scope whose tag is not 32 bytes long");
    return { tag };
  }
  if (has("participant")) {
    const participant = new Fields(value, ["participant"]).text("participant");
    if (!participant) throw new MalformedError("evidence has a scope of a participant without a name");
    return { participant };
  }
  const fields = new Fields(value, ["first", "last"]);
  const [first, last] = [fields.integer("first"), fields.integer("last")];
  if (last < first) throw new MalformedError("evidence has a scope whose last index is before its first");
  return { range: [first, last] };
}

function parseHistory(value: JsonValue): ChainProof {
  const history = new Fields(value, ["tag", "public_name", "count", "head", "map_proof", "first_seq", "entries"]);
  return {
    tag: history.bytes("tag"), publicName: history.text("public_name"), count: history.integer("count"),
    head: history.bytes("head"), mapProof: history.bytes("map_proof"), firstSeq: history.integer("first_seq"),
    entries: history.list("entries").map((entry) => parseEntry(new Fields(entry, ["leaf", "opening"]))),
  };
}

function parseRotation(value: JsonValue): RotationProof {
  const rotation = new Fields(value, ROTATION);
  return {
    checkpoint: rotation.bytes("checkpoint"), seal: rotation.bytes("seal"),
    sealInclusion: rotation.hashes("seal_inclusion"), history: parseHistory(rotation.value("history")),
    consistency: rotation.hashes("consistency"),
  };
}

function parseSingle(value: JsonValue): SingleEntry {
  const fields = new Fields(value, ["index", "leaf", "opening", "inclusion"]);
  return { index: fields.integer("index"), ...parseEntry(fields), inclusion: fields.hashes("inclusion") };
}

function parseEntry(fields: Fields): HistoryEntry {
  const leaf = fields.bytes("leaf");
  if (fields.value("opening") === null) return { leaf, opening: null };
  const opening = new Fields(fields.value("opening"), ["salt", "statement"]);
  return { leaf, opening: { salt: opening.bytes("salt"), statement: opening.bytes("statement") } };
}

function textOf(value: JsonValue): string {
  if (typeof value !== "string") throw new MalformedError("evidence lacks text where it is needed");
  return value;
}

/** The values of a JSON object that has exactly the names of the format. */
class Fields {
  readonly #content: ReadonlyMap<string, JsonValue>;

  /** @throws {MalformedError} the value is no object of exactly these names. */
  constructor(value: JsonValue, names: readonly string[]) {
    if (!(value instanceof Map) || value.size !== names.length || !names.every((name) => value.has(name))) {
      throw new MalformedError(`evidence lacks an object of exactly these names: \`${names.join(" ")}\``);
    }
    this.#content = value;
  }

  value(name: string): JsonValue {
    return this.#content.get(name)!;
  }

  text(name: string): string {
    return textOf(this.value(name));
  }

  bytes(name: string): Uint8Array {
    return decodeBase64(this.text(name));
  }

  list(name: string): readonly JsonValue[] {
    const value = this.value(name);
    if (!Array.isArray(value)) throw new MalformedError(`evidence lacks a list in \`${name}\``);
    return value;
  }

  hashes(name: string): Uint8Array[] {
    const hashes = this.list(name);
    if (hashes.length > MAX_HASHES) throw new MalformedError(`evidence has too many hashes in \`${name}\``);
    return hashes.map((hash) => decodeBase64(textOf(hash)));
  }

  integer(name: string): bigint {
    const value = this.value(name);
    if (typeof value !== "number") throw new MalformedError(`evidence lacks an integer in \`${name}\``);
    return BigInt(value);
  }
}
