"""``consentd fsck``, ``compact`` and ``table``: maintain a ledger's files."""

import argparse
import os
from contextlib import ExitStack, closing
from pathlib import Path

from consentd.cli.daemon_options import add_pins
from consentd.cli.daemons import add_config, load_own_config
from consentd.cli.options import Verbs, add_group, add_verb, read_pins
from consentd.cli.out import DISPROVED, DONE, PROVEN, UNDETERMINED, VERDICTS, Out, counted
from consentd.config import load
from consentd.dumps import forbid_dumps
from consentd.errors import InvalidError

_FSCK_HELP = """\
The daemon must be stopped; or give a copy of the store as DIR, with --log-key. Nothing is repaired.

exit status: 0 no fault was found, 1 a fault was found, 2 something could not be determined.
"""

def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "fsck", fsck, more=_FSCK_HELP)
    add_config(verb, required=False)
    verb.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="a copy of the ledger's store")
    verb.add_argument("--quick", action="store_true", help="leave out statements, signatures and the table")
    add_pins(verb, witnesses=False)
    add_verb(verbs, "compact", compact, add_config)
    under = add_group(verbs, "table", "rebuild or verify the policy table, offline")
    add_verb(under, "rebuild", rebuild_table, add_config)
    add_verb(under, "verify", verify_table, add_config)


def fsck(arguments: argparse.Namespace, out: Out) -> int:
    """Verify all files of a ledger, offline."""
    from consentd.ledger.erasure import LIST_NAME, ErasureList
    from consentd.ledger.restored import read_restored
    from consentd.ledger.vault import Vault
    from consentd.server.keys import read_keys
    from consentd.store.rocks import RocksStore
    from consentd.table.table import Table
    from consentd.verify.fsck import verify_files

    if (arguments.config is None) == (arguments.directory is None):
        raise InvalidError("give --config FILE or DIR, one of both")
    with ExitStack() as stack, out.progress("verifying") as progress:
        store_dir, last_signed_path, vault, table, own = arguments.directory, None, None, None, None
        erased_since: frozenset[bytes] = frozenset()
        if arguments.config is not None:
            forbid_dumps()
            config = load(arguments.config)
            keys = read_keys(config)
            store_dir, last_signed_path = config.ledger.store_dir, config.ledger.last_signed_path
            if read_restored(config.ledger.data_dir) is not None:
                out.message("a restored copy, which may lack entries: not compared with the last signed checkpoint")
                erased_since = ErasureList(last_signed_path.with_name(LIST_NAME)).tags()
                last_signed_path = None
            vault_store = stack.enter_context(closing(RocksStore.open_read_only(config.ledger.vault_dir)))
            vault = Vault(vault_store, keys.keks)
            if config.table.path.exists():
                table = stack.enter_context(closing(Table.open_read_only(config.table.path)))
            own = arguments.origin or config.ledger.origin, keys.log.verifier
        # INVARIANT: if a log key is pinned, it is used. Otherwise the log key comes from the operator's own key file.
        origin, log_key = read_pins(arguments) if own is None or arguments.log_key else own
        store = stack.enter_context(closing(RocksStore.open_read_only(store_dir)))
        report = verify_files(
            store, origin=origin, log_verifier=log_key, last_signed_path=last_signed_path, vault=vault, table=table,
            quick=arguments.quick, erased_since=erased_since, progress=progress,
        )  # fmt: skip
    out.findings(report.faults, report.not_checked)
    status = DISPROVED if report.faults else UNDETERMINED if report.not_checked else PROVEN
    verdict, _ = VERDICTS[status]
    out.answer(
        f"{verdict}: {counted(report.entries, 'entries')}, {counted(report.seals, 'seals')}, "
        f"{counted(report.statements_opened, 'statements')} opened, "
        f"{report.statements_erased} erased, {counted(report.leaves_pruned, 'leaves')} and "
        f"{counted(report.statements_pruned, 'statements')} "
        f"pruned, {counted(len(report.faults), 'faults')}" + (" or more" if report.stopped else ""),
        type="report", verdict=verdict, size=report.size, entries=report.entries, seals=report.seals,
        statements_opened=report.statements_opened, statements_erased=report.statements_erased,
        leaves_pruned=report.leaves_pruned, statements_pruned=report.statements_pruned,
        faults=len(report.faults), not_checked=report.not_checked, stopped=report.stopped,
    )  # fmt: skip
    return status


def compact(arguments: argparse.Namespace, out: Out) -> int:
    """Rewrite the store's files without what was deleted; the daemon must be stopped."""
    from consentd.cosigning.keyfiles import read_signing_key
    from consentd.ledger import layout
    from consentd.ledger.restored import read_restored
    from consentd.server.preflight import check_ledger_files, lock_data
    from consentd.store import prefix_end
    from consentd.store.rocks import RocksStore

    config = load_own_config(arguments)
    with ExitStack() as stack, out.progress("rewriting") as progress:
        stack.callback(os.close, lock_data(config))
        restored = read_restored(config.ledger.data_dir)
        check_ledger_files(config, read_signing_key(config.keys.log_key_file).verifier, restored)
        store = stack.enter_context(closing(RocksStore.open(config.ledger.store_dir, create=False)))
        before = store.approximate_size()
        for done, kind in enumerate(layout.KINDS, 1):
            store.compact_ranges([(kind, prefix_end(kind))])
            progress(done, len(layout.KINDS))
        after = store.approximate_size()
    out.answer(
        f"다시 씀: {before >> 20} MiB → {after >> 20} MiB", f"rewritten: {before >> 20} MiB, now {after >> 20} MiB",
        type="compact", before=before, after=after,
    )  # fmt: skip
    return DONE


def rebuild_table(arguments: argparse.Namespace, out: Out) -> int:
    """Rebuild the policy table from the ledger; the daemon must be stopped."""
    from consentd.cli.tables import rebuild

    with out.progress("rebuilding") as progress:
        size = rebuild(load_own_config(arguments), progress)
    out.answer(f"rebuilt from {counted(size, 'leaves')}", type="table", size=size)
    return DONE


def verify_table(arguments: argparse.Namespace, out: Out) -> int:
    """Compare the policy table with a rebuilt one; the daemon must be stopped."""
    from consentd.cli.tables import differences

    with out.progress("verifying") as progress:
        size, rows, found = differences(load(arguments.config), progress)
    for what, count in found.items():
        out.answer(f"{what}: {count}", type="fault", what=what, count=count)
    verdict = "disproved" if found else "proven"
    text = f"{verdict}: {counted(rows, 'rows')} at size {size}"
    out.answer(text, type="table", verdict=verdict, rows=rows, size=size)
    return DISPROVED if found else PROVEN
