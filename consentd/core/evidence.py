"""Parse and format evidence: one JSON file that contains ledger entries and everything that proves them.

A saved history and an auditor's evidence are the same file. Source: evidence-format.md. Nothing in a file is trusted;
``consentd.statements.evidence`` verifies it. The format is strict, so that all readers accept the same files.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from consentd.core import codec, merkle, note
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.note import NoteVerifier, Verifier
from consentd.core.strict_json import parse_json
from consentd.errors import MalformedError

FORMAT = "consentd/evidence/v1"
MAX_SIZE = 384 << 20
"""Most bytes of a file. The longest stream that a client accepts (256 MiB) fits in it as base64."""
MAX_NESTING = 8
"""Most levels of arrays and objects. The format itself has six."""
MAX_HASHES = 64
"""Most hashes of one proof."""

_MAX_INTEGER = (1 << 53) - 1
_FILE = "format scope checkpoint consistency seal seal_inclusion histories entries keys policy"
_HISTORY = "tag public_name count head map_proof first_seq entries"
_ENTRY = "leaf opening"
_SINGLE = "index leaf opening inclusion"
_OPENING = "salt statement"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a file claims to contain. Exactly one of the three is set.

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
        """The tag of the chain that the scope names; empty for a range."""
        return codec.public_tag(PARTICIPANT_PREFIX + self.participant) if self.participant else self.tag


@dataclass(frozen=True, slots=True)
class SingleEntry:
    """A leaf with its claimed index and inclusion proof, outside of any history."""

    index: int
    entry: HistoryEntry
    inclusion: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A file as it was parsed. All of it is claims; nothing is verified.

    Attributes:
        proof: checkpoint, seal and histories.
        keys, policy: what the maker of the file proposes to verify it with. Never verify with them.
    """

    scope: Scope
    proof: HistoryProof
    entries: tuple[SingleEntry, ...] = ()
    keys: tuple[str, ...] = ()
    policy: str = ""


def claimed_keys(log_verifier: NoteVerifier) -> tuple[str, ...]:
    """Return ``Evidence.keys`` for a ledger whose checkpoints this key signs: its vkey, if it is an Ed25519 key."""
    return (note.format_vkey(log_verifier),) if isinstance(log_verifier, Verifier) else ()


# -- format ---------------------------------------------------------------------------------------------------


def format_evidence(evidence: Evidence) -> bytes:
    """Format evidence as the bytes of a file. The result may be larger than ``MAX_SIZE``."""
    scope, proof = evidence.scope, evidence.proof
    claimed: dict[str, Any] = {"tag": _b64(scope.tag)}
    if scope.participant:
        claimed = {"participant": scope.participant}
    elif scope.first <= scope.last:
        claimed = {"first": scope.first, "last": scope.last}
    document = {
        "format": FORMAT,
        "scope": claimed,
        "checkpoint": _b64(proof.checkpoint),
        "consistency": _b64s(proof.consistency),
        "seal": _b64(proof.seal),
        "seal_inclusion": _b64s(proof.seal_inclusion),
        "histories": [
            {
                "tag": _b64(chain.tag),
                "public_name": chain.public_name,
                "count": chain.count,
                "head": _b64(chain.head),
                "map_proof": _b64(chain.map_proof),
                "first_seq": chain.first_seq,
                "entries": [_format_entry(entry) for entry in chain.entries],
            }
            for chain in proof.chains
        ],
        "entries": [
            {"index": one.index, **_format_entry(one.entry), "inclusion": _b64s(one.inclusion)}
            for one in evidence.entries
        ],
        "keys": list(evidence.keys),
        "policy": evidence.policy,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _format_entry(entry: HistoryEntry) -> dict[str, Any]:
    if entry.opening is None:
        return {"leaf": _b64(entry.leaf), "opening": None}
    salt, statement = entry.opening
    return {"leaf": _b64(entry.leaf), "opening": {"salt": _b64(salt), "statement": _b64(statement)}}


def _b64(content: bytes) -> str:
    return note.encode_base64(content)


def _b64s(contents: Iterable[bytes]) -> list[str]:
    return [note.encode_base64(content) for content in contents]


# -- parse ----------------------------------------------------------------------------------------------------


def parse_evidence(content: bytes) -> Evidence:
    """Parse the bytes of a file.

    Raises:
        MalformedError: the file is larger than ``MAX_SIZE``; is not JSON in UTF-8 without a byte order mark; is nested
            deeper than ``MAX_NESTING``; lacks a name, has another one, or has one twice; has a number that is not an
            integer from 0 to 2^53 - 1 in plain digits; has base64 that is not canonical, or text with half of a
            surrogate pair; has a proof of more than ``MAX_HASHES`` hashes; or has a scope that is not one.
    """
    file = _object(_read_json(content), _FILE)
    if file["format"] != FORMAT:
        raise MalformedError(f"evidence is of another format: its `format` is not `{FORMAT}`")
    return Evidence(
        scope=_scope(file["scope"]),
        proof=HistoryProof(
            checkpoint=_bytes(file["checkpoint"]),
            consistency=_hashes(file["consistency"]),
            seal=_bytes(file["seal"]),
            seal_inclusion=_hashes(file["seal_inclusion"]),
            chains=tuple(map(_history, _list(file["histories"]))),
        ),
        entries=tuple(map(_single, _list(file["entries"]))),
        keys=tuple(map(_text, _list(file["keys"]))),
        policy=_text(file["policy"]),
    )


def _scope(value: Any) -> Scope:
    has = value if isinstance(value, dict) else {}
    if "tag" in has:
        tag = _bytes(_object(value, "tag")["tag"])
        if len(tag) != merkle.HASH_SIZE:
            raise MalformedError("evidence has a scope whose tag is not 32 bytes long")
        return Scope(tag=tag)
    if "participant" in has:
        participant = _text(_object(value, "participant")["participant"])
        if not participant:
            raise MalformedError("evidence has a scope of a participant without a name")
        return Scope(participant=participant)
    fields = _object(value, "first last")
    scope = Scope(first=_integer(fields["first"]), last=_integer(fields["last"]))
    if scope.last < scope.first:
        raise MalformedError("evidence has a scope whose last index is before its first")
    return scope


def _history(value: Any) -> ChainProof:
    history = _object(value, _HISTORY)
    return ChainProof(
        tag=_bytes(history["tag"]),
        public_name=_text(history["public_name"]),
        count=_integer(history["count"]),
        head=_bytes(history["head"]),
        map_proof=_bytes(history["map_proof"]),
        first_seq=_integer(history["first_seq"]),
        entries=tuple(_entry(_object(entry, _ENTRY)) for entry in _list(history["entries"])),
    )


def _entry(fields: dict[str, Any]) -> HistoryEntry:
    leaf = _bytes(fields["leaf"])
    if fields["opening"] is None:
        return HistoryEntry(leaf, None)
    opening = _object(fields["opening"], _OPENING)
    return HistoryEntry(leaf, (_bytes(opening["salt"]), _bytes(opening["statement"])))


def _single(value: Any) -> SingleEntry:
    fields = _object(value, _SINGLE)
    return SingleEntry(_integer(fields["index"]), _entry(fields), _hashes(fields["inclusion"]))


# -- strict JSON ----------------------------------------------------------------------------------------------


def _read_json(content: bytes) -> Any:
    if len(content) > MAX_SIZE:
        raise MalformedError(f"evidence is larger than {MAX_SIZE} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MalformedError("evidence is not UTF-8") from None
    return parse_json(
        text,
        max_nesting=MAX_NESTING,
        parse_int=_parse_integer,
        parse_float=_refuse,
        parse_constant=_refuse,
    )


def _parse_integer(text: str) -> int:
    if text.startswith("-") or len(text) > len(str(_MAX_INTEGER)) or int(text) > _MAX_INTEGER:
        raise MalformedError("evidence has a number that is not an integer from 0 to 2^53 - 1")
    return int(text)


def _refuse(text: str) -> Any:
    raise MalformedError("evidence has a number that is not written as an integer in plain digits")


def _object(value: Any, names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != set(names.split()):
        raise MalformedError(f"evidence lacks an object of exactly these names: `{names}`")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError("evidence lacks a list where one is needed")
    return value


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
    hashes = _list(value)
    if len(hashes) > MAX_HASHES:
        raise MalformedError(f"evidence has a proof of more than {MAX_HASHES} hashes")
    return tuple(map(_bytes, hashes))


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise MalformedError("evidence lacks an integer where one is needed")
    return value
