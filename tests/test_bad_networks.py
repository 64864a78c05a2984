"""Networks that cut, stall, reset and replace responses: no verdict follows from that, and nothing of it is kept.

Each kind of fault is tried at every request of ``audit verify``, ``export``, ``audit monitor`` and a witness's replay.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.audited import SEALED_S, STRANGER, WITNESSES, asked, cosigned, verify
from cases.audits import LOG, ORIGIN, Forge, make_forge
from cases.faulty_hosts import FAULTS, SLOW, FaultyHost
from consentd.audit.export import export
from consentd.audit.live import LiveDaemon
from consentd.audit.monitor import FIRST, FORK, GROWN, ROLLBACK, SAME, Monitor
from consentd.audit.sources import ExportDirectory
from consentd.core import checkpoint, ed25519, note, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.cosigning.connection import Connection
from consentd.errors import FetchError, ProofError, SignatureError, StorageError
from consentd.verify.findings import Report
from consentd.witnessd.follower import Follower

SHORT_S = 0.1
"""Time limit where a response never comes. No test asserts it as a bound: on a slow machine more requests fail."""
LONG_S = 60.0
SIZES = (300, 700)


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The exports of one ledger, when it was smaller and when it was larger."""
    forge, found = make_forge(SIZES[1]), []
    for size in SIZES:
        seal = next(at for at in reversed(forge.seals) if at < size)
        directory = tmp_path_factory.mktemp("ledger")
        Forge(leaves=forge.leaves[: seal + 1], openings=forge.openings[: seal + 1]).write(directory)
        found.append(directory)
    return found


@pytest.fixture
def host(ledgers: list[Path]) -> Iterator[FaultyHost]:
    with FaultyHost(ledgers[1]) as opened:
        yield opened


def at(host: FaultyHost, fault: str = "") -> LiveDaemon:
    """Return the location of the host's ledger, for a reader who waits a short time if the fault is one of time."""
    return LiveDaemon(url=host.url, pause_s=0, timeout_s=SHORT_S if fault in SLOW else LONG_S)


def from_request(first: int, fault: str) -> Callable[[int, str], str]:
    return lambda number, path: fault if number >= first else ""


def only_request(first: int, fault: str) -> Callable[[int, str], str]:
    return lambda number, path: fault if number == first else ""


def files_of(directory: Path) -> dict[str, bytes]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def count_requests(host: FaultyHost, ledger: Path, run: Callable[[LiveDaemon], Any]) -> int:
    """Return how many requests *run* sends if nothing goes wrong."""
    host.serve(ledger)
    run(at(host))
    return host.request_count


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_concludes_nothing_and_continues(
    fault: str, host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    def run(location: LiveDaemon, state: Path | None = None) -> Report:
        return verify(location, jobs=1, state_path=state, save_every=100)

    whole = run(at(host))
    assert whole.faults == ()
    for number in range(count_requests(host, ledgers[1], run)):
        state = tmp_path / f"state{number}"
        host.serve(ledgers[1], from_request(number, fault))
        with pytest.raises(FetchError):
            run(at(host, fault), state)
        host.serve(ledgers[1])
        assert run(at(host), state) == whole
    if fault not in SLOW:
        for number in range(host.request_count):
            host.serve(ledgers[1], only_request(number, fault))
            assert run(at(host)) == whole  # a request that failed once is repeated


@pytest.mark.parametrize("fault", FAULTS)
def test_export_keeps_nothing_of_it_and_continues(
    fault: str, host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    def run(location: LiveDaemon, directory: Path) -> None:
        export(location, directory, origin=ORIGIN, log_verifier=LOG.verifier)

    run(at(host), tmp_path / "whole")
    whole = files_of(tmp_path / "whole")
    assert whole == files_of(ledgers[1])
    for number in range(host.request_count):
        directory = tmp_path / str(number)
        host.serve(ledgers[0])
        run(at(host), directory)  # the export of the smaller ledger is continued
        host.serve(ledgers[1], from_request(number, fault))
        with pytest.raises(FetchError):
            run(at(host, fault), directory)
        kept = files_of(directory)
        assert kept["checkpoint"] == (ledgers[0] / "checkpoint").read_bytes()
        smaller = files_of(ledgers[0])
        new = {name: content for name, content in kept.items() if name not in smaller}
        assert new.items() <= whole.items()
        host.serve(ledgers[1])
        run(at(host), directory)
        assert files_of(directory) == whole


@pytest.mark.parametrize("fault", FAULTS)
def test_a_monitor_raises_no_alarm_and_continues(
    fault: str, host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    def run(location: LiveDaemon, monitor: Monitor) -> str:
        source = location.open()
        try:
            return monitor.observe(source, 1000).status
        finally:
            source.close()

    def watch(directory: Path) -> Monitor:
        return Monitor(directory, origin=ORIGIN, log_verifier=LOG.verifier)

    host.serve(ledgers[0])
    assert run(at(host), watch(tmp_path / "whole")) == FIRST
    host.serve(ledgers[1])
    assert run(at(host), watch(tmp_path / "whole")) == GROWN
    for number in range(host.request_count):
        directory = tmp_path / str(number)
        host.serve(ledgers[0])
        run(at(host), watch(directory))
        before = files_of(directory)
        host.serve(ledgers[1], from_request(number, fault))
        with pytest.raises(FetchError):
            run(at(host, fault), watch(directory))
        assert files_of(directory) == before
        host.serve(ledgers[1])
        assert [run(at(host), watch(directory)) for _ in range(2)] == [GROWN, SAME]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_witness_accuses_nobody_and_continues(
    fault: str, host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    forge = make_forge(SIZES[1])
    point = Checkpoint(ORIGIN, forge.size, forge.root())

    def follow(directory: Path, timeout_s: float) -> None:
        directory.mkdir(exist_ok=True)
        connection = Connection(host.url, timeout_s=timeout_s)
        try:
            Follower(connection, directory / "cache", map_bits=8, keep_every=1).catch_up(point)
        finally:
            connection.release()

    follow(tmp_path / "whole", LONG_S)
    whole = files_of(tmp_path / "whole")
    assert whole
    for number in range(host.request_count):
        directory = tmp_path / str(number)
        host.serve(ledgers[1], from_request(number, fault))
        with pytest.raises(FetchError):
            follow(directory, SHORT_S if fault in SLOW else LONG_S)
        assert files_of(directory) == {}
        host.serve(ledgers[1])
        follow(directory, LONG_S)
        assert files_of(directory) == whole


# -- true forgeries ---------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def swap_leaves(directory: Path) -> None:
    path = directory / "tile" / "entries" / "001"
    leaves = tiles.decode_bundle(path.read_bytes())
    pair = [at for at, leaf in enumerate(leaves) if leaf[1]][:2]
    leaves[pair[0]], leaves[pair[1]] = leaves[pair[1]], leaves[pair[0]]
    path.write_bytes(tiles.encode_bundle(leaves))


def sign_again(directory: Path, signer: note.Signer, root: bytes | None = None) -> None:
    path = directory / "checkpoint"
    point = checkpoint.parse_checkpoint(note.parse_note(path.read_bytes()).text)
    path.write_bytes(checkpoint.sign_checkpoint(replace(point, root=root or point.root), [signer]))


def spoil_signature(directory: Path) -> None:
    path = directory / "checkpoint"
    opened = note.parse_note(path.read_bytes())
    (line,) = opened.unverified
    path.write_bytes(note.format_note(opened.text, [replace(line, signature=line.signature[::-1])]))


FORGERIES: dict[str, Callable[[Path], None]] = {
    "tile of level 0": lambda directory: flip(directory / "tile/0/001", 40),
    "tile of level 1": lambda directory: flip(directory / "tile/1/000.p/2", 3),
    "tile at the edge": lambda directory: flip(next((directory / "tile/0/002.p").iterdir()), 9),
    "leaf": lambda directory: flip(directory / "tile/entries/001", 60),
    "leaf at the edge": lambda directory: flip(next((directory / "tile/entries/002.p").iterdir()), 60),
    "two leaves": swap_leaves,
    "root": lambda directory: sign_again(directory, LOG, bytes(32)),
    "signature": spoil_signature,
    "signer": lambda directory: sign_again(directory, note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))),
}


def each_file_fails_first(*faults: str) -> Callable[[int, str], str]:
    """Return a function that gives each file's first responses these faults, one after the other, and then none."""
    seen: Counter[str] = Counter()

    def fault_of(number: int, path: str) -> str:
        seen[path] += 1
        return faults[seen[path] - 1] if seen[path] <= len(faults) else ""

    return fault_of


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_disproved_once_it_arrives_whole(
    name: str, host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    """Through a network that cuts and resets. The forgery is read twice, the second time past caches."""
    shutil.copytree(ledgers[1], tmp_path / "forged")
    FORGERIES[name](tmp_path / "forged")
    host.serve(tmp_path / "forged", each_file_fails_first("cut", "reset", "empty"))
    location = at(host)
    state = tmp_path / "state"
    with pytest.raises((ProofError, SignatureError)):
        verify(location, jobs=1, state_path=state, save_every=100)
    assert host.no_cache
    if "tile of level 0" not in name:  # an export makes its own tiles, and reads none of level 0 if no leaf is missing
        with pytest.raises((ProofError, SignatureError)):
            export(location, tmp_path / "copy", origin=ORIGIN, log_verifier=LOG.verifier)
    host.serve(ledgers[1])
    assert verify(at(host), jobs=1, state_path=state) == verify(at(host), jobs=1)
    export(at(host), tmp_path / "copy", origin=ORIGIN, log_verifier=LOG.verifier)
    assert files_of(tmp_path / "copy") == files_of(ledgers[1])


@pytest.mark.parametrize("name", [one for one in FORGERIES if one not in ("signature", "signer")])
def test_what_only_a_cache_forged_disproves_nothing(
    name: str, host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    """Wrong bytes at the first reading and right ones past the cache: the right ones count."""
    forged = tmp_path / "forged"
    shutil.copytree(ledgers[1], forged)
    FORGERIES[name](forged)
    changed = {path for path, content in files_of(forged).items() if (ledgers[1] / path).read_bytes() != content}
    host.serve(ledgers[1])
    host.cached = {path: (forged / path).read_bytes() for path in changed}
    if name == "root":
        # The log signed both, so one reading is enough, and both are evidence.
        with pytest.raises(ProofError):
            verify(at(host), jobs=1)
        return
    assert verify(at(host), jobs=1).faults == ()


def test_a_forgery_is_disproved_after_responses_that_stall(
    host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(ledgers[1], tmp_path / "forged")
    swap_leaves(tmp_path / "forged")
    host.serve(tmp_path / "forged", lambda number, path: SLOW[number] if number < len(SLOW) else "")
    with pytest.raises(ProofError):
        verify(LiveDaemon(url=host.url, pause_s=0, timeout_s=3.0), jobs=1)


def test_a_tree_that_the_log_signed_and_that_breaks_the_rule_is_named(host: FaultyHost, tmp_path: Path) -> None:
    forge = make_forge(500)
    forge.seal(wrong=True)
    forge.write(tmp_path / "forged")
    host.serve(tmp_path / "forged", each_file_fails_first("cut", "reset", "empty"))
    report = verify(at(host), jobs=1)
    assert [fault.index for fault in report.faults] == [forge.size - 1]
    assert not host.no_cache  # the log signed these leaves: one reading is enough


def test_a_monitor_alarms_through_a_bad_network(host: FaultyHost, ledgers: list[Path], tmp_path: Path) -> None:
    make_forge(SIZES[1], people=9).write(tmp_path / "fork")
    for number, (second, status) in enumerate(((tmp_path / "fork", FORK), (ledgers[0], ROLLBACK))):
        monitor = Monitor(tmp_path / f"watch{number}", origin=ORIGIN, log_verifier=LOG.verifier)
        host.serve(ledgers[1])
        source = at(host).open()
        assert monitor.observe(source, 1000).status == FIRST
        host.serve(second, each_file_fails_first("cut", "reset", "empty"))
        assert monitor.observe(source, 1010).status == status
        assert bool(host.no_cache) == (status == ROLLBACK)  # a cache may return an old checkpoint, but no fork
        source.close()


def test_an_older_ledger_is_refused_by_verify_and_export(host: FaultyHost, ledgers: list[Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    verify(at(host), jobs=1, state_path=state)
    export(at(host), tmp_path / "copy", origin=ORIGIN, log_verifier=LOG.verifier)
    host.serve(ledgers[0], each_file_fails_first("cut", "reset", "empty"))
    location = at(host)
    with pytest.raises(ProofError):
        verify(location, jobs=1, state_path=state)
    with pytest.raises(ProofError):
        export(location, tmp_path / "copy", origin=ORIGIN, log_verifier=LOG.verifier)
    assert host.no_cache == {"checkpoint"}


def test_a_wrong_cosignature_is_refused_once_it_arrives_whole(
    host: FaultyHost, ledgers: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(ledgers[1], tmp_path / "forged")
    cosigned(ExportDirectory(tmp_path / "forged"), (STRANGER, SEALED_S), (WITNESSES[1], SEALED_S))
    host.serve(tmp_path / "forged", each_file_fails_first("cut", "reset", "empty"))
    with pytest.raises(SignatureError):
        verify(at(host), jobs=1, witnesses=asked())
    assert "checkpoint" in host.no_cache


def test_files_that_are_withheld_prove_nothing(host: FaultyHost, ledgers: list[Path], tmp_path: Path) -> None:
    whole = files_of(ledgers[1])
    for number, name in enumerate(sorted(whole)):
        directory = tmp_path / str(number)
        shutil.copytree(ledgers[1], directory)
        (directory / name).unlink()
        host.serve(directory)
        with pytest.raises(StorageError):
            verify(at(host), jobs=1)
    # A kept file without leaves: the log says that it pruned some, and does not say so in `pruned`.
    directory = tmp_path / "kept"
    shutil.copytree(ledgers[1], directory)
    leaves = tiles.decode_bundle((directory / "tile/entries/001").read_bytes())
    (directory / "tile/entries/001").unlink()
    (directory / "kept").mkdir()
    (directory / "kept/001").write_bytes(tiles.encode_bundle([b"", *leaves[1:]]))
    host.serve(directory)
    with pytest.raises(FetchError, match="not pruned"):
        verify(at(host), jobs=1)
