/**
 * Verify that a seal's map has a value under a key, or nothing: the Merkle Patricia Tree of `filippo.io/torchwood/mpt`
 * v0.10.0.
 *
 *     leaf  = SHA-256(0x00 || uvarint(len key) || key || uvarint(len value) || value)
 *     inner = SHA-256(0x01 || uvarint(bit) || left || right)      bit: the first at which the two sides differ
 *     empty = SHA-256("")
 *     presence proof = (uvarint(bit) || sibling)*                 leaf to root, bits strictly decreasing
 *     absence proof  = uvarint(len) || other key || uvarint(len) || other value || path of that other key
 *
 * An absence proof shows the leaf that the bits of our key lead to, and that this leaf is another key's. If our key
 * were in the map, its path would have a bit at which the two keys differ. Bit 0 is the most significant bit of byte 0.
 * Source: ledger-format.md, "Seals and the map".
 */

import { equal, sha256 } from "./bytes.js";
import { HASH_SIZE } from "./codec.js";
import { MalformedError, ProofError } from "./errors.js";
import { EMPTY_ROOT } from "./merkle.js";

const SIZE = Uint8Array.of(HASH_SIZE);
const LEAF = Uint8Array.of(0x00, HASH_SIZE);

interface Step {
  readonly bit: number;
  readonly sibling: Uint8Array;
}

/** Verify that the map with this root has this value under this key. All three are 32 bytes.
 *
 * @throws {MalformedError} a length is wrong, or the proof is not in its one encoding.
 * @throws {ProofError} the proof does not lead to the root.
 */
export function verifyPresence(root: Uint8Array, key: Uint8Array, value: Uint8Array, proof: Uint8Array): void {
  checkSizes(root, key, value);
  verifyPath(root, key, value, new Reader(proof).path());
}

/** Verify that the map with this root has nothing under this key. Both are 32 bytes.
 *
 * For the empty map the proof is empty.
 *
 * @throws {MalformedError} a length is wrong, or the proof is not in its one encoding.
 * @throws {ProofError} the proof does not lead to the root, or the leaf that it shows does not exclude the key.
 */
export function verifyAbsence(root: Uint8Array, key: Uint8Array, proof: Uint8Array): void {
  checkSizes(root, key);
  if (!proof.length) {
    if (!equal(root, EMPTY_ROOT)) throw new ProofError("absence proof is empty, the map is not");
    return;
  }
  const reader = new Reader(proof);
  const [otherKey, otherValue] = [reader.field(), reader.field()];
  const path = reader.path();
  if (equal(key, otherKey)) throw new ProofError("absence proof shows the very key as present");
  if (path.some(({ bit }) => bitOf(key, bit) !== bitOf(otherKey, bit))) {
    throw new ProofError("absence proof shows a leaf that the key does not lead to");
  }
  verifyPath(root, otherKey, otherValue, path);
}

function verifyPath(root: Uint8Array, key: Uint8Array, value: Uint8Array, path: readonly Step[]): void {
  let node = sha256(LEAF, key, SIZE, value);
  for (const { bit, sibling } of path) {
    const inner = Uint8Array.of(0x01, ...uvarint(bit));
    node = bitOf(key, bit) ? sha256(inner, sibling, node) : sha256(inner, node, sibling);
  }
  if (!equal(node, root)) throw new ProofError("map proof does not lead to the root hash");
}

function bitOf(key: Uint8Array, bit: number): number {
  return (key[bit >> 3]! >> (7 - (bit & 7))) & 1;
}

function uvarint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, value >> 7];
}

function checkSizes(...hashes: Uint8Array[]): void {
  if (hashes.some(({ length }) => length !== HASH_SIZE)) {
    throw new MalformedError("map root, key or value is not 32 bytes long");
  }
}

class Reader {
  #at = 0;

  constructor(readonly proof: Uint8Array) {}

  /** Read a length-prefixed key or value of 32 bytes. */
  field(): Uint8Array {
    const size = this.#uvarint();
    const field = this.#take(size);
    if (size !== HASH_SIZE || field.length !== size) {
      throw new MalformedError("map proof has a key or value that is not 32 bytes long");
    }
    return field;
  }

  /** Read steps until the end of the proof. */
  path(): Step[] {
    const steps: Step[] = [];
    let above = 256;
    while (this.#at < this.proof.length) {
      const bit = this.#uvarint();
      const sibling = this.#take(HASH_SIZE);
      if (sibling.length !== HASH_SIZE) throw new MalformedError("map proof ends within a step");
      if (bit >= above) throw new MalformedError("map proof has bits that do not decrease");
      above = bit;
      steps.push({ bit, sibling });
    }
    return steps;
  }

  #take(size: number): Uint8Array {
    const field = this.proof.subarray(this.#at, this.#at + size);
    this.#at += size;
    return field;
  }

  /** Read a uvarint of one or two bytes. No number in a proof needs more. */
  #uvarint(): number {
    const first = this.proof[this.#at];
    if (first !== undefined && first < 0x80) {
      this.#at += 1;
      return first;
    }
    const second = this.proof[this.#at + 1];
    // With a second byte of zero, the first byte alone would encode the same number.
    if (first === undefined || second === undefined || second === 0 || second >= 0x80) {
      throw new MalformedError("map proof has a bad or missing uvarint");
    }
    this.#at += 2;
    return (first & 0x7f) | (second << 7);
  }
}
