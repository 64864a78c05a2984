"""Sign statements and questions with the author's own key. The daemon lacks this key and cannot forge signatures.

A signature also covers the ledger's name, the entry kind, the person's tag, the entry referred to, the request_id and
the time (ledger-format.md, "Statement"). The tag, which ``enrol`` returned, identifies the person's chain. If a daemon
puts the statement into another chain, every verifier refuses the statement.
"""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.call_signature import HEADER, sign_call
from consentd.core.ed25519 import KeyPair
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.statements.payloads import encode_payload
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSigner:
    """A key of a person with which a client signs its calls, so that the daemon knows the person (callers.md).

    Such a call attests nothing: its statements are signed too, by a ``StatementSigner``.

    Attributes:
        key: the key pair; a KEY entry of the person's chain put the public key in force.
        origin: the ledger's name.
    """

    key: KeyPair
    origin: str

    def sign(self, method: str, message: bytes, *, now_ms: int) -> tuple[str, bytes]:
        """Return the header that signs a call of *method*, the path of the RPC, with this request message."""
        signed = sign_call(self.key, origin=self.origin, method=method, time_ms=now_ms, message=message)
        return HEADER, signed


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementSigner:
    """A signing key of a person or a participant, and the ledger and the chain that the signatures are valid in.

    Attributes:
        key: the key pair; a KEY entry put the public key in force.
        origin: the ledger's name.
        tag: the tag of the chain that is written to, 32 bytes; a person's tag, or see ``of_participant``.
    """

    key: KeyPair
    origin: str
    tag: bytes = field(repr=False)

    @classmethod
    def of_participant(cls, key: KeyPair, *, origin: str, participant_id: str) -> "StatementSigner":
        """Return the signer of a participant's own statements, which are in the chain ``participant/ID``."""
        return cls(key=key, origin=origin, tag=codec.public_tag(PARTICIPANT_PREFIX + participant_id))

    def sign(
        self, kind: int, statement: Message, *, request_id: bytes, now_ms: int, ref: int = 0
    ) -> pb.SignedStatement:
        """Sign a statement for an entry of *kind*. The entry refers to entry *ref* of the same chain; 0: to no entry.

        Raises:
            InvalidError: the statement is longer than 16 KiB.
        """
        payload = encode_payload(statement)
        return pb.SignedStatement(
            key=self.key.public_key,
            signature=self._sign(kind, payload, request_id=request_id, now_ms=now_ms, ref=ref),
            author_time_ms=now_ms,
            payload=payload,
            ref=ref,
        )

    def sign_question(self, question: pb.Question, *, request_id: bytes, now_ms: int) -> ac.SignedQuestion:
        """Sign a question. The signed bytes have the same layout as for a statement, with kind 255 and ref 0."""
        payload = question.SerializeToString(deterministic=True)
        return ac.SignedQuestion(
            question=payload,
            key=self.key.public_key,
            signature=self._sign(codec.QUESTION_KIND, payload, request_id=request_id, now_ms=now_ms, ref=0),
            author_time_ms=now_ms,
            tag=self.tag,
        )

    def _sign(self, kind: int, payload: bytes, *, request_id: bytes, now_ms: int, ref: int) -> bytes:
        message = codec.signed_message(
            origin=self.origin, kind=kind, tag=self.tag, ref=ref, request_id=request_id, author_time_ms=now_ms,
            payload=payload,
        )  # fmt: skip
        return self.key.sign(message)
