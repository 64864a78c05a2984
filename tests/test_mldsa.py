"""ML-DSA-44 signatures of checkpoints: the message as C2SP has it, keys that read back, nothing else accepted."""

from hashlib import sha256

import pytest

from consentd.core import checkpoint, ed25519, note
from consentd.core.checkpoint import Checkpoint
from consentd.cosigning.keyfiles import read_mldsa_key
from consentd.errors import InvalidError, MalformedError, SignatureError, StorageError

mldsa = pytest.importorskip("consentd.cosigning.mldsa")

ORIGIN = "log.test/pq"
SIGNER = mldsa.MldsaSigner(ORIGIN, b"\x05" * 32)
TEXT = checkpoint.format_checkpoint(Checkpoint(ORIGIN, 70_000, b"r" * 32))
VKEY = mldsa.format_mldsa_vkey(SIGNER.verifier)
SECRET = mldsa.format_mldsa_signing_key(SIGNER)


def test_the_message_is_c2sps() -> None:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

    line = SIGNER.cosign(TEXT, 1_800_000_000)
    message = (
        b"subtree/v1\n\0" + b"\x0b" + ORIGIN.encode() + (1_800_000_000).to_bytes(8) + b"\x0b" + ORIGIN.encode()
        + bytes(8) + (70_000).to_bytes(8) + b"r" * 32
    )
    assert line.time_s == 1_800_000_000
    assert len(line.signature) == 8 + 2420
    MLDSA44PublicKey.from_public_bytes(SIGNER.verifier.public_key).verify(line.signature[8:], message)
    key_id = sha256(ORIGIN.encode() + b"\n\x06" + SIGNER.verifier.public_key).digest()[:4]
    assert line.key_id == int.from_bytes(key_id)


def test_a_log_signs_without_a_time() -> None:
    line = SIGNER.sign(TEXT)
    assert line.time_s == 0
    SIGNER.verifier.verify(TEXT.encode(), line.signature)


def test_it_stands_beside_ed25519_in_a_note() -> None:
    other = note.Signer(ORIGIN, ed25519.KeyPair(b"e" * 32))
    both = note.format_note(TEXT, [other.sign(TEXT), SIGNER.sign(TEXT)])
    point, opened = checkpoint.open_checkpoint(both, ORIGIN, other.verifier)
    assert (point.size, len(opened.verified), len(opened.unverified)) == (70_000, 1, 1)
    _, opened = checkpoint.open_checkpoint(both, ORIGIN, SIGNER.verifier, witnesses=[other.verifier])
    assert len(opened.verified) == 2


@pytest.mark.parametrize("at", [0, 7, 8, 500, 2427])
def test_a_flipped_bit_does_not_verify(at: int) -> None:
    signature = bytearray(SIGNER.cosign(TEXT, 5).signature)
    signature[at] ^= 0x80 if at == 0 else 1
    with pytest.raises(SignatureError):
        SIGNER.verifier.verify(TEXT.encode(), bytes(signature))


def test_another_text_or_no_checkpoint_does_not_verify() -> None:
    signature = SIGNER.sign(TEXT).signature
    for text in (TEXT.replace("70000", "70001"), TEXT.replace("log.test", "log.tesu"), "no checkpoint\n", ""):
        with pytest.raises(SignatureError):
            SIGNER.verifier.verify(text.encode(), signature)
    with pytest.raises(SignatureError):
        SIGNER.verifier.verify(b"\xff\n", signature)
    with pytest.raises(SignatureError):
        SIGNER.verifier.verify(TEXT.encode(), signature[:-1])


def test_keys_read_back() -> None:
    assert mldsa.parse_mldsa_vkey(VKEY) == SIGNER.verifier
    for text in (SECRET, SECRET + "\n"):
        parsed = mldsa.parse_mldsa_signing_key(text)
        assert parsed.verifier == SIGNER.verifier
        assert parsed.seed == b"\x05" * 32
    assert "05" not in repr(SIGNER).split(" at ")[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "x", VKEY[:-4], VKEY.replace("+", "-"), VKEY.replace(ORIGIN, "log.test/p"), SECRET,
        note.format_vkey(note.Verifier(ORIGIN, ed25519.KeyPair(b"k" * 32).public_key)),
    ],
)
def test_a_text_that_is_no_vkey_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        mldsa.parse_mldsa_vkey(text)


@pytest.mark.parametrize("text", ["", VKEY, SECRET[:-2], SECRET.replace(ORIGIN, "log.test/p"), "PRIVATE+KEY+" + VKEY])
def test_a_text_that_is_no_signing_key_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        mldsa.parse_mldsa_signing_key(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "n" * 256])
def test_a_name_that_is_none_is_malformed(name: str) -> None:
    with pytest.raises(MalformedError):
        mldsa.MldsaVerifier(name, bytes(1312))


def test_a_key_file_is_read_or_named(tmp_path) -> None:
    path = tmp_path / "key"
    with pytest.raises(StorageError):
        read_mldsa_key(path)
    path.write_text("nothing")
    with pytest.raises(InvalidError):
        read_mldsa_key(path)
    path.write_text(SECRET + "\n")
    assert read_mldsa_key(path).verifier == SIGNER.verifier
