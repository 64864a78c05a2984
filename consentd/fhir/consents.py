"""Read the JSON text of a FHIR Consent, or of a Bundle of Consents, into values of ``policy``.

A resource does not state its FHIR release, so the release is found by the elements. Some exist only in R4 (``scope``,
``patient`` …), others only in R5 (``decision``, ``subject`` …). A resource with both kinds or with neither is refused.
"""

import hashlib
import re
from dataclasses import dataclass, field

from consentd.errors import InvalidError
from consentd.fhir.document import Cause, Release, content_hash, parse_document, validate_consent, walk
from consentd.fhir.elements import Element, check_modifiers, refusal
from consentd.fhir.header import OWN_NAMES, read_header
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.fhir.reading import Reading
from consentd.policy.check import check_consent
from consentd.policy.model import Consent, Effect, Kind

_ONLY_R4 = frozenset(OWN_NAMES[Release.R4]) - frozenset(OWN_NAMES[Release.R5])
_ONLY_R5 = frozenset(OWN_NAMES[Release.R5]) - frozenset(OWN_NAMES[Release.R4])
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_BUNDLES = ("collection", "searchset")


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
class Refused:
    """A resource, or a whole document, that is not imported.

    Attributes:
        resource: the resource's type and id, ``Consent/ID``; empty for a document, or if type or id is invalid.
        message: the reason, with the path of the faulty element; the message never names the subject.
    """

    resource: str
    cause: Cause
    message: str


def read_consents(
    text: str | bytes, mapping: FhirMapping, *, test_data: bool = False
) -> tuple[ImportedConsent | Refused, ...]:
    """Read a document; return one result if it is a Consent, or one result per entry if it is a Bundle.

    With *test_data*, resources and purposes marked as test data (HTEST) are accepted too.

    Raises:
        InvalidError: the extra ``fhir`` is not installed. A fault of the document is returned as ``Refused``.
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
            message = f"resource is twice in one bundle: `{resources[index].path}`"
            results[index] = Refused(result.resource, Cause.CHANGED, message)
        seen.add(result.resource)
    return tuple(results)


def import_request_id(subject: SubjectReference, resource: str, content: bytes) -> bytes:
    """Return the ``request_id`` of an import, 16 bytes; it depends only on the person, the resource and its content.

    ``SHA-256("consentd/import/v1" ‖ 0 ‖ len ‖ scheme ‖ len ‖ value ‖ len ‖ resource ‖ content)[:16]``, each length
    4 bytes big-endian, texts UTF-8, *content* the 32 bytes of ``content_hash``.
    """
    texts = [text.encode() for text in (subject.scheme, subject.value, resource)]
    framed = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    return hashlib.sha256(b"consentd/import/v1\0" + framed + content).digest()[:16]


def format_source(release: Release, resource: str, content: bytes) -> str:
    """Return a ``Consent.source``, ``fhir/r4#CONTENT@IDENTITY``. The daemon keeps sources for ever, unlike request ids.

    CONTENT is the first 16 hex digits of the content hash; IDENTITY those of the SHA-256 of *resource*, ``Consent/ID``.
    """
    identity = hashlib.sha256(resource.encode()).hexdigest()[:16]
    return f"fhir/{release}#{content.hex()[:16]}@{identity}"


def resource_identity(source: str) -> str:
    """Return the IDENTITY in a ``Consent.source``, which stands for the FHIR resource; "" for any other source."""
    return source.rpartition("@")[2] if source.startswith("fhir/") else ""


def _entries(document: dict[str, object]) -> list[Element]:
    """Return the resources of a document with their paths: the entries of a Bundle, or the document itself."""
    if document.get("resourceType") != "Bundle":
        return [Element(document, "")]
    bundle = Element(document, "")
    bundle.only("resourceType", "meta", "language", "identifier", "type", "timestamp", "total", "link", "entry")
    if bundle.text("type") not in _BUNDLES:
        # A history bundle has old versions, and a transaction bundle has instructions. Neither is a set of consents.
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
    # The resources are left out of this check: a modifier inside a resource must refuse only that resource.
    bare = [{name: value for name, value in entry.members.items() if name != "resource"} for entry in entries]
    check_modifiers(Element({**document, "entry": bare}, ""))
    return found


def _read(resource: Element, mapping: FhirMapping, test_data: bool) -> ImportedConsent | Refused:
    kind, identifier = resource.members.get("resourceType"), resource.members.get("id")
    named = all(isinstance(part, str) and _ID.fullmatch(part) for part in (kind, identifier))
    name = f"{kind}/{identifier}" if named else ""
    try:
        return _read_consent(resource, name, mapping, test_data)
    except InvalidError as error:
        if error.reason not in Cause.__members__:
            raise  # The extra ``fhir`` is missing, which is no fault of the document.
        return _refused(name, error)


def _read_consent(resource: Element, name: str, mapping: FhirMapping, test_data: bool) -> ImportedConsent:
    """Read one resource: check its type and modifiers, find its release, check its structure, read its elements."""
    if resource.text("resourceType") != "Consent":
        found = resource.text("resourceType") or ""
        raise refusal(Cause.RESOURCE_TYPE, "resource is no Consent", resource.at("resourceType"), found)
    check_modifiers(resource)
    release = _release(resource)
    validate_consent(resource.members, release, resource.path)
    if not name:
        raise refusal(Cause.NOT_VALID, "resource has no id", resource.at("id"))
    reading = Reading(release, mapping, test_data)
    header = read_header(resource, reading)
    content = content_hash(resource.members)
    consent = Consent(
        kind=Kind.OBJECTION if header.root.effect is Effect.DENY else Kind.CONSENT,
        root=header.root,
        policy=header.policy,
        policy_uris=header.policy_uris,
        language=resource.text("language") or "und",
        source=format_source(release, name, content),
    )
    if any(key == "extension" for _, key, _ in walk(resource.members)):
        # FHIR allows a reader to ignore extensions that are not modifiers (R4, 2.4.0.2).
        reading.note("extensions are not kept")
    try:
        check_consent(consent, mapping.vocabulary)
    except InvalidError as error:
        raise refusal(Cause.INVALID_CONSENT, str(error), resource.path or "Consent") from error
    request_id = import_request_id(header.subject, name, content)
    return ImportedConsent(name, header.subject, consent, request_id, tuple(reading.notes))


def _release(resource: Element) -> Release:
    names = resource.members.keys()
    r4_only, r5_only = sorted(names & _ONLY_R4), sorted(names & _ONLY_R5)
    if bool(r4_only) is bool(r5_only):
        message = "resource has elements of R4 and of R5" if r4_only else "resource has no element of one release"
        raise refusal(Cause.RELEASE, message, resource.path or "Consent", ", ".join(r4_only[:1] + r5_only[:1]))
    return Release.R4 if r4_only else Release.R5


def _refused(resource: str, error: InvalidError) -> Refused:
    return Refused(resource, Cause(error.reason), str(error))
