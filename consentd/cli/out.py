"""Write answers to stdout and talk to stderr."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from consentd.errors import ConsentdError, StorageError, VerificationError

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # not: tab, line feed

DONE = PROVEN = 0
REFUSED = DISPROVED = 1
UNTOLD = 2


class Progress(Protocol):
    """Told how far a long work has come."""

    def __call__(self, done: int, total: int, /) -> None:
        """Say that *done* of *total* is done."""


@contextmanager
def _writing() -> Iterator[None]:
    """Say as StorageError that an answer does not arrive; that nobody reads it any more is no error of ours."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise StorageError(f"answer cannot be written: {error.strerror}") from error


def drop_output() -> None:
    """Have nothing of the answer written any more, not while the interpreter shuts down either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(text: str) -> str:
    """Write as numbers what would steer the terminal: much of what is shown was written by others."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Out:
    """Where a verb's words go.

    Attributes:
        as_json: one JSON object a line on stdout, in place of text.
        lang: ``ko`` or ``en``, for text.
    """

    def __init__(self, *, as_json: bool, lang: str) -> None:
        self.as_json = as_json
        self.lang = lang

    def answer(self, text: str, **fields: object) -> None:
        """Write one part of the answer: *text* for people, *fields* for programs."""
        line = json.dumps(fields, ensure_ascii=False) if self.as_json else _plain(text)
        self.lines(line)

    def lines(self, text: str) -> None:
        """Write lines of the answer that are made already."""
        with _writing():
            sys.stdout.write(text + "\n")

    def flush(self) -> None:
        """Have all that was answered arrive."""
        with _writing():
            sys.stdout.flush()

    def talk(self, text: str) -> None:
        """Write a line of talk."""
        sys.stderr.write(_plain(text) + "\n")

    def fault(self, error: ConsentdError) -> None:
        """Write what went wrong, and what it is called."""
        if isinstance(error, VerificationError):
            self.talk(f"disproved: {error}")
        else:
            self.talk(f"error: {error} ({error.reason})")
        for note in getattr(error, "__notes__", ()):
            self.talk(note)

    def in_words(self, ko: str, en: str) -> str:
        """Return one of two texts, by the language."""
        return ko if self.lang == "ko" else en

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Show a bar on stderr while a long work lasts, where that is a terminal and rich is installed."""
        bars = None
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import Progress as Bars

                bars = Bars(console=Console(file=sys.stderr), transient=True)
            except ModuleNotFoundError:
                bars = None
        if bars is None:
            yield lambda done, total: None
            return
        with bars:
            task = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
