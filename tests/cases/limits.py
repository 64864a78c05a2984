"""The table ``proto/limits.toml``."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMITS: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "proto/limits.toml").read_text())


def value_of(name: str) -> int:
    """Return the largest or smallest value that a limit allows."""
    return int(LIMITS[name].get("most", LIMITS[name].get("least")))
