"""Compare the policy table in use with a *copy* rebuilt from the ledger: the part of a scrub that protects decisions.

Decisions are made from the table. Its rows have checks (``checked_rows``), so a flipped bit is noticed when the row is
read. This comparison finds it before, and also finds rows that are missing, or that a fault of ours made wrong. The
copy is made in a scratch directory and compared page by page. A difference is a fault only if it remains on the
sequencer's thread, where no row changes. There a wrong row is mended (``Table.mend``): the scrub that finds it spoils
it, so that all decisions that need it are INDETERMINATE, and the next scrub of the row (``scrub_recent``) puts the row
that it has made from the ledger itself. So no row is replaced because of one copy, which may be the wrong one. A row
that all persons share is mended in the same way: until then nothing is decided about anybody, but a wrong registry or
vocabulary would decide about all.

The copy ends at the table's revision (a tree size). The ledger may be larger, because it commits each batch first. If
the revision itself is damaged, the table has no size to compare at, and the revision is mended first.
"""

import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from consentd.core import codec
from consentd.core.pruned import NOTHING
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.ledger import reads, retention
from consentd.table.checked_rows import CHECK_SIZE, DamagedRowError, is_intact
from consentd.table.table import CATCH_UP_BATCH, Table, catch_up
from consentd.table.transaction import STEP_KINDS
from consentd.table.view import REVISION_KEY
from consentd.verify.findings import MAX_FAULTS, Fault
from consentd.verify.scrub_records import Records
from consentd.verify.table_compare import Difference, compare_rows, scratch_table

_PAGE = 256
"""Table rows in a page, which one step compares."""
_COPY_FACTOR = 2
"""The copy may be this many times as large as the table: rows come in an order that leaves LMDB pages half full."""
_FREED_MB = 64
"""Further map size in MB, for pages that two batches of entries leave free. It matters only for a small table."""
_RESERVED_BYTES = 256 << 20
"""Disk space that must remain free for the ledger beside a copy."""
_SKIPPED_PER_RECORD = 8
"""This many leaves without an effect on the table take as long as one record, and are counted as one."""
MAX_SPOILED_TAGS = 4_096
"""Most persons that a scrub names because it has spoiled their rows. The next pass mends the rows of others."""
_NO_REVISION = "table row of kind `R` is damaged"

T = TypeVar("T")
_Step = Callable[[], list[Fault] | None]


class RunOnWriter(Protocol):
    """Runs a function on the sequencer's thread, between two batches, and returns the function's result."""

    def __call__(self, run: Callable[[], T], /) -> T: ...


def free_bytes(directory: Path) -> int:
    """Return the free bytes of the disk that has *directory*. Raises StorageError if the disk does not report them."""
    try:
        return shutil.disk_usage(directory).free
    except OSError as error:
        raise StorageError(f"free space for a copy of the table cannot be determined: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubOptions:
    """The settings of a scrub.

    Attributes:
        scratch_dir: the directory in which the table is rebuilt. It is deleted before and after.
        map_size_mb: map size of the table in use.
        piece: records between two pauses. 16 records take half a millisecond, which delays other threads by as much.
        batch: the copy may reflect this many leaves fewer than the table when the comparison of pages begins.
        rounds: how often the copy catches up with a growing table before the scrub fails.
        free_bytes: returns the free disk space of a directory.
    """

    scratch_dir: Path
    map_size_mb: int
    piece: int = 16
    batch: int = CATCH_UP_BATCH
    rounds: int = 16
    free_bytes: Callable[[Path], int] = free_bytes


class ScrubProgress:
    """How many records a scrub has checked, how many were damaged or spoiled, and the first ``MAX_FAULTS`` faults.

    The thread of the scrub owns this object.
    """

    def __init__(self, piece: int, pause: Callable[[int], None]) -> None:
        """Set *pause*, to be called after every *piece* records with their number. It may wait, or raise an error."""
        self._piece, self._pause = piece, pause
        self._since_pause = 0
        self.checked = self.damaged = 0
        self.spoiled = 0  # rows that are put right when they are compared again
        self.spoiled_tags: list[bytes] = []  # of the persons whose rows these are
        self.faults: list[Fault] = []

    def spoil(self, difference: Difference) -> None:
        """Count a row that was spoiled, and keep the tag of its person up to ``MAX_SPOILED_TAGS``."""
        self.spoiled += 1
        tags = {"s": difference.key[1:], "i": (difference.rebuilt or difference.stored or b"")[:-CHECK_SIZE]}
        if difference.kind in tags and len(self.spoiled_tags) < MAX_SPOILED_TAGS:
            self.spoiled_tags.append(tags[difference.kind])

    def add(self, *faults: Fault) -> None:
        """Count these faults, and keep them up to ``MAX_FAULTS``."""
        self.damaged += len(faults)
        self.faults += faults[: MAX_FAULTS - len(self.faults)]

    def count(self, records: int) -> None:
        """Count records that were checked; after every *piece* records, pause."""
        self.checked += records
        self._since_pause += records
        if self._since_pause >= self._piece:
            self.flush()

    def flush(self) -> None:
        """Call *pause* with the number of records since the last pause, unless there are none."""
        records, self._since_pause = self._since_pause, 0
        if records:
            self._pause(records)


class TableScrub:
    """The comparison of the table with a copy. The thread of the scrub owns this object."""

    def __init__(
        self, records: Records, options: ScrubOptions, progress: ScrubProgress, run_on_writer: RunOnWriter
    ) -> None:
        target = records.target
        self._ledger, self._vault, self._table = target.ledger, target.vault, target.table
        self._records, self._options, self._progress = records, options, progress
        self._run_on_writer = run_on_writer
        self._pruned = NOTHING
        self._skipped = 0  # leaves without an effect on the table, not yet counted as a record
        self._last: bytes | None = None  # key of the last row compared; None at the table's end

    def run(self) -> None:
        """Compare all rows. A pruning ends the comparison, because the copy is made from statements that it deletes.

        Raises:
            StorageError: there is no space for the copy, or the table grows faster than the copy at the scrub's pace.
        """
        directory = self._options.scratch_dir
        clear(directory)
        self._require_space()
        self._pruned = retention.read_pruned(self._ledger.store)
        map_size_mb = _COPY_FACTOR * self._options.map_size_mb + _FREED_MB
        with scratch_table(directory, map_size_mb=map_size_mb) as copy:
            if not self._has_revision():
                self._attempt(partial(self._rebuild_revision, copy), partial(self._mend_revision, copy))
            self._last = b"" if self._catch_up(copy) else None
            while self._last is not None:
                after = self._last
                mended = partial(self._compare_page, copy, after, mends=True)
                if self._attempt(partial(self._compare_page, copy, after), mended) is None:
                    break
                self._progress.count(_PAGE)

    def _require_space(self) -> None:
        """Raise StorageError if the copy could fill the disk, because a full disk stops the ledger."""
        needed = _COPY_FACTOR * self._table.used_bytes() + _RESERVED_BYTES
        free = self._options.free_bytes(self._options.scratch_dir.parent)
        if free < needed:
            raise StorageError(f"no room for a copy of the table: `{needed}` bytes are wanted, `{free}` are free")

    def _catch_up(self, copy: Table) -> bool:
        """Bring the copy near the table's revision, at the scrub's pace; return whether the two can be compared."""
        for _ in range(self._options.rounds):
            if self._attempt(partial(self._check_revision, copy), partial(self._spoil_revision, copy)) != ():
                return False
            size, target = _size(copy), _size(self._table)
            if target - size <= self._options.batch:
                return True
            while size < target:
                size = min(size + self._options.batch, target)
                paced = partial(self._advance, copy, size, self._count_leaf)
                if self._attempt(paced, partial(self._advance, copy, size)) != ():
                    return False
        raise StorageError("table moves on faster than `scrub.records_per_s` lets a copy follow; raise it")

    def _attempt(self, step: _Step, again: _Step | None = None) -> tuple[Fault, ...] | None:
        """Run *step*; if it finds a fault, run *again* (None: *step* a second time) on the sequencer's thread.

        Returns:
            The faults that remain; None if a pruning has started since the copy was begun.
        """
        if not _faults(step):
            return ()
        faults, is_unpruned = self._run_on_writer(lambda: (_faults(again or step), self._is_unpruned()))
        if not is_unpruned:
            return None
        self._progress.add(*faults)
        return faults

    def _is_unpruned(self) -> bool:
        """Return whether no pruning has started since the copy was begun."""
        store = self._ledger.store
        return retention.read_pruned(store) == self._pruned and retention.is_finished(store)

    def _check_revision(self, copy: Table) -> None:
        """Raise CorruptionError if the ledger never had the table's size and root, or if the copy's size is larger."""
        with self._table.read() as stored:
            size, root = stored.size, stored.root
        is_known = _size(copy) <= size <= self._ledger.state.size
        if not is_known or (size and root != reads.root_at(self._ledger.store, size)):
            raise CorruptionError("table row of kind `R` names a revision that the ledger never had")

    def _has_revision(self) -> bool:
        """Return whether the row with the table's revision is intact."""
        with self._table.begin_read() as txn:
            stored = txn.get(REVISION_KEY)
        return stored is not None and is_intact(REVISION_KEY, stored)

    def _rebuild_revision(self, copy: Table) -> list[Fault]:
        """Bring the copy to the ledger's size, at the scrub's pace. It does not grow: no write finds a revision."""
        while (size := _size(copy)) < self._ledger.state.size:
            self._advance(copy, min(size + self._options.batch, self._ledger.state.size), self._count_leaf)
        return [Fault(None, _NO_REVISION)]

    def _mend_revision(self, copy: Table) -> list[Fault]:
        """Put the copy's revision, on the sequencer's thread. There the table reflects all entries of the ledger."""
        if self._has_revision():
            return []
        self._advance(copy, self._ledger.state.size)
        with self._table.begin_read() as txn, copy.begin_read() as right:
            stored, rebuilt = txn.get(REVISION_KEY), right.get(REVISION_KEY)
        self._table.mend(REVISION_KEY, stored or b"", rebuilt)
        return [Fault(None, _NO_REVISION)]

    def _spoil_revision(self, copy: Table) -> None:
        """Do as ``_check_revision``, on the sequencer's thread. Spoil a revision that is wrong."""
        try:
            self._check_revision(copy)
            with self._table.read() as stored:
                if stored.size != self._ledger.state.size:
                    raise CorruptionError("table row of kind `R` names another size than the ledger's")
        except CorruptionError:
            with self._table.begin_read() as txn:
                row = txn.get(REVISION_KEY)
            self._table.mend(REVISION_KEY, row, row)
            self._progress.spoiled += 1
            raise

    def _advance(self, copy: Table, size: int, after_leaf: Callable[[bytes], None] | None = None) -> None:
        catch_up(copy, self._ledger.store, self._vault, size=size, after_leaf=after_leaf)

    def _count_leaf(self, leaf: bytes) -> None:
        self._skipped += 1
        if codec.kind_of(leaf) in STEP_KINDS or self._skipped == _SKIPPED_PER_RECORD:
            self._skipped = 0
            self._progress.count(1)

    def _compare_page(self, copy: Table, after: bytes, *, mends: bool = False) -> list[Fault]:
        """Compare the page of rows after key *after*. If this raises, no further page is compared.

        *mends*: mend the wrong rows. Only on the sequencer's thread.
        """
        self._last = None
        if mends:
            self._spoil_revision(copy)
        else:
            self._check_revision(copy)
        with self._table.read() as stored:
            # The copy does not pause here, because the table cannot reuse freed pages while a snapshot of it is open.
            self._advance(copy, stored.size)
            ours = stored.page(after, _PAGE)
            last = ours[-1][0] if len(ours) == _PAGE else None
            with copy.read() as rebuilt:
                theirs = [row for row in rebuilt.page(after, 2 * _PAGE) if last is None or row[0] <= last]
        faults: list[Fault | None] = []
        differences = list(compare_rows(iter(ours), iter(theirs)))
        if mends and self._is_unpruned():
            self._mend(differences)
        for difference in differences:
            index = self._records.last_index(difference.key[1:]) if difference.kind == "s" else None
            faults.append(Fault(index, difference.what))
        expected = dict(theirs)
        right = ((key, row) for key, row in ours if key[:1] == b"i" and expected.get(key) == row)
        faults += [self._identifier_fault(key[1:], row[:-CHECK_SIZE]) for key, row in right]
        self._last = last
        return [fault for fault in faults if fault is not None]

    def _mend(self, differences: list[Difference]) -> None:
        for one in differences:
            is_spoiled = one.stored is not None and not is_intact(one.key, one.stored)
            self._table.mend(one.key, one.stored, one.rebuilt)
            if not is_spoiled:
                self._progress.spoil(one)

    def _identifier_fault(self, identifier_hash: bytes, tag: bytes) -> Fault | None:
        """Check an identifier row of the table, which the copy has too, against the vault."""
        if self._vault.find(identifier_hash) == tag:
            return None
        what = "identifier of the person enrolled here is not in the vault, or leads elsewhere"
        return Fault(self._records.first_index(tag), what)


def _faults(step: _Step) -> tuple[Fault, ...]:
    """Run a step; return its faults. An error is returned as a fault too, but StorageError is raised for a shortage."""
    try:
        return tuple(step() or ())
    except DamagedRowError as error:
        what = str(error)
    except StorageError:
        raise
    except ConsentdError as error:
        what = str(error)
    except struct.error:
        what = "a row has an impossible length"
    return (Fault(None, f"table cannot be compared with a rebuilt one: {what}"),)


def _size(table: Table) -> int:
    with table.read() as snapshot:
        return snapshot.size


def clear(scratch_dir: Path) -> None:
    """Delete the copy that a killed scrub left, because its rows may be of persons who were erased since."""
    shutil.rmtree(scratch_dir, ignore_errors=True)
