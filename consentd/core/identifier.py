"""Check the identifiers of persons. The daemon, the audit and the import of FHIR share this one function.

Two spellings of one identifier would be two persons, with two sets of consents. So what people cannot distinguish is
refused: capitals in a scheme, spaces, and characters outside of ASCII, which often look alike or are invisible.

A resident registration number (주민등록번호), of a citizen or of a foreigner, is never stored, not even as a hash. The
check recognises it by the scheme, and under any scheme by its shape: a date of birth (yymmdd), a digit for century and
sex, and six more. The last digit is a checksum, but not in numbers that were assigned since October 2020.
Hospitals number patients with 13 digits too. So 13 digits in a row are taken for a resident number only if the
checksum is right, or the birth is since October 2020. Digits in groups of six and seven need no checksum.
"""

import re
from functools import lru_cache
from typing import Final

from consentd import limits
from consentd.errors import InvalidError

_SCHEME: Final = re.compile(f"[a-z0-9][a-z0-9._/-]{{0,{limits.IDENTIFIER_SCHEME_CHARACTERS - 1}}}")
_VALUE: Final = re.compile(f"[!-~]{{1,{limits.IDENTIFIER_VALUE_CHARACTERS}}}")
_SEPARATORS: Final = re.compile("[._/-]")
_RESIDENT_SCHEME: Final = re.compile("(kr|kor)?(rrn|ssn|nnkor)(kr|kor|no|num|number)?[0-9]*")
_RESIDENT_WORDS: Final = ("jumin", "nnkor", "residentreg", "residentnum", "residentno")
_DIGITS: Final = re.compile("(?<![0-9])([0-9]{6})([^0-9A-Za-z]?)([0-9]{7})(?![0-9])")
_HAS_DIGITS: Final = re.compile("[0-9][0-9]{5}[^0-9A-Za-z]?[0-9]{7}")
"""Found wherever ``_DIGITS`` is. It begins with a set of characters, which ``re`` finds several times faster."""
_CENTURIES: Final = {"9": 18, "0": 18, "1": 19, "2": 19, "5": 19, "6": 19, "3": 20, "4": 20, "7": 20, "8": 20}
"""Century and sex of citizens are 1 to 4, of foreigners 5 to 8. The digits 9 and 0 are for births before 1900."""
_FOREIGN: Final = "5678"
_WEIGHTS: Final = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
_WITHOUT_CHECKSUM: Final = (2020, 10, 1)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def check_identifier(scheme: str, value: str) -> None:
    """Check that an identifier is well-formed, and that it may be stored. No message contains the identifier.

    Raises:
        InvalidError: as ``check_scheme``; or the value is too long, empty, not of visible ASCII characters, or contains
            what has the shape of a resident registration number.
    """
    check_scheme(scheme)
    if not _VALUE.fullmatch(value):
        raise InvalidError("identifier value is not of visible ASCII characters, or too long", "INVALID_IDENTIFIER")
    if _HAS_DIGITS.search(value) and any(_is_resident_number(*found.groups()) for found in _DIGITS.finditer(value)):
        raise InvalidError("identifier has the shape of a resident registration number", "INVALID_IDENTIFIER")


@lru_cache(maxsize=256)  # each consent check asks, and a realm has few schemes
def check_scheme(scheme: str) -> None:
    """Check the scheme of an identifier.

    Raises:
        InvalidError: the scheme is not of [a-z0-9._/-], too long, or one of resident registration numbers.
    """
    if not _SCHEME.fullmatch(scheme):
        raise InvalidError("identifier scheme is not of [a-z0-9._/-], or too long", "INVALID_IDENTIFIER")
    if _is_of_resident_numbers(scheme):
        raise InvalidError("identifier scheme is never stored: resident registration number", "INVALID_IDENTIFIER")


def _is_of_resident_numbers(scheme: str) -> bool:
    parts = _SEPARATORS.split(scheme)
    joined = "".join(parts)
    if joined.startswith("rrn") or any(map(_RESIDENT_SCHEME.fullmatch, (joined, *parts))):
        return True
    return any(word in joined for word in _RESIDENT_WORDS)


def _is_resident_number(born: str, separator: str, rest: str) -> bool:
    century, digits = _CENTURIES[rest[0]], [int(digit) for digit in born + rest]
    birth = (century * 100 + int(born[:2]), int(born[2:4]), int(born[4:]))
    if not _is_date(*birth):
        return False
    if separator:
        return True
    if century < 19:
        return False  # nobody lives who has such a number, and serial numbers often begin with 0
    total = sum(weight * digit for weight, digit in zip(_WEIGHTS, digits, strict=False))
    checksum = ((13 if rest[0] in _FOREIGN else 11) - total % 11) % 10
    return birth >= _WITHOUT_CHECKSUM or digits[-1] == checksum


def _is_date(year: int, month: int, day: int) -> bool:
    is_leap_day = (month, day) == (2, 29) and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return is_leap_day or (1 <= month <= 12 and 1 <= day <= _DAYS[month - 1])
