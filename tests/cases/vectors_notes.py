"""Receipts, checkpoint notes, signatures and the payloads that name keys: the parts that a history consists of."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cases.ledgers import LOG, ORIGIN, LedgerCase, flip
from cases.signatures import FAMILIES
from cases.vectors_case import STRANGER, TRUST, Vector, b64, read_payload
from consentd.core import checkpoint, ed25519, merkle, note, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.ledger import reads
from consentd.v1 import statement_pb2 as st

WITNESS = note.Signer("witness.example/w", ed25519.KeyPair(b"\x24" * 32), note.COSIGNATURE)


def reduced_receipts(content: bytes, index: int, leaf_hash: bytes) -> Iterator[Vector]:
    """Yield a receipt without the leaf, and what was done to it."""

    def vector(name: str, want: str, *, at: int = index, hashed: bytes = leaf_hash, proof: bytes = content) -> Vector:
        under = {**TRUST, "index": str(at), "leaf_hash": b64(hashed)}
        return Vector(kind="receipt", name=f"reduced: {name}", want=want, content=proof, under=under)

    yield vector("right", "ok")
    for at in (0, index - 1, index + 1, 2**63):
        yield vector(f"index {at}", "proof", at=at)
    for at in range(len(leaf_hash)):
        yield vector(f"hash with byte {at} changed", "proof", hashed=flip(at, 1 << at % 8)(leaf_hash))
    for size in (0, 31, 33, 64):
        yield vector(f"hash of {size} bytes", "", hashed=(leaf_hash * 2)[:size])
    for at in range(0, len(content), 41):
        yield vector(f"flip byte {at}", "", proof=flip(at, 1 << at % 8)(content))


def receipts(case: LedgerCase) -> Iterator[Vector]:
    """Yield receipts at every checkpoint, and what was done to some."""

    def receipt(name: str, want: str, content: bytes, leaf: bytes, **trust: str) -> Vector:
        under = {**TRUST, "leaf": b64(leaf), **trust}
        return Vector(kind="receipt", name=name, want=want, content=content, under=under)

    size = case.ledger.state.size
    leaves = reads.read_leaves(case.store, 0, size)
    for text in case.notes:
        point, _ = checkpoint.open_checkpoint(text, ORIGIN, LOG.verifier)
        for index in sorted({0, point.size // 3, point.size - 1}):
            content = reads.proof_bundle(case.store, index, point, text)
            yield receipt(f"leaf {index} of {point.size}", "ok", content, leaves[index])
    index, point = size // 2, checkpoint.open_checkpoint(case.notes[-1], ORIGIN, LOG.verifier)[0]
    text, leaf = case.notes[-1], leaves[size // 2]
    content = reads.proof_bundle(case.store, index, point, text)
    bundle = checkpoint.parse_proof(content)
    for at in range(0, len(content), 3):
        yield receipt(f"flip byte {at}", "", flip(at, 1 << at % 8)(content), leaf)
    for at in range(0, len(content), 29):
        yield receipt(f"cut at {at}", "", content[:at], leaf)
    for at in range(0, len(leaf), 11):
        yield receipt(f"leaf with byte {at} changed", "proof", content, flip(at)(leaf))
    for at in (index - 1, index + 1, 0, size, checkpoint.MAX_SIZE):
        moved = checkpoint.format_proof(replace(bundle, index=at))
        yield receipt(f"index {at}", "proof", moved, leaf)
        yield receipt(f"leaf of another index {at}", "proof", content, leaves[at] if at < size else b"")
    for name, proof in (
        ("shorter", bundle.proof[:-1]), ("longer", (*bundle.proof, bytes(32))), ("reversed", bundle.proof[::-1]),
        ("empty", ()), ("of zeros", tuple(bytes(32) for _ in bundle.proof)),
    ):  # fmt: skip
        yield receipt(f"proof {name}", "proof", checkpoint.format_proof(replace(bundle, proof=proof)), leaf)
    yield receipt("extra", "ok", checkpoint.format_proof(replace(bundle, extra=b"anything")), leaf)
    yield from reduced_receipts(content, index, merkle.leaf_hash(leaf))
    lines = content.split(b"\n")
    for name, want, other in (
        ("extra without content", "malformed", content.replace(b"\nindex", b"\nextra \nindex", 1)),
        ("extra twice", "malformed", content.replace(b"\nindex", b"\nextra AA==\nextra AA==\nindex", 1)),
        ("index with a zero", "malformed", content.replace(b"index ", b"index 0", 1)),
        ("index with a sign", "malformed", content.replace(b"index ", b"index +", 1)),
        ("index too large", "malformed", content.replace(b"index %d" % index, b"index 9223372036854775808", 1)),
        ("index missing", "malformed", b"\n".join([lines[0], *lines[2:]])),
        ("another mark", "malformed", content.replace(b"@v1", b"@v2", 1)),
        ("a space behind the mark", "malformed", content.replace(b"@v1", b"@v1 ", 1)),
        ("other newlines", "malformed", content.replace(b"\n", b"\r\n")),
        ("no checkpoint", "malformed", content.split(b"\n\n")[0] + b"\n\n"),
        ("no empty line", "malformed", content.replace(b"\n\n", b"\n")),
        ("a hash too short", "malformed", b"\n".join([*lines[:2], lines[2][:-4], *lines[3:]])),
        ("64 hashes", "malformed", b"\n".join([*lines[:2], *[lines[2]] * 64, b"", text])),
        ("63 hashes", "proof", b"\n".join([*lines[:2], *[lines[2]] * 63, b"", text])),
        ("not ASCII", "malformed", content.replace(b"index", "ïndex".encode(), 1)),
        ("too large", "malformed", content + bytes(2_000_000)),
    ):  # fmt: skip
        yield receipt(name, want, other, leaf)
    yield receipt("another origin pinned", "proof", content, leaf, origin="ledger.example/other")
    other_key = note.format_vkey(note.Signer(ORIGIN, STRANGER).verifier)
    yield receipt("another key pinned", "unknown_key", content, leaf, log_key=other_key)
    wrong = checkpoint.sign_checkpoint(replace(point, origin="ledger.example/other"), [LOG])
    foreign = checkpoint.format_proof(replace(bundle, checkpoint_note=wrong))
    yield receipt("another origin signed", "proof", foreign, leaf)
    # The root fits, the size does not: a tree of one leaf has no sibling to go by.
    sibling = bytes(32)
    for size, root in ((1, merkle.node_hash(sibling, merkle.leaf_hash(leaf))), (1, merkle.leaf_hash(leaf))):
        text = checkpoint.sign_checkpoint(Checkpoint(ORIGIN, size, root), [LOG])
        longer = checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, (sibling,), text))
        yield receipt(f"proof longer than its tree, {root.hex()[:8]}", "proof", longer, leaf)
    short = forged_tree([b"no leaf"])
    yield receipt("no leaf at all, in a tree", "malformed", short, b"no leaf")


def forged_tree(leaves: list[bytes]) -> bytes:
    """Return the receipt of the first of some leaves, whatever they are."""
    edge, stored = tiles.Edge().append([merkle.leaf_hash(leaf) for leaf in leaves])
    text = checkpoint.sign_checkpoint(Checkpoint(ORIGIN, len(leaves), edge.root()), [LOG])
    proof = tuple(tiles.prove_inclusion(0, len(leaves), stored))
    return checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, proof, text))


def notes() -> Iterator[Vector]:
    """Yield checkpoint notes: texts that are none, signed all the same, and signature lines of every sort."""
    root = b64(merkle.node_hash(bytes(32), bytes(32)))
    text = f"{ORIGIN}\n7\n{root}\n"
    line, cosigned = LOG.sign(text), WITNESS.cosign(text, 1_700_000_000)

    def raw(text: str | bytes, *signatures: note.NoteSignature) -> bytes:
        """Format without asking whether it is a note."""
        body = text.encode() if isinstance(text, str) else text
        made = signatures or (note.NoteSignature(LOG.name, LOG.verifier.key_id, LOG.key.sign(body)),)
        return body + b"\n" + b"".join(note.format_signature(one).encode() + b"\n" for one in made)

    def vector(name: str, want: str, content: bytes, *witnesses: note.Signer) -> Vector:
        keys = [note.format_vkey(witness.verifier) for witness in witnesses]
        return Vector(kind="note", name=name, want=want, content=content, under={**TRUST, "witnesses": keys})

    yield vector("signed", "ok", raw(text))
    yield vector("signed twice", "ok", raw(text, line, line))
    yield vector("cosigned by a stranger", "ok", raw(text, line, cosigned))
    yield vector("cosigned by a witness", "ok", raw(text, line, cosigned), WITNESS)
    yield vector("not cosigned", "ok", raw(text), WITNESS)
    yield vector("cosigned only", "signature", raw(text, cosigned), WITNESS)
    for name, signature in (
        ("of another time", (1).to_bytes(8) + cosigned.signature[8:]), ("short", cosigned.signature[:-1]),
        ("without a time", cosigned.signature[8:]), ("of no time", b"\xff" * 8 + cosigned.signature[8:]),
        ("of zeros", bytes(72)),
    ):  # fmt: skip
        wrong = replace(cosigned, signature=signature)
        yield vector(f"cosignature {name}", "signature", raw(text, line, wrong), WITNESS)
        yield vector(f"cosignature {name} by a stranger", "ok", raw(text, line, wrong))
    far = 1 << 63
    signed = WITNESS.key.sign(b"cosignature/v1\ntime %d\n" % far + text.encode())
    beyond = replace(cosigned, signature=far.to_bytes(8) + signed)
    yield vector("cosignature of a time beyond 63 bits", "signature", raw(text, line, beyond), WITNESS)
    for at in range(0, 64, 5):
        wrong = replace(line, signature=flip(at)(line.signature))
        yield vector(f"signature with byte {at} changed", "signature", raw(text, wrong))
        yield vector(f"a good one and one with byte {at} changed", "signature", raw(text, line, wrong))
    for size in (1, 63, 65, 100):
        yield vector(f"signature of {size} bytes", "signature", raw(text, replace(line, signature=bytes(size))))
    yield vector("another key ID", "unknown_key", raw(text, replace(line, key_id=line.key_id ^ 1)))
    yield vector("another name", "signature", raw(text, replace(line, name=line.name + "x")))
    yield vector("100 lines", "ok", raw(text, line, *[cosigned] * 99))
    yield vector("101 lines", "malformed", raw(text, line, *[cosigned] * 100))
    large = note.NoteSignature("pq.example", 7, bytes(5_000))
    yield vector("lines of 5,000 bytes", "ok", raw(text, line, *[large] * 15))
    yield vector("too large", "malformed", raw(text, line) + b"x" * 1_000_000)
    spaces = "\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
    for odd in (*spaces, "\x1c", "\x1f", "\t", "\r", "+"):
        yield vector(f"name with {odd!r}", "malformed", raw(text, line, replace(cosigned, name=f"a{odd}b")))
        yield vector(f"origin with {odd!r}", "malformed", raw(text.replace("example", f"ex{odd}ample")))
    for fine in ("\ufeff", "\u200b", "\x7f", "로그", "\U0001f600"):
        yield vector(f"name with {fine!r}", "ok", raw(text, line, replace(cosigned, name=f"a{fine}b")))
        yield vector(f"origin with {fine!r}", "proof", raw(text.replace("example", f"ex{fine}ample")))
    for name, want, other in (
        ("an extension line", "malformed", text + "more\n"),
        ("an empty line", "malformed", text + "\n"),
        ("no root", "malformed", f"{ORIGIN}\n7\n"),
        ("a short root", "malformed", f"{ORIGIN}\n7\n{b64(bytes(31))}\n"),
        ("a root in other letters", "malformed", f"{ORIGIN}\n7\n{'_' + root[1:]}\n"),
        ("size 0, a root", "malformed", f"{ORIGIN}\n0\n{root}\n"),
        ("size 0, the empty root", "ok", f"{ORIGIN}\n0\n{b64(merkle.EMPTY_ROOT)}\n"),
        ("size 07", "malformed", f"{ORIGIN}\n07\n{root}\n"),
        ("size +7", "malformed", f"{ORIGIN}\n+7\n{root}\n"),
        ("size -7", "malformed", f"{ORIGIN}\n-7\n{root}\n"),
        ("size of nothing", "malformed", f"{ORIGIN}\n\n{root}\n"),
        ("size in other digits", "malformed", f"{ORIGIN}\n٧\n{root}\n"),
        ("size 2^63 - 1", "ok", f"{ORIGIN}\n{2**63 - 1}\n{root}\n"),
        ("size 2^63", "malformed", f"{ORIGIN}\n{2**63}\n{root}\n"),
        ("size of 20 digits", "malformed", f"{ORIGIN}\n{10**19}\n{root}\n"),
        ("no origin", "malformed", f"\n7\n{root}\n"),
        ("another origin", "proof", f"{ORIGIN}x\n7\n{root}\n"),
        ("a byte order mark", "proof", "\ufeff" + text),
        ("other newlines", "malformed", text.replace("\n", "\r\n")),
        ("no newline at its end", "malformed", text[:-1]),
        ("nothing", "malformed", ""),
    ):  # fmt: skip
        yield vector(f"text: {name}", want, raw(other))
    good = raw(text)
    for name, other in (
        ("not UTF-8", b"\xff" + good), ("a surrogate", b"\xed\xa0\x80" + good), ("overlong", b"\xc0\xaf" + good),
        ("no newline at its end", good[:-1]), ("an empty line behind", good + b"\n"), ("a line behind", good + b"x\n"),
        ("no empty line", good.replace(b"\n\n", b"\n")), ("another dash", good.replace("—".encode(), b"-")),
        ("a name without signature", good + "— a\n".encode()),
        ("two spaces", good.replace("— ".encode(), "—  ".encode())),
        ("a key ID alone", good + "— a AAAAAA==\n".encode()), ("unused bits", good + "— a AAAAAAB=\n".encode()),
        ("a space behind", good[:-1] + b" \n"),
    ):  # fmt: skip
        yield vector(f"note: {name}", "malformed", other)
    rng = random.Random(3)
    for at in range(len(good)):
        yield vector(f"flip byte {at}", "", flip(at, 1 << rng.randrange(8))(good))


def signatures() -> Iterator[Vector]:
    """Yield the signatures that count and that do not."""
    for family, (make, _) in FAMILIES.items():
        for at, case in enumerate(make()):
            under = {"key": b64(case.key), "message": b64(case.message)}
            yield Vector(kind="signature", name=f"{family} {at}", want=case.want, content=case.signature, under=under)


def payloads() -> Iterator[Vector]:
    """Yield KEY and LEDGER payloads, as they should be and as chance makes them."""
    attestation = st.Attestation(attested_by="operator", method="신분증")
    messages: dict[str, list[Any]] = {
        "key": [
            st.KeyStatement(key=b"k" * 32, attestation=attestation),
            st.KeyStatement(key=b"k" * 32, retired=True),
            st.KeyStatement(),
        ],
        "ledger": [
            st.LedgerStatement(
                origin=ORIGIN, verifier_keys=["a", "한"], statement_key=b"s" * 32,
                predecessor=b"p\n", map_bits=17, vault_commitment=b"v" * 32,
            ),
            st.LedgerStatement(origin=ORIGIN, verifier_keys=[TRUST["log_key"]]),
            st.LedgerStatement(
                origin=ORIGIN, retention_days=7, pruning=st.Pruning(kept_from_time_ms=1 << 40, start_size=1 << 63)
            ),
            st.LedgerStatement(retention_days=2**32 - 1, pruning=st.Pruning(kept_from_time_ms=-1)),
            st.LedgerStatement(pruning=st.Pruning()),
            st.LedgerStatement(pruning=st.Pruning(start_size=2**64 - 1)),
            st.LedgerStatement(origin=ORIGIN, rotation=st.Rotation(
                role=st.ROTATION_ROLE_LOG, old_key=b"o" * 32, new_key=b"n" * 32, from_size=2**64 - 1, reason="교체",
                new_signature=b"s" * 64,
            )),
            st.LedgerStatement(rotation=st.Rotation(role=st.ROTATION_ROLE_STATEMENT, new_key=b"n")),
        ],
    }  # fmt: skip
    rng = random.Random(5)
    for kind, good in messages.items():
        contents = [message.SerializeToString(deterministic=True) for message in good]
        contents += [a + b for a, b in itertools.product(contents, contents)]
        # A varint in more bytes than it needs, or too large; wrong wire types; groups; fields that are not known.
        for tail in (
            "1001", "1000", "108000", "1080808080808080808001", "1080808080808080808002", "10808080808080808080808001",
            "1080", "10", "900001", "908080808000", "908080800001", "90808080800001", "0a8000", "0a80808080800000",
            "0affffffff0f", "0a05", "1a00", "1a020a00", "1a030a01ff", "1a0412021200", "1a021801", "1a01", "1b1c", "13",
            "1314", "14", "00", "0000", "0800", "0801", "1201", "15", "1500000000", "110000000000000000", "1d00000000",
            "2000", "2200", "2a00", "3011", "30ffffffff1f", "3080808080808080808001", "3200", "f8ffffff0f00",
            "f8ffffffff0f00", "3a0161", "3a00", "4000", "4200", "fa7f00",
            "220180", "22048f80bfbf", "2203eda080", "12036162", "1203616263",
            "07", "0f", "16",
            "4a0408051006", "4a020805", "4a021006", "4a0208054a021006", "4a0408011006", "4a020a00", "4a021801",
            "4a0108", "4a0b08ffffffffffffffffff7f", "4a0b08ffffffffffffffffff01", "4a06088080808001", "4a", "4801",
            "4a044a020801", "4005", "40ffffffff1f", "4080808080808080808001", "4205", "4a80808080800000",
            "4a0c0880808080808080808080010000",
            "5200", "52020801", "52020802", "52020803", "52020800", "52020a00", "5204080210", "52040802200152020801",
            "52060802200128ff", "520508022a0161", "520508022a01ff", "520408023801", "520b08ffffffffffffffffff01",
            "520b088180808080808080807f", "52060881808080103801", "5203088200", "52", "5001",
            "5204080132004000", "52040801320030004a00",
        ):  # fmt: skip
            contents += [bytes.fromhex(tail), contents[0] + bytes.fromhex(tail)]
        whole = contents[0]
        contents += [whole[:at] for at in range(len(whole))]
        contents += [flip(at, 1 << rng.randrange(8))(whole) for at in range(len(whole)) for _ in range(2)]
        contents += [rng.randbytes(rng.randrange(1, 8)) for _ in range(100)]
        for at, content in enumerate(contents):
            under = {"reads": read_payload(kind, content)}
            yield Vector(kind=kind, name=f"payload {at}", want="ok", content=content, under=under)
