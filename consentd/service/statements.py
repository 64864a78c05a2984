"""Read the statement of a write request: ``attested`` by the caller, or ``signed`` by its author.

The rules are those of the message ``Attestation`` (statement.proto). They are the same for every call that records a
statement of a person or participant, so every such call reads its statement with ``read_statement``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import InvalidError, MalformedError
from consentd.sequencer.commands.authorship import check_not_attested
from consentd.service.requests import content_hash
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)

_FILLED_IN: Mapping[type[Message], tuple[str, ...]] = {
    st.AmendStatement: ("lineage_seq", "version"),
    st.PauseStatement: ("lineage_seq",),
    st.ResumeStatement: ("lineage_seq",),
    st.RevokeStatement: ("lineage_seq",),
}
"""The fields that the daemon fills in when it signs a statement, beside ``attestation.attested_by``."""


@dataclass(frozen=True, slots=True)
class Attester:
    """The attester of the statements of a call.

    Attributes:
        id: a participant or an operator; empty: the caller is a person whose own key signed the call. Nobody attests
            the statements of that call.
        login: the login of a caller that is a person; None: the caller is the attester itself.
    """

    id: str
    login: st.Authentication | None = None


@dataclass(frozen=True, slots=True)
class Stated(Generic[M]):
    """The statement of a request.

    Attributes:
        message: the statement. If it is attested, it names the caller as the one who attests it.
        signed: the statement as its author signed it; None: it is attested.
        content: a hash of the statement as the request has it, 32 bytes, for the content hash of the request.
    """

    message: M
    signed: pb.SignedStatement | None
    content: bytes


def read_statement(request: Message, message_type: type[M], attester: Attester) -> Stated[M]:
    """Read the statement of *request*, a message with the oneof ``statement``.

    Raises:
        InvalidError: INVALID_REQUEST: the request has no statement, or the statement has a field that its form must
            leave empty. UNKNOWN_FIELD: a field is unknown. TOO_LARGE: the statement is larger than a payload.
    """
    form = request.WhichOneof("statement")
    if form is None:
        raise InvalidError("request has no statement: give it in the form `attested` or `signed`")
    given: Any = getattr(request, form)
    payloads.check_own_fields(request)
    if form == "signed":
        payloads.check_own_fields(given)
        return Stated(_parse_signed(message_type, given), given, content_hash(form, given))
    return Stated(read_attested(given, attester), None, content_hash(form, given))


def read_attested(given: M, attester: Attester) -> M:
    """Return an attested statement as the daemon signs it: it names the attester. Raises as ``read_statement``."""
    if given.ByteSize() > codec.MAX_PAYLOAD:
        # Checked before the statement is converted to values: to convert a million provisions takes seconds.
        raise InvalidError(f"statement is over its limit of {codec.MAX_PAYLOAD} bytes", "TOO_LARGE")
    payloads.check_no_unknown_fields(given)
    stated: Any = given
    attestation = attested(stated.attestation, attester)
    for name in _FILLED_IN.get(type(given), ()):
        if getattr(given, name):
            raise InvalidError(f"daemon fills in a field of an attested statement: leave `{name}` empty")
    message: Any = type(given)()
    message.CopyFrom(given)
    message.attestation.CopyFrom(attestation)
    return cast(M, message)


def attested(given: st.Attestation, attester: Attester) -> st.Attestation:
    """Return an attestation as the daemon records it: with the attester, and the login of a caller that is a person.

    Raises:
        InvalidError: *given* has more than a method, or has one although the caller is the person; or nobody attests.
    """
    if not attester.id:
        raise InvalidError("person who signs the call signs the statement too: give it in the form `signed`")
    if given.attested_by or given.HasField("authentication"):
        raise InvalidError("attester is the caller, and the daemon fills in the login: state the method alone")
    if attester.login is not None and given.method:
        raise InvalidError("method is for a caller that is not the person: leave it empty")
    return st.Attestation(attested_by=attester.id, method=given.method, authentication=attester.login)


def _parse_signed(message_type: type[M], signed: pb.SignedStatement) -> M:
    """Parse the payload of a statement that its author signed. Raises ``InvalidError`` as ``read_statement``."""
    if len(signed.payload) > codec.MAX_PAYLOAD:
        raise InvalidError(f"payload is over its limit of {codec.MAX_PAYLOAD} bytes", "TOO_LARGE")
    try:
        message = payloads.parse(message_type, signed.payload)
    except MalformedError as error:
        raise InvalidError("signed statement does not decode") from error
    check_not_attested(message)
    payloads.check_no_unknown_fields(message)
    return message
