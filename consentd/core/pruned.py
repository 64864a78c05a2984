"""Say what a ledger no longer keeps, and hold it to what it published. Source: ledger-format.md, "Pruning"."""

import re
from dataclasses import dataclass

from consentd.core.codec import Event
from consentd.core.kinds import PRUNABLE
from consentd.core.tiles import TILE_WIDTH
from consentd.errors import MalformedError, ProofError

DAY_MS = 86_400_000
FILE = "pruned"
"""Where a ledger shows it beside its tiles."""

_FORM = re.compile(rb"minimum [0-9]{1,19}\nstart ([0-9]{1,19})\nkept_from_ms ([0-9]{1,19})\n")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a ledger no longer keeps.

    Attributes:
        kept_from_ms: everything of this time or later is there, and what that rests on.
        start: size of the tree where whoever holds nothing begins; 0: every leaf is there.
    """

    kept_from_ms: int = 0
    start: int = 0

    @property
    def minimum(self) -> int:
        """The minimum index: from here on every leaf is there. A multiple of 256, so that bundles are whole."""
        return self.start - self.start % TILE_WIDTH

    def covers(self, event: Event) -> bool:
        """Return whether the statement of this event may be missing, because it is old and of a kind that is pruned."""
        return event.time_ms < self.kept_from_ms and event.kind in PRUNABLE

    def verify_policy(self, *, days: int, time_ms: int) -> None:
        """Verify that an entry of *time_ms* may state this, where leaf 0 published a retention of *days*.

        Raises:
            ProofError: the policy keeps some of it.
        """
        # INVARIANT: the policy counts as it was published first: who may write later entries could change it.
        if not days or self.kept_from_ms + days * DAY_MS > time_ms:
            raise ProofError("ledger states to have pruned what its retention policy keeps")


NOTHING = Pruned()


@dataclass(slots=True)
class Retention:
    """What the ledger's own chain has said so far of what it keeps, entry by entry.

    Attributes:
        days: how old an entry must be before it may be pruned, as leaf 0 published it; 0: nothing ever is.
        kept_from_ms: the time before which it states to have pruned; 0: nothing.
    """

    days: int = 0
    kept_from_ms: int = 0

    def take(self, event: Event, days: int, pruned: Pruned | None) -> None:
        """Take what a LEDGER entry says: *days* counts in leaf 0 alone; *pruned*: None where it states no pruning.

        Raises:
            ProofError: the policy keeps some of what it states to have pruned.
        """
        if event.seq == 1:
            self.days = days
        if pruned is not None:
            pruned.verify_policy(days=self.days, time_ms=event.time_ms)
            self.kept_from_ms = max(self.kept_from_ms, pruned.kept_from_ms)


def format_pruned(pruned: Pruned) -> bytes:
    """Format what a ledger shows of it beside its tiles. It is a claim; the LEDGER entry proves it."""
    return b"minimum %d\nstart %d\nkept_from_ms %d\n" % (pruned.minimum, pruned.start, pruned.kept_from_ms)


def parse_pruned(content: bytes) -> Pruned:
    """Parse it.

    Raises:
        MalformedError: it is not that.
    """
    match = _FORM.fullmatch(content)
    pruned = NOTHING if match is None else Pruned(int(match[2]), int(match[1]))
    if match is None or format_pruned(pruned) != content:
        raise MalformedError("what is pruned is said in no known form")
    return pruned
