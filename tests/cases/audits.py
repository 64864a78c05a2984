"""A ledger made leaf by leaf, as large as a test wants it and as wrong: an operator who signs whatever he has made.

``Forge`` appends entries with the decisions that they ought to record, written out by hand, and can make one
wrong entry on request. Whatever it makes, the tree is right and the checkpoint is signed. It takes 50 µs an entry.
"""

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from consentd.audit.sources import ExportDirectory, encode_openings, statements_path
from consentd.core import bucketed, checkpoint, codec, ed25519, merkle, note, tiles
from consentd.core.kinds import CONSENTS, EntryKind
from consentd.core.pruned import Pruned
from consentd.policy import model
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.statements.decisions import consent_id
from consentd.statements.values import consent_message, rules_message, vocabulary_message
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

ORIGIN = "ledger.example/audit"
LOG = note.Signer(ORIGIN, ed25519.KeyPair(b"\1" * 32))
DAEMON = ed25519.KeyPair(b"\2" * 32)
START_MS = 1_800_000_000_000
STEP_MS = 7
MAP_BITS = 8
SIZE = int(os.environ.get("CONSENTD_AUDIT_SIZE", "3000"))
"""Leaves of the ledgers that something is planted in; CI and the benchmark set a million."""
MANY = 100_000
JOBS = 1 if SIZE < MANY else len(os.sched_getaffinity(0))
"""Processes that look for what was planted: not worth their start in a small ledger."""


@dataclass
class Forge:
    """A ledger being made.

    Attributes:
        leaves, openings: so far; an opening is salt ‖ statement, None for a seal.
        asked: by index, the entries that record a decision.
    """

    map_bits: int = MAP_BITS
    leaves: list[bytes] = field(default_factory=list)
    openings: list[bytes | None] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    seals: list[int] = field(default_factory=list)
    time_ms: int = START_MS

    def __post_init__(self) -> None:
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self._buckets: dict[int, bytes] = {}
        self._top = bucketed.Top(self.map_bits)
        self._unsealed: set[bytes] = set()
        self._seal_hash = codec.ZERO_HASH

    @property
    def size(self) -> int:
        return len(self.leaves)

    def fork(self) -> "Forge":
        """Return another ledger that begins with this one: a fault is planted in one of many that share a half."""
        other = Forge(self.map_bits, self.leaves[:], self.openings[:], self.asked[:], self.seals[:], self.time_ms)
        other.heads, other._buckets = self.heads.copy(), self._buckets.copy()
        other._top, other._unsealed = copy.deepcopy(self._top), self._unsealed.copy()
        other._seal_hash = self._seal_hash
        return other

    # -- leaves -----------------------------------------------------------------------------------------------

    def add(
        self,
        kind: int,
        tag: bytes,
        message: Any,
        *,
        ref: int = 0,
        key: ed25519.KeyPair = DAEMON,
        time_ms: int | None = None,
        has_opening: bool = True,
        request_id: bytes | None = None,
        author_time_ms: int | None = None,
    ) -> int:
        """Append an entry; return its seq. *time_ms*: another than the clock's. The app attests ENROLs and consents."""
        if time_ms is None:
            self.time_ms += STEP_MS
            time_ms = self.time_ms
        request_id = self._request_id() if request_id is None else request_id
        author_time_ms = time_ms if author_time_ms is None else author_time_ms
        if kind in CONSENTS | {EntryKind.ENROL} and key is DAEMON and not isinstance(message, bytes):
            message.attestation.attested_by = message.attestation.attested_by or "app"
        payload = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
        signed = codec.signed_message(
            origin=ORIGIN, kind=kind, tag=tag, ref=ref, request_id=request_id, author_time_ms=author_time_ms,
            payload=payload,
        )  # fmt: skip
        statement = codec.encode_statement(
            codec.Statement(key.public_key, key.sign(signed), request_id, author_time_ms, payload)
        )
        salt = hashlib.blake2b(request_id, digest_size=32).digest()
        count, head = self.heads.get(tag, (0, codec.ZERO_HASH))
        event = codec.Event(kind, time_ms, tag, count + 1, head, codec.commit(salt, statement), ref)
        leaf = codec.encode_event(event)
        self.heads[tag] = (count + 1, codec.chain_hash(leaf))
        self._unsealed.add(tag)
        self.leaves.append(leaf)
        self.openings.append(salt + statement if has_opening else None)
        return count + 1

    def _request_id(self) -> bytes:
        return hashlib.blake2b(b"%d" % self.size, digest_size=16).digest()

    def seal(self, *, wrong: bool = False) -> None:
        """Append a seal; a *wrong* one says a map root that is not the map's, and those after it go on from it."""
        roots = {}
        for tag in self._unsealed:
            key = codec.map_key(tag)
            number = bucketed.bucket_of(key, self.map_bits)
            bucket = bucketed.bucket_update(
                self._buckets.get(number, b""), {key: codec.map_value(tag, *self.heads[tag])}
            )
            self._buckets[number] = bucket
            roots[number] = bucketed.bucket_root(bucket, self.map_bits) or b""
        self._top.update(roots)
        self._unsealed.clear()
        root = bytes(32) if wrong else self._top.root()
        leaf = codec.encode_seal(
            codec.Seal(self.time_ms, self.size, root, len(self.heads), self._seal_hash)
        )
        self._seal_hash = codec.chain_hash(leaf)
        self.seals.append(self.size)
        self.leaves.append(leaf)
        self.openings.append(None)

    # -- what a realm writes ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Append leaf 0, vocabulary, rules and three participants."""
        ledger = st.LedgerStatement(
            origin=ORIGIN, verifier_keys=[note.format_vkey(LOG.verifier)], statement_key=DAEMON.public_key,
            map_bits=self.map_bits,
        )
        self.add(EntryKind.LEDGER, codec.public_tag("ledger"), ledger)
        vocabulary = vocabulary_message(DEFAULT_VOCABULARY)
        self.add(EntryKind.VOCABULARY, codec.public_tag(f"vocabulary/{DEFAULT_VOCABULARY.id}"), vocabulary)
        rules = rules_message(model.Rules(), realm_id="realm", version=1, vocabulary_id=DEFAULT_VOCABULARY.id)
        self.add(EntryKind.RULES, codec.public_tag("rules/realm"), rules)
        for name in ("hospital", "bank"):
            self.participant(name, rights=[st.PARTICIPANT_RIGHT_SEE_REASONS])
        relay = {"roles": [st.PARTICIPANT_ROLE_RELAY], "rights": [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS]}
        self.participant("app", **relay)

    def participant(self, name: str, **more: Any) -> None:
        fields = {"roles": [st.PARTICIPANT_ROLE_HOLDER], "active": True, **more}
        message = st.ParticipantStatement(participant_id=name, name={"en": name, "ko": name}, **fields)
        self.add(EntryKind.PARTICIPANT, codec.public_tag(f"participant/{name}"), message)

    def enrol(self, number: int) -> bytes:
        """Enrol a person with a consent: the hospital's clinical data, to the bank, for care management."""
        tag = hashlib.sha256(b"person %d" % number).digest()
        enrolment = st.EnrolStatement(identifier_hash=hashlib.sha256(b"id %d" % number).digest(), scheme="test")
        self.add(EntryKind.ENROL, tag, enrolment)
        root = model.Provision(
            effect=model.Effect.PERMIT, actors=("bank",), holders=("hospital",), purposes=("CAREMGT",),
            categories=("CLIN.DX",), actions=("access",),
        )
        grant = st.GrantStatement(consent=consent_message(model.Consent(kind=model.Kind.CONSENT, root=root)))
        self.add(EntryKind.GRANT, tag, grant)
        return tag

    def ask(
        self, tag: bytes, *, purpose: str = "CAREMGT", lie: bool = False, time_ms: int | None = None,
        key: ed25519.KeyPair | None = None, asker: str = "bank", request_id: bytes | None = None,
        identifier: str = "someone", hashed: bytes = b"", **actor: Any,
    ) -> None:
        """Append the answer to a question: permitted for care management, not for research, or, for a *lie*, the
        other way round. *key*: the asker's, who signed the question. *identifier*: the person's, as the question
        has it. *actor*: fields of the bank's ``Actor``. *hashed*: the hash of an identifier, if *tag* is an unknown
        chain."""
        question = pb.Question(
            subject=None if hashed else pb.Subject(scheme="test", value=identifier),
            actor=pb.Actor(**{"organisation": "bank"} | actor),
            holder="hospital", purpose=purpose, action="access", categories=["CLIN.DX"],
        )
        permitted = (purpose == "CAREMGT") is not lie
        decision = pb.Decision(
            outcome=pb.OUTCOME_PERMIT if permitted else pb.OUTCOME_NO_CONSENT,
            permitted=["CLIN.DX"] if permitted else [],
            without_consent=[] if permitted else ["CLIN.DX"],
            revision=pb.Revision(tree_size=self.size),
            decision_id=hashlib.blake2b(b"decision %d" % self.size, digest_size=16).hexdigest(),
            tag=b"" if hashed else tag,
            ref=2 if permitted else 0,
            vocabulary_version=DEFAULT_VOCABULARY.version,
            combining=pb.COMBINING_DENY_OVERRIDES,
            decided_time_ms=self.time_ms + STEP_MS if time_ms is None else time_ms,
        )
        if permitted:
            decision.reasons.add(
                code=pb.REASON_CODE_PERMITTED_BY_CONSENT, effect=pb.EFFECT_PERMIT, consent_id=consent_id(tag, 2),
                version=1,
            )
        else:
            decision.reasons.add(code=pb.REASON_CODE_NO_MATCHING_CONSENT)
        asked = st.AskedQuestion(question=question.SerializeToString(), asker=asker, network_origin="test")
        if key is not None:
            asked.key, asked.author_time_ms, asked.signed_tag = key.public_key, decision.decided_time_ms, tag
            asked.signature = key.sign(
                codec.signed_message(
                    origin=ORIGIN, kind=codec.QUESTION_KIND, tag=tag, ref=0,
                    request_id=self._request_id() if request_id is None else request_id,
                    author_time_ms=asked.author_time_ms, payload=asked.question,
                )
            )
        record = st.AccessStatement(asked=asked, decision=decision)
        self.asked.append(self.size)
        if permitted:
            self.add(EntryKind.ACCESS, tag, record, ref=2, time_ms=time_ms, request_id=request_id)
        else:
            refusal = st.RefusalStatement(access=record, identifier_hash=hashed)
            self.add(EntryKind.REFUSAL, tag, refusal, time_ms=time_ms, request_id=request_id)

    # -- publishing -------------------------------------------------------------------------------------------

    def root(self) -> bytes:
        return tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves])[0].root()

    def note(self) -> bytes:
        return checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, self.size, self.root()), [LOG])

    def write(self, directory: Path, statements: Path | None = None) -> ExportDirectory:
        """Write the layout of tlog-tiles, and the openings."""
        edge, stored = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.leaves])
        files = {tiles.tile_path(level, n, len(row) // 32): row for (level, n), row in stored.items()}
        kept = {}
        for start in range(0, self.size, 256):
            part = self.leaves[start : start + 256]
            files[tiles.entries_path(start // 256, len(part))] = tiles.encode_bundle(part)
            kept[statements_path(start // 256, len(part))] = encode_openings(self.openings[start : start + 256])
        files["checkpoint"] = checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, self.size, edge.root()), [LOG])
        _write(directory, files)
        if statements is not None:
            _write(statements, kept)
        return ExportDirectory(directory, statements)


@lru_cache(maxsize=1)
def _half(size: int) -> Forge:
    return make_forge(size // 2)


def make_half(size: int) -> Forge:
    """Make the first half of a ledger of *size* leaves; of a large one it is made once."""
    return _half(size).fork()


def make_forge(size: int, *, people: int = 0, seal_every: int = 100, map_bits: int = 0) -> Forge:
    """Make a sound ledger of at least *size* leaves: people who enrol, consent, and are asked about again and again."""
    forge = Forge(map_bits or (MAP_BITS if size < MANY else 12))
    forge.begin()
    people = people or max(4, size // 20)
    tags: list[bytes] = []
    number = 0
    while forge.size < size - 1:
        if len(tags) < people and number % 3 == 0:
            tags.append(forge.enrol(len(tags)))
        else:
            tag = tags[number * 7919 % len(tags)]
            forge.ask(tag, purpose="HRESCH" if number % 5 == 0 else "CAREMGT")
        if forge.size - (forge.seals[-1] if forge.seals else 0) >= seal_every:
            forge.seal()
        number += 1
    if forge.seals[-1:] != [forge.size - 1]:
        forge.seal()
    return forge


@dataclass(frozen=True)
class PrunedLocation:
    """An export that has before *start* only what a pruned ledger keeps: public chains, each person's first and last.

    Attributes:
        start: the size of the tree that ends in that seal.
        kept_from_ms: from when on statements are kept; 0: from that seal on.
    """

    forge: Forge
    export: ExportDirectory
    start: int
    kept_from_ms: int = 0

    @property
    def gone(self) -> frozenset[int]:
        """The indexes of leaves that are not there any more."""
        public = {leaf[10:42] for leaf in self.forge.leaves if leaf[1] in (EntryKind.LEDGER, EntryKind.PARTICIPANT)}
        public |= {leaf[10:42] for leaf in self.forge.leaves if leaf[1] in (EntryKind.VOCABULARY, EntryKind.RULES)}
        last = {leaf[10:42]: at for at, leaf in enumerate(self.forge.leaves[: self.start]) if leaf[1]}
        return frozenset(
            at
            for at, leaf in enumerate(self.forge.leaves[: self.start - 1])
            if not leaf[1] or not (leaf[10:42] in public or leaf[1] == EntryKind.ENROL or last[leaf[10:42]] == at)
        )

    def open(self) -> "PrunedSource":
        return PrunedSource(self)


class PrunedSource:
    is_whole = False

    def __init__(self, location: PrunedLocation) -> None:
        self._export, self._start, self._gone = location.export, location.start, location.gone
        self._kept_from_ms = location.kept_from_ms
        self.checkpoint, self.tile, self.close = self._export.checkpoint, self._export.tile, self._export.close

    def pruned(self) -> Pruned:
        n, at = divmod(self._start - 1, 256)
        seal = codec.decode_leaf(self._export.leaves(n, 256)[at])
        return Pruned(self._kept_from_ms or seal.time_ms + 1, self._start)

    def rotations(self) -> tuple[()]:
        return ()

    def leaves(self, n: int, width: int) -> list[bytes]:
        return [b"" if 256 * n + at in self._gone else leaf for at, leaf in enumerate(self._export.leaves(n, width))]

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[bytes | None] | None:
        found = self._export.openings(n, leaves)
        return found and [opening if leaf else None for opening, leaf in zip(found, leaves, strict=True)]


def _write(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
