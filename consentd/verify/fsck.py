"""Verify the files of a stopped ledger: every leaf, every row, every signature, and the policy table.

A daemon starts in seconds, because it trusts rows that were verified when they were written. ``verify_files`` trusts
only the log's public key. The ``walker`` replays all leaves and verifies statements. Every other row must equal the row
that the replay computes. The last signed checkpoint must be of this tree, and the policy table must equal a table that
is rebuilt from the ledger. Nothing is repaired.

Memory: 0.35 kB for each chain, one run of leaves, and 40 bytes for each statement of erased persons.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from consentd.core import codec, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind
from consentd.core.note import Verifier, format_vkey
from consentd.core.pruned import NOTHING, Pruned
from consentd.core.replay import Replay
from consentd.core.rotation import LedgerKeys
from consentd.errors import ConsentdError, CorruptionError, MalformedError, StorageError
from consentd.ledger import layout
from consentd.ledger.retention import read_pruned
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.table.table import Table, catch_up
from consentd.verify import stored_rows as rows
from consentd.verify import table_compare
from consentd.verify.findings import NO_TABLE, Fault, Findings, Progress, Report, TooManyFaults
from consentd.verify.kept_checkpoints import kept_faults
from consentd.verify.leaf_checks import TreePoint, check_run, runs_of
from consentd.verify.source import Opening
from consentd.verify.statements import Authors
from consentd.verify.store_source import StoreSource
from consentd.verify.stored_rows import Gap
from consentd.verify.walker import Expected, Walker

__all__ = ["Fault", "Report", "verify_files"]

_SCRATCH_MAP_MB = 1 << 16  # reserves addresses for the rebuilt table, and no memory
_MAP_BITS = 14  # log2 of the number of map buckets, if the state row cannot be read; no root depends on this


def verify_files(
    store: Store,
    *,
    origin: str,
    log_verifier: Verifier,
    last_signed_path: Path | None,
    vault: Vault | None = None,
    table: Table | None = None,
    quick: bool = False,
    erased_since: frozenset[bytes] = frozenset(),
    scratch_dir: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify a ledger whose daemon is stopped.

    Args:
        last_signed_path: the file of the last signed checkpoint; None: a copy of a store has no such file.
        vault, table: without the vault, statements of persons are not decrypted, and the table is not compared.
        quick: leave out the table and all statements but those of chain `ledger`. They take the most time.
        erased_since: tags of persons who were erased after a restored copy was made. Whether their missing statements
            were right cannot be determined.
        scratch_dir: the directory in which the table is rebuilt; None: the system's directory for temporary files.

    Raises:
        StorageError: the disk fails. Damage is a fault in the report and is never raised.
    """
    fsck = _Fsck(store, origin, log_verifier, None if quick else vault, quick=quick, erased_since=erased_since)
    try:
        fsck.walk(progress)
        if last_signed_path is not None:
            fsck.verify_last_signed(last_signed_path)
        if table is not None and not quick:
            fsck.verify_table(table, scratch_dir)
    except TooManyFaults:
        return fsck.report(stopped=True)
    return fsck.report(stopped=False)


class _DamagedSource(StoreSource):
    """A store with damage. An unreadable row, or a missing leaf or tile, is read as b"", so that a walk continues."""

    def __init__(self, store: Store, vault: Vault | None, pruned: Pruned) -> None:
        super().__init__(store, vault)
        self._pruned = pruned

    def pruned(self) -> Pruned:
        return self._pruned

    def leaves(self, n: int, width: int) -> list[bytes]:
        start = n * tiles.TILE_WIDTH
        found = rows.read_rows(self.store, [layout.leaf_key(index) for index in range(start, start + width)])
        return [row if isinstance(row, bytes) else b"" for row in found]

    def tile(self, level: int, n: int, width: int) -> bytes:
        # The row is not cut to *width*, so that a row with too many hashes is found as damage.
        (row,) = rows.read_rows(self.store, [layout.tile_key(level, n)])
        return row if isinstance(row, bytes) else b""

    def _rows(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found = rows.read_rows(self.store, keys)
        return [None if row is Gap.MISSING else row if isinstance(row, bytes) else b"" for row in found]

    def _open(self, event: codec.Event, row: bytes | None) -> Opening:
        try:
            return super()._open(event, row)
        except StorageError:
            return b""  # The row of the person's data key is damaged.


class _Fsck:
    """One verification. One thread owns it."""

    def __init__(
        self, store: Store, origin: str, log_verifier: Verifier, vault: Vault | None, *, quick: bool,
        erased_since: frozenset[bytes],
    ) -> None:  # fmt: skip
        self._store, self._vault, self._log_verifier, self._quick = store, vault, log_verifier, quick
        found = Findings()
        self._state = rows.read_state(store, found)
        self._pruned = _read_pruned(store, found)
        self._expected = Expected(
            origin=origin, vkey=format_vkey(log_verifier), pruned=self._pruned, pruned_below=self._pruned.minimum,
            is_missing_wrong=True, with_statements=not quick, is_earlier_key=True,
            erased_since=erased_since,
        )  # fmt: skip
        map_bits = _MAP_BITS if self._state is None else self._state.map_bits
        replay = Replay(map_bits, start=self._pruned.start, kept_from_ms=self._pruned.kept_from_ms)
        source = _DamagedSource(store, vault, self._pruned)
        self.walker = Walker(source, self._expected, replay, Authors({}, LedgerKeys(origin)))
        self.walker.found = found

    def walk(self, progress: Progress | None) -> None:
        """Replay all leaves, then compare every other row with the result of the replay."""
        walker, state = self.walker, self._state
        size = rows.verify_size(self._store, state, walker.found)
        tree = TreePoint(
            origin=self._expected.origin, size=size, root=None if state is None else state.root,
            kinds=frozenset({EntryKind.LEDGER}) if self._quick else None,
        )  # fmt: skip
        for bundles in runs_of(size):
            events = walker.take(check_run(walker.source, tree, bundles))
            rows.compare_index(self._store, events, walker.found)
            rows.compare_references(self._store, events, walker.found)
            if self._vault is None and not self._quick:
                self._find_missing_statements(events)
            if progress is not None:
                progress(walker.replay.size, size)
        walker.finish(None if state is None else state.root)
        if self._pruned != NOTHING:
            walker.compare_pruned()
        self._compare_rows(size)

    def report(self, *, stopped: bool) -> Report:
        """Return the report of the verification."""
        replay = self.walker.replay
        return self.walker.report(Checkpoint(self._expected.origin, replay.size, replay.root()), stopped=stopped)

    def _compare_rows(self, size: int) -> None:
        store, replay, found = self._store, self.walker.replay, self.walker.found
        if self._state is not None:
            rows.compare_state(self._state, replay, found)
        vault_fault = rows.vault_fault(store, self._vault)
        if vault_fault is not None:
            found.add(None, vault_fault)
        rows.compare_heads(store, replay, found)
        rows.compare_map(store, replay, found)
        rows.compare_requests(store, size, found)
        rows.compare_pending(store, found)
        if not found.faults:  # what is damaged would be named a second time
            for what in kept_faults(store, origin=self._expected.origin, sealed_size=replay.sealed_size):
                found.add(None, what)
        rows.find_strays(store, replay, found, statements=not self._quick)
        if not self._quick:
            rows.compare_erased(store, self._vault, replay, found)

    def _find_missing_statements(self, events: Sequence[tuple[int, codec.Event]]) -> None:
        """Note statements whose rows are missing. Without the vault, the walker counts them as encrypted statements."""
        stored = rows.read_rows(self._store, [layout.statement_key(event.tag, event.seq) for _, event in events])
        for (index, event), row in zip(events, stored, strict=True):
            if row is Gap.MISSING and not self._pruned.covers(event):
                self.walker.facts.missing.setdefault(event.tag, []).append(index)

    def verify_last_signed(self, path: Path) -> None:
        """Verify that the last signed checkpoint is a checkpoint of this tree."""
        replay = self.walker.replay
        try:
            what = rows.last_signed_fault(
                self._store, path, size=replay.size, sealed_size=replay.sealed_size, origin=self._expected.origin,
                log_verifier=self._log_verifier,
            )  # fmt: skip
        except ConsentdError as error:
            what = str(error)
        if what is not None:
            self.walker.found.add(None, what)

    def verify_table(self, table: Table, scratch_dir: Path | None) -> None:
        """Rebuild the table up to the stored table's size, and compare both. After a crash the ledger may be larger."""
        found = self.walker.found
        if self._vault is None or self._state is None or found.faults:
            found.not_checked(NO_TABLE)
            return
        try:
            with ExitStack() as stack:
                stored = stack.enter_context(table.read())
                table_compare.check_size(stored, self._state.size)
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="consentd-fsck-", dir=scratch_dir))
                directory = Path(scratch, "table")
                rebuilt = stack.enter_context(table_compare.scratch_table(directory, map_size_mb=_SCRATCH_MAP_MB))
                catch_up(rebuilt, self._store, self._vault, size=stored.size)
                fresh = stack.enter_context(rebuilt.read())
                for difference in table_compare.compare_rows(stored.rows(), fresh.rows()):
                    found.add(self._last_index(difference), difference.what)
        except ConsentdError as error:
            found.add(None, f"table cannot be compared: {error}")

    def _last_index(self, difference: table_compare.Difference) -> int | None:
        """Return the index of a person's last entry if the difference is in that person's row; otherwise None."""
        if difference.kind != "s":
            return None
        count = self.walker.replay.heads.get(difference.key[1:], (0,))[0]
        return rows.index_of(self._store, difference.key[1:], count)


def _read_pruned(store: Store, found: Findings) -> Pruned:
    """Return what was pruned according to the store's row. The walker compares this with the ledger's entries."""
    try:
        return read_pruned(store)
    except (CorruptionError, MalformedError) as error:
        found.add(None, f"what is pruned cannot be read: {error}")
        return NOTHING
