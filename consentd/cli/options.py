"""Declare the options that several verbs share, and read the values of these options."""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from consentd.cli.out import Out
from consentd.core.ed25519 import KEY_SIZE, KeyPair
from consentd.core.note import NoteVerifier, Verifier, parse_vkey
from consentd.core.quorum import WitnessPolicy, parse_policy
from consentd.core.rotation import FollowedKey
from consentd.errors import FileReadError, InvalidError, MalformedError
from consentd.policy import dates
from consentd.policy.language import canonical_tag
from consentd.secret_files import read_secret_file

if TYPE_CHECKING:
    from consentd_client import CallSigner, Client, Subject, Trust

Verbs = Any  # argparse's subparsers, which have no public type
Run = Callable[[argparse.Namespace, Out], int]
AddOptions = Callable[[argparse.ArgumentParser], None]


class Times(TypedDict):
    """A half-open range of times, UTC milliseconds; 0: open."""

    start_time_ms: int
    end_time_ms: int


class _Help(argparse.RawDescriptionHelpFormatter):
    """Formats help. The first line names what must be given alone: a verb has more than twenty options."""

    def _format_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: str | None
    ) -> str:
        of_groups = {one for group in groups if group.required for one in group._group_actions}  # noqa: SLF001
        needed = [one for one in actions if one.required or not one.option_strings or one in of_groups]
        text: str = super()._format_usage(usage, needed, groups, prefix)
        return text.replace(self._prog, f"{self._prog} [options]", 1)


def add_verb(
    verbs: Verbs, name: str, run: Run, *shared: AddOptions, text: str = "", more: str = ""
) -> argparse.ArgumentParser:
    """Add a verb that calls *run*, with the options for output and the options that the functions *shared* add.

    The verb's help shows *text*, or the docstring of *run* if *text* is empty; then the options; then *more*. A list of
    verbs shows the first paragraph alone.
    """
    text = text or inspect.cleandoc(run.__doc__ or "")
    text = text[:1].lower() + text[1:].rstrip(".")
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=text.split("\n\n")[0].rstrip("."), description=text, epilog=more,
        formatter_class=_Help,
    )  # fmt: skip
    verb.set_defaults(run=run)
    language = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    try:
        default = canonical_tag(re.split("[.@]", language)[0].replace("_", "-"))
    except InvalidError:  # a locale without a language, `C` for example
        default = "en"
    group = verb.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object a line")
    group.add_argument(
        "--lang", type=_language, metavar="TAG", default=default, help="language to answer in (default: from LANG)"
    )
    for add_options in shared:
        add_options(verb)
    return verb


def add_group(verbs: Verbs, name: str, text: str, *, more: str = "", metavar: str = "VERB") -> Verbs:
    """Add a verb that has verbs of its own; return what these are added to. Its help shows *text*, then *more*."""
    group = verbs.add_parser(
        name, help=text, description=text, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    under: Verbs = group.add_subparsers(title="verbs", metavar=metavar, required=True)
    return under


def _language(text: str) -> str:
    try:
        return canonical_tag(text)
    except InvalidError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_REMEMBERS = "remember in FILE what was verified, to detect if the daemon takes it back"


def add_memory(verb: argparse.ArgumentParser, text: str = _REMEMBERS) -> None:
    """Add the option for the file that stores what was verified; *text* says in its help what it is for."""
    verb.add_argument(
        "--memory", type=Path, default=path_of("CONSENTD_MEMORY"), metavar="FILE", help=f"{text} (CONSENTD_MEMORY)"
    )


def add_subject(verb: argparse.ArgumentParser) -> None:
    """Add the argument that names the person."""
    verb.add_argument("subject", metavar="SCHEME:VALUE", help="the person; `-` reads it from stdin")


def add_method(verb: argparse.ArgumentParser) -> None:
    """Add the option that says how the person was identified."""
    verb.add_argument("--method", default="", help="how the person was identified")


def add_times(verb: argparse.ArgumentParser, what: str) -> None:
    """Add the options that select *what* by time, which ``read_times`` reads."""
    verb.add_argument("--since", type=read_start_ms, default=0, metavar="TIME",
                      help=f"only {what} from this time on: an instant, or a day in Korea")  # fmt: skip
    verb.add_argument("--until", type=read_end_ms, default=0, metavar="TIME",
                      help=f"only {what} before this time: an instant, or the end of a day in Korea")  # fmt: skip


def read_times(arguments: argparse.Namespace) -> Times:
    """Return the half-open range of times that the options of ``add_times`` state, as the client library takes it."""
    return {"start_time_ms": arguments.since, "end_time_ms": arguments.until}


_ATTEMPTS = 5
"""A person who mistypes an address should not wait for the whole deadline: five attempts take about two seconds."""


def open_client(arguments: argparse.Namespace) -> "Client":
    """Return a client for the daemon that the arguments name."""
    from consentd_client import Client, FileMemory, Tls

    memory = getattr(arguments, "memory", None)
    tls = None
    if arguments.tls or arguments.tls_ca or arguments.tls_cert:
        tls = Tls(ca_file=arguments.tls_ca, cert_file=arguments.tls_cert, key_file=arguments.tls_key)
    id_token, key = getattr(arguments, "id_token_file", None), getattr(arguments, "subject_key", None)
    if getattr(arguments, "authority_seq", 0):
        key = None  # a representative signs statements, and calls through a participant that acts for persons
    if id_token is not None and key is not None:
        raise InvalidError("person calls with --id-token-file or with --subject-key, not with both")
    return Client(
        arguments.target, token="" if key is not None else read_token(id_token or arguments.token_file),
        call_signer=None if key is None else _read_subject_key(key, arguments), tls=tls, timeout_s=arguments.timeout,
        attempts=_ATTEMPTS,
        trust=read_trust(arguments) if getattr(arguments, "log_key", "") else None,
        memory=FileMemory(memory) if memory else None,
    )  # fmt: skip


def _read_subject_key(path: Path, arguments: argparse.Namespace) -> "CallSigner":
    """Return what signs the calls of a person with the key in a file that nobody else may read."""
    from consentd_client import CallSigner

    return CallSigner(key=read_key_pair(path), origin=read_origin(arguments))


def read_key_pair(path: Path) -> KeyPair:
    """Return the Ed25519 key pair of a file with 64 hex digits that nobody else may read; raises as ``read_hex``."""
    seed = read_hex(read_secret_file(path).decode("ascii", "replace").strip(), "signing key", KEY_SIZE)
    if not seed:
        raise InvalidError(f"signing key is empty: `{path}`: the file has 64 hex digits")
    return KeyPair(seed)


def read_origin(arguments: argparse.Namespace) -> str:
    """Return the ledger's name, for which signatures are valid; InvalidError if none is given."""
    if not arguments.origin and not arguments.log_key:
        raise InvalidError("signature is valid for one ledger: give its name with --origin, or its --log-key")
    return arguments.origin or _read_log_keys(arguments)[0].name


def read_token(path: Path | None) -> str:
    """Return the caller's token from *path*, or from the environment if *path* is None; empty: no token is given."""
    if path is None:
        return os.environ.get("CONSENTD_TOKEN", "").strip()
    token = read_text(path, "token file").strip()
    if not token:
        raise InvalidError(f"token file is empty: `{path}`")
    return token


def read_trust(arguments: argparse.Namespace) -> "Trust":
    """Return the pinned values; InvalidError if no log key is pinned or a value is malformed."""
    from consentd_client import Trust

    verifier, also = _read_log_keys(arguments)
    return Trust(arguments.origin or verifier.name, verifier, read_policy(arguments), tuple(also))


def read_policy(arguments: argparse.Namespace) -> WitnessPolicy | None:
    """Return the policy of the witnesses that must have cosigned; None: no policy. Imports no gRPC or protobuf."""
    if getattr(arguments, "policy", None) is None:
        return None
    try:
        return parse_policy(read_bytes(arguments.policy, "witness policy"))
    except MalformedError as error:
        raise InvalidError(f"witness policy is malformed: `{arguments.policy}`: {error}") from error


def read_pins(arguments: argparse.Namespace) -> tuple[str, Verifier]:
    """Return the pinned origin and log key; InvalidError unless exactly one is pinned. Imports no gRPC or protobuf."""
    verifier, also = _read_log_keys(arguments)
    if also:
        # The verb cannot verify a second key, and must not silently ignore a pinned key.
        raise InvalidError("log key file has more than one key, and this verb verifies one: give the Ed25519 key alone")
    return arguments.origin or verifier.name, verifier


def _read_log_keys(arguments: argparse.Namespace) -> tuple[Verifier, list[NoteVerifier]]:
    """Return the first pinned log key and the further ones. --log-key has one key as text, or names a file of keys."""
    given = arguments.log_key
    if not given:
        raise InvalidError("log key is not given: pin the one that `consentd keygen` shows, with --log-key")
    if "+" not in given:
        path = Path(given)
        given = read_text(path, "log key file")
        if not given.strip():
            raise InvalidError(f"log key file is empty: `{path}`; it has one line, which `consentd keygen` shows")
    try:
        first, *more = given.split() or [""]
        verifier = parse_vkey(first)
        if not more:
            return verifier, []
        # Imported only here, because ML-DSA needs the server's parts.
        from consentd.cosigning.mldsa import parse_mldsa_vkey

        return verifier, [parse_mldsa_vkey(key) for key in more]
    except MalformedError as error:
        # A malformed pin is the user's error, not evidence against the ledger.
        raise InvalidError(f"log key is not a C2SP verifier key: {error}") from error


def report_log_keys(out: Out, keys: Sequence[FollowedKey], *, is_followed: bool = True) -> list[dict[str, object]]:
    """Write to stderr by which keys a log has replaced its key, if it has; return the keys for ``--json``.

    *is_followed*: the first key is the pinned one, and the reader should pin the last one.
    """
    for before, key in pairwise(keys):
        out.message(
            f"로그 키 교체: `{before.vkey}`에서 `{key.vkey}`(으)로, 크기 {key.from_size}의 체크포인트부터",
            f"log key `{before.vkey}` was replaced by `{key.vkey}`, from checkpoints of size {key.from_size} on",
        )
    if keys and is_followed:
        out.message("앞으로는 마지막 로그 키를 고정하십시오", "pin the last one from now on")
    return [{"vkey": key.vkey, "from_size": key.from_size} for key in keys]


def read_subject(arguments: argparse.Namespace) -> "Subject":
    """Return the person that the arguments name; raises as ``read_identifier``."""
    from consentd_client import Subject

    scheme, value = read_identifier(arguments.subject)
    return Subject(scheme=scheme, value=value)


def read_identifier(given: str) -> tuple[str, str]:
    """Return (scheme, value) of SCHEME:VALUE; if *given* is ``-``, of a line of stdin. No error shows the value."""
    given = sys.stdin.readline().strip() if given == "-" else given
    scheme, colon, value = given.partition(":")
    if not (colon and scheme and value):
        raise InvalidError("person is not written SCHEME:VALUE, as in `mhid:MH-0001`")
    return scheme, value


def read_text(path: Path, what: str) -> str:
    """Return a file's text; ``-`` is stdin. If the file cannot be read, FileReadError, which calls the file *what*."""
    return read_bytes(path, what).decode("utf-8", "replace")


def read_bytes(path: Path, what: str) -> bytes:
    """Return a file's bytes; ``-`` is stdin. Raises as ``read_text``."""
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileReadError(f"{what} cannot be read: `{path}`: {error.strerror}") from error


@contextmanager
def parsing(what: str, path: Path) -> Iterator[None]:
    """Turn MalformedError into InvalidError: a file that is no *what*, or only a part of one, proves nothing."""
    try:
        yield
    except MalformedError as error:
        raise InvalidError(
            f"file is no {what}, or not all of one, so nothing is determined: `{path}`: {error}"
        ) from error


def read_end_ms(text: str) -> int:
    """Parse an instant, or a date, which means the day's end in Korea; return UTC milliseconds. An argparse type."""
    return _read_time_ms(text, dates.end_of_date_ms)


def read_start_ms(text: str) -> int:
    """Parse an instant, or a date, which means the day's start in Korea; return UTC milliseconds. An argparse type."""
    return _read_time_ms(text, dates.start_of_date_ms)


def _read_time_ms(text: str, read_date: Callable[[str], int]) -> int:
    try:
        time_ms = read_date(text) if dates.is_date(text) else dates.parse_instant_ms(text)
    except InvalidError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if time_ms == 0:  # in a message, this number states an open side
        raise argparse.ArgumentTypeError("1970-01-01 00:00 UTC would be no limit: state a millisecond before or after")
    return time_ms


def read_u32(text: str) -> int:
    """Parse a number that a field of 32 bits holds. An argparse type."""
    return _read_number(text, 32)


def read_u64(text: str) -> int:
    """Parse a number that a field of 64 bits holds, such as a seq. An argparse type."""
    return _read_number(text, 64)


def _read_number(text: str, bits: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < bits and int(text) < 1 << bits):
        raise argparse.ArgumentTypeError(f"not a number from 0 to {(1 << bits) - 1}")
    return int(text)


def read_hex(text: str, name: str, length: int = 0) -> bytes:
    """Parse hex; InvalidError, which calls the value *name*, if *text* is not hex or not *length* bytes long.

    Empty text is always allowed. If *length* is 0, every length is allowed.
    """
    try:
        found = bytes.fromhex(text)
    except ValueError as error:
        raise InvalidError(f"{name} is not in hex{f': {2 * length} digits' if length else ''}") from error
    if length and len(found) not in (0, length):
        raise InvalidError(f"{name} is not {length} bytes in hex")
    return found


def path_of(variable: str) -> Path | None:
    """Return the path that an environment variable states; None: it states none."""
    value = os.environ.get(variable, "")
    return Path(value) if value else None
