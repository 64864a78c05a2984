"""FHIR Consents to import: small valid ones, and a set in which each has one fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from consentd.fhir.consents import ImportedConsent, read_consents
from consentd.fhir.document import Cause
from consentd.fhir.mapping import FhirMapping, load_mapping
from consentd.policy.codebook import Codebook
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY as VOCABULARY
from consentd.policy.model import LEVELS, Consent, Membership, Outcome, Rules

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"
PCF = DATA / "pcf"
CASES = ROOT / "../shared/cases/fhir"
HL7 = DATA / "r4_examples_consent-example.json"
needs_data = pytest.mark.skipif(not PCF.is_dir(), reason="shared data is not beside the project")

MAPPING = load_mapping(ROOT / "ops/fhir-mapping.toml", VOCABULARY)
NUMBERS = {"ex-org-researcher": 1, "group/privileged-users": 2, "clinic": 3, "emergency-room": 4, "hospital": 5}
MEMBERSHIPS = {"emergency-room": [Membership("group/privileged-users")]}
RULES = Rules()
CODEBOOK = Codebook(VOCABULARY, NUMBERS, MEMBERSHIPS)

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
    "provision": {"type": "permit", "purpose": [{"system": f"{SYSTEM}v3-ActReason", "code": "TREAT"}]},
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


def custodian(name: str) -> dict[str, Any]:
    role = {"coding": [{"system": f"{SYSTEM}v3-ParticipationType", "code": "CST"}]}
    return {"role": role, "reference": {"reference": f"Organization/{name}"}}


def r4(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**R4, **changes}.items() if value is not None}


def r5(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**R5, **changes}.items() if value is not None}


def provision(**members: Any) -> dict[str, Any]:
    return r4(provision={**R4["provision"], **members})


def untyped(**members: Any) -> dict[str, Any]:
    return r4(provision=members)


def labels(*codes: str) -> list[dict[str, str]]:
    """Return ``securityLabel`` of levels and of sensitivity labels."""
    kinds = {True: "v3-Confidentiality", False: "v3-ActCode"}
    return [{"system": SYSTEM + kinds[code in LEVELS], "code": code} for code in codes]


def actions(*codes: str) -> list[dict[str, Any]]:
    return [concept("consentaction", code) for code in codes]


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
    "STU3 exception": (r4(scope=None, policyRule="http://x.example", **{"except": [{"type": "deny"}]}), Cause.RELEASE),
    "STU3 policy rule": (r4(scope=None, provision=None, policyRule="http://x.example"), Cause.RELEASE),
    "STU3 actor": (
        {"resourceType": "Consent", "id": "x", "status": "active", "patient": {"reference": "Patient/ex-patient"},
         "period": {"start": "2022"}, "actor": [RESEARCHER]},
        Cause.RELEASE,
    ),
    "another resource": ({"resourceType": "Patient", "id": "x"}, Cause.RESOURCE_TYPE),
    "no resource type": (r4(resourceType=None), Cause.RESOURCE_TYPE),
    "R4 and R5 at once": (r4(decision="permit"), Cause.RELEASE),
    "neither R4 nor R5": ({"resourceType": "Consent", "id": "x", "status": "active"}, Cause.RELEASE),
    # status, scope, category, author, subject
    **{
        f"status is {status}": (r4(status=status), Cause.STATUS)
        for status in ("draft", "proposed", "unknown", "ACTIVE", "valid")
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
    "not verified": (r4(verification=[{"verified": False}]), Cause.UNSUPPORTED_CONTENT),
    # base
    "no base": (r4(policyRule=None, policy=[{"uri": "http://x.example"}], provision=None), Cause.BASE),
    "root has limits and no type": (untyped(purpose=[reason("TREAT")]), Cause.BASE),
    "root has a period and no type": (untyped(period={"start": "2022"}), Cause.BASE),
    "root has limits and no type, opting out": (
        r4(policyRule=concept("v3-ActCode", "OPTOUT"), provision={"purpose": [reason("TREAT")]}), Cause.BASE,
    ),
    "nested provision without type and attributes": (
        untyped(provision=[{"provision": [{"type": "permit", "purpose": [reason("TREAT")]}]}]), Cause.BASE,
    ),
    "R5 provision without attributes": (r5(provision=[{"id": "all"}]), Cause.BASE),
    "policyRule is another code": (r4(policyRule=concept("v3-ActCode", "OPTOUTE")), Cause.BASE),
    "policyRule is text": (r4(policyRule={"text": "opt in"}), Cause.BASE),
    "type contradicts policyRule": (provision(type="deny"), Cause.BASE),
    "R5 without decision": (r5(decision=None), Cause.BASE),
    "decision is another code": (r5(decision="maybe"), Cause.UNKNOWN_CODE),
    "type is another code": (provision(type="opt-in"), Cause.UNKNOWN_CODE),
    "two implicit policies": (
        r4(policy=[{"uri": f"https://profiles.ihe.net/ITI/PCF/Policy-{name}"} for name in ("deny", "all-normal")]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    **{
        f"deny selects {name}": (
            r5(policyBasis={"url": f"https://profiles.ihe.net/ITI/PCF/Policy-{name}"}), Cause.UNSUPPORTED_CONTENT,
        )
        for name in ("basic-normal", "all-normal")
    },
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
    "extension in a provision": (provision(extension=EXTENSION), Cause.UNSUPPORTED_CONTENT),
    "extension deep in a provision": (
        provision(action=[{**concept("consentaction", "use"), "extension": EXTENSION}]),
        Cause.UNSUPPORTED_CONTENT,
    ),
    "extension in a provision of R5": (
        r5(provision=[{"purpose": [reason("TREAT")], "extension": EXTENSION}]), Cause.UNSUPPORTED_CONTENT,
    ),
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
    "role is author": (
        provision(actor=[{**RESEARCHER, "role": concept("v3-ParticipationType", "AUT")}]), Cause.ROLE,
    ),
    "role is recipient and custodian": (
        provision(
            actor=[
                {
                    **RESEARCHER,
                    "role": {
                        "coding": [
                            {"system": f"{SYSTEM}v3-ParticipationType", "code": code} for code in ("IRCP", "CST")
                        ]
                    },
                }
            ]
        ),
        Cause.ROLE,
    ),
    "recipient is a patient of another server": (
        provision(actor=[{"role": IRCP, "reference": {"reference": "https://other.example/fhir/Patient/whoever"}}]),
        Cause.UNKNOWN_PARTICIPANT,
    ),
    "custodian is no holder of the mapping": (provision(actor=[custodian("x")]), Cause.UNKNOWN_PARTICIPANT),
    "recipients and custodians in one list": (provision(actor=[RESEARCHER, custodian("hospital-a")]), Cause.ROLE),
    "recipients inside of custodians": (
        provision(actor=[custodian("hospital-a")], provision=[{"type": "deny", "actor": [RESEARCHER]}]), Cause.ROLE,
    ),
    "custodian is not the keeper": (
        {
            **provision(actor=[custodian("hospital-b")]),
            "organization": [{"reference": "Organization/hospital-a"}],
        },
        Cause.UNKNOWN_PARTICIPANT,
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
    "data period begins at the epoch": (provision(dataPeriod={"start": "1970-01-01T09:00:00+09:00"}), Cause.PERIOD),
    "data period ends at the epoch": (provision(dataPeriod={"end": "1970-01-01T00:00:00Z"}), Cause.PERIOD),
    "instant is before the year 1": (provision(dataPeriod={"start": "0001-01-01T00:00:00+14:00"}), Cause.PERIOD),
    "instant is after the year 9999": (provision(period={"start": "9999-12-31T23:59:59-01:00"}), Cause.PERIOD),
    "identifier has a space": (
        r4(patient={"identifier": {"system": "https://myhealthway.go.kr", "value": "M 1"}}), Cause.UNKNOWN_SUBJECT,
    ),
    "identifier is shaped like a resident registration number": (
        r4(patient={"identifier": {"system": "https://myhealthway.go.kr", "value": "900101-1234567"}}),
        Cause.UNKNOWN_SUBJECT,
    ),
    "nests too deep": (nested(9), Cause.UNSUPPORTED_CONTENT),
    "too many provisions": (provision(provision=[{"type": "deny"}] * 256), Cause.INVALID_CONSENT),
}  # fmt: skip


def bundle(*resources: dict[str, Any], **members: Any) -> dict[str, Any]:
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries, **members}
