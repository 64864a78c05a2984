"""The verifier in TypeScript: built, and run in a browser on a page of another origin."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "typescript"
NPM = shutil.which("npm") if shutil.which("node") else None
OLDEST_NODE = 18
PAGE_HEAD = """\
<!doctype html>
<meta charset="utf-8">
<script type="importmap">
  {"imports": {
    "@consentd/verify": "/dist/src/index.js",
    "@noble/curves/": "/node_modules/@noble/curves/",
    "@noble/hashes/": "/node_modules/@noble/hashes/"
  }}
</script>
"""
"""The begin of a page whose scripts import the verifier as ``@consentd/verify``."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(directory: Path, *command: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a directory, whatever its status."""
    return subprocess.run(
        [str(each) for each in command], cwd=directory, env={**os.environ, **environment}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def build_package(root: Path) -> Path:
    """Copy the package below *root*, install what the lock file pins, and compile; or skip. Return its directory.

    A copy, because test workers beside each other would find half an installation.
    """
    if NPM is None:
        pytest.skip("node and npm are not installed")
    package = root / "clients" / "typescript"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (root / "proto").symlink_to(ROOT / "proto")
    node = run(package, "node", "--version").stdout.strip()
    if int(node.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is older than {OLDEST_NODE}: {node}")
    installed = run(package, NPM, "ci", "--no-progress", "--prefer-offline")
    if installed.returncode and re.search(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENOTCACHED", installed.stderr):
        pytest.skip("the npm packages are neither cached nor within reach")
    assert installed.returncode == 0, installed.stderr
    built = run(package, NPM, "run", "build")
    assert built.returncode == 0, built.stdout
    return package


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _files_served(directory: Path) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=directory)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def show(package: Path, page: str, profile: Path) -> str:
    """Return the document that Chromium has after it has run *page*, which is served beside the package's modules."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    (package / "page.html").write_text(page)
    with _files_served(package) as port:
        shown = run(
            profile.parent, CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--virtual-time-budget=60000", f"--user-data-dir={profile}", "--dump-dom",
            f"http://127.0.0.1:{port}/page.html",
        )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    return shown.stdout
