"""``consentd backup``: back up ledger and vault."""

import argparse

from consentd.cli.administration import bar, show_backup
from consentd.cli.options import Verbs, add_daemon, add_verb, open_client
from consentd.cli.out import DONE, Out

_BACKUP_HELP = """\
The daemon writes it into the directory that its configuration names (`backup.dir`), encrypted to `backup.recipients`:
a set of the ledger in `ledger/NAME`, and a set of the vault in `vault/NAME`. Copy the two to different places. Delete
both when they expire: until then they have what was erased since. Expired sets in `backup.dir` are deleted by the next
backup. No set has a key, the list of erasures, or the last signed checkpoint: see ops/RUNBOOK.md, `Back up`.

It runs in the daemon, also if this verb is interrupted: `consentd operation` follows or cancels it.

examples:
  consentd backup
  consentd backup --name before-upgrade
  consentd backup verify --config ops/consentd.toml --identity backup.key
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "backup", backup, add_daemon, more=_BACKUP_HELP)
    verb.add_argument("--name", default="", help="name of the backup (default: the time)")
    verb.add_argument("--no-wait", action="store_true", help="start it, print its id, and do not wait for its end")
    verb.set_defaults(timeout=86_400.0)


def backup(arguments: argparse.Namespace, out: Out) -> int:
    """Back up ledger and vault while the daemon serves (for the operator)."""
    from consentd_client.admin import backup_result

    with open_client(arguments) as client, out.progress("backing up") as progress:
        operation_id = client.start_backup(name=arguments.name).operation_id
        if arguments.no_wait:
            out.answer(operation_id, type="operation", operation_id=operation_id)
            return DONE
        out.message(f"operation {operation_id} runs in the daemon: `consentd operation cancel {operation_id}` ends it")
        done = client.follow_operation(operation_id, progress=bar(progress))
    show_backup(out, backup_result(done))
    return DONE
