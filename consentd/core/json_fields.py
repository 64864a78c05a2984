"""Read the fields of strict JSON files: exactly the known fields, each of its kind."""

import re
from collections.abc import Set as AbstractSet
from typing import Any

from consentd.core.strict_json import parse_json
from consentd.errors import MalformedError

_MAX_NUMBER = (1 << 63) - 1
_MAX_MARKS = 1 << 20
"""Most lists, objects and commas of a file: of a manifest with 170,000 files."""


def parse_object(content: bytes, names: AbstractSet[str], *, max_bytes: int, max_nesting: int = 1) -> dict[str, Any]:
    """Parse a JSON object that has exactly the fields *names*. Numbers are whole.

    Raises:
        MalformedError: it is longer than *max_bytes*, is not JSON, or has other fields.
    """
    if len(content) > max_bytes:
        raise MalformedError(f"more than {max_bytes} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("text is not UTF-8") from error
    value = parse_json(
        text, max_nesting=max_nesting, max_marks=_MAX_MARKS, parse_constant=_refuse_number, parse_float=_refuse_number
    )
    return read_object(value, names)


def read_object(value: Any, names: AbstractSet[str]) -> dict[str, Any]:
    """Return *value* if it is an object with exactly the fields *names*. Raises ``MalformedError``."""
    if not isinstance(value, dict):
        raise MalformedError("value is no JSON object")
    if set(value) != names:
        raise MalformedError("a field is missing or unknown")
    return value


def check_format(fields: dict[str, Any], known: int) -> None:
    """Check the field ``format``. Raises ``MalformedError``."""
    if type(fields["format"]) is not int or fields["format"] != known:
        raise MalformedError(f"format is not {known}")


def read_text(fields: dict[str, Any], name: str) -> str:
    """Return a field that is a text. Raises ``MalformedError``."""
    text = fields[name]
    if not isinstance(text, str):
        raise MalformedError(f"{name} is not a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can have a half of a surrogate pair
        raise MalformedError(f"{name} is not Unicode text") from error
    return text


def read_number(fields: dict[str, Any], name: str) -> int:
    """Return a field that is a whole number. Raises ``MalformedError``."""
    number = fields[name]
    if type(number) is not int or not 0 <= number <= _MAX_NUMBER:
        raise MalformedError(f"{name} is not a whole number from 0 to 2^63 - 1")
    return number


def read_hex(fields: dict[str, Any], name: str, size: int) -> bytes:
    """Return a field of *size* bytes in lower-case hexadecimal digits. Raises ``MalformedError``."""
    text = fields[name]
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", text):
        raise MalformedError(f"{name} is not {2 * size} lower-case hex digits")
    return bytes.fromhex(text)


def _refuse_number(text: str) -> Any:
    raise MalformedError("a number is not a whole number")
