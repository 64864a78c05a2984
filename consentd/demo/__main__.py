"""Show what consentd is: ``make demo``.

A real daemon on loopback, with RocksDB and LMDB in a fresh directory and real gRPC between them and the callers. A
made-up town plays a day on it (town.py, traffic.py), then one citizen's story is told (story.py): consent, transfer,
narrowing, refusal, withdrawal, the verified list of who looked, and what happens to a ledger that is tampered with.

``KEEP=1`` leaves the daemon running until Ctrl-C; ``CONSENTD_DEMO_DIR`` says where it lives, ``.demo`` by default.
"""

import argparse
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consentd.config import Config, load
from consentd.core import note
from consentd.core.checkpoint import Checkpoint
from consentd.demo.story import CITIZEN, HIRA, HOSPITAL, Story, Voice
from consentd.demo.tampering import tamper, verify
from consentd.demo.town import RELAY, make_town
from consentd.demo.traffic import Steps, Tally, Traffic
from consentd.errors import ConsentdError, InvalidError
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys, make_token, read_keys, write_private
from consentd.service.auth import format_credential
from consentd.verify.fsck import Fault, Report
from consentd_client import Client, History, pin

SEED = 20251124
CITIZENS = 1_000
TRANSFERS = 20_000
TAMPERED = "tampered"
"""Where the copy lies that is tampered with."""
MARKER = "consentd-demo"
"""A file of this name says that a directory is a demo's, and may be removed by the next one."""

_CONFIG = """\
# Configuration of the demo's daemon. What each option means stands in ops/consentd.toml.
[ledger]
origin = "demo.consentd.example/town"
data_dir = "data"
map_bits = 8
block_cache_mb = 64
[keys]
log_key_file = "keys/log.key"
statement_key_file = "keys/statement.key"
vault_key_file = "keys/vault.key"
[callers]
credentials_file = "keys/credentials"
[table]
map_size_mb = 1024
[grpc]
listen = "127.0.0.1:{grpc}"
[http]
listen = "127.0.0.1:{http}"
[log]
level = "warning"
"""


_OUTCOME_TITLES = {
    "PERMIT": ("허용", "permitted"),
    "NO_CONSENT": ("거절: 동의 없음", "refused, no consent"),
    "DENY": ("거부: 처리정지 요구", "denied, the citizen objects"),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a demo showed.

    Attributes:
        told: the story's verified history.
        checkpoint: the last one, verified.
        report: of the whole ledger, untouched.
        changed: index of the leaf that was tampered with.
        faults: what was found wrong with the tampered copy.
    """

    tally: Tally
    told: History
    checkpoint: Checkpoint
    report: Report
    changed: int
    faults: tuple[Fault, ...]

    @property
    def is_as_expected(self) -> bool:
        """Whether every decision came out as the town expects, the ledger is sound, and tampering is found."""
        is_found = any(fault.index == self.changed for fault in self.faults)
        return is_found and not self.tally.surprises and not self.report.faults


@dataclass(frozen=True, slots=True)
class Home:
    """Where a demo lives: its directory, configuration and tokens (``operator`` and the relay's)."""

    directory: Path
    config: Config
    tokens: dict[str, str]

    @property
    def config_file(self) -> Path:
        """Return the path of the configuration."""
        return self.directory / "consentd.toml"

    def token_file(self, who: str) -> Path:
        """Return the path of a caller's token."""
        return self.directory / f"{who}.token"

    @property
    def vkey_file(self) -> Path:
        """Return the path of the log's verifier key."""
        return self.directory / "log.vkey"


def make_home(directory: Path) -> Home:
    """Make a fresh home; a demo's old one is removed, anything else is left alone.

    Raises:
        InvalidError: something that is not a demo's lies there.
        StorageError: a file cannot be written.
    """
    if directory.exists():
        if any(directory.iterdir()) and not (directory / MARKER).exists():
            raise InvalidError(f"directory holds something that is not a demo: `{directory}`")
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARKER).write_text("Made by `make demo`; the next one removes it.\n", encoding="utf-8")
    config_file = directory / "consentd.toml"
    config_file.write_text(_CONFIG.format(grpc=_free_port(), http=_free_port()), encoding="utf-8")
    config = load(config_file)
    tokens = {"operator": make_keys(config), RELAY[0]: make_token()}
    write_private(config.callers.credentials_file, format_credential(tokens[RELAY[0]], RELAY[0]), append=True)
    home = Home(directory, config, tokens)
    for who, token in tokens.items():
        write_private(home.token_file(who), token + "\n")
    home.vkey_file.write_text(note.format_vkey(read_keys(config).log.verifier) + "\n", encoding="utf-8")
    return home


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(home: Home, console: Console, *, seed: int, citizens: int, transfers: int, voice: Voice) -> Shown:
    """Play the town on a daemon, tell the story, tamper with a copy; the daemon is stopped in the end.

    Raises:
        ConsentdError: something failed, or does not verify.
    """
    say = voice.say
    town, steps = make_town(seed=seed, citizens=citizens, transfers=transfers), Steps(console)
    daemon = Daemon(home.config)
    daemon.start()
    try:
        console.rule(say("마을의 하루", "a day in a made-up town"))
        traffic = Traffic(home.config.grpc.listen, home.tokens, town, steps)
        traffic.register()
        traffic.enrol()
        traffic.grant()
        tally = traffic.transfer()
        traffic.close()
        console.rule(say("한 시민의 이야기", "one citizen's story"))
        trust = pin(home.vkey_file.read_text(encoding="utf-8"))
        with Client(home.config.grpc.listen, token=home.tokens[RELAY[0]], trust=trust) as client:
            told = Story(
                client, town.institutions, origin=home.config.ledger.origin, console=console, voice=voice
            ).tell()
            point = client.get_checkpoint()
    finally:
        daemon.stop()
    console.rule(say("검증과 변조", "verification, and tampering"))
    report = verify(home.config, steps, voice)
    index, faults = tamper(home.config, home.directory / TAMPERED, told, console, voice)
    return Shown(tally, told, point, report, index, faults)


def summarise(shown: Shown, home: Home, console: Console, voice: Voice) -> None:
    """Print what was decided, how fast, and how large the ledger is."""
    say, tally = voice.say, shown.tally
    total = tally.outcomes.total()
    table = Table(title=say("요약", "summary"), title_justify="left", show_header=False)
    for outcome, title in _OUTCOME_TITLES.items():
        count = tally.outcomes[outcome]
        table.add_row(say(*title), f"{count:,}", f"{count / total:.1%}")
    table.add_row(say("기대와 다른 결정", "decisions other than expected"), f"{tally.surprises:,}", "")
    table.add_row(say("기록된 전송 결과", "outcomes recorded"), f"{tally.recorded:,}", "")
    rate = (total + tally.recorded) / tally.seconds
    synced = say("디스크 동기화, 서명", "synced, signed")
    table.add_row(say("초당 기록", "entries recorded a second"), f"{rate:,.0f}", synced)
    unary = sorted(tally.unary_s)
    if unary:
        text = f"{unary[len(unary) // 2] * 1e3:.1f} ms"
        table.add_row(say("단건 승인 (중앙값)", "one access alone, median"), text, f"{len(unary):,}")
    point = shown.checkpoint
    sealed = f"{say('봉인 포함', 'seals included')}; root {point.root.hex()[:16]}…"
    table.add_row(say("원장 항목", "entries in the ledger"), f"{point.size:,}", sealed)
    report = shown.report
    opened = say(f"진술 {report.statements_opened:,}건 대조", f"{report.statements_opened:,} statements compared")
    table.add_row(say("전체 검증에서 찾은 결함", "faults found verifying it all"), f"{len(report.faults)}", opened)
    console.print(table)


def main() -> int:
    """Run the demo; returns 0 where all came out as it must."""
    options = parse_options(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 120)
    voice = Voice(options.lang)
    started = time.perf_counter()
    try:
        home = make_home(options.dir)
        shown = run(
            home, console, seed=options.seed, citizens=options.citizens, transfers=options.transfers, voice=voice
        )
        summarise(shown, home, console, voice)
        tell_next(home, console, voice)
        console.print(f"  {time.perf_counter() - started:.0f} s", highlight=False)
        if os.environ.get("KEEP"):
            keep(home, console, voice)
    except ConsentdError as error:
        console.print(f"demo: {escape(str(error))}", style="red", highlight=False)
        return 1
    return 0 if shown.is_as_expected else 1


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m consentd.server.demo", description="Show what consentd is.")
    parser.add_argument("--lang", choices=("both", "ko", "en"), default="both", help="labels; both by default")
    parser.add_argument("--citizens", type=int, default=CITIZENS, help=f"{CITIZENS:,} by default")
    parser.add_argument("--transfers", type=int, default=TRANSFERS, help=f"{TRANSFERS:,} by default")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed makes another town")
    where = Path(os.environ.get("CONSENTD_DEMO_DIR") or ".demo").absolute()
    parser.add_argument("--dir", type=Path, default=where, help="where it lives; $CONSENTD_DEMO_DIR, else .demo")
    return parser.parse_args(arguments)


def commands(home: Home) -> dict[tuple[str, str], str]:
    """Return what to try next, by what it shows (in Korean and English)."""
    script = Path(sys.executable).with_name("consentd")
    consentd = _shown(script) if script.exists() else f"{_shown(Path(sys.executable))} -m consentd.cli"
    env = " ".join(
        (
            f"CONSENTD_TARGET={home.config.grpc.listen}",
            f"CONSENTD_TOKEN_FILE={_shown(home.token_file(RELAY[0]))}",
            f"CONSENTD_LOG_KEY={_shown(home.vkey_file)}",
        )
    )
    citizen = f"{CITIZEN.scheme}:{CITIZEN.value}"
    question = f"--actor {HOSPITAL} --holder {HIRA} --purpose TREAT --category INS.RX"
    return {
        ("데몬 실행", "run the daemon on this ledger"): f"{consentd} serve --config {_shown(home.config_file)}",
        ("환경", "who you are, and what you trust"): f"export {env}",
        ("이력과 증명", "the citizen's whole history, proven"): f"{consentd} history {citizen}",
        ("지금 제공해도 되는가", "may it be given now?"): f"{consentd} check {citizen} {question}",
        ("변조된 사본 검증", "verify the copy that was tampered with"): (
            f"{consentd} fsck --quick --log-key {_shown(home.vkey_file)} {_shown(home.directory / TAMPERED)}"
        ),
    }


def _shown(path: Path) -> str:
    """Return a path as one would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def tell_next(home: Home, console: Console, voice: Voice) -> None:
    """Say where all of it lies, and what to try with it."""
    lies = voice.say("원장은 여기에", "the ledger lies in")
    console.print(f"{lies}: {_shown(home.config.ledger.data_dir)}", highlight=False, soft_wrap=True)
    console.print(voice.say("다음에 해 볼 것", "what to try next") + ":", style="bold", highlight=False)
    for title, command in commands(home).items():
        console.print(f"  [dim]# {voice.say(*title)}[/dim]\n  {command}", highlight=False, soft_wrap=True)


def keep(home: Home, console: Console, voice: Voice) -> None:
    """Serve the demo's ledger until Ctrl-C."""
    daemon = Daemon(home.config)
    daemon.start()
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    text = voice.say("실행 중, Ctrl-C로 종료", "serving until Ctrl-C")
    console.print(f"{text}: {home.config.grpc.listen}, {home.token_file('operator')}", highlight=False, soft_wrap=True)
    done.wait()
    daemon.stop()


if __name__ == "__main__":
    sys.exit(main())
