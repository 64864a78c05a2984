"""Clients in Go, TypeScript and Java: what plain protoc generates from ``proto/``, compiled with a small program.

Generated code is made in a temporary folder and never committed. The versions of all that is installed are pinned
beside each program in ``tests/interop/clients``.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from google.rpc import status_pb2

from cases.typescript import build_package

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "interop" / "clients"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
NPM = shutil.which("npm") if shutil.which("node") else None
MAVEN = shutil.which("mvn") if shutil.which("javac") else None
GRPC_JAVA = shutil.which("grpc_java_plugin")
PROTOS = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto/consentd/v1").glob("*.proto"))
_GOOGLE = Path(status_pb2.__file__).parents[2]
"""The folder of ``google/rpc/status.proto`` and ``google/rpc/error_details.proto``."""
_GO_MODULE = "github.com/consentd/consentd/clients/go"
_OUT_OF_REACH = re.compile(
    r"dial tcp|no such host|i/o timeout|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENOTCACHED|Could not transfer"
    r"|Unknown host|Connection refused|Could not find artifact|could not be resolved"
)


def is_ci() -> bool:
    """Whether tests may not skip because a tool is missing."""
    return os.environ.get("CI", "") not in ("", "0", "false")


def build_go(directory: Path) -> list[str]:
    """Generate, compile and return the command of the program in Go; or skip."""
    if GO is None:
        pytest.skip("go is not installed")
    source = directory / "go"
    shutil.copytree(SOURCES / "go", source)
    environment = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly"}
    plugins = directory / "plugins"
    _run([GO, "build", "-o", f"{plugins}/", "tool"], source, **environment)
    module = f"module={_GO_MODULE}"
    _protoc(
        f"--plugin={plugins}/protoc-gen-go", f"--go_out={source}", f"--go_opt={module}",
        f"--plugin={plugins}/protoc-gen-go-grpc", f"--go-grpc_out={source}", f"--go-grpc_opt={module}",
    )  # fmt: skip
    _run([GO, "vet", "./..."], source, **environment)
    _run([GO, "build", "-o", "../program", "."], source, **environment)
    return [str(directory / "program")]


def build_typescript(directory: Path) -> list[str]:
    """Generate, compile and return the command of the program in TypeScript, with our verifier; or skip."""
    verifier = build_package(directory)
    assert NPM is not None, "build_package skips without npm"
    source = directory / "typescript"
    shutil.copytree(SOURCES / "typescript", source, ignore=shutil.ignore_patterns("node_modules", "dist"))
    _run([NPM, "ci", "--no-progress", "--prefer-offline", "--ignore-scripts"], source)
    (source / "node_modules/@consentd").mkdir()
    (source / "node_modules/@consentd/verify").symlink_to(verifier)
    options = "env=node,esModuleInterop=true,importSuffix=.js,forceLong=bigint,oneof=unions-value"
    _protoc(
        f"--plugin={source}/node_modules/.bin/protoc-gen-ts_proto", f"--ts_proto_out={source}/src",
        f"--ts_proto_opt={options},outputServices=grpc-js", "google/rpc/error_details.proto", "google/rpc/status.proto",
    )  # fmt: skip
    _run([NPM, "run", "build"], source)
    return ["node", str(source / "dist" / "main.js")]


def build_java(directory: Path) -> list[str]:
    """Generate, compile and return the command of the program in Java; or skip. Protoc comes from Maven, too."""
    if MAVEN is None or GRPC_JAVA is None:
        pytest.skip("javac, mvn and grpc_java_plugin, for Java, are not installed")
    machine = {"aarch64": "aarch_64"}.get(platform.machine(), platform.machine())
    libraries, source, classes = directory / "libraries", directory / "java", directory / "classes"
    shutil.copytree(SOURCES / "java", source)
    _run(
        [MAVEN, "--batch-mode", "--quiet", f"-Dplatform=linux-{machine}", "dependency:copy-dependencies",
         f"-DoutputDirectory={libraries}"],
        source, reason="Maven's packages, for Java, are out of reach",
    )  # fmt: skip
    for jar in libraries.glob("*.jar"):
        with zipfile.ZipFile(jar) as archive:
            archive.extractall(
                directory / "include", [name for name in archive.namelist() if name.endswith(".proto")]
            )
    (protoc,) = libraries.glob("protoc-*.exe")
    protoc.chmod(0o755)
    includes = [f"-I{ROOT / 'proto'}", f"-I{directory / 'include'}"]
    outs = [f"--java_out={source}", f"--plugin=protoc-gen-grpc-java={GRPC_JAVA}", f"--grpc-java_out={source}"]
    _run([str(protoc), *includes, *outs, *PROTOS], source)
    path = ":".join(map(str, sorted(libraries.glob("*.jar"))))
    files = sorted(map(str, source.rglob("*.java")))
    _run(["javac", "-proc:none", "-nowarn", "-d", str(classes), "-cp", path, *files], source)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}:{path}", "Clients"]


def _protoc(*arguments: str) -> None:
    """Run the protoc of the pinned tools on all our files."""
    if not (ROOT / ".venv-proto/pins.txt").exists() and not is_ci():
        pytest.skip("protoc is not installed; `make proto` installs it")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    _run([*generate.protoc(), f"-I{_GOOGLE}", *arguments, *PROTOS], ROOT)


def _run(command: list[str], directory: Path, *, reason: str = "", **environment: str) -> None:
    """Run a command that must succeed. Skip if it needs a registry that is out of reach; in CI, only for a *reason*."""
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode and (reason or not is_ci()) and _OUT_OF_REACH.search(done.stdout + done.stderr):
        pytest.skip(reason or f"`{Path(command[0]).name}` finds its packages neither in its cache nor in reach")
    assert done.returncode == 0, done.stdout + done.stderr
