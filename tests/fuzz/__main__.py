"""Run every public parser on mutants of bytes that are in order: ``python -m tests.fuzz --help``.

Exits 1 if a parser raised an error that it does not declare.
"""

import argparse
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "clients/python"), str(_ROOT / "tests")]


def main() -> int:
    """Run the parsers; return 0 if none failed, else 1."""
    from fuzz.parsers import PARSERS
    from fuzz.run import fuzz_all

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="how many, of all parsers together")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other mutants")
    parser.add_argument("--only", default="", help="parsers whose names have this text")
    options = parser.parse_args()
    chosen = [one for one in PARSERS if options.only in one.name]
    each = -(-options.executions // max(1, int(sum(one.weight for one in chosen))))
    found = fuzz_all(chosen, executions=each, seed=options.seed)
    for name, counts in found.items():
        shown = f"{name:<34}{counts.executions:>8} times, {counts.values:>7} values, {counts.worked_s:5.1f} s"
        print(shown, dict(counts.errors))
    failures = [one for counts in found.values() for one in counts.failures]
    for one in failures:
        print(f"\n{one.parser}: {one.content[:300]!r} ({len(one.content)} bytes)\n{one.trace}")
    print(f"{sum(one.executions for one in found.values())} executions, {len(failures)} undeclared errors")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
