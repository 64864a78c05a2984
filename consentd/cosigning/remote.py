"""Ask one witness for its cosignature, and make sense of what it answers (C2SP tlog-witness, the client's side)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteSignature, NoteVerifier, format_note
from consentd.core.quorum import MAX_AHEAD_S
from consentd.core.submission import (
    PATH,
    SIZE_TYPE,
    Submission,
    format_submission,
    open_cosignatures,
    parse_size,
)
from consentd.cosigning.connection import Connection
from consentd.errors import SignatureError, StorageError, VerificationError
from consentd.ledger import reads
from consentd.store import Store

MAX_CLOCK_SKEW_S = MAX_AHEAD_S
"""How far a cosignature's time may be from our clock: clients, who hold it against a new seal's time and their own
clock, would not count one that is further."""

COSIGNED = "cosigned"
"""It cosigned."""
REFUSED = "refused"
"""It does not know this log or its key, or finds the request wrong: 400, 403, 404."""
BAD = "bad"
"""Its answer is none: no line by its key, a signature that does not verify, a time that cannot be."""
FAILED = "failed"
"""No answer, not in time, or one that says it failed."""
OTHER_TREE = "other_tree"
"""It holds our proof for wrong: it cosigned another tree. Its word alone, not evidence."""
LARGER = "larger"
"""It knows a larger tree than we ever signed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of asking: one of the outcomes above, and the cosignatures by the policy's names, if any."""

    outcome: str
    detail: str = ""
    cosignatures: dict[str, NoteSignature] = field(default_factory=dict)


class RemoteWitness:
    """One witness. One thread asks it.

    Attributes:
        name: the policy's, of its first line; for logs.
        label: for metrics: ``w2`` for the policy's second witness.
        verifiers: its keys, by the policy's names; one witness may cosign with two.
        size: what it cosigned last, as far as we know.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        name: str,
        label: str,
        verifiers: dict[str, NoteVerifier],
        store: Store,
        wall_ms: Callable[[], int],
    ) -> None:
        """Prepare; nothing is sent. *store* is where consistency is proven from."""
        self.connection = connection
        self.name = name
        self.label = label
        self.verifiers = verifiers
        self.size = 0
        self._store = store
        self._wall_ms = wall_ms

    def ask(
        self, point: Checkpoint, text: str, lines: Sequence[NoteSignature], *, known_size: Callable[[], int]
    ) -> Reply:
        """Ask for a cosignature of a checkpoint.

        Args:
            text, lines: its note's, with the log's signatures.
            known_size: says when called the largest size that we have.

        Raises:
            CorruptionError: our own tree is not whole.
        """
        note = format_note(text, lines)
        try:
            return self._ask(point, text, note, known_size)
        except VerificationError as error:
            return Reply(BAD, str(error))
        except StorageError as error:
            return Reply(FAILED, str(error))

    def _ask(self, point: Checkpoint, text: str, note: bytes, known_size: Callable[[], int]) -> Reply:
        status = 0
        for _ in range(2):  # once more where it tells the size to begin at
            if self.size > point.size:
                return Reply(REFUSED, "it knows a size that this checkpoint does not reach")
            answer = self.connection.request("POST", PATH, self._body(point.size, note))
            status = answer.status
            if status == 200:
                found = self._timely(open_cosignatures(answer.body, text, self.verifiers))
                self.size = point.size
                return Reply(COSIGNED, "", found)
            # tlog-witness v1.0.0 answers 409 also where sizes agree and root hashes do not; then it tells no size.
            kind = answer.content_type.partition(";")[0].strip().lower()  # a proxy may have added a charset
            if status == 422 or (status == 409 and kind != SIZE_TYPE):
                return Reply(OTHER_TREE, f"status {status} at size {self.size}")
            if status != 409:
                break
            told = parse_size(answer.body)
            if told > known_size():
                return Reply(LARGER, f"it knows size {told}")
            if told == self.size:
                return Reply(BAD, "it says that the size is another, and names the same")
            self.size = told
        return Reply(REFUSED if 400 <= status < 500 else FAILED, f"status {status}")

    def _body(self, size: int, note: bytes) -> bytes:
        proof = reads.prove_consistency(self._store, self.size, size) if 0 < self.size < size else []
        return format_submission(Submission(self.size, tuple(proof), note))

    def _timely(self, found: dict[str, NoteSignature]) -> dict[str, NoteSignature]:
        """Return the cosignatures that vouch for the present: time 0, of an ML-DSA key, says nothing of freshness.

        INVARIANT: a quorum here is one to clients too, who ask for fresh ones.
        """
        now_s = self._wall_ms() // 1000
        timely = {name: line for name, line in found.items() if abs(line.time_s - now_s) <= MAX_CLOCK_SKEW_S}
        if not timely:
            raise SignatureError("cosignature is of another time: its clock or ours is wrong")
        return timely
