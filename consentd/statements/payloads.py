"""Encode and decode the payload of a statement: a protobuf message, whose type follows from the entry's kind.

The ledger stores the bytes of a payload as they were received. The signature over these bytes is verified before they
are decoded; no message is encoded again for a verification. A message with fields that this version does not know must
not be interpreted, because an unknown field may change the meaning of known fields.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from consentd import limits
from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)

MESSAGES: Final[Mapping[int, type[Message]]] = {
    EntryKind.LEDGER: st.LedgerStatement, EntryKind.PARTICIPANT: st.ParticipantStatement,
    EntryKind.KEY: st.KeyStatement, EntryKind.VOCABULARY: st.VocabularyStatement,
    EntryKind.NOTICE: st.NoticeStatement, EntryKind.ENROL: st.EnrolStatement,
    EntryKind.GRANT: st.GrantStatement, EntryKind.AMEND: st.AmendStatement,
    EntryKind.PAUSE: st.PauseStatement, EntryKind.RESUME: st.ResumeStatement,
    EntryKind.REVOKE: st.RevokeStatement, EntryKind.ACCESS: st.AccessStatement,
    EntryKind.REFUSAL: st.RefusalStatement, EntryKind.OUTCOME: st.OutcomeStatement,
    EntryKind.READ: st.ReadStatement, EntryKind.SERVED: st.ServedStatement,
    EntryKind.RULES: st.RulesStatement, EntryKind.DELEGATION: st.DelegationStatement,
    EntryKind.MANDATE: st.MandateStatement, EntryKind.DUTY: st.DutyStatement,
    EntryKind.ERASURE: st.ErasureStatement, EntryKind.AUTHORITY: st.AuthorityStatement,
    EntryKind.ADMINISTRATION: st.AdministrationStatement,
}
"""The payload's message type for each kind of entry that has a payload in this version."""

_ROLES = (st.ROTATION_ROLE_LOG, st.ROTATION_ROLE_STATEMENT)

MAX_TEXT = limits.TEXT_BYTES
"""Most bytes (UTF-8) of a text of a statement: a name, a note, a method, a title, a URI, a reference."""


def encode_payload(message: Message) -> bytes:
    """Serialise a payload.

    Raises:
        InvalidError: (TOO_LARGE) the payload is over ``codec.MAX_PAYLOAD`` bytes.
    """
    payload = message.SerializeToString(deterministic=True)
    if len(payload) > codec.MAX_PAYLOAD:
        raise InvalidError(f"payload is over its limit of {codec.MAX_PAYLOAD} bytes: `{len(payload)}`", "TOO_LARGE")
    return payload


def decode_payload(kind: int, payload: bytes) -> Message:
    """Decode the payload of an entry of *kind*. The message may have unknown fields.

    Raises:
        MalformedError: the bytes are not a message of the kind, or the kind has no payload in this version.
    """
    message_type = MESSAGES.get(kind)
    if message_type is None:
        raise MalformedError(f"entry kind has no payload known here: `{kind}`")
    return parse(message_type, payload)


def decode_known_payload(kind: int, payload: bytes) -> Message | None:
    """Decode the payload of an entry of *kind*; return None unless this version understands the kind and all fields."""
    try:
        message = decode_payload(kind, payload)
    except MalformedError:
        return None
    return message if is_understood(message) else None


def is_understood(message: Message) -> bool:
    """Report whether this version knows every field of a payload and, if it is a rotation, the key's role."""
    role = message.rotation.role if isinstance(message, st.LedgerStatement) and message.HasField("rotation") else None
    return role in (None, *_ROLES) and has_only_known_fields(message)


def public_name(message: Message) -> str:
    """Return the name of the public chain to which a payload belongs: that of the thing that the payload is about.

    The kinds are those of ``core.kinds.PUBLIC`` but LEDGER. The fields that name a chain keep their meaning in every
    version, so unknown fields do not matter.
    """
    match message:
        case st.ParticipantStatement():
            return PARTICIPANT_PREFIX + message.participant_id
        case st.VocabularyStatement():
            return codec.VOCABULARY_PREFIX + message.vocabulary_id
        case st.NoticeStatement():
            return codec.NOTICE_PREFIX + message.notice_id
        case st.RulesStatement():
            return codec.RULES_PREFIX + message.realm_id
        case st.DelegationStatement():
            return PARTICIPANT_PREFIX + message.giver
        case st.MandateStatement():
            return PARTICIPANT_PREFIX + message.auditor
        case st.AdministrationStatement():
            return codec.ADMINISTRATION_CHAIN
    raise AssertionError("payload is of no kind that only public chains have")


def parse(message_type: type[M], payload: bytes) -> M:
    """Parse *payload* as *message_type*.

    Raises:
        MalformedError: the bytes are not a message of that type.
    """
    message = message_type()
    try:
        message.ParseFromString(payload)
    except (DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"payload is not a {message_type.DESCRIPTOR.name}") from error
    return message


def has_only_known_fields(message: Message) -> bool:
    """Report whether this version knows every field of *message*, at any depth."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() == message.ByteSize()


def check_texts(message: Message) -> None:
    """Check the length of each text of a statement, at any depth.

    Raises:
        InvalidError: (TOO_LARGE) a text is over ``MAX_TEXT`` bytes; the error names the field.
    """
    if message.ByteSize() <= MAX_TEXT:
        return
    for field, value in message.ListFields():
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        # The maps of statements are names, from text to text.
        several = (*value.keys(), *value.values()) if is_map else value
        for one in (value,) if isinstance(value, (str, bytes, int, Message)) else several:
            if isinstance(one, Message):
                check_texts(one)
            elif isinstance(one, str) and len(one.encode()) > MAX_TEXT:
                raise InvalidError(f"`{field.name}` is over its limit of {MAX_TEXT} bytes", "TOO_LARGE")


def check_own_fields(*messages: Message) -> None:
    """Refuse messages with fields that this version does not know. Does not look into nested messages, and is faster.

    Raises:
        InvalidError: one of the messages has such fields.
    """
    for message in messages:
        if len(UnknownFieldSet(message)):
            raise _unknown_field()


def check_no_unknown_fields(message: Message) -> None:
    """Refuse a message with fields that this version does not know.

    Raises:
        InvalidError: the message has such fields.
    """
    if not has_only_known_fields(message):
        raise _unknown_field()


def _unknown_field() -> InvalidError:
    return InvalidError("message has fields that this version does not know", "UNKNOWN_FIELD")
