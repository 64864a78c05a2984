"""Warn of changes in proto/ that break other people's programs: ``python proto/breaking.py [--against REVISION]``.

The files are compared with those of the last release (the latest tag ``v…``), or before the first release with those of
the commit before. ``buf.yaml`` says what counts. It warns and does not fail: some changes are meant, and stated in
CHANGELOG.md. Where there is nothing to compare with, it says so. It needs no network.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import generate

ROOT = generate.ROOT
CONFIG = ROOT / "buf.yaml"
BREAKS = 100  # buf's exit code when it has found something


class NothingToCompareError(Exception):
    """There is no earlier version, or it cannot be read. The message says why."""


def last_release(root: Path) -> str:
    """Return the latest release tag before the present commit; empty if there is none, or no git."""
    found = _run(["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"], root)
    return found.stdout.decode().strip() if found.returncode == 0 else ""


def extract(root: Path, revision: str, out: Path) -> None:
    """Write the folder proto/ of an earlier revision into *out*.

    Raises:
        NothingToCompareError: the folder is in no git repository, or the repository does not have this revision.
    """
    if _run(["git", "rev-parse", "--git-dir"], root).returncode:
        raise NothingToCompareError("this is not a git repository")
    archive = _run(["git", "archive", "--format=tar", revision, "proto"], root)
    if archive.returncode:
        raise NothingToCompareError(f"the repository does not have `{revision}` (a clone without history or tags?)")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(out, filter="data")


def compile_image(proto: Path, image: Path) -> None:
    """Compile the .proto files below *proto* to a descriptor set.

    Raises:
        NothingToCompareError: they do not compile, or protoc cannot be installed.
    """
    try:
        protoc = generate.protoc(proto)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NothingToCompareError("protoc cannot be installed; `make proto` says why") from error
    names = sorted(str(path.relative_to(proto)) for path in (proto / "consentd/v1").glob("*.proto"))
    outs = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    done = _run([*protoc, *outs, *names], proto)
    if done.returncode:
        raise NothingToCompareError(f"its files do not compile: {done.stderr.decode().strip()}")


def find_breaks(root: Path, revision: str) -> list[str]:
    """Return a line for each change since *revision* that breaks programs.

    Raises:
        NothingToCompareError: there is nothing to compare with, or no buf.
    """
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if buf is None:
        raise NothingToCompareError("buf is not installed; `make lint` installs it")
    with tempfile.TemporaryDirectory() as directory:
        before, now, old = Path(directory, "before.binpb"), Path(directory, "now.binpb"), Path(directory, "old")
        extract(root, revision, old)
        compile_image(old / "proto", before)
        compile_image(root / "proto", now)
        command = [buf, "breaking", str(now), "--against", str(before), "--exclude-imports", "--config", str(CONFIG)]
        done = _run(command, root)
    if done.returncode not in (0, BREAKS):
        raise NothingToCompareError(f"buf failed: {done.stderr.decode().strip()}")
    return done.stdout.decode().splitlines()


def _run(command: list[str], directory: Path) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(command, cwd=directory, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise NothingToCompareError(f"`{command[0]}` is not installed") from error


def main() -> int:
    """Compare, and say what breaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="REVISION", default="", help="the revision to compare with")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository; default: this one")
    arguments = parser.parse_args()
    try:
        revision = arguments.against or last_release(arguments.root) or "HEAD^"
        breaks = find_breaks(arguments.root, revision)
    except NothingToCompareError as error:
        print(f"proto/: not compared with an earlier version: {error}")
        return 0
    if not breaks:
        print(f"proto/: no change since `{revision}` breaks programs")
        return 0
    print(f"WARNING: changes in proto/ since `{revision}` break programs. State those that you mean in CHANGELOG.md:")
    for line in breaks:
        print(f"  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
