"""Put records and all that proves them into one file, to be checked on a machine without our server.

A bundle is a zip::

    README.txt         what it is, and what to run
    checkpoint         the signed note that everything in it is proven against
    scope.json         what was asked for: a range of entries, a chain, or a participant
    seal.json          the tree's last leaf, with its inclusion proof: where every chain stood
    chains.jsonl       a line for a chain, where it stands in the seal's map, and one for each of its entries
    entries.jsonl      one entry a line, with its inclusion proof: those in scope that are not of such a chain
    policy             the witness policy it should be held against, where one was given

Whole chains prove that nothing is left out of them: the chain asked for, and the chains of all whose keys signed
something in scope. Where the ledger has pruned a person's chain, what is whole begins behind what is missing, and the
chain `ledger`, which states the pruning, goes in with it.

It takes one pass over the ledger, which verifies it on the way: the seal's map is built here, so that a bundle can be
made from an export as well as from a daemon.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from consentd.audit import packed
from consentd.audit.claims import FORMAT
from consentd.audit.sources import Place, Source, write_file
from consentd.audit.state_store import StateStore
from consentd.core import bucketed, checkpoint, codec, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.key_validity import LEDGER_CHAIN, PARTICIPANT_PREFIX
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.note import NoteVerifier
from consentd.core.pruned import Retention
from consentd.core.replay import Replay
from consentd.errors import InvalidError, NotFoundError, ProofError
from consentd.statements import payloads, values
from consentd.v1 import consent_pb2 as pb
from consentd.verify.findings import Progress
from consentd.verify.source import Opening, leaf_hashes, read_leaves, read_tiles, width_of
from consentd.verify.statements import open_statement

MAX_ENTRIES = 1_000_000
"""Most entries of one bundle; they lie in memory while it is made, a kilobyte each."""
MAP_BITS = 14
_DECISIONS = (EntryKind.ACCESS, EntryKind.REFUSAL)

README = """\
Records of the ledger `{origin}`, with what proves them; made by `consentd audit bundle`.

To check them, offline, install Python 3.11 or later and the package `consentd` (its base install is enough), and run

    consentd audit check-bundle THIS-FILE --log-key VKEY

VKEY is the log's public key, which you must have from somewhere else than this file. It says of itself:

    {vkey}

Every entry is shown to stand in the tree of {size} entries that the log signed; every chain in it to be whole, but for
what the ledger states to have pruned under its published policy; every statement to be what its leaf commits to, signed
by a key that was in force then.
It is not shown that the log shows everyone the same tree: for that, see the witnesses' cosignatures (--policy).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What goes into a bundle; exactly one of these.

    Attributes:
        first, last: a range of entries, last included; last < first: none.
        tag: a chain.
        participant: its public chain, and every entry at hand that it asked for, holds, receives or made.
    """

    first: int = 0
    last: int = -1
    tag: bytes = b""
    participant: str = ""

    @property
    def chain(self) -> bytes:
        """The tag of the chain that was asked for; empty: none was."""
        return codec.public_tag(PARTICIPANT_PREFIX + self.participant) if self.participant else self.tag


@dataclass(frozen=True, slots=True)
class Made:
    """What was put into a bundle: entries of whole chains, single ones, and how many of them have no opening."""

    checkpoint: Checkpoint
    chains: int
    entries: int
    closed: int


@dataclass(slots=True)
class _Entry:
    index: int
    leaf: bytes
    event: codec.Event | None
    opening: Opening

    def to_json(self) -> dict[str, Any]:
        opening = None if self.opening is None else self.opening.hex()
        return {"index": self.index, "leaf": self.leaf.hex(), "opening": opening}


@dataclass(slots=True)
class _Chains:
    """Entries kept on the way: by tag all those of chains that may have to be whole, from the first that is."""

    by_tag: dict[bytes, list[_Entry]] = field(default_factory=dict)
    names: dict[bytes, str] = field(default_factory=lambda: {codec.LEDGER_TAG: LEDGER_CHAIN})
    keys: dict[bytes, bytes] = field(default_factory=dict)  # key → tag of the public chain that put it in force
    retention: Retention = field(default_factory=Retention)

    def add(self, entry: _Entry, event: codec.Event) -> None:
        """Take the next entry of a chain. Behind a gap it begins anew: what is before it proves nothing."""
        kept = self.by_tag.setdefault(event.tag, [])
        if kept and kept[-1].event is not None and event.seq != kept[-1].event.seq + 1:
            kept.clear()
        kept.append(entry)

    def is_old(self, event: codec.Event) -> bool:
        """Tell whether the ledger states to have pruned what is older, in a chain that is no public one."""
        return event.tag not in self.names and event.time_ms < self.retention.kept_from_ms

    def may_lack(self, event: codec.Event) -> bool:
        """Tell whether the ledger states to have pruned what this entry said."""
        return self.is_old(event) and event.kind in PRUNABLE


def make_bundle(
    place: Place,
    path: Path,
    scope: Scope,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    vkey: str,
    policy: bytes = b"",
    progress: Progress | None = None,
) -> Made:
    """Make a bundle of what *scope* names, at the latest checkpoint of the ledger at *place*.

    Args:
        vkey: the log's key in writing, for the README.
        policy: a witness policy file to put in.

    Raises:
        StorageError: the place fails, or the file cannot be written.
        VerificationError: the ledger does not verify.
        NotFoundError: nothing is in scope.
        InvalidError: more than a million entries are, or two gibibytes; or a whole chain lacks entries or openings that
            the ledger does not state to have pruned.
    """
    source = place.open()
    keep = StateStore(None)
    try:
        note = source.checkpoint()
        point, _ = checkpoint.open_checkpoint(note, origin, log_verifier)
        said = source.pruned()
        replay = Replay(MAP_BITS, start=said.start, kept_from_ms=said.kept_from_ms)
        replay.heads, replay.buckets = keep.heads, keep.buckets
        chains, single = _collect(source, point, replay, scope, progress)
        if replay.root() != point.root or replay.sealed_size != point.size:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        whole = _whole(chains, single, scope)
        _check(whole, single, chains, replay, scope)
        content = {
            "README.txt": README.format(origin=origin, vkey=vkey, size=point.size).encode(),
            "checkpoint": note,
            "scope.json": _scope_json(scope, point),
            "seal.json": _seal_json(source, point),
            "chains.jsonl": b"".join(_chain_lines(tag, chains, replay) for tag in whole),
            "entries.jsonl": b"".join(_entry_lines(source, point, single)),
        }
        if policy:
            content["policy"] = policy
        write_file(path, packed.pack(content), is_private=True, what="bundle")
    finally:
        keep.close()
        source.close()
    entries = [entry for tag in whole for entry in chains.by_tag[tag]] + single
    closed = sum(entry.opening is None and entry.event is not None for entry in entries)
    return Made(point, len(whole), len(entries), closed)


def _collect(
    source: Source, point: Checkpoint, replay: Replay, scope: Scope, progress: Progress | None
) -> tuple[_Chains, list[_Entry]]:
    """Read all leaves; keep what is in scope, and the chains whose keys may have signed it."""
    chains, single = _Chains(), []
    wanted = scope.chain
    for n in range(-(-point.size // tiles.TILE_WIDTH)):
        leaves = read_leaves(source, n, width_of(n, point.size))
        openings = source.openings(n, leaves) or [None] * len(leaves)
        hashes = leaf_hashes(source, n, leaves)
        for index, (leaf, opening) in enumerate(zip(leaves, openings, strict=True), n * tiles.TILE_WIDTH):
            if not leaf:
                if scope.first <= index <= scope.last:
                    raise NotFoundError(f"entry of the range is pruned: `{index}`")
                replay.skip_pruned(hashes[index % tiles.TILE_WIDTH])
                continue
            decoded = replay.add(leaf)
            event = decoded if isinstance(decoded, codec.Event) else None
            entry = _Entry(index, leaf, event, opening)
            if event is not None:
                if event.kind == EntryKind.PARTICIPANT:
                    chains.names.setdefault(event.tag, "")
                if event.tag in chains.names or event.tag == wanted:
                    chains.add(entry, event)
                    _learn(chains, event, opening)
                    if not scope.first <= index <= scope.last:
                        continue
            if _is_in_scope(entry, scope):
                single.append(entry)
                if len(single) > MAX_ENTRIES:
                    raise InvalidError(f"scope has more than `{MAX_ENTRIES}` entries; ask for a smaller one")
        replay.grow()
        if progress is not None:
            progress(replay.size, point.size)
    return chains, single


def _learn(chains: _Chains, event: codec.Event, opening: Opening) -> None:
    """Take from a public chain its name, and the keys it puts in force."""
    if opening is None or event.kind not in (EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY):
        return
    payload = open_statement(event, opening).payload
    message: Any = payloads.decode_payload(event.kind, payload)
    if event.kind == EntryKind.LEDGER:
        if message.statement_key:
            chains.keys[message.statement_key] = event.tag
        if event.tag == codec.LEDGER_TAG:
            values.add_retention(chains.retention, event, payload)
    elif event.kind == EntryKind.PARTICIPANT:
        chains.names[event.tag] = PARTICIPANT_PREFIX + message.participant_id
    elif event.tag in chains.names:
        chains.keys[message.key] = event.tag


def _is_in_scope(entry: _Entry, scope: Scope) -> bool:
    if scope.first <= entry.index <= scope.last:
        return True
    event = entry.event
    if not scope.participant or event is None or entry.opening is None:
        return False
    if event.kind not in payloads.MESSAGES:
        return False
    made = open_statement(event, entry.opening)
    return scope.participant in parties(event.kind, made.payload)


def parties(kind: int, payload: bytes) -> set[str]:
    """Return the participants that an entry of a person names as taking part in it.

    Raises:
        MalformedError: the payload is not one.
    """
    message: Any = payloads.decode_payload(kind, payload)
    found = set()
    if "attestation" in message.DESCRIPTOR.fields_by_name:
        found.add(message.attestation.attested_by)
    if kind in _DECISIONS:
        access = message.access if kind == EntryKind.REFUSAL else message
        question = payloads.parse(pb.Question, access.asked.question)
        actor = question.actor
        found |= {access.asked.asker, question.holder, actor.organisation, actor.on_behalf_of, actor.relay}
    return found - {""}


def _whole(chains: _Chains, single: list[_Entry], scope: Scope) -> list[bytes]:
    """Name the chains that go in whole: the one asked for first, then those of the keys that signed."""
    wanted = scope.chain
    whole = [wanted] if wanted else []
    asked = [(entry, entry.event) for entry in chains.by_tag.get(wanted, ()) if entry.event is not None]
    is_short = bool(asked) and asked[0][1].seq > 1
    is_thin = any(entry.opening is None and chains.may_lack(event) for entry, event in asked)
    if wanted != codec.LEDGER_TAG and (is_short or is_thin):
        whole.append(codec.LEDGER_TAG)
    # What a chain's entries are signed by may stand in a chain that is signed by another's key: until nothing is new.
    done = 0
    pending = list(single)
    while pending or done < len(whole):
        if done < len(whole):
            pending += chains.by_tag.get(whole[done], [])
            done += 1
        for entry in pending:
            if entry.opening is None or entry.event is None:
                continue
            key = open_statement(entry.event, entry.opening).key
            tag = chains.keys.get(key)
            if tag is not None and tag not in whole:
                whole.append(tag)
        pending = []
    return whole


def _check(whole: list[bytes], single: list[_Entry], chains: _Chains, replay: Replay, scope: Scope) -> None:
    is_there = whole[0] in chains.by_tag if scope.chain else bool(single)
    if not is_there:
        raise NotFoundError("nothing is in scope")
    for tag in whole:
        count, _, erased = replay.heads[tag]
        entries = chains.by_tag[tag]
        assert all(entry.event is not None for entry in entries), "a seal is in no chain"
        events = [(entry, cast("codec.Event", entry.event)) for entry in entries]
        if len(entries) != count and not chains.is_old(events[0][1]):
            raise InvalidError("entries of a whole chain are pruned, and the ledger does not state it")
        if not erased and any(entry.opening is None and not chains.may_lack(event) for entry, event in events):
            raise InvalidError("openings of a whole chain are not at hand: a range can be bundled without them")


# -- what is written ------------------------------------------------------------------------------------------


def _scope_json(scope: Scope, point: Checkpoint) -> bytes:
    fields: dict[str, Any] = {"format": FORMAT, "origin": point.origin, "size": point.size}
    if scope.last >= scope.first:
        fields |= {"first": scope.first, "last": min(scope.last, point.size - 1)}
    if scope.tag:
        fields["tag"] = scope.tag.hex()
    if scope.participant:
        fields["participant"] = scope.participant
    return _line(fields)


def _seal_json(source: Source, point: Checkpoint) -> bytes:
    index = point.size - 1
    n = index // tiles.TILE_WIDTH
    leaf = read_leaves(source, n, width_of(n, point.size))[-1]
    return _line({"leaf": leaf.hex(), "inclusion": _inclusion(source, point, index, leaf)})


def _chain_lines(tag: bytes, chains: _Chains, replay: Replay) -> bytes:
    entries = chains.by_tag[tag]
    count, head, _ = replay.heads[tag]
    key = codec.map_key(tag)
    number = replay.top.plan_neighbour(bucketed.bucket_of(key, MAP_BITS))
    present, proof = bucketed.prove(key, b"" if number is None else replay.buckets[number], replay.top)
    assert present, "a chain with entries stands in the map"
    header = {
        "tag": tag.hex(), "public_name": chains.names.get(tag, ""), "count": count, "head": head.hex(),
        "map_proof": proof.hex(), "entries": len(entries),
    }  # fmt: skip
    return _line(header) + b"".join(_line(entry.to_json()) for entry in entries)


def _entry_lines(source: Source, point: Checkpoint, single: list[_Entry]) -> Iterator[bytes]:
    for entry in single:
        yield _line({**entry.to_json(), "inclusion": _inclusion(source, point, entry.index, entry.leaf)})


def _inclusion(source: Source, point: Checkpoint, index: int, leaf: bytes) -> list[str]:
    plan = tiles.plan_inclusion(index, point.size)
    proof = tiles.prove_inclusion(index, point.size, read_tiles(source, plan, point.size))
    # INVARIANT: a proof from a damaged tile proves nothing, and nobody would find out before the bundle is needed.
    merkle.verify_inclusion(proof, index=index, size=point.size, leaf_hash=merkle.leaf_hash(leaf), root=point.root)
    return [h.hex() for h in proof]


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
