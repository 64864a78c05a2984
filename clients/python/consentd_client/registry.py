"""Flows of RegistryService: who takes part, by which words, under which rules; enrolment."""

from dataclasses import dataclass, field

from consentd.core.kinds import EntryKind
from consentd.errors import MalformedError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client.policy import wait_for
from consentd_client.receipts import Receipt, read_receipt
from consentd_client.steps import Flow, Page, Session, ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """An enrolment.

    Attributes:
        tag: the person's tag, 32 bytes. Pin it: it names the chain to sign for and to ask the history of.
        receipt: of the ENROL entry.
    """

    tag: bytes = field(repr=False)
    receipt: Receipt


def enrol(
    session: Session,
    subject: pb.Subject,
    *,
    method: str = "",
    subject_key: bytes = b"",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Enrolled]:
    """Give a person a tag and a first entry.

    Args:
        subject: the person.
        method: how the person was identified.
        subject_key: the person's own Ed25519 public key, 32 bytes; empty: none.
        published: wait until a checkpoint covers the entry.
        request_id: 16 bytes, kept by the caller to repeat with; empty: drawn.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.EnrolSubjectRequest(
        request_id=request_id or session.draw(),
        subject=subject,
        method=method,
        subject_key=subject_key,
        wait_for=wait_for(published),
    )
    response = yield from ask(session, "RegistryService/EnrolSubject", request, rs.EnrolSubjectResponse)
    receipt = read_receipt(response.receipt, kinds=(EntryKind.ENROL,), trust=session.trust)
    if (receipt.event.tag, receipt.event.seq) != (response.tag, 1):
        raise ProofError("receipt is not for the first entry of the tag")
    return Enrolled(tag=response.tag, receipt=receipt)


def register_participant(
    session: Session, participant: st.ParticipantStatement, *, published: bool = False, request_id: bytes = b""
) -> Flow[Receipt]:
    """Add a participant, or say anew who it is. The operator's.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.RegisterParticipantRequest(
        request_id=request_id or session.draw(), participant=participant, wait_for=wait_for(published)
    )
    method = "RegistryService/RegisterParticipant"
    response = yield from ask(session, method, request, rs.RegisterParticipantResponse)
    return read_receipt(response.receipt, kinds=(EntryKind.PARTICIPANT,), trust=session.trust)


def add_key(
    session: Session, participant_id: str, key: bytes, *, published: bool = False, request_id: bytes = b""
) -> Flow[Receipt]:
    """Put a participant's Ed25519 key, 32 bytes, in force. The operator's.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.AddKeyRequest(
        request_id=request_id or session.draw(), participant_id=participant_id, key=key, wait_for=wait_for(published)
    )
    response = yield from ask(session, "RegistryService/AddKey", request, rs.AddKeyResponse)
    return read_receipt(response.receipt, kinds=(EntryKind.KEY,), trust=session.trust)


def retire_key(
    session: Session, participant_id: str, key: bytes, *, published: bool = False, request_id: bytes = b""
) -> Flow[Receipt]:
    """Put a participant's key out of force; what it signed before stays valid. The operator's.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.RetireKeyRequest(
        request_id=request_id or session.draw(), participant_id=participant_id, key=key, wait_for=wait_for(published)
    )
    response = yield from ask(session, "RegistryService/RetireKey", request, rs.RetireKeyResponse)
    return read_receipt(response.receipt, kinds=(EntryKind.KEY,), trust=session.trust)


def publish_vocabulary(
    session: Session, vocabulary: st.VocabularyStatement, *, published: bool = False, request_id: bytes = b""
) -> Flow[Receipt]:
    """Publish the next version of the vocabulary, whole. The operator's.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.PublishVocabularyRequest(
        request_id=request_id or session.draw(), vocabulary=vocabulary, wait_for=wait_for(published)
    )
    response = yield from ask(session, "RegistryService/PublishVocabulary", request, rs.PublishVocabularyResponse)
    return read_receipt(response.receipt, kinds=(EntryKind.VOCABULARY,), trust=session.trust)


def publish_notice(
    session: Session, notice: st.NoticeStatement, *, published: bool = False, request_id: bytes = b""
) -> Flow[Receipt]:
    """Publish the next version of a notice. The operator's.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.PublishNoticeRequest(
        request_id=request_id or session.draw(), notice=notice, wait_for=wait_for(published)
    )
    response = yield from ask(session, "RegistryService/PublishNotice", request, rs.PublishNoticeResponse)
    return read_receipt(response.receipt, kinds=(EntryKind.NOTICE,), trust=session.trust)


def publish_rules(
    session: Session, rules: st.RulesStatement, *, published: bool = False, request_id: bytes = b""
) -> Flow[Receipt]:
    """Publish the next version of the realm's rules, whole. The operator's.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    request = rs.PublishRulesRequest(
        request_id=request_id or session.draw(), rules=rules, wait_for=wait_for(published)
    )
    response = yield from ask(session, "RegistryService/PublishRules", request, rs.PublishRulesResponse)
    return read_receipt(response.receipt, kinds=(EntryKind.RULES,), trust=session.trust)


def get_participant(session: Session, participant_id: str) -> Flow[rs.GetParticipantResponse]:
    """Read one participant as it stands, with its keys in force.

    Raises:
        ConsentdError: there is none, or it could not be read.
    """
    request = rs.GetParticipantRequest(participant_id=participant_id)
    return (yield from ask(session, "RegistryService/GetParticipant", request, rs.GetParticipantResponse))


def list_participants(session: Session, page_token: str) -> Flow[Page[st.ParticipantStatement]]:
    """Read all participants.

    Raises:
        ConsentdError: they could not be read.
    """
    request = rs.ListParticipantsRequest(page_token=page_token)
    response = yield from ask(session, "RegistryService/ListParticipants", request, rs.ListParticipantsResponse)
    if response.next_page_token and response.next_page_token == page_token:
        raise MalformedError("list leads back to the page it came from")
    return Page(tuple(response.participants), response.next_page_token)


def get_vocabulary(session: Session) -> Flow[st.VocabularyStatement]:
    """Read the vocabulary in force.

    Raises:
        ConsentdError: it could not be read.
    """
    request = rs.GetVocabularyRequest()
    response = yield from ask(session, "RegistryService/GetVocabulary", request, rs.GetVocabularyResponse)
    return response.vocabulary


def get_notice(session: Session, notice_id: str, version: int = 0) -> Flow[st.NoticeStatement]:
    """Read one version of a notice; 0: the latest.

    Raises:
        ConsentdError: there is none, or it could not be read.
    """
    request = rs.GetNoticeRequest(notice_id=notice_id, version=version)
    response = yield from ask(session, "RegistryService/GetNotice", request, rs.GetNoticeResponse)
    return response.notice


def get_rules(session: Session) -> Flow[st.RulesStatement]:
    """Read the rules in force.

    Raises:
        ConsentdError: they could not be read.
    """
    response = yield from ask(session, "RegistryService/GetRules", rs.GetRulesRequest(), rs.GetRulesResponse)
    return response.rules
