"""Verify statements: the commitment in the leaf, the signature, and that the author's key was in force.

Commitment and signature depend on nothing but the entry, so ``verify_opening`` may run in any order and any process.
Whether the key was in force depends on earlier entries, so ``Authors`` takes all entries in the order of the ledger.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from consentd.core import codec, key_validity
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS, NAMES_NOTHING, KeyValidity, Named
from consentd.core.kinds import EntryKind, Owner
from consentd.core.pruned import Pruned
from consentd.core.recent_statements import RecentStatements
from consentd.core.rotation import LedgerKeys, StatedKeys
from consentd.errors import InvalidError, MalformedError, ProofError, SignatureError
from consentd.statements import payloads, values
from consentd.statements.delegations import named_parties
from consentd.statements.givers import may_give
from consentd.statements.named import named_in

_SALT = 32
KEY_KINDS = frozenset({EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY})
"""Kinds that decide which keys are in force: LEDGER and KEY state a key, PARTICIPANT the owner of a chain's keys."""
_NAMED_KINDS = frozenset({EntryKind.VOCABULARY, EntryKind.NOTICE, EntryKind.RULES, EntryKind.ADMINISTRATION})
"""Kinds of which this module checks only that they are in the chain of the thing that they are about, and that no
participant attests them."""
_STATING_KINDS = KEY_KINDS | _NAMED_KINDS | {EntryKind.DELEGATION, EntryKind.MANDATE}
"""Kinds whose payload is checked against the earlier entries, or changes how later ones are checked."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What an entry of ``_STATING_KINDS`` states. An attribute that the kind does not have is empty.

    Attributes:
        key, retired: the key that a LEDGER or KEY entry puts in force; if *retired*, out of force.
        participant: the id that a PARTICIPANT entry states.
        origin: the ledger's name, in a LEDGER entry. *ledger_keys*: all that the entry states of the ledger's keys.
        replaces: the statement key that a rotation replaces by *key*.
        retention_days: the age in days from which entries may be pruned, in leaf 0.
        pruned: the pruning that a later LEDGER entry states.
        gives_mandates: whether a PARTICIPANT entry describes an active public authority.
        parties: the participants that a DELEGATION or MANDATE names. The entry is in the chain of the first.
        named: what the payload names, on which it depends who may sign it.
        attested_by: who attests the entry; empty: its author signed it, or it is the daemon's own.
        chain: the public name of the chain to which a VOCABULARY, NOTICE, RULES or ADMINISTRATION entry belongs.
        has_unknown_fields: the payload has fields that this version does not know, or replaces a key of a role that it
            does not know. They may change the meaning of the known fields, so all other attributes but *named* are
            empty.
    """

    key: bytes = b""
    retired: bool = False
    participant: str = ""
    origin: str = ""
    replaces: bytes = b""
    ledger_keys: StatedKeys | None = None
    retention_days: int = 0
    pruned: Pruned | None = None
    gives_mandates: bool = False
    parties: tuple[str, ...] = ()
    named: Named = NAMES_NOTHING
    attested_by: str = ""
    chain: str = ""
    has_unknown_fields: bool = False


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature verifies, and what it states (None: nothing that counts here)."""

    key: bytes
    request_id: bytes
    author_time_ms: int
    stated: Stated | None = None


def verify_opening(event: codec.Event, opening: bytes, *, origin: str) -> SignedStatement:
    """Verify that an opening (salt[32] ‖ statement) matches its leaf's commitment, and verify the signature.

    Raises:
        MalformedError: the opening, its statement or its payload does not decode, or contradicts itself.
        ProofError: the leaf commits to another salt or statement.
        SignatureError: the signature does not verify.
    """
    statement = open_statement(event, opening)
    key_validity.verify_signature(statement, origin=origin, kind=event.kind, tag=event.tag, ref=event.ref)
    stated = None
    if event.kind in payloads.MESSAGES:
        payload = payloads.decode_payload(event.kind, statement.payload)
        named = named_in(event.kind, event.ref, payload)
        if event.kind in _STATING_KINDS:
            retention = values.stated_retention(event.kind, statement.payload)
            stated = replace(_read_stated(event.kind, payload, retention), named=named)
        elif named != NAMES_NOTHING:
            stated = Stated(named=named)
    return SignedStatement(statement.key, statement.request_id, statement.author_time_ms, stated)


def open_statement(event: codec.Event, opening: bytes) -> codec.Statement:
    """Compare an opening with its leaf's commitment, and return the statement.

    Raises MalformedError if the opening does not decode, ProofError if the leaf commits to something else.
    """
    # INVARIANT: the salt's length is fixed. Otherwise the same bytes could be split into another salt and statement.
    if len(opening) < _SALT:
        raise MalformedError("salt is not 32 bytes long" if opening else "statement cannot be read or decrypted")
    if codec.commit(opening[:_SALT], opening[_SALT:]) != event.commit:
        raise ProofError("opening is not what its leaf commits to")
    return codec.decode_statement(opening[_SALT:])


def _read_stated(kind: int, message: Any, retention: values.StatedRetention | None) -> Stated:
    if kind in _NAMED_KINDS:
        return Stated(chain=payloads.public_name(message), attested_by=message.attestation.attested_by)
    if not payloads.is_understood(message):
        return Stated(has_unknown_fields=True)
    if retention is not None:
        key, replaces = values.changed_statement_key(message)
        return Stated(
            key, origin=message.origin, replaces=replaces, ledger_keys=values.stated_ledger_keys(message),
            retention_days=retention.days, pruned=retention.pruned,
        )  # fmt: skip
    if kind == EntryKind.KEY:
        return Stated(message.key, message.retired, attested_by=message.attestation.attested_by)
    if kind in (EntryKind.DELEGATION, EntryKind.MANDATE):
        try:
            return Stated(parties=named_parties(message), attested_by=message.attestation.attested_by)
        except InvalidError as error:
            raise MalformedError(str(error)) from error
    return Stated(
        participant=message.participant_id, gives_mandates=may_give(message),
        attested_by=message.attestation.attested_by,
    )  # fmt: skip


class Authors:
    """The keys in force, updated entry by entry in the order of the ledger. One thread owns it.

    Attributes:
        participants: each participant's id, by the tag of the participant's chain.
        authorities: the tags of those that are active public authorities now.
        recent: the signed statements that a later entry of their chain must not repeat.
        keys_lost: an entry of ``KEY_KINDS`` could not be read, so a key that is unknown here may be in force.
        ledger_keys: the ledger's own keys, as chain ``ledger`` states them so far. *ledger_seq*: seq of the last entry
            of that chain up to which every entry was read; after a later one, rotations cannot be verified.
    """

    def __init__(self, keys: MutableMapping[bytes, tuple[KeyValidity, ...]], ledger_keys: LedgerKeys) -> None:
        """Start with the *keys* known so far; ``verify`` adds to them, and to *ledger_keys*."""
        self._keys = keys
        self.ledger_keys = ledger_keys
        self.ledger_seq = 0
        self.participants: dict[bytes, str] = {}
        self.authorities: set[bytes] = set()
        self.recent = RecentStatements()
        self.keys_lost = False

    def verify(self, event: codec.Event, signed: SignedStatement, index: int) -> bool:
        """Verify that the author's key was in force for this entry; then apply what the entry states about keys.

        Returns:
            True; False if this cannot be determined, because an unreadable entry may have put the key in force.

        Raises:
            SignatureError: the key was not in force for its author, or the author's clock is too far off; the giver of
                a mandate is no active public authority; or the new key of a rotation did not sign it.
            ProofError: the chain has this signed statement already; or a rotation contradicts what the ledger stated.
            MalformedError: a PARTICIPANT, VOCABULARY, NOTICE, RULES or ADMINISTRATION entry is not in the chain of what
                the entry is about, or a participant attests it; a participant attests the key of one; or a DELEGATION
                or MANDATE breaks a rule of ``_verify_parties``.
        """
        stated = signed.stated
        if stated is not None and event.kind == EntryKind.LEDGER and event.seq == 1 and event.tag == codec.LEDGER_TAG:
            # Leaf 0 states the key that signed leaf 0, so this key is added before it is looked up.
            self._add_key(event, stated, name=key_validity.LEDGER_CHAIN)
        if abs(event.time_ms - signed.author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise SignatureError("author's clock is more than ten minutes from the ledger's")
        validities, named = self._keys.get(signed.key, ()), NAMES_NOTHING if stated is None else stated.named
        is_in_force = any(key_validity.may_author(validity, event, named) for validity in validities)
        if not is_in_force and not (self.keys_lost and not validities):
            raise SignatureError("author's key was not in force for this entry")
        if is_in_force and all(one.owner is Owner.LEDGER for one in validities):
            self.ledger_keys.verify_term(signed.key, index)
        self._add_ledger_keys(event, stated, signed.key, index)
        if stated is not None and event.kind in _STATING_KINDS:
            self._add(event, stated)
        if is_in_force:
            self.recent.add(event, signed.key, signed.request_id, validities, named)
        return is_in_force

    def _add_ledger_keys(self, event: codec.Event, stated: Stated | None, signer: bytes, index: int) -> None:
        """Apply what an entry of chain ``ledger`` states of the ledger's own keys. Raises as ``LedgerKeys.add``."""
        # INVARIANT: after an entry of this chain that was not read, it is not known which keys the ledger has stated.
        if event.tag != codec.LEDGER_TAG or event.seq != self.ledger_seq + 1:
            return
        if stated is not None and stated.has_unknown_fields:
            return
        self.ledger_seq = event.seq
        if stated is not None and stated.ledger_keys is not None:
            self.ledger_keys.add(stated.ledger_keys, seq=event.seq, signer=signer, index=index)
        elif stated is not None and event.kind == EntryKind.KEY and stated.retired:
            self.ledger_keys.retire(stated.key)

    def _add(self, event: codec.Event, stated: Stated) -> None:
        if stated.has_unknown_fields:
            self.keys_lost |= event.kind in KEY_KINDS
            return
        if stated.chain:
            # Otherwise rules could be in force that the chain of the rules does not show.
            if codec.public_tag(stated.chain) != event.tag:
                raise MalformedError("entry is in the chain of another name than that of what it is about")
            self._verify_attester(stated.attested_by)
            return
        if stated.parties:
            self._verify_parties(event, stated.parties, stated.attested_by)
            giver = stated.named.giver
            if giver and not self.keys_lost and _chain_of(giver) not in self.authorities:
                raise SignatureError("giver of the mandate is no active public authority")
            return
        if event.kind == EntryKind.PARTICIPANT:
            if _chain_of(stated.participant) != event.tag:
                raise MalformedError("participant is in the chain of another name")
            # It has its effect even if it is a fault, so that a report names this entry and not all that rest on it.
            self.participants[event.tag] = stated.participant
            (self.authorities.add if stated.gives_mandates else self.authorities.discard)(event.tag)
            self._verify_attester(stated.attested_by)
            return
        participant = self.participants.get(event.tag)
        if participant is not None and _chain_of(stated.attested_by) in self.participants:
            raise MalformedError("key of a participant is attested by a participant, and not by an operator")
        name = "" if participant is None else key_validity.PARTICIPANT_PREFIX + participant
        self._add_key(event, stated, name=key_validity.LEDGER_CHAIN if event.tag == codec.LEDGER_TAG else name)

    def _verify_parties(self, event: codec.Event, parties: tuple[str, ...], attested_by: str) -> None:
        """Verify that all *parties* are participants, the first owns the chain, and no participant is the attester."""
        tags = [_chain_of(one) for one in parties]
        if tags[0] != event.tag:
            raise MalformedError("entry is in the chain of another name than the participant's that it names")
        if not self.keys_lost and not self.participants.keys() >= set(tags):
            raise MalformedError("entry names one that is not a participant")
        self._verify_attester(attested_by)

    def _verify_attester(self, attested_by: str) -> None:
        """Verify that no participant attests an entry that the daemon lets operators alone attest."""
        if attested_by and _chain_of(attested_by) in self.participants:
            raise MalformedError("entry is attested by a participant, and not by an operator")

    def _add_key(self, event: codec.Event, stated: Stated, *, name: str) -> None:
        change = key_validity.key_change(
            event, stated.key, name=name, retired=stated.retired, replaces=stated.replaces,
            authority=stated.named.authority if event.kind == EntryKind.KEY else 0,
        )  # fmt: skip
        if change is not None:
            key_validity.apply_key_change(self._keys, change)


def _chain_of(participant: str) -> bytes:
    """Return the tag of a participant's chain."""
    return codec.public_tag(key_validity.PARTICIPANT_PREFIX + participant)
