"""Declare the options with which a verb calls the daemon, and with which it signs and verifies.

A verb has the options that it takes, and no others. Every verb that calls the daemon has those of ``add_daemon``. A
verb that persons may use has those of ``add_read`` or ``add_write``; another one has those of ``add_signed`` or
``add_verified``, if it signs or verifies.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from consentd.cli.options import path_of

DEFAULT_TARGET = "127.0.0.1:7400"


def add_daemon(verb: argparse.ArgumentParser) -> None:
    """Add the options for the daemon's address, the caller's token, TLS and the deadline."""
    group = verb.add_argument_group("daemon")
    target = os.environ.get("CONSENTD_TARGET", DEFAULT_TARGET)
    add_grpc(group, target=target, help=f"the daemon (CONSENTD_TARGET; default {DEFAULT_TARGET})")
    group.add_argument(
        "--tls-cert", type=Path, default=path_of("CONSENTD_TLS_CERT"), metavar="FILE",
        help="the client's certificate, PEM; with --tls-key (CONSENTD_TLS_CERT)",
    )  # fmt: skip
    group.add_argument(
        "--tls-key", type=Path, default=path_of("CONSENTD_TLS_KEY"), metavar="FILE",
        help="key of the client's certificate, PEM (CONSENTD_TLS_KEY)",
    )  # fmt: skip
    help_text = "deadline in seconds (default %(default)g)"
    group.add_argument("--timeout", type=float, default=10.0, metavar="S", help=help_text)


def add_person(verb: argparse.ArgumentParser) -> None:
    """Add the options with which a person calls the daemon."""
    group = verb.add_argument_group("to call as a person")
    group.add_argument("--id-token-file", type=Path, metavar="FILE", help="file with an ID token of a login")
    group.add_argument(
        "--subject-key", type=Path, metavar="FILE",
        help="sign the call, and what the person states: file with the person's Ed25519 key, 64 hex digits; with "
        "--log-key, or with --origin",
    )  # fmt: skip


def add_read(verb: argparse.ArgumentParser) -> None:
    """Add the options of a verb that persons may use too, and that verifies nothing."""
    add_daemon(verb)
    add_person(verb)
    add_name(verb)


def add_write(verb: argparse.ArgumentParser) -> None:
    """Add the options of a verb that persons may use too, and that verifies what the daemon answers."""
    add_daemon(verb)
    add_person(verb)
    add_pins(verb)


def add_verified(verb: argparse.ArgumentParser) -> None:
    """Add the options of a verb that no person may use, and that verifies what the daemon answers."""
    add_daemon(verb)
    add_pins(verb)


def add_signed(verb: argparse.ArgumentParser) -> None:
    """Add the options of a verb that no person may use, and that signs what it sends, and verifies nothing."""
    add_daemon(verb)
    add_name(verb)


def add_grpc(group: Any, *, target: str, help: str) -> None:  # noqa: A002  # as argparse names it
    """Add the options for a daemon's gRPC address (default *target*), the caller's token and TLS."""
    group.add_argument("--target", default=target, metavar="HOST:PORT", help=help)
    group.add_argument(
        "--token-file", type=Path, default=path_of("CONSENTD_TOKEN_FILE"), metavar="FILE",
        help="file with the caller's token (CONSENTD_TOKEN_FILE; or set CONSENTD_TOKEN to the token)",
    )  # fmt: skip
    group.add_argument("--tls", action="store_true", help="use TLS; trust the system's authorities")
    group.add_argument(
        "--tls-ca", type=Path, default=path_of("CONSENTD_TLS_CA"), metavar="FILE",
        help="use TLS; trust these authorities, PEM (CONSENTD_TLS_CA)",
    )  # fmt: skip


def add_name(verb: argparse.ArgumentParser) -> None:
    """Add the options for the ledger's name, for which a signature is valid."""
    group = verb.add_argument_group("the ledger's name, to sign with")
    _add_log(group, "the ledger's public key, which has the name (CONSENTD_LOG_KEY)")


def add_pins(verb: argparse.ArgumentParser, *, witnesses: bool = True) -> None:
    """Add the options for the pinned log key and origin; and for a policy, if the verb verifies *witnesses*."""
    group = verb.add_argument_group("pinned values, to verify with")
    _add_log(
        group,
        "public key that signs checkpoints (CONSENTD_LOG_KEY); `consentd keygen` shows it. The second line of a FILE "
        "may be the log's ML-DSA-44 key; then that key must have signed too",
    )
    if witnesses:
        group.add_argument(
            "--policy", type=Path, default=path_of("CONSENTD_POLICY"), metavar="FILE",
            help="witnesses that must have cosigned, a C2SP tlog-policy (CONSENTD_POLICY; default: none)",
        )  # fmt: skip


def _add_log(group: Any, key: str) -> None:
    group.add_argument(
        "--log-key", default=os.environ.get("CONSENTD_LOG_KEY", ""), metavar="VKEY|FILE", help=key
    )
    group.add_argument(
        "--origin", default=os.environ.get("CONSENTD_ORIGIN", ""), metavar="NAME",
        help="the ledger's name (CONSENTD_ORIGIN; default: the log key's name)",
    )  # fmt: skip
