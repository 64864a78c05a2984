"""Parse JSON so that all readers of a text see the same values."""

import json
import re
from collections.abc import Callable
from typing import Any

from consentd.errors import MalformedError

# A whole string, or a mark outside of strings. A string without its end matches too, so each character is read once.
_STRING_OR_MARK = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)


def parse_json(
    text: str,
    *,
    max_nesting: int,
    max_marks: int | None = None,
    parse_constant: Callable[[str], Any],
    parse_int: Callable[[str], Any] | None = None,
    parse_float: Callable[[str], Any] | None = None,
) -> Any:
    """Return the value of a JSON text.

    Args:
        max_nesting: the largest number of nested arrays and objects.
        max_marks: the largest number of ``[``, ``{`` and ``,`` outside of strings, so that a text does not become many
            times its size in memory: a list takes 64 bytes, and its text only three. None: any number.
        parse_constant: called with the text of ``NaN`` and the infinities, which are no JSON.
        parse_int, parse_float: called with the text of a number, as in ``json.loads``.

    Raises:
        MalformedError: the text is not JSON, has a name twice in one object, is nested too deep, or has too many marks.
    """
    _check_marks(text, max_nesting, max_marks)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_names,
            parse_int=parse_int,
            parse_float=parse_float,
            parse_constant=parse_constant,
        )
    except ValueError as error:  # also raised for an integer with more digits than Python converts
        raise MalformedError("text is not JSON") from error


def _check_marks(text: str, max_nesting: int, max_marks: int | None) -> None:
    """Verify nesting and marks. This precedes the parser, which would recurse and take memory without a limit."""
    depth = marks = 0
    for found in _STRING_OR_MARK.finditer(text):
        mark = text[found.start()]
        if mark in "[{":
            depth += 1
            if depth > max_nesting:
                raise MalformedError(f"JSON is nested deeper than {max_nesting} levels")
        elif mark in "]}":
            depth -= 1
        if mark in "[{,":
            marks += 1
            if max_marks is not None and marks > max_marks:
                raise MalformedError(f"JSON has more than {max_marks} lists, objects and commas")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("JSON object has a name twice")
    return found
