"""The floors: each contract of ``[tool.importlinter]`` holds, and breaks alone when what it forbids is planted."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
]

pytestmark = pytest.mark.slow

# What is planted where, and the one contract it must break: its name up to the colon or more.
PLANTED = [
    ("consentd/errors.py", "import consentd.core.merkle", "floors"),
    ("consentd/core/merkle.py", "import consentd.policy", "floors"),
    ("consentd/policy/model.py", "from consentd.core import merkle", "floors"),
    ("consentd/metrics.py", "from consentd import config", "floors"),
    ("consentd/fhir/planted.py", "from consentd import config", "floors"),
    ("consentd/store/memory.py", "import consentd.ledger", "floors"),
    ("consentd/files.py", "import consentd.statements.payloads", "floors"),
    ("consentd/ledger/planted.py", "import consentd.sequencer", "floors"),
    ("consentd/ledger/planted.py", "import consentd.sequencer.commands.write", "floors"),
    ("consentd/verify/planted.py", "import consentd.sequencer", "floors"),
    ("consentd/ledger/planted.py", "import consentd.cosigning.publication", "floors"),
    ("consentd/cosigning/planted.py", "import consentd.sequencer.pool", "floors"),
    ("consentd/cosigning/planted.py", "import consentd.sequencer", "floors"),
    ("consentd/cosigning/planted.py", "import consentd.sequencer.commands.write", "floors"),
    ("consentd/cosigning/planted.py", "import consentd.server", "floors"),
    ("consentd/verify/planted.py", "import consentd.cosigning", "floors"),
    ("consentd/sequencer/loop.py", "import consentd.service", "floors"),
    ("consentd/service/planted.py", "import consentd.server", "floors"),
    ("consentd/server/planted.py", "import consentd.cli", "floors"),
    ("consentd/server/planted.py", "import consentd.audit.verify", "floors"),
    ("consentd/audit/planted.py", "import consentd.server.keys", "floors"),
    ("consentd/audit/planted.py", "import consentd.cli", "floors"),
    ("consentd/service/planted.py", "import consentd.audit.sources", "floors"),
    ("consentd/unplaced.py", "", "floors"),
    *(("consentd/core/merkle.py", f"import {name}", "core and policy are pure") for name in ("time", "os", "random")),
    ("consentd/core/note.py", "import logging", "core and policy are pure"),
    ("consentd/core/codec.py", "from google.protobuf import message", "core and policy are pure"),
    ("consentd/core/codec.py", "from consentd.v1 import consent_pb2", "core and policy are pure"),
    *(("consentd/policy/model.py", f"import {name}", "core and policy are pure") for name in ("secrets", "zoneinfo")),
    ("consentd/core/merkle.py", "import datetime", "core knows no calendar"),
    ("consentd/ledger/planted.py", "import rocksdict", "one door: rocksdict"),
    ("consentd/store/memory.py", "import rocksdict", "one door: rocksdict"),
    ("consentd/audit/planted.py", "import rocksdict", "one door: rocksdict"),
    ("clients/python/consentd_client/planted.py", "import rocksdict", "one door: rocksdict"),
    ("consentd/ledger/planted.py", "import lmdb", "one door: lmdb"),
    ("consentd/store/rocks.py", "import lmdb", "one door: lmdb"),
    ("consentd/ledger/vault.py", "import pkcs11", "one door: pkcs11"),
    ("consentd/backup/reading.py", "import pyrage", "one door: pyrage"),
    ("consentd/service/planted.py", "import prometheus_client", "one door: prometheus_client"),
    ("consentd/core/merkle.py", "import nacl.signing", "one door: nacl"),
    ("consentd/policy/model.py", "import nacl.signing", "one door: nacl"),
    ("consentd/ledger/planted.py", "import nacl.signing", "one door: nacl"),
    ("consentd/audit/planted.py", "import nacl.signing", "one door: nacl"),
    ("consentd/cosigning/planted.py", "import nacl.signing", "one door: nacl"),
    ("consentd/ledger/planted.py", "import cryptography.x509", "one door: cryptography"),
    ("consentd/service/planted.py", "import cryptography.x509", "one door: cryptography"),
    ("consentd/audit/planted.py", "import cryptography.x509", "one door: cryptography"),
    ("consentd/cosigning/planted.py", "import cryptography.x509", "one door: cryptography"),
    ("consentd/service/id_tokens.py", "import jwt", "one door: jwt"),
    ("consentd/service/planted.py", "import fhir.resources", "one door: fhir.resources"),
    ("consentd/server/planted.py", "import uvicorn", "one door: uvicorn"),
    ("consentd/listener/app.py", "import httptools", "one door: uvicorn"),
    ("consentd/server/planted.py", "import starlette.routing", "one door: starlette"),
    ("consentd/listener/server.py", "import starlette", "one door: starlette"),
    ("consentd/sequencer/loop.py", "import grpc", "one door: grpc"),
    ("consentd/statements/payloads.py", "import grpc", "one door: grpc"),
    ("consentd/cosigning/planted.py", "import grpc", "one door: grpc"),
    ("consentd/ledger/planted.py", "from consentd.v1 import consent_pb2", "doors below service: protobuf"),
    ("consentd/sequencer/loop.py", "from google.protobuf import message", "doors below service: protobuf"),
    ("clients/python/consentd_client/planted.py", "import consentd.metrics", "clients see"),
    ("clients/python/consentd_client/planted.py", "import consentd.verify.fsck", "clients see"),
]

ALLOWED = [
    ("consentd/store/rocks.py", "import rocksdict"),
    ("consentd/policy/model.py", "import datetime"),
    ("consentd/statements/payloads.py", "from google.protobuf import message"),
    ("consentd/server/planted.py", "import cryptography.x509"),
    ("consentd/service/key_set.py", "import jwt"),
    ("consentd/fhir/planted.py", "import fhir.resources"),
    ("consentd/listener/app.py", "import starlette.routing"),
    ("consentd/listener/server.py", "import uvicorn"),
    ("consentd/service/planted.py", "import grpc"),
    ("clients/python/consentd_client/planted.py", "import grpc"),
    ("clients/python/consentd_client/planted.py", "from consentd.core import merkle"),
    ("clients/python/consentd_client/planted.py", "from consentd.statements import payloads"),
    ("clients/python/consentd_client/planted.py", "from consentd import files"),
    ("clients/python/consentd_client/planted.py", "from consentd.v1 import consent_pb2"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources of both distributions, without what Python left beside them."""
    copy = tmp_path_factory.mktemp("floors")
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "consentd", copy / "consentd", ignore=ignored)
    shutil.copytree(
        ROOT / "clients/python/consentd_client", copy / "clients/python/consentd_client", ignore=ignored
    )
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def broken(tree: Path) -> list[str]:
    """Run import-linter on *tree* and return the names of the contracts that do not hold."""
    executable = Path(sys.executable).parent / "lint-imports"
    if not executable.exists():
        pytest.skip("lint-imports is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "clients/python")])}
    done = subprocess.run(
        [executable, "--no-cache"], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    verdicts = {name: re.search(rf"^{re.escape(name)} (KEPT|BROKEN)", done.stdout, re.MULTILINE) for name in CONTRACTS}
    assert all(verdicts.values()), done.stdout + done.stderr
    return [name for name, verdict in verdicts.items() if verdict is not None and verdict[1] == "BROKEN"]


def plant(tree: Path, file: str, line: str) -> Path:
    """Append *line* to *file* in *tree*, making the file, and the package around it, where they are missing."""
    path = tree / file
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    with path.open("a", encoding="utf-8") as appended:
        appended.write(f"\n{line}\n")
    return path


def test_every_contract_holds(sources: Path) -> None:
    assert broken(sources) == []


@pytest.mark.parametrize(("file", "line", "contract"), PLANTED)
def test_a_planted_import_breaks_just_its_contract(sources: Path, file: str, line: str, contract: str) -> None:
    path = sources / file
    before = path.read_bytes() if path.exists() else None
    try:
        plant(sources, file, line)
        (name,) = broken(sources)
        assert name.startswith(contract)
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def test_the_doors_themselves_are_open(sources: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sources, tree)
    for file, line in ALLOWED:
        plant(tree, file, line)
    assert broken(tree) == []


def test_every_contract_is_planted_against() -> None:
    untried = [name for name in CONTRACTS if not any(name.startswith(contract) for _, _, contract in PLANTED)]
    assert untried == []
