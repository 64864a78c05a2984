"""The map of all chain heads: its buckets are in the store, the hashes above the buckets are in memory.

The hashes take 2^(map_bits + 1) · 32 bytes of memory, for any number of tags (8 MiB at 17 bits). On average a bucket
has tags / 2^map_bits entries. Only the sequencer's thread may update the map or prove from it.
"""

from collections.abc import Iterator, Mapping

from consentd.core import bucketed, codec
from consentd.errors import CorruptionError, NotReachedError, VerificationError
from consentd.ledger import layout
from consentd.ledger.map_history import MapHistory
from consentd.store import Batch, Store, prefix_end


class TagMap:
    """The map at the last seal: a Patricia tree that leads from each tag to the (count, head) of its chain.

    Attributes:
        top: the hashes above the buckets.
        history: the map at earlier seals, for proofs that refer to such a seal; None if earlier maps are not needed.
    """

    __slots__ = ("_store", "history", "top")

    def __init__(self, store: Store, map_bits: int) -> None:
        """Load the bucket roots and compute the hashes above them. Takes 1 s at 20 bits, for any number of tags.

        Raises:
            CorruptionError: a row of bucket roots has a wrong length or key.
        """
        self._store = store
        self.history: MapHistory | None = None
        self.top = bucketed.Top.load(map_bits, self._stored_roots(map_bits))

    def root(self) -> bytes:
        """Return the map root, 32 bytes."""
        return self.top.root()

    def update(self, heads: Mapping[bytes, tuple[int, bytes]], batch: Batch, size: int = 0) -> None:
        """Set the (count, head) of every tag of *heads*, and put the changed rows into *batch*.

        The hashes in memory change immediately, before *batch* is written. If that write fails, the hashes no longer
        match the store; for this reason a failed write stops the sequencer.

        Args:
            size: size of the tree whose last leaf will be the new seal. Only ``history`` needs it.
        """
        bits = self.top.map_bits
        changes: dict[int, dict[bytes, bytes]] = {}
        for tag, (count, head) in heads.items():
            key = codec.map_key(tag)
            changes.setdefault(bucketed.bucket_of(key, bits), {})[key] = codec.map_value(tag, count, head)
        numbers = sorted(changes)
        stored = self._store.multi_get([layout.bucket_key(number) for number in numbers])
        before = {number: old or b"" for number, old in zip(numbers, stored, strict=True)}
        roots: dict[int, bytes] = {}
        for number, old in before.items():
            bucket = bucketed.bucket_update(old, changes[number])
            root = bucketed.bucket_root(bucket, bits)
            assert root is not None
            roots[number] = root
            batch.put(layout.bucket_key(number), bucket)
        if self.history is not None:
            self.history.record(size, before, self.top)
        self.top.update(roots)
        for group in sorted({number // layout.ROOTS_PER_ROW for number in numbers}):
            first = group * layout.ROOTS_PER_ROW
            row = b"".join(
                self.top.bucket_root(number) or codec.ZERO_HASH
                for number in range(first, min(first + layout.ROOTS_PER_ROW, 1 << bits))
            )
            batch.put(layout.roots_key(group), row)

    def prove(self, tag: bytes, size: int | None = None) -> tuple[bool, bytes]:
        """Prove whether the map has *tag*; return (whether the map has the tag, proof of that answer).

        Args:
            size: prove from the map at the seal that is the last leaf of the tree of this size; None for the last seal.

        Raises:
            NotReachedError: ``history`` does not have the map at that seal.
            CorruptionError: a stored bucket does not have the root that is in memory.
        """
        key = codec.map_key(tag)
        earlier = None if size is None or self.history is None else self.history.at(size, self.top)
        if earlier is None and size is not None:
            raise NotReachedError("map of the published checkpoint is not held; the next checkpoint is needed")
        top = self.top if earlier is None else earlier.top
        number = top.plan_neighbour(bucketed.bucket_of(key, top.map_bits))
        bucket = None if earlier is None or number is None else earlier.bucket(number)
        if bucket is None:
            bucket = b"" if number is None else self._store.get(layout.bucket_key(number)) or b""
        try:
            return bucketed.prove(key, bucket, top)
        except VerificationError as error:
            raise CorruptionError(f"map bucket does not have its root: `{number}`") from error

    def _stored_roots(self, map_bits: int) -> Iterator[tuple[int, bytes]]:
        """Yield each row of bucket roots: the number of its first bucket, and the roots."""
        width = min(layout.ROOTS_PER_ROW, 1 << map_bits)
        for key, row in self._store.scan(b"r", prefix_end(b"r")):
            first = int.from_bytes(key[1:]) * layout.ROOTS_PER_ROW
            if len(row) != width * len(codec.ZERO_HASH) or first + width > 1 << map_bits:
                raise CorruptionError(f"bucket roots have a wrong length or key: `{first}`")
            yield first, row
