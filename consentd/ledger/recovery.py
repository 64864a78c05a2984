"""Open a ledger: compute the roots of tree and map from stored rows, and compare them with the stored and signed roots.

The work depends on the height of the tree and the number of map buckets, not on the number of entries. After a crash,
the store may be larger than the last signed checkpoint, and have entries after the last seal; such a ledger opens. No
crash causes any other difference; with any other difference among these, the ledger does not open. Sealed leaves, head
rows and statements are not read here; ``verify`` reads them. The leaves after the last seal are decoded here, and
compared with the tree before the next checkpoint is signed. Source: ledger-format.md, "Opening".
"""

from functools import partial
from pathlib import Path

from consentd.core import codec, tiles
from consentd.core.note import Verifier
from consentd.errors import CorruptionError, MalformedError, ProofError
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import RUNBOOK, check_last_signed
from consentd.ledger.ledger import Ledger, State, decode_state, empty_state
from consentd.ledger.map import TagMap
from consentd.ledger.reads import read_leaves, read_tiles
from consentd.ledger.restored import Restored
from consentd.ledger.restored_copy import check_restored
from consentd.ledger.vault import Vault
from consentd.statements.values import vault_commitment
from consentd.store import Store


def open_ledger(
    store: Store, *, last_signed_path: Path, origin: str, log_verifier: Verifier, map_bits: int,
    restored: Restored | None = None,
) -> Ledger:  # fmt: skip
    """Open the ledger in *store*; if the store is empty and nothing was signed yet, return an empty ledger.

    Args:
        origin: the ledger's name; a last signed checkpoint of another origin is refused.
        restored: the mark of a restored copy; None: the ledger is none.
        map_bits: the map of an empty ledger gets 2^map_bits buckets; a ledger with leaves keeps its number of buckets.

    Raises:
        StorageError: the store or the last signed checkpoint cannot be read.
        CorruptionError: state, tree, map, last seal and last signed checkpoint contradict each other.
    """
    row = store.get(layout.STATE)
    state = empty_state(map_bits) if row is None else decode_state(row)
    edge = _open_edge(store, state)
    tag_map = TagMap(store, state.map_bits)
    if tag_map.root() != state.map_root:
        roots = f"state says {state.map_root.hex()}, stored nodes give {tag_map.root().hex()}"
        raise CorruptionError(f"map root differs: {roots}; {RUNBOOK}")
    _check_seal(store, state)
    check = check_last_signed if restored is None else partial(check_restored, restored=restored)
    check(store, state, last_signed_path=last_signed_path, origin=origin, log_verifier=log_verifier)
    ledger = Ledger(store, state, edge, tag_map)
    _recover_unsealed(ledger)
    return ledger


def check_vault_commitment(store: Store, vault: Vault, path: Path) -> None:
    """Check that leaf 0 of the ledger commits to this vault. With another vault, every person would seem to be erased.

    *path*: that of the vault, for the message.

    Raises:
        CorruptionError: the vault belongs to another ledger.
    """
    first = reads.read_entry(store, codec.LEDGER_TAG, 1)
    opened = reads.open_entry(vault, first)
    assert opened is not None, "a public chain's statement is in the clear"
    if vault_commitment(codec.decode_statement(opened[1]).payload) != vault.commitment():
        raise CorruptionError(
            f"vault is not this ledger's: `{path}`; restore the vault's backup, see ops/RUNBOOK.md, `vault lost`"
        )


def _open_edge(store: Store, state: State) -> tiles.Edge:
    try:
        edge = tiles.Edge.from_tiles(state.size, read_tiles(store, tiles.plan_root(state.size)))
    except ProofError as error:
        raise CorruptionError(f"tree edge is not whole at size {state.size}: {error}; {RUNBOOK}") from error
    if edge.root() != state.root:
        roots = f"state says {state.root.hex()}, stored tiles give {edge.root().hex()}"
        raise CorruptionError(f"tree root differs at size {state.size}: {roots}; {RUNBOOK}")
    return edge


def _check_seal(store: Store, state: State) -> None:
    """Check that the last seal is the one that the state row describes."""
    if state.sealed_size == 0:
        return
    leaf = store.get(layout.leaf_key(state.sealed_size - 1)) or b""
    seal = _decode(leaf, state.sealed_size - 1)
    if (
        not isinstance(seal, codec.Seal)
        or seal.covers != state.sealed_size - 1
        or seal.map_root != state.map_root
        or codec.chain_hash(leaf) != state.seal_hash
    ):
        raise CorruptionError(f"last seal at index {state.sealed_size - 1} is not what the state says; {RUNBOOK}")


def _recover_unsealed(ledger: Ledger) -> None:
    """Read the entries after the last seal, because the next seal must put their chain heads into the map."""
    start, end = ledger.state.sealed_size, ledger.state.size
    for index, leaf in enumerate(read_leaves(ledger.store, start, end), start):
        event = _decode(leaf, index)
        if not isinstance(event, codec.Event):
            raise CorruptionError(f"seal at index {index} is not in the state; {RUNBOOK}")
        ledger.sealed_heads.setdefault(event.tag, (event.seq - 1, event.prev))
        ledger.unsealed[event.tag] = (event.seq, codec.chain_hash(leaf))


def _decode(leaf: bytes, index: int) -> codec.Event | codec.Seal:
    try:
        return codec.decode_leaf(leaf)
    except MalformedError as error:
        raise CorruptionError(f"leaf at index {index} is damaged: {error}; {RUNBOOK}") from error
