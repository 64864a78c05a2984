"""Fakes that tests share: each keeps the contract of what it stands in for, and can be told to fail."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from consentd.errors import StorageError
from consentd.store import Batch, Store
from consentd.store.memory import MemoryStore


class FaultyStore:
    """A ``Store`` over another one, whose next write or read fails on command.

    A failed write comes in two halves, and code must survive both: the batch never reached the disk,
    or it did and only the answer was lost. Either way the store then refuses writes, as the contract says.

    Attributes:
        inner: the store that holds the rows; open that again to see what a new process would find.
        writes: batches that reached *inner*, in order.
    """

    def __init__(self, inner: Store | None = None) -> None:
        self.inner: Store = MemoryStore() if inner is None else inner
        self.writes: list[Batch] = []
        self._persisted: bool | None = None
        self._skip = 0
        self._reads_fail = False
        self._failed = False

    def fail_write(self, *, persisted: bool, after: int = 0) -> None:
        """Make a write fail: the next one, or the one that follows *after* more that succeed."""
        self._persisted = persisted
        self._skip = after

    def fail_reads(self, fail: bool = True) -> None:
        """Make every read fail, until told otherwise."""
        self._reads_fail = fail

    def get(self, key: bytes) -> bytes | None:
        self._read()
        return self.inner.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._read()
        return self.inner.multi_get(keys)

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        self._read()
        return self.inner.scan(start, end, reverse=reverse, limit=limit)

    def write(self, batch: Batch) -> None:
        if self._failed:
            raise StorageError("store refuses writes since one failed")
        fails = self._persisted is not None and self._skip == 0
        if not fails or self._persisted:
            self.inner.write(batch)
            self.writes.append(batch)
        if fails:
            self._failed = True
            raise StorageError("write failed, its outcome is unknown")
        self._skip = max(0, self._skip - 1)

    def copy(self, path: Path) -> None:
        self.inner.copy(path)

    def compact_range(self, start: bytes, end: bytes | None) -> None:
        self.inner.compact_range(start, end)

    def approximate_size(self) -> int:
        return self.inner.approximate_size()

    def close(self) -> None:
        self.inner.close()

    def _read(self) -> None:
        if self._reads_fail:
            raise StorageError("read failed")
