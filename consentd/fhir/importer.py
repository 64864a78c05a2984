"""Import the consents of files, and report the result of each resource.

If one resource of a file is refused, no resource of that file is written. An import may be repeated: a resource that
was already imported is reported as ``unchanged``. The resource is recognised by ``Consent.source``, which is never
deleted, and by ``request_id`` if two imports run at the same time.

A resource that was already imported with other content is refused (``CHANGED``), because writing it would add a second
consent and not replace the first consent. The first consent must be amended or revoked instead.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from consentd.errors import ConflictError, DeniedError, InvalidError, NotFoundError
from consentd.fhir.consents import ImportedConsent, Refused, read_consents, resource_identity
from consentd.fhir.document import MAX_DOCUMENT_BYTES, Cause
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.policy.model import Consent

_REFUSALS = (InvalidError, NotFoundError, ConflictError, DeniedError)


class Writer(Protocol):
    """Writes consents, for example to a daemon."""

    def existing_sources(self, subject: SubjectReference) -> AbstractSet[str]:
        """Return ``Consent.source`` of every version of all consents of a person, also of withdrawn consents."""
        ...

    def grant(self, subject: SubjectReference, consent: Consent, request_id: bytes) -> tuple[str, bool]:
        """Write a consent durably; return (consent id, whether this request was already recorded before).

        The consent id is empty if the daemon refused the consent on a legal ground, and recorded the refusal.

        Raises:
            InvalidError, NotFoundError, ConflictError, DeniedError: the consent is refused; nothing was written.
            OverloadedError, StorageError: the import must end, and can be repeated.
        """
        ...


class ImportResult(StrEnum):
    """The result of importing a resource."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ResourceReport:
    """The report about one resource, with the fields of its ``ImportedConsent`` or ``Refused``."""

    resource: str
    result: ImportResult
    consent_id: str = ""
    cause: Cause | None = None
    message: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileReport:
    """The report about one file, with its resources in the order of the file."""

    path: Path
    resources: tuple[ResourceReport, ...]

    @property
    def refused(self) -> bool:
        """Whether any resource of the file was refused."""
        return any(resource.result is ImportResult.REFUSED for resource in self.resources)


def import_paths(
    paths: Iterable[Path], mapping: FhirMapping, writer: Writer, *, test_data: bool = False
) -> Iterator[FileReport]:
    """Import files, and all ``*.json`` files below directories, in sorted order; yield a report after each file.

    Raises:
        InvalidError: the extra ``fhir`` is not installed.
        OverloadedError, StorageError: the writer failed. The files reported so far are done; repeat the import.
    """
    for path in find_files(paths):
        try:
            with path.open("rb") as file:
                text = file.read(MAX_DOCUMENT_BYTES + 1)  # one byte more, so that a file that is too long is refused
        except OSError as error:
            yield FileReport(path, (_refused("", Cause.UNREADABLE, f"file cannot be read: {error.strerror}"),))
            continue
        yield FileReport(path, tuple(_import_text(text, mapping, writer, test_data)))


def _import_text(text: bytes, mapping: FhirMapping, writer: Writer, test_data: bool) -> list[ResourceReport]:
    """Import the resources of a document, unless one of them is refused before the first is written."""
    results = [_checked(result, writer) for result in read_consents(text, mapping, test_data=test_data)]
    is_any_refused = any(isinstance(result, Refused) for result in results)
    reports: list[ResourceReport] = []
    for result in results:
        if isinstance(result, ResourceReport):
            report = result
        elif isinstance(result, Refused):
            report = _refused(result.resource, result.cause, result.message)
        elif is_any_refused:
            report = _refused(result.resource, Cause.HELD_BACK, "another resource of this file is refused")
        else:
            report = _write(result, writer)
            # If the daemon refuses a resource, the following resources are not written. The earlier resources are
            # written already; a second import reports them as unchanged.
            is_any_refused = report.result is ImportResult.REFUSED
        reports.append(report)
    return reports


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files at *paths*, sorted, each once; for a directory, all ``*.json`` files below the directory."""
    found: set[Path] = set()
    for path in paths:
        found |= {file for file in path.rglob("*.json") if file.is_file()} if path.is_dir() else {path}
    return sorted(found)


def format_text(report: FileReport) -> str:
    """Return a report as text for people: a line for each resource, followed by its notes, indented."""
    lines = []
    for resource in report.resources:
        prefix = f"{report.path}: {resource.resource}: " if resource.resource else f"{report.path}: "
        if resource.result is ImportResult.REFUSED:
            lines.append(f"{prefix}refused because {resource.message} ({resource.cause})")
        else:
            lines.append(f"{prefix}{resource.result}{f' as {resource.consent_id}' if resource.consent_id else ''}")
        lines += [f"  note: {note}" for note in resource.notes]
    return "\n".join(lines)


def format_json(report: FileReport) -> str:
    """Return a report for programs: one line with a JSON object for each resource."""
    lines = []
    for resource in report.resources:
        members = dataclasses.asdict(resource)
        line = {"file": str(report.path), "resource": members.pop("resource"), "fate": members.pop("result"), **members}
        lines.append(json.dumps(line, ensure_ascii=False))
    return "\n".join(lines)


def _checked(result: ImportedConsent | Refused, writer: Writer) -> ImportedConsent | Refused | ResourceReport:
    """Return *result*, or if its resource was imported before: a report (UNCHANGED) or a ``Refused`` (CHANGED)."""
    if isinstance(result, Refused):
        return result
    sources, source = writer.existing_sources(result.subject), result.consent.source
    if source in sources:
        return ResourceReport(result.resource, ImportResult.UNCHANGED, notes=result.notes)
    if any(resource_identity(other) == resource_identity(source) for other in sources):
        message = "an earlier content of this resource was imported: amend or revoke that consent"
        return Refused(result.resource, Cause.CHANGED, message)
    return result


def _write(result: ImportedConsent, writer: Writer) -> ResourceReport:
    try:
        consent_id, replayed = writer.grant(result.subject, result.consent, result.request_id)
    except _REFUSALS as error:
        return _refused(result.resource, Cause.NOT_WRITTEN, str(error))
    if not consent_id:
        return _refused(result.resource, Cause.NOT_WRITTEN, "the daemon refused it on a legal ground that it recorded")
    written = ImportResult.UNCHANGED if replayed else ImportResult.IMPORTED
    return ResourceReport(result.resource, written, consent_id, notes=result.notes)


def _refused(resource: str, cause: Cause, message: str) -> ResourceReport:
    return ResourceReport(resource, ImportResult.REFUSED, cause=cause, message=message)
