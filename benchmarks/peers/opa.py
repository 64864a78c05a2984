"""OPA as a server: a policy in Rego, the consents as data in memory, JSON over HTTP/1.1.

Settings as OPA's documentation of performance says: the data is keyed by person, rules compare for equality, and no
decision is logged. HTTP/1.1 is OPA's default.
"""

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.peers.peer import Place, await_true, free_port, missing_program, program, running
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


class OpaServed:
    """OPA's REST API."""

    content_type = "application/json"
    path, batch_path = "/v1/data/consent/allow", "/v1/data/consent/each"
    is_http1, is_fixed = True, False
    token = ""

    def __init__(self, port: int) -> None:
        self.port = port

    def message(self, asked: Asked) -> bytes:
        """Return the input of one question."""
        return json.dumps({"input": input_of(asked)}, separators=(",", ":")).encode()

    def batch(self, asked: Sequence[Asked]) -> bytes:
        """Return the input of many: one evaluation answers all."""
        return json.dumps({"input": {"questions": [input_of(one) for one in asked]}}, separators=(",", ":")).encode()

    def permits(self, answer: bytes) -> bool:
        """Return the result."""
        return json.loads(answer)["result"] is True

    def permits_each(self, answer: bytes, count: int) -> list[bool]:
        """Return the results of a batch."""
        found = [one is True for one in json.loads(answer)["result"]]
        assert len(found) == count
        return found

    def ask(self, asked: Asked) -> bool:
        """Ask with Python's own HTTP client."""
        address = f"http://127.0.0.1:{self.port}{self.path}"
        request = urllib.request.Request(address, self.message(asked), {"Content-Type": self.content_type})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return self.permits(answer.read())


class Opa:
    """OPA's server."""

    name, title, note = "opa", "OPA 1.22.2, server", "JSON over HTTP/1.1; consents in memory"

    def missing(self) -> str:
        """It is built by Go."""
        return missing_program("opa")

    @contextmanager
    def serve(self, people: People, place: Place) -> Iterator[OpaServed]:
        """Start it with policy and data."""
        place.directory.mkdir(parents=True)
        (place.directory / "consent.rego").write_text(MODULE, encoding="utf-8")
        (place.directory / "data.json").write_text(json.dumps(data_of(people)), encoding="utf-8")
        served, log = OpaServed(free_port()), place.directory / "log"
        command = [
            program("opa") or "", "run", "--server", "--addr", f"127.0.0.1:{served.port}", "--log-level", "error",
            "--disable-telemetry", str(place.directory / "consent.rego"), str(place.directory / "data.json"),
        ]  # fmt: skip
        with running(place.on_core(command, place.core), log) as process:
            await_true(lambda: served.ask(people.asked[0]) is people.asked[0].permitted, process, log)
            yield served
