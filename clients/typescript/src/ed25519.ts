/**
 * Verify Ed25519 signatures, strictly: S < L, canonical A and R, neither of small order, the equation without the
 * cofactor. The same acceptance as everywhere else in consentd (ledger-format.md, "Signature").
 *
 * WebCrypto is not used: not every browser has Ed25519, and those that do differ in what else they let pass. Of
 * `@noble/curves` only the arithmetic of points is used, and not its `verify`: that multiplies the equation by the
 * cofactor, and lets an R of small order pass, with `zip215: false` too.
 */

import { ed25519 } from "@noble/curves/ed25519.js";
import { sha512 } from "@noble/hashes/sha2.js";

import { encodeHex } from "./bytes.js";
import { MalformedError, SignatureError } from "./errors.js";

export const KEY_SIZE = 32;
export const SIGNATURE_SIZE = 64;

type Point = ReturnType<typeof ed25519.Point.fromBytes>;
const { BASE, ZERO } = ed25519.Point;

/** Order of the base point (RFC 8032 5.1). */
const L = 2n ** 252n + 27742317777372353535851937790883648493n;

/** Verifications after which a key's multiples are worth a table. */
const TABLE_AFTER = 24;
/** Keys whose points are kept. Few sign much. */
const MAX_KEPT = 256;

/** Verify a signature of 64 bytes over a message, by a public key of 32.
 *
 * @throws {MalformedError} the key is not 32 bytes, or the signature not 64.
 * @throws {SignatureError} it does not verify.
 */
export function verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): void {
  if (publicKey.length !== KEY_SIZE || signature.length !== SIGNATURE_SIZE) {
    throw new MalformedError("public key is not 32 bytes long, or signature not 64");
  }
  if (!holds(publicKey, message, signature)) throw new SignatureError("signature does not verify");
}

function holds(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  const s = numberOf(signature.subarray(32));
  if (s >= L) return false;
  const a = keyPoint(publicKey);
  const r = point(signature.subarray(0, 32));
  if (a === undefined || r === undefined) return false;
  const hash = sha512.create().update(signature.subarray(0, 32)).update(publicKey).update(message).digest();
  const k = numberOf(hash) % L;
  // SB = R + kA, which decides as comparing the encoded SB - kA with R does, R being canonical.
  return BASE.multiplyUnsafe(s).equals(r.add(a.multiplyUnsafe(k)));
}

/** Decode a point; undefined where its encoding is not canonical, it is not on the curve, or is of small order. */
function point(encoded: Uint8Array): Point | undefined {
  let decoded: Point;
  try {
    decoded = ed25519.Point.fromBytes(encoded, false);
  } catch {
    return undefined;
  }
  // Doubled three times it is neutral: the order divides 8.
  return decoded.double().double().double().equals(ZERO) ? undefined : decoded;
}

// Owner: keyPoint. A history has thousands of signatures by a few keys; a table of multiples halves their cost.
const kept = new Map<string, { point: Point | undefined; uses: number }>();

function keyPoint(publicKey: Uint8Array): Point | undefined {
  const name = encodeHex(publicKey);
  let found = kept.get(name);
  if (found === undefined) {
    if (kept.size >= MAX_KEPT) kept.clear();
    found = { point: point(publicKey), uses: 0 };
    kept.set(name, found);
  }
  found.uses += 1;
  if (found.uses === TABLE_AFTER) found.point?.precompute(8, true);
  return found.point;
}

/** Read a number, little-endian. */
function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${encodeHex(bytes.slice().reverse())}`);
}
