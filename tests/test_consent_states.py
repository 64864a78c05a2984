"""The state of a consent in GetConsent and ListConsents: at the ledger's time, and by which states a list selects."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from cases.daemons import Running, consent, make_running, question, request_id
from cases.fakes import FakeClock
from cases.services import amend, change, listed, new_identifier, refusal
from consentd.clock import MAX_AHEAD_MS
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client.consents import ALL_STATES

ACTIVE, PAUSED, REVOKED, NOT_YET, ENDED = (
    cs.CONSENT_STATE_ACTIVE,
    cs.CONSENT_STATE_PAUSED,
    cs.CONSENT_STATE_REVOKED,
    cs.CONSENT_STATE_NOT_YET,
    cs.CONSENT_STATE_ENDED,
)
HOUR_MS = 3_600_000


class World:
    def __init__(self, running: Running, clock: FakeClock) -> None:
        self.running, self.clock = running, clock

    def grant(
        self, subject: pb.Subject, *, start: int = 0, end: int = 0, who: str = "app", **more: Any
    ) -> str:
        """Grant a consent with a period of *start* to *end*, in milliseconds from now; 0: it is open."""
        now_ms = self.clock.wall_ms()
        period = pb.Period(start_time_ms=start and now_ms + start, end_time_ms=end and now_ms + end)
        made = consent(period=period)
        made.MergeFrom(pb.Consent(**more))
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=made)
        )
        return self.running.consents.GrantConsent(request, metadata=self.running.as_(who)).consent_id

    def state(self, subject: pb.Subject, consent_id: str) -> int:
        request = cs.GetConsentRequest(subject=subject, consent_id=consent_id)
        found = self.running.consents.GetConsent(request, metadata=self.running.as_("app")).record
        shown = [one for one in listed(self.running, subject, states=ALL_STATES) if one.consent_id == consent_id]
        assert shown == [found]
        return found.state


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    clock = FakeClock()
    running = make_running(tmp_path_factory.mktemp("daemon"), daemon={"clock": clock})
    yield World(running, clock)
    running.stop()


@pytest.fixture
def person(world: World) -> pb.Subject:
    return world.running.enrol(new_identifier())


def test_a_consent_begins_and_ends_without_an_entry(world: World, person: pb.Subject) -> None:
    consent_id = world.grant(person, start=HOUR_MS, end=3 * HOUR_MS)
    seen = []
    for step_ms in (0, HOUR_MS - 1, 1, 2 * HOUR_MS - 1, 1):
        world.clock.advance(step_ms)
        permits = world.running.check(question(person)).outcome == pb.OUTCOME_PERMIT
        seen.append((world.state(person, consent_id), permits))
    assert seen == [(NOT_YET, False), (NOT_YET, False), (ACTIVE, True), (ACTIVE, True), (ENDED, False)]


@pytest.mark.parametrize(
    ("start", "is_over", "paused", "revoked"),
    [one for one in product((0, HOUR_MS), (False, True), (False, True), (False, True)) if not (one[0] and one[1])],
)
def test_the_first_state_that_is_true_is_shown(
    world: World, person: pb.Subject, start: int, is_over: bool, paused: bool, revoked: bool
) -> None:
    consent_id = world.grant(person, start=start, end=2 * HOUR_MS)
    if paused:
        change(world.running, EntryKind.PAUSE, person, consent_id)
    if is_over:
        world.clock.advance(2 * HOUR_MS)
    if revoked:
        change(world.running, EntryKind.REVOKE, person, consent_id)
    expected = REVOKED if revoked else ENDED if is_over else NOT_YET if start else PAUSED if paused else ACTIVE
    assert world.state(person, consent_id) == expected
    (shown,) = listed(world.running, person, states=ALL_STATES)
    assert shown.paused is (paused and not revoked)


def test_a_consent_that_is_paused_before_it_begins_is_shown_as_both(world: World, person: pb.Subject) -> None:
    """A deny of it does not count yet, which PAUSED would promise; and its start alone will not end the pause."""
    consent_id = world.grant(person, start=HOUR_MS)
    change(world.running, EntryKind.PAUSE, person, consent_id)
    seen = []
    for step_ms in (0, HOUR_MS):
        world.clock.advance(step_ms)
        (shown,) = listed(world.running, person)
        seen.append((shown.state, shown.paused))
    assert seen == [(NOT_YET, True), (PAUSED, True)]
    assert world.running.check(question(person)).outcome == pb.OUTCOME_NO_CONSENT
    change(world.running, EntryKind.RESUME, person, consent_id)
    assert world.state(person, consent_id) == ACTIVE


def test_only_an_import_of_an_operator_records_a_consent_as_ended(world: World, person: pb.Subject) -> None:
    assert refusal(lambda: world.grant(person, end=-1)) == "INVALID_CONSENT"
    assert refusal(lambda: world.grant(person, start=-HOUR_MS, end=-1)) == "INVALID_CONSENT"
    # An end at the very time of the entry is no time in force either. The fake clock does not move meanwhile.
    now = {"root": pb.Provision(period=pb.Period(end_time_ms=world.clock.wall_ms()))}
    assert refusal(lambda: world.grant(person, **now)) == "INVALID_CONSENT"
    assert refusal(lambda: world.grant(person, end=-1, source="fhir/r4 Consent/1")) == "INVALID_CONSENT"
    assert refusal(lambda: world.grant(person, end=-1, who="operator")) == "CALLER_NOT_ALLOWED"
    imported = world.grant(person, end=-1, source="fhir/r4 Consent/1", who="operator")
    assert world.state(person, imported) == ENDED
    consent_id = world.grant(person)
    ended = pb.Period(end_time_ms=world.clock.wall_ms())
    assert refusal(lambda: amend(world.running, person, consent_id, 1, period=ended)) == "INVALID_CONSENT"
    assert world.state(person, world.grant(person, source="fhir/r4 Consent/2")) == ACTIVE  # everybody may state one
    assert world.state(person, consent_id) == ACTIVE


def test_the_version_in_force_has_the_state(world: World, person: pb.Subject) -> None:
    consent_id = world.grant(person, start=HOUR_MS)
    amend(world.running, person, consent_id, 1)
    assert world.state(person, consent_id) == ACTIVE
    ended = pb.Period(end_time_ms=world.clock.wall_ms() + 1)
    amend(world.running, person, consent_id, 2, period=ended)
    world.clock.advance(1)
    assert world.state(person, consent_id) == ENDED
    amend(world.running, person, consent_id, 3)
    assert world.state(person, consent_id) == ACTIVE


def test_a_list_selects_by_state(world: World, person: pb.Subject) -> None:
    made = {
        ACTIVE: world.grant(person),
        PAUSED: world.grant(person),
        REVOKED: world.grant(person),
        NOT_YET: world.grant(person, start=HOUR_MS),
        ENDED: world.grant(person, end=-1, source="fhir/r4 Consent/1", who="operator"),
    }
    change(world.running, EntryKind.PAUSE, person, made[PAUSED])
    change(world.running, EntryKind.REVOKE, person, made[REVOKED])

    def ids(**selection: Any) -> set[str]:
        return {one.consent_id for one in listed(world.running, person, **selection)}

    assert ids() == set(made.values()) - {made[REVOKED]}
    assert ids(states=ALL_STATES) == set(made.values())
    for state, consent_id in made.items():
        assert ids(states=[state]) == {consent_id}
    assert ids(states=[ACTIVE, ENDED]) == {made[ACTIVE], made[ENDED]}
    for unknown in (0, 6):
        assert refusal(lambda unknown=unknown: ids(states=[ACTIVE, unknown])) == "INVALID_REQUEST"


def test_a_page_token_is_of_its_states(world: World, person: pb.Subject) -> None:
    first, second = world.grant(person), world.grant(person)
    app = {"metadata": world.running.as_("app")}
    request = cs.ListConsentsRequest(subject=person, states=[ACTIVE], page_size=1)
    page = world.running.consents.ListConsents(request, **app)
    request.page_token = page.next_page_token
    rest = world.running.consents.ListConsents(request, **app)
    assert [one.consent_id for one in (*page.records, *rest.records)] == [second, first]
    request.states.append(PAUSED)
    assert refusal(lambda: world.running.consents.ListConsents(request, **app)) == "INVALID_PAGE"


def test_while_the_clock_disagrees_the_time_is_that_of_the_last_entry(world: World, person: pb.Subject) -> None:
    consent_id = world.grant(person, end=HOUR_MS)
    world.clock.shift_wall(HOUR_MS + 2 * MAX_AHEAD_MS)
    assert world.state(person, consent_id) == ACTIVE
    world.clock.shift_wall(-HOUR_MS - 2 * MAX_AHEAD_MS)
    world.clock.shift_wall(-2 * HOUR_MS)
    assert world.state(person, consent_id) == ACTIVE
    world.clock.shift_wall(2 * HOUR_MS)
    world.clock.advance(HOUR_MS)
    assert world.state(person, consent_id) == ENDED


def test_all_of_a_consent_is_shown(world: World, person: pb.Subject) -> None:
    deep = consent(level="V").root
    made = pb.Consent(
        kind=pb.CONSENT_KIND_OBJECTION,
        language="ko",
        implicit_policy=pb.IMPLICIT_POLICY_BREAK_GLASS_ONLY,
        root=pb.Provision(
            effect=pb.EFFECT_DENY,
            level="R",
            labels=["HIV"],
            provisions=[pb.Provision(effect=pb.EFFECT_DENY, provisions=[deep]), pb.Provision(effect=pb.EFFECT_DENY)],
        ),
    )
    request = cs.GrantConsentRequest(request_id=request_id(), subject=person, attested=st.GrantStatement(consent=made))
    app = {"metadata": world.running.as_("app")}
    consent_id = world.running.consents.GrantConsent(request, **app).consent_id
    get = cs.GetConsentRequest(subject=person, consent_id=consent_id)
    assert world.running.consents.GetConsent(get, **app).record.consent == made
    assert [one.consent for one in listed(world.running, person)] == [made]
    change(world.running, EntryKind.REVOKE, person, consent_id)
    assert [one.consent for one in listed(world.running, person, states=ALL_STATES)] == [made]
