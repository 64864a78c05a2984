"""Readers that pinned the first log key of a ledger follow to the present one, and refuse what does not lead there."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, config_text, make_running, question, running_daemon
from cases.pruned_ledgers import World as Pruned
from cases.pruned_ledgers import pruned_world
from cases.rotations import check_followed, client, rotate
from cases.services import add_reader
from consentd.audit.evidence import make_evidence
from consentd.audit.export import export
from consentd.audit.files import DataDirectory
from consentd.audit.live import LiveDaemon
from consentd.audit.monitor import FIRST, GROWN, SAME, Monitor
from consentd.audit.replay import replay_decisions
from consentd.audit.sources import ExportDirectory
from consentd.audit.verify import verify_ledger
from consentd.core.evidence import Scope, format_rotations, parse_evidence, parse_rotations
from consentd.core.history import HistoryProof, RotationProof
from consentd.core.note import Verifier, format_vkey
from consentd.core.rotation import RotationRole
from consentd.errors import MalformedError, ProofError, SignatureError, StorageError, UnknownKeyError
from consentd.ledger import layout
from consentd.ledger.rotations import kept_sizes, read_rotations
from consentd.server.keys import read_keys
from consentd.service.servicer import Services
from consentd.statements.evidence import verify_evidence
from consentd.store import Batch
from consentd.v1 import consent_pb2 as pb
from consentd.verify.fsck import verify_files
from consentd_client import FileMemory, ledger, log_key, pin

LOG, STATEMENT = RotationRole.LOG, RotationRole.STATEMENT


@dataclass
class World:
    """A daemon that has replaced its log key twice and its statement key once.

    Attributes:
        pins: its log keys, the first one first.
    """

    running: Running
    subject: pb.Subject
    pins: list[Verifier]

    @property
    def services(self) -> Services:
        return self.running.wait_published()

    @property
    def live(self) -> LiveDaemon:
        if "reader" not in self.running.tokens:
            add_reader(self.running)
        daemon = self.running.daemon
        url, target = f"http://127.0.0.1:{daemon.http_port}", f"127.0.0.1:{daemon.grpc_port}"
        return LiveDaemon(url=url, target=target, token=self.running.tokens["reader"])

    def rotate_log(self) -> None:
        self.pins.append(Verifier(ORIGIN, rotate(self.running, LOG).new_key))
        self.ask()

    def ask(self) -> None:
        self.running.authorize(question(self.subject))
        self.running.wait_published()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = make_running(tmp_path_factory.mktemp("readers"))
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    made = World(running, subject, [read_keys(running.config).log.verifier])
    made.rotate_log()
    rotate(running, STATEMENT)
    made.rotate_log()
    yield made
    running.check_ledger()
    running.stop()


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export by a reader that pinned the first key."""
    directory = tmp_path_factory.mktemp("export") / "log"
    done = export(world.live, directory, origin=ORIGIN, log_verifier=world.pins[0])
    assert [one.vkey for one in done.log_keys] == [format_vkey(one) for one in world.pins]
    return directory


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_ledger_verifies_with_each_of_its_log_keys(world: World, exported: Path, position: int) -> None:
    pinned = world.pins[position]
    for location in (ExportDirectory(exported), world.live):
        report = verify_ledger(location, origin=ORIGIN, log_verifier=pinned)
        assert report.faults == ()
        followed = [one.vkey for one in report.followed]
        assert followed == ([format_vkey(one) for one in world.pins[position:]] if position < 2 else [])
    replayed = replay_decisions(world.live, origin=ORIGIN, log_verifier=pinned)
    assert (replayed.faults, len(replayed.log_keys)) == ((), 3 - position if position < 2 else 0)


def test_an_export_goes_on_after_a_rotation(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with running_daemon(tmp_path / "daemon") as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        made = World(running, subject, [read_keys(running.config).log.verifier])
        made.ask()
        pinned, before = made.pins[0], tuple[RotationProof, ...]()
        for count in (0, 2, 3):
            done = export(made.live, directory, origin=ORIGIN, log_verifier=pinned)
            report = verify_ledger(ExportDirectory(directory), origin=ORIGIN, log_verifier=pinned)
            assert (len(done.log_keys), report.faults, len(report.followed)) == (count, (), count)
            after = parse_rotations((directory / "rotations").read_bytes()) if count else ()
            assert after[: len(before)] == before
            before = after
            made.rotate_log()


def changed_steps(change: Callable[[list[RotationProof]], object]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        steps = list(parse_rotations(content))
        change(steps)
        return format_rotations(steps)

    return apply


def put(steps: list[RotationProof], at: int, **fields: Any) -> None:
    steps[at] = replace(steps[at], **fields)


def other_signature(checkpoint: bytes) -> bytes:
    """Change a byte within the log's signature."""
    at = len(checkpoint) - 40
    return checkpoint[:at] + (b"A" if checkpoint[at : at + 1] != b"A" else b"B") + checkpoint[at + 1 :]


WRONG: dict[str, tuple[Callable[[bytes], bytes], type[Exception]]] = {
    "none": (changed_steps(lambda steps: steps.clear()), UnknownKeyError),
    "the first is missing": (changed_steps(lambda steps: steps.pop(0)), UnknownKeyError),
    "the last is missing": (changed_steps(lambda steps: steps.pop()), UnknownKeyError),
    "out of order": (changed_steps(lambda steps: steps.reverse()), ProofError),
    "another signature": (
        changed_steps(lambda steps: put(steps, 0, checkpoint=other_signature(steps[0].checkpoint))), SignatureError,
    ),
    "an entry is missing": (
        changed_steps(
            lambda steps: put(steps, 1, history=replace(steps[1].history, entries=steps[1].history.entries[:-1]))
        ),
        ProofError,
    ),
    "another map proof": (
        changed_steps(lambda steps: put(steps, 0, history=replace(steps[0].history, map_proof=b""))), ProofError,
    ),
    "the seal of another tree": (changed_steps(lambda steps: put(steps, 0, seal=steps[1].seal)), ProofError),
    "no JSON": (lambda content: content[:-1], MalformedError),
    "another format": (lambda content: content.replace(b"rotations/v1", b"rotations/v9"), MalformedError),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_of_rotations_leads_nowhere(world: World, copied: Path, case: str) -> None:
    change, error = WRONG[case]
    path = copied / "rotations"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(error):
        verify_ledger(ExportDirectory(copied), origin=ORIGIN, log_verifier=world.pins[0])
    if error is not MalformedError:
        # A reader that pinned the present key needs none of it.
        assert verify_ledger(ExportDirectory(copied), origin=ORIGIN, log_verifier=world.pins[2]).faults == ()


def test_without_the_file_or_its_tiles_nothing_is_determined(world: World, copied: Path) -> None:
    tile = next(path for path in sorted((copied / "tile" / "0").rglob("*")) if path.is_file())
    content = tile.read_bytes()
    tile.write_bytes(bytes(len(content)))
    with pytest.raises(StorageError):
        verify_ledger(ExportDirectory(copied), origin=ORIGIN, log_verifier=world.pins[0])
    tile.write_bytes(content)
    (copied / "rotations").unlink()
    for pinned in world.pins[:2]:
        with pytest.raises(UnknownKeyError):
            verify_ledger(ExportDirectory(copied), origin=ORIGIN, log_verifier=pinned)
    assert verify_ledger(ExportDirectory(copied), origin=ORIGIN, log_verifier=world.pins[2]).faults == ()


def test_evidence_leads_from_each_pin(world: World, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    made = make_evidence(
        ExportDirectory(exported), path, Scope(first=0, last=9), origin=ORIGIN, log_verifier=world.pins[0]
    )
    assert len(made.log_keys) == 3
    evidence = parse_evidence(path.read_bytes())
    assert evidence.keys == (made.log_keys[-1].vkey,)
    for position in range(3):
        found = verify_evidence(evidence, origin=ORIGIN, log_verifier=world.pins[position])
        assert len(found.log_keys) == (3 - position if position < 2 else 0)


def test_the_file_over_http_has_only_what_is_before_the_public_checkpoint(world: World) -> None:
    with closing(HTTPConnection("127.0.0.1", world.running.daemon.http_port)) as connection:
        connection.request("GET", "/rotations")
        response = connection.getresponse()
        assert response.status == 200
        steps = parse_rotations(response.read())
    ledger = world.services.ledger
    kept = read_rotations(ledger.store, ledger.state.size)
    assert steps == tuple(replace(one, consistency=()) for one in kept)


def test_a_monitor_follows_and_keeps_the_key(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon") as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        made = World(running, subject, [read_keys(running.config).log.verifier])
        made.ask()
        with closing(HTTPConnection("127.0.0.1", running.daemon.http_port)) as connection:
            connection.request("GET", "/rotations")
            assert connection.getresponse().status == 404
        watched: dict[str, Any] = {"origin": ORIGIN, "log_verifier": made.pins[0]}
        monitor = Monitor(tmp_path / "watch", **watched)
        with closing(made.live.open()) as source:
            assert monitor.observe(source, 1_000).status == FIRST
        made.rotate_log()
        for expected in (GROWN, SAME):
            with closing(made.live.open()) as source:
                assert monitor.observe(source, 1_001).status == expected
        assert [one.vkey for one in monitor.log_keys] == [format_vkey(one) for one in made.pins]
        state = json.loads((tmp_path / "watch" / "latest.json").read_text())
        assert (state["pinned"], state["log_key"]) == (format_vkey(made.pins[0]), format_vkey(made.pins[1]))
        made.rotate_log()
        again = Monitor(tmp_path / "watch", **watched)
        with closing(made.live.open()) as source:
            assert again.observe(source, 1_002).status == GROWN
        assert [one.vkey for one in again.log_keys] == [format_vkey(one) for one in made.pins[1:]]
        newest = Monitor(tmp_path / "watch", origin=ORIGIN, log_verifier=made.pins[2])
        with closing(made.live.open()) as source:
            assert newest.observe(source, 1_003).status == SAME
        running.check_ledger()


def test_a_reader_follows_past_what_was_pruned_since(tmp_path: Path) -> None:
    made = Pruned(tmp_path)
    try:
        running = made.running
        pins = [read_keys(running.config).log.verifier]
        pins.append(Verifier(ORIGIN, rotate(running, LOG).new_key))
        person = pruned_world(made)  # the seal before the kept checkpoint's end is older than the retention
        assert made.services.ledger.store.get(layout.leaf_key(kept_sizes(made.services.ledger.store)[0] - 1)) is None
        rotate(running, STATEMENT)
        pins.append(Verifier(ORIGIN, rotate(running, LOG).new_key))
        made.use(person)
        made.settle()
        assert check_followed(running, person, pins[0]) == 3
        url = f"http://127.0.0.1:{running.daemon.http_port}"
        live = LiveDaemon(url=url, token=running.tokens["operator"])
        report = verify_ledger(live, origin=ORIGIN, log_verifier=pins[0])
        assert (report.faults, [one.vkey for one in report.followed]) == ((), [format_vkey(one) for one in pins])
        running.check_ledger()
    finally:
        made.running.stop()


# -- the client -------------------------------------------------------------------------------------------------


def test_a_client_follows_once_and_its_memory_keeps_the_key(world: World, tmp_path: Path) -> None:
    trust, memory = pin(world.pins[0]), FileMemory(tmp_path / "memory.json")
    first = client(world.running, "app", trust)
    receipt = first.authorize_access(question(world.subject), published=True).receipt
    assert receipt is not None
    assert receipt.checkpoint is not None
    assert first.context.learned.log_key == world.pins[-1]
    one = type(first)("", token=world.running.tokens["app"], channel=world.running.channel, trust=trust, memory=memory)
    one.get_checkpoint()
    assert memory.log_key(format_vkey(world.pins[0])) == format_vkey(world.pins[-1])
    two = type(first)("", token=world.running.tokens["app"], channel=world.running.channel, trust=trust, memory=memory)
    assert two.context.learned.log_key == world.pins[-1]
    assert two.history(world.subject).log_keys == ()
    assert two.get_receipt(receipt).checkpoint is not None
    other = pin(world.pins[1])
    assert type(first)("", channel=world.running.channel, trust=other, memory=memory).context.learned.log_key is None
    assert check_followed(world.running, world.subject, world.pins[1]) == len(world.pins) - 1


def test_a_client_that_reads_in_parts_keeps_the_key_too(world: World, tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "memory.json")
    asking = client(world.running, "app", pin(world.pins[0]))
    asking.context = replace(asking.context, memory=memory)
    found, _, state = asking.history_part(world.subject, most=2)
    assert (len(found.log_keys), found.is_complete) == (len(world.pins), False)
    assert asking.context.learned.log_key == world.pins[-1]
    assert memory.log_key(format_vkey(world.pins[0])) == format_vkey(world.pins[-1])
    assert (memory.checkpoint(), memory.history(ledger.memory_key(world.subject))) == (None, None)
    later, _, _ = asking.history_part(world.subject, state=state)
    assert (later.log_keys, later.is_complete) == ((), True)


def test_a_receipt_is_verified_with_the_memory_or_the_message_says_what_to_give(world: World, tmp_path: Path) -> None:
    pins, memory, file = [format_vkey(one) for one in world.pins], tmp_path / "memory.json", tmp_path / "file"
    line = CommandLine().given(LANG="en_US.UTF-8")
    daemon = ("--target", f"127.0.0.1:{world.running.daemon.grpc_port}")
    app = line.given(CONSENTD_TOKEN=world.running.tokens["app"], CONSENTD_LOG_KEY=pins[0])
    person, receipt = f"mhid:{world.subject.value}", tmp_path / "receipt"
    ask = ("--actor", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN.DX")
    app("authorize", person, *ask, "--receipt", receipt, *daemon)
    verify = ("verify", receipt, "--log-key")
    unknown = line(*verify, pins[0])
    assert (unknown.status, unknown.out, "--rotations" in unknown.err) == (2, "", True)
    assert line(*verify, pins[0], "--memory", memory).status == 2
    assert app("history", person, "--memory", memory, "--save", file, *daemon).status == 0
    assert line(*verify, pins[0], "--rotations", file).status == 0
    known = line(*verify, pins[0], "--memory", memory, "--json")
    assert (known.status, known.object["log_key"]) == (0, pins[-1])
    assert line(*verify, pins[1], "--memory", memory).status == 2  # the memory is of another pin
    assert line(*verify, pins[-1], "--json").object["log_key"] == pins[-1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda steps: steps.clear(), UnknownKeyError),
        (lambda steps: put(steps, 0, checkpoint=other_signature(steps[0].checkpoint)), SignatureError),
        (lambda steps: put(steps, 0, consistency=steps[0].consistency[1:]), ProofError),
        (lambda steps: steps.pop(0), UnknownKeyError),
    ],
)
def test_a_client_that_is_shown_a_wrong_rotation_refuses_and_keeps_its_pin(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[RotationProof]], object],
    error: type[Exception],
) -> None:  # fmt: skip
    collect = log_key.collect_proof

    def forged(pieces: Any) -> HistoryProof:
        proof = collect(pieces)
        steps = list(proof.rotations)
        change(steps)
        return replace(proof, rotations=tuple(steps))

    monkeypatch.setattr(log_key, "collect_proof", forged)
    asking = client(world.running, "app", pin(world.pins[0]))
    with pytest.raises(error):
        asking.get_checkpoint()
    assert asking.context.learned.log_key is None
    assert asking.context.memory.checkpoint() is None


# -- the operator's files ---------------------------------------------------------------------------------------


def test_fsck_verifies_what_is_kept(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        made = World(running, subject, [read_keys(running.config).log.verifier])
        made.rotate_log()
        made.rotate_log()
        store = made.services.ledger.store

        def faults(pinned: Verifier) -> list[str]:
            report = verify_files(store, origin=ORIGIN, log_verifier=pinned, last_signed_path=None)
            return [fault.what for fault in report.faults]

        assert [faults(one) for one in made.pins] == [[], [], []]
        assert faults(Verifier(ORIGIN, read_keys(running.config).statement.public_key)) != []
        first, second = kept_sizes(store)
        rows = {size: store.get(layout.kept_key(size)) or b"" for size in (first, second)}
        for key, row in (
            (layout.kept_key(first), None),
            (layout.kept_key(first), rows[first][:-1]),
            (layout.kept_key(first), rows[second]),
            (layout.kept_key(first), rows[first].replace(b'"map_proof":"', b'"map_proof":"AAAA')),
            (layout.kept_key(first + 1), rows[first]),
        ):
            change(store, key, row)
            assert len(faults(made.pins[0])) == 1
            change(store, layout.kept_key(first + 1), None)
            change(store, layout.kept_key(first), rows[first])
        assert faults(made.pins[0]) == []


def change(store: Any, key: bytes, row: bytes | None) -> None:
    batch = Batch()
    if row is None:
        batch.delete(key)
    else:
        batch.put(key, row)
    store.write(batch)


def test_the_command_line_rotates_and_verifies(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        first = format_vkey(read_keys(running.config).log.verifier)
        line = CommandLine().given(
            CONSENTD_TARGET=f"127.0.0.1:{running.daemon.grpc_port}", CONSENTD_TOKEN=running.tokens["operator"],
            LANG="en_US.UTF-8",
        )  # fmt: skip
        prepared = line("rotate", "log-key", "--json").object
        assert line("rotate", "log-key").out.strip() == prepared["vkey"]
        done = line("rotate", "log-key", "--new-key", prepared["vkey"], "--reason", "planned", "--json")
        assert (done.status, done.object["vkey"]) == (0, prepared["vkey"])
        assert line("rotate", "log-key", "--new-key", prepared["vkey"]).status != 0
        assert line("rotate", "log-key", "--new-key", "no key").status != 0
        statement = line("rotate", "statement-key").out.strip()
        assert line("rotate", "statement-key", "--new-key", statement, "--json").object["new_key"] == statement
        shown = line("operation", "list", "--json").objects
        assert {one["role"] for one in shown if one["type"] == "rotation"} == {1, 2}
        running.enrol("SYN-000001")
        running.wait_published()
        log_key_now = prepared["vkey"]
    config = tmp_path / "consentd.toml"
    config.write_text(config_text())
    found = line("audit", "verify", "--config", config, "--log-key", first, "--jobs", "1", "--json")
    assert found.status == 0, found.err
    assert [one["vkey"] for one in found.object["log_keys"]] == [first, log_key_now]
    assert "pin the last one" in found.err
    assert line("fsck", "--config", config).status == 0
    assert DataDirectory.of_config(running.config).checkpoint_path.exists()
