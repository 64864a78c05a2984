"""Zip files of bundles that are damaged, that can be read in more than one way, or that would be large."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cases.audits import LOG, ORIGIN
from cases.vectors_case import Vector
from consentd.core import note

VKEY = note.format_vkey(LOG.verifier)
PINS = {"origin": ORIGIN, "log_key": VKEY}
Parts = dict[str, bytes]
"""The files of a bundle, by name."""
WORDS = ("README.txt", "policy")
"""Files that nothing is read in."""


def vector(name: str, want: str, content: bytes, **under: Any) -> Vector:
    return Vector(kind="bundle", name=name, want=want, content=content, under={**PINS, **under})


def unzipped(content: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(parts: Parts, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return zipped_as([(name, part, method) for name, part in parts.items()])


def zipped_as(files: list[tuple[str, bytes, int]]) -> bytes:
    """Zip files in this order, whatever their names."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        for name, part, method in files:
            info = zipfile.ZipInfo("x", (1980, 1, 1, 0, 0, 0))
            info.filename = name  # past what ZipInfo makes of it
            info.compress_type = method
            file.NameToInfo.clear()  # a name that is there twice is no warning here
            file.writestr(info, part)
    return whole.getvalue()


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a file stands in a zip: its local header, its packed content, its entry in the directory."""

    name: str
    local: int
    content: int
    packed: int
    entry: int


def slots(content: bytes) -> list[Slot]:
    count, _, at = struct.unpack_from("<HII", content, len(content) - 12)
    found = []
    for _ in range(count):
        packed, name_size, local = (
            *struct.unpack_from("<I", content, at + 20), *struct.unpack_from("<H", content, at + 28),
            *struct.unpack_from("<I", content, at + 42),
        )  # fmt: skip
        name = content[at + 46 : at + 46 + name_size].decode()
        found.append(Slot(name, local, local + 30 + name_size, packed, at))
        at += 46 + name_size
    return found


def changed_bytes(name: str, content: bytes, told: str, every: int) -> Iterator[Vector]:
    """Yield the file with a bit flipped here and there; cut here and there."""
    rng = random.Random(len(name))
    silent: set[int] = set()  # who made it, its attributes
    unused: set[int] = set()  # DEFLATE may end within a byte, whose other bits are nobody's
    for slot in slots(content):
        silent |= {slot.entry + at for at in (4, 5, *range(36, 42))}
        unused.add(slot.content + slot.packed - 1)
    for at in range(rng.randrange(every), len(content), every):
        if at in unused:
            continue
        bit = 1 << rng.randrange(8)
        want = told if at in silent else "malformed"
        damaged = content[:at] + bytes((content[at] ^ bit,)) + content[at + 1 :]
        yield vector(f"flip a bit of byte {at} in {name}", want, damaged)
    for at in range(0, len(content), max(every, 97)):
        yield vector(f"cut {name} at {at}", "malformed", content[:at])
        yield vector(f"{name} without its first {at + 1}", "malformed", content[at + 1 :])


def patched(content: bytes, *places: tuple[int, str, int]) -> bytes:
    """Return a copy with numbers (``struct`` format) put in places."""
    made = bytearray(content)
    for at, form, value in places:
        struct.pack_into("<" + form, made, at, value)
    return bytes(made)


def changed_zips(name: str, content: bytes) -> Iterator[Vector]:
    """Yield zips that are damaged, or that can be read in more than one way."""
    parts = unzipped(content)
    stored = [(each, part, zipfile.ZIP_STORED) for each, part in parts.items()]

    def bad(what: str, made: bytes) -> Vector:
        return vector(f"{name}: zip {what}", "malformed", made)

    for each, part in parts.items():
        twice = [*stored, (each, part, zipfile.ZIP_STORED)]
        yield bad(f"with {each} twice", zipped_as(twice))
        yield bad(f"with {each} twice, otherwise", zipped_as([*stored, (each, part + b"\n", zipfile.ZIP_STORED)]))
    for strange in (
        "../checkpoint", "/checkpoint", "./checkpoint", "x/../checkpoint", "checkpoint/", "C:\\checkpoint",
        "..\\checkpoint", "Checkpoint", "checkpoint ", "checkpoint\0", "checkpoint\0x", "", ".", "체크포인트",
        "chains.jsonl.", "__proto__", "policy.txt", "a" * 65535,
    ):  # fmt: skip
        yield bad(f"with {strange[:20]!r} too", zipped_as([*stored, (strange, b"", zipfile.ZIP_STORED)]))
        instead = [(strange if each == "checkpoint" else each, part, method) for each, part, method in stored]
        # zipfile reads a name only to its first NUL.
        yield bad(f"with {strange[:20]!r} instead", zipped_as(instead))
    yield vector(f"{name}: zip in another order", "ok", zipped_as(stored[::-1]))
    yield vector(f"{name}: zip without words", "ok", zipped_as([one for one in stored if one[0] not in WORDS]))
    for method, what in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        other = [(each, part, method if each == "chains.jsonl" else zipfile.ZIP_STORED) for each, part, _ in stored]
        yield bad(f"compressed with {what}", zipped_as(other))
    yield bad("with something before it", b"#!/bin/sh\n" + content)
    yield bad("with something behind it", content + b"x")
    yield bad("with another behind it", content * 2)
    yield bad("behind another", zipped({}) + content)
    yield bad("of nothing", zipped({}))
    end = len(content) - 22
    yield bad("with a comment", patched(content, (end + 20, "H", 1)) + b"x")
    yield bad("with a comment of a zip", patched(content, (end + 20, "H", 22)) + content[end:])
    yield bad("with a comment that is missing", patched(content, (end + 20, "H", 1)))
    yield bad("with a gap before its directory", moved_directory(content, b"\0" * 7))
    yield bad("with a zip hidden before its directory", moved_directory(content, zipped({})))
    whole = zipped(parts, zipfile.ZIP_STORED)
    for slot in slots(whole):
        each, local, entry = slot.name, slot.local, slot.entry
        size = len(parts[each])
        for where, base in (("local", local + 14), ("directory", entry + 16)):
            yield bad(f"with a wrong CRC of {each}, {where}", patched(whole, (base, "I", 7)))
            for more in (-1, 1, 1 << 31):
                sized = patched(whole, (base + 4, "I", max(0, size + more)))
                yield bad(f"with {each} packed {more} larger, {where}", sized)
                sized = patched(whole, (base + 8, "I", max(0, size + more)))
                yield bad(f"with {each} unpacked {more} larger, {where}", sized)
        crc = zlib.crc32(parts[each]) ^ 1
        both = patched(whole, (local + 14, "I", crc), (entry + 16, "I", crc))
        yield bad(f"with a wrong CRC of {each}", both)
        for flags, what in ((1, "encrypted"), (8, "with a descriptor"), (0x40, "strongly encrypted"), (0x800, "UTF-8")):
            both = patched(whole, (local + 6, "H", flags), (entry + 8, "H", flags))
            yield bad(f"with {each} {what}", both)
        for version in (45, 63, 99):
            both = patched(whole, (local + 4, "H", version), (entry + 6, "H", version))
            yield bad(f"with {each} of version {version}", both)
        yield bad(f"with {each} on disk 1", patched(whole, (entry + 34, "H", 1)))
        yield bad(f"with {each} elsewhere", patched(whole, (entry + 42, "I", local + 1)))
        time = patched(whole, (entry + 12, "H", 1))
        yield bad(f"with {each} of two times", time)
        time = patched(whole, (local + 10, "I", 0x12345678), (entry + 12, "I", 0x12345678))
        yield vector(f"{name}: zip with {each} of another time", "ok", time)
        other = slots(whole)[0 if slot.local else 1]
        yield bad(f"with {each} where another is", patched(whole, (entry + 42, "I", other.local)))
    lines = [("one.jsonl" if each == "entries.jsonl" else each, part, method) for each, part, method in stored]
    named = zipped_as(lines).replace(b"one.jsonl", b"one.jsonX", 1)
    yield bad("with a name that its directory does not have", named)
    deep = [(each, part, zipfile.ZIP_DEFLATED) for each, part, _ in stored]
    packed = zipped_as(deep)
    for slot in slots(packed):
        # A deflated file that ends before its packed content does, or goes on behind what it says.
        longer = inserted(packed, slot, b"\0")
        yield bad(f"with {slot.name} packed with something behind it", longer)
    many = patched(content, (end + 8, "H", 3), (end + 10, "H", 3))
    yield bad("that counts fewer files than it has", many)
    many = patched(content, (end + 8, "H", 9), (end + 10, "H", 9))
    yield bad("that counts more files than it has", many)


def moved_directory(content: bytes, gap: bytes) -> bytes:
    """Put *gap* between the last file and the directory."""
    at = struct.unpack_from("<I", content, len(content) - 6)[0]
    made = content[:at] + gap + content[at:]
    return patched(made, (len(made) - 6, "I", at + len(gap)))


def inserted(content: bytes, slot: Slot, more: bytes) -> bytes:
    """Put *more* behind a file's packed content, with all that says how long it is."""
    end = slot.content + slot.packed
    made = content[:end] + more + content[end:]
    grown = len(more)
    places = [(slot.local + 18, "I", slot.packed + grown)]
    for other in slots(content):
        entry = other.entry + grown
        if other.name == slot.name:
            places.append((entry + 20, "I", slot.packed + grown))
        if other.local > slot.local:
            places.append((entry + 42, "I", other.local + grown))
    directory = struct.unpack_from("<I", content, len(content) - 6)[0]
    return patched(made, *places, (len(made) - 6, "I", directory + grown))


def bombs(name: str, content: bytes) -> Iterator[Vector]:
    """Yield files that are small, and would be large."""
    parts = unzipped(content)

    def bad(what: str, made: bytes) -> Vector:
        return vector(f"{name}: bomb {what}", "malformed", made)

    large = bytes(40 << 20)
    for each in ("README.txt", "entries.jsonl"):
        swollen = zipped({**parts, each: large})
        if each in WORDS:
            yield vector(f"{name}: bomb of 40 MiB in {each}, which is within bounds", "ok", swollen)
        else:
            yield bad(f"of 40 MiB in {each}", swollen)
        (slot,) = (slot for slot in slots(swollen) if slot.name == each)
        for said in (0, 10, (40 << 20) - 1, (40 << 20) + 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1):
            crc = zlib.crc32(large[:said]) if said <= len(large) else 0
            sizes = ((slot.local + 22, "I", said), (slot.entry + 24, "I", said))
            yield bad(f"in {each}, said to be {said}", patched(swollen, *sizes))
            crcs = ((slot.local + 14, "I", crc), (slot.entry + 16, "I", crc))
            yield bad(f"in {each}, said to be {said}, with that CRC", patched(swollen, *sizes, *crcs))
    small = zipped(parts)
    sizes = [(slot.local + 22, "I", (1 << 32) - 2) for slot in slots(small)]
    sizes += [(slot.entry + 24, "I", (1 << 32) - 2) for slot in slots(small)]
    yield bad("of sizes that nothing has", patched(small, *sizes))
    # Each file of the directory has the same content: 42.zip's trick.
    first = slots(small)[0]
    shared = [(slot.entry + 42, "I", first.local) for slot in slots(small)]
    yield bad("of files that overlap", patched(small, *shared))
    nested = {**parts, "entries.jsonl": b"[" * 100_000 + b"\n"}
    yield bad("of brackets", zipped(nested))
    nested = {**parts, "entries.jsonl": b'{"index":' * 5_000 + b"1" + b"}" * 5_000 + b"\n"}
    yield bad("of objects", zipped(nested))
    yield bad("of digits", zipped({**parts, "scope.json": b'{"size":' + b"9" * 5_000 + b"}\n"}))
