"""Compare two checkouts: run the benchmarks of both in turn, so that a change of the machine's speed affects both.

The first round begins with the old checkout, the second with the new one, and so on: old new new old old new. So a
machine that becomes slower or faster during the comparison favours neither.

Each checkout runs its own ``benchmarks`` package in a new process and writes its JSON, which is read here. So the other
checkout may be of any version that writes this JSON. It need not have the newer options, nor every case.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.pace import measure_pace
from benchmarks.report import ROOT, machine, number

NO_WORSE = 0.95
"""A new figure counts as no worse from this ratio on."""


@dataclass(slots=True)
class Compared:
    """One figure of both checkouts.

    Attributes:
        is_rate: a larger figure is better; else a smaller one.
        old, new: the figure of each round, in order.
    """

    case: str
    name: str
    unit: str
    is_rate: bool
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Return how many times as good the new median is as the old one: 2 is twice the rate, or half the time."""
        old, new = median(self.old), median(self.new)
        better, worse = (new, old) if self.is_rate else (old, new)
        return better / worse if worse else 1.0


def compare(
    other: Path, arguments: Sequence[str], *, only: Sequence[str], rounds: int, out: Path, console: Console
) -> Path:
    """Run both checkouts *rounds* times in turn, print a table, write JSON.

    Args:
        other: the root of the old checkout; this one is the new.
        arguments: options for the benchmarks of both.
        only: the cases to run; those that the other checkout does not have are left out.
        out: the directory of the JSON.

    Returns:
        The JSON file.

    Raises:
        RuntimeError: a run failed, or the two have no case in common.
    """
    sides = [("old", other.resolve()), ("new", ROOT)]
    cases = [case for case in only if all(case in cases_of(side) for _, side in sides)]
    if not cases:
        raise RuntimeError(f"no case of {', '.join(only)} is in both checkouts")
    options = [*arguments, *(part for case in cases for part in ("--only", case))]
    paces = [measure_pace()]
    found: dict[tuple[str, str, int], Compared] = {}
    about: list[dict[str, Any]] = []
    for number_of_round in range(1, rounds + 1):
        for which, side in sides if number_of_round % 2 else reversed(sides):
            print(f"round {number_of_round} of {rounds}: {side}", file=sys.stderr)
            document = _run(side, options)
            about.append({"side": which, "directory": str(side), **document["machine"]})
            for key, row in _keyed(document["rows"]):
                one = found.setdefault(key, _compared(row, is_repeated=key[2] > 0))
                (one.old if which == "old" else one.new).append(row["value"])
        paces.append(measure_pace())
    rows = [one for one in found.values() if one.old and one.new]
    show(rows, console)
    for one in found.values():
        if not (one.old and one.new):
            console.print(f"only in the {'old' if one.old else 'new'} checkout: {one.case}, {one.name}")
    console.print(f"pace at the start and after each round: {', '.join(f'{pace:.2f}' for pace in paces)}")
    return _write(rows, {**machine(), "paces": paces, "runs": about}, out)


def cases_of(checkout: Path) -> set[str]:
    """Return the cases that the benchmarks of a checkout have, from their ``--help``."""
    text = _execute(checkout, ["--help"])
    return set(re.findall(r"[\w-]+", text.partition("--only {")[2].partition("}")[0]))


def show(rows: Sequence[Compared], console: Console) -> None:
    """Print one line for each figure; the ratio is marked where the new one is worse."""
    table = Table(title="old against new", title_justify="left")
    table.add_column("case")
    table.add_column("what", ratio=1)
    for title in ("old", "new", "unit", "new is × as good", "old, min–max", "new, min–max"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in rows:
        mark = "" if one.ratio >= NO_WORSE else " ✗"
        table.add_row(
            one.case, one.name, number(median(one.old)), number(median(one.new)), one.unit, f"{one.ratio:.2f}{mark}",
            *(f"{number(min(each))}–{number(max(each))}" for each in (one.old, one.new)),
        )  # fmt: skip
    console.print(table)


def _keyed(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[str, str, int], dict[str, Any]]]:
    """Yield each row with a key that is the same in every run.

    A name may contain a number that differs between runs, such as a ledger's size, and two boundaries have the same
    names. So the key is the case, the name without numbers, and how many rows with these two came before.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        plain = (row["case"], re.sub(r"\d[\d,]*", "#", row["name"]))
        yield (*plain, seen[plain]), row
        seen[plain] += 1


def _compared(row: dict[str, Any], *, is_repeated: bool) -> Compared:
    is_rate = "/s" in row["unit"] or row["at_least"] is not None
    name = f"{row['name']}; {row['boundary']}" if is_repeated else row["name"]
    return Compared(row["case"], name, row["unit"], is_rate)


def _run(checkout: Path, options: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="consentd-bench-") as directory:
        _execute(checkout, [*options, "--out", directory])
        (file,) = Path(directory).iterdir()
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return document


def _execute(checkout: Path, options: Sequence[str]) -> str:
    """Run a checkout's benchmarks with its own Python, or with this one where it has none; return its stdout."""
    own = checkout / ".venv" / "bin" / "python"
    paths = os.pathsep.join((str(checkout), str(checkout / "clients" / "python")))
    command = [str(own if own.exists() else sys.executable), "-m", "benchmarks", *options]
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "300"}
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks of {checkout} ended with status {done.returncode}")
    return done.stdout


def _write(rows: Sequence[Compared], about: dict[str, Any], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-against.json"
    document = {"machine": about, "rows": [{**asdict(one), "ratio": one.ratio} for one in rows]}
    file.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return file
