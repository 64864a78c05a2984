"""The format of evidence: what is written reads back, and every other text is refused as malformed."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from consentd.core import evidence
from consentd.core.evidence import Evidence, Scope, SingleEntry, format_evidence, parse_evidence
from consentd.core.history import ChainProof, HistoryEntry, HistoryProof, RotationProof
from consentd.errors import MalformedError

raw = some.binary(max_size=80)
text = some.text(some.characters(exclude_categories=["Cs"]), max_size=20)
integer = some.integers(0, 2**53 - 1)
hashes = some.lists(raw, max_size=3).map(tuple)
entries = some.builds(HistoryEntry, raw, some.none() | some.tuples(raw, raw))
chains = some.builds(
    ChainProof, tag=raw, public_name=text, count=integer, head=raw, map_proof=raw, first_seq=integer,
    entries=some.lists(entries, max_size=3).map(tuple),
)  # fmt: skip
proofs = some.builds(
    HistoryProof, checkpoint=raw, consistency=hashes, seal=raw, seal_inclusion=hashes,
    chains=some.lists(chains, max_size=3).map(tuple),
)  # fmt: skip
scopes = (
    some.builds(Scope, tag=some.binary(min_size=32, max_size=32))
    | some.builds(Scope, participant=text.filter(bool))
    | some.tuples(integer, integer).map(lambda pair: Scope(first=min(pair), last=max(pair)))
)
files = some.builds(
    Evidence, scope=scopes, proof=proofs, keys=some.lists(text, max_size=2).map(tuple), policy=text,
    entries=some.lists(some.builds(SingleEntry, integer, entries, hashes), max_size=3).map(tuple),
)  # fmt: skip


@given(files)
@settings(max_examples=200)
def test_any_claims_can_be_written_and_read(given: Evidence) -> None:
    assert parse_evidence(format_evidence(given)) == given


@given(some.binary() | some.text().map(str.encode) | some.recursive(
    some.none() | some.booleans() | some.floats() | some.text() | some.sampled_from(["format", evidence.FORMAT]),
    lambda inner: some.lists(inner) | some.dictionaries(some.sampled_from(["format", "scope", "seal"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_other_bytes_are_malformed(content: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_evidence(content)


ENTRY = HistoryEntry(b"leaf", (b"salt", b"statement"))
WHOLE = Evidence(
    scope=Scope(tag=b"\x11" * 32),
    proof=HistoryProof(
        checkpoint=b"note", consistency=(b"c",), seal=b"seal", seal_inclusion=(b"i",),
        chains=(ChainProof(tag=b"t", public_name="n", count=1, head=b"h", map_proof=b"m", first_seq=1,
                           entries=(ENTRY, HistoryEntry(b"leaf", None))),),
        rotations=(RotationProof(
            checkpoint=b"old", seal=b"seal", seal_inclusion=(b"j",), consistency=(b"d",),
            history=ChainProof(
                tag=b"t", public_name="ledger", count=2, head=b"h", map_proof=b"m", first_seq=2, entries=(ENTRY,)
            ),
        ),),
    ),
    entries=(SingleEntry(7, ENTRY, (b"i",)),),
    keys=("key",),
    policy="quorum none\n",
)  # fmt: skip
GOOD = format_evidence(WHOLE)


def test_the_names_are_those_of_the_specification() -> None:
    document = json.loads(GOOD)
    assert list(document) == [
        "format", "scope", "checkpoint", "consistency", "seal", "seal_inclusion", "histories", "entries", "rotations",
        "keys", "policy",
    ]  # fmt: skip
    assert list(document["rotations"][0]) == ["checkpoint", "seal", "seal_inclusion", "history", "consistency"]
    assert list(document["histories"][0]) == [
        "tag", "public_name", "count", "head", "map_proof", "first_seq", "entries",
    ]  # fmt: skip
    assert list(document["entries"][0]) == ["index", "leaf", "opening", "inclusion"]
    assert document["histories"][0]["entries"][1]["opening"] is None


def objects(node: Any) -> list[dict[str, Any]]:
    """Return every object of a document."""
    children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return [*([node] if isinstance(node, dict) else []), *(one for child in children for one in objects(child))]


@pytest.mark.parametrize("change", ["missing", "unknown", "twice"])
def test_every_object_has_exactly_its_names_each_once(change: str) -> None:
    count = 0
    for at in range(len(objects(json.loads(GOOD)))):
        for name in objects(json.loads(GOOD))[at]:
            document = json.loads(GOOD)
            fields = objects(document)[at]
            if change == "missing":
                del fields[name]
            elif change == "unknown":
                fields[name + "x"] = fields[name]
            else:
                fields["TWICE"] = fields[name]
            content = json.dumps(document).replace('"TWICE"', f'"{name}"').encode()
            with pytest.raises(MalformedError):
                parse_evidence(content)
            count += 1
    assert count == 47


@pytest.mark.parametrize("number", ["-0", "-1", "1.0", "1e0", "1E2", "9007199254740992", "9" * 5000, "NaN", "Infinity",
                                    "01", "+1", "0x1", "true", "null", '"1"', "[1]", "1.5"])  # fmt: skip
def test_an_integer_is_written_in_plain_digits(number: str) -> None:
    for field in (b'"index":7', b'"count":1', b'"first_seq":1'):
        name = field.split(b":")[0]
        assert GOOD.count(field) == 1
        parse_evidence(GOOD.replace(field, name + b":9007199254740991"))
        with pytest.raises(MalformedError):
            parse_evidence(GOOD.replace(field, name + b":" + number.encode()))


@pytest.mark.parametrize("value", ["\\ud800", "\\udfff", "\\ud800\\ud800", "\\udc00\\ud800"])
def test_text_has_no_half_of_a_surrogate_pair(value: str) -> None:
    for before in (b'"n"', b'"key"', b'"quorum none\\n"'):
        assert GOOD.count(before) == 1
        parse_evidence(GOOD.replace(before, b'"\\ud83d\\ude00"'))
        with pytest.raises(MalformedError):
            parse_evidence(GOOD.replace(before, b'"%b"' % value.encode()))


@pytest.mark.parametrize(
    "change",
    [
        lambda good: b"\xef\xbb\xbf" + good,
        lambda good: good.decode().encode("utf-16"),
        lambda good: good.replace(b'"n"', b'"\xff"'),
        lambda good: good.replace(b'"n"', b'"\xed\xa0\x80"'),
        lambda good: good.replace(b'"n"', b'"\n"'),
        lambda good: good[:-1],
        lambda good: good + b"x",
        lambda good: good * 2,
        lambda good: good.replace(evidence.FORMAT.encode(), b"consentd/evidence/v1"),
        lambda good: good.replace(b'"leaf":"bGVhZg=="', b'"leaf":"bGVhZg"'),
        lambda good: good.replace(b'"leaf":"bGVhZg=="', b'"leaf":"bGVhZh=="'),
        lambda good: good.replace(b'"leaf":"bGVhZg=="', b'"leaf":" bGVhZg=="'),
        lambda good: good.replace(b'["aQ=="]', b"[" + b",".join([b'"aQ=="'] * 65) + b"]"),
        lambda good: good.replace(b'{"tag":"ERER', b'{"tag":"ER'),
    ],
)
def test_other_spellings_are_refused(change: Callable[[bytes], bytes]) -> None:
    assert change(GOOD) != GOOD
    with pytest.raises(MalformedError):
        parse_evidence(change(GOOD))


@pytest.mark.parametrize("scope", [{}, {"first": 1}, {"first": 2, "last": 1}, {"first": 1, "last": 2, "tag": "ERER"},
                                   {"participant": ""}, {"tag": ""}, [], None, "all"])  # fmt: skip
def test_a_scope_names_one_thing(scope: Any) -> None:
    with pytest.raises(MalformedError):
        parse_evidence(json.dumps({**json.loads(GOOD), "scope": scope}).encode())


def test_white_space_and_the_order_of_names_mean_nothing() -> None:
    document = json.loads(GOOD)
    assert parse_evidence(json.dumps(document, indent=2).encode()) == WHOLE
    assert parse_evidence(json.dumps(document, sort_keys=True, ensure_ascii=True).encode()) == WHOLE


@pytest.mark.parametrize("depth", [evidence.MAX_NESTING + 1, 1000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_is_bounded_before_anything_recurses(depth: int, opening: str) -> None:
    for end in ("", "]" * depth, "}" * depth):
        with pytest.raises(MalformedError, match="nested deeper"):
            parse_evidence((opening * depth + end).encode())


@pytest.mark.parametrize(
    "piece", ["[],", "{},", '"",', '{"":0},', "[[[[[]]]]],", "0,"],
    ids=["lists", "objects", "texts", "named", "deep", "numbers"],
)
def test_what_would_take_many_times_its_size_is_refused_before_it_is_decoded(piece: str) -> None:
    text = '{"keys":[' + piece * (200_000 // len(piece)) + "0]}"
    with pytest.raises(MalformedError, match="lists, objects and commas"):
        parse_evidence(text.encode())
    spaced = text.replace(",", "," + " " * 2 * evidence.BYTES_PER_MARK * piece.count("[") + " " * 60)
    with pytest.raises(MalformedError, match="exactly these names"):
        parse_evidence(spaced.encode())  # as long as its marks demand: refused for another reason


def test_marks_in_text_are_none() -> None:
    many = replace(WHOLE, policy="[{," * 10_000)
    assert parse_evidence(format_evidence(many)) == many


def test_brackets_in_text_are_no_nesting() -> None:
    deep = "[" * 1000 + '\\"' * 1000 + "{" * 1000
    content = GOOD.replace(b'"policy":"quorum none\\n"', b'"policy":"%b"' % deep.encode())
    assert parse_evidence(content).policy == "[" * 1000 + '"' * 1000 + "{" * 1000


def test_a_text_without_end_is_read_once() -> None:
    # A reader that starts again at each quote takes days for this.
    for tail in (b"", b"\\"):
        with pytest.raises(MalformedError):
            parse_evidence(b'{"format":"' + b'\\"' * 1_000_000 + tail)


def test_a_file_is_of_bounded_size() -> None:
    with pytest.raises(MalformedError, match="larger than"):
        parse_evidence(bytes(evidence.MAX_SIZE + 1))
