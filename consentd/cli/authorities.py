"""``consentd authority``: record who may act for a person, end it, show it, and list it."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_read, add_verified
from consentd.cli.options import (
    Verbs,
    add_group,
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
from consentd.cli.signers import add_possession, add_sign_with, read_new_key, signer_of_person
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
  consentd grant mhid:MH-0001 --authority-seq 2 --method "id card, at a counter" \\
    --recipient clinic-b --holder hospital-a --purpose TREAT --category CLIN
  consentd authority end mhid:MH-0001 2
The number is the seq of the authority's entry: `authority put` and `authority list` print it.

A mother who is no participant signs with a key of her own, for this child alone. The app records and sends it:
  consentd authority put mhid:MH-0001 --key mother.key --minor 2015-05-05 --verified-by 3 --act grant \\
    --evidence family-relation-certificate=paper.pdf
  consentd grant mhid:MH-0001 --authority-seq 2 --subject-key mother.key --recipient clinic-b ...
"""
_PUT_HELP = """\
The participant that records an authority has the right act-for-subjects, or is a public authority, and is not the
representative. A person may sign a power of attorney (--agent, --sign-with), which then needs no paper.
Of a paper, its kind and its hash are recorded, and not the paper.

The authority over a minor ends by itself when the child is 14, and for research when the child is 18, at 00:00 in Korea
on the birthday. What was permitted under an authority ends with it. What was denied stays (proto/policy.md, rule 8).

--verified-by is the item of PIPA Enforcement Decree 17-2(1) by which the guardian's consent was checked, 1 to 7.

Relatives may only read (Medical Act 21(3)): of a person who is dead, unconscious, missing or incapacitated (--reason),
or with a paper `consent-of-person`. A sibling has a paper `no-other-relative` too. A protector is recorded, and may do
nothing.

--key is the key of a representative who is a natural person: its file, or the public key with the --possession that
`key prove --represents` prints. Each authority has a key of its own.
"""
_ACTS = ("grant", "amend", "pause", "revoke", "read-history", "dispute")
_RELATIVES = ("spouse", "ascendant", "descendant", "spouse-ascendant", "sibling")
_REASONS = ("deceased", "unconscious", "missing", "incapacitated")


def add_authority_seq(verb: argparse.ArgumentParser) -> None:
    """Add the option of verbs by which a representative acts for the person."""
    verb.add_argument(
        "--authority-seq", type=read_u64, default=0, metavar="SEQ",
        help="act for the person, under this authority: the number that `authority list` shows",
    )  # fmt: skip


def add_reading_authority(verb: argparse.ArgumentParser) -> None:
    """Add the option of verbs by which a representative reads."""
    verb.add_argument(
        "--authority-seq", type=read_u64, default=0, metavar="SEQ",
        help="read for a representative, under this authority; the reading is recorded",
    )  # fmt: skip


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    under = add_group(verbs, "authority", "record who may act for a person, end it, and list it", more=_HELP)
    write = (add_method, _add_signer, add_receipt, add_verified)
    one = add_verb(under, "put", put, add_subject, *write, more=_PUT_HELP)
    one.add_argument("participant", nargs="?", default="", metavar="ID", help="the representative, a participant")
    one.add_argument("--key", default="", metavar="FILE|HEX", help="or the representative's own key")
    add_possession(one)
    capacity = one.add_mutually_exclusive_group(required=True)
    capacity.add_argument("--minor", metavar="YYYY-MM-DD", help="legal guardian of a minor who was born on this day")
    capacity.add_argument("--incapacitated", action="store_true", help="legal guardian of an incapacitated adult")
    capacity.add_argument("--agent", action="store_true", help="agent by a power of attorney")
    capacity.add_argument("--relative", choices=_RELATIVES, help="relative, who may only read")
    capacity.add_argument("--protector", action="store_true", help="who accompanies the patient, and may do nothing")
    one.add_argument("--reason", choices=_REASONS, help="of a relative or a protector: the person's state")
    one.add_argument("--act", action="append", choices=_ACTS, help="what it may do; repeatable")
    one.add_argument("--evidence", action="append", metavar="KIND=FILE", help="a paper that shows it; repeatable")
    one.add_argument("--verified-by", type=read_u32, default=0, metavar="N", help="how a minor's guardian was checked")
    one.add_argument("--from", dest="start", type=read_start_ms, default=0, metavar="TIME", help="start (default: now)")
    one.add_argument("--until", type=read_end_ms, default=0, metavar="TIME", help="end: a day in Korea or an instant")
    _add_seq(add_verb(under, "end", end, add_subject, *write))
    _add_seq(add_verb(under, "show", show_one, add_subject, add_read))
    one = add_verb(under, "list", show_all, add_subject, add_read)
    one.add_argument("--participant", default="", metavar="ID", help="only those of this representative")


def _add_signer(verb: argparse.ArgumentParser) -> None:
    add_sign_with(verb, "who signs: the person a power of attorney, the representative the end; file with the key")
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

    stated, subject, possession = _statement(arguments), read_subject(arguments), b""
    if bool(arguments.key) is bool(arguments.participant):
        raise InvalidError("representative is a participant, ID, or a natural person with a --key")
    if arguments.key:
        stated.key, possession = read_new_key(arguments, arguments.key, subject, represents=True)
    with open_client(arguments) as client:
        options = _options(arguments, client, subject)
        receipt = client.put_authority(subject, stated, possession=possession, **options)
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


def _upper(choice: str) -> str:
    """Return the last part of the name of an enum's value that an option chooses."""
    return choice.replace("-", "_").upper()


def _statement(arguments: argparse.Namespace) -> "AuthorityStatement":
    """Return the statement that the options make. Raises ``InvalidError`` or ``StorageError``."""
    from consentd.v1 import statement_pb2 as st

    capacity, state, acts = "LEGAL_GUARDIAN", arguments.reason or "unspecified", arguments.act or []
    if arguments.minor is not None:
        state = "minor"
    elif arguments.incapacitated:
        state = "incapacitated"
    elif arguments.agent:
        capacity = "AGENT"
    elif arguments.protector:
        capacity = "PROTECTOR"
    else:
        capacity, acts = _upper(arguments.relative), acts or ["read-history"]
    made = st.AuthorityStatement(
        participant_id=arguments.participant, birth_date=arguments.minor or "",
        reason=st.AuthorityReason.Value(f"AUTHORITY_REASON_{_upper(state)}"),
        capacity=st.AuthorityCapacity.Value(f"AUTHORITY_CAPACITY_{_upper(capacity)}"),
        acts=[st.AuthorityAct.Value(f"AUTHORITY_ACT_{_upper(one)}") for one in acts],
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
