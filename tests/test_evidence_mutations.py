"""Evidence that is changed on its way: each change is refused, or proves no more than the file did before.

Three exceptions are looked for, not assumed. The file still claims the very same (``is_same``): white space, escapes,
and ``keys`` and ``policy``, which no verifier reads. It claims less than it proves (``claims_less``). Or it has other
chains of authors' keys than it needs, each of which is verified (``has_other_authors``).
"""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cases.audits import LOG, ORIGIN, Forge
from cases.vectors_case import BANK, CITIZEN, b64
from cases.vectors_evidence import locations, make_document
from cases.vectors_files import set_at, without
from consentd.core import codec, ed25519, note
from consentd.core.evidence import Evidence, Scope, parse_evidence
from consentd.core.history import HistoryEntry
from consentd.core.kinds import EntryKind
from consentd.errors import MalformedError, SignatureError, VerificationError
from consentd.statements.evidence import VerifiedEvidence, verify_evidence
from consentd.v1 import statement_pb2 as st

Document = dict[str, Any]
Change = Callable[[Document], object]


def encode(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def check(content: bytes) -> VerifiedEvidence:
    return verify_evidence(parse_evidence(content), origin=ORIGIN, log_verifier=LOG.verifier)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    return make_small(tmp_path_factory.mktemp("small"), 1)


def make_small(directory: Path, number: int) -> dict[str, Document]:
    """Return evidence of each scope, of a ledger of 22 leaves in which *number* is a person."""
    forge = Forge(map_bits=4)
    forge.begin()
    bank = codec.public_tag("participant/bank")
    person, other = forge.enrol(number), forge.enrol(number + 1)
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key))
    forge.seal()
    for tag in (person, other, person):
        forge.ask(tag)
    forge.add(EntryKind.OUTCOME, person, st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT), ref=3, key=BANK)
    forge.add(EntryKind.KEY, person, st.KeyStatement(key=CITIZEN.public_key))
    forge.add(EntryKind.PAUSE, person, st.PauseStatement(lineage_seq=2), ref=2, key=CITIZEN)
    forge.seal()
    gone = b"\x77" * 32
    forge.add(EntryKind.ENROL, gone, st.EnrolStatement(scheme="test"), has_opening=False)
    forge.add(EntryKind.ERASURE, gone, b"")
    forge.ask(other)
    forge.seal()
    location = forge.write(directory / "log", directory / "openings")
    scopes = {
        "range": Scope(first=6, last=12), "person": Scope(tag=person), "erased": Scope(tag=gone),
        "chain": Scope(tag=codec.public_tag("ledger")), "participant": Scope(participant="bank"),
    }  # fmt: skip
    return {name: make_document(location, directory / "evidence.json", scope) for name, scope in scopes.items()}


# -- what a change may come to ----------------------------------------------------------------------------------


def is_same(before: Evidence, after: Evidence) -> bool:
    """Tell whether two files claim the same, but for what no verifier reads."""
    return replace(after, keys=before.keys, policy=before.policy) == before


def has_other_authors(before: Evidence, after: Evidence) -> bool:
    """Tell whether two files differ in nothing but authors' chains: there are more, or they are in another order."""
    chains = after.proof.chains
    return is_same(before, replace(after, proof=replace(after.proof, chains=before.proof.chains))) and (
        not after.scope.chain or chains[0] == before.proof.chains[0]
    )


def claims_less(before: Evidence, after: Evidence) -> bool:
    """Tell whether *after* is *before* with a scope that is a part of what is there, or without statements of single
    entries, or, for a participant, without some single entries, of which nobody else can say how many there are."""
    after = replace(after, keys=before.keys, policy=before.policy)
    if replace(after, scope=before.scope) == before:
        scope = after.scope
        there = {single.index for single in before.entries}
        return there.issuperset(range(scope.first, scope.last + 1)) and (
            not scope.chain or scope.chain == before.proof.chains[0].tag
        )
    kept = {one.index: one for one in before.entries}
    return (
        replace(after, entries=before.entries) == before
        and (bool(before.scope.participant) or len(after.entries) == len(kept))
        and all(
            one in (kept[one.index], replace(kept[one.index], entry=HistoryEntry(one.entry.leaf, None)))
            for one in after.entries
        )
    )


@dataclass
class Tried:
    """What became of changes, by what they were of."""

    refused: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    less: Counter[str] = field(default_factory=Counter)
    authors: Counter[str] = field(default_factory=Counter)

    def change(self, original: bytes, mutated: bytes, what: str) -> None:
        assert mutated != original
        try:
            check(mutated)
        except VerificationError:
            self.refused[what] += 1
            return
        before, after = parse_evidence(original), parse_evidence(mutated)
        if is_same(before, after):
            self.same[what] += 1
        elif has_other_authors(before, after):
            self.authors[what] += 1
        else:
            assert claims_less(before, after), what
            self.less[what] += 1


# -- one change after another -----------------------------------------------------------------------------------


def flip(*location: str | int) -> Change:
    """Return a change of one bit of the bytes at a place."""

    def apply(document: Document) -> None:
        *path, last = location
        parent: Any = document
        for key in path:
            parent = parent[key]
        content = bytearray(note.decode_base64(parent[last]))
        content[len(content) // 2] ^= 1
        parent[last] = b64(bytes(content))

    return apply


@pytest.mark.parametrize(
    "change",
    [
        flip("entries", 3, "leaf"),
        flip("entries", 3, "opening", "salt"),
        flip("entries", 3, "opening", "statement"),
        lambda document: document["entries"][3].update(index=document["entries"][3]["index"] + 1),
        lambda document: document["entries"][3]["inclusion"].pop(),
        lambda document: document["entries"].pop(3),
        lambda document: document["entries"][3].pop("opening"),
        flip("seal"),
        lambda document: document["seal_inclusion"].pop(),
        lambda document: document.update(consistency=document["seal_inclusion"]),
        flip("histories", 0, "map_proof"),
        flip("histories", 0, "head"),
        flip("histories", 0, "entries", 0, "opening", "statement"),
        lambda document: document["histories"][0].update(public_name="participant/bank"),
        lambda document: document["histories"][0].update(public_name="\udc00"),
        lambda document: document["histories"][0].update(first_seq=2),
        lambda document: document["histories"][0]["entries"].pop(),
        lambda document: document["histories"].pop(),
        lambda document: document["scope"].update(last=document["scope"]["last"] + 1),
        lambda document: document["scope"].update(last=1 << 60),
        lambda document: document["scope"].update(first=True),
        lambda document: document.update(scope={"tag": b64(bytes(32))}),
        lambda document: document.update(scope={"tag": b64(bytes(31))}),
        lambda document: document.update(scope={"participant": "bank"}),
        lambda document: document.update(scope={"participant": "\ud800"}),
        lambda document: document["scope"].update(participant="bank"),
        lambda document: document.update(checkpoint=b64(note.decode_base64(document["checkpoint"])[:-1])),
        flip("checkpoint"),
        lambda document: document.pop("seal"),
        lambda document: document.update(strange=""),
    ],
)
def test_nothing_can_be_changed(small: dict[str, Document], change: Change) -> None:
    document = copy.deepcopy(small["range"])
    check(encode(document))
    change(document)
    with pytest.raises(VerificationError):
        check(encode(document))


def test_an_entry_of_a_persons_history_cannot_be_left_out(small: dict[str, Document]) -> None:
    for at in range(len(small["person"]["histories"][0]["entries"])):
        for count, first in ((0, 0), (-1, 0), (0, 1)):
            document = copy.deepcopy(small["person"])
            history = document["histories"][0]
            del history["entries"][at]
            history["count"] += count
            history["first_seq"] += first
            with pytest.raises(VerificationError):
                check(encode(document))


def test_another_log_is_not_believed(small: dict[str, Document]) -> None:
    stranger = note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))
    with pytest.raises(SignatureError):
        verify_evidence(parse_evidence(encode(small["range"])), origin=ORIGIN, log_verifier=stranger.verifier)


def test_what_is_no_evidence_is_refused(small: dict[str, Document]) -> None:
    content = encode(small["range"])
    for other in (b"", b"{}", b"PK\3\4", content[: len(content) // 2], content[1:]):
        with pytest.raises(MalformedError):
            check(other)


def test_every_byte_of_the_file_counts(small: dict[str, Document]) -> None:
    tried = Tried()
    rng = random.Random(7)
    for name, document in small.items():
        content = encode(document)
        for at in range(0, len(content), 2 if name == "chain" else 13):
            for mutated in (
                content[:at] + bytes((content[at] ^ (1 << rng.randrange(8)),)) + content[at + 1 :],
                content[:at] + bytes((rng.choice(b"0123456789abcdefABCDEF+/="),)) + content[at + 1 :],
                content[:at] + content[at + 1 :],
                content[:at] + bytes((rng.choice(b' \n"0A'),)) + content[at:],
                content[:at],
            ):
                if mutated != content:
                    tried.change(content, mutated, part_at(content, at))
    assert sum(tried.refused.values()) > 10_000
    # White space anywhere, digits of a smaller scope; what is claimed of keys.
    assert set(tried.less) <= {"scope", "entries"}
    assert sum(tried.less.values()) < 50
    assert tried.same["keys"] > 50
    assert sum(count for part, count in tried.same.items() if part != "keys") < 100
    assert tried.refused["checkpoint"] > 500


def part_at(content: bytes, at: int) -> str:
    """Name the part of a file that a byte belongs to."""
    names = (
        "format", "scope", "checkpoint", "consistency", "seal", "seal_inclusion", "histories", "rotations", "keys",
        "policy",
    )  # fmt: skip
    starts = {content.index(f'"{name}":'.encode()): name for name in names}
    starts[content.rindex(b'"entries":[')] = "entries"
    return starts[max((start for start in starts if start <= at), default=min(starts))]


def test_every_value_counts(small: dict[str, Document]) -> None:
    tried = Tried()
    for name, document in small.items():
        content = encode(document)
        for location, value in locations(document):
            if location:
                for other in other_values(value):
                    tried.change(content, encode(set_at(document, location, other)), f"{name}: {location[0]}")
                if isinstance(location[-1], str):
                    tried.change(content, encode(without(document, location)), f"{name}: without {location[-1]}")
    assert sum(tried.refused.values()) > 3_000
    assert {what.split(": ")[1] for what in tried.same} <= {"keys", "policy"}
    assert {what.split(": ")[1] for what in tried.less} <= {"scope", "entries"}


def other_values(value: Any) -> Iterator[Any]:
    """Yield values that are not *value*."""
    others: list[Any] = [None, True, 0, 1.5, "", "AAAA", [], {}, [value], {"tag": value}]
    if type(value) is int:
        others += [value + 1, value - 1, -value - 1, str(value), float(value), 1 << 53]
    elif isinstance(value, str):
        others += [value + "A", value[:-1], value[::-1], value.lower(), value.upper(), value + "="]
    elif isinstance(value, list):
        others += [value[:-1], value[1:], value * 2, [*value, None], value[::-1], value * 70]
    yield from (other for other in others if other != value or type(other) is not type(value))


def test_no_part_can_be_moved_left_out_repeated_or_of_another_ledger(
    small: dict[str, Document], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tried = Tried()
    foreign = make_small(tmp_path_factory.mktemp("foreign"), 3)
    for name, document in small.items():
        content = encode(document)
        for part in document.keys() - {"format", "keys", "policy"}:
            for source in (document, *foreign.values()):
                for other, value in source.items():
                    if value != document[part]:
                        mutated = encode({**document, part: value})
                        tried.change(content, mutated, f"{name}: {other} as {part}")
        for location, value in locations(document):
            if isinstance(value, list) and location[0] not in ("keys",):
                for what, other in rearranged(value):
                    mutated = encode(set_at(document, location, other))
                    tried.change(content, mutated, f"{name}: {what} in {location[-1]} of {len(location)}")
    # Left out without a trace: what a participant's file has of persons, one entry or all of them (an empty list). Of
    # another ledger's scope: a public chain's tag is the same in every ledger, and so are indexes.
    scopes = {f"{name}: scope as scope" for name in small}
    entries = {f"participant: {part} as entries" for part in ("consistency", "rotations", "entries")}
    assert set(tried.less) <= {"participant: left out in entries of 1"} | scopes | entries
    assert {what.split(": ")[1] for what in tried.authors} <= {"moved in histories of 1"}
    assert not tried.same
    assert sum(tried.refused.values()) > 500


def rearranged(items: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    for at in range(len(items)):
        yield "left out", items[:at] + items[at + 1 :]
        yield "twice", [*items[: at + 1], *items[at:]]
        for to in range(at + 1, len(items)):
            moved = [*items[:at], *items[at + 1 : to + 1], items[at], *items[to + 1 :]]
            if moved != items:
                yield "moved", moved


def test_a_daemons_statement_is_nobody_elses(small: dict[str, Document]) -> None:
    """A decision is signed by the daemon: without the chain of its keys nothing is said of it, not even `unproven`."""
    document = copy.deepcopy(small["range"])
    document["histories"] = [chain for chain in document["histories"] if chain["public_name"] != "ledger"]
    with pytest.raises(SignatureError):
        check(encode(document))
