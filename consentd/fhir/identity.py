"""Identify resources, so that each is imported once, and resources of two servers are never taken for one.

An id such as ``Consent/1`` or ``Patient/1`` is unique only on its own server. The server is known from ``fullUrl`` of a
Bundle's entry, which is the resource's address there (R4, 2.36.4), else from ``meta.source``, else from ``server`` of
the mapping. The base URLs of the mapping are other names of the mapping's own server.
"""

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from consentd.errors import InvalidError
from consentd.fhir.document import Cause, Release
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import FhirMapping, SubjectReference
from consentd.policy.dates import is_date, parse_instant_ms, start_of_date_ms

_SOURCE = re.compile(r"fhir/[a-z0-9]+#(?P<content>[0-9a-f]{16})@(?P<identity>[0-9a-f]{16})(?:~(?P<date>[0-9TZ:.+-]+))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a resource is from.

    Attributes:
        server: the URL or URI of its server without a slash at the end; empty: not known.
        base: what is written before the resource's relative references, with a slash at the end; empty: they are those
            of the mapping. It is stated if the server is another than the mapping's own.
    """

    server: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a ``Consent.source`` that an import wrote.

    Attributes:
        content, identity: as in ``format_source``.
        time_ms: when the consent was given, by the resource; None: the resource does not state it.
    """

    content: str
    identity: str
    time_ms: int | None = field(default=None)


def find_origin(resource: Element, full_url: str, mapping: FhirMapping) -> Origin:
    """Return where a resource is from; *full_url* is that of its entry in a Bundle, or empty.

    Raises:
        InvalidError: (NOT_VALID) ``fullUrl`` is the address of a resource with another type or id.
    """
    meta = resource.one("meta")
    source = (meta.text("source") if meta is not None else None) or ""
    name = f"/{resource.members.get('resourceType')}/{resource.members.get('id')}"
    if full_url.lower().startswith(("http://", "https://")):
        if not full_url.endswith(name):
            raise refusal(Cause.NOT_VALID, "fullUrl of the entry is not that of its resource", resource.path or "entry")
        server, is_base = _canonical(full_url.removesuffix(name)), True  # references are relative to it (R4, 2.36.4.1)
    else:
        # ``meta.source`` names the system that the resource is from. A fragment there names a single request.
        server, is_base = _canonical(source.partition("#")[0].removesuffix(name)), bool(mapping.server)
    if not server or f"{server}/" in mapping.bases:
        return Origin(mapping.server)
    return Origin(server, f"{server}/" if is_base else "")


def _canonical(url: str) -> str:
    """Return a URL with its scheme and host in lower case, without a slash at the end; other texts as they are."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if parts.scheme not in ("http", "https"):
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.lower())).rstrip("/")


def full_name(origin: Origin, resource: str) -> str:
    """Return the name that identifies a resource: ``Consent/ID``, after the URL of its server if this is known."""
    return f"{origin.server}/{resource}" if origin.server else resource


def import_request_id(subject: SubjectReference, name: str, content: bytes) -> bytes:
    """Return the ``request_id`` of an import, 16 bytes; it depends only on the person, the resource and its content.

    ``SHA-256("consentd/import/v1" ‖ 0 ‖ len ‖ scheme ‖ len ‖ value ‖ len ‖ name ‖ content)[:16]``, each length
    4 bytes big-endian, texts UTF-8, *name* as ``full_name`` returns it, *content* the 32 bytes of ``content_hash``.
    """
    texts = [text.encode() for text in (subject.scheme, subject.value, name)]
    framed = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    return hashlib.sha256(b"consentd/import/v1\0" + framed + content).digest()[:16]


def format_source(release: Release, name: str, content: bytes, date: str = "") -> str:
    """Return a ``Consent.source``, ``fhir/r4#CONTENT@IDENTITY~DATE``. The daemon keeps sources, unlike request ids.

    CONTENT is the first 16 hex digits of the content hash; IDENTITY those of the SHA-256 of *name*, as ``full_name``
    returns it; DATE is the resource's ``dateTime`` (R5 ``date``), and is left out with its ``~`` if it is absent.
    """
    return f"fhir/{release}#{content.hex()[:16]}@{identity_of(name)}{f'~{date}' if date else ''}"


def identity_of(name: str) -> str:
    """Return the 16 hex digits that stand for a resource in sources; *name* is as ``full_name`` returns it."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def parse_source(source: str) -> Source | None:
    """Return the parts of a ``Consent.source``; None for one that no import of FHIR wrote."""
    found = _SOURCE.fullmatch(source)
    if found is None:
        return None
    date = found["date"]
    try:
        time_ms = None if date is None else start_of_date_ms(date) if is_date(date) else parse_instant_ms(date)
    except InvalidError:
        time_ms = None
    return Source(found["content"], found["identity"], time_ms)
