"""The trees as the RFC and the format write them down: recursive, without storage, slow and hard to get wrong.

What the package computes in other ways is compared with this.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256


def h(content: bytes) -> bytes:
    return sha256(content).digest()


def leaves(count: int) -> list[bytes]:
    """Make that many different leaves."""
    return [b"leaf %d" % i for i in range(count)]


class Naive:
    """RFC 6962 2.1 over a list of leaves; a hash computed once is kept."""

    def __init__(self, all_leaves: Sequence[bytes]) -> None:
        self.leaf_hashes = [h(b"\x00" + leaf) for leaf in all_leaves]
        self.mth = lru_cache(maxsize=None)(self._mth)

    def _mth(self, lo: int, hi: int) -> bytes:
        if hi == lo:
            return h(b"")
        if hi - lo == 1:
            return self.leaf_hashes[lo]
        k = split(hi - lo)
        return h(b"\x01" + self.mth(lo, lo + k) + self.mth(lo + k, hi))

    def root(self, size: int) -> bytes:
        return self.mth(0, size)

    def path(self, m: int, lo: int, hi: int) -> list[bytes]:
        """PATH(m, D[lo:hi]), `m` counted from `lo`."""
        if hi - lo == 1:
            return []
        k = split(hi - lo)
        if m < k:
            return [*self.path(m, lo, lo + k), self.mth(lo + k, hi)]
        return [*self.path(m - k, lo + k, hi), self.mth(lo, lo + k)]

    def proof(self, m: int, n: int) -> list[bytes]:
        """PROOF(m, D[0:n])."""
        return self.subproof(m, 0, n, True)

    def subproof(self, m: int, lo: int, hi: int, known: bool) -> list[bytes]:
        if m == hi - lo:
            return [] if known else [self.mth(lo, hi)]
        k = split(hi - lo)
        if m <= k:
            return [*self.subproof(m, lo, lo + k, known), self.mth(lo + k, hi)]
        return [*self.subproof(m - k, lo + k, hi, False), self.mth(lo, lo + k)]

    def tiles(self, size: int) -> dict[tuple[int, int], bytes]:
        """All tiles of the tree of `size` leaves, by the formula of tlog-tiles."""
        found = {}
        level = 0
        while size >> (8 * level):
            width = 256**level
            rows = [self.mth(i * width, (i + 1) * width) for i in range(size // width)]
            for n in range(0, len(rows), 256):
                found[level, n // 256] = b"".join(rows[n : n + 256])
            level += 1
        return found


def split(n: int) -> int:
    """Return the largest power of two that is less than `n`."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def bit_of(key: bytes, bit: int) -> int:
    return key[bit // 8] >> (7 - bit % 8) & 1


def root_of(pairs: Mapping[bytes, bytes]) -> bytes:
    """The root of the Merkle Patricia Tree over these pairs (ledger-format.md "Seals")."""
    return _map_node(dict(pairs), 0) if pairs else h(b"")


def _map_node(pairs: dict[bytes, bytes], bit: int) -> bytes:
    if len(pairs) == 1:
        ((key, value),) = pairs.items()
        return h(b"\x00" + bytes([len(key)]) + key + bytes([len(value)]) + value)
    left = {key: value for key, value in pairs.items() if not bit_of(key, bit)}
    right = {key: value for key, value in pairs.items() if bit_of(key, bit)}
    if not left or not right:
        return _map_node(left or right, bit + 1)
    uvarint = bytes([bit]) if bit < 128 else bytes([bit & 127 | 128, bit >> 7])
    return h(b"\x01" + uvarint + _map_node(left, bit + 1) + _map_node(right, bit + 1))
