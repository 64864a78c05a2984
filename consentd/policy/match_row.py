"""Match a question with one row (a provision or a rule): codes, participants, labels and level, resources, data period.

A question asks for the data of leaf categories, and may ask for only some of these data: with certain labels, a level,
resources or a data period. A row may limit the same four properties. A permit matches if all the data asked for are
inside the limits; a deny matches if some of the data are inside. What a row without labels or level covers follows
from the labels and levels of the categories (rule 9).

A question may leave a property open (rule 5). The *case* determines which limits on that
property match. A row is
matched in two steps, because a question may be answered for several cases: ``RowMatcher`` compares what does not depend
on the case, and ``Fits`` the rest.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from consentd.policy.codebook import AskedLeaves, Groups, Numbers, PackedQuestion
from consentd.policy.rows import (
    GROUP,
    LEVEL_SHIFT,
    NORMAL,
    PERMIT,
    RESERVED_WORD,
    SIDE,
    SIDE_RECORD,
    SIDE_WINDOW,
    Fields,
    decode_references,
    unpack_words,
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

NAMES_RESOURCES: Final = SIDE
UNKNOWN: Final = GROUP
IS_OPEN: Final = 1 << 7
KEY_SHIFT: Final = 8
"""A *key* says how a row matches: the flags PERMIT and NORMAL, and the level, as in a row; NAMES_RESOURCES; UNKNOWN:
the row is that of an unreadable consent; IS_OPEN: the row limits resources or data period, and the question leaves them
open. From bit 8 on it has the labels that the row names."""

NO_MATCH: Final = (0, 0)
_FEW: Final = 8  # to compare a list of so many numbers takes less time than to remember the result


class Limits:
    """The side blocks of a person, or that of the realm's rules, for the evaluation of one question.

    A person may have thousands of lists. So all blocks are unpacked at once, when the first list is asked for. Many
    rows may share a list. So each list is compared with the question once.

    Attributes:
        unpacked: what ``unpack`` returns; empty until it is called.
        first: the word at which the side block of the consent begins whose rows are matched now.
    """

    __slots__ = ("_meets", "blocks", "first", "unpacked")

    def __init__(self, blocks: bytes = b"") -> None:
        """*blocks*: side blocks, and between them anything; all in whole words."""
        self.blocks: Final = blocks
        self.unpacked: tuple[int, ...] = ()
        self._meets: dict[int, bool] = {}  # 8 × the list's word + what it is compared with → the result
        self.first = 0

    def unpack(self) -> tuple[int, ...]:
        """Return the words of all blocks. A word has two fields; the first is its lower half."""
        if not self.unpacked:
            self.unpacked = unpack_words(self.blocks)
        return self.unpacked

    def has_reserved(self, rows: Iterable[Fields]) -> bool:
        """Return whether a side record of *rows* has a value in the reserved field: then a later version wrote it.

        Raises:
            IndexError: a record is cut short.
        """
        words, reserved = self.unpack(), self.first + RESERVED_WORD
        return any(map(words.__getitem__, [reserved + row[8] for row in rows if row[9] & SIDE]))

    def names(self, word: int, asked: Numbers, groups: Groups, side: int, since: int) -> bool:
        """Return whether the list at *word* names one of *asked*, or one of *groups* that counts.

        *side*: 0 to 3, PERMIT for a permit, and 2 more for holders.
        """
        word += self.first
        words = self.unpacked or self.unpack()
        count = words[word]
        found = self._meets.get(8 * word + side) if count > _FEW else None
        if found is None:
            named = words[word + 1 : word + 1 + count]
            found = not asked.isdisjoint(named)
            if groups and not found and not groups.keys().isdisjoint(named):
                found = any(group_counts(number, groups, side & PERMIT, since) for number in named)
            if count > _FEW:
                self._meets[8 * word + side] = found
        return found

    def covers(self, word: int, references: frozenset[str], permit: int) -> bool:
        """Return whether the list at *word* has all references (for a permit), or one of them (for a deny)."""
        word += self.first
        found = self._meets.get(8 * word + 4 + permit)
        if found is None:
            limit = decode_references(self.blocks, word)
            found = references <= limit if permit else not references.isdisjoint(limit)
            self._meets[8 * word + 4 + permit] = found
        return found


NO_LIMITS: Final = Limits()
"""The side block of a consent without side records."""


def group_counts(number: int, groups: Groups, permit: int, since: int) -> bool:
    """Return whether one of *groups* has this number and counts (rule 10).

    For a permit, a group counts for who was a member when the permit was given (*since*); for a deny, for who was a
    member then or has become one since.
    """
    windows = groups.get(number)
    if windows is None:
        return False
    return any(end > since and (start <= since or not permit) for start, end in windows)


class RowMatcher:
    """Compares a question with rows, as far as that does not depend on the case."""

    __slots__ = (
        "_action", "_categories", "_data_period", "_deny_actions", "_deny_actors", "_deny_groups", "_deny_mask",
        "_deny_purposes", "_holder_groups", "_holders", "_leaves", "_permit_actors", "_permit_groups", "_purpose",
        "_resources",
    )  # fmt: skip

    def __init__(self, question: PackedQuestion) -> None:
        # Attributes of its own: a person may have thousands of rows, and two reads for each field take longer than one.
        self._action: Final = question.action
        self._categories: Final = question.categories
        self._data_period: Final = question.data_period
        self._deny_actions: Final = question.deny_actions
        self._deny_mask: Final = question.leaves.deny_mask
        self._deny_purposes: Final = question.deny_purposes
        self._leaves: Final = question.leaves
        self._purpose: Final = question.purpose
        self._resources: Final = question.resources
        parties = question.parties
        self._holders: Final = parties.holders
        self._holder_groups: Final = parties.holder_groups
        self._permit_actors: Final = parties.permit_actors
        self._permit_groups: Final = parties.permit_groups
        self._deny_actors: Final = parties.deny_actors
        self._deny_groups: Final = parties.deny_groups

    def match(self, row: Fields, block: Limits, since: int) -> tuple[int, int]:
        """Return the mask of the leaves asked for that a row may match, and its key. Mask 0: the row does not match.

        The row's window is ignored. *block* is the side block. It has the row's side record, if the row has flag SIDE.
        *since* is the leaf index of the entry of the consent or of the rules.
        """
        actor, holder, purposes, categories, _, _, labels, actions, word, flags, _, _, _ = row
        permit = flags & PERMIT
        if permit:
            mask = categories & self._categories
            if not (mask and purposes & self._purpose and actions & self._action):
                return NO_MATCH
            actors = self._permit_actors
        else:
            if not (categories & self._deny_mask and purposes & self._deny_purposes and actions & self._deny_actions):
                return NO_MATCH
            mask = denied_leaves(categories, self._leaves)
            actors = self._deny_actors
        key = labels << KEY_SHIFT | flags & ~(SIDE | GROUP)
        lists = more = 0
        if flags & SIDE:
            words = block.unpacked or block.unpack()
            word += block.first
            lists, more = words[word], words[word + 1]
        if lists or not (actor in actors and holder in self._holders):
            is_plain = not flags & GROUP and not lists
            if is_plain or not self._participants_match(actor, holder, permit, block, since, lists):
                return NO_MATCH
        if more >> 16:
            if self._data_period is None:
                key |= IS_OPEN
            else:
                start, end = self._data_period
                first, last = SIDE_WINDOW.unpack_from(block.blocks, 4 * word + SIDE_RECORD.size)
                if not (first <= start and end <= last if permit else start < last and first < end):
                    return NO_MATCH
        resources = more & 0xFFFF
        if resources:
            key |= NAMES_RESOURCES
            if self._resources is None:
                key |= IS_OPEN
            elif not block.covers(resources, self._resources, permit):
                return NO_MATCH
        return mask, key

    def matches_unreadable(self, row: Fields, block: Limits, since: int) -> bool:
        """Return whether an unreadable consent may match. Its participants alone are compared, as those of a deny."""
        lists = block.unpack()[block.first + row[8]] if row[9] & SIDE else 0
        return self._participants_match(row[0], row[1], 0, block, since, lists)

    def _participants_match(self, actor: int, holder: int, permit: int, block: Limits, since: int, lists: int) -> bool:
        """Return whether the actors and the holders of a row match.

        *lists*: the words of the lists of actors (lower half) and of holders; 0: the row's own field.
        """
        many_actors, many_holders = lists & 0xFFFF, lists >> 16
        if permit:
            asked, groups = self._permit_actors, self._permit_groups
        else:
            asked, groups = self._deny_actors, self._deny_groups
        if many_actors:
            if not block.names(many_actors, asked, groups, permit, since):
                return False
        elif actor not in asked and not group_counts(actor, groups, permit, since):
            return False
        if many_holders:
            return block.names(many_holders, self._holders, self._holder_groups, permit + 2, since)
        return holder in self._holders or group_counts(holder, self._holder_groups, permit, since)


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
