"""Measure in a process of its own: nothing read before, and memory that is nobody else's."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def run_apart(call: Callable[..., T], *arguments: object) -> T:
    """Call in a new process; returns what it returns, or raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def drop_pages(directory: Path) -> None:
    """Ask the system to forget the pages of a directory's files, so that reads go to the disk."""
    for file in directory.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def own_bytes() -> int:
    """Return the memory of this process that no file backs."""
    return _field("RssAnon")


def reset_peak() -> None:
    """Begin to watch for ``peak_bytes``."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Return the most memory since ``reset_peak``, less the files mapped now."""
    return _field("VmHWM") - _field("RssFile")


def _field(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name + ":"))
