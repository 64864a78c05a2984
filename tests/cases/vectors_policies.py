"""Witness policies: files that are valid, files that are not, and a checkpoint checked against each."""

import base64
import hashlib
import random
from collections.abc import Iterator

from cases.ed25519_points import BASE, TORSION, encoded, plus, times
from cases.ledgers import LOG, ORIGIN
from cases.vectors_case import STRANGER, TRUST, Vector
from consentd.core import checkpoint, ed25519, note
from consentd.core.checkpoint import Checkpoint

WITNESSES = [
    note.Signer(f"w.example/{n}", ed25519.KeyPair(bytes((n + 0x60,)) * 32), note.COSIGNATURE) for n in range(1, 5)
]
VKEYS = [note.format_vkey(each.verifier) for each in WITNESSES]
LOG_VKEY = TRUST["log_key"]
TEXT = checkpoint.format_checkpoint(Checkpoint(ORIGIN, 12, b"r" * 32))
GOOD = f"""\
# a policy, 한글
log {LOG_VKEY}

witness X1 {VKEYS[0]}
\twitness\t X2  {VKEYS[1]} \t
group X 1 X1 X2
witness Y1 {VKEYS[2]} https://y1.example/
group Y any Y1
group both all X Y
quorum both
"""
A = f"witness a {VKEYS[0]}\n"
ALIKE = [
    note.format_vkey(note.Verifier("w", ed25519.KeyPair(n.to_bytes(32)).public_key, note.COSIGNATURE))
    for n in (35_399, 50_728)
]
NONE = "quorum none\n"


MIXED_ORDER = encoded(plus(times(5, BASE), TORSION))


def vkey_of(y: int) -> str:
    """Return a vkey of a witness whose key has this number as its bytes."""
    key = y.to_bytes(32, "little")
    return note.join_key("w", note.key_id_of("w", note.COSIGNATURE, key), note.COSIGNATURE, key)


def _upper(vkey: str) -> str:
    name, key_id, key = vkey.split("+", 2)
    assert key_id != key_id.upper()
    return f"{name}+{key_id.upper()}+{key}"


MALFORMED: tuple[tuple[str, str | bytes], ...] = (
    ("empty", ""),
    ("without a newline", "quorum none"),
    ("of a newline", "\n"),
    ("with two quorums", NONE * 2),
    ("with a bare quorum", "quorum\n"),
    ("with a quorum of two", "quorum none none\n"),
    ("with a quorum not defined", "quorum a\n"),
    ("with a capital", "Quorum none\n"),
    ("with a comment behind", "quorum none # comment\n"),
    ("with carriage returns", "quorum none\r\n"),
    ("with a control character", "quorum none\n\x7f\n"),
    ("with a NUL", "quorum none\n\0\n"),
    ("with a hard space", "quorum\u00a0none\n"),
    ("with a byte order mark", "\ufeffquorum none\n"),
    ("of 1,025 lines", NONE + "\n" * 1024),
    ("with its quorum first", f"quorum a\n{A}"),
    ("with a bare log", f"log\n{NONE}"),
    ("with a long log", f"log {LOG_VKEY} u more\n{NONE}"),
    ("with a log twice", f"log {LOG_VKEY}\nlog {LOG_VKEY}\n{NONE}"),
    ("with a witness as a log", f"log {VKEYS[0]}\n{NONE}"),
    ("with a log as a witness", f"witness a {LOG_VKEY}\n{NONE}"),
    ("with a key twice", f"{A}witness b {VKEYS[0]}\n{NONE}"),
    ("with two keys of one name and ID", f"witness a {ALIKE[0]}\nwitness b {ALIKE[1]}\n{NONE}"),
    ("with a name twice", f"{A}witness a {VKEYS[1]}\n{NONE}"),
    ("with a witness none", f"witness none {VKEYS[0]}\n{NONE}"),
    ("with a bare witness", f"witness a\n{NONE}"),
    ("with a long witness", f"witness a {VKEYS[0]} u more\n{NONE}"),
    ("with a key cut", f"witness a {VKEYS[0][:-2]}\n{NONE}"),
    ("with a wrong ID", f"witness a {VKEYS[0].replace('+', '+0', 1)}\n{NONE}"),
    ("with an ID in capitals", f"witness a {_upper(VKEYS[1])}\n{NONE}"),
    ("with another's name", f"witness a {VKEYS[0].replace('/1', '/2')}\n{NONE}"),
    ("with no key", f"witness a x\n{NONE}"),
    ("with a key that is no point", f"witness a {vkey_of(2)}\n{NONE}"),
    ("with a key of small order", f"witness a {vkey_of(1)}\n{NONE}"),
    ("with a key that is not canonical", f"witness a {vkey_of(2**255 - 19 + 3)}\n{NONE}"),
    ("with a key of mixed order", f"witness a {vkey_of(int.from_bytes(MIXED_ORDER, 'little'))}\n{NONE}"),
    ("with an empty group", f"{A}group g any\n{NONE}"),
    ("with a strange member", f"{A}group g any b\n{NONE}"),
    ("with a member none", f"{A}group g any none\n{NONE}"),
    ("with itself a member", f"{A}group g any g\n{NONE}"),
    ("with a member twice", f"{A}group g any a a\n{NONE}"),
    ("with a member of two", f"{A}group g any a\ngroup h any a\n{NONE}"),
    ("with a group of a name", f"{A}group a any a\n{NONE}"),
    ("with a group none", f"{A}group none any a\n{NONE}"),
    ("with something else", f"{A}{NONE}sunset 5\n"),
    ("that is not UTF-8", b"quorum none\n\xff\n"),
    ("with a surrogate", b"quorum none\n\xed\xa0\x80\n"),
    *(
        (f"of {k} of one", f"{A}group g {k} a\n{NONE}")
        for k in ("0", "2", "01", "-1", "+1", "1.0", "1e0", "١", "some", "ALL")
    ),
)


def mldsa(name: str) -> str:
    """Return a vkey of an ML-DSA-44 key, for which a verifier here has no code."""
    keyed = b"\x06" + bytes(1312)
    key_id = hashlib.sha256(name.encode() + b"\n" + keyed).hexdigest()[:8]
    return f"{name}+{key_id}+{base64.b64encode(keyed).decode()}"


def policies() -> Iterator[Vector]:
    """Yield a checkpoint, cosigned by the first three of four witnesses, under policies."""
    signed = note.format_note(TEXT, [LOG.sign(TEXT), *(each.cosign(TEXT, 9) for each in WITNESSES[:3])])

    def under(name: str, want: str, policy: str | bytes, content: bytes = signed, log_key: str = LOG_VKEY) -> Vector:
        encoded = base64.b64encode(policy.encode() if isinstance(policy, str) else policy).decode()
        about = {"policy": encoded, "log_key": log_key}
        return Vector(kind="policy", name=f"policy: {name}", want=want, content=content, under=about)

    yield under("all there is", "ok", GOOD)
    yield under("nobody", "ok", NONE)
    yield under("nobody, a log more", "ok", f"log {LOG_VKEY}\n{NONE}")
    for number, want in ((1, "ok"), (2, "ok"), (3, "ok"), (4, "signature")):
        group = "".join(f"witness w{at} {vkey}\n" for at, vkey in enumerate(VKEYS))
        yield under(f"{number} of four", want, f"{group}group g {number} w0 w1 w2 w3\nquorum g\n")
    yield under("one who did not", "signature", f"witness a {VKEYS[3]}\nquorum a\n")
    yield under("a key of another type counts for nothing", "signature", f"witness a {mldsa('m')}\nquorum a\n")
    yield under("a key of another type beside", "ok", f"{A}witness m {mldsa('m')}\ngroup g any a m\nquorum g\n")
    yield under("a log of another type", "ok", f"log {mldsa('m')}\n{A}quorum a\n")
    alike = f"witness K {VKEYS[0]}\nwitness \u212a {VKEYS[3]}\n"
    yield under("names that look alike", "ok", f"{alike}quorum K\n")
    yield under("names that look alike, the other", "signature", f"{alike}quorum \u212a\n")
    yield under("names of every prototype", "ok", f"witness __proto__ {VKEYS[0]}\nquorum __proto__\n")
    stranger = note.Signer("ledger.example/other", STRANGER)
    vkey = note.format_vkey(stranger.verifier)
    yield under("another log, and not the pinned one", "signature", GOOD, note.format_note(TEXT, [stranger.sign(TEXT)]))
    other = note.format_note(TEXT, [stranger.sign(TEXT)])
    yield under("a log of another name", "proof", f"log {vkey}\n{NONE}", other)
    both = note.format_note(TEXT, [stranger.sign(TEXT), LOG.sign(TEXT)])
    yield under("two logs, one of the name", "ok", f"log {vkey}\n{NONE}", both)
    for name, policy in MALFORMED:
        yield under(f"file {name}", "malformed", policy)
    rng = random.Random(1)
    content = GOOD.encode()
    for at in range(len(content)):
        bit = 1 << rng.randrange(8)
        flipped = content[:at] + bytes((content[at] ^ bit,)) + content[at + 1 :]
        yield under(f"file with a bit of byte {at} changed", "any", flipped)
        if at % 5 == 0:
            yield under(f"file cut at {at}", "any", content[:at])
            yield under(f"file without byte {at}", "any", content[:at] + content[at + 1 :])
            yield under(f"file with byte {at} twice", "any", content[:at] + content[at : at + 1] + content[at:])
