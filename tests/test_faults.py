"""The disk fails, fills up, or the process dies, at each call that changes a file: nothing acknowledged is lost.

``faults`` has the run that is made to fail. After each fault a daemon opens the directory with no hand laid on it; all
that was acknowledged is there, everything verifies, and no checkpoint that was ever public contradicts what is there
now. ``CONSENTD_FAULTS`` says how many points to take, or ``all``: every point with every fault.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat, zip_longest
from pathlib import Path

import grpc
import pytest

from cases import faults
from cases.daemons import ORIGIN, Running, make_running, question, reason_of, request_id
from cases.faults import FAULTS, Outcome, Point
from consentd.cli import tables
from consentd.core import checkpoint, merkle
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import ConsentdError, CorruptionError
from consentd.ledger import reads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb

COUNT = os.environ.get("CONSENTD_FAULTS", "20")
PROCESSES = 2

LOG, TABLE = "ledger/000004.log", "table/data.mdb"

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def spread(points: list[Point]) -> list[tuple[Point, str]]:
    """Return the pairs of point and fault to try: all, or ``COUNT`` of them, each fault in turn.

    A few: every other one from the calls of each commit, the rest from all others, no call of one file twice before
    each was taken once.
    """
    names = list(FAULTS)
    if COUNT == "all":
        return [(point, name) for point in points for name in names if faults.is_sensible(point, name)]
    shuffled = list(points)
    random.Random(20).shuffle(shuffled)
    taken: Counter[tuple[str, str]] = Counter()
    ranked: list[tuple[int, Point]] = []
    for point in shuffled:
        ranked.append((taken[point.path, point.call], point))
        taken[point.path, point.call] += 1
    ranked.sort(key=lambda pair: pair[0])  # stable: rounds, each in shuffled order
    commits = [point for _, point in ranked if is_of_commit(point)]
    others = [point for _, point in ranked if not is_of_commit(point)]
    chosen = [point for pair in zip_longest(commits, others) for point in pair if point is not None][: int(COUNT)]
    tried = []
    for number, point in enumerate(chosen):
        sensible = [name for name in names if faults.is_sensible(point, name)]
        tried.append((point, sensible[number // 2 % len(sensible)]))
    return tried


def is_of_commit(point: Point) -> bool:
    """Tell whether each commit makes this call: to a log, the table, the last signed checkpoint."""
    return point.path.endswith((".log", "data.mdb", "last-signed.new")) and point.call != "openat"


def reopen(outcome: Outcome) -> tuple[Running, bool]:
    """Start a daemon where a run ended; also tell whether what was there had to be cleared away before.

    Only where nothing was ever acknowledged or published is that an answer.
    """
    try:
        return Running(outcome.config, outcome.tokens), False
    except ConsentdError:
        if outcome.acknowledged or outcome.published:
            raise
    shutil.rmtree(outcome.config.ledger.store_dir.parent)
    return Running(outcome.config, outcome.tokens), True


def verify(running: Running, outcome: Outcome) -> int:
    """Check that *running* has all that *outcome* promised; return how many leaves it has."""
    size = running.check_ledger()
    services = running.daemon.service_state.services
    assert services is not None
    store = services.ledger.store
    for index, leaf_hash in outcome.acknowledged.items():
        assert merkle.leaf_hash(reads.read_leaf(store, index)) == leaf_hash, index
    assert services.sequencer.checkpoints.published is not None
    verifier = read_signing_key(outcome.config.keys.log_key_file).verifier
    for note in [*outcome.published, services.sequencer.checkpoints.published.note]:
        point, _ = checkpoint.open_checkpoint(note, ORIGIN, verifier)
        assert point.size <= size
        assert reads.root_at(store, point.size) == point.root, point.size
    return size


def recover(outcome: Outcome) -> bool:
    """Open after a run, verify, write on, verify again; tell whether it had to be created anew."""
    running, anew = reopen(outcome)
    try:
        before = verify(running, outcome)
        running.register()
        assert verify(running, outcome) > before
    finally:
        running.stop()
    return anew


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with keys and nothing else."""
    directory = tmp_path_factory.mktemp("template")
    faults.prepare(directory)
    return directory


@pytest.fixture(scope="module")
def plain(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Return a run that nothing befell, traced."""
    return faults.run(tmp_path_factory.mktemp("plain") / "run", template)


@pytest.mark.slow
@needs_strace
def test_a_run_that_nothing_befalls_does_what_the_others_are_measured_by(plain: Outcome) -> None:
    assert (plain.ended, plain.status, plain.unopened) == (True, 0, []), plain.talk
    assert not plain.refused
    assert len(plain.acknowledged) > 20
    assert len(plain.published) > 4
    files = {point.path.partition("/")[0] for point in faults.points(plain.directory)}
    assert files >= {"ledger", "vault", "table", "last-signed.new"}


@pytest.mark.slow
@needs_strace
def test_no_fault_at_any_call_loses_what_was_acknowledged(
    plain: Outcome, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = spread(faults.points(plain.directory))
    counts: Counter[str] = Counter()
    failed: list[str] = []

    def attempt(numbered: tuple[int, tuple[Point, str]]) -> tuple[Point, str, Outcome]:
        number, (point, name) = numbered
        return point, name, faults.run(tmp_path / str(number), template, point, name)

    with ThreadPoolExecutor(PROCESSES) as pool:
        for point, name, outcome in pool.map(attempt, enumerate(tried)):
            counts["points"] += 1
            counts["reached"] += outcome.reached
            counts[name] += 1
            try:
                assert outcome.ended or outcome.status == -9, outcome.talk
                assert outcome.reached or not outcome.refused
                # A disk that fails is not a ledger that contradicts itself.
                assert not [code for code in outcome.refused if "UNAVAILABLE" not in code and "DENIED" not in code]
                counts["created anew"] += recover(outcome)
                counts["acknowledged"] += len(outcome.acknowledged)
                counts["published"] += len(outcome.published)
            except Exception as error:  # noqa: BLE001  # all points are tried, and every failure is shown
                failed.append(f"{point} {name}: {type(error).__name__}: {error}\n  {outcome.describe()}")
            shutil.rmtree(outcome.directory)
    with capsys.disabled():
        print("\nfaults:", ", ".join(f"{count} {what}" for what, count in counts.items()))
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed)
    assert counts["reached"] > 0.8 * counts["points"]


@pytest.mark.slow
@needs_strace
def test_a_table_whose_own_commit_failed_is_not_called_damaged(plain: Outcome, template: Path, tmp_path: Path) -> None:
    calls = [(thread, call) for thread, call, path, _ in faults.read_trace(plain.directory) if path == TABLE]
    (writer, _), _ = Counter(calls).most_common(1)[0]
    made = [call for thread, call in calls if thread == writer]
    # What comes after the sync of a commit's pages is the page that makes them current.
    sync = [location for location, call in enumerate(made) if call == "fdatasync"][5]
    point = Point(TABLE, "pwrite64", made[:sync].count("pwrite64") + 1)
    outcome = faults.run(tmp_path / "run", template, point, "fails from then on")
    assert outcome.reached
    assert outcome.refused["UNAVAILABLE STORAGE"] > 5
    assert not [refused for refused in outcome.refused if "DATA_LOSS" in refused]
    assert not recover(outcome)


# -- what neighbours do -----------------------------------------------------------------------------------------

SECOND_START = """
import sys
from pathlib import Path
from cases.daemons import make_config
from consentd.server.daemon import Daemon
daemon = Daemon(make_config(Path(sys.argv[1])))
daemon.start()
daemon.stop()
"""
DEAD_READER = """
import os, sys
from pathlib import Path
from consentd.store.lmdb import Environment
transactions = [Environment.open_read_only(Path(sys.argv[1]) / "data" / "table").begin_read()]
os.kill(os.getpid(), 9)
"""


def run_program(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": faults.python_path()}
    command = [sys.executable, "-c", program, str(directory)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def start_second(directory: Path) -> None:
    """Delete every file that a lock is made of, and start a second daemon."""
    for name in ("ledger/LOCK", "vault/LOCK", "last-signed.lock"):
        (directory / "data" / name).unlink(missing_ok=True)
    done = run_program(SECOND_START, directory)
    # Between the two lives of the run no daemon has the directory, and a second one may start and stop.
    assert done.returncode == 0 or "directory is in use" in done.stderr, done.stderr


def kill_reader(directory: Path) -> None:
    """Leave a dead reader in the table."""
    run_program(DEAD_READER, directory)


@pytest.mark.slow
@pytest.mark.parametrize("disturb", [start_second, kill_reader])
def test_no_neighbour_loses_what_was_acknowledged(
    template: Path, tmp_path: Path, disturb: Callable[[Path], None]
) -> None:
    outcome = faults.run_beside(tmp_path / "run", template, disturb)
    assert (outcome.ended, outcome.status) == (True, 0), outcome.describe()
    assert not outcome.refused
    assert all("directory is in use" in text for text in outcome.unopened), outcome.unopened
    assert outcome.acknowledged or outcome.unopened
    assert not recover(outcome)


# -- what lies on the disk afterwards ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(plain: Outcome, template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, int, int]:
    """Return a run killed between a write to the log and its sync, and the log's bytes: synced, and all."""
    syncs = [point.when for point in faults.points(plain.directory) if (point.path, point.call) == (LOG, "fdatasync")]
    point = Point(LOG, "fdatasync", max(syncs) * 2 // 3)
    outcome = faults.run(tmp_path_factory.mktemp("killed") / "run", template, point, "kills")
    synced, size = faults.synced_bytes(outcome.directory, LOG), (outcome.directory / "data" / LOG).stat().st_size
    assert outcome.acknowledged
    assert outcome.published
    assert 0 < synced < size
    return outcome, synced, size


def cut(outcome: Outcome, directory: Path, size: int) -> Outcome:
    """Copy a run to *directory* and cut its log to *size* bytes."""
    shutil.copytree(outcome.directory, directory)
    os.truncate(directory / "data" / LOG, size)
    return replace(outcome, directory=directory)


@pytest.mark.slow
@needs_strace
def test_a_log_torn_anywhere_behind_its_last_sync_has_all_that_was_acknowledged(
    killed: tuple[Outcome, int, int], tmp_path: Path
) -> None:
    outcome, synced, size = killed
    for end in (synced, synced + 1, (synced + size) // 2, size - 1, size):
        assert not recover(cut(outcome, tmp_path / str(end), end))


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 1.0])
def test_a_log_that_lost_synced_bytes_is_refused_for_its_table_or_its_lock(
    killed: tuple[Outcome, int, int], tmp_path: Path, part: float
) -> None:
    outcome, synced, _ = killed
    damaged = cut(outcome, tmp_path / "damaged", int(part * synced) - 1)
    shutil.copytree(damaged.directory, tmp_path / "without")
    with pytest.raises(CorruptionError, match=r"table is ahead of its ledger|ledger is smaller than its last"):
        Running(damaged.config, damaged.tokens)
    without = replace(outcome, directory=tmp_path / "without")
    shutil.rmtree(without.config.table.path)
    try:
        running = Running(without.config, without.tokens)
    except CorruptionError as error:
        # Refusing is one of two right answers.
        assert "ledger is smaller than its last signed checkpoint" in str(error)  # noqa: PT017
        return
    # Only entries that no checkpoint covered are missing. Their receipts prove the loss to those who have them.
    covered = min(running.check_ledger(), last_size(outcome))
    kept = {index: each for index, each in outcome.acknowledged.items() if index < covered}
    try:
        verify(running, replace(without, acknowledged=kept))
    finally:
        running.stop()


def last_size(outcome: Outcome) -> int:
    """Return the size of the last checkpoint that a run published."""
    return int(outcome.published[-1].split(b"\n")[1])


@pytest.mark.slow
def test_an_older_copy_is_refused_by_a_lock_that_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    placed: dict[str, object] = {"last_signed_path": '"lock/last-signed"'}
    running = make_running(tmp_path, **placed)
    running.stop()
    data, older, newer = tmp_path / "data", tmp_path / "older", tmp_path / "newer"
    shutil.copytree(data, older)
    running = Running(running.config, running.tokens)
    running.enrol("SYN-000001")
    running.stop()
    data.rename(newer)
    older.rename(data)
    with pytest.raises(CorruptionError, match="ledger is smaller than its last signed checkpoint"):
        Running(running.config, running.tokens)
    shutil.rmtree(data)
    newer.rename(data)
    running = Running(running.config, running.tokens)
    try:
        running.check_ledger()
    finally:
        running.stop()


# -- the table's file -------------------------------------------------------------------------------------------

COMPARE = """
import sys
from pathlib import Path
from consentd.cli.tables import differences
from cases.daemons import make_config
print(sum(differences(make_config(Path(sys.argv[1])), lambda done, total: None)[2].values()))
"""


@pytest.mark.slow
def test_a_table_with_flipped_bits_is_told_and_rebuilt(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    running.grant(running.enrol("SYN-000001"))
    running.stop()
    file = running.config.table.path / "data.mdb"
    whole = file.read_bytes()
    locations = [*range(16, 136, 24), *random.Random(20).sample(range(8192, len(whole)), 5)]
    flipped = {f"bit at {at}": whole[:at] + bytes((whole[at] ^ 0x10,)) + whole[at + 1 :] for at in locations}
    flipped |= {"a name": whole.replace(b"hospital-a", b"hospital-q"), "cut": whole[: len(whole) // 2], "empty": b""}
    for name, damaged in flipped.items():
        file.write_bytes(damaged)
        if name in ("a name", "cut"):
            # In a process of its own: LMDB believes its pages, and may fall over them.
            compared = subprocess.run(
                [sys.executable, "-c", COMPARE, str(tmp_path)],
                env={**os.environ, "PYTHONPATH": faults.python_path()},
                capture_output=True,
                check=False,
            )
            assert compared.returncode != 0 or int(compared.stdout) > 0, name
        tables.rebuild(running.config, lambda done, total: None)
        again = Running(running.config, running.tokens)
        try:
            again.check_ledger()
        finally:
            again.stop()


# -- a disk that fills ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 48 MiB."""
    location = tmp_path / "small"
    location.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(location)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield location
    subprocess.run(["umount", str(location)], check=True)


def write_batch(running: Running, subject: pb.Subject) -> dict[int, bytes]:
    """Ask for 100 accesses at once; return what was acknowledged, nothing where the daemon writes no more."""
    asked = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject)) for _ in range(100)]
    together = ac.BatchAuthorizeAccessesRequest(requests=asked)
    try:
        answer = running.access.BatchAuthorizeAccesses(together, metadata=running.as_("app"), timeout=60)
    except grpc.RpcError:
        return {}
    receipts = [each.response.receipt for each in answer.results if each.HasField("response")]
    return {receipt.index: receipt.leaf_hash for receipt in receipts}


def fill(small_disk: Path) -> Path:
    """Fill a disk to its last byte; return the file that takes the room."""
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(repeat(bytes(4096)))
    return ballast


def check_refuses_writes_alone(running: Running, subject: pb.Subject) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        running.authorize(question(subject))
    assert (failed.value.code(), reason_of(failed.value)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE")
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT


@pytest.mark.slow
def test_a_disk_that_fills_refuses_writes_until_there_is_room_again(small_disk: Path) -> None:
    running = make_running(small_disk, min_free_mb=8)
    try:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        acknowledged = write_batch(running, subject)
        for _ in range(2):
            ballast = fill(small_disk)
            assert not write_batch(running, subject)
            check_refuses_writes_alone(running, subject)
            with pytest.raises(grpc.RpcError):
                running.enrol("SYN-000002")
            ballast.unlink()
            acknowledged |= write_batch(running, subject)  # without a restart
        running.enrol("SYN-000002")
        assert running.authorize(question(subject)).decision.outcome == pb.OUTCOME_PERMIT
        verify(running, Outcome(small_disk, acknowledged=acknowledged, published=[]))
    finally:
        running.stop()


@pytest.mark.slow
def test_a_disk_that_is_filled_in_the_middle_of_a_write_stops_writes_and_not_checks_and_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The disk was filled a moment after the daemon looked.
    monkeypatch.setattr("consentd.server.daemon.check_space", lambda config, is_urgent: None)
    running = make_running(small_disk)
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    acknowledged: dict[int, bytes] = {}
    ballast = fill(small_disk)
    # Until the little room is used up that the log has reserved.
    while told := write_batch(running, subject):
        acknowledged |= told
    check_refuses_writes_alone(running, subject)
    running.stop()
    ballast.unlink()
    again = Running(running.config, running.tokens)
    try:
        verify(again, Outcome(small_disk, acknowledged=acknowledged))
        assert again.authorize(question(subject)).decision.outcome == pb.OUTCOME_PERMIT
    finally:
        again.stop()
