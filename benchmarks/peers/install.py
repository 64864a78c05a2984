"""Install the peers under ``build/peers``: ``python -m benchmarks.peers.install [NAME …]``.

OPA comes through the Go module proxy and is built here, which takes some minutes; Cerbos comes through npm. Packages of
PyPI go into this environment, and Cargo builds what is ours.
"""

import argparse
import os
import subprocess
import sys

from benchmarks.peers.peer import PEERS
from benchmarks.report import ROOT

GO = {
    "opa": "github.com/open-policy-agent/opa@v1.22.2",
}
PYPI = {"cedarpy": "cedarpy==4.12.2", "pycasbin": "casbin==1.43.0", "regopy": "regopy==1.5.2"}
CERBOS = "@cerbos/cerbos-linux-x64@0.55.0"
WIRE = "wire"
"""The load generator and the trivial server, which are ours."""
NAMES = (WIRE, *GO, "cerbos", *PYPI)


def command(name: str) -> tuple[list[str], dict[str, str]]:
    """Return what installs a peer, and the environment that it needs."""
    if name in GO:
        # The Go that is installed builds them: another toolchain would be downloaded.
        flags = {"GOFLAGS": "-mod=mod -trimpath", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        flags["GOBIN"] = str(PEERS / "bin")
        return ["go", "install", "-ldflags", "-s -w", GO[name]], flags
    if name in PYPI:
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYPI[name]], {}
    if name == "cerbos":
        return ["npm", "install", "--silent", "--no-save", "--prefix", str(PEERS / "cerbos"), CERBOS], {}
    manifest = ROOT / "benchmarks" / "wire" / "Cargo.toml"
    return [
        "cargo", "build", "--locked", "--release", "--manifest-path", str(manifest), "--target-dir", str(PEERS / WIRE)
    ], {}  # fmt: skip


def main() -> int:
    """Install the peers named, or all; return 1 if one could not be installed. The others are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.install", description="Install the peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    names = parser.parse_args().names or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no peer is called {', '.join(unknown)}: choose of {', '.join(NAMES)}")
    (PEERS / "cerbos").mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        arguments, environment = command(name)
        print(f"installing {name}: {' '.join(arguments)}", flush=True)
        try:
            status: object = subprocess.run(arguments, env={**os.environ, **environment}, check=False).returncode
        except FileNotFoundError:
            status = f"`{arguments[0]}` is not installed"
        if status:
            failed.append(f"{name} ({status})")
    if failed:
        print(f"not installed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
