"""The persons, consents and questions that every peer gets: those of ``benchmarks.world``, without our messages.

A question is whether a recipient may be given data of one category about a person for one purpose. A consent permits
one recipient one purpose with categories and all that is below them; an objection denies one recipient everything,
and counts more than any consent. Peers get what this needs, and no more: no holder, relay, action or period.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.questions import HALF, make_questions
from benchmarks.world import consents, identifier
from consentd.v1 import consent_pb2 as pb


@dataclass(frozen=True, slots=True)
class Rule:
    """One consent or objection. *purpose* and *categories* are empty where it is about all."""

    permits: bool
    actor: str
    purpose: str
    categories: tuple[str, ...]

    def covers(self, asked: "Asked") -> bool:
        """Return whether this rule is about a question."""
        return (
            self.actor == asked.actor
            and self.purpose in ("", asked.purpose)
            and (not self.categories or not set(above(asked.category)).isdisjoint(self.categories))
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and its right answer. *question* is the same in our own form."""

    person: str
    actor: str
    purpose: str
    category: str
    permitted: bool
    question: pb.Question


def above(category: str) -> list[str]:
    """Return a category and those that contain it: in the default vocabulary a code begins with its parent's."""
    parts = category.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def permitted(rules: Sequence[Rule], asked: "Asked") -> bool:
    """Return the right answer, from the rules of the person: the definition that every peer is checked against."""
    about = [rule for rule in rules if rule.covers(asked)]
    return bool(about) and all(rule.permits for rule in about)


@dataclass(frozen=True)
class People:
    """Persons numbered from 0, and questions about them, of which half are permitted."""

    count: int
    questions: int
    seed: int = 7

    @cached_property
    def rules(self) -> dict[str, list[Rule]]:
        """Return the rules of each person."""
        return {identifier(number): list(rules_of(number)) for number in range(self.count)}

    @cached_property
    def asked(self) -> list[Asked]:
        """Return the questions."""
        made = make_questions(self.seed, self.questions, self.count, HALF)
        return [
            Asked(
                question.subject.value, question.actor.organisation, question.purpose, question.categories[0],
                outcome == pb.OUTCOME_PERMIT, question,
            )
            for question, outcome in made
        ]  # fmt: skip

    def tuples(self) -> Iterator[tuple[str, Rule]]:
        """Yield each person with each of their rules."""
        for person, rules in self.rules.items():
            for rule in rules:
                yield person, rule


def rules_of(number: int) -> Iterator[Rule]:
    """Yield the rules of person *number*."""
    for consent in consents(number):
        root = consent.root
        purpose = root.purposes[0] if root.purposes else ""
        yield Rule(root.effect == pb.EFFECT_PERMIT, root.actors[0], purpose, tuple(root.categories))
