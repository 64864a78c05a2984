"""The limits of ``proto/limits.toml``: texts state the same figures, and each figure names its limit.

``tests/test_limits_reached.py`` tries each limit at its value and one beyond.
"""

import math
import re
from pathlib import Path

import pytest

from cases.limits import LIMITS, ROOT, value_of
from cases.reasons import REASONS
from consentd import limits

PROTOS = sorted((ROOT / "proto/consentd/v1").glob("*.proto"))
TEXTS = [*PROTOS, *sorted((ROOT / "proto").glob("*.md")), ROOT / "README.md", ROOT / "clients/README.md"]
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
_FIGURE = r"(\d[\d,]*)(?: (KiB|MiB))?"
_NAMED = re.compile(_FIGURE + r"[^()\d]{0,40}\(`?([a-z]+(?:_[a-z]+)+)`?[;)]")
_BOUND = re.compile(r"\b(?:at most|at least|up to|more than|over|beyond|limit of)\s+" + _FIGURE + r"[^()\d]{0,40}")
_PAGE = re.compile(r"0 or more than ([\d,]+) means ([\d,]+)")


def number(figure: str, unit: str | None = "") -> int:
    return int(figure.replace(",", "")) * UNITS[unit or ""]


def flowing(path: Path) -> str:
    """Return a text without line breaks; of a .proto file the comments alone."""
    lines = path.read_text().splitlines()
    if path.suffix == ".proto":
        lines = [line.strip().removeprefix("//") if line.strip().startswith("//") else " ; " for line in lines]
    return re.sub(r"\s+", " ", " ".join(lines))


# -- the table and the texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_says_what_it_limits_and_what_happens_beyond(name: str) -> None:
    limit = LIMITS[name]
    assert len({"most", "least"} & set(limit)) == 1
    assert set(limit) - {"most", "least", "reason", "beyond"} == {"unit", "what"}
    assert "reason" in limit or "beyond" in limit
    assert limit.get("reason", "TOO_LARGE") in REASONS
    assert getattr(limits, name.upper()) == value_of(name)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_figure_with_a_name_is_the_limits(path: Path) -> None:
    for figure, unit, name in _NAMED.findall(flowing(path)):
        if name in LIMITS:
            assert number(figure, unit) == value_of(name), f"{path.name} states {figure} {unit} for {name}"
    for above, meant in _PAGE.findall(flowing(path)):
        assert (number(above), number(meant)) == (limits.PAGE_ITEMS, limits.PAGE_ITEMS)


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.name)
def test_a_bound_in_a_comment_names_its_limit(path: Path) -> None:
    text = flowing(path)
    for match in _BOUND.finditer(text):
        if _PAGE.match(text, match.start() - len("0 or ")):
            continue
        named = _NAMED.match(text, match.start(1))
        assert named is not None, f"which limit is it? {match[0]}"
        assert named[3] in LIMITS


def test_every_limit_that_refuses_is_stated_to_callers() -> None:
    stated = {name for path in TEXTS for _, _, name in _NAMED.findall(flowing(path))}
    assert {name for name in LIMITS if "reason" in LIMITS[name]} <= stated


@pytest.mark.parametrize(
    ("file", "constant", "name"),
    [
        ("codec.ts", "MAX_PAYLOAD", "statement_bytes"),
        ("history.ts", "MAX_NAME", "public_name_characters"),
        ("key_validity.ts", "MAX_AUTHOR_SKEW_MS", "author_skew_ms"),
        ("evidence.ts", "MAX_EVIDENCE_SIZE", "evidence_bytes"),
    ],
)
def test_the_second_verifier_has_the_same_figures(file: str, constant: str, name: str) -> None:
    text = (ROOT / "clients/typescript/src" / file).read_text()
    (product,) = re.findall(rf"const {constant} = ([\d_ *]+)n?;", text)
    factors = [factor.split("**") for factor in re.split(r"(?<!\*)\*(?!\*)", product)]
    assert math.prod(int(base) ** math.prod(map(int, power)) for base, *power in factors) == value_of(name)
