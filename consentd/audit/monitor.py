"""Follow the checkpoints of a ledger, keep each of them, and prove that every tree begins with the tree before.

A log that shows different trees to different people, or removes entries, signs two checkpoints that no proof connects.
A monitor that keeps both checkpoints has evidence signed by the log itself. The directory ``checkpoints/`` has a file
for every checkpoint, named by size and root; ``latest.json`` names the checkpoint that was proven last.

The alarms: **fork** (a tree does not begin with the tree before), **rollback** (a tree is smaller than the tree
before), **unwitnessed** (the monitor requires cosignatures, and no quorum of witnesses cosigned the checkpoint),
**stale** (the newest checkpoint or its cosignatures are too old. Even an idle log is cosigned again and again, so a
stale log withholds checkpoints). **unreadable** is no alarm about the log: nothing was read from it for too long, and
whether the log or the network is at fault could not be determined.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consentd.audit.log_keys import follow_log_key
from consentd.audit.remote import at_checkpoint, read_twice
from consentd.audit.sources import Source, read_file, write_file
from consentd.core import checkpoint, merkle, quorum, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import MAX_NOTE_SIZE, NoteVerifier, Verifier, format_vkey, parse_vkey
from consentd.core.quorum import WitnessPolicy
from consentd.core.rotation import FollowedKey
from consentd.errors import MalformedError, StorageError, UnknownKeyError, VerificationError
from consentd.verify.source import read_tiles

FIRST = "first"
SAME = "same"
GROWN = "grown"
FORK = "fork"
ROLLBACK = "rollback"
UNWITNESSED = "unwitnessed"
STALE = "stale"
UNREADABLE = "unreadable"

ALARMS = frozenset({FORK, ROLLBACK, UNWITNESSED, STALE})


@dataclass(frozen=True, slots=True)
class Observation:
    """What a monitor observed.

    Attributes:
        status: one of the constants above, from ``FIRST`` to ``UNREADABLE``.
        checkpoint: the published checkpoint; if none could be read, the latest proven checkpoint.
        before: the latest checkpoint that was proven before this observation; None: there was none.
        evidence: for an alarm, the files of the notes that contradict each other, or of the note that caused the alarm.
        cosignatures: the witnesses of the monitor's policy that cosigned, each with the time in POSIX seconds.
    """

    status: str
    checkpoint: Checkpoint
    before: Checkpoint | None
    evidence: tuple[Path, ...] = ()
    cosignatures: tuple[tuple[str, int], ...] = ()


class Monitor:
    """The monitor of one ledger. One thread owns it.

    Attributes:
        latest: the largest checkpoint that was proven; None: none yet.
        log_keys: the log keys from the pinned one to the present one, if rotations were followed since the start.
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
        """Continue from the state in *directory*; begin anew if there is none.

        Args:
            max_silence_s: longest time without a new checkpoint and without new cosignatures.
            policy: the witnesses that must cosign each checkpoint, at most *max_age_s* ago; None: nobody must.

        Raises StorageError if the state cannot be read, VerificationError if its checkpoint is not signed by the log.
        """
        self._directory = directory / "checkpoints"
        self._state_path = directory / "latest.json"
        self._origin, self._pinned, self._max_silence_s = origin, log_verifier, max_silence_s
        self._verifier = log_verifier  # the present key, which rotations led to
        self.log_keys: tuple[FollowedKey, ...] = ()
        self._policy, self._max_age_s = policy, max_age_s
        self.latest: Checkpoint | None = None
        self._note = b""  # the note of ``latest``, with the newest cosignatures
        self._since_s = 0  # when ``_note`` was first read
        if self._state_path.exists():
            self._restore()

    def observe(self, source: Source, now_s: int) -> Observation:
        """Read the published checkpoint and compare it with the latest proven one. A replaced log key is followed.

        Raises StorageError if checkpoint or tiles cannot be read, VerificationError if the checkpoint is not the log's.
        What a remote source returns is read twice before it is an alarm, see ``read_twice``.
        """
        try:
            return self._observe(source, now_s)
        except UnknownKeyError:
            followed = follow_log_key(
                source, source.checkpoint(), origin=self._origin, log_key=self._verifier, policy=self._policy
            )
            if not followed.keys:
                raise
            self._verifier, self.log_keys = followed.log_key, followed.keys
            return self._observe(source, now_s)

    def _observe(self, source: Source, now_s: int) -> Observation:
        note = read_twice(source, lambda one: one.checkpoint(), lambda one: self._fault_of(one, now_s))
        point, _ = checkpoint.open_checkpoint(note, self._origin, self._verifier)
        before = self.latest
        # The trees are compared first: two that contradict each other are evidence even without cosignatures.
        if before is not None:
            contradiction = _compare(at_checkpoint(source, point), before, point)
            if contradiction:
                return Observation(contradiction, point, before, (self._path(before), self._keep(point, note)))
        try:
            cosignatures, is_recent = self._verify_cosigned(note, now_s)
        except VerificationError:
            # The note is kept under a name of its own, so that it does not replace a cosigned note of the same tree.
            return Observation(UNWITNESSED, point, before, (self._keep(point, note, ".unwitnessed"),))
        path = self._keep(point, note)
        status = FIRST if before is None else GROWN if point.size > before.size else SAME
        if note != self._note:  # The first checkpoint, a larger one, or the same one with new cosignatures.
            self._set_latest(point, note, now_s)
        elif now_s - self._since_s > self._max_silence_s:
            is_recent = False
        if is_recent:
            return Observation(status, point, before, (), cosignatures)
        return Observation(STALE, point, before, (path,), cosignatures)

    def observe_silence(self, now_s: int) -> Observation | None:
        """Return UNREADABLE for a log that cannot be read; None if its latest note is recent, or there is none."""
        if self.latest is None or now_s - self._since_s <= self._max_silence_s:
            return None
        return Observation(UNREADABLE, self.latest, self.latest, (self._path(self.latest),))

    def _fault_of(self, note: bytes, now_s: int) -> object:
        """Return what would be wrong with a note that is not the first of its kind, see ``read_twice``.

        A cache may return an old note, and a proxy may return a note that it made. Neither is an alarm of the log. Two
        trees that contradict each other are not wrong in this sense: one reading at two signed notes is enough.
        """
        try:
            point, _ = checkpoint.open_checkpoint(note, self._origin, self._verifier)
            if self.latest is not None and point.size < self.latest.size:
                return ROLLBACK
            _, is_recent = self._verify_cosigned(note, now_s)
        except MalformedError:
            raise
        except VerificationError as error:
            return type(error)
        is_silent = note == self._note and now_s - self._since_s > self._max_silence_s
        return STALE if is_silent or not is_recent else None

    def _verify_cosigned(self, note: bytes, now_s: int) -> tuple[tuple[tuple[str, int], ...], bool]:
        """Return a note's cosignatures, and whether a quorum is recent. Raises SignatureError if they are no quorum."""
        if self._policy is None:
            return (), True
        logs = (self._verifier,)
        found = quorum.verify_cosigned(note, self._policy, now_s=now_s, max_age_s=None, logs=logs)
        try:
            quorum.verify_cosigned(note, self._policy, now_s=now_s, max_age_s=self._max_age_s, logs=logs)
        except VerificationError:
            return found.cosignatures, False
        return found.cosignatures, True

    def _set_latest(self, point: Checkpoint, note: bytes, now_s: int) -> None:
        self.latest, self._note, self._since_s = point, note, now_s
        state: dict[str, object] = {"checkpoint": self._path(point).name, "since_s": now_s}
        if isinstance(self._pinned, Verifier) and isinstance(self._verifier, Verifier):
            state |= {"pinned": format_vkey(self._pinned), "log_key": format_vkey(self._verifier)}
        write_file(self._state_path, json.dumps(state).encode() + b"\n")

    def _keep(self, point: Checkpoint, note: bytes, mark: str = "") -> Path:
        """Write a note to the file of its tree. An older note of this tree, with older cosignatures, is replaced."""
        path = self._path(point, mark)
        write_file(path, note)
        return path

    def _path(self, point: Checkpoint, mark: str = "") -> Path:
        return self._directory / f"{point.size:020d}-{point.root.hex()[:16]}{mark}"

    def _restore(self) -> None:
        try:
            state: dict[str, Any] = json.loads(read_file(self._state_path))
            self._since_s = int(state["since_s"])
            if isinstance(self._pinned, Verifier) and state.get("pinned") == format_vkey(self._pinned):
                self._verifier = parse_vkey(state["log_key"])
            self._note = read_file(self._directory / state["checkpoint"], MAX_NOTE_SIZE)
            self.latest = checkpoint.open_own(self._note, self._origin, self._verifier)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, MalformedError) as error:
            raise StorageError(f"monitor's state is malformed: `{self._state_path}`") from error


def _compare(source: Source, before: Checkpoint, point: Checkpoint) -> str:
    """Return the alarm for two trees that contradict each other; "" if they do not. Raises as ``_root_at``."""
    if point.size < before.size:
        return ROLLBACK
    if point.size == before.size:
        return "" if point.root == before.root else FORK
    if before.size == 0:
        return FORK  # Every signed tree ends in a seal, so an honest log never signs an empty tree.
    return "" if _root_at(source, before.size, point) == before.root else FORK


def _root_at(source: Source, size: int, point: Checkpoint) -> bytes:
    """Compute from tiles the root of the first *size* leaves of the tree of *point*.

    Raises StorageError if a tile cannot be read, or if the tiles are not of this tree, and so prove nothing.
    """
    try:
        begin = tiles.root(size, read_tiles(source, tiles.plan_root(size), point.size))
        proof = tiles.prove_consistency(
            size, point.size, read_tiles(source, tiles.plan_consistency(size, point.size), point.size)
        )
        # INVARIANT: tiles are evidence against the log only if the signed root follows from them. So a tile that was
        # damaged on a mirror is no evidence.
        merkle.verify_consistency(proof, size1=size, root1=begin, size2=point.size, root2=point.root)
    except VerificationError as error:
        raise StorageError(f"tiles are not those of the checkpoint of size `{point.size}`: {error}") from error
    return begin
