"""Turn the JSON text of a FHIR Consent, R4 or R5, or of a Bundle of them, into consents of ours.

Which release a resource is of is told by its elements: one that only R4 has (``scope``, ``patient``,
``dateTime``, ``performer``, ``organization``, ``policy``, ``policyRule``) or only R5 has (``subject``,
``decision``, ``date``, ``period``, ``grantor`` …). Both or neither: refused.

Every resource comes out as ``ImportedConsent`` or as ``Refused``: nothing is imported in part.
"""

import hashlib
import re
from dataclasses import dataclass, field

from consentd.errors import InvalidError
from consentd.fhir import header, r4, r5
from consentd.fhir.document import Cause, content_hash, parse_document, walk
from consentd.fhir.elements import Element, check_modifiers, refusal
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.fhir.provisions import Reading, state_silence
from consentd.fhir.resources import Release, validate_consent
from consentd.policy.check import check_consent
from consentd.policy.model import Consent, Effect, Kind

_ONLY_R4 = frozenset(r4.NAMES) - frozenset(r5.NAMES)
_ONLY_R5 = frozenset(r5.NAMES) - frozenset(r4.NAMES)
_NAMES = {Release.R4: r4.NAMES, Release.R5: r5.NAMES}
_READERS = {Release.R4: r4.read_r4, Release.R5: r5.read_r5}
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_BUNDLES = ("collection", "searchset")
_IDENTITY = "@"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedConsent:
    """A consent as read, not yet written.

    Attributes:
        resource: ``Consent/ID``.
        subject: the citizen; not in the repr.
        consent: what to grant; its ``source`` tells origin and content, see ``format_source``.
        request_id: 16 bytes, the same at every import of this content.
        notes: what was decided or left out on the way.
    """

    resource: str
    subject: SubjectReference = field(repr=False)
    consent: Consent
    request_id: bytes
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A resource, or a whole document, that is not imported.

    Attributes:
        resource: ``Consent/ID``; empty where it could not be told.
        cause: why, from a closed set.
        message: for a person: constant text, path; never names the subject.
    """

    resource: str
    cause: Cause
    message: str


def read_consents(
    text: str | bytes, mapping: FhirMapping, *, test_data: bool = False
) -> tuple[ImportedConsent | Refused, ...]:
    """Read every Consent of one document, in its order: one for a Consent, one an entry for a Bundle.

    Args:
        test_data: import what is labelled HTEST too.

    Raises:
        InvalidError: the extra ``fhir`` is not installed. Whatever the document holds is answered as ``Refused``.
    """
    try:
        document = parse_document(text)
        resources = _entries(document)
    except InvalidError as error:
        return (_refused("", error),)
    results = [_read(resource, mapping, test_data) for resource in resources]
    seen: set[str] = set()
    for index, result in enumerate(results):
        if result.resource and result.resource in seen:
            message = f"resource stands twice in one bundle: `{resources[index].path}`"
            results[index] = Refused(resource=result.resource, cause=Cause.CHANGED, message=message)
        seen.add(result.resource)
    return tuple(results)


def import_request_id(subject: SubjectReference, resource: str, content: bytes) -> bytes:
    """Return the 16-byte ``request_id`` of an import: the same person, resource and content give the same one.

    ``SHA-256("consentd/import/v1" ‖ 0 ‖ len ‖ scheme ‖ len ‖ value ‖ len ‖ resource ‖ content)[:16]``, each length
    4 bytes big-endian, texts UTF-8, *content* the 32 bytes of ``content_hash``.
    """
    texts = [text.encode() for text in (subject.scheme, subject.value, resource)]
    framed = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    return hashlib.sha256(b"consentd/import/v1\0" + framed + content).digest()[:16]


def format_source(release: Release, resource: str, content: bytes) -> str:
    """Return ``fhir/r4#CONTENT@IDENTITY``: what ``Consent.source`` keeps, when the request ids are long forgotten.

    CONTENT is 16 hex digits of the content hash; IDENTITY likewise of the SHA-256 of ``Consent/ID``.
    """
    identity = hashlib.sha256(resource.encode()).hexdigest()[:16]
    return f"fhir/{release}#{content.hex()[:16]}{_IDENTITY}{identity}"


def content_id(source: str) -> str:
    """Return the part of a ``Consent.source`` that tells its content, ``fhir/r4#CONTENT``; empty for other sources."""
    return source.rpartition(_IDENTITY)[0] if source.startswith("fhir/") else ""


def identity_id(source: str) -> str:
    """Return the part of a ``Consent.source`` that tells which resource it came from; empty for other sources."""
    return source.rpartition(_IDENTITY)[2] if source.startswith("fhir/") else ""


def _entries(document: dict[str, object]) -> list[Element]:
    """Return the resources of a document, with their paths."""
    if document.get("resourceType") != "Bundle":
        return [Element(document, "")]
    bundle = Element(document, "")
    bundle.only("resourceType", "meta", "language", "identifier", "type", "timestamp", "total", "link", "entry")
    if bundle.text("type") not in _BUNDLES:
        # A history holds what no longer counts, a transaction instructions: neither is a set of consents.
        raise refusal(Cause.RESOURCE_TYPE, f"bundle is no {' or '.join(_BUNDLES)}", "type", bundle.text("type") or "")
    entries = bundle.many("entry")
    if not entries:
        raise refusal(Cause.RESOURCE_TYPE, "bundle is empty", "entry")
    found = []
    for entry in entries:
        resource = entry.only("fullUrl", "link", "search", "resource").one("resource")
        if resource is None:
            raise refusal(Cause.RESOURCE_TYPE, "entry has no resource", entry.path)
        found.append(resource)
    # Each resource answers for itself, so that a bundle still gives one result an entry.
    shell = [{name: value for name, value in entry.members.items() if name != "resource"} for entry in entries]
    check_modifiers(Element({**document, "entry": shell}, ""))
    return found


def _read(resource: Element, mapping: FhirMapping, test_data: bool) -> ImportedConsent | Refused:
    kind, identifier = resource.members.get("resourceType"), resource.members.get("id")
    named = all(isinstance(part, str) and _ID.fullmatch(part) for part in (kind, identifier))
    name = f"{kind}/{identifier}" if named else ""
    try:
        return _read_consent(resource, name, mapping, test_data)
    except InvalidError as error:
        if error.reason not in Cause.__members__:
            raise  # not the document's fault: the extra is missing
        return _refused(name, error)


def _read_consent(resource: Element, name: str, mapping: FhirMapping, test_data: bool) -> ImportedConsent:
    """Read one resource: modifiers, release, structure, what is shared, what is the release's own."""
    if resource.text("resourceType") != "Consent":
        told = resource.text("resourceType") or ""
        raise refusal(Cause.RESOURCE_TYPE, "resource is no Consent", resource.at("resourceType"), told)
    check_modifiers(resource)
    release = _release(resource)
    validate_consent(resource.members, release, resource.path)
    if not name:
        raise refusal(Cause.NOT_VALID, "resource has no id", resource.at("id"))
    resource.only(*header.NAMES, *_NAMES[release])
    reading = Reading(release, mapping, test_data)
    header.check_shared(resource, reading)
    found = _READERS[release](resource, reading)
    root = state_silence(found.root, reading)
    content = content_hash(resource.members)
    consent = Consent(
        kind=Kind.OBJECTION if root.effect is Effect.DENY else Kind.CONSENT,
        root=root,
        policy=found.policy,
        language=resource.text("language") or "und",
        source=format_source(release, name, content),
    )
    _note_extensions(resource, reading)
    try:
        check_consent(consent, mapping.vocabulary)
    except InvalidError as error:
        raise refusal(Cause.INVALID_CONSENT, str(error), resource.path or "Consent") from error
    request_id = import_request_id(found.subject, name, content)
    return ImportedConsent(
        resource=name, subject=found.subject, consent=consent, request_id=request_id, notes=tuple(reading.notes)
    )


def _release(resource: Element) -> Release:
    names = resource.members.keys()
    r4_only, r5_only = sorted(names & _ONLY_R4), sorted(names & _ONLY_R5)
    if bool(r4_only) is bool(r5_only):
        message = "elements of R4 and of R5 stand together" if r4_only else "no element tells R4 from R5"
        raise refusal(Cause.RELEASE, message, resource.path or "Consent", ", ".join(r4_only[:1] + r5_only[:1]))
    return Release.R4 if r4_only else Release.R5


def _note_extensions(resource: Element, reading: Reading) -> None:
    """An extension that is no modifier may be left out (FHIR R4, 2.4.0.2); say that it was."""
    if any(key == "extension" for _, key, _ in walk(resource.members)):
        reading.note("extensions are not kept")


def _refused(resource: str, error: InvalidError) -> Refused:
    return Refused(resource=resource, cause=Cause(error.reason), message=str(error))
