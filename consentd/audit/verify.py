"""Verify a ledger from its bytes: the tree, every chain, every seal's map, the clock, and every author at hand.

Runs of leaves are looked at by worker processes (``look``), ahead and in any order; here they are taken one after
another into ``core.replay``, the very rule that the ledger keeps itself. At the end the root of what was taken must be
the checkpoint's, so that what was verified is what the log signed.

What a ledger says to have pruned may be missing: leaves before its start, statements older than its retention. The
chain `ledger` must state it, within the policy that leaf 0 published.

Behind a fault it goes on, up to a hundred: the first one named is the fault, those behind it may follow from it.
"""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from consentd.audit import leaf_checks
from consentd.audit.authors import Authors
from consentd.audit.findings import (
    CLOSED,
    NO_MAP,
    NO_TERM,
    UNKEPT,
    UNKNOWN,
    UNREAD,
    UNSTATED,
    WITHHELD,
    Found,
    Progress,
    Report,
)
from consentd.audit.leaf_checks import Run
from consentd.audit.sources import Place, Source, read_leaves, read_tiles, width_of
from consentd.audit.state_store import WARM, Keep
from consentd.core import checkpoint, codec, kinds, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.note import NoteVerifier, Verifier, format_vkey
from consentd.core.pruned import Pruned, Retention
from consentd.core.replay import Replay, ReplayError
from consentd.errors import (
    CorruptionError,
    InvalidError,
    MalformedError,
    ProofError,
    StorageError,
    VerificationError,
)
from consentd.verify.findings import Enough, Fault

SAVE_EVERY = 50_000
"""Entries between two saves of the state, or a little more: a save falls behind a seal."""
_FULL = tiles.TILE_WIDTH * merkle.HASH_SIZE
MAX_MAP_BITS = 22
"""At most 256 MiB lie above the buckets, whatever a ledger says about its size."""


class Continued(Replay):
    """A replay that begins behind a trusted checkpoint: the chains so far are there, where they stand is not known."""

    def __init__(self, size: int, edge: tiles.Edge) -> None:
        super().__init__(1)
        self.size = size
        self.edge = edge
        # Each chain's first leaf from here is taken at its word, at most as many as there may be chains.
        self._missing = size


def verify_ledger(
    place: Place,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    since: bytes | None = None,
    state_path: Path | None = None,
    jobs: int = 1,
    warm: int = WARM,
    progress: Progress | None = None,
) -> Report:
    """Verify the ledger at *place*, up to its latest checkpoint.

    Args:
        since: a checkpoint that was verified before: what it covers is taken as verified. Map roots need the chains
            before it too, so they are compared only by who keeps a state file.
        state_path: keep the state in this file, and go on from what it holds: an interrupted run, or an older one.
        jobs: processes that look at leaves; 1: this one alone.
        warm: how much to keep in memory, see ``kept``.

    Raises:
        StorageError: the place or the state file fails.
        VerificationError: the checkpoint is not this log's, or its tree does not begin with the one trusted.
        InvalidError: the state file is another ledger's.
    """
    with ExitStack() as stack:
        source = place.open()
        stack.callback(source.close)
        # First what is pruned: a ledger prunes only what a published checkpoint states, so this one states it.
        pruned = source.pruned()
        point, _ = checkpoint.open_checkpoint(source.checkpoint(), origin, log_verifier)
        keep = Keep(state_path, warm=warm)
        stack.callback(keep.close)
        vkey = format_vkey(log_verifier) if isinstance(log_verifier, Verifier) else ""
        audit = _Audit(source, point, keep, vkey=vkey, pruned=pruned, saves=state_path is not None)
        if keep.state() is not None:
            audit.restore()
        elif since is not None:
            audit.begin_behind(_trusted(since, origin, log_verifier))
        else:
            audit.begin()
        runs = leaf_checks.look_ahead(place, source, point, audit.replay.size, jobs, stack)
        try:
            for run in runs:
                audit.take(run)
                if progress is not None:
                    progress(audit.replay.size, point.size)
            audit.finish()
        except Enough:
            return audit.report(stopped=True)
        return audit.report(stopped=False)


def _trusted(note: bytes, origin: str, log_verifier: NoteVerifier) -> Checkpoint:
    try:
        return checkpoint.open_checkpoint(note, origin, log_verifier)[0]
    except MalformedError as error:
        # What was given to trust disproves nothing.
        raise InvalidError(f"trusted checkpoint is none: {error}") from error


class _Audit:
    """One verification under way. Owned by one thread."""

    def __init__(
        self, source: Source, point: Checkpoint, keep: Keep, *, vkey: str, pruned: Pruned, saves: bool
    ) -> None:
        self.source, self.point, self.keep = source, point, keep
        self.pruned = pruned
        if self.pruned.start > point.size:
            raise ProofError(f"place says that more is pruned than there is: `{self.pruned.start}`")
        self.replay = Replay(1)
        self.authors = Authors(keep.terms)
        self.found = Found()
        self.start = 0
        self._vkey, self._saves = vkey, saves
        self._saved_size = 0
        self._retention = Retention()
        self._is_named = True  # until leaf 0 is looked at
        self._stated: list[Pruned] = []  # by the LEDGER entries that state a pruning
        self._closed: dict[bytes, int] = {}  # by tag the first entry whose statement is gone, where that is a fault
        self._sees_persons = False

    # -- beginning --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin at leaf 0. The last seal says how many tags there are: a hint for how to hold the map, no more."""
        last = self.point.size - 1
        tags = 0
        try:
            n = last // tiles.TILE_WIDTH
            leaf = read_leaves(self.source, n, width_of(n, self.point.size))[-1]
            seal = codec.decode_leaf(leaf)
            tags = seal.tags if isinstance(seal, codec.Seal) else 0
        except VerificationError:
            pass  # the replay names it
        bits = min(MAX_MAP_BITS, max(4, (max(1, tags // 16) - 1).bit_length()))
        self._hold(Replay(bits, start=self.pruned.start, kept_from_ms=self.pruned.kept_from_ms))

    def begin_behind(self, trusted: Checkpoint) -> None:
        """Begin behind a trusted checkpoint.

        Raises:
            ProofError: the tree does not begin with the trusted one.
        """
        if trusted.size > self.point.size:
            raise ProofError(f"ledger is smaller than what is trusted: `{self.point.size}` and `{trusted.size}`")
        if trusted.size < self.pruned.minimum:
            raise InvalidError("what follows the trusted checkpoint is pruned: verify from the start of the ledger")
        plan = tiles.plan_edge(trusted.size)
        edge = tiles.Edge.from_tiles(trusted.size, read_tiles(self.source, plan, self.point.size))
        if edge.root() != trusted.root:
            raise ProofError(f"ledger does not begin with the trusted tree of size `{trusted.size}`")
        self.replay = Continued(trusted.size, edge)
        self.authors.is_lost = trusted.size > 0
        self.start = trusted.size

    def _hold(self, replay: Replay) -> None:
        replay.heads, replay.buckets = self.keep.heads, self.keep.buckets
        self.replay = replay

    def restore(self) -> None:
        """Go on from the state file.

        Raises:
            InvalidError: it is another ledger's.
            ProofError: it is ahead of this one.
            StorageError: it is damaged.
        """
        state = self.keep.state()
        assert state is not None
        try:
            if state["origin"] != self.point.origin:
                raise InvalidError(f"state file is of another ledger: `{state['origin']}`")
            size = int(state["size"])
            self._restore(state)
        except (KeyError, ValueError, TypeError, AssertionError, VerificationError, CorruptionError) as error:
            # Damage to our own file says nothing about the ledger.
            raise StorageError("state file is damaged; begin a new one") from error
        if size > self.point.size:
            raise ProofError(f"ledger is smaller than what was verified: `{self.point.size}` and `{size}`")

    def _restore(self, state: dict[str, Any]) -> None:
        replay = Replay(1, start=self.pruned.start, kept_from_ms=self.pruned.kept_from_ms)
        replay.public = set(map(bytes.fromhex, state["public"]))
        replay.top = self.keep.top(state["map_bits"])
        replay.size, replay.time_ms, replay.sealed_size = state["size"], state["time_ms"], state["sealed_size"]
        replay.seal_hash = bytes.fromhex(state["seal_hash"])
        replay.edge = tiles.Edge(
            state["size"], tuple(map(bytes.fromhex, state["rows"])), tuple(map(bytes.fromhex, state["peaks"]))
        )
        self._hold(replay)
        self.authors.participants = {bytes.fromhex(tag): name for tag, name in state["participants"].items()}
        self.authors.is_lost = state["is_lost"]
        self._closed = {bytes.fromhex(tag): index for tag, index in state["closed"].items()}
        self._sees_persons = state["sees_persons"]
        self._is_named = state["is_named"]
        self._retention, self._stated = Retention(state["retention_days"]), [Pruned(*one) for one in state["stated"]]
        counted = ("entries", "seals", "opened", "leaves_pruned", "statements_pruned")
        self.found = Found(**{name: state[name] for name in counted}, unchecked=Counter(state["not_checked"]))
        self.found.faults = [Fault(index, what) for index, what in state["faults"]]
        self._saved_size = state["size"]

    def _save(self) -> None:
        """Keep the state; the last leaf taken is a seal, so that no tag waits for its place in the map."""
        replay, edge = self.replay, self.replay.edge
        self.keep.save(
            {
                "origin": self.point.origin, "size": replay.size, "time_ms": replay.time_ms,
                "sealed_size": replay.sealed_size, "seal_hash": replay.seal_hash.hex(),
                "map_bits": replay.top.map_bits, "rows": [row.hex() for row in edge.rows],
                "peaks": [peak.hex() for peak in edge.peaks],
                "participants": {tag.hex(): name for tag, name in self.authors.participants.items()},
                "is_lost": self.authors.is_lost, "closed": {tag.hex(): at for tag, at in self._closed.items()},
                "sees_persons": self._sees_persons,
                "public": [tag.hex() for tag in replay.public], "retention_days": self._retention.days,
                "is_named": self._is_named,
                "stated": [[one.kept_from_ms, one.start] for one in self._stated],
                "entries": self.found.entries, "seals": self.found.seals, "opened": self.found.opened,
                "leaves_pruned": self.found.leaves_pruned, "statements_pruned": self.found.statements_pruned,
                "not_checked": dict(self.found.unchecked),
                "faults": [[fault.index, fault.what] for fault in self.found.faults],
            }
        )  # fmt: skip
        self._saved_size = replay.size

    # -- leaf by leaf -----------------------------------------------------------------------------------------

    def take(self, run: Run) -> None:
        """Take a run of leaves: those of it that are not taken yet."""
        wrong: dict[int, list[str]] = {}
        for index, what in run.faults:
            wrong.setdefault(index, []).append(what)
        for index, leaf in enumerate(run.leaves, run.start):
            if index < self.replay.size:
                continue
            for what in wrong.get(index, ()):
                self.found.add(index, what)
            if not leaf:
                self._skip(index, run.gone[index])
                continue
            decoded = self._replay(index, leaf)
            if isinstance(decoded, codec.Event):
                self.found.entries += 1
                self._look_at_author(index, decoded, run)
            elif decoded is not None:
                self.found.seals += 1
                if self._saves and self.replay.size - self._saved_size >= SAVE_EVERY and self._is_savable():
                    self._grow()
                    self._save()
        self._grow()

    def _grow(self) -> None:
        """Hash what was taken into the tree; hold each tile above the leaves' that it fills against the place's."""
        for (level, n), row in self.replay.grow().items():
            if len(row) == _FULL:
                self._compare_tile(level, n, row)

    def _compare_tile(self, level: int, n: int, row: bytes) -> None:
        # Behind a fault the tiles above follow from it; those of the leaves are held against them one by one.
        if level and not self.found.faults and self.source.tile(level, n, len(row) // merkle.HASH_SIZE) != row:
            self.found.add(
                n << (tiles.TILE_HEIGHT * (level + 1)),
                f"tile {n} of level {level}, over the entries from here, is not what they hash to",
            )

    def _is_savable(self) -> bool:
        return self.replay.knows_all_heads and self.replay.size >= self.replay.start

    def _skip(self, index: int, leaf_hash: bytes) -> None:
        """Pass over a leaf that is not there."""
        try:
            self.replay.skip_pruned(leaf_hash)
            self.found.leaves_pruned += 1
        except ReplayError as error:
            if self.source.pruned() != self.pruned:
                raise StorageError("ledger was pruned meanwhile; begin again") from error
            self.found.add(index, "leaf is missing where nothing is pruned")
            self.replay.skip_unreadable(leaf_hash)

    def _replay(self, index: int, leaf: bytes) -> codec.Event | codec.Seal | None:
        decoded: codec.Event | codec.Seal | None
        was_sure = self.replay.knows_all_heads
        try:
            decoded = self.replay.add(leaf)
        except ReplayError as error:
            self.found.add(index, str(error).removeprefix(f"leaf `{index}`: "))
            decoded = self.replay.add_faulty(leaf)
        if isinstance(decoded, codec.Seal) and not was_sure:
            self.found.not_checked(NO_MAP)
        return decoded

    def _look_at_author(self, index: int, event: codec.Event, run: Run) -> None:
        if not kinds.is_known(event.kind):
            self.found.not_checked(UNKNOWN)
        made = run.made.get(index)
        if made is None:
            if not run.has_openings:
                self.found.not_checked(UNKEPT)
            elif event.kind in PRUNABLE and event.time_ms < self.pruned.kept_from_ms:
                self.found.statements_pruned += 1
                return
            else:
                self.found.not_checked(CLOSED)
                if self.source.is_whole or self._sees_persons:
                    self._closed.setdefault(event.tag, index)
            self.authors.is_lost |= event.kind in (EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY)
            return
        try:
            is_unread = made.fact is not None and made.fact.is_unread
            if is_unread:
                self.found.not_checked(UNREAD)
            if self.authors.verify(event, made):
                self.found.opened += 1
                # The first entry of each person. Who may read none of theirs has nothing withheld.
                self._sees_persons |= event.kind == EntryKind.ENROL
                if event.tag == codec.LEDGER_TAG and made.fact is not None and not is_unread:
                    self._look_at_ledger(index, event, made.fact)
            else:
                self.found.not_checked(NO_TERM)
        except VerificationError as error:
            self.found.add(index, str(error))

    def _look_at_ledger(self, index: int, event: codec.Event, fact: leaf_checks.Fact) -> None:
        """Hold what the ledger says of itself against what is pinned, a pruning against the policy published first."""
        if event.seq == 1:
            self._is_named = not self._vkey
        if fact.origin != self.point.origin and (event.seq == 1 or fact.origin):
            self.found.add(index, f"ledger names another origin for itself than the one pinned: `{fact.origin}`")
        self._is_named |= self._vkey in fact.verifier_keys
        if fact.pruned is not None:
            self._stated.append(fact.pruned)
        self._retention.take(event, fact.retention_days, fact.pruned)

    # -- at the end -------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Compare the tree with the checkpoint, and keep the state."""
        self._grow()
        root = self.replay.root()
        for level, row in enumerate(self.replay.edge.rows):
            if row:
                self._compare_tile(level, self.replay.size >> (tiles.TILE_HEIGHT * (level + 1)), row)
        if root != self.point.root:
            self.found.add(None, f"leaves do not hash to the root that the log signed at size {self.point.size}")
        if not self._is_named:
            self.found.add(0, "ledger does not name the pinned log key as its own")
        if self.found.leaves_pruned or self.found.statements_pruned:
            self._compare_pruned()
        for tag, index in self._closed.items():
            # INVARIANT: an erased person's statements are gone, nobody else's may be.
            if self.replay.heads[tag][2]:
                continue
            if self.source.is_whole:
                self.found.add(index, "statement or its key is missing, and the chain has no ERASURE")
            else:
                self.found.not_checked(WITHHELD)
        if self.replay.size > self.start and self.replay.sealed_size != self.replay.size:
            self.found.add(self.replay.size - 1, "last leaf of the checkpoint's tree is not a seal")
        elif self._saves and root == self.point.root and not isinstance(self.replay, Continued):
            self._save()

    def _compare_pruned(self) -> None:
        """Hold what the place says to be pruned against what the ledger states."""
        if not self._stated and (self.found.unchecked[UNKEPT] or self.authors.is_lost):
            self.found.not_checked(UNSTATED)
            return
        # A place may still hold what the last one states: it is deleted after that is public.
        if not any(
            self.pruned.kept_from_ms == one.kept_from_ms and self.pruned.start in (0, one.start) for one in self._stated
        ):
            self.found.add(None, "place says that other entries are pruned than the ledger states")

    def report(self, *, stopped: bool) -> Report:
        """Return what was found."""
        found = self.found
        return Report(
            checkpoint=self.point,
            start=self.start,
            entries=found.entries,
            seals=found.seals,
            tags=len(self.replay.heads),
            opened=found.opened,
            leaves_pruned=found.leaves_pruned,
            statements_pruned=found.statements_pruned,
            not_checked={what: count for what, count in found.unchecked.items() if count},
            faults=tuple(sorted(found.faults, key=lambda fault: (fault.index is None, fault.index or 0))),
            stopped=stopped,
        )
