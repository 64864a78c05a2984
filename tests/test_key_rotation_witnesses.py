"""A log key is replaced under the quorum of witnesses: the last checkpoint of the old key waits for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.daemons import ORIGIN, question
from cases.fakes import HANG_S
from cases.operations import held_at
from cases.rotations import prepare, start
from cases.witnessed_ledgers import OurWitness, Witnessed
from consentd.audit.checkpoints import Witnesses
from consentd.audit.live import LiveDaemon
from consentd.audit.verify import verify_ledger
from consentd.core import note
from consentd.core.checkpoint import is_signed_by, open_checkpoint
from consentd.core.quorum import parse_policy, verify_cosigned
from consentd.core.rotation import RotationRole
from consentd.errors import OperationCancelledError, PreconditionError, SignatureError
from consentd.ledger.rotations import kept_sizes, read_kept
from consentd.v1 import admin_service_pb2 as ad
from consentd_client.admin import rotation_result

LOG = RotationRole.LOG


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Witnessed, OurWitness]]:
    witnessed = Witnessed(tmp_path, extra="timeout_ms = 1000\n")
    ours = OurWitness(witnessed)
    witnessed.write_policy(ours.line)
    ours.start()
    witnessed.start().register()
    yield witnessed, ours
    witnessed.stop()
    ours.stop()


def announce(witnessed: Witnessed, ours: OurWitness, vkey: str) -> None:
    """Let the daemon's policy and the witness know the next log key; start both again."""
    path = witnessed.config.witness.policy_file
    assert path is not None
    path.write_text(f"log {vkey}\n{path.read_text()}")
    witnessed.stop()
    ours.stop()
    ours.text += f'next_vkey = "{vkey}"\n'
    ours.start()
    witnessed.start()


def test_the_quorum_is_waited_for_through_an_outage_a_cancellation_and_a_restart(
    both: tuple[Witnessed, OurWitness],
) -> None:
    witnessed, ours = both
    running = witnessed.running
    assert running is not None
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    witnessed.wait_published()
    made = prepare(running, LOG)
    with pytest.raises(PreconditionError):  # the policy names the old log key alone
        start(running, LOG, made.new_key)
    announce(witnessed, ours, made.verifier_key)
    running = witnessed.running
    assert running is not None
    assert prepare(running, LOG) == made
    size = witnessed.wait_published()
    ours.stop()
    with held_at(ad.OPERATION_STEP_PUBLISHING, 2) as held:
        operation = start(running, LOG, made.new_key)
        assert held.reached.wait(HANG_S)
        checkpoints = witnessed.services.sequencer.checkpoints
        assert checkpoints.is_held
        running.authorize(question(subject))  # writes go on
        with witnessed.client("operator") as client:
            assert not client.cancel_operation(operation.operation_id).done
        held.wait_ended()
    with witnessed.client("operator") as client:
        done = client.follow_operation(operation.operation_id)
    with pytest.raises(OperationCancelledError):
        rotation_result(done)
    assert checkpoints.is_held
    assert checkpoints.published.checkpoint.size == size
    sealed = witnessed.services.ledger.state.sealed_size
    witnessed.stop()
    running = witnessed.start()
    checkpoints = witnessed.services.sequencer.checkpoints
    assert checkpoints.is_held
    running.authorize(question(subject))
    assert (witnessed.services.ledger.state.sealed_size, kept_sizes(witnessed.services.ledger.store)) == (sealed, [])
    ours.start()
    assert witnessed.wait_published() > sealed
    assert not checkpoints.is_held
    store = witnessed.services.ledger.store
    assert kept_sizes(store) == [sealed]
    policy = parse_policy(witnessed.policy)
    kept = read_kept(store, sealed).checkpoint
    assert verify_cosigned(kept, policy, now_s=0, max_age_s=None).checkpoint.size == sealed
    new = note.Verifier(ORIGIN, made.new_key)
    open_checkpoint(witnessed.get("/checkpoint"), ORIGIN, new)
    assert not is_signed_by(note.parse_note(witnessed.get("/checkpoint")).unverified, witnessed.log)
    # The reader's own policy names the first log key. The client adds the one that it has reached.
    with witnessed.client() as client:
        assert [one.vkey for one in client.history(subject).log_keys] == [
            note.format_vkey(witnessed.log), made.verifier_key,
        ]  # fmt: skip
        assert client.get_checkpoint().size == witnessed.wait_published()
    live = LiveDaemon(url=witnessed.log_url, token=witnessed.tokens["operator"])
    report = verify_ledger(live, origin=ORIGIN, log_verifier=witnessed.log, witnesses=Witnesses(policy=policy))
    assert (report.faults, len(report.followed)) == ((), 2)
    stranger = parse_policy(
        b"witness other "
        + note.format_vkey(note.Signer("w.test/other", witness_key(), note.COSIGNATURE).verifier).encode()
        + b"\nquorum other\n"
    )
    with pytest.raises(SignatureError):
        verify_ledger(live, origin=ORIGIN, log_verifier=witnessed.log, witnesses=Witnesses(policy=stranger))
    running.check_ledger()


def witness_key() -> note.KeyPair:
    return note.KeyPair(b"o" * 32)


def test_without_a_quorum_no_rotation_of_the_log_key_begins(both: tuple[Witnessed, OurWitness]) -> None:
    witnessed, ours = both
    running = witnessed.running
    assert running is not None
    made = prepare(running, LOG)
    announce(witnessed, ours, made.verifier_key)
    running = witnessed.running
    assert running is not None
    witnessed.wait_published()
    ours.stop()
    running.enrol("SYN-000002")
    publisher = witnessed.services.sequencer.checkpoints.publisher
    while publisher.has_quorum:  # until the timeout of the checkpoint that nobody cosigns
        witnessed.services.sequencer.checkpoints.wait(1 << 40, 0.05)
    with pytest.raises(PreconditionError):
        start(running, LOG, made.new_key)
    ours.start()
    witnessed.wait_published()
    running.check_ledger()
