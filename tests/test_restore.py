"""A backup is restored into an empty directory if it is whole and of this ledger; else nothing is put in place."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyrage
import pytest

from cases.backups import back_up, identities, operator, section, sets_of, write_identity
from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, config_text, make_running, question
from cases.erasures import add_authority, erase, order
from cases.fakes import FakeClock
from cases.processes import ENVIRONMENT
from cases.services import services
from consentd.backup import restoring
from consentd.backup.age import Identities
from consentd.backup.directory import BackupDirectory
from consentd.backup.manifest import SetKind
from consentd.backup.proof import BackupTimes, read_proven, write_proven
from consentd.backup.reading import find_pair
from consentd.backup.restoring import PART_NAME, Pins, Progress
from consentd.config import Config, parse
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import (
    ConsentdError,
    CorruptionError,
    InvalidError,
    PreconditionError,
    StorageError,
)  # fmt: skip
from consentd.ledger.kek import read_keks
from consentd.ledger.restored import RESTORED_NAME, read_restored
from consentd.v1 import consent_pb2 as pb

SILENT = Progress(lambda count: None, lambda done, total: None)
NOW_MS = 1_900_000_000_000
OTHER = "elsewhere"


@dataclasses.dataclass
class Made:
    """A ledger that was backed up twice, and whose daemon is stopped: 1 and 2 came before ``one``, 3 before ``two``."""

    directory: Path
    config: Config
    one: tuple[Path, Path]
    two: tuple[Path, Path]
    tags: dict[str, bytes]
    secrets: dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("made")
    running = make_running(directory, section(), retention_days=30)
    add_authority(running)
    subjects = [running.enrol(f"SYN-{number}") for number in (1, 2)]
    for subject in subjects:
        running.grant(subject)
        running.authorize(question(subject))
    vault = services(running).vault
    tags, secrets = {}, {}
    for subject in subjects:
        hashed = vault.identifier_hash(subject.scheme, subject.value)
        tag = vault.find(hashed)
        assert tag is not None
        tags[subject.value], secrets[subject.value] = tag, vault.store.get(b"k" + tag) or b""
    one = back_up(running, "one")
    running.enrol("SYN-3")
    running.wait_published()  # so that the second backup has two seals more
    running.grant(pb.Subject(scheme="mhid", value="SYN-3"))
    running.wait_published()
    two = back_up(running, "two")
    erase(running, order(running, subjects[1]))
    running.stop()
    return Made(directory, running.config, one, two, tags, secrets)


def elsewhere(made: Made, tmp_path: Path, *, erasures: bool = True) -> Config:
    """Return the configuration of an empty data directory with the same keys; *erasures*: with the list beside it."""
    text = config_text(section(), data_dir=f'"{tmp_path / OTHER}"', retention_days=30)
    config = parse(text, base_dir=made.directory)
    config.ledger.data_dir.mkdir(exist_ok=True)
    if erasures:
        shutil.copy(made.config.ledger.data_dir / "erasures", config.ledger.data_dir / "erasures")
    return config


def pins(config: Config) -> Pins:
    return Pins(ORIGIN, read_signing_key(config.keys.log_key_file).verifier, read_keks(config.keys))


def restore(
    config: Config, sets: tuple[Path, Path | None], *, without_erasures: bool = False, keys: Identities | None = None
) -> restoring.Restoration:
    pair = find_pair(*sets, origin=config.ledger.origin)
    return restoring.restore(
        config, pair, identities=keys or identities(), pins=pins(config), without_erasures=without_erasures,
        now_ms=NOW_MS, progress=SILENT,
    )  # fmt: skip


def left(config: Config) -> set[str]:
    return {path.name for path in config.ledger.data_dir.iterdir()}


def copied(sets: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copy both sets, to damage the copies."""
    found = tuple(Path(shutil.copytree(path, tmp_path / path.parent.name / path.name)) for path in sets)
    return found[0], found[1]


def has_bytes(directory: Path, secret: bytes) -> bool:
    return any(secret in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_a_backup_is_restored_and_marked_and_who_was_erased_since_is_erased_again(made: Made, tmp_path: Path) -> None:
    config = elsewhere(made, tmp_path)
    done = restore(config, made.one)
    assert done.report.faults == ()
    assert not done.report.not_checked
    assert done.erased == 1
    of = find_pair(*made.one, origin=ORIGIN).ledger.manifest.of
    mark = read_restored(config.ledger.data_dir)
    assert mark is not None
    assert (mark.origin, mark.tree_size, mark.root) == (ORIGIN, of.tree_size, of.root)
    assert (mark.backup_time_ms, mark.restored_time_ms) == (of.time_ms, NOW_MS)
    assert left(config) == {"ledger", "vault", "erasures", "checkpoint.published", RESTORED_NAME}
    assert config.ledger.published_path.read_bytes() == of.checkpoint
    # Before any daemon has served with it: the wrapped key is in no file, and that of the other person is.
    assert not has_bytes(config.ledger.data_dir, made.secrets["SYN-2"])
    assert has_bytes(config.ledger.data_dir, made.secrets["SYN-1"])
    assert all(path.stat().st_mode & 0o077 == 0 for path in (config.ledger.store_dir, config.ledger.vault_dir))


def test_without_the_list_of_erasures_it_must_be_said(made: Made, tmp_path: Path) -> None:
    config = elsewhere(made, tmp_path, erasures=False)
    with pytest.raises(PreconditionError, match="list of erasures"):
        restore(config, made.one)
    assert left(config) == set()
    assert restore(config, made.one, without_erasures=True).erased == 0
    assert has_bytes(config.ledger.data_dir, made.secrets["SYN-2"])


def test_a_ledger_is_restored_without_its_vault(made: Made, tmp_path: Path) -> None:
    config = elsewhere(made, tmp_path, erasures=False)
    done = restore(config, (made.one[0], None))
    assert done.report.faults == ()
    assert done.report.not_checked  # the statements of persons
    assert left(config) == {"ledger", "checkpoint.published", RESTORED_NAME}


def test_a_newer_vault_fits_and_an_older_one_does_not(made: Made, tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="lacks keys of persons"):
        find_pair(made.two[0], made.one[1], origin=ORIGIN)
    config = elsewhere(made, tmp_path)
    assert restore(config, (made.one[0], made.two[1])).report.faults == ()


@pytest.mark.parametrize("name", ["ledger", "vault", "table", "notes"])
def test_a_directory_that_is_not_empty_is_left_as_it_is(made: Made, tmp_path: Path, name: str) -> None:
    config = elsewhere(made, tmp_path)
    (config.ledger.data_dir / name).mkdir()
    (config.ledger.data_dir / name / "file").write_text("kept")
    with pytest.raises(PreconditionError, match="not empty"):
        restore(config, made.one)
    assert left(config) == {name, "erasures"}
    assert (config.ledger.data_dir / name / "file").read_text() == "kept"


def test_the_files_of_the_operator_may_be_there(made: Made, tmp_path: Path) -> None:
    config = elsewhere(made, tmp_path)
    shutil.copy(made.config.ledger.last_signed_path, config.ledger.last_signed_path)
    shutil.copy(made.config.ledger.issued_credentials_path, config.ledger.issued_credentials_path)
    before = config.ledger.last_signed_path.read_bytes()
    restore(config, made.one)
    assert config.ledger.last_signed_path.read_bytes() == before


# -- sets that are not what they should be ---------------------------------------------------------------------------


def _edit(field: str, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        manifest[field] = value
        (path / "manifest.json").write_text(json.dumps(manifest))

    return damage


def _no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def _cut_manifest(path: Path) -> None:
    content = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(content[: len(content) // 2])


def _linked_manifest(path: Path) -> None:
    (path / "manifest.json").rename(path / "other.json")
    (path / "manifest.json").symlink_to(path / "other.json")


def _foreign_manifest(path: Path) -> None:
    (path / "manifest.json").write_bytes((path.parent / "other" / "manifest.json").read_bytes())


def _swapped(path: Path) -> None:
    first, second, *_ = sorted(path.glob("*.age"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], None], type[ConsentdError]]] = {
    "no manifest": (_no_manifest, StorageError),
    "half a manifest": (_cut_manifest, CorruptionError),
    "a link in the place of the manifest": (_linked_manifest, CorruptionError),
    "the manifest of another backup": (_foreign_manifest, CorruptionError),
    "two files swapped": (_swapped, CorruptionError),
    "another origin": (_edit("origin", "consent.test/other"), InvalidError),
    "another kind": (_edit("kind", "vault"), InvalidError),
    "another size": (_edit("tree_size", 1), CorruptionError),
    "another root": (_edit("root", "00" * 32), CorruptionError),
    "another map root": (_edit("map_root", "00" * 32), CorruptionError),
    "another state of the vault": (_edit("vault_state", "00" * 40), CorruptionError),
    "no checkpoint": (_edit("checkpoint", ""), CorruptionError),
    "no files": (_edit("files", []), StorageError),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_set_that_is_not_whole_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    damage, error = DAMAGES[name]
    config, sets = elsewhere(made, tmp_path), copied(made.two, tmp_path)
    shutil.copytree(made.one[0], sets[0].parent / "other")
    damage(sets[0])
    with pytest.raises(error):
        restore(config, sets)
    assert left(config) == {"erasures"}


def test_a_manifest_with_the_checkpoint_of_an_older_backup_is_refused(made: Made, tmp_path: Path) -> None:
    """It verifies, and is of this tree. But the log's key has not confirmed what came after it."""
    config, sets = elsewhere(made, tmp_path), copied(made.two, tmp_path)
    older = find_pair(*made.one, origin=ORIGIN).ledger.manifest.of.checkpoint
    _edit("checkpoint", older.decode())(sets[0])
    with pytest.raises(CorruptionError, match="older checkpoint"):
        restore(config, sets)
    assert left(config) == {"erasures"}


@pytest.mark.parametrize("kind", ["ledger", "vault"])
def test_garbage_in_any_file_of_a_set_is_found(made: Made, tmp_path: Path, kind: str) -> None:
    config, sets = elsewhere(made, tmp_path), copied(made.one, tmp_path)
    path = sets[0] if kind == "ledger" else sets[1]
    for file in sorted(path.glob("*.age")):
        content = file.read_bytes()
        middle = len(content) // 2
        for changed in (
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], content[:-1], b"",
            content + b"\0", os.urandom(len(content)),
        ):  # fmt: skip
            file.write_bytes(changed)
            with pytest.raises(CorruptionError):
                restore(config, sets)
        file.unlink()
        with pytest.raises(CorruptionError, match="missing"):
            restore(config, sets)
        file.symlink_to("/dev/zero")
        with pytest.raises(CorruptionError, match="symbolic link"):
            restore(config, sets)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(CorruptionError):
            restore(config, sets)
        file.unlink()
        file.write_bytes(content)
    assert left(config) == {"erasures"}
    assert restore(config, sets).report.faults == ()


def test_a_file_that_somebody_else_encrypted_is_found(made: Made, tmp_path: Path) -> None:
    """Everybody who knows the recipient can encrypt, and write a manifest that fits."""
    config, sets = elsewhere(made, tmp_path), copied(made.one, tmp_path)
    other = json.loads((made.two[0] / "manifest.json").read_text())
    manifest = json.loads((sets[0] / "manifest.json").read_text())
    for file in sets[0].glob("*.age"):
        file.unlink()
    for file in made.two[0].glob("*.age"):
        shutil.copy(file, sets[0] / file.name)
    (sets[0] / "manifest.json").write_text(json.dumps({**manifest, "files": other["files"]}))
    with pytest.raises(CorruptionError, match="another tree"):
        restore(config, sets)
    assert left(config) == {"erasures"}


def test_the_key_of_nobody_opens_nothing(made: Made, tmp_path: Path) -> None:
    config = elsewhere(made, tmp_path)
    with pytest.raises(InvalidError, match="identity opens no file"):
        restore(config, made.one, keys=Identities(str(pyrage.x25519.Identity.generate())))
    assert left(config) == {"erasures"}
    for text in ("", "# nothing\n", "AGE-SECRET-KEY-1XX", str(pyrage.x25519.Identity.generate().to_public())):
        with pytest.raises(InvalidError) as raised:
            Identities(text)
        assert "XX" not in str(raised.value)


def test_another_ledgers_keys_restore_nothing(made: Made, tmp_path: Path) -> None:
    other = make_running(tmp_path / "other", section())
    other.stop()
    config = elsewhere(made, tmp_path)
    keys = dataclasses.replace(config.keys, log_key_file=other.config.keys.log_key_file)
    with pytest.raises(CorruptionError, match="last signed checkpoint does not verify"):
        restore(dataclasses.replace(config, keys=keys), made.one)
    keys = dataclasses.replace(config.keys, vault_kek=other.config.keys.vault_kek)
    with pytest.raises(StorageError, match="key-encryption key"):
        restore(dataclasses.replace(config, keys=keys), made.one)
    assert left(config) == {"erasures"}


# -- kills and failures ------------------------------------------------------------------------------------------------

_PROGRAM = """
import os, sys
from pathlib import Path
from consentd import cli
from consentd.backup import restoring
name, argv = sys.argv[1], sys.argv[2:]
number, _, name = name.rpartition(":")
of, attribute = (os, name.removeprefix("os.")) if name.startswith("os.") else (restoring, name)
real, left = getattr(of, attribute), [int(number)]
def kill(*args, **more):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    return real(*args, **more)
setattr(of, attribute, kill)
sys.exit(cli.main(argv))
"""
STEPS = [
    "1:unpack", "2:unpack", "1:verify_files", "1:destroy_again", "1:write_file", "1:os.replace", "1:write_restored",
    "2:os.replace", "1:sync", "2:sync", "3:sync",
]  # fmt: skip
"""At which call of what the process is killed. ``os.replace`` ends the writing of a file."""


@pytest.fixture
def config_file(made: Made, tmp_path: Path) -> Iterator[Path]:
    """Write the configuration of ``elsewhere`` beside the keys."""
    elsewhere(made, tmp_path)
    path = made.directory / f"{tmp_path.name}.toml"
    path.write_text(config_text(section(), data_dir=f'"{tmp_path / OTHER}"', retention_days=30))
    yield path
    path.unlink()


def options(made: Made, config_file: Path, tmp_path: Path) -> list[str]:
    ledger, vault = made.one
    identity = write_identity(tmp_path)
    given = {"config": config_file, "ledger": ledger, "vault": vault, "identity": identity}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


@pytest.mark.parametrize("step", STEPS)
def test_a_restore_that_was_killed_is_begun_again(made: Made, tmp_path: Path, config_file: Path, step: str) -> None:
    argv = ["restore", *options(made, config_file, tmp_path)]
    killed = subprocess.run(
        [sys.executable, "-c", _PROGRAM, step, *argv], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = elsewhere(made, tmp_path)
    data_dir = config.ledger.data_dir
    if config.ledger.store_dir.exists():
        assert {"ledger", "vault", RESTORED_NAME} <= left(config)
        assert CommandLine()(*argv).status == 2
    else:
        assert (data_dir / PART_NAME).exists() or step == "1:sync"
        if (data_dir / PART_NAME).exists():
            with pytest.raises(PreconditionError, match="restore was not finished"):
                restoring.check_no_part(config.ledger)
        shown = CommandLine()(*argv, "--json")
        assert (shown.status, shown.objects[-1]["erased"]) == (0, 1), shown.err
    assert not (data_dir / PART_NAME).exists() or step == "3:sync"
    assert not has_bytes(data_dir, made.secrets["SYN-2"])


def test_a_full_disk_leaves_the_directory_empty(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = elsewhere(made, tmp_path)
    for name in ("write_restored", "write_file", "destroy_again", "verify_files"):
        with monkeypatch.context() as patch:

            def full(*_: object, **__: object) -> None:
                raise StorageError("No space left on device")

            patch.setattr(restoring, name, full)
            with pytest.raises(StorageError):
                restore(config, made.one)
        assert left(config) == {"erasures"}
    restore(config, made.one)


# -- verbs, and the proof of the day ---------------------------------------------------------------------------------


def test_the_verb_verify_proves_the_newest_backup_and_notes_it(
    made: Made, tmp_path: Path, config_file: Path
) -> None:
    run, given = CommandLine(), ["--config", str(config_file), "--identity", str(write_identity(tmp_path))]
    backups = made.config.backup.dir
    assert backups is not None
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shown = run("backup", "verify", *given, "--scratch", scratch, "--json")
    assert (shown.status, shown.object["verdict"], shown.object["name"]) == (0, "proven", "two"), shown.err
    assert not list(scratch.iterdir())
    proven = read_proven(backups)
    of = find_pair(*made.two, origin=ORIGIN).ledger.manifest.of
    assert proven is not None
    assert (proven.origin, proven.name, proven.backup_time_ms) == (ORIGIN, "two", of.time_ms)
    times = BackupTimes(None, origin=ORIGIN, clock=FakeClock())
    assert times.proven_s() != times.proven_s()  # NaN
    shown = run("backup", "verify", made.one[1], made.one[0], *given, "--json")
    assert (shown.status, shown.object["name"]) == (0, "one")
    shown = run("backup", "verify", *made.two, *given)
    before = read_proven(backups)
    assert before is not None
    assert (shown.status, before.name) == (0, "two")
    mixed = run("backup", "verify", made.one[0], made.two[1], *given)
    assert mixed.status == 0
    assert read_proven(backups) == before
    alone = run("backup", "verify", made.two[0], *given)
    assert alone.status == 2  # what the vault would show could not be determined
    assert read_proven(backups) == before
    for sets in ([made.one[1]], [made.one[0], made.two[0]], [tmp_path]):
        assert run("backup", "verify", *sets, *given).status == 2


def test_a_manifest_from_the_future_is_not_the_newest_and_is_not_proven(
    made: Made, tmp_path: Path, config_file: Path
) -> None:
    sets = copied(made.one, tmp_path)
    for path in sets:
        _edit("time_ms", 1 << 50)(path)
    run, given = CommandLine(), ["--config", str(config_file), "--identity", str(write_identity(tmp_path))]
    assert run("backup", "verify", *sets, *given).status == 1
    directory = BackupDirectory(tmp_path / "all")
    shutil.copytree(made.config.backup.dir, directory.path)  # type: ignore[arg-type]
    for kind, path in zip((SetKind.LEDGER, SetKind.VAULT), sets, strict=True):
        shutil.copytree(path, directory.set_path(kind, "planted"))
    newest = directory.newest(latest_ms=time.time_ns() // 1_000_000)
    assert newest is not None
    assert newest[0].name == "two"


def test_a_damaged_backup_is_not_proven(made: Made, tmp_path: Path, config_file: Path) -> None:
    sets = copied(made.one, tmp_path)
    _swapped(sets[1])
    given = ["--config", str(config_file), "--identity", str(write_identity(tmp_path))]
    assert CommandLine()("backup", "verify", *sets, *given).status == 1
    assert CommandLine()("restore", "--ledger", sets[0], "--vault", sets[1], *given).status == 1
    _edit("expires_time_ms", 1)(sets[0])
    expired = CommandLine()("backup", "verify", *sets, *given)
    assert (expired.status, "expired" in expired.err) == (2, True)


def test_the_verb_restores(made: Made, tmp_path: Path, config_file: Path) -> None:
    shown = CommandLine()("restore", *options(made, config_file, tmp_path), "--json")
    assert shown.status == 0, shown.err
    assert shown.objects[-1]["type"] == "restored"
    assert CommandLine()("fsck", tmp_path / OTHER / "ledger", "--log-key", log_key(made)).status in (0, 2)


def log_key(made: Made) -> str:
    return format_vkey(read_signing_key(made.config.keys.log_key_file).verifier)


def test_the_daemon_shows_which_backup_was_proven(made: Made, tmp_path: Path) -> None:
    running = make_running(tmp_path, section())
    try:

        def shown(name: str) -> float:
            text = running.daemon.metrics.render(with_private=True).decode()
            [line] = [line for line in text.splitlines() if line.startswith(f"consentd_{name} ")]
            return float(line.split()[1])

        assert (shown("backup_time_seconds"), shown("backup_proven_time_seconds")) == (0, 0)
        ledger, vault = back_up(running)
        pair = find_pair(ledger, vault, origin=ORIGIN)
        assert shown("backup_time_seconds") == pair.ledger.manifest.of.time_ms / 1000
        backups = running.config.backup.dir
        assert backups is not None
        write_proven(backups, restoring.proven_by(pair, now_ms=NOW_MS))
        assert shown("backup_proven_time_seconds") == 0  # from the future
        write = restoring.proven_by(pair, now_ms=pair.ledger.manifest.of.time_ms)
        write_proven(backups, write)
        assert shown("backup_proven_time_seconds") == pair.ledger.manifest.of.time_ms / 1000
        write_proven(backups, dataclasses.replace(write, origin="consent.test/other"))
        assert shown("backup_proven_time_seconds") == 0
        for content in (b"", b"{}", b"\xff", b"[1]", b"x" * 5000):
            (backups / "proven.json").write_bytes(content)
            assert shown("backup_proven_time_seconds") == 0
    finally:
        running.stop()
    again = Running(running.config, running.tokens)
    try:
        assert again.daemon.metrics.render(with_private=True).decode().count("consentd_backup_time_seconds 0.0") == 0
    finally:
        again.stop()


def test_a_backup_under_writes_is_restored_and_proven(made: Made, tmp_path: Path) -> None:
    """The daemon writes all the time, in entries of many persons, while three backups are made."""
    running = make_running(tmp_path, section())
    running.enrol("SYN-0")
    stopped, errors = threading.Event(), list[Exception]()

    def write() -> None:
        number = 0
        try:
            while not stopped.is_set():
                number += 1
                subject = running.enrol(f"SYN-w{number}")
                running.grant(subject)
                running.authorize(question(subject))
        except Exception as error:  # noqa: BLE001  # shown by the test
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        names = [operator(running).back_up(name=f"n{number}").name for number in range(3)]
    finally:
        stopped.set()
        writer.join()
    assert not errors
    running.check_ledger()
    running.stop()
    for name in names:
        pair = find_pair(*sets_of(running, name), origin=ORIGIN)
        report = restoring.try_restore(
            pair, tmp_path, identities=identities(), pins=pins(running.config), progress=SILENT
        )
        assert (report.faults, dict(report.not_checked)) == ((), {})
        assert report.size == pair.ledger.manifest.of.tree_size
