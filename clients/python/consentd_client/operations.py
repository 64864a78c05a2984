"""Operations: code that ``Client`` and ``AsyncClient`` share, because it does no IO itself but asks the client for IO.

An *operation* is a generator function: ``check``, ``grant``, ``history`` and so on. Its first argument is the client's
``ClientContext``. An operation never uses the network or a file. Instead the operation yields a *step*, an object that
describes a call or a wait, and the client executes the step::

    operation                              client
    ─────────                              ──────
    yields UnaryCall or StreamCall    ──▸  calls the daemon
    yields Sleep                      ──▸  waits, before a call is repeated
    yields RunBlocking                ──▸  runs a slow function: file access, a long verification
    is resumed with the step's result ◂──  sends the result, or throws the ``ConsentdError`` that the step raised
    returns its answer                ──▸  returns it to the caller

``Client.run`` executes steps with blocking calls, ``AsyncClient.run`` with ``await``. All other code exists once, in
operations, and is tested without a network. This design is known as "sans IO"; the HTTP library h11 has it too.
"""

import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from consentd.core.note import NoteVerifier
from consentd.errors import InvalidError, MalformedError, OverloadedError, StorageError
from consentd.policy.vocabulary import Vocabulary
from consentd_client.memory import Memory
from consentd_client.trust import Trust

T = TypeVar("T")
R = TypeVar("R")

MAX_STREAM_BYTES = 256 << 20
"""Longest stream that a client accepts, in bytes: about 200,000 entries."""

MAX_PAUSE_S = 1.0
"""Longest pause before a call is repeated, in seconds, unless the daemon asks for a longer one."""


class UnavailableError(StorageError):
    """The daemon was not reached, or it cannot serve now. The call is repeated until the client's timeout.

    Attributes:
        retry_after_ms: when the daemon wants the call again, from now; 0: it did not say so.
    """

    def __init__(self, message: str, reason: str | None = None, *, retry_after_ms: int = 0) -> None:
        super().__init__(message, reason)
        self.retry_after_ms = retry_after_ms


@dataclass(slots=True)
class Learned:
    """What a client learned from the daemon's earlier answers. It lasts as long as the client.

    INVARIANT: ``tree_size`` is a size that the ledger had before now. Threads that write it at the same time may store
    the smaller size, which is as true.

    Attributes:
        tree_size: the ledger has at least this size. An entry that is written from now on has at least this index.
        vocabularies: versions of the vocabulary that were read.
        log_key: the log key that rotations led to from the pinned one, now or earlier; None: the pinned one.
    """

    tree_size: int = 0
    vocabularies: dict[int, Vocabulary] = field(default_factory=dict, repr=False)
    log_key: NoteVerifier | None = None

    def add_size(self, tree_size: int) -> None:
        """Note a size of the ledger."""
        self.tree_size = max(self.tree_size, tree_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """The values and functions of a client that every operation may use.

    Attributes:
        trust: the pinned keys; None: no key is pinned, and nothing can be verified.
        memory: stores what was verified before.
        new_request_id: returns 16 random bytes.
        now_ms: returns the present time, UTC milliseconds.
        attempts: how often a call is made at most; None: until the client's timeout.
        backoff_s: pause before the first repeat, in seconds. Each further pause is twice as long, at most
            ``MAX_PAUSE_S``.
        jitter: returns a random number from 0 to 1. Each pause is shortened by up to a half, so that the clients of a
            daemon that comes back do not all call it at the same moment.
        max_stream_bytes: length of the longest stream that is accepted.
        learned: what earlier answers said.
    """

    trust: Trust | None
    memory: Memory
    new_request_id: Callable[[], bytes]
    now_ms: Callable[[], int]
    attempts: int | None = None
    backoff_s: float = 0.1
    jitter: Callable[[], float] = random.random
    max_stream_bytes: int = MAX_STREAM_BYTES
    learned: Learned = field(default_factory=Learned)

    @property
    def present_trust(self) -> Trust | None:
        """``trust``, with the log key that rotations led to; None: no key is pinned."""
        if self.trust is None or self.learned.log_key is None:
            return self.trust
        return replace(self.trust, log_key=self.learned.log_key)

    def pinned(self) -> Trust:
        """Return ``present_trust``; InvalidError if no key is pinned."""
        found = self.present_trust
        if found is None:
            raise InvalidError("verifying needs the ledger's log key and origin pinned; give them to the client")
        return found


@dataclass(frozen=True, slots=True)
class UnaryCall:
    """The step "call the gRPC procedure that takes *request*". The step's result is the response."""

    request: Message = field(repr=False)
    response_type: type[Any]


@dataclass(slots=True)
class StreamCall:
    """The step "call a procedure that streams its answer, and ``receive`` each message". The result is ``messages``."""

    request: Message = field(repr=False)
    response_type: type[Any]
    max_bytes: int
    messages: list[Any] = field(default_factory=list, repr=False)
    received_bytes: int = 0

    def receive(self, message: Any) -> None:
        """Add one message; MalformedError if the stream becomes longer than ``max_bytes``."""
        self.received_bytes += message.ByteSize()
        if self.received_bytes > self.max_bytes:
            raise MalformedError(f"stream is longer than {self.max_bytes} bytes")
        self.messages.append(message)


@dataclass(frozen=True, slots=True)
class Sleep:
    """The step "wait". The result is True, or False, without a wait, if it would take all the time that is left."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RunBlocking:
    """The step "call a function that blocks, outside any event loop". The result is the function's return value."""

    function: Callable[[], Any]


Step: TypeAlias = UnaryCall | StreamCall | Sleep | RunBlocking
Operation: TypeAlias = Generator[Step, Any, T]


def procedure_path(request_type: type[Message], response_type: type[Message]) -> str:
    """Return the gRPC path of the procedure with these message types. No two procedures have the same types."""
    wanted = (request_type.DESCRIPTOR, response_type.DESCRIPTOR)
    services = request_type.DESCRIPTOR.file.services_by_name.values()
    [found] = [rpc for service in services for rpc in service.methods if (rpc.input_type, rpc.output_type) == wanted]
    return f"/{found.containing_service.full_name}/{found.name}"


def call(context: ClientContext, request: Message, response_type: type[R]) -> Operation[R]:
    """Call the procedure that takes *request*, repeatedly while the daemon cannot serve. Raises as ``ClientBase``."""
    try:
        answer: R = yield from _repeated(context, lambda: UnaryCall(request, response_type))
    except StorageError as error:
        request_id = getattr(request, "request_id", b"")
        if request_id:
            error.add_note(f"request_id: {request_id.hex()}")  # a repeat of the write needs this id
        raise
    return answer


def call_stream(context: ClientContext, request: Message, response_type: type[R]) -> Operation[list[R]]:
    """Do as ``call`` for a procedure that streams its answer; return all messages."""
    limit = context.max_stream_bytes
    answer: list[R] = yield from _repeated(context, lambda: StreamCall(request, response_type, limit))
    return answer


def run_blocking(function: Callable[[], T]) -> Operation[T]:
    """Call a function that blocks, and return its result. An ``AsyncClient`` calls the function in a worker thread."""
    result: T = yield RunBlocking(function)
    return result


def _repeated(context: ClientContext, make_step: Callable[[], Step]) -> Operation[Any]:
    """Execute a step. Repeat it while the daemon is not reached, or says when to try again, and time is left.

    A repeat carries the same request_id, so that the daemon cannot record a write twice.
    """
    pause_s = context.backoff_s
    for attempt in count(1):
        failure: UnavailableError | OverloadedError
        try:
            return (yield make_step())
        except (UnavailableError, OverloadedError) as error:
            failure = error
        wait_s = max(failure.retry_after_ms / 1000, pause_s * (1 - context.jitter() / 2))
        if attempt == context.attempts or not (yield Sleep(wait_s)):
            raise failure
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
    raise AssertionError("the loop has no end")


Page: TypeAlias = tuple[Iterable[T], str]
"""The items of one page of a list, and the page token of the next page. After the last page the token is empty."""

ReadPage: TypeAlias = Callable[[str], Operation[Page[T]]]
"""A function that reads the page with a given page token. The empty token means the first page."""


def read_pages(
    context: ClientContext, selected: Message, response_type: type[R], parse: Callable[[R], Page[T]]
) -> ReadPage[T]:
    """Return a function that reads one page of a list. *selected*: the request, without a page token.

    A page may be empty and still name a next page. A list that cannot be continued ends with PAGE_EXPIRED; it is not
    begun again here, because the caller has used its first items.
    """

    def read_page(page_token: str) -> Operation[Page[T]]:
        request = type(selected)()
        request.CopyFrom(selected)
        request.page_token = page_token  # type: ignore[attr-defined]  # every request of a list has it
        response = yield from call(context, request, response_type)
        items, next_page_token = parse(response)
        if next_page_token and next_page_token == page_token:
            raise MalformedError("page names itself as the next page of the list")
        return items, next_page_token

    return read_page
