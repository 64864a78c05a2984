"""Asking witnesses and publishing: every answer, slow ones, lies, outages, restarts; and our own, end to end."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cases.witnesses import WAIT_S, FakeWitness, Log, WitnessCase, status
from consentd.core import ed25519, note
from consentd.core.quorum import parse_policy
from consentd.core.submission import Submission, format_submission, parse_submission
from consentd.cosigning.witness_client import MAX_WITNESSES
from consentd.errors import CorruptionError, InvalidError, MalformedError

Make = Callable[..., WitnessCase]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[WitnessCase] = []

    def make_case(*names: str, **options: str) -> WitnessCase:
        made.append(WitnessCase(tmp_path, *names, **options))
        return made[-1]

    yield make_case
    for case in made:
        case.close()


# -- the ordinary way -----------------------------------------------------------------------------------------


def test_a_checkpoint_is_published_with_its_cosignatures(make: Make) -> None:
    case = make("w.test/1", "w.test/2")
    case.start()
    for count in (3, 1, 300):
        point = case.offer(count)
        assert case.wait_published(point.size) == ["w.test/1", "w.test/2"]
    assert [asked[:2] for asked in case.witnesses[0].asked] == [(0, 3), (3, 4), (4, 304)]
    case.wait_answers(1, "cosigned", 3)
    assert case.metrics.value("consentd_checkpoints_waiting") == 0
    assert case.metrics.value("consentd_quorum") == 1
    assert case.publisher is not None
    assert case.publisher.has_quorum


def test_two_of_three_are_enough_and_the_third_is_added_when_it_comes(make: Make) -> None:
    case = make("w.test/1", "w.test/2", "w.test/3", quorum="2")
    held = case.witnesses[2].hold()
    case.start()
    point = case.offer(5)
    assert case.wait_published(point.size) in (["w.test/1", "w.test/2"],)
    held.release()
    case.wait_published(point.size, ["w.test/1", "w.test/2", "w.test/3"])


def test_without_a_quorum_to_wait_for_it_is_published_at_once_and_cosigned_afterwards(make: Make) -> None:
    case = make("w.test/1", quorum="none")
    held = case.witnesses[0].hold()
    case.start()
    point = case.offer()
    assert case.wait_published(point.size) == []
    held.release()
    case.wait_published(point.size, ["w.test/1"])


def test_while_it_waits_seals_go_by_and_the_latest_is_next(make: Make) -> None:
    case = make("w.test/1")
    held = case.witnesses[0].hold()
    case.start()
    first = case.offer(2)
    held.wait_asked()
    for _ in range(5):
        last = case.offer(2)
    assert case.publisher is not None
    assert case.publisher.pending() == {first.size}
    assert case.metrics.value("consentd_checkpoints_waiting") >= 5
    held.release()
    case.wait_published(first.size)
    case.wait_published(last.size)
    assert [asked[:2] for asked in case.witnesses[0].asked] == [(0, first.size), (first.size, last.size)]


def test_while_nothing_is_new_it_is_cosigned_again(make: Make) -> None:
    case = make("w.test/1")
    times = iter(range(10**6))
    base = case.witnesses[0].time_s()
    case.witnesses[0].time_s = lambda: base + next(times) % 100
    case.start(recosign_interval_ms=20)
    point = case.offer(4)
    case.wait_published(point.size)
    notes = {case.published.get(timeout=WAIT_S).note for _ in range(3)}
    assert len(notes) == 3
    assert {asked[:2] for asked in case.witnesses[0].asked[1:]} == {(4, 4)}
    assert case.metrics.value("consentd_checkpoints_waiting") == 0


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(make: Make) -> None:
    case = make("w.test/1")
    case.start()
    case.wait_published(case.offer().size)
    case.witnesses[0].cut()
    case.wait_published(case.offer().size)
    assert case.answers(1, "failed") == 0


# -- what a witness may answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (status(400), "refused"),
        (status(403), "refused"),
        (status(404), "refused"),
        (status(429), "refused"),
        (status(302), "failed"),
        (status(500), "failed"),
        (status(503), "failed"),
        (status(200), "bad"),
        (status(200, b"no signature line\n"), "bad"),
        (status(200, "— stranger AAAAAAAA\n".encode()), "bad"),
        (status(200, "— stranger AAAAAAAA".encode()), "bad"),
        (status(200, b"\xff\n"), "bad"),
        (status(200, b"x" * 300_000), "failed"),
        (status(409, b"0\n", "text/x.tlog.size"), "bad"),
        (status(409, b"01\n", "text/x.tlog.size"), "bad"),
        (status(409, b"3", "text/x.tlog.size"), "bad"),
        (status(409, b"3\n"), "other_tree"),
        (status(422), "other_tree"),
    ],
)
def test_every_other_answer_publishes_nothing_and_is_asked_again(
    make: Make, script: Callable[..., object], outcome: str
) -> None:
    case = make("w.test/1")
    case.witnesses[0].script.extend([script, script])  # type: ignore[list-item]
    case.start()
    point = case.offer(3)
    case.witnesses[0].wait_asked(3)
    assert case.wait_published(point.size) == ["w.test/1"]
    assert case.published.empty()
    case.wait_answers(1, "cosigned")
    assert case.answers(1, outcome) == 2
    assert case.metrics.value("consentd_witness_alarms_total", alarm="other_tree") == 2 * (outcome == "other_tree")
    assert case.halted.empty()


def test_lines_by_other_keys_are_ignored(make: Make) -> None:
    case = make("w.test/1")
    stranger = note.Signer("stranger", ed25519.KeyPair(b"s" * 32), note.COSIGNATURE)

    def answer(witness: FakeWitness, body: bytes) -> tuple[int, str, bytes]:
        code, kind, lines = witness._cosign(body)
        text = body.split(b"\n\n")[1].decode() + "\n"
        more = note.format_signature(stranger.cosign(text, 1)) + "\n"
        return code, kind, more.encode() + lines

    case.witnesses[0].script.append(answer)
    case.start()
    assert case.wait_published(case.offer().size) == ["w.test/1"]


def test_a_lying_signature_spoils_the_answer(make: Make) -> None:
    case = make("w.test/1")

    def lie(witness: FakeWitness, body: bytes) -> tuple[int, str, bytes]:
        return 200, "text/plain", witness.lines("another text\n1\n" + "A" * 43 + "=\n")

    case.witnesses[0].script.append(lie)
    case.start()
    point = case.offer()
    assert case.wait_published(point.size) == ["w.test/1"]
    assert case.answers(1, "bad") == 1


@pytest.mark.parametrize("skew_s", [-61, 90, None])
def test_a_cosignature_of_another_time_does_not_count(make: Make, skew_s: int | None) -> None:
    case = make("w.test/1")
    now = case.witnesses[0].time_s
    case.witnesses[0].time_s = lambda: 0 if skew_s is None else now() + skew_s
    case.start()
    point = case.offer()
    case.witnesses[0].wait_asked(2)
    assert case.published.empty()
    case.witnesses[0].time_s = now
    case.wait_published(point.size)


def test_a_slow_witness_times_out_and_is_asked_again(make: Make) -> None:
    case = make("w.test/1")
    held = case.witnesses[0].hold()
    case.start(timeout_ms=1000)  # time enough, even on a busy machine, for the second request
    point = case.offer()
    assert case.wait_published(point.size) == ["w.test/1"]
    held.release()
    assert case.answers(1, "failed") >= 1


def test_a_witness_with_a_state_of_its_own_tells_where_to_begin(make: Make) -> None:
    case = make("w.test/1")
    point, _ = case.log.grow(7)
    case.witnesses[0].size, case.witnesses[0].root = point.size, point.root
    case.log.grow(5)
    case.start()
    case.wait_published(case.offer(9).size)
    assert case.witnesses[0].asked == [(0, 21, 409), (7, 21, 200)]
    case.wait_answers(1, "cosigned")


def test_a_size_is_told_by_the_media_type_whatever_its_parameters(make: Make) -> None:
    case = make("w.test/1")
    case.witnesses[0].script.append(status(409, b"0\n", "Text/X.tlog.size; charset=utf-8"))
    case.start()
    case.wait_published(case.offer(3).size)
    assert case.answers(1, "bad") == 1  # it names the size that we said, which is no size to begin at
    assert case.answers(1, "other_tree") == 0


# -- other trees --------------------------------------------------------------------------------------------------


def test_a_witness_that_knows_a_larger_tree_stops_everything(make: Make) -> None:
    case = make("w.test/1", "w.test/2", quorum="any")
    case.start()
    case.wait_published(case.offer(4).size)
    for witness in case.witnesses:
        witness.wait_asked(1)
    case.witnesses[1].size = 1_000
    case.offer(1)
    error = case.halted.get(timeout=WAIT_S)
    assert isinstance(error, CorruptionError)
    assert "knows a larger tree than ours of size 5" in str(error)
    assert case.metrics.value("consentd_witness_alarms_total", alarm="larger") == 1
    case.stop()
    assert case.halted.empty()


def test_a_ledger_rolled_back_with_its_lock_does_not_start(make: Make) -> None:
    case = make("w.test/1")
    case.start()
    case.offer(4)
    case.wait_published(4)
    case.stop()
    old = case.last_signed
    case.witnesses[0].size = 9
    (case.directory / "checkpoint.published").unlink()
    case.last_signed = old
    with pytest.raises(CorruptionError):
        case.start()
    assert case.published.empty()


def test_a_ledger_behind_what_it_published_does_not_start(make: Make) -> None:
    case = make("w.test/1")
    case.start()
    case.wait_published(case.offer(4).size)
    case.stop()
    case.log = Log(case.log.signer.name, case.log.signer.key.seed, "other leaf")
    for size in (3, 4):
        while case.log.edge.size < size:
            case.log.grow()
        with pytest.raises(CorruptionError):
            case.start()


def test_another_tree_is_an_alarm_and_the_others_go_on(make: Make) -> None:
    case = make("w.test/1", "w.test/2", quorum="any")
    other, _ = Log(case.log.signer.name, b"o" * 32, "other").grow(3)
    case.witnesses[1].size, case.witnesses[1].root = other.size, other.root
    case.start()
    point = case.offer(5)
    assert case.wait_published(point.size) == ["w.test/1"]
    case.wait_answers(2, "other_tree", 2)
    assert case.metrics.value("consentd_witness_alarms_total", alarm="other_tree") >= 1
    assert case.wait_published(case.offer(5).size) == ["w.test/1"]
    assert case.halted.empty()


# -- outages --------------------------------------------------------------------------------------------------------


def test_without_a_quorum_nothing_is_published_and_it_catches_up_by_itself(make: Make) -> None:
    case = make("w.test/1", "w.test/2")
    clock = case.fake_clock()
    case.start()
    case.wait_published(case.offer(2).size)
    case.witnesses[1].stop()
    case.offer(3)
    case.wait_answers(1, "cosigned", 2)  # it is the target: those that follow wait
    for _ in range(3):
        point = case.offer(3)
    assert case.published.empty()
    clock.advance(10_000)
    case.has_quorum.wait_fallen()
    assert case.published.empty()
    assert case.publisher is not None
    assert not case.publisher.has_quorum
    assert case.metrics.value("consentd_quorum") == 0
    assert case.metrics.value("consentd_publish_failures_total") == 1
    assert case.metrics.value("consentd_checkpoints_waiting") >= 3
    case.witnesses[1].start(case.witnesses[1].port)
    case.advance_until_published(clock, point.size, ["w.test/1", "w.test/2"])
    assert case.publisher.has_quorum
    assert case.metrics.value("consentd_checkpoints_waiting") == 0


def test_fail_open_publishes_without_a_quorum_after_the_time(make: Make) -> None:
    case = make("w.test/1", "w.test/2")
    case.witnesses[1].stop()
    clock = case.fake_clock()
    case.start(fail_open=True)
    for count in (1, 2):
        point = case.offer()
        case.wait_answers(1, "cosigned", count)
        assert case.published.empty()
        clock.advance(10_000)
        assert case.wait_published(point.size) == ["w.test/1"]
    assert case.metrics.value("consentd_quorum") == 0
    assert case.metrics.value("consentd_publish_failures_total") == 2


def test_what_was_published_is_there_after_a_start_in_an_outage(make: Make) -> None:
    case = make("w.test/1")
    case.start()
    first = case.offer(6)
    case.wait_published(first.size)
    case.witnesses[0].stop()
    case.stop()
    _, case.last_signed = case.log.grow(2)
    case.start()
    assert case.wait_published(first.size) == ["w.test/1"]
    case.witnesses[0].start(case.witnesses[0].port)
    assert case.wait_published(8) == ["w.test/1"]
    assert [asked[:2] for asked in case.witnesses[0].asked] == [(0, 6), (6, 8)]


def test_a_start_cosigns_what_the_lock_has(make: Make) -> None:
    case = make("w.test/1")
    point, case.last_signed = case.log.grow(3)
    case.start()
    case.wait_published(point.size)
    assert case.publisher is not None
    case.publisher.offer(point, case.last_signed)  # signed again, as the sequencer does
    case.wait_published(case.offer(2).size)
    assert [asked[:2] for asked in case.witnesses[0].asked] == [(0, 3), (3, 5)]


def test_a_damaged_file_of_the_last_note_is_not_used(make: Make) -> None:
    case = make("w.test/1")
    (case.directory / "checkpoint.published").write_bytes(b"torn")
    case.start()
    case.wait_published(case.offer().size)


def test_a_note_that_cannot_be_written_is_published_when_it_can(make: Make) -> None:
    case = make("w.test/1")
    blocking = case.directory / "checkpoint.published.new"  # in the way of the temporary file
    case.start()
    first = case.wait_published(case.offer().size)
    blocking.mkdir()
    point = case.offer()
    case.wait_answers(1, "cosigned", 2)
    case.shortages.wait(1, "publish")
    assert case.published.empty()
    blocking.rmdir()
    assert case.wait_published(point.size) == first


def test_a_publisher_whose_note_cannot_be_written_stops_when_told(make: Make) -> None:
    case = make("w.test/1")
    (case.directory / "checkpoint.published.new").mkdir()
    case.start(timeout_ms=50)
    case.offer()
    case.shortages.wait(1, "publish")
    case.stop()
    assert case.published.empty()


def test_stopping_waits_for_the_last_quorum(make: Make) -> None:
    case = make("w.test/1")
    case.start()
    held = case.witnesses[0].hold()
    point = case.offer()
    held.wait_asked()
    stopping = threading.Thread(target=case.stop)
    stopping.start()
    held.release()
    stopping.join(WAIT_S)
    assert case.wait_published(point.size) == ["w.test/1"]


def test_stopping_does_not_wait_for_a_witness_that_is_away(make: Make) -> None:
    case = make("w.test/1")
    case.witnesses[0].stop()
    case.start(timeout_ms=50)
    case.offer()
    case.stop()
    assert case.published.empty()


# -- the policy it is given -------------------------------------------------------------------------------------------


def test_a_policy_that_cannot_be_met_is_refused(make: Make) -> None:
    case = make("w.test/1")
    case.witnesses[0].__class__ = type("NoUrl", (FakeWitness,), {"url": ""})
    with pytest.raises(InvalidError, match="no quorum among the witnesses with a URL"):
        case.make()


def test_more_witnesses_than_a_note_has_room_for_are_refused(make: Make) -> None:
    case = make("w.test/1")
    pairs = [ed25519.KeyPair(n.to_bytes(32)) for n in range(MAX_WITNESSES + 1)]
    keys = [note.Verifier("w.test", pair.public_key, note.COSIGNATURE) for pair in pairs]
    lines = [f"witness w{n} {note.format_vkey(key)} http://127.0.0.1:1\n" for n, key in enumerate(keys)]
    with pytest.raises(InvalidError, match="more than 98 witnesses"):
        case.make(policy=parse_policy("".join([*lines, "quorum w0\n"]).encode()))
    case.make(policy=parse_policy("".join([*lines[1:], "quorum w1\n"]).encode()))


def test_a_policy_of_another_log_is_refused(make: Make) -> None:
    case = make("w.test/1")
    with pytest.raises(InvalidError, match="does not name this log: `other`"):
        case.make(verifier=note.Verifier("other", ed25519.KeyPair(b"k" * 32).public_key))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a/", "http://", "http://a/?x", "http://a/#x", "http://u@a/", "http://a:b/", "http://[::1/",
        "http://a..b/", "http://a/é/", "http://" + "a" * 64 + "/",
    ],
)  # fmt: skip
def test_a_url_that_is_none_is_refused(make: Make, url: str) -> None:
    case = make("w.test/1")
    case.witnesses[0].__class__ = type("Bad", (FakeWitness,), {"url": url})
    with pytest.raises(InvalidError, match="URL is"):
        case.make()


@pytest.mark.parametrize("url", ["http://witness.test/", "http://192.0.2.7:8080/w", "http://[2001:db8::1]/"])
def test_another_machine_is_asked_over_https_alone(make: Make, url: str) -> None:
    """Its word alone, that it knows a larger tree, stops the ledger: nobody on the way may put it in."""
    case = make("w.test/1")
    case.witnesses[0].__class__ = type("Far", (FakeWitness,), {"url": url})
    with pytest.raises(InvalidError, match="not asked over https"):
        case.make()
    case.witnesses[0].__class__ = type("Far", (FakeWitness,), {"url": url.replace("http:", "https:")})
    case.make()


# -- the bytes ------------------------------------------------------------------------------------------------------


def test_a_submission_reads_back() -> None:
    submission = Submission(3, (b"a" * 32, b"b" * 32), b"o\n5\nx\n\nsignatures\n")
    assert parse_submission(format_submission(submission)) == submission
    assert format_submission(Submission(0, (), b"note")) == b"old 0\n\nnote"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 0\n\n",
        b"old 00\n\nn",
        b"old -1\n\nn",
        b"old\n\nn",
        b"new 0\n\nn",
        b"old 9223372036854775808\n\nn",
        b"old 1\nAAAA\n\nn",
        b"old 1\n!\n\nn",
        b"old 1\n\xff\n\nn",
        b"old 1\n" + (b"A" * 43 + b"=\n") * 64 + b"\nn",
        b"old 0\n\n" + b"n" * 1_100_000,
    ],
)
def test_a_body_that_is_none_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_submission(body)
