"""``consentd audit monitor``: follow a ledger's checkpoints, and raise an alarm if they contradict each other."""

import argparse
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_grpc, add_pins, add_verb, read_pins, read_policy
from consentd.cli.out import DISPROVED, PROVEN, UNDETERMINED, Out
from consentd.cli.sources import OPENINGS_TARGET, read_daemon_source, read_number, read_seconds
from consentd.core.quorum import MAX_AGE_S
from consentd.errors import StorageError

if TYPE_CHECKING:
    from consentd.audit.monitor import Monitor, Observation
    from consentd.audit.sources import Source

_HELP = """\
Reads the published checkpoint repeatedly, stores each in DIR, and proves from public tiles that each checkpoint extends
the one before. Alarms are fork, rollback, stale, and, with --policy, unwitnessed: then each checkpoint must carry a
quorum of cosignatures made within --max-age. The first alarm ends the monitor. It names the files that are the
evidence, signed by the log. Monitors in several networks detect a log that shows different trees to different readers.

exit status (with --once, or at an alarm): 0 consistent, 1 an alarm, 2 it could not be read.

example:
  consentd audit monitor watch --url http://127.0.0.1:7401 --log-key log.pub --once     from cron
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "monitor", monitor, "follow a ledger's checkpoints", more=_HELP)
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
    add_pins(verb)


def monitor(arguments: argparse.Namespace, out: Out) -> int:
    """Read a ledger's checkpoint repeatedly, or once (--once), until there is an alarm."""
    from consentd.audit.monitor import ALARMS, Monitor

    origin, verifier = read_pins(arguments)
    watcher = Monitor(
        arguments.directory, origin=origin, log_verifier=verifier, max_silence_s=arguments.max_silence,
        policy=read_policy(arguments), max_age_s=arguments.max_age,
    )  # fmt: skip
    location = read_daemon_source(arguments)
    while True:
        status = _read_once(watcher, location.open(), out)
        if status is not None and (arguments.once or status in ALARMS):
            return DISPROVED if status in ALARMS else PROVEN
        if status is None and arguments.once:
            return UNDETERMINED
        time.sleep(max(0.1, arguments.every))


def _read_once(watcher: "Monitor", source: "Source", out: Out) -> str | None:
    """Read the checkpoint once, answer what was observed, and return the status; None: it could not be read."""
    try:
        observed = watcher.observe(source, int(time.time()))
    except StorageError as error:
        out.fault(error)
        silent = watcher.observe_silence(int(time.time()))
        if silent is None:
            return None
        observed = silent
    finally:
        source.close()
    _answer(observed, out)
    return observed.status


def _answer(observed: "Observation", out: Out) -> None:
    from consentd.audit.monitor import ALARMS

    is_alarm = observed.status in ALARMS
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
    # A reader of a pipe must see it now, and it must not be lost if this process is killed.
    out.flush()
