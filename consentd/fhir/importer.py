"""Import the consents of files, and report the result of each resource.

If one resource of a file is refused, no resource of that file is written, and no person of it is enrolled. An import
may be repeated: a resource that was already imported is reported as ``unchanged``. The resource is recognised by
``Consent.source``, which is never deleted, and by ``request_id`` if two imports run at the same time.

A resource that was imported with other content is refused (``CHANGED``) while that consent is in force: a second
consent would not replace the first. After the first was revoked here, a content that was given later is a new consent.
A resource that was withdrawn in the other system is refused (``STATUS``), naming the consent that is still in force
here; or, on request, that consent is revoked.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol

from consentd.errors import LaterError, RequestError
from consentd.fhir.consents import ImportedConsent, Refused, Withdrawn, read_consents
from consentd.fhir.document import MAX_DOCUMENT_BYTES, Cause
from consentd.fhir.identity import import_request_id, parse_source
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.policy.model import Consent

_SUFFIXES = (".json", ".xml", ".ndjson")
"""Files of a directory that are read. NDJSON is refused by name, so that none is missed."""

_STAYS_ENROLLED = (
    "the person was enrolled for this consent and stays enrolled: correct the resource or the mapping, and import again"
)

Progress = Callable[[int, int], None]
"""Called with how many steps of all files are done, and of how many. Each file counts as ``STEPS``."""
STEPS = 1000


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of a consent that the daemon has about a person.

    Attributes:
        source: the version's ``Consent.source``.
        consent_id: the consent whose version it is.
        is_in_force: whether the consent is not revoked.
    """

    source: str
    consent_id: str
    is_in_force: bool


class Writer(Protocol):
    """Writes consents, for example to a daemon."""

    def stored(self, subject: SubjectReference) -> Iterable[Stored] | None:
        """Return every version of all consents of a person, also of withdrawn ones; writes nothing.

        None: the person is not enrolled, and ``grant`` will not enrol the person.
        """
        ...

    def enrol(self, subject: SubjectReference) -> bool:
        """Enrol a person whom ``stored`` did not find; return whether this was needed. Raises as ``grant``."""
        ...

    def grant(self, subject: SubjectReference, consent: Consent, request_id: bytes) -> tuple[str, bool]:
        """Write a consent of an enrolled person durably; return (consent id, whether this request was recorded before).

        The consent id is empty if the daemon refused the consent on a legal ground, and recorded the refusal.

        Raises:
            RequestError: the consent is refused; nothing was written.
            LaterError, StorageError: the import must end, and can be repeated.
        """
        ...

    def revoke(self, subject: SubjectReference, consent_id: str, request_id: bytes) -> None:
        """Revoke a consent durably. Raises as ``grant``."""
        ...


class ImportResult(StrEnum):
    """The result of importing a resource."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    REVOKED = "revoked"
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

    @property
    def unreadable(self) -> bool:
        """Whether the file could not be read, so that nothing is known of its resources."""
        return any(resource.cause is Cause.UNREADABLE for resource in self.resources)


@dataclass(frozen=True, slots=True)
class _Revocation:
    """A consent that is to be revoked, because its resource was withdrawn."""

    resource: str
    subject: SubjectReference = field(repr=False)
    consent_id: str
    request_id: bytes


_Checked = ImportedConsent | _Revocation | ResourceReport


def import_paths(
    paths: Iterable[Path], mapping: FhirMapping, writer: Writer, *, test_data: bool = False, apply: bool = False,
    progress: Progress = lambda done, total: None,
) -> Iterator[FileReport]:  # fmt: skip
    """Import files, and all files that ``find_files`` finds, in sorted order; yield a report after each file.

    With *apply*, consents whose resources were withdrawn are revoked.

    Raises:
        InvalidError: the extra ``fhir`` is not installed.
        LaterError, StorageError: the writer failed. The files reported so far are done; repeat the import.
    """
    files = find_files(paths)
    for number, path in enumerate(files):

        def show(phase: int, done: int, total: int, number: int = number) -> None:
            """Show the part of one of the three phases of a file: read, compare, write."""
            part = (phase * total + done) * STEPS // (3 * total)
            progress(number * STEPS + part, len(files) * STEPS)

        try:
            with path.open("rb") as file:
                text = file.read(MAX_DOCUMENT_BYTES + 1)  # one byte more, so that a file that is too long is refused
        except OSError as error:
            yield FileReport(path, (_refused("", Cause.UNREADABLE, f"file cannot be read: {error.strerror}"),))
            continue
        results = read_consents(text, mapping, test_data=test_data, progress=partial(show, 0))
        del text
        checked = _check(results, writer, apply=apply, progress=partial(show, 1))
        yield FileReport(path, tuple(_write_all(checked, writer, partial(show, 2))))


def _check(
    results: tuple[ImportedConsent | Withdrawn | Refused, ...], writer: Writer, *, apply: bool, progress: Progress
) -> list[_Checked]:
    """Compare what was read with what the daemon has. Nothing is written."""
    known: dict[SubjectReference, tuple[Stored, ...] | None] = {}
    checked: list[_Checked] = []
    seen: set[bytes] = set()
    for done, result in enumerate(results, 1):
        progress(done, len(results))
        if isinstance(result, Refused):
            checked.append(_refused(result.resource, result.cause, result.message))
            continue
        if result.subject not in known:
            found = writer.stored(result.subject)
            known[result.subject] = None if found is None else tuple(found)
        stored = known[result.subject]
        if isinstance(result, Withdrawn):
            checked.append(_check_withdrawn(result, stored or (), apply=apply))
        elif stored is None:
            message = "subject is not enrolled: enrol the person, or import with --enrol"
            checked.append(_refused(result.resource, Cause.UNKNOWN_SUBJECT, message))
        elif result.request_id in seen:
            note = "the same resource is in this file before"
            checked.append(ResourceReport(result.resource, ImportResult.UNCHANGED, notes=(note,)))
        else:
            seen.add(result.request_id)
            checked.append(_check_new(result, stored))
    return checked


def _check_new(result: ImportedConsent, stored: tuple[Stored, ...]) -> ImportedConsent | ResourceReport:
    """Return *result* if it is to be written; a report if it was imported before, or with other content."""
    new = parse_source(result.consent.source)
    assert new is not None
    last_ms: int | None = None
    is_any = False
    for one in stored:
        old = parse_source(one.source)
        if old is None or old.identity != new.identity:
            continue
        if old.content == new.content:
            notes = result.notes if one.is_in_force else (*result.notes, "the consent was revoked here")
            return ResourceReport(result.resource, ImportResult.UNCHANGED, one.consent_id, notes=notes)
        if one.is_in_force:
            message = (
                f"an earlier content of this resource was imported and is in force as `{one.consent_id}`: amend that "
                "consent; or revoke it, and import again"
            )
            return _refused(result.resource, Cause.CHANGED, message)
        is_any = True
        if old.time_ms is not None:
            last_ms = old.time_ms if last_ms is None else max(last_ms, old.time_ms)
    if is_any and (new.time_ms is None or (last_ms is not None and new.time_ms <= last_ms)):
        # Else a server that only writes its resource in another form would give back what the person has withdrawn.
        message = "an earlier content of this resource was imported and then revoked, and this one was not given later"
        return _refused(result.resource, Cause.CHANGED, message)
    return result


def _check_withdrawn(result: Withdrawn, stored: tuple[Stored, ...], *, apply: bool) -> _Revocation | ResourceReport:
    found = [one for one in stored if (old := parse_source(one.source)) is not None and old.identity == result.identity]
    in_force = [one.consent_id for one in found if one.is_in_force]
    if not found:
        return _refused(result.resource, Cause.STATUS, f"{result.message}; no consent was imported from this resource")
    if not in_force:
        note = f"{result.message}; the consent was revoked here too"
        return ResourceReport(result.resource, ImportResult.UNCHANGED, found[0].consent_id, notes=(note,))
    consent_id = in_force[0]
    if not apply:
        message = (
            f"{result.message}; the consent that was imported from this resource is in force as `{consent_id}`: import "
            f"with --apply, or run `consentd revoke SCHEME:VALUE {consent_id}`"
        )
        return _refused(result.resource, Cause.STATUS, message)
    content = hashlib.sha256(consent_id.encode()).digest()
    request_id = import_request_id(result.subject, f"revoke {result.identity}", content)
    return _Revocation(result.resource, result.subject, consent_id, request_id)


def _write_all(checked: list[_Checked], writer: Writer, progress: Progress) -> Iterator[ResourceReport]:
    """Write what was checked, unless a resource of the file is refused."""
    is_any_refused = any(isinstance(one, ResourceReport) and one.cause is not None for one in checked)
    for done, one in enumerate(checked, 1):
        if isinstance(one, ResourceReport):
            report = one
        elif is_any_refused:
            report = _refused(one.resource, Cause.HELD_BACK, "another resource of this file is refused")
        else:
            report = _write(one, writer)
            # If the daemon refuses a resource, the following resources are not written. The earlier resources are
            # written already; a second import reports them as unchanged.
            is_any_refused = report.result is ImportResult.REFUSED
        yield report
        progress(done, len(checked))


def _write(one: ImportedConsent | _Revocation, writer: Writer) -> ResourceReport:
    notes: tuple[str, ...] = ()
    try:
        if isinstance(one, _Revocation):
            writer.revoke(one.subject, one.consent_id, one.request_id)
            return ResourceReport(one.resource, ImportResult.REVOKED, one.consent_id)
        if writer.enrol(one.subject):
            notes = (_STAYS_ENROLLED,)
        consent_id, replayed = writer.grant(one.subject, one.consent, one.request_id)
    except LaterError:
        raise
    except RequestError as error:
        return _refused(one.resource, Cause.NOT_WRITTEN, str(error), notes)
    if not consent_id:
        message = "the daemon refused it on a legal ground that it recorded"
        return _refused(one.resource, Cause.NOT_WRITTEN, message, notes)
    written = ImportResult.UNCHANGED if replayed else ImportResult.IMPORTED
    return ResourceReport(one.resource, written, consent_id, notes=one.notes)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files at *paths*, sorted, each once; for a directory, all files of FHIR's formats below it."""
    found: set[Path] = set()
    for path in paths:
        below = path.rglob("*") if path.is_dir() else ()
        found |= {file for file in below if file.suffix in _SUFFIXES and file.is_file()} if path.is_dir() else {path}
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


def _refused(resource: str, cause: Cause, message: str, notes: tuple[str, ...] = ()) -> ResourceReport:
    return ResourceReport(resource, ImportResult.REFUSED, cause=cause, message=message, notes=notes)
