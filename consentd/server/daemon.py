"""Build the daemon, serve, drain.

Start: gRPC and HTTP listen at once and answer NOT_SERVING, while stores are opened, ledger and table verified and
caught up. Drain (SIGTERM, SIGINT): NOT_SERVING first, then calls in flight end, then the sequencer writes, seals and
publishes what waits, then stores close. Nothing acknowledged is lost either way.
"""

import hashlib
import logging
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from consentd.clock import Clock, SystemClock
from consentd.config import Config, TlsConfig
from consentd.core import codec, note
from consentd.core.kinds import Owner
from consentd.core.pruned import DAY_MS
from consentd.cosigning.mldsa import format_mldsa_vkey
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.files import lock_file
from consentd.ledger.ledger import Ledger
from consentd.ledger.reads import open_entry, read_entry
from consentd.ledger.recovery import open_ledger
from consentd.ledger.vault import Vault
from consentd.metrics import Metrics
from consentd.sequencer.checkpoints import CheckpointSigning
from consentd.sequencer.commands.genesis import default_genesis
from consentd.sequencer.commands.write import Author
from consentd.sequencer.loop import Sequencer, SequencerLimits
from consentd.server.disk_metrics import follow_room
from consentd.server.http import HttpServer
from consentd.server.keys import Keys, read_keys
from consentd.server.preflight import look_at_ledger, look_at_vault
from consentd.server.publishing import make_publisher
from consentd.server.scrubber import Scrubber
from consentd.service.access import AccessService
from consentd.service.auth import Authenticator, read_credentials
from consentd.service.consents import ConsentService
from consentd.service.policy import PolicyService
from consentd.service.proofs import LedgerService
from consentd.service.registry import RegistryService
from consentd.service.rpc import Pooled, ServiceRegistration
from consentd.service.servicer import Services, ServiceState
from consentd.statements.payloads import parse
from consentd.store import Store
from consentd.store.rocks import RocksStore
from consentd.table.table import Table, catch_up
from consentd.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    consent_service_pb2,
    consent_service_pb2_grpc,
    error_reason_pb2,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    statement_pb2,
)

log = logging.getLogger(__name__)

WAITING_THREADS = 64
"""Threads for calls that wait, for a commit or a checkpoint: as many writes can share one commit."""
WATCHING_THREADS = 32
"""Streams of health that are served at once; further ones wait. Whoever only asks now and then needs none."""
DRAIN_S = 10
"""How long calls in flight may take to end, once the daemon drains."""
SERVICES: tuple[tuple[Any, Any, Any], ...] = (
    (registry_service_pb2, registry_service_pb2_grpc.add_RegistryServiceServicer_to_server, RegistryService),
    (consent_service_pb2, consent_service_pb2_grpc.add_ConsentServiceServicer_to_server, ConsentService),
    (policy_service_pb2, policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, PolicyService),
    (access_service_pb2, access_service_pb2_grpc.add_AccessServiceServicer_to_server, AccessService),
    (ledger_service_pb2, ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerService),
)


class Daemon:
    """One ledger, served. ``start`` returns once it is ready; ``stop`` drains."""

    def __init__(self, config: Config, *, clock: Clock | None = None, confirm_clock: bool = False) -> None:
        self.config = config
        self.metrics = Metrics()
        self.metrics.quorum.set(1)  # whether there is one is told by the sequencer, once there is something to publish
        for reason in error_reason_pb2.ErrorReason.keys()[1:]:
            self.metrics.errors.begin(reason.removeprefix("ERROR_REASON_"))
        self.service_state = ServiceState(self.metrics)
        self._clock = clock or SystemClock()
        self._confirm_clock = confirm_clock
        # Without threads of its own it sends under a lock that the end of a stream waits for: a watcher that leaves
        # while the health changes would hold up the drain for ever.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._pool = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="waiting")
        self._watchers = ThreadPoolExecutor(WATCHING_THREADS, thread_name_prefix="watching")
        self._grpc = self._build_grpc()
        self._http = HttpServer(config, self.service_state)
        self._closers: list[Any] = []
        self._scrubber: Scrubber | None = None
        self.authenticator: Authenticator | None = None
        self.grpc_port = 0

    @property
    def http_port(self) -> int:
        """The port HTTP listens on."""
        return self._http.port

    def start(self) -> None:
        """Listen, open and verify everything, then serve.

        Raises:
            ConsentdError: something was wrong; everything is closed again.
        """
        self.grpc_port = self._listen()
        self._grpc.start()
        self._http.start()
        try:
            self.service_state.services = services = self._open()
        except BaseException:
            self.stop()
            raise
        self._set_serving(True)
        if services.sequencer.fault is not None:
            self._set_serving(False)  # it stopped already, and what it said of that was overwritten just now
        log.info("serving gRPC on port %d and HTTP on port %d", self.grpc_port, self.http_port)

    def stop(self) -> None:
        """Drain: see the module's text."""
        self._set_serving(False)
        services, self.service_state.services = self.service_state.services, self.service_state.services
        self._grpc.stop(DRAIN_S).wait()
        self.service_state.services = None
        if self._scrubber is not None:
            self._scrubber.stop()
        if services is not None:
            services.sequencer.stop()
        self._http.stop()
        self._pool.shutdown()
        self._watchers.shutdown()
        for closer in reversed(self._closers):
            try:
                closer()
            except ConsentdError as error:
                # Nothing is lost by it, for what was acknowledged was synced then; and the other stores close too.
                log.error("store did not close cleanly: %s", error)
        self._closers = []
        log.info("stopped")

    def reload_credentials(self) -> None:
        """Read the credentials file again; a bad one changes nothing, and is logged."""
        try:
            credentials = read_credentials(self.config.callers.credentials_file)
        except ConsentdError as error:
            log.error("credentials not reloaded: %s", error)
            return
        if self.authenticator is not None:
            self.authenticator.credentials = credentials
            counts = len(credentials.tokens), len(credentials.certificates)
            log.info("credentials reloaded: %d tokens, %d certificates", *counts)

    # -- steps ------------------------------------------------------------------------------------------------

    def _open(self) -> Services:
        config, keys = self.config, read_keys(self.config)
        self.authenticator = Authenticator(read_credentials(config.callers.credentials_file))
        look_at_ledger(config, keys.log.verifier)
        store = self._opened(RocksStore.open(config.ledger.store_dir, block_cache_mb=config.ledger.block_cache_mb))
        # INVARIANT: held until the sequencer has ended, so that nobody else signs in between.
        path = config.ledger.last_signed_path
        self._closers.append(partial(os.close, lock_file(path.with_name(path.name + ".lock"), program="daemon")))
        table = Table.open(config.table.path, map_size_mb=config.table.map_size_mb)
        self._closers.append(table.close)
        follow_room(self.metrics, config, table)
        ledger = open_ledger(
            store,
            last_signed_path=config.ledger.last_signed_path,
            origin=config.ledger.origin,
            log_verifier=keys.log.verifier,
            map_bits=config.ledger.map_bits,
        )
        self.metrics.map_bytes.set(64 << ledger.state.map_bits)
        self.metrics.ledger_size.set(ledger.state.size)
        if ledger.state.size:
            look_at_vault(config.ledger.vault_dir, ledger)
        vault = Vault(self._opened(RocksStore.open(config.ledger.vault_dir, block_cache_mb=8)), keys.vault)
        if ledger.state.size:
            check_vault(ledger, vault, config.ledger.vault_dir)
        behind = catch_up(table, ledger, vault, self._clock.wall_ms())
        if behind:
            log.info("table caught up with %d leaves", behind)
        if ledger.state.size:
            check_statement_key(table, keys, config.keys.statement_key_file)
        author = Author(config.ledger.origin, keys.statement, vault, os.urandom)
        sequencer = self._sequencer(keys, author, ledger, table)
        sequencer.start()
        try:
            if ledger.state.size == 0:
                # Said aloud: where a disk was not mounted, this is a second ledger of the same name.
                log.warning("a new ledger begins: `%s` in `%s`", config.ledger.origin, config.ledger.store_dir)
                self._begin(sequencer, author, keys)
        except BaseException:
            sequencer.stop()  # before what it writes to is closed
            raise
        self._scrubber = Scrubber(
            config,
            ledger=ledger,
            vault=vault,
            table=table,
            log_verifier=keys.log.verifier,
            sequencer=sequencer,
            metrics=self.metrics,
            clock=self._clock,
        )
        self._scrubber.start()
        return Services(
            config=config,
            ledger=ledger,
            vault=vault,
            table=table,
            sequencer=sequencer,
            metrics=self.metrics,
            authenticator=self.authenticator,
            page_key=hashlib.sha256(b"consentd/page/v1\0" + keys.statement.seed).digest(),
        )

    def _opened(self, store: RocksStore) -> Store:
        self._closers.append(store.close)
        return store

    def _sequencer(self, keys: Keys, author: Author, ledger: Ledger, table: Table) -> Sequencer:
        config = self.config
        signers = (keys.log,) if keys.log_mldsa is None else (keys.log, keys.log_mldsa)
        return Sequencer(
            ledger=ledger,
            table=table,
            author=author,
            signing=CheckpointSigning(
                signers,
                config.ledger.last_signed_path,
                make_publisher(config, keys, ledger, metrics=self.metrics, clock=self._clock),
            ),
            limits=SequencerLimits(
                checkpoint_interval_ms=config.ledger.checkpoint_interval_ms,
                max_waiting=config.pool.max_waiting,
                max_batch=config.pool.max_batch,
                idempotency_ms=config.ledger.idempotency_days * DAY_MS,
            ),
            clock=self._clock,
            metrics=self.metrics,
            confirm_clock=self._confirm_clock,
            on_fault=self._set_not_serving,
        )

    def _begin(self, sequencer: Sequencer, author: Author, keys: Keys) -> None:
        """Write the first entries of an empty ledger."""
        verifier_keys = [note.format_vkey(keys.log.verifier)]
        if keys.log_mldsa is not None:
            verifier_keys.append(format_mldsa_vkey(keys.log_mldsa.verifier))
        ledger = self.config.ledger
        genesis = default_genesis(
            author, verifier_keys=verifier_keys, map_bits=ledger.map_bits, retention_days=ledger.retention_days
        )
        sequencer.submit(genesis).result()

    def _build_grpc(self) -> grpc.Server:
        limit = self.config.grpc.max_message_bytes
        server = grpc.server(
            ThreadPoolExecutor(self.config.grpc.threads, thread_name_prefix="check"),
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_metadata_size", 16 * 1024),
                ("grpc.so_reuseport", 0),
            ],
        )
        names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        registration = ServiceRegistration(server, self._pool, self.metrics)
        for module, add, servicer_type in SERVICES:
            (service,) = module.DESCRIPTOR.services_by_name.values()
            add(servicer_type(self.service_state), registration)
            names.append(service.full_name)
        self._health.Watch = Pooled(self._health.Watch, self._watchers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        described = reflection.ReflectionServicer(names)
        # Its stream lasts as long as the client likes: it has a thread of its own, and takes none from the checks.
        one_thread = ThreadPoolExecutor(1, thread_name_prefix="reflection")
        described.ServerReflectionInfo = Pooled(described.ServerReflectionInfo, one_thread)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, server)
        self._service_names = ["", *names[2:]]
        self._set_serving(False)
        return server

    def _listen(self) -> int:
        address, tls = self.config.grpc.listen, self.config.grpc.tls
        try:
            if tls is None:
                return self._grpc.add_insecure_port(address)
            return self._grpc.add_secure_port(address, server_credentials(tls))
        except RuntimeError as error:
            raise StorageError(f"cannot listen on `{address}`: is another daemon running?") from error

    def _set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._service_names:
            self._health.set(name, status)
        self.metrics.ready.set(serving)

    def _set_not_serving(self) -> None:
        self._set_serving(False)


def check_vault(ledger: Ledger, vault: Vault, path: Path) -> None:
    """Check that the vault is the one this ledger was begun with: beside another, everybody would seem to be erased.

    Raises:
        CorruptionError: it is not.
    """
    first = read_entry(ledger.store, codec.LEDGER_TAG, 1)
    opened = open_entry(vault, first)
    assert opened is not None, "a public chain's statement is in the clear"
    stated = parse(statement_pb2.LedgerStatement, codec.decode_statement(opened[1]).payload)
    if stated.vault_commitment != vault.commitment():
        raise CorruptionError(
            f"vault is not this ledger's: `{path}`; restore the vault's backup, see ops/RUNBOOK.md, `vault lost`"
        )


def check_statement_key(table: Table, keys: Keys, path: Path) -> None:
    """Check that the statement key is the ledger's: what another one signs, no auditor accepts.

    Raises:
        StorageError: it is not in force in chain `ledger`.
    """
    with table.read() as snapshot:
        owner = snapshot.key_owner(keys.statement.public_key)
    if owner is None or owner.kind is not Owner.LEDGER:
        raise StorageError(f"statement key is not this ledger's: `{path}`; restore the file it was begun with")


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Return gRPC's credentials from the files of a TLS section.

    Raises:
        StorageError: a file cannot be read.
    """

    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise StorageError(f"TLS file cannot be read: `{path}`: {error.strerror}") from error

    pair = (read(tls.key_file), read(tls.cert_file))
    if tls.client_ca_file is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials([pair], read(tls.client_ca_file), require_client_auth=True)


def serve(config: Config, *, confirm_clock: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the credentials again.

    Raises:
        ConsentdError: it could not start.
    """
    done = threading.Event()
    daemon = Daemon(config, confirm_clock=confirm_clock)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    signal.signal(signal.SIGHUP, lambda *_: daemon.reload_credentials())
    daemon.start()
    done.wait()
    daemon.stop()
