"""What a passing shortage may postpone, and what it must stop.

**Theory of operation.** Descriptors, memory, threads or disk space may be short for a while. A step of the sequencer
that fails then is decided by one question: may anybody have seen its result?

- *Nobody has: the step is postponed.* Nothing was written, so the callers' writes are refused as not recorded, or the
  step is tried again, and the ledger continues. This holds for everything before the store's write: the clock, reads,
  the checks of a write, its statement, the table's transaction, the seal. It also holds for everything after the
  commit that can be repeated: signing (the same tree gives the same checkpoint), the file of the last signed
  checkpoint (its old or new content is right), the file of the published checkpoint, and the upkeep.
- *Somebody may have, or nobody knows: the ledger stops.* These are the store's write (after a failed sync, only opening
  the store again shows what is on the disk), the table's commit after it (the table lacks entries that exist, perhaps a
  withdrawal, so it answers no check either), and a lock that another process took. Contradictions and bugs stop too.

A disk that is full would fail at the store's write. So writes are refused before, while there is less space than
``[ledger] min_free_mb``. The last of it takes seals, and writes that take a permission away.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from consentd.errors import ConsentdError, StorageError
from consentd.metrics import Metrics
from consentd.sequencer.pool import PendingWrite
from consentd.store.lmdb import TableStoppedError

log = logging.getLogger(__name__)

NOT_RECORDED = "nothing of this write was recorded, repeat it later"


class Shortages:
    """Refuses what cannot be written, counts postponed steps, and logs when a step begins to fail and works again.

    For the sequencer's thread only. *check_space* raises StorageError if the disks have too little space for a write;
    True: for an urgent one.
    """

    def __init__(self, metrics: Metrics, check_space: Callable[[bool], None]) -> None:
        self._metrics = metrics
        self.check_space = check_space
        self._failing: set[str] = set()

    def limit_to_space(self, writes: Sequence[PendingWrite[Any]]) -> tuple[Sequence[PendingWrite[Any]], bool]:
        """Return the writes for which there is space, and whether there is any space; refuse the other writes."""
        try:
            self.check_space(False)
        except StorageError as error:
            self.drop("space", [pending for pending in writes if not pending.urgent], error)
        else:
            self.done("space")
            return writes, True
        urgent = [pending for pending in writes if pending.urgent]
        try:
            self.check_space(True)
        except StorageError as error:
            self.drop("space", urgent, error)
            return [], False
        return urgent, True

    def drop(self, step: str, writes: Sequence[PendingWrite[Any]], error: BaseException) -> None:
        """Refuse writes of which nothing was written, because something is short.

        Raises:
            TableStoppedError: *error* is one: the table cannot be written any more, so nothing is postponed.
        """
        for pending in writes:
            future = pending.future
            if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
                future.set_exception(not_recorded(error))
        if isinstance(error, TableStoppedError):
            raise error
        self.postponed(step, error)

    def postponed(self, step: str, error: BaseException) -> None:
        """Count a step that failed and will be tried again."""
        self._metrics.shortages.inc(step)
        if step not in self._failing:
            self._failing.add(step)
            text = str(error) if isinstance(error, ConsentdError) else type(error).__name__
            log.error("postponed, because something is short: %s: %s; see ops/RUNBOOK.md, ConsentdShortage", step, text)

    def done(self, step: str) -> None:
        """Note that a step was done."""
        if step in self._failing:
            self._failing.discard(step)
            log.info("no longer short: %s", step)


def not_recorded(error: BaseException) -> StorageError:
    """Return the error for a caller whose write was dropped because of *error*, before anything was written."""
    text = str(error) if isinstance(error, ConsentdError) else type(error).__name__
    return StorageError(f"{NOT_RECORDED}: {text}")
