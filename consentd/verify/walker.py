"""Walk over a ledger: replay its leaves in order, and verify tree, chains, seals, authors and statements.

The walker takes runs of leaves after ``leaf_checks`` has checked each run by itself. It adds the checks that depend on
the order of leaves: the replay rule (``core.replay``), which keys were in force (``statements.Authors``), and whether
missing leaves and statements were pruned or erased. ``fsck`` and ``audit verify`` use the walker.

After a fault the walk continues, so that later faults are reported too. The first fault is certain; later faults may be
consequences of the first.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from consentd.core import codec, kinds, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind
from consentd.core.pruned import NOTHING, Pruned, Retention
from consentd.core.replay import Replay, ReplayError
from consentd.errors import ProofError, StorageError, VerificationError
from consentd.verify import findings as reasons
from consentd.verify.findings import Findings, Report
from consentd.verify.leaf_checks import CheckedRun
from consentd.verify.source import LeafSource
from consentd.verify.statements import KEY_KINDS, Authors, SignedStatement, Stated

_FULL = tiles.TILE_WIDTH * merkle.HASH_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the ledger is compared with.

    Attributes:
        origin, vkey: the ledger's name and log key, which chain `ledger` must state; an empty vkey is not compared.
        pruned: what the source claims to be pruned.
        pruned_below: no leaf from this index on may be missing. Of the leaves before this index,
            ``Replay.skip_pruned`` refuses only a missing seal at ``pruned.start`` - 1.
        is_missing_wrong: a statement missing from a chain without an ERASURE is a fault; otherwise it is withheld.
        with_statements: count missing statements; False if only statements of chain `ledger` are read.
        is_earlier_key: the log key may be any that the ledger has had; otherwise it must sign this tree's checkpoint.
        erased_since: tags of persons who were erased after this copy was made: their statements may be missing.
    """

    origin: str
    vkey: str
    pruned: Pruned = NOTHING
    pruned_below: int = 0
    is_missing_wrong: bool
    with_statements: bool = True
    is_earlier_key: bool = False
    erased_since: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class LedgerFacts:
    """What the walk has learned so far, beside the replay and the keys in force.

    Attributes:
        retention: the ledger's retention policy, and the prunings that comply with the policy.
        stated: the prunings that LEDGER entries state.
        missing: by tag, indexes of entries whose statement is missing; only the first index if that may be no fault.
        sees_persons: the source has returned a statement of a person.
    """

    retention: Retention = field(default_factory=Retention)
    stated: list[Pruned] = field(default_factory=list)
    missing: dict[bytes, list[int]] = field(default_factory=dict)
    sees_persons: bool = False


class Walker:
    """One walk. One thread owns it.

    Call ``take`` with the runs of leaves in order and without a gap, then ``finish``, then ``compare_pruned`` if
    anything is pruned, then ``report``. *replay* starts where *expected* says that the kept leaves start. The walk
    verifies neither the checkpoint's signatures nor that the last leaf is a seal. A report without faults may be
    undetermined.

    Attributes:
        replay, authors, facts, found: the state of the walk, which ``audit.state_store`` saves and restores.
        after_seal: a function that is called after each seal; None: no function is.
    """

    def __init__(self, source: LeafSource, expected: Expected, replay: Replay, authors: Authors) -> None:
        """Start a walk with the next leaf of *replay*."""
        self.source, self.expected = source, expected
        self.replay, self.authors = replay, authors
        self.facts, self.found = LedgerFacts(), Findings()
        self.after_seal: Callable[[], None] | None = None

    def take(self, run: CheckedRun) -> list[tuple[int, codec.Event]]:
        """Process the leaves of a run that were not processed yet; return the undamaged events with their indexes.

        Raises:
            TooManyFaults: see ``Findings.add``.
            StorageError: the source fails, or the ledger was pruned during the walk.
        """
        replay, found, counts = self.replay, self.found, self.found.counts
        events: list[tuple[int, codec.Event]] = []
        skipped = max(0, replay.size - run.start)
        leaves = zip(run.leaves[skipped:], run.hashes[skipped:], strict=True)
        decoded: codec.Event | codec.Seal | None
        for index, (leaf, leaf_hash) in enumerate(leaves, run.start + skipped):
            if index in run.faults:
                for what in run.faults[index]:
                    found.add(index, what)
            if index in run.unusable:
                self._pass_over(index, leaf, leaf_hash)
                continue
            was_sure = replay.knows_all_heads
            try:
                decoded = replay.add(leaf, leaf_hash)
            except ReplayError as error:
                found.add(index, str(error).removeprefix(f"leaf `{index}`: "))
                decoded = replay.add_faulty(leaf)
            if isinstance(decoded, codec.Event):
                counts.entries += 1
                events.append((index, decoded))
                if not kinds.is_known(decoded.kind):
                    found.not_checked(reasons.UNKNOWN_KIND)
                signed = run.signed.get(index)
                if signed is not None:
                    self._verify_statement(index, decoded, signed)
                elif index in run.faults:
                    self.authors.keys_lost |= decoded.kind in KEY_KINDS
                elif self.expected.with_statements:
                    self._miss_statement(index, decoded, has_openings=run.has_openings)
            elif decoded is not None:
                counts.seals += 1
                if not was_sure:
                    found.not_checked(reasons.NO_MAP)
                if self.after_seal is not None:
                    self.after_seal()
        self.grow()
        return events

    def finish(self, root: bytes | None) -> None:
        """Compare the tree with *root* (None: unknown), and report missing statements. Raises as ``take``."""
        self.grow()
        for level, row in enumerate(self.replay.edge.rows):
            if level and row:
                self._compare_tile(level, self.replay.size >> (tiles.TILE_HEIGHT * (level + 1)), row)
        if root is not None and self.replay.root() != root:
            self.found.add(None, f"leaves do not hash to the tree's root at size {self.replay.size}")
        if self.found.unchecked[reasons.CLOSED] and not self.facts.sees_persons:
            self.found.not_checked(reasons.NO_PERSONS)
        self._compare_log_key()
        for tag, indexes in self.facts.missing.items():
            # INVARIANT: of these statements, only those of erased persons may be missing.
            if tag in self.replay.heads and self.replay.heads[tag][2]:
                if self.expected.is_missing_wrong:
                    self.found.counts.statements_erased += len(indexes)
            elif tag in self.expected.erased_since:
                self.found.not_checked(reasons.ERASED_SINCE)
            elif self.expected.is_missing_wrong:
                for index in indexes:
                    self.found.add(index, "statement or its key is missing, and the chain has no ERASURE")
            else:
                self.found.not_checked(reasons.WITHHELD)

    def compare_pruned(self) -> None:
        """Compare what the source claims to be pruned with what the ledger states."""
        claimed = self.expected.pruned
        if not self.facts.stated and (self.found.unchecked[reasons.NO_STATEMENTS] or self.authors.keys_lost):
            self.found.not_checked(reasons.NO_PRUNING_STATEMENT)
        # A claimed start of 0 (no leaf is missing) is right too: leaves are deleted only after that entry is public.
        elif not any(
            claimed.kept_from_ms == stated.kept_from_ms and claimed.start in (0, stated.start)
            for stated in self.facts.stated
        ):
            self.found.add(None, "source claims other entries to be pruned than the ledger states")

    def _compare_log_key(self) -> None:
        """Verify that the ledger states the expected log key, if all entries of chain `ledger` were read."""
        count = self.replay.heads.get(codec.LEDGER_TAG, (0, b"", False))[0]
        if not (self.expected.vkey and count and self.authors.ledger_seq == count):
            return
        try:
            if self.expected.is_earlier_key:
                self.authors.ledger_keys.verify_ever(self.expected.vkey)
            else:
                self.authors.ledger_keys.verify_log_key(self.expected.vkey, self.replay.size)
        except ProofError as error:
            self.found.add(0, str(error))

    def _pass_over(self, index: int, leaf: bytes, leaf_hash: bytes) -> None:
        """Process a missing or damaged leaf, of which only the hash in the tree is known."""
        if leaf:
            self.authors.keys_lost = True
            self.replay.add_faulty(leaf, leaf_hash)
            return
        try:
            if index >= self.expected.pruned_below:
                raise ReplayError(index, "leaf is missing where nothing is pruned")
            self.replay.skip_pruned(leaf_hash)
            self.found.counts.leaves_pruned += 1
        except ReplayError as error:
            if self.source.pruned() != self.expected.pruned:
                raise StorageError("ledger was pruned during the verification; start again") from error
            self.found.add(index, "leaf is missing where nothing is pruned, or cannot be read")
            self.authors.keys_lost = True
            self.replay.skip_unreadable(leaf_hash)

    def _verify_statement(self, index: int, event: codec.Event, signed: SignedStatement) -> None:
        stated = signed.stated
        if stated is not None and stated.has_unknown_fields:
            self.found.not_checked(reasons.UNKNOWN_FIELDS)
        try:
            if not self.authors.verify(event, signed, index):
                self.found.not_checked(reasons.KEY_UNKNOWN)
                return
            self.found.counts.statements_opened += 1
            # Every person's chain starts with ENROL. A caller who may not read persons' statements gets none of these.
            if event.kind == EntryKind.ENROL:
                self.facts.sees_persons = True
            if event.tag == codec.LEDGER_TAG and stated is not None and not stated.has_unknown_fields:
                self._verify_ledger_entry(index, event, stated)
        except VerificationError as error:
            self.found.add(index, str(error))

    def _miss_statement(self, index: int, event: codec.Event, *, has_openings: bool) -> None:
        """Record that the statement of an event is missing, as pruned, erased, withheld or wrong."""
        if not has_openings:
            self.found.not_checked(reasons.NO_STATEMENTS)
            self.authors.keys_lost |= event.kind in KEY_KINDS
        elif self.expected.pruned.covers(event):
            self.found.counts.statements_pruned += 1
        elif self.source.is_whole:
            self.facts.missing.setdefault(event.tag, []).append(index)
        else:
            self.found.not_checked(reasons.CLOSED)
            self.authors.keys_lost |= event.kind in KEY_KINDS
            if self.facts.sees_persons:
                self.facts.missing.setdefault(event.tag, [index])

    def _verify_ledger_entry(self, index: int, event: codec.Event, stated: Stated) -> None:
        """Compare what an entry of chain `ledger` states with what is expected of the ledger."""
        expected, facts = self.expected, self.facts
        if stated.origin != expected.origin and (event.seq == 1 or stated.origin):
            self.found.add(index, f"ledger names another origin for itself than the one pinned: `{stated.origin}`")
        if stated.pruned is not None:
            facts.stated.append(stated.pruned)
        facts.retention.apply(event, stated.retention_days, stated.pruned)

    def grow(self) -> None:
        """Add the processed leaves to the tree, and compare each tile above level 0 that they filled."""
        for (level, n), row in self.replay.grow().items():
            if level and len(row) == _FULL:
                self._compare_tile(level, n, row)

    def _compare_tile(self, level: int, n: int, row: bytes) -> None:
        """Compare a tile above level 0 with the source. Tiles of level 0 were compared leaf by leaf."""
        try:
            stored = self.source.tile(level, n, len(row) // merkle.HASH_SIZE)
        except StorageError:
            if self.found.faults:
                return  # Earlier faults must be reported, although the source fails now.
            raise
        if stored == row:
            return
        at = next((at for at in range(0, len(row), 32) if row[at : at + 32] != stored[at : at + 32]), 0)
        first = ((n << tiles.TILE_HEIGHT) + at // merkle.HASH_SIZE) << (tiles.TILE_HEIGHT * level)
        self.found.add(first, f"tile of level `{level}` over the entries from here is not what the leaves hash to")

    def report(self, point: Checkpoint, *, stopped: bool, start: int = 0) -> Report:
        """Return the report of the walk."""
        found = self.found
        faults = tuple(sorted(found.faults, key=lambda fault: (fault.index is None, fault.index or 0)))
        return Report(
            checkpoint=point, start=start, size=self.replay.size, tags=len(self.replay.heads),
            not_checked={what: count for what, count in found.unchecked.items() if count}, faults=faults,
            stopped=stopped, log_keys=self.authors.ledger_keys.replaced_log_keys(),
            statement_keys=self.authors.ledger_keys.replaced_statement_keys(), **asdict(found.counts),
        )  # fmt: skip
