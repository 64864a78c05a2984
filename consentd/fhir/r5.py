"""Read the elements of a FHIR R5 Consent (5.0.0): subject, decision, and provisions, which are exceptions to it.

``decision`` is the effect of the root, whose only limit is the consent's own ``period``. The top-level provisions are
the root's children, and each has the opposite effect of its parent (policy.md, rule 2). A resource without ``decision``
is refused; FHIR R6 will require it.
"""

from consentd.fhir.document import Cause
from consentd.fhir.elements import Element, refusal
from consentd.fhir.header import Header, check_author, read_holder, read_policies, read_subject
from consentd.fhir.provisions import Reading, read_effect, read_provision
from consentd.policy.model import Provision

NAMES = (
    "subject", "date", "period", "grantor", "grantee", "manager", "controller", "sourceAttachment", "sourceReference",
    "regulatoryBasis", "policyBasis", "policyText", "verification", "decision", "provision",
)  # fmt: skip
"""Elements of an R5 Consent that are not in ``header.NAMES``."""


def read_r5(resource: Element, reading: Reading) -> Header:
    """Read the elements that are R5's own.

    Raises:
        InvalidError: with a ``Cause``.
    """
    if "grantee" in resource.members:
        # FHIR leaves open whether the grantee ("responsible for complying") limits the recipients. Do not guess.
        raise refusal(Cause.UNSUPPORTED_CONTENT, "grantee is not interpreted", resource.at("grantee"))
    subject = read_subject(resource, "subject", reading)
    for grantor in resource.many("grantor"):
        check_author(grantor, resource.one("subject"), reading)
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
    base: dict[str, object] = {
        name: resource.members[name] for name in ("period", "provision") if name in resource.members
    }
    root = read_provision(Element(base, resource.path), effect, reading=reading)
    return Header(
        subject=subject,
        root=Provision(
            effect=effect,
            holders=read_holder(resource.many("controller"), reading),
            start_ms=root.start_ms,
            end_ms=root.end_ms,
            children=root.children,
        ),
        policy=read_policies(keys, reading),
    )
