"""Bundles: what is in one is proven without our server, and nothing can be changed in it or left out of it."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_case import LOG, ORIGIN, Forge, make_forge
from consentd.audit.bundle import Scope, make_bundle
from consentd.audit.evidence import Checked, check_bundle
from consentd.audit.places import Exported
from consentd.core import checkpoint, codec, note
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError, NotFoundError, SignatureError, VerificationError
from consentd.v1 import statement_pb2 as st

VKEY = note.format_vkey(LOG.verifier)
BANK = note.KeyPair(b"\x21" * 32)
CITIZEN = note.KeyPair(b"\x22" * 32)


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


def test_nothing_in_scope_is_said(place: Exported, tmp_path: Path) -> None:
    for scope in ({"participant": "nobody"}, {"tag": bytes(32)}, {"first": 10**6, "last": 10**6}):
        with pytest.raises(NotFoundError):
            make(place, tmp_path / "b.zip", **scope)
    assert not (tmp_path / "b.zip").exists()


def test_the_same_bundle_has_the_same_bytes(place: Exported, tmp_path: Path) -> None:
    assert make(place, tmp_path / "a.zip", first=5, last=9) == make(place, tmp_path / "b.zip", first=5, last=9)


def test_witnesses_are_asked_for_where_a_policy_is_given(place: Exported, tmp_path: Path) -> None:
    witness = note.Signer("witness.example", note.KeyPair(b"\5" * 32), note.COSIGNATURE)
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
        lines[at] = json.dumps(fields).encode()
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
    stranger = note.Signer(ORIGIN, note.KeyPair(b"\7" * 32))
    with pytest.raises(SignatureError):
        check_bundle(content, origin=ORIGIN, log_verifier=stranger.verifier)


def test_any_bytes_are_refused_in_order(place: Exported, tmp_path: Path) -> None:
    content = make(place, tmp_path / "b.zip", first=200, last=203)
    for at in range(0, len(content), max(1, len(content) // 300)):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        try:
            check(bytes(damaged))
        except VerificationError:
            continue
        # What is left: bytes of the README, or of the zip's own fields that say nothing.
    for other in (b"", b"PK", content[: len(content) // 2], b"PK\x05\x06" + bytes(18)):
        with pytest.raises(MalformedError):
            check(other)


def test_a_bundle_of_a_forged_ledger_is_not_made(tmp_path: Path) -> None:
    forge = make_forge(400)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.ask(tag)
    forge.seal(wrong=True)
    with pytest.raises(VerificationError, match="map root"):
        make(forge.write(tmp_path / "a", tmp_path / "b"), tmp_path / "b.zip", first=0, last=5)


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
