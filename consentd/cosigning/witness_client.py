"""Request a cosignature from one witness and verify the answer (C2SP tlog-witness, the client's side)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from consentd.core.checkpoint import Checkpoint
from consentd.core.note import MAX_SIGNATURES, NoteSignature, NoteVerifier, format_note
from consentd.core.quorum import MAX_AHEAD_S, WitnessPolicy, is_satisfied, parse_policy
from consentd.core.submission import PATH, SIZE_TYPE, Submission, format_submission, open_cosignatures, parse_size
from consentd.cosigning.connection import Connection
from consentd.cosigning.mldsa import parse_mldsa_vkey
from consentd.errors import InvalidError, MalformedError, SignatureError, StorageError, VerificationError
from consentd.ledger import reads
from consentd.store import Store

MAX_WITNESSES = MAX_SIGNATURES - 2
"""One note holds their cosignatures and the log's own two signatures."""
MAX_CLOCK_SKEW_S = MAX_AHEAD_S
"""How far a cosignature's time may be from our clock. Clients compare that time with a new seal's time and with their
own clock, and would not count a cosignature further off."""


class WitnessResult(StrEnum):
    """How a request to a witness ended; the values are label values of metrics.

    COSIGNED: the cosignature verifies. REFUSED: the witness does not know this log or its key, or finds the request
    wrong (400, 403, 404). BAD: the answer breaks the protocol: no line by the witness's key, a wrong signature or time.
    FAILED: no answer in time, or the answer reports a failure of the witness. OTHER_TREE: the witness rejects our
    consistency proof, because it cosigned another tree; that claim is unsigned, so no evidence. LARGER: the witness
    reports a larger tree than this ledger ever signed.
    """

    COSIGNED = "cosigned"
    REFUSED = "refused"
    BAD = "bad"
    FAILED = "failed"
    OTHER_TREE = "other_tree"
    LARGER = "larger"


@dataclass(frozen=True, slots=True)
class WitnessResponse:
    """The result of a request; *cosignatures* are by the policy's names of the keys, and empty unless ``COSIGNED``."""

    result: WitnessResult
    detail: str = ""
    cosignatures: dict[str, NoteSignature] = field(default_factory=dict)


class WitnessClient:
    """A connection to one witness. Only one thread may call ``request_cosignature``.

    Attributes:
        name: the policy's name of the witness's first key; used in logs.
        label: used in metrics: ``w2`` is the policy's second witness.
        verifiers: the witness's keys, by the policy's names; a witness may cosign with two keys.
        size: the size that the witness cosigned last, as far as known. Owner: the thread that sends requests.
    """

    def __init__(
        self, connection: Connection, *, name: str, label: str, store: Store, wall_ms: Callable[[], int]
    ) -> None:
        self.connection = connection
        self.name = name
        self.label = label
        self.verifiers: dict[str, NoteVerifier] = {}
        self.size = 0
        self._store = store
        self._wall_ms = wall_ms

    def request_cosignature(
        self, point: Checkpoint, text: str, log_signatures: Sequence[NoteSignature], *,
        read_known_size: Callable[[], int],
    ) -> WitnessResponse:  # fmt: skip
        """Request a cosignature of a checkpoint, whose note text and log's signature lines are given.

        *read_known_size* returns the current size of the ledger. It is called after the answer arrived, because the
        ledger may have grown meanwhile.

        Raises:
            CorruptionError: the store does not hold the tree that the consistency proof needs.
        """
        note = format_note(text, log_signatures)
        try:
            return self._request(point, text, note, read_known_size)
        except VerificationError as error:
            return WitnessResponse(WitnessResult.BAD, str(error))
        except StorageError as error:
            return WitnessResponse(WitnessResult.FAILED, str(error))

    def _request(
        self, point: Checkpoint, text: str, note: bytes, read_known_size: Callable[[], int]
    ) -> WitnessResponse:
        status = 0
        for _ in range(2):  # twice: a 409 answer names the size from which the second request must prove
            if self.size > point.size:
                return WitnessResponse(WitnessResult.REFUSED, "witness has cosigned a larger size than this checkpoint")
            answer = self.connection.request("POST", PATH, self._format_body(point.size, note))
            status = answer.status
            if status == 200:
                cosignatures = self._select_timely(open_cosignatures(answer.body, text, self.verifiers))
                self.size = point.size
                return WitnessResponse(WitnessResult.COSIGNED, "", cosignatures)
            # tlog-witness v1.0.0 also answers 409 for equal sizes with different root hashes. It then sends no size.
            kind = answer.content_type.partition(";")[0].strip().lower()  # a proxy may have added a charset
            if status == 422 or (status == 409 and kind != SIZE_TYPE):
                return WitnessResponse(WitnessResult.OTHER_TREE, f"status {status} at size {self.size}")
            if status != 409:
                break
            reported = parse_size(answer.body)
            if reported > read_known_size():
                return WitnessResponse(WitnessResult.LARGER, f"it knows size {reported}")
            if reported == self.size:
                return WitnessResponse(WitnessResult.BAD, "witness refuses our old size, and reports the same size")
            self.size = reported
        result = WitnessResult.REFUSED if 400 <= status < 500 else WitnessResult.FAILED
        return WitnessResponse(result, f"status {status}")

    def _format_body(self, size: int, note: bytes) -> bytes:
        proof = reads.prove_consistency(self._store, self.size, size) if 0 < self.size < size else []
        return format_submission(Submission(self.size, tuple(proof), note))

    def _select_timely(self, cosignatures: dict[str, NoteSignature]) -> dict[str, NoteSignature]:
        """Return the cosignatures with the present time. An ML-DSA cosignature of time 0 does not show freshness.

        INVARIANT: a quorum that counts here also counts for clients, who require fresh cosignatures.
        """
        now_s = self._wall_ms() // 1000
        timely = {name: line for name, line in cosignatures.items() if abs(line.time_s - now_s) <= MAX_CLOCK_SKEW_S}
        if not timely:
            raise SignatureError("cosignature is of another time: the witness's clock or ours is wrong")
        return timely


def read_policy(path: Path) -> WitnessPolicy:
    """Read a witness policy file (C2SP tlog-policy).

    Raises:
        StorageError: the file cannot be read.
        InvalidError: the file is malformed; the message names the line.
    """
    try:
        return parse_policy(path.read_bytes(), parse_mldsa=parse_mldsa_vkey)
    except OSError as error:
        raise StorageError(f"witness policy cannot be read: `{path}`: {error.strerror}") from error
    except MalformedError as error:
        raise InvalidError(f"witness policy is malformed: `{path}`: {error}") from error


def make_clients(
    policy: WitnessPolicy, log_verifier: NoteVerifier, *, store: Store, timeout_ms: int, wall_ms: Callable[[], int]
) -> list[WitnessClient]:
    """Return a client for each witness of the policy that has a URL and a key we can verify.

    Policy lines with the same URL are keys of one witness: it stores one size for all of them, so one client asks it.

    Raises:
        InvalidError: the policy is of another log; these witnesses cannot form a quorum or are too many; or a witness
            on another machine has no https URL.
    """
    if policy.logs and not any(line.verifier == log_verifier for line in policy.logs):
        raise InvalidError(f"witness policy does not name this log: `{log_verifier.name}`")
    usable = [line for line in policy.witnesses if line.url and line.verifier is not None]
    if not is_satisfied(policy, {line.name for line in usable}):
        raise InvalidError("witness policy has no quorum among the witnesses with a URL and a key we can verify")
    if len(usable) > MAX_WITNESSES:
        raise InvalidError(f"witness policy has more than {MAX_WITNESSES} witnesses that can be asked")
    clients: dict[str, WitnessClient] = {}
    for line in usable:
        assert line.verifier is not None, "lines without a key are not usable"
        if line.url not in clients:
            connection = Connection(line.url, timeout_s=timeout_ms / 1000)
            # A witness that reports a larger tree stops the ledger, and that report is unsigned.
            if not connection.is_protected:
                raise InvalidError(f"witness of another machine is not asked over https: `{line.url}`")
            label = f"w{policy.witnesses.index(line) + 1}"
            clients[line.url] = WitnessClient(connection, name=line.name, label=label, store=store, wall_ms=wall_ms)
        clients[line.url].verifiers[line.name] = line.verifier
    return list(clients.values())
