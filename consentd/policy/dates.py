"""Convert FHIR dates to instants. Days begin and end at midnight in Asia/Seoul (policy.md, rule 4).

Korea has had UTC+9 without daylight saving time since 1988. Earlier dates are read with UTC+9 too.
"""

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final

from consentd.errors import InvalidError

SEOUL: Final = timezone(timedelta(hours=9))

_DATE: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
_INSTANT: Final = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:\.(\d+))?(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_FIRST_MS: Final = (datetime(1, 1, 1, tzinfo=SEOUL) - _EPOCH) // _MILLISECOND
_LAST_END_MS: Final = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH + _DAY) // _MILLISECOND
_MINUTE_MS: Final = 60_000


def is_instant(time_ms: int) -> bool:
    """Return whether an instant, or the end of a period, is in the years 1 to 9999 of Asia/Seoul or of UTC."""
    return _FIRST_MS <= time_ms <= _LAST_END_MS


def is_date(text: str) -> bool:
    """Return whether ``text`` has the form of a FHIR date, month or year."""
    return _DATE.fullmatch(text) is not None


def start_of_date_ms(text: str) -> int:
    """Return the first instant of a date, month or year (``2026-12-31``, ``2026-12``, ``2026``), in UTC ms.

    Raises (so does ``end_of_date_ms``):
        InvalidError: the text is no date, month or year, or the calendar has no such date.
    """
    return _midnight_ms(_bounds(text)[0])


def end_of_date_ms(text: str) -> int:
    """Return the first instant after a date, month or year, in UTC ms: the end of a half-open window."""
    return _midnight_ms(_bounds(text)[1]) + _DAY // _MILLISECOND


def birthday_ms(birth_date: str, years: int) -> int:
    """Return when somebody born on a date (``2015-02-28``) completes so many years, in UTC ms: midnight in Asia/Seoul.

    The day of birth counts as the first one (Civil Act 158). Who was born on 29 February completes a year that has no
    such day on 1 March.

    Raises:
        InvalidError: the text is no date, the calendar has no such date, or the birthday is after the year 9999.
    """
    day = _bounds(birth_date)[0]
    if len(birth_date) != len("2015-02-28"):
        raise InvalidError("birth date has no day of the month")
    try:
        birthday = day.replace(year=day.year + years)
    except ValueError:
        if day.year + years > date.max.year:
            raise InvalidError("birthday is after the year 9999") from None
        birthday = date(day.year + years, 3, 1)
    return _midnight_ms(birthday)


def parse_instant_ms(text: str) -> int:
    """Convert a FHIR ``dateTime`` with time and zone to UTC ms, rounded down.

    Raises:
        InvalidError: the text is no instant, or the calendar has no such instant. Hour 24 and second 60 are refused.
    """
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise InvalidError(f"not an instant with time and zone, as in 2027-12-31T09:00:00+09:00: `{text}`")
    *numbers, fraction, zone = found.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    try:
        # The zone is subtracted later, from the milliseconds: a datetime near the end of year 9999 would overflow.
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise InvalidError(f"no such instant: `{text}`") from error
    shift = 0
    if zone != "Z":
        shift = (int(zone[1:3]) * 60 + int(zone[4:6])) * (-1 if zone[0] == "-" else 1)
    thousandths = int(((fraction or "") + "000")[:3])
    return (local - _EPOCH) // _MILLISECOND - shift * _MINUTE_MS + thousandths


def format_instant(time_ms: int) -> str:
    """Format an instant in Korean time, to the second: ``2026-03-01 09:00:00 KST``."""
    try:
        moment = datetime(1970, 1, 1, 9, tzinfo=SEOUL) + timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} ms"  # ``datetime`` has only the years 1 to 9999
    return f"{moment:%Y-%m-%d %H:%M:%S}".rjust(19, "0") + " KST"


def format_month(time_ms: int) -> str:
    """Format the month of an instant in Korean time: ``2026-03``."""
    return f"{datetime.fromtimestamp(time_ms / 1000, SEOUL):%Y-%m}"


def format_day(time_ms: int) -> str:
    """Format the day of an instant in Korean time: ``2026-03-01``."""
    return f"{datetime.fromtimestamp(time_ms / 1000, SEOUL):%Y-%m-%d}"


def _bounds(text: str) -> tuple[date, date]:
    """Return the first day and the last day of a date, month or year."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise InvalidError(f"not a date, month or year: `{text}`")
    year, month, day = (None if part is None else int(part) for part in found.groups())
    try:
        first = date(year or 0, 1 if month is None else month, 1 if day is None else day)
        if day is not None:
            return first, first
        if month is not None:
            return first, date(first.year, first.month, monthrange(first.year, first.month)[1])
        return first, date(first.year, 12, 31)
    except ValueError as error:
        raise InvalidError(f"no such date: `{text}`") from error


def _midnight_ms(day: date) -> int:
    return (datetime(day.year, day.month, day.day, tzinfo=SEOUL) - _EPOCH) // _MILLISECOND
