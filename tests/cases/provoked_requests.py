"""What provokes the errors of a request that is wrong, or that contradicts what is recorded: a row for each reason."""

from collections.abc import Callable
from typing import Any

import pytest

from cases.authorities import add_representative, grant_under, put_authority
from cases.daemons import consent, question, request_id, sign_statement
from cases.services import add_key, attest_key, batch_request, list_late, now_ms, proof_of, register, services
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.ledger import layout
from consentd.ledger.retention import encode_pruned
from consentd.policy import subject
from consentd.store import Batch
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

SECRET = "SYN-730142"
KEY = KeyPair(b"\x07" * 32)
FOREIGN_FIELD = b"\xf8\x3f\x01"  # field 1023, a number that no message has

Provoke = Callable[[Any], Any]
PROVOKED: dict[str, Provoke] = {}
"""Reason → what provokes it, given the ``World`` of ``tests/test_errors.py``."""


def provoking(table: dict[str, Provoke]) -> Callable[[str], Callable[[Provoke], Provoke]]:
    """Return a decorator that adds to *table* what provokes a reason."""

    def provokes(reason: str) -> Callable[[Provoke], Provoke]:
        def add(provoke: Provoke) -> Provoke:
            assert reason not in table
            table[reason] = provoke
            return provoke

        return add

    return provokes


provokes = provoking(PROVOKED)


# -- INVALID_ARGUMENT -----------------------------------------------------------------------------------------


@provokes("INVALID_REQUEST")
def _no_question(world: Any) -> Any:
    write = ac.AuthorizeAccessRequest(request_id=request_id())
    return world.running.access.AuthorizeAccess(write, metadata=world.running.as_("app"))


@provokes("INVALID_REQUEST_ID")
def _short_request_id(world: Any) -> Any:
    return world.grant(consent(), request_id=b"short")


@provokes("INVALID_IDENTIFIER")
def _resident_registration_number(world: Any) -> Any:
    return world.running.check(question(pb.Subject(scheme="rrn", value=SECRET)))


@provokes("INVALID_PAGE")
def _negative_page(world: Any) -> Any:
    request = cs.ListConsentsRequest(subject=world.subject, page_size=-1)
    return world.running.consents.ListConsents(request, metadata=world.running.as_("app"))


@provokes("UNKNOWN_PURPOSE")
def _unknown_purpose(world: Any) -> Any:
    return world.check(purpose="CURIOSITY")


@provokes("UNKNOWN_ACTION")
def _unknown_action(world: Any) -> Any:
    return world.check(action="sell")


@provokes("UNKNOWN_CODE")
def _unknown_category_of_a_consent(world: Any) -> Any:
    return world.grant(consent(categories=["CLIN.GOSSIP"]))


@provokes("UNKNOWN_PARTICIPANT")
def _unknown_recipient(world: Any) -> Any:
    return world.grant(consent(actors=["nobody"]))


@provokes("UNKNOWN_NOTICE")
def _unknown_notice(world: Any) -> Any:
    return world.grant(pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=consent().root, notice_id="n", notice_version=1))


@provokes("UNKNOWN_AUTHORITY")
def _unknown_authority(world: Any) -> Any:
    return world.grant(consent(), attested=st.GrantStatement(consent=consent(), authority_seq=1))


@provokes("AUTHORITY_NOT_IN_FORCE")
def _authority_that_has_not_begun(world: Any) -> Any:
    add_representative(world.running)
    seq = put_authority(world.running, world.subject, start_time_ms=2**42)
    return grant_under(world.running, world.subject, seq)


@provokes("SIGN_WITH_KEY")
def _second_key_attested(world: Any) -> Any:
    register(world.running, "keyed", [st.PARTICIPANT_ROLE_HOLDER])
    add_key(world.running, "keyed", KeyPair(b"\x71" * 32))
    return attest_key(world.running, "keyed", KeyPair(b"\x72" * 32))


@provokes("EMPTY_CATEGORIES")
def _no_category(world: Any) -> Any:
    return world.check(categories=[])


@provokes("BREAK_GLASS_SHAPE")
def _break_glass_in_check(world: Any) -> Any:
    return world.check(purpose="BTG", break_glass=pb.BreakGlass(justification="unconscious"))


@provokes("INVALID_CONSENT")
def _no_effect(world: Any) -> Any:
    return world.grant(consent(effect=pb.EFFECT_UNSPECIFIED))


@provokes("TOO_LARGE")
def _too_many_questions(world: Any) -> Any:
    request = batch_request(questions=[question(world.subject)] * 1001)
    return world.running.policy.BatchCheck(request, metadata=world.running.as_("app"))


@provokes("AUTHOR_CLOCK")
def _clock_of_the_author(world: Any) -> Any:
    return world.grant_signed(time_ms=now_ms(world.running) - 11 * 60_000)


@provokes("BAD_SIGNATURE")
def _signed_for_another(world: Any) -> Any:
    return world.grant_signed(tag=b"\x01" * 32)


@provokes("BAD_POSSESSION")
def _key_of_somebody_else(world: Any) -> Any:
    key = KeyPair(b"\x0a" * 32)
    add = rs.AddKeyRequest(
        request_id=request_id(), participant_id="app", attested=st.KeyStatement(key=key.public_key),
        possession=proof_of(key, "clinic-b"),
    )  # fmt: skip
    return world.running.registry.AddKey(add, metadata=world.running.as_("operator"))


@provokes("UNKNOWN_FIELD")
def _field_of_a_later_version(world: Any) -> Any:
    return world.grant(pb.Consent.FromString(consent().SerializeToString() + FOREIGN_FIELD))


# -- NOT_FOUND ------------------------------------------------------------------------------------------------


@provokes("NOT_FOUND")
def _no_such_notice(world: Any) -> Any:
    return world.running.registry.GetNotice(rs.GetNoticeRequest(notice_id="n"), metadata=world.running.as_("app"))


@provokes("SUBJECT_NOT_FOUND")
def _not_enrolled(world: Any) -> Any:
    request = cs.ListConsentsRequest(subject=pb.Subject(scheme="ci", value=SECRET))
    return world.running.consents.ListConsents(request, metadata=world.running.as_("app"))


@provokes("CONSENT_NOT_FOUND")
def _no_such_consent(world: Any) -> Any:
    request = cs.GetConsentRequest(subject=world.subject, consent_id="0" * 32)
    return world.running.consents.GetConsent(request, metadata=world.running.as_("app"))


@provokes("PRUNED")
def _leaf_below_the_minimum_index(world: Any) -> Any:
    running = world.other()
    running.wait_published()
    batch = Batch()
    batch.put(layout.PRUNED, encode_pruned(Pruned(1, 300), finished=True))
    services(running).ledger.store.write(batch)
    return running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=running.as_("pipc"))


# -- what is recorded -----------------------------------------------------------------------------------------


@provokes("ALREADY_EXISTS")
def _key_added_twice(world: Any) -> Any:
    return add_key(world.running, "clinic-b", KEY)

provokes("PAGE_EXPIRED")(lambda world: list_late(world.other()))


@provokes("REQUEST_ID_REUSED")
def _request_id_reused(world: Any) -> Any:
    used = request_id()
    world.grant(consent(), request_id=used)
    return world.grant(consent(holders=["clinic-b"]), request_id=used)


@provokes("VERSION_CONFLICT")
def _another_version_in_force(world: Any) -> Any:
    return world.amend(version=7)


@provokes("WRONG_STATE")
def _resume_what_is_not_paused(world: Any) -> Any:
    write = cs.ResumeConsentRequest(
        request_id=request_id(), subject=world.subject, consent_id=world.consent_id, attested=st.ResumeStatement()
    )
    return world.running.consents.ResumeConsent(write, metadata=world.running.as_("app"))


provokes("SUBJECT_ENROLLED")(lambda world: world.running.enrol(SECRET))
provokes("WRONG_ROLE")(lambda world: world.grant(consent(actors=["app"])))
provokes("KEY_NOT_IN_FORCE")(lambda world: world.grant_signed(key=KeyPair(b"\x08" * 32)))


@provokes("LIMIT_REACHED")
def _too_much_of_a_person(world: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "MAX_ROWS", 1)
        return world.grant(consent())


@provokes("AHEAD_OF_LEDGER")
def _history_is_shorter(world: Any) -> Any:
    world.running.wait_published()
    request = ls.GetHistoryRequest(public_name="ledger", known_count=1 << 20)
    return list(world.running.ledger.GetHistory(request))


@provokes("REF_MOVED")
def _signed_for_another_ref(world: Any) -> Any:
    key, request = KeyPair(b"\x09" * 32), request_id()
    add_key(world.running, "app", key)
    world.running.grant(world.subject)
    access = world.running.authorize(question(world.subject))
    sent, tag = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT), access.decision.tag
    signed = sign_statement(
        key, sent, kind=EntryKind.OUTCOME, tag=tag, request=request, time_ms=now_ms(world.running), ref=1
    )
    write = ac.RecordAccessRequest(
        request_id=request, subject=world.subject, access_seq=access.access_seq, signed=signed
    )
    return world.running.access.RecordAccess(write, metadata=world.running.as_("app"))
