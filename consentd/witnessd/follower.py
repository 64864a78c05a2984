"""Follow a log: fetch all its entries over HTTP, and replay each of them.

A seal is a leaf that states the root of a map, which is computed from the entries before the seal. A checkpoint's
signature and a consistency proof do not show whether the map roots are right; only the entries do. If the entries
confirm all roots, ``Follower.catch_up`` returns. If entries that the log signed break the replay rule, the function
raises ``ReplayError``. If entries cannot be fetched, or are not those that the log signed, it raises ``StorageError``.

A log may prune (delete) old entries. The log then names a tree size, the *start*, and seals before the start cannot be
verified. The log does not sign the start. So a start is accepted only up to the size that this witness has already
cosigned, or if the log's configured retention policy allows it. Pruned entries that seem wrong are no evidence.

The replay's state is saved in a cache file, so that the next start need not begin with leaf 0. The file may be deleted,
and a damaged file is not used. An attacker who can write the file can hide a wrong seal from this witness, as can an
attacker who has the witness's key. Format: length of the state u32 ‖ state ‖ heads (both as in ``core.replay_state``)
‖ SHA-256 of all these bytes.
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
from consentd.errors import FetchError, MalformedError, StorageError, VerificationError
from consentd.verify.source import TlogFiles, leaf_hashes, read_leaves, width_of

log = logging.getLogger(__name__)

KEEP_EVERY = 200_000
"""The cache is written each time this many leaves were replayed. So a start repeats at most about as many."""
_GROW_EVERY = 1 << 16  # how many leaf hashes are collected before they are added to the tree's edge
_LENGTH = 4
_DIGEST = 32


class LogFiles(TlogFiles):
    """The files of a log, fetched over HTTP. Only one thread at a time may use this object."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def find(self, path: str) -> bytes | None:
        """Fetch a file; return None if the log has no such file."""
        answer = self.connection.request("GET", "/" + path)
        if answer.status not in (200, 404):
            raise FetchError(f"log's file cannot be fetched: status {answer.status}: `{path}`")
        return answer.body if answer.status == 200 else None


class Follower:
    """The replay of one log. Only a thread that holds the log's lock uses it (see ``daemon.Witness``)."""

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
        """Continue from the *cache* file, or start at leaf 0. The cache is written after each *keep_every* leaves.

        *retention_days* is the log's retention policy, as the operator has configured it; 0: the log may prune nothing.
        """
        self._source, self._cache, self._keep_every = LogFiles(connection), cache, keep_every
        self._map_bits, self._retention_days, self._wall_ms = map_bits, retention_days, wall_ms
        self._fault: ReplayError | None = None
        self._replay: Replay
        self._kept_size: int  # how many leaves the cache covers
        self._signed_size: int  # how many replayed leaves a signed checkpoint covers
        self._restore()

    @property
    def size(self) -> int:
        """The number of replayed leaves."""
        return self._replay.size

    def catch_up(self, point: Checkpoint, *, cosigned_size: int = 0) -> None:
        """Replay every leaf up to *point*, a checkpoint that the log signed and that is consistent with earlier ones.

        *cosigned_size* is the size of the checkpoint cosigned last; every seal up to that size was verified before.

        Raises:
            ReplayError: an entry that the log signed breaks the replay rule. Every later call raises this error again.
            StorageError: the entries cannot be fetched or are not the signed entries, or the log claims to have pruned
                more than it may prune.
        """
        if self._fault is not None:
            raise self._fault
        if not self._replay.size:
            claimed = self._pruned(cosigned_size)
            self._replay = Replay(self._map_bits, start=claimed.start, kept_from_ms=claimed.kept_from_ms)
        replay = self._replay
        if point.size < replay.size:
            raise StorageError(f"entries are replayed up to size {replay.size} already")
        # INVARIANT: nothing is cosigned before the seal at the start was replayed. That seal confirms the chain heads.
        if point.size < replay.start:
            raise StorageError(f"log claims to have pruned entries up to size {replay.start}, after its checkpoint")
        fault, rest = self._replay_leaves(point.size)
        if replay.edge.append(rest)[0].root() != point.root:
            # The replayed entries are not those that the log signed. They prove nothing, so the replay is discarded.
            self._restore()
            raise StorageError("entries served are not those of the checkpoint")
        if fault is not None and fault.index < replay.start:
            # INVARIANT: this fault is no evidence. The log signed the entries, but not the claim which of them are
            # pruned, and the log may have pruned more entries during the replay.
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
        """Replay the leaves up to size *end*; return the first fault, and the leaf hashes from the faulty leaf on."""
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
                        # INVARIANT: a missing leaf is no evidence against the log, which may prune the leaf.
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
        """Write the cache file. A failure is only logged, because the cache just saves time."""
        # INVARIANT: the cache covers only leaves of a signed checkpoint. Other leaves may be forged.
        if self._fault is not None or not 0 < self._replay.size == self._signed_size:
            return
        try:
            write_cache(self._cache, self._replay)
            self._kept_size = self._replay.size
        except StorageError as error:
            log.warning("replay is not kept: %s", error)

    def _restore(self) -> None:
        """Replace the replay by the replay that is saved in the cache file."""
        self._replay = read_cache(self._cache, self._map_bits)
        self._kept_size = self._signed_size = self._replay.size

    def _start_again(self) -> None:
        self._replay = Replay(self._map_bits)
        self._kept_size = self._signed_size = 0

    def _pruned(self, cosigned_size: int) -> Pruned:
        """Return what the log claims to have pruned. Raises StorageError if the log's policy does not allow that."""
        try:
            claimed = self._source.pruned()
            # INVARIANT: a log cannot hide a wrong seal by claiming that all entries up to the seal are pruned.
            if claimed.start > cosigned_size:
                claimed.verify_policy(days=self._retention_days, time_ms=self._wall_ms())
        except VerificationError as error:
            raise StorageError(f"{error}: `retention_days` of this log is {self._retention_days}") from error
        return claimed

    def _fetch(self, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield (leaf, hash of the leaf) for the indices from *start* up to *end*; a pruned leaf is b""."""
        for n in range(start // tiles.TILE_WIDTH, -(-end // tiles.TILE_WIDTH)):
            try:
                leaves = read_leaves(self._source, n, width_of(n, end))
                hashes = leaf_hashes(self._source, n, leaves)
            except VerificationError as error:
                raise StorageError(f"entries cannot be read: {error}") from error
            yield from list(zip(leaves, hashes, strict=True))[max(0, start - n * tiles.TILE_WIDTH) :]


def write_cache(path: Path, replay: Replay) -> None:
    """Write a replay, whose last leaf must be a seal, to a cache file. Raises StorageError if that fails."""
    assert replay.sealed_size == replay.size, "between seals the map lags behind the heads"
    replay.grow()
    state = encode_state(replay.state())
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        heads = encode_heads(replay.heads)
        batches = iter(lambda: b"".join(islice(heads, 4096)), b"")  # batches, because each piece costs a system call
        for piece in chain((len(state).to_bytes(_LENGTH), state), batches):
            digest.update(piece)
            yield piece
        yield digest.digest()

    files.write_file(path, pieces(), is_synced=False, name="replay")


def read_cache(path: Path, map_bits: int) -> Replay:
    """Return the replay in a cache file; if the file is absent or damaged, return a new replay from leaf 0."""
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
