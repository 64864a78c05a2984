"""Delegations in a ``LedgerCase``: written by an operator or signed by the giver, and forged."""

from typing import Any

from cases.ledgers import LedgerCase, Person
from consentd.core import codec, ed25519
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.policy.delegation import Capacity
from consentd.sequencer.commands.registry import PublicWrite
from consentd.v1 import statement_pb2 as st


def relay(case: LedgerCase) -> None:
    """Register participant ``relay``, which has no other role."""
    registration = case.participant("relay")
    registration.message.roles[:] = [st.PARTICIPANT_ROLE_RELAY]
    case.write(registration)


def statement(
    giver: str = "hospital", taker: str = "relay", capacity: int = Capacity.RELAY, **fields: Any
) -> st.DelegationStatement:
    """Return a statement, by default that the relay relays for the hospital."""
    return st.DelegationStatement(giver=giver, taker=taker, capacity=capacity, **fields)


def write(
    case: LedgerCase, message: st.DelegationStatement, *, key: ed25519.KeyPair | None = None, signer: str = ""
) -> PublicWrite[st.DelegationStatement]:
    """Return the write of a delegation, signed with *key*; None: an operator attests it.

    *signer*: the participant whose key it must be; empty: the giver.
    """
    chain = PARTICIPANT_PREFIX + message.giver
    request = case.request(chain, message.SerializeToString(deterministic=True), asker=message.giver)
    signed = None
    if key is None:
        message.attestation.attested_by = "operator"
    else:
        owner = Person(b"", codec.public_tag(chain))
        signed = case.sign(key, EntryKind.DELEGATION, owner, message, request.id)
    return PublicWrite(
        kind=EntryKind.DELEGATION, request=request, chain=chain, message=message, signed=signed,
        signer=(signer or message.giver) if key is not None else "",
    )  # fmt: skip
