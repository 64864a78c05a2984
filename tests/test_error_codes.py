"""Each reason has one gRPC code: every error that is raised has the class whose code its reason is documented with.

``tests/test_errors.py`` reaches each reason by one call. Here all other places that raise it are read.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from cases.reasons import REASONS
from consentd import errors
from consentd.errors import ConsentdError
from consentd.service import auth
from consentd.service.rpc import status_code

ROOT = Path(__file__).resolve().parent.parent
SENT: dict[str, type[ConsentdError]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidError, errors.NotFoundError, errors.AlreadyExistsError, errors.PreconditionError,
        errors.AbortedError, errors.DeniedError, errors.OperationCancelledError, errors.OverloadedError,
        errors.NotReachedError, errors.StorageError, errors.FetchError, errors.FileReadError, errors.CorruptionError,
        auth.UnauthenticatedError,
    )
}  # fmt: skip
"""The classes of the errors that a call can end with. Bad bytes of a caller become an InvalidError before."""
PASSED_ON = {
    ("consentd/policy/vocabulary.py", "unknown_level"),
    ("consentd/policy/language.py", "canonical_tag"),
    ("consentd/policy/language.py", "check_tag"),
}
"""The functions that get the reason of their error as an argument."""


def raised(path: Path) -> Iterator[tuple[str, int, type[ConsentdError], str]]:
    """Yield (function, line, class, reason) of each error that a module makes. An unknown reason is empty."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called not in SENT:
            continue
        stated = [each.value for each in node.keywords if each.arg == "reason"] or node.args[1:2]
        inside = [one.name for one in functions if one.lineno <= node.lineno <= (one.end_lineno or 0)]
        reason = SENT[called].default_reason if not stated else _value(stated[0], name)
        yield inside[-1] if inside else "", node.lineno, SENT[called], reason


def _value(node: ast.expr, module: str) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    found = getattr(importlib.import_module(module), node.id, "") if isinstance(node, ast.Name) else ""
    return found if isinstance(found, str) else ""


MODULES = sorted(path for path in (ROOT / "consentd").rglob("*.py") if not {"v1", "fhir"} & set(path.parts))
"""All modules but those that are generated, and the importer, whose refusals are a report and no answer of a call."""


def test_every_error_has_the_class_of_its_reason() -> None:
    seen, unknown = set(), set()
    for path in MODULES:
        for function, line, kind, reason in raised(path):
            place = str(path.relative_to(ROOT))
            if not reason:
                unknown.add((place, function))
                continue
            assert status_code(kind("", reason)) is REASONS[reason].code, f"{place}:{line} raises {reason}"
            seen.add(reason)
    assert unknown == PASSED_ON
    assert seen >= set(REASONS) - {"INTERNAL"}


@pytest.mark.parametrize("kind", SENT.values(), ids=SENT)
def test_a_class_has_a_default_reason_with_its_code(kind: type[ConsentdError]) -> None:
    assert status_code(kind("")) is REASONS[kind.default_reason].code


def test_every_class_that_is_sent_is_tried() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    made = {kind.__name__ for kind in classes if issubclass(kind, ConsentdError)}
    bases = {"ConsentdError", "RequestError", "LaterError"}
    bad_bytes = {name for name in made if issubclass(getattr(errors, name), errors.VerificationError)}
    assert made - bases - bad_bytes == set(SENT) - {"UnauthenticatedError"}


def test_clients_are_told_what_to_do_after_each_code() -> None:
    text = (ROOT / "clients/README.md").read_text()
    rows = re.findall(r"^\| ([A-Z_]+) \| [^|]+ \| ([A-Z_, ]+) \|$", text, re.MULTILINE)
    told = {reason: StatusCode[code] for code, reasons in rows for reason in reasons.split(", ")}
    assert sum(reasons.count(",") + 1 for _, reasons in rows) == len(told)
    assert told == {reason: documented.code for reason, documented in REASONS.items()}


def test_no_reason_has_a_code_of_the_grpc_library() -> None:
    library = {StatusCode.OK, StatusCode.UNKNOWN, StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED}
    of_calls = {documented.code for reason, documented in REASONS.items() if reason != "OPERATION_CANCELLED"}
    assert not of_calls & library
