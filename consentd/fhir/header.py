"""Read the elements of a Consent outside its provisions: status, category, subject, author, policy, holder."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from consentd.fhir.document import Cause, quoted
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import SYSTEMS, SubjectReference
from consentd.fhir.provisions import TEST_PURPOSE, Reading
from consentd.policy.model import ImplicitPolicy, Provision

NAMES = ("resourceType", "meta", "language", "text", "contained", "identifier", "status", "category")
"""Elements that an R4 Consent and an R5 Consent have in common."""

_TEST = f"{SYSTEMS['v3-ActReason']}|{TEST_PURPOSE}"
_ALTERED = SYSTEMS["v3-ObservationValue"] + "|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A consent as the reader of its release returns it. ``state_defaults`` has yet to be applied to ``root``."""

    subject: SubjectReference
    root: Provision
    policy: ImplicitPolicy | None


def check_shared(resource: Element, reading: Reading) -> None:
    """Check status, category and labels of a resource.

    Raises:
        InvalidError: STATUS, CATEGORY, TEST_DATA; or UNSUPPORTED_CONTENT: the resource has a verification, or a label
            like ``SUBSETTED`` says that it is a shortened or masked copy.
    """
    status = resource.text("status")
    if status != "active":
        # A withdrawn consent must not be imported as a valid one. Importing it as a withdrawal would record an act that
        # nobody did here.
        raise refusal(Cause.STATUS, "status is not active", resource.at("status"), status or "")
    if "verification" in resource.members:
        raise refusal(Cause.UNSUPPORTED_CONTENT, "verification is not interpreted", resource.at("verification"))
    codings = [coding for category in resource.many("category") for coding in category.codings()]
    if not any(key in reading.mapping.privacy_categories for key, _ in codings):
        first = codings[0][0] if codings else ""
        raise refusal(Cause.CATEGORY, "no category of a consent to the use of data", resource.at("category"), first)
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
    """Return the citizen that the mapping gives for a consent's subject.

    Raises:
        InvalidError: UNKNOWN_SUBJECT, the mapping gives none or two different ones. The message names no person.
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
            Cause.UNKNOWN_SUBJECT, "subject has no single match in [subjects] or [schemes]", resource.at(name)
        )
    return found.pop()


def check_author(author: Element, subject: Element | None, reading: Reading) -> None:
    """Check that the subject gave the consent. Another author would need an AUTHORITY entry (policy.md, rule 8).

    Raises:
        InvalidError: AUTHOR, the author is not the subject.
    """
    own = _keys(subject, reading) if subject is not None else set()
    if not own & _keys(author, reading):
        raise refusal(Cause.AUTHOR, "author is not the subject", author.path)


def read_policies(keys: Iterable[tuple[str, str]], reading: Reading) -> ImplicitPolicy | None:
    """Return the implicit policy that a consent selects; None: it selects none. *keys* are URIs or codes, with paths.

    Raises:
        InvalidError: UNSUPPORTED_CONTENT, two different policies are selected.
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
    """Return the holders whose data a consent covers; empty: every holder's."""
    holders: list[str] = []
    is_any_unknown = False
    for organisation in organisations:
        mapped = {
            reading.mapping.holders[key] for key in _keys(organisation, reading) if key in reading.mapping.holders
        }
        holders += sorted(mapped)
        is_any_unknown = is_any_unknown or not mapped
    if is_any_unknown:
        # Limiting the consent to the holders that are known would exclude the data of the unknown one.
        reading.note("keeper of the consent is not in [holders]: the consent covers every holder")
        return ()
    return tuple(dict.fromkeys(holders))


def _keys(target: Element, reading: Reading) -> set[str]:
    return {key for key in (reading.reference(target), reading.identifier(target)) if key}
