"""Count a ledger's accesses by organisation, purpose and time, and refusals by reason; list times without leaves.

One pass reads all leaves and the available openings (salt and statement of a leaf). The root that is computed from the
leaves must be the root that the log signed. Memory grows with the number of participants and purposes, but not with the
number of entries: there are at most 61 intervals of time, and all lists have a largest length.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from consentd.audit.checkpoints import read_checkpoint
from consentd.audit.remote import at_checkpoint
from consentd.audit.sources import Location
from consentd.core import codec, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX, MutableValidKeys, apply_key_change
from consentd.core.kinds import EntryKind, is_known
from consentd.core.note import NoteVerifier
from consentd.errors import InvalidError, ProofError, VerificationError
from consentd.policy.language import best_text
from consentd.statements import payloads, values
from consentd.statements.outcomes import OutcomeComparison
from consentd.statements.reporters import reporters_of
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import Progress
from consentd.verify.source import Opening, leaf_hashes, prove_inclusion, read_leaf, read_leaves, width_of
from consentd.verify.statements import open_statement

MAX_LISTED = 200
"""Most break-glass accesses, gaps or clock differences in a list. Those beyond this number are only counted."""
MAX_ACCESSES = 100_000
"""Most accesses that are remembered, the latest, to compare outcomes with them."""
MAX_SEALS = 2000
"""Most seals that are drawn. If there are more, only every second, fourth or eighth … seal is drawn."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_UNITS = (HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS)
_MAX_INTERVALS = 60
_SEOUL_MS = 9 * HOUR_MS  # Asia/Seoul has had no other offset since 1988


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """A break-glass access, permitted or refused.

    ``caller`` made the call. ``others`` are those that the organisation acted for, or asked through, if named.
    """

    index: int
    time_ms: int
    caller: str
    organisation: str
    others: tuple[str, ...]
    holder: str
    justification: str
    permitted: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without leaves: the ``length_ms`` before the leaf at ``index``, whose time is ``time_ms``."""

    index: int
    time_ms: int
    length_ms: int


@dataclass(frozen=True, slots=True)
class MerklePath:
    """The inclusion proof of one entry: its leaf hash, and the sibling hashes from the leaf up."""

    index: int
    leaf_hash: bytes
    hashes: tuple[bytes, ...]


@dataclass(slots=True)
class AccessSummary:
    """Counts of a ledger's entries up to a checkpoint.

    Attributes:
        start_ms, end_ms: start of the first interval (a full hour or day in Asia/Seoul), and time of the last leaf.
        unit_ms: length of an interval.
        gap_ms: a time without leaves counts as a gap if it is longer than this.
        by_organisation, by_caller, by_purpose: number of permitted accesses, by (number of the interval, id or code).
        refusals: number of refused accesses by reason; a refusal may have several reasons.
        refused_consents: number of refused consents by legal ground.
        kinds: number of entries by kind.
        names, purposes, grounds: name for readers of Korean and of English, by participant id, by purpose code, and by
            the code of a refusal ground.
        break_glass, gaps, skewed: at most ``MAX_LISTED`` of each; ``…_count``: how many there are. *skewed* are
            (index, difference in ms) of entries whose author's clock differs from the ledger's.
        seals: (index, time_ms) of at most ``MAX_SEALS`` seals; ``seal_count``: the number of all seals.
        closed: number of accesses and refusals whose statement is not available.
        beyond_permit: number of outcomes that name categories which their access did not permit (policy.md, "What was
            transferred"). ``uncompared``: of those that name categories, but whose access was not available, or is
            more than ``MAX_ACCESSES`` accesses before.
        strangers: number of outcomes whose reporter had no part in the access (ledger-format.md, "Keys in force").
        pruned: number of pruned leaves. They are in no other count.
        path: the Merkle path of one entry, set after all leaves are verified.
    """

    checkpoint: Checkpoint
    start_ms: int
    end_ms: int
    unit_ms: int
    gap_ms: int
    entries: int = 0
    persons: int = 0
    by_organisation: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_caller: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_purpose: Counter[tuple[int, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    refused_consents: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    purposes: dict[str, tuple[str, str]] = field(default_factory=dict)
    grounds: dict[str, tuple[str, str]] = field(default_factory=dict)
    break_glass: list[BreakGlass] = field(default_factory=list)
    break_glass_count: int = 0
    gaps: list[Gap] = field(default_factory=list)
    gap_count: int = 0
    skewed: list[tuple[int, int]] = field(default_factory=list)
    skew_count: int = 0
    seals: list[tuple[int, int]] = field(default_factory=list)
    seal_count: int = 0
    closed: int = 0
    beyond_permit: int = 0
    uncompared: int = 0
    strangers: int = 0
    pruned: int = 0
    path: MerklePath = field(init=False)

    @property
    def intervals(self) -> int:
        """The number of intervals."""
        return max(1, -(-(self.end_ms + 1 - self.start_ms) // self.unit_ms))


def summarise(
    location: Location, *, origin: str, log_verifier: NoteVerifier, index: int | None = None, gap_ms: int = HOUR_MS,
    skew_ms: int = 60_000, progress: Progress | None = None,
) -> AccessSummary:
    """Count the entries of the ledger at *location*, up to its latest checkpoint.

    Args:
        index: index of the entry whose Merkle path is returned; None: the last entry before the last seal.
        skew_ms: an entry is listed if its author's clock differs by more than this from the ledger's.

    Raises:
        StorageError: the ledger cannot be read.
        VerificationError: the leaves are not what the log signed.
        InvalidError: *index* is outside of the tree.
    """
    with closing(location.open()) as opened:
        point = read_checkpoint(opened, origin=origin, log_verifier=log_verifier).point
        source = at_checkpoint(opened, point)
        index = max(0, point.size - 2) if index is None else index
        if not 0 <= index < point.size:
            raise InvalidError(f"index is not in the tree: `{index}` of `{point.size}`")
        first_ms, end_ms = (codec.decode_leaf(read_leaf(source, at, point.size)).time_ms for at in (0, point.size - 1))
        # INVARIANT: there are at most _MAX_INTERVALS + 1 intervals, whatever times the leaves have.
        longest_ms = -(-(end_ms - first_ms) // (_MAX_INTERVALS * DAY_MS)) * DAY_MS
        unit_ms = next((unit for unit in _UNITS if (end_ms - first_ms) // unit < _MAX_INTERVALS), longest_ms)
        start_ms = (first_ms + _SEOUL_MS) // unit_ms * unit_ms - _SEOUL_MS
        found = AccessSummary(checkpoint=point, start_ms=start_ms, end_ms=end_ms, unit_ms=unit_ms, gap_ms=gap_ms)
        counting = _Counting(found, skew_ms)
        edge = tiles.Edge()
        for n in range(-(-point.size // tiles.TILE_WIDTH)):
            leaves = read_leaves(source, n, width_of(n, point.size))
            edge, _ = edge.append(leaf_hashes(source, n, leaves))
            openings = source.openings(n, leaves) or [None] * len(leaves)
            for at, (leaf, opening) in enumerate(zip(leaves, openings, strict=True), n * tiles.TILE_WIDTH):
                if leaf:
                    counting.add(at, codec.decode_leaf(leaf), opening)
                else:
                    counting.skip_pruned()
            if progress is not None:
                progress(edge.size, point.size)
        if edge.root() != point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        n, at = divmod(index, tiles.TILE_WIDTH)
        leaf_hash = leaf_hashes(source, n, read_leaves(source, n, width_of(n, point.size)))[at]
        found.path = MerklePath(index, leaf_hash, prove_inclusion(source, point, index, leaf_hash))
        return found


class _Counting:
    """Adds the leaves of one pass to a summary. Owned by one thread."""

    def __init__(self, found: AccessSummary, skew_ms: int) -> None:
        self._found = found
        self._skew_ms = skew_ms
        self._last_ms = 0
        self._is_after_pruned = False
        self._outcomes = OutcomeComparison(MAX_ACCESSES)
        self._chains = {codec.LEDGER_TAG: LEDGER_CHAIN}  # the public names of authors' chains
        self._keys: MutableValidKeys = {}
        self._step = 1  # Seals whose number is a multiple of this are in the list.

    def skip_pruned(self) -> None:
        self._found.pruned += 1
        self._is_after_pruned = True

    def add(self, index: int, leaf: codec.Event | codec.Seal, opening: Opening) -> None:
        found = self._found
        silence = leaf.time_ms - self._last_ms
        # The time of a pruned leaf is unknown, so the time without leaves after that leaf is unknown too.
        if index and silence > found.gap_ms and not self._is_after_pruned:
            found.gap_count += 1
            if len(found.gaps) < MAX_LISTED:
                found.gaps.append(Gap(index, leaf.time_ms, silence))
        self._last_ms, self._is_after_pruned = leaf.time_ms, False
        if isinstance(leaf, codec.Seal):
            self._add_seal(index, leaf.time_ms)
            return
        found.entries += 1
        found.kinds[EntryKind(leaf.kind).name if is_known(leaf.kind) else f"KIND {leaf.kind}"] += 1
        found.persons += leaf.kind == EntryKind.ENROL
        if opening is None:
            found.closed += leaf.kind in (EntryKind.ACCESS, EntryKind.REFUSAL)
            return
        statement = open_statement(leaf, opening)
        skew = statement.author_time_ms - leaf.time_ms
        if abs(skew) > self._skew_ms:
            found.skew_count += 1
            if len(found.skewed) < MAX_LISTED:
                found.skewed.append((index, skew))
        self._add_statement(index, leaf, statement)

    def _add_seal(self, index: int, time_ms: int) -> None:
        found = self._found
        if found.seal_count % self._step == 0:
            found.seals.append((index, time_ms))
            if len(found.seals) > MAX_SEALS:
                found.seals = found.seals[::2]
                self._step *= 2
        found.seal_count += 1

    def _add_statement(self, index: int, event: codec.Event, statement: codec.Statement) -> None:
        found, payload = self._found, statement.payload
        if event.kind in (EntryKind.LEDGER, EntryKind.KEY) and event.tag in self._chains:
            change = values.stated_key(event, payload, chain=self._chains[event.tag])
            if change is not None:
                apply_key_change(self._keys, change)
        elif event.kind == EntryKind.PARTICIPANT:
            participant = payloads.parse(st.ParticipantStatement, payload)
            found.names[participant.participant_id] = _in_both(participant.name)
            self._chains[event.tag] = PARTICIPANT_PREFIX + participant.participant_id
        elif event.kind == EntryKind.VOCABULARY:
            for code in payloads.parse(st.VocabularyStatement, payload).codes:
                if code.kind == st.CODE_KIND_PURPOSE:
                    found.purposes[code.code] = _in_both(code.name)
                elif code.kind == st.CODE_KIND_REFUSAL_GROUND:
                    found.grounds[code.code] = _in_both(code.name)
        elif event.kind == EntryKind.ACCESS:
            access = payloads.parse(st.AccessStatement, payload)
            self._outcomes.add(event, access)
            self._add_access(index, event, access, permitted=True)
        elif event.kind == EntryKind.OUTCOME:
            outcome = payloads.parse(st.OutcomeStatement, payload)
            beyond = self._outcomes.add(event, outcome)
            found.uncompared += beyond is None
            found.beyond_permit += bool(beyond)
            reporters = tuple(reporters_of(event, statement, outcome, self._keys))
            found.strangers += self._outcomes.is_strangers(event, reporters)
        elif event.kind == EntryKind.REFUSAL:
            refusal = payloads.parse(st.RefusalStatement, payload)
            if refusal.WhichOneof("refused") == "access":
                self._add_access(index, event, refusal.access, permitted=False)
            else:
                found.refused_consents[refusal.reason] += 1

    def _add_access(self, index: int, event: codec.Event, access: st.AccessStatement, *, permitted: bool) -> None:
        found = self._found
        try:
            question = payloads.parse(pb.Question, access.asked.question)
        except VerificationError:
            question = pb.Question()
        interval = (event.time_ms - found.start_ms) // found.unit_ms
        organisation = question.actor.on_behalf_of or question.actor.organisation or access.asked.asker
        if permitted:
            found.by_organisation[interval, organisation] += 1
            found.by_caller[interval, access.asked.asker] += 1
            found.by_purpose[interval, question.purpose] += 1
        for reason in {one.code for one in access.decision.reasons} if not permitted else ():
            name = _code(pb.ReasonCode, reason, "REASON_CODE_")
            # If a question has several categories, its refusal also lists the reasons that permit some of them.
            if not name.startswith("PERMITTED_"):
                found.refusals[name] += 1
        if question.HasField("break_glass"):
            found.break_glass_count += 1
            if len(found.break_glass) < MAX_LISTED:
                actor, caller = question.actor, access.asked.asker
                others = tuple(filter(None, (actor.on_behalf_of, actor.application, *actor.relays)))
                why = question.break_glass.justification
                found.break_glass.append(
                    BreakGlass(
                        index, event.time_ms, caller, actor.organisation, others, question.holder, why, permitted
                    )
                )


def _in_both(name: Mapping[str, str]) -> tuple[str, str]:
    """Return a name for readers of Korean, and for readers of English."""
    return best_text(name, "ko"), best_text(name, "en")


def _code(codes: Any, number: int, prefix: str) -> str:
    """Return the name of an enum value without *prefix*, or the number if this version does not know the value."""
    name: str = codes.Name(number) if number in codes.values() else f"CODE {number}"
    return name.removeprefix(prefix)
