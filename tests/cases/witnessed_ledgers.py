"""A real daemon whose checkpoints witnesses cosign, and our own witness that follows it: all on loopback."""

import dataclasses
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases.daemons import ROLES, Running, make_config
from consentd.config import Config, HttpConfig
from consentd.core import ed25519, note
from consentd.core.submission import Submission, format_submission
from consentd.cosigning.connection import Connection
from consentd.cosigning.keyfiles import read_signing_key, write_private
from consentd.listener.messages import HttpResponse
from consentd.server.keys import make_keys
from consentd.service.auth import format_credential, make_token
from consentd.witnessd.config import WitnessServerConfig, parse_witness_config
from consentd.witnessd.daemon import WitnessServer
from consentd_client import Client, pin

WAIT_S = 30


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Witnessed:
    """What a daemon with witnesses consists of. ``start`` and ``stop`` the daemon as often as wanted.

    Attributes:
        policy: the text of the policy file, without URLs: what clients pin.
    """

    def __init__(self, directory: Path, *, extra: str = "", keys: str = "", **ledger: object) -> None:
        section = f"[witness]\npolicy_file = 'witness.policy'\n{extra}"
        config = make_config(directory, section, **{"checkpoint_interval_ms": 10, **ledger})
        if keys:
            config = dataclasses.replace(
                config, keys=dataclasses.replace(config.keys, log_mldsa_key_file=directory / keys)
            )
        self.directory = directory
        self.config: Config = dataclasses.replace(config, http=HttpConfig(listen=f"127.0.0.1:{free_port()}"))
        self.tokens = {"operator": make_keys(self.config)}
        for name in ROLES:
            self.tokens[name] = make_token()
            write_private(self.config.callers.credentials_file, format_credential(self.tokens[name], name), append=True)
        self.log = read_signing_key(self.config.keys.log_key_file).verifier
        self.running: Running | None = None
        self.policy = b""

    @property
    def log_url(self) -> str:
        return f"http://{self.config.http.listen}"

    def write_policy(self, *lines: str, quorum: str = "all") -> None:
        """Write the policy file of witness lines with URLs."""
        names = [line.split()[1] for line in lines]
        rest = f"group quorum-of-all {quorum} {' '.join(names)}\nquorum quorum-of-all\n"
        log_line = f"log {note.format_vkey(self.log)}\n"
        path = self.config.witness.policy_file
        assert path is not None
        path.write_text(log_line + "".join(lines) + rest, encoding="utf-8")
        self.policy = (log_line + "".join(" ".join(line.split()[:3]) + "\n" for line in lines) + rest).encode()

    def start(self) -> Running:
        self.running = Running(self.config, self.tokens)
        return self.running

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()
            self.running = None

    def client(self, who: str = "app", *, policy: bytes | None = None) -> Client:
        """Return a client that wants a quorum of this policy, or of another one."""
        assert self.running is not None
        trust = pin(note.format_vkey(self.log), policy=self.policy if policy is None else policy)
        return Client(f"127.0.0.1:{self.running.daemon.grpc_port}", token=self.tokens[who], trust=trust)

    @property
    def services(self) -> Any:
        assert self.running is not None
        assert self.running.daemon.service_state.services is not None
        return self.running.daemon.service_state.services

    def wait_published(self) -> int:
        """Wait until everything written so far is published; return the checkpoint's size."""
        published = self.services.sequencer.checkpoints.wait(self.services.ledger.state.size, WAIT_S)
        assert published is not None
        return int(published.checkpoint.size)

    def metric(self, name: str, **labels: str) -> float:
        assert self.running is not None
        return self.running.daemon.metrics.value(f"consentd_{name}", **labels)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.log_url + path, timeout=10) as answer:
            return bytes(answer.read())


class OurWitness:
    """A witness of ours for one daemon, with a directory of its own."""

    def __init__(self, witnessed: Witnessed, name: str = "witness.test/ours", who: str = "operator") -> None:
        self.directory = witnessed.directory / "witness"
        self.directory.mkdir()
        self.signer = note.Signer(name, ed25519.KeyPair(b"w" * 32), note.COSIGNATURE)
        write_private(self.directory / "witness.key", note.format_signing_key(self.signer) + "\n")
        write_private(self.directory / "token", witnessed.tokens[who] + "\n")
        self.port = free_port()
        self.log = witnessed.log
        self.text = f"""
            [witness]
            key_file = "witness.key"
            state_dir = "state"
            listen = "127.0.0.1:{self.port}"
            map_bits = 6
            [[log]]
            vkey = "{note.format_vkey(witnessed.log)}"
            url = "{witnessed.log_url}"
            token_file = "token"
            """
        self.server: WitnessServer | None = None

    @property
    def config(self) -> WitnessServerConfig:
        return parse_witness_config(self.text, base_dir=self.directory)

    @property
    def line(self) -> str:
        vkey = note.format_vkey(self.signer.verifier)
        return f"witness ours {vkey} http://127.0.0.1:{self.port}\n"

    def state(self, suffix: str) -> list[Path]:
        found = (self.directory / "state").glob(f"*.{suffix}")
        return sorted(path for path in found if path.suffix != ".new")  # one that is being written

    def start(self, **options: Any) -> WitnessServer:
        self.server = WitnessServer(self.config, **options)
        return self.server

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def post(self, old: int, proof: tuple[bytes, ...], signed: bytes, path: str = "/add-checkpoint") -> HttpResponse:
        return self.post_body(format_submission(Submission(old, proof, signed)), path)

    def post_body(self, body: bytes, path: str = "/add-checkpoint") -> HttpResponse:
        connection = Connection(f"http://127.0.0.1:{self.port}", timeout_s=WAIT_S)
        try:
            return connection.request("POST", path, body)
        finally:
            connection.release()


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
