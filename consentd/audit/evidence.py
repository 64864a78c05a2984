"""Check a bundle: everything in it against the log's public key, and nothing against what it says of itself.

Needs ``consentd.core``, protobuf and PyNaCl: no server part, no daemon, no network. What a zip may hold is bounded
before it is read.
"""

import io
import json
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from consentd.audit import look
from consentd.audit.bundle import FORMAT
from consentd.core import checkpoint, codec, history, merkle, quorum
from consentd.core.checkpoint import Checkpoint
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, KeyFact, VerifiedEntry
from consentd.core.kinds import EntryKind, Owner, is_known
from consentd.core.note import NoteVerifier
from consentd.errors import MalformedError, ProofError
from consentd.ledger import statement

MAX_SIZE = 4 << 30
"""Most bytes of a bundle, unpacked."""
_NAMES = frozenset({"README.txt", "checkpoint", "scope.json", "seal.json", "chains.jsonl", "entries.jsonl", "policy"})
_OWNERS = {"ledger": Owner.LEDGER, "participant": Owner.PARTICIPANT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a bundle proves.

    Attributes:
        scope: what it says it was made of, as fields; a range and a chain are proven to be whole.
        chains: by public name, or ``a person``, how many entries.
        kinds: how many entries of each kind, by name.
        closed: entries without their statement: erased, or outside the mandate of who made it.
        unproven: statements signed by a person's own key, whose chain is not in the bundle.
        unknown: entries of kinds that this version does not know.
        witnesses: names that cosigned, where a policy was given.
    """

    checkpoint: Checkpoint
    scope: dict[str, Any]
    chains: tuple[tuple[str, int], ...]
    entries: int
    kinds: dict[str, int]
    opened: int
    closed: int
    unproven: int
    unknown: int
    witnesses: tuple[str, ...]


def check_bundle(content: bytes, *, origin: str, log_verifier: NoteVerifier, policy: bytes | None = None) -> Checked:
    """Check a bundle; return what it proves.

    Args:
        policy: a witness policy; cosignatures are then asked for. How old they are is not looked at.

    Raises:
        MalformedError: it is not a bundle, or a part of it is not what it should be.
        SignatureError: the log, a witness or an author has not signed.
        ProofError: something in it is not proven, or an entry is missing.
    """
    parts = _unpack(content)
    note = parts["checkpoint"]
    scope = _object(parts["scope.json"])
    if scope.get("format") != FORMAT:
        raise MalformedError("bundle is of another version")
    seal = _object(parts["seal.json"])
    proof = HistoryProof(
        checkpoint=note, consistency=(), seal=_bytes(seal, "leaf"), seal_inclusion=_hashes(seal), chains=()
    )
    anchor = history.verify_anchor(proof, origin=origin, log_verifier=log_verifier, held=None)
    witnesses = () if policy is None else _witnesses(note, policy, log_verifier)
    chains = [(chain, history.verify_chain(chain, anchor=anchor)) for chain in _read_chains(parts["chains.jsonl"])]
    terms = history.key_terms(fact for chain, entries in chains for fact in _facts(chain, entries))
    found = Counter[str]()
    kinds = Counter[str]()
    for chain, entries in chains:
        history.verify_authors(entries, tag=chain.tag, origin=origin, terms=terms)
        for each in entries:
            _count(each, found, kinds)
    indexes = set()
    for index, entry in _read_single(parts["entries.jsonl"], anchor.checkpoint):
        indexes.add(index)
        if entry is None:
            found["all"] += 1  # a seal
            continue
        if entry.statement is not None and entry.statement.key not in terms:
            # A person's own key, whose chain the bundle does not have: the signature holds, whose it is stays open.
            look.verify_signature(entry.event, entry.statement, origin=origin)
            found["unproven"] += 1
        else:
            history.verify_authors([entry], tag=entry.event.tag, origin=origin, terms=terms)
        _count(entry, found, kinds)
    _verify_scope(scope, anchor.checkpoint, chains, indexes)
    return Checked(
        checkpoint=anchor.checkpoint,
        scope={key: value for key, value in scope.items() if key != "format"},
        chains=tuple((chain.public_name or "a person", len(entries)) for chain, entries in chains),
        entries=found["all"],
        kinds=dict(kinds),
        opened=found["opened"],
        closed=found["closed"],
        unproven=found["unproven"],
        unknown=found["unknown"],
        witnesses=witnesses,
    )


def _count(entry: VerifiedEntry, found: Counter[str], kinds: Counter[str]) -> None:
    kind = entry.event.kind
    found["all"] += 1
    found["opened" if entry.statement is not None else "closed"] += 1
    if is_known(kind):
        kinds[EntryKind(kind).name] += 1
    else:
        found["unknown"] += 1


def _verify_scope(
    scope: dict[str, Any],
    point: Checkpoint,
    chains: list[tuple[ChainProof, tuple[VerifiedEntry, ...]]],
    indexes: set[int],
) -> None:
    """Verify that what the bundle says it is made of is all there."""
    if scope.get("origin") != point.origin or scope.get("size") != point.size:
        raise ProofError("bundle says it is of another ledger or size than its checkpoint")
    if "first" in scope:
        first, last = scope["first"], scope["last"]
        if type(first) is not int or type(last) is not int or not 0 <= first <= last < point.size:
            raise MalformedError("bundle has a range that is none")
        if len(indexes) <= last - first or not indexes.issuperset(range(first, last + 1)):
            raise ProofError("an entry of the range is missing")
    tags = {chain.tag for chain, _ in chains}
    if "tag" in scope and _bytes(scope, "tag") not in tags:
        raise ProofError("the chain that it is made of is missing")
    name = scope.get("participant")
    if name is not None and codec.public_tag(f"participant/{name}") not in tags:
        raise ProofError("the participant's chain is missing")


def _witnesses(note: bytes, policy: bytes, log_verifier: NoteVerifier) -> tuple[str, ...]:
    """Return who cosigned; a quorum must have, whenever that was: a bundle is kept.

    Raises:
        SignatureError: no quorum has.
    """
    found = quorum.verify_cosigned(note, quorum.parse_policy(policy), now_s=0, max_age_s=None, logs=(log_verifier,))
    return tuple(name for name, _ in found.cosignatures)


# -- reading --------------------------------------------------------------------------------------------------


def _unpack(content: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            infos = file.infolist()
            names = [info.filename for info in infos]
            if len(set(names)) != len(names) or not set(names) <= _NAMES:
                raise MalformedError("bundle has files that none should have")
            if sum(info.file_size for info in infos) > MAX_SIZE:
                raise MalformedError("bundle is larger than can be, unpacked")
            parts = {}
            for info in infos:
                with file.open(info) as part:
                    parts[info.filename] = part.read(info.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise MalformedError("bundle is not a zip file, or a damaged one") from error
    missing = _NAMES - {"README.txt", "policy"} - parts.keys()
    if missing:
        raise MalformedError(f"bundle lacks a file: `{min(missing)}`")
    return parts


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedError("bundle has a line that is not JSON") from error
    if not isinstance(found, dict):
        raise MalformedError("bundle has a line that is not a JSON object")
    return found


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    value = fields.get(name)
    try:
        if isinstance(value, str):
            return bytes.fromhex(value)
    except ValueError:
        pass
    raise MalformedError(f"bundle has a field that is not hexadecimal: `{name}`")


def _hashes(fields: dict[str, Any]) -> tuple[bytes, ...]:
    value = fields.get("inclusion")
    if not isinstance(value, list) or len(value) > checkpoint.MAX_PROOF_LENGTH:
        raise MalformedError("bundle has an inclusion proof that is none")
    return tuple(_bytes({"inclusion": one}, "inclusion") for one in value)


def _int(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 0:
        raise MalformedError(f"bundle has a field that is not a number: `{name}`")
    return value


def _read_entry(fields: dict[str, Any]) -> HistoryEntry:
    if fields.get("opening") is None:
        return HistoryEntry(_bytes(fields, "leaf"), None)
    opening = _bytes(fields, "opening")
    return HistoryEntry(_bytes(fields, "leaf"), (opening[:32], opening[32:]))


def _read_chains(content: bytes) -> list[ChainProof]:
    lines = [_object(line) for line in content.splitlines()]
    found, at = [], 0
    while at < len(lines):
        header = lines[at]
        count = _int(header, "entries")
        name = header.get("public_name")
        if not isinstance(name, str) or at + 1 + count > len(lines):
            raise MalformedError("bundle has a chain that ends early, or has no name")
        found.append(
            ChainProof(
                tag=_bytes(header, "tag"), public_name=name, count=_int(header, "count"), head=_bytes(header, "head"),
                map_proof=_bytes(header, "map_proof"), first_seq=1,
                entries=tuple(map(_read_entry, lines[at + 1 : at + 1 + count])),
            )
        )  # fmt: skip
        at += 1 + count
    return found


def _read_single(content: bytes, point: Checkpoint) -> list[tuple[int, VerifiedEntry | None]]:
    """Verify that each single entry stands in the tree; a seal is None."""
    found: list[tuple[int, VerifiedEntry | None]] = []
    for line in content.splitlines():
        fields = _object(line)
        index, read = _int(fields, "index"), _read_entry(fields)
        merkle.verify_inclusion(
            _hashes(fields), index=index, size=point.size, leaf_hash=merkle.leaf_hash(read.leaf), root=point.root
        )
        event = codec.decode_leaf(read.leaf)
        if isinstance(event, codec.Seal):
            found.append((index, None))
            continue
        made = None if read.opening is None else look.open_statement(event, b"".join(read.opening))
        found.append((index, VerifiedEntry(event, made)))
    return found


def _facts(chain: ChainProof, entries: tuple[VerifiedEntry, ...]) -> list[KeyFact]:
    """Return what a verified chain says of keys."""
    kind, _, name = chain.public_name.partition("/")
    owner = _OWNERS.get(kind, Owner.SUBJECT)
    whose: bytes | str = name if chain.public_name else chain.tag
    found = []
    for entry in entries:
        if entry.statement is None or entry.event.kind not in (EntryKind.LEDGER, EntryKind.KEY):
            continue
        # INVARIANT: only the chain `ledger` puts the daemon's keys in force, and no public chain a person's.
        if (entry.event.kind == EntryKind.LEDGER) != (owner is Owner.LEDGER):
            continue
        message: Any = statement.decode_payload(entry.event.kind, entry.statement.payload)
        key, retired = (message.statement_key, False) if owner is Owner.LEDGER else (message.key, message.retired)
        found.append(
            KeyFact(key=key, owner=owner, tag_or_name=whose, time_ms=entry.event.time_ms, retired=retired)
        )
    return found
