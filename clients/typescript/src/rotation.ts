/**
 * Follow the rotations of a ledger's keys: its log key, which signs checkpoints, and its statement key.
 *
 * A LEDGER entry of chain `ledger` with a *rotation* replaces one of the two. The statement key signs the entry, and
 * the new key signs the rotation. Source: ledger-format.md, "Rotation of keys".
 */

import { concat, encodeText, encodeU64, equal, sha256 } from "./bytes.js";
import { MAX_SIZE } from "./checkpoint.js";
import { checkPublicKey, KEY_SIZE, SIGNATURE_SIZE, verify } from "./ed25519.js";
import { MalformedError, ProofError, SignatureError } from "./errors.js";
import { formatVkey, Verifier } from "./note.js";
import { type LedgerStatement, LOG_ROLE, type Rotation } from "./payloads.js";

const FOREVER = (1n << 64n) - 1n;

/** Indexes of the entries that a statement key may sign: from `first` until before `end`. */
export interface Term {
  readonly key: Uint8Array;
  readonly first: bigint;
  readonly end: bigint;
  /** Whether no entry so far has replaced or retired the key. */
  readonly inForce: boolean;
}

/** The log key that signs the checkpoints of `fromSize` leaves and more, and the key before it. */
export interface LogTerm {
  readonly fromSize: bigint;
  readonly key: Uint8Array;
  readonly replaces: Uint8Array;
}

/** A log key that was followed: its vkey, and the size of the first checkpoints that it signs; 0n: the pinned key. */
export interface FollowedKey {
  readonly vkey: string;
  readonly fromSize: bigint;
}

/** Return the bytes that the new key of a rotation signs. */
export function rotationMessage(origin: string, rotation: Rotation): Uint8Array {
  const { role, oldKey, newKey, fromSize, reason } = rotation;
  const text = encodeText(reason);
  return concat(
    encodeText("consentd/rotation/v1\0"), sha256(encodeText(origin)), Uint8Array.of(role), oldKey, newKey,
    encodeU64(fromSize), Uint8Array.of(text.length >> 8, text.length & 0xff), text,
  );
}

/** The log keys and the statement keys of a ledger, as chain `ledger` states them so far. */
export class LedgerKeys {
  /** The vkeys that entries name without a rotation. */
  readonly named: string[];
  /** The terms that rotations of the log key begin, in order. Before the first, a key of `named` signs. */
  readonly logTerms: LogTerm[];
  #terms: Term[];

  constructor(
    readonly origin: string,
    named: readonly string[] = [], logTerms: readonly LogTerm[] = [], terms: readonly Term[] = [],
  ) {
    [this.named, this.logTerms, this.#terms] = [[...named], [...logTerms], [...terms]];
  }

  /** The statement keys, each with its term. */
  get terms(): readonly Term[] {
    return this.#terms;
  }

  copy(): LedgerKeys {
    return new LedgerKeys(this.origin, this.named, this.logTerms, this.#terms);
  }

  /** Apply the next LEDGER entry of the chain. The caller verifies the entry's author.
   *
   * @param seq of the entry in its chain. @param signer the key that signed it. @param size of a tree that has it.
   * @throws {ProofError} a rotation contradicts what the ledger stated before, or the entry states a key otherwise than
   * by a rotation, although a key of this role was replaced before.
   * @throws {SignatureError} the new key did not sign the rotation.
   */
  add(stated: LedgerStatement, seq: bigint, signer: Uint8Array, size: bigint): void {
    const { rotation } = stated;
    if (rotation === null) {
      this.#addStated(stated);
      return;
    }
    if (seq === 1n || !stated.isAlone) {
      throw new ProofError("rotation is in leaf 0, or beside other statements about the ledger");
    }
    this.#checkNewKey(rotation);
    const { role, oldKey, newKey, fromSize, newSignature } = rotation;
    if (role === LOG_ROLE) this.#checkLog(rotation, seq);
    else this.#checkStatement(rotation, seq, signer, size);
    if (newSignature.length !== SIGNATURE_SIZE) throw new SignatureError("rotation is not signed by the new key");
    verify(newKey, rotationMessage(this.origin, rotation), newSignature);
    if (role === LOG_ROLE) {
      this.logTerms.push({ fromSize, key: newKey, replaces: oldKey });
      return;
    }
    this.#terms = this.#terms.map((one) => (equal(one.key, oldKey) ? { ...one, end: fromSize, inForce: false } : one));
    this.#terms.push({ key: newKey, first: fromSize, end: FOREVER, inForce: true });
  }

  /** Apply a KEY entry of the chain that retires a statement key. */
  retire(key: Uint8Array): void {
    this.#terms = this.#terms.map((one) => (equal(one.key, key) ? { ...one, inForce: false } : one));
  }

  /** Verify that this key signs the checkpoint of this size.
   *
   * @throws {ProofError} the ledger does not name the key, or another key signs checkpoints of this size.
   */
  verifyLogKey(log: Verifier, size: bigint): void {
    const term = [...this.logTerms].reverse().find(({ fromSize }) => fromSize <= size);
    if (term === undefined) {
      if (this.named.includes(formatVkey(log))) return;
      throw new ProofError("ledger does not name the pinned log key as its own");
    }
    if (!equal(term.key, log.publicKey)) {
      throw new ProofError(`log key was replaced before the checkpoint of size \`${size}\`, or is not yet in force`);
    }
  }

  /** Verify that a statement key may sign the entry at this index. A key of another author is not looked at.
   *
   * @throws {SignatureError} a rotation has replaced the key before, or makes it valid later.
   */
  verifyTerm(key: Uint8Array, index: bigint): void {
    const term = this.#terms.find((one) => equal(one.key, key));
    if (term && !(term.first <= index && index < term.end)) {
      throw new SignatureError("statement key was replaced before this entry, or is valid only later");
    }
  }

  #addStated({ verifierKeys, statementKey }: LedgerStatement): void {
    if (verifierKeys.length && this.logTerms.length) {
      throw new ProofError("ledger names log keys after it has replaced one by a rotation");
    }
    this.named.push(...verifierKeys);
    if (statementKey.length !== KEY_SIZE) return; // no statement can name such a key
    if (this.#terms.some(({ end }) => end !== FOREVER)) {
      throw new ProofError("ledger states a statement key after it has replaced one by a rotation");
    }
    this.#terms = this.#terms.filter(({ key }) => !equal(key, statementKey));
    this.#terms.push({ key: statementKey, first: 0n, end: FOREVER, inForce: true });
  }

  /** Verify that the new key is a public key that the ledger has used for nothing before. */
  #checkNewKey({ newKey, oldKey }: Rotation): void {
    try {
      checkPublicKey(newKey);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      throw new ProofError(`rotation has a new key that is none: ${error.message}`);
    }
    // A signature line has the ID of its key only, so two log keys must not share one.
    const start = this.#vkey(newKey).slice(0, this.origin.length + "+00000000+".length);
    const vkeys = [...this.named, ...this.logTerms.map(({ key }) => this.#vkey(key))];
    const isUsed = vkeys.some((vkey) => vkey.startsWith(start)) || this.#terms.some(({ key }) => equal(key, newKey));
    if (isUsed || equal(newKey, oldKey)) throw new ProofError("rotation has a new key that the ledger has used before");
  }

  #checkLog({ oldKey, fromSize }: Rotation, seq: bigint): void {
    const last = this.logTerms.at(-1);
    const isNamed = (): boolean => this.named.some((vkey) => vkey === this.#vkeyOrNone(oldKey));
    if (last ? !equal(oldKey, last.key) : !isNamed()) {
      throw new ProofError("rotation replaces a log key that is not the ledger's last one");
    }
    // The entry, a seal, and the tree that both are in come before. An entry has at least seq - 1 leaves before it.
    const least = last && last.fromSize >= seq + 2n ? last.fromSize + 1n : seq + 2n;
    if (fromSize < least || fromSize > MAX_SIZE) {
      throw new ProofError(`rotation of the log key has an impossible from_size: \`${fromSize}\``);
    }
  }

  #checkStatement({ oldKey, fromSize }: Rotation, seq: bigint, signer: Uint8Array, size: bigint): void {
    if (!this.#terms.some(({ key, inForce }) => inForce && equal(key, oldKey))) {
      throw new ProofError("rotation replaces a statement key that is not in force");
    }
    if (!equal(signer, oldKey)) {
      throw new ProofError("rotation of the statement key is not signed by the key that it replaces");
    }
    // It is the entry's index plus one, which a history does not show; but an entry has at least seq - 1 before it.
    if (fromSize < seq || fromSize > size - 1n) {
      throw new ProofError(`rotation of the statement key has an impossible from_size: \`${fromSize}\``);
    }
  }

  /** Return the vkey of a log key. */
  #vkey(key: Uint8Array): string {
    return formatVkey(new Verifier(this.origin, key));
  }

  /** Return the vkey of a claimed log key; null: no log key can be so. */
  #vkeyOrNone(key: Uint8Array): string | null {
    try {
      return this.#vkey(key);
    } catch (error) {
      if (error instanceof MalformedError) return null;
      throw error;
    }
  }
}
