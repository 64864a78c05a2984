"""Read every stored record again while the ledger is in use, so that damage is found before the record is needed.

``fsck`` verifies the files of a stopped ledger. A *scrub* runs while the daemon works, pauses after every few records,
and compares each record (left) with another one that must agree (right)::

    state row           the state in memory
    row of prunings     the prunings that the ledger's own entries state
    leaf                its hash in the tile; and the index row, head row, reference row and statement of its entry
    reference row       the leaf of its entry
    tile                its hash in the tile above; of a partial tile, the root in the state
    head row            the last entry of its chain
    map bucket          its root in memory, which the last seal covers; of a row of roots, the same
    request row         the entry that the row names, and the expiry row of the request
    last signed         the tree, under the log's signature
    vault row           a vault key must be the one in memory; a data key must decrypt; an identifier must lead to the
                        same person as in the table
    table row           the same row of a rebuilt table (``scrub_table``)

Signatures are not verified again, because the leaf's commitment covers every byte of a statement. Of a request row, a
wrong content hash is not found, nor an index changed to that of another entry of the same millisecond. These bytes are
protected only by the checksums of RocksDB.

**When damage is found.** Before it signs a checkpoint, the sequencer reads the state row, the tiles at the right edge
and the new leaves again, and stops if one is damaged. So no damage gets into a signed tree. A scrub finds all other
damage. A block that is cached in memory is not read from disk, so damage of the block on disk is found later.

INVARIANT: only damage is reported. A record that seems wrong is checked again on the sequencer's thread, where no row
changes during the check.
"""

from collections.abc import Callable
from functools import partial

from consentd.core import tiles
from consentd.ledger import layout, retention
from consentd.store import Store, prefix_end
from consentd.verify.findings import Fault
from consentd.verify.scrub_records import Check, Records, ScrubTarget, run_check
from consentd.verify.scrub_table import RunOnWriter, ScrubOptions, ScrubProgress, TableScrub

_KEYS = 256
"""Most keys that one scan lists."""


class Scrub:
    """One pass over all records, of which there are about *expected*. One thread owns it."""

    def __init__(
        self, target: ScrubTarget, options: ScrubOptions, *, run_on_writer: RunOnWriter, pause: Callable[[int], None]
    ) -> None:
        """Prepare a pass; *pause*: see ``ScrubProgress``."""
        self._ledger, self._vault = target.ledger, target.vault
        self._records, self._run_on_writer = Records(target), run_on_writer
        self.progress = ScrubProgress(options.piece, pause)
        self._count = self.progress.count  # called for every record
        self._table = TableScrub(self._records, options, self.progress, run_on_writer)
        state = target.ledger.state
        self.expected = 2 * state.size + state.tags + (1 << state.map_bits)

    def run(self) -> None:
        """Check every record once.

        Raises:
            StorageError: the ledger is being closed, or there is no space to rebuild the table.
        """
        records, state = self._records, self._ledger.state
        self._check(records.state, "state row")
        knows_pruned = self._check(records.pruned, "row of what is pruned")
        if knows_pruned:
            self._check(records.stated, "row of what is pruned")
        for index in range(state.size):
            self._check(partial(records.entry, index), "entry", index)
        before = self.progress.damaged
        self._scrub_tiles(state.size)
        self._check(partial(records.edge, state.size, state.root), "tiles at the right edge")
        if self.progress.damaged == before:  # Damaged tiles would make this check fail too.
            self._check(records.last_signed, "last signed checkpoint")
            self._check(records.kept_checkpoints, "kept checkpoint of a replaced log key")
        self._scrub_rows(self._ledger.store, b"h", records.head, "head row")
        if knows_pruned and retention.read_pruned(self._ledger.store).minimum:
            self._scrub_rows(self._ledger.store, b"i", records.index_row, "index row")
        self._scrub_rows(self._ledger.store, b"f", records.reference, "reference row")
        self._scrub_map()
        self._scrub_rows(self._ledger.store, b"q", records.request, "request row")
        # Rows may be added faster than they are checked, so the next pass checks the rows that are newer than this one.
        newer = layout.expiry_key(state.time_ms + 1, b"")
        self._scrub_rows(self._ledger.store, b"x", records.expiry, "expiry row of a request", newer)
        self._check(records.vault_keys, "vault keys")
        self._check(records.index_key, "index key of the vault")
        self._check(records.vault_state, "state of the vault")
        self._scrub_rows(self._vault.store, b"k", records.data_key, "data key in the vault")
        self._scrub_rows(self._vault.store, b"i", records.identifier, "identifier in the vault")
        if knows_pruned:  # Otherwise a pruning that starts during the comparison would not be noticed.
            self._table.run()
        self.progress.flush()

    def _check(self, check: Check, what: str, index: int | None = None) -> bool:
        """Run a check; if it finds a fault, run it again on the sequencer's thread. Return whether no fault remains."""
        fault = run_check(check, what, index)
        if fault is not None:
            fault = self._run_on_writer(lambda: run_check(check, what, index))
            if fault is not None:
                self.progress.add(fault)
        self._count(1)
        return fault is None

    def _scrub_tiles(self, size: int) -> None:
        level, count = 0, size // tiles.TILE_WIDTH
        while count:
            for n in range(count):
                self._check(partial(self._records.tile, level, n), f"tile `{n}` of level {level}")
            level, count = level + 1, count // tiles.TILE_WIDTH

    def _scrub_map(self) -> None:
        self._check(self._records.map_root, "map root")
        for number in range(1 << self._ledger.state.map_bits):
            self._check(partial(self._records.bucket, number), f"map bucket `{number}`")
            group, at = divmod(number, layout.ROOTS_PER_ROW)
            if at == 0:
                self._check(partial(self._records.roots, group), f"row `{group}` of bucket roots")

    def _scrub_rows(
        self, store: Store, kind: bytes, check: Callable[[bytes], Fault | None], what: str, end: bytes | None = None
    ) -> None:
        """Call *check* with the key of every row of a kind, up to key *end*; None: of all rows."""
        end = end or prefix_end(kind)
        start: bytes | None = kind
        while start is not None:
            keys: list[bytes] = []

            def list_keys(start: bytes = start, keys: list[bytes] = keys) -> None:
                keys[:] = [key for key, _ in store.scan(start, end, limit=_KEYS)]

            self._check(list_keys, f"{what}: further rows cannot be listed")
            for key in keys:
                self._check(partial(check, key), what)
            start = keys[-1] + b"\0" if len(keys) == _KEYS else None
