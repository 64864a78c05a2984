"""The import of FHIR by the command line into a real daemon: shared inputs that failed once, and each exit status."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine, Result
from cases.daemons import Running, make_running, question, running_daemon
from cases.fakes import FakeClock
from cases.fhir_consents import CASES, SYSTEM, bundle, r4, reason
from cases.services import listed
from consentd.cli import imports
from consentd.errors import NotFoundError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd_client import Client, Subject
from consentd_client.consents import ALL_STATES
from consentd_client.operations import Sleep

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")

MAPPING = """
[schemes]
"https://mhid.example" = "mhid"
[actors]
"Organization/clinic-b" = "clinic-b"
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_daemon(tmp_path / "ledger") as found:
        yield found


@pytest.fixture
def talk(running: Running) -> CommandLine:
    return command_line(running)


def command_line(running: Running) -> CommandLine:
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return CommandLine({"CONSENTD_TOKEN": running.tokens["app"], "CONSENTD_TARGET": target})


def person(name: str) -> pb.Subject:
    return pb.Subject(scheme="mhid", value=name)


def of(name: str, **changes: Any) -> dict[str, Any]:
    """Return a small Consent about a person."""
    identifier = {"system": "https://mhid.example", "value": name}
    return r4(**{"patient": {"identifier": identifier}, **changes})


class Importing:
    """Imports documents of a directory, and reads the reports."""

    def __init__(self, talk: CommandLine, directory: Path, mapping: str = MAPPING) -> None:
        self._talk = talk
        self._directory = directory
        self.mapping = directory / "mapping.toml"
        self.mapping.write_text(mapping, encoding="utf-8")

    def file(self, document: Any, name: str = "one.json") -> Path:
        path = self._directory / name
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return path

    def run(self, *argv: object) -> Result:
        return self._talk("import", "fhir", *argv, "--mapping", self.mapping)

    def fates(self, path: Path, *options: str) -> tuple[int, list[tuple[str, str | None]]]:
        result = self.run(path, "--json", *options)
        return result.status, [(one["fate"], one["cause"]) for one in result.objects]


@pytest.fixture
def importing(talk: CommandLine, tmp_path: Path) -> Importing:
    return Importing(talk, tmp_path)


def states(running: Running, name: str) -> list[str]:
    request = cs.ListConsentsRequest(subject=person(name), states=ALL_STATES)
    records = running.consents.ListConsents(request, metadata=running.as_("app")).records
    return [cs.ConsentState.Name(record.state).removeprefix("CONSENT_STATE_") for record in records]


# Exit statuses, as --help says.


def test_status_0_is_all_imported_unchanged_or_revoked(importing: Importing, running: Running) -> None:
    path = importing.file(bundle(of("A"), of("B", id="b")))
    assert importing.fates(path, "--enrol") == (0, [("imported", None)] * 2)
    assert importing.fates(path) == (0, [("unchanged", None)] * 2)
    path = importing.file(bundle(of("A", status="inactive"), of("B", id="b")))
    assert importing.fates(path, "--apply") == (0, [("revoked", None), ("unchanged", None)])
    assert importing.fates(path, "--apply") == importing.fates(path) == (0, [("unchanged", None)] * 2)
    assert (states(running, "A"), states(running, "B")) == (["REVOKED"], ["ACTIVE"])
    running.check_ledger()


def test_status_1_is_something_refused(importing: Importing, running: Running) -> None:
    size = running.check_ledger()
    for document, fates in (
        (of("A", status="draft"), [("refused", "STATUS")]),
        (bundle(of("A"), of("B", id="b", status="draft")), [("refused", "HELD_BACK"), ("refused", "STATUS")]),
        ("<Consent xmlns='http://hl7.org/fhir'/>", [("refused", "RELEASE")]),
    ):
        assert importing.fates(importing.file(document), "--enrol") == (1, fates)
    assert importing.fates(importing.file(of("A"))) == (1, [("refused", "UNKNOWN_SUBJECT")])  # without --enrol
    assert running.check_ledger() == size
    # The other files are imported.
    good, bad = importing.file(of("A"), "a.json"), importing.file(of("B", status="draft"), "b.json")
    result = importing.run(bad, good, "--enrol")
    assert (result.status, result.err) == (1, "2 files: 1 imported, 1 refused\n")


def test_status_2_is_an_error(importing: Importing, tmp_path: Path) -> None:
    path = importing.file(of("A"))
    missing = importing.run(tmp_path / "missing.json", path, "--enrol", "--json")
    assert missing.status == 2
    assert [(one["fate"], one["cause"]) for one in missing.objects] == [("refused", "UNREADABLE"), ("imported", None)]
    (tmp_path / "empty").mkdir()
    nothing = importing.run(tmp_path / "empty")
    assert (nothing.status, nothing.out, nothing.err) == (2, "", "no file was found\n")
    importing.mapping.write_text("[purpose]", encoding="utf-8")
    assert importing.run(path).status == 2
    importing.mapping.unlink()
    assert importing.run(path).status == 2


def test_status_2_is_a_daemon_that_does_not_answer(importing: Importing) -> None:
    path = importing.file(of("A"))
    assert importing.run(path, "--target", "127.0.0.1:1", "--timeout", "0.2").status == 2
    assert importing.run(path, "--target", "127.0.0.1:1", "--dry-run").status == 0


# Own inputs of the kinds of the shared ones.


def test_withdrawn_upstream_names_the_consent_in_force(importing: Importing, running: Running) -> None:
    assert importing.fates(importing.file(of("A")), "--enrol") == (0, [("imported", None)])
    (given,) = running.consents.ListConsents(
        cs.ListConsentsRequest(subject=person("A")), metadata=running.as_("app")
    ).records
    path = importing.file(of("A", status="inactive"))
    refused = importing.run(path)
    assert refused.status == 1
    assert f"`consentd revoke SCHEME:VALUE {given.consent_id}`" in refused.out
    assert "--apply" in refused.out
    assert states(running, "A") == ["ACTIVE"]
    assert f"revoked as {given.consent_id}" in importing.run(path, "--apply").out
    assert states(running, "A") == ["REVOKED"]


def test_a_consent_that_was_amended_here_is_still_known(
    importing: Importing, running: Running, talk: CommandLine
) -> None:
    path = importing.file(of("A"))
    assert importing.fates(path, "--enrol")[0] == 0
    (given,) = running.consents.ListConsents(
        cs.ListConsentsRequest(subject=person("A")), metadata=running.as_("app")
    ).records
    assert talk("amend", "mhid:A", given.consent_id, "--purpose", "HPAYMT").status == 0
    running.wait_published()
    assert importing.fates(path) == (0, [("unchanged", None)])
    assert importing.fates(importing.file(of("A", language="ko"))) == (1, [("refused", "CHANGED")])
    assert importing.fates(importing.file(of("A", status="inactive")), "--apply") == (0, [("revoked", None)])
    assert states(running, "A") == ["REVOKED"]


def test_a_new_version_that_is_not_published_yet_ends_the_import(tmp_path: Path) -> None:
    """Its source is in the person's chain alone: without it, the consent would be imported a second time."""
    clock = FakeClock()  # nothing is published before it moves
    running = make_running(tmp_path / "ledger", daemon={"clock": clock})
    try:
        talk = command_line(running)
        importing = Importing(talk, tmp_path)
        path = importing.file(of("A"))
        assert importing.fates(path, "--enrol")[0] == 0
        clock.advance(60_000)
        running.wait_published()
        (given,) = listed(running, person("A"))
        assert talk("amend", "mhid:A", given.consent_id, "--purpose", "HPAYMT").status == 0
        assert importing.run(path, "--timeout", 1).status == 2  # how long it waits for the publication
        assert len(listed(running, person("A"))) == 1
        clock.advance(60_000)
        running.wait_published()
        assert importing.fates(path) == (0, [("unchanged", None)])
    finally:
        running.stop()


def test_who_was_enrolled_for_a_consent_that_the_daemon_refuses_is_told(importing: Importing, running: Running) -> None:
    ended = {**of("A")["provision"], "type": "permit", "period": {"end": "2001-01-01"}}
    refused, fine = of("A", provision=ended), of("B", id="b")
    for document, noted in ((bundle(fine, refused), [False, True]), (bundle(fine, refused), [False, False])):
        result = importing.run(importing.file(document), "--json", "--enrol")
        assert (result.status, result.objects[1]["cause"]) == (1, "NOT_WRITTEN")
        assert [any("stays enrolled" in note for note in one["notes"]) for one in result.objects] == noted
    assert (states(running, "A"), states(running, "B")) == ([], ["ACTIVE"])
    assert importing.fates(importing.file(of("A"))) == (0, [("imported", None)])


def test_a_person_who_is_erased_between_two_reads_is_not_called_unpublished() -> None:
    with Client("127.0.0.1:1", token="none") as client:
        reading = imports._read_chain(client.context, Subject(scheme="mhid", value="A"), 1)
        next(reading)
        assert isinstance(reading.throw(NotFoundError("no checkpoint is published yet")), Sleep)
        reading.send(True)
        with pytest.raises(NotFoundError) as caught:
            reading.throw(NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND"))
        assert caught.value.reason == "SUBJECT_NOT_FOUND"


def test_given_anew_after_a_revocation_is_a_new_lineage(
    importing: Importing, running: Running, talk: CommandLine
) -> None:
    assert importing.fates(importing.file(of("A", dateTime="2026-01-05")), "--enrol")[0] == 0
    again = importing.file(of("A", dateTime="2026-11-28"))
    assert importing.fates(again) == (1, [("refused", "CHANGED")])
    (given,) = running.consents.ListConsents(
        cs.ListConsentsRequest(subject=person("A")), metadata=running.as_("app")
    ).records
    assert talk("revoke", "mhid:A", given.consent_id).status == 0
    assert importing.fates(again) == (0, [("imported", None)])
    assert states(running, "A") == ["ACTIVE", "REVOKED"]
    assert running.check(question(person("A"))).outcome == pb.OUTCOME_PERMIT


# The shared inputs themselves.


@pytest.fixture
def shared(talk: CommandLine, running: Running, tmp_path: Path) -> Importing:
    if not CASES.is_dir():
        pytest.skip("shared cases are not beside the project")
    for name in range(1, 10):
        running.enrol(f"R-P{name}")
    return Importing(talk, tmp_path, (CASES / "mapping.toml").read_text(encoding="utf-8"))


def test_shared_inputs(shared: Importing, running: Running) -> None:
    imported, unchanged = [("imported", None)], [("unchanged", None)]
    for name, options, expected in (
        ("i01-active", (), (0, imported)),
        ("i01-active", (), (0, unchanged)),
        ("i32-active-narrative-regenerated", (), (0, unchanged)),
        ("i22-same-entry-twice", (), (0, unchanged * 2)),
        ("i03-same-id-other-server", (), (0, imported)),
        ("i02-withdrawn-upstream", (), (1, [("refused", "STATUS")])),
        ("i02-withdrawn-upstream", ("--apply",), (0, [("revoked", None)])),
        ("i04-searchset-page1", (), (1, [("refused", "INCOMPLETE")])),
        ("i05-optin-untyped-root", (), (1, [("refused", "BASE")])),
        ("i05b-optin-untyped-root-actor", (), (1, [("refused", "BASE")])),
        ("i06-dataperiod-1950", (), (0, imported)),
        ("i06b-dataperiod-end-only", (), (0, imported)),
        ("i09-r5-actor-without-role", (), (1, [("refused", "ROLE")])),
        ("i10-searchset-include", (), (0, imported)),
        ("i13-scope-research", (), (1, [("refused", "SCOPE")])),
        ("i33-collection-total-5-entries-1", (), (1, [("refused", "INCOMPLETE")])),
        ("i34-verified-true", (), (0, imported)),
        ("i38-held-back-enrols", ("--enrol",), (1, [("refused", "HELD_BACK"), ("refused", "STATUS")])),
        ("i40-consent-2026-01", ("--enrol",), (0, imported)),
        ("i41-reconsent-2026-12-same-id", (), (1, [("refused", "CHANGED")])),
    ):
        assert shared.fates(CASES / f"{name}.json", *options) == expected, name
    assert states(running, "R-P1") == ["ACTIVE", "REVOKED"]
    running.check_ledger()


def test_shared_twice_in_one_file_is_imported_once(shared: Importing, running: Running) -> None:
    assert shared.fates(CASES / "i22-same-entry-twice.json") == (0, [("imported", None), ("unchanged", None)])
    assert states(running, "R-P1") == ["ACTIVE"]


def test_shared_file_that_is_held_back_enrols_nobody(shared: Importing, running: Running, talk: CommandLine) -> None:
    size = running.check_ledger()
    assert shared.fates(CASES / "i38-held-back-enrols.json", "--enrol")[0] == 1
    assert running.check_ledger() == size
    assert talk("consents", "mhid:ONLY-BY-REFUSED-FILE").status == 2  # not enrolled


def test_shared_consent_given_anew(shared: Importing, running: Running, talk: CommandLine) -> None:
    assert shared.fates(CASES / "i40-consent-2026-01.json", "--enrol")[0] == 0
    (given,) = running.consents.ListConsents(
        cs.ListConsentsRequest(subject=person("RC-1")), metadata=running.as_("app")
    ).records
    assert talk("revoke", "mhid:RC-1", given.consent_id).status == 0
    assert shared.fates(CASES / "i41-reconsent-2026-12-same-id.json") == (0, [("imported", None)])
    assert states(running, "RC-1") == ["ACTIVE", "REVOKED"]


def test_the_missing_page_is_named(shared: Importing) -> None:
    result = shared.run(CASES / "i04-searchset-page1.json")
    assert "`http://example.org/fhir?_getpages=abc&_getpagesoffset=1`" in result.out


# No report names a person.


def test_no_report_names_a_person(importing: Importing) -> None:
    secret = "SECRET-PERSON"
    patient = {"resourceType": "Patient", "id": secret}
    reference = {"patient": {"reference": f"Patient/{secret}", "display": secret}}
    for document in (
        of(secret),
        of(secret, status="inactive"),
        of(f"{secret} 1"),
        of(secret, patient={"reference": f"Patient/{secret}", "identifier": {"system": "urn:x", "value": secret}}),
        of(secret, performer=[{"reference": f"RelatedPerson/{secret}"}]),
        of(secret, patient={"reference": [secret]}),
        bundle(patient),
        bundle({**r4(), **reference}, patient),
        of(secret, provision={"type": "permit", "actor": [{"reference": {"reference": f"Patient/{secret}"}}]}),
        of(secret, provision={"type": "permit", "purpose": [reason("TREAT")], "data": [
            {"meaning": "instance", "reference": {"reference": f"Patient/{secret}/x", "display": secret}}]}),
        of(secret, policyRule={"coding": [{"system": f"{SYSTEM}v3-ActCode", "code": "OPTIN", "display": secret}]}),
    ):  # fmt: skip
        for options in ((), ("--json",), ("--apply",)):
            result = importing.run(importing.file(document), *options)
            assert secret not in result.out + result.err, document
