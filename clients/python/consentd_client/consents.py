"""Flows of ConsentService: give, change, pause, resume and withdraw a consent; read them."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import MalformedError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client.policy import wait_for
from consentd_client.receipts import Receipt, read_receipt
from consentd_client.signing import Author
from consentd_client.steps import Flow, Page, Session, ask

_GRANTED = frozenset({EntryKind.GRANT, EntryKind.REFUSAL})
_AMENDED = frozenset({EntryKind.AMEND, EntryKind.REFUSAL})

_Change: TypeAlias = cs.PauseConsentRequest | cs.ResumeConsentRequest | cs.RevokeConsentRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """How a grant or an amendment came out. True where it was taken.

    Attributes:
        receipt: of the GRANT or AMEND, or of the REFUSAL.
        consent_id: names the lineage; empty where a grant was refused.
        version: in force now; 0 where refused.
        refused: the legal ground and what was missing; None: taken.
    """

    receipt: Receipt
    consent_id: str
    version: int
    refused: cs.Refused | None

    def __bool__(self) -> bool:
        return self.refused is None


def grant(
    session: Session,
    subject: pb.Subject,
    consent: pb.Consent,
    *,
    author: Author | None = None,
    method: str = "",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Granted]:
    """Give a consent. One that lacks a legal item is refused, recorded, and answered as such.

    Args:
        subject: the person.
        consent: what is given.
        author: the person's own key to sign with; None: the daemon signs, naming the caller as who vouches for it.
        method: how the person was identified.
        published: wait until a checkpoint covers the entry.
        request_id: 16 bytes, kept by the caller to repeat with; empty: drawn.

    Raises:
        ConsentdError: it was not well formed, or could not be recorded.
    """
    request = cs.GrantConsentRequest(
        request_id=request_id or session.draw(), subject=subject, method=method, wait_for=wait_for(published)
    )
    if author is None:
        request.consent.CopyFrom(consent)
    else:
        message = st.GrantStatement(consent=consent)
        signed = author.sign(EntryKind.GRANT, message, request_id=request.request_id, now_ms=session.now_ms())
        request.signed.CopyFrom(signed)
    response = yield from ask(session, "ConsentService/GrantConsent", request, cs.GrantConsentResponse)
    receipt = read_receipt(response.receipt, kinds=_GRANTED, trust=session.trust)
    refused = response.refused if response.HasField("refused") else None
    if (refused is None) != (receipt.kind == EntryKind.GRANT):
        raise ProofError("answer and receipt differ on whether the consent was taken")
    if refused is None and response.consent_id != codec.consent_id(receipt.event.tag, receipt.event.seq).hex():
        raise ProofError("consent id is not that of the entry in the receipt")
    return Granted(receipt=receipt, consent_id=response.consent_id, version=response.version, refused=refused)


def amend(
    session: Session,
    subject: pb.Subject,
    consent_id: str,
    consent: pb.Consent,
    *,
    based_on_version: int,
    author: Author | None = None,
    method: str = "",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Granted]:
    """Replace a consent by its next version, narrower or wider; arguments as ``grant``.

    Args:
        subject: the person.
        consent_id: names the lineage.
        consent: the next version, whole.
        based_on_version: the version it was made from; another in force is a conflict.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = cs.AmendConsentRequest(
        request_id=request_id or session.draw(),
        subject=subject,
        consent_id=consent_id,
        based_on_version=based_on_version,
        method=method,
        wait_for=wait_for(published),
    )
    if author is None:
        request.consent.CopyFrom(consent)
    else:
        record = yield from _record_of(session, subject, consent_id, author)
        message = st.AmendStatement(consent=consent, lineage_seq=record.lineage_seq, version=based_on_version + 1)
        signed = author.sign(
            EntryKind.AMEND, message, request_id=request.request_id, now_ms=session.now_ms(), ref=record.seq
        )
        request.signed.CopyFrom(signed)
    response = yield from ask(session, "ConsentService/AmendConsent", request, cs.AmendConsentResponse)
    receipt = read_receipt(response.receipt, kinds=_AMENDED, trust=session.trust)
    refused = response.refused if response.HasField("refused") else None
    if (refused is None) != (receipt.kind == EntryKind.AMEND):
        raise ProofError("answer and receipt differ on whether the consent was taken")
    return Granted(receipt=receipt, consent_id=consent_id, version=response.version, refused=refused)


def pause(
    session: Session,
    subject: pb.Subject,
    consent_id: str,
    *,
    author: Author | None = None,
    method: str = "",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Receipt]:
    """Suspend a consent: its permits count for nothing until resumed, its denies stay; arguments as ``grant``.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = cs.PauseConsentRequest(
        request_id=request_id, subject=subject, consent_id=consent_id, method=method, wait_for=wait_for(published)
    )
    response = cs.PauseConsentResponse
    return (yield from _change(session, EntryKind.PAUSE, request, st.PauseStatement(), response, author))


def resume(
    session: Session,
    subject: pb.Subject,
    consent_id: str,
    *,
    author: Author | None = None,
    method: str = "",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Receipt]:
    """End a pause; arguments as ``grant``.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = cs.ResumeConsentRequest(
        request_id=request_id, subject=subject, consent_id=consent_id, method=method, wait_for=wait_for(published)
    )
    response = cs.ResumeConsentResponse
    return (yield from _change(session, EntryKind.RESUME, request, st.ResumeStatement(), response, author))


def revoke(
    session: Session,
    subject: pb.Subject,
    consent_id: str,
    *,
    note: str = "",
    author: Author | None = None,
    method: str = "",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Receipt]:
    """Withdraw a consent. No check that begins after this returned permits on its ground; arguments as ``grant``.

    Args:
        subject: the person.
        consent_id: names the lineage.
        note: the person's reason, where given.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = cs.RevokeConsentRequest(
        request_id=request_id,
        subject=subject,
        consent_id=consent_id,
        note=note,
        method=method,
        wait_for=wait_for(published),
    )
    message, response = st.RevokeStatement(note=note), cs.RevokeConsentResponse
    return (yield from _change(session, EntryKind.REVOKE, request, message, response, author))


def _change(
    session: Session, kind: EntryKind, request: _Change, message: Any, response_type: Any, author: Author | None
) -> Flow[Receipt]:
    request.request_id = request.request_id or session.draw()
    if author is not None:
        record = yield from _record_of(session, request.subject, request.consent_id, author)
        message.lineage_seq = record.lineage_seq
        signed = author.sign(
            kind, message, request_id=request.request_id, now_ms=session.now_ms(), ref=record.seq
        )
        request.signed.CopyFrom(signed)
    method = f"ConsentService/{kind.name.capitalize()}Consent"
    response = yield from ask(session, method, request, response_type)
    return read_receipt(response.receipt, kinds=(kind,), trust=session.trust)


def _record_of(session: Session, subject: pb.Subject, consent_id: str, author: Author) -> Flow[cs.ConsentRecord]:
    """Read the lineage that a signature is to name, and hold its name against the author's own tag."""
    record = yield from get_consent(session, subject, consent_id)
    if codec.consent_id(author.tag, record.lineage_seq).hex() != consent_id or record.seq < record.lineage_seq:
        raise ProofError("daemon names another lineage than the consent's")
    return record


def get_consent(session: Session, subject: pb.Subject, consent_id: str) -> Flow[cs.ConsentRecord]:
    """Read one consent as it stands.

    Raises:
        ConsentdError: there is none, or it could not be read.
    """
    request = cs.GetConsentRequest(subject=subject, consent_id=consent_id)
    response = yield from ask(session, "ConsentService/GetConsent", request, cs.GetConsentResponse)
    return response.record


def list_consents(
    session: Session, page_token: str, subject: pb.Subject, *, include_revoked: bool = False
) -> Flow[Page[cs.ConsentRecord]]:
    """Read a person's consents, newest lineage first. Proves nothing: ``history`` does.

    Raises:
        ConsentdError: they could not be read.
    """
    request = cs.ListConsentsRequest(subject=subject, include_revoked=include_revoked, page_token=page_token)
    response = yield from ask(session, "ConsentService/ListConsents", request, cs.ListConsentsResponse)
    if response.next_page_token and response.next_page_token == page_token:
        raise MalformedError("list leads back to the page it came from")
    return Page(tuple(response.records), response.next_page_token)
