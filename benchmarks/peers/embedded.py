"""The peers that answer in this process: Cedar (cedarpy), Casbin (pycasbin) and Rego (regopy), beside our evaluator.

Each gets only the rules of the person asked about, parsed before: the best that each can be given. What is measured
is one question to one answer, in Python.
"""

import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.peers.opa import MODULE, data_of, input_of
from benchmarks.peers.people import Asked, People, above
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.compile import compile_consent, compile_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.evaluate import evaluate
from consentd.policy.model import Actor, Consent, Effect, Kind, Outcome, Provision, Question, Rules, StoredConsent
from consentd.policy.subject import with_consent

NOW_MS = 1_764_000_000_000
Answer = Callable[[Asked], bool]


class Evaluator:
    """Our evaluator, in Python, with the persons' packed rows in memory. It packs each question first."""

    name, title, note = "evaluator", "consentd, evaluator in Python", "the question is packed each time"

    def missing(self) -> str:
        """It is always there."""
        return ""

    def load(self, people: People) -> Answer:
        """Compile all persons' consents."""
        actors = sorted({rule.actor for _, rule in people.tuples()} | {asked.actor for asked in people.asked})
        holders = sorted({asked.question.holder for asked in people.asked})
        numbers = {name: number for number, name in enumerate([*actors, *holders], 1)}
        codebook = Codebook(DEFAULT_VOCABULARY, numbers)
        rules = compile_rules(Rules(), DEFAULT_VOCABULARY, numbers)
        values: dict[str, bytes | None] = {}
        for lineage, (person, rule) in enumerate(people.tuples(), 1):
            root = Provision(
                effect=Effect.PERMIT if rule.permits else Effect.DENY, actors=(rule.actor,),
                purposes=(rule.purpose,) if rule.purpose else (), categories=rule.categories,
            )  # fmt: skip
            kind = Kind.CONSENT if rule.permits else Kind.OBJECTION
            stored = StoredConsent(lineage=lineage, seq=lineage, version=1, consent=Consent(kind=kind, root=root))
            compiled = compile_consent(stored, DEFAULT_VOCABULARY, numbers, normal_level=rules.normal_level)
            values[person] = with_consent(values.get(person), stored, compiled)

        def pack(asked: Asked) -> PackedQuestion:
            question = Question(
                actor=Actor(organisation=asked.actor), holder=asked.question.holder, purpose=asked.purpose,
                action="disclose", categories=(asked.category,),
            )  # fmt: skip
            number = codebook.numbers(asked.actor)
            parties = Parties(permit_actors=number, deny_actors=number, holders=codebook.numbers(question.holder))
            return pack_question(question, codebook, parties)

        return lambda asked: evaluate(values[asked.person], pack(asked), rules, NOW_MS).outcome is Outcome.PERMIT


class Cedar:
    """Cedar, by cedarpy: policies, entities and schema are parsed before."""

    name, title, note = "cedarpy", "Cedar (cedarpy)", "policies and entities parsed before"
    POLICIES = """
permit(principal, action == Action::"disclose", resource) when {
  resource.consented.containsAny(context.above)
};
forbid(principal, action == Action::"disclose", resource) when { resource.objected.contains(principal) };
"""

    def missing(self) -> str:
        """It is a package of PyPI."""
        return _missing_package("cedarpy", "cedarpy")

    def load(self, people: People) -> Answer:
        """Parse policies, and the entity of each person."""
        cedarpy: Any = import_module("cedarpy")  # a peer that need not be installed

        policies = cedarpy.PolicySet.from_str(self.POLICIES)
        entities = {}
        for person, rules in people.rules.items():
            permits = [rule for rule in rules if rule.permits]
            consented = [f"{rule.actor}/{rule.purpose}/{one}" for rule in permits for one in rule.categories]
            objected = [{"__entity": {"type": "Organisation", "id": r.actor}} for r in rules if not r.permits]
            attributes = {"consented": consented, "objected": objected}
            entity = {"uid": {"type": "Person", "id": person}, "attrs": attributes, "parents": []}
            entities[person] = cedarpy.Entities.from_json_str(json.dumps([entity]))

        def answer(asked: Asked) -> bool:
            keys = [f"{asked.actor}/{asked.purpose}/{one}" for one in above(asked.category)]
            request = {
                "principal": {"type": "Organisation", "id": asked.actor},
                "action": {"type": "Action", "id": "disclose"},
                "resource": {"type": "Person", "id": asked.person},
                "context": {"above": keys},
            }
            return bool(cedarpy.is_authorized(request, policies, entities[asked.person]).allowed)

        return answer


class Casbin:
    """Casbin, by pycasbin: an enforcer for each person, whose policy lines are the person's rules."""

    name, title, note = "pycasbin", "Casbin (pycasbin)", "an enforcer for each person"
    MODEL = """
[request_definition]
r = actor, purpose, category
[policy_definition]
p = actor, purpose, category, eft
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = r.actor == p.actor && (p.purpose == "*" || r.purpose == p.purpose) && keyMatch(r.category, p.category)
"""

    def missing(self) -> str:
        """It is a package of PyPI."""
        return _missing_package("casbin", "pycasbin")

    def load(self, people: People) -> Answer:
        """Make the enforcers."""
        casbin: Any = import_module("casbin")  # a peer that need not be installed

        enforcers = {}
        for person, rules in people.rules.items():
            model = casbin.Enforcer.new_model(text=self.MODEL)
            enforcer = casbin.Enforcer(model)
            for rule in rules:
                for category in rule.categories or ("",):
                    effect = "allow" if rule.permits else "deny"
                    enforcer.add_policy(rule.actor, rule.purpose or "*", f"{category}*", effect)
            enforcers[person] = enforcer
        return lambda asked: bool(enforcers[asked.person].enforce(asked.actor, asked.purpose, asked.category))


class Rego:
    """Rego, by regopy: OPA's policy, compiled to a bundle before, with one person's data each."""

    name, title, note = "regopy", "Rego (regopy)", "an interpreter for each person"

    def missing(self) -> str:
        """It is a package of PyPI."""
        return _missing_package("regopy", "regopy")

    def load(self, people: People) -> Answer:
        """Make the interpreters."""
        regopy: Any = import_module("regopy")  # a peer that need not be installed

        data = data_of(people)
        persons: Any = data["people"]
        interpreters: dict[str, Any] = {}
        for person, rules in persons.items():
            interpreter = regopy.Interpreter()
            interpreter.add_module("consent", MODULE)
            interpreter.add_data({"people": {person: rules}, "above": data["above"]})
            interpreters[person] = interpreter, interpreter.build("data.consent.allow")

        def answer(asked: Asked) -> bool:
            interpreter, bundle = interpreters[asked.person]
            interpreter.set_input(input_of(asked))
            return "true" in str(interpreter.query_bundle(bundle))

        return answer


def _missing_package(name: str, peer: str) -> str:
    return "" if find_spec(name) else f"{peer} is not installed: python -m benchmarks.peers.install {peer}"
