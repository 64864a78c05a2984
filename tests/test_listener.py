"""The HTTP listener: peers that connect and do nothing, or little, keep nobody else out and hold nothing for long."""

import errno
import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from cases.certificates import make_authority, make_certificate
from cases.fakes import HANG_S
from consentd.errors import StorageError
from consentd.listener import server as module
from consentd.listener.app import REST, App, Page
from consentd.listener.messages import HttpRequest, HttpResponse, Respond, text_response
from consentd.listener.server import Listener

SHORT_S = 0.2


def answer(request: HttpRequest) -> HttpResponse:
    return text_response(200, request.path)


@contextmanager
def listening(respond: Respond = answer, **options: Any) -> Iterator[Listener]:
    pages = [Page(path=f"/{REST}", respond=respond, method=method) for method in ("GET", "POST")]
    listener = Listener(("127.0.0.1", 0), App(pages), **{"idle_s": HANG_S, **options})
    try:
        yield listener
    finally:
        listener.stop()


def connect(listener: Listener, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=HANG_S, source_address=(source, 0))


def get(listener: Listener, path: str = "/x", source: str = "127.0.0.1") -> bytes:
    client = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=HANG_S, source_address=(source, 0))
    with closing(client):
        client.request("GET", path)
        return client.getresponse().read()


def is_closed(peer: socket.socket) -> bool:
    """Wait until the listener closes a connection that was sent nothing."""
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True


def wait_empty(listener: Listener) -> None:
    """Wait until the listener has no connection."""
    waited, step_s = 0.0, 0.05
    while listener.connections and waited < HANG_S:
        threading.Event().wait(step_s)
        waited += step_s
    assert listener.connections == 0


def test_idle_connections_make_room_for_new_ones_and_are_bounded() -> None:
    with listening(max_connections=8) as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(100)]
        assert get(listener) == b"/x\n"
        assert listener.connections <= 8
        assert all(is_closed(peer) for peer in peers[:70])


def test_one_address_takes_half_of_the_connections() -> None:
    with listening(max_connections=16) as listener, ExitStack() as stack:
        honest = [stack.enter_context(connect(listener, "127.0.0.2")) for _ in range(3)]
        for peer in honest:  # each is accepted before the crowd comes
            peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(15) == b"HTTP/1.1 200 OK"
        crowd = [stack.enter_context(connect(listener)) for _ in range(200)]
        assert all(is_closed(peer) for peer in crowd[:100])
        for peer in honest:
            peer.sendall(b"GET /y HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"/y" not in received:
                received += peer.recv(4096)
        assert get(listener, source="127.0.0.3") == b"/x\n"


def test_a_peer_that_sends_a_byte_now_and_then_does_not_keep_its_thread() -> None:
    with listening(idle_s=SHORT_S) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nX: ")
        with suppress(ConnectionError):
            while True:
                peer.sendall(b"x")
                threading.Event().wait(SHORT_S / 4)  # sooner than the socket's own timeout
        wait_empty(listener)


def test_a_peer_that_does_not_take_its_answer_does_not_keep_its_thread() -> None:
    large = HttpResponse(200, "text/plain", bytes(64 << 20))
    with listening(lambda request: large, send_s=SHORT_S) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(15) == b"HTTP/1.1 200 OK"
        wait_empty(listener)


def test_a_request_that_takes_long_to_answer_is_not_cut_off() -> None:
    entered, leave = threading.Event(), threading.Event()

    def respond(request: HttpRequest) -> HttpResponse:
        entered.set()
        assert leave.wait(HANG_S)
        return answer(request)

    with listening(respond, idle_s=SHORT_S, max_connections=2) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(HANG_S)
        for _ in range(5):  # neither the time limit nor newcomers end it
            with connect(listener) as idle:
                assert is_closed(idle)
        leave.set()
        assert peer.recv(15) == b"HTTP/1.1 200 OK"


def test_a_listener_survives_a_lack_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    with listening() as listener:
        accept, lacks = listener._socket, [3]

        class Lacking:
            """A listening socket whose first connections cannot be accepted."""

            def accept(self) -> Any:
                if lacks[0]:
                    lacks[0] -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return accept.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(accept, name)

        listener._socket = Lacking()  # type: ignore[assignment]
        assert get(listener) == b"/x\n"
        assert lacks == [0]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["HTTP connections cannot be accepted: Too many open files"]


def test_a_peer_that_sends_a_body_byte_by_byte_does_not_stay() -> None:
    with listening(max_body=1_000, receive_s=SHORT_S) as listener, connect(listener) as peer:
        peer.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                peer.sendall(b"x")
                threading.Event().wait(SHORT_S / 4)
        wait_empty(listener)


def test_a_connection_may_be_idle_for_longer_than_a_request_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP_S", SHORT_S / 4)
    with listening(receive_s=SHORT_S) as listener, connect(listener) as peer:
        for _ in range(2):
            threading.Event().wait(3 * SHORT_S)
            peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"/x" not in received:
                received += peer.recv(4096)


def test_a_hundred_at_once_are_answered() -> None:
    with listening() as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(100)]
        for peer in peers:
            peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all(peer.recv(15) == b"HTTP/1.1 200 OK" for peer in peers)


def test_five_hundred_that_come_before_any_is_accepted_are_not_refused() -> None:
    """The system keeps them, and the listener takes them in turns; those of one address make room for each other."""
    with listening(max_connections=2_000) as listener, ExitStack() as stack:
        entered, leave = threading.Event(), threading.Event()
        listener._loop.call_soon_threadsafe(lambda: (entered.set(), leave.wait(HANG_S)))
        assert entered.wait(HANG_S)
        peers = [stack.enter_context(connect(listener)) for _ in range(500)]
        leave.set()
        for peer in peers:
            peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all(peer.recv(15) == b"HTTP/1.1 200 OK" for peer in peers)


def test_peers_that_break_off_are_no_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    large = HttpResponse(200, "text/plain", bytes(16 << 20))
    with listening(lambda request: large) as listener:
        for data in (b"", b"GET", b"nonsense\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"):
            with connect(listener) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a close is a reset
                peer.sendall(data)
        wait_empty(listener)
    assert [record for record in caplog.records if record.name != "asyncio"] == []
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


def test_a_bug_is_an_error_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    def respond(request: HttpRequest) -> HttpResponse:
        raise AssertionError("SYN-730142")

    with listening(respond) as listener:
        client = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=HANG_S)
        with closing(client):
            client.request("GET", "/x")
            response = client.getresponse()
            assert (response.status, response.read()) == (500, b"internal error\n")
            assert response.headers["Cache-Control"] == "no-store"
    assert [record.getMessage() for record in caplog.records] == ["HTTP answer failed: bug: AssertionError"]


def test_ipv6_can_be_listened_on() -> None:
    listener = Listener(("::1", 0), App([Page(path="/x", respond=answer)]), idle_s=HANG_S)
    with closing(http.client.HTTPConnection("::1", listener.port, timeout=HANG_S)) as client:
        client.request("GET", "/x")
        assert client.getresponse().read() == b"/x\n"
    listener.stop()


def test_a_start_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("a name is looked up")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostname"):
        monkeypatch.setattr(socket, name, ask)
    with listening() as listener:
        assert get(listener) == b"/x\n"


def test_an_address_that_is_taken_is_an_error() -> None:
    with listening() as listener, pytest.raises(StorageError):
        Listener(("127.0.0.1", listener.port), App([]), idle_s=HANG_S)


def test_a_stop_waits_for_answers_in_flight() -> None:
    entered, leave = threading.Event(), threading.Event()

    def respond(request: HttpRequest) -> HttpResponse:
        entered.set()
        assert leave.wait(HANG_S)
        return answer(request)

    with listening(respond) as listener, connect(listener) as peer, connect(listener) as idle:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(HANG_S)
        stopping = threading.Thread(target=listener.stop, args=(int(HANG_S),))
        stopping.start()
        assert is_closed(idle)
        leave.set()
        assert peer.recv(15) == b"HTTP/1.1 200 OK"
        stopping.join(HANG_S)
        assert not stopping.is_alive()
        assert listener.connections == 0


def test_a_stop_without_grace_waits_for_nobody() -> None:
    entered, leave = threading.Event(), threading.Event()

    def respond(request: HttpRequest) -> HttpResponse:
        entered.set()
        assert leave.wait(HANG_S)
        return answer(request)

    with listening(respond) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(HANG_S)
        listener.stop()
        assert is_closed(peer)
        leave.set()


# -- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    directory, authority = tmp_path_factory.mktemp("tls"), make_authority()
    make_certificate(authority, "consentd").write(directory)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return server, ssl.create_default_context(cadata=authority.pem)


def get_encrypted(listener: Listener, context: ssl.SSLContext) -> bytes:
    client = http.client.HTTPSConnection("127.0.0.1", listener.port, timeout=HANG_S, context=context)
    with closing(client):
        client.request("GET", "/x")
        return client.getresponse().read()


def test_peers_that_never_shake_hands_make_room_for_others(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    with listening(max_connections=8, tls=server) as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(100)]
        assert get_encrypted(listener, client) == b"/x\n"
        assert listener.connections <= 8
        assert all(is_closed(peer) for peer in peers[:70])


def test_a_handshake_has_a_time_limit(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(idle_s=SHORT_S, tls=tls[0]) as listener, connect(listener) as peer, connect(listener) as other:
        other.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.sendall(b"\x16\x03\x01")
        wait_empty(listener)
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []


def test_a_refusal_and_an_answer_are_encrypted(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    for data, status in ((b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 200), (b"GET /x HTTP/1.1\r\n\r\n", 400)):
        with (
            listening(tls=server) as listener,
            connect(listener) as plain,
            client.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
        ):
            peer.sendall(data)
            assert peer.recv(12) == f"HTTP/1.1 {status}".encode()


def test_another_certificate_counts_for_the_next_connection(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    with listening(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as listener:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get_encrypted(listener, client)
        listener.tls = server
        assert get_encrypted(listener, client) == b"/x\n"
