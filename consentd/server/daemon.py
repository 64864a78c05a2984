"""Build the daemon's parts, serve calls, and drain: finish the accepted work before the stop.

Start: gRPC and HTTP listen immediately and answer NOT_SERVING. Meanwhile the stores are opened, and the ledger and the
policy table are verified and brought up to date. Drain (SIGTERM, SIGINT): first, health becomes NOT_SERVING. Then calls
in flight end, the sequencer writes, seals and publishes the waiting writes, and the stores are closed. No acknowledged
write is lost by a start or a drain.
"""

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from consentd import descriptors
from consentd.clock import Clock, SystemClock
from consentd.config import Config
from consentd.core.note import Verifier
from consentd.core.pruned import DAY_MS
from consentd.core.rotation import RotationRole
from consentd.cosigning.publisher import Publisher
from consentd.errors import ConsentdError
from consentd.files import FileLock, hold_reserve
from consentd.ledger.erasure import LIST_NAME, ErasureList, complete_list, destroy_again, destroy_listed
from consentd.ledger.ledger import Ledger
from consentd.ledger.recovery import check_vault_commitment, open_ledger
from consentd.ledger.restored import Restored, read_restored
from consentd.ledger.vault import Vault
from consentd.listener.server import Listener
from consentd.metrics import Metrics
from consentd.sequencer.appending import SequencerLimits
from consentd.sequencer.checkpoints import CheckpointSigning
from consentd.sequencer.commands.write import Author
from consentd.sequencer.erasures import Erasures
from consentd.sequencer.loop import Sequencer
from consentd.sequencer.restored import RestoredSequencer
from consentd.server import gate_peer, gate_process, http
from consentd.server.backups import open_backups
from consentd.server.capacity import check_space, measure_connections, measure_space
from consentd.server.client_certificates import named_participant
from consentd.server.first_entries import first_entries
from consentd.server.first_start import check_first_start, end_first_start, note_first_start
from consentd.server.keys import Keys, check_secret_files, check_tls_keys, read_keys
from consentd.server.pauses import shorten_pauses
from consentd.server.preflight import (
    KeysInForce,
    check_ledger_files,
    check_vault_files,
    check_vault_state,
    find_keys,
    lock_data,
)  # fmt: skip
from consentd.server.publishers import make_publisher
from consentd.server.rpc_server import RpcServer
from consentd.server.scrubber import Scrubber
from consentd.server.signals import Signals
from consentd.server.tls import http_context, note_ends
from consentd.service.acts import reload_file
from consentd.service.authentication import Authentication
from consentd.service.credential_rows import CredentialRows
from consentd.service.credentials import Credentials
from consentd.service.id_tokens import IdTokens, open_id_tokens
from consentd.service.key_files import KeyFiles
from consentd.service.operations import Operations
from consentd.service.pages import PAGE_KEY_LABEL
from consentd.service.servicer import Services, ServiceState
from consentd.store.rocks import RocksStore
from consentd.table.table import Table, catch_up
from consentd.v1 import error_reason_pb2
from consentd.verify.scrub_records import ScrubTarget

log = logging.getLogger(__name__)

_VAULT_CACHE_MB, _VAULT_FILE_MB = 8, 2
_HTTP_GRACE_S = 5
"""How long a stop waits for HTTP answers in flight. They read the stores, which are closed afterwards."""


class Daemon:
    """One ledger and its servers. ``start`` returns when calls are served; ``stop`` drains the daemon."""

    def __init__(self, config: Config, *, clock: Clock | None = None, confirm_clock: bool = False) -> None:
        self.config = config
        self.metrics = Metrics()
        self.metrics.quorum.set(1)  # the value at the start: no checkpoint has missed its quorum yet
        for reason in error_reason_pb2.ErrorReason.keys()[1:]:
            self.metrics.errors.begin(reason.removeprefix("ERROR_REASON_"))
        self.service_state = ServiceState(self.metrics)
        self._clock = clock or SystemClock()
        self._confirm_clock = confirm_clock
        self._rpc = RpcServer(config.grpc, self.service_state)
        self._http: Listener | None = None
        self._closers: list[Callable[[], None]] = []
        self._scrubber: Scrubber | None = None
        self._signing_lock: FileLock | None = None
        self._restored: Restored | None = None
        self.credentials: Credentials | None = None
        self._tokens: IdTokens | None = None
        self.grpc_port = 0
        self.gate_socket: Path | None = None

    @property
    def http_port(self) -> int:
        """The port that HTTP listens on; 0 while HTTP does not listen."""
        return 0 if self._http is None else self._http.port

    def start(self) -> None:
        """Listen, open and verify the stores, then serve.

        Raises:
            ConsentdError: the daemon cannot serve; all that was opened is closed again.
        """
        check_secret_files(self.config)
        self.gate_socket = None if self.config.gate.program is None else gate_peer.make_socket()
        try:
            self.grpc_port = self._rpc.listen(self.gate_socket)
            self._rpc.start()
            self._http = http.listen(self.config.http, self.service_state)
            note_ends(self.metrics, self._rpc.certificates, self.config.http.tls)
            measure_connections(self.metrics, self._http)
            self.service_state.services = services = self._open()
        except BaseException:
            self.stop()
            raise
        if services.restored is not None:
            self._rpc.set_reading()
            self.metrics.restored_copy.set(1)
            log.critical("a restored copy decides and records nothing; see ops/RUNBOOK.md, `a restored copy`")
            return
        self._rpc.set_serving(True)
        if services.sequencer.fault is not None:  # it set NOT_SERVING, and the line above has overwritten that
            self._rpc.set_serving(False)
        log.info("serving gRPC on port %d and HTTP on port %d", self.grpc_port, self.http_port)

    def stop(self) -> None:
        """Drain and close everything, in the order given in the module's docstring."""
        self._rpc.set_serving(False)
        services = self.service_state.services
        if services is not None:
            services.table.end_waits()
        self._rpc.drain()
        self.service_state.services = None
        if self._scrubber is not None:
            self._scrubber.stop()
        if services is not None:
            services.operations.stop()
            services.erasures.stop()
            services.sequencer.stop()
        if self._http is not None:
            self._http.stop(_HTTP_GRACE_S)
            self._http = None
        self._rpc.close()
        gate_peer.remove_socket(self.gate_socket)
        for close in reversed(self._closers):
            try:
                close()
            except ConsentdError as error:
                # Continue, so that the other stores are closed too. Acknowledged writes are already on the disk.
                log.error("store did not close cleanly: %s", error)
        self._closers = []
        self.service_state.call_log.flush()
        log.info("stopped")

    def reload(self) -> None:
        """Read credentials, TLS files and the keys of ID providers again.

        What cannot be read stays as it is, and the log says why.
        """
        _reload(self.reload_credentials, "credentials not reloaded")
        if self._tokens is not None:
            _reload(self._tokens.reload, "keys of ID providers not reloaded")
        if self.config.grpc.tls is not None or self.config.http.tls is not None:
            _reload(self._reload_certificates, "TLS files not reloaded")

    def reload_credentials(self) -> None:
        """Read the credentials file again. Raises as ``Credentials.reload``, and keeps the present ones then."""
        if self.credentials is not None:
            counts = reload_file(self.credentials, self.service_state.services)
            log.info("credentials reloaded: %d tokens, %d certificates", *counts)

    def _reload_certificates(self) -> None:
        check_tls_keys(self.config)
        context = None if self.config.http.tls is None else http_context(self.config.http.tls)
        if self._rpc.certificates is not None:
            self._rpc.certificates.reload()
        if self._http is not None:
            self._http.tls = context
        note_ends(self.metrics, self._rpc.certificates, self.config.http.tls)
        log.info("TLS files reloaded")

    # -- the steps of a start ---------------------------------------------------------------------------------

    def _open(self) -> Services:
        config, keys = self.config, read_keys(self.config)
        # INVARIANT: this lock is taken before any file of the ledger is read, and released after all stores are closed.
        data_lock = lock_data(config)
        self._closers.append(partial(os.close, data_lock))
        backup_times = open_backups(config, self.metrics, self._clock)
        self.credentials = credentials = self._open_credentials()
        self._tokens = tokens = open_id_tokens(config.citizens, self.metrics)
        self._closers.append(tokens.close)
        self._restored = restored = read_restored(config.ledger.data_dir)
        if check_ledger_files(config, keys.log.verifier, restored) == 0:
            check_first_start(config, keys.log.verifier)
        key_files = KeyFiles(config)
        ledger, table = self._open_ledger_and_table(keys)
        vault = self._open_vault(keys, ledger, table)
        with table.read() as snapshot:
            table_size = snapshot.size or ledger.state.size  # a new table has rows of nobody
        now_ms = self._clock.wall_ms() if restored is None else 0  # no reader accepts the heartbeat 0
        if restored is not None:
            # A copy may lack the ERASURE itself. Without the key, the table that is made now has nothing of the person.
            destroy_listed(vault, ErasureList(config.ledger.last_signed_path.with_name(LIST_NAME)))
        applied = catch_up(table, ledger.store, vault, size=ledger.state.size, wall_ms=now_ms)
        if applied:
            log.info("table caught up with %d leaves", applied)
        in_force = KeysInForce(keys.statement, keys.log)
        if ledger.state.size:
            in_force = find_keys(key_files, ledger, table, origin=config.ledger.origin)
        listed = self._destroy_again(ledger, table, vault, table_size)
        sequencer = self._start_sequencer(keys, in_force, key_files, ledger, table, vault)
        target = ScrubTarget(
            ledger=ledger, vault=vault, table=table, origin=config.ledger.origin, log_verifier=keys.log.verifier,
            last_signed_path=config.ledger.last_signed_path if restored is None else None,
            erased_since=frozenset() if restored is None else listed.tags(),
        )  # fmt: skip
        credential_rows = CredentialRows(credentials, table, sequencer.call)
        credential_rows.write()
        self._scrubber = Scrubber(
            config, target, sequencer=sequencer, metrics=self.metrics, clock=self._clock,
            put_credentials=credential_rows.write,
        )  # fmt: skip
        self._scrubber.start()
        credentials.begin()
        erasures = Erasures(
            ledger=ledger, vault=vault, table=table, sequencer=sequencer, listed=listed, clock=self._clock,
            metrics=self.metrics,
            refusal_retention_days=config.ledger.refusal_retention_days if restored is None else None,
        )  # fmt: skip
        erasures.start()
        authentication = Authentication(
            credentials, partial(named_participant, table), tokens, table=table, vault=vault, clock=self._clock,
            origin=config.ledger.origin,
        )  # fmt: skip
        operations = Operations(clock=self._clock, metrics=self.metrics, rest=self._rpc.rest)
        return Services(
            config=config, ledger=ledger, vault=vault, table=table, sequencer=sequencer, metrics=self.metrics,
            credentials=credentials, credential_rows=credential_rows, authentication=authentication,
            operations=operations, key_files=key_files, erasures=erasures,
            backup_times=backup_times.of_ledger(ledger), page_key=vault.derived_key(PAGE_KEY_LABEL), restored=restored,
        )  # fmt: skip

    def _open_credentials(self) -> Credentials:
        tls = self.config.grpc.tls
        credentials = Credentials(
            self.config.callers.credentials_file, self.config.ledger.issued_credentials_path, clock=self._clock,
            has_certificates=tls is not None and tls.client_ca_file is not None,
        )  # fmt: skip
        self._closers.append(credentials.close)
        if self.config.ledger.store_dir.exists() and not self.config.ledger.issued_credentials_path.exists():
            log.warning("issued credentials are missing: `%s`", self.config.ledger.issued_credentials_path)
        self.metrics.credential_end_time_seconds.follow(credentials.next_end_s)
        return credentials

    def _open_ledger_and_table(self, keys: Keys) -> tuple[Ledger, Table]:
        config = self.config
        store = RocksStore.open(config.ledger.store_dir, block_cache_mb=config.ledger.block_cache_mb)
        self._closers.append(store.close)
        # INVARIANT: this lock is held until the sequencer has stopped, so that no other process signs meanwhile.
        last_signed = config.ledger.last_signed_path
        self._signing_lock = FileLock(last_signed.with_name(last_signed.name + ".lock"), program="daemon")
        self._closers.append(self._signing_lock.close)
        table = Table.open(config.table.path, map_size_mb=config.table.map_size_mb)
        self._closers.append(table.close)
        measure_space(self.metrics, config, table)
        ledger = open_ledger(
            store, last_signed_path=last_signed, origin=config.ledger.origin, log_verifier=keys.log.verifier,
            map_bits=config.ledger.map_bits, restored=self._restored,
        )  # fmt: skip
        self.metrics.map_bytes.set(64 << ledger.state.map_bits)
        self.metrics.ledger_size.set(ledger.state.size)
        return ledger, table

    def _open_vault(self, keys: Keys, ledger: Ledger, table: Table) -> Vault:
        path = self.config.ledger.vault_dir
        if ledger.state.size:
            check_vault_files(path, ledger)
            with table.read() as snapshot:
                check_vault_state(path, ledger, is_table_empty=snapshot.size == 0)
        store = RocksStore.open(path, block_cache_mb=_VAULT_CACHE_MB, file_mb=_VAULT_FILE_MB)
        self._closers.append(store.close)
        vault = Vault(store, keys.keks, check_space=partial(check_space, self.config, False))
        if ledger.state.size:
            check_vault_commitment(ledger.store, vault, path)
            ledger.accept_vault(vault.state)
        if not vault.is_rotated:
            log.warning("rotation of the vault key is due or not finished: run `consentd rotate vault-key`")
        return vault

    def _destroy_again(self, ledger: Ledger, table: Table, vault: Vault, table_size: int) -> ErasureList:
        """Delete what a restored vault, ledger or table has of erased persons. *table_size*: see ``destroy_again``."""
        listed = ErasureList(self.config.ledger.last_signed_path.with_name(LIST_NAME))
        with table.read() as snapshot:
            last = snapshot.last_erasure()
        erasures = complete_list(listed, ledger.store, ledger.state.size, last)
        found = destroy_again(ledger.store, vault, erasures, table_size=table_size)
        if found:
            log.warning("erased persons were in a restored store, and are erased again: %d", found)
        return listed

    def _start_sequencer(
        self, keys: Keys, in_force: KeysInForce, key_files: KeyFiles, ledger: Ledger, table: Table, vault: Vault
    ) -> Sequencer:
        """Start the sequencer; if the ledger is empty, write its first entries."""
        config = self.config
        author = Author(config.ledger.origin, in_force.statement, vault, os.urandom)
        signers = (in_force.log,) if keys.log_mldsa is None else (in_force.log, keys.log_mldsa)
        publisher = self._make_publisher(in_force.log.verifier, ledger)
        assert self._signing_lock is not None, "the lock is taken before the ledger is opened"
        signing = CheckpointSigning(
            signers, config.ledger.last_signed_path, publisher, verify_lock=self._signing_lock.verify,
            from_size=in_force.from_size, next_key=in_force.next_log_key,
        )  # fmt: skip
        limits = SequencerLimits(
            checkpoint_interval_ms=config.ledger.checkpoint_interval_ms,
            max_waiting=config.pool.max_waiting, max_batch=config.pool.max_batch,
            idempotency_ms=config.ledger.idempotency_days * DAY_MS,
        )  # fmt: skip
        make = Sequencer if self._restored is None else RestoredSequencer
        sequencer = make(
            ledger=ledger, table=table, author=author, signing=signing, limits=limits, clock=self._clock,
            metrics=self.metrics, confirm_clock=self._confirm_clock, check_space=partial(check_space, config),
            on_fault=lambda: self._rpc.set_serving(False), on_new_key=partial(_settle, key_files),
        )  # fmt: skip
        sequencer.start()
        try:
            if ledger.state.size == 0:
                note_first_start(config, keys.log.verifier)
                log.warning("a new ledger begins: `%s` in `%s`", config.ledger.origin, config.ledger.store_dir)
                self._write_first_entries(sequencer, author, keys)
            end_first_start(config)
        except BaseException:
            sequencer.stop()  # before the stores that the sequencer writes to are closed
            raise
        return sequencer

    def _write_first_entries(self, sequencer: Sequencer, author: Author, keys: Keys) -> None:
        sequencer.submit(first_entries(self.config.ledger, author, keys)).result()

    def _make_publisher(self, log_key: Verifier, ledger: Ledger) -> Publisher:
        is_restored = self._restored is not None
        return make_publisher(
            self.config, log_key, ledger, clock=self._clock, metrics=self.metrics, is_restored=is_restored
        )


def serve(config: Config, *, signals: Signals | None = None, confirm_clock: bool = False) -> None:
    """Run a daemon until SIGTERM or SIGINT. On SIGHUP the daemon reads its credentials and TLS files again.

    *signals*: the signals that were received since the process began; None: receive them from now on. A signal that
    arrives during the start is handled after the start.

    Raises:
        ConsentdError: the daemon could not start.
    """
    signals = signals or Signals.receive()
    config = gate_process.with_installed(config)
    log.info("limit of open files: %d", descriptors.raise_limit())
    hold_reserve()
    daemon = Daemon(config, confirm_clock=confirm_clock)
    daemon.start()
    shorten_pauses()
    with gate_process.started_gate(config, daemon.service_state, socket=daemon.gate_socket) as gate:
        while signals.next() == signal.SIGHUP:
            daemon.reload()
            if gate is not None:
                gate.reload()
    daemon.stop()


def _settle(key_files: KeyFiles, role: RotationRole, key: bytes) -> None:
    """Put the file of a new key in its place. If that fails, the next start does it: it finds the key."""
    try:
        key_files.settle(role, key)
    except ConsentdError as error:
        log.error("key is in force, and its file is not in its place yet: %s", error)


def _reload(reload: Callable[[], None], failed: str) -> None:
    """Run a step of ``Daemon.reload``; if it fails, log *failed* and the reason."""
    try:
        reload()
    except ConsentdError as error:
        log.error("%s: %s", failed, error)
    except Exception as error:
        # The message of an unknown exception may show a line of the file: log only its type and traceback.
        log.error("%s: bug: %s", failed, type(error).__name__, exc_info=error)
