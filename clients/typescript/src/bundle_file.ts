/**
 * Read an audit bundle, the zip file of `consentd audit bundle`. All claims; nothing is verified.
 *
 *     checkpoint       the signed note that everything in it is proven against
 *     scope.json       {"format": 1, "origin": TEXT, "size": N, …} and one of "first": N, "last": N / "tag": HEX /
 *                      "participant": TEXT
 *     seal.json        {"leaf": HEX, "inclusion": [HEX …]}
 *     chains.jsonl     chains, each {"tag": HEX, "public_name": TEXT, "count": N, "head": HEX, "map_proof": HEX,
 *                      "entries": N}, and so many lines {"index": N, "leaf": HEX, "opening": HEX | null}
 *     entries.jsonl    single entries, {"index": N, "leaf": HEX, "opening": HEX | null, "inclusion": [HEX …]}
 *     README.txt, policy    words of whoever made it, which may be missing; nothing is read in them
 *
 * A chain of fewer entries than its count has its last ones: those before were pruned. Single entries stand in the order
 * of their indexes. HEX is lower-case, N an integer from 0 to 2^53 - 1, an opening salt[32] ‖ statement. Every line ends
 * in a newline.
 * Every name must be there, once, and no other.
 */

import { decodeHex, decodeText, encodeText } from "./bytes.js";
import { HASH_SIZE } from "./codec.js";
import { MalformedError } from "./errors.js";
import type { ChainProof, HistoryEntry, Opening } from "./history.js";
import { unzip } from "./zip.js";

const FORMAT = 1;
const MAX_PROOF_LENGTH = 63;
const NEEDED = ["checkpoint", "scope.json", "seal.json", "chains.jsonl", "entries.jsonl"] as const;
const WORDS: ReadonlySet<string> = new Set(["README.txt", "policy"]);
const NAMES: ReadonlySet<string> = new Set([...NEEDED, ...WORDS]);

/** What a bundle says it is made of: one of a range of indexes, both ends included, a chain, a participant. */
export interface BundleScope {
  readonly range: readonly [bigint, bigint] | null;
  readonly tag: Uint8Array | null;
  readonly participant: string | null;
}

/** A single entry: a leaf, where it is said to stand, and what it commits to, where that is at hand. */
export interface SingleEntry extends HistoryEntry {
  readonly index: bigint;
  readonly inclusion: readonly Uint8Array[];
}

/** A bundle as it was sent: all claims, nothing verified. */
export interface BundleFile {
  /** The signed note, verbatim. */
  readonly checkpoint: Uint8Array;
  readonly scope: BundleScope;
  /** What it says of its ledger, beside the checkpoint. */
  readonly origin: string;
  readonly size: bigint;
  readonly seal: Uint8Array;
  readonly sealInclusion: readonly Uint8Array[];
  readonly chains: readonly ChainProof[];
  readonly entries: readonly SingleEntry[];
}

/** Parse a bundle.
 *
 * @throws {MalformedError} it is not one.
 */
export function parseBundle(content: Uint8Array): BundleFile {
  const parts = unzip(content, NAMES, WORDS);
  const missing = NEEDED.find((name) => !parts.has(name));
  if (missing !== undefined) throw new MalformedError(`bundle lacks a file: \`${missing}\``);
  const lines = (name: (typeof NEEDED)[number]): unknown[] => parseLines(parts.get(name)!);
  const only = (name: "scope.json" | "seal.json"): unknown => {
    const [line, ...more] = lines(name);
    if (more.length) throw new MalformedError(`bundle has a file of more than one line: \`${name}\``);
    return line;
  };
  const seal = new Fields(only("seal.json"), ["leaf", "inclusion"]);
  return {
    checkpoint: parts.get("checkpoint")!,
    ...parseScope(only("scope.json")),
    seal: seal.bytes("leaf"),
    sealInclusion: seal.hashes("inclusion"),
    chains: parseChains(lines("chains.jsonl")),
    entries: parseEntries(lines("entries.jsonl")),
  };
}

function parseScope(line: unknown): Pick<BundleFile, "scope" | "origin" | "size"> {
  const common = ["format", "origin", "size"];
  const names = Object.keys(line ?? {}).includes("first") ? ["first", "last"] : null;
  const other = Object.keys(line ?? {}).includes("tag") ? ["tag"] : ["participant"];
  const fields = new Fields(line, [...common, ...(names ?? other)]);
  if (fields.value("format") !== FORMAT) throw new MalformedError("bundle is of another version");
  const has = (name: string): boolean => fields.names.includes(name);
  const scope = {
    range: has("first") ? ([fields.integer("first"), fields.integer("last")] as const) : null,
    tag: has("tag") ? fields.bytes("tag") : null,
    participant: has("participant") ? fields.text("participant") : null,
  };
  if (scope.range && scope.range[0] > scope.range[1]) throw new MalformedError("bundle has a range that is none");
  if (scope.participant !== null) encodeText(scope.participant); // half a surrogate pair is no text
  return { scope, origin: fields.text("origin"), size: fields.integer("size") };
}

function parseChains(lines: readonly unknown[]): ChainProof[] {
  const chains: ChainProof[] = [];
  for (let at = 0; at < lines.length; ) {
    const header = new Fields(lines[at], ["tag", "public_name", "count", "head", "map_proof", "entries"]);
    const count = Number(header.integer("entries"));
    if (count > lines.length - at - 1) throw new MalformedError("bundle has a chain that ends early");
    const entries = lines.slice(at + 1, at + 1 + count).map((line) => {
      const fields = new Fields(line, ["index", "leaf", "opening"]);
      fields.integer("index");
      return readEntry(fields);
    });
    chains.push({
      tag: header.bytes("tag"),
      publicName: header.text("public_name"),
      count: header.integer("count"),
      head: header.bytes("head"),
      mapProof: header.bytes("map_proof"),
      firstSeq: header.integer("count") - BigInt(count) + 1n,
      entries,
    });
    at += 1 + count;
  }
  return chains;
}

function parseEntries(lines: readonly unknown[]): SingleEntry[] {
  return lines.map((line) => {
    const fields = new Fields(line, ["index", "leaf", "opening", "inclusion"]);
    return { index: fields.integer("index"), ...readEntry(fields), inclusion: fields.hashes("inclusion") };
  });
}

function readEntry(fields: Fields): HistoryEntry {
  return { leaf: fields.bytes("leaf"), opening: fields.value("opening") === null ? null : readOpening(fields) };
}

function readOpening(fields: Fields): Opening {
  const opening = fields.bytes("opening");
  return { salt: opening.slice(0, HASH_SIZE), statement: opening.slice(HASH_SIZE) };
}

function parseLines(content: Uint8Array): unknown[] {
  const text = decodeText(content, "bundle");
  if (!text) return [];
  if (!text.endsWith("\n")) throw new MalformedError("bundle has a file that does not end in a newline");
  return text
    .slice(0, -1)
    .split("\n")
    .map(parseLine);
}

function parseLine(line: string): unknown {
  let content: unknown;
  try {
    content = JSON.parse(line);
  } catch {
    throw new MalformedError("bundle has a line that is not JSON");
  }
  const isObject = typeof content === "object" && content !== null;
  if (isObject && countNames(line) !== Object.keys(content as object).length) {
    throw new MalformedError("bundle has a name twice in one object");
  }
  return content;
}

/** Count the names in a text that is JSON, and check that its numbers are integers.
 *
 * `JSON.parse` keeps the last of two values of one name, and does not tell 1.0 from 1; other readers do otherwise.
 */
function countNames(line: string): number {
  let names = 0;
  for (let at = 0; at < line.length; at++) {
    const one = line[at]!;
    if (one === '"') {
      for (at++; line[at] !== '"'; at++) if (line[at] === "\\") at++;
      let next = at + 1;
      while (" \t\r".includes(line[next] ?? "x")) next++;
      if (line[next] === ":") names++;
    } else if ((one === "." || one === "e" || one === "E") && /[0-9]/.test(line[at - 1] ?? "")) {
      throw new MalformedError("bundle has a number that is not written as an integer");
    }
  }
  return names;
}

/** A JSON object of exactly these names. */
class Fields {
  readonly #content: Readonly<Record<string, unknown>>;

  constructor(
    content: unknown,
    readonly names: readonly string[],
  ) {
    const isObject = typeof content === "object" && content !== null && !Array.isArray(content);
    if (!isObject || Object.keys(content).length !== names.length || !names.every((name) => Object.hasOwn(content, name))) {
      throw new MalformedError(`bundle has a line that is no object of these names: \`${names.join(" ")}\``);
    }
    this.#content = content as Record<string, unknown>;
  }

  value(name: string): unknown {
    return this.#content[name];
  }

  bytes(name: string): Uint8Array {
    return bytesOf(this.value(name), name);
  }

  hashes(name: string): Uint8Array[] {
    const value = this.value(name);
    if (!Array.isArray(value) || value.length > MAX_PROOF_LENGTH) {
      throw new MalformedError("bundle has an inclusion proof that is none");
    }
    return value.map((one) => bytesOf(one, name));
  }

  text(name: string): string {
    const value = this.value(name);
    if (typeof value !== "string") throw new MalformedError(`bundle has a field that is not text: \`${name}\``);
    return value;
  }

  integer(name: string): bigint {
    const value = this.value(name);
    if (!Number.isSafeInteger(value) || (value as number) < 0) {
      throw new MalformedError(`bundle has a field that is not a number: \`${name}\``);
    }
    return BigInt(value as number);
  }
}

function bytesOf(value: unknown, name: string): Uint8Array {
  if (typeof value !== "string" || /[A-F]/.test(value)) {
    throw new MalformedError(`bundle has a field that is not lower-case hexadecimal: \`${name}\``);
  }
  return decodeHex(value);
}
