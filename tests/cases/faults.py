"""Make the disk fail under a daemon at one chosen system call, with strace.

A run (``python -m cases.faults DIRECTORY``) is a script that starts a daemon twice in one directory. The first time
it begins a ledger and writes participants, persons, consents, accesses and a withdrawal; then it writes more.
It keeps a diary outside the daemon's files: what was acknowledged, what was refused, and each checkpoint before
it is public. ``points`` lists the calls of a traced run that change the daemon's files. ``run`` with one of these
points and a fault makes that call fail, or kills the process there.

strace counts calls for each thread, so several threads may reach a point. Each file has one writer, except the vault's,
which any thread that serves may write: there a fault may come more than once.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from cases.daemons import RIGHTS, ROLES, Running, consent, make_config, question, reason_of, request_id
from consentd.config import Config
from consentd.cosigning.keyfiles import write_private
from consentd.cosigning.publisher import Halt, ImmediatePublisher, Publish, Published, Publisher
from consentd.errors import ConsentdError
from consentd.ledger.ledger import Ledger
from consentd.server.daemon import Daemon
from consentd.server.keys import Keys, make_keys
from consentd.service.auth import format_credential, make_token
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

CALLS = ["write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "openat", "ftruncate", "fallocate", "mkdir"]
"""What changes files."""
FAULTS = {
    "fails once": "error=EIO:when={}",
    "fails from then on": "error=ENOSPC:when={}+",
    "kills": "signal=SIGKILL:when={}",
    "no descriptor": "error=EMFILE:when={}",
}
LIMIT_S = 90
EAGER, IDLE = 10, 60_000
"""Checkpoint intervals in ms: a seal in most batches; one at the start and at the end only."""


def prepare(directory: Path) -> dict[str, str]:
    """Make the keys and credentials of a run in *directory*; return the tokens."""
    config = make_config(directory)
    tokens = {"operator": make_keys(config)}
    for name in ROLES:
        tokens[name] = make_token()
        write_private(config.callers.credentials_file, format_credential(tokens[name], name), append=True)
    (directory / "tokens").write_text(json.dumps(tokens))
    return tokens


# -- the run, in a process of its own -------------------------------------------------------------------------


class Diary:
    """What happened, one JSON object a line; whole up to a kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, kind: str, **values: object) -> None:
        os.write(self._file, json.dumps({"kind": kind, **values}).encode() + b"\n")


def live(directory: Path, interval_ms: int, script: Callable[[Running, Diary], None], diary: Diary) -> None:
    """Run a daemon for one script; a start that fails is noted."""
    tokens = json.loads((directory / "tokens").read_text())
    try:
        config = make_config(directory, checkpoint_interval_ms=interval_ms)
        running = Running(config, tokens, make=NotedDaemon, diary=diary)
    except ConsentdError as error:
        diary.note("unopened", error=type(error).__name__, text=str(error))
        return
    diary.note("opened")
    try:
        script(running, diary)
    finally:
        running.stop()
    diary.note("stopped")


def ask(diary: Diary, call: Any, request: Any, running: Running, who: str) -> Any:
    """Make a call, note its result, and return the answer; None if it was refused."""
    try:
        answer = call(request, metadata=running.as_(who), timeout=30)
    except grpc.RpcError as error:
        diary.note("refused", code=error.code().name, reason=reason_of(error), text=error.details())
        return None
    for one in [each.response for each in answer.results] if hasattr(answer, "results") else [answer]:
        if one.HasField("receipt"):
            diary.note("acknowledged", index=one.receipt.index, leaf_hash=one.receipt.leaf_hash.hex())
    return answer


def first_life(running: Running, diary: Diary) -> None:
    """Begin a ledger and write one of everything."""
    tell = partial(ask, diary, running=running)
    for name, roles in ROLES.items():
        told = st.ParticipantStatement(
            participant_id=name, name={"en": name}, roles=roles, rights=RIGHTS.get(name, []), active=True
        )
        request = rs.RegisterParticipantRequest(request_id=request_id(), attested=told)
        tell(running.registry.RegisterParticipant, request, who="operator")
    given = st.DelegationStatement(giver="clinic-b", taker="app", capacity=st.DELEGATION_CAPACITY_RELAY)
    delegate = rs.PutDelegationRequest(request_id=request_id(), attested=given)
    tell(running.registry.PutDelegation, delegate, who="operator")
    people = [pb.Subject(scheme="mhid", value=f"SYN-{number:06d}") for number in range(3)]
    for each in people:
        request = rs.EnrolSubjectRequest(request_id=request_id(), subject=each, method="test")
        tell(running.registry.EnrolSubject, request, who="app")
    granted = []
    for each in people[:2]:
        request = cs.GrantConsentRequest(
            request_id=request_id(), subject=each, attested=st.GrantStatement(consent=consent())
        )
        granted.append(tell(running.consents.GrantConsent, request, who="app"))
    write_accesses(running, diary, people)
    if granted[0] is not None:
        request = cs.RevokeConsentRequest(
            request_id=request_id(), subject=people[0], consent_id=granted[0].consent_id, attested=st.RevokeStatement()
        )
        tell(running.consents.RevokeConsent, request, who="app")
    write_accesses(running, diary, people)


def second_life(running: Running, diary: Diary) -> None:
    """Go on in a ledger that was opened again."""
    newcomer = pb.Subject(scheme="mhid", value="SYN-000009")
    request = rs.EnrolSubjectRequest(request_id=request_id(), subject=newcomer, method="test")
    ask(diary, running.registry.EnrolSubject, request, running, "app")
    write_accesses(running, diary, [newcomer, pb.Subject(scheme="mhid", value="SYN-000001")])


def write_accesses(running: Running, diary: Diary, people: list[pb.Subject]) -> None:
    """Ask for each person alone, and for all at once."""
    asked = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(each)) for each in people]
    for one in asked:
        ask(diary, running.access.AuthorizeAccess, one, running, "app")
    again = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(each)) for each in people]
    together = ac.BatchAuthorizeAccessesRequest(requests=again)
    ask(diary, running.access.BatchAuthorizeAccesses, together, running, "app")


class NotedPublisher(ImmediatePublisher):
    """Notes each checkpoint before it is public, so that no checkpoint that a reader may have seen is missing."""

    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def start(self, publish: Publish, halt: Halt) -> None:
        def note_and_publish(published: Published) -> None:
            self._diary.note("published", note=published.note.decode())
            publish(published)

        super().start(note_and_publish, halt)


class NotedDaemon(Daemon):
    """A daemon whose checkpoints are noted."""

    def __init__(self, config: Config, *, diary: Diary) -> None:
        super().__init__(config)
        self._diary = diary

    def _make_publisher(self, keys: Keys, ledger: Ledger) -> Publisher:
        return NotedPublisher(self._diary)


def main(directory: Path) -> None:
    """Live twice in *directory*."""
    diary = Diary(directory / "diary")
    live(directory, EAGER, first_life, diary)
    live(directory, IDLE, second_life, diary)
    diary.note("ended")


# -- around the run -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The *when*-th time, from 1, that one thread makes *call* on *path*, which is relative to ``data_dir``."""

    path: str
    call: str
    when: int


@dataclass(slots=True)
class Outcome:
    """What a run's diary has.

    Attributes:
        acknowledged: index → leaf hash.
        published: notes, in their order.
        reached: whether the fault came.
        status: the process's; negative: the signal that killed it.
    """

    directory: Path
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    published: list[bytes] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    unopened: list[str] = field(default_factory=list)
    ended: bool = False
    reached: bool = False
    status: int = 0
    talk: str = ""

    def describe(self) -> str:
        """Return in short what happened, for the message of a test that failed."""
        counts = f"{len(self.acknowledged)} acknowledged, {len(self.published)} published, refused {dict(self.refused)}"
        return f"status {self.status}, {counts}, unopened {self.unopened}, {self.talk[-1500:]}"

    @property
    def config(self) -> Config:
        """The configuration to open its directory with."""
        return make_config(self.directory)

    @property
    def tokens(self) -> dict[str, str]:
        """The tokens of its callers."""
        return dict(json.loads((self.directory / "tokens").read_text()))


def python_path() -> str:
    """Return where a process finds the tests' modules and the project's."""
    root = Path(__file__).parents[2]
    return os.pathsep.join(str(root / each) for each in ("tests", "", "clients/python"))


def run(directory: Path, template: Path, point: Point | None = None, fault: str = "") -> Outcome:
    """Run once in the new *directory* with the keys of *template*; traced in full without a point.

    Raises:
        subprocess.TimeoutExpired: it hung.
    """
    shutil.copytree(template, directory)
    data = directory / "data"
    trace = ["strace", "-f", "-qq", "-y", "-o", str(directory / "trace")]
    if point is None:
        trace += ["--seccomp-bpf", "-e", "trace=" + ",".join(CALLS)]
    else:
        # seccomp-bpf is quick, and loses the signal that should kill.
        trace += [] if "signal" in FAULTS[fault] else ["--seccomp-bpf"]
        trace += ["-P", str(data / point.path), "-e", "trace=" + ",".join(CALLS)]
        trace += ["-e", f"inject={point.call}:{FAULTS[fault].format(point.when)}"]
    done = subprocess.run(
        [*trace, sys.executable, "-m", "cases.faults", str(directory)],
        env={**os.environ, "PYTHONPATH": python_path(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    outcome = read_outcome(directory, status=done.returncode, talk=done.stderr)
    trace_text = (directory / "trace").read_text()
    outcome.reached = "(INJECTED)" in trace_text or "killed by SIGKILL" in trace_text
    return outcome


def read_outcome(directory: Path, *, status: int, talk: str) -> Outcome:
    """Return what the diary of an ended run has."""
    outcome = Outcome(directory, status=status, talk=talk)
    diary = directory / "diary"
    for line in diary.read_text().splitlines() if diary.exists() else ():
        match json.loads(line):
            case {"kind": "acknowledged", "index": index, "leaf_hash": leaf_hash}:
                outcome.acknowledged[index] = bytes.fromhex(leaf_hash)
            case {"kind": "published", "note": note}:
                outcome.published.append(note.encode())
            case {"kind": "refused", "code": code, "reason": reason}:
                outcome.refused[f"{code} {reason}"] += 1
            case {"kind": "unopened", "error": error, "text": text}:
                outcome.unopened.append(f"{error}: {text}")
            case {"kind": "ended"}:
                outcome.ended = True
    return outcome


def run_beside(directory: Path, template: Path, disturb: Callable[[Path], None]) -> Outcome:
    """Run once in the new *directory*, and call *disturb* with it again and again while a daemon has it open."""
    shutil.copytree(template, directory)
    with subprocess.Popen(
        [sys.executable, "-m", "cases.faults", str(directory)],
        env={**os.environ, "PYTHONPATH": python_path(), "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while process.poll() is None:
            if (directory / "data" / "ledger" / "CURRENT").exists():
                disturb(directory)
        _, talk = process.communicate(timeout=LIMIT_S)
    outcome = read_outcome(directory, status=process.returncode, talk=talk)
    outcome.reached = True
    return outcome


def is_sensible(point: "Point", fault: str) -> bool:
    """Report whether a fault can happen at a point: only a call that opens a file lacks a descriptor."""
    return fault != "no descriptor" or point.call == "openat"


_LINE = re.compile(r"^(\d+) +(\w+)\((?:\d+<([^>]*)>|(?:AT_FDCWD<[^>]*>, )?\"([^\"]*)\")(.*)$")


def read_trace(directory: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (thread, call, path relative to data_dir, rest of the line) of each traced call on the daemon's files."""
    data = directory / "data"
    for line in (directory / "trace").read_text().splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        thread, call, of_descriptor, named, rest = found.groups()
        path = Path(of_descriptor or named)
        if not path.is_relative_to(data) or (call == "openat" and "O_CREAT" not in rest):
            continue
        # RocksDB's log for people: no record depends on it, and it has many lines.
        if path.name.startswith("LOG") and call not in ("openat", "rename"):
            continue
        yield thread, call, str(path.relative_to(data)), rest


def points(directory: Path) -> list[Point]:
    """Return every point of the run that was traced in *directory*, in a fixed order."""
    counts = Counter((thread, call, path) for thread, call, path, _ in read_trace(directory))
    most: Counter[tuple[str, str]] = Counter()
    for (_, call, path), count in counts.items():
        most[path, call] = max(most[path, call], count)
    return sorted(Point(path, call, when) for (path, call), count in most.items() for when in range(1, count + 1))


def synced_bytes(directory: Path, path: str) -> int:
    """Return how many bytes of *path* were on disk for certain when the run in *directory* was killed."""
    written = synced = 0
    for _, call, of, rest in read_trace(directory):
        done = re.search(r"= (\d+)$", rest)
        if of == path and done is not None:
            written += int(done[1]) if call == "write" else 0
            synced = written if call == "fdatasync" else synced
    return synced


if __name__ == "__main__":
    main(Path(sys.argv[1]))
