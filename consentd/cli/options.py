"""The arguments that verbs share, and what they mean."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consentd.cli.out import Out
from consentd.errors import InvalidError, MalformedError, StorageError

if TYPE_CHECKING:
    from consentd.core.quorum import WitnessPolicy
    from consentd_client import Client, Receipt, Subject, Trust

Verbs = Any  # argparse's subparsers, which have no public type
Run = Callable[[argparse.Namespace, Out], int]

DEFAULT_TARGET = "127.0.0.1:7400"


def add_verb(verbs: Verbs, name: str, run: Run, text: str, *, more: str = "") -> argparse.ArgumentParser:
    """Add a verb; *text* is its one line, *more* what its help says below."""
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.set_defaults(run=run)
    language = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    default = "ko" if language.startswith("ko") else "en"
    group = verb.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object a line")
    group.add_argument("--lang", choices=("ko", "en"), default=default, help="language of labels (default: by LANG)")
    return verb


def add_daemon(verb: argparse.ArgumentParser) -> None:
    """Add where the daemon is and who calls."""
    group = verb.add_argument_group("daemon")
    group.add_argument(
        "--target",
        default=os.environ.get("CONSENTD_TARGET", DEFAULT_TARGET),
        metavar="HOST:PORT",
        help=f"the daemon (CONSENTD_TARGET; default {DEFAULT_TARGET})",
    )
    group.add_argument(
        "--token-file",
        type=Path,
        default=_path("CONSENTD_TOKEN_FILE"),
        metavar="FILE",
        help="holds the caller's token (CONSENTD_TOKEN_FILE; or the token itself in CONSENTD_TOKEN)",
    )
    group.add_argument("--timeout", type=float, default=10.0, metavar="S", help="deadline in seconds (default 10)")
    group.add_argument("--tls", action="store_true", help="use TLS with the system's authorities")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="use TLS; authorities of the daemon, PEM")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="client certificate, PEM; with --tls-key")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    add_pins(verb)


def add_pins(verb: argparse.ArgumentParser, *, witnesses: bool = True) -> None:
    """Add what the user pinned of the ledger; *witnesses* too, where a checkpoint is verified that they cosign."""
    group = verb.add_argument_group("pinned, to verify with")
    group.add_argument(
        "--log-key",
        default=os.environ.get("CONSENTD_LOG_KEY", ""),
        metavar="VKEY|FILE",
        help="public key that signs checkpoints (CONSENTD_LOG_KEY); `consentd keygen` shows it. A FILE's second line "
        "is the log's ML-DSA-44 key, which must then have signed too",
    )
    group.add_argument(
        "--origin",
        default=os.environ.get("CONSENTD_ORIGIN", ""),
        metavar="NAME",
        help="the ledger's name (CONSENTD_ORIGIN; default: the log key's name)",
    )
    if witnesses:
        group.add_argument(
            "--policy",
            type=Path,
            default=_path("CONSENTD_POLICY"),
            metavar="FILE",
            help="witnesses that must have cosigned, a C2SP tlog-policy (CONSENTD_POLICY; default: nobody need have)",
        )


def add_memory(verb: argparse.ArgumentParser) -> None:
    """Add where verified histories are remembered."""
    verb.add_argument(
        "--memory",
        type=Path,
        default=_path("CONSENTD_MEMORY"),
        metavar="FILE",
        help="remember what was verified here, so that nothing can be taken back (CONSENTD_MEMORY)",
    )


def add_subject(verb: argparse.ArgumentParser) -> None:
    """Add the person."""
    verb.add_argument("subject", metavar="SCHEME:VALUE", help="the person; `-` reads it from stdin")


def add_receipt(verb: argparse.ArgumentParser) -> None:
    """Add where a receipt is kept."""
    verb.add_argument("--receipt", type=Path, metavar="FILE", help="wait for the proof and keep the receipt in FILE")
    verb.add_argument(
        "--request-id",
        type=read_request_id,
        metavar="HEX",
        help="16 bytes in hex; repeat an uncertain write with the same (default: random)",
    )


def open_client(arguments: argparse.Namespace) -> "Client":
    """Return a client as the arguments say.

    Raises:
        InvalidError: token, TLS files or pins are not in order.
        StorageError: a file cannot be read.
    """
    from consentd_client import Client, FileMemory, Tls

    memory = getattr(arguments, "memory", None)
    tls = None
    if arguments.tls or arguments.tls_ca or arguments.tls_cert:
        tls = Tls(ca_file=arguments.tls_ca, cert_file=arguments.tls_cert, key_file=arguments.tls_key)
    return Client(
        arguments.target,
        token=read_token(arguments.token_file),
        tls=tls,
        timeout_s=arguments.timeout,
        trust=read_trust(arguments) if arguments.log_key else None,
        memory=FileMemory(memory) if memory else None,
    )


def read_token(path: Path | None) -> str:
    """Return the caller's token; empty where none is given."""
    if path is None:
        return os.environ.get("CONSENTD_TOKEN", "").strip()
    return read_text(path, "token file").strip()


def read_trust(arguments: argparse.Namespace) -> "Trust":
    """Return what was pinned.

    Raises:
        InvalidError: nothing was.
    """
    from consentd_client import Trust

    verifier, *also = _read_log_keys(arguments)
    return Trust(arguments.origin or verifier.name, verifier, read_policy(arguments), tuple(also))


def read_policy(arguments: argparse.Namespace) -> "WitnessPolicy | None":
    """Return which witnesses must have cosigned; None: nobody need have. Imports neither gRPC nor protobuf.

    Raises:
        InvalidError: the file holds no policy.
        StorageError: it cannot be read.
    """
    from consentd.core.quorum import parse_policy

    if arguments.policy is None:
        return None
    try:
        return parse_policy(read_bytes(arguments.policy, "witness policy"))
    except MalformedError as error:
        raise InvalidError(f"witness policy is not one: `{arguments.policy}`: {error}") from error


def read_pins(arguments: argparse.Namespace) -> tuple[str, Any]:
    """Return (origin, verifier) as pinned; imports neither gRPC nor protobuf.

    Raises:
        InvalidError: no log key is given, it is none, or more than this verb looks at.
    """
    verifier, *also = _read_log_keys(arguments)
    if also:
        # A key that was pinned must not go unasked in silence.
        raise InvalidError("log key file has more than one key, and this verb verifies one: give that of Ed25519 alone")
    return arguments.origin or verifier.name, verifier


def _read_log_keys(arguments: argparse.Namespace) -> list[Any]:
    """Return the log's keys as pinned: one, or one on each line of a file."""
    from consentd.core.note import parse_vkey

    given = arguments.log_key
    if not given:
        raise InvalidError("log key is not given: pin it with --log-key or CONSENTD_LOG_KEY, as `consentd keygen` said")
    if "+" not in given:
        given = read_text(Path(given), "log key file")
    try:
        first, *more = given.split() or [""]
        keys: list[Any] = [parse_vkey(first)]
        if more:
            # Only then: it needs the server's parts.
            from consentd.cosigning.mldsa import parse_mldsa_vkey

            keys += map(parse_mldsa_vkey, more)
    except MalformedError as error:
        # A bad pin disproves nothing.
        raise InvalidError(f"log key is not a C2SP verifier key: {error}") from error
    return keys


def read_subject(arguments: argparse.Namespace) -> "Subject":
    """Return the person that was named.

    Raises:
        InvalidError: it is not SCHEME:VALUE. It is not repeated.
    """
    from consentd_client import Subject

    scheme, value = read_identifier(arguments.subject)
    return Subject(scheme=scheme, value=value)


def read_identifier(given: str) -> tuple[str, str]:
    """Return (scheme, value) of a person written SCHEME:VALUE; ``-`` reads it from stdin.

    Raises:
        InvalidError: it is not that. It is not repeated.
    """
    given = sys.stdin.readline().strip() if given == "-" else given
    scheme, colon, value = given.partition(":")
    if not (colon and scheme and value):
        raise InvalidError("person is not written SCHEME:VALUE, as in `mhid:MH-0001`")
    return scheme, value


def read_text(path: Path, what: str) -> str:
    """Return a file's text; ``-`` is stdin.

    Raises:
        StorageError: it cannot be read.
    """
    return read_bytes(path, what).decode("utf-8", "replace")


def read_bytes(path: Path, what: str) -> bytes:
    """Return a file's bytes; ``-`` is stdin. Raises as ``read_text``."""
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{what} cannot be read: `{path}`: {error.strerror}") from error


def read_request_id(text: str) -> bytes:
    """Return a request_id from hex; an argparse type."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16:
        raise argparse.ArgumentTypeError("not 16 bytes in hex")
    return found


def read_end_ms(text: str) -> int:
    """Return the end that a date (its last moment in Korea) or an instant names, UTC ms; an argparse type."""
    from consentd.policy import dates

    try:
        return dates.end_of_date_ms(text) if dates.is_date(text) else dates.parse_instant_ms(text)
    except InvalidError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def read_start_ms(text: str) -> int:
    """Return the start that a date (its first moment in Korea) or an instant names, UTC ms; an argparse type."""
    from consentd.policy import dates

    try:
        return dates.start_of_date_ms(text) if dates.is_date(text) else dates.parse_instant_ms(text)
    except InvalidError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def show_receipt(arguments: argparse.Namespace, out: Out, receipt: "Receipt") -> dict[str, object]:
    """Keep a receipt where that was asked for, and return it for ``--json``."""
    fields: dict[str, object] = {
        "index": receipt.index,
        "leaf": receipt.leaf.hex(),
        "proof": receipt.proof.decode(),
        "replayed": receipt.replayed,
    }
    if arguments.receipt is not None:
        import json

        from consentd.audit.sources import write_file

        # Beside, then renamed: it may be the only copy of this evidence, and the disk may be full.
        write_file(arguments.receipt, json.dumps(fields, ensure_ascii=False).encode() + b"\n", what="receipt")
        kept = "receipt kept" if receipt.proof else "receipt kept without a proof: no checkpoint covered it in time"
        out.talk(f"{kept}: `{arguments.receipt}`; `consentd verify` checks it")
    return fields


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value) if value else None
