"""Ledgers with a retention policy, and what is pruned of them: one without a daemon, and one with it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from cases.daemons import ORIGIN, make_running, question, request_id
from cases.fakes import HANG_S
from cases.ledgers import LedgerCase, Person
from consentd.audit import verify as audit_verify
from consentd.audit.files import DataDirectory
from consentd.audit.live import LiveDaemon
from consentd.audit.sources import Location
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.note import format_vkey
from consentd.core.pruned import DAY_MS, Pruned
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import RequestError
from consentd.ledger import pruning, reads
from consentd.ledger.pruning import Stop
from consentd.policy import model
from consentd.sequencer.commands.ledger import StatePruning
from consentd.statements.values import consent_message
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd.verify import findings
from consentd.verify.fsck import Report, verify_files
from consentd_client import Client, History, RamMemory, pin

MONTH_DAYS = 30
"""Retention of a ``PruningCase``."""
DAYS = 730
"""Retention of a ``World``."""


class PruningCase(LedgerCase):
    """A ledger with a retention policy of a month."""

    retention_days = MONTH_DAYS

    def kept_from(self) -> int:
        return self.clock.wall_ms() - MONTH_DAYS * DAY_MS

    def plan(self) -> tuple[Pruned, Stop]:
        planning = pruning.plan_pruning(
            self.store, self.vault, kept_from_ms=self.kept_from(), size=self.ledger.state.size
        )
        try:
            while True:
                next(planning)
        except StopIteration as ended:
            found: tuple[Pruned, Stop] = ended.value
            return found

    def state(self, pruned: Pruned) -> None:
        """State a pruning, publish it."""
        self.write(StatePruning(pruned=pruned))
        self.seal()

    def sweep(self, pruned: Pruned) -> None:
        for batch, _ in pruning.delete_in_batches(self.store, self.vault, pruned):
            self.sequencer.call(lambda batch=batch: self.store.write(batch))

    def prune(self) -> Pruned:
        pruned, _ = self.plan()
        self.state(pruned)
        self.sweep(pruned)
        return pruned

    def consent(self, person: Person, *, days: float, retain_days: float = 0, signed: bool = False):
        """Return a grant that ends after some days."""
        now = self.clock.wall_ms()
        root = model.Provision(
            effect=model.Effect.PERMIT, actors=("bank",), holders=("hospital",), purposes=("CAREMGT",),
            categories=("CLIN",), actions=("access",), end_ms=now + round(days * DAY_MS),
        )
        retain = now + round(retain_days * DAY_MS) if retain_days else 0
        consent = model.Consent(kind=model.Kind.CONSENT, root=root, retention_until_ms=retain)
        write = self.grant(person)
        message = st.GrantStatement(consent=consent_message(consent))
        if not signed:
            message.attestation.attested_by = "hospital"
            statement = None
        else:
            statement = self.sign(person.key, EntryKind.GRANT, person, message, write.request.id)
        return replace(write, message=message, signed=statement)


def use(case: PruningCase, random: Random, steps: int, *, keys: bool) -> None:
    """Do random things on random days; with *keys*, persons have keys of their own, which are in force for ever."""
    for number in range(3):
        key = KeyPair(bytes([50 + number + len(case.people)]) * 32) if keys else None
        case.enrol(f"person {len(case.people)}", key)
    for _ in range(steps):
        person = random.choice(case.people)
        what = random.randrange(9)
        count, _ = case.ledger.head(person.tag)
        grants = [
            entry.event.seq
            for entry in reads.read_chain_with_gaps(case.store, person.tag)
            if entry.event.kind == EntryKind.GRANT and entry.row is not None
        ]
        try:
            if what == 0 or not grants:
                case.write(
                    case.consent(
                        person, days=random.choice((1, 20, 400)), retain_days=random.choice((0, 0, 90)),
                        signed=person.key is not None and random.random() < 0.5,
                    )
                )
            elif what == 1:
                kind = random.choice((EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE))
                case.write(case.change(person, random.choice(grants), kind))
            elif what == 2:
                stranger = replace(person, identifier_hash=random.randbytes(32))
                case.write(case.access(random.choice((person, stranger)), purpose="HRESCH"))
            elif what == 3:
                accesses = [
                    entry.event.seq for entry in reads.read_chain_with_gaps(case.store, person.tag, max(1, count - 9))
                    if entry.event.kind == EntryKind.ACCESS and entry.row is not None
                ]
                if accesses:
                    case.write(case.outcome(person, random.choice(accesses), count=random.randrange(1000)))
            else:
                for _ in range(random.randrange(30)):
                    case.write(case.access(person))
        except RequestError:
            pass  # a pause of what is paused, and the like
        if random.random() < 0.3:
            case.seal()
        case.clock.advance(round(random.choice((0.0, 0.1, 5, 20)) * DAY_MS))


class LateClock:
    """The machine's clock, some time ago, which can be moved ahead: wall and monotonic time together."""

    def __init__(self) -> None:
        self._behind_ms = 10 * 365 * DAY_MS
        self._held_ms: int | None = None
        self._began_ms = time.time_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 - self._behind_ms if self._held_ms is None else self._held_ms

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop the clock for a ``with`` block, so that no seal becomes due however long the block takes."""
        self._held_ms = self.wall_ms()
        try:
            yield
        finally:
            self._behind_ms = time.time_ns() // 1_000_000 - self._held_ms
            self._held_ms = None

    def monotonic_ms(self) -> int:
        return self.wall_ms()

    def advance(self, days: float) -> None:
        self._behind_ms -= round(days * DAY_MS)
        assert self._behind_ms >= 0


class World:
    """A daemon with a retention policy, on a clock of its own."""

    def __init__(self, directory: Path, days: int = DAYS) -> None:
        self.clock = LateClock()
        self.running = make_running(directory, daemon={"clock": self.clock}, retention_days=days)

    @property
    def services(self):
        services = self.running.daemon.service_state.services
        assert services is not None
        return services

    def revoke(self, subject: pb.Subject, consent_id: str) -> None:
        request = cs.RevokeConsentRequest(
            request_id=request_id(), subject=subject, consent_id=consent_id, attested=st.RevokeStatement()
        )
        self.running.consents.RevokeConsent(request, metadata=self.running.as_("app"))

    def use(self, subject: pb.Subject, times: int = 1) -> None:
        for _ in range(times):
            self.running.authorize(question(subject))

    def fill(self, count: int) -> None:
        """Write enough entries of another person that whole bundles follow the present entries."""
        with self.clock.held():  # a slow machine would write more seals, and so the bundles would hold other leaves
            other = self.running.enrol(f"SYN-{os.urandom(6).hex()}")
            given = self.running.grant(other)
            self.use(other, count)
            self.revoke(other, given)
        self.settle()  # with a seal after them, where a start may be

    def outlive(self, times: int, fill: int = 400) -> pb.Subject:
        """Write a consent that is used and revoked, and many later entries, all long ago; return the person."""
        anna = self.running.enrol("SYN-000001")
        given = self.running.grant(anna)
        self.use(anna, times)
        self.revoke(anna, given)
        self.fill(fill)
        self.clock.advance(DAYS + 10)
        return anna

    def prune(self, **request: Any) -> ad.PruneResult:
        return self.operator().prune(**request)

    def operator(self) -> Client:
        """Return a client of the operator."""
        return Client("", token=self.running.tokens["operator"], channel=self.running.channel, timeout_s=HANG_S)

    def tag(self, subject: pb.Subject) -> bytes:
        with self.services.table.read() as snapshot:
            tag = snapshot.tag_of(self.services.vault.identifier_hash(subject.scheme, subject.value))
        assert tag is not None
        return tag

    def client(self, memory: RamMemory | None = None) -> Client:
        log_key = format_vkey(read_signing_key(self.running.config.keys.log_key_file).verifier)
        return Client(
            "", token=self.running.tokens["app"], trust=pin(log_key), channel=self.running.channel, memory=memory
        )

    def history(self, subject: pb.Subject, memory: RamMemory | None = None) -> History:
        return self.client(memory).history(subject)

    def settle(self) -> None:
        """Wait until all that is written is published."""
        state = self.services.ledger.state
        size = state.size + (state.size > state.sealed_size)
        assert self.services.sequencer.checkpoints.wait(size, HANG_S) is not None


def pruned_world(world: World) -> pb.Subject:
    """Prune leaves and statements of a few people; return one of them."""
    anna = world.outlive(3)
    world.running.grant(anna)
    world.use(anna, 2)
    world.prune()
    world.settle()
    return anna


def verify(world: World, location: Location, **options: Any) -> findings.Report:
    log_key = read_signing_key(world.running.config.keys.log_key_file).verifier
    return audit_verify.verify_ledger(location, origin=ORIGIN, log_verifier=log_key, **options)


def granted_and_outlived(world: World, entries: int) -> pb.Subject:
    """Return a person whose grant is in force and older than the retention period, with *entries* after it."""
    anna = world.running.enrol("SYN-000001")
    world.running.grant(anna)
    world.fill(entries)
    world.clock.advance(DAYS + 10)
    world.use(anna)
    return anna


def live(world: World, *, openings: bool = True) -> LiveDaemon:
    ports = world.running.daemon
    target = f"127.0.0.1:{ports.grpc_port}" if openings else ""
    return LiveDaemon(url=f"http://127.0.0.1:{ports.http_port}", target=target, token=world.running.tokens["pipc"])


def data_directory(world: World) -> DataDirectory:
    return DataDirectory.of_config(world.running.config)


def fsck(world: World) -> Report:
    services = world.services
    world.settle()
    log_key = read_signing_key(world.running.config.keys.log_key_file).verifier
    return verify_files(
        services.ledger.store,
        origin=ORIGIN,
        log_verifier=log_key,
        last_signed_path=None,
        vault=services.vault,
        table=services.table,
    )
