"""The output of verbs: answers on stdout, messages and progress bars on stderr, and exit statuses."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from consentd.errors import ConsentdError, MalformedError, StorageError, UnknownKeyError, VerificationError
from consentd.policy.language import is_korean

if TYPE_CHECKING:
    from consentd.verify.findings import Fault

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # but not tab or line feed

DONE = PROVEN = 0
REFUSED = DISPROVED = 1
UNDETERMINED = 2
UNDETERMINED_ERRORS = (MalformedError, UnknownKeyError)
"""Errors of bytes that are no evidence: without their format, or by an unknown key (verdicts.md, rules 4 and 6)."""
VERDICTS = {
    PROVEN: ("proven", "증명됨"),
    DISPROVED: ("disproved", "반증됨"),
    UNDETERMINED: ("not all could be determined", "판단 불가"),
}
"""Exit status → the verdict in English and in Korean."""


class Progress(Protocol):
    """A function that shows the progress of a long task."""

    def __call__(self, done: int, total: int, /) -> None:
        """Show that *done* of *total* parts are done."""


@contextmanager
def _writing() -> Iterator[None]:
    """Turn an error of writing stdout into StorageError, except BrokenPipeError: the reader of stdout closed it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise StorageError(f"answer cannot be written: {error.strerror}") from error


def drop_output() -> None:
    """Discard the rest of the answer, with the text that the interpreter would flush when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(text: str) -> str:
    """Replace control characters by their numbers, because text that others wrote could control the terminal."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_SINGULAR = {"entries": "entry", "leaves": "leaf", "accesses": "access"}


def counted(count: int, things: str) -> str:
    """Return a number of *things*, whose name is in the plural: ``1 fault``, ``2 faults``."""
    return f"{count} {things if count != 1 else _SINGULAR.get(things, things.removesuffix('s'))}"


class Out:
    """The output of a verb.

    Attributes:
        as_json: write one JSON object a line to stdout instead of text.
        lang: BCP 47 tag of the reader's language. The program's own words are in Korean or English.
    """

    def __init__(self, *, as_json: bool, lang: str) -> None:
        self.as_json = as_json
        self.lang = lang

    def answer(self, *text: str, **fields: object) -> None:
        """Write a part of the answer: *fields* as JSON, or *text* (one text, or one in Korean and one in English)."""
        line = json.dumps(fields, ensure_ascii=False) if self.as_json else _plain(self._translated(text))
        self.lines(line)

    def lines(self, text: str) -> None:
        """Write lines of the answer that are already formatted."""
        with _writing():
            sys.stdout.write(text + "\n")

    def flush(self) -> None:
        """Flush stdout."""
        with _writing():
            sys.stdout.flush()

    def message(self, *text: str) -> None:
        """Write a line to stderr. *text* is one text for both languages, or one Korean and one English text."""
        sys.stderr.write(_plain(self._translated(text)) + "\n")

    def fault(self, error: ConsentdError) -> None:
        """Write an error with its reason and its notes to stderr."""
        if isinstance(error, UNDETERMINED_ERRORS):
            self.message(f"could not be determined: {error}")
        elif isinstance(error, VerificationError):
            self.message(f"disproved: {error}")
        else:
            self.message(f"error: {error} ({error.reason})")
        for note in getattr(error, "__notes__", ()):
            self.message(note)

    def findings(self, faults: "Iterable[Fault]", not_checked: Mapping[str, int]) -> None:
        """Write each fault to stdout. Write to stderr which kinds of items were not verified, and how many items."""
        for fault in faults:
            where = ("", "") if fault.index is None else (f"{fault.index}번 항목: ", f"entry {fault.index}: ")
            self.answer(*(f"{one}{fault.what}" for one in where), type="fault", index=fault.index, what=fault.what)
        for what, count in not_checked.items():
            self.message(f"not checked: {what}: {count}")

    def _translated(self, text: tuple[str, ...]) -> str:
        return text[0 if is_korean(self.lang) else -1]

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Show a progress bar on stderr during a long task, if stderr is a terminal and rich is installed."""
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
