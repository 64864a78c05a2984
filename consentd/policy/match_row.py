"""Match a question with one row (a provision or a rule): codes, participants, labels and level, resources, data period.

A question asks for the data of leaf categories, and may ask for only some of these data: with certain labels, a level,
resources or a data period. A row may limit the same four properties. A permit matches if all the data asked for are
inside the limits; a deny matches if some of the data are inside. What a row without labels or level covers follows
from the labels and levels of the categories (rule 9).

A question may leave a property open (rule 5). The *case* determines which limits on that property match. A row is
matched in two steps, because a question may be answered for several cases: ``RowMatcher`` compares what does not depend
on the case, and ``Fits`` the rest.
"""

from typing import Final, NamedTuple

from consentd.policy.codebook import AskedLeaves, PackedQuestion
from consentd.policy.rows import (
    GROUP,
    LEVEL_SHIFT,
    NORMAL,
    PERMIT,
    SIDE,
    Fields,
    Record,
    unpack_shape,
)
from consentd.policy.side_blocks import NO_RECORD, Limits, group_counts
from consentd.policy.vocabulary import HIGHEST_LEVEL, Sensitivity


class Case(NamedTuple):
    """How limits on a property match that the question leaves open.

    Attributes:
        deny_fits: whether a limit in a deny matches. Without it, a deny still matches data that have the label or the
            level by their category.
        permit_fits: whether a limit on labels, resources or data period in a permit matches.
        is_strict: whether a permit must cover all labels and all levels that the data may have. Without it, the data
            have those of their category.
    """

    deny_fits: bool
    permit_fits: bool
    is_strict: bool


STATED_CASE: Final = Case(deny_fits=True, permit_fits=False, is_strict=False)
"""For a caller that checks no conditions."""

WORST_CASE: Final = Case(deny_fits=True, permit_fits=False, is_strict=True)
BEST_CASE: Final = Case(deny_fits=False, permit_fits=True, is_strict=False)
EITHER_CASE: Final = Case(deny_fits=True, permit_fits=True, is_strict=False)
"""Every row matches that matches in one of the two cases, or matches a single resource."""

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
    """How rows match a question that differ only in their side records and their places in a tree.

    A person may have thousands of rows, and most of them have one of few shapes. So the fields of a shape are compared
    with the question once.

    Attributes:
        row: one of the rows; its side record and its place are not those of the others.
        mask: the leaves asked for that such a row may match; 0: it never does.
        key: see ``KEY_SHIFT``.
        kind: PERMITS, DENIES or UNKNOWNS.
        is_party: whether the row's own actor and holder match.
        first_by, last_from: a data period fits if it starts and ends so; 0 if the question leaves the period open.
        has_side, has_group: flags of the rows.
        is_partial: whether ``RowMatcher.limit`` must compare the rest of each row: side record, or groups.
    """

    __slots__ = (
        "_ending", "_others", "first_by", "has_group", "has_side", "is_partial", "is_party", "key", "kind",
        "last_from", "mask", "row",
    )  # fmt: skip

    def __init__(
        self, row: Fields, mask: int, key: int, *, is_party: bool, first_by: int = 0, last_from: int = 0
    ) -> None:
        self.row: Final = row
        self.mask: Final = mask
        self.key: Final = key
        self.kind: Final = PERMITS if key & PERMIT else UNKNOWNS if key & UNKNOWN else DENIES
        self.is_party: Final = is_party
        self.first_by: Final = first_by
        self.last_from: Final = last_from
        self.has_side: Final = row[9] & SIDE
        self.has_group: Final = row[9] & GROUP
        self.is_partial: Final = row[9] & (SIDE | GROUP)
        self._others: dict[int, Shape] = {}
        self._ending: dict[int, Shape] = {}

    def with_key(self, key: int) -> "Shape":
        """Return the shape of those of the rows that have another *key*, because of their side records."""
        found = self._others.get(key)
        if found is None:
            found = self._others[key] = Shape(self.row, self.mask, key, is_party=self.is_party)
        return found

    def with_end(self, end_ms: int) -> "Shape":
        """Return the shape of those of the rows that end at *end_ms* for this purpose; NEVER: before they begin."""
        found = self._ending.get(end_ms)
        if found is None:
            row = (*self.row[:5], end_ms, *self.row[6:])
            found = NEVER
            if row[4] < end_ms:
                found = Shape(
                    row, self.mask, self.key, is_party=self.is_party, first_by=self.first_by, last_from=self.last_from
                )
            self._ending[end_ms] = found
        return found


NEVER: Final = Shape((0,) * 13, 0, 0, is_party=False)
"""The shape of rows that do not match."""


class RowMatcher(dict[tuple[bytes, bytes], Shape]):
    """Compares a question with rows, as far as that does not depend on the case.

    What ``ROW_SHAPE`` unpacks → the shape. A shape is computed when a row is the first to have it.
    """

    __slots__ = ("_data_period", "_now_ms", "_parties", "_question", "_resources")

    def __init__(self, question: PackedQuestion, now_ms: int) -> None:
        super().__init__()
        self._question: Final = question
        self._parties: Final = question.parties
        self._now_ms: Final = now_ms
        self._data_period: Final = question.data_period
        self._resources: Final = question.resources

    def __missing__(self, fields: tuple[bytes, bytes]) -> Shape:
        shape = self[fields] = self.shape_of(unpack_shape(fields))
        return shape

    def shape_of(self, row: Fields) -> Shape:
        """Return the shape of a row; NEVER: its fields do not match, or it has ended."""
        actor, holder, purposes, categories, _, end_ms, labels, actions, _, flags, _, _, _ = row
        if end_ms <= self._now_ms:
            return NEVER
        question, parties = self._question, self._parties
        if flags & PERMIT:
            mask = categories & question.categories
            if not (mask and purposes & question.purpose and actions & question.action):
                return NEVER
            actors = parties.permit_actors
        else:
            leaves = question.leaves
            if not (
                categories & leaves.deny_mask
                and purposes & question.deny_purposes
                and actions & question.deny_actions
            ):
                return NEVER
            mask = denied_leaves(categories, leaves)
            actors = parties.deny_actors
        is_party = actor in actors and holder in parties.holders
        if not (is_party or flags & (SIDE | GROUP)):
            return NEVER
        key, first_by, last_from = labels << KEY_SHIFT | flags & ~(SIDE | GROUP), 0, 0
        if self._data_period is not None:
            start, end = self._data_period
            # The period of a permit has all that is asked for; that of a deny has some of it. Windows are half-open.
            first_by, last_from = (start, end) if flags & PERMIT else (end - 1, start + 1)
        return Shape(row, mask, key, is_party=is_party, first_by=first_by, last_from=last_from)

    def match(self, row: Fields, block: Limits, since: int) -> Shape:
        """Return the shape of a row, after its side record and its groups were compared too; NEVER: no match.

        *block* is the side block. It has the row's side record, if the row has flag SIDE. *since* is the leaf index of
        the entry of the consent or of the rules.
        """
        shape = self.shape_of(row)
        if not shape.is_partial:
            return shape
        record = block.record(block.first + row[8]) if shape.has_side else NO_RECORD
        return self.limit(shape, record, block, since)

    def limit(self, shape: Shape, record: Record, block: Limits, since: int) -> Shape:
        """Compare what is not in a row's *shape*; return its shape then, or NEVER if the row does not match.

        *record*: the row's side record; ignored if the row has none.
        """
        lists, more, ends, first, last = record if shape.has_side else NO_RECORD
        if lists or not shape.is_party:
            is_plain = not (lists or shape.has_group)
            if is_plain or not self._participants_match(shape.row, shape.key & PERMIT, block, since, lists):
                return NEVER
        if ends:
            shape = self._ending(shape, block, ends)
        if not more or shape is NEVER:
            return shape
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
        return shape if key == shape.key else shape.with_key(key)

    def _ending(self, shape: Shape, block: Limits, word: int) -> Shape:
        """Return the shape of a row that ends earlier for some purposes, by the list at *word*; NEVER: it has ended."""
        asked, row = self._question.purpose, shape.row
        end_ms = min((end for purposes, end in block.ends(word) if purposes & asked), default=row[5])
        if end_ms >= row[5]:
            return shape
        return shape.with_end(end_ms) if end_ms > self._now_ms else NEVER

    def match_unreadable(self, row: Fields, block: Limits, since: int) -> Shape:
        """Return the shape of an unreadable consent. Its participants alone are compared, as those of a deny."""
        lists = block.numbers[block.first + row[8]] if row[9] & SIDE else 0
        if not self._participants_match(row, 0, block, since, lists):
            return NEVER
        return Shape(row, self._question.categories, UNKNOWN, is_party=True)

    def _participants_match(self, row: Fields, permit: int, block: Limits, since: int, lists: int) -> bool:
        """Return whether the actors and the holders of a row match.

        *lists*: the words of the lists of actors (lower half) and of holders; 0: the row's own field.
        """
        many_actors, many_holders, parties = lists & 0xFFFF, lists >> 16, self._parties
        if permit:
            asked, groups = parties.permit_actors, parties.permit_groups
        else:
            asked, groups = parties.deny_actors, parties.deny_groups
        if many_actors:
            if not block.names(many_actors, asked, groups, permit, since):
                return False
        elif row[0] not in asked and not group_counts(row[0], groups, permit, since):
            return False
        if many_holders:
            return block.names(many_holders, parties.holders, parties.holder_groups, permit + 2, since)
        return row[1] in parties.holders or group_counts(row[1], parties.holder_groups, permit, since)


class Fits(dict[int, int]):
    """Key of a row → the leaves asked for whose labels and level meet the row, in one case.

    *normal_level*: number of the realm's normal level. Most rows of a person have one of few keys, so the masks are
    computed when they are asked for.
    """

    __slots__ = ("_case", "_normal_level", "_question")

    def __init__(self, question: PackedQuestion, case: Case, normal_level: int) -> None:
        super().__init__()
        self._question: Final = question
        self._case: Final = case
        self._normal_level: Final = normal_level

    def __missing__(self, key: int) -> int:
        if key & UNKNOWN:
            mask = self._question.categories
        elif key & IS_OPEN and not (self._case.permit_fits if key & PERMIT else self._case.deny_fits):
            mask = 0
        else:
            fits = self._permit_fits if key & PERMIT else self._deny_fits
            mask = sum(one.leaves for one in self._question.leaves.sensitivities if fits(one, key))
        self[key] = mask
        return mask

    def _permit_fits(self, data: Sensitivity, key: int) -> bool:
        question, case, labels = self._question, self._case, key >> KEY_SHIFT
        top = top_level(key, data.level, self._normal_level)
        if question.level:
            if question.level_of(data.level) > top:
                return False
        elif top < (HIGHEST_LEVEL if case.is_strict else data.level):
            return False
        stated = question.labels
        if key & NORMAL:
            return not labels and (not case.is_strict if stated is None else not stated[0])
        if stated is None:
            if case.is_strict and not key & NAMES_RESOURCES:
                return False
            return case.permit_fits or not labels or bool(labels & data.labels)
        if stated[0] & ~(labels | data.labels) and not key & NAMES_RESOURCES:
            return False
        return not labels or bool(labels & (stated[0] | data.labels))

    def _deny_fits(self, data: Sensitivity, key: int) -> bool:
        question, open_fits, labels = self._question, self._case.deny_fits, key >> KEY_SHIFT
        level = level_of(key)
        if level:
            if question.level:
                if question.level_of(data.level) < level:
                    return False
            elif not open_fits and data.level < level:
                return False
        if not labels:
            return True
        stated = question.labels
        if stated is None:
            return open_fits or bool(labels & data.labels_above)
        return bool(labels & (stated[1] | data.labels_above))


def denied_leaves(categories: int, asked: AskedLeaves) -> int:
    """Return the leaves asked for that the categories of a deny cover: they are named, or below one that is named."""
    mask = categories & asked.mask
    if mask != asked.mask:
        for bit, leaves in asked.parents:
            if categories & bit:
                mask |= leaves
    return mask


def top_level(flags: int, default: int, normal_level: int) -> int:
    """Return the highest level that a permit covers, of data whose category has this default level (rules 1 and 9)."""
    level = level_of(flags)
    return min(level, normal_level) if flags & NORMAL else level or default


def level_of(flags: int) -> int:
    """Return the number of the level that a row names, given its flags or its key; 0: it names none."""
    return flags >> LEVEL_SHIFT & 7
