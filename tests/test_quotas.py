"""Quotas: what one caller may do about one person in a day, and how many persons it may check in an hour."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from cases.authorities import end_authority, put_authority
from cases.daemons import Running, make_running, question, reason_in, request_id, running_daemon
from cases.fakes import START_MS, FakeClock
from cases.services import batch, change, new_identifier, publish_rules, record, refusal, services
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.errors import OverloadedError
from consentd.metrics import Metrics
from consentd.policy.model import BREAK_GLASS_PURPOSE, Quotas
from consentd.sequencer.quotas import DENIES, HOUR_MS, QuotaCounter, Sketch
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

PERSON, OTHER = b"p" * 32, b"o" * 32
FEW = Quotas(entries_per_day=5, refusals_per_day=2, persons_per_hour=3)
NINE_HOURS_MS = 9 * HOUR_MS


# -- counting ------------------------------------------------------------------------------------------------------


def exceeded(call: Callable[[], object]) -> OverloadedError:
    with pytest.raises(OverloadedError) as caught:
        call()
    assert caught.value.reason == "QUOTA_EXCEEDED"
    return caught.value


def test_a_sketch_never_counts_too_few_and_seldom_too_many() -> None:
    rng, sketch, exact = random.Random(4), Sketch(), dict[bytes, int]()
    sketch.begin(1)
    for _ in range(20_000):
        key = rng.randrange(5_000).to_bytes(8)
        sketch.add(key)
        exact[key] = exact.get(key, 0) + 1
    found = {key: sketch.count(key) for key in exact}
    assert all(found[key] >= count for key, count in exact.items())
    assert sum(found[key] != count for key, count in exact.items()) < 50
    sketch.begin(1)
    assert sketch.count(key) == found[key]
    sketch.begin(2)
    assert sketch.count(key) == 0


def test_a_counter_stays_at_its_highest_figure() -> None:
    sketch = Sketch()
    sketch.begin(1)
    for _ in range(1 << 16):
        sketch.add(PERSON)
    assert sketch.count(PERSON) == (1 << 16) - 1


def test_entries_are_counted_by_caller_person_and_day() -> None:
    metrics = Metrics()
    counter = QuotaCounter(metrics)
    now_ms = START_MS // DAY_MS * DAY_MS  # nine o'clock in Seoul
    for _ in range(5):
        counter.count_entry("app", PERSON, FEW, now_ms=now_ms)
    late = exceeded(lambda: counter.count_entry("app", PERSON, FEW, now_ms=now_ms + 1_000))
    assert late.retry_after_ms == DAY_MS - NINE_HOURS_MS - 1_000
    counter.count_entry("app", OTHER, FEW, now_ms=now_ms)
    counter.count_entry("clinic", PERSON, FEW, now_ms=now_ms)
    exceeded(lambda: counter.count_entry("app", PERSON, FEW, now_ms=now_ms + late.retry_after_ms))
    counter.count_entry("app", PERSON, FEW, now_ms=now_ms + 1_000 + late.retry_after_ms)
    assert metrics.value("consentd_quota_refusals_total", quota="entries") == 2


def test_refusals_have_a_quota_within_that_of_entries() -> None:
    counter = QuotaCounter(Metrics())
    for _ in range(2):
        counter.count_entry("app", PERSON, FEW, now_ms=START_MS, is_refusal=True)
    exceeded(lambda: counter.count_entry("app", PERSON, FEW, now_ms=START_MS, is_refusal=True))
    for _ in range(3):
        counter.count_entry("app", PERSON, FEW, now_ms=START_MS)
    exceeded(lambda: counter.count_entry("app", PERSON, FEW, now_ms=START_MS))
    for _ in range(5 * DENIES - 5):
        counter.count_entry("app", PERSON, FEW, now_ms=START_MS, only_denies=True)
    exceeded(lambda: counter.count_entry("app", PERSON, FEW, now_ms=START_MS, only_denies=True))


def test_persons_are_counted_for_an_hour_unless_an_access_follows() -> None:
    counter = QuotaCounter(Metrics())

    def check(number: int, after_ms: int = 0, caller: str = "app") -> None:
        counter.count_person(caller, number.to_bytes(32), FEW, now_ms=START_MS + after_ms)

    for number in (1, 2, 3, 1):
        check(number)
    assert exceeded(lambda: check(4, 10)).retry_after_ms == HOUR_MS - 10
    check(4, caller="clinic")
    check(2, 20)  # counted already
    counter.forget_person("app", (2).to_bytes(32))
    check(4, 30)
    exceeded(lambda: check(2, 40))
    exceeded(lambda: check(5, HOUR_MS - 1))
    check(5, HOUR_MS)
    counter.forget_person("nobody", PERSON)
    check(5, -1)  # the clock went back: the window begins anew


# -- calls ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, FakeClock]]:
    """A daemon with a fake clock, whose realm has low quotas."""
    clock = FakeClock()
    running = make_running(tmp_path_factory.mktemp("quotas"), daemon={"clock": clock})
    publish_rules(
        running,
        quotas=st.Quotas(entries_per_day=8, refusals_per_day=2, persons_per_hour=4),
        break_glass=[pb.Provision(effect=pb.EFFECT_PERMIT, categories=["CLIN.RX"])],
        statutory=[pb.Provision(effect=pb.EFFECT_PERMIT, purposes=["PUBHLTH"], categories=["CLIN.DX"])],
    )
    yield running, clock
    running.stop()


@pytest.fixture
def low(clocked: tuple[Running, FakeClock]) -> Running:
    """The daemon with low quotas, on a new day."""
    running, clock = clocked
    clock.advance(DAY_MS)
    return running


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, int]:
    """Return the code, the reason and the retry delay (ms) with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    trailing = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    return caught.value.code(), reason_in(status), retry_ms_in(status)


def retry_ms_in(status: status_pb2.Status) -> int:
    """Return the retry delay (ms) of a status that has one."""
    retry = error_details_pb2.RetryInfo()
    [found] = [detail for detail in status.details if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
    found.Unpack(retry)
    return int(retry.retry_delay.ToMilliseconds())


@pytest.mark.parametrize("is_enrolled", [True, False])
def test_refusals_about_one_person_end_whether_enrolled_or_not(low: Running, is_enrolled: bool) -> None:
    subject = pb.Subject(scheme="mhid", value=new_identifier())
    if is_enrolled:
        low.enrol(subject.value)
    first = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    answers = [low.access.AuthorizeAccess(first, metadata=low.as_("clinic-b"))]
    answers.append(low.authorize(question(subject), "clinic-b"))
    assert [answer.decision.outcome for answer in answers] == [pb.OUTCOME_DENY] * 2
    size = services(low).ledger.state.size
    code, reason, retry_ms = status_of(lambda: low.authorize(question(subject), "clinic-b"))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    now_ms = services(low).sequencer.clock.wall_ms()
    assert retry_ms == DAY_MS - (now_ms + NINE_HOURS_MS) % DAY_MS
    batched = ac.BatchAuthorizeAccessesRequest(
        requests=[ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))]
    )
    [item] = low.access.BatchAuthorizeAccesses(batched, metadata=low.as_("clinic-b")).results
    assert (reason_in(item.error), retry_ms_in(item.error)) == ("QUOTA_EXCEEDED", retry_ms)
    assert services(low).ledger.state.size <= size + 1  # a seal may have come
    assert low.authorize(question(subject), "hospital-a").decision.outcome == pb.OUTCOME_DENY
    if is_enrolled:
        repeated = low.access.AuthorizeAccess(first, metadata=low.as_("clinic-b"))
        assert repeated.receipt.replayed
        low.grant(subject)
        assert low.authorize(question(subject), "clinic-b").decision.outcome == pb.OUTCOME_PERMIT


def test_entries_about_one_person_end_and_a_permission_can_still_be_taken_away(low: Running) -> None:
    subject = low.enrol(new_identifier())
    consent_id = low.grant(subject)
    authority_seq = put_authority(low, subject, participant_id="er")
    for _ in range(6):
        seq = low.authorize(question(subject)).access_seq
    for call in (
        lambda: low.authorize(question(subject)),
        lambda: low.grant(subject),
        lambda: record(low, subject, seq, who="app"),
        lambda: put_authority(low, subject, participant_id="er"),
    ):
        assert refusal(call) == "QUOTA_EXCEEDED"
    low.grant(subject, effect=pb.EFFECT_DENY, kind=pb.CONSENT_KIND_OBJECTION, purposes=["HRESCH"])
    change(low, EntryKind.PAUSE, subject, consent_id)
    assert refusal(lambda: change(low, EntryKind.RESUME, subject, consent_id)) == "QUOTA_EXCEEDED"
    change(low, EntryKind.REVOKE, subject, consent_id)
    end_authority(low, subject, authority_seq)


def test_a_gate_has_half_of_the_persons() -> None:
    for most, left in ((3, 2), (1, 1), (2_000, 1_000)):
        counter = QuotaCounter(Metrics())
        counter.has_gate = True
        for number in range(left):
            counter.count_person("a", number.to_bytes(32), Quotas(persons_per_hour=most), now_ms=START_MS)
        exceeded(
            lambda most=most, one=counter: one.count_person(  # type: ignore[misc]
                "a", OTHER, Quotas(persons_per_hour=most), now_ms=START_MS
            )
        )


def test_an_emergency_is_not_counted(low: Running) -> None:
    subject = low.enrol(new_identifier())
    asked = question(
        subject, actor=pb.Actor(organisation="er"), purpose=BREAK_GLASS_PURPOSE, categories=["CLIN.RX"],
        break_glass=pb.BreakGlass(justification="unconscious, bleeding"),
    )  # fmt: skip
    for _ in range(12):
        assert low.authorize(asked, "er").decision.outcome == pb.OUTCOME_PERMIT


def test_what_a_law_permits_is_not_counted(low: Running) -> None:
    subject = low.enrol(new_identifier())
    for _ in range(12):
        asked = question(subject, purpose="PUBHLTH")
        assert low.authorize(asked, "clinic-b").decision.outcome == pb.OUTCOME_PERMIT


def test_persons_checked_end_unless_an_access_follows(low: Running) -> None:
    people = [pb.Subject(scheme="mhid", value=new_identifier()) for _ in range(6)]
    low.enrol(people[0].value)
    for person in people[:4]:
        assert low.check(question(person), "clinic-b").outcome == pb.OUTCOME_DENY
    code, reason, retry_ms = status_of(lambda: low.check(question(people[4]), "clinic-b"))
    assert (code, reason, retry_ms) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", HOUR_MS)
    again, late = batch(low, who="clinic-b", questions=[question(people[0]), question(people[4])])
    assert again.decision.outcome == pb.OUTCOME_DENY
    assert reason_in(late.error) == "QUOTA_EXCEEDED"
    low.authorize(question(people[0]), "clinic-b")
    low.authorize(question(people[1]), "clinic-b")
    for person in people[4:]:
        low.check(question(person), "clinic-b")
    assert refusal(lambda: low.check(question(people[0]), "clinic-b")) == "QUOTA_EXCEEDED"
    for person in people[:4]:  # others have quotas of their own
        assert low.check(question(person), "hospital-a").outcome == pb.OUTCOME_DENY


def test_an_access_that_is_refused_without_an_entry_frees_no_place(low: Running) -> None:
    people = [pb.Subject(scheme="mhid", value=new_identifier()) for _ in range(5)]
    for _ in range(2):
        low.authorize(question(people[0]), "clinic-b")
    for person in people[:4]:
        low.check(question(person), "clinic-b")
    assert refusal(lambda: low.authorize(question(people[0]), "clinic-b")) == "QUOTA_EXCEEDED"
    assert refusal(lambda: low.check(question(people[4]), "clinic-b")) == "QUOTA_EXCEEDED"


def test_rules_without_quotas_have_the_defaults(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running, services(running).table.read() as snapshot:
        assert snapshot.registry().quotas == Quotas() == Quotas(
            entries_per_day=1_000, refusals_per_day=100, persons_per_hour=2_000
        )


@pytest.mark.parametrize("field", ["entries_per_day", "refusals_per_day", "persons_per_hour"])
def test_a_quota_over_its_limit_is_refused(low: Running, field: str) -> None:
    assert refusal(lambda: publish_rules(low, quotas=st.Quotas(**{field: 100_001}))) == "INVALID_REQUEST"
