"""The demo, small: the town is what its seed says, decisions are as expected, and the story proves what it tells."""

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
from consentd.demo.__main__ import Home, Shown, make_home, run, summarise, tell_next
from consentd.demo.story import CITIZEN, Voice
from consentd.demo.town import ADULT_FROM, INSTITUTION_TYPES, MIX, make_town
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
    shares = Counter(one.outcome for one in town.transfers)
    for outcome, share in MIX:
        assert shares[outcome] / 20_000 == pytest.approx(share, abs=0.02)
    busiest = Counter(one.recipient for one in town.transfers).most_common(3)
    assert sum(count for _, count in busiest) / 20_000 == pytest.approx(0.8, abs=0.06)
    under_15 = sum(citizen.age < 15 for citizen in town.citizens) / 1_000
    assert under_15 == pytest.approx(0.114, abs=0.03)


def test_in_a_town_nobody_under_14_consents_and_nobody_is_named() -> None:
    town = make_town(seed=1, citizens=1_000, transfers=100)
    assert all(town.citizens[wish.citizen].age >= ADULT_FROM for wish in town.wishes)
    assert all(citizen.id.startswith("SYN-") for citizen in town.citizens)
    assert CITIZEN.value not in {citizen.id for citizen in town.citizens}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, str, Home]:
    """Run the demo once, small; returns what it showed, what it printed, and where it lives."""
    home = make_home(tmp_path_factory.mktemp("demo") / "home")
    text = io.StringIO()
    console, voice = Console(file=text, width=140), Voice("both")
    shown = run(home, console, **SMALL, voice=voice)
    summarise(shown, home, console, voice)
    tell_next(home, console, voice)
    return shown, text.getvalue(), home


def test_every_decision_is_the_one_that_the_town_expects(told: tuple[Shown, str, Home]) -> None:
    shown, _, _ = told
    expected = Counter(one.outcome for one in make_town(**SMALL).transfers)
    assert shown.tally.outcomes == expected
    assert shown.tally.surprises == 0
    assert shown.tally.recorded == expected["PERMIT"]
    assert shown.is_as_expected


def test_the_story_is_told_by_its_verified_history(told: tuple[Shown, str, Home]) -> None:
    entries = told[0].told.entries
    kinds = [EntryKind(entry.kind).name for entry in entries]
    assert kinds == [
        *("ENROL", "KEY", "GRANT", "ACCESS", "OUTCOME", "ACCESS", "OUTCOME"),
        *("AMEND", "ACCESS", "OUTCOME", "REFUSAL", "REFUSAL", "REFUSAL", "REVOKE", "REFUSAL"),
    ]
    assert {entry.author for entry in entries if entry.kind in (EntryKind.GRANT, EntryKind.AMEND)} == {"subject"}
    assert [_outcome(entry) for entry in entries if entry.kind == EntryKind.ACCESS] == [pb.OUTCOME_PERMIT] * 3
    refusals = [entry for entry in entries if entry.kind == EntryKind.REFUSAL]
    assert [_outcome(entry) for entry in refusals if _is_access(entry)] == [pb.OUTCOME_NO_CONSENT] * 3
    (request,) = (entry.message for entry in refusals if not _is_access(entry))
    assert isinstance(request, st.RefusalStatement)
    assert request.reason == st.REFUSAL_REASON_R05_UNSPECIFIED_ITEMS
    assert list(request.missing) == ["recurrence", "end", "retention"]


def test_tampering_is_found_where_it_was_done_and_nowhere_else(told: tuple[Shown, str, Home]) -> None:
    shown, _, _ = told
    assert [fault.index for fault in shown.faults] == [shown.changed]
    assert shown.report.faults == ()
    assert shown.report.statements_opened == shown.report.entries


def test_what_is_printed_is_korean_with_english_and_names_no_citizen(told: tuple[Shown, str, Home]) -> None:
    _, text, _ = told
    for part in ("동의 (consent)", "동의 범위 축소", "철회 (withdrawal)", "누가 내 정보를 봤나", "R05", "log.vkey"):
        assert part in text
    assert "SYN-0" not in text


def test_what_to_try_next_does_what_it_says(
    told: tuple[Shown, str, Home], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text, home = told
    serve, export, history, check, fsck = (shlex.split(command) for command in __main__.commands(home).values())
    serve, history, check, fsck = (
        words[words.index(verb) :]
        for words, verb in ((serve, "serve"), (history, "history"), (check, "check"), (fsck, "fsck"))
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
    with pytest.raises(InvalidError, match="not a demo"):
        make_home(tmp_path / "other")
    assert (tmp_path / "other" / "precious").read_text() == "kept"


def test_options_have_the_town_s_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENTD_DEMO_DIR", "elsewhere")
    options = __main__.parse_options([])
    assert (options.citizens, options.transfers) == (1_000, 20_000)
    assert options.dir == Path.cwd() / "elsewhere"


def _is_access(entry: Entry) -> bool:
    return isinstance(entry.message, st.RefusalStatement) and entry.message.HasField("access")


def _outcome(entry: Entry) -> int:
    message = entry.message
    record = message.access if isinstance(message, st.RefusalStatement) else message
    assert isinstance(record, st.AccessStatement)
    return record.decision.outcome
