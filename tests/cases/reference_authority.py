"""The reference for authorities: until when permits last that a representative gave (policy.md, rule 8).

Years are counted on the calendar of Asia/Seoul, which has been UTC+9 since 1988.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone

from cases.reference_realm import above
from consentd.policy.model import OPEN_END_MS
from consentd.policy.vocabulary import Vocabulary

SEOUL = timezone(timedelta(hours=9))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Power:
    """What the entries of an authority state: the birth date of a minor, its end, and when it was ended.

    ``lasts``: by the rules of the realm, what was given under it does not end with it.
    """

    born: date | None = None
    end_ms: int = OPEN_END_MS
    ended_ms: int = OPEN_END_MS
    lasts: bool = False


Powers = Mapping[int, Power]
"""Seq of the AUTHORITY entry → what it states."""


def birthday_ms(born: date, years: int) -> int:
    """The instant at which somebody becomes so many years old: the first one of the day."""
    day = date(born.year + years, born.month, 1) + timedelta(days=born.day - 1)  # 29 February + n years: 1 March
    return (datetime(day.year, day.month, day.day, tzinfo=SEOUL) - EPOCH) // timedelta(milliseconds=1)


def lasts_until(power: Power, purpose: str, vocabulary: Vocabulary) -> int:
    """The instant at which a permit for a purpose ends with the authority: for research at 18, else at 14."""
    if power.lasts:
        return OPEN_END_MS
    is_research = "HRESCH" in above(vocabulary.purposes, purpose)
    grown = OPEN_END_MS if power.born is None else birthday_ms(power.born, 18 if is_research else 14)
    return min(grown, power.end_ms, power.ended_ms)


def borders(power: Power) -> list[int]:
    """The instants at which something may end."""
    grown = [] if power.born is None else [birthday_ms(power.born, 14), birthday_ms(power.born, 18)]
    return [one for one in (*grown, power.end_ms, power.ended_ms) if one != OPEN_END_MS]
