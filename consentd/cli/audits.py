"""``consentd export``, ``audit verify``, ``replay`` and ``monitor``: copy, verify, replay and follow a whole ledger."""

import argparse
import os
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.daemon_options import add_grpc, add_pins
from consentd.cli.options import Verbs, add_verb, read_bytes, read_pins, read_policy, report_log_keys
from consentd.cli.out import DISPROVED, DONE, PROVEN, UNDETERMINED, VERDICTS, Out, counted
from consentd.cli.sources import (
    OPENINGS_TARGET,
    SOURCE_HELP,
    add_ledger_source,
    read_daemon_source,
    read_ledger_source,
    read_number,
    read_seconds,
    read_witnesses,
    report_cosignatures,
)
from consentd.core.quorum import MAX_AGE_S
from consentd.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consentd.audit.monitor import Monitor, Observation
    from consentd.audit.sources import Source

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
persons: a stopped daemon's files, or an auditor with the right READ_STATEMENTS and a mandate in force (`participants
mandate`). It needs the server's parts. --policy and --max-age are as for `audit verify`. An interrupted run continues
from its --state, with the same number of processes. It also names outcomes of transfers that state categories which
their access did not permit. The ledger is right to record these, so they do not change the exit status.

{SOURCE_HELP}
exit status: 0 every decision came out the same, 1 one did not and is named, 2 something could not be determined.
"""


_MONITOR_HELP = """\
Reads the published checkpoint repeatedly, stores each in DIR, and proves from public tiles that each checkpoint extends
the one before. Alarms are fork, rollback, stale, and, with --policy, unwitnessed: then each checkpoint must carry a
quorum of cosignatures made within --max-age. The first alarm ends the monitor. It names the files that are the
evidence, signed by the log. The monitor also ends if it could read nothing for --max-silence seconds: that is no alarm
about the log, because the network may be at fault. Monitors in several networks detect a log that shows different trees
to different readers.

exit status (with --once, or at an alarm): 0 consistent, 1 an alarm, 2 it could not be read.

example:
  consentd audit monitor watch --url http://127.0.0.1:7401 --log-key log.pub --once     from cron
"""


def add_export_verb(verbs: Verbs) -> None:
    """Add the verb ``export``."""
    verb = add_verb(verbs, "export", export, more=_EXPORT_HELP)
    verb.add_argument(
        "target_directory", type=Path, metavar="DIR", help="where to write; an earlier export there is continued"
    )
    verb.add_argument("--statements-to", type=Path, metavar="DIR", help="write openings too, into another directory")
    verb.add_argument("--threads", type=int, default=4, metavar="N", help="fetch N bundles at a time (default 4)")
    add_ledger_source(verb, directory="")


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs that are written after ``consentd audit``."""
    verb = add_verb(verbs, "verify", verify, _add_whole_ledger, more=_VERIFY_HELP)
    verb.add_argument(
        "--since", type=Path, metavar="FILE",
        help="a checkpoint that was verified before; only later leaves are verified, and no roots of the map",
    )  # fmt: skip
    verb.add_argument(
        "--state", type=Path, metavar="FILE",
        help="store the progress here: an interrupted run continues, a later run verifies what is new, maps included",
    )  # fmt: skip
    verb = add_verb(verbs, "replay", replay, _add_whole_ledger, more=_REPLAY_HELP)
    verb.add_argument("--state", type=Path, metavar="DIR", help="store the tables here, and continue from them")
    verb = add_verb(verbs, "monitor", monitor, add_pins, more=_MONITOR_HELP)
    verb.add_argument("directory", type=Path, metavar="DIR", help="where checkpoints are stored")
    verb.add_argument("--url", required=True, metavar="URL", help="HTTP of the daemon or of a host of its export")
    verb.add_argument("--once", action="store_true", help="read the checkpoint once")
    verb.add_argument(
        "--every", type=read_number, default=10.0, metavar="S", help="seconds between two reads (default 10)"
    )
    verb.add_argument(
        "--max-silence", type=read_seconds, default=3600, metavar="S",
        help="alarm if nothing new was published for S seconds, cosignatures included (default 3600)",
    )  # fmt: skip
    verb.add_argument(
        "--max-age", type=read_seconds, default=MAX_AGE_S, metavar="S",
        help=f"with --policy: oldest age of a cosignature that counts, in seconds (default {MAX_AGE_S})",
    )  # fmt: skip
    add_grpc(verb, target="", help=OPENINGS_TARGET)


def _add_whole_ledger(verb: argparse.ArgumentParser) -> None:
    add_ledger_source(verb, witnesses=True)
    cores = len(os.sched_getaffinity(0))
    verb.add_argument("--jobs", type=int, default=cores, metavar="N", help="processes (default: cores)")


def export(arguments: argparse.Namespace, out: Out) -> int:
    """Write the ledger as files (C2SP tlog-tiles)."""
    from consentd.audit.export import export as run

    location, origin, verifier = read_ledger_source(arguments)
    directory = arguments.target_directory
    threads = max(1, arguments.threads) if arguments.url else 1
    with out.progress("exporting") as progress:
        done = run(
            location, directory, origin=origin, log_verifier=verifier, statements=arguments.statements_to,
            threads=threads, progress=progress,
        )  # fmt: skip
    report_log_keys(out, done.log_keys)
    size = done.checkpoint.size
    out.answer(
        f"내보냄: 항목 {size}개, 새 파일 {done.files}개 (`{directory}`)",
        f"exported: {counted(size, 'entries')}, {counted(done.files, 'files')} written, {done.removed} "
        f"replaced, to `{directory}`",
        type="export", origin=origin, size=size, root=done.checkpoint.root.hex(), start=done.start, files=done.files,
        removed=done.removed,
    )  # fmt: skip
    return DONE


def verify(arguments: argparse.Namespace, out: Out) -> int:
    """Verify a whole ledger, or what is new in it."""
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
    if report.statements_erased:
        erased = counted(report.statements_erased, "statements")
        out.message(f"erased, with an ERASURE at the end of their chains: {erased}")
    if report.leaves_pruned or report.statements_pruned:
        out.message(
            f"pruned, as the ledger states and its retention policy allows: {counted(report.leaves_pruned, 'leaves')}, "
            f"{counted(report.statements_pruned, 'statements')}"
        )
    cosigned = report_cosignatures(arguments, out, report.cosignatures)
    log_keys = report_log_keys(out, report.followed or report.log_keys, is_followed=bool(report.followed))
    statement_keys = _report_statement_keys(out, report.statement_keys)
    status = DISPROVED if report.faults else UNDETERMINED if report.is_undetermined else PROVEN
    verdict, ko = VERDICTS[status]
    point = report.checkpoint
    out.answer(
        f"{ko}: 크기 {point.size}, 항목 {report.entries}개, 봉인 {report.seals}개, "
        f"서명 확인 {report.statements_opened}개, 결함 {len(report.faults)}개",
        f"{verdict}: size {point.size}, {counted(report.entries, 'entries')}, {counted(report.seals, 'seals')}, "
        f"{counted(report.statements_opened, 'statements')} verified, {counted(len(report.faults), 'faults')}"
        + (" or more" if report.stopped else ""),
        type="verify", verdict=verdict, origin=point.origin, size=point.size, root=point.root.hex(),
        start=report.start, entries=report.entries, seals=report.seals, tags=report.tags,
        statements_verified=report.statements_opened, statements_erased=report.statements_erased,
        leaves_pruned=report.leaves_pruned,
        statements_pruned=report.statements_pruned, not_checked=report.not_checked, faults=len(report.faults),
        stopped=report.stopped, cosigned=cosigned, log_keys=log_keys, statement_keys=statement_keys,
    )  # fmt: skip
    return status


def _report_statement_keys(out: Out, keys: "Sequence[tuple[bytes, int]]") -> list[dict[str, object]]:
    """Write to stderr how statement keys were replaced, if one was; return the keys for ``--json``."""
    for (before, _), (key, first) in pairwise(keys):
        out.message(
            f"진술 키 교체: {before.hex()}에서 {key.hex()}(으)로, {first}번 항목부터",
            f"statement key {before.hex()} was replaced by {key.hex()}, from entry {first} on",
        )
    return [{"key": key.hex(), "from_index": first} for key, first in keys]


def replay(arguments: argparse.Namespace, out: Out) -> int:
    """Make every recorded decision again, and compare."""
    from consentd.audit.replay import replay_decisions

    location, origin, verifier = read_ledger_source(arguments)
    witnesses = read_witnesses(arguments)
    with out.progress("replaying") as progress:
        found = replay_decisions(
            location, origin=origin, log_verifier=verifier, witnesses=witnesses, state_dir=arguments.state,
            jobs=max(1, arguments.jobs), progress=progress,
        )  # fmt: skip
    out.findings(found.faults, found.not_checked)
    for index in found.beyond:
        out.answer(
            f"{index}번 항목: 전송 결과에 허용되지 않은 정보 항목이 있음",
            f"entry {index}: outcome names categories that its access did not permit",
            type="beyond_permit", index=index,
        )  # fmt: skip
    report_log_keys(out, found.log_keys)
    cosigned = report_cosignatures(arguments, out, found.cosignatures)
    status = DISPROVED if found.faults else UNDETERMINED if found.is_undetermined else PROVEN
    verdict, ko = VERDICTS[status]
    same = sum(found.same.values())
    out.answer(
        f"{ko}: 판단 {same}건이 그대로 나옴, 다르게 나온 것 {len(found.faults)}건",
        f"{verdict}: {counted(same, 'decisions')} came out the same, {len(found.faults)} otherwise"
        + (" or more" if found.stopped else ""),
        type="replay", verdict=verdict, size=found.checkpoint.size, root=found.checkpoint.root.hex(), same=found.same,
        not_checked=found.not_checked, faults=len(found.faults), stopped=found.stopped, cosigned=cosigned,
        beyond_permit=found.beyond_count,
    )  # fmt: skip
    return status


def monitor(arguments: argparse.Namespace, out: Out) -> int:
    """Follow a ledger's checkpoints."""
    from consentd.audit.monitor import ALARMS, UNREADABLE, Monitor

    origin, verifier = read_pins(arguments)
    watcher = Monitor(
        arguments.directory, origin=origin, log_verifier=verifier, max_silence_s=arguments.max_silence,
        policy=read_policy(arguments), max_age_s=arguments.max_age,
    )  # fmt: skip
    location = read_daemon_source(arguments)
    while True:
        observed = _read_once(watcher, location.open(), out)
        if observed is not None:
            _answer(observed, out, is_alarm=observed.status in ALARMS)
            if observed.status in ALARMS:
                return DISPROVED
        if arguments.once or (observed is not None and observed.status == UNREADABLE):
            return UNDETERMINED if observed is None or observed.status == UNREADABLE else PROVEN
        time.sleep(max(0.1, arguments.every))


def _read_once(watcher: "Monitor", source: "Source", out: Out) -> "Observation | None":
    """Read the checkpoint once. If it cannot be read: return UNREADABLE if it was read too long ago, else None."""
    before = watcher.log_keys
    try:
        observed = watcher.observe(source, int(time.time()))
        if watcher.log_keys != before:
            report_log_keys(out, watcher.log_keys)
        return observed
    except StorageError as error:
        out.fault(error)
        return watcher.observe_silence(int(time.time()))
    finally:
        source.close()


def _answer(observed: "Observation", out: Out, *, is_alarm: bool) -> None:
    point, before = observed.checkpoint, observed.before
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    was = "" if before is None else f", before {before.size}"
    out.answer(
        f"{now} {'ALARM ' if is_alarm else ''}{observed.status}: size {point.size}{was}"
        + "".join(f"\n  evidence: {path}" for path in observed.evidence),
        type="alarm" if is_alarm else "checkpoint", what=observed.status, time=now, origin=point.origin,
        size=point.size, root=point.root.hex(), before_size=None if before is None else before.size,
        before_root=None if before is None else before.root.hex(), evidence=[str(path) for path in observed.evidence],
        cosigned=[{"witness": name, "time_s": time_s} for name, time_s in observed.cosignatures],
    )  # fmt: skip
    # A reader of a pipe must see the answer now, and the answer must not be lost if this process is killed.
    out.flush()
