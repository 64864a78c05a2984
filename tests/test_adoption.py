"""A new ledger begins in the place of one that lost entries, and names its last checkpoint."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, config_text, make_config, make_running
from cases.processes import ENVIRONMENT
from cases.restored import Backup
from consentd import cli
from consentd.config import Config, parse
from consentd.core import codec
from consentd.core.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.note import Signer, parse_note
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import CorruptionError, InvalidError, PreconditionError, StorageError
from consentd.files import lock_directory, write_file
from consentd.ledger import reads
from consentd.ledger.predecessor import PREDECESSOR_NAME, write_predecessor
from consentd.ledger.restored import RESTORED_NAME, read_restored
from consentd.server import adoption
from consentd.server.adoption import adopt
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client import show

NOW_MS = 1_700_000_200_000
NEW_ORIGIN = "new.example.org"


@dataclass(frozen=True)
class Original:
    """A stopped ledger in *directory*, and a backup of an earlier state of it. *newest*: its last checkpoint."""

    directory: Path
    tokens: dict[str, str]
    backup: Backup
    newest: bytes


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    directory = tmp_path_factory.mktemp("original")
    running = make_running(directory)
    running.check_ledger()
    running.enrol("SYN-730142")
    running.check_ledger()
    running.stop()
    backup = Backup(running, tmp_path_factory.mktemp("backups"))
    again = Running(running.config, running.tokens)
    again.enrol("SYN-730143")
    again.check_ledger()
    again.stop()
    return Original(directory, running.tokens, backup, running.config.ledger.last_signed_path.read_bytes())


class Case:
    """A ledger that was restored from a backup, and a configuration with keys for its successor.

    Attributes:
        original: a copy of the ledger that was backed up, with all its entries.
    """

    def __init__(self, directory: Path, original: Original) -> None:
        self.directory = directory
        self.tokens, self.newest, backup = original.tokens, original.newest, original.backup
        self.mark = backup.mark
        shutil.copytree(original.directory, directory / "old")
        self.original = make_config(directory / "old")
        self.old = backup.restore(directory / "restored", last_signed=self.newest, published=backup.note)
        self.new = self.make_new("new", NEW_ORIGIN)
        self.token = make_keys(self.new)

    def make_new(self, name: str, origin: str) -> Config:
        """Return a configuration for a new ledger; it has no keys yet."""
        (self.directory / name).mkdir(exist_ok=True)
        text = config_text(origin=origin)
        (self.directory / name / "consentd.toml").write_text(text)
        return parse(text, base_dir=self.directory / name)

    def adopt(self, **changed: Any) -> Any:
        """Adopt, with the right size unless another one is given."""
        given = {"new": self.new, "old": self.old, "accepted_size": self.mark.tree_size, "now_ms": NOW_MS, **changed}
        return adopt(given.pop("new"), given.pop("old"), **given)

    def begin(self) -> st.LedgerStatement:
        """Start the new ledger; return the statement of its leaf 0."""
        running = Running(self.new, {"operator": self.token})
        services = running.wait_published()
        first = reads.open_entry(services.vault, reads.read_entry(services.ledger.store, codec.LEDGER_TAG, 1))
        assert first is not None
        running.stop()
        return st.LedgerStatement.FromString(codec.decode_statement(first[1]).payload)


@pytest.fixture
def case(tmp_path: Path, original: Original) -> Case:
    return Case(tmp_path, original)


def point_of(note: bytes) -> Checkpoint:
    return parse_checkpoint(parse_note(note).text)


def test_a_new_ledger_names_the_last_checkpoint_of_the_one_in_whose_place_it_begins(case: Case) -> None:
    adopted = case.adopt()
    assert adopted.checkpoint == point_of(case.newest)
    assert adopted.size == case.mark.tree_size < adopted.checkpoint.size
    stated = case.begin()
    assert (stated.origin, stated.predecessor) == (NEW_ORIGIN, case.newest)
    old = Running(case.old, case.tokens)  # the old ledger is readable beside it
    assert list(old.ledger.GetHistory(ls.GetHistoryRequest(public_name="ledger")))
    assert old.daemon.metrics.value("consentd_restored_copy") == 1
    old.stop()


def test_a_ledger_that_is_no_restored_copy_only_reads_after_its_adoption(case: Case) -> None:
    size = point_of(case.newest).size
    adopted = case.adopt(old=case.original, accepted_size=size)
    assert (adopted.checkpoint, adopted.size) == (point_of(case.newest), size)
    mark = read_restored(case.original.ledger.data_dir)
    assert mark is not None
    assert (mark.origin, mark.tree_size, mark.root) == (ORIGIN, size, adopted.checkpoint.root)
    old = Running(case.original, case.tokens)
    assert old.daemon.metrics.value("consentd_restored_copy") == 1
    old.stop()
    assert case.begin().predecessor == case.newest


def test_a_second_adoption_before_the_start_has_the_same_result(case: Case) -> None:
    assert case.adopt() == case.adopt()
    assert case.begin().predecessor == case.newest
    with pytest.raises(PreconditionError):
        case.adopt()


def test_a_newer_checkpoint_that_is_found_before_the_start_is_named_in_its_place(case: Case) -> None:
    case.old.ledger.last_signed_path.unlink()
    assert case.adopt().checkpoint == point_of(case.old.ledger.published_path.read_bytes())
    case.old.ledger.last_signed_path.write_bytes(case.newest)
    assert case.adopt().checkpoint == point_of(case.newest)
    assert case.begin().predecessor == case.newest


def test_without_an_adoption_no_predecessor_is_named(case: Case) -> None:
    assert case.begin().predecessor == b""


# -- what is refused, and changes nothing ---------------------------------------------------------------------


def other_checkpoint(case: Case, size: int, root: bytes = bytes(32)) -> bytes:
    """Return a checkpoint of another tree, signed with the old ledger's log key."""
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), [read_signing_key(case.old.keys.log_key_file)])


def _lock(case: Case) -> None:
    os.set_inheritable(lock_directory(case.old.ledger.data_dir), False)


def _remove_checkpoints(case: Case) -> None:
    case.old.ledger.last_signed_path.unlink()
    case.old.ledger.published_path.unlink()


def _sign(note: bytes) -> Callable[[Case], None]:
    return lambda case: write_file(case.old.ledger.last_signed_path, note)


def _sign_another_tree(case: Case) -> None:
    write_file(case.old.ledger.last_signed_path, other_checkpoint(case, case.mark.tree_size))


def _sign_by_another_key(case: Case) -> None:
    point = Checkpoint(ORIGIN, case.mark.tree_size + 99, bytes(32))
    note = sign_checkpoint(point, [Signer(ORIGIN, KeyPair(b"\x05" * 32))])
    write_file(case.old.ledger.last_signed_path, note)


def _damage_mark(case: Case) -> None:
    write_file(case.old.ledger.data_dir / RESTORED_NAME, b"{}")


def _elsewhere(case: Case) -> dict[str, Config]:
    return {"old": replace(case.old, ledger=replace(case.old.ledger, data_dir=case.directory / "absent"))}


def _copy_key(name: str) -> Callable[[Case], None]:
    def copy(case: Case) -> None:
        text = getattr(case.old.keys, name).read_text().replace(ORIGIN, NEW_ORIGIN)
        getattr(case.new.keys, name).write_text(text)

    return copy


REFUSED: dict[str, tuple[type[Exception], Callable[[Case], Any]]] = {
    "another size": (InvalidError, lambda case: {"accepted_size": case.mark.tree_size + 1}),
    "size of the checkpoint": (InvalidError, lambda case: {"accepted_size": point_of(case.newest).size}),
    "the same origin": (InvalidError, lambda case: {"new": case.make_new("same", ORIGIN)}),
    "the same directory": (
        InvalidError,
        lambda case: {"new": replace(case.new, ledger=replace(case.old.ledger, origin=NEW_ORIGIN))},
    ),
    "the old statement key": (InvalidError, _copy_key("statement_key_file")),
    "no keys": (StorageError, lambda case: {"new": case.make_new("no-keys", "none.example.org")}),
    "no checkpoint": (StorageError, _remove_checkpoints),
    "garbage": (CorruptionError, _sign(b"garbage")),
    "another tree": (CorruptionError, _sign_another_tree),
    "by another key": (CorruptionError, _sign_by_another_key),
    "a mark that is garbage": (CorruptionError, _damage_mark),
    "a daemon that runs": (StorageError, _lock),
    "no store": (StorageError, _elsewhere),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing(case: Case, name: str) -> None:
    kind, change = REFUSED[name]
    changed = change(case)
    before = (case.old.ledger.data_dir / RESTORED_NAME).read_bytes()
    with pytest.raises(kind):
        case.adopt(**(changed if isinstance(changed, dict) else {}))
    assert (case.old.ledger.data_dir / RESTORED_NAME).read_bytes() == before
    assert not (case.new.ledger.data_dir / PREDECESSOR_NAME).exists()


def test_a_predecessor_that_is_no_checkpoint_of_another_ledger_begins_nothing(case: Case) -> None:
    case.new.ledger.data_dir.mkdir()
    own = sign_checkpoint(Checkpoint(NEW_ORIGIN, 5, bytes(32)), [read_signing_key(case.new.keys.log_key_file)])
    for note in (b"", b"garbage", own, case.newest + b"x" * 8192):
        write_predecessor(case.new.ledger.data_dir, note)
        with pytest.raises(CorruptionError):
            Daemon(case.new).start()
    write_predecessor(case.new.ledger.data_dir, case.newest)
    assert case.begin().predecessor == case.newest


# -- a crash at each step -------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from pathlib import Path
from consentd.config import load
from consentd.server import adoption

left = int(sys.argv[4])

def ended(call):
    def run(*args, **more):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*args, **more)
    return run

adoption.write_restored = ended(adoption.write_restored)
adoption.write_predecessor = ended(adoption.write_predecessor)
adoption.adopt(load(Path(sys.argv[1])), load(Path(sys.argv[2])), accepted_size=int(sys.argv[3]), now_ms=1)
"""


@pytest.mark.parametrize("step", [0, 1])
def test_after_a_crash_the_old_ledger_signs_nothing_or_nothing_has_happened(case: Case, step: int) -> None:
    (case.directory / "old" / "consentd.toml").write_text(config_text())
    size = point_of(case.newest).size
    paths = (case.directory / "new" / "consentd.toml", case.directory / "old" / "consentd.toml")
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths), str(size), str(step)], env=ENVIRONMENT, timeout=120
    )
    assert child.returncode == -signal.SIGKILL
    is_marked = read_restored(case.original.ledger.data_dir) is not None
    assert is_marked == (step == 1)
    assert not (case.new.ledger.data_dir / PREDECESSOR_NAME).exists()
    case.adopt(old=case.original, accepted_size=size)
    assert case.begin().predecessor == case.newest


# -- the verb -------------------------------------------------------------------------------------------------


def test_the_verb_says_what_is_lost(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    (case.directory / "old" / "consentd.toml").write_text(config_text())
    paths = [str(case.directory / name / "consentd.toml") for name in ("new", "old")]
    verb = ["adopt", "--config", paths[0], "--predecessor", paths[1], "--i-accept-that-entries-are-lost-after"]
    assert cli.main([*verb, "3"]) == 2
    assert cli.main([*verb, "-3"]) == 2
    size = point_of(case.newest).size
    assert f"`{size}` leaves" in capsys.readouterr().err
    assert cli.main([*verb, str(size), "--json"]) == 0
    assert f'"predecessor_size": {size}' in capsys.readouterr().out
    assert adoption.read_restored(case.original.ledger.data_dir) is not None


def test_readers_show_the_predecessor(case: Case) -> None:
    point = point_of(case.newest)
    stated = st.LedgerStatement(origin=NEW_ORIGIN, predecessor=case.newest)
    shown = f"{NEW_ORIGIN}, in the place of {ORIGIN} @{point.size} {point.root.hex()}"
    assert show.describe(stated, "en") == shown
    for garbage in (b"garbage", b"\xff", case.newest[:-1]):
        stated.predecessor = garbage
        assert show.describe(stated, "en").startswith(f"{NEW_ORIGIN}, in the place of ")
    stated.predecessor = b""
    assert show.describe(stated, "en") == NEW_ORIGIN
