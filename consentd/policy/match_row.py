"""Match a question with one row (a provision or a rule): codes, participants, labels and level, resources, data period.

A question asks for the data of leaf categories, and may ask for only some of these data: with certain labels, a level,
resources or a data period. A row may limit the same four properties. A permit matches if all the data asked for are
inside the limits; a deny matches if some of the data are inside. What a row without labels or level covers follows
from the labels and levels of the categories (rule 9).

A question may leave a property open (rule 5). Which limits on that property match, depends on the *case*.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from consentd.policy.codebook import AskedLeaves, Groups, Numbers, PackedQuestion
from consentd.policy.rows import (
    GROUP,
    LEVEL_SHIFT,
    NORMAL,
    PERMIT,
    SIDE,
    SIDE_RECORD,
    SIDE_WINDOW,
    Fields,
    decode_numbers,
    decode_references,
)
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

_RESOURCES: Final = SIDE  # in the keys of ``Matcher``: the row names resources


class Limits:
    """The side block of one consent, or of the realm's rules, for the evaluation of one question.

    Many rows may share a list. So each list is decoded and compared with the question once. *since*: leaf index of the
    entry of the consent or of the rules.
    """

    __slots__ = ("_meets", "block", "since")

    def __init__(self, block: bytes, since: int) -> None:
        self.block = block
        self.since = since
        self._meets: dict[int, bool] = {}  # 8 × the list's word + what it is compared with → the result

    def names(self, word: int, asked: Numbers, groups: Groups, side: int) -> bool:
        """Return whether the list at *word* names one of *asked*, or one of *groups* that counts.

        *side*: 0 to 3, PERMIT for a permit, and 2 more for holders.
        """
        found = self._meets.get(8 * word + side)
        if found is None:
            named = decode_numbers(self.block, word)
            found = not asked.isdisjoint(named) or any(
                number in named and self.counts(number, groups, side & PERMIT) for number in groups
            )
            self._meets[8 * word + side] = found
        return found

    def counts(self, number: int, groups: Groups, permit: int) -> bool:
        """Return whether one of *groups* has this number and counts (rule 10).

        For a permit, a group counts for who was a member when the permit was given; for a deny, for who was a member
        then or has become one since.
        """
        since = self.since
        windows = groups.get(number, ())
        return any(start <= since < end for start, end in windows) if permit else any(end > since for _, end in windows)

    def covers(self, word: int, references: frozenset[str], permit: int) -> bool:
        """Return whether the list at *word* has all references (for a permit), or one of them (for a deny)."""
        found = self._meets.get(8 * word + 4 + permit)
        if found is None:
            limit = decode_references(self.block, word)
            found = references <= limit if permit else not references.isdisjoint(limit)
            self._meets[8 * word + 4 + permit] = found
        return found


class Matcher:
    """A question in one case, as it is compared with many rows. *normal_level*: number of the realm's normal level."""

    __slots__ = ("_fitting", "case", "normal_level", "question")

    def __init__(self, question: PackedQuestion, case: Case, normal_level: int) -> None:
        self.question: Final = question
        self.case: Final = case
        self.normal_level: Final = normal_level
        self._fitting: Final[dict[int, int]] = {}

    def match(self, row: Fields, block: Limits) -> int:
        """Return the mask of the leaves asked for that a row matches if its window is ignored; 0: no match.

        *block* is the side block. It has the row's side record, if the row has flag SIDE.
        """
        actor, holder, purposes, categories, _, _, labels, actions, _, flags, _, _, _ = row
        question = self.question
        if flags & PERMIT:
            mask = categories & question.categories
            if not (mask and purposes & question.purpose and actions & question.action):
                return 0
            actors = question.parties.permit_actors
        else:
            if not (
                categories & question.leaves.deny_mask
                and purposes & question.deny_purposes
                and actions & question.deny_actions
            ):
                return 0
            mask = denied_leaves(categories, question.leaves)
            actors = question.parties.deny_actors
        resources = 0
        if flags & (SIDE | GROUP):
            if not self.participants_match(row, block):
                return 0
            if flags & SIDE:
                _, _, resources, periods, _ = SIDE_RECORD.unpack_from(block.block, row[8] * 4)
                if not self._extent_fits(row, block, resources, periods):
                    return 0
        elif actor not in actors or holder not in question.parties.holders:
            return 0
        return mask & self._fits(labels, flags, resources)

    def participants_match(self, row: Fields, block: Limits) -> bool:
        """Return whether the actors and the holders of a row match."""
        parties, flags = self.question.parties, row[9]
        permit = flags & PERMIT
        actors = parties.permit_actors if permit else parties.deny_actors
        actor_groups = parties.permit_groups if permit else parties.deny_groups
        many_actors = many_holders = 0
        if flags & SIDE:
            many_actors, many_holders, _, _, _ = SIDE_RECORD.unpack_from(block.block, row[8] * 4)
        for number, word, asked, groups, side in (
            (row[0], many_actors, actors, actor_groups, permit),
            (row[1], many_holders, parties.holders, parties.holder_groups, permit + 2),
        ):
            if word:
                if not block.names(word, asked, groups, side):
                    return False
            elif number not in asked and not block.counts(number, groups, permit):
                return False
        return True

    def _extent_fits(self, row: Fields, block: Limits, resources: int, periods: int) -> bool:
        """Return whether the resources and the data period asked for meet the limits of a row's side record."""
        question, permit = self.question, row[9] & PERMIT
        open_fits = self.case.permit_fits if permit else self.case.deny_fits
        if periods:
            if question.data_period is None:
                if not open_fits:
                    return False
            else:
                start, end = question.data_period
                first, last = SIDE_WINDOW.unpack_from(block.block, row[8] * 4 + SIDE_RECORD.size)
                if not (first <= start and end <= last if permit else start < last and first < end):
                    return False
        if resources:
            references = question.resources
            return open_fits if references is None else block.covers(resources, references, permit)
        return True

    def _fits(self, labels: int, flags: int, resources: int) -> int:
        """Return the leaves asked for whose labels and level meet a row. Most rows of a person have one such limit."""
        key = labels << 8 | flags & ~(SIDE | GROUP) | (_RESOURCES if resources else 0)
        mask = self._fitting.get(key)
        if mask is None:
            fits: Callable[[Sensitivity, int, int], bool] = self._permit_fits if flags & PERMIT else self._deny_fits
            mask = sum(one.leaves for one in self.question.leaves.sensitivities if fits(one, labels, key & 0xFF))
            self._fitting[key] = mask
        return mask

    def _permit_fits(self, data: Sensitivity, labels: int, key: int) -> bool:
        question, case = self.question, self.case
        top = top_level(key, data.level, self.normal_level)
        if question.level:
            if question.level_of(data.level) > top:
                return False
        elif top < (HIGHEST_LEVEL if case.is_strict else data.level):
            return False
        stated = question.labels
        if key & NORMAL:
            return not labels and (not case.is_strict if stated is None else not stated[0])
        if stated is None:
            if case.is_strict and not key & _RESOURCES:
                return False
            return case.permit_fits or not labels or bool(labels & data.labels)
        if stated[0] & ~(labels | data.labels) and not key & _RESOURCES:
            return False
        return not labels or bool(labels & (stated[0] | data.labels))

    def _deny_fits(self, data: Sensitivity, labels: int, key: int) -> bool:
        question, open_fits = self.question, self.case.deny_fits
        level = key >> LEVEL_SHIFT
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
    level = flags >> LEVEL_SHIFT
    return min(level, normal_level) if flags & NORMAL else level or default
