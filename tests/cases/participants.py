"""Participants and delegations for tests of pure code: what ``policy.actor`` reads of a registry."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from consentd.policy.actor import Asked, determine_parties
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import Question

BOTH = frozenset({1, 2})  # the roles HOLDER and RECIPIENT


@dataclass(frozen=True)
class Party:
    """A registered participant."""

    active: bool = True
    roles: frozenset[int] = BOTH
    rights: frozenset[int] = frozenset()


@dataclass
class Directory:
    """A registry with chosen participants and delegations."""

    codebook: Codebook
    participants: Mapping[str, Party]
    delegations: Iterable[Delegation] = ()

    def participant(self, participant_id: str) -> Party | None:
        return self.participants.get(participant_id)

    def delegation(self, giver: str, taker: str, capacity: Capacity) -> Delegation | None:
        wanted = (giver, taker, capacity)
        return next((one for one in self.delegations if (one.giver, one.taker, one.capacity) == wanted), None)


@dataclass
class Trusting(Directory):
    """A registry in which all participants have all roles and rights, and everyone delegates everything to everyone."""

    participants: Mapping[str, Party] = field(default_factory=dict)
    left: Collection[str] = ()
    """Participants that are not active any more."""
    blind: Collection[str] = ()
    """Participants without the right SEE_REASONS."""

    def participant(self, participant_id: str) -> Party | None:
        active = participant_id not in self.left
        rights = frozenset({1, 3} if participant_id in self.blind else {1, 2, 3})
        return Party(active, rights=rights) if participant_id in self.codebook.names.values() else None

    def delegation(self, giver: str, taker: str, capacity: Capacity) -> Delegation | None:
        return Delegation(giver=giver, taker=taker, capacity=capacity, break_glass=True)


def asked_of(question: Question, caller: str | None, *, signed_by_subject: bool = False) -> Asked:
    """Return the names of a question."""
    actor = question.actor
    return Asked(
        caller, actor.organisation, actor.on_behalf_of, actor.application, actor.relays, question.holder,
        question.purpose, signed_by_subject,
    )


def parties(
    question: Question, codebook: Codebook, *, caller: str | None = None, left: Collection[str] = (),
    blind: Collection[str] = (),
) -> Parties:  # fmt: skip
    """Return the parties of a question where everyone delegates everything. Without *caller*, the organisation asks."""
    caller = question.actor.organisation if caller is None else caller
    return _trusted(codebook, asked_of(question, caller), tuple(left), tuple(blind))


@lru_cache(maxsize=1 << 16)
def _trusted(codebook: Codebook, asked: Asked, left: tuple[str, ...], blind: tuple[str, ...]) -> Parties:
    """Return the parties of a question where everyone delegates everything. Tests ask the same few names very often."""
    return determine_parties(Trusting(codebook, left=left, blind=blind), asked, 0)


def pack(
    question: Question, codebook: Codebook, *, caller: str | None = None, left: Collection[str] = (),
    blind: Collection[str] = (),
) -> PackedQuestion:  # fmt: skip
    """Pack a question where everyone delegates everything. Without *caller*, the organisation asks."""
    return pack_question(question, codebook, parties(question, codebook, caller=caller, left=left, blind=blind))
