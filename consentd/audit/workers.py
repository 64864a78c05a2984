"""Check runs of leaves in worker processes, a few runs ahead of the process that uses the results."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any, TypeVar

from consentd.audit.sources import Location, Source
from consentd.errors import StorageError
from consentd.verify.leaf_checks import CheckedRun, TreePoint, check_run, runs_of

T = TypeVar("T")

_source: Source | None = None  # a worker process opens its source in ``start_worker``


def start_worker(location: Location) -> None:
    """Open the ledger at *location* in a worker process."""
    global _source
    end_with_parent()
    _source = location.open()


def end_with_parent() -> None:
    """End this worker process when its parent ends, and only then.

    An interrupt from the terminal also reaches the workers. They ignore it, because the parent ends them. A parent that
    is killed cannot end its workers, which would wait for work forever, so a thread waits for the parent's end.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker has a parent"
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def check_in_worker(tree: TreePoint, bundles: range) -> CheckedRun:
    """Check a run in a worker process, see ``check_run``."""
    assert _source is not None, "a worker opens its source first"
    return check_run(_source, tree, bundles)


def check_ahead(
    location: Location, source: Source, tree: TreePoint, start: int, jobs: int, stack: ExitStack
) -> Iterator[CheckedRun]:
    """Yield the runs from leaf *start* on, in order, checked by *jobs* processes a few runs ahead.

    With one job, this process checks the runs, and reads them from *source*, opened at *location*. Closing *stack* ends
    the workers. Raises as ``check_run``, and StorageError if a worker process ended.
    """
    runs = runs_of(tree.size, start)
    if jobs <= 1 or len(runs) <= 1:
        yield from (check_run(source, tree, bundles) for bundles in runs)
        return
    # Two runs wait for each worker, half a megabyte each.
    pool = make_pool(jobs, stack, initializer=start_worker, initargs=(location,))
    try:
        for done in submit_ahead((pool.submit(check_in_worker, tree, bundles) for bundles in runs), 2 * jobs):
            yield done.result()
    except BrokenProcessPool as error:
        raise StorageError("a worker process ended; what was verified so far is in the state file, if any") from error


def make_pool(jobs: int, stack: ExitStack, **options: Any) -> ProcessPoolExecutor:
    """Return a pool of worker processes, which closing *stack* ends."""
    # Workers are spawned and not forked, because gRPC and RocksDB have threads, which a fork would lose.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), **options)
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def submit_ahead(submissions: Iterable[T], ahead: int) -> Iterator[T]:
    """Yield the submissions in order, each after the next *ahead* submissions were made."""
    waiting: deque[T] = deque()
    for submission in submissions:
        waiting.append(submission)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
