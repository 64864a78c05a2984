"""Measure in a new process, which has read no file before and whose memory is used by nothing else."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening took: seconds of the store and of what is on it, and bytes of memory at the end and at the peak."""

    store_s: float
    seconds: float
    bytes: int
    peak_bytes: int


def run_apart(call: Callable[..., T], *arguments: object) -> T:
    """Call *call* in a new process; return its result, or raise its exception."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


class Spawned:
    """A new process with a pipe to this one. *target* is called with its end of the pipe, then the arguments."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=target, args=(child, *arguments))
        self.process.start()
        child.close()

    def receive(self) -> Any:
        """Return what the process sends; raise it if it is an exception."""
        found = self.pipe.recv()
        if isinstance(found, BaseException):
            raise found
        return found


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
    """Return how many bytes of this process's memory are not pages of files."""
    return _field("RssAnon")


def reset_peak() -> None:
    """Start the measurement of ``peak_bytes``."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Return the most memory in use since ``reset_peak``, without the pages of files mapped now."""
    return _field("VmHWM") - _field("RssFile")


def _field(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name + ":"))
