"""The key set of a provider over https: a running daemon fetches it, and no call waits for that."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.certificates import Certificate, make_authority, make_certificate
from cases.daemons import make_running, reason_of
from cases.fakes import HANG_S
from cases.logins import ISSUER, Provider, SigningKey, bearer, key_set
from cases.services import new_identifier, now_ms, services
from consentd import config
from consentd.errors import ConsentdError, InvalidError, StorageError
from consentd.metrics import Metrics
from consentd.service import key_source
from consentd.service.key_set import MAX_KEY_SET
from consentd.service.key_source import FetchedKeys, open_keys
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs


@dataclass
class Site:
    """What the address answers.

    Attributes:
        held: a request for ``/held`` waits until this is set.
    """

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    held: threading.Event | None = None
    asked: threading.Event = field(default_factory=threading.Event)
    paths: list[str] = field(default_factory=list)


@contextmanager
def serving(site: Site, certificate: Certificate, directory: Path) -> Iterator[int]:
    """Serve *site* over TLS at 127.0.0.1; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.paths.append(self.path)
            site.asked.set()
            if site.held is not None:
                site.held.wait(HANG_S)
            self.send_response(site.status)
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(site.body)))
            self.end_headers()
            self.wfile.write(site.body)

        def log_message(self, *_: Any) -> None:
            pass

    certificate.write(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> Any:
            accepted, address = super().get_request()
            return context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *_: Any) -> None:
            pass  # a client that does not trust the certificate

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


OLD, NEW, OTHER = SigningKey("old"), SigningKey("new"), SigningKey("old")


class World:
    """A daemon whose provider publishes its keys over https, with a certificate of an authority of its own."""

    def __init__(self, directory: Path, site: Site, port: int, authority: Certificate) -> None:
        self.site, self.provider = site, Provider(directory)
        authorities = directory / "provider-ca.pem"
        authorities.write_text(authority.pem)
        section = self.provider.config(
            jwks_url=f"https://127.0.0.1:{port}/jwks", jwks_ca_file=str(authorities), refresh_s=86_400,
            least_refresh_s=3_600,
        )  # fmt: skip
        section = "\n".join(line for line in section.splitlines() if not line.startswith("jwks_file"))
        self.running = make_running(directory, section)
        self.subject = self.running.enrol(new_identifier())
        found = services(self.running).authentication._tokens._providers[ISSUER].keys
        assert isinstance(found, FetchedKeys)
        self.keys = found
        end_s = time.monotonic() + HANG_S
        while not self.keys.generation:  # the daemon's thread has not fetched yet; it will not do so again
            assert time.monotonic() < end_s
            threading.Event().wait(0.01)

    def refresh(self) -> bool:
        """Fetch as the daemon's thread does when it is time; return whether it was a success."""
        self.keys.refresh()
        return not self.keys.has_failed

    def login(self, key: SigningKey) -> str:
        """Return with which reason a call with a token by this key is refused; empty: it is answered."""
        token = self.provider.token(self.subject.value, now_ms(self.running), key=key)
        request = cs.ListConsentsRequest(subject=pb.Subject(scheme="mhid", value=self.subject.value))
        call = self.running.consents.ListConsents
        try:
            call(request, metadata=bearer(token))
        except grpc.RpcError as error:
            return reason_of(error)
        return ""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(key_source, "FETCH_TIMEOUT_S", HANG_S)  # a slow machine is no failure
    authority, site = make_authority(), Site(key_set(OLD))
    with serving(site, make_certificate(authority, "login"), tmp_path / "login") as port:
        made = World(tmp_path, site, port, authority)
        yield made
        made.running.check_ledger()
        made.running.stop()


def test_a_key_is_replaced_while_the_daemon_runs(world: World) -> None:
    assert world.login(OLD) == ""
    assert world.login(NEW) == "INVALID_ID_TOKEN"
    world.site.body = key_set(OLD, NEW)
    assert world.login(NEW) == "INVALID_ID_TOKEN"  # no call fetches
    assert world.refresh()
    assert (world.login(OLD), world.login(NEW)) == ("", "")
    world.site.body = key_set(NEW)
    assert world.refresh()
    assert (world.login(OLD), world.login(NEW)) == ("INVALID_ID_TOKEN", "")  # also a token that was verified before
    world.site.body = key_set(OTHER)  # another key with an id that was used before
    assert world.refresh()
    assert (world.login(OLD), world.login(OTHER)) == ("INVALID_ID_TOKEN", "")


def test_the_old_keys_stay_while_the_address_fails(world: World) -> None:
    site, good = world.site, dict(world.site.headers)
    for status, headers, body in (
        (200, {"Content-Type": "text/html"}, b"<html>log in to the network</html>"),
        (200, good, b"{}"),
        (200, good, key_set(NEW)[:-1]),
        (200, good, b" " * (MAX_KEY_SET + 1) + key_set(NEW)),
        (200, {**good, "Content-Encoding": "gzip"}, key_set(NEW)),
        (302, {**good, "Location": "/elsewhere"}, key_set(NEW)),
        (404, good, key_set(NEW)),
        (500, good, b""),
    ):
        site.status, site.headers, site.body = status, headers, body
        assert not world.refresh(), (status, body[:40])
        assert (world.login(OLD), world.login(NEW)) == ("", "INVALID_ID_TOKEN")
    assert set(site.paths) == {"/jwks"}  # no redirect was followed
    site.status, site.headers, site.body = 200, good, key_set(NEW)
    assert world.refresh()
    assert world.login(NEW) == ""


def test_no_call_waits_for_an_address_that_is_slow(world: World) -> None:
    world.site.held, world.site.body = threading.Event(), key_set(OLD, NEW)
    world.site.asked.clear()
    fetching = threading.Thread(target=world.refresh)
    fetching.start()
    assert world.site.asked.wait(HANG_S)
    assert world.login(OLD) == ""  # while the address has not answered
    assert world.login(NEW) == "INVALID_ID_TOKEN"
    world.site.held.set()
    fetching.join()
    world.site.held = None
    assert world.refresh()
    assert world.login(NEW) == ""


def provider_at(url: str, authorities: Path | None) -> config.ProviderConfig:
    return config.ProviderConfig(
        issuer=ISSUER, audience="a", participant="app", scheme="mhid", jwks_url=url, jwks_ca_file=authorities,
        least_level=0, refresh_s=86_400, least_refresh_s=3_600,
    )  # fmt: skip


def test_a_certificate_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    authority, stranger, site = make_authority(), make_authority(), Site(key_set(OLD))
    for name, one in (("ours", authority), ("theirs", stranger)):
        (tmp_path / name).write_text(one.pem)
    with serving(site, make_certificate(authority, "login"), tmp_path / "login") as port:
        wrong = (("127.0.0.1", tmp_path / "theirs"), ("127.0.0.1", None), ("localhost", tmp_path / "ours"))
        for host, authorities in wrong:
            keys = open_keys(provider_at(f"https://{host}:{port}/jwks", authorities), Metrics())
            assert isinstance(keys, FetchedKeys)
            keys.refresh()
            keys.close()
            assert keys.has_failed
            with pytest.raises(StorageError):
                keys.get("old")
    assert site.paths == []


def test_a_file_of_authorities_that_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for path in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(ConsentdError):
            open_keys(provider_at("https://127.0.0.1:1/jwks", path), Metrics())


def test_authorities_are_for_an_address_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="jwks_ca_file"):
        config.ProviderConfig(
            issuer=ISSUER, audience="a", participant="app", scheme="mhid", jwks_file=tmp_path / "a",
            jwks_ca_file=tmp_path / "b", least_level=0,
        )  # fmt: skip
