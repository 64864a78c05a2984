"""A consent that recurs, by gRPC: one transfer in a period, and Check, AuthorizeAccess and replay have one answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import consent, make_running, question, request_id
from cases.earlier_trees import at_exact
from cases.fakes import FakeClock
from cases.replayed import check_again
from cases.services import accesses, amend, batch, change, new_identifier, record
from consentd.core.kinds import EntryKind
from consentd.policy.dates import parse_instant_ms
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st

PERMIT, PARTIAL, DENY, NONE = pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT
BEYOND, UNMATCHED = pb.REASON_CODE_BEYOND_RECURRENCE, pb.REASON_CODE_NO_MATCHING_CONSENT
GIVEN_MS = parse_instant_ms("2027-01-31T10:00:00+09:00")
FEBRUARY_MS = parse_instant_ms("2027-02-28T10:00:00+09:00")
MARCH_MS = parse_instant_ms("2027-03-31T10:00:00+09:00")


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock(GIVEN_MS - 3_600_000)
        self.running = make_running(directory, daemon={"clock": self.clock}, checkpoint_interval_ms=10)
        self.advance_to(GIVEN_MS)
        self.subject = self.running.enrol(new_identifier())

    def advance_to(self, time_ms: int) -> None:
        self.clock.advance(time_ms - self.clock.wall_ms())

    def grant(self, recurrence: str = "P1M", **root: Any) -> str:
        given = consent(**root)
        given.recurrence = recurrence
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=self.subject, attested=st.GrantStatement(consent=given)
        )
        return self.running.consents.GrantConsent(request, metadata=self.running.as_("app")).consent_id

    def asked(self, *categories: str, action: str = "collect", **changed: Any) -> pb.Question:
        return question(self.subject, action=action, categories=categories or ("CLIN.DX",), **changed)

    def check(self, *categories: str, **changed: Any) -> pb.Decision:
        return self.running.check(self.asked(*categories, **changed))

    def authorize(self, *categories: str, **more: Any) -> ac.AuthorizeAccessResponse:
        return self.running.authorize(self.asked(*categories), **more)

    def outcome(self, seq: int, status: "st.TransferStatus.ValueType") -> None:
        # A recipient does not say that it got nothing: tests/test_people_attacks.py.
        record(self.running, self.subject, seq, "hospital-a", attested=st.OutcomeStatement(status=status))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A daemon whose clock the test moves. After the test, its table and each decision come out again."""
    made = World(tmp_path / "daemon")
    yield made
    check_again(made.running, tmp_path)


def codes(decision: pb.Decision) -> list[int]:
    return [reason.code for reason in decision.reasons]


def test_42_5_3_5_a_transfer_beyond_the_stated_recurrence_is_refused_with_its_reason(world: World) -> None:
    consent_id = world.grant()
    first = world.authorize()
    assert (first.decision.outcome, first.access_seq > 0) == (PERMIT, True)
    again = world.authorize()
    assert (again.decision.outcome, again.access_seq, codes(again.decision)) == (NONE, 0, [BEYOND])
    (reason,) = again.decision.reasons
    assert (reason.consent_id, reason.effect, reason.version) == (consent_id, pb.EFFECT_UNSPECIFIED, 1)
    assert [one.kind for one in accesses(world.running, world.subject)] == [EntryKind.REFUSAL, EntryKind.ACCESS]


def test_check_authorize_access_batch_and_earlier_trees_have_one_answer_at_the_border(world: World) -> None:
    world.grant()
    size = world.check().revision.tree_size
    world.authorize()
    for time_ms, outcome in ((FEBRUARY_MS - 1, NONE), (FEBRUARY_MS, PERMIT), (FEBRUARY_MS + 1, PERMIT)):
        world.advance_to(time_ms)
        checked = world.check()
        assert checked.outcome == outcome
        (result,) = batch(world.running, shared=cleared(world.asked()), subjects=[world.subject])
        assert result.decision.outcome == outcome
        earlier = ps.CheckRequest(question=world.asked(), consistency=at_exact(checked.revision.tree_size, time_ms))
        assert world.running.policy.Check(earlier, metadata=world.running.as_("app")).decision.outcome == outcome
        before = ps.CheckRequest(question=world.asked(), consistency=at_exact(size, time_ms))
        assert world.running.policy.Check(before, metadata=world.running.as_("app")).decision.outcome == PERMIT
    assert [world.authorize().decision.outcome for _ in range(2)] == [PERMIT, NONE]
    world.advance_to(MARCH_MS)
    assert world.authorize().decision.outcome == PERMIT


def cleared(asked: pb.Question) -> pb.Question:
    asked.ClearField("subject")
    return asked


def test_only_a_transfer_is_counted_by_category_and_holder(world: World) -> None:
    world.grant(holders=["*"])
    assert world.running.authorize(world.asked(action="access")).decision.outcome == PERMIT
    assert world.running.authorize(world.asked(action="disclose")).decision.outcome == PERMIT
    assert world.authorize("CLIN.DX").decision.outcome == PERMIT
    both = world.check("CLIN.DX", "CLIN.RX")
    assert (both.outcome, list(both.permitted), list(both.without_consent)) == (PARTIAL, ["CLIN.RX"], ["CLIN.DX"])
    assert world.check(holder="er").outcome == PERMIT
    assert world.check(action="access").outcome == PERMIT
    partial = world.authorize("CLIN.DX", "CLIN.RX")
    assert list(partial.decision.permitted) == ["CLIN.RX"]
    assert world.check("CLIN.RX").outcome == NONE


def test_another_consent_still_permits_and_a_deny_still_denies(world: World) -> None:
    world.grant()
    other = world.grant("")
    assert [world.authorize().decision.outcome for _ in range(3)] == [PERMIT] * 3
    change(world.running, EntryKind.REVOKE, world.subject, other)
    assert codes(world.check()) == [BEYOND]
    world.running.grant(world.subject, effect=pb.EFFECT_DENY)
    denied = world.check()
    assert (denied.outcome, codes(denied)) == (DENY, [pb.REASON_CODE_DENIED_BY_CONSENT])


def test_an_outcome_that_says_failed_gives_the_transfer_back(world: World) -> None:
    world.grant()
    first = world.authorize().access_seq
    world.outcome(first, st.TRANSFER_STATUS_DEFERRED)
    assert world.check().outcome == NONE
    world.outcome(first, st.TRANSFER_STATUS_FAILED)
    assert world.check().outcome == PERMIT
    second = world.authorize().access_seq
    world.outcome(second, st.TRANSFER_STATUS_SENT)
    world.outcome(second, st.TRANSFER_STATUS_FAILED)  # the first outcome says that the data were sent
    assert world.check().outcome == NONE
    world.outcome(first, st.TRANSFER_STATUS_FAILED)  # of an access whose use was given back before
    assert world.check().outcome == NONE


def test_a_repeat_is_no_second_use_and_may_still_go_on(world: World) -> None:
    world.grant()
    request = request_id()
    first = world.authorize(request_id=request)
    again = world.authorize(request_id=request)
    assert (again.receipt.replayed, again.decision) == (True, first.decision)
    assert again.current_decision.outcome == PERMIT
    assert world.authorize().decision.outcome == NONE
    world.outcome(first.access_seq, st.TRANSFER_STATUS_RECEIVED)
    assert world.authorize(request_id=request).current_decision.outcome == NONE


def test_of_two_accesses_in_one_batch_the_second_is_beyond(world: World) -> None:
    world.grant()
    request = ac.BatchAuthorizeAccessesRequest(
        requests=[ac.AuthorizeAccessRequest(request_id=request_id(), question=world.asked()) for _ in range(2)]
    )
    answer = world.running.access.BatchAuthorizeAccesses(request, metadata=world.running.as_("app"))
    assert [one.response.decision.outcome for one in answer.results] == [PERMIT, NONE]


def test_an_amendment_of_the_same_periods_keeps_the_use(world: World) -> None:
    consent_id = world.grant()
    world.authorize()
    given = consent(categories=["CLIN.DX"])
    for version, recurrence, outcome in ((1, "P1M", NONE), (2, "once", PERMIT)):
        given.recurrence = recurrence
        request = cs.AmendConsentRequest(
            request_id=request_id(), subject=world.subject, consent_id=consent_id, based_on_version=version,
            attested=st.AmendStatement(consent=given),
        )  # fmt: skip
        world.running.consents.AmendConsent(request, metadata=world.running.as_("app"))
        assert world.check().outcome == outcome
    world.authorize()
    world.advance_to(MARCH_MS)
    assert world.check().outcome == NONE
    assert amend(world.running, world.subject, consent_id, 3).version == 4
    assert [world.authorize().decision.outcome for _ in range(2)] == [PERMIT] * 2


def test_a_pause_keeps_the_use_and_erases_no_reason(world: World) -> None:
    consent_id = world.grant()
    world.authorize()
    change(world.running, EntryKind.PAUSE, world.subject, consent_id)
    assert codes(world.check()) == [UNMATCHED]
    change(world.running, EntryKind.RESUME, world.subject, consent_id)
    assert codes(world.check()) == [BEYOND]


def test_recipients_of_one_consent_share_its_transfer(world: World) -> None:
    world.grant(actors=["clinic-b", "er"])
    world.authorize()
    assert codes(world.check(actor=pb.Actor(organisation="er"))) == [BEYOND]


def test_the_answer_says_when_it_changes(world: World) -> None:
    world.grant(categories=["CLIN.DX"])
    world.grant("", categories=["CLIN.DX"])
    assert world.check().valid_until_time_ms == 0
    world.authorize()
    found = world.check()
    assert (found.outcome, found.valid_until_time_ms) == (PERMIT, FEBRUARY_MS)
