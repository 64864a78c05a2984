"""The one call that streams, GetHistory, through a proxy that repeats, reorders, drops, cuts and replays its messages.

gRPC puts a stream's messages in order and TLS protects them, but a proxy that ends TLS can send any. Whatever it sends,
the client shows the right history or none.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, question, running_daemon
from cases.fakes import HANG_S
from cases.services import new_identifier
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import StorageError, VerificationError
from consentd.service import proofs
from consentd.v1 import consent_pb2 as pb
from consentd_client import Client, FileMemory, History, pin

Messages = list[bytes]
Change = Callable[[Messages], Messages]
METHOD = "/consentd.v1.LedgerService/GetHistory"


class Proxy(grpc.GenericRpcHandler):
    """Passes GetHistory on, and changes the messages of the answer.

    Attributes:
        change: what it sends in place of the messages. *seen*: the messages of each answer.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._ask = channel.unary_stream(METHOD)
        self.change: Change = lambda messages: messages
        self.seen: list[Messages] = []

    def service(self, handler_call_details: Any) -> Any:
        assert handler_call_details.method == METHOD
        return grpc.unary_stream_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: Any) -> Iterator[bytes]:
        given = [one for one in context.invocation_metadata() if one[0] == "authorization"]
        self.seen.append(list(self._ask(request, metadata=given, timeout=HANG_S)))
        yield from self.change(self.seen[-1])


class World:
    """A daemon, a proxy before it, and a person with a long history."""

    def __init__(self, running: Running) -> None:
        self.running, self.proxy = running, Proxy(running.channel)
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self.proxy])
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.person, self.other = (self._enrol() for _ in range(2))
        running.wait_published()

    def _enrol(self) -> pb.Subject:
        subject = self.running.enrol(new_identifier())
        for _ in range(6):
            self.running.grant(subject)
        self.running.authorize(question(subject))
        return subject

    def client(self, **more: Any) -> Client:
        trust = pin(read_signing_key(self.running.config.keys.log_key_file).verifier)
        return Client("", token=self.running.tokens["app"], trust=trust, channel=self._channel, **more)

    def read(self, change: Change, **more: Any) -> History | None:
        """Return the history that a new client shows; None: it shows none."""
        self.proxy.change = change
        try:
            return self.client().history(self.person, **more)
        except (VerificationError, StorageError):
            return None
        finally:
            self.proxy.change = lambda messages: messages

    def stop(self) -> None:
        self._channel.close()
        self._server.stop(None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), "") as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(proofs, "CHUNK_BYTES", 100)  # so that the answer has many messages
        made = World(running)
        yield made
        made.stop()


@pytest.fixture(scope="module")
def right(world: World) -> History:
    found = world.read(lambda messages: messages)
    assert found is not None
    assert len(world.proxy.seen[-1]) > 10
    return found


def shown(history: History) -> list[Any]:
    return [history.tag, history.is_complete, [(one.event, one.author, one.statement) for one in history.entries]]


def changes(count: int) -> Iterator[tuple[str, Change]]:
    """Yield changes of an answer of *count* messages, by what they do."""
    for at in range(count):
        yield f"repeat {at}", lambda sent, at=at: [*sent[: at + 1], *sent[at:]]
        yield f"drop {at}", lambda sent, at=at: [*sent[:at], *sent[at + 1 :]]
        yield f"cut before {at}", lambda sent, at=at: sent[:at]
        yield f"cut in the middle of {at}", lambda sent, at=at: [*sent[:at], sent[at][: len(sent[at]) // 2]]
        yield f"first {at} at the end", lambda sent, at=at: [*sent[at:], *sent[:at]]
        yield f"empty before {at}", lambda sent, at=at: [*sent[:at], b"", *sent[at:]]
    for first, second in pairwise(range(count)):
        yield f"swap {first} and {second}", lambda sent, first=first: [
            *sent[:first], sent[first + 1], sent[first], *sent[first + 2 :]
        ]
    yield "reverse", lambda sent: sent[::-1]
    yield "twice", lambda sent: sent * 2
    yield "all in one", lambda sent: [b"".join(sent)]
    yield "nothing", lambda sent: []


def test_whatever_a_proxy_sends_the_client_shows_the_right_history_or_none(world: World, right: History) -> None:
    refused, count = [], len(world.proxy.seen[-1])
    for name, change in changes(count):
        found = world.read(change)
        assert found is None or shown(found) == shown(right), name
        if found is None:
            refused.append(name)
    for kind in ("repeat", "drop", "cut before", "swap", "reverse", "twice"):
        assert any(name.startswith(kind) for name in refused)
    assert {"nothing", "reverse", "twice", "cut before 0"} <= set(refused)
    # Every entry counts: one that is dropped or sent twice is noticed.
    assert all(f"drop {at}" in refused for at in range(count - 1))


def test_the_answer_about_somebody_else_is_refused_if_the_person_s_tag_is_known(world: World, right: History) -> None:
    world.client().history(world.other)
    about_other = world.proxy.seen[-1]
    assert world.read(lambda _: about_other, tag=right.tag) is None


def test_an_older_answer_is_refused_by_a_client_that_remembers_a_newer_one(
    world: World, right: History, tmp_path: Path
) -> None:
    client = world.client(memory=FileMemory(tmp_path / "memory"))
    client.history(world.person, tag=right.tag)
    older = world.proxy.seen[-1]
    world.running.grant(world.person)
    world.running.wait_published()
    newer = client.history(world.person)
    assert len(newer.new) == 1
    world.proxy.change = lambda _: older
    try:
        with pytest.raises(VerificationError):
            client.history(world.person)
    finally:
        world.proxy.change = lambda messages: messages
    assert len(client.history(world.person).entries) == len(newer.entries)
