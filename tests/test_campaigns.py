"""Campaigns: a version of a notice asks for new consents by an instant, and those under earlier versions are paused."""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.authorities import CHECKED, REPRESENTATIVE, add_representative, put_authority
from cases.daemons import ORIGIN, Running, consent, make_running, question, request_id
from cases.earlier_trees import at_exact
from cases.erasures import AUTHORITY, add_authority, order
from cases.fakes import MovedClock
from cases.notices import make_notice, publish_notice
from cases.services import amend, change, listed, new_identifier, refusal, register, services
from cases.stored_rows import rows_of
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

PERMIT, DENY, NONE = pb.OUTCOME_PERMIT, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT
HOUR_MS = 3_600_000
CLOCK = MovedClock()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("campaigns"), daemon={"clock": CLOCK}, checkpoint_interval_ms=10)
    add_representative(made)
    yield made
    made.check_ledger()
    verifier = read_signing_key(made.config.keys.log_key_file).verifier
    made.stop()
    replayed = replay_decisions(DataDirectory.of_config(made.config), origin=ORIGIN, log_verifier=verifier, jobs=1)
    assert not replayed.faults
    assert {"ACCESS", "REFUSAL"} <= replayed.same.keys()


@pytest.fixture
def name(running: Running) -> str:
    """The id of a notice of which version 1 is published."""
    made = f"notice-{new_identifier().lower()}"
    publish_notice(running, made)
    return made


@pytest.fixture
def subject(running: Running) -> pb.Subject:
    return running.enrol(new_identifier())


def under(notice: str, version: int = 1, **root: Any) -> pb.Consent:
    """Return a consent under a version of a notice."""
    made = consent(**root)
    made.notice_id, made.notice_version = notice, version
    return made


def grant(running: Running, subject: pb.Subject, notice: str, version: int = 1, **root: Any) -> str:
    stated = st.GrantStatement(consent=under(notice, version, **root))
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=stated)
    return running.consents.GrantConsent(request, metadata=running.as_("app")).consent_id


def renew(running: Running, subject: pb.Subject, consent_id: str, consent: pb.Consent, version: int = 1) -> None:
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id, based_on_version=version,
        attested=st.AmendStatement(consent=consent),
    )  # fmt: skip
    running.consents.AmendConsent(request, metadata=running.as_("app"))


def move(running: Running, ms: int) -> None:
    """Move the daemon's clock on, and let it write: then its heartbeat is young."""
    CLOCK.advance(ms)
    running.enrol(new_identifier())


def ask_again(running: Running, notice: str, version: int = 2, *, in_ms: int = HOUR_MS) -> int:
    """Publish a version that asks for new consents; return the instant."""
    at_ms = CLOCK.wall_ms() + in_ms
    publish_notice(running, notice, version, reconsent_by_time_ms=at_ms)
    return at_ms


def test_17_2_consents_under_an_earlier_version_are_paused_from_the_instant(
    running: Running, subject: pb.Subject, name: str
) -> None:
    given = grant(running, subject, name)
    before = running.check(question(subject))
    at_ms = ask_again(running, name)
    with_end = running.check(question(subject))
    assert (before.valid_until_time_ms, with_end.valid_until_time_ms) == (0, at_ms)
    (record,) = listed(running, subject)
    assert (record.state, record.reconsent_by_time_ms) == (cs.CONSENT_STATE_ACTIVE, at_ms)
    assert running.authorize(question(subject)).decision.outcome == PERMIT
    move(running, HOUR_MS)
    assert running.check(question(subject)).outcome == NONE
    assert running.authorize(question(subject)).decision.outcome == NONE
    (record,) = listed(running, subject)
    assert (record.state, record.paused, record.reconsent_by_time_ms) == (cs.CONSENT_STATE_PAUSED, False, at_ms)
    paused = [cs.CONSENT_STATE_PAUSED]
    assert [one.consent_id for one in listed(running, subject, states=paused)] == [given]
    for time_ms, outcome in ((at_ms - 1, PERMIT), (at_ms, NONE), (at_ms + 1, NONE)):
        size = with_end.revision.tree_size
        asked = ps.CheckRequest(question=question(subject), consistency=at_exact(size, time_ms))
        found = running.policy.Check(asked, metadata=running.as_("app")).decision
        assert (found.outcome, found.valid_until_time_ms) == (outcome, at_ms if outcome == PERMIT else 0)
    asked = ps.CheckRequest(question=question(subject), consistency=at_exact(before.revision.tree_size, at_ms + 1))
    assert running.policy.Check(asked, metadata=running.as_("app")).decision.outcome == PERMIT  # nobody had asked yet
    renew(running, subject, given, under(name, 2))
    assert running.check(question(subject)).outcome == PERMIT
    (record,) = listed(running, subject)
    assert (record.state, record.reconsent_by_time_ms) == (cs.CONSENT_STATE_ACTIVE, 0)


def test_publishing_is_one_entry_and_changes_no_row_of_a_person(
    running: Running, subject: pb.Subject, name: str
) -> None:
    given = grant(running, subject, name)
    table, before = services(running).table, services(running).ledger.state.size
    rows = rows_of(table, "s")
    kinds = {kind: rows_of(table, kind) for kind in "ikqapgt"}
    running.wait_published()
    before = services(running).ledger.state.size
    ask_again(running, name)
    running.wait_published()
    assert services(running).ledger.state.size == before + 2  # the entry and the seal
    assert rows_of(table, "s") == rows
    assert {kind: rows_of(table, kind) for kind in "ikqapgt"} == kinds
    assert given


def test_an_amendment_under_the_old_version_stays_paused(running: Running, subject: pb.Subject, name: str) -> None:
    given = grant(running, subject, name)
    ask_again(running, name)
    move(running, HOUR_MS)
    renew(running, subject, given, under(name))
    assert running.check(question(subject)).outcome == NONE
    assert refusal(lambda: amend(running, subject, given, 2)) == "INVALID_CONSENT"  # it names no notice
    other = grant(running, subject, name)
    assert running.check(question(subject)).outcome == NONE
    for kind in (EntryKind.PAUSE, EntryKind.RESUME):
        change(running, kind, subject, given)
    assert running.check(question(subject)).outcome == NONE
    change(running, EntryKind.REVOKE, subject, other)
    renew(running, subject, given, under(name, 2), version=2)
    assert running.check(question(subject)).outcome == PERMIT


def test_denies_stay(running: Running, subject: pb.Subject, name: str) -> None:
    grant(running, subject, name, effect=pb.EFFECT_DENY)
    running.grant(subject)
    ask_again(running, name)
    move(running, HOUR_MS)
    assert running.check(question(subject)).outcome == DENY


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"texts": {}}, "INVALID_REQUEST"),
        ({"texts": {"KO": st.NoticeText(content_sha256=bytes(32))}}, "INVALID_REQUEST"),
        ({"texts": {"ko": st.NoticeText(content_sha256=bytes(31))}}, "INVALID_REQUEST"),
        ({"texts": {f"a{one}b": st.NoticeText(content_sha256=bytes(32)) for one in "bcdefghijklmnopqrstuvwxyz"}
          | {f"b{one}b": st.NoticeText(content_sha256=bytes(32)) for one in "bcdefghi"}}, "INVALID_REQUEST"),
        ({"title": {}}, "INVALID_REQUEST"),
        ({"audience": 2}, "INVALID_REQUEST"),
        ({"participant_id": "nobody"}, "UNKNOWN_PARTICIPANT"),
        ({"participant_id": "hospital-a"}, "INVALID_REQUEST"),
        ({"version": 1}, "VERSION_CONFLICT"),
        ({"version": 3}, "VERSION_CONFLICT"),
        ({"reconsent_by_time_ms": 1}, "INVALID_REQUEST"),
        ({"reconsent_by_time_ms": -1}, "INVALID_REQUEST"),
        ({"reconsent_by_time_ms": 2**62}, "INVALID_REQUEST"),
    ],
)  # fmt: skip
def test_a_version_that_says_what_it_may_not_is_refused(
    running: Running, name: str, changed: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: publish_notice(running, name, **{"version": 2, **changed})) == reason


def test_the_first_version_asks_for_no_new_consents(running: Running) -> None:
    at_ms = CLOCK.wall_ms() + HOUR_MS
    assert refusal(lambda: publish_notice(running, "first", reconsent_by_time_ms=at_ms)) == "INVALID_REQUEST"
    publish_notice(running, "hospital-a/first", participant_id="hospital-a", audience=st.NOTICE_AUDIENCE_CHILD)
    request = rs.GetNoticeRequest(notice_id="hospital-a/first", version=1)
    found = running.registry.GetNotice(request, metadata=running.as_("app")).notice
    found.ClearField("attestation")
    assert found == make_notice("hospital-a/first", participant_id="hospital-a", audience=st.NOTICE_AUDIENCE_CHILD)


def test_the_table_counts_consents_under_each_version(running: Running, subject: pb.Subject, name: str) -> None:
    publish_notice(running, name, 2)
    opened = services(running)

    def counts() -> list[int]:
        with opened.table.read() as snapshot:
            return [snapshot.consents_under(snapshot.notice_number(name, version)) for version in (1, 2)]

    other = running.enrol(new_identifier())
    first, _ = grant(running, subject, name), grant(running, other, name)
    assert counts() == [2, 0]
    renew(running, subject, first, under(name, 2))
    assert counts() == [1, 1]
    change(running, EntryKind.REVOKE, subject, first)
    assert counts() == [1, 0]
    if "pipc-erases" not in running.tokens:
        add_authority(running)
    running.registry.EraseSubject(order(running, other), metadata=running.as_(AUTHORITY))
    assert counts() == [0, 0]
    with opened.table.read() as snapshot:
        numbers = {snapshot.notice_number(name, version).to_bytes(4) for version in (1, 2)}
    assert numbers.isdisjoint(rows_of(opened.table, "t"))


def test_22_2_a_consent_of_a_representative_rests_on_what_the_representative_was_shown(
    running: Running, subject: pb.Subject, name: str
) -> None:
    seq = put_authority(running, subject)
    shown = st.ServedStatement(
        notice_id=name, notice_version=1, language="ko", channel="counter", served_time_ms=CLOCK.wall_ms()
    )

    def give(authority: int, served: int) -> str:
        who = REPRESENTATIVE if authority else "app"
        shown.authority_seq = served
        stated = st.GrantStatement(consent=under(name), authority_seq=authority, attestation=CHECKED)
        request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=stated, served=shown)
        return running.consents.GrantConsent(request, metadata=running.as_(who)).consent_id

    assert refusal(lambda: give(seq, 0)) == "INVALID_CONSENT"
    assert refusal(lambda: give(0, seq)) == "INVALID_CONSENT"
    assert refusal(lambda: give(seq, seq + 1)) == "INVALID_REQUEST"
    assert all((give(seq, seq), give(0, 0)))


def test_22_2_3_a_notice_for_children_is_shown_to_the_child_and_carries_no_consent(
    running: Running, subject: pb.Subject, name: str
) -> None:
    child = f"{name}-child"
    publish_notice(running, child, audience=st.NOTICE_AUDIENCE_CHILD)
    seq = put_authority(running, subject)

    def give(notice: str, authority: int) -> str:
        stated = st.GrantStatement(
            consent=under(notice), authority_seq=authority, attestation=CHECKED if authority else None
        )
        request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=stated)
        who = REPRESENTATIVE if authority else "app"
        return running.consents.GrantConsent(request, metadata=running.as_(who)).consent_id

    shown = st.ServedStatement(
        notice_id=child, notice_version=1, language="ko", channel="counter", served_time_ms=CLOCK.wall_ms()
    )
    request = cs.RecordServedRequest(request_id=request_id(), subject=subject, attested=shown)
    running.consents.RecordServed(request, metadata=running.as_("app"))
    for authority in (seq, 0):  # who acts alone is 14 or older
        assert refusal(lambda authority=authority: give(child, authority)) == "INVALID_CONSENT"
        assert give(name, authority)


def test_an_id_of_another_notice_is_no_prefix_of_this_one(running: Running, subject: pb.Subject, name: str) -> None:
    """A campaign of ``name-x`` asks nobody again who has a consent under ``name``."""
    grant(running, subject, name)
    publish_notice(running, f"{name}-x")
    ask_again(running, f"{name}-x")
    assert running.check(question(subject)).valid_until_time_ms == 0
    register(running, "later", [st.PARTICIPANT_ROLE_HOLDER])  # the registry is made anew from the rows
    ask_again(running, name)
    assert running.check(question(subject)).valid_until_time_ms
