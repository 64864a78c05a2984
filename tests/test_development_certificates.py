"""Certificates for development: they work for a daemon and its callers, and say what they are."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cases.command_lines import CommandLine
from cases.daemons import make_config
from cases.fakes import HANG_S
from consentd.core.certificate_name import check_certificate_name
from consentd.server.client_certificates import certificate_names
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys

TLS = '[grpc.tls]\ncert_file = "tls/server.pem"\nkey_file = "tls/server.key"\nclient_ca_file = "tls/clients-ca.pem"\n'


def test_a_daemon_and_its_callers_use_them(tmp_path: Path) -> None:
    run, tls = CommandLine(), tmp_path / "tls"
    made = run("certs", "--dev", tls, "--client", "clinic-b", "--client", "op", "--json")
    assert [one["certificate_name"] for one in made.objects] == ["dns:clinic-b.consentd.test", "dns:op.consentd.test"]
    config = make_config(tmp_path, TLS)
    token = make_keys(config)
    daemon = Daemon(config)
    daemon.start()
    services = daemon.service_state.services
    assert services is not None
    assert services.sequencer.checkpoints.wait(services.ledger.state.size, HANG_S)
    try:
        for host in ("127.0.0.1", "localhost"):
            run = run.given(CONSENTD_TARGET=f"{host}:{daemon.grpc_port}")
            shown = ("--tls-ca", tls / "clients-ca.pem", "--tls-cert", tls / "op.pem", "--tls-key", tls / "op.key")
            name = ("--certificate-name", made.objects[0]["certificate_name"])
            added = run.given(CONSENTD_TOKEN=token)(
                "participants", "add", "clinic-b", "--en", "B", "--role", "recipient", *name, *shown
            )
            assert (added.status, added.err) == (0, "")
            own = (*shown[:2], "--tls-cert", tls / "clinic-b.pem", "--tls-key", tls / "clinic-b.key")
            assert run("participants", "show", "clinic-b", *own).status == 0
            assert run("participants", "show", "clinic-b", *shown).status == 2  # nobody is registered with `op`
    finally:
        daemon.stop()


def test_they_say_what_they_are_and_end_soon(tmp_path: Path) -> None:
    assert CommandLine()("certs", "--dev", tmp_path, "--client", "a").status == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("clients-ca", "server", "a") for kind in ("pem", "key")
    }
    for path in tmp_path.glob("*.pem"):
        made = x509.load_pem_x509_certificate(path.read_bytes())
        for name in (made.subject, made.issuer):
            (organisation,) = name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
            assert organisation.value == "consentd development, not for production"
        assert made.not_valid_after_utc < datetime.now(UTC) + timedelta(days=30, minutes=1)
        assert path.with_suffix(".key").stat().st_mode & 0o777 == 0o600
    (name,) = certificate_names((tmp_path / "a.pem").read_bytes())
    check_certificate_name(name)


def test_a_later_run_adds_clients_and_changes_nothing_else(tmp_path: Path) -> None:
    run = CommandLine()
    run("certs", "--dev", tmp_path, "--client", "a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run("certs", "--dev", tmp_path, "--client", "b").status == 0
    assert {path: path.read_bytes() for path in before} == before
    files = (tmp_path / "clients-ca.pem", tmp_path / "b.pem")
    authority, client = (x509.load_pem_x509_certificate(one.read_bytes()) for one in files)
    client.verify_directly_issued_by(authority)


@pytest.mark.parametrize("name", ["a", "server", "clients-ca", "A", "../a", "", "a.", "병원", "a/b", "x" * 64])
def test_a_name_that_is_taken_or_no_host_is_refused(tmp_path: Path, name: str) -> None:
    run = CommandLine()
    run("certs", "--dev", tmp_path, "--client", "a")
    before = sorted(tmp_path.parent.rglob("*"))
    assert run("certs", "--dev", tmp_path, "--client", "c", "--client", name).status == 2
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_the_authority_of_others_signs_nothing(tmp_path: Path) -> None:
    run = CommandLine()
    run("certs", "--dev", tmp_path)
    for content in (b"", b"no certificate", (tmp_path / "server.pem").read_bytes()):
        (tmp_path / "clients-ca.pem").write_bytes(content)
        (tmp_path / "clients-ca.key").write_bytes(b"no key")
        assert run("certs", "--dev", tmp_path, "--client", "a").status == 2
    (tmp_path / "clients-ca.key").unlink()
    assert run("certs", "--dev", tmp_path, "--client", "a").status != 0
    assert not (tmp_path / "a.pem").exists()
