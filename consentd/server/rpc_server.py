"""The gRPC server: admits each call into its pool, runs its handler there, and sends the answer.

A call goes through these steps. Only ``handle`` and what follows it take a thread, and that of the call's own pool; a
check that is the only one in flight needs none (``pools.Shortcut``).

1. ``begin``, when the headers are there: find the RPC, authenticate the caller, enter the pool. A call that fails here
   is refused, and its message is neither awaited nor decoded.
2. ``received``, when the message is there: check its length, and the bytes that are held in all.
3. ``handle``: decode the message, and run the handler. A handler that waits for a write gives its thread back
   (``Waiting``), and so does a stream while its peer takes a message.
4. ``finish``: the answer is sent. The call leaves its pool when the peer has taken it, or the time limit has passed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc

from consentd import descriptors
from consentd.config import GrpcConfig
from consentd.errors import ConsentdError, InvalidError, OverloadedError, StorageError
from consentd.server.call import Call, TimeLimits
from consentd.server.handlers import Held, make_handle
from consentd.server.health import CAPACITY, HEALTH, REFLECTION, Health, describe
from consentd.server.pools import BUSY, Pool, PoolName, make_pools
from consentd.server.refusals import RefusalBudget
from consentd.server.tickets import Bytes, Ticket
from consentd.server.tls import RpcCertificates
from consentd.server.transport import Transport
from consentd.service.access import AccessService
from consentd.service.admin import AdminService
from consentd.service.authentication import Authentication, Caller, check_message
from consentd.service.consents import ConsentService
from consentd.service.context import Status
from consentd.service.policy import PolicyService
from consentd.service.proofs import LedgerService
from consentd.service.registry import RegistryService
from consentd.service.roles import TABLE, needs_credential
from consentd.service.rpc import refusal
from consentd.service.servicer import ServiceState
from consentd.v1 import (
    access_service_pb2_grpc,
    admin_service_pb2_grpc,
    consent_service_pb2_grpc,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)  # fmt: skip

DRAIN_S = 10
"""How many seconds calls in flight may take to end when the server stops."""
_DRAIN_STEP_S = 0.005
_PENDING = 20_000  # calls whose headers are there, and which the transport has not taken yet
_PARKED = 8  # times ``max_calls``: how many refused calls may wait for their answer
_WINDOW = 16 * 1024  # bytes of a message that a peer may send before the call is admitted
_CONNECTION_AGE_MS = 3_600_000  # then clients connect anew: an authority that was taken out counts for no longer
_KEEPALIVE_MS = 60_000  # how often a silent peer is asked whether it is still there
_LEAST_PING_MS = 10_000  # how often a client may ask the same; our Python client asks half as often

_POOLS: dict[str, PoolName] = {
    "Check": PoolName.CHECK,
    "BatchCheck": PoolName.BATCH,
    "RevokeConsent": PoolName.REVOKE,
    "PauseConsent": PoolName.REVOKE,
    "EndAuthority": PoolName.REVOKE,
    "GetHistory": PoolName.STREAM,
    **dict.fromkeys(("ListReconsents", "ListExpiring", "ListDueTransfers"), PoolName.SCAN),
    "StartPruning": PoolName.ADMIN,
    "PrepareKeyRotation": PoolName.ADMIN,
    "StartKeyRotation": PoolName.ADMIN,
    "StartVaultKeyRotation": PoolName.ADMIN,
    "StartBackup": PoolName.ADMIN,
    "CancelOperation": PoolName.ADMIN,
    "AddCredential": PoolName.ADMIN,
    "RevokeCredential": PoolName.ADMIN,
}
"""The pool of an RPC. All others are in that of the beginning of their name, or are writes."""
_OF_PREFIX = {"Get": PoolName.READ, "List": PoolName.READ, "Batch": PoolName.WRITE_BATCH}
_WITHOUT_CALLER = (PoolName.HEALTH, PoolName.TOOLS)  # in these pools nobody asks for a credential


def pool_of(name: str) -> PoolName:
    """Return the pool of an RPC of this project. *name*: of its method."""
    found = (pool for prefix, pool in _OF_PREFIX.items() if name.startswith(prefix))
    return _POOLS.get(name) or next(found, PoolName.WRITE)


@dataclass(frozen=True, slots=True)
class Route:
    """An RPC: its name, its pool, and how a message is handled.

    Attributes:
        is_open: whether callers without a known credential may call it.
        handle: runs a call with its first message, on a thread of the pool or on the transport's (``Pool.begin``); the
            call is held, and ``handle`` releases it.
    """

    name: str
    pool: PoolName
    is_open: bool
    handle: Callable[[Pool, Call, bytes], None]


class RpcServer:
    """A gRPC server with all services. Its health service answers NOT_SERVING until ``set_serving(True)``.

    Attributes:
        certificates: the certificates that it listens with; None: it does not listen, or not with TLS.
    """

    def __init__(self, config: GrpcConfig, service_state: ServiceState) -> None:
        self._config = config
        self._state = service_state
        self._metrics = service_state.metrics
        self._health = Health()
        self._pools = make_pools(config, self._metrics, self._report_capacity)
        self._bytes = Bytes(config.max_request_bytes)
        self._routes: dict[bytes, Route] = {}
        self._services: list[str] = []
        self._is_draining = False
        self.certificates: RpcCertificates | None = None
        self._add_services(service_state)
        limits = TimeLimits(receive_s=config.receive_timeout_ms / 1000, send_s=config.send_timeout_ms / 1000)
        self._budget = RefusalBudget()
        self._transport = Transport(
            self._begin, on_late=self._end_late, limits=limits, options=_options(config),
            most_parked=_PARKED * config.max_calls,
        )  # fmt: skip
        self._metrics.calls_parked.follow(lambda: len(self._transport.parked))
        self._metrics.calls_parked_limit.set(self._transport.parked.most)
        self.set_serving(False)
        self._report_capacity()

    def listen(self, gate_socket: Path | None = None) -> int:
        """Listen on the configured address, and return the port. No call is answered before ``start``.

        *gate_socket*: the Unix socket of the gate (``consentd/server/gate_peer.py``); None: there is no gate.

        Raises:
            InvalidError: the TLS files do not fit.
            StorageError: the address cannot be listened on, or a TLS file cannot be read.
        """
        tls = self._config.tls
        self.certificates = None if tls is None else RpcCertificates(tls)
        credentials = None if self.certificates is None else self.certificates.credentials()
        if gate_socket is not None:
            self._transport.listen(f"unix:{gate_socket}", None)
        return self._transport.listen(self._config.listen, credentials)

    def start(self) -> None:
        """Begin to answer calls."""
        self._transport.start()

    def set_serving(self, serving: bool) -> None:
        """Set the health that the health service reports for every service, and the metric ``ready``."""
        self._health.set(("", *self._services), serving=serving)
        self._metrics.ready.set(serving)

    def set_reading(self) -> None:
        """Report that only the services serve that a restored copy answers: those of proofs and of the registry."""
        names = [name for name in self._services if name.endswith((".LedgerService", ".RegistryService"))]
        self._health.set(names, serving=True)

    def drain(self) -> None:
        """Refuse new calls, and wait until all calls have ended; cancel calls that take longer than ``DRAIN_S``.

        The core cancels calls that arrive after its shutdown, and CANCELLED gives their callers no reason. So the calls
        in flight end first, while new ones are refused with UNAVAILABLE, and few callers still call at the shutdown.
        """
        self._is_draining = True
        self._health.end_watches()
        end_s = time.monotonic() + DRAIN_S
        while any(pool.in_flight for pool in self._pools.values()) and time.monotonic() < end_s:
            time.sleep(_DRAIN_STEP_S)
        self._transport.stop(max(0.0, end_s - time.monotonic()))

    def rest(self, worked_s: float) -> None:
        """Rest after *worked_s* seconds of work that no call waits for, if calls that come first need the processor."""
        self._pools[PoolName.ADMIN].rest(worked_s)

    def close(self) -> None:
        """End the threads, after ``drain``."""
        for pool in self._pools.values():
            pool.close()

    def _report_capacity(self) -> None:
        serving = not any(pool.is_saturated for pool in self._pools.values())
        self._health.set((CAPACITY,), serving=serving)

    # -- the RPCs ---------------------------------------------------------------------------------------------

    def _add_services(self, state: ServiceState) -> None:
        """Add our services, and gRPC's services for health and reflection."""
        # Generated code takes this object for a server, and calls its ``add_registered_method_handlers``.
        for add, service in (
            (registry_service_pb2_grpc.add_RegistryServiceServicer_to_server, RegistryService),
            (consent_service_pb2_grpc.add_ConsentServiceServicer_to_server, ConsentService),
            (policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, PolicyService),
            (access_service_pb2_grpc.add_AccessServiceServicer_to_server, AccessService),
            (ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerService),
            (admin_service_pb2_grpc.add_AdminServiceServicer_to_server, AdminService),
        ):
            cast(Callable[[object, object], None], add)(service(state), self)
        self._describe = describe(self._services)
        self._add(HEALTH, Route("Check", PoolName.HEALTH, is_open=True, handle=self._check_health))
        self._add(HEALTH, Route("Watch", PoolName.TOOLS, is_open=True, handle=self._watch_health))
        self._add(REFLECTION, Route("ServerReflectionInfo", PoolName.TOOLS, is_open=True, handle=self._reflect))

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Do nothing: generated code also adds the same handlers by ``add_registered_method_handlers``."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of *service*, by method name."""
        self._services.append(service)
        unlisted = handlers.keys() - TABLE.keys()
        assert not unlisted, f"no line of the table says who may call: {sorted(unlisted)}"
        for name, handler in handlers.items():
            route = Route(name, pool_of(name), is_open=not needs_credential(name), handle=make_handle(handler))
            self._add(service, route)
            self._metrics.rpcs.begin(name, "INTERNAL")

    def _add(self, service: str, route: Route) -> None:
        self._routes[f"/{service}/{route.name}".encode()] = route

    # -- the steps of a call, on the transport's thread -------------------------------------------------------

    def _begin(self, call: Call) -> None:
        """Refuse a call, or admit it and begin to receive its message."""
        route = self._routes.get(call.method)
        if route is None:
            self._state.call_log.ended("", "UNIMPLEMENTED", call)
            self._refuse(call, Status(grpc.StatusCode.UNIMPLEMENTED, "no such method"))
            return
        try:
            ticket = self._admit(call, route)
        except StorageError as error:  # all callers get it while the daemon starts, and shall try again soon
            call.finish(refusal(error, self._state, route.name, call))
            return
        except ConsentdError as error:
            self._refuse(call, refusal(error, self._state, route.name, call))
            return
        call.receive(partial(self._received, call, route, ticket))

    def _admit(self, call: Call, route: Route) -> Ticket:
        """Authenticate the caller, and let the call enter its pool.

        Raises:
            StorageError: the daemon does not serve yet.
            UnauthenticatedError: the caller has no known credential, and the RPC needs one.
            OverloadedError: a limit on calls in flight is reached.
        """
        name = route.pool
        if name not in _WITHOUT_CALLER:
            caller = self._authenticate(call)
            call.caller, call.person, call.roles = caller.id, caller.person, caller.roles
            if not call.caller:
                call.fault = self._authentication().refusal(call, self._certificate(call), caller)
                if not route.is_open:
                    raise call.fault
                name = PoolName.ANYBODY
        waits, replays = self._pools[PoolName.WAIT], self._pools[PoolName.REPLAY]
        ticket = Ticket(call, self._pools[name], self._bytes, waits=waits, replays=replays)
        evicted = ticket.enter()
        call.on_release, call.begin_wait, call.give_way = ticket.leave, ticket.begin_wait, ticket.give_way
        call.is_known, call.begin_replay, call.put = partial(self._is_known, call), ticket.begin_replay, ticket.put
        if evicted is not None:
            waited = OverloadedError("call waited for its caller, while other callers came", BUSY)
            # Now, not later: until it ends, the core keeps the part of its message that has arrived.
            evicted.finish(refusal(waited, self._state, self._routes[evicted.method].name, evicted))
        return ticket

    def _refuse(self, call: Call, status: Status, *, cost: float = 1.0) -> None:
        """End a refused call, now or later; see ``consentd/server/refusals.py``."""
        if self._budget.take(call.caller, self._transport.clock_s, cost=cost):
            call.finish(status)
        else:
            self._metrics.refusals_parked.inc("known" if call.caller else "unknown")
            self._transport.park(call, status)

    def _authenticate(self, call: Call) -> Caller:
        return self._authentication().authenticate(call, self._certificate(call))

    def _certificate(self, call: Call) -> bytes | None:
        return call.certificate() if self._config.tls is not None else None

    def _authentication(self) -> Authentication:
        services = self._state.services
        if services is None or self._is_draining:
            raise StorageError("daemon is starting or draining", "NOT_SERVING")
        return services.authentication

    def _is_known(self, call: Call) -> bool:
        # Calls that began before a stop end as they would without it, so this does not ask whether the daemon drains.
        services = self._state.services
        if services is None:
            raise StorageError("daemon is draining", "NOT_SERVING")
        found = services.authentication.authenticate(call, self._certificate(call), is_new=False)
        return found.id == call.caller and found.roles >= call.roles

    def _received(self, call: Call, route: Route, ticket: Ticket, message: bytes | None) -> None:
        """Hand a message to the handler, on a thread of the pool."""
        pool = ticket.pool
        pool.goes_on(call)
        if message is None:
            if call.is_active():  # else the call was ended or cancelled before its message arrived
                call.finish(refusal(InvalidError("call has no message"), self._state, route.name, call))
            return
        try:
            ticket.take_bytes(len(message))
            check_message(call.person, message)
        except ConsentdError as error:
            # A long message has taken as much work as many refusals without one.
            self._refuse(call, refusal(error, self._state, route.name, call), cost=1 + len(message) / _WINDOW)
            return
        self._put(route.handle, pool, call, message)

    def _put(self, handle: Callable[[Pool, Call, bytes], None], pool: Pool, call: Call, message: bytes) -> None:
        """Run *handle* as a step. The call is held until the step has ended."""
        call.hold()
        pool.begin(partial(handle, pool, call, message), call.caller)

    def _end_late(self, call: Call) -> None:
        """End a call whose message did not arrive in time."""
        route = self._routes[call.method]
        has_own = call.caller or route.pool in _WITHOUT_CALLER
        self._metrics.calls_refused.inc(route.pool if has_own else PoolName.ANYBODY, "late")
        self._metrics.rpcs.inc(route.name, "DEADLINE_EXCEEDED")
        self._state.call_log.ended(route.name, "DEADLINE_EXCEEDED", call)
        call.finish(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's message did not arrive in time"))

    # -- gRPC's own services ----------------------------------------------------------------------------------

    def _check_health(self, pool: Pool, call: Call, message: bytes) -> None:
        with Held(call):
            self._health.check(call, message)

    def _watch_health(self, pool: Pool, call: Call, message: bytes) -> None:
        with Held(call):
            self._health.watch(call, message)

    def _reflect(self, pool: Pool, call: Call, message: bytes) -> None:
        """Answer one request of a reflection stream, and wait for the next one."""

        def received(following: bytes | None) -> None:
            pool.goes_on(call)
            if following is None:
                call.finish()
            elif len(following) > pool.limits.request_bytes:
                call.finish(Status(grpc.StatusCode.INVALID_ARGUMENT, "request is too long"))
            else:
                self._put(self._reflect, pool, call, following)

        def sent() -> None:
            pool.goes_on(call)
            pool.receives(call)
            call.receive(received)

        with Held(call):
            answer = self._describe(message)
            if answer is None:
                call.finish(Status(grpc.StatusCode.INVALID_ARGUMENT, "request does not decode"))
                return
            pool.sends(call)
            call.send(answer, sent)


def _options(config: GrpcConfig) -> list[tuple[str, Any]]:
    """Return the options of grpcio's core that limit connections, streams and messages."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        # No compression: grpcio before 1.83 inflates a message without a limit before it measures the message.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", descriptors.share(4, most=config.max_connections)),
        ("grpc.max_concurrent_streams", 4 * config.max_calls),
        # If more calls than these wait for ``Transport``, the core drops some at random, honest ones too. Peers that
        # open and reset streams all the time reach the defaults (1,000 and 3,000).
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING),
        # A call that is refused has sent no more of its message than its window. By default the windows grow with the
        # speed of the connection, to megabytes, and then refused calls take more processor time than all others.
        ("grpc.http2.lookahead_bytes", _WINDOW),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_connection_idle_ms", config.idle_timeout_ms),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.server_handshake_timeout_ms", config.receive_timeout_ms),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", config.send_timeout_ms),
        # By default the core closes the connection of a client that asks for a sign of life between calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_MS),
    ]
