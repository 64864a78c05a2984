"""Read the checkpoint of a ledger, and verify that the log signed it and, if required, that witnesses cosigned it.

The log's signature alone does not show that everybody is shown the same tree; cosignatures do. A ledger may be read
from an old export, so a cosignature of any age counts unless ``max_age_s`` requires recent cosignatures. A cosignature
from before the tree's last seal never counts, because a witness cannot have seen the tree before that time.
"""

from dataclasses import dataclass

from consentd.audit.log_keys import follow_log_key
from consentd.audit.remote import at_checkpoint, read_twice
from consentd.audit.sources import Source
from consentd.core import checkpoint, codec, quorum
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteVerifier
from consentd.core.quorum import WitnessPolicy
from consentd.core.rotation import FollowedKey
from consentd.errors import MalformedError, ProofError, VerificationError
from consentd.statements.rotations import Followed
from consentd.verify.source import read_leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """The witnesses that must have cosigned a checkpoint.

    Attributes:
        policy: names the witnesses, and which of them are a quorum.
        now_s: time of the reader's clock, POSIX seconds; used only with *max_age_s*.
        max_age_s: the largest age of a cosignature that counts; None: any age.
    """

    policy: WitnessPolicy
    now_s: int = 0
    max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A verified checkpoint.

    Attributes:
        log_key: the key that signed it.
        cosignatures: the name of each witness that cosigned, and the time in POSIX seconds.
        log_keys: the log keys from the pinned one to *log_key*; empty if that is the pinned one.
    """

    point: Checkpoint
    note: bytes
    log_key: NoteVerifier
    cosignatures: tuple[tuple[str, int], ...] = ()
    log_keys: tuple[FollowedKey, ...] = ()


def read_checkpoint(
    source: Source, *, origin: str, log_verifier: NoteVerifier, witnesses: Witnesses | None = None, at_least: int = 0
) -> SignedCheckpoint:
    """Return the latest checkpoint of a source. A remote is read twice if something is wrong, see ``read_twice``.

    *log_verifier*: the pinned log key. If it was replaced, the rotations of the source lead to the one that signed.
    *at_least*: the size of a tree that the log has signed before, so that a smaller tree is wrong.

    Raises:
        StorageError: the checkpoint, or the leaf that ends its tree, cannot be read.
        UnknownKeyError: another log key signed the checkpoint, and no rotation leads to it.
        SignatureError: the log did not sign the checkpoint, or the cosignatures are no quorum.
        MalformedError: the source is local and has no checkpoint. ProofError: it has one of another origin, or a
            smaller one.
    """

    policy = None if witnesses is None else witnesses.policy

    def follow(note: bytes) -> Followed:
        return follow_log_key(source, note, origin=origin, log_key=log_verifier, policy=policy)

    def open_note(note: bytes) -> SignedCheckpoint:
        followed = follow(note)
        point, _ = checkpoint.open_checkpoint(note, origin, followed.log_key)
        if point.size < at_least:
            # A cache may return an old checkpoint, but a log never does.
            raise ProofError(f"ledger is smaller than it was before: `{point.size}` and `{at_least}`")
        if witnesses is None:
            return SignedCheckpoint(point, note, followed.log_key, (), followed.keys)
        cosigned = quorum.verify_cosigned(
            note, witnesses.policy, now_s=witnesses.now_s, max_age_s=witnesses.max_age_s, logs=(followed.log_key,),
            seal_time_ms=_last_time_ms(at_checkpoint(source, point), point.size),
        )  # fmt: skip
        return SignedCheckpoint(point, note, followed.log_key, cosigned.cosignatures, followed.keys)

    def fault_of(note: bytes) -> object:
        try:
            open_note(note)
        except MalformedError:
            raise
        except VerificationError as error:
            # The log may sign a new checkpoint between two readings, so the faults are compared and not the notes.
            return type(error)
        return None

    return open_note(read_twice(source, lambda one: one.checkpoint(), fault_of))


def _last_time_ms(source: Source, size: int) -> int | None:
    """Return the unproven time of the tree's last leaf; None if the tree is empty or the leaf is malformed."""
    if not size:
        return None
    try:
        return codec.decode_leaf(read_leaf(source, size - 1, size)).time_ms
    except MalformedError:
        return None  # A verification of all leaves reports this leaf.
