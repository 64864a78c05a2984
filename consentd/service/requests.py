"""Parse the fields that requests share: the request_id and the hashed content."""

import hashlib
import struct
from dataclasses import replace

from google.protobuf.message import Message

from consentd import limits
from consentd.errors import InvalidError, OverloadedError
from consentd.sequencer.commands.write import Request

MAX_BATCH_ANSWER = limits.BATCH_ANSWER_BYTES
MAX_QUESTION = limits.QUESTION_BYTES


def make_request(caller: str, request_id: bytes, content: bytes) -> Request:
    """Return a write's ``Request``; *content* is a ``content_hash``. Raises ``InvalidError`` if the id is malformed."""
    if len(request_id) != 16:
        raise InvalidError(f"request_id is not 16 bytes: `{len(request_id)}`", "INVALID_REQUEST_ID")
    key = hashlib.sha256(b"".join((caller.encode(), b"\0", request_id))).digest()
    return Request(request_id, caller, content, key)


def make_signed_request(caller: str, request_id: bytes, content: bytes, *, signer: bytes) -> Request:
    """Return the ``Request`` of a write that a person signed with the key *signer*. Raises as ``make_request``.

    A signature covers the request_id, and not who sends the statement. So the ledger remembers such a request by its
    signer: a statement is recorded once, whoever sends it again.
    """
    # No caller has an id that begins like this.
    by_signer = make_request(f"signed/{signer.hex()}", request_id, content)
    return replace(by_signer, asker=caller)


def content_hash(method: str, *parts: Message | bytes | str) -> bytes:
    """Return the hash of a request's content: SHA-256 of *method*, then of each part's length (u32) and the part.

    A repeat of a request has the same hash. The ledger remembers hashes, so a method must always hash the same parts.
    The ledger's store has them in the clear. So what is about a person has a part that cannot be guessed, as the keyed
    hash of the identifier is: else whoever has a copy of the store could test which person an entry is about.
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


def batch_is_over(limit: str) -> OverloadedError:
    """Return the error of an item that is not answered because the items before it used up a *limit* of the batch.

    A write of the item may be recorded, although an error of this class else means that nothing was.
    """
    again = "send this item again in another batch, a write with the same request_id"
    return OverloadedError(f"batch is over its limit of {limit}: {again}", "BATCH_LIMIT", retry_after_ms=1)
