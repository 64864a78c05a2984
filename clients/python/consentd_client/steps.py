"""Say what a call asks of the network, without asking: what ``Client`` and ``AsyncClient`` share.

A *flow* is a generator. It yields steps, is sent what came of each, or thrown the declared error that came of it, and
returns the answer::

    flow   ── Unary, Stream ──▸  a call to the daemon
           ── Pause ──────────▸  wait before a repeat
           ── Work ───────────▸  something that blocks: the memory's file, a long verification
    driver ── what came of it ─▸ flow

Everything that has a meaning (requests, repeats, failing closed, verification) is in flows; a driver only carries out
steps. So there is one copy of it, and it is tested without a network. Model: h11's "sans IO".
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from consentd.core.checkpoint import open_checkpoint
from consentd.core.note import NoteVerifier, parse_vkey
from consentd.core.quorum import MAX_AGE_S, ParseKey, WitnessPolicy, parse_policy, verify_cosigned
from consentd.errors import InvalidError, MalformedError, StorageError
from consentd_client.memory import Memory

T = TypeVar("T")
M = TypeVar("M", bound=Message)

MAX_STREAM_BYTES = 256 << 20
"""Longest stream that is taken in: about 200,000 entries."""


class UnavailableError(StorageError):
    """Say that the daemon was not reached, or could not serve: the one error that is met by a repeat."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What the client pinned: the ledger's name and the public key that signs its checkpoints.

    Get all of it on another way than from the daemon. Loss: pin it anew; trust nothing read meanwhile.

    Attributes:
        origin: the ledger's name.
        log_key: what its checkpoints are signed with.
        policy: which witnesses must have cosigned, so that everyone is shown the same ledger; None: nobody need have.
        also: further keys of the log's own, ML-DSA-44 beside Ed25519: each of them must have signed too.
    """

    origin: str
    log_key: NoteVerifier
    policy: WitnessPolicy | None = None
    also: tuple[NoteVerifier, ...] = ()

    def verify_witnessed(self, checkpoint: bytes, *, now_ms: int | None, seal_time_ms: int | None = None) -> None:
        """Verify that the log's further keys signed a checkpoint note, and the pinned witnesses, if there are any.

        Args:
            checkpoint: the signed note.
            now_ms: the reader's clock, for a checkpoint that is to be fresh; None: any age, as for a stored receipt.
            seal_time_ms: time of the tree's last seal, where it is known.

        Raises:
            SignatureError: a key has not signed, or they are no quorum, or not recently enough.
        """
        for key in self.also:
            # INVARIANT: a pinned key is a known one, so that its line may neither be wrong nor missing. Whoever breaks
            # one kind of signature has not broken the other.
            open_checkpoint(checkpoint, self.origin, key)
        if self.policy is not None:
            verify_cosigned(
                checkpoint,
                self.policy,
                now_s=(now_ms or 0) // 1000,
                max_age_s=None if now_ms is None else MAX_AGE_S,
                seal_time_ms=seal_time_ms,
                logs=[self.log_key],
            )


def pin(
    log_key: str | NoteVerifier,
    origin: str = "",
    *,
    also: Iterable[str | NoteVerifier] = (),
    policy: bytes | None = None,
    parse_mldsa: ParseKey | None = None,
) -> Trust:
    """Pin a log key, as C2SP vkey text or parsed; the origin, by default the key's own name; and witnesses.

    Args:
        log_key: what checkpoints are signed with.
        origin: the ledger's name.
        also: further keys of the log's own, each of which must have signed as well.
        policy: which witnesses must have cosigned, as a C2SP tlog-policy file has it; None: nobody need have.
        parse_mldsa: reads a vkey of ML-DSA-44, for those who have the code: ``consentd.cosigning.mldsa`` has, with the
            server's parts installed. Left out, such a key cannot be pinned, and in a policy it counts for nothing.

    Raises:
        MalformedError: the text is not a verifier key that can be read, or the policy not one.
    """
    verifier = _parse_key(log_key, parse_mldsa)
    return Trust(
        origin or verifier.name,
        verifier,
        None if policy is None else parse_policy(policy, parse_mldsa=parse_mldsa),
        tuple(_parse_key(key, parse_mldsa) for key in also),
    )


def _parse_key(given: str | NoteVerifier, parse_mldsa: ParseKey | None) -> NoteVerifier:
    if not isinstance(given, str):
        return given
    try:
        return parse_vkey(given.strip())
    except MalformedError:
        if parse_mldsa is None:
            raise
    return parse_mldsa(given.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What flows need beside their arguments.

    Attributes:
        trust: what was pinned; None: nothing can be verified.
        memory: what was verified before.
        draw: returns 16 random bytes.
        now_ms: returns the clock, UTC milliseconds.
        attempts: how often a call is tried that finds nobody.
        backoff_s: pause before the first repeat; it doubles.
    """

    trust: Trust | None
    memory: Memory
    draw: Callable[[], bytes]
    now_ms: Callable[[], int]
    attempts: int = 3
    backoff_s: float = 0.1

    def pinned(self) -> Trust:
        """Return what was pinned.

        Raises:
            InvalidError: nothing was.
        """
        if self.trust is None:
            raise InvalidError("verifying needs the ledger's log key and origin pinned; give them to the client")
        return self.trust


@dataclass(frozen=True, slots=True)
class Unary:
    """Call *method* (``/package.Service/Method``); send back the response."""

    method: str
    request: Message = field(repr=False)
    response: type[Message]


@dataclass(frozen=True, slots=True)
class Stream:
    """Call *method*, whose answer is a stream; ``take`` each message, and send back ``pieces``.

    Attributes:
        seen: called with each message as it comes.
    """

    method: str
    request: Message = field(repr=False)
    response: type[Message]
    seen: Callable[[Any], None] | None = None
    pieces: list[Message] = field(default_factory=list, repr=False)
    _taken: list[int] = field(default_factory=lambda: [0], repr=False)

    def take(self, message: Message) -> None:
        """Take in one message.

        Raises:
            MalformedError: the stream is longer than any that is right.
        """
        self._taken[0] += message.ByteSize()
        if self._taken[0] > MAX_STREAM_BYTES:
            raise MalformedError(f"stream is longer than {MAX_STREAM_BYTES} bytes")
        self.pieces.append(message)
        if self.seen is not None:
            self.seen(message)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait *seconds*; send back None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Run something that blocks; send back what it returns."""

    run: Callable[[], Any]


Step: TypeAlias = Unary | Stream | Pause | Work
Flow: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; an empty *next_page_token* ends it."""

    items: tuple[T, ...]
    next_page_token: str


def ask(session: Session, method: str, request: Message, response: type[M]) -> Flow[M]:
    """Call *method* of ``consentd.v1``, ``Service/Method``; repeat the very same request where nobody was reached.

    Raises:
        ConsentdError: as the daemon says, or ``StorageError`` from the transport.
    """
    step = Unary(f"/consentd.v1.{method}", request, response)
    try:
        answer: M = yield from _repeated(session, lambda: step)
    except StorageError as error:
        request_id = getattr(request, "request_id", b"")
        if request_id:
            error.add_note(f"request_id: {request_id.hex()}")  # to repeat with, where the outcome is unknown
        raise
    return answer


def ask_stream(
    session: Session, method: str, request: Message, response: type[M], seen: Callable[[M], None] | None = None
) -> Flow[list[M]]:
    """Call a streaming *method* likewise; returns all messages. *seen* is called with each as it comes."""
    answer: list[M] = yield from _repeated(session, lambda: Stream(f"/consentd.v1.{method}", request, response, seen))
    return answer


def work(run: Callable[[], T]) -> Flow[T]:
    """Run something that blocks, where it may."""
    result: T = yield Work(run)
    return result


def _repeated(session: Session, make: Callable[[], Step]) -> Flow[Any]:
    for attempt in range(session.attempts):
        try:
            return (yield make())
        except UnavailableError:
            # Only where nobody answered. A repeat carries the same request_id, so it cannot be recorded twice.
            if attempt + 1 == session.attempts:
                raise
        yield Pause(session.backoff_s * 2**attempt)
    raise AssertionError("a session makes at least one attempt")
