"""``consentd enrol``, ``grant``, ``amend``, ``pause``, ``resume``, ``revoke``, ``consents``: write or list consents."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.authorities import add_authority_seq, add_reading_authority
from consentd.cli.daemon_options import add_read, add_write
from consentd.cli.notices import add_served, read_notice, served_statement
from consentd.cli.options import (
    Verbs,
    add_method,
    add_subject,
    add_times,
    add_verb,
    open_client,
    read_end_ms,
    read_start_ms,
    read_subject,
    read_text,
    read_times,
    read_u32,
)
from consentd.cli.out import DONE, REFUSED, Out
from consentd.cli.receipts import add_receipt, store_receipt, write_options
from consentd.cli.signers import add_possession, add_tag, person_options, read_new_key
from consentd.errors import InvalidError
from consentd.policy.dates import format_instant
from consentd.policy.model import ANY, LEVELS

if TYPE_CHECKING:
    from consentd.v1 import consent_pb2 as pb
    from consentd.v1 import consent_service_pb2 as cs
    from consentd_client import Consent, GrantAnswer, Provision

_GRANT_HELP = """\
exit status: 0 recorded, 1 refused on a legal ground (the refusal is recorded and names what is missing), 2 an error.

example:
  consentd grant mhid:MH-0001 --recipient clinic-b --holder hospital-a --purpose TREAT --category CLIN
A transfer request (전송요구) needs all seven items: also --recurrence, --until and --retain-until.

A permit of `*` does not cover what must be named: purposes such as marketing or research on trials, and data with a
label. Name a label with --label, and the category that has it with --category (proto/policy.md, rules 6 and 9).

Actions are those of the recipient. A deny of `access` denies `collect` too; a deny of another action denies that one
alone. So `--deny --action disclose` stops no transfer: it denies that the recipient passes the data on.
"""
_AMEND_HELP = """\
What no option states stays as it is in the version in force, nested provisions too. A list that an option states
replaces the whole list. `--holder '*'` states that there is no limit, `never` that there is no start or end, `none`
that there is no level, policy or notice. The differences between the two versions are shown. With --file, the file
states the whole consent.

exit status: 0 recorded, 1 refused on a legal ground (the refusal is recorded and names what is missing), 2 an error.

example:
  consentd amend mhid:MH-0001 $CONSENT --category CLIN.DX --until 2027-12-31
"""
_CONSENTS_HELP = """\
Each consent is shown with everything that it states, a nested provision on a line of its own.

states: active; not yet in force, ended (by the period of its root); paused (it permits nothing, but still denies);
revoked (with --all or --state revoked). A consent that was paused before it began is not yet in force, and shown as
paused too: its start does not end the pause. Without either, all but revoked ones are listed. The list proves nothing;
`consentd history` proves a person's whole history.

example:
  consentd consents mhid:MH-0001 --state active --state paused
"""
_LISTS = (
    ("recipient", "actors", "ID", "who may receive it, or group/ID"),
    ("holder", "holders", "ID", "who may disclose it"),
    ("purpose", "purposes", "CODE", "for which purpose"),
    ("category", "categories", "CODE", "which data"),
    ("action", "actions", "CODE", "what may be done with it: collect, access (look), use, disclose, correct"),
    ("label", "labels", "CODE", "which security labels it has"),
    ("resource", "resources", "REFERENCE", "which single resources"),
)
"""For each list of a provision: its option, its field, and the option's help."""
_POLICIES = ("deny", "basic-normal", "all-normal", "break-glass-only")
_KINDS = ("consent", "transfer-request", "objection", "statutory")
_STATES = ("active", "paused", "not-yet", "ended", "revoked")


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "enrol", enrol, add_subject, add_method, add_receipt, add_write)
    verb.add_argument("--key", default="", metavar="FILE|HEX", help="the person's own key: its file, or the public key")
    add_possession(verb)
    write = (add_method, add_tag, add_receipt, add_write)
    stated = (_add_consent, add_served(), add_authority_seq)
    add_verb(verbs, "grant", grant, add_subject, *stated, *write, more=_GRANT_HELP)
    verb = add_verb(verbs, "amend", amend, add_named, *stated, *write, more=_AMEND_HELP)
    verb.add_argument("--version", type=read_u32, metavar="N", help="the version you changed (default: that in force)")
    for name, text in (
        ("pause", "pause a consent: it permits nothing until it is resumed"),
        ("resume", "end a pause"),
        ("revoke", "withdraw a consent; it permits nothing that is asked afterwards"),
    ):
        verb = add_verb(verbs, name, change, add_named, add_authority_seq, *write, text=text)
        verb.set_defaults(change=name)
        if name == "revoke":
            verb.add_argument("--note", default="", help="the person's reason")
    verb = add_verb(verbs, "consents", consents, add_subject, add_reading_authority, add_read, more=_CONSENTS_HELP)
    states = verb.add_mutually_exclusive_group()
    states.add_argument("--all", action="store_true", help="those in any state, withdrawn ones too")
    states.add_argument("--state", action="append", choices=_STATES, help="only those in this state; repeatable")
    verb.add_argument("--kind", choices=_KINDS, default="unspecified", help="only those of this legal act")
    verb.add_argument("--purpose", default="", metavar="CODE", help="only those that name this purpose")
    verb.add_argument("--recipient", default="", metavar="ID", help="only those that name this recipient, or group/ID")
    verb.add_argument("--holder", default="", metavar="ID", help="only those that name this holder, or group/ID")
    add_times(verb, "those that were given")


def enrol(arguments: argparse.Namespace, out: Out) -> int:
    """Enrol a person; print the person's tag, to be pinned."""
    subject, key, possession = read_subject(arguments), b"", b""
    if arguments.key or arguments.possession:
        key, possession = read_new_key(arguments, arguments.key, subject)
    with open_client(arguments) as client:
        enrolled = client.enrol(
            subject, method=arguments.method, subject_key=key, possession=possession, **write_options(arguments)
        )
    tag = enrolled.tag.hex()
    out.answer(tag, type="enrol", tag=tag, receipt=store_receipt(arguments, out, enrolled.receipt))
    return DONE


def grant(arguments: argparse.Namespace, out: Out) -> int:
    """Give a consent; print its id."""
    given = _consent(arguments, None)
    served = served_statement(arguments, given.notice_id, given.notice_version)
    _hint(out, given)
    subject = read_subject(arguments)
    with open_client(arguments) as client:
        granted = client.grant(
            subject, given, served=served, served_seq=arguments.served_seq, authority_seq=arguments.authority_seq,
            **person_options(arguments, client, subject),
        )  # fmt: skip
    return show_granted(arguments, out, granted, given)


def amend(arguments: argparse.Namespace, out: Out) -> int:
    """Replace a consent by its next version, and show how the two differ."""
    from google.protobuf.json_format import MessageToDict

    from consentd_client import consent_text

    subject = read_subject(arguments)
    with open_client(arguments) as client:
        record = client.get_consent(subject, arguments.consent_id)
        after = _consent(arguments, record.consent)
        served = served_statement(arguments, after.notice_id, after.notice_version)
        _hint(out, after)
        for difference in consent_text.differences(record.consent, after, out.lang):
            out.message(f"  {difference}")
        version = arguments.version or record.version
        granted = client.amend(
            subject, arguments.consent_id, after, based_on_version=version, served=served,
            served_seq=arguments.served_seq, authority_seq=arguments.authority_seq,
            **person_options(arguments, client, subject),
        )  # fmt: skip
    before = MessageToDict(record.consent, preserving_proto_field_name=True)
    return show_granted(arguments, out, granted, after, before=before)


def change(arguments: argparse.Namespace, out: Out) -> int:
    """Pause, resume or revoke a consent; ``arguments.change`` names one of these verbs."""
    from consentd_client import labels

    subject, consent_id, verb = read_subject(arguments), arguments.consent_id, arguments.change
    with open_client(arguments) as client:
        options, seq = person_options(arguments, client, subject), arguments.authority_seq
        if verb == "pause":
            receipt = client.pause(subject, consent_id, authority_seq=seq, **options)
        elif verb == "resume":
            receipt = client.resume(subject, consent_id, authority_seq=seq, **options)
        else:
            receipt = client.revoke(subject, consent_id, note=arguments.note, authority_seq=seq, **options)
    out.answer(
        f"{consent_id}  {labels.label(verb.upper(), out.lang)}",
        type=verb, consent_id=consent_id, receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE


def consents(arguments: argparse.Namespace, out: Out) -> int:
    """List a person's consents, newest first."""
    from google.protobuf.json_format import MessageToDict

    from consentd.v1 import consent_service_pb2 as cs
    from consentd_client import labels, show
    from consentd_client.consent_text import consent_lines
    from consentd_client.consents import ALL_STATES

    states = ALL_STATES if arguments.all else _states(arguments.state or ())
    with open_client(arguments) as client:
        for record in client.list_consents(
            read_subject(arguments), states=states, kind=_kind(arguments.kind), purpose=arguments.purpose,
            actor=arguments.recipient, holder=arguments.holder, authority_seq=arguments.authority_seq,
            **read_times(arguments),
        ):  # fmt: skip
            state = labels.enum_name(cs.ConsentState, record.state, "CONSENT_STATE_")
            shown = labels.label(state, out.lang)
            if record.paused and record.state == cs.CONSENT_STATE_NOT_YET:
                shown += f", {labels.label('PAUSED', out.lang)}"
            first, *nested = consent_lines(record.consent, out.lang)
            first = (
                f"{record.consent_id}  v{record.version}  {shown}  {format_instant(record.change_time_ms)}  "
                f"{first}{show.under_authority(record.authority_seq, out.lang)}"
            )
            out.answer(
                show.text_of([first, *(f"    {line}" for line in nested)]), type="consent",
                consent_id=record.consent_id, version=record.version, state=state, paused=record.paused,
                served_seq=record.served_seq, authority_seq=record.authority_seq, grant_time_ms=record.grant_time_ms,
                change_time_ms=record.change_time_ms,
                consent=MessageToDict(record.consent, preserving_proto_field_name=True),
            )  # fmt: skip
    return DONE


def _kind(name: str) -> "pb.ConsentKind.ValueType":
    from consentd.v1 import consent_pb2 as pb

    return pb.ConsentKind.Value(f"CONSENT_KIND_{name.replace('-', '_').upper()}")


def _states(names: Iterable[str]) -> "list[cs.ConsentState.ValueType]":
    from consentd.v1 import consent_service_pb2 as cs

    return [cs.ConsentState.Value(f"CONSENT_STATE_{name.replace('-', '_').upper()}") for name in names]


def _hint(out: Out, given: "Consent") -> None:
    """Say that a deny of some actions does not stop transfers, which people may expect of it."""
    from consentd.v1 import consent_pb2 as pb

    actions = set(given.root.actions)
    if given.root.effect == pb.EFFECT_DENY and actions and actions.isdisjoint({"access", "collect", ANY}):
        out.message("this denies no transfer and no view; a deny of `access` denies both (access and collect)")


def show_granted(
    arguments: argparse.Namespace, out: Out, granted: "GrantAnswer", given: "Consent", **more: object
) -> int:
    """Show what became of a grant, an amendment or a renewal; return the exit status."""
    from google.protobuf.json_format import MessageToDict

    from consentd_client import labels

    refused = granted.refused
    reason = "" if refused is None else refused.reason
    missing = [] if refused is None else list(refused.missing)
    text = granted.consent_id
    if refused is not None:
        text = f"{labels.label('REFUSAL', out.lang)}: {labels.code_name(reason, out.lang)}"
        text += f" ({', '.join(missing)})" if missing else ""
    out.answer(
        text, type="grant", consent_id=granted.consent_id, version=granted.version, refused=reason or None,
        missing=missing, consent=MessageToDict(given, preserving_proto_field_name=True), **more,
        served_seq=0 if granted.served is None else granted.served.event.seq,
        receipt=store_receipt(arguments, out, granted.receipt),
    )  # fmt: skip
    return DONE if granted else REFUSED


def add_named(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that name a consent of a person."""
    add_subject(verb)
    verb.add_argument("consent_id", metavar="CONSENT_ID", help="as `grant` or `consents` showed it")


def _add_consent(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("what is given; options of lists are repeatable, and `*` means any")
    for option, _, metavar, text in _LISTS:
        group.add_argument(f"--{option}", action="append", metavar=metavar, help=text)
    group.add_argument(
        "--level", choices=(*LEVELS, "none"),
        help="permit: up to this confidentiality (default: the category's own); deny: from it on (default: all)",
    )  # fmt: skip
    group.add_argument("--from", dest="start", type=_never(read_start_ms), metavar="DATE", help="start (default: now)")
    group.add_argument("--until", type=_never(read_end_ms), metavar="DATE", help="end: a day in Korea or an instant")
    group.add_argument("--data-from", type=_never(read_start_ms), metavar="DATE", help="data about this time or later")
    group.add_argument("--data-until", type=_never(read_end_ms), metavar="DATE", help="data about this time or earlier")
    group.add_argument("--recurrence", metavar="P1M", help="`once`, or an ISO 8601 duration")
    group.add_argument("--retain-until", type=_never(read_end_ms), metavar="DATE", help="how long it may be kept")
    group.add_argument(
        "--implicit-policy", choices=(*_POLICIES, "none"), help="for what the consent does not decide (default: none)"
    )
    effect = group.add_mutually_exclusive_group()
    effect.add_argument("--deny", action="store_true", help="forbid instead of permit")
    effect.add_argument("--permit", action="store_true", help="permit (default, but for an objection)")
    group.add_argument("--kind", choices=_KINDS, help="the legal act (default consent)")
    group.add_argument("--legal-basis", metavar="CODE", help="what `statutory` rests on, a code of the vocabulary")
    group.add_argument("--legal-basis-note", metavar="TEXT", help="the article, order or judgment in words")
    group.add_argument("--notice", metavar="ID@N", help="the notice version that was shown")
    group.add_argument("--language", metavar="TAG", help="language in which it was given (default ko)")
    group.add_argument("--file", type=Path, metavar="FILE", help="the whole Consent as protobuf JSON; `-`: stdin")


def _never(read_ms: Callable[[str], int]) -> Callable[[str], int]:
    """Return an argparse type that reads an instant with *read_ms*, and ``never`` as 0, which is no limit."""
    return lambda text: 0 if text == "never" else read_ms(text)


def _consent(arguments: argparse.Namespace, before: "Consent | None") -> "Consent":
    """Return the consent that the options state; what none states is that of *before*, the version in force."""
    from consentd.v1 import consent_pb2 as pb

    if arguments.file is not None:
        from google.protobuf.json_format import Parse, ParseError

        try:
            return Parse(read_text(arguments.file, "consent"), pb.Consent())
        except ParseError as error:
            raise InvalidError(f"consent file is not a Consent in protobuf JSON: {error}") from error
    made = pb.Consent(kind=pb.CONSENT_KIND_CONSENT, language="ko", root=pb.Provision(effect=pb.EFFECT_PERMIT))
    if before is not None:
        made.CopyFrom(before)
        made.source = ""  # this version is not imported
    if arguments.kind is not None:
        made.kind = _kind(arguments.kind)
    _state_rest(arguments, made)
    root = made.root
    if arguments.deny or (arguments.kind == "objection" and not arguments.permit):
        root.effect = pb.EFFECT_DENY
    elif arguments.permit:
        root.effect = pb.EFFECT_PERMIT
    for option, field, *_ in _LISTS:
        given = getattr(arguments, option)
        if given is not None:
            values = getattr(root, field)
            del values[:]
            values.extend(given)
    if arguments.level is not None:
        root.level = "" if arguments.level == "none" else arguments.level
    _state_period(root, "period", arguments.start, arguments.until)
    _state_period(root, "data_period", arguments.data_from, arguments.data_until)
    return made


def _state_rest(arguments: argparse.Namespace, made: "Consent") -> None:
    """Write into a consent what the options state beside its root."""
    from consentd.v1 import consent_pb2 as pb

    if arguments.notice is not None:
        none = arguments.notice == "none"
        made.notice_id, made.notice_version = ("", 0) if none else read_notice(arguments.notice)
    if arguments.implicit_policy is not None:
        name = arguments.implicit_policy.replace("-", "_").upper().replace("NONE", "UNSPECIFIED")
        made.implicit_policy = pb.ImplicitPolicy.Value(f"IMPLICIT_POLICY_{name}")
    rest = (
        ("recurrence", arguments.recurrence), ("retention_until_time_ms", arguments.retain_until),
        ("language", arguments.language), ("legal_basis", arguments.legal_basis),
        ("legal_basis_note", arguments.legal_basis_note),
    )  # fmt: skip
    for field, given in rest:
        if given is not None:
            setattr(made, field, given)


def _state_period(root: "Provision", field: str, start_ms: int | None, end_ms: int | None) -> None:
    """Write a start and an end into a period of a provision; None: as it is. A period without both is removed."""
    period = getattr(root, field)
    start_ms = period.start_time_ms if start_ms is None else start_ms
    end_ms = period.end_time_ms if end_ms is None else end_ms
    root.ClearField(field)  # type: ignore[arg-type]  # the name of a period
    if start_ms or end_ms:
        getattr(root, field).start_time_ms, getattr(root, field).end_time_ms = start_ms, end_ms
