"""Verifying a ledger from outside: what an operator did to it is found and named, wherever it is."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.audited import grow, named, verify
from cases.audits import DAEMON, LOG, ORIGIN, SIZE, START_MS, Forge, make_forge, make_half
from cases.daemons import ORIGIN as RUNNING_ORIGIN
from cases.daemons import make_running, question, request_id
from cases.services import add_reader
from consentd.audit.files import DataDirectory
from consentd.audit.live import LiveDaemon
from consentd.audit.sources import ExportDirectory
from consentd.audit.state_store import StateStore
from consentd.audit.verify import verify_ledger
from consentd.core import checkpoint, codec, ed25519, note
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, MalformedError, ProofError, SignatureError, StorageError
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import (
    CLOSED,
    KEY_UNKNOWN,
    NO_MAP,
    NO_STATEMENTS,
    UNKNOWN_FIELDS,
    UNKNOWN_KIND,
    WITHHELD,
)
from consentd.verify.walker import Expected

EXPECTED = Expected(origin=ORIGIN, vkey="", is_missing_wrong=False)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Forge, ExportDirectory]:
    made = make_forge(SIZE)
    directory = tmp_path_factory.mktemp("sound")
    return made, made.write(directory / "ledger", directory / "openings")


# -- what is sound ----------------------------------------------------------------------------------------------


def test_a_sound_ledger_is_proven(sound: tuple[Forge, ExportDirectory]) -> None:
    forge, location = sound
    done: list[tuple[int, int]] = []
    report = verify(location, progress=lambda at, size: done.append((at, size)))
    assert report.faults == ()
    assert report.not_checked == {}
    assert (report.entries, report.seals) == (forge.size - len(forge.seals), len(forge.seals))
    assert report.statements_opened == report.entries
    assert report.tags == len(forge.heads)
    assert done[-1] == (forge.size, forge.size)
    assert not report.is_undetermined


def test_without_openings_statements_are_counted_as_not_checked(sound: tuple[Forge, ExportDirectory]) -> None:
    report = verify(ExportDirectory(sound[1].directory))
    assert report.faults == ()
    assert report.statements_opened == 0
    assert report.not_checked == {NO_STATEMENTS: report.entries}
    assert report.is_undetermined


@pytest.mark.slow
def test_worker_processes_see_the_same(tmp_path: Path) -> None:
    forge = make_forge(9000)
    forge.openings[700] = b"\0" * 200
    location = forge.write(tmp_path / "ledger", tmp_path / "openings")
    assert verify(location, jobs=2) == verify(location, jobs=1)
    assert 700 in named(verify(location, jobs=2))


def test_little_memory_gives_the_same(sound: tuple[Forge, ExportDirectory]) -> None:
    assert verify(sound[1], cached=16) == verify(sound[1])


def test_another_key_or_origin_proves_nothing(sound: tuple[Forge, ExportDirectory]) -> None:
    other = note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))
    with pytest.raises(SignatureError):
        verify_ledger(sound[1], origin=ORIGIN, log_verifier=other.verifier)
    with pytest.raises(ProofError):
        verify_ledger(sound[1], origin="another.example", log_verifier=LOG.verifier)


# -- what an operator planted, with a tree that is right and a checkpoint that is signed ------------------------


def assert_named(forge: Forge, directory: Path, at: int, what: str) -> None:
    """Assert that an auditor names the leaf at an index, and no other."""
    report = verify(forge.write(directory / "ledger", directory / "openings"))
    assert named(report) == [at]
    assert what in report.faults[0].what


def test_a_wrong_seal_is_named(tmp_path: Path) -> None:
    forge = make_half(SIZE)
    forge.ask(next(tag for tag, (count, _) in forge.heads.items() if count > 1))
    forge.seal(wrong=True)
    at = forge.size - 1
    grow(forge, SIZE)
    assert_named(forge, tmp_path, at, "map root")


def test_a_reordered_pair_is_named(tmp_path: Path) -> None:
    forge = make_half(SIZE)
    tag, other = [tag for tag, (count, _) in forge.heads.items() if count > 1][:2]
    early, late = forge.time_ms + 7, forge.time_ms + 14
    forge.ask(tag, time_ms=late)
    forge.ask(other, time_ms=early)
    at = forge.size - 1
    forge.time_ms = late
    grow(forge, SIZE)
    assert_named(forge, tmp_path, at, "time")


def test_a_reordered_pair_of_one_chain_is_named(tmp_path: Path) -> None:
    forge = make_half(SIZE)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.time_ms += 7
    for _ in range(2):
        forge.ask(tag, time_ms=forge.time_ms)
    at = forge.size - 2
    for pairs in (forge.leaves, forge.openings):
        pairs[at], pairs[at + 1] = pairs[at + 1], pairs[at]
    grow(forge, SIZE)
    report = verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))
    assert named(report)[0] == at
    assert "seq" in report.faults[0].what


def test_a_backdated_entry_is_named(tmp_path: Path) -> None:
    forge = make_half(SIZE)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.ask(tag, time_ms=START_MS + 50)
    at = forge.size - 1
    grow(forge, SIZE)
    assert_named(forge, tmp_path, at, "time is earlier")


def test_a_left_out_entry_is_named(tmp_path: Path) -> None:
    forge = make_forge(SIZE // 3)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    for _ in range(3):
        forge.ask(tag)
    at = forge.size - 2
    del forge.leaves[at]
    del forge.openings[at]
    forge.seals = [seal for seal in forge.seals if seal < at]
    forge.seal()
    assert named(verify(forge.write(tmp_path / "ledger", tmp_path / "openings")))[0] == at


def test_a_statement_by_a_key_not_in_force_is_named(tmp_path: Path) -> None:
    forge = make_forge(300)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    stranger = ed25519.KeyPair(b"\x33" * 32)
    forge.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2, key=stranger)
    at = forge.size - 1
    forge.seal()
    assert_named(forge, tmp_path, at, "key")


def test_keys_are_in_force_from_their_entry_to_their_retirement(tmp_path: Path) -> None:
    forge = make_forge(300)
    bank, key = codec.public_tag("participant/bank"), ed25519.KeyPair(b"\x21" * 32)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1 and tag != bank)
    served = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    forge.add(EntryKind.OUTCOME, tag, served, ref=3, key=key)
    early = forge.size - 1
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=key.public_key))
    forge.add(EntryKind.OUTCOME, tag, served, ref=3, key=key)
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=key.public_key, retired=True))
    forge.add(EntryKind.OUTCOME, tag, served, ref=3, key=key)
    late = forge.size - 1
    forge.seal()
    assert named(verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))) == [early, late]


def test_a_statement_key_comes_into_force_by_a_ledger_entry_alone(tmp_path: Path) -> None:
    forge, key, ledger = make_forge(300), ed25519.KeyPair(b"\x21" * 32), codec.public_tag("ledger")
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1 and tag != ledger)
    forge.add(EntryKind.KEY, ledger, st.KeyStatement(key=key.public_key))
    forge.add(EntryKind.ACCESS, tag, b"", key=key)
    early = forge.size - 1
    forge.add(EntryKind.LEDGER, ledger, st.LedgerStatement(statement_key=key.public_key))
    forge.add(EntryKind.ACCESS, tag, b"", key=key)
    forge.add(EntryKind.KEY, ledger, st.KeyStatement(key=key.public_key, retired=True))
    forge.add(EntryKind.ACCESS, tag, b"", key=key)
    late = forge.size - 1
    forge.seal()
    assert named(verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))) == [early, late]


def test_an_opening_that_is_not_the_leafs_is_named(tmp_path: Path) -> None:
    rng = random.Random(1)
    forge = make_forge(600)
    events = [at for at, opening in enumerate(forge.openings) if opening is not None]
    changed = sorted(rng.sample(events[20:], 4))
    for at in changed:
        opening = forge.openings[at] or b""
        location = rng.randrange(len(opening))
        forge.openings[at] = opening[:location] + bytes([opening[location] ^ 1]) + opening[location + 1 :]
    assert named(verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))) == changed


def test_statements_that_are_gone_are_counted(tmp_path: Path) -> None:
    forge = make_forge(600)
    forge.openings = [None if at % 3 == 0 and at > 300 else one for at, one in enumerate(forge.openings)]
    report = verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))
    assert report.faults == ()
    assert report.not_checked[CLOSED] > 50
    assert report.is_undetermined
    resumed = verify(forge.write(tmp_path / "again", tmp_path / "openings"), state_path=tmp_path / "state")
    assert resumed.not_checked == report.not_checked


def test_one_statement_that_is_withheld_is_told(tmp_path: Path) -> None:
    """An auditor who reads all other statements gets a report of it; for one who may read none, nothing is withheld."""
    forge, enrol = make_forge(400), EntryKind.ENROL
    last = max(at for at in forge.asked if at < 380)
    forge.openings[last] = None
    location = forge.write(tmp_path / "ledger", tmp_path / "openings")
    report = verify(location)
    assert (report.faults, report.not_checked) == ((), {CLOSED: 1, WITHHELD: 1})
    assert report.is_undetermined
    kinds = {at: leaf[1] for at, leaf in enumerate(forge.leaves)}
    public = {leaf[10:42] for leaf in forge.leaves if leaf[1] in (EntryKind.PARTICIPANT, EntryKind.LEDGER)}
    persons = [at for at, leaf in enumerate(forge.leaves) if leaf[1] and leaf[10:42] not in public]
    assert any(kinds[at] == enrol for at in persons)
    for at in persons:
        forge.openings[at] = None
    outside = verify(forge.write(tmp_path / "closed", tmp_path / "closed-openings"))
    assert outside.not_checked[CLOSED] >= len(persons) - 2
    assert WITHHELD not in outside.not_checked


def test_what_a_later_version_says_of_keys_is_not_taken(tmp_path: Path) -> None:
    """As the clients do: a field that is not known may change what the others mean, so nothing follows from it."""
    forge, key, ledger = make_forge(300), ed25519.KeyPair(b"\x21" * 32), codec.LEDGER_TAG
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1 and tag != ledger)
    reported = st.LedgerStatement(statement_key=key.public_key).SerializeToString()
    forge.add(EntryKind.LEDGER, ledger, reported + b"\xf8\x07\x01")
    forge.add(EntryKind.ACCESS, tag, b"", key=key)
    forge.seal()
    report = verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))
    assert report.faults == ()
    assert report.not_checked == {UNKNOWN_FIELDS: 1, KEY_UNKNOWN: 1}
    assert report.is_undetermined


def test_an_unknown_kind_cannot_be_told(tmp_path: Path) -> None:
    forge = make_forge(300)
    forge.add(99, next(iter(forge.heads)), b"of a later version")
    forge.seal()
    report = verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))
    assert report.faults == ()
    assert report.not_checked == {UNKNOWN_KIND: 1}
    assert report.is_undetermined


def test_the_search_ends_at_the_hundredth_fault(tmp_path: Path) -> None:
    forge = make_forge(900)
    forge.openings = [None if one is None else b"\1" * 200 for one in forge.openings]
    report = verify(forge.write(tmp_path / "ledger", tmp_path / "openings"))
    assert len(report.faults) == 100
    assert report.stopped


# -- damaged files ----------------------------------------------------------------------------------------------


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "index", "damaged"),
    [
        ("tile/entries/001", 265, "leaf"), ("tile/0/001", 265, "tile"),
        ("tile/entries/002.p/188", 521, "leaf"), ("tile/0/002.p/188", 521, "tile"),
    ],
)  # fmt: skip
def test_a_flipped_byte_is_named(tmp_path: Path, name: str, index: int, damaged: str) -> None:
    """The tree above tells a damaged leaf from a damaged tile, and neither makes other entries faulty."""
    forge = make_forge(700)
    assert forge.size == 700
    location = forge.write(tmp_path / "ledger")
    before = sum(2 + len(leaf) for leaf in forge.leaves[index - index % 256 : index])
    flipped(tmp_path / "ledger" / name, 32 * (index % 256) + 5 if damaged == "tile" else before + 90)
    report = verify(location)
    assert named(report) == [index]
    assert report.faults[0].what.startswith(f"{damaged} is damaged")


def test_a_bundle_whose_leaves_cannot_be_told_apart_is_named(tmp_path: Path) -> None:
    location = make_forge(700).write(tmp_path / "ledger")
    flipped(tmp_path / "ledger" / "tile" / "entries" / "001", 0)
    with pytest.raises(MalformedError, match="`256`"):
        verify(location)


def test_a_missing_file_cannot_be_told(tmp_path: Path) -> None:
    location = make_forge(700).write(tmp_path / "ledger")
    (tmp_path / "ledger" / "tile" / "entries" / "001").unlink()
    with pytest.raises(StorageError):
        verify(location)


def test_a_checkpoint_of_another_tree_is_a_fault(tmp_path: Path) -> None:
    forge = make_forge(700)
    location = forge.write(tmp_path / "ledger")
    forged = checkpoint.Checkpoint(ORIGIN, forge.size, bytes(32))
    (tmp_path / "ledger" / "checkpoint").write_bytes(checkpoint.sign_checkpoint(forged, [LOG]))
    report = verify(location)
    assert named(report) == [None]
    assert "root" in report.faults[0].what


# -- going on ---------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_an_interrupted_one_was(tmp_path: Path) -> None:
    location = make_forge(9000).write(tmp_path / "ledger", tmp_path / "openings")
    state = tmp_path / "state"

    class Interrupted(Exception):  # noqa: N818
        pass

    def interrupt(at: int, size: int) -> None:
        if at > 8000:
            raise Interrupted

    whole = verify(location)
    with pytest.raises(Interrupted):
        verify(location, state_path=state, save_every=500, progress=interrupt)
    kept = StateStore(state)
    saved = kept.load(location, EXPECTED)
    kept.close()
    assert saved is not None
    assert 7000 < saved.replay.size < 9000
    bundles = tmp_path / "ledger" / "tile" / "entries"
    for n in range(saved.replay.size // 256):
        (bundles / f"{n:03d}").unlink()  # what was verified is not looked at again
    assert verify(location, state_path=state) == whole
    assert verify(location, state_path=state) == whole  # nothing new


def test_a_state_goes_on_with_a_larger_ledger_and_finds_what_is_new(tmp_path: Path) -> None:
    forge = make_forge(1000)
    state = tmp_path / "state"
    verify(forge.write(tmp_path / "a", tmp_path / "b"), state_path=state)
    grow(forge, 1500)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.ask(tag, time_ms=START_MS + 50)
    at = forge.size - 1
    forge.seal()
    report = verify(forge.write(tmp_path / "a", tmp_path / "b"), state_path=state)
    assert named(report) == [at]
    other = make_forge(2000, people=9).write(tmp_path / "c", tmp_path / "d")
    assert verify(other, state_path=state).faults  # another past under the same name
    with pytest.raises(ProofError):
        verify(make_forge(300).write(tmp_path / "e"), state_path=state)


def test_a_state_of_another_ledger_is_refused(tmp_path: Path, sound: tuple[Forge, ExportDirectory]) -> None:
    verify(sound[1], state_path=tmp_path / "state")
    states = StateStore(tmp_path / "state")
    saved = states.load(sound[1], EXPECTED)
    assert saved is not None
    saved.expected = replace(EXPECTED, origin="another.example")
    states.save(saved)
    states.close()
    with pytest.raises(InvalidError):
        verify(sound[1], state_path=tmp_path / "state")
    (tmp_path / "none").write_bytes(b"no state at all" * 100)
    with pytest.raises(StorageError):
        verify(sound[1], state_path=tmp_path / "none")


def test_since_a_trusted_checkpoint_only_what_is_new_is_read(tmp_path: Path) -> None:
    forge = make_forge(1000)
    trusted = forge.note()
    grow(forge, 1600)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    location = forge.write(tmp_path / "a", tmp_path / "b")
    for n in range(3):
        (tmp_path / "a" / "tile" / "entries" / f"{n:03d}").unlink()
    report = verify(location, since=trusted)
    assert report.faults == ()
    assert report.start == 1000
    assert set(report.not_checked) == {NO_MAP, KEY_UNKNOWN}
    assert report.is_undetermined
    forge.ask(tag, time_ms=START_MS + 50)
    at = forge.size - 1
    forge.seal()
    assert at in named(verify(forge.write(tmp_path / "a", tmp_path / "b"), since=trusted))
    other = make_forge(1200, people=9)
    with pytest.raises(ProofError):
        verify(other.write(tmp_path / "c"), since=trusted)
    with pytest.raises(ProofError):
        verify(make_forge(300).write(tmp_path / "d"), since=trusted)


# -- a real daemon ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_daemon_is_verified_while_it_runs_and_when_it_is_stopped(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        subjects = [running.enrol(f"SYN-{number}") for number in range(3)]
        for subject in subjects:
            running.grant(subject)
        asked = [
            ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subjects[number % 3]))
            for number in range(600)
        ]
        running.access.BatchAuthorizeAccesses(
            ac.BatchAuthorizeAccessesRequest(requests=asked), metadata=running.as_("app")
        )
        running.check_ledger()
        options: dict[str, Any] = {
            "origin": RUNNING_ORIGIN,
            "log_verifier": read_signing_key(running.config.keys.log_key_file).verifier,
        }
        daemon = running.daemon
        live = LiveDaemon(
            url=f"http://127.0.0.1:{daemon.http_port}",
            target=f"127.0.0.1:{daemon.grpc_port}",
            token=running.tokens[add_reader(running)],
        )
        report = verify_ledger(live, **options)
        assert report.faults == ()
        assert report.entries > 600
        auditor = LiveDaemon(url=live.url, target=live.target, token=running.tokens["pipc"])
        outside = verify_ledger(auditor, **options)
        assert outside.faults == ()
        assert outside.not_checked[CLOSED] >= 600  # persons' statements are outside its mandate
        assert outside.statements_opened + outside.not_checked[CLOSED] == outside.entries
    finally:
        running.stop()
    location = DataDirectory.of_config(running.config)
    stopped = verify_ledger(location, **options)
    assert stopped.faults == ()
    assert stopped.not_checked == {}
    assert stopped.statements_opened == stopped.entries >= report.entries


@pytest.mark.parametrize(
    ("origin", "keys", "what"),
    [
        (ORIGIN, (), "does not name the pinned log key"),
        ("another.example", (note.format_vkey(LOG.verifier),), "names another origin"),
    ],
)
def test_a_ledger_that_names_another_log_is_not_the_one_pinned(
    tmp_path: Path, origin: str, keys: tuple[str, ...], what: str
) -> None:
    """As citizens' verifiers and check-evidence hold it."""
    forge = Forge()
    reported = st.LedgerStatement(origin=origin, verifier_keys=keys, statement_key=DAEMON.public_key, map_bits=8)
    forge.add(EntryKind.LEDGER, codec.public_tag("ledger"), reported)
    forge.seal()
    (fault,) = verify(forge.write(tmp_path / "log", tmp_path / "openings"), jobs=1).faults
    assert (fault.index, what in fault.what) == (0, True)
