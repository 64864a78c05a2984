"""What peers that speak gRPC have in common: their messages come from the server's own reflection service."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from benchmarks.peers.people import Asked


class GrpcServed:
    """A server of gRPC. A peer's module says how its messages are made and read."""

    content_type = "application/grpc"
    is_http1 = False
    is_fixed = False

    def __init__(self, port: int, service: str, check: str, batch: str, *, token: str = "", types: Any = None) -> None:
        """*check* and *batch* are methods of *service*; *types* gives its messages, by default the server itself."""
        self.port, self.token = port, token
        self.path, self.batch_path = f"/{service}/{check}", f"/{service}/{batch}" if batch else ""
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.types: Any = types or Types(self.channel, token)
        self._call = self.call(self.path, self.types.answer(service, check))
        self.Answer = self.types.answer(service, check)
        self.BatchAnswer = self.types.answer(service, batch) if batch else None

    def call(self, path: str, answer: Any) -> Callable[[Any], Any]:
        """Return a function that calls a method with a serialised request."""
        method: Any = self.channel.unary_unary(path, response_deserializer=answer.FromString)
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else None
        return lambda request: method(request, metadata=metadata, timeout=60, wait_for_ready=True)

    def message(self, asked: Asked) -> bytes:
        """Return a question as the peer wants it."""
        raise NotImplementedError

    def batch(self, asked: Sequence[Asked]) -> bytes:
        """Return many questions as one."""
        raise NotImplementedError

    def permits(self, answer: bytes) -> bool:
        """Return what an answer says."""
        return self.says(self.Answer.FromString(answer))

    def says(self, answer: Any) -> bool:
        """Return what an answer says, as a message."""
        raise NotImplementedError

    def ask(self, asked: Asked) -> bool:
        """Ask with gRPC's own client."""
        return self.says(self._call(self.message(asked)))

    def close(self) -> None:
        """Close the channel of ``ask``."""
        self.channel.close()


class Types:
    """The message classes of a server, read over gRPC server reflection."""

    def __init__(self, channel: grpc.Channel, token: str = "") -> None:
        if token:
            channel = grpc.intercept_channel(channel, _Bearer(token))
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def message(self, name: str) -> Any:
        """Return the class of a message, by its full name."""
        return GetMessageClass(self._pool.FindMessageTypeByName(name))

    def request(self, service: str, method: str) -> Any:
        """Return the class of what a method takes."""
        return GetMessageClass(self._pool.FindServiceByName(service).FindMethodByName(method).input_type)

    def answer(self, service: str, method: str) -> Any:
        """Return the class of what a method returns."""
        return GetMessageClass(self._pool.FindServiceByName(service).FindMethodByName(method).output_type)


class _Bearer(grpc.StreamStreamClientInterceptor):
    """Adds a token to calls of reflection."""

    def __init__(self, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Call with the token."""
        return continuation(details._replace(metadata=self._metadata), requests)
