"""Hold a large Patricia map: small sorted buckets, and one flat heap of the hashes above them.

The first `map_bits` bits of a key name its *bucket*. A bucket is one bytes value: its entries
``key || value || leaf hash``, sorted. Above the buckets lies ``Top``: all 2**map_bits bucket roots and the
hashes over them, as one flat heap of 32-byte slots. A branch with one empty side has no node of its own in a Patricia
tree, so there the slot repeats the hash of the side that is not empty. An update costs one small bucket and
`map_bits` slots; a proof is one read of one bucket. The root does not depend on `map_bits`: any other way to hold
the same pairs has the same root, and what is proven here is verified by ``patricia``, which knows of no buckets.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256

from consentd.core.merkle import EMPTY_ROOT, HASH_SIZE
from consentd.core.patricia import INNER, KEY_SIZE, UVARINT, VALUE_SIZE, leaf_hash
from consentd.errors import MalformedError, ProofError

ENTRY_SIZE = KEY_SIZE + VALUE_SIZE + HASH_SIZE
"""Bytes of one entry in a bucket."""

MAX_MAP_BITS = 24
"""The most bucket bits: 2**25 slots of 32 bytes are 1 GiB."""

_ENTRY = struct.Struct("32s32s32s")
_SORTED = struct.Struct(">Q24s32x32s")  # a key's first 64 bits, its other 192; its leaf hash
_EMPTY = bytes(HASH_SIZE)  # the slot of an empty subtree; SHA-256 yields it for nothing anyone can find


def bucket_of(key: bytes, map_bits: int) -> int:
    """Return the number of the bucket a key belongs to: its first `map_bits` bits."""
    return int.from_bytes(key[:4]) >> (32 - map_bits)


def bucket_update(bucket: bytes, values: Mapping[bytes, bytes]) -> bytes:
    """Return the bucket with these values, each under its key, put in or replaced. Only their leaves are hashed."""
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
    """Compute the root hash over a bucket's entries from their leaf hashes; None for the empty bucket.

    Linear, 0.5 µs an entry: a stack holds the subtrees whose right side is not whole yet, with the bits where the two
    sides part, which increase.

    Raises:
        MalformedError: it is not a run of entries, or they are not sorted, or not all of one bucket.
    """
    if len(bucket) % ENTRY_SIZE:
        raise MalformedError("bucket ends within an entry")
    if not bucket:
        return None
    entries = _SORTED.iter_unpack(bucket)
    node: bytes
    before, rest_before, node = next(entries)
    lefts: list[bytes] = []
    bits = [-1]  # a bit less than any, so that the stack never runs empty
    for first, rest, leaf in entries:
        # Nearly always the first 64 bits tell two keys apart; small integers are compared faster than keys.
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
    """Verify that a stored bucket is what it should be, leaf hashes included: what a scrub runs.

    Raises:
        MalformedError: it is not a run of entries, or not sorted, or not of this bucket.
        ProofError: a leaf hash is not that of its entry.
    """
    bucket_root(bucket, map_bits)
    if bucket and bucket_of(bucket[:KEY_SIZE], map_bits) != number:
        raise MalformedError("bucket has entries of another bucket")
    for key, value, node in _ENTRY.iter_unpack(bucket):
        if leaf_hash(key, value) != node:
            raise ProofError("bucket has a leaf hash that is not its entry's")


def _find(bucket: bytes, key: bytes, at: int) -> int:
    """Return the offset of the first entry, from offset `at` on, whose key is not less than `key`."""
    low, high = at // ENTRY_SIZE, len(bucket) // ENTRY_SIZE
    while low < high:
        middle = (low + high) // 2
        start = middle * ENTRY_SIZE
        if bucket[start : start + KEY_SIZE] < key:
            low = middle + 1
        else:
            high = middle
    return low * ENTRY_SIZE


# -- above the buckets ----------------------------------------------------------------------------------------


class Top:
    """The hashes above the buckets: a heap of 2**(`map_bits` + 1) slots of 32 bytes, root at 1.

    A slot at depth d stands for the keys that begin with its d bits. Zeros mean that there are none. Mutable, and
    owned by whoever writes the map.
    """

    __slots__ = ("_slots", "map_bits")

    def __init__(self, map_bits: int) -> None:
        """Begin with the empty map.

        `map_bits`, 1 to 24, is fixed when a map is created: its buckets depend on it, its roots do not.
        """
        assert 1 <= map_bits <= MAX_MAP_BITS
        self.map_bits = map_bits
        self._slots = bytearray(HASH_SIZE << (map_bits + 1))

    @classmethod
    def load(cls, map_bits: int, runs: Iterable[tuple[int, bytes]]) -> "Top":
        """Begin with stored bucket roots, and hash each slot above them once: about 1 µs a bucket, no memory beside.

        A run is (first bucket, root ‖ root …), with zeros for an empty bucket; buckets in no run are empty.
        """
        top = cls(map_bits)
        for bucket, roots in runs:
            # INVARIANT: a run lies within the heap: a slice set to a run of another length would move all behind it.
            assert 0 <= bucket * HASH_SIZE <= (HASH_SIZE << map_bits) - len(roots)
            assert len(roots) % HASH_SIZE == 0
            at = ((1 << map_bits) + bucket) * HASH_SIZE
            top._slots[at : at + len(roots)] = roots
        for depth in range(map_bits - 1, -1, -1):
            top._hash(depth, range(1 << depth, 2 << depth))
        return top

    @classmethod
    def from_buckets(cls, map_bits: int, buckets: Iterable[tuple[int, bytes]]) -> "Top":
        """Begin with stored buckets, (number, bucket), none of them empty: hash each and all slots above them once.

        Raises:
            MalformedError: a bucket is not a sorted run of entries, or has entries of another bucket.
        """
        roots = ((number, bucket_root(bucket, map_bits)) for number, bucket in buckets)
        return cls.load(map_bits, ((number, root) for number, root in roots if root is not None))

    def root(self) -> bytes:
        """Return the root hash of the whole map."""
        slot = self._slot(1)
        return EMPTY_ROOT if slot == _EMPTY else slot

    def bucket_root(self, bucket: int) -> bytes | None:
        """Return the root hash set for a bucket, or None where it is empty."""
        slot = self._slot((1 << self.map_bits) + bucket)
        return None if slot == _EMPTY else slot

    def set(self, bucket: int, root_hash: bytes) -> None:
        """Set the root hash of one bucket. For more than one, ``update`` is cheaper."""
        self.update({bucket: root_hash})

    def update(self, roots: Mapping[int, bytes]) -> None:
        """Set the root hashes of buckets, and hash each slot above them once."""
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
        """Return, by place, the slots of these buckets and all above them: what ``update`` of them would replace."""
        found: dict[int, bytes] = {}
        for bucket in buckets:
            i = (1 << self.map_bits) + bucket
            while i and i not in found:
                found[i] = self._slot(i)
                i >>= 1
        return found

    def before(self, layers: Sequence[Mapping[int, bytes]]) -> "Top":
        """Return a view of the hashes as they were when ``slots`` gave these layers, oldest first: the first counts."""
        return _Before(self.map_bits, self._slot, layers)

    def plan_neighbour(self, bucket: int) -> int | None:
        """Name the bucket that proves about the keys of `bucket`: itself, or, where it is empty, the one
        that those keys lead to. None where the map is empty.
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
        """Return the steps (bit, sibling) from a bucket's root up to the root of the map."""
        steps = []
        i = (1 << self.map_bits) + bucket
        while i > 1:
            sibling = self._slot(i ^ 1)
            i >>= 1
            if sibling != _EMPTY:
                steps.append((i.bit_length() - 1, sibling))
        return steps

    def _hash(self, depth: int, places: Iterable[int]) -> None:
        """Hash slots of one depth from the two below each."""
        slots = self._slots
        inner = INNER[depth]
        for i in places:
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


class _Before(Top):
    """A view that lays earlier slots over a ``Top``; it has none of its own."""

    __slots__ = ("_layers", "_present")

    def __init__(self, map_bits: int, present: Callable[[int], bytes], layers: Sequence[Mapping[int, bytes]]) -> None:
        self.map_bits = map_bits
        self._present = present
        self._layers = layers

    def _slot(self, i: int) -> bytes:
        return next((layer[i] for layer in self._layers if i in layer), None) or self._present(i)


def prove(key: bytes, bucket: bytes, top: Top) -> tuple[bool, bytes]:
    """Prove that a key is in the map, or that it is not.

    Args:
        key: 32 bytes.
        bucket: the bytes of the bucket that ``top.plan_neighbour(bucket_of(key, top.map_bits))`` names, as of the
            same moment as `top`; b"" where it names none.
        top: the hashes above the buckets.

    Returns:
        Whether the key is present, and the proof for ``verify_presence`` or ``verify_absence``.

    Raises:
        MalformedError: the bucket is not a sorted run of entries.
        ProofError: it is not the planned bucket, or not as `top` has it.
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
    # From the bucket's root down to the leaf that the key's bits lead to.
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
