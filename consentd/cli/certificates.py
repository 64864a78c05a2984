"""``consentd certs``: certificates for development."""

import argparse
from pathlib import Path

from consentd.cli.options import Verbs, add_verb
from consentd.cli.out import DONE, Out

_HELP = """\
Writes an authority (clients-ca.pem), a certificate of the daemon for this machine (server.pem), and one for each
client; their keys end in `.key`. They say that they are not for production, and end after 30 days. stdout has the
certificate name of each client, with which `consentd participants add --certificate-name` registers it. A later run
adds clients of the same authority.

example:
  consentd certs --dev tls --client clinic-b --client operator
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "certs", make, more=_HELP)
    verb.add_argument("--dev", type=Path, required=True, metavar="DIR", help="make them in this directory")
    verb.add_argument("--client", action="append", default=[], metavar="NAME", help="a client's name; repeatable")


def make(arguments: argparse.Namespace, out: Out) -> int:
    """Make certificates for development, never for production."""
    from consentd.server.development_certificates import make_development_certificates

    names = make_development_certificates(arguments.dev, arguments.client)
    for client, name in names.items():
        out.answer(name, type="certificate", client=client, certificate_name=name)
    out.message(f"made in {arguments.dev}; they are for development, and end after 30 days")
    return DONE
