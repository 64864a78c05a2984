"""The client for asyncio. Every method is a flow of this package, carried out; see those for its text."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from copy import copy
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc
import grpc.aio

from consentd.errors import ConsentdError, MalformedError
from consentd_client import connect, consents, ledger, policy, registry
from consentd_client.client import described, new_request_id
from consentd_client.connect import DEFAULT_TIMEOUT_S, Tls
from consentd_client.memory import Memory, RamMemory
from consentd_client.steps import Flow, Page, Pause, Session, Step, Stream, Trust, Unary, Work

P = ParamSpec("P")
T = TypeVar("T")


def _does(flow: Callable[Concatenate[Session, P], Flow[T]]) -> Callable[Concatenate["AsyncClient", P], Awaitable[T]]:
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return self.run(flow(self.session, *args, **kwargs))

    described(method, flow)
    return method


def _lists(
    flow: Callable[Concatenate[Session, str, P], Flow[Page[T]]],
) -> Callable[Concatenate["AsyncClient", P], AsyncIterator[T]]:
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        token = ""
        while True:
            page = await self.run(flow(self.session, token, *args, **kwargs))
            for item in page.items:
                yield item
            token = page.next_page_token
            if not token:
                return

    described(method, flow, "page_token")
    return method


class AsyncClient:
    """Talks to one daemon, from one event loop. Verification and files run in a thread beside it."""

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
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Make a client, inside a running loop; nothing is sent yet. Arguments and errors as ``Client``'s."""
        self.session = Session(
            trust=trust,
            memory=memory or RamMemory(),
            draw=new_request_id,
            now_ms=lambda: time.time_ns() // 1_000_000,
            attempts=attempts,
            backoff_s=backoff_s,
        )
        self._metadata = connect.metadata(token)
        self._timeout_s = timeout_s
        if channel is None:
            if tls is None:
                connect.check_plaintext(target)
                channel = grpc.aio.insecure_channel(target, options=connect.OPTIONS)
            else:
                channel = grpc.aio.secure_channel(target, tls.credentials(), options=connect.OPTIONS)
        self._channel = channel
        self._calls: dict[str, Any] = {}

    # -- for everyone -----------------------------------------------------------------------------------------

    check = _does(policy.check)
    check_or_raise = _does(policy.check_or_raise)
    batch_check = _does(policy.batch_check)
    check_subjects = _does(policy.check_subjects)
    authorize_access = _does(policy.authorize_access)
    batch_authorize = _does(policy.batch_authorize)
    record_access = _does(policy.record_access)
    batch_record = _does(policy.batch_record)
    list_accesses = _lists(policy.list_accesses)

    enrol = _does(registry.enrol)
    grant = _does(consents.grant)
    amend = _does(consents.amend)
    pause = _does(consents.pause)
    resume = _does(consents.resume)
    revoke = _does(consents.revoke)
    get_consent = _does(consents.get_consent)
    list_consents = _lists(consents.list_consents)

    get_checkpoint = _does(ledger.get_checkpoint)
    get_receipt = _does(ledger.get_receipt)
    history = _does(ledger.history)
    public_history = _does(ledger.public_history)
    prune = _does(ledger.prune)

    register_participant = _does(registry.register_participant)
    add_key = _does(registry.add_key)
    retire_key = _does(registry.retire_key)
    publish_vocabulary = _does(registry.publish_vocabulary)
    publish_notice = _does(registry.publish_notice)
    publish_rules = _does(registry.publish_rules)
    get_participant = _does(registry.get_participant)
    list_participants = _lists(registry.list_participants)
    get_vocabulary = _does(registry.get_vocabulary)
    get_notice = _does(registry.get_notice)
    get_rules = _does(registry.get_rules)

    # -- the driver -------------------------------------------------------------------------------------------

    def within(self, timeout_s: float) -> Self:
        """Return this client with another deadline, on the same channel."""
        other = copy(self)
        other._timeout_s = timeout_s  # noqa: SLF001  # its own class
        return other

    async def close(self) -> None:
        """Close the channel; calls after it fail, and checks come out INDETERMINATE."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(self, flow: Flow[T]) -> T:
        """Carry out a flow within the deadline; return its answer, or raise its error."""
        deadline = time.monotonic() + self._timeout_s
        try:
            step = next(flow)
            while True:
                try:
                    answer = await self._carry_out(step, deadline)
                except ConsentdError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the flow returned

    async def _carry_out(self, step: Step, deadline: float) -> Any:
        if isinstance(step, Work):
            return await asyncio.to_thread(step.run)
        left = deadline - time.monotonic()
        if left <= 0:
            raise connect.deadline_error()
        if isinstance(step, Pause):
            await asyncio.sleep(min(step.seconds, left))
            return None
        try:
            call = self._call(step)(step.request, timeout=left, metadata=self._metadata)
            if isinstance(step, Unary):
                return await call
            try:
                async for message in call:
                    step.take(message)
            except MalformedError:
                call.cancel()
                raise
            return step.pieces
        except grpc.RpcError as error:
            raise connect.rpc_error(error) from error
        except grpc.aio.UsageError as error:
            # What gRPC raises on a channel that was closed.
            raise connect.closed_error() from error

    def _call(self, step: Unary | Stream) -> Any:
        call = self._calls.get(step.method)
        if call is None:
            make = self._channel.unary_unary if isinstance(step, Unary) else self._channel.unary_stream
            call = make(
                step.method,
                request_serializer=type(step.request).SerializeToString,
                response_deserializer=step.response.FromString,
            )
            self._calls[step.method] = call
        return call
