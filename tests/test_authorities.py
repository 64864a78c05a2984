"""AUTHORITY entries: who may act for a person, what a representative may do, and when its permits end (rule 8)."""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.authorities import (
    AGENT,
    CHECKED,
    PAPER,
    REPRESENTATIVE,
    add_representative,
    authority,
    end_authority,
    grant_under,
    put_authority,
)
from cases.daemons import Running, consent, make_running, question, request_id, serve
from cases.erasures import AUTHORITY, add_authority, order
from cases.services import Person, amend, change, event_of, listed, new_identifier, refusal, register, services
from cases.stored_rows import rows_of
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

PERMIT, DENY, NONE = pb.OUTCOME_PERMIT, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("authorities"), checkpoint_interval_ms=10)
    add_representative(made)
    add_representative(made, "other")
    yield from serve(made)


@pytest.fixture
def ward(running: Running) -> pb.Subject:
    return running.enrol(new_identifier())


def outcome(running: Running, subject: pb.Subject, **asked: Any) -> int:
    return running.check(question(subject, **asked)).outcome


def test_a_representative_gives_changes_and_withdraws(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward)
    given = grant_under(running, ward, seq)
    assert outcome(running, ward) == PERMIT
    (record,) = listed(running, ward)
    assert (record.authority_seq, record.consent_id) == (seq, given)
    under = {"authority_seq": seq, "attestation": CHECKED}
    acting: dict[str, Any] = {"who": REPRESENTATIVE}
    change(running, EntryKind.PAUSE, ward, given, attested=st.PauseStatement(**under), **acting)
    assert outcome(running, ward) == NONE
    change(running, EntryKind.RESUME, ward, given, attested=st.ResumeStatement(**under), **acting)
    statement = st.AmendStatement(
        consent=consent(categories=["CLIN.RX"]), authority_seq=seq, attestation=CHECKED
    )
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=ward, consent_id=given, based_on_version=1, attested=statement
    )
    running.consents.AmendConsent(request, metadata=running.as_(REPRESENTATIVE))
    assert (outcome(running, ward), outcome(running, ward, categories=["CLIN.RX"])) == (NONE, PERMIT)
    change(running, EntryKind.REVOKE, ward, given, attested=st.RevokeStatement(**under), **acting)
    assert outcome(running, ward, categories=["CLIN.RX"]) == NONE


def test_the_end_of_an_authority_ends_its_permits_and_leaves_its_denies(running: Running, ward: pb.Subject) -> None:
    seq, other = put_authority(running, ward), put_authority(running, ward)
    grant_under(running, ward, seq)
    grant_under(running, ward, seq, purposes=["HPAYMT"])
    grant_under(running, ward, other, purposes=["PATADMIN"])
    grant_under(running, ward, seq, effect=pb.EFFECT_DENY, purposes=["TRAIN"])
    running.grant(ward, purposes=["TRAIN", "HQUALIMP"])
    end_authority(running, ward, seq)
    purposes = ("TREAT", "HPAYMT", "PATADMIN", "TRAIN", "HQUALIMP")
    found = [outcome(running, ward, purpose=purpose) for purpose in purposes]
    assert found == [NONE, NONE, PERMIT, DENY, PERMIT]
    assert refusal(lambda: grant_under(running, ward, seq)) == "AUTHORITY_NOT_IN_FORCE"
    assert refusal(lambda: end_authority(running, ward, seq)) == "UNKNOWN_AUTHORITY"


def test_what_the_person_amended_does_not_end(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward)
    given = grant_under(running, ward, seq)
    amend(running, ward, given, 1)
    end_authority(running, ward, seq)
    assert outcome(running, ward) == PERMIT


def test_a_resume_brings_nothing_back_that_ended(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward)
    given = grant_under(running, ward, seq)
    change(running, EntryKind.PAUSE, ward, given)
    end_authority(running, ward, seq)
    change(running, EntryKind.RESUME, ward, given)
    assert outcome(running, ward) == NONE


def test_an_act_that_the_authority_does_not_cover_is_refused(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward, acts=[st.AUTHORITY_ACT_PAUSE])
    assert refusal(lambda: grant_under(running, ward, seq)) == "CALLER_NOT_ALLOWED"
    given = running.grant(ward)
    for kind, statement in (
        (EntryKind.PAUSE, st.PauseStatement(authority_seq=seq, attestation=CHECKED)),
        (EntryKind.RESUME, st.ResumeStatement(authority_seq=seq, attestation=CHECKED)),
    ):
        change(running, kind, ward, given, who=REPRESENTATIVE, attested=statement)
    revoke = st.RevokeStatement(authority_seq=seq, attestation=CHECKED)
    acting = lambda: change(running, EntryKind.REVOKE, ward, given, who=REPRESENTATIVE, attested=revoke)  # noqa: E731
    assert refusal(acting) == "CALLER_NOT_ALLOWED"


def test_nobody_else_acts_under_an_authority(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward)
    for who in ("app", "other"):
        assert refusal(lambda who=who: grant_under(running, ward, seq, who=who)) == "CALLER_NOT_ALLOWED"
    stranger = running.enrol(new_identifier())
    assert refusal(lambda: grant_under(running, stranger, seq)) == "UNKNOWN_AUTHORITY"
    for wrong in (1, 999, 2**64 - 1):
        assert refusal(lambda wrong=wrong: grant_under(running, ward, wrong)) == "UNKNOWN_AUTHORITY"


def test_a_person_who_signs_acts_under_no_authority(running: Running) -> None:
    person = Person(running)
    seq = put_authority(running, person.subject)
    message = st.GrantStatement(consent=consent(), authority_seq=seq)
    assert refusal(lambda: person.grant(message=message)) == "CALLER_NOT_ALLOWED"


def test_46_each_act_of_a_representative_states_how_it_was_checked_who_acts(
    running: Running, ward: pb.Subject
) -> None:
    seq = put_authority(running, ward)
    given = grant_under(running, ward, seq)
    for attestation in (None, st.Attestation(method="")):
        statement = st.GrantStatement(consent=consent(), authority_seq=seq, attestation=attestation)
        request = cs.GrantConsentRequest(request_id=request_id(), subject=ward, attested=statement)
        asking = lambda request=request: running.consents.GrantConsent(  # noqa: E731
            request, metadata=running.as_(REPRESENTATIVE)
        )
        assert refusal(asking) == "INVALID_REQUEST"
    for kind, message in (
        (EntryKind.PAUSE, st.PauseStatement(authority_seq=seq)),
        (EntryKind.REVOKE, st.RevokeStatement(authority_seq=seq)),
    ):
        changing = lambda kind=kind, message=message: change(  # noqa: E731
            running, kind, ward, given, who=REPRESENTATIVE, attested=message
        )
        assert refusal(changing) == "INVALID_REQUEST"


@pytest.mark.parametrize("checked_by", range(1, 8))
def test_17_2_1_a_minor_s_guardian_was_checked_in_one_of_seven_ways(
    running: Running, ward: pb.Subject, checked_by: int
) -> None:
    seq = put_authority(running, ward, birth_date="2020-01-01", verified_by=checked_by)
    request = cs.GetAuthorityRequest(subject=ward, authority_seq=seq)
    record = running.consents.GetAuthority(request, metadata=running.as_("app")).record
    assert record.statement.verified_by == checked_by
    for wrong in (0, 8):
        asking = lambda wrong=wrong: put_authority(  # noqa: E731
            running, ward, birth_date="2020-01-01", verified_by=wrong
        )
        assert refusal(asking) == "INVALID_REQUEST"


def test_45_1_1_from_14_to_19_both_act_and_the_parent_has_a_mandate(running: Running) -> None:
    person = Person(running)  # 16 years old
    assert refusal(lambda: put_authority(running, person.subject, capacity=AGENT, birth_date="2010-05-05")) == (
        "INVALID_REQUEST"
    )
    person.grant()
    mandate = put_authority(running, person.subject, capacity=AGENT)
    grant_under(running, person.subject, mandate, purposes=["HPAYMT"])
    assert [outcome(running, person.subject, purpose=one) for one in ("TREAT", "HPAYMT")] == [PERMIT, PERMIT]
    end_authority(running, person.subject, mandate)
    assert [outcome(running, person.subject, purpose=one) for one in ("TREAT", "HPAYMT")] == [PERMIT, NONE]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"participant_id": "app"}, "CALLER_NOT_ALLOWED"),
        ({"participant_id": "nobody"}, "UNKNOWN_PARTICIPANT"),
        ({"participant_id": ""}, "UNKNOWN_PARTICIPANT"),
        ({"capacity": 0}, "INVALID_REQUEST"),
        ({"capacity": 3}, "INVALID_REQUEST"),
        ({"reason": st.AUTHORITY_REASON_DECEASED}, "INVALID_REQUEST"),
        ({"reason": 0}, "INVALID_REQUEST"),
        ({"capacity": AGENT, "reason": st.AUTHORITY_REASON_INCAPACITATED}, "INVALID_REQUEST"),
        ({"acts": []}, "INVALID_REQUEST"),
        ({"acts": [1, 1]}, "INVALID_REQUEST"),
        ({"acts": [0]}, "INVALID_REQUEST"),
        ({"acts": [7]}, "INVALID_REQUEST"),
        ({"verified_by": 3}, "INVALID_REQUEST"),
        ({"birth_date": "2020-01-01", "verified_by": 0}, "INVALID_REQUEST"),
        ({"birth_date": "2020-01-01", "verified_by": 8}, "INVALID_REQUEST"),
        ({"birth_date": "2020-01-01", "reason": st.AUTHORITY_REASON_INCAPACITATED, "verified_by": 0},
         "INVALID_REQUEST"),
        ({"birth_date": ""}, "INVALID_REQUEST"),
        ({"birth_date": "2020-13-01"}, "INVALID_REQUEST"),
        ({"birth_date": "2020-01"}, "INVALID_REQUEST"),
        ({"birth_date": "2999-01-01"}, "INVALID_REQUEST"),
        ({"birth_date": "1950-01-01"}, "INVALID_REQUEST"),
        ({"evidence": []}, "INVALID_REQUEST"),
        ({"evidence": [PAPER] * 17}, "INVALID_REQUEST"),
        ({"evidence": [st.AuthorityEvidence(kind="paper", sha256=bytes(32))]}, "UNKNOWN_CODE"),
        ({"evidence": [st.AuthorityEvidence(kind="court-decision", sha256=bytes(31))]}, "INVALID_REQUEST"),
        ({"start_time_ms": -1}, "INVALID_REQUEST"),
        ({"end_time_ms": 1}, "INVALID_REQUEST"),
        ({"end_time_ms": 2**62}, "INVALID_REQUEST"),
        ({"start_time_ms": 2**41, "end_time_ms": 2**41}, "INVALID_REQUEST"),
        ({"ended": True}, "INVALID_REQUEST"),
    ],
)  # fmt: skip
def test_an_authority_that_says_what_it_may_not_is_refused(
    running: Running, ward: pb.Subject, changed: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: put_authority(running, ward, **changed)) == reason


def test_who_records_an_authority_acts_for_persons_or_is_a_public_authority(
    running: Running, ward: pb.Subject
) -> None:
    register(running, "court", [st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY])
    running.add_caller("court")
    seq = put_authority(running, ward, who="court")
    for who in ("operator", "clinic-b"):
        assert refusal(lambda who=who: put_authority(running, ward, who=who)) == "CALLER_NOT_ALLOWED"
        assert refusal(lambda who=who: end_authority(running, ward, seq, who=who)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: put_authority(running, ward, who=REPRESENTATIVE)) == "CALLER_NOT_ALLOWED"
    end_authority(running, ward, seq, who=REPRESENTATIVE)  # a representative may give it up


def test_a_person_gives_and_ends_a_power_of_attorney_with_their_own_key(running: Running) -> None:
    person = Person(running)

    def put(message: st.AuthorityStatement) -> int:
        asked = request_id()
        signed = person.sign(EntryKind.AUTHORITY, message, asked)
        request = cs.PutAuthorityRequest(request_id=asked, subject=person.subject, signed=signed)
        return running.consents.PutAuthority(request, metadata=running.as_("app")).authority_seq

    def end(seq: int) -> None:
        asked = request_id()
        signed = person.sign(EntryKind.AUTHORITY, st.AuthorityStatement(ended=True), asked, ref=seq)
        request = cs.EndAuthorityRequest(request_id=asked, subject=person.subject, authority_seq=seq, signed=signed)
        running.consents.EndAuthority(request, metadata=running.as_("app"))

    assert refusal(lambda: put(authority())) == "CALLER_NOT_ALLOWED"
    seq = put(authority(capacity=AGENT, evidence=[]))
    grant_under(running, person.subject, seq)
    assert outcome(running, person.subject) == PERMIT
    end(seq)
    assert outcome(running, person.subject) == NONE
    guardian = put_authority(running, person.subject)
    assert refusal(lambda: end(guardian)) == "CALLER_NOT_ALLOWED"


def test_authorities_are_listed_newest_first_and_each_shows_its_end(running: Running, ward: pb.Subject) -> None:
    first = put_authority(running, ward, birth_date="2020-02-29")
    second = put_authority(running, ward, participant_id="other", capacity=AGENT, end_time_ms=2**42)
    third = put_authority(running, ward)
    end_ms = event_time(running, end_authority(running, ward, third))
    running.grant(ward)
    records = pages(running, ward)
    assert [one.authority_seq for one in records] == [third, second, first]
    march_2034, march_2038 = 2_024_751_600_000 - 0, 2_150_982_000_000
    assert [(one.end_time_ms, one.research_end_time_ms) for one in records] == [
        (end_ms, end_ms), (2**42, 2**42), (march_2034, march_2038),
    ]  # fmt: skip
    assert [bool(one.ended_seq) for one in records] == [True, False, False]
    assert [one.authority_seq for one in pages(running, ward, participant_id="other")] == [second]
    request = cs.GetAuthorityRequest(subject=ward, authority_seq=first)
    answer = running.consents.GetAuthority(request, metadata=running.as_("app"))
    assert answer.record == records[2]
    assert answer.record.statement.birth_date == "2020-02-29"
    for wrong in (0, 1, first + 1000, 2**64 - 1):
        asked = cs.GetAuthorityRequest(subject=ward, authority_seq=wrong)
        asking = lambda asked=asked: running.consents.GetAuthority(asked, metadata=running.as_("app"))  # noqa: E731
        assert refusal(asking) == "NOT_FOUND"


def pages(running: Running, subject: pb.Subject, **more: Any) -> list[cs.AuthorityRecord]:
    found, token = [], ""
    while True:
        request = cs.ListAuthoritiesRequest(subject=subject, page_size=1, page_token=token, **more)
        answer = running.consents.ListAuthorities(request, metadata=running.as_("app"))
        found += answer.records
        token = answer.next_page_token
        if not token:
            return found


def event_time(running: Running, receipt: pb.Receipt) -> int:
    return event_of(receipt).time_ms


def test_an_erasure_deletes_the_rows_of_authorities(running: Running, ward: pb.Subject) -> None:
    put_authority(running, ward)
    kept = running.enrol(new_identifier())
    put_authority(running, kept)
    add_authority(running)
    opened = services(running)
    with opened.table.read() as snapshot:
        tags = [snapshot.tag_of(opened.vault.identifier_hash(one.scheme, one.value)) for one in (ward, kept)]
    running.registry.EraseSubject(order(running, ward), metadata=running.as_(AUTHORITY))
    tagged = {key[:32] for key in rows_of(opened.table, "a")}
    assert [tag in tagged for tag in tags] == [False, True]
