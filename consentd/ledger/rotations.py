"""Read which keys a stored ledger has stated, and keep the checkpoints that lead from a replaced log key to the next.

When the log key is replaced, the last checkpoint of the old key is kept in a row, with the seal and with what proves
chain ``ledger`` at this checkpoint. A reader that pinned the old key needs all of it, and only this row has it: the map
has changed since. The format of the row is that of the file ``rotations`` (``core.evidence``), without the entries of
the chain, which the store has. Source: ledger-format.md, "Rotation of keys".
"""

from dataclasses import replace
from itertools import pairwise

from consentd.core import codec
from consentd.core.evidence import format_rotations, parse_rotations
from consentd.core.history import ChainProof, HistoryEntry, RotationProof
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.note import Verifier
from consentd.core.rotation import LedgerKeys, StatedKeys
from consentd.errors import CorruptionError, VerificationError
from consentd.ledger import layout, reads
from consentd.ledger.ledger import Ledger
from consentd.statements import values
from consentd.store import Batch, Store


def read_ledger_keys(store: Store, origin: str) -> LedgerKeys:
    """Return the keys that the stored chain ``ledger`` has stated. Authors are not verified.

    Raises:
        CorruptionError: the chain is damaged, or its entries contradict each other.
        StorageError: the store cannot be read.
    """
    keys = LedgerKeys(origin)
    try:
        for entry in reads.read_chain(store, codec.LEDGER_TAG, 1):
            if entry.row is None:
                raise CorruptionError(f"statement of chain `ledger` is missing at index {entry.index}")
            statement = codec.decode_statement(entry.row[33:])
            stated = values.stated_of_ledger_keys(entry.event.kind, statement.payload)
            if isinstance(stated, StatedKeys):
                keys.add(stated, seq=entry.event.seq, signer=statement.key, index=entry.index)
            elif stated is not None:
                keys.retire(stated)
    except VerificationError as error:
        raise CorruptionError(f"chain `ledger` is damaged: {error}") from error
    return keys


def log_verifier_at(store: Store, size: int, own: Verifier) -> Verifier:
    """Return the key that signs the checkpoint of *size* leaves of the ledger that has the log key *own*.

    It is *own* if the ledger has replaced no key, or never had the key *own*.

    Raises:
        CorruptionError, StorageError: as ``read_ledger_keys``.
    """
    keys = read_ledger_keys(store, own.name)
    terms = keys.log_terms
    if not terms or own.public_key not in {terms[0].replaces, *(term.key for term in terms)}:
        return own
    return Verifier(own.name, keys.log_key_at(size) or terms[0].replaces)


def keep_checkpoint(ledger: Ledger, note: bytes) -> None:
    """Store a published checkpoint of the last seal, with what proves chain ``ledger`` at it, durably.

    Must run on the sequencer's thread. Entries may follow the seal.

    Raises:
        StorageError: the row cannot be stored.
    """
    heads = reads.prove_heads(ledger, [codec.LEDGER_TAG])
    count, head, map_proof = heads.chains[codec.LEDGER_TAG]
    proof = RotationProof(
        checkpoint=note, seal=heads.seal,
        seal_inclusion=tuple(reads.prove_inclusion(ledger.store, heads.size - 1, heads.size)),
        history=ChainProof(
            tag=codec.LEDGER_TAG, public_name=LEDGER_CHAIN, count=count, head=head, map_proof=map_proof, first_seq=1,
            entries=(),
        ),
        consistency=(),
    )  # fmt: skip
    rows = Batch()
    rows.put(layout.kept_key(heads.size), format_rotations((proof,)))
    ledger.store.write(rows)


def is_kept(store: Store, size: int) -> bool:
    """Return whether the checkpoint of *size* leaves is kept."""
    return store.get(layout.kept_key(size)) is not None


def kept_sizes(store: Store) -> list[int]:
    """Return the sizes of the checkpoints that are kept, in order."""
    return [layout.decode_u64(key) for key, _ in store.scan(layout.kept_key(0), b"l")]


def read_rotations(store: Store, size: int) -> tuple[RotationProof, ...]:
    """Return the kept checkpoints of less than *size* leaves, oldest first, each with its chain ``ledger``.

    Each has the proof of consistency with the next one, and the last one that with the tree of *size* leaves.

    Raises:
        CorruptionError: a row is damaged.
    """
    sizes = [kept for kept in kept_sizes(store) if kept < size]
    return tuple(
        replace(read_kept(store, one), consistency=tuple(reads.prove_consistency(store, one, following)))
        for one, following in pairwise((*sizes, size))
    )


def read_kept(store: Store, size: int) -> RotationProof:
    """Return the kept checkpoint of *size* leaves with its chain ``ledger``, without a proof of consistency.

    Raises:
        CorruptionError: the row is missing or damaged.
    """
    try:
        [proof] = parse_rotations(store.get(layout.kept_key(size)) or b"")
        chain = proof.history
        entries = [
            HistoryEntry(entry.leaf, None if entry.row is None else (entry.row[1:33], entry.row[33:]))
            for entry in reads.read_chain(store, codec.LEDGER_TAG, 1, chain.count)
        ]
    except (VerificationError, ValueError) as error:
        raise CorruptionError(f"kept checkpoint of size {size} is damaged") from error
    return replace(proof, history=replace(chain, entries=tuple(entries)))
