/**
 * Parse and verify signed notes (C2SP signed-note, tlog-cosignature).
 *
 * A note is a text that ends in a newline, an empty line, and signature lines:
 *
 *     — <key name> <base64 of key ID u32 || signature>
 *     key ID = SHA-256(key name || 0x0A || type || public key)[:4]
 *
 * A signature by an unknown key is ignored. A signature by a known key must verify, or the whole note is refused. Two
 * types of key are supported: a key of type 0x01 signs the text as it is; a key of type 0x04 is a witness's, whose
 * signature begins with the time u64 (POSIX seconds) and covers `cosignature/v1`, that time and the text.
 */

import { concat, decodeBase64, decodeText, encodeBase64, encodeText, equal, sha256 } from "./bytes.js";
import { KEY_SIZE, SIGNATURE_SIZE, checkPublicKey, verify } from "./ed25519.js";
import { MalformedError, SignatureError } from "./errors.js";

/** Type of a key that signs the note's text. */
export const ED25519 = 0x01;
/** Type of a witness's key: signs the time and the text (cosignature/v1). */
export const COSIGNATURE = 0x04;
export const MAX_NOTE_SIZE = 1_000_000;

const MAX_SIGNATURES = 100;
const CONTROL = /[\x00-\x09\x0b-\x1f]/;
/** White space by the Unicode standard. Not `\s`, which contains U+FEFF and lacks U+0085. */
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const DASH = "— ";

/** Report whether a text has white space by the Unicode standard. */
export function hasSpace(text: string): boolean {
  return SPACE.test(text);
}

/** A public key with its name and type, as in a vkey. */
export class Verifier {
  /** The key's ID, a u32. */
  readonly keyId: number;

  /**
   * @throws {MalformedError} the name is empty or has a space, a control character or a plus; the type is not one of
   * ours; the key is no Ed25519 public key.
   */
  constructor(readonly name: string, readonly publicKey: Uint8Array, readonly kind: number = ED25519) {
    if (kind !== ED25519 && kind !== COSIGNATURE) throw new MalformedError("key type is not supported");
    checkPublicKey(publicKey);
    this.keyId = u32(sha256(encodeName(name), Uint8Array.of(0x0a, kind), publicKey));
  }

  /** Verify a signature (the bytes after the key ID of its line) over the text of a note.
   *
   * @throws {SignatureError} it does not verify, or has the wrong length.
   */
  verify(text: Uint8Array, signature: Uint8Array): void {
    let [signed, raw] = [text, signature];
    if (this.kind === COSIGNATURE) {
      if (signature.length !== 8 + SIGNATURE_SIZE || signature[0]! & 0x80) {
        throw new SignatureError("cosignature is not 72 bytes long, or its time exceeds 63 bits");
      }
      signed = concat(encodeText(`cosignature/v1\ntime ${timeOf(signature)}\n`), text);
      raw = signature.subarray(8);
    }
    if (raw.length !== SIGNATURE_SIZE) throw new SignatureError("signature is not 64 bytes long");
    verify(this.publicKey, signed, raw);
  }

  /** Report whether this is the same key under the same name. */
  equals(other: Verifier): boolean {
    return this.name === other.name && this.kind === other.kind && equal(this.publicKey, other.publicKey);
  }
}

/** Parse a verifier key, `name+ID+base64(type || key)`.
 *
 * @throws {MalformedError} it is not one, or its ID is not that of its key.
 */
export function parseVkey(text: string): Verifier {
  const [, name, keyId, encoded] = /^([^+]*)\+([0-9a-f]{8})\+(.*)$/s.exec(text) ?? [];
  if (name === undefined || keyId === undefined || encoded === undefined) {
    throw new MalformedError("key has no ID of eight lower-case hexadecimal digits");
  }
  const keyed = decodeBase64(encoded);
  if (keyed.length !== 1 + KEY_SIZE) throw new MalformedError("key is not a type and 32 bytes");
  const verifier = new Verifier(name, keyed.slice(1), keyed[0]);
  if (verifier.keyId !== Number.parseInt(keyId, 16)) {
    throw new MalformedError("verifier key has an ID that is not its own");
  }
  return verifier;
}

/** Format a verifier key, `name+ID+base64(type || key)`. */
export function formatVkey({ name, keyId, kind, publicKey }: Verifier): string {
  const id = keyId.toString(16).padStart(8, "0");
  return `${name}+${id}+${encodeBase64(concat(Uint8Array.of(kind), publicKey))}`;
}

/** One signature line. Name and key ID together identify the key. */
export interface NoteSignature {
  readonly name: string;
  readonly keyId: number;
  readonly signature: Uint8Array;
}

/** The text of a note, the signatures that verified, and the signatures by unknown keys. */
export interface Note {
  readonly text: string;
  readonly verified: readonly NoteSignature[];
  readonly unverified: readonly NoteSignature[];
}

/** Return the time of a cosignature, in POSIX seconds. The signature must be a verified one of a witness's key. */
export function timeOf(signature: Uint8Array): bigint {
  return new DataView(signature.buffer, signature.byteOffset).getBigUint64(0);
}

/** Parse a note without verifying anything. All its signatures are then in `unverified`.
 *
 * @throws {MalformedError} it is not a note, or has more than 1,000,000 bytes or 100 signatures.
 */
export function parseNote(note: Uint8Array): Note {
  if (note.length > MAX_NOTE_SIZE) throw new MalformedError("note is larger than 1,000,000 bytes");
  const whole = decodeText(note, "note");
  if (CONTROL.test(whole)) throw new MalformedError("note has a control character");
  // The text may have empty lines. The last empty line of the note separates text and signatures.
  const at = whole.lastIndexOf("\n\n");
  const lines = whole.slice(at + 2);
  if (at < 0 || !lines.endsWith("\n")) throw new MalformedError("note has no signatures or does not end in a newline");
  const signatures = lines.slice(0, -1).split("\n");
  if (signatures.length > MAX_SIGNATURES) throw new MalformedError("note has more than 100 signatures");
  return { text: whole.slice(0, at + 1), verified: [], unverified: signatures.map(parseSignature) };
}

/** Parse a note and verify each signature by a known key.
 *
 * @throws {MalformedError} it is not a note.
 * @throws {SignatureError} a signature by a known key does not verify, or no known key signed; or two of the verifiers
 * have the same name and ID, so that a line could be by either of them.
 */
export function openNote(note: Uint8Array, verifiers: readonly Verifier[]): Note {
  for (const verifier of verifiers) {
    if (verifiers.some((other) => isBy(other, verifier) && !other.equals(verifier))) {
      throw new SignatureError("verifier keys have the same name and ID");
    }
  }
  const parsed = parseNote(note);
  const text = encodeText(parsed.text);
  const verified: NoteSignature[] = [];
  const unverified: NoteSignature[] = [];
  for (const signature of parsed.unverified) {
    const known = verifiers.find((verifier) => isBy(signature, verifier));
    known?.verify(text, signature.signature);
    (known ? verified : unverified).push(signature);
  }
  if (!verified.length) throw new SignatureError("note is signed by no known key");
  return { text: parsed.text, verified, unverified };
}

/** Report whether a signature line claims to be by this key. */
export function isBy(line: { name: string; keyId: number }, verifier: Verifier): boolean {
  return line.name === verifier.name && line.keyId === verifier.keyId;
}

function parseSignature(line: string): NoteSignature {
  if (!line.startsWith(DASH)) throw new MalformedError("signature line does not begin with a dash and a space");
  const rest = line.slice(DASH.length);
  const at = rest.indexOf(" ");
  const name = at < 0 ? rest : rest.slice(0, at);
  encodeName(name);
  const signature = decodeBase64(at < 0 ? "" : rest.slice(at + 1));
  if (signature.length < 5) throw new MalformedError("signature is shorter than a key ID and one byte");
  return { name, keyId: u32(signature), signature: signature.slice(4) };
}

function encodeName(name: string): Uint8Array {
  if (!name || name.includes("+") || CONTROL.test(name) || hasSpace(name)) {
    throw new MalformedError("key name is empty or has a space, a control character or a plus");
  }
  return encodeText(name);
}

function u32(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
}
