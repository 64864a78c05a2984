"""Compare the labels and the level of data with a row that matches otherwise, for what a question leaves open (rule 5).

The *case* determines which limits on an open property match.
"""

from typing import Final, NamedTuple

from consentd.policy.codebook import PackedQuestion
from consentd.policy.rows import LEVEL_SHIFT, NORMAL, PERMIT
from consentd.policy.shapes import IS_OPEN, KEY_SHIFT, NAMES_RESOURCES, UNKNOWN
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


def top_level(flags: int, default: int, normal_level: int) -> int:
    """Return the highest level that a permit covers, of data whose category has this default level (rules 1 and 9)."""
    level = level_of(flags)
    return min(level, normal_level) if flags & NORMAL else level or default


def level_of(flags: int) -> int:
    """Return the number of the level that a row names, given its flags or its key; 0: it names none."""
    return flags >> LEVEL_SHIFT & 7
