"""From a backup to a restored copy, and to the ledger that begins in its place, by the verbs that an operator uses."""

import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.backups import back_up, operator, section, sets_of, write_identity
from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, config_text, make_config, make_running, question, reason_of
from cases.erasures import add_authority, erase, order
from cases.fakes import HANG_S
from cases.processes import Writer
from cases.services import services
from consentd.backup.reading import find_pair
from consentd.config import Config, load
from consentd.core import codec, merkle
from consentd.core.checkpoint import parse_checkpoint
from consentd.core.note import parse_note
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import NotFoundError
from consentd.ledger import reads
from consentd.ledger.restored import RESTORED_NAME, read_restored
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import ERASED_SINCE, Fault
from consentd.verify.scrub import Scrub, ScrubOptions
from consentd_client import Client, Trust

NEW_ORIGIN = "consent.test/new"
run = CommandLine()


def restore(running: Running, machine: Path, name: str, *more: object) -> tuple[Path, dict[str, Any]]:
    """Restore a backup on another *machine*; return the configuration of a daemon there, and what the verb says."""
    shutil.copytree(running.config.keys.log_key_file.parent, machine / "keys")
    config = machine / "consentd.toml"
    config.write_text(config_text())
    ledger, vault = sets_of(running, name)
    given = ("--config", config, "--ledger", ledger, "--vault", vault, "--identity", write_identity(machine), "--json")
    shown = run("restore", *given, *more)
    assert shown.status == 0, shown.err
    proof, restored = shown.objects
    assert proof["verdict"] == "proven"
    return config, restored


def refusals(copy: Running, subject: pb.Subject) -> set[str]:
    """Return why a restored copy refuses to decide and to record."""
    reasons = set()
    for call, argument in ((copy.check, question(subject)), (copy.authorize, question(subject)), (copy.enrol, "SYN-3")):
        with pytest.raises(grpc.RpcError) as caught:
            call(argument)  # type: ignore[operator]
        reasons.add(reason_of(caught.value))
    return reasons


def files(config: Config) -> dict[str, bytes]:
    """Return the files in the data directory, but for the one that every start writes anew."""
    data_dir, left_out = config.ledger.data_dir, config.ledger.issued_credentials_path
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file() and path != left_out}


def client_of(running: Running, who: str) -> Client:
    trust = Trust(ORIGIN, read_signing_key(running.config.keys.log_key_file).verifier)
    return Client("", token=running.tokens[who], channel=running.channel, trust=trust, timeout_s=HANG_S)


def back_up_under_load(running: Running, subject: pb.Subject) -> tuple[str, dict[int, bytes]]:
    """Make backups while two writers write as fast as they can, until one was made during acknowledged writes.

    Return its name, and the leaves by their index that were acknowledged before it began. Ends the daemon.
    """
    writers = [Writer(running.daemon.grpc_port, running.as_("app"), [question(subject)], 1 << 30) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        assert writer.has_written.wait(HANG_S)
    number, before = 0, [dict(writer.acknowledged) for writer in writers]
    while True:
        name = f"n{number}"
        operator(running).back_up(name=name)
        after = [dict(writer.acknowledged) for writer in writers]
        if all(len(one) < len(other) for one, other in zip(before, after, strict=True)):
            break
        number, before = number + 1, after
    running.stop()
    for writer in writers:
        writer.join()
    return name, before[0] | before[1]


def test_a_ledger_is_backed_up_under_load_restored_elsewhere_and_begins_again(tmp_path: Path) -> None:
    running = make_running(tmp_path / "lost", section())
    subject = running.enrol("SYN-1")
    running.grant(subject)
    name, acknowledged = back_up_under_load(running, subject)
    of = find_pair(*sets_of(running, name), origin=ORIGIN).ledger.manifest.of

    # Nothing of the lost machine is there but its keys.
    old, _ = restore(running, tmp_path / "elsewhere", name, "--without-erasures")
    config = load(old)
    mark = read_restored(config.ledger.data_dir)
    assert mark is not None
    assert (mark.tree_size, mark.root) == (of.tree_size, of.root)
    copy = Running(config, running.tokens)
    before = files(config)
    store, size = services(copy).ledger.store, services(copy).ledger.state.size
    assert {index: merkle.leaf_hash(reads.read_leaf(store, index)) for index in acknowledged} == acknowledged
    assert refusals(copy, subject) == {"RESTORED_COPY"}
    assert copy.ledger.GetCheckpoint(ls.GetCheckpointRequest()).checkpoint == of.checkpoint
    assert client_of(copy, "app").history(subject).entries  # proven
    copy.stop()
    assert (size, files(config)) == (of.tree_size, before)
    assert not config.ledger.last_signed_path.exists()
    checked = run("fsck", "--config", old, "--json")
    assert (checked.status, checked.object["verdict"], checked.object["size"]) == (0, "proven", size)

    new = tmp_path / "new" / "consentd.toml"
    new.parent.mkdir()
    new.write_text(config_text(origin=NEW_ORIGIN))
    token = run("keygen", "--config", new, "--json").object["token"]
    verb = ("adopt", "--config", new, "--predecessor", old, "--i-accept-that-entries-are-lost-after")
    adopted = run(*verb, size, "--json").object
    assert adopted["predecessor_size"] == parse_checkpoint(parse_note(of.checkpoint).text).size
    begun = Running(load(new), {"operator": token})
    entry = reads.open_entry(services(begun).vault, reads.read_entry(services(begun).ledger.store, codec.LEDGER_TAG, 1))
    begun.wait_published()
    begun.stop()
    assert entry is not None
    stated = st.LedgerStatement.FromString(codec.decode_statement(entry[1]).payload)
    assert (stated.origin, stated.predecessor) == (NEW_ORIGIN, of.checkpoint)


def test_who_was_erased_after_the_backup_is_erased_again_before_the_copy_serves(tmp_path: Path) -> None:
    running = make_running(tmp_path / "lost", section())
    add_authority(running)
    erased, other = running.enrol("SYN-1"), running.enrol("SYN-2")
    for subject in (erased, other):
        running.grant(subject)
    running.wait_published()
    back_up(running)
    erase(running, order(running, erased))
    running.stop()
    machine = tmp_path / "elsewhere"
    (machine / "data").mkdir(parents=True)
    shutil.copy(running.config.ledger.data_dir / "erasures", machine / "data")
    config, said = restore(running, machine, "one")
    assert said["erased"] == 1
    copy = Running(load(config), running.tokens)
    vault = services(copy).vault
    known = [vault.find(vault.identifier_hash(one.scheme, one.value)) is not None for one in (erased, other)]
    with pytest.raises(NotFoundError):
        client_of(copy, "app").history(erased)
    assert client_of(copy, "app").history(other).entries
    assert damaged_records(copy) == ()
    copy.stop()
    assert known == [False, True]
    shown = run("fsck", "--config", config, "--json")
    assert (shown.status, shown.object["faults"], shown.object["not_checked"]) == (2, 0, {ERASED_SINCE: 1})
    # The list explains what is missing in a restored copy alone.
    (machine / "data" / RESTORED_NAME).unlink()
    assert run("fsck", "--config", config).status == 1


def test_an_erasure_says_when_backups_expire_that_were_made_to_be_kept_longer(tmp_path: Path) -> None:
    running = make_running(tmp_path, section(retention_days=300))
    add_authority(running)
    subject, other = running.enrol("SYN-1"), running.enrol("SYN-2")
    back_up(running)
    expiry = find_pair(*sets_of(running, "one"), origin=ORIGIN).ledger.manifest.of.expires_time_ms
    running.stop()
    shorter = Running(make_config(tmp_path, section(retention_days=30)), running.tokens)
    assert erase(shorter, order(shorter, subject)).backups_until_time_ms == expiry
    shorter.stop()
    shutil.rmtree(tmp_path / "backups")
    without = Running(shorter.config, running.tokens)
    answer = erase(without, order(without, other))
    assert answer.backups_until_time_ms - answer.complete_time_ms == 30 * 86_400_000
    back_up(without, "two")
    expiry = find_pair(*sets_of(without, "two"), origin=ORIGIN).ledger.manifest.of.expires_time_ms
    backups = services(without).backup_times
    assert backups.vaults_until_ms() == expiry
    without.stop()


def damaged_records(running: Running) -> tuple[Fault, ...]:
    """Scrub all records of a daemon; return what is wrong."""
    scrubber = running.daemon._scrubber
    assert scrubber is not None
    options = ScrubOptions(scratch_dir=running.config.ledger.data_dir / "scrubbed", map_size_mb=64)
    scrub = Scrub(
        scrubber._target, options, run_on_writer=services(running).sequencer.call, pause=lambda records: None
    )
    scrub.run()
    return tuple(scrub.progress.faults)
