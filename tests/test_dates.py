"""Dates in Asia/Seoul: days that end where the citizen's day ends, instants."""

import pytest

from consentd.core.pruned import DAY_MS
from consentd.errors import InvalidError
from consentd.policy.dates import end_of_date_ms, format_instant, is_date, parse_instant_ms, start_of_date_ms


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-12-31", "2026-12-30T15:00:00Z", "2026-12-31T15:00:00Z"),
        ("2026-12", "2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z"),
        ("2026", "2025-12-31T15:00:00Z", "2026-12-31T15:00:00Z"),
        ("2028-02-29", "2028-02-28T15:00:00Z", "2028-02-29T15:00:00Z"),
        ("2028-02", "2028-01-31T15:00:00Z", "2028-02-29T15:00:00Z"),
        ("1970-01-02", "1970-01-01T15:00:00Z", "1970-01-02T15:00:00Z"),
    ],
)
def test_a_date_ends_in_seoul(text: str, start: str, end: str) -> None:
    assert is_date(text)
    assert start_of_date_ms(text) == parse_instant_ms(start)
    assert end_of_date_ms(text) == parse_instant_ms(end)


@pytest.mark.parametrize(
    "text",
    ["", "26", "2026-13", "2026-00", "2026-02-30", "2027-02-29", "2026-1-1", "0000", "10000", "2026-12-31T00:00:00Z",
     "2026-12-31 ", "２０２６"],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        end_of_date_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T09:00:00+09:00", 0),
        ("1970-01-01T00:00:00.0019Z", 1),
        ("1970-01-01T00:00:00.5-00:30", 1_800_500),
        ("2026-05-03T14:10:00+09:00", 1_777_785_000_000),
        ("2026-05-03T19:10:00+14:00", 1_777_785_000_000),
        ("9999-12-31T23:59:59-13:59", 253_402_351_139_000),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200_000),
    ],
)
def test_instants(text: str, expected: int) -> None:
    assert parse_instant_ms(text) == expected


@pytest.mark.parametrize(
    "text",
    ["2026-05-03", "2026-05-03T14:10:00", "2026-05-03T14:10Z", "2026-05-03T24:00:00Z", "2026-05-03T14:10:60Z",
     "2026-02-30T00:00:00Z", "2026-05-03T14:10:00+15:00", "2026-05-03T14:10:00.Z", "2026-05-03t14:10:00z", "now"],
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_instant_ms(text)


def test_days_are_whole() -> None:
    assert end_of_date_ms("2026-05-03") - start_of_date_ms("2026-05-03") == DAY_MS
    assert end_of_date_ms("2026-05-03") == start_of_date_ms("2026-05-04")


def test_an_instant_is_shown_in_korean_time() -> None:
    assert format_instant(1_772_323_200_000) == "2026-03-01 09:00:00 KST"
    assert format_instant((1 << 64) - 1) == "18446744073709551615 ms"
