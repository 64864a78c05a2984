"""Show what was measured of the peers: a table on the terminal, JSON and a chart in a directory."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.chart import draw
from benchmarks.peers.measure import Figures
from benchmarks.report import number

OVER_WIRE = {
    "one question, /s": ("one question, /s",),
    "varied, /s": ("varied, /s",),
    "… p50 / p99 ms": ("varied, p50 ms", "varied, p99 ms"),
    "unloaded p50 / p99 ms": ("unloaded, p50 ms", "unloaded, p99 ms"),
    "permit / no permit, p50 ms": ("unloaded, permit, p50 ms", "unloaded, no permit, p50 ms"),
    "fixed rate p50 / p99 ms": ("paced, p50 ms", "paced, p99 ms"),
    "batch of 100, decisions/s": ("batch, decisions/s",),
}
IN_PROCESS = {"p50 / p99 µs": ("in process, p50 µs", "in process, p99 µs")}
"""Columns of the tables, each with the figures that it shows."""
RATE = "varied, /s"


def show(found: Sequence[Figures], console: Console) -> None:
    """Print a table of the servers and one of what answers in process; what is missing has its reason."""
    for title, is_embedded, columns in (("over the wire", False, OVER_WIRE), ("in process", True, IN_PROCESS)):
        rows = [figures for figures in found if figures.is_embedded is is_embedded]
        if not rows:
            continue
        table = Table(title=f"the same question, {title}: medians of the rounds", title_justify="left")
        table.add_column("peer", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right")
        for figures in rows:
            if figures.missing:
                table.add_row(figures.title, "–")
            else:
                table.add_row(figures.title, *(_cell(figures, names) for names in columns.values()))
        console.print(table)
    for figures in found:
        if figures.missing:
            console.print(f"not measured: {figures.title}: {figures.missing}")


def _cell(figures: Figures, names: Sequence[str]) -> str:
    values = [figures.value(name) for name in names]
    return " / ".join("–" if value is None else number(value) for value in values)


def write(found: Sequence[Figures], about: dict[str, Any], directory: Path) -> tuple[Path, Path]:
    """Write JSON and chart; return the two files. *about* describes machine and settings, and names no host."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": about,
        "peers": [
            {**asdict(figures), "medians": {name: figures.value(name) for name in figures.rounds}} for figures in found
        ],
    }
    as_json, chart = directory / "peers.json", directory / "peers.svg"
    as_json.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    measured = [figures for figures in found if RATE in figures.rounds]
    bars = [
        (figures.title, figures.value(RATE) or 0.0, min(figures.rounds[RATE]), max(figures.rounds[RATE]))
        for figures in sorted(measured, key=lambda one: -(one.value(RATE) or 0.0))
    ]
    if bars:
        subtitle = (
            f"checks a second, {about['questions']:,} different questions, 32 in flight, one core for the server; "
            f"line: least to most of {about['rounds']} rounds; {about['cpu']}"
        )
        chart.write_text(draw("The same consent question", subtitle, bars), encoding="utf-8")
    return as_json, chart
