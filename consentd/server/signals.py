"""Receive the process's signals as values, so that no signal handler does work that can fail.

A handler runs between any two steps of the main thread, and an exception in it ends the main thread. So the handlers
here do nothing. The interpreter writes the number of each signal to a pipe, whichever thread the system interrupts, and
the main thread reads the pipe when it is ready. A main thread that waited for a lock instead could miss a signal that
interrupts another thread, or that arrives just before it begins to wait.

This module imports only the standard library, because ``consentd serve`` receives signals before it imports the rest:
without a handler SIGHUP ends a process.
"""

import os
import signal
from typing import Self

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """The signals that this process has received and not handled yet."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    @classmethod
    def receive(cls) -> Self:
        """Begin to receive SIGTERM, SIGINT and SIGHUP. Call this on the main thread."""
        reads, writes = os.pipe()
        os.set_blocking(writes, False)  # a full pipe has signals enough, and a handler must not wait
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        for number in _NUMBERS:
            signal.signal(number, _do_nothing)
        return cls(reads)

    def next(self) -> int:
        """Wait for the next signal that was received, and return its number."""
        while (number := os.read(self._pipe, 1)[0]) not in _NUMBERS:
            pass  # a signal that another part of the program handles
        return number


def _do_nothing(_number: int, _frame: object) -> None:
    pass
