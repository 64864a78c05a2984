"""Read the elements of a FHIR R4 Consent (4.0.1; 4.3.0 is the same): scope, patient, policyRule, root provision.

The ``type`` of the root provision states the base effect. If it has none, ``policyRule`` OPTIN permits and OPTOUT
denies. If neither states the effect, the resource is refused (policy.md, rule 2). FHIR forbids ``type`` in the root and
IHE PCF requires it, so both forms are read.
"""

from dataclasses import replace

from consentd.fhir.document import Cause
from consentd.fhir.elements import Element, refusal
from consentd.fhir.header import Header, check_author, read_holder, read_policies, read_subject
from consentd.fhir.mapping import SYSTEMS
from consentd.fhir.provisions import Reading, read_effect, read_provision
from consentd.policy.model import Effect, Provision

NAMES = (
    "scope", "patient", "dateTime", "performer", "organization", "sourceAttachment", "sourceReference", "policy",
    "policyRule", "verification", "provision",
)  # fmt: skip
"""Elements of an R4 Consent that are not in ``header.NAMES``."""

_SCOPE = f"{SYSTEMS['consentscope']}|patient-privacy"
_RULES = {f"{SYSTEMS['v3-ActCode']}|OPTIN": Effect.PERMIT, f"{SYSTEMS['v3-ActCode']}|OPTOUT": Effect.DENY}


def read_r4(resource: Element, reading: Reading) -> Header:
    """Read the elements that are R4's own.

    Raises:
        InvalidError: with a ``Cause``.
    """
    scope = resource.one("scope")
    if scope is None or not any(key == _SCOPE for key, _ in scope.codings()):
        raise refusal(Cause.SCOPE, "scope is not patient-privacy", resource.at("scope"))
    subject = read_subject(resource, "patient", reading)
    for performer in resource.many("performer"):
        check_author(performer, resource.one("patient"), reading)
    if "policy" not in resource.members and "policyRule" not in resource.members:
        raise refusal(Cause.NOT_VALID, "neither policy nor policyRule (ppc-1)", resource.path or "Consent")
    uris = []
    for policy in resource.many("policy"):
        policy.only("authority", "uri")
        uris += [(uri, policy.at("uri")) for uri in (policy.text("uri"),) if uri is not None]
    base, keys = _rule(resource, reading)
    root = _root(resource, base, reading)
    return Header(
        subject=subject,
        root=replace(root, holders=read_holder(resource.many("organization"), reading)),
        policy=read_policies(uris + keys, reading),
    )


def _rule(resource: Element, reading: Reading) -> tuple[Effect | None, list[tuple[str, str]]]:
    """Return what ``policyRule`` states: a base effect, or (key, path) of the policies that are in the mapping."""
    rule = resource.one("policyRule")
    if rule is None:
        return None, []
    codings = rule.codings()
    bases = {_RULES[key] for key, _ in codings if key in _RULES}
    if bases:
        if len(bases) > 1:
            raise refusal(Cause.BASE, "policyRule both opts in and opts out", rule.path)
        return bases.pop(), []
    keys = [(key, path) for key, path in codings if key in reading.mapping.policies]
    if not keys:
        raise refusal(
            Cause.BASE, "policyRule is neither OPTIN, OPTOUT nor in [policies]", rule.path, codings[0][0]
        )
    return None, keys


def _root(resource: Element, base: Effect | None, reading: Reading) -> Provision:
    provision = resource.one("provision")
    stated = read_effect(provision, "type") if provision is not None else None
    if stated is not None and base is not None and stated is not base:
        raise refusal(Cause.BASE, "provision.type contradicts policyRule", resource.at("provision.type"))
    effect = stated or base
    if effect is None:
        raise refusal(Cause.BASE, "neither provision.type nor policyRule states an effect", resource.path or "Consent")
    reading.note(f"the base is {effect.name.lower()}, by {'provision.type' if stated else 'policyRule'}")
    if provision is None:
        return Provision(effect=effect)
    return read_provision(provision, effect, reading=reading)
