"""Backups are made while the daemon serves: two sets, whole or not there, and nothing is left of one that failed."""

import json
import os
import threading
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from cases.backups import back_up, identities, leftovers, operator, section, sets_of
from cases.command_lines import CommandLine
from cases.daemons import Running, make_config, make_running, question, reason_of, request_id, running_daemon
from cases.erasures import add_authority, erase_once, order, repeat_pending
from cases.fakes import HANG_S
from cases.operations import held_at, join_operation
from cases.services import services
from consentd.backup import age, copies, writing
from consentd.backup.directory import BackupDirectory, read_manifest
from consentd.backup.manifest import Manifest, SetKind, format_manifest, parse_manifest
from consentd.backup.restoring import PART_NAME
from consentd.core.pruned import DAY_MS
from consentd.errors import (
    AlreadyExistsError,
    InvalidError,
    MalformedError,
    OperationCancelledError,
    PreconditionError,
    StorageError,
)  # fmt: skip
from consentd.ledger.vault import STATE
from consentd.sequencer import erasures
from consentd.server.keys import make_keys
from consentd.store.rocks import RocksStore
from consentd.v1 import admin_service_pb2 as ad
from consentd_client.admin import backup_result


def try_back_up(running: Running, name: str = "one") -> ad.BackupResult:
    """Make one backup. ``Client.back_up`` would repeat one that a disk has failed."""
    client = operator(running)
    return backup_result(client.follow_operation(client.start_backup(name=name).operation_id))


def decrypted(path: Path, manifest: Manifest, to: Path) -> Path:
    to.mkdir(parents=True)
    for file in manifest.files:
        with (path / (file.name + ".age")).open("rb") as cipher, (to / file.name).open("wb") as plain:
            source, sink = age.Source(cipher), age.Sink(plain)
            identities().decrypt(source, sink, name=file.name)
        assert (sink.size, sink.digest()) == (file.size, file.sha256)
        assert (source.size, source.digest()) == (file.encrypted_size, file.encrypted_sha256)
    return to


def test_a_backup_has_what_was_written_before_and_nothing_readable(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section(retention_days=7)) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        before = services(running).ledger.state
        made = operator(running).back_up(name="one")
        ledger, vault = sets_of(running, "one")
        assert made.name == "one"
        assert made.tree_size >= before.size
        assert made.expires_time_ms == made.time_ms + 7 * DAY_MS
        manifests = [read_manifest(path) for path in (ledger, vault)]
        assert manifests[0].of == manifests[1].of
        assert [each.kind for each in manifests] == [SetKind.LEDGER, SetKind.VAULT]
        assert manifests[0].of.origin == running.config.ledger.origin
        assert manifests[0].of.tree_size == made.tree_size
        files = [path for path in (tmp_path / "backups").rglob("*") if path.is_file()]
        assert len(files) == made.file_count + 2
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)
        for path in files:
            assert path.suffix == ".age" or path.name == "manifest.json"
            if path.suffix == ".age":
                assert path.read_bytes().startswith(b"age-encryption.org/v1\n")
        assert not leftovers(running)
        plain = [
            decrypted(path, each, tmp_path / each.kind.value)
            for path, each in zip((ledger, vault), manifests, strict=True)
        ]
        contents = copies.read_contents(*plain)
        assert (contents.state.size, contents.state.root) == (made.tree_size, made.root)
        assert contents.vault_state == manifests[1].vault_state
        assert not copies.has_older_vault(contents)
        with closing(RocksStore.open_read_only(plain[1])) as store:
            assert store.get(STATE) == services(running).vault.state
        running.check_ledger()


def test_a_backup_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running, pytest.raises(PreconditionError) as raised:
        operator(running).start_backup()
    assert raised.value.reason == "BACKUP_NOT_CONFIGURED"


def test_names_of_backups(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section()) as running:
        client = operator(running)
        made = client.back_up()
        assert (tmp_path / "backups" / "ledger" / made.name).is_dir()
        for name in ("..", "a/b", ".part", "A", "a" * 65, "x\n", "ü", "-x"):
            with pytest.raises(InvalidError):
                client.start_backup(name=name)
        client.back_up(name="a" * 64)
        with pytest.raises(AlreadyExistsError):
            client.start_backup(name="a" * 64)
        asked = request_id()
        first = client.start_backup(name="b", request_id=asked)
        client.follow_operation(first.operation_id)
        assert client.start_backup(name="b", request_id=asked).operation_id == first.operation_id
        with pytest.raises(PreconditionError):
            client.start_backup(name="c", request_id=asked)


def test_two_backups_at_once_are_refused(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section()) as running:
        with held_at(ad.OPERATION_STEP_COPYING) as held:
            first = operator(running).start_backup(name="one")
            assert held.reached.wait(HANG_S)
            with pytest.raises(PreconditionError) as raised:
                operator(running).start_backup(name="two")
            assert raised.value.reason == "OPERATION_RUNNING"
        assert operator(running).follow_operation(first.operation_id).HasField("backup")
        # Another process that writes here, such as a daemon on a copy of this configuration.
        with BackupDirectory(tmp_path / "backups").locked(), pytest.raises(StorageError):
            try_back_up(running, "three")
        operator(running).back_up(name="three")


def test_a_backup_that_ends_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consentd.service.backup._REPORTED", 1)
    with running_daemon(tmp_path, section()) as running:
        client = operator(running)
        for step, number in ((ad.OPERATION_STEP_COPYING, 2), (ad.OPERATION_STEP_ENCRYPTING, 5)):
            with held_at(step, number) as held:
                started = client.start_backup(name="one")
                assert held.reached.wait(HANG_S)
                client.cancel_operation(started.operation_id)
            done = client.follow_operation(started.operation_id)
            with pytest.raises(OperationCancelledError):
                backup_result(done)
            assert not leftovers(running)
            assert not any(path.exists() for path in sets_of(running, "one"))
        back_up(running)


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_full_disk_is_named_and_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    with running_daemon(tmp_path, section()) as running:
        calls = 0
        write = age.Sink.write

        def full(self: age.Sink, piece: bytes) -> int:
            nonlocal calls
            calls += 1
            if calls == at:
                try:
                    raise OSError(28, os.strerror(28))
                except OSError as error:
                    self.error = error
                    raise
            return write(self, piece)

        with monkeypatch.context() as patch:
            patch.setattr(age.Sink, "write", full)
            with pytest.raises(StorageError, match="No space left on device"):
                try_back_up(running)
        assert not leftovers(running)
        assert not any(path.exists() for path in sets_of(running, "one"))
        back_up(running)
        running.check_ledger()


def test_a_backup_that_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_daemon(tmp_path, section()) as running:
        with monkeypatch.context() as patch:
            patch.setattr(writing, "_OVERHEAD", 1 << 60)
            with pytest.raises(StorageError, match="too little space for a backup"):
                try_back_up(running)
        assert not leftovers(running)


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.part").mkdir()
    (outside / "keep.part" / "file").write_text("kept")
    with running_daemon(tmp_path, section()) as running:
        back_up(running, "zero")
        backups = tmp_path / "backups"
        (backups / "ledger" / "one.part").symlink_to(outside)
        back_up(running, "one")
        assert (outside / "keep.part" / "file").exists()
        assert not leftovers(running)
        (backups / "vault" / "two").symlink_to(outside)
        with pytest.raises(AlreadyExistsError):
            operator(running).start_backup(name="two")
        os.rename(backups / "ledger", backups / "moved")
        (backups / "ledger").symlink_to(outside)
        with pytest.raises(StorageError, match="symbolic link"):
            try_back_up(running, "three")
        assert sorted(path.name for path in outside.rglob("*")) == ["file", "keep.part"]


def test_leftovers_of_a_crash_are_deleted(tmp_path: Path) -> None:
    running = make_running(tmp_path, section())
    ledger, _ = back_up(running)
    running.stop()
    copy = tmp_path / "data" / copies.COPY_NAME / "vault"
    copy.mkdir(parents=True)
    (copy / "000007.sst").write_text("secret")
    part = ledger.with_name("two.part")
    part.mkdir()
    (part / "CURRENT.age").write_text("a part")
    again = Running(make_config(tmp_path, section()), running.tokens)
    try:
        assert not copy.parent.exists()  # before the daemon serves
        back_up(again, "two")
        assert not leftovers(again)
    finally:
        again.stop()


def test_the_daemon_does_not_start_beside_an_unfinished_restore(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_keys(config)
    (config.ledger.data_dir / PART_NAME / "vault").mkdir(parents=True)
    with pytest.raises(PreconditionError, match="restore was not finished"):
        Running(config, {})
    assert not config.ledger.store_dir.exists()


def let_expire(sets: tuple[Path, Path]) -> None:
    for path in sets:
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["expires_time_ms"] = manifest["time_ms"]
        (path / "manifest.json").write_text(json.dumps(manifest))


def test_sets_that_expired_are_deleted_by_a_backup_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be what fills the disk, and an erasure is complete only when they are gone."""
    with running_daemon(tmp_path, section()) as running:
        old, kept = back_up(running, "old"), back_up(running, "kept")
        let_expire(old)
        with monkeypatch.context() as patch:
            patch.setattr(writing, "_OVERHEAD", 1 << 60)
            with pytest.raises(StorageError, match="too little space for a backup"):
                try_back_up(running)
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in kept)
        assert not leftovers(running)


def test_sets_that_expired_are_deleted_by_the_next_backup(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section()) as running:
        old, kept = back_up(running, "old"), back_up(running, "kept")
        let_expire(old)
        strange = old[0].with_name("notes")
        strange.mkdir()
        new = back_up(running, "new")
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in (*kept, *new, strange))


def test_an_erasure_waits_for_the_end_of_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "_FILES_S", 0.0)
    monkeypatch.setattr(erasures, "RETRY_S", 0.01)
    with running_daemon(tmp_path, section(), retention_days=30) as running:
        add_authority(running)
        subject = running.enrol("SYN-000001")
        request = order(running, subject)
        with held_at(ad.OPERATION_STEP_ENCRYPTING) as held:
            monkeypatch.setattr("consentd.service.backup._REPORTED", 1)
            started = operator(running).start_backup(name="one")
            assert held.reached.wait(HANG_S)
            with pytest.raises(grpc.RpcError) as raised:
                erase_once(running, request)
            assert reason_of(raised.value) == "ERASURE_PENDING"
        assert operator(running).follow_operation(started.operation_id).HasField("backup")
        repeat_pending(lambda: erase_once(running, request))
        assert not leftovers(running)
        # And the other way round: a backup waits for the files, and can be cancelled meanwhile.
        with services(running).erasures.files, held_at(ad.OPERATION_STEP_COPYING, 3) as held:
            started = operator(running).start_backup(name="two")
            assert held.reached.wait(HANG_S)
            operator(running).cancel_operation(started.operation_id)
            held.released.set()
            assert operator(running).follow_operation(started.operation_id).HasField("error")
        back_up(running, "two")


def test_writes_go_on_during_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consentd.service.backup._REPORTED", 1)
    with running_daemon(tmp_path, section()) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        with held_at(ad.OPERATION_STEP_ENCRYPTING, 2) as held:
            started = operator(running).start_backup(name="one")
            assert held.reached.wait(HANG_S)
            assert running.authorize(question(subject)).access_seq
            later = running.enrol("SYN-000002")
            running.grant(later)
        made = operator(running).follow_operation(started.operation_id).backup
        assert made.tree_size < services(running).ledger.state.size
        assert running.check(question(later)).permitted


def test_the_verb_shows_what_was_made(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section()) as running:
        options = ("--target", f"127.0.0.1:{running.daemon.grpc_port}")
        run = CommandLine({"CONSENTD_TOKEN": running.tokens["operator"]})
        shown = run("backup", "--name", "one", "--json", *options)
        assert (shown.status, shown.object["name"], shown.object["type"]) == (0, "one", "backup")
        assert shown.object["size"] == read_manifest(sets_of(running, "one")[0]).of.tree_size
        started = run("backup", "--no-wait", *options).out.strip()
        followed = run("operation", "follow", started, *options)
        assert (followed.status, "backed up: 2" in followed.out) == (0, True)
        assert run("backup", "--name", "one", *options).status == 2
        refused = CommandLine({"CONSENTD_TOKEN": running.tokens["app"]})("backup", *options)
        assert (refused.status, refused.out) == (2, "")


def test_a_key_is_made_once_and_opens_what_names_its_recipient(tmp_path: Path) -> None:
    run, file = CommandLine({}), tmp_path / "keys/backup.key"
    made = run("backup", "new-key", file, "--json").object
    assert (made["type"], file.stat().st_mode & 0o777) == ("recipient", 0o600)
    plain, encrypted, opened = (tmp_path / name for name in ("plain", "encrypted", "opened"))
    plain.write_bytes(b"record")
    with plain.open("rb") as source, encrypted.open("wb") as sink:
        age.Recipients([made["recipient"]]).encrypt(age.Source(source), age.Sink(sink))
    with encrypted.open("rb") as source, opened.open("wb") as sink:
        age.read_identities(file).decrypt(age.Source(source), age.Sink(sink), name="record")
    assert (opened.read_bytes(), b"record" in encrypted.read_bytes()) == (b"record", False)
    before = file.read_bytes()
    assert run("backup", "new-key", file).status == 2
    assert file.read_bytes() == before


def test_the_daemon_s_stop_ends_a_backup(tmp_path: Path) -> None:
    running = make_running(tmp_path, section())
    with held_at(ad.OPERATION_STEP_COPYING) as held:
        operator(running).start_backup(name="two")
        assert held.reached.wait(HANG_S)
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        held.wait_ended()
    stopping.join(HANG_S)
    join_operation()
    assert not leftovers(running)
    assert not any(path.exists() for path in sets_of(running, "two"))


def test_a_directory_of_backups_that_cannot_be_read_does_not_stop_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "ledger").symlink_to(tmp_path)
    with running_daemon(tmp_path, section()) as running:
        assert services(running).backup_times.last_s() == 0


def test_a_recipient_that_is_none_stops_the_start(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    running.stop()
    with pytest.raises(InvalidError, match="backup recipient"):
        Running(make_config(tmp_path, section(recipient="age1nonsense")), running.tokens)
    for bad in ('[backup]\ndir = "backups"\n', section("data/backups"), section(".")):
        with pytest.raises(InvalidError, match="config: `backup"):
            make_config(tmp_path, bad)


def test_manifests_are_strict(tmp_path: Path) -> None:
    with running_daemon(tmp_path, section()) as running:
        path, _ = back_up(running)
    content = (path / "manifest.json").read_bytes()
    assert format_manifest(parse_manifest(content)) == content
    whole = json.loads(content)
    possible = [("name", "x"), ("origin", "x"), ("checkpoint", ""), ("checkpoint", "x"), ("files", [])]
    for name in whole:
        for value in (None, True, -1, 1.5, "", "x", [], [{}], {}, 1 << 64, "\ud800"):
            if (name, value) in possible:
                continue
            with pytest.raises(MalformedError):
                parse_manifest(json.dumps({**whole, name: value}).encode())
        with pytest.raises(MalformedError):
            parse_manifest(json.dumps({key: value for key, value in whole.items() if key != name}).encode())
    for name in ("../x", "a/b", "", ".x", "x" * 101):
        files = [{**whole["files"][0], "name": name}]
        with pytest.raises(MalformedError):
            parse_manifest(json.dumps({**whole, "files": files}).encode())
    with pytest.raises(MalformedError):
        parse_manifest(json.dumps({**whole, "files": whole["files"] * 2}).encode())
    for bad in (b"", b"{", b"\xff", b"[]", content + b"x", content.replace(b'"name"', b'"nam"', 1)):
        with pytest.raises(MalformedError):
            parse_manifest(bad)
