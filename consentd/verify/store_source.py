"""Read a ledger's store for a verification, without the daemon.

Only this source imports packages of the server. An auditor who verifies an export does not need them.
"""

from collections.abc import Sequence

from consentd.core import codec, merkle, tiles
from consentd.core.history import RotationProof
from consentd.core.pruned import Pruned
from consentd.errors import CorruptionError, MalformedError, NotFoundError
from consentd.ledger import layout, reads, retention
from consentd.ledger.rotations import kept_sizes, read_kept
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.verify.source import Opening


class StoreSource:
    """A ledger's store, read without its daemon."""

    def __init__(self, store: Store, vault: Vault | None) -> None:
        """Read *store*; without *vault*, statements of persons are not decrypted."""
        self.store, self.vault = store, vault

    @property
    def is_whole(self) -> bool:
        """Whether there is a vault. Without a vault, statements of persons cannot be decrypted."""
        return self.vault is not None

    def pruned(self) -> Pruned:
        """Return what is pruned, from the store's row. Raises as ``retention.read_pruned``."""
        return retention.read_pruned(self.store)

    def rotations(self) -> tuple[RotationProof, ...]:
        """Return the checkpoints that are kept of replaced log keys. Raises CorruptionError if a row is damaged."""
        return tuple(read_kept(self.store, size) for size in kept_sizes(self.store))

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the leaves of a bundle. Raises CorruptionError if a leaf is missing where nothing is pruned."""
        start = n * tiles.TILE_WIDTH
        is_pruned = start < retention.read_pruned(self.store).minimum
        return reads.read_leaves(self.store, start, start + width, with_gaps=is_pruned)

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return a tile's first *width* hashes; b"" for a missing tile."""
        return (self.store.get(layout.tile_key(level, n)) or b"")[: merkle.HASH_SIZE * width]

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return the openings of public chains; with the vault, also the openings of persons' chains."""
        events = [_decode(leaf) for leaf in leaves]
        keys = [layout.statement_key(event.tag, event.seq) for event in events if event is not None]
        rows = iter(self._rows(keys))
        return [None if event is None else self._open(event, next(rows)) for event in events]

    def _rows(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.store.multi_get(keys)

    def _open(self, event: codec.Event, row: bytes | None) -> Opening:
        if row is None:
            return None
        if row[:1] == bytes((layout.PLAINTEXT,)):
            return row[1:]
        if self.vault is None:
            return None if row else b""
        try:
            salt, statement = self.vault.decrypt(event, row)
        except NotFoundError:
            return None
        except CorruptionError:
            return b""
        return salt + statement


def _decode(leaf: bytes) -> codec.Event | None:
    """Decode an event; return None for a seal, and for a malformed leaf, which the replay reports."""
    try:
        decoded = codec.decode_leaf(leaf) if leaf else None
    except MalformedError:
        return None
    return decoded if isinstance(decoded, codec.Event) else None
