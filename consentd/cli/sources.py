"""The arguments that say where a ledger is read, for the verbs that read all of it."""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consentd.cli.options import add_pins, read_pins, read_policy, read_token
from consentd.cli.out import Out
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.audit.sources import Place
    from consentd.core.quorum import Cosigned

MORE = """\
The ledger is read from one of:
  DIR             a directory that `consentd export` made; openings, where you hold them, with --statements
  --config FILE   a stopped daemon's files, as in ops/consentd.toml; with its vault all statements are opened
  --url URL       a running daemon, or any host that serves an export; openings of a daemon with --target
"""
MORE_FROM = MORE.replace("  DIR       ", "  --from DIR")
"""The same, of a verb whose first argument is what it writes."""


def add_place(verb: argparse.ArgumentParser, *, directory: str = "directory", witnesses: bool = False) -> None:
    """Add where the ledger is.

    Args:
        directory: how an exported ledger is given: the argument ``directory``, or an option; empty: it cannot be.
        witnesses: they may be asked for.
    """
    group = verb.add_argument_group("the ledger")
    if directory:
        how: dict[str, Any] = {"dest": "directory"} if directory.startswith("-") else {"nargs": "?"}
        group.add_argument(directory, type=Path, metavar="DIR", help="an exported ledger", **how)
        group.add_argument("--statements", type=Path, metavar="DIR", help="openings, exported beside it")
    group.add_argument("--config", type=Path, metavar="FILE", help="of a stopped daemon, as in ops/consentd.toml")
    group.add_argument("--url", metavar="URL", help="of a running daemon's HTTP, `http://127.0.0.1:7401`")
    add_caller(group)
    add_pins(verb, witnesses=witnesses)
    if witnesses:
        verb.add_argument(
            "--max-age", type=read_seconds, metavar="S",
            help="--policy: age of the oldest cosignatures that count (default: any, for an old export)",
        )  # fmt: skip


def add_caller(group: Any) -> None:
    """Add who reads a running daemon, and how."""
    group.add_argument("--target", default="", metavar="HOST:PORT", help="its gRPC, for openings")
    path = os.environ.get("CONSENTD_TOKEN_FILE")
    group.add_argument(
        "--token-file",
        type=Path,
        default=Path(path) if path else None,
        metavar="FILE",
        help="holds an auditor's token (CONSENTD_TOKEN_FILE; or the token itself in CONSENTD_TOKEN)",
    )
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="authorities of the daemon, PEM; gRPC uses TLS")
    group.add_argument("--tls", action="store_true", help="gRPC uses TLS with the system's authorities")


def read_place(arguments: argparse.Namespace) -> "tuple[Place, str, Any]":
    """Return (place, origin, log verifier).

    Raises:
        InvalidError: not one place is given, or no log key.
        StorageError: a file cannot be read.
    """
    directory = getattr(arguments, "directory", None)
    if sum(one is not None for one in (directory, arguments.config, arguments.url)) != 1:
        raise InvalidError("give one place to read the ledger from: a directory, --config or --url")
    if arguments.config is not None:
        return _files(arguments)
    origin, verifier = read_pins(arguments)
    if directory is not None:
        from consentd.audit.sources import Exported

        return Exported(directory, arguments.statements), origin, verifier
    return read_live(arguments), origin, verifier


def read_witnessed(arguments: argparse.Namespace) -> "tuple[Place, str, Any, list[Cosigned]]":
    """Return (place, origin, log verifier, seen): where a policy is given, a place that asks for its witnesses.

    What they cosigned stands in *seen* once the place was read; it stays empty where nobody was asked for.

    Raises:
        InvalidError: as ``read_place``; the policy is none; or an age is given without one.
        StorageError: a file cannot be read.
    """
    place, origin, verifier = read_place(arguments)
    policy = read_policy(arguments)
    if policy is None:
        if arguments.max_age is not None:
            raise InvalidError("--max-age is of cosignatures: give the witnesses with --policy")
        return place, origin, verifier, []
    from consentd.audit.witnessed import Witnessed

    witnessed = Witnessed(
        place=place, policy=policy, origin=origin, log_verifier=verifier, now_s=int(time.time()),
        max_age_s=arguments.max_age,
    )  # fmt: skip
    return witnessed, origin, verifier, witnessed.seen


def say_cosigned(arguments: argparse.Namespace, out: Out, seen: "list[Cosigned]") -> list[dict[str, object]]:
    """Say who cosigned the checkpoint that was read, and how long ago; return it for ``--json``."""
    if arguments.policy is None:
        out.talk("not checked: witnesses; give their policy with --policy")
        return []
    now_s = int(time.time())
    found = [(name, time_s) for cosigned in seen[-1:] for name, time_s in cosigned.cosignatures]
    for name, time_s in found:
        out.talk(f"cosigned: by {name}, {now_s - time_s} s ago")
    return [{"witness": name, "time_s": time_s} for name, time_s in found]


def read_seconds(text: str) -> int:
    """Return a number of seconds; an argparse type."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError("not a number of seconds")
    return int(text)


def read_number(text: str) -> float:
    """Return a number that is not negative and at most a billion; an argparse type."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1e9:  # nor one that is none
        raise argparse.ArgumentTypeError("not a number from 0 to 1000000000")
    return found


def read_live(arguments: argparse.Namespace) -> "Place":
    """Return the running daemon that is named."""
    from consentd.audit.live import Live

    return Live(
        url=arguments.url.rstrip("/"), target=arguments.target, token=read_token(arguments.token_file),
        tls_ca=arguments.tls_ca, tls=arguments.tls,
    )  # fmt: skip


def _files(arguments: argparse.Namespace) -> "tuple[Place, str, Any]":
    from consentd.audit.files import DataDirectory
    from consentd.config import load
    from consentd.server.keys import read_log_key

    config = load(arguments.config)
    has_vault = config.ledger.vault_dir.exists() and config.keys.vault_key_file.exists()
    # The last signed checkpoint has the log's signature alone; cosignatures are in the checkpoint that was published.
    ledger = config.ledger
    needs_cosignatures = "max_age" in arguments and arguments.policy is not None
    checkpoint_path = ledger.published_path if needs_cosignatures else ledger.last_signed_path
    place = DataDirectory(
        store_dir=ledger.store_dir, checkpoint_path=checkpoint_path,
        vault_dir=config.ledger.vault_dir if has_vault else None,
        vault_key_file=config.keys.vault_key_file if has_vault else None,
    )  # fmt: skip
    if arguments.log_key:
        origin, verifier = read_pins(arguments)
    else:
        # Who audits a ledger should not take its key from it; who operates it has no other.
        origin, verifier = arguments.origin or config.ledger.origin, read_log_key(config.keys.log_key_file).verifier
    return place, origin, verifier
