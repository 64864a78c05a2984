"""``consentd history`` and ``checkpoint``: read a history or a checkpoint, verify it, and only then show it."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.authorities import add_reading_authority
from consentd.cli.daemon_options import add_write
from consentd.cli.options import (
    Verbs,
    add_memory,
    add_verb,
    open_client,
    parsing,
    read_bytes,
    read_hex,
    read_subject,
    read_trust,
    report_log_keys,
)
from consentd.cli.out import PROVEN, UNDETERMINED, Out, counted
from consentd.cli.outputs import output_path, write_evidence
from consentd.cli.sources import read_seconds
from consentd.core.evidence import parse_evidence
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from consentd_client import Entry, History, Question

_HELP = """\
Everything is verified before a line is shown: the log's signature, that no entry up to the seal is missing, and who
signed each entry. With --memory also that the daemon takes nothing back that it showed before.
Not proven: an access that nobody reported; that the tag is this person's (pin it with --tag); that everyone is shown
the same ledger. That a tag has no entry says nothing about a person.

--parts needs little memory, however long the history is. What was verified stays in FILE, and nothing is shown before
the last part is verified. If the call ends early, call it again with the same FILE. It reads and writes no memory.

--save writes the history and its proofs to one file of evidence (proto/evidence-format.md). --from verifies such a file
without calling a daemon; so do `consentd audit check-evidence` and `consentd-verify history FILE` (clients/typescript).
A file may be of any age; the answer says up to which time it is complete. --max-age demands recent cosignatures. --from
neither reads nor writes a memory.

exit status: 0 proven, 1 disproved, 2 could not be determined.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "history", history, add_memory, add_write, more=_HELP)
    verb.add_argument("subject", metavar="SCHEME:VALUE", nargs="?", help="the person; `-` reads it from stdin")
    verb.add_argument("--public", metavar="NAME", help="a public chain instead: ledger, participant/ID, notice/ID …")
    verb.add_argument("--tag", default="", metavar="HEX", help="the person's tag, as `enrol` printed it")
    add_reading_authority(verb)
    verb.add_argument("--new", action="store_true", help="show only what is new since the last time (--memory)")
    verb.add_argument(
        "--parts", type=Path, metavar="FILE",
        help="for a long history: verify it part by part and keep it in FILE; a later call continues there",
    )  # fmt: skip
    verb.add_argument("--save", type=output_path, metavar="FILE", help="write history and proofs, for any verifier")
    verb.add_argument(
        "--from", dest="file", type=Path, metavar="FILE", help="verify a saved file, offline; `-` reads it from stdin"
    )
    verb.add_argument(
        "--max-age", type=read_seconds, metavar="S",
        help="with --from: oldest age of a cosignature that counts, in seconds (default: any)",
    )  # fmt: skip
    add_verb(verbs, "checkpoint", checkpoint, add_memory, add_write)


def history(arguments: argparse.Namespace, out: Out) -> int:
    """Show a person's history, and prove that it is complete."""
    if arguments.parts is not None:
        return _read_parts(arguments, out)
    found = _open(arguments) if arguments.file is not None else _ask(arguments, out)
    return _show(arguments, out, found, found.entries)


def _show(arguments: argparse.Namespace, out: Out, found: "History", entries: "Iterable[Entry]") -> int:
    """Show *entries*, one at a time, then what *found* proves of them; return the exit status."""
    count, new, unread, last_seq = 0, 0, 0, 0
    missing: list[tuple[int, int]] = []
    for entry in entries:
        count, new = count + 1, new + entry.is_new
        unread += entry.statement is not None and entry.message is None
        if entry.seq != last_seq + 1:
            missing.append((last_seq + 1, entry.seq - 1))
        last_seq = entry.seq
        if entry.is_new or not arguments.new:
            out.answer(entry.line(out.lang), **_entry_fields(entry))

    until, size = format_instant(found.seal_time_ms), found.checkpoint.size
    log_keys = report_log_keys(out, found.log_keys)
    if out.as_json:
        out.answer(
            "", type="history", verdict="proven", tag=found.tag.hex(), public_name=found.name,
            entries=count, new=new, unread=unread, erased=found.is_erased, size=size,
            missing=[list(one) for one in missing], kept_from_ms=found.kept_from_ms,
            seal_time_ms=found.seal_time_ms, log_keys=log_keys,
        )  # fmt: skip
    unproven = ("원장에 기록되지 않은 행위", "an act that was not recorded") if found.name else (
        "보고되지 않은 이용, 이 태그가 본인의 것이라는 사실",
        "an access that nobody reported; that this tag is this person's",
    )  # fmt: skip
    if not count:
        out.message("proven: the tag has no entry. That says something about a tag, never about a person.")
    else:
        out.message(
            f"증명됨: {until}까지의 {'남은 ' if missing else ''}전체 기록 {count}건 "
            f"(원장 크기 {size}). "
            f"증명하지 않는 것: {unproven[0]}.",
            f"proven: {'the one entry' if count == 1 else f'all {count} entries'} "
            f"{'that are kept ' if missing else ''}up to {until} "
            f"(ledger of size {size}). "
            f"Not proven: {unproven[1]}.",
        )
    if arguments.file is not None and not (arguments.tag or arguments.public):
        out.message(f"this is the history of {found.name or found.tag.hex()}; give --tag to demand a certain person's")
    for first, last in missing:
        out.message(
            f"항목 {first}–{last}: 원장의 보유기간이 지나 삭제됨. {format_instant(found.kept_from_ms)} 이후의 "
            "기록은 모두 남아 있음",
            f"entries {first} to {last} were pruned, past the ledger's published retention: everything from "
            f"{format_instant(found.kept_from_ms)} on is here",
        )
    if unread:
        out.message(f"could not be determined what an entry of a later version says: {counted(unread, 'entries')}")
    if not found.understands_keys:
        out.message("an entry about keys is of a later version: which keys it changes could not be determined")
    if unread or not found.understands_keys:
        return UNDETERMINED
    return PROVEN


def _read_parts(arguments: argparse.Namespace, out: Out) -> int:
    """Read and verify a long history part by part; show it when the last part is verified."""
    from consentd_client import HistoryFile

    if arguments.file is not None or arguments.save is not None:
        raise InvalidError("--parts goes with --tag, --public NAME and --new, and not with --from or --save")
    if (arguments.subject is None) == (arguments.public is None):
        raise InvalidError("give either a person or --public NAME")
    read_trust(arguments)  # raises an error here, before the daemon is called, if nothing is pinned
    tag = read_hex(arguments.tag, "tag", 32)
    chain = arguments.public if arguments.subject is None else read_subject(arguments)
    file = HistoryFile(arguments.parts)
    known = file.entry_count
    with open_client(arguments) as client:
        while True:
            found, rows, state = client.history_part(chain, tag=tag, state=file.state)
            file.append(rows, state, is_complete=found.is_complete)
            if found.is_complete:
                break
            out.message(f"{counted(file.entry_count, 'entries')} verified; the history is not complete yet")
    return _show(arguments, out, found, file.shown(found, known=known))


def _ask(arguments: argparse.Namespace, out: Out) -> "History":
    """Read a history from the daemon and verify it; if --save names a file, write the history to that file."""
    from consentd_client import evidence

    if (arguments.subject is None) == (arguments.public is None):
        raise InvalidError("give either a person or --public NAME")
    if arguments.max_age is not None:
        raise InvalidError("--max-age is for --from; without --from cosignatures may be five minutes old")
    read_trust(arguments)  # raises an error here, before the daemon is called, if nothing is pinned
    tag = read_hex(arguments.tag, "tag", 32)
    with open_client(arguments) as client:
        if arguments.save is None:
            if arguments.public is None:
                return client.history(read_subject(arguments), tag=tag, authority_seq=arguments.authority_seq)
            return client.public_history(arguments.public)
        chain = arguments.public if arguments.subject is None else read_subject(arguments)
        found, content = client.run(evidence.save_history(client.context, chain, tag=tag))
    write_evidence(arguments.save, content, "evidence")
    out.message(f"history saved: `{arguments.save}`; `consentd history --from` or another verifier verifies it")
    return found


def _open(arguments: argparse.Namespace) -> "History":
    """Return the history that a file proves; no daemon is called."""
    from consentd_client import open_history

    if arguments.subject is not None or arguments.save is not None or arguments.new:
        raise InvalidError("--from goes with --tag or --public NAME, and not with a person, --save or --new")
    if arguments.tag and arguments.public is not None:
        raise InvalidError("give --tag or --public NAME, not both")
    if arguments.max_age is not None and arguments.policy is None:
        raise InvalidError("--max-age limits the age of cosignatures: give the witnesses with --policy")
    with parsing("evidence", arguments.file):
        evidence = parse_evidence(read_bytes(arguments.file, "evidence"))
    return open_history(
        evidence, trust=read_trust(arguments), name=arguments.public or "",
        tag=read_hex(arguments.tag, "tag", 32), now_ms=time.time_ns() // 1_000_000, max_age_s=arguments.max_age,
    )  # fmt: skip


def checkpoint(arguments: argparse.Namespace, out: Out) -> int:
    """Verify and show the latest checkpoint."""
    read_trust(arguments)
    with open_client(arguments) as client:
        point = client.get_checkpoint()
    out.answer(
        f"{point.origin}\n{point.size}\n{point.root.hex()}",
        verdict="proven", origin=point.origin, size=point.size, root=point.root.hex(),
    )  # fmt: skip
    return PROVEN


def _entry_fields(entry: "Entry") -> dict[str, object]:
    from google.protobuf.json_format import MessageToDict

    from consentd.v1 import statement_pb2 as st
    from consentd_client import labels

    fields: dict[str, object] = {
        "type": "entry", "seq": entry.seq, "kind": entry.kind_name, "time_ms": entry.time_ms, "ref": entry.event.ref,
        "author": entry.author, "attested_by": entry.attested_by, "acted_as": None, "new": entry.is_new,
        "statement": None,
    }  # fmt: skip
    if entry.acted_under is not None:
        capacity = labels.enum_name(st.AuthorityCapacity, entry.acted_under.capacity, "AUTHORITY_CAPACITY_")
        fields["acted_as"] = capacity
    if entry.kind == EntryKind.OUTCOME:
        fields["beyond_permit"] = entry.beyond_permit
    if entry.message is not None:
        message, question = _without_subject(entry.message)
        fields["statement"] = MessageToDict(message, preserving_proto_field_name=True)
        if question is not None:
            fields["question"] = MessageToDict(question, preserving_proto_field_name=True)
    return fields


def _without_subject(message: "Message") -> "tuple[Message, Question | None]":
    """Return a statement's copy without the question; and the question without the person, None if there is none."""
    from consentd.v1 import statement_pb2 as st
    from consentd_client import show

    copy = type(message)()
    copy.CopyFrom(message)
    access = copy.access if isinstance(copy, st.RefusalStatement) and copy.HasField("access") else copy
    if not isinstance(access, st.AccessStatement):
        return copy, None
    question = show.parse_question(access)
    if question is None:
        return copy, None
    access.asked.ClearField("question")
    question.ClearField("subject")
    return copy, question
