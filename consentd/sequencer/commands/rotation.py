"""Write the entry that replaces the log key or the statement key (ledger-format.md, "Rotation of keys")."""

from dataclasses import dataclass, field, replace

from consentd.core import codec, ed25519
from consentd.core.key_validity import LEDGER_CHAIN
from consentd.core.kinds import EntryKind
from consentd.core.rotation import Rotation, RotationRole, StatedKeys, rotation_message
from consentd.errors import PreconditionError, ProofError, SignatureError
from consentd.ledger.rotations import read_ledger_keys
from consentd.sequencer.commands.ledger import draft_public
from consentd.sequencer.commands.write import Plan, Unremembered, WriteContext
from consentd.statements.values import to_enum
from consentd.v1 import statement_pb2 as st


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKey(Unremembered):
    """Replace the key with the public key *old_key* by *new*. The answer is the rotation's ``from_size``.

    INVARIANT: the entry is the last one of its batch, and a seal follows it in this batch (``Sequencer``). So the old
    log key signs the tree of this seal, the smallest one that has the entry, and the new one signs every larger tree.
    No statement after the entry is signed by the old statement key.
    """

    role: RotationRole
    old_key: bytes
    new: ed25519.KeyPair = field(repr=False)
    reason: str = ""

    def prepare(self, context: WriteContext) -> Plan[int]:
        index, origin = context.batch.index, context.author.origin
        from_size = index + (3 if self.role is RotationRole.LOG else 1)
        rotation = Rotation(
            role=self.role, old_key=self.old_key, new_key=self.new.public_key, from_size=from_size,
            reason=self.reason, new_signature=b"",
        )  # fmt: skip
        rotation = replace(rotation, new_signature=self.new.sign(rotation_message(rotation, origin=origin)))
        self._check(context, rotation)
        message = st.LedgerStatement(
            origin=origin,
            rotation=st.Rotation(
                role=to_enum(self.role), old_key=rotation.old_key, new_key=rotation.new_key, from_size=from_size,
                reason=rotation.reason, new_signature=rotation.new_signature,
            ),
        )  # fmt: skip
        return Plan((draft_public(context, LEDGER_CHAIN, EntryKind.LEDGER, message),), from_size)

    def _check(self, context: WriteContext, rotation: Rotation) -> None:
        """Check that readers accept the rotation.

        Raises:
            PreconditionError: the new key was used before, or the old one is not in force.
        """
        keys = read_ledger_keys(context.batch.ledger.store, context.author.origin)
        seq = context.batch.head(codec.LEDGER_TAG)[0] + 1
        signer = context.author.key.public_key
        try:
            keys.add(StatedKeys(rotation=rotation), seq=seq, signer=signer, index=context.batch.index)
        except (ProofError, SignatureError) as error:
            raise PreconditionError(f"key cannot be replaced: {error}") from error
