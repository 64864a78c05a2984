"""``consentd check``, ``authorize``, ``record``, ``access``, ``accesses``: decide, record and show transfers."""

import argparse
from typing import TYPE_CHECKING

from consentd.cli.authorities import add_reading_authority
from consentd.cli.daemon_options import add_read, add_verified
from consentd.cli.options import (
    Verbs,
    add_subject,
    add_times,
    add_verb,
    open_client,
    read_end_ms,
    read_start_ms,
    read_subject,
    read_times,
    read_u32,
    read_u64,
)
from consentd.cli.out import DONE, REFUSED, UNDETERMINED, Out
from consentd.cli.receipts import add_receipt, store_receipt, write_options
from consentd.cli.signers import add_sign_with, question_signer
from consentd.errors import InvalidError
from consentd.policy.dates import format_instant, parse_instant_ms
from consentd.policy.model import LEVELS

if TYPE_CHECKING:
    from consentd.v1.access_service_pb2 import AccessRecord
    from consentd.v1.statement_pb2 import EntryKind
    from consentd_client import CheckAnswer, Question

_NO_PROOF = "this proves nothing; `consentd history` proves a person's whole history"

_CHECK_HELP = """\
exit status: 0 PERMIT, 1 any refusal (PARTIAL, DENY, NO_CONSENT) or a PERMIT with obligations that are not fulfilled,
2 INDETERMINATE or an error. Transfer data only at 0.

example:
  consentd check mhid:MH-0001 --actor clinic-b --holder hospital-a --purpose TREAT --category CLIN.DX
A view is asked with `--action access`. `--fulfils enforce-residual` shows what each resource must satisfy, if only some
of the data are permitted; the exit status is then 1, because this command releases no data.

`--at` asks what would have been answered at an earlier moment, for example that of a recorded decision: its tree_size
and decided_time_ms. Exit status 0 then says that it would have been permitted; it permits nothing now. It needs the
right SEE_REASONS, or for questions of the person ACT_FOR_SUBJECTS.
  consentd check ... --at 1204@2026-03-01T09:00:00+09:00
"""
_AUTHORIZE_HELP = """\
Call it before the transfer. The decision is stored durably before it is answered.

exit status: 0 PERMIT, 1 any refusal or a PERMIT with obligations that are not fulfilled, 2 INDETERMINATE or an error.
Transfer data only at 0. An emergency access has obligations: confirm them with --fulfils.

example:
  consentd authorize mhid:MH-0001 --actor er --holder hospital-a --purpose BTG --category CLIN.ALG \\
      --emergency "found unconscious, no relatives" --fulfils notify-subject --fulfils post-review
"""
_ACCESSES_HELP = """\
Only accesses that meet all conditions are listed.

example:
  consentd accesses mhid:MH-0001 --actor clinic-b --no-refused --since 2026-01-01 --until 2026-01-31
"""
_STATUSES = ("sent", "received", "failed", "deferred")
_OBLIGATIONS = ("notify-subject", "post-review", "enforce-residual")


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "check", check, _add_question, add_read, more=_CHECK_HELP)
    moment = verb.add_mutually_exclusive_group()
    moment.add_argument(
        "--at-least", type=_read_size, metavar="N", help="answer from a ledger of N leaves or more; wait for them"
    )
    moment.add_argument("--at", type=_read_moment, metavar="N@TIME", help="answer from the first N leaves, at TIME")
    verb = add_verb(verbs, "authorize", authorize, _add_question, add_receipt, add_verified, more=_AUTHORIZE_HELP)
    verb.add_argument("--emergency", default="", metavar="WHY", help="justification of break-glass access; purpose BTG")
    verb.add_argument("--network-origin", default="", metavar="WHERE", help="address that the request came from")
    add_sign_with(verb, "sign the question: file with a key of the caller, or of the person if --actor is SUBJECT")
    verb.add_argument("--tag", default="", metavar="HEX", help="with --sign-with: the person's tag, as you pinned it")
    verb = add_verb(verbs, "record", record, add_subject, add_receipt, add_verified)
    verb.add_argument("--access-seq", type=read_u64, required=True, metavar="N", help="as `authorize` answered it")
    verb.add_argument("--status", choices=_STATUSES, required=True, help="the outcome")
    verb.add_argument("--category", action="append", default=[], metavar="CODE", help="transferred; repeatable")
    verb.add_argument("--resources", type=read_u32, default=0, metavar="N", help="how many resources were transferred")
    verb.add_argument("--bytes", type=read_u64, default=0, metavar="N", help="how many bytes were transferred")
    verb.add_argument("--note", default="", help="a remark without personal data")
    verb = add_verb(verbs, "access", access, add_subject, add_reading_authority, add_read)
    verb.add_argument("seq", type=read_u64, metavar="SEQ", help="the entry's number, as `accesses` shows it")
    verb = add_verb(verbs, "accesses", accesses, add_subject, add_reading_authority, add_read, more=_ACCESSES_HELP)
    verb.add_argument("--limit", type=read_u32, default=0, metavar="N", help="list at most N (default: all)")
    verb.add_argument("--refused", action=argparse.BooleanOptionalAction,
                      help="only refusals; --no-refused: only permitted accesses")  # fmt: skip
    verb.add_argument("--automatic", action=argparse.BooleanOptionalAction,
                      help="only accesses without a person; --no-automatic: only with one")  # fmt: skip
    verb.add_argument("--actor", default="", metavar="ID", help="only accesses of or for this participant")
    verb.add_argument("--holder", default="", metavar="ID", help="only accesses to data that this participant holds")
    verb.add_argument("--purpose", default="", metavar="CODE", help="only accesses with this purpose")
    verb.add_argument("--asker", default="", metavar="ID", help="only accesses that this participant asked for")
    add_times(verb, "accesses")


def check(arguments: argparse.Namespace, out: Out) -> int:
    """Ask whether a transfer may happen; nothing is recorded."""
    from consentd_client import AtExact, AtLeast

    consistency: AtExact | AtLeast | None = None
    if arguments.at is not None:
        consistency = AtExact(*arguments.at)
    elif arguments.at_least is not None:
        consistency = AtLeast(arguments.at_least)
    with open_client(arguments) as client:
        answer = client.check(_question(arguments), consistency=consistency)
    return _show(arguments, out, answer, {"past": answer.is_past})


def authorize(arguments: argparse.Namespace, out: Out) -> int:
    """Decide and record a transfer."""
    question = _question(arguments)
    if arguments.emergency:
        question.break_glass.justification = arguments.emergency
    signer = question_signer(arguments)
    with open_client(arguments) as client:
        answer = client.authorize_access(
            question, signer=signer, network_origin=arguments.network_origin, **write_options(arguments)
        )
    fields: dict[str, object] = {"access_seq": answer.access_seq, "receipt": None}
    if answer.receipt is not None:
        fields["receipt"] = store_receipt(arguments, out, answer.receipt)
    return _show(arguments, out, answer, fields)


def record(arguments: argparse.Namespace, out: Out) -> int:
    """Record the outcome of a permitted transfer."""
    from consentd.v1 import statement_pb2 as st

    outcome = st.OutcomeStatement(
        status=st.TransferStatus.Value(f"TRANSFER_STATUS_{arguments.status.upper()}"), categories=arguments.category,
        resource_count=arguments.resources, byte_count=arguments.bytes, note=arguments.note,
    )  # fmt: skip
    with open_client(arguments) as client:
        receipt = client.record_access(
            read_subject(arguments), arguments.access_seq, outcome, **write_options(arguments)
        )
    out.answer(f"recorded as entry {receipt.index}", type="record", receipt=store_receipt(arguments, out, receipt))
    return DONE


def access(arguments: argparse.Namespace, out: Out) -> int:
    """Show one access to a person's data, with its outcomes."""
    with open_client(arguments) as client:
        found = client.get_access(
            read_subject(arguments), arguments.seq, authority_seq=arguments.authority_seq
        )
    _show_access(out, found)
    out.message(_NO_PROOF)
    return DONE


def accesses(arguments: argparse.Namespace, out: Out) -> int:
    """List who used, or asked to use, a person's data, newest first."""
    from itertools import islice

    with open_client(arguments) as client:
        found = client.list_accesses(
            read_subject(arguments), kind=_kind(arguments.refused), automatic=arguments.automatic,
            actor=arguments.actor, holder=arguments.holder, purpose=arguments.purpose, asker=arguments.asker,
            authority_seq=arguments.authority_seq, **read_times(arguments),
        )  # fmt: skip
        for one in islice(found, arguments.limit or None):
            _show_access(out, one)
    out.message(_NO_PROOF)
    return DONE


def _kind(refused: bool | None) -> "EntryKind.ValueType":
    from consentd.v1 import statement_pb2 as st

    if refused is None:
        return st.ENTRY_KIND_UNSPECIFIED
    return st.ENTRY_KIND_REFUSAL if refused else st.ENTRY_KIND_ACCESS


def _show_access(out: Out, found: "AccessRecord") -> None:
    from google.protobuf.json_format import MessageToDict

    from consentd.statements.outcomes import beyond_permit, permitted_names
    from consentd.v1 import consent_pb2 as pb
    from consentd.v1 import statement_pb2 as st
    from consentd_client import labels, show

    found.question.ClearField("subject")
    permitted = permitted_names(found.decision, found.question)
    outcome = labels.enum_label(pb.Outcome, found.decision.outcome, "OUTCOME_", out.lang)
    said = f"{show.question(found.question)}, {show.asker(found.asker, out.lang)}"
    line = f"#{found.seq:<4} {format_instant(found.time_ms)}  {outcome}: {said}"
    for outcome_message in found.outcomes:
        line += f"\n      {show.describe(outcome_message, out.lang)}"
        beyond = show.beyond_permit(beyond_permit(outcome_message, permitted), out.lang)
        line += f" ({labels.escape_control(beyond)})" if beyond else ""
    if found.more_outcomes:
        line += "\n      …"
    fields = MessageToDict(found, preserving_proto_field_name=True)
    kind = labels.enum_name(st.EntryKind, found.kind, "ENTRY_KIND_")
    out.answer(line, **{**fields, "seq": found.seq, "index": found.index, "time_ms": found.time_ms, "kind": kind})


def _add_question(verb: argparse.ArgumentParser) -> None:
    add_subject(verb)
    verb.add_argument("--actor", required=True, metavar="ID", help="who uses the data; SUBJECT: the person")
    verb.add_argument("--on-behalf-of", default="", metavar="ID", help="the participant it acts for")
    verb.add_argument("--relay", action="append", default=[], metavar="ID", help="carries the request; repeatable")
    verb.add_argument("--application", default="", metavar="ID", help="the participant whose software is used")
    verb.add_argument("--practitioner", default="", metavar="ID", help="the person who uses the data")
    verb.add_argument("--automatic", action="store_true", help="a machine asks, without a person")
    verb.add_argument("--holder", required=True, metavar="ID", help="the participant that holds the data")
    verb.add_argument("--purpose", required=True, metavar="CODE", help="the purpose; see `consentd vocabulary`")
    actions = ("collect", "access", "use", "disclose", "correct")
    verb.add_argument(
        "--action", default="collect", choices=actions,
        help="what the actor does with the data: a transfer is `collect` (default), a view `access`",
    )  # fmt: skip
    verb.add_argument("--category", action="append", required=True, metavar="CODE", help="category of data; repeatable")
    verb.add_argument(
        "--label", action="append", metavar="CODE", help="label of the data, beside those of their category; repeatable"
    )
    verb.add_argument("--level", choices=LEVELS, default="", help="confidentiality of the data (default: not stated)")
    verb.add_argument("--resource", action="append", metavar="REFERENCE", help="single resource; repeatable")
    verb.add_argument("--data-from", type=read_start_ms, default=0, metavar="DATE",
                      help="start of the time that the data are about")  # fmt: skip
    verb.add_argument("--data-until", type=read_end_ms, default=0, metavar="DATE", help="end of that time")
    verb.add_argument(
        "--fulfils", action="append", choices=_OBLIGATIONS, default=[], help="obligation that you fulfil; repeatable"
    )


def _question(arguments: argparse.Namespace) -> "Question":
    from consentd.v1 import consent_pb2 as pb
    from consentd_client import Actor, CodeSet, Period, Question

    actor = Actor(
        organisation=arguments.actor, practitioner=arguments.practitioner, application=arguments.application,
        on_behalf_of=arguments.on_behalf_of, relays=arguments.relay, automatic=arguments.automatic,
    )  # fmt: skip
    period = Period(start_time_ms=arguments.data_from, end_time_ms=arguments.data_until)
    return Question(
        subject=read_subject(arguments), actor=actor, holder=arguments.holder, purpose=arguments.purpose,
        action=arguments.action, categories=arguments.category, level=arguments.level,
        labels=CodeSet(values=arguments.label) if arguments.label else None,
        resources=CodeSet(values=arguments.resource) if arguments.resource else None,
        data_period=period if arguments.data_from or arguments.data_until else None,
        supported_obligations=[pb.Obligation.Value(_obligation(one)) for one in arguments.fulfils],
    )  # fmt: skip


def _read_size(text: str) -> int:
    """Parse a tree size. An argparse type."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 64):
        raise argparse.ArgumentTypeError("number of leaves is no number")
    return int(text)


def _read_moment(text: str) -> tuple[int, int]:
    """Parse a tree size and an instant: N@ and UTC milliseconds, or a time with zone. An argparse type."""
    size, _, instant = text.partition("@")
    is_number = instant.isascii() and instant.isdigit() and int(instant) < 1 << 63
    try:
        time_ms = int(instant) if is_number else parse_instant_ms(instant)
    except InvalidError as error:
        raise argparse.ArgumentTypeError(f"moment is not N@TIME: {error}") from error
    return _read_size(size), time_ms


def _obligation(option: str) -> str:
    """Return the protobuf name of an obligation."""
    return f"OBLIGATION_{option.replace('-', '_').upper()}"


def _show(arguments: argparse.Namespace, out: Out, answer: "CheckAnswer", more: dict[str, object]) -> int:
    """Write an answer, with the further fields *more* of its JSON; return the exit status."""
    from google.protobuf.json_format import MessageToDict

    from consentd.v1 import consent_pb2 as pb
    from consentd_client import labels, show

    decision, name, lang = answer.decision, answer.outcome_name, out.lang
    fulfilled = {pb.Obligation.Value(_obligation(one)) for one in arguments.fulfils} - {pb.OBLIGATION_ENFORCE_RESIDUAL}
    answer = answer.fulfil(*fulfilled.intersection(decision.obligations))
    lists = {
        "permitted": list(decision.permitted), "denied": list(decision.denied),
        "without_consent": list(decision.without_consent), "unknown": list(decision.unknown),
    }  # fmt: skip
    codes = [labels.enum_name(pb.ReasonCode, reason.code, "REASON_CODE_") for reason in decision.reasons]
    reasons = [
        {"code": code, "consent_id": reason.consent_id, "version": reason.version, "path": reason.path}
        for code, reason in zip(codes, decision.reasons, strict=True)
    ]
    obligations = [labels.enum_name(pb.Obligation, one, "OBLIGATION_") for one in decision.obligations]
    lines = [f"{name}  {labels.label(name, lang)}"]
    lines += [f"  {key}: {', '.join(categories)}" for key, categories in lists.items() if categories]
    if decision.permitted:
        lines[1] += f"  ({show.permitted_data(decision, lang)})"
    for code, reason in zip(codes, decision.reasons, strict=True):
        lines.append(f"  reason: {' '.join(filter(None, (code, reason.consent_id, reason.path)))}")
    lines += [f"  {labels.label('OBLIGATION', lang)}: {one} ({labels.label(one, lang)})" for one in obligations]
    lines += [f"  {line}" for line in show.condition_lines(decision.residual, lang)]
    if decision.valid_until_time_ms:
        lines.append(f"  until: {format_instant(decision.valid_until_time_ms)}")
    if more.get("access_seq"):
        lines.append(f"  access-seq: {more['access_seq']}")
    if answer.is_past:
        lines.append(f"  at: {decision.revision.tree_size} leaves, {format_instant(decision.decided_time_ms)}")
    error = answer.error
    out.answer(
        "\n".join(lines), type="decision", outcome=name, permits=bool(answer), **lists, reasons=reasons,
        labels=list(decision.labels), level=decision.level, obligations=obligations,
        unfulfilled=[labels.enum_name(pb.Obligation, one, "OBLIGATION_") for one in answer.unfulfilled],
        residual=[MessageToDict(rule, preserving_proto_field_name=True) for rule in decision.residual],
        combining=labels.enum_name(pb.Combining, decision.combining, "COMBINING_"),
        vocabulary_version=decision.vocabulary_version, decided_time_ms=decision.decided_time_ms,
        valid_until_time_ms=decision.valid_until_time_ms, tree_size=decision.revision.tree_size,
        error=None if error is None else {"reason": error.reason, "message": str(error)}, **more,
    )  # fmt: skip
    if error is not None:
        out.fault(error)
    if answer or (answer.is_past and not answer.unfulfilled and decision.outcome == pb.OUTCOME_PERMIT):
        return DONE
    if decision.outcome == pb.OUTCOME_PERMIT:
        out.message("permitted, but not yet: there are obligations that you did not confirm, or conditions to apply")
    return UNDETERMINED if decision.outcome == pb.OUTCOME_INDETERMINATE else REFUSED
