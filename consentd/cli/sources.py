"""The options of the verbs that read a whole ledger; they say from where the ledger is read."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consentd.cli.daemon_options import add_grpc, add_pins
from consentd.cli.options import read_pins, read_policy, read_token
from consentd.cli.out import Out
from consentd.config import load
from consentd.core.note import Verifier
from consentd.dumps import forbid_dumps
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.audit.checkpoints import Witnesses
    from consentd.audit.sources import Location

SOURCE_HELP = """\
The ledger is read from one of:
  DIR             a directory that `consentd export` wrote; add its openings with --statements, if you have them
  --config FILE   a stopped daemon's files, as in ops/consentd.toml; with its vault all statements can be opened
  --url URL       a running daemon, or a host that serves an export; add a daemon's openings with --target
"""
SOURCE_HELP_FROM = SOURCE_HELP.replace("  DIR       ", "  --from DIR")
"""The help text for a verb that names an exported ledger with ``--from`` and not with an argument."""

OPENINGS_TARGET = "gRPC address of the daemon, to read openings"
"""Help text of the option ``--target``."""


def add_ledger_source(verb: argparse.ArgumentParser, *, directory: str = "directory", witnesses: bool = False) -> None:
    """Add the options that say from where a ledger is read.

    *directory* is the name of the argument or option for an exported ledger; empty: the verb reads no exported ledger.
    *witnesses*: the verb verifies cosignatures.
    """
    group = verb.add_argument_group("the ledger")
    if directory:
        how: dict[str, Any] = {"dest": "directory"} if directory.startswith("-") else {"nargs": "?"}
        group.add_argument(directory, type=Path, metavar="DIR", help="an exported ledger", **how)
        group.add_argument("--statements", type=Path, metavar="DIR", help="its openings, exported with --statements-to")
    group.add_argument("--config", type=Path, metavar="FILE", help="of a stopped daemon, as in ops/consentd.toml")
    group.add_argument("--url", metavar="URL", help="HTTP address of a running daemon, as in `http://127.0.0.1:7401`")
    add_grpc(group, target="", help=OPENINGS_TARGET)
    add_pins(verb, witnesses=witnesses)
    if witnesses:
        verb.add_argument(
            "--max-age", type=read_seconds, metavar="S",
            help="with --policy: oldest age of a cosignature that counts, in seconds (default: any age)",
        )  # fmt: skip


def read_ledger_source(arguments: argparse.Namespace) -> "tuple[Location, str, Verifier]":
    """Return the location, origin and log key of the ledger to read; InvalidError unless one location is given."""
    directory = getattr(arguments, "directory", None)
    if sum(one is not None for one in (directory, arguments.config, arguments.url)) != 1:
        raise InvalidError("give one source to read the ledger from: a directory, --config or --url")
    if arguments.config is not None:
        return _files(arguments)
    if directory is None:
        return read_daemon_source(arguments), *read_pins(arguments)
    from consentd.audit.sources import ExportDirectory

    return ExportDirectory(directory, arguments.statements), *read_pins(arguments)


def read_witnesses(arguments: argparse.Namespace) -> "Witnesses | None":
    """Return the witnesses that must have cosigned the checkpoint; None: no policy is given."""
    from consentd.audit.checkpoints import Witnesses

    policy = read_policy(arguments)
    if policy is not None:
        return Witnesses(policy=policy, now_s=int(time.time()), max_age_s=arguments.max_age)
    if arguments.max_age is not None:
        raise InvalidError("--max-age limits the age of cosignatures: give the witnesses with --policy")
    return None


def report_cosignatures(
    arguments: argparse.Namespace, out: Out, cosignatures: Sequence[tuple[str, int]]
) -> list[dict[str, object]]:
    """Write to stderr who cosigned the checkpoint, and how long ago; return the cosignatures for ``--json``."""
    if arguments.policy is None:
        out.message("not checked: witnesses; give their policy with --policy")
    now_s = int(time.time())
    for name, time_s in cosignatures:
        out.message(f"cosigned: by {name}, {now_s - time_s} s ago")
    return [{"witness": name, "time_s": time_s} for name, time_s in cosignatures]


def read_seconds(text: str) -> int:
    """Parse a number of seconds; an argparse type."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError("not a number of seconds")
    return int(text)


def read_number(text: str) -> float:
    """Parse a number from 0 to a billion; an argparse type."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1e9:  # the comparison is false for NaN too
        raise argparse.ArgumentTypeError("not a number from 0 to 1000000000")
    return found


def read_daemon_source(arguments: argparse.Namespace) -> "Location":
    """Return the location of the ledger that a running daemon, or the host of an export, serves at --url."""
    from consentd.audit.live import LiveDaemon

    return LiveDaemon(
        url=arguments.url.rstrip("/"), target=arguments.target, token=read_token(arguments.token_file),
        tls_ca=arguments.tls_ca, tls=arguments.tls,
    )  # fmt: skip


def _files(arguments: argparse.Namespace) -> "tuple[Location, str, Verifier]":
    from consentd.audit.files import DataDirectory
    from consentd.cosigning.keyfiles import read_signing_key
    from consentd.ledger.kek import is_there, read_keks

    forbid_dumps()
    config = load(arguments.config)
    ledger = config.ledger
    has_vault = ledger.vault_dir.exists() and is_there(config.keys.vault_kek)
    # Only the published checkpoint's file has cosignatures. The last signed checkpoint has only the log's signature.
    needs_cosignatures = "max_age" in arguments and arguments.policy is not None
    location = DataDirectory(
        store_dir=ledger.store_dir,
        checkpoint_path=ledger.published_path if needs_cosignatures else ledger.last_signed_path,
        vault_dir=ledger.vault_dir if has_vault else None, keks=read_keks(config.keys) if has_vault else (),
    )  # fmt: skip
    if arguments.log_key:
        return location, *read_pins(arguments)
    # An auditor must pin the log key. Only the operator, who owns the ledger's files, may use the key in these files.
    return location, arguments.origin or ledger.origin, read_signing_key(config.keys.log_key_file).verifier
