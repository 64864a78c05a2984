"""Change seeds: what a hostile sender does to bytes and texts that are in order."""

import random
import re
from collections.abc import Callable, Sequence

MOST = 1 << 17
"""Longest mutant in bytes; a parser's own limit is reached by ``_repeat``."""
_NUMBERS = (
    0, 1, -1, 2, 127, 128, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, 1 << 64,
)  # fmt: skip
_TOKENS = [
    *(bytes([byte]) for byte in b"\0\n\t\r \"\\{}[],:<>&+=/-#?.%;\x7f\x80\xff"),
    b"\r\n", b"\\u0000", b"\\ud800", b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0.5",
    b"0x1", b"1_000", b"  1", b"1" * 400, b"9" * 4_400, b"[" * 1_200, b'{"a":' * 1_200, b"<a>" * 1_200,
    b"<?xml version='1.1'?>", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"==", b"//",
    b"..", b"%00", b"%s", b"\xc0\x80", b"\xed\xa0\x80", b"\x1b[2J",
    *(text.encode() for text in (
        "\u00e9", "e\u0301", "\u202e", "\u2028", "\u0085", "\u0661\u0662", "\u00b2", "\U0001d7d9", "\u0130", "\u2014",
        "\ufeff", "\u200b", "\uff11",
    )),
]  # fmt: skip
_DIGITS = re.compile(rb"-?[0-9]+")
_NAMES = re.compile(rb'"[A-Za-z_.]+"\s*:\s*("[^"]*"|[0-9]+|true|false|null)')


class Mutator:
    """Makes mutants of seeds; the same *seed* makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # a run must be repeatable
        self._changes: list[Callable[[bytes, Sequence[bytes]], bytes]] = [
            self._flip, self._flip, self._replace, self._insert, self._delete, self._cut, self._splice, self._copy,
            self._length, self._number, self._token, self._token, self._repeat, self._double_name, self._swap,
        ]  # fmt: skip

    def mutant(self, seeds: Sequence[bytes]) -> bytes:
        """Return one of the seeds with one to eight changes; sometimes bytes that no seed had."""
        some = self._random
        if some.random() < 0.02:
            return some.randbytes(some.choice((0, 1, 2, 8, 40, 200)))
        content = some.choice(seeds)
        for _ in range(some.choice((1, 1, 1, 2, 2, 3, 8))):
            content = some.choice(self._changes)(content, seeds)[:MOST]
        return content

    def _at(self, content: bytes) -> int:
        return self._random.randrange(len(content) + 1)

    def _span(self, content: bytes) -> tuple[int, int]:
        start = self._at(content)
        return start, min(len(content), start + self._random.choice((1, 1, 2, 4, 8, 32, 33, 64, 200)))

    def _flip(self, content: bytes, _: Sequence[bytes]) -> bytes:
        if not content:
            return b"\0"
        changed = bytearray(content)
        changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _replace(self, content: bytes, _: Sequence[bytes]) -> bytes:
        start, end = self._span(content)
        return content[:start] + self._random.randbytes(end - start) + content[end:]

    def _insert(self, content: bytes, _: Sequence[bytes]) -> bytes:
        at = self._at(content)
        return content[:at] + self._random.randbytes(self._random.choice((1, 2, 4, 16))) + content[at:]

    def _delete(self, content: bytes, _: Sequence[bytes]) -> bytes:
        start, end = self._span(content)
        return content[:start] + content[end:]

    def _cut(self, content: bytes, _: Sequence[bytes]) -> bytes:
        at = self._at(content)
        return content[:at] if self._random.random() < 0.7 else content[at:]

    def _splice(self, content: bytes, seeds: Sequence[bytes]) -> bytes:
        other = self._random.choice(seeds)
        return content[: self._at(content)] + other[self._at(other) :]

    def _copy(self, content: bytes, _: Sequence[bytes]) -> bytes:
        start, end = self._span(content)
        at = self._at(content)
        return content[:at] + content[start:end] + content[at:]

    def _swap(self, content: bytes, _: Sequence[bytes]) -> bytes:
        """Exchange two lines, or two halves of bytes without lines."""
        lines = content.split(b"\n")
        if len(lines) < 3:
            at = self._at(content)
            return content[at:] + content[:at]
        first, second = self._random.randrange(len(lines)), self._random.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first]
        return b"\n".join(lines)

    def _length(self, content: bytes, _: Sequence[bytes]) -> bytes:
        """Put a number where one of 1, 2, 4 or 8 bytes may be: a length, a count, a version."""
        size = self._random.choice((1, 2, 4, 8))
        at = self._at(content)
        number = self._random.choice(_NUMBERS) % (1 << (8 * size))
        return content[:at] + number.to_bytes(size, self._random.choice(("big", "little"))) + content[at + size :]

    def _number(self, content: bytes, _: Sequence[bytes]) -> bytes:
        """Put another number in the place of a decimal one."""
        found = list(_DIGITS.finditer(content[:20_000]))
        if not found:
            return self._length(content, ())
        one = self._random.choice(found)
        return content[: one.start()] + str(self._random.choice(_NUMBERS)).encode() + content[one.end() :]

    def _token(self, content: bytes, _: Sequence[bytes]) -> bytes:
        start, end = self._span(content) if self._random.random() < 0.5 else (self._at(content),) * 2
        return content[:start] + self._random.choice(_TOKENS) + content[end:]

    def _repeat(self, content: bytes, _: Sequence[bytes]) -> bytes:
        if self._random.random() < 0.8:
            return content
        start, end = self._span(content)
        return content[:end] + content[start:end] * self._random.choice((2, 10, 1_000)) + content[end:]

    def _double_name(self, content: bytes, _: Sequence[bytes]) -> bytes:
        """State a member of a JSON object twice."""
        found = list(_NAMES.finditer(content[:20_000]))
        if not found:
            return self._copy(content, ())
        one = self._random.choice(found)
        return content[: one.end()] + b"," + self._random.choice(found)[0] + content[one.end() :]
