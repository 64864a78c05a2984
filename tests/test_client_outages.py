"""A client whose daemon is away: it repeats calls while it has time, and notices soon that the daemon is back."""

import threading
from functools import partial
from pathlib import Path

import pytest

from cases.clients import ASKED
from cases.daemons import Running, make_running, question
from cases.fakes import HANG_S
from cases.forwarder import Forwarder
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, OverloadedError, StorageError
from consentd.ledger import reads
from consentd.v1 import consent_pb2 as pb
from consentd_client import AuthorizeAnswer, Client, operations, policy
from consentd_client.memory import RamMemory
from consentd_client.operations import ClientContext, Sleep, UnavailableError

AWAY = UnavailableError("nobody")


def context(*, jitter: float = 0.0, attempts: int | None = None) -> ClientContext:
    return ClientContext(
        trust=None, memory=RamMemory(), new_request_id=lambda: bytes(16), now_ms=lambda: 0, backoff_s=0.25,
        attempts=attempts, jitter=lambda: jitter,
    )  # fmt: skip


def test_a_call_is_repeated_with_growing_pauses_until_no_time_is_left() -> None:
    operation = policy.check_or_raise(context(), ASKED)
    first = next(operation)
    for pause_s in (0.25, 0.5, *[1.0] * 20):
        assert operation.throw(AWAY) == Sleep(pause_s)
        assert operation.send(True) == first  # the very same request
    assert isinstance(operation.throw(AWAY), Sleep)
    with pytest.raises(UnavailableError) as caught:
        operation.send(False)
    assert caught.value is AWAY  # why it failed, and not that a deadline passed


def test_a_pause_is_shortened_at_random_by_up_to_a_half() -> None:
    operation = policy.check_or_raise(context(jitter=1.0), ASKED)
    next(operation)
    assert operation.throw(AWAY) == Sleep(0.125)


def test_a_daemon_that_says_when_to_come_back_is_believed() -> None:
    operation = policy.check_or_raise(context(jitter=1.0), ASKED)
    next(operation)
    assert operation.throw(OverloadedError("busy", retry_after_ms=7_000)) == Sleep(7.0)
    assert isinstance(operation.send(True), operations.UnaryCall)
    assert operation.throw(OverloadedError("busy", retry_after_ms=1)) == Sleep(0.25)  # never faster than an outage's
    assert isinstance(operation.send(True), operations.UnaryCall)
    behind = UnavailableError("state is not reached", "REVISION_NOT_REACHED", retry_after_ms=5_000)
    assert operation.throw(behind) == Sleep(5.0)
    with pytest.raises(UnavailableError):
        operation.send(False)


def test_a_call_may_be_limited_to_a_number_of_attempts() -> None:
    operation = policy.check_or_raise(context(attempts=2), ASKED)
    next(operation)
    assert isinstance(operation.throw(AWAY), Sleep)
    operation.send(True)
    with pytest.raises(UnavailableError):
        operation.throw(AWAY)


def test_a_check_without_an_answer_is_indeterminate() -> None:
    operation = policy.check(context(attempts=1), ASKED)
    next(operation)
    with pytest.raises(StopIteration) as done:
        operation.throw(AWAY)
    assert done.value.value.outcome == pb.OUTCOME_INDETERMINATE


def test_an_error_of_the_daemon_is_not_repeated() -> None:
    operation = policy.check_or_raise(context(), ASKED)
    next(operation)
    with pytest.raises(StorageError):
        operation.throw(StorageError("disk failed; the outcome is unknown"))


def test_an_attempt_to_connect_follows_soon_however_long_the_outage() -> None:
    """With gRPC's own pauses the twelfth attempt comes after five minutes, when the client's time is over."""
    with Forwarder() as nobody, Client(nobody.target, timeout_s=HANG_S / 2) as client:
        calling = threading.Thread(target=client.check, args=(ASKED,))
        calling.start()
        assert nobody.wait_refused(12, HANG_S / 2)
        client.close()
        calling.join(HANG_S)
    assert not calling.is_alive()


def test_a_restart_loses_no_write_records_none_twice_and_shows_no_error(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    person = running.enrol("SYN-1")
    running.grant(person)
    before = running.check_ledger()
    asked = question(person)
    answers: list[AuthorizeAnswer] = []
    errors: list[ConsentdError] = []
    news = threading.Condition()
    with Forwarder(running.daemon.grpc_port) as fixed:
        enough = threading.Event()

        def write() -> None:
            with Client(fixed.target, token=running.tokens["app"], timeout_s=HANG_S) as client:
                while not enough.is_set():
                    try:
                        answer = client.authorize_access(asked)
                    except ConsentdError as error:
                        errors.append(error)
                        return
                    with news:
                        answers.append(answer)
                        news.notify_all()

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        for _ in range(2):
            with news:
                assert news.wait_for(partial(_is_longer, answers, len(answers) + 40), HANG_S)
            fixed.port = None
            running.stop()
            refused = fixed.refused
            assert fixed.wait_refused(refused + 4, HANG_S)
            running = Running(running.config, running.tokens)
            fixed.port = running.daemon.grpc_port
        with news:
            assert news.wait_for(partial(_is_longer, answers, len(answers) + 40), HANG_S)
        enough.set()
        for writer in writers:
            writer.join(HANG_S)
    assert errors == []
    assert all(answers)
    assert len({answer.receipt.index for answer in answers if answer.receipt}) == len(answers)
    size = running.check_ledger()
    accesses = sum(
        codec.kind_of(reads.read_leaf(running.wait_published().ledger.store, index)) == EntryKind.ACCESS
        for index in range(before, size)
    )
    assert accesses == len(answers)
    running.stop()


def _is_longer(answers: list[AuthorizeAnswer], count: int) -> bool:
    return len(answers) >= count
