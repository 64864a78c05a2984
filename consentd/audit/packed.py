"""Pack files into a zip that can be read in one way only, and refuse every other.

A zip says most things twice: each file's local header repeats what the directory at the end says, and readers differ in
which they believe, in what they make of gaps, comments and files that overlap. So here a zip is what its parts say,
from the first byte to the last::

    (local header, content)*  central directory  end record

without gaps, comments, extra fields, encryption, descriptors or ZIP64; each local header says what the directory says;
content is stored or deflated, to its last byte, and has the size and the CRC-32 that are said. Only times, attributes
and the version of the program that packed it are not looked at: they say nothing of what is in it.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping

from consentd.errors import InvalidError, MalformedError

MAX_SIZE = (1 << 31) - 1
"""Most bytes of a zip, unpacked; beyond, it would be another format, ZIP64."""
MAX_RATIO = 64
"""How many times larger a file may be unpacked, beside ``FREE``: a few bytes must not fill a reader's memory."""
FREE = 1 << 20

_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's own; the same files have the same bytes
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4sH5H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_SHARED = slice(4, 28)  # of a local header: version, flags, method, time, CRC-32, sizes and the name's length
_MAX_VERSION = 20
_STORED, _DEFLATED = 0, 8
_CHUNK = 1 << 20


def pack(content: Mapping[str, bytes]) -> bytes:
    """Pack files, by name; the same files have the same bytes.

    Raises:
        InvalidError: they are larger than two gibibytes.
    """
    if sum(map(len, content.values())) > MAX_SIZE:
        raise InvalidError(f"files are larger than `{MAX_SIZE}` bytes together; ask for a smaller scope")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as packed:
        for name, part in content.items():
            packed.writestr(zipfile.ZipInfo(name, _EPOCH), part, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def unpack(content: bytes, *, allowed: Collection[str], unread: Collection[str] = ()) -> dict[str, bytes]:
    """Return the files of a zip, by name.

    Args:
        allowed: names that it may have, each once.
        unread: of these, those that are checked and let go: they are in the answer without content.

    Raises:
        MalformedError: it is not such a zip, or larger than can be.
    """
    end = len(content) - _END.size
    if end < 0:
        raise MalformedError("zip is too short")
    mark, disk, first_disk, here, count, size, at, comment = _END.unpack_from(content, end)
    if mark != b"PK\5\6" or disk or first_disk or here != count or comment:
        raise MalformedError("zip does not end in its end record, or has a comment, or is one of several")
    if at + size != end or count > len(allowed):
        raise MalformedError("zip has something beside its directory, or more files than it may")
    directory, local, total = at, 0, 0
    found: dict[str, bytes] = {}
    for _ in range(count):
        if at + _CENTRAL.size > end:
            raise MalformedError("zip directory is cut short")
        (
            mark, _, version, flags, method, _, _, crc, packed_size, part_size, name_size, extra_size, comment_size,
            disk, _, _, offset,
        ) = _CENTRAL.unpack_from(content, at)  # fmt: skip
        if mark != b"PK\1\2" or extra_size or comment_size or disk:
            raise MalformedError("zip directory is damaged, or has extra fields or comments")
        if version > _MAX_VERSION or flags or method not in (_STORED, _DEFLATED):
            raise MalformedError("zip needs more than a reader of stored and deflated files has")
        name = _name(content[at + _CENTRAL.size : min(at + _CENTRAL.size + name_size, end)], allowed)
        start = local + _LOCAL.size + name_size
        if offset != local or start + packed_size > directory:
            raise MalformedError("zip has a gap, or files that overlap")
        # The directory's entry repeats the local header's fields two bytes further on, its name behind its own.
        header = content[at + 6 : at + 30]
        if (
            content[local : local + 4] != b"PK\3\4"
            or content[local : start][_SHARED] != header
            or content[local + 28 : local + 30] != b"\0\0"
            or content[local + _LOCAL.size : start] != name.encode()
            or name in found
        ):
            raise MalformedError("zip has a file that says otherwise than its directory, or is there twice")
        total += part_size
        if total > MAX_SIZE or (name not in unread and part_size > FREE + MAX_RATIO * packed_size):
            raise MalformedError("zip is larger than can be, unpacked")
        packed = memoryview(content)[start : start + packed_size]
        found[name] = _content(packed, method, part_size, crc, is_kept=name not in unread)
        at, local = at + _CENTRAL.size + name_size, start + packed_size
    if at != end or local != directory:
        raise MalformedError("zip has a gap, or more than its directory says")
    return found


def _name(raw: bytes, allowed: Collection[str]) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        name = ""
    # INVARIANT: a name is compared, never used as a path.
    if name not in allowed:
        raise MalformedError("zip has a file that it should not have")
    return name


def _content(packed: memoryview, method: int, size: int, crc: int, *, is_kept: bool) -> bytes:
    """Return a file's content; one that is not kept is only held against its size and checksum."""
    if method == _STORED:
        if len(packed) != size or zlib.crc32(packed) != crc:
            raise MalformedError("zip has a file of another size or checksum than is said")
        return bytes(packed) if is_kept else b""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, length, computed = [], 0, 0
    pending: bytes | memoryview = packed
    try:
        while not inflating.eof:
            piece = inflating.decompress(pending, _CHUNK)
            pending = inflating.unconsumed_tail
            length, computed = length + len(piece), zlib.crc32(piece, computed)
            if length > size or (not piece and not inflating.eof):
                break
            if is_kept:
                pieces.append(piece)
    except zlib.error as error:
        raise MalformedError("zip has a file that does not inflate") from error
    if not inflating.eof or inflating.unused_data or (length, computed) != (size, crc):
        raise MalformedError("zip has a file of another size or checksum than is said")
    return b"".join(pieces)
