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

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from consentd.errors import CorruptionError

_CHUNK = 1 << 20
"""Bytes that are cleaned at once: a whole number of pages of any size."""
_HEADER: Final = Struct("<QHHHHH")
"""``MDB_page``: page number, pad, flags, bounds of the free bytes, and where the first node is. An overflow page has
the number of its pages in place of the bounds, and no nodes."""
_FIELDS = (10, 12, 14, 16)
"""Where a page has its flags, the bounds of its free bytes, and the offset of its first node, 16 bits each."""
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

    First the copy is written, then it is read again and cleaned: through a pipe between the two, this takes more
    processor time. A crash in between leaves a file that nobody has read; the caller deletes it.

    Args:
        write_copy: writes the compact copy to a descriptor.
        page_size: of the copy, in bytes.
        rest: called after each MiB, to give way to others.

    Raises:
        UnknownPageError: see the class. What *write_copy* raises is raised as it is.
        OSError: the file exists, or cannot be read or written.
    """
    with open(path, "xb+", buffering=0, opener=_create) as file:
        write_copy(file.fileno())
        _clean_all(file.fileno(), page_size, rest)
        os.fsync(file.fileno())


def _create(name: str, flags: int) -> int:
    return os.open(name, flags, 0o660)  # the mode of the files that LMDB makes


def _clean_all(file: int, page_size: int, rest: Callable[[], None]) -> None:
    pages = _Pages(file, page_size)
    buffer = bytearray(_CHUNK)
    whole = memoryview(buffer)
    start = 0
    while length := _read(file, whole, start):
        if length % page_size:
            raise UnknownPageError("table copy ends within a page")
        before = bytes(buffer)
        try:
            pages.clean(buffer, length)
        except (struct.error, IndexError) as error:
            raise UnknownPageError("table page has offsets outside of it") from error
        if buffer != before:  # most are clean since the last copy: what is not written need not be synced
            _write_all(file, whole[:length], start)
        pages.clean_tails()
        start += length
        rest()
    pages.end()


def _read(file: int, buffer: memoryview, start: int) -> int:
    """Read from *start* until *buffer* is full, or nothing is left; return how many bytes were read."""
    length = 0
    while length < len(buffer) and (count := os.preadv(file, [buffer[length:]], start + length)):
        length += count
    return length


def _write_all(file: int, content: memoryview, start: int) -> None:
    while content:
        count = os.pwrite(file, content, start)
        content, start = content[count:], start + count


class _Pages:
    """Cleans pages in the order in which they come.

    A subtree comes before its branch page. So the children of a branch page are the last pages that have none yet.
    """

    def __init__(self, file: int, page_size: int) -> None:
        self._file, self._size, self._zeros = file, page_size, bytes(page_size)
        self._next = 0  # number of the next page
        self._last = -1  # number of the last page, as the copy states it
        self._skip = 0  # pages of a long value that are still to come
        # The pages without their branch yet, in order: the number of each, and the first key of its subtree.
        self._numbers: list[int] = []
        self._firsts: list[bytearray] = []
        self._long: dict[int, int] = {}  # page number → pages of long values, whose leaf is still to come
        self._tails: list[tuple[int, int]] = []  # offset and length in the file of what follows a long value

    def clean(self, buffer: bytearray, length: int) -> None:
        """Clean the pages in the first *length* bytes of a buffer.

        A large table has a leaf for each ten rows. So the fields of all pages are read at once, by their place.
        """
        size, zeros, numbers, firsts = self._size, memoryview(self._zeros), self._numbers, self._firsts
        for start, (stated, flags, lower, upper, offset) in zip(
            range(0, length, size), self._headers(buffer, length), strict=True
        ):
            number, self._next = self._next, self._next + 1
            if self._skip:
                self._skip -= 1
                continue
            if flags not in (_LEAF, _BRANCH) or number < _META_PAGES:
                self._note_other(buffer, start, number)
                continue
            if stated != number or not _OFFSETS < lower <= upper <= offset < size:
                raise UnknownPageError("table page has an unknown form")
            buffer[start + lower : start + upper] = zeros[lower:upper]
            if flags == _BRANCH:
                first = self._clean_keys(buffer, start, lower)
            else:
                if self._long:
                    self._find_tails(buffer, start, lower)
                begin = start + offset + _NODE.size
                first = buffer[begin : begin + (buffer[begin - 2] | buffer[begin - 1] << 8)]
            numbers.append(number)
            firsts.append(first)

    def _headers(self, buffer: bytearray, length: int) -> "Iterator[tuple[int, int, int, int, int]]":
        """Return of each page its number, flags, bounds of the free bytes, and where the first node is."""
        size = self._size
        with memoryview(buffer) as whole, whole[:length] as pages, pages.cast("Q") as longs, pages.cast("H") as words:
            shorts = [words[at // 2 :: size // 2].tolist() for at in _FIELDS]
            return zip(longs[:: size // 8].tolist(), *shorts, strict=True)

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
            begin = start + _OFFSET.unpack_from(buffer, start + at)[0] + _NODE.size
            low, high, flags, length = _NODE.unpack_from(buffer, begin - _NODE.size)
            self._check_key(start, begin + length)
            if not flags:
                continue
            (number,) = _PAGE_NUMBER.unpack_from(buffer, begin + length)
            used, whole = _OFFSETS + low + (high << 16), self._long.pop(number, 0) * self._size
            if flags != _BIG_DATA or not whole - self._size < used <= whole:
                raise UnknownPageError("table page: long value has an unknown form")
            self._tails.append((number * self._size + used, whole - used))
        if self._long:
            raise UnknownPageError("table page: long value belongs to no leaf")

    def _clean_keys(self, buffer: bytearray, start: int, lower: int) -> bytearray:
        """Replace the keys of a branch page that are not those of rows; return the first key of the subtree."""
        count = (lower - _OFFSETS) // _OFFSET.size
        numbers, firsts = self._numbers[-count:], self._firsts[-count:]
        if len(numbers) != count:
            raise UnknownPageError("table page: branch has an unknown child")
        del self._numbers[-count:], self._firsts[-count:]
        for at, number, first in zip(range(_OFFSETS, lower, _OFFSET.size), numbers, firsts, strict=True):
            begin = start + (buffer[start + at] | buffer[start + at + 1] << 8) + _NODE.size
            low, high, top, length = _NODE.unpack_from(buffer, begin - _NODE.size)
            self._check_key(start, begin + length)
            if low | high << 16 | top << 32 != number:
                raise UnknownPageError("table page: branch has an unknown child")
            stored = buffer[begin : begin + length]
            if at == _OFFSETS:
                buffer[begin : begin + length] = bytes(length)  # LMDB does not compare the first key
            elif stored != first:
                buffer[begin : begin + length] = _between(bytes(stored), bytes(first))
        return firsts[0]

    def _check_key(self, start: int, end: int) -> None:
        if end > start + self._size:
            raise UnknownPageError("table page has a key that is outside of it")

    def clean_tails(self) -> None:
        """Clean the ends of long values. The file has all pages by now that were cleaned."""
        for offset, length in self._tails:
            os.pwrite(self._file, bytes(length), offset)
        self._tails.clear()

    def end(self) -> None:
        """Check that the copy is whole: it has one root, if any, and no part of a value."""
        is_part = self._skip or self._long or len(self._numbers) > 1
        if is_part or self._next < _META_PAGES or self._next != self._last + 1:
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
