"""``consentd audit report``: what a ledger's accesses add up to, as one page."""

import argparse
import time
from pathlib import Path

from consentd.cli.options import Verbs, add_verb
from consentd.cli.out import DONE, Out
from consentd.cli.sources import SOURCE_HELP_FROM, add_ledger_source, read_ledger_source, read_number
from consentd.errors import InvalidError

_MORE = f"""\
One HTML file, in Korean and English, with nothing to load and no script; it prints. Accesses show as far as their
openings are at hand. It holds no identifier of a person, but justifications as they were written.

{SOURCE_HELP_FROM}
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "report", report, "write what was accessed, refused and silent as a page", more=_MORE)
    verb.add_argument("file", type=Path, metavar="FILE", help="the page to write; `-` is stdout")
    verb.add_argument("--index", type=int, metavar="N", help="draw this entry's Merkle path (default: the last)")
    verb.add_argument(
        "--gap", type=read_number, default=60.0, metavar="MIN", help="a silence worth telling (default 60)"
    )
    add_ledger_source(verb, directory="--from")


def report(arguments: argparse.Namespace, out: Out) -> int:
    """Write the page."""
    from consentd.audit.page import render
    from consentd.audit.report import summarise
    from consentd.audit.sources import write_file

    if out.as_json and str(arguments.file) == "-":
        raise InvalidError("page is no JSON: give a file for it, or leave out --json")
    place, origin, verifier = read_ledger_source(arguments)
    with out.progress("adding up") as progress:
        found = summarise(
            place, origin=origin, log_verifier=verifier, index=arguments.index,
            gap_ms=max(1, round(arguments.gap * 60_000)), progress=progress,
        )  # fmt: skip
    page = render(found, made_s=int(time.time()))
    if str(arguments.file) == "-":
        out.lines(page)
        return DONE
    write_file(arguments.file, page.encode(), is_private=True, what="page")
    permitted = found.kinds["ACCESS"]
    if found.closed:
        out.message(f"not checked: accesses and refusals whose statement is not at hand: {found.closed}")
    if found.pruned:
        out.message(f"pruned, and in no figure: {found.pruned} entries")
    out.answer(
        out.by_language(
            f"보고서 작성: `{arguments.file}`, 열람 {permitted}건, 거절 {found.kinds['REFUSAL']}건",
            f"written: `{arguments.file}`, {permitted} accesses, {found.kinds['REFUSAL']} refusals",
        ),
        type="report", file=str(arguments.file), size=found.checkpoint.size, entries=found.entries, accesses=permitted,
        refusals=dict(found.refusals), break_glass=found.urgent_count, gaps=found.gap_count, closed=found.closed,
    )  # fmt: skip
    return DONE
