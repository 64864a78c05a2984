"""Verify the checkpoints that a store keeps of log keys that were replaced (``ledger.rotations``).

A reader that pinned one of these keys is sent them, and can reach the present key only by them.
"""

from consentd.core import history
from consentd.core.history import HistoryProof, RotationProof
from consentd.core.note import Verifier
from consentd.core.rotation import LogTerm
from consentd.errors import ConsentdError, CorruptionError
from consentd.ledger import reads
from consentd.ledger.rotations import kept_sizes, read_kept, read_ledger_keys
from consentd.store import Store


def kept_faults(store: Store, *, origin: str, sealed_size: int) -> list[str]:
    """Return what is wrong with the kept checkpoints of a ledger whose last seal ends a tree of *sealed_size* leaves.

    The tree, the leaves and the statements of chain ``ledger`` are not verified here.
    """
    try:
        terms = read_ledger_keys(store, origin).log_terms
        expected = {term.from_size - 1: term for term in terms if term.from_size <= sealed_size}
        # The last rotation may not be finished. Then its checkpoint is kept later, or has just been kept.
        may_be = {term.from_size - 1: term for term in terms}
        found = set(kept_sizes(store))
        missing, strays = sorted(expected.keys() - found), sorted(found - may_be.keys())
        faults = [f"checkpoint of a replaced log key is not kept: size `{one}`" for one in missing]
        faults += [f"kept checkpoint is of no rotation: size `{one}`" for one in strays]
        for one in sorted(found & may_be.keys()):
            _verify(store, read_kept(store, one), may_be[one], origin=origin)
    except ConsentdError as error:
        return [f"kept checkpoint of a replaced log key does not verify: {error}"]
    return faults


def _verify(store: Store, proof: RotationProof, term: LogTerm, *, origin: str) -> None:
    """Verify the signature, the tree, the seal and the chain of a kept checkpoint.

    Raises:
        VerificationError, CorruptionError: one of them is wrong.
    """
    whole = HistoryProof(
        checkpoint=proof.checkpoint, consistency=(), seal=proof.seal, seal_inclusion=proof.seal_inclusion, chains=()
    )
    key = Verifier(origin, term.replaces)
    sealed = history.verify_sealed_checkpoint(whole, origin=origin, log_verifier=key, held=None)
    point = sealed.checkpoint
    if point.size != term.from_size - 1 or reads.root_at(store, point.size) != point.root:
        raise CorruptionError(f"it is of another tree: size {point.size}")
    history.verify_chain(proof.history, sealed=sealed)
