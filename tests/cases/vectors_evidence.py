"""Evidence that auditors make, and all that can be done to a file on its way.

What nothing in a file contradicts is right as well, and wants what the whole file wants: other ``keys`` and another
``policy``, a smaller scope, a statement withheld from a single entry.
"""

import base64
import copy
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cases.audits import LOG, ORIGIN, Forge
from cases.ledgers import flip
from cases.vectors_case import BANK, CITIZEN, STRANGER, Document, Vector, b64, encode
from cases.vectors_files import Position, found, set_at, without
from cases.vectors_notes import WITNESS
from cases.vectors_resealed import PINS, forged_evidence, resealed, vector
from consentd.audit.evidence import make_evidence
from consentd.audit.sources import ExportDirectory
from consentd.core import codec, ed25519, note
from consentd.core.evidence import Scope
from consentd.core.kinds import EntryKind
from consentd.v1 import statement_pb2 as st

CLAIMS = ("keys", "policy")
"""Names whose values no proof contradicts."""


@dataclass(frozen=True, slots=True)
class Made:
    """A ledger of 25 leaves, and evidence for each scope, by name."""

    forge: Forge
    files: dict[str, Document]


def make_document(location: Any, path: Path, scope: Scope, policy: str = "") -> Document:
    """Make evidence as auditors do; return it as JSON has it."""
    make_evidence(location, path, scope, origin=ORIGIN, log_verifier=LOG.verifier, policy=policy)
    document: Document = json.loads(path.read_bytes())
    return document


def make_all(directory: Path) -> Made:
    """Make a ledger in which there is a bit of everything, and evidence of it."""
    forge = Forge(map_bits=4)
    forge.begin()
    bank = codec.public_tag("participant/bank")
    person, other = forge.enrol(1), forge.enrol(2)
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key))
    forge.seal()
    forge.ask(person)
    forge.ask(other, purpose="HRESCH")
    forge.add(EntryKind.OUTCOME, person, st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT), ref=3, key=BANK)
    forge.add(EntryKind.KEY, person, st.KeyStatement(key=CITIZEN.public_key))
    forge.add(EntryKind.PAUSE, person, st.PauseStatement(lineage_seq=2), ref=2, key=CITIZEN)
    forge.seal()
    gone = b"\x77" * 32
    forge.add(EntryKind.ENROL, gone, st.EnrolStatement(scheme="test"), has_opening=False)
    forge.add(EntryKind.ERASURE, gone, b"")
    forge.add(200, other, b"of a later version")
    forge.ask(other)
    forge.seal()
    forge.ask(person)
    forge.seal()
    first, second, third, _ = forge.seals
    within = Scope(first=first - 2, last=first + 4)
    location = forge.write(directory / "log", directory / "openings")
    scopes = {
        "range": within,
        "range with own key": Scope(first=second - 1, last=second + 1),
        "range with unknown kind": Scope(first=second + 2, last=third),
        "person": Scope(tag=person),
        "erased person": Scope(tag=gone),
        "public chain": Scope(tag=codec.public_tag("ledger")),
        "participant": Scope(participant="bank"),
    }
    path = directory / "evidence.json"
    files = {name: make_document(location, path, scope, "quorum none\n") for name, scope in scopes.items()}
    without = ExportDirectory(location.directory)
    files["range without statements"] = make_document(without, path, within)
    return Made(forge, files)


SMALLER = {("first", "more"), ("last", "less")}
UNDETERMINED = {"range with own key": "undetermined", "range with unknown kind": "undetermined"}
"""What cannot be determined: who owns a key, what an unknown kind states."""


def evidence() -> Iterator[Vector]:
    """Yield evidence, and what was done to it."""
    with TemporaryDirectory() as directory:
        made = make_all(Path(directory))
    for name, document in made.files.items():
        whole = UNDETERMINED.get(name, "ok")
        yield vector(f"evidence: {name}", whole, document)
        yield from other_pins(name, document)
        yield from changed_values(name, document, whole)
        yield from changed_lists(name, document)
        yield from changed_bytes(name, encode(document), 23 if name == "public chain" else 211)
        yield from other_spellings(name, document, whole)
    yield from odd_texts(made.files["participant"])
    yield from swapped(made.files)
    yield from cosigned(made.files["range"])
    yield from resealed(made.forge.leaves, made.files)
    yield from forged_evidence()


def other_pins(name: str, document: Document) -> Iterator[Vector]:
    yield vector(f"{name}: another origin pinned", "proof", document, origin="ledger.example/other")
    stranger = note.format_vkey(note.Signer(ORIGIN, STRANGER).verifier)
    yield vector(f"{name}: another key pinned", "unknown_key", document, log_key=stranger)


# -- each value, each list --------------------------------------------------------------------------------------


def locations(node: Any, location: Position = ()) -> Iterator[tuple[Position, Any]]:
    """Yield every place of a document with its value, the document itself first."""
    yield location, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield from locations(child, (*location, key))


def changed_values(name: str, document: Document, whole: str) -> Iterator[Vector]:
    """Yield each value changed: bits here and there, shorter, longer, of another type, missing; a name too many."""
    rng = random.Random(len(name))
    for location, value in locations(document):
        where = f"{'.'.join(map(str, location)) or 'the file'} of {name}"
        is_base64 = isinstance(value, str) and not is_text(location)
        for what, other in changed_base64(rng, value) if is_base64 else changed_value(value):
            if other != value:
                changed = set_at(document, location, other) if location else other
                yield vector(f"{where} {what}", wanted_of(location, what, whole), changed)
        if location and isinstance(location[-1], str):
            yield vector(f"{where} missing", "malformed", without(document, location))
        if isinstance(value, dict):
            for more in ("comment", "index", "scope", "__proto__", "constructor"):
                if more not in value:
                    changed = {**value, more: 0}
                    changed = set_at(document, location, changed) if location else changed
                    yield vector(f"{where} with {more}", "malformed", changed)


def is_text(location: Position) -> bool:
    """Tell whether text stands at a place, and not base64."""
    return location[-1] in ("public_name", "format", "participant") or location[0] in CLAIMS


def wanted_of(location: Position, what: str, whole: str) -> str:
    """Return what a verifier must say of a value changed in this way."""
    if location and location[0] in CLAIMS and what == "longer":
        return whole
    if location[-1:] == ("opening",) and what == "null":
        return "any" if location[0] == "entries" else ""  # a single entry's may be withheld
    if (location[-1:] and (location[-1], what) in SMALLER and location[0] == "scope"):
        return whole
    if location == ("scope", "tag") and what in ("cut", "longer"):
        return "malformed"
    if location == ("format",):
        return "malformed"
    return "" if what in ("flipped", "cut", "longer", "more", "less") else "malformed"


def changed_value(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield names of changes and values in the place of *value*."""
    if isinstance(value, str):
        yield from (("longer", value + "x"), ("a number", 1), ("null", None), ("a list", [value]))
    elif type(value) is int:
        yield "more", value + 1
        if value:
            yield "less", value - 1
        yield from (
            ("negative", -1), ("too large", 1 << 53), ("much too large", 10**400), ("written as text", str(value)),
            ("true", True), ("null", None), ("a list", [value]), ("broken", value + 0.5), ("a float", float(value)),
        )  # fmt: skip
    elif isinstance(value, list):
        yield from (("null", None), ("text", ""), ("an object", {}), ("of numbers", [1]), ("of nulls", [None]))
        if value != [] and isinstance(value[0], str) and len(value[0]) == 44:
            yield "of many", [b64(bytes(32))] * 65
    elif isinstance(value, dict):
        yield from (("null", None), ("a number", 1), ("text", "x"), ("a list", [value]), ("an empty object", {}))
    else:
        yield from (("a number", 0), ("false", False), ("text", ""), ("a list", []), ("an empty object", {}))


def changed_base64(rng: random.Random, value: str) -> Iterator[tuple[str, Any]]:
    content = base64.b64decode(value, validate=True)
    if content:
        for _ in range(2):
            yield "flipped", b64(flip(rng.randrange(len(content)), 1 << rng.randrange(8))(content))
        yield "cut", b64(content[:-1])
        yield "with a space", value[:2] + " " + value[2:]
        yield "in hexadecimal", content.hex() + "x"
        if value.endswith("="):
            yield "without padding", value.rstrip("=")
    yield "longer", b64(content + b"\0")
    yield from (("with a newline", value + "\n"), ("padded once more", value + "="))
    yield from (("a number", 1), ("null", None), ("a list", [value]))


def changed_lists(name: str, document: Document) -> Iterator[Vector]:
    """Yield each list with an item left out, twice, or exchanged with the next."""
    for location, value in locations(document):
        if not isinstance(value, list) or not value or location[0] in CLAIMS:
            continue
        where = f"{'.'.join(map(str, location))} of {name}"
        # Nothing proves how many single entries there are beside a whole chain, nor in which order authors' chains are.
        is_open = location == ("histories",) or (location == ("entries",) and "first" not in document["scope"])
        want = "any" if is_open else ""
        for at in range(len(value)):
            rest = value[:at] + value[at + 1 :]
            yield vector(f"item {at} left out of {where}", want, set_at(document, location, rest))
            yield vector(f"item {at} twice in {where}", "", set_at(document, location, [*value[: at + 1], *value[at:]]))
            if at + 1 < len(value):
                order = [*value[:at], value[at + 1], value[at], *value[at + 2 :]]
                want_order = "any" if location == ("histories",) else ""
                yield vector(f"items {at} and the next exchanged in {where}", want_order,
                             set_at(document, location, order))  # fmt: skip


# -- the bytes of a file ----------------------------------------------------------------------------------------


def changed_bytes(name: str, content: bytes, every: int) -> Iterator[Vector]:
    """Yield the file with a byte changed, left out or put in here and there; cut here and there."""
    rng = random.Random(len(name))
    for at in range(rng.randrange(every), len(content), every):
        flipped = content[:at] + bytes((content[at] ^ (1 << rng.randrange(8)),)) + content[at + 1 :]
        yield vector(f"flip a bit of byte {at} in {name}", "any", flipped)
        other = content[:at] + rng.choice(b'"\\{}[]:,0123456789abcxyz=+/ \n').to_bytes(1) + content[at + 1 :]
        yield vector(f"another byte {at} in {name}", "any", other)
        yield vector(f"{name} without byte {at}", "any", content[:at] + content[at + 1 :])
    for at in range(0, len(content), 4 * every):
        yield vector(f"cut {name} at {at}", "malformed", content[:at])
        yield vector(f"{name} without its first {at + 1}", "malformed", content[at + 1 :])


def other_spellings(name: str, document: Document, whole: str) -> Iterator[Vector]:
    """Yield the file as other writers of JSON would write it, and as no writer may."""
    good = encode(document)

    def made(what: str, want: str, content: bytes) -> Vector:
        return vector(f"{name} written {what}", want, content)

    yield made("with spaces", whole, json.dumps(document, indent=2).encode())
    yield made("in another order", whole, json.dumps(document, sort_keys=True).encode())
    yield made("in reverse order", whole, encode(reversed_names(document)))
    yield made("with escapes", whole, re.sub(rb'"seal"', rb'"\\u0073eal"', good, count=1))
    yield made("with escaped slashes", whole, good.replace(b"/", rb"\/"))
    yield made("with carriage returns and tabs", whole, good.replace(b",", b",\r\n\t"))
    for what, space in (
        ("a form feed", b"\f"), ("a no-break space", b"\xc2\xa0"), ("a NUL", b"\0"), ("U+FEFF", b"\xef\xbb\xbf"),
    ):  # fmt: skip
        yield made(f"with {what} between tokens", "malformed", good.replace(b",", b"," + space, 1))
    yield made("with a byte order mark", "malformed", b"\xef\xbb\xbf" + good)
    yield made("in UTF-16", "malformed", good.decode().encode("utf-16"))
    yield made("with a comma at the end", "malformed", good[:-1] + b",}")
    yield made("with a comment", "malformed", b"/**/" + good)
    yield made("twice", "malformed", good * 2)
    yield made("with more after it", "malformed", good + b"x")
    for value in (
        b'"\xff"', b'"\xed\xa0\x80"', b"NaN", b"-Infinity", b"-0", b"0.0", b"'x'", b'"\\x"', b'"\\u12"', b'"\n"', b"no",
    ):  # fmt: skip
        ending = b',"x":' + value + b"}"
        yield made(f"with {value!r}", "malformed", good[:-1] + ending)
    for location, value in locations(document):
        if isinstance(value, dict):
            first, *_ = value
            double = {**value, "TWICE": value[first]}
            twice = encode(set_at(document, location, double) if location else double)
            where = ".".join(map(str, location)) or "the file"
            yield made(f"with {first} twice in {where}", "malformed", twice.replace(b'"TWICE"', encode(first)))
            escaped = b'"\\u%04x%b"' % (ord(first[0]), first[1:].encode())
            yield made(f"with {first} twice in {where}, escaped", "malformed", twice.replace(b'"TWICE"', escaped))
    numbers = [location for location, value in locations(document) if type(value) is int]
    for location in numbers[:3]:
        for form in ("%d.0", "%de0", "%dE+0", "0%d", "+%d", "%d.", "0x%x"):
            text = form % found(document, location)
            spelled = encode(set_at(document, location, "NUMBER")).replace(b'"NUMBER"', text.encode())
            yield made(f"with {'.'.join(map(str, location))} as {form}", "malformed", spelled)
    for depth in (9, 1000, 100_000):
        for opening, end in ((b"[", b"]"), (b'{"x":', b"}")):
            nested = good[:-1] + b',"x":' + opening * depth + b"1" + end * depth + b"}"
            yield made(f"with {depth} {opening!r} in it", "malformed", nested)
            yield made(f"as {depth} {opening!r}", "malformed", opening * depth)


def reversed_names(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: reversed_names(child) for name, child in reversed(node.items())}
    return [reversed_names(child) for child in node] if isinstance(node, list) else node


def odd_texts(document: Document) -> Iterator[Vector]:
    """Yield evidence of a participant of another name, in which there are signs that mean something in JSON."""
    texts = (
        ("a quote", r"\"x\":1", "proof"), ("a backslash", r"\\", "proof"), ("brackets", "[{" * 20, "proof"),
        ("a decimal", "1.5e7", "proof"), ("an escape", r"\u0041", "proof"), ("a NUL", r"\u0000", "proof"),
        ("another script", "은행", "proof"), ("a pair", r"\ud83d\ude00", "proof"), ("nothing", "", "malformed"),
        ("half a pair", r"\ud800", "malformed"), ("the other half", r"\udc00", "malformed"),
        ("a pair turned round", r"\ude00\ud83d", "malformed"), ("half a pair and a letter", r"\ud83dA", "malformed"),
    )  # fmt: skip
    for location in (("scope", "participant"), ("histories", 0, "public_name"), ("policy",), ("keys", 0)):
        for name, text, want in texts:
            changed = encode(set_at(document, location, "TEXT")).replace(b'"TEXT"', f'"{text}"'.encode())
            is_claim, is_half = location[0] in CLAIMS, "half" in name or "round" in name
            wanted = "malformed" if is_half else "ok" if is_claim else "" if location[0] == "histories" else want
            yield vector(f"{'.'.join(map(str, location))} with {name}", wanted, changed)


# -- files of one ledger ----------------------------------------------------------------------------------------


def swapped(files: dict[str, Document]) -> Iterator[Vector]:
    """Yield evidence with a part of other evidence of the same ledger in its place."""
    for name, ours in files.items():
        for other, theirs in files.items():
            for part in ("scope", "histories", "entries"):
                if ours[part] != theirs[part]:
                    yield vector(f"{part} of {other} in {name}", "any", {**ours, part: theirs[part]})
            for extra in theirs["histories"]:
                more = copy.deepcopy(ours)
                more["histories"].append(extra)
                yield vector(f"{extra['public_name'] or 'a person'} of {other} beside {name}", "any", more)


def cosigned(document: Document) -> Iterator[Vector]:
    """Yield evidence under policies, cosigned or not, in time or too early."""
    opened = note.parse_note(base64.b64decode(document["checkpoint"]))
    seal_s = codec.decode_leaf(base64.b64decode(document["seal"])).time_ms // 1000

    def signed(*lines: note.NoteSignature) -> Document:
        return {**document, "checkpoint": b64(note.format_note(opened.text, [*opened.unverified, *lines]))}

    key = note.format_vkey(WITNESS.verifier)
    second = note.Signer("witness.example/2", ed25519.KeyPair(b"\x25" * 32), note.COSIGNATURE)
    one, two = WITNESS.cosign(opened.text, seal_s), second.cosign(opened.text, 1_900_000_000)
    both = f"witness a {key}\nwitness b {note.format_vkey(second.verifier)}\n"
    for rule, wants in (
        ("quorum none", ("ok", "ok", "ok", "ok")), ("quorum a", ("signature", "ok", "signature", "ok")),
        ("group g any a b\nquorum g", ("signature", "ok", "ok", "ok")),
        ("group g all a b\nquorum g", ("signature", "signature", "signature", "ok")),
        ("group g 2 a b\nquorum g", ("signature", "signature", "signature", "ok")),
        ("group g 1 a\ngroup h all g b\nquorum h", ("signature", "signature", "signature", "ok")),
    ):  # fmt: skip
        policy = b64(f"# a policy\n\n{both}{rule}\n".encode())
        for lines, want in zip(((), (one,), (two,), (one, two)), wants, strict=True):
            yield vector(f"cosigned by {len(lines)}, {rule!r}", want, signed(*lines), policy=policy)
    policy = b64(f"log {PINS['log_key']}\n{both}quorum a\n".encode())
    wrong = note.NoteSignature(one.name, one.key_id, flip(40)(one.signature))
    yield vector("a wrong cosignature of a known witness", "signature", signed(wrong, two), policy=policy)
    yield vector("a wrong cosignature, and nobody asks", "ok", signed(wrong))
    stale = WITNESS.cosign(opened.text.replace("\n", "\n1", 1), seal_s)
    yield vector("a cosignature of another tree", "signature", signed(stale), policy=policy)
    for seconds, want in ((-61, "signature"), (-59, "ok"), (10**9, "ok")):
        early = WITNESS.cosign(opened.text, seal_s + seconds)
        yield vector(f"a cosignature {seconds} s after the seal", want, signed(early), policy=policy)
    for text in (f"{both}quorum a\n", f"{both}quorum b\n", "no policy"):
        claimed = {**document, "policy": text, "keys": ["x"]}
        yield vector(f"a policy that is claimed, {text[-9:]!r}, and nobody asks", "ok", claimed)
        yield vector(f"a policy that is claimed, {text[-9:]!r}, and another asked for", "signature", claimed,
                     policy=policy)  # fmt: skip
