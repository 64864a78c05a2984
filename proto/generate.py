"""Generate consentd/v1 from the .proto files, and consentd/limits.py: ``python proto/generate.py [--check]``.

The pins are old on purpose: generated code is the floor of the protobuf runtime, and grpcio-tools 1.76
emits code that runs on protobuf 6.31 and later. They live in a venv of their own (``.venv-proto``), for
they may not be mixed with the runtime's versions. ``--check`` generates into a temporary folder and compares.

Our files import ``google/rpc/status.proto``. It is copied from the package googleapis-common-protos to
``.venv-proto/protos``, where ``buf lint`` and any other ``protoc`` (``-I.venv-proto/protos``) find it.
"""

import argparse
import fcntl
import filecmp
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import venv
from pathlib import Path

PINS = ["grpcio-tools==1.76.0", "mypy-protobuf==5.1.0", "googleapis-common-protos==1.70.0", "setuptools<81"]
ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PROTOS = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "consentd/v1").glob("*.proto"))
TOOLS = ROOT / ".venv-proto"
LOCK = ROOT / ".venv-proto.lock"
LIMITS = "consentd/limits.py"
IMPORTED = ["google/rpc/status.proto"]
IMPORTS = TOOLS / "protos"


def tools() -> Path:
    """Return the python that has the pinned tools, making its venv if needed.

    Several processes may call this at once: one of them makes the venv, and the others wait for it.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = TOOLS / "bin/python"
        stamp = TOOLS / "pins.txt"
        if not stamp.exists() or stamp.read_text() != "\n".join(PINS):
            venv.create(TOOLS, with_pip=True, clear=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINS], check=True)
            (packages,) = TOOLS.glob("lib/python*/site-packages")
            for name in IMPORTED:
                (IMPORTS / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(packages / name, IMPORTS / name)
            stamp.write_text("\n".join(PINS))
        return python


def protoc(proto: Path = PROTO) -> list[str]:
    """Return the command that compiles .proto files below *proto*, without its outputs and files."""
    return [str(tools()), "-m", "grpc_tools.protoc", f"-I{proto}", f"-I{IMPORTS}"]


def generate(out: Path) -> None:
    """Generate the limits, and the Python code of every .proto, into *out*; stubs only where there is a service."""
    (out / LIMITS).parent.mkdir(parents=True, exist_ok=True)
    (out / LIMITS).write_text(limits_module())
    command = protoc()
    plugins = [f"--plugin=protoc-gen-{name}={TOOLS}/bin/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")]
    subprocess.run([*command, *plugins, f"--python_out={out}", f"--mypy_out=quiet:{out}", *PROTOS], check=True)
    services = [name for name in PROTOS if name.endswith("_service.proto")]
    outs = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
    subprocess.run([*command, *plugins, *outs, *services], check=True)


def limits_module() -> str:
    """Return the module with a constant for each limit of limits.toml."""
    about = "The limits that callers meet. Made from ``proto/limits.toml`` by ``make proto``: change that file."
    lines = [f'"""{about}"""', "", "from typing import Final"]
    for name, limit in tomllib.loads((PROTO / "limits.toml").read_text()).items():
        (bound,) = {"most", "least"} & set(limit)
        beyond = ", ".join(limit[key] for key in ("reason", "beyond") if key in limit)
        text = f"At {bound} {limit[bound]:,} {limit['unit']}: {limit['what']}. Otherwise: {beyond}."
        lines += ["", f"{name.upper()}: Final = {limit[bound]:_}", *textwrap.wrap(f'"""{text}"""', 120)]
    return "\n".join(lines) + "\n"


def differences(out: Path) -> list[str]:
    """Name the generated files of *out* that are not what is committed."""
    found = {path.relative_to(top) for top in (ROOT, out) for path in (top / "consentd/v1").glob("*_pb2*")}
    return [
        str(name) for name in sorted({*found, Path(LIMITS)})
        if not (ROOT / name).exists() or not (out / name).exists()
        or not filecmp.cmp(ROOT / name, out / name, shallow=False)
    ]


def main() -> int:
    """Generate, or check that what is committed is fresh."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is committed; exit 1 if it differs")
    arguments = parser.parse_args()
    if not arguments.check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as out:
        generate(Path(out))
        stale = differences(Path(out))
    for name in stale:
        print(f"{name} is not what proto/ generates; run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
