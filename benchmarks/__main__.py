"""Measure consentd; see the package's text."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import accesses, audits, in_process, opening, over_wire, tag_map
from benchmarks.over_wire import Bench
from benchmarks.report import ROOT, Row, machine, show, write
from benchmarks.world import make_world

SUBJECTS = 250_000
QUICK_SUBJECTS = 2_000
TAGS = (1_000_000, 10_000_000)
ENTRIES = 1_000_000
CASES = (
    "evaluator", "map", "open", "check", "batch", "history", "access", "signed", "published", "revoke", "start", "audit"
)  # fmt: skip


def main() -> int:
    """Run the cases asked for. A wrong answer ends it; a bar that is missed is only marked, for machines differ."""
    options = parse(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 140)
    about = machine()
    with tempfile.TemporaryDirectory(prefix="consentd-bench-", dir=options.dir) as directory:
        rows = measure(options, Path(directory), lambda text: print(text, file=sys.stderr))
    show(rows, console)
    file = write(rows, {**about, "subjects": options.size, "quick": options.quick}, options.out)
    console.print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}; written to {file}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure consentd.")
    parser.add_argument("--quick", action="store_true", help="a small ledger and short loads: a minute in all")
    parser.add_argument("--only", choices=CASES, action="append", help="this case only; may be given more than once")
    parser.add_argument("--size", type=int, help=f"subjects of the ledger, 4 entries each; {SUBJECTS:,} by default")
    parser.add_argument("--tags", type=int, action="append", help="of the map, 1 and 10 million by default; repeatable")
    parser.add_argument("--map-bits", type=int, action="append", help="of the map, by the tags by default; repeatable")
    parser.add_argument("--entries", type=int, help=f"of the ledger that `open` opens; {ENTRIES:,} by default")
    parser.add_argument("--seconds", type=float, help="how long each load is measured; 6 by default")
    parser.add_argument("--dir", type=Path, help="where ledgers are made meanwhile; a disk that honours fsync")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out", help="where the JSON goes")
    options = parser.parse_args(arguments)
    options.size = options.size or (QUICK_SUBJECTS if options.quick else SUBJECTS)
    options.tags = options.tags or ([options.size] if options.quick else TAGS)
    options.entries = options.entries or (options.size if options.quick else ENTRIES)
    options.seconds = options.seconds or (1.5 if options.quick else 6.0)
    return options


def measure(options: argparse.Namespace, directory: Path, tell: Callable[[str], None]) -> list[Row]:
    """Run the cases in *directory*."""
    wanted = options.only or CASES
    rows: list[Row] = []
    if "evaluator" in wanted:
        tell("evaluator")
        loops = 2_000 if options.quick else 20_000
        rows += in_process.measure_evaluator(loops=loops)
        for subjects in (10_000,) if options.quick else (10_000, 1_000_000):
            rows += in_process.measure_table(directory / "table", subjects=subjects, loops=loops)
    if "map" in wanted:
        tell("map")
        batches = 10 if options.quick else 60
        for tags in options.tags:
            for bits in options.map_bits or [None]:
                rows += tag_map.measure_map(directory / "map", tags=tags, batches=batches, map_bits=bits)
    if "open" in wanted:
        tell(f"opening: building a ledger of {options.entries:,} entries")
        rows += opening.measure_open(directory / "open", entries=options.entries)
    over = [name for name in wanted if name in _OVER_WIRE]
    if over:
        tell(f"building a ledger of {options.size:,} subjects")
        world = make_world(directory / "world", subjects=options.size)
        cores = sorted(os.sched_getaffinity(0))
        bench = Bench(
            world=world,
            seconds=options.seconds,
            questions=2_000 if options.quick else 20_000,
            server_core=cores[0] if len(cores) > 1 else None,
            load_core=cores[1] if len(cores) > 1 else None,
        )
        for name in over:
            tell(name)
            rows += _OVER_WIRE[name](bench)
        shutil.rmtree(world.directory)
    return rows


_OVER_WIRE: dict[str, Callable[[Bench], list[Row]]] = {
    "check": over_wire.measure_check,
    "batch": over_wire.measure_batch,
    "history": over_wire.measure_history,
    "access": accesses.measure_access,
    "signed": accesses.measure_signed,
    "published": accesses.measure_published,
    "revoke": over_wire.measure_revoke,
    "start": over_wire.measure_start,
    "audit": audits.measure_audit,
}


if __name__ == "__main__":
    sys.exit(main())
