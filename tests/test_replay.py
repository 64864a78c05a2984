"""The replay rule: leaves of a real ledger replay, and whatever breaks the rule is named by its index."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import reference_tree
from cases.ledgers import LedgerCase, check_ledger, flip
from cases.made_leaves import Made, replayed
from consentd.core import codec, merkle
from consentd.core.codec import Event, Seal
from consentd.core.kinds import EntryKind
from consentd.core.replay import Replay, ReplayError
from consentd.errors import ProofError
from consentd.ledger import reads


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """All leaves of a ledger with five seals."""
    case = LedgerCase(tmp_path_factory.mktemp("replay"))
    case.fill(12, accesses=1)
    yield reads.read_leaves(case.store, 0, case.ledger.state.size)
    check_ledger(case)
    case.close()


def fault_of(leaves: list[bytes]) -> ReplayError:
    with pytest.raises(ReplayError) as raised:
        replayed(leaves)
    return raised.value


def test_a_real_ledger_replays(leaves: list[bytes]) -> None:
    replay = replayed(leaves)
    assert replay.size == len(leaves)
    assert replay.root() == reference_tree.Naive(leaves).root(len(leaves))
    last = codec.decode_leaf(leaves[-1])
    assert isinstance(last, Seal)
    assert replay.map_root() == last.map_root
    assert len(replay.heads) == last.tags
    assert (replay.sealed_size, replay.seal_hash) == (len(leaves), codec.chain_hash(leaves[-1]))
    assert replay.time_ms == last.time_ms


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 400), bits=st.integers(1, 10))
def test_it_agrees_with_the_rule_as_written_down(seed: int, size: int, bits: int) -> None:
    made = Made(random.Random(seed), size, erase=bool(seed % 2))
    replay = replayed(made.leaves, bits)
    assert {tag: head[:2] for tag, head in replay.heads.items()} == made.heads
    assert replay.seal_hash == made.prev_seal
    assert replay.root() == reference_tree.Naive(made.leaves).root(len(made.leaves))


def test_growing_yields_each_tile_as_it_is(leaves: list[bytes]) -> None:
    made = Made(random.Random(1), 700)
    replay, tiles = Replay(), {}
    for index, leaf in enumerate(made.leaves):
        replay.add(leaf)
        if index % 100 == 0:
            tiles.update(replay.grow())
    tiles.update(replay.grow())
    assert replay.grow() == {}
    assert tiles == reference_tree.Naive(made.leaves).tiles(len(made.leaves))


def test_any_changed_byte_is_found_by_the_next_seal(leaves: list[bytes]) -> None:
    """A leaf altered anywhere breaks the rule at once, at its chain's next leaf, or at the next seal, or its hash
    differs: what is outside the chains' and seals' reach is only the last seal's own bytes."""
    rng = random.Random(3)
    root = replayed(leaves).root()
    seals = [index for index, leaf in enumerate(leaves) if codec.kind_of(leaf) == codec.SEAL_KIND]
    for index, leaf in enumerate(leaves[:-1]):
        for at in rng.sample(range(len(leaf)), 8):
            altered = [*leaves[:index], flip(at, 1 << rng.randrange(8))(leaf), *leaves[index + 1 :]]
            next_seal = next(seal for seal in seals if seal > index)
            assert index <= fault_of(altered).index <= next_seal
    altered = [*leaves[:-1], flip(5, 4)(leaves[-1])]
    assert replayed(altered).root() != root


@pytest.mark.parametrize("seed", range(5))
def test_dropped_repeated_and_swapped_leaves_are_named(seed: int) -> None:
    rng = random.Random(seed)
    made = Made(rng, 120)
    made.event(b"z" * 32)
    made.seal()
    leaves = made.leaves
    for index in range(len(leaves) - 1):
        assert fault_of(leaves[:index] + leaves[index + 1 :]).index >= index
        # Once more in the very next place, the chain has it already, or a seal covers nothing.
        assert fault_of([*leaves[:index], leaves[index], *leaves[index:]]).index == index + 1
    for index in range(len(leaves) - 2):
        if leaves[index] != leaves[index + 1]:
            swapped = [*leaves[:index], leaves[index + 1], leaves[index], *leaves[index + 2 :]]
            first, second = codec.decode_leaf(leaves[index]), codec.decode_leaf(leaves[index + 1])
            both = isinstance(first, Event) and isinstance(second, Event)
            if both and first.time_ms == second.time_ms and first.tag != second.tag:  # type: ignore[union-attr]
                assert replayed(swapped).root() != replayed(leaves).root()
            else:
                assert fault_of(swapped).index in (index, index + 1, index + 2)


def broken(made: Made, leaf: bytes) -> str:
    """Return why this leaf may not be the next one."""
    error = fault_of([*made.leaves, leaf])
    assert error.index == len(made.leaves)
    assert isinstance(error, ProofError)
    return str(error)


def test_each_part_of_the_rule_for_events() -> None:
    made = Made(random.Random(0), 0)
    made.time_ms = 100
    made.event(b"a" * 32)
    head = made.heads[b"a" * 32][1]
    good = Event(8, 100, b"a" * 32, 2, head, bytes(32), 1)
    replayed([*made.leaves, codec.encode_event(good)])

    def why(**changes: object) -> str:
        return broken(made, codec.encode_event(replace(good, **changes)))  # type: ignore[arg-type]

    assert "time" in why(time_ms=99)
    assert "seq" in why(seq=3)
    assert "seq" in why(seq=1, prev=bytes(32), ref=0)
    assert "seq" in why(tag=b"b" * 32)
    assert "prev" in why(prev=b"p" * 32)
    assert "ref" in why(ref=2)
    assert "reserved" in why(kind=255)
    assert "version" in broken(made, b"\2" + codec.encode_event(good)[1:])
    assert "length" in broken(made, codec.encode_event(good) + b"\0")
    assert "short" in broken(made, b"")
    made.event(b"a" * 32, EntryKind.ERASURE)
    after = replace(good, seq=3, prev=made.heads[b"a" * 32][1])
    assert "ERASURE" in broken(made, codec.encode_event(after))


def test_each_part_of_the_rule_for_seals() -> None:
    made = Made(random.Random(0), 0)
    assert "covers no new event" in broken(made, codec.encode_seal(Seal(1, 0, merkle.EMPTY_ROOT, 0, bytes(32))))
    made.event(b"a" * 32)
    made.seal()
    made.event(b"b" * 32)
    made.seal()
    good = codec.decode_leaf(made.leaves.pop())
    assert isinstance(good, Seal)

    def why(**changes: object) -> str:
        return broken(made, codec.encode_seal(replace(good, **changes)))  # type: ignore[arg-type]

    assert "covers" in why(covers=2)
    assert "prev_seal" in why(prev_seal=bytes(32))
    assert "tags" in why(tags=1)
    assert "map root" in why(map_root=bytes(32))
    assert "time" in why(time_ms=0)
    made.leaves.append(codec.encode_seal(good))
    again = Seal(1, 4, good.map_root, 2, codec.chain_hash(made.leaves[-1]))
    assert "covers no new event" in broken(made, codec.encode_seal(again))


def test_a_refused_leaf_changes_nothing(leaves: list[bytes]) -> None:
    replay = Replay(4)
    for leaf in leaves:
        locations = (11, 20, 57, 60) if codec.kind_of(leaf) == codec.SEAL_KIND else (49, 60)
        for bad in (b"", leaf[1:], *(flip(at)(leaf) for at in locations)):
            with pytest.raises(ReplayError):
                replay.add(bad)
        replay.add(leaf)
    assert replay.root() == replayed(leaves).root()


# -- after a fault ----------------------------------------------------------------------------------------------


def replayed_damaged(leaves: list[bytes], damaged: dict[int, bytes | None]) -> tuple[Replay, list[int]]:
    """Replay with some leaves damaged (None: unreadable), as a verification of files does; return what else broke."""
    replay, faults = Replay(4), []
    for index, leaf in enumerate(leaves):
        found = damaged.get(index, leaf)
        if found is None:
            replay.skip_unreadable(merkle.leaf_hash(leaf))
        elif found != leaf:
            replay.add_faulty(found, merkle.leaf_hash(leaf))
        else:
            try:
                replay.add(leaf)
            except ReplayError as error:
                faults.append(error.index)
                replay.add_faulty(leaf)
    return replay, faults


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1 << 32), fraction=st.floats(0, 0.2))
def test_unreadable_leaves_condemn_no_others(seed: int, fraction: float) -> None:
    rng = random.Random(seed)
    made = Made(rng, 200)
    damaged = {index: None for index in range(len(made.leaves)) if rng.random() < fraction}
    replay, faults = replayed_damaged(made.leaves, damaged)
    assert faults == []
    assert replay.root() == reference_tree.Naive(made.leaves).root(len(made.leaves))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1 << 32))
def test_a_damaged_commitment_condemns_no_other_leaf(seed: int) -> None:
    rng = random.Random(seed)
    made = Made(rng, 150)
    events = [index for index, leaf in enumerate(made.leaves) if codec.kind_of(leaf)]
    index = rng.choice(events)
    replay, faults = replayed_damaged(made.leaves, {index: flip(82 + rng.randrange(32))(made.leaves[index])})
    assert faults == []
    # Once its chain continues, its head is known again, and map roots are compared as before.
    made.event(codec.tag_of(made.leaves[index]))
    made.seal()
    replay, faults = replayed_damaged(made.leaves, {index: flip(90)(made.leaves[index])})
    assert replay.knows_all_heads
    assert faults == []
    made.leaves[-1] = flip(20)(made.leaves[-1])
    assert replayed_damaged(made.leaves, {index: flip(90)(made.leaves[index])})[1] == [len(made.leaves) - 1]


def test_a_second_fault_after_a_first_is_found(leaves: list[bytes]) -> None:
    made = Made(random.Random(5), 300)
    first, second = (next(i for i in range(start, 300) if codec.kind_of(made.leaves[i])) for start in (10, 250))
    wrong = codec.decode_leaf(made.leaves[second])
    assert isinstance(wrong, Event)
    made.leaves[second] = codec.encode_event(replace(wrong, seq=wrong.seq + 40, prev=b"p" * 32))
    _, faults = replayed_damaged(made.leaves, {first: flip(100)(made.leaves[first])})
    assert faults[0] == second


def test_a_gap_no_missing_leaf_explains_is_a_fault() -> None:
    made = Made(random.Random(5), 0)
    for _ in range(4):
        made.event(b"a" * 32)
    replay = Replay(4)
    replay.add(made.leaves[0])
    replay.skip_unreadable(merkle.leaf_hash(made.leaves[1]))
    assert not replay.knows_all_heads
    with pytest.raises(ReplayError) as caught:
        replay.add(made.leaves[3])
    assert caught.value.index == 2
    replay.add(made.leaves[2])
    assert replay.knows_all_heads


def test_the_replayed_files_are_the_ledgers_own(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(3)
    replay = check_ledger(case, case.ledger.state.size)
    assert replay.map_root() == case.ledger.state.map_root
    case.close()
