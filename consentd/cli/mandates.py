"""``consentd participants mandate`` and ``end-mandate``: which auditor may read persons' statements, and until when."""

import argparse
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_daemon, add_verb, open_client, read_end_ms
from consentd.cli.out import DONE, Out

if TYPE_CHECKING:
    from consentd.v1.statement_pb2 import MandateStatement


def add_verbs(under: Verbs) -> None:
    """Add the verbs of this module to the parser of ``participants``."""
    one = add_verb(under, "mandate", give, add_daemon)
    one.add_argument("auditor", metavar="AUDITOR", help="the participant; it also needs the right read-statements")
    one.add_argument("--scope", required=True, metavar="TEXT", help="what is audited, without personal data")
    one.add_argument("--reason", required=True, metavar="TEXT", help="the legal basis or order")
    one.add_argument("--until", dest="end_ms", type=read_end_ms, required=True, metavar="TIME",
                     help="when it ends: an instant or a date, that day included")  # fmt: skip
    one = add_verb(under, "end-mandate", end, add_daemon)
    one.add_argument("auditor", metavar="AUDITOR", help="the participant whose mandate ends")


def give(arguments: argparse.Namespace, out: Out) -> int:
    """Let an auditor read the statements of persons until a time (for the operator). Replaces its earlier mandate."""
    from consentd.v1 import statement_pb2 as st

    message = st.MandateStatement(
        auditor=arguments.auditor, scope=arguments.scope, reason=arguments.reason, end_time_ms=arguments.end_ms
    )
    with open_client(arguments) as client:
        receipt = client.put_mandate(message)
    _show(out, message, receipt.index)
    return DONE


def end(arguments: argparse.Namespace, out: Out) -> int:
    """End the mandate of an auditor (for the operator)."""
    from consentd.v1 import statement_pb2 as st

    message = st.MandateStatement(auditor=arguments.auditor, ended=True)
    with open_client(arguments) as client:
        receipt = client.end_mandate(message.auditor)
    _show(out, message, receipt.index)
    return DONE


def _show(out: Out, one: "MandateStatement", index: int) -> None:
    from consentd_client import show

    out.answer(
        show.mandate(one, out.lang), type="mandate", auditor=one.auditor, scope=one.scope, reason=one.reason,
        end_time_ms=one.end_time_ms, ended=one.ended, giver=one.giver, index=index,
    )  # fmt: skip
