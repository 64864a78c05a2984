"""Outcomes that name categories which their access did not permit: recorded, and seen by each reader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.audits import JOBS, LOG, ORIGIN, Forge, make_forge
from cases.command_lines import CommandLine
from cases.daemons import Running, running_daemon
from consentd.audit import access_summary
from consentd.audit.page import render
from consentd.audit.replay import ReplayReport, replay_decisions
from consentd.core import codec, note
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.server.keys import read_keys
from consentd.statements.outcomes import OutcomeComparison, beyond_permit, permitted_by
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import MAX_FAULTS, OUTCOME_UNCOMPARED

SENT = st.TRANSFER_STATUS_SENT


def access(permitted: list[str], asked: list[str], outcome: int = pb.OUTCOME_PERMIT) -> st.AccessStatement:
    asking = st.AskedQuestion(question=pb.Question(categories=asked).SerializeToString())
    return st.AccessStatement(asked=asking, decision=pb.Decision(outcome=pb.Outcome.Name(outcome), permitted=permitted))


def sent(*categories: str) -> st.OutcomeStatement:
    return st.OutcomeStatement(status=SENT, categories=categories)


# -- the comparison -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permitted", "asked", "outcome", "named", "beyond"),
    [
        (["A.X"], ["A.X"], pb.OUTCOME_PERMIT, [], ()),
        (["A.X"], ["A.X"], pb.OUTCOME_PERMIT, ["A.X"], ()),
        (["A.X"], ["A.X"], pb.OUTCOME_PERMIT, ["A.Y"], ("A.Y",)),
        (["A.X"], ["A.X"], pb.OUTCOME_PERMIT, ["A"], ("A",)),
        (["A.X", "A.Y"], ["A"], pb.OUTCOME_PERMIT, ["A", "A.Y"], ()),
        (["A.X"], ["A"], pb.OUTCOME_PARTIAL, ["A", "A.X"], ("A",)),
        (["A.X"], ["A.X", "A.Y"], pb.OUTCOME_PARTIAL, ["A.Y"], ("A.Y",)),
        (["A.X"], ["A.X"], pb.OUTCOME_PERMIT, ["B", "A.X", "C", "B"], ("B", "C")),
        (["A.X"], ["A.X"], pb.OUTCOME_PERMIT, ["a.x", "A.X ", ""], ("a.x", "A.X ", "")),
        ([], ["A.X"], pb.OUTCOME_DENY, ["A.X"], ("A.X",)),
    ],
)  # fmt: skip
def test_a_category_is_permitted_by_its_code(
    permitted: list[str], asked: list[str], outcome: int, named: list[str], beyond: tuple[str, ...]
) -> None:
    assert beyond_permit(sent(*named), permitted_by(access(permitted, asked, outcome))) == beyond


def test_a_question_that_does_not_decode_permits_no_more_than_the_decision() -> None:
    unread = access(["A.X"], ["A"])
    unread.asked.question = b"\xff"
    assert permitted_by(unread) == {"A.X"}


def event(seq: int, *, ref: int = 0, tag: int = 1) -> codec.Event:
    kind = EntryKind.OUTCOME if ref else EntryKind.ACCESS
    return codec.Event(kind, 0, bytes([tag]) * 32, seq, bytes(32), bytes(32), ref)


def test_only_accesses_of_the_same_chain_that_came_before_are_compared_with() -> None:
    found = OutcomeComparison(most=2)
    assert found.add(event(2, ref=1), sent("A")) is None
    assert found.add(event(2, ref=1), sent()) == ()
    assert found.add(event(3), access(["A"], ["A"])) == ()
    assert found.add(event(4, ref=3), sent("A")) == ()
    assert found.add(event(5, ref=3), sent("A", "B")) == ("B",)
    assert found.add(event(4, ref=3, tag=2), sent("A")) is None
    assert found.add(event(6), None) == ()
    assert found.add(event(7, ref=6), sent("A")) is None
    for seq in (8, 9):
        found.add(event(seq), access(["A"], ["A"]))
    assert found.add(event(10, ref=3), sent("B")) is None
    assert found.add(event(11, ref=9), sent("B")) == ("B",)


# -- audits ---------------------------------------------------------------------------------------------------------


def add_outcome(forge: Forge, tag: bytes, *categories: str, ref: int = 0, by: str = "bank", **more: Any) -> int:
    """Append an outcome of the person's last entry, unless *ref* says another; return the outcome's index."""
    at, message = forge.size, sent(*categories)
    if by:
        message.attestation.attested_by = by
    forge.add(EntryKind.OUTCOME, tag, message, ref=ref or forge.heads[tag][0], **more)
    return at


def begun() -> tuple[Forge, bytes]:
    """Return a ledger and a person in it whose last entry is an ACCESS to CLIN.DX."""
    forge = make_forge(60)
    tag = forge.enrol(999)
    forge.ask(tag)
    return forge, tag


def replay(location: Any, **options: Any) -> ReplayReport:
    return replay_decisions(location, origin=ORIGIN, log_verifier=LOG.verifier, **{"jobs": JOBS, **options})


def summary(location: Any) -> access_summary.AccessSummary:
    return access_summary.summarise(location, origin=ORIGIN, log_verifier=LOG.verifier)


def test_an_audit_names_and_counts_them(tmp_path: Path) -> None:
    forge, tag = begun()
    seq = forge.heads[tag][0]
    wrong = [add_outcome(forge, tag, "CLIN.DX", "CLIN.RX")]
    add_outcome(forge, tag, "CLIN.DX", ref=seq)
    add_outcome(forge, tag, ref=seq)
    other = forge.enrol(998)
    forge.ask(other)
    wrong.append(add_outcome(forge, other, "MENTAL"))
    uncompared = [add_outcome(forge, tag, "CLIN.DX", ref=1)]
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    for jobs in (1, 2):
        report = replay(export, jobs=jobs, state_dir=tmp_path / f"state-{jobs}")
        assert (report.faults, report.is_undetermined) == ((), False)
        assert (list(report.beyond), report.beyond_count) == (wrong, 2)
        assert report.not_checked == {OUTCOME_UNCOMPARED: len(uncompared)}
    found = summary(export)
    assert (found.beyond_permit, found.uncompared) == (2, 1)
    assert "<b>2</b><span>허용 범위를 넘은 전송" in render(found, made_s=0)


def test_a_replay_continues_and_names_no_more_than_a_limit(tmp_path: Path) -> None:
    forge, tag = begun()
    seq = forge.heads[tag][0]
    for _ in range(MAX_FAULTS + 5):
        add_outcome(forge, tag, "CLIN.RX", ref=seq)
    forge.seal()
    state = {"state_dir": tmp_path / "state"}
    report = replay(forge.write(tmp_path / "a", tmp_path / "b"), **state)
    assert (len(report.beyond), report.beyond_count, report.stopped) == (MAX_FAULTS, MAX_FAULTS + 5, False)
    add_outcome(forge, tag, "CLIN.RX", ref=seq)  # of an access that the first run has read
    forge.seal()
    report = replay(forge.write(tmp_path / "a", tmp_path / "b"), **state)
    assert (len(report.beyond), report.beyond_count, report.not_checked) == (MAX_FAULTS, MAX_FAULTS + 6, {})


def test_an_audit_names_who_says_for_the_holder_that_a_recurring_transfer_failed(tmp_path: Path) -> None:
    forge, tag = begun()
    failed = st.TRANSFER_STATUS_FAILED

    def transfer(*uses: st.RecurrenceUse) -> int:
        asked = pb.Question(holder="hospital", actor=pb.Actor(organisation="bank"))
        used = st.AccessStatement(
            asked=st.AskedQuestion(asker="bank", question=asked.SerializeToString()), uses=uses
        )
        forge.add(EntryKind.ACCESS, tag, used)
        return forge.heads[tag][0]

    def report(seq: int, by: str, status: int) -> int:
        at = forge.size
        message = st.OutcomeStatement(status=status, attestation=st.Attestation(attested_by=by))
        forge.add(EntryKind.OUTCOME, tag, message, ref=seq)
        return at

    plain, used = transfer(), transfer(st.RecurrenceUse(lineage_seq=9, categories=["CLIN.DX"]))
    for by in ("bank", "hospital"):
        report(plain, by, failed)
        report(used, by, st.TRANSFER_STATUS_SENT)
    report(used, "hospital", failed)
    wrong = report(used, "bank", failed)
    forge.seal()
    report_of = replay(forge.write(tmp_path / "ledger", tmp_path / "openings"))
    named = [fault.index for fault in report_of.faults if "recurring consent" in fault.what]
    assert named == [wrong]


def test_an_audit_names_the_outcomes_of_those_who_had_no_part(tmp_path: Path) -> None:
    forge, tag = begun()
    seq, shop, bank = forge.heads[tag][0], KeyPair(b"\x31" * 32), KeyPair(b"\x32" * 32)
    for name, key in (("shop", shop), ("bank", bank)):
        forge.participant(name)
        forge.add(EntryKind.KEY, codec.public_tag(f"participant/{name}"), st.KeyStatement(key=key.public_key))
    for by in ("bank", "hospital"):
        add_outcome(forge, tag, ref=seq, by=by)
    add_outcome(forge, tag, ref=seq, by="", key=bank)
    wrong = [add_outcome(forge, tag, ref=seq, by=by) for by in ("shop", "", "operator/main")]
    wrong.append(add_outcome(forge, tag, "CLIN.RX", ref=seq, by="", key=shop))
    add_outcome(forge, tag, ref=1, by="shop")  # of no access
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    for jobs in (1, 2):
        report = replay(export, jobs=jobs, state_dir=tmp_path / f"state-{jobs}")
        assert [fault.index for fault in report.faults] == wrong
        assert all("had no part in the access" in fault.what for fault in report.faults)
        assert list(report.beyond) == wrong[3:]
    found = summary(export)
    assert (found.strangers, found.beyond_permit) == (4, 1)
    assert "4 outcomes were reported by participants that had no part" in render(found, made_s=0)


def test_an_access_of_a_later_version_may_have_other_parties(tmp_path: Path) -> None:
    forge = make_forge(60)
    tag, later = forge.enrol(999), b"\xf8\x3f\x01"
    question = pb.Question(actor=pb.Actor(organisation="bank")).SerializeToString()
    for asked, more in ((question + later, b""), (question, later), (b"\xff", b"")):
        stated = st.AccessStatement(asked=st.AskedQuestion(question=asked, asker="bank"))
        forge.add(EntryKind.ACCESS, tag, stated.SerializeToString() + more, ref=2)
        add_outcome(forge, tag, by="shop")
    forge.seal()
    export = forge.write(tmp_path / "a", tmp_path / "b")
    assert summary(export).strangers == 0
    assert not any("had no part" in fault.what for fault in replay(export).faults)


def test_a_consent_does_not_rest_on_an_access(tmp_path: Path) -> None:
    forge, tag = begun()
    at, seq = forge.size, forge.heads[tag][0]
    granted = st.GrantStatement(served_seq=seq)
    granted.consent.kind = pb.CONSENT_KIND_CONSENT
    granted.consent.root.CopyFrom(pb.Provision(
        effect=pb.EFFECT_PERMIT, actors=["bank"], purposes=["CAREMGT"], categories=["CLIN.DX"]
    ))  # fmt: skip
    forge.add(EntryKind.GRANT, tag, granted)
    forge.seal()
    report = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [fault.index for fault in report.faults] == [at]


def test_the_report_remembers_a_limited_number_of_accesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_summary, "MAX_ACCESSES", 1)
    forge, tag = begun()
    seq = forge.heads[tag][0]
    forge.ask(tag)
    add_outcome(forge, tag, "CLIN.RX")
    add_outcome(forge, tag, "CLIN.RX", ref=seq)
    forge.seal()
    found = summary(forge.write(tmp_path / "a", tmp_path / "b"))
    assert (found.beyond_permit, found.uncompared) == (1, 1)
    assert "1 outcomes could not be compared" in render(found, made_s=0)


def test_the_command_lines_name_them_and_exit_as_before(tmp_path: Path) -> None:
    forge, tag = begun()
    at = add_outcome(forge, tag, "CLIN.RX")
    forge.seal()
    forge.write(tmp_path / "log", tmp_path / "openings")
    source = (tmp_path / "log", "--statements", tmp_path / "openings", "--log-key", note.format_vkey(LOG.verifier))
    replayed = CommandLine({})("audit", "replay", *source, "--jobs", 1, "--json")
    named, answer = replayed.objects
    assert (replayed.status, answer["verdict"], answer["faults"], answer["beyond_permit"]) == (0, "proven", 0, 1)
    assert (named["type"], named["index"]) == ("beyond_permit", at)
    reported = CommandLine({})("audit", "report", tmp_path / "page.html", "--from", *source, "--json")
    assert (reported.status, reported.object["beyond_permit"]) == (0, 1)


# -- a daemon -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def talk(running: Running) -> CommandLine:
    """Run a verb against the daemon, as the app."""
    key = note.format_vkey(read_keys(running.config).log.verifier)
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return CommandLine({"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens["app"], "CONSENTD_LOG_KEY": key})


def test_the_daemon_records_one_and_its_readers_show_it(talk: CommandLine, tmp_path: Path) -> None:
    person, rest = "mhid:OUT-1", ("--holder", "hospital-a", "--purpose", "TREAT", "--category")
    ask = ("authorize", person, "--actor", "clinic-b", *rest, "CLIN.DX")
    tag = talk("enrol", person).out.strip()
    assert talk("grant", person, "--recipient", "clinic-b", *rest, "CLIN").status == 0
    authorized = talk(*ask, "--json").object
    access_seq = authorized["access_seq"]
    for categories in (("CLIN.DX",), ("CLIN.DX", "MENTAL", "x\ny")):
        named = [part for one in categories for part in ("--category", one)]
        assert talk("record", person, "--access-seq", access_seq, "--status", "sent", *named).status == 0
    beyond = "sent CLIN.DX+MENTAL+x\\u000ay (beyond what was permitted: MENTAL+x\\u000ay)"
    assert f"\n      sent CLIN.DX\n      {beyond}\n" in talk("accesses", person).out
    assert talk(*ask, "--receipt", tmp_path / "receipt").status == 0  # waits until it is published
    for more in (("--tag", tag), ("--parts", tmp_path / "parts")):
        shown = talk("history", person, *more)
        assert shown.status == 0
        assert f"outcome: {beyond}  [" in shown.out
        assert shown.out.count("beyond") == 1
    assert "(허용되지 않은 정보: MENTAL+" in talk("history", person, "--tag", tag, "--lang", "ko").out
    entries = [one for one in talk("history", person, "--tag", tag, "--json").objects if one["type"] == "entry"]
    assert [one["beyond_permit"] for one in entries if one["kind"] == "OUTCOME"] == [[], ["MENTAL", "x\ny"]]
    assert all("beyond_permit" not in one for one in entries if one["kind"] != "OUTCOME")
