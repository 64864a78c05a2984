"""State what a ledger has pruned, and verify that its published policy allows it (ledger-format.md, "Pruning")."""

import re
from dataclasses import dataclass

from consentd.core.codec import Event
from consentd.core.kinds import PRUNABLE
from consentd.core.tiles import TILE_WIDTH
from consentd.errors import MalformedError, ProofError

DAY_MS = 86_400_000
FILE = "pruned"
"""Path of the file in which a ledger shows what it has pruned; it is served like the tiles."""

_FORM = re.compile(rb"minimum [0-9]{1,19}\nstart ([0-9]{1,19})\nkept_from_ms ([0-9]{1,19})\n")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a ledger has pruned.

    Attributes:
        kept_from_ms: all entries from this time on remain, and so do the entries that they rest on.
        start: size of the tree at which a reader without earlier state starts; 0: every leaf remains.
    """

    kept_from_ms: int = 0
    start: int = 0

    @property
    def minimum(self) -> int:
        """The minimum index: every leaf from this index on remains. A multiple of 256, so that bundles are complete."""
        return self.start - self.start % TILE_WIDTH

    def covers(self, event: Event) -> bool:
        """Return whether the statement of this event may be missing, because its kind and age are pruned."""
        return event.time_ms < self.kept_from_ms and event.kind in PRUNABLE

    def verify_policy(self, *, days: int, time_ms: int) -> None:
        """Verify that an entry of time *time_ms* may state this pruning, if leaf 0 published a retention of *days*.

        Raises:
            ProofError: some of what is pruned was younger than the retention.
        """
        # INVARIANT: the policy in leaf 0 counts. Otherwise the author of later entries could change it.
        if not days or self.kept_from_ms + days * DAY_MS > time_ms:
            raise ProofError("ledger states to have pruned what its retention policy keeps")


NOTHING = Pruned()


@dataclass(slots=True)
class Retention:
    """What the ledger's own chain has stated so far: *days*, the age from which entries may be pruned (0: never), and
    *kept_from_ms*, the time before which they are pruned (0: none are).
    """

    days: int = 0
    kept_from_ms: int = 0

    def apply(self, event: Event, days: int, pruned: Pruned | None) -> None:
        """Apply a LEDGER entry; raise as ``Pruned.verify_policy``. *days* is used in leaf 0 only; *pruned* is None if
        the entry states no pruning.
        """
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
