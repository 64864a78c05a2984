"""The store: ordered bytes on disk, and one durable way to change them.

A store maps byte keys to byte values, in the order of keys. Any number of threads may read it. One thread writes it,
with ``write``: a whole ``Batch``, atomic and synced. A store has no method to write a single key, so no caller can
write only a part of a change.

**A failed write has an unknown outcome**: the batch may be on disk or not. After a failed write the store refuses all
writes, because nobody knows whether the store has that batch; reads still work. The daemon stops, and its next start
opens the store again and finds out (``ledger.recovery``).

There are two kinds of store: ``rocks.RocksStore``, and ``memory.MemoryStore`` for tests and for empty stores.
``tests/test_store.py`` runs the same tests on both. The policy table is no ``Store``: its views read and write by a
``RowWriter``, of LMDB or in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class Put(NamedTuple):
    """Set *key* to *value*."""

    key: bytes
    value: bytes


class Delete(NamedTuple):
    """Remove *key*, if the store has it."""

    key: bytes


class DeleteRange(NamedTuple):
    """Remove all keys in [*start*, *end*)."""

    start: bytes
    end: bytes


Operation = Put | Delete | DeleteRange


class Batch:
    """A list of changes that a store applies together or not at all.

    The changes are applied in order, and a later change of a key replaces earlier changes of the key.
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
        """Remove *key*, if the store has it."""
        self.operations.append(Delete(key))

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove all keys in [*start*, *end*); an empty range changes nothing."""
        # INVARIANT: start < end in every DeleteRange. RocksDB refuses an inverted range only while it applies the
        # batch: the changes before the range are then visible, and the changes after the range are not.
        assert start <= end, "a range ends before it starts"
        if start < end:
            self.operations.append(DeleteRange(start, end))


class Store(Protocol):
    """Ordered bytes with one atomic, synced write.

    Every method raises ``StorageError`` if the disk fails or the store is closed, and ``CorruptionError`` if stored
    bytes do not match their checksums.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return the value of *key*; None if the store does not have the key."""

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of *keys*, in their order, all as of one moment."""

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs in [*start*, *end*), by key, at most *limit* of them.

        If *end* is None, the scan continues to the last key. The scan does not see writes that are made after the call.
        An iterator that is not read to its end keeps the store's files open until it is garbage-collected.
        """

    def write(self, batch: Batch) -> None:
        """Apply *batch* atomically, and return after the batch is synced to disk.

        Raises:
            StorageError, CorruptionError: the write failed. Whether the batch is on disk is unknown, and every later
                write is refused.
        """

    def compact_ranges(self, ranges: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Rewrite the keys in these ranges [start, end), so that no deleted keys or values of them remain in the files.

        Several ranges together take less time than one by one.
        """

    def old_files(self) -> list[str]:
        """Return the names of files that still have what ``compact_ranges`` removed, because a scan reads them."""

    def flush(self) -> None:
        """Write to sorted files what is in memory tables and logs only. So the next ``copy_files`` takes less time."""

    def copy_files(self, path: Path) -> None:
        """Copy the files of the store, as it is now, into the new directory *path*, which can be opened as a store.

        Files are linked, not copied, where *path* is in the same file system. So it takes milliseconds, but the disk
        keeps the bytes of what is deleted later, until the copy is deleted.

        Raises:
            StorageError: *path* exists; or the store has no files.
        """

    def approximate_size(self) -> int:
        """Return an estimate of the bytes that the store takes."""

    def close(self) -> None:
        """Close the store's files; a second call does nothing."""


class RowReader(Protocol):
    """What a view of the policy table needs of a transaction."""

    @property
    def get(self) -> Callable[[bytes], bytes | None]:
        """A function that returns the value of a key; None if there is none."""

    def scan(self, start: bytes, end: bytes | None, *, limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs in [*start*, *end*), by key, at most *limit*. *end* None: to the last key."""

    def end(self, error: BaseException | None) -> None:
        """End the transaction, and drop what it has not committed. *error*: why it ends; None: it is done."""


class RowWriter(RowReader, Protocol):
    """What a view that applies entries needs of a transaction. Its reads include its own writes."""

    @property
    def put(self) -> Callable[[bytes, bytes], object]:
        """A function that sets a key to a value."""

    @property
    def delete(self) -> Callable[[bytes], object]:
        """A function that removes a key, if there is such a key."""

    def commit(self) -> None:
        """Make all writes visible to readers that begin later."""


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the smallest key that is greater than all keys with *prefix*; None if there is none.

    ``scan(prefix, prefix_end(prefix))`` yields the keys that begin with *prefix*. ``prefix_end(b"a\xff") == b"b"``.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
