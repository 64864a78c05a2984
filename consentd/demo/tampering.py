"""Verify a whole ledger, then change one byte in a copy of it and verify the copy."""

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.markup import escape

from consentd.config import Config
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.demo.output import Output
from consentd.ledger import layout
from consentd.ledger.vault import Vault
from consentd.server.keys import read_keys
from consentd.store import Batch
from consentd.store.rocks import RocksStore
from consentd.table.table import Table
from consentd.verify.fsck import Fault, Report, verify_files
from consentd_client import History


def verify(config: Config, out: Output) -> Report:
    """Verify every leaf, statement and signature of a ledger, and the table made from them."""
    keys = read_keys(config)
    with ExitStack() as stack:
        store = RocksStore.open_read_only(config.ledger.store_dir)
        stack.callback(store.close)
        vault_store = RocksStore.open_read_only(config.ledger.vault_dir)
        stack.callback(vault_store.close)
        table = Table.open_read_only(config.table.path)
        stack.callback(table.close)
        started = time.perf_counter()
        report = verify_files(
            store,
            origin=config.ledger.origin,
            log_verifier=keys.log.verifier,
            last_signed_path=config.ledger.last_signed_path,
            vault=Vault(vault_store, keys.vault),
            table=table,
        )
        out.print_rate(("원장 전체 검증", "verify the whole ledger"), report.entries, time.perf_counter() - started)
        return report


def tamper(config: Config, copy: Path, history: History, out: Output) -> tuple[int, tuple[Fault, ...]]:
    """Copy the ledger to *copy*, change one ACCESS of *history* there into a REFUSAL, and verify the copy.

    Returns:
        The index of the changed leaf, and the faults that were found.
    """
    shutil.copytree(config.ledger.store_dir, copy)
    access = next(entry for entry in history.entries if entry.kind == EntryKind.ACCESS)
    store = RocksStore.open(copy, block_cache_mb=64)
    try:
        row = store.get(layout.index_key(history.tag, access.seq))
        leaf = None if row is None else store.get(layout.leaf_key(layout.decode_u64(row)))
        assert row is not None, "a verified entry is indexed"
        assert leaf is not None, "a verified entry is stored"
        index = layout.decode_u64(row)
        changed = Batch()
        event = codec.decode_leaf(leaf)
        assert isinstance(event, codec.Event), "an access is an event"
        # The tampering: a permitted access is made to look like a refused one.
        changed.put(layout.leaf_key(index), codec.encode_event(replace(event, kind=EntryKind.REFUSAL)))
        store.write(changed)
        report = verify_files(
            store,
            origin=config.ledger.origin,
            log_verifier=read_keys(config).log.verifier,
            last_signed_path=config.ledger.last_signed_path,
            quick=True,
        )
    finally:
        store.close()
    text = out.text(
        f"사본의 항목 {index}에서 한 바이트를 바꿈: 허용된 제공을 거절된 것처럼",
        f"one byte of entry {index} of a copy changed, so that an access looks like a refusal",
    )
    out.print(f"  {text}")
    for fault in report.faults:
        where = out.text("항목", "entry") + (f" {fault.index}" if fault.index is not None else "")
        out.print(f"  [red]✗[/red] {where}: {escape(fault.what)}")
    return index, report.faults
