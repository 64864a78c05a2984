"""Follow the rotations in a proof: from the log key that a reader pinned to the key that signed the proof's checkpoint.

Each rotation in a proof has a checkpoint that a log key signed before it was replaced, under the reader's quorum, with
the whole chain ``ledger`` at that checkpoint. That chain states which key signs larger checkpoints, and a consistency
proof leads to the next checkpoint. A reader that pinned a later key begins where its key signs. Nothing before is
verified, and nothing of it is used. Source: evidence-format.md, "Rotations".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from consentd.core import codec, history, merkle
from consentd.core.checkpoint import Checkpoint, is_signed_by, parse_checkpoint
from consentd.core.history import HistoryProof, RotationProof, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.note import NoteVerifier, Verifier, format_vkey, parse_note, parse_vkey
from consentd.core.quorum import WitnessPolicy, verify_cosigned
from consentd.core.rotation import FollowedKey, log_vkey
from consentd.errors import ProofError, SignatureError
from consentd.statements.chains import verify_chains


@dataclass(frozen=True, slots=True)
class Followed:
    """The log key that must have signed a proof's checkpoint, and how it was reached.

    Attributes:
        log_key: the pinned key if no rotation was followed.
        keys: the keys from the pinned one to *log_key*; empty if no rotation was followed.
        ledger: the entries of chain ``ledger`` at the last checkpoint of an earlier key.
    """

    log_key: NoteVerifier
    keys: tuple[FollowedKey, ...] = ()
    ledger: tuple[VerifiedEntry, ...] = ()

    def verify_signed(self, checkpoint: bytes) -> None:
        """Verify that the only known log key with a line on a note is not one that was replaced.

        Raises:
            SignatureError: a key that was replaced before has signed in place of ``log_key``.
        """
        lines = parse_note(checkpoint).unverified
        replaced = [parse_vkey(one.vkey) for one in self.keys[:-1]]
        if not is_signed_by(lines, self.log_key) and any(is_signed_by(lines, key) for key in replaced):
            raise SignatureError("checkpoint is signed by a log key that the ledger has replaced before")

    def verify_continues(self, ledger: Sequence[VerifiedEntry]) -> None:
        """Verify that a later chain ``ledger`` (empty: it is not there) begins with the one that was followed.

        Raises:
            ProofError: it does not.
        """
        if ledger and [one.event for one in ledger[: len(self.ledger)]] != [one.event for one in self.ledger]:
            raise ProofError("chain `ledger` does not continue the one that an earlier log key signed")


def follow_rotations(
    proof: HistoryProof, *, origin: str, log_key: NoteVerifier, policy: WitnessPolicy | None
) -> Followed:
    """Verify the rotations of a proof from the pinned *log_key* on; return the key that must sign the checkpoint.

    Only the consistency with the proof's checkpoint is verified of that checkpoint, and not its signature.

    Raises:
        MalformedError: a part has a wrong form.
        UnknownKeyError: a checkpoint is signed by another key than the one that was reached; a rotation is missing.
        SignatureError: a signature is wrong, or the quorum is missing.
        ProofError: checkpoints are out of order or do not continue each other; a chain is not `ledger`, is not whole,
            or does not continue the one before; or a rotation leads to no other key.
    """
    steps = proof.rotations
    if not steps:
        return Followed(log_key)
    points = _parse_points([*(one.checkpoint for one in steps), proof.checkpoint], origin)
    signed = (is_signed_by(parse_note(one.checkpoint).unverified, log_key) for one in steps)
    start = next((at for at, is_signed in enumerate(signed) if is_signed), None)
    if start is None or not isinstance(log_key, Verifier):
        return Followed(log_key)
    followed = Followed(log_key, (FollowedKey(format_vkey(log_key), 0),))
    for at in range(start, len(steps)):
        followed.verify_signed(steps[at].checkpoint)
        followed = _follow(steps[at], followed, origin=origin, policy=policy, next_size=points[at + 1].size)
        point, later = points[at], points[at + 1]
        merkle.verify_consistency(
            steps[at].consistency, size1=point.size, root1=point.root, size2=later.size, root2=later.root
        )
    followed.verify_signed(proof.checkpoint)
    return followed


def _parse_points(notes: Sequence[bytes], origin: str) -> list[Checkpoint]:
    """Return the checkpoints of notes, of which only the form, the origin and the order of the sizes are verified."""
    points = [parse_checkpoint(parse_note(one).text) for one in notes]
    if any(point.origin != origin for point in points):
        raise ProofError("checkpoint of a rotation is of another origin")
    if any(later.size <= point.size for point, later in pairwise(points)):
        raise ProofError("checkpoints of rotations are out of order")
    return points


def _follow(
    step: RotationProof, before: Followed, *, origin: str, policy: WitnessPolicy | None, next_size: int
) -> Followed:
    """Verify one rotation, whose checkpoint ``before.log_key`` must have signed; return the key that signs the next."""
    sealed = _open(step, origin=origin, log_key=before.log_key, policy=policy)
    chain = step.history
    if chain.tag != codec.LEDGER_TAG or chain.public_name != LEDGER_CHAIN:
        raise ProofError("history of a rotation is not chain `ledger`")
    found = verify_chains(
        [chain], sealed, asked=codec.LEDGER_TAG, origin=origin, log_verifier=before.log_key
    )
    before.verify_continues(found.ledger_entries)
    assert found.ledger_keys is not None, "chain `ledger` was verified"
    size = sealed.checkpoint.size
    terms = [one for one in found.ledger_keys.log_terms if size < one.from_size <= next_size]
    if not terms:
        raise ProofError("rotation leads to no other log key")
    keys = [FollowedKey(log_vkey(origin, one.key), one.from_size) for one in terms]
    return Followed(Verifier(origin, terms[-1].key), (*before.keys, *keys), found.ledger_entries)


def _open(
    step: RotationProof, *, origin: str, log_key: NoteVerifier, policy: WitnessPolicy | None
) -> SealedCheckpoint:
    proof = HistoryProof(
        checkpoint=step.checkpoint, consistency=(), seal=step.seal, seal_inclusion=step.seal_inclusion, chains=()
    )
    sealed = history.verify_sealed_checkpoint(proof, origin=origin, log_verifier=log_key, held=None)
    if policy is not None:
        seal_time_ms = sealed.seal.time_ms
        verify_cosigned(
            step.checkpoint, policy, now_s=0, max_age_s=None, seal_time_ms=seal_time_ms, logs=(log_key,)
        )
    return sealed
