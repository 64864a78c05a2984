"""Write the crates of ``consentd/gate`` on this platform to standard output, with their licences, as an SBOM has them.

``.ci/licences.py`` checks the result. Crates may write ``/`` in the place of OR.
"""

import json
import subprocess
import sys
from pathlib import Path

GATE = Path(__file__).parents[1] / "consentd" / "gate"


def _expression(licence: str) -> str:
    return " OR ".join(part.strip() for part in licence.split("/"))


def _host() -> str:
    """Return the platform of this machine, as Rust names it."""
    done = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True)  # noqa: S607  # of the PATH
    return next(line for line in done.stdout.splitlines() if line.startswith("host: ")).removeprefix("host: ")


def main() -> int:
    """Read what Cargo knows of the crates that are built for this machine, and write it."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", _host()]
    done = subprocess.run(command, cwd=GATE, capture_output=True, text=True, check=True)  # noqa: S603  # a fixed command
    components = [
        {"name": one["name"], "licenses": [{"expression": _expression(one["license"] or "")}]}
        for one in json.loads(done.stdout)["packages"]
        if one["source"] is not None
    ]
    json.dump({"components": components}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
