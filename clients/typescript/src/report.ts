/**
 * Say what was proven: as text for people, and as JSON for programs.
 */

import { encodeBase64, encodeHex, equal } from "./bytes.js";
import type { BundleChain, BundleEvidence } from "./bundle.js";
import type { BundleScope } from "./bundle_file.js";
import type { Event, Seal } from "./codec.js";
import { MalformedError, ProofError, SignatureError, type VerificationError } from "./errors.js";
import { heldJson, type Json } from "./held.js";
import { KINDS } from "./kinds.js";
import type { Cosignature } from "./policy.js";
import type { SeqRange } from "./pruned.js";
import type { KeyTerm } from "./terms.js";
import { type HistoryEvidence, NOT_PROVEN, NOT_PROVEN_OF_PRUNED, type ProvenEntry } from "./verify.js";
import type { ReceiptEvidence, Unread } from "./verify.js";

/** Name the class of an error, as the shared vectors do. */
export function errorClass(error: VerificationError): string {
  if (error instanceof MalformedError) return "malformed";
  if (error instanceof SignatureError) return "signature";
  if (error instanceof ProofError) return "proof";
  return "verification";
}

/** Name a kind; one that this version does not know by its number. */
export function kindName(kind: number): string {
  return KINDS.get(kind)?.name ?? `kind ${kind}`;
}

/** Return what a history proves as JSON. */
export function historyJson(evidence: HistoryEvidence): Json {
  const { tag, publicName, count, erased, unread, seal, missing, keptFromMs } = evidence;
  return {
    verdict: unread.length ? "could not tell" : "proven",
    ...anchorJson(evidence),
    seal_time_ms: integer(seal.timeMs),
    tag: encodeHex(tag),
    public_name: publicName,
    count: integer(count),
    erased,
    missing: missing.map(rangeJson),
    kept_from_ms: integer(keptFromMs),
    unread: unreadJson(unread),
    entries: evidence.entries.map(entryJson),
    not_proven: notProven(NOT_PROVEN, [evidence]),
    held: heldJson(evidence),
  };
}

/** Return what a receipt proves as JSON. */
export function receiptJson(evidence: ReceiptEvidence): Json {
  const { index, leaf } = evidence;
  return { verdict: "proven", ...anchorJson(evidence), index: integer(index), leaf: leafJson(leaf) };
}

/** Return what a bundle proves as JSON. */
export function bundleJson(evidence: BundleEvidence): Json {
  const { scope, seal, chains, entries, closed, unproven, unread } = evidence;
  return {
    verdict: isTold(evidence) ? "proven" : "could not tell",
    ...anchorJson(evidence),
    seal_time_ms: integer(seal.timeMs),
    scope: scopeJson(scope),
    kept_from_ms: integer(evidence.keptFromMs),
    chains: chains.map(({ tag, publicName, entries, missing }) => ({
      tag: encodeHex(tag),
      public_name: publicName,
      missing: missing.map(rangeJson),
      entries: entries.map(entryJson),
    })),
    entries: entries.map(({ index, leaf, statement, author }) => ({
      index: integer(index),
      ...leafJson(leaf),
      author: author && authorName(author),
      payload: statement && encodeBase64(statement.payload),
    })),
    closed,
    unproven,
    unread: unreadJson(unread),
    not_proven: notProven(BUNDLE_NOT_PROVEN, chains),
  };
}

/** Tell whether all that a bundle says could be told. */
export function isTold({ unproven, unread }: BundleEvidence): boolean {
  return !unproven && !unread.length;
}

/** Return what a bundle proves as lines of text. */
export function bundleText(evidence: BundleEvidence): string[] {
  const { checkpoint, seal, scope, chains, entries, keptFromMs, closed, unproven, unread } = evidence;
  const lines = [
    `this stands in ${checkpoint.origin} at tree size ${checkpoint.size}, sealed ${time(seal.timeMs)}`,
    scopeText(scope, chains),
  ];
  for (const { tag, publicName, entries, missing } of chains) {
    lines.push(`${publicName || `tag ${encodeHex(tag)}`} has these entries and no others${butFor(missing)}:`);
    lines.push(...missingText(missing, keptFromMs), ...entries.map(entryText));
  }
  if (entries.length) lines.push("single entries:");
  for (const { index, leaf, statement, author } of entries) {
    const by = author ? authorName(author) : statement ? "(a key not shown to be anybody's)" : "(no statement)";
    const what = leaf.type === "seal" ? "SEAL" : kindName(leaf.kind).padEnd(11);
    lines.push(`${String(index).padStart(8)}  ${time(leaf.timeMs)}  ${what}${leaf.type === "seal" ? "" : ` ${by}`}`);
  }
  lines.push(...cosignatureText(evidence.cosignatures));
  if (closed) lines.push(`statements that are not in it: ${closed}`);
  if (unproven) lines.push(`could not tell whose key it was, for want of the person's chain: ${unproven}`);
  lines.push(...unreadText(unread));
  return [...lines, "not proven:", ...notProven(BUNDLE_NOT_PROVEN, chains).map((text) => `  ${text}`)];
}

/** Return what a history proves as lines of text. */
export function historyText(evidence: HistoryEvidence): string[] {
  const { tag, publicName, count, entries, missing, keptFromMs, erased, unread, checkpoint, seal } = evidence;
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
  lines.push(...cosignatureText(evidence.cosignatures));
  lines.push(...unreadText(unread));
  return [...lines, "not proven:", ...notProven(NOT_PROVEN, [evidence]).map((text) => `  ${text}`)];
}

/** Return what a receipt proves as lines of text. */
export function receiptText({ checkpoint, index, leaf, cosignatures }: ReceiptEvidence): string[] {
  const what = leaf.type === "seal" ? "seal" : `${kindName(leaf.kind)}, seq ${leaf.seq} of tag ${encodeHex(leaf.tag)}`;
  return [
    `leaf ${index} of ${checkpoint.origin} is this one at tree size ${checkpoint.size}`,
    `${what}, ${time(leaf.timeMs)}`,
    ...cosignatureText(cosignatures),
  ];
}

/** What a bundle does not prove, whatever is in it. */
const BUNDLE_NOT_PROVEN: readonly string[] = [
  "that it is this that was asked for: of a participant's entries outside its chain, that they are all",
  ...NOT_PROVEN,
];

/** A chain that may have been pruned. */
interface Prunable {
  readonly entries: readonly ProvenEntry[];
  readonly missing: readonly SeqRange[];
}

function notProven(always: readonly string[], chains: readonly Prunable[]): readonly string[] {
  const isPruned = chains.some(({ entries, missing }) => missing.length || entries.some(({ pruned }) => pruned));
  return isPruned ? [...always, NOT_PROVEN_OF_PRUNED] : always;
}

function rangeJson([first, last]: SeqRange): Json {
  return [integer(first), integer(last)];
}

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

function entryJson({ event, statement, author, pruned }: ProvenEntry): Json {
  return {
    ...leafJson(event),
    author: author && authorName(author),
    pruned,
    payload: statement && encodeBase64(statement.payload),
  };
}

function entryText({ event, author, pruned }: ProvenEntry): string {
  const ref = event.ref ? ` ref ${event.ref}` : "";
  const by = author ? authorName(author) : pruned ? "(pruned)" : "(erased)";
  const what = kindName(event.kind).padEnd(11);
  return `${String(event.seq).padStart(5)}  ${time(event.timeMs)}  ${what} ${by}${ref}`;
}

function unreadJson(unread: readonly Unread[]): Json {
  return unread.map(({ publicName, seq, kind }) => ({ public_name: publicName, seq: integer(seq), kind }));
}

function unreadText(unread: readonly Unread[]): string[] {
  return unread.map(
    ({ publicName, seq, kind }) =>
      `could not tell what ${kindName(kind)} says, seq ${seq}${publicName && ` of ${publicName}`}`,
  );
}

function scopeJson({ range, tag, participant }: BundleScope): Json {
  if (range) return { first: integer(range[0]), last: integer(range[1]) };
  return tag ? { tag: encodeHex(tag) } : { participant };
}

function scopeText({ range, tag, participant }: BundleScope, chains: readonly BundleChain[]): string {
  if (range) return `it says it is of the entries ${range[0]} to ${range[1]}: they are all there`;
  const [missing] = chains.find((chain) => tag && equal(chain.tag, tag))?.missing ?? [];
  if (tag) return `it says it is of tag ${encodeHex(tag)}: its chain is whole${missing ? ` from ${missing[1] + 1n} on` : ""}`;
  return `it says it is of participant ${participant}: its chain is whole`;
}

function anchorJson({
  checkpoint,
  cosignatures,
}: HistoryEvidence | ReceiptEvidence | BundleEvidence): Record<string, Json> {
  const { origin, size, root } = checkpoint;
  return {
    origin,
    tree_size: integer(size),
    root: encodeBase64(root),
    cosignatures: cosignatures.map(({ name, timeMs }) => ({ name, time_ms: timeMs })),
  };
}

function leafJson(leaf: Event | Seal): Record<string, Json> {
  if (leaf.type === "seal") return { kind: "SEAL", time_ms: integer(leaf.timeMs) };
  const { kind, timeMs, seq, ref } = leaf;
  return { kind: kindName(kind), time_ms: integer(timeMs), seq: integer(seq), ref: integer(ref) };
}

function cosignatureText(cosignatures: readonly Cosignature[]): string[] {
  return cosignatures.map(({ name, timeMs }) => `cosigned by ${name} ${time(BigInt(timeMs))}`);
}

function authorName({ owner, name }: KeyTerm): string {
  if (owner === "participant") return `participant/${name}`;
  return owner === "ledger" ? "ledger" : "the person";
}

/** An integer as JSON: a number, or its digits where a number would not be exact. */
function integer(value: bigint): Json {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value);
}

function time(timeMs: bigint): string {
  return timeMs <= 8_640_000_000_000_000n ? new Date(Number(timeMs)).toISOString() : `${timeMs} ms`;
}
