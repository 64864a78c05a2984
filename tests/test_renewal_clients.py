"""Renewals by the command line and the client library, also signed by the person; lists of what ends and is due."""

from collections.abc import Iterator

import pytest

from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, make_running, question, serve
from cases.services import Person
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import AbortedError, InvalidError
from consentd_client import Client, StatementSigner, Trust

END = "2090-12-31T00:00:00+09:00"
CONSENT = (
    "--recipient", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN.DX", "--until", END,
    "--recurrence", "P1M",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


def talk_as(running: Running, who: str) -> CommandLine:
    log_key = format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return CommandLine(
        {"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens[who], "CONSENTD_LOG_KEY": log_key}
    )


def test_the_command_line_renews_and_lists(running: Running) -> None:
    talk, person = talk_as(running, "app"), "mhid:SYN-RENEWAL"
    tag = talk("enrol", person).out.strip()
    consent_id = talk("grant", person, *CONSENT).out.strip()
    renewed = talk("renew", person, consent_id, "--until", "2091-12-31", "--json").object
    assert (renewed["consent_id"], renewed["version"], renewed["refused"]) == (consent_id, 2, None)
    assert talk("renew", person, consent_id, "--until", "2080-12-31").status == 2
    listed = talk("expiring", person)
    assert listed.out == f"2092-01-01 00:00:00 KST  {tag}  {consent_id}  v2\n"
    assert talk("expiring", "--until", "2050-01-01").out == ""
    due = talk_as(running, "hospital-a")("due", "--json").object
    assert (due["tag"], due["consent_id"], due["categories"]) == (tag, consent_id, ["CLIN.DX"])
    assert f"{tag}  {consent_id}  clinic-b  due " in talk_as(running, "hospital-a")("due").out
    assert talk_as(running, "clinic-b")("due").status == 2


def test_a_person_signs_the_whole_version_that_a_renewal_is(running: Running) -> None:
    person = Person(running)
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    trust = Trust(log_key=format_vkey(verifier), origin=ORIGIN)
    with Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["app"], trust=trust) as client:
        signer = StatementSigner(key=person.key, origin=ORIGIN, tag=person.tag)
        given = question(person.subject)
        consent_id = running.grant(person.subject, period={"end_time_ms": 3_900_000_000_000})
        answer = client.renew(
            person.subject, consent_id, end_time_ms=3_950_000_000_000, based_on_version=1, signer=signer
        )
        assert (bool(answer), answer.version) == (True, 2)
        assert client.get_consent(person.subject, consent_id).consent.root.period.end_time_ms == 3_950_000_000_000
        with pytest.raises(AbortedError):
            client.renew(person.subject, consent_id, end_time_ms=4_000_000_000_000, based_on_version=1, signer=signer)
        with pytest.raises(InvalidError):
            client.renew(person.subject, consent_id, end_time_ms=5, based_on_version=2, signer=signer)
        assert running.check(given).permitted
