"""``consentd backup``, ``backup verify`` and ``restore``: back up ledger and vault, and restore them."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.administration import follow_started, show_backup
from consentd.cli.daemon_options import add_daemon, add_pins
from consentd.cli.daemons import add_config, load_own_config
from consentd.cli.options import Verbs, add_verb, open_client, read_pins
from consentd.cli.out import DISPROVED, DONE, PROVEN, UNDETERMINED, VERDICTS, Out, counted
from consentd.clock import MAX_AHEAD_MS
from consentd.config import Config, load
from consentd.dumps import forbid_dumps
from consentd.errors import CorruptionError, InvalidError, PreconditionError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from consentd.backup.reading import FoundPair
    from consentd.backup.restoring import Pins, Progress
    from consentd.verify.findings import Report

_BACKUP_HELP = """\
The daemon writes it into the directory that its configuration names (`backup.dir`), encrypted to `backup.recipients`:
a set of the ledger in `ledger/NAME`, and a set of the vault in `vault/NAME`. Copy the two to different places. Delete
both when they expire: until then they have what was erased since. Expired sets in `backup.dir` are deleted by the next
backup, also if it fails. No set has a key, the list of erasures, or the last signed checkpoint: see ops/RUNBOOK.md,
`Back up`.

It runs in the daemon, also if this verb is interrupted: `consentd operation` follows or cancels it. `consentd backup
verify` proves that a backup can be restored.

examples:
  consentd backup new-key backup.key
  consentd backup
  consentd backup --name before-upgrade
  consentd backup verify --config ops/consentd.toml --identity backup.key
"""
_VERIFY_HELP = """\
Does all that `consentd restore` does, in a temporary directory, which it deletes: it decrypts every file, and verifies
every record. Run it every day: when both sets of a backup are proven, it notes that in `backup.dir`, where the running
daemon reads it for its metrics and alarms. It needs the identity and the vault's key-encryption key, and may run on
another machine; then copy `proven.json` back.

exit status: 0 the backup can be restored, 1 it cannot, 2 something could not be determined.

examples:
  consentd backup verify --config ops/consentd.toml --identity backup.key
  consentd backup verify ledger/20261201t013000z vault/20261201t013000z --config ops/consentd.toml --identity backup.key
"""
_RESTORE_HELP = """\
No daemon may run, and `ledger.data_dir` must be empty, but for `last-signed`, `erasures` and `issued-credentials`: put
those of the damaged machine there before, if you have them. Every file is decrypted and every record verified before
anything is put in place. Persons whom the list `erasures` names are erased again.

The restored ledger is a copy: entries that came after the backup are missing, so it signs nothing and permits nothing
(`restored.json`). What to do next: ops/RUNBOOK.md, `Restore`.

Without --vault the ledger can be verified and exported, and proves public chains. Nobody reads statements of persons,
and no daemon starts with it.

exit status: 0 it is restored, 1 the backup is damaged or has faults, 2 something else prevents it.

example:
  consentd restore --config ops/consentd.toml --ledger ledger/NAME --vault vault/NAME --identity backup.key
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "backup", backup, add_daemon, more=_BACKUP_HELP)
    verb.add_argument("--name", default="", help="name of the backup (default: the time)")
    verb.add_argument("--no-wait", action="store_true", help="start it, print its id, and do not wait for its end")
    verb.set_defaults(timeout=86_400.0)
    under = verb.add_subparsers(title="verbs", metavar="VERB", required=False)
    one = add_verb(under, "new-key", new_key)
    one.add_argument("file", type=Path, metavar="FILE", help="a new file for the private key")
    one = add_verb(under, "verify", verify, add_config, more=_VERIFY_HELP)
    one.add_argument(
        "sets", type=Path, nargs="*", metavar="SET",
        help="directories of the sets of one backup (default: the newest backup in `backup.dir`)",
    )  # fmt: skip
    one.add_argument("--scratch", type=Path, metavar="DIR", help="where the temporary directory is made")
    _add_opening(one)
    one = add_verb(verbs, "restore", restore, add_config, more=_RESTORE_HELP)
    one.add_argument("--ledger", type=Path, required=True, metavar="SET", help="directory of the ledger's set")
    one.add_argument("--vault", type=Path, metavar="SET", help="directory of the vault's set")
    one.add_argument(
        "--without-erasures", action="store_true",
        help="the list of erasures is lost: persons who were erased after the backup are known again",
    )  # fmt: skip
    _add_opening(one)


def _add_opening(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--identity", type=Path, required=True, metavar="FILE", help="private key of a recipient (age)")
    verb.add_argument("--accept-expired", action="store_true", help="the backup may have expired")
    add_pins(verb, witnesses=False)


def backup(arguments: argparse.Namespace, out: Out) -> int:
    """Back up ledger and vault while the daemon serves (for the operator)."""
    from consentd_client.admin import backup_result

    with open_client(arguments) as client:
        operation_id = client.start_backup(name=arguments.name).operation_id
        done = follow_started(arguments, out, client, operation_id, "backing up")
    if done is not None:
        show_backup(out, backup_result(done))
    return DONE


def new_key(arguments: argparse.Namespace, out: Out) -> int:
    """Make a key that opens backups: write its private part to a file, and print the recipient (age)."""
    from consentd.backup.age import make_identity

    recipient = make_identity(arguments.file)
    out.message(f"private key written: `{arguments.file}`; whoever has it reads backups that name this recipient")
    out.answer(recipient, type="recipient", recipient=recipient)
    return DONE


def verify(arguments: argparse.Namespace, out: Out) -> int:
    """Prove that a backup can be restored, offline."""
    from consentd.backup.age import read_identities
    from consentd.backup.proof import is_past, write_proven
    from consentd.backup.restoring import proven_by, try_restore

    forbid_dumps()
    config = load(arguments.config)
    pair, pins = _find(arguments, config, *_sets(arguments, config))
    if not is_past(pair.ledger.manifest.of.time_ms, _now_ms()):
        raise CorruptionError(f"backup's manifest states a time in the future: `{pair.ledger.path}`")
    identities = read_identities(arguments.identity)
    with out.progress("verifying") as progress:
        report = try_restore(
            pair, arguments.scratch, identities=identities, pins=pins, progress=_progress(progress, pair.size)
        )
    status = _show(out, report, pair)
    of = None if pair.vault is None else pair.vault.manifest.of
    # A ledger with a vault of another backup proves neither of the two backups.
    if status == PROVEN and config.backup.dir is not None and of == pair.ledger.manifest.of:
        write_proven(config.backup.dir, proven_by(pair, now_ms=_now_ms()))
    return status


def restore(arguments: argparse.Namespace, out: Out) -> int:
    """Restore a backup into an empty data directory, offline."""
    from consentd.backup.age import read_identities
    from consentd.backup.restoring import restore as run
    from consentd.server.preflight import lock_data

    forbid_dumps()
    config = load_own_config(arguments)
    pair, pins = _find(arguments, config, arguments.ledger, arguments.vault)
    identities = read_identities(arguments.identity)
    lock = lock_data(config)
    try:
        with out.progress("restoring") as progress:
            done = run(
                config, pair, identities=identities, pins=pins, without_erasures=arguments.without_erasures,
                now_ms=_now_ms(), progress=_progress(progress, pair.size),
            )  # fmt: skip
    finally:
        os.close(lock)
    status = _show(out, done.report, pair)
    if status == DISPROVED:
        return DISPROVED
    of = pair.ledger.manifest.of
    out.answer(
        f"복원됨: {config.ledger.data_dir}, 크기 {of.tree_size}, {format_instant(of.time_ms)} 백업, "
        f"다시 삭제됨 {done.erased}명",
        f"restored: {config.ledger.data_dir}, size {of.tree_size}, backup of {format_instant(of.time_ms)}, "
        f"{counted(done.erased, 'persons')} erased again",
        type="restored", size=of.tree_size, root=of.root.hex(), backup_time_ms=of.time_ms, erased=done.erased,
        vault=pair.vault is not None,
    )  # fmt: skip
    out.message("this is a restored copy: it signs nothing and permits nothing; see ops/RUNBOOK.md, `Restore`")
    if pair.vault is None:
        out.message("without its vault no statement of a person can be read, and the daemon does not start")
    return DONE


def _sets(arguments: argparse.Namespace, config: Config) -> tuple[Path, Path | None]:
    """Return the sets to verify: the ones given, or those of the newest backup."""
    from consentd.backup.directory import BackupDirectory
    from consentd.backup.reading import find_sets

    if arguments.sets:
        return find_sets(arguments.sets)
    if config.backup.dir is None:
        raise InvalidError("no set is given, and the configuration has no `backup.dir`")
    newest = BackupDirectory(config.backup.dir).newest(latest_ms=_now_ms() + MAX_AHEAD_MS)
    if newest is None:
        raise PreconditionError(f"there is no backup: `{config.backup.dir}`: `consentd backup` makes one")
    return newest


def _find(
    arguments: argparse.Namespace, config: Config, ledger: Path, vault: Path | None
) -> "tuple[FoundPair, Pins]":
    """Return the sets, and what they are verified by. The log key comes from the operator's file if none is pinned."""
    from consentd.backup.reading import check_not_expired, find_pair
    from consentd.backup.restoring import Pins
    from consentd.cosigning.keyfiles import read_signing_key
    from consentd.ledger.kek import read_keks

    origin = arguments.origin or config.ledger.origin
    pair = find_pair(ledger, vault, origin=origin)
    if not arguments.accept_expired:
        check_not_expired(pair, now_ms=_now_ms())
    # INVARIANT: if a log key is pinned, it is used.
    log_key = read_pins(arguments)[1] if arguments.log_key else read_signing_key(config.keys.log_key_file).verifier
    return pair, Pins(origin, log_key, () if vault is None else read_keks(config.keys))


def _progress(show: Callable[[int, int], None], size: int) -> "Progress":
    """Return what shows the progress of a restore: first of the bytes, then of the leaves."""
    from consentd.backup.restoring import Progress

    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        show(done, size)

    return Progress(on_bytes, show)


def _show(out: Out, report: "Report", pair: "FoundPair") -> int:
    """Show what the verification of all records found; return the exit status."""
    out.findings(report.faults, report.not_checked)
    status = DISPROVED if report.faults else UNDETERMINED if report.not_checked else PROVEN
    verdict, of = VERDICTS[status][0], pair.ledger.manifest.of
    out.answer(
        f"{verdict}: backup `{of.name}` of {format_instant(of.time_ms)}: {counted(report.entries, 'entries')}, "
        f"{counted(report.statements_opened, 'statements')} opened, {report.statements_erased} erased, "
        f"{counted(len(report.faults), 'faults')}" + (" or more" if report.stopped else ""),
        type="proof", verdict=verdict, name=of.name, backup_time_ms=of.time_ms, size=report.size,
        entries=report.entries, statements_opened=report.statements_opened,
        statements_erased=report.statements_erased, faults=len(report.faults), not_checked=report.not_checked,
    )  # fmt: skip
    return status


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
