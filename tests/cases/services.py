"""What the tests of the service floor share: calls by a line, and persons with keys of their own."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cases.daemons import ORIGIN, Running, consent, reason_of, request_id, sign_statement
from cases.fakes import HANG_S
from consentd.core import codec, merkle
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.possession import participant_owner, person_owner, prove_possession
from consentd.ledger import layout
from consentd.service.roles import TABLE, Access, Kind
from consentd.service.servicer import Services
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

FOREIGN_FIELD = b"\xf8\x3f\x01"  # field 1023, a number that no message has
_numbers = itertools.count(1)


def new_number() -> int:
    return next(_numbers)


def new_identifier() -> str:
    return f"SYN-{new_number():06d}"


def services(running: Running) -> Services:
    found = running.daemon.service_state.services
    assert found is not None
    return found


def now_ms(running: Running) -> int:
    return services(running).sequencer.clock.wall_ms()


def wait_calls(running: Running, pool: str, count: int, is_over: Callable[[], bool] = lambda: False) -> None:
    """Wait until *count* calls are in flight in a pool, or *is_over*; each look is a call, so this does not spin."""
    health = health_pb2_grpc.HealthStub(running.channel)
    while running.daemon.metrics.value("consentd_calls", pool=pool) != count and not is_over():
        health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S)


def refusal(call: Callable[[], Any]) -> str:
    """Return the reason with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return reason_of(caught.value)


def seen(decision: pb.Decision) -> pb.Decision:
    """Return what two answers to the same question have in common: all but id, time and revision."""
    kept = pb.Decision()
    kept.CopyFrom(decision)
    for field in ("decision_id", "decided_time_ms", "revision"):
        kept.ClearField(field)
    return kept


def event_of(receipt: pb.Receipt) -> codec.Event:
    assert receipt.leaf_hash == merkle.leaf_hash(receipt.leaf)
    event = codec.decode_leaf(receipt.leaf)
    assert isinstance(event, codec.Event)
    return event


def kind_of(running: Running, receipt: pb.Receipt) -> int | None:
    """Return the kind of the entry that a receipt is for; a reduced receipt has no leaf."""
    leaf = services(running).ledger.store.get(layout.leaf_key(receipt.index))
    assert leaf is not None
    assert receipt.leaf_hash == merkle.leaf_hash(leaf)
    return codec.kind_of(leaf)


def change(
    running: Running, kind: EntryKind, subject: pb.Subject, consent_id: str, *, who: str = "app", **more: Any
) -> pb.Receipt:
    """Pause, resume or revoke a consent. *more*: ``attested`` or ``signed``, ``request_id``."""
    stub, request_type, statement = {
        EntryKind.PAUSE: (running.consents.PauseConsent, cs.PauseConsentRequest, st.PauseStatement()),
        EntryKind.RESUME: (running.consents.ResumeConsent, cs.ResumeConsentRequest, st.ResumeStatement()),
        EntryKind.REVOKE: (running.consents.RevokeConsent, cs.RevokeConsentRequest, st.RevokeStatement()),
    }[kind]
    stated = {} if "signed" in more else {"attested": statement}
    fields = {"request_id": request_id(), "subject": subject, "consent_id": consent_id, **stated, **more}
    return stub(request_type(**fields), metadata=running.as_(who)).receipt


def amend(running: Running, subject: pb.Subject, consent_id: str, version: int, **root: Any) -> cs.AmendConsentResponse:
    request = cs.AmendConsentRequest(
        request_id=request_id(),
        subject=subject,
        consent_id=consent_id,
        based_on_version=version,
        attested=st.AmendStatement(consent=consent(**root)),
    )
    return running.consents.AmendConsent(request, metadata=running.as_("app"))


def listed(running: Running, subject: pb.Subject, **more: Any) -> list[cs.ConsentRecord]:
    request = cs.ListConsentsRequest(subject=subject, **more)
    return list(running.consents.ListConsents(request, metadata=running.as_("app")).records)


def record(running: Running, subject: pb.Subject, seq: int, who: str = "clinic-b", **more: Any) -> pb.Receipt:
    stated = {} if "signed" in more else {"attested": st.OutcomeStatement(status=st.TRANSFER_STATUS_RECEIVED)}
    fields = {"request_id": request_id(), "subject": subject, "access_seq": seq, **stated, **more}
    request = ac.RecordAccessRequest(**fields)
    return running.access.RecordAccess(request, metadata=running.as_(who)).receipt


def accesses(running: Running, subject: pb.Subject) -> list[ac.AccessRecord]:
    request = ac.ListAccessesRequest(subject=subject)
    return list(running.access.ListAccesses(request, metadata=running.as_("app")).accesses)


def _is_registered(running: Running, name: str) -> bool:
    with services(running).table.read() as snapshot:
        return snapshot.participant(name) is not None


def register(running: Running, who_is: str, roles: list[int], *, who: str = "operator", **more: Any) -> pb.Receipt:
    """Register a participant, or replace its record. Who registers one that has left registers it active before."""
    name = {"ko": "시험 기관", "en": who_is}
    fields = {"participant_id": who_is, "name": name, "roles": roles, "active": True, **more}
    if not fields["active"] and not _is_registered(running, who_is):
        register(running, who_is, roles, who=who, **{**more, "active": True})
    request = rs.RegisterParticipantRequest(request_id=request_id(), attested=st.ParticipantStatement(**fields))
    return running.registry.RegisterParticipant(request, metadata=running.as_(who)).receipt


def put_delegation(running: Running, giver: str, taker: str, **more: Any) -> pb.Receipt:
    """Record that a taker may act for a giver, as its relay unless *more* says otherwise (``put_delegation``)."""
    fields = {"giver": giver, "taker": taker, "capacity": st.DELEGATION_CAPACITY_RELAY, **more}
    return running.put_delegation(st.DelegationStatement(**fields))


def put_mandate(running: Running, auditor: str, **more: Any) -> pb.Receipt:
    """Give an auditor a mandate for a day, as the operator does."""
    fields = {"scope": "accesses", "reason": "order 12", "end_time_ms": now_ms(running) + 86_400_000, **more}
    request = rs.PutMandateRequest(request_id=request_id(), attested=st.MandateStatement(auditor=auditor, **fields))
    return running.registry.PutMandate(request, metadata=running.as_("operator")).receipt


def add_reader(running: Running) -> str:
    """Make `reader` an auditor that may read statements of persons for a thousand days; return its id."""
    rights = [st.PARTICIPANT_RIGHT_READ_STATEMENTS]
    register(running, "reader", [st.PARTICIPANT_ROLE_AUDITOR], rights=rights)
    put_mandate(running, "reader", end_time_ms=now_ms(running) + 1_000 * 86_400_000)
    running.add_caller("reader")
    return "reader"


_MAY = {
    "operator": (Kind.RUN, Kind.READ_METRICS, Kind.ADMINISTER), "app": (Kind.ACT_FOR_SUBJECTS,),
    "clinic-b": (Kind.RECIPIENT,), "pipc-erases": (Kind.ERASE,), "hospital-a": (Kind.HOLDER,),
}  # fmt: skip
"""Callers of tests, and of which kinds they are."""


def allowed_caller(rpc: str) -> str:
    """Return a caller that an RPC answers for some data, in full if there is one, so that its handler is reached.

    `pipc-erases` has the right ERASE (``cases.erasures.add_authority``).
    """
    cells = list(TABLE[rpc].values())
    found = {who: max(cell[kind] for cell in cells for kind in kinds) for who, kinds in _MAY.items()}
    who = max(found, key=lambda one: found[one])
    assert found[who] >= Access.REDUCED, rpc
    return who


def add_app(running: Running, name: str = "app-2") -> str:
    """Register another relay that acts for persons, with a token; return its id."""
    register(running, name, [st.PARTICIPANT_ROLE_RELAY], rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS])
    running.add_caller(name)
    return name


def list_late(running: Running) -> rs.ListParticipantsResponse:
    """Ask for the second page of a list when the daemon does not keep the state of the first page any more."""
    request, tokens = rs.ListParticipantsRequest(page_size=1), list[str]()
    for number in range(9):  # of more states than the daemon keeps for lists of several pages
        tokens.append(running.registry.ListParticipants(request, metadata=running.as_("app")).next_page_token)
        running.delegate("er", "app", ended=number % 2 == 0)
    request.page_token = tokens[0]
    return running.registry.ListParticipants(request, metadata=running.as_("app"))


def participant(running: Running, name: str) -> rs.GetParticipantResponse:
    return running.registry.GetParticipant(rs.GetParticipantRequest(participant_id=name), metadata=running.as_("er"))


def add_key(running: Running, who: str, key: KeyPair | bytes) -> pb.Receipt:
    """Add a participant's key: the participant signs it if it has one, else the operator attests it."""
    if not running.keys.get(who):
        return attest_key(running, who, key)
    if who not in running.tokens:
        running.add_caller(who)
    request = _new_key(who, key)
    request.signed.CopyFrom(sign_statement(
        running.keys[who][-1], st.KeyStatement(key=_public(key)), kind=EntryKind.KEY,
        tag=codec.public_tag(f"participant/{who}"), request=request.request_id, time_ms=now_ms(running),
    ))  # fmt: skip
    receipt = running.registry.AddKey(request, metadata=running.as_(who)).receipt
    _keep_key(running, who, key)
    return receipt


def attest_key(running: Running, who: str, key: KeyPair | bytes) -> pb.Receipt:
    """Add a key of a participant that has none in force, as the operator does; bytes: a key that nobody has."""
    request = _new_key(who, key)
    request.attested.key = _public(key)
    receipt = running.registry.AddKey(request, metadata=running.as_("operator")).receipt
    _keep_key(running, who, key)
    return receipt


def _keep_key(running: Running, who: str, key: KeyPair | bytes) -> None:
    if isinstance(key, KeyPair):
        running.keys.setdefault(who, []).append(key)


def _new_key(who: str, key: KeyPair | bytes) -> rs.AddKeyRequest:
    possession = b"" if isinstance(key, bytes) else proof_of(key, who)
    return rs.AddKeyRequest(request_id=request_id(), participant_id=who, possession=possession)


def _public(key: KeyPair | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.public_key


def proof_of(key: KeyPair, owner: str | pb.Subject) -> bytes:
    """Return the proof that a participant or a person has the private key of a new key."""
    named = participant_owner(owner) if isinstance(owner, str) else person_owner(owner.scheme, owner.value)
    return prove_possession(key, origin=ORIGIN, owner=named)


def retire_key(running: Running, who: str, key: bytes) -> pb.Receipt:
    request = rs.RetireKeyRequest(
        request_id=request_id(), participant_id=who, attested=st.KeyStatement(key=key, retired=True)
    )
    receipt = running.registry.RetireKey(request, metadata=running.as_("operator")).receipt
    running.keys[who] = [one for one in running.keys.get(who, []) if one.public_key != key]
    return receipt


def publish_rules(running: Running, **changed: Any) -> Any:
    old = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator")).rules
    message = st.RulesStatement()
    message.CopyFrom(old)
    message.ClearField("attestation")
    message.version += 1
    message.MergeFrom(st.RulesStatement(**changed))
    for name, value in changed.items():
        if not value:
            message.ClearField(name)  # merging leaves a field as it is where the other message has its default
    request = rs.PublishRulesRequest(request_id=request_id(), attested=message)
    return running.registry.PublishRules(request, metadata=running.as_("operator"))


def batch(running: Running, who: str = "app", **asked: Any) -> list[ps.CheckResult]:
    return list(running.policy.BatchCheck(batch_request(**asked), metadata=running.as_(who)).results)


def batch_request(
    *, questions: Iterable[pb.Question] = (), shared: pb.Question | None = None, subjects: Iterable[pb.Subject] = (),
    consistency: pb.Consistency | None = None,
) -> ps.BatchCheckRequest:  # fmt: skip
    """Return a request with complete *questions*, or with the question *shared* about each of *subjects*."""
    if shared is None:
        return ps.BatchCheckRequest(each=ps.QuestionList(questions=questions), consistency=consistency)
    about = ps.SharedQuestion(question=shared, subjects=subjects)
    return ps.BatchCheckRequest(shared=about, consistency=consistency)


class Person:
    """A person with a key of their own, who signs what they state."""

    def __init__(self, running: Running, key: KeyPair | None = None) -> None:
        number = new_number()
        self.running = running
        self.key = key or KeyPair(number.to_bytes(32))
        self.subject = pb.Subject(scheme="mhid", value=f"SYN-{number:06d}")
        enrol = rs.EnrolSubjectRequest(
            request_id=request_id(), subject=self.subject, subject_key=self.key.public_key,
            possession=proof_of(self.key, self.subject),
        )  # fmt: skip
        self.tag = running.registry.EnrolSubject(enrol, metadata=running.as_("app")).tag

    def sign(self, kind: EntryKind, message: Any, request: bytes, **more: Any) -> pb.SignedStatement:
        fields = {"key": self.key, "tag": self.tag, "time_ms": now_ms(self.running), **more}
        return sign_statement(fields.pop("key"), message, kind=kind, request=request, **fields)

    def grant(self, *, message: Any = None, kind: EntryKind = EntryKind.GRANT, **more: Any) -> Any:
        request = request_id()
        signed = self.sign(kind, message or st.GrantStatement(consent=consent()), request, **more)
        return self.send(signed, request)

    def send(self, signed: pb.SignedStatement, request: bytes) -> cs.GrantConsentResponse:
        write = cs.GrantConsentRequest(request_id=request, subject=self.subject, signed=signed)
        return self.running.consents.GrantConsent(write, metadata=self.running.as_("app"))

    def change(self, kind: EntryKind, consent_id: str, message: Any, ref: int, **more: Any) -> pb.Receipt:
        request = request_id()
        signed = self.sign(kind, message, request, ref=ref)
        return change(self.running, kind, self.subject, consent_id, request_id=request, signed=signed, **more)
