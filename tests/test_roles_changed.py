"""A participant is registered anew in other roles, between its calls: what counts is what it is at each call."""

from collections.abc import Iterator
from functools import partial

import pytest

from cases.daemons import Running, make_running, question, request_id, serve
from cases.services import new_identifier, refusal, register
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

HOLDER, RECIPIENT, RELAY, AUDITOR = (
    st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT, st.PARTICIPANT_ROLE_RELAY, st.PARTICIPANT_ROLE_AUDITOR,
)  # fmt: skip
ROLES = {"hospital-a": [HOLDER], "clinic-b": [RECIPIENT]}
OTHERS = {"hospital-a": [RECIPIENT], "clinic-b": [RELAY]}
"""Roles in which the participant may call, and may not ask what it asked before."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


@pytest.fixture
def subject(running: Running) -> pb.Subject:
    found = running.enrol(new_identifier())
    running.grant(found)
    return found


@pytest.fixture(params=ROLES)
def party(request: pytest.FixtureRequest, running: Running) -> Iterator[str]:
    """A party of the accesses, which has its role again after the test."""
    yield request.param
    register(running, request.param, ROLES[request.param])


def record(running: Running, who: str, subject: pb.Subject, seq: int) -> pb.Receipt:
    sent = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    request = ac.RecordAccessRequest(request_id=request_id(), subject=subject, access_seq=seq, attested=sent)
    return running.access.RecordAccess(request, metadata=running.as_(who)).receipt


def test_who_took_part_reports_it_in_another_role_and_asks_no_more(
    running: Running, subject: pb.Subject, party: str
) -> None:
    asked = question(subject)
    first = running.authorize(asked, party)
    assert first.decision.outcome == pb.OUTCOME_PERMIT
    register(running, party, OTHERS[party])
    assert record(running, party, subject, first.access_seq).leaf
    for ask in (running.authorize, running.check):
        assert refusal(partial(ask, asked, party)) == "ACTOR_NOT_ALLOWED"
        assert refusal(partial(ask, asked, "app")) == "ACTOR_NOT_ALLOWED"  # its relay carries nothing for it either


def test_who_became_an_auditor_reports_its_part_and_asks_nothing(
    running: Running, subject: pb.Subject, party: str
) -> None:
    asked = question(subject)
    first = running.authorize(asked, party)
    register(running, party, [AUDITOR])
    for call in (running.authorize, running.check):
        assert refusal(partial(call, asked, party)) == "CALLER_NOT_ALLOWED"
    assert record(running, party, subject, first.access_seq).leaf
    assert refusal(lambda: record(running, "pipc", subject, first.access_seq)) == "NOT_FOUND"  # which had no part


def test_who_has_left_reports_and_asks_nothing(running: Running, subject: pb.Subject, party: str) -> None:
    asked = question(subject)
    first = running.authorize(asked, party)
    register(running, party, ROLES[party], active=False)
    assert refusal(lambda: record(running, party, subject, first.access_seq)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: running.authorize(asked, party)) == "CALLER_NOT_ALLOWED"


def test_a_repeat_is_decided_for_what_the_asker_is_now(running: Running, subject: pb.Subject, party: str) -> None:
    """The recorded permit of an earlier role is not shown to whom it would not be given now."""
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    ask = partial(running.access.AuthorizeAccess, request, metadata=running.as_(party))
    assert ask().decision.outcome == pb.OUTCOME_PERMIT
    register(running, party, OTHERS[party])
    assert refusal(ask) == "ACTOR_NOT_ALLOWED"
    register(running, party, ROLES[party])
    assert ask().current_decision.outcome == pb.OUTCOME_PERMIT


def test_a_holder_that_became_a_recipient_holds_nothing(running: Running, subject: pb.Subject) -> None:
    register(running, "hospital-a", [RECIPIENT])
    try:
        assert refusal(lambda: running.authorize(question(subject), "clinic-b")) == "ACTOR_NOT_ALLOWED"
        own = question(subject, actor=pb.Actor(organisation="hospital-a"), holder="er")
        assert running.check(own, "hospital-a").outcome == pb.OUTCOME_DENY  # it may ask, and has no consent
        other = question(subject, actor=pb.Actor(organisation="clinic-b"), holder="er")
        assert refusal(lambda: running.check(other, "hospital-a")) == "CALLER_NOT_ALLOWED"
    finally:
        register(running, "hospital-a", [HOLDER])
