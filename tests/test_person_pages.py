"""Lists over many persons: a page reads a bounded number of persons, by tag, and its token hides the others."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cases.ledgers import LedgerCase
from consentd import limits
from consentd.errors import InvalidError
from consentd.service.pages import Cursor, Pager
from consentd.table.checked_rows import DamagedRowError, seal_row, spoil_row
from consentd.table.persons import MAX_PERSONS, START, Place, read_page
from consentd.table.table import Table
from consentd.v1 import consent_service_pb2 as cs

KEY = bytes(range(32))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    case = LedgerCase(tmp_path)
    case.close()
    table = Table.open(case.table_path, map_size_mb=64)
    yield table
    table.close()


def put(table: Table, values: dict[bytes, bytes]) -> None:
    with table.begin_write() as transaction:
        for tag, value in values.items():
            transaction.put(b"s" + tag, seal_row(b"s" + tag, value))


def tags(count: int, seed: int = 1) -> list[bytes]:
    numbers = random.Random(seed)
    return sorted(numbers.randbytes(32) for _ in range(count))


def each(tag: bytes, value: bytes) -> Iterable[tuple[int, tuple[bytes, int]]]:
    """Select as many items of a person as the value has bytes."""
    return ((number, (tag, number)) for number in range(1, len(value) + 1))


def all_pages(table: Table, *, most: int, reads: int) -> Iterator[list[tuple[bytes, int]]]:
    place: Place | None = START
    while place is not None:
        with table.read() as snapshot:
            page, place = read_page(snapshot, each, after=place, most=most, reads=reads)
        yield page


@pytest.mark.parametrize(("most", "reads"), [(1, 1), (1, 100), (2, 3), (7, 5), (1000, 4), (1000, 1000)])
def test_the_pages_together_have_each_item_once_in_the_order_of_tags(table: Table, most: int, reads: int) -> None:
    values = {tag: bytes(number % 5) for number, tag in enumerate(tags(40))}
    put(table, values)
    pages = list(all_pages(table, most=most, reads=reads))
    assert [item for page in pages for item in page] == [
        (tag, number) for tag, value in values.items() for number in range(1, len(value) + 1)
    ]
    assert all(len(page) <= most for page in pages)


def test_a_page_reads_at_most_so_many_persons_and_counts_a_large_one_as_several(table: Table) -> None:
    read: list[bytes] = []

    def nothing(tag: bytes, value: bytes) -> Iterable[tuple[int, None]]:
        read.append(tag)
        return ()

    small = tags(limits.PAGE_PERSONS + 1)
    put(table, dict.fromkeys(small, b""))
    with table.read() as snapshot:
        page, place = read_page(snapshot, nothing, after=START, most=1)
        assert page == []
        assert place is not None
        assert place.tag == small[-2]
        assert read == small[:-1]
        assert len(read) == MAX_PERSONS
        assert read_page(snapshot, nothing, after=place, most=1) == ([], None)
    put(table, {small[0]: bytes(MAX_PERSONS * 2048)})
    with table.read() as snapshot:
        _, place = read_page(snapshot, nothing, after=START, most=1)
    assert place is not None
    assert place.tag == small[0]


def test_who_is_erased_between_two_pages_is_not_shown_and_nobody_is_shown_twice(table: Table) -> None:
    first, second, third = tags(3)
    put(table, dict.fromkeys((first, second, third), bytes(2)))
    with table.read() as snapshot:
        page, place = read_page(snapshot, each, after=START, most=1)
    assert page == [(first, 1)]
    assert place == Place(first, 1)
    with table.begin_write() as transaction:
        transaction.delete(b"s" + first)
        transaction.delete(b"s" + second)
    with table.read() as snapshot:
        assert read_page(snapshot, each, after=place, most=9) == ([(third, 1), (third, 2)], None)


def test_a_damaged_row_is_not_passed_over(table: Table) -> None:
    (tag,) = tags(1)
    with table.begin_write() as transaction:
        transaction.put(b"s" + tag, spoil_row(b"s" + tag, b"x"))
    with table.read() as snapshot, pytest.raises(DamagedRowError):
        read_page(snapshot, each, after=START, most=1)


# -- tokens ---------------------------------------------------------------------------------------------------------


def pager(token: str = "", caller: str = "hospital-a", key: bytes = KEY, purpose: str = "") -> Pager:
    return Pager(key, caller, cs.ListConsentsRequest(page_token=token, purpose=purpose))


def test_a_token_says_where_the_next_page_begins_and_shows_nobody() -> None:
    place = Place(tags(1)[0], 7)
    token = pager().place_token(place)
    assert pager().place() == START
    assert pager(token).place() == place
    decoded = pager(token)._decoded()  # what the caller can see
    assert place.tag[:4] not in decoded
    assert place.tag[-4:] not in decoded
    near = pager().place_token(place._replace(lineage=8))
    assert near[:20] != token[:20]


def test_a_token_is_for_one_caller_one_filter_and_one_key() -> None:
    token = pager().place_token(Place(bytes(32), 1))
    for other in (
        pager(token, caller="clinic-b"), pager(token, key=bytes(32)), pager(token, purpose="TREAT"),
        pager(token[:-4] + "AAA="), pager(token[4:]), pager("?"), pager("A" * 100), pager("é"),
    ):  # fmt: skip
        with pytest.raises(InvalidError) as caught:
            other.place()
        assert caught.value.reason == "INVALID_PAGE"


def test_a_token_of_one_form_is_no_token_of_the_other() -> None:
    token = pager().token(Cursor(1, 2))
    with pytest.raises(InvalidError):
        pager(token).place()
    with pytest.raises(InvalidError):
        pager(pager().place_token(START._replace(tag=bytes(32)))).cursor(9)
