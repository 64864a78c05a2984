"""``consentd participants`` and ``vocabulary``: participants, their delegations and mandates; the codes in force."""

import argparse
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, TypeVar

from consentd.cli import delegations, mandates
from consentd.cli.daemon_options import add_daemon, add_read, add_signed
from consentd.cli.options import Verbs, add_group, add_verb, open_client, read_u64
from consentd.cli.out import DONE, Out
from consentd.cli.signers import add_sign_own, participant_signer
from consentd.errors import InvalidError
from consentd.policy.language import best_text

if TYPE_CHECKING:
    from consentd.v1.statement_pb2 import MandateStatement, ParticipantStatement

T = TypeVar("T")

_ROLES = ("holder", "recipient", "relay", "auditor", "public-authority")
_CLASSES = ("general-agency", "special-agency", "general-recipient")
_RIGHTS = ("break-glass", "see-reasons", "act-for-subjects", "read-statements", "erase")
_HELP = """\
examples:
  consentd participants add hospital-a --en "Hospital A" --role holder --role recipient
  consentd participants add khis --ko 한국보건의료정보원 --role relay --right act-for-subjects
Then `consentd credential add` gives the participant a token.
"""
_HELP_UPDATE = """\
example:
  consentd participants update clinic-b --en "Clinic B" --sign-with clinic.key --origin consent.example.org
A participant that has a key in force signs its name and its type, and may give up what it may do. An operator adds
names of certificates. More roles, rights and groups, another class: an operator states the whole record, with
`participants add`.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    under = add_group(
        verbs, "participants", "list, register and show participants, their delegations and mandates", more=_HELP,
    )  # fmt: skip
    one = add_verb(under, "list", show_all, add_read)
    one.add_argument("--role", choices=_ROLES, default="unspecified", help="only those with this role")
    one.add_argument("--right", choices=_RIGHTS, default="unspecified", help="only those with this right")
    one.add_argument("--group", default="", metavar="group/ID", help="only members of this group")
    one.add_argument("--active", action=argparse.BooleanOptionalAction,
                     help="only active ones; --no-active: only those that have left")  # fmt: skip
    one = add_verb(under, "show", show_one, add_read)
    one.add_argument("id", metavar="ID", help="the participant's id")
    _add_tree_size(one)
    one = add_verb(under, "add", add, add_daemon, more=_HELP)
    one.add_argument("id", metavar="ID", help="characters: a-z, 0-9, `.`, `_`, `-`")
    _add_stated(one)
    one.add_argument("--role", action="append", choices=_ROLES, required=True, help="repeatable; a relay has no other")
    one.add_argument("--right", action="append", choices=_RIGHTS, default=[], help="repeatable")
    one.add_argument("--group", action="append", default=[], metavar="group/ID", help="repeatable")
    one.add_argument("--recipient-class", choices=_CLASSES, help="전문기관, 특수전문기관 or 일반수신자")
    one = add_verb(under, "update", update, add_sign_own, add_signed, more=_HELP_UPDATE)
    one.add_argument("id", metavar="ID", help="the participant's id")
    _add_stated(one)
    one.add_argument("--no-role", action="append", choices=_ROLES, default=[], help="give up a role; repeatable")
    one.add_argument("--no-right", action="append", choices=_RIGHTS, default=[], help="give up a right; repeatable")
    one.add_argument("--no-group", action="append", default=[], metavar="group/ID", help="leave a group; repeatable")
    one.add_argument("--no-certificate-name", action="append", default=[], metavar="NAME",
                     help="have no such certificate any more; repeatable")  # fmt: skip
    delegations.add_verbs(under)
    mandates.add_verbs(under)
    _add_tree_size(add_verb(verbs, "vocabulary", vocabulary, add_read))


def _add_stated(verb: argparse.ArgumentParser) -> None:
    """Add the options for what a participant states of itself."""
    verb.add_argument("--ko", default="", metavar="NAME", help="its name in Korean")
    verb.add_argument("--en", default="", metavar="NAME", help="its name in English")
    verb.add_argument("--name", action="append", default=[], metavar="TAG=NAME", help="in another language; repeatable")
    verb.add_argument("--type", default="", metavar="CODE", help="institution type (요양종별)")
    verb.add_argument("--country", default="", metavar="CC", help="where it processes data, ISO 3166-1 (default KR)")
    verb.add_argument("--certificate-name", action="append", default=[], metavar="NAME",
                      help="how its client certificates name it, as in dns:gw.clinic.example; repeatable")  # fmt: skip
    verb.add_argument("--inactive", action="store_true", help="it has left: its requests are refused")


def _add_tree_size(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--tree-size", type=read_u64, default=0, metavar="N", help="as the tree of N leaves has it")


def show_all(arguments: argparse.Namespace, out: Out) -> int:
    """List participants in the order of their registration."""
    from consentd.v1 import statement_pb2 as st

    role = st.ParticipantRole.Value(f"PARTICIPANT_ROLE_{_code(arguments.role)}")
    right = st.ParticipantRight.Value(f"PARTICIPANT_RIGHT_{_code(arguments.right)}")
    with open_client(arguments) as client:
        for participant in client.list_participants(
            role=role, right=right, group=arguments.group, active=arguments.active
        ):
            _show(out, participant, [])
    return DONE


def show_one(arguments: argparse.Namespace, out: Out) -> int:
    """Show one participant, with its keys in force."""
    with open_client(arguments) as client:
        found = client.get_participant(arguments.id, tree_size=arguments.tree_size)
    mandate = found.mandate if found.HasField("mandate") else None
    _show(out, found.participant, [key.hex() for key in found.keys], mandate)
    return DONE


def add(arguments: argparse.Namespace, out: Out) -> int:
    """Register a participant, or replace the whole record of it (for the operator)."""
    from consentd.v1 import statement_pb2 as st

    participant = st.ParticipantStatement(
        participant_id=arguments.id, name=_name(arguments), groups=arguments.group,
        type=arguments.type, active=not arguments.inactive, country=arguments.country,
        certificate_names=arguments.certificate_name,
        roles=[st.ParticipantRole.Value(f"PARTICIPANT_ROLE_{_code(role)}") for role in arguments.role],
        rights=[st.ParticipantRight.Value(f"PARTICIPANT_RIGHT_{_code(right)}") for right in arguments.right],
        recipient_class=st.RecipientClass.Value(f"RECIPIENT_CLASS_{_code(arguments.recipient_class or 'unspecified')}"),
    )  # fmt: skip
    with open_client(arguments) as client:
        receipt = client.register_participant(participant)
    out.answer(arguments.id, type="participant", id=arguments.id, index=receipt.index)
    return DONE


def update(arguments: argparse.Namespace, out: Out) -> int:
    """Change what is recorded of a participant: the participant with --sign-with, or an operator.

    What no option states stays as it is recorded.
    """
    from consentd.v1 import statement_pb2 as st

    with open_client(arguments) as client:
        message = client.get_participant(arguments.id).participant
        message.ClearField("attestation")
        message.name.update(_name(arguments))
        message.type, message.country = arguments.type or message.type, arguments.country or message.country
        message.active &= not arguments.inactive
        for option in arguments.no_role:
            _give_up(message.roles, option, st.ParticipantRole.Value(f"PARTICIPANT_ROLE_{_code(option)}"))
        for option in arguments.no_right:
            _give_up(message.rights, option, st.ParticipantRight.Value(f"PARTICIPANT_RIGHT_{_code(option)}"))
        for option in arguments.no_group:
            _give_up(message.groups, option, option)
        for option in arguments.no_certificate_name:
            _give_up(message.certificate_names, option, option)
        if not {st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT} & set(message.roles):
            message.ClearField("recipient_class")  # only these have one
        message.certificate_names.extend(arguments.certificate_name)
        receipt = client.register_participant(message, signer=participant_signer(arguments, arguments.id))
    out.answer(arguments.id, type="participant", id=arguments.id, index=receipt.index)
    return DONE


def _give_up(listed: MutableSequence[T], option: str, value: T) -> None:
    """Take a value off a list of a record. Raises ``InvalidError`` if the list lacks it."""
    if value not in listed:
        raise InvalidError(f"participant does not have what it would give up: `{option}`")
    listed.remove(value)


def vocabulary(arguments: argparse.Namespace, out: Out) -> int:
    """List the codes in force: purposes, categories (with levels and labels), actions, labels."""
    from consentd.v1 import statement_pb2 as st
    from consentd_client import labels

    with open_client(arguments) as client:
        found = client.get_vocabulary(tree_size=arguments.tree_size)
    for code in found.codes:
        kind = labels.enum_name(st.CodeKind, code.kind, "CODE_KIND_").lower()
        more = [f"< {code.parent}"] if code.parent else []
        more += [f"{labels.label('LEVEL', out.lang)} {code.level}"] if code.level else []
        more += [f"{labels.label('LABELS', out.lang)} {'+'.join(code.labels)}"] if code.labels else []
        more += [] if code.implied else [labels.label("NOT_IMPLIED", out.lang)]
        out.answer(
            "  ".join((f"{kind:<9} {code.code:<14} {best_text(code.name, out.lang)}", *more)),
            type="code", kind=kind, code=code.code, name=dict(code.name), parent=code.parent, implied=code.implied,
            level=code.level, labels=list(code.labels),
        )  # fmt: skip
    out.message(f"{found.vocabulary_id} version {found.version}")
    return DONE


def _show(
    out: Out, participant: "ParticipantStatement", keys: list[str], mandate: "MandateStatement | None" = None
) -> None:
    from consentd.v1 import statement_pb2 as st
    from consentd_client import labels, show

    roles = [_option(labels.enum_name(st.ParticipantRole, role, "PARTICIPANT_ROLE_")) for role in participant.roles]
    rights = [_option(labels.enum_name(st.ParticipantRight, one, "PARTICIPANT_RIGHT_")) for one in participant.rights]
    of_class = ""
    if participant.recipient_class:
        of_class = _option(labels.enum_name(st.RecipientClass, participant.recipient_class, "RECIPIENT_CLASS_"))
    left = "" if participant.active else "  (left)"
    lines = [f"{participant.participant_id}  {best_text(participant.name, out.lang)}  {'+'.join(roles)}{left}"]
    lines += [f"  right: {right}" for right in rights]
    stated = (("country", participant.country), ("class", of_class))
    lines += [f"  {name}: {value}" for name, value in stated if value]
    lines += [f"  certificate name: {name}" for name in participant.certificate_names]
    lines += [f"  key: {key}" for key in keys]
    if mandate is not None:
        lines.append(f"  mandate: {show.mandate(mandate, out.lang)}")
    out.answer(
        "\n".join(lines), type="participant", id=participant.participant_id, name=dict(participant.name),
        roles=roles, rights=rights, groups=list(participant.groups),
        active=participant.active, keys=keys, country=participant.country, recipient_class=of_class,
        certificate_names=list(participant.certificate_names),
        mandate_end_time_ms=0 if mandate is None else mandate.end_time_ms,
        mandate_giver="" if mandate is None else mandate.giver,
    )  # fmt: skip


def _name(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the name that the options state: language tag → text."""
    stated = [("ko", arguments.ko), ("en", arguments.en)]
    for text in arguments.name:
        tag, is_name, name = text.partition("=")
        if not is_name:
            raise InvalidError(f"name is not TAG=NAME: `{text}`")
        stated.append((tag, name))
    tags = [tag for tag, name in stated if name]
    if len(set(tags)) != len(tags):
        raise InvalidError("name is stated twice in one language")
    return {tag: name for tag, name in stated if name}


def _code(option: str) -> str:
    """Return the protobuf name of a value of an option."""
    return option.replace("-", "_").upper()


def _option(code: str) -> str:
    """Return a protobuf name as the value of an option."""
    return code.replace("_", "-").lower()
