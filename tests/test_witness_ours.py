"""Our own witness: it cosigns what it replayed and nothing else, from a real daemon, across restarts."""

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.daemons import question
from cases.witnessed_ledgers import WAIT_S, OurWitness, Witnessed
from cases.witnesses import FakeWitness
from consentd.core import checkpoint, ed25519, merkle, note
from consentd.core.checkpoint import Checkpoint
from consentd.core.quorum import parse_policy, verify_cosigned
from consentd.core.submission import SIZE_TYPE
from consentd.cosigning.connection import Connection
from consentd.errors import CorruptionError, InvalidError, SignatureError, StorageError
from consentd.ledger import reads
from consentd.witnessd.config import load_witness_config, parse_witness_config
from consentd.witnessd.daemon import Witness, make_witness_key
from consentd.witnessd.follower import read_cache


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Witnessed, OurWitness]]:
    witnessed = Witnessed(tmp_path, extra="timeout_ms = 1000")
    ours = OurWitness(witnessed)
    witnessed.write_policy(ours.line)
    ours.start()
    witnessed.start().register()
    yield witnessed, ours
    witnessed.stop()
    ours.stop()


def test_it_cosigns_what_the_daemon_writes_and_clients_accept_it(both: tuple[Witnessed, OurWitness]) -> None:
    witnessed, _ = both
    assert witnessed.running is not None
    subject = witnessed.running.enrol("SYN-000001")
    witnessed.running.grant(subject)
    for _ in range(5):
        witnessed.running.authorize(question(subject))
        witnessed.wait_published()
    with witnessed.client() as client:
        history = client.history(subject)
        assert len(history.entries) == 1 + 1 + 5
        point = client.get_checkpoint()
    assert point.size == witnessed.wait_published()
    opened = verify_cosigned(witnessed.get("/checkpoint"), parse_policy(witnessed.policy), now_s=int(time.time()))
    assert opened.checkpoint == point
    assert [name for name, _ in opened.cosignatures] == ["ours"]
    with witnessed.client(policy=parse_other(witnessed)) as stranger, pytest.raises(SignatureError):
        stranger.get_checkpoint()
    assert witnessed.running.check_ledger() == point.size


def parse_other(witnessed: Witnessed) -> bytes:
    other = note.Signer("w.test/other", ed25519.KeyPair(b"o" * 32), note.COSIGNATURE)
    return f"witness other {note.format_vkey(other.verifier)}\nquorum other\n".encode()


def test_it_goes_on_after_a_restart_without_reading_all_again(both: tuple[Witnessed, OurWitness]) -> None:
    witnessed, ours = both
    assert witnessed.running is not None
    subject = witnessed.running.enrol("SYN-000001")
    size = witnessed.wait_published()
    ours.stop()
    (cache,) = ours.state("replay")
    assert read_cache(cache, 6).size == size
    witnessed.running.grant(subject)
    ours.start()
    assert witnessed.wait_published() == size + 2
    ours.stop()
    cache.write_bytes(cache.read_bytes()[:-1])  # a cache that is damaged is only slower
    assert read_cache(cache, 6).size == 0
    witnessed.running.authorize(question(subject))
    ours.start()
    assert witnessed.wait_published() == size + 4
    assert witnessed.metric("witness_alarms_total", alarm="other_tree") == 0


def test_a_cached_replay_goes_on_like_the_one_it_was_made_of(both: tuple[Witnessed, OurWitness]) -> None:
    witnessed, ours = both
    size = witnessed.wait_published()
    ours.stop()
    (cache,) = ours.state("replay")
    replay = read_cache(cache, 9)
    leaves = reads.read_leaves(witnessed.services.ledger.store, 0, size)
    whole = type(replay)(9)
    for leaf in leaves:
        whole.add(leaf)
    assert replay.root() == whole.root() == witnessed.services.ledger.state.root
    assert replay.map_root() == whole.map_root() == witnessed.services.ledger.state.map_root
    assert (replay.heads, replay.buckets, replay.time_ms) == (whole.heads, whole.buckets, whole.time_ms)
    assert (replay.seal_hash, replay.sealed_size) == (whole.seal_hash, whole.sealed_size)


def test_it_refuses_a_planted_wrong_seal_and_keeps_the_evidence(both: tuple[Witnessed, OurWitness]) -> None:
    witnessed, ours = both
    assert witnessed.running is not None
    size = witnessed.wait_published()
    services = witnessed.services

    def plant() -> None:
        # The operator hides a chain's last entries: some bucket's root is another one than its entries give.
        top = services.ledger.map.top
        bucket = next(number for number in range(1 << top.map_bits) if top.bucket_root(number) is not None)
        top.update({bucket: bytes(31) + b"\1"})

    services.sequencer.call(plant)
    subject = witnessed.running.enrol("SYN-000001")
    deadline = time.monotonic() + WAIT_S
    while not ours.state("evidence-*") and time.monotonic() < deadline:
        services.sequencer.checkpoints.wait(size + 1, 0.05)
    (evidence,) = ours.state("evidence-*")
    signed, _ = checkpoint.open_checkpoint(evidence.read_bytes(), witnessed.log.name, witnessed.log)
    assert signed.size > size
    assert services.sequencer.checkpoints.published.checkpoint.size == size
    witnessed.running.grant(subject)  # writes are acknowledged all the same
    assert services.sequencer.checkpoints.wait(size + 1, 0.2) is None
    assert witnessed.metric("witness_alarms_total", alarm="other_tree") >= 1
    proof = tuple(reads.prove_consistency(services.ledger.store, size, signed.size))
    answer = ours.post(size, proof, evidence.read_bytes())
    assert answer.status == 422
    assert b"map root is not that of the chains" in answer.body


# -- the protocol, answer by answer ---------------------------------------------------------------------------------


class Submitted:
    """A daemon with something published by a fake witness, and our witness beside it, asked by hand."""

    def __init__(self, directory: Path) -> None:
        self.witnessed = Witnessed(directory)
        self.fake = FakeWitness("fake.test/1", self.witnessed.log)
        self.witnessed.write_policy(self.fake.line)
        self.ours = OurWitness(self.witnessed)
        self.ours.start()
        self.witnessed.start().register()
        self.notes: list[bytes] = []

    def grow(self) -> tuple[Checkpoint, bytes]:
        """Write something; return the new checkpoint and its note."""
        running = self.witnessed.running
        assert running is not None
        running.enrol(f"SYN-{len(self.notes):06}")
        self.witnessed.wait_published()
        signed = self.witnessed.get("/checkpoint")
        self.notes.append(signed)
        return checkpoint.open_checkpoint(signed, self.witnessed.log.name, self.witnessed.log)[0], signed

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return tuple(reads.prove_consistency(self.witnessed.services.ledger.store, old, new))

    def signed(self, size: int, root: bytes, seed_of: str = "log") -> bytes:
        """Sign what is not the log's tree, with its key or another one of its name."""
        seed = note.parse_signing_key(self.witnessed.config.keys.log_key_file.read_text()).key.seed
        key = ed25519.KeyPair(seed if seed_of == "log" else b"x" * 32)
        return checkpoint.sign_checkpoint(
            Checkpoint(self.witnessed.log.name, size, root), [note.Signer(self.witnessed.log.name, key)]
        )

    def close(self) -> None:
        self.fake.stop()
        self.ours.stop()
        self.witnessed.stop()


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    made = Submitted(tmp_path_factory.mktemp("submitted"))
    first, signed = made.grow()
    assert made.ours.post(0, (), signed).status == 200
    made.first = first  # type: ignore[attr-defined]
    yield made
    made.close()


def test_the_answers_come_in_the_specified_order(submitted: Submitted) -> None:
    ours, old = submitted.ours, submitted.first.size  # type: ignore[attr-defined]
    point, signed = submitted.grow()
    proof = submitted.proof(old, point.size)
    bad = proof[:-1]
    stranger = checkpoint.sign_checkpoint(
        Checkpoint("other.test/log", 3, bytes(32)), [note.Signer("other.test/log", ed25519.KeyPair(b"y" * 32))]
    )
    foreign_key = submitted.signed(point.size, point.root, "another")
    garbled = signed.replace(note.encode_base64(point.root).encode(), note.encode_base64(bytes(32)).encode())
    assert ours.post_body(b"old 0\n").status == 400
    assert ours.post(99, bad, stranger).status == 404  # before signature, sizes and proof
    assert ours.post(10**6, bad, foreign_key).status == 403  # before sizes
    assert ours.post(10**6, bad, garbled).status == 403
    assert ours.post(point.size + 1, bad, signed).status == 400  # before the size that is known
    conflict = ours.post(old - 1, bad, signed)  # before the proof
    assert (conflict.status, conflict.content_type, conflict.body) == (409, SIZE_TYPE, b"%d\n" % old)
    assert ours.post(0, (), signed).status == 409
    assert ours.post(old, bad, signed).status == 422
    assert ours.post(old, (), signed).status == 422
    assert ours.post(old, proof, submitted.signed(point.size, bytes(32))).status == 422
    assert ours.post(old, (), submitted.signed(old, bytes(32))).status == 422  # same size, another root
    cosigned = ours.post(old, proof, signed)
    assert cosigned.status == 200
    assert cosigned.body.startswith("— witness.test/ours ".encode())
    assert ours.post(point.size, (), signed).status == 200  # again, for a fresh time
    submitted.first = point  # type: ignore[attr-defined]


def test_a_witness_without_a_state_looks_at_the_proof_from_nothing(submitted: Submitted, tmp_path: Path) -> None:
    ours = submitted.ours
    config = parse_witness_config(ours.text.replace('"state"', f'"{tmp_path}"'), base_dir=ours.directory)
    witness = Witness(config)
    _, signed = submitted.grow()
    assert witness.add_checkpoint(b"old 0\n" + note.encode_base64(bytes(32)).encode() + b"\n\n" + signed).status == 422
    nought = submitted.signed(0, merkle.EMPTY_ROOT)
    assert witness.add_checkpoint(b"old 0\n\n" + submitted.signed(1, bytes(32))).status == 503
    wrong = nought.replace(note.encode_base64(merkle.EMPTY_ROOT).encode(), note.encode_base64(bytes(32)).encode())
    assert witness.add_checkpoint(b"old 0\n\n" + wrong).status == 403
    assert witness.add_checkpoint(b"old 0\n\n" + signed).status == 200
    witness.close()


def test_pages_that_are_none(submitted: Submitted) -> None:
    ours = submitted.ours
    assert ours.post_body(b"old 0\n\nx", "/elsewhere").status == 404
    assert ours.post_body(b"x" * 300_000).status == 413


def test_the_last_cosigned_note_can_be_read(submitted: Submitted) -> None:
    witness = submitted.ours.server
    assert witness is not None
    (path,) = submitted.ours.state("checkpoint")
    found = witness.witness.checkpoint(path.name.removesuffix(".checkpoint"))
    assert found == path.read_bytes()
    log, key = submitted.witnessed.log, submitted.ours.signer.verifier
    point, opened = checkpoint.open_checkpoint(found, log.name, log, witnesses=[key])
    assert point == submitted.first  # type: ignore[attr-defined]
    assert [line.name for line in opened.verified] == [log.name, "witness.test/ours"]
    assert witness.witness.checkpoint("0" * 64) is None


def test_entries_that_are_not_to_be_had_are_asked_for_again(submitted: Submitted) -> None:
    ours, old = submitted.ours, submitted.first  # type: ignore[attr-defined]
    ghost = submitted.signed(old.size + 500, bytes(32))
    assert ours.post(old.size, submitted.proof(old.size, old.size), ghost).status == 422
    point, signed = submitted.grow()
    server = ours.server
    assert server is not None
    follower = next(iter(server.witness._logs.values())).follower
    kept, follower._source.connection._headers = follower._source.connection._headers, {}
    assert ours.post(old.size, submitted.proof(old.size, point.size), signed).status == 503
    follower._source.connection._headers = kept
    assert ours.post(old.size, submitted.proof(old.size, point.size), signed).status == 200
    submitted.first = point  # type: ignore[attr-defined]


# -- what it is given ----------------------------------------------------------------------------------------------


def test_a_state_that_is_not_its_own_is_refused(submitted: Submitted, tmp_path: Path) -> None:
    (path,) = submitted.ours.state("checkpoint")
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-9] + b"AAAAAAA=\n")
    text = submitted.ours.text.replace('"state"', f'"{tmp_path}"')
    with pytest.raises(CorruptionError):
        Witness(parse_witness_config(text, base_dir=submitted.ours.directory))


def test_it_goes_on_under_the_new_key_of_a_log(submitted: Submitted, tmp_path: Path) -> None:
    """The operator names the new key. What the witness cosigned under the old one is still its state."""
    (path,) = submitted.ours.state("checkpoint")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    log = submitted.witnessed.log
    new = note.Signer(log.name, ed25519.KeyPair(b"x" * 32))
    text = submitted.ours.text.replace('"state"', f'"{tmp_path}"')
    text = text.replace(note.format_vkey(log), note.format_vkey(new.verifier))
    witness = Witness(parse_witness_config(text, base_dir=submitted.ours.directory))
    point = submitted.first  # type: ignore[attr-defined]
    assert witness.checkpoint(path.name.removesuffix(".checkpoint")) == path.read_bytes()
    by_old, by_new = (submitted.signed(point.size, point.root, one) for one in ("log", "new"))
    assert witness.add_checkpoint(b"old %d\n\n" % point.size + by_old).status == 403
    assert witness.add_checkpoint(b"old %d\n\n" % point.size + by_new).status == 200
    witness.close()


def test_it_cosigns_under_both_keys_until_it_has_cosigned_one_of_the_next(
    submitted: Submitted, tmp_path: Path
) -> None:
    (path,) = submitted.ours.state("checkpoint")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    new = note.Signer(submitted.witnessed.log.name, ed25519.KeyPair(b"x" * 32))
    text = submitted.ours.text.replace('"state"', f'"{tmp_path}"')
    text = text.replace("vkey =", f'next_vkey = "{note.format_vkey(new.verifier)}"\nvkey =')
    point = submitted.first  # type: ignore[attr-defined]
    by_old, by_new = (submitted.signed(point.size, point.root, one) for one in ("log", "new"))
    by_other = checkpoint.sign_checkpoint(point, [note.Signer(new.name, ed25519.KeyPair(b"y" * 32))])
    begin = b"old %d\n\n" % point.size
    witness = Witness(parse_witness_config(text, base_dir=submitted.ours.directory))
    assert [witness.add_checkpoint(begin + one).status for one in (by_other, by_old, by_new)] == [403, 200, 200]
    assert [witness.add_checkpoint(begin + one).status for one in (by_old, by_new)] == [403, 200]
    witness.close()
    again = Witness(parse_witness_config(text, base_dir=submitted.ours.directory))
    assert [again.add_checkpoint(begin + one).status for one in (by_old, by_new)] == [403, 200]
    again.close()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("vkey =", 'next_vkey = "x"\nvkey ='), InvalidError, "`log.next_vkey` is malformed"),
        (('"witness.key"', '"none.key"'), StorageError, "secret file cannot be read"),
        (('"witness.key"', '"token"'), InvalidError, "key file holds no signing key"),
        (('key_file = "witness.key"', 'key_file = "../keys/log.key"'), InvalidError, "does not hold a witness's key"),
        (('token_file = "token"', 'token_file = "none"'), StorageError, "secret file cannot be read"),
        (("http://127.0.0.1", "http://log.example"), InvalidError, "sent in the clear to another machine"),
        (("map_bits = 6", "map_bits = 25"), InvalidError, "`witness.map_bits` is out of bounds"),
        (("map_bits = 6", "map_bit = 6"), InvalidError, "unknown key `witness.map_bit`"),
        (("[[log]]", "[log]"), InvalidError, "`log` is not a list of sections"),
        (("vkey =", "key ="), InvalidError, "unknown key `log.key`"),
        (('vkey = "', 'vkey = "x'), InvalidError, "`log.vkey` is malformed"),
        (("127.0.0.1:", "0.0.0.0:"), InvalidError, "reachable from other machines"),
        (("[witness]", "[witness"), InvalidError, "not TOML"),
    ],
)
def test_what_is_wrong_with_its_configuration_is_named(
    submitted: Submitted, tmp_path: Path, change: tuple[str, str], error: type[Exception], message: str
) -> None:
    text = submitted.ours.text.replace('"state"', f'"{tmp_path}"').replace(*change)
    with pytest.raises(error, match=message):
        Witness(parse_witness_config(text, base_dir=submitted.ours.directory))


def test_the_example_loads_and_names_every_option(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "ops" / "witness.toml"
    example = load_witness_config(path)
    assert example.log[0].verifier().name == "consent.example.org/2025"
    text = path.read_text(encoding="utf-8")
    for section in (example, example.witness, example.log[0]):
        for field in dataclasses.fields(section):
            assert re.search(rf"^(# )?\[*{re.escape(field.name)}", text, re.MULTILINE), field.name
    with pytest.raises(InvalidError):
        load_witness_config(tmp_path / "none.toml")


def test_a_new_key_is_a_witnesss_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "witness.key"
    vkey = make_witness_key(path, "witness.test/new")
    signer = note.parse_signing_key(path.read_text())
    assert (note.format_vkey(signer.verifier), signer.kind) == (vkey, note.COSIGNATURE)
    assert path.stat().st_mode & 0o777 == 0o600
    parse_policy(f"witness new {vkey}\nquorum new\n".encode())
    with pytest.raises(StorageError):
        make_witness_key(path, "witness.test/new")
    with pytest.raises(InvalidError):
        make_witness_key(tmp_path / "other", "two words")


def test_two_witnesses_do_not_share_a_state(submitted: Submitted) -> None:
    with pytest.raises(StorageError):
        Witness(submitted.ours.config)


def test_a_witness_that_was_stopped_answers_no_kept_connection(submitted: Submitted) -> None:
    connection = Connection(f"http://127.0.0.1:{submitted.ours.port}", timeout_s=WAIT_S)
    assert connection.request("POST", "/add-checkpoint", b"old 0\n").status == 400
    server = submitted.ours.server
    assert server is not None
    submitted.ours.stop()
    with pytest.raises(StorageError):
        connection.request("POST", "/add-checkpoint", b"old 0\n")
    connection.release()
    _, signed = submitted.grow()
    assert server.witness.add_checkpoint(b"old 0\n\n" + signed).status == 503
    submitted.ours.start()
