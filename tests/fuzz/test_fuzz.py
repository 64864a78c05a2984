"""A few mutants for each public parser in every run; ``python -m tests.fuzz`` makes a million."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.mutate import Mutator
from fuzz.parsers import ELSEWHERE, PARSERS, Parser
from fuzz.run import fuzz_one

ROOT = Path(__file__).resolve().parents[2]
CODE = {"": ROOT / "consentd", "consentd_client.": ROOT / "clients/python/consentd_client"}
WORDS = {"parse", "decode", "open", "split", "unpack", "canonical"}
"""With these words the names of functions begin that read what somebody else wrote."""
EXECUTIONS = 150


def public_parsers() -> Iterator[str]:
    """Yield ``module:function`` of each public function with such a name, whose first argument is bytes or a text."""
    for prefix, directory in CODE.items():
        for path in sorted(directory.rglob("*.py")):
            module = prefix + path.relative_to(directory).with_suffix("").as_posix().replace("/", ".")
            if module.startswith(("v1.", "cli.")):  # generated; and arguments of the person who types them
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and node.name.split("_")[0] in WORDS:
                    stated = {ast.unparse(one.annotation) for one in node.args.args if one.annotation is not None}
                    if any({"bytes", "str"} & set(one.replace("|", " ").split()) for one in stated):
                        yield f"{module}:{node.name}"


def test_every_public_parser_is_run_on_mutants() -> None:
    found = set(public_parsers())
    covered = {name for one in PARSERS for name in one.covers}
    assert found - covered - set(ELSEWHERE) == set()
    assert set(ELSEWHERE) - found == set()
    assert covered & set(ELSEWHERE) == set()


def test_what_is_covered_exists() -> None:
    for name in {name for one in PARSERS for name in one.covers}:
        module, _, function = name.partition(":")
        prefix = "consentd_client." if module.startswith("consentd_client.") else ""
        path = CODE[prefix] / (module.removeprefix(prefix).replace(".", "/") + ".py")
        assert f"def {function}(" in path.read_text(), name


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_returns_a_value_or_a_declared_error(parser: Parser) -> None:
    found = fuzz_one(parser, executions=max(10, int(EXECUTIONS * parser.weight)), seed=1)
    assert not found.failures, found.failures[0].trace
    assert found.values  # the seeds are in order, so mutants reach what follows the first check


def test_an_error_that_is_not_declared_is_found() -> None:
    def parse(content: bytes) -> None:
        if b"9" * 100 in content:
            raise KeyError

    parser = Parser(name="wrong", covers=(), parse=parse, make_seeds=lambda: [b"12"], declared=(ValueError,))
    found = fuzz_one(parser, executions=2_000, seed=3)
    assert found.failures
    assert "KeyError" in found.failures[0].trace


def test_a_seed_makes_the_same_mutants() -> None:
    seeds = [b'{"a": 1, "b": [2]}', bytes(40)]
    first, second, other = Mutator(5), Mutator(5), Mutator(6)
    made = [first.mutant(seeds) for _ in range(50)]
    assert made == [second.mutant(seeds) for _ in range(50)]
    assert made != [other.mutant(seeds) for _ in range(50)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("configuration", b"a = " + b"[" * 2_000),
        ("configuration", b"a = " + b"9" * 5_000),
        ("configuration of a witness", b"a = " + b"[" * 2_000),
        ("FHIR mapping", b"a = " + b"[" * 2_000),
        ("FHIR mapping", b"a = " + b"9" * 5_000),
        ("address to listen on", b"127.0.0.1:" + b"9" * 5_000),
        ("state of a history file", b"[" * 2_000),
        ("state of a history file", b'{"version": 2, "count": 1e999}'),
        ("address of a daemon", "127.0.0.1:\u0661".encode()),
    ],
)
def test_what_a_run_found_stays_found(name: str, content: bytes) -> None:
    """Numbers with more digits than Python converts, infinity, and lists that are nested deeper than its stack."""
    (parser,) = (one for one in PARSERS if one.name == name)
    with pytest.raises(parser.declared):
        parser.parse(content)
