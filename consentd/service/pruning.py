"""Prune on the operator's word: plan, state it in the ledger, wait until that is public, delete.

Checks and writes go on meanwhile. Planning and deleting read on the caller's thread; what is deleted is deleted by
the sequencer, between two turns, a few hundred rows at a time.
"""

from collections.abc import Generator, Iterator

import grpc

from consentd.core.pruned import DAY_MS, Pruned
from consentd.errors import ConflictError, InvalidError, StorageError
from consentd.ledger import retention
from consentd.ledger.retention import Stop, Sweep
from consentd.sequencer.commands.registry import StatePruning
from consentd.service.wire import Services, remaining_s
from consentd.store import Batch
from consentd.v1 import ledger_service_pb2 as ls


def prune(services: Services, request: ls.PruneRequest, context: grpc.ServicerContext) -> Iterator[ls.PruneResponse]:
    """Prune, and yield how far it is.

    Raises:
        ConflictError: another call prunes.
        InvalidError: the policy keeps everything, or keeps what is asked to go.
        StorageError: what is going to be pruned did not become public in time; nothing was deleted.
    """
    if not services.pruning.acquire(blocking=False):
        raise ConflictError("another pruning is under way")
    try:
        pruned, stop = yield from _find(services, request)
        if not request.dry_run:
            _publish(services, pruned, context)
        yield from _sweep(services, pruned, stop, dry_run=request.dry_run)
    finally:
        services.pruning.release()


def _find(
    services: Services, request: ls.PruneRequest
) -> Generator[ls.PruneResponse, None, tuple[Pruned, Stop]]:
    """Return what to prune: what an earlier call stated and did not finish, or else as much as there is."""
    store, state = services.ledger.store, services.ledger.state
    before, (days, stated) = retention.read_pruned(store), retention.read_stated(store)
    if stated and not (retention.is_finished(store) and before == stated[-1].pruned):
        return stated[-1].pruned, Stop(0, 0)
    if not days:
        raise InvalidError("retention policy keeps everything: `ledger.retention_days` was 0 when the ledger began")
    latest_ms = services.sequencer.clock.wall_ms() - days * DAY_MS
    kept_from_ms = request.kept_from_time_ms or max(0, latest_ms)
    if not 0 <= kept_from_ms <= latest_ms:
        raise InvalidError(f"retention policy keeps entries `{days}` days; choose an earlier time")
    planning = retention.plan(store, services.vault, kept_from_ms=kept_from_ms, size=state.size)
    while True:
        try:
            done = next(planning)
        except StopIteration as ended:
            found: tuple[Pruned, Stop] = ended.value
            return found
        yield ls.PruneResponse(step=ls.PRUNE_STEP_PLANNING, done_count=done, total_count=state.tags)


def _publish(services: Services, pruned: Pruned, context: grpc.ServicerContext) -> None:
    """State it in the ledger, unless that was done, and wait for a checkpoint that everyone can see."""
    days, stated = retention.read_stated(services.ledger.store)
    index = next((one.index for one in stated if one.pruned == pruned), None)
    if index is None:
        written = services.sequencer.submit(StatePruning(days=days, pruned=pruned)).result()
        index = written.entries[0].index
    # INVARIANT: nothing is deleted before the entry that says so is public: whoever misses an entry must find out why.
    if services.sequencer.wait_published(index + 1, remaining_s(context)) is None:
        raise StorageError("pruning is stated, and waits for a published checkpoint; call again to go on")


def _sweep(services: Services, pruned: Pruned, stop: Stop, *, dry_run: bool) -> Iterator[ls.PruneResponse]:
    store, tags = services.ledger.store, services.ledger.state.tags
    done = Sweep()
    for batch, done in retention.sweep(store, services.vault, pruned):
        if not dry_run:
            services.sequencer.call(_Writing(services, batch))
        yield _answer(ls.PRUNE_STEP_DELETING, done, tags, pruned, stop)
    yield _answer(ls.PRUNE_STEP_DONE, done, tags, pruned, stop)


class _Writing:
    """A batch that the sequencer writes between two turns. A failure stops it at its next turn, as any would."""

    def __init__(self, services: Services, batch: Batch) -> None:
        self._store, self._batch = services.ledger.store, batch

    def __call__(self) -> None:
        self._store.write(self._batch)


def _answer(
    step: "ls.PruneStep.ValueType", done: Sweep, tags: int, pruned: Pruned, stop: Stop
) -> ls.PruneResponse:
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
