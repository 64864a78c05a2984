"""The reference for recurrences: the periods of a consent, and which transfers used it up (policy.md, rule 13).

Periods are counted one after the other, on the calendar of Asia/Seoul, which has been UTC+9 since 1988.
"""

from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

SEOUL = timezone(timedelta(hours=9))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LETTERS = {"W": timedelta(weeks=1), "D": timedelta(days=1), "H": timedelta(hours=1), "S": timedelta(seconds=1)}


@dataclass(frozen=True)
class Transfer:
    """A permitted collect: the consent that permitted it, from which holder, of which leaf categories, and when."""

    lineage: int
    holder: str
    categories: tuple[str, ...]
    time_ms: int


def moment(time_ms: int) -> datetime:
    return (EPOCH + timedelta(milliseconds=time_ms)).astimezone(SEOUL)


def later(start: datetime, text: str, times: int) -> datetime:
    """The end of so many durations after a start: first the years and months, then the rest."""
    months, rest = 0, timedelta()
    in_time, number = False, ""
    for letter in text[1:]:
        if letter == "T":
            in_time = True
        elif letter.isdigit():
            number += letter
        else:
            count, number = int(number), ""
            if letter in "YM" and not in_time:
                months += count * (12 if letter == "Y" else 1)
            else:
                rest += count * (timedelta(minutes=1) if letter == "M" else LETTERS[letter])
    whole = start.year * 12 + start.month - 1 + months * times
    year, month = whole // 12, whole % 12 + 1
    return start.replace(year=year, month=month, day=min(start.day, monthrange(year, month)[1])) + rest * times


def period(text: str, start_ms: int, now_ms: int) -> tuple[datetime, datetime | None]:
    """The period of a consent that contains an instant; None: it has no end."""
    start, number = moment(start_ms), 0
    if text == "once":
        return start, None
    if not set(text.partition("T")[0]) & set("YM"):  # all periods are of one length
        number = max(0, (moment(now_ms) - start) // (later(start, text, 1) - start))
    while later(start, text, number + 1) <= moment(now_ms):
        number += 1
    return later(start, text, number), later(start, text, number + 1)


def end_ms(text: str, start_ms: int, now_ms: int) -> int | None:
    """The end of the period that contains an instant, UTC milliseconds; None: it has none."""
    end = period(text, start_ms, now_ms)[1]
    return None if end is None else (end - EPOCH) // timedelta(milliseconds=1)


def used(text: str, start_ms: int, transfers: Iterable[Transfer], holder: str, now_ms: int) -> set[str]:
    """The categories that a consent permits no more from a holder, in the period that contains an instant."""
    begin, end = period(text, start_ms, now_ms)
    same = [one for one in transfers if one.holder == holder and begin <= moment(one.time_ms)]
    return {code for one in same if end is None or moment(one.time_ms) < end for code in one.categories}
