"""README and the guide to production do what they say: their blocks are run against a daemon, and print what is shown.

The info string of a block says what it is: ``sh run`` and ``python run`` are run; ``sh run=daemon`` is started and
waited for; ``needs=TOOL`` skips where that tool is missing; ``sh skip=REASON`` is not run. ``text output`` is what the
block before prints, where ``…`` matches anything; ``text help=VERB`` is the help of a verb, to the letter.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "ops" / "GOING-TO-PRODUCTION.md").read_text(encoding="utf-8")
GRPC, HTTP = "127.0.0.1:7400", "127.0.0.1:7401"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what its info string says of it, its text, and the heading above it."""

    language: str
    marks: dict[str, str]
    text: str
    heading: str


def blocks(text: str) -> list[Block]:
    found, heading = [], ""
    form = r"^## (?P<heading>[^\n]*)$|^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$"
    for part in re.finditer(form, text, re.DOTALL | re.MULTILINE):
        if part["heading"] is not None:
            heading = part["heading"]
            continue
        language, _, rest = part["info"].partition(" ")
        marks = dict(mark.partition("=")[::2] for mark in rest.split(" ", 1 if rest.startswith("skip=") else -1))
        found.append(Block(language, marks, part["text"], heading))
    return found


TEXTS = {"README.md": blocks(README), "GOING-TO-PRODUCTION.md": blocks(GUIDE)}
BLOCKS = TEXTS["README.md"]
PLACES = ("/etc/consentd", "/var/lib/consentd", "/var/backups/consentd", "/opt/consentd")
SUDO = """\
#!/bin/sh
# As sudo, but as the present user.
[ "$1" = -u ] && shift 2
exec "$@"
"""
INSTALL = """\
#!/bin/bash
# As install, but as the present user: without -o and -g.
kept=()
while [ $# -gt 0 ]; do
    case "$1" in -o|-g) shift 2 ;; *) kept+=("$1"); shift ;; esac
done
exec /usr/bin/install "${kept[@]}"
"""


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


class Walk:
    """A shell whose blocks share directory and exported variables, with `consentd` on its path and two free ports."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = {GRPC: free_address(), HTTP: free_address()}
        self.places = {path: f"{home}{path}" for path in PLACES}
        self._state = home / "state"
        (home / "etc").mkdir()
        programs = home / "opt" / "consentd" / "bin"
        programs.mkdir(parents=True)
        for name, module in (("consentd", "consentd.cli"), ("python3", ""), ("python", "")):
            program = programs / name
            run = f"{sys.executable} -m {module}" if module else sys.executable
            program.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
            program.chmod(0o755)
        for name, text in (("sudo", SUDO), ("install", INSTALL), ("chgrp", "#!/bin/sh\n")):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        start = home / "repository"
        start.mkdir()
        shutil.copytree(ROOT / "ops", start / "ops", ignore=shutil.ignore_patterns("data", "keys", "credentials"))
        config = start / "ops" / "consentd.toml"
        config.write_text(self.placed(config.read_text(encoding="utf-8")), encoding="utf-8")
        environment = {
            "HOME": str(home),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "clients" / "python"))),
            "CONSENTD_TARGET": self.ports[GRPC],
            "COLUMNS": "80",
            "LC_ALL": "C.UTF-8",
        }
        exports = "".join(f"export {key}={value}\n" for key, value in environment.items())
        self._state.write_text(exports + f"cd {start}\n")
        self.daemon: subprocess.Popen[bytes] | None = None

    def placed(self, text: str) -> str:
        """Return *text* with the walk's own ports and directories."""
        for documented, ours in (*self.ports.items(), *self.places.items()):
            text = text.replace(documented, ours)
        return text

    def run(self, block: Block) -> str:
        """Run a block; return what it printed."""
        text = self.placed(block.text)
        if block.language == "python":
            text = f"python3 - <<'END OF BLOCK'\n{text}END OF BLOCK\n"
        script = f"set -euo pipefail\n. {self._state}\n{text}\n(export -p; echo cd \"$PWD\") > {self._state}\n"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, block: Block) -> None:
        """Start the daemon as a block says, and wait until it serves."""
        script = f"set -euo pipefail\n. {self._state}\nexec {self.placed(block.text)}"
        with (self.home / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(["bash", "-c", script], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while not self._is_serving():
            assert self.daemon.poll() is None, (self.home / "daemon.log").read_text()
            assert time.monotonic() < until, "daemon does not serve"

    def _is_serving(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.ports[HTTP]}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> int | None:
        """Stop the daemon; return its exit status."""
        if self.daemon is None:
            return None
        self.daemon.terminate()
        return self.daemon.wait(60)


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    made = Walk(tmp_path)
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.daemon.kill()
        made.daemon.wait()


def assert_shown(shown: str, printed: str) -> None:
    """Assert that *printed* is what a block shows, line by line; ``…`` matches anything."""
    lines, ours = printed.splitlines(), shown.splitlines()
    assert len(lines) == len(ours), printed
    for line, our in zip(lines, ours, strict=True):
        assert re.fullmatch(re.escape(our).replace("…", ".*"), line), f"shown: {our}\nprinted: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_every_block_runs_and_prints_what_is_shown(walk: Walk, text: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    for block, follows in pairwise((*TEXTS[text], Block("", {}, "", ""))):
        if "run" not in block.marks:
            continue
        if block.marks["run"] == "daemon":
            walk.serve(block)
            continue
        if shutil.which(block.marks.get("needs", "sh")) is None:
            continue
        printed = walk.run(block)
        if "output" in follows.marks:
            assert_shown(follows.text, printed)
    assert walk.stop() == 0


HELPS = [block for block in BLOCKS if "help" in block.marks]


@pytest.mark.parametrize("block", HELPS, ids=[block.marks["help"] for block in HELPS])
def test_help_is_what_is_shown(block: Block, walk: Walk) -> None:
    assert walk.run(Block("sh", {}, f"consentd {block.marks['help']} --help\n", "")) == block.text


@pytest.mark.parametrize("text", TEXTS)
def test_every_block_is_marked(text: str) -> None:
    marks = {"run", "skip", "output", "help"}
    for block in TEXTS[text]:
        assert block.language == "mermaid" or marks & set(block.marks), block.text
    runs = [block.marks["run"] for block in TEXTS[text] if "run" in block.marks]
    assert len(runs) >= 10
    assert "daemon" in runs


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a text."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("text", "directory"), [(README, ROOT), (GUIDE, ROOT / "ops")], ids=list(TEXTS))
def test_what_is_linked_exists(text: str, directory: Path) -> None:
    assert "ops/GOING-TO-PRODUCTION.md" in README
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", text):
        assert (directory / target).exists(), target
        assert not anchor or anchor in anchors((directory / target).read_text(encoding="utf-8")), anchor


def test_it_is_short_and_its_make_targets_exist() -> None:
    assert len(README.splitlines()) <= 400
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_the_guide_to_production_takes_less_than_half_an_hour_to_read_and_type() -> None:
    """At 120 words a minute, the pace of a careful reader in a second language, and three commands a minute: most are
    copied.

    Everything that is to be typed is run by a test, but for what needs another program or the system's users.
    """
    blocks_of = TEXTS["GOING-TO-PRODUCTION.md"]
    prose = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.DOTALL | re.MULTILINE)
    commands = [one for block in blocks_of if block.language == "sh" for one in commands_of(block.text)]
    minutes = len(prose.split()) / 120 + len(commands) / 3
    assert 40 < len(commands) < 70
    assert minutes < 30
    skipped = [block.heading for block in blocks_of if "skip" in block.marks]
    assert skipped == ["1. Install", "7. Alarms, and a backup", "7. Alarms, and a backup"]


def commands_of(text: str) -> list[str]:
    """Return the commands of a block: a line that continues, and what a here-document has, are parts of one."""
    text = re.sub(r"<<'?END'?.*?^END$", "", text.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.splitlines() if line.strip() not in ("", "done") and not line.startswith("#")]


def test_each_word_of_ours_is_explained_once() -> None:
    table = README.partition("## Words")[2].partition("\n## ")[0]
    words = [word for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for word in row.strip("*").split(", ")]
    ours = re.findall(r"^\| \*\*(\w+)\*\* \|", table, re.MULTILINE)
    assert sorted(ours) == ["chain", "map", "seal", "table", "tag", "vault"]
    assert {"inclusion proof", "history proof", "checkpoint", "witness", "receipt"} <= set(words)
    assert len(words) == len(set(words))


def test_the_parts_and_one_transfer_are_drawn_and_limits_come_first() -> None:
    drawings = [block.text.split()[0] for block in BLOCKS if block.language == "mermaid"]
    assert drawings == ["flowchart", "sequenceDiagram"]
    assert README.index("not built yet") < README.index("## ")
