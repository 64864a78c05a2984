"""A daemon on a restored copy answers proofs and histories, and decides, records and signs nothing."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cases.daemons import Running, make_running, question, reason_of, request_id
from cases.erasures import add_authority, erase, order
from cases.fakes import FakeClock
from cases.restored import Backup
from cases.services import register
from consentd.core.checkpoint import parse_checkpoint
from consentd.core.merkle import leaf_hash
from consentd.core.note import parse_note
from consentd.errors import CorruptionError, PreconditionError
from consentd.ledger.erasure import LIST_NAME
from consentd.ledger.ledger import State
from consentd.ledger.restored import RESTORED_NAME
from consentd.server.daemon import Daemon
from consentd.service.roles import TABLE, is_answered_by_restored, is_write
from consentd.v1 import (
    access_service_pb2,
    admin_service_pb2,
    consent_service_pb2,
    ledger_service_pb2,
    policy_service_pb2,
    registry_service_pb2,
)
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

SECRET = "SYN-730142"
SUBJECT = pb.Subject(scheme="mhid", value=SECRET)
SERVICES = {
    each.full_name: each
    for file in (
        access_service_pb2, admin_service_pb2, consent_service_pb2, ledger_service_pb2, policy_service_pb2,
        registry_service_pb2,
    )
    for each in file.DESCRIPTOR.services_by_name.values()
}  # fmt: skip


@dataclass(frozen=True)
class Original:
    """A ledger that was backed up, and where a person withdrew a consent after that.

    Attributes:
        newest: the checkpoint that was signed last, after the backup.
    """

    tokens: dict[str, str]
    backup: Backup
    newest: bytes
    directory: Path

    def serve(self, name: str, *, clock: FakeClock | None = None, **files: Any) -> Running:
        """Start a daemon on a copy that is restored now."""
        config = self.backup.restore(self.directory / name, **files)
        return Running(config, self.tokens, **({} if clock is None else {"clock": clock}))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    directory = tmp_path_factory.mktemp("restored")
    running = make_running(directory)
    register(running, "eraser", [st.PARTICIPANT_ROLE_RECIPIENT], rights=[st.PARTICIPANT_RIGHT_ERASE])
    running.add_caller("eraser")
    running.check_ledger()  # so that the backup has more than one checkpoint
    consent_id = running.grant(running.enrol(SECRET))
    running.check_ledger()
    running.stop()
    backup = Backup(running, directory / "backup")
    again = Running(running.config, running.tokens)
    revoke = cs.RevokeConsentRequest(
        request_id=request_id(), subject=SUBJECT, consent_id=consent_id, attested=st.RevokeStatement()
    )
    again.consents.RevokeConsent(revoke, metadata=again.as_("app"))
    again.check_ledger()
    again.stop()
    newest = running.config.ledger.last_signed_path.read_bytes()
    return Original(running.tokens, backup, newest, directory)


@pytest.fixture(scope="module")
def copy(original: Original) -> Iterator[Running]:
    running = original.serve("copy", last_signed=original.newest, published=original.backup.note)
    yield running
    running.stop()


def state_of(running: Running) -> State:
    services = running.daemon.service_state.services
    assert services is not None
    return services.ledger.state


def size_of(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def call(running: Running, service: str, rpc: str, who: str) -> None:
    """Call an RPC with an empty request."""
    method = SERVICES[service].methods_by_name[rpc]
    make = running.channel.unary_stream if method.server_streaming else running.channel.unary_unary
    answer = make(f"/{service}/{rpc}", request_serializer=None, response_deserializer=None)(
        b"", metadata=running.as_(who), timeout=60
    )
    if method.server_streaming:
        list(answer)


# -- what it answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", [rpc for rpc in TABLE if not is_answered_by_restored(rpc)])
def test_a_restored_copy_refuses_what_decides_records_or_says_what_is_in_force(copy: Running, rpc: str) -> None:
    service = next(name for name, each in SERVICES.items() if rpc in each.methods_by_name)
    reasons = set()
    for who in ("operator", "app", "pipc", "eraser", "hospital-a"):
        with pytest.raises(grpc.RpcError) as caught:
            call(copy, service, rpc, who)
        reasons.add((caught.value.code(), reason_of(caught.value)))
    refused = (grpc.StatusCode.FAILED_PRECONDITION, "RESTORED_COPY")
    assert refused in reasons
    assert reasons - {refused} <= {(grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")}


def test_nothing_that_writes_or_decides_is_answered() -> None:
    answered = {rpc for rpc in TABLE if is_answered_by_restored(rpc)}
    assert not any(map(is_write, answered))
    assert not answered & {"Check", "BatchCheck", "GetConsent", "ListConsents", "GetAccess", "ListAccesses", "GetHolds"}


def test_a_consent_that_was_withdrawn_after_the_backup_permits_nothing(copy: Running) -> None:
    for ask in (copy.check, copy.authorize):
        with pytest.raises(grpc.RpcError) as caught:
            ask(question(SUBJECT))
        assert reason_of(caught.value) == "RESTORED_COPY"


def test_no_write_reaches_the_sequencer(copy: Running) -> None:
    services = copy.daemon.service_state.services
    assert services is not None
    with pytest.raises(PreconditionError) as caught:
        services.sequencer.submit_all([])
    assert caught.value.reason == "RESTORED_COPY"


def test_a_restored_copy_proves_histories_at_the_checkpoint_of_its_backup(original: Original, copy: Running) -> None:
    note = copy.ledger.GetCheckpoint(ls.GetCheckpointRequest()).checkpoint
    assert note == original.backup.note
    for asked in (ls.GetHistoryRequest(public_name="ledger"), ls.GetHistoryRequest(subject=SUBJECT)):
        parts = list(copy.ledger.GetHistory(asked, metadata=copy.as_("app")))
        assert parts
    leaf = ls.ListLeavesRequest(page_size=1)
    (first,) = copy.ledger.ListLeaves(leaf, metadata=copy.as_("pipc")).leaves
    asked = ls.GetReceiptRequest(index=0, leaf_hash=leaf_hash(first))
    assert copy.ledger.GetReceipt(asked).receipt.published
    participant = rs.GetParticipantRequest(participant_id="app")
    assert copy.registry.GetParticipant(participant, metadata=copy.as_("operator")).participant.participant_id == "app"


def test_health_and_metrics_say_so(copy: Running) -> None:
    health = health_pb2_grpc.HealthStub(copy.channel)
    serving = {
        name for name in ("", *SERVICES)
        if health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
    }  # fmt: skip
    assert serving == {"consentd.v1.LedgerService", "consentd.v1.RegistryService"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{copy.daemon.http_port}/healthz", timeout=60)
    assert caught.value.code == 503
    assert json.load(caught.value)["status"] == "restored copy"
    caught.value.close()
    assert copy.daemon.metrics.value("consentd_restored_copy") == 1
    assert copy.daemon.metrics.value("consentd_ready") == 0


def test_other_processes_decide_nothing_from_its_table(copy: Running) -> None:
    services = copy.daemon.service_state.services
    assert services is not None
    for _ in range(2):  # after the first call, the upkeep would have been due
        services.sequencer.call(lambda: None)
    with services.table.read() as snapshot:
        assert snapshot.heartbeat_ms() == 0


# -- what it leaves as it is ----------------------------------------------------------------------------------


def notes_of(original: Original) -> dict[str, bytes | None]:
    return {"missing": None, "older": original.backup.note, "newest": original.newest}


@pytest.mark.parametrize("which", ["missing", "older", "newest"])
def test_a_restored_copy_signs_nothing_whatever_was_signed_last(original: Original, which: str) -> None:
    note = notes_of(original)[which]
    running = original.serve(f"signs-nothing-{which}", last_signed=note)
    path, state = running.config.ledger.last_signed_path, state_of(running)
    if which == "older":
        assert running.ledger.GetCheckpoint(ls.GetCheckpointRequest()).checkpoint == original.backup.note
    else:
        with pytest.raises(grpc.RpcError) as caught:
            running.ledger.GetCheckpoint(ls.GetCheckpointRequest())
        assert reason_of(caught.value) == "NOT_FOUND"
    running.stop()
    again = Running(running.config, original.tokens)
    assert state_of(again) == state
    again.stop()
    assert (path.read_bytes() if path.exists() else None) == note
    assert not running.config.ledger.published_path.exists()


def test_two_restored_copies_may_run_at_once(original: Original) -> None:
    both = [original.serve(f"one-of-two-{number}", published=original.backup.note) for number in (1, 2)]
    notes = {running.ledger.GetCheckpoint(ls.GetCheckpointRequest()).checkpoint for running in both}
    assert notes == {original.backup.note}
    for running in both:
        running.stop()


def test_a_restored_copy_reads_though_the_clock_is_behind(original: Original) -> None:
    clock = FakeClock()
    clock.shift_wall(-10**9)
    running = original.serve("clock", clock=clock, published=original.backup.note)
    assert running.ledger.GetCheckpoint(ls.GetCheckpointRequest()).checkpoint == original.backup.note
    assert list(running.ledger.GetHistory(ls.GetHistoryRequest(public_name="ledger")))
    running.stop()


def test_who_was_erased_after_the_backup_is_erased_again_before_it_serves(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    add_authority(running)
    subject, other = running.enrol(SECRET), running.enrol("SYN-000002")
    running.check_ledger()
    running.stop()
    backup = Backup(running, tmp_path / "backup")
    again = Running(running.config, running.tokens)
    erase(again, order(again, subject))
    again.stop()
    config = backup.restore(tmp_path / "restored")
    shutil.copy(running.config.ledger.last_signed_path.with_name(LIST_NAME), config.ledger.data_dir)
    copy = Running(config, running.tokens)
    services = copy.daemon.service_state.services
    assert services is not None
    with services.table.read() as snapshot:
        hashes = [services.vault.identifier_hash(one.scheme, one.value) for one in (subject, other)]
        known = [services.vault.find(one) for one in hashes]
        in_table = [snapshot.tag_of(one) for one in hashes]
    copy.stop()
    assert [one is None for one in known] == [one is None for one in in_table] == [True, False]


# -- what it does not open ------------------------------------------------------------------------------------


def test_a_mark_of_another_tree_is_refused(original: Original) -> None:
    mark = original.backup.mark
    wrong = [
        replace(mark, origin="other.example.org"), replace(mark, root=bytes(32)), replace(mark, tree_size=0),
        replace(mark, tree_size=mark.tree_size + 1), replace(mark, tree_size=1), replace(mark, tree_size=1 << 62),
    ]  # fmt: skip
    for number, each in enumerate(wrong):
        with pytest.raises(CorruptionError, match="RUNBOOK"):
            original.serve(f"wrong-{number}", mark=each)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff" * 100])
def test_a_mark_that_is_garbage_is_refused_and_stays(original: Original, content: bytes) -> None:
    config = original.backup.restore(original.directory / f"garbage-{content.hex()[:8]}", last_signed=original.newest)
    (config.ledger.data_dir / RESTORED_NAME).write_bytes(content)
    for _ in range(2):
        with pytest.raises(CorruptionError, match="RUNBOOK"):
            Daemon(config).start()
    assert (config.ledger.data_dir / RESTORED_NAME).read_bytes() == content
    assert not config.table.path.exists()


def test_a_restored_copy_that_contradicts_what_was_signed_is_refused(original: Original) -> None:
    other = make_running(original.directory / "other")
    other.check_ledger()
    other.stop()
    note = other.config.ledger.last_signed_path.read_bytes()  # of the same origin, by another key
    assert size_of(note) <= original.backup.mark.tree_size
    with pytest.raises(CorruptionError):
        original.serve("contradicts", last_signed=note)
    with pytest.raises(CorruptionError):
        original.serve("not-a-note", last_signed=b"garbage")


def test_without_its_mark_a_copy_does_not_open(original: Original) -> None:
    """The store is marked too: not even the backup's own checkpoint as the last signed one lets the copy sign."""
    notes = {"ahead": original.newest, "missing": None, "backup": original.backup.note}
    for name, note in notes.items():
        config = original.backup.restore(original.directory / f"unmarked-{name}", last_signed=note)
        (config.ledger.data_dir / RESTORED_NAME).unlink()
        with pytest.raises(CorruptionError):
            Daemon(config).start()
