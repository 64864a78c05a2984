/** The worked example of proto/ledger-format.md, read from its text: a ledger of eleven leaves, and its proofs. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import type { ChainProof, HistoryEntry, HistoryProof } from "../src/history.js";
import { hex } from "./vectors.js";

const SPEC = readFileSync("../../proto/ledger-format.md", "utf8");

/** Return a text that the example shows. */
export function text(name: string): string {
  const [, found] = new RegExp(`^\`\`\`example-text ${name}\\n(.*?)^\`\`\``, "ms").exec(SPEC) ?? [];
  if (found === undefined) throw new Error(`example shows no text ${name}`);
  return found;
}

/** Return a value that the example shows in hexadecimal. */
export function value(name: string): Uint8Array {
  for (const [, block] of SPEC.matchAll(/^```example\n(.*?)^```/gms)) {
    const [, found] = new RegExp(`^${name}:((?:\\s+[0-9a-f]+$)+)`, "m").exec(block!) ?? [];
    if (found !== undefined) return hex(found.replace(/\s/g, ""));
  }
  throw new Error(`example shows no value ${name}`);
}

/** Return a row of hashes that the example shows. */
export function hashes(name: string): Uint8Array[] {
  const row = value(name);
  return Array.from({ length: row.length / 32 }, (_, i) => row.slice(32 * i, 32 * i + 32));
}

export const VKEY = text("vkey").trim();
export const ORIGIN = "consent.example.org/spec";
export const TRUST = { origin: ORIGIN, logKey: VKEY };
export const PERSON = new Uint8Array(32).fill(0xaa);
export const RECEIPT = new TextEncoder().encode(text("receipt"));

const START_MS = 1_760_000_000_000n;

function statement(index: number, key: Uint8Array, requestId: Uint8Array, authorTimeMs: bigint): Uint8Array {
  const head = new Uint8Array(121);
  head[0] = 1;
  head.set(key, 1);
  head.set(value(`signature ${index}`), 33);
  head.set(requestId, 97);
  new DataView(head.buffer).setBigUint64(113, authorTimeMs);
  return Uint8Array.from([...head, ...value(`payload ${index}`)]);
}

/** Prove that a public chain is in the map of the second seal, from the five keys and values that the example shows. */
function proveInMap(name: string): Uint8Array {
  const names = ["ledger", "vocabulary/example", "rules/realm", "participant/clinic-b", "the person"];
  let nodes = names.map((each) => ({ key: value(`map key of ${each}`), value: value(`map value of ${each}`) }));
  const ours = value(`map key of ${name}`);
  const steps: Uint8Array[] = [];
  for (let bit = 0; nodes.length > 1; bit++) {
    const isWithUs = ({ key }: Pair): boolean => at(key, bit) === at(ours, bit);
    const [same, apart] = [nodes.filter(isWithUs), nodes.filter((pair) => !isWithUs(pair))];
    if (apart.length) steps.unshift(Uint8Array.from([bit, ...mapRoot(apart, bit + 1)]));
    nodes = same;
  }
  return Uint8Array.from(steps.flatMap((step) => [...step]));
}

interface Pair {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** Compute the root over pairs whose keys agree before *bit*, straight from its definition. */
function mapRoot(pairs: readonly Pair[], bit: number): Uint8Array {
  const [only] = pairs;
  if (pairs.length === 1) return sha256([0, 32, ...only!.key, 32, ...only!.value]);
  const [left, right] = [0, 1].map((side) => pairs.filter(({ key }) => at(key, bit) === side));
  if (!left!.length || !right!.length) return mapRoot(pairs, bit + 1);
  return sha256([1, bit, ...mapRoot(left!, bit + 1), ...mapRoot(right!, bit + 1)]);
}

function at(key: Uint8Array, bit: number): number {
  return (key[bit >> 3]! >> (7 - (bit % 8))) & 1;
}

function sha256(bytes: number[]): Uint8Array {
  return Uint8Array.from(createHash("sha256").update(Uint8Array.from(bytes)).digest());
}

function entry(index: number, key: string, afterMs: bigint, requestId?: Uint8Array): HistoryEntry {
  const id = requestId ?? new Uint8Array(16).fill(0x60 + index);
  const made = statement(index, value(key), id, START_MS + afterMs);
  const salt = new Uint8Array(32).fill(0x40 + index);
  return { leaf: value(`leaf ${index}`), opening: { salt, statement: made } };
}

/** The person's chain. */
export const person: ChainProof = {
  tag: PERSON,
  publicName: "",
  count: 4n,
  head: value("chain hash 9"),
  mapProof: value("map proof of the person"),
  firstSeq: 1n,
  entries: [
    entry(6, "statement key", 7_000n),
    entry(7, "statement key", 7_000n, value("request_id 7")),
    entry(8, "key of the person", 7_650n),
    entry(9, "statement key", 9_000n),
  ],
};

/** The chain `ledger`, whose key signed three of the person's entries. */
export const ledger: ChainProof = {
  tag: value("tag of ledger"),
  publicName: "ledger",
  count: 1n,
  head: value("chain hash 0"),
  mapProof: proveInMap("ledger"),
  firstSeq: 1n,
  entries: [entry(0, "statement key", 0n)],
};

/** The person's history proof. */
export const proof: HistoryProof = {
  checkpoint: new TextEncoder().encode(text("checkpoint")),
  consistency: [],
  seal: value("leaf 10"),
  sealInclusion: hashes("inclusion of the seal"),
  chains: [person, ledger],
};

const base64 = (content: Uint8Array): string => Buffer.from(content).toString("base64");

/** Write a proof as evidence of its first chain. */
export function evidenceFile(
  { checkpoint, consistency, seal, sealInclusion, chains }: HistoryProof,
  changes: Readonly<Record<string, unknown>> = {},
): Uint8Array {
  const document = {
    format: "consentd/evidence/v2",
    scope: { tag: base64(chains[0]!.tag) },
    checkpoint: base64(checkpoint),
    consistency: consistency.map(base64),
    seal: base64(seal),
    seal_inclusion: sealInclusion.map(base64),
    histories: chains.map((chain) => ({
      tag: base64(chain.tag),
      public_name: chain.publicName,
      count: Number(chain.count),
      head: base64(chain.head),
      map_proof: base64(chain.mapProof),
      first_seq: Number(chain.firstSeq),
      entries: chain.entries.map(({ leaf, opening }) => ({
        leaf: base64(leaf),
        opening: opening && { salt: base64(opening.salt), statement: base64(opening.statement) },
      })),
    })),
    entries: [],
    rotations: [],
    keys: [],
    policy: "",
  };
  return new TextEncoder().encode(JSON.stringify({ ...document, ...changes }));
}
