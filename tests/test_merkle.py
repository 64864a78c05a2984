"""core/merkle: the vectors of another implementation, and every proof of small trees against the RFC's text."""

import base64
import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.reference_tree import Naive, leaves
from consentd.core import merkle
from consentd.errors import MalformedError, ProofError, VerificationError

VECTORS = Path(__file__).parents[1] / "../shared/vectors/merkle"
# The one vector that accepts roots which are no hashes: its roots are texts ("don't care 2"). We refuse those whatever
# they are for; its verdict is checked with the texts hashed to 32 bytes.
CARELESS = "sizes-are-equal-one-and-proof-is-empty.json"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="the merkle vectors are not at ../shared/vectors")

TREE = Naive(leaves(130))


def vectors(kind: str) -> list[tuple[str, dict[str, object]]]:
    return [(path.name, json.loads(path.read_text())) for path in sorted((VECTORS / kind).rglob("*.json"))]


def unbase64(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def hashes(texts: list[str] | None) -> list[bytes]:
    return [unbase64(text) for text in texts or []]


def rejects(call) -> bool:
    try:
        call()
    except VerificationError:
        return True
    return False


@needs_vectors
def test_the_vectors_are_all_here():
    assert len(vectors("inclusion")) + len(vectors("consistency")) == 196


@needs_vectors
def test_inclusion_vectors():
    for name, vector in vectors("inclusion"):
        rejected = rejects(
            lambda v=vector: merkle.verify_inclusion(
                hashes(v["proof"]),
                index=v["leafIdx"],
                size=v["treeSize"],
                leaf_hash=unbase64(v["leafHash"]),
                root=unbase64(v["root"]),
            )
        )
        assert rejected == vector["wantErr"], name


@needs_vectors
def test_consistency_vectors():
    careless = 0
    for name, vector in vectors("consistency"):
        roots = [unbase64(vector["root1"]), unbase64(vector["root2"])]
        if name == CARELESS:
            careless += 1
            with pytest.raises(MalformedError):
                merkle.verify_consistency([], size1=1, root1=roots[0], size2=1, root2=roots[1])
            roots = [sha256(root).digest() for root in roots]
        rejected = rejects(
            lambda v=vector, r=roots: merkle.verify_consistency(
                hashes(v["proof"]), size1=v["size1"], root1=r[0], size2=v["size2"], root2=r[1]
            )
        )
        assert rejected == vector["wantErr"], name
    assert careless == 1


def test_hashes_are_those_of_the_rfc():
    assert merkle.EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    left, right = merkle.leaf_hash(b"leaf 0"), merkle.leaf_hash(b"leaf 1")
    assert merkle.node_hash(left, right) == TREE.root(2)


def test_every_inclusion_proof_verifies_at_its_place_only():
    for size in range(1, 131):
        root = TREE.root(size)
        for index in range(size):
            proof = TREE.path(index, 0, size)
            good = {"index": index, "size": size, "leaf_hash": TREE.leaf_hashes[index], "root": root}
            merkle.verify_inclusion(proof, **good)
            for bad in (index + 1, index ^ 1, -1, size):
                with pytest.raises(ProofError):
                    merkle.verify_inclusion(proof, **{**good, "index": bad})


def test_every_consistency_proof_verifies_between_its_sizes_only():
    for size2 in range(1, 131):
        for size1 in range(1, size2 + 1):
            proof = TREE.proof(size1, size2)
            good = {"size1": size1, "root1": TREE.root(size1), "size2": size2, "root2": TREE.root(size2)}
            merkle.verify_consistency(proof, **good)
            for change in ({"root1": bytes(32)}, {"root2": bytes(32)}, {"size1": size2 + 1}, {"size1": 0}):
                with pytest.raises(ProofError):
                    merkle.verify_consistency(proof, **{**good, **change})
            if size1 != size2:
                with pytest.raises(ProofError):
                    merkle.verify_consistency([*proof, bytes(32)], **good)
                with pytest.raises(ProofError):
                    merkle.verify_consistency(proof[:-1], **good)


def test_a_longer_proof_does_not_reach_a_higher_root():
    """A leaf of a higher tree is not one of the lower tree that the size speaks of."""
    one, three, four = TREE.root(1), TREE.root(3), TREE.root(4)
    with pytest.raises(ProofError):
        merkle.verify_inclusion([one], index=0, size=1, leaf_hash=TREE.leaf_hashes[1], root=TREE.root(2))
    above = bytes(32)
    with pytest.raises(ProofError):
        merkle.verify_consistency(
            [*TREE.proof(3, 4), above],
            size1=3,
            root1=merkle.node_hash(above, three),
            size2=4,
            root2=merkle.node_hash(above, four),
        )


def test_from_the_empty_tree_nothing_is_proven():
    for size2, root2 in ((0, merkle.EMPTY_ROOT), (1, TREE.root(1))):
        with pytest.raises(ProofError):
            merkle.verify_consistency([], size1=0, root1=merkle.EMPTY_ROOT, size2=size2, root2=root2)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_malformed(length):
    odd, good = bytes(length), TREE.leaf_hashes[0]
    for proof, leaf, root in (([odd], good, good), ([], odd, good), ([], good, odd), ([], odd, odd)):
        with pytest.raises(MalformedError):
            merkle.verify_inclusion(proof, index=0, size=1, leaf_hash=leaf, root=root)
        with pytest.raises(MalformedError):
            merkle.verify_consistency(proof, size1=1, root1=leaf, size2=1, root2=root)


@given(st.data())
def test_any_change_to_an_inclusion_proof_breaks_it(data):
    size = data.draw(st.integers(2, 130))
    index = data.draw(st.integers(0, size - 1))
    proof = TREE.path(index, 0, size)
    at = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[at]) ^ 1 << bit).to_bytes(32)
    for changed in (
        [*proof[:at], flipped, *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof[:at], proof[at], *proof[at:]],
        [TREE.root(size), *proof],
    ):
        with pytest.raises(ProofError):
            merkle.verify_inclusion(
                changed, index=index, size=size, leaf_hash=TREE.leaf_hashes[index], root=TREE.root(size)
            )


@given(
    st.lists(st.binary(max_size=33) | st.just(bytes(32)), max_size=70),
    st.integers(-2, 2**70),
    st.integers(-2, 2**70),
    st.binary(min_size=31, max_size=32),
)
def test_any_proof_verifies_or_is_bad_evidence(proof, a, b, digest):
    with pytest.raises(VerificationError):  # to verify, one of these would have to be a preimage
        merkle.verify_inclusion(proof, index=a, size=b, leaf_hash=digest, root=merkle.EMPTY_ROOT)
    with pytest.raises(VerificationError):
        merkle.verify_consistency(proof, size1=a, root1=digest, size2=b, root2=merkle.EMPTY_ROOT)
