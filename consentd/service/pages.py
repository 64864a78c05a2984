"""Divide lists into pages, and make the page tokens that clients send to get the next page."""

import base64
import hashlib
import struct
from collections.abc import Iterable

from google.protobuf.message import Message

from consentd.errors import InvalidError
from consentd.service.requests import content_hash

MAX_PAGE = 1000
PAGE_BYTES = 1 << 20
"""About the most bytes of a page. Clients refuse responses of more than 4 MiB."""


class Pager:
    """Makes and parses the page tokens of one list. A token is bound to the list, its filter and the caller.

    A token holds a position and the tree size that the first page was read at.
    """

    _FORM = struct.Struct(">QQ16s")

    def __init__(self, key: bytes, method: str, caller: str, *selection: Message | bytes | str) -> None:
        self._key = key
        self._bound = content_hash(method, caller, *selection)

    def token(self, position: int, tree_size: int) -> str:
        """Return the token of the page that begins at *position*."""
        return base64.urlsafe_b64encode(self._FORM.pack(position, tree_size, self._mac(position, tree_size))).decode()

    def parse(self, token: str) -> tuple[int, int]:
        """Return (position, tree size) of a token.

        Raises:
            InvalidError: INVALID_PAGE: it was not made here, or for another list, filter or caller.
        """
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


def page_size(asked: int) -> int:
    """Return the most items of a page, for the page_size that a request asks for; 0 asks for the largest.

    Raises:
        InvalidError: it is negative.
    """
    if asked < 0:
        raise InvalidError(f"page_size is negative: `{asked}`", "INVALID_PAGE")
    return min(asked or MAX_PAGE, MAX_PAGE)


def page_length(messages: Iterable[Message], most: int) -> int:
    """Return how many of *messages* fit a page: at least one, at most *most*, and about ``PAGE_BYTES``."""
    left_bytes, count = PAGE_BYTES, 0
    for message in messages:
        left_bytes -= message.ByteSize()
        if count == most or (count and left_bytes < 0):
            break
        count += 1
    return count
