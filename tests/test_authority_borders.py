"""An authority at its ends: Check, AuthorizeAccess, earlier trees, replay and a new table have one answer."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cases.authorities import (
    AGENT,
    CHECKED,
    REPRESENTATIVE,
    add_representative,
    authority,
    end_authority,
    grant_under,
    put_authority,
)
from cases.daemons import ORIGIN, consent, make_running, question, request_id
from cases.earlier_trees import at_exact
from cases.fakes import START_MS, FakeClock
from cases.notices import publish_notice
from cases.services import change, listed, new_identifier, publish_rules, refusal, services
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.policy.subject import row_count
from consentd.table.table import Table, catch_up
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, Trust
from consentd_client.show import describe

PERMIT, DENY, NONE = pb.OUTCOME_PERMIT, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT
BORN = "2013-01-16"
BIRTHDAY_MS = int(datetime(2027, 1, 15, 15, tzinfo=UTC).timestamp()) * 1000


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.running = make_running(directory, daemon={"clock": self.clock}, checkpoint_interval_ms=10)
        add_representative(self.running)

    def advance_to(self, time_ms: int) -> None:
        self.clock.advance(time_ms - self.clock.wall_ms())

    def ask(self, subject: pb.Subject, purpose: str, **more: Any) -> pb.Decision:
        request = ps.CheckRequest(question=question(subject, purpose=purpose), **more)
        return self.running.policy.Check(request, metadata=self.running.as_("app")).decision


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A daemon whose clock the test moves. After the test, its table and each decision come out again."""
    made = World(tmp_path / "daemon")
    yield made
    running = made.running
    opened = services(running)
    fresh = Table.open(tmp_path / "fresh", map_size_mb=16)
    with opened.table.read() as stored:  # a seal may be written meanwhile
        catch_up(fresh, opened.ledger.store, opened.vault, size=stored.size)
        with fresh.read() as rebuilt:
            assert list(rebuilt.rows()) == list(stored.rows())
    fresh.close()
    running.stop()
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(running.config), origin=ORIGIN, log_verifier=verifier)
    assert (replayed.faults, replayed.not_checked) == ((), {})
    assert replayed.entries >= opened.ledger.state.size


def test_22_2_1_what_a_minor_s_guardian_permitted_ends_on_the_birthday(world: World) -> None:
    assert START_MS < BIRTHDAY_MS < START_MS + 86_400_000
    running = world.running
    child = running.enrol(new_identifier())
    seq = put_authority(running, child, birth_date=BORN)
    grant_under(running, child, seq, purposes=["TREAT", "HRESCH"])
    grant_under(running, child, seq, effect=pb.EFFECT_DENY, purposes=["TRAIN"])
    for at_ms, expected in ((-1, PERMIT), (0, NONE), (1, NONE)):
        world.advance_to(BIRTHDAY_MS + at_ms)
        outcomes = []
        for purpose in ("TREAT", "HRESCH", "TRAIN"):
            now = world.ask(child, purpose)
            recorded = running.authorize(question(child, purpose=purpose)).decision
            exact = at_exact(now.revision.tree_size, now.decided_time_ms)
            then = world.ask(child, purpose, consistency=exact)
            assert (now.outcome, now.decided_time_ms) == (then.outcome, then.decided_time_ms)
            assert (now.outcome, now.valid_until_time_ms) == (recorded.outcome, recorded.valid_until_time_ms)
            outcomes.append(now.outcome)
        assert outcomes == [expected, PERMIT, DENY]
    # After the birthday the guardian still acts for research, and for nothing else.
    assert refusal(lambda: grant_under(running, child, seq)) == "AUTHORITY_NOT_IN_FORCE"
    grant_under(running, child, seq, purposes=["DSRCH"])
    assert [world.ask(child, purpose).outcome for purpose in ("TREAT", "DSRCH")] == [NONE, PERMIT]


def test_16_2_after_14_a_guardian_acts_about_research_alone(world: World) -> None:
    running = world.running
    child = running.enrol(new_identifier())
    seq = put_authority(running, child, birth_date=BORN)
    both = grant_under(running, child, seq, purposes=["TREAT", "HRESCH"])
    research = grant_under(running, child, seq, purposes=["HRESCH"])
    world.advance_to(BIRTHDAY_MS)
    deny = pb.Provision(effect=pb.EFFECT_DENY, purposes=["TREAT"])
    for root in (
        {"purposes": ["TREAT", "DSRCH"]}, {"purposes": ["*"]}, {"effect": pb.EFFECT_DENY, "purposes": ["TREAT"]},
        {"purposes": ["DSRCH"], "provisions": [deny]}, OBJECTION,
    ):  # fmt: skip
        assert refusal(lambda root=root: grant_under(running, child, seq, **root)) == "AUTHORITY_NOT_IN_FORCE"
    grant_under(running, child, seq, purposes=["DSRCH"], effect=pb.EFFECT_DENY)
    revoke = st.RevokeStatement(authority_seq=seq, attestation=CHECKED)

    def withdraw(given: str) -> None:
        change(running, EntryKind.REVOKE, child, given, who=REPRESENTATIVE, attested=revoke)

    assert refusal(lambda: withdraw(both)) == "AUTHORITY_NOT_IN_FORCE"
    withdraw(research)


def test_a_consent_whose_permits_ended_with_the_authority_is_shown_so(world: World) -> None:
    running = world.running
    child = running.enrol(new_identifier())
    seq = put_authority(running, child, birth_date=BORN)
    deny = pb.Provision(effect=pb.EFFECT_DENY, purposes=["ETREAT"])
    given = {
        grant_under(running, child, seq, **root): after
        for root, after in (
            ({}, cs.CONSENT_STATE_ENDED), ({"provisions": [deny]}, cs.CONSENT_STATE_PAUSED),
            ({"purposes": ["TREAT", "HRESCH"]}, cs.CONSENT_STATE_ACTIVE),
            ({"effect": pb.EFFECT_DENY}, cs.CONSENT_STATE_ACTIVE),
        )
    }  # fmt: skip
    # What would begin after the end of the authority never does.
    never = grant_under(running, child, seq, period=pb.Period(start_time_ms=BIRTHDAY_MS))
    for at_ms in (-1, 0):
        world.advance_to(BIRTHDAY_MS + at_ms)
        states = {one.consent_id: one.state for one in listed(running, child)}
        active = dict.fromkeys(given, cs.CONSENT_STATE_ACTIVE)
        assert states.pop(never) == cs.CONSENT_STATE_ENDED
        assert states == (active if at_ms < 0 else given)
        for consent_id, state in states.items():
            request = cs.GetConsentRequest(subject=child, consent_id=consent_id)
            answer = running.consents.GetConsent(request, metadata=running.as_("app"))
            assert answer.record.state == state


def test_114_1_the_realms_rules_let_acts_of_a_capacity_stand(world: World) -> None:
    running = world.running
    ward = running.enrol(new_identifier())
    guardian, agent = put_authority(running, ward), put_authority(running, ward, capacity=AGENT)
    grant_under(running, ward, guardian, purposes=["HPAYMT"])  # before the rules
    publish_rules(running, standing_capacities=[st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN])
    given = grant_under(running, ward, guardian)
    grant_under(running, ward, agent, purposes=["PATADMIN"])
    end_authority(running, ward, guardian)
    end_authority(running, ward, agent)
    asked = ("TREAT", "HPAYMT", "PATADMIN")
    assert [world.ask(ward, one).outcome for one in asked] == [PERMIT, NONE, NONE]
    states = {one.consent_id: one.state for one in listed(running, ward)}
    assert sorted(states.values()) == [cs.CONSENT_STATE_ACTIVE, cs.CONSENT_STATE_ENDED, cs.CONSENT_STATE_ENDED]
    assert states[given] == cs.CONSENT_STATE_ACTIVE
    publish_rules(running, standing_capacities=[])
    assert world.ask(ward, "TREAT").outcome == PERMIT
    for wrong in ([3], [1, 1], [0], [9]):
        assert refusal(lambda wrong=wrong: publish_rules(running, standing_capacities=wrong)) == "INVALID_REQUEST"


OBJECTION = {"kind": pb.CONSENT_KIND_OBJECTION, "effect": pb.EFFECT_DENY, "purposes": ["*"]}


def test_16_2_a_guardian_amends_no_consent_of_other_purposes_to_one_of_research(world: World) -> None:
    running = world.running
    world.advance_to(BIRTHDAY_MS)

    def amend_under(given: str) -> None:
        request = cs.AmendConsentRequest(
            request_id=request_id(), subject=child, consent_id=given, based_on_version=1,
            attested=st.AmendStatement(
                consent=consent(purposes=["HRESCH"]), authority_seq=seq, attestation=CHECKED
            ),
        )  # fmt: skip
        running.consents.AmendConsent(request, metadata=running.as_(REPRESENTATIVE))

    for root, expected in (({}, PERMIT), ({"effect": pb.EFFECT_DENY}, DENY), (OBJECTION, DENY)):
        child = running.enrol(new_identifier())
        seq = put_authority(running, child, birth_date=BORN)
        given = running.grant(child, **root)
        assert refusal(lambda given=given: amend_under(given)) == "AUTHORITY_NOT_IN_FORCE"
        assert world.ask(child, "TREAT").outcome == expected
        mixed = running.grant(child, purposes=["TREAT", "DSRCH"])
        assert refusal(lambda mixed=mixed: amend_under(mixed)) == "AUTHORITY_NOT_IN_FORCE"
        amend_under(running.grant(child, purposes=["DSRCH"]))


def test_1000_consents_end_with_one_entry(world: World) -> None:
    running = world.running
    ward = running.enrol(new_identifier())
    seq = put_authority(running, ward)
    codes = ["CLIN.DX", "CLIN.RX", "CLIN.LAB"]
    nested = [pb.Provision(effect=pb.EFFECT_PERMIT, categories=[code]) for code in codes]
    for _ in range(20):
        grant_under(running, ward, seq, provisions=nested * 8)
    assert world.ask(ward, "TREAT").outcome == PERMIT
    size = services(running).ledger.state.size
    end_authority(running, ward, seq)
    decision = world.ask(ward, "TREAT")
    assert decision.outcome == NONE
    with services(running).table.read() as snapshot:
        tag = snapshot.tag_of(services(running).vault.identifier_hash(ward.scheme, ward.value))
        assert tag is not None
        assert row_count(snapshot.subject(tag)) == 20 * 25
    assert services(running).ledger.state.size <= size + 2  # the entry, and perhaps a seal


def test_decisions_around_the_end_of_an_authority_and_of_a_campaign_come_out_again(world: World) -> None:
    """The fixture computes each decision again, from the ledger."""
    running = world.running
    ward, person = running.enrol(new_identifier()), running.enrol(new_identifier())
    seq = put_authority(running, ward)
    grant_under(running, ward, seq)
    publish_notice(running, "asked")
    closes_ms = world.clock.wall_ms() + 60_000
    under = consent()
    under.notice_id, under.notice_version = "asked", 1
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=person, attested=st.GrantStatement(consent=under)
    )
    given = running.consents.GrantConsent(request, metadata=running.as_("app")).consent_id
    publish_notice(running, "asked", 2, reconsent_by_time_ms=closes_ms)

    def outcomes() -> list[int]:
        return [running.authorize(question(one)).decision.outcome for one in (ward, person)]

    assert outcomes() == [PERMIT, PERMIT]
    end_authority(running, ward, seq)
    assert outcomes() == [NONE, PERMIT]
    world.advance_to(closes_ms - 1)
    assert outcomes() == [NONE, PERMIT]
    world.advance_to(closes_ms)
    assert outcomes() == [NONE, NONE]
    under.notice_version = 2
    amend = cs.AmendConsentRequest(
        request_id=request_id(), subject=person, consent_id=given, based_on_version=1,
        attested=st.AmendStatement(consent=under),
    )  # fmt: skip
    running.consents.AmendConsent(amend, metadata=running.as_("app"))
    assert outcomes() == [NONE, PERMIT]


def test_a_window_begins_and_ends_without_an_entry(world: World) -> None:
    running = world.running
    ward = running.enrol(new_identifier())
    start, end = START_MS + 1000, START_MS + 5000
    seq = put_authority(running, ward, start_time_ms=start, end_time_ms=end)
    seen = []
    for at_ms in (start - 1, start, end - 1, end):
        world.advance_to(at_ms)
        if at_ms in (start - 1, end):
            assert refusal(lambda: grant_under(running, ward, seq)) == "AUTHORITY_NOT_IN_FORCE"
        elif at_ms == start:
            grant_under(running, ward, seq)
        seen.append(world.ask(ward, "TREAT").outcome)
    assert seen == [NONE, PERMIT, PERMIT, NONE]


def test_the_client_puts_uses_lists_and_ends_an_authority(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=10)
    add_representative(running)
    ward = running.enrol(new_identifier())
    trust = Trust(ORIGIN, read_signing_key(running.config.keys.log_key_file).verifier)

    def client(who: str) -> Client:
        return Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens[who], trust=trust)

    with client("app") as app, client(REPRESENTATIVE) as guardian:
        seq = app.put_authority(ward, authority()).event.seq
        acting: Any = {"authority_seq": seq, "method": "id-card"}
        given = guardian.grant(ward, consent(), **acting)
        guardian.pause(ward, given.consent_id, **acting)
        guardian.resume(ward, given.consent_id, **acting)
        guardian.amend(ward, given.consent_id, consent(), based_on_version=1, **acting)
        assert app.get_authority(ward, seq).statement.participant_id == REPRESENTATIVE
        assert [one.authority_seq for one in app.list_authorities(ward)] == [seq]
        assert list(app.list_authorities(ward, participant_id="other")) == []
        app.end_authority(ward, seq)
        assert [bool(one.ended_seq) for one in app.list_authorities(ward)] == [True]
        running.wait_published()
        history = app.history(ward)
    texts = {EntryKind(entry.event.kind).name: describe(entry.message, "en") for entry in history.entries}
    assert [texts[name] for name in ("PAUSE", "RESUME")] == [f"#{seq + 1}, authority #{seq}"] * 2
    assert texts["GRANT"].endswith(f", authority #{seq}")
    assert texts["AUTHORITY"] == "ended"
    (stated, _) = [one.message for one in history.entries if one.event.kind == EntryKind.AUTHORITY]
    assert describe(stated, "en") == (
        "guardian, legal guardian, incapacitated, granted+amended+paused+revoked, family-relation-certificate"
    )
    running.check_ledger()
    running.stop()
