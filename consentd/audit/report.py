"""Add up what a ledger's accesses were: who, for what, when; what was refused and why; where it was silent.

One pass over the leaves and the openings at hand. What is kept grows with participants, purposes and intervals of time,
not with entries: intervals are chosen from the first and the last leaf's time, break-glass and gaps are listed up to a
bound and counted beyond it. Leaves are hashed on the way, and must be what the log signed.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from consentd.audit.sources import Location, Source
from consentd.core import checkpoint, codec, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind, is_known
from consentd.core.note import NoteVerifier
from consentd.errors import InvalidError, ProofError, VerificationError
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import Progress
from consentd.verify.source import Opening, leaf_hashes, read_leaves, read_tiles, width_of
from consentd.verify.statements import open_statement

MAX_LISTED = 200
"""Most break-glass accesses, gaps or jumps that are listed; beyond, they are counted."""
MAX_SEALS = 2000
"""Most marks of the ribbon; of more seals, evenly spread ones are kept."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_UNITS = (HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS)
_MAX_INTERVALS = 60
_SEOUL_MS = 9 * HOUR_MS  # Asia/Seoul has had no other offset since 1988


@dataclass(frozen=True, slots=True)
class Urgent:
    """An access that broke the glass, or tried to."""

    index: int
    time_ms: int
    organisation: str
    holder: str
    justification: str
    permitted: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Between the leaf at ``index`` - 1 and that at ``index`` the ledger was silent for ``length_ms``."""

    index: int
    time_ms: int
    length_ms: int


@dataclass(frozen=True, slots=True)
class MerklePath:
    """The Merkle path of one entry: its leaf hash, the siblings from the leaf up, and where the tree's size ends it."""

    index: int
    leaf_hash: bytes
    hashes: tuple[bytes, ...]


@dataclass(slots=True)
class Summary:
    """What the page shows.

    Attributes:
        unit_ms: length of an interval; ``start_ms``: where the first begins, in Asia/Seoul.
        by_organisation, by_purpose: (interval, name) → accesses permitted.
        refusals: by reason.
        outcomes: by outcome of the decision.
        names, purposes: Korean and English by participant id, by purpose code.
        seals: (index, time_ms), at most ``MAX_SEALS``; ``seal_count``: all.
        skewed: entries whose author's clock was more than ``skew_ms`` from the ledger's.
        closed: accesses and refusals whose statement is not at hand.
        pruned: leaves that are not there any more, whatever they were.
    """

    checkpoint: Checkpoint
    start_ms: int
    end_ms: int
    unit_ms: int
    gap_ms: int
    entries: int = 0
    persons: int = 0
    by_organisation: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_purpose: Counter[tuple[int, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    purposes: dict[str, tuple[str, str]] = field(default_factory=dict)
    urgent: list[Urgent] = field(default_factory=list)
    urgent_count: int = 0
    gaps: list[Gap] = field(default_factory=list)
    gap_count: int = 0
    skewed: list[tuple[int, int]] = field(default_factory=list)
    skew_count: int = 0
    seals: list[tuple[int, int]] = field(default_factory=list)
    seal_count: int = 0
    closed: int = 0
    pruned: int = 0
    path: MerklePath | None = None

    @property
    def intervals(self) -> int:
        """How many intervals there are."""
        return max(1, -(-(self.end_ms + 1 - self.start_ms) // self.unit_ms))


def summarise(
    place: Location,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    index: int | None = None,
    gap_ms: int = HOUR_MS,
    skew_ms: int = 60_000,
    progress: Progress | None = None,
) -> Summary:
    """Add up the ledger at *place*, up to its latest checkpoint.

    Args:
        index: of the entry whose Merkle path is drawn; None: the last but the seal.
        gap_ms: a silence that is worth telling; *skew_ms*: an author's clock that is.

    Raises:
        StorageError: the place fails.
        VerificationError: the leaves are not what the log signed.
        InvalidError: there is no such entry.
    """
    source = place.open()
    try:
        point, _ = checkpoint.open_checkpoint(source.checkpoint(), origin, log_verifier)
        index = max(0, point.size - 2) if index is None else index
        if not 0 <= index < point.size:
            raise InvalidError(f"index is not in the tree: `{index}` of `{point.size}`")
        found = _begin(source, point, gap_ms)
        adding = _Adding(found, skew_ms)
        edge = tiles.Edge()
        for n in range(-(-point.size // tiles.TILE_WIDTH)):
            leaves = read_leaves(source, n, width_of(n, point.size))
            edge, _ = edge.append(leaf_hashes(source, n, leaves))
            openings = source.openings(n, leaves) or [None] * len(leaves)
            for at, (leaf, opening) in enumerate(zip(leaves, openings, strict=True), n * tiles.TILE_WIDTH):
                if leaf:
                    adding.add(at, codec.decode_leaf(leaf), opening)
                else:
                    adding.miss()
            if progress is not None:
                progress(edge.size, point.size)
        if edge.root() != point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        found.path = _path(source, point, index)
        return found
    finally:
        source.close()


def _begin(source: Source, point: Checkpoint, gap_ms: int) -> Summary:
    last = (point.size - 1) // tiles.TILE_WIDTH
    first_ms = codec.decode_leaf(read_leaves(source, 0, width_of(0, point.size))[0]).time_ms
    end_ms = codec.decode_leaf(read_leaves(source, last, width_of(last, point.size))[-1]).time_ms
    # A ledger may say any time: there are never more than so many intervals.
    longest_ms = -(-(end_ms - first_ms) // (_MAX_INTERVALS * DAY_MS)) * DAY_MS
    unit_ms = next((unit for unit in _UNITS if (end_ms - first_ms) // unit < _MAX_INTERVALS), longest_ms)
    start_ms = (first_ms + _SEOUL_MS) // unit_ms * unit_ms - _SEOUL_MS
    return Summary(checkpoint=point, start_ms=start_ms, end_ms=end_ms, unit_ms=unit_ms, gap_ms=gap_ms)


def _path(source: Source, point: Checkpoint, index: int) -> MerklePath:
    plan = tiles.plan_inclusion(index, point.size)
    proof = tiles.prove_inclusion(index, point.size, read_tiles(source, plan, point.size))
    n, at = divmod(index, tiles.TILE_WIDTH)
    leaf_hash = leaf_hashes(source, n, read_leaves(source, n, width_of(n, point.size)))[at]
    merkle.verify_inclusion(proof, index=index, size=point.size, leaf_hash=leaf_hash, root=point.root)
    return MerklePath(index, leaf_hash, tuple(proof))


class _Adding:
    """One pass under way. Owned by one thread."""

    def __init__(self, found: Summary, skew_ms: int) -> None:
        self._found = found
        self._skew_ms = skew_ms
        self._last_ms = 0
        self._is_behind_gap = False
        self._step = 1  # every how many seals one is kept

    def miss(self) -> None:
        """Pass over a pruned leaf."""
        self._found.pruned += 1
        self._is_behind_gap = True

    def add(self, index: int, leaf: codec.Event | codec.Seal, opening: Opening) -> None:
        """Add one leaf."""
        found = self._found
        silence = leaf.time_ms - self._last_ms
        # Where leaves are pruned nobody can tell whether it was silent.
        if index and silence > found.gap_ms and not self._is_behind_gap:
            found.gap_count += 1
            if len(found.gaps) < MAX_LISTED:
                found.gaps.append(Gap(index, leaf.time_ms, silence))
        self._last_ms, self._is_behind_gap = leaf.time_ms, False
        if isinstance(leaf, codec.Seal):
            self._add_seal(index, leaf.time_ms)
            return
        found.entries += 1
        found.kinds[EntryKind(leaf.kind).name if is_known(leaf.kind) else f"KIND {leaf.kind}"] += 1
        found.persons += leaf.kind == EntryKind.ENROL
        if opening is None:
            found.closed += leaf.kind in (EntryKind.ACCESS, EntryKind.REFUSAL)
            return
        made = open_statement(leaf, opening)
        skew = made.author_time_ms - leaf.time_ms
        if abs(skew) > self._skew_ms:
            found.skew_count += 1
            if len(found.skewed) < MAX_LISTED:
                found.skewed.append((index, skew))
        self._add_statement(index, leaf, made.payload)

    def _add_seal(self, index: int, time_ms: int) -> None:
        found = self._found
        if found.seal_count % self._step == 0:
            found.seals.append((index, time_ms))
            if len(found.seals) > MAX_SEALS:
                found.seals = found.seals[::2]
                self._step *= 2
        found.seal_count += 1

    def _add_statement(self, index: int, event: codec.Event, payload: bytes) -> None:
        found = self._found
        if event.kind == EntryKind.PARTICIPANT:
            participant = payloads.parse(st.ParticipantStatement, payload)
            found.names[participant.participant_id] = (participant.name.ko, participant.name.en)
        elif event.kind == EntryKind.VOCABULARY:
            vocabulary = payloads.parse(st.VocabularyStatement, payload)
            for code in vocabulary.codes:
                if code.kind == st.CODE_KIND_PURPOSE:
                    found.purposes[code.code] = (code.name.ko, code.name.en)
        elif event.kind == EntryKind.ACCESS:
            self._add_access(index, event, payloads.parse(st.AccessStatement, payload), permitted=True)
        elif event.kind == EntryKind.REFUSAL:
            refusal = payloads.parse(st.RefusalStatement, payload)
            if refusal.WhichOneof("refused") == "access":
                self._add_access(index, event, refusal.access, permitted=False)
            else:
                found.refusals[_code(st.RefusalReason, refusal.reason, "REFUSAL_REASON_")] += 1

    def _add_access(self, index: int, event: codec.Event, access: Any, *, permitted: bool) -> None:
        found = self._found
        try:
            question = payloads.parse(pb.Question, access.asked.question)
        except VerificationError:
            question = pb.Question()
        interval = (event.time_ms - found.start_ms) // found.unit_ms
        organisation = question.actor.on_behalf_of or question.actor.organisation or access.asked.asker
        found.outcomes[_code(pb.Outcome, access.decision.outcome, "OUTCOME_")] += 1
        if permitted:
            found.by_organisation[interval, organisation] += 1
            found.by_purpose[interval, question.purpose] += 1
        for reason in {one.code for one in access.decision.reasons} if not permitted else ():
            name = _code(pb.ReasonCode, reason, "REASON_CODE_")
            # What permitted one category of several is no reason for refusing them.
            if not name.startswith("PERMITTED_"):
                found.refusals[name] += 1
        if question.HasField("break_glass"):
            found.urgent_count += 1
            if len(found.urgent) < MAX_LISTED:
                found.urgent.append(
                    Urgent(
                        index, event.time_ms, organisation, question.holder, question.break_glass.justification,
                        permitted,
                    )
                )  # fmt: skip


def _code(codes: Any, number: int, prefix: str) -> str:
    """Return the name of an enum's number; of a later version's, the number."""
    name: str = codes.Name(number) if number in codes.values() else f"CODE {number}"
    return name.removeprefix(prefix)
