"""The Python client against daemons that fail or answer nonsense; its methods, errors and channels."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from cases.clients import ASKED, SENT, UNAVAILABLE, Answer, FakeRpcError, faking
from cases.daemons import consent
from cases.small_ledgers import SUBJECT
from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.errors import (
    ConsentdError,
    InvalidError,
    MalformedError,
    ProofError,
    StorageError,
)
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.statements.values import vocabulary_message
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import (
    AsyncClient,
    AtExact,
    AtLeast,
    Client,
    KeyPair,
    NotPermittedError,
    StatementSigner,
    Tls,
    TransferOutcome,
    operations,
    pin,
)
from consentd_client.base import ClientBase, Method


def test_both_clients_have_the_same_methods_texts_and_arguments() -> None:
    table = {name: value for name, value in vars(ClientBase).items() if isinstance(value, Method)}
    assert len(table) >= 30
    for kind in (Client, AsyncClient):
        assert not vars(kind).keys() & table.keys()  # neither client replaces one
        assert str(inspect.signature(kind.list_consents)).startswith("(context: ")
        assert "page_token" not in inspect.signature(kind.list_consents).parameters
    texts = {name: inspect.getdoc(method.__get__(None, Client)) or "" for name, method in table.items()}
    assert [name for name, text in texts.items() if "Raises:" not in text and "fail" not in text] == []


@pytest.mark.parametrize("file", [ac, ad, cs, ls, ps, rs])
def test_the_types_of_its_messages_name_a_procedure_of_the_contract(file: ModuleType) -> None:
    for service in file.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            types = (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
            assert operations.procedure_path(*types) == f"/{service.full_name}/{method.name}"


def decided(outcome: int, **fields: Any) -> ps.CheckResponse:
    return ps.CheckResponse(decision=pb.Decision(outcome=outcome, **fields))  # type: ignore[arg-type]  # any


def test_a_decision_of_another_state_than_asked_for_is_none() -> None:
    revision, exact = pb.Revision(tree_size=7), AtExact(7, 1_000)
    permit = {"permitted": ["CLIN.DX"], "revision": revision, "decided_time_ms": 1_000}
    for consistency, is_right in (
        (exact, True), (AtExact(8, 1_000), False), (AtExact(7, 1_001), False), (AtLeast(7), True), (AtLeast(8), False),
    ):  # fmt: skip
        client, _ = faking(decided(pb.OUTCOME_PERMIT, **permit))
        answer = client.check(ASKED, consistency=consistency)
        assert (answer.error is None) is is_right
        assert bool(answer) is (is_right and consistency is not exact)


RESIDUAL = pb.ResidualRule(effect=pb.EFFECT_PERMIT, categories=["CLIN.DX"], layer=pb.LAYER_CONSENT)
STRANGE = pb.DecisionReason(effect=7)  # type: ignore[arg-type]  # an effect of a later version
UNUSABLE = {
    "unavailable": [UNAVAILABLE] * 3,
    "deadline": [FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED)],
    "internal": [FakeRpcError(grpc.StatusCode.INTERNAL, "INTERNAL")],
    "cancelled": [FakeRpcError(grpc.StatusCode.CANCELLED)] * 3,
    "unimplemented": [FakeRpcError(grpc.StatusCode.UNIMPLEMENTED)],
    "corruption": [FakeRpcError(grpc.StatusCode.DATA_LOSS, "CORRUPTION")],
    "foreign error": [grpc.RpcError()],
    "closed channel": [ValueError("Cannot invoke RPC on closed channel!")],
    "no decision": [ps.CheckResponse()],
    "unspecified outcome": [decided(0, permitted=["CLIN.DX"])],
    "outcome of a later version": [decided(9, permitted=["CLIN.DX"])],
    "permit of nothing": [decided(pb.OUTCOME_PERMIT)],
    "permit and deny": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], denied=["CLIN.RX"])],
    "permit and without": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], without_consent=["CLIN.RX"])],
    "permit and unknown": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], unknown=["X"])],
    "partial of all": [decided(pb.OUTCOME_PARTIAL, permitted=["CLIN.DX"])],
    "unknown obligation": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=[77])],
    "category besides": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX", "CLIN.RX"])],
    "part of another category": [decided(pb.OUTCOME_PARTIAL, permitted=["CLIN.DX"], denied=["CLIN.RX"])],
    "category twice": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX", "CLIN.DX"])],
    "category permitted and denied": [decided(pb.OUTCOME_PARTIAL, permitted=["CLIN.DX"], denied=["CLIN.DX"])],
    "unknown effect": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], reasons=[STRANGE])],
    "residual not supported": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=[1], residual=[RESIDUAL])],
    "residual without its obligation": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], residual=[RESIDUAL])],
}


@pytest.mark.parametrize("answers", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_check_fails_closed(answers: list[Answer]) -> None:
    client, _ = faking(*answers)
    found = client.check(ASKED)
    assert not found
    assert found.outcome == pb.OUTCOME_INDETERMINATE
    assert not found.decision.permitted
    assert found.error is not None
    client, _ = faking(*answers)
    with pytest.raises(ConsentdError):
        client.check_or_raise(ASKED)
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if not errors:
        client, _ = faking(ps.BatchCheckResponse(results=[ps.CheckResult(decision=answers[0].decision)]))
        (found,) = client.batch_check([ASKED])
        assert found.outcome == pb.OUTCOME_INDETERMINATE
    else:
        client, _ = faking(*answers)
        assert [one.outcome for one in client.batch_check([ASKED, ASKED])] == [pb.OUTCOME_INDETERMINATE] * 2


def asking(*categories: str, **more: Any) -> pb.Question:
    asked = pb.Question()
    asked.CopyFrom(ASKED)
    asked.MergeFrom(pb.Question(**more))
    if categories:
        asked.categories[:] = categories
    return asked


BOTH = asking("CLIN.DX", "CLIN.RX")


def test_only_a_permit_of_all_that_was_asked_for_is_true() -> None:
    for outcome, fields, permits in (
        (pb.OUTCOME_PERMIT, {"permitted": ["CLIN.DX", "CLIN.RX"]}, True),
        (pb.OUTCOME_PARTIAL, {"permitted": ["CLIN.DX"], "denied": ["CLIN.RX"]}, False),
        (pb.OUTCOME_DENY, {"denied": ["CLIN.DX", "CLIN.RX"]}, False),
        (pb.OUTCOME_NO_CONSENT, {"without_consent": ["CLIN.DX", "CLIN.RX"]}, False),
        (pb.OUTCOME_INDETERMINATE, {"unknown": ["CLIN.DX", "CLIN.RX"]}, False),
    ):
        client, _ = faking(decided(outcome, **fields))
        found = client.check(BOTH)
        assert (found.outcome, bool(found), found.error) == (outcome, permits, None)
        if permits:
            found.require(BOTH)
        else:
            with pytest.raises(NotPermittedError) as caught:
                found.require()
            assert caught.value.answer is found


def test_a_permit_is_true_once_its_obligations_are_fulfilled() -> None:
    duties = [pb.OBLIGATION_NOTIFY_SUBJECT, pb.OBLIGATION_POST_REVIEW]
    client, _ = faking(decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=duties))
    found = client.check(ASKED)
    assert (bool(found), list(found.unfulfilled)) == (False, duties)
    with pytest.raises(NotPermittedError):
        found.require()
    told = found.fulfil(pb.OBLIGATION_NOTIFY_SUBJECT)
    assert (bool(told), list(told.unfulfilled)) == (False, [pb.OBLIGATION_POST_REVIEW])
    assert told.fulfil(pb.OBLIGATION_POST_REVIEW)
    assert not found  # it is a value of its own
    with pytest.raises(InvalidError):
        found.fulfil(pb.OBLIGATION_ENFORCE_RESIDUAL)
    with pytest.raises(InvalidError):
        faking(decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"]))[0].check(ASKED).fulfil(pb.OBLIGATION_POST_REVIEW)


def test_a_permit_with_conditions_is_false_and_cannot_be_confirmed() -> None:
    asked = asking(supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL])
    fields: dict[str, Any] = {
        "permitted": ["CLIN.DX"], "obligations": [1], "combining": 1, "residual": [RESIDUAL], **WIDE,
    }  # fmt: skip
    found = faking(decided(pb.OUTCOME_PERMIT, **fields))[0].check(asked)
    assert (found.outcome, bool(found), found.error) == (pb.OUTCOME_PERMIT, False, None)
    with pytest.raises(NotPermittedError):
        found.require()
    with pytest.raises(InvalidError):
        found.fulfil(pb.OBLIGATION_ENFORCE_RESIDUAL)
    newer = pb.ResidualRule()
    newer.CopyFrom(RESIDUAL)
    newer.MergeFromString(b"\xf8\x01\x01")  # field 31, of a later version
    changes: tuple[dict[str, Any], ...] = (
        {"combining": 0}, {"combining": 9}, {"residual": [newer]}, {"residual": [pb.ResidualRule(rules=[newer])]},
        {"residual": [pb.ResidualRule(effect=pb.EFFECT_PERMIT, categories=["CLIN.DX"])]},
        {"residual": [pb.ResidualRule(layer=pb.LAYER_CONSENT, categories=["CLIN.DX"])]},
        {"residual": [pb.ResidualRule(effect=pb.EFFECT_PERMIT, layer=pb.LAYER_CONSENT, level="X")]},
        {"residual": []}, {"labels": []}, {"level": ""}, {"level": "R"}, {"labels": ["*", "HIV"]},
    )  # fmt: skip
    for changed in changes:
        found = faking(decided(pb.OUTCOME_PERMIT, **{**fields, **changed}))[0].check(asked)
        assert isinstance(found.error, ProofError), changed


def test_an_answer_is_to_the_question_that_was_asked_and_to_no_other() -> None:
    asked = asking()
    found = faking(decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"]))[0].check(asked)
    found.require(asked)
    asked.actor.organisation = "somebody-else"  # the caller's message, not the answer's
    with pytest.raises(NotPermittedError):
        found.require(asked)
    for other in (asking("CLIN.RX"), asking(holder="er"), asking(purpose="HMARKT"), asking(action="use")):
        with pytest.raises(NotPermittedError):
            found.require(other)
    ending = faking(decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], valid_until_time_ms=9))[0].check(ASKED)
    ending.require(ASKED)
    ending.require(ASKED, now_ms=8)
    with pytest.raises(NotPermittedError):
        ending.require(ASKED, now_ms=9)
    found.require(now_ms=1 << 60)  # valid without an end
    shared = asking()
    shared.ClearField("subject")
    permit = ps.CheckResult(decision=pb.Decision(outcome=pb.OUTCOME_PERMIT, permitted=["CLIN.DX"]))
    (about,) = faking(ps.BatchCheckResponse(results=[permit]))[0].check_subjects(shared, [ASKED.subject])
    about.require(ASKED)


def test_a_wide_category_is_compared_by_its_leaves() -> None:
    words = rs.GetVocabularyResponse(vocabulary=vocabulary_message(DEFAULT_VOCABULARY))
    leaves = ["PUB.IMM", "PUB.EPI", "PUB.ENV"]
    wide = asking("PUB")
    for permitted, usable in ((leaves, True), (leaves[:2], False), ([*leaves, "CLIN.DX"], False)):
        answer = decided(pb.OUTCOME_PERMIT, permitted=permitted, vocabulary_version=1)
        client, channel = faking(answer, words, answer)
        assert bool(client.check(wide)) is usable
        assert bool(client.check(wide)) is usable  # the vocabulary is read once
        assert len(channel.requests) == 3
    part = decided(pb.OUTCOME_PARTIAL, permitted=leaves[:1], denied=leaves[1:], vocabulary_version=1)
    found = faking(part, words)[0].check(wide)
    assert (found.outcome, bool(found)) == (pb.OUTCOME_PARTIAL, False)
    other = decided(pb.OUTCOME_PERMIT, permitted=["CLIN.RX"], vocabulary_version=1)
    assert isinstance(faking(other, words)[0].check(ASKED).error, ProofError)
    later = decided(pb.OUTCOME_PERMIT, permitted=leaves, vocabulary_version=2)
    assert isinstance(faking(later, words)[0].check(wide).error, ProofError)
    assert isinstance(faking(later, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE)[0].check(wide).error, StorageError)


def test_a_batch_of_another_length_is_no_answer() -> None:
    client, _ = faking(ps.BatchCheckResponse())
    assert [one.outcome for one in client.batch_check([ASKED])] == [pb.OUTCOME_INDETERMINATE]
    client, _ = faking(ps.BatchCheckResponse(results=[ps.CheckResult()]))
    assert [one.outcome for one in client.batch_check([ASKED])] == [pb.OUTCOME_INDETERMINATE]
    client, _ = faking(ac.BatchAuthorizeAccessesResponse())
    with pytest.raises(ProofError):
        client.batch_authorize([ASKED])
    client, _ = faking(ac.BatchRecordAccessesResponse())
    with pytest.raises(ProofError):
        client.batch_record([TransferOutcome(ASKED.subject, 3, SENT)])


TAG = b"\x05" * 32
SALT = b"\x06" * 32


def event_receipt(
    kind: int, *, seq: int = 3, tag: bytes = TAG, ref: int = 0, commit: bytes = b"\x02" * 32, **fields: Any
) -> pb.Receipt:
    prev = codec.ZERO_HASH if seq == 1 else b"\x01" * 32
    leaf = codec.encode_event(codec.Event(kind, 1, tag, seq, prev, commit, ref))
    made = {"index": 7, "leaf": leaf, "leaf_hash": merkle.leaf_hash(leaf)}
    return pb.Receipt(**{**made, **fields})


def recorded(outcome: "pb.Outcome.ValueType", permitted: list[str], **fields: Any) -> pb.Decision:
    """Return a decision that an ACCESS entry of ``event_receipt`` records."""
    return pb.Decision(outcome=outcome, permitted=permitted, tag=TAG, decided_time_ms=1, **fields)


PERMIT = recorded(pb.OUTCOME_PERMIT, ["CLIN.DX"])
REDUCED = pb.Receipt(index=7, leaf_hash=bytes(32))


def authorized(
    decision: pb.Decision, current: pb.Decision | None = None, *, opening: bool = True,
    asked: pb.Question | None = None, request_id: bytes = b"", **fields: Any,
) -> list[Answer]:  # fmt: skip
    """Return the answers of a daemon that records an access, and then opens the entry.

    *asked*, *request_id*: those of the entry, if it is of another request. *fields*: of the receipt.
    """
    opened = ls.GetReceiptResponse()

    def answer(request: ac.AuthorizeAccessRequest) -> ac.AuthorizeAccessResponse:
        question = request.question if asked is None else asked
        about = st.AccessStatement(asked=st.AskedQuestion(question=question.SerializeToString()), decision=decision)
        wanted = request_id or request.request_id
        said = codec.encode_statement(codec.Statement(bytes(32), bytes(64), wanted, 1, about.SerializeToString()))
        if opening:
            opened.opening.salt, opened.opening.statement = SALT, said
        receipt = event_receipt(EntryKind.ACCESS, ref=decision.ref, commit=codec.commit(SALT, said), **fields)
        return ac.AuthorizeAccessResponse(decision=decision, current_decision=current, receipt=receipt, access_seq=3)

    return [answer, lambda _: opened]


def test_no_receipt_no_data() -> None:
    client, channel = faking(*authorized(PERMIT))
    assert client.authorize_access(ASKED)
    assert len(channel.requests) == 1  # only a repeat's entry is opened
    client, _ = faking(ac.AuthorizeAccessResponse(decision=PERMIT))
    found = client.authorize_access(ASKED)
    assert (bool(found), found.outcome_name, str(found.error)) == (False, "INDETERMINATE", "decision has no receipt")
    client, _ = faking(ac.AuthorizeAccessResponse(decision=DENIED, receipt=REDUCED))
    assert client.authorize_access(ASKED).outcome == pb.OUTCOME_DENY
    client, _ = faking(ac.AuthorizeAccessResponse(decision=PERMIT, receipt=REDUCED))
    assert not client.authorize_access(ASKED)
    for bad in (
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.GRANT), access_seq=3),
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.REFUSAL), access_seq=3),
        ac.AuthorizeAccessResponse(decision=DENIED, receipt=pb.Receipt(index=7)),
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS), access_seq=4),
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=pb.Receipt(leaf=b"x"), access_seq=3),
        ac.AuthorizeAccessResponse(
            decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS, leaf_hash=bytes(32)), access_seq=3
        ),
        FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED),
    ):
        client, _ = faking(bad)
        with pytest.raises(ConsentdError):
            client.authorize_access(ASKED)


def test_the_receipt_of_another_decision_permits_nothing() -> None:
    changes = (pb.Decision(tag=b"\x07" * 32), pb.Decision(decided_time_ms=2), pb.Decision(ref=2))
    for change in changes:
        other = pb.Decision()
        other.CopyFrom(PERMIT)
        other.MergeFrom(change)
        answer = ac.AuthorizeAccessResponse(decision=other, receipt=event_receipt(EntryKind.ACCESS), access_seq=3)
        found = faking(answer)[0].authorize_access(ASKED)
        assert (bool(found), found.outcome) == (False, pb.OUTCOME_INDETERMINATE)
        assert isinstance(found.error, ProofError)
    for tag, permits in ((TAG, True), (bytes(32), True), (b"\x07" * 32, False)):
        signer = StatementSigner(key=KeyPair(bytes(32)), origin="o", tag=tag)
        answer = ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS), access_seq=3)
        assert bool(faking(answer)[0].authorize_access(ASKED, signer=signer)) is permits


def test_an_old_receipt_is_not_the_answer_to_a_new_request() -> None:
    access, refusal = authorized(PERMIT)[0], ac.AuthorizeAccessResponse(decision=DENIED, receipt=REDUCED)
    outcome = ac.RecordAccessResponse(receipt=event_receipt(EntryKind.OUTCOME, seq=4, ref=3))
    for again in (access, refusal):
        client, _ = faking(access, again)
        assert client.authorize_access(ASKED)
        with pytest.raises(ProofError):
            client.authorize_access(ASKED)
    client, _ = faking(access, outcome)
    client.authorize_access(ASKED)
    with pytest.raises(ProofError):
        client.record_access(ASKED.subject, 3, SENT)
    late = ac.RecordAccessResponse(receipt=event_receipt(EntryKind.OUTCOME, seq=4, ref=3, index=8))
    client, _ = faking(access, late)
    client.authorize_access(ASKED)
    client.record_access(ASKED.subject, 3, SENT)
    both = ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS), access_seq=3)
    two = ac.BatchAuthorizeAccessesResponse(results=[ac.AuthorizeAccessResult(response=both)] * 2)
    with pytest.raises(ProofError):
        faking(two)[0].batch_authorize([ASKED, ASKED])


def test_an_outcome_is_that_of_the_access_reported_on() -> None:
    for ref, is_right in ((3, True), (2, False), (0, False)):
        receipt = event_receipt(EntryKind.OUTCOME, seq=4, ref=ref)
        for call in (
            lambda r=receipt: faking(ac.RecordAccessResponse(receipt=r))[0].record_access(ASKED.subject, 3, SENT),
            lambda r=receipt: faking(ac.BatchRecordAccessesResponse(receipts=[r]))[0].batch_record(
                [TransferOutcome(ASKED.subject, 3, SENT)]
            ),
        ):
            if is_right:
                call()
            else:
                with pytest.raises(ProofError):
                    call()


def test_the_entry_of_a_repeat_is_opened_and_compared_with_the_request() -> None:
    client, channel = faking(*authorized(PERMIT, PERMIT, replayed=True))
    assert client.authorize_access(ASKED)
    assert len(channel.requests) == 2
    changes: tuple[dict[str, Any], ...] = (
        {"asked": asking("CLIN.RX")}, {"asked": asking(holder="er")}, {"request_id": b"\x09" * 16}, {"opening": False},
    )  # fmt: skip
    for change in changes:
        found = faking(*authorized(PERMIT, PERMIT, replayed=True, **change))[0].authorize_access(ASKED)
        assert (bool(found), isinstance(found.error, ProofError)) == (False, True), change
    answer, _ = authorized(PERMIT, PERMIT, replayed=True)
    other = ls.GetReceiptResponse(opening=ls.Opening(salt=SALT, statement=bytes(200)))
    assert isinstance(faking(answer, other)[0].authorize_access(ASKED).error, ProofError)
    failed = faking(answer, FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED))[0].authorize_access(ASKED)
    assert isinstance(failed.error, StorageError)


WIDE = {"labels": ["*"], "level": "V"}
DENIED = pb.Decision(outcome=pb.OUTCOME_DENY, denied=["CLIN.DX", "CLIN.RX"])
PART = recorded(pb.OUTCOME_PARTIAL, ["CLIN.DX"], denied=["CLIN.RX"], **WIDE)
OTHER_PART = recorded(pb.OUTCOME_PARTIAL, ["CLIN.RX"], denied=["CLIN.DX"], **WIDE)
WHOLE = recorded(pb.OUTCOME_PERMIT, ["CLIN.DX", "CLIN.RX"], **WIDE)
NARROW = recorded(pb.OUTCOME_PERMIT, ["CLIN.DX", "CLIN.RX"])
MORE = recorded(pb.OUTCOME_PERMIT, ["CLIN.DX", "CLIN.RX", "CLIN.LAB"])
LIMITED = recorded(pb.OUTCOME_PERMIT, ["CLIN.DX", "CLIN.RX"], obligations=[1], combining=1, residual=[RESIDUAL], **WIDE)
NOTIFY = recorded(pb.OUTCOME_PERMIT, ["CLIN.DX"], obligations=[pb.OBLIGATION_NOTIFY_SUBJECT])


@pytest.mark.parametrize(
    ("recorded", "current", "outcome", "permitted"),
    [
        (WHOLE, WHOLE, pb.OUTCOME_PERMIT, ["CLIN.DX", "CLIN.RX"]),
        (WHOLE, DENIED, pb.OUTCOME_DENY, []),
        (DENIED, WHOLE, pb.OUTCOME_DENY, []),
        (WHOLE, PART, pb.OUTCOME_PARTIAL, ["CLIN.DX"]),
        (PART, WHOLE, pb.OUTCOME_PARTIAL, ["CLIN.DX"]),
        (PART, OTHER_PART, pb.OUTCOME_DENY, []),
        (LIMITED, LIMITED, pb.OUTCOME_PERMIT, ["CLIN.DX", "CLIN.RX"]),
        (LIMITED, WHOLE, pb.OUTCOME_INDETERMINATE, []),
        (WHOLE, NARROW, pb.OUTCOME_INDETERMINATE, []),
        (NARROW, WHOLE, pb.OUTCOME_INDETERMINATE, []),
        (WHOLE, MORE, pb.OUTCOME_INDETERMINATE, []),
        (WHOLE, pb.Decision(outcome=9), pb.OUTCOME_INDETERMINATE, []),
        (WHOLE, None, pb.OUTCOME_INDETERMINATE, []),
    ],
)
def test_a_repeat_permits_what_both_decisions_permit(
    recorded: pb.Decision, current: pb.Decision | None, outcome: int, permitted: list[str]
) -> None:
    answers = authorized(recorded, current, replayed=True)
    if recorded is DENIED:
        reduced = pb.Receipt(index=7, leaf_hash=bytes(32), replayed=True)
        answers = [ac.AuthorizeAccessResponse(decision=recorded, current_decision=current, receipt=reduced)]
    client, _ = faking(*answers)
    asked = asking("CLIN.DX", "CLIN.RX", supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL])
    found = client.authorize_access(asked)
    assert (found.outcome, list(found.decision.permitted)) == (outcome, permitted)
    assert bool(found) is (outcome == pb.OUTCOME_PERMIT and recorded is not LIMITED)
    assert (found.error is not None) is (outcome == pb.OUTCOME_INDETERMINATE)


def test_a_repeat_has_the_obligations_of_both_decisions() -> None:
    client, _ = faking(*authorized(NOTIFY, PERMIT, replayed=True))
    found = client.authorize_access(ASKED)
    assert list(found.decision.obligations) == [pb.OBLIGATION_NOTIFY_SUBJECT]
    assert (found.recorded, found.current) == (NOTIFY, PERMIT)
    assert not found
    assert found.fulfil(pb.OBLIGATION_NOTIFY_SUBJECT)


def test_answers_that_contradict_their_receipts_are_caught() -> None:
    person, given = ASKED.subject, consent()
    grant = event_receipt(EntryKind.GRANT)
    for call, answer in (
        (lambda c: c.grant(person, given), cs.GrantConsentResponse(receipt=grant, consent_id="00" * 16, version=1)),
        (lambda c: c.grant(person, given), cs.GrantConsentResponse(receipt=grant, refused=cs.Refused())),
        (lambda c: c.grant(person, given), cs.GrantConsentResponse(receipt=event_receipt(EntryKind.REFUSAL))),
        (lambda c: c.revoke(person, "00" * 16), cs.RevokeConsentResponse(receipt=grant)),
        (
            lambda c: c.amend(person, "00" * 16, given, based_on_version=1),
            cs.AmendConsentResponse(receipt=event_receipt(EntryKind.REFUSAL), version=2),
        ),
        (lambda c: c.enrol(person), rs.EnrolSubjectResponse(receipt=event_receipt(EntryKind.ENROL, seq=1))),
    ):
        client, _ = faking(answer)
        with pytest.raises(ProofError):
            call(client)


def test_a_repeat_is_the_very_same_request() -> None:
    done = cs.RevokeConsentResponse(receipt=event_receipt(EntryKind.REVOKE))
    client, channel = faking(UNAVAILABLE, UNAVAILABLE, done)
    client.revoke(ASKED.subject, "00" * 16)
    assert len(channel.requests) == 3
    assert len(set(channel.requests)) == 1
    assert len(cs.RevokeConsentRequest.FromString(channel.requests[0]).request_id) == 16


def test_only_a_daemon_that_is_away_or_busy_is_asked_again() -> None:
    codes = grpc.StatusCode
    for code in set(codes) - {codes.OK, codes.UNAVAILABLE, codes.CANCELLED, codes.RESOURCE_EXHAUSTED}:
        client, channel = faking(FakeRpcError(code))
        with pytest.raises(ConsentdError):
            client.get_rules()
        assert len(channel.requests) == 1
    client, channel = faking(*[UNAVAILABLE] * 3, attempts=3)
    with pytest.raises(StorageError) as caught:
        client.revoke(ASKED.subject, "00" * 16, request_id=b"\x0a" * 16)
    assert len(channel.requests) == 3
    assert caught.value.__notes__ == ["request_id: " + "0a" * 16]


def test_a_deadline_covers_repeats() -> None:
    client, channel = faking(UNAVAILABLE, UNAVAILABLE)
    found = client.within(-1.0).check(ASKED)
    assert (found.outcome_name, channel.requests) == ("INDETERMINATE", [])
    assert isinstance(found.error, StorageError)


def test_a_token_is_not_sent_in_the_clear() -> None:
    for target in ("consent.example.org:7400", "dns:///10.0.0.1:7400", "127.0.0.1.example:7400"):
        with pytest.raises(InvalidError):
            Client(target, token="t")
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/run/consentd"):
        Client(target, token="t").close()
    with pytest.raises(InvalidError):
        Client("localhost:1", token="t\n")
    Client("consent.example.org:7400", token="t", tls=Tls()).close()
    with pytest.raises(InvalidError):
        Client("consent.example.org:7400", tls=Tls(cert_file=Path("c")))
    with pytest.raises(StorageError):
        Client("consent.example.org:7400", tls=Tls(ca_file=Path("/nowhere/ca.pem")))


def test_what_needs_a_pin_says_so() -> None:
    client, channel = faking()
    for call in (lambda: client.history(ASKED.subject), client.get_checkpoint, lambda: client.public_history("ledger")):
        with pytest.raises(InvalidError):
            call()
    assert channel.requests == []
    with pytest.raises(MalformedError):
        pin("no key")


def test_a_list_that_never_ends_is_ended() -> None:
    page = cs.ListConsentsResponse(records=[cs.ConsentRecord(version=1)], next_page_token="a")
    client, channel = faking(page, page)
    with pytest.raises(MalformedError):
        list(client.list_consents(ASKED.subject))
    assert len(channel.requests) == 2


def test_an_option_that_does_not_exist_is_an_error() -> None:
    options: dict[str, Any] = {"publishd": True}
    client, channel = faking()
    for call in (
        lambda: client.grant(SUBJECT, consent(), **options),
        lambda: client.revoke(SUBJECT, "00" * 16, **options),
        lambda: client.add_key("clinic-b", bytes(32), bytes(64), **options),
        lambda: client.record_access(SUBJECT, 3, SENT, **options),
        lambda: client.enrol(SUBJECT, signer=None),  # type: ignore[call-arg]  # an option of other writes
    ):
        with pytest.raises(TypeError):
            call()
    assert channel.requests == []
