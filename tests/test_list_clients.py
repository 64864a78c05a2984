"""Lists in the Python client and on the command line."""

from pathlib import Path

import pytest

from cases.clients import ASKED, faking
from cases.command_lines import CommandLine
from cases.daemons import running_daemon
from consentd.core import note
from consentd.errors import ProofError
from consentd.server.keys import read_keys
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_service_pb2 as cs

CONSENT = ("--recipient", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN")
ASK = ("--actor", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN.DX")


def test_lists_are_selected_and_one_access_is_shown(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        log_key = note.format_vkey(read_keys(running.config).log.verifier)
        target = f"127.0.0.1:{running.daemon.grpc_port}"
        talk = CommandLine(
            {"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens["app"], "CONSENTD_LOG_KEY": log_key}
        )
        person = "mhid:CLI-0001"
        assert talk("enrol", person).status == 0
        show_lists(talk, person, talk("grant", person, *CONSENT).out.strip())


def show_lists(talk: CommandLine, person: str, granted: str) -> None:
    assert talk("authorize", person, *ASK).status == 0
    assert talk("record", person, "--access-seq", 3, "--status", "sent").status == 0
    assert talk("authorize", person, *ASK[:4], "--purpose", "HMARKT", "--category", "CLIN.DX").status == 1

    def seqs(*options: object) -> list[int]:
        return [one["seq"] for one in talk("accesses", person, "--json", *options).objects]

    assert seqs() == [5, 3]
    assert (seqs("--refused"), seqs("--no-refused"), seqs("--automatic")) == ([5], [3], [])
    assert seqs("--actor", "clinic-b", "--holder", "hospital-a", "--asker", "app") == [5, 3]
    assert (seqs("--purpose", "HMARKT"), seqs("--limit", 1), seqs("--asker", "er")) == ([5], [5], [])
    assert (seqs("--until", "2020-01-01"), seqs("--since", "2020-01-01")) == ([], [5, 3])
    assert talk("accesses", person, "--since", "2020-01-02", "--until", "2020-01-01").status == 2
    one = talk("access", person, 3, "--json")
    assert one.object == talk("accesses", person, "--json", "--no-refused").object
    assert [line["kind"] for line in talk("accesses", person, "--json").objects] == ["REFUSAL", "ACCESS"]
    shown = talk("access", person, 3)
    assert (shown.status, "clinic-b, TREAT" in shown.out, "sent" in shown.out) == (0, True, True)
    assert "proves nothing" in shown.err
    for strange in (0, 2, 99, -1, 1 << 64, "x"):
        assert talk("access", person, strange).status == 2

    def consents(*options: str) -> list[str]:
        return [one["consent_id"] for one in talk("consents", person, "--json", *options).objects]

    assert consents("--kind", "consent", "--purpose", "TREAT", "--recipient", "clinic-b") == [granted]
    assert consents("--holder", "er") == consents("--kind", "objection") == consents("--until", "2020-01-01") == []


def test_a_list_goes_on_after_an_empty_page() -> None:
    record = cs.ConsentRecord(version=1)
    answers = [
        cs.ListConsentsResponse(next_page_token="a"), cs.ListConsentsResponse(next_page_token="b"),
        cs.ListConsentsResponse(records=[record], next_page_token="c"), cs.ListConsentsResponse(),
    ]  # fmt: skip
    client, channel = faking(*answers)
    assert list(client.list_consents(ASKED.subject, purpose="TREAT")) == [record]
    asked = [cs.ListConsentsRequest.FromString(one) for one in channel.requests]
    assert [one.page_token for one in asked] == ["", "a", "b", "c"]
    assert {one.purpose for one in asked} == {"TREAT"}


def test_another_access_than_the_one_asked_for_is_refused() -> None:
    client, _ = faking(ac.GetAccessResponse(access=ac.AccessRecord(seq=4)))
    with pytest.raises(ProofError):
        client.get_access(ASKED.subject, 3)
