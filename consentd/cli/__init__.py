"""The command line: ``consentd VERB …``.

A verb writes the answer to stdout (with ``--json`` one JSON object a line) and messages to stderr. The file name ``-``
means stdin. The exit status is 0 if something was done or proven, 1 if it was refused or disproved, 2 if it could not
be determined. An error of ``consentd.errors`` is shown as one line that says what to do. After any other exception,
which is a bug, the traceback is shown, and the exit status is 2.

A verb imports large modules only when it runs, so that verifying a receipt offline loads neither gRPC nor protobuf.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from consentd import __version__
from consentd.cli import (
    accesses,
    administration,
    adoptions,
    audits,
    authorities,
    backups,
    campaigns,
    certificates,
    consents,
    credentials,
    daemons,
    evidence,
    histories,
    imports,
    keys,
    maintenance,
    notices,
    participants,
    receipts,
    renewals,
    roles,
    subjects,
)
from consentd.cli.options import add_group
from consentd.cli.out import DISPROVED, UNDETERMINED, UNDETERMINED_ERRORS, Out, drop_output
from consentd.errors import ConsentdError, CorruptionError, FileReadError, StorageError, VerificationError

_EPILOG = """\
exit status: 0 done or proven, 1 refused or disproved, 2 could not be determined.
environment: CONSENTD_TARGET, CONSENTD_TOKEN, CONSENTD_TOKEN_FILE, CONSENTD_LOG_KEY, CONSENTD_ORIGIN,
  CONSENTD_POLICY, CONSENTD_MEMORY, CONSENTD_TLS_CA, CONSENTD_TLS_CERT, CONSENTD_TLS_KEY.
a person is written SCHEME:VALUE, as in `mhid:MH-0001`; `-` reads it from stdin, so that no other user can see it.
"""
_MODULES = (
    daemons, certificates, credentials, keys, participants, roles, consents, renewals, authorities, notices, campaigns,
    accesses,
    histories, receipts, imports, administration, backups, subjects, maintenance, adoptions,
)  # fmt: skip
_SERVER_MODULES = frozenset(
    {"rocksdict", "lmdb", "cryptography", "pyrage", "prometheus_client", "grpc_health", "grpc_reflection"}
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors say where the options are explained. The parsers of its verbs are of this class too."""

    def error(self, message: str) -> NoReturn:
        """Print the error, and what to do; exit with status 2."""
        self.print_usage(sys.stderr)
        self.exit(UNDETERMINED, f"{self.prog}: error: {message}\n`{self.prog} --help` explains the arguments\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that *argv* names; return the exit status. None: use the process's own arguments.

    Files that the process makes can be read by their owner alone: most hold data of persons, or keys.
    """
    os.umask(0o077)
    _prepare_streams()
    return run_verb(make_parser().parse_args(argv))


def run_verb(arguments: argparse.Namespace) -> int:
    """Run the verb of parsed *arguments*; return the exit status."""
    if "request_id" in arguments and arguments.request_id is None:
        arguments.request_id = os.urandom(16)
    out = Out(as_json=arguments.json, lang=arguments.lang)
    try:
        status: int = arguments.run(arguments, out)
        out.flush()
    except UNDETERMINED_ERRORS as error:
        out.fault(error)
        return UNDETERMINED
    except (VerificationError, CorruptionError) as error:
        out.fault(error)
        return DISPROVED
    except ConsentdError as error:
        out.fault(error)
        is_sent = not isinstance(error, FileReadError)
        if isinstance(error, StorageError) and is_sent and "request_id" in arguments:
            request_id = arguments.request_id.hex()
            out.message(f"whether it was recorded is unknown: repeat it with --request-id {request_id}")
            if getattr(arguments, "subject_key", None) or getattr(arguments, "sign_with", None):
                # A repeat is signed at another time, so its content differs.
                out.message("if the repeat fails with REQUEST_ID_REUSED, it was recorded")
        return UNDETERMINED
    except ModuleNotFoundError as error:
        out.message(f"error: {_missing(error)}")
        return UNDETERMINED
    except BrokenPipeError:
        # The program that reads stdout closed it, as `head` does after enough lines.
        drop_output()
        return UNDETERMINED
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001  # after a bug Python itself would exit with 1, which means disproved
        traceback.print_exc()
        return UNDETERMINED
    return status


def _prepare_streams() -> None:
    """Prepare stdout and stderr: a closed stream discards the text, others escape what they cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # the file stays open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = _Parser(
        prog="consentd",
        description="Decide, record and prove every use of a person's health data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"consentd {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in _MODULES:
        module.add_verbs(verbs)
    audits.add_export_verb(verbs)
    under = add_group(verbs, "audit", "verify, replay, watch and report on a whole ledger")
    for module in (audits, evidence):
        module.add_verbs(under)
    return parser


def _missing(error: ModuleNotFoundError) -> str:
    name = (error.name or "").split(".")[0]
    if name in _SERVER_MODULES:
        return f"this verb needs the server's parts: pip install 'consentd[server]' (no module `{name}`)"
    if name == "pkcs11":
        return f"a key in a PKCS#11 token needs its library: pip install 'consentd[hsm]' (no module `{name}`)"
    if name == "consentd_client":
        return "this verb talks to a daemon: pip install consentd-client"
    raise error
