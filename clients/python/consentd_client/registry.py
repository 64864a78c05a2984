"""Operations of RegistryService: enrolment, participants and their keys, vocabulary, notices and rules."""

from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.errors import AlreadyExistsError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client.consistency import Reached, condition
from consentd_client.ledger import history_part
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages
from consentd_client.receipts import (
    Receipt,
    StatementOptions,
    WriteOptions,
    WriteResponse,
    put_statement,
    read_new_receipt,
    write,
    write_fields,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolAnswer:
    """The answer to an enrolment.

    Attributes:
        tag: the person's tag, 32 bytes, which identifies the person's chain. Store it, to sign and to read histories.
        receipt: the receipt of the ENROL entry.
    """

    tag: bytes = field(repr=False)
    receipt: Receipt


def enrol(
    context: ClientContext,
    subject: pb.Subject,
    *,
    method: str = "",
    subject_key: bytes = b"",
    possession: bytes = b"",
    **options: Unpack[WriteOptions],
) -> Operation[EnrolAnswer]:
    """Enrol a person: give the person a tag, and record the first entry of the person's chain.

    *method*: how the person was identified. *subject_key*: the person's Ed25519 public key, 32 bytes; empty: none.
    *possession*: the proof that the person has the private key (``prove_possession``), 64 bytes.
    """
    request = rs.EnrolSubjectRequest(
        subject=subject, method=method, subject_key=subject_key, possession=possession, **write_fields(context, options)
    )
    tree_size = context.learned.tree_size
    response = yield from call(context, request, rs.EnrolSubjectResponse)
    receipt = yield from read_new_receipt(context, response.receipt, kinds=(EntryKind.ENROL,), tree_size=tree_size)
    if (receipt.event.tag, receipt.event.seq) != (response.tag, 1):
        raise ProofError("receipt is not for the first entry of the tag")
    return EnrolAnswer(tag=response.tag, receipt=receipt)


def enrol_or_get(
    context: ClientContext,
    subject: pb.Subject,
    *,
    method: str = "",
    subject_key: bytes = b"",
    possession: bytes = b"",
    **options: Unpack[WriteOptions],
) -> Operation[bytes]:
    """Enrol a person who is not enrolled yet, and return the person's tag in either case, 32 bytes.

    Arguments as of ``enrol``; of an enrolled person nothing is changed. The tag of an enrolled person is read with the
    first entry of the person's history, and verified.

    Raises:
        InvalidError: the person is enrolled, and no key is pinned.
    """
    try:
        enrolled = yield from enrol(
            context, subject, method=method, subject_key=subject_key, possession=possession, **options
        )
        return enrolled.tag
    except AlreadyExistsError as error:
        if error.reason != "SUBJECT_ENROLLED":
            raise
    return (yield from read_tag(context, subject))


def read_tag(context: ClientContext, subject: pb.Subject) -> Operation[bytes]:
    """Read the tag of an enrolled person, 32 bytes, with the first entry of the person's history, and verify it.

    It is not proven that the tag is this person's. A statement that is signed for a wrong tag is valid nowhere.

    Raises:
        InvalidError: no key is pinned.
    """
    found, _, _ = yield from history_part(context, subject, most=1)
    return found.tag


def register_participant(
    context: ClientContext, participant: st.ParticipantStatement, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """Register a participant, or replace its record. For an operator; or for the participant with a ``signer``.

    The participant, which is registered before, keeps or narrows what it may do: roles, rights, groups, ``active`` …
    """
    request = rs.RegisterParticipantRequest(**write_fields(context, options, StatementOptions))
    put_statement(context, request, EntryKind.PARTICIPANT, participant, options)
    chain = participant.participant_id
    return _write_in_chain(context, request, rs.RegisterParticipantResponse, EntryKind.PARTICIPANT, chain)


def add_key(
    context: ClientContext, owner: str | pb.Subject, key: bytes, possession: bytes, *, authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """Put an Ed25519 public key, 32 bytes, of a participant or of a person in force.

    *owner*: the id of a participant. For the participant with a ``signer`` that has another key in force; if none is in
    force, for an operator. Or a person who is enrolled: callers.md says who may add which key. *possession*: the proof
    that the owner has the private key (``prove_possession``), 64 bytes.
    *authority_seq*: the key is of the representative by this AUTHORITY for the person.
    """
    fields = write_fields(context, options, StatementOptions)
    request = rs.AddKeyRequest(**_owner(owner), possession=possession, **fields)
    put_statement(context, request, EntryKind.KEY, st.KeyStatement(key=key, authority_seq=authority_seq), options)
    return _write_key(context, request, rs.AddKeyResponse, owner, options)


def retire_key(
    context: ClientContext, owner: str | pb.Subject, key: bytes, *, authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """Retire a key. Statements that the key signed earlier stay valid.

    *owner*: the id of a participant. For an operator, or for the participant with a ``signer`` that has this key or
    another one in force. Or a person who is enrolled: callers.md says who may retire a key.
    *authority_seq*: as for ``add_key``.
    """
    request = rs.RetireKeyRequest(**_owner(owner), **write_fields(context, options, StatementOptions))
    statement = st.KeyStatement(key=key, retired=True, authority_seq=authority_seq)
    put_statement(context, request, EntryKind.KEY, statement, options)
    return _write_key(context, request, rs.RetireKeyResponse, owner, options)


def _owner(owner: str | pb.Subject) -> dict[str, Any]:
    return {"participant_id": owner} if isinstance(owner, str) else {"subject": owner}


def _write_key(
    context: ClientContext, request: Message, response_type: type[WriteResponse], owner: str | pb.Subject,
    options: StatementOptions,
) -> Operation[Receipt]:  # fmt: skip
    """Call the procedure that takes *request*, and verify that its KEY entry is in the chain of the owner.

    The tag of a person is known only from the signer.
    """
    if isinstance(owner, str):
        return (yield from _write_in_chain(context, request, response_type, EntryKind.KEY, owner))
    receipt, signer = (yield from write(context, request, response_type, EntryKind.KEY)), options.get("signer")
    if signer is not None and receipt.event.tag != signer.tag:
        raise ProofError("receipt is not for an entry in the chain of the person")
    return receipt


def publish_vocabulary(
    context: ClientContext, vocabulary: st.VocabularyStatement, **options: Unpack[WriteOptions]
) -> Operation[Receipt]:
    """Publish the complete next version of the vocabulary. For the operator."""
    request = rs.PublishVocabularyRequest(attested=vocabulary, **write_fields(context, options))
    return write(context, request, rs.PublishVocabularyResponse, EntryKind.VOCABULARY)


def publish_notice(
    context: ClientContext, notice: st.NoticeStatement, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """Publish the next version of a notice. For an operator; or for the participant that it names, with a ``signer`` of
    its own (``StatementSigner.of_participant``).
    """
    request, chain = rs.PublishNoticeRequest(**write_fields(context, options, StatementOptions)), _notice_chain(notice)
    put_statement(context, request, EntryKind.NOTICE, notice, _for_chain(options, chain))
    receipt = yield from write(context, request, rs.PublishNoticeResponse, EntryKind.NOTICE)
    if receipt.event.tag != codec.public_tag(chain):
        raise ProofError("receipt is not for an entry in the chain of the notice")
    return receipt


def _notice_chain(notice: st.NoticeStatement) -> str:
    return codec.NOTICE_PREFIX + notice.notice_id


def publish_rules(
    context: ClientContext, rules: st.RulesStatement, **options: Unpack[WriteOptions]
) -> Operation[Receipt]:
    """Publish the complete next version of the rules, such as laws, that apply beside consents. For the operator."""
    request = rs.PublishRulesRequest(attested=rules, **write_fields(context, options))
    return write(context, request, rs.PublishRulesResponse, EntryKind.RULES)


def put_delegation(
    context: ClientContext, delegation: st.DelegationStatement, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """Record that the taker may act for the giver. For the giver with a ``signer``; if it has no key, an operator."""
    request = rs.PutDelegationRequest(**write_fields(context, options, StatementOptions))
    put_statement(context, request, EntryKind.DELEGATION, delegation, options)
    return _write_in_chain(context, request, rs.PutDelegationResponse, EntryKind.DELEGATION, delegation.giver)


def end_delegation(
    context: ClientContext, giver: str, taker: str, capacity: "st.DelegationCapacity.ValueType",
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """End a delegation. For an operator, or for the giver with a ``signer``."""
    request = rs.EndDelegationRequest(**write_fields(context, options, StatementOptions))
    ended = st.DelegationStatement(giver=giver, taker=taker, capacity=capacity, ended=True)
    put_statement(context, request, EntryKind.DELEGATION, ended, options)
    return _write_in_chain(context, request, rs.EndDelegationResponse, EntryKind.DELEGATION, giver)


def list_delegations(
    context: ClientContext, *, giver: str = "", taker: str = "",
    capacity: "st.DelegationCapacity.ValueType" = st.DELEGATION_CAPACITY_UNSPECIFIED, in_force_time_ms: int = 0,
    consistency: Reached | None = None,
) -> ReadPage[st.DelegationStatement]:  # fmt: skip
    """Read the delegations that were not ended and meet all conditions. An empty value or 0 is no condition.

    *in_force_time_ms*: the delegation is in force at this instant, UTC milliseconds.
    """
    selected = rs.ListDelegationsRequest(
        giver=giver, taker=taker, capacity=capacity, in_force_time_ms=in_force_time_ms,
        consistency=condition(consistency),
    )  # fmt: skip
    return read_pages(
        context, selected, rs.ListDelegationsResponse, lambda response: (response.delegations, response.next_page_token)
    )


def _write_in_chain(
    context: ClientContext, request: Message, response_type: type[WriteResponse], kind: EntryKind, participant_id: str
) -> Operation[Receipt]:
    """Call the procedure that takes *request*, and verify that its entry is in the chain of the participant."""
    receipt = yield from write(context, request, response_type, kind)
    if receipt.event.tag != codec.public_tag(PARTICIPANT_PREFIX + participant_id):
        raise ProofError("receipt is not for an entry in the chain of the participant")
    return receipt


def put_mandate(
    context: ClientContext, mandate: st.MandateStatement, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """Let an auditor with the right READ_STATEMENTS read the statements of persons until a time.

    For an operator, or for the public authority that ``mandate.giver`` names, with a ``signer`` of its own
    (``StatementSigner.of_participant``).
    """
    request = rs.PutMandateRequest(**write_fields(context, options, StatementOptions))
    chain = PARTICIPANT_PREFIX + mandate.auditor
    put_statement(context, request, EntryKind.MANDATE, mandate, _for_chain(options, chain))
    return _write_in_chain(context, request, rs.PutMandateResponse, EntryKind.MANDATE, mandate.auditor)


def end_mandate(
    context: ClientContext, auditor: str, *, giver: str = "", **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """End the mandate of an auditor. For an operator, or for the *giver* of the mandate with a ``signer``."""
    request = rs.EndMandateRequest(**write_fields(context, options, StatementOptions))
    ended = st.MandateStatement(auditor=auditor, ended=True, giver=giver)
    put_statement(context, request, EntryKind.MANDATE, ended, _for_chain(options, PARTICIPANT_PREFIX + auditor))
    return _write_in_chain(context, request, rs.EndMandateResponse, EntryKind.MANDATE, auditor)


def _for_chain(options: StatementOptions, chain: str) -> StatementOptions:
    """Return *options* with a signer, if there is one, that signs for the public chain of this name."""
    signer = options.get("signer")
    return options if signer is None else {**options, "signer": replace(signer, tag=codec.public_tag(chain))}


def get_participant(
    context: ClientContext, participant_id: str, *, tree_size: int = 0, consistency: Reached | None = None
) -> Operation[rs.GetParticipantResponse]:
    """Read the recorded data and the keys in force of one participant, as the tree of *tree_size* leaves has them; 0:
    the latest.
    """
    request = rs.GetParticipantRequest(
        participant_id=participant_id, tree_size=tree_size, consistency=condition(consistency)
    )
    return call(context, request, rs.GetParticipantResponse)


def list_participants(
    context: ClientContext, *, role: "st.ParticipantRole.ValueType" = st.PARTICIPANT_ROLE_UNSPECIFIED,
    right: "st.ParticipantRight.ValueType" = st.PARTICIPANT_RIGHT_UNSPECIFIED, group: str = "",
    active: bool | None = None, consistency: Reached | None = None,
) -> ReadPage[st.ParticipantStatement]:  # fmt: skip
    """Read the participants that meet all conditions. An empty value, None or 0 is no condition.

    *group*: the participant is a member of it now, ``group/ID``. *active*: whether the participant is active.
    """
    selected = rs.ListParticipantsRequest(
        role=role, right=right, group=group, active=active, consistency=condition(consistency)
    )
    return read_pages(
        context, selected, rs.ListParticipantsResponse,
        lambda response: (response.participants, response.next_page_token),
    )  # fmt: skip


def get_vocabulary(
    context: ClientContext, *, tree_size: int = 0, consistency: Reached | None = None
) -> Operation[st.VocabularyStatement]:
    """Read the vocabulary in force, or that of the tree of *tree_size* leaves; 0: the latest."""
    request = rs.GetVocabularyRequest(tree_size=tree_size, consistency=condition(consistency))
    response = yield from call(context, request, rs.GetVocabularyResponse)
    return response.vocabulary


def get_notice(
    context: ClientContext, notice_id: str, version: int = 0, *, tree_size: int = 0,
    consistency: Reached | None = None,
) -> Operation[st.NoticeStatement]:
    """Read one version of a notice; 0: the latest version, in the tree of *tree_size* leaves; 0: the latest."""
    request = rs.GetNoticeRequest(
        notice_id=notice_id, version=version, tree_size=tree_size, consistency=condition(consistency)
    )
    response = yield from call(context, request, rs.GetNoticeResponse)
    return response.notice


def get_rules(
    context: ClientContext, *, tree_size: int = 0, consistency: Reached | None = None
) -> Operation[st.RulesStatement]:
    """Read the rules in force, or those of the tree of *tree_size* leaves; 0: the latest."""
    request = rs.GetRulesRequest(tree_size=tree_size, consistency=condition(consistency))
    response = yield from call(context, request, rs.GetRulesResponse)
    return response.rules
