"""The Python client against a real daemon."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import consentd_client
from cases.clients import SENT, Recording
from cases.daemons import Running, consent, question
from cases.fakes import HANG_S
from cases.notices import make_notice
from cases.services import proof_of
from consentd.core import checkpoint, note
from consentd.core.kinds import EntryKind
from consentd.errors import (
    AlreadyExistsError,
    ConsentdError,
    DeniedError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    ProofError,
    VerificationError,
)
from consentd.server.keys import read_keys
from consentd.service import servicer
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client import (
    AsyncClient,
    AtExact,
    AtLeast,
    Client,
    FileMemory,
    History,
    KeyPair,
    NotPermittedError,
    RamMemory,
    Resource,
    StatementSigner,
    Subject,
    TransferOutcome,
    Trust,
    ledger,
    pin,
    verify_receipt,
)
from consentd_client.consents import ALL_STATES


@pytest.fixture(scope="module")
def trust(running: Running) -> Trust:
    return pin(note.format_vkey(read_keys(running.config).log.verifier))


@pytest.fixture
def client(running: Running, trust: Trust) -> Iterator[Client]:
    with connected(running, trust) as client:
        yield client


def connected(running: Running, trust: Trust | None, who: str = "app", **options: Any) -> Client:
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return Client(target, token=running.tokens[who], trust=trust, **options)


class Numbered:
    """Gives each test persons of its own."""

    count = 0


@pytest.fixture
def person() -> Subject:
    Numbered.count += 1
    return Subject(scheme="mhid", value=f"MH-{Numbered.count:04}")


def settled(client: Client, subject: Subject, **more: Any) -> History:
    """Read a history that reaches up to now: the next receipt with a proof says that a seal came after."""
    receipt = client.authorize_access(question(subject), published=True).receipt
    assert receipt is not None
    assert receipt.checkpoint is not None
    return client.history(subject, **more)


def test_life_of_a_consent(client: Client, person: Subject) -> None:
    enrolled = client.enrol(person, method="test")
    granted = client.grant(person, consent(), published=True)
    assert granted
    assert granted.receipt.checkpoint is not None
    assert client.check(question(person))
    answer = client.authorize_access(question(person))
    assert answer
    assert answer.access_seq == 3
    receipt = client.record_access(person, answer.access_seq, SENT)
    assert receipt.kind == EntryKind.OUTCOME
    proven = client.get_receipt(receipt)
    assert proven.checkpoint is not None
    assert proven.index == receipt.index
    amended = client.amend(person, granted.consent_id, consent(categories=["CLIN.DX"]), based_on_version=1)
    assert (bool(amended), amended.version) == (True, 2)
    client.pause(person, granted.consent_id)
    assert client.check(question(person)).outcome == pb.OUTCOME_NO_CONSENT
    client.resume(person, granted.consent_id)
    assert client.check(question(person))
    client.revoke(person, granted.consent_id, note="enough")
    assert not client.check(question(person))
    assert client.get_consent(person, granted.consent_id).state == cs.CONSENT_STATE_REVOKED
    assert list(client.list_consents(person)) == []
    assert [record.version for record in client.list_consents(person, states=ALL_STATES)] == [2]
    assert [record.version for record in client.list_consents(person, states=[cs.CONSENT_STATE_REVOKED])] == [2]
    assert list(client.list_consents(person, states=[cs.CONSENT_STATE_ENDED])) == []
    accesses = list(client.list_accesses(person))
    assert [(access.seq, access.kind, len(access.outcomes)) for access in accesses] == [(3, st.ENTRY_KIND_ACCESS, 1)]
    assert client.get_access(person, 3) == accesses[0]
    selected = client.list_accesses(person, kind=st.ENTRY_KIND_ACCESS, holder="hospital-a", end_time_ms=1 << 60)
    assert list(selected) == accesses
    assert list(client.list_accesses(person, kind=st.ENTRY_KIND_REFUSAL)) == []
    assert list(client.list_accesses(person, actor="er")) == []
    found = settled(client, person, tag=enrolled.tag)
    assert [entry.kind_name for entry in found.entries] == [
        "ENROL", "GRANT", "ACCESS", "OUTCOME", "AMEND", "PAUSE", "RESUME", "REVOKE", "REFUSAL",
    ]  # fmt: skip
    assert {entry.author for entry in found.entries} == {"ledger"}
    assert [entry.attested_by for entry in found.entries[:2]] == ["app", "app"]
    assert (found.is_absent, found.is_erased, found.unread) == (False, False, ())
    assert str(found.entries[2]).startswith("#3 ")
    assert "hospital-a → clinic-b, TREAT, disclose, CLIN.DX" in str(found.entries[2])
    assert "철회: #2 “enough”" in found.entries[7].line("ko")
    reported = replace(found.entries[7], message=st.RevokeStatement(lineage_seq=2, note="\x1b[2J\n#9 GRANT\u202e"))
    assert "“\\u001b[2J\\u000a#9 GRANT\\u202e”" in reported.line("en")  # nobody else writes a line of it


def test_the_same_life_in_asyncio(running: Running, trust: Trust, person: Subject) -> None:
    async def live() -> list[Any]:
        target = f"127.0.0.1:{running.daemon.grpc_port}"
        async with AsyncClient(target, token=running.tokens["app"], trust=trust) as client:
            await client.enrol(person)
            granted = await client.grant(person, consent())
            found: list[Any] = [bool(await client.check(question(person)))]
            answer = await client.authorize_access(question(person), published=True)
            found.append([record.consent_id async for record in client.list_consents(person)] == [granted.consent_id])
            found.append([entry.kind_name for entry in (await client.history(person)).entries])
            found.append(answer.receipt is not None and answer.receipt.checkpoint is not None)
            with pytest.raises(NotFoundError):
                await client.get_consent(person, "00" * 16)
            found.append(bool(await client.within(HANG_S).check(question(person))))
        found.append((await client.check(question(person))).outcome_name)
        return found

    assert asyncio.run(live()) == [True, True, ["ENROL", "GRANT", "ACCESS"], True, True, "INDETERMINATE"]


def test_batches_answer_each_by_itself(client: Client, person: Subject) -> None:
    client.enrol(person)
    client.grant(person, consent())
    asked = [question(person), question(person, purpose="NOPE"), question(person, holder="er")]
    found = client.batch_check(asked)
    assert [answer.outcome_name for answer in found] == ["PERMIT", "INDETERMINATE", "NO_CONSENT"]
    assert isinstance(found[1].error, InvalidError)
    assert found[1].error.reason == "UNKNOWN_PURPOSE"
    shared = question(person)
    shared.ClearField("subject")
    assert [bool(answer) for answer in client.check_subjects(shared, [person, Subject(scheme="mhid", value="-")])] == [
        True, False,
    ]  # fmt: skip
    answers = client.batch_authorize(asked)
    assert [bool(answer) for answer in answers] == [True, False, False]
    receipts = client.batch_record([TransferOutcome(person, answers[0].access_seq, SENT)] * 1, published=True)
    assert [receipt.event.ref for receipt in receipts] == [answers[0].access_seq]
    assert client.batch_check([]) == client.batch_authorize([]) == client.batch_record([]) == ()


def test_a_person_signs_with_their_own_key(client: Client, trust: Trust, person: Subject) -> None:
    key = KeyPair(b"\x31" * 32)
    enrolled = client.enrol(person, subject_key=key.public_key, possession=proof_of(key, person))
    signer = StatementSigner(key=key, origin=trust.origin, tag=enrolled.tag)
    granted = client.grant(person, consent(), signer=signer)
    wider = consent(categories=["CLIN", "INS"])
    assert client.amend(person, granted.consent_id, wider, based_on_version=1, signer=signer)
    client.pause(person, granted.consent_id, signer=signer)
    client.resume(person, granted.consent_id, signer=signer)
    client.revoke(person, granted.consent_id, note="mine", signer=signer)
    found = settled(client, person, tag=enrolled.tag)
    assert [(entry.kind_name, entry.author) for entry in found.entries[1:7]] == [
        ("KEY", "ledger"), ("GRANT", "subject"), ("AMEND", "subject"), ("PAUSE", "subject"),
        ("RESUME", "subject"), ("REVOKE", "subject"),
    ]  # fmt: skip
    assert {entry.attested_by for entry in found.entries[2:7]} == {""}


def test_a_signature_for_another_chain_or_by_a_stranger_is_refused(
    client: Client, trust: Trust, person: Subject
) -> None:
    key = KeyPair(b"\x32" * 32)
    enrolled = client.enrol(person, subject_key=key.public_key, possession=proof_of(key, person))
    for signer in (
        StatementSigner(key=key, origin=trust.origin, tag=b"\x01" * 32),
        StatementSigner(key=key, origin="another", tag=enrolled.tag),
        StatementSigner(key=KeyPair(b"\x33" * 32), origin=trust.origin, tag=enrolled.tag),
    ):
        with pytest.raises((InvalidError, PreconditionError)):
            client.grant(person, consent(), signer=signer)
    granted = client.grant(person, consent())
    stranger = StatementSigner(key=key, origin=trust.origin, tag=b"\x01" * 32)
    with pytest.raises(ProofError):
        client.revoke(person, granted.consent_id, signer=stranger)
    with pytest.raises(InvalidError) as large:
        client.grant(
            person,
            consent(resources=["Observation/" + "x" * 60] * 300),
            signer=StatementSigner(key=key, origin=trust.origin, tag=enrolled.tag),
        )
    assert large.value.reason == "TOO_LARGE"


def test_a_participant_signs_questions_and_outcomes(running: Running, trust: Trust, person: Subject) -> None:
    key = KeyPair(b"\x34" * 32)
    with connected(running, trust, "operator") as operator:
        operator.add_key("clinic-b", key.public_key, proof_of(key, "clinic-b"))
        assert key.public_key in operator.get_participant("clinic-b").keys
    with connected(running, trust) as app:
        tag = app.enrol(person).tag
        app.grant(person, consent())
    signer = StatementSigner(key=key, origin=trust.origin, tag=tag)
    with connected(running, trust, "clinic-b") as clinic:
        answer = clinic.authorize_access(question(person), signer=signer)
        assert answer
        clinic.record_access(person, answer.access_seq, SENT, signer=signer, published=True)
    with connected(running, trust) as app:
        outcome = app.history(person).entries[-1]
    assert (outcome.kind_name, outcome.author) == ("OUTCOME", "participant/clinic-b")
    with connected(running, trust, "operator") as operator:
        operator.retire_key("clinic-b", key.public_key)


def test_a_grant_that_lacks_items_is_refused_as_an_answer(client: Client, person: Subject) -> None:
    client.enrol(person)
    refused = client.grant(person, consent(kind=pb.CONSENT_KIND_TRANSFER_REQUEST))
    assert not refused
    assert refused.refused is not None
    assert refused.refused.reason == "R05"
    assert (refused.consent_id, refused.version, refused.receipt.kind) == ("", 0, EntryKind.REFUSAL)


def test_a_person_is_enrolled_once_and_the_tag_is_found_again(
    client: Client, running: Running, trust: Trust, person: Subject
) -> None:
    tag = client.enrol_or_get(person)
    with connected(running, trust) as other:
        assert other.enrol_or_get(person) == tag
        with pytest.raises(AlreadyExistsError) as caught:
            other.enrol(person)
    assert caught.value.reason == "SUBJECT_ENROLLED"
    running.wait_published()
    assert [entry.kind_name for entry in client.history(person, tag=tag).entries] == ["ENROL"]
    with connected(running, None) as unpinned, pytest.raises(InvalidError):
        unpinned.enrol_or_get(person)


def test_a_repeat_gets_the_first_receipt(client: Client, person: Subject) -> None:
    client.enrol(person)
    request_id = consentd_client.new_request_id()
    first = client.grant(person, consent(), request_id=request_id)
    second = client.grant(person, consent(), request_id=request_id)
    assert (first.receipt.index, second.receipt.index) == (first.receipt.index,) * 2
    assert (first.receipt.replayed, second.receipt.replayed) == (False, True)
    with pytest.raises(PreconditionError) as caught:
        client.grant(person, consent(categories=["INS"]), request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_a_repeated_access_is_the_very_same_request(running: Running, trust: Trust, person: Subject) -> None:
    key = KeyPair(b"\x36" * 32)
    with connected(running, trust, "operator") as operator:
        operator.add_key("clinic-b", key.public_key, proof_of(key, "clinic-b"))
    with connected(running, trust) as app:
        tag = app.enrol(person).tag
        app.grant(person, consent())
    asked = question(person, action="")
    signer = StatementSigner(key=key, origin=trust.origin, tag=tag)
    for who, options in (("app", {}), ("clinic-b", {}), ("clinic-b", {"signer": signer})):
        with connected(running, trust, who) as client:
            again: dict[str, Any] = {"request_id": consentd_client.new_request_id(), **options}
            first, second = (client.authorize_access(asked, **again) for _ in range(2))
            for answer in (first, second):
                answer.require(asked)
                assert answer.receipt is not None
            assert second.receipt is not None
            assert (first.access_seq, second.receipt.replayed) == (second.access_seq, True)
            assert client.record_access(person, second.access_seq, SENT).event.ref == first.access_seq


def test_conditions_are_applied_to_resources(client: Client, person: Subject) -> None:
    client.enrol(person)
    client.grant(person, consent(categories=["CLIN.DX"], labels=["PSY"], level="R"))
    asked = question(person, supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL])
    plain = Resource(category="CLIN.DX", reference="Condition/1")
    found = [
        plain, replace(plain, labels=("PSY",)), replace(plain, labels=("PSY",), level="V"),
        replace(plain, labels=("PSY", "HIV")), replace(plain, labels=("STRANGE",)),
    ]  # fmt: skip
    for answer in (client.check(asked), client.authorize_access(asked)):
        assert (answer.outcome_name, bool(answer)) == ("PERMIT", False)
        assert client.apply_residual(answer, found) == (found[1],)
    for resource in found[:4]:
        alone = question(
            person, labels=pb.CodeSet(values=resource.labels), level=resource.level or "R",
            resources=pb.CodeSet(values=[resource.reference]),
        )  # fmt: skip
        assert bool(client.check(alone)) is (resource is found[1])


def test_a_wide_question_is_answered_by_its_leaves(client: Client, person: Subject) -> None:
    client.enrol(person)
    client.grant(person, consent())
    wide = client.check(question(person, categories=["CLIN"]))
    assert wide
    assert len(wide.decision.permitted) > 10
    part = client.authorize_access(question(person, categories=["CLIN.DX", "INS"]))
    assert (part.outcome_name, bool(part), part.error) == ("PARTIAL", False, None)


def test_errors_come_back_as_what_they_were(running: Running, client: Client, person: Subject) -> None:
    cases: list[tuple[Callable[[], object], type[ConsentdError], str]] = [
        (lambda: client.history(person), NotFoundError, "SUBJECT_NOT_FOUND"),
        (lambda: client.check_or_raise(question(person, purpose="NOPE")), InvalidError, "UNKNOWN_PURPOSE"),
        (lambda: client.enrol(Subject(scheme="rrn", value="1")), InvalidError, "INVALID_IDENTIFIER"),
        (lambda: client.register_participant(st.ParticipantStatement(
            participant_id="x", name={"en": "x"}, roles=[1])), DeniedError, "CALLER_NOT_ALLOWED"),
        (lambda: client.get_notice("none"), NotFoundError, "NOT_FOUND"),
    ]  # fmt: skip
    for call, kind, reason in cases:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.reason == reason
    client.enrol(person)
    with pytest.raises(AlreadyExistsError):
        client.enrol(person)
    with Client(f"127.0.0.1:{running.daemon.grpc_port}", token="nobody") as stranger:
        with pytest.raises(DeniedError) as unknown:
            stranger.get_rules()
        assert unknown.value.reason == "UNAUTHENTICATED"
        assert stranger.check(question(person)).outcome_name == "INDETERMINATE"


def test_a_later_state_than_there_is_is_refused_by_every_method(
    running: Running, trust: Trust, person: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "MAX_WAIT_S", 0.0)
    with connected(running, trust, attempts=1) as client:
        receipt = client.enrol(person).receipt
        ahead = AtLeast(receipt.tree_size + 1_000)
        shared = question(person)
        shared.ClearField("subject")
        for consistency, reason in ((ahead, "REVISION_NOT_REACHED"), (AtLeast(1 << 40), "INVALID_REQUEST")):
            calls: list[Callable[[], object]] = [
                lambda at=consistency: client.check_or_raise(question(person), consistency=at),
                lambda at=consistency: client.get_consent(person, "ab" * 16, consistency=at),
                lambda at=consistency: list(client.list_consents(person, consistency=at)),
                lambda at=consistency: list(client.list_accesses(person, consistency=at)),
                lambda at=consistency: client.get_participant("app", consistency=at),
                lambda at=consistency: list(client.list_participants(consistency=at)),
                lambda at=consistency: list(client.list_delegations(consistency=at)),
                lambda at=consistency: client.get_vocabulary(consistency=at),
                lambda at=consistency: client.get_notice("n", consistency=at),
                lambda at=consistency: client.get_rules(consistency=at),
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(ConsentdError) as refused:
                    call()
                assert refused.value.reason == reason
            answers = (
                client.check(question(person), consistency=consistency),
                *client.batch_check([question(person)], consistency=consistency),
                *client.check_subjects(shared, [person], consistency=consistency),
            )
            assert [answer.error.reason if answer.error else "" for answer in answers] == [reason] * 3
        for reached in (receipt, AtLeast(receipt.tree_size)):
            assert client.check(question(person), consistency=reached).outcome_name == "NO_CONSENT"
            assert not list(client.list_consents(person, consistency=reached))


def test_an_answer_from_an_earlier_state_permits_nothing_now(client: Client, person: Subject) -> None:
    client.enrol(person)
    granted = client.grant(person, consent())
    then = client.check(question(person), consistency=granted.receipt)
    assert then
    at = AtExact(then.decision.revision.tree_size, then.decision.decided_time_ms)
    client.revoke(person, granted.consent_id)
    assert client.check(question(person)).outcome_name == "NO_CONSENT"
    past = client.check(question(person), consistency=at)
    assert (past.outcome_name, bool(past), past.is_past, past.error) == ("PERMIT", False, True, None)
    wide = question(person, categories=["CLIN"])
    for answer in (past, *client.batch_check([question(person), wide], consistency=at)):
        assert (answer.outcome_name, bool(answer)) == ("PERMIT", False)
        with pytest.raises(NotPermittedError):
            answer.require()
        with pytest.raises(NotPermittedError):
            client.apply_residual(answer, [Resource(category="CLIN.DX", reference="Condition/1")])
    before = client.check(question(person), consistency=AtExact(1, at.time_ms))
    assert before.error is not None
    assert before.error.reason == "INVALID_REQUEST"


def test_the_registry(running: Running, trust: Trust) -> None:
    with connected(running, trust, "operator") as client:
        vocabulary = client.get_vocabulary()
        vocabulary.version += 1
        vocabulary.ClearField("attestation")
        assert client.publish_vocabulary(vocabulary).kind == EntryKind.VOCABULARY
        rules = client.get_rules()
        rules.version += 1
        rules.ClearField("attestation")
        assert client.publish_rules(rules).kind == EntryKind.RULES
        notice = make_notice("n1")
        client.publish_notice(notice)
        assert client.get_notice("n1").title["ko"] == "고지"
        key = KeyPair(b"\x35" * 32)
        client.add_key("hospital-a", key.public_key, proof_of(key, "hospital-a"))
        client.retire_key("hospital-a", key.public_key, published=True)
        assert list(client.get_participant("hospital-a").keys) == []
        assert "hospital-a" in {one.participant_id for one in client.list_participants()}
        found = client.public_history("participant/hospital-a")
        assert [entry.kind_name for entry in found.entries] == ["PARTICIPANT", "DELEGATION", "KEY", "KEY"]
        assert client.public_history("notice/never").is_absent
        (leaf_0,) = client.public_history("ledger").entries
        assert f"ledger: {trust.origin}" in str(leaf_0)
        assert client.public_history("rules/realm").entries[-1].message == running_rules(rules)
        with pytest.raises(InvalidError):
            client.public_history("")


def running_rules(rules: st.RulesStatement) -> st.RulesStatement:
    published = st.RulesStatement()
    published.CopyFrom(rules)
    published.attestation.attested_by = "operator/main"
    return published


def test_only_the_new_is_asked_for_and_the_whole_returned(
    running: Running, trust: Trust, person: Subject, tmp_path: Path
) -> None:
    memory = FileMemory(tmp_path / "memory.json")
    with connected(running, trust, memory=memory) as client:
        client.enrol(person)
        first = settled(client, person)
        assert [entry.is_new for entry in first.entries] == [True, True]
    channel = Recording(grpc.insecure_channel(f"127.0.0.1:{running.daemon.grpc_port}"))
    with connected(running, trust, memory=memory, channel=channel) as client:
        client.grant(person, consent())
        second = settled(client, person)
    request = channel.requests["/consentd.v1.LedgerService/GetHistory"][-1]
    assert request.known_count == 2
    assert request.known_tree_size == first.checkpoint.size
    assert [entry.kind_name for entry in second.entries] == ["ENROL", "REFUSAL", "GRANT", "ACCESS"]
    assert [entry.is_new for entry in second.entries] == [False, False, True, True]
    assert [entry.seq for entry in second.new] == [3, 4]
    assert [entry.author for entry in second.entries] == ["ledger"] * 4


def test_checkpoints_are_held_against_the_one_remembered(running: Running, trust: Trust, person: Subject) -> None:
    with connected(running, trust) as client:
        client.enrol(person, published=True)
        first = client.get_checkpoint()
        assert client.get_checkpoint().size >= first.size
        client.grant(person, consent(), published=True)
        assert client.get_checkpoint().size > first.size
        forged = checkpoint.Checkpoint(trust.origin, first.size, b"\x07" * 32)
        client.context.memory.remember(checkpoint.sign_checkpoint(forged, [read_keys(running.config).log]))
    rolled = RamMemory()
    ahead = checkpoint.Checkpoint(trust.origin, 1 << 40, b"\x07" * 32)
    rolled.remember(checkpoint.sign_checkpoint(ahead, [read_keys(running.config).log]))
    with connected(running, trust, memory=rolled) as client:
        with pytest.raises(ProofError) as caught:
            client.get_checkpoint()
        assert any("checkpoint remembered" in text for text in caught.value.__notes__)
        with pytest.raises(ProofError):
            client.history(person)
    forked = RamMemory()
    forked.remember(checkpoint.sign_checkpoint(forged, [read_keys(running.config).log]))
    with connected(running, trust, memory=forked) as client:
        with pytest.raises(ProofError):
            client.get_checkpoint()
        with pytest.raises(ProofError):
            client.history(person)
    foreign = RamMemory()
    stranger = note.Signer("stranger.test", KeyPair(b"\x09" * 32))
    foreign.remember(checkpoint.sign_checkpoint(checkpoint.Checkpoint("stranger.test", 9, b"\x07" * 32), [stranger]))
    with connected(running, trust, memory=foreign) as client, pytest.raises(InvalidError):
        client.get_checkpoint()


def test_receipts_verify_offline_and_only_as_they_are(client: Client, trust: Trust, person: Subject) -> None:
    receipt = client.enrol(person, published=True).receipt
    assert verify_receipt(receipt.leaf, receipt.proof, trust, index=receipt.index) == receipt.checkpoint
    bad_leaf = bytes([*receipt.leaf[:-1], receipt.leaf[-1] ^ 1])
    other = KeyPair(bytes(32)).public_key
    for call in (
        lambda: verify_receipt(bad_leaf, receipt.proof, trust),
        lambda: verify_receipt(receipt.leaf, receipt.proof, trust, index=receipt.index + 1),
        lambda: verify_receipt(receipt.leaf, receipt.proof, Trust("another", trust.log_key)),
        lambda: verify_receipt(receipt.leaf, receipt.proof, pin(note.Verifier(trust.origin, other))),
        lambda: verify_receipt(receipt.leaf, b"", trust),
    ):
        with pytest.raises(VerificationError):
            call()


def test_nothing_shown_names_a_person(client: Client, person: Subject) -> None:
    enrolled = client.enrol(person, published=True)
    granted = client.grant(person, consent())
    answer = client.authorize_access(question(person))
    found = settled(client, person)
    signer = StatementSigner(key=KeyPair(b"\x01" * 32), origin="o", tag=enrolled.tag)
    outcome = TransferOutcome(person, 3, SENT)
    shown = repr((enrolled, granted, answer, found, found.entries, signer, outcome, client.context))
    shown += "".join(map(str, found.entries))
    tag = enrolled.tag
    assert person.value not in shown
    assert tag.hex() not in shown
    assert repr(tag)[2:-1] not in shown
    assert person.value not in ledger.memory_key(person)
