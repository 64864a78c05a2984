"""Identifiers of persons: one spelling each, and no resident registration number.

The numbers here are made up: their checksums are right or wrong, but nobody was looked up.
"""

import random
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as some

from consentd.core.identifier import check_identifier
from consentd.errors import InvalidError


def resident_number(born: date, sex: int, serial: str, *, foreign: bool = False) -> str:
    """Return a number with a right checksum: by the definition, digit by digit."""
    century = {18: "90", 19: "56" if foreign else "12", 20: "78" if foreign else "34"}[born.year // 100]
    number = f"{born:%y%m%d}{century[sex]}{serial}"
    total = sum(int(digit) * (2 + position % 8) for position, digit in enumerate(number))
    return number + str(((13 if foreign else 11) - total % 11) % 10)


def wrong_checksum(number: str) -> str:
    return number[:-1] + str((int(number[-1]) + 1) % 10)


def is_stored(value: str, scheme: str = "mhid") -> bool:
    try:
        check_identifier(scheme, value)
    except InvalidError:
        return False
    return True


@pytest.mark.parametrize(
    ("scheme", "value"),
    [
        ("mhid", "R-P1"), ("mhid", "900101"), ("hospital-a/mrn", "20260101-01"), ("barn", "x"), ("mrn/mountain", "x"),
        ("mrn/st-resident", "7"), ("mrn/lessner", "7"), ("mhid", "9013011234567"), ("mhid", "9001321234567"),
        ("mhid", "900230-1234567"), ("mhid", "900101-12345678"), ("mhid", "1690000000000"), ("mhid", "900101--1234567"),
        ("mhid", "0000000012345"), ("mhid", "2611300000123"),  # serial numbers, also after a day of admission
    ],
)  # fmt: skip
def test_identifiers_that_may_be_stored(scheme: str, value: str) -> None:
    check_identifier(scheme, value)


@pytest.mark.parametrize(
    ("scheme", "value", "cause"),
    [
        ("MHID", "x", "scheme is not of"), ("", "x", "scheme is not of"), ("mhid ", "x", "scheme is not of"),
        (" mhid", "x", "scheme is not of"), ("mhid\n", "x", "scheme is not of"),
        ("\u200bmhid", "x", "scheme is not of"),
        *(("mhid", value, "visible ASCII") for value in (
            "", " ", "x ", " x", "x y", "x\n", "x\u200b", "\u00adx", "x\u3164", "\ufeffx", "\u202ex", "\uff58", "x\0",
            "x" * 257,
        )),
        *((scheme, "x", "scheme is never stored") for scheme in (
            "rrn", "rrn/1", "rrn-kr", "r.r.n", "r_r_n", "rrnumber", "kr.rrn", "nnkor", "nn-kor", "jumin", "jumin_no",
            "ssn", "kr-ssn", "ssn/kr", "mois.go.kr/rrn", "resident-number", "resident_registration_no", "residentno",
            "mrn/rrn", "krrrn", "id/jumin-number", "rrn2", "kor_rrn_no",
        )),
        *(("mhid", value, "shape of a resident") for value in (
            "900101-1234567", "051231-3000000", "900101.8234567", "900101_5234567", "990101/9123456",
            "id=900101-1234567",
        )),
    ],
)  # fmt: skip
def test_identifiers_that_are_refused(scheme: str, value: str, cause: str) -> None:
    with pytest.raises(InvalidError, match=cause) as raised:
        check_identifier(scheme, value)
    assert raised.value.reason == "INVALID_IDENTIFIER"
    assert len(value) < 5 or value not in str(raised.value)


@given(
    some.dates(date(1900, 1, 1), date(2020, 9, 30)), some.integers(0, 1), some.from_regex("[0-9]{5}", fullmatch=True),
    some.booleans(), some.sampled_from(["", "mrn:", "KR", "x-"]),
)  # fmt: skip
def test_a_number_with_a_checksum_is_known_by_it(born: date, sex: int, serial: str, foreign: bool, before: str) -> None:
    number = resident_number(born, sex, serial, foreign=foreign)
    wrong = wrong_checksum(number)
    assert not is_stored(before + number)
    assert is_stored(before + wrong)
    for separator in "-./_ "[:4]:
        assert not is_stored(f"{before}{number[:6]}{separator}{number[6:]}")
        assert not is_stored(f"{before}{wrong[:6]}{separator}{wrong[6:]}")
    assert is_stored("7" + number)  # one digit more is another number


@given(some.dates(date(2020, 10, 1), date(2099, 12, 31)), some.integers(0, 1), some.booleans())
def test_a_number_of_a_birth_since_october_2020_has_no_checksum(born: date, sex: int, foreign: bool) -> None:
    number = resident_number(born, sex, "12345", foreign=foreign)
    assert not is_stored(number)
    assert not is_stored(wrong_checksum(number))


def test_few_numbers_of_other_kinds_are_refused() -> None:
    pick = random.Random(12)
    refused = sum(not is_stored(f"{pick.randrange(10**13):013}") for _ in range(20_000))
    assert refused < 20_000 * 0.015


@pytest.mark.parametrize(
    ("born", "is_date"),
    [("000229-3", True), ("040229-3", True), ("000229-1", False), ("010229-3", False), ("000230-3", False),
     ("001301-3", False), ("000001-3", False), ("000100-3", False), ("000431-3", False), ("001231-3", True)],
)  # fmt: skip
def test_a_resident_number_begins_with_a_date(born: str, is_date: bool) -> None:
    # 2000 had a 29 February, 1900 had none.
    assert is_stored(f"{born}123456") is not is_date
