"""Faults, counts and the report of a verification.

A *fault* is something wrong in the ledger. *Not checked* is something that could not be determined, because the source
does not have what the check needs; the constants here name every such thing.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from consentd.core.checkpoint import Checkpoint

MAX_FAULTS = 100
"""A search ends after this many faults."""

Progress = Callable[[int, int], None]
"""Called with the number of items done, and of all items."""

# What could not be determined. Keys of ``Report.not_checked``.
NO_STATEMENTS = "statements, because the source has none"
CLOSED = "statements that are erased, outside the mandate, or encrypted without the vault"
WITHHELD = "statements of persons who were not erased, while those of others are readable"
KEY_UNKNOWN = "signatures by keys that an unreadable entry may have put in force"
UNKNOWN_FIELDS = "what entries state about keys or the ledger, in fields that this version does not know"
UNKNOWN_KIND = "entries of kinds that this version does not know"
NO_MAP = "map roots of seals, because heads of some chains are unknown"
NO_PRUNING_STATEMENT = "what is pruned, because statements of chain `ledger` are missing"
DECISION_CLOSED = "decisions whose statement is erased, or outside the mandate"
DECISION_PRUNED = "decisions from before the time from which everything is kept"
DECISION_UNCERTAIN = "decisions on consents of which an entry is unreadable"
NO_TABLE = "policy table, which needs the vault and a ledger without faults"

UNDETERMINED = frozenset({UNKNOWN_KIND, UNKNOWN_FIELDS, WITHHELD, NO_MAP, NO_PRUNING_STATEMENT})
"""Those that an auditor should always be able to determine. Where one of them occurs, the ledger is not proven."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        index: of the entry or seal concerned; None if it concerns no single one.
        what: a sentence for the operator, without any identifier of a person.
    """

    index: int | None
    what: str


class TooManyFaults(Exception):  # noqa: N818  # it ends a search and reports no error
    """Ends a search that has found ``MAX_FAULTS``."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a verification has read.

    Attributes:
        entries, seals: leaves, by kind.
        statements_opened: statements that match their leaves and are signed by a key in force.
        statements_erased: statements missing from chains that end in an ERASURE.
        leaves_pruned, statements_pruned: missing ones that the ledger states to have pruned, within its policy.
    """

    entries: int = 0
    seals: int = 0
    statements_opened: int = 0
    statements_erased: int = 0
    leaves_pruned: int = 0
    statements_pruned: int = 0


@dataclass(slots=True)
class Findings:
    """What a search has found so far."""

    faults: list[Fault] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)
    counts: Counts = field(default_factory=Counts)

    def not_checked(self, what: str) -> None:
        """Count something that could not be determined."""
        self.unchecked[what] += 1

    def add(self, index: int | None, what: str) -> None:
        """Add a fault. Raises TooManyFaults: this was fault number ``MAX_FAULTS``."""
        self.faults.append(Fault(index, what))
        if len(self.faults) >= MAX_FAULTS:
            raise TooManyFaults


@dataclass(slots=True, kw_only=True)
class Report(Counts):
    """The result of a verification.

    Attributes:
        checkpoint: name, size and root of the tree that was verified.
        start: index of the first leaf that was read.
        size: number of leaves up to which the search came.
        tags: chains seen.
        not_checked: what could not be determined, and how often.
        faults: ordered by index, at most ``MAX_FAULTS``.
        stopped: the search ended at ``MAX_FAULTS``, so there may be more faults.
        cosignatures: the witnesses that were asked for and cosigned the checkpoint, and when, in POSIX seconds.
    """

    checkpoint: Checkpoint
    start: int
    size: int
    tags: int
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool
    cosignatures: tuple[tuple[str, int], ...] = ()

    @property
    def is_undetermined(self) -> bool:
        """Whether something of ``UNDETERMINED`` occurred."""
        return bool(self.not_checked.keys() & UNDETERMINED)
