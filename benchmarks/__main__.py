"""Run the benchmarks: ``python -m benchmarks --help``."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks import (
    accesses,
    audits,
    campaigns,
    in_process,
    limits,
    mtls,
    negatives,
    over_wire,
    publishing,
    recovery,
    shapes,
    tag_map,
)
from benchmarks.against import compare
from benchmarks.over_wire import Bench
from benchmarks.pace import measure_pace, scale_bars
from benchmarks.peers import run as peers
from benchmarks.report import ROOT, Row, machine, show, write
from benchmarks.world import make_world

SUBJECTS = 250_000
QUICK_SUBJECTS = 2_000
TAGS = (1_000_000, 10_000_000)
ENTRIES = 1_000_000
ROUNDS = 4
IN_PROCESS = ("evaluator", "campaigns", "map", "open")
OVER_WIRE: dict[str, Callable[[Bench], list[Row]]] = {
    "check": over_wire.measure_check,
    "batch": over_wire.measure_batch,
    "limit": limits.measure_limit,
    "history": over_wire.measure_history,
    "access": accesses.measure_access,
    "repeat": accesses.measure_repeat,
    "signed": accesses.measure_signed,
    "published": accesses.measure_published,
    "mtls": mtls.measure_mtls,
    "revoke": over_wire.measure_revoke,
    "start": over_wire.measure_start,
    "negatives": negatives.measure_negatives,
    "publishing": publishing.measure_publishing,
    "audit": audits.measure_audit,
}
CASES = (*IN_PROCESS, *OVER_WIRE)
ONE_PERSON = {"limit"}
"""The cases whose figures do not depend on the size of the ledger, because they ask about one person."""


def main() -> int:
    """Run the cases asked for. A wrong answer ends the run; a missed bar is only marked, because machines differ."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if options.against is not None:
        passed = without(arguments, ("--against", "--rounds", "--only", "--out"))
        file = compare(
            options.against,
            passed,
            only=options.only or CASES,
            rounds=options.rounds,
            out=options.out,
            console=console,
            directory=options.dir,
        )
        console.print(f"written to {file}")
        return 0
    if options.peers is not None:
        return peers.compare(options, console)
    about = machine()
    paces = [measure_pace()]
    with tempfile.TemporaryDirectory(prefix="consentd-bench-", dir=options.dir) as directory:
        rows = measure(options, Path(directory), lambda: paces.append(measure_pace()))
    paces.append(measure_pace())
    rows = scale_bars(rows, paces)
    show(rows, console)
    file = write(rows, {**about, "subjects": options.size, "quick": options.quick, "paces": paces}, options.out)
    console.print(
        f"pace during the run: {', '.join(f'{pace:.2f}' for pace in paces)}; "
        "bars in seconds and per second are scaled by the median"
    )
    console.print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}; written to {file}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure consentd.", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a small ledger and short loads: a minute in all")
    parser.add_argument("--only", choices=CASES, action="append", help="this case only; may be given more than once")
    parser.add_argument("--size", type=int, help=f"subjects, 4 entries each; {SUBJECTS:,}, fewer for `limit` alone")
    parser.add_argument("--tags", type=int, action="append", help="of the map, 1 and 10 million by default; repeatable")
    parser.add_argument("--map-bits", type=int, action="append", help="of the map, by the tags by default; repeatable")
    parser.add_argument("--entries", type=int, help=f"of the ledger that `open` opens; {ENTRIES:,} by default")
    parser.add_argument("--seconds", type=float, help="how long each load is measured; 6 by default")
    parser.add_argument("--dir", type=Path, help="directory for the ledgers; use a disk that honours fsync")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out", help="where the JSON goes")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another checkout: both run in turn")
    parser.add_argument("--peers", nargs="*", metavar="NAME", choices=peers.NAMES, help="compare with other programs: "
                        f"all of {', '.join(peers.NAMES)} that are installed, or these")  # fmt: skip
    parser.add_argument("--people", type=int, help=f"of --peers, 3 consents each; {peers.PEOPLE:,} by default")
    parser.add_argument("--results", type=Path, default=peers.RESULTS, help="where JSON and chart of --peers go")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of --against and --peers; {ROUNDS} by default")
    options = parser.parse_args(arguments)
    of_one = options.only is not None and ONE_PERSON.issuperset(options.only)
    options.size = options.size or (QUICK_SUBJECTS if options.quick or of_one else SUBJECTS)
    options.tags = options.tags or ([options.size] if options.quick else TAGS)
    options.entries = options.entries or (options.size if options.quick else ENTRIES)
    options.seconds = options.seconds or (1.5 if options.quick else 6.0)
    return options


def without(arguments: list[str], names: tuple[str, ...]) -> list[str]:
    """Return *arguments* without these options and their values."""
    left: list[str] = []
    following = iter(arguments)
    for argument in following:
        if argument in names:
            next(following, None)
        elif argument.partition("=")[0] not in names:
            left.append(argument)
    return left


def measure(options: argparse.Namespace, directory: Path, at_half: Callable[[], None]) -> list[Row]:
    """Run the cases in *directory*; call *at_half* when half of them are done."""
    wanted = [name for name in CASES if name in (options.only or CASES)]
    bench: Bench | None = None
    rows: list[Row] = []
    for done, name in enumerate(wanted):
        if done == (len(wanted) + 1) // 2:
            at_half()
        _report(name)
        if name in IN_PROCESS:
            rows += _IN_PROCESS[name](options, directory)
            continue
        bench = bench or _make_bench(options, directory / "world")
        rows += OVER_WIRE[name](bench)
    if bench is not None:
        shutil.rmtree(bench.world.directory)
    return rows


def _report(text: str) -> None:
    print(text, file=sys.stderr)


def _evaluator(options: argparse.Namespace, directory: Path) -> list[Row]:
    loops = 2_000 if options.quick else 20_000
    rows = in_process.measure_evaluator(loops=loops)
    rows += shapes.measure_shapes(loops=max(1, loops // 1_000))
    for subjects in (10_000,) if options.quick else (10_000, 1_000_000):
        rows += in_process.measure_table(directory / "table", subjects=subjects, loops=loops)
    return rows


def _campaigns(options: argparse.Namespace, directory: Path) -> list[Row]:
    subjects = 10_000 if options.quick else 1_000_000
    return campaigns.measure_campaigns(directory / "campaigns", subjects=subjects, loops=20_000)


def _map(options: argparse.Namespace, directory: Path) -> list[Row]:
    run = partial(tag_map.measure_map, directory / "map", batches=10 if options.quick else 60)
    return [
        row for tags in options.tags for bits in options.map_bits or [None] for row in run(tags=tags, map_bits=bits)
    ]


def _open(options: argparse.Namespace, directory: Path) -> list[Row]:
    _report(f"building a ledger of {options.entries:,} entries")
    return recovery.measure_open(directory / "open", entries=options.entries)


_IN_PROCESS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {
    "evaluator": _evaluator,
    "campaigns": _campaigns,
    "map": _map,
    "open": _open,
}


def _make_bench(options: argparse.Namespace, directory: Path) -> Bench:
    _report(f"building a ledger of {options.size:,} subjects")
    cores = sorted(os.sched_getaffinity(0))
    return Bench(
        world=make_world(directory, subjects=options.size),
        seconds=options.seconds,
        questions=2_000 if options.quick else 20_000,
        server_core=cores[0] if len(cores) > 1 else None,
        load_core=cores[1] if len(cores) > 1 else None,
    )


if __name__ == "__main__":
    sys.exit(main())
