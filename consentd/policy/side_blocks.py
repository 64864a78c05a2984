"""Compare the lists of side records with a question: several actors or holders, and resources.

A person may have thousands of lists, so a word of them is read only when a row needs it.
"""

from collections.abc import Iterable
from typing import Final

from consentd.policy.codebook import Groups, Numbers
from consentd.policy.recurrence import Recurrence
from consentd.policy.rows import (
    PERMIT,
    SIDE_FIELDS,
    SIDE_WINDOW,
    Record,
    decode_ends,
    decode_references,
    decode_uses,
    words_of,
)

HOLDERS: Final = 2
"""What a list of holders is compared with, beside ``PERMIT``."""

FEW: Final = 8
"""To compare a list of so many numbers takes less time than to remember the result."""


class Limits:
    """The side blocks of a person, or that of the realm's rules, for the evaluation of one question.

    Many rows may share a list. So each list is compared with the question once, unless it is short.

    Attributes:
        numbers: all words of the blocks. A word of a record has two fields; the first is its lower half.
        first: the word at which the side block of the consent begins whose rows are matched now.
    """

    __slots__ = ("_meets", "_padded", "blocks", "first", "numbers")

    def __init__(self, blocks: bytes = b"") -> None:
        """*blocks*: side blocks, and between them anything; all in whole words."""
        self.blocks: Final = blocks
        self.numbers: Final = words_of(blocks)
        self._padded: Final = blocks + bytes(SIDE_WINDOW.size)  # so that a record without a period can be unpacked too
        self._meets: dict[int, bool] = {}  # 8 × the list's word + what it is compared with → the result
        self.first = 0

    def record(self, word: int) -> Record:
        """Return the side record at *word* of the consent's side block."""
        return SIDE_FIELDS.unpack_from(self._padded, 4 * (self.first + word))

    def names(self, begin: int, asked: Numbers, groups: Groups, side: int, since: int) -> bool:
        """Return whether the list whose numbers begin at *begin* names one of *asked*, or one of *groups* that counts.

        *side*: PERMIT for a permit, and ``HOLDERS`` for holders. The result is remembered, so that a long list that
        many rows share is compared once.
        """
        found = self._meets.get(8 * begin + side)
        if found is None:
            named = self.numbers[begin : begin + self.numbers[begin - 1]]
            found = not asked.isdisjoint(named) or group_counts(named, groups, side & PERMIT, since)
            self._meets[8 * begin + side] = found
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

    def ends(self, word: int) -> tuple[tuple[int, int], ...]:
        """Return the list of ends at *word*: a mask of purposes, and their end, in UTC milliseconds."""
        return decode_ends(self.blocks, self.first + word)

    def recurrence(self, word: int) -> Recurrence:
        """Return the list of uses at *word*, with the recurrence that it begins with."""
        return decode_uses(self.blocks, self.first + word)


NO_LIMITS: Final = Limits()
"""The side block of a consent without side records."""

NO_RECORD: Final[Record] = (0, 0, 0, 0, 0)
"""The side record of a row that has none: it limits nothing."""


def group_counts(numbers: Iterable[int], groups: Groups, permit: int, since: int) -> bool:
    """Return whether one of *groups* has one of these numbers and counts (rule 10).

    For a permit, a group counts for who was a member when the permit was given (*since*); for a deny, for who was a
    member then or has become one since.
    """
    for number in numbers:
        for start, end in groups.get(number, ()):
            if end > since and (start <= since or not permit):
                return True
    return False
