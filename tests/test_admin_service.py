"""AdminService on a real daemon: prunings that outlive their calls, and credentials that come and go."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.certificates import make_authority, make_certificate
from cases.command_lines import CommandLine
from cases.daemons import Running, make_running, question, reason_of, request_id
from cases.fakes import HANG_S, FaultyStore
from cases.operations import held_at, join_operation
from cases.pruned_ledgers import World
from cases.services import FOREIGN_FIELD, refusal, services
from consentd.errors import (
    DeniedError,
    InvalidError,
    NotFoundError,
    OperationCancelledError,
    OverloadedError,
    PreconditionError,
    StorageError,
)
from consentd.ledger import pruning, retention
from consentd.sequencer.loop import Sequencer
from consentd.server.rpc_server import RpcServer
from consentd.service.auth import token_hash
from consentd.service.operations import Operations
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st
from consentd_client import Client
from consentd_client.admin import operation_result

STATED = (ad.OPERATION_STEP_PUBLISHING, ad.OPERATION_STEP_DELETING)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A ledger of which much can be pruned, in several batches."""
    monkeypatch.setattr(pruning, "BATCH_ROWS", 100)
    world = World(tmp_path)
    world.use(world.outlive(2))
    world.settle()
    yield world
    world.settle()
    world.running.check_ledger()
    world.running.stop()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = make_running(tmp_path)
    yield running
    running.stop()


def client(running: Running, token: str) -> Client:
    return Client("", token=token, channel=running.channel, timeout_s=HANG_S)


def operator(running: Running) -> Client:
    return client(running, running.tokens["operator"])


def is_finished(world: World) -> bool:
    """Return whether a pruning was stated and carried out."""
    store = world.services.ledger.store
    _, stated = retention.read_stated_prunings(store)
    return bool(stated) and retention.is_finished(store) and retention.read_pruned(store) == stated[-1].pruned


# -- operations -----------------------------------------------------------------------------------------------


def test_a_pruning_runs_on_when_its_caller_has_gone(world: World) -> None:
    with held_at(ad.OPERATION_STEP_PLANNING) as held:
        with grpc.insecure_channel(f"127.0.0.1:{world.running.daemon.grpc_port}") as channel:
            gone = Client("", token=world.running.tokens["operator"], channel=channel, timeout_s=HANG_S)
            asked = {"kept_from_ms": 0, "request_id": request_id()}
            started = gone.start_pruning(**asked)
        assert held.reached.wait(HANG_S)
        assert (started.done, started.started_by) == (False, "operator/main")
        assert world.operator().start_pruning(**asked).operation_id == started.operation_id
        with pytest.raises(PreconditionError, match=started.operation_id):
            world.operator().start_pruning()
        [listed] = world.operator().list_operations(done=False)
        assert listed.operation_id == started.operation_id
        assert list(world.operator().list_operations(done=True)) == []
    done = world.operator().follow_operation(started.operation_id)
    assert done.pruned.leaf_count > 200
    assert is_finished(world)
    assert list(world.operator().list_operations(done=True)) == [done]
    assert world.operator().start_pruning(**asked) == done
    with pytest.raises(PreconditionError) as reused:
        world.operator().start_pruning(**asked, dry_run=True)
    assert reused.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(("step", "number"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_a_pruning_is_cancelled_at_every_step_and_the_next_one_finishes(world: World, step: Any, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch, held_at(step, number) as held:
        if (step, number) == (2, 2):
            patch.setattr(world.services.sequencer.checkpoints, "wait", lambda *_: None)  # as if no quorum came
        started = world.operator().start_pruning()
        assert held.reached.wait(HANG_S)
        assert world.operator().get_operation(started.operation_id).progress.step <= step
        asked = world.operator().cancel_operation(started.operation_id)
        assert (asked.done, asked.cancel_requested_by) == (False, "operator/main")
        held.released.set()
        ended = world.operator().follow_operation(started.operation_id)
    assert ended.error.code == grpc.StatusCode.CANCELLED.value[0]
    with pytest.raises(OperationCancelledError):
        operation_result(ended)
    assert not is_finished(world)
    stated = retention.read_stated_prunings(world.services.ledger.store)[1]
    assert bool(stated) is ((step, number) > (2, 1))
    world.settle()
    world.running.check_ledger()
    assert world.prune().kept_from_time_ms
    assert is_finished(world)
    if stated:
        assert retention.read_stated_prunings(world.services.ledger.store)[1] == stated


@pytest.mark.parametrize("step", STATED)
def test_a_stop_of_the_daemon_ends_a_pruning_and_the_next_daemon_finishes_it(world: World, step: Any) -> None:
    with held_at(step, 2 if step == ad.OPERATION_STEP_DELETING else 1) as held:
        started = world.operator().start_pruning()
        assert held.reached.wait(HANG_S)
        stopping = threading.Thread(target=world.running.stop)
        stopping.start()
        held.wait_ended()
    stopping.join(HANG_S)
    world.running = Running(world.running.config, world.running.tokens, clock=world.clock)
    with pytest.raises(NotFoundError):
        world.operator().get_operation(started.operation_id)
    assert not is_finished(world)
    world.prune()
    assert is_finished(world)


def test_a_disk_that_is_full_in_the_middle_is_the_result_and_a_repeat_finishes(world: World) -> None:
    store = FaultyStore(world.services.ledger.store)
    world.services.ledger.store = store
    with held_at(ad.OPERATION_STEP_DELETING, 2) as held:
        started = world.operator().start_pruning()
        assert held.reached.wait(HANG_S)
        store.fail_write(persisted=False)
    failed = world.operator().follow_operation(started.operation_id)
    with pytest.raises(StorageError):
        operation_result(failed)
    assert world.running.daemon.metrics.value("consentd_operations_total", result="failed") == 1
    world.running.stop()
    world.running = Running(world.running.config, world.running.tokens, clock=world.clock)
    assert not is_finished(world)
    world.prune()
    assert is_finished(world)


def test_a_busy_writer_delays_a_pruning_and_does_not_fail_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    call, refused = Sequencer.call, []

    def call_later(self: Sequencer, wanted: Any) -> Any:
        if threading.current_thread().name == "operation" and len(refused) < 3:
            refused.append(wanted)
            raise OverloadedError("pool is full", retry_after_ms=1)
        return call(self, wanted)

    monkeypatch.setattr(Sequencer, "call", call_later)
    world.prune()
    assert len(refused) == 3
    assert is_finished(world)


def test_operations_are_listed_in_pages_the_latest_first(world: World) -> None:
    ids = [operation_of(world, dry_run=True) for _ in range(5)]
    found, token = list[str](), ""
    while True:
        page = world.running.admin.ListOperations(
            ad.ListOperationsRequest(page_size=2, page_token=token), metadata=world.running.as_("operator")
        )
        found += [one.operation_id for one in page.operations]
        token = page.next_page_token
        if not token:
            break
    assert found == ids[::-1]
    bad = ad.ListOperationsRequest(page_token="x", done=True)
    call = world.running.admin.ListOperations
    assert refusal(lambda: call(bad, metadata=world.running.as_("operator"))) == "INVALID_PAGE"


def operation_of(world: World, **asked: Any) -> str:
    started = world.operator().start_pruning(**asked)
    return world.operator().follow_operation(started.operation_id).operation_id


def test_an_operator_that_is_revoked_while_its_call_waits_starts_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of administration has one thread: a call that was admitted waits until the one before has ended."""
    late = operator(running).add_credential("operator/late", roles=list(st.OperatorRole.values())[1:])
    running.tokens["late"] = late.token
    admit, admitted = RpcServer._admit, threading.Event()

    def admit_late(self: RpcServer, call: Any, route: Any) -> Any:
        ticket = admit(self, call, route)
        if route.name == "AddCredential":
            admitted.set()
        return ticket

    def cancel(self: Operations, operation_id: str, *, operator: str) -> ad.Operation:
        assert admitted.wait(HANG_S)
        services(running).credentials.revoke(late.credential.credential_id, operator=operator)
        return ad.Operation(done=True)

    monkeypatch.setattr(RpcServer, "_admit", admit_late)
    monkeypatch.setattr(Operations, "cancel", cancel)
    first = running.admin.CancelOperation.future(ad.CancelOperationRequest(), metadata=running.as_("operator"))
    request = ad.AddCredentialRequest(request_id=request_id(), caller="operator/friend")
    assert refusal(lambda: running.admin.AddCredential(request, metadata=running.as_("late"))) == "UNAUTHENTICATED"
    assert first.result(HANG_S).operation.done
    assert [one.caller for one in operator(running).list_credentials() if one.caller == "operator/friend"] == []


def test_a_pruning_goes_on_when_the_operator_who_started_it_is_revoked(world: World) -> None:
    late = world.operator().add_credential("operator/late", roles=list(st.OperatorRole.values())[1:])
    with held_at(ad.OPERATION_STEP_DELETING) as held:
        started = client(world.running, late.token).start_pruning()
        assert held.reached.wait(HANG_S)
        world.operator().revoke_credential(late.credential.credential_id)
        with pytest.raises(DeniedError):
            client(world.running, late.token).cancel_operation(started.operation_id)
    assert world.operator().follow_operation(started.operation_id).started_by == "operator/late"
    assert is_finished(world)


# -- credentials ----------------------------------------------------------------------------------------------


def test_a_credential_comes_and_goes(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "consentd.calls")
    added = operator(running).add_credential("clinic-b", label="gateway 2")
    subject = running.enrol("SYN-000001")
    running.tokens["new"] = added.token
    running.check(question(subject), "new")
    found = {one.credential_id: one for one in operator(running).list_credentials(caller="clinic-b")}
    assert len(found) == 2
    mine = found[added.credential.credential_id]
    assert (mine.created_by, mine.label, bool(mine.last_used_time_ms)) == ("operator/main", "gateway 2", True)
    assert mine.last_used_time_ms % 86_400_000 == 0
    shown = b"".join(one.SerializeToString() for one in operator(running).list_credentials())
    for token in running.tokens.values():
        assert token.encode() not in shown
        assert bytes.fromhex(token_hash(token)) not in shown
        assert token_hash(token).encode() not in shown
    revoked = operator(running).revoke_credential(mine.credential_id)
    assert (revoked.revoked_by, revoked.last_used_time_ms) == ("operator/main", mine.last_used_time_ms)
    with pytest.raises(grpc.RpcError) as refused:
        running.check(question(subject), "new")
    assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    running.check(question(subject), "clinic-b")  # its other token
    lines = [record for record in caplog.records if record.getMessage().startswith("credential ")]
    assert [line.getMessage() for line in lines] == ["credential added", "credential revoked"]
    for line in lines:
        assert line.fields["caller"] == "operator/main"
        assert line.fields["credential_id"] == mine.credential_id
        assert line.fields["addresses"] == ["127.0.0.1"]
    assert added.token not in caplog.text


def test_a_lost_file_of_issued_credentials_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = make_running(tmp_path)
    path = running.config.ledger.issued_credentials_path
    token = operator(running).add_credential("clinic-b").token
    for is_lost in (False, True):
        running.stop()
        if is_lost:
            path.unlink()
        caplog.clear()
        running = Running(running.config, {**running.tokens, "new": token})
        assert ("issued credentials are missing" in caplog.text) is is_lost
        assert path.stat().st_mode & 0o777 == 0o600
        assert (services(running).credentials.authenticate(running.as_("new"), None).caller == "") is is_lost
    running.stop()


def test_credentials_are_listed_in_pages(running: Running) -> None:
    many = {operator(running).add_credential(f"clinic-{number % 3}").credential.credential_id for number in range(30)}
    found, token = list[str](), ""
    while True:
        page = running.admin.ListCredentials(
            ad.ListCredentialsRequest(page_size=7, page_token=token), metadata=running.as_("operator")
        )
        found += [one.credential_id for one in page.credentials]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(found)
    assert many < set(found)
    assert len(set(found)) == len(found) == len(running.tokens) + 30
    assert len(list(operator(running).list_credentials(caller="clinic-1"))) == 10


def test_a_request_with_a_field_of_a_later_version_changes_nothing(running: Running) -> None:
    """The field could limit what is deleted, or who may call."""
    for request, method in (
        (ad.StartPruningRequest(request_id=request_id()), "StartPruning"),
        (ad.AddCredentialRequest(request_id=request_id(), caller="clinic-b"), "AddCredential"),
    ):
        later = type(request).FromString(request.SerializeToString() + FOREIGN_FIELD)
        call = getattr(running.admin, method)
        assert refusal(lambda call=call, later=later: call(later, metadata=running.as_("operator"))) == "UNKNOWN_FIELD"
    assert len(list(operator(running).list_credentials())) == len(running.tokens)


def test_operators_alone_administer(running: Running) -> None:
    scraper = operator(running).add_credential("scraper/one").token
    for token in (running.tokens["app"], scraper):
        with pytest.raises(DeniedError):
            client(running, token).add_credential("operator/mine")
    for caller in ("Operator/x", "operator/../main", "", "subject", "clinic-b token"):
        with pytest.raises(InvalidError):
            operator(running).add_credential(caller)


def test_nobody_promotes_themselves_or_others(running: Running) -> None:
    roles = {name: st.OperatorRole.Value(f"OPERATOR_ROLE_{name}") for name in ("RUN", "READ_METRICS", "ADMINISTER")}
    given = operator(running).add_credential("operator/registrar", roles=[roles["ADMINISTER"]])
    assert list(given.credential.roles) == [roles["ADMINISTER"]]
    registrar = client(running, given.token)
    for asked in ([roles["RUN"]], [roles["READ_METRICS"]], list(roles.values())):
        for caller in ("operator/registrar", "operator/other"):
            with pytest.raises(DeniedError):
                registrar.add_credential(caller, roles=asked)
    with pytest.raises(DeniedError):
        registrar.add_credential("scraper/one")
    other = registrar.add_credential("operator/other", roles=[roles["ADMINISTER"]])
    registrar.add_credential("clinic-b")
    with pytest.raises(DeniedError):
        registrar.start_pruning(dry_run=True)
    for wrong in ([0], [9], [roles["RUN"], roles["RUN"]], []):
        with pytest.raises(InvalidError):
            operator(running).add_credential("operator/x", roles=wrong)
    with pytest.raises(InvalidError):
        operator(running).add_credential("clinic-b", roles=[roles["RUN"]])
    watch = operator(running).add_credential("operator/watch", roles=[roles["READ_METRICS"]])
    with pytest.raises(DeniedError):
        client(running, watch.token).add_credential("operator/watch", roles=[roles["READ_METRICS"]])
    assert list(client(running, watch.token).list_operations()) == []
    for one in (given, other, watch):
        operator(running).revoke_credential(one.credential.credential_id)


def test_a_role_that_is_taken_away_in_the_file_ends_with_the_reload(running: Running) -> None:
    running.add_operator("operator/x", "RUN", "ADMINISTER")
    request, path = ad.ListOperationsRequest(), running.config.callers.credentials_file
    running.admin.ListOperations(request, metadata=running.as_("operator/x"))
    path.write_text(path.read_text().replace(" roles=RUN,ADMINISTER", " roles=ADMINISTER"))
    running.daemon.reload_credentials()
    call = running.admin.ListOperations
    assert refusal(lambda: call(request, metadata=running.as_("operator/x"))) == "CALLER_NOT_ALLOWED"
    running.admin.ListCredentials(ad.ListCredentialsRequest(), metadata=running.as_("operator/x"))


def test_the_command_line_adds_lists_and_revokes(running: Running, tmp_path: Path) -> None:
    run = CommandLine().given(
        CONSENTD_TARGET=f"127.0.0.1:{running.daemon.grpc_port}", CONSENTD_TOKEN=running.tokens["operator"]
    )
    added = run("credential", "add", "clinic-b", "--label", "night", "--until", "2999-12-31", "--json")
    assert (added.status, added.object["caller"], added.object["label"]) == (0, "clinic-b", "night")
    running.tokens["new"] = added.object["token"]
    running.check(question(running.enrol("SYN-000001")), "new")
    assert run("credential", "add", "operator/night").status == 2  # an operator has a role
    plain = run("credential", "add", "operator/night", "--role", "RUN", "--role", "READ_METRICS")
    assert (plain.status, plain.out.count("\n")) == (0, 1)
    assert plain.out.strip() not in plain.err
    certificate = tmp_path / "clinic.pem"
    certificate.write_text(make_certificate(make_authority(), "clinic-b").pem)
    by_card = run("credential", "add", "clinic-b", "--certificate", certificate, "--json")
    assert (by_card.object["kind"], by_card.object["token"]) == ("certificate", "")
    again = run("credential", "add", "clinic-b", "--certificate", certificate)
    assert (again.status, "ALREADY_EXISTS" in again.err) == (2, True)
    assert run("credential", "add", "clinic-b", "--certificate", tmp_path / "none.pem").status == 2
    listed = run("credential", "list", "--caller", "clinic-b", "--json").objects
    assert {one["kind"] for one in listed} == {"token", "certificate"}
    assert len(listed) == 3
    shown = run("credential", "list", "--lang", "en").out
    assert "(night)" in shown
    assert "ends 3000-01-01 00:00:00 KST" in shown
    ended = run("credential", "revoke", added.object["credential_id"], "--json")
    assert ended.object["revoked_by"] == "operator/main"
    assert "revoked" in run("credential", "list", "--caller", "clinic-b", "--lang", "en").out
    assert refusal(lambda: running.check(question(running.enrol("SYN-000002")), "new")) == "UNAUTHENTICATED"
    assert run("credential", "revoke", "0" * 32).status == 2


def test_the_command_line_follows_and_cancels(world: World) -> None:
    run = CommandLine().given(
        CONSENTD_TARGET=f"127.0.0.1:{world.running.daemon.grpc_port}", CONSENTD_TOKEN=world.running.tokens["operator"]
    )
    with held_at(ad.OPERATION_STEP_PLANNING) as held:
        operation_id = run("prune", "--no-wait").out.strip()
        assert held.reached.wait(HANG_S)
        (shown,) = run("operation", "list", "--running", "--json").objects
        assert (shown["operation_id"], shown["state"]) == (operation_id, "running")
        assert "operator/main" in run("operation", "show", operation_id).out
        assert run("operation", "cancel", operation_id, "--json").object["cancel_requested_by"] == "operator/main"
    followed = run("operation", "follow", operation_id, "--json")
    assert (followed.status, followed.object["state"]) == (1, "failed")
    assert "cancelled" in followed.object["error"]
    pruned = run("prune", "--json")
    assert (pruned.status, pruned.object["type"]) == (0, "prune")
    assert operation_id in run("operation", "list").out
    assert run("operation", "show", "0" * 32).status == 2
    assert [json.loads(line)["type"] for line in run("operation", "list", "--json").out.splitlines()] == [
        "operation", "prune", "operation"
    ]  # fmt: skip
    join_operation()
