"""``consentd credential``: let callers call, list and end their credentials."""

import argparse
import hashlib
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_daemon
from consentd.cli.options import Verbs, add_group, add_verb, open_client, read_end_ms, read_text
from consentd.cli.out import DONE, Out
from consentd.errors import InvalidError, NotFoundError
from consentd.policy.dates import format_day, format_instant

if TYPE_CHECKING:
    from consentd.v1.admin_service_pb2 import Credential
    from consentd_client import Client

_ADD_HELP = """\
The token is printed once, on stdout: only its hash is stored. ID is a participant's id, `operator/NAME` for a person or
program that operates the daemon, or `scraper/NAME` for a program that reads all metrics.

An operator has at least one role. RUN starts, follows and cancels work of the daemon. READ_METRICS reads all metrics,
and follows work. ADMINISTER writes the registry, and adds and revokes credentials. `consentd roles` lists what each may
call. Nobody gives a role that their own credential does not have.

Without --config the daemon adds it, at the call of an operator, with effect at once. With --config a line is added to
the credentials file on this machine, and no daemon is called: for the first credentials, or if no operator has one any
more. That line has effect after SIGHUP or a restart.

examples:
  consentd credential add clinic-b --until 2027-12-31 --label "gateway 2" > clinic-b.token
  consentd credential add clinic-b --certificate clinic-b.pem
  consentd credential add operator/night --role RUN --role READ_METRICS > night.token
  consentd credential add operator/rescue --role ADMINISTER --config ops/consentd.toml > rescue.token
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    under = add_group(verbs, "credential", "add, list and revoke the tokens and certificates of callers")
    one = add_verb(under, "add", add, add_daemon, more=_ADD_HELP)
    one.add_argument("caller", metavar="ID", help="a participant's id, operator/NAME or scraper/NAME")
    one.add_argument("--certificate", type=Path, metavar="FILE", help="a client certificate, PEM, instead of a token")
    one.add_argument("--until", type=read_end_ms, default=0, metavar="DATE", help="its last day, or an instant")
    roles = ("RUN", "READ_METRICS", "ADMINISTER")
    one.add_argument("--role", action="append", default=[], choices=roles, help="a role of an operator; repeat it")
    one.add_argument("--label", default="", metavar="TEXT", help="a note for operators, at most 100 characters")
    one.add_argument("--config", type=Path, metavar="FILE", help="add a line to the credentials file of this daemon")
    one = add_verb(under, "list", show_all, add_daemon)
    one.add_argument("--caller", default="", metavar="ID", help="only those of this caller")
    one = add_verb(under, "revoke", revoke, add_daemon)
    one.add_argument("id", metavar="CREDENTIAL", help="its id, which `consentd credential list` shows")


def add(arguments: argparse.Namespace, out: Out) -> int:
    """Let a caller call, by a new token, which is printed, or by a client certificate (for the operator)."""
    from consentd.v1 import statement_pb2 as st

    certificate = b"" if arguments.certificate is None else _fingerprint(arguments.certificate)
    if arguments.config is not None:
        return _add_line(arguments, out, certificate)
    with open_client(arguments) as client:
        added = client.add_credential(
            arguments.caller, certificate_sha256=certificate, expire_time_ms=arguments.until, label=arguments.label,
            roles=[st.OperatorRole.Value(f"OPERATOR_ROLE_{role}") for role in arguments.role],
        )  # fmt: skip
        is_missing = "/" not in arguments.caller and not _is_registered(client, arguments.caller)
    found = added.credential
    out.message(f"credential {found.credential_id} of {found.caller} is valid now")
    if is_missing:
        out.message(f"no participant is registered as {found.caller} yet: `consentd participants add` registers it")
    if added.token:
        out.message("stdout has the token; only its hash is stored, and the token is not shown again")
    out.answer(added.token or found.credential_id, token=added.token, **_fields(found))
    return DONE


def _is_registered(client: "Client", participant_id: str) -> bool:
    try:
        client.get_participant(participant_id)
    except NotFoundError:
        return False
    return True


def _add_line(arguments: argparse.Namespace, out: Out, certificate: bytes) -> int:
    """Add a line to the credentials file of the configuration."""
    from consentd.clock import SystemClock
    from consentd.config import load
    from consentd.cosigning.keyfiles import write_private
    from consentd.service.auth import make_token, new_line
    from consentd.service.operator_roles import NO_ROLES, parse_roles

    path = load(arguments.config).callers.credentials_file
    if not path.exists():
        raise InvalidError(f"credentials file does not exist: `{path}`; `consentd keygen` makes it")
    token = "" if certificate else make_token()
    line = new_line(
        arguments.caller, token=token, certificate_hash=certificate, end_ms=arguments.until, label=arguments.label,
        now_ms=SystemClock().wall_ms(), roles=parse_roles(",".join(arguments.role)) if arguments.role else NO_ROLES,
    )  # fmt: skip
    write_private(path, line, append=True)
    out.message(f"added to {path}: it is valid after the daemon receives SIGHUP or is restarted")
    if token:
        out.message("stdout has the token; only its hash is stored, and the token is not shown again")
        out.answer(token, caller=arguments.caller, token=token)
    else:
        out.answer(arguments.caller, caller=arguments.caller, token="")
    return DONE


def show_all(arguments: argparse.Namespace, out: Out) -> int:
    """List the credentials of all callers, those that ended too (for the operator)."""
    with open_client(arguments) as client:
        found = list(client.list_credentials(caller=arguments.caller))
    for one in sorted(found, key=lambda each: (each.caller, each.create_time_ms, each.credential_id)):
        _show(out, one)
    return DONE


def revoke(arguments: argparse.Namespace, out: Out) -> int:
    """End a credential at once and for ever (for the operator)."""
    with open_client(arguments) as client:
        _show(out, client.revoke_credential(arguments.id))
    return DONE


def _fingerprint(path: Path) -> bytes:
    """Return the SHA-256 of the DER of the first certificate in a PEM file."""
    try:
        der = ssl.PEM_cert_to_DER_cert(read_text(path, "certificate"))
    except ValueError as error:
        raise InvalidError(f"file holds no certificate in PEM: `{path}`") from error
    return hashlib.sha256(der).digest()


def _show(out: Out, one: "Credential") -> None:
    fields = _fields(one)
    used = format_day(one.last_used_time_ms) if one.last_used_time_ms else "-"
    ends = format_instant(one.expire_time_ms) if one.expire_time_ms else "-"
    revoked = format_instant(one.revoke_time_ms) if one.revoke_time_ms else ""
    roles = f"  {','.join(_roles(one))}" if one.roles else ""
    head, label = f"{one.credential_id}  {one.caller}  {fields['kind']}{roles}", f"  ({one.label})" if one.label else ""
    out.answer(
        f"{head}  사용 {used}  만료 {ends}{f'  취소 {revoked}' if revoked else ''}{label}",
        f"{head}  used {used}  ends {ends}{f'  revoked {revoked}' if revoked else ''}{label}",
        **fields,
    )


def _roles(one: "Credential") -> list[str]:
    from consentd.v1 import statement_pb2 as st

    return [st.OperatorRole.Name(role).removeprefix("OPERATOR_ROLE_") for role in one.roles]


def _fields(one: "Credential") -> dict[str, object]:
    from consentd.v1 import admin_service_pb2 as ad

    return {
        "type": "credential", "credential_id": one.credential_id, "caller": one.caller,
        "kind": ad.CredentialKind.Name(one.kind).removeprefix("CREDENTIAL_KIND_").lower(), "label": one.label,
        "create_time_ms": one.create_time_ms, "created_by": one.created_by, "expire_time_ms": one.expire_time_ms,
        "last_used_time_ms": one.last_used_time_ms, "revoke_time_ms": one.revoke_time_ms, "revoked_by": one.revoked_by,
        "roles": _roles(one),
    }  # fmt: skip
