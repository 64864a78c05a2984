"""Re-running decisions: one that was not what the consents in force made of it is found among all, and named."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cases.audits import DAEMON, JOBS, LOG, ORIGIN, SIZE, Forge, PrunedLocation, make_forge, make_half
from cases.daemons import ORIGIN as RUNNING_ORIGIN
from cases.daemons import Running, make_running, question, request_id
from cases.ledgers import flip
from cases.services import add_reader
from cases.stored_rows import get_stored, put_stored, rows_of
from consentd.audit.files import DataDirectory
from consentd.audit.live import LiveDaemon
from consentd.audit.partition import Partition, PartitionPlan
from consentd.audit.replay import ReplayReport, replay_decisions
from consentd.core import checkpoint, codec, ed25519
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, ProofError, StorageError
from consentd.table.table import Table
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import DECISION_CLOSED, DECISION_PRUNED, DECISION_UNCERTAIN, UNKNOWN_KIND


def replay(export: Any, **options: Any) -> ReplayReport:
    return replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, **{"jobs": JOBS, **options})


def go_on(forge: Forge, size: int) -> None:
    tags = [tag for tag, (count, _) in forge.heads.items() if count > 1]
    while forge.size < size:
        forge.ask(tags[forge.size % len(tags)])
    forge.seal()


def person(forge: Forge) -> bytes:
    return next(tag for tag, (count, _) in forge.heads.items() if count > 1)


def test_every_decision_comes_out_again(tmp_path: Path) -> None:
    forge = make_forge(SIZE)
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert replayed.faults == ()
    assert sum(replayed.same.values()) == len(forge.asked)
    assert set(replayed.same) == {"ACCESS", "REFUSAL"}
    assert not replayed.is_undetermined


@pytest.mark.parametrize("purpose", ["HRESCH", "CAREMGT"])
def test_one_wrong_decision_among_many_is_named(tmp_path: Path, purpose: str) -> None:
    forge = make_half(SIZE)
    forge.ask(person(forge), purpose=purpose, lie=True)
    at = forge.size - 1
    go_on(forge, SIZE)
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [fault.index for fault in replayed.faults] == [at]
    assert "outcome: recorded OUTCOME_" in replayed.faults[0].what
    assert sum(replayed.same.values()) == len(forge.asked) - 1


def test_a_permit_after_a_revoke_is_named(tmp_path: Path) -> None:
    forge = make_forge(600)
    tag = person(forge)
    forge.ask(tag)
    forge.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2)
    forge.ask(tag)
    paused = forge.size - 1
    forge.add(EntryKind.RESUME, tag, st.ResumeStatement(lineage_seq=2), ref=2)
    forge.ask(tag)
    forge.add(EntryKind.REVOKE, tag, st.RevokeStatement(lineage_seq=2), ref=2)
    forge.ask(tag)
    revoked = forge.size - 1
    forge.seal()
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [fault.index for fault in replayed.faults] == [paused, revoked]


def test_an_access_whose_caller_had_no_part_is_named(tmp_path: Path) -> None:
    forge = make_forge(200)
    tag, chain = person(forge), codec.public_tag("participant/bank")
    forge.participant("carrier", roles=[st.PARTICIPANT_ROLE_RELAY])
    given = st.DelegationStatement(giver="bank", taker="carrier", capacity=st.DELEGATION_CAPACITY_RELAY)
    wrong = []

    def ask(*, is_fault: bool, **more: Any) -> None:
        forge.ask(tag, **more)
        wrong.extend([forge.size - 1] if is_fault else [])

    ask(is_fault=True, asker="carrier")
    forge.add(EntryKind.DELEGATION, chain, given)
    ask(is_fault=False, asker="carrier")
    ask(is_fault=False, asker="hospital", relays=["carrier"])
    ask(is_fault=True, asker="carrier", purpose="HRESCH", on_behalf_of="hospital")
    for nobody in ("operator/main", "operator", "", "stranger"):
        ask(is_fault=True, asker=nobody)
    ask(is_fault=True, application="carrier")
    ask(is_fault=True, relays=["carrier", "stranger"])
    given.ended = True
    forge.add(EntryKind.DELEGATION, chain, given)
    ask(is_fault=True, asker="carrier")
    ask(is_fault=True, relays=["carrier"])
    ask(is_fault=False)
    forge.seal()
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [fault.index for fault in replayed.faults] == wrong
    assert all(fault.what.startswith("decision cannot be taken again: ") for fault in replayed.faults)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda decision: setattr(decision, "ref", 1), "ref: recorded 1"),
        (lambda decision: decision.permitted.append("CLIN.MED"), "permitted: recorded [CLIN.DX, CLIN.MED]"),
        (lambda decision: decision.obligations.append(pb.OBLIGATION_NOTIFY_SUBJECT), "obligations: recorded [OBLIG"),
        (lambda decision: setattr(decision, "valid_until_time_ms", 5), "valid_until_time_ms: recorded 5"),
        (lambda decision: setattr(decision.reasons[0], "version", 2), "reasons: recorded [REASON_CODE_PERMITTED"),
        (lambda decision: setattr(decision, "decided_time_ms", 5), "decided_time_ms: recorded 5"),
        (lambda decision: setattr(decision, "tag", bytes(32)), "tag: recorded another tag"),
        (lambda decision: setattr(decision.revision, "tree_size", 3), "revision: recorded other content"),
        (lambda decision: setattr(decision, "vocabulary_version", 9), "vocabulary_version: recorded 9"),
        (lambda decision: setattr(decision, "decision_id", "AB" * 16), "decision_id: recorded is not 32 hex digits"),
        (lambda decision: decision.ClearField("decision_id"), "decision_id: recorded is not 32 hex digits"),
    ],
)
def test_each_field_of_a_decision_is_compared(tmp_path: Path, change: Any, reported: str) -> None:
    forge = make_forge(200)
    add = forge.add

    def changed(kind: int, tag: bytes, message: Any, **more: Any) -> int:
        change(message.decision)
        more["ref"] = message.decision.ref
        return add(kind, tag, message, **more)

    forge.add = changed  # type: ignore[method-assign]
    forge.ask(person(forge))
    at = forge.size - 1
    forge.add = add  # type: ignore[method-assign]
    forge.seal()
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [fault.index for fault in replayed.faults] == [at]
    assert reported in replayed.faults[0].what


LONG = "x" * 600


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (EntryKind.PARTICIPANT, st.ParticipantStatement(participant_id=LONG)),
        (EntryKind.PARTICIPANT, st.ParticipantStatement(participant_id="p", groups=[f"group/{LONG}"])),
        (EntryKind.NOTICE, st.NoticeStatement(notice_id=LONG, version=1)),
        (EntryKind.ENROL, st.EnrolStatement(identifier_hash=LONG.encode())),
    ],
)
def test_an_id_that_the_table_cannot_hold_is_named(tmp_path: Path, kind: EntryKind, message: Any) -> None:
    forge = make_forge(300)
    forge.add(kind, codec.public_tag("x"), message)
    at = forge.size - 1
    forge.ask(person(forge))
    forge.seal()
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert {fault.index for fault in replayed.faults} == {at}


@pytest.mark.parametrize("length", [0, 31, 33, 600])
def test_a_key_of_another_length_is_named_and_changes_nothing(tmp_path: Path, length: int) -> None:
    forge = make_forge(300)
    tag = person(forge)
    at = forge.size
    forge.add(EntryKind.KEY, codec.public_tag("participant/bank"), st.KeyStatement(key=bytes(length)))
    forge.ask(tag)
    forge.seal()
    assert {fault.index for fault in replay(forge.write(tmp_path / "a", tmp_path / "b")).faults} == {at}


def test_an_emergency_access_whose_justification_says_nothing_is_named(tmp_path: Path) -> None:
    forge = make_forge(60)
    tag, size = person(forge), forge.size
    for justification in (" " * 40, "\u3164" * 40, "urgent", "unconscious patient"):
        question = pb.Question(
            actor=pb.Actor(organisation="bank"), holder="hospital", purpose="BTG", action="access",
            categories=["CLIN.DX"], break_glass=pb.BreakGlass(justification=justification),
        )  # fmt: skip
        asked = st.AskedQuestion(question=question.SerializeToString(), asker="bank")
        record = st.AccessStatement(asked=asked, decision=pb.Decision(outcome=pb.OUTCOME_PERMIT))
        forge.add(EntryKind.ACCESS, tag, record)
    forge.seal()
    faults = replay(forge.write(tmp_path / "a", tmp_path / "b")).faults
    found = {fault.index: fault.what.partition(":")[0] for fault in faults}
    assert [found[size + number] for number in range(4)] == [
        *["decision cannot be taken again"] * 3,
        "decision comes out otherwise",  # the question could be asked, and the answer was made up
    ]


def test_what_is_not_at_hand_is_counted(tmp_path: Path) -> None:
    forge = make_forge(600)
    tag = person(forge)
    grant = next(at for at, leaf in enumerate(forge.leaves) if leaf[1] == EntryKind.GRANT and leaf[10:42] == tag)
    about = [at for at in forge.asked if forge.leaves[at][10:42] == tag]
    forge.openings[grant] = forge.openings[about[0]] = None
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert replayed.faults == ()
    assert replayed.not_checked == {DECISION_CLOSED: 1, DECISION_UNCERTAIN: len(about) - 1}
    assert replayed.is_undetermined


def test_an_unknown_kind_makes_its_persons_answers_indeterminate(tmp_path: Path) -> None:
    forge = make_forge(300)
    tag = person(forge)
    forge.add(99, tag, b"of a later version")
    forge.ask(tag)
    at = forge.size - 1
    forge.seal()
    replayed = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert replayed.not_checked == {UNKNOWN_KIND: 1}
    assert [fault.index for fault in replayed.faults] == [at]
    assert "comes out OUTCOME_INDETERMINATE" in replayed.faults[0].what


def test_without_openings_nothing_can_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(InvalidError):
        replay(make_forge(300).write(tmp_path / "a"))


def test_leaves_that_the_log_did_not_sign_are_refused(tmp_path: Path) -> None:
    forge = make_forge(600)
    note = forge.note()
    forge.openings[300:400] = [None] * 100
    export = forge.write(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "checkpoint").write_bytes(note)
    replay(export)
    forge.leaves[550] = forge.leaves[549]
    export = forge.write(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "checkpoint").write_bytes(note)
    with pytest.raises(ProofError):
        replay(export)


def test_a_run_goes_on_where_an_interrupted_one_was(tmp_path: Path) -> None:
    forge = make_forge(2000)
    forge.ask(person(forge), lie=True)
    forge.seal()
    export = forge.write(tmp_path / "a", tmp_path / "b")
    whole = replay(export)

    class Interrupted(Exception):  # noqa: N818
        pass

    def interrupt(at: int, size: int) -> None:
        if at >= 1024:
            raise Interrupted

    with pytest.raises(Interrupted):
        replay(export, state_dir=tmp_path / "state", batch=2, progress=interrupt)
    for n in range(3):
        (tmp_path / "a" / "tile" / "entries" / f"{n:03d}").unlink()
    assert replay(export, state_dir=tmp_path / "state") == whole
    (tmp_path / "state" / "0-of-1" / "partition.json").unlink()
    with pytest.raises(StorageError):
        replay(export, state_dir=tmp_path / "state")


def test_a_question_that_was_signed_before_1970_is_a_fault(tmp_path: Path) -> None:
    forge = make_forge(60)
    tag, asked = person(forge), st.AskedQuestion(key=b"k" * 32, signature=b"s" * 64, author_time_ms=-1, asker="app")
    asked.question, asked.signed_tag = pb.Question(categories=["CLIN.DX"], purpose="TREAT").SerializeToString(), tag
    at = forge.size
    forge.add(EntryKind.ACCESS, tag, st.AccessStatement(asked=asked), ref=2)
    forge.seal()
    found = replay(forge.write(tmp_path / "a", tmp_path / "b"))
    assert [fault.index for fault in found.faults] == [at]


@pytest.mark.parametrize("kind", ["R", "p"])
def test_a_state_with_a_damaged_row_is_not_continued(tmp_path: Path, kind: str) -> None:
    forge = make_forge(600)
    replay(forge.write(tmp_path / "a", tmp_path / "b"), state_dir=tmp_path / "state")
    forge.participant("clinic")
    for _ in range(5):
        forge.ask(person(forge))
    forge.seal()
    table = Table.open(tmp_path / "state" / "0-of-1" / "table", map_size_mb=16)
    key = kind.encode() + next(iter(rows_of(table, kind)))
    put_stored(table, key, flip(5)(get_stored(table, key) or b""))
    table.close()
    with pytest.raises(StorageError, match="remove it") as raised:
        replay(forge.write(tmp_path / "c", tmp_path / "d"), state_dir=tmp_path / "state")
    assert "rebuild" not in str(raised.value)


# -- partitions of the persons in several processes ---------------------------------------------------------------


def people(forge: Forge) -> list[bytes]:
    return [tag for tag, (count, _) in forge.heads.items() if count > 1]


def make_eventful(size: int = 12_000) -> Forge:
    """Make a ledger in which everything happens that one share must know of, or must not: lies, gaps, the registry."""
    forge = make_half(size)
    bank, tags = codec.public_tag("participant/bank"), people(forge)
    key = ed25519.KeyPair(b"\x21" * 32)
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=key.public_key))
    for number, tag in enumerate(tags[:60]):
        if number == 20:
            # A person registers the bank's own key: it is nobody's from here on, for everybody's questions.
            forge.add(EntryKind.KEY, tags[0], st.KeyStatement(key=key.public_key))
        if number == 40:
            forge.participant("clinic")
            forge.openings[-1] = b"\1" * 200
            forge.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2)
        if number % 7 == 0:
            forge.add(99, tag, b"of a later version")
        if number % 5 == 0:
            forge.add(EntryKind.REVOKE, tag, st.RevokeStatement(lineage_seq=2), ref=2)
            forge.openings[-1] = None if number % 2 else forge.openings[-1]
        forge.ask(tag, lie=number % 9 == 0)
        forge.ask(tag, key=key)
    while forge.size < size:
        forge.ask(tags[60 + forge.size % 200])
    for tag in tags[5:60:10]:
        forge.ask(tag)  # the withdrawal is not available
    forge.seal()
    return forge


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2, 3])
def test_shares_find_together_what_one_process_finds(tmp_path: Path, jobs: int) -> None:
    export = make_eventful().write(tmp_path / "a", tmp_path / "b")
    alone = replay(export, jobs=1)
    assert replay(export, jobs=jobs) == alone
    assert not alone.stopped
    assert {UNKNOWN_KIND, DECISION_UNCERTAIN} <= alone.not_checked.keys()
    reported = " ".join(fault.what for fault in alone.faults)
    for what in ("outcome: recorded OUTCOME_", "asker's key was not in force", "entry cannot be applied"):
        assert what in reported
    assert sum("entry cannot be applied" in fault.what for fault in alone.faults) == 1


@pytest.mark.slow
def test_the_search_ends_at_the_hundredth_fault_however_many_look(tmp_path: Path) -> None:
    forge = make_forge(500)
    for number in range(9_000):
        forge.ask(people(forge)[number % 20], lie=number % 60 == 0)
    forge.seal()
    export = forge.write(tmp_path / "a", tmp_path / "b")
    alone = replay(export, jobs=1)
    assert alone.stopped
    assert len(alone.faults) == 100
    assert alone.entries < forge.size
    assert replay(export, jobs=2) == alone
    assert replay(export, jobs=2, state_dir=tmp_path / "state") == alone
    again = replay(export, jobs=2, state_dir=tmp_path / "state")
    assert (again.faults, again.stopped) == (alone.faults, True)


@pytest.mark.slow
def test_partitions_go_on_wherever_each_of_them_was(tmp_path: Path) -> None:
    export = make_eventful().write(tmp_path / "a", tmp_path / "b")
    alone = replay(export, jobs=1)
    point, _ = checkpoint.open_checkpoint((tmp_path / "a" / "checkpoint").read_bytes(), ORIGIN, LOG.verifier)
    for number, rounds in enumerate(((24, 29), (23, 25))):
        for bundles in rounds:
            directory = tmp_path / "state"
            partition = Partition(PartitionPlan(location=export, point=point, directory=directory, number=number, of=2))
            partition.replay(0, bundles)
            partition.close()
            with (directory / f"{number}-of-2" / "unreadable").open("ab") as file:
                file.write(b"what a run wrote that was killed before its commit")
    seen: list[int] = []
    # As many processes as it began with, whatever is asked for.
    again = replay(export, jobs=1, batch=3, state_dir=tmp_path / "state", progress=lambda at, _: seen.append(at))
    assert again == alone
    assert seen[0] == 25 * 256
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["0-of-2", "1-of-2"]


@pytest.mark.slow
def test_partitions_refuse_what_one_process_refuses(tmp_path: Path) -> None:
    forge = make_forge(600)
    signed = forge.note()
    with pytest.raises(InvalidError):
        replay(forge.write(tmp_path / "c"), jobs=2, state_dir=tmp_path / "state")
    forge.leaves[550] = forge.leaves[549]
    export = forge.write(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "checkpoint").write_bytes(signed)
    with pytest.raises(ProofError):
        replay(export, jobs=2, state_dir=tmp_path / "state")


def test_what_is_pruned_is_no_fault_and_the_rest_is_decided_again(tmp_path: Path) -> None:
    forge = make_forge(1500, people=400)
    start = next(seal for seal in forge.seals if seal > 600) + 1
    # Statements go up to a later time than leaves.
    kept_from_ms = codec.decode_leaf(forge.leaves[start + 300]).time_ms
    forge.openings = [
        None if leaf[1] in PRUNABLE and codec.decode_leaf(leaf).time_ms < kept_from_ms else opening
        for leaf, opening in zip(forge.leaves, forge.openings, strict=True)
    ]
    tags = people(forge)
    later = forge.size
    for tag in tags:
        forge.ask(tag, purpose="HRESCH")  # rests on no consent
    forge.seal()
    exported = forge.write(tmp_path / "a", tmp_path / "b")
    export = PrunedLocation(forge, exported, start, kept_from_ms)
    replayed = replay(export, jobs=1)
    assert {fault.index for fault in replayed.faults if fault.index is not None and fault.index >= later} == set()
    assert replayed.not_checked[DECISION_PRUNED] > 0
    assert {DECISION_CLOSED, DECISION_UNCERTAIN}.isdisjoint(replayed.not_checked)
    assert replayed.same["REFUSAL"] >= len(tags)


# -- a real daemon ----------------------------------------------------------------------------------------------


MIX: tuple[tuple[dict[str, Any], int], ...] = (
    ({}, 30),
    ({"categories": ["CLIN.RX"]}, 20),
    ({"categories": ["CLIN.DX", "CLIN.RX"]}, 15),
    ({"purpose": "HRESCH"}, 10),
    ({"categories": ["CLIN.DX", "NO.SUCH"]}, 10),
)
"""Questions about one person, and how many of each there are in a hundred. The rest: about a person without consent."""


def mixed(person: pb.Subject, stranger: pb.Subject, count: int) -> list[pb.Question]:
    """Return *count* questions in the proportions of ``MIX``, in a mixed order that is the same each time."""
    hundred = [question(person, **changed) for changed, number in MIX for _ in range(number)]
    hundred += [question(stranger)] * (100 - len(hundred))
    questions = hundred * (count // 100)
    random.Random(count).shuffle(questions)
    return questions


def outcomes(running: Running, questions: Sequence[pb.Question]) -> Counter[str]:
    """Authorise each question; return how often each outcome was the answer."""
    asked = [ac.AuthorizeAccessRequest(request_id=request_id(), question=one) for one in questions]
    request = ac.BatchAuthorizeAccessesRequest(requests=asked)
    results = running.access.BatchAuthorizeAccesses(request, metadata=running.as_("app")).results
    return Counter(pb.Outcome.Name(one.response.decision.outcome) for one in results)


@pytest.mark.slow
def test_what_a_daemon_decided_comes_out_again(tmp_path: Path) -> None:
    """Permits, denies, partial answers, break-glass with and without the right, a refused grant, a change between."""
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        subject, other = running.enrol("SYN-1"), running.enrol("SYN-2")
        consent_id = running.grant(subject)
        running.grant(subject, categories=["CLIN.RX"], effect=pb.EFFECT_DENY)
        for each in (subject, other):
            for categories in (["CLIN.DX"], ["CLIN"], ["CLIN.RX"], ["CLIN.DX", "NO.SUCH"]):
                running.authorize(question(each, categories=categories))
        urgent = {"purpose": "BTG", "break_glass": pb.BreakGlass(justification="unconscious")}
        running.authorize(question(subject, actor=pb.Actor(organisation="er"), **urgent), "er")
        running.authorize(question(subject, **urgent), "clinic-b")
        running.registry.PublishRules(
            rs.PublishRulesRequest(
                request_id=request_id(),
                attested=st.RulesStatement(
                    realm_id="realm", version=2, combining=pb.COMBINING_PERMIT_OVERRIDES,
                    implicit_policy=pb.IMPLICIT_POLICY_DENY, vocabulary_id=_vocabulary(running),
                    break_glass=[pb.Provision(effect=pb.EFFECT_PERMIT, purposes=["BTG"], categories=["CLIN"])],
                    quotas=st.Quotas(entries_per_day=10_000, refusals_per_day=10_000),
                ),
            ),
            metadata=running.as_("operator"),
        )
        running.authorize(question(subject, actor=pb.Actor(organisation="er"), **urgent), "er")
        running.authorize(question(subject))
        running.consents.RevokeConsent(
            cs.RevokeConsentRequest(
                request_id=request_id(), subject=subject, consent_id=consent_id, attested=st.RevokeStatement()
            ),
            metadata=running.as_("app"),
        )
        running.authorize(question(subject))
        refused = pb.Consent(
            kind=pb.CONSENT_KIND_TRANSFER_REQUEST,
            root=pb.Provision(
                effect=pb.EFFECT_PERMIT, actors=["clinic-b"], purposes=["TREAT"], categories=["CLIN"],
            ),
        )
        running.consents.GrantConsent(
            cs.GrantConsentRequest(
                request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=refused)
            ),
            metadata=running.as_("app"),
        )
        carer = running.enrol("SYN-3")
        given = running.grant(carer, categories=["CLIN.DX"])
        running.grant(carer, categories=["CLIN.RX"], effect=pb.EFFECT_DENY)
        assert outcomes(running, mixed(carer, other, 300)) == {
            "OUTCOME_PERMIT": 90, "OUTCOME_DENY": 60, "OUTCOME_PARTIAL": 45 + 30, "OUTCOME_NO_CONSENT": 30 + 45
        }  # fmt: skip
        running.consents.RevokeConsent(
            cs.RevokeConsentRequest(
                request_id=request_id(), subject=carer, consent_id=given, attested=st.RevokeStatement()
            ),
            metadata=running.as_("app"),
        )
        assert outcomes(running, mixed(carer, other, 100)) == {
            "OUTCOME_DENY": 20 + 15, "OUTCOME_INDETERMINATE": 10, "OUTCOME_NO_CONSENT": 30 + 10 + 15
        }  # fmt: skip
        running.check_ledger()
        daemon = running.daemon
        live = LiveDaemon(
            url=f"http://127.0.0.1:{daemon.http_port}", target=f"127.0.0.1:{daemon.grpc_port}",
            token=running.tokens[add_reader(running)],
        )
        options: dict[str, Any] = {
            "origin": RUNNING_ORIGIN, "log_verifier": read_signing_key(running.config.keys.log_key_file).verifier,
        }
        outside = replay_decisions(
            LiveDaemon(url=live.url, target=live.target, token=running.tokens["pipc"]), **options
        )
        assert outside.same == {}
        assert outside.is_undetermined
    finally:
        running.stop()
    export = DataDirectory.of_config(running.config)
    replayed = replay_decisions(export, **options)
    assert replayed.faults == ()
    # Singly asked: five permitted or in part, eight refused, and one refused grant.
    assert replayed.same == {"ACCESS": 5 + 90 + 75, "REFUSAL": 8 + 1 + 60 + 75 + 100}
    assert replayed.not_checked == {}


def _vocabulary(running: Any) -> str:
    found = running.registry.GetVocabulary(rs.GetVocabularyRequest(), metadata=running.as_("operator"))
    return str(found.vocabulary.vocabulary_id)



@pytest.mark.parametrize("jobs", [1, 3])
def test_a_refusal_that_says_that_an_enrolled_person_is_not_is_named(tmp_path: Path, jobs: int) -> None:
    """The unknown chain and the person are in different partitions. An erased person is not enrolled any more."""
    forge = make_forge(300)
    unknown = b"\xee" * 32
    enrolled, erased, stranger = (hashlib.sha256(b"id %d" % number).digest() for number in (1000, 1001, 1002))
    forge.ask(unknown, purpose="HRESCH", hashed=enrolled)
    forge.enrol(1000)
    gone = forge.enrol(1001)
    forge.ask(unknown, purpose="HRESCH", hashed=enrolled)
    first = forge.size - 1
    forge.ask(unknown, purpose="HRESCH", hashed=erased)
    second = forge.size - 1
    forge.add(EntryKind.ERASURE, gone, b"")
    third = forge.size - 1
    forge.ask(unknown, purpose="HRESCH", hashed=erased)
    forge.ask(unknown, purpose="HRESCH", hashed=stranger)
    forge.seal()
    export = forge.write(tmp_path / "a", tmp_path / "b")
    replayed = replay(export, jobs=jobs, state_dir=tmp_path / "state")
    assert [fault.index for fault in replayed.faults] == [first, second, third]
    assert all("is of one who was enrolled before" in fault.what for fault in replayed.faults[:2])
    assert "ordered by a participant" in replayed.faults[2].what  # the daemon alone signed this one


@pytest.mark.parametrize("jobs", [1, 3])
def test_who_ordered_an_erasure_is_checked_once_the_statements_are_deleted(tmp_path: Path, jobs: int) -> None:
    forge = make_forge(200)
    orders = {"daemon": DAEMON, "pipc": ed25519.KeyPair(b"\x81" * 32), "court": ed25519.KeyPair(b"\x82" * 32)}
    for name, rights in (("pipc", [st.PARTICIPANT_RIGHT_ERASE]), ("court", [])):
        forge.participant(name, roles=[st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY], rights=rights)
        stated = st.KeyStatement(key=orders[name].public_key)
        forge.add(EntryKind.KEY, codec.public_tag(f"participant/{name}"), stated)
    unknown, erased = b"\xee" * 32, dict[str, int]()
    forge.ask(unknown, purpose="HRESCH", hashed=b"\x91" * 32)
    tags = {name: forge.enrol(2000 + number) for number, name in enumerate(orders)} | {"unknown": unknown}
    forge.openings = [
        None if any(tag in leaf for tag in tags.values()) else opening
        for leaf, opening in zip(forge.leaves, forge.openings, strict=True)
    ]
    for name, tag in tags.items():
        erased[name] = forge.size
        forge.add(EntryKind.ERASURE, tag, st.ErasureStatement(legal_basis="STATUTE"), key=orders.get(name, DAEMON))
    forge.seal()
    export = forge.write(tmp_path / "a", tmp_path / "b")
    replayed = replay(export, jobs=jobs, state_dir=tmp_path / "state")
    assert [fault.index for fault in replayed.faults] == [erased["daemon"], erased["court"]]
