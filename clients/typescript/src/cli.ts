#!/usr/bin/env node
/**
 * Verify a history file, a receipt or an audit bundle on the command line. stdout is the answer, stderr is talk.
 */

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { verifyBundle } from "./bundle.js";
import { decodeHex, equal } from "./bytes.js";
import { ProofError, UnreadKeyError, VerificationError } from "./errors.js";
import { parseHistory } from "./file.js";
import { type HeldFile, heldJson, type Json, parseHeld } from "./held.js";
import { bundleJson, bundleText, errorClass, historyJson, historyText, isTold } from "./report.js";
import { receiptJson, receiptText } from "./report.js";
import type { Trust } from "./trust.js";
import { type HistoryEvidence, type HistoryOptions, verifyHistory, verifyReceipt } from "./verify.js";

const PROVEN = 0;
const DISPROVED = 1;
const COULD_NOT_TELL = 2;

const HELP = `usage: consentd-verify history FILE --log-key VKEY [options]
       consentd-verify receipt FILE LEAF --log-key VKEY [options]
       consentd-verify bundle FILE --log-key VKEY [options]

Verify, offline, a history file (\`consentd history --save\`), a receipt (.tlog-proof) with its leaf (\`consentd receipt
--save\`), or an audit bundle (\`consentd audit bundle\`). \`-\` is stdin.

  --log-key VKEY       the log's key, name+id+base64; get it on another way than the proof
  --origin ORIGIN      the ledger's name; by default the key's
  --tag HEX            history: whose it must be, the person's tag
  --public-name NAME   history: whose it must be, a public chain such as participant/ID
  --held FILE          history: what --keep wrote the last time
  --keep FILE          history: write what was verified, for --held
  --witness VKEY       history, receipt: a witness's key; may be repeated
  --quorum N           how many witnesses must have cosigned in the last five minutes; by default 0
  --policy FILE        bundle: witnesses of whom a quorum must have cosigned, whenever that was (C2SP tlog-policy)
  --json               one JSON object instead of text
  --help               show this

exit status: 0 proven, 1 disproved, 2 could not tell
`;

const OPTIONS = {
  "log-key": { type: "string" },
  origin: { type: "string" },
  tag: { type: "string" },
  "public-name": { type: "string" },
  held: { type: "string" },
  keep: { type: "string" },
  witness: { type: "string", multiple: true },
  quorum: { type: "string" },
  policy: { type: "string" },
  json: { type: "boolean" },
  help: { type: "boolean" },
} as const;

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
  if (command === "bundle" && files.length === 1) return bundle(files[0]!, values);
  throw new TypeError("command is none of `history FILE`, `receipt FILE LEAF`, `bundle FILE`; see --help");
}

function history(file: string, values: Values): number {
  refuseOptions(values, "history", ["policy"]);
  const kept = values.held === undefined ? null : parseHeld(readFileSync(values.held, "utf8"));
  const tag = values.tag === undefined ? kept?.tag : readTag(values.tag);
  if (kept && tag && !equal(kept.tag, tag)) throw new TypeError("held file is of another tag");
  const options: HistoryOptions = {
    ...trustOf(values),
    ...(tag && { tag }),
    ...(values["public-name"] !== undefined && { publicName: values["public-name"] }),
  };
  const content = read(file);
  const evidence =
    kept && standsAlone(content, kept)
      ? verifyAlone(content, options, kept)
      : verifyHistory(content, { ...options, ...(kept && { held: kept.held, heldChain: kept.heldChain }) });
  answer(values, historyJson(evidence), historyText(evidence));
  if (evidence.unread.length) return COULD_NOT_TELL;
  if (values.keep !== undefined) keep(values.keep, evidence);
  if (!options.tag && !options.publicName) process.stderr.write("whose history it must be was not said (--tag)\n");
  return PROVEN;
}

/** Tell whether a file holds a whole history, as `consentd history --save` writes it, not one that goes on from *kept*. */
function standsAlone(content: Uint8Array, kept: HeldFile): boolean {
  const { consistency, chains } = parseHistory(content);
  return consistency.length === 0 && chains[0] !== undefined && chains[0].firstSeq <= kept.heldChain.count;
}

/** Verify a whole history by itself, and hold its tree against the one kept as far as that goes. */
function verifyAlone(content: Uint8Array, options: HistoryOptions, { held, heldChain }: HeldFile): HistoryEvidence {
  const evidence = verifyHistory(content, options);
  const { size, root } = evidence.checkpoint;
  if (size < held.treeSize || evidence.count < heldChain.count) throw new ProofError("history is older than what is held");
  if (size === held.treeSize && !equal(root, held.root)) throw new ProofError("tree is another than the one held");
  // A larger tree may continue the one held or not: the file has no proof of either, and so disproves nothing.
  if (size > held.treeSize) throw new TypeError("history file does not prove that its tree continues the one held");
  return evidence;
}

function receipt(file: string, leaf: string, values: Values): number {
  refuseOptions(values, "receipt", ["policy", "tag", "public-name", "held", "keep"]);
  const evidence = verifyReceipt(read(file), read(leaf), trustOf(values));
  answer(values, receiptJson(evidence), receiptText(evidence));
  return PROVEN;
}

function bundle(file: string, values: Values): number {
  refuseOptions(values, "bundle", ["witness", "quorum", "tag", "public-name", "held", "keep"]);
  const policy = values.policy === undefined ? {} : { policy: readFileSync(values.policy) };
  const evidence = verifyBundle(read(file), { ...pinsOf(values), ...policy });
  answer(values, bundleJson(evidence), bundleText(evidence));
  return isTold(evidence) ? PROVEN : COULD_NOT_TELL;
}

/** What is asked for must not be passed over in silence. */
function refuseOptions(values: Values, command: string, names: readonly (keyof Values)[]): void {
  const given = names.find((name) => values[name] !== undefined);
  if (given !== undefined) throw new TypeError(`--${given} is no option of \`${command}\``);
}

function pinsOf(values: Values): Pick<Trust, "logKey" | "origin"> {
  const logKey = values["log-key"];
  if (logKey === undefined) throw new TypeError("--log-key is missing");
  return { logKey, origin: values.origin ?? logKey.split("+", 1)[0]! };
}

function trustOf(values: Values): Trust {
  return {
    ...pinsOf(values),
    witnesses: values.witness ?? [],
    quorum: values.quorum === undefined ? 0 : Number(values.quorum || NaN),
    now: Date.now(),
  };
}

function readTag(text: string): Uint8Array {
  if (!/^[0-9a-fA-F]{64}$/.test(text)) throw new TypeError("--tag is not 64 hexadecimal digits");
  return decodeHex(text);
}

function read(file: string): Uint8Array {
  return readFileSync(file === "-" ? 0 : file);
}

function keep(file: string, evidence: HeldFile): void {
  // Beside, then renamed: it is the only memory of what was verified, and the disk may be full.
  writeFileSync(`${file}.new`, `${JSON.stringify(heldJson(evidence))}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

/** Write as numbers what would move the cursor, fake a line or turn the direction of a text. */
function plain(text: string): string {
  const control = /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  return text.replace(control, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function answer({ json }: Values, content: Json, lines: readonly string[]): void {
  process.stdout.write(json ? `${JSON.stringify(content)}\n` : `${lines.map(plain).join("\n")}\n`);
}

function refuse(error: unknown, args: string[]): number {
  const isDisproved = error instanceof VerificationError && !(error instanceof UnreadKeyError);
  const verdict = isDisproved ? "disproved" : "could not tell";
  const message = error instanceof Error ? error.message : String(error);
  if (args.includes("--json")) {
    const content = { verdict, ...(isDisproved && { error: errorClass(error) }), message };
    process.stdout.write(`${JSON.stringify(content)}\n`);
  } else {
    (isDisproved ? process.stdout : process.stderr).write(`${verdict}: ${plain(message)}\n`);
  }
  return isDisproved ? DISPROVED : COULD_NOT_TELL;
}

// An answer that did not arrive is no verdict: Node's own status, 1, would say disproved.
process.stdout.on("error", () => process.exit(COULD_NOT_TELL));

const args = process.argv.slice(2);
try {
  process.exitCode = main(args);
} catch (error) {
  process.exitCode = refuse(error, args);
}
