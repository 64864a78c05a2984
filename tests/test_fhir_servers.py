"""Resources of several servers, resources that change or are withdrawn, and Bundles of them, against a fake daemon."""

import json
from pathlib import Path
from typing import Any

import pytest

from cases.fhir_consents import MAPPING, R4, bundle, imported, provision, r4, r5, reason
from cases.fhir_writers import FakeWriter, reports
from consentd.fhir.consents import ImportedConsent, Withdrawn, read_consents
from consentd.fhir.document import Cause
from consentd.fhir.identity import parse_source
from consentd.fhir.importer import ImportResult, find_files
from consentd.fhir.mapping import parse_mapping
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY as VOCABULARY

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")

IMPORTED, UNCHANGED, REVOKED, REFUSED = ImportResult
OWN, OTHER = "http://example.org/fhir", "https://other.example/fhir"


def file(path: Path, document: dict[str, Any]) -> list[Path]:
    path.write_text(json.dumps(document), encoding="utf-8")
    return [path]


def entry(resource: dict[str, Any], server: str) -> dict[str, Any]:
    return {"fullUrl": f"{server}/Consent/{resource['id']}", "resource": resource}


def searchset(*entries: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "searchset", "entry": list(entries), **members}


def identity(document: dict[str, Any], **mapping: Any) -> str:
    (result,) = read_consents(json.dumps(document), mapping.get("mapping", MAPPING), test_data=True)
    assert isinstance(result, ImportedConsent), result
    source = parse_source(result.consent.source)
    assert source is not None
    return source.identity


# Servers.


def test_one_id_of_two_servers_is_two_resources(tmp_path: Path) -> None:
    writer = FakeWriter()
    subject = {"identifier": {"system": "https://myhealthway.go.kr", "value": "M-1"}}
    here = searchset(entry(r4(patient=subject), OWN))
    there = searchset(entry({**provision(purpose=[reason("HRESCH")]), "patient": subject}, OTHER))
    assert reports(file(tmp_path / "a.json", here), writer) == [(IMPORTED, "consent-1")]
    assert reports(file(tmp_path / "a.json", there), writer) == [(IMPORTED, "consent-2")]
    assert reports(file(tmp_path / "a.json", here), writer) == [(UNCHANGED, "consent-1")]


def test_servers_are_known_by_the_entry_the_resource_or_the_mapping() -> None:
    subject = {"identifier": {"system": "https://myhealthway.go.kr", "value": "M-1"}}
    one = r4(patient=subject)
    of_other = identity(searchset(entry(one, OTHER)))
    assert identity({**one, "meta": {"source": f"{OTHER}#request-77"}}) == of_other
    assert identity({**one, "meta": {"source": "HTTPS://Other.example/fhir/Consent/own"}}) == of_other
    # The address in the entry counts, whoever wrote the resource first.
    assert identity(searchset(entry({**one, "meta": {"source": "urn:oid:1.2.3"}}, OTHER))) == of_other
    own = identity(one)
    assert own != of_other
    assert own == identity(searchset(entry(one, OWN))) == identity({**one, "meta": {"source": "#request-77"}})
    assert identity(searchset({"fullUrl": "urn:uuid:0c3f5f6e-6b3d-4a52-8f7f-2f1e5f0f3c11", "resource": one})) == own


def test_a_relative_reference_is_one_of_the_server_of_its_resource() -> None:
    (refused,) = read_consents(json.dumps(searchset(entry(R4, OTHER))), MAPPING)
    assert not isinstance(refused, ImportedConsent | Withdrawn)
    assert refused.cause is Cause.UNKNOWN_SUBJECT  # Patient/ex-patient of the mapping is another person
    for source in (OTHER, "urn:oid:1.2.3", "node.other.example#engine"):
        (refused,) = read_consents(json.dumps({**R4, "meta": {"source": source}}), MAPPING)
        assert getattr(refused, "cause", None) is Cause.UNKNOWN_SUBJECT, source
    mapping = parse_mapping(
        f'[subjects]\n"{OTHER}/Patient/ex-patient" = {{ scheme = "mhid", value = "X" }}\n'
        '"Patient/ex-patient" = { scheme = "mhid", value = "Y" }\n',
        VOCABULARY,
    )
    (result,) = read_consents(json.dumps(searchset(entry(R4, OTHER))), mapping)
    assert isinstance(result, ImportedConsent)
    assert result.subject.value == "X"
    # A mapping without `server` does not say whose Patient/ex-patient is meant in a file by itself.
    result = imported({**R4, "meta": {"source": OTHER}}, mapping)
    assert result.subject.value == "Y"
    assert any("names another server" in note for note in result.notes)


def test_an_address_of_another_resource_is_refused() -> None:
    (refused,) = read_consents(json.dumps(searchset({"fullUrl": f"{OWN}/Consent/another", "resource": R4})), MAPPING)
    assert getattr(refused, "cause", None) is Cause.NOT_VALID


# Bundles.


def test_what_a_search_includes_is_left_out() -> None:
    patient = {"resource": {"resourceType": "Patient", "id": "ex-patient"}, "search": {"mode": "include"}}
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "informational"}]}
    match, issue = {"resource": R4, "search": {"mode": "match"}}, {"resource": outcome, "search": {"mode": "outcome"}}
    found = searchset(match, patient, issue, total=1)
    (result,) = read_consents(json.dumps(found), MAPPING)
    assert isinstance(result, ImportedConsent)
    assert "resources of other types in the bundle are left out: 2" in result.notes
    (result,) = read_consents(json.dumps(bundle(R4, patient["resource"])), MAPPING)
    assert isinstance(result, ImportedConsent)
    _, refused = read_consents(json.dumps(searchset({"resource": R4}, {"resource": patient["resource"]})), MAPPING)
    assert (getattr(refused, "cause", None), refused.resource) == (Cause.RESOURCE_TYPE, "")


def test_the_missing_page_is_named_without_a_person() -> None:
    url = f"{OWN}?_getpages=ab-1&_getpagesoffset=20&patient=secret&patient.identifier=urn:x|secret#secret"
    found = searchset({"resource": R4}, total=2, link=[{"relation": "next", "url": url}])
    (refused,) = read_consents(json.dumps(found), MAPPING)
    assert getattr(refused, "cause", None) is Cause.INCOMPLETE
    message = getattr(refused, "message", "")
    assert f"`{OWN}?_getpages=ab-1&_getpagesoffset=20&patient=…&patient.identifier=…`" in message
    assert "`link[0]`" in message
    assert "secret" not in message


def test_a_resource_that_is_in_a_file_twice_is_imported_once(tmp_path: Path) -> None:
    writer = FakeWriter()
    paths = file(tmp_path / "a.json", bundle(R4, r4(id="b"), {**R4, "meta": {"versionId": "2"}}))
    assert reports(paths, writer) == [(IMPORTED, "consent-1"), (IMPORTED, "consent-2"), (UNCHANGED, "")]
    assert reports(paths, writer) == [(UNCHANGED, "consent-1"), (UNCHANGED, "consent-2"), (UNCHANGED, "")]


# Changes and withdrawals.


@pytest.mark.parametrize("status", ["inactive", "rejected", "entered-in-error"])
def test_a_withdrawn_resource_names_the_consent_in_force(tmp_path: Path, status: str) -> None:
    writer = FakeWriter()
    paths = file(tmp_path / "a.json", R4)
    withdrawn = file(tmp_path / "b.json", r4(status=status, dateTime="2026-02-01"))
    assert reports(withdrawn, writer) == [(REFUSED, Cause.STATUS)]  # nothing was imported from it
    assert reports(paths, writer) == [(IMPORTED, "consent-1")]
    assert reports(withdrawn, writer) == [(REFUSED, Cause.STATUS)]
    assert writer.revoked == set()
    assert reports(withdrawn, writer, apply=True) == [(REVOKED, "consent-1")]
    assert writer.revoked == {"consent-1"}
    assert reports(withdrawn, writer) == reports(withdrawn, writer, apply=True) == [(UNCHANGED, "consent-1")]


def test_a_withdrawal_is_written_with_its_file_or_not_at_all(tmp_path: Path) -> None:
    writer = FakeWriter()
    assert reports(file(tmp_path / "a.json", bundle(R4, r4(id="b"))), writer) == [
        (IMPORTED, "consent-1"), (IMPORTED, "consent-2"),
    ]  # fmt: skip
    paths = file(tmp_path / "a.json", bundle(r4(status="inactive"), r4(id="b", status="draft")))
    assert reports(paths, writer, apply=True) == [(REFUSED, Cause.HELD_BACK), (REFUSED, Cause.STATUS)]
    assert writer.revoked == set()


def test_a_withdrawn_resource_of_another_server_or_person_revokes_nothing(tmp_path: Path) -> None:
    writer = FakeWriter()
    assert reports(file(tmp_path / "a.json", R4), writer) == [(IMPORTED, "consent-1")]
    subject = {"identifier": {"system": "https://myhealthway.go.kr", "value": "EX-PATIENT"}}
    other = searchset(entry(r4(status="inactive", patient=subject), OTHER))
    assert reports(file(tmp_path / "b.json", other), writer, apply=True) == [(REFUSED, Cause.STATUS)]
    somebody = r4(status="inactive", patient={"reference": "Patient/f001"})
    assert reports(file(tmp_path / "b.json", somebody), writer, apply=True) == [(REFUSED, Cause.STATUS)]
    modified = r4(status="inactive", modifierExtension=[{"url": "urn:x", "valueBoolean": True}])
    assert reports(file(tmp_path / "b.json", modified), writer, apply=True) == [(REFUSED, Cause.UNSUPPORTED_CONTENT)]
    assert writer.revoked == set()


def test_withdrawals_of_r5_and_of_test_data() -> None:
    for resource in (r5(status="not-done"), r5(status="inactive", decision=None, provision=None)):
        (result,) = read_consents(json.dumps(resource), MAPPING)
        assert isinstance(result, Withdrawn)
        assert result.subject == imported(R4).subject
    test = r4(status="inactive", meta={"security": [reason("HTEST")]})
    (refused,) = read_consents(json.dumps(test), MAPPING)
    assert getattr(refused, "cause", None) is Cause.TEST_DATA
    (result,) = read_consents(json.dumps(test), MAPPING, test_data=True)
    assert isinstance(result, Withdrawn)


def test_a_consent_that_was_revoked_here_comes_back_only_if_it_was_given_later(tmp_path: Path) -> None:
    writer = FakeWriter()
    january, later = r4(dateTime="2026-01-05"), {"language": "ko", "dateTime": "2026-01-05T12:00:00+09:00"}
    assert reports(file(tmp_path / "a.json", january), writer) == [(IMPORTED, "consent-1")]
    assert reports(file(tmp_path / "a.json", r4(**later)), writer) == [(REFUSED, Cause.CHANGED)]  # it is in force
    writer.revoked.add("consent-1")
    for change in ({"language": "ko"}, {"dateTime": "2026-01-05", "language": "ko"}, {"dateTime": "2025"}):
        assert reports(file(tmp_path / "a.json", r4(**change)), writer) == [(REFUSED, Cause.CHANGED)]
    assert reports(file(tmp_path / "a.json", january), writer) == [(UNCHANGED, "consent-1")]
    assert reports(file(tmp_path / "a.json", r4(**later)), writer) == [(IMPORTED, "consent-2")]
    assert reports(file(tmp_path / "a.json", january), writer) == [(UNCHANGED, "consent-1")]
    writer.revoked.add("consent-2")
    assert reports(file(tmp_path / "a.json", r4(**later)), writer) == [(UNCHANGED, "consent-2")]


def test_who_is_not_enrolled_holds_back_the_file(tmp_path: Path) -> None:
    writer = FakeWriter(enrolled=False)
    somebody = r4(id="b", patient={"reference": "Patient/f001"})
    writer.consents[imported(somebody).subject] = []
    paths = file(tmp_path / "a.json", bundle(somebody, R4))
    assert reports(paths, writer) == [(REFUSED, Cause.HELD_BACK), (REFUSED, Cause.UNKNOWN_SUBJECT)]
    assert writer.receipts == {}


# Files and progress.


def test_files_of_other_formats_are_found_and_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<html/>", encoding="utf-8")
    (tmp_path / "b.ndjson").write_text(f"{json.dumps(R4)}\n{json.dumps(R4)}\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("not read", encoding="utf-8")
    assert [path.name for path in find_files([tmp_path])] == ["a.xml", "b.ndjson"]
    assert reports([tmp_path], FakeWriter()) == [(REFUSED, Cause.NOT_JSON)] * 2


def test_progress_reaches_its_end_and_never_goes_back(tmp_path: Path) -> None:
    paths = [*file(tmp_path / "a.json", bundle(R4, r4(id="b"), r4(id="c"))), *file(tmp_path / "b.json", r4(id="d"))]
    steps: list[tuple[int, int]] = []
    assert len(reports(paths, FakeWriter(), progress=lambda done, total: steps.append((done, total)))) == 4
    assert steps == sorted(steps)
    assert steps[-1] == (2000, 2000)
    assert (666, 2000) in steps  # all of the first file are read and compared, and none is written
