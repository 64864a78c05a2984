"""Verify proofs about a map from 32-byte keys to 32-byte values: a Merkle Patricia Tree, whose root each seal states.

The format is that of ``filippo.io/torchwood/mpt`` v0.10.0 (ledger-format.md "Seals")::

    leaf  = SHA-256(0x00 || uvarint(len key) || key || uvarint(len value) || value)
    inner = SHA-256(0x01 || uvarint(bit) || left || right)      bit: the first bit in which the two sides differ
    empty = SHA-256("")
    presence proof = (uvarint(bit) || sibling)*                 leaf to root, bits strictly decreasing
    absence proof  = uvarint(len) || other key || uvarint(len) || other value || path of that other key

Bit 0 is the most significant bit of byte 0. An absence proof shows the leaf at which the search for our key ends, and
that this leaf has another key. Our key is absent because the two keys agree in every bit that the path tests. Example:
the map has the keys 000… and 110…, so its root tests bit 0. The search for 101… ends at 110…. If 101… were in the map,
there would be an inner node for bit 1 on the path. ``bucketed`` stores and updates a large map, and makes the proofs.
"""

import hmac
from collections.abc import Iterator
from hashlib import sha256

from consentd.core.merkle import EMPTY_ROOT, HASH_SIZE
from consentd.errors import MalformedError, ProofError

KEY_SIZE = 32
VALUE_SIZE = 32


def _uvarint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _uvarint(value >> 7)


UVARINT = tuple(_uvarint(bit) for bit in range(256))
"""The encoding of each bit number in a proof."""
INNER = tuple(b"\x01" + encoded for encoded in UVARINT)
"""The first bytes of an inner node's preimage, for each bit number."""


def leaf_hash(key: bytes, value: bytes) -> bytes:
    """Hash a 32-byte key and its 32-byte value to the leaf's hash."""
    return sha256(b"\x00\x20" + key + b"\x20" + value).digest()


def verify_presence(root: bytes, key: bytes, value: bytes, proof: bytes) -> None:
    """Verify that the map with this root has this value under this key. All three are 32 bytes.

    Raises:
        MalformedError: a length is wrong, or the proof is not in its one encoding.
        ProofError: the proof does not lead to the root.
    """
    _check_sizes(root, key, value)
    _verify_path(root, key, value, list(_path_of(proof, 0)))


def verify_absence(root: bytes, key: bytes, proof: bytes) -> None:
    """Verify that the map with this root does not have this key. Both are 32 bytes. An empty map needs an empty proof.

    Raises:
        MalformedError: a length is wrong, or the proof is not in its one encoding.
        ProofError: the proof does not lead to the root, or the leaf that it shows does not exclude the key.
    """
    _check_sizes(root, key, bytes(VALUE_SIZE))
    if not proof:
        if root != EMPTY_ROOT:
            raise ProofError("absence proof is empty, the map is not")
        return
    other_key, at = _field_of(proof, 0)
    other_value, at = _field_of(proof, at)
    path = list(_path_of(proof, at))
    differ = int.from_bytes(key) ^ int.from_bytes(other_key)
    if not differ:
        raise ProofError("absence proof shows the very key as present")
    if any(differ >> (255 - bit) & 1 for bit, _ in path):
        raise ProofError("absence proof shows a leaf that the key does not lead to")
    _verify_path(root, other_key, other_value, path)


def _verify_path(root: bytes, key: bytes, value: bytes, path: list[tuple[int, bytes]]) -> None:
    bits = int.from_bytes(key)
    node = leaf_hash(key, value)
    for bit, sibling in path:
        if bits >> (255 - bit) & 1:
            node = sha256(INNER[bit] + sibling + node).digest()
        else:
            node = sha256(INNER[bit] + node + sibling).digest()
    if not hmac.compare_digest(node, root):
        raise ProofError("map proof does not lead to the root hash")


def _check_sizes(root: bytes, key: bytes, value: bytes) -> None:
    if len(root) != HASH_SIZE or len(key) != KEY_SIZE or len(value) != VALUE_SIZE:
        raise MalformedError("map root, key or value is not 32 bytes long")


def _uvarint_of(proof: bytes, at: int) -> tuple[int, int]:
    """Read a uvarint of one or two bytes, the most that a proof needs. Return the value and the offset of its end."""
    first = proof[at : at + 1]
    if first and first[0] < 0x80:
        return first[0], at + 1
    second = proof[at + 1 : at + 2]
    # INVARIANT: each value has one encoding. A second byte of zero would encode a value that one byte encodes too.
    if not second or not 0 < second[0] < 0x80:
        raise MalformedError("map proof has a bad or missing uvarint")
    return first[0] & 0x7F | second[0] << 7, at + 2


def _field_of(proof: bytes, at: int) -> tuple[bytes, int]:
    """Read a length-prefixed key or value of 32 bytes; return it and the offset of its end."""
    size, at = _uvarint_of(proof, at)
    field = proof[at : at + size]
    if size != KEY_SIZE or len(field) != size:
        raise MalformedError("map proof has a key or value that is not 32 bytes long")
    return field, at + size


def _path_of(proof: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield the steps (bit, sibling) of a proof from offset *at* to its end."""
    above = 256
    while at < len(proof):
        bit, at = _uvarint_of(proof, at)
        sibling, at = proof[at : at + HASH_SIZE], at + HASH_SIZE
        if len(sibling) != HASH_SIZE:
            raise MalformedError("map proof ends within a step")
        if bit >= above:
            raise MalformedError("map proof has bits that do not decrease")
        above = bit
        yield bit, sibling
