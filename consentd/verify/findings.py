"""What a verification of stored or served records finds: what is wrong, where, and how much could not be told."""

from collections import Counter
from dataclasses import dataclass, field

MAX_FAULTS = 100
"""Faults after which looking stops: more say nothing new."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        index: the entry or seal it touches; None where it is no single one.
        what: in words; never with an identifier of a person.
    """

    index: int | None
    what: str


class Enough(Exception):  # noqa: N818  # no error: it ends the search
    """End a search that has found ``MAX_FAULTS``."""


@dataclass(slots=True)
class Findings:
    """The faults found so far, and how often something could not be told, by what it is."""

    faults: list[Fault] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    def not_checked(self, what: str) -> None:
        """Count something that cannot be told."""
        self.unchecked[what] += 1

    def add(self, index: int | None, what: str) -> None:
        """Take down a fault.

        Raises:
            Enough: it was the last one that is looked for.
        """
        self.faults.append(Fault(index, what))
        if len(self.faults) >= MAX_FAULTS:
            raise Enough
