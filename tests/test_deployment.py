"""The systemd unit and the recipe of the image: their paths and ports are those of the configuration."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import running_daemon
from consentd import config, sections
from consentd.cli import backups, make_parser

ROOT = Path(__file__).parents[1]
OPS = ROOT / "ops"
RUNBOOK = (OPS / "RUNBOOK.md").read_text(encoding="utf-8")
UNIT_FILE = OPS / "consentd.service"
ETC, STATE = Path("/etc/consentd"), Path("/var/lib/consentd")
RECIPE = (OPS / "Containerfile").read_text(encoding="utf-8")


def unit() -> dict[str, list[str]]:
    """Return the values of each option of the unit: an option may be given more than once."""
    found: dict[str, list[str]] = {}
    for line in UNIT_FILE.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            option, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(option, []).append(value)
    return found


def installed() -> config.Config:
    """Return ops/consentd.toml as the runbook installs it: in /etc/consentd, with its data in /var/lib/consentd."""
    text = (OPS / "consentd.toml").read_text(encoding="utf-8")
    text, count = re.subn(r'^(\w+ = )"data(/[^"]*)?"$', rf'\1"{STATE}\2"', text, flags=re.MULTILINE)
    assert count >= 3
    return config.parse(text, base_dir=ETC)


def paths_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Path]]:
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{prefix}{field.name}"
        if isinstance(value, Path):
            yield name, value
        elif dataclasses.is_dataclass(value):
            yield from paths_of(value, f"{name}.")


def writable() -> list[Path]:
    """Return the directories in which the unit lets the daemon write."""
    named = [part.lstrip("-") for value in unit().get("ReadWritePaths", []) for part in value.split()]
    return [*(Path(name) for name in named), *(Path("/var/lib") / name for name in unit()["StateDirectory"])]


def example_of_backups() -> Path:
    """Return the directory of backups that ops/consentd.toml and the guide name."""
    [example] = re.findall(r'^# dir = "(.*)"$', (OPS / "consentd.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return Path(example)


def test_the_unit_lets_the_daemon_write_its_data_and_its_keys_and_nothing_else() -> None:
    paths = dict(paths_of(installed()))
    data = {"ledger.data_dir", "ledger.last_signed_path", "table.path"}
    keys = {"keys.log_key_file", "keys.statement_key_file", "keys.vault_kek.file"}
    assert data | keys <= paths.keys()
    needed = {name for name in paths if name in data | keys}
    for name, path in paths.items():
        may = any(path.parent == top or path.is_relative_to(top) for top in writable())
        assert may is (name in needed), name
    for top in writable():
        assert top == example_of_backups() or any(path.is_relative_to(top) for path in paths.values()), top
    assert example_of_backups() in writable()
    assert unit()["ProtectSystem"] == ["strict"]
    assert unit()["RequiresMountsFor"] == [str(STATE)]


def test_the_unit_starts_the_daemon_again_and_limits_how_often() -> None:
    options = unit()
    assert options["Restart"] == ["always"]
    burst, interval_s = int(options["StartLimitBurst"][0]), int(options["StartLimitIntervalSec"][0])
    assert burst * int(options["RestartSec"][0]) < interval_s, "a ledger that does not open ends the attempts"


def test_the_timer_of_backups_starts_a_unit_whose_commands_are_verbs() -> None:
    timer, service = ((OPS / f"consentd-backup.{kind}").read_text(encoding="utf-8") for kind in ("timer", "service"))
    assert "Persistent=true\n" in timer
    commands = re.findall(r"^ExecStart=/opt/consentd/bin/consentd (.*)$", service, re.MULTILINE)
    parsed = [make_parser().parse_args(command.split()) for command in commands]
    assert [each.run for each in parsed] == [backups.backup, backups.verify]
    assert parsed[1].config == ETC / "consentd.toml"
    assert parsed[1].identity.parent == installed().keys.log_key_file.parent
    assert f"ReadWritePaths=-{example_of_backups()}\n" in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_finds_little_that_the_unit_leaves_open() -> None:
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.findall(r"^systemd (\d+)", version)[0]) < 250:
        pytest.skip("needs systemd 250 or later, which reads units offline")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", UNIT_FILE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def stages() -> list[list[tuple[str, str]]]:
    """Return the (instruction, arguments) of each stage of the recipe; continued lines are joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE))
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, text.splitlines()):
        instruction, _, arguments = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, arguments))
    return found


def test_the_image_runs_without_root_from_a_stage_without_tools() -> None:
    build, final = stages()
    assert build[0] == ("FROM", "docker.io/library/python:3.11-slim AS build")
    assert final[0] == ("FROM", "docker.io/library/python:3.11-slim")
    steps = dict(final)
    number = steps["USER"].split(":")[0]
    assert number.isdecimal(), "Kubernetes compares the user's number"
    assert int(number) > 0
    assert f"--uid {number} " in steps["RUN"]
    assert "pip uninstall --yes" in steps["RUN"]
    assert not any(re.search(r"apt-get|pip (install|wheel)|--chmod", arguments) for _, arguments in final)
    assert [arguments for instruction, arguments in final if instruction in ("COPY", "ADD")] == [
        "--from=build /opt/consentd /opt/consentd"
    ]
    copied = [arguments.split()[:-1] for instruction, arguments in build if instruction == "COPY"]
    assert all((ROOT / source).exists() for sources in copied for source in sources)


def test_the_image_s_paths_and_ports_are_those_of_the_configuration() -> None:
    steps, options = dict(stages()[1]), installed()
    assert steps["CMD"] == f'["serve", "--config", "{ETC}/consentd.toml"]'
    assert steps["ENTRYPOINT"] == '["consentd"]'
    assert steps["VOLUME"] == f'["{options.ledger.data_dir}", "{options.keys.log_key_file.parent}"]'
    ports = [sections.parse_listen(each.listen)[1] for each in (options.grpc, options.http)]
    assert steps["EXPOSE"].split() == [str(port) for port in ports]
    assert f"HEALTH_URL=http://{options.http.listen}/healthz" in [text for _, text in stages()[1]]


def test_the_health_check_succeeds_while_the_daemon_serves_and_fails_afterwards(tmp_path: Path) -> None:
    command = json.loads(dict(stages()[1])["HEALTHCHECK"].partition("CMD ")[2])
    assert command[0] == "python"

    def status(port: int) -> int:
        environment = {"HEALTH_URL": f"http://127.0.0.1:{port}/healthz"}
        done = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True, check=False)
        return done.returncode

    with running_daemon(tmp_path) as running:
        port = running.daemon.http_port
        assert status(port) == 0
        state = running.daemon.service_state
        kept, state.services = state.services, None
        assert status(port) == 1, "the daemon drains"
        state.services = kept
    assert status(port) == 1, "nothing listens"


def test_the_runbook_mounts_what_the_image_declares() -> None:
    section = RUNBOOK[RUNBOOK.index("## Container\n") :].split("\n## ")[0]
    for path in re.findall(r'"(/[^"]+)"', dict(stages()[1])["VOLUME"]):
        assert f":{path}" in section, path
    assert "--read-only" in section
    assert "--cap-drop" in section
