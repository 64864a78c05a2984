"""Parse the fields that requests share: the request_id, the hashed content, and page tokens."""

import base64
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import Message

from consentd import limits
from consentd.errors import InvalidError, OverloadedError
from consentd.sequencer.commands.write import Request

M = TypeVar("M", bound=Message)

MAX_PAGE = limits.PAGE_ITEMS
_MAX_TOKEN = 64
MAX_BATCH_ANSWER = limits.BATCH_ANSWER_BYTES
MAX_QUESTION = limits.QUESTION_BYTES
PAGE_BYTES = 1 << 20
"""The approximate maximum size of a page. Clients refuse responses of more than 4 MiB."""


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


class Pager:
    """Makes and parses the page tokens of one list. A token is bound to the list, its filter and the caller.

    A token holds a position and the tree size at which the first page was read. *size*: the most items in a page.
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
        """Return (position, tree size) of a token. Raises ``InvalidError`` (INVALID_PAGE)."""
        if len(token) > _MAX_TOKEN:
            raise InvalidError(f"page_token is over its limit of {_MAX_TOKEN} characters", "INVALID_PAGE")
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
    """Return the first messages (at least one, at most *most*, about ``PAGE_BYTES``), and whether more follow."""
    page: list[M] = []
    left_bytes = PAGE_BYTES
    for message in messages:
        left_bytes -= message.ByteSize()
        if len(page) == most or (page and left_bytes < 0):
            return page, True
        page.append(message)
    return page, False
