"""The pool: callers are served in rotation, and the writes of each stay in order."""

import random
from typing import Any

import pytest

from cases.fakes import HANG_S
from cases.ledgers import LedgerCase, check_files, held_writer
from cases.writes import Failing
from consentd.sequencer import loop
from consentd.sequencer.commands.accesses import RecordOutcomes
from consentd.sequencer.pool import Lane, PendingWrite


def test_callers_are_served_in_rotation(case: LedgerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BATCH_S", 0.0)  # each batch takes one write
    with held_writer(case.sequencer):
        many = case.sequencer.submit_all([case.participant(f"clinic{number}") for number in range(20)])
        few = case.sequencer.submit_all([case.participant(f"bank{number}", asker="bank") for number in range(2)])
        outcomes = RecordOutcomes(outcomes=())
        assert outcomes.caller == ""
    indexes = [future.result(HANG_S).entry.index for future in (*many, *few)]
    first = indexes[0]
    assert indexes[20:] == [first + 1, first + 3]
    assert indexes[:20] == [first, first + 2, *range(first + 4, first + 22)]
    case.seal()
    check_files(case)


def test_a_lane_keeps_the_order_of_each_caller() -> None:
    class Numbered(Failing):
        @property
        def caller(self) -> str:
            return str(self.error)

    def write(caller: str) -> PendingWrite[Any]:
        return PendingWrite(Numbered(error=ValueError(caller)))

    lane, rng = Lane(), random.Random(7)
    added: dict[str, list[Any]] = {name: [] for name in "abc"}
    taken: dict[str, list[Any]] = {name: [] for name in "abc"}
    for _ in range(300):
        name = rng.choice("aaabbc")
        item = write(name)
        lane.append(item)
        added[name].append(item)
        if rng.random() < 0.4:
            items = lane.take(rng.randrange(5))
            kept = rng.randrange(len(items) + 1)
            lane.put_back(items[kept:])
            for one in items[:kept]:
                taken[one.write.caller].append(one)
    left = lane.take(len(lane))
    assert (len(lane), lane.take(1)) == (0, [])
    for one in left:
        taken[one.write.caller].append(one)
    assert taken == added
