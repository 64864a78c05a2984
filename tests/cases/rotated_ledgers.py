"""Ledgers whose keys were replaced by rotations, made leaf by leaf, right or wrong, and evidence of them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cases.audits import DAEMON, LOG, MAP_BITS, ORIGIN, Forge
from cases.vectors_notes import WITNESS
from consentd.core import bucketed, checkpoint, codec, merkle, note, tiles
from consentd.core.ed25519 import KeyPair
from consentd.core.evidence import Evidence, Scope, SingleEntry
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, RotationProof
from consentd.core.kinds import EntryKind
from consentd.core.replay import Replay, ReplayError
from consentd.core.rotation import Rotation, RotationRole, rotation_message
from consentd.v1 import statement_pb2 as st

LOGS = [LOG, *(note.Signer(ORIGIN, KeyPair(bytes([seed]) * 32)) for seed in (0x41, 0x42, 0x43))]
"""The log keys, in the order in which rotations put them in force."""
DAEMONS = [DAEMON, *(KeyPair(bytes([seed]) * 32) for seed in (0x51, 0x52, 0x53))]
"""The statement keys, in the same way."""
POLICY = f"witness w {note.format_vkey(WITNESS.verifier)}\nquorum w\n".encode()
NAMES = {codec.public_tag(name): name for name in ("ledger", *(f"participant/{one}" for one in ("bank", "app")))}

START_MS = 1_700_000_000_000
"""Time of the first entry: in the past, so that readers that compare their clock accept it."""

Message = dict[str, Any]


def rotation(
    role: RotationRole, old: KeyPair | bytes, new: KeyPair | bytes, from_size: int, *, reason: str = "planned",
    signer: KeyPair | None = None, origin: str = ORIGIN, signed: Callable[[Rotation], Rotation] = lambda one: one,
) -> Message:  # fmt: skip
    """Return the fields of a rotation's message. *signer*: another key than the new one; *signed*: what it signs."""
    keys = [one.public_key if isinstance(one, KeyPair) else one for one in (old, new)]
    one = Rotation(
        role=role, old_key=keys[0], new_key=keys[1], from_size=from_size, reason=reason, new_signature=b""
    )  # fmt: skip
    signer = new if signer is None and isinstance(new, KeyPair) else signer
    signature = b"" if signer is None else signer.sign(rotation_message(signed(one), origin=origin))
    return {
        "role": int(role), "old_key": keys[0], "new_key": keys[1], "from_size": from_size, "reason": reason,
        "new_signature": signature,
    }  # fmt: skip


@dataclass
class Rotated:
    """A ledger being made, whose keys are replaced on the way.

    Attributes:
        notes: the signed checkpoint of each size that ends in a seal.
        log, daemon: positions in ``LOGS`` and ``DAEMONS`` of the keys in force for what is written next.
        hidden: indexes of entries that are only in proofs at the first checkpoint that has them, because another entry
            has taken their place in the map since.
    """

    forge: Forge = field(default_factory=lambda: Forge(map_bits=MAP_BITS, time_ms=START_MS))
    notes: dict[int, bytes] = field(default_factory=dict)
    log: int = 0
    daemon: int = 0
    person: bytes = b""
    hidden: set[int] = field(default_factory=set)

    def begin(self) -> "Rotated":
        self.forge.begin()
        self.person = self.forge.enrol(1)
        self.seal()
        return self

    def fork(self) -> "Rotated":
        """Return another ledger that begins with this one."""
        return Rotated(
            self.forge.fork(), self.notes.copy(), self.log, self.daemon, self.person, self.hidden.copy()
        )

    @property
    def size(self) -> int:
        return self.forge.size

    def ask(self, *, key: KeyPair | None = None, time_ms: int | None = None) -> int:
        """Append an access of the person, signed with the statement key in force or with *key*; return its index."""
        forge = self.forge
        forge.add(EntryKind.ACCESS, self.person, st.AccessStatement(), ref=2, key=key or self._daemon, time_ms=time_ms)
        return forge.size - 1

    @property
    def _daemon(self) -> KeyPair:
        return DAEMONS[self.daemon]

    def state(self, message: Message, *, key: KeyPair | None = None, **beside: Any) -> int:
        """Append a LEDGER entry with the rotation that *message* has; return its index."""
        fields = {"origin": ORIGIN, **beside}
        statement = st.LedgerStatement(rotation=st.Rotation(**message), **fields)
        self.forge.add(EntryKind.LEDGER, codec.LEDGER_TAG, statement, key=key or self._daemon)
        return self.size - 1

    def rotate_log(self, *, ahead: int = 3, **changes: Any) -> int:
        """Replace the log key; return ``from_size``, which is *ahead* of the entry's index."""
        old, new = LOGS[self.log].key, LOGS[self.log + 1].key
        from_size = self.size + ahead
        self.state(rotation(RotationRole.LOG, old, new, from_size, **changes))
        return from_size

    def rotate_statement(self, **changes: Any) -> None:
        """Replace the statement key."""
        old, new = DAEMONS[self.daemon], DAEMONS[self.daemon + 1]
        self.state(rotation(RotationRole.STATEMENT, old, new, self.size + 1, **changes))
        self.daemon += 1

    def seal(self, *signers: note.Signer, cosigned: bool = True) -> int:
        """Append a seal, and sign the tree with the log key in force or with *signers*; return the tree's size."""
        self.forge.seal()
        self.notes[self.size] = self.sign(*signers, cosigned=cosigned)
        return self.size

    def sign(self, *signers: note.Signer, cosigned: bool = True) -> bytes:
        """Return a checkpoint of all leaves, as ``seal``."""
        text = checkpoint.format_checkpoint(checkpoint.Checkpoint(ORIGIN, self.size, self.forge.root()))
        lines = [signer.sign(text) for signer in signers or (LOGS[self.log],)]
        if cosigned:
            lines.append(WITNESS.cosign(text, self.forge.time_ms // 1000))
        return note.format_note(text, lines)

    # -- proofs -----------------------------------------------------------------------------------------------

    def _tiles(self, size: int) -> dict[tiles.Coordinates, bytes]:
        return tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in self.forge.leaves[:size]])[1]

    def chains(self, size: int, tags: Sequence[bytes]) -> tuple[ChainProof, ...]:
        """Prove chains at the tree of this size."""
        replay = Replay(MAP_BITS)
        for leaf in self.forge.leaves[:size]:
            try:
                replay.add(leaf)
            except ReplayError:
                replay.add_faulty(leaf)
        return tuple(self._chain(replay, size, tag) for tag in tags)

    def _chain(self, replay: Replay, size: int, tag: bytes) -> ChainProof:
        rows = zip(self.forge.leaves[:size], self.forge.openings[:size], strict=True)
        entries = tuple(
            HistoryEntry(leaf, None if opening is None else (opening[:32], opening[32:]))
            for index, (leaf, opening) in enumerate(rows)
            if leaf[1] and leaf[10:42] == tag and (index not in self.hidden or size <= index + 2)
        )
        key = codec.map_key(tag)
        number = replay.top.plan_neighbour(bucketed.bucket_of(key, MAP_BITS))
        _, proof = bucketed.prove(key, b"" if number is None else replay.buckets[number], replay.top)
        count, head, _ = replay.heads[tag]
        return ChainProof(
            tag=tag, public_name=NAMES.get(tag, ""), count=count, head=head, map_proof=proof, first_seq=1,
            entries=entries,
        )  # fmt: skip

    def rotation_proof(self, size: int, following: int) -> RotationProof:
        """Prove chain `ledger` at this size, and that the tree of size *following* begins with this one."""
        stored = self._tiles(size)
        return RotationProof(
            checkpoint=self.notes[size], seal=self.forge.leaves[size - 1],
            seal_inclusion=tuple(tiles.prove_inclusion(size - 1, size, stored)),
            history=self.chains(size, [codec.LEDGER_TAG])[0],
            consistency=tuple(tiles.prove_consistency(size, following, self._tiles(following))),
        )  # fmt: skip

    def proof(self, size: int, tags: Sequence[bytes], steps: Sequence[int] = ()) -> HistoryProof:
        """Prove chains at a size, with rotations at the sizes *steps*."""
        ends = [*steps, size][1:]
        return HistoryProof(
            checkpoint=self.notes[size], consistency=(), seal=self.forge.leaves[size - 1],
            seal_inclusion=tuple(tiles.prove_inclusion(size - 1, size, self._tiles(size))),
            chains=self.chains(size, tags),
            rotations=tuple(self.rotation_proof(one, end) for one, end in zip(steps, ends, strict=True)),
        )  # fmt: skip

    def evidence(self, size: int, steps: Sequence[int] = (), *, scope: Scope | None = None) -> Evidence:
        """Make evidence of the person's chain, or of another *scope*, at a size."""
        scope = Scope(tag=self.person) if scope is None else scope
        tags = [codec.LEDGER_TAG] if scope.chain in (b"", codec.LEDGER_TAG) else [scope.chain, codec.LEDGER_TAG]
        proof, stored = self.proof(size, tags, steps), self._tiles(size)
        singles = tuple(
            SingleEntry(
                index, HistoryEntry(leaf, None if opening is None else (opening[:32], opening[32:])),
                tuple(tiles.prove_inclusion(index, size, stored)),
            )
            for index, (leaf, opening) in enumerate(zip(self.forge.leaves, self.forge.openings, strict=True))
            if scope.first <= index <= scope.last
        )  # fmt: skip
        return Evidence(scope=scope, proof=proof, entries=singles)


@dataclass(frozen=True, slots=True)
class Story:
    """A ledger with three rotations: log, statement, log.

    Attributes:
        first: size of the first checkpoint. *steps*: of the last ones of log keys 0 and 1. *last*: of the latest one.
    """

    ledger: Rotated
    first: int
    steps: tuple[int, int]
    last: int


def one_log() -> tuple[Rotated, int, int]:
    """Return a ledger whose log key was replaced; the size of the last old checkpoint, and of the latest."""
    made = Rotated().begin()
    made.rotate_log()
    step = made.seal()
    made.log = 1
    made.ask()
    return made, step, made.seal()


def one_statement() -> tuple[Rotated, int]:
    """Return a ledger whose statement key was replaced, and the size of its latest checkpoint."""
    made = Rotated().begin()
    made.ask()
    made.rotate_statement()
    made.ask()
    return made, made.seal()


def story(*, ahead: int = 3) -> Story:
    """Return the ledger of three rotations. *ahead*: how far each from_size is ahead of its entry."""
    made = Rotated().begin()
    first = made.size
    from_size = made.rotate_log(ahead=ahead)
    one = made.seal()
    made.log = 1
    made.ask()
    while made.size + 1 < from_size:
        made.ask()
    made.seal()
    made.rotate_statement()
    made.ask()
    made.rotate_log(reason="정기 교체")
    two = made.seal()
    made.log = 2
    made.ask()
    return Story(made, first, (one, two), made.seal())


def changed(document: Any, change: Callable[[Any], object]) -> Any:
    """Return a copy of a document that *change* has changed."""
    other = copy.deepcopy(document)
    change(other)
    return other
