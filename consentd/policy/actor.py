"""Determine who asks a question, and which participants it is decided for (policy.md, rule 10).

A question names participants: the organisation that wants the data, and perhaps the participant that it acts for, an
application and relays. A name in a question proves nothing. The caller was authenticated, and DELEGATION entries of the
ledger say who may act for whom::

    the caller is        the organisation, the holder, or a relay or application of one of these two
    on_behalf_of         gave the organisation a delegation as its processor
    application          has a delegation of the organisation, on_behalf_of or the holder
    each relay           has a delegation of the organisation or the holder

A delegation counts if it covers the question's purpose and is in force. Delegations are direct, never chained.

The reserved name SUBJECT as organisation means the person whose data are asked for. Then the caller must have the right
to act for persons; or the person signed the question, and the question names the caller as application or relay, or the
caller is the holder, or a relay or application of the holder.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from consentd.errors import DeniedError, InvalidError
from consentd.policy.codebook import NO_GROUPS, Codebook, Parties, merged
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import OPEN_END_MS, SUBJECT

SUBJECT_NUMBER: Final = (1 << 32) - 1
"""The number of ``SUBJECT`` in rows. Participants and groups have numbers that are counted from 1."""

_DELEGATED: Final = (Capacity.RELAY, Capacity.APPLICATION)
"""The capacities in which a participant may ask another participant's questions."""


class Role(IntEnum):
    """The roles that a question needs. ``consentd.v1.ParticipantRole`` has the same numbers."""

    HOLDER = 1
    RECIPIENT = 2


class Right(IntEnum):
    """The rights that a question needs. ``consentd.v1.ParticipantRight`` has the same numbers."""

    BREAK_GLASS = 1
    SEE_REASONS = 2
    ACT_FOR_SUBJECTS = 3


class Participant(Protocol):
    """What this module reads of a registered participant."""

    @property
    def active(self) -> bool:
        """Whether the participant takes part now."""

    @property
    def roles(self) -> frozenset[int]:
        """The roles of the participant."""

    @property
    def rights(self) -> frozenset[int]:
        """The rights of the participant."""


class Directory(Protocol):
    """The registered participants, their numbers, and their delegations, at one revision of the policy table."""

    @property
    def codebook(self) -> Codebook:
        """The numbers and groups of participants."""

    def participant(self, participant_id: str) -> Participant | None:
        """Return a participant; None if there is none with this id."""

    def delegation(self, giver: str, taker: str, capacity: Capacity) -> Delegation | None:
        """Return the delegation of this giver, taker and capacity; None if there is none."""


class Asked(NamedTuple):
    """The names that determine the parties of a question.

    Attributes:
        caller: participant id of the caller; None: the person asks about their own data, without a participant.
        signed_by_subject: whether a key of the person whose data are asked for signed the question.
    """

    caller: str | None
    organisation: str
    on_behalf_of: str
    application: str
    relays: tuple[str, ...]
    holder: str
    purpose: str
    signed_by_subject: bool

    @property
    def is_signed_by_subject(self) -> bool:
        """Whether the person asks, and signed the question."""
        return self.organisation == SUBJECT and self.signed_by_subject


def determine_parties(
    directory: Directory, asked: Asked, now_ms: int, *, asker: Participant | None = None
) -> Parties:
    """Check that the caller may ask a question, and that each name in the question is true; return its parties.

    *asker*: the caller as it is today, if ``check_asker`` found that it may ask about this earlier *directory*.

    Raises:
        DeniedError: CALLER_NOT_ALLOWED: the caller is not active, or has no part in the access. ACTOR_NOT_ALLOWED: the
            question names a participant that is not registered, lacks a role, or has no delegation.
        InvalidError: the question names no organisation or no holder, or an unknown purpose (UNKNOWN_PURPOSE).
    """
    if not asked.organisation:
        raise InvalidError("question names no organisation")
    if not asked.holder:
        raise InvalidError("question names no holder")
    if asked.purpose not in directory.codebook.vocabulary.purpose.bits:
        raise InvalidError(f"purpose is not in the vocabulary: `{asked.purpose}`", "UNKNOWN_PURPOSE")
    return _Check(directory, asked, now_ms, asker).parties()


def check_asker(directory: Directory, asked: Asked, now_ms: int) -> Participant:
    """Check that the caller has a part in the access that it asks about; return the caller, which is a participant.

    Raises:
        DeniedError: CALLER_NOT_ALLOWED: the caller is not active, or has no part in the access.
    """
    caller = _Check(directory, asked, now_ms).check_caller()
    assert caller is not None, "a person asks from no earlier tree"
    return caller


class _Check:
    """The check of one question at one instant. ``from_ms`` and ``until_ms`` become those of ``Parties``."""

    def __init__(
        self, directory: Directory, asked: Asked, now_ms: int, asker: Participant | None = None
    ) -> None:
        self._directory = directory
        self._asked = asked
        self._now_ms = now_ms
        self._asker = asker
        self._from_ms = 0
        self._until_ms = OPEN_END_MS

    def parties(self) -> Parties:
        asked = self._asked
        wanting = [self._with_role(name, Role.RECIPIENT, Role.HOLDER) for name in self._wanting()]
        holder = self._with_role(asked.holder, Role.HOLDER)
        self._check_processor()
        self._check_carriers()
        caller = self.check_caller()
        codebook = self._directory.codebook
        principal = asked.on_behalf_of or asked.organisation
        denied = {asked.organisation, asked.on_behalf_of, asked.application, *asked.relays} - {""}
        if asked.caller is not None and asked.caller != asked.holder:
            denied.add(asked.caller)
        is_active = holder.active and all(one.active for one in wanting)
        # The person may see them, who asks about her own data.
        sees_reasons = caller is None or asked.organisation == SUBJECT or Right.SEE_REASONS in caller.rights
        return Parties(
            permit_actors=codebook.permit_numbers(principal) if is_active else frozenset(),
            deny_actors=frozenset().union(*map(codebook.numbers, denied)),
            holders=codebook.numbers(asked.holder),
            permit_groups=codebook.permit_groups(principal) if is_active else NO_GROUPS,
            deny_groups=merged(*map(codebook.groups, denied)),
            holder_groups=codebook.groups(asked.holder),
            is_holder=asked.caller == asked.holder,
            sees_reasons=sees_reasons,
            # The holder applies them. Who asks for the holder is not the holder (policy.md, rule 5).
            gets_conditions=sees_reasons or asked.caller == asked.holder,
            # The person has no right to break the glass.
            may_break_glass=asked.organisation != SUBJECT
            and all(one.active and Right.BREAK_GLASS in one.rights for one in wanting),
            from_ms=self._from_ms,
            until_ms=self._until_ms,
        )

    def _wanting(self) -> list[str]:
        """Return the participants that want the data: the organisation, unless it is the person, and on_behalf_of."""
        names = [self._asked.organisation, self._asked.on_behalf_of]
        return [name for name in names if name not in ("", SUBJECT)]

    def _with_role(self, name: str, *roles: Role) -> Participant:
        found = self._registered(name)
        if found.roles.isdisjoint(roles):
            raise _actor_error("question names a participant that does not have the role", name)
        return found

    def _registered(self, name: str) -> Participant:
        """Return a participant. A group is none."""
        found = self._directory.participant(name)
        if found is None:
            raise _actor_error("question names an actor or holder that is no registered participant", name, _LISTED)
        return found

    def _check_processor(self) -> None:
        asked = self._asked
        if not asked.on_behalf_of:
            return
        if not self._has_delegation((asked.on_behalf_of,), asked.organisation, (Capacity.PROCESSOR,)):
            raise _actor_error("organisation is no processor of the participant that it acts for", asked.on_behalf_of)

    def _check_carriers(self) -> None:
        """Check the application and the relays that a question names."""
        asked = self._asked
        pair = (asked.organisation, asked.holder)
        named: list[tuple[str, tuple[str, ...], Capacity]] = []
        named += ((name, pair, Capacity.RELAY) for name in dict.fromkeys(asked.relays))
        if asked.application:
            named.append((asked.application, (*pair, asked.on_behalf_of), Capacity.APPLICATION))
        for name, givers, capacity in named:
            one = self._registered(name)
            is_delegated = self._has_delegation(givers, name, (capacity,))
            # The person who signs a question delegates to those whom the question names.
            if not one.active or not (is_delegated or asked.is_signed_by_subject or self._acts_for_subject(one)):
                what = f"question names a participant without a delegation as {capacity.name}"
                raise _actor_error(what, name, "the organisation or the holder gives one with PutDelegation")

    def check_caller(self) -> Participant | None:
        """Check that the caller may ask the question; return the caller, or None for the person."""
        asked = self._asked
        if asked.caller is None:
            return None
        one = self._asker or self._directory.participant(asked.caller)
        if one is None or not one.active:
            raise DeniedError(f"caller is not an active participant: `{asked.caller}`: an operator registers it")
        # This is done for an asker of today too, for the times of the delegations that it had.
        is_party = self._carries_for_subject(one) if asked.organisation == SUBJECT else self._is_party(asked.caller)
        if not is_party and self._asker is None:
            raise DeniedError("caller is neither the organisation nor the holder, and has no delegation of either")
        return one

    def _is_party(self, caller: str) -> bool:
        pair = (self._asked.organisation, self._asked.holder)
        return caller in pair or self._has_delegation(pair, caller, _DELEGATED)

    def _carries_for_subject(self, caller: Participant) -> bool:
        """Return whether the caller may ask as the person.

        A signature alone is not enough: who got hold of a signed question could send it as a question of its own.
        """
        asked = self._asked
        if self._acts_for_subject(caller):
            return True
        assert asked.caller is not None, "the person was let through before"
        named = asked.caller in (asked.application, *asked.relays)
        return asked.is_signed_by_subject and (named or self._is_party(asked.caller))

    def _acts_for_subject(self, one: Participant) -> bool:
        return self._asked.organisation == SUBJECT and Right.ACT_FOR_SUBJECTS in one.rights

    def _has_delegation(self, givers: Iterable[str], taker: str, capacities: Iterable[Capacity]) -> bool:
        """Return whether one of *givers* gave *taker* a delegation that covers the question's purpose now.

        This reads all the delegations, also after it found one: the answer is valid until the first of their times.
        """
        found = False
        for giver in set(givers) - {""}:
            for capacity in capacities:
                one = self._directory.delegation(giver, taker, capacity)
                if one is not None and one.covers(self._asked.purpose):
                    found |= one.is_in_force(self._now_ms)
                    self._add_bound(one.start_ms)
                    self._add_bound(one.end_ms)
        return found

    def _add_bound(self, at_ms: int) -> None:
        if at_ms <= self._now_ms:
            self._from_ms = max(self._from_ms, at_ms)
        else:
            self._until_ms = min(self._until_ms, at_ms)


_LISTED = "ListParticipants has the ids"


def _actor_error(message: str, name: str, then: str = "") -> DeniedError:
    """Return the error for a name in a question. *then*: what to do."""
    return DeniedError(f"{message}: `{name}`" + (then and f": {then}"), "ACTOR_NOT_ALLOWED")
