"""Follow the log key of a ledger from the pinned key to the one that signed its checkpoint, by the file ``rotations``.

The file has the last checkpoints of earlier log keys. It is not trusted: each step is verified by
``statements.rotations``, under the reader's witness policy. The proofs that one tree begins with the other are made
from tiles. Without the file, or if it does not lead to the key, nothing is determined. Source: evidence-format.md,
"Rotations".
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from consentd.audit.remote import read_twice
from consentd.audit.sources import Source
from consentd.core import merkle, tiles
from consentd.core.checkpoint import Checkpoint, is_signed_by, parse_checkpoint
from consentd.core.history import HistoryProof, RotationProof
from consentd.core.note import NoteVerifier, parse_note
from consentd.core.quorum import WitnessPolicy
from consentd.errors import MalformedError, StorageError, VerificationError
from consentd.statements.rotations import Followed, follow_rotations
from consentd.verify.source import read_tiles


def follow_log_key(
    source: Source, note: bytes, *, origin: str, log_key: NoteVerifier, policy: WitnessPolicy | None
) -> Followed:
    """Return the log key that must have signed *note*, the checkpoint of a ledger, and how it was reached.

    It is *log_key*, the pinned key, if that has a line on the note, or if the ledger has no rotation from it.

    Raises:
        StorageError: a file cannot be read, or does not have its format.
        VerificationError: as ``follow_rotations``. What a remote source returns is read twice before it is wrong.
    """
    try:
        parsed = parse_note(note)
        point = parse_checkpoint(parsed.text)
    except MalformedError:
        return Followed(log_key)  # whoever verifies the note reports that
    if is_signed_by(parsed.unverified, log_key) or point.origin != origin:
        return Followed(log_key)

    def follow(steps: tuple[RotationProof, ...]) -> Followed:
        proof = HistoryProof(
            checkpoint=note, consistency=(), seal=b"", seal_inclusion=(), chains=(), rotations=steps
        )
        return follow_rotations(proof, origin=origin, log_key=log_key, policy=policy)

    def fault_of(steps: tuple[RotationProof, ...]) -> object:
        try:
            follow(steps)
        except VerificationError as error:
            return type(error)
        return None

    read: Callable[[Source], tuple[RotationProof, ...]] = lambda one: read_steps(one, point)  # noqa: E731
    return follow(read_twice(source, read, fault_of))


def read_steps(source: Source, point: Checkpoint) -> tuple[RotationProof, ...]:
    """Return the rotations of a source whose checkpoints are smaller than *point*, with the proofs of consistency.

    Nothing is verified but that the tiles are those of the tree of *point*.

    Raises:
        StorageError: a tile cannot be read, or is not of this tree.
        MalformedError: the file of the rotations does not have its format.
    """
    steps = [(parse_checkpoint(parse_note(one.checkpoint).text).size, one) for one in source.rotations()]
    steps = [(size, one) for size, one in steps if 0 < size < point.size]
    sizes = [*(size for size, _ in steps), point.size]
    return tuple(
        replace(one, consistency=prove_growth(source, first, second, point))
        for (_, one), (first, second) in zip(steps, pairwise(sizes), strict=True)
    )


def prove_growth(source: Source, first: int, second: int, point: Checkpoint) -> tuple[bytes, ...]:
    """Return the proof that the tree of *first* leaves is the beginning of that of *second*, in the tree of *point*.

    Raises:
        StorageError: a tile cannot be read, or is not of the tree of *point*: it proves nothing about the log.
    """
    if first >= second:
        return ()  # out of order, which ``follow_rotations`` reports
    try:
        roots = [_root(source, size, point) for size in (first, second)]
        plan = tiles.plan_consistency(first, second)
        proof = tiles.prove_consistency(first, second, read_tiles(source, plan, point.size))
        merkle.verify_consistency(proof, size1=first, root1=roots[0], size2=second, root2=roots[1])
    except VerificationError as error:
        raise StorageError(f"tiles are not those of the checkpoint of size `{point.size}`: {error}") from error
    return tuple(proof)


def _root(source: Source, size: int, point: Checkpoint) -> bytes:
    """Compute from tiles the root of the first *size* leaves. Raises ProofError if the tiles do not lead to *point*."""
    root = tiles.root(size, read_tiles(source, tiles.plan_root(size), point.size))
    proof = []
    if size < point.size:
        plan = tiles.plan_consistency(size, point.size)
        proof = tiles.prove_consistency(size, point.size, read_tiles(source, plan, point.size))
    merkle.verify_consistency(proof, size1=size, root1=root, size2=point.size, root2=point.root)
    return root
