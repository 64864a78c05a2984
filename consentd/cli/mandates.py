"""``consentd participants mandate`` and ``end-mandate``: which auditor may read persons' statements, and until when."""

import argparse
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_signed
from consentd.cli.options import Verbs, add_verb, open_client, read_end_ms
from consentd.cli.out import DONE, Out
from consentd.cli.signers import add_sign_own, participant_signer
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.v1.statement_pb2 import MandateStatement
    from consentd_client import StatementSigner


def add_verbs(under: Verbs) -> None:
    """Add the verbs of this module to the parser of ``participants``."""
    one = add_verb(under, "mandate", give, _add_giver, add_sign_own, add_signed)
    one.add_argument("auditor", metavar="AUDITOR", help="the participant; it also needs the right read-statements")
    one.add_argument("--scope", required=True, metavar="TEXT", help="what is audited, without personal data")
    one.add_argument("--reason", required=True, metavar="TEXT", help="the legal basis or order")
    one.add_argument("--until", dest="end_ms", type=read_end_ms, required=True, metavar="TIME",
                     help="when it ends: an instant or a date, that day included")  # fmt: skip
    one = add_verb(under, "end-mandate", end, _add_giver, add_sign_own, add_signed)
    one.add_argument("auditor", metavar="AUDITOR", help="the participant whose mandate ends")


def _add_giver(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--giver", default="", metavar="ID", help="the authority that signs (default: an operator)")


def _signer(arguments: argparse.Namespace) -> "StatementSigner | None":
    if bool(arguments.giver) is not (arguments.sign_with is not None):
        raise InvalidError("mandate of a public authority is signed by it: give both --giver and --sign-with, or none")
    return participant_signer(arguments, arguments.giver)


def give(arguments: argparse.Namespace, out: Out) -> int:
    """Let an auditor read the statements of persons until a time. Replaces its earlier mandate."""
    from consentd.v1 import statement_pb2 as st

    message = st.MandateStatement(
        auditor=arguments.auditor, scope=arguments.scope, reason=arguments.reason, end_time_ms=arguments.end_ms,
        giver=arguments.giver,
    )  # fmt: skip
    with open_client(arguments) as client:
        receipt = client.put_mandate(message, signer=_signer(arguments))
    _show(out, message, receipt.index)
    return DONE


def end(arguments: argparse.Namespace, out: Out) -> int:
    """End the mandate of an auditor: an operator, or the public authority that gave it."""
    from consentd.v1 import statement_pb2 as st

    message = st.MandateStatement(auditor=arguments.auditor, ended=True, giver=arguments.giver)
    with open_client(arguments) as client:
        receipt = client.end_mandate(message.auditor, giver=message.giver, signer=_signer(arguments))
    _show(out, message, receipt.index)
    return DONE


def _show(out: Out, one: "MandateStatement", index: int) -> None:
    from consentd_client import show

    out.answer(
        show.mandate(one, out.lang), type="mandate", auditor=one.auditor, scope=one.scope, reason=one.reason,
        end_time_ms=one.end_time_ms, ended=one.ended, giver=one.giver, index=index,
    )  # fmt: skip
