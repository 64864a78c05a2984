"""Cerbos as a server, over gRPC: its policies hold no data, so each request brings the person's consents.

Who asks looks the consents up before; that costs nothing here. Settings as Cerbos' own load tests have them: no audit
log, no schemas, few connections. A request may bring 100 resources (`maxResourcesPerRequest`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.grpc_served import GrpcServed
from benchmarks.peers.peer import PEERS, Place, await_true, free_port, is_listening, running
from benchmarks.peers.people import Asked, People, Rule, above

SERVICE, METHOD = "cerbos.svc.v1.CerbosService", "CheckResources"
PROGRAM = PEERS / "cerbos" / "node_modules" / "@cerbos" / "cerbos-linux-x64" / "cerbos-linux-x64"
_ALLOW = 1  # EFFECT_ALLOW
POLICY = """apiVersion: api.cerbos.dev/v1
resourcePolicy:
  resource: person
  version: default
  rules:
    - actions: ["disclose"]
      effect: EFFECT_ALLOW
      roles: ["*"]
      condition:
        match:
          expr: >-
            R.attr.consents.exists(c, c.permits && c.actor == R.attr.actor && c.purpose == R.attr.purpose
            && R.attr.above.exists(a, a in c.categories))
    - actions: ["disclose"]
      effect: EFFECT_DENY
      roles: ["*"]
      condition:
        match:
          expr: R.attr.consents.exists(c, !c.permits && c.actor == R.attr.actor)
"""
CONFIG = """server:
  httpListenAddr: "127.0.0.1:{http}"
  grpcListenAddr: "127.0.0.1:{grpc}"
  requestLimits:
    maxResourcesPerRequest: 100
storage:
  driver: disk
  disk:
    directory: {directory}
    watchForChanges: false
telemetry:
  disabled: true
"""


class CerbosServed(GrpcServed):
    """Cerbos' gRPC API: one method takes one or many resources."""

    def __init__(self, port: int, rules: dict[str, list[Rule]]) -> None:
        super().__init__(port, SERVICE, METHOD, METHOD)
        self._rules = rules
        self._request = self.types.request(SERVICE, METHOD)

    def message(self, asked: Asked) -> bytes:
        """Return a request with one resource."""
        return self.batch([asked])

    def batch(self, asked: Sequence[Asked]) -> bytes:
        """Return a request with a resource for each question."""
        request = self._request(request_id="1")
        request.principal.id = "relay"
        request.principal.roles.append("relay")
        for number, one in enumerate(asked):
            entry = request.resources.add(actions=["disclose"])
            entry.resource.kind, entry.resource.id = "person", f"{one.person}/{number}"
            attributes = entry.resource.attr
            attributes["actor"].string_value = one.actor
            attributes["purpose"].string_value = one.purpose
            attributes["above"].list_value.extend(above(one.category))
            attributes["consents"].list_value.extend([_attributes(rule) for rule in self._rules[one.person]])
        return bytes(request.SerializeToString())

    def says(self, answer: Any) -> bool:
        """Return the effect of the one resource."""
        (result,) = answer.results
        return bool(result.actions["disclose"] == _ALLOW)

    def permits_each(self, answer: bytes, count: int) -> list[bool]:
        """Return the effects, in the order of the resources."""
        results = self.Answer.FromString(answer).results
        assert [int(one.resource.id.partition("/")[2]) for one in results] == list(range(count))
        return [result.actions["disclose"] == _ALLOW for result in results]


def _attributes(rule: Rule) -> dict[str, object]:
    return {
        "permits": rule.permits, "actor": rule.actor, "purpose": rule.purpose, "categories": list(rule.categories)
    }  # fmt: skip


class Cerbos:
    """Cerbos' server."""

    name, title, note = "cerbos", "Cerbos 0.55.0", "gRPC; each request brings the person's consents"

    def missing(self) -> str:
        """It is a package of npm."""
        return "" if PROGRAM.exists() else "cerbos is not installed: python -m benchmarks.peers.install cerbos"

    @contextmanager
    def serve(self, people: People, place: Place) -> Iterator[CerbosServed]:
        """Start it with the policy."""
        policies = place.directory / "policies"
        policies.mkdir(parents=True)
        (policies / "person.yaml").write_text(POLICY, encoding="utf-8")
        port, config, log = free_port(), place.directory / "config.yaml", place.directory / "log"
        config.write_text(CONFIG.format(http=free_port(), grpc=port, directory=policies), encoding="utf-8")
        command = [str(PROGRAM), "server", "--config", str(config), "--log-level", "error"]
        with running(place.on_core(command, place.core), log) as process:
            await_true(lambda: is_listening(port), process, log)
            served = CerbosServed(port, people.rules)
            await_true(lambda: served.ask(people.asked[0]) is people.asked[0].permitted, process, log)
            yield served
            served.close()
