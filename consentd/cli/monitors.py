"""``consentd audit monitor``: follow a ledger's checkpoints, and say when they contradict each other."""

import argparse
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_pins, add_verb, read_pins, read_policy
from consentd.cli.out import DISPROVED, PROVEN, UNTOLD, Out
from consentd.cli.sources import add_caller, read_live, read_number, read_seconds
from consentd.core.quorum import MAX_AGE_S
from consentd.errors import StorageError

if TYPE_CHECKING:
    from consentd.audit.monitor import Monitor, Seen
    from consentd.audit.sources import Source

_MORE = """\
Reads the published checkpoint again and again, keeps each in DIR, and proves from public tiles that every one begins
with the one before. Alarms: fork, rollback, stale, and with --policy unwitnessed: each checkpoint must then carry a
quorum of cosignatures, made within --max-age. An alarm ends it; the files it names are the evidence, signed by the log.
Several monitors in several places see a log that shows different trees to different people.

exit status (with --once, or at an alarm): 0 consistent, 1 an alarm, 2 it could not be read.

example:
  consentd audit monitor watch --url http://127.0.0.1:7401 --log-key log.pub --once     from cron
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(verbs, "monitor", monitor, "follow a ledger's checkpoints", more=_MORE)
    verb.add_argument("directory", type=Path, metavar="DIR", help="keeps the checkpoints")
    verb.add_argument("--url", required=True, metavar="URL", help="of the daemon's HTTP, or of a host of its export")
    verb.add_argument("--once", action="store_true", help="look once")
    verb.add_argument(
        "--every", type=read_number, default=10.0, metavar="S", help="seconds between two looks (default 10)"
    )
    verb.add_argument(
        "--max-silence", type=read_seconds, default=3600, metavar="S",
        help="alarm where nothing new was published for so long, cosignatures included (default 3600)",
    )  # fmt: skip
    verb.add_argument(
        "--max-age", type=read_seconds, default=MAX_AGE_S, metavar="S",
        help=f"--policy: age of the oldest cosignatures that count (default {MAX_AGE_S})",
    )  # fmt: skip
    add_caller(verb)
    add_pins(verb)


def monitor(arguments: argparse.Namespace, out: Out) -> int:
    """Follow checkpoints."""
    from consentd.audit.monitor import ALARMS, Monitor

    origin, verifier = read_pins(arguments)
    held = Monitor(
        arguments.directory, origin=origin, log_verifier=verifier, max_silence_s=arguments.max_silence,
        policy=read_policy(arguments), max_age_s=arguments.max_age,
    )  # fmt: skip
    place = read_live(arguments)
    while True:
        status = _look(held, place.open(), out)
        if status is not None and (arguments.once or status in ALARMS):
            return DISPROVED if status in ALARMS else PROVEN
        if status is None and arguments.once:
            return UNTOLD
        time.sleep(max(0.1, arguments.every))


def _look(held: "Monitor", source: "Source", out: Out) -> str | None:
    """Look once, say what was seen, and return it; None where it could not be read."""
    try:
        seen = held.look(source, int(time.time()))
    except StorageError as error:
        out.fault(error)
        silent = held.look_past(int(time.time()))
        if silent is None:
            return None
        seen = silent
    finally:
        source.close()
    _say(seen, out)
    return seen.what


def _say(seen: "Seen", out: Out) -> None:
    from consentd.audit.monitor import ALARMS

    is_alarm = seen.what in ALARMS
    point, before = seen.checkpoint, seen.before
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    was = "" if before is None else f", before {before.size}"
    out.answer(
        f"{now} {'ALARM ' if is_alarm else ''}{seen.what}: size {point.size}{was}"
        + "".join(f"\n  evidence: {path}" for path in seen.evidence),
        type="alarm" if is_alarm else "checkpoint", what=seen.what, time=now, origin=point.origin, size=point.size,
        root=point.root.hex(), before_size=None if before is None else before.size,
        before_root=None if before is None else before.root.hex(), evidence=[str(path) for path in seen.evidence],
        cosigned=[{"witness": name, "time_s": time_s} for name, time_s in seen.cosigned],
    )  # fmt: skip
    # Whoever reads a pipe must see it now, and a kill must not lose what was seen.
    out.flush()
