"""The demo, small: the town follows from its seed, decisions are as expected, and the story's history is verified."""

import io
import shlex
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from consentd import cli
from consentd.config import load
from consentd.core.kinds import EntryKind
from consentd.demo import __main__
from consentd.demo.__main__ import DemoResult, print_next_steps, run, summarise
from consentd.demo.family import CHILD
from consentd.demo.home import Home, make_home
from consentd.demo.output import Output
from consentd.demo.story import CITIZEN
from consentd.demo.town import ADULT_FROM, INSTITUTION_TYPES, MIX, RELAY, make_town
from consentd.demo.traffic import QUOTAS
from consentd.errors import InvalidError
from consentd.server.daemon import Daemon
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import Entry

SMALL = {"seed": 7, "citizens": 30, "transfers": 300}


def test_a_town_follows_from_its_seed() -> None:
    assert make_town(**SMALL) == make_town(**SMALL)
    assert make_town(**SMALL) != make_town(**{**SMALL, "seed": 8})


def test_a_town_has_the_published_proportions() -> None:
    town = make_town(seed=1, citizens=1_000, transfers=20_000)
    assert sum(one.role == "both" for one in town.institutions) == 40
    assert {one.type for one in town.institutions} == {"", *(code for code, *_ in INSTITUTION_TYPES)}
    fractions = Counter(one.outcome for one in town.transfers)
    for outcome, fraction in MIX:
        assert fractions[outcome] / 20_000 == pytest.approx(fraction, abs=0.02)
    busiest = Counter(one.recipient for one in town.transfers).most_common(3)
    assert sum(count for _, count in busiest) / 20_000 == pytest.approx(0.8, abs=0.06)
    under_15 = sum(citizen.age < 15 for citizen in town.citizens) / 1_000
    assert under_15 == pytest.approx(0.114, abs=0.03)


def test_in_a_town_nobody_under_14_consents_and_nobody_is_named() -> None:
    town = make_town(seed=1, citizens=1_000, transfers=100)
    assert all(town.citizens[planned.citizen].age >= ADULT_FROM for planned in town.consents)
    assert all(citizen.id.startswith("SYN-") for citizen in town.citizens)
    assert not {CITIZEN.value, CHILD.value} & {citizen.id for citizen in town.citizens}


def test_the_realms_quotas_are_above_what_the_relay_does_about_one_citizen_of_the_whole_town() -> None:
    town = make_town(seed=1, citizens=__main__.CITIZENS, transfers=__main__.TRANSFERS)
    busiest = max(Counter(transfer.citizen for transfer in town.transfers).values())
    assert 2 * busiest < QUOTAS.entries_per_day  # each access may have an outcome
    assert busiest < QUOTAS.refusals_per_day


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str, Home]:
    """Run a small demo once; return its result, what it printed, and its directory."""
    home = make_home(tmp_path_factory.mktemp("demo") / "home")
    text = io.StringIO()
    out = Output(Console(file=text, width=140), "both")
    result = run(home, out, **SMALL)
    summarise(result, out)
    print_next_steps(home, out)
    return result, text.getvalue(), home


def test_every_decision_is_the_one_that_the_town_expects(demo: tuple[DemoResult, str, Home]) -> None:
    result, _, _ = demo
    expected = Counter(transfer.outcome for transfer in make_town(**SMALL).transfers)
    assert result.traffic.outcomes == expected
    assert result.unanswered == 2
    assert result.traffic.surprises == 0
    assert result.traffic.recorded == expected["PERMIT"]
    assert result.is_as_expected


def test_the_verified_history_has_the_whole_story(demo: tuple[DemoResult, str, Home]) -> None:
    entries = demo[0].history.entries
    kinds = [EntryKind(entry.kind).name for entry in entries]
    assert kinds == [
        *("ENROL", "KEY", "GRANT", "ACCESS", "OUTCOME", "ACCESS", "OUTCOME"),
        *("GRANT", "ACCESS", "REFUSAL", "REFUSAL", "AMEND", "ACCESS"),
        *("AMEND", "ACCESS", "OUTCOME", "REFUSAL", "REFUSAL", "REFUSAL", "REVOKE", "REVOKE", "REFUSAL"),
    ]
    assert {entry.author for entry in entries if entry.kind in (EntryKind.GRANT, EntryKind.AMEND)} == {"subject"}
    assert [_outcome(entry) for entry in entries if entry.kind == EntryKind.ACCESS] == [pb.OUTCOME_PERMIT] * 5
    refusals = [entry for entry in entries if entry.kind == EntryKind.REFUSAL]
    assert [_outcome(entry) for entry in refusals if _is_access(entry)] == [pb.OUTCOME_NO_CONSENT] * 5
    asked = [entry for entry in entries if entry.kind in (EntryKind.ACCESS, EntryKind.REFUSAL)]
    assert list(map(_question, asked[2:6])) == [
        ("access", "CLIN.DX"), ("collect", "CLIN.DX"), ("access", "GEN.TEST"), ("access", "GEN.TEST"),
    ]  # fmt: skip
    (request,) = (entry.message for entry in refusals if not _is_access(entry))
    assert isinstance(request, st.RefusalStatement)
    assert request.reason == "R05"
    assert list(request.missing) == ["recurrence", "end", "retention"]


def test_a_mother_consents_for_a_child_until_the_child_is_14(demo: tuple[DemoResult, str, Home]) -> None:
    result, text, _ = demo
    enrolled, recorded, pinned, granted = result.child.entries
    assert [EntryKind(entry.kind).name for entry in result.child.entries] == ["ENROL", "AUTHORITY", "KEY", "GRANT"]
    assert enrolled.authority is None
    assert recorded.attested_by == RELAY[0]
    assert (granted.author, granted.authority) == (f"representative/{recorded.seq}", recorded.message)
    assert isinstance(recorded.message, st.AuthorityStatement)
    assert isinstance(pinned.message, st.KeyStatement)
    assert recorded.message.key == pinned.message.key
    year = int(recorded.message.birth_date[:4])
    assert f"PERMIT, 까지 (until) {year + 14}-01-01 00:00:00 KST" in text
    assert f"for research at 18 ({year + 18}-01-01 00:00:00 KST)" in text
    assert granted.line("en") in text
    assert "[signed by the person's legal guardian]" in granted.line("en")
    assert "a ward" in text


def test_tampering_is_found_where_it_was_done_and_nowhere_else(demo: tuple[DemoResult, str, Home]) -> None:
    result, _, _ = demo
    assert [fault.index for fault in result.faults] == [result.changed]
    assert result.report.faults == ()
    assert result.report.statements_opened == result.report.entries


def test_what_is_printed_is_korean_with_english_and_names_no_citizen(demo: tuple[DemoResult, str, Home]) -> None:
    _, text, _ = demo
    for part in (
        *("동의 (consent)", "동의 범위 축소", "철회 (withdrawal)", "누가 내 정보를 봤나", "R05", "log.vkey"),
        *("Each says who may use which data for what purpose.", "The citizen signs", "A change of a single byte"),
        *("Sensitive data are not in “all data”", "이웃이 같은 기록을 요청", "SUBJECT_NOT_FOUND"),
    ):
        assert part in text
    assert "SYN-0" not in text


def test_what_to_try_next_does_what_it_says(
    demo: tuple[DemoResult, str, Home], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text, home = demo
    serve, export, history, check, fsck = (shlex.split(command) for command in __main__.commands(home).values())
    serve, history, check, fsck = (
        arguments[arguments.index(verb) :]
        for arguments, verb in ((serve, "serve"), (history, "history"), (check, "check"), (fsck, "fsck"))
    )
    assert all(command in text for command in __main__.commands(home).values())
    assert load(Path(serve[2])) == home.config
    for name, value in (pair.split("=", 1) for pair in export[1:]):
        monkeypatch.setenv(name, value)
    assert cli.main(fsck) == 1
    daemon = Daemon(home.config)
    daemon.start()
    try:
        assert cli.main(history) == 0
        assert cli.main(check) == 1
    finally:
        daemon.stop()
    assert "general-hospital-01" in capsys.readouterr().out


def test_only_a_demo_s_own_directory_is_made_anew(tmp_path: Path) -> None:
    first = make_home(tmp_path / "home")
    second = make_home(tmp_path / "home")
    assert first.tokens != second.tokens
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("kept")
    with pytest.raises(InvalidError):
        make_home(tmp_path / "other")
    assert (tmp_path / "other" / "precious").read_text() == "kept"


def test_options_have_the_town_s_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENTD_DEMO_DIR", "elsewhere")
    options = __main__.parse_options([])
    assert (options.citizens, options.transfers) == (1_000, 20_000)
    assert options.dir == Path.cwd() / "elsewhere"


def _is_access(entry: Entry) -> bool:
    return isinstance(entry.message, st.RefusalStatement) and entry.message.HasField("access")


def _question(entry: Entry) -> tuple[str, str]:
    message = entry.message
    record = message.access if isinstance(message, st.RefusalStatement) else message
    assert isinstance(record, st.AccessStatement)
    question = pb.Question.FromString(record.asked.question)
    return question.action, question.categories[0]


def _outcome(entry: Entry) -> int:
    message = entry.message
    record = message.access if isinstance(message, st.RefusalStatement) else message
    assert isinstance(record, st.AccessStatement)
    return record.decision.outcome
