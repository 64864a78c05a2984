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
from typing import Final

from consentd.policy.codebook import NO_GROUPS, AskedLeaves, PackedQuestion
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
from consentd.policy.shapes import (
    IS_OPEN,
    KEY_SHIFT,
    NAMES_RESOURCES,
    NEVER,
    PERMITS,
    UNKNOWN,
    UNKNOWNS,
    Node,
    Shape,
    UsedUp,
)
from consentd.policy.side_blocks import FEW, HOLDERS, NO_RECORD, Limits, group_counts


class RowMatcher(dict[tuple[bytes, bytes, bytes], Shape]):
    """Compares a question with rows, as far as that does not depend on the case.

    What ``ROW_SHAPE`` unpacks → the shape; NEVER: the codes do not match. A shape is made when a row is the first to
    have it.

    Attributes:
        recurrence: that of the last permit that matched a question about a transfer; None: none did. *used_up*: the
            permits that do not count. The caller, who knows which consent it is, resets both.
    """

    __slots__ = (
        "_data_period", "_deny_actors", "_holder", "_made", "_parties", "_question", "_resources", "now_ms",
        "recurrence", "used_up",
    )  # fmt: skip

    def __init__(self, question: PackedQuestion, now_ms: int) -> None:
        super().__init__()
        self._question: Final = question
        self._parties: Final = question.parties
        parties = question.parties
        is_same = parties.deny_actors == parties.permit_actors
        self._deny_actors: Final = parties.permit_actors if is_same else parties.deny_actors
        self.now_ms: Final = now_ms
        self._data_period: Final = question.data_period
        self._resources: Final = question.resources
        self._holder: Final = question.transfer_holder
        self._made: Final[dict[tuple[int, int, int], Shape]] = {}
        self.recurrence: Recurrence | None = None
        self.used_up: list[UsedUp] = []

    def __missing__(self, fields: tuple[bytes, bytes, bytes]) -> Shape:
        purposes, categories, labels, actions, flags = unpack_shape(fields)
        question = self._question
        mask = 0
        if flags & PERMIT:
            if purposes & question.purpose and actions & question.action:
                mask = categories & question.categories
        elif purposes & question.deny_purposes and actions & question.deny_actions:
            leaves = question.leaves
            if categories & leaves.deny_mask:
                mask = denied_leaves(categories, leaves)
        if not mask:
            self[fields] = NEVER
            return NEVER
        # Rows with other codes have the same shape if they are the same to this question.
        asked = mask, labels, flags & ~SIDE
        shape = self._made.get(asked)
        if shape is None:
            shape = self._made[asked] = self._shape_of(*asked)
        self[fields] = shape
        return shape

    def _shape_of(self, mask: int, labels: int, flags: int) -> Shape:
        """Return the shape of rows whose codes match the leaves in *mask*."""
        parties = self._parties
        first_by = last_from = 0
        if self._data_period is not None:
            start, end = self._data_period
            # The period of a permit has all that is asked for; that of a deny has some of it. Windows are half-open.
            first_by, last_from = (start, end) if flags & PERMIT else (end - 1, start + 1)
        groups = parties.permit_groups if flags & PERMIT else parties.deny_groups
        return Shape(
            mask,
            labels << KEY_SHIFT | flags & ~GROUP,
            actors=parties.permit_actors if flags & PERMIT else self._deny_actors,
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
            if not participants_match(shape, rest, lists, block, since):
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
        self, shapes: Iterable[Shape], rests: Iterable[Rest], block: Limits, since: int
    ) -> tuple[list[Node], int]:
        """Return the nodes of those rows of a tree that match, and when the first of these ends.

        The time is 0 unless all rows match with the given shapes, and are in force: otherwise the shapes do not
        determine what the tree says. The arguments are as for ``node``.

        The rows of a tree often name the same participants, so these are compared once; and few rows have ends or
        resources, so for the others the loop itself does what ``node`` does.
        """
        found: list[Node] = []
        add, now_ms = found.append, self.now_ms
        changes_ms, is_whole = OPEN_END_MS, True
        compared, actors, word, record = 0, NEVER.actors, -1, NO_RECORD
        for shape, rest in zip(shapes, rests, strict=True):
            actor, holder, start_ms, end_ms, side, flags, _, _ = rest
            if shape is NEVER or end_ms <= now_ms:
                is_whole = False
                continue
            if not flags & SIDE:
                word, record = -1, NO_RECORD
            elif side != word:
                word, record = side, block.record(side)
            lists, more, ends, _, _ = record
            if ends or more & 0xFFFF or flags & GROUP:
                is_whole = False
                node = self.node(shape, rest, record, block, since)
                if node:
                    add(node)
                continue
            if lists:
                if lists != compared or shape.actors is not actors:
                    if not participants_match(shape, rest, lists, block, since):
                        is_whole = False
                        continue
                    # Only with both lists, the row's own fields do not count.
                    compared, actors = lists if lists & 0xFFFF and lists >> 16 else 0, shape.actors
            elif actor not in shape.actors or holder not in shape.holders:
                is_whole = False
                continue
            if more:
                is_whole = False
                shape = self.in_period(shape, record)
                if shape is NEVER:
                    continue
            if start_ms > now_ms:
                is_whole = False
            elif end_ms < changes_ms:
                changes_ms = end_ms
            add((shape, rest))
        return found, changes_ms if is_whole else 0

    def in_period(self, shape: Shape, record: Record) -> Shape:
        """Compare the limit on the data period in a side record; return the shape then, or NEVER."""
        if self._data_period is None:
            return shape.with_key(shape.key | IS_OPEN)
        _, _, _, first, last = record
        return NEVER if first > shape.first_by or last < shape.last_from else shape

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
        more, key = record[1], shape.key
        if more >> 16:
            found = self.in_period(shape, record)
            if found is NEVER:
                return NEVER
            key = found.key
        resources = more & 0xFFFF
        if resources:
            key |= NAMES_RESOURCES
            if self._resources is None:
                key |= IS_OPEN
            elif not block.covers(resources, self._resources, key & PERMIT):
                return NEVER
        return shape if key == shape.key else shape.with_key(key)


def participants_match(shape: Shape, rest: Rest, lists: int, block: Limits, since: int) -> bool:
    """Return whether the actors and the holders of a row match, which may have lists or groups.

    Args:
        lists: the words of the lists of actors (lower half) and of holders; 0: the row's own field.
        block: the side block with the lists.
        since: the leaf index of the entry of the consent or of the rules.
    """
    permit, groups, many = shape.key & PERMIT, shape.actor_groups, lists & 0xFFFF
    if many:
        words, at = block.numbers, block.first + many + 1
        count = words[at - 1]
        if count > FEW:
            if not block.names(at, shape.actors, groups, permit, since):
                return False
        else:
            named = words[at : at + count]
            if shape.actors.isdisjoint(named) and not (groups and group_counts(named, groups, permit, since)):
                return False
    elif rest[0] not in shape.actors and not group_counts((rest[0],), groups, permit, since):
        return False
    groups, many = shape.holder_groups, lists >> 16
    if many:
        words, at = block.numbers, block.first + many + 1
        count = words[at - 1]
        if count > FEW:
            return block.names(at, shape.holders, groups, permit | HOLDERS, since)
        named = words[at : at + count]
        return not shape.holders.isdisjoint(named) or (bool(groups) and group_counts(named, groups, permit, since))
    return rest[1] in shape.holders or group_counts((rest[1],), groups, permit, since)


def denied_leaves(categories: int, asked: AskedLeaves) -> int:
    """Return the leaves asked for that the categories of a deny cover: they are named, or below one that is named."""
    mask = categories & asked.mask
    if mask != asked.mask:
        for bit, leaves in asked.parents:
            if categories & bit:
                mask |= leaves
    return mask
