"""``consentd export``: the ledger as files that any static host can serve."""

import argparse
from pathlib import Path

from consentd.cli.options import Verbs, add_verb
from consentd.cli.out import DONE, Out
from consentd.cli.sources import add_place, read_place

_MORE = """\
Writes the layout of C2SP tlog-tiles: checkpoint, tile/…, tile/entries/…. Only what is new is written; a full tile never
changes. Interrupted, it goes on where it was, and the directory is a whole ledger at its checkpoint all the while.
Entry bundles are an auditor's to see: serve them to auditors only. Openings (--statements-to) serve to nobody.

examples:
  consentd export /srv/log --url http://127.0.0.1:7401 --token-file auditor.token --log-key log.pub
  consentd export /srv/log --config ops/consentd.toml      the daemon stopped
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "export", export, "write the ledger as files (C2SP tlog-tiles)", more=_MORE)
    verb.add_argument("target_directory", type=Path, metavar="DIR", help="where to; what lies there is gone on from")
    verb.add_argument("--statements-to", type=Path, metavar="DIR", help="openings too, into another directory")
    verb.add_argument("--threads", type=int, default=4, metavar="N", help="fetch so many bundles at once (default 4)")
    add_place(verb, directory="")


def export(arguments: argparse.Namespace, out: Out) -> int:
    """Write the ledger."""
    from consentd.audit.export import export as run

    place, origin, verifier = read_place(arguments)
    directory = arguments.target_directory
    threads = max(1, arguments.threads) if arguments.url else 1
    with out.progress("exporting") as progress:
        done = run(
            place, directory, origin=origin, log_verifier=verifier, statements=arguments.statements_to,
            threads=threads, progress=progress,
        )  # fmt: skip
    size = done.checkpoint.size
    out.answer(
        out.in_words(
            f"내보냄: 항목 {size}개, 새 파일 {done.files}개 (`{directory}`)",
            f"exported: {size} entries, {done.files} files written, {done.removed} replaced, to `{directory}`",
        ),
        type="export", origin=origin, size=size, root=done.checkpoint.root.hex(), start=done.start, files=done.files,
        removed=done.removed,
    )  # fmt: skip
    return DONE
