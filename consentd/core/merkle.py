"""Hash the leaves and nodes of the tree, and verify proofs about the tree (RFC 6962 2.1, RFC 9162 2.1).

::

    leaf hash  = SHA-256(0x00 || leaf)
    node hash  = SHA-256(0x01 || left || right)
    root of n  = node hash of (root of the first k, root of the rest), k: the largest power of two less than n
    root of 0  = SHA-256("")

A proof is a list of 32-byte hashes, the hash nearest to the leaf first. The prefixes 0x00 and 0x01 differ, so a
leaf cannot be presented as a node. This module verifies proofs; ``tiles`` makes them.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence

from consentd.errors import MalformedError, ProofError

HASH_SIZE = 32

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root hash of the tree without leaves."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash the bytes of a leaf to 32 bytes (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two 32-byte hashes, left and right, to the hash of their parent (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(proof: Sequence[bytes], *, index: int, size: int, leaf_hash: bytes, root: bytes) -> None:
    """Verify that the leaf at `index` (from 0) of the tree of `size` leaves has `leaf_hash` (RFC 9162 2.1.3.2).

    Raises:
        MalformedError: a hash is not 32 bytes.
        ProofError: the index is not in the tree, or the proof does not lead to the root.
    """
    _check_hashes((leaf_hash, root, *proof))
    if not 0 <= index < size:
        raise ProofError(f"index lies outside the tree: `{index}` of `{size}`")
    r = leaf_hash
    for p, is_left in _steps(proof, index, size - 1, "inclusion"):
        r = node_hash(p, r) if is_left else node_hash(r, p)
    if not hmac.compare_digest(r, root):
        raise ProofError("inclusion proof does not lead to the root hash")


def verify_consistency(proof: Sequence[bytes], *, size1: int, root1: bytes, size2: int, root2: bytes) -> None:
    """Verify that the tree of `size2` leaves begins with the tree of `size1` (RFC 9162 2.1.4.2).

    Equal sizes need equal roots and an empty proof. `size1` = 0 is refused: every tree begins with the empty
    tree, so such a proof shows nothing.

    Raises:
        MalformedError: a hash is not 32 bytes.
        ProofError: the sizes are out of order, or the proof does not lead to both roots.
    """
    _check_hashes((root1, root2, *proof))
    if not 0 < size1 <= size2:
        raise ProofError(f"consistency cannot be proven between these sizes: `{size1}` and `{size2}`")
    if size1 == size2:
        if proof:
            raise ProofError("consistency proof between equal sizes is not empty")
        if not hmac.compare_digest(root1, root2):
            raise ProofError("root hashes of the same size differ")
        return
    if not proof:
        raise ProofError("consistency proof is empty")
    # If size1 is a power of two, the first tree's root is the first node of the path, so the proof leaves it out.
    path = proof if size1 & (size1 - 1) else [root1, *proof]
    fn, sn = size1 - 1, size2 - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c, is_left in _steps(path[1:], fn, sn, "consistency"):
        if is_left:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
        else:
            sr = node_hash(sr, c)
    if not hmac.compare_digest(fr, root1):
        raise ProofError("consistency proof does not lead to the first root hash")
    if not hmac.compare_digest(sr, root2):
        raise ProofError("consistency proof does not lead to the second root hash")


def _steps(proof: Iterable[bytes], fn: int, sn: int, name: str) -> Iterator[tuple[bytes, bool]]:
    """Yield each hash, and whether it is a left sibling. *fn*, *sn*: indexes of the node and its level's last node."""
    for p in proof:
        if sn == 0:
            raise ProofError(f"{name} proof is longer than the tree is high")
        is_left = bool(fn & 1) or fn == sn
        yield p, is_left
        while is_left and not fn & 1 and fn:
            fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise ProofError(f"{name} proof is shorter than the tree is high")


def _check_hashes(hashes: Iterable[bytes]) -> None:
    # INVARIANT: every hash has 32 bytes. Otherwise two different pairs of hashes could have the same concatenation.
    for h in hashes:
        if len(h) != HASH_SIZE:
            raise MalformedError(f"hash is not 32 bytes long but `{len(h)}`")
