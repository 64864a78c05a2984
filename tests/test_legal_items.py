"""What the law demands of a consent: the notice first, and acts of their own. A refusal is recorded (rule 8)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, consent, make_running, question, request_id
from cases.notices import publish_notice
from cases.services import Person, event_of, listed, new_identifier, now_ms, publish_rules, services
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError
from consentd.ledger import reads
from consentd.policy.check import is_bundled
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import Consent, Effect, ImplicitPolicy, Kind, Provision
from consentd.policy.vocabulary import Code, check_successor
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

REQUEST, CONSENT, OBJECTION = pb.CONSENT_KIND_TRANSFER_REQUEST, pb.CONSENT_KIND_CONSENT, pb.CONSENT_KIND_OBJECTION
END_MS = 4_000_000_000_000
PERMIT, DENY = Effect.PERMIT, Effect.DENY


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("legal-items"), checkpoint_interval_ms=10)
    publish_notice(made, "items")
    yield made
    made.check_ledger()
    verifier = read_signing_key(made.config.keys.log_key_file).verifier
    made.stop()
    replayed = replay_decisions(DataDirectory.of_config(made.config), origin=ORIGIN, log_verifier=verifier, jobs=1)
    assert not replayed.faults
    assert replayed.same["REFUSAL"]


@pytest.fixture
def subject(running: Running) -> pb.Subject:
    return running.enrol(new_identifier())


def whole(kind: int = REQUEST, **root: Any) -> pb.Consent:
    """Return a consent with all seven items, under the notice."""
    made = consent(kind=kind, **{"period": pb.Period(end_time_ms=END_MS), **root})
    made.recurrence, made.retention_until_time_ms = "once", END_MS
    made.notice_id, made.notice_version = "items", 1
    return made


def shown(running: Running) -> st.ServedStatement:
    return st.ServedStatement(
        notice_id="items", notice_version=1, language="ko", channel="app", served_time_ms=now_ms(running)
    )


def give(running: Running, subject: pb.Subject, stated: pb.Consent, **more: Any) -> cs.GrantConsentResponse:
    statement = st.GrantStatement(consent=stated, served_seq=more.pop("served_seq", 0))
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=statement, **more)
    return running.consents.GrantConsent(request, metadata=running.as_("app"))


def test_42_5_4_notice_before_request(running: Running, subject: pb.Subject) -> None:
    """The app is a relay. What it asks for without a notice is refused, whether or not the consent names one."""
    answer = give(running, subject, whole())
    assert (answer.refused.reason, list(answer.refused.missing), answer.version) == ("R05", ["served"], 0)
    event = event_of(answer.receipt)
    assert event.kind == EntryKind.REFUSAL
    entry = reads.read_entry(services(running).ledger.store, event.tag, event.seq)
    opened = reads.open_entry(services(running).vault, entry)
    assert opened is not None
    recorded = payloads.parse(st.RefusalStatement, codec.decode_statement(opened[1]).payload)
    assert (recorded.reason, list(recorded.missing)) == ("R05", ["served"])
    assert listed(running, subject) == []
    lacking = whole(holders=[])
    assert list(give(running, subject, lacking).refused.missing) == ["holder", "served"]
    inline = give(running, subject, whole(), served=shown(running))
    assert inline.version == 1
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    seq = event_of(inline.served_receipt).seq
    assert give(running, subject, whole(), served_seq=seq).version == 1


def test_42_5_4_an_amendment_of_a_request_rests_on_a_notice_too(running: Running, subject: pb.Subject) -> None:
    given = give(running, subject, whole(), served=shown(running))
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=subject, consent_id=given.consent_id, based_on_version=1,
        attested=st.AmendStatement(consent=whole()),
    )  # fmt: skip
    answer = running.consents.AmendConsent(request, metadata=running.as_("app"))
    assert (answer.version, list(answer.refused.missing)) == (0, ["served"])
    request.request_id = request_id()
    request.served.CopyFrom(shown(running))
    lacking = st.AmendStatement(consent=whole(period=None))
    lacking.consent.retention_until_time_ms = 0
    without = cs.AmendConsentRequest()
    without.CopyFrom(request)
    without.request_id = request_id()
    without.attested.CopyFrom(lacking)
    answer = running.consents.AmendConsent(without, metadata=running.as_("app"))
    assert (answer.version, list(answer.refused.missing)) == (0, ["end", "retention"])
    assert running.check(question(subject)).reasons[0].version == 1
    assert running.consents.AmendConsent(request, metadata=running.as_("app")).version == 2


def test_42_5_4_what_a_person_signs_and_other_kinds_need_no_notice_unless_the_realm_says_so(
    running: Running, subject: pb.Subject
) -> None:
    person = Person(running)
    assert give(running, subject, whole(CONSENT)).version == 1
    assert person.grant(message=st.GrantStatement(consent=whole())).version == 1
    publish_rules(running, served_required=True)
    try:
        for kind in (CONSENT, REQUEST):
            assert list(give(running, subject, whole(kind)).refused.missing) == ["served"]
            signed = person.grant(message=st.GrantStatement(consent=whole(kind)))
            assert (signed.refused.reason, list(signed.refused.missing)) == ("R05", ["served"])
        assert give(running, subject, whole(CONSENT), served=shown(running)).version == 1
        assert give(running, subject, whole(OBJECTION, effect=pb.EFFECT_DENY)).version == 1
        past = whole(CONSENT, period=pb.Period(end_time_ms=1_000))
        past.source = "fhir/r4"
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=past)
        )
        assert running.consents.GrantConsent(request, metadata=running.as_("operator")).version == 1
        law = whole(pb.CONSENT_KIND_STATUTORY)
        law.legal_basis = "COURT"
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=law)
        )
        assert running.consents.GrantConsent(request, metadata=running.as_("operator")).version == 1
    finally:
        publish_rules(running, served_required=False)


def test_22_1_7_marketing_is_an_act_of_its_own(running: Running, subject: pb.Subject) -> None:
    for purposes in (["HMARKT", "TREAT"], ["*", "HMARKT"]):
        stated = consent(purposes=purposes[:1], provisions=[])
        stated.root.purposes[:] = purposes if "*" not in purposes else ["HMARKT", "HRESCH"]
        answer = give(running, subject, stated)
        assert (answer.refused.reason, list(answer.refused.missing)) == ("R05", ["separate_act"])
    nested = consent(provisions=[
        pb.Provision(effect=pb.EFFECT_DENY, provisions=[pb.Provision(effect=pb.EFFECT_PERMIT, purposes=["HMARKT"])])
    ])  # fmt: skip
    assert list(give(running, subject, nested).refused.missing) == ["separate_act"]
    assert give(running, subject, consent(purposes=["HMARKT"])).version == 1
    assert give(running, subject, consent(purposes=["TREAT", "HRESCH"])).version == 1
    denied = consent(provisions=[pb.Provision(effect=pb.EFFECT_DENY, purposes=["HMARKT"])])
    assert give(running, subject, denied).version == 1  # what is denied is no consent to marketing


def bundled(**fields: Any) -> bool:
    root = Provision(**{"effect": PERMIT, "actors": ("*",), "categories": ("CLIN",), **fields})
    return is_bundled(Consent(kind=Kind.CONSENT, root=root, policy=ImplicitPolicy.ALL_NORMAL), DEFAULT_VOCABULARY)


@pytest.mark.parametrize(
    ("purposes", "found"),
    [
        (("AITRAIN",), False), (("AITRAIN", "HRESCH"), True), (("HRESCH",), False), (("AITRAIN", "HMARKT"), True),
        (("*",), False), ((), False), (("HMARKT",), False), (("HMARKT", "COC"), True),
    ],
)  # fmt: skip
def test_training_of_ai_is_an_act_of_its_own(purposes: tuple[str, ...], *, found: bool) -> None:
    """Our own rule. `*` covers neither this purpose nor marketing."""
    assert bundled(purposes=purposes) is found


def test_23_1_1_a_realm_with_other_data_marks_what_is_sensitive() -> None:
    """All categories of the default vocabulary are health data, so nothing else is in one act with them."""
    assert not any(code.separate for code in DEFAULT_VOCABULARY.categories)
    mixed = replace(
        DEFAULT_VOCABULARY,
        categories=(
            Code(code="HEALTH", name={"en": "health"}, separate=True),
            Code(code="HEALTH.DX", name={"en": "diagnoses"}, parent="HEALTH", level="R"),
            Code(code="CONTACT", name={"en": "contact"}, level="N"),
        ),
    )

    def found(*categories: str) -> bool:
        root = Provision(effect=PERMIT, actors=("*",), purposes=("TREAT",), categories=categories)
        return is_bundled(Consent(kind=Kind.CONSENT, root=root), mixed)

    assert [found("HEALTH"), found("HEALTH.DX"), found("CONTACT")] == [False] * 3
    assert [found("HEALTH.DX", "CONTACT"), found("*")] == [True] * 2


def test_42_6_8_a_third_party_consent_is_no_part_of_a_transfer_request(running: Running, subject: pb.Subject) -> None:
    """One statement has one kind, and one version keeps it, so each is an act, an entry and a withdrawal of its own."""
    asked = give(running, subject, whole(), served=shown(running))
    agreed = give(running, subject, whole(CONSENT), served=shown(running))
    assert asked.consent_id != agreed.consent_id
    kinds = {one.consent_id: one.consent.kind for one in listed(running, subject)}
    assert kinds == {asked.consent_id: REQUEST, agreed.consent_id: CONSENT}
    revoke = cs.RevokeConsentRequest(
        request_id=request_id(), subject=subject, consent_id=agreed.consent_id, attested=st.RevokeStatement()
    )
    running.consents.RevokeConsent(revoke, metadata=running.as_("app"))
    assert [one.consent_id for one in listed(running, subject)] == [asked.consent_id]


def test_only_a_purpose_or_a_category_needs_an_act_of_its_own() -> None:
    for lists in ("actions", "labels", "refusal_grounds", "legal_bases"):
        first, *others = getattr(DEFAULT_VOCABULARY, lists)
        with pytest.raises(InvalidError):
            replace(DEFAULT_VOCABULARY, **{lists: (replace(first, separate=True), *others)})


def test_a_later_version_of_the_vocabulary_may_say_what_needs_an_act_of_its_own() -> None:
    first, *others = DEFAULT_VOCABULARY.purposes
    later = replace(DEFAULT_VOCABULARY, version=2, purposes=(replace(first, separate=True), *others))
    check_successor(DEFAULT_VOCABULARY, later)
