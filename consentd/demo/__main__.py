"""Show what consentd does: ``make demo``.

A real daemon runs on loopback, with RocksDB and LMDB in a fresh directory, and all calls are real gRPC calls. First,
the demo plays the day of a made-up town (town.py, traffic.py), then the story of one citizen (story.py), that of a
child and a mother (family.py), and a notice that changes (asked_again.py). At the end the demo verifies the ledger,
changes an entry in a copy of the ledger, and shows that verification finds the change.

``KEEP=1`` keeps the daemon running until Ctrl-C. ``CONSENTD_DEMO_DIR`` is the directory, ``.demo`` by default.
"""

import argparse
import os
import shutil
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as TextTable

from consentd.config import Config
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.demo.asked_again import AskedAgain
from consentd.demo.family import FAMILY_APP, Family
from consentd.demo.home import Home, make_home
from consentd.demo.output import Output
from consentd.demo.story import CITIZEN, HIRA, Story
from consentd.demo.town import HOSPITAL, RELAY, make_town
from consentd.demo.traffic import Traffic, TrafficResult
from consentd.errors import ConsentdError
from consentd.ledger import layout
from consentd.ledger.vault import Vault
from consentd.server.daemon import Daemon, serve
from consentd.server.keys import read_keys
from consentd.store import Batch
from consentd.store.rocks import RocksStore
from consentd.table.table import Table
from consentd.verify.fsck import Fault, Report, verify_files
from consentd_client import CallSigner, Client, History, pin

SEED = 20251124
CITIZENS = 1_000
TRANSFERS = 20_000
CALL_TIMEOUT_S = 600.0
_OUTCOMES = {
    "PERMIT": ("허용", "permitted"),
    "NO_CONSENT": ("거절: 동의 없음", "refused, no consent"),
    "DENY": ("거부: 처리정지 요구", "denied, the citizen objects"),
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The results of the town's day, the verified histories of the citizen and of the child, and the ledger's report.

    ``unanswered`` is how many consents a campaign still asks for. ``changed`` is the index of the leaf that was changed
    in a copy; ``faults`` are the faults found in that copy.
    """

    traffic: TrafficResult
    history: History
    child: History
    unanswered: int
    report: Report
    changed: int
    faults: tuple[Fault, ...]

    @property
    def is_as_expected(self) -> bool:
        """Whether all decisions were as expected, the ledger has no faults, and the changed leaf was reported."""
        is_found = any(fault.index == self.changed for fault in self.faults)
        return is_found and not self.traffic.surprises and not self.report.faults


def run(home: Home, out: Output, *, seed: int, citizens: int, transfers: int) -> DemoResult:
    """Play the town's day and the story on a daemon; stop the daemon; verify its ledger and a tampered copy.

    Raises:
        ConsentdError: a call failed, or a proof does not verify.
    """
    town = make_town(seed=seed, citizens=citizens, transfers=transfers)
    daemon = Daemon(home.config)
    daemon.start()
    trust = pin(home.path("log.vkey").read_text(encoding="utf-8"))
    operator, relay, app, hospital = (
        Client(home.config.grpc.listen, token=home.tokens[caller], trust=trust, timeout_s=CALL_TIMEOUT_S)
        for caller in ("operator", RELAY[0], FAMILY_APP[0], HOSPITAL)
    )
    try:
        out.rule("마을의 하루", "a day in a made-up town")
        traffic = Traffic(town, operator, relay, hospital, out, origin=home.config.ledger.origin).run()
        out.rule("한 시민의 이야기", "one citizen's story")

        def open_own(signer: CallSigner) -> Client:
            return Client(home.config.grpc.listen, call_signer=signer, trust=trust, timeout_s=CALL_TIMEOUT_S)

        story = Story(relay, town.institutions, origin=home.config.ledger.origin, open_own=open_own, out=out)
        history = story.run()
        out.rule("한 아이의 이야기", "one child's story")
        child = Family(operator, relay, app, origin=home.config.ledger.origin, out=out).run()
        out.rule("고지가 바뀜", "a notice that changes")
        unanswered = AskedAgain(operator, relay, hospital, out=out).run()
    finally:
        operator.close()
        relay.close()
        app.close()
        hospital.close()
        daemon.stop()
    out.rule("검증과 변조", "verification, and tampering")
    out.why("감사인은 모든 것을 파일에서 다시 계산합니다.", "An auditor recomputes everything from the files.")
    report = verify(home.config)
    out.why("한 바이트만 바꿔도 드러납니다.", "A change of a single byte is found, and its entry is named.")
    changed, faults = tamper(home.config, home.path("tampered"), history, out)
    return DemoResult(traffic, history, child, unanswered, report, changed, faults)


def verify(config: Config) -> Report:
    """Verify the leaves, statements and signatures of a ledger, and the policy table built from the statements."""
    ledger, keys = config.ledger, read_keys(config)
    with (
        closing(RocksStore.open_read_only(ledger.store_dir)) as store,
        closing(RocksStore.open_read_only(ledger.vault_dir)) as vault,
        closing(Table.open_read_only(config.table.path)) as table,
    ):
        return verify_files(
            store, origin=ledger.origin, log_verifier=keys.log.verifier, last_signed_path=ledger.last_signed_path,
            vault=Vault(vault, keys.keks), table=table,
        )  # fmt: skip


def tamper(config: Config, copy: Path, history: History, out: Output) -> tuple[int, tuple[Fault, ...]]:
    """Copy a ledger, change an ACCESS entry of *history* into a REFUSAL in the copy, and verify the copy.

    Return the index of the changed leaf, and the faults found in the copy.
    """
    shutil.copytree(config.ledger.store_dir, copy)
    access = next(entry for entry in history.entries if entry.kind == EntryKind.ACCESS)
    with closing(RocksStore.open(copy, block_cache_mb=64)) as store:
        index = layout.decode_u64(store.get(layout.index_key(history.tag, access.seq)) or b"")
        event = codec.decode_leaf(store.get(layout.leaf_key(index)) or b"")
        assert isinstance(event, codec.Event), "an access is an event"
        changed = Batch()
        # This is the tampering: a permitted access now looks like a refused access.
        changed.put(layout.leaf_key(index), codec.encode_event(replace(event, kind=EntryKind.REFUSAL)))
        store.write(changed)
        report = verify_files(
            store, origin=config.ledger.origin, log_verifier=read_keys(config).log.verifier,
            last_signed_path=config.ledger.last_signed_path, quick=True,
        )  # fmt: skip
    text = out.text(
        f"사본의 항목 {index}에서 한 바이트를 바꿈: 허용된 제공을 거절된 것처럼",
        f"one byte of entry {index} of a copy changed, so that an access looks like a refusal",
    )
    out.print(f"  {text}")
    for fault in report.faults:
        where = out.text("항목", "entry") + (f" {fault.index}" if fault.index is not None else "")
        out.print(f"  [red]✗[/red] {where}: {escape(fault.what)}")
    return index, report.faults


def summarise(result: DemoResult, out: Output) -> None:
    """Print the number of decisions by outcome, and the number of faults that verification found."""
    text, traffic, report = out.text, result.traffic, result.report
    table = TextTable(title=text("요약", "summary"), title_justify="left", show_header=False)
    for outcome, title in _OUTCOMES.items():
        table.add_row(text(*title), f"{traffic.outcomes[outcome]:,}")
    table.add_row(text("기대와 다른 결정", "decisions other than expected"), f"{traffic.surprises:,}")
    table.add_row(text("원장 항목, 봉인 제외", "entries in the ledger, without seals"), f"{report.entries:,}")
    table.add_row(text("전체 검증에서 찾은 결함", "faults found verifying it all"), f"{len(report.faults)}")
    out.console.print(table)


def main() -> int:
    """Run the demo; return the exit status: 0 if the result is as expected, otherwise 1."""
    options = parse_options(sys.argv[1:])
    out = Output(Console(width=None if sys.stdout.isatty() else 120), options.lang)
    started = time.perf_counter()
    try:
        home = make_home(options.dir)
        result = run(home, out, seed=options.seed, citizens=options.citizens, transfers=options.transfers)
        summarise(result, out)
        print_next_steps(home, out)
        out.print(f"  {time.perf_counter() - started:.0f} s")
        if os.environ.get("KEEP"):
            text = out.text("실행 중, Ctrl-C로 종료", "serving until Ctrl-C")
            out.print(f"{text}: {home.config.grpc.listen}, {home.path('operator.token')}")
            serve(home.config)
    except ConsentdError as error:
        out.print(f"demo: {escape(str(error))}", style="red")
        return 1
    return 0 if result.is_as_expected else 1


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m consentd.demo", description="Show what consentd does.")
    parser.add_argument("--lang", choices=("both", "ko", "en"), default="both", help="language; both by default")
    parser.add_argument("--citizens", type=int, default=CITIZENS, help=f"{CITIZENS:,} by default")
    parser.add_argument("--transfers", type=int, default=TRANSFERS, help=f"{TRANSFERS:,} by default")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed makes another town")
    directory = Path(os.environ.get("CONSENTD_DEMO_DIR") or ".demo").absolute()
    parser.add_argument("--dir", type=Path, default=directory, help="its files; $CONSENTD_DEMO_DIR, else .demo")
    return parser.parse_args(arguments)


def commands(home: Home) -> dict[tuple[str, str], str]:
    """Return shell commands that the user may try next; the keys are their titles in Korean and English."""
    script = Path(sys.executable).with_name("consentd")
    consentd = _shown(script) if script.exists() else f"{_shown(Path(sys.executable))} -m consentd.cli"
    config, key = _shown(home.path("consentd.toml")), _shown(home.path("log.vkey"))
    token = _shown(home.path(f"{RELAY[0]}.token"))
    environment = f"CONSENTD_TARGET={home.config.grpc.listen} CONSENTD_TOKEN_FILE={token} CONSENTD_LOG_KEY={key}"
    citizen = f"{CITIZEN.scheme}:{CITIZEN.value}"
    question = f"--actor {HOSPITAL} --holder {HIRA} --purpose TREAT --category INS.RX"
    return {
        ("데몬 실행", "run the daemon on this ledger"): f"{consentd} serve --config {config}",
        ("환경", "who you are, and which key you trust"): f"export {environment}",
        ("이력과 증명", "the citizen's whole history, proven"): f"{consentd} history {citizen}",
        ("지금 제공해도 되는가", "may it be given now?"): f"{consentd} check {citizen} {question}",
        ("변조된 사본 검증", "verify the copy that was tampered with"): (
            f"{consentd} fsck --quick --log-key {key} {_shown(home.path('tampered'))}"
        ),
    }


def _shown(path: Path) -> str:
    """Return a path as text; if the path is inside the current directory, relative to this directory."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_next_steps(home: Home, out: Output) -> None:
    """Print where the ledger is, and commands to try with the ledger."""
    out.print(f"{out.text('원장은 여기에', 'the ledger is in')}: {_shown(home.config.ledger.data_dir)}")
    out.print(out.text("다음에 해 볼 것", "what to try next") + ":", style="bold")
    for title, command in commands(home).items():
        out.print(f"  [dim]# {out.text(*title)}[/dim]\n  {command}")


if __name__ == "__main__":
    sys.exit(main())
