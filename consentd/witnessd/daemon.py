"""Be a witness: cosign what a log signed, once every one of its entries was replayed (C2SP tlog-witness).

A witness as C2SP has it vouches that it saw one tree that only grows. Ours vouches for one thing more: it fetched all
entries, and each seal's map of where every chain stands is what the entries make it. So a history proof under its
cosignature is complete although nobody but this witness read everything.

``POST /add-checkpoint`` answers in this order: 400 malformed · 404 log not known · 403 not signed by it · 400 old size
larger than the new · 409 old size not that cosigned last, with that one · 422 proof or root wrong · 503 entries are
not to be had, ask again · 422 an entry breaks the replay rule · 200. Only then is anything remembered, and what is
cosigned is on disk before it is answered.

State, in ``state_dir``, by the hash of the origin: ``.checkpoint``, the last note cosigned (LOSS: it would cosign
another tree; restore it, or give the witness another key), ``.replay``, a cache, and ``.evidence-SIZE``, a checkpoint
that the log signed over entries that break the rule: publish it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from consentd.core import merkle
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.note import (
    COSIGNATURE,
    Note,
    NoteSignature,
    Signer,
    format_note,
    open_note,
    parse_note,
    parse_signing_key,
)
from consentd.core.replay import ReplayError
from consentd.core.submission import (
    SIZE_TYPE,
    Submission,
    format_cosignatures,
    format_size,
    parse_submission,
)
from consentd.cosigning.connection import Connection, HttpResponse
from consentd.cosigning.mldsa import MldsaSigner, read_mldsa_key
from consentd.errors import (
    CorruptionError,
    InvalidError,
    MalformedError,
    ProofError,
    SignatureError,
    StorageError,
    VerificationError,
)
from consentd.files import lock_file, read_file_if_exists, write_file
from consentd.witnessd.config import FollowedLog, WitnessServerConfig
from consentd.witnessd.follower import Follower

log = logging.getLogger(__name__)

BUSY_S = 2.0
"""How long a request waits for the one before it about the same log."""
_TEXT = "text/plain; charset=utf-8"


class Witness:
    """What a witness knows and decides. Any thread may ask it."""

    def __init__(self, config: WitnessServerConfig, *, wall_s: Callable[[], int] = lambda: int(time.time())) -> None:
        """Read keys and state.

        Raises:
            StorageError: a file cannot be read, or the state directory cannot be made.
            InvalidError: a key file holds no key of its kind, or a token would go to another machine in the clear.
            CorruptionError: a state file is not what this witness wrote.
        """
        self._signer = _read_key(config.key_file)
        self._mldsa = None if config.mldsa_key_file is None else read_mldsa_key(config.mldsa_key_file)
        self._wall_s = wall_s
        try:
            config.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"state directory cannot be made: `{config.state_dir}`: {error.strerror}") from error
        # INVARIANT: two that share the state could cosign two trees.
        self._lock_file = lock_file(config.state_dir / "lock", program="witness")
        self._closed = False  # guarded by the lock of each log
        try:
            self._logs = {each.verifier.name: _Followed(each, config, self._signer) for each in config.logs}
        except BaseException:
            os.close(self._lock_file)
            raise

    def add_checkpoint(self, body: bytes) -> HttpResponse:
        """HttpResponse a request to cosign."""
        try:
            submission = parse_submission(body)
            parsed = parse_note(submission.note)
        except MalformedError as error:
            return say(HTTPStatus.BAD_REQUEST, str(error))
        followed = self._logs.get(parsed.text.split("\n", 1)[0])
        if followed is None:
            return say(HTTPStatus.NOT_FOUND, "log is not known here")
        if not followed.lock.acquire(timeout=BUSY_S):
            return say(HTTPStatus.SERVICE_UNAVAILABLE, "entries of this log are being replayed; ask again")
        # INVARIANT: what is compared, and what replaces it, is one step: nobody else cosigns for this log meanwhile.
        try:
            if self._closed:
                return say(HTTPStatus.SERVICE_UNAVAILABLE, "witness is stopping")
            return self._decide(followed, submission, parsed)
        except StorageError as error:
            log.warning("checkpoint of `%s` could not be checked: %s", followed.origin, error)
            return say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        finally:
            followed.lock.release()

    def checkpoint(self, origin_hash: str) -> bytes | None:
        """Return the last note cosigned of the log with this hash of its origin, in hex; None where there is none."""
        for followed in self._logs.values():
            if followed.name == origin_hash:
                return followed.note
        return None

    def close(self) -> None:
        """HttpResponse no more, keep what the replays made, and let go of the state."""
        for followed in self._logs.values():
            followed.connection.close()  # a replay that is under way ends, however much it has yet to fetch
        for followed in self._logs.values():
            with followed.lock:
                self._closed = True
                followed.follower.keep()
                followed.connection.release()
        os.close(self._lock_file)

    def _decide(self, followed: "_Followed", submission: Submission, parsed: Note) -> HttpResponse:
        try:
            point, opened = open_checkpoint(submission.note, followed.origin, followed.log.verifier)
        except SignatureError as error:
            return say(HTTPStatus.FORBIDDEN, str(error))
        except MalformedError as error:
            # A size of 0 with another root than the empty one is a wrong tree, not a wrong format.
            is_nought = parsed.text.split("\n")[1:2] == ["0"]
            return say(HTTPStatus.UNPROCESSABLE_ENTITY if is_nought else HTTPStatus.BAD_REQUEST, str(error))
        cosigned = followed.point
        if submission.old_size > point.size:
            return say(HTTPStatus.BAD_REQUEST, "old size is larger than the checkpoint's")
        if submission.old_size != cosigned.size:
            return HttpResponse(HTTPStatus.CONFLICT, SIZE_TYPE, format_size(cosigned.size))
        try:
            _verify_growth(submission, cosigned, point)
            if point.size > cosigned.size:
                followed.follower.catch_up(point, cosigned_size=cosigned.size)
        except ReplayError as error:
            followed.keep_evidence(submission.note, point, error)
            return say(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (ProofError, MalformedError) as error:
            return say(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        lines = self._cosign(opened.text)
        # One line of the log's is enough: a request may have it a hundred times.
        followed.remember(point, format_note(opened.text, [opened.verified[0], *lines]))
        # A crash here: it is remembered, and not answered; the log asks again and is told 409.
        return HttpResponse(HTTPStatus.OK, _TEXT, format_cosignatures(lines))

    def _cosign(self, text: str) -> list[NoteSignature]:
        signers: list[Signer | MldsaSigner] = [self._signer] if self._mldsa is None else [self._signer, self._mldsa]
        return [signer.cosign(text, self._wall_s()) for signer in signers]


class _Followed:
    """A log, what was cosigned of it last, and its replay. All but ``note`` is owned by who holds ``lock``."""

    def __init__(self, followed: FollowedLog, config: WitnessServerConfig, signer: Signer) -> None:
        self.log = followed
        self.origin = followed.verifier.name
        self.lock = threading.Lock()
        self.name = sha256(self.origin.encode()).hexdigest()
        self._directory = config.state_dir
        self._path = config.state_dir / f"{self.name}.checkpoint"
        self.note = read_file_if_exists(self._path, name="cosigned checkpoint")  # replaced by assignment
        self.point = self._read_point(signer)
        token = _read_token(followed.token_file)
        self.connection = Connection(
            followed.url, timeout_s=config.timeout_ms / 1000, headers={"Authorization": f"Bearer {token}"}
        )
        if not self.connection.is_protected:
            raise InvalidError(f"token would be sent in the clear to another machine: `{followed.url}`")
        cache = config.state_dir / f"{self.name}.replay"
        self.follower = Follower(
            self.connection, cache, map_bits=config.map_bits, retention_days=followed.retention_days
        )

    def _read_point(self, signer: Signer) -> Checkpoint:
        if self.note is None:
            return Checkpoint(self.origin, 0, merkle.EMPTY_ROOT)
        try:
            open_note(self.note, [signer.verifier])
            return open_checkpoint(self.note, self.origin, self.log.verifier)[0]
        except VerificationError as error:
            raise CorruptionError(f"state of the witness is not what it wrote: `{self._path}`: {error}") from error

    def remember(self, point: Checkpoint, note: bytes) -> None:
        write_file(self._path, note, name="cosigned checkpoint")
        self.point, self.note = point, note

    def keep_evidence(self, note: bytes, point: Checkpoint, error: ReplayError) -> None:
        path = self._directory / f"{self.name}.evidence-{point.size}"
        log.critical("log `%s` signed entries that break the rule: %s; kept in `%s`", self.origin, error, path)
        if not path.exists():
            write_file(path, note, name="evidence")


def _verify_growth(submission: Submission, cosigned: Checkpoint, point: Checkpoint) -> None:
    """Verify that the new tree begins with the one cosigned last."""
    if cosigned.size == 0:
        if submission.proof:
            raise ProofError("proof from size 0 is not empty")
        return
    merkle.verify_consistency(
        submission.proof, size1=cosigned.size, root1=cosigned.root, size2=point.size, root2=point.root
    )


def say(status: HTTPStatus, text: str) -> HttpResponse:
    """Return an answer in words."""
    return HttpResponse(status, _TEXT, text.encode() + b"\n")


def _read_key(path: Path) -> Signer:
    try:
        signer = parse_signing_key(path.read_text("ascii"))
    except OSError as error:
        raise StorageError(f"key file cannot be read: `{path}`: {error.strerror}") from error
    except (MalformedError, UnicodeDecodeError) as error:
        raise InvalidError(f"key file holds no signing key: `{path}`") from error
    if signer.kind != COSIGNATURE:
        raise InvalidError(f"key file does not hold a witness's key: `{path}`")
    return signer


def _read_token(path: Path) -> str:
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"token file cannot be read: `{path}`") from error
    if not token or not token.isprintable() or " " in token:
        raise InvalidError(f"token file holds no token: `{path}`")
    return token
