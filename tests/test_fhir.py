"""FHIR import: real consents mean here what they mean there, dirty ones are refused, and nothing is done twice."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases.reference_policy as reference
from consentd.errors import ConflictError, InvalidError, StorageError
from consentd.fhir import importer
from consentd.fhir.consents import (
    ImportedConsent,
    Refused,
    content_id,
    format_source,
    identity_id,
    import_request_id,
    read_consents,
)
from consentd.fhir.document import MAX_DOCUMENT_BYTES, Cause, content_hash
from consentd.fhir.importer import ImportResult, import_paths
from consentd.fhir.mapping import FhirMapping, SubjectReference, load_mapping, parse_mapping
from consentd.fhir.resources import Release
from consentd.policy.codebook import Codebook, pack_question
from consentd.policy.compile import compile_consent, compile_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY as VOCABULARY
from consentd.policy.evaluate import decision, evaluate
from consentd.policy.model import (
    ANY,
    OPEN_END_MS,
    Actor,
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Obligation,
    Outcome,
    Period,
    Provision,
    Question,
    Resource,
    Rules,
    StoredConsent,
)
from consentd.policy.residual import covers
from consentd.policy.subject import with_consent

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
PCF = DATA / "pcf"
HL7 = DATA / "r4_examples_consent-example.json"
needs_data = pytest.mark.skipif(not PCF.is_dir(), reason="shared data is not beside the project")

MAPPING = load_mapping(ROOT / "ops/fhir-mapping.toml", VOCABULARY)
NUMBERS = {"ex-org-researcher": 1, "group/privileged-users": 2, "clinic": 3, "emergency-room": 4, "hospital": 5}
GROUPS = {"emergency-room": {"group/privileged-users"}}
RULES = Rules()
CODEBOOK = Codebook(VOCABULARY, NUMBERS, GROUPS)
COMPILED_RULES = compile_rules(RULES, VOCABULARY, NUMBERS)

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000  # November 2023
END_OF_2022_MS = 1_672_498_800_000  # 2023-01-01T00:00+09:00
PERMIT, DENY, NO_CONSENT, PARTIAL = Outcome.PERMIT, Outcome.DENY, Outcome.NO_CONSENT, Outcome.PARTIAL
SYSTEM = "http://terminology.hl7.org/CodeSystem/"

R4: dict[str, Any] = {
    "resourceType": "Consent",
    "id": "own",
    "status": "active",
    "scope": {"coding": [{"system": f"{SYSTEM}consentscope", "code": "patient-privacy"}]},
    "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
    "patient": {"reference": "Patient/ex-patient"},
    "policyRule": {"coding": [{"system": f"{SYSTEM}v3-ActCode", "code": "OPTIN"}]},
    "provision": {"purpose": [{"system": f"{SYSTEM}v3-ActReason", "code": "TREAT"}]},
}
R5: dict[str, Any] = {
    "resourceType": "Consent",
    "id": "own",
    "status": "active",
    "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
    "subject": {"reference": "Patient/ex-patient"},
    "decision": "deny",
    "provision": [{"purpose": [{"system": f"{SYSTEM}v3-ActReason", "code": "TREAT"}]}],
}
IRCP = {"coding": [{"system": f"{SYSTEM}v3-ParticipationType", "code": "IRCP"}]}
RESEARCHER = {"role": IRCP, "reference": {"reference": "Organization/ex-org-researcher"}}


def reason(code: str) -> dict[str, str]:
    return {"system": f"{SYSTEM}v3-ActReason", "code": code}


def read(resource: dict[str, Any] | str | bytes, mapping: FhirMapping = MAPPING, *, test_data: bool = True) -> Any:
    text = resource if isinstance(resource, str | bytes) else json.dumps(resource)
    (result,) = read_consents(text, mapping, test_data=test_data)
    return result


def imported(resource: dict[str, Any] | str | bytes, mapping: FhirMapping = MAPPING) -> ImportedConsent:
    result = read(resource, mapping)
    assert isinstance(result, ImportedConsent), result
    return result


def pcf(name: str) -> Consent:
    result = imported((PCF / f"ex-{name}.json").read_bytes())
    assert result.resource == f"Consent/ex-{name}"
    return result.consent


def ask(
    consent: Consent,
    purpose: str = "TREAT",
    *,
    by: str = "clinic",
    of: str = "CLIN.VIT",
    at: int = NOW_MS,
    labels: tuple[str, ...] | None = None,
    resources: tuple[str, ...] | None = None,
    data_period: Period | None = None,
    residual: bool = False,
) -> Decision:
    """Ask the reference and the compiled evaluator, which must agree, on this consent alone."""
    question = Question(
        actor=Actor(organisation=by),
        holder="hospital",
        purpose=purpose,
        action="access",
        categories=(of,),
        labels=labels,
        resources=resources,
        data_period=data_period,
        break_glass="unconscious" if purpose == "BTG" else None,
        supported_obligations=frozenset({Obligation.ENFORCE_RESIDUAL} if residual else ()),
    )
    stored = StoredConsent(lineage=1, seq=1, version=1, consent=consent)
    meant = reference.decide(question, [stored], RULES, VOCABULARY, now_ms=at, groups=GROUPS)
    value = with_consent(None, stored, compile_consent(stored, VOCABULARY, NUMBERS))
    packed = pack_question(question, CODEBOOK)
    compiled = decision(evaluate(value, packed, COMPILED_RULES, at), packed, CODEBOOK, COMPILED_RULES)
    assert (compiled.outcome, compiled.permitted, compiled.valid_until_ms, compiled.obligations) == (
        meant.outcome, meant.permitted, meant.valid_until_ms, meant.obligations,
    )  # fmt: skip
    return compiled


def outcomes(consent: Consent, *questions: dict[str, Any]) -> list[Outcome]:
    return [ask(consent, **question).outcome for question in questions]


def purposes(*codes: str) -> list[dict[str, str]]:
    return [{"purpose": code} for code in codes]


# What the PCF examples mean: the guide's notes, consent.md 3.3 and 3.4.


@needs_data
def test_basic_treat_permits_its_purposes_and_no_other() -> None:
    consent = pcf("consent-basic-treat")
    assert (consent.kind, consent.policy) == (Kind.CONSENT, None)
    assert (consent.root.actors, consent.root.categories) == ((ANY,), (ANY,))
    assert outcomes(consent, *purposes("TREAT", "HPAYMT", "HOPERAT", "COC")) == [PERMIT] * 4
    assert outcomes(consent, *purposes("HRESCH", "HMARKT", "BTG", "CLINTRL")) == [NO_CONSENT] * 4
    assert ask(consent, residual=True).obligations == ()  # the guide: no residual


@needs_data
def test_basic_research_permits_research_only() -> None:
    consent = pcf("consent-basic-research")
    assert outcomes(consent, *purposes("HRESCH", "DSRCH")) == [PERMIT] * 2
    assert outcomes(consent, *purposes("TREAT", "POARCH", "AITRAIN")) == [NO_CONSENT] * 3


@needs_data
def test_basic_reject_is_an_objection() -> None:
    consent = pcf("consent-basic-reject")
    assert consent.kind is Kind.OBJECTION
    # A deny covers what a permit would not imply: break-glass lies under treatment.
    assert outcomes(consent, *purposes("TREAT", "HPAYMT", "HOPERAT", "BTG")) == [DENY] * 4
    assert outcomes(consent, *purposes("HRESCH")) == [NO_CONSENT]


@needs_data
def test_expired_treat_ends_with_its_last_day_in_seoul() -> None:
    consent = pcf("consent-expired-treat")
    before = ask(consent, at=END_OF_2022_MS - 1)
    assert (before.outcome, before.valid_until_ms) == (PERMIT, END_OF_2022_MS)
    assert ask(consent, at=END_OF_2022_MS).outcome is NO_CONSENT


@needs_data
def test_purpose_is_for_one_recipient_above_its_policy() -> None:
    consent = pcf("consent-intermediate-purpose")
    assert consent.policy is ImplicitPolicy.BASIC_NORMAL
    assert ask(consent, "DSRCH", by="ex-org-researcher").outcome is PERMIT  # FooBar, by the mapping
    assert ask(consent, "DSRCH", by="clinic").outcome is NO_CONSENT
    assert ask(consent, "HRESCH", by="ex-org-researcher").outcome is NO_CONSENT
    assert ask(consent, "TREAT", of="CLIN.VIT").outcome is PERMIT  # normal data, by Policy-basic-normal
    assert ask(consent, "TREAT", of="CLIN.DX").outcome is NO_CONSENT  # restricted


@needs_data
def test_data_permits_the_listed_resources_alone() -> None:
    consent = pcf("consent-intermediate-data")
    listed = ("Encounter/ex-encounter", "Observation/ex-alcoholUse")
    assert ask(consent, resources=listed).outcome is PERMIT
    assert ask(consent, resources=("Observation/ex-other",)).outcome is NO_CONSENT
    assert ask(consent, resources=(*listed, "Observation/ex-other")).outcome is NO_CONSENT
    assert ask(consent).outcome is NO_CONSENT
    left_open = ask(consent, residual=True)
    assert (left_open.outcome, left_open.obligations) == (PERMIT, (Obligation.ENFORCE_RESIDUAL,))
    assert [
        covers(left_open.residual, Resource(category="CLIN.VIT", reference=name))
        for name in ("Observation/ex-weight", "Observation/ex-other")
    ] == [True, False]


@needs_data
def test_not_data_denies_the_listed_resource_alone() -> None:
    consent = pcf("consent-intermediate-not-data")
    assert ask(consent, resources=("Observation/ex-alcoholUse",)).outcome is DENY
    assert ask(consent, resources=("Observation/ex-weight",)).outcome is PERMIT
    assert ask(consent, resources=("Observation/ex-weight", "Observation/ex-alcoholUse")).outcome is DENY
    left_open = ask(consent, residual=True)
    assert left_open.outcome is PERMIT
    assert [
        covers(left_open.residual, Resource(category="CLIN.VIT", reference=name))
        for name in ("Observation/ex-weight", "Observation/ex-alcoholUse")
    ] == [True, False]


@needs_data
def test_timeframe_permits_data_of_2022_by_seoul() -> None:
    consent = pcf("consent-intermediate-timeframe")
    start = END_OF_2022_MS - 365 * DAY_MS
    assert ask(consent, data_period=Period(start, END_OF_2022_MS)).outcome is PERMIT
    assert ask(consent, data_period=Period(start - 1, END_OF_2022_MS)).outcome is NO_CONSENT
    assert ask(consent, data_period=Period(start, END_OF_2022_MS + 1)).outcome is NO_CONSENT
    assert ask(consent, data_period=Period(start, END_OF_2022_MS), at=END_OF_2022_MS + 10**12).outcome is PERMIT
    (rule,) = ask(consent, residual=True).residual
    assert rule.data_period == Period(start, END_OF_2022_MS)


@needs_data
@pytest.mark.parametrize(("name", "restricted"), [("normal", NO_CONSENT), ("normal-restricted", PERMIT)])
def test_labels_limit_what_may_flow(name: str, restricted: Outcome) -> None:
    consent = pcf(f"consent-advanced-{name}")
    assert ask(consent, labels=("N",)).outcome is PERMIT
    assert ask(consent, labels=("R",)).outcome is restricted
    assert ask(consent, labels=("N", "R")).outcome is restricted
    assert ask(consent, "HRESCH", labels=("N",)).outcome is NO_CONSENT


@needs_data
def test_break_glass_inside_a_permit_adds_restricted_data_for_the_privileged() -> None:
    consent = pcf("consent-advanced-normal-break-glass-restricted")
    assert ask(consent, labels=("N",)).outcome is PERMIT
    assert ask(consent, labels=("R",)).outcome is NO_CONSENT
    assert ask(consent, "TREAT", by="emergency-room", labels=("R",)).outcome is NO_CONSENT
    assert ask(consent, "BTG", by="clinic", labels=("R",)).outcome is NO_CONSENT
    # What the child states replaces its parent's (rule 2): broken glass shows R, where the guide's prose adds N.
    assert ask(consent, "BTG", by="emergency-room", labels=("N",)).outcome is NO_CONSENT
    broken = ask(consent, "BTG", by="emergency-room", labels=("R",))
    assert broken.outcome is PERMIT
    assert broken.obligations == (Obligation.NOTIFY_SUBJECT, Obligation.POST_REVIEW)


@needs_data
def test_dissent_is_broken_by_the_privileged_alone() -> None:
    consent = pcf("dissent-intermediate-break-glass")
    assert (consent.kind, consent.policy) == (Kind.OBJECTION, ImplicitPolicy.BREAK_GLASS_ONLY)
    assert outcomes(consent, *purposes("TREAT", "HRESCH", "HMARKT", "BTG")) == [DENY] * 4
    assert ask(consent, "BTG", by="emergency-room").outcome is PERMIT


@needs_data
def test_hl7_example_opted_in_until_2016() -> None:
    result = imported(HL7.read_bytes())
    end = 1_451_660_400_000  # 2016-01-02T00:00+09:00: the end is the day 2016-01-01
    assert outcomes(result.consent, *({"at": end - 1, **q} for q in purposes("TREAT", "HRESCH"))) == [PERMIT] * 2
    # It states no purpose; silence permits neither marketing nor break-glass (rule 6).
    assert outcomes(result.consent, *({"at": end - 1, **q} for q in purposes("HMARKT", "BTG"))) == [NO_CONSENT] * 2
    assert ask(result.consent, at=end).outcome is NO_CONSENT
    assert "the base is permit, by policyRule" in result.notes
    assert any("states no purpose" in note for note in result.notes)


@needs_data
def test_every_example_is_imported_and_none_without_test_data() -> None:
    files = sorted(PCF.glob("*.json"))
    assert len(files) == 12
    for file in files:
        result = imported(file.read_bytes())
        assert result.consent.source.startswith("fhir/r4#")
        assert "ex-patient" not in f"{result!r}".lower()
        refused = read(file.read_bytes(), test_data=False)
        assert refused.cause is Cause.TEST_DATA


# R5: the decision is the base, provisions are its exceptions.


def test_r5_deny_with_an_exception_permits_it() -> None:
    result = imported(R5)
    consent = result.consent
    assert (consent.kind, consent.source[:8]) == (Kind.OBJECTION, "fhir/r5#")
    assert outcomes(consent, *purposes("TREAT", "HRESCH", "HMARKT")) == [PERMIT, DENY, DENY]


def test_r5_exceptions_of_exceptions_alternate() -> None:
    inner = {"actor": [RESEARCHER]}
    resource = {**R5, "decision": "permit", "provision": [{"purpose": [reason("HRESCH")], "provision": [inner]}]}
    consent = imported(resource).consent
    assert consent.kind is Kind.CONSENT
    assert ask(consent, "TREAT").outcome is PERMIT
    assert ask(consent, "HRESCH").outcome is DENY
    assert ask(consent, "HRESCH", by="ex-org-researcher").outcome is PERMIT


def test_r5_denied_recipient_is_denied_marketing_too() -> None:
    # The base permits by silence what can be implied; the exception denies everything, marketing included.
    consent = imported({**R5, "decision": "permit", "provision": [{"actor": [RESEARCHER]}]}).consent
    assert consent.root.children[0].purposes == (ANY,)
    assert outcomes(consent, *({"by": "ex-org-researcher", **q} for q in purposes("TREAT", "HMARKT"))) == [DENY] * 2


def test_r5_period_of_the_consent_bounds_it() -> None:
    period = {"start": "2022", "end": "2022-12"}
    consent = imported({**R5, "period": period}).consent
    assert (consent.root.start_ms, consent.root.end_ms) == (END_OF_2022_MS - 365 * DAY_MS, END_OF_2022_MS)
    assert ask(consent, at=END_OF_2022_MS - 1).outcome is PERMIT
    assert ask(consent, at=END_OF_2022_MS).outcome is NO_CONSENT


def test_r5_resource_types_need_a_place() -> None:
    coding = {"system": "http://hl7.org/fhir/fhir-types", "code": "Condition"}
    consent = imported({**R5, "provision": [{**R5["provision"][0], "resourceType": [coding]}]}).consent
    assert [ask(consent, of=code).outcome for code in ("CLIN.DX", "CLIN.LAB", "CLIN")] == [PERMIT, DENY, PARTIAL]
    other = {**coding, "code": "Observation"}
    refused = read({**R5, "provision": [{"resourceType": [other]}]})
    assert refused.cause is Cause.UNKNOWN_CODE
    assert f"`{other['system']}|Observation` at `provision[0].resourceType[0]`" in refused.message


# The dirty set: what other software writes, and what fhir.resources lets pass.


def r4(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**R4, **changes}.items() if value is not None}


def r5(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**R5, **changes}.items() if value is not None}


def provision(**members: Any) -> dict[str, Any]:
    return r4(provision={**R4["provision"], **members})


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{SYSTEM}{system}", "code": code}]}


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "deny"}
    for _ in range(depth - 2):
        inner = {"type": "deny", "provision": [inner]}
    return provision(provision=[inner])


EXTENSION = [{"url": "http://example.org/only-if", "valueBoolean": True}]
DIRTY: dict[str, tuple[dict[str, Any], Cause]] = {
    # shape
    "scope is missing": (r4(scope=None), Cause.NOT_VALID),
    "class in R5": (r5(provision=[{"class": [reason("TREAT")]}]), Cause.NOT_VALID),
    "regulatoryBasis is an object": (r5(regulatoryBasis={"text": "law"}), Cause.NOT_VALID),
    "code is a scalar": (provision(code=concept("v3-ActCode", "X")), Cause.NOT_VALID),
    "date is an instant": (r5(date="2022-01-01T00:00:00Z"), Cause.NOT_VALID),
    "dateTime has no zone": (r4(dateTime="2022-02-30T00:00:00"), Cause.NOT_VALID),
    "provision is a list in R4": (r4(provision=[{"type": "permit"}]), Cause.NOT_VALID),
    "provision is an object in R5": (r5(provision={"type": "permit"}), Cause.NOT_VALID),
    "reference is JSON in a string": (r4(patient='{"reference": "Patient/ex-patient"}'), Cause.NOT_VALID),
    "element is nobody's": (r4(colour="red"), Cause.NOT_VALID),
    "python's name of class": (provision(class_fhir=[reason("TREAT")]), Cause.UNSUPPORTED_CONTENT),
    "extension of a primitive": (provision(_type={"extension": EXTENSION}), Cause.UNSUPPORTED_CONTENT),
    "id is missing": (r4(id=None), Cause.NOT_VALID),
    "id is no id": (r4(id="a b"), Cause.NOT_VALID),
    "neither policy nor policyRule": (
        r4(policyRule=None, provision={"type": "permit"}), Cause.NOT_VALID,
    ),
    # which resource, which release
    "another resource": ({"resourceType": "Patient", "id": "x"}, Cause.RESOURCE_TYPE),
    "no resource type": (r4(resourceType=None), Cause.RESOURCE_TYPE),
    "R4 and R5 at once": (r4(decision="permit"), Cause.RELEASE),
    "neither R4 nor R5": ({"resourceType": "Consent", "id": "x", "status": "active"}, Cause.RELEASE),
    # status, scope, category, author, subject
    **{
        f"status is {status}": (r4(status=status), Cause.STATUS)
        for status in ("draft", "proposed", "rejected", "inactive", "entered-in-error", "ACTIVE", "valid")
    },
    "status is missing": (r5(status=None), Cause.NOT_VALID),
    "scope is treatment": (r4(scope=concept("consentscope", "treatment")), Cause.SCOPE),
    "scope is of another system": (r4(scope=concept("other", "patient-privacy")), Cause.SCOPE),
    "category is an advance directive": (r4(category=[concept("consentcategorycodes", "acd")]), Cause.CATEGORY),
    "R5 without category": (r5(category=None), Cause.CATEGORY),
    "category is text": (r4(category=[{"text": "privacy"}]), Cause.UNKNOWN_CODE),
    "performer is a relative": (r4(performer=[{"reference": "RelatedPerson/mother"}]), Cause.AUTHOR),
    "grantor is a relative": (r5(grantor=[{"reference": "RelatedPerson/mother"}]), Cause.AUTHOR),
    "grantee": (r5(grantee=[{"reference": "Organization/x"}]), Cause.UNSUPPORTED_CONTENT),
    "patient is unknown": (r4(patient={"reference": "Patient/whoever"}), Cause.UNKNOWN_SUBJECT),
    "patient is only a name": (r4(patient={"display": "Somebody"}), Cause.UNKNOWN_SUBJECT),
    "patient is missing": (r4(patient=None), Cause.UNKNOWN_SUBJECT),
    "verification": (r4(verification=[{"verified": False}]), Cause.UNSUPPORTED_CONTENT),
    # base
    "no base": (r4(policyRule=None, policy=[{"uri": "http://x.example"}]), Cause.BASE),
    "policyRule is another code": (r4(policyRule=concept("v3-ActCode", "OPTOUTE")), Cause.BASE),
    "policyRule is text": (r4(policyRule={"text": "opt in"}), Cause.UNKNOWN_CODE),
    "type contradicts policyRule": (provision(type="deny"), Cause.BASE),
    "R5 without decision": (r5(decision=None), Cause.BASE),
    "decision is another code": (r5(decision="maybe"), Cause.UNKNOWN_CODE),
    "type is another code": (provision(type="opt-in"), Cause.UNKNOWN_CODE),
    "two implicit policies": (
        r4(policy=[{"uri": f"https://profiles.ihe.net/ITI/PCF/Policy-{name}"} for name in ("deny", "all-normal")]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    # modifiers
    "modifierExtension": (r4(modifierExtension=EXTENSION), Cause.UNSUPPORTED_CONTENT),
    "modifierExtension at depth": (
        provision(provision=[{"type": "deny", "actor": [{**RESEARCHER, "modifierExtension": EXTENSION}]}]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    "modifierExtension in a contained resource": (
        r4(contained=[{"resourceType": "Organization", "id": "o", "modifierExtension": EXTENSION}]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    "implicitRules": (r4(implicitRules="http://example.org/rules"), Cause.UNSUPPORTED_CONTENT),
    "copy was shortened": (
        r4(meta={"tag": [{"system": f"{SYSTEM}v3-ObservationValue", "code": "SUBSETTED"}]}), Cause.UNSUPPORTED_CONTENT,
    ),
    "test data by its label": (r4(meta={"security": [reason("HTEST")]}), Cause.TEST_DATA),
    "test data by its purpose": (provision(purpose=[reason("HTEST")]), Cause.TEST_DATA),
    # provisions
    "purpose is unknown": (provision(purpose=[reason("FooBar")]), Cause.UNKNOWN_CODE),
    "purpose is of another system": (provision(purpose=[{"system": "urn:x", "code": "TREAT"}]), Cause.UNKNOWN_CODE),
    "purpose has no system": (provision(purpose=[{"code": "TREAT"}]), Cause.UNKNOWN_CODE),
    "label is unknown": (
        provision(securityLabel=[{"system": f"{SYSTEM}v3-ActCode", "code": "CEL"}]), Cause.UNKNOWN_CODE,
    ),
    "action is unknown": (provision(action=[concept("consentaction", "sell")]), Cause.UNKNOWN_CODE),
    "class is unknown": (provision(**{"class": [{"system": "urn:x", "code": "CDA"}]}), Cause.UNKNOWN_CODE),
    "code is unknown": (provision(code=[concept("other", "x")]), Cause.UNKNOWN_CODE),
    "class and code": (
        provision(**{"class": [reason("x")], "code": [concept("other", "x")]}), Cause.UNSUPPORTED_CONTENT,
    ),
    "role is custodian": (
        provision(actor=[{**RESEARCHER, "role": concept("v3-ParticipationType", "CST")}]), Cause.ROLE,
    ),
    "R5 actor without role": (r5(provision=[{"actor": [{"reference": RESEARCHER["reference"]}]}]), Cause.ROLE),
    "actor is unknown": (
        provision(actor=[{"role": IRCP, "reference": {"reference": "Organization/x"}}]), Cause.UNKNOWN_PARTICIPANT,
    ),
    "data is related": (
        provision(data=[{"meaning": "related", "reference": {"reference": "Observation/1"}}]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    "data is elsewhere": (
        provision(data=[{"meaning": "instance", "reference": {"reference": "http://else.example/Observation/1"}}]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    "data is a version": (
        provision(data=[{"meaning": "instance", "reference": {"reference": "Observation/1/_history/2"}}]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    "expression": (
        r5(provision=[{"expression": {"language": "text/cql", "expression": "true"}}]), Cause.UNSUPPORTED_CONTENT,
    ),
    "period ends before it starts": (provision(period={"start": "2023", "end": "2022"}), Cause.PERIOD),
    "period is in other digits": (provision(period={"start": "２０２２"}), Cause.NOT_VALID),
    "period is no day": (provision(period={"start": "2022-02-30"}), Cause.NOT_VALID),
    "period has no bound": (provision(period={"id": "p"}), Cause.PERIOD),
    "period is a number": (provision(period={"start": 5}), Cause.NOT_VALID),
    "period ends before 1970": (provision(period={"end": "1960"}), Cause.PERIOD),
    "data period begins before 1970": (provision(dataPeriod={"start": "1960"}), Cause.PERIOD),
    "nests too deep": (nested(9), Cause.UNSUPPORTED_CONTENT),
    "too many provisions": (provision(provision=[{"type": "deny"}] * 256), Cause.INVALID_CONSENT),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRTY)
def test_dirty_consents_are_refused(name: str) -> None:
    resource, cause = DIRTY[name]
    result = read(resource, test_data=False)
    assert isinstance(result, Refused), result
    assert result.cause is cause, result.message
    assert result.message[0].islower()
    assert not any(person in result.message for person in ("whoever", "Somebody", "mother", "ex-patient"))


def test_the_clean_ones_differ_from_the_dirty_by_that_alone() -> None:
    for resource in (R4, R5, nested(8), provision(provision=[{"type": "deny"}] * 255), provision(actor=[RESEARCHER])):
        assert isinstance(read(resource, test_data=False), ImportedConsent)


def test_refusal_names_the_resource_where_it_can() -> None:
    assert read({"resourceType": "AuditEvent", "id": "example"}).resource == "AuditEvent/example"
    assert read(r4(id="a b")).resource == read({"resourceType": 1, "id": "x"}).resource == ""


def test_modifiers_are_named_with_their_path() -> None:
    resource, _ = DIRTY["modifierExtension at depth"]
    assert "`provision.provision[0].actor[0].modifierExtension`" in read(resource).message


TEXTS = {
    "not JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "not UTF-8": b'{"a": "\xff"}',
    "a key twice": b'{"status": "inactive", "status": "active"}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": 1e999}',
    "null": b'{"a": null}',
    "an empty array": b'{"a": []}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a lone surrogate in a key": b'{"\\ud800": "a"}',
    "a very long integer": b'{"a": ' + b"1" * 5000 + b"}",
    "nested deep": b'{"a":' * 100_000,
    "arrays nested deep": b"[" * 500_000,
    "quotes without end": b'"\\"' * 300_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_ambiguous_text_is_refused(name: str) -> None:
    result = read(TEXTS[name])
    assert (result.cause, result.resource) == (Cause.NOT_JSON, "")


def test_long_text_is_refused() -> None:
    text = json.dumps(R4)
    assert isinstance(read(text.ljust(MAX_DOCUMENT_BYTES)), ImportedConsent)
    assert read(text.ljust(MAX_DOCUMENT_BYTES + 1)).cause is Cause.TOO_LARGE
    assert read("가" * (MAX_DOCUMENT_BYTES // 2)).cause is Cause.TOO_LARGE


# Times, data, recipients and holders.


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ({"start": "2022"}, 1_640_962_800_000, OPEN_END_MS),  # 2022-01-01T00:00+09:00
        ({"end": "2022"}, 0, END_OF_2022_MS),
        ({"end": "2022-02"}, 0, 1_646_060_400_000),  # 2022-03-01T00:00+09:00
        ({"end": "2024-02-29"}, 0, 1_709_218_800_000),  # 2024-03-01T00:00+09:00
        ({"start": "1964-01-01", "end": "2022-12-31"}, 0, END_OF_2022_MS),
        ({"end": "9999-12-31"}, 0, OPEN_END_MS),
        ({"end": "2022-12-31T12:00:00Z"}, 0, 1_672_488_000_000),
        ({"start": "2022-12-31T21:00:00.500+09:00"}, 1_672_488_000_500, OPEN_END_MS),
    ],
)
def test_dates_are_days_of_seoul(period: dict[str, str], start: int, end: int) -> None:
    root = imported(provision(period=period)).consent.root
    assert (root.start_ms, root.end_ms) == (start, end)


def test_absolute_references_under_a_base_are_relative() -> None:
    data = [{"meaning": "instance", "reference": {"reference": "http://example.org/fhir/Observation/1"}}]
    consent = imported(provision(data=data)).consent
    assert consent.root.resources == ("Observation/1",)
    subject = {"reference": "http://example.org/fhir/Patient/ex-patient"}
    assert imported(r4(patient=subject)).subject == imported(R4).subject


def test_subject_may_be_known_by_identifier() -> None:
    identifier = {"system": "https://myhealthway.go.kr", "value": "M-1"}
    result = imported(r4(patient={"identifier": identifier}, performer=[{"identifier": identifier}]))
    assert result.subject == SubjectReference("mhid", "M-1")
    both = r4(patient={"reference": "Patient/ex-patient", "identifier": identifier})
    assert read(both).cause is Cause.UNKNOWN_SUBJECT


def test_keeper_of_a_consent_limits_it_only_when_the_mapping_says_so() -> None:
    resource = r4(organization=[{"reference": "Organization/ex-organization"}])
    assert imported(resource).consent.root.holders == ()
    mapping = parse_mapping(
        '[subjects]\n"Patient/ex-patient" = { scheme = "mhid", value = "X" }\n'
        '[holders]\n"Organization/ex-organization" = "hospital"',
        VOCABULARY,
    )
    assert imported(resource, mapping).consent.root.holders == ("hospital",)


def test_codings_of_one_concept_are_translations() -> None:
    known = {"system": f"{SYSTEM}consentaction", "code": "access"}
    other = {"system": "urn:x", "code": "read"}
    assert imported(provision(action=[{"coding": [other, known]}])).consent.root.actions == ("access",)
    clash = {"coding": [known, {**known, "code": "use"}]}
    assert read(provision(action=[clash])).cause is Cause.UNKNOWN_CODE


def test_effect_names_are_those_of_fhir() -> None:
    child = {"type": "deny", "action": [concept("consentaction", "use")]}
    root = imported(provision(type="permit", provision=[child])).consent.root
    assert (root.effect, root.children[0].effect) == (Effect.PERMIT, Effect.DENY)


# Bundles.


def bundle(*resources: dict[str, Any], **members: Any) -> dict[str, Any]:
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries, **members}


def test_bundle_gives_one_result_an_entry() -> None:
    results = read_consents(json.dumps(bundle(R4, r4(id="b", status="draft"), r5(id="c"))), MAPPING)
    assert [type(result) for result in results] == [ImportedConsent, Refused, ImportedConsent]
    assert [result.resource for result in results] == ["Consent/own", "Consent/b", "Consent/c"]
    assert isinstance(results[1], Refused)
    assert "`entry[1].resource.status`" in results[1].message


def test_modifier_inside_an_entry_refuses_that_entry() -> None:
    results = read_consents(json.dumps(bundle(R4, r4(id="b", modifierExtension=EXTENSION))), MAPPING)
    assert isinstance(results[0], ImportedConsent)
    assert isinstance(results[1], Refused)
    assert "`entry[1].resource.modifierExtension`" in results[1].message


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        (bundle(), Cause.NOT_JSON),
        (bundle(R4, type="history"), Cause.RESOURCE_TYPE),
        (bundle(R4, type="transaction"), Cause.RESOURCE_TYPE),
        (bundle(R4, modifierExtension=EXTENSION), Cause.UNSUPPORTED_CONTENT),
        (bundle(R4, link=[{"relation": "self", "modifierExtension": EXTENSION}]), Cause.UNSUPPORTED_CONTENT),
        (bundle(R4, colour="red"), Cause.UNSUPPORTED_CONTENT),
        (bundle(R4, entry=[{"fullUrl": "urn:x"}]), Cause.RESOURCE_TYPE),
        (bundle(R4, entry=[{"resource": R4, "request": {"method": "DELETE"}}]), Cause.UNSUPPORTED_CONTENT),
        (bundle(bundle(R4)), Cause.RESOURCE_TYPE),
        (bundle({"resourceType": "Patient", "id": "p"}), Cause.RESOURCE_TYPE),
    ],
)
def test_bundles_that_are_no_set_of_consents_are_refused(document: dict[str, Any], cause: Cause) -> None:
    assert read(document).cause is cause


def test_one_resource_twice_in_a_bundle_is_refused() -> None:
    results = read_consents(json.dumps(bundle(R4, R4)), MAPPING)
    assert isinstance(results[1], Refused)
    assert results[1].cause is Cause.CHANGED


# The mapping.


@pytest.mark.parametrize(
    "text",
    [
        "colour = 1",
        "[purpose]",
        "purposes = 1",
        "bases = 1",
        "bases = [1]",
        "[purposes",
        '[purposes]\n"FooBar" = "TREAT"',
        '[purposes]\n"pcf|FooBar" = "TREAT"',
        '[purposes]\n"urn:x|FooBar" = "NOPE"',
        '[purposes]\n"urn:x|FooBar" = "*"',
        '[purposes]\n"urn:x|FooBar" = []',
        '[purposes]\n"urn:x|FooBar" = ["TREAT", "TREAT"]',
        '[labels]\n"urn:x|a" = "TREAT"',
        '[actors]\n"Organization/x" = 1',
        '[actors]\n"Organization/x" = ""',
        '[policies]\n"urn:x" = "permit-all"',
        '[policies]\n"urn:x" = ["deny"]',
        '[subjects]\n"Patient/secret" = "x"',
        '[subjects]\n"Patient/secret" = { scheme = "mhid" }',
        '[subjects]\n"Patient/secret" = { scheme = "mhid", value = "x", extra = 1 }',
        '[subjects]\n"Patient/secret" = { scheme = "mhid", value = "\u1100\u1161" }',
        '[subjects]\n"Patient/secret" = { scheme = "RRN", value = "x" }',
        '[subjects]\n"https://mois.go.kr/rrn|secret" = { scheme = "x", value = "x" }',
        '[schemes]\n"https://mois.go.kr/rrn" = "x"',
        '[schemes]\n"urn:x" = "nnkor"',
    ],
)
def test_mapping_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(InvalidError) as raised:
        parse_mapping(text, VOCABULARY)
    assert "secret" not in str(raised.value)


def test_mapping_has_the_places_that_need_no_line() -> None:
    mapping = parse_mapping("", VOCABULARY)
    assert mapping.purposes[f"{SYSTEM}v3-ActReason|TREAT"] == ("TREAT",)
    assert mapping.labels[f"{SYSTEM}v3-Confidentiality|R"] == ("R",)
    assert mapping.labels[f"{SYSTEM}v3-ActCode|ETHUD"] == ("ETHUD",)
    assert mapping.actions[f"{SYSTEM}consentaction|disclose"] == ("disclose",)
    assert mapping.policies["https://profiles.ihe.net/ITI/PCF/Policy-all-normal"] is ImplicitPolicy.ALL_NORMAL
    assert not mapping.categories
    assert "TREAT" not in repr(mapping.vocabulary and mapping.subjects)


def test_mapping_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="cannot be read"):
        load_mapping(tmp_path / "none.toml", VOCABULARY)


# Identity: the same content is imported once.


def test_request_id_and_source_have_known_answers() -> None:
    content = bytes(range(32))
    subject = SubjectReference("mhid", "M-1")
    assert import_request_id(subject, "Consent/a", content).hex() == "4e3bde16d108f76975c6f6a544a19b45"
    source = format_source(Release.R4, "Consent/a", content)
    assert source == "fhir/r4#0001020304050607@40b1900cd7b06910"
    assert (content_id(source), identity_id(source)) == ("fhir/r4#0001020304050607", source[-16:])
    assert (content_id(""), identity_id("paper")) == ("", "")


def test_request_id_tells_persons_resources_and_contents_apart() -> None:
    content = bytes(32)
    ids = {
        import_request_id(SubjectReference(scheme, value), resource, content)
        for scheme, value, resource in (("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("a", "bc", "e"))
    }
    assert len(ids | {import_request_id(SubjectReference("a", "bc"), "d", b"\1" * 32)}) == 5


def test_content_hash_is_of_the_content_alone() -> None:
    backwards = dict(reversed(R4.items()))
    copied = {**backwards, "meta": {"versionId": "2", "lastUpdated": "2022-01-01T00:00:00Z", "source": "urn:x"}}
    assert content_hash(R4) == content_hash(backwards) == content_hash(copied)
    assert content_hash(R4) != content_hash(r4(language="ko"))
    assert content_hash(R4) != content_hash({**R4, "meta": {"security": [reason("HTEST")]}})


@dataclass
class FakeWriter:
    """A daemon that keeps consents by person, remembers request ids, and can be told to fail."""

    consents: dict[SubjectReference, list[Consent]] = field(default_factory=dict)
    receipts: dict[bytes, str] = field(default_factory=dict)
    failure: Exception | None = None
    fails_at: int = 0

    def existing_sources(self, subject: SubjectReference) -> set[str]:
        return {consent.source for consent in self.consents.get(subject, [])}

    def grant(self, subject: SubjectReference, consent: Consent, request_id: bytes) -> tuple[str, bool]:
        if self.failure is not None and len(self.receipts) >= self.fails_at:
            raise self.failure
        if request_id in self.receipts:
            return self.receipts[request_id], True
        self.consents.setdefault(subject, []).append(consent)
        self.receipts[request_id] = f"consent-{len(self.receipts) + 1}"
        return self.receipts[request_id], False


def fates(paths: list[Path], writer: FakeWriter) -> list[ImportResult]:
    reports = import_paths(paths, MAPPING, writer, test_data=True)
    return [resource.result for file in reports for resource in file.resources]


@needs_data
def test_second_run_changes_nothing() -> None:
    writer = FakeWriter()
    assert fates([PCF, HL7], writer) == [ImportResult.IMPORTED] * 13
    held = copy.deepcopy(writer)
    assert fates([PCF, PCF / "ex-consent-basic-treat.json", HL7], writer) == [ImportResult.UNCHANGED] * 13
    assert writer == held
    writer.consents.clear()  # only the request ids are left: a race between two importers
    assert fates([PCF, HL7], writer) == [ImportResult.UNCHANGED] * 13
    writer = FakeWriter(consents=held.consents)  # only the sources are left: the request ids are forgotten
    assert fates([PCF, HL7], writer) == [ImportResult.UNCHANGED] * 13
    assert writer.receipts == {}


def write(path: Path, document: dict[str, Any] | str) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_nothing_of_a_file_with_a_refused_resource_is_written(tmp_path: Path) -> None:
    writer = FakeWriter()
    path = write(tmp_path / "a.json", bundle(R4, r4(id="b", status="draft")))
    (report,) = import_paths([path], MAPPING, writer)
    assert report.refused
    assert [resource.cause for resource in report.resources] == [Cause.HELD_BACK, Cause.STATUS]
    assert writer.consents == {}


def test_changed_content_of_an_imported_resource_is_refused(tmp_path: Path) -> None:
    writer = FakeWriter()
    path = write(tmp_path / "a.json", R4)
    assert fates([path], writer) == [ImportResult.IMPORTED]
    write(path, provision(purpose=[reason("HRESCH")]))
    (report,) = import_paths([path], MAPPING, writer)
    assert report.resources[0].cause is Cause.CHANGED
    assert len(writer.consents) == 1


def test_refusal_by_the_daemon_holds_back_the_rest_of_the_file(tmp_path: Path) -> None:
    writer = FakeWriter(failure=ConflictError("consent is in another state"), fails_at=1)
    path = write(tmp_path / "a.json", bundle(*(r4(id=name) for name in "abc")))
    (report,) = import_paths([path], MAPPING, writer)
    assert [r.cause for r in report.resources] == [None, Cause.NOT_WRITTEN, Cause.HELD_BACK]
    writer.failure = None
    assert fates([path], writer) == [ImportResult.UNCHANGED, ImportResult.IMPORTED, ImportResult.IMPORTED]


def test_consent_that_the_daemon_refuses_as_data_is_refused(tmp_path: Path) -> None:
    class Refusing(FakeWriter):
        def grant(self, subject: SubjectReference, consent: Consent, request_id: bytes) -> tuple[str, bool]:
            return "", False

    (report,) = import_paths([write(tmp_path / "a.json", R4)], MAPPING, Refusing())
    assert report.resources[0].cause is Cause.NOT_WRITTEN


def test_storage_failure_is_passed_on_and_a_second_run_finishes(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.json", r4(id=name))
    writer = FakeWriter(failure=StorageError("store refuses writes"), fails_at=1)
    reports = import_paths([tmp_path], MAPPING, writer)
    assert next(reports).resources[0].result is ImportResult.IMPORTED
    with pytest.raises(StorageError):
        next(reports)
    writer.failure = None
    assert fates([tmp_path], writer) == [ImportResult.UNCHANGED, ImportResult.IMPORTED]


def test_report_lines(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "good.json", R4)
    write(tmp_path / "bad.json", r4(status="inactive"))
    write(tmp_path / "ignored.txt", "not read")
    paths = [tmp_path, tmp_path / "missing.json"]
    reports = list(import_paths(paths, MAPPING, FakeWriter()))
    assert [report.path.name for report in reports] == ["bad.json", "good.json", "missing.json"]
    bad, good, missing = (importer.format_text(r).replace(f"{tmp_path}/", "").split("\n") for r in reports)
    assert bad == ["bad.json: Consent/own: refused because status is not active: `inactive` at `status` (STATUS)"]
    assert good[0] == "deep/good.json: Consent/own: imported as consent-1"
    assert "  note: the base is permit, by policyRule" in good
    assert missing == ["missing.json: refused because file cannot be read: No such file or directory (UNREADABLE)"]
    line = json.loads(importer.format_json(reports[0]))
    assert (line["resource"], line["fate"], line["cause"]) == ("Consent/own", "refused", "STATUS")
    assert json.loads(importer.format_json(reports[1]))["consent_id"] == "consent-1"


def test_base_install_says_which_extra_is_missing() -> None:
    script = (
        "import sys; sys.modules['fhir'] = None\n"
        "from consentd.errors import InvalidError\n"
        "from consentd.fhir.consents import read_consents\n"
        "from consentd.fhir.mapping import parse_mapping\n"
        "from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY\n"
        "assert 'pydantic' not in sys.modules\n"
        "try:\n    read_consents(sys.stdin.read(), parse_mapping('', DEFAULT_VOCABULARY))\n"
        "except InvalidError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(R4), text=True, capture_output=True, check=True, cwd=ROOT
    )
    assert "pip install 'consentd[fhir]'" in done.stdout


# Laws: whatever comes in, a result comes out; whatever is imported, compiles.

SEEDS = [R4, R5, bundle(R4, r5(id="b")), *(resource for resource, _ in DIRTY.values())]
SEEDS += [json.loads(file.read_bytes()) for file in sorted(PCF.glob("*.json"))] if PCF.is_dir() else []
JUNK: list[Any] = [
    None, True, 0, -1, 1.5, "", "x", "permit", "deny", "active", "2022", "2022-13", "9999-12-31", "2022-06-31", "2022T",
    "0001-01-01T00:00:00Z", "Patient/ex-patient", "\x00", "가", "*", "class", "T", "Consent", 10**30, ["x"],
    [], {}, [[]], [{}], {"coding": [{}]}, {"reference": "#a"}, {"extension": [{"url": "x"}]},
    {"start": "9999"}, {"end": "9999-12-31"}, {"end": "10000-01-01"}, {"start": "0001"},
]  # fmt: skip


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        yield value
        for member in value.values() if isinstance(value, dict) else value:
            yield from containers(member)


def mutate(document: Any, choose: Callable[[Any], Any]) -> None:
    """Replace, drop, add or copy one member somewhere."""
    place = choose(list(containers(document)))
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    key, kind = choose(keys), choose(range(5))
    if kind == 0:
        place[key] = copy.deepcopy(choose(JUNK))
    elif kind == 1:
        del place[key]
    elif kind == 2:
        place[key] = copy.deepcopy(choose(list(containers(choose(SEEDS)))))
    elif isinstance(place, dict):
        names = [name for one in containers(choose(SEEDS)) if isinstance(one, dict) for name in one]
        place[choose(names)] = place[key] if kind == 3 else copy.deepcopy(choose(JUNK))
    else:
        place.append(copy.deepcopy(place[key]))


def assert_law(text: str | bytes) -> None:
    for result in read_consents(text, MAPPING, test_data=True):
        if isinstance(result, ImportedConsent):
            stored = StoredConsent(lineage=1, seq=1, version=1, consent=result.consent)
            assert compile_consent(stored, VOCABULARY, NUMBERS)
            assert nodes(result.consent.root) <= 256
            assert len(result.request_id) == 16
        else:
            assert result.message
            assert result.cause in Cause


def nodes(root: Provision) -> int:
    return 1 + sum(nodes(child) for child in root.children)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_resources_give_a_result(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        if document:
            mutate(document, lambda values: data.draw(st.sampled_from(values)))
    assert_law(json.dumps(document))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_bytes_give_a_result(data: st.DataObject) -> None:
    text = bytearray(json.dumps(data.draw(st.sampled_from(SEEDS))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    assert_law(bytes(text))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_give_a_result(text: bytes) -> None:
    assert_law(text)
