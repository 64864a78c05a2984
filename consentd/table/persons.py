"""Read the consents of many persons, a page at a time, in the order of their tags.

There is no index of consents by what they name, so a list over many persons reads the rows ``s`` one after the other,
and a filter decides what it shows. A page reads at most ``MAX_PERSONS`` persons, whatever it finds. So it may be short
or empty and still have a next page (AIP-158). Each page shows the state of the table at its own time: a person who is
erased between two pages is not shown by the second, and a person who enrols between them may be missing.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from consentd import limits
from consentd.core import codec
from consentd.table.view import Snapshot

T = TypeVar("T")

MAX_PERSONS: Final = limits.PAGE_PERSONS
"""Most persons that a page reads, selected or not: about 10 ms. A person counts once more for each ``_ROW_BYTES`` of
the row."""
_ROW_BYTES: Final = 2048
_STEP: Final = 50
"""Other calls get the processor after so many persons: about 0.2 ms."""
_WHOLE: Final = codec.MAX_SEQ
"""As the lineage of a ``Place``: the whole person was read."""


class Place(NamedTuple):
    """Where a list has come to: up to this lineage of the person with this tag. The first page begins at ``START``."""

    tag: bytes
    lineage: int


START: Final = Place(b"", _WHOLE)

Select = Callable[[bytes, bytes], Iterable[tuple[int, T]]]
"""Yields what a list shows of a person, given the tag and the subject value, which is empty for a person without
consents: the number of the lineage, ascending, and the item."""


def read_page(
    snapshot: Snapshot, select: Select[T], *, after: Place, most: int, rest: Callable[[], None] = lambda: None,
    reads: int = MAX_PERSONS,
) -> tuple[list[T], Place | None]:  # fmt: skip
    """Return the items of the page that begins after a place, and where the next page begins; None: there is none.

    Args:
        most: the most items of the page; at least 1.
        rest: called between two steps, to give way to other calls.
        reads: the most persons that the page reads.

    Raises:
        DamagedRowError: the row of a person is damaged. The list cannot go on before it is mended.
    """
    found: list[T] = []
    place, work, step = after, 0, 0
    for tag, value in snapshot.persons_from(after.tag):
        is_begun = tag == after.tag
        if is_begun and after.lineage == _WHOLE:
            continue
        if work >= reads:
            return found, place
        work += 1 + len(value) // _ROW_BYTES
        step += 1
        if step >= _STEP:
            step = 0
            rest()
        for lineage, item in select(tag, value):
            if is_begun and lineage <= after.lineage:
                continue
            if len(found) == most:
                return found, place
            found.append(item)
            place = Place(tag, lineage)
        place = Place(tag, _WHOLE)
    return found, None


def read_person(
    tag: bytes, value: bytes | None, select: Select[T], *, after: Place, most: int
) -> tuple[list[T], Place | None]:
    """Return a page of the items of one person, and where the next page begins, as ``read_page`` does."""
    found: list[T] = []
    place = after
    for lineage, item in select(tag, value or b""):
        if after.tag == tag and lineage <= after.lineage:
            continue
        if len(found) == most:
            return found, place
        found.append(item)
        place = Place(tag, lineage)
    return found, None
