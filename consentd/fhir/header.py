"""Read the elements of a Consent outside its provisions, in FHIR R4 (4.0.1; 4.3.0 is the same) and R5 (5.0.0).

How each release states the effect of the root provision (policy.md, rule 2):

* R4: ``type`` of the root provision. Without ``type``, the code OPTIN in ``policyRule`` permits, and OPTOUT denies.
  FHIR forbids ``type`` in the root, and the profile IHE PCF requires it there, so both forms are read. But a root with
  limits and without ``type`` is refused: its limits may be those of the base, or of an exception from it.
* R5: the consent's ``decision``. The consent itself is the root, and the top-level provisions are the root's children.
  The only limit in the root is the consent's ``period``.

A resource that states no effect is refused.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from consentd.core.identifier import check_identifier
from consentd.errors import InvalidError
from consentd.fhir.document import Cause, Release, quoted
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import SYSTEMS, SubjectReference
from consentd.fhir.provisions import TEST_PURPOSE, has_limits, read_effect, read_provision, state_defaults
from consentd.fhir.reading import Reading, unique
from consentd.policy.model import ANY, Effect, ImplicitPolicy, Provision

_SHARED_NAMES = ("resourceType", "meta", "language", "text", "contained", "identifier", "status", "category")
_R4_NAMES = (
    "scope", "patient", "dateTime", "performer", "organization", "sourceAttachment", "sourceReference", "policy",
    "policyRule", "verification", "provision",
)  # fmt: skip
_R5_NAMES = (
    "subject", "date", "period", "grantor", "grantee", "manager", "controller", "sourceAttachment", "sourceReference",
    "regulatoryBasis", "policyBasis", "policyText", "verification", "decision", "provision",
)  # fmt: skip
OWN_NAMES = {Release.R4: _R4_NAMES, Release.R5: _R5_NAMES}
"""The elements of a Consent in each release, besides those that both releases have."""
_ROLE_NAMES = {Release.R4: ("patient", "performer", "organization"), Release.R5: ("subject", "grantor", "controller")}
"""In each release, the names of the elements for a consent's subject, authors and holders."""

_RULES = {f"{SYSTEMS['v3-ActCode']}|OPTIN": Effect.PERMIT, f"{SYSTEMS['v3-ActCode']}|OPTOUT": Effect.DENY}
_TEST = f"{SYSTEMS['v3-ActReason']}|{TEST_PURPOSE}"
_ALTERED = SYSTEMS["v3-ObservationValue"] + "|"

_PERMITTING = (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL)

_Keys = list[tuple[str, str]]
"""URIs or codes of policies, each with its path in the document."""


@dataclass(frozen=True, slots=True)
class Header:
    """A consent's subject, its root provision with the nested provisions, and its policies.

    Attributes:
        policy: the implicit policy that the consent selects; None: it selects none.
        policy_uris: the policies that the consent names and that select nothing: URIs, or ``system|code``.
    """

    subject: SubjectReference
    root: Provision
    policy: ImplicitPolicy | None
    policy_uris: tuple[str, ...]


def read_header(resource: Element, reading: Reading) -> Header:
    """Read all elements of a Consent of the release ``reading.release``.

    Raises:
        InvalidError: the resource is refused; the error has a ``Cause``, and its message names no person.
    """
    resource.only(*_SHARED_NAMES, *OWN_NAMES[reading.release])
    _check_shared(resource, reading)
    is_r4 = reading.release is Release.R4
    if is_r4:
        reading.scope = _read_scope(resource, reading)
    elif "grantee" in resource.members:
        # FHIR does not say whether only the grantee ("responsible for complying") may receive data, so refuse.
        raise refusal(Cause.UNSUPPORTED_CONTENT, "grantee is not interpreted", resource.at("grantee"))
    subject_name, author_name, holder_name = _ROLE_NAMES[reading.release]
    subject = read_subject(resource, reading)
    for author in resource.many(author_name):
        _check_author(author, resource.one(subject_name), reading)
    reading.keepers = _read_holders(resource.many(holder_name), reading)
    root, keys = (_read_r4 if is_r4 else _read_r5)(resource, reading)
    root = replace(root, holders=root.holders or reading.keepers)
    policy, others = _read_policies(keys, root, reading)
    return Header(subject, state_defaults(root, reading), policy, others)


def _check_shared(resource: Element, reading: Reading) -> None:
    """Check status, category and labels, and add a note for each element that is left out."""
    status = resource.text("status")
    if status != "active":
        # A withdrawn consent must not be imported as a valid consent. Importing it as a withdrawal would record an act
        # that nobody did in this system.
        raise refusal(Cause.STATUS, "status is not active", resource.at("status"), status or "")
    for verification in resource.many("verification"):
        if verification.members.get("verified") is not True:
            raise refusal(Cause.UNSUPPORTED_CONTENT, "consent is not verified", verification.at("verified"))
        reading.note("that the consent was verified is not kept")
    codings = [coding for category in resource.many("category") for coding in category.codings()]
    if not any(key in reading.mapping.privacy_categories for key, _ in codings):
        first = codings[0][0] if codings else ""
        raise refusal(Cause.CATEGORY, "no category of a consent to the use of data", resource.at("category"), first)
    for label, key in _meta_labels(resource):
        if key.startswith(_ALTERED):
            raise refusal(Cause.UNSUPPORTED_CONTENT, "copy of a resource was shortened or masked", label.path, key)
    check_test_data(resource, reading)
    narrative = resource.one("text")
    if narrative is not None and narrative.text("status") == "additional":
        reading.note("the narrative states more than the elements, and is not read")
    for name in ("sourceAttachment", "sourceReference", "contained", "dateTime", "date"):
        if name in resource.members:
            reading.note(f"{name} is not kept")


def _read_scope(resource: Element, reading: Reading) -> tuple[str, ...]:
    """Return the purposes to which the scope of an R4 Consent limits it; ``*``: it limits none."""
    scope = resource.one("scope")
    codings = scope.codings() if scope is not None else []
    found = {reading.mapping.scopes[key] for key, _ in codings if key in reading.mapping.scopes}
    if not found:
        key, path = codings[0] if codings else ("", resource.at("scope"))
        raise refusal(Cause.SCOPE, "scope is not patient-privacy, and is not in [scopes] of the mapping", path, key)
    if len(found) > 1:
        raise refusal(Cause.SCOPE, "codings of the scope differ in [scopes]", resource.at("scope"))
    purposes = found.pop()
    if purposes != (ANY,):
        reading.note(f"the scope limits the consent to the purposes {', '.join(purposes)}")
    return purposes


def read_subject(resource: Element, reading: Reading) -> SubjectReference:
    """Return the person that a Consent is about. Raises ``InvalidError`` (UNKNOWN_SUBJECT)."""
    name = _ROLE_NAMES[reading.release][0]
    target = resource.one(name)
    if target is None:
        raise refusal(Cause.UNKNOWN_SUBJECT, "no subject is stated", resource.at(name))
    found = reading.matches(reading.mapping.subjects, target)
    system, _, value = reading.identifier(target).rpartition("|")
    scheme = reading.mapping.schemes.get(system)
    if scheme is not None:
        try:
            check_identifier(scheme, value)
        except InvalidError as error:
            raise refusal(Cause.UNKNOWN_SUBJECT, str(error), resource.at(name)) from None
        found.add(SubjectReference(scheme, value))
    if len(found) != 1:
        message = "subject has no single match in [subjects] or [schemes] of the mapping"
        raise refusal(Cause.UNKNOWN_SUBJECT, message, resource.at(name))
    return found.pop()


def check_test_data(resource: Element, reading: Reading) -> None:
    """Refuse a resource that is labelled as test data, unless the import is to read such resources."""
    for label, key in _meta_labels(resource):
        if key == _TEST and not reading.test_data:
            raise refusal(Cause.TEST_DATA, "resource is test data: import it with --test-data", label.path)


def _meta_labels(resource: Element) -> Iterator[tuple[Element, str]]:
    """Yield each label of a resource, with its ``system|code``."""
    meta = resource.one("meta")
    for name in ("security", "tag"):
        for label in meta.many(name) if meta is not None else ():
            yield label, f"{label.text('system') or ''}|{label.text('code') or ''}"


def _check_author(author: Element, subject: Element | None, reading: Reading) -> None:
    """Refuse an author who is not the subject: a representative would need an AUTHORITY entry (policy.md, rule 8)."""
    own = set(reading.keys(subject)) if subject is not None else set()
    if not own.intersection(reading.keys(author)):
        raise refusal(Cause.AUTHOR, "author is not the subject", author.path)


def _read_r4(resource: Element, reading: Reading) -> tuple[Provision, _Keys]:
    if "policy" not in resource.members and "policyRule" not in resource.members:
        raise refusal(Cause.NOT_VALID, "neither policy nor policyRule (ppc-1)", resource.path or "Consent")
    uris = []
    for policy in resource.many("policy"):
        policy.only("authority", "uri")
        uris += [(uri, policy.at("uri")) for uri in (policy.text("uri"),) if uri is not None]
    base, keys = _read_policy_rule(resource, reading)
    provision = resource.one("provision")
    stated = read_effect(provision, "type") if provision is not None else None
    if stated is not None and base is not None and stated is not base:
        raise refusal(Cause.BASE, "provision.type contradicts policyRule", resource.at("provision.type"))
    if provision is not None and stated is None and has_limits(provision):
        raise refusal(Cause.BASE, "root provision has limits and no type", provision.path)
    effect = stated or base
    if effect is None:
        raise refusal(Cause.BASE, "neither provision.type nor policyRule states an effect", resource.path or "Consent")
    reading.note(f"the base is {effect.name.lower()}, by {'provision.type' if stated else 'policyRule'}")
    return _read_root(provision, effect, resource, reading), uris + keys


def _read_root(element: Element | None, effect: Effect, resource: Element, reading: Reading) -> Provision:
    root = Provision(effect=effect) if element is None else read_provision(element, effect, reading=reading)
    if root is None:
        message = "consent is about no data that this realm has"
        raise refusal(Cause.UNSUPPORTED_CONTENT, message, resource.at("provision"))
    return root


def _read_policy_rule(resource: Element, reading: Reading) -> tuple[Effect | None, _Keys]:
    """Return what ``policyRule`` states: an effect and no policies, or None and the policies found in the mapping."""
    rule = resource.one("policyRule")
    if rule is None:
        return None, []
    if "coding" not in rule.members:
        # A rule that is only named by a text is looked up by it. No code system has such a key.
        text = rule.only("text").text("text") or ""
        if text not in reading.mapping.policies:
            raise refusal(Cause.BASE, "policyRule has no coding, and its text is not in [policies]", rule.path)
        if reading.mapping.policies[text] is None:
            reading.note("the text of policyRule is not kept")
            return None, []
        return None, [(text, rule.at("text"))]
    codings = rule.codings()
    bases = {_RULES[key] for key, _ in codings if key in _RULES}
    if len(bases) > 1:
        raise refusal(Cause.BASE, "policyRule both opts in and opts out", rule.path)
    if bases:
        return bases.pop(), []
    keys = [(key, path) for key, path in codings if key in reading.mapping.policies]
    if not keys:
        raise refusal(Cause.BASE, "policyRule is neither OPTIN, OPTOUT nor in [policies]", rule.path, codings[0][0])
    return None, keys


def _read_r5(resource: Element, reading: Reading) -> tuple[Provision, _Keys]:
    effect = read_effect(resource, "decision")
    if effect is None:
        raise refusal(Cause.BASE, "no decision states an effect", resource.at("decision"))
    reading.note(f"the base is {effect.name.lower()}, by decision")
    keys = [coding for basis in resource.many("regulatoryBasis") for coding in basis.codings()]
    basis = resource.one("policyBasis")
    if basis is not None:
        basis.only("reference", "url")
        url = basis.text("url")
        keys += [(url, basis.at("url"))] if url is not None else []
    for name in ("policyText", "manager"):
        if name in resource.members:
            reading.note(f"{name} limits nothing and is not kept")
    base = {name: value for name, value in resource.members.items() if name in ("period", "provision")}
    return _read_root(Element(base, resource.path), effect, resource, reading), keys


def _read_policies(keys: _Keys, root: Provision, reading: Reading) -> tuple[ImplicitPolicy | None, tuple[str, ...]]:
    """Return the implicit policy that the keys of a consent's policies select, and the keys that select none."""
    selected: ImplicitPolicy | None = None
    others = []
    for key, path in keys:
        policy = reading.mapping.policies.get(key)
        if policy is None:
            reading.note(f"policy is kept, and selects nothing: {quoted(key)}")
            others.append(key)
            continue
        if selected not in (None, policy):
            raise refusal(Cause.UNSUPPORTED_CONTENT, "two implicit policies are selected", path)
        if root.effect is Effect.DENY and policy in _PERMITTING:
            # The policy would permit, within the limits of the root, what the consent denies (policy.md, rule 3).
            raise refusal(Cause.UNSUPPORTED_CONTENT, "consent that denies selects a policy that permits", path, key)
        selected = policy
        reading.note(f"policy selects {policy.name.lower().replace('_', '-')}: {quoted(key)}")
    return selected, unique(others)


def _read_holders(organisations: Iterable[Element], reading: Reading) -> tuple[str, ...]:
    """Return the holders whose data a consent covers; if empty, the consent covers the data of every holder."""
    mapped = [reading.matches(reading.mapping.holders, organisation) for organisation in organisations]
    if not all(mapped):
        # Limiting the consent to the holders in the mapping would exclude the data of the unknown organisation.
        reading.note("keeper of the consent is not in [holders]: the consent covers every holder")
        return ()
    return tuple(dict.fromkeys(holder for holders in mapped for holder in sorted(holders)))
