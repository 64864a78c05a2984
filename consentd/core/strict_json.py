"""Parse JSON so that all readers of a text see the same values."""

import json
import re
from collections.abc import Callable
from typing import Any

from consentd.errors import MalformedError

# A whole string, or a bracket outside of strings. A string without its end matches too, so each character is read once.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def parse_json(
    text: str,
    *,
    max_nesting: int,
    parse_constant: Callable[[str], Any],
    parse_int: Callable[[str], Any] | None = None,
    parse_float: Callable[[str], Any] | None = None,
) -> Any:
    """Return the value of a JSON text.

    Args:
        max_nesting: the largest number of nested arrays and objects.
        parse_constant: called with the text of ``NaN`` and the infinities, which are no JSON.
        parse_int, parse_float: called with the text of a number, as in ``json.loads``.

    Raises:
        MalformedError: the text is not JSON, has a name twice in one object, or is nested too deep.
    """
    _check_nesting(text, max_nesting)
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


def _check_nesting(text: str, max_nesting: int) -> None:
    """Verify that the nesting is within the limit. This precedes the parser, which would recurse without a limit."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = text[found.start()]
        if bracket in "[{":
            depth += 1
            if depth > max_nesting:
                raise MalformedError(f"JSON is nested deeper than {max_nesting} levels")
        elif bracket in "]}":
            depth -= 1


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("JSON object has a name twice")
    return found
