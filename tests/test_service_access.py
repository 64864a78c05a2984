"""Checks and accesses by their flows: who may ask, what they see, what is recorded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, consent, question, reason_in, reason_of, request_id, running_daemon
from cases.services import (
    accesses,
    batch,
    change,
    event_of,
    kind_of,
    listed,
    new_identifier,
    publish_rules,
    record,
    refusal,
    register,
    seen,
)
from consentd.core.kinds import EntryKind
from consentd.policy.model import BREAK_GLASS_PURPOSE
from consentd.service import answerer, requests, servicer
from consentd.service.access import MAX_NETWORK_ORIGIN
from consentd.service.requests import MAX_QUESTION
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st

# -- limits of questions -------------------------------------------------------------------------------------------


def padded(asked: pb.Question, size: int) -> pb.Question:
    """Return a question of exactly *size* bytes."""
    asked.actor.role = "x" * 1_000
    asked.actor.role = "x" * (1_000 + size - asked.ByteSize())
    assert asked.ByteSize() == size
    return asked


def test_a_question_over_its_limit_is_refused_by_every_call(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    app = running.as_("app")
    fits, large = padded(question(subject), MAX_QUESTION), padded(question(subject), MAX_QUESTION + 1)
    assert running.check(fits).outcome == pb.OUTCOME_PERMIT
    assert running.authorize(fits).decision.outcome == pb.OUTCOME_PERMIT
    # The bytes of a signed question count, and not those of its parsed form: here the same question three times.
    signed = pb.Question.SerializeToString(padded(question(subject), 1_400)) * 3
    request = ac.AuthorizeAccessRequest(request_id=request_id(), signed_question=ac.SignedQuestion(question=signed))
    single = ac.AuthorizeAccessRequest(request_id=request_id(), question=large)
    shared = padded(question(subject), MAX_QUESTION + 1 + large.subject.ByteSize() + 2)
    shared.ClearField("subject")
    together = ac.BatchAuthorizeAccessesRequest(requests=[request, single])
    reasons = [
        refusal(lambda: running.check(large)),
        refusal(lambda: running.authorize(large)),
        refusal(lambda: running.access.AuthorizeAccess(request, metadata=app)),
        *(reason_in(item.error) for item in batch(running, questions=[large])),
        *(reason_in(item.error) for item in batch(running, shared=shared, subjects=[subject])),
        *(reason_in(item.error) for item in running.access.BatchAuthorizeAccesses(together, metadata=app).results),
    ]
    assert reasons == ["TOO_LARGE"] * 7


def test_a_batch_of_checks_has_a_limit_of_work_and_of_its_answer(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        running.grant(subject)
    asked = [question(subject)] * 5
    with monkeypatch.context() as patch:
        patch.setattr(answerer, "MAX_BATCH_ROWS", 6)
        found = batch(running, questions=asked)
    assert [one.WhichOneof("result") for one in found] == ["decision", "decision", "error", "error", "error"]
    assert {reason_in(one.error) for one in found[2:]} == {"BATCH_LIMIT"}
    size = found[0].ByteSize()
    monkeypatch.setattr(requests, "MAX_BATCH_ANSWER", 3 * size)
    found = batch(running, questions=asked)
    assert [one.WhichOneof("result") for one in found] == ["decision"] * 3 + ["error"] * 2
    assert {reason_in(one.error) for one in found[3:]} == {"BATCH_LIMIT"}


def test_a_batch_of_accesses_has_a_limit_of_its_answer(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.grant(subject)
    asked = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject)) for _ in range(3)]
    monkeypatch.setattr(requests, "MAX_BATCH_ANSWER", 500)
    request = ac.BatchAuthorizeAccessesRequest(requests=asked)
    found = running.access.BatchAuthorizeAccesses(request, metadata=running.as_("app")).results
    forms = [one.WhichOneof("result") for one in found]
    assert (forms[0], forms[-1]) == ("response", "error")
    assert reason_in(found[-1].error) == "BATCH_LIMIT"
    repeated = running.access.AuthorizeAccess(asked[-1], metadata=running.as_("app"))
    assert (repeated.receipt.replayed, repeated.decision.outcome) == (True, pb.OUTCOME_PERMIT)


def test_a_network_origin_has_a_limit(running: Running, subject: pb.Subject) -> None:
    assert running.authorize(question(subject), network_origin="9" * MAX_NETWORK_ORIGIN).receipt.leaf_hash
    assert refusal(lambda: running.authorize(question(subject), network_origin="9" * 257)) == "TOO_LARGE"


# -- checks --------------------------------------------------------------------------------------------------------


def test_a_batch_answers_each_question_as_a_single_call_would(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    running.grant(subject, effect=pb.EFFECT_DENY, categories=["CLIN.RX"], kind=pb.CONSENT_KIND_OBJECTION)
    nobody = pb.Subject(scheme="mhid", value="SYN-999999")
    asked = [
        question(subject),
        question(subject, categories=["CLIN"]),
        question(subject, categories=["CLIN.RX"]),
        question(subject, holder="er"),
        question(subject, categories=["NEW.CODE"]),
        question(nobody),
    ]
    outcomes = []
    for single, item in zip(asked, batch(running, questions=asked), strict=True):
        assert seen(item.decision) == seen(running.check(single))
        outcomes.append(item.decision.outcome)
    assert outcomes == [
        pb.OUTCOME_PERMIT,
        pb.OUTCOME_PARTIAL,
        pb.OUTCOME_DENY,
        pb.OUTCOME_NO_CONSENT,
        pb.OUTCOME_INDETERMINATE,
        pb.OUTCOME_NO_CONSENT,
    ]
    assert len({one.decision.decision_id for one in batch(running, questions=asked)}) == len(asked)


def test_the_shared_form_asks_one_question_about_many(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    nobody, refused = pb.Subject(scheme="mhid", value="SYN-999999"), pb.Subject(scheme="rrn", value="x")
    shared = question(subject)
    shared.ClearField("subject")
    good, none, bad = batch(running, shared=shared, subjects=[subject, nobody, refused])
    assert seen(good.decision) == seen(running.check(question(subject)))
    assert seen(none.decision) == seen(running.check(question(nobody)))
    assert bad.error.message == "identifier scheme is never stored: resident registration number"
    assert refusal(lambda: batch(running, shared=question(subject), subjects=[subject])) == "INVALID_REQUEST"
    assert batch(running, questions=[]) == batch(running, shared=shared) == []


@pytest.mark.parametrize("name", ["BatchCheck", "shared", "BatchAuthorizeAccesses", "BatchRecordAccesses"])
def test_a_batch_over_its_limit_is_refused_with_the_limit(running: Running, name: str) -> None:
    app = running.as_("app")
    calls: dict[str, Callable[[int], Any]] = {
        "BatchCheck": lambda n: batch(running, questions=[pb.Question()] * n),
        "shared": lambda n: batch(running, shared=pb.Question(), subjects=[pb.Subject()] * n),
        "BatchAuthorizeAccesses": lambda n: running.access.BatchAuthorizeAccesses(
            ac.BatchAuthorizeAccessesRequest(requests=[ac.AuthorizeAccessRequest()] * n), metadata=app
        ),
        "BatchRecordAccesses": lambda n: running.access.BatchRecordAccesses(
            ac.BatchRecordAccessesRequest(requests=[ac.RecordAccessRequest()] * n), metadata=app
        ),
    }
    with pytest.raises(grpc.RpcError) as caught:
        calls[name](1001)
    assert reason_of(caught.value) == "TOO_LARGE"
    assert caught.value.details() == "batch is over its limit of 1000 items: `1001`"
    if name != "BatchRecordAccesses":  # that one is all or none, and 1,000 empty requests are none
        assert calls[name](1000)


def test_an_institution_cannot_tell_no_consent_from_a_denial_or_from_nobody(
    running: Running, subject: pb.Subject
) -> None:
    objecting = running.enrol(new_identifier())
    running.grant(objecting, effect=pb.EFFECT_DENY, kind=pb.CONSENT_KIND_OBJECTION)
    expired = running.enrol(new_identifier())
    running.grant(expired, period=pb.Period(start_time_ms=4_000_000_000_000))
    nobody = pb.Subject(scheme="mhid", value="SYN-999999")
    people = [subject, objecting, expired, nobody]
    answers = [seen(running.check(question(one, categories=["CLIN.DX", "CLIN"]), "clinic-b")) for one in people]
    assert answers[0].outcome == pb.OUTCOME_DENY
    assert "CLIN.DX" in answers[0].denied
    assert not answers[0].reasons
    assert answers == [answers[0]] * 4
    batched = batch(running, "clinic-b", questions=[question(one, categories=["CLIN.DX", "CLIN"]) for one in people])
    assert [seen(one.decision) for one in batched] == answers
    full = [running.check(question(one)).outcome for one in people]
    assert full == [pb.OUTCOME_NO_CONSENT, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT, pb.OUTCOME_NO_CONSENT]


def test_an_institution_sees_why_it_is_permitted_and_no_more(running: Running, subject: pb.Subject) -> None:
    running.grant(subject, categories=["CLIN.DX"])
    running.grant(subject, categories=["CLIN.RX"], effect=pb.EFFECT_DENY, kind=pb.CONSENT_KIND_OBJECTION)
    decision = running.check(question(subject, categories=["CLIN.DX", "CLIN.RX", "CLIN.LAB"]), "clinic-b")
    assert decision.outcome == pb.OUTCOME_PARTIAL
    assert (list(decision.permitted), list(decision.denied)) == (["CLIN.DX"], ["CLIN.RX", "CLIN.LAB"])
    assert not decision.without_consent
    assert [reason.code for reason in decision.reasons] == [pb.REASON_CODE_PERMITTED_BY_CONSENT]


def test_only_who_has_a_part_in_an_access_asks_about_it(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    asked = question(subject)
    assert running.check(asked, "clinic-b").outcome == running.check(asked, "hospital-a").outcome == pb.OUTCOME_PERMIT
    assert refusal(lambda: running.check(asked, "er")) == refusal(lambda: running.check(asked, "pipc"))
    assert refusal(lambda: running.authorize(asked, "er")) == "CALLER_NOT_ALLOWED"
    (item,) = batch(running, "er", questions=[asked])
    assert item.error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]


def test_a_participant_that_left_may_ask_nothing(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        register(running, "clinic-b", [st.PARTICIPANT_ROLE_RECIPIENT], active=False)
        register(running, "app", [st.PARTICIPANT_ROLE_RELAY], active=False, rights=[2, 3])
        register(running, "pipc", [st.PARTICIPANT_ROLE_AUDITOR], active=False)
        calls: list[Callable[[], Any]] = [
            lambda: running.check(question(subject), "clinic-b"),
            lambda: running.authorize(question(subject), "clinic-b"),
            lambda: running.grant(subject),
            lambda: listed(running, subject),
            lambda: accesses(running, subject),
            lambda: running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=running.as_("pipc")),
        ]
        for call in calls:
            assert refusal(call) == "CALLER_NOT_ALLOWED"


def test_an_answer_reflects_at_least_the_revision_asked_for(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "MAX_WAIT_S", 0.0)
    grant = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=consent())
    )
    receipt = running.consents.GrantConsent(grant, metadata=running.as_("app")).receipt
    size = receipt.revision.tree_size
    assert size > receipt.index
    asked, reached = question(subject), pb.Consistency(at_least_tree_size=size)
    later = pb.Consistency(at_least_tree_size=size + 1_000)

    def check(consistency: pb.Consistency) -> pb.Decision:
        request = ps.CheckRequest(question=asked, consistency=consistency)
        return running.policy.Check(request, metadata=running.as_("app")).decision

    def authorize(consistency: pb.Consistency) -> pb.Decision:
        request = ac.AuthorizeAccessRequest(request_id=request_id(), question=asked, consistency=consistency)
        return running.access.AuthorizeAccess(request, metadata=running.as_("app")).decision

    for answer in (check, authorize):
        assert answer(reached).outcome == pb.OUTCOME_PERMIT
        assert answer(reached).revision.tree_size >= size
        assert refusal(partial(answer, later)) == "REVISION_NOT_REACHED"
    (answered,) = batch(running, questions=[asked], consistency=reached)
    assert answered.decision.outcome == pb.OUTCOME_PERMIT
    assert refusal(lambda: batch(running, questions=[asked], consistency=later)) == "REVISION_NOT_REACHED"


# -- accesses ------------------------------------------------------------------------------------------------------


def test_an_access_is_recorded_with_what_it_rests_on(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    answer = running.authorize(question(subject), "clinic-b", network_origin="203.0.113.7")
    event = event_of(answer.receipt)
    assert (event.kind, event.ref, event.seq) == (EntryKind.ACCESS, 2, answer.access_seq)
    assert (answer.decision.outcome, answer.decision.tag) == (pb.OUTCOME_PERMIT, event.tag)
    refused = running.authorize(question(subject, purpose="HMARKT"), "clinic-b")
    assert kind_of(running, refused.receipt) == EntryKind.REFUSAL
    assert (refused.decision.outcome, len(refused.decision.reasons)) == (pb.OUTCOME_DENY, 0)
    newest, oldest = accesses(running, subject)
    assert (newest.kind, newest.seq) == (EntryKind.REFUSAL, 4)
    assert newest.decision == refused.decision  # what is recorded is the answer as the asker got it
    assert (newest.decision.tag, newest.decision.ref) == (b"", 0)
    assert (oldest.asker, oldest.network_origin) == ("clinic-b", "203.0.113.7")
    assert oldest.question == question(subject)
    assert newest.network_origin.startswith("ipv4:127.0.0.1:")


def test_a_repeat_gets_the_first_answer_and_a_decision_taken_now(running: Running, subject: pb.Subject) -> None:
    consent_id = running.grant(subject)
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    first = running.access.AuthorizeAccess(request, metadata=running.as_("app"))
    assert not first.HasField("current_decision")
    change(running, EntryKind.REVOKE, subject, consent_id)
    again = running.access.AuthorizeAccess(request, metadata=running.as_("app"))
    assert first.decision.outcome == pb.OUTCOME_PERMIT
    assert again.decision == first.decision
    assert again.current_decision.outcome == pb.OUTCOME_NO_CONSENT
    assert again.current_decision.decision_id != first.decision.decision_id
    assert (again.receipt.leaf, again.receipt.index) == (first.receipt.leaf, first.receipt.index)
    assert (first.receipt.replayed, again.receipt.replayed, again.access_seq) == (False, True, first.access_seq)
    request.question.purpose = "HRESCH"
    assert refusal(lambda: running.access.AuthorizeAccess(request, metadata=running.as_("app"))) == "REQUEST_ID_REUSED"
    # The same request id of another asker is another request.
    other = running.access.AuthorizeAccess(request, metadata=running.as_("hospital-a"))
    assert not other.receipt.replayed


def test_a_repeat_shows_both_decisions_as_their_asker_may_see_them(running: Running, subject: pb.Subject) -> None:
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    first = running.access.AuthorizeAccess(request, metadata=running.as_("clinic-b"))
    running.grant(subject, effect=pb.EFFECT_DENY, kind=pb.CONSENT_KIND_OBJECTION)
    again = running.access.AuthorizeAccess(request, metadata=running.as_("clinic-b"))
    for decision in (first.decision, again.decision, again.current_decision):
        assert decision.outcome == pb.OUTCOME_DENY
        assert (list(decision.reasons), list(decision.without_consent)) == ([], [])


def test_a_repeat_has_a_proof_if_the_caller_waits_for_one(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    request.wait_for = pb.WAIT_FOR_PUBLISHED
    first = running.access.AuthorizeAccess(request, metadata=running.as_("app"))
    again = running.access.AuthorizeAccess(request, metadata=running.as_("app"))
    assert (first.receipt.published, again.receipt.published, again.receipt.replayed) == (True, True, True)
    request.wait_for = pb.WAIT_FOR_DURABLE
    assert running.access.AuthorizeAccess(request, metadata=running.as_("app")).receipt.proof == b""


def test_one_request_sent_many_times_at_once_is_one_entry(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    same = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    with ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(running.access.AuthorizeAccess, same, metadata=running.as_("app")) for _ in range(32)]
        receipts = [call.result().receipt for call in calls]
    assert len({(one.index, one.leaf) for one in receipts}) == 1
    assert sum(not one.replayed for one in receipts) == 1
    assert len(accesses(running, subject)) == 1


def test_one_request_id_for_different_questions_at_once_has_one_winner(running: Running, subject: pb.Subject) -> None:
    used = request_id()

    def ask(number: int) -> str:
        asked = question(subject, actor=pb.Actor(organisation="clinic-b", practitioner=f"p{number}"))
        try:
            running.access.AuthorizeAccess(
                ac.AuthorizeAccessRequest(request_id=used, question=asked), metadata=running.as_("app")
            )
        except grpc.RpcError as error:
            return reason_of(error)
        return "won"

    with ThreadPoolExecutor(16) as threads:
        results = sorted(threads.map(ask, range(16)))
    assert results == ["REQUEST_ID_REUSED"] * 15 + ["won"]
    assert len(accesses(running, subject)) == 1


def test_a_batch_of_accesses_answers_each_by_itself(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    same = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    requests = [
        same,
        ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject, purpose="HRESCH")),
        ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject, purpose="CURIOSITY")),
        ac.AuthorizeAccessRequest(request_id=b"short", question=question(subject)),
        same,
        ac.AuthorizeAccessRequest(request_id=same.request_id, question=question(subject, holder="er")),
        ac.AuthorizeAccessRequest(request_id=request_id()),
    ]
    metrics, reasons = running.daemon.metrics, ("UNKNOWN_PURPOSE", "INVALID_REQUEST_ID", "REQUEST_ID_REUSED")
    counted = {reason: metrics.value("consentd_errors_total", reason=reason) for reason in reasons}
    request = ac.BatchAuthorizeAccessesRequest(requests=requests, wait_for=pb.WAIT_FOR_PUBLISHED)
    results = running.access.BatchAuthorizeAccesses(request, metadata=running.as_("app")).results
    assert [one.response.decision.outcome for one in results[:2]] == [pb.OUTCOME_PERMIT, pb.OUTCOME_NO_CONSENT]
    forms = [one.WhichOneof("result") for one in results]
    assert forms == ["response", "response", "error", "error", "response", "error", "error"]
    assert results[4].response.receipt.replayed
    assert results[4].response.current_decision.outcome == pb.OUTCOME_PERMIT
    assert results[0].response.receipt.leaf == results[4].response.receipt.leaf
    assert results[0].response.receipt.published
    assert len(accesses(running, subject)) == 2
    for reason, before in counted.items():
        assert metrics.value("consentd_errors_total", reason=reason) == before + 1


def test_break_glass_is_for_those_enrolled_with_the_right(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        publish_rules(running, break_glass=[pb.Provision(effect=pb.EFFECT_PERMIT, categories=["CLIN"])])
        subject = running.enrol("SYN-000001")

        def ask(organisation: str, **more: Any) -> ac.AuthorizeAccessResponse:
            fields = {"break_glass": pb.BreakGlass(justification="unconscious"), "purpose": BREAK_GLASS_PURPOSE, **more}
            asked = question(subject, actor=pb.Actor(organisation=organisation), **fields)
            return running.authorize(asked, organisation)

        permitted = ask("er")
        assert permitted.decision.outcome == pb.OUTCOME_PERMIT
        assert list(permitted.decision.obligations) == [pb.OBLIGATION_NOTIFY_SUBJECT, pb.OBLIGATION_POST_REVIEW]
        assert event_of(permitted.receipt).kind == EntryKind.ACCESS
        refused = ask("clinic-b")
        assert refused.decision.outcome == pb.OUTCOME_DENY
        assert kind_of(running, refused.receipt) == EntryKind.REFUSAL
        reasons = [[reason.code for reason in one.decision.reasons] for one in accesses(running, subject)]
        assert reasons == [[], [pb.REASON_CODE_PERMITTED_BY_BREAK_GLASS]]
        wrong: list[Callable[[], Any]] = [
            lambda: ask("er", break_glass=pb.BreakGlass()),
            lambda: ask("er", break_glass=None),
            lambda: ask("er", purpose="TREAT"),
            lambda: running.check(question(subject, purpose=BREAK_GLASS_PURPOSE)),
            lambda: ask("er", break_glass=pb.BreakGlass(), purpose="TREAT"),
            lambda: running.check(question(subject, break_glass=pb.BreakGlass())),
        ]
        nothing = (" " * 400, "\u200b" * 400, "\u3164" * 400, "\u115f\u1160" * 40, "emergency", "응급" * 4, "1" * 40)
        for words in nothing:
            said = pb.BreakGlass(justification=words)
            wrong.append(lambda said=said: ask("er", break_glass=said))  # type: ignore[misc]
        for call in wrong:
            assert refusal(call) == "BREAK_GLASS_SHAPE"
        assert len(accesses(running, subject)) == 2  # none of these was recorded
        said = pb.BreakGlass(justification="의식 없는 환자, 보호자 없음")
        assert ask("er", break_glass=said).decision.outcome == pb.OUTCOME_PERMIT
        running.check_ledger()


def test_outcomes_come_from_those_who_took_part(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    seq = running.authorize(question(subject), "clinic-b").access_seq
    refused = running.authorize(question(subject, purpose="HRESCH"), "clinic-b").access_seq
    sent = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, resource_count=3)
    assert event_of(record(running, subject, seq, "hospital-a", attested=sent)).ref == seq
    record(running, subject, seq, "clinic-b")
    assert refusal(lambda: record(running, subject, seq, "er")) == "NOT_FOUND"
    for other in (0, 1, 2, refused, 999, 1 << 63, (1 << 64) - 1):
        assert refusal(lambda other=other: record(running, subject, other)) == "NOT_FOUND"
    for status in (0, 99, -1):
        outcome = st.OutcomeStatement(status=status)
        assert refusal(lambda outcome=outcome: record(running, subject, seq, attested=outcome)) == "INVALID_REQUEST"
    outcomes = accesses(running, subject)[1].outcomes
    assert [(one.status, one.attestation.attested_by) for one in outcomes] == [
        (st.TRANSFER_STATUS_SENT, "hospital-a"),
        (st.TRANSFER_STATUS_RECEIVED, "clinic-b"),
    ]


def test_a_batch_of_outcomes_is_all_or_none(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    seq = running.authorize(question(subject), "clinic-b").access_seq

    def item(seq: int, used: bytes | None = None, status: int = st.TRANSFER_STATUS_SENT) -> ac.RecordAccessRequest:
        outcome = st.OutcomeStatement(status=status)
        return ac.RecordAccessRequest(
            request_id=used or request_id(), subject=subject, access_seq=seq, attested=outcome
        )

    def send(*requests: ac.RecordAccessRequest) -> list[pb.Receipt]:
        request = ac.BatchRecordAccessesRequest(requests=requests)
        return list(running.access.BatchRecordAccesses(request, metadata=running.as_("clinic-b")).receipts)

    first, second = item(seq), item(seq)
    assert refusal(lambda: send(first, item(99))) == "NOT_FOUND"
    assert refusal(lambda: send(first, item(seq, first.request_id))) == "INVALID_REQUEST_ID"
    assert not accesses(running, subject)[0].outcomes
    receipts = send(first, second)
    assert [event_of(one).ref for one in receipts] == [seq, seq]
    third = item(seq)
    again = send(second, third, first)
    assert [one.replayed for one in again] == [True, False, True]
    assert [again[2].leaf, again[0].leaf] == [one.leaf for one in receipts]
    clash = item(seq, first.request_id, st.TRANSFER_STATUS_FAILED)
    assert refusal(lambda: send(item(seq), clash)) == "REQUEST_ID_REUSED"
    assert len(accesses(running, subject)[0].outcomes) == 3


def test_a_repeat_shows_what_was_recorded_as_refused_though_it_is_permitted_now(running: Running) -> None:
    subject = running.enrol(new_identifier())
    asked = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    first = running.access.AuthorizeAccess(asked, metadata=running.as_("app"))
    running.grant(subject)
    again = running.access.AuthorizeAccess(asked, metadata=running.as_("app"))
    assert (first.decision.outcome, again.decision.outcome) == (pb.OUTCOME_NO_CONSENT,) * 2
    assert again.current_decision.outcome == pb.OUTCOME_PERMIT
    asked.request_id = request_id()
    assert running.access.AuthorizeAccess(asked, metadata=running.as_("app")).decision.outcome == pb.OUTCOME_PERMIT
