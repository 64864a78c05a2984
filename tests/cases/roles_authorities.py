"""How a test puts, ends and reads authorities: attempts of ``cases.roles``."""

from typing import TYPE_CHECKING

from cases.authorities import authority
from cases.daemons import request_id
from consentd.service.roles import Access, Whose
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

if TYPE_CHECKING:
    from cases.roles import Call


def put(call: "Call") -> Access:
    request = cs.PutAuthorityRequest(
        request_id=request_id(), subject=call.world.person(call.whose), attested=authority(participant_id="app")
    )
    return call.plain(call.running.consents.PutAuthority, request)


def _recorded(call: "Call") -> tuple[pb.Subject, int]:
    """Return a person with an authority, and its seq; for UNKNOWN, a seq that nobody has."""
    subject = call.world.person(call.whose)
    if call.whose is Whose.UNKNOWN:
        return subject, 2
    request = cs.PutAuthorityRequest(
        request_id=request_id(), subject=subject, attested=authority(participant_id="relay-acts")
    )
    return subject, call.running.consents.PutAuthority(request, metadata=call.running.as_("app")).authority_seq


def end(call: "Call") -> Access:
    subject, seq = _recorded(call)
    request = cs.EndAuthorityRequest(
        request_id=request_id(), subject=subject, authority_seq=seq, attested=st.AuthorityStatement(ended=True)
    )
    return call.plain(call.running.consents.EndAuthority, request)


def get(call: "Call") -> Access:
    subject, seq = _recorded(call)
    return call.plain(call.running.consents.GetAuthority, cs.GetAuthorityRequest(subject=subject, authority_seq=seq))


def list_all(call: "Call") -> Access:
    request = cs.ListAuthoritiesRequest(subject=call.world.person(call.whose))
    return call.plain(call.running.consents.ListAuthorities, request)
