"""The kinds of hostile peers."""

from cases.daemons import question, request_id
from cases.services import batch_request
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from hostile.crowd import Peer

CHECK = "/consentd.v1.PolicyService/Check"
BATCH = "/consentd.v1.PolicyService/BatchCheck"
GRANT = "/consentd.v1.ConsentService/GrantConsent"
REVOKE = "/consentd.v1.ConsentService/RevokeConsent"
AUTHORIZE = "/consentd.v1.AccessService/AuthorizeAccess"
LIST = "/consentd.v1.RegistryService/ListParticipants"
HISTORY = "/consentd.v1.LedgerService/GetHistory"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
EVERY = (CHECK, BATCH, GRANT, REVOKE, AUTHORIZE, LIST, HISTORY, HEALTH)


def make_peers(token: str, *, subject: pb.Subject, items: int) -> list[Peer]:
    """Return a peer of each kind, with *token* and without.

    Args:
        subject: an enrolled person with a consent.
        items: how many questions a batch has.
    """
    asked = [question(subject, categories=["CLIN.DX", "CLIN.LAB", "CLIN.ALG"])] * items
    batch = batch_request(questions=asked).SerializeToString()
    history = ls.GetHistoryRequest(public_name="ledger").SerializeToString()
    large = cs.GrantConsentRequest(
        request_id=request_id(), attested=st.GrantStatement(consent=pb.Consent(language="x" * 1_000_000))
    )
    body = large.SerializeToString()
    access = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    access.wait_for = pb.WAIT_FOR_PUBLISHED
    waiting = access.SerializeToString()
    peers = [
        Peer(name="idle connections"),
        Peer(name="connections that say nothing", speaks=False),
        Peer(name="a slow reflection stream", paths=(REFLECTION,)),
        Peer(name="a health stream, closed window", paths=(WATCH,), message=b"", window=0),
    ]
    for who, credential in (("with a credential", token), ("without a credential", "")):
        peers += [
            Peer(name=f"headers without a message, {who}", paths=EVERY, token=credential, calls=len(EVERY)),
            Peer(name=f"half of a message, {who}", paths=(GRANT,), message=body, sent_share=0.5, token=credential),
            Peer(
                name=f"histories, closed window, {who}", paths=(HISTORY,), message=history, window=0, token=credential
            ),
            Peer(name=f"messages of 1 MB, {who}", paths=(GRANT,), message=body, calls=1, token=credential),
            Peer(
                name=f"batches cancelled after a second, {who}", paths=(BATCH,), message=batch, cancel_s=1.0, calls=1,
                token=credential,
            ),
            Peer(
                name=f"calls that wait for a checkpoint, {who}", paths=(AUTHORIZE,), message=waiting, token=credential
            ),
        ]  # fmt: skip
    return peers
