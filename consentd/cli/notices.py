"""``consentd served``, and the options of ``grant`` and ``amend``: record that a notice was shown to a person."""

import argparse
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_verified
from consentd.cli.options import (
    AddOptions,
    Verbs,
    add_method,
    add_subject,
    add_verb,
    open_client,
    read_bytes,
    read_start_ms,
    read_subject,
    read_u64,
)
from consentd.cli.out import DONE, Out
from consentd.cli.receipts import add_receipt, store_receipt, write_options
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.v1.statement_pb2 import ServedStatement

_HELP = """\
A consent can rest on the entry: sign it with the seq that is printed, or use --served-language of `grant`, which
records both at once.

example:
  consentd served mhid:MH-0001 privacy@3 --served-language ko --channel app
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb of this module to the parser."""
    verb = add_verb(verbs, "served", record, add_subject, add_method, add_receipt, add_verified, more=_HELP)
    verb.add_argument("notice", metavar="ID@N", help="the notice and the version that was shown")
    add_served(required=True)(verb)


def add_served(*, required: bool = False) -> AddOptions:
    """Return the function that adds the options for a notice that was shown. *required*: it was shown in any case."""

    def add_options(verb: argparse.ArgumentParser) -> None:
        group = verb.add_argument_group("how the notice was shown")
        group.add_argument(
            "--served-language", required=required, metavar="TAG",
            help="in which language; the entry that records it comes first" if not required else "in which language",
        )  # fmt: skip
        if not required:
            group.add_argument(
                "--served-seq", type=read_u64, default=0, metavar="N",
                help="the entry that recorded it, as `served` printed it, instead of these options",
            )  # fmt: skip
        group.add_argument("--channel", required=required, metavar="NAME", help="where: app, web, paper, counter, …")
        group.add_argument("--served-at", type=read_start_ms, metavar="TIME", help="when (default: now)")
        group.add_argument("--served-text", type=Path, metavar="FILE", help="the text as it was shown, to be hashed")

    return add_options


_VERSION_DIGITS = 9


def read_notice(text: str) -> tuple[str, int]:
    """Parse ``ID@N``, a notice and its version. Raises ``InvalidError``."""
    notice, at, version = text.partition("@")
    if not (notice and at and version.isascii() and version.isdecimal() and len(version) <= _VERSION_DIGITS):
        raise InvalidError("notice is not ID@VERSION")
    return notice, int(version)


def served_statement(arguments: argparse.Namespace, notice_id: str, version: int) -> "ServedStatement | None":
    """Return the statement that the options make; None: they say nothing of a notice that was shown.

    Raises:
        InvalidError: the options state only a part of it.
        StorageError: the text cannot be read.
    """
    from consentd.v1 import statement_pb2 as st

    if arguments.served_language is not None and getattr(arguments, "subject_key", None) is not None:
        raise InvalidError("app records that a notice was shown (`consentd served`): name that entry with --served-seq")
    if arguments.served_language is None:
        if arguments.channel or arguments.served_at or arguments.served_text:
            raise InvalidError("how a notice was shown is stated, and not in which language: give --served-language")
        return None
    if not (notice_id and arguments.channel):
        raise InvalidError("a notice that was shown needs --channel, and its id and version: give --notice ID@N")
    made = st.ServedStatement(
        notice_id=notice_id, notice_version=version, language=arguments.served_language, channel=arguments.channel,
        served_time_ms=arguments.served_at or time.time_ns() // 1_000_000,
    )  # fmt: skip
    if arguments.served_text is not None:
        made.content_sha256 = hashlib.sha256(read_bytes(arguments.served_text, "text of the notice")).digest()
    return made


def record(arguments: argparse.Namespace, out: Out) -> int:
    """Record that a version of a notice was shown to a person; print the seq of the entry."""
    from consentd_client import show

    made = served_statement(arguments, *read_notice(arguments.notice))
    assert made is not None, "the verb needs the options"
    with open_client(arguments) as client:
        receipt = client.record_served(
            read_subject(arguments), made, method=arguments.method, **write_options(arguments)
        )
    seq = receipt.event.seq
    out.answer(
        f"#{seq}  {show.served(made)}", type="served", seq=seq, notice_id=made.notice_id,
        notice_version=made.notice_version, language=made.language, channel=made.channel,
        served_time_ms=made.served_time_ms, content_sha256=made.content_sha256.hex(),
        receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE
