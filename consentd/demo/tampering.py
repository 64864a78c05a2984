"""Verify a ledger whole, then change one byte of a copy and look for it again. For the demo only."""

import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from consentd.config import Config
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.demo.story import Voice
from consentd.demo.traffic import Steps
from consentd.ledger import layout
from consentd.ledger.vault import Vault
from consentd.server.keys import read_keys
from consentd.store import Batch
from consentd.store.rocks import RocksStore
from consentd.table.table import Table
from consentd.verify.fsck import Fault, Report, verify_files
from consentd_client import History


def verify(config: Config, steps: Steps, voice: Voice) -> Report:
    """Verify the whole ledger from nothing: every leaf, statement and signature, and the table made from them."""
    keys = read_keys(config)
    store = RocksStore.open(config.ledger.store_dir, block_cache_mb=64)
    vault_store = RocksStore.open(config.ledger.vault_dir, block_cache_mb=8)
    table = Table.open(config.table.path, map_size_mb=config.table.map_size_mb)
    try:
        with steps.track(voice.say("원장 전체 검증", "verify the whole ledger")) as advance:
            done = 0

            def progress(now: int, total: int) -> None:
                nonlocal done
                advance(now - done, total)
                done = now

            return verify_files(
                store,
                origin=config.ledger.origin,
                log_verifier=keys.log.verifier,
                last_signed_path=config.ledger.last_signed_path,
                vault=Vault(vault_store, keys.vault),
                table=table,
                progress=progress,
            )
    finally:
        table.close()
        vault_store.close()
        store.close()


def tamper(
    config: Config, copy: Path, told: History, console: Console, voice: Voice
) -> tuple[int, tuple[Fault, ...]]:
    """Turn one ACCESS into a REFUSAL in a copy of the ledger, by one byte, and look for it.

    Returns the index of the leaf that was changed, and what ``verify_files`` says of the copy.
    """
    shutil.copytree(config.ledger.store_dir, copy)
    access = next(entry for entry in told.entries if entry.kind == EntryKind.ACCESS)
    verifier = read_keys(config).log.verifier
    store = RocksStore.open(copy, block_cache_mb=64)
    try:
        row = store.get(layout.index_key(told.tag, access.seq))
        leaf = None if row is None else store.get(layout.leaf_key(layout.decode_u64(row)))
        assert row is not None, "a verified entry is indexed"
        assert leaf is not None, "a verified entry is stored"
        index = layout.decode_u64(row)
        changed = Batch()
        event = codec.decode_leaf(leaf)
        assert isinstance(event, codec.Event), "an access is an event"
        # The tampering: an access that was permitted is made to look like one that was refused.
        changed.put(layout.leaf_key(index), codec.encode_event(replace(event, kind=EntryKind.REFUSAL)))
        store.write(changed)
        report = verify_files(
            store,
            origin=config.ledger.origin,
            log_verifier=verifier,
            last_signed_path=config.ledger.last_signed_path,
            quick=True,
        )
    finally:
        store.close()
    text = voice.say(
        f"사본의 항목 {index}에서 한 바이트를 바꿈: 허용된 제공을 거절된 것처럼",
        f"one byte of entry {index} of a copy changed: an access shall look like a refusal",
    )
    console.print(f"  {text}", highlight=False)
    for fault in report.faults:
        where = voice.say("항목", "entry") + (f" {fault.index}" if fault.index is not None else "")
        console.print(f"  [red]✗[/red] {where}: {escape(fault.what)}", highlight=False)
    return index, report.faults
