/**
 * Decode leaves and statements, the ledger's own formats, and compute the hashes over them.
 *
 * A leaf is a binary record of fixed length. Decoding is strict: exact length and known version. Integers are
 * big-endian. Source: ledger-format.md, "Leaves", "Statements".
 */

import { concat, encodeText, encodeU64, sha256 } from "./bytes.js";
import { MalformedError } from "./errors.js";

export const HASH_SIZE = 32;
export const ZERO_HASH = new Uint8Array(HASH_SIZE);

const LEAF_VERSION = 1;
const EVENT_LENGTH = 122;
const SEAL_LENGTH = 90;
const SEAL_KIND = 0;
const QUESTION_KIND = 255;
const ALG_ED25519 = 1;
const STATEMENT_OVERHEAD = 1 + 32 + 64 + 16 + 8;
const MAX_PAYLOAD = 16 * 1024;

const prefix = (name: string): Uint8Array => encodeText(`consentd/${name}/v1\0`);
const CHAIN = prefix("chain");
const COMMIT = prefix("commit");
const ENTRY = prefix("entry");
const PUBLIC = prefix("public");
const SUBJECT = prefix("subject");
const HEAD_VALUE = prefix("head");

/** An event leaf: an entry of the chain called `tag`. Hashes are 32 bytes. */
export interface Event {
  readonly type: "event";
  /** 1…254. */
  readonly kind: number;
  readonly timeMs: bigint;
  readonly tag: Uint8Array;
  /** 1, 2, 3 … within the tag. */
  readonly seq: bigint;
  /** Chain hash of the tag's leaf before; zeros in the first leaf. */
  readonly prev: Uint8Array;
  /** Commitment to the statement. */
  readonly commit: Uint8Array;
  /** seq of the leaf in the same chain that this entry relies on; 0n: none. */
  readonly ref: bigint;
}

/** A seal leaf: it commits to the count and head of every chain. */
export interface Seal {
  readonly type: "seal";
  readonly timeMs: bigint;
  /** How many leaves it covers: its own index. */
  readonly covers: bigint;
  readonly mapRoot: Uint8Array;
  /** Keys in the map. */
  readonly tags: bigint;
  readonly prevSeal: Uint8Array;
}

/** What a leaf commits to: a payload with its author and signature. */
export interface Statement {
  /** The author's Ed25519 public key, 32 bytes. */
  readonly key: Uint8Array;
  /** 64 bytes over `signedMessage`. */
  readonly signature: Uint8Array;
  readonly requestId: Uint8Array;
  readonly authorTimeMs: bigint;
  /** A serialised `consentd.v1` message, as it was received. */
  readonly payload: Uint8Array;
}

/** Decode a leaf, strictly.
 *
 * @throws {MalformedError} unknown version, wrong length for the kind, or a field with an impossible value.
 */
export function decodeLeaf(leaf: Uint8Array): Event | Seal {
  if (leaf.length < 2) throw new MalformedError("leaf is too short");
  const [version, kind] = [leaf[0]!, leaf[1]!];
  if (version !== LEAF_VERSION) throw new MalformedError(`leaf version unknown: \`${version}\``);
  const view = new DataView(leaf.buffer, leaf.byteOffset, leaf.byteLength);
  if (kind === SEAL_KIND) {
    if (leaf.length !== SEAL_LENGTH) throw new MalformedError(`seal leaf has the wrong length: \`${leaf.length}\``);
    return {
      type: "seal",
      timeMs: view.getBigUint64(2),
      covers: view.getBigUint64(10),
      mapRoot: leaf.slice(18, 50),
      tags: view.getBigUint64(50),
      prevSeal: leaf.slice(58, 90),
    };
  }
  if (leaf.length !== EVENT_LENGTH) throw new MalformedError(`event leaf has the wrong length: \`${leaf.length}\``);
  if (kind === QUESTION_KIND) throw new MalformedError("leaf kind 255 is reserved");
  const [seq, prev, ref] = [view.getBigUint64(42), leaf.slice(50, 82), view.getBigUint64(114)];
  if (seq === 0n || ref >= seq) throw new MalformedError("event leaf has an impossible seq or ref");
  if ((seq === 1n) !== prev.every((byte) => byte === 0)) {
    throw new MalformedError("event leaf has prev where none can be, or lacks it");
  }
  const [tag, commit] = [leaf.slice(10, 42), leaf.slice(82, 114)];
  return { type: "event", kind, timeMs: view.getBigUint64(2), tag, seq, prev, commit, ref };
}

/** Return the chain hash of a leaf, `H("consentd/chain/v1\0" ‖ leaf)`. Unlike the leaf hash, it is not public. */
export function chainHash(leaf: Uint8Array): Uint8Array {
  return sha256(CHAIN, leaf);
}

/** Return the tag of a public chain, `H("consentd/public/v1\0" ‖ name)`. */
export function publicTag(name: string): Uint8Array {
  return sha256(PUBLIC, encodeText(name));
}

/** Return a tag's key in the map, `H("consentd/subject/v1\0" ‖ tag)`. */
export function mapKey(tag: Uint8Array): Uint8Array {
  return sha256(SUBJECT, tag);
}

/** Return a tag's value in the map, `H("consentd/head/v1\0" ‖ tag ‖ count u64 ‖ head)`. */
export function mapValue(tag: Uint8Array, count: bigint, head: Uint8Array): Uint8Array {
  return sha256(HEAD_VALUE, tag, encodeU64(count), head);
}

/** Commit to a statement, `H("consentd/commit/v1\0" ‖ salt[32] ‖ statement)`. */
export function commit(salt: Uint8Array, statement: Uint8Array): Uint8Array {
  return sha256(COMMIT, salt, statement);
}

/** Decode a statement. The payload stays bytes, because it is verified before it is decoded.
 *
 * @throws {MalformedError} too short, too long, or an unknown algorithm.
 */
export function decodeStatement(bytes: Uint8Array): Statement {
  if (bytes.length < STATEMENT_OVERHEAD || bytes.length > STATEMENT_OVERHEAD + MAX_PAYLOAD) {
    throw new MalformedError(`statement has an impossible length: \`${bytes.length}\``);
  }
  if (bytes[0] !== ALG_ED25519) throw new MalformedError(`statement algorithm unknown: \`${bytes[0]}\``);
  return {
    key: bytes.slice(1, 33),
    signature: bytes.slice(33, 97),
    requestId: bytes.slice(97, 113),
    authorTimeMs: new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(113),
    payload: bytes.slice(STATEMENT_OVERHEAD),
  };
}

/** Return what an author signs.
 *
 * `"consentd/entry/v1\0" ‖ H(origin) ‖ kind ‖ tag ‖ ref ‖ request_id ‖ author_time_ms ‖ H(payload)`
 */
export function signedMessage(
  origin: string,
  event: Pick<Event, "kind" | "tag" | "ref">,
  statement: Pick<Statement, "requestId" | "authorTimeMs" | "payload">,
): Uint8Array {
  return concat(
    ENTRY,
    sha256(encodeText(origin)),
    Uint8Array.of(event.kind),
    event.tag,
    encodeU64(event.ref),
    statement.requestId,
    encodeU64(statement.authorTimeMs),
    sha256(statement.payload),
  );
}
