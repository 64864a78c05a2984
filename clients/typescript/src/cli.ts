#!/usr/bin/env node
/**
 * Verify evidence or a receipt on the command line. The answer goes to stdout, everything else to stderr.
 */

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { decodeHex, decodeText, encodeText, equal } from "./bytes.js";
import { parseProof } from "./checkpoint.js";
import { MalformedError, ProofError, UnknownKeyError, VerificationError } from "./errors.js";
import { parseEvidence } from "./evidence.js";
import { type HeldFile, heldJson, type Json, parseHeld } from "./held.js";
import { parseJson } from "./json.js";
import type { Trust } from "./quorum.js";
import { errorClass, evidenceJson, evidenceText, historyJson, historyText, isDetermined } from "./report.js";
import { receiptJson, receiptText, reducedReceiptJson, reducedReceiptText } from "./report.js";
import { type HistoryOptions, type HistoryResult, verifyEvidence, verifyHistory, verifyReceipt } from "./verify.js";
import { verifyReducedReceipt } from "./verify.js";

const PROVEN = 0;
const DISPROVED = 1;
const UNDETERMINED = 2;

const HELP = `usage: consentd-verify history FILE --log-key VKEY [options]
       consentd-verify evidence FILE --log-key VKEY [options]
       consentd-verify receipt FILE LEAF --log-key VKEY [options]
       consentd-verify receipt FILE --log-key VKEY [options]

Verify, offline, evidence (\`consentd history --save\`, \`consentd audit evidence\`), or a receipt (.tlog-proof) with
its leaf (\`consentd receipt --save\`); or, without LEAF, a receipt as \`consentd\` stores it with
--receipt, full or reduced. \`history\` shows the one chain that a file is about, \`evidence\`
everything in it. \`-\` is stdin.

  --log-key VKEY       the log's key, name+id+base64; get it on another way than the file
  --origin ORIGIN      the ledger's name; by default the key's
  --policy FILE        witnesses of whom a quorum must have cosigned (C2SP tlog-policy)
  --max-age S          with --policy: how old a cosignature may be to count, in seconds; by default any age
  --tag HEX            history: the person's tag that it must be about
  --public-name NAME   history: the public chain that it must be about, such as participant/ID
  --held FILE          history: what --keep wrote the last time
  --keep FILE          history: write what was verified, for --held
  --json               one JSON object instead of text
  --help               show this

exit status: 0 proven, 1 disproved, 2 undetermined, also for a file of another kind, or a part of one
`;

const OPTIONS = {
  "log-key": { type: "string" },
  origin: { type: "string" },
  policy: { type: "string" },
  "max-age": { type: "string" },
  tag: { type: "string" },
  "public-name": { type: "string" },
  held: { type: "string" },
  keep: { type: "string" },
  json: { type: "boolean" },
  help: { type: "boolean" },
} as const;

/** Options that only `history` has. */
const HISTORY_OPTIONS = ["tag", "public-name", "held", "keep"] as const;

type Values = ReturnType<typeof parseArgs<{ options: typeof OPTIONS; allowPositionals: true }>>["values"];

/** Run the command; return its exit status. */
function main(args: string[]): number {
  const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
  const [command, ...files] = positionals;
  if (values.help) {
    process.stdout.write(HELP);
    return PROVEN;
  }
  if (command === "history" && files.length === 1) return history(files[0]!, values);
  if (command === "receipt" && files.length === 2) return receipt(files[0]!, files[1]!, values);
  if (command === "receipt" && files.length === 1) return storedReceipt(files[0]!, values);
  if (command === "evidence" && files.length === 1) return evidence(files[0]!, values);
  throw new TypeError("command is none of `history FILE`, `evidence FILE`, `receipt FILE [LEAF]`; see --help");
}

function history(file: string, values: Values): number {
  const kept = values.held === undefined ? null : parseHeld(readFileSync(values.held, "utf8"));
  const tag = values.tag === undefined ? kept?.tag : readTag(values.tag);
  if (kept && tag && !equal(kept.tag, tag)) throw new TypeError("held file is of another tag");
  const options: HistoryOptions = {
    ...trustOf(values),
    ...(tag && { tag }),
    ...(values["public-name"] !== undefined && { publicName: values["public-name"] }),
  };
  const content = readAs("evidence", parseEvidence, file);
  const result =
    kept && isComplete(content, kept)
      ? verifyAlone(content, options, kept)
      : verifyHistory(content, { ...options, ...(kept && { held: kept.held, heldChain: kept.heldChain }) });
  answer(values, historyJson(result), historyText(result));
  if (result.unread.length) return UNDETERMINED;
  if (values.keep !== undefined) keep(values.keep, result);
  if (!options.tag && !options.publicName) process.stderr.write("not checked: whose history it is; give --tag\n");
  return PROVEN;
}

/** Report whether a file contains a whole history, as `consentd history --save` writes it, and not only news. */
function isComplete(content: Uint8Array, kept: HeldFile): boolean {
  const { consistency, chains } = parseEvidence(content).proof;
  return consistency.length === 0 && chains[0] !== undefined && chains[0].firstSeq <= kept.heldChain.count;
}

/** Verify a whole history by itself, and compare its tree with the one held as far as that is possible. */
function verifyAlone(content: Uint8Array, options: HistoryOptions, { held, heldChain }: HeldFile): HistoryResult {
  const result = verifyHistory(content, options);
  const { size, root } = result.checkpoint;
  if (size < held.treeSize || result.count < heldChain.count) throw new ProofError("history is too old");
  if (size === held.treeSize && !equal(root, held.root)) throw new ProofError("tree is another than the one held");
  // Without a consistency proof, the file neither proves nor disproves that a larger tree continues the one held.
  if (size > held.treeSize) throw new TypeError("file does not prove that its tree continues the one held");
  return result;
}

function evidence(file: string, values: Values): number {
  refuseOptions(values, "evidence", HISTORY_OPTIONS);
  // As in `consentd audit check-evidence`, no clock is compared unless an age is given.
  const content = readAs("evidence", parseEvidence, file);
  const result = verifyEvidence(content, trustOf(values, values["max-age"] !== undefined));
  answer(values, evidenceJson(result), evidenceText(result));
  return isDetermined(result) ? PROVEN : UNDETERMINED;
}

function receipt(file: string, leaf: string, values: Values): number {
  refuseOptions(values, "receipt", HISTORY_OPTIONS);
  const result = verifyReceipt(readAs("tlog-proof", parseProof, file), read(leaf), trustOf(values));
  answer(values, receiptJson(result), receiptText(result));
  return PROVEN;
}

/** Verify a receipt as `consentd` stores it: JSON with index, leaf_hash and proof; the reduced form has no leaf. */
function storedReceipt(file: string, values: Values): number {
  refuseOptions(values, "receipt", HISTORY_OPTIONS);
  const fields = parseJson(decodeText(read(file), "receipt"), 8);
  const [index, hash, proof, leaf] = ["index", "leaf_hash", "proof", "leaf"].map((name) => {
    return fields instanceof Map ? fields.get(name) : undefined;
  });
  const isHex = (value: unknown): value is string => typeof value === "string" && /^([0-9a-f]{2})*$/.test(value);
  if (typeof index !== "number" || !isHex(hash) || typeof proof !== "string" || !(leaf === undefined || isHex(leaf))) {
    throw new TypeError("file is no stored receipt: index, leaf_hash or proof is missing; or give the leaf too");
  }
  if (!proof) throw new TypeError("receipt has no proof yet; `consentd receipt` completes it");
  const reduced = { index: BigInt(index), leafHash: decodeHex(hash), proof: encodeText(proof) };
  const trust = trustOf(values);
  const result = verifyReducedReceipt(reduced, trust);
  if (leaf === undefined) {
    answer(values, reducedReceiptJson(result), reducedReceiptText(result));
    return PROVEN;
  }
  const full = verifyReceipt(reduced.proof, decodeHex(leaf), trust);
  answer(values, receiptJson(full), receiptText(full));
  return PROVEN;
}

/** Refuse options that the command would ignore. */
function refuseOptions(values: Values, command: string, names: readonly (keyof Values)[]): void {
  const given = names.find((name) => values[name] !== undefined);
  if (given !== undefined) throw new TypeError(`--${given} is no option of \`${command}\``);
}

function trustOf(values: Values, hasClock = true): Trust {
  const { "log-key": logKey, "max-age": maxAge, policy } = values;
  if (logKey === undefined) throw new TypeError("--log-key is missing");
  if (maxAge !== undefined && (policy === undefined || !/^[0-9]{1,9}$/.test(maxAge))) {
    throw new TypeError("--max-age is not a number of seconds, or is given without --policy");
  }
  return {
    logKey,
    origin: values.origin ?? logKey.split("+", 1)[0]!,
    ...(hasClock && { now: Date.now() }),
    ...(policy !== undefined && { policy: new Uint8Array(readFileSync(policy)) }),
    ...(maxAge !== undefined && { maxAgeMs: Number(maxAge) * 1000 }),
  };
}

function readTag(text: string): Uint8Array {
  if (!/^[0-9a-fA-F]{64}$/.test(text)) throw new TypeError("--tag is not 64 hexadecimal digits");
  return decodeHex(text);
}

/** Read a file that *parse* can parse. A file of another kind, or a part of one, proves and disproves nothing. */
function readAs(what: string, parse: (content: Uint8Array) => unknown, file: string): Uint8Array {
  const content = read(file);
  try {
    parse(content);
  } catch (error) {
    if (!(error instanceof MalformedError)) throw error;
    throw new TypeError(`file is no ${what}, or not all of one: ${error.message}`);
  }
  return content;
}

function read(file: string): Uint8Array {
  return readFileSync(file === "-" ? 0 : file);
}

function keep(file: string, result: HeldFile): void {
  // A second file is written and renamed, because the disk may be full and the first is the only memory.
  writeFileSync(`${file}.new`, `${JSON.stringify(heldJson(result))}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

/** Replace characters that would move the cursor, forge a line or change the direction of text by their numbers. */
function plain(text: string): string {
  const control = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  return text.replace(control, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function answer({ json }: Values, content: Json, lines: readonly string[]): void {
  process.stdout.write(json ? `${JSON.stringify(content)}\n` : `${lines.map(plain).join("\n")}\n`);
}

function refuse(error: unknown, args: string[]): number {
  const isNoEvidence = error instanceof UnknownKeyError || error instanceof MalformedError;
  const isDisproved = error instanceof VerificationError && !isNoEvidence;
  const verdict = isDisproved ? "disproved" : "undetermined";
  const message = error instanceof Error ? error.message : String(error);
  if (args.includes("--json")) {
    const content = { verdict, ...(isDisproved && { error: errorClass(error) }), message };
    process.stdout.write(`${JSON.stringify(content)}\n`);
  } else {
    (isDisproved ? process.stdout : process.stderr).write(`${verdict}: ${plain(message)}\n`);
  }
  return isDisproved ? DISPROVED : UNDETERMINED;
}

// If the answer cannot be written, there is no verdict. Node would exit with 1, which means disproved here.
process.stdout.on("error", () => process.exit(UNDETERMINED));

const args = process.argv.slice(2);
try {
  process.exitCode = main(args);
} catch (error) {
  process.exitCode = refuse(error, args);
}
