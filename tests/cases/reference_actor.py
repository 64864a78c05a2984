"""The reference for who is the actor (policy.md, rule 10), in sets, from the text of the rule alone.

What the rule leaves to a reader is settled here:

* A name in a question is either shown by a delegation or refuses the whole question; only activity is softer: where the
  organisation, on_behalf_of or the holder has left, the question is answered, and no permit counts, nor a default.
* The holder has the role HOLDER. Without this anybody could call itself the holder of data that it never had.
* A relay, application or caller that has left is no active one, so it is refused.
* For the person (SUBJECT) a participant with the right to act for persons is a delegated relay or application, and so
  is one that the question names, if the person signed it. Others who hold a signed question ask as nobody.
* `valid_until` counts the windows of all delegations that could show what the question says.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from cases.participants import Party
from consentd.errors import DeniedError
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import Question

Needed = tuple[str, str, Capacity]
RELAY, PROCESSOR, APPLICATION = Capacity.RELAY, Capacity.PROCESSOR, Capacity.APPLICATION
HOLDER, RECIPIENT = 1, 2
BREAK_GLASS, SEE_REASONS, ACT_FOR_SUBJECTS = 1, 2, 3


@dataclass
class Who:
    """Names that permits are matched with (none: no permit counts), and denies; the instants for `valid_until`.

    *is_holder*: whether the caller is the holder (rule 9). *sees_reasons*: whether it may learn what is not permitted,
    and why.
    """

    permits: set[str]
    denies: set[str]
    bounds: set[int]
    may_break_glass: bool = True
    is_holder: bool = False
    sees_reasons: bool = False

    @property
    def gets_conditions(self) -> bool:
        """Whether a permit on conditions is one for the caller (rule 5)."""
        return self.sees_reasons or self.is_holder


def stated(
    question: Question, caller: str | None = None, left: Collection[str] = (), seeing: Collection[str] = ()
) -> Who:
    """What a question says of itself, with nothing in doubt. *left*: who is not active. *seeing*: who has the right
    SEE_REASONS. Without *caller*, the organisation asks.
    """
    actor, holder = question.actor, question.holder
    caller = actor.organisation if caller is None else caller
    denies = {actor.organisation, actor.on_behalf_of, actor.application, *actor.relays} - {""}
    gone = {actor.organisation, actor.on_behalf_of, holder} & set(left)
    return Who(
        permits=set() if gone else {actor.on_behalf_of or actor.organisation},
        denies=denies | ({caller} - {holder}),
        bounds=set(),
        is_holder=caller == holder,
        sees_reasons=actor.organisation == "SUBJECT" or caller in seeing,
    )


def to_show(question: Question, caller: str | None) -> tuple[list[set[Needed]], list[set[Needed]]]:
    """What has to be shown, each by one delegation of a set: of the names in the question, and of the caller."""
    actor, holder = question.actor, question.holder
    pair = {actor.organisation, holder}
    named = [{(actor.on_behalf_of, actor.organisation, PROCESSOR)}] if actor.on_behalf_of else []
    named += [set(product(pair, [relay], [RELAY])) for relay in actor.relays]
    if actor.application:
        named.append(set(product({*pair, actor.on_behalf_of}, [actor.application], [APPLICATION])))
    asking = [set(product(pair, [caller], [RELAY, APPLICATION]))] if caller and caller not in pair else []
    return named, asking


def who(
    question: Question, caller: str | None, participants: Mapping[str, Party], delegations: Sequence[Delegation],
    now_ms: int, *, signed: bool = False,
) -> Who:  # fmt: skip
    """Say who asks; DeniedError where something was merely asserted. *caller* None: the person."""
    actor, holder = question.actor, question.holder
    person = actor.organisation == "SUBJECT"
    wanting = {actor.organisation, actor.on_behalf_of} - {"", "SUBJECT"}
    carriers = {actor.application, *actor.relays} - ({""} if "" not in actor.relays else set())
    for name in {*wanting, *carriers, holder}:
        if name not in participants:
            raise DeniedError("no registered participant", "ACTOR_NOT_ALLOWED")
    if any(not participants[name].roles & {HOLDER, RECIPIENT} for name in wanting):
        raise DeniedError("neither recipient nor holder", "ACTOR_NOT_ALLOWED")
    if HOLDER not in participants[holder].roles or any(not participants[name].active for name in carriers):
        raise DeniedError("no holder, or one that has left", "ACTOR_NOT_ALLOWED")
    covering = {
        (one.giver, one.taker, one.capacity): one for one in delegations
        if (one.break_glass if question.purpose == "BTG" else not one.purposes or question.purpose in one.purposes)
    }  # fmt: skip

    def shown(each: set[Needed], taker: str) -> bool:
        carries = PROCESSOR not in {capacity for _, _, capacity in each}
        by_person = signed and taker in carriers
        if person and carries and (by_person or ACT_FOR_SUBJECTS in participants[taker].rights):
            return True
        return any(one in covering and covering[one].start_ms <= now_ms < covering[one].end_ms for one in each)

    named, asking = to_show(question, caller)
    if not all(shown(each, next(iter(each))[1]) for each in named):
        raise DeniedError("no delegation", "ACTOR_NOT_ALLOWED")
    if caller is not None:
        if caller not in participants or not participants[caller].active:
            raise DeniedError("caller is not active", "CALLER_NOT_ALLOWED")
        if person and (ACT_FOR_SUBJECTS in participants[caller].rights or (signed and caller in carriers)):
            asking = []
        elif person and not signed:
            raise DeniedError("not the person", "CALLER_NOT_ALLOWED")
        elif not all(shown(each, caller) for each in asking):
            raise DeniedError("no part in it", "CALLER_NOT_ALLOWED")
    used = [covering[one] for each in named + asking for one in each if one in covering]
    denies = {*wanting, *carriers, *({"SUBJECT"} if person else ())}
    if caller is not None and caller != holder:
        denies.add(caller)
    stay = all(participants[name].active for name in {*wanting, holder})
    return Who(
        permits={actor.on_behalf_of or actor.organisation} if stay else set(),
        denies=denies,
        bounds={bound for one in used for bound in (one.start_ms, one.end_ms) if bound > now_ms},
        may_break_glass=bool(wanting)
        and all(participants[name].active and BREAK_GLASS in participants[name].rights for name in wanting),
        is_holder=caller == holder,
        sees_reasons=person or caller is None or SEE_REASONS in participants[caller].rights,
    )
