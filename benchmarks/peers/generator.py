"""Run the load generator of ``benchmarks/wire``, which is not slower than the fastest server measured here.

``benchmarks.load`` is written in Python and sends 12,000 to 24,000 calls a second at most; h2load sends one body
only, so it cannot ask different questions, and does not keep the answers.
"""

import json
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.http2 import grpc_message
from benchmarks.load import Loaded
from benchmarks.peers.peer import PEERS, Place, Served

PROGRAM = PEERS / "wire" / "release" / "load"
_CALL = struct.Struct("<Idd")
_ANSWER = struct.Struct("<II")


def missing_generator() -> str:
    """Return why there is no generator; empty if there is."""
    return "" if PROGRAM.exists() else "the load generator is not built: python -m benchmarks.peers.install wire"


def run_load(
    served: Served, place: Place, bodies: Sequence[bytes], *, seconds: float, is_batch: bool = False,
    in_flight: int = 32, connections: int = 4, rate: float = 0.0,
) -> Loaded:  # fmt: skip
    """Run one load on the helper's core.

    Args:
        bodies: requests as ``Served.message`` or ``Served.batch`` makes them, sent in turn.
        in_flight: calls at a time, over all connections. HTTP/1.1 has a connection for each of them.
        rate: calls a second at fixed times; 0: the next call is sent when one is answered. With a rate, latency counts
            from the time at which a call was due.

    Raises:
        RuntimeError: calls were not answered.
    """
    is_grpc = served.content_type.startswith("application/grpc")
    framed = [grpc_message(body) if is_grpc else body for body in bodies]
    with tempfile.TemporaryDirectory(prefix="consentd-load-") as directory:
        requests, out = Path(directory, "requests"), Path(directory, "out")
        requests.write_bytes(b"".join(len(body).to_bytes(4, "little") + body for body in framed))
        options: dict[str, Any] = {
            "port": served.port, "path": served.batch_path if is_batch else served.path,
            "content-type": served.content_type, "token": served.token, "requests": requests, "out": out,
            "in-flight": in_flight, "connections": in_flight if served.is_http1 else min(connections, in_flight),
            "warm": min(1.0, seconds / 2), "seconds": seconds, "rate": rate,
        }  # fmt: skip
        command = [str(PROGRAM)] + [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command += ["--http1"] if served.is_http1 else []
        done = subprocess.run(
            place.on_core(command, place.helper_core), capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode:
            raise RuntimeError(f"load generator ended with status {done.returncode}: {done.stderr[-500:]}")
        loaded = read_result(out.read_bytes(), json.loads(done.stdout), is_grpc=is_grpc)
    if loaded.failed:
        raise RuntimeError(f"{loaded.failed} calls of {served.path} were not answered")
    return loaded


def read_result(data: bytes, told: dict[str, float], *, is_grpc: bool) -> Loaded:
    """Read the generator's file: the number of calls as u64, each call, then the last answer to each request.

    A call is the place of its request as u32, its seconds and the second at which it ended as f64. An answer is the
    place and the length as u32, then its bytes. All little-endian.
    """
    loaded = Loaded(failed=int(told["failed"]), seconds=told["seconds"], busy=told["busy"])
    (count,) = struct.unpack_from("<Q", data)
    at = 8 + count * _CALL.size
    for place, seconds, ended in _CALL.iter_unpack(data[8:at]):
        loaded.locations.append(place)
        loaded.latencies_s.append(seconds)
        loaded.ended_s.append(ended)
    while at < len(data):
        place, length = _ANSWER.unpack_from(data, at)
        at += _ANSWER.size
        loaded.answers.append((place, data[at + 5 * is_grpc : at + length]))
        at += length
    return loaded
