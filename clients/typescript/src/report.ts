/**
 * Format what was proven: as text for people, and as JSON for programs.
 */

import { encodeBase64, encodeHex, equal } from "./bytes.js";
import { NOT_PROVEN_OF_PRUNED, type ProvenChain, type ProvenEntry, type Unread } from "./chains.js";
import { parseCheckpoint } from "./checkpoint.js";
import type { Event, Seal } from "./codec.js";
import { MalformedError, ProofError, SignatureError, UnknownKeyError, type VerificationError } from "./errors.js";
import type { Scope } from "./evidence.js";
import { heldJson, type Json } from "./held.js";
import type { KeyValidity } from "./key_validity.js";
import { KINDS, LEDGER } from "./kinds.js";
import { parseNote } from "./note.js";
import { decodeLedgerStatement } from "./payloads.js";
import type { SeqRange } from "./history.js";
import type { Cosignature } from "./quorum.js";
import type { FollowedKey } from "./rotation.js";
import { type EvidenceResult, type HistoryResult, NOT_PROVEN, type ReceiptResult } from "./verify.js";
import type { ReducedReceiptResult } from "./verify.js";

/** What evidence does not prove, whatever is in it. */
const NOT_PROVEN_OF_EVIDENCE: readonly string[] = [
  "that the file contains what was asked for; and that a participant's single entries are all that there are",
  ...NOT_PROVEN,
];

/** Name the class of an error, as the shared vectors do. */
export function errorClass(error: VerificationError): string {
  if (error instanceof MalformedError) return "malformed";
  if (error instanceof UnknownKeyError) return "unknown_key";
  if (error instanceof SignatureError) return "signature";
  if (error instanceof ProofError) return "proof";
  return "verification";
}

/** Name a kind; one that this version does not know by its number. */
export function kindName(kind: number): string {
  return KINDS.get(kind)?.name ?? `kind ${kind}`;
}

/** Return what a history proves as JSON. */
export function historyJson(result: HistoryResult): Json {
  const { tag, publicName, count, complete, erased, unread, seal, missing, keptFromMs } = result;
  return {
    verdict: unread.length || !complete ? "undetermined" : "proven",
    ...checkpointJson(result),
    log_keys: logKeysJson(result.logKeys),
    seal_time_ms: integer(seal.timeMs),
    tag: encodeHex(tag), public_name: publicName, count: integer(count), complete, erased,
    missing: missingJson(missing), kept_from_ms: integer(keptFromMs), unread: unreadJson(unread),
    entries: result.entries.map(entryJson),
    not_proven: notProven(NOT_PROVEN, [result]),
    held: heldJson(result),
  };
}

/** Return what a receipt proves as JSON. */
export function receiptJson(result: ReceiptResult): Json {
  const { index, leaf } = result;
  return { verdict: "proven", ...checkpointJson(result), index: integer(index), leaf: leafJson(leaf) };
}

/** Return what a receipt in the reduced form proves as JSON. */
export function reducedReceiptJson(result: ReducedReceiptResult): Json {
  const { index, leafHash } = result;
  return { verdict: "proven", ...checkpointJson(result), index: integer(index), leaf_hash: encodeHex(leafHash) };
}

/** Return what evidence proves as JSON. */
export function evidenceJson(result: EvidenceResult): Json {
  const { scope, seal, chains, entries, closed, unproven, unread } = result;
  return {
    verdict: isDetermined(result) ? "proven" : "undetermined",
    ...checkpointJson(result),
    log_keys: logKeysJson(result.logKeys),
    seal_time_ms: integer(seal.timeMs),
    scope: scopeJson(scope),
    kept_from_ms: integer(result.keptFromMs),
    chains: chains.map(({ tag, publicName, entries, missing }) => {
      const shown = { missing: missingJson(missing), entries: entries.map(entryJson) };
      return { tag: encodeHex(tag), public_name: publicName, ...shown };
    }),
    entries: entries.map(({ index, leaf, ...signed }) => {
      return { index: integer(index), ...leafJson(leaf), ...signedJson(signed) };
    }),
    closed, unproven, unread: unreadJson(unread),
    not_proven: notProven(NOT_PROVEN_OF_EVIDENCE, chains),
  };
}

/** Report whether this version could determine everything that the evidence states. */
export function isDetermined({ unproven, unread }: EvidenceResult): boolean {
  return !unproven && !unread.length;
}

/** Return what evidence proves as lines of text. */
export function evidenceText(result: EvidenceResult): string[] {
  const { checkpoint, seal, scope, chains, entries, keptFromMs, closed, unproven } = result;
  const lines = [
    `this is in ${checkpoint.origin} at tree size ${checkpoint.size}, sealed ${time(seal.timeMs)}`,
    scopeText(scope, chains),
  ];
  for (const { tag, publicName, entries, missing } of chains) {
    lines.push(`${publicName || `tag ${encodeHex(tag)}`} has these entries and no others${butFor(missing)}:`);
    lines.push(...missingText(missing, keptFromMs), ...entries.map(entryText));
  }
  if (entries.length) lines.push("single entries:");
  for (const { index, leaf, statement, author } of entries) {
    const by = author ? authorName(author) : statement ? "(a key whose owner is undetermined)" : "(no statement)";
    const what = leaf.type === "seal" ? "SEAL" : kindName(leaf.kind).padEnd(11);
    lines.push(`${String(index).padStart(8)}  ${time(leaf.timeMs)}  ${what}${leaf.type === "seal" ? "" : ` ${by}`}`);
  }
  if (closed) lines.push(`statements that the file does not contain: ${closed}`);
  if (unproven) lines.push(`undetermined: who owns a key, because the person's chain is not in the file: ${unproven}`);
  return [...lines, ...endText(result, notProven(NOT_PROVEN_OF_EVIDENCE, chains))];
}

/** Return what a history proves as lines of text. */
export function historyText(result: HistoryResult): string[] {
  const { tag, publicName, count, entries, missing, keptFromMs, erased, checkpoint, seal } = result;
  const whose = publicName || `tag ${encodeHex(tag)}`;
  const shownFrom = entries[0]?.event.seq ?? count + 1n;
  // What is missing right before the first entry shown was not verified before.
  const heldTo = (missing.find(([, last]) => last === shownFrom - 1n)?.[0] ?? shownFrom) - 1n;
  const lines = [
    count === 0n
      ? `${whose} has no entry in ${checkpoint.origin} at tree size ${checkpoint.size}, sealed ${time(seal.timeMs)}`
      : `${whose} has these entries and no others${butFor(missing)} in ${checkpoint.origin} at tree size ` +
        `${checkpoint.size}, sealed ${time(seal.timeMs)}`,
    ...missingText(missing, keptFromMs),
  ];
  if (heldTo) lines.push(`(those up to ${heldTo} were verified before)`);
  lines.push(...entries.map(entryText));
  if (erased) lines.push("the chain ends in an erasure");
  return [...lines, ...endText(result, notProven(NOT_PROVEN, [result]))];
}

/** Return what a receipt proves as lines of text. */
export function receiptText({ checkpoint, index, leaf, cosignatures }: ReceiptResult): string[] {
  const what = leaf.type === "seal" ? "seal" : `${kindName(leaf.kind)}, seq ${leaf.seq} of tag ${encodeHex(leaf.tag)}`;
  return [
    `leaf ${index} of ${checkpoint.origin} is this one at tree size ${checkpoint.size}`,
    `${what}, ${time(leaf.timeMs)}`,
    ...cosignatureText(cosignatures),
  ];
}

/** Return what a receipt in the reduced form proves as lines of text. */
export function reducedReceiptText({ checkpoint, index, leafHash, cosignatures }: ReducedReceiptResult): string[] {
  return [
    `leaf ${index} of ${checkpoint.origin} has this hash at tree size ${checkpoint.size}`,
    encodeHex(leafHash),
    ...cosignatureText(cosignatures),
  ];
}

type Prunable = Pick<ProvenChain, "entries" | "missing">;

function notProven(always: readonly string[], chains: readonly Prunable[]): readonly string[] {
  const isPruned = chains.some(({ entries, missing }) => missing.length || entries.some(({ pruned }) => pruned));
  return isPruned ? [...always, NOT_PROVEN_OF_PRUNED] : always;
}

function missingJson(missing: readonly SeqRange[]): Json {
  return missing.map((range) => range.map(integer));
}

/** Return what an entry list lacks, as a part of a sentence. */
function butFor(missing: readonly SeqRange[]): string {
  return missing.length ? " but those that were pruned" : "";
}

function missingText(missing: readonly SeqRange[], keptFromMs: bigint): string[] {
  return missing.map(
    ([first, last]) =>
      `entries ${first} to ${last} were pruned, past the ledger's published retention: everything from ` +
      `${time(keptFromMs)} on is here`,
  );
}

function entryJson({ event, pruned, ...signed }: ProvenEntry): Json {
  return { ...leafJson(event), ...signedJson(signed), pruned };
}

function signedJson({ author, statement }: Pick<ProvenEntry, "author" | "statement">): Record<string, Json> {
  return { author: author && authorName(author), payload: statement && encodeBase64(statement.payload) };
}

/** Name the predecessor that leaf 0 of a ledger states. Nobody has verified the signature of its checkpoint. */
export function predecessorText(payload: Uint8Array): string {
  const note = decodeLedgerStatement(payload)?.predecessor;
  if (!note?.length) return "";
  try {
    const { origin, size, root } = parseCheckpoint(parseNote(note).text);
    return ` in the place of ${origin} @${size} ${encodeHex(root)}`;
  } catch (error) {
    if (error instanceof MalformedError) return " in the place of a ledger that cannot be read";
    throw error;
  }
}

function entryText({ event, author, statement, pruned }: ProvenEntry): string {
  const ref = event.ref ? ` ref ${event.ref}` : "";
  const by = author ? authorName(author) : pruned ? "(pruned)" : "(erased)";
  const what = kindName(event.kind).padEnd(11);
  const predecessor = event.kind === LEDGER && statement ? predecessorText(statement.payload) : "";
  return `${String(event.seq).padStart(5)}  ${time(event.timeMs)}  ${what} ${by}${ref}${predecessor}`;
}

function unreadJson(unread: readonly Unread[]): Json {
  return unread.map(({ publicName, seq, kind }) => ({ public_name: publicName, seq: integer(seq), kind }));
}

function logKeysJson(keys: readonly FollowedKey[]): Json {
  return keys.map(({ vkey, fromSize }) => ({ vkey, from_size: integer(fromSize) }));
}

function logKeysText(keys: readonly FollowedKey[]): string[] {
  return keys.map(({ vkey, fromSize }) => {
    return fromSize ? `log key replaced, from size ${fromSize} on: ${vkey}` : `log key pinned: ${vkey}`;
  });
}

/** Return the last lines: which log keys were followed, who cosigned, what is undetermined, and what is not proven. */
function endText(result: HistoryResult | EvidenceResult, notProven: readonly string[]): string[] {
  const { cosignatures, unread, logKeys } = result;
  const undetermined = unread.map(({ publicName, seq, kind }) => {
    return `undetermined: what ${kindName(kind)} states, seq ${seq}${publicName && ` of ${publicName}`}`;
  });
  const signers = [...logKeysText(logKeys), ...cosignatureText(cosignatures)];
  return [...signers, ...undetermined, "not proven:", ...notProven.map((text) => `  ${text}`)];
}

function scopeJson(scope: Scope): Json {
  if ("range" in scope) return { first: integer(scope.range[0]), last: integer(scope.range[1]) };
  return "tag" in scope ? { tag: encodeHex(scope.tag) } : { participant: scope.participant };
}

function scopeText(scope: Scope, chains: readonly ProvenChain[]): string {
  if ("range" in scope) return `it is of the entries ${scope.range[0]} to ${scope.range[1]}: they are all there`;
  if ("participant" in scope) return `it is of participant ${scope.participant}: its chain is whole`;
  const [missing] = chains.find((chain) => equal(chain.tag, scope.tag))?.missing ?? [];
  const from = missing ? ` from ${missing[1] + 1n} on` : "";
  return `it is of tag ${encodeHex(scope.tag)}: its chain is whole${from}`;
}

function checkpointJson({ checkpoint, cosignatures }: Omit<ReceiptResult, "index" | "leaf">): Record<string, Json> {
  const { origin, size, root } = checkpoint;
  const cosigned = cosignatures.map(({ name, timeMs }) => ({ name, time_ms: timeMs }));
  return { origin, tree_size: integer(size), root: encodeBase64(root), cosignatures: cosigned };
}

function leafJson(leaf: Event | Seal): Record<string, Json> {
  if (leaf.type === "seal") return { kind: "SEAL", time_ms: integer(leaf.timeMs) };
  const { kind, timeMs, seq, ref } = leaf;
  return { kind: kindName(kind), time_ms: integer(timeMs), seq: integer(seq), ref: integer(ref) };
}

function cosignatureText(cosignatures: readonly Cosignature[]): string[] {
  return cosignatures.map(({ name, timeMs }) => `cosigned by ${name} ${time(BigInt(timeMs))}`);
}

function authorName({ owner, name }: KeyValidity): string {
  if (owner === "participant") return `participant/${name}`;
  if (owner === "representative") return `the representative of authority #${name.split(" ")[1]}`;
  return owner === "ledger" ? "ledger" : "the person";
}

/** An integer as JSON: a number, or its digits where a number would not be exact. */
function integer(value: bigint): Json {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value);
}

function time(timeMs: bigint): string {
  return timeMs <= 8_640_000_000_000_000n ? new Date(Number(timeMs)).toISOString() : `${timeMs} ms`;
}
