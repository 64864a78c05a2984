"""The time of decisions is the ledger's: nothing that ended comes back, and a wrong clock decides nothing."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, make_running, question, request_id
from cases.fakes import FakeClock
from cases.services import batch, new_identifier, publish_rules, refusal, services
from consentd.clock import MAX_AHEAD_MS, MAX_BEHIND_MS
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

MINUTE_MS = 60_000
CALLERS = ("app", "clinic-b", "hospital-a")


class World:
    """A daemon whose clock stands still, and a person whose consent ends in a minute."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.running = make_running(directory, daemon={"clock": self.clock})
        self.subject = self.running.enrol(new_identifier())
        self.end_ms = self.clock.wall_ms() + MINUTE_MS
        self.running.grant(self.subject, period=pb.Period(end_time_ms=self.end_ms))

    def go_on(self, ms: int) -> None:
        """Let time pass, then write an entry."""
        self.clock.advance(ms)
        self.running.enrol(new_identifier())

    def decisions(self, **changed: Any) -> list[pb.Decision]:
        """Return each caller's answers, by Check and by both forms of BatchCheck."""
        asked = question(self.subject, **changed)
        anybody = question(self.subject, **changed)
        anybody.ClearField("subject")
        found = []
        for who in CALLERS:
            found.append(self.running.check(asked, who))
            found += [one.decision for one in batch(self.running, who, questions=[asked])]
            found += [one.decision for one in batch(self.running, who, shared=anybody, subjects=[self.subject])]
        return found

    def restart(self, **options: Any) -> None:
        """Stop the daemon with its clock right, and start another one."""
        config, tokens = self.running.config, self.running.tokens
        self.running.stop()
        self.running = Running(config, tokens, clock=self.clock, **options)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.running.stop()


def assert_undecided(decisions: list[pb.Decision]) -> None:
    for decision in decisions:
        assert decision.outcome == pb.OUTCOME_INDETERMINATE
        assert [one.code for one in decision.reasons] == [pb.REASON_CODE_CLOCK]
        assert (list(decision.unknown), decision.tag, decision.valid_until_time_ms) == (["CLIN.DX"], b"", 0)
        assert not [*decision.permitted, *decision.denied, *decision.without_consent]


def outcomes(decisions: list[pb.Decision]) -> set[int]:
    return {decision.outcome for decision in decisions}


def test_a_consent_that_expired_stays_expired_with_the_clock_30_s_back(world: World) -> None:
    assert outcomes(world.decisions()) == {pb.OUTCOME_PERMIT}
    world.go_on(MINUTE_MS)
    assert pb.OUTCOME_PERMIT not in outcomes(world.decisions())
    world.clock.shift_wall(-30_000)
    assert_undecided(world.decisions())
    assert refusal(lambda: world.running.authorize(question(world.subject))) == "CLOCK"
    world.clock.shift_wall(30_000 - MAX_BEHIND_MS)  # within what the ledger takes, so the last entry's time counts
    decisions = world.decisions()
    assert outcomes(decisions) == {pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT}
    assert {decision.decided_time_ms for decision in decisions} == {world.end_ms}
    authorized = world.running.authorize(question(world.subject)).decision
    assert (authorized.outcome, authorized.decided_time_ms) == (pb.OUTCOME_NO_CONSENT, world.end_ms)


def test_a_confirmed_clock_behind_the_ledger_decides_at_the_last_entrys_time(world: World) -> None:
    world.go_on(MINUTE_MS)
    config, tokens = world.running.config, world.running.tokens
    world.running.stop()
    world.clock.shift_wall(-30_000)
    world.running = Running(config, tokens, clock=world.clock, confirm_clock=True)
    decisions = world.decisions()
    assert outcomes(decisions) == {pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT}
    assert {decision.decided_time_ms for decision in decisions} == {world.end_ms}


@pytest.mark.parametrize("jump_ms", [MAX_AHEAD_MS + 1, 10 * MAX_AHEAD_MS])
def test_a_jump_ahead_decides_nothing_before_anything_is_written(world: World, jump_ms: int) -> None:
    world.clock.shift_wall(jump_ms)
    assert_undecided(world.decisions())
    world.clock.shift_wall(-jump_ms)
    assert outcomes(world.decisions()) == {pb.OUTCOME_PERMIT}
    world.clock.shift_wall(MAX_AHEAD_MS)
    assert pb.OUTCOME_INDETERMINATE not in outcomes(world.decisions())


@pytest.mark.parametrize("shift_ms", [-MAX_BEHIND_MS - 1, MAX_AHEAD_MS + 1])
def test_a_repeat_of_an_access_is_not_answered_while_the_clock_disagrees(world: World, shift_ms: int) -> None:
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(world.subject))

    def ask() -> ac.AuthorizeAccessResponse:
        return world.running.access.AuthorizeAccess(request, metadata=world.running.as_("app"))

    assert ask().decision.outcome == pb.OUTCOME_PERMIT
    world.clock.shift_wall(shift_ms)
    assert refusal(ask) == "CLOCK"
    world.clock.shift_wall(-shift_ms)
    assert ask().current_decision.outcome == pb.OUTCOME_PERMIT


def test_a_delegation_that_ended_shows_nobody_with_the_clock_back(world: World) -> None:
    running = world.running
    running.delegate("clinic-b", "app", ended=True)
    running.delegate("hospital-a", "app", end_time_ms=world.end_ms)
    assert running.check(question(world.subject)).outcome == pb.OUTCOME_PERMIT
    world.go_on(MINUTE_MS)
    assert refusal(lambda: running.check(question(world.subject))) == "CALLER_NOT_ALLOWED"
    world.clock.shift_wall(-MAX_BEHIND_MS)
    assert refusal(lambda: running.check(question(world.subject))) == "CALLER_NOT_ALLOWED"
    world.clock.shift_wall(-1)  # nobody learns anything about the person
    assert_undecided([running.check(question(world.subject))])


def test_a_question_that_is_refused_is_refused_with_a_wrong_clock_too(world: World) -> None:
    def reasons() -> list[str]:
        asked = [
            question(world.subject, purpose="NOTHING"), question(world.subject, categories=[]),
            question(world.subject, action="grab"),
        ]  # fmt: skip
        return [refusal(partial(world.running.check, one)) for one in asked]

    right = reasons()
    world.clock.shift_wall(-MINUTE_MS)
    assert reasons() == right
    unknown = question(world.subject, categories=["NOTHING"])
    assert world.running.check(unknown).outcome == pb.OUTCOME_INDETERMINATE


def test_persons_are_not_counted_while_nothing_is_decided(world: World) -> None:
    publish_rules(world.running, quotas=st.Quotas(persons_per_hour=1))
    other = world.running.enrol(new_identifier())
    world.clock.shift_wall(-MINUTE_MS)
    assert_undecided([world.running.check(question(other), "clinic-b")])
    world.clock.shift_wall(MINUTE_MS)
    assert world.running.check(question(world.subject), "clinic-b").outcome == pb.OUTCOME_PERMIT
    assert refusal(lambda: world.running.check(question(other), "clinic-b")) == "QUOTA_EXCEEDED"


def test_the_disagreement_is_a_metric(world: World) -> None:
    metrics = services(world.running).metrics
    found = []
    for shift_ms in (-MINUTE_MS, MINUTE_MS):
        world.clock.shift_wall(shift_ms)
        found.append(metrics.value("consentd_clock_disagrees"))
    assert found == [1, 0]


def test_what_a_daemon_with_a_clock_of_its_own_writes_is_published_and_verified(world: World) -> None:
    assert world.running.check_ledger() > 0
