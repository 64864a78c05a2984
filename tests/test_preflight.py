"""A start that refuses deletes nothing: what a damaged log still holds is there for whoever mends it."""

import shutil
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from cases.daemons import Running, make_config, make_running, question
from cases.logins import Provider
from consentd.errors import CorruptionError, InvalidError, StorageError
from consentd.ledger.vault import Vault
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys, read_keys
from consentd.store.rocks import RocksStore
from consentd.v1 import consent_pb2 as pb

PEOPLE = [f"SYN-{number:06d}" for number in range(20)]


@pytest.fixture
def cut(tmp_path: Path) -> Running:
    """Return a daemon that lost its power: its files as they were while it ran, and nobody on them."""
    running = make_running(tmp_path / "before")
    for value in PEOPLE[:10]:
        running.grant(running.enrol(value))
    running.check_ledger()
    shutil.copy(running.config.ledger.last_signed_path, tmp_path / "early.lock")
    for value in PEOPLE[10:]:
        running.grant(running.enrol(value))
    running.check_ledger()
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    running.stop()
    running.config = make_config(tmp_path / "after")
    return running


def log_of(store: Path) -> Path:
    return max(store.glob("*.log"), key=lambda path: path.stat().st_size)


def flip(path: Path, at: int) -> bytes:
    """Flip a bit; return what was there."""
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x10,)) + whole[at + 1 :])
    return whole


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("store_dir", "ledger is smaller than its last signed checkpoint"),
        ("vault_dir", "vault has a damaged log, and lacks the keys of"),
    ],
)
def test_a_log_damaged_in_its_middle_is_refused_and_kept(cut: Running, name: str, message: str) -> None:
    log = log_of(getattr(cut.config.ledger, name))
    whole = flip(log, log.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=message):
            Daemon(cut.config).start()
    assert log.stat().st_size == len(whole)
    log.write_bytes(whole)
    again = Running(cut.config, cut.tokens)
    try:
        again.check_ledger()
        assert all(again.authorize(question(pb.Subject(scheme="mhid", value=value))).access_seq for value in PEOPLE)
    finally:
        again.stop()


def test_a_vault_whose_last_record_is_torn_opens(cut: Running) -> None:
    log = log_of(cut.config.ledger.vault_dir)
    # The record is of a person who was about to be enrolled: the write was acknowledged to nobody.
    # Of a record of 200 bytes and type 1 (whole), only a part reached the disk.
    torn = bytes(4) + (200).to_bytes(2, "little") + b"\1" + bytes(range(1, 100))
    log.write_bytes(log.read_bytes() + torn + bytes(4_000))
    again = Running(cut.config, cut.tokens)
    try:
        again.check_ledger()
    finally:
        again.stop()


@pytest.mark.parametrize("rest", [b"", bytes(4_000)])
def test_a_vault_that_lost_a_key_with_the_end_of_its_log_is_refused(cut: Running, rest: bytes) -> None:
    log = log_of(cut.config.ledger.vault_dir)
    log.write_bytes(log.read_bytes()[:-100] + rest)
    if rest:
        with pytest.raises(CorruptionError, match="vault has a damaged log, and lacks the keys of 1 persons"):
            Daemon(cut.config).start()
        return
    with pytest.raises(CorruptionError, match="vault is older than its ledger"):
        Daemon(cut.config).start()
    # Without a newer vault, the operator moves the table away. Then nothing is permitted about the person who is lost.
    shutil.move(cut.config.table.path, cut.config.table.path.with_name("old"))
    for _ in range(2):
        again = Running(cut.config, cut.tokens)
        try:
            found = [again.authorize(question(pb.Subject(scheme="mhid", value=value))) for value in PEOPLE]
            assert [one.decision.outcome for one in found[:-1]] == [pb.OUTCOME_PERMIT] * (len(PEOPLE) - 1)
            assert found[-1].decision.outcome != pb.OUTCOME_PERMIT
        finally:
            again.stop()


@pytest.mark.parametrize("whole_records", [True, False], ids=["between records", "in a record"])
def test_a_vault_that_was_cut_anywhere_is_refused(cut: Running, whole_records: bool) -> None:
    """At each boundary of two records of its log, and within each record. Nothing is deleted, so it can be mended."""
    log = log_of(cut.config.ledger.vault_dir)
    whole = log.read_bytes()
    ends = record_ends(whole)
    assert len(ends) >= len(PEOPLE)
    # After the last record that writes a person, the log is whole.
    for end, after in pairwise([0, *ends]):
        at = end if whole_records else (end + after) // 2
        log.write_bytes(whole[:at])
        with pytest.raises(CorruptionError, match="vault "):
            Daemon(cut.config).start()
        assert log.read_bytes() == whole[:at]
    log.write_bytes(whole)
    Running(cut.config, cut.tokens).stop()


def test_a_vault_that_is_newer_than_its_ledger_opens(cut: Running) -> None:
    """A crash came after the vault's write and before the ledger's."""
    keys = read_keys(cut.config)
    with closing(RocksStore.open(cut.config.ledger.vault_dir)) as store:
        vault = Vault(store, keys.keks)
        vault.create(vault.identifier_hash("mhid", "SYN-early"))
    again = Running(cut.config, cut.tokens)
    try:
        again.grant(again.enrol("SYN-early"))
        again.check_ledger()
    finally:
        again.stop()


def record_ends(log: bytes) -> list[int]:
    """Return where each record of a write-ahead log ends; see ``consentd.store.wal`` for the form."""
    ends, at = [], 0
    while at + 7 <= len(log):
        length = int.from_bytes(log[at + 4 : at + 6], "little")
        if log[at + 6] == 0 and not length:  # the rest of a block
            at += (32 << 10) - at % (32 << 10)
            continue
        at += 7 + length
        ends.append(at)
    return ends


def test_a_vault_that_is_not_there_is_not_made(cut: Running) -> None:
    shutil.rmtree(cut.config.ledger.vault_dir)
    with pytest.raises(CorruptionError):
        Daemon(cut.config).start()
    assert not cut.config.ledger.vault_dir.exists()


def test_a_table_that_knows_more_is_seen_before_the_ledger_is_opened(cut: Running, tmp_path: Path) -> None:
    log = log_of(cut.config.ledger.store_dir)
    shutil.copy(tmp_path / "early.lock", cut.config.ledger.last_signed_path)
    whole = flip(log, log.stat().st_size * 9 // 10)
    with pytest.raises(CorruptionError, match="table is ahead of its ledger"):
        Daemon(cut.config).start()
    assert log.stat().st_size == len(whole)


def test_a_provider_without_keys_is_found_before_the_ledger_begins(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    config = make_config(tmp_path, provider.config())
    make_keys(config)
    provider.path.write_text("{}")
    with pytest.raises(InvalidError, match="no key set of a provider"):
        Daemon(config).start()
    provider.path.unlink()
    with pytest.raises(StorageError, match="key set of a provider cannot be read"):
        Daemon(config).start()
    assert not config.ledger.store_dir.exists()
    assert not config.ledger.vault_dir.exists()
