"""The trust policy: one way to read it, a quorum counted as the file says, cosignatures that are fresh enough."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from consentd.core import checkpoint, note, quorum
from consentd.core.checkpoint import Checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.note import COSIGNATURE, Signer
from consentd.core.quorum import Group, LogLine, WitnessLine, WitnessPolicy, parse_policy, verify_cosigned
from consentd.errors import MalformedError, ProofError, SignatureError

ORIGIN = "log.test/quorum"
LOG = Signer(ORIGIN, KeyPair(b"L" * 32))
WITNESSES = [Signer(f"w.test/{n}", KeyPair(bytes([n]) * 32), COSIGNATURE) for n in range(1, 7)]
VKEYS = [note.format_vkey(each.verifier) for each in WITNESSES]
LOG_VKEY = note.format_vkey(LOG.verifier)
POINT = Checkpoint(ORIGIN, 12, b"r" * 32)
TEXT = checkpoint.format_checkpoint(POINT)
NOW_S = 1_800_000_000

# The example of C2SP tlog-policy, with keys.
EXAMPLE = f"""\
log {LOG_VKEY}

witness X1 {VKEYS[0]}
witness X2 {VKEYS[1]}
witness X3 {VKEYS[2]}
group X-witnesses 2 X1 X2 X3

witness Y1 {VKEYS[3]}
witness Y2 {VKEYS[4]}
witness Y3 {VKEYS[5]} https://y3.example/
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
""".encode()


def signed(*cosigners: tuple[int, int], by: Signer = LOG, text: str = TEXT) -> bytes:
    """Return a note by the log, cosigned by (which witness, its time)."""
    return note.format_note(text, [by.sign(text), *(WITNESSES[n].cosign(text, time_s) for n, time_s in cosigners)])


# -- reading and writing ---------------------------------------------------------------------------------------


def test_the_specified_example_is_read() -> None:
    policy = parse_policy(EXAMPLE)
    assert [line.vkey for line in policy.logs] == [LOG_VKEY]
    assert policy.logs[0].verifier == LOG.verifier
    assert [(line.name, line.url) for line in policy.witnesses][-1] == ("Y3", "https://y3.example/")
    assert [line.verifier for line in policy.witnesses] == [each.verifier for each in WITNESSES]
    assert policy.groups == (
        Group("X-witnesses", 2, ("X1", "X2", "X3")),
        Group("Y-witnesses", 1, ("Y1", "Y2", "Y3")),
        Group("X-and-Y", 2, ("X-witnesses", "Y-witnesses")),
    )
    assert policy.quorum == "X-and-Y"
    assert parse_policy(quorum.format_policy(policy)) == policy


def test_blanks_comments_and_order_are_free() -> None:
    text = f" \t\n# a comment\n  # another, 한글\n\twitness\t a  {VKEYS[0]} \t\nquorum a\t\n log {LOG_VKEY} x:y\n"
    policy = parse_policy(text.encode())
    assert policy == WitnessPolicy((LogLine(LOG_VKEY, "x:y"),), (WitnessLine(VKEYS[0], name="a"),), (), "a")


def test_names_are_whatever_bytes_they_are() -> None:
    text = f"witness K {VKEYS[0]}\nwitness \u212a {VKEYS[1]}\ngroup 둘 all K \u212a\nquorum 둘\n"
    policy = parse_policy(text.encode())
    assert [line.name for line in policy.witnesses] == ["K", "\u212a"]
    assert quorum.is_satisfied(policy, {"K", "\u212a"})
    assert not quorum.is_satisfied(policy, {"K"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not end in a newline"),
        ("quorum none", "does not end in a newline"),
        ("\n", "does not have exactly one quorum"),
        ("quorum none\nquorum none\n", "does not have exactly one quorum"),
        ("quorum\n", "line 1: this is no line of a policy: `quorum`"),
        ("quorum none none\n", "no line of a policy"),
        ("quorum a\n", "line 1: quorum is not defined: `a`"),
        ("Quorum none\n", "no line of a policy: `Quorum`"),
        ("quorum none # comment\n", "no line of a policy"),
        ("quorum none\r\n", "control character"),
        ("quorum none\n\x7f\n", "control character"),
        ("quorum\u00a0none\n", "no line of a policy"),
        ("quorum none\n" * 1 + "\n" * 1024, "more than 1024 lines"),
        (f"quorum a\nwitness a {VKEYS[0]}\n", "quorum is not defined"),
        ("log\nquorum none\n", "no line of a policy"),
        (f"log {LOG_VKEY} u more\nquorum none\n", "no line of a policy"),
        (f"log {LOG_VKEY}\nlog {LOG_VKEY}\nquorum none\n", "line 2: key is named already"),
        (f"log {VKEYS[0]}\nquorum none\n", "key is not of a type for this"),
        (f"witness a {LOG_VKEY}\nquorum none\n", "key is not of a type for this"),
        (f"witness a {VKEYS[0]}\nwitness b {VKEYS[0]}\nquorum none\n", "key is named already"),
        (f"witness a {VKEYS[0]}\nwitness a {VKEYS[1]}\nquorum none\n", "name is taken: `a`"),
        (f"witness none {VKEYS[0]}\nquorum none\n", "name is taken: `none`"),
        (f"witness a {VKEYS[0][:-2]}\nquorum none\n", "base64"),
        (f"witness a {VKEYS[0].replace('+', '+0', 1)}\nquorum none\n", "key has no ID of eight"),
        (f"witness a {VKEYS[0].replace('w.test/1', 'w.test/2')}\nquorum none\n", "ID that is not its own"),
        ("witness a x\nquorum none\n", "key has no ID of eight"),
        (f"witness a {VKEYS[0]}\ngroup g any\nquorum none\n", "no line of a policy"),
        (f"witness a {VKEYS[0]}\ngroup g any b\nquorum none\n", "member is not defined: `b`"),
        (f"witness a {VKEYS[0]}\ngroup g any none\nquorum none\n", "member is not defined: `none`"),
        (f"witness a {VKEYS[0]}\ngroup g any g\nquorum none\n", "member is not defined: `g`"),
        (f"witness a {VKEYS[0]}\ngroup g any a a\nquorum none\n", "member is in a group already: `a`"),
        (f"witness a {VKEYS[0]}\ngroup g any a\ngroup h any a\nquorum none\n", "member is in a group already: `a`"),
        (f"witness a {VKEYS[0]}\ngroup a any a\nquorum none\n", "name is taken: `a`"),
        *(
            (f"witness a {VKEYS[0]}\ngroup g {k} a\nquorum none\n", "threshold is not")
            for k in ("0", "2", "01", "-1", "+1", "1.0", "١", "some")
        ),
    ],
)
def test_what_breaks_the_format_is_named(text: str, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_policy(text.encode())


def test_bytes_that_are_no_text_are_malformed() -> None:
    with pytest.raises(MalformedError):
        parse_policy(b"witness \xff x\n")


@given(some.binary(max_size=200))
def test_any_bytes_are_a_policy_or_malformed(content: bytes) -> None:
    try:
        parse_policy(content)
    except MalformedError:
        return
    assert b"quorum none" in content


@given(some.integers(0, len(EXAMPLE) - 1), some.integers(0, 255))
def test_a_changed_byte_is_never_another_error(at: int, byte: int) -> None:
    content = EXAMPLE[:at] + bytes([byte]) + EXAMPLE[at + 1 :]
    try:
        policy = parse_policy(content)
    except MalformedError:
        return
    assert parse_policy(quorum.format_policy(policy)) == policy


def test_an_ml_dsa_key_without_code_for_it_stands_there_and_never_counts() -> None:
    mldsa = pytest.importorskip("consentd.cosigning.mldsa")
    signer = mldsa.MldsaSigner("w.test/pq", b"q" * 32)
    text = f"witness pq {mldsa.format_mldsa_vkey(signer.verifier)}\nwitness a {VKEYS[0]}\ngroup g any pq a\nquorum g\n"
    without, with_code = parse_policy(text.encode()), parse_policy(text.encode(), parse_mldsa=mldsa.parse_mldsa_vkey)
    assert without == with_code
    assert without.witnesses[0].verifier is None
    cosigned = note.format_note(TEXT, [LOG.sign(TEXT), signer.cosign(TEXT, NOW_S)])
    opened = verify_cosigned(cosigned, with_code, now_s=NOW_S, logs=[LOG.verifier])
    assert opened.cosignatures == (("pq", NOW_S),)
    with pytest.raises(SignatureError):
        verify_cosigned(cosigned, without, now_s=NOW_S, logs=[LOG.verifier])
    # A time of 0 says nothing of freshness, and is enough where none is asked for.
    timeless = note.format_note(TEXT, [LOG.sign(TEXT), signer.cosign(TEXT, 0)])
    with pytest.raises(SignatureError, match="`0` recently enough"):
        verify_cosigned(timeless, with_code, now_s=NOW_S, logs=[LOG.verifier])
    verify_cosigned(timeless, with_code, now_s=NOW_S, max_age_s=None, logs=[LOG.verifier])


# -- counting ---------------------------------------------------------------------------------------------------


def test_every_subset_of_the_example_counts_as_specified() -> None:
    policy = parse_policy(EXAMPLE)
    names = [line.name for line in policy.witnesses]
    for size in range(7):
        for subset in itertools.combinations(names, size):
            xs, ys = sum(name[0] == "X" for name in subset), sum(name[0] == "Y" for name in subset)
            assert quorum.is_satisfied(policy, set(subset)) == (xs >= 2 and ys >= 1), subset


def test_names_of_nobody_and_of_groups_count_for_nothing() -> None:
    policy = parse_policy(EXAMPLE)
    assert not quorum.is_satisfied(policy, {"X-and-Y", "X-witnesses", "Y-witnesses", "Z"})


def test_no_quorum_is_always_there() -> None:
    assert quorum.is_satisfied(parse_policy(b"quorum none\n"), set())


# -- verifying --------------------------------------------------------------------------------------------------


def test_a_fresh_quorum_holds_and_says_who() -> None:
    found = verify_cosigned(signed((0, NOW_S), (2, NOW_S - 300), (4, NOW_S + 60)), parse_policy(EXAMPLE), now_s=NOW_S)
    assert found.checkpoint == POINT
    assert found.cosignatures == (("X1", NOW_S), ("X3", NOW_S - 300), ("Y2", NOW_S + 60))


@pytest.mark.parametrize(
    "cosigners",
    [
        [],
        [(0, NOW_S), (1, NOW_S), (2, NOW_S)],
        [(0, NOW_S), (3, NOW_S), (4, NOW_S)],
        [(0, NOW_S), (2, NOW_S - 301), (4, NOW_S)],
        [(0, NOW_S), (2, NOW_S + 61), (4, NOW_S)],
        [(0, NOW_S), (2, 0), (4, NOW_S)],
    ],
)
def test_too_few_or_too_old_are_no_quorum(cosigners: list[tuple[int, int]]) -> None:
    with pytest.raises(SignatureError, match="cosignatures are no quorum"):
        verify_cosigned(signed(*cosigners), parse_policy(EXAMPLE), now_s=NOW_S)


def test_a_stored_receipt_may_be_of_any_age() -> None:
    old = signed((0, 1), (1, 1), (3, 1))
    assert verify_cosigned(old, parse_policy(EXAMPLE), now_s=NOW_S, max_age_s=None).checkpoint == POINT


def test_a_seal_later_than_its_cosignature_does_not_hold() -> None:
    cosigned, policy = signed((0, NOW_S), (1, NOW_S), (3, NOW_S)), parse_policy(EXAMPLE)
    verify_cosigned(cosigned, policy, now_s=NOW_S, seal_time_ms=(NOW_S + 60) * 1000)
    with pytest.raises(SignatureError):
        verify_cosigned(cosigned, policy, now_s=NOW_S, seal_time_ms=(NOW_S + 60) * 1000 + 1)


def test_the_newest_of_a_witness_counts() -> None:
    policy = parse_policy(f"witness a {VKEYS[0]}\nquorum a\n".encode())
    for times in ((1, NOW_S), (NOW_S, 1)):
        note_bytes = signed(*((0, time_s) for time_s in times))
        assert verify_cosigned(note_bytes, policy, now_s=NOW_S, logs=[LOG.verifier]).cosignatures == (("a", NOW_S),)


def test_who_signs_and_for_which_log() -> None:
    policy = parse_policy(EXAMPLE)
    cosigners = [(0, NOW_S), (1, NOW_S), (3, NOW_S)]
    impostor = Signer(ORIGIN, KeyPair(b"I" * 32))
    with pytest.raises(SignatureError):
        verify_cosigned(signed(*cosigners, by=impostor), policy, now_s=NOW_S)
    other = Signer("log.test/other", KeyPair(b"O" * 32))
    both = parse_policy(f"log {note.format_vkey(other.verifier)}\n".encode() + EXAMPLE)
    with pytest.raises(ProofError):
        verify_cosigned(signed(*cosigners, by=other), both, now_s=NOW_S)
    assert verify_cosigned(signed(*cosigners), both, now_s=NOW_S).checkpoint == POINT
    with pytest.raises(SignatureError):
        verify_cosigned(signed(), parse_policy(b"quorum none\n"), now_s=NOW_S)


def test_a_wrong_cosignature_by_a_known_key_spoils_the_note() -> None:
    forged = note.format_note(TEXT, [LOG.sign(TEXT), WITNESSES[0].cosign(TEXT + "x\n", NOW_S)])
    knowing = parse_policy(f"log {LOG_VKEY}\nwitness a {VKEYS[0]}\nquorum none\n".encode())
    with pytest.raises(SignatureError):
        verify_cosigned(forged, knowing, now_s=NOW_S)
    # To a reader that does not know the key it is a stranger's line.
    verify_cosigned(forged, parse_policy(f"log {LOG_VKEY}\nquorum none\n".encode()), now_s=NOW_S)


def test_two_keys_of_one_name_and_id_are_refused() -> None:
    # Found by trying: 32 bits are few, and a signature line names no more of its key.
    first, second = (Signer("w", KeyPair(seed.to_bytes(32)), COSIGNATURE).verifier for seed in (35_399, 50_728))
    assert first.key_id == second.key_id
    line = f"witness a {note.format_vkey(first)}\n"
    parse_policy(f"{line}quorum a\n".encode())
    with pytest.raises(MalformedError, match="line 2: key has the name and ID of another"):
        parse_policy(f"{line}witness b {note.format_vkey(second)}\nquorum a\n".encode())
