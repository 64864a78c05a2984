"""Parse what requests have in common: the request_id, the content hash, signed statements, and pages of lists."""

import base64
import hashlib
import struct
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import InvalidError, MalformedError
from consentd.sequencer.commands.write import Request
from consentd.statements import payloads
from consentd.v1 import consent_pb2 as pb

M = TypeVar("M", bound=Message)

MAX_PAGE = 1000
PAGE_BYTES = 1 << 20
"""About the most bytes of a page. Clients refuse responses of more than 4 MiB."""


def make_request(caller: str, request_id: bytes, content: bytes) -> Request:
    """Return the request of a write; *content* is from ``content_hash``. Raises ``InvalidError``."""
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


class Pager:
    """Makes and parses the page tokens of one list. A token is bound to the list, its filter and the caller.

    A token holds a position and the tree size that the first page was read at. *size* is the most items of a page.
    """

    _FORM = struct.Struct(">QQ16s")

    def __init__(self, key: bytes, method: str, caller: str, page_size: int, *selection: Message | bytes | str) -> None:
        """Raise ``InvalidError`` for a negative *page_size*; 0 asks for the largest page."""
        if page_size < 0:
            raise InvalidError(f"page_size is negative: `{page_size}`", "INVALID_PAGE")
        self.size = min(page_size or MAX_PAGE, MAX_PAGE)
        self._key = key
        self._bound = content_hash(method, caller, *selection)

    def token(self, position: int, tree_size: int) -> str:
        """Return the token of the page that begins at *position*."""
        return base64.urlsafe_b64encode(self._FORM.pack(position, tree_size, self._mac(position, tree_size))).decode()

    def parse(self, token: str) -> tuple[int, int]:
        """Return (position, tree size) of a token. Raises ``InvalidError``: INVALID_PAGE."""
        try:
            position, tree_size, mac = self._FORM.unpack(base64.urlsafe_b64decode(token.encode("ascii")))
        except (ValueError, struct.error):
            raise InvalidError("page_token is not one of ours", "INVALID_PAGE") from None
        if mac != self._mac(position, tree_size):
            raise InvalidError("page_token is for another list, filter or caller", "INVALID_PAGE")
        return position, tree_size

    def _mac(self, position: int, tree_size: int) -> bytes:
        message = self._bound + struct.pack(">QQ", position, tree_size)
        return hashlib.blake2b(message, key=self._key, digest_size=16).digest()


def take_page(messages: Iterable[M], most: int) -> tuple[list[M], bool]:
    """Return the first messages, at least one, at most *most*, of about ``PAGE_BYTES``; and whether others follow."""
    page: list[M] = []
    left_bytes = PAGE_BYTES
    for message in messages:
        left_bytes -= message.ByteSize()
        if len(page) == most or (page and left_bytes < 0):
            return page, True
        page.append(message)
    return page, False
