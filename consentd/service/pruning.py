"""Prune on request of the operator: plan, state the pruning in the ledger, wait until the statement is public, delete.

Consent checks and writes continue meanwhile. The thread of the call plans, and finds the rows to delete. The
sequencer's thread deletes these rows between two batches, a few hundred at a time.
"""

from collections.abc import Generator, Iterator
from functools import partial

from consentd.core.pruned import DAY_MS, Pruned
from consentd.errors import ConflictError, StorageError
from consentd.ledger import retention
from consentd.ledger.pruning import Deleted, Stop, delete_in_batches, plan_pruning
from consentd.sequencer.commands.ledger import StatePruning, check_kept_from
from consentd.service.context import Context
from consentd.service.servicer import Services, remaining_s
from consentd.v1 import ledger_service_pb2 as ls


def prune(services: Services, request: ls.PruneRequest, context: Context) -> Iterator[ls.PruneResponse]:
    """Prune, and yield the progress.

    Raises:
        ConflictError: another call is pruning.
        InvalidError: the retention policy keeps everything, or keeps some entries that the request wants deleted.
        StorageError: the statement of the pruning did not become public in time; nothing was deleted.
    """
    if not services.pruning.acquire(blocking=False):
        raise ConflictError("another pruning is under way")
    try:
        pruned, stop = yield from _plan(services, request)
        if not request.dry_run:
            _publish(services, pruned, context)
        yield from _delete(services, pruned, stop, dry_run=request.dry_run)
    finally:
        services.pruning.release()


def _plan(services: Services, request: ls.PruneRequest) -> Generator[ls.PruneResponse, None, tuple[Pruned, Stop]]:
    """Return the unfinished pruning that the ledger states; if there is none, plan the largest possible pruning."""
    store, state = services.ledger.store, services.ledger.state
    before, (days, stated) = retention.read_pruned(store), retention.read_stated_prunings(store)
    if stated and not (retention.is_finished(store) and before == stated[-1].pruned):
        return stated[-1].pruned, Stop(0, 0)
    now_ms = services.sequencer.clock.wall_ms()
    kept_from_ms = request.kept_from_time_ms or max(0, now_ms - days * DAY_MS)
    check_kept_from(kept_from_ms, days=days, time_ms=now_ms)
    planning = plan_pruning(store, services.vault, kept_from_ms=kept_from_ms, size=state.size)
    try:
        while True:
            yield ls.PruneResponse(step=ls.PRUNE_STEP_PLANNING, done_count=next(planning), total_count=state.tags)
    except StopIteration as ended:
        found: tuple[Pruned, Stop] = ended.value
        return found


def _publish(services: Services, pruned: Pruned, context: Context) -> None:
    """State the pruning in an entry of the ledger, and wait for a public checkpoint that covers the entry."""
    index = services.sequencer.submit(StatePruning(pruned=pruned)).result().answer
    # INVARIANT: nothing is deleted before that entry is public. So a reader that misses a leaf can find the reason.
    if services.sequencer.checkpoints.wait(index + 1, remaining_s(context)) is None:
        raise StorageError("pruning is stated, and waits for a published checkpoint; call again to go on")


def _delete(services: Services, pruned: Pruned, stop: Stop, *, dry_run: bool) -> Iterator[ls.PruneResponse]:
    """Delete the pruned rows, or with *dry_run* only count them; yield the progress."""
    store, tags = services.ledger.store, services.ledger.state.tags
    done = Deleted()
    for batch, done in delete_in_batches(store, services.vault, pruned):
        if not dry_run:
            services.sequencer.call(partial(store.write, batch))
        yield _response(ls.PRUNE_STEP_DELETING, done, tags, pruned, stop)
    yield _response(ls.PRUNE_STEP_DONE, done, tags, pruned, stop)


def _response(step: "ls.PruneStep.ValueType", done: Deleted, tags: int, pruned: Pruned, stop: Stop) -> ls.PruneResponse:
    return ls.PruneResponse(
        step=step,
        done_count=done.chains,
        total_count=max(done.chains, tags),
        kept_from_time_ms=pruned.kept_from_ms,
        start_size=pruned.start,
        leaf_count=done.leaves,
        statement_count=done.statements,
        stop_index=stop.index,
        stop_kind=stop.kind,
    )
