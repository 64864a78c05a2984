"""Make evidence: read a ledger once, and write a file that proves the entries in a scope (``consentd.core.evidence``).

The file contains the whole chain (all entries of one person or public name) that the scope names, and the whole chains
that put the signing keys in force: only a whole chain proves that no entry is left out. If entries of a person's chain
are pruned, the file contains the remaining entries, and chain ``ledger``, which states the pruning.

The pass over the leaves also builds the map of chain heads as of the last seal. The proofs are made from this map, and
an export does not contain the map.
"""

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consentd import limits
from consentd.audit.checkpoints import read_checkpoint
from consentd.audit.log_keys import read_steps
from consentd.audit.remote import at_checkpoint
from consentd.audit.sources import Location, Source, write_file
from consentd.audit.state_store import StateStore
from consentd.core import bucketed, codec, history, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.evidence import MAX_SIZE, Evidence, Scope, SingleEntry, claimed_keys, format_evidence
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.kinds import PRUNABLE, PUBLIC, EntryKind
from consentd.core.note import NoteVerifier
from consentd.core.pruned import Retention
from consentd.core.replay import Replay
from consentd.core.rotation import FollowedKey
from consentd.errors import InvalidError, NotFoundError, ProofError
from consentd.statements import payloads, values
from consentd.v1 import consent_pb2 as pb
from consentd.verify.findings import Progress
from consentd.verify.source import leaf_hashes, prove_inclusion, read_leaf, read_leaves, width_of

MAX_ENTRIES = limits.EVIDENCE_ENTRIES
"""Most single entries of one file. While the file is made, all are in memory, about a kilobyte each."""
MAP_BITS = 14


@dataclass(frozen=True, slots=True)
class MadeEvidence:
    """Counts of a file that was made: whole chains, all entries (also those of chains), entries without a statement.

    *log_keys*: as in ``SignedCheckpoint``.
    """

    checkpoint: Checkpoint
    chains: int
    entries: int
    closed: int
    log_keys: tuple[FollowedKey, ...] = ()


def make_evidence(
    location: Location, path: Path, scope: Scope, *, origin: str, log_verifier: NoteVerifier, policy: str = "",
    progress: Progress | None = None,
) -> MadeEvidence:
    """Write evidence of the entries in *scope* to *path*, at the latest checkpoint of the ledger at *location*.

    Args:
        policy: text of a witness policy that the file proposes to its readers.

    Raises:
        StorageError: the ledger cannot be read, or the file cannot be written.
        VerificationError: the ledger does not verify.
        NotFoundError: nothing is in scope, or an entry of the range is pruned.
        InvalidError: the file would have more than a million single entries or be larger than ``MAX_SIZE``; or a whole
            chain lacks entries or openings that the ledger does not state to have pruned.
    """
    with closing(location.open()) as read, closing(StateStore(None)) as states:
        signed = read_checkpoint(read, origin=origin, log_verifier=log_verifier)
        signed_note, point = signed.note, signed.point
        source = at_checkpoint(read, point)
        claimed = source.pruned()
        replay = Replay(MAP_BITS, start=claimed.start, kept_from_ms=claimed.kept_from_ms)
        replay.heads, replay.buckets = states.heads, states.buckets
        collected = _collect(source, point, replay, scope, progress)
        if replay.root() != point.root or replay.sealed_size != point.size:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        whole = collected.choose_chains()
        collected.check(whole, replay)
        seal = read_leaf(source, point.size - 1, point.size)
        proof = HistoryProof(
            checkpoint=signed_note, consistency=(), seal=seal,
            seal_inclusion=prove_inclusion(source, point, point.size - 1, merkle.leaf_hash(seal)),
            chains=tuple(_prove_chain(tag, collected, replay) for tag in whole), rotations=read_steps(source, point),
        )
        hashed = ((one, merkle.leaf_hash(one.claim.leaf)) for one in collected.single)
        singles = tuple(
            SingleEntry(one.index, one.claim, prove_inclusion(source, point, one.index, leaf_hash))
            for one, leaf_hash in hashed
        )
    shown = scope if scope.chain else Scope(first=scope.first, last=min(scope.last, point.size - 1))
    keys = claimed_keys(signed.log_key)
    content = format_evidence(Evidence(scope=shown, proof=proof, entries=singles, keys=keys, policy=policy))
    if len(content) > MAX_SIZE:
        raise InvalidError(f"evidence is larger than `{MAX_SIZE}` bytes; ask for a smaller scope")
    write_file(path, content, is_private=True, what="evidence")
    entries = [one for tag in whole for one in collected.by_tag[tag]] + collected.single
    closed = sum(one.claim.opening is None and one.event is not None for one in entries)
    return MadeEvidence(point, len(whole), len(entries), closed, signed.log_keys)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A leaf that was read; *event* is None for a seal."""

    index: int
    claim: HistoryEntry
    event: codec.Event | None

    @property
    def statement(self) -> codec.Statement | None:
        opening = self.claim.opening
        return None if self.event is None or opening is None else history.open_statement(self.event, *opening)


@dataclass(slots=True)
class _Collected:
    """The entries that the pass over the leaves keeps: single entries in scope, and the chains that may be needed.

    Attributes:
        by_tag: by tag, the entries of each such chain that follow the last gap (pruned entries) in the chain.
        names: the public name of each public chain, by tag; empty until an entry that states the name is read.
        keys: by key, the tag of the public chain that put the key in force.
    """

    scope: Scope
    single: list[_Entry] = field(default_factory=list)
    by_tag: dict[bytes, list[_Entry]] = field(default_factory=dict)
    names: dict[bytes, str] = field(default_factory=lambda: {codec.LEDGER_TAG: LEDGER_CHAIN})
    keys: dict[bytes, bytes] = field(default_factory=dict)
    retention: Retention = field(default_factory=Retention)

    def add(self, entry: _Entry) -> None:
        """Keep the next leaf if the file may need the leaf."""
        event, scope = entry.event, self.scope
        is_chained = False
        if event is not None:
            if event.kind == EntryKind.PARTICIPANT:
                self.names.setdefault(event.tag, "")
            is_chained = event.tag in self.names or event.tag == scope.chain
            if is_chained:
                self._add_to_chain(entry, event)
        if scope.first <= entry.index <= scope.last or (
            scope.participant and not is_chained and self._names_participant(entry)
        ):
            self.single.append(entry)
            if len(self.single) > MAX_ENTRIES:
                raise InvalidError(f"scope has more than `{MAX_ENTRIES}` entries; ask for a smaller one")

    def _add_to_chain(self, entry: _Entry, event: codec.Event) -> None:
        chain = self.by_tag.setdefault(event.tag, [])
        if chain and chain[-1].event is not None and event.seq != chain[-1].event.seq + 1:
            chain.clear()  # Entries before a gap cannot be proven.
        chain.append(entry)
        # The entry may state the name of a public chain, a key that the entry puts in force, or a pruning.
        statement = entry.statement
        if statement is None or event.kind not in PUBLIC | {EntryKind.KEY}:
            return
        message: Any = payloads.decode_payload(event.kind, statement.payload)
        if event.kind == EntryKind.LEDGER:
            key, _ = values.changed_statement_key(message)
            if key:
                self.keys[key] = event.tag
            if event.tag == codec.LEDGER_TAG:
                values.add_retention(self.retention, event, statement.payload)
        elif event.kind == EntryKind.KEY:
            if event.tag in self.names:
                self.keys[message.key] = event.tag
        elif codec.public_tag(name := payloads.public_name(message)) == event.tag:
            self.names[event.tag] = name

    def _names_participant(self, entry: _Entry) -> bool:
        statement = entry.statement
        if entry.event is None or statement is None or entry.event.kind not in payloads.MESSAGES:
            return False
        return self.scope.participant in participants_of(entry.event.kind, statement.payload)

    def choose_chains(self) -> list[bytes]:
        """Return the tags of the chains that the file needs whole: the scope's chain first, then those of signing keys.

        The entries of an added chain can be signed by keys of another chain, which is then added too.
        """
        asked = self.scope.chain
        whole = [asked] if asked else []
        chain = self.by_tag.get(asked, [])
        starts_late = bool(chain) and chain[0].event is not None and chain[0].event.seq > 1
        if asked != codec.LEDGER_TAG and (starts_late or any(map(self._has_pruned_opening, chain))):
            whole.append(codec.LEDGER_TAG)
        self._add_signers(self.single, whole)
        for tag in whole:  # INVARIANT: tags are only added at the end of *whole*, so the loop reaches each.
            self._add_signers(self.by_tag.get(tag, []), whole)
        return whole

    def _add_signers(self, entries: list[_Entry], whole: list[bytes]) -> None:
        for entry in entries:
            statement = entry.statement
            tag = None if statement is None else self.keys.get(statement.key)
            if tag is not None and tag not in whole:
                whole.append(tag)

    def check(self, whole: list[bytes], replay: Replay) -> None:
        """Raise an error for an empty scope, and for a chain that lacks more than the ledger states to have pruned."""
        if not (self.scope.chain in self.by_tag if self.scope.chain else self.single):
            raise NotFoundError("nothing is in scope")
        for tag in whole:
            count, _, erased = replay.heads[tag]
            entries = self.by_tag[tag]
            if len(entries) != count and not self._is_prunable(entries[0]):
                raise InvalidError("entries of a whole chain are pruned, and the ledger does not state it")
            lacks = (one for one in entries if one.claim.opening is None)
            if not (erased or all(map(self._has_pruned_opening, lacks))):
                raise InvalidError("openings of a whole chain are not available; a range can be proven without them")

    def _is_prunable(self, entry: _Entry) -> bool:
        event = entry.event
        return event is not None and event.tag not in self.names and event.time_ms < self.retention.kept_from_ms

    def _has_pruned_opening(self, entry: _Entry) -> bool:
        is_prunable = entry.event is not None and entry.event.kind in PRUNABLE and self._is_prunable(entry)
        return is_prunable and entry.claim.opening is None


def _collect(source: Source, point: Checkpoint, replay: Replay, scope: Scope, progress: Progress | None) -> _Collected:
    """Read and replay all leaves, and keep those that the file may need."""
    collected = _Collected(scope)
    for n in range(-(-point.size // tiles.TILE_WIDTH)):
        leaves = read_leaves(source, n, width_of(n, point.size))
        openings = source.openings(n, leaves) or [None] * len(leaves)
        hashes = leaf_hashes(source, n, leaves)
        for index, (leaf, opening) in enumerate(zip(leaves, openings, strict=True), n * tiles.TILE_WIDTH):
            if leaf:
                decoded = replay.add(leaf)
                event = decoded if isinstance(decoded, codec.Event) else None
                claim = HistoryEntry(leaf, None if opening is None else (opening[:32], opening[32:]))
                collected.add(_Entry(index, claim, event))
                continue
            if scope.first <= index <= scope.last:
                raise NotFoundError(f"entry of the range is pruned: `{index}`")
            replay.skip_pruned(hashes[index % tiles.TILE_WIDTH])
        replay.grow()
        if progress is not None:
            progress(replay.size, point.size)
    return collected


def participants_of(kind: int, payload: bytes) -> set[str]:
    """Return the ids of the participants that the payload of a person's entry names.

    Raises:
        MalformedError: the payload does not decode as a payload of this kind.
    """
    message: Any = payloads.decode_payload(kind, payload)
    found = set()
    if "attestation" in message.DESCRIPTOR.fields_by_name:
        found.add(message.attestation.attested_by)
    if kind in (EntryKind.ACCESS, EntryKind.REFUSAL):
        access = message.access if kind == EntryKind.REFUSAL else message
        question = payloads.parse(pb.Question, access.asked.question)
        actor = question.actor
        found |= {access.asked.asker, question.holder, actor.organisation, actor.on_behalf_of, actor.application}
        found.update(actor.relays)
    return found - {""}


def _prove_chain(tag: bytes, collected: _Collected, replay: Replay) -> ChainProof:
    entries = collected.by_tag[tag]
    count, head, _ = replay.heads[tag]
    key = codec.map_key(tag)
    number = replay.top.plan_neighbour(bucketed.bucket_of(key, MAP_BITS))
    present, proof = bucketed.prove(key, b"" if number is None else replay.buckets[number], replay.top)
    assert present, "the map lacks a chain that has entries"
    return ChainProof(
        tag=tag, public_name=collected.names.get(tag, ""), count=count, head=head, map_proof=proof,
        first_seq=count - len(entries) + 1, entries=tuple(one.claim for one in entries),
    )
