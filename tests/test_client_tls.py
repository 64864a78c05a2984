"""The Python client over TLS, against a real daemon: who it talks to is proven, or nothing is said but why not."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.certificates import Certificate, make_authority, make_certificate
from cases.command_lines import CommandLine
from cases.daemons import make_config, question
from cases.fakes import HANG_S
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, StorageError
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys
from consentd.v1 import consent_pb2 as pb
from consentd_client import AsyncClient, Client, Tls, Trust, pin
from consentd_client.operations import UnavailableError

QUICK: dict[str, Any] = {"timeout_s": 30.0, "attempts": 3, "backoff_s": 0.001}
"""Far more time than a handshake takes. A client that hung would end with the deadline's error, which no test expects,
but the one of a deadline too short."""

AUTHORITY, STRANGER = make_authority(), make_authority()


class Served:
    """A daemon behind TLS, the operator's token, and files for a client to choose from."""

    def __init__(self, directory: Path, *, asks_clients: bool) -> None:
        self.directory = directory
        self.write("server", make_certificate(AUTHORITY, "consentd"))
        (directory / "ca.pem").write_text(AUTHORITY.pem)
        (directory / "stranger.pem").write_text(STRANGER.pem)
        self.write("client", make_certificate(AUTHORITY, "client"))
        self.write("foreign", make_certificate(STRANGER, "client"))
        clients = 'client_ca_file = "ca.pem"' if asks_clients else ""
        config = make_config(
            directory, f'[grpc.tls]\ncert_file = "server/cert.pem"\nkey_file = "server/key.pem"\n{clients}'
        )
        self.token = make_keys(config)
        self.trust: Trust = pin(read_signing_key(config.keys.log_key_file).verifier)
        self.daemon = Daemon(config)
        self.daemon.start()
        services = self.daemon.service_state.services
        assert services is not None
        services.sequencer.checkpoints.wait(services.ledger.state.size, HANG_S)

    def write(self, name: str, certificate: Certificate) -> None:
        certificate.write(self.directory / name)

    def tls(self, ca: str = "ca.pem", own: str = "") -> Tls:
        if not own:
            return Tls(ca_file=self.directory / ca)
        return Tls(
            ca_file=self.directory / ca,
            cert_file=self.directory / own / "cert.pem",
            key_file=self.directory / own / "key.pem",
        )

    def target(self, host: str = "127.0.0.1") -> str:
        return f"{host}:{self.daemon.grpc_port}"


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon that proves itself and asks its callers for a token alone."""
    served = Served(tmp_path_factory.mktemp("tls"), asks_clients=False)
    yield served
    served.daemon.stop()


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon that asks its callers for a certificate too."""
    served = Served(tmp_path_factory.mktemp("mutual"), asks_clients=True)
    yield served
    served.daemon.stop()


Ask = Callable[..., Any]


def ask(served: Served, tls: Tls | None, *, host: str = "127.0.0.1") -> int:
    """Return the size of the daemon's checkpoint, verified."""
    with Client(served.target(host), token=served.token, tls=tls, trust=served.trust, **QUICK) as client:
        return client.get_checkpoint().size


def ask_async(served: Served, tls: Tls | None, *, host: str = "127.0.0.1") -> int:
    """Return the same by the client for asyncio."""

    async def run() -> int:
        options: dict[str, Any] = {"token": served.token, "tls": tls, "trust": served.trust, **QUICK}
        async with AsyncClient(served.target(host), **options) as client:
            return (await client.get_checkpoint()).size

    return asyncio.run(run())


@pytest.fixture(params=[ask, ask_async], ids=["threads", "asyncio"])
def asks(request: pytest.FixtureRequest) -> Ask:
    """Ask by either client."""
    found: Ask = request.param
    return found


def test_the_right_authority_is_enough(open_to_all: Served, asks: Ask) -> None:
    assert asks(open_to_all, open_to_all.tls()) >= 2
    # A certificate that nobody asked for does no harm.
    assert asks(open_to_all, open_to_all.tls(own="client")) >= 2


def test_a_daemon_of_another_authority_is_not_talked_to(open_to_all: Served, asks: Ask) -> None:
    with pytest.raises(StorageError, match="certificate is not accepted"):
        asks(open_to_all, open_to_all.tls(ca="stranger.pem"))
    with pytest.raises(StorageError, match="certificate is not accepted"):
        asks(open_to_all, Tls())  # the system's authorities


def test_a_daemon_of_another_name_is_not_talked_to(open_to_all: Served, asks: Ask) -> None:
    """The certificate is for 127.0.0.1; that `localhost` leads there proves nothing."""
    with pytest.raises(StorageError, match="certificate is not accepted"):
        asks(open_to_all, open_to_all.tls(), host="localhost")


def test_without_tls_a_daemon_behind_tls_is_not_reached(open_to_all: Served, asks: Ask) -> None:
    with pytest.raises(UnavailableError, match="does the client use it"):
        asks(open_to_all, None)


def test_a_client_with_a_certificate_is_let_in(mutual: Served, asks: Ask) -> None:
    assert asks(mutual, mutual.tls(own="client")) >= 2


@pytest.mark.parametrize("own", ["", "foreign"])
def test_a_client_without_the_right_certificate_is_told_so_at_once(mutual: Served, asks: Ask, own: str) -> None:
    with pytest.raises(UnavailableError, match="client certificate"):
        asks(mutual, mutual.tls(own=own))


def test_a_daemon_that_does_not_run_is_told_apart(tmp_path: Path, asks: Ask) -> None:
    stopped = Served(tmp_path, asks_clients=True)
    stopped.daemon.stop()
    with pytest.raises(UnavailableError, match="is it running"):
        asks(stopped, stopped.tls(own="client"))


def test_files_that_do_not_fit_are_an_error_and_no_hang(open_to_all: Served, asks: Ask) -> None:
    directory = open_to_all.directory
    (directory / "junk.pem").write_text("no certificate")
    with pytest.raises(InvalidError, match=r"junk\.pem"):
        asks(open_to_all, open_to_all.tls(ca="junk.pem"))
    other = Tls(
        ca_file=directory / "ca.pem", cert_file=directory / "client/cert.pem", key_file=directory / "foreign/key.pem"
    )
    with pytest.raises(InvalidError, match="key does not belong"):
        asks(open_to_all, other)
    with pytest.raises(StorageError):
        asks(open_to_all, open_to_all.tls(ca="none.pem"))
    with pytest.raises(InvalidError):
        asks(open_to_all, Tls(ca_file=directory / "ca.pem", cert_file=directory / "client/cert.pem"))


def test_the_token_is_shown_to_nobody_else(open_to_all: Served) -> None:
    """An error of the handshake says where it went wrong, not what was to be said."""
    with pytest.raises(StorageError) as caught:
        ask(open_to_all, open_to_all.tls(ca="stranger.pem"))
    assert open_to_all.token not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_check_that_finds_no_daemon_it_knows_fails_closed(mutual: Served) -> None:
    asked = question(pb.Subject(scheme="mhid", value="SYN-1"))
    for tls in (mutual.tls(), mutual.tls(own="foreign"), mutual.tls(ca="stranger.pem", own="client")):
        with Client(mutual.target(), token=mutual.token, tls=tls, **QUICK) as client:
            answer = client.check(asked)
        assert not answer
        assert isinstance(answer.error, StorageError)


def test_a_deadline_shorter_than_a_handshake_is_kept(open_to_all: Served) -> None:
    """What ends first, the deadline or the handshake, is open; that it ends in a declared error is not."""
    options: dict[str, Any] = {"token": open_to_all.token, "trust": open_to_all.trust, "timeout_s": 0.01}
    with (
        Client(open_to_all.target(), tls=open_to_all.tls(ca="stranger.pem"), **options) as client,
        pytest.raises(StorageError),
    ):
        client.get_checkpoint()


def test_the_command_line_takes_its_tls_files_from_the_environment(mutual: Served) -> None:
    directory, own = mutual.directory, mutual.directory / "client"
    run = CommandLine({"CONSENTD_TARGET": mutual.target(), "CONSENTD_TOKEN": mutual.token})
    with_files = run.given(
        CONSENTD_TLS_CA=str(directory / "ca.pem"), CONSENTD_TLS_CERT=str(own / "cert.pem"),
        CONSENTD_TLS_KEY=str(own / "key.pem"),
    )  # fmt: skip
    assert with_files("participants", "list").status == 0
    assert with_files("participants", "list", "--tls-ca", directory / "stranger.pem").status == 2
    assert run("participants", "list").status == 2


def test_a_credential_for_nobody_is_named_as_such(mutual: Served) -> None:
    own = mutual.directory / "client"
    run = CommandLine({"CONSENTD_TARGET": mutual.target(), "CONSENTD_TOKEN": mutual.token})
    tls = ("--tls-ca", mutual.directory / "ca.pem", "--tls-cert", own / "cert.pem", "--tls-key", own / "key.pem")
    assert "no participant is registered as clinic-z" in run("credential", "add", "clinic-z", *tls).err
    assert "no participant" not in run("credential", "add", "operator/night", *tls).err
