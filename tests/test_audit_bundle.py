"""Bundles: what is in one is proven without our server, and nothing can be changed in it or left out of it."""

import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cases.audits import DAEMON, LOG, ORIGIN, Forge, PrunedPlace, make_forge
from cases.daemons import ORIGIN as RUNNING_ORIGIN
from cases.daemons import make_running
from consentd import cli
from consentd.audit.bundle import Scope, make_bundle
from consentd.audit.claims import Claims, read_bundle
from consentd.audit.evidence import Checked, check_bundle
from consentd.audit.packed import pack
from consentd.audit.sources import Exported
from consentd.core import checkpoint, codec, ed25519, note
from consentd.core.history import HistoryEntry
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, MalformedError, NotFoundError, SignatureError, VerificationError
from consentd.v1 import statement_pb2 as st

VKEY = note.format_vkey(LOG.verifier)
BANK = ed25519.KeyPair(b"\x21" * 32)
CITIZEN = ed25519.KeyPair(b"\x22" * 32)


def make(place: Any, path: Path, **scope: Any) -> bytes:
    make_bundle(place, path, Scope(**scope), origin=ORIGIN, log_verifier=LOG.verifier, vkey=VKEY)
    return path.read_bytes()


def check(content: bytes, **options: Any) -> Checked:
    return check_bundle(content, origin=ORIGIN, log_verifier=LOG.verifier, **options)


@pytest.fixture(scope="module")
def forge() -> Forge:
    made = make_forge(900)
    bank = codec.public_tag("participant/bank")
    tag = next(tag for tag, (count, _) in made.heads.items() if count > 1)
    made.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key))
    made.add(EntryKind.OUTCOME, tag, st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT), ref=3, key=BANK)
    made.add(EntryKind.KEY, tag, st.KeyStatement(key=CITIZEN.public_key))
    made.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2, key=CITIZEN)
    made.seal()
    return made


@pytest.fixture(scope="module")
def place(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("bundled")
    return forge.write(directory / "log", directory / "openings")


@pytest.fixture(scope="module")
def person(forge: Forge) -> bytes:
    return next(tag for tag, (count, _) in forge.heads.items() if count > 1 and tag not in _public(forge))


def _public(forge: Forge) -> set[bytes]:
    return {leaf[10:42] for leaf in forge.leaves if leaf[1] == EntryKind.PARTICIPANT}


# -- what is proven ---------------------------------------------------------------------------------------------


def test_a_range(place: Exported, tmp_path: Path) -> None:
    found = check(make(place, tmp_path / "b.zip", first=200, last=420))
    assert found.scope == {"origin": ORIGIN, "size": found.checkpoint.size, "first": 200, "last": 420}
    assert dict(found.chains) == {"ledger": 1}  # whose key signed all of it
    assert found.entries == 221 + 1
    assert (found.closed, found.unknown, found.unproven) == (0, 0, 0)
    assert found.kinds["ACCESS"] > 100


def test_a_persons_history(place: Exported, forge: Forge, person: bytes, tmp_path: Path) -> None:
    found = check(make(place, tmp_path / "b.zip", tag=person))
    count = forge.heads[person][0]
    assert found.chains[0] == ("a person", count)
    assert {name for name, _ in found.chains} == {"a person", "ledger", "participant/bank"}
    assert found.opened == found.entries


def test_a_public_chain(place: Exported, tmp_path: Path) -> None:
    found = check(make(place, tmp_path / "b.zip", tag=codec.public_tag("ledger")))
    assert found.chains == (("ledger", 1),)


def test_a_participant_and_all_it_has_part_in(place: Exported, forge: Forge, tmp_path: Path) -> None:
    found = check(make(place, tmp_path / "b.zip", participant="bank"))
    assert found.chains[0] == ("participant/bank", 2)
    assert found.kinds["ACCESS"] + found.kinds["REFUSAL"] == len(forge.asked)
    found = check(make(place, tmp_path / "b.zip", participant="hospital"))
    assert found.kinds["ACCESS"] > 100  # it holds what was asked for


def test_a_statement_by_a_person_outside_their_chain_stays_open(
    place: Exported, forge: Forge, tmp_path: Path
) -> None:
    found = check(make(place, tmp_path / "b.zip", first=forge.size - 2, last=forge.size - 2))
    assert (found.unproven, found.opened) == (1, 1)


def test_without_openings_a_range_is_still_shown_to_stand_there(place: Exported, tmp_path: Path) -> None:
    bare = Exported(place.directory)
    found = check(make(bare, tmp_path / "b.zip", first=300, last=310))
    assert (found.entries, found.opened) == (11, 0)
    with pytest.raises(InvalidError, match="not at hand"):
        make(bare, tmp_path / "b.zip", tag=codec.public_tag("ledger"))


def test_of_a_pruned_ledger_what_is_left_is_proven(
    place: Exported, forge: Forge, person: bytes, tmp_path: Path
) -> None:
    kept = PrunedPlace(forge, place, forge.seals[4] + 1)
    first = kept.start
    found = check(make(kept, tmp_path / "b.zip", first=first, last=first + 50))
    assert found == check(make(place, tmp_path / "c.zip", first=first, last=first + 50))
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()
    found = check(make(kept, tmp_path / "b.zip", participant="bank"))
    assert found.chains[0] == ("participant/bank", 2)
    with pytest.raises(NotFoundError, match="pruned"):
        make(kept, tmp_path / "d.zip", first=min(kept.gone), last=first)
    with pytest.raises(InvalidError, match="entries of a whole chain are pruned"):
        make(kept, tmp_path / "d.zip", tag=person)
    assert not (tmp_path / "d.zip").exists()


def test_nothing_in_scope_is_said(place: Exported, tmp_path: Path) -> None:
    for scope in ({"participant": "nobody"}, {"tag": bytes(32)}, {"first": 10**6, "last": 10**6}):
        with pytest.raises(NotFoundError):
            make(place, tmp_path / "b.zip", **scope)
    assert not (tmp_path / "b.zip").exists()


def test_the_same_bundle_has_the_same_bytes(place: Exported, tmp_path: Path) -> None:
    assert make(place, tmp_path / "a.zip", first=5, last=9) == make(place, tmp_path / "b.zip", first=5, last=9)


def test_witnesses_are_asked_for_where_a_policy_is_given(place: Exported, tmp_path: Path) -> None:
    witness = note.Signer("witness.example", ed25519.KeyPair(b"\5" * 32), note.COSIGNATURE)
    policy = (
        f"log {VKEY}\nwitness w1 {note.format_vkey(witness.verifier)}\ngroup all any w1\nquorum all\n"
    ).encode()
    content = make(place, tmp_path / "b.zip", first=5, last=9)
    with pytest.raises(SignatureError, match="quorum"):
        check(content, policy=policy)

    def cosign(parts: dict[str, bytes]) -> None:
        opened = note.parse_note(parts["checkpoint"])
        parts["checkpoint"] = note.format_note(opened.text, [*opened.unverified, witness.cosign(opened.text, 9)])

    assert check(changed(content, cosign), policy=policy).witnesses == ("w1",)


# -- what is changed in it --------------------------------------------------------------------------------------


def changed(content: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    change(parts)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    return whole.getvalue()


def edit(name: str, at: int, change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        lines = parts[name].splitlines()
        fields = json.loads(lines[at])
        change(fields)
        lines[at] = json.dumps(fields, separators=(",", ":")).encode()
        parts[name] = b"\n".join(lines) + b"\n"

    return apply


def without(name: str, at: int) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        lines = parts[name].splitlines()
        del lines[at]
        parts[name] = b"\n".join(lines) + b"\n"

    return apply


def flip(field: str) -> Callable[[dict[str, Any]], None]:
    def apply(fields: dict[str, Any]) -> None:
        value = bytearray(bytes.fromhex(fields[field]))
        value[len(value) // 2] ^= 1
        fields[field] = value.hex()

    return apply


@pytest.mark.parametrize(
    "change",
    [
        edit("entries.jsonl", 3, flip("leaf")),
        edit("entries.jsonl", 3, flip("opening")),
        edit("entries.jsonl", 3, lambda fields: fields.update(index=fields["index"] + 1)),
        edit("entries.jsonl", 3, lambda fields: fields["inclusion"].pop()),
        edit("seal.json", 0, flip("leaf")),
        edit("chains.jsonl", 0, flip("map_proof")),
        edit("chains.jsonl", 0, flip("head")),
        edit("chains.jsonl", 0, lambda fields: fields.update(public_name="participant/bank")),
        edit("chains.jsonl", 1, flip("opening")),
        edit("scope.json", 0, lambda fields: fields.update(last=fields["last"] + 1)),
        edit("scope.json", 0, lambda fields: fields.update(size=5)),
        edit("scope.json", 0, lambda fields: fields.update(tag=bytes(32).hex())),
        edit("scope.json", 0, lambda fields: fields.update(origin="\ud800")),
        edit("scope.json", 0, lambda fields: fields.update(participant=chr(0xD800) + str(fields.pop("first")))),
        lambda parts: parts.update(
            {"scope.json": b'{"format":1,"origin":"ledger.example/audit","size":910,"participant":"\\ud800"}\n'}
        ),
        edit("scope.json", 0, lambda fields: fields.update(first=True)),
        edit("scope.json", 0, lambda fields: fields.update(last=1 << 60)),
        edit("chains.jsonl", 0, lambda fields: fields.update(public_name="\udc00")),
        edit("chains.jsonl", 0, lambda fields: fields.update(tag=fields["tag"].upper())),
        edit("chains.jsonl", 0, lambda fields: fields.update(comment="")),
        edit("chains.jsonl", 1, lambda fields: fields.pop("index")),
        edit("entries.jsonl", 3, lambda fields: fields.pop("opening")),
        without("entries.jsonl", 3),
        without("chains.jsonl", 1),
        lambda parts: parts.update(checkpoint=parts["checkpoint"].replace(b"\n", b"!\n", 1)),
        lambda parts: parts.pop("seal.json"),
        lambda parts: parts.update(strange=b""),
    ],
)
def test_nothing_can_be_changed(place: Exported, tmp_path: Path, change: Any) -> None:
    content = make(place, tmp_path / "b.zip", first=200, last=210)
    check(changed(content, lambda parts: None))
    with pytest.raises(VerificationError):
        check(changed(content, change))


def test_an_entry_of_a_persons_history_cannot_be_left_out(place: Exported, person: bytes, tmp_path: Path) -> None:
    content = make(place, tmp_path / "b.zip", tag=person)

    def leave_out(parts: dict[str, bytes]) -> None:
        edit("chains.jsonl", 0, lambda fields: fields.update(entries=fields["entries"] - 1))(parts)
        without("chains.jsonl", 4)(parts)

    with pytest.raises(VerificationError):
        check(changed(content, leave_out))


def test_another_log_is_not_believed(place: Exported, tmp_path: Path) -> None:
    content = make(place, tmp_path / "b.zip", first=200, last=210)
    stranger = note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))
    with pytest.raises(SignatureError):
        check_bundle(content, origin=ORIGIN, log_verifier=stranger.verifier)


def test_what_is_no_zip_is_refused(place: Exported, tmp_path: Path) -> None:
    content = make(place, tmp_path / "b.zip", first=200, last=203)
    for other in (b"", b"PK", content[: len(content) // 2], b"PK\x05\x06" + bytes(18)):
        with pytest.raises(MalformedError):
            check(other)


# -- everything that is changed in it ---------------------------------------------------------------------------
#
# Each change is refused, with two exceptions, and both are looked for, not assumed: the file still says the very same
# (``read_bundle`` gives equal claims: times and attributes in a zip, the bits behind the end of a DEFLATE stream,
# README and policy, and the index of a chain's entry, which no proof speaks of and nothing reads), or it claims less
# than it proves (``claims_less``).


@dataclass
class Tried:
    """What became of changes, by what they were of."""

    refused: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    less: Counter[str] = field(default_factory=Counter)

    def change(self, original: bytes, mutated: bytes, what: str, *, is_packed: bool = False) -> None:
        """Check a change. *is_packed*: what was changed is how the parts are packed, so they must be the same still."""
        assert mutated != original
        try:
            check(mutated)
        except VerificationError:
            self.refused[what] += 1
            return
        before, after = read_bundle(original), read_bundle(mutated)
        if before == after:
            if is_packed:
                assert unzipped(original) == unzipped(mutated), what
            self.same[what] += 1
        else:
            assert claims_less(before, after), what
            self.less[what] += 1


def claims_less(before: Claims, after: Claims) -> bool:
    """Tell whether *after* is *before* with a scope that is a part of what is there, or without statements of single
    entries, or, in a participant's bundle, without some of persons' entries, of which nobody else can say how many were
    at hand."""
    if replace(after, scope=before.scope, first=before.first, last=before.last, asked=before.asked) == before:
        there = {single.index for single in before.singles}
        return there.issuperset(range(after.first, after.last + 1)) and (
            not after.asked or after.asked in {chain.tag for chain in before.chains}
        )
    kept = {one.index: one for one in before.singles}
    is_participants = "participant" in before.scope
    return (
        replace(after, singles=before.singles) == before
        and (is_participants or len(after.singles) == len(kept))
        and all(
            one in (kept[one.index], replace(kept[one.index], entry=HistoryEntry(one.entry.leaf, None)))
            for one in after.singles
        )
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_small(tmp_path_factory.mktemp("small"), 1)


def make_small(directory: Path, number: int) -> dict[str, bytes]:
    """Return bundles of each scope, of a ledger of 22 leaves in which *number* is a person."""
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
    forge.add(EntryKind.ENROL, gone, st.EnrolStatement(scheme="test"), kept=False)
    forge.add(EntryKind.ERASURE, gone, b"")
    forge.ask(other)
    forge.seal()
    place = forge.write(directory / "log", directory / "openings")
    scopes: dict[str, dict[str, Any]] = {
        "range": {"first": 6, "last": 12}, "person": {"tag": person}, "erased": {"tag": gone},
        "chain": {"tag": codec.public_tag("ledger")}, "participant": {"participant": "bank"},
    }  # fmt: skip
    return {name: make(place, directory / f"{name}.zip", **scope) for name, scope in scopes.items()}


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_every_byte_of_the_file_counts(small: dict[str, bytes]) -> None:
    tried = Tried()
    for name, content in small.items():
        every = 1 if name == "chain" else 7
        for at in range(0, len(content), every):
            for bits in (1 << at % 8, 0xFF):
                mutated = content[:at] + bytes((content[at] ^ bits,)) + content[at + 1 :]
                tried.change(content, mutated, where(content, at), is_packed=True)
            for what, mutated in (
                ("cut", content[:at]),
                ("cut in front", content[at + 1 :]),
                ("byte taken out", content[:at] + content[at + 1 :]),
                ("byte put in", content[:at] + b"\0" + content[at:]),
            ):
                tried.change(content, mutated, what, is_packed=True)
    assert not tried.less
    # What says nothing of the content; and a DEFLATE stream that says the same in another way: by the unused bits of
    # its last byte, by the distance to another copy of the same bytes.
    assert set(tried.same) <= {"made by", "attributes", "end of stream", "content"}
    assert tried.same["content"] < 10
    assert sum(tried.refused.values()) > 10_000
    # In what is read and in what is not alike: a README that was tampered with on its way is refused too.
    assert tried.refused["content"] > 1000


def where(content: bytes, at: int) -> str:
    """Say what of a zip stands at *at*."""
    entry = int.from_bytes(content[-6:-2], "little")
    if at < entry:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            ends = {
                info.header_offset + 30 + len(info.filename) + info.compress_size - 1 for info in file.infolist()
            }
        return "end of stream" if at in ends else "content"
    while content[entry : entry + 4] == b"PK\1\2":
        length = 46 + int.from_bytes(content[entry + 28 : entry + 30], "little")
        if at < entry + length:
            offset = at - entry
            return "made by" if offset in (4, 5) else "attributes" if 36 <= offset < 42 else "directory"
        entry += length
    return "end record"


def test_every_byte_of_every_part_counts(small: dict[str, bytes]) -> None:
    """The same below the zip's checksums: whoever changes a part packs it anew."""
    tried = Tried()
    rng = random.Random(7)
    for name, content in small.items():
        parts = unzipped(content)
        for part, before in parts.items():
            every = 2 if name == "chain" else 13
            for at in range(0, len(before), every):
                for mutated in (
                    before[:at] + bytes((before[at] ^ (1 << rng.randrange(8)),)) + before[at + 1 :],
                    before[:at] + bytes((rng.choice(b"0123456789abcdef"),)) + before[at + 1 :],
                    before[:at] + before[at + 1 :],
                    before[:at],
                ):
                    if mutated != before:
                        tried.change(content, pack({**parts, part: mutated}), part)
    assert set(tried.less) <= {"scope.json", "entries.jsonl"}
    # Nothing is read in the README; the others: the index of a chain's entry, a blank, a bit of a letter's case in an
    # escape. Of the rest every change is refused.
    assert set(tried.same) <= {"README.txt", "chains.jsonl", "entries.jsonl", "scope.json", "seal.json"}
    assert tried.same["README.txt"] > 100
    assert sum(tried.refused.values()) > 3000
    assert sum(count for part, count in tried.same.items() if part != "README.txt") < 200
    assert tried.refused["checkpoint"] > 200


def test_no_line_or_file_can_be_moved_left_out_or_repeated(
    small: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tried = Tried()
    foreign = {name: unzipped(one) for name, one in make_small(tmp_path_factory.mktemp("foreign"), 3).items()}
    for name, content in small.items():
        parts = unzipped(content)
        for part, before in parts.items():
            rest = {other: kept for other, kept in parts.items() if other != part}
            tried.change(content, pack(rest), "file left out")
            for kind, strange in [*parts.items(), *foreign[name].items()]:
                # A part of a bundle of another ledger, or in the place of another.
                if strange != before:
                    tried.change(content, pack({**parts, part: strange}), f"{kind} as {part}")
            lines = before.splitlines(keepends=True)
            if part.endswith((".jsonl", ".json")):
                for at in range(len(lines)):
                    fewer = [*lines[:at], *lines[at + 1 :]]
                    tried.change(content, pack({**parts, part: b"".join(fewer)}), f"{name}: line of {part}")
                    again = [*lines[: at + 1], *lines[at:]]
                    tried.change(content, pack({**parts, part: b"".join(again)}), "line twice")
                    for to in range(at + 1, len(lines)):
                        moved = [*lines[:at], *lines[at + 1 : to + 1], lines[at], *lines[to + 1 :]]
                        if moved != lines:
                            tried.change(content, pack({**parts, part: b"".join(moved)}), "line moved")
    # Left out without a trace: README (nothing is read in it), and what a participant's bundle has of persons.
    assert set(tried.less) <= {"participant: line of entries.jsonl"}
    assert {what for what in tried.same if not what.endswith("as README.txt")} == {"file left out"}
    assert tried.same["file left out"] == len(small)
    assert sum(tried.refused.values()) > 500


def test_a_zip_that_can_be_read_in_two_ways_is_refused(small: dict[str, bytes]) -> None:
    content = small["range"]
    parts = unzipped(content)
    directory = int.from_bytes(content[-6:-2], "little")
    names = (
        "../checkpoint", "/checkpoint", "x/../checkpoint", "C:\\checkpoint", "checkpoint/", "Checkpoint",
        "checkpoint\0", "README.txt\0.exe", "체크포인트", "", "__proto__",
    )  # fmt: skip

    def patched(at: int, replacement: bytes) -> bytes:
        return content[:at] + replacement + content[at + len(replacement) :]

    def again(extra: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
        whole = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(whole, "w") as file:
            warnings.simplefilter("ignore")  # zipfile's own, of a name that is there twice
            for name, part in [*parts.items(), *extra]:
                info = zipfile.ZipInfo("x")
                info.filename = name
                file.writestr(info, part, method)
        return whole.getvalue()

    tricks = {
        **{f"another file, {name!r}": again([(name, b"")]) for name in names},
        **{f"{name} twice": again([(name, part)]) for name, part in parts.items()},
        **{f"{name} twice, otherwise": again([(name, part + b" ")]) for name, part in parts.items()},
        "bzip2": again([], zipfile.ZIP_BZIP2),
        "something in front": b"#!" + content,
        "something behind": content + b"x",
        "itself behind": content + content,
        "a comment": content[:-2] + b"\1\0x",
        "a gap": content[:directory] + b"\0" + content[directory:-6]
        + (directory + 1).to_bytes(4, "little") + content[-2:],
        "encrypted": patched(directory + 8, b"\1"),
        "a CRC in the directory": patched(directory + 16, b"\0\0\0\0"),
        "a CRC in the file": patched(14, b"\0\0\0\0"),
        "a size": patched(directory + 24, b"\xff\xff\xff\x7f"),
        "fewer files": patched(len(content) - 14, b"\2\0\2\0"),
        "more files": patched(len(content) - 14, b"\x63\0\x63\0"),
        "files that overlap": patched(directory + 42, (1).to_bytes(4, "little")),
        "another name in the file": patched(30, b"readme.txt"),
        "ZIP64": again([]).replace(b"PK\5\6", b"PK\6\6" + bytes(52) + b"PK\6\7" + bytes(16) + b"PK\5\6"),
    }  # fmt: skip
    for what, mutated in tricks.items():
        with pytest.raises(MalformedError):
            check(mutated)
        assert mutated != content, what


def test_a_bomb_is_not_unpacked(small: dict[str, bytes]) -> None:
    parts = unzipped(small["range"])
    large = bytes(100 << 20)
    for name in ("entries.jsonl", "checkpoint"):
        bomb = pack({**parts, name: large})
        assert len(bomb) < 200_000
        tracemalloc.start()
        try:
            with pytest.raises(MalformedError, match="larger than can be"):
                check(bomb)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
    # What is for people is held against its checksum piece by piece, and never kept.
    bomb = pack({**parts, "README.txt": large})
    tracemalloc.start()
    try:
        assert check(bomb) == check(small["range"])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_key_does_not_vouch_for_itself(tmp_path: Path) -> None:
    forge = make_forge(60)
    bank = codec.public_tag("participant/bank")
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key), key=BANK)
    forge.seal()
    place = forge.write(tmp_path / "log", tmp_path / "openings")
    with pytest.raises(SignatureError, match="not in force"):
        check(make(place, tmp_path / "b.zip", participant="bank"))


def test_a_statement_key_that_was_retired_signs_nothing_more(tmp_path: Path) -> None:
    forge = make_forge(60)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    gone = st.KeyStatement(key=DAEMON.public_key, retired=True)
    forge.add(EntryKind.KEY, codec.public_tag("ledger"), gone)
    at = forge.size
    forge.ask(tag)
    forge.seal()
    place = forge.write(tmp_path / "log", tmp_path / "openings")
    assert check(make(place, tmp_path / "a.zip", first=at - 1, last=at - 1)).opened == 3
    with pytest.raises(SignatureError, match="not in force"):
        check(make(place, tmp_path / "b.zip", first=at, last=at))


def test_a_daemons_statement_is_nobody_elses(small: dict[str, bytes]) -> None:
    """A decision is signed by the daemon: without the chain of its keys nothing is said of it, not even `unproven`."""
    content = small["participant"]
    parts = unzipped(content)
    lines = parts["chains.jsonl"].splitlines(keepends=True)
    headers = [at for at, line in enumerate(lines) if b"map_proof" in line]
    for start, end in pairwise([*headers, len(lines)]):
        if b'"ledger"' in lines[start]:
            del lines[start:end]
            break
    with pytest.raises(SignatureError):
        check(pack({**parts, "chains.jsonl": b"".join(lines)}))


def test_a_bundle_of_a_forged_ledger_is_not_made(tmp_path: Path) -> None:
    forge = make_forge(400)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.ask(tag)
    forge.seal(wrong=True)
    with pytest.raises(VerificationError, match="map root"):
        make(forge.write(tmp_path / "a", tmp_path / "b"), tmp_path / "b.zip", first=0, last=5)


# -- by identifier ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_person_is_found_by_the_operators_vault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "SYN-000123"
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        running.grant(running.enrol(value))
        running.grant(running.enrol("SYN-000999"))
        running.check_ledger()
    finally:
        running.stop()
    write_config(tmp_path / "consentd.toml")
    vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    made = tmp_path / "b.zip"

    def run(*argv: object, typed: str = "") -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = cli.main(["audit", *map(str, argv), "--log-key", vkey])
        out, err = capsys.readouterr()
        assert value not in out + err
        return status, out + err

    files = ("--config", tmp_path / "consentd.toml")
    assert run("bundle", made, "--subject", "-", *files, typed=f"mhid:{value}\n")[0] == 0
    first = made.read_bytes()
    assert made.stat().st_mode & 0o777 == 0o600
    assert run("bundle", made, "--subject", f"mhid:{value}", *files)[0] == 0
    assert made.read_bytes() == first
    with zipfile.ZipFile(made) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    # Neither as text nor inside a statement: the vault's keyed hash stands for it, and the tag for the person.
    assert not any(value.encode() in part or value.encode().hex().encode() in part for part in parts.values())
    scope = json.loads(parts["scope.json"])
    assert set(scope) == {"format", "origin", "size", "tag"}
    found = check_bundle(first, origin=RUNNING_ORIGIN, log_verifier=note.parse_vkey(vkey))
    assert found.chains[0] == ("a person", 2)
    assert found.kinds["ENROL"] == found.kinds["GRANT"] == 1  # nobody else's
    # Who is not there, or may not be named so, is told without being named.
    for given in ("mhid:SYN-000123x", "other:SYN-000123", "SYN-000123", "rrn:SYN-000123", ":SYN-000123"):
        made.unlink(missing_ok=True)
        status, _ = run("bundle", made, "--subject", given, *files)
        assert (status, made.exists()) == (2, False)
    (tmp_path / "data" / "vault").rename(tmp_path / "elsewhere")
    status, told = run("bundle", made, "--subject", f"mhid:{value}", *files)
    assert status == 2
    assert "give --config of a stopped daemon with its vault and vault key file" in told
    assert run("bundle", made, "--subject", f"mhid:{value}", "--tag", bytes(32).hex(), *files)[0] == 2


def test_where_there_is_no_vault_it_is_said_what_to_do(
    place: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["audit", "bundle", str(tmp_path / "b.zip"), "--subject", "mhid:SYN-000123", "--log-key", VKEY]
    for where in (["--from", str(place.directory)], ["--url", "http://127.0.0.1:1"]):
        assert cli.main([*argv, *where]) == 2
        err = capsys.readouterr().err
        assert "vault, which is not at hand" in err
        assert "--tag" in err
        assert "SYN-000123" not in err


def write_config(path: Path) -> None:
    path.write_text(
        f'[ledger]\norigin = "{RUNNING_ORIGIN}"\ndata_dir = "data"\n[keys]\nlog_key_file = "keys/log.key"\n'
        'statement_key_file = "keys/statement.key"\nvault_key_file = "keys/vault.key"\n'
        '[callers]\ncredentials_file = "keys/credentials"\n',
        encoding="utf-8",
    )


# -- on a machine without our server ----------------------------------------------------------------------------

_ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rocksdict", "lmdb", "cryptography", "grpc", "prometheus_client", "grpc_health"}:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocked())
sys.path[:0] = sys.argv.pop(1).split(":")
from consentd.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_base_install_checks_it(place: Exported, person: bytes, tmp_path: Path) -> None:
    make(place, tmp_path / "b.zip", tag=person)
    root = Path(__file__).parents[1]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-c", _ALONE, str(root), "audit", "check-bundle", *arguments],
            capture_output=True, text=True, check=False, cwd=tmp_path, env={"PATH": os.environ["PATH"]},
        )

    done = run("b.zip", "--log-key", VKEY, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "proven"
    assert answer["chains"]["ledger"] == 1
    content = changed((tmp_path / "b.zip").read_bytes(), edit("chains.jsonl", 2, flip("leaf")))
    (tmp_path / "b.zip").write_bytes(content)
    assert run("b.zip", "--log-key", VKEY).returncode == 1
    assert run("b.zip").returncode == 2  # no key is pinned
    opened = checkpoint.open_checkpoint(place.open().checkpoint(), ORIGIN, LOG.verifier)
    assert opened[0].size == answer["size"]
