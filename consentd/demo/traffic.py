"""Make the calls of the made-up town's day with the client library: register, enrol, grant, transfer, record.

The operator registers the institutions, and records that each of them uses the relay. One hospital has a key, and signs
that itself. The relay makes all other calls, as in My Healthway, Korea's health data network; the relay may act for
citizens and see reasons of decisions. Each decision is compared with the expected one.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from consentd.demo.output import Output, Text
from consentd.demo.town import HOSPITAL, RELAY, Citizen, Institution, PlannedConsent, Town, Transfer
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, KeyPair, StatementSigner, TransferOutcome, participant_owner, prove_possession

T = TypeVar("T")
R = TypeVar("R")

SCHEME = "mhid"
IN_FLIGHT = 16
BATCH = 500

_ROLES = {
    "holder": [st.PARTICIPANT_ROLE_HOLDER],
    "recipient": [st.PARTICIPANT_ROLE_RECIPIENT],
    "both": [st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT],
    "relay": [st.PARTICIPANT_ROLE_RELAY],
}
_RELAY_RIGHTS = [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS, st.PARTICIPANT_RIGHT_SEE_REASONS]
QUOTAS = st.Quotas(entries_per_day=60_000, refusals_per_day=60_000, persons_per_hour=100_000)
"""One relay makes all calls of the day, and some citizens are asked about very often."""
_STATUSES = [
    *[st.TRANSFER_STATUS_RECEIVED] * 97, *[st.TRANSFER_STATUS_FAILED] * 2, st.TRANSFER_STATUS_DEFERRED
]  # fmt: skip
"""The statuses that the relay records for each hundred permitted transfers."""


@dataclass(frozen=True, slots=True)
class TrafficResult:
    """The numbers of decisions by outcome, of decisions other than expected, and of recorded transfers."""

    outcomes: Counter[str]
    surprises: int
    recorded: int


class Traffic:
    """Makes the town's calls to one daemon, some as the operator and the others as the relay."""

    def __init__(
        self, town: Town, operator: Client, relay: Client, hospital: Client, out: Output, *, origin: str
    ) -> None:
        self._town = town
        self._operator = operator
        self._relay = relay
        self._hospital = hospital
        self._out = out
        self._origin = origin

    def run(self) -> TrafficResult:
        """Make all calls of the day.

        Raises:
            ConsentdError: a call failed.
        """
        town, why = self._town, self._out.why
        rules = self._operator.get_rules()
        rules.version += 1
        rules.quotas.CopyFrom(QUOTAS)
        rules.ClearField("attestation")
        self._operator.publish_rules(rules)
        self._each(("기관 등록", "register institutions"), town.institutions, self._register)
        why("등록된 기관만 참여할 수 있습니다.", "Only a registered institution can ask for data or give them.")
        givers = [one for one in town.institutions if one.id != RELAY[0]]
        self._each(("중계 위임", "delegate to the relay"), givers, self._delegate)
        why("위임한 기관을 위해서만 중계기관이 요청합니다.", "The relay asks only for those that delegated to it.")
        why("키가 있는 병원은 위임에 스스로 서명합니다.", "The hospital has a key, and signs its delegation itself.")
        self._each(("시민 등록", "enrol citizens"), town.citizens, self._enrol)
        why("원장에서 시민은 무작위 가명으로만 나타납니다.", "In the ledger each citizen is only a random tag.")
        self._each(("동의와 처리정지 요구", "consents and objections"), town.consents, self._grant)
        why("누가 어떤 정보를 왜 쓸 수 있는지 정합니다.", "Each says who may use which data for what purpose.")
        questions = [self._question(transfer) for transfer in town.transfers]
        answers = self._batched(("전송 승인 요청", "ask for each transfer"), questions, self._relay.batch_authorize)
        why("모든 답은 알려지기 전에 기록됩니다.", "Every answer is recorded before the caller sees it.")
        pairs = list(zip(town.transfers, answers, strict=True))
        sent = [self._outcome(transfer, answer.access_seq) for transfer, answer in pairs if answer]
        recorded = self._batched(("전송 결과 기록", "record what was sent"), sent, self._relay.batch_record)
        why("허용된 것 중 전송했다고 보고된 것도 남습니다.", "So the record also shows what was reported as sent.")
        surprises = sum(answer.outcome_name != transfer.outcome for transfer, answer in pairs)
        return TrafficResult(Counter(answer.outcome_name for answer in answers), surprises, len(recorded))

    def _each(self, label: Text, items: Sequence[T], call: Callable[[T], object]) -> None:
        list(self._out.track(label, _mapped(call, items), len(items)))

    def _batched(self, label: Text, items: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
        """Pass *items* to *call* in batches of ``BATCH``; return the results of all items in order."""
        batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        return list(self._out.track(label, chain.from_iterable(_mapped(call, batches)), len(items)))

    def _subject(self, citizen: int) -> pb.Subject:
        return pb.Subject(scheme=SCHEME, value=self._town.citizens[citizen].id)

    def _register(self, institution: Institution) -> None:
        statement = st.ParticipantStatement(
            participant_id=institution.id,
            name={"ko": institution.ko, "en": institution.en},
            roles=_ROLES[institution.role],
            rights=_RELAY_RIGHTS if institution.role == "relay" else [],
            type=institution.type,
            active=True,
        )
        self._operator.register_participant(statement)

    def _delegate(self, institution: Institution) -> None:
        given = st.DelegationStatement(
            giver=institution.id, taker=RELAY[0], capacity=st.DELEGATION_CAPACITY_RELAY
        )
        if institution.id == HOSPITAL:
            self._hospital.put_delegation(given, signer=self._make_key(institution.id))
        else:
            self._operator.put_delegation(given)

    def _make_key(self, participant_id: str) -> StatementSigner:
        """Make a participant's first key, which the operator attests; return what signs with it."""
        key = KeyPair(secrets.token_bytes(32))
        possession = prove_possession(key, origin=self._origin, owner=participant_owner(participant_id))
        self._operator.add_key(participant_id, key.public_key, possession)
        return StatementSigner.of_participant(key, origin=self._origin, participant_id=participant_id)

    def _enrol(self, citizen: Citizen) -> None:
        self._relay.enrol(pb.Subject(scheme=SCHEME, value=citizen.id), method="demo")

    def _grant(self, planned: PlannedConsent) -> None:
        consent = pb.Consent(
            kind=pb.CONSENT_KIND_OBJECTION if planned.objects else pb.CONSENT_KIND_CONSENT,
            root=pb.Provision(
                effect=pb.EFFECT_DENY if planned.objects else pb.EFFECT_PERMIT,
                actors=[planned.recipient],
                purposes=[planned.purpose] if planned.purpose else [],
                categories=planned.categories,
            ),
            language="ko",
        )
        self._relay.grant(self._subject(planned.citizen), consent, method="demo")

    def _question(self, transfer: Transfer) -> pb.Question:
        return pb.Question(
            subject=self._subject(transfer.citizen),
            actor=pb.Actor(organisation=transfer.recipient, relays=[RELAY[0]], automatic=True),
            holder=transfer.holder,
            purpose=transfer.purpose,
            action="collect",
            categories=[transfer.category],
        )

    def _outcome(self, transfer: Transfer, seq: int) -> TransferOutcome:
        status = _STATUSES[(transfer.citizen + seq) % len(_STATUSES)]
        outcome = st.OutcomeStatement(status=status, happened_time_ms=time.time_ns() // 1_000_000)
        return TransferOutcome(self._subject(transfer.citizen), seq, outcome)


def _mapped(call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Call *call* for each item, on ``IN_FLIGHT`` threads; yield the results in the order of the items."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        yield from pool.map(call, items)
