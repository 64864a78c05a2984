"""Verify a ledger: choose the leaf to start at, walk over all leaves from there, and save the state of the walk.

Worker processes check runs of leaves, each run by itself (``workers``); ``verify.walker`` takes the runs in order. At
the end, the root computed from the leaves must be the root in the checkpoint, so the log signed what was verified.

A walk starts at leaf 0, after a trusted checkpoint, or after the leaves of a saved state. The state was saved by an
interrupted run, or when the ledger was smaller.
"""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from consentd.audit.checkpoints import SignedCheckpoint, Witnesses, read_checkpoint
from consentd.audit.remote import AtCheckpoint, at_checkpoint
from consentd.audit.sources import Location, Source
from consentd.audit.state_store import CACHED, StateStore
from consentd.audit.workers import check_ahead
from consentd.core import checkpoint, codec, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteVerifier, Verifier, format_vkey
from consentd.core.replay import Replay
from consentd.core.rotation import LedgerKeys
from consentd.errors import InvalidError, MalformedError, ProofError, VerificationError
from consentd.verify.findings import Progress, Report, TooManyFaults
from consentd.verify.leaf_checks import TreePoint
from consentd.verify.source import read_leaves, read_tiles, width_of
from consentd.verify.statements import Authors
from consentd.verify.walker import Expected, Walker

SAVE_EVERY = 50_000
"""Fewest leaves between two saves of the state."""
MAX_MAP_BITS = 22
"""Limits the hashes above the map's buckets to 256 MiB, whatever number of tags a ledger claims."""


def verify_ledger(
    location: Location,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    witnesses: Witnesses | None = None,
    since: bytes | None = None,
    state_path: Path | None = None,
    save_every: int = SAVE_EVERY,
    jobs: int = 1,
    cached: int = CACHED,
    progress: Progress | None = None,
) -> Report:
    """Verify the ledger at *location*, up to its latest checkpoint.

    Args:
        witnesses: the witnesses that must have cosigned the checkpoint; None: nobody must.
        since: a trusted checkpoint, perhaps by an earlier log key (``open_own``). The leaves that it covers are not
            verified, so the heads of older chains are unknown, and map roots are not compared. If there is a saved
            state, *since* is ignored.
        state_path: the file in which the state is saved, and from which a later run continues; None: not saved.
        save_every: fewest leaves between two saves. A save comes after a seal.
        jobs: number of processes that check leaves; 1: only this process.
        cached: number of chain heads to keep in memory, see ``state_store``.

    Raises:
        StorageError: the source or the state file fails.
        VerificationError: the log did not sign the checkpoint, no quorum cosigned the checkpoint, or its tree does not
            begin with the trusted tree.
        InvalidError: the state file is of another ledger, or *since* is no checkpoint.
    """
    with ExitStack() as stack:
        source = location.open()
        stack.callback(source.close)
        # The source's claim of prunings is read before the checkpoint. A ledger prunes only after a checkpoint has
        # published the entry that states the pruning, so the checkpoint that is read now covers this entry.
        pruned = source.pruned()
        read = partial(read_checkpoint, source, origin=origin, log_verifier=log_verifier, witnesses=witnesses)
        signed = read()
        if pruned.start > signed.point.size:
            raise ProofError(f"source claims that more is pruned than there is: `{pruned.start}`")
        states = StateStore(state_path, cached=cached)
        stack.callback(states.close)
        expected = Expected(
            origin=origin, vkey=_vkey(signed),
            pruned=pruned, pruned_below=pruned.start, is_missing_wrong=source.is_whole,
        )  # fmt: skip
        walker = states.load(source, expected)
        if walker is not None and walker.replay.size > signed.point.size:
            signed = read(at_least=walker.replay.size)
            walker.expected = replace(walker.expected, vkey=_vkey(signed))
        point = signed.point
        location, source = AtCheckpoint(location, point), at_checkpoint(source, point)
        start, saved = 0, None if state_path is None else states
        if walker is None and since is not None:
            walker = _start_after(source, expected, point, _open_trusted(since, origin, log_verifier), states)
            start, saved = walker.replay.size, None
        if walker is None:
            walker = _start(source, expected, point, states)
        if saved is not None:
            _save_after_seals(walker, saved, save_every)
        tree = TreePoint(origin=origin, size=point.size, root=point.root)
        stopped = False
        try:
            for run in check_ahead(location, source, tree, walker.replay.size, jobs, stack):
                walker.take(run)
                if progress is not None:
                    progress(walker.replay.size, point.size)
            _finish(walker, point, start=start, saved=saved)
        except TooManyFaults:
            stopped = True
        report = walker.report(point, stopped=stopped, start=start)
        return replace(report, cosignatures=signed.cosignatures, followed=signed.log_keys)


def _finish(walker: Walker, point: Checkpoint, *, start: int, saved: StateStore | None) -> None:
    """Compare a walk over all leaves with the checkpoint, and add the faults that this shows.

    Args:
        start: the leaf after a trusted checkpoint at which the walk began; else 0.
        saved: where the state is saved; None: it is not saved.
    """
    is_sealed = walker.replay.sealed_size == walker.replay.size
    is_right = not walker.found.faults and walker.replay.root() == point.root
    if saved is not None and is_sealed and is_right:
        saved.save(walker)  # Before ``finish`` adds faults, because a later run finds them again.
    walker.finish(point.root)
    if walker.found.counts.leaves_pruned or walker.found.counts.statements_pruned:
        walker.compare_pruned()
    if walker.replay.size > start and not is_sealed:
        walker.found.add(walker.replay.size - 1, "last leaf of the checkpoint's tree is not a seal")


def _vkey(signed: SignedCheckpoint) -> str:
    """Return the vkey of the log key that signed a checkpoint; "" if it is not Ed25519."""
    return format_vkey(signed.log_key) if isinstance(signed.log_key, Verifier) else ""


def _open_trusted(note: bytes, origin: str, log_verifier: NoteVerifier) -> Checkpoint:
    try:
        return checkpoint.open_own(note, origin, log_verifier)
    except MalformedError as error:
        # The trusted checkpoint comes from the caller, so a bad one is no evidence against the ledger.
        raise InvalidError(f"trusted checkpoint does not decode: {error}") from error


def _start(source: Source, expected: Expected, point: Checkpoint, states: StateStore) -> Walker:
    """Return a walk that starts at leaf 0."""
    tags = 0
    try:
        # The number of tags in the last seal is unproven, but decides only the number of map buckets.
        n = (point.size - 1) // tiles.TILE_WIDTH
        seal = codec.decode_leaf(read_leaves(source, n, width_of(n, point.size))[-1])
        tags = seal.tags if isinstance(seal, codec.Seal) else 0
    except VerificationError:
        pass  # The walk reports this leaf.
    map_bits = min(MAX_MAP_BITS, max(4, (max(1, tags // 16) - 1).bit_length()))
    replay = Replay(map_bits, start=expected.pruned.start, kept_from_ms=expected.pruned.kept_from_ms)
    replay.heads, replay.buckets = states.heads, states.buckets
    return Walker(source, expected, replay, Authors(states.keys, LedgerKeys(expected.origin)))


def _start_after(
    source: Source, expected: Expected, point: Checkpoint, trusted: Checkpoint, states: StateStore
) -> Walker:
    """Return a walk that starts after a trusted checkpoint. Raises InvalidError if leaves after that are pruned."""
    if trusted.size > point.size:
        raise ProofError(f"ledger is smaller than what is trusted: `{point.size}` and `{trusted.size}`")
    if trusted.size < expected.pruned.minimum:
        raise InvalidError("what follows the trusted checkpoint is pruned: verify from the start of the ledger")
    edge = tiles.Edge.from_tiles(trusted.size, read_tiles(source, tiles.plan_root(trusted.size), point.size))
    if edge.root() != trusted.root:
        raise ProofError(f"ledger does not begin with the trusted tree of size `{trusted.size}`")
    authors = Authors(states.keys, LedgerKeys(expected.origin))
    authors.keys_lost = trusted.size > 0
    return Walker(source, expected, Replay.after_trusted(edge), authors)


def _save_after_seals(walker: Walker, states: StateStore, save_every: int) -> None:
    """Make the walk save its state after each seal that is at least *save_every* leaves after the last save.

    After a fault nothing is saved, so a later run reads the faulty part again.
    """
    saved_size = walker.replay.size

    def save_if_due() -> None:
        nonlocal saved_size
        replay = walker.replay
        if walker.found.faults:
            return
        if replay.size - saved_size >= save_every and replay.knows_all_heads and replay.size >= replay.start:
            walker.grow()
            states.save(walker)
            saved_size = replay.size

    walker.after_seal = save_if_due
