"""Read lists a page at a time: page tokens, the limits of a page, and what may change between two pages.

A list reads every page at the revision of its first page. Its page token says which revision that is, and after which
item the next page begins. The token is bound to the method, the caller and the whole request but for ``page_size``, so
it continues only the list that it was made for. A list over many persons has another token (``Pager.place_token``):
each of its pages shows its own state, and the token says after which person the next one begins, encrypted.

A page reads at most ``MAX_EXAMINED`` items. If a filter selects few of them, a page may be short or empty and still
have a next page (AIP-158).
"""

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from consentd import limits
from consentd.errors import AbortedError, InvalidError, StorageError
from consentd.ledger import layout, retention
from consentd.service.requests import content_hash
from consentd.store import Store
from consentd.table.persons import START, Place

M = TypeVar("M", bound=Message)

MAX_PAGE = limits.PAGE_ITEMS
PAGE_BYTES = 1 << 20
"""The approximate maximum size of a page. Clients refuse responses of more than 4 MiB."""
MAX_EXAMINED = limits.PAGE_READS
"""Most items that a page reads, selected or not. 2,000 statements of persons take about 50 ms."""
NO_END_MS = (1 << 63) - 1
"""End of a range of times that has none."""
PAGE_KEY_LABEL = b"consentd/page-key/v1\0"
"""What the key of page tokens is derived for; see ``Vault.derived_key``."""
PLACE_LABEL = b"consentd/page-place/v1\0"
"""Begins what the key streams of ``Pager.place_token`` are computed from, so that none of them is a MAC."""
_MAX_TOKEN = 96
_MAC_SIZE = 16
_FORM = struct.Struct(">QQQQ16s")
_PLACE = struct.Struct(">32sQ")


class Cursor(NamedTuple):
    """What a page token says: where the next page begins, and the state that all pages of the list read.

    Attributes:
        position: the last item that was read; the meaning is that of the list.
        tree_size: size of the tree whose entries the list reads.
        time_ms: the instant at which the list shows states that change with time, UTC ms; 0: it shows none.
        mark: what must not have changed since the first page: ``pruned_mark``, or the generation of the registry.
    """

    position: int
    tree_size: int
    time_ms: int = 0
    mark: int = 0


class Pager:
    """Makes and parses the page tokens of one request. *size*: the most items in a page."""

    def __init__(self, key: bytes, caller: str, request: Any, *, tag: bytes = b"") -> None:
        """Take a request with ``page_size`` and ``page_token``.

        Args:
            tag: the chain that the list reads, if it reads one. A person that was erased and enrols again has another.

        Raises:
            InvalidError: (INVALID_PAGE) page_size is negative.
        """
        if request.page_size < 0:
            raise InvalidError(f"page_size is negative: `{request.page_size}`", "INVALID_PAGE")
        self.size = min(request.page_size or MAX_PAGE, MAX_PAGE)
        self._key = key
        self._token = request.page_token
        selection = type(request)()
        selection.CopyFrom(request)
        selection.ClearField("page_size")
        selection.ClearField("page_token")
        self._bound = content_hash(request.DESCRIPTOR.full_name, caller, selection, tag)

    def cursor(self, tree_size: int) -> Cursor | None:
        """Return what the request's token says; None: it asks for the first page. *tree_size*: the ledger's now.

        Raises:
            InvalidError: (INVALID_PAGE) the token was not made for this request and caller, or not with this key.
            AbortedError: (PAGE_EXPIRED) the ledger is smaller than at the first page, so it was restored since.
        """
        if not self._token:
            return None
        try:
            *numbers, mac = _FORM.unpack(self._decoded())
        except struct.error:
            raise _not_ours() from None
        cursor = Cursor(*numbers)
        _check_mac(mac, self._mac(struct.pack(">QQQQ", *cursor)))
        if cursor.tree_size > tree_size:
            raise expired("ledger was restored")
        return cursor

    def token(self, cursor: Cursor) -> str:
        """Return the token of the page that begins after *cursor*."""
        return base64.urlsafe_b64encode(_FORM.pack(*cursor, self._mac(struct.pack(">QQQQ", *cursor)))).decode()

    def place(self) -> Place:
        """Return where the page of a list over many persons begins. Raises ``InvalidError`` as ``cursor``."""
        if not self._token:
            return START
        decoded = self._decoded()
        if len(decoded) != _MAC_SIZE + _PLACE.size:
            raise _not_ours()
        mac, sealed = decoded[:_MAC_SIZE], decoded[_MAC_SIZE:]
        encoded = self._masked(sealed, mac)
        _check_mac(mac, self._mac(encoded))
        return Place(*_PLACE.unpack(encoded))

    def place_token(self, place: Place) -> str:
        """Return the token of the page that begins after *place*.

        The place may be a person whom the list does not show to its caller. So it is encrypted: the MAC is the nonce
        of the key stream (the construction of SIV, RFC 5297), and the same place of the same list has the same token.
        """
        encoded = _PLACE.pack(*place)
        mac = self._mac(encoded)
        return base64.urlsafe_b64encode(mac + self._masked(encoded, mac)).decode()

    def _masked(self, text: bytes, nonce: bytes) -> bytes:
        """Return *text* encrypted, or decrypted."""
        stream = hmac.digest(self._key, PLACE_LABEL + self._bound + nonce, hashlib.sha512)
        return bytes(one ^ other for one, other in zip(text, stream, strict=False))

    def _decoded(self) -> bytes:
        if len(self._token) > _MAX_TOKEN:
            raise InvalidError(f"page_token is over its limit of {_MAX_TOKEN} characters", "INVALID_PAGE")
        try:
            return base64.urlsafe_b64decode(self._token.encode("ascii"))
        except ValueError:
            raise _not_ours() from None

    def _mac(self, encoded: bytes) -> bytes:
        return hmac.digest(self._key, self._bound + encoded, hashlib.sha256)[:_MAC_SIZE]


def _not_ours() -> InvalidError:
    return InvalidError("page_token is not one of ours", "INVALID_PAGE")


def _check_mac(given: bytes, right: bytes) -> None:
    if not hmac.compare_digest(given, right):
        raise InvalidError("page_token is for another list, filter or caller; begin again", "INVALID_PAGE")


def read_range(request: Any) -> tuple[int, int]:
    """Return the half-open range of times that a request selects, UTC ms: [start, end). An open end is ``NO_END_MS``.

    Raises:
        InvalidError: a time is negative, or the range is empty.
    """
    start_ms, end_ms = request.start_time_ms, request.end_time_ms or NO_END_MS
    if start_ms < 0 or end_ms <= start_ms:
        raise InvalidError("start_time_ms and end_time_ms are no range of times: the end must be after the start")
    return start_ms, end_ms


def take_page(items: Iterable[tuple[int, M | None]], most: int) -> tuple[list[M], int | None]:
    """Return the first messages, and the position after which the next page begins; None: there is no further item.

    A page has at most *most* messages and about ``PAGE_BYTES``, but at least one message if one is found in time.

    Args:
        items: positions with messages; None in place of a message: the filter does not select the item.
    """
    page: list[M] = []
    left_bytes, last = PAGE_BYTES, None
    for examined, (position, message) in enumerate(items, 1):
        if message is not None:
            left_bytes -= message.ByteSize()
            if len(page) == most or (page and left_bytes < 0):
                return page, last
            page.append(message)
        last = position
        if examined >= MAX_EXAMINED:
            return page, last
    return page, None


def expired(what: str) -> AbortedError:
    """Return the error for a token whose revision cannot be read any more."""
    return AbortedError(f"{what} since the first page: begin again without page_token", "PAGE_EXPIRED")


def pruned_mark(store: Store) -> int:
    """Return a number that changes when a pruning begins, and when it ends; 0 if nothing was ever pruned."""
    row = store.get(layout.PRUNED)
    return 0 if row is None else int.from_bytes(hashlib.sha256(row).digest()[:8])


class Deletions:
    """Decides whether a list may pass over an entry of which something is deleted.

    A pruning deletes over some time, and no entry says which of its deletions came before a page. So a later page may
    pass over such an entry only if all prunings had ended before the first page.
    """

    def __init__(self, store: Store, cursor: Cursor | None) -> None:
        self._store = store
        self._cursor = cursor
        self.mark = pruned_mark(store) if cursor is None else cursor.mark

    def check_chain(self, tag: bytes) -> None:
        """Check that no leaf of a person's chain was deleted since the first page. Call this after the page was read.

        Entries of the chain that are found by their reference rows are not missed if they are deleted, so ``pass_over``
        is not called for them. Raises as ``pass_over``.
        """
        is_same = self.mark == pruned_mark(self._store)
        if is_same and (self._cursor is None or retention.is_finished(self._store)):
            return
        second = self._store.get(layout.index_key(tag, 2))
        # Only leaves below the minimum index are deleted, and never the first one of a chain.
        if second is None or layout.decode_u64(second) < retention.read_pruned(self._store).minimum:
            self.pass_over()

    def pass_over(self) -> None:
        """Pass over an entry that is deleted, in part or wholly.

        Raises:
            AbortedError: (PAGE_EXPIRED) it may have been deleted after the first page was read.
            StorageError: a pruning began during this call.
        """
        if self.mark != pruned_mark(self._store):
            if self._cursor is None:
                raise StorageError("entries were pruned while they were read; repeat the call")
            raise expired("entries were pruned")
        if self._cursor is not None and not retention.is_finished(self._store):
            raise expired("entries were pruned")
