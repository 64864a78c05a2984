"""core/tiles: the stored tree, grown and read back, is the tree of the RFC."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.fuzz import assert_round_trip_or_malformed
from cases.reference_tree import Naive, leaves
from consentd.core import merkle, tiles
from consentd.core.tiles import ENTRIES, Edge
from consentd.errors import MalformedError, ProofError

BORDERS = (1, 2, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65793, 66000)
BIG = Naive(leaves(66_000))


def grown(batches: list[int]) -> tuple[Edge, dict[tuple[int, int], bytes]]:
    """Append leaves in batches of these sizes; return the edge and the tiles as a store would hold them."""
    edge, stored = Edge(), {}
    for batch in batches:
        edge, changed = edge.append(BIG.leaf_hashes[edge.size : edge.size + batch])
        for location, row in changed.items():
            assert row.startswith(stored.get(location, b"")), "a tile only grows"
            assert 0 < len(row) <= 8192
        stored.update(changed)
    return edge, stored


# -- growing


def test_leaf_by_leaf_each_edge_and_its_tiles_are_the_reference():
    edge, stored = Edge(), {}
    assert edge.root() == merkle.EMPTY_ROOT
    for size in range(1, 600):
        edge, changed = edge.append(BIG.leaf_hashes[size - 1 : size])
        stored.update(changed)
        assert edge.size == size
        assert edge.root() == BIG.root(size)
        assert Edge.from_tiles(size, stored) == edge
    assert stored == BIG.tiles(599)


@pytest.mark.parametrize("size", BORDERS)
def test_at_tile_borders(size):
    for batches in ([size], [size - 1, 1], [size // 2, size - size // 2]):
        edge, stored = grown(batches)
        assert edge.root() == BIG.root(size) == tiles.root(size, stored)
        assert stored == BIG.tiles(size)
        taken_up = Edge.from_tiles(size, {location: stored[location] for location in tiles.plan_root(size)})
        assert taken_up == edge


def test_grown_across_all_borders_in_batches_of_the_hot_path():
    batches, total, step = [], 0, 0
    while total < 66_000:
        step = step % 400 + 1
        batches.append(min(step, 66_000 - total))
        total += batches[-1]
    edge, stored = grown(batches)
    assert edge.root() == BIG.root(66_000)
    assert stored == BIG.tiles(66_000)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 400), max_size=12))
def test_batches_do_not_matter(batches):
    edge, stored = grown(batches)
    assert edge.root() == BIG.root(edge.size)
    assert stored == BIG.tiles(edge.size)
    assert Edge.from_tiles(edge.size, stored) == edge
    assert all(len(row) == 32 * (edge.size >> 8 * level & 255) for level, row in enumerate(edge.rows))


def test_an_append_tells_just_the_tiles_that_changed():
    edge, _ = grown([255])
    edge, changed = edge.append(BIG.leaf_hashes[255:257])
    assert {location: len(row) // 32 for location, row in changed.items()} == {(0, 0): 256, (0, 1): 1, (1, 0): 1}
    edge, changed = edge.append([])
    assert changed == {}
    assert edge.size == 257


def test_an_edge_leaves_the_one_it_grew_from_alone():
    before, _ = grown([300])
    rows, root = before.rows, before.root()
    one, _ = before.append([bytes(32)] * 300)
    two, _ = before.append(BIG.leaf_hashes[300:600])
    assert (before.rows, before.root()) == (rows, root)
    assert two.root() == BIG.root(600) != one.root()


def test_a_hash_of_another_length_cannot_be_appended():
    with pytest.raises(AssertionError):
        Edge().append([bytes(31)])


# -- proving


class Reads(dict):
    """Tiles that may be read only where they were planned."""

    def __init__(self, stored, planned):
        super().__init__({location: stored[location] for location in planned})
        self.unread = set(planned)

    def get(self, location, default=None):
        assert location in self, "read a tile that was not planned"
        self.unread.discard(location)
        return super().get(location, default)


def check_inclusion(index, size, stored):
    reads = Reads(stored, tiles.plan_inclusion(index, size))
    proof = tiles.prove_inclusion(index, size, reads)
    assert not reads.unread, "planned a tile that is not needed"
    assert proof == BIG.path(index, 0, size)
    merkle.verify_inclusion(proof, index=index, size=size, leaf_hash=BIG.leaf_hashes[index], root=BIG.root(size))


def check_consistency(size1, size2, stored):
    reads = Reads(stored, tiles.plan_consistency(size1, size2))
    proof = tiles.prove_consistency(size1, size2, reads)
    assert not reads.unread, "planned a tile that is not needed"
    assert proof == BIG.proof(size1, size2)
    merkle.verify_consistency(proof, size1=size1, root1=BIG.root(size1), size2=size2, root2=BIG.root(size2))


def test_every_proof_of_every_size_to_130():
    stored = BIG.tiles(130)
    for size in range(1, 131):
        assert tiles.root(size, Reads(stored, tiles.plan_root(size))) == BIG.root(size)
        for other in range(1, size + 1):
            check_inclusion(other - 1, size, stored)
            check_consistency(other, size, stored)


def test_proofs_at_tile_borders_from_tiles_that_have_grown_on():
    stored = BIG.tiles(66_000)
    for size in BORDERS:
        assert tiles.root(size, Reads(stored, tiles.plan_root(size))) == BIG.root(size)
        for other in (*BORDERS, 100, 40_000, size):
            if other <= size:
                check_inclusion(other - 1, size, stored)
                check_consistency(other, size, stored)


@settings(max_examples=50)
@given(st.data())
def test_proofs_anywhere(data):
    stored = BIG.tiles(66_000)
    size = data.draw(st.integers(1, 66_000))
    check_inclusion(data.draw(st.integers(0, size - 1)), size, stored)
    check_consistency(data.draw(st.integers(1, size)), size, stored)


def test_of_the_empty_tree_and_of_equal_sizes_there_is_nothing_to_read():
    assert tiles.plan_root(0) == []
    assert tiles.root(0, {}) == merkle.EMPTY_ROOT
    assert Edge.from_tiles(0, {}) == Edge()
    assert tiles.prove_consistency(7, 7, {}) == []
    assert tiles.prove_inclusion(0, 1, {}) == []


def test_a_missing_or_short_tile_is_bad_evidence():
    stored = BIG.tiles(700)
    for location in tiles.plan_inclusion(3, 700):
        for row in (b"", stored[location][:-32], stored[location][:31]):
            broken = {**stored, location: row}
            with pytest.raises(ProofError):
                tiles.prove_inclusion(3, 700, broken)
    for location in tiles.plan_root(700):
        with pytest.raises(ProofError):
            Edge.from_tiles(700, {**stored, location: stored[location][:-1]})
        with pytest.raises(ProofError):
            tiles.root(700, {**stored, location: b""})


def test_what_cannot_be_asked_is_a_bug():
    for call in (
        lambda: tiles.plan_inclusion(5, 5),
        lambda: tiles.plan_inclusion(-1, 5),
        lambda: tiles.plan_consistency(0, 5),
        lambda: tiles.plan_consistency(6, 5),
    ):
        with pytest.raises(AssertionError):
            call()


# -- paths


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("tile/0/000", (0, 0, 256)),
        ("tile/0/x001/x234/067", (0, 1234067, 256)),
        ("tile/0/x001/x234/067.p/8", (0, 1234067, 8)),
        ("tile/1/000.p/1", (1, 0, 1)),
        ("tile/63/999.p/255", (63, 999, 255)),
        ("tile/2/x001/000", (2, 1000, 256)),
        ("tile/entries/x001/x234/067", (ENTRIES, 1234067, 256)),
        ("tile/entries/000.p/17", (ENTRIES, 0, 17)),
    ],
)
def test_paths_of_the_specification(path, location):
    assert tiles.tile_path(*location) == path
    assert tiles.parse_tile_path(path) == location


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/x000/001",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000/",
        "tile/0/000\n",
        " tile/0/000",
        "/tile/0/000",
        "tile/0/٠٠٠",
        "tile/0/../0/000",
        "tile/data/000",
        "tile/entries/0",
        "tile/8/0/x001/000",
        "tile/0/" + "x999/" * 7 + "999",
    ],
)
def test_paths_that_are_none(path):
    with pytest.raises(MalformedError):
        tiles.parse_tile_path(path)


@given(st.integers(ENTRIES, 63), st.integers(0, 2**63), st.integers(1, 256))
def test_a_path_parses_to_what_it_was_formatted_from(level, n, width):
    assert tiles.parse_tile_path(tiles.tile_path(level, n, width)) == (level, n, width)


@given(st.text() | st.from_regex(r"tile/[0-9e]{1,3}/(x[0-9]{3}/)*[0-9]{1,4}(\.p/[0-9]{0,3})?"))
def test_any_text_is_a_path_or_malformed(text):
    try:
        location = tiles.parse_tile_path(text)
    except MalformedError:
        return
    assert tiles.tile_path(*location) == text


# -- bundles


def test_a_bundle_has_each_leaf_behind_its_length():
    assert tiles.encode_bundle([b"one", b"", b"three"]) == b"\x00\x03one\x00\x00\x00\x05three"
    full = [bytes([i]) * 122 for i in range(256)]
    assert tiles.decode_bundle(tiles.encode_bundle(full)) == full
    assert tiles.decode_bundle(tiles.encode_bundle([bytes(65535)])) == [bytes(65535)]


@pytest.mark.parametrize("bundle", [b"", b"\x00", b"\x00\x01", b"\x00\x02a", b"\x00\x01ab", bytes(2 * 257)])
def test_bundles_that_are_none(bundle):
    with pytest.raises(MalformedError):
        tiles.decode_bundle(bundle)


@given(
    st.binary(max_size=600)
    | st.lists(st.binary(max_size=9), max_size=300).map(
        lambda parts: b"".join(len(part).to_bytes(2) + part for part in parts)
    )
)
def test_any_bytes_are_a_bundle_or_malformed(bundle):
    assert_round_trip_or_malformed(tiles.decode_bundle, tiles.encode_bundle, bundle)
