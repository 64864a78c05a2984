"""``consentd export``, ``audit verify`` and ``audit replay``: copy, verify and replay a whole ledger."""

import argparse
import os
from pathlib import Path

from consentd.cli.options import Verbs, add_verb, read_bytes
from consentd.cli.out import DISPROVED, DONE, PROVEN, UNDETERMINED, VERDICTS, Out
from consentd.cli.sources import SOURCE_HELP, add_ledger_source, read_ledger_source, read_witnesses, report_cosignatures

_EXPORT_HELP = """\
Writes the layout of C2SP tlog-tiles: checkpoint, tile/…, tile/entries/…. Only new files are written, because a full
tile never changes. An interrupted export continues where it stopped. At any time the directory is a complete ledger at
its checkpoint. Serve entry bundles to auditors only. Serve openings (--statements-to) to nobody.

examples:
  consentd export /srv/log --url http://127.0.0.1:7401 --token-file auditor.token --log-key log.pub
  consentd export /srv/log --config ops/consentd.toml      the daemon is stopped
"""
_VERIFY_HELP = f"""\
Verifies every leaf, the tree, every chain, the map of every seal, and the clock. Where openings are available, it also
verifies what the leaves commit to, the signatures, and that each key was in force then. What cannot be verified is
counted and reported. With --policy the checkpoint must carry a quorum of cosignatures. They may be of any age, so that
an old export can be verified; the answer says how old they are. --max-age S refuses older ones; 300 is what a client of
a running ledger demands.

{SOURCE_HELP}
exit status: 0 proven, 1 a fault was found and is named, 2 something could not be determined.
"""
_REPLAY_HELP = f"""\
Makes every recorded decision again, from the consents in force at that entry of the ledger. It needs the openings of
persons: a stopped daemon's files, or an auditor with the right READ_STATEMENTS. It needs the server's parts. --policy
and --max-age are as for `audit verify`. An interrupted run continues from its --state, with the same number of
processes.

{SOURCE_HELP}
exit status: 0 every decision came out the same, 1 one did not and is named, 2 something could not be determined.
"""


def add_export_verb(verbs: Verbs) -> None:
    """Add ``export``."""
    verb = add_verb(verbs, "export", export, "write the ledger as files (C2SP tlog-tiles)", more=_EXPORT_HELP)
    verb.add_argument(
        "target_directory", type=Path, metavar="DIR", help="where to write; an earlier export there is continued"
    )
    verb.add_argument("--statements-to", type=Path, metavar="DIR", help="write openings too, into another directory")
    verb.add_argument("--threads", type=int, default=4, metavar="N", help="fetch N bundles at a time (default 4)")
    add_ledger_source(verb, directory="")


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs below ``audit``."""
    verb = add_verb(verbs, "verify", verify, "verify a whole ledger, or what is new in it", more=_VERIFY_HELP)
    add_ledger_source(verb, witnesses=True)
    verb.add_argument(
        "--since", type=Path, metavar="FILE",
        help="a checkpoint that was verified before; only later leaves are verified, and no roots of the map",
    )  # fmt: skip
    verb.add_argument(
        "--state", type=Path, metavar="FILE",
        help="store the progress here: an interrupted run continues, a later run verifies what is new, maps included",
    )  # fmt: skip
    verb.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes (default: cores)"
    )
    verb = add_verb(verbs, "replay", replay, "make every recorded decision again, and compare", more=_REPLAY_HELP)
    add_ledger_source(verb, witnesses=True)
    verb.add_argument("--state", type=Path, metavar="DIR", help="store the tables here, and continue from them")
    verb.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes, each for a part of the persons (default: cores)",
    )  # fmt: skip


def export(arguments: argparse.Namespace, out: Out) -> int:
    """Export a ledger."""
    from consentd.audit.export import export as run

    location, origin, verifier = read_ledger_source(arguments)
    directory = arguments.target_directory
    threads = max(1, arguments.threads) if arguments.url else 1
    with out.progress("exporting") as progress:
        done = run(
            location, directory, origin=origin, log_verifier=verifier, statements=arguments.statements_to,
            threads=threads, progress=progress,
        )  # fmt: skip
    size = done.checkpoint.size
    out.answer(
        out.by_language(
            f"내보냄: 항목 {size}개, 새 파일 {done.files}개 (`{directory}`)",
            f"exported: {size} entries, {done.files} files written, {done.removed} replaced, to `{directory}`",
        ),
        type="export", origin=origin, size=size, root=done.checkpoint.root.hex(), start=done.start, files=done.files,
        removed=done.removed,
    )  # fmt: skip
    return DONE


def verify(arguments: argparse.Namespace, out: Out) -> int:
    """Verify a ledger."""
    from consentd.audit.verify import verify_ledger

    location, origin, verifier = read_ledger_source(arguments)
    witnesses = read_witnesses(arguments)
    since = None if arguments.since is None else read_bytes(arguments.since, "trusted checkpoint")
    with out.progress("verifying") as progress:
        report = verify_ledger(
            location, origin=origin, log_verifier=verifier, witnesses=witnesses, since=since,
            state_path=arguments.state, jobs=max(1, arguments.jobs), progress=progress,
        )  # fmt: skip
    out.findings(report.faults, report.not_checked)
    if report.leaves_pruned or report.statements_pruned:
        out.message(
            f"pruned, as the ledger states and its retention policy allows: {report.leaves_pruned} leaves, "
            f"{report.statements_pruned} statements"
        )
    cosigned = report_cosignatures(arguments, out, report.cosignatures)
    status = DISPROVED if report.faults else UNDETERMINED if report.is_undetermined else PROVEN
    verdict, ko = VERDICTS[status]
    point = report.checkpoint
    out.answer(
        out.by_language(
            f"{ko}: 크기 {point.size}, 항목 {report.entries}개, 봉인 {report.seals}개, "
            f"서명 확인 {report.statements_opened}개, 결함 {len(report.faults)}개",
            f"{verdict}: size {point.size}, {report.entries} entries, {report.seals} seals, "
            f"{report.statements_opened} statements verified, {len(report.faults)} faults"
            + (" or more" if report.stopped else ""),
        ),
        type="verify", verdict=verdict, origin=point.origin, size=point.size, root=point.root.hex(),
        start=report.start, entries=report.entries, seals=report.seals, tags=report.tags,
        statements_verified=report.statements_opened, leaves_pruned=report.leaves_pruned,
        statements_pruned=report.statements_pruned, not_checked=report.not_checked, faults=len(report.faults),
        stopped=report.stopped, cosigned=cosigned,
    )  # fmt: skip
    return status


def replay(arguments: argparse.Namespace, out: Out) -> int:
    """Replay a ledger's decisions."""
    from consentd.audit.replay import replay_decisions

    location, origin, verifier = read_ledger_source(arguments)
    witnesses = read_witnesses(arguments)
    with out.progress("replaying") as progress:
        found = replay_decisions(
            location, origin=origin, log_verifier=verifier, witnesses=witnesses, state_dir=arguments.state,
            jobs=max(1, arguments.jobs), progress=progress,
        )  # fmt: skip
    out.findings(found.faults, found.not_checked)
    cosigned = report_cosignatures(arguments, out, found.cosignatures)
    status = DISPROVED if found.faults else UNDETERMINED if found.is_undetermined else PROVEN
    verdict, ko = VERDICTS[status]
    same = sum(found.same.values())
    out.answer(
        out.by_language(
            f"{ko}: 판단 {same}건이 그대로 나옴, 다르게 나온 것 {len(found.faults)}건",
            f"{verdict}: {same} decisions came out the same, {len(found.faults)} otherwise"
            + (" or more" if found.stopped else ""),
        ),
        type="replay", verdict=verdict, size=found.checkpoint.size, root=found.checkpoint.root.hex(), same=found.same,
        not_checked=found.not_checked, faults=len(found.faults), stopped=found.stopped, cosigned=cosigned,
    )  # fmt: skip
    return status
