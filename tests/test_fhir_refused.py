"""FHIR documents and mappings that cannot be read with certainty are refused, and any input gives a result."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.fhir_consents import (
    DIRTY,
    EXTENSION,
    MAPPING,
    NUMBERS,
    PCF,
    R4,
    R5,
    RESEARCHER,
    SYSTEM,
    bundle,
    imported,
    nested,
    provision,
    r4,
    r5,
    read,
)
from consentd.errors import InvalidError
from consentd.fhir.consents import ImportedConsent, Refused, Withdrawn, read_consents
from consentd.fhir.document import MAX_DOCUMENT_BYTES, Cause
from consentd.fhir.mapping import DISCLOSE, load_mapping, parse_mapping
from consentd.policy.compile import compile_consent
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY as VOCABULARY
from consentd.policy.model import ImplicitPolicy, Provision, StoredConsent
from consentd.policy.vocabulary import HIGHEST_LEVEL

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")


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
    assert read({"resourceType": "Patient", "id": "example"}).resource == ""
    assert read({"resourceType": "AuditEvent", "id": "example"}).resource == "AuditEvent/example"
    assert read(r4(id="a b")).resource == read({"resourceType": 1, "id": "x"}).resource == ""


def test_modifiers_are_named_with_their_path() -> None:
    resource, _ = DIRTY["modifierExtension at depth"]
    assert "`provision.provision[0].actor[0].modifierExtension`" in read(resource).message


TEXTS = {
    "not JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "a list of resources": b'[{"resourceType": "Consent"}]',
    "a number": b"1",
    "one object a line": b'{"resourceType": "Consent"}\n{"resourceType": "Consent"}\n',
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


def test_long_narrative_is_no_content() -> None:
    text = {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{"가" * 3_500_000}</div>'}
    assert imported(r4(text=text)).request_id == imported(R4).request_id
    assert "the narrative states more than the elements, and is not read" in imported(
        r4(text={**text, "status": "additional"})
    ).notes


# Bundles.


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
        (bundle(R4, total=2), Cause.INCOMPLETE),
        (bundle(R4, type="searchset", total=2), Cause.INCOMPLETE),
        (bundle(R4, type="searchset", total=True), Cause.NOT_VALID),
        *(
            (bundle(R4, type="searchset", link=[{"relation": relation, "url": "http://x"}]), Cause.INCOMPLETE)
            for relation in ("next", "previous", "prev")
        ),
        (
            bundle(R4, {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "timeout"}]}),
            Cause.INCOMPLETE,
        ),
    ],
)
def test_bundles_that_are_no_set_of_consents_are_refused(document: dict[str, Any], cause: Cause) -> None:
    assert read(document).cause is cause


def test_one_resource_with_two_contents_in_a_bundle_is_refused() -> None:
    once, again = read_consents(json.dumps(bundle(R4, R4)), MAPPING)
    assert isinstance(once, ImportedConsent)
    assert once == again
    for other in (r4(language="ko"), r4(status="inactive")):
        results = read_consents(json.dumps(bundle(R4, other)), MAPPING)
        assert isinstance(results[1], Refused)
        assert results[1].cause is Cause.CHANGED
        assert "`entry[1].resource`" in results[1].message


@pytest.mark.parametrize(("stated", "tag"), [("ko", "ko"), ("en-us", "en-US"), (None, "und"), ("x-own", "")])
def test_the_language_of_a_resource_is_a_tag_in_its_one_case(stated: str | None, tag: str) -> None:
    (found,) = read_consents(json.dumps(R4 if stated is None else r4(language=stated)), MAPPING)
    if tag:
        assert isinstance(found, ImportedConsent)
        assert found.consent.language == tag
    else:
        assert isinstance(found, Refused)
        assert found.cause is Cause.INVALID_CONSENT


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
        '[subjects]\n"Patient/secret" = { scheme = "mhid", value = "900101-1234567" }',
        '[subjects]\n"Patient/secret" = { scheme = "mhid", value = "x " }',
        '[schemes]\n"urn:x" = "MHID"',
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
    assert mapping.codes["purposes"][f"{SYSTEM}v3-ActReason|TREAT"] == ("TREAT",)
    assert mapping.codes["labels"][f"{SYSTEM}v3-Confidentiality|R"] == ("R",)
    assert mapping.codes["labels"][f"{SYSTEM}v3-ActCode|ETHUD"] == ("ETHUD",)
    assert mapping.codes["actions"][f"{SYSTEM}consentaction|disclose"] == (DISCLOSE,)
    assert mapping.policies["https://profiles.ihe.net/ITI/PCF/Policy-all-normal"] is ImplicitPolicy.ALL_NORMAL
    assert not mapping.codes["categories"]
    assert "TREAT" not in repr(mapping.vocabulary and mapping.subjects)


def test_mapping_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="cannot be read"):
        load_mapping(tmp_path / "none.toml", VOCABULARY)


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
    location = choose(list(containers(document)))
    keys = list(location) if isinstance(location, dict) else list(range(len(location)))
    key, kind = choose(keys), choose(range(5))
    if kind == 0:
        location[key] = copy.deepcopy(choose(JUNK))
    elif kind == 1:
        del location[key]
    elif kind == 2:
        location[key] = copy.deepcopy(choose(list(containers(choose(SEEDS)))))
    elif isinstance(location, dict):
        names = [name for one in containers(choose(SEEDS)) if isinstance(one, dict) for name in one]
        location[choose(names)] = location[key] if kind == 3 else copy.deepcopy(choose(JUNK))
    else:
        location.append(copy.deepcopy(location[key]))


def assert_law(text: str | bytes) -> None:
    for result in read_consents(text, MAPPING, test_data=True):
        if isinstance(result, Withdrawn):
            assert len(result.identity) == 16
        elif isinstance(result, ImportedConsent):
            stored = StoredConsent(lineage=1, seq=1, version=1, consent=result.consent)
            assert compile_consent(stored, VOCABULARY, NUMBERS, normal_level=HIGHEST_LEVEL)
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
