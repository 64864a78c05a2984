"""``consentd enrol``, ``grant``, ``amend``, ``pause``, ``resume``, ``revoke``, ``consents``: write or list consents."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import (
    Verbs,
    add_daemon,
    add_method,
    add_subject,
    add_verb,
    open_client,
    read_end_ms,
    read_hex,
    read_subject,
    read_text,
)
from consentd.cli.out import DONE, REFUSED, Out
from consentd.cli.receipts import add_receipt, consent_options, store_receipt, write_options
from consentd.errors import InvalidError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from consentd_client import Consent, GrantAnswer

_GRANT_HELP = """\
exit status: 0 recorded, 1 refused on a legal ground (the refusal is recorded and names what is missing), 2 an error.

example:
  consentd grant mhid:MH-0001 --recipient clinic-b --holder hospital-a --purpose TREAT --category CLIN
A transfer request (전송요구) needs all seven items: also --recurrence, --until and --retain-until.
"""
_KINDS = ("consent", "transfer-request", "objection", "statutory")


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "enrol", enrol, add_subject, add_method, add_receipt, add_daemon)
    verb.add_argument("--key", default="", metavar="HEX", help="the person's own Ed25519 public key")
    write = (add_method, add_receipt, add_daemon)
    add_verb(verbs, "grant", grant, add_subject, _add_consent, *write, more=_GRANT_HELP)
    verb = add_verb(verbs, "amend", amend, _add_named, _add_consent, *write, more=_GRANT_HELP)
    verb.add_argument("--version", type=int, metavar="N", help="which version you changed (default: that in force)")
    for name, text in (
        ("pause", "pause a consent: it permits nothing until it is resumed"),
        ("resume", "end a pause"),
        ("revoke", "withdraw a consent; it permits nothing that is asked afterwards"),
    ):
        verb = add_verb(verbs, name, change, _add_named, *write, text=text)
        verb.set_defaults(change=name)
        if name == "revoke":
            verb.add_argument("--note", default="", help="the person's reason")
    verb = add_verb(verbs, "consents", consents, add_subject, add_daemon)
    verb.add_argument("--all", action="store_true", help="list withdrawn consents too")


def enrol(arguments: argparse.Namespace, out: Out) -> int:
    """Enrol a person; print the person's tag, to be pinned."""
    key = read_hex(arguments.key, "key")
    with open_client(arguments) as client:
        enrolled = client.enrol(
            read_subject(arguments), method=arguments.method, subject_key=key, **write_options(arguments)
        )
    tag = enrolled.tag.hex()
    out.answer(tag, type="enrol", tag=tag, receipt=store_receipt(arguments, out, enrolled.receipt))
    return DONE


def grant(arguments: argparse.Namespace, out: Out) -> int:
    """Give a consent; print its id."""
    with open_client(arguments) as client:
        granted = client.grant(read_subject(arguments), _consent(arguments), **consent_options(arguments))
    return _show_granted(arguments, out, granted)


def amend(arguments: argparse.Namespace, out: Out) -> int:
    """Replace a consent by its next version."""
    subject = read_subject(arguments)
    with open_client(arguments) as client:
        version = arguments.version or client.get_consent(subject, arguments.consent_id).version
        granted = client.amend(
            subject, arguments.consent_id, _consent(arguments), based_on_version=version, **consent_options(arguments)
        )
    return _show_granted(arguments, out, granted)


def change(arguments: argparse.Namespace, out: Out) -> int:
    """Pause, resume or revoke a consent; ``arguments.change`` names one of these verbs."""
    from consentd_client import show

    subject, consent_id, verb = read_subject(arguments), arguments.consent_id, arguments.change
    options = consent_options(arguments)
    with open_client(arguments) as client:
        if verb == "pause":
            receipt = client.pause(subject, consent_id, **options)
        elif verb == "resume":
            receipt = client.resume(subject, consent_id, **options)
        else:
            receipt = client.revoke(subject, consent_id, note=arguments.note, **options)
    out.answer(
        f"{consent_id}  {show.label(verb.upper(), out.lang)}",
        type=verb, consent_id=consent_id, receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE


def consents(arguments: argparse.Namespace, out: Out) -> int:
    """List a person's consents, newest first."""
    from google.protobuf.json_format import MessageToDict

    from consentd.v1 import consent_service_pb2 as cs
    from consentd_client import show

    with open_client(arguments) as client:
        for record in client.list_consents(read_subject(arguments), include_revoked=arguments.all):
            state = show.enum_name(cs.ConsentState, record.state, "CONSENT_STATE_")
            out.answer(
                f"{record.consent_id}  v{record.version}  {show.label(state, out.lang)}  "
                f"{format_instant(record.change_time_ms)}  {show.consent(record.consent, out.lang)}",
                type="consent", consent_id=record.consent_id, version=record.version, state=state,
                grant_time_ms=record.grant_time_ms, change_time_ms=record.change_time_ms,
                consent=MessageToDict(record.consent, preserving_proto_field_name=True),
            )  # fmt: skip
    return DONE


def _show_granted(arguments: argparse.Namespace, out: Out, granted: "GrantAnswer") -> int:
    from consentd.v1 import statement_pb2 as st
    from consentd_client import show

    refused = granted.refused
    reason = "" if refused is None else show.enum_name(st.RefusalReason, refused.reason, "REFUSAL_REASON_")
    missing = [] if refused is None else list(refused.missing)
    text = granted.consent_id
    if refused is not None:
        text = f"{show.label('REFUSAL', out.lang)}: {reason}" + (f" ({', '.join(missing)})" if missing else "")
    out.answer(
        text, type="grant", consent_id=granted.consent_id, version=granted.version, refused=reason or None,
        missing=missing, receipt=store_receipt(arguments, out, granted.receipt),
    )  # fmt: skip
    return DONE if granted else REFUSED


def _add_named(verb: argparse.ArgumentParser) -> None:
    add_subject(verb)
    verb.add_argument("consent_id", metavar="CONSENT_ID", help="as `grant` or `consents` showed it")


def _add_consent(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("what is given; options of lists are repeatable, and `*` means any")
    group.add_argument("--recipient", action="append", default=[], metavar="ID", help="who may receive it, or group/ID")
    group.add_argument("--holder", action="append", default=[], metavar="ID", help="who may disclose it")
    group.add_argument("--purpose", action="append", default=[], metavar="CODE", help="for which purpose")
    group.add_argument("--category", action="append", default=[], metavar="CODE", help="which data")
    group.add_argument("--action", action="append", default=[], metavar="CODE", help="what may be done with it")
    group.add_argument("--label", action="append", default=[], metavar="CODE", help="which security labels it may have")
    group.add_argument("--until", type=read_end_ms, default=0, metavar="DATE", help="end: a day in Korea or an instant")
    group.add_argument("--recurrence", default="", metavar="P1M", help="`once`, or an ISO 8601 duration")
    group.add_argument("--retain-until", type=read_end_ms, default=0, metavar="DATE", help="how long it may be kept")
    group.add_argument("--deny", action="store_true", help="forbid instead of permit")
    group.add_argument("--kind", choices=_KINDS, default="consent", help="the legal act (default consent)")
    group.add_argument("--legal-basis", default="", metavar="TEXT", help="the law or order that `statutory` rests on")
    group.add_argument("--notice", default="", metavar="ID@N", help="the notice version that was shown")
    group.add_argument("--language", default="ko", metavar="TAG", help="language in which it was given (default ko)")
    group.add_argument("--file", type=Path, metavar="FILE", help="the whole Consent as protobuf JSON; `-`: stdin")


def _consent(arguments: argparse.Namespace) -> "Consent":
    from consentd.v1 import consent_pb2 as pb

    if arguments.file is not None:
        from google.protobuf.json_format import Parse, ParseError

        try:
            return Parse(read_text(arguments.file, "consent"), pb.Consent())
        except ParseError as error:
            raise InvalidError(f"consent file is not a Consent in protobuf JSON: {error}") from error
    notice, at, version = arguments.notice.partition("@")
    if notice and not (at and version.isdecimal()):
        raise InvalidError("notice is not ID@VERSION")
    forbids = arguments.deny or arguments.kind == "objection"
    root = pb.Provision(
        effect=pb.EFFECT_DENY if forbids else pb.EFFECT_PERMIT, actors=arguments.recipient, holders=arguments.holder,
        purposes=arguments.purpose, categories=arguments.category, actions=arguments.action, labels=arguments.label,
        period=pb.Period(end_time_ms=arguments.until) if arguments.until else None,
    )  # fmt: skip
    return pb.Consent(
        kind=pb.ConsentKind.Value(f"CONSENT_KIND_{arguments.kind.replace('-', '_').upper()}"), root=root,
        recurrence=arguments.recurrence, retention_until_time_ms=arguments.retain_until, notice_id=notice,
        notice_version=int(version or 0), language=arguments.language,
        legal_basis=arguments.legal_basis,
    )  # fmt: skip
