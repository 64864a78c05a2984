"""Match a question with one row (a provision or a rule): codes, participants, labels and level, resources, data period.

A question asks for the data of leaf categories, and may ask for only some of these data: with certain labels, a level,
resources or a data period. A row may limit the same four properties. A permit matches if all the data asked for are
inside the limits; a deny matches if some of the data are inside. What a row without labels or level covers follows
from the labels and levels of the categories (rule 9).

A question may leave a property open (rule 5). The *case* determines which limits on that property match. A row is
matched in two steps, because a question may be answered for several cases: ``RowMatcher`` compares what does not depend
on the case, and ``fits.Fits`` the rest.

If the question is about a transfer, a permit of a consent that recurs does not match categories that are used up in the
present period (rule 13). ``RowMatcher`` keeps such rows apart.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from consentd.policy.codebook import NO_GROUPS, AskedLeaves, Groups, Numbers, PackedQuestion
from consentd.policy.model import OPEN_END_MS
from consentd.policy.recurrence import Recurrence
from consentd.policy.rows import (
    GROUP,
    PERMIT,
    ROW,
    ROW_REST,
    ROW_SHAPE,
    SIDE,
    USES_SHIFT,
    Record,
    Rest,
    Row,
    rest_until,
    unpack_shape,
)
from consentd.policy.side_blocks import FEW, HOLDERS, NO_RECORD, Limits, group_counts

NAMES_RESOURCES: Final = SIDE
UNKNOWN: Final = GROUP
IS_OPEN: Final = 1 << 7
KEY_SHIFT: Final = 8
"""A *key* says how a row matches: the flags PERMIT and NORMAL, and the level, as in a row; NAMES_RESOURCES; UNKNOWN:
the row is that of an unreadable consent; IS_OPEN: the row limits resources or data period, and the question leaves them
open. From bit 8 on it has the labels that the row names."""

PERMITS: Final = 0
DENIES: Final = 1
UNKNOWNS: Final = 2


class Shape:
    """How rows match a question that have the same codes, labels, level and effect.

    A person may have thousands of rows, and most of them have one of few shapes. So the fields of a shape are compared
    with the question once. The other fields of a row are compared by ``RowMatcher.node``.

    Attributes:
        mask: the leaves asked for that such a row may match; 0: it never does.
        key: see ``KEY_SHIFT``.
        kind: PERMITS, DENIES or UNKNOWNS.
        actors, holders: the numbers with which such a row matches the participants.
        actor_groups, holder_groups: the groups with which it does; none, if the rows name no group.
        first_by, last_from: a data period fits if it starts and ends so; 0 if the question leaves the period open.
        others: key → the shape of those of the rows that have this key instead, because of their side records.
        count, until_ms: how many consents of one row in force have this shape so far, and their earliest end.
    """

    __slots__ = (
        "actor_groups", "actors", "count", "first_by", "holder_groups", "holders", "key", "kind", "last_from", "mask",
        "others", "until_ms",
    )  # fmt: skip

    def __init__(
        self, mask: int, key: int, *, actors: Numbers, holders: Numbers, actor_groups: Groups = NO_GROUPS,
        holder_groups: Groups = NO_GROUPS, first_by: int = 0, last_from: int = 0,
    ) -> None:  # fmt: skip
        self.mask: Final = mask
        self.key: Final = key
        self.kind: Final = PERMITS if key & PERMIT else UNKNOWNS if key & UNKNOWN else DENIES
        self.actors: Final = actors
        self.holders: Final = holders
        self.actor_groups: Final = actor_groups
        self.holder_groups: Final = holder_groups
        self.first_by: Final = first_by
        self.last_from: Final = last_from
        self.count = 0
        self.until_ms = OPEN_END_MS
        self.others: Final[dict[int, Shape]] = {}

    def see(self, rest: Rest, now_ms: int) -> None:
        """Count a consent whose only row has this shape, if it is in force."""
        if rest[2] <= now_ms:
            self.count += 1
            if rest[3] < self.until_ms:
                self.until_ms = rest[3]

    def has_seen(self, rest: Rest, now_ms: int) -> bool:
        """Return whether a row is in force, and ends no earlier than one that was counted."""
        return rest[2] <= now_ms and self.until_ms <= rest[3]

    def with_key(self, key: int) -> "Shape":
        """Make the shape of those of the rows that have another *key*, because of their side records."""
        self.others[key] = shape = Shape(self.mask, key, actors=self.actors, holders=self.holders)
        return shape


    def without(self, mask: int) -> "Shape":
        """Make the shape of those of the rows whose side records say that the categories in *mask* are used up."""
        return Shape(self.mask & ~mask, self.key, actors=self.actors, holders=self.holders)


NEVER: Final = Shape(0, 0, actors=frozenset(), holders=frozenset())
"""The shape of rows that do not match."""

Node = tuple[Shape, Rest]
"""A row that matches a question, at least if some limits on what the question leaves open are met. It may start later,
and has not ended. A node is no class, because that takes longer, and a person may have thousands."""


class UsedUp(NamedTuple):
    """A permit that does not count for some categories, because the transfers of the present period were permitted.

    Attributes:
        mask: these categories, as far as they are asked for and the row covers them. *key*: see ``KEY_SHIFT``.
        start_ms, end_ms: the window of the row. *until_ms*: the end of the period.
        node: the index of the row in its tree.
    """

    mask: int
    key: int
    start_ms: int
    end_ms: int
    until_ms: int
    node: int


class RowMatcher(dict[tuple[bytes, bytes, bytes], Shape]):
    """Compares a question with rows, as far as that does not depend on the case.

    What ``ROW_SHAPE`` unpacks → the shape. A shape is computed when a row is the first to have it.

    Attributes:
        recurrence: that of the last permit that matched a question about a transfer; None: none did. *used_up*: the
            permits that do not count. The caller, who knows which consent it is, resets both.
    """

    __slots__ = ("_data_period", "_holder", "_parties", "_question", "_resources", "now_ms", "recurrence", "used_up")

    def __init__(self, question: PackedQuestion, now_ms: int) -> None:
        super().__init__()
        self._question: Final = question
        self._parties: Final = question.parties
        self.now_ms: Final = now_ms
        self._data_period: Final = question.data_period
        self._resources: Final = question.resources
        self._holder: Final = question.transfer_holder
        self.recurrence: Recurrence | None = None
        self.used_up: list[UsedUp] = []

    def __missing__(self, fields: tuple[bytes, bytes, bytes]) -> Shape:
        shape = self[fields] = self._shape_of(*unpack_shape(fields))
        return shape

    def _shape_of(self, purposes: int, categories: int, labels: int, actions: int, flags: int) -> Shape:
        """Return the shape of rows with these fields; NEVER: their codes do not match."""
        question, parties = self._question, self._parties
        if flags & PERMIT:
            mask = categories & question.categories
            if not (mask and purposes & question.purpose and actions & question.action):
                return NEVER
            actors, groups = parties.permit_actors, parties.permit_groups
        else:
            leaves = question.leaves
            if not (
                categories & leaves.deny_mask
                and purposes & question.deny_purposes
                and actions & question.deny_actions
            ):
                return NEVER
            mask = denied_leaves(categories, leaves)
            actors, groups = parties.deny_actors, parties.deny_groups
        first_by = last_from = 0
        if self._data_period is not None:
            start, end = self._data_period
            # The period of a permit has all that is asked for; that of a deny has some of it. Windows are half-open.
            first_by, last_from = (start, end) if flags & PERMIT else (end - 1, start + 1)
        return Shape(
            mask,
            labels << KEY_SHIFT | flags & ~(SIDE | GROUP),
            actors=actors,
            holders=parties.holders,
            actor_groups=groups if flags & GROUP else NO_GROUPS,
            holder_groups=parties.holder_groups if flags & GROUP else NO_GROUPS,
            first_by=first_by,
            last_from=last_from,
        )

    def unreadable(self) -> Shape:
        """Return the shape of an unreadable consent. Its participants alone are compared, as those of a deny."""
        parties = self._parties
        return Shape(
            self._question.categories,
            UNKNOWN,
            actors=parties.deny_actors,
            holders=parties.holders,
            actor_groups=parties.deny_groups,
            holder_groups=parties.holder_groups,
        )

    def match(self, row: Row, block: Limits, since: int) -> Node | None:
        """Return the node of a row of the realm's rules; None: it does not match.

        *block*: the side block of the rules. *since*: the leaf index of the entry of the rules.
        """
        packed = ROW.pack(*row)
        shape = self[ROW_SHAPE.unpack(packed)]
        record = block.record(row.side) if row.flags & SIDE else NO_RECORD
        return None if shape is NEVER else self.node(shape, ROW_REST.unpack(packed), record, block, since)

    def node(self, shape: Shape, rest: Rest, record: Record, block: Limits, since: int) -> Node | None:
        """Return the node of a row, whose *shape* is not NEVER; None: its other fields do not match, or it has ended.

        *record*: the row's side record; ignored if the row has none. *block*: the side block with its lists. *since*:
        the leaf index of the entry of the consent or of the rules.
        """
        actor, holder, _, end_ms, _, flags, _, _ = rest
        if end_ms <= self.now_ms:
            return None
        lists, more, ends, _, _ = record if flags & SIDE else NO_RECORD
        if lists or flags & GROUP:
            if not self._participants_match(shape, rest, lists, block, since):
                return None
        elif actor not in shape.actors or holder not in shape.holders:
            return None
        if more and shape.kind != UNKNOWNS:
            shape = self._limited(shape, record, block)
            if shape is NEVER:
                return None
        if ends and shape.kind != UNKNOWNS:
            ending = self._ending(rest, block, ends & 0xFFFF)
            if ending is None:
                return None
            if ends >> USES_SHIFT and self._holder and shape.kind == PERMITS:
                return self._unused(shape, ending, block.recurrence(ends >> USES_SHIFT))
            return shape, ending
        return shape, rest

    def nodes(
        self, shapes: Iterable[Shape], rests: Iterable[Rest], records: Iterable[Record], block: Limits, since: int
    ) -> list[Node | None]:
        """Return the node of each row of a consent; None: it does not match. The arguments are as for ``node``.

        Most rows of large consents have no lists, so for these the loop itself does what ``node`` does.
        """
        found: list[Node | None] = []
        add, now_ms, data_period = found.append, self.now_ms, self._data_period
        for shape, rest, record in zip(shapes, rests, records, strict=True):
            actor, holder, _, end_ms, _, flags, _, _ = rest
            lists, more, ends, first, last = record if flags & SIDE else NO_RECORD
            if shape is NEVER:
                add(None)
            elif lists or ends or more & 0xFFFF or flags & GROUP:
                add(self.node(shape, rest, record, block, since))
            elif end_ms <= now_ms or actor not in shape.actors or holder not in shape.holders:
                add(None)
            elif not more:
                add((shape, rest))
            elif data_period is None:
                key = shape.key | IS_OPEN
                add((shape.others.get(key) or shape.with_key(key), rest))
            else:
                add(None if first > shape.first_by or last < shape.last_from else (shape, rest))
        return found

    def _ending(self, rest: Rest, block: Limits, word: int) -> Rest | None:
        """Return the fields of a row that ends earlier for some purposes, by the list at *word*, with the end that
        counts; None: it has ended, or it ends before it begins.
        """
        if not word:
            return rest
        asked = self._question.purpose
        end_ms = min((end for purposes, end in block.ends(word) if purposes & asked), default=rest[3])
        ending = rest_until(rest, end_ms)
        return None if ending[3] <= self.now_ms else ending

    def _unused(self, shape: Shape, rest: Rest, recurrence: Recurrence) -> Node | None:
        """Return the node of a permit of a consent that recurs; None: it is used up for all that it covers."""
        self.recurrence = recurrence
        used, until_ms = recurrence.used(self._holder, self.now_ms)
        used &= shape.mask
        if not used:
            return shape, rest
        self.used_up.append(UsedUp(used, shape.key, rest[2], rest[3], until_ms, rest[6]))
        left = shape.without(used)
        return (left, rest) if left.mask else None

    def _limited(self, shape: Shape, record: Record, block: Limits) -> Shape:
        """Compare the limits on the data period and on resources in a side record; return the shape then, or NEVER."""
        _, more, _, first, last = record
        key = shape.key
        if more >> 16:
            if self._data_period is None:
                key |= IS_OPEN
            elif first > shape.first_by or last < shape.last_from:
                return NEVER
        resources = more & 0xFFFF
        if resources:
            key |= NAMES_RESOURCES
            if self._resources is None:
                key |= IS_OPEN
            elif not block.covers(resources, self._resources, key & PERMIT):
                return NEVER
        return shape if key == shape.key else shape.others.get(key) or shape.with_key(key)

    def _participants_match(self, shape: Shape, rest: Rest, lists: int, block: Limits, since: int) -> bool:
        """Return whether the actors and the holders of a row match, which may have lists or groups.

        *lists*: the words of the lists of actors (lower half) and of holders; 0: the row's own field.
        """
        permit, groups, many = shape.key & PERMIT, shape.actor_groups, lists & 0xFFFF
        if many:
            words, at = block.numbers, block.first + many + 1
            count = words[at - 1]
            if groups or count > FEW:
                if not block.names(at, shape.actors, groups, permit, since):
                    return False
            elif shape.actors.isdisjoint(words[at : at + count]):
                return False
        elif rest[0] not in shape.actors and not group_counts(rest[0], groups, permit, since):
            return False
        groups, many = shape.holder_groups, lists >> 16
        if many:
            words, at = block.numbers, block.first + many + 1
            count = words[at - 1]
            if groups or count > FEW:
                return block.names(at, shape.holders, groups, permit | HOLDERS, since)
            return not shape.holders.isdisjoint(words[at : at + count])
        return rest[1] in shape.holders or group_counts(rest[1], groups, permit, since)


def denied_leaves(categories: int, asked: AskedLeaves) -> int:
    """Return the leaves asked for that the categories of a deny cover: they are named, or below one that is named."""
    mask = categories & asked.mask
    if mask != asked.mask:
        for bit, leaves in asked.parents:
            if categories & bit:
                mask |= leaves
    return mask
