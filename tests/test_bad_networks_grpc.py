"""As ``test_bad_networks``, for gRPC: a proxy cuts, stalls, resets and drips at each call, also in its answer.

What reads a live daemon over gRPC: ``audit verify``, ``audit evidence`` and ``export`` with statements (ListEntries),
and ``history`` (GetHistory, a stream).
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cases.audited import verify
from cases.audits import DAEMON, LOG, ORIGIN, Forge, make_forge
from cases.clients import SENT
from cases.command_lines import CommandLine, Result
from cases.daemons import make_running, question
from cases.fakes import HANG_S
from cases.faulty_hosts import FaultyHost
from cases.grpc_proxies import REQUESTS, WHOLE, FaultyProxy, Spoil, answers
from cases.served_entries import ServedEntries, serve_calls
from cases.services import put_mandate, register
from cases.small_ledgers import CLINIC, GRANTED, SMALL, SUBJECT, TAG, Small, small
from consentd.audit.evidence import make_evidence
from consentd.audit.export import export
from consentd.audit.live import LiveDaemon
from consentd.audit.sources import ExportDirectory, decode_openings, encode_openings
from consentd.core import codec, ed25519, note
from consentd.core.evidence import Scope
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import FetchError, StorageError, VerificationError
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, FileMemory

SHORT_S = 0.1
"""Time limit where an answer never comes. No test asserts it as a bound: on a slow machine more calls fail."""
ONCE_S = 5.0
"""Time limit of each try where only the first tries stall. On a slow machine more of them fail: see ``ONCE_TRIES``."""
ONCE_TRIES = int(HANG_S / ONCE_S)
LONG_S = float(HANG_S)
SIZE = 300
SPOILS = (*REQUESTS, *answers(1_000))
"""Before the request, inside the answer's message, and before its status."""


@dataclass
class Network:
    """A ledger that is served over HTTP by a host, and over gRPC through a proxy."""

    host: FaultyHost
    served: ServedEntries
    proxy: FaultyProxy

    def serve(self, export: ExportDirectory, spoil_of: Callable[[int], Spoil | None] = lambda number: None) -> None:
        self.host.serve(export.directory)
        self.served.export = export
        self.proxy.spoil(spoil_of)

    def at(self, timeout_s: float = LONG_S) -> LiveDaemon:
        return LiveDaemon(url=self.host.url, target=self.proxy.target, token="auditor", pause_s=0, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> ExportDirectory:
    directory = tmp_path_factory.mktemp("ledger")
    return make_forge(SIZE).write(directory / "log", directory / "openings")


@pytest.fixture
def network(ledger: ExportDirectory) -> Iterator[Network]:
    served = ServedEntries()
    with FaultyHost(ledger.directory) as host, serve_calls(served) as port, FaultyProxy(port) as proxy:
        yield Network(host, served, proxy)


def from_call(first: int, spoil: Spoil) -> Callable[[int], Spoil | None]:
    return lambda number: spoil if number >= first else None


def first_calls(*spoils: Spoil) -> Callable[[int], Spoil | None]:
    return lambda number: spoils[number] if number < len(spoils) else None


def files_of(directory: Path) -> dict[str, bytes]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def limit_s(spoil: Spoil) -> float:
    return SHORT_S if spoil.is_slow else LONG_S


@pytest.mark.parametrize("spoil", SPOILS, ids=str)
def test_verify_concludes_nothing_and_continues(
    spoil: Spoil, network: Network, ledger: ExportDirectory, tmp_path: Path
) -> None:
    network.serve(ledger)
    whole = verify(network.at(), jobs=1)
    assert whole.faults == ()
    calls = network.proxy.call_count
    assert calls > 3
    for number in (0, calls - 1):
        state = tmp_path / f"state{number}"
        network.serve(ledger, from_call(number, spoil))
        with pytest.raises(FetchError):
            verify(network.at(limit_s(spoil)), jobs=1, state_path=state, save_every=100)
        network.serve(ledger)
        assert verify(network.at(), jobs=1, state_path=state, save_every=100) == whole
        network.serve(ledger, lambda called, number=number: spoil if called == number else None)
        if not spoil.is_slow:
            assert verify(network.at(), jobs=1) == whole  # a call that failed once is repeated
            assert network.proxy.call_count == calls + 1


@pytest.mark.parametrize("how", ["stall", "drip"])
@pytest.mark.parametrize("after", [None, 0, WHOLE])
def test_a_call_that_stalls_once_is_repeated_on_another_connection(
    how: str, after: int | None, network: Network, ledger: ExportDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (how, after) == ("drip", None):
        return  # a request that does not arrive has no answer that drips
    monkeypatch.setattr("consentd.audit.live.TRIES", ONCE_TRIES)
    network.serve(ledger, first_calls(Spoil(how, after)))
    assert verify(network.at(ONCE_S), jobs=1).faults == ()


@pytest.mark.parametrize(
    "spoil", [Spoil("reset"), Spoil("cut", 1_000), Spoil("stall", 1_000), Spoil("page", WHOLE)], ids=str
)
def test_export_and_evidence_keep_nothing_of_it(
    spoil: Spoil, network: Network, ledger: ExportDirectory, tmp_path: Path
) -> None:
    def run(timeout_s: float, directory: Path) -> None:
        location = network.at(timeout_s)
        export(location, directory / "log", origin=ORIGIN, log_verifier=LOG.verifier, statements=directory / "openings")
        make_evidence(
            location, directory / "file", Scope(first=0, last=SIZE - 1), origin=ORIGIN, log_verifier=LOG.verifier
        )

    network.serve(ledger)
    run(LONG_S, tmp_path / "whole")
    whole, calls = files_of(tmp_path / "whole"), network.proxy.call_count
    for number in (0, calls - 1):
        directory = tmp_path / str(number)
        network.serve(ledger, from_call(number, spoil))
        with pytest.raises(FetchError):
            run(limit_s(spoil), directory)
        assert "file" not in files_of(directory)
        if not spoil.is_slow:  # on a slow machine another call may fail first at the time limit
            assert ("log/checkpoint" in files_of(directory)) is (number > 0)
        assert files_of(directory).items() <= whole.items()
        network.serve(ledger)
        run(LONG_S, directory)
        assert files_of(directory) == whole


# -- true forgeries ---------------------------------------------------------------------------------------------


def change_opening(export: ExportDirectory, change: Callable[[list[bytes | None]], None]) -> None:
    assert export.statements is not None
    path = next(export.statements.rglob("000"))
    found = decode_openings(path.read_bytes())
    change(found)
    path.write_bytes(encode_openings(found))


def flipped(at: int) -> Callable[[list[bytes | None]], None]:
    def change(openings: list[bytes | None]) -> None:
        opening = openings[40] or b""
        openings[40] = opening[:at] + bytes([opening[at] ^ 1]) + opening[at + 1 :]

    return change


def swap(openings: list[bytes | None]) -> None:
    openings[40], openings[41] = openings[41], openings[40]


def cut(openings: list[bytes | None]) -> None:
    openings[40] = (openings[40] or b"")[:-1]


OPENINGS: dict[str, Callable[[list[bytes | None]], None]] = {
    "salt": flipped(3),
    "key": flipped(32 + 5),
    "signature": flipped(32 + 40),
    "payload": flipped(-2),
    "two openings": swap,
    "opening that is cut": cut,
}
"""Openings that the leaves do not commit to."""


def signed_by_a_stranger(forge: Forge, tag: bytes) -> None:
    forge.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2, key=ed25519.KeyPair(b"\x55" * 32))


def signed_for_another_ledger(forge: Forge, tag: bytes) -> None:
    forge.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2, author_time_ms=1)
    salt, statement = (forge.openings[-1] or b"")[:32], codec.decode_statement((forge.openings[-1] or b"")[32:])
    wrong = codec.encode_statement(replace(statement, signature=DAEMON.sign(b"something else")))
    forge.openings[-1] = salt + wrong
    event = codec.decode_leaf(forge.leaves[-1])
    assert isinstance(event, codec.Event)
    forge.leaves[-1] = codec.encode_event(replace(event, commit=codec.commit(salt, wrong)))
    forge.heads[tag] = (event.seq, codec.chain_hash(forge.leaves[-1]))


def in_another_chain(forge: Forge, tag: bytes) -> None:
    name = "participant/bank"
    forge.add(EntryKind.PARTICIPANT, codec.public_tag("participant/x"), st.ParticipantStatement(participant_id=name))


def wrong_payload(forge: Forge, tag: bytes) -> None:
    forge.add(EntryKind.PAUSE, tag, b"\xff\xff\xff")


SIGNED: dict[str, Callable[[Forge, bytes], None]] = {
    "stranger's key": signed_by_a_stranger,
    "wrong signature": signed_for_another_ledger,
    "chain of another name": in_another_chain,
    "payload that does not decode": wrong_payload,
}
"""Entries that the log has signed, and that no honest log has."""
FIRST_TRIES = (Spoil("cut", 0), Spoil("reset", 1_000), Spoil("cut", WHOLE))
STALLED = (Spoil("stall", 500), Spoil("cut"), Spoil("stall"))


@pytest.mark.parametrize("name", [*OPENINGS, *SIGNED])
def test_a_forgery_is_disproved_after_calls_that_fail(
    name: str, network: Network, ledger: ExportDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a network that cuts, resets and stalls, and lets a call through at its fourth try."""
    if name in OPENINGS:
        shutil.copytree(ledger.directory, tmp_path / "log")
        assert ledger.statements is not None
        shutil.copytree(ledger.statements, tmp_path / "openings")
        forged = ExportDirectory(tmp_path / "log", tmp_path / "openings")
        change_opening(forged, OPENINGS[name])
    else:
        forge = make_forge(SIZE)
        tag = next(tag for tag, (count, _) in forge.heads.items() if count > 2)
        SIGNED[name](forge, tag)
        forge.seal()
        forged = forge.write(tmp_path / "log", tmp_path / "openings")
    state = tmp_path / "state"
    tries = STALLED if name in ("salt", "stranger's key") else FIRST_TRIES
    if tries is STALLED:
        monkeypatch.setattr("consentd.audit.live.TRIES", ONCE_TRIES)
    network.serve(forged, first_calls(*tries))
    report = verify(network.at(ONCE_S if tries is STALLED else LONG_S), jobs=1, state_path=state, save_every=100)
    assert [fault.index for fault in report.faults] == [0 if name in OPENINGS else SIZE]
    assert network.proxy.call_count > len(tries)
    if name in OPENINGS:
        network.serve(ledger)
        assert verify(network.at(), jobs=1, state_path=state) == verify(network.at(), jobs=1)


# -- histories --------------------------------------------------------------------------------------------------


def person() -> Small:
    made = small()
    made.add(EntryKind.OUTCOME, TAG, SENT, key=CLINIC)
    return made


def read(network: Network, memory: Path, *, timeout_s: float = LONG_S, attempts: int = 2) -> list[str]:
    with Client(
        network.proxy.target, timeout_s=timeout_s, attempts=attempts, trust=SMALL, memory=FileMemory(memory),
        backoff_s=0.01,
    ) as client:  # fmt: skip
        return [entry.kind_name for entry in client.history(SUBJECT, tag=TAG).entries]


def test_a_history_concludes_nothing_and_remembers_nothing(network: Network, tmp_path: Path) -> None:
    network.served.small = made = person()
    whole = read(network, tmp_path / "whole")
    assert whole == ["ENROL", "GRANT", "REVOKE", "OUTCOME"]
    size = network.proxy.answer_bytes[0]
    assert size > 2_000
    spoils = [*REQUESTS, *answers(0, size // 3, 2 * size // 3, size - 1)]
    for number, spoil in enumerate(spoils):
        memory = tmp_path / str(number)
        assert read(network, memory) == whole
        before = memory.read_bytes()
        made.person(GRANTED)
        network.proxy.spoil(from_call(0, spoil))
        with pytest.raises(StorageError):
            read(network, memory, timeout_s=limit_s(spoil))
        assert memory.read_bytes() == before
        network.proxy.spoil()
        whole = [*whole, "GRANT"]
        assert read(network, memory) == whole


def hide_an_entry(pieces: list[ls.GetHistoryResponse]) -> None:
    del pieces[3]


def change_a_statement(pieces: list[ls.GetHistoryResponse]) -> None:
    opening = pieces[3].entries.entries[0].opening
    opening.statement = opening.statement[:-1] + bytes([opening.statement[-1] ^ 1])


def change_a_leaf(pieces: list[ls.GetHistoryResponse]) -> None:
    entry = pieces[3].entries.entries[0]
    entry.leaf = entry.leaf[:50] + bytes([entry.leaf[50] ^ 1]) + entry.leaf[51:]


def shorten(pieces: list[ls.GetHistoryResponse]) -> None:
    pieces[1].chain.count -= 1
    del pieces[5]


@pytest.mark.parametrize("forge", [hide_an_entry, change_a_statement, change_a_leaf, shorten])
def test_a_forged_history_is_disproved_once_it_arrives_whole(
    forge: Callable[[list[ls.GetHistoryResponse]], None], network: Network, tmp_path: Path
) -> None:
    class Forged(Small):
        def history(self, request: ls.GetHistoryRequest | None = None) -> Any:
            pieces = super().history(request)
            forge(pieces)
            return pieces

    network.served.small = made = person()
    made.__class__ = Forged
    network.proxy.spoil(first_calls(Spoil("cut", 500), Spoil("reset"), Spoil("cut", WHOLE)))
    with pytest.raises(VerificationError):
        read(network, tmp_path / "memory", attempts=4)
    assert network.proxy.call_count == 4
    network.proxy.spoil(from_call(0, Spoil("stall", 500)))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, network, tmp_path / "memory", attempts=1)
        assert network.proxy.stalled.wait(HANG_S)
        network.proxy.spoil()  # ends the connection that stalls
        with pytest.raises(StorageError):
            reading.result(HANG_S)
    with pytest.raises(VerificationError):
        read(network, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_new_client_does_not_go_on_with_the_connection_of_another(network: Network, tmp_path: Path) -> None:
    network.served.small = person()
    network.proxy.spoil(from_call(0, Spoil("stall", 500)))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, network, tmp_path / "one", attempts=1)
        assert network.proxy.stalled.wait(HANG_S)
        network.proxy.spoil_of = lambda number: None
        assert read(network, tmp_path / "two", attempts=1) == ["ENROL", "GRANT", "REVOKE", "OUTCOME"]
        network.proxy.spoil()
        with pytest.raises(StorageError):
            reading.result(HANG_S)


# -- the command line and a real daemon -------------------------------------------------------------------------


def test_each_verb_exits_with_2_says_why_and_succeeds_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consentd.audit.live.TRIES", 1)
    running = make_running(tmp_path / "daemon")
    subject = running.enrol("SYN-1")
    running.grant(subject)
    for _ in range(5):
        running.authorize(question(subject))
    register(running, "pipc", [st.PARTICIPANT_ROLE_AUDITOR], rights=[st.PARTICIPANT_RIGHT_READ_STATEMENTS])
    put_mandate(running, "pipc")
    running.wait_published()
    vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    run = CommandLine().given(CONSENTD_LOG_KEY=vkey)
    with FaultyProxy(running.daemon.grpc_port) as proxy:
        source = ("--url", f"http://127.0.0.1:{running.daemon.http_port}", "--target", proxy.target)
        history = ("history", "mhid:SYN-1", "--target", proxy.target, "--memory", tmp_path / "memory")
        verbs: dict[str, tuple[object, ...]] = {
            "app": (*history, "--timeout", HANG_S),
            "pipc": ("audit", "verify", *source, "--jobs", 1, "--state", tmp_path / "state"),
            "pipc ": ("audit", "evidence", tmp_path / "file", "--range", "0:9", *source),
            "pipc  ": ("export", tmp_path / "copy", *source, "--statements-to", tmp_path / "openings"),
        }

        def call(who: str) -> Result:
            return run.given(CONSENTD_TOKEN=running.tokens[who.strip()])(*verbs[who])

        for who in verbs:
            for spoil in (Spoil("reset"), Spoil("page"), Spoil("cut", 0), Spoil("cut", 700), Spoil("cut", WHOLE)):
                proxy.spoil(from_call(0, spoil))
                failed = call(who)
                assert (failed.status, failed.out) == (2, ""), (who, spoil, failed)
                assert failed.err.count("error:") == 1
                assert "Traceback" not in failed.err
            proxy.spoil()
            assert call(who).status == 0
        proxy.spoil(from_call(0, Spoil("stall", 100)))
        stalled = run.given(CONSENTD_TOKEN=running.tokens["app"])(*history, "--timeout", 0.5)
        assert (stalled.status, stalled.out) == (2, "")
        assert "call again" in stalled.err
    running.check_ledger()
    running.stop()
