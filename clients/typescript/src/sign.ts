/**
 * Sign with a person's own key: calls and proofs of possession (callers.md), and statements (ledger-format.md 3.3).
 *
 * Ed25519 as in RFC 8032: the same key and bytes make the same signature in each language. JavaScript cannot promise
 * that the time of a signature tells nothing of the key, so do not sign where others can measure it.
 */

import { ed25519 } from "@noble/curves/ed25519.js";

import { concat, encodeText, encodeU64, sha256 } from "./bytes.js";
import { signedMessage } from "./codec.js";
import { KEY_SIZE } from "./ed25519.js";

/** The binary header (gRPC metadata key) that has the signature of a call. */
export const CALL_SIGNATURE_HEADER = "consentd-call-signature-bin";
const POSSESSION = encodeText("consentd/possession/v1\0");
const CALL_VERSION = 1;
const CALL = encodeText("consentd/call/v1\0");
const TAG_SIZE = 32;
const REQUEST_ID_SIZE = 16;

/** What a call is signed with. */
export interface CallToSign {
  /** The ledger's name. */
  readonly origin: string;
  /** Path of the RPC, as in `/consentd.v1.LedgerService/GetHistory`. */
  readonly method: string;
  /** The request as it is sent, byte for byte: serialise it once. */
  readonly message: Uint8Array;
  /** The signer's clock, UTC milliseconds. */
  readonly timeMs: number;
}

/** What a statement is signed with. */
export interface StatementToSign {
  /** The ledger's name. */
  readonly origin: string;
  /** Number of the entry's kind. */
  readonly kind: number;
  /** The person's tag, 32 bytes: the signature is valid in this chain alone. */
  readonly tag: Uint8Array;
  /** Seq of the entry of the same chain that this one refers to; 0n: none. */
  readonly ref: bigint;
  /** The request_id of the write, 16 bytes. */
  readonly requestId: Uint8Array;
  /** The signer's clock, UTC milliseconds. */
  readonly timeMs: number;
  /** The serialised statement, as it is sent. */
  readonly payload: Uint8Array;
}

/** The fields of a `SignedStatement`, with the names of `consentd.v1`. */
export interface SignedFields {
  readonly key: Uint8Array;
  readonly signature: Uint8Array;
  readonly authorTimeMs: bigint;
  readonly payload: Uint8Array;
  readonly ref: bigint;
}

/** A person's Ed25519 key pair. */
export class PersonKey {
  /** The public key, 32 bytes. */
  readonly publicKey: Uint8Array;
  readonly #seed: Uint8Array;

  /**
   * @param seed the secret key of RFC 8032, 32 random bytes; a file of `consentd key new` has it in hexadecimal.
   * @throws {TypeError} it is not 32 bytes.
   */
  constructor(seed: Uint8Array) {
    if (seed.length !== KEY_SIZE) throw new TypeError("secret key is not 32 bytes");
    this.#seed = seed.slice();
    this.publicKey = ed25519.getPublicKey(this.#seed);
  }

  /** Return the value of `CALL_SIGNATURE_HEADER` for a call, 137 bytes. */
  signCall({ origin, method, message, timeMs }: CallToSign): Uint8Array {
    const time = encodeTime(timeMs);
    const messageHash = sha256(message);
    const signed = concat(CALL, sha256(encodeText(origin)), sha256(encodeText(method)), time, messageHash);
    const signature = ed25519.sign(signed, this.#seed);
    return concat(Uint8Array.of(CALL_VERSION), this.publicKey, time, messageHash, signature);
  }

  /** Return the proof that this person has the secret key, 64 bytes: the field `possession` where a key is registered.
   *
   * @param subject the identifier, as the request has it.
   */
  provePossession(origin: string, { scheme, value }: { readonly scheme: string; readonly value: string }): Uint8Array {
    const owner = sha256(encodeText(`subject/${scheme}:${value}`));
    return ed25519.sign(concat(POSSESSION, sha256(encodeText(origin)), owner, this.publicKey), this.#seed);
  }

  /** Return the fields of a `SignedStatement`.
   *
   * @throws {TypeError} the tag is not 32 bytes, the request_id not 16, the kind no byte, or the time none.
   */
  signStatement({ origin, kind, tag, ref, requestId, timeMs, payload }: StatementToSign): SignedFields {
    if (tag.length !== TAG_SIZE) throw new TypeError("tag is not 32 bytes");
    if (requestId.length !== REQUEST_ID_SIZE) throw new TypeError("request_id is not 16 bytes");
    if (!Number.isInteger(kind) || kind < 1 || kind > 254) throw new TypeError("kind is no kind of entries");
    encodeTime(timeMs);
    const authorTimeMs = BigInt(timeMs);
    const signed = signedMessage(origin, { kind, tag, ref }, { requestId, authorTimeMs, payload });
    return { key: this.publicKey, signature: ed25519.sign(signed, this.#seed), authorTimeMs, payload, ref };
  }
}

function encodeTime(timeMs: number): Uint8Array {
  if (!Number.isSafeInteger(timeMs) || timeMs < 0) throw new TypeError("time is not a number of milliseconds");
  return encodeU64(BigInt(timeMs));
}
