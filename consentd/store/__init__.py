"""The store: ordered bytes on disk, and the one durable way to change them.

A store maps byte keys to byte values, ordered by key. It is read by any number of threads at once
and written by one, through ``write``: one ``Batch``, atomic and synced. There is no single ``put``,
so a half-written state cannot be expressed.

**A failed write has an unknown outcome**: the batch may be on disk or not. The store then refuses
all later writes, because their order relative to the lost one cannot be known; reads still work.
Whoever owns the ledger stops, opens it again, and finds out (``ledger.opening``).

Two stores keep this contract, and ``tests/test_store.py`` holds both to it: ``memory.MemoryStore``
for tests and where an empty store is asked for, ``rocks.RocksStore`` for everything else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class Put(NamedTuple):
    """Set *key* to *value*."""

    key: bytes
    value: bytes


class Delete(NamedTuple):
    """Remove *key*, if it is there."""

    key: bytes


class DeleteRange(NamedTuple):
    """Remove all keys in [*start*, *end*)."""

    start: bytes
    end: bytes


Operation = Put | Delete | DeleteRange


class Batch:
    """A list of changes that reach the store together or not at all.

    Changes take effect in the order given, so the last one on a key wins, and a put after a
    ``delete_range`` that covers it stays. A batch is plain memory: building one never fails halfway
    and touches no store.
    """

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def __len__(self) -> int:
        return len(self.operations)

    def put(self, key: bytes, value: bytes) -> None:
        """Set *key* to *value*."""
        self.operations.append(Put(key, value))

    def delete(self, key: bytes) -> None:
        """Remove *key*; no error where it is absent."""
        self.operations.append(Delete(key))

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove all keys in [*start*, *end*); an empty range changes nothing."""
        # INVARIANT: start < end in every DeleteRange. RocksDB rejects an inverted range only in the middle
        # of applying the batch: what stood before it is then visible, what stood behind it is not.
        assert start <= end, "a range ends before it starts"
        if start == end:
            return
        self.operations.append(DeleteRange(start, end))


class Store(Protocol):
    """Ordered bytes with one atomic, synced write.

    Every method raises ``StorageError`` where the disk fails or the store is closed, and
    ``CorruptionError`` where stored bytes do not match their checksums.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return the value of *key*, or None."""
        ...

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of *keys*, in their order, all from one moment."""
        ...

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs in [*start*, *end*), by key, at most *limit* of them.

        *end* None means to the last key. The pairs are those of the moment of the call: later
        writes do not show. A scan that is not run to its end keeps the store's files open until
        it is dropped.
        """
        ...

    def write(self, batch: Batch) -> None:
        """Apply *batch* atomically, and return once it is synced to disk.

        Raises:
            StorageError: it failed; whether the batch is on disk is unknown, and no later write is accepted.
        """
        ...

    def copy(self, path: Path) -> None:
        """Write a consistent copy, a store of its own, to the new directory *path* while the store is in use."""
        ...

    def compact_range(self, start: bytes, end: bytes | None) -> None:
        """Rewrite [*start*, *end*) so that no deleted bytes of it remain in the store's files."""
        ...

    def approximate_size(self) -> int:
        """Return the bytes that the store takes, roughly."""
        ...

    def close(self) -> None:
        """Release the store; a second call does nothing."""
        ...


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the least key above all keys that begin with *prefix*; None where there is none.

    ``scan(prefix, prefix_end(prefix))`` yields exactly the keys that begin with *prefix*.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
