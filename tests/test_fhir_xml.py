"""FHIR's XML means what the JSON of the same resource means, and hostile XML is refused."""

import json
import tracemalloc
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.fhir_consents import (
    MAPPING,
    PCF,
    R4,
    R5,
    RESEARCHER,
    actions,
    bundle,
    labels,
    needs_data,
    provision,
    r4,
    r5,
    reason,
)
from consentd.fhir.consents import ImportedConsent, read_consents
from consentd.fhir.document import Cause

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")

FHIR = 'xmlns="http://hl7.org/fhir"'
ATTRIBUTES = ("id", "url")


def element(name: str, value: Any, more: Any = None) -> str:
    """Return the XML of a member; *more*: the object of the member with a leading ``_``."""
    if isinstance(value, list):
        return "".join(element(name, one) for one in value)
    if isinstance(value, dict) and "resourceType" in value:
        return f"<{name}>{resource(value)}</{name}>"
    if isinstance(value, dict):
        own = "".join(f" {key}={quoteattr(value[key])}" for key in ATTRIBUTES if key in value)
        return f"<{name}{own}>{members(value, ATTRIBUTES)}</{name}>"
    if name == "div":
        return str(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"<{name} value={quoteattr(text)}>{members(more or {}, ATTRIBUTES)}</{name}>"


def members(value: dict[str, Any], left_out: tuple[str, ...] = ()) -> str:
    shown = (name for name in value if name not in (*left_out, "resourceType") and not name.startswith("_"))
    return "".join(element(name, value[name], value.get(f"_{name}")) for name in shown)


def resource(value: dict[str, Any]) -> str:
    """Return the XML of a resource: a writer of its own, made for tests from the text of FHIR."""
    name = value["resourceType"]
    return f"<{name} {FHIR}>{members(value)}</{name}>"


def both(document: dict[str, Any]) -> tuple[Any, Any]:
    """Return what is read from a document in JSON and in XML."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- made by a test -->\n{resource(document)}\n'
    options = {"mapping": MAPPING, "test_data": True}
    return read_consents(json.dumps(document), **options), read_consents(text, **options)  # type: ignore[arg-type]


DOCUMENTS: dict[str, dict[str, Any]] = {
    "R4": R4,
    "R5": R5,
    "narrative": r4(text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">a <b>b</b></div>'}),
    "lists": provision(actor=[RESEARCHER], action=actions("access", "use"), securityLabel=labels("N", "HIV")),
    "nested": provision(provision=[{"type": "deny", "purpose": [reason(code)]} for code in ("COC", "HRESCH")]),
    "booleans": r4(verification=[{"verified": True, "verificationDate": "2022-01-01"}]),
    "not verified": r4(verification=[{"verified": False}]),
    "extensions": r4(extension=[{"url": "urn:x", "extension": [{"url": "a", "valueDecimal": 1.5}]}], language="ko"),
    "extension of a value": r4(_status={"extension": [{"url": "urn:x", "valueBoolean": True}]}),
    "extension of a display": provision(purpose=[{**reason("TREAT"), "display": "care", "_display": {
        "extension": [{"url": "urn:x", "valueCode": "x"}]}}]),
    "modifier": r4(modifierExtension=[{"url": "urn:x", "valueInteger": 3}]),
    "labels and profiles": r4(meta={"versionId": "1", "profile": ["http://a.test", "http://b.test"],
                                    "tag": [{"system": "urn:x", "code": "y"}]}),
    "withdrawn": r4(status="inactive"),
    "another resource": {"resourceType": "Patient", "id": "p", "active": True},
    "unknown element": r4(colour="red"),
    "STU3": r4(scope=None, policyRule="http://x.example"),
    "bundle": bundle(R4, r5(id="b"), r4(id="c", status="draft")),
    "incomplete bundle": bundle(R4, type="searchset", total=2, link=[{"relation": "next", "url": "http://x.test?a=1"}]),
    "search": bundle(R4, {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "timeout"}]}),
    "R5 with lists": r5(regulatoryBasis=[{"coding": [{"system": "urn:x", "code": "y"}]}], period={"start": "2022"},
                        provision=[{"purpose": [reason("TREAT")]}, {"purpose": [reason("HRESCH")]}]),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_xml_means_what_json_means(name: str) -> None:
    of_json, of_xml = both(DOCUMENTS[name])
    assert [type(result) for result in of_json] == [type(result) for result in of_xml]
    for one, other in zip(of_json, of_xml, strict=True):
        if getattr(one, "cause", None) is None:
            assert one == other
        else:
            assert (one.resource, one.cause) == (other.resource, other.cause)


@needs_data
def test_every_example_of_ihe_is_the_same_in_xml() -> None:
    for file in sorted(PCF.glob("*.json")):
        of_json, of_xml = both(json.loads(file.read_bytes()))
        assert isinstance(of_json[0], ImportedConsent)
        assert of_json == of_xml, file.name


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 20))
TEXTS = {
    "not well-formed": f"<Consent {FHIR}>",
    "two roots": f"<Consent {FHIR}/><Consent {FHIR}/>",
    "no FHIR": "<Consent/>",
    "a page": '<html xmlns="http://www.w3.org/1999/xhtml"/>',
    "an element of another namespace": f'<Consent {FHIR}><a xmlns="urn:x"/></Consent>',
    "document type": f"<!DOCTYPE Consent><Consent {FHIR}/>",
    "entities": f'<!DOCTYPE a [<!ENTITY e0 "x">{BOMB}]><Consent {FHIR}>&e19;</Consent>',
    "an entity from a file": f'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><Consent {FHIR}>&e;</Consent>',
    "an unknown entity": f"<Consent {FHIR}>&e;</Consent>",
    "another encoding": f'<?xml version="1.0" encoding="ISO-8859-1"?><Consent {FHIR}/>',
    "text between elements": f"<Consent {FHIR}>text</Consent>",
    "another attribute": f'<Consent {FHIR}><id colour="red"/></Consent>',
    "twice what is there once": f'<Consent {FHIR}><status value="inactive"/><status value="active"/></Consent>',
    "an attribute and an element": f'<Consent {FHIR}><meta id="a"><id value="b"/></meta></Consent>',
    "the type of JSON": f'<Consent {FHIR}><resourceType value="Patient"/></Consent>',
    "nested deep": f"<Consent {FHIR}>{'<a>' * 100_000}",
    "an empty element": f"<Consent {FHIR}><meta/></Consent>",
    "two resources in one entry": f"<Bundle {FHIR}><entry><resource><a/><b/></resource></entry></Bundle>",
    "empty value": f'<Consent {FHIR}><status value=""/></Consent>',
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_xml_is_refused(name: str) -> None:
    tracemalloc.start()
    try:
        (refused,) = read_consents(TEXTS[name], MAPPING)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert getattr(refused, "cause", None) is Cause.NOT_JSON
    assert peak < 100 << 20  # no entity was expanded


JUNK = [b"", b"<", b">", b"/>", b'"', b"<id/>", b"<provision>", b'value="1"', b"\x00", b"\xff", b"&#0;", b"<!--"]
SEEDS = [resource(document) for document in DOCUMENTS.values()]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_xml_gives_a_result(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from(SEEDS)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 8))] = data.draw(st.sampled_from(JUNK))
    for result in read_consents(bytes(text), MAPPING, test_data=True):
        assert isinstance(result, ImportedConsent) or getattr(result, "message", "")
