/**
 * Parse and verify checkpoints and receipts (C2SP tlog-checkpoint, tlog-proof).
 *
 * A checkpoint is a signed note that states the tree's size and root hash:
 *
 *     <origin>
 *     <size, decimal>
 *     <root hash, base64>
 *
 * Extension lines are refused, because no verifier of ours would check their content. A receipt is a *tlog-proof*,
 * which verifies offline:
 *
 *     c2sp.org/tlog-proof@v1
 *     extra <base64>            optional; not authenticated
 *     index <decimal>
 *     <base64 hash>             none or more, the leaf's sibling first
 *
 *     <checkpoint note>
 */

import { decodeBase64, decodeText, equal } from "./bytes.js";
import { HASH_SIZE } from "./codec.js";
import { MalformedError, ProofError, SignatureError, UnknownKeyError } from "./errors.js";
import { EMPTY_ROOT, verifyInclusion } from "./merkle.js";
import { hasSpace, isBy, MAX_NOTE_SIZE, type Note, openNote, parseNote, type Verifier } from "./note.js";

/** The largest tree size that is accepted. */
export const MAX_SIZE = (1n << 63n) - 1n;

const MAX_PROOF_LENGTH = 63;
const MAX_TLOG_PROOF_SIZE = 2 * MAX_NOTE_SIZE;
const DECIMAL = /^(?:0|[1-9][0-9]{0,18})$/;
const MAGIC = "c2sp.org/tlog-proof@v1";

/** The state of the log called `origin`: a tree of `size` leaves with the root hash `root` (32 bytes). */
export interface Checkpoint {
  readonly origin: string;
  readonly size: bigint;
  readonly root: Uint8Array;
}

/** A receipt: the index of a leaf, and the proof that the checkpoint's tree has the leaf at that index. */
export interface TlogProof {
  /** Bytes that are carried along and not authenticated; empty for none. */
  readonly extra: Uint8Array;
  /** Of the leaf, from 0. */
  readonly index: bigint;
  /** Hashes of 32 bytes, the leaf's sibling first. */
  readonly proof: readonly Uint8Array[];
  /** The signed note, verbatim. */
  readonly checkpointNote: Uint8Array;
}

/** Parse the text of a checkpoint note: exactly three lines.
 *
 * @throws {MalformedError} it is not one, has extension lines, or has size 0 and a root that is not the empty root.
 */
export function parseCheckpoint(text: string): Checkpoint {
  const [origin, sizeLine, rootLine, end, ...more] = text.split("\n");
  if (origin === undefined || sizeLine === undefined || rootLine === undefined || end !== "" || more.length) {
    throw new MalformedError("checkpoint does not have exactly three lines");
  }
  const size = parseDecimal(sizeLine);
  const root = parseHash(rootLine);
  if (!origin || hasSpace(origin) || origin.includes("+")) {
    throw new MalformedError("checkpoint has an origin that is empty or has a space or a plus");
  }
  if (size === 0n && !equal(root, EMPTY_ROOT)) {
    throw new MalformedError("checkpoint of size 0 does not have the empty root");
  }
  return { origin, size, root };
}

/** Verify that this log signed a checkpoint note; return the checkpoint, and the note with its verified signatures.
 *
 * @throws {MalformedError} it is not a checkpoint note.
 * @throws {UnknownKeyError} its only signatures in the log's name are by other keys. The log may have replaced its key.
 * @throws {SignatureError} the log has not signed it, or a signature by the log or a known witness is wrong.
 * @throws {ProofError} it is a checkpoint of another origin.
 */
export function openCheckpoint(
  note: Uint8Array,
  origin: string,
  log: Verifier,
  witnesses: readonly Verifier[] = [],
): [Checkpoint, Note] {
  const lines = parseNote(note).unverified;
  if (lines.some(({ name }) => name === log.name) && !lines.some((line) => isBy(line, log))) {
    throw new UnknownKeyError(
      "checkpoint is signed in the log's name by a key that is not pinned. If the log has replaced its key, verify a " +
        "file with its rotations, which leads from the pinned key to the new one; then pin the new one",
    );
  }
  const opened = openNote(note, [log, ...witnesses]);
  if (!opened.verified.some((line) => isBy(line, log))) throw new SignatureError("checkpoint is not signed by the log");
  const checkpoint = parseCheckpoint(opened.text);
  if (checkpoint.origin !== origin) throw new ProofError("checkpoint is of another origin");
  return [checkpoint, opened];
}

/** Parse a tlog-proof. The hashes and the checkpoint are not verified.
 *
 * @throws {MalformedError} it is not one, or has more than 63 hashes or 2,000,000 bytes.
 */
export function parseProof(text: Uint8Array): TlogProof {
  if (text.length > MAX_TLOG_PROOF_SIZE) throw new MalformedError("tlog-proof is larger than 2,000,000 bytes");
  const end = text.findIndex((byte, i) => byte === 0x0a && text[i + 1] === 0x0a);
  if (end < 0 || end + 2 === text.length) throw new MalformedError("tlog-proof has no checkpoint");
  const head = text.subarray(0, end);
  if (head.some((byte) => byte >= 0x80)) throw new MalformedError("tlog-proof is not ASCII before its checkpoint");
  const [magic, ...lines] = decodeText(head, "tlog-proof").split("\n");
  if (magic !== MAGIC) throw new MalformedError("tlog-proof does not begin with its mark");
  let extra = new Uint8Array();
  if (lines[0]?.startsWith("extra ")) {
    extra = Uint8Array.from(decodeBase64(lines.shift()!.slice("extra ".length)));
    if (!extra.length) throw new MalformedError("tlog-proof has an extra line without content");
  }
  const indexLine = lines.shift();
  if (!indexLine?.startsWith("index ")) throw new MalformedError("tlog-proof has no index");
  const index = parseDecimal(indexLine.slice("index ".length));
  if (lines.length > MAX_PROOF_LENGTH) throw new MalformedError("tlog-proof has more than 63 hashes");
  return { extra, index, proof: lines.map(parseHash), checkpointNote: text.slice(end + 2) };
}

/** Verify, offline, that a tlog-proof shows the leaf of this hash in a tree that this log signed.
 *
 * @returns the parsed parts.
 * @throws {MalformedError} it is not a tlog-proof with a checkpoint, or the hash is not 32 bytes long.
 * @throws {SignatureError} the log has not signed it, or a signature by a known key is wrong.
 * @throws {ProofError} another origin, or the proof does not lead from the leaf to the root.
 */
export function verifyProof(
  text: Uint8Array,
  leafHash: Uint8Array,
  origin: string,
  log: Verifier,
  witnesses: readonly Verifier[] = [],
): [TlogProof, Checkpoint, Note] {
  const receipt = parseProof(text);
  const [checkpoint, note] = openCheckpoint(receipt.checkpointNote, origin, log, witnesses);
  const { size, root } = checkpoint;
  verifyInclusion(receipt.proof, { index: receipt.index, size, leafHash, root });
  return [receipt, checkpoint, note];
}

function parseDecimal(text: string): bigint {
  if (!DECIMAL.test(text) || BigInt(text) > MAX_SIZE) {
    throw new MalformedError("number is not a decimal without leading zeros, below 2**63");
  }
  return BigInt(text);
}

function parseHash(text: string): Uint8Array {
  const content = decodeBase64(text);
  if (content.length !== HASH_SIZE) throw new MalformedError("hash is not 32 bytes long");
  return content;
}
