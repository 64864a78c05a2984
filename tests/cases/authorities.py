"""Authorities for tests: who may act for a person, and statements of representatives."""

import hashlib
from typing import Any

from cases.daemons import Running, consent, request_id
from cases.services import event_of, register
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

GUARDIAN, AGENT = st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN, st.AUTHORITY_CAPACITY_AGENT
MINOR, INCAPACITATED = st.AUTHORITY_REASON_MINOR, st.AUTHORITY_REASON_INCAPACITATED
PAPER = st.AuthorityEvidence(kind="family-relation-certificate", sha256=hashlib.sha256(b"paper").digest())
CONSENTING = [st.AUTHORITY_ACT_GRANT, st.AUTHORITY_ACT_AMEND, st.AUTHORITY_ACT_PAUSE, st.AUTHORITY_ACT_REVOKE]
REPRESENTATIVE = "guardian"
CHECKED = st.Attestation(method="id-card")
"""How it was checked who acts for a person."""


def authority(**changed: Any) -> st.AuthorityStatement:
    """Return an authority of the guardian of an adult, changed by *changed*; with a birth date: of a minor."""
    fields: dict[str, Any] = {
        "participant_id": REPRESENTATIVE, "capacity": GUARDIAN, "reason": INCAPACITATED, "acts": CONSENTING,
        "evidence": [PAPER],
    }  # fmt: skip
    if "birth_date" in changed:
        fields |= {"reason": MINOR, "verified_by": 3}
    if changed.get("capacity") == AGENT:
        fields["reason"] = st.AUTHORITY_REASON_UNSPECIFIED
    return st.AuthorityStatement(**{**fields, **changed})


def add_representative(running: Running, name: str = REPRESENTATIVE) -> None:
    """Register a participant that may be a representative."""
    rights = [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS]
    register(running, name, [st.PARTICIPANT_ROLE_RELAY], rights=rights)
    running.add_caller(name)


def put_authority(running: Running, subject: pb.Subject, *, who: str = "app", **changed: Any) -> int:
    """Record an authority; return its seq."""
    request = cs.PutAuthorityRequest(request_id=request_id(), subject=subject, attested=authority(**changed))
    answer = running.consents.PutAuthority(request, metadata=running.as_(who))
    assert answer.authority_seq == event_of(answer.receipt).seq
    return answer.authority_seq


def end_authority(running: Running, subject: pb.Subject, seq: int, *, who: str = "app") -> pb.Receipt:
    """End an authority; return the receipt."""
    request = cs.EndAuthorityRequest(
        request_id=request_id(), subject=subject, authority_seq=seq, attested=st.AuthorityStatement(ended=True)
    )
    return running.consents.EndAuthority(request, metadata=running.as_(who)).receipt


def grant_under(running: Running, subject: pb.Subject, seq: int, *, who: str = REPRESENTATIVE, **root: Any) -> str:
    """Grant a consent under an authority; return the consent's id."""
    statement = st.GrantStatement(consent=consent(**root), authority_seq=seq, attestation=CHECKED)
    request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=statement)
    return running.consents.GrantConsent(request, metadata=running.as_(who)).consent_id
