"""Run hostile peers beside honest callers: ``python -m tests.hostile --help``."""

import argparse
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "clients/python"), str(_ROOT / "tests")]


def main() -> int:
    """Run the phases; return 0 if the figures meet the bars, else 1."""
    from hostile.whole import run

    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many peers of each kind")
    parser.add_argument("--alone", type=float, default=20, help="seconds of each kind alone")
    parser.add_argument("--together", type=float, default=300, help="seconds of all kinds together")
    parser.add_argument("--connections", type=int, default=0, help="how many the daemon takes; 0: as by default")
    parser.add_argument("--only", default="", help="kinds whose names have this text")
    parser.add_argument("--gate", type=Path, help="the program of a gate, which all callers and peers call")
    options = parser.parse_args()
    met = run(
        count=options.count, alone_s=options.alone, together_s=options.together, only=options.only,
        connections=options.connections, gate=options.gate,
    )  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
