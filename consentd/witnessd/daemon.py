"""Our witness: cosign a checkpoint after every entry of its log was fetched and replayed (C2SP tlog-witness).

A C2SP witness vouches that a log's tree only grows. Our witness also vouches for the entries. A *seal* is a leaf with
the root of a map that has the last entry of each chain. The witness fetches all entries, and computes every map root
from them. So a history proof for a cosigned checkpoint is complete, and nobody else needs to read all entries.

The witness listens on this machine only. A TLS proxy passes requests on, and limits how often each client may ask.
``GET /<SHA-256 of the origin, hex>/checkpoint`` returns the note cosigned last.

``POST /add-checkpoint`` checks in this order: 400 malformed · 404 unknown log · 403 not signed by the log · 400 old
size larger than the new size · 409 old size is not the size cosigned last (the body contains the size cosigned last) ·
422 consistency proof or root hash is wrong · 503 entries cannot be fetched, the client may ask again · 422 an entry
breaks the replay rule · 200. Before 200 is sent, the cosigned note is written to the disk.

Files in ``state_dir`` are named by the hash of the log's origin. ``.checkpoint`` is the last cosigned note; if it is
lost, restore it or give the witness a new key, because otherwise the witness could cosign a second, different tree.
``.replay`` is a cache. ``.evidence-SIZE`` is a checkpoint whose entries break the replay rule; it should be published.
"""

import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from consentd import descriptors
from consentd.core import ed25519, merkle, note
from consentd.core.checkpoint import Checkpoint, is_signed_by, open_checkpoint, open_own
from consentd.core.note import Note, NoteSignature, Signer, Verifier
from consentd.core.replay import ReplayError
from consentd.core.submission import PATH, SIZE_TYPE, Submission, format_cosignatures, format_size, parse_submission
from consentd.cosigning.connection import Connection
from consentd.cosigning.keyfiles import read_key_text, read_mldsa_key, read_signing_key, write_private
from consentd.cosigning.mldsa import MldsaSigner
from consentd.errors import (
    CorruptionError,
    InvalidError,
    MalformedError,
    ProofError,
    SignatureError,
    StorageError,
    UnknownKeyError,
    VerificationError,
)  # fmt: skip
from consentd.files import FileLock, hold_reserve, read_file_if_exists, write_file
from consentd.listener.app import App, Page
from consentd.listener.messages import BRIEFLY_CACHED, TEXT, HttpRequest, HttpResponse, text_response
from consentd.listener.server import MAX_CONNECTIONS, Listener
from consentd.sections import parse_listen
from consentd.witnessd.config import FollowedLog, WitnessOptions, WitnessServerConfig
from consentd.witnessd.follower import Follower

log = logging.getLogger(__name__)

_SIGNAL_S = 1.0  # a signal is handled at most so late

BUSY_S = 2.0
"""How many seconds a request waits while another request about the same log is processed."""
IDLE_S = 300
"""How many seconds a log may keep a connection open without a request."""
THREADS = 64
"""How many requests to cosign are processed at a time. Each waits for the lock of its log, and then for a replay."""
MAX_BODY = 256 * 1024
"""The longest request body in bytes. A note may have 16 signatures, and each takes up to 5 kB."""


class Witness:
    """Verifies and cosigns checkpoints. Any thread may call ``add_checkpoint`` and ``checkpoint``."""

    def __init__(self, config: WitnessServerConfig, *, wall_s: Callable[[], int] = lambda: int(time.time())) -> None:
        """Read the key files and the state files.

        Raises:
            StorageError: a file cannot be read, or the state directory cannot be made.
            InvalidError: a key file has no key of the expected kind, or a token would leave this machine unencrypted.
            CorruptionError: a cosigned note in the state directory does not verify.
        """
        options = config.witness
        signer = read_signing_key(options.key_file)
        if signer.kind != note.COSIGNATURE:
            raise InvalidError(f"key file does not hold a witness's key: `{options.key_file}`")
        self._signers: list[Signer | MldsaSigner] = [signer]
        if options.mldsa_key_file is not None:
            self._signers.append(read_mldsa_key(options.mldsa_key_file))
        self._wall_s = wall_s
        try:
            options.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"state directory cannot be made: `{options.state_dir}`: {error.strerror}") from error
        # INVARIANT: only one process uses the state files. Two processes could cosign different trees of one log.
        self._state_lock = FileLock(options.state_dir / "lock", program="witness")
        self._closed = False  # set and read only by a thread that holds a log's lock
        try:
            states = [_LogState(each, options, signer.verifier) for each in config.log]
        except BaseException:
            self._state_lock.close()
            raise
        self._logs = {state.origin: state for state in states}

    def add_checkpoint(self, body: bytes) -> HttpResponse:
        """Answer a request to cosign a checkpoint; *body* is the request's body."""
        try:
            submission = parse_submission(body)
            parsed = note.parse_note(submission.note)
        except MalformedError as error:
            return text_response(HTTPStatus.BAD_REQUEST, str(error))
        state = self._logs.get(parsed.text.split("\n", 1)[0])
        if state is None:
            return text_response(HTTPStatus.NOT_FOUND, "log is not known here")
        # INVARIANT: the lock is held from the comparison with the checkpoint cosigned last until its replacement.
        if not state.lock.acquire(timeout=BUSY_S):
            return text_response(HTTPStatus.SERVICE_UNAVAILABLE, "entries of this log are being replayed; ask again")
        try:
            if self._closed:
                return text_response(HTTPStatus.SERVICE_UNAVAILABLE, "witness is stopping")
            return self._process(state, submission, parsed)
        except StorageError as error:
            log.warning("checkpoint of `%s` could not be checked: %s", state.origin, error)
            return text_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        finally:
            state.lock.release()

    def checkpoint(self, origin_hash: str) -> bytes | None:
        """Return the last cosigned note of a log by the SHA-256 hash of its origin (hex); None if there is no note."""
        return next((state.note for state in self._logs.values() if state.origin_hash == origin_hash), None)

    def close(self) -> None:
        """Refuse further requests, write the replays' caches to the disk, and unlock the state directory."""
        for state in self._logs.values():
            state.connection.close()  # so that a replay that is fetching entries fails and ends
        for state in self._logs.values():
            with state.lock:
                self._closed = True
                state.follower.keep()
                state.connection.release()
        self._state_lock.close()

    def _process(self, state: "_LogState", submission: Submission, parsed: Note) -> HttpResponse:
        """Do the checks in the module's docstring from status 403 on, then cosign. The caller holds the log's lock."""
        try:
            verifier = state.verifier_of(parsed)
            point, opened = open_checkpoint(submission.note, state.origin, verifier)
        except UnknownKeyError as error:
            # A witness does not follow rotations: its operator names the key under which it cosigns next.
            log.warning("log `%s` signs with a key that is not configured: if it was replaced, name it", state.origin)
            return text_response(HTTPStatus.FORBIDDEN, str(error))
        except SignatureError as error:
            return text_response(HTTPStatus.FORBIDDEN, str(error))
        except MalformedError as error:
            # A checkpoint of size 0 whose root hash is not the empty tree's is well-formed, but its tree is wrong.
            is_wrong_tree = parsed.text.split("\n")[1:2] == ["0"]
            status = HTTPStatus.UNPROCESSABLE_ENTITY if is_wrong_tree else HTTPStatus.BAD_REQUEST
            return text_response(status, str(error))
        if submission.old_size > point.size:
            return text_response(HTTPStatus.BAD_REQUEST, "old size is larger than the checkpoint's")
        if submission.old_size != state.cosigned.size:
            return HttpResponse(HTTPStatus.CONFLICT, SIZE_TYPE, format_size(state.cosigned.size))
        try:
            _verify_growth(submission, state.cosigned, point)
            if point.size > state.cosigned.size:
                state.follower.catch_up(point, cosigned_size=state.cosigned.size)
        except ReplayError as error:
            state.write_evidence(submission.note, point, error)
            return text_response(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (ProofError, MalformedError) as error:
            return text_response(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        lines = [signer.cosign(opened.text, self._wall_s()) for signer in self._signers]
        self._state_lock.verify()
        # Only the log's first signature is stored, because a request may repeat the log's signature a hundred times.
        state.write_cosigned(point, opened.text, [opened.verified[0], *lines])
        if verifier == state.next_verifier:
            state.verifier, state.next_verifier = verifier, None
        # If the process crashes here, the note is stored but the log got no answer. The log asks again and gets 409.
        return HttpResponse(HTTPStatus.OK, TEXT, format_cosignatures(lines))


class _LogState:
    """A log, the checkpoint of the log that was cosigned last, and the replay of the log's entries.

    Attributes:
        lock: taken by ``Witness.add_checkpoint`` and ``Witness.close``. The lock guards every attribute that changes;
            only ``note`` is also read without the lock.
        verifier, next_verifier: the log's key, and the one that may replace it; None: none may.
        cosigned: the checkpoint cosigned last; its size is 0 if no checkpoint was cosigned yet.
        note: the note of ``cosigned``, replaced by assignment; None if no checkpoint was cosigned yet.
    """

    def __init__(self, followed: FollowedLog, options: WitnessOptions, witness_key: note.Verifier) -> None:
        self.verifier, self.next_verifier = followed.verifier(), followed.next_verifier()
        self.origin = self.verifier.name
        self.origin_hash = sha256(self.origin.encode()).hexdigest()
        self.lock = threading.Lock()
        self._directory = options.state_dir
        self._path = options.state_dir / f"{self.origin_hash}.checkpoint"
        self.note = read_file_if_exists(self._path, name="cosigned checkpoint")
        self.cosigned = self._open_cosigned(witness_key)
        if self.note is not None and self.verifier_of(note.parse_note(self.note)) == self.next_verifier:
            self.verifier, self.next_verifier = self.next_verifier, None
        headers = {"Authorization": f"Bearer {_read_token(followed.token_file)}"}
        self.connection = Connection(followed.url, timeout_s=options.timeout_ms / 1000, headers=headers)
        if not self.connection.is_protected:
            raise InvalidError(f"token would be sent in the clear to another machine: `{followed.url}`")
        replay, days = options.state_dir / f"{self.origin_hash}.replay", followed.retention_days
        self.follower = Follower(self.connection, replay, map_bits=options.map_bits, retention_days=days)

    def _open_cosigned(self, witness_key: note.Verifier) -> Checkpoint:
        if self.note is None:
            return Checkpoint(self.origin, 0, merkle.EMPTY_ROOT)
        try:
            note.open_note(self.note, [witness_key])
            # After the log has replaced its key, the note is by the old one, under our own cosignature.
            return open_own(self.note, self.origin, self.verifier)
        except VerificationError as error:
            raise CorruptionError(f"state of the witness is not what it wrote: `{self._path}`: {error}") from error

    def verifier_of(self, submitted: Note) -> Verifier:
        """Return the log's key that must have signed a note: the next one if the note has its line, or the present one.

        INVARIANT: once a checkpoint of the next key is cosigned, it is the present one, and none of the key before is.
        """
        following = self.next_verifier
        if following is not None and is_signed_by(submitted.unverified, following):
            return following
        return self.verifier

    def write_cosigned(self, point: Checkpoint, text: str, signatures: list[NoteSignature]) -> None:
        signed = note.format_note(text, signatures)
        write_file(self._path, signed, name="cosigned checkpoint")
        self.cosigned, self.note = point, signed

    def write_evidence(self, signed: bytes, point: Checkpoint, error: ReplayError) -> None:
        path = self._directory / f"{self.origin_hash}.evidence-{point.size}"
        log.critical("log `%s` signed entries that break the rule: %s; kept in `%s`", self.origin, error, path)
        if not path.exists():
            write_file(path, signed, name="evidence")


def _verify_growth(submission: Submission, cosigned: Checkpoint, point: Checkpoint) -> None:
    """Verify the submission's proof that the tree of *point* begins with the tree cosigned last."""
    if cosigned.size == 0:
        if submission.proof:
            raise ProofError("proof from size 0 is not empty")
        return
    merkle.verify_consistency(
        submission.proof, size1=cosigned.size, root1=cosigned.root, size2=point.size, root2=point.root
    )


def make_witness_key(path: Path, name: str) -> str:
    """Make a file with a new signing key of a witness called *name*; return the verifier key for policy files.

    Raises:
        InvalidError: *name* is not allowed as the name of a key.
        StorageError: the file cannot be written, or already exists.
    """
    try:
        signer = note.Signer(name, ed25519.KeyPair(secrets.token_bytes(32)), note.COSIGNATURE)
    except MalformedError as error:
        raise InvalidError(f"name of a witness is not valid: `{name}`: {error}") from error
    write_private(path, note.format_signing_key(signer) + "\n")
    return note.format_vkey(signer.verifier)


def _read_token(path: Path) -> str:
    token = read_key_text(path)
    if not token or not token.isprintable() or " " in token:
        raise InvalidError(f"token file holds no token: `{path}`")
    return token


class WitnessServer:
    """A witness with an HTTP listener, which answers requests until ``stop``."""

    def __init__(self, config: WitnessServerConfig, *, wall_s: Callable[[], int] = lambda: int(time.time())) -> None:
        """Read keys and state, and listen. Raises the errors of ``Witness`` and ``Listener``."""
        self.witness = Witness(config, wall_s=wall_s)
        address = parse_listen(config.witness.listen, option="witness.listen")
        most = descriptors.share(4, most=MAX_CONNECTIONS)
        pages = [
            Page(path=PATH, method="POST", respond=lambda request: self.witness.add_checkpoint(request.body)),
            Page(path="/{origin_hash}/checkpoint", respond=self._checkpoint, waits=False, is_shared=True),
        ]
        app = App(pages, threads=THREADS)
        self._listener = Listener(address, app, idle_s=IDLE_S, max_body=MAX_BODY, max_connections=most)
        log.info("witness listens on port %d", self._listener.port)

    def stop(self) -> None:
        """Stop listening, and close the witness."""
        self._listener.stop()
        self.witness.close()

    def _checkpoint(self, request: HttpRequest) -> HttpResponse:
        signed = self.witness.checkpoint(request.path.removeprefix("/").removesuffix("/checkpoint"))
        if signed is None:
            return text_response(HTTPStatus.NOT_FOUND, "no checkpoint of such a log")
        return HttpResponse(HTTPStatus.OK, TEXT, signed, BRIEFLY_CACHED)


def serve_witness(config: WitnessServerConfig) -> None:
    """Run a witness until SIGTERM or SIGINT.

    Raises:
        ConsentdError: the witness could not start.
    """
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    descriptors.raise_limit()
    hold_reserve()
    server = WitnessServer(config)
    # The handler runs on this thread. A wait without an end would miss a signal that interrupts another thread.
    while not done.wait(_SIGNAL_S):
        pass
    server.stop()
