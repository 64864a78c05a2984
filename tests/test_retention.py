"""Prune: what goes, what stays, and that everything still verifies, from the operator's call to the citizen's proof."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.note import format_vkey
from consentd.ledger import layout, reads, retention
from consentd.ledger.retention import DAY_MS
from consentd.ledger.table import Table, catch_up
from consentd.server.keys import read_log_key
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd_client import Client, History, RamMemory, pin
from running import make_running, question, reason_of, request_id

DAYS = 730


class LateClock:
    """The machine's clock, some time ago, which can be moved ahead: wall and monotonic time together."""

    def __init__(self) -> None:
        self._behind_ms = 10 * 365 * DAY_MS
        self._began_ms = time.time_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 - self._behind_ms

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
    def parts(self):
        parts = self.running.daemon.lobby.parts
        assert parts is not None
        return parts

    def revoke(self, subject: pb.Subject, consent_id: str) -> None:
        request = cs.RevokeConsentRequest(request_id=request_id(), subject=subject, consent_id=consent_id)
        self.running.consents.RevokeConsent(request, metadata=self.running.as_("app"))

    def use(self, subject: pb.Subject, times: int = 1) -> None:
        for _ in range(times):
            self.running.authorize(question(subject))

    def fill(self, count: int) -> None:
        """Have enough entries of somebody else that whole bundles lie behind what was before."""
        other = self.running.enrol(f"SYN-{os.urandom(6).hex()}")
        given = self.running.grant(other)
        self.use(other, count)
        self.revoke(other, given)

    def prune(self, **request: int) -> list[ls.PruneResponse]:
        call = ls.PruneRequest(**request)
        return list(self.running.ledger.Prune(call, metadata=self.running.as_("operator"), timeout=60))

    def tag(self, subject: pb.Subject) -> bytes:
        with self.parts.table.read() as snapshot:
            tag = snapshot.tag_of(self.parts.vault.identifier_hash(subject.scheme, subject.value))
        assert tag is not None
        return tag

    def client(self, memory: RamMemory | None = None) -> Client:
        log_key = format_vkey(read_log_key(self.running.config.keys.log_key_file).verifier)
        return Client(
            "", token=self.running.tokens["app"], trust=pin(log_key), channel=self.running.channel, memory=memory
        )

    def history(self, subject: pb.Subject, memory: RamMemory | None = None) -> History:
        return self.client(memory).history(subject)

    def settle(self) -> None:
        """Wait until all that is written is published."""
        assert self.parts.sequencer.wait_published(self.parts.ledger.state.size, 30) is not None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.settle()
    world.running.check_ledger()
    world.running.stop()


def test_what_has_no_effect_any_more_goes_and_everything_still_verifies(world: World, tmp_path: Path) -> None:
    anna = world.running.enrol("SYN-000001")
    given = world.running.grant(anna)
    world.use(anna, 3)
    world.revoke(anna, given)
    world.fill(400)
    world.clock.advance(DAYS + 10)
    world.running.grant(anna)
    world.use(anna, 2)
    world.settle()
    before = world.history(anna)
    assert [entry.seq for entry in before.entries] == list(range(1, 10))
    assert not before.missing

    *_, last = world.prune()
    assert last.step == ls.PRUNE_STEP_DONE
    assert last.start_size > 256
    assert last.leaf_count > 200
    assert last.statement_count > 250
    pruned = retention.read_pruned(world.parts.ledger.store)
    assert pruned.is_finished
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
    parts = world.parts
    fresh = Table.open(tmp_path / "fresh", map_size_mb=64)
    catch_up(fresh, parts.ledger, parts.vault, 0)
    with fresh.read() as new, parts.table.read() as old:
        rows = [
            [(key, value[:40] if key == b"R" else value) for key, value in view.rows()] for view in (new, old)
        ]
    fresh.close()
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
    anna = world.running.enrol("SYN-000001")
    world.running.grant(anna)
    world.fill(400)
    world.clock.advance(DAYS + 10)
    world.use(anna)
    dry = world.prune(dry_run=True)[-1]
    index = reads.read_entry(world.parts.ledger.store, world.tag(anna), 2).index
    assert (dry.stop_kind, dry.stop_index) == (EntryKind.GRANT, index)
    assert dry.start_size <= index < 256
    assert dry.leaf_count == 0
    assert dry.statement_count > 250
    assert retention.read_pruned(world.parts.ledger.store) == retention.NOTHING

    done = world.prune()[-1]
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
    with world.parts.table.read() as snapshot:
        assert snapshot.subject(tag) is not None
    assert world.prune()[-1].stop_kind == EntryKind.GRANT  # decisions since then had it in view
    with world.parts.table.read() as snapshot:
        assert snapshot.subject(tag) is None
    world.clock.advance(DAYS + 10)
    world.use(anna)
    assert world.prune()[-1].stop_kind == 0
    found = world.history(anna)
    assert [entry.seq for entry in found.entries] == [3, 4]
    assert found.missing == ((1, 2),)


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
        world.running.ledger.ListEntries(ls.ListEntriesRequest(start_index=0), metadata=auditor)
    assert reason_of(refused.value) == "PRUNED"
    request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
    with pytest.raises(grpc.RpcError) as refused:
        world.running.ledger.GetReceipt(request, metadata=auditor)
    assert reason_of(refused.value) == "PRUNED"
    # What is gone can still be proven by who kept it.
    proof = world.running.ledger.GetInclusionProof(
        ls.GetInclusionProofRequest(index=receipt.index), metadata=auditor
    )
    assert proof.leaf_hash == receipt.leaf_hash
    assert proof.hashes
    page = world.running.ledger.ListEntries(ls.ListEntriesRequest(start_index=256), metadata=auditor)
    assert page.leaves
    assert codec.decode_leaf(page.leaves[0])
    shown = world.running.ledger.ListStatements(ls.ListStatementsRequest(start_index=0), metadata=auditor)
    assert shown.entries[0].HasField("opening")  # leaf 0 is public


def test_nobody_but_the_operator_prunes_and_never_beyond_the_policy(world: World) -> None:
    for who, reason in (("app", "CALLER_NOT_ALLOWED"), ("pipc", "CALLER_NOT_ALLOWED")):
        with pytest.raises(grpc.RpcError) as refused:
            list(world.running.ledger.Prune(ls.PruneRequest(), metadata=world.running.as_(who)))
        assert reason_of(refused.value) == reason
    too_late = world.clock.wall_ms() - (DAYS - 1) * DAY_MS
    for kept_from_ms in (too_late, -1):
        with pytest.raises(grpc.RpcError) as refused:
            world.prune(kept_from_time_ms=kept_from_ms)
        assert reason_of(refused.value) == "INVALID_REQUEST"


def test_a_ledger_without_a_policy_keeps_everything(tmp_path: Path) -> None:
    world = World(tmp_path, days=0)
    world.clock.advance(1000)
    with pytest.raises(grpc.RpcError) as refused:
        world.prune()
    assert "keeps everything" in (refused.value.details() or "")
    world.running.check_ledger()
    world.running.stop()


def test_a_pruning_that_was_cut_short_is_finished_by_the_next_call(world: World) -> None:
    anna = world.running.enrol("SYN-000001")
    given = world.running.grant(anna)
    world.use(anna, 2)
    world.revoke(anna, given)
    world.fill(600)
    world.clock.advance(DAYS + 10)
    world.use(anna)
    world.settle()
    call = world.running.ledger.Prune(ls.PruneRequest(), metadata=world.running.as_("operator"))
    next(answer for answer in call if answer.step == ls.PRUNE_STEP_DELETING)
    call.cancel()
    parts = world.parts
    assert parts.pruning.acquire(timeout=30)  # whoever was cancelled lets go
    parts.pruning.release()
    # As if the daemon had been killed behind the first batch: what is to go is stated, none or some of it is gone.
    state = retention.read_pruned(parts.ledger.store)
    assert state.start
    world.running.check_ledger()
    stated = parts.ledger.head(codec.public_tag("ledger"))[0]
    assert world.prune()[-1].step == ls.PRUNE_STEP_DONE
    assert retention.read_pruned(parts.ledger.store).is_finished
    if not state.is_finished:
        assert parts.ledger.head(codec.public_tag("ledger"))[0] == stated  # it was stated once
    assert parts.ledger.store.get(layout.PRUNED) is not None
