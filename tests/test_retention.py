"""Prune: what goes, what stays, and that everything still verifies, from the operator's call to the citizen's proof."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from cases.daemons import ORIGIN, Running, config_text, consent, question, reason_of, request_id
from cases.fakes import HANG_S
from cases.notices import make_notice
from cases.operations import held_at
from cases.pruned_ledgers import DAYS, World, data_directory, fsck, granted_and_outlived, live, pruned_world, verify
from consentd import cli
from consentd.audit.export import export
from consentd.audit.replay import replay_decisions
from consentd.audit.sources import ExportDirectory
from consentd.core import codec, tiles
from consentd.core.kinds import EntryKind
from consentd.core.note import format_vkey
from consentd.core.pruned import DAY_MS, NOTHING, Pruned, format_pruned
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError
from consentd.ledger import layout, reads, retention
from consentd.store import Batch, Store
from consentd.table.table import Table, catch_up
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import CLOSED, NO_PERSONS
from consentd_client import RamMemory


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.settle()
    world.running.check_ledger()
    world.running.stop()


def test_what_has_no_effect_any_more_goes_and_everything_still_verifies(world: World, tmp_path: Path) -> None:
    anna = world.outlive(3)
    world.running.grant(anna)
    world.use(anna, 2)
    world.settle()
    before = world.history(anna)
    assert [entry.seq for entry in before.entries] == list(range(1, 10))
    assert not before.missing

    last = world.prune()
    assert last.start_size > 256
    assert last.leaf_count > 200
    assert last.statement_count > 250
    pruned = retention.read_pruned(world.services.ledger.store)
    assert retention.is_finished(world.services.ledger.store)
    assert pruned.minimum == 256
    assert pruned.start == last.start_size

    after = world.history(anna)
    # Her ENROL stays for the table, but the history begins with the last entry before the start.
    assert [(entry.seq, entry.is_pruned) for entry in after.entries] == [(6, True), (7, False), (8, False), (9, False)]
    assert after.missing == ((1, 5),)
    assert after.kept_from_ms == pruned.kept_from_ms
    assert [entry.event for entry in after.entries] == [entry.event for entry in before.entries[5:]]
    assert world.running.check(question(anna)).outcome == pb.OUTCOME_PERMIT

    # A table made anew from what is kept is the one that was there.
    services = world.services
    fresh = Table.open(tmp_path / "fresh", map_size_mb=64)
    with services.table.read() as old:  # a seal may be written meanwhile
        catch_up(fresh, services.ledger.store, services.vault, size=old.size)
        with fresh.read() as new:
            rows = [list(view.rows()) for view in (new, old)]
            assert new.time_ms == old.time_ms
    fresh.close()
    for each in rows:
        each[0] = (each[0][0], each[0][1][:40])  # the revision, without the generation that the entries lead to
    assert rows[0] == rows[1]


def test_a_client_that_remembers_keeps_what_it_holds(world: World) -> None:
    anna, memory, late = world.running.enrol("SYN-000001"), RamMemory(), RamMemory()
    given = world.running.grant(anna)
    world.use(anna, 2)
    world.settle()
    assert len(world.history(anna, late).entries) == 4  # reads no more until after the pruning
    world.use(anna, 2)
    world.revoke(anna, given)
    world.fill(400)
    world.settle()
    assert len(world.history(anna, memory).entries) == 7
    world.clock.advance(DAYS + 10)
    world.running.grant(anna)
    world.settle()
    world.prune()

    whole = world.history(anna, memory)
    assert [entry.seq for entry in whole.entries] == list(range(1, 9))
    assert whole.missing == ()
    assert all(entry.statement is not None for entry in whole.entries)
    for _ in range(2):  # what was remembered with a gap is read again
        gap = world.history(anna, late)
        assert [entry.seq for entry in gap.entries] == [1, 2, 3, 4, 7, 8]
        assert gap.missing == ((5, 6),)
        assert [entry.is_pruned for entry in gap.entries] == [False] * 4 + [True, False]


def test_what_is_in_force_stops_it(world: World) -> None:
    anna = granted_and_outlived(world, 400)
    dry = world.prune(dry_run=True)
    index = reads.read_entry(world.services.ledger.store, world.tag(anna), 2).index
    assert (dry.stop_kind, dry.stop_index) == (EntryKind.GRANT, index)
    assert dry.start_size <= index < 256
    assert dry.leaf_count == 0
    assert dry.statement_count > 250
    assert retention.read_pruned(world.services.ledger.store) == NOTHING

    done = world.prune()
    assert (done.leaf_count, done.statement_count) == (0, dry.statement_count)
    # Its leaves stay, for one below them is in force; their statements are gone all the same.
    found = world.history(anna)
    assert [(entry.kind_name, entry.is_pruned) for entry in found.entries] == [
        ("ENROL", False), ("GRANT", False), ("ACCESS", False)
    ]  # fmt: skip


def test_a_consent_that_ended_goes_with_the_pruning_after_next(world: World) -> None:
    anna = world.running.enrol("SYN-000001")
    end_ms = world.clock.wall_ms() + 30 * DAY_MS
    world.running.grant(anna, period=pb.Period(end_time_ms=end_ms))
    world.use(anna)
    world.fill(400)
    world.clock.advance(DAYS + 40)
    tag = world.tag(anna)
    with world.services.table.read() as snapshot:
        assert snapshot.subject(tag) is not None
    assert world.prune().stop_kind == EntryKind.GRANT  # later decisions depended on it
    with world.services.table.read() as snapshot:
        assert snapshot.subject(tag) == b""
    world.clock.advance(DAYS + 10)
    world.use(anna)
    assert world.prune().stop_kind == 0
    found = world.history(anna)
    assert [entry.seq for entry in found.entries] == [3, 4]
    assert found.missing == ((1, 2),)


def test_a_notice_that_was_shown_goes_unless_a_consent_rests_on_it(world: World) -> None:
    operator, app = ({"metadata": world.running.as_(who)} for who in ("operator", "app"))
    notice = make_notice("n")
    world.running.registry.PublishNotice(rs.PublishNoticeRequest(request_id=request_id(), attested=notice), **operator)
    shown = st.ServedStatement(notice_id="n", notice_version=1, language="ko", channel="app", served_time_ms=1)
    anna, bert = (world.running.enrol(f"SYN-00000{number}") for number in (1, 2))
    given = consent()
    given.notice_id, given.notice_version = "n", 1
    granted = cs.GrantConsentRequest(
        request_id=request_id(), subject=anna, attested=st.GrantStatement(consent=given), served=shown
    )
    world.running.consents.GrantConsent(granted, **app)
    for subject in (anna, bert):
        served = cs.RecordServedRequest(request_id=request_id(), subject=subject, attested=shown)
        world.running.consents.RecordServed(served, **app)
    world.clock.advance(DAYS + 10)
    world.running.grant(bert)
    world.settle()
    world.prune()
    for subject, expected in (
        (anna, [("ENROL", False), ("SERVED", False), ("GRANT", False), ("SERVED", True)]),
        (bert, [("ENROL", False), ("SERVED", True), ("GRANT", False)]),
    ):
        found = world.history(subject)
        assert [(entry.kind_name, entry.is_pruned) for entry in found.entries] == expected


def test_a_read_below_the_minimum_index_says_that_it_is_pruned(world: World) -> None:
    anna = world.running.enrol("SYN-000001")
    given = world.running.grant(anna)
    receipt = world.running.authorize(question(anna)).receipt
    world.revoke(anna, given)
    world.fill(400)
    world.clock.advance(DAYS + 10)
    world.use(anna)
    world.prune()
    auditor = world.running.as_("pipc")
    with pytest.raises(grpc.RpcError) as refused:
        world.running.ledger.ListLeaves(ls.ListLeavesRequest(start_index=0), metadata=auditor)
    assert reason_of(refused.value) == "PRUNED"
    request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
    found = world.running.ledger.GetReceipt(request, metadata=auditor).receipt
    assert (found.leaf, found.leaf_hash) == (b"", receipt.leaf_hash)
    # What is gone can still be proven by who kept it.
    proof = world.running.ledger.GetInclusionProof(
        ls.GetInclusionProofRequest(index=receipt.index), metadata=auditor
    )
    assert proof.hashes
    kept = ls.GetReceiptRequest(index=receipt.index, leaf=receipt.leaf)
    assert world.running.ledger.GetReceipt(kept).receipt.leaf == receipt.leaf
    page = world.running.ledger.ListLeaves(ls.ListLeavesRequest(start_index=256), metadata=auditor)
    assert page.leaves
    assert codec.decode_leaf(page.leaves[0])
    shown = world.running.ledger.ListEntries(ls.ListEntriesRequest(start_index=0), metadata=auditor)
    assert shown.entries[0].HasField("opening")  # leaf 0 is public


def test_nobody_but_the_operator_prunes_and_never_beyond_the_policy(world: World) -> None:
    start = ad.StartPruningRequest(request_id=request_id())
    for who, reason in (("app", "CALLER_NOT_ALLOWED"), ("pipc", "CALLER_NOT_ALLOWED")):
        with pytest.raises(grpc.RpcError) as refused:
            world.running.admin.StartPruning(start, metadata=world.running.as_(who))
        assert reason_of(refused.value) == reason
    too_late = world.clock.wall_ms() - (DAYS - 1) * DAY_MS
    for kept_from_ms in (too_late, -1):
        with pytest.raises(InvalidError):
            world.operator().start_pruning(kept_from_ms=kept_from_ms)
    assert list(world.operator().list_operations()) == []


def test_a_ledger_without_a_policy_keeps_everything(tmp_path: Path) -> None:
    world = World(tmp_path, days=0)
    world.clock.advance(1000)
    with pytest.raises(InvalidError, match="keeps everything"):
        world.operator().start_pruning()
    world.running.check_ledger()
    world.running.stop()


def test_a_pruning_that_was_cut_short_is_finished_by_the_next_call(world: World) -> None:
    anna = world.outlive(2, 600)
    world.use(anna)
    world.settle()
    services = world.services
    with held_at(ad.OPERATION_STEP_DELETING, 2) as held:
        operation_id = world.operator().start_pruning().operation_id
        assert held.reached.wait(HANG_S)
        world.operator().cancel_operation(operation_id)
    cancelled = world.operator().follow_operation(operation_id)
    assert (cancelled.error.code, cancelled.cancel_requested_by) == (1, "operator/main")
    # As if the daemon was killed after the first batch: the pruning is stated, and a part is deleted.
    assert retention.read_pruned(services.ledger.store).start
    assert not retention.is_finished(services.ledger.store)
    world.running.check_ledger()
    stated = services.ledger.head(codec.public_tag("ledger"))[0]
    world.prune(dry_run=True)
    assert not retention.is_finished(services.ledger.store)
    world.prune()
    assert retention.is_finished(services.ledger.store)
    assert services.ledger.head(codec.public_tag("ledger"))[0] == stated  # it was stated once
    assert services.ledger.store.get(layout.PRUNED) is not None


def test_the_command_line_prunes_and_what_is_deleted_leaves_the_disk(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = world.running.config
    file = tmp_path / "consentd.toml"
    file.write_text(config_text(retention_days=DAYS))
    anna = world.outlive(2)
    world.running.grant(anna)
    store = world.services.ledger.store
    rows = dict(store.scan(b"c", b"d"))
    # As after some days: the rows lie in a sorted file, the deletions will in another.
    store.compact_ranges([(b"c", b"d")])
    assert traces(rows.values(), config.ledger.store_dir)  # of those that compression left as they are
    monkeypatch.setenv("CONSENTD_TARGET", f"127.0.0.1:{world.running.daemon.grpc_port}")
    monkeypatch.setenv("CONSENTD_TOKEN", world.running.tokens["operator"])
    monkeypatch.setenv("CONSENTD_LOG_KEY", format_vkey(read_signing_key(config.keys.log_key_file).verifier))
    assert cli.main(["prune", "--dry-run", "--lang", "en"]) == 0
    assert "would be pruned" in capsys.readouterr().out
    assert cli.main(["prune", "--keep-from", "2999-01-01"]) == 2
    assert "choose an earlier time" in capsys.readouterr().err
    assert cli.main(["prune", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["statements"] > 400
    assert answer["leaves"] > 200
    monkeypatch.setenv("CONSENTD_TOKEN", world.running.tokens["app"])
    assert cli.main(["history", "mhid:SYN-000001", "--lang", "ko"]) == 0
    shown = capsys.readouterr()
    assert "항목 1–4: 원장의 보유기간이 지나 삭제됨" in shown.err
    assert "(보유기간이 지나 파기됨)" in shown.out

    left = dict(store.scan(b"c", b"d"))
    world.running.stop()
    assert cli.main(["compact", "--config", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["after"] <= answer["before"]
    gone = [row for key, row in rows.items() if key not in left]
    assert len(gone) > 400
    assert not traces(gone, config.ledger.store_dir)
    world.running = Running(config, world.running.tokens, clock=world.clock)


def traces(rows: Iterable[bytes], directory: Path) -> int:
    """Return how many pieces of rows, ciphertext all, are found in the files of a directory."""
    files = b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
    return sum(row[at : at + 16] in files for row in rows for at in range(13, len(row) - 16, 16))


# -- auditors -------------------------------------------------------------------------------------------------


def test_an_auditor_verifies_what_is_left(world: World, tmp_path: Path) -> None:
    full, rest = tmp_path / "full", tmp_path / "rest"
    log_key = read_signing_key(world.running.config.keys.log_key_file).verifier
    world.running.enrol("SYN-000009")
    world.fill(400)
    world.settle()
    export(live(world, openings=False), full, origin=ORIGIN, log_verifier=log_key)
    state = tmp_path / "state"
    assert verify(world, live(world), state_path=state).faults == ()
    pruned_world(world)

    minimum = retention.read_pruned(world.services.ledger.store).minimum
    assert minimum >= 512
    for again in range(2):  # from nothing; from what it saved
        report = verify(world, live(world), state_path=tmp_path / "new")
        assert report.faults == ()
        assert (report.leaves_pruned > 400, report.statements_pruned > 0) == (True, True), again
        assert set(report.not_checked) == {CLOSED, NO_PERSONS}  # persons' statements: no mandate
    # A client that verified a part before continues from there, over the gap.
    assert verify(world, live(world), state_path=state).faults == ()
    exported = export(live(world, openings=False), rest, origin=ORIGIN, log_verifier=log_key)
    assert verify(world, ExportDirectory(rest)).faults == ()
    assert not (rest / tiles.entries_path(0)).exists()
    assert (rest / tiles.kept_path(0)).exists()
    # A directory that had been exported before keeps what it has, and is verified from its first leaf on.
    export(live(world, openings=False), full, origin=ORIGIN, log_verifier=log_key)
    report = verify(world, ExportDirectory(full))
    assert report.faults == ()
    assert report.checkpoint == exported.checkpoint
    world.running.stop()
    for jobs in (1, 2):
        report = verify(world, data_directory(world), jobs=jobs)
        assert report.faults == ()
        assert report.not_checked == {}
        assert (report.leaves_pruned > 400, report.statements_pruned > 0) == (True, True)
        replayed = replay_decisions(data_directory(world), origin=ORIGIN, log_verifier=log_key, jobs=jobs)
        assert replayed.faults == ()
        assert replayed.same == {"ACCESS": 2}  # what was decided since; the rest is gone
        assert not replayed.is_undetermined
    world.running = Running(world.running.config, world.running.tokens, clock=world.clock)


def test_a_place_that_hides_more_than_the_ledger_states_is_found(world: World, tmp_path: Path) -> None:
    anna = pruned_world(world)
    store = world.services.ledger.store
    last = max(entry.index for entry in reads.read_chain_with_gaps(store, world.tag(anna)) if entry.index < 400)
    rest = tmp_path / "rest"
    log_key = read_signing_key(world.running.config.keys.log_key_file).verifier
    exported = export(live(world, openings=False), rest, origin=ORIGIN, log_verifier=log_key)

    def hide(index: int, name: str) -> str:
        """Take one leaf more out of a bundle; return what is found."""
        path = rest / name
        before = path.read_bytes()
        leaves = tiles.decode_bundle(before)
        assert leaves[index % 256]
        leaves[index % 256] = b""
        path.write_bytes(tiles.encode_bundle(leaves))
        found = verify(world, ExportDirectory(rest)).faults
        path.write_bytes(before)
        assert found
        return found[0].what

    start = retention.read_pruned(store).start
    # The last leaf of her chain before the start, a public chain's, her ENROL.
    assert last < 256
    assert "map root" in hide(last, tiles.kept_path(0))
    assert "seal counts" in hide(0, tiles.kept_path(0))
    enrol = reads.read_entry(store, world.tag(anna), 1).index
    assert "where its chain has `0` before it" in hide(enrol, tiles.kept_path(0))
    # A leaf after the start.
    assert start >= 256
    size = tiles.TILE_WIDTH if (rest / tiles.entries_path(start // 256)).exists() else exported.checkpoint.size % 256
    assert "where nothing is pruned" in hide(start, tiles.entries_path(start // 256, size))
    # The claim itself, larger and smaller than what the ledger states.
    claim = rest / "pruned"
    stated = claim.read_bytes()
    claim.write_bytes(format_pruned(Pruned(retention.read_pruned(store).kept_from_ms, start - 256)))
    assert verify(world, ExportDirectory(rest)).faults
    claim.write_bytes(stated)
    assert verify(world, ExportDirectory(rest)).faults == ()


def test_a_leaf_or_statement_that_is_gone_and_not_stated_is_named_by_fsck(world: World) -> None:
    anna = pruned_world(world)
    store, tag = world.services.ledger.store, world.tag(anna)
    chain = list(reads.read_chain_with_gaps(store, tag))
    for entry, what in ((chain[0], "chain has `0` before it"), (chain[1], "map root"), (chain[-1], "leaf is missing")):
        key = layout.leaf_key(entry.index)
        with without(store, key):
            faults = fsck(world).faults
        assert any(what in fault.what for fault in faults), faults
    with without(store, layout.statement_key(tag, chain[-1].event.seq)):
        assert "statement or its key is missing" in fsck(world).faults[0].what
    with without(store, layout.statement_key(tag, 1)):
        assert "statement or its key is missing" in fsck(world).faults[0].what
    with without(store, layout.PRUNED):
        assert fsck(world).faults


@contextmanager
def without(store: Store, key: bytes) -> Iterator[None]:
    """Do without a row for a while."""
    row = store.get(key)
    assert row is not None
    batch = Batch()
    batch.delete(key)
    store.write(batch)
    yield
    batch = Batch()
    batch.put(key, row)
    store.write(batch)
