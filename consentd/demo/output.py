"""Print the demo's text in Korean, in English or in both, and the progress of long steps."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")
Text = tuple[str, str]
"""A text in Korean and in English."""


@dataclass(frozen=True, slots=True)
class Output:
    """A console, and the language to print: ``ko``, ``en``, or ``both`` (Korean, then English in brackets)."""

    console: Console
    language: str

    def text(self, ko: str, en: str) -> str:
        """Return the text in the output's language."""
        return {"ko": ko, "en": en}.get(self.language, f"{ko} ({en})")

    def cell(self, ko: str, en: str) -> str:
        """Return the text of a table cell, empty if *ko* is. In ``both``, the English is below the Korean."""
        return f"{ko}\n[dim]{en}[/dim]" if self.language == "both" and ko else self.text(ko, en) if ko else ""

    def print(self, text: str, style: str | None = None) -> None:
        """Print a line. Markup of the library rich, such as ``[bold]``, is interpreted."""
        self.console.print(text, style=style, highlight=False, soft_wrap=True)

    def rule(self, ko: str, en: str) -> None:
        """Print the heading of a part of the demo."""
        self.console.rule(self.text(ko, en))

    def why(self, ko: str, en: str) -> None:
        """Print a sentence that explains why a step of the demo matters."""
        self.print(f"  {self.text(ko, en)}", style="dim")

    def track(self, label: Text, steps: Iterable[T], count: int) -> Iterator[T]:
        """Yield the *count* items of *steps*, with a progress bar on a terminal; then print the time they took."""
        started, name = time.perf_counter(), self.text(*label)
        hidden = not self.console.is_terminal
        yield from progress.track(steps, name, count, console=self.console, transient=True, disable=hidden)
        seconds = time.perf_counter() - started
        self.print(f"  {name}: {count:,}, {seconds:.1f} s ({count / seconds:,.0f}/s)")
