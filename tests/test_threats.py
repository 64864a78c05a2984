"""The texts on security name files that exist, and every secret of the configuration."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THREATS = (ROOT / "ops" / "THREATS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ops/THREATS.md", "SECURITY.md"])
def test_what_they_name_exists(name: str) -> None:
    text, directory = (ROOT / name).read_text(encoding="utf-8"), (ROOT / name).parent
    paths = re.findall(r"`((?:consentd|proto|ops|tests)/[\w./-]+)`", text)
    links = [(directory / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", text)]
    assert links
    assert [path for path in [*(ROOT / path for path in paths), *links] if not path.exists()] == []


def test_claims_name_code_or_text() -> None:
    assert len(re.findall(r"`(?:consentd|proto|tests)/[\w./-]+`", THREATS)) > 20


@pytest.mark.parametrize("heading", re.findall(r'`ops/RUNBOOK\.md`, "([^"]+)"', THREATS))
def test_sections_of_the_runbook_exist(heading: str) -> None:
    runbook = (ROOT / "ops" / "RUNBOOK.md").read_text(encoding="utf-8")
    assert re.search(rf"^#+ {re.escape(heading)}$", runbook, re.MULTILINE)


def test_each_asset_of_the_readme_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "ops/THREATS.md" in readme
    assert "SECURITY.md" in readme
    for word in ("log key", "statement key", "key-encryption key", "last-signed", "policy table", "issued-credentials"):
        assert word in THREATS, word
