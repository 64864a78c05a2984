"""SERVED entries: a notice was shown to a person; who may record it, and which consents rest on it."""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, consent, make_running, question, request_id, serve, sign_statement
from cases.notices import make_notice, text_hash
from cases.services import (
    FOREIGN_FIELD,
    Person,
    add_app,
    add_key,
    event_of,
    listed,
    new_identifier,
    now_ms,
    publish_rules,
    refusal,
    register,
    services,
)
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.ledger import reads
from consentd.ledger.retention import OpenedEntry, retained_seqs
from consentd.policy.model import OPEN_END_MS
from consentd.statements import payloads
from consentd.statements.values import StatedVersion
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, StatementSigner

CLINIC_KEY, LEFT_KEY = KeyPair(b"\x61" * 32), KeyPair(b"\x62" * 32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10)
    operator = {"metadata": made.as_("operator")}
    register(made, "left", [st.PARTICIPANT_ROLE_RECIPIENT])
    for owner, key in (("clinic-b", CLINIC_KEY), ("left", LEFT_KEY)):
        add_key(made, owner, key)
    register(made, "left", [st.PARTICIPANT_ROLE_RECIPIENT], active=False)
    for version in (1, 2):
        notice = make_notice("privacy", version)
        made.registry.PublishNotice(rs.PublishNoticeRequest(request_id=request_id(), attested=notice), **operator)
    add_app(made)
    yield from serve(made)


def shown(running: Running, **changed: Any) -> st.ServedStatement:
    """Return the statement that version 1 of the notice was shown in Korean in an app, changed by *changed*."""
    fields: dict[str, Any] = {
        "notice_id": "privacy", "notice_version": 1, "language": "ko", "channel": "app",
        "served_time_ms": now_ms(running),
    }  # fmt: skip
    return st.ServedStatement(**{**fields, **changed})


def named(version: int = 1, notice_id: str = "privacy", **root: Any) -> pb.Consent:
    """Return a consent that names a version of the notice."""
    made = consent(**root)
    made.notice_id, made.notice_version = notice_id, version
    return made


def record(running: Running, subject: pb.Subject, who: str = "app", **changed: Any) -> int:
    """Record that the notice was shown; return the seq of the entry."""
    request = cs.RecordServedRequest(request_id=request_id(), subject=subject, attested=shown(running, **changed))
    return event_of(running.consents.RecordServed(request, metadata=running.as_(who)).receipt).seq


def grant(running: Running, subject: pb.Subject, who: str = "app", **fields: Any) -> cs.GrantConsentResponse:
    stated = fields.pop("stated", None) or st.GrantStatement(consent=fields.pop("consent", None) or named())
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=stated, **fields)
    return running.consents.GrantConsent(request, metadata=running.as_(who))


def statement(running: Running, tag: bytes, seq: int) -> tuple[int, Any, bytes]:
    """Return kind, payload message and request_id of an entry."""
    entry = reads.read_entry(services(running).ledger.store, tag, seq)
    opened = reads.open_entry(services(running).vault, entry)
    assert opened is not None
    made = codec.decode_statement(opened[1])
    return entry.event.kind, payloads.decode_payload(entry.event.kind, made.payload), made.request_id


def count_of(running: Running, tag: bytes) -> int:
    return services(running).ledger.head(tag)[0]


# -- with a consent ------------------------------------------------------------------------------------------------


def test_a_grant_and_what_was_shown_are_one_write(running: Running, subject: pb.Subject) -> None:
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=named()), served=shown(running)
    )
    request.served.attestation.method = "PASS"
    answer = running.consents.GrantConsent(request, metadata=running.as_("app"))
    served, granted = event_of(answer.served_receipt), event_of(answer.receipt)
    assert (served.kind, granted.kind) == (EntryKind.SERVED, EntryKind.GRANT)
    assert (served.seq + 1, served.tag, served.time_ms) == (granted.seq, granted.tag, granted.time_ms)
    assert answer.receipt.index == answer.served_receipt.index + 1
    kind, message, derived = statement(running, served.tag, served.seq)
    assert (kind, message.attestation.attested_by, message.attestation.method) == (EntryKind.SERVED, "app", "PASS")
    _, given, asked = statement(running, granted.tag, granted.seq)
    assert (given.served_seq, asked) == (served.seq, request.request_id)
    assert derived not in (asked, bytes(16))
    assert answer.consent_id == codec.consent_id(granted.tag, granted.seq).hex()
    assert [one.served_seq for one in listed(running, subject)] == [served.seq]
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    again = running.consents.GrantConsent(request, metadata=running.as_("app"))
    assert (again.receipt.index, again.served_receipt.index) == (answer.receipt.index, answer.served_receipt.index)
    assert (again.consent_id, again.receipt.replayed, again.served_receipt.replayed) == (answer.consent_id, True, True)
    request.served.channel = "web"
    assert refusal(lambda: running.consents.GrantConsent(request, metadata=running.as_("app"))) == "REQUEST_ID_REUSED"


def test_an_amendment_rests_on_what_was_shown_for_it(running: Running, subject: pb.Subject) -> None:
    first = grant(running, subject, served=shown(running))
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=subject, consent_id=first.consent_id, based_on_version=1,
        attested=st.AmendStatement(consent=named(2)), served=shown(running, notice_version=2),
    )  # fmt: skip
    answer = running.consents.AmendConsent(request, metadata=running.as_("app"))
    served, amended = event_of(answer.served_receipt), event_of(answer.receipt)
    _, message, _ = statement(running, amended.tag, amended.seq)
    assert (served.seq + 1, message.served_seq, message.version) == (amended.seq, served.seq, 2)
    assert amended.ref == event_of(first.receipt).seq
    again = running.consents.AmendConsent(request, metadata=running.as_("app"))
    assert (again.version, again.served_receipt.index) == (2, answer.served_receipt.index)


def test_a_refused_consent_was_shown_its_notice_all_the_same(running: Running, subject: pb.Subject) -> None:
    request = named(kind=pb.CONSENT_KIND_TRANSFER_REQUEST)
    answer = grant(running, subject, consent=request, served=shown(running))
    served, refused = event_of(answer.served_receipt), event_of(answer.receipt)
    assert (answer.refused.reason, refused.kind, served.seq + 1) == ("R05", EntryKind.REFUSAL, refused.seq)
    _, message, _ = statement(running, refused.tag, refused.seq)
    assert (message.reason, message.grant.served_seq) == ("R05", served.seq)


def test_either_both_are_recorded_or_none(running: Running, subject: pb.Subject) -> None:
    tag = event_of(running.consents.RecordServed(
        cs.RecordServedRequest(request_id=request_id(), subject=subject, attested=shown(running)),
        metadata=running.as_("app"),
    ).receipt).tag  # fmt: skip
    before = count_of(running, tag)
    for reason, fields in (
        ("INVALID_CONSENT", {"consent": named(2), "served": shown(running)}),
        ("INVALID_CONSENT", {"consent": consent(), "served": shown(running)}),
        ("UNKNOWN_NOTICE", {"consent": named(3), "served": shown(running, notice_version=3)}),
        ("UNKNOWN_CODE", {"consent": named(categories=["NONE"]), "served": shown(running)}),
        ("INVALID_REQUEST", {"served": shown(running, language="korean")}),
        ("INVALID_REQUEST", {"served": st.ServedStatement()} | {"consent": named()}),
    ):
        wanted = reason if fields["served"] != st.ServedStatement() else "UNKNOWN_NOTICE"
        assert refusal(lambda fields=fields: grant(running, subject, **fields)) == wanted
    assert count_of(running, tag) == before


def test_a_caller_states_only_one_entry_and_not_who_attests_it(running: Running, subject: pb.Subject) -> None:
    seq = record(running, subject)
    both = {"stated": st.GrantStatement(consent=named(), served_seq=seq), "served": shown(running)}
    assert refusal(lambda: grant(running, subject, **both)) == "INVALID_REQUEST"
    forged = shown(running, attestation=st.Attestation(attested_by="hospital-a"))
    assert refusal(lambda: grant(running, subject, served=forged)) == "INVALID_REQUEST"
    strange = st.ServedStatement.FromString(shown(running).SerializeToString() + FOREIGN_FIELD)
    assert refusal(lambda: grant(running, subject, served=strange)) == "UNKNOWN_FIELD"
    large = shown(running, attestation=st.Attestation(method="x" * 20_000))
    assert refusal(lambda: grant(running, subject, served=large)) == "TOO_LARGE"


def test_a_signed_consent_names_an_entry_that_is_recorded(running: Running) -> None:
    person = Person(running)
    seq = record(running, person.subject)
    answer = person.grant(message=st.GrantStatement(consent=named(), served_seq=seq))
    _, message, _ = statement(running, person.tag, event_of(answer.receipt).seq)
    assert (message.served_seq, answer.HasField("served_receipt")) == (seq, False)
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=named()), request := request_id())
    write = cs.GrantConsentRequest(request_id=request, subject=person.subject, signed=signed, served=shown(running))
    asked = {"metadata": running.as_("app")}
    assert refusal(lambda: running.consents.GrantConsent(write, **asked)) == "INVALID_REQUEST"


def test_a_consent_rests_on_a_served_entry_of_this_person_and_notice(running: Running) -> None:
    person, other = Person(running), Person(running)
    seq = record(running, person.subject)  # 1 ENROL, 2 KEY, 3 SERVED
    for named_seq in (1, 2, seq + 1, seq + 2, 1 << 62, (1 << 63), (1 << 64) - 1):
        stated = st.GrantStatement(consent=named(), served_seq=named_seq)
        assert refusal(lambda stated=stated: grant(running, person.subject, stated=stated)) == "INVALID_CONSENT"
    stated = st.GrantStatement(consent=named(), served_seq=seq)
    assert refusal(lambda: grant(running, other.subject, stated=stated)) == "INVALID_CONSENT"
    for wrong in (named(2), consent()):
        stated = st.GrantStatement(consent=wrong, served_seq=seq)
        assert refusal(lambda stated=stated: grant(running, person.subject, stated=stated)) == "INVALID_CONSENT"
    for _ in range(2):  # several consents may rest on one
        grant(running, person.subject, stated=st.GrantStatement(consent=named(), served_seq=seq))


# -- without a consent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"notice_id": "other"}, "UNKNOWN_NOTICE"),
        ({"notice_version": 0}, "UNKNOWN_NOTICE"),
        ({"notice_version": 9}, "UNKNOWN_NOTICE"),
        ({"language": ""}, "INVALID_REQUEST"),
        ({"language": "KO"}, "INVALID_REQUEST"),
        ({"channel": ""}, "INVALID_REQUEST"),
        ({"channel": "the app"}, "INVALID_REQUEST"),
        ({"channel": "a" * 33}, "INVALID_REQUEST"),
        ({"channel": "app\n"}, "INVALID_REQUEST"),
        ({"served_time_ms": 0}, "INVALID_REQUEST"),
        ({"served_time_ms": -1}, "INVALID_REQUEST"),
        ({"served_time_ms": (1 << 63) - 1}, "INVALID_REQUEST"),
        ({"content_sha256": bytes(31)}, "INVALID_REQUEST"),
        ({"content_sha256": bytes(32)}, "INVALID_REQUEST"),
        ({"content_sha256": text_hash(2)}, "INVALID_REQUEST"),
        ({"content_sha256": text_hash(1, "en")}, "INVALID_REQUEST"),
        ({"language": "fr"}, "INVALID_REQUEST"),
        ({"language": "ko-KR"}, "INVALID_REQUEST"),
        ({"authority_seq": 1}, "INVALID_REQUEST"),
    ],
)
def test_what_is_not_in_order_is_refused(
    running: Running, subject: pb.Subject, changed: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: record(running, subject, **changed)) == reason


def test_a_notice_may_have_been_shown_earlier_and_not_later(running: Running, subject: pb.Subject) -> None:
    time_ms = now_ms(running)
    record(running, subject, served_time_ms=time_ms - 400 * 86_400_000, content_sha256=text_hash(1), channel="paper")
    record(running, subject, served_time_ms=time_ms + 300_000)
    assert refusal(lambda: record(running, subject, served_time_ms=time_ms + 1_200_000)) == "INVALID_REQUEST"


def test_who_may_record_it(running: Running, subject: pb.Subject) -> None:
    record(running, subject, "app-2")
    for who in ("clinic-b", "hospital-a", "pipc", "operator"):
        assert refusal(lambda who=who: record(running, subject, who)) == "CALLER_NOT_ALLOWED"
        fields = {"who": who, "served": shown(running)}
        assert refusal(lambda fields=fields: grant(running, subject, **fields)) == "CALLER_NOT_ALLOWED"
    stranger = pb.Subject(scheme="mhid", value=new_identifier())
    assert refusal(lambda: record(running, stranger)) == "SUBJECT_NOT_FOUND"


def test_the_person_or_a_participant_signs_it(running: Running) -> None:
    person, other = Person(running), Person(running)

    def send(key: KeyPair, **more: Any) -> int:
        request, message = request_id(), shown(running)
        fields = {"kind": EntryKind.SERVED, "tag": person.tag, "time_ms": now_ms(running), **more}
        signed = sign_statement(key, message, request=request, **fields)
        asked = cs.RecordServedRequest(request_id=request, subject=person.subject, signed=signed)
        first = running.consents.RecordServed(asked, metadata=running.as_("app")).receipt
        again = running.consents.RecordServed(asked, metadata=running.as_("app-2")).receipt
        assert (again.index, again.replayed) == (first.index, True)  # whoever sends it again
        return event_of(first).seq

    for key in (person.key, CLINIC_KEY):
        seq = send(key)
        _, message, _ = statement(running, person.tag, seq)
        assert not message.HasField("attestation")
        grant(running, person.subject, stated=st.GrantStatement(consent=named(), served_seq=seq))
    assert refusal(lambda: send(other.key)) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: send(KeyPair(b"\x63" * 32))) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: send(CLINIC_KEY, tag=other.tag)) == "BAD_SIGNATURE"
    assert refusal(lambda: send(person.key, kind=EntryKind.GRANT)) == "BAD_SIGNATURE"
    assert refusal(lambda: send(LEFT_KEY)) == "CALLER_NOT_ALLOWED"


def test_it_counts_for_the_quota(running: Running) -> None:
    publish_rules(running, quotas=st.Quotas(entries_per_day=2))
    try:
        subject = running.enrol(new_identifier())
        grant(running, subject, served=shown(running))  # as two entries
        assert refusal(lambda: record(running, subject)) == "QUOTA_EXCEEDED"
    finally:
        publish_rules(running, quotas=st.Quotas(entries_per_day=1_000))


def test_the_client_library_records_both_at_once_or_one_before_the_signature(running: Running) -> None:
    person = Person(running)
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    signer = StatementSigner(key=person.key, origin=ORIGIN, tag=person.tag)
    with Client(target, token=running.tokens["app"]) as client:
        both = client.grant(person.subject, named(), served=shown(running))
        assert both.served is not None
        assert both.served.event.seq + 1 == both.receipt.event.seq
        amended = client.amend(
            person.subject, both.consent_id, named(2), based_on_version=1, served=shown(running, notice_version=2)
        )
        assert (amended.version, amended.served is not None) == (2, True)
        seen = client.record_served(person.subject, shown(running), signer=signer)
        signed = client.grant(person.subject, named(), served_seq=seen.event.seq, signer=signer)
        assert (bool(signed), signed.served) == (True, None)
        with pytest.raises(InvalidError):
            client.grant(person.subject, named(), served=shown(running), signer=signer)


# -- how long it is kept -------------------------------------------------------------------------------------------

_DAY_MS = 86_400_000


def opened(seq: int, kind: EntryKind, day: int, *, ref: int = 0, served_seq: int | None = None) -> OpenedEntry:
    event = codec.Event(kind, day * _DAY_MS, bytes(32), seq, bytes(32), bytes(32), ref)
    stated = None if served_seq is None else StatedVersion(OPEN_END_MS, 0, served_seq)
    return OpenedEntry(seq, event, codec.Statement(bytes(32), bytes(64), bytes(16), 1, b""), stated)


def test_it_is_kept_as_long_as_a_consent_rests_on_it() -> None:
    enrolled = opened(1, EntryKind.ENROL, 1)
    shown, unused = opened(2, EntryKind.SERVED, 1), opened(3, EntryKind.SERVED, 1)
    granted = opened(4, EntryKind.GRANT, 2, served_seq=2)
    chain = [enrolled, shown, unused, granted]
    assert retained_seqs(chain, 5 * _DAY_MS, ()) == {2, 4}
    revoked = [*chain, opened(5, EntryKind.REVOKE, 3, ref=4)]
    assert retained_seqs(revoked, 5 * _DAY_MS, ()) == set()
    used = [*revoked, opened(6, EntryKind.ACCESS, 6, ref=4)]
    assert retained_seqs(used, 5 * _DAY_MS, ()) == {2, 4, 5, 6}
    amended = [*chain, opened(5, EntryKind.SERVED, 3), opened(6, EntryKind.AMEND, 3, ref=4, served_seq=5)]
    assert retained_seqs(amended, 5 * _DAY_MS, ()) == {2, 4, 5, 6}
    late = [enrolled, shown, opened(3, EntryKind.GRANT, 6, served_seq=2)]
    assert retained_seqs(late, 5 * _DAY_MS, ()) == {2, 3}
