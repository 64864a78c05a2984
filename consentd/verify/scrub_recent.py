"""The short pass of a scrub: over what changed lately and over the table rows that all persons share, every minute.

A pass reads all records, which takes a day for a large ledger. A *short pass* reads few of them:

- the entries since the short pass before, with their rows, as a pass does (``scrub_records``);
- the table rows of the persons whose entries these are, and of persons with a row that was spoiled;
- the table rows that all persons share.

The table rows are compared with those of a small copy, which is made from the entries of the public chains and of these
persons alone, and mended as a pass mends them (``scrub_table``): the first short pass spoils a wrong row, the next one
puts the right row. So a wrong row of the registry decides for a minute or two, and a spoiled row is right again about a
minute later.

INVARIANT: rows are mended only if the small copy has counted as many changes of the registry, and given as many
numbers, as the table. Otherwise the list of public chains is not whole, because the table lacks the row of a
participant or a notice. Then a pass finds what is missing.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import PUBLIC, EntryKind
from consentd.ledger import layout, reads, retention
from consentd.store import Store
from consentd.table.checked_rows import CHECK_SIZE
from consentd.table.table import Table, apply_entries
from consentd.table.transaction import STEP_KINDS
from consentd.table.view import REVISION, REVISION_KEY
from consentd.verify.findings import Fault
from consentd.verify.scrub_records import Records, ScrubTarget, run_check
from consentd.verify.scrub_table import RunOnWriter, ScrubOptions, ScrubProgress, TableScrub, clear
from consentd.verify.table_compare import compare_rows, scratch_table

MAX_ENTRIES = 1_000
"""Most entries that one short pass reads: the newest. A pass reads the others."""
MAX_LEAVES = 20_000
"""Most leaves whose chains a short pass notes."""
MAX_TAGS = 256
"""Most persons whose table rows one short pass compares. The others wait for the next ones."""
MAX_WAITING = 4_096
"""Most persons who wait for a short pass. Beyond, the one that has waited longest is left to the pass."""
_FIRST_LEAVES = 1_000
"""Vocabulary and rules begin among the first leaves."""
_NOT_COMPARED = frozenset((b"H", b"e", b"t"))
"""Kinds of rows that a small copy cannot have: the heartbeat, and of all persons the last erasure and the counts of
consents under notices."""
_SHARED = frozenset(bytes((kind,)) for kind in b"#Rcdgmnoprvwx")
"""Kinds of rows that follow from the public chains alone, so that a small copy has all of them: those that
``proto/table-format.md`` calls `shared`. Of every other kind the table may have rows that the small copy lacks, as
those of other persons: only the keys of the copy are compared."""


class RecentScrub:
    """The short passes of a daemon. One thread owns it.

    Attributes:
        progress: the figures of the last short pass.
    """

    def __init__(
        self, target: ScrubTarget, options: ScrubOptions, *, run_on_writer: RunOnWriter, pause: Callable[[int], None]
    ) -> None:
        """Note where the ledger ends now; *pause*: see ``ScrubProgress``."""
        self._target, self._options = target, options
        self._run_on_writer, self._pause = run_on_writer, pause
        self._records = Records(target)
        self._seen = target.ledger.state.size
        self._waiting: dict[bytes, None] = {}  # tags, the one that has waited longest first
        self.progress = ScrubProgress(options.piece, pause)

    def add(self, tags: Iterable[bytes]) -> None:
        """Compare the table rows of these persons in one of the next short passes."""
        for tag in tags:
            self._waiting.setdefault(tag)
        while len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def run(self) -> None:
        """Make one short pass. Raises StorageError as ``Scrub.run``."""
        self.progress = progress = ScrubProgress(self._options.piece, self._pause)
        self._read_entries()
        tags = list(self._waiting)[:MAX_TAGS]
        for tag in tags:
            del self._waiting[tag]
        table = _SmallTableScrub(self._records, self._options, progress, self._run_on_writer, frozenset(tags))
        table.run()
        self.add(progress.spoiled_tags)
        progress.flush()

    def _read_entries(self) -> None:
        """Check the entries since the last short pass, and note the persons whose table rows they changed."""
        size, store = self._target.ledger.state.size, self._target.ledger.store
        for index, leaf in reads.scan_leaves(store, max(self._seen, size - MAX_LEAVES), size):
            if index >= size - MAX_ENTRIES:
                self._check(index)
            kind = codec.kind_of(leaf)
            if kind not in PUBLIC and (kind in STEP_KINDS or kind == EntryKind.ERASURE):
                self.add((leaf[10:42],))
        self._seen = size

    def _check(self, index: int) -> None:
        check = partial(run_check, partial(self._records.entry, index), "entry", index)
        fault = check()
        if fault is not None:
            fault = self._run_on_writer(check)
            if fault is not None:
                self.progress.add(fault)
        self.progress.count(1)


class _SmallTableScrub(TableScrub):
    """The comparison of a part of the table with a small copy: the shared rows, and those of the persons in *tags*."""

    def __init__(
        self, records: Records, options: ScrubOptions, progress: ScrubProgress, run_on_writer: RunOnWriter,
        tags: frozenset[bytes],
    ) -> None:  # fmt: skip
        super().__init__(records, options, progress, run_on_writer)
        self._tags = tags
        self._chains: set[bytes] = set()  # the public chains, and *tags*

    def run(self) -> None:
        """Compare all rows of the part."""
        if not self._ledger.state.size:
            return
        clear(self._options.scratch_dir)
        self._pruned = retention.read_pruned(self._ledger.store)
        self._chains = set(self._tags)
        with scratch_table(self._options.scratch_dir, map_size_mb=self._options.map_size_mb) as copy:
            if not self._has_revision():
                self._attempt(partial(self._rebuild_revision, copy), partial(self._mend_revision, copy))
                return  # the next one compares the other rows
            paced = partial(self._advance, copy, self._ledger.state.size, self._count_leaf)
            if self._attempt(partial(self._check_revision, copy), partial(self._spoil_revision, copy)) == () and (
                self._attempt(paced, partial(self._advance, copy, self._ledger.state.size)) == ()
            ):
                compared = partial(self._compare_part, copy)
                self._attempt(compared, partial(compared, mends=True))

    def _rebuild_revision(self, copy: Table) -> list[Fault]:
        self._advance(copy, self._ledger.state.size, self._count_leaf)
        return super()._rebuild_revision(copy)

    def _mend_revision(self, copy: Table) -> list[Fault]:
        """Put the copy's revision if a scrub has computed the same before: a small copy alone is not believed."""
        self._advance(copy, self._ledger.state.size)
        with self._table.begin_read() as txn, copy.begin_read() as right:
            stored, rebuilt = txn.get(REVISION_KEY), right.get(REVISION_KEY)
        if (stored or b"")[:-CHECK_SIZE] != (rebuilt or b"")[:-CHECK_SIZE]:
            return [Fault(None, "table row of kind `R` is damaged: the next pass puts the right one")]
        return super()._mend_revision(copy)

    def _compare_part(self, copy: Table, *, mends: bool = False) -> list[Fault]:
        if mends:
            self._spoil_revision(copy)
        else:
            self._check_revision(copy)
        with self._table.read() as stored:
            self._advance(copy, stored.size)
            with copy.begin_read() as right:
                theirs = list(right.scan(b"", None))
            keys = {key for key, _ in theirs} | {b"s" + tag for tag in self._tags}
            by_key = [key for key in keys if key[:1] not in _SHARED | _NOT_COMPARED]
            with self._table.begin_read() as txn:
                single = [(key, row) for key in by_key if (row := txn.get(key)) is not None]
                whole = [row for kind in _SHARED for row in txn.scan(kind, bytes((kind[0] + 1,)))]
        expected = [row for row in theirs if row[0][:1] not in _NOT_COMPARED]
        differences = list(compare_rows(iter(sorted(single + whole)), iter(expected)))
        if not _is_whole(dict(whole), dict(expected)):
            return [Fault(None, "table rows that all persons share are not as many as the entries make")]
        if mends and self._is_unpruned():
            self._mend(differences)
        return [
            Fault(self._records.last_index(one.key[1:]) if one.kind == "s" else None, one.what) for one in differences
        ]

    def _advance(self, copy: Table, size: int, after_leaf: Callable[[bytes], None] | None = None) -> None:
        with copy.read() as snapshot:
            done = snapshot.size
        if done < size:
            entries = self._all_entries(size) if done == 0 else self._later_entries(done, size)
            apply_entries(copy, self._ledger.store, self._vault, entries, size=size, after_leaf=after_leaf)

    def _all_entries(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield the entries of all public chains that the table names, and of the persons, in the ledger's order."""
        store = self._ledger.store
        self._chains |= self._public_chains()
        indexes = sorted(index for tag in self._chains for index in _indexes_of(store, tag) if index < size)
        for index in indexes:
            leaf = store.get(layout.leaf_key(index))
            if leaf is not None:  # else it was pruned meanwhile
                yield index, leaf

    def _later_entries(self, done: int, size: int) -> Iterator[tuple[int, bytes]]:
        for index, leaf in reads.scan_leaves(self._ledger.store, done, size):
            tag, kind = leaf[10:42], codec.kind_of(leaf)
            if kind in PUBLIC:
                self._chains.add(tag)
            if kind != codec.SEAL_KIND and tag in self._chains:
                yield index, leaf

    def _public_chains(self) -> set[bytes]:
        names: set[str] = set()
        with self._table.begin_read() as txn:
            names |= {PARTICIPANT_PREFIX + key[1:].decode(errors="replace") for key, _ in txn.scan(b"p", b"q")}
            names |= {"notice/" + key[1:-5].decode(errors="replace") for key, _ in txn.scan(b"n", b"o")}
        first = reads.scan_leaves(self._ledger.store, 0, min(_FIRST_LEAVES, self._ledger.state.size))
        begun = {leaf[10:42] for _, leaf in first if codec.kind_of(leaf) in PUBLIC}
        return {codec.LEDGER_TAG, *begun, *map(codec.public_tag, names)}


def _indexes_of(store: Store, tag: bytes) -> Iterator[int]:
    rows = store.scan(layout.index_key(tag, 1), layout.index_key(tag, codec.MAX_SEQ))
    return (layout.decode_u64(row) for _, row in rows)


def _is_whole(stored: dict[bytes, bytes], rebuilt: dict[bytes, bytes]) -> bool:
    """Return whether a small copy was made from all entries of public chains: see the module's INVARIANT."""

    def counted(rows: dict[bytes, bytes]) -> tuple[int, bytes]:
        revision = rows.get(REVISION_KEY, b"")[:-CHECK_SIZE]
        generation = REVISION.unpack(revision)[2] if len(revision) == REVISION.size else 0
        return generation, rows.get(b"#", b"")[:-CHECK_SIZE]

    return counted(stored) == counted(rebuilt)
