"""core/note: the example of the specification, what a note may be, and which Ed25519 signatures count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.fuzz import assert_round_trip_or_malformed
from cases.signatures import FAMILIES, LOG, TEXT, WITNESS, signature_of_rfc_8032
from consentd.core import ed25519, note
from consentd.core.ed25519 import KeyPair
from consentd.core.note import Note, NoteSignature, Signer, Verifier
from consentd.errors import MalformedError, SignatureError, VerificationError

# The example of c2sp.org/signed-note.
GOLDEN_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
GOLDEN_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
OTHER = Signer("log.example/b", KeyPair(b"o" * 32))


def signed(text: str = TEXT, *signers: Signer) -> bytes:
    return note.sign_note(text, signers or [LOG])


# -- the formats


def test_the_golden_key_opens_the_golden_note():
    verifier = note.parse_vkey(GOLDEN_VKEY)
    opened = note.open_note(GOLDEN_NOTE.encode(), [verifier])
    assert opened.text == "This is an example message.\n"
    assert [(line.name, line.key_id) for line in opened.verified] == [("example.com/foo", 0x530D903A)]
    assert note.format_note(opened.text, opened.verified) == GOLDEN_NOTE.encode()
    with pytest.raises(SignatureError):
        note.open_note(GOLDEN_NOTE.replace("example message", "exemplary message").encode(), [verifier])


def test_the_golden_key_parses_and_formats():
    verifier = note.parse_vkey(GOLDEN_VKEY)
    assert (verifier.name, verifier.kind, verifier.key_id) == ("example.com/foo", note.ED25519, 0x530D903A)
    assert note.format_vkey(verifier) == GOLDEN_VKEY


def test_a_key_and_a_note_of_go_sumdb():
    """Key, text and signature are those of golang.org/x/mod/sumdb/note's documentation."""
    signer = note.parse_signing_key("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert note.format_vkey(signer.verifier) == vkey
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    golden = f"{text}\n— PeterNeumann {signature}\n"
    assert note.sign_note(text, [signer]) == golden.encode()
    assert note.open_note(golden.encode(), [note.parse_vkey(vkey)]).text == text


def test_signing_keys_and_vkeys_round_trip():
    for signer in (LOG, WITNESS):
        text = note.format_signing_key(signer)
        for again in (note.parse_signing_key(text), note.parse_signing_key(text + "\n")):
            assert note.format_signing_key(again) == text
            assert again.verifier == signer.verifier
        assert note.parse_vkey(note.format_vkey(signer.verifier)) == signer.verifier


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2l",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U0=",
        "example.com/foo+530d903a+BukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        GOLDEN_VKEY + "\n",
        " " + GOLDEN_VKEY,
    ],
)
def test_keys_that_are_none(text):
    with pytest.raises(MalformedError):
        note.parse_vkey(text)
    with pytest.raises(MalformedError):
        note.parse_signing_key("PRIVATE+KEY+" + text)
    with pytest.raises(MalformedError):
        note.parse_signing_key(text)


def test_a_signing_key_begins_with_its_mark_and_nothing_before_it():
    good = note.format_signing_key(LOG)
    for text in (good.removeprefix("PRIVATE+KEY+"), "x" + good, " " + good, good + "\n\n", GOLDEN_VKEY):
        with pytest.raises(MalformedError):
            note.parse_signing_key(text)


def test_types_and_lengths_of_keys_that_are_not_ours():
    good = LOG.key.public_key
    for kind in (0x01, 0x04):
        assert Verifier("a", good, kind).public_key == good
    for kind, key in ((0x01, good[:31]), (0x01, good + b"a"), (0x04, b""), (0x02, good), (0x06, good), (0x00, good)):
        with pytest.raises(MalformedError):
            Verifier("a", key, kind)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\nb", "a\x1fb", "a\ud800"])
def test_names_that_no_key_can_have(name):
    with pytest.raises(MalformedError):
        Verifier(name, LOG.key.public_key)
    with pytest.raises(MalformedError):
        Signer(name, LOG.key)


def test_a_key_shows_nothing_of_its_secret():
    for shown in (repr(LOG), repr(LOG.key), str(LOG.key)):
        assert LOG.key.seed.hex() not in shown
        assert repr(LOG.key.seed) not in shown
    with pytest.raises(MalformedError) as caught:
        note.parse_signing_key(note.format_signing_key(LOG).replace("a+", "b+", 1))
    assert note.format_signing_key(LOG)[-20:] not in str(caught.value)


# -- notes


def test_a_note_says_who_signed_and_who_is_unknown():
    opened = note.open_note(signed(TEXT, LOG, OTHER), [LOG.verifier])
    assert opened.text == TEXT
    assert [line.name for line in opened.verified] == ["log.example/a"]
    assert [line.name for line in opened.unverified] == ["log.example/b"]


def test_the_last_empty_line_separates():
    text = "one\n\n— not a signature\n\ntwo\n"
    assert note.open_note(signed(text), [LOG.verifier]).text == text


def test_a_line_must_match_name_and_id():
    same_name = Verifier(LOG.name, OTHER.key.public_key)
    same_key = Verifier("log.example/c", LOG.key.public_key)
    for stranger in (same_name, same_key, OTHER.verifier):
        with pytest.raises(SignatureError):
            note.open_note(signed(), [stranger])


def test_a_wrong_signature_by_a_known_key_refuses_the_whole_note():
    wrong = NoteSignature(OTHER.name, OTHER.verifier.key_id, bytes(64))
    both = note.format_note(TEXT, [LOG.sign(TEXT), wrong])
    assert len(note.open_note(both, [LOG.verifier]).unverified) == 1
    with pytest.raises(SignatureError):
        note.open_note(both, [LOG.verifier, OTHER.verifier])
    twice = note.format_note(TEXT, [LOG.sign(TEXT), NoteSignature(LOG.name, LOG.verifier.key_id, bytes(64))])
    with pytest.raises(SignatureError):
        note.open_note(twice, [LOG.verifier])
    for odd in (b"x", bytes(63), bytes(65)):
        short = note.format_note(TEXT, [NoteSignature(LOG.name, LOG.verifier.key_id, odd)])
        with pytest.raises(SignatureError):
            note.open_note(short, [LOG.verifier])


def test_two_verifiers_that_cannot_be_told_apart_are_refused():
    class Impostor:
        name = LOG.name
        key_id = LOG.verifier.key_id

        def verify(self, text: bytes, signature: bytes) -> None:
            """Accept everything."""

    assert note.open_note(signed(), [Impostor()]).verified
    with pytest.raises(SignatureError):
        note.open_note(signed(), [LOG.verifier, Impostor()])
    assert note.open_note(signed(), [LOG.verifier, LOG.verifier]).verified


def test_any_change_of_the_text_breaks_the_signature():
    good = signed()
    for at in range(len(TEXT)):
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(VerificationError):
            note.open_note(changed, [LOG.verifier])


@pytest.mark.parametrize(
    "change",
    [
        lambda n: b"",
        lambda n: b"\n\n",
        lambda n: n.partition(b"\n\n")[2],  # signature lines alone
        lambda n: n[:-1],
        lambda n: n + b"\n",
        lambda n: n + b"more\n",
        lambda n: n.replace(b"\n\n", b"\n"),
        lambda n: n.replace("— ".encode(), b"- "),
        lambda n: n.replace("— ".encode(), "—  ".encode()),
        lambda n: n.replace("— ".encode(), " — ".encode()),
        lambda n: n.replace(b"=\n", b"\n"),
        lambda n: n.replace(b"=\n", b"= \n"),
        lambda n: n.replace(b"\n", b"\r\n"),
        lambda n: b"\x00" + n,
        lambda n: b"\t" + n,
        lambda n: b"\xff" + n,
        lambda n: b"\xed\xa0\x80" + n,
        lambda n: n + "— log.example/a AAAAAA==\n".encode(),  # a key ID without a signature
        lambda n: n + "— log.example/a \n".encode(),
        lambda n: n + "— log.example/a\n".encode(),
        lambda n: n + "— a+b AAAAAAAA\n".encode(),
        lambda n: n + "— log.example/a AAAAAAB=\n".encode(),  # unused bits that are not zero
        lambda n: n + "— log.example/a AAAA AAAA\n".encode(),
    ],
)
def test_what_is_no_note(change):
    good = signed()
    assert note.parse_note(good).text == TEXT
    with pytest.raises(MalformedError):
        note.parse_note(change(good))


def test_limits():
    line = LOG.sign(TEXT)
    assert len(note.parse_note(note.format_note(TEXT, [line] * 100)).unverified) == 100
    with pytest.raises(MalformedError):
        note.format_note(TEXT, [line] * 101)
    rest = len(signed()) - len(TEXT)
    assert len(signed("x" * (1_000_000 - rest - 1) + "\n")) == 1_000_000
    with pytest.raises(MalformedError):
        signed("x" * (1_000_000 - rest) + "\n")
    large = NoteSignature("pq.example", 7, bytes(5_000))
    assert note.open_note(note.format_note(TEXT, [line] + [large] * 15), [LOG.verifier]).unverified == (large,) * 15


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\x7f\nx", "surrogate \ud800\n"])
def test_texts_that_no_note_can_have(text):
    with pytest.raises(MalformedError):
        note.format_note(text, [NoteSignature("a", 1, b"x")])
    with pytest.raises(MalformedError):
        note.format_note(TEXT, [])


def test_a_line_added_by_a_witness():
    """What a client of witnesses does: parse the note, add the lines that came back, format."""
    parsed = note.parse_note(signed())
    line = note.format_signature(WITNESS.cosign(parsed.text, 1_700_000_000))
    cosigned = note.format_note(parsed.text, [*parsed.unverified, note.parse_signature(line)])
    assert cosigned == signed() + line.encode() + b"\n"
    opened = note.open_note(cosigned, [LOG.verifier, WITNESS.verifier])
    assert [found.name for found in opened.verified] == [LOG.name, WITNESS.name]
    assert opened.verified[1].time_s == 1_700_000_000
    # The bytes of tlog-cosignature: time u64, then Ed25519 over two lines and the text.
    raw = opened.verified[1].signature
    ed25519.verify(WITNESS.key.public_key, b"cosignature/v1\ntime 1700000000\n" + TEXT.encode(), raw[8:])


def test_a_cosignature_holds_for_its_time_only():
    good = WITNESS.cosign(TEXT, 5)
    for raw in ((6).to_bytes(8) + good.signature[8:], good.signature[8:], bytes(72), b"\xff" * 8 + good.signature[8:]):
        line = NoteSignature(WITNESS.name, WITNESS.verifier.key_id, raw)
        with pytest.raises(SignatureError):
            note.open_note(note.format_note(TEXT, [line]), [WITNESS.verifier])
    for time_s, holds in ((0, True), (2**63 - 1, True), (2**63, False)):
        signed_at = note.format_note(TEXT, [WITNESS.cosign(TEXT, time_s)])
        if holds:
            assert note.open_note(signed_at, [WITNESS.verifier]).verified[0].time_s == time_s
        else:
            with pytest.raises(SignatureError):
                note.open_note(signed_at, [WITNESS.verifier])
    plain = Signer(WITNESS.name, WITNESS.key)
    assert plain.verifier.key_id != WITNESS.verifier.key_id
    with pytest.raises(AssertionError):
        WITNESS.sign(TEXT)
    with pytest.raises(AssertionError):
        plain.cosign(TEXT, 5)


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.builds(
            NoteSignature,
            st.sampled_from(["a", "한글.example/로그"]),
            st.integers(0, 2**32 - 1),
            st.binary(min_size=1, max_size=9),
        ),
        max_size=4,
    ),
)
def test_a_note_reads_back_as_it_was_written(text, signatures):
    try:
        written = note.format_note(text, signatures)
    except MalformedError:
        return
    assert note.parse_note(written) == Note(text, (), tuple(signatures))


PIECES = st.sampled_from(["\n", "\n\n", "— ", "a ", "AAAAAAAA", "=", "a", "+", "\x85", "\u2028", "\x00", "\r"])


@given(st.binary(max_size=99) | st.lists(PIECES, max_size=12).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_a_note_or_malformed(content):
    try:
        parsed = note.parse_note(content)
    except MalformedError:
        return
    assert note.format_note(parsed.text, parsed.unverified) == content


@given(
    st.text(max_size=99)
    | st.tuples(
        st.sampled_from(["", "PRIVATE+KEY+"]),
        st.text(max_size=5),
        st.sampled_from(["+", ""]),
        st.from_regex(r"[0-9a-f]{7,9}"),
        st.sampled_from(["+", ""]),
        st.binary(max_size=40).map(note.encode_base64),
    ).map("".join)
)
def test_any_text_is_a_key_or_malformed(text):
    for parse, form in ((note.parse_vkey, note.format_vkey), (note.parse_signing_key, note.format_signing_key)):
        assert_round_trip_or_malformed(parse, form, text)


@given(st.text(max_size=30) | st.text(alphabet="AB+/=\n -_", max_size=9))
def test_any_text_is_base64_or_malformed(text):
    assert_round_trip_or_malformed(note.decode_base64, note.encode_base64, text)


# -- raw signatures


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=70))
def test_any_bytes_verify_or_are_bad_evidence(key, message, signature):
    with pytest.raises(VerificationError):
        ed25519.verify(key, message, signature)
    with pytest.raises(VerificationError):
        ed25519.verify((key + bytes(32))[:32], message, (signature + bytes(64))[:64])


def test_a_secret_has_32_bytes():
    with pytest.raises(AssertionError):
        KeyPair(bytes(31))


def verdict(case):
    try:
        ed25519.verify(case.key, case.message, case.signature)
    except MalformedError:
        return "malformed"
    except SignatureError:
        return "signature"
    return "ok"


@pytest.mark.parametrize("family", FAMILIES)
def test_which_signatures_count(family):
    make, verdicts = FAMILIES[family]
    cases = list(make())
    assert [verdict(case) for case in cases] == [case.want for case in cases]
    assert {case.want for case in cases} == verdicts


def test_a_signer_makes_the_signature_of_rfc_8032():
    signer = KeyPair(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    case, _ = signature_of_rfc_8032()
    assert (signer.public_key, signer.sign(case.message)) == (case.key, case.signature)
