"""Importing FHIR files: each resource is written once, and a file whole or not at all."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cases.fhir_consents import MAPPING, PCF, R4, ROOT, bundle, needs_data, provision, r4, reason
from cases.fhir_writers import FakeWriter
from consentd.errors import AbortedError, StorageError
from consentd.fhir import importer
from consentd.fhir.document import Cause, Release, content_hash
from consentd.fhir.identity import format_source, identity_of, import_request_id, parse_source
from consentd.fhir.importer import ImportResult, import_paths
from consentd.fhir.mapping import SubjectReference
from consentd.policy.model import Consent

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")


# Identity: the same content is imported once.


def test_request_id_and_source_have_known_answers() -> None:
    content = bytes(range(32))
    subject = SubjectReference("mhid", "M-1")
    assert import_request_id(subject, "Consent/a", content).hex() == "4e3bde16d108f76975c6f6a544a19b45"
    source = format_source(Release.R4, "Consent/a", content)
    assert source == "fhir/r4#0001020304050607@40b1900cd7b06910"
    assert identity_of("Consent/a") == "40b1900cd7b06910"
    dated = format_source(Release.R4, "https://a.test/fhir/Consent/a", content, "2026-01-05")
    assert dated == "fhir/r4#0001020304050607@6526d541ad3ffba5~2026-01-05"
    found = parse_source(dated)
    assert found is not None
    assert (found.content, found.identity, found.time_ms) == ("0001020304050607", "6526d541ad3ffba5", 1_767_538_800_000)
    assert not any(map(parse_source, ("", "paper", "fhir/r4 Consent/1", f"{source}~", f"{source}!")))


def test_request_id_tells_persons_resources_and_contents_apart() -> None:
    content = bytes(32)
    ids = {
        import_request_id(SubjectReference(scheme, value), resource, content)
        for scheme, value, resource in (("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("a", "bc", "e"))
    }
    assert len(ids | {import_request_id(SubjectReference("a", "bc"), "d", b"\1" * 32)}) == 5


def test_content_hash_is_of_the_content_alone() -> None:
    text = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">again</div>'}
    backwards = dict(reversed({**R4, "text": text}.items()))
    copied = {**backwards, "meta": {"versionId": "2", "lastUpdated": "2022-01-01T00:00:00Z", "source": "urn:x"}}
    assert content_hash(R4) == content_hash(backwards) == content_hash(copied)
    assert content_hash(R4) != content_hash(r4(language="ko"))
    assert content_hash(R4) != content_hash({**R4, "meta": {"security": [reason("HTEST")]}})


def fates(paths: list[Path], writer: FakeWriter) -> list[ImportResult]:
    reports = import_paths(paths, MAPPING, writer, test_data=True)
    return [resource.result for file in reports for resource in file.resources]


@needs_data
def test_second_run_changes_nothing() -> None:
    writer = FakeWriter()
    assert fates([PCF], writer) == [ImportResult.IMPORTED] * 12
    held = copy.deepcopy(writer)
    assert fates([PCF, PCF / "ex-consent-basic-treat.json"], writer) == [ImportResult.UNCHANGED] * 12
    assert writer == held
    writer.consents.clear()  # only the request ids are left: a race between two importers
    assert fates([PCF], writer) == [ImportResult.UNCHANGED] * 12
    writer = FakeWriter(consents=held.consents)  # only the sources are left: the request ids are forgotten
    assert fates([PCF], writer) == [ImportResult.UNCHANGED] * 12
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
    writer = FakeWriter(failure=AbortedError("consent is in another state"), fails_at=1)
    path = write(tmp_path / "a.json", bundle(*(r4(id=name) for name in "abc")))
    (report,) = import_paths([path], MAPPING, writer)
    assert [r.cause for r in report.resources] == [None, Cause.NOT_WRITTEN, Cause.HELD_BACK]
    writer.failure = None
    assert fates([path], writer) == [ImportResult.UNCHANGED, ImportResult.IMPORTED, ImportResult.IMPORTED]


def test_an_unchanged_resource_after_a_refused_one_lets_no_later_one_be_written(tmp_path: Path) -> None:
    writer = FakeWriter()
    assert fates([write(tmp_path / "b.json", r4(id="b"))], writer) == [ImportResult.IMPORTED]
    writer.failure, writer.fails_at = AbortedError("consent is in another state"), 1
    path = write(tmp_path / "a.json", bundle(*(r4(id=name) for name in "abc")))
    (report,) = import_paths([path], MAPPING, writer)
    assert [r.result for r in report.resources] == [
        ImportResult.REFUSED, ImportResult.UNCHANGED, ImportResult.REFUSED,
    ]  # fmt: skip
    assert [r.cause for r in report.resources] == [Cause.NOT_WRITTEN, None, Cause.HELD_BACK]


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
    (line,) = bad
    assert line.startswith("bad.json: Consent/own: refused because status is not active: `inactive` at `status`; no ")
    assert line.endswith(" (STATUS)")
    assert good[0] == "deep/good.json: Consent/own: imported as consent-1"
    assert "  note: the base is permit, by provision.type" in good
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
