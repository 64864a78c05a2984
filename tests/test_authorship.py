"""Who may write, change and end a consent, and whom a consent may name (policy.md, rule 8).

One daemon serves the module. Besides the usual participants it has a court, a hospital that acts for persons, a clinic
in another country, a recipient without class and one that the law allows no recurring transfer, and one that has left.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.daemons import Running, consent, make_running, question, request_id, serve
from cases.services import Person, change, listed, new_identifier, now_ms, publish_rules, refusal, register
from consentd.core.kinds import EntryKind
from consentd.policy.delegation import Capacity
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client.consents import ALL_STATES

HOLDER, RECIPIENT, RELAY, AUDITOR, COURT = (
    st.PARTICIPANT_ROLE_HOLDER,
    st.PARTICIPANT_ROLE_RECIPIENT,
    st.PARTICIPANT_ROLE_RELAY,
    st.PARTICIPANT_ROLE_AUDITOR,
    st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY,
)
ACT, GLASS = st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS, st.PARTICIPANT_RIGHT_BREAK_GLASS
REASONS, READ, ERASE = (
    st.PARTICIPANT_RIGHT_SEE_REASONS,
    st.PARTICIPANT_RIGHT_READ_STATEMENTS,
    st.PARTICIPANT_RIGHT_ERASE,
)
YEAR_2096_MS = 4_000_000_000_000
OWN = (
    "legal_basis", "legal_basis_note", "recurrence", "source", "implicit_policy", "retention_until_time_ms", "language",
)
"""Fields of a consent and not of its root."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10)
    for name, role, more in (
        ("court", COURT, {}),
        ("hospital-app", RECIPIENT, {"rights": [ACT], "groups": ["group/hospitals"]}),
        ("clinic-abroad", RECIPIENT, {"country": "JP", "groups": ["group/hospitals"]}),
        ("clinic-home", RECIPIENT, {"country": "KR", "groups": ["group/homes"]}),
        ("employer", RECIPIENT, {"recipient_class": st.RECIPIENT_CLASS_GENERAL_RECIPIENT, "groups": ["group/firms"]}),
        ("agency", RECIPIENT, {"recipient_class": st.RECIPIENT_CLASS_GENERAL_AGENCY}),
        ("left", RECIPIENT, {"active": False}),
        ("left-holder", HOLDER, {"active": False}),
    ):
        register(made, name, [role], **more)
        made.add_caller(name)
    yield from serve(made)


def grant(running: Running, subject: pb.Subject, who: str = "app", **fields: Any) -> str:
    """Grant a consent as *who*; *fields*: of the consent or, by any other name, of its root."""
    own = {name: fields.pop(name) for name in OWN if name in fields}
    made = consent(**fields)
    made.MergeFrom(pb.Consent(**own))
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=made))
    return running.consents.GrantConsent(request, metadata=running.as_(who)).consent_id


def order(running: Running, subject: pb.Subject, who: str = "court", **fields: Any) -> str:
    """Write a STATUTORY consent."""
    stated = {"kind": pb.CONSENT_KIND_STATUTORY, "legal_basis": "MA-21-3", **fields}
    return grant(running, subject, who, **stated)


def amend(running: Running, subject: pb.Subject, consent_id: str, who: str, **fields: Any) -> int:
    own = {name: fields.pop(name) for name in OWN if name in fields}
    made = consent(**fields)
    made.MergeFrom(pb.Consent(**own))
    request = cs.AmendConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id, based_on_version=1,
        attested=st.AmendStatement(consent=made)
    )
    return running.consents.AmendConsent(request, metadata=running.as_(who)).version


# -- STATUTORY -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["court", "operator"])
def test_a_public_authority_writes_changes_and_ends_a_statutory_consent(
    running: Running, subject: pb.Subject, who: str
) -> None:
    grant(running, subject, kind=pb.CONSENT_KIND_OBJECTION, effect=pb.EFFECT_DENY, actors=[], purposes=[])
    assert running.check(question(subject)).outcome == pb.OUTCOME_DENY
    consent_id = order(running, subject, who)
    assert running.check(question(subject)).reasons[0].code == pb.REASON_CODE_PERMITTED_BY_LAW
    assert amend(running, subject, consent_id, who, kind=pb.CONSENT_KIND_STATUTORY, legal_basis="COURT") == 2
    change(running, EntryKind.PAUSE, subject, consent_id, who=who)
    assert running.check(question(subject)).outcome == pb.OUTCOME_DENY
    change(running, EntryKind.RESUME, subject, consent_id, who=who)
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    change(running, EntryKind.REVOKE, subject, consent_id, who=who)
    assert running.check(question(subject)).outcome == pb.OUTCOME_DENY


@pytest.mark.parametrize("who", ["app", "hospital-app"])
def test_an_app_that_acts_for_a_person_neither_writes_nor_ends_a_statutory_consent(
    running: Running, subject: pb.Subject, who: str
) -> None:
    assert refusal(lambda: order(running, subject, who)) == "CALLER_NOT_ALLOWED"
    deny = order(running, subject, effect=pb.EFFECT_DENY)
    for kind in (EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE):
        assert refusal(lambda kind=kind: change(running, kind, subject, deny, who=who)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: amend(running, subject, deny, who)) == "CALLER_NOT_ALLOWED"
    assert running.check(question(subject)).reasons[0].code == pb.REASON_CODE_DENIED_BY_LAW


def test_an_operator_writes_no_consent_of_the_person_and_ends_none(running: Running, subject: pb.Subject) -> None:
    consent_id = grant(running, subject)
    assert refusal(lambda: grant(running, subject, "operator")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: grant(running, subject, "operator", source="import 1")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: amend(running, subject, consent_id, "operator")) == "CALLER_NOT_ALLOWED"
    for kind in (EntryKind.PAUSE, EntryKind.REVOKE):
        refused = refusal(lambda kind=kind: change(running, kind, subject, consent_id, who="operator"))
        assert refused == "CALLER_NOT_ALLOWED"
    past = {"source": "import 1", "period": pb.Period(end_time_ms=1)}
    imported = grant(running, subject, "operator", **past)
    assert refusal(lambda: change(running, EntryKind.REVOKE, subject, imported, who="operator")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: amend(running, subject, imported, "operator", **past)) == "CALLER_NOT_ALLOWED"
    person = Person(running)
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=consent()), request := request_id())
    write = cs.GrantConsentRequest(request_id=request, subject=person.subject, signed=signed)
    passed_on = {"metadata": running.as_("operator")}
    assert refusal(lambda: running.consents.GrantConsent(write, **passed_on)) == "CALLER_NOT_ALLOWED"
    stranger = pb.Subject(scheme="mhid", value=new_identifier())
    for one in (subject, stranger):  # nor does it learn who is enrolled
        refused = refusal(lambda one=one: change(running, EntryKind.REVOKE, one, "ab" * 16, who="operator"))
        assert refused == "CONSENT_NOT_FOUND"


@pytest.mark.parametrize("who", ["clinic-b", "pipc", "hospital-a", "left"])
def test_nobody_else_writes_any_consent(running: Running, subject: pb.Subject, who: str) -> None:
    assert refusal(lambda: order(running, subject, who)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: grant(running, subject, who)) == "CALLER_NOT_ALLOWED"


def test_no_persons_key_signs_a_statutory_consent_or_ends_one(running: Running) -> None:
    person = Person(running)
    statutory = consent(kind=pb.CONSENT_KIND_STATUTORY)
    statutory.legal_basis = "COURT"
    assert refusal(lambda: person.grant(message=st.GrantStatement(consent=statutory))) == "CALLER_NOT_ALLOWED"
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=statutory), request := request_id())
    write = cs.GrantConsentRequest(request_id=request, subject=person.subject, signed=signed)
    by_operator = {"metadata": running.as_("operator")}
    assert refusal(lambda: running.consents.GrantConsent(write, **by_operator)) == "CALLER_NOT_ALLOWED"
    by_court = {"metadata": running.as_("court")}
    assert refusal(lambda: running.consents.GrantConsent(write, **by_court)) == "CALLER_NOT_ALLOWED"
    consent_id = order(running, person.subject, effect=pb.EFFECT_DENY)
    end = st.RevokeStatement(lineage_seq=3)
    assert refusal(lambda: person.change(EntryKind.REVOKE, consent_id, end, 3)) == "CALLER_NOT_ALLOWED"


def test_a_public_authority_touches_no_consent_of_the_person(running: Running, subject: pb.Subject) -> None:
    consent_id = grant(running, subject)
    assert refusal(lambda: grant(running, subject, "court")) == "CALLER_NOT_ALLOWED"
    for kind in (EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE):
        refused = refusal(lambda kind=kind: change(running, kind, subject, consent_id, who="court"))
        assert refused == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: amend(running, subject, consent_id, "court")) == "CALLER_NOT_ALLOWED"
    stranger = pb.Subject(scheme="mhid", value=new_identifier())
    for person in (subject, stranger):  # who is enrolled is not for it to learn
        refused = refusal(lambda person=person: change(running, EntryKind.REVOKE, person, "ab" * 16, who="court"))
        assert refused == "CONSENT_NOT_FOUND"


def test_no_amendment_makes_a_consent_statutory_or_ends_that(running: Running, subject: pb.Subject) -> None:
    plain, statutory = grant(running, subject), order(running, subject)
    made = {"kind": pb.CONSENT_KIND_STATUTORY, "legal_basis": "COURT"}
    assert refusal(lambda: amend(running, subject, plain, "app", **made)) == "INVALID_CONSENT"
    assert refusal(lambda: amend(running, subject, statutory, "operator")) == "INVALID_CONSENT"


@pytest.mark.parametrize(
    "fields",
    [
        {"legal_basis": ""},
        {"purposes": []},
        {"actors": []},
        {"categories": []},
        {"purposes": ["*"]},
        {"actors": ["*"]},
        {"categories": ["*"]},
        {"effect": pb.EFFECT_DENY, "actors": []},
        {"provisions": [pb.Provision(effect=pb.EFFECT_PERMIT, actors=["*"])]},
        {
            "effect": pb.EFFECT_DENY, "actors": ["*"], "purposes": ["*"], "categories": ["*"],
            "provisions": [pb.Provision(effect=pb.EFFECT_PERMIT)],
        },
    ],
)  # fmt: skip
def test_a_statutory_consent_names_its_basis_purpose_recipient_and_data(
    running: Running, subject: pb.Subject, fields: dict[str, Any]
) -> None:
    assert refusal(lambda: order(running, subject, **fields)) == "INVALID_CONSENT"


@pytest.mark.parametrize("code", [" ", "order 1", "court", "R01", "TREAT"])
def test_a_legal_basis_is_a_code_of_the_vocabulary(running: Running, subject: pb.Subject, code: str) -> None:
    assert refusal(lambda: order(running, subject, legal_basis=code)) == "UNKNOWN_CODE"
    assert refusal(lambda: order(running, subject, legal_basis_note="가" * 683)) == "TOO_LARGE"
    order(running, subject, legal_basis="STATUTE", legal_basis_note="감염병예방법 76조의2")


def test_only_a_statutory_consent_has_a_legal_basis(running: Running, subject: pb.Subject) -> None:
    assert refusal(lambda: grant(running, subject, legal_basis="MA-21-3")) == "INVALID_CONSENT"
    assert refusal(lambda: grant(running, subject, legal_basis_note="an order")) == "INVALID_CONSENT"


@pytest.mark.parametrize("language", ["korean", "KO", "ko_KR", "ko-kr"])
def test_the_language_of_a_consent_is_a_tag(running: Running, subject: pb.Subject, language: str) -> None:
    assert refusal(lambda: grant(running, subject, language=language)) == "INVALID_CONSENT"
    grant(running, subject, language="ko-KR")


# -- whom a consent names, and until when --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"actors": ["left"]}, "UNKNOWN_PARTICIPANT"),
        ({"actors": ["clinic-b", "left"]}, "UNKNOWN_PARTICIPANT"),
        ({"holders": ["left-holder"]}, "UNKNOWN_PARTICIPANT"),
        ({"holders": ["hospital-a", "left-holder"]}, "UNKNOWN_PARTICIPANT"),
        ({"actors": ["nobody"]}, "UNKNOWN_PARTICIPANT"),
        ({"holders": ["nobody"]}, "UNKNOWN_PARTICIPANT"),
        ({"holders": ["SUBJECT"]}, "INVALID_CONSENT"),
        ({"holders": ["hospital-a", "SUBJECT"]}, "INVALID_CONSENT"),
        ({"effect": pb.EFFECT_DENY, "holders": ["SUBJECT"]}, "INVALID_CONSENT"),
        ({"effect": pb.EFFECT_DENY, "provisions": [pb.Provision(holders=["SUBJECT"])]}, "INVALID_CONSENT"),
        ({"actors": ["app"]}, "WRONG_ROLE"),
        ({"actors": ["clinic-b", "app"]}, "WRONG_ROLE"),
        ({"effect": pb.EFFECT_DENY, "provisions": [pb.Provision(actors=["app"])]}, "WRONG_ROLE"),
        ({"effect": pb.EFFECT_DENY, "provisions": [pb.Provision(actors=["left"])]}, "UNKNOWN_PARTICIPANT"),
        ({"period": pb.Period(end_time_ms=1)}, "INVALID_CONSENT"),
        ({"effect": pb.EFFECT_DENY, "actors": ["nobody"]}, "UNKNOWN_PARTICIPANT"),
    ],
)
def test_a_consent_that_can_permit_nothing_is_refused(
    running: Running, subject: pb.Subject, fields: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: grant(running, subject, **fields)) == reason
    consent_id = grant(running, subject)
    assert refusal(lambda: amend(running, subject, consent_id, "app", **fields)) == reason


def test_a_deny_names_relays_and_those_who_left(running: Running, subject: pb.Subject) -> None:
    actors, holders = ["app", "left"], ["left-holder", "hospital-a"]
    assert grant(running, subject, effect=pb.EFFECT_DENY, actors=actors, holders=holders)


def test_an_import_records_a_consent_that_has_ended(running: Running, subject: pb.Subject) -> None:
    past: dict[str, Any] = {"period": pb.Period(end_time_ms=1), "source": "fhir/r4 Consent/1"}
    assert refusal(lambda: grant(running, subject, **past)) == "INVALID_CONSENT"
    consent_id = grant(running, subject, "operator", **past)
    assert refusal(lambda: amend(running, subject, consent_id, "app", **past)) == "INVALID_CONSENT"
    assert running.check(question(subject)).outcome == pb.OUTCOME_NO_CONSENT


@pytest.mark.parametrize("actors", [["employer"], ["agency", "employer"], ["group/firms"], ["*"]])
def test_no_transfer_recurs_to_a_recipient_whose_class_the_law_excludes(
    running: Running, subject: pb.Subject, actors: list[str]
) -> None:
    assert refusal(lambda: grant(running, subject, actors=actors, recurrence="P1M")) == "WRONG_ROLE"
    grant(running, subject, actors=actors, recurrence="once")
    grant(running, subject, actors=["agency", "clinic-b"], recurrence="P1M")


def test_a_permit_covers_a_participant_abroad_only_by_name(running: Running) -> None:
    for actors, outcome in (
        (["*"], pb.OUTCOME_NO_CONSENT),
        (["group/hospitals"], pb.OUTCOME_NO_CONSENT),
        (["clinic-b", "group/hospitals"], pb.OUTCOME_NO_CONSENT),
        (["clinic-abroad"], pb.OUTCOME_PERMIT),
        (["clinic-b", "clinic-abroad"], pb.OUTCOME_PERMIT),
    ):
        subject = running.enrol(new_identifier())
        grant(running, subject, actors=actors)
        asked = question(subject, actor=pb.Actor(organisation="clinic-abroad"))
        assert running.check(asked).outcome == outcome
    everybody, subject = running.enrol(new_identifier()), running.enrol(new_identifier())
    grant(running, everybody, actors=["*"])
    grant(running, subject, effect=pb.EFFECT_DENY, actors=["group/hospitals"])
    assert running.check(question(everybody, actor=pb.Actor(organisation="clinic-home"))).outcome == pb.OUTCOME_PERMIT
    asked = question(subject, actor=pb.Actor(organisation="clinic-abroad"))
    assert running.check(asked).outcome == pb.OUTCOME_DENY


def test_an_amendment_begins_with_its_entry_or_before(running: Running, subject: pb.Subject) -> None:
    consent_id = grant(running, subject)
    begins_later = {"period": pb.Period(start_time_ms=YEAR_2096_MS)}
    for fields in (begins_later, {**begins_later, "source": "fhir/r4 Consent/1"}):
        refused = refusal(lambda fields=fields: amend(running, subject, consent_id, "app", **fields))
        assert refused == "INVALID_CONSENT"
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    nested = pb.Provision(effect=pb.EFFECT_DENY, period=pb.Period(start_time_ms=YEAR_2096_MS))
    begun = pb.Period(start_time_ms=now_ms(running) - 1)
    assert amend(running, subject, consent_id, "app", period=begun, provisions=[nested]) == 2
    ahead = grant(running, subject, **begins_later)  # a renewal ahead of time is a consent of its own
    assert {one.consent_id for one in listed(running, subject)} == {consent_id, ahead}


def test_a_signed_amendment_begins_with_its_entry_or_before_too(running: Running) -> None:
    person = Person(running)
    consent_id = person.grant().consent_id
    (record,) = listed(running, person.subject)
    request = request_id()
    message = st.AmendStatement(lineage_seq=record.lineage_seq, version=2)
    message.consent.CopyFrom(consent(period=pb.Period(start_time_ms=YEAR_2096_MS)))
    write = cs.AmendConsentRequest(
        request_id=request, subject=person.subject, consent_id=consent_id, based_on_version=1,
        signed=person.sign(EntryKind.AMEND, message, request, ref=record.seq),
    )  # fmt: skip
    assert refusal(lambda: running.consents.AmendConsent(write, metadata=running.as_("app"))) == "INVALID_CONSENT"


@pytest.mark.parametrize(
    "fields",
    [
        {"period": pb.Period(end_time_ms=1 << 55)},
        {"period": pb.Period(start_time_ms=1 << 55)},
        {"period": pb.Period(start_time_ms=-1)},
        {"period": pb.Period(end_time_ms=253_402_300_800_001)},
        {"retention_until_time_ms": 253_402_300_800_001},
        {"data_period": pb.Period(start_time_ms=-62_135_629_200_001)},
        {"data_period": pb.Period(end_time_ms=1 << 55)},
        {"provisions": [pb.Provision(data_period=pb.Period(start_time_ms=-(1 << 55)))]},
        {"level": "n"},
        {"labels": ["R"]},
        {"provisions": [pb.Provision(level="X")]},
        {"provisions": [pb.Provision(labels=["V"])]},
        {"effect": pb.EFFECT_DENY, "labels": ["N"], "kind": pb.CONSENT_KIND_OBJECTION},
        {
            "effect": pb.EFFECT_DENY, "purposes": [], "kind": pb.CONSENT_KIND_OBJECTION,
            "provisions": [pb.Provision(effect=pb.EFFECT_PERMIT)],
        },
        {
            "effect": pb.EFFECT_DENY, "purposes": [], "kind": pb.CONSENT_KIND_OBJECTION,
            "provisions": [pb.Provision(provisions=[pb.Provision(provisions=[pb.Provision()])])],
        },
    ],
)  # fmt: skip
def test_what_a_consent_may_not_say_is_refused_in_every_version(
    running: Running, subject: pb.Subject, fields: dict[str, Any]
) -> None:
    refusals = ("INVALID_CONSENT", "UNKNOWN_CODE", "INVALID_REQUEST")
    assert refusal(lambda: grant(running, subject, **fields)) in refusals
    assert refusal(lambda: grant(running, subject, source="fhir/r4 Consent/1", **fields)) in refusals
    consent_id = grant(running, subject)
    assert refusal(lambda: amend(running, subject, consent_id, "app", **fields)) in refusals


def test_what_a_consent_may_say(running: Running, subject: pb.Subject) -> None:
    grant(running, subject, period=pb.Period(end_time_ms=253_402_300_800_000), level="R", labels=["HIV"])
    grant(running, subject, data_period=pb.Period(start_time_ms=-62_135_629_200_000, end_time_ms=-5))
    (older, newest) = reversed(listed(running, subject))
    assert (older.consent.root.level, list(older.consent.root.labels)) == ("R", ["HIV"])
    assert newest.consent.root.data_period.end_time_ms == -5


# -- who attests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actors", [["hospital-app"], ["clinic-b", "hospital-app"], ["group/hospitals"], ["*"]])
def test_a_recipient_alone_attests_nothing_that_widens_its_access(running: Running, actors: list[str]) -> None:
    subject = running.enrol(new_identifier())
    assert refusal(lambda: grant(running, subject, "hospital-app", actors=actors)) == "CALLER_NOT_ALLOWED"
    other = grant(running, subject, "hospital-app")
    assert refusal(lambda: amend(running, subject, other, "hospital-app", actors=actors)) == "CALLER_NOT_ALLOWED"
    consent_id = grant(running, subject, actors=actors)
    change(running, EntryKind.PAUSE, subject, consent_id, who="hospital-app")
    resumed = refusal(lambda: change(running, EntryKind.RESUME, subject, consent_id, who="hospital-app"))
    assert resumed == "CALLER_NOT_ALLOWED"
    change(running, EntryKind.REVOKE, subject, consent_id, who="hospital-app")
    objection = grant(running, subject, "hospital-app", effect=pb.EFFECT_DENY, actors=actors)
    ended = refusal(lambda: change(running, EntryKind.REVOKE, subject, objection, who="hospital-app"))
    assert ended == "CALLER_NOT_ALLOWED"
    changed = {"effect": pb.EFFECT_DENY, "actors": ["clinic-b"]}
    assert refusal(lambda: amend(running, subject, objection, "hospital-app", **changed)) == "CALLER_NOT_ALLOWED"
    change(running, EntryKind.REVOKE, subject, objection, who="app")


def test_a_policy_that_permits_break_glass_is_a_permit_for_the_actors_of_the_root(running: Running) -> None:
    objection = {"effect": pb.EFFECT_DENY, "implicit_policy": pb.IMPLICIT_POLICY_BREAK_GLASS_ONLY}
    for actors in ([], ["*"], ["hospital-app"], ["clinic-b", "group/hospitals"]):
        subject = running.enrol(new_identifier())
        fields = {"actors": actors, **objection}
        refused = refusal(lambda subject=subject, fields=fields: grant(running, subject, "hospital-app", **fields))
        assert refused == "CALLER_NOT_ALLOWED"
        grant(running, subject, "hospital-app", actors=actors, effect=pb.EFFECT_DENY)
        grant(running, subject, "app", **fields)
        grant(running, subject, "hospital-app", actors=["clinic-b"], **objection)
        assert len(listed(running, subject)) == 3


@pytest.mark.parametrize("policy", [pb.IMPLICIT_POLICY_DENY, pb.IMPLICIT_POLICY_BREAK_GLASS_ONLY])
def test_a_policy_that_denies_is_not_ended_by_whom_it_denies(
    running: Running, subject: pb.Subject, policy: "pb.ImplicitPolicy.ValueType"
) -> None:
    actors = {"actors": ["hospital-app"]}
    denies = grant(running, subject, implicit_policy=policy, **actors)
    assert refusal(lambda: change(running, EntryKind.REVOKE, subject, denies, who="hospital-app")) == (
        "CALLER_NOT_ALLOWED"
    )
    other = grant(running, subject, implicit_policy=policy)
    change(running, EntryKind.REVOKE, subject, other, who="hospital-app")
    permits = grant(running, subject, implicit_policy=pb.IMPLICIT_POLICY_ALL_NORMAL, **actors)
    change(running, EntryKind.REVOKE, subject, permits, who="hospital-app")
    change(running, EntryKind.REVOKE, subject, denies)


@pytest.mark.parametrize("policy", [pb.IMPLICIT_POLICY_BASIC_NORMAL, pb.IMPLICIT_POLICY_ALL_NORMAL])
def test_a_consent_that_denies_selects_no_policy_that_permits(
    running: Running, subject: pb.Subject, policy: "pb.ImplicitPolicy.ValueType"
) -> None:
    for kind in (pb.CONSENT_KIND_CONSENT, pb.CONSENT_KIND_OBJECTION):
        fields = {"effect": pb.EFFECT_DENY, "kind": kind, "implicit_policy": policy}
        assert refusal(lambda fields=fields: grant(running, subject, **fields)) == "INVALID_CONSENT"
    consent_id = grant(running, subject)
    changed = {"effect": pb.EFFECT_DENY, "implicit_policy": policy}
    assert refusal(lambda: amend(running, subject, consent_id, "app", **changed)) == "INVALID_CONSENT"
    assert amend(running, subject, consent_id, "app", implicit_policy=policy) == 2
    assert listed(running, subject)[0].consent.implicit_policy == policy


def test_a_break_glass_policy_covers_no_relay_and_nobody_who_left(running: Running, subject: pb.Subject) -> None:
    objection = {"effect": pb.EFFECT_DENY, "implicit_policy": pb.IMPLICIT_POLICY_BREAK_GLASS_ONLY}
    assert refusal(lambda: grant(running, subject, actors=["app"], **objection)) == "WRONG_ROLE"
    assert refusal(lambda: grant(running, subject, actors=["left"], **objection)) == "UNKNOWN_PARTICIPANT"
    objection["implicit_policy"] = pb.IMPLICIT_POLICY_DENY
    grant(running, subject, actors=["app", "left"], **objection)


def test_an_application_of_a_recipient_is_the_recipients_own(running: Running, subject: pb.Subject) -> None:
    register(running, "clinic-home-app", [RELAY], rights=[ACT])
    running.add_caller("clinic-home-app")
    grant(running, subject, "clinic-home-app", actors=["clinic-home"])
    running.delegate("clinic-home", "clinic-home-app", Capacity.APPLICATION)
    for actors in (["clinic-home"], ["clinic-b", "clinic-home"], ["group/homes"], ["*"]):
        refused = refusal(lambda actors=actors: grant(running, subject, "clinic-home-app", actors=actors))
        assert refused == "CALLER_NOT_ALLOWED"
        objection = grant(running, subject, effect=pb.EFFECT_DENY, actors=actors)
        ended = refusal(
            lambda objection=objection: change(running, EntryKind.REVOKE, subject, objection, who="clinic-home-app")
        )
        assert ended == "CALLER_NOT_ALLOWED"
    for actors in (["clinic-b"], ["group/hospitals"]):
        grant(running, subject, "clinic-home-app", actors=actors)
    running.delegate("clinic-home", "clinic-home-app", Capacity.APPLICATION, ended=True)
    grant(running, subject, "clinic-home-app", actors=["*"])


def test_a_recipient_passes_on_what_the_person_signed(running: Running) -> None:
    person = Person(running)
    request = request_id()
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=consent(actors=["hospital-app"])), request)
    write = cs.GrantConsentRequest(request_id=request, subject=person.subject, signed=signed)
    assert running.consents.GrantConsent(write, metadata=running.as_("hospital-app")).version == 1


def test_a_statement_that_a_person_signed_is_recorded_once_whoever_sends_it(running: Running) -> None:
    person = Person(running)
    request, message = request_id(), st.GrantStatement(consent=consent(actors=["hospital-app"]))
    write = cs.GrantConsentRequest(
        request_id=request, subject=person.subject, signed=person.sign(EntryKind.GRANT, message, request)
    )
    granted = running.consents.GrantConsent(write, metadata=running.as_("app"))
    change(running, EntryKind.REVOKE, person.subject, granted.consent_id)
    repeated = running.consents.GrantConsent(write, metadata=running.as_("hospital-app"))
    assert repeated.receipt.replayed
    assert repeated.receipt.index == granted.receipt.index
    asked = question(person.subject, actor=pb.Actor(organisation="hospital-app"))
    assert running.check(asked, "hospital-app").outcome == pb.OUTCOME_DENY
    assert [one.state for one in listed(running, person.subject, states=ALL_STATES)] == [cs.CONSENT_STATE_REVOKED]
    write.signed.signature = bytes(64)
    assert refusal(lambda: running.consents.GrantConsent(write, metadata=running.as_("app"))) == "BAD_SIGNATURE"


def test_a_signed_resumption_ends_no_later_pause(running: Running) -> None:
    person = Person(running)
    consent_id = person.grant(message=st.GrantStatement(consent=consent(actors=["hospital-app"]))).consent_id
    (stored,) = listed(running, person.subject)
    change(running, EntryKind.PAUSE, person.subject, consent_id)
    request = request_id()
    message = st.ResumeStatement(lineage_seq=stored.lineage_seq)
    again = {"request_id": request, "signed": person.sign(EntryKind.RESUME, message, request, ref=stored.seq)}
    resumed = change(running, EntryKind.RESUME, person.subject, consent_id, **again)
    change(running, EntryKind.PAUSE, person.subject, consent_id)
    repeated = change(running, EntryKind.RESUME, person.subject, consent_id, who="hospital-app", **again)
    assert repeated.replayed
    assert repeated.index == resumed.index
    assert [one.state for one in listed(running, person.subject)] == [cs.CONSENT_STATE_PAUSED]


def test_the_realms_rules_let_a_recipient_attest(running: Running, subject: pb.Subject) -> None:
    publish_rules(running, recipient_may_attest=True)
    grant(running, subject, "hospital-app", actors=["hospital-app"])
    publish_rules(running, recipient_may_attest=False)
    assert refusal(lambda: grant(running, subject, "hospital-app", actors=["*"])) == "CALLER_NOT_ALLOWED"


# -- what is registered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "rights"),
    [
        ([RELAY], [GLASS]),
        ([AUDITOR], [GLASS]),
        ([AUDITOR], [ACT]),
        ([COURT], [ACT]),
        ([COURT, RECIPIENT], [ACT]),
        ([AUDITOR], [REASONS]),
        ([COURT], [REASONS]),
        ([RECIPIENT], [READ]),
        ([COURT], [READ]),
        ([AUDITOR], [ERASE]),
    ],
)
def test_a_right_needs_a_role_that_goes_with_it(running: Running, roles: list[int], rights: list[int]) -> None:
    assert refusal(lambda: register(running, "mixed", roles, rights=rights)) == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "fields",
    [
        {"country": "kr"},
        {"country": "KOR"},
        {"country": "K\n"},
        {"recipient_class": 9},
        {"roles": [RELAY], "recipient_class": st.RECIPIENT_CLASS_GENERAL_AGENCY},
    ],
)
def test_country_and_class_are_checked(running: Running, fields: dict[str, Any]) -> None:
    asked = {"roles": [RECIPIENT], **fields}
    assert refusal(lambda: register(running, "mixed", asked.pop("roles"), **asked)) == "INVALID_REQUEST"
