"""Change a file of evidence in one place; and files that are no evidence, or are written in another way."""

import base64
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cases.ledgers import flip
from cases.vectors_case import Document, Vector, b64, encode, history_vector

DEEP = b"[" * 3000 + b"]" * 3000
Position = tuple[str | int, ...]
"""The path of a value in a document: names and numbers, from the top."""


def set_at(document: Document, location: Position, value: Any) -> Document:
    """Return a copy with *value* at *place*."""
    made = copy.deepcopy(document)
    parent: Any = made
    for key in location[:-1]:
        parent = parent[key]
    parent[location[-1]] = value
    return made


def changed(document: Document, location: Position, content: bytes | None) -> Document:
    """Return a copy with other bytes at *place*."""
    return set_at(document, location, content if content is None else b64(content))


def changed_text(document: Document, location: Position) -> Document:
    """Return a copy with a bit set in base64 that encodes nothing."""
    text = found(document, location)
    assert text.endswith("=")
    last = text.rstrip("=")[-1]
    return set_at(document, location, text.replace(last + "=", chr(ord(last) + 1) + "=", 1))


def changed_object(document: Document, location: Position, change: Callable[[Document], Document]) -> Document:
    """Return a copy with another object at *place*."""
    return set_at(document, location, change(found(document, location))) if location else change(document)


def without(document: Document, location: Position) -> Document:
    made = copy.deepcopy(document)
    parent = found(made, location[:-1])
    del parent[location[-1]]
    return made


def found(node: Any, location: Position) -> Any:
    for key in location:
        node = node[key]
    return node


def every(node: Any, location: Position = ()) -> Iterator[tuple[Position, Any]]:
    """Yield every place of a document, of lists only the first item."""
    if location:
        yield location, node
    if isinstance(node, dict):
        for key, child in node.items():
            yield from every(child, (*location, key))
    elif isinstance(node, list) and node:
        yield from every(node[0], (*location, 0))


def byte_fields(node: Any, under: Position = (), location: Position = ()) -> Iterator[tuple[Position, bytes]]:
    """Yield each field of bytes below *under*, and where it stands."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            yield from byte_fields(child, under, (*location, key))
    elif isinstance(node, str) and node and location[0] not in ("scope", "format", "keys", "policy") and (
        location[-1] != "public_name" and location[: len(under)] == under
    ):
        yield location, base64.b64decode(node)


def with_chain(document: Document, location: int, chain: Document) -> Document:
    chains = document["histories"]
    return {**document, "histories": [*chains[:location], chain, *chains[location + 1 :]]}


def with_entries(document: Document, location: int, entries: Sequence[Document]) -> Document:
    return with_chain(document, location, {**document["histories"][location], "entries": list(entries)})


def dropped(document: Document, location: int, at: int, count: int = 0) -> Document:
    chain = document["histories"][location]
    entries = chain["entries"][:at] + chain["entries"][at + 1 :]
    return with_chain(document, location, {**chain, "entries": entries, "count": chain["count"] + count})


def altered_list(hashes: list[str], at: int) -> Iterator[tuple[str, list[str]]]:
    yield "without", hashes[:at] + hashes[at + 1 :]
    yield "twice", [*hashes[: at + 1], *hashes[at:]]
    yield "altered", [*hashes[:at], b64(flip(at)(base64.b64decode(hashes[at]))), *hashes[at + 1 :]]
    yield "short", [*hashes[:at], b64(base64.b64decode(hashes[at])[:-1]), *hashes[at + 1 :]]
    if at:
        yield "out of order", [*hashes[: at - 1], hashes[at], hashes[at - 1], *hashes[at + 1 :]]
    else:
        yield "and one more", [*hashes, b64(bytes(32))]


def files(document: Document, **under: Any) -> Iterator[Vector]:
    """Yield files that are no evidence, or are written in another way."""

    def file(name: str, want: str, content: Any) -> Vector:
        return history_vector(f"file: {name}", want, content, **under)

    good = encode(document)
    yield file("written with spaces", "ok", json.dumps(document, indent=2).encode())
    yield file("written in another order", "ok", json.dumps(document, sort_keys=True).encode())
    for location in ((), ("histories", 0), ("histories", 0, "entries", 0), ("histories", 0, "entries", 0, "opening")):
        for name in ("comment", "index", "__proto__", "constructor"):
            where = ".".join(map(str, (*location, name)))
            more = changed_object(document, location, lambda fields, name=name: {**fields, name: 0})
            yield file(f"with a name that is not known, {where}", "malformed", more)
    yield file("with a name that is not known, of many lists", "malformed", b'{"x":' + DEEP + b"," + good[1:])
    others = ("consentd/evidence/v1", "consentd/evidence/v3", "consentd/evidence/v2 ")
    for text in (*others, "", None, 1, ["consentd/evidence/v2"]):
        yield file(f"of format {text!r}", "malformed", {**document, "format": text})
    yield file("with its format twice, the last right", "malformed", b'{"format":"x",' + good[1:])
    yield file("with its format twice, the last wrong", "malformed", good[:-1] + b',"format":"x"}')
    endless = b'{"format":' + b"9" * 5000 + b"," + good[1:]
    yield file("with its format twice, digits without end first", "malformed", endless)
    number = b'"count":%d,' % document["histories"][0]["count"]
    assert number in good
    for text, want in (
        (number[8:-1] + b".0", "malformed"), (number[8:-1] + b"e0", "malformed"),
        (b"-1", "malformed"), (b"1.5", "malformed"), (b"1e400", "malformed"), (b"NaN", "malformed"),
        (b"Infinity", "malformed"), (b"-0", "malformed"), (b"9007199254740991", "proof"),
        (b"9007199254740992", "malformed"), (b"9007199254740993", "malformed"), (b"1" * 400, "malformed"),
        (b"true", "malformed"), (b"null", "malformed"), (b'"5"', "malformed"), (b"[5]", "malformed"),
        (b"05", "malformed"), (b"+5", "malformed"), (b"0x5", "malformed"),
    ):  # fmt: skip
        yield file(f"count written {text[:20].decode()}", want, good.replace(number, b'"count":' + text + b",", 1))
    yield file("first_seq written -1", "malformed", set_at(document, ("histories", 0, "first_seq"), -1))
    for name, content in (
        ("empty", b""), ("a list", b"[]"), ("null", b"null"), ("a number", b"1"), ("text", b'"x"'),
        ("an empty object", b"{}"), ("cut", good[:-1]), ("with more behind", good + b"x"), ("twice", good * 2),
        ("with a byte order mark", b"\xef\xbb\xbf" + good), ("UTF-16", good.decode().encode("utf-16-le")),
        ("not UTF-8", good.replace(b'"public_name":""', b'"public_name":"\xff"', 1)),
        ("a surrogate in UTF-8", good.replace(b'"public_name":""', b'"public_name":"\xed\xa0\x80"', 1)),
        ("a control character", good.replace(b'"public_name":""', b'"public_name":"\n"', 1)),
        ("with a comment", b"/**/" + good), ("with a comma too many", good[:-1] + b",}"),
        ("nested", DEEP),
    ):  # fmt: skip
        yield file(name, "malformed", content)
    lone = good.replace(b'"public_name":""', b'"public_name":"\\ud800"', 1)
    yield file("half of a surrogate pair", "malformed", lone)
    for location in ("checkpoint", "seal"):
        text = document[location]
        for name, other in (
            ("without padding", text.rstrip("=")), ("with a space", " " + text), ("with a newline", text + "\n"),
            ("of other letters", text.replace("/", "_").replace("+", "-")), ("padded once more", text + "="),
            ("of half a byte", text[:-1]), ("with padding inside", text[:4] + "====" + text[4:]),
            ("in wide digits", "Ａ" + text[1:]),
        ):  # fmt: skip
            if other != text:
                yield file(f"{location} {name}", "malformed", {**document, location: other})
    for location in (("histories", 0, "tag"), ("histories", 0, "entries", 0, "opening", "salt")):
        text = found(document, location)
        assert text.endswith("=")
        yield file(f"{location[-1]} without padding", "malformed", set_at(document, location, text[:-1]))
    yield file("unused bits", "malformed", changed_text(document, ("histories", 0, "entries", 0, "opening", "salt")))
    for location, _ in every(document):
        where = ".".join(map(str, location))
        if isinstance(location[-1], str):
            yield file(f"without {where}", "malformed", without(document, location))
        for name, other in (("null", None), ("a number", 7), ("a list", []), ("an object", {}), ("true", True)):
            if isinstance(other, type(found(document, location))):
                continue
            wanted = "" if location[-1] in ("opening", "count", "first_seq") else "malformed"
            yield file(f"{name} in {where}", wanted, set_at(document, location, other))
