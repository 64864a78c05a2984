"""Prune on request of an operator: plan, state the pruning in the ledger, wait until that is public, delete.

Consent checks and writes continue meanwhile. The operation's thread plans, and finds the rows to delete. The
sequencer's thread deletes these rows between two batches, a few hundred at a time. Between two of these steps nothing
is half done: a pruning that ends there, for whatever reason, is finished by the next one.
"""

from functools import partial

from consentd.core.pruned import DAY_MS, Pruned
from consentd.errors import StorageError
from consentd.ledger import retention
from consentd.ledger.pruning import Deleted, Stop, delete_in_batches, plan_pruning
from consentd.sequencer.commands.ledger import StatePruning, check_kept_from
from consentd.service.operations import Follower, when_free
from consentd.service.servicer import Services
from consentd.statements.values import to_enum
from consentd.v1 import admin_service_pb2 as ad

_WAIT_S = 0.25
"""How long an operation waits for a checkpoint before its next safe point."""


def check_start(services: Services, request: ad.StartPruningRequest) -> None:
    """Check that the request can be met, unless it finishes an earlier pruning.

    Raises:
        InvalidError: the retention policy keeps everything, or keeps some entries that the request wants deleted.
    """
    if _unfinished(services) is None:
        _kept_from_ms(services, request)


def prune(services: Services, request: ad.StartPruningRequest, follower: Follower) -> ad.PruneResult:
    """Prune, and report the progress.

    Raises:
        InvalidError: as ``check_start``.
        OperationCancelledError, StorageError: the operation ended at a safe point.
        StorageError: a disk failed, or a row of a person is damaged. What was deleted before stays deleted.
    """
    pruned, stop = _plan(services, request, follower)
    if not request.dry_run:
        _publish(services, pruned, follower)
    done = _delete(services, pruned, follower, dry_run=request.dry_run)
    return ad.PruneResult(
        kept_from_time_ms=pruned.kept_from_ms, start_size=pruned.start, leaf_count=done.leaves,
        statement_count=done.statements, stop_index=stop.index, stop_kind=to_enum(stop.kind),
    )  # fmt: skip


def _unfinished(services: Services) -> Pruned | None:
    """Return the pruning that the ledger states and that is not finished; None: there is none."""
    store = services.ledger.store
    _, stated = retention.read_stated_prunings(store)
    if not stated or (retention.is_finished(store) and retention.read_pruned(store) == stated[-1].pruned):
        return None
    return stated[-1].pruned


def _kept_from_ms(services: Services, request: ad.StartPruningRequest) -> int:
    """Return the time from which everything is kept. Raises as ``check_start``."""
    days, _ = retention.read_stated_prunings(services.ledger.store)
    now_ms = services.sequencer.clock.wall_ms()
    kept_from_ms = request.kept_from_time_ms or max(0, now_ms - days * DAY_MS)
    check_kept_from(kept_from_ms, days=days, time_ms=now_ms)
    return kept_from_ms


def _plan(services: Services, request: ad.StartPruningRequest, follower: Follower) -> tuple[Pruned, Stop]:
    """Return the unfinished pruning that the ledger states; if there is none, plan the largest possible pruning."""
    follower.report(ad.OPERATION_STEP_PLANNING)
    unfinished = _unfinished(services)
    if unfinished is not None:
        return unfinished, Stop(0, 0)
    state = services.ledger.state
    kept_from_ms = _kept_from_ms(services, request)
    planning = plan_pruning(services.ledger.store, services.vault, kept_from_ms=kept_from_ms, size=state.size)
    try:
        while True:
            follower.report(ad.OPERATION_STEP_PLANNING, next(planning), state.tags)
    except StopIteration as ended:
        found: tuple[Pruned, Stop] = ended.value
        return found


def _publish(services: Services, pruned: Pruned, follower: Follower) -> None:
    """State the pruning in an entry of the ledger, and wait for a public checkpoint that covers the entry."""
    follower.report(ad.OPERATION_STEP_PUBLISHING)
    sequencer = services.sequencer
    index = when_free(follower, lambda: sequencer.submit(StatePruning(pruned=pruned)).result().answer)
    # INVARIANT: nothing is deleted before that entry is public. So a reader that misses a leaf can find the reason.
    while sequencer.checkpoints.wait(index + 1, _WAIT_S) is None:
        if sequencer.fault is not None:
            raise StorageError("ledger stopped before the statement of the pruning was published")
        follower.report(ad.OPERATION_STEP_PUBLISHING)


def _delete(services: Services, pruned: Pruned, follower: Follower, *, dry_run: bool) -> Deleted:
    """Delete the pruned rows, or with *dry_run* only count them."""
    store, tags = services.ledger.store, services.ledger.state.tags
    done = Deleted()
    for batch, done in delete_in_batches(store, services.vault, pruned):
        # The last safe point is before the last batch: after that, the pruning is finished.
        follower.report(ad.OPERATION_STEP_DELETING, done.chains, max(done.chains, tags))
        if not dry_run:
            when_free(follower, partial(services.sequencer.call, partial(store.write, batch)))
    return done
