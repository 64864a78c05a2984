"""``consentd subject``: erase persons, and put legal holds on them."""

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_daemon, add_verified
from consentd.cli.options import (
    Verbs,
    add_group,
    add_subject,
    add_verb,
    open_client,
    read_end_ms,
    read_identifier,
    read_key_pair,
    read_pins,
    read_subject,
    read_text,
    read_u64,
)
from consentd.cli.out import DISPROVED, DONE, UNDETERMINED, Out
from consentd.cli.outputs import output_path, write_evidence
from consentd.cli.receipts import receipt_fields
from consentd.errors import ConsentdError, InvalidError, LaterError, StorageError

if TYPE_CHECKING:
    from consentd_client import Client, Erasure, Subject

_AT_ONCE = 32
"""Persons whose tags are read at the same time."""
_BATCH = 1_000
"""Erasures that are ordered in one call. The daemon carries out together what waits together."""
_HELP = """\
examples:
  consentd subject holds mhid:MH-0001
  consentd subject erase mhid:MH-0001 --key authority.key --legal-basis STATUTE --reason "order 7"
  consentd subject erase --file persons.txt --key authority.key --legal-basis STATUTE
  consentd subject duties --erasures
The caller has the right ERASE. --key is its own Ed25519 key, 64 hexadecimal digits. It signs for the pinned ledger.
The verb ends when nothing of the persons is left in the daemon's files. Backups of the vault still have their keys; the
answer says until when. --certificate stores the receipt of the order beside these times: `consentd verify FILE` proves
the order and when it was recorded, offline. The times are the daemon's word. The file does not name the person.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    under = add_group(verbs, "subject", "erase persons, and put legal holds on them", more=_HELP)
    one = add_verb(under, "erase", erase, add_verified, more=_HELP)
    one.set_defaults(timeout=120.0)  # the answer waits for the work on the files, and for the work before it
    one.add_argument("subject", nargs="?", metavar="SCHEME:VALUE", help="the person; `-` reads it from stdin")
    one.add_argument("--file", type=Path, metavar="FILE", help="persons, one a line")
    one.add_argument("--key", type=Path, required=True, metavar="FILE", help="signing key of the caller")
    one.add_argument("--legal-basis", required=True, metavar="CODE", help="a code of the vocabulary")
    one.add_argument("--reason", default="", metavar="TEXT", help="the order, without personal data")
    one.add_argument("--certificate", type=output_path, metavar="FILE",
                     help="wait for the proof, and store it; with --file in FILE.1, FILE.2, … by line")  # fmt: skip
    add_verb(under, "holds", holds, add_subject, add_daemon)
    one = add_verb(under, "duties", duties, add_daemon)
    one.add_argument("--erasures", action="store_true", help="only erasures that are due")
    one.add_argument("--before", dest="before_ms", type=read_end_ms, default=0, metavar="TIME",
                     help="only what ends or is due before: an instant or a date, that day included")  # fmt: skip
    one = add_verb(under, "hold", hold, add_subject, add_daemon)
    one.add_argument("--legal-basis", required=True, metavar="CODE", help="a code of the vocabulary")
    one.add_argument("--reason", default="", metavar="TEXT", help="in words")
    one.add_argument("--until", dest="end_ms", type=read_end_ms, required=True, metavar="TIME",
                     help="when it ends: an instant or a date, that day included")  # fmt: skip
    one = add_verb(under, "end-hold", end_hold, add_subject, add_daemon)
    one.add_argument("seq", type=read_u64, metavar="SEQ", help="the number that `subject holds` shows")


def erase(arguments: argparse.Namespace, out: Out) -> int:
    """Erase persons for ever; exit 1 if one of them was not erased, 2 if that is not known of one."""
    from consentd_client import Subject

    if (arguments.subject is None) == (arguments.file is None):
        raise InvalidError("give SCHEME:VALUE or --file FILE, one of both")
    given = [arguments.subject]
    if arguments.file is not None:
        given = [line for line in read_text(arguments.file, "list of persons").splitlines() if line]
    named = [read_identifier(one) for one in given]
    subjects = [Subject(scheme=scheme, value=value) for scheme, value in named]
    failed, is_unknown = 0, False
    with open_client(arguments) as client:
        for number, found in enumerate(_erase_all(client, subjects, arguments), 1):
            # The person is named by the line: whoever reads the output need not learn the identifier.
            if isinstance(found, ConsentdError):
                failed += 1
                is_unknown = is_unknown or isinstance(found, (StorageError, LaterError))
                out.answer(f"{number}  not erased: {found}", type="erase", number=number, reason=found.reason)
            else:
                _answer_erased(arguments, out, number, found)
    if is_unknown:
        out.message("some may be erased or not: repeat the verb for those")
        return UNDETERMINED
    return DISPROVED if failed else DONE


def _answer_erased(arguments: argparse.Namespace, out: Out, number: int, erased: "Erasure") -> None:
    """Print that the person of line *number* is erased, and store the certificate."""
    from consentd.policy.dates import format_instant

    receipt, until_ms = erased.receipt, erased.backups_until_time_ms
    times = {"complete_time_ms": erased.complete_time_ms, "backups_until_time_ms": until_ms}
    path: Path | None = arguments.certificate
    if path is not None:
        path = path if arguments.file is None else path.with_name(f"{path.name}.{number}")
        content = json.dumps({**receipt_fields(receipt), **times}).encode() + b"\n"
        write_evidence(path, content, "certificate")
        if not receipt.proof:
            out.message(f"certificate has no proof yet: complete it later: `consentd receipt {path}`")
    out.answer(
        f"{number}  erased: entry {receipt.index}; backups of the vault until {format_instant(until_ms)}",
        type="erase", number=number, index=receipt.index, **times,
    )  # fmt: skip


def _erase_all(
    client: "Client", subjects: "Sequence[Subject]", arguments: argparse.Namespace
) -> "Iterator[Erasure | ConsentdError]":
    """Yield for each person the erasure, or why the person was not erased."""
    from consentd.v1.statement_pb2 import ErasureStatement
    from consentd_client import StatementSigner

    key, (origin, _) = read_key_pair(arguments.key), read_pins(arguments)
    order = ErasureStatement(legal_basis=arguments.legal_basis, reason=arguments.reason)


    def find_signer(subject: "Subject") -> "StatementSigner | ConsentdError":
        try:
            return StatementSigner(key=key, origin=origin, tag=client.get_holds(subject).tag)
        except ConsentdError as error:
            return error

    for start in range(0, len(subjects), _BATCH):
        some = subjects[start : start + _BATCH]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(find_signer, some))
        orders = [(who, order, one) for who, one in zip(some, found, strict=True) if isinstance(one, StatementSigner)]
        try:
            erased = iter(client.batch_erase(orders, published=arguments.certificate is not None))
        except ConsentdError as error:
            erased = iter([error] * len(orders))
        for one in found:
            yield one if isinstance(one, ConsentdError) else next(erased)


def holds(arguments: argparse.Namespace, out: Out) -> int:
    """Show a person's tag, and the legal holds that forbid an erasure; exit 1 if there is one.

    An operator is shown the holds that operators attested, and no tag.
    """
    from consentd.policy.dates import format_instant

    with open_client(arguments) as client:
        found = client.get_holds(read_subject(arguments))
    for one in found.holds:
        stated = one.statement.hold
        until = format_instant(stated.until_time_ms)
        out.answer(
            f"#{one.seq}  {stated.legal_basis}  until {until}  {stated.reason}", type="hold", seq=one.seq,
            legal_basis=stated.legal_basis, reason=stated.reason, until_time_ms=stated.until_time_ms,
        )  # fmt: skip
    due_ms = found.erasure_due_time_ms
    until = f"held until {format_instant(due_ms)}" if due_ms else "held, without an end"
    shown = f"{found.tag.hex()}  {until if found.is_held else 'may be erased'}"
    if not found.tag:
        shown = "held by an operator" if found.is_held else "no hold of an operator is in force"
    out.answer(
        shown, type="holds", tag=found.tag.hex(), is_held=found.is_held, erasure_due_time_ms=due_ms
    )
    return DISPROVED if found.is_held else DONE


def duties(arguments: argparse.Namespace, out: Out) -> int:
    """List the legal holds in force, and the erasures that were refused because of one.

    An operator is shown the holds that operators attested, and no tags.
    """
    from consentd.policy.dates import format_instant

    with open_client(arguments) as client:
        for one in client.list_duties(before_time_ms=arguments.before_ms, erasures_only=arguments.erasures):
            is_hold = one.statement.HasField("hold")
            stated = one.statement.hold if is_hold else one.statement.erasure
            time_ms = one.statement.hold.until_time_ms if is_hold else one.statement.erasure.due_time_ms
            until = format_instant(time_ms) if time_ms else "the end of what has no end"
            now = "hold until" if is_hold else "erasure due, held until" if one.is_held else "erasure due since"
            out.answer(
                f"{one.tag.hex() or '-'} #{one.seq}  {stated.legal_basis}  {now} {until}  {stated.reason}",
                type="duty", tag=one.tag.hex(), seq=one.seq, is_hold=is_hold, legal_basis=stated.legal_basis,
                reason=stated.reason, due_time_ms=time_ms, is_held=one.is_held,
            )  # fmt: skip
    return DONE


def hold(arguments: argparse.Namespace, out: Out) -> int:
    """Put a legal hold on a person (for the operator)."""
    from consentd.v1.statement_pb2 import HoldStatement

    made = HoldStatement(
        legal_basis=arguments.legal_basis, reason=arguments.reason, until_time_ms=arguments.end_ms
    )
    with open_client(arguments) as client:
        receipt = client.put_hold(read_subject(arguments), made)
    out.answer(f"#{receipt.event.seq}", type="hold", seq=receipt.event.seq, index=receipt.index)
    return DONE


def end_hold(arguments: argparse.Namespace, out: Out) -> int:
    """End a legal hold before its time (for the operator)."""
    with open_client(arguments) as client:
        receipt = client.end_hold(read_subject(arguments), arguments.seq)
    out.answer(f"#{arguments.seq} ended", type="end-hold", seq=arguments.seq, index=receipt.index)
    return DONE
