"""``consentd audit evidence``, ``check-evidence`` and ``report``: write and verify evidence files; write a report."""

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_pins
from consentd.cli.options import (
    Verbs,
    add_verb,
    parsing,
    read_bytes,
    read_hex,
    read_identifier,
    read_pins,
    read_policy,
    report_log_keys,
)
from consentd.cli.out import DONE, PROVEN, UNDETERMINED, VERDICTS, Out, counted
from consentd.cli.outputs import output_path, write_evidence
from consentd.cli.sources import SOURCE_HELP_FROM, add_ledger_source, read_ledger_source, read_number
from consentd.core.codec import public_tag
from consentd.core.evidence import Scope, parse_evidence
from consentd.errors import InvalidError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from consentd.audit.sources import Location

_MAKE_HELP = f"""\
The verb reads the ledger once and verifies it on the way. The file contains the statements that the caller may see.

--subject looks up the person's tag in the operator's vault (--config, the daemon stopped); the file contains the tag
and not the identifier. But statements are copied as they were signed, and a recorded question names the person. So the
file is as confidential as the records, and only its owner can read it.

{SOURCE_HELP_FROM}
examples:
  consentd audit evidence case-7.json --range 1200:1300 --config ops/consentd.toml
  consentd audit evidence case-8.json --subject - --config ops/consentd.toml        SCHEME:VALUE on stdin
"""
_CHECK_HELP = """\
Works offline, without a daemon and without the server's parts. A file that `consentd history --save` wrote is evidence
too. Nothing that the file says of itself is trusted: pin the log's key, and witnesses with --policy. If the log
replaced its key, the rotations in the file lead from the pinned key to the new one; the answer names the keys.

exit status: 0 proven, 1 disproved, 2 something in it could not be determined, or FILE is no evidence or a part of one.
"""
_REPORT_HELP = f"""\
The page is one HTML file in Korean and English. It loads nothing, has no script, and can be printed. It counts the
accesses whose statements are available. It contains no identifier of a person, but justifications as they were written.

{SOURCE_HELP_FROM}
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "evidence", make, more=_MAKE_HELP)
    verb.add_argument("file", type=output_path, metavar="FILE", help="the file to write")
    group = verb.add_argument_group("scope, one of")
    group.add_argument("--range", metavar="FIRST:LAST", help="entries by index, LAST included")
    group.add_argument(
        "--subject", metavar="SCHEME:VALUE", help="a person's whole history; `-` reads it from stdin; needs the vault"
    )
    group.add_argument("--tag", metavar="HEX", help="a person's whole history, by tag")
    group.add_argument("--chain", metavar="NAME", help="a public chain, `participant/ID`, `rules/realm`")
    group.add_argument(
        "--participant", metavar="ID", help="its public chain, and all available entries in which it takes part"
    )
    verb.add_argument("--policy", type=Path, metavar="FILE", help="a witness policy to propose to the file's readers")
    add_ledger_source(verb, directory="--from")
    verb = add_verb(verbs, "check-evidence", check, add_pins, more=_CHECK_HELP)
    verb.add_argument("file", type=Path, metavar="FILE", help="the evidence; `-` reads it from stdin")
    verb = add_verb(verbs, "report", report, more=_REPORT_HELP)
    verb.add_argument("file", type=output_path, metavar="FILE", help="the page to write; `-` is stdout")
    verb.add_argument("--index", type=int, metavar="N", help="draw this entry's Merkle path (default: the last)")
    verb.add_argument(
        "--gap", type=read_number, default=60.0, metavar="MIN", help="minutes of silence that are listed (default 60)"
    )
    add_ledger_source(verb, directory="--from")


def make(arguments: argparse.Namespace, out: Out) -> int:
    """Write entries and what proves them to one file."""
    from consentd.audit.evidence import make_evidence

    given = [arguments.range, arguments.subject, arguments.tag, arguments.chain, arguments.participant]
    if sum(map(bool, given)) != 1:
        raise InvalidError("give one scope: --range, --subject, --tag, --chain or --participant")
    if str(arguments.file) == "-":
        raise InvalidError("evidence is confidential and is not written to stdout: give a file for it")
    location, origin, verifier = read_ledger_source(arguments)
    scope = _scope(arguments, location)
    read_policy(arguments)  # raises an error if the file is no policy
    policy = "" if arguments.policy is None else read_bytes(arguments.policy, "witness policy").decode()
    with out.progress("collecting") as progress:
        made = make_evidence(
            location, arguments.file, scope, origin=origin, log_verifier=verifier, policy=policy, progress=progress
        )
    report_log_keys(out, made.log_keys)
    out.answer(
        f"written: {counted(made.entries, 'entries')} in `{arguments.file}`, {made.chains} whole chains, "
        f"{counted(made.closed, 'entries')} "
        "without their statement",
        type="evidence", file=str(arguments.file), size=made.checkpoint.size, entries=made.entries, chains=made.chains,
        closed=made.closed,
    )  # fmt: skip
    return DONE


def check(arguments: argparse.Namespace, out: Out) -> int:
    """Verify a file of evidence, offline."""
    from consentd.statements.evidence import verify_evidence

    origin, verifier = read_pins(arguments)
    policy = read_policy(arguments)
    with parsing("evidence", arguments.file):
        evidence = parse_evidence(read_bytes(arguments.file, "evidence"))
    found = verify_evidence(evidence, origin=origin, log_verifier=verifier, policy=policy)
    chains = {chain.proof.public_name or "a person": chain for chain in found.histories.chains}
    missing = {name: chain.proof.first_seq - 1 for name, chain in chains.items() if chain.proof.first_seq > 1}
    kept_from_ms = found.histories.kept_from_ms
    for name, chain in chains.items():
        if name not in missing:
            out.message(f"whole: chain of {name}, {counted(len(chain.entries), 'entries')}")
            continue
        out.message(
            f"not whole: chain of {name}, {counted(len(chain.entries), 'entries')}. Entries 1 to "
            f"{missing[name]} were pruned, past "
            f"the ledger's published retention: everything from {format_instant(kept_from_ms)} on is here"
        )
    if found.closed:
        out.message(f"not checked: statements that the file does not contain: {found.closed}")
    if found.unproven:
        out.message(f"not checked: who owns a key, because the person's chain is not in the file: {found.unproven}")
    if found.unknown:
        out.message(f"not checked: entries of kinds that this version does not know: {found.unknown}")
    if policy is None:
        out.message("not checked: witnesses; give their policy with --policy")
    log_keys = report_log_keys(out, found.log_keys)
    status = UNDETERMINED if found.unknown or found.unproven else PROVEN
    verdict, ko = VERDICTS[status]
    point = found.sealed.checkpoint
    out.answer(
        f"{ko}: {'남은 ' if missing else ''}항목 {found.entry_count}개, 진술 {found.opened}개 "
        f"(`{origin}`, 크기 {point.size})",
        f"{verdict}: {counted(found.entry_count, 'entries')}{' that are kept' if missing else ''}, "
        f"{counted(found.opened, 'statements')}, "
        f"of `{origin}` at size {point.size}",
        type="check-evidence", verdict=verdict, origin=origin, size=point.size, root=point.root.hex(),
        scope=_scope_fields(found.scope), chains={name: len(chain.entries) for name, chain in chains.items()},
        missing={name: [[1, last]] for name, last in missing.items()}, kept_from_ms=kept_from_ms,
        entries=found.entry_count, kinds=found.kinds,
        statements_verified=found.opened, closed=found.closed, unproven=found.unproven, unknown=found.unknown,
        witnesses=list(found.witnesses), log_keys=log_keys,
    )  # fmt: skip
    return status


def _scope_fields(scope: Scope) -> dict[str, object]:
    if scope.participant:
        return {"participant": scope.participant}
    return {"tag": scope.tag.hex()} if scope.tag else {"first": scope.first, "last": scope.last}


def _scope(arguments: argparse.Namespace, location: "Location") -> Scope:
    if arguments.participant:
        return Scope(participant=arguments.participant)
    if arguments.chain:
        return Scope(tag=public_tag(arguments.chain))
    if arguments.subject:
        return Scope(tag=_find_tag(arguments, location))
    if arguments.tag:
        return Scope(tag=read_hex(arguments.tag, "tag", 32))
    first, _, last = arguments.range.partition(":")
    if not re.fullmatch("[0-9]{1,18}:[0-9]{1,18}", arguments.range) or int(first) > int(last):
        raise InvalidError(f"range is not FIRST:LAST: `{arguments.range}`")
    return Scope(first=int(first), last=int(last))


def _find_tag(arguments: argparse.Namespace, location: "Location") -> bytes:
    """Return a person's tag from the operator's vault."""
    scheme, value = read_identifier(arguments.subject)
    if arguments.config is not None:
        # Imported only here, because this module loads RocksDB, which an auditor's machine need not have.
        from consentd.audit.files import DataDirectory

        if isinstance(location, DataDirectory) and location.vault_dir is not None:
            return location.find_tag(scheme, value)
    raise InvalidError(
        "person is looked up in the operator's vault, which is not available: give --config of a stopped daemon with "
        "its vault and key-encryption key, or the person's tag with --tag"
    )


def report(arguments: argparse.Namespace, out: Out) -> int:
    """Write a page that counts accesses, refusals and silences."""
    from consentd.audit.access_summary import summarise
    from consentd.audit.page import render

    if out.as_json and str(arguments.file) == "-":
        raise InvalidError("page is no JSON: give a file for it, or leave out --json")
    location, origin, verifier = read_ledger_source(arguments)
    with out.progress("counting") as progress:
        found = summarise(
            location, origin=origin, log_verifier=verifier, index=arguments.index,
            gap_ms=max(1, round(arguments.gap * 60_000)), progress=progress,
        )  # fmt: skip
    page = render(found, made_s=int(time.time()))
    if str(arguments.file) == "-":
        out.lines(page)
        return DONE
    write_evidence(arguments.file, page.encode(), "page")
    permitted = found.kinds["ACCESS"]
    if found.closed:
        out.message(f"not counted: accesses and refusals whose statement is not available: {found.closed}")
    if found.uncompared:
        out.message(f"not counted: outcomes whose access is not available: {found.uncompared}")
    if found.strangers:
        out.message(f"outcomes by participants that had no part in the access: {found.strangers}")
    if found.pruned:
        out.message(f"not counted: entries that were pruned: {found.pruned}")
    out.answer(
        f"보고서 작성: `{arguments.file}`, 열람 {permitted}건, 거절 {found.kinds['REFUSAL']}건",
        f"written: `{arguments.file}`, {counted(permitted, 'accesses')}, {counted(found.kinds['REFUSAL'], 'refusals')}",
        type="report", file=str(arguments.file), size=found.checkpoint.size, entries=found.entries, accesses=permitted,
        refusals=dict(found.refusals), refused_consents=dict(found.refused_consents),
        break_glass=found.break_glass_count, gaps=found.gap_count, closed=found.closed,
        beyond_permit=found.beyond_permit, strangers=found.strangers,
    )  # fmt: skip
    return DONE
