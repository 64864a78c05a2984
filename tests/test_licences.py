"""The list of allowed licences, against lists of packages that have others."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

CI = Path(__file__).parents[1] / ".ci"


def licence_faults(tmp_path: Path, *components: dict[str, Any]) -> list[str]:
    file = tmp_path / "sbom.json"
    file.write_text(json.dumps({"components": list(components)}))
    done = subprocess.run([sys.executable, CI / "licences.py", file], capture_output=True, text=True, check=False)
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert done.returncode == (0 if lines[0].endswith("are allowed") else 1)
    return lines if done.returncode else []


@pytest.mark.parametrize(
    ("licences", "is_allowed"),
    [
        ([{"license": {"id": "MIT"}}], True),
        ([{"expression": "Apache-2.0 OR GPL-3.0-only"}], True),
        ([{"expression": "Apache-2.0 AND BSD-2-Clause"}], True),
        ([{"license": {"name": "License :: OSI Approved :: BSD License"}}], True),
        ([{"expression": "Apache-2.0 AND GPL-3.0-only"}], False),
        ([{"license": {"id": "MIT"}}, {"license": {"id": "AGPL-3.0-only"}}], False),
        ([{"license": {"name": "see the file"}}], False),
        ([{"license": {}}], False),
        ([], False),
    ],
)
def test_a_licence_outside_the_list_is_a_fault(tmp_path: Path, licences: list[Any], *, is_allowed: bool) -> None:
    found = licence_faults(tmp_path, {"name": "example", "licenses": licences})
    assert (found == []) is is_allowed
    assert all(line.startswith("example: licence not allowed") for line in found)


def test_an_empty_list_of_packages_and_a_needless_exception_are_faults(tmp_path: Path) -> None:
    exceptions = tomllib.loads((CI / "licences.toml").read_text(encoding="utf-8"))["packages"]
    for name in exceptions:
        assert licence_faults(tmp_path, {"name": name}) == []
        assert len(licence_faults(tmp_path, {"name": name, "licenses": [{"license": {"id": "MIT"}}]})) == 1
    assert licence_faults(tmp_path) == ["the SBOM has no components"]
