"""Re-run every recorded decision on the consents in force at its place in the ledger.

The table is built again from nothing, entry by entry, by the ``apply`` that the daemon uses; at each ACCESS and REFUSAL
it stands as it stood when the answer was given. The answer is taken again there. A decision that comes out otherwise
is named by its index. Leaves are hashed along the way, and must be what the log signed; chains, seals and signatures of
authors are the matter of ``verify``.

Persons are dealt out to *shares* by their tags, each in a process of its own with a table of its own (``share``); this
process adds up what they found, round by round, so that the end at the hundredth fault is the same for any number of
them. Why not workers that decode ahead, as for ``verify``: a decoded statement costs more to hand over than to decide.
"""

import multiprocessing
import re
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from consentd.audit import partition
from consentd.audit.partition import DARK, UNKNOWN, Share, Tally
from consentd.audit.sources import Place
from consentd.core import checkpoint, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteVerifier
from consentd.errors import StorageError
from consentd.verify.findings import MAX_FAULTS, Fault, Progress

BATCH = 16
"""Bundles in a round, between two commits of a share's table."""
_AHEAD = 2  # rounds that a share may be before the slowest one
_SHARE = re.compile(r"[0-9]{1,3}-of-([0-9]{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How it came out.

    Attributes:
        entries: leaves taken.
        same: decisions that came out as recorded, by kind of entry.
        faults: decisions that did not, and entries that cannot be applied; in the order of the ledger, at most a
            hundred.
        stopped: there may be more.
    """

    checkpoint: Checkpoint
    entries: int
    same: dict[str, int]
    not_checked: dict[str, int]
    faults: tuple[Fault, ...]
    stopped: bool

    @property
    def is_untold(self) -> bool:
        """Whether nothing, or not all that is at hand, could be told."""
        return UNKNOWN in self.not_checked or DARK in self.not_checked or not self.same


def replay_decisions(
    place: Place,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    state_dir: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Replayed:
    """Re-run every decision of the ledger at *place*, up to its latest checkpoint.

    Args:
        state_dir: keep the tables here and go on from them; None: in a directory that goes with the run.
        jobs: processes, a share each; 1: this one alone. A run that goes on has as many as it began with.

    Raises:
        StorageError: the place or the directory fails.
        VerificationError: the checkpoint is not this log's, or the leaves are not what it signed.
        InvalidError: the place has no openings, or the directory is another ledger's.
    """
    with ExitStack() as stack:
        is_kept = state_dir is not None
        if state_dir is None:
            state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consentd-replay-")))
        source = place.open()
        try:
            point, _ = checkpoint.open_checkpoint(source.checkpoint(), origin, log_verifier)
        finally:
            source.close()
        # A ledger of one round is not worth a process, unless it grows and the run goes on.
        is_small = point.size <= BATCH * tiles.TILE_WIDTH and not is_kept
        of = _shares_in(state_dir) or (1 if is_small else max(1, jobs))
        rounds = _alone if of == 1 else _together
        replayed = None
        for tallies in rounds(place, point, state_dir, of, stack):
            replayed = _add_up(point, tallies)
            if progress is not None:
                progress(replayed.entries, point.size)
            if replayed.stopped:
                break
        assert replayed is not None, "there is a tally before the first round"
        return replayed


def _shares_in(directory: Path) -> int:
    """Return how many shares an earlier run began with, 0 for none."""
    if not directory.is_dir():
        return 0
    matches = (_SHARE.fullmatch(path.name) for path in directory.iterdir())
    return max((int(match[1]) for match in matches if match is not None), default=0)


def _add_up(point: Checkpoint, tallies: Sequence[Tally]) -> Replayed:
    same: Counter[str] = sum((one.same for one in tallies), Counter())
    not_checked: Counter[str] = sum((one.not_checked for one in tallies), Counter())
    found = {(fault.index or 0, fault.what): fault for one in tallies for fault in one.faults}
    # INVARIANT: each share keeps its first hundred, so the first hundred of all are among them.
    faults = tuple(fault for _, fault in sorted(found.items(), key=lambda pair: pair[0]))[:MAX_FAULTS]
    return Replayed(
        checkpoint=point,
        entries=min(one.size for one in tallies),
        same=dict(same),
        not_checked=dict(not_checked),
        faults=faults,
        stopped=len(faults) == MAX_FAULTS,
    )


def _firsts(start: int, point: Checkpoint) -> range:
    return range(start // tiles.TILE_WIDTH, -(-point.size // tiles.TILE_WIDTH), BATCH)


def _alone(place: Place, point: Checkpoint, directory: Path, of: int, stack: ExitStack) -> Iterator[list[Tally]]:
    """Yield the tally of the only share: before the first round, and after each."""
    one = Share(place, point, directory / "0-of-1", number=0, of=of)
    stack.callback(one.close)
    yield [one.tally]
    for first in _firsts(one.tally.size, point):
        yield [one.take(first, BATCH)]
    one.finish()


def _together(place: Place, point: Checkpoint, directory: Path, of: int, stack: ExitStack) -> Iterator[list[Tally]]:
    """Yield the tallies of all shares after the same round each, with the shares in processes of their own."""
    pools = []
    for _ in range(of):
        # No fork: gRPC and RocksDB have threads.
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        stack.callback(pool.shutdown, cancel_futures=True)
        pools.append(pool)
    try:
        begun = [
            pool.submit(partition.begin, place, point, directory / f"{number}-of-{of}", number, of)
            for number, pool in enumerate(pools)
        ]
        tallies = [one.result() for one in begun]
        yield tallies
        ahead: deque[list[Future[Tally]]] = deque()
        for first in _firsts(min(one.size for one in tallies), point):
            ahead.append([pool.submit(partition.take, first, BATCH) for pool in pools])
            if len(ahead) > _AHEAD:
                yield [one.result() for one in ahead.popleft()]
        while ahead:
            yield [one.result() for one in ahead.popleft()]
        for done in [pool.submit(partition.finish) for pool in pools]:
            done.result()
    except BrokenProcessPool as error:
        raise StorageError("a worker process ended; what was replayed so far is in the state, if any") from error
