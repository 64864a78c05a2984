"""The map at earlier seals: each proof leads to the root in that seal, also after layers were merged."""

import random

import pytest

from consentd.core import codec, patricia
from consentd.errors import NotReachedError
from consentd.ledger.map import TagMap
from consentd.ledger.map_history import MapHistory
from consentd.store import Batch
from consentd.store.memory import MemoryStore

Heads = dict[bytes, tuple[int, bytes]]


class Seals:
    """A map, a copy of what every seal committed to, and the tags there are."""

    def __init__(self, map_bits: int, **options: int) -> None:
        self.store = MemoryStore()
        self.map = TagMap(self.store, map_bits)
        self.map.history = MapHistory(0, **options)
        self.heads: Heads = {}
        self.roots: dict[int, bytes] = {}
        self.states: dict[int, Heads] = {}

    def seal(self, size: int, changes: Heads) -> None:
        batch = Batch()
        self.map.update(changes, batch, size)
        self.store.write(batch)
        self.heads |= changes
        self.roots[size], self.states[size] = self.map.root(), dict(self.heads)

    def check(self, tag: bytes, size: int | None) -> None:
        """Prove and verify the head that a tag had at a seal."""
        last = max(self.roots) if size is None else size
        present, proof = self.map.prove(tag, size)
        head = self.states[last].get(tag)
        assert present == (head is not None)
        if head is None:
            patricia.verify_absence(self.roots[last], codec.map_key(tag), proof)
        else:
            patricia.verify_presence(self.roots[last], codec.map_key(tag), codec.map_value(tag, *head), proof)


@pytest.mark.parametrize("map_bits", [1, 4, 9])
@pytest.mark.parametrize("seed", range(4))
def test_every_seal_that_is_kept_can_be_proven_against(map_bits: int, seed: int) -> None:
    chance = random.Random(seed)
    tags = [chance.randbytes(32) for _ in range(60)]
    seals = Seals(map_bits)
    layers = seals.map.history
    assert layers is not None
    kept: set[int] = set()
    for size in range(2, 90, 2):
        seals.seal(size, {tag: (size, chance.randbytes(32)) for tag in chance.sample(tags, chance.randint(1, 5))})
        # As the sequencer does: the seal before this one may be kept, the others only where they were before.
        kept = {each for each in kept | {size - 2} if chance.random() < 0.6}
        layers.keep(kept)
        for each in kept & seals.roots.keys():
            for tag in chance.sample(tags, 6):
                seals.check(tag, each)
        seals.check(chance.choice(tags), None)
        for each in seals.roots.keys() - kept - {size}:
            with pytest.raises(NotReachedError):
                seals.map.prove(tags[0], each)


def test_layers_are_as_many_as_seals_that_are_kept() -> None:
    seals = Seals(4)
    layers = seals.map.history
    assert layers is not None
    for size in range(2, 400, 2):
        seals.seal(size, {bytes([size % 7]) * 32: (size, b"h" * 32)})
        layers.keep({2, 4})
        assert len(layers._layers) <= 2
    seals.check(b"\4" * 32, 2)
    seals.check(b"\4" * 32, 4)


def test_beyond_its_limit_it_forgets_and_begins_again() -> None:
    seals = Seals(9, limit_bytes=30_000)
    layers = seals.map.history
    assert layers is not None
    chance = random.Random(1)
    sizes = range(2, 200, 2)
    for size in sizes:
        seals.seal(size, {chance.randbytes(32): (1, b"h" * 32) for _ in range(3)})
        layers.keep({2})
    with pytest.raises(NotReachedError):
        seals.map.prove(b"t" * 32, 2)
    seals.seal(300, {b"t" * 32: (1, b"h" * 32)})
    layers.keep({sizes[-1]})
    seals.check(b"t" * 32, sizes[-1])
    seals.check(b"t" * 32, None)
