"""Sign statements with one's own key, so that not even the daemon could have made them.

The signature covers the ledger, the kind, the person's tag, the entry relied on, the request and the time
(ledger-format.md, "Statement"). The tag is the one returned by ``enrol`` and pinned since; a daemon that puts the
statement into another chain is refused by every verifier.
"""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.errors import InvalidError
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """A key of a person or a participant, with what its signatures are bound to.

    Attributes:
        key: whose public half a KEY entry put in force.
        origin: the ledger's name.
        tag: the chain that is written to: the person's, 32 bytes.
    """

    key: KeyPair
    origin: str
    tag: bytes = field(repr=False)

    def sign(
        self, kind: int, message: Message, *, request_id: bytes, now_ms: int, ref: int = 0
    ) -> pb.SignedStatement:
        """Sign the statement *message* of an entry of *kind* that relies on entry *ref* of the chain (0: none).

        Raises:
            InvalidError: it is over 16 KiB.
        """
        payload = message.SerializeToString(deterministic=True)
        if len(payload) > codec.MAX_PAYLOAD:
            raise InvalidError(f"payload is over its limit of {codec.MAX_PAYLOAD} bytes: `{len(payload)}`", "TOO_LARGE")
        return pb.SignedStatement(
            key=self.key.public_key,
            signature=self._sign(kind, payload, request_id=request_id, now_ms=now_ms, ref=ref),
            author_time_ms=now_ms,
            payload=payload,
            ref=ref,
        )

    def sign_question(self, question: pb.Question, *, request_id: bytes, now_ms: int) -> ac.SignedQuestion:
        """Sign a question: the entry layout with kind 255 and ref 0."""
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
            origin=self.origin,
            kind=kind,
            tag=self.tag,
            ref=ref,
            request_id=request_id,
            author_time_ms=now_ms,
            payload=payload,
        )
        return self.key.sign(message)
