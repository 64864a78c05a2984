"""core/checkpoint: checkpoints and proof bundles, strict both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.fuzz import assert_round_trip_or_malformed
from cases.reference_tree import Naive, leaves
from consentd.core import checkpoint as cp
from consentd.core import merkle, note
from consentd.core.checkpoint import Checkpoint, ProofBundle
from consentd.core.ed25519 import KeyPair
from consentd.core.note import COSIGNATURE, Signer
from consentd.errors import MalformedError, ProofError, SignatureError, VerificationError

ORIGIN = "log.example/a"
LOG = Signer(ORIGIN, KeyPair(bytes(range(32))))
OTHER = Signer("log.example/b", KeyPair(b"o" * 32))
WITNESS = Signer("witness.example/w", KeyPair(b"w" * 32), COSIGNATURE)
LEAVES = leaves(40)
TREE = Naive(LEAVES)
# A checkpoint that a public log and its witnesses published in May 2026, as other people's programs wrote it; the log's
# line of type 0x05 before its Ed25519 line is left in.
PUBLISHED = """arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIg\
IpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA2\
3oHP7Ry1k3ZFWwQ=
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWf\
Bw==
"""
PUBLISHED_LOG = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
PUBLISHED_WITNESS = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def checkpoint_of(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, TREE.root(size))


def bundle_of(index: int, size: int, extra: bytes = b"") -> ProofBundle:
    signed = cp.sign_checkpoint(checkpoint_of(size), [LOG])
    return ProofBundle(extra, index, tuple(TREE.path(index, 0, size)), signed)


def test_the_example_of_the_specification():
    parsed = cp.parse_checkpoint(EXAMPLE)
    assert (parsed.origin, parsed.size) == ("example.com/behind-the-sofa", 20852163)
    assert parsed.root.hex().startswith("0ac5186a")
    assert cp.format_checkpoint(parsed) == EXAMPLE


def test_a_published_checkpoint_and_its_cosignature_verify():
    log, witness = note.parse_vkey(PUBLISHED_LOG), note.parse_vkey(PUBLISHED_WITNESS)
    origin = "arche2025h1.staging.ct.transparency.dev"
    opened, whole = cp.open_checkpoint(PUBLISHED.encode(), origin, log, witnesses=[witness])
    assert opened.size == 1_432_088_532
    assert [line.name for line in whole.verified] == [origin, "remora.n621.de"]
    assert [line.key_id for line in whole.unverified] == [0xCD333CB1]
    assert whole.verified[1].time_s == 0x6A122120
    with pytest.raises(SignatureError):
        cp.open_checkpoint(PUBLISHED.replace("1432088532", "1432088533").encode(), origin, log, witnesses=[witness])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("20852163", "020852163"),
        ("20852163", "+20852163"),
        ("20852163", "-1"),
        ("20852163", "0x10"),
        ("20852163", "1_0"),
        ("20852163", "２"),
        ("20852163", " 1"),
        ("20852163", ""),
        ("20852163", "9223372036854775808"),
        ("20852163", "9" * 5000),
        ("20852163", "0"),
        ("xq2I=\n", "xq2I=\nextension\n"),
        ("xq2I=\n", "xq2I=\n\n"),
        ("xq2I=\n", "xq2I="),
        ("xq2I=\n", "xq2I\n"),
        ("xq2I=\n", "xq2J=\n"),
        ("xq2I=\n", "\n"),
        ("CsUY", ""),
        ("example.com/behind-the-sofa", ""),
        ("example.com/behind-the-sofa", "a b"),
        ("example.com/behind-the-sofa", "a+b"),
        ("example.com/behind-the-sofa\n", ""),
        ("\n", "\r\n"),
    ],
)
def test_what_is_no_checkpoint_of_ours(old, new):
    with pytest.raises(MalformedError):
        cp.parse_checkpoint(EXAMPLE.replace(old, new))


@pytest.mark.parametrize(
    "bad",
    [
        Checkpoint("a b", 1, bytes(32)),
        Checkpoint("a\nb", 1, bytes(32)),
        Checkpoint("", 1, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 1 << 63, bytes(32)),
        Checkpoint("a", 1, bytes(31)),
        Checkpoint("a", 0, bytes(32)),
        Checkpoint("a\x00", 1, bytes(32)),
    ],
)
def test_what_cannot_be_signed(bad):
    with pytest.raises(MalformedError):
        cp.sign_checkpoint(bad, [LOG])


def test_the_largest_size_can_be_written():
    largest = Checkpoint(ORIGIN, 2**63 - 1, bytes(32))
    assert cp.parse_checkpoint(cp.format_checkpoint(largest)) == largest


def test_the_empty_tree_has_a_checkpoint():
    empty = Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT)
    assert cp.parse_checkpoint(cp.format_checkpoint(empty)) == empty


def test_open_verifies_log_and_origin():
    signed = cp.sign_checkpoint(checkpoint_of(7), [LOG])
    opened, whole = cp.open_checkpoint(signed, ORIGIN, LOG.verifier)
    assert opened == checkpoint_of(7)
    assert [line.name for line in whole.verified] == [ORIGIN]
    with pytest.raises(SignatureError):
        cp.open_checkpoint(signed, ORIGIN, OTHER.verifier)
    with pytest.raises(ProofError):
        cp.open_checkpoint(signed, "log.example/b", LOG.verifier)
    with pytest.raises(SignatureError):
        cp.open_checkpoint(signed.replace(b"\n7\n", b"\n8\n"), ORIGIN, LOG.verifier)


def test_a_witness_alone_does_not_make_a_checkpoint():
    text = cp.format_checkpoint(checkpoint_of(7))
    alone = note.format_note(text, [WITNESS.cosign(text, 9)])
    with pytest.raises(SignatureError):
        cp.open_checkpoint(alone, ORIGIN, LOG.verifier, witnesses=[WITNESS.verifier])
    both = note.format_note(text, [LOG.sign(text), WITNESS.cosign(text, 9)])
    _, whole = cp.open_checkpoint(both, ORIGIN, LOG.verifier, witnesses=[WITNESS.verifier])
    assert [line.name for line in whole.verified] == [ORIGIN, WITNESS.name]
    assert whole.verified[1].time_s == 9
    _, whole = cp.open_checkpoint(both, ORIGIN, LOG.verifier)
    assert [line.name for line in whole.unverified] == [WITNESS.name]


def test_a_signed_checkpoint_with_extension_lines_is_refused():
    text = cp.format_checkpoint(checkpoint_of(7)) + "map root\n"
    with pytest.raises(MalformedError):
        cp.open_checkpoint(note.sign_note(text, [LOG]), ORIGIN, LOG.verifier)


@given(st.text(max_size=80) | st.lists(st.sampled_from(["a", "\n", "0", "12", "A" * 43, "=", " "])).map("".join))
def test_any_text_is_a_checkpoint_or_malformed(text):
    assert_round_trip_or_malformed(cp.parse_checkpoint, cp.format_checkpoint, text)


# -- proof bundles


def test_a_bundle_is_the_text_of_the_specification():
    bundle = bundle_of(2, 3, b"salt")
    text = cp.format_proof(bundle)
    head, signed = text.split(b"\n\n", 1)
    assert head.decode().split("\n") == [
        "c2sp.org/tlog-proof@v1",
        "extra c2FsdA==",
        "index 2",
        note.encode_base64(TREE.root(2)),
    ]
    assert signed == bundle.checkpoint_note
    assert cp.parse_proof(text) == bundle


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_every_leaf_has_a_receipt(size):
    for index in range(size):
        text = cp.format_proof(bundle_of(index, size))
        found = cp.verify_proof(
            text, leaf_hash=merkle.leaf_hash(LEAVES[index]), origin=ORIGIN, log_verifier=LOG.verifier
        )
        assert found == checkpoint_of(size)
        with pytest.raises(ProofError):
            cp.verify_proof(text, leaf_hash=merkle.leaf_hash(b"another"), origin=ORIGIN, log_verifier=LOG.verifier)


def test_a_receipt_under_another_key_or_origin_is_refused():
    text = cp.format_proof(bundle_of(3, 7))
    with pytest.raises(SignatureError):
        cp.verify_proof(text, leaf_hash=merkle.leaf_hash(LEAVES[3]), origin=ORIGIN, log_verifier=OTHER.verifier)
    with pytest.raises(ProofError):
        cp.verify_proof(text, leaf_hash=merkle.leaf_hash(LEAVES[3]), origin="log.example/b", log_verifier=LOG.verifier)


def test_no_changed_receipt_verifies():
    text = cp.format_proof(bundle_of(5, 11, b"e"))
    extra = text.index(b"extra ") + len(b"extra ")
    for at in range(len(text)):
        changed = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        if extra <= at < extra + 4:  # the extra is not authenticated, and is said not to be
            continue
        with pytest.raises(VerificationError):
            cp.verify_proof(changed, leaf_hash=merkle.leaf_hash(LEAVES[5]), origin=ORIGIN, log_verifier=LOG.verifier)


NO_BUNDLES = {
    b"c2sp.org/tlog-proof@v1\n": (b"",),
    b"@v1": (b"@v2",),
    b"index 2": (b"index 02", b"index", b"index ", b"index -2"),
    b"index 2\n": (b"", b"index 2\nindex 2\n"),
    b"extra c2FsdA==\n": (
        b"extra \n", b"extra\n", b"extra c2FsdA==\nextra c2FsdA==\n", b"extra c2FsdB==\n", b"Extra c2FsdA==\n",
        "extra é\n".encode(),
    ),
    b"=\n\n": (b"\n\n", b"=\n", b"=\nAAAA\n\n", b"=\n" + (b"A" * 43 + b"=\n") * 63 + b"\n"),
    b"\n": (b"\r\n",),
}  # fmt: skip
"""Pieces of a bundle's text, and what makes it malformed in the place of each."""


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, changed in NO_BUNDLES.items() for new in changed])
def test_what_is_no_bundle(old, new):
    text = cp.format_proof(bundle_of(2, 3, b"salt"))
    assert old in text
    with pytest.raises(VerificationError):
        cp.verify_proof(
            text.replace(old, new, 1), leaf_hash=merkle.leaf_hash(LEAVES[2]), origin=ORIGIN, log_verifier=LOG.verifier
        )


def test_the_largest_bundle_can_be_written():
    good = bundle_of(2, 3)
    longest = ProofBundle(b"", 2**63 - 1, (bytes(32),) * 63, good.checkpoint_note)
    assert cp.parse_proof(cp.format_proof(longest)) == longest
    # An extra of three bytes a time is four characters; the note's length is made to fill up the rest.
    rest = 2_000_000 - len(cp.format_proof(ProofBundle(bytes(1_400_001), 2, good.proof, b"x")))
    largest = ProofBundle(bytes(1_400_001), 2, good.proof, b"x" * (1 + rest))
    assert len(cp.format_proof(largest)) == 2_000_000
    with pytest.raises(MalformedError):
        cp.format_proof(ProofBundle(largest.extra, 2, good.proof, largest.checkpoint_note + b"x"))


def test_bundles_that_cannot_be_written():
    good = bundle_of(2, 3)
    for bad in (
        ProofBundle(b"", -1, good.proof, good.checkpoint_note),
        ProofBundle(b"", 1 << 63, good.proof, good.checkpoint_note),
        ProofBundle(b"", 2, (bytes(31),), good.checkpoint_note),
        ProofBundle(b"", 2, (bytes(32),) * 64, good.checkpoint_note),
        ProofBundle(b"", 2, good.proof, b""),
        ProofBundle(bytes(2_000_000), 2, good.proof, good.checkpoint_note),
    ):
        with pytest.raises(MalformedError):
            cp.format_proof(bad)


@given(
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                b"c2sp.org/tlog-proof@v1\n",
                b"extra ",
                b"index ",
                b"0\n",
                b"7\n",
                b"A" * 43 + b"=\n",
                b"\n",
                b"AAAA\n",
                b"x",
            ]
        )
    ).map(lambda parts: b"c2sp.org/tlog-proof@v1\n" + b"".join(parts))
)
def test_any_bytes_are_a_bundle_or_malformed(text):
    try:
        parsed = cp.parse_proof(text)
    except MalformedError:
        return
    assert cp.format_proof(parsed) == text
