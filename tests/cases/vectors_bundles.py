"""Audit bundles, and all that can be done to them on their way.

What nothing in a bundle contradicts is right as well, and wants what the whole bundle wants: a README and a policy of
other words, an index in a whole chain, a smaller scope, a statement withheld from a single entry.
"""

import base64
import json
import random
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cases.audits import LOG, ORIGIN, Forge
from cases.ledgers import flip
from cases.vectors_case import BANK, CITIZEN, STRANGER, Vector
from cases.vectors_notes import WITNESS
from cases.vectors_resealed import forged_bundles, resealed
from cases.vectors_zips import VKEY, WORDS, Parts, bombs, changed_bytes, changed_zips, unzipped, vector, zipped
from consentd.audit.bundle import Scope, make_bundle
from consentd.core import codec, ed25519, note
from consentd.core.kinds import EntryKind
from consentd.v1 import statement_pb2 as st

JSON_FILES = ("scope.json", "seal.json", "chains.jsonl", "entries.jsonl")


@dataclass(frozen=True, slots=True)
class Made:
    """A ledger of 25 leaves, and a bundle for each scope, by name."""

    forge: Forge
    person: bytes
    bundles: dict[str, bytes]


def make_all(directory: Path) -> Made:
    """Make a ledger in which there is a bit of everything, and bundles of it."""
    forge = Forge(map_bits=4)
    forge.begin()
    bank = codec.public_tag("participant/bank")
    person, other = forge.enrol(1), forge.enrol(2)
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key))
    forge.seal()  # 10
    forge.ask(person)
    forge.ask(other, purpose="HRESCH")
    forge.add(EntryKind.OUTCOME, person, st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT), ref=3, key=BANK)
    forge.add(EntryKind.KEY, person, st.KeyStatement(key=CITIZEN.public_key))
    forge.add(EntryKind.PAUSE, person, st.PauseStatement(lineage_seq=2), ref=2, key=CITIZEN)
    forge.seal()  # 16
    gone = b"\x77" * 32
    forge.add(EntryKind.ENROL, gone, st.EnrolStatement(scheme="test"), kept=False)
    forge.add(EntryKind.ERASURE, gone, b"")
    forge.add(200, other, b"of a later version")
    forge.ask(other)
    forge.seal()  # 21
    forge.ask(person)
    forge.seal()  # 23
    place = forge.write(directory / "log", directory / "openings")
    scopes = {
        "range": Scope(first=8, last=14),
        "range with own key": Scope(first=15, last=17),
        "range with unknown kind": Scope(first=18, last=21),
        "person": Scope(tag=person),
        "erased person": Scope(tag=gone),
        "public chain": Scope(tag=codec.public_tag("ledger")),
        "participant": Scope(participant="bank"),
    }
    bundles = {}
    for name, scope in scopes.items():
        path = directory / "bundle.zip"
        make_bundle(place, path, scope, origin=ORIGIN, log_verifier=LOG.verifier, vkey=VKEY, policy=b"anything")
        bundles[name] = path.read_bytes()
    closed = type(place)(place.directory)
    make_bundle(closed, path, Scope(first=8, last=14), origin=ORIGIN, log_verifier=LOG.verifier, vkey=VKEY)
    bundles["range without statements"] = path.read_bytes()
    return Made(forge, person, bundles)


SMALLER = {("first", "more"), ("last", "less")}
TOLD = {"range with own key": "untold", "range with unknown kind": "untold"}
"""What is not proven wholly: whose key it was, what an unknown kind says."""


def bundles() -> Iterator[Vector]:
    """Yield bundles, and what was done to them."""
    with TemporaryDirectory() as directory:
        made = make_all(Path(directory))
    for name, content in made.bundles.items():
        told = TOLD.get(name, "ok")
        yield vector(f"bundle: {name}", told, content)
        yield vector(f"bundle: {name}, zipped again", told, zipped(unzipped(content), zipfile.ZIP_STORED))
        yield from other_pins(name, content)
        yield from changed_fields(name, unzipped(content), told)
        yield from changed_lines(name, unzipped(content), told)
        yield from changed_files(name, unzipped(content), told)
        every = 1 if name == "public chain" else 41
        yield from changed_bytes(name, content, told, every)
    yield from odd_texts(made.bundles["participant"])
    whole = made.bundles["range"]
    yield from changed_zips("range", whole)
    yield from bombs("range", whole)
    yield from swapped_bundles(made)
    yield from cosigned(whole)
    yield from resealed(made.forge.leaves, made.bundles)
    yield from forged_bundles()


# -- the files --------------------------------------------------------------------------------------------------


def lines_of(part: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in part.splitlines()]


def joined(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def with_line(parts: Parts, file: str, at: int, line: Any) -> bytes:
    lines: list[Any] = lines_of(parts[file])
    lines[at] = line
    return zipped({**parts, file: joined(lines)})


def other_pins(name: str, content: bytes) -> Iterator[Vector]:
    yield vector(f"{name}: another origin pinned", "proof", content, origin="ledger.example/other")
    stranger = note.format_vkey(note.Signer(ORIGIN, STRANGER).verifier)
    yield vector(f"{name}: another key pinned", "signature", content, log_key=stranger)


def changed_fields(name: str, parts: Parts, told: str) -> Iterator[Vector]:
    """Yield each field of each line changed: bits here and there, shorter, longer, of another type, missing."""
    rng = random.Random(len(name))
    for file in JSON_FILES:
        for at, line in enumerate(lines_of(parts[file])):
            where = f"{file} {at} of {name}"

            def made(what: str, want: str, other: Any, *, file: str = file, at: int = at,
                     where: str = where) -> Vector:  # fmt: skip
                return vector(f"{what} in {where}", want, with_line(parts, file, at, other))

            for key, value in line.items():
                for what, other in changed_value(rng, value):
                    if other != value:
                        want = wanted_of(file, key, what, line, told)
                        yield made(f"{key} {what}", want, {**line, key: other})
                less = {name: value for name, value in line.items() if name != key}
                yield made(f"{key} missing", "malformed", less)
            yield made("a name too many", "malformed", {**line, "comment": 1})
            for what, other in (("null", None), ("a number", 1), ("text", "x"), ("a list", [line])):
                yield made(what, "malformed", other)


def wanted_of(file: str, key: str, what: str, line: dict[str, Any], told: str) -> str:
    """Say what a verifier must say of a field changed in this way."""
    if key == "opening" and what == "null" and file == "entries.jsonl":
        return "any"  # withheld
    is_chained = file == "chains.jsonl" and "index" in line
    if (is_chained and key == "index" and what in ("more", "less")) or (key, what) in SMALLER:
        return told
    if what not in ("flipped", "cut", "longer", "more", "less", "null") or (what == "null" and file == "scope.json"):
        return "malformed"
    # A seal has no opening.
    return "malformed" if key == "opening" and line["leaf"].startswith("0100") else ""


def changed_value(rng: random.Random, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str):
        if value and all(digit in "0123456789abcdef" for digit in value):
            content = bytes.fromhex(value) if len(value) % 2 == 0 else b""
            for _ in range(2):
                yield "flipped", flip(rng.randrange(len(content)), 1 << rng.randrange(8))(content).hex()
            yield "cut", content[:-1].hex()
            yield "longer", value + "00"
            yield "in capitals", value.upper()
            yield "with a space", value[:2] + " " + value[2:]
            yield "of half a byte", value[:-1]
            yield "of no hexadecimal", "x" + value[1:]
            yield "in base64", base64.b64encode(content).decode() + "="
        else:
            yield "longer", value + "x"
        yield "a number", 1
        yield "null", None
    elif isinstance(value, int):
        yield "more", value + 1
        if value:
            yield "less", value - 1
        yield from (
            ("negative", -1), ("too large", 1 << 53), ("much too large", 10**400), ("text", str(value)),
            ("true", True), ("null!", None), ("a list", [value]), ("broken", value + 0.5),
        )  # fmt: skip
    elif isinstance(value, list):
        if value:
            place = rng.randrange(len(value))
            first = bytes.fromhex(value[place])
            yield "flipped", [*value[:place], flip(rng.randrange(32))(first).hex(), *value[place + 1 :]]
            yield "cut", value[:-1]
            yield "more", [*value[:place], *value[place:][:1], *value[place:]]
            yield "of a short hash", [*value[:-1], value[-1][:-2]]
            yield "of numbers", [1] * len(value)
        yield "longer", [*value, bytes(32).hex()]
        yield "of many", [bytes(32).hex()] * 64
        yield "text", ""
        yield "null!", None
    elif value is None:
        yield "longer", "00" * 200
        yield "a number", 0
        yield "false", False


def changed_lines(name: str, parts: Parts, told: str) -> Iterator[Vector]:
    """Yield files with lines left out, repeated, exchanged, or written in another way."""
    for file in JSON_FILES:
        part = parts[file]
        lines = part.splitlines(keepends=True)

        def made(what: str, want: str, content: bytes, *, file: str = file) -> Vector:
            return vector(f"{what} in {file} of {name}", want, zipped({**parts, file: content}))

        is_scope_range = b'"first"' in parts["scope.json"]
        for at in range(len(lines)):
            rest = lines[:at] + lines[at + 1 :]
            # What there is beside a whole chain, nobody can know the extent of.
            want = "" if is_scope_range or file != "entries.jsonl" else told
            yield made(f"line {at} left out", want, b"".join(rest))
            yield made(f"line {at} twice", "", b"".join([*lines[: at + 1], *lines[at:]]))
            if at + 1 < len(lines):
                swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
                yield made(f"lines {at} and the next exchanged", "", b"".join(swapped))
        if not lines:
            continue
        yield made("an empty line first", "malformed", b"\n" + part)
        yield made("an empty line last", "malformed", part + b"\n")
        yield made("no newline at the end", "malformed", part[:-1])
        yield made("a byte order mark", "malformed", b"\xef\xbb\xbf" + part)
        yield made("UTF-16", "malformed", part.decode().encode("utf-16"))
        yield made("a comma at the end", "malformed", part[:-2] + b",}\n")
        yield made("not UTF-8", "malformed", part[:-2] + b',"x":"\xff"}\n')
        yield made("a surrogate", "malformed", part[:-2] + b',"x":"\xed\xa0\x80"}\n')
        yield made("NaN", "malformed", part[:-2] + b',"x":NaN}\n')
        yield made("a line break within", "malformed", part.replace(b",", b",\n", 1))
        yield made("a carriage return within", told, part.replace(b",", b",\r", 1))
        yield made("carriage returns", told, part.replace(b"\n", b"\r\n"))
        yield made("spaces", told, part.replace(b":", b" : "))
        yield made("names in another order", told, joined([dict(reversed(line.items())) for line in lines_of(part)]))
        first = next(iter(lines_of(part)[0].items()))
        twice = joined([lines_of(part)[0]])[:-2] + b"," + joined([dict([first])])[1:]
        yield made("a name twice", "malformed", twice + b"".join(lines[1:]))
        swollen = part[:-2] + b" " * (3 << 20) + b"}\n"
        yield made("more spaces than can be", "malformed", swollen)
        number = re.compile(rb'(?<=[a-z]":)([0-9]+)(?=[,}])')
        for form in (rb"\1.0", rb"\1e0", rb"\1E+0", rb"0\1", rb"+\1"):
            if number.search(part):
                yield made(f"a number written {form!r}", "malformed", number.sub(form, part, count=1))


def odd_texts(content: bytes) -> Iterator[Vector]:
    """Yield a bundle of a participant of another name, in which there are signs that mean something in JSON."""
    parts = unzipped(content)
    for name, text in (
        ("a quote", r"\"x\":1"), ("a backslash", r"\\"), ("a brace", "{"), ("a decimal", "1.5e7"),
        ("an escape", r"\u0041"), ("a NUL", r"\u0000"), ("another script", "은행"),
    ):  # fmt: skip
        scope = re.sub(rb'"participant":"[^"]*"', lambda _, text=text: b'"participant":"' + text.encode() + b'"',
                       parts["scope.json"])  # fmt: skip
        yield vector(f"participant with {name}", "proof", zipped({**parts, "scope.json": scope}))
    for field, want in (("participant", "malformed"), ("origin", "proof")):
        scope = re.sub(rb'"%b":"[^"]*"' % field.encode(), rb'"%b":"\\ud800"' % field.encode(), parts["scope.json"])
        half = vector(f"{field} that is half of a surrogate pair", want, zipped({**parts, "scope.json": scope}))
        yield half
    named = re.sub(rb'"public_name":"[^"]*"', rb'"public_name":"\\ud800"', parts["chains.jsonl"], count=1)
    yield vector("public name that is half of a surrogate pair", "proof", zipped({**parts, "chains.jsonl": named}))


def changed_files(name: str, parts: Parts, told: str) -> Iterator[Vector]:
    """Yield bundles without a file, with contents exchanged, and with files that are something else."""
    for file in parts:
        rest = {other: part for other, part in parts.items() if other != file}
        yield vector(f"{name} without {file}", told if file in WORDS else "malformed", zipped(rest))
        for what, content in (("empty", b""), ("garbage", b"\xff\0garbage"), ("a zip", zipped({}))):
            want = told if file in WORDS else "malformed"
            if not (content or parts[file]):
                continue
            if what == "empty" and file.endswith(".jsonl"):
                is_beside = file == "entries.jsonl" and b'"first"' not in parts["scope.json"]
                want = told if is_beside else ""
            yield vector(f"{name} with {what} as {file}", want, zipped({**parts, file: content}))
        for other in parts:
            if file < other and parts[file] != parts[other]:
                exchanged = {**parts, file: parts[other], other: parts[file]}
                want = told if {file, other} <= set(WORDS) else "malformed"
                yield vector(f"{name} with {file} and {other} exchanged", want, zipped(exchanged))


def swapped_bundles(made: Made) -> Iterator[Vector]:
    """Yield bundles with a file of another bundle of the same ledger in its place."""
    for name, content in made.bundles.items():
        for other, source in made.bundles.items():
            ours, theirs = unzipped(content), unzipped(source)
            for file in ("scope.json", "chains.jsonl", "entries.jsonl"):
                if ours[file] != theirs[file]:
                    mixed = zipped({**ours, file: theirs[file]})
                    yield vector(f"{file} of {other} in {name}", "any", mixed)


def cosigned(content: bytes) -> Iterator[Vector]:
    """Yield a bundle under policies, and policies under which nothing can be told."""
    parts = unzipped(content)
    opened = note.parse_note(parts["checkpoint"])

    def signed(*lines: note.NoteSignature) -> bytes:
        return zipped({**parts, "checkpoint": note.format_note(opened.text, [*opened.unverified, *lines])})

    key = note.format_vkey(WITNESS.verifier)
    second = note.Signer("witness.example/2", ed25519.KeyPair(b"\x25" * 32), note.COSIGNATURE)
    one, two = WITNESS.cosign(opened.text, 9), second.cosign(opened.text, 1_900_000_000)
    both = f"witness a {key}\nwitness b {note.format_vkey(second.verifier)}\n"
    for rule, wants in (
        ("quorum none", ("ok", "ok", "ok", "ok")), ("quorum a", ("signature", "ok", "signature", "ok")),
        ("group g any a b\nquorum g", ("signature", "ok", "ok", "ok")),
        ("group g all a b\nquorum g", ("signature", "signature", "signature", "ok")),
        ("group g 2 a b\nquorum g", ("signature", "signature", "signature", "ok")),
        ("group g 1 a\ngroup h all g b\nquorum h", ("signature", "signature", "signature", "ok")),
    ):  # fmt: skip
        policy = base64.b64encode(f"# a policy\n\n{both}{rule}\n".encode()).decode()
        for lines, want in zip(((), (one,), (two,), (one, two)), wants, strict=True):
            yield vector(f"cosigned by {len(lines)}, {rule!r}", want, signed(*lines), policy=policy)
    policy = base64.b64encode(f"log {VKEY}\n{both}quorum a\n".encode()).decode()
    wrong = note.NoteSignature(one.name, one.key_id, flip(40)(one.signature))
    yield vector("a wrong cosignature of a known witness", "signature", signed(wrong, two), policy=policy)
    yield vector("a wrong cosignature, and nobody asks", "ok", signed(wrong))
    stale = WITNESS.cosign(opened.text.replace("\n", "\n1", 1), 9)
    yield vector("a cosignature of another tree", "signature", signed(stale), policy=policy)
