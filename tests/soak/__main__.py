"""Ask a gate many questions while consents change, and see that no process grows: ``python -m tests.soak --help``."""

import argparse
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "clients/python"), str(_ROOT / "tests")]


def main() -> int:
    """Run the load; return 0 if all answers are right and memory is flat, else 1."""
    from cases.gate_programs import built
    from soak.run import soak

    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--checks", type=int, default=5_000_000, help="how many calls of Check")
    parser.add_argument("--gate", type=Path, help="the program of the gate; it is built if this is left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = soak(Path(directory), options.gate or built("consentd-gate", "consentd-gate"), checks=options.checks)
    return 0 if found.is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
