"""Print results as a table, and write them as JSON with all samples and a description of the machine."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PACKAGES = ("grpcio", "protobuf", "rocksdict", "lmdb", "pynacl", "cryptography")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        case: the case it belongs to, as ``--only`` names it.
        value, unit: the figure.
        boundary: in process or over the wire, durable or not, with or without TLS, which cores.
        at_least, at_most: the bar, the value that the figure must reach; None: it has no such bar.
        note: percentiles, conditions, and what was checked.
        samples: the measurements from which the figure was computed, in *sample_unit*.
    """

    case: str
    name: str
    value: float
    unit: str
    boundary: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    samples: Sequence[float] = field(default=(), repr=False)
    sample_unit: str = ""

    @property
    def bar(self) -> str:
        """Return the bar as text, `≤ 8`; empty if there is none."""
        if self.at_least is not None:
            return f"≥ {number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {number(self.at_most)}"

    @property
    def held(self) -> bool | None:
        """Return whether the figure reaches its bar; None if it has none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


def number(value: float) -> str:
    """Format a figure with about three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percentile(samples: Sequence[float], fraction: float) -> float:
    """Return the sample that *share* of all samples are below; never a value between two samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0.0


def spread(samples_s: Sequence[float]) -> str:
    """Return p50, p99 and p99.9 of times in seconds, as milliseconds."""
    fractions = ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
    return " ".join(f"{name} {percentile(samples_s, fraction) * 1e3:.2f}" for fraction, name in fractions) + " ms"


def machine() -> dict[str, Any]:
    """Describe the machine, the versions and the commit."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "cpu": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rows as a table."""
    table = Table(title="consentd", title_justify="left", show_lines=False)
    table.add_column("case")
    table.add_column("what", ratio=3)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("bar", justify="right", no_wrap=True)
    table.add_column("note", ratio=4)
    last = ""
    for row in rows:
        mark = {None: "", True: " ✓", False: " ✗"}[row.held]
        figure = f"{number(row.value)} {row.unit}{mark}"
        note = f"{row.note}; {row.boundary}" if row.note else row.boundary
        table.add_row("" if row.case == last else row.case, row.name, figure, row.bar, note)
        last = row.case
    console.print(table)


def write(rows: Sequence[Row], about: dict[str, Any], directory: Path) -> Path:
    """Write rows, samples and machine as JSON; return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{about['time'].replace(':', '')}-{about['commit'] or 'unknown'}.json"
    document = {"machine": about, "rows": [{**asdict(row), "bar": row.bar, "held": row.held} for row in rows]}
    file.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return file
