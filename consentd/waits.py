"""Let callers wait for a size, of the policy table or of the public checkpoint, without a thread for each of them.

A caller gets a future. One thread for all callers completes it when the size is reached, or when the wait must end. A
completed future does not say which: the caller reads the size again.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Wait:
    """A caller that waits for *size*, until the time *until_s* (time.monotonic)."""

    size: int
    until_s: float
    future: "Future[None]" = field(default_factory=Future)


class SizeWaits:
    """The waits for one size, which only grows. Any thread may call the methods."""

    def __init__(
        self, name: str, read_size: Callable[[], int], *, is_hopeless: Callable[[], bool] = lambda: False,
        recheck_s: float | None = None,
    ) -> None:  # fmt: skip
        """*name*: of the thread, which begins with the first wait.

        Args:
            read_size: returns the size now.
            is_hopeless: returns whether all waits must end, because nobody knows when the size will grow.
            recheck_s: how often to ask ``is_hopeless`` while somebody waits; None: only when something has changed.
        """
        self._read_size, self._is_hopeless, self._recheck_s = read_size, is_hopeless, recheck_s
        # This lock guards the attributes below, and signals their changes. when, notify, end and _complete take it.
        self._changed = threading.Condition()
        self._waits: list[_Wait] = []
        self._has_ended = False
        self._thread: threading.Thread | None = None
        self._name = name

    def when(self, size: int, timeout_s: float) -> "Future[None]":
        """Return a future that is done when *size* is reached, or when waiting must end.

        The wait ends after *timeout_s* too, and at ``end``. The caller may cancel the future.
        """
        wait = _Wait(size, time.monotonic() + timeout_s)
        with self._changed:
            if self._has_ended:
                wait.future.set_result(None)
                return wait.future
            if self._thread is None:
                self._thread = threading.Thread(target=self._complete, name=self._name, daemon=True)
                self._thread.start()
            if not self._waits or self._recheck_s is None or timeout_s < self._recheck_s:
                self._changed.notify_all()  # otherwise the thread looks again soon enough
            self._waits.append(wait)
        return wait.future

    def notify(self) -> None:
        """Note that the size may have grown. Call this after ``read_size`` returns the new size."""
        # INVARIANT: no wait is missed. One that is added after this look wakes the thread, which reads the new size.
        if self._waits:
            with self._changed:
                self._changed.notify_all()

    def end(self) -> None:
        """End every wait, and all later ones, because the size will not grow any more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _complete(self) -> None:
        """Complete the futures, on the thread of this object."""
        while True:
            with self._changed:
                done, self._waits = self._split(time.monotonic())
                if not done:
                    if self._has_ended:
                        return
                    self._changed.wait(self._pause_s())
            for wait in done:
                if wait.future.set_running_or_notify_cancel():
                    wait.future.set_result(None)

    def _pause_s(self) -> float | None:
        """Return how long to wait for a change; None: until one comes. The caller holds ``_changed``."""
        next_s = min((wait.until_s for wait in self._waits), default=None)
        if next_s is None:
            return None
        left_s = max(0.0, next_s - time.monotonic())
        return left_s if self._recheck_s is None else min(self._recheck_s, left_s)

    def _split(self, now_s: float) -> tuple[list[_Wait], list[_Wait]]:
        """Return the waits that must end, and the others. The caller holds ``_changed``."""
        if self._has_ended or (self._waits and self._is_hopeless()):
            return self._waits, []
        size = self._read_size()
        done, left = list[_Wait](), list[_Wait]()
        for wait in self._waits:
            (done if wait.size <= size or wait.until_s <= now_s or wait.future.cancelled() else left).append(wait)
        return done, left
