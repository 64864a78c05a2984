"""A checkpoint on its way to its quorum, who asks for it, and the last one that got there."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.note import NoteSignature, NoteVerifier, format_note, open_note
from consentd.core.quorum import WitnessLine
from consentd.cosigning.publisher import Published
from consentd.cosigning.remote import RemoteWitness
from consentd.errors import CorruptionError, VerificationError
from consentd.ledger import reads
from consentd.ledger.last_signed import read_lock
from consentd.store import Store

log = logging.getLogger(__name__)

RUNBOOK = "see ops/RUNBOOK.md, `a witness knows another tree`"


@dataclass(slots=True, eq=False)
class Worker:
    """The thread that asks one witness.

    Attributes:
        failures, outcome: of its last asking; owner: the thread.
        answered: an answer, or the lack of one, came; guarded by the lock of ``Witnesses``, as is
        not_before_ms: when it is asked again after a failure.
    """

    witness: RemoteWitness
    failures: int = 0
    outcome: str = ""
    answered: bool = False
    not_before_ms: int = 0
    thread: threading.Thread | None = None


@dataclass(slots=True, eq=False)
class Round:
    """A checkpoint on its way. Guarded by the lock of ``Witnesses``.

    Attributes:
        lines: the log's own.
        offered_ms, begun_ms: when it was signed, and when witnesses were first asked for it.
        cosignatures: by the policy's name of the witness.
        cosigned_ms: when each witness last did.
        news: a cosignature came that was not published yet.
        late: it had no quorum in time.
        passed: a witness is beyond it already, so that it may never get a quorum.
    """

    point: Checkpoint
    text: str
    lines: tuple[NoteSignature, ...]
    offered_ms: int
    begun_ms: int = 0
    cosignatures: dict[str, NoteSignature] = field(default_factory=dict)
    cosigned_ms: dict[Worker, int] = field(default_factory=dict)
    news: bool = False
    late: bool = False
    passed: bool = False

    def cosigners(self, *, since_ms: int) -> set[str]:
        """Return the policy's names of those whose cosignatures came after that time."""
        fresh = [worker for worker, at_ms in self.cosigned_ms.items() if at_ms > since_ms]
        return {name for worker in fresh for name in worker.witness.verifiers if name in self.cosignatures}

    def note(self, order: Sequence[WitnessLine]) -> bytes:
        """Return the note with the cosignatures that are there, in the policy's order."""
        names = [witness.name for witness in order if witness.name in self.cosignatures]
        return format_note(self.text, [*self.lines, *(self.cosignatures[name] for name in names)])


def read_published(path: Path, log_verifier: NoteVerifier, *, store: Store, size: int) -> Published | None:
    """Read the note published last; None where there is none, or none that verifies.

    Args:
        store, size: the ledger as it was opened: what was published must be part of it.

    Raises:
        StorageError: the file cannot be read.
        CorruptionError: the ledger is behind it, or contradicts it.
    """
    note = read_lock(path)
    if note is None:
        return None
    try:
        point, _ = open_checkpoint(note, log_verifier.name, log_verifier)
    except VerificationError as error:
        log.warning("file of the last published checkpoint is not used: %s", error)
        return None
    if point.size > size or reads.root_at(store, point.size) != point.root:
        raise CorruptionError(
            f"ledger of size {size} contradicts its last published checkpoint: size {point.size} "
            f"root {point.root.hex()}: `{path}`; {RUNBOOK}"
        )
    return Published(point, note)


def line_by(key: NoteVerifier, note: bytes) -> NoteSignature | None:
    """Return the cosignature by *key* on a note; None where there is none that verifies."""
    try:
        return open_note(note, [key]).verified[-1]
    except VerificationError:
        return None
