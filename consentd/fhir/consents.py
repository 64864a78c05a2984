"""Read the JSON text of a FHIR Consent, or of a Bundle of Consents, into values of ``policy``.

A resource does not state its FHIR release, so the release is found by the elements. Some exist only in R4 (``scope``,
``patient`` …), others only in R5 (``decision``, ``subject`` …). A resource with both kinds or with neither is refused.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from consentd.errors import InvalidError
from consentd.fhir.bundle import Entry, find_entries
from consentd.fhir.document import Cause, Release, content_hash, parse_document, validate_consent, walk
from consentd.fhir.elements import Element, check_modifiers, refusal
from consentd.fhir.header import OWN_NAMES, check_test_data, read_header, read_subject
from consentd.fhir.identity import (
    Origin,
    find_origin,
    format_source,
    full_name,
    identity_of,
    import_request_id,
    parse_source,
)
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.fhir.reading import Reading
from consentd.policy.check import check_consent
from consentd.policy.language import canonical_tag
from consentd.policy.model import Consent, Effect, Kind

_ONLY_R4 = frozenset(OWN_NAMES[Release.R4]) - frozenset(OWN_NAMES[Release.R5])
_ONLY_R5 = frozenset(OWN_NAMES[Release.R5]) - frozenset(OWN_NAMES[Release.R4])
_ONLY_STU3 = ("consentingParty", "except", "actor", "action", "purpose", "securityLabel", "dataPeriod", "data")
"""Elements of a Consent that only STU3 (3.0.2) has. Later releases have them in ``provision``, if at all."""
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_PEOPLE = ("Patient", "Person", "RelatedPerson")
_WITHDRAWN = ("inactive", "rejected", "entered-in-error", "not-done")
"""The statuses of R4 and R5 that end a consent."""


@dataclass(frozen=True, slots=True)
class ImportedConsent:
    """A consent that was read from a resource, and is not yet written to a daemon.

    Attributes:
        resource: the resource's type and id, ``Consent/ID``.
        consent: the consent to grant; its ``source`` identifies the resource and its content, see ``format_source``.
        request_id: 16 bytes, equal in each import of the same content.
        notes: messages about each choice that the reading made, and each element that was left out.
    """

    resource: str
    subject: SubjectReference = field(repr=False)
    consent: Consent
    request_id: bytes
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A resource whose status says that its consent has ended in the other system. Nothing else of it was read.

    Attributes:
        identity: the IDENTITY in the ``source`` of the consent that was imported from this resource, if one was.
        message: the status, with its path.
    """

    resource: str
    subject: SubjectReference = field(repr=False)
    identity: str
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A resource, or a whole document, that is not imported.

    Attributes:
        resource: the resource's type and id, ``Consent/ID``; empty for a document, or if type or id is invalid.
        message: the reason, with the path of the faulty element; the message never names the subject.
    """

    resource: str
    cause: Cause
    message: str


Result = ImportedConsent | Withdrawn | Refused


def read_consents(
    text: str | bytes, mapping: FhirMapping, *, test_data: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Result, ...]:  # fmt: skip
    """Read a document; return one result if it is a Consent, or one result per Consent if it is a Bundle.

    With *test_data*, resources and purposes marked as test data (HTEST) are accepted too. *progress* is called with the
    number of resources that were read, and of all.

    Raises:
        InvalidError: the extra ``fhir`` is not installed. A fault of the document is returned as ``Refused``.
    """
    try:
        entries = find_entries(parse_document(text))
    except InvalidError as error:
        return (_refused("", error),)
    results = []
    for entry in entries.found:
        results.append(_read(entry, mapping, test_data))
        progress(len(results), len(entries.found))
    seen: dict[str, Result] = {}
    for index, result in enumerate(results):
        identity = _identity(result)
        first = seen.setdefault(identity, result) if identity else result
        if first != result:
            path = entries.found[index].resource.path
            message = f"resource is in one bundle with two contents: `{path}`"
            results[index] = Refused(result.resource, Cause.CHANGED, message)
    if entries.left_out and isinstance(results[0], ImportedConsent):
        note = f"resources of other types in the bundle are left out: {entries.left_out}"
        results[0] = dataclasses.replace(results[0], notes=(*results[0].notes, note))
    return tuple(results)


def _identity(result: Result) -> str:
    if isinstance(result, ImportedConsent):
        source = parse_source(result.consent.source)
        return source.identity if source is not None else ""
    return result.identity if isinstance(result, Withdrawn) else ""


def _read(entry: Entry, mapping: FhirMapping, test_data: bool) -> Result:
    resource = entry.resource
    kind, identifier = resource.members.get("resourceType"), resource.members.get("id")
    named = all(isinstance(part, str) and _ID.fullmatch(part) for part in (kind, identifier))
    name = f"{kind}/{identifier}" if named else ""
    try:
        if resource.text("resourceType") != "Consent":
            found = resource.text("resourceType") or ""
            raise refusal(Cause.RESOURCE_TYPE, "resource is no Consent", resource.at("resourceType"), found)
        check_modifiers(resource)
        origin = find_origin(resource, entry.full_url, mapping)
        status = resource.text("status") or ""
        if name and status in _WITHDRAWN:
            return _read_withdrawn(resource, name, origin, mapping, test_data)
        return _read_consent(resource, name, origin, mapping, test_data)
    except InvalidError as error:
        return _refused("" if kind in _PEOPLE else name, error)  # no report names a person


def _read_withdrawn(resource: Element, name: str, origin: Origin, mapping: FhirMapping, test_data: bool) -> Withdrawn:
    reading = Reading(Release.R4 if "patient" in resource.members else Release.R5, mapping, test_data, base=origin.base)
    check_test_data(resource, reading)
    subject = read_subject(resource, reading)
    message = str(refusal(Cause.STATUS, "status is not active", resource.at("status"), resource.text("status") or ""))
    return Withdrawn(name, subject, identity_of(full_name(origin, name)), message)


def _read_consent(
    resource: Element, name: str, origin: Origin, mapping: FhirMapping, test_data: bool
) -> ImportedConsent:
    """Read one Consent: find its release, check its structure, read its elements."""
    release = _release(resource)
    validate_consent(resource.members, release, resource.path)
    if not name:
        raise refusal(Cause.NOT_VALID, "resource has no id", resource.at("id"))
    reading = Reading(release, mapping, test_data, base=origin.base)
    if origin.server != mapping.server and not origin.base:
        reading.note("meta.source names another server, but the mapping states no `server`: references are its own")
    header = read_header(resource, reading)
    content = content_hash(resource.members)
    date = resource.text("dateTime" if release is Release.R4 else "date") or ""
    consent = Consent(
        kind=Kind.OBJECTION if header.root.effect is Effect.DENY else Kind.CONSENT,
        root=header.root,
        policy=header.policy,
        policy_uris=header.policy_uris,
        language=_language(resource),
        source=format_source(release, full_name(origin, name), content, date),
    )
    if any(key == "extension" for _, key, _ in walk(resource.members)):
        # FHIR allows a reader to ignore extensions that are not modifiers (R4, 2.4.0.2).
        reading.note("extensions are not kept")
    try:
        check_consent(consent, mapping.vocabulary)
    except InvalidError as error:
        raise refusal(Cause.INVALID_CONSENT, str(error), resource.path or "Consent") from error
    request_id = import_request_id(header.subject, full_name(origin, name), content)
    return ImportedConsent(name, header.subject, consent, request_id, tuple(reading.notes))


def _language(resource: Element) -> str:
    """Return the language of a resource in the case of our tags. ``check_consent`` refuses what is no such tag."""
    stated = resource.text("language") or "und"
    try:
        return canonical_tag(stated)
    except InvalidError:
        return stated


def _release(resource: Element) -> Release:
    names = resource.members.keys()
    stu3 = [name for name in _ONLY_STU3 if name in names]
    if isinstance(resource.members.get("policyRule"), str):  # a URI in STU3, a concept in R4
        stu3.append("policyRule")
    if stu3:
        message = "resource is of FHIR STU3, and R4 and R5 are read: convert it to R4. STU3 alone has"
        raise refusal(Cause.RELEASE, message, resource.path or "Consent", stu3[0])
    r4_only, r5_only = sorted(names & _ONLY_R4), sorted(names & _ONLY_R5)
    if bool(r4_only) is bool(r5_only):
        message = "resource has elements of R4 and of R5" if r4_only else "resource has no element of one release"
        raise refusal(Cause.RELEASE, message, resource.path or "Consent", ", ".join(r4_only[:1] + r5_only[:1]))
    return Release.R4 if r4_only else Release.R5


def _refused(resource: str, error: InvalidError) -> Refused:
    if error.reason not in Cause.__members__:
        raise error  # the extra ``fhir`` is missing, which is no fault of the document
    return Refused(resource, Cause(error.reason), str(error))
