"""Notices by the command line: published, shown with a consent and without, and asked again about."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.command_lines import CommandLine
from cases.daemons import Running, make_running, serve
from cases.services import new_identifier
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key

CONSENT = ("--recipient", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN")
SHOWN = ("--served-language", "ko", "--channel", "app")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


@pytest.fixture(scope="module")
def bare(running: Running) -> CommandLine:
    vkey = format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    return CommandLine(
        {"CONSENTD_TARGET": f"127.0.0.1:{running.daemon.grpc_port}", "CONSENTD_LOG_KEY": vkey, "LANG": "en_US.UTF-8"}
    )


@pytest.fixture
def talk(running: Running, bare: CommandLine) -> CommandLine:
    return bare.given(CONSENTD_TOKEN=running.tokens["app"])


@pytest.fixture
def operator(running: Running, bare: CommandLine) -> CommandLine:
    return bare.given(CONSENTD_TOKEN=running.tokens["operator"])


@pytest.fixture
def person(talk: CommandLine) -> str:
    made = f"mhid:{new_identifier()}"
    assert talk("enrol", made).status == 0
    return made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "notice.txt"
    path.write_text("notice as it was shown\n")
    return path


def test_a_notice_is_shown_with_a_consent_and_without(
    talk: CommandLine, operator: CommandLine, person: str, text: Path, running: Running
) -> None:
    assert operator("notice", "publish", "privacy", "--title", "ko=고지", "--text", f"ko={text}").status == 0
    first = talk("served", person, "privacy@1", *SHOWN, "--served-at", "2025-01-31", "--served-text", str(text))
    assert first.out == "#2  privacy@1, ko, app, 2025-01-31 00:00:00 KST\n"
    named = (*CONSENT, "--notice", "privacy@1")
    both = talk("grant", person, *named, *SHOWN, "--json").object
    assert (both["served_seq"], both["version"]) == (3, 1)
    amended = talk("amend", person, both["consent_id"], "--category", "CLIN.DX", *SHOWN, "--json").object
    assert (amended["served_seq"], amended["version"]) == (5, 2)
    running.wait_published()
    entries = talk("history", person, "--lang", "ko").out.splitlines()
    assert [line for line in entries if "통지" in line and "privacy@1, ko, app" in line]
    assert [line for line in entries if line.rstrip().endswith("통지 #3") or "통지 #3" in line]
    assert "served #5" in talk("history", person, "--lang", "en").out
    for wrong in (
        (*CONSENT, *SHOWN), (*named, *SHOWN[:2]), (*named, *SHOWN[2:]), (*named, "--served-text", str(text)),
        (*named, "--served-language", "korean", "--channel", "app"),
    ):  # fmt: skip
        assert talk("grant", person, *wrong).status == 2
    assert talk("served", person, "privacy", *SHOWN).status == 2
    assert talk("served", person, "privacy@1").status == 2


def test_a_campaign_from_its_notice_to_the_last_answer(
    talk: CommandLine, operator: CommandLine, bare: CommandLine, running: Running, person: str, text: Path
) -> None:
    both = ("--title", "ko=고지", "--title", "en=notice", "--text", f"ko={text}")
    first = operator("notice", "publish", "trial", *both, "--uri", "ko=https://hospital.example/1", "--json")
    assert (first.status, first.object["version"]) == (0, 1)
    given = talk("grant", person, *CONSENT, "--notice", "trial@1", *SHOWN, "--json").object["consent_id"]
    second = operator("notice", "publish", "trial", *both, "--reconsent-by", "2099-03-09")
    assert second.out == "trial v2 notice, ko, new consents by 2099-03-09 00:00:00 KST\n"
    counted = operator("notice", "campaign", "trial")
    assert counted.out == "trial@2, by 2099-03-09 00:00:00 KST: 1 not answered, 0 answered (v1: 1, v2: 0)\n"
    assert talk("notice", "campaign", "trial").status == 2
    clinic = bare.given(CONSENTD_TOKEN=running.tokens["clinic-b"])
    (line,) = clinic("notice", "reconsents", "trial@2").out.splitlines()
    assert line.endswith(f" {given} v1  notice v1, paused from 2099-03-09 00:00:00 KST")
    assert clinic("notice", "reconsents", "trial@1").status == 2
    amended = talk("amend", person, given, "--notice", "trial@2", *SHOWN, "--json").object
    assert amended["version"] == 2
    assert clinic("notice", "reconsents", "trial").out == ""
    counted = operator("notice", "campaign", "trial@2", "--json").object
    assert (counted["unanswered"], counted["answered"], counted["counts"]) == (0, 1, {"1": 0, "2": 1})
    children = operator("notice", "publish", "trial-children", *both, "--for-children")
    assert children.out == "trial-children v1 notice, ko, for children\n"
    assert talk("grant", person, *CONSENT, "--notice", "trial-children@1", *SHOWN).status == 2
    shown = talk("notice", "show", "trial@1").out.splitlines()
    assert shown[0] == "trial v1 notice, ko"
    assert shown[1].endswith(" https://hospital.example/1")
    running.wait_published()
    assert "new consents by 2099-03-09" in talk("history", "--public", "notice/trial", "--lang", "en").out


def test_options_that_say_nothing_are_refused(operator: CommandLine, text: Path) -> None:
    title, stated = ("--title", "ko=고지"), ("--text", f"ko={text}")
    for wrong in (
        (*stated, "--title", "고지"), (*title, "--text", str(text)), (*title, "--text", "ko=/none/such"),
        (*title, *stated, "--uri", "en=https://x.example/"), (*title, *stated, "--reconsent-by", "2099-03-09"),
        (*title, *stated, "--participant", "nobody"),
    ):  # fmt: skip
        assert operator("notice", "publish", "wrong", *wrong).status == 2
    assert operator("notice", "show", "wrong").status == 2
    assert operator("notice", "show", "trial@x").status == 2
