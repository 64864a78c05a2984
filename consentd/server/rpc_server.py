"""The gRPC server: its services, the threads that run their calls, and the answers of its health service."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from consentd.config import GrpcConfig, TlsConfig
from consentd.errors import StorageError
from consentd.service.access import AccessService
from consentd.service.consents import ConsentService
from consentd.service.policy import PolicyService
from consentd.service.proofs import LedgerService
from consentd.service.registry import RegistryService
from consentd.service.rpc import Pooled, ServiceRegistration
from consentd.service.servicer import ServiceState
from consentd.v1 import (
    access_service_pb2_grpc,
    consent_service_pb2_grpc,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)  # fmt: skip

WAITING_THREADS = 64
"""Number of threads for calls that wait for a commit or a checkpoint, so at most this many writes share a commit."""
WATCHING_THREADS = 32
"""How many health streams (``Watch``) are served at a time; further streams wait. ``Check`` is not limited."""
DRAIN_S = 10
"""How many seconds calls in flight may take to end when the server stops."""


class RpcServer:
    """A gRPC server with all services. Its health service answers NOT_SERVING until ``set_serving(True)``."""

    def __init__(self, config: GrpcConfig, service_state: ServiceState) -> None:
        self._config = config
        self._metrics = service_state.metrics
        self._server = grpc.server(
            ThreadPoolExecutor(config.threads, thread_name_prefix="check"),
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_metadata_size", 16 * 1024),
                ("grpc.so_reuseport", 0),
            ],
        )
        # ``experimental_non_blocking`` is off: if on, it sends changes of health under a lock that the end of a stream
        # also takes. A client that ends its stream while the health changes could then block the drain for ever.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._waiting = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="waiting")
        self._watching = ThreadPoolExecutor(WATCHING_THREADS, thread_name_prefix="watching")
        self._services = self._add_services(service_state)
        self.set_serving(False)

    def listen(self) -> int:
        """Listen on the configured address, and return the port. No call is answered before ``start``.

        Raises:
            StorageError: the address cannot be listened on, or a TLS file cannot be read.
        """
        address, tls = self._config.listen, self._config.tls
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, read_server_credentials(tls))
        except RuntimeError as error:
            raise StorageError(f"cannot listen on `{address}`: is another daemon running?") from error

    def start(self) -> None:
        """Begin to answer calls."""
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """Set the health that the health service reports for every service, and the metric ``ready``."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._services):
            self._health.set(name, status)
        self._metrics.ready.set(serving)

    def drain(self) -> None:
        """Refuse new calls, and wait until all calls have ended; cancel calls that take longer than ``DRAIN_S``."""
        self._server.stop(DRAIN_S).wait()

    def close(self) -> None:
        """End the threads. Call this after ``drain``."""
        self._waiting.shutdown()
        self._watching.shutdown()

    def _add_services(self, service_state: ServiceState) -> tuple[str, ...]:
        """Add our services, and gRPC's services for health and reflection; return the names of our services."""
        ours = ServiceRegistration(self._server, self._waiting, self._metrics)
        server: Any = ours  # the annotations of generated code accept only a ``grpc.Server``
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryService(service_state), server)
        consent_service_pb2_grpc.add_ConsentServiceServicer_to_server(ConsentService(service_state), server)
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(PolicyService(service_state), server)
        access_service_pb2_grpc.add_AccessServiceServicer_to_server(AccessService(service_state), server)
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(LedgerService(service_state), server)
        self._health.Watch = Pooled(self._health.Watch, self._watching)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        described = reflection.ReflectionServicer([health.SERVICE_NAME, reflection.SERVICE_NAME, *ours.services])
        # The client decides how long a reflection stream lasts. On a thread of its own, it cannot block other calls.
        one_thread = ThreadPoolExecutor(1, thread_name_prefix="reflection")
        described.ServerReflectionInfo = Pooled(described.ServerReflectionInfo, one_thread)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, self._server)
        return tuple(ours.services)


def read_server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Return gRPC's server credentials from the files that a TLS section of the configuration names.

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
