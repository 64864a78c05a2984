"""The second reader of the policy table (``consentd/gate``) gives the daemon's answers, to the byte."""

import os
import subprocess
from pathlib import Path

import pytest

from cases.gate_cases import CaseWriter
from cases.gate_programs import built, needs_cargo

CASES = int(os.environ.get("CONSENTD_GATE_CASES", "1000"))
pytestmark = needs_cargo


@pytest.fixture(scope="module")
def program() -> Path:
    return built("consentd-table", "compare_answers")


def test_answers_are_the_daemons_to_the_byte(program: Path, tmp_path: Path) -> None:
    """And a part of the cases again with damaged rows and questions."""
    file, writer = tmp_path / "cases", CaseWriter(seed=1)
    with file.open("wb") as out:
        out.writelines(writer.encoded(CASES))
    shares = {kind: count / writer.kinds.total() for kind, count in writer.kinds.items()}
    assert all(shares[kind] >= 0.2 for kind in ("permit", "deny", "none", "residual")), shares
    assert {"refused", "unknown"} <= shares.keys()
    compared = subprocess.run([program, file], capture_output=True, text=True, check=False)
    assert (compared.returncode, compared.stderr) == (0, ""), compared.stdout
    assert f"{writer.kinds.total()} answers are the same, 0 differ" in compared.stdout
    damaged = subprocess.run([program, file, "1"], capture_output=True, text=True, check=False)
    assert (damaged.returncode, damaged.stderr) == (0, ""), damaged.stdout
    assert " 0 differ" in damaged.stdout


def test_a_wrong_answer_is_seen(program: Path, tmp_path: Path) -> None:
    content = b"".join(CaseWriter(seed=2).encoded(50))
    file = tmp_path / "cases"
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    compared = subprocess.run([program, file], capture_output=True, text=True, check=False)
    assert compared.returncode == 1
    assert " 1 differ" in compared.stdout
