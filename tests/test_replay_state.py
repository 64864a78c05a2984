"""A replay that is saved, restored and continued is the replay that was never interrupted."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.made_leaves import Made, replayed
from consentd.core import codec, merkle, tiles
from consentd.core.bucketed import Top
from consentd.core.replay import Replay, ReplayError
from consentd.core.replay_state import (
    ReplayState,
    build_map,
    decode_head,
    decode_heads,
    decode_state,
    encode_head,
    encode_heads,
    encode_state,
)
from consentd.errors import MalformedError


def restored(replay: Replay, *, rebuild: bool) -> Replay:
    """Save a replay as bytes and restore it, with the map stored or (after a seal alone) built from the heads."""
    replay.grow()
    state = decode_state(encode_state(replay.state()))
    heads = decode_heads(b"".join(encode_heads(replay.heads)))
    assert heads == replay.heads
    bits = replay.top.map_bits
    if rebuild:
        buckets, top = build_map(heads, bits)
        assert buckets == replay.buckets
    else:
        buckets, top = dict(replay.buckets), Top.from_buckets(bits, replay.buckets.items())
    assert top.root() == replay.map_root()
    return Replay.restore(state, heads=heads, buckets=buckets, top=top)


def same(one: Replay, other: Replay) -> bool:
    pairs = ((replay.root(), replay.map_root(), replay.state(), dict(replay.heads)) for replay in (one, other))
    return next(pairs) == next(pairs)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 300))
def test_a_restored_replay_continues_as_if_it_had_not_stopped(seed: int, size: int) -> None:
    rng = random.Random(seed)
    leaves = Made(rng, size, erase=True).leaves
    at = rng.randrange(len(leaves) + 1)
    again = restored(replayed(leaves[:at]), rebuild=False)
    for leaf in leaves[at:]:
        again.add(leaf)
    assert same(again, replayed(leaves))


def test_after_a_seal_the_heads_are_enough() -> None:
    made = Made(random.Random(4), 200)
    made.event(b"x" * 32)
    made.seal()
    again, whole = restored(replayed(made.leaves), rebuild=True), replayed(made.leaves)
    made.event(b"x" * 32)
    made.seal()
    for leaf in made.leaves[whole.size :]:
        again.add(leaf)
        whole.add(leaf)
    assert same(again, whole)


def test_what_was_unreadable_is_still_unknown_after_restoring() -> None:
    made = Made(random.Random(5), 0)
    for tag in (b"a" * 32, b"b" * 32, b"a" * 32):
        made.event(tag)
    replay = Replay(4)
    replay.add(made.leaves[0])
    replay.skip_unreadable(merkle.leaf_hash(made.leaves[1]))
    again = restored(replay, rebuild=False)
    assert not again.knows_all_heads
    again.add(made.leaves[2])
    with pytest.raises(ReplayError):  # one leaf is missing, and a gap of two is not explained by it
        again.add(codec.encode_event(codec.Event(8, made.time_ms, b"c" * 32, 3, b"p" * 32, bytes(32), 0)))
    damaged = Replay(4)
    damaged.add_faulty(made.leaves[0], merkle.leaf_hash(b"other"))
    again = restored(damaged, rebuild=False)
    assert not again.knows_all_heads
    again.add(made.leaves[2])
    assert again.knows_all_heads


def test_a_replay_starts_after_a_trusted_checkpoint() -> None:
    made = Made(random.Random(6), 60)
    made.event(b"x" * 32)
    made.seal()
    whole = replayed(made.leaves)
    whole.grow()
    later = Replay.after_trusted(whole.edge)
    assert not later.knows_all_heads
    made.event(b"x" * 32)
    made.seal()
    for leaf in made.leaves[whole.size :]:
        later.add(leaf)
        whole.add(leaf)
    assert later.root() == whole.root()
    assert later.sealed_size == whole.sealed_size


def test_damaged_state_is_malformed() -> None:
    replay = replayed(Made(random.Random(7), 300).leaves)
    replay.grow()
    good = replay.state()
    data = encode_state(good)
    for end in range(len(data)):
        with pytest.raises(MalformedError):
            decode_state(data[:end])
    rng = random.Random(8)
    for _ in range(2000):
        at = rng.randrange(len(data))
        changed = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
        try:
            assert encode_state(decode_state(changed)) == changed
        except MalformedError:
            continue
    with pytest.raises(MalformedError):
        decode_state(data + b"\0")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 301},
        {"edge": tiles.Edge(300, (b"", b"x" * 32), ())},
        {"sealed_size": 301},
        {"seal_hash": b"x"},
        {"public": frozenset({b"short"})},
        {"unsealed": frozenset({b""})},
        {"unknown": frozenset({b"long" * 9})},
    ],
)
def test_state_with_impossible_lengths_is_malformed(changes: dict[str, object]) -> None:
    edge, _ = tiles.Edge().append([merkle.leaf_hash(b"%d" % index) for index in range(300)])
    good = ReplayState(size=300, time_ms=1, sealed_size=300, seal_hash=codec.ZERO_HASH, edge=edge)
    assert decode_state(encode_state(good)) == good
    bad = replace(good, **changes)  # type: ignore[arg-type]
    with pytest.raises(MalformedError):
        decode_state(encode_state(bad))


def test_heads_have_one_width() -> None:
    for head in ((3, b"h" * 32, False), (1, b"", True)):
        assert decode_head(encode_head(head)) == head
    with pytest.raises(MalformedError):
        decode_head(bytes(40))
    with pytest.raises(MalformedError):
        decode_heads(bytes(74))
