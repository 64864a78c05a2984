"""The sequencer: repeats and conflicts, the clock, seals and checkpoints, and the pool."""

import threading
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.fakes import HANG_S
from cases.ledgers import (
    BANK,
    CITIZEN,
    INTERVAL_MS,
    LOG,
    ORIGIN,
    START_MS,
    FakeClock,
    LedgerCase,
    check_files,
    check_ledger,
    held_writer,
)
from cases.writes import Failing
from consentd.core import checkpoint, codec
from consentd.core.kinds import EntryKind
from consentd.errors import (
    DeniedError,
    InvalidError,
    NotFoundError,
    OverloadedError,
    PreconditionError,
    StorageError,
)
from consentd.ledger import layout, reads
from consentd.sequencer import loop
from consentd.sequencer.commands.accesses import RecordOutcomes
from consentd.sequencer.pool import PendingCall, PendingWrite
from consentd.sequencer.repeats import Repeats
from consentd.store import Batch
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


def with_other_content(write: Any) -> Any:
    return replace(write, request=replace(write.request, content=bytes(32)))


def with_wrong_signature(write: Any) -> Any:
    statement = replace(write.signed.statement, signature=bytes(64))
    return replace(write, signed=replace(write.signed, statement=statement))


# -- repeats ------------------------------------------------------------------------------------------------------


def test_a_repeat_returns_the_first_entry_and_appends_none(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    write = case.grant(person)
    first = case.write(write)
    size = case.ledger.state.size
    for _ in range(2):
        again = case.write(write)
        assert again.replayed
        assert again.entries == ()
        assert again.entry.index == first.entry.index
        assert again.state.size == size
    assert case.ledger.state.size == size
    assert case.metrics.value("consentd_repeats_total", repeat="same") == 2
    assert not first.replayed


def test_a_repeat_survives_a_crash(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    write = case.grant(person)
    first = case.write(write)
    case.reopen()
    again = case.write(write)
    assert (again.entry.index, again.replayed) == (first.entry.index, True)


def test_a_request_id_with_other_content_is_a_conflict(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    write = case.grant(person)
    case.write(write)
    size = case.ledger.state.size
    with pytest.raises(PreconditionError) as raised:
        case.write(with_other_content(write))
    assert raised.value.reason == "REQUEST_ID_REUSED"
    assert case.ledger.state.size == size
    assert case.metrics.value("consentd_repeats_total", repeat="conflicting") == 1


def test_the_same_request_id_of_another_asker_is_another_request(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    case.write(case.participant("clinic"))
    one = case.grant(person, request_id=b"same request id!")
    two = case.grant(person, request_id=b"same request id!", asker="clinic")
    assert case.write(one).entry.index != case.write(two).entry.index


def test_repeats_and_clashes_in_one_batch(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    write = case.grant(person)
    size = case.ledger.state.size
    futures = case.write_together([write, write, with_other_content(write), write])
    results = [futures[location].result(HANG_S) for location in (0, 1, 3)]
    assert [result.entry.index for result in results] == [size] * 3
    assert [result.replayed for result in results] == [False, True, True]
    with pytest.raises(PreconditionError):
        futures[2].result(HANG_S)
    assert case.ledger.state.size == size + 1


def test_a_repeated_question_gets_the_recorded_decision_and_one_taken_now(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    lineage = case.write(case.grant(person)).entry.event.seq
    question = case.access(person)
    first = case.write(question)
    assert first.entries[0].event.kind == EntryKind.ACCESS
    case.write(case.change(person, lineage, EntryKind.REVOKE))
    for _ in range(2):
        again = case.write(question)
        assert (again.entry.index, again.entries) == (first.entry.index, ())
        assert again.answer.decision == first.answer.decision
        assert again.answer.current.outcome == pb.OUTCOME_DENY
        assert again.answer.current.revision.tree_size == case.ledger.state.size
        case.reopen()


def test_a_repeat_in_the_batch_of_its_first_sees_what_came_between(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    lineage = case.write(case.grant(person)).entry.event.seq
    question = case.access(person)
    futures = case.write_together([question, case.change(person, lineage, EntryKind.REVOKE), question])
    first, again = futures[0].result(HANG_S).answer, futures[2].result(HANG_S).answer
    assert (first.current, again.decision) == (None, first.decision)
    assert again.current.outcome == pb.OUTCOME_DENY


def test_repeats_need_no_writer(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    writes = [case.grant(person), case.access(person), case.participant("clinic")]
    first = [case.write(write) for write in writes]
    fresh = case.access(person)
    with held_writer(case.sequencer):
        *repeats, waiting, clash = case.sequencer.submit_all([*writes, fresh, with_other_content(writes[1])])
        again = [future.result(HANG_S) for future in repeats]
        with pytest.raises(PreconditionError):
            clash.result(HANG_S)
        assert not waiting.done()
    assert [one.entry for one in again] == [one.entry for one in first]
    assert not waiting.result(HANG_S).replayed


def test_a_repeat_waits_until_the_table_has_the_first(case: LedgerCase) -> None:
    class OldTable:
        def read(self) -> Any:
            return old

    person = case.enrol("somebody")
    write = case.grant(person)
    old = case.table.read()
    case.write(write)
    table: Any = OldTable()
    repeats = Repeats(case.ledger, table, case.sequencer._author, clock=case.clock, metrics=case.metrics)
    pending = PendingWrite(write)
    assert repeats.answer([pending]) == [pending]
    assert not pending.future.done()


def test_a_repeat_whose_statement_was_deleted_is_a_conflict(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    question = case.access(person)
    first = case.write(question).entry
    batch = Batch()
    batch.delete(layout.statement_key(person.tag, first.event.seq))
    case.sequencer.call(lambda: case.store.write(batch))
    with pytest.raises(PreconditionError) as raised:
        case.write(question)
    assert raised.value.reason == "REQUEST_ID_REUSED"


def test_a_request_is_forgotten_after_its_time_and_not_before(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    write = case.grant(person)
    first = case.write(write)
    week = 7 * 86_400_000
    case.clock.advance(week)
    case.write(case.access(person))
    assert case.write(write).entry.index == first.entry.index
    case.clock.advance(1)
    case.write(case.access(person))  # drops what is old enough
    assert not case.write(write).replayed
    check_files(case)


def test_writes_together_are_all_or_none(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    case.write(case.grant(person))
    seqs = [case.write(case.access(person)).entry.event.seq for _ in range(3)]
    size = case.ledger.state.size
    parts = tuple(case.outcome(person, seq) for seq in seqs)
    refused = (*parts, case.outcome(person, 999))
    with pytest.raises(NotFoundError):
        case.write(RecordOutcomes(outcomes=refused))
    assert case.ledger.state.size == size
    with pytest.raises(InvalidError):
        case.write(RecordOutcomes(outcomes=(parts[0], parts[0])))
    case.write(parts[1])
    written = case.write(RecordOutcomes(outcomes=parts))
    assert [None if one is None else one.index for one in written.answer] == [None, size, None]
    assert len(written.entries) == 2
    assert case.ledger.state.size == size + 3
    assert [one.index for one in case.write(RecordOutcomes(outcomes=parts)).answer] == [size + 1, size, size + 2]
    with pytest.raises(PreconditionError):
        case.write(RecordOutcomes(outcomes=(with_other_content(parts[0]),)))


# -- refusals, order ------------------------------------------------------------------------------------------------


def test_a_refused_write_leaves_nothing_and_hinders_nobody(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    size = case.ledger.state.size
    wrong = case.change(person, 99, EntryKind.PAUSE)
    futures = case.write_together([case.grant(person), Failing(error=InvalidError("no")), case.grant(person), wrong])
    assert [futures[location].result(HANG_S).entry.index for location in (0, 2)] == [size, size + 1]
    with pytest.raises(InvalidError):
        futures[1].result(HANG_S)
    with pytest.raises(NotFoundError):
        futures[3].result(HANG_S)
    assert case.sequencer.fault is None
    check_files(case)


def test_a_write_sees_the_ones_before_it_in_its_batch(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    count, _ = case.ledger.head(person.tag)
    futures = case.write_together(
        [
            case.access(person), case.grant(person), case.access(person),
            case.change(person, count + 2, EntryKind.REVOKE), case.access(person),
        ]
    )
    kinds = [future.result(HANG_S).entries[0].event.kind for future in futures]
    assert kinds == [
        EntryKind.REFUSAL, EntryKind.GRANT, EntryKind.ACCESS, EntryKind.REVOKE, EntryKind.REFUSAL,
    ]
    access = futures[2].result().entries[0].event
    assert access.ref == count + 2


def test_a_question_about_nobody_is_recorded_in_a_chain_of_its_own(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    nobody = replace(person, identifier_hash=b"?" * 32)
    first, second = (case.write(case.access(nobody)).entry for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.event.kind, first.event.seq, second.event.seq) == (EntryKind.REFUSAL, 1, 2)
    assert first.event.tag == second.event.tag != person.tag


def test_an_asker_that_an_earlier_write_of_the_batch_deactivates_is_denied(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    case.write(case.grant(person))
    question = case.access(person)
    inactive = st.ParticipantStatement(
        participant_id="bank", name={"en": "bank"}, roles=[st.PARTICIPANT_ROLE_HOLDER], active=False
    )
    deactivation = case.public("participant/bank", EntryKind.PARTICIPANT, inactive)
    futures = case.write_together([question, deactivation, case.access(person), question])
    assert [future.result(HANG_S).replayed for future in futures[:2]] == [False, False]
    for future in (*futures[2:], case.sequencer.submit(question)):
        with pytest.raises(DeniedError):
            future.result(HANG_S)


def test_a_persons_own_signature_is_verified(case: LedgerCase) -> None:
    person = case.enrol("somebody", CITIZEN)
    case.write(case.grant(person, signed=True))
    good = case.grant(person, signed=True)
    wrong = with_wrong_signature(good)
    late = case.grant(person, signed=True)
    stranger = case.grant(replace(person, key=BANK), signed=True)
    case.clock.advance(600_001)
    for bad, reason in (
        (wrong, "AUTHOR_CLOCK"), (late, "AUTHOR_CLOCK"), (stranger, "AUTHOR_CLOCK"),
    ):
        with pytest.raises(InvalidError) as raised:
            case.write(bad)
        assert raised.value.reason == reason
    good = case.grant(person, signed=True)
    with pytest.raises(InvalidError) as raised:
        case.write(with_wrong_signature(good))
    assert raised.value.reason == "BAD_SIGNATURE"
    with pytest.raises(PreconditionError) as not_in_force:
        case.write(case.grant(replace(person, key=BANK), signed=True))
    assert not_in_force.value.reason == "KEY_NOT_IN_FORCE"
    case.write(good)
    case.seal()
    check_files(case)


# -- seals and checkpoints --------------------------------------------------------------------------------------------


def test_sizes_nought_and_one_are_never_signed(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path, begin=False)
    case.clock.advance(INTERVAL_MS)
    case.sequencer.call(lambda: None)
    case.close()
    assert case.notes == []
    assert case.ledger.state.size == 0
    assert not case.last_signed_path.exists()
    case.open()
    case.write(case.genesis())
    assert case.sequencer.checkpoints.published is None
    case.close()
    check_ledger(case, 4)


def test_a_seal_waits_for_news_and_for_its_time(case: LedgerCase) -> None:
    size = case.ledger.state.size
    for _ in range(3):
        case.clock.advance(INTERVAL_MS)
        case.sequencer.call(lambda: None)
    case.sequencer.call(lambda: None)
    assert case.ledger.state.size == size
    case.write(case.participant("clinic"))  # long after the last seal: this very batch is sealed
    assert case.ledger.state.size == case.ledger.state.sealed_size == size + 2
    case.write(case.participant("laboratory"))
    assert case.ledger.state.size == size + 3
    case.clock.advance(INTERVAL_MS - 1)
    case.write(case.participant("pharmacy"))
    assert case.ledger.state.sealed_size == size + 2
    case.clock.advance(1)
    assert case.seal().size == size + 5


def test_draining_seals_and_publishes_what_waits(case: LedgerCase) -> None:
    size = case.ledger.state.size
    futures = case.write_together([case.participant(f"clinic{number}") for number in range(5)])
    case.close()
    assert [future.result(0).entry.index for future in futures] == list(range(size, size + 5))
    check_ledger(case, size + 6)
    with pytest.raises(StorageError) as raised:
        case.sequencer.submit(case.participant("late"))
    assert raised.value.reason == "NOT_SERVING"


def test_the_lock_is_the_checkpoint_published_last(case: LedgerCase) -> None:
    for number in range(3):
        case.write(case.participant(f"clinic{number}"))
        point = case.seal()
        assert case.last_signed_path.read_bytes() == case.notes[-1]
        published = case.sequencer.checkpoints.wait(point.size, 0)
        assert published is not None
        assert published.checkpoint == point
    opened, _ = checkpoint.open_checkpoint(case.notes[-1], ORIGIN, LOG.verifier)
    assert opened == point == checkpoint.Checkpoint(ORIGIN, case.ledger.state.size, case.ledger.state.root)
    assert case.sequencer.checkpoints.wait(point.size + 1, 0) is None


def test_waiting_for_a_checkpoint_ends_with_it(case: LedgerCase) -> None:
    written = case.write(case.participant("clinic"))
    found: list[Any] = []
    wait, size = case.sequencer.checkpoints.wait, written.state.size + 1
    waiter = threading.Thread(target=lambda: found.append(wait(size, HANG_S)))
    waiter.start()
    point = case.seal()
    waiter.join(HANG_S)
    assert found[0].checkpoint == point


# -- the clock --------------------------------------------------------------------------------------------------------


def last_time_ms(case: LedgerCase) -> int:
    return case.ledger.state.time_ms


def test_a_clock_a_second_behind_uses_the_last_time_again(case: LedgerCase) -> None:
    last = last_time_ms(case)
    for behind in (1, 999):
        case.clock.shift_wall(-behind)
        case.write(case.participant(f"clinic{behind}"))
        assert last_time_ms(case) == last
    check_files(case)


def test_a_clock_further_behind_is_refused_until_it_is_right(case: LedgerCase) -> None:
    size, last = case.ledger.state.size, last_time_ms(case)
    case.clock.shift_wall(-1001)
    for _ in range(2):
        with pytest.raises(StorageError) as raised:
            case.write(case.participant("clinic"))
        assert raised.value.reason == "CLOCK"
    assert case.metrics.value("consentd_clock_refusals_total", direction="behind") == 2
    assert case.ledger.state.size == size
    assert case.sequencer.fault is None
    case.clock.advance(1)
    case.write(case.participant("clinic"))
    assert last_time_ms(case) == last


def test_the_log_says_when_the_clock_begins_to_disagree_and_when_it_ends(
    case: LedgerCase, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("clock ")]

    caplog.set_level("INFO")
    case.clock.shift_wall(-90_000)
    behind = case.clock.wall_ms() - last_time_ms(case)
    for _ in range(3):
        with pytest.raises(StorageError):
            case.write(case.participant("clinic"))
    assert len(told()) == 1
    assert f"behind: writes are refused: it shows {behind} ms from the last entry's time" in told()[0]
    case.clock.shift_wall(90_000)
    for _ in range(2):
        case.write(case.participant("clinic"))
    assert told()[1:] == ["clock agrees with the ledger again"]


def test_a_clock_that_jumps_ahead_is_refused(case: LedgerCase) -> None:
    last = last_time_ms(case)
    case.clock.shift_wall(5 * 60_000)
    case.write(case.participant("clinic"))
    assert last_time_ms(case) == last + 5 * 60_000
    case.clock.shift_wall(5 * 60_000 + 1)
    with pytest.raises(StorageError) as raised:
        case.write(case.participant("laboratory"))
    assert raised.value.reason == "CLOCK"
    assert case.metrics.value("consentd_clock_refusals_total", direction="ahead") == 1
    case.clock.shift_wall(-1)
    case.write(case.participant("laboratory"))


def test_a_long_rest_is_no_jump(case: LedgerCase) -> None:
    case.clock.advance(3 * 86_400_000)
    case.write(case.participant("clinic"))
    assert last_time_ms(case) == case.clock.wall_ms()


def test_a_clock_behind_at_a_start_needs_an_operator(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    last = last_time_ms(case)
    case.write(case.participant("clinic"))  # unsealed, so that opening has something to seal
    case.crash()
    case.clock = FakeClock()
    case.clock.shift_wall(-60_000)
    assert case.clock.wall_ms() < START_MS < last
    with pytest.raises(StorageError) as raised:
        case.open()
    assert raised.value.reason == "CLOCK"
    case.open(confirm_clock=True)
    case.write(case.participant("laboratory"))
    assert last_time_ms(case) == last
    # Once the clock has overtaken the last entry, time goes on by it.
    case.clock.advance(last - case.clock.wall_ms() + 5)
    case.write(case.participant("pharmacy"))
    assert last_time_ms(case) == last + 5
    case.close()
    check_ledger(case)


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_a_call_runs_between_batches_and_its_errors_are_the_callers(case: LedgerCase) -> None:
    assert case.sequencer.call(lambda: threading.current_thread().name) == "sequencer"
    with pytest.raises(ZeroDivisionError):
        case.sequencer.call(lambda: 1 // 0)
    with pytest.raises(NotFoundError):
        case.sequencer.call(lambda: reads.read_leaf(case.store, 999))
    case.write(case.participant("clinic"))


def test_too_many_writes_are_turned_away(case: LedgerCase) -> None:
    with held_writer(case.sequencer):
        futures = [case.sequencer.submit(case.participant(f"clinic{number}")) for number in range(1000)]
        with pytest.raises(OverloadedError):
            case.sequencer.submit(case.participant("late")).result(1)
    indexes = [future.result(HANG_S).entry.index for future in futures]
    assert indexes == list(range(indexes[0] or 0, (indexes[0] or 0) + 1000))
    case.seal()
    check_files(case)


def test_writes_put_in_together_share_a_batch_and_each_ends_by_itself(case: LedgerCase) -> None:
    good = [case.participant(f"clinic{number}") for number in range(50)]
    again = with_other_content(good[7])
    before = case.metrics.value("consentd_commit_seconds_count", store="ledger")
    futures = case.sequencer.submit_all([*good[:30], again, *good[30:]])
    with pytest.raises(PreconditionError):
        futures.pop(30).result(HANG_S)
    first = futures[0].result(HANG_S).entry.index
    assert [future.result(HANG_S).entry.index for future in futures] == list(range(first, first + 50))
    assert case.metrics.value("consentd_commit_seconds_count", store="ledger") == before + 1
    case.seal()
    check_files(case)


def test_of_writes_put_in_together_those_without_room_are_turned_away(case: LedgerCase) -> None:
    with held_writer(case.sequencer):
        futures = case.sequencer.submit_all([case.participant(f"clinic{number}") for number in range(1003)])
        for late in futures[1000:]:
            with pytest.raises(OverloadedError):
                late.result(1)
    assert all(future.result(HANG_S).entry for future in futures[:1000])
    case.seal()
    check_files(case)


def test_urgent_writes_come_before_others_and_have_a_limit_of_their_own(case: LedgerCase) -> None:
    with held_writer(case.sequencer):
        others = [case.sequencer.submit(case.participant(f"clinic{number}")) for number in range(1000)]
        urgent = case.sequencer.submit_all([case.participant("urgent-a"), case.participant("urgent-b")], urgent=True)
    indexes = [future.result(HANG_S).entry.index for future in (*urgent, *others)]
    assert indexes == list(range(indexes[0] or 0, (indexes[0] or 0) + 1002))
    case.seal()
    check_files(case)


def test_a_call_does_not_wait_for_the_writes_that_wait(case: LedgerCase) -> None:
    with held_writer(case.sequencer):
        writes = [case.sequencer.submit(case.participant(f"clinic{number}")) for number in range(10)]
        call = PendingCall(lambda: [write.done() for write in writes])
        case.sequencer._pool.put([call])  # ``call`` would wait here
    assert call.future.result(HANG_S) == [False] * 10
    assert all(future.result(HANG_S).entry for future in writes)


def test_a_batch_that_takes_long_leaves_the_rest_to_the_next_one(
    case: LedgerCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "BATCH_S", 0.0)
    before = case.metrics.value("consentd_commit_seconds_count", store="ledger")
    with held_writer(case.sequencer):
        futures = case.sequencer.submit_all([case.participant(f"clinic{number}") for number in range(3)])
    first = futures[0].result(HANG_S).entry.index
    assert [future.result(HANG_S).entry.index for future in futures] == list(range(first, first + 3))
    assert case.metrics.value("consentd_commit_seconds_count", store="ledger") == before + 3
    case.seal()
    check_files(case)


def test_a_caller_that_no_longer_waits_hinders_nobody(case: LedgerCase) -> None:
    with held_writer(case.sequencer):
        gone, here = (case.sequencer.submit(case.participant(name)) for name in ("clinic", "laboratory"))
        assert gone.cancel()
    assert here.result(HANG_S).entry is not None
    with pytest.raises(CancelledError):
        gone.result(0)
    assert case.sequencer.fault is None


def test_many_threads_write_one_order(case: LedgerCase) -> None:
    people = [case.enrol(f"person {number}") for number in range(8)]
    writes = [[case.grant(person) for _ in range(10)] for person in people]

    def work(mine: list[Any]) -> None:
        for write in mine:
            case.write(write)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in writes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    case.seal()
    replay = check_ledger(case)
    assert [replay.heads[person.tag][0] for person in people] == [11] * 8
    check_files(case)


def test_the_state_of_an_answer_covers_its_entries(case: LedgerCase) -> None:
    written = case.write(case.participant("clinic"))
    (entry,) = written.entries
    assert written.state.size > entry.index
    leaf = reads.read_leaf(case.store, entry.index)
    assert leaf == entry.leaf == codec.encode_event(entry.event)
    assert reads.root_at(case.store, written.state.size) == written.state.root
