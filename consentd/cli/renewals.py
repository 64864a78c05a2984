"""``consentd renew``, ``expiring``, ``due``: give consents a later end, and list what ends or is due."""

import argparse

from consentd.cli.authorities import add_authority_seq
from consentd.cli.consents import add_named, show_granted
from consentd.cli.daemon_options import add_daemon, add_write
from consentd.cli.notices import add_served, read_notice, served_statement
from consentd.cli.options import (
    Verbs,
    add_method,
    add_times,
    add_verb,
    open_client,
    read_end_ms,
    read_subject,
    read_times,
    read_u32,
)
from consentd.cli.out import DONE, Out
from consentd.cli.receipts import add_receipt
from consentd.cli.signers import add_tag, person_options
from consentd.policy.dates import format_instant

_RENEW_HELP = """\
The next version of the consent is the one in force with a later end. Nothing else changes.

exit status: 0 recorded, 1 refused on a legal ground (the refusal is recorded and names what is missing), 2 an error.

example:
  consentd renew mhid:MH-0001 $CONSENT --until 2028-12-31
"""
_EXPIRING_HELP = """\
Without a person: the consents whose permits name you as recipient or holder. Persons are shown by their tags.

example:
  consentd expiring --until 2027-03-31
"""
_DUE_HELP = """\
What consents that recur permit you, a holder, to transfer once in the present period, and what was missed in the one
before. `authorize` decides whether it is permitted.

example:
  consentd due --by 2027-03-31
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    write = (add_method, add_tag, add_receipt, add_write)
    verb = add_verb(verbs, "renew", renew, add_named, add_served(), add_authority_seq, *write, more=_RENEW_HELP)
    verb.add_argument("--until", type=read_end_ms, required=True, metavar="DATE", help="the new end")
    verb.add_argument("--retain-until", type=read_end_ms, default=0, metavar="DATE", help="how long it may be kept")
    verb.add_argument("--notice", metavar="ID@N", help="the notice version that was shown (default: as before)")
    verb.add_argument("--version", type=read_u32, metavar="N", help="the version you renew (default: that in force)")
    verb = add_verb(verbs, "expiring", expiring, add_daemon, more=_EXPIRING_HELP)
    verb.add_argument("subject", nargs="?", metavar="SCHEME:VALUE", help="only those of this person")
    add_times(verb, "those that end")
    verb = add_verb(verbs, "due", due, add_daemon, more=_DUE_HELP)
    verb.add_argument("--by", type=read_end_ms, default=0, metavar="TIME", help="what is due by then (default: now)")


def renew(arguments: argparse.Namespace, out: Out) -> int:
    """Give a consent a later end."""
    subject = read_subject(arguments)
    with open_client(arguments) as client:
        record = client.get_consent(subject, arguments.consent_id)
        after = record.consent
        shown = after.notice_id, after.notice_version
        if arguments.notice:
            shown = read_notice(arguments.notice)
        served = served_statement(arguments, *shown)
        after.root.period.end_time_ms = arguments.until
        granted = client.renew(
            subject, arguments.consent_id, end_time_ms=arguments.until, retention_until_time_ms=arguments.retain_until,
            based_on_version=arguments.version or record.version, served=served,
            authority_seq=arguments.authority_seq, **person_options(arguments, client, subject),
        )  # fmt: skip
    return show_granted(arguments, out, granted, after)


def expiring(arguments: argparse.Namespace, out: Out) -> int:
    """List consents that end in a time span: those that name the caller, or those of a person."""
    subject = read_subject(arguments) if arguments.subject else None
    with open_client(arguments) as client:
        for one in client.list_expiring(subject=subject, **read_times(arguments)):
            out.answer(
                f"{format_instant(one.end_time_ms)}  {one.tag.hex()}  {one.consent_id}  v{one.version}",
                type="expiring", tag=one.tag.hex(), consent_id=one.consent_id, version=one.version,
                end_time_ms=one.end_time_ms,
            )  # fmt: skip
    return DONE


def due(arguments: argparse.Namespace, out: Out) -> int:
    """List the transfers that the caller, a holder, must make now, and those that it missed."""
    from consentd_client import labels

    with open_client(arguments) as client:
        for one in client.list_due_transfers(by_time_ms=arguments.by):
            parts = [one.tag.hex(), one.consent_id, ", ".join(one.actors)]
            if one.categories:
                parts.append(f"{labels.label('DUE', out.lang)} {format_instant(one.due_time_ms)}: "
                             f"{', '.join(one.categories)}")  # fmt: skip
            if one.missed_categories:
                parts.append(f"{labels.label('MISSED', out.lang)}: {', '.join(one.missed_categories)}")
            out.answer(
                "  ".join(parts), type="due", tag=one.tag.hex(), consent_id=one.consent_id, version=one.version,
                due_time_ms=one.due_time_ms, until_time_ms=one.until_time_ms, categories=list(one.categories),
                missed_categories=list(one.missed_categories), actors=list(one.actors),
            )  # fmt: skip
    return DONE
