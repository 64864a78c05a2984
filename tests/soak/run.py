"""The load of the soak: calls of Check through the gate, in rounds; after each round some consents change."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.load import Load, run_here
from cases.daemons import consent, question, request_id
from cases.races import DAEMON, GATE, Realm, Stubs
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import registry_service_pb2_grpc
from consentd.v1 import statement_pb2 as st

CHECK = "/consentd.v1.PolicyService/Check"
PERSONS = 400
ROUND = 20_000
CHANGES = 20
"""How many persons' consents change after a round, by calls that the gate passes on."""
MOST_GROWTH = {GATE: 1 << 20, DAEMON: 8 << 20}
"""Bytes by which the memory of a process may be larger in the last quarter than in the second one."""
_CALL_S = 60


@dataclass(slots=True)
class Soaked:
    """The result of a soak.

    Attributes:
        checks: how many calls of Check were answered, all rightly.
        memory: of each process, the bytes that are its own (``RssAnon``) after each round.
    """

    checks: int = 0
    seconds: float = 0.0
    memory: dict[str, list[int]] = field(default_factory=lambda: {GATE: [], DAEMON: []})

    def growth(self, whom: str) -> float:
        """Return by how many bytes a process grew from the second quarter of the rounds to the last one."""
        sizes = self.memory[whom]
        quarter = max(1, len(sizes) // 4)
        return median(sizes[-quarter:]) - median(sizes[quarter : 2 * quarter] or sizes[:1])

    @property
    def is_flat(self) -> bool:
        return all(self.growth(whom) <= most for whom, most in MOST_GROWTH.items())


def soak(
    directory: Path, program: Path, *, checks: int, each_round: int = ROUND, persons: int = PERSONS,
    write: Callable[[str], None] = print,
) -> Soaked:  # fmt: skip
    """Make so many calls; raise ``AssertionError`` if an answer is not the one that the consents have.

    The caller has a quota of persons, so that the questions are about a few hundred of them.
    """
    realm, pick, found = Realm(directory, program, has_second=False), random.Random(1), Soaked()
    all_persons = [_Person(realm, f"SYN-{number:04}") for number in range(persons)]
    for one in all_persons[::2]:
        one.change()
    while found.checks < checks:
        asked = pick.choices(all_persons, k=min(each_round, checks - found.checks))
        began = time.monotonic()
        _ask(realm, asked)
        found.seconds += time.monotonic() - began
        found.checks += len(asked)
        for one in pick.sample(all_persons, CHANGES):
            one.change()
        for whom, sizes in found.memory.items():
            sizes.append(_own_bytes(realm.process_of(whom)))
        if len(found.memory[GATE]) % 10 == 0:
            write(_line(found))
    realm.stop()
    realm.check_ledger()
    grown = ", ".join(f"{whom} {found.growth(whom) / (1 << 20):+.2f} MiB" for whom in found.memory)
    write(f"{_line(found)}; from the second quarter to the last: {grown}; {'flat' if found.is_flat else 'NOT FLAT'}")
    return found


class _Person:
    """A person with one consent, or none."""

    def __init__(self, realm: Realm, name: str) -> None:
        self._realm, self._subject, self._consent_id = realm, pb.Subject(scheme="mhid", value=name), ""
        self.message = ps.CheckRequest(question=question(self._subject)).SerializeToString()
        request = rs.EnrolSubjectRequest(request_id=request_id(), subject=self._subject, method="test")
        self._call(
            lambda stubs: registry_service_pb2_grpc.RegistryServiceStub(stubs.channel).EnrolSubject(
                request, metadata=realm.as_("app"), timeout=_CALL_S
            )
        )

    @property
    def is_permitted(self) -> bool:
        return bool(self._consent_id)

    def change(self) -> None:
        """Grant a consent, or revoke the one that there is."""
        metadata = self._realm.as_("app")
        if self._consent_id:
            revoke = cs.RevokeConsentRequest(
                request_id=request_id(), subject=self._subject, consent_id=self._consent_id,
                attested=st.RevokeStatement(),
            )  # fmt: skip
            self._call(lambda stubs: stubs.consents.RevokeConsent(revoke, metadata=metadata, timeout=_CALL_S))
            self._consent_id = ""
            return
        grant = cs.GrantConsentRequest(
            request_id=request_id(), subject=self._subject, attested=st.GrantStatement(consent=consent())
        )
        found = self._call(lambda stubs: stubs.consents.GrantConsent(grant, metadata=metadata, timeout=_CALL_S))
        self._consent_id = found.consent_id

    def _call(self, made: "Callable[[Stubs], cs.GrantConsentResponse]") -> cs.GrantConsentResponse:
        return self._realm.insist(lambda: GATE, made)


def _ask(realm: Realm, asked: Sequence[_Person]) -> None:
    load = Load(
        port=realm.port(GATE), path=CHECK, token=realm.tokens["app"], messages=[one.message for one in asked],
        once=True, seconds=3_600, warm_s=0,
    )  # fmt: skip
    loaded = run_here(load)
    assert loaded.failed == 0
    assert len(loaded.answers) == len(asked)
    for at, answer in loaded.answers:
        outcome = ps.CheckResponse.FromString(answer).decision.outcome
        meant = pb.OUTCOME_PERMIT if asked[at].is_permitted else pb.OUTCOME_NO_CONSENT
        assert outcome == meant, (at, outcome)


def _own_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def _line(found: Soaked) -> str:
    sizes = ", ".join(f"{whom} {sizes[-1] / (1 << 20):.1f} MiB" for whom, sizes in found.memory.items())
    return f"{found.checks:>10,} checks, {found.checks / found.seconds:,.0f} a second; {sizes}"
