"""``proto/breaking.py`` warns of changes that break programs, and says so where it has nothing to compare with."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = "proto/consentd/v1/policy_service.proto"
GIT = shutil.which("git")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(GIT is None, reason="git is not installed"),
    pytest.mark.skipif(
        not os.environ.get("CI") and not (ROOT / ".venv-proto/pins.txt").exists(),
        reason="the pinned generator is not installed; `make proto` installs it",
    ),
]


def git(repository: Path, *arguments: str) -> None:
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    subprocess.run([str(GIT), *names, *arguments], cwd=repository, check=True, capture_output=True)


def commit(repository: Path) -> None:
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "--allow-empty", "-m", "x")


def change(repository: Path, old: str, new: str) -> None:
    """Change the text of one file; *old* is in it."""
    text = (repository / FILE).read_text()
    assert old in text
    (repository / FILE).write_text(text.replace(old, new, 1))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of our .proto files, in its second commit."""
    made = tmp_path / "repository"
    shutil.copytree(ROOT / "proto/consentd", made / "proto/consentd")
    git(made, "init", "-q")
    commit(made)
    commit(made)
    return made


def said(root: Path, *arguments: str) -> str:
    """Return what the program prints. It never fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "proto/breaking.py"), "--root", str(root), *arguments],
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_change_breaks_nothing(repository: Path) -> None:
    assert said(repository) == "proto/: no change since `HEAD^` breaks programs\n"


def test_a_new_field_breaks_nothing(repository: Path) -> None:
    change(repository, "// CheckRequest has one", "// New is new.\nmessage New {}\n\n// CheckRequest has one")
    assert "no change" in said(repository)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("Question question = 1;", "Question asked = 1;", '"question"'),
        ("Question question = 1;", "Question question = 9;", '"1"'),
        ("rpc Check(", "rpc CheckOne(", '"Check"'),
        ("io.github.consentd.v1", "io.github.consentd.v2", "java_package"),
    ],
)
def test_a_change_that_breaks_is_named_and_does_not_fail(repository: Path, old: str, new: str, named: str) -> None:
    change(repository, old, new)
    found = said(repository)
    assert found.startswith("WARNING: ")
    assert f"{FILE.removeprefix('proto/')}:" in found
    assert named in found
    commit(repository)
    assert said(repository) == found
    commit(repository)
    assert "no change" in said(repository)


def test_the_last_release_comes_before_the_commit_before(repository: Path) -> None:
    git(repository, "tag", "v0.1.0")
    change(repository, "Question question = 1;", "Question asked = 1;")
    commit(repository)
    commit(repository)
    git(repository, "tag", "other")
    assert said(repository).startswith("WARNING: changes in proto/ since `v0.1.0`")
    assert said(repository, "--against", "HEAD^").startswith("proto/: no change since `HEAD^`")
    assert "not compared" in said(repository, "--against", "no-such-revision")


def test_a_clone_without_history_says_so(repository: Path, tmp_path: Path) -> None:
    git(repository, "tag", "v0.1.0", "HEAD^")
    git(tmp_path, "clone", "-q", "--depth", "1", "--no-tags", f"file://{repository}", "shallow")
    found = said(tmp_path / "shallow")
    assert found.startswith("proto/: not compared with an earlier version: the repository does not have `HEAD^`")


def test_files_without_git_say_so(repository: Path) -> None:
    shutil.rmtree(repository / ".git")
    assert said(repository) == "proto/: not compared with an earlier version: this is not a git repository\n"


def test_a_machine_without_protoc_and_network_says_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "proto"))
    breaking = import_module("breaking")

    def fail() -> Path:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(breaking.generate, "tools", fail)
    monkeypatch.setattr(sys, "argv", ["breaking.py", "--root", str(repository)])
    assert breaking.main() == 0
    assert "not compared with an earlier version: protoc cannot be installed" in capsys.readouterr().out


def test_an_earlier_version_that_does_not_compile_says_so(repository: Path) -> None:
    text = (repository / FILE).read_text()
    (repository / FILE).write_text("nonsense")
    commit(repository)
    (repository / FILE).write_text(text)
    commit(repository)
    assert "do not compile" in said(repository)
