"""Follow a log: fetch its entries over HTTP, and replay every one of them.

A checkpoint's signature and a consistency proof do not show whether each seal states the right map root. Only the
entries show that. ``Follower.catch_up`` returns if they do. It raises ``ReplayError`` if entries that the log signed
break the replay rule, and ``StorageError`` if this could not be determined: entries cannot be fetched, or are not the
signed ones.

What a log has pruned is its own claim, unsigned, and seals before the start that it names are not verified. So a start
is accepted only up to the size that this witness has cosigned already, or if the log's retention policy allows it as
the witness's operator knows that policy. Pruned entries that seem wrong are no evidence against the log.

The replay's state is saved in a file, so that the next start need not begin with leaf 0. The file is a cache: it may be
deleted, and a damaged one is not used. Whoever can write it can hide a wrong seal from this witness, as the holder of
the witness's key can. Format: length of the state u32 ‖ state ‖ heads (both as in ``core.replay_state``) ‖ SHA-256 of
all these bytes.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from consentd import files
from consentd.core import tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.pruned import Pruned
from consentd.core.replay import Replay, ReplayError
from consentd.core.replay_state import build_map, decode_heads, decode_state, encode_heads, encode_state
from consentd.cosigning.connection import Connection
from consentd.errors import MalformedError, StorageError, VerificationError
from consentd.verify.source import TlogFiles, leaf_hashes, read_leaves, width_of

log = logging.getLogger(__name__)

KEEP_EVERY = 200_000
"""Leaves between two writes of the cache. A start replays at most as many again, and the leaves added since."""
_GROW_EVERY = 1 << 16  # leaves whose hashes wait in memory before they are hashed into the tree's edge
_LENGTH = 4
_DIGEST = 32


class LogFiles(TlogFiles):
    """The public files of a log, over HTTP. One thread uses it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def find(self, path: str) -> bytes | None:
        """Fetch a file."""
        answer = self.connection.request("GET", "/" + path)
        if answer.status not in (200, 404):
            raise StorageError(f"log's file cannot be fetched: status {answer.status}: `{path}`")
        return answer.body if answer.status == 200 else None


class Follower:
    """The replay of one log. The holder of the log's lock owns it (``daemon.Witness``)."""

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
        """Continue from the *cache*, or start at leaf 0. The cache is written after each *keep_every* leaves.

        *retention_days* is the policy in the log's leaf 0, as the witness's operator knows it; 0: nothing is pruned.
        """
        self._source, self._cache, self._keep_every = LogFiles(connection), cache, keep_every
        self._map_bits, self._retention_days, self._wall_ms = map_bits, retention_days, wall_ms
        self._fault: ReplayError | None = None
        self._replay: Replay
        self._kept_size: int  # leaves in the cache
        self._signed_size: int  # leaves that a checkpoint covers
        self._restore()

    @property
    def size(self) -> int:
        """How many leaves were replayed."""
        return self._replay.size

    def catch_up(self, point: Checkpoint, *, cosigned_size: int = 0) -> None:
        """Replay every leaf up to a checkpoint that the log signed, and that is consistent with earlier ones.

        Every seal up to *cosigned_size* was verified before.

        Raises:
            ReplayError: the entries are the signed ones, and one breaks the rule. Every later call raises it again.
            StorageError: the entries cannot be fetched or are not the signed ones, or the log claims to have pruned
                more than it may.
        """
        if self._fault is not None:
            raise self._fault
        if not self._replay.size:
            claimed = self._pruned(cosigned_size)
            self._replay = Replay(self._map_bits, start=claimed.start, kept_from_ms=claimed.kept_from_ms)
        replay = self._replay
        if point.size < replay.size:
            raise StorageError(f"entries are replayed up to size {replay.size} already")
        # INVARIANT: nothing is cosigned before the seal at the start was replayed. It confirms the kept chain heads.
        if point.size < replay.start:
            raise StorageError(f"log claims to have pruned entries up to size {replay.start}, after its checkpoint")
        fault, rest = self._replay_leaves(point.size)
        if replay.edge.append(rest)[0].root() != point.root:
            # What was replayed is not the log's: it proves nothing, and must not be kept.
            self._restore()
            raise StorageError("entries served are not those of the checkpoint")
        if fault is not None and fault.index < replay.start:
            # INVARIANT: no evidence. The log signed these entries, but not which of them it has pruned, and it may have
            # pruned more during the replay.
            self._start_again()
            raise StorageError(f"pruned entries do not fit the kept ones; all are replayed again: {fault}")
        if fault is None and replay.sealed_size != point.size:
            fault = ReplayError(max(0, point.size - 1), "checkpoint's last leaf is not a seal")
        if fault is not None:
            self._fault = fault
            raise fault
        self._signed_size = replay.size
        if replay.size - self._kept_size >= self._keep_every:
            self.keep()

    def _replay_leaves(self, end: int) -> tuple[ReplayError | None, list[bytes]]:
        """Replay the leaves up to size *end*; return the first fault, and the hashes of the leaves from there on."""
        replay, fault = self._replay, None
        rest: list[bytes] = []
        for leaf, leaf_hash in self._fetch(replay.size, end):
            if fault is None:
                try:
                    if leaf:
                        replay.add(leaf)
                    elif replay.size < replay.start - 1:
                        replay.skip_pruned(leaf_hash)
                    else:
                        # INVARIANT: a missing leaf is no evidence: the log signed its hash, and may prune it.
                        self._start_again()
                        raise StorageError("entries were pruned during the replay: all are replayed again")
                    if replay.size % _GROW_EVERY == 0:
                        replay.grow()
                    continue
                except ReplayError as error:
                    fault = error
            rest.append(leaf_hash)
        replay.grow()
        return fault, rest

    def keep(self) -> None:
        """Write the cache. A failure is logged only, because nothing depends on the cache."""
        # INVARIANT: only leaves that a checkpoint covers are kept. Others may be anybody's.
        if self._fault is not None or not 0 < self._replay.size == self._signed_size:
            return
        try:
            write_cache(self._cache, self._replay)
            self._kept_size = self._replay.size
        except StorageError as error:
            log.warning("replay is not kept: %s", error)

    def _restore(self) -> None:
        """Go back to what the cache has."""
        self._replay = read_cache(self._cache, self._map_bits)
        self._kept_size = self._signed_size = self._replay.size

    def _start_again(self) -> None:
        self._replay = Replay(self._map_bits)
        self._kept_size = self._signed_size = 0

    def _pruned(self, cosigned_size: int) -> Pruned:
        """Return what the log claims to be pruned. Raises StorageError if the log may not have pruned so much."""
        try:
            claimed = self._source.pruned()
            # INVARIANT: otherwise a log with a wrong seal could claim to have pruned everything up to that seal.
            if claimed.start > cosigned_size:
                claimed.verify_policy(days=self._retention_days, time_ms=self._wall_ms())
        except VerificationError as error:
            raise StorageError(f"{error}: `retention_days` of this log is {self._retention_days}") from error
        return claimed

    def _fetch(self, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the leaves from *start* up to *end* with their hashes; b"" for a pruned leaf."""
        for n in range(start // tiles.TILE_WIDTH, -(-end // tiles.TILE_WIDTH)):
            try:
                leaves = read_leaves(self._source, n, width_of(n, end))
                hashes = leaf_hashes(self._source, n, leaves)
            except VerificationError as error:
                raise StorageError(f"entries cannot be read: {error}") from error
            yield from list(zip(leaves, hashes, strict=True))[max(0, start - n * tiles.TILE_WIDTH) :]


def write_cache(path: Path, replay: Replay) -> None:
    """Write a replay whose last leaf is a seal. Raises StorageError: the disk fails."""
    assert replay.sealed_size == replay.size, "between seals the map lags behind the heads"
    replay.grow()
    state = encode_state(replay.state())
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        heads = encode_heads(replay.heads)
        batches = iter(lambda: b"".join(islice(heads, 4096)), b"")  # each piece is a system call
        for piece in chain((len(state).to_bytes(_LENGTH), state), batches):
            digest.update(piece)
            yield piece
        yield digest.digest()

    files.write_file(path, pieces(), is_synced=False, name="replay")


def read_cache(path: Path, map_bits: int) -> Replay:
    """Return the replay in a cache; a new one if there is no cache, or a damaged one."""
    try:
        content = files.read_file_if_exists(path)
        if content is None:
            return Replay(map_bits)
        body, digest = memoryview(content)[:-_DIGEST], content[-_DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            raise MalformedError("checksum does not match")
        end = _LENGTH + int.from_bytes(body[:_LENGTH])
        state, heads = decode_state(bytes(body[_LENGTH:end])), decode_heads(body[end:])
    except (StorageError, MalformedError) as error:
        log.warning("replay starts at leaf 0: its file cannot be used: `%s`: %s", path, error)
        return Replay(map_bits)
    buckets, top = build_map(heads, map_bits)
    return Replay.restore(state, heads=heads, buckets=buckets, top=top)
