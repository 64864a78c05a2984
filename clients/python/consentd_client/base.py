"""The base class of ``Client`` and ``AsyncClient``, with their constructor and the list of their methods.

Each method of a client runs an operation, a generator function of this package (see ``operations``). The client passes
the operation's first argument, ``context``. A type checker sees that ``client.check(question)`` returns a
``CheckAnswer`` if the client is a ``Client``, and an awaitable of a ``CheckAnswer`` if it is an ``AsyncClient``.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from copy import copy
from functools import wraps
from inspect import getdoc
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from consentd.core.note import Verifier, format_vkey, parse_vkey
from consentd.errors import InvalidError
from consentd_client import (
    access,
    admin,
    authorities,
    campaigns,
    consents,
    erasures,
    ledger,
    policy,
    registry,
    transport,
)
from consentd_client.memory import Memory, RamMemory
from consentd_client.operations import ClientContext, Operation, ReadPage, StreamCall, UnaryCall, procedure_path
from consentd_client.signing import CallSigner
from consentd_client.transport import DEFAULT_TIMEOUT_S, Tls
from consentd_client.trust import Trust

if TYPE_CHECKING:
    from consentd_client.async_client import AsyncClient
    from consentd_client.client import Client

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
AsyncR = TypeVar("AsyncR")


class Method(Generic[P, R, AsyncR]):
    """A method of ``Client`` and ``AsyncClient``. It returns an *R* in ``Client``, an *AsyncR* in ``AsyncClient``."""

    def __init__(self, operation: Callable[..., Any], run: Callable[[Any, Any], Any]) -> None:
        @wraps(operation)
        def method(client: Any, /, *args: Any, **kwargs: Any) -> Any:
            return run(client, operation(client.context, *args, **kwargs))

        text = getdoc(operation) or ""
        if "closed" not in text:  # an operation that "fails closed" answers with a refusal instead of an error
            text += ("" if "Raises:" in text else "\n\nRaises:") + "\n    ConsentdError: see ``ClientBase``."
        method.__doc__ = text
        self._method = method

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncR]: ...
    def __get__(self, client: Any, owner: type) -> Callable[..., Any]:
        """Return the method bound to *client*; if *client* is None, the unbound function."""
        return self._method if client is None else MethodType(self._method, client)


def _method(operation: Callable[Concatenate[ClientContext, P], Operation[T]]) -> Method[P, T, Awaitable[T]]:
    """Declare a method that runs an operation and returns the operation's answer."""
    return Method(operation, lambda client, made: client.run(made))


def _list_method(
    pages: Callable[Concatenate[ClientContext, P], ReadPage[T]],
) -> Method[P, Iterator[T], AsyncIterator[T]]:
    """Declare a method that reads all pages of a list and iterates over their items."""
    return Method(pages, lambda client, made: client.iterate(made))


class ClientBase(ABC):
    """The methods of ``Client`` and ``AsyncClient``.

    A method raises these classes of ``ConsentdError``, unless the method's own text says otherwise:

    * ``VerificationError``: the answer is malformed, contradicts itself, or contradicts a pinned value.
    * ``StorageError``: the daemon was not reached, failed, or did not answer in time. Whether a write was recorded is
      unknown; repeat the write with the same request_id.
    * any other class: the daemon refused the request and recorded nothing; the class and the reason say why. A method
      that verifies also raises ``InvalidError`` if no key is pinned.
    """

    check = _method(policy.check)
    check_or_raise = _method(policy.check_or_raise)
    batch_check = _method(policy.batch_check)
    check_subjects = _method(policy.check_subjects)
    apply_residual = _method(policy.apply_residual)
    authorize_access = _method(access.authorize_access)
    batch_authorize = _method(access.batch_authorize)
    record_access = _method(access.record_access)
    batch_record = _method(access.batch_record)
    get_access = _method(access.get_access)
    list_accesses = _list_method(access.list_accesses)
    list_due_transfers = _list_method(access.list_due_transfers)

    enrol = _method(registry.enrol)
    enrol_or_get = _method(registry.enrol_or_get)
    read_tag = _method(registry.read_tag)
    grant = _method(consents.grant)
    amend = _method(consents.amend)
    renew = _method(consents.renew)
    record_served = _method(consents.record_served)
    pause = _method(consents.pause)
    resume = _method(consents.resume)
    revoke = _method(consents.revoke)
    get_consent = _method(consents.get_consent)
    list_consents = _list_method(consents.list_consents)
    list_expiring = _list_method(consents.list_expiring)
    put_authority = _method(authorities.put_authority)
    end_authority = _method(authorities.end_authority)
    get_authority = _method(authorities.get_authority)
    list_authorities = _list_method(authorities.list_authorities)

    get_checkpoint = _method(ledger.get_checkpoint)
    get_receipt = _method(ledger.get_receipt)
    history = _method(ledger.history)
    public_history = _method(ledger.public_history)
    history_part = _method(ledger.history_part)

    get_participant = _method(registry.get_participant)
    list_participants = _list_method(registry.list_participants)
    list_delegations = _list_method(registry.list_delegations)
    get_vocabulary = _method(registry.get_vocabulary)
    get_notice = _method(registry.get_notice)
    get_campaign = _method(campaigns.get_campaign)
    list_reconsents = _list_method(campaigns.list_reconsents)
    get_rules = _method(registry.get_rules)

    # An operator may call these methods, and the participant that signs its own statement.
    add_key = _method(registry.add_key)
    retire_key = _method(registry.retire_key)
    put_delegation = _method(registry.put_delegation)
    end_delegation = _method(registry.end_delegation)
    put_mandate = _method(registry.put_mandate)
    put_hold = _method(erasures.put_hold)
    end_hold = _method(erasures.end_hold)
    get_holds = _method(erasures.get_holds)
    list_duties = _list_method(erasures.list_duties)
    end_mandate = _method(registry.end_mandate)

    # Only a participant with the right ERASE may call these methods.
    erase = _method(erasures.erase)
    batch_erase = _method(erasures.batch_erase)

    # Only the operator may call these methods.
    register_participant = _method(registry.register_participant)
    publish_vocabulary = _method(registry.publish_vocabulary)
    publish_notice = _method(registry.publish_notice)
    publish_rules = _method(registry.publish_rules)
    prune = _method(admin.prune)
    start_pruning = _method(admin.start_pruning)
    prepare_key_rotation = _method(admin.prepare_key_rotation)
    start_key_rotation = _method(admin.start_key_rotation)
    start_vault_key_rotation = _method(admin.start_vault_key_rotation)
    rotate_vault_key = _method(admin.rotate_vault_key)
    start_backup = _method(admin.start_backup)
    back_up = _method(admin.back_up)
    get_operation = _method(admin.get_operation)
    list_operations = _list_method(admin.list_operations)
    cancel_operation = _method(admin.cancel_operation)
    follow_operation = _method(admin.follow_operation)
    add_credential = _method(admin.add_credential)
    list_credentials = _list_method(admin.list_credentials)
    revoke_credential = _method(admin.revoke_credential)

    def __init__(
        self,
        target: str,
        *,
        token: str = "",
        call_signer: CallSigner | None = None,
        tls: Tls | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        trust: Trust | None = None,
        memory: Memory | None = None,
        attempts: int | None = None,
        backoff_s: float = 0.1,
        channel: Any = None,
    ) -> None:
        """Make a client. An ``AsyncClient`` must be made while its event loop runs. Nothing is sent yet.

        Args:
            target: ``host:port`` of the daemon.
            token: the caller's bearer token, or the ID token of a person who has logged in.
            call_signer: signs the calls of a person who has a key, instead of a token.
            tls: TLS settings; None is allowed only if *target* is this machine.
            timeout_s: how long a method may take in seconds, with all repeated calls; ``within`` sets another time.
            trust: the pinned keys (``pin``). Without them receipts are not verified and histories cannot be read.
            memory: holds what was verified before; None: a new memory that lasts as long as the client.
            attempts, backoff_s: see ``ClientContext``.
            channel: a gRPC channel to use instead of *target* and *tls*, which are then ignored.

        Raises:
            InvalidError: there are both a token and a *call_signer*, the target has no port, the token would be sent
                unencrypted to another machine or has characters that no token has, or the TLS files do not fit.
            StorageError: a TLS file or the memory cannot be read.
        """
        self.context = ClientContext(
            trust=trust, memory=memory or RamMemory(), new_request_id=new_request_id,
            now_ms=lambda: time.time_ns() // 1_000_000, attempts=attempts, backoff_s=backoff_s,
        )  # fmt: skip
        if trust is not None and isinstance(trust.log_key, Verifier):
            reached = self.context.memory.log_key(format_vkey(trust.log_key))
            self.context.learned.log_key = parse_vkey(reached) if reached else None
        if token and call_signer is not None:
            raise InvalidError("caller has a token or signs its calls, not both")
        self._metadata = transport.call_metadata(token)
        self._call_signer = call_signer
        self._timeout_s = timeout_s
        if channel is None:
            transport.check_target(target)
            if tls is None:
                transport.check_plaintext(target)
        self._channel = self._open_channel(target, tls) if channel is None else channel
        self._callables: dict[type, Any] = {}

    @abstractmethod
    def _open_channel(self, target: str, tls: Tls | None) -> Any:
        """Open a gRPC channel to *target*."""

    def within(self, timeout_s: float) -> Self:
        """Return a client with another timeout on the same channel: ``client.within(0.05).check(question)``."""
        other = copy(self)
        other._timeout_s = timeout_s  # noqa: SLF001  # ``other`` is of this class
        return other

    def _prepare(self, step: UnaryCall | StreamCall) -> tuple[Any, tuple[tuple[str, str | bytes], ...]]:
        """Return what a call sends: the request, or the bytes of it that are signed; and the metadata."""
        if self._call_signer is None:
            return step.request, self._metadata
        path, message = procedure_path(type(step.request), step.response_type), step.request.SerializeToString()
        return message, (self._call_signer.sign(path, message, now_ms=self.context.now_ms()),)

    def _callable(self, step: UnaryCall | StreamCall) -> Any:
        """Return the gRPC callable for a step's procedure. Each procedure's callable is made once and reused."""
        request_type, response_type = type(step.request), step.response_type
        found = self._callables.get(request_type)
        if found is None:
            make = self._channel.unary_unary if isinstance(step, UnaryCall) else self._channel.unary_stream
            found = self._callables[request_type] = make(
                procedure_path(request_type, response_type),
                request_serializer=_encode,
                response_deserializer=response_type.FromString,
            )
        return found


def _encode(request: Any) -> bytes:
    """Serialise a request, unless it was serialised to be signed: a second time its bytes could differ."""
    return request if isinstance(request, bytes) else bytes(request.SerializeToString())


def remaining_s(deadline: float) -> float:
    """Return how many seconds remain until *deadline*, a time of ``time.monotonic``; StorageError if none remain."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise transport.deadline_error()
    return remaining


def new_request_id() -> bytes:
    """Draw 16 random bytes that identify a write. Stored before the write, they allow a safe repeat after a crash."""
    return os.urandom(16)
