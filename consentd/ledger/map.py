"""Hold the map of all tags over a store: buckets on disk, the hashes above them in memory.

Memory is 2^(map_bits + 1) · 32 bytes, whatever the number of tags (8 MiB at 17 bits); a bucket holds
tags / 2^map_bits entries. Owned by the sequencer: only its thread updates or proves.
"""

from collections.abc import Iterator, Mapping

from consentd.core import bucketed, codec
from consentd.errors import CorruptionError, StorageError, VerificationError
from consentd.ledger import layout
from consentd.ledger.map_history import MapHistory
from consentd.store import Batch, Store, prefix_end


class TagMap:
    """The Patricia tree over all tags, as of the last seal.

    Attributes:
        top: the hashes above the buckets.
        history: what is needed to prove as of seals before the last; None: nothing is remembered.
    """

    __slots__ = ("_store", "history", "top")

    def __init__(self, store: Store, map_bits: int) -> None:
        """Load the bucket roots and hash what lies above them: work by buckets, not by tags, 1 s at 20 bits.

        Raises:
            CorruptionError: a row of bucket roots is not of its length or place.
        """
        self._store = store
        self.history: MapHistory | None = None
        self.top = bucketed.Top.load(map_bits, self._stored_roots(map_bits))

    def root(self) -> bytes:
        """Return the map root, 32 bytes."""
        return self.top.root()

    def update(self, heads: Mapping[bytes, tuple[int, bytes]], batch: Batch, size: int = 0) -> None:
        """Set tag → (count, head) for every tag of *heads*, putting the changed rows into *batch*.

        *size* is that of the tree whose last leaf will be the seal; only ``history`` asks for it. The hashes in memory
        change at once; a batch that is not written leaves them ahead, which is why a failed write stops the sequencer.
        """
        bits = self.top.map_bits
        changes: dict[int, dict[bytes, bytes]] = {}
        for tag, (count, head) in heads.items():
            key = codec.map_key(tag)
            changes.setdefault(bucketed.bucket_of(key, bits), {})[key] = codec.map_value(tag, count, head)
        numbers = sorted(changes)
        stored = self._store.multi_get([layout.bucket_key(number) for number in numbers])
        roots: dict[int, bytes] = {}
        for number, old in zip(numbers, stored, strict=True):
            bucket = bucketed.bucket_update(old or b"", changes[number])
            root = bucketed.bucket_root(bucket, bits)
            assert root is not None
            roots[number] = root
            batch.put(layout.bucket_key(number), bucket)
        if self.history is not None:
            before = {number: old or b"" for number, old in zip(numbers, stored, strict=True)}
            self.history.record(size, before, self.top)
        self.top.update(roots)
        for group in sorted({number // layout.ROOTS_PER_ROW for number in numbers}):
            first = group * layout.ROOTS_PER_ROW
            row = b"".join(
                self.top.bucket_root(first + place) or codec.ZERO_HASH
                for place in range(min(layout.ROOTS_PER_ROW, (1 << bits) - first))
            )
            batch.put(layout.roots_key(group), row)

    def prove(self, tag: bytes, size: int | None = None) -> tuple[bool, bytes]:
        """Prove that the map holds *tag*, or that it does not; returns (present, proof).

        Args:
            size: as of the seal that ends the tree of this size; None: as of the last.

        Raises:
            StorageError: the map of that seal is not remembered.
            CorruptionError: a stored bucket is not what the hashes above it say.
        """
        key = codec.map_key(tag)
        past = None
        if size is not None:
            past = None if self.history is None else self.history.at(size, self.top)
            if past is None:
                raise StorageError("map of the published checkpoint is not kept; repeat once a new one is published")
        top = self.top if past is None else past.top
        number = top.plan_neighbour(bucketed.bucket_of(key, top.map_bits))
        bucket = None if past is None or number is None else past.bucket(number)
        if bucket is None:
            bucket = b"" if number is None else self._store.get(layout.bucket_key(number)) or b""
        try:
            return bucketed.prove(key, bucket, top)
        except VerificationError as error:
            raise CorruptionError(f"map bucket is not what its root says: `{number}`") from error

    def _stored_roots(self, map_bits: int) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of bucket roots: the first bucket's number, and the roots."""
        width = min(layout.ROOTS_PER_ROW, 1 << map_bits)
        for key, row in self._store.scan(b"r", prefix_end(b"r")):
            first = int.from_bytes(key[1:]) * layout.ROOTS_PER_ROW
            if len(row) != width * len(codec.ZERO_HASH) or first + width > 1 << map_bits:
                raise CorruptionError(f"bucket roots are not of their length or place: `{first}`")
            yield first, row
