"""Take every recorded decision again, on the consents that were in force at its index in the ledger.

The policy table is rebuilt from nothing, entry by entry, with the ``apply`` that the daemon uses. At each ACCESS and
REFUSAL the table is as it was when the daemon answered, so the same decision must come out; another one is a fault with
the entry's index. The leaves must be those that the log signed. Chains, seals and signatures are for ``verify``.

The persons are divided by their tags into partitions, each with a process and a table of its own (``partition``). This
process adds up their results, round by round, so that the search ends at the same fault for any number of partitions.
Workers that only decode ahead, as for ``verify``, would not help: a decoded statement costs more to send to another
process than to decide on.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from consentd.audit import partition, workers
from consentd.audit.checkpoints import SignedCheckpoint, Witnesses, read_checkpoint
from consentd.audit.partition import Partition, PartitionPlan, PartitionResult
from consentd.audit.sources import Location
from consentd.core import tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteVerifier
from consentd.errors import StorageError
from consentd.verify.findings import DECISION_UNCERTAIN, MAX_FAULTS, UNKNOWN_KIND, Fault, Progress

BATCH = 16
"""Bundles in a round. A partition commits its table after each."""
_AHEAD = 2  # rounds that a partition may be ahead of the slowest one
_DIRECTORY = re.compile(r"[0-9]{1,3}-of-([0-9]{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """The result of a replay.

    Attributes:
        entries: leaves replayed.
        same: decisions that came out as recorded, by kind of entry.
        not_checked: what could not be determined, and how often.
        faults: decisions that came out otherwise, and entries that cannot be applied; ordered by index, at most
            ``MAX_FAULTS``. *stopped*: the search ended there, so there may be more.
        cosignatures: the witnesses that were asked for and cosigned the checkpoint, and when, in POSIX seconds.
    """

    checkpoint: Checkpoint
    entries: int
    same: dict[str, int]
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool
    cosignatures: tuple[tuple[str, int], ...] = ()

    @property
    def is_undetermined(self) -> bool:
        """Whether there was no decision, or one that depends on something unreadable or unknown."""
        return UNKNOWN_KIND in self.not_checked or DECISION_UNCERTAIN in self.not_checked or not self.same


def replay_decisions(
    location: Location, *, origin: str, log_verifier: NoteVerifier, witnesses: Witnesses | None = None,
    state_dir: Path | None = None, batch: int = BATCH, jobs: int = 1, progress: Progress | None = None,
) -> ReplayReport:
    """Take every decision of the ledger at *location* again, up to its latest checkpoint.

    Args:
        witnesses: who must have cosigned the checkpoint; None: nobody.
        state_dir: save the tables here and continue from them; None: in a temporary directory.
        batch: bundles in a round.
        jobs: processes, each with a partition; 1: this one alone. A run that continues has as many as it began with.

    Raises:
        StorageError: the source or the directory fails.
        VerificationError: the checkpoint is not this log's, no quorum cosigned it, or the leaves are not those that it
            signed.
        InvalidError: the source has no openings; or the state is another ledger's, or older than what the ledger has
            pruned since.
    """
    with ExitStack() as stack:
        is_saved = state_dir is not None
        if state_dir is None:
            state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consentd-replay-")))
        with closing(location.open()) as source:
            signed = read_checkpoint(source, origin=origin, log_verifier=log_verifier, witnesses=witnesses)
        size = signed.point.size
        # A ledger of one round is not worth a process, unless it may grow before a later run.
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
    """Return the number of partitions of an earlier run; 0: there was none."""
    if not directory.is_dir():
        return 0
    matches = (_DIRECTORY.fullmatch(path.name) for path in directory.iterdir())
    return max((int(match[1]) for match in matches if match is not None), default=0)


def _add_up(signed: SignedCheckpoint, results: Sequence[PartitionResult]) -> ReplayReport:
    same: Counter[str] = sum((one.same for one in results), Counter())
    not_checked: Counter[str] = sum((one.not_checked for one in results), Counter())
    found = {(fault.index or 0, fault.what): fault for one in results for fault in one.faults}
    # INVARIANT: each partition has its first MAX_FAULTS, so the first MAX_FAULTS of all are among them.
    faults = tuple(fault for _, fault in sorted(found.items(), key=lambda pair: pair[0]))[:MAX_FAULTS]
    return ReplayReport(
        checkpoint=signed.point, entries=min(one.size for one in results), same=dict(same),
        not_checked=dict(not_checked), faults=faults, stopped=len(faults) == MAX_FAULTS,
        cosignatures=signed.cosignatures,
    )


def _firsts(results: Sequence[PartitionResult], point: Checkpoint, batch: int) -> range:
    """Return the first bundle of each round that is not replayed by all."""
    start = min(one.size for one in results)
    return range(start // tiles.TILE_WIDTH, -(-point.size // tiles.TILE_WIDTH), batch)


def _replay_here(plan: PartitionPlan, batch: int, stack: ExitStack) -> Iterator[list[PartitionResult]]:
    """Yield the result of the only partition before the first round, and after each."""
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
