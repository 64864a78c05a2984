"""What stands around the provisions of a Consent: who it is of, who wrote it, what policy it selects."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from consentd.fhir.document import Cause, quoted
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import SYSTEMS, SubjectReference
from consentd.fhir.provisions import TEST_PURPOSE, Reading
from consentd.policy.model import ImplicitPolicy, Provision

NAMES = ("resourceType", "meta", "language", "text", "contained", "identifier", "status", "category")
"""Elements that an R4 and an R5 Consent share."""

_TEST = f"{SYSTEMS['v3-ActReason']}|{TEST_PURPOSE}"
_ALTERED = SYSTEMS["v3-ObservationValue"] + "|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a release's reader found; ``root`` still has its silences."""

    subject: SubjectReference
    root: Provision
    policy: ImplicitPolicy | None


def check_shared(resource: Element, reading: Reading) -> None:
    """Check status, category and labels of the resource itself.

    Raises:
        InvalidError: STATUS, CATEGORY, TEST_DATA, or UNSUPPORTED_CONTENT: a verification, or a copy that was
            shortened or masked (``SUBSETTED`` and its kin).
    """
    status = resource.text("status")
    if status != "active":
        # A withdrawn consent must not come in as a valid one, and importing it as a withdrawal would invent an act.
        raise refusal(Cause.STATUS, "status is not active", resource.at("status"), status or "")
    if "verification" in resource.members:
        raise refusal(Cause.UNSUPPORTED_CONTENT, "verification is not interpreted", resource.at("verification"))
    codings = [coding for category in resource.many("category") for coding in category.codings()]
    if not any(key in reading.mapping.privacy_categories for key, _ in codings):
        told = codings[0][0] if codings else ""
        raise refusal(Cause.CATEGORY, "no category of a consent to the use of data", resource.at("category"), told)
    meta = resource.one("meta")
    for name in ("security", "tag"):
        for label in meta.many(name) if meta is not None else ():
            key = f"{label.text('system') or ''}|{label.text('code') or ''}"
            if key == _TEST and not reading.test_data:
                raise refusal(Cause.TEST_DATA, "resource is test data", label.path)
            if key.startswith(_ALTERED):
                raise refusal(Cause.UNSUPPORTED_CONTENT, "copy of a resource was shortened or masked", label.path, key)
    for name in ("sourceAttachment", "sourceReference", "contained", "dateTime", "date"):
        if name in resource.members:
            reading.note(f"{name} is not kept")


def read_subject(resource: Element, name: str, reading: Reading) -> SubjectReference:
    """Return the citizen of a consent, by the mapping.

    Raises:
        InvalidError: UNKNOWN_SUBJECT, no place or two different ones. The message does not name the person.
    """
    target = resource.one(name)
    found: set[SubjectReference] = set()
    if target is not None:
        identifier = reading.identifier(target)
        found = {reading.mapping.subjects[key] for key in _keys(target, reading) if key in reading.mapping.subjects}
        system, _, value = identifier.rpartition("|")
        scheme = reading.mapping.schemes.get(system)
        if scheme is not None and unicodedata.is_normalized("NFC", value):
            found.add(SubjectReference(scheme, value))
    if len(found) != 1:
        raise refusal(
            Cause.UNKNOWN_SUBJECT, "subject has no single place in [subjects] or [schemes]", resource.at(name)
        )
    return found.pop()


def check_author(author: Element, subject: Element | None, reading: Reading) -> None:
    """Check that the person gave the consent: another author needs an AUTHORITY entry to rest on (rule 8).

    Raises:
        InvalidError: AUTHOR.
    """
    own = _keys(subject, reading) if subject is not None else set()
    if not own & _keys(author, reading):
        raise refusal(Cause.AUTHOR, "author is not the subject", author.path)


def read_policies(keys: Iterable[tuple[str, str]], reading: Reading) -> ImplicitPolicy | None:
    """Return the implicit policy that a consent selects below itself; ``keys`` are URIs or codes, with paths.

    Raises:
        InvalidError: UNSUPPORTED_CONTENT, two different ones.
    """
    selected: ImplicitPolicy | None = None
    for key, path in keys:
        policy = reading.mapping.policies.get(key)
        if policy is None:
            reading.note(f"policy selects nothing: {quoted(key)}")
            continue
        if selected not in (None, policy):
            raise refusal(Cause.UNSUPPORTED_CONTENT, "two implicit policies are selected", path)
        selected = policy
        reading.note(f"policy selects {policy.name.lower().replace('_', '-')}: {quoted(key)}")
    return selected


def read_holder(organisations: Iterable[Element], reading: Reading) -> tuple[str, ...]:
    """Return the holders whose data a consent speaks of: those that the mapping places, or no limit."""
    found: list[str] = []
    unplaced = False
    for organisation in organisations:
        places = {
            reading.mapping.holders[key] for key in _keys(organisation, reading) if key in reading.mapping.holders
        }
        found += sorted(places)
        unplaced = unplaced or not places
    if unplaced:
        # One organisation without a place beside one with: limiting to the one would drop what the other holds.
        reading.note("keeper of the consent has no place in [holders]: it speaks of every holder")
        return ()
    return tuple(dict.fromkeys(found))


def _keys(target: Element, reading: Reading) -> set[str]:
    return {key for key in (reading.reference(target), reading.identifier(target)) if key}
