"""Follow a log: fetch its entries over HTTP, and replay every one of them.

What a checkpoint's signature and a consistency proof cannot tell, the entries can: that each seal says where every
chain stands. ``Follower.catch_up`` says nothing where they do, ``ReplayError`` where the entries that the log signed
break the rule, and ``StorageError`` where it could not tell: entries are not to be had, or are not those signed.

What a log has pruned is its word, unsigned: no seal before the start that it names is looked at. So the start is
believed only where this witness cosigned as much before, or where the log's retention policy lets it prune so late, as
the witness's operator knows that policy; and where what was pruned seems wrong, that is no evidence.

What a replay has made is kept in a file, so that a start need not begin with leaf 0. The file is a cache: it may be
deleted, and one that is damaged is not used. Who can write it can hide a wrong seal from this witness, as who holds
its key can. Layout, integers big-endian::

    "consentd/replay/v1\\0" ‖ size u64 ‖ time_ms u64 ‖ seal_hash[32]
    rows u8 ‖ (u16-length ‖ row)*            the tree's right edge
    peaks u8 ‖ (u8-length ‖ hash)*
    tags u64 ‖ (tag[32] ‖ count u64 ‖ head[32] ‖ erased u8)*
    SHA-256 of all that
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from struct import Struct

from consentd.core import bucketed, codec, merkle, pruned, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.pruned import Pruned
from consentd.core.replay import Replay, ReplayError
from consentd.cosigning.connection import Connection
from consentd.errors import MalformedError, ProofError, StorageError
from consentd.files import write_file

log = logging.getLogger(__name__)

KEEP_EVERY = 200_000
"""Leaves after which the cache is written again; a start replays at most as many as that, and what came since."""
_GROW_EVERY = 1 << 16  # leaves whose hashes wait in memory, before they are put into the tree's edge

_MAGIC = b"consentd/replay/v1\0"
_HEAD = Struct(">QQ32s")
_TAG = Struct(">32sQ32s?")
_U64 = Struct(">Q")


class Follower:
    """The replay of one log. Owned by whoever holds the log's lock."""

    def __init__(
        self,
        connection: Connection,
        cache: Path,
        *,
        map_bits: int,
        retention_days: int = 0,
        keep_every: int = KEEP_EVERY,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Take up what the cache has, or begin with leaf 0.

        Args:
            retention_days: what leaf 0 publishes, as the witness's operator knows it; 0: the log prunes nothing.
        """
        self._connection = connection
        self._cache = cache
        self._map_bits = map_bits
        self._retention_days = retention_days
        self._keep_every = keep_every
        self._wall_ms = wall_ms
        self._fault: ReplayError | None = None
        self._replay: Replay
        self._kept_size: int  # as the cache has it
        self._sure_size: int  # as held against a checkpoint
        self._resume()

    @property
    def size(self) -> int:
        """How many leaves were replayed."""
        return self._replay.size

    def catch_up(self, point: Checkpoint, *, cosigned_size: int = 0) -> None:
        """Replay every leaf up to a checkpoint that the log signed, and that continues those before.

        Args:
            cosigned_size: up to where every seal was looked at before.

        Raises:
            ReplayError: the entries are those that the log signed, and one breaks the rule. It stays so.
            StorageError: the entries are not to be had, or are not those that were signed; or some are said to be
                pruned that should not be.
        """
        if self._fault is not None:
            raise self._fault
        if not self._replay.size:
            said = self._pruned(cosigned_size)
            self._replay = Replay(self._map_bits, start=said.start, kept_from_ms=said.kept_from_ms)
        replay = self._replay
        if point.size < replay.size:
            raise StorageError(f"entries are replayed up to size {replay.size} already")
        # INVARIANT: the seal at the start is always replayed before anything is cosigned: it vouches for what is kept.
        if point.size < replay.start:
            raise StorageError(f"log says to have pruned entries up to size {replay.start}, behind its checkpoint")
        fault: ReplayError | None = None
        behind: list[bytes] = []  # hashes of the leaves from the fault on
        for leaf, leaf_hash in self._fetch(replay.size, point.size):
            if fault is None:
                try:
                    if leaf:
                        replay.add(leaf)
                    elif replay.size >= replay.start - 1:
                        # INVARIANT: what is not shown is no evidence: the log signed its hash, and may prune it.
                        self._begin_anew()
                        raise StorageError("entries were pruned meanwhile: they are replayed anew from the first")
                    else:
                        replay.skip_pruned(leaf_hash)
                    if replay.size % _GROW_EVERY == 0:
                        replay.grow()
                    continue
                except ReplayError as error:
                    fault = error
            behind.append(leaf_hash)
        replay.grow()
        if replay.edge.append(behind)[0].root() != point.root:
            # What was taken in is not the log's: it proves nothing, and must not stay.
            self._resume()
            raise StorageError("entries served are not those of the checkpoint")
        if fault is not None and fault.index < replay.start:
            # INVARIANT: no evidence: the log signed these entries, and not which of them it has pruned. It may have
            # pruned more meanwhile.
            self._begin_anew()
            raise StorageError(f"what is pruned does not fit what is kept; entries are replayed anew: {fault}")
        if fault is None and replay.sealed_size != point.size:
            fault = ReplayError(max(0, point.size - 1), "checkpoint's last leaf is not a seal")
        if fault is not None:
            self._fault = fault
            raise fault
        self._sure_size = replay.size
        if replay.size - self._kept_size >= self._keep_every:
            self.keep()

    def keep(self) -> None:
        """Write the cache; a failure is logged, for nothing depends on it."""
        # INVARIANT: leaves that were fetched, and not yet held against a checkpoint, may be anybody's.
        if self._fault is not None or not 0 < self._replay.size == self._sure_size:
            return
        try:
            write_cache(self._cache, self._replay)
            self._kept_size = self._replay.size
        except StorageError as error:
            log.warning("replay is not kept: %s", error)

    def _resume(self) -> None:
        """Go back to what the cache has."""
        self._replay = read_cache(self._cache, self._map_bits)
        self._kept_size = self._sure_size = self._replay.size

    def _begin_anew(self) -> None:
        self._replay = Replay(self._map_bits)
        self._kept_size = self._sure_size = 0

    def _pruned(self, cosigned_size: int) -> Pruned:
        """Return what the log says that it has pruned, where that is to be believed."""
        answer = self._connection.request("GET", f"/{pruned.FILE}")
        if answer.status == 404:
            return pruned.NOTHING
        try:
            said = pruned.parse_pruned(answer.body)
            # INVARIANT: else a log that lies about a chain would say to have pruned all up to where it lies.
            if said.start > cosigned_size:
                said.verify_policy(days=self._retention_days, time_ms=self._wall_ms())
        except MalformedError as error:
            raise StorageError(f"what is pruned cannot be told: status {answer.status}: {error}") from error
        except ProofError as error:
            raise StorageError(f"{error}: `retention_days` of this log is {self._retention_days}") from error
        return said

    def _fetch(self, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the leaves in [*start*, *end*) with their hashes, fetched bundle by bundle; nothing for pruned ones."""
        for n in range(start // tiles.TILE_WIDTH, -(-end // tiles.TILE_WIDTH)):
            first = n * tiles.TILE_WIDTH
            width = min(tiles.TILE_WIDTH, end - first)
            leaves = self._bundle(n, width)
            hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
            if not all(leaves):
                row = self._get("entry bundle's tile", tiles.tile_path(0, n, width))
                in_tree = [row[at : at + 32] for at in range(0, len(row), 32)]
                if [len(one) for one in in_tree] != [32] * width:
                    raise StorageError("tile over a pruned bundle has another length")
                hashes = [own if leaf else theirs for leaf, own, theirs in zip(leaves, hashes, in_tree, strict=True)]
            yield from list(zip(leaves, hashes, strict=True))[max(0, start - first) :]

    def _bundle(self, n: int, width: int) -> list[bytes]:
        # A log may drop a partial bundle once it has the full one (tlog-tiles), and of a pruned one keeps some entries.
        paths = [tiles.entries_path(n, width), tiles.entries_path(n), tiles.kept_path(n)]
        try:
            leaves = tiles.decode_bundle(self._get("entry bundle", *dict.fromkeys(paths)))
        except MalformedError as error:
            raise StorageError(f"entry bundle is malformed: {error}") from error
        if len(leaves) < width:
            raise StorageError("entry bundle is too short")
        return leaves[:width]

    def _get(self, what: str, *paths: str) -> bytes:
        """Return what lies at the first path at which anything does."""
        status = 404
        for path in paths:
            answer = self._connection.request("GET", "/" + path)
            if answer.status == 200:
                return answer.body
            status = answer.status
            if status != 404:
                break
        raise StorageError(f"{what} is not to be had: status {status}")


def write_cache(path: Path, replay: Replay) -> None:
    """Write what a replay has made, just after a seal.

    Raises:
        StorageError: the file cannot be written; the old one is as it was.
    """
    assert replay.sealed_size == replay.size, "between seals, heads are not what the map says"
    replay.grow()
    write_file(path, _with_digest(_pieces(replay)), is_synced=False, name="cache of a followed log")


def _with_digest(pieces: Iterable[bytes]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    yield digest.digest()


def _pieces(replay: Replay) -> Iterator[bytes]:
    yield _MAGIC + _HEAD.pack(replay.size, replay.time_ms, replay.seal_hash)
    yield bytes((len(replay.edge.rows),))
    for row in replay.edge.rows:
        yield len(row).to_bytes(2) + row
    yield bytes((len(replay.edge.peaks),))
    for peak in replay.edge.peaks:
        yield bytes((len(peak),)) + peak
    yield _U64.pack(len(replay.heads))
    for tag, head in replay.heads.items():
        yield _TAG.pack(tag, *head)


def read_cache(path: Path, map_bits: int) -> Replay:
    """Return the replay that a cache holds; a new one where there is none, or a damaged one."""
    replay = Replay(map_bits)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return replay
    except OSError as error:
        log.warning("replay begins anew: `%s`: %s", path, error.strerror)
        return replay
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest or not body.startswith(_MAGIC):
        log.warning("replay begins anew: its file is damaged: `%s`", path)
        return replay
    # INVARIANT: from here on these are the bytes that ``write_cache`` wrote, so their lengths need no checks.
    replay.size, replay.time_ms, replay.seal_hash = _HEAD.unpack_from(body, len(_MAGIC))
    replay.sealed_size = replay.size
    at = len(_MAGIC) + _HEAD.size
    rows, at = _read_parts(body, at, 2)
    peaks, at = _read_parts(body, at, 1)
    replay.edge = tiles.Edge(replay.size, rows, peaks)
    replay.heads = {row[0]: row[1:] for row in _TAG.iter_unpack(body[at + _U64.size :])}
    _build_map(replay)
    return replay


def _read_parts(body: bytes, at: int, length_size: int) -> tuple[tuple[bytes, ...], int]:
    """Read a count u8 and as many length-prefixed parts; return them and where they end."""
    parts: list[bytes] = []
    count, at = body[at], at + 1
    for _ in range(count):
        start = at + length_size
        end = start + int.from_bytes(body[at:start])
        parts.append(body[start:end])
        at = end
    return tuple(parts), at


def _build_map(replay: Replay) -> None:
    """Make buckets and top from the heads."""
    map_bits = replay.top.map_bits
    values: dict[int, dict[bytes, bytes]] = {}
    for tag, (count, head, _) in replay.heads.items():
        key = codec.map_key(tag)
        values.setdefault(bucketed.bucket_of(key, map_bits), {})[key] = codec.map_value(tag, count, head)
    roots: dict[int, bytes] = {}
    for number, entries in values.items():
        bucket = replay.buckets[number] = bucketed.bucket_update(b"", entries)
        root = bucketed.bucket_root(bucket, map_bits)
        assert root is not None, "a bucket with entries has a root"
        roots[number] = root
    replay.top.update(roots)
