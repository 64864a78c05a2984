"""Copy the pages that LMDB writes as its compact copy, without the bytes that belong to no row.

LMDB's compact copy has no freed pages. But three things in it may be left of rows that were deleted:

* the free bytes in the middle of a page: LMDB copies pages into buffers that had other pages before,
* the free bytes after a long value, which has overflow pages of its own, for the same reason,
* the keys in branch pages, which say where a subtree begins. LMDB does not change them when it deletes that first row.

The first two are set to zero. A key of the third kind is replaced by one of the same length that no deleted row had.

The format is that of LMDB 0.9 with 64-bit page numbers, little-endian, as ``mdb.c`` defines it: ``MDB_page``,
``MDB_node``, ``MDB_meta``. A subtree comes before its branch page, and the overflow pages of a leaf before the leaf
(``mdb_env_cwalk``). Whatever has another form raises ``UnknownPageError``; then the rows are copied one by one.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import Struct
from typing import Final

from consentd.errors import CorruptionError

_CHUNK = 1 << 20
"""Bytes that are copied at once: a whole number of pages of any size, and what LMDB writes at once."""
_HEADER: Final = Struct("<QHHHHH")
"""``MDB_page``: page number, pad, flags, bounds of the free bytes, and where the first node is. An overflow page has
the number of its pages in place of the bounds, and no nodes."""
_OFFSETS = 16
"""Where the offsets of the nodes begin in a page, or what a page without nodes has."""
_COUNT: Final = Struct("<I")
_NODE: Final = Struct("<HHHH")
"""``MDB_node``: low and high half of the value's length, flags, length of the key. In a branch page the first three
are the child's page number."""
_PAGE_NUMBER: Final = Struct("<Q")
_OFFSET: Final = Struct("<H")
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_BIG_DATA = 1
"""Flag of a node: the value is in overflow pages."""
_META_PAGES = 2
_LAST_PAGE = 136
"""Where the page of a ``MDB_meta`` has the number of the last page."""
_MAGIC = (0xBEEFC0DE).to_bytes(4, "little") + (1).to_bytes(4, "little")
"""Magic and version of ``MDB_meta``, which follows the header of its page."""


class UnknownPageError(CorruptionError):
    """A page has a form that this module does not know. The file that was written is no copy."""


def copy_clean(
    write_copy: Callable[[int], object], path: Path, *, page_size: int, rest: Callable[[], None] = lambda: None
) -> None:
    """Make the file *path* of a compact copy, without the bytes that belong to no row, and sync it.

    Args:
        write_copy: writes the compact copy to a descriptor. It is called on another thread.
        page_size: of the copy, in bytes.
        rest: called after each MiB, to give way to others.

    Raises:
        UnknownPageError: see the class. If *write_copy* failed, its copy was not whole.
        OSError: the file exists, or cannot be written.
    """
    read_end, write_end = os.pipe()
    with contextlib.suppress(OSError, AttributeError):  # by default 64 KiB: sixteen times as many waits for each other
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _CHUNK)
    with ThreadPoolExecutor(1, thread_name_prefix="table copy") as pool:
        written = pool.submit(_write, write_copy, write_end)
        try:
            with open(path, "xb", buffering=0, opener=_create) as file:
                _clean_all(read_end, file.fileno(), page_size, rest)
                os.fsync(file.fileno())
        finally:
            os.close(read_end)  # after a failure, whoever still writes finds the pipe closed
        written.result()


def _create(name: str, flags: int) -> int:
    return os.open(name, flags, 0o660)  # the mode of the files that LMDB makes


def _write(write_copy: Callable[[int], object], write_end: int) -> None:
    try:
        write_copy(write_end)
    finally:
        os.close(write_end)


def _clean_all(read_end: int, write_end: int, page_size: int, rest: Callable[[], None]) -> None:
    pages = _Pages(write_end, page_size)
    buffer = bytearray(_CHUNK)
    whole = memoryview(buffer)
    while length := _fill(read_end, whole):
        if length % page_size:
            raise UnknownPageError("table copy ends within a page")
        try:
            pages.clean(buffer, length)
        except (struct.error, IndexError) as error:
            raise UnknownPageError("table page has offsets outside of it") from error
        _write_all(write_end, whole[:length])
        pages.clean_tails()
        rest()
    pages.end()


def _fill(descriptor: int, buffer: memoryview) -> int:
    """Read until *buffer* is full, or nothing is left; return how many bytes were read."""
    length = 0
    while length < len(buffer) and (count := os.readv(descriptor, [buffer[length:]])):
        length += count
    return length


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


class _Pages:
    """Cleans pages in the order in which they come."""

    def __init__(self, file: int, page_size: int) -> None:
        self._file, self._size, self._zeros = file, page_size, bytes(page_size)
        self._next = 0  # number of the next page
        self._last = -1  # number of the last page, as the copy states it
        self._skip = 0  # pages of a long value that are still to come
        self._first: dict[int, bytes] = {}  # page number → first key of its subtree, of pages without their branch yet
        self._long: dict[int, int] = {}  # page number → pages of long values, whose leaf is still to come
        self._tails: list[tuple[int, int]] = []  # offset and length in the file of what follows a long value

    def clean(self, buffer: bytearray, length: int) -> None:
        """Clean the pages in the first *length* bytes of a buffer."""
        size, zeros, first = self._size, memoryview(self._zeros), self._first
        for start in range(0, length, size):
            number, self._next = self._next, self._next + 1
            if self._skip:
                self._skip -= 1
                continue
            stated, _, flags, lower, upper, offset = _HEADER.unpack_from(buffer, start)
            if flags not in (_LEAF, _BRANCH) or number < _META_PAGES:
                self._note_other(buffer, start, number)
                continue
            if stated != number or not _OFFSETS < lower <= upper <= offset < size:
                raise UnknownPageError("table page has an unknown form")
            buffer[start + lower : start + upper] = zeros[lower:upper]
            if flags == _BRANCH:
                first[number] = self._clean_keys(buffer, start, lower)
                continue
            if self._long:
                self._find_tails(buffer, start, lower)
            begin = start + offset + _NODE.size
            first[number] = bytes(buffer[begin : begin + buffer[begin - 2] + (buffer[begin - 1] << 8)])

    def _note_other(self, buffer: bytearray, start: int, number: int) -> None:
        """Note a page that has no keys."""
        stated, _, flags, _, _, _ = _HEADER.unpack_from(buffer, start)
        if number < _META_PAGES and flags == _META and buffer[start + _OFFSETS :][: len(_MAGIC)] == _MAGIC:
            (self._last,) = _PAGE_NUMBER.unpack_from(buffer, start + _LAST_PAGE)  # the second of the two counts
            return
        if number < _META_PAGES or stated != number or flags != _OVERFLOW:
            raise UnknownPageError("table page has an unknown form")
        (count,) = _COUNT.unpack_from(buffer, start + 12)
        self._long[number], self._skip = count, count - 1

    def _find_tails(self, buffer: bytearray, start: int, lower: int) -> None:
        """Find where the long values of a leaf end."""
        for at in range(_OFFSETS, lower, _OFFSET.size):
            low, high, flags, _, end = self._node(buffer, start, at)
            if not flags:
                continue
            (number,) = _PAGE_NUMBER.unpack_from(buffer, end)
            used, whole = _OFFSETS + low + (high << 16), self._long.pop(number, 0) * self._size
            if flags != _BIG_DATA or not whole - self._size < used <= whole:
                raise UnknownPageError("table page: long value has an unknown form")
            self._tails.append((number * self._size + used, whole - used))
        if self._long:
            raise UnknownPageError("table page: long value belongs to no leaf")

    def _clean_keys(self, buffer: bytearray, start: int, lower: int) -> bytes:
        """Replace the keys of a branch page that are not those of rows; return the first key of the subtree."""
        found = b""
        for at in range(_OFFSETS, lower, _OFFSET.size):
            low, high, top, begin, end = self._node(buffer, start, at)
            first = self._first.pop(low | high << 16 | top << 32, None)
            if first is None:
                raise UnknownPageError("table page: branch has an unknown child")
            stored = bytes(buffer[begin:end])
            if at == _OFFSETS:
                found = first
                cleaned = bytes(len(stored))  # LMDB does not compare the first key, and mostly leaves it out
            else:
                cleaned = stored if stored == first else _between(stored, first)
            buffer[begin:end] = cleaned
        return found

    def _node(self, buffer: bytearray, start: int, at: int) -> tuple[int, int, int, int, int]:
        """Return three fields of the node whose offset is at *at* of the page at *start*, and where its key is."""
        begin = start + _OFFSET.unpack_from(buffer, start + at)[0] + _NODE.size
        low, high, flags, length = _NODE.unpack_from(buffer, begin - _NODE.size)
        if begin + length > start + self._size:
            raise UnknownPageError("table page has a key that is outside of it")
        return low, high, flags, begin, begin + length

    def clean_tails(self) -> None:
        """Clean the ends of long values. The file has all pages by now that were cleaned."""
        for offset, length in self._tails:
            os.pwrite(self._file, bytes(length), offset)
        self._tails.clear()

    def end(self) -> None:
        """Check that the copy is whole: it has one root, if any, and no part of a value."""
        if self._skip or self._long or len(self._first) > 1 or self._next < _META_PAGES or self._next != self._last + 1:
            raise UnknownPageError("table copy is not whole")


def _between(deleted: bytes, first: bytes) -> bytes:
    """Return a key from *deleted* to *first*, as long as *deleted*, with no byte of it but those that *first* has too.

    All keys on the left are less than *deleted*, so they are less than the result. The result is at most *first*.
    """
    common = next((at for at, (one, other) in enumerate(zip(deleted, first, strict=False)) if one != other), None)
    if common is None and len(deleted) < len(first):
        return deleted  # all of it is a part of a key that a row has
    if common is None or deleted[common] > first[common]:
        raise UnknownPageError("table page: branch has a key that is greater than those on its right")
    return first[:common] + bytes([first[common] - 1]) + b"\xff" * (len(deleted) - common - 1)
