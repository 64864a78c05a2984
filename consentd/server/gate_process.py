"""Run the gate (``consentd/gate``): start its process, start it again when it ends, and end it with the daemon.

The gate gets the key of identifier hashes through a pipe. The pipe stays open as long as the daemon lives: when it
ends, the gate ends, however the daemon ended. The gate reads the TLS files of the daemon's gRPC listener itself, with
their private key. It has no other secret.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from consentd.config import Config
from consentd.errors import StorageError
from consentd.ledger.vault import Vault
from consentd.service.servicer import ServiceState

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
"""How long to wait before the gate is started again. The pause doubles with each start, until one lasts a minute."""
_STOP_S = 12
"""How long the gate may take to end: longer than it gives its calls."""
_PROGRAM = "consentd-gate"
_LISTENING = "listening on "
_HTTP = ", HTTP on "


class GateProcess:
    """The gate's process. ``start`` returns when it listens; a thread watches it until ``stop``."""

    def __init__(
        self,
        program: Path,
        config: Config,
        vault: Vault,
        *,
        socket: Path,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare it; nothing is started yet.

        Args:
            socket: the daemon's Unix socket, over which it believes the gate whose call it is.
            on_start: called each time that the gate listens.
        """
        self._program, self._config, self._vault, self._socket = program, config, vault, socket
        self._on_start = on_start
        self._ending = threading.Event()
        # This lock guards the process and the pipe, and that none is started once the gate is to end.
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="gate", daemon=True)
        self._process: subprocess.Popen[str] | None = None
        self._pipe = -1
        self.address = self.http_address = ""

    def start(self) -> None:
        """Start the process, and watch it.

        Raises:
            StorageError: the program cannot be started, or does not listen. It is tried again, so ``stop`` is to be
                called all the same.
        """
        try:
            self._start()
        finally:
            self._watcher.start()

    def stop(self) -> None:
        """End the process. Its calls end first, and those that it has passed on too: the daemon must still serve."""
        with self._lock:
            self._ending.set()
        self._end()
        if self._watcher.is_alive():
            self._watcher.join()

    def reload(self) -> None:
        """Let the process read the TLS files again. If they do not fit, it logs that, and keeps those in use."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGHUP)

    def _start(self) -> None:
        gate, grpc = self._config.gate, self._config.grpc
        reads, writes = os.pipe()
        command = [
            str(self._program), "--table", str(self._config.table.path), "--listen", gate.listen,
            "--daemon", str(self._socket), "--key-fd", str(reads), "--threads", str(gate.threads),
            "--max-silence-ms", str(gate.max_silence_ms), "--max-batch-items", str(grpc.max_batch_items),
            "--max-message-bytes", str(grpc.max_message_bytes),
        ]  # fmt: skip
        if grpc.tls is not None:
            command += ["--tls-cert", str(grpc.tls.cert_file), "--tls-key", str(grpc.tls.key_file)]
            if grpc.tls.client_ca_file is not None:
                command += ["--client-ca", str(grpc.tls.client_ca_file)]
        if gate.http_listen:
            command += ["--http", gate.http_listen]
        if gate.mapping_file is not None:
            command += ["--mapping", str(gate.mapping_file)]
        try:
            with self._lock:
                if self._ending.is_set():
                    raise StorageError("gate is not started: the daemon ends")
                self._vault.write_index_key(writes)
                process = subprocess.Popen(  # noqa: S603  # what the configuration names
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=[reads], text=True
                )
                self._process, self._pipe = process, writes
        except OSError as error:
            os.close(writes)
            raise StorageError(f"gate cannot be started: `{self._program}`: {error.strerror}") from error
        except StorageError:
            os.close(writes)
            raise
        finally:
            os.close(reads)
        output: IO[str] = process.stdout  # type: ignore[assignment]  # it is a pipe
        line = output.readline()
        if not line.startswith(_LISTENING):
            self._end()
            raise StorageError(f"gate does not listen on `{gate.listen}`: its messages are in the daemon's log")
        self.address, _, self.http_address = line.removeprefix(_LISTENING).strip().partition(_HTTP)
        log.info("gate listens on %s", self.address)
        self._on_start()

    def _watch(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._ending.is_set():
            process = self._process
            if process is not None:
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    pause_s = _FIRST_PAUSE_S
                    continue
                if self._ending.is_set():
                    return
                log.error("gate ended with status %d; it is started again", process.returncode)
                self._end()
            if self._ending.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                self._start()
            except StorageError as error:
                if not self._ending.is_set():
                    log.error("%s", error)

    def _end(self) -> None:
        """End the process, and close what belongs to it."""
        with self._lock:
            process, self._process, pipe = self._process, None, self._pipe
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        os.close(pipe)


def with_installed(config: Config) -> Config:
    """Return a configuration that names the program of the extra ``gate``, if it names none and this one is installed.

    The extra puts the program beside the Python interpreter. An empty ``gate.listen`` means that there is no gate.
    """
    gate = config.gate
    if not gate.listen:
        return dataclasses.replace(config, gate=dataclasses.replace(gate, program=None))
    if gate.program is not None:
        return config
    program = Path(sys.executable).with_name(_PROGRAM)
    if not os.access(program, os.X_OK):
        log.info("gate is not installed: the daemon answers all checks itself")
        return config
    return dataclasses.replace(config, gate=dataclasses.replace(gate, program=program))


@contextlib.contextmanager
def started_gate(config: Config, state: ServiceState, *, socket: Path | None) -> Iterator[GateProcess | None]:
    """Run the gate for the length of a ``with`` statement, if the configuration names its program.

    A gate that cannot be started is an error in the log, and no error of the daemon: nothing but speed depends on it.
    It is tried again until it listens. A restored copy has no gate, because it answers no check.
    """
    services = state.services
    if config.gate.program is None or socket is None or services is None or services.restored is not None:
        yield None
        return
    quotas = services.sequencer.quotas

    def give_up_half() -> None:
        quotas.has_gate = True

    gate = GateProcess(config.gate.program, config, services.vault, socket=socket, on_start=give_up_half)
    try:
        gate.start()
    except StorageError as error:
        log.error("%s; it is tried again", error)
    try:
        yield gate
    finally:
        gate.stop()
