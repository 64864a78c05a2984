"""Follow the checkpoints of a ledger, keep each, and prove that every one begins with the one before.

A log that shows two trees to two people, or takes back what it showed, signs two checkpoints that no proof connects.
Whoever keeps them has the evidence, signed by the log itself. What is kept: each checkpoint under its size and root, in
``checkpoints/``, and beside it where the monitor stands.

An alarm is one of: **fork** (two trees that do not begin alike), **rollback** (a smaller tree than was shown before),
**stale** (nothing new for longer than was promised: withheld, or idle; a ledger that is idle is cosigned anew).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consentd.audit.places import Source, read_file, read_tiles
from consentd.core import checkpoint, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import MAX_NOTE_SIZE, NoteVerifier
from consentd.errors import InvalidError, ProofError, StorageError, VerificationError

FIRST = "first"
SAME = "same"
GROWN = "grown"
FORK = "fork"
ROLLBACK = "rollback"
STALE = "stale"

ALARMS = frozenset({FORK, ROLLBACK, STALE})


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look showed.

    Attributes:
        what: one of the words above.
        before: the checkpoint held before; None: none was.
        evidence: files with the notes that contradict each other; empty but for an alarm.
    """

    what: str
    checkpoint: Checkpoint
    before: Checkpoint | None
    evidence: tuple[Path, ...] = ()


class Monitor:
    """What is held of one ledger. Owned by one thread.

    Attributes:
        held: the largest checkpoint that was proven; None: none yet.
    """

    def __init__(self, directory: Path, *, origin: str, log_verifier: NoteVerifier, max_silence_s: int = 3600) -> None:
        """Open what is kept in *directory*, or begin.

        Raises:
            StorageError: it cannot be read.
            VerificationError: what is kept is not this log's.
        """
        self._directory = directory / "checkpoints"
        self._standing = directory / "standing.json"
        self._origin, self._verifier, self._max_silence_s = origin, log_verifier, max_silence_s
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
        kept = self._keep(point, note)
        before = self.held
        if before is None:
            return self._hold(FIRST, point, note, now_s)
        older = self._path(before)
        if point.size < before.size:
            return Seen(ROLLBACK, point, before, (older, kept))
        if point.size == before.size:
            if point.root != before.root:
                return Seen(FORK, point, before, (older, kept))
            if note != self._note:  # cosigned anew
                return self._hold(SAME, point, note, now_s)
            is_stale = now_s - self._since_s > self._max_silence_s
            return Seen(STALE, point, before, (kept,)) if is_stale else Seen(SAME, point, before)
        try:
            _verify_grown(source, before, point)
        except VerificationError:
            return Seen(FORK, point, before, (older, kept))
        return self._hold(GROWN, point, note, now_s)

    def _hold(self, what: str, point: Checkpoint, note: bytes, now_s: int) -> Seen:
        seen = Seen(what, point, self.held)
        self.held, self._note, self._since_s = point, note, now_s
        standing = {"size": point.size, "root": point.root.hex(), "since_s": now_s}
        _write(self._standing, json.dumps(standing).encode() + b"\n")
        return seen

    def _keep(self, point: Checkpoint, note: bytes) -> Path:
        """Keep a note; of the same tree the newest, for its cosignatures."""
        path = self._path(point)
        _write(path, note)
        return path

    def _path(self, point: Checkpoint) -> Path:
        return self._directory / f"{point.size:020d}-{point.root.hex()[:16]}"

    def _restore(self) -> None:
        try:
            standing: dict[str, Any] = json.loads(read_file(self._standing))
            path = self._directory / f"{standing['size']:020d}-{standing['root'][:16]}"
            self._since_s = int(standing["since_s"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"monitor's file is not one: `{self._standing}`") from error
        self._note = read_file(path, MAX_NOTE_SIZE)
        self.held, _ = checkpoint.open_checkpoint(self._note, self._origin, self._verifier)
        if self.held.size != standing["size"]:
            raise InvalidError(f"monitor's files contradict each other: `{self._standing}`")


def _verify_grown(source: Source, before: Checkpoint, point: Checkpoint) -> None:
    """Prove from tiles that the larger tree begins with the smaller.

    Raises:
        ProofError: it does not, or a tile is too short.
        StorageError: a tile cannot be read.
    """
    if before.size == 0:
        raise ProofError("a checkpoint of size 0 proves nothing")
    plan = tiles.plan_consistency(before.size, point.size)
    proof = tiles.prove_consistency(before.size, point.size, read_tiles(source, plan, point.size))
    merkle.verify_consistency(proof, size1=before.size, root1=before.root, size2=point.size, root2=point.root)


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise StorageError(f"file cannot be written: `{path}`: {error.strerror}") from error
