"""Ledgers as bare leaves, made by the replay rule and nothing else: no store, no statements."""

import random

from cases import reference_tree
from consentd.core import codec
from consentd.core.codec import Event, Seal
from consentd.core.kinds import EntryKind
from consentd.core.replay import Replay


class Made:
    """The leaves of a ledger, made at random by the replay rule, for up to 256 tags."""

    def __init__(self, rng: random.Random, size: int, *, erase: bool = False) -> None:
        self.leaves: list[bytes] = []
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.time_ms = 1
        self.prev_seal = codec.ZERO_HASH
        erased: set[bytes] = set()
        for _ in range(size):
            self.time_ms += rng.choice([0, 0, 1, 1000])
            if self.leaves and codec.kind_of(self.leaves[-1]) and rng.random() < 0.2:
                self.seal()
                continue
            tag = bytes([rng.randrange(256)]) + bytes(31)
            if tag in erased:
                continue
            kind = EntryKind.ERASURE if erase and rng.random() < 0.1 else EntryKind.SERVED
            if kind is EntryKind.ERASURE:
                erased.add(tag)
            self.event(tag, kind, rng.randbytes(32))

    def event(self, tag: bytes, kind: int = EntryKind.SERVED, commit: bytes = bytes(32)) -> None:
        count, head = self.heads.get(tag, (0, codec.ZERO_HASH))
        leaf = codec.encode_event(Event(kind, self.time_ms, tag, count + 1, head, commit, 0))
        self.heads[tag] = (count + 1, codec.chain_hash(leaf))
        self.leaves.append(leaf)

    def seal(self) -> None:
        pairs = {codec.map_key(tag): codec.map_value(tag, *head) for tag, head in self.heads.items()}
        root = reference_tree.root_of(pairs)
        leaf = codec.encode_seal(Seal(self.time_ms, len(self.leaves), root, len(pairs), self.prev_seal))
        self.prev_seal = codec.chain_hash(leaf)
        self.leaves.append(leaf)


def replayed(leaves: list[bytes], map_bits: int = 4) -> Replay:
    replay = Replay(map_bits)
    for leaf in leaves:
        replay.add(leaf)
    return replay
