"""``consentd serve``, ``keygen``, ``credential``, ``fsck`` and ``table``: what runs beside the ledger's files."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_pins, add_verb, read_pins
from consentd.cli.out import DISPROVED, DONE, PROVEN, UNTOLD, Out
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.config import Config

_KEYGEN_MORE = """\
Makes the log key, the statement key, the vault key and the credentials file that the configuration names, and prints
the operator's token: once, on stdout. Nothing that exists is touched.

example:
  consentd keygen --config ops/consentd.toml > operator.token
"""
_WITNESS_MORE = """\
It fetches every entry of the logs it follows and cosigns a checkpoint only if every seal is what the entries make it.

example:
  consentd witness --config ops/witness.toml --keygen witness.example.org/w1
  consentd witness --config ops/witness.toml
"""
_FSCK_MORE = """\
The daemon must be stopped; a copy of the store may be given as DIR instead, with --log-key. Nothing is repaired.

exit status: 0 all is as it must be, 1 a fault was found, 2 something could not be told.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "serve", serve, "run the daemon, until SIGTERM; SIGHUP reads the credentials again")
    _add_config(verb)
    verb.add_argument("--confirm-clock", action="store_true", help="you checked the clock: go on where it went back")
    verb = add_verb(verbs, "witness", witness, "replay a ledger and cosign its checkpoints", more=_WITNESS_MORE)
    verb.add_argument("--config", type=Path, required=True, metavar="FILE", help="as in ops/witness.toml")
    verb.add_argument("--keygen", metavar="NAME", help="make its key under this name, print its verifier key, and end")
    verb = add_verb(verbs, "keygen", keygen, "make all keys; print the operator's token", more=_KEYGEN_MORE)
    _add_config(verb)
    verb = add_verb(verbs, "credential", credential, "give a participant a token; print it")
    _add_config(verb)
    verb.add_argument("participant", metavar="PARTICIPANT", help="its id, or `operator`")
    verb = add_verb(verbs, "fsck", fsck, "verify a ledger's files from nothing, offline", more=_FSCK_MORE)
    _add_config(verb, required=False)
    verb.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="a copy of the ledger's store")
    verb.add_argument("--quick", action="store_true", help="leave out statements, signatures and the table")
    add_pins(verb, witnesses=False)
    verb = add_verb(verbs, "compact", compact, "rewrite the store's files without what was deleted; daemon stopped")
    _add_config(verb)
    verb = verbs.add_parser("table", help="rebuild or verify the policy table, offline")
    under = verb.add_subparsers(title="verbs", metavar="VERB", required=True)
    one = add_verb(under, "rebuild", rebuild_table, "make the policy table anew from the ledger; daemon stopped")
    _add_config(one)
    one = add_verb(under, "verify", verify_table, "compare the policy table with one made anew; daemon stopped")
    _add_config(one)


def serve(arguments: argparse.Namespace, out: Out) -> int:
    """Run the daemon."""
    from consentd.server import logs
    from consentd.server.daemon import serve as run

    config = _load(arguments)
    logs.configure(config.log.level)
    run(config, confirm_clock=arguments.confirm_clock)
    return DONE


def witness(arguments: argparse.Namespace, out: Out) -> int:
    """Run a witness, or make its key."""
    from consentd.server import logs
    from consentd.witnessd.config import load_witness_config

    config = load_witness_config(arguments.config)
    if arguments.keygen is not None:
        from consentd.server.keys import make_witness_key

        vkey = make_witness_key(config.key_file, arguments.keygen)
        out.answer(vkey, key_file=str(config.key_file), verifier_key=vkey)
        return DONE
    from consentd.witnessd.http import serve_witness

    logs.configure("info")
    serve_witness(config)
    return DONE


def keygen(arguments: argparse.Namespace, out: Out) -> int:
    """Make keys."""
    from consentd.core.note import format_vkey
    from consentd.cosigning.mldsa import format_mldsa_vkey
    from consentd.server.keys import make_keys, read_keys

    config = _load(arguments)
    token = make_keys(config)
    keys = read_keys(config)
    vkey = format_vkey(keys.log.verifier)
    more = {} if keys.log_mldsa is None else {"log_mldsa_key": format_mldsa_vkey(keys.log_mldsa.verifier)}
    files = {
        "log_key": config.keys.log_key_file, "statement_key": config.keys.statement_key_file,
        "vault_key": config.keys.vault_key_file, "credentials": config.callers.credentials_file,
    }  # fmt: skip
    if config.keys.log_mldsa_key_file is not None:
        files["log_mldsa_key"] = config.keys.log_mldsa_key_file
    for what, path in files.items():
        out.talk(f"{what.replace('_', ' ')}: {path}")
    out.talk("back up the vault key apart from the vault; whoever has the log key can sign another ledger of this name")
    out.talk(f"clients pin this log key (CONSENTD_LOG_KEY): {vkey}")
    for text in more.values():
        out.talk(f"policy files and clients may name this ML-DSA-44 log key beside it: {text}")
    out.talk("stdout has the operator's token (CONSENTD_TOKEN); it is stored nowhere and shown this once")
    out.answer(
        token, token=token, log_key=vkey, **more, origin=config.ledger.origin,
        files={what: str(path) for what, path in files.items()},
    )  # fmt: skip
    return DONE


def credential(arguments: argparse.Namespace, out: Out) -> int:
    """Give a participant a token."""
    from consentd.server.keys import make_token, write_private
    from consentd.service.auth import PARTICIPANT_ID, format_credential

    config = _load(arguments)
    if not PARTICIPANT_ID.fullmatch(arguments.participant):
        raise InvalidError(f"participant id is not of a-z, 0-9, `.`, `_`, `-`: `{arguments.participant}`")
    path = config.callers.credentials_file
    if not path.exists():
        raise InvalidError(f"credentials file does not exist: `{path}`; `consentd keygen` makes it")
    token = make_token()
    write_private(path, format_credential(token, arguments.participant), append=True)
    out.talk(f"added to {path}: send the daemon SIGHUP, or start it again, and the token is valid")
    out.talk("stdout has the token; only its hash is stored, and it is shown this once")
    out.answer(token, participant=arguments.participant, token=token)
    return DONE


def fsck(arguments: argparse.Namespace, out: Out) -> int:
    """Verify a ledger's files."""
    from contextlib import ExitStack

    from consentd.ledger.vault import Vault
    from consentd.server.keys import read_keys
    from consentd.store.rocks import RocksStore
    from consentd.table.table import Table
    from consentd.verify.fsck import verify_ledger

    if (arguments.config is None) == (arguments.directory is None):
        raise InvalidError("give --config FILE or DIR, one of both")
    with ExitStack() as stack, out.progress("verifying") as progress:
        if arguments.directory is not None:
            origin, log_key = read_pins(arguments)
            store = RocksStore.open_read_only(arguments.directory)
            stack.callback(store.close)
            report = verify_ledger(
                store, origin=origin, log_verifier=log_key, last_signed_path=None, quick=arguments.quick,
                progress=progress,
            )
        else:
            config = _load(arguments)
            keys = read_keys(config)
            # INVARIANT: what was pinned is what is verified with; who operates the ledger need not pin.
            origin = arguments.origin or config.ledger.origin
            log_key = keys.log.verifier
            if arguments.log_key:
                origin, log_key = read_pins(arguments)
            store = RocksStore.open_read_only(config.ledger.store_dir)
            stack.callback(store.close)
            vault_store = RocksStore.open_read_only(config.ledger.vault_dir)
            stack.callback(vault_store.close)
            table = Table.open_read_only(config.table.path) if config.table.path.exists() else None
            if table is not None:
                stack.callback(table.close)
            report = verify_ledger(
                store, origin=origin, log_verifier=log_key,
                last_signed_path=config.ledger.last_signed_path, vault=Vault(vault_store, keys.vault), table=table,
                quick=arguments.quick, progress=progress,
            )  # fmt: skip
    for fault in report.faults:
        place = "" if fault.index is None else f"entry {fault.index}: "
        out.answer(f"{place}{fault.what}", type="fault", index=fault.index, what=fault.what)
    for what in report.not_checked:
        out.talk(f"not checked: {what}")
    verdict = "disproved" if report.faults else "could not tell all" if report.not_checked else "proven"
    out.answer(
        f"{verdict}: {report.entries} entries, {report.seals} seals, {report.statements_opened} statements opened, "
        f"{report.statements_erased} erased, {report.leaves_pruned} leaves and {report.statements_pruned} statements "
        f"pruned, {len(report.faults)} faults" + (" or more" if report.stopped else ""),
        type="report", verdict=verdict, size=report.size, entries=report.entries, seals=report.seals,
        statements_opened=report.statements_opened, statements_erased=report.statements_erased,
        leaves_pruned=report.leaves_pruned, statements_pruned=report.statements_pruned,
        faults=len(report.faults), not_checked=list(report.not_checked), stopped=report.stopped,
    )  # fmt: skip
    if report.faults:
        return DISPROVED
    return UNTOLD if report.not_checked else PROVEN


def compact(arguments: argparse.Namespace, out: Out) -> int:
    """Rewrite the store's files."""
    from consentd.ledger import layout
    from consentd.server.keys import read_log_key
    from consentd.server.preflight import look_at_ledger
    from consentd.store import prefix_end
    from consentd.store.rocks import RocksStore

    config = _load_own(arguments)
    look_at_ledger(config, read_log_key(config.keys.log_key_file).verifier)
    store = RocksStore.open(config.ledger.store_dir, create=False)
    try:
        before = store.approximate_size()
        with out.progress("rewriting") as progress:
            kinds = layout.KINDS
            for done, kind in enumerate(kinds, 1):
                store.compact_range(kind, prefix_end(kind))
                progress(done, len(kinds))
        after = store.approximate_size()
    finally:
        store.close()
    out.answer(
        out.in_words(
            f"다시 씀: {before >> 20} MiB → {after >> 20} MiB", f"rewritten: {before >> 20} MiB, now {after >> 20} MiB"
        ),
        type="compact", before=before, after=after,
    )  # fmt: skip
    return DONE


def rebuild_table(arguments: argparse.Namespace, out: Out) -> int:
    """Make the policy table anew."""
    from consentd.cli.tables import rebuild

    with out.progress("rebuilding") as progress:
        size = rebuild(_load_own(arguments), progress)
    out.answer(f"rebuilt from {size} leaves", type="table", size=size)
    return DONE


def verify_table(arguments: argparse.Namespace, out: Out) -> int:
    """Compare the policy table with one made anew."""
    from consentd.cli.tables import differences

    with out.progress("verifying") as progress:
        size, rows, found = differences(_load(arguments), progress)
    for what, count in found.items():
        out.answer(f"{what}: {count}", type="fault", what=what, count=count)
    verdict = "disproved" if found else "proven"
    out.answer(f"{verdict}: {rows} rows at size {size}", type="table", verdict=verdict, rows=rows, size=size)
    return DISPROVED if found else PROVEN


def _add_config(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    verb.add_argument("--config", type=Path, required=required, metavar="FILE", help="as in ops/consentd.toml")


def _load_own(arguments: argparse.Namespace) -> "Config":
    """Load the configuration for a verb that writes beside the daemon: what root writes, the daemon cannot open."""
    config = _load(arguments)
    path = config.ledger.data_dir
    if path.exists() and path.stat().st_uid != os.geteuid():
        raise InvalidError(f"data directory is another user's: run this as the daemon's user: `{path}`")
    return config


def _load(arguments: argparse.Namespace) -> "Config":
    from consentd.config import load

    path: Path = arguments.config
    return load(path)
