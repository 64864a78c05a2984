"""Run parsers on mutants, and find errors that they do not declare."""

import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuzz.mutate import Mutator
from fuzz.parsers import Parser


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that a parser does not declare.

    Attributes:
        content: what the parser was given.
        trace: the traceback.
    """

    parser: str
    content: bytes
    trace: str


@dataclass(slots=True)
class Counts:
    """What came out for one parser: a value, a declared error (by class), or another error."""

    values: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    worked_s: float = 0.0

    @property
    def executions(self) -> int:
        """How often the parser ran."""
        return self.values + self.errors.total() + len(self.failures)


MOST_FAILURES = 5
"""After so many failures of a parser the others come next."""


def fuzz_one(parser: Parser, *, executions: int, seed: int) -> Counts:
    """Run a parser on its seeds, then on mutants of them."""
    counts, mutator = Counts(), Mutator(seed)
    seeds = parser.make_seeds()
    assert seeds, f"parser has no seeds: {parser.name}"
    begin_s = time.perf_counter()
    for number in range(executions):
        content = seeds[number] if number < len(seeds) else mutator.mutant(seeds)
        try:
            parser.parse(content)
        except parser.declared as error:
            counts.errors[type(error).__name__] += 1
        except Exception:  # noqa: BLE001  # this is what a run looks for
            counts.failures.append(Failure(parser.name, content, traceback.format_exc()))
            if len(counts.failures) == MOST_FAILURES:
                break
        else:
            counts.values += 1
    counts.worked_s = time.perf_counter() - begin_s
    return counts


def fuzz_all(parsers: Iterable[Parser], *, executions: int, seed: int) -> dict[str, Counts]:
    """Run each parser *executions* times, or as often as its weight says; return the counts by name."""
    return {
        one.name: fuzz_one(one, executions=max(1, int(executions * one.weight)), seed=seed + number)
        for number, one in enumerate(parsers)
    }
