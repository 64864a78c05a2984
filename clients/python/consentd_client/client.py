"""The client for programs with threads. ``ClientBase`` declares the methods that call the daemon."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from consentd.errors import ConsentdError, MalformedError
from consentd_client import transport
from consentd_client.base import ClientBase, remaining_s
from consentd_client.operations import Operation, ReadPage, RunBlocking, Sleep, Step, UnaryCall
from consentd_client.transport import CHANNEL_OPTIONS, Tls

T = TypeVar("T")


class Client(ClientBase):
    """A client of one daemon.

    Any thread may call the methods. But two threads with the same memory must not read histories or checkpoints at the
    same time.
    """

    def _open_channel(self, target: str, tls: Tls | None) -> grpc.Channel:
        if tls is None:
            return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        return grpc.secure_channel(target, tls.credentials(), options=CHANNEL_OPTIONS)

    def close(self) -> None:
        """Close the channel. Later questions (``check``) are answered INDETERMINATE; other later calls fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def iterate(self, read_page: ReadPage[T]) -> Iterator[T]:
        """Yield the items of a list. The reading of each page may take the client's whole timeout."""
        token = ""
        while True:
            items, token = self.run(read_page(token))
            yield from items
            if not token:
                return

    def run(self, operation: Operation[T]) -> T:
        """Execute the steps of an operation within the client's timeout; return the operation's answer."""
        deadline = time.monotonic() + self._timeout_s
        try:
            step = next(operation)
            while True:
                try:
                    result = self._execute(step, deadline)
                except ConsentdError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the operation returned

    def _execute(self, step: Step, deadline: float) -> Any:
        if isinstance(step, RunBlocking):
            return step.function()
        remaining = remaining_s(deadline)
        if isinstance(step, Sleep):
            if step.seconds >= remaining:
                return False
            time.sleep(step.seconds)
            return True
        with transport.translated_errors(closed=ValueError):
            request, metadata = self._prepare(step)
            call = self._callable(step)(request, timeout=remaining, metadata=metadata)
            if isinstance(step, UnaryCall):
                return call
            try:
                for message in call:
                    step.receive(message)
            except MalformedError:
                call.cancel()
                raise
            return step.messages
