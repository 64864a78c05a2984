"""How often a consent permits a transfer: its periods, and the transfers that used it up (policy.md, rule 13).

A consent that states a recurrence permits, in each of its periods, one transfer of each leaf category from each holder.
A period begins at the start of the consent and after each duration, by the calendar of Asia/Seoul. The policy table
has, for each such consent, the duration, the start, and its *uses*: the accesses that were permitted.
"""

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import MAXYEAR, datetime, timedelta
from typing import Final, NamedTuple

from consentd import limits
from consentd.errors import InvalidError
from consentd.policy.dates import SEOUL
from consentd.policy.model import OPEN_END_MS

ONCE: Final = "once"
MAX_USES: Final = limits.CONSENT_USES
"""Most uses of a consent that are not over. Beyond, its permits permit no transfer until one of them is over."""
MAX_KEPT_USES: Final = 2 * MAX_USES
"""Most uses that are kept: those that are not over, and those of the period before, which show what was missed."""

_DURATION: Final = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,6})Y)?(?:(\d{1,6})M)?(?:(\d{1,6})W)?(?:(\d{1,6})D)?"
    r"(?:T(?=\d)(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,6})S)?)?",
    re.ASCII,
)
_DAY_MS: Final = 86_400_000
_UNITS_MS: Final = (7 * _DAY_MS, _DAY_MS, 3_600_000, 60_000, 1_000)  # weeks, days, hours, minutes, seconds
_EPOCH: Final = datetime(1970, 1, 1, 9, tzinfo=SEOUL)  # the instant 0
_MILLISECOND: Final = timedelta(milliseconds=1)


class Use(NamedTuple):
    """A permitted transfer, which keeps the consent's permits from counting for the same data until its period ends.

    Attributes:
        holder: number of the participant that has the data.
        until_ms: the end of the period, UTC milliseconds.
        access: seq of the ACCESS entry, in the person's chain; 0: an outcome is recorded that keeps the use.
        categories: mask of the leaf categories that were permitted.
    """

    holder: int
    until_ms: int
    access: int
    categories: int


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The recurrence of the version in force of a consent, and its uses.

    Attributes:
        months, rest_ms: the duration, in months and in milliseconds beside them. Both are 0 for *once*, which has one
            period without an end.
        start_ms: when the first period begins, UTC milliseconds.
        uses: in ascending order.
    """

    months: int
    rest_ms: int
    start_ms: int
    uses: tuple[Use, ...] = ()

    def bound(self, number: int) -> int:
        """Return when period *number*, from 0, begins, UTC milliseconds; ``OPEN_END_MS``: after the year 9999."""
        if not number:
            return self.start_ms
        if not (self.months or self.rest_ms):
            return OPEN_END_MS
        start_ms = _months_later(self.start_ms, number * self.months)
        return OPEN_END_MS if start_ms is None else min(OPEN_END_MS, start_ms + number * self.rest_ms)

    def number_at(self, now_ms: int) -> int:
        """Return the number of the period that contains an instant; 0 also for one before the first period."""
        if now_ms < self.start_ms or not (self.months or self.rest_ms):
            return 0
        passed_ms = now_ms - self.start_ms
        low = passed_ms // (31 * _DAY_MS * self.months + self.rest_ms)
        high = passed_ms // (28 * _DAY_MS * self.months + self.rest_ms) + 1
        while high - low > 1:  # INVARIANT: bound(low) <= now_ms < bound(high)
            middle = (low + high) // 2
            if self.bound(middle) <= now_ms:
                low = middle
            else:
                high = middle
        return low

    def period_at(self, now_ms: int) -> tuple[int, int]:
        """Return the period that contains an instant, UTC milliseconds: [start, end)."""
        number = self.number_at(now_ms)
        return self.bound(number), self.bound(number + 1)

    def used(self, holder: int, now_ms: int) -> tuple[int, int]:
        """Return the mask of the categories that are used up for a holder at an instant, and when that may change.

        The mask has every bit if ``MAX_USES`` uses are not over.
        """
        mask, until_ms = 0, OPEN_END_MS
        lasting = [one for one in self.uses if one.until_ms > now_ms]
        if len(lasting) >= MAX_USES:
            return -1, min(one.until_ms for one in lasting)
        for one in lasting:
            if one.holder == holder:
                mask |= one.categories
                until_ms = min(until_ms, one.until_ms)
        return mask, until_ms

    def with_use(self, use: Use, now_ms: int) -> "Recurrence":
        """Return the recurrence after an access. Uses that ended before the present period are dropped.

        With ``MAX_USES`` uses that are not over, no access is permitted, so none is added.
        """
        since_ms = self.period_at(now_ms)[0]
        lasting = [one for one in self.uses if one.until_ms > now_ms]
        if len(lasting) >= MAX_USES:
            return self
        before = [one for one in self.uses if since_ms <= one.until_ms <= now_ms]
        return self._of([*lasting, *before[: MAX_KEPT_USES - MAX_USES], use])

    def confirmed(self, access: int) -> "Recurrence":
        """Return the recurrence after an outcome of an access that keeps its use."""
        return self._of(one._replace(access=0) if one.access == access else one for one in self.uses)

    def given_back(self, access: int) -> "Recurrence":
        """Return the recurrence without the uses of an access."""
        return self._of(one for one in self.uses if one.access != access)

    def since(self, kept_from_ms: int) -> "Recurrence":
        """Return the recurrence without the uses that were over at an instant."""
        return self._of(one for one in self.uses if one.until_ms > kept_from_ms)

    def _of(self, uses: Iterable[Use]) -> "Recurrence":
        joined: dict[tuple[int, int, int], int] = {}
        for holder, until_ms, access, categories in uses:
            key = holder, until_ms, access
            joined[key] = joined.get(key, 0) | categories
        return replace(self, uses=tuple(Use(*key, joined[key]) for key in sorted(joined)))


def parse_recurrence(text: str) -> tuple[int, int]:
    """Return the months, and the milliseconds beside them, of a stated recurrence; (0, 0) for *once*.

    Raises:
        InvalidError: INVALID_CONSENT: it is neither *once* nor an ISO 8601 duration of more than nothing, each number
            of which has at most six digits.
    """
    if text == ONCE:
        return 0, 0
    found = _DURATION.fullmatch(text)
    numbers = [int(number or 0) for number in found.groups()] if found is not None else [0]
    if not any(numbers):
        what = "recurrence is neither once nor an ISO 8601 duration of more than nothing"
        raise InvalidError(f"{what}: `{text}`", "INVALID_CONSENT")
    years, months, *others = numbers
    return 12 * years + months, sum(number * unit for number, unit in zip(others, _UNITS_MS, strict=True))


def begin(text: str, start_ms: int, time_ms: int, replaced: Recurrence | None) -> Recurrence | None:
    """Return the recurrence of a new version of a consent; None: it states none.

    Args:
        text: what the version states.
        start_ms: the start of its root; 0: it states none.
        time_ms: the time of its entry.
        replaced: the recurrence of the version that it replaces; None: there is none.

    A version with the duration and the start of the one that it replaces keeps its periods and its uses.
    """
    if not text:
        return None
    months, rest_ms = parse_recurrence(text)
    is_same = replaced is not None and (replaced.months, replaced.rest_ms) == (months, rest_ms)
    if replaced is not None and is_same and start_ms in (0, replaced.start_ms):
        return replaced
    return Recurrence(months, rest_ms, start_ms or time_ms)


def _months_later(time_ms: int, months: int) -> int | None:
    """Return the instant so many months later in Asia/Seoul: the same day of the month and the same time of day.

    In a month that has no such day, its last day. None: it is after the year 9999.
    """
    if not months:
        return time_ms
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    if year > MAXYEAR:
        return None
    day = min(moment.day, monthrange(year, month + 1)[1])
    return (moment.replace(year=year, month=month + 1, day=day) - _EPOCH) // _MILLISECOND

