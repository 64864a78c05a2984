"""Store a large Patricia map (see ``patricia``) in small sorted buckets, and the hashes above them in one flat heap.

The first `map_bits` bits of a key are the number of its *bucket*. A bucket is one bytes value: entries of
``key || value || leaf hash``, sorted by key. ``Top`` holds all 2**map_bits bucket roots and the hashes above them, as a
flat binary heap of 32-byte slots: slot 1 is the root, and the children of slot i are the slots 2i and 2i + 1. In a
Patricia tree, a branch with one empty side has no node; the slot of such a branch repeats the hash of its other side.
Example with `map_bits` = 2 and keys only in the buckets 0 and 3: slots 4 and 7 hold the bucket roots, slot 2 repeats
slot 4, slot 3 repeats slot 7, and slot 1 holds the hash of the inner node for bit 0 over slots 2 and 3.

An update of one key rewrites one small bucket and `map_bits` + 1 slots. A proof reads one bucket. The root does not
depend on `map_bits`.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256

from consentd.core.merkle import EMPTY_ROOT, HASH_SIZE
from consentd.core.patricia import INNER, KEY_SIZE, UVARINT, VALUE_SIZE, leaf_hash
from consentd.errors import MalformedError, ProofError

ENTRY_SIZE = KEY_SIZE + VALUE_SIZE + HASH_SIZE
"""Bytes of an entry in a bucket."""

MAX_MAP_BITS = 24
"""The largest `map_bits`: the heap then has 2**25 slots of 32 bytes, which are 1 GiB."""

_ENTRY = struct.Struct("32s32s32s")
_SORTED = struct.Struct(">Q24s32x32s")  # first 64 bits of a key, its other 192 bits, its leaf hash
_EMPTY = bytes(HASH_SIZE)  # content of an empty subtree's slot; no known input has this SHA-256 hash


def bucket_of(key: bytes, map_bits: int) -> int:
    """Return the number of a key's bucket: the key's first `map_bits` bits."""
    return int.from_bytes(key[:4]) >> (32 - map_bits)


def bucket_update(bucket: bytes, values: Mapping[bytes, bytes]) -> bytes:
    """Add or replace these values (key → value); return the new bucket. Only the leaves of these values are hashed."""
    parts = []
    done = 0
    for key in sorted(values):
        value = values[key]
        assert len(key) == KEY_SIZE
        assert len(value) == VALUE_SIZE
        at = _find(bucket, key, done)
        parts += [bucket[done:at], key, value, leaf_hash(key, value)]
        done = at + ENTRY_SIZE if bucket[at : at + KEY_SIZE] == key else at
    parts.append(bucket[done:])
    return b"".join(parts)


def bucket_root(bucket: bytes, map_bits: int) -> bytes | None:
    """Compute the root hash over a bucket's entries from their leaf hashes; None for an empty bucket.

    One pass takes 0.5 µs for each entry. Two neighbours that first differ in bit b have an inner node for bit b above
    them. A stack holds the left side of each inner node whose right side is not complete; the bits on the stack
    increase. Example: the keys 000, 001, 100. At 001 the stack is [bit 2: leaf 000]. At 100 the stack is [bit 0: node
    of 000 and 001]. At the end, this node and leaf 100 are hashed to the root.

    Raises:
        MalformedError: the bytes end within an entry, or the entries are not sorted or belong to several buckets.
    """
    if len(bucket) % ENTRY_SIZE:
        raise MalformedError("bucket ends within an entry")
    if not bucket:
        return None
    entries = _SORTED.iter_unpack(bucket)
    node: bytes
    before, rest_before, node = next(entries)
    lefts: list[bytes] = []
    bits = [-1]  # less than any bit, so that the stack is never empty
    for first, rest, leaf in entries:
        # The first 64 bits of two keys nearly always differ, and small integers are compared faster than bytes.
        if first > before:
            bit = 64 - (first ^ before).bit_length()
        elif first == before and rest > rest_before:
            bit = 256 - (int.from_bytes(rest) ^ int.from_bytes(rest_before)).bit_length()
        else:
            raise MalformedError("bucket is not sorted")
        while bits[-1] > bit:
            node = sha256(INNER[bits.pop()] + lefts.pop() + node).digest()
        bits.append(bit)
        lefts.append(node)
        before, rest_before, node = first, rest, leaf
    if lefts and bits[1] < map_bits:
        raise MalformedError("bucket has entries of another bucket")
    while lefts:
        node = sha256(INNER[bits.pop()] + lefts.pop() + node).digest()
    return node


def verify_bucket(bucket: bytes, *, number: int, map_bits: int) -> None:
    """Verify a stored bucket, including its leaf hashes.

    Raises:
        MalformedError: the bytes end within an entry, or the entries are not sorted or belong to another bucket.
        ProofError: a stored leaf hash is not the hash of its entry's key and value.
    """
    bucket_root(bucket, map_bits)
    if bucket and bucket_of(bucket[:KEY_SIZE], map_bits) != number:
        raise MalformedError("bucket has entries of another bucket")
    for key, value, node in _ENTRY.iter_unpack(bucket):
        if leaf_hash(key, value) != node:
            raise ProofError("bucket has a leaf hash that is not its entry's")


def _find(bucket: bytes, key: bytes, at: int) -> int:
    """Return the offset of the first entry, from offset `at` on, whose key is not less than `key`."""
    starts = range(0, len(bucket), ENTRY_SIZE)
    return ENTRY_SIZE * bisect_left(starts, key, at // ENTRY_SIZE, key=lambda start: bucket[start : start + KEY_SIZE])


class Top:
    """The hashes above the buckets: a heap of 2**(`map_bits` + 1) 32-byte slots. Only the map's writer changes it."""

    __slots__ = ("_slots", "map_bits")

    def __init__(self, map_bits: int) -> None:
        """Start with the empty map. `map_bits` (1 to 24) never changes, because it decides every key's bucket."""
        assert 1 <= map_bits <= MAX_MAP_BITS
        self.map_bits = map_bits
        self._slots = bytearray(HASH_SIZE << (map_bits + 1))

    @classmethod
    def load(cls, map_bits: int, runs: Iterable[tuple[int, bytes]]) -> "Top":
        """Start with stored bucket roots, and hash each slot above the buckets once: about 1 µs for each bucket.

        A run is (number of its first bucket, root ‖ root …). An empty bucket has a root of zeros, or is in no run.
        """
        top = cls(map_bits)
        for bucket, roots in runs:
            # INVARIANT: a run lies within the heap. Otherwise the slice assignment would change the heap's length.
            assert 0 <= bucket * HASH_SIZE <= (HASH_SIZE << map_bits) - len(roots)
            assert len(roots) % HASH_SIZE == 0
            at = ((1 << map_bits) + bucket) * HASH_SIZE
            top._slots[at : at + len(roots)] = roots
        for depth in range(map_bits - 1, -1, -1):
            top._hash(depth, range(1 << depth, 2 << depth))
        return top

    @classmethod
    def from_buckets(cls, map_bits: int, buckets: Iterable[tuple[int, bytes]]) -> "Top":
        """Start with stored buckets, given as (number, bucket). Raises as ``bucket_root``."""
        roots = ((number, bucket_root(bucket, map_bits)) for number, bucket in buckets)
        return cls.load(map_bits, ((number, root) for number, root in roots if root is not None))

    def root(self) -> bytes:
        slot = self._slot(1)
        return EMPTY_ROOT if slot == _EMPTY else slot

    def bucket_root(self, bucket: int) -> bytes | None:
        """Return a bucket's root hash; None for an empty bucket."""
        slot = self._slot((1 << self.map_bits) + bucket)
        return None if slot == _EMPTY else slot

    def update(self, roots: Mapping[int, bytes]) -> None:
        """Set bucket roots (bucket number → root hash), and hash each slot above these buckets once."""
        slots = self._slots
        first = 1 << self.map_bits
        for bucket, root_hash in roots.items():
            assert 0 <= bucket < first
            assert len(root_hash) == HASH_SIZE
            at = (first + bucket) * HASH_SIZE
            slots[at : at + HASH_SIZE] = root_hash
        changed: Iterable[int] = {(first + bucket) >> 1 for bucket in roots}
        for depth in range(self.map_bits - 1, -1, -1):
            self._hash(depth, changed)
            changed = {i >> 1 for i in changed}

    def slots(self, buckets: Iterable[int]) -> dict[int, bytes]:
        """Return the slots that an ``update`` of these buckets would replace: index → present hash."""
        found: dict[int, bytes] = {}
        for bucket in buckets:
            i = (1 << self.map_bits) + bucket
            while i and i not in found:
                found[i] = self._slot(i)
                i >>= 1
        return found

    def before(self, layers: Sequence[Mapping[int, bytes]]) -> "Top":
        """Return a view of an earlier state. *layers*: ``slots`` before each update since then, oldest first."""
        return _EarlierTop(self.map_bits, self._slot, layers)

    def plan_neighbour(self, bucket: int) -> int | None:
        """Return the number of the bucket that proofs about the keys of `bucket` read; None if the map is empty.

        This is `bucket` itself, or if `bucket` is empty, the bucket in which the search for its keys ends.
        """
        if self._slot(1) == _EMPTY:
            return None
        i = 1
        for depth in range(self.map_bits):
            i = 2 * i + (bucket >> (self.map_bits - 1 - depth) & 1)
            if self._slot(i) == _EMPTY:
                i ^= 1
        return i - (1 << self.map_bits)

    def path(self, bucket: int) -> list[tuple[int, bytes]]:
        """Return the proof steps (bit, sibling) from a bucket's root up to the root of the map."""
        steps = []
        i = (1 << self.map_bits) + bucket
        while i > 1:
            sibling = self._slot(i ^ 1)
            i >>= 1
            if sibling != _EMPTY:
                steps.append((i.bit_length() - 1, sibling))
        return steps

    def _hash(self, depth: int, indexes: Iterable[int]) -> None:
        slots = self._slots
        inner = INNER[depth]
        for i in indexes:
            at = i * HASH_SIZE
            sides = slots[2 * at : 2 * at + 2 * HASH_SIZE]
            if sides.startswith(_EMPTY):
                slots[at : at + HASH_SIZE] = sides[HASH_SIZE:]
            elif sides.endswith(_EMPTY):
                slots[at : at + HASH_SIZE] = sides[:HASH_SIZE]
            else:
                slots[at : at + HASH_SIZE] = sha256(inner + sides).digest()

    def _slot(self, i: int) -> bytes:
        return bytes(self._slots[i * HASH_SIZE : (i + 1) * HASH_SIZE])


class _EarlierTop(Top):
    """A view of a ``Top`` in which earlier slots replace present slots. The view stores no slots itself."""

    __slots__ = ("_layers", "_present")

    def __init__(self, map_bits: int, present: Callable[[int], bytes], layers: Sequence[Mapping[int, bytes]]) -> None:
        self.map_bits = map_bits
        self._present = present
        self._layers = layers

    def _slot(self, i: int) -> bytes:
        return next((layer[i] for layer in self._layers if i in layer), None) or self._present(i)


def prove(key: bytes, bucket: bytes, top: Top) -> tuple[bool, bytes]:
    """Prove that a key is in the map, or that it is absent.

    Return whether the key is present, and the proof for ``verify_presence`` or ``verify_absence``. `bucket` is the
    bucket that ``top.plan_neighbour`` names for the key's bucket, in the same state as `top`; b"" if the map is empty.

    Raises:
        MalformedError: the bucket is not a sorted sequence of entries.
        ProofError: the bucket's root is not the one in `top`.
    """
    planned = top.plan_neighbour(bucket_of(key, top.map_bits))
    whole = None if planned is None else top.bucket_root(planned)
    if bucket_root(bucket, top.map_bits) != whole:
        raise ProofError("bucket is not the one that the map commits to")
    if planned is None:
        return False, b""
    entries = [bucket[at : at + ENTRY_SIZE] for at in range(0, len(bucket), ENTRY_SIZE)]
    keys = [int.from_bytes(entry[:KEY_SIZE]) for entry in entries]
    ours = int.from_bytes(key)
    steps = []
    low, high = 0, len(keys)
    # Search from the bucket's root down: split the entries at the first bit in which the first and last key differ.
    while high - low > 1:
        shift = (keys[low] ^ keys[high - 1]).bit_length() - 1
        middle = bisect_left(keys, keys[high - 1] >> shift << shift, low, high)
        if ours >> shift & 1:
            sibling, low = (low, middle), middle
        else:
            sibling, high = (middle, high), middle
        node = bucket_root(bucket[sibling[0] * ENTRY_SIZE : sibling[1] * ENTRY_SIZE], top.map_bits)
        assert node is not None
        steps.append((255 - shift, node))
    path = b"".join([UVARINT[bit] + node for bit, node in steps[::-1] + top.path(planned)])
    if keys[low] == ours:
        return True, path
    other = entries[low]
    return False, b"\x20" + other[:KEY_SIZE] + b"\x20" + other[KEY_SIZE : KEY_SIZE + VALUE_SIZE] + path
