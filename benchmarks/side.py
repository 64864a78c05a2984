"""Run the benchmarks of one checkout, a short load at a time, when ``benchmarks.against`` says so.

This file runs with another checkout's ``benchmarks`` package too, so it uses only what older ones have as well. It
keeps one daemon for all rounds, because the speed of a daemon differs by up to two times from start to start.

Lines on stdin and stdout: a case's name begins the case; an empty line continues it. The answer is ``turn`` when a load
has ended and the case has not, or the rows of the case as JSON.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import benchmarks.__main__ as own
from benchmarks.over_wire import Bench
from benchmarks.server import Server

OWN_DAEMONS = {"start", "publishing", "audit", "mtls"}
"""The cases that start daemons of their own on the ledger; the lasting daemon stops before them."""
UNDIVIDED = {"revoke", "published"}
"""The cases whose loads run beside each other, so the other side waits until the whole case has ended."""


class LastingDaemon:
    """The daemon that lasts for all rounds, and the turn of this side."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._server: Server | None = None
        self.is_divided = False

    def send(self, line: str) -> None:
        """Send a line."""
        print(line, file=self._answers, flush=True)

    @contextmanager
    def server(self, bench: Bench, *, pinned: bool = True) -> Iterator[Server]:
        """Return the daemon, started with the first call; all its threads are bound to the cores asked for."""
        core = bench.server_core if pinned else None
        if self._server is None:
            self._server = Server(bench.world.config_file, core)
        process = self._server._spawned.process.pid  # noqa: SLF001  # only comparisons need it
        cores = os.sched_getaffinity(0) if core is None else {core}
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
        yield self._server

    def stop(self) -> None:
        """Stop the daemon, if it runs."""
        if self._server is not None:
            self._server.__exit__()
            self._server = None

    def await_other(self) -> None:
        """Let the other side run its load; return when it is this side's turn again."""
        if self.is_divided:
            self.send("turn")
            sys.stdin.readline()


def main() -> None:
    """Answer lines until stdin ends; the arguments are a directory for the ledgers, and the benchmarks' options."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lasting = LastingDaemon(answers)
    directory = Path(sys.argv[1])
    options = own.parse(sys.argv[2:])
    bench: Any = None
    run, server = Bench.run, Bench.server

    def run_and_await(self: Bench, *arguments: Any, **more: Any) -> Any:
        loaded = run(self, *arguments, **more)
        lasting.await_other()
        return loaded

    def lasting_server(self: Bench, *, pinned: bool = True) -> Any:
        return lasting.server(self, pinned=pinned)

    Bench.run = run_and_await  # type: ignore[method-assign]
    try:
        for line in sys.stdin:
            case = line.strip()
            lasting.is_divided = case not in UNDIVIDED
            if case in own.IN_PROCESS:
                with tempfile.TemporaryDirectory(dir=directory) as made:
                    rows = own._IN_PROCESS[case](options, Path(made))  # noqa: SLF001  # older ones have no other name
            else:
                bench = bench or own._make_bench(options, directory / "world")  # noqa: SLF001
                if case in OWN_DAEMONS:
                    lasting.stop()
                Bench.server = server if case in OWN_DAEMONS else lasting_server  # type: ignore[method-assign]
                rows = own.OVER_WIRE[case](bench)
            lasting.send(json.dumps([{**asdict(row), "samples": ()} for row in rows]))
    finally:
        lasting.stop()  # this process ends only when the daemon has ended


if __name__ == "__main__":
    main()
