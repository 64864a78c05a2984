"""The house: CONTRIBUTING's picture is the code's, and each module keeps the rules for size, names and words."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GENERATED = "v1"
MAX_MODULE_LINES = 400
MAX_TEST_LINES = 600
MAX_LINE = 120


def modules(*directories: str) -> list[Path]:
    """Return the Python files of these directories, generated code left out."""
    found = (path for directory in directories for path in (ROOT / directory).rglob("*.py"))
    return sorted(path for path in found if GENERATED not in path.parts and ".venv" not in path.parts)


PRODUCT = modules("consentd", "clients/python/consentd_client")
TESTS = modules("tests")
OURS = [*PRODUCT, *TESTS, *modules("benchmarks", "proto")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def assert_none(breaches: list[str]) -> None:
    assert not breaches, "\n".join(breaches)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of each import, also of those inside functions; ``from a import b`` yields ``a.b``."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# -- the picture ----------------------------------------------------------------------------------------------


def drawn_floors() -> list[set[str]]:
    """Return the floors of CONTRIBUTING's picture, from the top; a line without a number belongs to the line above."""
    (picture,) = re.findall(r"^```\n(\d+  .*?)^```$", CONTRIBUTING, re.DOTALL | re.MULTILINE)
    floors: list[set[str]] = []
    numbers: list[int] = []
    for line in picture.splitlines():
        number, names = line[:2].strip(), line[4:36].split()
        if number:
            numbers.append(int(number))
            floors.append(set())
        floors[-1].update(names)
    assert numbers == list(range(len(floors) - 1, -1, -1))
    return floors


def linted_floors() -> list[set[str]]:
    """Return the layers that import-linter checks, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [set(layer.split(" | ")) for layer in layers]


def packages() -> set[str]:
    """Return the packages and top-level modules of consentd, generated code left out."""
    return {
        path.stem
        for path in (ROOT / "consentd").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem not in ("__init__", GENERATED)
    }


def test_the_picture_is_what_import_linter_checks_and_places_every_package() -> None:
    redrawn = "\n".join(
        f"{len(linted_floors()) - 1 - number:2}  {'  '.join(sorted(floor))}"
        for number, floor in enumerate(linted_floors())
    )
    assert drawn_floors() == linted_floors(), f"CONTRIBUTING.md must draw these floors:\n{redrawn}"
    placed = [name for floor in drawn_floors() for name in floor]
    assert sorted(placed) == sorted(packages())


def test_the_code_imports_downwards_as_drawn() -> None:
    height = {name: len(drawn_floors()) - at for at, floor in enumerate(drawn_floors()) for name in floor}
    upwards = []
    for path in modules("consentd"):
        own = path.relative_to(ROOT / "consentd").with_suffix("").parts[0]
        for imported in imports_of(path):
            package, _, rest = imported.partition(".")
            other = rest.partition(".")[0]
            is_floor = package == "consentd" and {own, other} <= height.keys() and own != other
            if is_floor and height[other] >= height[own]:
                upwards.append(f"{name_of(path)} imports {imported}")
    assert upwards == []


def test_the_client_imports_what_the_picture_says() -> None:
    (text,) = re.findall(r"Of the floors it imports only (.*?),\s+so", CONTRIBUTING, re.DOTALL)
    allowed = {*re.findall(r"`(\w+)`", text), GENERATED}
    imported = {
        name.split(".")[1]
        for path in modules("clients/python/consentd_client")
        for name in imports_of(path)
        if name.startswith("consentd.")
    }
    assert imported <= allowed


def test_the_map_names_every_package_and_files_that_exist() -> None:
    table = CONTRIBUTING.partition("## What belongs where")[2].partition("## Where do I add")[0]
    assert packages() <= set(re.findall(r"`([\w/]+)`", table))
    for path in re.findall(r"`([\w./*-]+/[\w./*-]*)`", CONTRIBUTING):
        roots = (ROOT, ROOT / "consentd")
        is_made = path.startswith((".venv", "build/"))  # a checkout does not have it
        assert is_made or any(list(root.glob(path.removesuffix("/"))) for root in roots), path


# -- size -----------------------------------------------------------------------------------------------------

def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_modules_are_small() -> None:
    assert_none([name_of(path) for path in PRODUCT if len(lines_of(path)) > MAX_MODULE_LINES])


def test_test_files_are_small() -> None:
    assert_none([name_of(path) for path in TESTS if len(lines_of(path)) > MAX_TEST_LINES])


def test_lines_are_short() -> None:
    typescript = [
        path
        for directory in ("src", "test")
        for path in sorted((ROOT / "clients/typescript" / directory).rglob("*.ts"))
    ]
    long = [
        f"{name_of(path)}:{number}"
        for path in [*OURS, *typescript]
        for number, line in enumerate(lines_of(path), 1)
        if len(line) > MAX_LINE
    ]
    assert_none(long)


def test_nothing_imports_a_test_module() -> None:
    found = [
        f"{name_of(path)} imports {imported}"
        for path in OURS
        for imported in imports_of(path)
        if any(part.startswith("test_") for part in imported.split("."))
    ]
    assert_none(found)


# -- names ----------------------------------------------------------------------------------------------------

FORBIDDEN_PARTS = {"desk", "lobby", "tally", "turn", "turns"}
"""Words that no name may contain: metaphors, where the field has a term."""
FORBIDDEN_MODULES = {
    *("claims", "desk", "grounds", "kept", "lobby", "look", "looking", "opening", "packed", "parts", "past", "places"),
    *("room", "say", "share", "tally", "terms", "turn", "words"),
}
"""Names that no module may have."""
FORBIDDEN_NAMES = FORBIDDEN_MODULES - {"opening", "packed", "parts", "places", "share"}
"""Names that no function, class, parameter or attribute may have; local variables may."""


def names_in(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, name, whether it is a variable) of all that a module defines or binds."""
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name, False
            case ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name, False
            case ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name, True


def parts_of(name: str) -> list[str]:
    """Split a name at underscores and capitals."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")


def forbidden_names(path: Path) -> list[str]:
    found = [f"{name_of(path)}: module name"] if path.stem.strip("_") in FORBIDDEN_MODULES else []
    for line, name, is_variable in names_in(path):
        is_forbidden = not is_variable and name.lower().strip("_") in FORBIDDEN_NAMES
        if is_forbidden or FORBIDDEN_PARTS & set(parts_of(name)):
            found.append(f"{name_of(path)}:{line}: {name}")
    return found


def test_names_are_the_field_s() -> None:
    assert_none([each for path in OURS for each in forbidden_names(path)])


# -- words ----------------------------------------------------------------------------------------------------

FORBIDDEN_PHRASES = [
    r"\bat hand\b",
    r"\b(?:hold|holds|held|holding)\b(?: \w+){0,4} against\b",
    r"\b(?:be|is|are|was|were|been|could|cannot be) told\b",
    r"\bto be had\b",
    r"\bwho(?:ever)? calls\b",
    r"\bnone that\b",
    r"\b(?:take|takes|took|taken) down\b",
    r"\bat its word\b",
    r"\bstand(?:s|ing)? (?:in|behind|there|beside|for itself)\b",
    r"\b(?:lie|lies|lay|lying) (?:behind|beside)\b",
    r"\bnothing lost\b",
    r"\bsaid aloud\b",
]
"""Turns of speech that a reader must read twice."""
PHRASES = re.compile("|".join(FORBIDDEN_PHRASES), re.IGNORECASE)
WORDS_OF_THE_PRODUCT = re.compile(r"\b(?:tells?|told|goes on|stands?(?! for)|whoever calls|hangs on)\b", re.IGNORECASE)
"""Words that the product's own text avoids: it reports, determines, continues, is, depends."""


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the comments and strings of a module; of other files, the whole text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
        return
    comments: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.append(token.string.lstrip("#: "))
            continue
        if token.type in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            continue  # a comment may go over several lines
        if comments:
            yield token.start[0] - len(comments), " ".join(comments)
            comments = []
        if token.type == tokenize.STRING:
            yield token.start[0], token.string


def forbidden_phrases(path: Path) -> list[str]:
    found = []
    for line, text in prose_of(path):
        flat = re.sub(r"\s*\n\s*(?://|#)?\s*", " ", text)
        found += [f"{name_of(path)}:{line}: {each[0]}" for each in PHRASES.finditer(flat)]
        if path in PRODUCT:
            found += [f"{name_of(path)}:{line}: {each[0]}" for each in WORDS_OF_THE_PRODUCT.finditer(flat)]
    return found


PROSE = [
    *OURS,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", ".ci/run")),
    *sorted(path for path in (ROOT / "ops").rglob("*") if path.suffix in (".md", ".toml", ".yaml", ".service")),
    *sorted(path for path in (ROOT / "proto").rglob("*") if path.suffix in (".md", ".proto")),
    *sorted((ROOT / "clients").glob("*.md")),
]


def test_texts_are_plain() -> None:
    others = [path for path in PROSE if path != Path(__file__).resolve()]
    assert_none([each for path in others for each in forbidden_phrases(path)])


@pytest.mark.parametrize(("text", "is_plain"), [("the key at hand", False), ("the key that is available", True)])
def test_a_forbidden_phrase_is_found(text: str, is_plain: bool, tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(f'"""Read\n{text}."""\n# another\n# comment\n', encoding="utf-8")
    assert (PHRASES.search(" ".join(prose for _, prose in prose_of(file)).replace("\n", " ")) is None) is is_plain
