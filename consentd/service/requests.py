"""Parse the parts that write requests have in common: the request_id, the content hash, and signed statements."""

import hashlib
import struct
from typing import TypeVar

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError
from consentd.sequencer.commands.write import Request, SignedEntry, verify_ahead
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb

M = TypeVar("M", bound=Message)


def make_request(caller: str, request_id: bytes, content: bytes) -> Request:
    """Return the request of a write.

    Args:
        content: hash of what is asked; see ``content_hash``.

    Raises:
        InvalidError: the request_id is not 16 bytes.
    """
    if len(request_id) != 16:
        raise InvalidError(f"request_id is not 16 bytes: `{len(request_id)}`", "INVALID_REQUEST_ID")
    key = hashlib.sha256(b"".join((caller.encode(), b"\0", request_id))).digest()
    return Request(request_id, caller, content, key)


def content_hash(method: str, *parts: Message | bytes | str) -> bytes:
    """Hash what a request asks, 32 bytes: SHA-256 of *method*, then of each part after its length as u32.

    A repeat of a request has the same hash. The ledger remembers it, so what is hashed for a method must not change.
    """
    hasher = hashlib.sha256(method.encode())
    for part in parts:
        if isinstance(part, str):
            content = part.encode()
        else:
            content = part if isinstance(part, bytes) else part.SerializeToString(deterministic=True)
        hasher.update(struct.pack(">I", len(content)))
        hasher.update(content)
    return hasher.digest()


def check_batch(count: int, most: int) -> None:
    """Check the length of a batch.

    Raises:
        InvalidError: TOO_LARGE, naming the limit.
    """
    if count > most:
        raise InvalidError(f"batch is over its limit of {most} items: `{count}`", "TOO_LARGE")


def parse_signed(message_type: type[M], signed: pb.SignedStatement) -> M:
    """Parse the payload of a statement that its author signed.

    Raises:
        InvalidError: it is too large, does not decode, or has a field that only the daemon sets or nobody knows.
    """
    if len(signed.payload) > codec.MAX_PAYLOAD:
        raise InvalidError(f"payload is over its limit of {codec.MAX_PAYLOAD} bytes", "TOO_LARGE")
    try:
        message = payloads.parse(message_type, signed.payload)
    except MalformedError as error:
        raise InvalidError("signed statement does not decode") from error
    if message.HasField("attestation"):
        raise InvalidError("a statement its author signed names nobody who attests it")
    payloads.check_no_unknown_fields(message)
    return message


def signed_entry(
    origin: str, kind: EntryKind, tag: bytes, request_id: bytes, signed: pb.SignedStatement
) -> SignedEntry:
    """Return a statement that its author signed, with its signature verified.

    Raises:
        InvalidError: BAD_SIGNATURE.
    """
    statement = codec.Statement(signed.key, signed.signature, request_id, signed.author_time_ms, signed.payload)
    return verify_ahead(origin, SignedEntry(kind, tag, signed.ref, statement))
