"""A real daemon for tests: embedded RocksDB and LMDB in a temporary directory, gRPC and HTTP on loopback."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cases.fakes import HANG_S, FakeClock
from consentd.config import Config, parse
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key, write_private
from consentd.policy.delegation import Capacity
from consentd.server.daemon import Daemon
from consentd.server.keys import KEY_SECTIONS, make_keys
from consentd.service.auth import format_credential, make_token, new_line
from consentd.service.operator_roles import parse_roles
from consentd.service.servicer import Services
from consentd.statements.values import to_enum
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import (
    access_service_pb2_grpc,
    admin_service_pb2_grpc,
    consent_service_pb2_grpc,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd.verify.fsck import verify_files

ORIGIN = "consent.test/running"

RIGHTS = {
    "app": [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS, st.PARTICIPANT_RIGHT_SEE_REASONS],
    "er": [st.PARTICIPANT_RIGHT_BREAK_GLASS],
}
ROLES = {
    "hospital-a": [st.PARTICIPANT_ROLE_HOLDER],
    "clinic-b": [st.PARTICIPANT_ROLE_RECIPIENT],
    "er": [st.PARTICIPANT_ROLE_RECIPIENT, st.PARTICIPANT_ROLE_HOLDER],
    "app": [st.PARTICIPANT_ROLE_RELAY],
    "pipc": [st.PARTICIPANT_ROLE_AUDITOR],
}
GIVERS = ("hospital-a", "clinic-b", "er")
"""The participants that gave the app a delegation as their relay, so that it asks for them."""


def config_text(extra: str = "", *, origin: str = ORIGIN, grpc: str = "", **ledger: object) -> str:
    """Return a daemon's configuration file.

    *ledger*, *grpc*: further keys of these sections; *extra*: further sections.
    """
    given = {"data_dir": '"data"', "map_bits": 8, "block_cache_mb": 16, **ledger}
    options = "\n".join(f"{key} = {value}" for key, value in given.items())
    return f"""
[ledger]
origin = "{origin}"
{options}
{KEY_SECTIONS}[table]
map_size_mb = 256
[grpc]
listen = "127.0.0.1:0"
{grpc}
[http]
listen = "127.0.0.1:0"
{extra}
"""


def make_config(directory: Path, extra: str = "", **ledger: object) -> Config:
    """Return a configuration for a daemon that lives in *directory*."""
    return parse(config_text(extra, **ledger), base_dir=directory)


def request_id() -> bytes:
    return os.urandom(16)


class Running:
    """A daemon with a channel to it, and tokens for the operator and a few participants."""

    def __init__(
        self, config: Config, tokens: dict[str, str], *, make: Callable[..., Daemon] = Daemon, **options: Any
    ) -> None:
        self.config = config
        self.tokens = tokens
        self.keys: dict[str, list[KeyPair]] = {}
        """The keys in force of participants, which sign what is their own; ``services.add_key`` adds them."""
        self.daemon = make(config, **options)
        self.daemon.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.daemon.grpc_port}")
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        self.consents = consent_service_pb2_grpc.ConsentServiceStub(self.channel)
        self.policy = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(self.channel)
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def as_(self, who: str) -> tuple[tuple[str, str], ...]:
        """Return the metadata with which *who* calls."""
        return (("authorization", f"Bearer {self.tokens[who]}"),)

    def register(self) -> None:
        """Register the participants of ``ROLES``, and the app as the relay of ``GIVERS``."""
        for name, roles in ROLES.items():
            statement = st.ParticipantStatement(
                participant_id=name,
                name={"ko": "시험 기관", "en": name},
                roles=roles,
                rights=RIGHTS.get(name, []),
                active=True,
            )
            request = rs.RegisterParticipantRequest(request_id=request_id(), attested=statement)
            self.registry.RegisterParticipant(request, metadata=self.as_("operator"))
        for giver in GIVERS:
            self.delegate(giver, "app")

    def delegate(self, giver: str, taker: str, capacity: Capacity = Capacity.RELAY, **more: Any) -> None:
        """Write a delegation as its giver or the operator does. *more*: fields of the statement; ``ended``: end it."""
        message = st.DelegationStatement(giver=giver, taker=taker, capacity=to_enum(capacity), **more)
        if message.ended:
            end = rs.EndDelegationRequest(request_id=request_id(), attested=message)
            self.registry.EndDelegation(end, metadata=self.as_("operator"))
            return
        self.put_delegation(message)

    def put_delegation(self, message: st.DelegationStatement) -> pb.Receipt:
        """Put a delegation: signed by its giver if it has a key, else attested by the operator."""
        request, giver = rs.PutDelegationRequest(request_id=request_id()), message.giver
        if not self.keys.get(giver):
            request.attested.CopyFrom(message)
            return self.registry.PutDelegation(request, metadata=self.as_("operator")).receipt
        services = self.daemon.service_state.services
        assert services is not None, "the daemon has started"
        signed = sign_statement(
            self.keys[giver][-1], message, kind=EntryKind.DELEGATION, tag=codec.public_tag(f"participant/{giver}"),
            request=request.request_id, time_ms=services.sequencer.clock.wall_ms(),
        )  # fmt: skip
        request.signed.CopyFrom(signed)
        if giver not in self.tokens:
            self.add_caller(giver)
        return self.registry.PutDelegation(request, metadata=self.as_(giver)).receipt

    def add_caller(self, name: str) -> None:
        """Give *name* a token. Whether it is registered does not matter to this."""
        self.tokens[name] = make_token()
        write_private(self.config.callers.credentials_file, format_credential(self.tokens[name], name), append=True)
        self.daemon.reload_credentials()

    def add_operator(self, name: str, *roles: str) -> None:
        """Give the operator *name* a token with these roles."""
        self.tokens[name] = make_token()
        line = new_line(
            name, token=self.tokens[name], certificate_hash=b"", end_ms=0, label="", now_ms=1,
            roles=parse_roles(",".join(roles)),
        )  # fmt: skip
        write_private(self.config.callers.credentials_file, line, append=True)
        self.daemon.reload_credentials()

    def enrol(self, value: str) -> pb.Subject:
        subject = pb.Subject(scheme="mhid", value=value)
        request = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject, method="test")
        self.registry.EnrolSubject(request, metadata=self.as_("app"))
        return subject

    def grant(self, subject: pb.Subject, **root: Any) -> str:
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=consent(**root))
        )
        return self.consents.GrantConsent(request, metadata=self.as_("app")).consent_id

    def check(self, question: pb.Question, who: str = "app") -> pb.Decision:
        return self.policy.Check(ps.CheckRequest(question=question), metadata=self.as_(who)).decision

    def authorize(self, question: pb.Question, who: str = "app", **more: Any) -> ac.AuthorizeAccessResponse:
        request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question)
        for name, value in more.items():
            setattr(request, name, value)
        return self.access.AuthorizeAccess(request, metadata=self.as_(who))

    def wait_published(self) -> Services:
        """Wait until all that is written is published; return what the services use.

        A fake clock, which does not move by itself, is advanced until the next seal is due.
        """
        services = self.daemon.service_state.services
        assert services is not None
        size, sequencer = services.ledger.state.size, services.sequencer
        published = sequencer.checkpoints.published
        if isinstance(sequencer.clock, FakeClock) and (published is None or published.checkpoint.size < size):
            sequencer.clock.advance(self.config.ledger.checkpoint_interval_ms)
            sequencer.call(lambda: None)  # wakes the thread, which then finds the seal due
        assert sequencer.checkpoints.wait(size, HANG_S) is not None
        return services

    def check_ledger(self, not_checked: frozenset[str] = frozenset()) -> int:
        """Verify leaves, statements, signatures, map, lock and table from nothing; return how many leaves there are.

        *not_checked*: what cannot be determined.
        """
        services = self.wait_published()
        report = verify_files(
            services.ledger.store,
            origin=ORIGIN,
            log_verifier=read_signing_key(self.config.keys.log_key_file).verifier,
            last_signed_path=self.config.ledger.last_signed_path,
            vault=services.vault,
            table=services.table,
        )
        assert (report.faults, set(report.not_checked)) == ((), not_checked)
        assert report.size == services.ledger.state.size
        return report.size

    def stop(self) -> None:
        self.channel.close()
        self.daemon.stop()


def consent(**root: Any) -> pb.Consent:
    """Return a permit of treatment by clinic-b of hospital-a's clinical data, changed by *root*."""
    fields: dict[str, Any] = {
        "effect": pb.EFFECT_PERMIT,
        "actors": ["clinic-b"],
        "holders": ["hospital-a"],
        "purposes": ["TREAT"],
        "categories": ["CLIN"],
    }
    kind = root.pop("kind", pb.CONSENT_KIND_CONSENT)
    return pb.Consent(kind=kind, root=pb.Provision(**{**fields, **root}), language="ko")


def question(subject: pb.Subject, **changed: Any) -> pb.Question:
    """Return the question that ``consent`` permits, changed by *changed*."""
    fields: dict[str, Any] = {
        "subject": subject,
        "actor": pb.Actor(organisation="clinic-b"),
        "holder": "hospital-a",
        "purpose": "TREAT",
        "action": "disclose",
        "categories": ["CLIN.DX"],
    }
    return pb.Question(**{**fields, **changed})


def sign_statement(
    key: KeyPair, message: Message, *, kind: int, tag: bytes, request: bytes, time_ms: int, ref: int = 0
) -> pb.SignedStatement:
    """Return *message* as its author signs it: an entry of *kind* in the chain of *tag*, of request id *request*."""
    payload = message.SerializeToString()
    signed = codec.signed_message(
        origin=ORIGIN, kind=kind, tag=tag, ref=ref, request_id=request, author_time_ms=time_ms, payload=payload
    )
    return pb.SignedStatement(
        key=key.public_key, signature=key.sign(signed), author_time_ms=time_ms, payload=payload, ref=ref
    )


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """Return the google.rpc.Status of an RPC error; an empty one where gRPC itself made the error."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def reason_of(error: grpc.RpcError) -> str:
    """Return the ErrorInfo reason of an RPC error; empty where it has none."""
    return reason_in(status_of(error))


def reason_in(status: status_pb2.Status) -> str:
    """Return the ErrorInfo reason of a status, as an item of a batch has one; empty where it has none."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "consentd"
            return info.reason
    return ""


def make_running(
    directory: Path, extra: str = "", *, daemon: dict[str, Any] | None = None, **ledger: object
) -> Running:
    """Start a daemon in *directory*, with new keys and tokens, and register its participants."""
    config = make_config(directory, extra, **ledger)
    tokens = {"operator": make_keys(config)}
    for name in ROLES:
        tokens[name] = make_token()
        write_private(config.callers.credentials_file, format_credential(tokens[name], name), append=True)
    running = Running(config, tokens, **(daemon or {}))
    running.register()
    return running


@contextmanager
def running_daemon(directory: Path, extra: str = "", **ledger: object) -> Iterator[Running]:
    """Run a daemon for the length of a ``with`` block."""
    running = make_running(directory, extra, **ledger)
    try:
        yield running
    finally:
        running.stop()


def serve(running: Running) -> Iterator[Running]:
    """Yield a daemon to the tests of a module; verify its ledger after the last test, and stop it."""
    yield running
    running.check_ledger()
    running.stop()
