"""A participant signs its own record: it states and narrows, and an operator alone widens. Daemon, client, replay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.audits import DAEMON, JOBS, LOG, Forge
from cases.audits import ORIGIN as FORGED
from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, request_id, running_daemon, sign_statement
from cases.notices import make_notice
from cases.services import add_key, attest_key, now_ms, participant, publish_rules, refusal, retire_key
from consentd.audit.replay import replay_decisions
from consentd.core import codec, note
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError
from consentd.secret_files import make_secret_file
from consentd.sequencer.commands.participants import check_not_wider
from consentd.server.keys import read_keys
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, StatementSigner, pin

LAB, OTHER = KeyPair(b"\x41" * 32), KeyPair(b"\x42" * 32)
HOLDER, RECIPIENT = st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT
RECORD: dict[str, Any] = {
    "participant_id": "lab", "name": {"en": "Lab"}, "roles": [HOLDER, RECIPIENT],
    "rights": [st.PARTICIPANT_RIGHT_SEE_REASONS, st.PARTICIPANT_RIGHT_BREAK_GLASS], "groups": ["group/labs"],
    "active": True, "country": "JP", "recipient_class": st.RECIPIENT_CLASS_GENERAL_RECIPIENT,
    "certificate_names": ["dns:lab.example"], "type": "11",
}  # fmt: skip
STATED: list[dict[str, Any]] = [
    {"name": {"en": "The Lab", "ko": "검사실"}}, {"type": "21"},
]  # fmt: skip
"""What a participant with a key states itself."""
NARROWER: list[dict[str, Any]] = [
    {"roles": [RECIPIENT]}, {"rights": [st.PARTICIPANT_RIGHT_SEE_REASONS]}, {"rights": []}, {"groups": []},
    {"country": "US"}, {"certificate_names": []}, {"active": False},
]  # fmt: skip
WIDER: list[dict[str, Any]] = [
    {"roles": [HOLDER, RECIPIENT, st.PARTICIPANT_ROLE_AUDITOR]},
    {"roles": [st.PARTICIPANT_ROLE_AUDITOR], "rights": [], "recipient_class": st.RECIPIENT_CLASS_UNSPECIFIED},
    {"rights": [st.PARTICIPANT_RIGHT_ERASE]}, {"groups": ["group/labs", "group/clinics"]},
    {"groups": ["group/clinics"]},
    {"country": "KR"}, {"country": ""}, {"recipient_class": st.RECIPIENT_CLASS_GENERAL_AGENCY},
    {"recipient_class": st.RECIPIENT_CLASS_UNSPECIFIED},
    {"certificate_names": ["dns:lab.example", "dns:b.example"]}, {"certificate_names": ["uri:urn:b"]},
]  # fmt: skip


def record(**changed: Any) -> st.ParticipantStatement:
    return st.ParticipantStatement(**{**RECORD, **changed})


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A daemon with a lab that has a key; its ledger is verified afterwards."""
    with running_daemon(tmp_path) as running:
        attest(running, record())
        running.add_caller("lab")
        add_key(running, "lab", LAB)
        yield running
        running.check_ledger()


def attest(running: Running, message: st.ParticipantStatement, who: str = "operator") -> pb.Receipt:
    request = rs.RegisterParticipantRequest(request_id=request_id(), attested=message)
    return running.registry.RegisterParticipant(request, metadata=running.as_(who)).receipt


def sign(
    running: Running, message: st.ParticipantStatement, *, who: str = "lab", key: KeyPair = LAB, chain: str = "lab"
) -> pb.Receipt:
    request = rs.RegisterParticipantRequest(request_id=request_id())
    request.signed.CopyFrom(sign_statement(
        key, message, kind=EntryKind.PARTICIPANT, tag=codec.public_tag(f"participant/{chain}"),
        request=request.request_id, time_ms=now_ms(running),
    ))  # fmt: skip
    return running.registry.RegisterParticipant(request, metadata=running.as_(who)).receipt


def recorded(running: Running) -> st.ParticipantStatement:
    found = participant(running, "lab").participant
    found.ClearField("attestation")
    return found


# -- the participant signs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [*STATED, *NARROWER])
def test_a_participant_states_and_narrows_its_record(running: Running, change: dict[str, Any]) -> None:
    sign(running, record(**change))
    assert recorded(running) == record(**change)
    assert not participant(running, "lab").participant.HasField("attestation")


@pytest.mark.parametrize("change", WIDER)
def test_a_participant_does_not_widen_its_record(running: Running, change: dict[str, Any]) -> None:
    assert refusal(lambda: sign(running, record(**change))) == "CALLER_NOT_ALLOWED"
    assert recorded(running) == record()
    attest(running, record(**change))
    assert recorded(running) == record(**change)


def test_one_that_has_left_does_not_come_back_by_itself(running: Running) -> None:
    sign(running, record(active=False))
    assert refusal(lambda: sign(running, record())) == "CALLER_NOT_ALLOWED"
    with pytest.raises(DeniedError):
        check_not_wider(record(), record(active=False))
    attest(running, record())
    assert recorded(running) == record()


def test_who_receives_nothing_any_more_has_no_class(running: Running) -> None:
    attest(running, record(roles=[HOLDER, st.PARTICIPANT_ROLE_AUDITOR]))
    bare = record(
        roles=[st.PARTICIPANT_ROLE_AUDITOR], rights=[], recipient_class=st.RECIPIENT_CLASS_UNSPECIFIED
    )
    sign(running, bare)
    assert recorded(running) == bare


def test_a_participant_signs_for_itself_alone(running: Running) -> None:
    of_clinic = record(participant_id="clinic-b")
    assert refusal(lambda: sign(running, of_clinic, chain="clinic-b")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: sign(running, of_clinic)) == "CALLER_NOT_ALLOWED"
    for who in ("operator", "clinic-b", "app"):  # who passes on what the lab signed
        assert refusal(lambda who=who: sign(running, record(), who=who)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: sign(running, record(), key=OTHER)) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: sign(running, record(), chain="clinic-b")) == "BAD_SIGNATURE"
    running.add_caller("nobody")
    unknown = record(participant_id="nobody", certificate_names=[])
    assert refusal(lambda: sign(running, unknown, who="nobody", chain="nobody")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: attest(running, record(type="21"), who="lab")) == "CALLER_NOT_ALLOWED"
    assert recorded(running) == record()


# -- an operator attests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", STATED)
def test_an_operator_attests_nothing_that_a_participant_with_a_key_states(
    running: Running, change: dict[str, Any]
) -> None:
    assert refusal(lambda: attest(running, record(**change))) == "SIGN_WITH_KEY"
    retire_key(running, "lab", LAB.public_key)
    attest(running, record(**change))
    assert recorded(running) == record(**change)


@pytest.mark.parametrize("change", NARROWER)
def test_an_operator_narrows_the_record_of_a_participant_with_a_key(running: Running, change: dict[str, Any]) -> None:
    attest(running, record(**change))
    assert recorded(running) == record(**change)


def test_an_operator_attests_the_first_key_and_one_after_all_are_retired(running: Running) -> None:
    assert refusal(lambda: attest_key(running, "lab", OTHER)) == "SIGN_WITH_KEY"
    retire_key(running, "lab", LAB.public_key)
    add_key(running, "lab", OTHER)
    assert participant(running, "lab").keys == [OTHER.public_key]
    assert refusal(lambda: sign(running, record(type="21"))) == "KEY_NOT_IN_FORCE"
    sign(running, record(type="21"), key=OTHER)


def test_a_new_participant_is_active(running: Running) -> None:
    new = st.ParticipantStatement(participant_id="new", name={"en": "New"}, roles=[HOLDER])
    assert refusal(lambda: attest(running, new)) == "INVALID_REQUEST"
    new.active = True
    attest(running, new)
    new.active = False
    attest(running, new)  # it has left


# -- notices --------------------------------------------------------------------------------------------------------


def notice(version: int = 1, participant_id: str = "lab") -> st.NoticeStatement:
    made = make_notice("lab/privacy", version)
    made.participant_id = participant_id
    return made


def publish(running: Running, message: st.NoticeStatement, who: str = "lab", key: KeyPair | None = None) -> pb.Receipt:
    request = rs.PublishNoticeRequest(request_id=request_id())
    if key is None:
        request.attested.CopyFrom(message)
    else:
        request.signed.CopyFrom(sign_statement(
            key, message, kind=EntryKind.NOTICE, tag=codec.public_tag(f"notice/{message.notice_id}"),
            request=request.request_id, time_ms=now_ms(running),
        ))  # fmt: skip
    return running.registry.PublishNotice(request, metadata=running.as_(who)).receipt


def test_a_participant_publishes_its_notice_and_no_operator_does_in_its_place(running: Running) -> None:
    publish(running, notice(), key=LAB)
    assert refusal(lambda: publish(running, notice(2), "operator")) == "SIGN_WITH_KEY"
    assert refusal(lambda: publish(running, notice(2))) == "CALLER_NOT_ALLOWED"
    for who, whose in (("clinic-b", "lab"), ("lab", "clinic-b"), ("lab", ""), ("operator", "lab")):
        reason = refusal(lambda who=who, whose=whose: publish(running, notice(2, whose), who, LAB))
        assert reason == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: publish(running, notice(2), key=OTHER)) == "KEY_NOT_IN_FORCE"
    publish(running, notice(2), key=LAB)
    retire_key(running, "lab", LAB.public_key)
    publish(running, notice(3), "operator")
    assert refusal(lambda: publish(running, notice(4, ""), "operator")) == "INVALID_REQUEST"


def test_nobody_takes_the_id_of_anothers_notice(running: Running) -> None:
    for taken in ("privacy", "clinic-b/privacy", "lab/", "/privacy", "lab/a/b", f"lab/{'n' * 64}", "lab/Privacy"):
        made = make_notice(taken, participant_id="lab")
        assert refusal(lambda made=made: publish(running, made, key=LAB)) == "INVALID_REQUEST"
        of_realm = make_notice(taken)
        if taken != "privacy":
            assert refusal(lambda made=of_realm: publish(running, made, "operator")) == "INVALID_REQUEST"
    publish(running, make_notice("privacy"), "operator")
    publish(running, make_notice(f"lab/{'n' * 63}", participant_id="lab"), key=LAB)


def test_the_history_of_a_notice_shows_who_signed_it(running: Running) -> None:
    trust = pin(note.format_vkey(read_keys(running.config).log.verifier))
    signer = StatementSigner.of_participant(LAB, origin=ORIGIN, participant_id="lab")
    with Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["lab"], trust=trust) as client:
        client.publish_notice(notice(), signer=signer, published=True)
        (entry,) = client.public_history("notice/lab/privacy").entries
    assert (entry.kind_name, entry.author) == ("NOTICE", "participant/lab")


def test_what_a_participant_signs_in_a_day_is_limited(running: Running) -> None:
    """Else one participant could fill the ledger, and the table that every reader of it holds."""
    publish_rules(running, quotas=st.Quotas(entries_per_day=4))
    for number in (1, 2):
        sign(running, record(type=str(number)))
        publish(running, make_notice(f"lab/n{number}", participant_id="lab"), key=LAB)
    assert refusal(lambda: sign(running, record(type="3"))) == "QUOTA_EXCEEDED"
    another = make_notice("lab/n3", participant_id="lab")
    assert refusal(lambda: publish(running, another, key=LAB)) == "QUOTA_EXCEEDED"
    assert refusal(lambda: add_key(running, "lab", OTHER)) == "QUOTA_EXCEEDED"
    retire_key(running, "lab", LAB.public_key)  # takes away
    publish(running, another, "operator")


# -- the client and the command line --------------------------------------------------------------------------------


def test_the_client_and_the_history_show_who_signed(running: Running) -> None:
    trust = pin(note.format_vkey(read_keys(running.config).log.verifier))
    signer = StatementSigner.of_participant(LAB, origin=ORIGIN, participant_id="lab")
    with Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["lab"], trust=trust) as client:
        client.register_participant(record(type="21"), signer=signer, published=True)
        entries = client.public_history("participant/lab").entries
    assert [(one.kind_name, one.author) for one in entries] == [
        ("PARTICIPANT", "ledger"), ("KEY", "ledger"), ("PARTICIPANT", "participant/lab"),
    ]  # fmt: skip


def test_the_command_line_changes_what_is_stated_and_keeps_the_rest(running: Running, tmp_path: Path) -> None:
    target, key = f"127.0.0.1:{running.daemon.grpc_port}", tmp_path / "lab.key"
    make_secret_file(key, LAB.seed.hex().encode())
    operator = CommandLine({"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens["operator"]})
    lab = operator.given(CONSENTD_TOKEN=running.tokens["lab"], CONSENTD_ORIGIN=ORIGIN)
    update, signed = ("participants", "update", "lab"), ("--sign-with", str(key))
    named = ("--certificate-name", "dns:b.example", "--no-certificate-name", "dns:lab.example")
    assert "(CALLER_NOT_ALLOWED)" in lab(*update, *named, *signed).err  # else it takes a name that will be another's
    assert operator(*update, *named).status == 0
    assert lab(*update, "--ko", "검사실", "--type", "21", "--no-right", "break-glass", *signed).status == 0
    assert recorded(running) == record(
        name={"en": "Lab", "ko": "검사실"}, type="21", rights=[st.PARTICIPANT_RIGHT_SEE_REASONS],
        certificate_names=["dns:b.example"],
    )  # fmt: skip
    assert "(SIGN_WITH_KEY)" in operator(*update, "--en", "Their Lab").err
    assert "(CALLER_NOT_ALLOWED)" in lab(*update, "--country", "KR", *signed).err
    for wrong in (("--no-right", "erase"), ("--no-group", "group/x"), ("--no-role", "relay")):
        assert lab(*update, *wrong, *signed).status == 2
    text = tmp_path / "notice.txt"
    text.write_text("what the lab does with data")
    published = ("notice", "publish", "lab/privacy", "--title", "en=Privacy", "--text", f"en={text}")
    assert "(SIGN_WITH_KEY)" in operator(*published, "--participant", "lab").err
    assert lab(*published, "--participant", "lab", *signed).status == 0
    assert lab(*published, *signed).status == 2  # whose notice is it?
    assert operator(*update, "--no-group", "group/labs", "--inactive").status == 0
    assert (list(recorded(running).groups), recorded(running).active) == ([], False)
    assert lab(*update, "--no-role", "holder", "--no-role", "recipient", *signed).status == 2  # it has left


# -- replay ---------------------------------------------------------------------------------------------------------


def test_a_replay_names_what_no_daemon_lets_be_written(tmp_path: Path) -> None:
    forge, wrong = Forge(), []
    forge.begin()
    person = forge.enrol(0)
    tag, operator = codec.public_tag("participant/lab"), st.Attestation(attested_by="operator/main")

    def add(
        kind: EntryKind, message: Any, *, key: KeyPair | None = None, chain: str = "", is_fault: bool = False
    ) -> None:
        if is_fault:
            wrong.append(forge.size)
        if key is None:
            message.attestation.CopyFrom(operator)
        forge.add(kind, codec.public_tag(chain) if chain else tag, message, **({} if key is None else {"key": key}))

    def delegation(**more: Any) -> st.DelegationStatement:
        return st.DelegationStatement(giver="lab", taker="app", capacity=st.DELEGATION_CAPACITY_RELAY, **more)

    add(EntryKind.PARTICIPANT, record())
    add(EntryKind.DELEGATION, delegation())
    add(EntryKind.KEY, st.KeyStatement(key=LAB.public_key))
    for change in STATED:
        add(EntryKind.PARTICIPANT, record(**change), is_fault=True)
        add(EntryKind.PARTICIPANT, record(), key=LAB)
        add(EntryKind.PARTICIPANT, record(**change), key=LAB)
        add(EntryKind.PARTICIPANT, record(), key=LAB)
    for change in NARROWER:
        add(EntryKind.PARTICIPANT, record(**change), key=LAB)
        add(EntryKind.PARTICIPANT, record())
    for change in WIDER:
        add(EntryKind.PARTICIPANT, record(**change), key=LAB, is_fault=True)
        add(EntryKind.PARTICIPANT, record())
    add(EntryKind.DELEGATION, delegation(), is_fault=True)
    add(EntryKind.DELEGATION, delegation(), key=LAB)
    add(EntryKind.DELEGATION, delegation(ended=True))
    add(EntryKind.NOTICE, notice(), key=LAB, chain="notice/lab/privacy")
    add(EntryKind.NOTICE, notice(2), chain="notice/lab/privacy", is_fault=True)
    add(EntryKind.NOTICE, notice(3, ""), chain="notice/lab/privacy", is_fault=True)
    add(EntryKind.KEY, st.KeyStatement(key=OTHER.public_key), is_fault=True)
    add(EntryKind.KEY, st.KeyStatement(key=OTHER.public_key, retired=True))
    add(EntryKind.KEY, st.KeyStatement(key=LAB.public_key, retired=True))
    add(EntryKind.KEY, st.KeyStatement(key=KeyPair(b"\x43" * 32).public_key))
    forge.ask(person)
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    report = replay_decisions(export, origin=FORGED, log_verifier=LOG.verifier, jobs=JOBS)
    assert [fault.index for fault in report.faults] == wrong
    assert {fault.what.partition(": ")[0] for fault in report.faults} == {"entry must not be written so"}
    assert sum(report.same.values()) == 1


@pytest.mark.parametrize("owner", ["lab", "the daemon", "a person"])
def test_a_replay_names_who_puts_the_key_of_another_in_force(owner: str, tmp_path: Path) -> None:
    """Else who holds the daemon's key could make a participant's key, or its own, that of another participant. Then
    nobody would notice what an operator attests for a participant that has a key.
    """
    forge = Forge()
    forge.begin()
    person = forge.enrol(0)
    operator = st.Attestation(attested_by="operator/main")
    keys = {"lab": LAB, "the daemon": DAEMON, "a person": OTHER}

    def add(kind: EntryKind, chain: str, message: Any) -> int:
        message.attestation.CopyFrom(operator)
        forge.add(kind, codec.public_tag(f"participant/{chain}"), message)
        return forge.size - 1

    add(EntryKind.PARTICIPANT, "lab", record())
    add(EntryKind.KEY, "lab", st.KeyStatement(key=LAB.public_key))
    by_app = st.Attestation(attested_by="app")
    forge.add(EntryKind.KEY, person, st.KeyStatement(key=OTHER.public_key, attestation=by_app))
    wrong = add(EntryKind.KEY, "bank", st.KeyStatement(key=keys[owner].public_key))
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    report = replay_decisions(export, origin=FORGED, log_verifier=LOG.verifier, jobs=JOBS)
    assert [fault.index for fault in report.faults] == [wrong]


def test_a_replay_names_a_delegation_to_who_has_no_role_for_it(tmp_path: Path) -> None:
    forge = Forge()
    forge.begin()
    for capacity in st.DelegationCapacity.values()[1:]:
        message = st.DelegationStatement(
            giver="hospital", taker="bank", capacity=capacity, attestation=st.Attestation(attested_by="operator/main")
        )
        forge.add(EntryKind.DELEGATION, codec.public_tag("participant/hospital"), message)
    wrong = forge.size - len(st.DelegationCapacity.values()[1:])  # the bank is a holder, and no relay
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    report = replay_decisions(export, origin=FORGED, log_verifier=LOG.verifier, jobs=JOBS)
    assert [fault.index for fault in report.faults] == [wrong]


def test_a_further_key_is_signed_by_one_in_force(running: Running) -> None:
    add_key(running, "lab", OTHER)
    sign(running, record(type="21"), key=OTHER)
    assert recorded(running) == record(type="21")
