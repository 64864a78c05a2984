/**
 * Read a history file: a history proof as JSON, the pieces of `LedgerService.GetHistory` put together.
 *
 *     {"format": "consentd/history/v1",
 *      "checkpoint": B64, "consistency": [B64 …], "seal": B64, "seal_inclusion": [B64 …],
 *      "chains": [{"tag": B64, "public_name": TEXT, "count": N, "head": B64, "map_proof": B64, "first_seq": N,
 *                  "entries": [{"leaf": B64, "opening": {"salt": B64, "statement": B64} | null} …]} …]}
 *
 * B64 is canonical base64, N an integer from 0 to 2^53 - 1. Every name must be there, and no other: what a later version
 * adds has another format.
 */

import { decodeBase64, decodeText } from "./bytes.js";
import { MalformedError } from "./errors.js";
import type { ChainProof, HistoryEntry, HistoryProof } from "./history.js";

/** What a history file says that it is. */
export const HISTORY_FORMAT = "consentd/history/v1";
/** Most bytes of one. */
export const MAX_HISTORY_SIZE = 384 * 2 ** 20;

/** Parse a history file. Nothing is verified yet.
 *
 * @throws {MalformedError} it is not one.
 */
export function parseHistory(document: Uint8Array | string): HistoryProof {
  if (document.length > MAX_HISTORY_SIZE) throw new MalformedError(`history file is larger than ${MAX_HISTORY_SIZE}`);
  const text = typeof document === "string" ? document : decodeText(document, "history file");
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw new MalformedError("history file is not JSON");
  }
  const file = new Fields(content, ["format", "checkpoint", "consistency", "seal", "seal_inclusion", "chains"]);
  if (file.value("format") !== HISTORY_FORMAT) {
    throw new MalformedError(`history file does not say that it is one: its \`format\` is not \`${HISTORY_FORMAT}\``);
  }
  return {
    checkpoint: file.bytes("checkpoint"),
    consistency: file.list("consistency").map(bytesOf),
    seal: file.bytes("seal"),
    sealInclusion: file.list("seal_inclusion").map(bytesOf),
    chains: file.list("chains").map(chainOf),
  };
}

function chainOf(content: unknown): ChainProof {
  const chain = new Fields(content, ["tag", "public_name", "count", "head", "map_proof", "first_seq", "entries"]);
  return {
    tag: chain.bytes("tag"),
    publicName: chain.text("public_name"),
    count: chain.integer("count"),
    head: chain.bytes("head"),
    mapProof: chain.bytes("map_proof"),
    firstSeq: chain.integer("first_seq"),
    entries: chain.list("entries").map(entryOf),
  };
}

function entryOf(content: unknown): HistoryEntry {
  const entry = new Fields(content, ["leaf", "opening"]);
  const leaf = entry.bytes("leaf");
  const opening = entry.value("opening");
  if (opening === null) return { leaf, opening };
  const fields = new Fields(opening, ["salt", "statement"]);
  return { leaf, opening: { salt: fields.bytes("salt"), statement: fields.bytes("statement") } };
}

function bytesOf(value: unknown): Uint8Array {
  if (typeof value !== "string") throw new MalformedError("history file has something else where base64 should be");
  return decodeBase64(value);
}

/** A JSON object, read name by name. */
class Fields {
  readonly #content: Readonly<Record<string, unknown>>;

  /** @throws {MalformedError} it is no object, or has not exactly these names. */
  constructor(content: unknown, names: readonly string[]) {
    if (typeof content !== "object" || content === null || Array.isArray(content)) {
      throw new MalformedError("history file has something else where an object should be");
    }
    const missing = names.find((name) => !Object.hasOwn(content, name));
    if (missing !== undefined) throw new MalformedError(`history file lacks \`${missing}\``);
    if (Object.keys(content).length > names.length) throw new MalformedError("history file has a name that none should");
    this.#content = content as Record<string, unknown>;
  }

  value(name: string): unknown {
    return this.#content[name];
  }

  bytes(name: string): Uint8Array {
    return bytesOf(this.value(name));
  }

  text(name: string): string {
    const value = this.value(name);
    if (typeof value !== "string") throw new MalformedError(`history file has no text in \`${name}\``);
    return value;
  }

  integer(name: string): bigint {
    const value = this.value(name);
    if (!Number.isSafeInteger(value) || (value as number) < 0) {
      throw new MalformedError(`history file has no integer from 0 to 2^53 - 1 in \`${name}\``);
    }
    return BigInt(value as number);
  }

  list(name: string): unknown[] {
    const value = this.value(name);
    if (!Array.isArray(value)) throw new MalformedError(`history file has no list in \`${name}\``);
    return value;
  }
}
