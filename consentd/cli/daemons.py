"""``consentd serve``, ``witness`` and ``keygen``: run the daemons, and make their keys."""

import argparse
import os
from pathlib import Path

from consentd import logs
from consentd.cli.options import Verbs, add_verb
from consentd.cli.out import DONE, Out
from consentd.config import Config, load
from consentd.core.note import format_vkey
from consentd.dumps import forbid_dumps
from consentd.errors import InvalidError

_KEYGEN_HELP = """\
Makes the log key, the statement key, the vault's key-encryption key (unless another source than a file has it) and the
credentials file that the configuration names, and prints the token of the first operator once, on stdout. Existing
files are not changed. With these keys one ledger can begin, once.

Further operators get an id, a token and roles of their own: `consentd credential add operator/NAME --role ROLE`.
Entries name the operator who wrote them.

example:
  consentd keygen --config ops/consentd.toml > operator.token
"""
_WITNESS_HELP = """\
The witness fetches every entry of the ledgers that it follows, and cosigns a checkpoint only if it computes the same
seals from the entries.

example:
  consentd witness --config ops/witness.toml --keygen witness.example.org/w1
  consentd witness --config ops/witness.toml
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "serve", serve, add_config)
    verb.add_argument(
        "--confirm-clock", action="store_true", help="start though the clock went back: you checked that it is right"
    )
    verb = add_verb(verbs, "witness", witness, more=_WITNESS_HELP)
    verb.add_argument("--config", type=Path, required=True, metavar="FILE", help="as in ops/witness.toml")
    verb.add_argument("--keygen", metavar="NAME", help="make its key under this name, print the verifier key, and exit")
    verb = add_verb(verbs, "keygen", keygen, add_config, more=_KEYGEN_HELP)
    verb.add_argument("--operator", default="main", metavar="NAME", help="the first operator is operator/NAME")


def serve(arguments: argparse.Namespace, out: Out) -> int:
    """Run the daemon until SIGTERM; SIGHUP reads credentials and certificates again."""
    from consentd.server.signals import Signals
    from consentd.tls_files import require_tls13

    require_tls13()  # before the import of the daemon, which imports grpc
    forbid_dumps()
    signals = Signals.receive()  # before the import of the daemon, which takes most of a second
    from consentd.server.daemon import serve as run

    config = load(arguments.config)
    logs.configure(config.log.level)
    run(config, signals=signals, confirm_clock=arguments.confirm_clock)
    return DONE


def witness(arguments: argparse.Namespace, out: Out) -> int:
    """Replay a ledger and cosign its checkpoints."""
    from consentd.witnessd.config import load_witness_config

    forbid_dumps()
    config = load_witness_config(arguments.config)
    if arguments.keygen is not None:
        from consentd.witnessd.daemon import make_witness_key

        vkey = make_witness_key(config.witness.key_file, arguments.keygen)
        out.answer(vkey, key_file=str(config.witness.key_file), verifier_key=vkey)
        return DONE
    from consentd.witnessd.daemon import serve_witness

    logs.configure("info")
    serve_witness(config)
    return DONE


def keygen(arguments: argparse.Namespace, out: Out) -> int:
    """Make all keys; print the first operator's token."""
    from consentd.cosigning.keyfiles import read_mldsa_key, read_signing_key
    from consentd.cosigning.mldsa import format_mldsa_vkey
    from consentd.server.keys import make_keys

    forbid_dumps()
    config = load(arguments.config)
    operator = f"operator/{arguments.operator}"
    token = make_keys(config, operator)
    vkey = format_vkey(read_signing_key(config.keys.log_key_file).verifier)
    mldsa = config.keys.log_mldsa_key_file
    more = {} if mldsa is None else {"log_mldsa_key": format_mldsa_vkey(read_mldsa_key(mldsa).verifier)}
    files = {
        "log_key": config.keys.log_key_file, "statement_key": config.keys.statement_key_file,
        "credentials": config.callers.credentials_file,
    }  # fmt: skip
    if config.keys.vault_kek.file is not None:
        files["vault_kek"] = config.keys.vault_kek.file
    if config.keys.log_mldsa_key_file is not None:
        files["log_mldsa_key"] = config.keys.log_mldsa_key_file
    for what, path in files.items():
        out.message(f"{what.replace('_', ' ')}: {path}")
    if config.keys.vault_kek.file is None:
        out.message("the key-encryption key of the vault is not made here: see `vault_kek` in ops/consentd.toml")
    out.message("back up the key-encryption key of the vault, but not together with the vault")
    out.message("keep the log key secret: with it, anyone can sign a forged ledger of this name")
    out.message(f"clients pin this log key (CONSENTD_LOG_KEY): {vkey}")
    for text in more.values():
        out.message(f"policy files and clients may also name this ML-DSA-44 log key: {text}")
    out.message(f"stdout has the token of {operator} (CONSENTD_TOKEN); it is not stored, and not shown again")
    out.answer(
        token, token=token, operator=operator, log_key=vkey, **more, origin=config.ledger.origin,
        files={what: str(path) for what, path in files.items()},
    )  # fmt: skip
    return DONE


def add_config(verb: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the option for the daemon's configuration file."""
    verb.add_argument("--config", type=Path, required=required, metavar="FILE", help="as in ops/consentd.toml")


def load_own_config(arguments: argparse.Namespace) -> Config:
    """Load the configuration for a verb that writes into the data directory; InvalidError unless the user owns it."""
    config = load(arguments.config)
    path = config.ledger.data_dir
    if path.exists() and path.stat().st_uid != os.geteuid():
        raise InvalidError(f"data directory is another user's: run this as the daemon's user: `{path}`")
    return config
