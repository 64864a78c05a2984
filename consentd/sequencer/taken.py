"""The writes that one batch takes, with their outcomes until the batch is on disk. For the sequencer's thread only."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consentd.errors import ConsentdError, StorageError
from consentd.ledger.ledger import State
from consentd.sequencer.commands.rotation import RotateKey
from consentd.sequencer.pool import PendingWrite, Written


@dataclass(slots=True)
class TakenWrites:
    """The writes of one batch. The future of each is completed only when the fate of the batch is known.

    Attributes:
        writes: all of them, in the order in which they were taken.
        waiting: those that were not begun.
        begun: those that were begun, and whose callers wait.
        accepted: those whose entries are in the batch, and repeats, with their outcomes.
        refused: those that appended nothing, with their errors.
        rotation: the replacement of a key. It is the last write of its batch. None: there is none.
    """

    writes: Sequence[PendingWrite[Any]]
    waiting: deque[PendingWrite[Any]] = field(init=False)
    begun: list[PendingWrite[Any]] = field(default_factory=list)
    accepted: list[tuple[PendingWrite[Any], Written[Any]]] = field(default_factory=list)
    refused: list[tuple[PendingWrite[Any], ConsentdError]] = field(default_factory=list)
    rotation: RotateKey | None = None

    def __post_init__(self) -> None:
        self.waiting = deque(self.writes)

    def begin(self) -> PendingWrite[Any] | None:
        """Begin the next of those that wait, and return it; None: its caller has gone."""
        pending = self.waiting.popleft()
        if not pending.future.set_running_or_notify_cancel():
            return None
        self.begun.append(pending)
        return pending

    def complete(self, state: State) -> None:
        """Answer the callers, after the batch was written. *state*: the ledger's after the batch."""
        for pending, refusal in self.refused:
            pending.future.set_exception(refusal)
        for pending, written in self.accepted:
            written.state = state
            pending.future.set_result(written)

    def fail(self) -> None:
        """Answer the callers, after a failure that leaves unknown whether the batch is on disk."""
        # INVARIANT: no caller gets an error that means "not recorded" while the batch may be on disk.
        unknown = StorageError("write failed; whether it is recorded is unknown, repeat it with its request_id")
        for pending in self.begun:
            pending.future.set_exception(unknown)


def refuse(writes: Sequence[PendingWrite[Any]], error: ConsentdError) -> None:
    """Refuse writes that were not begun."""
    for pending in writes:
        if pending.future.set_running_or_notify_cancel():
            pending.future.set_exception(error)
