"""The general way through a subject's rows: what each row says of the categories asked for, layer by layer.

Meaning of a node (policy.md, rule 2): for a category it is worth a deny if a child is, else a permit if a
child is, else its own effect where it matches. Rows stand in preorder, so the loop runs backwards with one
accumulator per depth, and does all categories at once.

Labels, resources and data period are the *extent* of a question: a permit matches when all of it lies inside
the row's limits, a deny when any of it does. Where the question leaves one open, a limit on it matches as the
caller says: ``WIDEST`` fails closed, ``NARROWEST`` is what an enforcer of residuals is answered (rule 5).
"""

from collections.abc import Iterator
from struct import unpack_from
from typing import Final, NamedTuple

from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules
from consentd.policy.model import MAX_DEPTH, OPEN_END_MS, ImplicitPolicy, Layer
from consentd.policy.rows import PERMIT, ROW, ROW_SIZE, SIDE, SIDE_COUNTS, SIDE_WINDOW, Fields, decode_side
from consentd.policy.subject import ENTRY, HAS_SIDE, HEADER, PAUSED
from consentd.policy.tree import path

PERMITS: Final = 0
DENIES: Final = 1
UNKNOWNS: Final = 2

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)

Opens = tuple[bool, bool]
"""Whether a limit on an extent left open matches, in a deny and in a permit."""

WIDEST: Final[Opens] = (True, False)
NARROWEST: Final[Opens] = (False, True)
EITHER: Final[Opens] = (True, True)

Ids = tuple[int, int, int]
"""Seq of the leaf in force, lineage, version; zeros for a rule of the realm."""

NO_IDS: Final[Ids] = (0, 0, 0)


class Tally:
    """What was said. Owned by one evaluation.

    Attributes:
        masks: by layer, then by kind (``PERMITS``, ``DENIES``, ``UNKNOWNS``): categories.
        said: (layer, kind, categories, who, path), in the order met.
        selected: some consent in force selects an implicit policy, so the realm's does not hold.
        until: least start or end after now among rows that match but for time.
    """

    __slots__ = ("masks", "said", "selected", "until")

    def __init__(self, until: int = OPEN_END_MS) -> None:
        self.masks: Final = ([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
        self.said: Final[list[tuple[int, int, int, Ids, str]]] = []
        self.selected = False
        self.until = until

    def say(self, layer: int, kind: int, mask: int, ids: Ids = NO_IDS, where: str = "") -> None:
        """Note that ``mask`` is permitted, denied or unknown; an empty mask says nothing."""
        if mask:
            self.masks[layer][kind] |= mask
            self.said.append((layer, kind, mask, ids, where))

    def in_time(self, start_ms: int, end_ms: int, now_ms: int) -> bool:
        """Tell whether a row that matches otherwise holds now, and note when that may change (rule 4)."""
        if start_ms > now_ms:
            if start_ms < self.until:
                self.until = start_ms
            return False
        if now_ms < end_ms:
            if end_ms < self.until:
                self.until = end_ms
            return True
        return False


class Member(NamedTuple):
    """One lineage as read from a value: who, directory flags, layer, rows in preorder, side block, readable."""

    ids: Ids
    flags: int
    layer: int
    rows: list[Fields]
    block: bytes
    readable: bool


def members(value: bytes | None, version: int) -> Iterator[Member]:
    """Yield the lineages of a value written by ``subject``; of a later vocabulary than ``version``: unreadable."""
    if not value:
        return
    _, _, _, lineages, rows = HEADER.unpack_from(value)
    entry_at = HEADER.size
    row_at = entry_at + lineages * ENTRY.size
    side_at = row_at + rows * ROW_SIZE
    for _ in range(lineages):
        lineage, seq, number, vocabulary, more, flags = ENTRY.unpack_from(value, entry_at)
        entry_at += ENTRY.size
        row_end = row_at + (more + 1) * ROW_SIZE
        block = b""
        if flags & HAS_SIDE:
            side_end = side_at + 4 + int.from_bytes(value[side_at : side_at + 4], "little")
            block = value[side_at + 4 : side_end]
            side_at = side_end
        readable = vocabulary <= version and not flags & UNREADABLE
        layer = STATUTE if flags & STATUTORY else CONSENT
        fields = list(ROW.iter_unpack(value[row_at:row_end]))
        yield Member((seq, lineage, number), flags, layer, fields, block, readable)
        row_at = row_end


def matches(row: Fields, block: bytes, question: PackedQuestion, opens: Opens) -> int:
    """Return the categories asked for that a row matches but for time; 0: it does not match.

    Args:
        block: the side block that its side record, if any, lies in.
    """
    actor, holder, purposes, categories, _, _, labels, actions, side, flags, _, _, _ = row
    mask = categories & question.categories
    if not (mask and purposes & question.purpose and actions & question.action):
        return 0
    permit = flags & PERMIT
    if labels:
        asked = question.labels
        if asked is None:
            if not opens[permit]:
                return 0
        elif asked & ~labels if permit else not asked & labels:
            return 0
    actors = question.permit_actors if permit else question.deny_actors
    if flags & SIDE:
        meets = _side_meets(row, block, question, actors) and _within(block, side, question, permit, opens)
        return mask if meets else 0
    return mask if actor in actors and holder in question.holders else 0


def _side_meets(row: Fields, block: bytes, question: PackedQuestion, actors: frozenset[int]) -> bool:
    """Tell whether actor and holder are the row's (rule 10), read from its side record where that names several."""
    offset = row[8] * 4
    many_actors, many_holders, _, windows = SIDE_COUNTS.unpack_from(block, offset)
    if not many_actors + many_holders:
        return row[0] in actors and row[1] in question.holders
    offset += SIDE_COUNTS.size + (SIDE_WINDOW.size if windows else 0)
    numbers = unpack_from(f"<{many_actors + many_holders}I", block, offset)
    if actors.isdisjoint(numbers[:many_actors]) if many_actors else row[0] not in actors:
        return False
    if many_holders:
        return not question.holders.isdisjoint(numbers[many_actors:])
    return row[1] in question.holders


def _within(block: bytes, word: int, question: PackedQuestion, permit: int, opens: Opens) -> bool:
    """Hold the question's resources and data period against a side record."""
    _, _, resources, windows = SIDE_COUNTS.unpack_from(block, word * 4)
    if windows:
        if question.data_period is None:
            if not opens[permit]:
                return False
        else:
            start, end = question.data_period
            first, last = SIDE_WINDOW.unpack_from(block, word * 4 + SIDE_COUNTS.size)
            if not (first <= start and end <= last if permit else start < last and first < end):
                return False
    if resources:
        references = question.resources
        if references is None:
            return opens[permit]
        limit = decode_side(block, word).resources
        return references <= limit if permit else not references.isdisjoint(limit)
    return True


def tally(
    value: bytes | None,
    question: PackedQuestion,
    rules: CompiledRules,
    now_ms: int,
    *,
    opens: Opens,
    newest_first: bool,
) -> Tally:
    """Hold the question against the realm's rules and every lineage of a value."""
    found = Tally()
    if not question.categories:
        return found
    for layer, applicable in (
        (STATUTE, rules.by_purpose.get(question.purpose, ())),
        (BREAK_GLASS, rules.break_glass if question.break_glass else ()),
    ):
        for row, where in applicable:
            mask = matches(row, rules.block, question, opens)
            if mask and found.in_time(row[4], row[5], now_ms):
                found.say(layer, PERMITS if row[9] & PERMIT else DENIES, mask, NO_IDS, where)
    lineages = members(value, question.version)
    for member in reversed(list(lineages)) if newest_first else lineages:
        root = member.rows[0]
        if member.readable:
            _tally_tree(found, member, question, now_ms, opens)
        elif _unreadable_meets(root, member.block, question) and found.in_time(root[4], root[5], now_ms):
            found.say(member.layer, UNKNOWNS, question.categories, member.ids)
        policy = member.flags >> POLICY_SHIFT
        if policy and found.in_time(root[4], root[5], now_ms):
            found.selected = True
            permits, denies = policy_masks(policy, question, rules, selected=True)
            found.say(IMPLICIT, PERMITS, 0 if member.flags & PAUSED else permits, member.ids)
            found.say(IMPLICIT, DENIES, denies, member.ids)
    if not found.selected:
        permits, denies = policy_masks(rules.implicit_policy, question, rules, selected=False)
        found.say(IMPLICIT, PERMITS, permits)
        found.say(IMPLICIT, DENIES, denies)
    return found


def _unreadable_meets(root: Fields, block: bytes, question: PackedQuestion) -> bool:
    """Hold what needs no vocabulary against the question, as a deny would: the participants."""
    if root[9] & SIDE:
        return _side_meets(root, block, question, question.deny_actors)
    return root[0] in question.deny_actors and root[1] in question.holders


def _tally_tree(found: Tally, member: Member, question: PackedQuestion, now_ms: int, opens: Opens) -> None:
    """Work out what one lineage is worth, children before parents, and note the nodes that made it so."""
    paused = member.flags & PAUSED
    rows = member.rows
    if len(rows) == 1:
        row = rows[0]
        permit = row[9] & PERMIT
        if not (paused and permit):
            fresh = matches(row, member.block, question, opens)
            if fresh and found.in_time(row[4], row[5], now_ms):
                found.say(member.layer, PERMITS if permit else DENIES, fresh, member.ids)
        return
    permitted = [0] * (MAX_DEPTH + 1)
    denied = [0] * (MAX_DEPTH + 1)
    own: list[tuple[int, int, int]] = []
    for row in reversed(rows):
        depth = row[10]
        inner = depth + 1
        permits, denies = permitted[inner], denied[inner]
        permitted[inner] = denied[inner] = 0
        permit = row[9] & PERMIT
        if not (paused and permit):
            fresh = matches(row, member.block, question, opens)
            if fresh and found.in_time(row[4], row[5], now_ms):
                fresh &= ~(permits | denies)
                if permit:
                    permits |= fresh
                else:
                    denies |= fresh
                if fresh:
                    own.append((row[11], PERMITS if permit else DENIES, fresh))
        permitted[depth] |= permits & ~denies
        denied[depth] |= denies
    for node, kind, fresh in reversed(own):
        worth = fresh if kind == DENIES else fresh & permitted[0]
        if worth:
            where = path([row[10] for row in rows], node) if node else ""
            found.say(member.layer, kind, worth, member.ids, where)


def policy_masks(policy: int, question: PackedQuestion, rules: CompiledRules, *, selected: bool) -> tuple[int, int]:
    """Return what an implicit policy permits and denies of the categories asked for (rule 1, IHE PCF 1.1).

    The realm's Policy-deny says nothing: where nobody spoke the answer is NO_CONSENT. Selected by a consent it is
    somebody's word, and denies. Policy-break-glass-only denies all but BTG either way.
    """
    purposes, categories = rules.policies[policy]
    if purposes & question.purpose:
        return categories & question.categories, 0
    if policy == ImplicitPolicy.BREAK_GLASS_ONLY or (policy == ImplicitPolicy.DENY and selected):
        return 0, question.categories
    return 0, 0
