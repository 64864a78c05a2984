"""Measure how fast this machine runs Python now, so that bars in seconds can be scaled to it.

Pace 1 is a machine on which CPython 3.11 adds up ``range(5_000_000)`` in a ``for`` loop in 0.35 s. Shared
machines change their pace during a run, so it is measured at the start, in the middle and at the end.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from benchmarks.report import Row

ADDITIONS = 5_000_000
PACE_1_S = 0.35
TIMES = ("µs", "ms", "s")


def measure_pace(additions: int = ADDITIONS) -> float:
    """Return the pace: 0.5 is a machine half as fast as one of pace 1.

    Args:
        additions: how many numbers are added up; fewer are faster and less precise.
    """
    started = time.perf_counter()
    total = 0
    for number in range(additions):
        total += number
    seconds = time.perf_counter() - started
    assert total == additions * (additions - 1) // 2
    return PACE_1_S / ADDITIONS * additions / seconds


def scale_bars(rows: Sequence[Row], paces: Sequence[float]) -> list[Row]:
    """Return *rows* with bars for the median of *paces*: rates and times are scaled, sizes and ratios are not."""
    pace = median(paces)
    return [_scaled(row, pace) for row in rows]


def _scaled(row: Row, pace: float) -> Row:
    if row.at_least is not None and "/s" in row.unit:
        return replace(row, at_least=row.at_least * pace)
    if row.at_most is not None and row.unit in TIMES:
        return replace(row, at_most=row.at_most / pace)
    return row
