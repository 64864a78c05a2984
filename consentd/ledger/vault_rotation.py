"""Replace the vault key while the daemon serves.

1. **Begin.** A new vault key is made, wrapped by the configured KEK, and stored. From then on it wraps what is written.
2. **Wrap again.** Each row under an older vault key is wrapped again under the new one, a few hundred rows in a synced
   batch. The data keys stay the same, so no statement changes.
3. **End.** When no row is left under an older vault key, the older keys are deleted. The same batch marks the vault:
   its files are to be compacted.
4. **Compact.** The files are rewritten, so that no deleted key and no old row remains in them. Then the mark is
   deleted.

A crash between any two writes leaves a vault that opens, with all keys that its rows need: each row names the key that
wraps it. The next rotation finishes the one that was interrupted, with the newest vault key. If another KEK was
configured since, it makes one more.

The index key is wrapped again too, but never replaced: the identifier hashes in the ledger depend on it.
"""

from collections.abc import Iterator

from consentd.ledger.vault import Vault
from consentd.ledger.vault_keys import PREFIX
from consentd.store import prefix_end

BATCH_ROWS = 256
"""How many rows a batch wraps again. Enrolments wait for a batch: about 10 ms, if the disk is quick."""
_PART_BYTES = 256 << 20
"""About how much of the persons' rows is compacted in one part: RocksDB's files have 64 MB, and are rewritten whole."""


def rewrap_all(vault: Vault) -> Iterator[int]:
    """Wrap all rows of *vault* under its current vault key; yield after each batch how many persons are done.

    Between two batches nothing is half done.

    Raises:
        StorageError: the disk failed or is full.
    """
    vault.rewrap([b"K"])
    # INVARIANT: the new vault key was current before this pass began. So a row that is written later is under it.
    done, start, end = 0, b"k", prefix_end(b"k")
    while batch := list(vault.store.scan(start, end, limit=BATCH_ROWS)):
        vault.rewrap([name for name, row in batch if not vault.keys.is_current(row)])
        start = batch[-1][0] + b"\0"  # the smallest key after the last one
        done += len(batch)
        yield done


def compact(vault: Vault) -> Iterator[tuple[int, int]]:
    """Rewrite the files of *vault* without what was deleted or replaced; yield (parts done, parts).

    Raises:
        StorageError: the disk failed or is full.
    """
    parts = min(256, 1 + vault.store.approximate_size() // _PART_BYTES)
    bounds = [b"k" + bytes((256 * part // parts,)) for part in range(1, parts)]
    ranges: list[tuple[bytes, bytes | None]] = [(b"K", prefix_end(PREFIX))]  # the index key and the vault keys
    ranges += zip([b"k", *bounds], [*bounds, prefix_end(b"k")], strict=True)
    for done, (start, end) in enumerate(ranges, 1):
        vault.store.compact_ranges([(start, end)])
        yield done, len(ranges)
