"""Compare two checkouts: a daemon of each stays up, and both are measured in turn, a short load at a time.

So a change of the machine's speed, and the difference between one start of a daemon and the next, affect both alike.
The first round begins with the old checkout, the second with the new one, and so on. The ratio of a figure is taken
within each round; the median of the rounds' ratios decides.

Each checkout runs its own ``benchmarks`` package in its own process, through ``benchmarks/side.py`` of this one. So the
other checkout need not have the newer options, nor every case.
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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Self

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
    def ratios(self) -> list[float]:
        """Return for each round how many times as good the new figure is: 2 is twice the rate, or half the time."""
        pairs = zip(self.new, self.old, strict=True) if self.is_rate else zip(self.old, self.new, strict=True)
        return [better / worse if worse else 1.0 for better, worse in pairs]

    @property
    def ratio(self) -> float:
        """Return the median of ``ratios``."""
        return median(self.ratios)


class Side:
    """The process that runs the benchmarks of one checkout; a ``with`` block ends it."""

    def __init__(self, which: str, checkout: Path, options: Sequence[str], directory: Path) -> None:
        """Start it; *directory* is for its ledgers."""
        self.which, self.checkout = which, checkout
        directory.mkdir()
        command = [_python(checkout), str(ROOT / "benchmarks" / "side.py"), str(directory), *options]
        self._process = subprocess.Popen(
            command, cwd=checkout, env=_environment(checkout), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, case: str) -> list[dict[str, Any]] | None:
        """Run the first load of *case*; return the rows if the case has ended, else None.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"benchmarks of {self.checkout} ended with status {self._process.wait()}")
        if answer == "turn":
            return None
        rows: list[dict[str, Any]] = json.loads(answer)
        return rows

    def resume(self) -> list[dict[str, Any]] | None:
        """Run the next load of the case that has begun; the result is that of ``begin``."""
        return self.begin("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__(None, None, None)  # closes the pipes, and then the process ends


def run_alternately(sides: Sequence[Side], case: str) -> dict[str, list[dict[str, Any]]]:
    """Run a case of all sides, one load of each in turn; return the rows of each."""
    rows: dict[str, list[dict[str, Any]]] = {}
    begun: set[str] = set()
    while len(rows) < len(sides):
        for side in sides:
            if side.which in rows:
                continue
            found = side.resume() if side.which in begun else side.begin(case)
            begun.add(side.which)
            if found is not None:
                rows[side.which] = found
    return rows


def compare(
    other: Path,
    arguments: Sequence[str],
    *,
    only: Sequence[str],
    rounds: int,
    out: Path,
    console: Console,
    directory: Path | None = None,
) -> Path:
    """Run each case of both checkouts *rounds* times in turn, print a table, write JSON.

    Args:
        other: the root of the old checkout; this one is the new.
        arguments: options for the benchmarks of both.
        only: the cases to run; those that the other checkout does not have are left out.
        out: the directory of the JSON.
        directory: where the ledgers are built; None: where temporary files are.

    Returns:
        The JSON file.

    Raises:
        RuntimeError: the benchmarks of a checkout failed, or the two have no case in common. If they fail after the
            first round, the table and the JSON of the rounds before come first.
    """
    sides = [("old", other.resolve()), ("new", ROOT)]
    cases = [case for case in only if all(case in cases_of(side) for _, side in sides)]
    if not cases:
        raise RuntimeError(f"no case of {', '.join(only)} is in both checkouts")
    paces = [measure_pace()]
    found: dict[tuple[str, str, int], Compared] = {}
    failed: RuntimeError | None = None
    with tempfile.TemporaryDirectory(prefix="consentd-bench-", dir=directory) as made, ExitStack() as stack:
        running = [stack.enter_context(Side(which, side, arguments, Path(made) / which)) for which, side in sides]
        for number_of_round in range(1, rounds + 1):
            ordered = running if number_of_round % 2 else running[::-1]
            try:
                _add_round(found, ordered, cases, f"round {number_of_round} of {rounds}")
            except RuntimeError as fault:
                if number_of_round == 1:
                    raise
                failed = fault  # what the earlier rounds found is worth a table
                break
            paces.append(measure_pace())
    # A case may have a figure in some rounds only: nothing can be compared with it.
    rows = [one for one in found.values() if len(one.old) == len(one.new)]
    show(rows, console)
    for one in found.values():
        if one not in rows:
            more = "old" if len(one.old) > len(one.new) else "new"
            console.print(f"only in the {more} checkout: {one.case}, {one.name}")
    console.print(f"pace at the start and after each round: {', '.join(f'{pace:.2f}' for pace in paces)}")
    file = _write(rows, {**machine(), "paces": paces, "against": str(sides[0][1])}, out)
    if failed:
        raise RuntimeError(f"{failed}; the {len(paces) - 1} rounds before it are in {file}")
    return file


def _add_round(
    found: dict[tuple[str, str, int], Compared], ordered: Sequence[Side], cases: Sequence[str], name: str
) -> None:
    """Run one round, and add its figures to *found* once all of it has ended."""
    rows: list[tuple[str, list[dict[str, Any]]]] = []
    for case in cases:
        print(f"{name}: {case}, {ordered[0].which} first", file=sys.stderr)
        rows += run_alternately(ordered, case).items()
    for which, rows_of_side in rows:
        for key, row in _keyed(rows_of_side):
            one = found.setdefault(key, _compared(row, is_repeated=key[2] > 0))
            (one.old if which == "old" else one.new).append(row["value"])


def cases_of(checkout: Path) -> set[str]:
    """Return the cases that the benchmarks of a checkout have, from their ``--help``."""
    text = _execute(checkout, ["--help"])
    return set(re.findall(r"[\w-]+", text.partition("--only {")[2].partition("}")[0]))


def show(rows: Sequence[Compared], console: Console) -> None:
    """Print one line for each figure; the ratio is marked where the new one is worse."""
    table = Table(title="old against new", title_justify="left")
    table.add_column("case")
    table.add_column("what", ratio=1)
    for title in ("old", "new", "unit", "new is × as good", "min–max"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in rows:
        mark = "" if one.ratio >= NO_WORSE else " ✗"
        table.add_row(
            one.case, one.name, number(median(one.old)), number(median(one.new)), one.unit, f"{one.ratio:.2f}{mark}",
            f"{min(one.ratios):.2f}–{max(one.ratios):.2f}",
        )  # fmt: skip
    console.print(table)


def _keyed(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[str, str, int], dict[str, Any]]]:
    """Yield each row with a key that is the same in every run.

    A name may contain a number that differs between runs, such as a ledger's size, and two boundaries have the same
    names. So the key is the case, the name without numbers, and how many rows with these two came before.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for row in chain.from_iterable((one, *_processor_time(one)) for one in rows):
        plain = (row["case"], re.sub(r"\d[\d,]*", "#", row["name"]))
        yield (*plain, seen[plain]), row
        seen[plain] += 1


def _processor_time(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the processor time that the note of a load states: other programs on the machine change it the least."""
    found = re.search(r"server's processor time ([\d,]+) µs a call", row.get("note", ""))
    if found:
        value = float(found[1].replace(",", ""))
        yield {**row, "name": f"{row['name']}: processor time a call", "value": value, "unit": "µs", "at_least": None}


def _compared(row: dict[str, Any], *, is_repeated: bool) -> Compared:
    is_rate = "/s" in row["unit"] or row["at_least"] is not None
    name = f"{row['name']}; {row['boundary']}" if is_repeated else row["name"]
    return Compared(row["case"], name, row["unit"], is_rate)


def _python(checkout: Path) -> str:
    """Return a checkout's own Python, or this one where it has none."""
    own = checkout / ".venv" / "bin" / "python"
    return str(own if own.exists() else sys.executable)


def _environment(checkout: Path) -> dict[str, str]:
    paths = os.pathsep.join((str(checkout), str(checkout / "clients" / "python")))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "COLUMNS": "300"}


def _execute(checkout: Path, options: Sequence[str]) -> str:
    """Run a checkout's benchmarks; return its stdout."""
    command = [_python(checkout), "-m", "benchmarks", *options]
    environment = _environment(checkout)
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks of {checkout} ended with status {done.returncode}")
    return done.stdout


def _write(rows: Sequence[Compared], about: dict[str, Any], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-against.json"
    document = {"machine": about, "rows": [{**asdict(one), "ratio": one.ratio, "ratios": one.ratios} for one in rows]}
    file.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return file
