"""Run the handler of a call in steps, each on a thread of the call's pool; between two steps no thread is held.

An ``async`` handler is run until it waits for a future, and continues in a new step when the future is done. A handler
that streams makes one message a step, and continues when the peer has room for the next one. A call that was cancelled
begins no further step, except to end its handler.
"""

import logging
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from inspect import iscoroutine
from typing import Any, Self

import grpc

from consentd.server.call import OK, Call
from consentd.server.pools import Pool
from consentd.service.context import EndedCallError, Status
from consentd.service.rpc import forgiving

log = logging.getLogger(__name__)

Encode = Callable[[Any], bytes]


def run_unary(call: Call, handle: Callable[[], Any], encode: Encode) -> None:
    """Run *handle*, a handler with its arguments, and send its answer. This is a step, and releases the call."""
    with Held(call) as held:
        if _is_late(call):
            return
        answer = handle()
        if iscoroutine(answer):
            _advance(call, held, answer, encode)
        else:
            call.finish(OK, encode(answer))


def _go_on(call: Call, handler: Coroutine[Future[Any], None, Any], encode: Encode) -> None:
    """Run an ``async`` handler until it waits again, or ends. This is a step, and releases the call at the end."""
    with Held(call) as held:
        _advance(call, held, handler, encode)


def _advance(call: Call, held: "Held", handler: Coroutine[Future[Any], None, Any], encode: Encode) -> None:
    """Run an ``async`` handler until it waits; the next step runs in the pool that the call is in then."""
    try:
        future = handler.send(None)
    except StopIteration as ended:
        call.finish(OK, encode(ended.value))
        return
    held.keep()
    future.add_done_callback(lambda _: call.put(partial(_go_on, call, handler, encode)))


def run_stream(pool: Pool, call: Call, handle: Callable[[], Iterator[Any]], encode: Encode) -> None:
    """Run a handler that streams its answers. This is a step, and releases the call."""
    with Held(call) as held:
        if not _is_late(call):
            messages = handle()
            held.keep()
            _send_next(pool, call, messages, encode)


def _send_next(pool: Pool, call: Call, messages: Iterator[Any], encode: Encode) -> None:
    """Send the next message, or end the call. This is a step, and releases the call at the end."""
    pool.goes_on(call)
    with Held(call) as held:
        if _is_late(call):
            messages.close()  # type: ignore[attr-defined]  # handlers of streams are generators
            return
        try:
            message = next(messages)
        except StopIteration:
            call.finish(OK)
            return
        held.keep()
        pool.sends(call)
        call.send(encode(message), lambda: pool.put(partial(_send_next, pool, call, messages, encode), call.caller))


def _is_late(call: Call) -> bool:
    """Return whether nobody waits for the answer any more; end the call then."""
    if call.is_active():
        return False
    call.finish(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline was over before the call was handled"))
    return True


class Held:
    """Releases a call at the end of a step, and ends the call if the step fails.

    A call is held from when its message has arrived. So a call that was cancelled counts as open, with its message, as
    long as it waits for a thread.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._keeps = False

    def keep(self) -> None:
        """Leave the hold to the next step."""
        self._keeps = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self._keeps = False
            self._call.finish(_status(error))
        if not self._keeps:
            self._call.release()
        return isinstance(error, Exception)


def _status(error: BaseException) -> Status:
    if isinstance(error, EndedCallError):
        return error.status
    if isinstance(error, CancelledError):
        return Status(grpc.StatusCode.CANCELLED, "call was cancelled")
    log.error("bug outside of a handler: %s", type(error).__name__)
    return Status(grpc.StatusCode.INTERNAL, "internal error")


def make_handle(handler: Any) -> Callable[[Pool, Call, bytes], None]:
    """Return the function that decodes a message and runs *handler*, an RPC's handler as generated code makes it."""
    method = handler.unary_stream if handler.response_streaming else handler.unary_unary
    decode, encode = forgiving(handler.request_deserializer), handler.response_serializer

    def handle(pool: Pool, call: Call, message: bytes) -> None:
        if handler.response_streaming:
            run_stream(pool, call, lambda: method(decode(message), call), encode)
        else:
            run_unary(call, lambda: method(decode(message), call), encode)

    return handle
