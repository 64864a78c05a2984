"""A store in memory, for tests and wherever an empty store is needed; and rows of a table that nobody keeps."""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from consentd.errors import StorageError
from consentd.store import Batch, Delete, Put, Store


class MemoryStore(Store):
    """A ``Store`` in memory. Reads and writes take ``_lock``, so that no reader sees only a part of a batch."""

    def __init__(self, contents: Mapping[bytes, bytes] | None = None) -> None:
        self._lock = threading.Lock()
        self._values: dict[bytes, bytes] = dict(contents or {})
        self._keys: list[bytes] = sorted(self._values)
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            self._require_open()
            return self._values.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            self._require_open()
            return [self._values.get(key) for key in keys]

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            self._require_open()
            first, last = self._span(start, end)
            if limit is not None and last - first > limit:
                first, last = (last - limit, last) if reverse else (first, first + limit)
            pairs = [(key, self._values[key]) for key in self._keys[first:last]]
        return reversed(pairs) if reverse else iter(pairs)

    def write(self, batch: Batch) -> None:
        with self._lock:
            self._require_open()
            for operation in batch.operations:
                if isinstance(operation, Put):
                    if operation.key not in self._values:
                        self._keys.insert(bisect_left(self._keys, operation.key), operation.key)
                    self._values[operation.key] = operation.value
                elif isinstance(operation, Delete):
                    if self._values.pop(operation.key, None) is not None:
                        del self._keys[bisect_left(self._keys, operation.key)]
                else:
                    first, last = self._span(operation.start, operation.end)
                    for key in self._keys[first:last]:
                        del self._values[key]
                    del self._keys[first:last]

    def compact_ranges(self, ranges: Sequence[tuple[bytes, bytes | None]]) -> None:
        pass  # a deleted row leaves no bytes to remove

    def old_files(self) -> list[str]:
        return []

    def flush(self) -> None:
        self._require_open()

    def copy_files(self, path: Path) -> None:
        raise StorageError("store in memory has no files to copy")

    def approximate_size(self) -> int:
        with self._lock:
            return sum(len(key) + len(value) for key, value in self._values.items())

    def close(self) -> None:
        self._closed = True

    def reopen(self) -> "MemoryStore":
        """Return a new store with the same content, as another process would open it."""
        with self._lock:
            return MemoryStore(self._values)

    def _span(self, start: bytes, end: bytes | None) -> tuple[int, int]:
        first = bisect_left(self._keys, start)
        last = len(self._keys) if end is None else bisect_left(self._keys, end)
        return first, max(first, last)

    def _require_open(self) -> None:
        if self._closed:
            raise StorageError("store is closed")


class MemoryRows:
    """Rows of a policy table in memory, as a transaction that is never ended: a ``RowWriter``. For one thread."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._is_sorted = True
        self.get = self._rows.get

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key to a value."""
        if key not in self._rows:
            self._keys.append(key)
            self._is_sorted = False
        self._rows[key] = value

    def delete(self, key: bytes) -> None:
        """Remove a key, if there is such a key."""
        if self._rows.pop(key, None) is not None:
            self._keys.remove(key)

    def scan(self, start: bytes, end: bytes | None, *, limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs in [*start*, *end*), by key, at most *limit*, as they are now."""
        if not self._is_sorted:
            self._keys.sort()
            self._is_sorted = True
        last = len(self._keys) if end is None else bisect_left(self._keys, end)
        keys = self._keys[bisect_left(self._keys, start) : last][:limit]
        return iter([(key, self._rows[key]) for key in keys])

    def commit(self) -> None:
        """Do nothing: what was written is here."""

    def end(self, error: BaseException | None) -> None:
        """Do nothing: the rows go with this object."""
