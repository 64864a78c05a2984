"""Open a ledger: recompute tree and map from the stored rows, and compare them with what was stored and signed.

The work depends on the height of the tree and the number of map buckets, not on the number of entries. Two differences
are ordinary after a crash, and recovery continues: a store larger than its last signed checkpoint, and entries after
the last seal. No crash causes the other differences, so each of them is refused. Source: ledger-format.md, "Opening".
"""

from pathlib import Path

from consentd.core import checkpoint, codec, tiles
from consentd.core.note import Verifier
from consentd.errors import CorruptionError, MalformedError, ProofError, VerificationError
from consentd.ledger import layout
from consentd.ledger.last_signed import read_last_signed
from consentd.ledger.ledger import Ledger, State, decode_state, empty_state
from consentd.ledger.map import TagMap
from consentd.ledger.reads import read_tiles
from consentd.store import Store

RUNBOOK = "see ops/RUNBOOK.md, `ledger refuses to open`"


def open_ledger(store: Store, *, last_signed_path: Path, origin: str, log_verifier: Verifier, map_bits: int) -> Ledger:
    """Open the ledger in *store*; where the store is empty, return an empty ledger.

    Args:
        last_signed_path: the file of the last signed checkpoint.
        origin: the ledger's name; a last signed checkpoint of another origin is refused.
        log_verifier: verifies signatures of the log key.
        map_bits: number of bits of the map, for an empty ledger; a ledger with leaves keeps the number it has.

    Raises:
        StorageError: the store or the last signed checkpoint cannot be read.
        CorruptionError: state, tree, map, last seal and last signed checkpoint contradict each other.
    """
    row = store.get(layout.STATE)
    state = empty_state(map_bits) if row is None else decode_state(row)
    edge = _open_edge(store, state)
    tag_map = TagMap(store, state.map_bits)
    if tag_map.root() != state.map_root:
        raise CorruptionError(
            f"map root differs: state says {state.map_root.hex()}, stored nodes give {tag_map.root().hex()}; {RUNBOOK}"
        )
    _check_seal(store, state)
    check_last_signed(store, state, last_signed_path=last_signed_path, origin=origin, log_verifier=log_verifier)
    ledger = Ledger(store, state, edge, tag_map)
    _recover_unsealed(ledger)
    return ledger


def _open_edge(store: Store, state: State) -> tiles.Edge:
    try:
        edge = tiles.Edge.from_tiles(state.size, read_tiles(store, tiles.plan_edge(state.size)))
    except ProofError as error:
        raise CorruptionError(f"tree edge is not whole at size {state.size}: {error}; {RUNBOOK}") from error
    if edge.root() != state.root:
        raise CorruptionError(
            f"tree root differs at size {state.size}: state says {state.root.hex()}, "
            f"stored tiles give {edge.root().hex()}; {RUNBOOK}"
        )
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


def check_last_signed(
    store: Store, state: State, *, last_signed_path: Path, origin: str, log_verifier: Verifier
) -> None:
    """Check that the last signed checkpoint, of size m, is one of this ledger: m ≤ n, and its root is root(m).

    Raises:
        CorruptionError: it is not, or the file is missing although a checkpoint must have been signed.
        StorageError: the file or the store cannot be read.
    """
    note = read_last_signed(last_signed_path)
    if note is None:
        # INVARIANT: a ledger with no seal, or with its first one just written, may have no last signed checkpoint: a
        # crash fell before its first signature. Signing that same tree again cannot contradict what was signed.
        if state.sealed_size > 0 and not _is_first_seal(store, state):
            raise CorruptionError(
                f"last signed checkpoint is missing beside a ledger of size {state.size}: `{last_signed_path}`; "
                f"{RUNBOOK}"
            )
        return
    verify_last_signed(store, note, size=state.size, origin=origin, log_verifier=log_verifier)


def verify_last_signed(store: Store, note: bytes, *, size: int, origin: str, log_verifier: Verifier) -> None:
    """Verify that the last signed checkpoint is one of the tree in *store*, which has *size* leaves.

    Raises:
        CorruptionError: the note does not verify, covers more leaves than there are, or has another root.
        StorageError: the store cannot be read.
    """
    try:
        signed, _ = checkpoint.open_checkpoint(note, origin, log_verifier)
    except VerificationError as error:
        raise CorruptionError(f"last signed checkpoint does not verify: {error}; {RUNBOOK}") from error
    last_signed = f"last signed checkpoint has size {signed.size} root {signed.root.hex()}"
    if signed.size > size:
        raise CorruptionError(
            f"ledger is smaller than its last signed checkpoint: size {size}, {last_signed}; {RUNBOOK}"
        )
    try:
        root = tiles.root(signed.size, read_tiles(store, tiles.plan_root(signed.size)))
    except ProofError as error:
        raise CorruptionError(
            f"tree is not whole at the last signed checkpoint: {error}, {last_signed}; {RUNBOOK}"
        ) from error
    if root != signed.root:
        raise CorruptionError(
            f"ledger contradicts its last signed checkpoint: root {root.hex()}, {last_signed}; {RUNBOOK}"
        )


def _is_first_seal(store: Store, state: State) -> bool:
    """Report whether the last leaf is the only seal. Then no other tree than the present one can have been signed."""
    if state.sealed_size != state.size:
        return False
    seal = _decode(store.get(layout.leaf_key(state.size - 1)) or b"", state.size - 1)
    return isinstance(seal, codec.Seal) and seal.prev_seal == codec.ZERO_HASH


def _recover_unsealed(ledger: Ledger) -> None:
    """Read the entries after the last seal: the next seal must put their chain heads into the map."""
    start, end = ledger.state.sealed_size, ledger.state.size
    expected = start
    for key, leaf in ledger.store.scan(layout.leaf_key(start), layout.leaf_key(end)):
        if layout.decode_u64(key) != expected:
            break
        expected += 1
        event = _decode(leaf, expected - 1)
        if not isinstance(event, codec.Event):
            raise CorruptionError(f"seal at index {expected - 1} is not in the state; {RUNBOOK}")
        ledger.sealed_heads.setdefault(event.tag, (event.seq - 1, event.prev))
        ledger.unsealed[event.tag] = (event.seq, codec.chain_hash(leaf))
    if expected != end:
        raise CorruptionError(f"leaf is missing at index {expected}; {RUNBOOK}")


def _decode(leaf: bytes, index: int) -> codec.Event | codec.Seal:
    try:
        return codec.decode_leaf(leaf)
    except MalformedError as error:
        raise CorruptionError(f"leaf at index {index} is damaged: {error}; {RUNBOOK}") from error
