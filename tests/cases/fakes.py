"""Fakes that tests share: each keeps the contract of what it replaces, and can be made to fail."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from consentd.clock import SystemClock
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteSignature, NoteSigner
from consentd.cosigning.publisher import ImmediatePublisher
from consentd.errors import StorageError
from consentd.store import Batch, Store
from consentd.store.memory import MemoryStore
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction

START_MS = 1_800_000_000_000


HANG_S = 300
"""How long tests wait for something that must happen. Only a test that would hang waits so long."""


class FakeClock:
    """A clock that moves only by ``advance``, and forward; ``shift_wall`` sets the wall clock, as operators do."""

    def __init__(self, wall_ms: int = START_MS) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = 0

    def wall_ms(self) -> int:
        return self._wall_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def advance(self, ms: int) -> None:
        assert ms >= 0, "time only moves forward"
        self._wall_ms += ms
        self._monotonic_ms += ms

    def shift_wall(self, ms: int) -> None:
        """Move the wall clock alone."""
        self._wall_ms += ms


class Random:
    """A CSPRNG that gives the same bytes in every run."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def __call__(self, size: int) -> bytes:
        assert size <= 64
        return hashlib.blake2b(b"%d" % next(self._count), digest_size=size).digest()


class FaultyStore:
    """A ``Store`` over another one, whose next write or read can be made to fail.

    A write can fail in two ways, and code must survive both: the batch never reached the disk, or it did and only the
    answer was lost. After either, the store refuses writes, as the contract says.

    Attributes:
        inner: the store that holds the rows; open that again to see what a new process would find.
        writes: batches that reached *inner*, in order.
    """

    def __init__(self, inner: Store | None = None) -> None:
        self.inner: Store = MemoryStore() if inner is None else inner
        self.writes: list[Batch] = []
        self._persisted: bool | None = None
        self._skip = 0
        self._read_error: BaseException | None = None
        self._failed = False
        self._damage: tuple[bytes, Callable[[bytes], bytes]] | None = None

    def damage_after_write(self, key: bytes, change: Callable[[bytes], bytes]) -> None:
        """Change the row of *key* right after the next write succeeds."""
        self._damage = key, change

    def fail_write(self, *, persisted: bool, after: int = 0) -> None:
        """Make a write fail: the next one, or the one that follows *after* more that succeed."""
        self._persisted = persisted
        self._skip = after

    def fail_reads(self, fail: bool = True, *, error: BaseException | None = None) -> None:
        """Make every read fail, with *error* if it is given; or let reads succeed again."""
        self._read_error = (error or StorageError("read failed")) if fail else None

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
            raise StorageError("store refuses writes because one failed")
        fails = self._persisted is not None and self._skip == 0
        if not fails or self._persisted:
            self.inner.write(batch)
            self.writes.append(batch)
            if self._damage is not None:
                (key, change), self._damage = self._damage, None
                damaged = Batch()
                damaged.put(key, change(self.inner.get(key) or b""))
                self.inner.write(damaged)
        if fails:
            self._failed = True
            raise StorageError("write failed, its outcome is unknown")
        self._skip = max(0, self._skip - 1)

    def compact_ranges(self, ranges: Sequence[tuple[bytes, bytes | None]]) -> None:
        self.inner.compact_ranges(ranges)

    def old_files(self) -> list[str]:
        return self.inner.old_files()

    def flush(self) -> None:
        self.inner.flush()

    def copy_files(self, path: Path) -> None:
        self.inner.copy_files(path)

    def approximate_size(self) -> int:
        return self.inner.approximate_size()

    def close(self) -> None:
        self.inner.close()

    def _read(self) -> None:
        if self._read_error is not None:
            raise self._read_error


class FaultyTable(Table):
    """A table whose commits fail on command.

    Attributes:
        persisted: None: commits succeed. False: a commit fails, and is lost. True: it fails, and was made.
    """

    persisted: bool | None = None

    def begin(self) -> TableTransaction:
        transaction = super().begin()
        if self.persisted is not None:
            commit = transaction.commit

            def fail(size: int, root: bytes, *, time_ms: int, wall_ms: int) -> None:
                if self.persisted:
                    commit(size, root, time_ms=time_ms, wall_ms=wall_ms)
                raise StorageError("table failed: mdb_txn_commit: Input/output error")

            transaction.commit = fail  # type: ignore[method-assign]
        return transaction


class FaultySigner:
    """A signer that fails on command."""

    def __init__(self, inner: NoteSigner) -> None:
        self.inner = inner
        self.fails = False

    def sign(self, text: str) -> NoteSignature:
        if self.fails:
            raise StorageError("signer does not answer")
        return self.inner.sign(text)


class FaultyPublisher(ImmediatePublisher):
    """A publisher whose offers fail on command.

    Attributes:
        persisted: None: offers succeed. False: an offer fails. True: it fails after the checkpoint became public.
    """

    persisted: bool | None = None

    def offer(self, point: Checkpoint, note: bytes) -> None:
        if self.persisted is not False:
            super().offer(point, note)
        if self.persisted is not None:
            raise StorageError("publisher failed")


class MovedClock(SystemClock):
    """The machine's clock, moved on by ``advance``: for a daemon, whose threads wait for time to pass."""

    def __init__(self) -> None:
        self._moved_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self._moved_ms

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self._moved_ms

    def advance(self, ms: int) -> None:
        assert ms >= 0, "time only moves forward"
        self._moved_ms += ms
