"""Parse bytes into one resource, strictly; check a Consent's structure; hash a resource's content.

Two JSON parsers may read the same text differently: for example if the text has a key twice, NaN, or a lone surrogate.
A consent must have one meaning, so such a text is refused before it is interpreted.

The structure is checked with the library ``fhir.resources``. R4 is checked with the library's R4B models: it has no R4
models, and R4 (4.0.1) and R4B (4.3.0) define the same Consent. The library is imported when a structure is first
checked, so that an installation without the extra ``fhir`` works.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NoReturn

from consentd.core.strict_json import parse_json
from consentd.errors import InvalidError, MalformedError
from consentd.fhir.xml_document import parse_xml

MAX_DOCUMENT_BYTES = 1 << 25
"""The maximum length of a document in bytes."""

MAX_NESTING = 64
"""The maximum nesting of objects and arrays. A consent has at most eight nested provisions, which need half of this."""

_VOLATILE = ("lastUpdated", "source", "versionId")
_SURROGATE = re.compile("[\ud800-\udfff]")
_XML = re.compile(r"\s*<")
_LINES = re.compile(r"\s*\{[^\n]*\}\s*\n\s*\{")
_SHOWN = frozenset(
    {"code", "date", "dateTime", "decision", "end", "language", "meaning", "resourceType", "start", "status", "system",
     "type", "url", "uri", "verified"}
)  # fmt: skip
"""Names of elements whose wrong values are shown, because they cannot name a person."""


class Release(StrEnum):
    """The FHIR releases that can be read."""

    R4 = "r4"
    R5 = "r5"


class Cause(StrEnum):
    """Why a resource is refused, as stated in reports."""

    UNREADABLE = "UNREADABLE"
    NOT_JSON = "NOT_JSON"
    TOO_LARGE = "TOO_LARGE"
    NOT_VALID = "NOT_VALID"
    RESOURCE_TYPE = "RESOURCE_TYPE"
    INCOMPLETE = "INCOMPLETE"
    RELEASE = "RELEASE"
    STATUS = "STATUS"
    SCOPE = "SCOPE"
    CATEGORY = "CATEGORY"
    BASE = "BASE"
    AUTHOR = "AUTHOR"
    ROLE = "ROLE"
    PERIOD = "PERIOD"
    TEST_DATA = "TEST_DATA"
    UNKNOWN_CODE = "UNKNOWN_CODE"
    UNKNOWN_PARTICIPANT = "UNKNOWN_PARTICIPANT"
    UNKNOWN_SUBJECT = "UNKNOWN_SUBJECT"
    UNSUPPORTED_CONTENT = "UNSUPPORTED_CONTENT"
    INVALID_CONSENT = "INVALID_CONSENT"
    CHANGED = "CHANGED"
    NOT_WRITTEN = "NOT_WRITTEN"
    HELD_BACK = "HELD_BACK"


_MODULES = {Release.R4: "fhir.resources.R4B.consent", Release.R5: "fhir.resources.consent"}


def quoted(text: str) -> str:
    """Return *text* in backticks, for messages: cut to 120 characters, with ``?`` for unprintable characters."""
    clean = "".join(char if char.isprintable() and char != "`" else "?" for char in text[:120])
    return f"`{clean}{'…' if len(text) > 120 else ''}`"


def parse_document(text: str | bytes) -> dict[str, object]:
    """Parse one resource, in JSON or in FHIR's XML; return the members of its JSON.

    Raises:
        InvalidError: the extra ``fhir`` is not installed, which reading XML needs; ``TOO_LARGE``; or ``NOT_JSON``: the
            text is not UTF-8, no object, nested too deep, or has a byte order mark, a key twice, NaN, infinity, a lone
            surrogate, or a null or empty value (FHIR forbids both); or the XML is refused (``parse_xml``).
    """
    try:
        encoded = text.encode() if isinstance(text, str) else text
        if len(encoded) > MAX_DOCUMENT_BYTES:
            raise InvalidError(f"document is longer than {MAX_DOCUMENT_BYTES} bytes", Cause.TOO_LARGE)
        decoded = encoded.decode()
    except UnicodeError:
        raise _not_json("it is not UTF-8") from None
    if _LINES.match(decoded):
        raise _not_json("it is one object a line (NDJSON): make a Bundle of type collection of it")
    if decoded.startswith("\ufeff"):
        raise _not_json("it begins with a byte order mark")
    try:
        document: object
        if _XML.match(decoded):
            document = parse_xml(encoded, max_nesting=MAX_NESTING, load_model=_model_for_xml)
        else:
            document = parse_json(decoded, max_nesting=MAX_NESTING, parse_constant=_refuse_constant)
    except MalformedError as error:
        raise _not_json(str(error)) from None
    if isinstance(document, list):
        raise _not_json("it is a list: make a Bundle of type collection of it")
    if not isinstance(document, dict):
        raise _not_json("it is no object")
    for path, key, value in walk(document):
        if value is None or value in ("", {}, []):
            raise _not_json(f"null or empty value at {quoted(join(path, key))}")
        if any(_has_surrogate(text) for text in (key, value)):
            raise _not_json(f"lone surrogate at {quoted(join(path, key))}")
        if isinstance(value, float) and value in (float("inf"), float("-inf")):  # 1e999 is read as infinity
            raise _not_json(f"number out of range at {quoted(join(path, key))}")
    return document


def validate_consent(resource: Mapping[str, object], release: Release, path: str = "") -> None:
    """Check the structure of a Consent: element names, types, cardinalities, formats. Codes are not checked.

    Contained resources are left out. They are never read, and a document must not decide which models are imported.

    Raises:
        InvalidError: the structure is wrong (``NOT_VALID``; the message shows the path, and the value unless it may
            name a person), or the extra ``fhir`` is not installed.
    """
    model = _load_model(_MODULES[release], "Consent")
    try:
        model.model_validate({name: value for name, value in resource.items() if name != "contained"})
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # ``from None`` hides pydantic's error, because its text quotes the input, which may name persons.
        fault = _first(error, resource, path)
        raise InvalidError(f"not a valid {release.upper()} consent: {fault}", Cause.NOT_VALID) from None


def _load_model(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InvalidError("fhir import needs the extra `fhir`: pip install 'consentd[fhir]'") from error


def _model_for_xml(name: str, elements: frozenset[str]) -> Any:
    """Return the library's model of a resource in XML, or of a value's extensions; None for a type that is not read.

    A document must not decide which models are imported, so there are only these.
    """
    if name == "Consent":
        release = Release.R4 if elements.isdisjoint(("decision", "subject", "date")) else Release.R5
        return _load_model(_MODULES[release], name)
    if name in ("Bundle", "OperationOutcome", "Element"):
        return _load_model(f"fhir.resources.R4B.{name.lower()}", name)
    return None


def content_hash(resource: dict[str, object]) -> bytes:
    """Return the SHA-256 (32 bytes) of a resource as JSON with sorted keys, without spaces, in UTF-8.

    ``meta.versionId``, ``meta.lastUpdated`` and ``meta.source`` are left out, because each server sets other values.
    The narrative (``text``) is left out, because servers generate it again from the other elements.
    """
    content = {name: value for name, value in resource.items() if name != "text"}
    meta = content.pop("meta", None)
    if isinstance(meta, dict):
        content_meta = {name: value for name, value in meta.items() if name not in _VOLATILE}
        if content_meta:
            content["meta"] = content_meta
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def walk(value: object) -> Iterator[tuple[str, str | int, object]]:
    """Yield (parent's path, key or index, value) for each member at any depth of *value*, without recursive calls."""
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        path, parent = waiting.pop()
        members = parent.items() if isinstance(parent, dict) else enumerate(parent) if isinstance(parent, list) else ()
        for key, member in members:
            yield path, key, member
            if isinstance(member, dict | list):
                waiting.append((join(path, key), member))


def join(path: str, key: str | int) -> str:
    """Return the path of a member: ``a`` and ``b`` give ``a.b``, ``a`` and 0 give ``a[0]``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def _has_surrogate(text: object) -> bool:
    return isinstance(text, str) and not text.isascii() and _SURROGATE.search(text) is not None


def _refuse_constant(name: str) -> NoReturn:
    raise _not_json(f"it holds {quoted(name)}")


def _not_json(why: str) -> InvalidError:
    return InvalidError(f"document is not the JSON or XML that FHIR allows: {why}", Cause.NOT_JSON)


def _first(error: Exception, resource: Mapping[str, object], path: str) -> str:
    """Return the kind, the value and the path of the first fault that pydantic found.

    The value is left out if its element might name a person.
    """
    listing = getattr(error, "errors", None)
    faults = listing() if callable(listing) else []
    if not faults:
        return f"at `{path or 'Consent'}`"
    value: Any = resource
    location = faults[0].get("loc", ())
    for part in location:
        path = join(path, part)
        try:
            value = value[part]
        except (LookupError, TypeError):
            value = None
    kind = str(faults[0].get("type", "fault")).replace("_", " ")
    is_shown = isinstance(value, str | int | float) and location[-1] in _SHOWN
    return f"{kind}{f' {quoted(str(value))}' if is_shown else ''} at {quoted(path)}"
