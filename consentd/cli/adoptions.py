"""``consentd adopt``: let a new ledger begin in the place of one that lost entries."""

import argparse
import time
from pathlib import Path

from consentd.cli.daemons import add_config, load_own_config
from consentd.cli.options import Verbs, add_verb
from consentd.cli.out import DONE, Out
from consentd.config import load
from consentd.dumps import forbid_dumps
from consentd.errors import InvalidError

_ADOPT_HELP = """\
The old ledger is one that lost entries, for example because only an old backup is left, or whose log key leaked. It
never signs again: its directory is marked, and a daemon on it only reads. The new ledger begins empty, under an origin
and keys of its own. Its first entry names the last checkpoint of the old one. Consents do not carry over: persons give
them again.

Make the new configuration, then `consentd keygen --config` with it, then run this verb, then start the daemon.

example:
  consentd adopt --config new.toml --predecessor old.toml --i-accept-that-entries-are-lost-after 1234
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "adopt", adopt, add_config, more=_ADOPT_HELP)
    verb.add_argument(
        "--predecessor", type=Path, required=True, metavar="FILE", help="the configuration of the old ledger"
    )
    verb.add_argument(
        "--i-accept-that-entries-are-lost-after", dest="accepted_size", type=int, required=True, metavar="SIZE",
        help="how many leaves of the old ledger are there",
    )  # fmt: skip


def adopt(arguments: argparse.Namespace, out: Out) -> int:
    """Prepare a new ledger to begin in the place of another one, offline."""
    from consentd.server.adoption import adopt as run

    forbid_dumps()
    new, old = load_own_config(arguments), load(arguments.predecessor)
    if arguments.accepted_size < 0:
        raise InvalidError(f"size is negative: `{arguments.accepted_size}`")
    found = run(new, old, accepted_size=arguments.accepted_size, now_ms=time.time_ns() // 1_000_000)
    lost = max(0, found.checkpoint.size - found.size)
    out.message(f"the old ledger only reads from now on: {old.ledger.data_dir}")
    out.message(f"leaves that are known to be lost: {lost}; inform auditors and persons; consents do not carry over")
    out.message(f"if anybody has a newer checkpoint, put it into `{old.ledger.last_signed_path}`, and run this again")
    out.answer(
        f"{new.ledger.origin} begins in the place of {found.checkpoint.origin}, which has size {found.checkpoint.size}",
        type="adoption", origin=new.ledger.origin, predecessor=found.checkpoint.origin,
        predecessor_size=found.checkpoint.size, predecessor_root=found.checkpoint.root.hex(), size=found.size,
        lost_at_least=lost,
    )  # fmt: skip
    return DONE
