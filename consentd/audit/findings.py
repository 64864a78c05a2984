"""What an audit finds: what is wrong, where; what could not be told; how much there was."""

from collections.abc import Callable
from dataclasses import dataclass

from consentd.core.checkpoint import Checkpoint
from consentd.verify.findings import Fault, Findings

UNKEPT = "statements that this place does not hold"
CLOSED = "statements erased, or outside the mandate"
NO_TERM = "signatures by keys put in force by entries not at hand"
NO_MAP = "map roots of seals, for want of the chains before the trusted checkpoint"
UNSTATED = "what is pruned, for want of the statements of chain `ledger`"
UNKNOWN = "entries of kinds that this version does not know"
UNREAD = "what entries say of keys or of the ledger, in fields that this version does not know"
WITHHELD = "statements of persons who were not erased, while others' are at hand"

Progress = Callable[[int, int], None]
"""(done, of how many): how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification found.

    Attributes:
        checkpoint: whose tree was verified.
        start: index of the first leaf looked at.
        opened: statements that are what their leaves commit to, signed by a key in force.
        leaves_pruned, statements_pruned: those that are gone as the ledger states, within its policy.
        not_checked: what could not be, and how often.
        faults: in the order of the ledger, at most a hundred.
        stopped: there may be more.
    """

    checkpoint: Checkpoint
    start: int
    entries: int
    seals: int
    tags: int
    opened: int
    leaves_pruned: int
    statements_pruned: int
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool

    @property
    def is_untold(self) -> bool:
        """Whether something could not be told that the leaves alone should tell."""
        return bool(self.not_checked.keys() & {UNKNOWN, UNREAD, WITHHELD, NO_MAP, UNSTATED})


@dataclass(slots=True)
class Found(Findings):
    """What is found so far, counts included; the fields are ``Report``'s."""

    entries: int = 0
    seals: int = 0
    opened: int = 0
    leaves_pruned: int = 0
    statements_pruned: int = 0
