"""The law of parsers: any text or bytes are a value, which is written as it was read, or are malformed."""

from collections.abc import Callable
from typing import TypeVar

from consentd.errors import MalformedError

T = TypeVar("T")
V = TypeVar("V")


def assert_round_trip_or_malformed(parse: Callable[[T], V], form: Callable[[V], T], content: T) -> None:
    try:
        value = parse(content)
    except MalformedError:
        return
    assert form(value) == content
