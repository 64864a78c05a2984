"""Check the licences of a CycloneDX SBOM: ``python .ci/licences.py SBOM``. It exits with 1 if one is not allowed.

The allow-list is .ci/licences.toml. An expression with OR needs one allowed licence, and one with AND needs all. Where
a package states its licence more than once, every statement must be allowed.
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("licences.toml")


def stated(component: dict[str, Any]) -> list[str]:
    """Return what a component of the SBOM states about its licence: identifiers, expressions, names."""
    found = []
    for entry in component.get("licenses", []):
        licence = entry.get("license", {})
        found.append(entry.get("expression") or licence.get("id") or licence.get("name") or "")
    return found


def is_allowed(expression: str, rules: dict[str, Any]) -> bool:
    """Return whether an SPDX expression, or a name that the list translates, is allowed. Parentheses are not read."""
    expression = rules["names"].get(expression, expression)
    return any(
        all(part.strip() in rules["allowed"] for part in choice.split(" AND ")) for choice in expression.split(" OR ")
    )


def faults(sbom: dict[str, Any], rules: dict[str, Any]) -> list[str]:
    """Return a line for each component without an allowed licence, and for each package that is listed needlessly."""
    components = {component["name"]: stated(component) for component in sbom["components"]}
    found = ["the SBOM has no components"] if not components else []
    for name, texts in sorted(components.items()):
        checked = texts or [rules["packages"].get(name, "")]
        refused = [text for text in checked if not is_allowed(text, rules)]
        if refused:
            found.append(f"{name}: licence not allowed: {', '.join(text or 'none named' for text in refused)}")
    needless = [name for name in rules["packages"] if components.get(name, [])]
    return found + [f"{name}: states its licence itself: remove it from .ci/licences.toml" for name in needless]


def main() -> int:
    """Check the SBOM that the command line names."""
    (file,) = sys.argv[1:]
    sbom = json.loads(Path(file).read_text(encoding="utf-8"))
    found = faults(sbom, tomllib.loads(LIST.read_text(encoding="utf-8")))
    print("\n".join(found) or f"licences of {len(sbom['components'])} packages are allowed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
