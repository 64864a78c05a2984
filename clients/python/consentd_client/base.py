"""What ``Client`` and ``AsyncClient`` share: the table of their methods, and their construction.

Each method of a client is an operation of this package (``operations`` explains them) that the client runs. The table
in ``ClientBase`` declares each of them once. A type checker and an IDE see for ``client.check(question)``: a
``CheckAnswer`` if the client is a ``Client``, an awaitable of it if the client is an ``AsyncClient``. The operations'
first argument, ``context``, is filled in by the client; ``help()`` shows it where a method usually has ``self``.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from copy import copy
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from consentd_client import access, consents, ledger, policy, registry, transport
from consentd_client.memory import Memory, RamMemory
from consentd_client.operations import ClientContext, Operation, ReadPage, StreamCall, UnaryCall
from consentd_client.transport import DEFAULT_TIMEOUT_S, Tls
from consentd_client.trust import Trust

if TYPE_CHECKING:
    from consentd_client.async_client import AsyncClient
    from consentd_client.client import Client

P = ParamSpec("P")
T = TypeVar("T")


class Method(Generic[P, T]):
    """A method of both clients that runs an operation and returns its answer."""

    def __init__(self, operation: Callable[Concatenate[ClientContext, P], Operation[T]]) -> None:
        @wraps(operation)
        def method(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return client.run(operation(client.context, *args, **kwargs))

        self._method = method

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        """Return the method, bound to *client* unless it is None."""
        return self._method if client is None else MethodType(self._method, client)


class ListMethod(Generic[P, T]):
    """A method of both clients that reads all pages of a list and iterates over their items."""

    def __init__(self, pages: Callable[Concatenate[ClientContext, P], ReadPage[T]]) -> None:
        @wraps(pages)
        def method(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return client.iterate(pages(client.context, *args, **kwargs))

        self._method = method

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        """Return the method, bound to *client* unless it is None."""
        return self._method if client is None else MethodType(self._method, client)


class ClientBase(ABC):
    """The methods of both clients."""

    # -- for everyone -----------------------------------------------------------------------------------------

    check = Method(policy.check)
    check_or_raise = Method(policy.check_or_raise)
    batch_check = Method(policy.batch_check)
    check_subjects = Method(policy.check_subjects)
    authorize_access = Method(access.authorize_access)
    batch_authorize = Method(access.batch_authorize)
    record_access = Method(access.record_access)
    batch_record = Method(access.batch_record)
    list_accesses = ListMethod(access.list_accesses)

    enrol = Method(registry.enrol)
    grant = Method(consents.grant)
    amend = Method(consents.amend)
    pause = Method(consents.pause)
    resume = Method(consents.resume)
    revoke = Method(consents.revoke)
    get_consent = Method(consents.get_consent)
    list_consents = ListMethod(consents.list_consents)

    get_checkpoint = Method(ledger.get_checkpoint)
    get_receipt = Method(ledger.get_receipt)
    history = Method(ledger.history)
    public_history = Method(ledger.public_history)

    get_participant = Method(registry.get_participant)
    list_participants = ListMethod(registry.list_participants)
    get_vocabulary = Method(registry.get_vocabulary)
    get_notice = Method(registry.get_notice)
    get_rules = Method(registry.get_rules)

    # -- for the operator -------------------------------------------------------------------------------------

    register_participant = Method(registry.register_participant)
    add_key = Method(registry.add_key)
    retire_key = Method(registry.retire_key)
    publish_vocabulary = Method(registry.publish_vocabulary)
    publish_notice = Method(registry.publish_notice)
    publish_rules = Method(registry.publish_rules)
    prune = Method(ledger.prune)

    # -- construction -----------------------------------------------------------------------------------------

    def __init__(
        self,
        target: str,
        *,
        token: str = "",
        tls: Tls | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        trust: Trust | None = None,
        memory: Memory | None = None,
        attempts: int = 3,
        backoff_s: float = 0.1,
        channel: Any = None,
    ) -> None:
        """Make a client; an ``AsyncClient`` inside a running event loop. Nothing is sent yet.

        Args:
            target: ``host:port`` of the daemon.
            token: the caller's bearer token.
            tls: needed for every target but this machine.
            timeout_s: how long a method may take, repeats included, in seconds; see ``within``.
            trust: what was pinned (``pin``). Without it receipts are not verified and histories cannot be read.
            memory: what was verified before; None: a new memory that lasts as long as the client.
            attempts: how often a call is tried in all while the daemon is not reached.
            backoff_s: pause before the first repeat, in seconds; each further pause is twice as long.
            channel: the gRPC channel to use; then *target* and *tls* are ignored.

        Raises:
            InvalidError: the token would be sent unencrypted to another machine, or it is not a token.
            StorageError: a TLS file cannot be read.
        """
        self.context = ClientContext(
            trust=trust,
            memory=memory or RamMemory(),
            new_request_id=new_request_id,
            now_ms=lambda: time.time_ns() // 1_000_000,
            attempts=attempts,
            backoff_s=backoff_s,
        )
        self._metadata = transport.call_metadata(token)
        self._timeout_s = timeout_s
        if channel is None and tls is None:
            transport.check_plaintext(target)
        self._channel = self._open_channel(target, tls) if channel is None else channel
        self._callables: dict[str, Any] = {}

    @abstractmethod
    def _open_channel(self, target: str, tls: Tls | None) -> Any:
        """Open a gRPC channel."""

    def within(self, timeout_s: float) -> Self:
        """Return this client with another deadline, on the same channel: ``client.within(0.05).check(question)``."""
        other = copy(self)
        other._timeout_s = timeout_s  # noqa: SLF001  # its own class
        return other

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _callable(self, step: UnaryCall | StreamCall) -> Any:
        """Return gRPC's callable for the procedure of a step; each is made once."""
        rpc = step.rpc
        found = self._callables.get(rpc.path)
        if found is None:
            make = self._channel.unary_unary if isinstance(step, UnaryCall) else self._channel.unary_stream
            found = self._callables[rpc.path] = make(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
        return found


def remaining_s(deadline: float) -> float:
    """Return how many seconds remain until *deadline*, a time of ``time.monotonic``.

    Raises:
        StorageError: none remain.
    """
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise transport.deadline_error()
    return remaining


def new_request_id() -> bytes:
    """Draw a request_id: 16 random bytes.

    Store it beside a write that must survive a crash, and repeat the write with it.
    """
    return os.urandom(16)
