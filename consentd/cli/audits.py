"""``consentd audit verify`` and ``replay``: a whole ledger, from its bytes."""

import argparse
import os
from pathlib import Path

from consentd.cli.options import Verbs, add_verb, read_bytes
from consentd.cli.out import DISPROVED, PROVEN, UNTOLD, Out
from consentd.cli.sources import MORE, add_place, read_witnessed, say_cosigned

_VERIFY_MORE = f"""\
Looks at every leaf, the tree, every chain, every seal's map and the clock; where openings are at hand, at what leaves
commit to, signatures, and the keys in force then. What cannot be looked at is counted, never passed over in silence.
With --policy the checkpoint must carry a quorum of cosignatures, of any age, which is told: an old export can be
verified. --max-age asks for fresh ones, as citizens' libraries do (300).

{MORE}
exit status: 0 proven, 1 a fault was found and is named, 2 something could not be told.
"""
_REPLAY_MORE = f"""\
Takes every recorded decision again, on the consents in force at its place in the ledger. Needs openings of persons:
a stopped daemon's files, or an auditor with the right READ_STATEMENTS. Needs the server's parts. --policy and --max-age
are as for `audit verify`. An interrupted run goes on from its --state, with as many processes as it began with.

{MORE}
exit status: 0 all came out the same, 1 one did not and is named, 2 something could not be told.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "verify", verify, "verify a whole ledger, or what is new in it", more=_VERIFY_MORE)
    add_place(verb, witnesses=True)
    verb.add_argument(
        "--since", type=Path, metavar="FILE",
        help="a checkpoint that was verified before; only what came after it is looked at, map roots excepted",
    )  # fmt: skip
    verb.add_argument(
        "--state", type=Path, metavar="FILE",
        help="keep what was verified here: an interrupted run goes on, a later one looks at what is new, maps included",
    )  # fmt: skip
    verb.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes (default: cores)"
    )
    verb = add_verb(verbs, "replay", replay, "take every recorded decision again", more=_REPLAY_MORE)
    add_place(verb, witnesses=True)
    verb.add_argument("--state", type=Path, metavar="DIR", help="keep the tables here, and go on from them")
    verb.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes, each with a share of the persons (default: cores)",
    )  # fmt: skip


def verify(arguments: argparse.Namespace, out: Out) -> int:
    """Verify a ledger."""
    from consentd.audit.verify import verify_ledger

    place, origin, verifier, seen = read_witnessed(arguments)
    since = None if arguments.since is None else read_bytes(arguments.since, "trusted checkpoint")
    with out.progress("verifying") as progress:
        report = verify_ledger(
            place, origin=origin, log_verifier=verifier, since=since, state_path=arguments.state,
            jobs=max(1, arguments.jobs), progress=progress,
        )  # fmt: skip
    for fault in report.faults:
        show_fault(out, fault.index, fault.what)
    for what, count in report.not_checked.items():
        out.talk(f"not checked: {what}: {count}")
    if report.leaves_pruned or report.statements_pruned:
        out.talk(
            f"pruned, as the ledger states and its retention policy allows: {report.leaves_pruned} leaves, "
            f"{report.statements_pruned} statements"
        )
    cosigned = say_cosigned(arguments, out, seen)
    status = DISPROVED if report.faults else UNTOLD if report.is_untold else PROVEN
    verdict, ko = VERDICTS[status]
    point = report.checkpoint
    out.answer(
        out.in_words(
            f"{ko}: 크기 {point.size}, 항목 {report.entries}개, 봉인 {report.seals}개, 서명 확인 {report.opened}개, "
            f"결함 {len(report.faults)}개",
            f"{verdict}: size {point.size}, {report.entries} entries, {report.seals} seals, {report.opened} statements "
            f"verified, {len(report.faults)} faults" + (" or more" if report.stopped else ""),
        ),
        type="verify", verdict=verdict, origin=point.origin, size=point.size, root=point.root.hex(),
        start=report.start, entries=report.entries, seals=report.seals, tags=report.tags,
        statements_verified=report.opened, leaves_pruned=report.leaves_pruned,
        statements_pruned=report.statements_pruned, not_checked=report.not_checked, faults=len(report.faults),
        stopped=report.stopped, cosigned=cosigned,
    )  # fmt: skip
    return status


def replay(arguments: argparse.Namespace, out: Out) -> int:
    """Take every decision again."""
    from consentd.audit.replay import replay_decisions

    place, origin, verifier, seen = read_witnessed(arguments)
    with out.progress("replaying") as progress:
        found = replay_decisions(
            place, origin=origin, log_verifier=verifier, state_dir=arguments.state, jobs=max(1, arguments.jobs),
            progress=progress,
        )  # fmt: skip
    for fault in found.faults:
        show_fault(out, fault.index, fault.what)
    for what, count in found.not_checked.items():
        out.talk(f"not checked: {what}: {count}")
    cosigned = say_cosigned(arguments, out, seen)
    status = DISPROVED if found.faults else UNTOLD if found.is_untold else PROVEN
    verdict, ko = VERDICTS[status]
    same = sum(found.same.values())
    out.answer(
        out.in_words(
            f"{ko}: 판단 {same}건이 그대로 나옴, 다르게 나온 것 {len(found.faults)}건",
            f"{verdict}: {same} decisions came out the same, {len(found.faults)} otherwise"
            + (" or more" if found.stopped else ""),
        ),
        type="replay", verdict=verdict, size=found.checkpoint.size, root=found.checkpoint.root.hex(), same=found.same,
        not_checked=found.not_checked, faults=len(found.faults), stopped=found.stopped, cosigned=cosigned,
    )  # fmt: skip
    return status


VERDICTS = {
    PROVEN: ("proven", "증명됨"),
    DISPROVED: ("disproved", "반증됨"),
    UNTOLD: ("could not tell all", "판단 불가"),
}
"""By exit status the verdict, in English and Korean."""


def show_fault(out: Out, index: int | None, what: str) -> None:
    """Say one fault."""
    place = "" if index is None else out.in_words(f"{index}번 항목: ", f"entry {index}: ")
    out.answer(f"{place}{what}", type="fault", index=index, what=what)
