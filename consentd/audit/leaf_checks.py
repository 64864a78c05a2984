"""Look at a run of leaves by itself: what needs no leaf before it. Worker processes do this, in any order.

For each leaf: that it hashes to what the tile has; that its opening commits to it, decodes, and carries a signature by
the key that it names. Whether that key was in force is for ``verify``, which knows what came before.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from consentd.audit.sources import Opening, Place, Source, read_leaves, width_of
from consentd.core import codec, key_validity, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import CorruptionError, MalformedError, ProofError, StorageError, VerificationError
from consentd.statements import payloads

RUN = 16
"""Bundles in a run: 4,096 leaves, half a megabyte, a quarter of a second of signatures."""

_SALT = 32
_AUTHORING = frozenset({EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY})


@dataclass(frozen=True, slots=True)
class Fact:
    """What an entry says of keys: a LEDGER's or KEY's key, or the id of a PARTICIPANT; of a LEDGER, retention too.

    Attributes:
        origin, verifier_keys: what a LEDGER's says the ledger is called, and who signs its checkpoints.
        retention_days: the published policy, in leaf 0.
        is_unread: it has fields that this version does not know. What they change of the others is not known, so it
            says nothing.
        pruned: what a later LEDGER entry states to be pruned.
    """

    key: bytes = b""
    retired: bool = False
    participant: str = ""
    origin: str = ""
    verifier_keys: tuple[str, ...] = ()
    retention_days: int = 0
    pruned: Pruned | None = None
    is_unread: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """Who signed an entry, by which clock, and what it says of keys."""

    key: bytes
    author_time_ms: int
    fact: Fact | None = None


@dataclass(slots=True)
class Run:
    """What was seen of a run of leaves.

    Attributes:
        start: index of the first leaf.
        leaves: as they are in the bundles; of a pruned one, nothing.
        gone: by index, for each pruned leaf, what the tree has in its place.
        made: by index, for each opening that is right.
        faults: index and what is wrong with it.
        has_openings: the place has openings at all.
    """

    start: int
    leaves: list[bytes] = field(default_factory=list)
    gone: dict[int, bytes] = field(default_factory=dict)
    made: dict[int, Made] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)
    has_openings: bool = False


_source: Source | None = None  # a worker's own, made once by ``begin``


def begin(place: Place) -> None:
    """Open the place in a worker process."""
    global _source
    leave_with_parent()
    _source = place.open()


def leave_with_parent() -> None:
    """Let a worker process end when its parent does, however that ends, and only then.

    An interrupt from the terminal reaches workers too; the parent ends them in good order. One that is killed cannot,
    and its workers would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker has a parent"
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def look_in_worker(first: int, count: int, size: int, origin: str) -> Run:
    """Look at *count* bundles from *first* on, in a worker that ``begin`` opened."""
    assert _source is not None, "a worker opens its place first"
    return look(_source, first=first, count=count, size=size, origin=origin)


def look_ahead(
    place: Place, source: Source, point: Checkpoint, start: int, jobs: int, stack: ExitStack
) -> Iterator[Run]:
    """Yield the runs from leaf *start* on, in order, looked at by *jobs* workers a few runs ahead.

    *stack* ends the workers when it is closed.

    Raises:
        StorageError: a worker process ended, or the place fails.
    """
    bundles = -(-point.size // tiles.TILE_WIDTH)
    firsts = range(start // tiles.TILE_WIDTH, bundles, RUN)
    wanted = ((first, min(RUN, bundles - first)) for first in firsts)
    if jobs <= 1 or len(firsts) <= 1:
        for first, count in wanted:
            yield look(source, first=first, count=count, size=point.size, origin=point.origin)
        return
    # No fork: gRPC and RocksDB have threads. Two runs wait for each worker, half a megabyte each.
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=begin, initargs=(place,)
    )
    stack.callback(pool.shutdown, cancel_futures=True)
    ahead: deque[Future[Run]] = deque()
    try:
        for first, count in wanted:
            ahead.append(pool.submit(look_in_worker, first, count, point.size, point.origin))
            if len(ahead) > 2 * jobs:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise StorageError("a worker process ended; what was verified so far is in the state file, if any") from error


def look(source: Source, *, first: int, count: int, size: int, origin: str) -> Run:
    """Look at *count* bundles from *first* on, of a tree of *size* leaves.

    Raises:
        StorageError: the source fails.
        MalformedError: a bundle is not one, so that its leaves cannot be told apart.
    """
    run = Run(first * tiles.TILE_WIDTH)
    for n in range(first, first + count):
        width = width_of(n, size)
        try:
            leaves = read_leaves(source, n, width)
        except MalformedError as error:
            raise MalformedError(f"{error}: entries from `{n * tiles.TILE_WIDTH}`") from error
        _compare_tile(run, source.tile(0, n, width), leaves, n * tiles.TILE_WIDTH)
        run.leaves += leaves
        try:
            openings = source.openings(n, leaves)
        except (VerificationError, CorruptionError) as error:
            run.faults.append((n * tiles.TILE_WIDTH, f"openings of the entries from here: {error}"))
            openings = [None] * width
        if openings is not None:
            run.has_openings = True
            _open_all(run, leaves, openings, n * tiles.TILE_WIDTH, origin)
    return run


def _compare_tile(run: Run, tile: bytes, leaves: Sequence[bytes], start: int) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    for place, leaf in enumerate(leaves):
        if not leaf:
            # What the tile has is as good as any: at the end all of it must hash to the root that the log signed.
            hashes[place] = run.gone[start + place] = tile[32 * place : 32 * place + 32].ljust(32, b"\0")
    if tile == b"".join(hashes):
        return
    for place, computed in enumerate(hashes):
        if tile[32 * place : 32 * place + 32] != computed:
            run.faults.append((start + place, "leaf does not hash to what its tile has"))
    if len(tile) != 32 * len(leaves):
        run.faults.append((start, "tile holds more or fewer hashes than leaves"))


def _open_all(run: Run, leaves: Sequence[bytes], openings: Sequence[Opening], start: int, origin: str) -> None:
    for index, (leaf, opening) in enumerate(zip(leaves, openings, strict=True), start):
        if not leaf:
            continue
        try:
            event = codec.decode_leaf(leaf)
        except MalformedError:
            continue  # the replay names it
        if not isinstance(event, codec.Event) or opening is None:
            continue
        try:
            run.made[index] = verify_opening(event, opening, origin=origin)
        except VerificationError as error:
            run.faults.append((index, str(error)))


def verify_opening(event: codec.Event, opening: bytes, *, origin: str) -> Made:
    """Verify that an opening is what its leaf commits to, decodes, and was signed by the key it names.

    Raises:
        MalformedError: it, its statement or its payload is not one.
        ProofError: it is not what the leaf commits to.
        SignatureError: the signature does not verify.
    """
    made = open_statement(event, opening)
    key_validity.verify_signature(event, made, origin=origin)
    fact = None
    if event.kind in payloads.MESSAGES:
        payload = payloads.decode_payload(event.kind, made.payload)
        if event.kind in _AUTHORING:
            fact = _fact(event, payload)
    return Made(made.key, made.author_time_ms, fact)


def open_statement(event: codec.Event, opening: bytes) -> codec.Statement:
    """Return the statement of an opening that its leaf commits to.

    Raises:
        MalformedError: it is not one.
        ProofError: it is not what the leaf commits to.
    """
    # INVARIANT: the salt's length is fixed, or the same hash would open to other statements.
    if len(opening) < _SALT:
        raise MalformedError("salt is not 32 bytes long")
    if codec.commit(opening[:_SALT], opening[_SALT:]) != event.commit:
        raise ProofError("opening is not what its leaf commits to")
    return codec.decode_statement(opening[_SALT:])


def _fact(event: codec.Event, payload: Any) -> Fact:
    if not payloads.has_only_known_fields(payload):
        return Fact(is_unread=True)
    if event.kind == EntryKind.LEDGER:
        pruning = payload.pruning
        stated = Pruned(pruning.kept_from_time_ms, pruning.start_size) if payload.HasField("pruning") else None
        return Fact(
            payload.statement_key, origin=payload.origin, verifier_keys=tuple(payload.verifier_keys),
            retention_days=payload.retention_days, pruned=stated,
        )  # fmt: skip
    if event.kind == EntryKind.KEY:
        return Fact(payload.key, payload.retired)
    return Fact(participant=payload.participant_id)
