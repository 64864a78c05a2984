/**
 * Join, compare and hash bytes; encode and decode them as UTF-8, base64 and hexadecimal.
 *
 * Decoding is strict: each value has only one text, so that two programs accept the same texts.
 */

import { sha256 as hash } from "@noble/hashes/sha2.js";

import { MalformedError } from "./errors.js";

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const DIGITS = new Int8Array(128).fill(-1);
for (let i = 0; i < 64; i++) DIGITS[BASE64.charCodeAt(i)] = i;

// `ignoreBOM` keeps a byte order mark as a character. Without it, the decoder would drop the mark silently.
const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const ENCODER = new TextEncoder();
const LONE_SURROGATE = /[\ud800-\udfff]/u;

/** Hash the concatenation of byte strings with SHA-256, to 32 bytes. */
export function sha256(...parts: Uint8Array[]): Uint8Array {
  const state = hash.create();
  for (const part of parts) state.update(part);
  return state.digest();
}

/** Join bytes. */
export function concat(...parts: Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Report whether two byte strings are equal. Not constant-time: nothing compared here is secret. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Encode an integer of 64 bits, big-endian, to 8 bytes. */
export function encodeU64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

/** Encode text as UTF-8.
 *
 * @throws {MalformedError} the text has half of a surrogate pair, which UTF-8 cannot encode.
 */
export function encodeText(text: string): Uint8Array {
  if (LONE_SURROGATE.test(text)) throw new MalformedError("text cannot be encoded as UTF-8");
  return ENCODER.encode(text);
}

/** Decode UTF-8, strictly.
 *
 * @param what what the error message calls the bytes.
 * @throws {MalformedError} the bytes are not UTF-8.
 */
export function decodeText(bytes: Uint8Array, what: string): string {
  try {
    return DECODER.decode(bytes);
  } catch {
    throw new MalformedError(`${what} is not UTF-8`);
  }
}

/** Encode bytes in lower-case hexadecimal. */
export function encodeHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Decode hexadecimal.
 *
 * @throws {MalformedError} the text is not hexadecimal.
 */
export function decodeHex(text: string): Uint8Array {
  if (!/^(?:[0-9a-fA-F]{2})*$/.test(text)) throw new MalformedError("hexadecimal is malformed");
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => Number.parseInt(text.slice(2 * i, 2 * i + 2), 16));
}

/** Encode bytes in standard base64. */
export function encodeBase64(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; i += 3) {
    const three = (bytes[i]! << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0);
    for (const shift of [18, 12, 6, 0]) text += BASE64[(three >> shift) & 63];
  }
  const missing = (3 - (bytes.length % 3)) % 3;
  return missing ? text.slice(0, -missing) + "=".repeat(missing) : text;
}

/** Decode standard base64 in its only canonical form: padded, no other characters, unused bits zero.
 *
 * @throws {MalformedError} the text is not canonical base64.
 */
export function decodeBase64(text: string): Uint8Array {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const digits = text.length - padding;
  if (text.length % 4) throw new MalformedError("base64 is malformed");
  const bytes = new Uint8Array((text.length / 4) * 3 - padding);
  let bits = 0;
  let held = 0;
  let at = 0;
  for (let i = 0; i < digits; i++) {
    const digit = DIGITS[text.charCodeAt(i)] ?? -1;
    if (digit < 0) throw new MalformedError("base64 is malformed");
    bits = (bits << 6) | digit;
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes[at++] = bits >> held;
      bits &= (1 << held) - 1;
    }
  }
  if (bits) throw new MalformedError("base64 is not canonical");
  return bytes;
}
