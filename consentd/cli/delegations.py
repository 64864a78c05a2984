"""``consentd participants delegate``, ``end-delegation`` and ``delegations``: who may act for which participant."""

import argparse
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_daemon, add_signed
from consentd.cli.options import Verbs, add_verb, open_client, read_end_ms, read_start_ms
from consentd.cli.out import DONE, Out
from consentd.cli.signers import add_sign_own, participant_signer
from consentd.policy.delegation import Capacity

if TYPE_CHECKING:
    from consentd.v1.statement_pb2 import DelegationStatement

_CAPACITIES = {capacity.name.lower(): capacity for capacity in Capacity}
_HELP = """\
examples:
  consentd participants delegate clinic-b khis --as relay
  consentd participants delegate clinic-b lab-c --as processor --purpose TREAT --until 2026-12-31
  consentd participants delegate clinic-b khis --as relay --sign-with clinic.key --origin consent.example.org
The giver signs, with its own credential. An operator delegates only for a giver that has no key in force.
"""


def add_verbs(under: Verbs) -> None:
    """Add the verbs of this module to the parser of ``participants``."""
    one = add_verb(under, "delegate", delegate, add_sign_own, add_signed, more=_HELP)
    _add_key(one)
    one.add_argument("--purpose", action="append", default=[], metavar="CODE",
                     help="for this purpose, without those below it; repeatable (default: all but BTG)")  # fmt: skip
    one.add_argument("--from", dest="start_ms", type=read_start_ms, default=0, metavar="TIME",
                     help="when it begins: an instant or a date (default: now)")  # fmt: skip
    one.add_argument("--until", dest="end_ms", type=read_end_ms, default=0, metavar="TIME",
                     help="when it ends: an instant or a date, that day included (default: never)")  # fmt: skip
    one.add_argument("--break-glass", action="store_true", help="also for emergency access, purpose BTG")
    _add_key(add_verb(under, "end-delegation", end, add_sign_own, add_signed))
    one = add_verb(under, "delegations", show_all, add_daemon)
    one.add_argument("--giver", default="", metavar="ID", help="only delegations of this participant")
    one.add_argument("--taker", default="", metavar="ID", help="only delegations to this participant")
    one.add_argument("--as", dest="capacity", choices=_CAPACITIES, help="only delegations of this capacity")
    one.add_argument("--at", type=read_start_ms, default=0, metavar="TIME",
                     help="only delegations that are in force then: an instant, or the start of a day")  # fmt: skip


def _add_key(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that name a delegation."""
    verb.add_argument("giver", metavar="GIVER", help="the participant for whom the taker may act")
    verb.add_argument("taker", metavar="TAKER", help="the participant that may act")
    verb.add_argument("--as", dest="capacity", choices=_CAPACITIES, required=True, help="the taker's part")


def delegate(arguments: argparse.Namespace, out: Out) -> int:
    """Record that one participant may act for another, in place of what was recorded before."""
    from consentd.policy import model
    from consentd.policy.delegation import Delegation
    from consentd.statements.delegations import delegation_message

    delegation = Delegation(
        giver=arguments.giver, taker=arguments.taker, capacity=_CAPACITIES[arguments.capacity],
        purposes=tuple(arguments.purpose), start_ms=arguments.start_ms,
        end_ms=arguments.end_ms or model.OPEN_END_MS, break_glass=arguments.break_glass,
    )  # fmt: skip
    message = delegation_message(delegation)
    with open_client(arguments) as client:
        receipt = client.put_delegation(message, signer=participant_signer(arguments, arguments.giver))
    _show(out, message, index=receipt.index)
    return DONE


def end(arguments: argparse.Namespace, out: Out) -> int:
    """End a delegation: its giver with --sign-with, or an operator."""
    from consentd.statements.values import to_enum
    from consentd.v1 import statement_pb2 as st

    capacity = to_enum(_CAPACITIES[arguments.capacity])
    with open_client(arguments) as client:
        signer = participant_signer(arguments, arguments.giver)
        receipt = client.end_delegation(arguments.giver, arguments.taker, capacity, signer=signer)
    ended = st.DelegationStatement(giver=arguments.giver, taker=arguments.taker, capacity=capacity, ended=True)
    _show(out, ended, index=receipt.index)
    return DONE


def show_all(arguments: argparse.Namespace, out: Out) -> int:
    """List the delegations that were not ended, also those whose time is over or has not begun."""
    from consentd.statements.values import to_enum
    from consentd.v1 import statement_pb2 as st

    capacity = st.DELEGATION_CAPACITY_UNSPECIFIED
    if arguments.capacity is not None:
        capacity = to_enum(_CAPACITIES[arguments.capacity])
    with open_client(arguments) as client:
        for one in client.list_delegations(
            giver=arguments.giver, taker=arguments.taker, capacity=capacity, in_force_time_ms=arguments.at
        ):
            _show(out, one)
    return DONE


def _show(out: Out, one: "DelegationStatement", **more: int) -> None:
    from consentd_client import show

    out.answer(
        show.delegation(one, out.lang), type="delegation", giver=one.giver, taker=one.taker,
        capacity=Capacity(one.capacity).name.lower(), purposes=list(one.purposes), start_time_ms=one.start_time_ms,
        end_time_ms=one.end_time_ms, break_glass=one.break_glass, ended=one.ended, **more,
    )  # fmt: skip
