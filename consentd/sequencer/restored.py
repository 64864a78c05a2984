"""The sequencer of a restored copy: it writes no entry, seals nothing and signs nothing.

A copy that is restored from a backup lacks the entries that came after the backup (``ledger.restored``). If it wrote or
signed, there would be two histories of one name. So its sequencer runs calls (``Sequencer.call``), which read and
prove, and refuses every write. It writes no heartbeat to the policy table either: without one, other processes that
read the table decide nothing from it.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from consentd.errors import PreconditionError
from consentd.sequencer.commands.write import Write
from consentd.sequencer.loop import Sequencer
from consentd.sequencer.pool import Written

A = TypeVar("A")


def refusal() -> PreconditionError:
    """Return the error of a call that a restored copy does not answer."""
    return PreconditionError(
        "daemon serves a restored copy, which lacks entries: it decides and records nothing; the operator must follow "
        "ops/RUNBOOK.md, `a restored copy`",
        "RESTORED_COPY",
    )


class RestoredSequencer(Sequencer):
    """A ``Sequencer`` that refuses every write with RESTORED_COPY, and changes neither ledger nor checkpoints."""

    def __init__(self, **parts: Any) -> None:
        """Take over a ledger that was opened and verified, as ``Sequencer`` does."""
        super().__init__(**parts)
        self._upkeep = _NoUpkeep()  # type: ignore[assignment]

    def submit_all(self, writes: Sequence[Write[A]], *, urgent: bool = False) -> "list[Future[Written[A]]]":
        """Refuse the writes. Raises PreconditionError (RESTORED_COPY)."""
        raise refusal()

    def _may_seal(self) -> bool:
        return False

    def _recover(self) -> None:
        """Leave what a crash left: a seal, or a signature, would be a second history."""

    def _take_next_key(self) -> None:
        """Finish no rotation: that would publish a checkpoint."""


class _NoUpkeep:
    """In place of ``Upkeep``: no heartbeat, and no lock for signing is needed."""

    def run(self, *, has_written: bool) -> bool:
        """Do nothing; return that nothing was due."""
        return False
