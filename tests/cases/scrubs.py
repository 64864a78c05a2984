"""Scrubs of a ``LedgerCase``, and what a fault must name."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from cases.ledgers import LOG, ORIGIN, LedgerCase
from consentd.ledger import layout
from consentd.store import Batch, Store, prefix_end
from consentd.verify.findings import MAX_FAULTS, Fault
from consentd.verify.scrub import Scrub
from consentd.verify.scrub_records import ScrubTarget
from consentd.verify.scrub_table import RunOnWriter, ScrubOptions

TRIES = 5
SCRATCH = "table.scrub"


def make_scrub(
    case: LedgerCase,
    *,
    pause: Callable[[int], None] = lambda records: None,
    run_on_writer: RunOnWriter | None = None,
    **options: Any,
) -> Scrub:
    """Prepare a scrub of a case; *options*: of ``ScrubOptions``."""
    assert case.table is not None
    target = ScrubTarget(
        ledger=case.ledger, vault=case.vault, table=case.table, last_signed_path=case.last_signed_path, origin=ORIGIN,
        log_verifier=LOG.verifier,
    )  # fmt: skip
    given = ScrubOptions(scratch_dir=case.directory / SCRATCH, map_size_mb=16, **options)
    return Scrub(target, given, run_on_writer=run_on_writer or case.sequencer.call, pause=pause)


def scrub(case: LedgerCase, **options: Any) -> list[Fault]:
    """Return what a scrub finds; it names nobody, and leaves nothing behind."""
    one = make_scrub(case, **options)
    one.run()
    found = one.progress.faults
    assert not (case.directory / SCRATCH).exists()
    for person in case.people:
        for secret in (person.tag, person.identifier_hash):
            assert not any(secret.hex() in fault.what or str(secret) in fault.what for fault in found)
    assert len(found) == min(one.progress.damaged, MAX_FAULTS)
    return found


def write(store: Store, key: bytes, row: bytes | None) -> None:
    batch = Batch()
    if row is None:
        batch.delete(key)
    else:
        batch.put(key, row)
    store.write(batch)


def damaged(case: LedgerCase, store: Store, key: bytes, changed: bytes | None) -> list[Fault]:
    """Return what a scrub finds while a row is changed; None: while it is gone."""
    row = store.get(key)
    assert row is not None
    write(store, key, changed)
    try:
        return scrub(case)
    finally:
        write(store, key, row)


def some(store: Store, kind: str, *, seed: int = 1) -> list[tuple[bytes, bytes]]:
    rows = list(store.scan(kind.encode(), prefix_end(kind.encode())))
    assert rows
    return random.Random(seed).sample(rows, min(TRIES, len(rows)))


def first_of(case: LedgerCase, tag: bytes) -> int:
    return layout.decode_u64(case.store.get(layout.index_key(tag, 1)) or b"")


def last_of(case: LedgerCase, tag: bytes) -> int:
    count, _ = case.ledger.head(tag)
    return layout.decode_u64(case.store.get(layout.index_key(tag, count)) or b"")


def index_of(case: LedgerCase, key: bytes, row: bytes) -> int | None:
    """Return the index that a fault of this row must name; None: there is no single one."""
    kind = key[:1]
    if kind == b"l":
        return layout.decode_u64(key)
    if kind == b"i":
        return layout.decode_u64(row)
    if kind == b"c":
        return layout.decode_u64(case.store.get(b"i" + key[1:]) or b"")
    if kind == b"h":
        return last_of(case, key[1:])
    return None


def is_named(case: LedgerCase, key: bytes, row: bytes, found: Sequence[Fault]) -> bool:
    """Return whether the faults lead to the row that was changed."""
    index, number = index_of(case, key, row), int.from_bytes(key[1:])
    if key[:1] in (b"m", b"r"):
        what = "map bucket" if key[:1] == b"m" else "row"
        return any(fault.what.startswith(f"{what} `{number}`") for fault in found)
    return bool(found) if index is None else index in [fault.index for fault in found]
