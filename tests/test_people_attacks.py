"""Hostile callers of the calls about representatives, notices, recurrence, and lists over many persons."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cases.authorities import authority, end_authority, grant_under, put_authority
from cases.daemons import ORIGIN, Running, consent, make_running, question, request_id, serve, sign_statement
from cases.notices import make_notice, publish_notice
from cases.services import (
    add_key,
    change,
    event_of,
    new_identifier,
    new_number,
    now_ms,
    participant,
    refusal,
    register,
    services,
)
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.possession import prove_possession, representative_owner
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

HOUR_MS = 3_600_000
LAB = KeyPair(b"\x61" * 32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with a lab that has a key, and a stranger, which no consent names."""
    made = make_running(tmp_path_factory.mktemp("attacks"), checkpoint_interval_ms=10)
    for name, group in (("lab", "group/labs"), ("stranger", "group/strangers")):
        register(
            made, name, [st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT], groups=[group],
            rights=[st.PARTICIPANT_RIGHT_SEE_REASONS],
        )  # fmt: skip
        made.add_caller(name)
    add_key(made, "lab", LAB)
    yield from serve(made)


def mother(running: Running, subject: pb.Subject, key: KeyPair, **changed: Any) -> tuple[int, bytes]:
    """Put an authority with a pinned key; return its seq, and the person's tag."""
    owner = representative_owner(subject.scheme, subject.value)
    request = cs.PutAuthorityRequest(
        request_id=request_id(), subject=subject, attested=authority(participant_id="", key=key.public_key, **changed),
        possession=prove_possession(key, origin=ORIGIN, owner=owner),
    )  # fmt: skip
    answer = running.consents.PutAuthority(request, metadata=running.as_("app"))
    return answer.authority_seq, event_of(answer.receipt).tag


def grant_signed(running: Running, subject: pb.Subject, tag: bytes, seq: int, key: KeyPair, **root: Any) -> str:
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject)
    message = st.GrantStatement(consent=consent(**root), authority_seq=seq)
    request.signed.CopyFrom(sign_statement(
        key, message, kind=EntryKind.GRANT, tag=tag, request=request.request_id, time_ms=now_ms(running)
    ))  # fmt: skip
    return running.consents.GrantConsent(request, metadata=running.as_("app")).consent_id


def new_key() -> KeyPair:
    return KeyPair(new_number().to_bytes(32))


# -- representatives ------------------------------------------------------------------------------------------------


def test_the_key_of_anothers_authority_signs_nothing(running: Running) -> None:
    (one, two), (key, other) = [running.enrol(new_identifier()) for _ in range(2)], (new_key(), new_key())
    seq, tag = mother(running, one, key)
    second, tag_of_two = mother(running, two, other)
    for signer, at, named in ((other, seq, one), (other, second, one), (key, seq, two), (key, 0, one), (key, 99, one)):
        its_tag = tag if named is one else tag_of_two
        assert refusal(lambda a=(named, its_tag, at, signer): grant_signed(running, *a)) in (
            "KEY_NOT_IN_FORCE", "UNKNOWN_AUTHORITY", "CALLER_NOT_ALLOWED"
        )  # fmt: skip
    # The same key is pinned neither again, nor for another person, nor as a person's or participant's own.
    for subject in (one, two):
        assert refusal(lambda subject=subject: mother(running, subject, key)) == "ALREADY_EXISTS"
    assert refusal(lambda: add_key(running, "stranger", key)) == "ALREADY_EXISTS"
    grant_signed(running, one, tag, seq, key)
    end_authority(running, one, seq)
    assert refusal(lambda: grant_signed(running, one, tag, seq, key)) in ("KEY_NOT_IN_FORCE", "AUTHORITY_NOT_IN_FORCE")
    assert refusal(lambda: mother(running, one, key)) == "ALREADY_EXISTS"
    assert running.check(question(one)).outcome == pb.OUTCOME_NO_CONSENT


def test_who_does_not_represent_attests_under_no_authority(running: Running) -> None:
    subject, other = running.enrol(new_identifier()), running.enrol(new_identifier())
    seq = put_authority(running, subject, participant_id="stranger")
    for who in ("app", "clinic-b", "hospital-a", "stranger", "operator", "pipc", "lab"):
        assert refusal(lambda who=who: grant_under(running, subject, seq, who=who)) == "CALLER_NOT_ALLOWED"
        reason = refusal(lambda who=who: grant_under(running, other, seq, who=who))
        assert reason in ("CALLER_NOT_ALLOWED", "UNKNOWN_AUTHORITY")
        if who != "app":
            assert refusal(lambda who=who: put_authority(running, subject, who=who, participant_id=who)) != ""
            if who != "operator":
                assert refusal(lambda who=who: end_authority(running, subject, seq, who=who)) == "CALLER_NOT_ALLOWED"


# -- statements that lie about who makes them -----------------------------------------------------------------------


def test_a_signed_statement_names_no_attester(running: Running) -> None:
    lie = st.Attestation(attested_by="operator/main")
    record = participant(running, "lab").participant
    record.attestation.CopyFrom(lie)
    notice = make_notice("lab/lie", participant_id="lab", attestation=lie)
    key = st.KeyStatement(key=new_key().public_key, attestation=lie)

    def sign(request: Any, kind: EntryKind, message: Any, chain: str) -> Any:
        request.signed.CopyFrom(sign_statement(
            LAB, message, kind=kind, tag=codec.public_tag(chain), request=request.request_id, time_ms=now_ms(running)
        ))  # fmt: skip
        return request

    me = {"metadata": running.as_("lab")}
    calls: list[tuple[Callable[..., Any], Any]] = [
        (running.registry.RegisterParticipant, sign(
            rs.RegisterParticipantRequest(request_id=request_id()), EntryKind.PARTICIPANT, record, "participant/lab")),
        (running.registry.PublishNotice, sign(
            rs.PublishNoticeRequest(request_id=request_id()), EntryKind.NOTICE, notice, "notice/lab/lie")),
        (running.registry.AddKey, sign(
            rs.AddKeyRequest(request_id=request_id(), participant_id="lab"), EntryKind.KEY, key, "participant/lab")),
    ]  # fmt: skip
    for call, request in calls:
        assert refusal(lambda call=call, request=request: call(request, **me)) == "INVALID_REQUEST"
    attested = rs.PublishNoticeRequest(request_id=request_id(), attested=make_notice("mine", attestation=lie))
    assert refusal(lambda: running.registry.PublishNotice(attested, metadata=running.as_("operator"))) != ""


# -- lists over many persons ----------------------------------------------------------------------------------------


def lists(running: Running, notice: str) -> list[tuple[str, Callable[..., Any], Any]]:
    late = 4_100_000_000_000
    return [
        ("reconsents", running.consents.ListReconsents, cs.ListReconsentsRequest(notice_id=notice, page_size=1)),
        ("consents", running.consents.ListExpiring, cs.ListExpiringRequest(end_time_ms=late, page_size=1)),
        ("transfers", running.access.ListDueTransfers, ac.ListDueTransfersRequest(by_time_ms=late, page_size=1)),
    ]  # fmt: skip


def test_a_stranger_lists_nobody_and_no_token_is_anothers(running: Running) -> None:
    publish_notice(running, "asked")
    for _ in range(3):
        subject = running.enrol(new_identifier())
        given = consent(holders=["lab"], period=pb.Period(end_time_ms=4_000_000_000_000))
        given.recurrence, given.notice_id, given.notice_version = "P1M", "asked", 1
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=given)
        )
        running.consents.GrantConsent(request, metadata=running.as_("app"))
    publish_notice(running, "asked", 2, reconsent_by_time_ms=now_ms(running) + HOUR_MS)
    tokens = {}
    for field, call, request in lists(running, "asked"):
        found = call(request, metadata=running.as_("lab"))
        assert len(getattr(found, field)) == 1
        tokens[field] = found.next_page_token
        answer = call(request, metadata=running.as_("stranger"))
        assert (len(getattr(answer, field)), answer.next_page_token) == (0, "")
    assert all(tokens.values())
    for field, call, request in lists(running, "asked"):
        for token in tokens.values():
            request.page_token = token
            if token != tokens[field]:
                assert refusal(lambda c=call, r=request: c(r, metadata=running.as_("lab"))) == "INVALID_PAGE"
            assert refusal(lambda c=call, r=request: c(r, metadata=running.as_("stranger"))) == "INVALID_PAGE"
        request.page_token = tokens[field][:-4] + "AAA="
        assert refusal(lambda c=call, r=request: c(r, metadata=running.as_("lab"))) == "INVALID_PAGE"
    counting, due = rs.GetCampaignRequest(notice_id="asked"), rs.ListDutiesRequest()
    for who in ("stranger", "lab", "clinic-b", "hospital-a"):
        mine = {"metadata": running.as_(who)}
        reason = refusal(lambda mine=mine: running.registry.GetCampaign(counting, **mine))
        assert reason in ("NOT_FOUND", "CALLER_NOT_ALLOWED")
        assert refusal(lambda mine=mine: running.registry.ListDuties(due, **mine)) == "CALLER_NOT_ALLOWED"


# -- recurrence -----------------------------------------------------------------------------------------------------


def recurring(running: Running, **root: Any) -> tuple[pb.Subject, str]:
    subject, given = running.enrol(new_identifier()), consent(**root)
    given.recurrence = "P1M"
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=given)
    )
    return subject, running.consents.GrantConsent(request, metadata=running.as_("app")).consent_id


def test_one_batch_uses_a_consent_up_once(running: Running) -> None:
    subject, _ = recurring(running)
    asked = question(subject, action="collect", categories=["CLIN.DX"])
    ids = [request_id(), request_id(), request_id()]
    batch = ac.BatchAuthorizeAccessesRequest(
        requests=[ac.AuthorizeAccessRequest(request_id=one, question=asked) for one in (*ids, ids[0])]
    )
    found = running.access.BatchAuthorizeAccesses(batch, metadata=running.as_("clinic-b")).results
    outcomes = [one.response.decision.outcome for one in found]
    assert [one == pb.OUTCOME_PERMIT for one in outcomes].count(True) <= 2  # the last repeats the first
    assert len({one.response.access_seq for one in found if one.response.access_seq}) == 1
    whole = question(subject, action="collect", categories=["CLIN.DX", "CLIN.RX"])
    partial = running.authorize(whole, "clinic-b")
    assert (partial.decision.outcome, list(partial.decision.denied)) == (pb.OUTCOME_PARTIAL, ["CLIN.DX"])
    assert running.authorize(whole, "clinic-b").decision.outcome not in (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL)


def test_neither_a_pause_nor_an_amendment_gives_a_transfer_back(running: Running) -> None:
    subject, consent_id = recurring(running)
    asked = question(subject, action="collect", categories=["CLIN.DX"])
    assert running.authorize(asked, "clinic-b").decision.outcome == pb.OUTCOME_PERMIT
    change(running, EntryKind.PAUSE, subject, consent_id)
    change(running, EntryKind.RESUME, subject, consent_id)
    assert running.authorize(asked, "clinic-b").decision.outcome == pb.OUTCOME_DENY
    given = consent()
    given.recurrence = "P1M"
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id, based_on_version=1,
        attested=st.AmendStatement(consent=given),
    )  # fmt: skip
    running.consents.AmendConsent(request, metadata=running.as_("app"))
    assert running.authorize(asked, "clinic-b").decision.outcome == pb.OUTCOME_DENY


def test_who_receives_does_not_say_that_nothing_was_sent(running: Running) -> None:
    """Else it says so after each transfer, and gets a consent's data as often as it likes."""
    subject, _ = recurring(running)
    asked = question(subject, action="collect", categories=["CLIN.DX"])
    seq = running.authorize(asked, "clinic-b").access_seq
    failed = st.OutcomeStatement(status=st.TRANSFER_STATUS_FAILED)

    def report(who: str) -> Any:
        request = ac.RecordAccessRequest(request_id=request_id(), subject=subject, access_seq=seq, attested=failed)
        return running.access.RecordAccess(request, metadata=running.as_(who))

    for who, reason in (("stranger", "NOT_FOUND"), ("clinic-b", "CALLER_NOT_ALLOWED")):
        assert refusal(lambda who=who: report(who)) == reason
    assert running.authorize(asked, "clinic-b").decision.outcome == pb.OUTCOME_DENY
    report("hospital-a")
    assert running.authorize(asked, "clinic-b").decision.outcome == pb.OUTCOME_PERMIT
    assert services(running).ledger.state.size
