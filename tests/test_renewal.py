"""A consent is renewed in one call, and those who are concerned see which consents end and which transfers are due."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import consent, make_running, question, request_id
from cases.fakes import FakeClock
from cases.replayed import check_again
from cases.services import change, listed, new_identifier, record, refusal, register
from consentd.core.kinds import EntryKind
from consentd.policy.dates import parse_instant_ms
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

DAY_MS = 86_400_000
GIVEN_MS = parse_instant_ms("2027-01-31T10:00:00+09:00")
FEBRUARY_MS = parse_instant_ms("2027-02-28T10:00:00+09:00")
MARCH_MS = parse_instant_ms("2027-03-31T10:00:00+09:00")
END_MS = GIVEN_MS + 365 * DAY_MS
SEES = st.PARTICIPANT_RIGHT_SEE_REASONS


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock(GIVEN_MS - 3_600_000)
        self.running = make_running(directory, daemon={"clock": self.clock}, checkpoint_interval_ms=10)
        self.advance_to(GIVEN_MS)
        for name, role in (("clinic-b", st.PARTICIPANT_ROLE_RECIPIENT), ("hospital-a", st.PARTICIPANT_ROLE_HOLDER)):
            register(self.running, name, [role], rights=[SEES])

    def advance_to(self, time_ms: int) -> None:
        self.clock.advance(time_ms - self.clock.wall_ms())

    def grant(self, subject: pb.Subject, recurrence: str = "", end_ms: int = END_MS, **root: Any) -> str:
        given = consent(period=pb.Period(end_time_ms=end_ms), **root)
        given.recurrence, given.retention_until_time_ms = recurrence, end_ms
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=given)
        )
        return self.running.consents.GrantConsent(request, metadata=self.running.as_("app")).consent_id

    def renew(self, subject: pb.Subject, consent_id: str, who: str = "app", **more: Any) -> cs.RenewConsentResponse:
        fields = {
            "request_id": request_id(), "subject": subject, "consent_id": consent_id, "based_on_version": 1,
            "attested": st.AmendStatement(), "end_time_ms": END_MS + DAY_MS, **more,
        }  # fmt: skip
        return self.running.consents.RenewConsent(cs.RenewConsentRequest(**fields), metadata=self.running.as_(who))

    def expiring(self, who: str = "clinic-b", **more: Any) -> list[cs.ExpiringConsent]:
        found, token = [], ""
        while True:
            request = cs.ListExpiringRequest(page_size=2, page_token=token, **more)
            page = self.running.consents.ListExpiring(request, metadata=self.running.as_(who))
            assert len(page.consents) <= 2
            found += page.consents
            token = page.next_page_token
            if not token:
                return found

    def due(self, by_ms: int = 0, who: str = "hospital-a") -> list[ac.DueTransfer]:
        request = ac.ListDueTransfersRequest(by_time_ms=by_ms)
        return list(self.running.access.ListDueTransfers(request, metadata=self.running.as_(who)).transfers)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "daemon")
    yield made
    check_again(made.running, tmp_path)


@pytest.fixture
def subject(world: World) -> pb.Subject:
    return world.running.enrol(new_identifier())


# -- RenewConsent -----------------------------------------------------------------------------------------------------


def test_a_renewal_is_the_next_version_with_a_later_end_and_nothing_else(world: World, subject: pb.Subject) -> None:
    consent_id = world.grant(subject, "P1M", provisions=[pb.Provision(categories=["CLIN.RX"])])
    (before,) = listed(world.running, subject)
    request = request_id()
    answer = world.renew(subject, consent_id, request_id=request, retention_until_time_ms=END_MS + 2 * DAY_MS)
    assert (answer.version, answer.HasField("refused")) == (2, False)
    (after,) = listed(world.running, subject)
    assert after.consent.root.period.end_time_ms == END_MS + DAY_MS
    assert after.consent.retention_until_time_ms == END_MS + 2 * DAY_MS
    after.consent.root.period.end_time_ms = END_MS
    after.consent.retention_until_time_ms = END_MS
    assert (after.consent, after.lineage_seq) == (before.consent, before.lineage_seq)
    again = world.renew(subject, consent_id, request_id=request, retention_until_time_ms=END_MS + 2 * DAY_MS)
    assert (again.receipt.replayed, again.version) == (True, 2)


def test_a_renewal_is_refused_as_an_amendment_is(world: World, subject: pb.Subject) -> None:
    consent_id = world.grant(subject)
    for fields, reason in (
        ({"based_on_version": 2}, "VERSION_CONFLICT"),
        ({"end_time_ms": END_MS}, "INVALID_CONSENT"),
        ({"end_time_ms": 0}, "INVALID_CONSENT"),
        ({"end_time_ms": 2**62}, "INVALID_CONSENT"),
        ({"consent_id": "ab" * 16}, "CONSENT_NOT_FOUND"),
        ({"attested": st.AmendStatement(consent=consent())}, "INVALID_REQUEST"),
        ({"attested": st.AmendStatement(authority_seq=9)}, "UNKNOWN_AUTHORITY"),
        ({"who": "clinic-b"}, "CALLER_NOT_ALLOWED"),
    ):
        named = {"consent_id": consent_id, **fields}
        assert refusal(lambda named=named: world.renew(subject, **named)) == reason, fields
    endless = world.running.grant(subject)
    assert refusal(lambda: world.renew(subject, endless)) == "INVALID_CONSENT"
    change(world.running, EntryKind.REVOKE, subject, consent_id)
    assert refusal(lambda: world.renew(subject, consent_id)) == "CONSENT_NOT_FOUND"


def test_a_consent_that_has_ended_may_be_renewed_and_permits_nothing_in_between(
    world: World, subject: pb.Subject
) -> None:
    consent_id = world.grant(subject)
    world.advance_to(END_MS)
    assert world.running.check(question(subject)).outcome == pb.OUTCOME_NO_CONSENT
    world.renew(subject, consent_id)
    assert world.running.check(question(subject)).outcome == pb.OUTCOME_PERMIT


def test_a_renewal_keeps_the_uses_of_its_period(world: World, subject: pb.Subject) -> None:
    consent_id = world.grant(subject, "P1M")
    asked = question(subject, action="collect")
    world.running.authorize(asked)
    world.renew(subject, consent_id)
    assert world.running.check(asked).outcome == pb.OUTCOME_NO_CONSENT
    world.advance_to(FEBRUARY_MS)
    assert world.running.check(asked).outcome == pb.OUTCOME_PERMIT


# -- ListExpiring -----------------------------------------------------------------------------------------------------


def test_who_is_named_sees_which_consents_end_and_of_others_nothing(world: World) -> None:
    people = [world.running.enrol(new_identifier()) for _ in range(5)]
    mine = {world.grant(one, end_ms=END_MS + at * DAY_MS): at for at, one in enumerate(people)}
    world.grant(people[0], actors=["er"], holders=["er"])
    world.grant(people[1], actors=["*"], holders=["*"])
    world.grant(people[2], effect=pb.EFFECT_DENY)
    world.running.grant(people[3])
    found = world.expiring()
    assert [one.tag for one in found] == sorted(one.tag for one in found)
    assert {one.consent_id: one.end_time_ms for one in found} == {
        one: END_MS + at * DAY_MS for one, at in mine.items()
    }
    assert {one.consent_id for one in world.expiring("hospital-a")} == set(mine)
    window = {"start_time_ms": END_MS + DAY_MS, "end_time_ms": END_MS + 3 * DAY_MS}
    assert {mine[one.consent_id] for one in world.expiring(**window)} == {1, 2}
    world.advance_to(END_MS)
    assert len(world.expiring()) == 4


def test_what_is_paused_withdrawn_or_renewed_is_no_more_listed_so(world: World, subject: pb.Subject) -> None:
    first, second = world.grant(subject), world.grant(subject)
    change(world.running, EntryKind.PAUSE, subject, first)
    assert [one.consent_id for one in world.expiring()] == [second]
    world.renew(subject, second)
    (found,) = world.expiring()
    assert (found.version, found.end_time_ms) == (2, END_MS + DAY_MS)
    change(world.running, EntryKind.REVOKE, subject, second)
    assert world.expiring() == []


def test_a_person_s_consents_are_listed_for_those_who_act_for_persons(world: World, subject: pb.Subject) -> None:
    given = [world.grant(subject, actors=["er"], holders=["er"]) for _ in range(5)]
    assert [one.consent_id for one in world.expiring("app", subject=subject)] == given
    assert world.expiring("app") == []
    assert refusal(lambda: world.expiring("pipc")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: world.expiring("clinic-b", subject=subject)) == "CALLER_NOT_ALLOWED"
    nobody = pb.Subject(scheme="mhid", value=new_identifier())
    assert refusal(lambda: world.expiring("app", subject=nobody)) == "SUBJECT_NOT_FOUND"
    assert refusal(lambda: world.expiring(start_time_ms=5, end_time_ms=5)) == "INVALID_REQUEST"
    assert refusal(lambda: world.expiring(start_time_ms=-1)) == "INVALID_REQUEST"


# -- ListDueTransfers -------------------------------------------------------------------------------------------------


def test_42_5_3_5_a_holder_sees_which_transfers_are_due_and_which_were_missed(
    world: World, subject: pb.Subject
) -> None:
    consent_id = world.grant(subject, "P1M", categories=["CLIN.DX", "CLIN.RX"], actors=["clinic-b", "er"])
    world.grant(subject, "P1M", holders=["er"])
    world.grant(subject)
    (one,) = world.due()
    assert (one.consent_id, one.version, list(one.actors)) == (consent_id, 1, ["clinic-b", "er"])
    assert (one.due_time_ms, one.until_time_ms) == (GIVEN_MS, FEBRUARY_MS)
    assert (list(one.categories), list(one.missed_categories)) == (["CLIN.DX", "CLIN.RX"], [])
    first = world.running.authorize(question(subject, action="collect"))
    assert [list(one.categories) for one in world.due()] == [["CLIN.RX"]]
    world.running.authorize(question(subject, action="collect", categories=["CLIN.RX"]))
    assert world.due() == []
    (one,) = world.due(FEBRUARY_MS)
    assert (one.due_time_ms, one.until_time_ms) == (FEBRUARY_MS, MARCH_MS)
    failed = st.OutcomeStatement(status=st.TRANSFER_STATUS_FAILED)
    record(world.running, subject, first.access_seq, "hospital-a", attested=failed)
    world.advance_to(FEBRUARY_MS)
    (one,) = world.due()
    assert (list(one.categories), list(one.missed_categories)) == (["CLIN.DX", "CLIN.RX"], ["CLIN.DX"])
    world.running.authorize(question(subject, action="collect", categories=["CLIN"]))
    (one,) = world.due()
    assert (one.due_time_ms, list(one.missed_categories)) == (MARCH_MS, ["CLIN.DX"])
    world.advance_to(MARCH_MS)
    assert [list(one.missed_categories) for one in world.due()] == [[]]


def test_of_a_period_before_the_version_nothing_was_missed_and_after_the_end_nothing_is_due(
    world: World, subject: pb.Subject
) -> None:
    start_ms = parse_instant_ms("2026-12-15T00:00:00+09:00")
    given = consent(period=pb.Period(start_time_ms=start_ms, end_time_ms=FEBRUARY_MS))
    given.recurrence = "P1M"
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=given)
    )
    world.running.consents.GrantConsent(request, metadata=world.running.as_("app"))
    (one,) = world.due()
    assert (one.due_time_ms, list(one.missed_categories)) == (parse_instant_ms("2027-01-15T00:00:00+09:00"), [])
    world.advance_to(FEBRUARY_MS)
    assert world.due() == []


def test_only_holders_list_what_is_due_and_a_paused_consent_is_not(world: World, subject: pb.Subject) -> None:
    consent_id = world.grant(subject, "once")
    (one,) = world.due()
    assert (one.due_time_ms, one.until_time_ms) == (GIVEN_MS, 0)
    assert refusal(lambda: world.due(who="app")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: world.due(-1)) == "INVALID_REQUEST"
    change(world.running, EntryKind.PAUSE, subject, consent_id)
    assert world.due() == []


def test_the_record_of_a_consent_says_when_its_next_transfer_is_due(world: World, subject: pb.Subject) -> None:
    consent_id = world.grant(subject, "P1M", categories=["CLIN.DX"])
    plain = world.grant(subject)
    running = world.running

    def shown(one: str) -> int:
        request = cs.GetConsentRequest(subject=subject, consent_id=one)
        (of_list,) = (each for each in listed(running, subject) if each.consent_id == one)
        read = running.consents.GetConsent(request, metadata=running.as_("app")).record
        assert read.next_transfer_time_ms == of_list.next_transfer_time_ms
        return read.next_transfer_time_ms

    assert (shown(consent_id), shown(plain)) == (GIVEN_MS, 0)
    running.authorize(question(subject, action="collect"))
    assert shown(consent_id) == FEBRUARY_MS
    world.advance_to(MARCH_MS)
    assert shown(consent_id) == MARCH_MS
    world.advance_to(END_MS)
    assert shown(consent_id) == 0


