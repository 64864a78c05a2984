"""A witness other people wrote cosigns our checkpoints, and their verifiers accept what came of it.

litewitness (filippo.io/torchwood) cosigns hundreds of checkpoints of a real daemon, across a restart of each side;
torchwood's ``VerifyProof`` accepts the receipts and refuses what was changed in them; and transparency-dev/formats
agrees with us about ML-DSA-44 signatures. What shares code with us here is nothing but the specifications.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import question, request_id
from cases.witnessed_ledgers import Witnessed, free_port
from consentd.core import checkpoint, ed25519, merkle, note
from consentd.core.checkpoint import Checkpoint
from consentd.core.quorum import parse_policy, verify_cosigned
from consentd.cosigning.keyfiles import read_mldsa_key
from consentd.v1 import access_service_pb2 as ac

sqlite3 = pytest.importorskip("sqlite3")

SOURCE = Path(__file__).parent / "interop" / "torchwood"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
SSH = all(map(shutil.which, ("ssh-agent", "ssh-keygen", "ssh-add")))
LITEWITNESS = "filippo.io/torchwood/cmd/litewitness@v0.9.0"
CHECKPOINTS = 210
ENVIRONMENT = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(GO is None, reason="go is not installed"),
    pytest.mark.skipif(not SSH, reason="openssh-client is not installed"),
]


def go(*arguments: object, cwd: Path | None = None, **environment: str) -> None:
    """Run go; modules come from its cache or the proxy."""
    done = subprocess.run(
        [str(GO), *map(str, arguments)], cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True,
        check=False,
    )
    if done.returncode and any(word in done.stderr for word in ("dial tcp", "no such host", "i/o timeout")):
        pytest.skip("the Go modules are neither cached nor within reach")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def litewitness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build litewitness, of a version that the Go checksum database vouches for."""
    target = tmp_path_factory.mktemp("go")
    go("install", LITEWITNESS, GOBIN=str(target))
    return target / "litewitness"


@pytest.fixture(scope="module")
def torchwood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the verifier; go.sum pins its modules."""
    target = tmp_path_factory.mktemp("go") / "torchwood"
    go("build", "-mod=readonly", "-o", target, ".", cwd=SOURCE)
    return target


class Litewitness:
    """A litewitness process with a key in an ssh-agent of its own."""

    def __init__(self, program: Path, directory: Path) -> None:
        self.program, self.directory, self.port = program, directory, free_port()
        self.name = "witness.local/w1"
        key, socket = directory / "key", directory / "agent"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self._agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE, text=True)
        assert self._agent.stdout is not None
        self._agent.stdout.readline()  # written once it listens
        environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True)
        listed = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True)
        self.fingerprint = listed.stdout.split()[1]
        self.database = directory / "witness.db"
        self._process: subprocess.Popen[str] | None = None
        self.vkey = self.start()

    def start(self) -> str:
        """Start it; return the verifier key that it logs."""
        self._process = subprocess.Popen(
            [
                self.program, "-db", self.database, "-name", self.name, "-key", self.fingerprint,
                "-ssh-agent", self.directory / "agent", "-listen", f"127.0.0.1:{self.port}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "vkey=" in line:
                # Read on, or it blocks once the pipe is full.
                threading.Thread(target=self._drain, args=(self._process.stderr,), daemon=True).start()
                return line.split("vkey=")[1].split()[0].strip('"')
        raise AssertionError("litewitness did not start")

    @staticmethod
    def _drain(pipe: Any) -> None:
        for _ in pipe:
            pass
        pipe.close()

    def follow(self, log: note.Verifier) -> None:
        """Do what its own tool would: enter a log and its key."""
        with closing(sqlite3.connect(self.database, timeout=10)) as database, database:
            root = note.encode_base64(merkle.EMPTY_ROOT)
            database.execute("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", (log.name, root))
            database.execute("INSERT INTO key (origin, key) VALUES (?, ?)", (log.name, note.format_vkey(log)))

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._agent.terminate()
        self._agent.wait()
        assert self._agent.stdout is not None
        self._agent.stdout.close()


class Run:
    """What was published while litewitness cosigned: notes, and receipts of accesses."""

    def __init__(self, witnessed: Witnessed) -> None:
        self.witnessed = witnessed
        self.notes: dict[int, bytes] = {}
        self.receipts: list[tuple[bytes, bytes]] = []  # (leaf, proof)


@pytest.fixture(scope="module")
def run(litewitness: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Let a daemon and litewitness run until CHECKPOINTS were cosigned, and restart either on the way."""
    directory = tmp_path_factory.mktemp("run")
    witnessed = Witnessed(directory, keys="keys/log-mldsa.key")
    # An ssh-agent's socket has a short path.
    home = tmp_path_factory.mktemp("w")
    witness = Litewitness(litewitness, home)
    made = Run(witnessed)
    try:
        witness.follow(witnessed.log)
        witnessed.write_policy(f"witness lite {witness.vkey} http://127.0.0.1:{witness.port}\n")
        running = witnessed.start()
        running.register()
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        witnessed.wait_published()
        while len(made.notes) < CHECKPOINTS:
            if len(made.notes) == CHECKPOINTS // 3:
                witness.stop()
                assert witness.start() == witness.vkey
            if len(made.notes) == 2 * CHECKPOINTS // 3:
                witnessed.stop()
                # Without this file the daemon does not know where the witness is, and asks for it.
                witnessed.config.ledger.published_path.unlink()
                running = witnessed.start()
            request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject), wait_for=2)
            answer = running.access.AuthorizeAccess(request, metadata=running.as_("app"))
            assert answer.receipt.published
            made.receipts.append((answer.receipt.leaf, answer.receipt.proof))
            published = witnessed.services.sequencer.checkpoints.published
            made.notes[published.checkpoint.size] = published.note
        yield made
    finally:
        witnessed.stop()
        witness.close()


def test_litewitness_cosigns_every_checkpoint_across_restarts(run: Run) -> None:
    policy = parse_policy(run.witnessed.policy)
    sizes = sorted(run.notes)
    assert len(sizes) >= CHECKPOINTS
    assert all(later == earlier + 2 for earlier, later in itertools.pairwise(sizes))  # an entry, a seal
    for size in sizes:
        found = verify_cosigned(run.notes[size], policy, now_s=int(time.time()))
        assert found.checkpoint.size == size
        assert [name for name, _ in found.cosignatures] == ["lite"]
    assert run.witnessed.metric("witness_alarms_total", alarm="other_tree") == 0
    assert run.witnessed.running is not None
    run.witnessed.running.check_ledger()


def ask(program: Path, **files: object) -> tuple[int, dict[str, Any]]:
    """Run the verifier; return its exit code and its answer."""
    arguments = [f"-{name}={path}" for name, path in files.items()]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_torchwood_accepts_our_receipts(run: Run, torchwood: Path, tmp_path: Path) -> None:
    policy, leaf_file, proof_file = (tmp_path / name for name in ("policy", "leaf", "proof"))
    policy.write_bytes(run.witnessed.policy)
    for leaf, proof in run.receipts[::20]:
        leaf_file.write_bytes(leaf)
        proof_file.write_bytes(proof)
        assert ask(torchwood, policy=policy, leaf=leaf_file, proof=proof_file) == (0, {"ok": True})


def test_torchwood_refuses_what_was_changed(run: Run, torchwood: Path, tmp_path: Path) -> None:
    leaf, proof = run.receipts[-1]
    other_leaf, _ = run.receipts[0]
    policy = run.witnessed.policy
    lines = proof.split(b"\n")
    index = next(location for location, line in enumerate(lines) if line.startswith(b"index "))
    swapped = [*lines[: index + 1], lines[index + 2], lines[index + 1], *lines[index + 3 :]]
    uncosigned = b"".join(line + b"\n" for line in lines[:-1] if "witness.local" not in line.decode())
    stranger = note.Signer("w.test/stranger", ed25519.KeyPair(b"s" * 32), note.COSIGNATURE)
    more = f"witness other {note.format_vkey(stranger.verifier)}\ngroup both all quorum-of-all other\nquorum both"
    other_policy = policy.replace(b"quorum quorum-of-all", more.encode())
    cases = {
        "another leaf": (policy, other_leaf, proof),
        "another index": (policy, leaf, proof.replace(lines[index], b"index 0")),
        "hashes swapped": (policy, leaf, b"\n".join(swapped)),
        "a hash left out": (policy, leaf, b"\n".join(lines[: index + 1] + lines[index + 2 :])),
        "no cosignature": (policy, leaf, uncosigned),
        "more witnesses asked for": (other_policy, leaf, proof),
        "another size": (policy, leaf, proof.replace(b"\n%d\n" % max(run.notes), b"\n%d\n" % (max(run.notes) + 1))),
    }
    for name, (policy_text, leaf_bytes, proof_bytes) in cases.items():
        for file, content in (("policy", policy_text), ("leaf", leaf_bytes), ("proof", proof_bytes)):
            (tmp_path / file).write_bytes(content)
        code, answer = ask(torchwood, policy=tmp_path / "policy", leaf=tmp_path / "leaf", proof=tmp_path / "proof")
        assert (code, answer["ok"]) == (1, False), name


# -- ML-DSA-44 ------------------------------------------------------------------------------------------------------


def test_formats_accepts_our_ml_dsa_line(run: Run, torchwood: Path, tmp_path: Path) -> None:
    mldsa = pytest.importorskip("consentd.cosigning.mldsa")
    key = read_mldsa_key(run.witnessed.directory / "keys/log-mldsa.key").verifier
    vkey, signed = tmp_path / "vkey", tmp_path / "checkpoint"
    vkey.write_text(mldsa.format_mldsa_vkey(key))
    for size in sorted(run.notes)[::40]:
        signed.write_bytes(run.notes[size])
        assert ask(torchwood, vkey=vkey, checkpoint=signed) == (0, {"ok": True})
    signed.write_bytes(run.notes[size].replace(b"\n%d\n" % size, b"\n%d\n" % (size + 1)))
    assert ask(torchwood, vkey=vkey, checkpoint=signed)[0] == 1


def test_we_accept_theirs(torchwood: Path, tmp_path: Path) -> None:
    mldsa = pytest.importorskip("consentd.cosigning.mldsa")
    signer = mldsa.MldsaSigner("w.test/pq", b"\x07" * 32)
    text = checkpoint.format_checkpoint(Checkpoint("log.test/go", 4711, b"r" * 32))
    (tmp_path / "skey").write_text(mldsa.format_mldsa_signing_key(signer))
    (tmp_path / "text").write_text(text)
    code, answer = ask(torchwood, skey=tmp_path / "skey", checkpoint=tmp_path / "text")
    assert code == 0
    opened = note.open_note(answer["note"].encode(), [signer.verifier])
    (line,) = opened.verified
    assert abs(line.time_s - time.time()) < 60
