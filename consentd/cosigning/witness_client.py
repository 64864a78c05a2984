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
"""A note has at most ``MAX_SIGNATURES`` signatures. Two of them are the log's own, so the rest is for witness keys."""
MAX_CLOCK_SKEW_S = MAX_AHEAD_S
"""How many seconds a cosignature's time may differ from our clock, either way. Clients ignore a cosignature that is
further ahead of their clock, or further before the seal's time; it may be older than their clock by ``MAX_AGE_S``."""


class WitnessResult(StrEnum):
    """How a request to a witness ended; the values are label values of metrics.

    COSIGNED: the cosignature verifies. REFUSED: the witness answered with a status of 4xx other than 409 and 422, for
    example because it does not know this log; or it once cosigned a larger tree than ours, and was not asked. BAD: the
    answer breaks the protocol: no line by the witness's key, a wrong signature or time. FAILED: no answer came in time,
    or the witness reports a failure of its own. OTHER_TREE: the witness rejects our consistency proof, which means that
    it cosigned another tree; this claim is unsigned, so it is no evidence. LARGER: the witness reports a larger tree
    than this ledger ever signed.
    """

    COSIGNED = "cosigned"
    REFUSED = "refused"
    BAD = "bad"
    FAILED = "failed"
    OTHER_TREE = "other_tree"
    LARGER = "larger"


@dataclass(frozen=True, slots=True)
class WitnessResponse:
    """The result of a request. *cosignatures*, by the policy's key names, is empty unless ``COSIGNED``."""

    result: WitnessResult
    detail: str = ""
    cosignatures: dict[str, NoteSignature] = field(default_factory=dict)


class WitnessClient:
    """A connection to one witness. Only one thread may call ``request_cosignature``.

    Attributes:
        name: the policy's name of the witness's first key; used in log messages.
        label: used in metrics: ``w2`` is the witness of the policy's second witness line.
        verifiers: the witness's keys by the names in the policy; a witness may cosign with two keys.
        size: the tree size that the witness cosigned last, as far as known. Only the requesting thread uses it.
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
        """Request a cosignature of a checkpoint; *text* and *log_signatures* are its note's text and signature lines.

        *read_known_size* returns the size of the latest checkpoint. It is called after the answer has arrived, because
        the ledger may have grown while the request ran.

        Raises:
            CorruptionError: the store lacks tree hashes that the consistency proof needs.
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
        for _ in range(2):  # twice: a 409 answer names the old size that the second request must use
            if self.size > point.size:
                return WitnessResponse(WitnessResult.REFUSED, "witness has cosigned a larger size than this checkpoint")
            answer = self.connection.request("POST", PATH, self._format_body(point.size, note))
            status = answer.status
            if status == 200:
                cosignatures = self._select_timely(open_cosignatures(answer.body, text, self.verifiers))
                self.size = point.size
                return WitnessResponse(WitnessResult.COSIGNED, "", cosignatures)
            # In tlog-witness v1.0.0, 409 can also mean equal sizes with different root hashes. No size is sent then.
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
        """Return the cosignatures whose time is near our clock's. This excludes ML-DSA cosignatures with time 0.

        INVARIANT: a quorum that counts here also counts for clients, because they require a fresh time too.
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

    Policy lines with the same URL share a client: they are keys of one witness, which remembers one size for them.

    Raises:
        InvalidError: the policy is for another log; or the witnesses with a client are too many, or too few for a
            quorum; or the URL of a witness on another machine is not https.
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
            # A witness's unsigned report of a larger tree stops the ledger, so the network must be unable to forge it.
            if not connection.is_protected:
                raise InvalidError(f"witness of another machine is not asked over https: `{line.url}`")
            label = f"w{policy.witnesses.index(line) + 1}"
            clients[line.url] = WitnessClient(connection, name=line.name, label=label, store=store, wall_ms=wall_ms)
        clients[line.url].verifiers[line.name] = line.verifier
    return list(clients.values())
