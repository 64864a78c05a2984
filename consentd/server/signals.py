"""Receive the process's signals as values, so that no signal handler does work that can fail.

A handler runs between any two steps of the main thread, and an exception in it ends the main thread. So a handler here
only puts the signal's number into a queue, which cannot fail, and the main thread takes the numbers when it is ready.

This module imports only the standard library, because ``consentd serve`` receives signals before it imports the rest:
without a handler SIGHUP ends a process.
"""

import queue
import signal
from typing import Self


class Signals:
    """The signals that this process has received and not handled yet."""

    def __init__(self) -> None:
        # ``SimpleQueue.put`` may be called by a handler that interrupts another call of the same queue.
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()

    @classmethod
    def receive(cls) -> Self:
        """Begin to receive SIGTERM, SIGINT and SIGHUP. Call this on the main thread."""
        signals = cls()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: signals._received.put(received))
        return signals

    def next(self) -> int:
        """Wait for the next signal that was received, and return its number."""
        return self._received.get()
