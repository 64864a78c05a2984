"""Define the faults, the counts and the report of a verification.

A *fault* is something wrong in the ledger. *Not checked* is something that could not be determined, because the files
or the daemon that the ledger is read from lack the needed bytes. The constants below name every such case.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from consentd.core.checkpoint import Checkpoint
from consentd.core.rotation import FollowedKey

MAX_FAULTS = 100
"""A verification ends after this many faults."""

Progress = Callable[[int, int], None]
"""A function that is called with the number of items done and the number of all items."""

# Each text names something that could not be determined. The texts are keys of ``Report.not_checked``.
NO_STATEMENTS = "statements, because the source has none"
CLOSED = "statements that are erased, outside the mandate, or encrypted without the vault"
NO_PERSONS = "statements of persons, none of which this reader may read"
WITHHELD = "statements of persons who were not erased, while those of others are readable"
KEY_UNKNOWN = "signatures by keys that an unreadable entry may have put in force"
UNKNOWN_FIELDS = "what entries state about keys or the ledger, in fields that this version does not know"
UNKNOWN_KIND = "entries of kinds that this version does not know"
NO_MAP = "map roots of seals, because heads of some chains are unknown"
NO_PRUNING_STATEMENT = "what is pruned, because statements of chain `ledger` are missing"
DECISION_CLOSED = "decisions whose statement is erased, or outside the mandate"
DECISION_PRUNED = "decisions from before the time from which everything is kept"
DECISION_UNCERTAIN = "decisions on consents of which an entry is unreadable"
OUTCOME_UNCOMPARED = "outcomes whose access cannot be read, so that what was transferred is compared with no decision"
ERASED_SINCE = "statements of persons whom the list of erasures names, and whose ERASURE this restored copy lacks"
NO_TABLE = "policy table, which needs the vault and a ledger without faults"

UNDETERMINED = frozenset(
    {UNKNOWN_KIND, UNKNOWN_FIELDS, NO_STATEMENTS, NO_PERSONS, WITHHELD, NO_MAP, NO_PRUNING_STATEMENT}
)
"""What an auditor should always be able to determine. If a report has one of these texts, the ledger is not proven."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        index: index of the leaf that is wrong; None: the fault concerns no single leaf.
        what: a sentence for the operator, without any identifier of a person.
    """

    index: int | None
    what: str


class TooManyFaults(Exception):  # noqa: N818  # it ends a verification and reports no error
    """Ends a verification that has found ``MAX_FAULTS`` faults."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """Numbers of leaves and statements, counted by a verification.

    Attributes:
        entries, seals: leaves that record an act, and leaves that commit to the heads of all chains.
        statements_opened: statements that match their leaves and are signed by a key in force.
        statements_erased: statements missing from chains that end in an ERASURE.
        leaves_pruned, statements_pruned: leaves and statements that are missing because the ledger pruned them.
    """

    entries: int = 0
    seals: int = 0
    statements_opened: int = 0
    statements_erased: int = 0
    leaves_pruned: int = 0
    statements_pruned: int = 0


@dataclass(slots=True)
class Findings:
    """What a verification has found so far."""

    faults: list[Fault] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)
    counts: Counts = field(default_factory=Counts)

    def not_checked(self, what: str) -> None:
        """Count something that could not be determined."""
        self.unchecked[what] += 1

    def add(self, index: int | None, what: str) -> None:
        """Add a fault. Raises TooManyFaults if this was fault number ``MAX_FAULTS``."""
        self.faults.append(Fault(index, what))
        if len(self.faults) >= MAX_FAULTS:
            raise TooManyFaults


@dataclass(slots=True, kw_only=True)
class Report(Counts):
    """The result of a verification.

    Attributes:
        checkpoint: name, size and root of the tree that was verified.
        start: index of the first leaf that was read.
        size: number of leaves from leaf 0 to the last one that was verified.
        tags: number of chains that have a leaf among them.
        not_checked: what could not be determined, and how often.
        faults: ordered by index, at most ``MAX_FAULTS``.
        stopped: the verification ended at ``MAX_FAULTS`` faults, so there may be more.
        cosignatures: the witnesses in the caller's policy that cosigned the checkpoint, each with its time in POSIX s.
        log_keys, statement_keys: the keys that rotations replaced, and those that replaced them.
        followed: the log keys from the pinned one to the one that signed the checkpoint; empty if that is pinned.
    """

    checkpoint: Checkpoint
    start: int
    size: int
    tags: int
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool
    cosignatures: tuple[tuple[str, int], ...] = ()
    log_keys: tuple[FollowedKey, ...] = ()
    followed: tuple[FollowedKey, ...] = ()
    statement_keys: tuple[tuple[bytes, int], ...] = ()

    @property
    def is_undetermined(self) -> bool:
        """Whether *not_checked* has a text of ``UNDETERMINED``."""
        return bool(self.not_checked.keys() & UNDETERMINED)
