"""Histories for tests: a ledger of two persons and a participant, and a proof verified as a client verifies it."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cases.ledgers import LOG, ORIGIN, LedgerCase, Person
from consentd.core import checkpoint, ed25519
from consentd.core.history import (
    ChainProof,
    HeldChain,
    HistoryProof,
    VerifiedEntry,
    verify_chain,
    verify_sealed_checkpoint,
)
from consentd.core.key_validity import KeyChange, valid_keys, verify_authors
from consentd.core.kinds import EntryKind
from consentd.errors import ProofError
from consentd.statements import values

BANK = ed25519.KeyPair(b"\x21" * 32)
CITIZEN = ed25519.KeyPair(b"\x22" * 32)
OTHER = ed25519.KeyPair(b"\x23" * 32)
CHAINS = ("ledger", "participant/bank")


def live(case: LedgerCase, person: Person) -> None:
    """Let a person grant, be asked about, pause, resume and revoke: twelve entries by four authors."""
    lineage = case.write(case.grant(person, signed=True)).entry.event.seq
    for _ in range(2):
        seq = case.write(case.access(person)).entry.event.seq
        case.write(case.outcome(person, seq, key=BANK))
    case.write(case.access(person, purpose="HRESCH"))
    case.seal()
    for kind in (EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE):
        case.write(case.change(person, lineage, kind))
    case.write(case.access(person))


def changes_of(chain: ChainProof, entries: tuple[VerifiedEntry, ...]) -> Iterator[KeyChange]:
    """Yield the changes of keys that a chain's entries state."""
    for entry in entries:
        if entry.statement is not None:
            change = values.stated_key(entry.event, entry.statement.payload, chain=chain.public_name)
            if change is not None:
                yield change


def verify(
    proof: HistoryProof,
    tag: bytes,
    *,
    held: checkpoint.Checkpoint | None = None,
    held_chain: HeldChain | None = None,
    changes: tuple[KeyChange, ...] = (),
) -> list[tuple[VerifiedEntry, ...]]:
    """Verify a whole proof of the chain of *tag*, as a client does; *changes* of keys are those it held before."""
    sealed = verify_sealed_checkpoint(proof, origin=ORIGIN, log_verifier=LOG.verifier, held=held)
    chains = [
        verify_chain(chain, sealed=sealed, held=None if location else held_chain)
        for location, chain in enumerate(proof.chains)
    ]
    if not proof.chains or proof.chains[0].tag != tag:
        raise ProofError("history is of another chain")
    both = list(zip(proof.chains, chains, strict=True))
    keys = valid_keys([*changes, *itertools.chain.from_iterable(changes_of(*one) for one in both)])
    for _, entries in both:
        verify_authors(entries, origin=ORIGIN, keys=keys)
    return chains


def with_chain(proof: HistoryProof, location: int = 0, **changes: Any) -> HistoryProof:
    chains = list(proof.chains)
    chains[location] = replace(chains[location], **changes)
    return replace(proof, chains=tuple(chains))


def with_entry(proof: HistoryProof, location: int, at: int, **changes: Any) -> HistoryProof:
    entries = list(proof.chains[location].entries)
    entries[at] = replace(entries[at], **changes)
    return with_chain(proof, location, entries=tuple(entries))
