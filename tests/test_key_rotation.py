"""The daemon replaces its log key and its statement key while it serves."""

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from cases.daemons import ORIGIN, Running, question, reason_of, request_id, running_daemon
from cases.fakes import HANG_S
from cases.ledgers import DAEMON, LOG, LedgerCase
from cases.operations import held_at
from cases.rotations import ROLES, check_followed, client, in_file, in_force, prepare, rotate, start
from cases.scrubs import damaged, scrub, write
from consentd.core import note
from consentd.core.checkpoint import Checkpoint, open_checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.rotation import RotationRole
from consentd.cosigning.publisher import ImmediatePublisher
from consentd.errors import ConsentdError, InvalidError, OverloadedError, PreconditionError
from consentd.ledger import layout
from consentd.ledger.rotations import kept_sizes, read_ledger_keys
from consentd.sequencer.commands.rotation import RotateKey
from consentd.server.keys import read_keys
from consentd.service.key_files import KeyFiles
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st
from consentd_client.admin import rotation_result

BOTH = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
NEW = KeyPair(b"\x31" * 32)
NEXT = KeyPair(b"\x32" * 32)


# -- with traffic -----------------------------------------------------------------------------------------------


def test_each_key_is_replaced_twice_while_accesses_are_recorded(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        first = read_keys(running.config).log.verifier
        ended, counts = threading.Event(), [0, 0]

        def ask(position: int) -> None:
            while not ended.is_set():
                running.authorize(question(subject))
                counts[position] += 1

        threads = [threading.Thread(target=ask, args=(position,)) for position in range(2)]
        for thread in threads:
            thread.start()
        try:
            done = [
                rotate(running, role)
                for role in (RotationRole.STATEMENT, RotationRole.LOG, RotationRole.STATEMENT, RotationRole.LOG)
            ]
        finally:
            ended.set()
            for thread in threads:
                thread.join(HANG_S)
        assert all(counts)
        for role in ROLES:
            mine = [one for one in done if one.role == ROLES[role]]
            assert mine[0].new_key == mine[1].old_key
            assert mine[1].new_key == in_force(running, role) == in_file(running, role)
            assert all(Path(one.replaced_key_file).stat().st_mode & 0o777 == 0o600 for one in mine)
        running.authorize(question(subject))
        services = running.wait_published()
        keys = read_ledger_keys(services.ledger.store, ORIGIN)
        assert [term.from_size - 1 for term in keys.log_terms] == kept_sizes(services.ledger.store)
        assert [one.from_size for one in done if one.role == st.ROTATION_ROLE_LOG] == [
            term.from_size for term in keys.log_terms
        ]
        assert check_followed(running, subject, first) == 3
        running.check_ledger()
    again = Running(running.config, running.tokens)
    try:
        again.authorize(question(subject))
        assert check_followed(again, subject, first) == 3
        again.check_ledger()
    finally:
        again.stop()


def test_an_idle_ledger_keeps_its_last_checkpoint_and_opens_with_the_new_log_key(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        done = rotate(running, RotationRole.LOG)
    # Nothing was written since: the tree of the last seal is smaller than from_size, and the old key is gone.
    Path(done.replaced_key_file).unlink()
    signed = running.config.ledger.last_signed_path.read_bytes()
    for _ in range(2):
        again = Running(running.config, running.tokens)
        try:
            services = again.wait_published()
            assert services.sequencer.checkpoints.latest().note == signed
            assert services.ledger.state.size == done.from_size - 1
        finally:
            again.stop()
    last = Running(running.config, running.tokens)
    try:
        last.enrol("SYN-000002")
        note_now = last.wait_published().sequencer.checkpoints.latest().note
        open_checkpoint(note_now, ORIGIN, note.Verifier(ORIGIN, done.new_key))
        last.check_ledger()
    finally:
        last.stop()


# -- the sequencer ----------------------------------------------------------------------------------------------


class HeldPublisher(ImmediatePublisher):
    """Publishes nothing while it is held.

    Attributes:
        lacks_quorum: what it publishes lacks the quorum of the witnesses.
    """

    def __init__(self) -> None:
        self.is_held, self.lacks_quorum = False, False
        self.waiting: tuple[Checkpoint, bytes] | None = None

    def offer(self, point: Checkpoint, note: bytes) -> None:
        if self.is_held:
            self.waiting = point, note
        else:
            super().offer(point, note)

    def is_cosigned(self, note: bytes) -> bool:
        return not self.lacks_quorum

    def release(self) -> None:
        self.is_held = False
        assert self.waiting is not None
        super().offer(*self.waiting)


def replaces(role: RotationRole, old: bytes, new: KeyPair = NEW) -> RotateKey:
    return RotateKey(role=role, old_key=old, new=new, reason="test")


LOG_KEY = LOG.verifier.public_key


def test_no_larger_tree_is_sealed_before_the_old_log_keys_last_checkpoint_is_kept(tmp_path: Path) -> None:
    publisher = HeldPublisher()
    case = LedgerCase(tmp_path, publisher=publisher)
    checkpoints = case.sequencer.checkpoints
    publisher.is_held = True
    written = case.write(replaces(RotationRole.LOG, LOG_KEY))
    assert written.entry is not None
    size = written.answer - 1
    assert (case.ledger.state.size, case.ledger.state.sealed_size) == (size, size)
    person = case.enrol("one")  # writes go on
    case.clock.advance(600_000)
    case.write(case.grant(person))
    case.sequencer.call(lambda: None)
    assert checkpoints.is_held
    assert case.ledger.state.sealed_size == size
    with pytest.raises(OverloadedError):
        case.write(replaces(RotationRole.STATEMENT, DAEMON.public_key))
    publisher.lacks_quorum = True
    publisher.release()
    case.sequencer.call(lambda: None)
    assert checkpoints.is_held
    assert kept_sizes(case.store) == []
    publisher.lacks_quorum = False
    case.sequencer.call(lambda: None)
    case.sequencer.call(lambda: None)  # the keys are changed after the calls of a turn
    assert not checkpoints.is_held
    assert kept_sizes(case.store) == [size]
    assert checkpoints.log_key == NEW.public_key
    point = case.seal()
    assert point.size > size
    open_checkpoint(case.notes[-1], LOG.name, note.Verifier(LOG.name, NEW.public_key))
    case.close()


def test_a_rotation_ends_its_batch(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    before = case.ledger.state.size
    rotation = replaces(RotationRole.STATEMENT, DAEMON.public_key)
    futures = case.write_together([case.participant("one"), rotation, case.participant("two")])
    entries = [future.result(HANG_S).entry for future in futures]
    # The participant, the rotation, the seal; then the other participant, signed by the new key.
    assert [entry.index for entry in entries if entry is not None] == [before, before + 1, before + 3]
    assert case.sequencer.statement_key == NEW.public_key
    case.close()


@BOTH
def test_a_key_that_was_used_before_replaces_none(tmp_path: Path, role: RotationRole) -> None:
    case = LedgerCase(tmp_path)
    old = LOG_KEY if role is RotationRole.LOG else DAEMON.public_key
    size = case.ledger.state.size
    for used in (LOG.key, DAEMON):
        with pytest.raises(PreconditionError):
            case.write(replaces(role, old, used))
    with pytest.raises(PreconditionError):
        case.write(replaces(role, NEXT.public_key))  # not in force
    assert case.ledger.state.size == size
    case.write(replaces(role, old))
    case.write(case.participant("one"))
    with pytest.raises(PreconditionError):
        case.write(replaces(role, old, NEXT))
    with pytest.raises(PreconditionError):
        case.write(replaces(role, NEW.public_key, LOG.key if role is RotationRole.LOG else DAEMON))
    case.write(replaces(role, NEW.public_key, NEXT))
    case.write(case.participant("two"))
    case.close()


def test_a_scrub_finds_damage_in_the_checkpoint_that_is_kept(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    size = case.write(replaces(RotationRole.LOG, LOG_KEY)).answer - 1
    assert scrub(case) == []
    case.write(case.participant("one"))
    case.seal()
    assert scrub(case) == []
    key = layout.kept_key(size)
    row = case.store.get(key)
    assert row is not None
    for at in random.Random(3).sample(range(len(row)), 40):
        assert len(damaged(case, case.store, key, row[:at] + bytes((row[at] ^ 1,)) + row[at + 1 :])) == 1, at
    for changed in (None, b"", row[:-1], row + b" ."):
        assert len(damaged(case, case.store, key, changed)) == 1
    stray = layout.kept_key(size + 1)
    write(case.store, stray, row)
    assert len(scrub(case)) == 1
    write(case.store, stray, None)
    assert scrub(case) == []
    case.close()


# -- calls ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_daemon(tmp_path_factory.mktemp("rotation"), retention_days=30) as daemon:
        yield daemon


def refused(call: Callable[[], object]) -> type[ConsentdError]:
    with pytest.raises(ConsentdError) as caught:
        call()
    return type(caught.value)


@BOTH
def test_a_key_is_prepared_once_and_its_file_is_private(running: Running, role: RotationRole) -> None:
    made = prepare(running, role)
    assert prepare(running, role) == made
    path = Path(made.key_file)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.new_key != in_force(running, role)
    if role is RotationRole.LOG:
        assert note.parse_vkey(made.verifier_key).public_key == made.new_key
    else:
        assert made.verifier_key == ""
    path.chmod(0o640)
    assert refused(lambda: prepare(running, role)) is InvalidError
    assert refused(lambda: start(running, role, made.new_key)) is InvalidError
    path.chmod(0o600)
    content = path.read_bytes()
    path.write_bytes(b"no key")
    assert refused(lambda: prepare(running, role)) is InvalidError
    path.write_bytes(content)
    assert refused(lambda: start(running, role, bytes(32))) is PreconditionError
    assert refused(lambda: start(running, role, made.new_key, reason="x" * 100_000)) is InvalidError
    path.unlink()
    assert refused(lambda: start(running, role, made.new_key)) is PreconditionError
    assert in_force(running, role) == in_file(running, role)


@BOTH
def test_the_key_in_force_replaces_not_itself(running: Running, role: RotationRole) -> None:
    files = KeyFiles(running.config)
    shutil.copy(files.path(role), files.next_path(role))
    assert refused(lambda: prepare(running, role)) is PreconditionError
    started = start(running, role, in_force(running, role))
    done = client(running).follow_operation(started.operation_id)
    assert refused(lambda: rotation_result(done)) is PreconditionError
    files.next_path(role).unlink()


def test_a_log_key_of_another_ledger_or_kind_is_none(running: Running) -> None:
    path = KeyFiles(running.config).next_path(RotationRole.LOG)
    for signer in (note.Signer("another.example", NEW), note.Signer(ORIGIN, NEW, note.COSIGNATURE)):
        path.write_text(note.format_signing_key(signer))
        path.chmod(0o600)
        assert refused(lambda: prepare(running, RotationRole.LOG)) is InvalidError
    path.unlink()


def test_an_unknown_role_is_refused(running: Running) -> None:
    metadata = running.as_("operator")
    for call in (
        lambda: running.admin.PrepareKeyRotation(ad.PrepareKeyRotationRequest(), metadata=metadata),
        lambda: running.admin.StartKeyRotation(
            ad.StartKeyRotationRequest(request_id=request_id(), role=9), metadata=metadata  # type: ignore[arg-type]
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert reason_of(caught.value) == "INVALID_REQUEST"


def test_a_key_that_the_operator_puts_in_place_is_taken(running: Running) -> None:
    path = KeyFiles(running.config).next_path(RotationRole.STATEMENT)
    path.write_text(NEW.seed.hex())
    path.chmod(0o600)
    assert rotate(running, RotationRole.STATEMENT).new_key == NEW.public_key
    assert not path.exists()
    path.write_text(NEW.seed.hex())
    path.chmod(0o600)
    assert refused(lambda: prepare(running, RotationRole.STATEMENT)) is PreconditionError
    path.unlink()
    running.enrol("SYN-000010")
    running.check_ledger()


def test_one_operation_at_a_time_and_a_repeat_is_the_same_one(running: Running) -> None:
    role = RotationRole.LOG
    made = prepare(running, role)
    request = ad.StartKeyRotationRequest(
        request_id=request_id(), role=ROLES[role], new_key=made.new_key, reason="planned"
    )
    metadata = running.as_("operator")
    with held_at(ad.OPERATION_STEP_PUBLISHING) as held:
        first = running.admin.StartKeyRotation(request, metadata=metadata).operation
        assert held.reached.wait(HANG_S)
        assert running.admin.StartKeyRotation(request, metadata=metadata).operation.operation_id == first.operation_id
        for call in (
            lambda: start(running, role, made.new_key),
            lambda: client(running).start_pruning(dry_run=True),
        ):
            with pytest.raises(PreconditionError) as caught:
                call()
            assert caught.value.reason == "OPERATION_RUNNING"
    done = client(running).follow_operation(first.operation_id)
    assert rotation_result(done).new_key == made.new_key
    # The file of the new key has moved since, and the repeat is still the same operation.
    assert running.admin.StartKeyRotation(request, metadata=metadata).operation.operation_id == first.operation_id
    request.reason = "another"
    with pytest.raises(grpc.RpcError) as refusal:
        running.admin.StartKeyRotation(request, metadata=metadata)
    assert reason_of(refusal.value) == "REQUEST_ID_REUSED"


def test_a_pruning_and_a_rotation_do_not_run_at_once(running: Running) -> None:
    made = prepare(running, RotationRole.STATEMENT)
    with held_at(ad.OPERATION_STEP_PLANNING) as held:
        pruning = client(running).start_pruning(dry_run=True)
        assert held.reached.wait(HANG_S)
        with pytest.raises(PreconditionError) as caught:
            start(running, RotationRole.STATEMENT, made.new_key)
        assert caught.value.reason == "OPERATION_RUNNING"
    client(running).follow_operation(pruning.operation_id)
    assert rotate(running, RotationRole.STATEMENT).new_key == made.new_key
