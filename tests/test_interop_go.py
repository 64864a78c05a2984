"""Our log and our proofs, checked by the code of the Go checksum database (golang.org/x/mod/sumdb)."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from consentd.core import checkpoint, merkle, note, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.note import Signer

SOURCE = Path(__file__).parent / "interop" / "go"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
pytestmark = pytest.mark.skipif(GO is None, reason="go is not installed")

ORIGIN = "log.example/interop"
LOG = Signer(ORIGIN, KeyPair(b"i" * 32))
BATCH = 311  # no divisor of a tile's width, so that appends begin and end everywhere


@dataclass(frozen=True, slots=True)
class Case:
    """A log in a directory, and what is to be checked about it."""

    directory: Path
    size: int
    index: int
    leaf: bytes
    old_size: int
    old_root: bytes
    inclusion: list[bytes]
    consistency: list[bytes]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Build the verifier; its modules come from the module cache or the proxy, and go.sum pins them."""
    target = tmp_path_factory.mktemp("go") / "interop"
    built = subprocess.run(
        [GO, "build", "-mod=readonly", "-buildvcs=false", "-o", target, "."],
        cwd=SOURCE,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode and "golang.org/x/mod" in built.stderr and "dial" in built.stderr:
        pytest.skip("the Go modules are neither cached nor within reach")
    assert built.returncode == 0, built.stderr
    return target


def write_log(directory: Path, size: int, old_size: int, index: int) -> Case:
    """Write a log of `size` leaves as it is served: checkpoint, tiles, entry bundles."""
    leaves = [b"leaf %d of the interoperability test" % i for i in range(size)]
    edge, stored, old_root = tiles.Edge(), {}, merkle.EMPTY_ROOT
    while edge.size < size:
        stop = old_size if edge.size < old_size else size
        batch = leaves[edge.size : min(edge.size + BATCH, stop)]
        edge, changed = edge.append([merkle.leaf_hash(leaf) for leaf in batch])
        stored.update(changed)
        if edge.size == old_size:
            old_root = edge.root()
    files = {tiles.tile_path(level, n, len(row) // 32): row for (level, n), row in stored.items()}
    for first in range(0, size, 256):
        bundle = leaves[first : first + 256]
        files[tiles.entries_path(first // 256, len(bundle))] = tiles.encode_bundle(bundle)
    files["checkpoint"] = checkpoint.sign_checkpoint(Checkpoint(ORIGIN, size, edge.root()), [LOG])
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    inclusion = tiles.prove_inclusion(index, size, {at: stored[at] for at in tiles.plan_inclusion(index, size)})
    consistency = tiles.prove_consistency(
        old_size, size, {at: stored[at] for at in tiles.plan_consistency(old_size, size)}
    )
    return Case(directory, size, index, leaves[index], old_size, old_root, inclusion, consistency)


def run(program: Path, case: Case, scratch: Path, signer: Signer = LOG) -> tuple[int, dict[str, object]]:
    """Run the verifier; return its exit code and its answer."""
    (scratch / "leaf").write_bytes(case.leaf)
    for name, proof in (("inclusion", case.inclusion), ("consistency", case.consistency)):
        (scratch / name).write_text("".join(note.encode_base64(h) + "\n" for h in proof))
    answer = subprocess.run(
        [
            program,
            f"-dir={case.directory}",
            f"-vkey={note.format_vkey(signer.verifier)}",
            f"-index={case.index}",
            f"-leaf={scratch / 'leaf'}",
            f"-old-size={case.old_size}",
            f"-old-root={note.encode_base64(case.old_root)}",
            f"-inclusion={scratch / 'inclusion'}",
            f"-consistency={scratch / 'consistency'}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, json.loads(answer.stdout)


@pytest.mark.parametrize(
    ("size", "old_size", "index"),
    [
        (1, 1, 0),
        (2, 1, 1),
        (255, 254, 254),
        (256, 255, 0),
        (257, 256, 256),
        (257, 1, 255),
        (3000, 257, 1234),
        (65_536, 65_535, 65_535),
        (65_537, 65_536, 65_536),
        (70_000, 65_537, 69_999),
        (70_000, 300, 40_000),
    ],
)
def test_go_agrees(program, tmp_path, size, old_size, index):
    case = write_log(tmp_path / "log", size, old_size, index)
    assert run(program, case, tmp_path) == (0, {"ok": True, "size": size})


@pytest.fixture
def case(tmp_path):
    return write_log(tmp_path / "log", 3000, 257, 1234)


def changed(case: Case, **change) -> Case:
    fields = {name: getattr(case, name) for name in Case.__slots__}
    return Case(**{**fields, **change})


def refused(program: Path, case: Case, scratch: Path, signer: Signer = LOG) -> str:
    code, answer = run(program, case, scratch, signer)
    assert code == 1
    assert answer["ok"] is False
    return answer["error"]


def test_go_refuses_another_key(program, case, tmp_path):
    same_name = Signer(ORIGIN, KeyPair(b"x" * 32))
    assert "no verifiable signatures" in refused(program, case, tmp_path, same_name)


@pytest.mark.parametrize("name", ["tile/0/004", "tile/0/011.p/184", "tile/1/000.p/11", "tile/entries/004"])
def test_go_refuses_a_flipped_bit_in_what_is_served(program, case, tmp_path, name):
    path = case.directory / name
    content = bytearray(path.read_bytes())
    at = content.index(case.leaf) if "entries" in name else len(content) // 2
    content[at] ^= 1
    path.write_bytes(content)
    assert run(program, case, tmp_path)[0] == 1


def test_go_refuses_a_flipped_bit_in_the_checkpoint(program, case, tmp_path):
    path = case.directory / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n3000\n", b"\n3001\n"))
    assert "invalid signature" in refused(program, case, tmp_path)


def test_go_refuses_changed_claims_and_proofs(program, case, tmp_path):
    flipped = [bytes([case.inclusion[0][0] ^ 1]) + case.inclusion[0][1:], *case.inclusion[1:]]
    for bad in (
        changed(case, leaf=case.leaf + b"!"),
        changed(case, index=case.index + 1),
        changed(case, old_root=bytes(32)),
        changed(case, old_size=case.old_size + 1),
        changed(case, inclusion=flipped),
        changed(case, inclusion=case.inclusion[:-1]),
        changed(case, consistency=case.consistency[::-1]),
        changed(case, consistency=[*case.consistency, bytes(32)]),
    ):
        assert "proof" in refused(program, bad, tmp_path)
