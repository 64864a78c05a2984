"""Replay a share of a ledger: the decisions about some of its tags, on a policy table of their own.

A decision rests on the registry and on what its own person allowed, on no other person. So the tags of a ledger can be
dealt out: each share applies every entry of the registry, and of all others those of its tags, in the order of the
ledger. Shares know nothing of each other, and what they find adds up to what one alone would have found.

Each hashes all leaves: what a share decided on is what the log signed, whatever another one was shown.

State, in a directory of the share's own: the table, LMDB; where the share stands, JSON; and the tags of which a consent
is not at hand, 32 bytes each, of which the standing says how many count. A killed run goes on from its last commit.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consentd.audit import decisions, workers
from consentd.audit.sources import Place
from consentd.core import codec, kinds, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import DECISIONS, NO_DECISION_EFFECT, PRUNABLE, REALM, EntryKind
from consentd.errors import (
    ConsentdError,
    CorruptionError,
    InvalidError,
    ProofError,
    RequestError,
    StorageError,
    VerificationError,
)
from consentd.files import write_file
from consentd.statements import payloads
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.verify.findings import MAX_FAULTS, Fault
from consentd.verify.source import Opening, leaf_hashes, read_leaves, read_tiles, width_of
from consentd.verify.statements import open_statement

MAX_DARK = 1_000_000
"""Most chains of a share with a consent not at hand that are told apart; beyond, none of its decisions can be told."""
_MAP_MB = 1 << 16  # addresses, not memory

CLOSED = "decisions whose statement is erased, or outside the mandate"
PRUNED = "decisions from before the time from which everything is kept"
DARK = "decisions on consents of which an entry is not at hand"
UNKNOWN = "entries of kinds that this version does not know"


@dataclass(slots=True)
class Tally:
    """What a share found so far.

    Attributes:
        size: leaves taken.
        same: decisions that came out as recorded, by kind of entry.
        faults: at most the first hundred. One of the registry's is found by every share.
    """

    size: int = 0
    same: Counter[str] = field(default_factory=Counter)
    not_checked: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        faults = [[fault.index, fault.what] for fault in self.faults]
        return {
            "size": self.size, "same": dict(self.same), "not_checked": dict(self.not_checked), "faults": faults
        }  # fmt: skip

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Tally":
        """Return what ``to_json`` made of it."""
        faults = [Fault(index, what) for index, what in kept["faults"]]
        return cls(kept["size"], Counter(kept["same"]), Counter(kept["not_checked"]), faults)


class Share:
    """One share under way: the tags of which it is *number* among *of*. Owned by one thread.

    Attributes:
        tally: after the last round.
    """

    def __init__(self, place: Place, point: Checkpoint, directory: Path, *, number: int, of: int) -> None:
        """Open the place and the state in *directory*, or begin one.

        Raises:
            StorageError: the place or the directory fails.
            InvalidError: the state is another ledger's.
            ProofError: the ledger is smaller than what was replayed.
        """
        self._point, self._number, self._of = point, number, of
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"state cannot be kept: `{directory}`: {error.strerror}") from error
        self._standing_path, self._dark_path = directory / "standing.json", directory / "dark"
        self._last: dict[str, Any] | None = None
        self._dark: set[bytes] = set()
        self._new_dark: list[bytes] = []
        self._is_lost = False
        self._table = Table.open(directory / "table", map_size_mb=_MAP_MB)
        try:
            self._source = place.open()
            try:
                self.tally = self._restore()
                self._edge = self._read_edge(self.tally.size)
                self._kept_from_ms = self._source.pruned().kept_from_ms
                self._check_fresh()
            except BaseException:
                self._source.close()
                raise
        except BaseException:
            self._table.close()
            raise

    def take(self, first: int, count: int) -> Tally:
        """Take *count* bundles from *first* on, as far as they are not taken yet.

        Raises:
            StorageError: the place or the directory fails.
            VerificationError: a bundle is not one.
            InvalidError: the place has no openings.
        """
        end = min(first + count, -(-self._point.size // tiles.TILE_WIDTH))
        begin = max(first, self.tally.size // tiles.TILE_WIDTH)
        if begin < end and self.tally.size < self._point.size:
            with self._table.begin() as turn:
                for n in range(begin, end):
                    self._take_bundle(n, turn)
                self._keep()
                # A crash here: two standings are kept, and the table says which one is its own.
                turn.commit(self.tally.size, self._edge.root(), 0)
        return self.tally

    def finish(self) -> None:
        """Compare the tree with the checkpoint.

        Raises:
            ProofError: it is not what the log signed.
        """
        if self._edge.root() != self._point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {self._point.size}")

    def close(self) -> None:
        """Close place and table."""
        self._source.close()
        self._table.close()

    # -- leaf by leaf -----------------------------------------------------------------------------------------

    def _take_bundle(self, n: int, turn: TableTransaction) -> None:
        start = n * tiles.TILE_WIDTH
        leaves = read_leaves(self._source, n, width_of(n, self._point.size))
        new = self.tally.size - start
        self._edge, _ = self._edge.append(leaf_hashes(self._source, n, leaves)[new:])
        asked = [leaf if at >= new and self._concerns(leaf) else b"" for at, leaf in enumerate(leaves)]
        openings = self._source.openings(n, asked)
        if openings is None:
            raise InvalidError("decisions cannot be replayed without openings: give --statements, or another place")
        for index, (leaf, opening) in enumerate(zip(asked, openings, strict=True), start):
            decoded = codec.decode_leaf(leaf) if leaf else None
            if isinstance(decoded, codec.Event):
                self._take(turn, index, decoded, opening)
        self.tally.size = start + len(leaves)

    def _concerns(self, leaf: bytes) -> bool:
        """Tell whether an event leaf is for this share, before it is decoded; what is none goes to the decoder."""
        return len(leaf) != codec.EVENT_LENGTH or codec.kind_of(leaf) in REALM or self._owns(codec.tag_of(leaf))

    def _owns(self, tag: bytes) -> bool:
        return int.from_bytes(tag[:8]) % self._of == self._number

    def _take(self, turn: TableTransaction, index: int, event: codec.Event, opening: Opening) -> None:
        tally = self.tally
        if not kinds.is_known(event.kind):
            tally.not_checked[UNKNOWN] += 1
            turn.apply(event, None)
            return
        if opening is None:
            self._miss(event)
            return
        try:
            made = open_statement(event, opening)
            if event.kind not in DECISIONS:
                if event.kind in payloads.MESSAGES:
                    turn.apply(event, payloads.decode_payload(event.kind, made.payload))
                return
            if event.time_ms < self._kept_from_ms:
                # One that is still there rested on consents that may be gone.
                tally.not_checked[PRUNED] += 1
                return
            if self._is_lost or event.tag in self._dark or len(self._dark) > MAX_DARK:
                tally.not_checked[DARK] += 1
                return
            found = decisions.differences(turn, index, event, made, origin=self._point.origin)
        except (VerificationError, RequestError, CorruptionError) as error:
            self._fault(index, _cannot(event, error))
            return
        if found:
            self._fault(index, "decision comes out otherwise: " + "; ".join(found))
        else:
            tally.same[EntryKind(event.kind).name] += 1

    def _fault(self, index: int, what: str) -> None:
        if len(self.tally.faults) < MAX_FAULTS:
            self.tally.faults.append(Fault(index, what))

    def _miss(self, event: codec.Event) -> None:
        # What is pruned rested on nothing that any kept decision has in view; whether it may be is verify's matter.
        is_pruned = event.kind in PRUNABLE and event.time_ms < self._kept_from_ms
        if event.kind in DECISIONS:
            self.tally.not_checked[PRUNED if is_pruned else CLOSED] += 1
        elif event.kind in REALM:
            # A person's own key changes no decision.
            self._is_lost |= event.kind != EntryKind.KEY
        elif event.kind not in NO_DECISION_EFFECT and not is_pruned and len(self._dark) <= MAX_DARK:
            if event.tag not in self._dark:
                self._new_dark.append(event.tag)
            self._dark.add(event.tag)

    # -- what is kept -----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        kept = {**self.tally.to_json(), "dark": len(self._dark), "is_lost": self._is_lost}
        content = json.dumps({"origin": self._point.origin, "standings": [self._last, kept]})
        self._last = kept
        try:
            # What a killed run wrote behind the count that stands is written over, for the same leaves say the same.
            with self._dark_path.open("r+b" if self._dark_path.exists() else "w+b") as file:
                file.seek(32 * (len(self._dark) - len(self._new_dark)))
                file.write(b"".join(self._new_dark))
        except OSError as error:
            raise StorageError(f"state cannot be kept: `{self._dark_path}`: {error.strerror}") from error
        write_file(self._standing_path, content.encode(), is_synced=False, name="state")
        self._new_dark.clear()

    def _restore(self) -> Tally:
        with self._table.read() as snapshot:
            size = snapshot.size
        if size == 0:
            return Tally()
        try:
            kept = json.loads(self._standing_path.read_text())
            if kept["origin"] != self._point.origin:
                raise InvalidError(f"state is of another ledger: `{kept['origin']}`")
            last = next(one for one in kept["standings"] if one is not None and one["size"] == size)
            self._last, self._is_lost = last, last["is_lost"]
            with self._dark_path.open("rb") as file:
                self._dark = {file.read(32) for _ in range(last["dark"])}
            return Tally.from_json(last)
        except (OSError, ValueError, KeyError, StopIteration) as error:
            parent = self._standing_path.parents[1]
            raise StorageError(f"state cannot be gone on from; remove it: `{parent}`") from error

    def _check_fresh(self) -> None:
        """Refuse a state behind which entries are pruned: what ended a consent in it may be gone."""
        if not self.tally.size or not self._kept_from_ms:
            return
        n, at = divmod(self.tally.size - 1, tiles.TILE_WIDTH)
        leaf = read_leaves(self._source, n, width_of(n, self._point.size))[at]
        if not leaf or codec.decode_leaf(leaf).time_ms < self._kept_from_ms:
            parent = self._standing_path.parents[1]
            raise InvalidError(f"state is from before what the ledger keeps; remove it and begin anew: `{parent}`")

    def _read_edge(self, size: int) -> tiles.Edge:
        if size > self._point.size:
            raise ProofError(f"ledger is smaller than what was replayed: `{self._point.size}` and `{size}`")
        if size == 0:
            return tiles.Edge()
        return tiles.Edge.from_tiles(size, read_tiles(self._source, tiles.plan_edge(size), self._point.size))


def _cannot(event: codec.Event, error: ConsentdError) -> str:
    what = "decision cannot be taken again" if event.kind in DECISIONS else "entry cannot be applied"
    return f"{what}: {error}"


# -- in a process of its own -------------------------------------------------------------------------------------

_share: Share | None = None  # a worker's own, made once by ``begin``


def begin(place: Place, point: Checkpoint, directory: Path, number: int, of: int) -> Tally:
    """Open a share in a worker process. Raises as ``Share``."""
    global _share
    workers.end_with_parent()
    _share = Share(place, point, directory, number=number, of=of)
    return _share.tally


def take(first: int, count: int) -> Tally:
    """Take bundles in a worker. Raises as ``Share.take``."""
    assert _share is not None, "a worker opens its share first"
    return _share.take(first, count)


def finish() -> None:
    """Compare the tree in a worker. Raises as ``Share.finish``."""
    assert _share is not None, "a worker opens its share first"
    _share.finish()
