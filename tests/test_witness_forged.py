"""Our own witness before a log that lies: it cosigns no wrong map, accuses nobody without evidence, and goes on."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.forged import T0_MS, ForgedLog
from consentd.core.pruned import Pruned
from consentd.core.submission import Submission, format_submission

X, Y, Z = b"x" * 32, b"y" * 32, b"z" * 32
DAYS = 30


@pytest.fixture
def log() -> Iterator[ForgedLog]:
    made = ForgedLog()
    yield made
    made.stop()


def hide(log: ForgedLog) -> int:
    """Have a chain with five entries of which the seal shows three; return the tree's size."""
    log.event(X, 5)
    log.event(Y)
    return log.seal(log.shortened(X, 3))


def evidence(directory: Path) -> list[Path]:
    return list((directory / "state").glob("*.evidence-*"))


# -- pruning as a cover --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [7, 10**18])
def test_what_a_log_says_to_have_pruned_covers_no_wrong_seal(log: ForgedLog, tmp_path: Path, start: int) -> None:
    size = hide(log)
    assert size == 7
    log.reported = Pruned(10**18, start)
    log.hidden = {3, 4}
    witness = log.witness(tmp_path / "new")
    refused = log.submit(witness, 0, size)
    assert (refused.status, b"what its retention policy keeps" in refused.body) == (503, True)
    witness.close()
    # However long a log may keep its entries by its policy: what it prunes is older than that.
    witness = log.witness(tmp_path / "bounded", retention_days=DAYS)
    assert log.submit(witness, 0, size).status == 503
    witness.close()


def test_a_witness_that_saw_all_is_not_made_to_begin_behind_a_wrong_seal(log: ForgedLog, tmp_path: Path) -> None:
    log.event(X)
    old = log.seal()
    witness = log.witness(tmp_path / "w")
    assert log.submit(witness, 0, old).status == 200
    size = hide(log)
    log.hidden = {old + 2, old + 3, old + 4}
    log.reported = Pruned(10**18, size)
    for _ in range(3):
        assert log.submit(witness, old, size).status == 503
    log.hidden, log.reported = set(), None
    answer = log.submit(witness, old, size)
    assert (answer.status, b"map root is not that of the chains" in answer.body) == (422, True)
    assert evidence(tmp_path / "w")
    witness.close()


def test_a_start_that_the_checkpoint_does_not_reach_is_refused(log: ForgedLog, tmp_path: Path) -> None:
    size = hide(log)
    log.event(X)
    log.seal()
    log.reported = Pruned(T0_MS, size + 2)
    witness = log.witness(tmp_path / "w", retention_days=DAYS)
    answer = log.submit(witness, 0, size)
    assert (answer.status, b"after its checkpoint" in answer.body) == (503, True)
    witness.close()


def two_seals(log: ForgedLog) -> tuple[int, int]:
    """Write events of two chains with a seal, then an event of the first with another; return the sizes."""
    log.event(X, 3)
    log.event(Y)
    first = log.seal()
    log.event(X)
    return first, log.seal()


def test_a_log_that_was_pruned_is_followed_from_what_it_keeps(log: ForgedLog, tmp_path: Path) -> None:
    old, size = two_seals(log)
    witness = log.witness(tmp_path / "w")
    assert log.submit(witness, 0, size).status == 200
    witness.close()
    for path in (tmp_path / "w" / "state").glob("*.replay"):
        path.unlink()
    log.reported, log.hidden = Pruned(T0_MS + old, old), {1}
    log.event(Y)
    again = log.seal()
    witness = log.witness(tmp_path / "w")  # it cosigned as much before
    assert log.submit(witness, size, again).status == 200
    witness.close()
    witness = log.witness(tmp_path / "new", retention_days=DAYS)  # its policy lets it
    assert log.submit(witness, 0, again).status == 200
    witness.close()


def test_what_was_pruned_meanwhile_is_no_evidence(log: ForgedLog, tmp_path: Path) -> None:
    start, size = two_seals(log)
    log.reported = Pruned(T0_MS + start, start)
    log.hidden = {1, 2}  # the last of X before the start is gone as well: the log prunes on, up to a later start
    witness = log.witness(tmp_path / "w", retention_days=DAYS)
    answer = log.submit(witness, 0, size)
    assert (answer.status, b"do not fit the kept ones" in answer.body) == (503, True)
    assert not evidence(tmp_path / "w")
    log.hidden = {1}
    assert log.submit(witness, 0, size).status == 200
    witness.close()


# -- what is fetched -----------------------------------------------------------------------------------------


def test_entries_that_no_checkpoint_confirmed_are_not_kept(log: ForgedLog, tmp_path: Path) -> None:
    other = ForgedLog()
    for each, tag in ((log, X), (other, Y)):
        each.event(tag, 255)
        each.seal()
        each.event(tag)
        size = each.seal()
    witness = log.witness(tmp_path / "w")
    true, log.leaves = log.leaves, other.leaves
    log.missing = {"/tile/entries/001.p/2", "/tile/entries/001", "/kept/001"}
    signed = format_submission(Submission(0, (), ForgedLog.signed(log, size)))
    assert witness.add_checkpoint(signed).status == 503
    witness.close()
    log.leaves, log.missing = true, set()
    witness = log.witness(tmp_path / "w")
    assert log.submit(witness, 0, size).status == 200
    witness.close()
    other.stop()


def test_stopping_does_not_wait_for_all_entries(log: ForgedLog, tmp_path: Path) -> None:
    log.event(X, 600)
    size = log.seal()
    witness = log.witness(tmp_path / "w")
    log.go.clear()
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(log.submit(witness, 0, size).status))
    asking.start()
    assert log.asked.wait(20)
    closing = threading.Thread(target=witness.close, daemon=True)
    closing.start()
    closing.join(20)  # no bundle was served yet, and none is until this has ended
    assert not closing.is_alive()
    asking.join(20)
    assert answers == [503]


def test_a_line_of_the_log_counts_once_however_often_it_is_sent(log: ForgedLog, tmp_path: Path) -> None:
    log.event(X)
    size = log.seal()
    signed = log.signed(size)
    line = signed.rpartition(b"\n\n")[2]
    witness = log.witness(tmp_path / "w")
    assert witness.add_checkpoint(format_submission(Submission(0, (), signed + line * 99))).status == 200
    (kept,) = (tmp_path / "w" / "state").glob("*.checkpoint")
    assert kept.read_bytes().count(line) == 1
    witness.close()
