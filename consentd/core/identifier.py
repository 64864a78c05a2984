"""Check the identifiers of persons. The daemon, the audit and the import of FHIR share this one function.

Two spellings of one identifier would be two persons, with two sets of consents. So what people cannot distinguish is
refused: capitals in a scheme, spaces, and characters outside of ASCII, which often look alike or are invisible.

A resident registration number (주민등록번호) is never stored, not even as a hash. It is recognised by the scheme, and
under any scheme by its shape: a date of birth (yymmdd), a digit for century and sex, and six digits.
"""

import re
from typing import Final

from consentd.errors import InvalidError

_SCHEME: Final = re.compile("[a-z0-9][a-z0-9._/-]{0,63}")
_VALUE: Final = re.compile("[!-~]{1,256}")
_SEPARATORS: Final = re.compile("[._/-]")
_REFUSED_SCHEMES: Final = ("rrn", "nnkor", "jumin")
_RESIDENT_NUMBER: Final = re.compile(
    r"[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[^0-9A-Za-z]?[0-9][0-9]{6}", re.ASCII
)


def check_identifier(scheme: str, value: str) -> None:
    """Check that an identifier is well-formed, and that it may be stored. No message contains the identifier.

    Raises:
        InvalidError: the scheme is not of [a-z0-9._/-] or is one of resident registration numbers, or scheme or value
            is too long, or the value is empty, not of visible ASCII characters, or has the shape of such a number.
    """
    if not _SCHEME.fullmatch(scheme):
        raise InvalidError("identifier scheme is not of [a-z0-9._/-], or too long", "INVALID_IDENTIFIER")
    if not _VALUE.fullmatch(value):
        raise InvalidError("identifier value is not of visible ASCII characters, or too long", "INVALID_IDENTIFIER")
    parts = _SEPARATORS.split(scheme)
    if "".join(parts).startswith(_REFUSED_SCHEMES) or not set(parts).isdisjoint(_REFUSED_SCHEMES):
        raise InvalidError("identifier scheme is never stored: resident registration number", "INVALID_IDENTIFIER")
    if _RESIDENT_NUMBER.fullmatch(value):
        raise InvalidError("identifier has the shape of a resident registration number", "INVALID_IDENTIFIER")
