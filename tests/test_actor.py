"""Who is the actor (policy.md, rule 10): ``policy.actor`` against cases by hand, and against the reference."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import reference_actor
from cases.participants import Directory, Party, asked_of
from cases.policy_worlds import CODEBOOK, INSTANTS, Draw, World, comparable
from consentd.errors import DeniedError, InvalidError
from consentd.policy import model
from consentd.policy.actor import SUBJECT_NUMBER, Right, Role, determine_parties
from consentd.policy.codebook import Codebook, Parties
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import (
    OPEN_END_MS,
    STILL,
    SUBJECT,
    Actor,
    Consent,
    Effect,
    Kind,
    Membership,
    Provision,
    Question,
    StoredConsent,
)
from consentd.v1 import statement_pb2 as pb_st

RELAY, PROCESSOR, APPLICATION = Capacity.RELAY, Capacity.PROCESSOR, Capacity.APPLICATION
NAMES = ("clinic", "lab", "hospital", "relay", "software", "auditor", "citizens-app")
CODES = Codebook(
    DEFAULT_VOCABULARY,
    {name: number for number, name in enumerate((*NAMES, "group/carers"), 1)} | {SUBJECT: SUBJECT_NUMBER},
    {"clinic": [Membership("group/carers")], "lab": [Membership("group/carers", 3, 5)]},
)
RECEIVES, HOLDS, NO_ROLE = frozenset({2}), frozenset({1}), frozenset({4})
PARTIES = {
    "clinic": Party(roles=RECEIVES), "lab": Party(roles=RECEIVES), "hospital": Party(roles=HOLDS),
    "relay": Party(roles=frozenset({3})), "software": Party(roles=frozenset({3})), "auditor": Party(roles=NO_ROLE),
    "citizens-app": Party(roles=frozenset({3}), rights=frozenset({3})),
}  # fmt: skip
NOW = 1_000


def gave(giver: str, taker: str, capacity: Capacity = RELAY, **more: object) -> Delegation:
    return Delegation(giver=giver, taker=taker, capacity=capacity, **more)  # type: ignore[arg-type]


def ask(organisation: str = "clinic", holder: str = "hospital", purpose: str = "TREAT", **actor: object) -> Question:
    who = Actor(organisation=organisation, **actor)  # type: ignore[arg-type]
    return Question(
        actor=who, holder=holder, purpose=purpose, action="access", categories=("CLIN.DX",),
        break_glass="unconscious" if purpose == "BTG" else None,
    )  # fmt: skip


def determine(
    question: Question, caller: str | None, *delegations: Delegation, signed_by_subject: bool = False, **changed: Party
) -> Parties:
    """Determine the parties where *changed* participants (dashes as underscores) replace those of ``PARTIES``."""
    parties = PARTIES | {name.replace("_", "-"): party for name, party in changed.items()}
    asked = asked_of(question, caller, signed_by_subject=signed_by_subject)
    return determine_parties(Directory(CODES, parties, delegations), asked, NOW)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DeniedError) as caught:
        call()
    return caught.value.reason


def numbers(*names: str) -> set[int]:
    return {0}.union(*(CODES.numbers(name) for name in names))


def test_the_numbers_of_roles_and_rights_are_those_of_the_messages() -> None:
    for role in Role:
        assert pb_st.ParticipantRole.Name(role) == f"PARTICIPANT_ROLE_{role.name}"
    for right in Right:
        assert pb_st.ParticipantRight.Name(right) == f"PARTICIPANT_RIGHT_{right.name}"


@pytest.mark.parametrize(
    ("caller", "delegations"),
    [
        ("clinic", ()),
        ("hospital", ()),
        ("relay", (gave("clinic", "relay"),)),
        ("relay", (gave("hospital", "relay"),)),
        ("software", (gave("clinic", "software", APPLICATION),)),
        ("software", (gave("hospital", "software", APPLICATION),)),
        (None, ()),
    ],
)
def test_a_caller_with_a_part_in_the_access_may_ask(caller: str | None, delegations: tuple[Delegation, ...]) -> None:
    parties = determine(ask(), caller, *delegations)
    assert parties.permit_actors == numbers("clinic")
    denied = {caller} - {None, "hospital"} | {"clinic"}
    assert parties.deny_actors == numbers(*denied)
    assert parties.holders == numbers("hospital")


@pytest.mark.parametrize(
    ("caller", "delegations"),
    [
        ("auditor", ()),
        ("relay", ()),
        ("unregistered", ()),
        ("group/carers", ()),
        ("operator/first", ()),
        ("", ()),
        ("citizens-app", ()),  # the right to act for persons is not one to ask for institutions
        ("relay", (gave("lab", "relay"),)),  # of somebody else
        ("relay", (gave("relay", "clinic"),)),  # the other way round
        ("relay", (gave("clinic", "relay", PROCESSOR),)),
        ("relay", (gave("clinic", "software", APPLICATION), gave("software", "relay"))),  # chained
        ("relay", (gave("clinic", "relay", start_ms=NOW + 1),)),
        ("relay", (gave("clinic", "relay", end_ms=NOW),)),
        ("relay", (gave("clinic", "relay", purposes=("HRESCH",)),)),
        ("relay", (gave("clinic", "relay", purposes=("CAREMGT",)),)),
    ],
)
def test_a_caller_without_a_part_is_refused(caller: str, delegations: tuple[Delegation, ...]) -> None:
    assert refused(lambda: determine(ask(), caller, *delegations)) == "CALLER_NOT_ALLOWED"


def test_reasons_are_for_the_right_and_the_person() -> None:
    sees = replace(PARTIES["clinic"], rights=frozenset({2}))
    assert determine(ask(), "clinic", clinic=sees).sees_reasons
    assert not determine(ask(), "hospital", clinic=sees).sees_reasons
    assert not determine(ask(), "clinic").sees_reasons
    assert determine(ask(SUBJECT), None).sees_reasons
    assert determine(ask(SUBJECT), "citizens-app").sees_reasons


def test_a_caller_that_left_is_refused() -> None:
    for caller in ("clinic", "hospital", "relay"):
        left = {caller: replace(PARTIES[caller], active=False)}
        assert refused(lambda caller=caller, left=left: determine(
            ask(), caller, gave("clinic", "relay"), **left
        )) == "CALLER_NOT_ALLOWED"  # fmt: skip


@pytest.mark.parametrize(
    "question",
    [
        ask("group/carers"),
        ask("*"),
        ask("stranger"),
        ask("auditor"),
        ask("relay"),
        ask(holder="auditor"),
        ask(holder="clinic"),  # it has no role HOLDER
        ask(holder="stranger"),
        ask(holder=SUBJECT),
        ask(on_behalf_of="lab"),
        ask(on_behalf_of="stranger"),
        ask(on_behalf_of="clinic"),
        ask(on_behalf_of=SUBJECT),
        ask(application="software"),
        ask(application="clinic"),
        ask(relays=("relay",)),
        ask(relays=("",)),
        ask(relays=("clinic",)),
    ],
)
def test_a_name_that_nothing_shows_is_refused(question: Question) -> None:
    for caller in ("clinic", "auditor", None):
        assert refused(lambda caller=caller: determine(question, caller)) == "ACTOR_NOT_ALLOWED"


def test_all_names_of_a_question_are_shown_by_delegations() -> None:
    question = ask("lab", on_behalf_of="clinic", application="software", relays=("relay", "citizens-app"))
    given = [
        gave("clinic", "lab", PROCESSOR),
        gave("clinic", "software", APPLICATION),
        gave("lab", "relay"),
        gave("hospital", "citizens-app"),
    ]
    parties = determine(question, "relay", *given)
    assert parties.permit_actors == numbers("clinic")
    assert parties.deny_actors == numbers("clinic", "lab", "software", "relay", "citizens-app")
    for missing in given:
        rest = [one for one in given if one is not missing]
        assert refused(lambda rest=rest: determine(question, "lab", *rest)) == "ACTOR_NOT_ALLOWED"
    # A relay of the participant acted for is no relay of the organisation.
    others = [*given[:2], gave("clinic", "relay"), given[3]]
    assert refused(lambda: determine(question, "lab", *others)) == "ACTOR_NOT_ALLOWED"
    left = replace(PARTIES["relay"], active=False)
    assert refused(lambda: determine(question, "lab", *given, relay=left)) == "ACTOR_NOT_ALLOWED"


@pytest.mark.parametrize("name", ["clinic", "lab", "hospital"])
def test_a_participant_that_left_matches_no_permit_and_every_deny(name: str) -> None:
    question = ask("lab", on_behalf_of="clinic")
    left = {name: replace(PARTIES[name], active=False)}
    parties = determine(question, "relay", gave("clinic", "lab", PROCESSOR), gave("lab", "relay"), **left)
    assert parties.permit_actors == frozenset()
    assert parties.deny_actors == numbers("clinic", "lab", "relay")


def test_groups_are_those_of_the_same_participants() -> None:
    carers = next(number for number, name in CODES.names.items() if name == "group/carers")
    question = ask("lab", on_behalf_of="clinic")
    processor = gave("clinic", "lab", PROCESSOR)
    parties = determine(question, "hospital", processor)
    assert parties.permit_groups == {carers: ((0, STILL),)}
    assert set(parties.deny_groups) == {carers}
    assert set(parties.deny_groups[carers]) == {(0, STILL), (3, 5)}
    assert parties.holder_groups == {}
    left = {"clinic": replace(PARTIES["clinic"], active=False)}
    parties = determine(question, "hospital", processor, **left)
    assert (parties.permit_groups, set(parties.deny_groups)) == ({}, {carers})
    abroad = Codebook(DEFAULT_VOCABULARY, {"clinic": 1, "group/carers": 2}, CODES.memberships, abroad=("clinic",))
    assert (abroad.permit_numbers("clinic"), abroad.permit_groups("clinic")) == ({1}, {})
    assert set(abroad.groups("clinic")) == {2}


def test_the_holder_who_asks_is_known() -> None:
    assert determine(ask(), "hospital").is_holder
    for caller in ("clinic", None):
        assert not determine(ask(), caller).is_holder


def test_break_glass_needs_the_right_of_both_and_a_delegation_for_it() -> None:
    may = {name: Party(roles=RECEIVES, rights=frozenset({1})) for name in ("clinic", "lab")}
    question = ask("lab", purpose="BTG", on_behalf_of="clinic")
    processor = gave("clinic", "lab", PROCESSOR, break_glass=True)
    assert determine(question, "lab", processor, **may).may_break_glass
    for name in may:
        assert not determine(question, "lab", processor, **{name: may[name]}).may_break_glass
    assert refused(lambda: determine(question, "lab", gave("clinic", "lab", PROCESSOR), **may)) == "ACTOR_NOT_ALLOWED"
    relays = gave("lab", "relay", break_glass=True)
    assert determine(question, "relay", processor, relays, **may).may_break_glass
    without = gave("lab", "relay")
    assert refused(lambda: determine(question, "relay", processor, without, **may)) == "CALLER_NOT_ALLOWED"
    assert not determine(ask(SUBJECT, purpose="BTG"), "citizens-app").may_break_glass


def test_the_person_is_authenticated_by_an_app_or_a_signature() -> None:
    question = ask(SUBJECT)
    parties = determine(question, "citizens-app")
    assert parties.permit_actors == {0, SUBJECT_NUMBER}
    assert parties.deny_actors == {SUBJECT_NUMBER} | numbers("citizens-app")
    signed = {"signed_by_subject": True}
    assert determine(question, "hospital", **signed).permit_actors == {0, SUBJECT_NUMBER}
    assert determine(question, "relay", gave("hospital", "relay"), **signed).deny_actors >= numbers("relay")
    for more in ({"application": "clinic"}, {"relays": ("clinic", "software")}):
        assert determine(ask(SUBJECT, **more), "clinic", **signed).permit_actors == {0, SUBJECT_NUMBER}
    # Who got hold of a signed question asks as nobody.
    for thief in ("clinic", "auditor", "relay"):
        assert refused(lambda thief=thief: determine(question, thief, **signed)) == "CALLER_NOT_ALLOWED"
    given = gave("hospital", "relay")
    for caller in ("clinic", "hospital", "auditor", "relay"):
        assert refused(lambda caller=caller: determine(question, caller, given)) == "CALLER_NOT_ALLOWED"
    named = ask(SUBJECT, relays=("citizens-app",), application="citizens-app")
    assert determine(named, "citizens-app").deny_actors == {SUBJECT_NUMBER} | numbers("citizens-app")
    assert refused(lambda: determine(ask(SUBJECT, relays=("relay",)), "citizens-app")) == "ACTOR_NOT_ALLOWED"
    assert refused(lambda: determine(ask(SUBJECT, on_behalf_of="clinic"), "citizens-app")) == "ACTOR_NOT_ALLOWED"
    # A signature of the person makes nobody another institution.
    assert refused(lambda: determine(ask(), "auditor", signed_by_subject=True)) == "CALLER_NOT_ALLOWED"


def test_parties_are_true_until_the_next_time_of_a_delegation() -> None:
    given = [
        gave("clinic", "relay", start_ms=NOW - 5, end_ms=NOW + 50),
        gave("hospital", "relay", start_ms=NOW + 20),
        gave("hospital", "relay", APPLICATION, end_ms=NOW - 3),
        gave("clinic", "relay", APPLICATION, purposes=("HRESCH",), end_ms=NOW + 1),  # about another purpose
        gave("lab", "relay", end_ms=NOW + 2),  # of another participant
    ]
    parties = determine(ask(), "relay", *given)
    assert (parties.from_ms, parties.until_ms) == (NOW - 3, NOW + 20)
    assert determine(ask(), "clinic", *given).until_ms == OPEN_END_MS


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (ask(""), "INVALID_REQUEST"),
        (ask(holder=""), "INVALID_REQUEST"),
        (ask(purpose="FUN"), "UNKNOWN_PURPOSE"),
    ],
)
def test_a_question_without_names_is_invalid(question: Question, reason: str) -> None:
    with pytest.raises(InvalidError) as caught:
        determine(question, "clinic")
    assert caught.value.reason == reason


@pytest.mark.parametrize("purpose", ["TREAT", "HMARKT", "BTG"])
@pytest.mark.parametrize("combining", model.Combining)
@pytest.mark.parametrize("policy", model.ImplicitPolicy)
def test_nothing_permits_a_participant_that_left(
    purpose: str, combining: model.Combining, policy: model.ImplicitPolicy
) -> None:
    """No consent, statute, break-glass rule, implicit policy or default of combining; denies still deny."""
    everything = Provision(effect=Effect.PERMIT, purposes=("*",))
    rules = model.Rules(
        combining=combining, implicit_policy=policy,
        break_glass=(Provision(effect=Effect.PERMIT),),
        statutory=(Provision(effect=Effect.PERMIT, purposes=("BTG",), categories=("GEN",)),),
    )  # fmt: skip
    consents = [StoredConsent(1, 1, 1, Consent(kind=Kind.CONSENT, root=everything, policy=policy))]
    deny = Provision(effect=Effect.DENY, actors=("a",), categories=("CLIN.A",))
    objecting = [*consents, StoredConsent(2, 2, 1, Consent(kind=Kind.OBJECTION, root=deny))]
    question = Question(
        actor=Actor(organisation="a"), holder="c", purpose=purpose, action="access", categories=("CLIN", "GEN"),
        break_glass="unconscious" if purpose == "BTG" else None,
        supported_obligations=frozenset({model.Obligation.ENFORCE_RESIDUAL}),
    )  # fmt: skip
    for lineages in (consents, objecting):
        world = World(lineages, rules)
        for left in ("a", "c"):
            directory = Directory(CODEBOOK, {name: Party(active=name != left) for name in ("a", "c")})
            answer = world.answer_to(question, 5, directory, None)
            assert (answer.permitted, answer.residual) == ((), ())
            assert lineages is consents or "CLIN.A" in answer.denied
            assert comparable(answer) == comparable(world.reference_answer_to(question, 5, directory, None))


class ActorDraw(Draw):
    """Random participants, delegations and questions, of which many are refused."""

    def directory(self) -> Directory:
        pick = self.random
        names = ["a", "b", "c", "r", "stranger", "abroad"]
        participants = {
            name: Party(
                active=pick.random() < 0.9,
                roles=frozenset(pick.choice([{1, 2}, {1, 2}, {1}, {2}, {3}])),
                rights=frozenset(pick.choice([(), (1,), (3,), (1, 3)])),
            )
            for name in names
            if pick.random() < 0.97
        }
        delegations = []
        for giver in names:
            for taker in names:
                for capacity in Capacity:
                    if giver != taker and pick.random() < 0.6:
                        start, end = sorted(pick.sample([*INSTANTS, 60], 2))
                        delegations.append(Delegation(
                            giver=giver, taker=taker, capacity=capacity, break_glass=pick.random() < 0.5,
                            purposes=pick.choice([(), (), ("TREAT",), ("COC", "HRESCH")]),
                            **({} if pick.random() < 0.5 else {"start_ms": start, "end_ms": end}),
                        ))  # fmt: skip
        return Directory(CODEBOOK, participants, delegations)

    def question(self) -> Question:
        question = super().question()
        odd = self.random.choice([None] * 12 + [SUBJECT, "group/g"])
        return replace(question, actor=replace(question.actor, organisation=odd)) if odd else question

    def caller(self, question: Question) -> str | None:
        actor = question.actor
        return self.random.choice([
            actor.organisation, question.holder, actor.application or None, *actor.relays, "r", "c", "nobody",
        ])  # fmt: skip


def check_agreement(draw: ActorDraw) -> str:
    """Ask a drawn question; return the reason of the refusal, or the outcome, which are the reference's too."""
    world, directory, question, now_ms = draw.world(), draw.directory(), draw.question(), draw.now()
    caller, signed = draw.caller(question), draw.random.random() < 0.3
    asked, given = asked_of(question, caller, signed_by_subject=signed), list(directory.delegations)
    reason = ""
    try:
        meant = reference_actor.who(question, caller, directory.participants, given, now_ms, signed=signed)
    except DeniedError as error:
        reason = error.reason
    if reason:
        assert refused(lambda: determine_parties(directory, asked, now_ms)) == reason
        return reason
    parties = determine_parties(directory, asked, now_ms)
    assert parties.may_break_glass is meant.may_break_glass
    if signed:
        return "signed"
    answer = world.answer_to(question, now_ms, directory, caller)
    assert comparable(answer) == comparable(world.reference_answer_to(question, now_ms, directory, caller))
    return answer.outcome.name


@given(st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_the_actor_is_that_of_the_reference(rng: random.Random) -> None:
    check_agreement(ActorDraw(rng))


def test_many_random_actors() -> None:
    draw = ActorDraw(random.Random(20_261_130))
    seen = {check_agreement(draw) for _ in range(4_000)}
    assert seen >= {"CALLER_NOT_ALLOWED", "ACTOR_NOT_ALLOWED", "PERMIT", "DENY", "NO_CONSENT", "PARTIAL"}
