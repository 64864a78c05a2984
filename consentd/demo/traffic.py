"""Play a made-up town on a running daemon, over gRPC: register, enrol, grant, transfer, record. For the demo only.

The relay makes every call but the registrations, as My Healthway's does: with the rights to act for citizens and to
see reasons. Every answer is held against the outcome the town expects; one that differs is counted as a surprise.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consentd.demo.town import RELAY, Institution, Town, Transfer, Wish
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc, consent_service_pb2_grpc, registry_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

T = TypeVar("T")
R = TypeVar("R")

SCHEME = "mhid"
IN_FLIGHT = 16
BATCH = 500
UNARY_EVERY = 40
"""One transfer in so many is authorised by a call of its own, which is timed."""

_ROLES = {
    "holder": [st.PARTICIPANT_ROLE_HOLDER],
    "recipient": [st.PARTICIPANT_ROLE_RECIPIENT],
    "both": [st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT],
    "relay": [st.PARTICIPANT_ROLE_RELAY],
}
_RELAY_RIGHTS = [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS, st.PARTICIPANT_RIGHT_SEE_REASONS]
_OUTCOMES = ((st.TRANSFER_STATUS_RECEIVED, 97), (st.TRANSFER_STATUS_FAILED, 2), (st.TRANSFER_STATUS_DEFERRED, 1))


class Advance(Protocol):
    """Move a step on by so much; *total* where it was not known before."""

    def __call__(self, by: int, total: int | None = ..., /) -> None:
        """Move on."""
        ...


class Steps:
    """Tell how far a long step is: a bar on a terminal, one line when it is done everywhere."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def track(self, label: str, total: int | None = None) -> Iterator["Advance"]:
        """Track one step of *total*, where that is known; the caller is given a function that moves it on."""
        started, done = time.perf_counter(), 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(label, total=total)

            def advance(by: int, total: int | None = total) -> None:
                nonlocal done
                done += by
                bar.update(task, advance=by, total=total)

            yield advance
        took = time.perf_counter() - started
        self.console.print(f"  {label}: {done:,} in {took:.1f} s ({done / took:,.0f}/s)")


@dataclass(slots=True)
class Tally:
    """What came of the transfers.

    Attributes:
        outcomes: decisions by outcome.
        recorded: outcomes of permitted transfers that were recorded.
        surprises: decisions other than the town expects.
        unary_s: times of the unary calls, seconds, unordered.
        seconds: time of all transfers.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    recorded: int = 0
    surprises: int = 0
    unary_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Traffic:
    """The town's calls to one daemon.

    Args:
        target: ``host:port`` of its gRPC.
        tokens: bearer tokens of ``operator`` and the relay.
    """

    def __init__(self, target: str, tokens: Mapping[str, str], town: Town, steps: Steps) -> None:
        self._town = town
        self._steps = steps
        self._tokens = tokens
        self._channel = grpc.insecure_channel(target)
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(self._channel)
        self._consents = consent_service_pb2_grpc.ConsentServiceStub(self._channel)
        self._access = access_service_pb2_grpc.AccessServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def register(self) -> None:
        """Register every institution."""
        self._each("register institutions", self._town.institutions, self._register)

    def enrol(self) -> None:
        """Enrol every citizen."""
        self._each("enrol citizens", range(len(self._town.citizens)), self._enrol)

    def grant(self) -> None:
        """Give every consent, and lodge every objection."""
        self._each("consents and objections", self._town.wishes, self._grant)

    def transfer(self) -> Tally:
        """Ask for every transfer, and record what came of those that were permitted."""
        found = Tally()
        transfers = self._town.transfers
        alone = transfers[::UNARY_EVERY]
        together = [one for place, one in enumerate(transfers) if place % UNARY_EVERY]
        started = time.perf_counter()
        permitted: list[tuple[Transfer, int]] = []
        with self._steps.track("transfers authorised or refused", len(transfers)) as advance:
            for asked, answers in self._mapped(self._authorize_all, _chunks(together)):
                permitted += self._count(found, asked, answers)
                advance(len(asked))
            for one in alone:
                before = time.perf_counter()
                answer = self._access.AuthorizeAccess(self._question(one), metadata=self._as(RELAY[0]))
                found.unary_s.append(time.perf_counter() - before)
                permitted += self._count(found, [one], [answer])
                advance(1)
        with self._steps.track("outcomes of permitted transfers recorded", len(permitted)) as advance:
            for count in self._mapped(self._record_all, _chunks(permitted)):
                found.recorded += count
                advance(count)
        found.seconds = time.perf_counter() - started
        return found

    # -- steps ------------------------------------------------------------------------------------------------

    def _as(self, who: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._tokens[who]}"),)

    def _each(self, label: str, items: Sequence[T], call: Callable[[T], object]) -> None:
        with self._steps.track(label, len(items)) as advance:
            for _ in self._mapped(call, items):
                advance(1)

    def _mapped(self, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Call many at a time; yields in order."""
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            yield from pool.map(call, items)

    def _subject(self, citizen: int) -> pb.Subject:
        return pb.Subject(scheme=SCHEME, value=self._town.citizens[citizen].id)

    def _register(self, one: Institution) -> None:
        statement = st.ParticipantStatement(
            participant_id=one.id,
            name=st.Text(ko=one.ko, en=one.en),
            roles=_ROLES[one.role],
            rights=_RELAY_RIGHTS if one.role == "relay" else [],
            type=one.type,
            active=True,
        )
        request = rs.RegisterParticipantRequest(request_id=os.urandom(16), participant=statement)
        self._registry.RegisterParticipant(request, metadata=self._as("operator"))

    def _enrol(self, citizen: int) -> None:
        request = rs.EnrolSubjectRequest(request_id=os.urandom(16), subject=self._subject(citizen), method="demo")
        self._registry.EnrolSubject(request, metadata=self._as(RELAY[0]))

    def _grant(self, wish: Wish) -> None:
        consent = pb.Consent(
            kind=pb.CONSENT_KIND_OBJECTION if wish.objects else pb.CONSENT_KIND_CONSENT,
            root=pb.Provision(
                effect=pb.EFFECT_DENY if wish.objects else pb.EFFECT_PERMIT,
                actors=[wish.recipient],
                purposes=[wish.purpose] if wish.purpose else [],
                categories=wish.categories,
            ),
            language="ko",
        )
        request = cs.GrantConsentRequest(
            request_id=os.urandom(16), subject=self._subject(wish.citizen), consent=consent, method="demo"
        )
        self._consents.GrantConsent(request, metadata=self._as(RELAY[0]))

    def _question(self, one: Transfer) -> ac.AuthorizeAccessRequest:
        question = pb.Question(
            subject=self._subject(one.citizen),
            actor=pb.Actor(organisation=one.recipient, relay=RELAY[0], automatic=True),
            holder=one.holder,
            purpose=one.purpose,
            action="disclose",
            categories=[one.category],
        )
        return ac.AuthorizeAccessRequest(request_id=os.urandom(16), question=question)

    def _authorize_all(
        self, asked: Sequence[Transfer]
    ) -> tuple[Sequence[Transfer], list[ac.AuthorizeAccessResponse]]:
        request = ac.BatchAuthorizeAccessesRequest(requests=map(self._question, asked))
        answer = self._access.BatchAuthorizeAccesses(request, metadata=self._as(RELAY[0]))
        return asked, [result.response for result in answer.results]

    def _count(
        self, found: Tally, asked: Sequence[Transfer], answers: Sequence[ac.AuthorizeAccessResponse]
    ) -> list[tuple[Transfer, int]]:
        """Count answers; returns the permitted transfers, each with its entry's seq."""
        permitted = []
        for one, answer in zip(asked, answers, strict=True):
            outcome = pb.Outcome.Name(answer.decision.outcome).removeprefix("OUTCOME_")
            found.outcomes[outcome] += 1
            found.surprises += outcome != one.outcome
            if outcome == "PERMIT":
                permitted.append((one, answer.access_seq))
        return permitted

    def _record_all(self, permitted: Sequence[tuple[Transfer, int]]) -> int:
        requests = []
        statuses = [status for status, share in _OUTCOMES for _ in range(share)]
        for one, seq in permitted:
            status = statuses[(one.citizen + seq) % len(statuses)]
            received = status == st.TRANSFER_STATUS_RECEIVED
            outcome = st.OutcomeStatement(
                status=status,
                categories=[one.category] if received else [],
                resource_count=1 + seq % 9 if received else 0,
                happened_time_ms=time.time_ns() // 1_000_000,
            )
            requests.append(
                ac.RecordAccessRequest(
                    request_id=os.urandom(16), subject=self._subject(one.citizen), access_seq=seq, outcome=outcome
                )
            )
        answer = self._access.BatchRecordAccesses(
            ac.BatchRecordAccessesRequest(requests=requests), metadata=self._as(RELAY[0])
        )
        return len(answer.receipts)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
