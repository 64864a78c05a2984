"""core/patricia: the vectors of the format, and the bucketed map against the definition."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.reference_tree import bit_of, root_of
from consentd.core import bucketed, patricia
from consentd.core.bucketed import Top
from consentd.core.merkle import EMPTY_ROOT
from consentd.errors import CorruptionError, MalformedError, ProofError, VerificationError
from consentd.ledger import layout
from consentd.ledger.map import TagMap
from consentd.store import Batch
from consentd.store.memory import MemoryStore

VECTORS = Path(__file__).parents[1] / "../shared/vectors/mpt"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the mpt vectors are not at ../shared/vectors")


def h(text: str) -> bytes:
    return sha256(text.encode()).digest()


class Map:
    """A bucketed map as a store would hold it."""

    def __init__(self, map_bits: int) -> None:
        self.top = Top(map_bits)
        self.buckets: dict[int, bytes] = {}

    def put(self, pairs) -> None:
        by_bucket = {}
        for key, value in pairs.items():
            by_bucket.setdefault(bucketed.bucket_of(key, self.top.map_bits), {})[key] = value
        roots = {}
        for number, values in by_bucket.items():
            bucket = bucketed.bucket_update(self.buckets.get(number, b""), values)
            bucketed.verify_bucket(bucket, number=number, map_bits=self.top.map_bits)
            self.buckets[number] = bucket
            roots[number] = bucketed.bucket_root(bucket, self.top.map_bits)
        self.top.update(roots)

    def prove(self, key: bytes) -> tuple[bool, bytes]:
        planned = self.top.plan_neighbour(bucketed.bucket_of(key, self.top.map_bits))
        return bucketed.prove(key, b"" if planned is None else self.buckets[planned], self.top)


def sections(name: str) -> list[list[list[str]]]:
    """Split a vector file into its sections, and those into the words of their lines."""
    found = []
    for section in (VECTORS / name).read_text().split("\n\n"):
        lines = [line.split() for line in section.splitlines() if line and not line.startswith("#")]
        if lines:
            found.append(lines)
    return found


@needs_vectors
def test_tree_hash_vectors():
    assert len(sections("treehash.txt")) == 11
    for lines in sections("treehash.txt"):
        pairs = {bytes.fromhex(line[1]): bytes.fromhex(line[2]) for line in lines if line[0] == "kv"}
        expected = bytes.fromhex(lines[-1][1])
        assert lines[-1][0] == "hash"
        assert root_of(pairs) == expected
        for map_bits in (1, 5, 8, 13):
            held = Map(map_bits)
            held.put(pairs)
            assert held.top.root() == expected
            for key, value in pairs.items():
                present, proof = held.prove(key)
                assert present
                patricia.verify_presence(expected, key, value, proof)


@needs_vectors
def test_verify_vectors():
    verdicts = []
    for lines in sections("verify.txt"):
        vector = {line[0]: line[1] for line in lines}
        proof = bytes.fromhex(vector["proof"].strip("'"))
        root, key = bytes.fromhex(vector["snap"]), bytes.fromhex(vector["key"])
        try:
            if vector["val"] == "-":
                patricia.verify_absence(root, key, proof)
            else:
                patricia.verify_presence(root, key, bytes.fromhex(vector["val"]), proof)
            verdict = "true"
        except VerificationError:
            verdict = "false"
        assert verdict == vector["verify"], lines
        verdicts.append(verdict)
    assert (verdicts.count("true"), verdicts.count("false")) == (11, 10)


# -- verifying


def test_of_the_empty_map_all_is_absent_with_the_empty_proof():
    top = Top(9)
    assert top.root() == EMPTY_ROOT
    assert top.plan_neighbour(0) is None
    assert bucketed.prove(h("a"), b"", top) == (False, b"")
    patricia.verify_absence(EMPTY_ROOT, h("a"), b"")
    with pytest.raises(ProofError):
        patricia.verify_absence(h("root"), h("a"), b"")
    with pytest.raises(ProofError):
        patricia.verify_presence(EMPTY_ROOT, h("a"), h("value"), b"")


def small_map() -> tuple[Map, dict[bytes, bytes]]:
    pairs = {h(f"key {i}"): h(f"value {i}") for i in range(60)}
    held = Map(4)
    held.put(pairs)
    return held, pairs


def test_no_changed_proof_verifies():
    held, pairs = small_map()
    root = held.top.root()
    key = h("key 7")
    _, proof = held.prove(key)
    _, absence = held.prove(h("nobody"))
    patricia.verify_presence(root, key, pairs[key], proof)
    patricia.verify_absence(root, h("nobody"), absence)
    for at in range(len(proof)):
        changed = proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :]
        with pytest.raises(VerificationError):
            patricia.verify_presence(root, key, pairs[key], changed)
        with pytest.raises(VerificationError):
            patricia.verify_presence(root, key, pairs[key], proof[:at])
    for at in range(len(absence)):
        changed = absence[:at] + bytes([absence[at] ^ 1]) + absence[at + 1 :]
        with pytest.raises(VerificationError):
            patricia.verify_absence(root, h("nobody"), changed)
        with pytest.raises(VerificationError):
            patricia.verify_absence(root, h("nobody"), absence[:at])


def test_a_present_key_cannot_be_proven_absent_by_any_other_leaf():
    held, pairs = small_map()
    root = held.top.root()
    key = h("key 7")
    for other in pairs:
        _, path = held.prove(other)
        proof = b"\x20" + other + b"\x20" + pairs[other] + path
        with pytest.raises(ProofError):
            patricia.verify_absence(root, key, proof)


def test_encoding_is_strict():
    sibling = bytes(32)
    key, value = h("a"), h("b")
    field = b"\x20" + h("c")
    for path in (
        b"\x80\x00" + sibling,  # not minimal
        b"\x87\x00" + sibling,
        b"\x80",
        b"\x80\x80\x01" + sibling,
        b"\x80\x02" + sibling,  # bit 256
        b"\xff\x7f" + sibling,
        b"\x05" + sibling + b"\x05" + sibling,  # not decreasing
        b"\x05" + sibling + b"\x06" + sibling,
        b"\x05" + sibling[:-1],
        b"\x05",
    ):
        with pytest.raises(MalformedError):
            patricia.verify_presence(h("root"), key, value, path)
        with pytest.raises(MalformedError):
            patricia.verify_absence(h("root"), key, field + field + path)
    for proof in (field, field + b"\x1f" + bytes(31), b"\x21" + bytes(33) + field, b"\xa0\x00" + bytes(32) + field):
        with pytest.raises(MalformedError):
            patricia.verify_absence(h("root"), key, proof)
    for root, odd_key, odd_value in ((b"", key, value), (h("root"), b"", value), (h("root"), key, bytes(33))):
        with pytest.raises(MalformedError):
            patricia.verify_presence(root, odd_key, odd_value, b"")


@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda tail: (b"\x20" + bytes(32)) * 2 + tail))
def test_any_proof_is_bad_evidence_or_a_proof(proof):
    for call in (
        lambda: patricia.verify_presence(h("root"), h("key"), h("value"), proof),
        lambda: patricia.verify_absence(h("root"), h("key"), proof),
    ):
        with pytest.raises(VerificationError):
            call()


# -- the map

# Keys that share long prefixes meet in one bucket and differ late; keys of few bytes leave many buckets empty.
keys = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**8 - 1).map(lambda n: bytes(31) + bytes([n])),
    st.integers(0, 2**10 - 1).map(lambda n: (n << 246).to_bytes(32)),
    st.integers(0, 255).map(lambda bit: (1 << bit).to_bytes(32)),
)
pairs_of = st.dictionaries(keys, st.integers(0, 9).map(lambda n: h(str(n))), max_size=30)


@settings(max_examples=150)
@given(st.integers(1, 10), st.lists(pairs_of, min_size=1, max_size=4), st.lists(keys, max_size=10))
def test_the_map_is_the_tree_of_its_pairs_whatever_its_buckets(map_bits, batches, strangers):
    held, pairs = Map(map_bits), {}
    for batch in batches:
        held.put(batch)
        pairs.update(batch)
        assert held.top.root() == root_of(pairs)
    root = held.top.root()
    for key in [*pairs, *strangers]:
        present, proof = held.prove(key)
        assert present == (key in pairs)
        if present:
            patricia.verify_presence(root, key, pairs[key], proof)
            with pytest.raises(VerificationError):
                patricia.verify_presence(root, key, h("another value"), proof)
            with pytest.raises(VerificationError):
                patricia.verify_absence(root, key, proof)
        else:
            patricia.verify_absence(root, key, proof)


def test_of_a_large_map():
    pairs = {h(f"key {i}"): h(f"value {i}") for i in range(3000)}
    held = Map(10)
    held.put(pairs)
    root = held.top.root()
    assert root == root_of(pairs)
    for i in range(0, 6000, 7):
        key = h(f"key {i}")
        present, proof = held.prove(key)
        assert present == (i < 3000)
        if present:
            patricia.verify_presence(root, key, pairs[key], proof)
        else:
            patricia.verify_absence(root, key, proof)


def test_one_by_one_or_together_the_top_is_the_same():
    roots = {number: h(f"bucket {number}") for number in (0, 1, 5, 6, 7, 31, 16)}
    together, single = Top(5), Top(5)
    together.update(roots)
    for number, root_hash in roots.items():
        single.update({number: root_hash})
    assert together.root() == single.root()
    assert [together.bucket_root(number) for number in range(32)] == [roots.get(number) for number in range(32)]


@settings(max_examples=60)
@given(st.integers(1, 8), st.dictionaries(st.integers(0, 255), st.integers(0, 9)), st.data())
def test_loaded_from_runs_of_bucket_roots_the_top_is_the_same(map_bits, numbers, data):
    count = 1 << map_bits
    roots = {number: h(f"bucket {number} {value}") for number, value in numbers.items() if number < count}
    updated = Top(map_bits)
    updated.update(roots)
    flat = b"".join(roots.get(number, bytes(32)) for number in range(count))
    width = 1 << data.draw(st.integers(0, map_bits))
    runs = [(first, flat[first * 32 : (first + width) * 32]) for first in range(0, count, width)]
    loaded = Top.load(map_bits, [run for run in runs if any(run[1])])
    assert loaded.root() == updated.root()
    assert loaded.slots(range(count)) == updated.slots(range(count))


def test_a_run_of_bucket_roots_beyond_the_buckets_is_refused():
    for run in ((8, bytes(32)), (7, bytes(64)), (-1, bytes(32)), (0, bytes(33))):
        with pytest.raises(AssertionError):
            Top.load(3, [run])


def test_the_stored_map_opens_as_it_was_written_and_refuses_rows_of_another_shape():
    for map_bits in (2, 4, 7):
        store, batch = MemoryStore(), Batch()
        written = TagMap(store, map_bits)
        written.update({h(f"tag {i}"): (1 + i, h(f"head {i}")) for i in range(40)}, batch)
        store.write(batch)
        opened = TagMap(store, map_bits)
        assert opened.root() == written.root() != EMPTY_ROOT
        assert opened.top.slots(range(1 << map_bits)) == written.top.slots(range(1 << map_bits))
        row = store.get(layout.roots_key(0))
        for key, broken in (
            (layout.roots_key(0), row[:-1]),
            (layout.roots_key(0), row + bytes(32)),
            (layout.roots_key(1 << map_bits), row),
        ):
            damaged, batch = MemoryStore(), Batch()
            batch.put(key, broken)
            damaged.write(batch)
            with pytest.raises(CorruptionError, match="bucket roots"):
                TagMap(damaged, map_bits)


def test_neighbour_of_an_empty_bucket_agrees_with_it_where_buckets_part():
    top = Top(6)
    full = (0b000011, 0b000110, 0b101000, 0b101001, 0b111111)
    for number in full:
        top.update({number: h(str(number))})
    for number in range(64):
        found = top.plan_neighbour(number)
        assert found in full
        assert found == number or number not in full
        for bit, _ in top.path(found):
            assert bit_of(bytes([number << 2]), bit) == bit_of(bytes([found << 2]), bit)


def test_a_bucket_that_is_none_is_refused():
    bucket = bucketed.bucket_update(b"", {h(f"key {i}"): h("v") for i in range(4)})
    first, second = bucket[:96], bucket[96:192]
    for broken in (bucket[:-1], second + first, first + first):
        with pytest.raises(MalformedError):
            bucketed.bucket_root(broken, 1)
    with pytest.raises(MalformedError):
        bucketed.bucket_root(bucket, 24)
    with pytest.raises(MalformedError):
        bucketed.verify_bucket(first, number=bucketed.bucket_of(first[:32], 8) ^ 1, map_bits=8)
    with pytest.raises(ProofError):
        bucketed.verify_bucket(first[:64] + bytes(32), number=bucketed.bucket_of(first[:32], 8), map_bits=8)


def test_a_bucket_of_keys_that_part_late_is_the_tree_of_its_pairs():
    shared = h("the same first bits")
    for size in (7, 8, 9, 24, 31):  # around the first 64 bits, and far after them
        keys = [shared[:size] + bytes([n]) + h(f"{size} {n}")[size + 1 :] for n in range(0, 256, 5)]
        pairs = {key: h("v") for key in keys}
        bucket = bucketed.bucket_update(b"", pairs)
        assert bucketed.bucket_root(bucket, 8) == root_of(pairs)
        entries = [bucket[at : at + 96] for at in range(0, len(bucket), 96)]
        for broken in (entries[::-1], [*entries, entries[-1]], [*entries, entries[-2]]):
            with pytest.raises(MalformedError, match="not sorted"):
                bucketed.bucket_root(b"".join(broken), 8)


def test_proving_from_another_bucket_or_moment_is_refused():
    held, _ = small_map()
    key = h("key 7")
    number = bucketed.bucket_of(key, 4)
    other = next(n for n in held.buckets if n != number)
    before = held.buckets[number]
    held.put({key: h("new")})
    for bucket in (held.buckets[other], before, b""):
        with pytest.raises(ProofError, match="not the one that the map commits to"):
            bucketed.prove(key, bucket, held.top)


@given(st.binary(max_size=400) | st.integers(0, 4).map(lambda n: bytes(96 * n)))
def test_any_bytes_are_a_bucket_or_malformed(bucket):
    try:
        root = bucketed.bucket_root(bucket, 8)
    except MalformedError:
        with pytest.raises(MalformedError):
            bucketed.verify_bucket(bucket, number=0, map_bits=8)
        return
    assert root == (bucket[64:96] or None)
    if bucket:
        with pytest.raises(VerificationError):  # to verify, its leaf hash would have to be right
            bucketed.verify_bucket(bucket, number=0, map_bits=8)
