"""A daemon and its witnesses: what callers see while cosignatures are late, and what they see once they come."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cases.daemons import question
from cases.witnessed_ledgers import Witnessed, in_background
from cases.witnesses import WAIT_S, FakeWitness, status
from consentd.core import checkpoint
from consentd.core.kinds import EntryKind
from consentd.core.quorum import parse_policy, verify_cosigned
from consentd.cosigning.connection import Connection
from consentd.cosigning.keyfiles import read_mldsa_key
from consentd.errors import CorruptionError, InvalidError, NotFoundError, SignatureError, StorageError
from consentd.ledger import reads
from consentd.service import servicer
from consentd.v1 import consent_pb2 as pb
from consentd_client import Client

OUTAGE_MS = 200
"""A short timeout, for tests that stop the witness: a daemon that drains waits that long for it."""
outage = pytest.mark.parametrize("witnessed", [OUTAGE_MS], indirect=True)


@pytest.fixture
def witnessed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Witnessed]:
    """A daemon with one witness; the timeout is so long that no busy machine takes it for an outage."""
    timeout_ms = getattr(request, "param", 20_000)
    made = Witnessed(tmp_path, extra=f"timeout_ms = {timeout_ms}\nrecosign_interval_ms = 60000")
    made.fake = FakeWitness("w.test/1", made.log)  # type: ignore[attr-defined]
    made.write_policy(made.fake.line)  # type: ignore[attr-defined]
    yield made
    made.fake.stop()  # type: ignore[attr-defined]
    made.stop()


def fake(witnessed: Witnessed) -> FakeWitness:
    return witnessed.fake  # type: ignore[attr-defined,no-any-return]


def kinds(client: Client, subject: pb.Subject) -> list[EntryKind]:
    return [EntryKind(entry.kind) for entry in client.history(subject).entries]


@outage
def test_histories_are_proven_at_the_published_checkpoint_however_far_behind(
    witnessed: Witnessed, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = witnessed.start()
    running.register()
    first, second = running.enrol("SYN-000001"), running.enrol("SYN-000002")
    running.grant(first)
    size = witnessed.wait_published()
    fake(witnessed).stop()
    # Many seals that nobody cosigns: each changes chains that are proven below, as they stood before.
    for number in range(30):
        running.authorize(question(first))
        running.authorize(question(second))
        if number % 10 == 0:
            running.enrol(f"SYN-1{number:05}")
    assert witnessed.services.sequencer.checkpoints.signed.size > size
    assert witnessed.services.sequencer.checkpoints.published.checkpoint.size == size
    with witnessed.client() as client:
        before = [kinds(client, first), kinds(client, second)]
        assert client.get_checkpoint().size == size
        receipt = client.enrol(pb.Subject(scheme="mhid", value="SYN-3"), method="test").receipt
        with monkeypatch.context() as patch:
            patch.setattr(servicer, "MAX_WAIT_S", 0.1)
            assert client.get_receipt(receipt).proof == b""  # written, and not published
    assert before == [[EntryKind.ENROL, EntryKind.GRANT], [EntryKind.ENROL]]
    fake(witnessed).start(fake(witnessed).port)
    witnessed.wait_published()
    with witnessed.client() as client:
        assert client.get_receipt(receipt).proof
        after = [kinds(client, first), kinds(client, second)]
    assert [len(each) for each in after] == [2 + 30, 1 + 30]
    assert running.check_ledger() == witnessed.services.ledger.state.size


def test_histories_keep_up_with_a_slow_witness(witnessed: Witnessed) -> None:
    """Seals come faster than cosignatures; a history asked for at any moment is proven at once."""
    running = witnessed.start()
    running.register()
    subject = running.enrol("SYN-000001")
    witnessed.wait_published()
    lengths = []
    with witnessed.client() as client:
        for _ in range(12):
            held = fake(witnessed).hold()
            running.authorize(question(subject))
            held.wait_asked()
            for _ in range(3):
                running.authorize(question(subject))
            lengths.append(len(client.history(subject).entries))
            held.release()
        witnessed.wait_published()
        assert len(client.history(subject).entries) == 1 + 48
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]
    assert all(length < 1 + 4 * (location + 1) for location, length in enumerate(lengths))
    assert witnessed.metric("witness_answers_total", witness="w1", answer="cosigned") > 12


def test_without_a_quorum_writes_go_on_and_health_says_so(witnessed: Witnessed) -> None:
    running = witnessed.start()
    running.register()
    size = witnessed.wait_published()
    assert json.loads(witnessed.get("/healthz"))["quorum"] is True
    fake(witnessed).script.extend([status(503)] * 3)
    subject = running.enrol("SYN-000001")
    fake(witnessed).wait_asked(len(fake(witnessed).asked) + 1)
    running.grant(subject)
    published = in_background(lambda: witnessed.services.sequencer.checkpoints.wait(size + 1, 30))
    published.join(30)
    witnessed.wait_published()
    with witnessed.client() as client:
        assert kinds(client, subject) == [EntryKind.ENROL, EntryKind.GRANT]


@outage
def test_a_start_without_witnesses_serves_what_was_published(witnessed: Witnessed) -> None:
    running = witnessed.start()
    running.register()
    subject = running.enrol("SYN-000001")
    size = witnessed.wait_published()
    fake(witnessed).stop()
    witnessed.stop()
    running = witnessed.start()
    with witnessed.client() as client:
        assert client.get_checkpoint().size == size
        assert kinds(client, subject) == [EntryKind.ENROL]
        granted = running.grant(subject)
        assert granted
        assert kinds(client, subject) == [EntryKind.ENROL]
    assert json.loads(witnessed.get("/healthz"))["status"] == "ok"
    fake(witnessed).start(fake(witnessed).port)
    witnessed.wait_published()
    with witnessed.client() as client:
        assert kinds(client, subject) == [EntryKind.ENROL, EntryKind.GRANT]


@outage
def test_a_new_ledger_without_witnesses_publishes_nothing(witnessed: Witnessed) -> None:
    fake(witnessed).stop()
    running = witnessed.start()
    running.register()
    subject = running.enrol("SYN-000001")
    with witnessed.client() as client:
        for call in (client.get_checkpoint, lambda: client.history(subject)):
            with pytest.raises(NotFoundError) as caught:
                call()
            assert caught.value.reason == "NOT_FOUND"
        assert client.check(question(subject)).outcome != pb.OUTCOME_PERMIT


@outage
def test_what_is_signed_and_not_published_is_shown_to_auditors_alone(witnessed: Witnessed) -> None:
    """A witness that is to cosign the first checkpoint must have all of it: of a pruned ledger, tiles as well."""
    fake(witnessed).stop()
    running = witnessed.start()
    running.register()
    sequencer = witnessed.services.sequencer
    deadline = time.monotonic() + WAIT_S
    while sequencer.checkpoints.signed.size < witnessed.services.ledger.state.size and time.monotonic() < deadline:
        sequencer.checkpoints.wait(1, 0.02)
    size = sequencer.checkpoints.signed.size
    assert sequencer.checkpoints.published is None
    for who, found in (("pipc", 200), ("operator", 200), ("clinic-b", 404), (None, 404)):
        headers = {} if who is None else {"Authorization": f"Bearer {witnessed.tokens[who]}"}
        connection = Connection(witnessed.log_url, timeout_s=WAIT_S, headers=headers)
        tile = connection.request("GET", f"/tile/0/000.p/{size}")
        assert (who, tile.status) == (who, found)
        assert tile.status == 404 or len(tile.body) == 32 * size
        assert connection.request("GET", f"/tile/0/000.p/{size + 1}").status == 404
        connection.release()


def test_a_witness_that_knows_more_stops_the_daemon(witnessed: Witnessed) -> None:
    running = witnessed.start()
    running.register()
    witnessed.wait_published()
    fake(witnessed).size = 10**6
    running.enrol("SYN-000001")  # its seal is what the witness is asked about
    assert witnessed.services.sequencer.checkpoints.wait(10**6, 30) is None  # ends with the fault
    with pytest.raises(grpc.RpcError) as refused:
        running.enrol("SYN-000002")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert isinstance(witnessed.services.sequencer.fault, CorruptionError)
    assert witnessed.metric("ready") == 0
    assert witnessed.metric("witness_alarms_total", alarm="larger") == 1
    witnessed.stop()
    with pytest.raises(CorruptionError):
        witnessed.start()


def test_a_policy_that_is_none_keeps_the_daemon_from_starting(witnessed: Witnessed) -> None:
    path = witnessed.config.witness.policy_file
    assert path is not None
    good = path.read_text()
    for text, error, message in (
        ("quorum nobody\n", InvalidError, "witness policy is malformed: .* line 1: quorum is not defined"),
        (good.replace(fake(witnessed).url, ""), InvalidError, "no quorum among the witnesses"),
    ):
        path.write_text(text)
        with pytest.raises(error, match=message):
            witnessed.start()
    path.unlink()
    with pytest.raises(StorageError):
        witnessed.start()


def test_a_second_log_signature_is_ml_dsa(tmp_path: Path) -> None:
    mldsa = pytest.importorskip("consentd.cosigning.mldsa")
    made = Witnessed(tmp_path, keys="keys/log-mldsa.key")
    made.config = dataclasses.replace(made.config, witness=type(made.config.witness)())
    running = made.start()
    try:
        running.register()
        made.wait_published()
        signed = made.get("/checkpoint")
        key = read_mldsa_key(tmp_path / "keys/log-mldsa.key").verifier
        point, opened = checkpoint.open_checkpoint(signed, made.log.name, made.log, witnesses=[key])
        assert len(opened.verified) == 2
        leaf = reads.read_entry(made.services.ledger.store, reads.codec.public_tag("ledger"), 1)
        salt_and_statement = reads.open_entry(made.services.vault, leaf)
        assert salt_and_statement is not None
        assert mldsa.format_mldsa_vkey(key).encode() in salt_and_statement[1]
        policy = f"log {mldsa.format_mldsa_vkey(key)}\nquorum none\n".encode()
        found = verify_cosigned(
            signed, parse_policy(policy, parse_mldsa=mldsa.parse_mldsa_vkey), now_s=int(time.time())
        )
        assert found.checkpoint == point
        with pytest.raises(SignatureError):
            verify_cosigned(signed, parse_policy(policy), now_s=int(time.time()))
    finally:
        made.stop()
