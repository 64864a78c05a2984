"""Read a bundle: all claims, nothing is verified.

Every file of a bundle is lines of JSON objects, and each object has just the names that it should have, each once;
HEX is lower-case; a number is at most 2^53 - 1, so that every reader of JSON holds it alike::

    scope.json      {"format": 1, "origin": TEXT, "size": N, …} and one of "first": N, "last": N / "tag": HEX /
                    "participant": TEXT
    seal.json       {"leaf": HEX, "inclusion": [HEX …]}
    chains.jsonl    {"tag": HEX, "public_name": TEXT, "count": N, "head": HEX, "map_proof": HEX, "entries": N}, and so
                    many lines {"index": N, "leaf": HEX, "opening": HEX | null}; then the next chain
    entries.jsonl   {"index": N, "leaf": HEX, "opening": HEX | null, "inclusion": [HEX …]}
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from consentd.audit import packed
from consentd.core import checkpoint, codec
from consentd.core.history import ChainProof, HistoryEntry
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.errors import MalformedError

FORMAT = 1
WORDS = frozenset({"README.txt", "policy"})
"""Files for people; nothing is read in them."""
NEEDED = frozenset({"checkpoint", "scope.json", "seal.json", "chains.jsonl", "entries.jsonl"})

_MAX_INT = (1 << 53) - 1
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True, slots=True)
class Single:
    """A single entry: where it is said to stand, its leaf and opening, and its inclusion proof."""

    index: int
    entry: HistoryEntry
    inclusion: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """A bundle as it was sent.

    Attributes:
        checkpoint: the signed note, verbatim.
        scope: what it says it was made of, as fields.
        first, last: the range of it; last < first: it is of none.
        asked: the tag of the chain that it is made of; None: of none.
    """

    checkpoint: bytes
    scope: dict[str, Any]
    first: int
    last: int
    asked: bytes | None
    seal: bytes
    seal_inclusion: tuple[bytes, ...]
    chains: tuple[ChainProof, ...]
    singles: tuple[Single, ...]


def read_bundle(content: bytes) -> Claims:
    """Read a bundle.

    Raises:
        MalformedError: it is not one.
    """
    parts = packed.unpack(content, allowed=NEEDED | WORDS, unread=WORDS)
    missing = NEEDED - parts.keys()
    if missing:
        raise MalformedError(f"bundle lacks a file: `{min(missing)}`")
    scope = _read_scope(_only(parts["scope.json"]))
    is_range = "first" in scope
    asked = _bytes(scope, "tag") if "tag" in scope else None
    if "participant" in scope:
        name = _text(scope, "participant")
        if any("\ud800" <= char <= "\udfff" for char in name):  # half a pair, which JSON can write and no text hold
            raise MalformedError("bundle names a participant that none can be")
        asked = codec.public_tag(PARTICIPANT_PREFIX + name)
    seal = _fields(_only(parts["seal.json"]), "leaf", "inclusion")
    return Claims(
        checkpoint=parts["checkpoint"],
        scope=scope,
        first=_int(scope, "first") if is_range else 0,
        last=_int(scope, "last") if is_range else -1,
        asked=asked,
        seal=_bytes(seal, "leaf"),
        seal_inclusion=_hashes(seal),
        chains=tuple(_read_chains(_lines(parts["chains.jsonl"]))),
        singles=tuple(map(_read_single, _lines(parts["entries.jsonl"]))),
    )


def _lines(content: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, one a line, each line ended."""
    if content and not content.endswith(b"\n"):
        raise MalformedError("bundle has a file that does not end in a newline")
    return [_object(line) for line in content.split(b"\n")[:-1]]


def _only(content: bytes) -> dict[str, Any]:
    lines = _lines(content)
    if len(lines) != 1:
        raise MalformedError("bundle has a file of another number of lines than one")
    return lines[0]


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode(), object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise MalformedError("bundle has a line that is not JSON") from error
    if not isinstance(found, dict):
        raise MalformedError("bundle has a line that is not a JSON object")
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("bundle has a name twice in one object")
    return found


def _fields(found: dict[str, Any], *names: str) -> dict[str, Any]:
    if found.keys() != set(names):
        raise MalformedError(f"bundle has a line that is no object of these names: `{' '.join(names)}`")
    return found


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise MalformedError(f"bundle has a field that is not text: `{name}`")
    return value


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    value = fields[name]
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise MalformedError(f"bundle has a field that is not lower-case hexadecimal: `{name}`")
    return bytes.fromhex(value)


def _hashes(fields: dict[str, Any]) -> tuple[bytes, ...]:
    value = fields["inclusion"]
    if not isinstance(value, list) or len(value) > checkpoint.MAX_PROOF_LENGTH:
        raise MalformedError("bundle has an inclusion proof that is none")
    return tuple(_bytes({"inclusion": one}, "inclusion") for one in value)


def _int(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value <= _MAX_INT:
        raise MalformedError(f"bundle has a field that is not a number: `{name}`")
    return value


def _read_scope(found: dict[str, Any]) -> dict[str, Any]:
    more = next((names for names in (("first", "last"), ("tag",)) if names[0] in found), ("participant",))
    scope = _fields(found, "format", "origin", "size", *more)
    if _int(scope, "format") != FORMAT:
        raise MalformedError("bundle is of another version")
    _text(scope, "origin")
    _int(scope, "size")
    if "first" in scope and _int(scope, "first") > _int(scope, "last"):
        raise MalformedError("bundle has a range that is none")
    return scope


def _read_entry(fields: dict[str, Any]) -> HistoryEntry:
    if fields["opening"] is None:
        return HistoryEntry(_bytes(fields, "leaf"), None)
    opening = _bytes(fields, "opening")
    return HistoryEntry(_bytes(fields, "leaf"), (opening[:32], opening[32:]))


def _read_chains(lines: Sequence[dict[str, Any]]) -> list[ChainProof]:
    found, at = [], 0
    while at < len(lines):
        header = _fields(lines[at], "tag", "public_name", "count", "head", "map_proof", "entries")
        count = _int(header, "entries")
        if at + 1 + count > len(lines):
            raise MalformedError("bundle has a chain that ends early")
        entries = [_fields(line, "index", "leaf", "opening") for line in lines[at + 1 : at + 1 + count]]
        for entry in entries:
            _int(entry, "index")
        found.append(
            ChainProof(
                tag=_bytes(header, "tag"), public_name=_text(header, "public_name"), count=_int(header, "count"),
                head=_bytes(header, "head"), map_proof=_bytes(header, "map_proof"),
                first_seq=_int(header, "count") - count + 1,  # those before were pruned, or so it says
                entries=tuple(map(_read_entry, entries)),
            )
        )  # fmt: skip
        at += 1 + count
    return found


def _read_single(line: dict[str, Any]) -> Single:
    fields = _fields(line, "index", "leaf", "opening", "inclusion")
    return Single(_int(fields, "index"), _read_entry(fields), _hashes(fields))
