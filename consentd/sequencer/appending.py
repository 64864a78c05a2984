"""Append the entries of one write to a batch, and the limits of the sequencer that an operator configures."""

from dataclasses import dataclass
from typing import TypeVar

from consentd.errors import PreconditionError, RequestError
from consentd.ledger.ledger import State
from consentd.metrics import Metrics
from consentd.sequencer.commands.write import Write, WriteContext
from consentd.sequencer.pool import Written

A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencerLimits:
    """The limits and intervals that an operator configures."""

    checkpoint_interval_ms: int  # minimum time between two seals, and so between two checkpoints
    max_waiting: int  # most items in the pool
    max_batch: int
    idempotency_ms: int  # how long the ledger remembers a request, to recognise repeats


def append_write(write: Write[A], context: WriteContext, state: State, metrics: Metrics) -> Written[A]:
    """Prepare one write, append its entries, apply the entries to the table. A refused write appends nothing.

    *state*: that of the ledger before the batch.

    Raises:
        RequestError: the write is refused.
        StorageError: the store cannot be read.
    """
    if write.request is not None:
        try:
            recorded = context.recorded(write.request)
        except PreconditionError:
            metrics.repeats.inc("conflicting")
            raise
        if recorded is not None:
            metrics.repeats.inc("same")
            return Written(recorded, (), state, write.replay(context, recorded), replayed=True)
    plan = write.prepare(context)
    entries = []
    for draft, message in plan.entries:
        appended = context.batch.append(draft)
        try:
            context.table.apply(appended.event, message, index=appended.index)
        except RequestError as error:
            # INVARIANT: no write is refused after an entry was appended. ``prepare`` does the table's checks first.
            raise AssertionError("an entry was appended that the table does not take") from error
        entries.append(appended)
    # The ledger remembers a request with one of its entries. A repeat gets that entry's receipt, so this call too.
    asked = [one for one, (draft, _) in zip(entries, plan.entries, strict=True) if draft.request_key]
    return Written(next(iter(asked or entries), None), tuple(entries), state, plan.answer)
