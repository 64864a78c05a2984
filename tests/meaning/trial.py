"""Try modules of ``consentd/policy`` with given sources: ``python -m tests.meaning.trial STAGE``.

The sources come from standard input, as JSON: {module: source}. They replace those of the files, which stay as they
are. The last line of standard output is JSON too: what noticed that something is wrong, and for the tests which of them
passed. Seeds are fixed, so two trials differ by their sources alone.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = "consentd.policy"
_TESTS = (
    "test_decisions.py", "test_policy_bounds.py", "test_policy_compile.py", "test_vocabulary.py", "test_policy.py",
    "test_policy_laws.py", "test_policy_campaigns.py", "test_recurrence.py",
)  # fmt: skip


class _Loader(SourceFileLoader):
    """Loads a module from a given source."""

    def __init__(self, fullname: str, path: Path, source: str) -> None:
        super().__init__(fullname, str(path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds the modules that have a given source."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        package, _, module = fullname.rpartition(".")
        if package != _PACKAGE or module not in self._sources:
            return None
        file = _ROOT / "consentd/policy" / f"{module}.py"
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, file, self._sources[module]))


def _agree() -> None:
    from meaning.bulk import agree

    agree(cases=3_000, seed=1, stop=True)


def _laws() -> None:
    from meaning.bulk import laws

    laws(cases=2_000, seed=1, stop=True)


def _by(run: Callable[[], None]) -> dict[str, object]:
    """Run a comparison; any exception is noticed, because the unchanged source raises none."""
    try:
        run()
    except Exception as error:  # noqa: BLE001  # a changed source may raise anything
        return {"noticed": " ".join((*getattr(error, "__notes__", ()), type(error).__name__))}
    return {"noticed": None}


class _Recorder:
    """A plugin of pytest that remembers which tests passed, and the first that failed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: str | None = None

    def pytest_runtest_logreport(self, report: object) -> None:
        name, outcome, when = (getattr(report, part) for part in ("nodeid", "outcome", "when"))
        if outcome == "passed" and when == "call":
            self.passed.append(name)
        elif outcome == "failed":
            self.failed = self.failed or name


def _tests() -> dict[str, object]:
    import pytest

    recorder = _Recorder()
    with tempfile.TemporaryDirectory() as directory:
        # Hypothesis begins with examples that failed before: no trial may leave any.
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = directory
        options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed=1"]
        status = pytest.main([*options, *(str(_ROOT / "tests" / name) for name in _TESTS)], plugins=[recorder])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise AssertionError(f"pytest ended with {status!r}")
    return {"noticed": recorder.failed, "passed": recorder.passed}


STAGES: dict[str, Callable[[], dict[str, object]]] = {
    "comparison": lambda: _by(_agree),
    "laws": lambda: _by(_laws),
    "tests": _tests,
}


def main() -> None:
    sys.path[:0] = [str(_ROOT), str(_ROOT / "clients/python"), str(_ROOT / "tests")]
    sources = json.load(sys.stdin)
    sys.meta_path.insert(0, _Finder(sources))
    import meaning.bulk  # noqa: F401  # a source that cannot be imported fails here, and is noticed by no stage

    for module in sources:
        assert isinstance(sys.modules[f"{_PACKAGE}.{module}"].__loader__, _Loader), f"{module} was imported before"
    os.chdir(_ROOT)
    print(json.dumps(STAGES[sys.argv[1]]()))


if __name__ == "__main__":
    main()
