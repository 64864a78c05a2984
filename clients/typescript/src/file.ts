/**
 * Read a history file: a history proof as JSON, the pieces of `LedgerService.GetHistory` put together.
 *
 *     {"checkpoint": B64, "consistency": [B64 …], "seal": B64, "seal_inclusion": [B64 …],
 *      "chains": [{"tag": B64, "public_name": TEXT, "count": N, "head": B64, "map_proof": B64, "first_seq": N,
 *                  "entries": [{"index": N, "leaf": B64, "opening": {"salt": B64, "statement": B64} | null} …]} …]}
 *
 * B64 is canonical base64, N an integer from 0 to 2^53 - 1. Every name must be there; names beside these are passed
 * over. `index` is the ledger's word about where the leaf is; a history proves nothing of it, so it is only looked at.
 */

import { decodeBase64, decodeText } from "./bytes.js";
import { MalformedError } from "./errors.js";
import type { ChainProof, HistoryEntry, HistoryProof } from "./history.js";

/** Parse a history file. Nothing is verified yet.
 *
 * @throws {MalformedError} it is not one.
 */
export function parseHistory(document: Uint8Array | string): HistoryProof {
  const text = typeof document === "string" ? document : decodeText(document, "history file");
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw new MalformedError("history file is not JSON");
  }
  const file = new Fields(content);
  return {
    checkpoint: file.bytes("checkpoint"),
    consistency: file.list("consistency").map(bytesOf),
    seal: file.bytes("seal"),
    sealInclusion: file.list("seal_inclusion").map(bytesOf),
    chains: file.list("chains").map(chainOf),
  };
}

function chainOf(content: unknown): ChainProof {
  const chain = new Fields(content);
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
  const entry = new Fields(content);
  entry.integer("index");
  const leaf = entry.bytes("leaf");
  const opening = entry.value("opening");
  if (opening === null) return { leaf, opening };
  const fields = new Fields(opening);
  return { leaf, opening: { salt: fields.bytes("salt"), statement: fields.bytes("statement") } };
}

function bytesOf(value: unknown): Uint8Array {
  if (typeof value !== "string") throw new MalformedError("history file has something else where base64 should be");
  return decodeBase64(value);
}

/** A JSON object, read name by name. */
class Fields {
  readonly #content: Readonly<Record<string, unknown>>;

  constructor(content: unknown) {
    if (typeof content !== "object" || content === null || Array.isArray(content)) {
      throw new MalformedError("history file has something else where an object should be");
    }
    this.#content = content as Record<string, unknown>;
  }

  value(name: string): unknown {
    if (!Object.hasOwn(this.#content, name)) throw new MalformedError(`history file lacks \`${name}\``);
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
