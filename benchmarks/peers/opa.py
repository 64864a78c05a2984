"""The policy in Rego, OPA's language: the data is keyed by person, and rules compare for equality."""

from benchmarks.peers.people import Asked, People, above

MODULE = """package consent

default allow := false

allow if permitted(input)

each := [answer | some question in input.questions; answer := decide(question)]

decide(question) := true if permitted(question)

else := false

permitted(question) if {
	some rule in data.people[question.person]
	rule.permits
	rule.actor == question.actor
	rule.purpose == question.purpose
	some category in data.above[question.category]
	rule.categories[category]
	not objected(question)
}

objected(question) if {
	some rule in data.people[question.person]
	not rule.permits
	rule.actor == question.actor
}
"""
"""Also of regopy, which has the same language."""


def data_of(people: People) -> dict[str, object]:
    """Return the consents as OPA's data."""
    persons = {
        person: [
            {
                "permits": rule.permits, "actor": rule.actor, "purpose": rule.purpose,
                "categories": dict.fromkeys(rule.categories, True),
            }
            for rule in rules
        ]
        for person, rules in people.rules.items()
    }  # fmt: skip
    return {"people": persons, "above": {one: above(one) for one in sorted({asked.category for asked in people.asked})}}


def input_of(asked: Asked) -> dict[str, str]:
    """Return a question as OPA's input."""
    return {"person": asked.person, "actor": asked.actor, "purpose": asked.purpose, "category": asked.category}
