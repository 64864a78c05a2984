"""The names of client certificates: their form, whose they are, and what the names in a certificate are read as."""

import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as some

from cases.audits import JOBS, LOG, ORIGIN, Forge
from cases.certificates import make_authority, make_certificate
from cases.command_lines import CommandLine
from cases.daemons import Running, running_daemon
from cases.ledgers import LedgerCase
from cases.services import participant, refusal, register, services
from cases.writes import Raw
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.certificate_name import check_certificate_name
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.server.client_certificates import MAX_PEM, certificate_names
from consentd.v1 import statement_pb2 as st

RECIPIENT = st.PARTICIPANT_ROLE_RECIPIENT
AUTHORITY = make_authority()


# -- the form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "dns:clinic-b.example", "dns:gateway", "dns:a.b.c.d.e", "dns:1.2.3.example", "dns:xn--2j5b25x.xn--3e0b707e",
    "dns:" + ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 61]),
    "uri:spiffe://realm.example/clinic-b", "uri:urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "uri:https://clinic-b.example/a?b=c#d%20", "uri:urn:x:A", "uri:x:" + "y" * 294,
])  # fmt: skip
def test_a_name_in_its_form_is_accepted(name: str) -> None:
    check_certificate_name(name)


@pytest.mark.parametrize("name", [
    "", "dns:", "uri:", "clinic-b.example", "DNS:clinic-b.example", "dns:Clinic-b.example", "dns:clinic-b.example.",
    "dns:*.clinic-b.example", "dns:*", "dns:.example", "dns:a..b", "dns:-a.example", "dns:a-.example",
    "dns:a_b.example", "dns:병원.example", "dns:ab--cd.example", "dns:192.0.2.7", "dns:2001:db8::1", "dns: a",
    "dns:a\0.example",
    "dns:a.example\n", "dns:" + "x" * 64 + ".example", "dns:" + ".".join(["x" * 63] * 4),
    "uri:clinic-b", "uri:x:", "uri:X:y", "uri:1x:y", "uri:x:a b", "uri:x:a\0", "uri:x:병원", "uri:x:a\n",
    "uri:x:<>", "uri://a/b", "ip:192.0.2.7", "email:a@example", "dns:a\u200b.example",
])  # fmt: skip
def test_a_name_in_another_form_is_refused(name: str) -> None:
    with pytest.raises(InvalidError) as refused:
        check_certificate_name(name)
    assert refused.value.reason == "INVALID_REQUEST"


@given(some.text())
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    for name in (text, f"dns:{text}", f"uri:{text}"):
        try:
            check_certificate_name(name)
        except InvalidError:
            continue
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name
        assert not name.startswith("dns:") or name == name.lower()


# -- the registry ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as made:
        yield made
        made.check_ledger()


def names_in_force(running: Running) -> dict[str, str]:
    with services(running).table.read() as snapshot:
        names = dict(snapshot.registry().certificate_names)
        assert {name: snapshot.certificate_owner(name) for name in names} == names
        return names


def test_a_name_is_of_one_participant_until_an_entry_is_without_it(running: Running) -> None:
    first, second, third = "dns:a.example", "dns:b.example", "uri:urn:c"
    register(running, "one", [RECIPIENT], certificate_names=[first, second])
    assert refusal(lambda: register(running, "two", [RECIPIENT], certificate_names=[third, second])) == (
        "CERTIFICATE_NAME_TAKEN"
    )
    assert "two" not in names_in_force(running).values()
    register(running, "one", [RECIPIENT], certificate_names=[second, third])  # `first` is free now
    register(running, "two", [RECIPIENT], certificate_names=[first])
    assert names_in_force(running) == {first: "two", second: "one", third: "one"}
    register(running, "one", [RECIPIENT], certificate_names=[second], active=False)  # a participant that left keeps it
    taken = refusal(lambda: register(running, "two", [RECIPIENT], certificate_names=[second]))
    assert taken == "CERTIFICATE_NAME_TAKEN"
    register(running, "one", [RECIPIENT])
    register(running, "two", [RECIPIENT], certificate_names=[second])
    assert names_in_force(running) == {second: "two"}
    assert list(participant(running, "two").participant.certificate_names) == [second]
    register(running, "two", [RECIPIENT])


def test_a_registration_with_a_bad_name_or_one_twice_is_refused(running: Running) -> None:
    for names in (["dns:A.example"], ["dns:a.example"] * 2, [""]):
        refused = refusal(partial(register, running, "bad", [RECIPIENT], certificate_names=names))
        assert refused == "INVALID_REQUEST"


def test_a_table_that_is_made_again_has_the_same_rows(running: Running) -> None:
    register(running, "one", [RECIPIENT], certificate_names=["dns:a.example"])
    register(running, "one", [RECIPIENT], certificate_names=["dns:b.example"])
    running.check_ledger()
    register(running, "one", [RECIPIENT])


def test_the_command_line_states_and_shows_names(running: Running) -> None:
    run = CommandLine().given(
        CONSENTD_TARGET=f"127.0.0.1:{running.daemon.grpc_port}", CONSENTD_TOKEN=running.tokens["operator"]
    )  # fmt: skip
    stated = ("--certificate-name", "dns:shop.example", "--certificate-name", "uri:urn:shop")
    assert run("participants", "add", "shop", "--en", "Shop", "--role", "recipient", *stated).status == 0
    assert run("participants", "show", "shop", "--json").objects[0]["certificate_names"] == [*stated[1::2]]
    assert "certificate name: uri:urn:shop" in run("participants", "show", "shop").out


# -- entries that no daemon writes ------------------------------------------------------------------------------------


def _statement(name: str, *names: str) -> st.ParticipantStatement:
    return st.ParticipantStatement(
        participant_id=name, name={"en": name}, roles=[RECIPIENT], active=True, certificate_names=names,
        attestation=st.Attestation(attested_by="operator/main"),
    )  # fmt: skip


@pytest.mark.parametrize("names", [["dns:a.example"], ["dns:b.example", "dns:a.example"]])
def test_a_replay_names_an_entry_that_takes_a_name(tmp_path: Path, names: list[str]) -> None:
    assert _replayed(tmp_path, names) == [True]


@pytest.mark.parametrize("names", [["dns:A.example"], ["dns:b.example", "x" * 600], ["dns:b"] * 17])
def test_a_replay_names_an_entry_with_names_in_another_form(tmp_path: Path, names: list[str]) -> None:
    assert set(_replayed(tmp_path, names)) == {True}


def test_a_replay_names_no_entry_with_a_free_name(tmp_path: Path) -> None:
    assert _replayed(tmp_path, ["dns:b.example"]) == []


def _replayed(directory: Path, names: list[str]) -> list[bool]:
    """Replay a ledger in which another participant states *names*; return of each fault whether it is of that entry."""
    forge = Forge()
    forge.begin()
    for name, stated in (("one", ["dns:a.example"]), ("two", names)):
        at = forge.size
        forge.add(EntryKind.PARTICIPANT, codec.public_tag(f"participant/{name}"), _statement(name, *stated))
    forge.seal()
    location = forge.write(directory / "ledger", directory / "openings")
    report = replay_decisions(location, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    return [fault.index == at for fault in report.faults]


# -- what is in a certificate -----------------------------------------------------------------------------------------


def dns(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]


def uris(*names: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(name) for name in names]


def read(names: list[x509.GeneralName]) -> tuple[str, ...]:
    return certificate_names(make_certificate(AUTHORITY, "dns:subject.example", names).pem.encode())


def test_host_names_are_read_in_lower_case_and_uris_as_they_are() -> None:
    assert read(dns("Clinic-B.Example", "xn--2j5b25x.example")) == ("dns:clinic-b.example", "dns:xn--2j5b25x.example")
    assert read(uris("spiffe://Realm/Clinic")) == ("uri:spiffe://Realm/Clinic",)


def test_nothing_but_the_alternative_names_of_these_types_counts() -> None:
    others: list[x509.GeneralName] = [
        x509.RFC822Name("dns@example"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dns:a.example")])),
    ]  # fmt: skip
    assert read(others) == ()
    assert certificate_names(AUTHORITY.pem.encode()) == ()


def test_names_that_cannot_be_registered_match_none() -> None:
    for name in read([*dns("*.example", "a.example.", "a\0.example"), *uris("", "x y")]):
        with pytest.raises(InvalidError):
            check_certificate_name(name)


@pytest.mark.parametrize("der", [
    b"", b"\x30", b"\x30\x03\x82\x01\xff", b"\x30\x80\x82\x01a\x00\x00", b"\x30\x03\x82\x05a", b"\x04\x01a",
    b"\x30\x03\x9f\x01a", b"\x30\x06\x82\x04a\xed\xa0\x80", b"\x30\x04\x82\x81\x01a",
])  # fmt: skip
def test_malformed_alternative_names_are_none(der: bytes) -> None:
    certificate = make_certificate(AUTHORITY, "clinic", raw_names=der)
    assert certificate_names(certificate.pem.encode()) == ()


@pytest.mark.parametrize("version", [1, 3, 127])
def test_a_certificate_of_another_version_has_no_names(version: int) -> None:
    """``cryptography`` raises a class of its own for such a certificate. Version 2 is the number 1."""
    der = ssl.PEM_cert_to_DER_cert(make_certificate(AUTHORITY, "client", dns("a.example")).pem)
    changed = der.replace(b"\xa0\x03\x02\x01\x02", bytes((0xA0, 3, 2, 1, version)), 1)
    assert certificate_names(ssl.DER_cert_to_PEM_cert(changed).encode()) == ()


@pytest.mark.parametrize(
    "pem", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_has_no_names(pem: bytes) -> None:
    assert certificate_names(pem) == ()


def test_a_certificate_is_read_up_to_a_length() -> None:
    few = make_certificate(AUTHORITY, "few", dns(*(f"host-{number}.example" for number in range(300))))
    many = make_certificate(AUTHORITY, "many", dns(*(f"host-{number}.example" for number in range(10_000))))
    assert len(few.pem) < MAX_PEM < len(many.pem)
    assert len(certificate_names(few.pem.encode())) == 300
    assert certificate_names(many.pem.encode()) == ()


# -- fsck -------------------------------------------------------------------------------------------------------------


def test_fsck_names_a_name_that_was_taken(case: LedgerCase) -> None:
    free, taken = _statement("two", "dns:b.example"), _statement("two", "dns:a.example")
    for message, applied in ((_statement("one", "dns:a.example"), None), (taken, free)):
        tag = codec.public_tag(f"participant/{message.participant_id}")
        payload = message.SerializeToString()
        case.write(Raw(kind=EntryKind.PARTICIPANT, tag=tag, payload=payload, message=applied or message))
    case.seal()
    assert len(case.fsck().faults) == 1
