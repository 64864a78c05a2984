"""Try many cases of what a decision means: ``python -m tests.meaning --help``."""

import argparse
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "clients/python"), str(_ROOT / "tests")]


def main() -> int:
    """Run one part; return 0 if nothing was found, else 1."""
    from meaning import bulk, gate_mutants, mutants

    parser = argparse.ArgumentParser(prog="python -m tests.meaning", description=__doc__)
    parser.add_argument("part", choices=["agree", "laws", "mutants", "gate-mutants"])
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many questions, or cases of each law")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--only", default="", help="laws or mutants whose names have this text")
    options = parser.parse_args()
    if options.part == "agree":
        found = bulk.agree(cases=options.cases, seed=options.seed)
    elif options.part == "mutants":
        found = mutants.run(only=options.only)
    elif options.part == "gate-mutants":
        found = gate_mutants.run(only=options.only)
    else:
        found = bulk.laws(cases=options.cases, seed=options.seed, only=options.only)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
