"""Exports and running ledgers, checked by programs that other people wrote.

Tessera's ``fsck`` (Go) rebuilds the whole tree from bundles and compares every tile, partial ones too. ``tlog-scales``
(Python, PyPI) reads entries and makes proofs from tiles.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.audits import LOG, ORIGIN, Forge, make_forge
from cases.daemons import Running, make_running, question, request_id, running_daemon
from cases.rotations import rotate
from cases.services import publish_rules
from consentd.audit.export import export
from consentd.audit.files import DataDirectory
from consentd.core import ed25519, merkle, note, tiles
from consentd.core.rotation import RotationRole
from consentd.cosigning.keyfiles import read_signing_key
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import statement_pb2 as st

TESSERA = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
LIVE_SIZE = 100_000 if os.environ.get("CI") else 4_000

needs_go = pytest.mark.skipif(GO is None, reason="go is not installed")


@pytest.fixture(scope="session")
def fsck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build Tessera's fsck, from the module cache or the proxy; the version pins it."""
    target = tmp_path_factory.mktemp("tessera")
    built = subprocess.run(
        [GO or "go", "install", TESSERA], env={**os.environ, "GOBIN": str(target), "GOFLAGS": "-mod=mod"},
        capture_output=True, text=True, check=False,
    )
    if built.returncode and not os.environ.get("CI"):
        pytest.skip(f"Tessera cannot be built: {built.stderr.strip().splitlines()[-1:]}")
    assert built.returncode == 0, built.stderr
    return target / "fsck"


def is_accepted(program: Path, url: str, vkey: str, scratch: Path, *more: str) -> bool:
    """Run fsck. Version 1.0.4 exits with 0 whatever it finds: its verdict is in what it logs."""
    key = scratch / "log.pub"
    key.write_text(vkey + "\n")
    done = subprocess.run(
        [program, f"--storage_url={url}", f"--public_key={key}", "--ui=false", "--N=4", "--v=1", *more],
        capture_output=True, text=True, check=False, timeout=300,
    )
    finished = "Completed ranges" in done.stderr
    assert finished, done.stderr[:2000]
    return done.returncode == 0 and "checking log of size" in done.stderr and "fsck failed" not in done.stderr


@pytest.fixture(scope="module")
def large() -> Forge:
    return make_forge(65_537, seal_every=1000)


def exported(forge: Forge, size: int, directory: Path) -> Path:
    cut = Forge(leaves=forge.leaves[:size], openings=forge.openings[:size])
    location = cut.write(directory / "made")
    export(location, directory / "log", origin=ORIGIN, log_verifier=LOG.verifier)
    return directory / "log"


@needs_go
@pytest.mark.parametrize("size", [2, 255, 256, 257, 65_535, 65_536, 65_537])
def test_fsck_accepts_an_export(fsck: Path, large: Forge, tmp_path: Path, size: int) -> None:
    log = exported(large, size, tmp_path)
    vkey = note.format_vkey(LOG.verifier)
    assert is_accepted(fsck, f"file://{log}/", vkey, tmp_path, f"--origin={ORIGIN}")


@needs_go
def test_fsck_accepts_the_export_of_a_daemon_under_its_new_log_key_alone(fsck: Path, tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon") as running:
        old = read_signing_key(running.config.keys.log_key_file).verifier
        running.enrol("SYN-000001")
        rotate(running, RotationRole.STATEMENT)
        new = note.Verifier(old.name, rotate(running, RotationRole.LOG).new_key)
        running.enrol("SYN-000002")
    log = tmp_path / "log"
    export(DataDirectory.of_config(running.config), log, origin=old.name, log_verifier=old)
    for key, is_right in ((new, True), (old, False)):
        vkey = note.format_vkey(key)
        assert is_accepted(fsck, f"file://{log}/", vkey, tmp_path, f"--origin={old.name}") is is_right


@needs_go
@pytest.mark.parametrize("name", ["tile/0/001", "tile/1/000.p/2", "tile/entries/001", "tile/0/002.p/188", "checkpoint"])
def test_fsck_refuses_a_flipped_byte(fsck: Path, large: Forge, tmp_path: Path, name: str) -> None:
    log = exported(large, 700, tmp_path)
    content = bytearray((log / name).read_bytes())
    content[len(content) // 2] ^= 1
    (log / name).write_bytes(content)
    assert not is_accepted(fsck, f"file://{log}/", note.format_vkey(LOG.verifier), tmp_path, f"--origin={ORIGIN}")


@needs_go
def test_fsck_refuses_another_key(fsck: Path, large: Forge, tmp_path: Path) -> None:
    log = exported(large, 257, tmp_path)
    other = note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))
    assert not is_accepted(fsck, f"file://{log}/", note.format_vkey(other.verifier), tmp_path, f"--origin={ORIGIN}")


# -- a running ledger -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = make_running(tmp_path_factory.mktemp("live"), checkpoint_interval_ms=200)
    publish_rules(running, quotas=st.Quotas(entries_per_day=60_000, refusals_per_day=60_000, persons_per_hour=100_000))
    subjects = [running.enrol(f"SYN-{number}") for number in range(50)]
    for subject in subjects[::2]:
        running.grant(subject)
    services = running.daemon.service_state.services
    assert services is not None
    batch = 0
    while services.ledger.state.size < LIVE_SIZE:
        asked = [
            ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subjects[(batch + number) % 50]))
            for number in range(1000)
        ]
        answer = running.access.BatchAuthorizeAccesses(
            ac.BatchAuthorizeAccessesRequest(requests=asked), metadata=running.as_("app")
        )
        assert not [result.error for result in answer.results if result.HasField("error")]
        batch += 1
    services.sequencer.checkpoints.wait(services.ledger.state.size, 60)
    yield running
    running.check_ledger()
    running.stop()


@needs_go
@pytest.mark.slow
def test_fsck_accepts_a_running_ledger(fsck: Path, live: Running, tmp_path: Path) -> None:
    verifier = read_signing_key(live.config.keys.log_key_file).verifier
    url = f"http://127.0.0.1:{live.daemon.http_port}/"
    more = (f"--origin={verifier.name}", f"--bearer_token={live.tokens['pipc']}")
    assert is_accepted(fsck, url, note.format_vkey(verifier), tmp_path, *more)
    # Bundles need an auditor's token.
    assert not is_accepted(fsck, url, note.format_vkey(verifier), tmp_path, more[0])


@pytest.mark.slow
def test_tlog_scales_reads_entries_and_makes_proofs(live: Running) -> None:
    """In a process of its own: it brings libraries that warn."""
    pytest.importorskip("tlog_scales", reason="tlog-scales is not installed: pip install 'consentd[interop]'")
    verifier = read_signing_key(live.config.keys.log_key_file).verifier
    services = live.daemon.service_state.services
    assert services is not None
    size = services.ledger.state.size
    program = f"""
import sys
from tlog_scales.backend import HttpBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
backend = HttpBackend(sys.argv[1])
backend.session.headers["Authorization"] = "Bearer " + sys.stdin.read().strip()
reader = TilesReader(backend)
point = reader.get_checkpoint()
point.verify(Vkey.from_string(sys.argv[2]))
assert point.size == {size}, point.size
assert reader.calculate_root_hash() == point.root_hash
for index in (0, 255, 256, {size // 2}, {size - 1}):
    from tlog_scales.tiles import leaf_hash
    leaf = reader.get_entry(index)
    reader.get_inclusion_proof(index, point.size).check(leaf_hash(leaf), point.root_hash)
    print(index, leaf.hex())
reader.get_consistency_proof(300, point.size).check(reader.mth(0, 300), point.root_hash)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, f"http://127.0.0.1:{live.daemon.http_port}", note.format_vkey(verifier)],
        input=live.tokens["pipc"], capture_output=True, text=True, check=False, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines: list[Any] = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 5
    for index, leaf in lines:
        n, at = divmod(int(index), tiles.TILE_WIDTH)
        tile = services.ledger.store.get(b"t\0" + n.to_bytes(8)) or b""
        assert merkle.leaf_hash(bytes.fromhex(leaf)) == tile[32 * at : 32 * at + 32]
