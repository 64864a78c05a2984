"""Every reason an error can have is reached through a real call, with its code, and tells nothing of a person.

``PROVOKED`` is the table: reason, and what provokes it. Its code is the one that ``error_reason.proto`` documents.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from cases import logins, provoked_requests
from cases.daemons import Running, consent, make_running, question, reason_of, request_id, sign_statement, status_of
from cases.erasures import provoke_held, provoke_pending
from cases.fakes import HANG_S, FakeClock, FaultyStore
from cases.ledgers import held_writer
from cases.mutual_tls import name_of_another, name_two
from cases.operations import held_at
from cases.provoked_requests import KEY, SECRET, Provoke, provoking
from cases.reasons import REASONS, ItemError
from cases.restored import Backup
from cases.services import batch_request, now_ms, proof_of, publish_rules, services
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.ledger import layout
from consentd.policy import evaluate
from consentd.sequencer.commands.write import Plan, Unremembered, WriteContext
from consentd.service import requests, servicer
from consentd.service.rpc import MAX_MESSAGE
from consentd.store import Batch
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import error_reason_pb2 as er
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client


class World:
    """One running daemon that most reasons are provoked on, and new ones for those that break something."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._others: list[Running] = []
        self.provider, self.key = logins.Provider(directory), KEY
        self.running = make_running(directory / "shared", self.provider.config())
        self.subject = pb.Subject(scheme="mhid", value=SECRET)
        enrol = rs.EnrolSubjectRequest(request_id=request_id(), subject=self.subject, subject_key=KEY.public_key)
        enrol.possession = proof_of(KEY, self.subject)
        self.tag = self.running.registry.EnrolSubject(enrol, metadata=self.running.as_("app")).tag
        self.consent_id = self.running.grant(self.subject)
        self.forbidden = {SECRET.encode(), self.tag, self.tag.hex().encode()}

    def other(self, extra: str = "", grpc: str = "", retention_days: int = 0, **daemon: Any) -> Running:
        """Start another daemon, to be broken; the subject is enrolled there too."""
        directory = self.directory / f"other-{len(self._others)}"
        running = make_running(directory, extra, daemon=daemon, grpc=grpc, retention_days=retention_days)
        self._others.append(running)
        running.enrol(SECRET)
        return running

    def keep(self, running: Running) -> None:
        """Stop *running* at the end."""
        self._others.append(running)

    def grant(self, given: pb.Consent, **more: Any) -> Any:
        message = st.GrantStatement(consent=given)
        fields = {"request_id": request_id(), "subject": self.subject, "attested": message, **more}
        return self.running.consents.GrantConsent(cs.GrantConsentRequest(**fields), metadata=self.running.as_("app"))

    def grant_signed(self, *, time_ms: int | None = None, tag: bytes | None = None, key: KeyPair = KEY) -> Any:
        request = request_id()
        signed = sign_statement(
            key, st.GrantStatement(consent=consent()), kind=EntryKind.GRANT, tag=tag or self.tag, request=request,
            time_ms=now_ms(self.running) if time_ms is None else time_ms,
        )  # fmt: skip
        write = cs.GrantConsentRequest(request_id=request, subject=self.subject, signed=signed)
        return self.running.consents.GrantConsent(write, metadata=self.running.as_("app"))

    def amend(self, version: int) -> Any:
        write = cs.AmendConsentRequest(
            request_id=request_id(), subject=self.subject, consent_id=self.consent_id, based_on_version=version,
            attested=st.AmendStatement(consent=consent()),
        )  # fmt: skip
        return self.running.consents.AmendConsent(write, metadata=self.running.as_("app"))

    def check(self, **changed: Any) -> Any:
        return self.running.check(question(self.subject, **changed))

    def close(self) -> None:
        for running in (self.running, *self._others):
            running.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("errors"))
    yield world
    world.running.check_ledger()
    world.close()


PROVOKED: dict[str, Provoke] = {
    **logins.PROVOKED,
    **provoked_requests.PROVOKED,
    "ERASURE_HELD": lambda world: provoke_held(world.other(), world.subject),
    "ERASURE_PENDING": lambda world: provoke_pending(world.other(), world.subject),
    "CERTIFICATE_AMBIGUOUS": lambda world: name_two(world.directory / "certificates"),
    "CERTIFICATE_NAME_TAKEN": lambda world: name_of_another(world.running),
}
provokes = provoking(PROVOKED)


# -- the caller -----------------------------------------------------------------------------------------------


@provokes("UNAUTHENTICATED")
def _no_credential(world: World) -> Any:
    return world.running.policy.Check(ps.CheckRequest(question=question(world.subject)))


@provokes("CALLER_NOT_ALLOWED")
def _caller_without_the_right(world: World) -> Any:
    request = cs.ListConsentsRequest(subject=world.subject)
    return world.running.consents.ListConsents(request, metadata=world.running.as_("clinic-b"))


@provokes("ACTOR_NOT_ALLOWED")
def _actor_without_a_delegation(world: World) -> Any:
    asked = question(world.subject, actor=pb.Actor(organisation="clinic-b", on_behalf_of="er"))
    return world.running.check(asked, "clinic-b")


# -- administration ------------------------------------------------------------------------------------------


def operator_of(running: Running) -> Client:
    return Client("", token=running.tokens["operator"], channel=running.channel, timeout_s=HANG_S)


@provokes("CREDENTIAL_EXPIRED")
def _credential_has_ended(world: World) -> Any:
    clock = FakeClock()
    running = world.other(clock=clock)
    added = operator_of(running).add_credential("app", expire_time_ms=clock.wall_ms() + 1)
    running.tokens["late"] = added.token
    clock.advance(1)
    return running.check(question(world.subject), "late")


@provokes("LAST_OPERATOR_CREDENTIAL")
def _nobody_could_operate(world: World) -> Any:
    [only] = operator_of(world.running).list_credentials(caller="operator/main")
    request = ad.RevokeCredentialRequest(credential_id=only.credential_id)
    return world.running.admin.RevokeCredential(request, metadata=world.running.as_("operator"))


@provokes("BACKUP_NOT_CONFIGURED")
def _there_is_no_directory_of_backups(world: World) -> Any:
    running, request = world.running, ad.StartBackupRequest(request_id=request_id())
    return running.admin.StartBackup(request, metadata=running.as_("operator"))


@provokes("ROLE_NOT_HELD")
def _role_that_the_giver_does_not_have(world: World) -> Any:
    world.running.add_operator("operator/registrar", "ADMINISTER")
    request = ad.AddCredentialRequest(request_id=request_id(), caller="operator/x", roles=[st.OPERATOR_ROLE_RUN])
    return world.running.admin.AddCredential(request, metadata=world.running.as_("operator/registrar"))


@provokes("OPERATION_RUNNING")
def _one_operation_at_a_time(world: World) -> Any:
    running = world.other(retention_days=30)
    with held_at(ad.OPERATION_STEP_PLANNING) as held:
        operator_of(running).start_pruning(dry_run=True)
        assert held.reached.wait(HANG_S)
        request = ad.StartPruningRequest(request_id=request_id(), dry_run=True)
        return running.admin.StartPruning(request, metadata=running.as_("operator"))


# -- load and faults ------------------------------------------------------------------------------------------


@provokes("TOO_MANY_CALLS")
def _caller_has_too_many_calls(world: World) -> Any:
    # One call after another may count as two for a moment, so the limit leaves room for the calls of the setup.
    running = world.other(grpc="max_calls_per_caller = 4")
    with held_writer(services(running).sequencer):
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=world.subject, attested=st.GrantStatement(consent=consent())
        )
        ended: SimpleQueue[Any] = SimpleQueue()
        for _ in range(5):
            running.consents.GrantConsent.future(request, metadata=running.as_("app")).add_done_callback(ended.put)
        return ended.get(timeout=HANG_S).result()


@provokes("OVERLOADED")
def _pool_is_full(world: World) -> Any:
    running = world.other("[pool]\nmax_waiting = 1")
    with full_pool(running):
        return running.grant(pb.Subject(scheme="mhid", value=SECRET))


@provokes("QUOTA_EXCEEDED")
def _too_many_persons_are_checked(world: World) -> Any:
    running = world.other()
    publish_rules(running, quotas=st.Quotas(persons_per_hour=1))
    running.check(question(pb.Subject(scheme="mhid", value=SECRET)), "clinic-b")
    return running.check(question(pb.Subject(scheme="mhid", value="SYN-000009")), "clinic-b")


@provokes("BATCH_LIMIT")
def _answers_are_long(world: World) -> Any:
    request = batch_request(questions=[question(world.subject)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "MAX_BATCH_ANSWER", 1)
        (item,) = world.running.policy.BatchCheck(request, metadata=world.running.as_("app")).results
    raise ItemError(item.error)


@provokes("REVISION_NOT_REACHED")
def _later_than_now(world: World) -> Any:
    later = pb.Consistency(at_least_tree_size=services(world.running).ledger.state.size + 500_000)
    request = ps.CheckRequest(question=question(world.subject), consistency=later)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servicer, "MAX_WAIT_S", 0.0)
        return world.running.policy.Check(request, metadata=world.running.as_("app"))


@provokes("STORAGE")
def _disk_fails(world: World) -> Any:
    running = world.other()
    store = FaultyStore(services(running).ledger.store)
    services(running).ledger.store = store
    store.fail_write(persisted=False)
    return running.grant(pb.Subject(scheme="mhid", value=SECRET))


@provokes("CLOCK")
def _clock_jumps(world: World) -> Any:
    clock = FakeClock()
    running = world.other(clock=clock)
    clock.shift_wall(10 * 60_000)
    return running.grant(pb.Subject(scheme="mhid", value=SECRET))


@provokes("NOT_SERVING")
def _draining(world: World) -> Any:
    running = world.other()
    kept, running.daemon.service_state.services = running.daemon.service_state.services, None
    try:
        return running.check(question(world.subject))
    finally:
        running.daemon.service_state.services = kept


@provokes("RESTORED_COPY")
def _restored(world: World) -> Any:
    running = make_running(world.directory / "to-restore")
    running.stop()
    config = Backup(running, world.directory / "backup").restore(world.directory / "restored")
    restored = Running(config, running.tokens)
    world.keep(restored)
    return restored.check(question(world.subject))


@provokes("CORRUPTION")
def _leaf_is_gone(world: World) -> Any:
    running = world.other()
    running.wait_published()
    batch = Batch()
    batch.delete(layout.leaf_key(2))
    services(running).ledger.store.write(batch)
    return running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=running.as_("pipc"))


def _leaf_is_garbage(world: World) -> Any:
    running = world.other()
    services(running).sequencer.checkpoints.wait(3, 10)  # before that it would be read again, and stop the writer
    batch = Batch()
    batch.put(layout.leaf_key(2), b"garbage")
    services(running).ledger.store.write(batch)
    rules = ls.GetHistoryRequest(public_name="rules/realm")
    return list(running.ledger.GetHistory(rules))


@provokes("INTERNAL")
def _bug(world: World) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "evaluate", _fail)
        return world.check()


def _fail(*_: object) -> None:
    raise AssertionError(f"a bug about {SECRET}")


class Nothing(Unremembered):
    """A write that appends nothing."""

    def prepare(self, context: WriteContext) -> Plan[None]:
        return Plan((), None)


@contextmanager
def full_pool(running: Running) -> Iterator[None]:
    """Hold a daemon's writer, with one write in the pool."""
    sequencer = services(running).sequencer
    with held_writer(sequencer):
        sequencer.submit(Nothing())
        yield


# -- the tests ------------------------------------------------------------------------------------------------


def test_the_table_holds_every_reason() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in er.ErrorReason.DESCRIPTOR.values_by_name}
    # No call ends with OPERATION_CANCELLED: it is in the result of an operation (test_operations.py).
    assert set(PROVOKED) == set(REASONS) - {"OPERATION_CANCELLED"}
    assert set(REASONS) == names - {"UNSPECIFIED"}


@pytest.mark.parametrize("reason", sorted(PROVOKED))
def test_a_reason_is_reached_with_its_code(world: World, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        PROVOKED[reason](world)
    error = caught.value
    assert (error.code(), reason_of(error)) == (REASONS[reason].code, reason)
    status = status_of(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    assert status.message == status.message[:1].lower() + status.message[1:]
    assert has_retry_info(status) == REASONS[reason].has_retry_info
    sent = [error.details().encode(), *(value if isinstance(value, bytes) else value.encode()
                                        for _, value in error.trailing_metadata())]
    assert not [text for text in sent for secret in world.forbidden if secret in text]


def test_what_we_stored_and_cannot_read_is_our_fault(world: World) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _leaf_is_garbage(world)
    assert (caught.value.code(), reason_of(caught.value)) == (StatusCode.DATA_LOSS, "CORRUPTION")


def test_errors_are_counted_by_reason_and_calls_by_code(world: World) -> None:
    metrics = world.running.daemon.metrics
    before = metrics.value("consentd_errors_total", reason="UNKNOWN_PURPOSE")
    calls = metrics.value("consentd_rpcs_total", method="Check", code="INVALID_ARGUMENT")
    with pytest.raises(grpc.RpcError):
        PROVOKED["UNKNOWN_PURPOSE"](world)
    assert metrics.value("consentd_errors_total", reason="UNKNOWN_PURPOSE") == before + 1
    assert metrics.value("consentd_rpcs_total", method="Check", code="INVALID_ARGUMENT") == calls + 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"purpose": "CURIOSITY"}, "UNKNOWN_PURPOSE"),
        ({"categories": []}, "EMPTY_CATEGORIES"),
        ({"subject": pb.Subject(scheme="rrn", value=SECRET)}, "INVALID_IDENTIFIER"),
        ({"purpose": "BTG", "break_glass": pb.BreakGlass(justification="unconscious")}, "BREAK_GLASS_SHAPE"),
        ({"purpose": "x" * 20_000}, "TOO_LARGE"),
    ],
)
def test_an_item_of_a_batch_has_the_error_of_a_single_call(world: World, changed: dict[str, Any], reason: str) -> None:
    asked = question(**{"subject": world.subject, **changed})
    with pytest.raises(grpc.RpcError) as caught:
        world.running.check(asked)
    request = batch_request(questions=[question(world.subject), asked])
    good, bad = world.running.policy.BatchCheck(request, metadata=world.running.as_("app")).results
    assert good.decision.outcome == pb.OUTCOME_PERMIT
    assert reason_of(caught.value) == reason
    assert bad.error.SerializeToString() == status_of(caught.value).SerializeToString()


def test_long_input_does_not_hide_its_error(world: World) -> None:
    # Clients refuse a call whose trailers are long, and would see RESOURCE_EXHAUSTED in place of the reason.
    with pytest.raises(grpc.RpcError) as caught:
        world.check(purpose="진료" * 600)
    assert reason_of(caught.value) == "UNKNOWN_PURPOSE"
    assert len(caught.value.details()) == MAX_MESSAGE
    assert caught.value.details().startswith("purpose is not in the vocabulary: `진료")


def test_a_bug_tells_nothing_and_the_daemon_serves_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "consentd"), pytest.raises(grpc.RpcError) as caught:
        _bug(world)
    assert caught.value.details() == "internal error"
    (record,) = caplog.records
    assert SECRET not in record.getMessage()
    assert record.exc_info is None
    assert "AssertionError" in record.getMessage()
    assert world.check().outcome == pb.OUTCOME_PERMIT


def test_a_full_pool_is_an_items_error_too(world: World) -> None:
    running = world.other("[pool]\nmax_waiting = 1")
    asked = question(pb.Subject(scheme="mhid", value=SECRET))
    requests = [ac.AuthorizeAccessRequest(request_id=request_id(), question=asked) for _ in range(3)]
    batch = ac.BatchAuthorizeAccessesRequest(requests=requests)
    with full_pool(running):
        refused = running.access.BatchAuthorizeAccesses(batch, metadata=running.as_("app")).results
        with pytest.raises(grpc.RpcError) as caught:
            running.access.AuthorizeAccess(requests[0], metadata=running.as_("app"))
    assert reason_of(caught.value) == "OVERLOADED"
    assert has_retry_info(status_of(caught.value))
    assert [one.error.SerializeToString() for one in refused] == [status_of(caught.value).SerializeToString()] * 3


def has_retry_info(status: status_pb2.Status) -> bool:
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
