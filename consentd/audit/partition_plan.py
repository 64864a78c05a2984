"""What a partition of a replay is to do, and what it has found."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from consentd.audit.sources import Location
from consentd.core.checkpoint import Checkpoint
from consentd.verify.findings import Fault


@dataclass(slots=True)
class PartitionResult:
    """The result of a partition for the first *size* leaves. For the attributes see ``ReplayReport``.

    *faults* and *beyond* are the first ``MAX_FAULTS``. A fault in an entry of the registry is found by every partition.
    """

    size: int = 0
    same: Counter[str] = field(default_factory=Counter)
    not_checked: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    beyond: list[int] = field(default_factory=list)
    beyond_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """Which decisions a partition recomputes: it is partition *number* (from 0) of *of* partitions.

    *point* is the checkpoint up to which the ledger is replayed. The states of all partitions are in *directory*.
    """

    location: Location
    point: Checkpoint
    directory: Path
    number: int = 0
    of: int = 1
