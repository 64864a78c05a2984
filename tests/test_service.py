"""The registry and consents by their flows, and lists by their pages.

One daemon serves the module; each test has persons of its own. Behind the last test its ledger is verified.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, consent, question, reason_of, request_id, running_daemon
from cases.notices import make_notice
from cases.services import (
    FOREIGN_FIELD,
    accesses,
    add_key,
    amend,
    change,
    event_of,
    listed,
    new_identifier,
    participant,
    proof_of,
    publish_rules,
    record,
    refusal,
    register,
    retire_key,
    services,
)
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.policy import subject as subjects
from consentd.service import pages as service_pages
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client.consents import ALL_STATES

# -- registry ------------------------------------------------------------------------------------------------------


def test_a_participants_latest_statement_holds(running: Running) -> None:
    register(running, "lab-1", [st.PARTICIPANT_ROLE_HOLDER], type="31")
    register(running, "lab-1", [st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT], groups=["group/labs"])
    found = participant(running, "lab-1").participant
    assert (list(found.roles), list(found.groups), found.type) == ([1, 2], ["group/labs"], "")
    assert found.attestation.attested_by == "operator/main"


@pytest.mark.parametrize(
    "fields",
    [
        {"roles": [st.PARTICIPANT_ROLE_RELAY, st.PARTICIPANT_ROLE_HOLDER]},
        {"roles": []},
        {"roles": [0]},
        {"roles": [99]},
        {"roles": [1, 1]},
        {"rights": [99]},
        {"rights": [0]},
        {"groups": ["labs"]},
        {"groups": ["group/x", "group/x"]},
        {"name": {}},
        {"name": {"ko": "가" * 683}},
        {"name": {"ko": "연구소", "KO": "연구소"}},
        {"name": {"ko": " "}},
        {"name": {"": "Lab"}},
        {"name": {f"{first}{second}": "Lab" for first in "abcdef" for second in "abcdef"}},
        {"participant_id": "operator"},
        {"participant_id": "operator/main"},
        {"participant_id": ""},
        {"participant_id": "Lab"},
        {"participant_id": "lab\n"},
        {"participant_id": "a" * 64},
        {"participant_id": "연구소"},
        {"type": "x" * 20_000},
        {"type": "x" * 2_049},
    ],
)
def test_a_participant_that_is_not_in_order_is_refused(running: Running, fields: dict[str, Any]) -> None:
    asked = {"participant_id": "lab-2", "roles": [st.PARTICIPANT_ROLE_HOLDER], **fields}
    reason = refusal(lambda: register(running, asked.pop("participant_id"), asked.pop("roles"), **asked))
    assert reason in ("INVALID_REQUEST", "TOO_LARGE")


def test_only_the_operator_writes_the_registry(running: Running) -> None:
    for who in ("app", "pipc", "hospital-a"):
        assert refusal(lambda who=who: register(running, "lab-3", [1], who=who)) == "CALLER_NOT_ALLOWED"


def test_fields_of_a_later_version_are_not_recorded(running: Running, subject: pb.Subject) -> None:
    notice = make_notice("later")
    notice = st.NoticeStatement.FromString(notice.SerializeToString() + FOREIGN_FIELD)
    request = rs.PublishNoticeRequest(request_id=request_id(), attested=notice)
    assert refusal(lambda: running.registry.PublishNotice(request, metadata=running.as_("operator"))) == "UNKNOWN_FIELD"
    running.grant(subject)
    seq = running.authorize(question(subject), "clinic-b").access_seq
    outcome = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT).SerializeToString() + FOREIGN_FIELD
    later = st.OutcomeStatement.FromString(outcome)
    assert refusal(lambda: record(running, subject, seq, attested=later)) == "UNKNOWN_FIELD"


def test_keys_come_into_force_and_go(running: Running) -> None:
    pair = KeyPair(b"\x21" * 32)
    key = pair.public_key
    add_key(running, "clinic-b", pair)
    assert key in participant(running, "clinic-b").keys
    assert refusal(lambda: add_key(running, "er", pair)) == "ALREADY_EXISTS"
    assert refusal(lambda: retire_key(running, "er", key)) == "NOT_FOUND"
    retire_key(running, "clinic-b", key)
    assert key not in participant(running, "clinic-b").keys
    assert refusal(lambda: retire_key(running, "clinic-b", key)) == "NOT_FOUND"
    assert refusal(lambda: add_key(running, "clinic-b", pair)) == "ALREADY_EXISTS"
    assert refusal(lambda: add_key(running, "nobody", KeyPair(b"\x22" * 32))) == "NOT_FOUND"
    assert refusal(lambda: add_key(running, "clinic-b", b"short")) == "INVALID_REQUEST"


def test_no_participants_name_reaches_a_key_of_a_person_or_of_the_daemon(running: Running) -> None:
    pair, subject = KeyPair(b"\x23" * 32), pb.Subject(scheme="mhid", value="SYN-900001")
    person = pair.public_key
    enrol = rs.EnrolSubjectRequest(
        request_id=request_id(), subject=subject, subject_key=person, possession=proof_of(pair, subject)
    )
    running.registry.EnrolSubject(enrol, metadata=running.as_("app"))
    daemon = services(running).sequencer._author.key.public_key
    for key in (person, daemon):
        assert refusal(lambda key=key: retire_key(running, "", key)) == "NOT_FOUND"


def test_a_key_that_was_in_force_is_nobody_elses_later(running: Running) -> None:
    key, subject = KeyPair(b"\x24" * 32), pb.Subject(scheme="mhid", value="SYN-900002")
    add_key(running, "er", key)
    retire_key(running, "er", key.public_key)
    enrol = rs.EnrolSubjectRequest(
        request_id=request_id(), subject=subject, subject_key=key.public_key, possession=proof_of(key, subject)
    )
    assert refusal(lambda: running.registry.EnrolSubject(enrol, metadata=running.as_("app"))) == "ALREADY_EXISTS"


def test_notices_have_versions_and_consents_name_them(running: Running, subject: pb.Subject) -> None:
    def publish(version: int) -> Any:
        notice = make_notice("privacy", version)
        request = rs.PublishNoticeRequest(request_id=request_id(), attested=notice)
        return running.registry.PublishNotice(request, metadata=running.as_("operator"))

    def get(version: int, notice_id: str = "privacy") -> st.NoticeStatement:
        request = rs.GetNoticeRequest(notice_id=notice_id, version=version)
        return running.registry.GetNotice(request, metadata=running.as_("app")).notice

    publish(1)
    assert refusal(lambda: publish(1)) == refusal(lambda: publish(3)) == "VERSION_CONFLICT"
    publish(2)
    assert [get(version).texts["ko"].content_sha256[:1] for version in (1, 2, 0)] == [b"1", b"2", b"2"]
    for strange in ("", "privac", "privacy\0\0\0", "개인정보", "n" * 5_000):
        assert refusal(lambda strange=strange: get(0, strange)) == "NOT_FOUND"

    def grant(version: int) -> Any:
        message = consent()
        message.notice_id, message.notice_version = "privacy", version
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=message)
        )
        return running.consents.GrantConsent(request, metadata=running.as_("app"))

    assert grant(2).version == 1
    assert refusal(lambda: grant(3)) == refusal(lambda: grant(0)) == "UNKNOWN_NOTICE"


def test_a_vocabulary_only_grows(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        operator = running.as_("operator")
        old = running.registry.GetVocabulary(rs.GetVocabularyRequest(), metadata=operator).vocabulary

        def publish(**changed: Any) -> Any:
            message = st.VocabularyStatement()
            message.CopyFrom(old)
            message.ClearField("attestation")
            message.version = changed.get("version", old.version + 1)
            message.vocabulary_id = changed.get("vocabulary_id", old.vocabulary_id)
            if "codes" in changed:
                message.ClearField("codes")
                message.codes.extend(changed["codes"])
            request = rs.PublishVocabularyRequest(request_id=request_id(), attested=message)
            return running.registry.PublishVocabulary(request, metadata=operator)

        assert refusal(lambda: publish(version=old.version)) == "VERSION_CONFLICT"
        assert refusal(lambda: publish(vocabulary_id="other")) == "INVALID_REQUEST"
        assert refusal(lambda: publish(codes=old.codes[:-1])) == "INVALID_REQUEST"
        assert refusal(lambda: publish(codes=[*old.codes, st.Code(code="X")])) == "INVALID_REQUEST"
        unnamed = st.Code(kind=st.CODE_KIND_PURPOSE, code="X")
        assert refusal(lambda: publish(codes=[*old.codes, unnamed])) == "INVALID_REQUEST"
        unnamed.name["EN"] = "in another case"
        assert refusal(lambda: publish(codes=[*old.codes, unnamed])) == "INVALID_REQUEST"
        subject = running.enrol("SYN-000001")
        before = running.grant(subject)
        mood = st.Code(
            kind=st.CODE_KIND_CATEGORY,
            code="LIFE.MOOD",
            name={"ko": "기분"},
            parent="LIFE",
            implied=True,
            level="N",
        )
        assert refusal(lambda: running.grant(subject, categories=["LIFE.MOOD"])) == "UNKNOWN_CODE"
        publish(codes=[*old.codes, mood])
        running.grant(subject, categories=["LIFE.MOOD"])
        decision = running.check(question(subject, categories=["LIFE.MOOD"]))
        assert (decision.outcome, decision.vocabulary_version) == (pb.OUTCOME_PERMIT, old.version + 1)
        (reason,) = running.check(question(subject)).reasons
        assert reason.consent_id == before
        running.check_ledger()


def test_every_check_follows_the_latest_rules(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        asked = question(subject, categories=["CLIN.ALG"])
        assert running.check(asked).outcome == pb.OUTCOME_NO_CONSENT
        publish_rules(running, implicit_policy=pb.IMPLICIT_POLICY_ALL_NORMAL)
        assert running.check(asked).outcome == pb.OUTCOME_PERMIT
        publish_rules(running, statutory=[pb.Provision(effect=pb.EFFECT_DENY, categories=["CLIN"])])
        assert running.check(asked).reasons[0].code == pb.REASON_CODE_DENIED_BY_LAW
        assert refusal(lambda: publish_rules(running, version=7)) == "VERSION_CONFLICT"
        assert refusal(lambda: publish_rules(running, realm_id="other")) == "INVALID_REQUEST"
        assert refusal(lambda: publish_rules(running, combining=99)) == "INVALID_REQUEST"
        nested = pb.Provision(effect=pb.EFFECT_DENY, provisions=[pb.Provision()])
        assert refusal(lambda: publish_rules(running, statutory=[nested])) == "INVALID_CONSENT"
        unknown = pb.Provision(effect=pb.EFFECT_PERMIT, actors=["nobody"])
        assert refusal(lambda: publish_rules(running, statutory=[unknown])) == "UNKNOWN_PARTICIPANT"
        assert running.check(asked).outcome == pb.OUTCOME_DENY
        running.check_ledger()


def test_enrolling_twice_is_a_conflict_and_a_repeat_is_not(running: Running) -> None:
    key, subject = KeyPair(b"\x29" * 32), pb.Subject(scheme="mhid", value="SYN-900003")
    request = rs.EnrolSubjectRequest(
        request_id=request_id(), subject=subject, subject_key=key.public_key, possession=proof_of(key, subject)
    )
    first = running.registry.EnrolSubject(request, metadata=running.as_("app"))
    again = running.registry.EnrolSubject(request, metadata=running.as_("app"))
    assert (again.tag, again.receipt.leaf, again.receipt.replayed) == (first.tag, first.receipt.leaf, True)
    request.request_id = request_id()
    assert refusal(lambda: running.registry.EnrolSubject(request, metadata=running.as_("app"))) == "SUBJECT_ENROLLED"
    assert refusal(lambda: running.registry.EnrolSubject(request, metadata=running.as_("er"))) == "CALLER_NOT_ALLOWED"


@pytest.mark.parametrize("method", ["law", "break-glass"])
def test_no_enrolment_by_a_caller_looks_like_one_of_the_daemon(running: Running, method: str) -> None:
    subject = pb.Subject(scheme="mhid", value=new_identifier())
    request = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject, method=method)
    assert refusal(lambda: running.registry.EnrolSubject(request, metadata=running.as_("app"))) == "INVALID_REQUEST"


def test_one_identifier_enrolled_by_many_at_once_gets_one_tag(running: Running) -> None:
    def enrol(_: int) -> bytes | str:
        request = rs.EnrolSubjectRequest(
            request_id=request_id(), subject=pb.Subject(scheme="mhid", value="SYN-900004")
        )
        try:
            return running.registry.EnrolSubject(request, metadata=running.as_("app")).tag
        except grpc.RpcError as error:
            return reason_of(error)

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(enrol, range(8)))
    assert sorted(map(str, results))[:7] == ["SUBJECT_ENROLLED"] * 7


# -- consents ------------------------------------------------------------------------------------------------------


def test_a_consents_life(running: Running, subject: pb.Subject) -> None:
    asked = question(subject)
    consent_id = running.grant(subject)
    assert running.check(asked).outcome == pb.OUTCOME_PERMIT
    change(running, EntryKind.PAUSE, subject, consent_id)
    assert running.check(asked).outcome == pb.OUTCOME_NO_CONSENT
    (record,) = listed(running, subject)
    assert (record.state, record.version, record.lineage_seq) == (cs.CONSENT_STATE_PAUSED, 1, 2)
    assert refusal(lambda: change(running, EntryKind.PAUSE, subject, consent_id)) == "WRONG_STATE"
    change(running, EntryKind.RESUME, subject, consent_id)
    assert running.check(asked).outcome == pb.OUTCOME_PERMIT
    amended = amend(running, subject, consent_id, 1, categories=["CLIN.RX"])
    assert (amended.version, event_of(amended.receipt).ref) == (2, 2)
    assert running.check(asked).outcome == pb.OUTCOME_NO_CONSENT
    assert refusal(lambda: amend(running, subject, consent_id, 1)) == "VERSION_CONFLICT"
    assert amend(running, subject, consent_id, 2).version == 3
    assert running.check(asked).reasons[0].version == 3
    note = st.RevokeStatement(note="moved away")
    revoked = event_of(change(running, EntryKind.REVOKE, subject, consent_id, attested=note))
    assert (revoked.kind, revoked.ref) == (EntryKind.REVOKE, 6)
    assert running.check(asked).outcome == pb.OUTCOME_NO_CONSENT
    for kind in (EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE):
        assert refusal(lambda kind=kind: change(running, kind, subject, consent_id)) == "CONSENT_NOT_FOUND"
    assert refusal(lambda: amend(running, subject, consent_id, 3)) == "CONSENT_NOT_FOUND"
    assert listed(running, subject) == []
    (gone,) = listed(running, subject, states=ALL_STATES)
    get = cs.GetConsentRequest(subject=subject, consent_id=consent_id)
    assert running.consents.GetConsent(get, metadata=running.as_("app")).record == gone
    assert (gone.state, gone.version, gone.seq) == (cs.CONSENT_STATE_REVOKED, 3, 6)
    assert gone.grant_time_ms <= gone.change_time_ms


def test_a_consent_of_another_person_is_not_found(running: Running, subject: pb.Subject) -> None:
    other = running.enrol(new_identifier())
    consent_id = running.grant(other)
    assert refusal(lambda: change(running, EntryKind.REVOKE, subject, consent_id)) == "CONSENT_NOT_FOUND"
    for strange in ("", consent_id.upper(), consent_id + "00", f" {consent_id}", "é" * 32):
        assert refusal(lambda strange=strange: change(running, EntryKind.REVOKE, other, strange)) == "CONSENT_NOT_FOUND"


def test_a_transfer_request_that_leaves_items_out_is_refused_as_data(running: Running, subject: pb.Subject) -> None:
    request = cs.GrantConsentRequest(
        request_id=request_id(),
        subject=subject,
        attested=st.GrantStatement(consent=consent(kind=pb.CONSENT_KIND_TRANSFER_REQUEST, holders=[])),
    )
    answer = running.consents.GrantConsent(request, metadata=running.as_("app"))
    assert event_of(answer.receipt).kind == EntryKind.REFUSAL
    assert (answer.consent_id, answer.version) == ("", 0)
    assert answer.refused.reason == "R05"
    assert list(answer.refused.missing) == ["holder", "recurrence", "end", "retention", "served"]
    again = running.consents.GrantConsent(request, metadata=running.as_("app"))
    assert (again.refused, again.receipt.replayed) == (answer.refused, True)
    assert accesses(running, subject) == []
    assert listed(running, subject, states=ALL_STATES) == []


def test_a_consent_too_many_leaves_nothing_behind(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real limit is 65,535 rows. What the table could not apply must be refused before it is appended: an entry
    # that the table never takes would keep the daemon from opening.
    real = subjects.encode_subject

    def at_most_two(lineages: Any) -> bytes | None:
        lineages = list(lineages)
        if len(lineages) > 2:
            raise InvalidError("subject has too many consents", "TOO_LARGE")
        return real(lineages)

    for _ in range(2):
        running.grant(subject)
    size = services(running).ledger.state.size
    with monkeypatch.context() as patch:
        patch.setattr(subjects, "encode_subject", at_most_two)
        assert refusal(lambda: running.grant(subject)) == "TOO_LARGE"
    assert len(listed(running, subject)) == 2
    assert running.authorize(question(subject)).access_seq == 4
    assert services(running).ledger.state.size > size


def _paused(method: str) -> st.PauseStatement:
    return st.PauseStatement(attestation=st.Attestation(method=method))


def test_each_text_of_a_statement_has_a_limit(running: Running) -> None:
    subject = running.enrol(new_identifier())
    consent_id = running.grant(subject)
    most = "가" * 682  # 2,046 bytes
    change(running, EntryKind.PAUSE, subject, running.grant(subject), attested=_paused(most))
    seq = running.authorize(question(subject), "clinic-b").access_seq
    sent = st.TRANSFER_STATUS_SENT
    record(running, subject, seq, attested=st.OutcomeStatement(status=sent, note=most))
    long = most + "가"
    enrol = rs.EnrolSubjectRequest(
        request_id=request_id(), subject=pb.Subject(scheme="mhid", value=new_identifier()), method=long
    )
    given = consent()
    given.source = long
    grant = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=given))
    amended = cs.AmendConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id,
        attested=st.AmendStatement(consent=given), based_on_version=1
    )
    calls: list[Callable[[], Any]] = [
        lambda: running.consents.GrantConsent(grant, metadata=running.as_("app")),
        lambda: running.consents.AmendConsent(amended, metadata=running.as_("app")),
        lambda: change(running, EntryKind.PAUSE, subject, consent_id, attested=_paused(long)),
        lambda: change(running, EntryKind.REVOKE, subject, consent_id, attested=st.RevokeStatement(note=long)),
        lambda: record(running, subject, seq, attested=st.OutcomeStatement(status=sent, note=long)),
        lambda: running.registry.EnrolSubject(enrol, metadata=running.as_("app")),
    ]
    assert [refusal(call) for call in calls] == ["TOO_LARGE"] * len(calls)


def test_a_permit_too_many_is_refused_and_a_deny_is_recorded(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "MAX_ROWS", 2)
    running.grant(subject)
    consent_id = running.grant(subject)
    assert refusal(lambda: running.grant(subject)) == "LIMIT_REACHED"
    other = {"effect": pb.EFFECT_DENY, "kind": pb.CONSENT_KIND_OBJECTION, "purposes": ["HRESCH"]}
    denies = [running.grant(subject, **other) for _ in range(2)]
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    denies.append(running.grant(subject, **other))
    answer = running.authorize(question(subject))
    assert (answer.decision.outcome, [reason.consent_id for reason in answer.decision.reasons]) == (
        pb.OUTCOME_DENY, [""],
    )  # fmt: skip
    assert amend(running, subject, consent_id, 1).version == 2
    change(running, EntryKind.REVOKE, subject, denies[0])
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    running.check_ledger()


def test_a_consent_over_the_limit_never_reaches_the_sequencer(running: Running, subject: pb.Subject) -> None:
    huge = consent()
    for _ in range(10_000):
        huge.root.provisions.add()
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=huge))
    assert refusal(lambda: running.consents.GrantConsent(request, metadata=running.as_("app"))) == "TOO_LARGE"
    request.signed.payload = st.GrantStatement(consent=huge).SerializeToString()
    assert refusal(lambda: running.consents.GrantConsent(request, metadata=running.as_("app"))) == "TOO_LARGE"


# -- pages ---------------------------------------------------------------------------------------------------------

Listing = Callable[[Running, pb.Subject, str], tuple[Any, list[Any]]]
"""Asks for the page of a list that a token names; returns the answer and what names each item."""


def pages(listing: Listing, running: Running, subject: pb.Subject) -> Iterator[list[Any]]:
    """Yield the items of each page; ask for a page when the one before it was used."""
    token = ""
    while True:
        answer, items = listing(running, subject, token)
        yield items
        token = answer.next_page_token
        if not token:
            return


def list_consents(running: Running, subject: pb.Subject, token: str) -> tuple[Any, list[Any]]:
    request = cs.ListConsentsRequest(subject=subject, states=ALL_STATES, page_size=2, page_token=token)
    page = running.consents.ListConsents(request, metadata=running.as_("app"))
    return page, [one.lineage_seq for one in page.records]


def list_accesses(running: Running, subject: pb.Subject, token: str) -> tuple[Any, list[Any]]:
    request = ac.ListAccessesRequest(subject=subject, page_size=2, page_token=token)
    page = running.access.ListAccesses(request, metadata=running.as_("app"))
    return page, [one.seq for one in page.accesses]


def list_participants(running: Running, subject: pb.Subject, token: str) -> tuple[Any, list[Any]]:
    request = rs.ListParticipantsRequest(page_size=2, page_token=token)
    page = running.registry.ListParticipants(request, metadata=running.as_("app"))
    return page, [one.participant_id for one in page.participants]


def list_leaves(running: Running, subject: pb.Subject, token: str) -> tuple[Any, list[Any]]:
    request = ls.ListLeavesRequest(page_size=20, page_token=token)
    page = running.ledger.ListLeaves(request, metadata=running.as_("pipc"))
    return page, list(range(page.first_index, page.first_index + len(page.leaves)))


def list_entries(running: Running, subject: pb.Subject, token: str) -> tuple[Any, list[Any]]:
    request = ls.ListEntriesRequest(page_size=20, page_token=token, kinds=[st.ENTRY_KIND_PARTICIPANT])
    page = running.ledger.ListEntries(request, metadata=running.as_("pipc"))
    return page, [one.index for one in page.entries]


@pytest.mark.parametrize("listing", [list_consents, list_accesses, list_participants, list_leaves, list_entries])
def test_pages_cover_everything_once_while_writes_go_on(tmp_path: Path, listing: Listing) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        subject = running.enrol("SYN-000001")
        consents = [running.grant(subject) for _ in range(5)]
        for _ in range(5):
            running.authorize(question(subject))
        running.wait_published()
        wanted = [item for page in pages(listing, running, subject) for item in page]  # without writes
        everything: list[Any] = []
        number = 0
        for number, page in enumerate(pages(listing, running, subject)):
            everything += page
            running.grant(subject)
            running.authorize(question(subject))
            if consents:
                change(running, EntryKind.REVOKE, subject, consents.pop())
            register(running, f"late-{number}", [st.PARTICIPANT_ROLE_HOLDER])
            running.wait_published()
        assert number
        assert everything == wanted
        assert len(set(everything)) == len(everything)
        running.check_ledger()


@pytest.mark.parametrize("listing", [list_consents, list_accesses, list_participants])
def test_a_page_ends_where_it_gets_large(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch, listing: Listing
) -> None:
    for _ in range(3):
        running.grant(subject)
        running.authorize(question(subject))
    wanted = [item for page in pages(listing, running, subject) for item in page]
    monkeypatch.setattr(service_pages, "PAGE_BYTES", 10)  # less than any item has
    assert list(pages(listing, running, subject)) == [[item] for item in wanted]


def test_a_page_token_is_for_one_list_filter_and_caller(running: Running, subject: pb.Subject) -> None:
    for _ in range(2):
        running.grant(subject)
        running.authorize(question(subject))
    register(running, "app-2", [st.PARTICIPANT_ROLE_RELAY], rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS])
    running.add_caller("app-2")
    second, app = running.as_("app-2"), running.as_("app")

    def consents(token: str = "", who: Any = app, **more: Any) -> str:
        request = cs.ListConsentsRequest(**{"subject": subject, "page_size": 1, "page_token": token, **more})
        return running.consents.ListConsents(request, metadata=who).next_page_token

    def used(token: str = "") -> str:
        request = ac.ListAccessesRequest(subject=subject, page_size=1, page_token=token)
        return running.access.ListAccesses(request, metadata=app).next_page_token

    token, other = consents(), used()
    assert consents(token) == ""
    other_subject = running.enrol(new_identifier())
    wrong: list[Callable[[], Any]] = [
        lambda: consents(token, second),
        lambda: consents(token, states=ALL_STATES),
        lambda: consents(token, subject=other_subject),
        lambda: consents(other),
        lambda: used(token),
        lambda: consents(token[:-4]),
        lambda: consents("B" + token[1:]),
        lambda: consents("한글"),
        lambda: consents("x" * 10_000),
        lambda: running.ledger.ListLeaves(
            ls.ListLeavesRequest(start_index=1, page_token=token), metadata=running.as_("pipc")
        ),
    ]
    for call in wrong:
        assert refusal(call) == "INVALID_PAGE"


# -- operators -----------------------------------------------------------------------------------------------------


def test_each_operator_has_an_id_that_its_entries_name(running: Running) -> None:
    running.add_caller("operator/night")
    register(running, "lab-7", [st.PARTICIPANT_ROLE_HOLDER], who="operator/night")
    assert participant(running, "lab-7").participant.attestation.attested_by == "operator/night"
    register(running, "lab-7", [st.PARTICIPANT_ROLE_HOLDER])
    assert participant(running, "lab-7").participant.attestation.attested_by == "operator/main"


def test_two_operators_do_not_share_their_request_ids(running: Running) -> None:
    running.add_caller("operator/night")
    made = st.ParticipantStatement(
        participant_id="lab-8", name={"ko": "기관"}, roles=[st.PARTICIPANT_ROLE_HOLDER], active=True
    )
    request = rs.RegisterParticipantRequest(request_id=request_id(), attested=made)
    first, second = (
        running.registry.RegisterParticipant(request, metadata=running.as_(who)).receipt
        for who in ("operator", "operator/night")
    )
    assert (first.replayed, second.replayed) == (False, False)


@pytest.mark.parametrize("name", ["*", "", "Observation/1 ", "Observation/1/_history/2", "observation/1"])
def test_no_other_name_of_a_resource_evades_a_deny(running: Running, subject: pb.Subject, name: str) -> None:
    running.grant(subject)
    running.grant(subject, effect=pb.EFFECT_DENY, resources=["Observation/1"])
    asked = question(subject, resources=pb.CodeSet(values=["Observation/1"]))
    assert running.check(asked).outcome == pb.OUTCOME_DENY
    asked.resources.values[:] = ["Observation/2", name]
    assert refusal(lambda: running.check(asked)) == "INVALID_REQUEST"
    assert refusal(lambda: running.authorize(asked, "clinic-b")) == "INVALID_REQUEST"


@pytest.mark.parametrize("name", ["any", "none", "subject", "operator"])
def test_no_participant_has_an_id_that_people_read_otherwise(running: Running, name: str) -> None:
    made = st.ParticipantStatement(
        participant_id=name, name={"en": name}, roles=[st.PARTICIPANT_ROLE_RECIPIENT], active=True
    )
    request = rs.RegisterParticipantRequest(request_id=request_id(), attested=made)
    assert refusal(lambda: running.registry.RegisterParticipant(request, metadata=running.as_("operator")))
