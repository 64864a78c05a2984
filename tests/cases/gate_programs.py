"""Build the programs of ``consentd/gate``."""

import dataclasses
import http.client
import importlib.util
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running
from cases.fakes import HANG_S
from consentd.config import GateConfig
from consentd.metrics import Description
from consentd.server.gate_process import GateProcess

SOURCE = Path(__file__).parents[2] / "consentd" / "gate"
CARGO = shutil.which("cargo") or shutil.which("cargo", path=os.path.expanduser("~/.cargo/bin"))
GATE_METRICS = set(re.findall(r'"(consentd_gate_[a-z_]+)"', (SOURCE / "server/src/metrics.rs").read_text("utf-8")))
"""The metrics of the gate, which its own ``/metrics`` has."""


def gate_metrics() -> list[Description]:
    """Return what ``ops/grafana.py`` reads of them."""
    spec = importlib.util.spec_from_file_location("grafana", SOURCE.parents[1] / "ops" / "grafana.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[Description] = module.of_gate()
    return found


needs_cargo = pytest.mark.skipif(CARGO is None, reason="cargo is not installed")


@cache
def built(package: str, program: str) -> Path:
    """Build a program; its crates come from Cargo's cache or the registry, and Cargo.lock pins them.

    The test is skipped if neither has them.
    """
    target = Path(os.environ.get("CARGO_TARGET_DIR", SOURCE.parents[1] / "build" / "gate"))
    assert CARGO is not None
    command = [CARGO, "build", "--locked", "--profile", "checked", "--package", package, "--bin", program]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    done = subprocess.run(command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and "failed to download" in done.stderr:
        pytest.skip("crates are neither cached nor within reach")
    assert done.returncode == 0, done.stderr
    return target / "checked" / program


GATE = '[gate]\nprogram = "gate"\nlisten = "127.0.0.1:0"\n'
"""With it the daemon has a socket for the gate. The tests start the program themselves."""


def make_gate(running: Running, program: Path, **options: Any) -> GateProcess:
    """Return a gate of a running daemon, which is not started yet. *options*: of the section ``gate``."""
    services = running.daemon.service_state.services
    assert services is not None
    section = GateConfig(program=program, listen="127.0.0.1:0", **options)
    config, socket = dataclasses.replace(running.config, gate=section), running.daemon.gate_socket
    assert socket is not None, "the daemon's configuration has no gate"
    return GateProcess(program, config, services.vault, socket=socket)


def http_get(gate: GateProcess, path: str) -> tuple[int, str]:
    """Return the status and the body of an answer of the gate's HTTP address."""
    host, _, port = gate.http_address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=HANG_S)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
