"""Follow the rotations of a ledger's keys: its log key, which signs checkpoints, and its statement key.

A LEDGER entry of chain ``ledger`` with a *rotation* replaces one of the two keys. The statement key signs the entry;
for a rotation of the statement key, this is the key that is replaced. The new key signs the rotation too. The
checkpoints that are smaller than ``from_size`` of a rotation of the log key are signed by the old key, and one of them
must have the entry. So a reader that pinned the old key reaches the new one by a checkpoint that the old one signed.

``LedgerKeys`` takes the entries of chain ``ledger`` in order, and is independent of how their payloads are encoded.
Source: ledger-format.md, "Rotation of keys".
"""

import hashlib
from dataclasses import dataclass, field, replace
from enum import IntEnum

from consentd.core import codec, ed25519, note
from consentd.core.checkpoint import MAX_SIZE
from consentd.errors import MalformedError, ProofError, SignatureError

FOREVER = (1 << 64) - 1
"""End of the term of a statement key that no rotation has replaced."""


class RotationRole(IntEnum):
    """What a key is used for, ``consentd.v1.RotationRole``. A rotation of another role is not understood."""

    LOG = 1
    STATEMENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What a LEDGER entry states of a key that is replaced. The fields are those of ``consentd.v1.Rotation``."""

    role: RotationRole
    old_key: bytes
    new_key: bytes
    from_size: int
    reason: str
    new_signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedKeys:
    """What a LEDGER entry states of the ledger's keys.

    Attributes:
        verifier_keys: the log's vkeys. *statement_key*: the daemon's; empty: none.
        rotation: None: the entry replaces no key. *is_alone*: it states nothing beside the rotation and the origin.
    """

    verifier_keys: tuple[str, ...] = ()
    statement_key: bytes = b""
    rotation: Rotation | None = None
    is_alone: bool = True


@dataclass(frozen=True, slots=True)
class Term:
    """The indexes of the entries that a statement key may sign: from *first* until before *end*.

    *is_in_force*: no entry so far has replaced or retired the key.
    """

    first: int = 0
    end: int = FOREVER
    is_in_force: bool = True


@dataclass(frozen=True, slots=True)
class LogTerm:
    """The key that signs the checkpoints of *from_size* leaves and more, until the next term; and the key before it."""

    from_size: int
    key: bytes
    replaces: bytes


@dataclass(frozen=True, slots=True)
class FollowedKey:
    """A log key on the way from a pinned key to a later one: its vkey, and from which size on it signs checkpoints.

    *from_size* is 0 for the pinned key.
    """

    vkey: str
    from_size: int


def rotation_message(rotation: Rotation, *, origin: str) -> bytes:
    """Return the bytes that the new key signs.

    ``"consentd/rotation/v1\\0" ‖ H(origin) ‖ role u8 ‖ old_key ‖ new_key ‖ from_size u64 ‖ length u16 ‖ reason``; the
    length is that of the reason, in bytes of UTF-8.
    """
    reason = rotation.reason.encode()
    return b"".join((
        codec.ROTATION_PREFIX, hashlib.sha256(origin.encode()).digest(), rotation.role.to_bytes(1), rotation.old_key,
        rotation.new_key, rotation.from_size.to_bytes(8), len(reason).to_bytes(2), reason,
    ))  # fmt: skip


def log_vkey(origin: str, key: bytes) -> str:
    """Return the C2SP verifier key of an Ed25519 log key."""
    return note.join_key(origin, note.key_id_of(origin, note.ED25519, key), note.ED25519, key)


@dataclass(slots=True)
class LedgerKeys:
    """The log keys and the statement keys of a ledger, as chain ``ledger`` states them so far. One thread owns it.

    Attributes:
        named: the vkeys that entries name without a rotation.
        log_terms: the terms that rotations of the log key begin, in order. Before the first, a key of *named* signs.
        terms: by statement key, its term.
    """

    origin: str
    named: list[str] = field(default_factory=list)
    log_terms: list[LogTerm] = field(default_factory=list)
    terms: dict[bytes, Term] = field(default_factory=dict)

    def add(
        self, stated: StatedKeys, *, seq: int, signer: bytes, index: int | None = None, size: int = MAX_SIZE
    ) -> None:
        """Apply the next LEDGER entry of chain ``ledger``. The caller verifies the entry's author.

        Args:
            seq: number of the entry in its chain. *signer*: the key that signed it.
            index: the entry's index in the tree; None: a history does not show it.
            size: size of a tree that has the entry.

        Raises:
            ProofError: the rotation contradicts what the ledger stated before, or the entry states a key otherwise than
                by a rotation although a key of this role was replaced before.
            SignatureError: the new key did not sign the rotation.
        """
        rotation = stated.rotation
        if rotation is None:
            self._add_stated(stated)
            return
        if seq == 1 or not stated.is_alone:
            raise ProofError("rotation is in leaf 0, or beside other statements about the ledger")
        self._verify_new_key(rotation)
        if rotation.role is RotationRole.LOG:
            self._verify_log(rotation, seq=seq, index=index)
        else:
            self._verify_statement(rotation, seq=seq, signer=signer, index=index, size=size)
        if len(rotation.new_signature) != ed25519.SIGNATURE_SIZE:
            raise SignatureError("rotation is not signed by the new key")
        ed25519.verify(rotation.new_key, rotation_message(rotation, origin=self.origin), rotation.new_signature)
        if rotation.role is RotationRole.LOG:
            self.log_terms.append(LogTerm(rotation.from_size, rotation.new_key, rotation.old_key))
            return
        self.terms[rotation.old_key] = replace(self.terms[rotation.old_key], end=rotation.from_size, is_in_force=False)
        self.terms[rotation.new_key] = Term(rotation.from_size)

    def retire(self, key: bytes) -> None:
        """Apply a KEY entry of chain ``ledger`` that retires a statement key."""
        if key in self.terms:
            self.terms[key] = replace(self.terms[key], is_in_force=False)

    def replaced_log_keys(self) -> tuple[FollowedKey, ...]:
        """Return the log keys from the first one that was replaced to the last; () if none was."""
        if not self.log_terms:
            return ()
        first = FollowedKey(log_vkey(self.origin, self.log_terms[0].replaces), 0)
        return (first, *(FollowedKey(log_vkey(self.origin, one.key), one.from_size) for one in self.log_terms))

    def replaced_statement_keys(self) -> tuple[tuple[bytes, int], ...]:
        """Return the statement keys of rotations, each with the first index that it may sign; () if none was replaced.

        The first is the key that was replaced first.
        """
        rotated = [(term.first, key) for key, term in self.terms.items() if term.first or term.end != FOREVER]
        return tuple((key, first) for first, key in sorted(rotated))

    def log_key_at(self, size: int) -> bytes | None:
        """Return the log key that a rotation made sign the checkpoint of this size; None: no rotation did."""
        return next((term.key for term in reversed(self.log_terms) if term.from_size <= size), None)

    def verify_log_key(self, vkey: str, size: int) -> None:
        """Verify that the key of this vkey signs the checkpoint of this size.

        Raises:
            ProofError: the ledger does not name the key, or another key signs checkpoints of this size.
        """
        key = self.log_key_at(size)
        if key is not None:
            if vkey != log_vkey(self.origin, key):
                raise ProofError(f"log key was replaced before the checkpoint of size `{size}`, or is not yet in force")
        elif vkey not in self.named:
            raise ProofError("ledger does not name the pinned log key as its own")

    def verify_ever(self, vkey: str) -> None:
        """Verify that the key of this vkey is, or was, a log key of the ledger.

        Raises:
            ProofError: the ledger never named the key.
        """
        if vkey not in (*self.named, *(log_vkey(self.origin, term.key) for term in self.log_terms)):
            raise ProofError("ledger does not name the pinned log key as its own")

    def verify_term(self, key: bytes, index: int) -> None:
        """Verify that a statement key may sign the entry at this index. A key of another author is not looked at.

        Raises:
            SignatureError: a rotation has replaced the key before, or makes it valid later.
        """
        term = self.terms.get(key)
        if term is not None and not term.first <= index < term.end:
            raise SignatureError("statement key was replaced before this entry, or is valid only later")

    def _add_stated(self, stated: StatedKeys) -> None:
        if stated.verifier_keys and self.log_terms:
            raise ProofError("ledger names log keys after it has replaced one by a rotation")
        self.named += [vkey for vkey in stated.verifier_keys if vkey not in self.named]
        if len(stated.statement_key) != ed25519.KEY_SIZE:
            return  # no statement can name such a key
        if any(term.end != FOREVER for term in self.terms.values()):
            raise ProofError("ledger states a statement key after it has replaced one by a rotation")
        self.terms[stated.statement_key] = Term()

    def _verify_new_key(self, rotation: Rotation) -> None:
        """Verify that the new key is a public key that the ledger has used for nothing before."""
        new, old = rotation.new_key, rotation.old_key
        try:
            ed25519.check_public_key(new)
        except MalformedError as error:
            raise ProofError(f"rotation has a new key that is none: {error}") from error
        vkey = log_vkey(self.origin, new)
        # A signature line has the ID of its key only, so two log keys must not share one.
        prefix = vkey[: len(self.origin) + len("+00000000+")]
        ids = [*self.named, *(log_vkey(self.origin, term.key) for term in self.log_terms)]
        is_used = new in self.terms or any(one.startswith(prefix) for one in ids)
        if new == old or is_used:
            raise ProofError("rotation has a new key that the ledger has used before")

    def _verify_log(self, rotation: Rotation, *, seq: int, index: int | None) -> None:
        old = rotation.old_key
        if old != self.log_terms[-1].key if self.log_terms else not self._is_named(old):
            raise ProofError("rotation replaces a log key that is not the ledger's last one")
        # The entry and a seal are in a tree smaller than from_size. An entry has at least seq - 1 leaves before it.
        least = (seq - 1 if index is None else index) + 3
        if self.log_terms:
            least = max(least, self.log_terms[-1].from_size + 1)
        if not least <= rotation.from_size <= MAX_SIZE:
            raise ProofError(f"rotation of the log key has an impossible from_size: `{rotation.from_size}`")

    def _is_named(self, key: bytes) -> bool:
        try:
            ed25519.check_public_key(key)
        except MalformedError:
            return False
        return log_vkey(self.origin, key) in self.named

    def _verify_statement(
        self, rotation: Rotation, *, seq: int, signer: bytes, index: int | None, size: int
    ) -> None:
        term = self.terms.get(rotation.old_key)
        if term is None or not term.is_in_force:
            raise ProofError("rotation replaces a statement key that is not in force")
        if signer != rotation.old_key:
            raise ProofError("rotation of the statement key is not signed by the key that it replaces")
        least, most = (seq, size - 1) if index is None else (index + 1, index + 1)
        if not least <= rotation.from_size <= most:
            raise ProofError(f"rotation of the statement key has an impossible from_size: `{rotation.from_size}`")
