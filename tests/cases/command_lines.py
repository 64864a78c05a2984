"""The command line as tests call it: in this process, or as a process of its own."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from cases.daemons import config_text
from consentd import cli

ROOT = Path(__file__).parents[2]
OURS = ("CONSENTD_", "LC_", "LANG")
"""First parts of the environment variables that the command line reads."""

TOML = config_text(origin="consent.test/files", checkpoint_interval_ms=10)
"""A daemon's configuration."""


@dataclass(frozen=True)
class Result:
    """What one run of a verb left: status, stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects of the answer, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self) -> dict[str, Any]:
        (one,) = self.objects
        return one


@dataclass(frozen=True)
class CommandLine:
    """Runs verbs in this process, with no environment variables but these."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def given(self, **environment: str) -> "CommandLine":
        """Return a command line with further environment variables."""
        return replace(self, environment={**self.environment, **environment})

    def __call__(self, *argv: object, stdin: str | io.BufferedIOBase = "") -> Result:
        others = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        source = io.BytesIO(stdin.encode()) if isinstance(stdin, str) else stdin
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**others, **self.environment}, clear=True),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(source)),  # type: ignore[type-var]  # as io's own types
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                status = cli.main([str(one) for one in argv])
            except SystemExit as done:  # argparse's
                status = int(done.code or 0)
        return Result(status, out.getvalue(), err.getvalue())


def consentd(*argv: object, **options: Any) -> "subprocess.Popen[str]":
    """Start a verb as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONSENTD_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
    return subprocess.Popen(
        [sys.executable, "-m", "consentd.cli", *map(str, argv)], text=True, cwd=ROOT, env=environment, **options
    )
