"""Hold the policy table in use against one made anew from the ledger: the part of a scrub that matters most to checks.

LMDB has no checksums, and a check answers by one row alone: a flipped bit in a consent would be a wrong answer, and
nothing else would tell. The copy is brought to the revision of the table, a page of both is compared, and so on to the
end; what differs counts if it still differs on the sequencer's thread, where table and ledger are of one moment.

The table's revision, not the ledger's, says how far the copy goes: of a turn, the ledger's part is committed first.
"""

import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from consentd.core import codec, tiles
from consentd.core.pruned import NOTHING
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.ledger import reads, retention
from consentd.ledger.ledger import Ledger
from consentd.ledger.map import TagMap
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.store.memory import MemoryStore
from consentd.table.table import CATCH_UP_BATCH, Table, catch_up
from consentd.table.transaction import STEPS
from consentd.verify.findings import Fault
from consentd.verify.scrub_records import Records

_PAGE = 256
"""Table rows compared at once."""
_ROUNDS = 16
"""How often the copy runs after a table that moves on, at a bounded rate, before it gives up."""
_COPY_SHARE = 2
"""How much larger than the table its copy may get: it is filled in the entries' order, so its pages are less full."""
_FREED_MB = 64
"""More addresses for pages that two batches of entries leave free; they count where the table is small."""
_ROOM_LEFT_BYTES = 256 << 20
"""Room that a copy leaves to the ledger."""
_SILENT_PER_RECORD = 8
"""Leaves that say nothing to the table are read so much faster than records are looked at."""

Found = tuple[bytes | None, list[Fault]]
"""The last key compared (None: the end), and what differs."""


class TableScrub:
    """The comparison. Owned by the thread of its scrub."""

    def __init__(
        self,
        ledger: Ledger,
        vault: Vault,
        table: Table,
        records: Records,
        *,
        call: Callable[[Callable[[], Any]], Any],
        count: Callable[[int], None],
        found: Callable[[Sequence[Fault]], None],
        scratch_dir: Path,
        map_size_mb: int,
    ) -> None:
        """Make a comparison; see ``Scrub``. *count* is told of records looked at, *found* of faults."""
        self._ledger, self._vault, self._table, self._records = ledger, vault, table, records
        self._call, self._count, self._found = call, count, found
        self._scratch_dir, self._map_size_mb = scratch_dir, map_size_mb
        self._paced = _Paced(ledger.store, count)
        self._pruned = NOTHING

    def run(self) -> None:
        """Compare all rows, unless a pruning is under way: it takes statements away that the copy met or did not.

        Raises:
            StorageError: no room for the copy, or the table moves on faster than the copy may follow.
        """
        clear(self._scratch_dir)
        self._require_room()
        self._pruned = retention.read_pruned(self._ledger.store)
        copy = Table.open(self._scratch_dir, map_size_mb=_COPY_SHARE * self._map_size_mb + _FREED_MB)
        try:
            after = b"" if self._make(copy) else None
            while after is not None:
                after = self._compare_page(copy, after)
                self._count(_PAGE)
        finally:
            copy.close()
            clear(self._scratch_dir)

    # -- the copy ---------------------------------------------------------------------------------------------

    def _require_room(self) -> None:
        """Begin no copy that could take the room that entries need: a full disk stops the ledger."""
        needed = _COPY_SHARE * self._table.used_bytes() + _ROOM_LEFT_BYTES
        try:
            free = shutil.disk_usage(self._scratch_dir.parent).free
        except OSError as error:
            raise StorageError(f"room for a copy of the table cannot be told: {error.strerror}") from error
        if free < needed:
            raise StorageError(f"no room for a copy of the table: `{needed}` bytes are wanted, `{free}` are free")

    def _make(self, copy: Table) -> bool:
        """Bring the copy near the table, at the rate of the scrub; tell whether there is something to compare."""
        for _ in range(_ROUNDS):
            if not self._try(partial(self._check_revision, copy)):
                return False
            size, target = _size(copy), _size(self._table)
            if target - size <= CATCH_UP_BATCH:
                return True
            while size < target:
                size = min(size + CATCH_UP_BATCH, target)
                again = partial(self._advance, copy, size, self._ledger.store)
                if not self._try(partial(self._advance, copy, size, self._paced), again):
                    return False
        raise StorageError("table moves on faster than `scrub.records_per_s` lets a copy follow; raise it")

    def _try(self, step: Callable[[], None], again: Callable[[], None] | None = None) -> bool:
        """Do a step and, if it fails, do *again* (None: the same) where nothing moves. Tells whether to go on."""
        if self._failure(step) is None:
            return True
        failure, still = self._call(lambda: (self._failure(again or step), self._is_still()))
        if failure is None:
            return True
        self._found([failure] if still else [])
        return False

    def _failure(self, step: Callable[[], None]) -> Fault | None:
        try:
            step()
        except StorageError:
            raise
        except ConsentdError as error:
            return Fault(None, f"table cannot be compared with one made anew: {error}")
        except struct.error:
            return Fault(None, "table cannot be compared with one made anew: a row has an impossible length")
        return None

    def _is_still(self) -> bool:
        """Tell whether nothing was pruned since the copy was begun."""
        store = self._ledger.store
        return retention.read_pruned(store) == self._pruned and retention.is_finished(store)

    def _check_revision(self, copy: Table) -> None:
        """Check that the table is at a size that the ledger had, and the copy not beyond it."""
        with self._table.read() as standing:
            size, root = standing.size, standing.root
        is_known = _size(copy) <= size <= self._ledger.state.size
        if not is_known or (size and root != reads.root_at(self._ledger.store, size)):
            raise CorruptionError("table row of kind `R` names a revision that the ledger never had")

    def _advance(self, copy: Table, size: int, store: Store) -> None:
        at_size = Ledger(store, replace(self._ledger.state, size=size), tiles.Edge(), TagMap(MemoryStore(), 1))
        catch_up(copy, at_size, self._vault, 0)

    # -- rows -------------------------------------------------------------------------------------------------

    def _compare_page(self, copy: Table, after: bytes) -> bytes | None:
        """Compare the rows behind key *after*; return the last key compared, None at the end."""
        last, faults = self._compared(copy, after)
        if faults:
            (last, faults), still = self._call(lambda: (self._compared(copy, after), self._is_still()))
            if not still:
                return None
            self._found(faults)
        return last

    def _compared(self, copy: Table, after: bytes) -> Found:
        """Compare the rows behind a key. What cannot be compared is a fault, and the end."""
        found: Found = None, []

        def compare() -> None:
            nonlocal found
            found = self._compare(copy, after)

        failure = self._failure(compare)
        return found if failure is None else (None, [failure])

    def _compare(self, copy: Table, after: bytes) -> Found:
        self._check_revision(copy)
        with self._table.read() as standing:
            # Without a pause: a snapshot of the table is open, and pages that it shows are not used again meanwhile.
            self._advance(copy, standing.size, self._ledger.store)
            ours = dict(standing.page(after, _PAGE))
            last = max(ours) if len(ours) == _PAGE else None
            with copy.read() as made:
                theirs = dict(made.page(after, 2 * _PAGE))
        if last is not None:
            theirs = {key: value for key, value in theirs.items() if key <= last}
        keys = sorted((ours.keys() | theirs.keys()) - {b"H"})
        faults = [self._fault_of(key, ours.get(key), theirs.get(key)) for key in keys]
        return last, [fault for fault in faults if fault is not None]

    def _fault_of(self, key: bytes, ours: bytes | None, theirs: bytes | None) -> Fault | None:
        kind = key[:1].decode("ascii", "replace")
        if ours == theirs:
            if kind != "i" or ours is None or self._vault.find(key[1:]) == ours:
                return None
            what = "identifier of the person enrolled here is not in the vault, or leads elsewhere"
            return Fault(self._records.first_index(ours), what)
        index = self._records.last_index(key[1:]) if kind == "s" else None
        return Fault(index, f"table row of kind `{kind}` is not what the entries make it")


class _Paced:
    """A store that counts the leaves scanned, for the pace of whoever makes a table from them."""

    def __init__(self, store: Store, count: Callable[[int], None]) -> None:
        self._scan, self._count = store.scan, count
        self.get, self.multi_get, self.write, self.close = store.get, store.multi_get, store.write, store.close
        self.copy, self.compact_range, self.approximate_size = store.copy, store.compact_range, store.approximate_size

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Scan the store."""
        silent = 0
        for key, row in self._scan(start, end, reverse=reverse, limit=limit):
            yield key, row
            if key[:1] == b"l":
                silent += 1
                if codec.kind_of(row) in STEPS or silent == _SILENT_PER_RECORD:
                    self._count(1)
                    silent = 0


def _size(table: Table) -> int:
    with table.read() as snapshot:
        return snapshot.size


def clear(scratch_dir: Path) -> None:
    """Delete what a scrub that was killed left: rows of persons, who may ask to be forgotten."""
    shutil.rmtree(scratch_dir, ignore_errors=True)
