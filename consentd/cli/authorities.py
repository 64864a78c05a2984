"""``consentd authority``: record who may act for a person, end it, show it, and list it."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import (
    Verbs,
    add_daemon,
    add_method,
    add_subject,
    add_verb,
    open_client,
    read_bytes,
    read_end_ms,
    read_start_ms,
    read_subject,
    read_u32,
    read_u64,
)
from consentd.cli.out import DONE, Out
from consentd.cli.receipts import add_receipt, store_receipt, write_options
from consentd.cli.signers import add_sign_with, signer_of_person
from consentd.errors import InvalidError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from consentd.v1 import consent_service_pb2 as cs
    from consentd.v1.consent_pb2 import Subject
    from consentd.v1.statement_pb2 import AuthorityStatement
    from consentd_client import Client
    from consentd_client.receipts import StatementOptions

_HELP = """\
example: an app's operator records that city-hall is the guardian of a child. city-hall then gives a consent.
  consentd authority put mhid:MH-0001 city-hall --minor 2015-05-05 --verified-by 3 \\
    --act grant --act revoke --evidence family-relation-certificate=paper.pdf
  consentd grant mhid:MH-0001 --authority-seq 2 --recipient clinic-b --holder hospital-a --purpose TREAT --category CLIN
  consentd authority end mhid:MH-0001 2
The number is the seq of the authority's entry: `authority put` and `authority list` print it.
"""
_PUT_HELP = """\
The participant that records an authority has the right act-for-subjects, or is a public authority, and is not the
representative. A person may sign a power of attorney (--agent, --sign-with), which then needs no paper.
Of a paper, its kind and its hash are recorded, and not the paper.

The authority over a minor ends by itself when the child is 14, and for research when the child is 18, at 00:00 in Korea
on the birthday. What was permitted under an authority ends with it. What was denied stays (proto/policy.md, rule 8).

--verified-by is the item of PIPA Enforcement Decree 17-2(1) by which the guardian's consent was checked, 1 to 7.
"""
_ACTS = ("grant", "amend", "pause", "revoke", "read-history", "dispute")


def add_authority_seq(verb: argparse.ArgumentParser) -> None:
    """Add the option of verbs by which a representative acts for the person."""
    verb.add_argument(
        "--authority-seq", type=read_u64, default=0, metavar="SEQ",
        help="act for the person, under this authority: the number that `authority list` shows",
    )  # fmt: skip


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = verbs.add_parser(
        "authority", help="record who may act for a person, end it, and list it", epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    under = verb.add_subparsers(title="verbs", metavar="VERB", required=True)
    write = (add_method, _add_signer, add_receipt, add_daemon)
    one = add_verb(under, "put", put, add_subject, *write, more=_PUT_HELP)
    one.add_argument("participant", metavar="ID", help="the representative, a participant")
    capacity = one.add_mutually_exclusive_group(required=True)
    capacity.add_argument("--minor", metavar="YYYY-MM-DD", help="legal guardian of a minor who was born on this day")
    capacity.add_argument("--incapacitated", action="store_true", help="legal guardian of an incapacitated adult")
    capacity.add_argument("--agent", action="store_true", help="agent by a power of attorney")
    one.add_argument("--act", action="append", choices=_ACTS, required=True, help="what it may do; repeatable")
    one.add_argument("--evidence", action="append", metavar="KIND=FILE", help="a paper that shows it; repeatable")
    one.add_argument("--verified-by", type=read_u32, default=0, metavar="N", help="how a minor's guardian was checked")
    one.add_argument("--from", dest="start", type=read_start_ms, default=0, metavar="TIME", help="start (default: now)")
    one.add_argument("--until", type=read_end_ms, default=0, metavar="TIME", help="end: a day in Korea or an instant")
    _add_seq(add_verb(under, "end", end, add_subject, *write))
    _add_seq(add_verb(under, "show", show_one, add_subject, add_daemon))
    one = add_verb(under, "list", show_all, add_subject, add_daemon)
    one.add_argument("--participant", default="", metavar="ID", help="only those of this representative")


def _add_signer(verb: argparse.ArgumentParser) -> None:
    add_sign_with(verb, "the person signs the power of attorney: file with the person's key")
    verb.add_argument(
        "--tag", default="", metavar="HEX",
        help="with --sign-with: the person's tag, as `enrol` printed it (default: read from the history)",
    )  # fmt: skip


def _options(arguments: argparse.Namespace, client: "Client", subject: "Subject") -> "StatementOptions":
    """Return the client's options: with --sign-with the person signs the statement, else the caller attests it."""
    if arguments.sign_with is None and arguments.tag:
        raise InvalidError("tag is what a signature of a person names: give --sign-with too")
    signs = arguments.sign_with is not None
    signer = signer_of_person(arguments.sign_with, arguments, client, subject) if signs else None
    return {"signer": signer, "method": arguments.method, **write_options(arguments)}


def _add_seq(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("seq", type=read_u64, metavar="SEQ", help="the number that `authority list` shows")


def put(arguments: argparse.Namespace, out: Out) -> int:
    """Record who may act for a person; print the authority's number."""
    from consentd_client import show

    stated, subject = _statement(arguments), read_subject(arguments)
    with open_client(arguments) as client:
        receipt = client.put_authority(subject, stated, **_options(arguments, client, subject))
    seq = receipt.event.seq
    out.answer(
        f"#{seq}  {show.authority(stated, out.lang)}", type="authority", authority_seq=seq,
        receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE


def end(arguments: argparse.Namespace, out: Out) -> int:
    """End an authority: what was permitted under it permits nothing that is asked afterwards; its denies stay."""
    from consentd_client import labels

    subject = read_subject(arguments)
    with open_client(arguments) as client:
        receipt = client.end_authority(subject, arguments.seq, **_options(arguments, client, subject))
    out.answer(
        f"#{arguments.seq}  {labels.label('ENDED', out.lang)}", type="authority", authority_seq=arguments.seq,
        ended_seq=receipt.event.seq, receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE


def show_one(arguments: argparse.Namespace, out: Out) -> int:
    """Show one authority for a person."""
    with open_client(arguments) as client:
        _show(out, client.get_authority(read_subject(arguments), arguments.seq))
    return DONE


def show_all(arguments: argparse.Namespace, out: Out) -> int:
    """List the authorities for a person, newest first, ended ones too."""
    with open_client(arguments) as client:
        for record in client.list_authorities(read_subject(arguments), participant_id=arguments.participant):
            _show(out, record)
    return DONE


def _show(out: Out, record: "cs.AuthorityRecord") -> None:
    from google.protobuf.json_format import MessageToDict

    from consentd_client import show

    ends = _ends(record, out.lang)
    out.answer(
        f"#{record.authority_seq}  {show.authority(record.statement, out.lang)}" + (f", {ends}" if ends else ""),
        type="authority", authority_seq=record.authority_seq, time_ms=record.time_ms, end_time_ms=record.end_time_ms,
        research_end_time_ms=record.research_end_time_ms, ended_seq=record.ended_seq,
        statement=MessageToDict(record.statement, preserving_proto_field_name=True),
    )  # fmt: skip


def _ends(record: "cs.AuthorityRecord", lang: str) -> str:
    """Describe when an authority ends: for research apart, if that is another time; empty if it has no end."""
    from consentd_client import labels

    if record.ended_seq:
        return f"{labels.label('ENDED', lang)} {format_instant(record.end_time_ms)} (#{record.ended_seq})"
    last, research = record.end_time_ms, record.research_end_time_ms
    parts = [f"{labels.label('ENDS', lang)} {format_instant(last)}"] if last else []
    if research and research != last:
        parts.append(f"{labels.label('ENDS_FOR_RESEARCH', lang)} {format_instant(research)}")
    return ", ".join(parts)


def _statement(arguments: argparse.Namespace) -> "AuthorityStatement":
    """Return the statement that the options make. Raises ``InvalidError`` or ``StorageError``."""
    from consentd.v1 import statement_pb2 as st

    reason = st.AUTHORITY_REASON_UNSPECIFIED
    if arguments.minor is not None:
        reason = st.AUTHORITY_REASON_MINOR
    elif arguments.incapacitated:
        reason = st.AUTHORITY_REASON_INCAPACITATED
    made = st.AuthorityStatement(
        participant_id=arguments.participant, reason=reason, birth_date=arguments.minor or "",
        capacity=st.AUTHORITY_CAPACITY_AGENT if arguments.agent else st.AUTHORITY_CAPACITY_LEGAL_GUARDIAN,
        acts=[st.AuthorityAct.Value(f"AUTHORITY_ACT_{one.replace('-', '_').upper()}") for one in arguments.act],
        start_time_ms=arguments.start, end_time_ms=arguments.until,
    )  # fmt: skip
    if arguments.verified_by:
        made.verified_by = arguments.verified_by
    for text in arguments.evidence or ():
        kind, _, path = text.partition("=")
        if not (kind and path):
            raise InvalidError("evidence is not KIND=FILE")
        made.evidence.add(kind=kind, sha256=hashlib.sha256(read_bytes(Path(path), "paper")).digest())
    return made
