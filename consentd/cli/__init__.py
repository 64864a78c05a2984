"""The command line: ``consentd VERB …``.

stdout is the answer, stderr is talk; ``--json`` gives one object a line; ``-`` is stdin. It exits with 0 where
something was done or proven, 1 where it was refused or disproved, 2 where it could not be told. A declared error is
one line that says what to do; anything else is a bug, shows its traceback, and tells nothing: 2.

Each verb imports what it needs when it runs, so that verifying a receipt offline loads neither gRPC nor protobuf.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence

from consentd import __version__
from consentd.cli import (
    accesses,
    audits,
    bundles,
    consents,
    exports,
    histories,
    imports,
    monitors,
    operate,
    participants,
    proofs,
    prunes,
    reports,
)
from consentd.cli.out import DISPROVED, UNTOLD, Out, drop_output
from consentd.errors import ConsentdError, CorruptionError, StorageError, VerificationError

_EPILOG = """\
exit status: 0 done or proven, 1 refused or disproved, 2 could not be told.
environment: CONSENTD_TARGET, CONSENTD_TOKEN, CONSENTD_TOKEN_FILE, CONSENTD_LOG_KEY, CONSENTD_ORIGIN,
  CONSENTD_POLICY, CONSENTD_MEMORY.
a person is written SCHEME:VALUE, `mhid:MH-0001`; `-` reads it from stdin, where no other user sees it.
"""
_SERVER_MODULES = frozenset(
    {"rocksdict", "lmdb", "cryptography", "prometheus_client", "grpc_health", "grpc_reflection"}
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status.

    Args:
        argv: the arguments; None: the process's.
    """
    _keep_talking()
    arguments = make_parser().parse_args(argv)
    if "request_id" in arguments and arguments.request_id is None:
        arguments.request_id = os.urandom(16)
    out = Out(as_json=arguments.json, lang=arguments.lang)
    try:
        status: int = arguments.run(arguments, out)
        out.flush()
    except (VerificationError, CorruptionError) as error:
        out.fault(error)
        return DISPROVED
    except ConsentdError as error:
        out.fault(error)
        if isinstance(error, StorageError) and "request_id" in arguments:
            out.talk(f"whether it was recorded is unknown: repeat it with --request-id {arguments.request_id.hex()}")
        return UNTOLD
    except ModuleNotFoundError as error:
        out.talk(f"error: {_missing(error)}")
        return UNTOLD
    except BrokenPipeError:
        # Whoever read the answer has enough.
        drop_output()
        return UNTOLD
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001  # a bug is no verdict: Python's own status, 1, would say refused or disproved
        traceback.print_exc()
        return UNTOLD
    return status


def _keep_talking() -> None:
    """Let no answer fail on where it is written: a closed stream takes all, and any encoding any character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # it lasts as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="consentd",
        description="Decides, records and proves every use of a person's health data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"consentd {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (operate, participants, consents, accesses, histories, proofs, imports, exports, prunes):
        module.add_verbs(verbs)
    audit = verbs.add_parser("audit", help="verify, replay, watch and report a whole ledger")
    under = audit.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (audits, monitors, bundles, reports):
        module.add_verbs(under)
    return parser


def _missing(error: ModuleNotFoundError) -> str:
    name = (error.name or "").split(".")[0]
    if name in _SERVER_MODULES:
        return f"this verb needs the server's parts: pip install 'consentd[server]' (no module `{name}`)"
    if name == "consentd_client":
        return "this verb talks to a daemon: pip install consentd-client"
    raise error
