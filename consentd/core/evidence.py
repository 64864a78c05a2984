"""Parse and format evidence: one JSON file that contains ledger entries and all data that proves them.

A saved history and an auditor's evidence have one format. Source: evidence-format.md. Nothing in a file is trusted;
``consentd.statements.evidence`` verifies it. The format is strict, so that all readers accept the same files.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consentd import limits
from consentd.core import codec, merkle, note
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, RotationProof
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.note import NoteVerifier, Verifier
from consentd.core.strict_json import parse_json
from consentd.errors import MalformedError

FORMAT = "consentd/evidence/v2"
ROTATIONS_FORMAT = "consentd/rotations/v1"
ROTATIONS_FILE = "rotations"
"""Path of the file in which a ledger publishes the last checkpoints of earlier log keys, beside its tiles."""
MAX_SIZE = limits.EVIDENCE_BYTES
"""The largest file, in bytes. The longest stream that a client accepts (256 MiB) fits into such a file as base64."""
MAX_NESTING = 8
"""The deepest nesting of arrays and objects. The format itself needs seven levels."""
BYTES_PER_MARK = 24
"""The fewest bytes of a file for each list, object and comma in it, beside ``FREE_MARKS``. Leaves, hashes and
statements are so long that a file of entries has at least 30."""
FREE_MARKS = 1000
MAX_HASHES = 64
"""The largest number of hashes in one proof."""

_MAX_INTEGER = (1 << 53) - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The entries that a file claims to contain, by exactly one of: range of indexes, tag, participant.

    Attributes:
        first, last: every entry from index *first* to index *last*, both included; last < first: not set.
        tag: the whole chain of this tag, 32 bytes; empty: not set.
        participant: the whole public chain of this participant, and single entries in which the participant takes
            part; empty: not set. Nothing proves that the single entries are complete.
    """

    first: int = 0
    last: int = -1
    tag: bytes = b""
    participant: str = ""

    @property
    def chain(self) -> bytes:
        """The tag of the chain that the scope names; b"" if the scope is a range."""
        return codec.public_tag(PARTICIPANT_PREFIX + self.participant) if self.participant else self.tag


@dataclass(frozen=True, slots=True)
class SingleEntry:
    """A leaf with its claimed index and inclusion proof, outside of any history."""

    index: int
    entry: HistoryEntry
    inclusion: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The content of a parsed file. Nothing in it is verified.

    Attributes:
        proof: checkpoint, seal, histories and rotations.
        keys, policy: vkeys and trust policy that the file's maker proposes. Never verify with them: he may be a forger.
    """

    scope: Scope
    proof: HistoryProof
    entries: tuple[SingleEntry, ...] = ()
    keys: tuple[str, ...] = ()
    policy: str = ""


def claimed_keys(log_verifier: NoteVerifier) -> tuple[str, ...]:
    """Return ``Evidence.keys`` for a ledger whose checkpoints this key signs: its vkey; nothing if not Ed25519."""
    return (note.format_vkey(log_verifier),) if isinstance(log_verifier, Verifier) else ()


# -- format ---------------------------------------------------------------------------------------------------


def format_evidence(evidence: Evidence) -> bytes:
    """Format evidence as the bytes of a file. The result may be larger than ``MAX_SIZE``."""
    scope, proof = evidence.scope, evidence.proof
    claimed: dict[str, Any] = {"tag": scope.tag}
    if scope.participant:
        claimed = {"participant": scope.participant}
    elif scope.first <= scope.last:
        claimed = {"first": scope.first, "last": scope.last}
    document = {
        "format": FORMAT, "scope": claimed, "checkpoint": proof.checkpoint, "consistency": proof.consistency,
        "seal": proof.seal, "seal_inclusion": proof.seal_inclusion, "histories": proof.chains,
        "entries": evidence.entries, "rotations": proof.rotations, "keys": evidence.keys, "policy": evidence.policy,
    }  # fmt: skip
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_to_json).encode()


def _to_json(value: Any) -> Any:
    """Convert a value to types that ``json`` can format, or that ``json`` passes to this function again."""
    if isinstance(value, bytes):
        return note.encode_base64(value)
    if isinstance(value, HistoryEntry):
        opening = None if value.opening is None else dict(zip(_OPENING, value.opening, strict=True))
        return {"leaf": value.leaf, "opening": opening}
    if isinstance(value, SingleEntry):
        return {"index": value.index, **_to_json(value.entry), "inclusion": value.inclusion}
    if isinstance(value, RotationProof):
        return {name: getattr(value, name) for name in _ROTATION}
    assert isinstance(value, ChainProof), "no other type is in evidence"
    return {name: getattr(value, name) for name in _HISTORY}


def format_rotations(rotations: Sequence[RotationProof]) -> bytes:
    """Format the file ``rotations`` (evidence-format.md, "The file of a ledger's rotations")."""
    document = {"format": ROTATIONS_FORMAT, "rotations": tuple(rotations)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_to_json).encode()


# -- parse ----------------------------------------------------------------------------------------------------


def parse_evidence(content: bytes) -> Evidence:
    """Parse the bytes of a file.

    Raises:
        MalformedError: the file is larger than ``MAX_SIZE``, is not JSON in UTF-8 without a byte order mark, is nested
            deeper than ``MAX_NESTING``, or has more marks than ``BYTES_PER_MARK`` allows; an object lacks a name, or
            has an unknown name or a name twice; a number is not an integer from 0 to 2^53 - 1 in plain digits; base64
            is not canonical; text has half of a surrogate pair; a proof has more than ``MAX_HASHES`` hashes; or the
            scope is not valid.
    """
    file = _parse_object(content, _FILE)
    return Evidence(
        scope=file["scope"],
        proof=HistoryProof(
            checkpoint=file["checkpoint"], consistency=file["consistency"], seal=file["seal"],
            seal_inclusion=file["seal_inclusion"], chains=file["histories"], rotations=file["rotations"],
        ),
        entries=file["entries"], keys=file["keys"], policy=file["policy"],
    )  # fmt: skip


def parse_rotations(content: bytes) -> tuple[RotationProof, ...]:
    """Parse the bytes of a file ``rotations``. Raises as ``parse_evidence``."""
    rotations: tuple[RotationProof, ...] = _parse_object(content, _ROTATIONS_FILE)["rotations"]
    return rotations


def _parse_object(content: bytes, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Parse the bytes of a file that is one object with exactly these fields, as ``_object``."""
    if len(content) > MAX_SIZE:
        raise MalformedError(f"evidence is larger than {MAX_SIZE} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MalformedError("evidence is not UTF-8") from None
    value = parse_json(
        text, max_nesting=MAX_NESTING, max_marks=FREE_MARKS + len(content) // BYTES_PER_MARK,
        parse_int=_parse_integer, parse_float=_refuse, parse_constant=_refuse,
    )  # fmt: skip
    return _object(value, fields)


def _parse_integer(text: str) -> int:
    if text.startswith("-") or len(text) > len(str(_MAX_INTEGER)) or int(text) > _MAX_INTEGER:
        raise MalformedError("evidence has a number that is not an integer from 0 to 2^53 - 1")
    return int(text)


def _refuse(text: str) -> Any:
    raise MalformedError("evidence has a number that is not written as an integer in plain digits")


def _object(value: Any, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Parse an object that has exactly these fields (name → function that parses the value); return parsed values."""
    if not isinstance(value, dict) or value.keys() != fields.keys():
        raise MalformedError(f"evidence lacks an object of exactly these names: `{' '.join(fields)}`")
    return {name: parse(value[name]) for name, parse in fields.items()}


def _list_of(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def parse_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise MalformedError("evidence lacks a list where one is needed")
        return tuple(map(parse, value))

    return parse_list


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedError("evidence lacks text where it is needed")
    if _SURROGATE.search(value):
        raise MalformedError("evidence has text with half of a surrogate pair")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise MalformedError("evidence lacks base64 where it is needed")
    return note.decode_base64(value)


def _hashes(value: Any) -> tuple[bytes, ...]:
    hashes = _list_of(_bytes)(value)
    if len(hashes) > MAX_HASHES:
        raise MalformedError(f"evidence has a proof of more than {MAX_HASHES} hashes")
    return hashes


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise MalformedError("evidence lacks an integer where one is needed")
    return value


def _format(expected: str) -> Callable[[Any], str]:
    def parse_format(value: Any) -> str:
        if value != expected:
            raise MalformedError(f"evidence is of another format: its `format` is not `{expected}`")
        return expected

    return parse_format


def _scope(value: Any) -> Scope:
    has = value if isinstance(value, dict) else {}
    if "tag" in has:
        scope = Scope(**_object(value, {"tag": _bytes}))
        is_scope = len(scope.tag) == merkle.HASH_SIZE
    elif "participant" in has:
        scope = Scope(**_object(value, {"participant": _text}))
        is_scope = scope.participant != ""
    else:
        scope = Scope(**_object(value, {"first": _integer, "last": _integer}))
        is_scope = scope.first <= scope.last
    if not is_scope:
        raise MalformedError(
            "evidence has a scope whose tag is not 32 bytes long, whose participant has no name, or whose last index "
            "is before its first"
        )
    return scope


def _opening(value: Any) -> tuple[bytes, bytes] | None:
    if value is None:
        return None
    opening = _object(value, _OPENING)
    return opening["salt"], opening["statement"]


def _single(value: Any) -> SingleEntry:
    fields = _object(value, {"index": _integer, **_ENTRY, "inclusion": _hashes})
    return SingleEntry(fields["index"], HistoryEntry(fields["leaf"], fields["opening"]), fields["inclusion"])


_OPENING = {"salt": _bytes, "statement": _bytes}
_ENTRY = {"leaf": _bytes, "opening": _opening}
_HISTORY = {
    "tag": _bytes, "public_name": _text, "count": _integer, "head": _bytes, "map_proof": _bytes, "first_seq": _integer,
    "entries": _list_of(lambda value: HistoryEntry(**_object(value, _ENTRY))),
}  # fmt: skip
_ROTATION = {
    "checkpoint": _bytes, "seal": _bytes, "seal_inclusion": _hashes,
    "history": lambda value: ChainProof(**_object(value, _HISTORY)), "consistency": _hashes,
}  # fmt: skip
_ROTATIONS = _list_of(lambda value: RotationProof(**_object(value, _ROTATION)))
_ROTATIONS_FILE = {"format": _format(ROTATIONS_FORMAT), "rotations": _ROTATIONS}
_FILE = {
    "format": _format(FORMAT), "scope": _scope, "checkpoint": _bytes, "consistency": _hashes, "seal": _bytes,
    "seal_inclusion": _hashes, "histories": _list_of(lambda value: ChainProof(**_object(value, _HISTORY))),
    "entries": _list_of(_single), "rotations": _ROTATIONS,
    "keys": _list_of(_text), "policy": _text,
}  # fmt: skip
