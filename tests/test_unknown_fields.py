"""A question with a field that the daemon does not know is refused by every call: the field might narrow it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from cases.daemons import Running, make_running, question, reason_of, request_id, serve
from cases.services import FOREIGN_FIELD, batch, batch_request, new_identifier
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps

M = TypeVar("M", bound=Message)
PLACES: dict[str, Callable[[pb.Question], Message]] = {
    "question": lambda asked: asked,
    "subject": lambda asked: asked.subject,
    "actor": lambda asked: asked.actor,
    "labels": lambda asked: asked.labels,
    "resources": lambda asked: asked.resources,
    "data_period": lambda asked: asked.data_period,
    "break_glass": lambda asked: asked.break_glass,
}
"""The question, and each message in it."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("fields")))


@pytest.fixture(scope="module")
def subject(running: Running) -> pb.Subject:
    made = running.enrol(new_identifier())
    running.grant(made)
    return made


def asked_with(subject: pb.Subject, place: str) -> pb.Question:
    """Return a question with an unknown field in one of its messages. Only the fields around it make a difference."""
    asked = question(subject)
    if place == "labels":
        asked.labels.SetInParent()
    elif place == "resources":
        asked.resources.values.append("Observation/1")
    elif place == "data_period":
        asked.data_period.end_time_ms = 5
    elif place == "break_glass":
        asked.purpose, asked.break_glass.justification = "BTG", "unconscious after an accident"
    PLACES[place](asked).MergeFromString(FOREIGN_FIELD)
    return asked


def assert_refused(call: Callable[[], object]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "UNKNOWN_FIELD"
    assert caught.value.details() == "message has fields that this version does not know"


def test_all_messages_of_a_question_are_tried() -> None:
    nested = {field.name for field in pb.Question.DESCRIPTOR.fields if field.message_type is not None}
    assert nested == set(PLACES) - {"question"}


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"break_glass"}))  # which Check refuses in any case
def test_check_and_batch_check_refuse_it(running: Running, subject: pb.Subject, place: str) -> None:
    asked = asked_with(subject, place)
    assert_refused(lambda: running.check(asked))
    right, wrong = batch(running, questions=[question(subject), asked])
    assert right.decision.outcome == pb.OUTCOME_PERMIT
    assert (wrong.error.code, wrong.error.message) == (3, "message has fields that this version does not know")
    asked.ClearField("subject")
    strange = pb.Subject.FromString(subject.SerializeToString() + FOREIGN_FIELD)
    shared = asked if place != "subject" else question(subject)
    shared.ClearField("subject")
    (answer,) = batch(running, shared=shared, subjects=[strange if place == "subject" else subject])
    assert answer.error.message == "message has fields that this version does not know"


@pytest.mark.parametrize("place", sorted(PLACES))
def test_authorize_access_refuses_it_and_records_nothing(running: Running, subject: pb.Subject, place: str) -> None:
    asked, before = asked_with(subject, place), running.wait_published().ledger.state.size
    assert_refused(lambda: running.authorize(asked, "er"))
    signed = ac.SignedQuestion(question=asked.SerializeToString(), key=bytes(32), signature=bytes(64), tag=bytes(32))
    request = ac.AuthorizeAccessRequest(request_id=request_id(), signed_question=signed)
    assert_refused(lambda: running.access.AuthorizeAccess(request, metadata=running.as_("er")))
    assert running.wait_published().ledger.state.size == before


def test_the_requests_themselves_have_known_fields_only(running: Running, subject: pb.Subject) -> None:
    """A condition on the state is in the request, and a later version may add one."""
    asked, who = question(subject), running.as_("app")
    strange = pb.Consistency.FromString(FOREIGN_FIELD)
    unasked = question(subject)
    unasked.ClearField("subject")

    def with_field(request: M) -> M:
        return type(request).FromString(request.SerializeToString() + FOREIGN_FIELD)

    for check in (
        with_field(ps.CheckRequest(question=asked)), ps.CheckRequest(question=asked, consistency=strange)
    ):  # fmt: skip
        assert_refused(partial(running.policy.Check, check, metadata=who))
    for several in (
        with_field(batch_request(questions=[asked])),
        batch_request(questions=[asked], consistency=strange),
        ps.BatchCheckRequest(each=with_field(ps.QuestionList(questions=[asked]))),
        ps.BatchCheckRequest(shared=with_field(ps.SharedQuestion(question=unasked, subjects=[subject]))),
    ):
        assert_refused(partial(running.policy.BatchCheck, several, metadata=who))
    for access in (
        with_field(ac.AuthorizeAccessRequest(request_id=request_id(), question=asked)),
        ac.AuthorizeAccessRequest(request_id=request_id(), question=asked, consistency=strange),
    ):
        assert_refused(partial(running.access.AuthorizeAccess, access, metadata=who))
