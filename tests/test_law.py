"""``ops/LAW.md`` names tests that exist, and every test that is named after an article of law."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAW = (ROOT / "ops" / "LAW.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split("|") for line in LAW.splitlines() if line.startswith("| ") and "| rule |" not in line]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", LAW)


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    found = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    return frozenset(one.name for one in found if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_each_test_that_the_page_names_exists(path: str, name: str) -> None:
    assert name in names_in(path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_each_row_names_a_test_or_is_not_built(row: list[str]) -> None:
    point, source, rule, shown = (cell.strip() for cell in row)
    assert point
    assert source
    assert rule
    assert shown.startswith("not built") or re.match(r"`tests/[\w/]+\.py::test_\w+`", shown), shown


def test_each_test_named_after_an_article_is_on_the_page() -> None:
    numbered = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in names_in(str(path.relative_to(ROOT)))
        if re.match(r"test_\d+_\d+_", name)
    }
    assert numbered - set(NAMED) == set()
