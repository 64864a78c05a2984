"""Describe what a ledger has pruned (deleted by age), and verify that its policy allows it (ledger-format.md 10.2)."""

import re
from dataclasses import dataclass

from consentd.core.codec import Event
from consentd.core.kinds import PRUNABLE
from consentd.core.tiles import TILE_WIDTH
from consentd.errors import MalformedError, ProofError

DAY_MS = 86_400_000
FILE = "pruned"
"""Path of the file in which a ledger shows what it has pruned. The file is served like the tiles."""

_FORM = re.compile(rb"minimum [0-9]{1,19}\nstart ([0-9]{1,19})\nkept_from_ms ([0-9]{1,19})\n")


@dataclass(frozen=True, slots=True)
class Pruned:
    """How far a ledger is pruned.

    Attributes:
        kept_from_ms: all entries from this time on remain, and also the earlier entries that they rest on.
        start: size of the tree right after a certain seal; no leaf from this index on is missing; 0: none is missing.
    """

    kept_from_ms: int = 0
    start: int = 0

    @property
    def minimum(self) -> int:
        """The minimum index: every leaf from this index on remains. A multiple of 256, so that bundles are complete."""
        return self.start - self.start % TILE_WIDTH

    def covers(self, event: Event) -> bool:
        """Return whether this event's statement may be missing, because entries of its kind and age were pruned."""
        return event.time_ms < self.kept_from_ms and event.kind in PRUNABLE

    def verify_policy(self, *, days: int, time_ms: int) -> None:
        """Verify that an entry of time *time_ms* may state this pruning. *days*: leaf 0's retention; 0: never prune.

        Raises:
            ProofError: entries may have been pruned before the end of their retention.
        """
        # INVARIANT: only the policy in leaf 0 is used. Otherwise the author of later entries could change the policy.
        if not days or self.kept_from_ms + days * DAY_MS > time_ms:
            raise ProofError("ledger states to have pruned what its retention policy keeps")


NOTHING = Pruned()


@dataclass(slots=True)
class Retention:
    """The retention that the ledger's own chain has stated so far: *days*, the age from which entries may be pruned (0:
    never), and *kept_from_ms*, the time before which entries are pruned (0: none are pruned).
    """

    days: int = 0
    kept_from_ms: int = 0

    def apply(self, event: Event, days: int, pruned: Pruned | None) -> None:
        """Apply a LEDGER entry; raise as ``verify_policy``. *days* is for leaf 0 only. *pruned*: None if not stated."""
        if event.seq == 1:
            self.days = days
        if pruned is not None:
            pruned.verify_policy(days=self.days, time_ms=event.time_ms)
            self.kept_from_ms = max(self.kept_from_ms, pruned.kept_from_ms)


def format_pruned(pruned: Pruned) -> bytes:
    """Format the file that shows what is pruned. The file is not signed; a LEDGER entry proves its content."""
    return b"minimum %d\nstart %d\nkept_from_ms %d\n" % (pruned.minimum, pruned.start, pruned.kept_from_ms)


def parse_pruned(content: bytes) -> Pruned:
    """Parse the file that shows what is pruned.

    Raises:
        MalformedError: the content has another form.
    """
    match = _FORM.fullmatch(content)
    pruned = NOTHING if match is None else Pruned(int(match[2]), int(match[1]))
    if match is None or format_pruned(pruned) != content:
        raise MalformedError("file that shows what is pruned is malformed")
    return pruned
