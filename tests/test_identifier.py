"""Identifiers of persons: one spelling each, and no resident registration number."""

import pytest

from consentd.core.identifier import check_identifier
from consentd.errors import InvalidError


@pytest.mark.parametrize(
    ("scheme", "value"),
    [
        ("mhid", "R-P1"), ("mhid", "900101"), ("hospital-a/mrn", "20260101-01"), ("barn", "x"),
        ("mhid", "9013011234567"),  # no month 13
        ("mhid", "9001321234567"),  # no day 32
        ("mhid", "900101-12345678"), ("mhid", "1690000000000"),
    ],
)  # fmt: skip
def test_identifiers_that_may_be_stored(scheme: str, value: str) -> None:
    check_identifier(scheme, value)


@pytest.mark.parametrize(
    ("scheme", "value", "cause"),
    [
        ("MHID", "x", "scheme is not of"), ("", "x", "scheme is not of"), ("mhid ", "x", "scheme is not of"),
        ("mhid", "", "visible ASCII"), ("mhid", "x ", "visible ASCII"), ("mhid", "x\u200b", "visible ASCII"),
        *((scheme, "x", "scheme is never stored") for scheme in (
            "rrn", "rrn/1", "rrn-kr", "r.r.n", "r_r_n", "rrnumber", "kr.rrn", "nnkor", "nn-kor", "jumin", "jumin_no",
        )),
        *(("mhid", value, "shape of a resident") for value in (
            "900101-1234567", "9001011234567", "051231-3000000", "900101.8234567", "900101_5234567",
        )),
    ],
)  # fmt: skip
def test_identifiers_that_are_refused(scheme: str, value: str, cause: str) -> None:
    with pytest.raises(InvalidError, match=cause) as raised:
        check_identifier(scheme, value)
    assert raised.value.reason == "INVALID_IDENTIFIER"
    assert len(value) < 5 or value not in str(raised.value)
