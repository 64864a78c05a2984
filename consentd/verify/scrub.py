"""Read every stored record again while the ledger is in use, so that damage is found before the record is needed.

Where ``fsck`` verifies a ledger from nothing and wants it still, a *scrub* goes beside the writer, a few records at a
time, and holds each against another that must agree with it::

    state row      what is in memory; the row of what is pruned: what the ledger states
    leaf           its hash in the tile over it; its index row, head row, and statement, against the commitment
    tile           its hash in the tile above; those at the right edge, against the root in the state
    head row       the entry it counts to
    map bucket     its root in memory, and so the map root of the last seal; the row of roots as well
    request row    the entry it names, and the row that says when it may go
    last_signed    the tree, under the log's signature
    vault row      whether it opens under the vault key; identifiers: whether they lead where the table says
    table row      the same row of a table made anew from the ledger (``scrub_table``)

Signatures are not verified: commitment and leaf hash hold every byte of a statement. Of a request row only the hash of
the content is held against nothing, nor can entries of one millisecond be told apart; RocksDB's checksums cover them.

**What is found when.** Before a checkpoint covers it: a changed state row, and a changed tile at the right edge, which
every new root is made of; the sequencer reads both again, and stops rather than sign. So a changed leaf or tile never
becomes part of a signed tree. At the next scrub: everything else. What RocksDB or the system holds in memory is read
from there, so damage on disk is found once the block has left it.

INVARIANT: what is reported is damage. A record that seems wrong is looked at once more on the sequencer's thread, where
nothing changes beside it; only what is wrong there too counts.
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from consentd.core import tiles
from consentd.core.note import Verifier
from consentd.errors import ConsentdError
from consentd.ledger import layout, retention
from consentd.ledger.ledger import Ledger
from consentd.ledger.vault import Vault
from consentd.store import Store, prefix_end
from consentd.table.table import Table
from consentd.verify.findings import MAX_FAULTS, Fault
from consentd.verify.scrub_records import Check, Records
from consentd.verify.scrub_table import TableScrub

PIECE = 16
"""Records between two pauses: half a millisecond, which is how much later another thread may have its turn."""
_KEYS = 256
"""Keys listed at once."""


class Scrub:
    """One pass over all records. Owned by one thread.

    Attributes:
        faults: what was found so far, the first ``MAX_FAULTS`` of it.
        damaged: how many there were.
        looked: records looked at so far.
        expected: about how many there are.
    """

    def __init__(
        self,
        ledger: Ledger,
        vault: Vault,
        table: Table,
        *,
        last_signed_path: Path,
        origin: str,
        log_verifier: Verifier,
        call: Callable[[Callable[[], Any]], Any],
        pause: Callable[[int], None],
        scratch_dir: Path,
        map_size_mb: int,
    ) -> None:
        """Make a pass.

        Args:
            last_signed_path, origin, log_verifier: what the last signed checkpoint is verified with.
            call: runs something on the sequencer's thread, between two turns.
            pause: called with how many records were looked at since it was called last; may wait, may raise to end it.
            scratch_dir: where a table is made anew, as large as the one there is; cleared before and after.
            map_size_mb: most that it can grow to.
        """
        self._ledger, self._vault = ledger, vault
        self._records = Records(
            ledger, vault, last_signed_path=last_signed_path, origin=origin, log_verifier=log_verifier
        )
        self._table = TableScrub(
            ledger, vault, table, self._records, call=call, count=self._count, found=self._found,
            scratch_dir=scratch_dir, map_size_mb=map_size_mb,
        )  # fmt: skip
        self._call, self._pause = call, pause
        self._uncounted = 0
        self.faults: list[Fault] = []
        self.damaged = self.looked = 0
        state = ledger.state
        self.expected = 2 * state.size + state.tags + (1 << state.map_bits)

    def run(self) -> None:
        """Look at everything once.

        Raises:
            StorageError: the ledger is being closed, or a table cannot be made anew for want of space.
        """
        records, state = self._records, self._ledger.state
        self._look(records.state, "state row")
        knows_pruned = self._look(records.pruned, "row of what is pruned")
        if knows_pruned:
            self._look(records.stated, "row of what is pruned")
        for index in range(state.size):
            self._look(partial(records.entry, index), "entry", index)
        before = self.damaged
        self._scrub_tiles(state.size)
        self._look(partial(records.edge, state.size, state.root), "tiles at the right edge")
        if self.damaged == before:  # else a fault of the last signed checkpoint could not be told from one of the tiles
            self._look(records.last_signed, "last signed checkpoint")
        self._scrub_rows(self._ledger.store, b"h", records.head, "head row")
        if knows_pruned and retention.read_pruned(self._ledger.store).minimum:
            self._scrub_rows(self._ledger.store, b"i", records.place, "index row")
        self._scrub_map()
        self._scrub_rows(self._ledger.store, b"q", records.request, "request row")
        # New ones come at the end, perhaps faster than they are looked at: they are the next pass's.
        newer = layout.expiry_key(state.time_ms + 1, b"")
        self._scrub_rows(self._ledger.store, b"x", records.expiry, "row that says when a request may go", newer)
        self._look(records.index_key, "index key of the vault")
        self._scrub_rows(self._vault.store, b"k", records.data_key, "data key in the vault")
        self._scrub_rows(self._vault.store, b"i", records.identifier, "identifier in the vault")
        if knows_pruned:  # else nobody knows whether it stands still meanwhile
            self._table.run()
        if self._uncounted:
            self._pause(self._uncounted)

    # -- steps ------------------------------------------------------------------------------------------------

    def _look(self, check: Check, what: str, index: int | None = None) -> bool:
        """Check something; what seems wrong, once more where nothing moves. Tells whether it is right.

        *index*: the entry it is about.
        """
        fault = _outcome(check, what, index)
        if fault is not None:
            fault = self._call(lambda: _outcome(check, what, index))
            if fault is not None:
                self._found([fault])
        self._count(1)
        return fault is None

    def _found(self, faults: Sequence[Fault]) -> None:
        self.damaged += len(faults)
        self.faults += faults[: MAX_FAULTS - len(self.faults)]

    def _count(self, records: int) -> None:
        self.looked += records
        self._uncounted += records
        if self._uncounted >= PIECE:
            records, self._uncounted = self._uncounted, 0
            self._pause(records)

    def _scrub_tiles(self, size: int) -> None:
        level, count = 0, size // tiles.TILE_WIDTH
        while count:
            for n in range(count):
                self._look(partial(self._records.tile, level, n), f"tile `{n}` of level {level}")
            level, count = level + 1, count // tiles.TILE_WIDTH

    def _scrub_map(self) -> None:
        self._look(self._records.map_root, "map root")
        for number in range(1 << self._ledger.state.map_bits):
            self._look(partial(self._records.bucket, number), f"map bucket `{number}`")
            group, place = divmod(number, layout.ROOTS_PER_ROW)
            if place == 0:
                self._look(partial(self._records.roots, group), f"row `{group}` of bucket roots")

    def _scrub_rows(
        self, store: Store, kind: bytes, check: Callable[[bytes], Fault | None], what: str, end: bytes | None = None
    ) -> None:
        """Check every row of a kind, by its key, up to *end*."""
        end = end or prefix_end(kind)
        after: bytes | None = kind
        while after is not None:
            keys: list[bytes] = []

            def list_keys(after: bytes = after, keys: list[bytes] = keys) -> None:
                keys[:] = [key for key, _ in store.scan(after, end, limit=_KEYS)]

            self._look(list_keys, f"{what}: further rows cannot be listed")
            for key in keys:
                self._look(partial(check, key), what)
            after = keys[-1] + b"\0" if len(keys) == _KEYS else None


def _outcome(check: Check, what: str, index: int | None) -> Fault | None:
    """Run a check; a record that cannot be read, be it the disk's fault or its own, is a fault too."""
    try:
        return check()
    except ConsentdError as error:
        return Fault(index, f"{what}: {error}")
    except (struct.error, ValueError, IndexError):
        return Fault(index, f"{what}: a row has an impossible length or value")
