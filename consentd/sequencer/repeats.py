"""Answer repeats of writes that are on disk, on the caller's thread and without the sequencer.

Callers repeat a write when they got no answer, and after a failure many callers repeat many writes at once. A repeat
appends nothing, so it needs neither the sequencer's thread nor a sync of the disk. ``Repeats`` answers it from the rows
on disk and from a snapshot of the table. The sequencer still recognises the repeats that are left out here: those of a
write in the same batch, or in a batch whose commit has not ended; and those that would take longer than ``MAX_S``.
"""

import time
from collections.abc import Sequence
from typing import Any

from consentd.clock import Clock
from consentd.errors import ConsentdError, PreconditionError
from consentd.ledger import layout
from consentd.ledger.ledger import Ledger, decode_request, read_recorded
from consentd.metrics import Metrics
from consentd.sequencer.commands.write import Author, RepeatContext, check_content
from consentd.sequencer.pool import PendingWrite, Written
from consentd.table.table import Table

MAX_S = 0.1
"""How long one call answers repeats. It answers the rest with the sequencer, which serves callers in rotation."""


class Repeats:
    """Finds and answers repeats. Any thread may use it: it has no state of its own."""

    def __init__(self, ledger: Ledger, table: Table, author: Author, *, clock: Clock, metrics: Metrics) -> None:
        self._ledger = ledger
        self._table = table
        self._author = author
        self._clock = clock
        self._metrics = metrics

    def answer(self, writes: Sequence[PendingWrite[Any]]) -> list[PendingWrite[Any]]:
        """Complete the futures of those writes that repeat a write on disk; return the other writes, in order.

        Raises:
            StorageError, CorruptionError: the request rows or the table cannot be read; no future is completed.
        """
        keys = {at: pending.write.request.key for at, pending in enumerate(writes) if pending.write.request is not None}
        rows = self._ledger.store.multi_get([layout.request_row_key(key) for key in keys.values()]) if keys else []
        found = {at: decode_request(row) for at, row in zip(keys, rows, strict=True) if row is not None}
        if not found:
            return list(writes)
        until_s = time.perf_counter() + MAX_S
        with self._table.read() as snapshot:
            # The state is read after the snapshot, so it is never older than the snapshot.
            state = self._ledger.state
            time_ms = max(self._clock.wall_ms(), state.time_ms)
            context = RepeatContext(self._author, self._ledger.store, snapshot, time_ms)
            left = []
            for at, pending in enumerate(writes):
                recorded = found.get(at)
                # INVARIANT: an entry is served only after the table has it too, as for every acknowledged write.
                is_late = time.perf_counter() > until_s
                if recorded is None or is_late or recorded[0] >= min(snapshot.size, state.size):
                    left.append(pending)
                    continue
                try:
                    pending.future.set_result(self._replay(pending, recorded, context))
                except ConsentdError as error:
                    pending.future.set_exception(error)
        return left

    def _replay(
        self, pending: PendingWrite[Any], recorded: tuple[int, bytes], context: RepeatContext
    ) -> Written[Any]:
        index, content = recorded
        request = pending.write.request
        assert request is not None, "a write without a request has no repeat"
        try:
            check_content(request, content)
        except PreconditionError:
            self._metrics.repeats.inc("conflicting")
            raise
        self._metrics.repeats.inc("same")
        entry = read_recorded(context.store, index)
        answer = pending.write.replay(context, entry)
        return Written(entry, (), self._ledger.state, answer, replayed=True)
