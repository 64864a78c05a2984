"""Recompute every recorded decision from the consents that were in force at the index of its leaf.

The policy table is rebuilt from leaf 0, entry by entry, with the ``apply`` that the daemon uses. At each ACCESS and
REFUSAL the table is as it was when the daemon answered, so the same decision must result; another decision is a fault
of the entry. The leaves must be those that the log signed. Chains, seals and signatures are verified by ``verify``.

The persons are divided by their tags into partitions, each with its own process and table (``partition``). This process
adds up the results after every round of bundles, so that any number of partitions ends at the same fault. Workers that
only decode statements for one deciding process would not help: sending a decoded statement takes longer than deciding.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from consentd.audit import partition, workers
from consentd.audit.checkpoints import SignedCheckpoint, Witnesses, read_checkpoint
from consentd.audit.partition import STATE_FILE, Partition
from consentd.audit.partition_plan import PartitionPlan, PartitionResult
from consentd.audit.remote import AtCheckpoint
from consentd.audit.sources import Location
from consentd.core import tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteVerifier
from consentd.core.rotation import FollowedKey
from consentd.errors import StorageError
from consentd.verify.findings import DECISION_UNCERTAIN, MAX_FAULTS, UNKNOWN_KIND, Fault, Progress

BATCH = 16
"""Bundles in a round. A partition commits its table after each round."""
_AHEAD = 2  # rounds that a partition may be ahead of the slowest one
_DIRECTORY = re.compile(r"[0-9]{1,3}-of-([0-9]{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """The result of a replay.

    Attributes:
        entries: number of leaves replayed.
        same: number of decisions that are the same as recorded, by kind of entry.
        not_checked: what could not be determined, and how often.
        faults: decisions that differ from the recorded ones, and entries that cannot be applied; ordered by index, at
            most ``MAX_FAULTS``. *stopped*: the replay ended at that number, so there may be more.
        beyond: indexes of outcomes that name categories which their access did not permit; in order, at most
            ``MAX_FAULTS``. ``beyond_count``: how many there are. The ledger is right to record them, so they are no
            faults of it (policy.md, "What was transferred").
        log_keys: as in ``SignedCheckpoint``.
        cosignatures: the witnesses in the caller's policy that cosigned the checkpoint, each with its time in POSIX s.
    """

    checkpoint: Checkpoint
    entries: int
    same: dict[str, int]
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool
    beyond: tuple[int, ...] = ()
    beyond_count: int = 0
    cosignatures: tuple[tuple[str, int], ...] = ()
    log_keys: tuple[FollowedKey, ...] = ()

    @property
    def is_undetermined(self) -> bool:
        """Whether no decision was confirmed, or one depends on unreadable entries or entries of unknown kinds."""
        return UNKNOWN_KIND in self.not_checked or DECISION_UNCERTAIN in self.not_checked or not self.same


def replay_decisions(
    location: Location, *, origin: str, log_verifier: NoteVerifier, witnesses: Witnesses | None = None,
    state_dir: Path | None = None, batch: int = BATCH, jobs: int = 1, progress: Progress | None = None,
) -> ReplayReport:
    """Recompute every decision of the ledger at *location*, up to its latest checkpoint.

    Args:
        witnesses: the witnesses that must have cosigned the checkpoint; None: nobody must.
        state_dir: directory in which the state is saved, and from which a later run continues; None: not saved.
        batch: bundles in a round.
        jobs: number of processes, each with a partition; 1: only this process. A run that continues keeps the number.

    Raises:
        StorageError: the source or the directory fails.
        VerificationError: the log did not sign the checkpoint or the leaves, or no quorum of witnesses cosigned the
            checkpoint.
        InvalidError: the source has no openings; or the state is of another ledger, or the ledger has since pruned
            entries that the state does not cover.
    """
    with ExitStack() as stack:
        is_saved = state_dir is not None
        if state_dir is None:
            state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consentd-replay-")))
        with closing(location.open()) as source:
            signed = read_checkpoint(
                source, origin=origin, log_verifier=log_verifier, witnesses=witnesses, at_least=_saved_size(state_dir)
            )
        location = AtCheckpoint(location, signed.point)
        size = signed.point.size
        # For one round, starting processes takes longer than it saves, unless later runs continue a larger ledger.
        is_small = size <= batch * tiles.TILE_WIDTH and not is_saved
        of = _partitions_in(state_dir) or (1 if is_small else max(1, jobs))
        plan = PartitionPlan(location=location, point=signed.point, directory=state_dir, of=of)
        rounds = _replay_here(plan, batch, stack) if of == 1 else _replay_in_workers(plan, batch, stack)
        report = None
        for results in rounds:
            report = _add_up(signed, results)
            if progress is not None:
                progress(report.entries, size)
            if report.stopped:
                break
        assert report is not None, "there are results before the first round"
        return report


def _partitions_in(directory: Path) -> int:
    """Return the number of partitions of the earlier run that wrote to *directory*; 0 if there was no such run."""
    if not directory.is_dir():
        return 0
    matches = (_DIRECTORY.fullmatch(path.name) for path in directory.iterdir())
    return max((int(match[1]) for match in matches if match is not None), default=0)


def _saved_size(directory: Path) -> int:
    """Return how many leaves an earlier run in *directory* has read from the ledger; 0 if there was no such run.

    A state file that cannot be used is 0 here. The partition that opens the file reports it.
    """
    found = [0]
    for path in directory.glob(f"*/{STATE_FILE}"):
        with suppress(OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            found += [int(one["size"]) for one in json.loads(path.read_text())["states"] if one is not None]
    return max(found)


def _add_up(signed: SignedCheckpoint, results: Sequence[PartitionResult]) -> ReplayReport:
    same: Counter[str] = sum((one.same for one in results), Counter())
    not_checked: Counter[str] = sum((one.not_checked for one in results), Counter())
    found = {(fault.index or 0, fault.what): fault for one in results for fault in one.faults}
    # INVARIANT: each partition has its first MAX_FAULTS faults, so the first MAX_FAULTS of all partitions are here.
    faults = tuple(fault for _, fault in sorted(found.items(), key=lambda pair: pair[0]))[:MAX_FAULTS]
    beyond = sorted(index for one in results for index in one.beyond)
    return ReplayReport(
        beyond=tuple(beyond[:MAX_FAULTS]), beyond_count=sum(one.beyond_count for one in results),
        checkpoint=signed.point, entries=min(one.size for one in results), same=dict(same),
        not_checked=dict(not_checked), faults=faults, stopped=len(faults) == MAX_FAULTS,
        cosignatures=signed.cosignatures, log_keys=signed.log_keys,
    )


def _firsts(results: Sequence[PartitionResult], point: Checkpoint, batch: int) -> range:
    """Return the number of the first bundle of each round that some partition has not replayed yet."""
    start = min(one.size for one in results)
    return range(start // tiles.TILE_WIDTH, -(-point.size // tiles.TILE_WIDTH), batch)


def _replay_here(plan: PartitionPlan, batch: int, stack: ExitStack) -> Iterator[list[PartitionResult]]:
    """Yield the result of the only partition before the first round, and after each round."""
    only = Partition(plan)
    stack.callback(only.close)
    yield [only.result]
    for first in _firsts([only.result], plan.point, batch):
        yield [only.replay(first, batch)]
    only.finish()


def _replay_in_workers(plan: PartitionPlan, batch: int, stack: ExitStack) -> Iterator[list[PartitionResult]]:
    """Yield the results of all partitions after the same round, each from a process of its own."""
    pools = [workers.make_pool(1, stack) for _ in range(plan.of)]
    try:
        started = [
            pool.submit(partition.start_worker, replace(plan, number=number)) for number, pool in enumerate(pools)
        ]
        results = [one.result() for one in started]
        yield results
        rounds = (
            [pool.submit(partition.call_in_worker, Partition.replay, first, batch) for pool in pools]
            for first in _firsts(results, plan.point, batch)
        )
        for done in workers.submit_ahead(rounds, _AHEAD):
            yield [one.result() for one in done]
        for finished in [pool.submit(partition.call_in_worker, Partition.finish) for pool in pools]:
            finished.result()
    except BrokenProcessPool as error:
        raise StorageError("a worker process ended; what was replayed so far is in the state, if any") from error
