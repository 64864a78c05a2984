"""Check and BatchCheck from an earlier tree, by gRPC: who may ask, which trees and instants there are, the limits."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st_

from cases.daemons import Running, make_running, question, reason_of, request_id, running_daemon
from cases.earlier_trees import at_exact
from cases.fakes import HANG_S, FakeClock
from cases.pruned_ledgers import World as PrunedWorld
from cases.pruned_ledgers import pruned_world
from cases.services import (
    FOREIGN_FIELD,
    amend,
    batch,
    batch_request,
    change,
    new_identifier,
    now_ms,
    publish_rules,
    refusal,
    register,
    services,
    wait_calls,
)
from cases.writes import Raw
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.ledger import layout, reads, retention
from consentd.policy.delegation import Capacity
from consentd.server.pools import PoolName, pool_limits
from consentd.service import exact
from consentd.service.consistency import MAX_AHEAD
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

RECIPIENT, HOLDER, RELAY = st.PARTICIPANT_ROLE_RECIPIENT, st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RELAY
SEES = st.PARTICIPANT_RIGHT_SEE_REASONS


def ask(running: Running, asked: pb.Question, consistency: pb.Consistency, who: str = "app") -> pb.Decision:
    request = ps.CheckRequest(question=asked, consistency=consistency)
    return running.policy.Check(request, metadata=running.as_(who), timeout=HANG_S).decision


def refused(running: Running, asked: pb.Question, consistency: pb.Consistency, who: str = "app") -> str:
    return refusal(partial(ask, running, asked, consistency, who))


def moment(decision: pb.Decision) -> pb.Consistency:
    """Return the tree and the instant of a decision."""
    return at_exact(decision.revision.tree_size, decision.decided_time_ms)


def now(running: Running) -> pb.Consistency:
    """Return the latest tree that answers are given from, and the present instant."""
    # Not the tree of the ledger: the table follows it a moment later, also with a seal, which no call waits for.
    with services(running).table.read() as snapshot:
        size, time_ms = snapshot.size, snapshot.time_ms
    return at_exact(size, max(now_ms(running), time_ms))


def without_id(decision: pb.Decision) -> pb.Decision:
    kept = pb.Decision()
    kept.CopyFrom(decision)
    kept.ClearField("decision_id")
    return kept


def leaf_ms(running: Running, size: int) -> int:
    """Return the time of the last leaf of a tree."""
    return codec.decode_leaf(reads.read_leaf(services(running).ledger.store, size - 1)).time_ms


# -- the answer ----------------------------------------------------------------------------------------------------


def changes(running: Running, subject: pb.Subject) -> Iterator[None]:
    """Change everything that a decision depends on, one thing after the other."""
    yield
    first = running.grant(subject)
    yield
    change(running, EntryKind.PAUSE, subject, first)
    yield
    change(running, EntryKind.RESUME, subject, first)
    yield
    register(running, "clinic-b", [RECIPIENT], groups=["group/g"])
    yield
    amend(running, subject, first, 1, categories=["CLIN.DX"], actors=["group/g"])
    yield
    register(running, "clinic-b", [RECIPIENT])
    yield
    register(running, "clinic-b", [RECIPIENT], groups=["group/g"])
    yield
    second = running.grant(subject, actors=["group/g"])
    yield
    register(running, "clinic-b", [RECIPIENT], active=False)
    yield
    register(running, "clinic-b", [RECIPIENT])
    yield
    running.delegate("clinic-b", "er", Capacity.APPLICATION)
    yield
    running.delegate("clinic-b", "er", Capacity.APPLICATION, ended=True)
    yield
    statutory = pb.Provision(
        effect=pb.EFFECT_DENY, actors=["clinic-b"], holders=["*"], purposes=["TREAT"], categories=["CLIN"]
    )
    publish_rules(running, statutory=[statutory])
    yield
    publish_rules(running, statutory=[])
    yield
    publish_vocabulary(running)
    yield
    running.authorize(question(subject))
    yield
    change(running, EntryKind.REVOKE, subject, second)
    change(running, EntryKind.REVOKE, subject, first)
    yield


def publish_vocabulary(running: Running) -> None:
    """Publish the next version of the vocabulary, which has a category more."""
    operator = running.as_("operator")
    message = running.registry.GetVocabulary(rs.GetVocabularyRequest(), metadata=operator).vocabulary
    message.version += 1
    message.ClearField("attestation")
    new = message.codes.add()
    new.CopyFrom(next(one for one in message.codes if one.code == "CLIN.DX"))
    new.code, new.parent = f"NEW{message.version}", ""
    request = rs.PublishVocabularyRequest(request_id=request_id(), attested=message)
    running.registry.PublishVocabulary(request, metadata=operator)


def questions(subject: pb.Subject) -> list[pb.Question]:
    return [
        question(subject),
        question(subject, categories=["CLIN.DX", "CLIN.LAB"], action="access"),
        question(subject, categories=["CLIN"], supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL]),
        question(subject, actor=pb.Actor(organisation="clinic-b", application="er")),
        question(subject, actor=pb.Actor(organisation="SUBJECT"), action="access"),
        question(subject, categories=["NEW2", "CLIN.DX"]),
        question(pb.Subject(scheme="mhid", value="NOT-ENROLLED")),
    ]


def test_an_answer_is_given_again_whatever_has_changed_since(tmp_path: Path) -> None:
    """Also by a batch, after a restart, and for a question that was refused then."""
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        kept: list[tuple[pb.Question, pb.Decision]] = []
        denied: list[tuple[pb.Question, pb.Consistency]] = []
        for _ in changes(running, subject):
            for asked in questions(subject):
                try:
                    kept.append((asked, running.check(asked)))
                except Exception:  # noqa: BLE001  # the application has no delegation now
                    denied.append((asked, now(running)))
        assert {decision.outcome for _, decision in kept} >= {
            pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT, pb.OUTCOME_INDETERMINATE
        }  # fmt: skip
        assert len(denied) > 3
        before = running.wait_published().ledger.state.size
        for asked, then in kept:
            assert without_id(ask(running, asked, moment(then))) == without_id(then)
        for asked, consistency in denied:
            assert refused(running, asked, consistency) == "ACTOR_NOT_ALLOWED"
        for asked, then in kept[::9]:
            found = batch(running, questions=[asked, asked], consistency=moment(then))
            shared = pb.Question()
            shared.CopyFrom(asked)
            shared.ClearField("subject")
            found += batch(running, shared=shared, subjects=[asked.subject], consistency=moment(then))
            assert [without_id(one.decision) for one in found] == [without_id(then)] * 3
        ids = [ask(running, kept[0][0], moment(kept[0][1])).decision_id for _ in range(3)]
        assert len(set(ids)) == 3
        assert running.wait_published().ledger.state.size == before  # nothing is recorded
        running.check_ledger()
        running.stop()
        again = Running(running.config, running.tokens)
        for asked, then in kept[::5]:
            assert without_id(ask(again, asked, moment(then))) == without_id(then)
        again.stop()


def test_the_decisions_of_one_batch_are_answered_from_the_trees_within_it(running: Running) -> None:
    subject = running.enrol(new_identifier())
    running.grant(subject)
    asked = question(subject)
    requests = [ac.AuthorizeAccessRequest(request_id=request_id(), question=asked) for _ in range(5)]
    answers = running.access.BatchAuthorizeAccesses(
        ac.BatchAuthorizeAccessesRequest(requests=requests), metadata=running.as_("app")
    ).results
    sizes = {one.response.decision.revision.tree_size for one in answers}
    assert len(sizes) == 5
    for one in answers:
        then = one.response.decision
        found = without_id(ask(running, asked, moment(then)))
        found.revision.ClearField("root_hash")
        assert found == without_id(then)


def test_a_person_is_as_enrolled_as_then(running: Running) -> None:
    subject = pb.Subject(scheme="mhid", value=new_identifier())
    asked, before = question(subject), now(running)
    running.enrol(subject.value)
    running.grant(subject)
    assert ask(running, asked, before).outcome == pb.OUTCOME_NO_CONSENT
    assert not ask(running, asked, before).tag
    after = ask(running, asked, now(running))
    assert (after.outcome, len(after.tag)) == (pb.OUTCOME_PERMIT, 32)


def test_periods_are_compared_with_the_instant(running: Running) -> None:
    subject = running.enrol(new_identifier())
    start = now_ms(running) - 60_000
    given = pb.Period(start_time_ms=start, end_time_ms=now_ms(running) + 3_600_000)
    running.grant(subject, period=given)
    size, asked = now(running).at_exact.tree_size, question(subject)
    found = ask(running, asked, at_exact(size, leaf_ms(running, size)))
    assert (found.outcome, found.valid_until_time_ms) == (pb.OUTCOME_PERMIT, given.end_time_ms)


# -- who may ask ---------------------------------------------------------------------------------------------------


def test_rights_and_part_of_today_decide_who_may_ask(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        asked, then = question(subject), now(running)
        permit = ask(running, asked, then)
        assert permit.outcome == pb.OUTCOME_PERMIT
        for who in ("clinic-b", "operator", "pipc", "er"):  # no right; no participant; no right; no part
            assert refused(running, asked, then, who) == "CALLER_NOT_ALLOWED"
        register(running, "er", [RECIPIENT, HOLDER], rights=[SEES])
        assert refused(running, asked, then, "er") == "CALLER_NOT_ALLOWED"  # it still has no part
        register(running, "clinic-b", [RECIPIENT], rights=[SEES])
        found = ask(running, asked, then, "clinic-b")
        assert (found.outcome, found.reasons) == (permit.outcome, permit.reasons)
        # An office that was not registered then asks for the holder.
        running.add_caller("office")
        register(running, "office", [RELAY], rights=[SEES])
        assert refused(running, asked, then, "office") == "CALLER_NOT_ALLOWED"
        running.delegate("hospital-a", "office")
        assert without_id(ask(running, asked, then, "office")) == without_id(permit)
        # Those who lost what they had then do not.
        running.delegate("hospital-a", "office", ended=True)
        assert refused(running, asked, then, "office") == "CALLER_NOT_ALLOWED"
        register(running, "app", [RELAY], rights=[SEES], active=False)
        assert refused(running, asked, then) == "CALLER_NOT_ALLOWED"
        running.check_ledger()


def test_who_acts_for_the_person_asks_as_the_person(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        then = now(running)
        register(running, "app", [RELAY], rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS])
        own = question(subject, actor=pb.Actor(organisation="SUBJECT"), action="access")
        assert ask(running, own, then).outcome == pb.OUTCOME_NO_CONSENT
        assert refused(running, question(subject), then) == "CALLER_NOT_ALLOWED"
        register(running, "app", [RELAY], rights=[SEES])
        assert refused(running, own, then) == "CALLER_NOT_ALLOWED"
        assert ask(running, question(subject), then).outcome == pb.OUTCOME_PERMIT
        running.check_ledger()


def test_a_name_is_true_if_it_was_then(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        asked = question(subject, actor=pb.Actor(organisation="clinic-b", application="er"))
        before = now(running)
        running.delegate("clinic-b", "er", Capacity.APPLICATION)
        during = now(running)
        running.delegate("clinic-b", "er", Capacity.APPLICATION, ended=True)
        after = now(running)
        outcomes = [refused(running, asked, one) for one in (before, after)]
        assert outcomes == ["ACTOR_NOT_ALLOWED"] * 2
        assert ask(running, asked, during).outcome == pb.OUTCOME_PERMIT
        running.check_ledger()


def test_persons_are_counted_as_by_every_check(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subjects = [running.enrol(f"SYN-00000{number}") for number in range(3)]
        publish_rules(running, quotas=st.Quotas(persons_per_hour=2))
        then = now(running)
        for subject in (*subjects[:2], subjects[0]):
            ask(running, question(subject), then)
        assert refused(running, question(subjects[2]), then) == "QUOTA_EXCEEDED"
        assert refusal(partial(running.check, question(subjects[2]))) == "QUOTA_EXCEEDED"
        running.check_ledger()


# -- which trees and instants --------------------------------------------------------------------------------------


def test_trees_and_instants_that_there_were_not_are_refused(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    asked = question(subject)
    size = running.wait_published().ledger.state.size
    last_ms, much = leaf_ms(running, size), now_ms(running) + 3_600_000
    for tree_size, time_ms, reason in (
        (0, last_ms, "INVALID_REQUEST"),
        (1, last_ms, "INVALID_REQUEST"),  # a ledger alone, without a vocabulary
        (2, last_ms, "INVALID_REQUEST"),
        (size, last_ms - 1, "INVALID_REQUEST"),
        (size, 0, "INVALID_REQUEST"),
        (size, -1, "INVALID_REQUEST"),
        (size, -(1 << 63), "INVALID_REQUEST"),
        (size, much, "INVALID_REQUEST"),
        (size, (1 << 63) - 1, "INVALID_REQUEST"),
        (size + 1, last_ms, "REVISION_NOT_REACHED"),
        (size + 1, -1, "REVISION_NOT_REACHED"),
        (size + 2 * MAX_AHEAD, last_ms, "INVALID_REQUEST"),
        ((1 << 63) + 1, last_ms, "INVALID_REQUEST"),
        ((1 << 64) - 1, last_ms, "INVALID_REQUEST"),
    ):
        assert (refused(running, asked, at_exact(tree_size, time_ms)), tree_size, time_ms) == (
            reason, tree_size, time_ms
        )  # fmt: skip
        request = batch_request(questions=[asked], consistency=at_exact(tree_size, time_ms))
        assert refusal(partial(running.policy.BatchCheck, request, metadata=running.as_("app"))) == reason
    assert ask(running, asked, at_exact(size, last_ms)).outcome == pb.OUTCOME_PERMIT
    first = at_exact(3, leaf_ms(running, 3))  # the first tree with a vocabulary and rules, and no participant
    assert refused(running, asked, first) == "ACTOR_NOT_ALLOWED"


def test_fields_that_are_not_known_are_refused(running: Running, subject: pb.Subject) -> None:
    strange = pb.Consistency(at_exact=pb.ExactState.FromString(FOREIGN_FIELD))
    assert refused(running, question(subject), strange) == "UNKNOWN_FIELD"
    both = pb.Consistency.FromString(now(running).SerializeToString() + FOREIGN_FIELD)
    assert refused(running, question(subject), both) == "UNKNOWN_FIELD"
    asked = pb.Question.FromString(question(subject).SerializeToString() + FOREIGN_FIELD)
    assert refused(running, asked, now(running)) == "UNKNOWN_FIELD"


def test_questions_are_refused_as_by_check(running: Running, subject: pb.Subject) -> None:
    then = now(running)
    justified = pb.BreakGlass(justification="found unconscious, no relatives")
    for asked, reason in (
        (question(subject, purpose="BTG", break_glass=justified), "BREAK_GLASS_SHAPE"),
        (question(subject, break_glass=justified), "BREAK_GLASS_SHAPE"),
        (question(subject, purpose="NONE"), "UNKNOWN_PURPOSE"),
        (question(subject, action="none"), "UNKNOWN_ACTION"),
        (question(subject, categories=[]), "EMPTY_CATEGORIES"),
        (question(pb.Subject(scheme="", value="")), "INVALID_IDENTIFIER"),
        (question(pb.Subject(scheme="rrn", value="1")), "INVALID_IDENTIFIER"),
        (question(subject, actor=pb.Actor(organisation="clinic-b", role="x" * 5_000)), "TOO_LARGE"),
        (pb.Question(), "CALLER_NOT_ALLOWED"),
    ):
        assert refused(running, asked, then) == reason


def test_an_erasure_leaves_no_wrong_answer_about_who_is_not_enrolled(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=10)
    erased, other = running.enrol("SYN-000001"), running.enrol("SYN-000002")
    running.grant(erased)
    before = now(running)
    used = services(running)
    tag = used.vault.find(used.vault.identifier_hash(erased.scheme, erased.value))
    assert tag is not None
    used.sequencer.submit(Raw(kind=EntryKind.ERASURE, tag=tag)).result(HANG_S)
    after = now(running)
    nobody = pb.Subject(scheme="mhid", value="NOT-ENROLLED")
    for subject in (erased, nobody):
        assert refused(running, question(subject), before) == "PRUNED"
        assert ask(running, question(subject), after).outcome == pb.OUTCOME_NO_CONSENT
    assert ask(running, question(other), before).outcome == pb.OUTCOME_NO_CONSENT
    running.stop()


def test_a_statement_that_is_gone_leaves_no_wrong_answer(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=10)
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    then, used = now(running), services(running)
    tag = used.vault.find(used.vault.identifier_hash(subject.scheme, subject.value))
    assert tag is not None
    used.vault.store.write(_deletes(b"k" + tag))
    used.vault._keys.clear()
    assert refused(running, question(subject), then) == "PRUNED"
    running.stop()


def _deletes(key: bytes) -> Any:
    from consentd.store import Batch

    made = Batch()
    made.delete(key)
    return made


def test_what_is_pruned_is_not_answered(tmp_path: Path) -> None:
    world = PrunedWorld(tmp_path)
    anna = pruned_world(world)
    running, store = world.running, world.services.ledger.store
    kept_from_ms = retention.read_pruned(store).kept_from_ms
    asked, outcomes = question(anna), set()
    for size in (3, 40, 100, 200, 257, services(running).ledger.state.size):
        leaf = store.get(layout.leaf_key(size - 1))
        time_ms = kept_from_ms if leaf is None else codec.decode_leaf(leaf).time_ms
        if leaf is None or time_ms < kept_from_ms:
            assert refused(running, asked, at_exact(size, now_ms(running))) == "PRUNED"
            outcomes.add("PRUNED")
        else:
            assert ask(running, asked, at_exact(size, time_ms)).outcome == pb.OUTCOME_PERMIT
            outcomes.add("PERMIT")
    assert outcomes == {"PRUNED", "PERMIT"}
    running.stop()


@given(st_.builds(at_exact, st_.integers(0, (1 << 64) - 1), st_.integers(-(1 << 63), (1 << 63) - 1)))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_moment_gets_an_answer_or_a_reason(running: Running, consistency: pb.Consistency) -> None:
    asked = question(pb.Subject(scheme="mhid", value="ANYBODY"))
    size, last_ms = services(running).ledger.state.size, services(running).ledger.state.time_ms
    near = at_exact(consistency.at_exact.tree_size % (size + 2), last_ms + consistency.at_exact.time_ms % 3 - 1)
    for one in (consistency, near):
        try:
            found, reason = ask(running, asked, one), ""
        except grpc.RpcError as error:
            found, reason = None, reason_of(error)
        assert reason in ("", "INVALID_REQUEST", "REVISION_NOT_REACHED", "ACTOR_NOT_ALLOWED")
        if found is not None:
            assert found.outcome == pb.OUTCOME_NO_CONSENT
            assert found.revision.tree_size == one.at_exact.tree_size


def test_while_the_clock_is_wrong_nothing_is_past(tmp_path: Path) -> None:
    clock = FakeClock()
    running = make_running(tmp_path, daemon={"clock": clock})
    subject = running.enrol("SYN-000001")
    then = now(running)
    assert ask(running, question(subject), then).outcome == pb.OUTCOME_NO_CONSENT
    clock.shift_wall(-60_000)
    assert running.check(question(subject)).outcome == pb.OUTCOME_INDETERMINATE
    assert refused(running, question(subject), then) == "CLOCK"
    clock.shift_wall(60_000)
    assert ask(running, question(subject), then).outcome == pb.OUTCOME_NO_CONSENT
    running.stop()


# -- what it costs -------------------------------------------------------------------------------------------------


def test_a_batch_has_few_items_each_with_its_own_error(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    then = now(running)
    other = pb.Subject(scheme="mhid", value=new_identifier())
    mixed = [question(subject), question(other), question(subject, purpose="NONE"), question(subject, holder="er")]
    results = batch(running, questions=mixed * 25, consistency=then)
    assert len(results) == exact.MAX_ITEMS == 100
    for number, one in enumerate(results):
        outcome = one.decision.outcome if one.HasField("decision") else None
        expected = (pb.OUTCOME_PERMIT, pb.OUTCOME_NO_CONSENT, None, pb.OUTCOME_NO_CONSENT)
        assert outcome == expected[number % 4]
    for count in (101, 1_000):
        for fields in (
            {"questions": [question(subject)] * count},
            {"shared": question(pb.Subject()), "subjects": [subject] * count},
        ):
            if "shared" in fields:
                fields["shared"].ClearField("subject")
            assert refusal(partial(batch, running, consistency=then, **fields)) == "TOO_LARGE"
    denied = batch(running, questions=[question(subject, purpose="NONE")], consistency=then)
    assert denied[0].HasField("error")


def test_more_entries_than_a_call_may_replay_are_refused(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = now(running)
    monkeypatch.setattr(exact, "MAX_ENTRIES", 3)
    assert refused(running, question(subject), then) == "TOO_LARGE"


def held_replays(running: Running) -> Callable[[], None]:
    """Hold the thread of the pool of replays; return what releases it."""
    entered, leave = Event(), Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(HANG_S)

    running.daemon._rpc._pools[PoolName.REPLAY].put(hold, "a test")
    assert entered.wait(HANG_S)
    return leave.set


def test_replays_hinder_no_other_call_and_are_limited(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="max_calls = 64", checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        consent_id = running.grant(subject)
        then, most = now(running), pool_limits(running.config.grpc)[PoolName.REPLAY]
        assert (most.threads, most.calls, most.calls_of_caller) == (1, 4, 2)
        release = held_replays(running)

        def begin() -> Future[Any]:
            request = ps.CheckRequest(question=question(subject), consistency=then)
            return running.policy.Check.future(request, metadata=running.as_("app"), timeout=HANG_S)

        waiting = [begin() for _ in range(2)]
        wait_calls(running, "replay", 2)
        wait_calls(running, "check", 0)
        assert refused(running, question(subject), then) == "TOO_MANY_CALLS"
        for _ in range(20):
            assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
        assert len(batch(running, questions=[question(subject)] * 1_000)) == 1_000
        change(running, EntryKind.REVOKE, subject, consent_id)
        waiting[0].cancel()
        release()
        assert waiting[1].result(HANG_S).decision.outcome == pb.OUTCOME_PERMIT
        wait_calls(running, "replay", 0)
        assert ask(running, question(subject), then).outcome == pb.OUTCOME_PERMIT
        running.check_ledger()


def test_a_long_replay_lets_other_callers_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short question of another caller is answered while a long one is not done."""
    from consentd.table import earlier

    monkeypatch.setattr(earlier, "STEP", 1)
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        register(running, "clinic-b", [RECIPIENT], rights=[SEES])
        long, short = running.enrol("SYN-000001"), running.enrol("SYN-000002")
        for _ in range(120):
            change(running, EntryKind.REVOKE, long, running.grant(long))
        then, ended = now(running), []
        release = held_replays(running)
        calls = []
        for who, subject in (("app", long), ("clinic-b", short)):
            request = ps.CheckRequest(question=question(subject), consistency=then)
            call = running.policy.Check.future(request, metadata=running.as_(who), timeout=HANG_S)
            call.add_done_callback(lambda _, who=who: ended.append(who))
            calls.append(call)
            wait_calls(running, "replay", len(calls))
        release()
        for call in calls:
            assert call.result(HANG_S).decision.outcome == pb.OUTCOME_NO_CONSENT
        running.check_ledger()
        assert ended[0] == "clinic-b"
