"""Pruning as a cover for hiding, and pruning amid everything else: what must be refused, and what must not."""

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import ORIGIN, Running, question, reason_of
from cases.pruned_ledgers import DAYS, World, data_directory, fsck, granted_and_outlived, live, pruned_world, verify
from cases.writes import UncheckedPublicWrite
from consentd.audit.export import export
from consentd.audit.live import LiveSource
from consentd.audit.replay import replay_decisions
from consentd.audit.sources import ExportDirectory
from consentd.core import checkpoint
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS, Pruned
from consentd.cosigning.connection import Connection
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, ProofError, StorageError
from consentd.ledger import layout, reads, retention
from consentd.ledger.pruning import delete_in_batches
from consentd.sequencer.commands.ledger import StatePruning
from consentd.sequencer.commands.write import Plan, WriteContext
from consentd.service import pruning
from consentd.service.requests import make_request
from consentd.store import Batch
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd.witnessd.follower import Follower


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path / "world")
    yield world
    world.running.stop()


def log_key(world: World) -> Any:
    return read_signing_key(world.running.config.keys.log_key_file).verifier


def prepare(world: World) -> pb.Subject:
    """Have much that can be pruned; return a person of whom some is kept."""
    anna = world.outlive(3, 600)
    world.running.grant(anna)
    world.use(anna, 2)
    world.settle()
    return anna


def delete(world: World, *keys: bytes, pruned: Pruned | None = None) -> None:
    batch = Batch()
    for key in keys:
        batch.delete(key)
    if pruned is not None:
        batch.put(layout.PRUNED, retention.encode_pruned(pruned, finished=True))
    world.services.sequencer.call(lambda: world.services.ledger.store.write(batch))


class UncheckedPruning(StatePruning):
    """A pruning that is stated whatever the retention policy says."""

    def prepare(self, context: WriteContext) -> Plan[int]:
        return Plan((self.draft(context),), context.batch.index)


# -- an operator who hides ------------------------------------------------------------------------------------


def test_a_start_behind_what_is_kept_for_its_time_is_found(world: World) -> None:
    anna = world.running.enrol("SYN-000001")
    world.clock.advance(DAYS + 10)
    world.running.grant(anna)
    world.use(anna, 300)
    world.settle()
    evil = Pruned(world.clock.wall_ms() - (DAYS + 3) * DAY_MS, world.services.ledger.state.size)
    world.services.sequencer.submit(StatePruning(pruned=evil)).result()
    world.use(anna)
    world.settle()
    store, tag = world.services.ledger.store, world.tag(anna)
    hidden = [entry for entry in reads.read_chain_with_gaps(store, tag) if entry.index < evil.minimum][1:-1]
    assert hidden
    keys = [layout.leaf_key(entry.index) for entry in hidden]
    for entry in hidden:
        keys += [layout.index_key(tag, entry.event.seq), layout.statement_key(tag, entry.event.seq)]
    delete(world, *keys, pruned=evil)
    for report in (verify(world, live(world)), fsck(world)):
        assert any("start comes after leaves that may not be pruned" in fault.what for fault in report.faults)
    with pytest.raises(ProofError, match="not pruned"):
        world.history(anna)


def test_no_other_chain_sets_the_policy_anew(world: World) -> None:
    anna = world.running.enrol("SYN-000001")
    given = world.running.grant(anna)
    world.use(anna, 3)
    world.revoke(anna, given)
    world.fill(400)
    world.clock.advance(20)
    another = UncheckedPublicWrite(
        request=make_request("operator/main", os.urandom(16), os.urandom(32)),
        chain="notice/harmless",
        kind=EntryKind.LEDGER,
        message=st.LedgerStatement(origin=ORIGIN, retention_days=1),
    )
    world.services.sequencer.submit(another).result()
    world.use(anna, 2)
    world.settle()
    pruned = Pruned(world.clock.wall_ms() - 2 * DAY_MS, 6)
    world.services.sequencer.submit(UncheckedPruning(pruned=pruned)).result()
    world.settle()
    for batch, _ in delete_in_batches(world.services.ledger.store, world.services.vault, pruned):
        world.services.sequencer.call(lambda batch=batch: world.services.ledger.store.write(batch))
    assert any("retention policy keeps" in fault.what for fault in verify(world, live(world)).faults)
    assert any("retention policy keeps" in fault.what for fault in fsck(world).faults)
    with pytest.raises(ProofError, match="retention policy keeps"):
        world.history(anna)


def test_an_entry_that_is_never_pruned_may_not_lose_its_statement(world: World) -> None:
    anna = granted_and_outlived(world, 300)
    world.prune()
    delete(world, layout.statement_key(world.tag(anna), 1))
    with pytest.raises(ProofError, match="opening is missing"):
        world.history(anna)


# -- an honest ledger is not accused --------------------------------------------------------------------------


def test_a_request_that_is_repeated_after_its_entry_was_pruned_is_a_conflict(world: World) -> None:
    anna = world.running.enrol("SYN-000001")
    given = world.running.grant(anna)
    burst = [ac.AuthorizeAccessRequest(request_id=os.urandom(16), question=question(anna)) for _ in range(950)]
    app = world.running.as_("app")
    world.running.access.BatchAuthorizeAccesses(ac.BatchAuthorizeAccessesRequest(requests=burst), metadata=app)
    world.revoke(anna, given)
    world.clock.advance(1)
    world.fill(300)
    world.clock.advance(DAYS + 10)
    world.use(anna)
    assert world.prune().leaf_count > 900
    with pytest.raises(grpc.RpcError) as refused:
        world.running.access.AuthorizeAccess(burst[-1], metadata=app)
    assert reason_of(refused.value) == "REQUEST_ID_REUSED"
    assert world.services.sequencer.fault is None
    world.running.grant(anna)


def test_a_pruning_that_is_stated_and_not_carried_out_yet_is_no_fault(world: World) -> None:
    anna = pruned_world(world)
    world.clock.advance(50)
    world.use(anna)
    world.settle()
    pruned = retention.read_pruned(world.services.ledger.store)
    later = Pruned(world.clock.wall_ms() - DAYS * DAY_MS - 1000, pruned.start)
    world.services.sequencer.submit(StatePruning(pruned=later)).result()
    world.settle()
    assert verify(world, live(world)).faults == ()
    assert fsck(world).faults == ()


def test_an_outcome_that_comes_in_between_keeps_what_it_rests_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = world.running.enrol("SYN-000001")
    given = world.running.grant(anna)
    access = world.running.authorize(question(anna))
    world.use(anna, 3)
    world.revoke(anna, given)
    world.fill(600)
    world.clock.advance(DAYS + 10)
    world.running.grant(anna)
    world.settle()
    late = ac.RecordAccessRequest(request_id=os.urandom(16), subject=anna, access_seq=access.access_seq)
    late.attested.status = st.TRANSFER_STATUS_SENT
    publish = pruning._publish

    def publish_late(*arguments: Any) -> None:
        world.running.access.RecordAccess(late, metadata=world.running.as_("clinic-b"))
        publish(*arguments)

    monkeypatch.setattr(pruning, "_publish", publish_late)
    assert world.prune().leaf_count > 200
    world.settle()
    shown = [(entry.seq, entry.kind_name) for entry in world.history(anna).entries if entry.statement is not None]
    assert shown[:3] == [(1, "ENROL"), (2, "GRANT"), (3, "ACCESS")]
    assert world.history(anna).missing == ()
    assert fsck(world).faults == ()
    assert verify(world, live(world)).faults == ()


def test_a_ledger_that_prunes_while_it_is_read_is_read_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(world)
    leaves, calls = LiveSource.leaves, []

    def leaves_late(self: LiveSource, n: int, width: int) -> list[bytes]:
        calls.append(n)
        if len(calls) == 2:
            world.prune()
        return leaves(self, n, width)

    with monkeypatch.context() as patch:
        patch.setattr(LiveSource, "leaves", leaves_late)
        with pytest.raises(StorageError, match=r"pruned during the export|cannot be read"):
            export(live(world, openings=False), tmp_path / "out", origin=ORIGIN, log_verifier=log_key(world))
    export(live(world, openings=False), tmp_path / "again", origin=ORIGIN, log_verifier=log_key(world))
    assert verify(world, ExportDirectory(tmp_path / "again")).faults == ()


def test_a_witness_takes_no_missing_entry_for_evidence(world: World, tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer " + world.running.tokens["pipc"]}
    connection = Connection(f"http://127.0.0.1:{world.running.daemon.http_port}", timeout_s=20, headers=headers)

    def follow(path: str) -> Follower:
        return Follower(
            connection, tmp_path / path, map_bits=8, retention_days=DAYS, keep_every=1, wall_ms=world.clock.wall_ms
        )

    def point() -> checkpoint.Checkpoint:
        world.settle()
        published = world.services.sequencer.checkpoints.published
        assert published is not None
        return checkpoint.open_checkpoint(published.note, ORIGIN, log_key(world))[0]

    early = follow("early")
    early.catch_up(point())
    prepare(world)
    world.prune()
    with pytest.raises(StorageError, match="pruned during the replay"):
        early.catch_up(point())
    early.catch_up(point())
    new = follow("new")
    new.catch_up(point())
    assert new.size == early.size == point().size
    connection.release()


@pytest.mark.parametrize("leaves", [True, False])
def test_a_replay_goes_on_from_no_state_that_is_older_than_what_is_kept(
    world: World, tmp_path: Path, leaves: bool
) -> None:
    anna = world.running.enrol("SYN-000001")
    if not leaves:
        world.running.grant(world.running.enrol("SYN-000002"))  # it holds the leaves
    given = world.running.grant(anna)
    world.use(anna)
    world.settle()

    def replay(state: str) -> Any:
        world.running.stop()
        try:
            return replay_decisions(
                data_directory(world), origin=ORIGIN, log_verifier=log_key(world), state_dir=tmp_path / state
            )
        finally:
            world.running = Running(world.running.config, world.running.tokens, clock=world.clock)

    assert replay("state").faults == ()
    world.revoke(anna, given)
    world.fill(400)
    world.clock.advance(DAYS + 10)
    world.use(anna, 2)
    world.prune()
    world.settle()
    with pytest.raises(InvalidError, match="begin anew"):
        replay("state")
    assert replay("fresh").faults == ()
