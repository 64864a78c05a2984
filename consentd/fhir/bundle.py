"""Find the resources of a document: those of a Bundle, which must be complete, or the document itself.

A Bundle that lacks a page is refused as a whole: a deny may be on the page that is missing.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from consentd.fhir.document import Cause, quoted
from consentd.fhir.elements import Element, check_modifiers, refusal

_KINDS = ("collection", "searchset")
_OTHER_PAGES = ("next", "previous", "prev")
_PAGING = ("_getpages", "_getpagesoffset", "_count", "_offset", "_page", "page", "offset", "_bundletype", "_format")
"""Parameters of a page's URL whose values are shown. Others may name a person."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A resource of a document.

    Attributes:
        full_url: the ``fullUrl`` of its entry in the Bundle; empty: none is stated.
    """

    resource: Element
    full_url: str = ""


@dataclass(frozen=True, slots=True)
class Entries:
    """The resources of a document that are to be read, and how many of other types a Bundle has beside them."""

    found: tuple[Entry, ...]
    left_out: int = 0


def find_entries(document: dict[str, object]) -> Entries:
    """Return the resources of a document with their paths.

    Resources of other types are left out of a Bundle that has a Consent, unless a search found them by itself
    (``search.mode`` is match): a collection has them beside the Consents, and a search includes what Consents refer to.

    Raises:
        InvalidError: the Bundle is of another kind, is empty, lacks a page (INCOMPLETE), or has a modifier.
    """
    if document.get("resourceType") != "Bundle":
        return Entries((Entry(Element(document, "")),))
    bundle = Element(document, "")
    bundle.only("resourceType", "meta", "language", "identifier", "type", "timestamp", "total", "link", "entry")
    kind = bundle.text("type") or ""
    if kind not in _KINDS:
        # A history bundle has old versions, and a transaction bundle has instructions. Neither is a set of consents.
        raise refusal(Cause.RESOURCE_TYPE, f"bundle is no {' or '.join(_KINDS)}", "type", kind)
    entries = bundle.many("entry")
    if not entries:
        raise refusal(Cause.RESOURCE_TYPE, "bundle is empty", "entry")
    # The resources are left out of this check: a modifier inside a resource must refuse only that resource.
    bare = [{name: value for name, value in entry.members.items() if name != "resource"} for entry in entries]
    check_modifiers(Element({**document, "entry": bare}, ""))
    read = [_read_entry(entry) for entry in entries]
    _check_complete(bundle, sum(mode == "match" for _, mode in read))
    consents = [entry for entry, mode in read if _is_wanted(entry, mode, kind)]
    if not any(_type(entry) == "Consent" for entry in consents):
        consents = [entry for entry, _ in read]  # none is a Consent: each is refused for its type
    return Entries(tuple(consents), len(read) - len(consents))


def _read_entry(entry: Element) -> tuple[Entry, str]:
    """Return an entry's resource and the mode in which a search found it; ``match`` if none is stated."""
    entry.only("fullUrl", "link", "search", "resource")
    resource = entry.one("resource")
    if resource is None:
        raise refusal(Cause.RESOURCE_TYPE, "entry has no resource", entry.path)
    search = entry.one("search")
    mode = search.only("mode", "score").text("mode") if search is not None else None
    found = Entry(resource, entry.text("fullUrl") or "")
    if _type(found) == "OperationOutcome":
        for issue in resource.many("issue"):
            if issue.text("severity") in ("error", "fatal"):
                raise refusal(Cause.INCOMPLETE, "search had an error, so its answer may lack Consents", issue.path)
    return found, mode or "match"


def _is_wanted(entry: Entry, mode: str, kind: str) -> bool:
    return _type(entry) == "Consent" or (kind == "searchset" and mode == "match")


def _type(entry: Entry) -> object:
    return entry.resource.members.get("resourceType")


def _check_complete(bundle: Element, matches: int) -> None:
    """Refuse a Bundle that is one page of several. *matches* is the number of its entries that are matches."""
    for link in bundle.many("link"):
        relation = link.text("relation")
        if relation in _OTHER_PAGES:
            url = quoted(_page(link.text("url") or ""))
            message = f"bundle is one page of several, so get all in one. Its {relation} page is missing: {url}"
            raise refusal(Cause.INCOMPLETE, message, link.path)
    total = bundle.members.get("total")
    if total is None:
        return
    if not isinstance(total, int) or isinstance(total, bool):
        raise refusal(Cause.NOT_VALID, "element is no number", "total")
    if total > matches:
        message = f"bundle is incomplete: it states a total of {total} and has {matches}, so a page is missing"
        raise refusal(Cause.INCOMPLETE, message, "total")


def _page(url: str) -> str:
    """Return a page's URL without values that may name a person: those of parameters other than of paging."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no URL)"
    shown = []
    for parameter in parts.query.split("&") if parts.query else ():
        name, equals, value = parameter.partition("=")
        shown.append(f"{name}={value}" if not equals or name in _PAGING else f"{name}=…")
    return urlunsplit(parts._replace(query="&".join(shown), fragment=""))
