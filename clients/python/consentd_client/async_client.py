"""The client for asyncio. ``ClientBase`` declares the methods that call the daemon."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from consentd.errors import ConsentdError, MalformedError
from consentd_client import transport
from consentd_client.base import ClientBase, remaining_s
from consentd_client.operations import Operation, ReadPage, RunBlocking, Sleep, Step, UnaryCall
from consentd_client.transport import CHANNEL_OPTIONS, Tls

T = TypeVar("T")


class AsyncClient(ClientBase):
    """A client of one daemon, for one event loop. Verification and file access run in a worker thread."""

    def _open_channel(self, target: str, tls: Tls | None) -> grpc.aio.Channel:
        if tls is None:
            return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(target, tls.credentials(), options=CHANNEL_OPTIONS)

    async def close(self) -> None:
        """Close the channel. Later questions (``check``) are answered INDETERMINATE; other later calls fail."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def iterate(self, read_page: ReadPage[T]) -> AsyncIterator[T]:
        """Yield the items of a list. The reading of each page may take the client's whole timeout."""
        token = ""
        while True:
            items, token = await self.run(read_page(token))
            for item in items:
                yield item
            if not token:
                return

    async def run(self, operation: Operation[T]) -> T:
        """Execute the steps of an operation within the client's timeout; return the operation's answer."""
        deadline = time.monotonic() + self._timeout_s
        try:
            step = next(operation)
            while True:
                try:
                    result = await self._execute(step, deadline)
                except ConsentdError as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the operation returned

    async def _execute(self, step: Step, deadline: float) -> Any:
        if isinstance(step, RunBlocking):
            return await asyncio.to_thread(step.function)
        remaining = remaining_s(deadline)
        if isinstance(step, Sleep):
            if step.seconds >= remaining:
                return False
            await asyncio.sleep(step.seconds)
            return True
        with transport.translated_errors(closed=grpc.aio.UsageError):
            request, metadata = self._prepare(step)
            call = self._callable(step)(request, timeout=remaining, metadata=metadata)
            if isinstance(step, UnaryCall):
                return await call
            try:
                async for message in call:
                    step.receive(message)
            except MalformedError:
                call.cancel()
                raise
            return step.messages
