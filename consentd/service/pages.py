"""Make pages of lists, and the tokens that lead from one to the next."""

import base64
import hashlib
import struct
from collections.abc import Iterable

from google.protobuf.message import Message

from consentd.errors import InvalidError
from consentd.service.wire import Caller, content_hash

MAX_PAGE = 1000
PAGE_BYTES = 1 << 20
"""About how large a page gets: clients refuse answers of 4 MiB."""


class Pager:
    """Makes and reads page tokens. A token pins the revision it began at, the filter and the caller."""

    _FORM = struct.Struct(">QQ16s")

    def __init__(self, key: bytes, method: str, caller: Caller, *selection: Message | bytes | str) -> None:
        self._key = key
        self._bound = content_hash(method, caller.id, *selection)

    def token(self, position: int, tree_size: int) -> str:
        """Return the token that leads on from *position*."""
        return base64.urlsafe_b64encode(self._FORM.pack(position, tree_size, self._mac(position, tree_size))).decode()

    def parse(self, token: str) -> tuple[int, int]:
        """Return (position, tree size) of a token of ours.

        Raises:
            InvalidError: it is not, or not for this list, filter and caller.
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
    """Return how many items a page has.

    Raises:
        InvalidError: it is negative.
    """
    if asked < 0:
        raise InvalidError(f"page_size is negative: `{asked}`", "INVALID_PAGE")
    return min(asked or MAX_PAGE, MAX_PAGE)


def page_length(messages: Iterable[Message], most: int) -> int:
    """Return how many of *messages* make a page: at most *most*, about ``PAGE_BYTES`` of them, and one at least."""
    room, count = PAGE_BYTES, 0
    for message in messages:
        room -= message.ByteSize()
        if count == most or (count and room < 0):
            break
        count += 1
    return count
