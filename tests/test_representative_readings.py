"""A representative with the act READ_HISTORY reads, and each reading is an entry (rule 8; Medical Act 21(3))."""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.authorities import AGENT, REPRESENTATIVE, add_representative, end_authority, grant_under, put_authority
from cases.daemons import Running, make_running, question, serve
from cases.services import new_identifier, refusal, services
from consentd.core.kinds import EntryKind
from consentd.ledger import reads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st

READING = [st.AUTHORITY_ACT_READ_HISTORY]
RELATIVES = ["SPOUSE", "ASCENDANT", "DESCENDANT", "SPOUSE_ASCENDANT", "SIBLING"]
REASONS = ["DECEASED", "UNCONSCIOUS", "MISSING", "INCAPACITATED"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("readings"), checkpoint_interval_ms=10)
    add_representative(made)
    add_representative(made, "other")
    yield from serve(made)


@pytest.fixture
def ward(running: Running) -> pb.Subject:
    return running.enrol(new_identifier())


def papers(*kinds: str) -> list[st.AuthorityEvidence]:
    return [st.AuthorityEvidence(kind=kind, sha256=bytes(32)) for kind in kinds]


def relative(running: Running, ward: pb.Subject, capacity: str, reason: str, *more: str, **changed: Any) -> int:
    return put_authority(
        running, ward, capacity=st.AuthorityCapacity.Value(f"AUTHORITY_CAPACITY_{capacity}"),
        reason=st.AuthorityReason.Value(f"AUTHORITY_REASON_{reason}"),
        evidence=papers("family-relation-certificate", *more), **{"acts": READING, **changed},
    )  # fmt: skip


def read(running: Running, ward: pb.Subject, seq: int, *, who: str = REPRESENTATIVE) -> None:
    """Read whatever may be read."""
    metadata = running.as_(who)
    running.consents.ListConsents(cs.ListConsentsRequest(subject=ward, authority_seq=seq), metadata=metadata)
    running.access.ListAccesses(ac.ListAccessesRequest(subject=ward, authority_seq=seq), metadata=metadata)
    list(running.ledger.GetHistory(ls.GetHistoryRequest(subject=ward, authority_seq=seq), metadata=metadata))


def calls(running: Running, ward: pb.Subject, seq: int, who: str = REPRESENTATIVE) -> list[Any]:
    metadata, access = running.as_(who), ac.GetAccessRequest(subject=ward, access_seq=2, authority_seq=seq)
    consent = cs.GetConsentRequest(subject=ward, consent_id="0" * 32, authority_seq=seq)
    history = ls.GetHistoryRequest(subject=ward, authority_seq=seq)
    return [
        lambda: running.consents.ListConsents(
            cs.ListConsentsRequest(subject=ward, authority_seq=seq), metadata=metadata
        ),
        lambda: running.consents.GetConsent(consent, metadata=metadata),
        lambda: running.access.ListAccesses(
            ac.ListAccessesRequest(subject=ward, authority_seq=seq), metadata=metadata
        ),
        lambda: running.access.GetAccess(access, metadata=metadata),
        lambda: list(running.ledger.GetHistory(history, metadata=metadata)),
    ]


def readings(running: Running, ward: pb.Subject) -> list[st.ReadStatement]:
    opened = services(running)
    with opened.table.read() as snapshot:
        tag = snapshot.tag_of(opened.vault.identifier_hash(ward.scheme, ward.value))
    assert tag is not None
    found, store = [], opened.ledger.store
    for seq in range(1, opened.ledger.head(tag)[0] + 1):
        entry = reads.read_entry(store, tag, seq)
        if entry.event.kind == EntryKind.READ:
            opening = reads.open_entry(opened.vault, entry)
            assert opening is not None
            found.append(st.ReadStatement.FromString(opening[1][1 + 32 + 64 + 16 + 8 :]))
    return found


def test_21_3_a_relative_reads_and_the_reading_is_an_entry(running: Running, ward: pb.Subject) -> None:
    seq = relative(running, ward, "SPOUSE", "DECEASED")
    for _ in range(2):
        read(running, ward, seq)
    (reading,) = readings(running, ward)
    assert (reading.reader, reading.authority_seq, reading.mandate_seq) == (REPRESENTATIVE, seq, 0)
    other = relative(running, ward, "DESCENDANT", "UNCONSCIOUS")
    read(running, ward, other)
    assert [one.authority_seq for one in readings(running, ward)] == [seq, other]
    end_authority(running, ward, other)
    for call in calls(running, ward, other):
        assert refusal(call) == "SUBJECT_NOT_FOUND"


def test_without_the_act_a_representative_reads_as_of_nobody(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward)  # who may consent, and not read
    reads_too = put_authority(running, ward, acts=[*READING, st.AUTHORITY_ACT_GRANT])
    later = put_authority(running, ward, acts=READING, start_time_ms=2**41)
    for wrong in (seq, later, 1, reads_too + 99, 2**64 - 1):
        for call in calls(running, ward, wrong):
            assert refusal(call) == "SUBJECT_NOT_FOUND"
    for call in calls(running, ward, reads_too, "other"):
        assert refusal(call) == "SUBJECT_NOT_FOUND"
    stranger = pb.Subject(scheme="mhid", value="nobody")
    for call in calls(running, stranger, reads_too):
        assert refusal(call) == "SUBJECT_NOT_FOUND"
    assert readings(running, ward) == []
    read(running, ward, reads_too)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("capacity", RELATIVES)
def test_21_3_3_relatives_may_only_read(running: Running, ward: pb.Subject, capacity: str, reason: str) -> None:
    alone = ("no-other-relative",) if capacity == "SIBLING" else ()
    seq = relative(running, ward, capacity, reason, *alone)
    read(running, ward, seq)
    for acts in ([], [st.AUTHORITY_ACT_GRANT], [*READING, st.AUTHORITY_ACT_REVOKE], [st.AUTHORITY_ACT_DISPUTE]):
        asking = lambda acts=acts: relative(running, ward, capacity, reason, *alone, acts=acts)  # noqa: E731
        assert refusal(asking) == "INVALID_REQUEST"


def test_21_3_a_brother_reads_where_no_other_relative_is(running: Running, ward: pb.Subject) -> None:
    assert refusal(lambda: relative(running, ward, "SIBLING", "MISSING")) == "INVALID_REQUEST"
    relative(running, ward, "SIBLING", "MISSING", "no-other-relative")


def test_21_3_1_a_relative_of_who_can_consent_has_their_consent(running: Running, ward: pb.Subject) -> None:
    assert refusal(lambda: relative(running, ward, "SPOUSE", "UNSPECIFIED")) == "INVALID_REQUEST"
    relative(running, ward, "SPOUSE", "UNSPECIFIED", "consent-of-person")
    assert refusal(lambda: relative(running, ward, "SPOUSE", "MINOR")) == "INVALID_REQUEST"


def test_21_2_1_a_protector_is_recorded_and_may_do_nothing(running: Running, ward: pb.Subject) -> None:
    protector = {"capacity": st.AUTHORITY_CAPACITY_PROTECTOR, "reason": st.AUTHORITY_REASON_UNCONSCIOUS}
    assert refusal(lambda: put_authority(running, ward, **protector, acts=READING)) == "INVALID_REQUEST"
    dead = {**protector, "reason": st.AUTHORITY_REASON_DECEASED}
    assert refusal(lambda: put_authority(running, ward, **dead, acts=[])) == "INVALID_REQUEST"
    seq = put_authority(running, ward, **protector, acts=[])
    for call in calls(running, ward, seq):
        assert refusal(call) == "SUBJECT_NOT_FOUND"


def test_127_a_power_of_attorney_ends_by_death_and_a_guardianship_does_not(running: Running, ward: pb.Subject) -> None:
    agent = put_authority(running, ward, capacity=AGENT, participant_id="other")
    guardian = put_authority(running, ward)
    grant_under(running, ward, agent, who="other")
    grant_under(running, ward, guardian, purposes=["HPAYMT"])
    permit, none = pb.OUTCOME_PERMIT, pb.OUTCOME_NO_CONSENT
    asked = [question(ward), question(ward, purpose="HPAYMT")]
    assert [running.check(one).outcome for one in asked] == [permit, permit]
    death = relative(running, ward, "DESCENDANT", "DECEASED")
    assert [running.check(one).outcome for one in asked] == [none, permit]
    assert refusal(lambda: grant_under(running, ward, agent, who="other")) == "AUTHORITY_NOT_IN_FORCE"
    request = cs.GetAuthorityRequest(subject=ward, authority_seq=agent)
    record = running.consents.GetAuthority(request, metadata=running.as_("app")).record
    assert record.ended_seq == death
    assert refusal(lambda: end_authority(running, ward, agent)) == "UNKNOWN_AUTHORITY"
    assert refusal(lambda: put_authority(running, ward, capacity=AGENT, participant_id="other")) == "WRONG_STATE"
    put_authority(running, ward, participant_id="other")
    end_authority(running, ward, death)  # it was recorded in error
    assert put_authority(running, ward, capacity=AGENT, participant_id="other")


def test_a_person_and_an_auditor_read_under_no_authority(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward, acts=READING)
    metadata = running.as_("clinic-b")
    asking = lambda: running.consents.ListConsents(  # noqa: E731
        cs.ListConsentsRequest(subject=ward, authority_seq=seq), metadata=metadata
    )
    assert refusal(asking) == "CALLER_NOT_ALLOWED"


def test_two_representatives_appoint_nobody_for_each_other(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward)
    asking = lambda: put_authority(running, ward, who=REPRESENTATIVE, participant_id="other")  # noqa: E731
    assert refusal(asking) == "CALLER_NOT_ALLOWED"
    end_authority(running, ward, seq)
    asking()


def test_readings_of_a_page_go_on_under_the_authority(running: Running, ward: pb.Subject) -> None:
    seq = put_authority(running, ward, acts=READING)
    for _ in range(2):
        running.grant(ward)
    request = cs.ListConsentsRequest(subject=ward, authority_seq=seq, page_size=1)
    page = running.consents.ListConsents(request, metadata=running.as_(REPRESENTATIVE))
    token = page.next_page_token
    for wrong in (0, seq):
        request = cs.ListConsentsRequest(subject=ward, authority_seq=wrong, page_size=1, page_token=token)
        asking = lambda request=request: running.consents.ListConsents(  # noqa: E731
            request, metadata=running.as_(REPRESENTATIVE)
        )
        if wrong:
            assert len(asking().records) == 1
        else:
            assert refusal(asking) == "INVALID_PAGE"
