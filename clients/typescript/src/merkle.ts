/**
 * Hash the leaves and nodes of the tree, and verify proofs about it (RFC 6962 2.1, RFC 9162 2.1).
 *
 *     leaf hash  = SHA-256(0x00 || leaf)
 *     node hash  = SHA-256(0x01 || left || right)
 *     root of n  = node hash of (root of the first k, root of the rest), k the largest power of two below n
 *     root of 0  = SHA-256("")
 *
 * Proofs are lists of 32-byte hashes, the one nearest to the leaf first.
 */

import { equal, sha256 } from "./bytes.js";
import { HASH_SIZE } from "./codec.js";
import { MalformedError, ProofError } from "./errors.js";

/** Root hash of the tree without leaves. */
export const EMPTY_ROOT = sha256();

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

/** Hash the bytes of a leaf to 32 bytes. */
export function leafHash(leaf: Uint8Array): Uint8Array {
  return sha256(LEAF, leaf);
}

/** Hash two 32-byte hashes, side by side, to their parent's. */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  return sha256(NODE, left, right);
}

/** The index of a leaf in a tree. */
export interface Inclusion {
  /** From 0. */
  readonly index: bigint;
  /** Of the tree. */
  readonly size: bigint;
  readonly leafHash: Uint8Array;
  readonly root: Uint8Array;
}

/** Verify that the leaf at `index` of the tree of `size` leaves has this hash (RFC 9162 2.1.3.2).
 *
 * @throws {MalformedError} a hash is not 32 bytes.
 * @throws {ProofError} the index is not in the tree, or the proof does not lead to the root.
 */
export function verifyInclusion(proof: readonly Uint8Array[], { index, size, leafHash, root }: Inclusion): void {
  checkHashes([leafHash, root, ...proof]);
  if (index < 0n || index >= size) throw new ProofError(`index lies outside the tree: \`${index}\` of \`${size}\``);
  const path = new Path(index, size);
  let r = leafHash;
  for (const p of proof) r = path.step("inclusion") ? nodeHash(p, r) : nodeHash(r, p);
  path.checkEnd("inclusion");
  if (!equal(r, root)) throw new ProofError("inclusion proof does not lead to the root hash");
}

/** Two trees. The leaves of the first should be the first leaves of the second. */
export interface Consistency {
  readonly size1: bigint;
  readonly root1: Uint8Array;
  readonly size2: bigint;
  readonly root2: Uint8Array;
}

/** Verify that the tree of `size2` leaves begins with the tree of `size1` (RFC 9162 2.1.4.2).
 *
 * Equal sizes need equal roots and an empty proof. `size1` = 0 is refused, because every tree begins with the empty
 * tree.
 *
 * @throws {MalformedError} a hash is not 32 bytes.
 * @throws {ProofError} the sizes are out of order, or the proof does not lead to both roots.
 */
export function verifyConsistency(proof: readonly Uint8Array[], { size1, root1, size2, root2 }: Consistency): void {
  checkHashes([root1, root2, ...proof]);
  if (size1 <= 0n || size1 > size2) {
    throw new ProofError(`consistency cannot be proven between these sizes: \`${size1}\` and \`${size2}\``);
  }
  if (size1 === size2) {
    if (proof.length) throw new ProofError("consistency proof between equal sizes is not empty");
    if (!equal(root1, root2)) throw new ProofError("root hashes of the same size differ");
    return;
  }
  if (!proof.length) throw new ProofError("consistency proof is empty");
  // If size1 is a power of two, the root of the first tree is the first node of the path, and the proof leaves it out.
  const [start, ...rest] = size1 & (size1 - 1n) ? proof : [root1, ...proof];
  const path = new Path(size1 - 1n, size2);
  path.climb();
  let [fr, sr] = [start!, start!];
  for (const c of rest) {
    if (path.step("consistency")) [fr, sr] = [nodeHash(c, fr), nodeHash(c, sr)];
    else sr = nodeHash(sr, c);
  }
  path.checkEnd("consistency");
  if (!equal(fr, root1)) throw new ProofError("consistency proof does not lead to the first root hash");
  if (!equal(sr, root2)) throw new ProofError("consistency proof does not lead to the second root hash");
}

/** The path from a node up to the root: `fn` and `sn` of RFC 9162 2.1.3.2 and 2.1.4.2. */
class Path {
  #fn: bigint;
  #sn: bigint;

  constructor(index: bigint, size: bigint) {
    this.#fn = index;
    this.#sn = size - 1n;
  }

  /** Go up while the node is a right child. */
  climb(): void {
    while (this.#fn & 1n) this.#up();
  }

  /** Go up by one hash of the proof; return whether that hash is on the left. */
  step(name: string): boolean {
    if (this.#sn === 0n) throw new ProofError(`${name} proof is longer than the tree is high`);
    const onLeft = (this.#fn & 1n) === 1n || this.#fn === this.#sn;
    if (onLeft) while (!(this.#fn & 1n) && this.#fn) this.#up();
    this.#up();
    return onLeft;
  }

  checkEnd(name: string): void {
    if (this.#sn) throw new ProofError(`${name} proof is shorter than the tree is high`);
  }

  #up(): void {
    this.#fn >>= 1n;
    this.#sn >>= 1n;
  }
}

function checkHashes(hashes: readonly Uint8Array[]): void {
  // INVARIANT: only hashes of 32 bytes are joined. With other lengths, two different pairs could have the same bytes.
  for (const { length } of hashes) {
    if (length !== HASH_SIZE) throw new MalformedError(`hash is not 32 bytes long but \`${length}\``);
  }
}
