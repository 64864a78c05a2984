"""The registry: vocabulary, rules, participants, delegations and mandates at one revision of the policy table.

The registry changes rarely, so all views of one revision share one value. ``view`` reads it from the table's rows.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter

from consentd.policy import actor, model
from consentd.policy.codebook import MAX_MEMO_KEY, Codebook, PackedQuestion, Parties, pack_question, remember
from consentd.policy.compile import CompiledRules
from consentd.policy.delegation import Capacity, Delegation
from consentd.statements import decisions
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

HOME_COUNTRY = "KR"
"""The country of participants that state none."""

MAX_PARTIES = 16_384
MAX_REMEMBERED_RELAYS = 4
"""Most items of the memo of parties (about 1 KiB each), and most relays in the key of one. The parties of a question
with more relays are determined for each use."""
MAX_QUESTIONS = 16_384
"""Most items of the memo of packed questions (about 1 KiB each, with a key of ``MAX_MEMO_KEY`` bytes at most)."""

Delegations = Mapping[str, Mapping[tuple[str, Capacity], Delegation]]
"""Giver → taker and capacity → the delegation."""


def is_abroad(country: str) -> bool:
    """Return whether a participant that states this country processes data in another one than the realm's."""
    return country not in ("", HOME_COUNTRY)


@dataclass(frozen=True, slots=True)
class Participant:
    """A participant as its latest statement describes it. Compiled consents and rules have ``number``, not ``id``.

    ``roles`` and ``rights`` are values of the enums of ``consentd.v1``. ``memberships`` are also those that ended.
    """

    id: str
    number: int
    roles: frozenset[int]
    rights: frozenset[int]
    memberships: tuple[model.Membership, ...]
    active: bool
    statement: st.ParticipantStatement

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the participant is a member of now."""
        return tuple(one.group for one in self.memberships if one.end == model.STILL)

    @property
    def is_abroad(self) -> bool:
        """Whether the participant processes data in another country than the realm's."""
        return is_abroad(self.statement.country)


@dataclass(frozen=True, slots=True)
class Mandate:
    """An auditor's latest mandate. *seq* is that of its entry in the auditor's chain."""

    seq: int
    statement: st.MandateStatement

    def is_in_force(self, now_ms: int) -> bool:
        """Return whether the mandate has not ended at *now_ms*, UTC milliseconds."""
        return now_ms < self.statement.end_time_ms


@dataclass(frozen=True, slots=True)
class Registry:
    """Codebook, rules, participants and delegations. They change rarely, so all consent checks share one value.

    Attributes:
        generation: number of entries that have changed the registry.
        numbers: the numbers of participants and groups, by id, and of the reserved name SUBJECT.
        delegations: those that were not ended, whether or not now is in their window.
        mandates: those that were not ended, in force or not, by auditor.
        certificate_names: the participant of each certificate name, active or not.
        campaigns: ids of the notices of which a version asked for new consents. From when consents under earlier
            versions do not count is in ``rules``.
        served_required: whether the realm's rules let every consent rest on a SERVED entry.
    """

    generation: int
    codebook: Codebook
    rules: CompiledRules
    quotas: model.Quotas
    participants: dict[str, Participant]
    numbers: dict[str, int]
    delegations: Delegations
    mandates: dict[str, "Mandate"]
    certificate_names: Mapping[str, str]
    campaigns: frozenset[str]
    served_required: bool
    # The lists that pages read, once they are sorted. Two threads may both append one; both are the same.
    _list: list[tuple[tuple[int, Delegation], ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    _everyone: list[tuple[Participant, ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    # What ``givers`` returned. Threads share this dict in the same way as the next one.
    _givers: dict[tuple[str, Capacity], frozenset[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # The parties of questions, by the names in them. Threads share this dict: each access is one dict operation.
    _parties: dict[tuple[object, ...], Parties] = field(default_factory=dict, init=False, repr=False, compare=False)
    # Packed questions, by caller and form. Threads share this dict too.
    _questions: dict[tuple[str | None, bytes], PackedQuestion] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def participant(self, participant_id: str) -> Participant | None:
        """Return a participant; None if no participant has this id."""
        return self.participants.get(participant_id)

    def parties(
        self, caller: str | None, question: model.Question | pb.Question, now_ms: int, *,
        signed_by_subject: bool = False, asker: actor.Participant | None = None,
    ) -> Parties:  # fmt: skip
        """Return the participants that a question of *caller* is decided for (``policy.actor``).

        Args:
            caller: participant id; None: the person.
            signed_by_subject: whether the person whose data are asked for signed the question.
            asker: see ``determine_parties``; the same for each use of this registry.

        Raises:
            DeniedError: the caller may not ask the question, or a name in the question is not true.
            InvalidError: the question names no organisation, no holder, or an unknown purpose.
        """
        key = _asked(caller, question, signed_by_subject)
        found = self._parties.get(key)
        if found is None or not found.from_ms <= now_ms < found.until_ms:
            found = actor.determine_parties(self, key, now_ms, asker=asker)
            if len(key.relays) <= MAX_REMEMBERED_RELAYS:
                remember(self._parties, key, found, most=MAX_PARTIES)
        return found

    def check_asker(self, caller: str, question: pb.Question, now_ms: int) -> actor.Participant:
        """Return the caller, if it has a part in the access that it asks about. Raises as ``actor.check_asker``."""
        return actor.check_asker(self, _asked(caller, question, signed_by_subject=False), now_ms)

    def packed_before(self, caller: str | None, form: bytes, now_ms: int) -> PackedQuestion | None:
        """Return a question that ``pack`` packed before, for the same *caller*; None if it did not, or not for now.

        Many questions differ in nothing but the person, whom a packed question does not name. So they are remembered
        by their *form* (``decisions.form_of``). A form has all fields but the subject. So a question with an unknown
        field has a form that no packed question has; in the subject, the caller of this function must look for one.
        """
        found = self._questions.get((caller, form))
        if found is None or not found.parties.from_ms <= now_ms < found.parties.until_ms:
            return None
        return found

    def pack(
        self, caller: str | None, question: pb.Question | model.Question, form: bytes, now_ms: int, *,
        asker: actor.Participant | None = None,
    ) -> PackedQuestion:  # fmt: skip
        """Return a question of *caller*, which no person signed, as ``evaluate`` needs it; remember it by its *form*.

        A question of break-glass is not remembered, so that ``packed_before`` never returns one.

        *caller*: participant id; None: the person. *asker*: see ``parties``.

        Raises:
            RequestError: as ``parties``, and ``decisions.pack_message`` or ``pack_question``.
        """
        parties = self.parties(caller, question, now_ms, asker=asker)
        if isinstance(question, model.Question):
            packed = pack_question(question, self.codebook, parties)
        else:
            packed = decisions.pack_message(question, self.codebook, parties)
        if len(form) <= MAX_MEMO_KEY and not packed.break_glass:
            remember(self._questions, (caller, form), packed, most=MAX_QUESTIONS)
        return packed

    def delegation(self, giver: str, taker: str, capacity: Capacity) -> Delegation | None:
        """Return the delegation of this giver, taker and capacity; None if there is none, or it was ended.

        The caller checks whether the delegation is in force now, and covers the purpose.
        """
        return self.delegations.get(giver, {}).get((taker, capacity))

    def givers(self, taker: str, capacity: Capacity) -> frozenset[int]:
        """Return the numbers of those who gave *taker* such a delegation that was not ended, and of their groups.

        Whether the delegation is in force now does not matter.
        """
        found = self._givers.get((taker, capacity))
        if found is None:
            givers = [name for name, given in self.delegations.items() if (taker, capacity) in given]
            names = (name for giver in givers for name in (giver, *self.participants[giver].groups))
            found = self._givers[taker, capacity] = frozenset(map(self.numbers.__getitem__, names))
        return found

    def delegations_after(self, position: int, giver: str = "") -> Iterator[tuple[int, Delegation]]:
        """Yield the delegations of *giver* (empty: of all) after a position, in order, each with its own position.

        Positions are greater than 0, and never change: they follow from the numbers of giver and taker.
        """
        if giver:
            found = self._placed(self.delegations.get(giver, {}).values())
        else:
            if not self._list:  # sorted once, because every page of a list reads it
                self._list.append(self._placed(one for given in self.delegations.values() for one in given.values()))
            found = self._list[0]
        return islice(found, bisect_right(found, position, key=itemgetter(0)), None)

    def _placed(self, delegations: Iterable[Delegation]) -> tuple[tuple[int, Delegation], ...]:
        numbers = self.numbers
        placed = ((numbers[one.giver] << 34 | numbers[one.taker] << 2 | one.capacity, one) for one in delegations)
        return tuple(sorted(placed, key=itemgetter(0)))

    def participants_after(self, number: int) -> Iterator[Participant]:
        """Yield the participants with a number greater than *number*, in the order of their first registrations."""
        if not self._everyone:
            self._everyone.append(tuple(sorted(self.participants.values(), key=lambda one: one.number)))
        found = self._everyone[0]
        return islice(found, bisect_right(found, number, key=lambda one: one.number), None)

    def with_delegation(self, delegation: Delegation, *, ended: bool, generation: int) -> "Registry":
        """Return the registry with *delegation* in place of an earlier one, or if *ended*, without it.

        A change of one delegation costs no read of the other rows: participants, not the operator alone, cause it.
        """
        given = dict(self.delegations.get(delegation.giver, {}))
        given.pop((delegation.taker, delegation.capacity), None)
        if not ended:
            given[delegation.taker, delegation.capacity] = delegation
        return replace(self, generation=generation, delegations={**self.delegations, delegation.giver: given})

    def with_campaign(self, notice_id: str, instants: Mapping[int, int], *, generation: int) -> "Registry":
        """Return the registry after a version of a notice that asks for new consents.

        *instants*: number of a version → the instant from which consents under it are paused.
        """
        rules = replace(self.rules, campaigns={**self.rules.campaigns, **instants})
        return replace(self, generation=generation, rules=rules, campaigns=self.campaigns | {notice_id})

    def with_participant(
        self, participant: Participant, groups: Mapping[str, int], *, generation: int
    ) -> "Registry":
        """Return the registry with *participant*, in place of an earlier one of the same id.

        No other row is read. With 10,000 participants, that would take a tenth of a second of the thread that writes.

        *groups*: the numbers of the groups that the participant is in, by name.
        """
        whose, earlier = participant.id, self.participants.get(participant.id)
        numbers = {**self.numbers, **groups, whose: participant.number}
        certificate_names = dict(self.certificate_names)
        for name in () if earlier is None else earlier.statement.certificate_names:
            certificate_names.pop(name, None)
        before = self.codebook
        codebook = Codebook(
            before.vocabulary,
            numbers,
            {**before.memberships, whose: participant.memberships},
            abroad=before.abroad - {whose} | ({whose} if participant.is_abroad else set()),
        )
        return replace(
            self,
            generation=generation,
            codebook=codebook,
            participants={**self.participants, whose: participant},
            numbers=numbers,
            certificate_names=certificate_names | dict.fromkeys(participant.statement.certificate_names, whose),
        )


def _asked(caller: str | None, question: model.Question | pb.Question, signed_by_subject: bool) -> actor.Asked:
    who = question.actor
    return actor.Asked(
        caller, who.organisation, who.on_behalf_of, who.application, tuple(who.relays), question.holder,
        question.purpose, signed_by_subject,
    )  # fmt: skip


MAX_LISTED = 4
"""Most registries that a process keeps for lists of several pages. Registries of one ledger share most of their values,
unless a participant was registered between them."""


@dataclass(slots=True)
class RegistryCache:
    """The registries that were read in this process.

    Any thread may assign ``registry`` and ``listed``. A reader uses a registry only if its generation is the one it
    looks for. The other attributes are for the thread that writes.

    Attributes:
        registry: the one that was read last.
        listed: those at which lists of several pages were begun, oldest first. If two threads assign it at the same
            time, one registry is lost: a list that needs it must begin again.
        tags: ids of participants by the tags of their chains (``chain_owners``), for *tags_generation*; -1: for none.
        mended: how often this process has mended a shared row. It is in row ``H``, for readers in other processes.
    """

    registry: Registry | None = None
    listed: tuple[Registry, ...] = ()
    tags: dict[bytes, str] = field(default_factory=dict)
    tags_generation: int = -1
    mended: int = 0

    def keep(self, registry: Registry) -> None:
        """Keep a registry for the later pages of a list, without what its functions remember."""
        kept = [one for one in self.listed if one.generation == registry.generation] or [replace(registry)]
        others = [one for one in self.listed if one.generation != registry.generation]
        self.listed = (*others, *kept)[-MAX_LISTED:]
