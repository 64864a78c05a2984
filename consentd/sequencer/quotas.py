"""Count what one caller does to one person's chain, and refuse what is over the quotas of the realm's rules.

There are three quotas (``model.Quotas``). Two limit the entries of a day that one caller makes in the chain of one
person: all entries, and refusals of access. The third limits how many persons one caller checks in an hour without an
access that follows. A person is known by the hash of the identifier, enrolled or not. So a quota does not show who is
enrolled. The first counts too what a participant signs in public chains, whatever the chain: its record, keys, notices,
delegations and mandates. It is known by the tag of its own chain.

Exempt are operators, questions of break-glass, accesses that a law permits, and PAUSE, REVOKE, and what a participant
ends or retires: of these there are no more than of what they take away. A consent that only denies is refused much
later than other entries (``DENIES``).

**Memory** is bounded whatever callers send. The entries of a day are counted in a count-min sketch: four counters for
each caller and person, which others may share; the least of the four counts. So a caller is never allowed more than its
quota, and may be refused too early if the ledger has far more entries in a day than the sketch has counters (262,144):
at a million entries the error is about ten. The persons of an hour are a set for each caller, no longer than the quota.

**A restart forgets all counts**, so a caller may begin its quotas anew then. The windows are fixed: a day of Asia/Seoul
for entries, and for persons an hour from the first check.
"""

import threading
from array import array
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b

from consentd.core.pruned import DAY_MS
from consentd.errors import OverloadedError
from consentd.metrics import Metrics
from consentd.policy.dates import SEOUL
from consentd.policy.model import Quotas

HOUR_MS = 3_600_000
DENIES = 10
"""A consent that only denies is refused at so many times the quota of entries."""
_SEOUL_OFFSET_MS = SEOUL.utcoffset(None) // timedelta(milliseconds=1)
_ROWS = 4
_COLUMNS = 1 << 18
_MOST = (1 << 16) - 1  # a counter has 16 bits and stays at this figure


class Sketch:
    """A count-min sketch of 16-bit counters, for the events of one window. Takes 2 MiB."""

    def __init__(self) -> None:
        self._window = -1
        self._counters: array[int] = array("H")

    def begin(self, window: int) -> None:
        """Forget all counts if *window* is another one than that of the counts."""
        if window != self._window:
            self._window, self._counters = window, array("H", bytes(2 * _ROWS * _COLUMNS))

    def count(self, key: bytes) -> int:
        """Return how often *key* was added in this window; or more, if other keys share its counters."""
        return min(self._counters[place] for place in self._places(key))

    def add(self, key: bytes) -> None:
        """Count *key* once more."""
        for place in self._places(key):
            if self._counters[place] < _MOST:
                self._counters[place] += 1

    @staticmethod
    def _places(key: bytes) -> list[int]:
        digest = blake2b(key, digest_size=4 * _ROWS).digest()
        found = (int.from_bytes(digest[4 * row : 4 * row + 4]) for row in range(_ROWS))
        return [row * _COLUMNS + number % _COLUMNS for row, number in enumerate(found)]


@dataclass(slots=True)
class _CheckedPersons:
    """The persons that one caller checked since *start_ms*, and about whom it recorded no access since."""

    start_ms: int
    persons: set[bytes] = field(default_factory=set)


class QuotaCounter:
    """Counts for all callers. ``count_entry`` is for the sequencer's thread; any thread may call the other methods.

    Attributes:
        has_gate: whether a gate answers checks too. It counts half of the persons of an hour, so that here only the
            other half is left.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self.has_gate = metrics, False
        self._entries, self._refusals = Sketch(), Sketch()
        # This lock guards the attribute below. count_person and forget_person take it to change something.
        self._lock = threading.Lock()
        self._checked: dict[str, _CheckedPersons] = {}

    def count_entry(
        self, caller: str, identifier_hash: bytes, quotas: Quotas, *, now_ms: int, is_refusal: bool = False,
        only_denies: bool = False,
    ) -> None:  # fmt: skip
        """Count an entry, or an access that is refused without an entry. *now_ms*: its time, UTC ms.

        *identifier_hash*: of the person; or the tag of the participant's own chain, of what it signs in public chains.
        *is_refusal*: the entry is a REFUSAL, or would be. *only_denies*: it is a consent that permits nothing.

        Raises:
            OverloadedError: (QUOTA_EXCEEDED) the caller's quota for this person and day is used up; nothing is counted.
        """
        key = caller.encode() + b"\0" + identifier_hash
        day, since_ms = divmod(now_ms + _SEOUL_OFFSET_MS, DAY_MS)
        counted = [(self._entries, "entries", quotas.entries_per_day * (DENIES if only_denies else 1))]
        if is_refusal:
            counted.append((self._refusals, "refusals", quotas.refusals_per_day))
        for sketch, name, most in counted:
            sketch.begin(day)
            if sketch.count(key) >= most:
                what = f"caller's quota of {name} about one person, or about itself, in a day is used up: `{most}`"
                raise self._exceeded(name, what, DAY_MS - since_ms)
        for sketch, _, _ in counted:
            sketch.add(key)

    def count_person(self, caller: str, identifier_hash: bytes, quotas: Quotas, *, now_ms: int) -> None:
        """Count a person whom the caller checks. A person who is counted already is not counted again.

        Raises:
            OverloadedError: (QUOTA_EXCEEDED) the caller's quota for this hour is used up; nothing is counted.
        """
        checked = self._checked.get(caller)
        if checked is not None and 0 <= now_ms - checked.start_ms < HOUR_MS and identifier_hash in checked.persons:
            return  # most checks are about a person who is counted, and need no lock to see that
        with self._lock:
            checked = self._checked.get(caller)
            if checked is None or not checked.start_ms <= now_ms < checked.start_ms + HOUR_MS:
                checked = self._checked[caller] = _CheckedPersons(now_ms)
            if identifier_hash in checked.persons:
                return
            of_gate = quotas.persons_per_hour // 2 if self.has_gate else 0
            if len(checked.persons) < quotas.persons_per_hour - of_gate:
                checked.persons.add(identifier_hash)
                return
        what = f"caller's quota of persons checked in an hour is used up: `{quotas.persons_per_hour}`"
        raise self._exceeded("persons", what, checked.start_ms + HOUR_MS - now_ms)

    def forget_person(self, caller: str, identifier_hash: bytes) -> None:
        """Count a person no longer as checked: an access of the same caller followed."""
        with self._lock:
            checked = self._checked.get(caller)
            if checked is not None:
                checked.persons.discard(identifier_hash)

    def forget_everywhere(self, identifier_hash: bytes) -> None:
        """Count a person as checked by nobody, because the person was erased."""
        with self._lock:
            for checked in self._checked.values():
                checked.persons.discard(identifier_hash)

    def _exceeded(self, name: str, message: str, retry_after_ms: int) -> OverloadedError:
        self._metrics.quota_refusals.inc(name)
        return OverloadedError(message, "QUOTA_EXCEEDED", retry_after_ms=retry_after_ms)
