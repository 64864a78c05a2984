/**
 * Verify Ed25519 signatures, strictly: S < L; A and R canonical and not of small order; no cofactor in the equation.
 * All of consentd accepts the same signatures (ledger-format.md, "Signature").
 *
 * WebCrypto is not used, because not every browser has Ed25519, and implementations differ in which other signatures
 * they accept. `verify` of `@noble/curves` is not used, because it multiplies the equation by the cofactor and accepts
 * an R of small order, even with `zip215: false`. Only the arithmetic of points comes from there.
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

/** After so many verifications by one key, a table of the key's multiples saves more time than it takes. */
const TABLE_AFTER = 24;
/** Most keys whose points are cached. */
const MAX_CACHED = 256;

/** Check that a key is one that a signer can have: a canonical point of the prime-order group, not the neutral one.
 *
 * @throws {MalformedError} the key is not 32 bytes, or no such point.
 */
export function checkPublicKey(publicKey: Uint8Array): void {
  if (publicKey.length !== KEY_SIZE || !isSigners(publicKey)) {
    throw new MalformedError("key is not an Ed25519 public key: 32 bytes, a canonical point of the prime-order group");
  }
}

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

function isSigners(publicKey: Uint8Array): boolean {
  const found = cached(publicKey);
  // To find out takes as long as a verification, and the same few keys are parsed again and again.
  found.isSigners ??= found.point?.isTorsionFree() ?? false;
  return found.isSigners;
}

function holds(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  const s = numberOf(signature.subarray(32));
  if (s >= L) return false;
  const a = keyPoint(publicKey);
  const r = point(signature.subarray(0, 32));
  if (a === undefined || r === undefined) return false;
  const hash = sha512.create().update(signature.subarray(0, 32)).update(publicKey).update(message).digest();
  const k = numberOf(hash) % L;
  // SB = R + kA. Because R is canonical, this accepts exactly what comparing the encoding of SB - kA with R accepts.
  return BASE.multiplyUnsafe(s).equals(r.add(a.multiplyUnsafe(k)));
}

/** Decode a point; undefined if its encoding is not canonical, or it is off the curve or of small order. */
function point(encoded: Uint8Array): Point | undefined {
  let decoded: Point;
  try {
    decoded = ed25519.Point.fromBytes(encoded, false);
  } catch {
    return undefined;
  }
  // A point of small order, which divides 8, is the neutral point after three doublings.
  return decoded.double().double().double().equals(ZERO) ? undefined : decoded;
}

interface CachedKey {
  readonly point: Point | undefined;
  isSigners?: boolean;
  uses: number;
}

// Only `cached` uses this map. A history has thousands of signatures by a few keys; a table halves their cost.
const cache = new Map<string, CachedKey>();

function cached(publicKey: Uint8Array): CachedKey {
  const name = encodeHex(publicKey);
  let found = cache.get(name);
  if (found === undefined) {
    if (cache.size >= MAX_CACHED) cache.clear();
    found = { point: point(publicKey), uses: 0 };
    cache.set(name, found);
  }
  return found;
}

function keyPoint(publicKey: Uint8Array): Point | undefined {
  const found = cached(publicKey);
  found.uses += 1;
  if (found.uses === TABLE_AFTER) found.point?.precompute(8, true);
  return found.point;
}

/** Decode a little-endian number. */
function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${encodeHex(bytes.slice().reverse())}`);
}
