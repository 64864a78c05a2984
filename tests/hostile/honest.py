"""What an honest caller does beside a few hostile peers."""

from cases.daemons import Running, question, request_id
from cases.fakes import HANG_S
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from hostile.peers import make_peers

COUNT = 20
"""How many peers of a kind. With four calls each, they would hold every thread that a server gives to calls."""
NAMES = [peer.name for peer in make_peers("", subject=pb.Subject(), items=1)]
HONEST = [pb.OUTCOME_PERMIT, pb.OUTCOME_PERMIT, pb.OUTCOME_NO_CONSENT]


def call_honestly(running: Running, value: str) -> list[int]:
    """Check, authorize, revoke and check as honest callers do; return how the three questions were answered."""
    subject = running.enrol(value)
    consent_id = running.grant(subject)
    asked = question(subject)
    app = running.as_("app")
    found = running.policy.Check(ps.CheckRequest(question=asked), metadata=app, timeout=HANG_S)
    authorized = running.authorize(asked)
    revoke = cs.RevokeConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id, attested=st.RevokeStatement()
    )
    running.consents.RevokeConsent(revoke, metadata=app, timeout=HANG_S)
    return [found.decision.outcome, authorized.decision.outcome, running.check(asked).outcome]
