"""Import files, and tell of each what became of it.

Nothing is half imported: a file with one refused resource has none of its resources written, and its report
says so. Running again changes nothing: what the daemon already holds is ``unchanged``, by ``Consent.source``
for as long as the ledger lasts and by ``request_id`` for as long as a race does.

A resource that was imported before and reads differently now is refused (``CHANGED``): writing it as a second
consent would leave the first one standing beside it. Amend or revoke the first.
"""

import json
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from consentd.errors import ConflictError, DeniedError, InvalidError, NotFoundError
from consentd.fhir.consents import ImportedConsent, Refused, content_id, identity_id, read_consents
from consentd.fhir.document import MAX_DOCUMENT_BYTES, Cause
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.policy.model import Consent

_REFUSALS = (InvalidError, NotFoundError, ConflictError, DeniedError)


class Writer(Protocol):
    """Who writes what was read: the CLI, against a daemon."""

    def existing_sources(self, subject: SubjectReference) -> AbstractSet[str]:
        """Return ``Consent.source`` of every consent the person has or had, withdrawn ones and old versions too."""
        ...

    def grant(self, subject: SubjectReference, consent: Consent, request_id: bytes) -> tuple[str, bool]:
        """Grant a consent, durably; return (consent id, whether this request had been recorded before).

        An empty consent id: refused on a legal ground, which the daemon recorded.

        Raises:
            InvalidError, NotFoundError, ConflictError, DeniedError: refused; nothing was written.
            OverloadedError, StorageError: passed on; run the import again.
        """
        ...


class Fate(StrEnum):
    """What became of a resource."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceReport:
    """What became of one resource.

    Attributes:
        resource: ``Consent/ID``; empty where it could not be told.
        consent_id: of the consent written; empty otherwise.
        cause, message: why refused; None and empty otherwise.
        notes: what was decided or left out on the way.
    """

    resource: str
    fate: Fate
    consent_id: str = ""
    cause: Cause | None = None
    message: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file; its resources in the file's order."""

    path: Path
    resources: tuple[ResourceReport, ...]

    @property
    def refused(self) -> bool:
        """Tell whether any resource was refused."""
        return any(resource.fate is Fate.REFUSED for resource in self.resources)


def import_paths(
    paths: Iterable[Path], mapping: FhirMapping, writer: Writer, *, test_data: bool = False
) -> Iterator[FileReport]:
    """Import files, and the ``*.json`` of directories, in sorted order; yield a report as each file is done.

    Raises:
        InvalidError: the extra ``fhir`` is not installed.
        OverloadedError, StorageError: of the writer. What was yielded is written; run again for the rest.
    """
    for path in find_files(paths):
        try:
            text = _read(path)
        except InvalidError as error:
            yield FileReport(path, (_refused("", Cause(error.reason), str(error)),))
            continue
        yield FileReport(path, import_text(text, mapping, writer, test_data=test_data))


def import_text(
    text: str | bytes, mapping: FhirMapping, writer: Writer, *, test_data: bool = False
) -> tuple[ResourceReport, ...]:
    """Import one document, whole or not at all.

    Raises:
        InvalidError, OverloadedError, StorageError: as ``import_paths``.
    """
    results = [_checked(result, writer) for result in read_consents(text, mapping, test_data=test_data)]
    if any(isinstance(result, Refused) for result in results):
        return tuple(_held_back(result) for result in results)
    reports: list[ResourceReport] = []
    for result in results:
        # A refusal by the daemon leaves what follows unwritten; what precedes stands, and a second run skips it.
        stopped = bool(reports) and reports[-1].fate is Fate.REFUSED
        reports.append(_held_back(result) if stopped else _write(result, writer))
    return tuple(reports)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files meant by ``paths``, each once: a directory means the ``*.json`` below it."""
    found: set[Path] = set()
    for path in paths:
        found |= {file for file in path.rglob("*.json") if file.is_file()} if path.is_dir() else {path}
    return sorted(found)


def format_text(report: FileReport) -> str:
    """Return a report for a person: a line a resource, its notes indented below."""
    lines = []
    for resource in report.resources:
        place = f"{report.path}: {resource.resource}: " if resource.resource else f"{report.path}: "
        if resource.fate is Fate.REFUSED:
            lines.append(f"{place}refused because {resource.message} ({resource.cause})")
        else:
            lines.append(f"{place}{resource.fate}{f' as {resource.consent_id}' if resource.consent_id else ''}")
        lines += [f"  note: {note}" for note in resource.notes]
    return "\n".join(lines)


def format_json(report: FileReport) -> str:
    """Return a report for a program: one JSON object a line, one line a resource."""
    return "\n".join(
        json.dumps(
            {
                "file": str(report.path),
                "resource": resource.resource,
                "fate": resource.fate,
                "consent_id": resource.consent_id,
                "cause": resource.cause,
                "message": resource.message,
                "notes": resource.notes,
            },
            ensure_ascii=False,
        )
        for resource in report.resources
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)  # one more, so that a longer file is seen to be one
    except OSError as error:
        raise InvalidError(f"file cannot be read: {error.strerror}", Cause.UNREADABLE) from error


def _checked(result: ImportedConsent | Refused, writer: Writer) -> ImportedConsent | Refused | ResourceReport:
    """Hold one result against what the person already has."""
    if isinstance(result, Refused):
        return result
    sources = writer.existing_sources(result.subject)
    source = result.consent.source
    if source in sources:
        return ResourceReport(resource=result.resource, fate=Fate.UNCHANGED, notes=result.notes)
    if any(identity_id(other) == identity_id(source) for other in sources if content_id(other)):
        message = "an earlier content of this resource was imported: amend or revoke that consent"
        return Refused(resource=result.resource, cause=Cause.CHANGED, message=message)
    return result


def _write(result: ImportedConsent | Refused | ResourceReport, writer: Writer) -> ResourceReport:
    if isinstance(result, ResourceReport):
        return result
    assert isinstance(result, ImportedConsent)
    try:
        consent_id, replayed = writer.grant(result.subject, result.consent, result.request_id)
    except _REFUSALS as error:
        return _refused(result.resource, Cause.NOT_WRITTEN, str(error))
    if not consent_id:
        return _refused(result.resource, Cause.NOT_WRITTEN, "the daemon refused it, on a legal ground it recorded")
    fate = Fate.UNCHANGED if replayed else Fate.IMPORTED
    return ResourceReport(resource=result.resource, fate=fate, consent_id=consent_id, notes=result.notes)


def _held_back(result: ImportedConsent | Refused | ResourceReport) -> ResourceReport:
    if isinstance(result, ResourceReport):
        return result
    if isinstance(result, Refused):
        return _refused(result.resource, result.cause, result.message)
    return _refused(result.resource, Cause.HELD_BACK, "another resource of this file is refused")


def _refused(resource: str, cause: Cause, message: str) -> ResourceReport:
    return ResourceReport(resource=resource, fate=Fate.REFUSED, cause=cause, message=message)
