"""Clients whose daemon is a list of answers."""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from cases.daemons import question
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, Subject


class FakeRpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, reason: str = "", domain: str = "consentd") -> None:
        self._code, self._reason, self._domain = code, reason, domain

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "said so"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        if not self._reason:
            return ()
        found = status_pb2.Status(code=self._code.value[0])
        found.details.add().Pack(error_details_pb2.ErrorInfo(reason=self._reason, domain=self._domain))
        return (("grpc-status-details-bin", found.SerializeToString()),)


Answer = Any
SENT = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, categories=["CLIN.DX"], resource_count=3)
UNAVAILABLE = FakeRpcError(grpc.StatusCode.UNAVAILABLE)


class Stream(list[Any]):
    """The answer of a streaming call."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeChannel:
    """Answers each call with the next of its answers; an exception is raised, a function asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.methods: list[str] = []

    def unary_unary(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        def call(request: Any, timeout: float, metadata: Any) -> Any:
            self.methods.append(method)
            self.requests.append(request_serializer(request))
            answer = self.answers.pop(0)
            if callable(answer):
                answer = answer(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    unary_stream = unary_unary

    def close(self) -> None:
        pass


class Recording:
    """A real channel, whose requests are kept by method."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.requests: dict[str, list[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        def make(method: str, **options: Any) -> Any:
            call = getattr(self._channel, name)(method, **options)

            def record(request: Any, **more: Any) -> Any:
                kept = type(request)()
                kept.CopyFrom(request)
                self.requests.setdefault(method, []).append(kept)
                return call(request, **more)

            return record

        return make

    def close(self) -> None:
        self._channel.close()


def faking(*answers: Answer, **options: Any) -> tuple[Client, FakeChannel]:
    channel = FakeChannel(*answers)
    fake: Any = channel  # a part of a channel
    return Client("fake", channel=fake, backoff_s=0, **{"attempts": 3, **options}), channel


ASKED = question(Subject(scheme="mhid", value="MH-1"))
"""A question about somebody."""
