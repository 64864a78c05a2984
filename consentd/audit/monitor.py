"""Follow the checkpoints of a ledger, keep each, and prove that every one begins with the one before.

A log that shows two trees to two people, or takes back what it showed, signs two checkpoints that no proof connects.
Whoever keeps them has the evidence, signed by the log itself. What is kept: each checkpoint under its size and root, in
``checkpoints/``, and beside it where the monitor stands.

An alarm is one of: **fork** (two trees that do not begin alike), **rollback** (a smaller tree than was shown before),
**unwitnessed** (no quorum of the witnesses asked for has cosigned it), **stale** (nothing new for longer than was
promised, or cosignatures older than may be: withheld, or idle; a ledger that is idle is cosigned anew).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from consentd.audit.sources import Source, read_file, write_file
from consentd.core import checkpoint, merkle, quorum, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import MAX_NOTE_SIZE, NoteVerifier
from consentd.core.quorum import WitnessPolicy
from consentd.errors import InvalidError, MalformedError, StorageError, VerificationError
from consentd.verify.source import read_tiles

FIRST = "first"
SAME = "same"
GROWN = "grown"
FORK = "fork"
ROLLBACK = "rollback"
UNWITNESSED = "unwitnessed"
STALE = "stale"

ALARMS = frozenset({FORK, ROLLBACK, UNWITNESSED, STALE})


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look showed.

    Attributes:
        what: one of the words above.
        before: the checkpoint held before; None: none was.
        evidence: files with the notes that contradict each other, or the one that is not what it must be; empty but
            for an alarm.
        cosigned: by whom, and when in POSIX seconds, where witnesses are asked for.
    """

    what: str
    checkpoint: Checkpoint
    before: Checkpoint | None
    evidence: tuple[Path, ...] = ()
    cosigned: tuple[tuple[str, int], ...] = ()


class Monitor:
    """What is held of one ledger. Owned by one thread.

    Attributes:
        held: the largest checkpoint that was proven; None: none yet.
    """

    def __init__(
        self,
        directory: Path,
        *,
        origin: str,
        log_verifier: NoteVerifier,
        max_silence_s: int = 3600,
        policy: WitnessPolicy | None = None,
        max_age_s: int = quorum.MAX_AGE_S,
    ) -> None:
        """Open what is kept in *directory*, or begin.

        Args:
            policy: whose cosignatures each checkpoint must have; None: nobody's.
            max_age_s: how old they may be. A monitor looks at what is published now, so they must be fresh.

        Raises:
            StorageError: it cannot be read.
            VerificationError: what is kept is not this log's.
        """
        self._directory = directory / "checkpoints"
        self._standing = directory / "standing.json"
        self._origin, self._verifier, self._max_silence_s = origin, log_verifier, max_silence_s
        self._policy, self._max_age_s = policy, max_age_s
        self.held: Checkpoint | None = None
        self._note = b""
        self._since_s = 0
        if self._standing.exists():
            self._restore()

    def look(self, source: Source, now_s: int) -> Seen:
        """Read the checkpoint that is published now, and hold it against what is held.

        Raises:
            StorageError: it, or the tiles that prove it, cannot be read.
            VerificationError: it is not signed by the log.
        """
        note = source.checkpoint()
        point, _ = checkpoint.open_checkpoint(note, self._origin, self._verifier)
        before = self.held
        # A contradiction between two trees is told before who vouches for them: that the log signed both is enough.
        if before is not None:
            contradiction = _compare(source, before, point)
            if contradiction:
                return Seen(contradiction, point, before, (self._path(before), self._keep(point, note)))
        try:
            cosigned, is_fresh = self._verify_cosigned(note, now_s)
        except VerificationError:
            # Beside the others: it must not take the place of one of the same tree that was cosigned.
            return Seen(UNWITNESSED, point, before, (self._keep(point, note, ".unwitnessed"),))
        kept = self._keep(point, note)
        if before is None or note != self._note:  # a first one, a larger one, or the same cosigned anew
            what = FIRST if before is None else GROWN if point.size > before.size else SAME
            seen = self._hold(what, point, note, now_s)
        else:
            is_fresh &= now_s - self._since_s <= self._max_silence_s
            seen = Seen(SAME, point, before)
        if not is_fresh:
            return replace(seen, what=STALE, evidence=(kept,), cosigned=cosigned)
        return replace(seen, cosigned=cosigned)

    def look_past(self, now_s: int) -> Seen | None:
        """Return what is to be said where the log could not be read: that it has been silent for too long, or None."""
        if self.held is None or now_s - self._since_s <= self._max_silence_s:
            return None
        return Seen(STALE, self.held, self.held, (self._path(self.held),))

    def _verify_cosigned(self, note: bytes, now_s: int) -> tuple[tuple[tuple[str, int], ...], bool]:
        """Return who cosigned a note, and whether those who did so lately are a quorum as well.

        Raises:
            SignatureError: they are none at any age.
        """
        if self._policy is None:
            return (), True
        logs = (self._verifier,)
        found = quorum.verify_cosigned(note, self._policy, now_s=now_s, max_age_s=None, logs=logs)
        try:
            quorum.verify_cosigned(note, self._policy, now_s=now_s, max_age_s=self._max_age_s, logs=logs)
        except VerificationError:
            return found.cosignatures, False
        return found.cosignatures, True

    def _hold(self, what: str, point: Checkpoint, note: bytes, now_s: int) -> Seen:
        seen = Seen(what, point, self.held)
        self.held, self._note, self._since_s = point, note, now_s
        standing = {"size": point.size, "root": point.root.hex(), "since_s": now_s}
        write_file(self._standing, json.dumps(standing).encode() + b"\n")
        return seen

    def _keep(self, point: Checkpoint, note: bytes, mark: str = "") -> Path:
        """Keep a note; of the same tree the newest, for its cosignatures."""
        path = self._path(point)
        path = path.with_name(path.name + mark)
        write_file(path, note)
        return path

    def _path(self, point: Checkpoint) -> Path:
        return self._directory / f"{point.size:020d}-{point.root.hex()[:16]}"

    def _restore(self) -> None:
        try:
            standing: dict[str, Any] = json.loads(read_file(self._standing))
            path = self._directory / f"{standing['size']:020d}-{standing['root'][:16]}"
            self._since_s = int(standing["since_s"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise StorageError(f"monitor's file is not one: `{self._standing}`") from error
        self._note = read_file(path, MAX_NOTE_SIZE)
        try:
            self.held, _ = checkpoint.open_checkpoint(self._note, self._origin, self._verifier)
        except MalformedError as error:
            raise StorageError(f"monitor's file is not one: `{path}`: {error}") from error
        if self.held.size != standing["size"]:
            raise InvalidError(f"monitor's files contradict each other: `{self._standing}`")


def _compare(source: Source, before: Checkpoint, point: Checkpoint) -> str:
    """Return how two trees contradict each other; empty: they do not.

    Raises:
        StorageError: the tiles that would tell cannot be read, or are not those of the larger tree.
    """
    if point.size < before.size:
        return ROLLBACK
    if point.size == before.size:
        return "" if point.root == before.root else FORK
    if before.size == 0:
        return FORK  # a checkpoint of size 0 proves nothing
    return "" if _begin_of(source, before.size, point) == before.root else FORK


def _begin_of(source: Source, size: int, point: Checkpoint) -> bytes:
    """Return, from tiles, the root of the first *size* leaves of the tree that *point* signs.

    Raises:
        StorageError: a tile cannot be read, or the tiles are not that tree's: then nothing is known of its beginning.
    """
    try:
        begin = tiles.root(size, read_tiles(source, tiles.plan_root(size), point.size))
        proof = tiles.prove_consistency(
            size, point.size, read_tiles(source, tiles.plan_consistency(size, point.size), point.size)
        )
        # INVARIANT: only what leads to the root that the log signed may accuse it; a mirror's damaged tile does not.
        merkle.verify_consistency(proof, size1=size, root1=begin, size2=point.size, root2=point.root)
    except VerificationError as error:
        raise StorageError(f"tiles are not those of the checkpoint of size `{point.size}`: {error}") from error
    return begin
