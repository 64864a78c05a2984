"""``consentd history``, ``checkpoint`` and ``receipt``: get evidence, and verify it before it is shown."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.out import DONE, PROVEN, UNTOLD, Out
from consentd.cli.words import (
    Verbs,
    add_daemon,
    add_memory,
    add_verb,
    open_client,
    read_bytes,
    read_subject,
    read_trust,
    show_receipt,
)
from consentd.errors import InvalidError, MalformedError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from consentd_client import Entry, Question

_MORE = """\
Everything is verified before a line is shown: the log's signature, that every entry is there up to the seal, and who
signed each. With --memory also that nothing shown before was taken back.
Not proven: an access that nobody reported; that the tag is this person's (pin it with --tag); that everyone is shown
the same ledger. That a tag has no entry says nothing about a person.

exit status: 0 proven, 1 disproved, 2 could not be told.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "history", history, "show a person's whole history, and that it is whole", more=_MORE)
    verb.add_argument("subject", metavar="SCHEME:VALUE", nargs="?", help="the person; `-` reads it from stdin")
    verb.add_argument("--public", metavar="NAME", help="a public chain instead: ledger, participant/ID, notice/ID …")
    verb.add_argument("--tag", default="", metavar="HEX", help="the person's tag, as pinned when enrolled")
    verb.add_argument("--new", action="store_true", help="show only what is new since the last time (--memory)")
    add_memory(verb)
    add_daemon(verb)
    verb = add_verb(verbs, "checkpoint", checkpoint, "show the latest checkpoint, verified")
    add_memory(verb)
    add_daemon(verb)
    verb = add_verb(verbs, "receipt", receipt, "complete a receipt that has no proof yet, in its file")
    verb.add_argument("file", type=Path, metavar="FILE", help="a receipt kept with --receipt")
    add_daemon(verb)


def history(arguments: argparse.Namespace, out: Out) -> int:
    """Show a history."""
    if (arguments.subject is None) == (arguments.public is None):
        raise InvalidError("give a person or --public NAME, one of both")
    read_trust(arguments)  # said at once where it is missing
    with open_client(arguments) as client:
        if arguments.public is None:
            found = client.history(read_subject(arguments), tag=_tag(arguments.tag))
        else:
            found = client.public_history(arguments.public)
    for entry in found.new if arguments.new else found.entries:
        out.answer(entry.line(out.lang), **_entry_fields(entry))
    from consentd_client import show

    until, size = show.format_time(found.seal_time_ms), found.checkpoint.size
    if out.as_json:
        out.answer(
            "", type="history", verdict="proven", tag=found.tag.hex(), entries=len(found.entries),
            new=len(found.new), unread=len(found.unread), erased=found.is_erased, size=size,
            seal_time_ms=found.seal_time_ms,
        )  # fmt: skip
    if found.is_absent:
        out.talk("proven: the tag has no entry. That says something about a tag, never about a person.")
    else:
        out.talk(
            out.in_words(
                f"증명됨: {until}까지의 전체 기록 {len(found.entries)}건 (원장 크기 {size}). "
                "증명하지 않는 것: 보고되지 않은 이용, 이 태그가 본인의 것이라는 사실.",
                f"proven: all {len(found.entries)} entries up to {until} (ledger of size {size}). "
                "Not proven: an access that nobody reported; that this tag is this person's.",
            )
        )
    if found.unread:
        out.talk(f"{len(found.unread)} entries are of a later version: what they say could not be told")
        return UNTOLD
    return PROVEN


def checkpoint(arguments: argparse.Namespace, out: Out) -> int:
    """Show the latest checkpoint."""
    read_trust(arguments)
    with open_client(arguments) as client:
        point = client.get_checkpoint()
    out.answer(
        f"{point.origin}\n{point.size}\n{point.root.hex()}",
        verdict="proven", origin=point.origin, size=point.size, root=point.root.hex(),
    )  # fmt: skip
    return PROVEN


def receipt(arguments: argparse.Namespace, out: Out) -> int:
    """Complete a receipt."""
    from consentd.core import codec
    from consentd_client import Receipt

    try:
        kept = json.loads(read_bytes(arguments.file, "receipt"))
        leaf, index = bytes.fromhex(kept["leaf"]), int(kept["index"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedError("receipt is not one that this program kept") from error
    event = codec.decode_leaf(leaf)
    if not isinstance(event, codec.Event):
        raise MalformedError("receipt is of a seal")
    known = Receipt(index=index, leaf=leaf, event=event, tree_size=0, proof=b"", checkpoint=None, replayed=False)
    with open_client(arguments) as client:
        found = client.get_receipt(known)
    arguments.receipt = arguments.file
    fields = show_receipt(arguments, out, found)
    out.answer(f"entry {found.index}", type="receipt", **fields)
    return DONE if found.proof else UNTOLD


def _tag(text: str) -> bytes:
    try:
        tag = bytes.fromhex(text)
    except ValueError:
        tag = b"?"
    if len(tag) not in (0, 32):
        raise InvalidError("tag is not 32 bytes in hex")
    return tag


def _entry_fields(entry: "Entry") -> dict[str, object]:
    from google.protobuf.json_format import MessageToDict

    fields: dict[str, object] = {
        "type": "entry", "seq": entry.seq, "kind": entry.kind_name, "time_ms": entry.time_ms, "ref": entry.event.ref,
        "author": entry.author, "attested_by": entry.attested_by, "new": entry.is_new, "statement": None,
    }  # fmt: skip
    if entry.message is not None:
        message, question = without_subject(entry.message)
        fields["statement"] = MessageToDict(message, preserving_proto_field_name=True)
        if question is not None:
            fields["question"] = MessageToDict(question, preserving_proto_field_name=True)
    return fields


def without_subject(message: "Message") -> "tuple[Message, Question | None]":
    """Return a copy of a statement without the question's bytes, and that question without the person it names.

    Whose data it was is known to whoever asked for the history; the identifier need not be copied about.
    """
    from google.protobuf.message import DecodeError

    from consentd.v1 import consent_pb2 as pb
    from consentd.v1 import statement_pb2 as st

    copy = type(message)()
    copy.CopyFrom(message)
    access = copy.access if isinstance(copy, st.RefusalStatement) and copy.HasField("access") else copy
    if not isinstance(access, st.AccessStatement):
        return copy, None
    question = pb.Question()
    try:
        question.ParseFromString(access.asked.question)
    except (DecodeError, ValueError, RecursionError):
        return copy, None
    access.asked.ClearField("question")
    question.ClearField("subject")
    return copy, question
