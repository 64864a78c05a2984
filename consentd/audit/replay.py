"""Re-run every recorded decision on the consents in force at its place in the ledger.

The table is built again from nothing, entry by entry, by the ``apply`` that the daemon uses; at each ACCESS and REFUSAL
it stands as it stood when the answer was given. The answer is taken again there. A decision that comes out otherwise
is named by its index. Leaves are hashed along the way, and must be what the log signed; chains, seals and signatures of
authors are the matter of ``verify``.

State: the table in a directory of its own, LMDB, as large as the daemon's; beside it where the run stands. An
interrupted run goes on from the last commit.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consentd.audit import decisions, look
from consentd.audit.places import Opening, Place, Source, read_leaves, read_tiles, width_of
from consentd.audit.verify import MAX_FAULTS, Fault, Progress
from consentd.core import checkpoint, codec, kinds, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind
from consentd.core.note import NoteVerifier
from consentd.errors import (
    ConsentdError,
    CorruptionError,
    InvalidError,
    ProofError,
    RequestError,
    StorageError,
    VerificationError,
)
from consentd.ledger import statement
from consentd.ledger.table import Table
from consentd.ledger.table_turn import TableTurn

BATCH = 16
"""Bundles between two commits of the table."""
MAX_DARK = 1_000_000
"""Most chains with a consent not at hand that are told apart; beyond, no decision can be told any more."""
_MAP_MB = 1 << 16  # addresses, not memory
_SILENT = frozenset(
    {EntryKind.OUTCOME, EntryKind.DISPUTE, EntryKind.RESOLUTION, EntryKind.DUTY, EntryKind.SERVED, EntryKind.NOTICE}
)
"""Kinds that no decision rests on."""
_REGISTRY = frozenset(
    {EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY, EntryKind.VOCABULARY, EntryKind.RULES}
)
_DECISIONS = frozenset({EntryKind.ACCESS, EntryKind.REFUSAL})

CLOSED = "decisions whose statement is erased, or outside the mandate"
DARK = "decisions on consents of which an entry is not at hand"
UNKNOWN = "entries of kinds that this version does not know"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How it came out.

    Attributes:
        same: decisions that came out as recorded, by kind of entry.
        faults: decisions that did not, and entries that cannot be applied; at most a hundred.
    """

    checkpoint: Checkpoint
    entries: int
    same: dict[str, int]
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool

    @property
    def is_untold(self) -> bool:
        """Whether nothing, or not all that is at hand, could be told."""
        return UNKNOWN in self.not_checked or DARK in self.not_checked or not self.same


@dataclass(slots=True)
class _Standing:
    """Where a run stands; what is kept beside the table."""

    size: int = 0
    same: Counter[str] = field(default_factory=Counter)
    not_checked: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    dark: set[bytes] = field(default_factory=set)  # tags with a consent that is not at hand
    is_lost: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "size": self.size, "same": dict(self.same), "not_checked": dict(self.not_checked),
            "faults": [[fault.index, fault.what] for fault in self.faults],
            "dark": sorted(tag.hex() for tag in self.dark), "is_lost": self.is_lost,
        }  # fmt: skip

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "_Standing":
        return cls(
            kept["size"], Counter(kept["same"]), Counter(kept["not_checked"]),
            [Fault(index, what) for index, what in kept["faults"]], set(map(bytes.fromhex, kept["dark"])),
            kept["is_lost"],
        )  # fmt: skip


def replay_decisions(
    place: Place,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    state_dir: Path | None = None,
    progress: Progress | None = None,
) -> Replayed:
    """Re-run every decision of the ledger at *place*, up to its latest checkpoint.

    Args:
        state_dir: keep the table here and go on from it; None: in a directory that goes with the run.

    Raises:
        StorageError: the place or the directory fails.
        VerificationError: the checkpoint is not this log's, or the leaves are not what it signed.
        InvalidError: the place has no openings, or the directory is another ledger's.
    """
    with ExitStack() as stack:
        if state_dir is None:
            state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consentd-replay-")))
        source = place.open()
        stack.callback(source.close)
        point, _ = checkpoint.open_checkpoint(source.checkpoint(), origin, log_verifier)
        state_dir.mkdir(parents=True, exist_ok=True)
        table = Table.open(state_dir / "table", map_size_mb=_MAP_MB)
        stack.callback(table.close)
        run = _Run(source, point, table, state_dir / "standing.json")
        stopped = run.run(progress)
        return Replayed(
            checkpoint=point,
            entries=run.standing.size,
            same=dict(run.standing.same),
            not_checked={what: count for what, count in run.standing.not_checked.items() if count},
            faults=tuple(run.standing.faults),
            stopped=stopped,
        )


class _Run:
    """One run under way. Owned by one thread."""

    def __init__(self, source: Source, point: Checkpoint, table: Table, kept_path: Path) -> None:
        self.source, self.point, self.table, self._kept_path = source, point, table, kept_path
        self._last: dict[str, Any] | None = None
        self.standing = self._restore()
        start = self.standing.size
        if start > point.size:
            raise ProofError(f"ledger is smaller than what was replayed: `{point.size}` and `{start}`")
        plan = tiles.plan_edge(start)
        self._edge = tiles.Edge.from_tiles(start, read_tiles(source, plan, point.size)) if start else tiles.Edge()

    def run(self, progress: Progress | None) -> bool:
        """Take all leaves; returns whether it stopped at the hundredth fault."""
        bundles = -(-self.point.size // tiles.TILE_WIDTH)
        for first in range(self.standing.size // tiles.TILE_WIDTH, bundles, BATCH):
            with self.table.begin() as turn:
                for n in range(first, min(first + BATCH, bundles)):
                    self._take_bundle(n, turn)
                    if len(self.standing.faults) >= MAX_FAULTS:
                        return True
                self._keep()
                # A crash here: two standings are kept, and the table says which one is its own.
                turn.commit(self.standing.size, self._edge.root(), 0)
            if progress is not None:
                progress(self.standing.size, self.point.size)
        if self._edge.root() != self.point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {self.point.size}")
        return False

    def _take_bundle(self, n: int, turn: TableTurn) -> None:
        start = n * tiles.TILE_WIDTH
        leaves = read_leaves(self.source, n, width_of(n, self.point.size))
        openings = self.source.openings(n, leaves)
        if openings is None:
            raise InvalidError("decisions cannot be replayed without openings: give --statements, or another place")
        new = self.standing.size - start
        self._edge, _ = self._edge.append([merkle.leaf_hash(leaf) for leaf in leaves[new:]])
        for index, event, opening in _events(leaves[new:], openings[new:], start + new):
            self._take(turn, index, event, opening)
        self.standing.size = start + len(leaves)

    def _take(self, turn: TableTurn, index: int, event: codec.Event, opening: Opening) -> None:
        standing = self.standing
        if not kinds.is_known(event.kind):
            standing.not_checked[UNKNOWN] += 1
            turn.apply(event, None)
            return
        if opening is None:
            self._miss(event)
            return
        try:
            made = look.open_statement(event, opening)
            if event.kind not in _DECISIONS:
                if event.kind in statement.MESSAGES:
                    turn.apply(event, statement.decode_payload(event.kind, made.payload))
                return
            if standing.is_lost or event.tag in standing.dark or len(standing.dark) > MAX_DARK:
                standing.not_checked[DARK] += 1
                return
            found = decisions.differences(turn, index, event, made, origin=self.point.origin)
        except (VerificationError, RequestError, CorruptionError) as error:
            standing.faults.append(Fault(index, _cannot(event, error)))
            return
        if found:
            standing.faults.append(Fault(index, "decision comes out otherwise: " + "; ".join(found)))
        else:
            standing.same[EntryKind(event.kind).name] += 1

    def _miss(self, event: codec.Event) -> None:
        if event.kind in _DECISIONS:
            self.standing.not_checked[CLOSED] += 1
        elif event.kind in _REGISTRY:
            # A person's own key changes no decision.
            self.standing.is_lost |= event.kind != EntryKind.KEY
        elif event.kind not in _SILENT and len(self.standing.dark) <= MAX_DARK:
            self.standing.dark.add(event.tag)

    # -- what is kept -----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        kept = self.standing.to_json()
        content = json.dumps({"origin": self.point.origin, "standings": [self._last, kept]})
        self._last = kept
        scratch = self._kept_path.with_suffix(".tmp")
        try:
            scratch.write_text(content)
            os.replace(scratch, self._kept_path)
        except OSError as error:
            raise StorageError(f"state cannot be kept: `{self._kept_path}`: {error.strerror}") from error

    def _restore(self) -> _Standing:
        with self.table.read() as snapshot:
            size = snapshot.size
        if size == 0:
            return _Standing()
        try:
            kept = json.loads(self._kept_path.read_text())
            if kept["origin"] != self.point.origin:
                raise InvalidError(f"state is of another ledger: `{kept['origin']}`")
            self._last = next(one for one in kept["standings"] if one is not None and one["size"] == size)
        except (OSError, ValueError, KeyError, StopIteration) as error:
            raise StorageError(f"state cannot be gone on from; remove it: `{self._kept_path.parent}`") from error
        return _Standing.from_json(self._last)


def _events(
    leaves: list[bytes], openings: list[Opening], start: int
) -> Iterator[tuple[int, codec.Event, Opening]]:
    for index, (leaf, opening) in enumerate(zip(leaves, openings, strict=True), start):
        decoded = codec.decode_leaf(leaf)
        if isinstance(decoded, codec.Event):
            yield index, decoded, opening


def _cannot(event: codec.Event, error: ConsentdError) -> str:
    what = "decision cannot be taken again" if event.kind in _DECISIONS else "entry cannot be applied"
    return f"{what}: {error}"
