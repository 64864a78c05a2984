"""A representative who is a natural person signs with a key that the AUTHORITY pins (rule 8; ledger-format.md 3.10)."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from cases.authorities import AGENT, authority
from cases.daemons import ORIGIN, Running, consent, make_running, question, request_id, serve, sign_statement
from cases.erasures import AUTHORITY, add_authority, order
from cases.services import (
    Person,
    change,
    event_of,
    listed,
    new_identifier,
    new_number,
    now_ms,
    proof_of,
    refusal,
    register,
    services,
)
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.possession import prove_possession, representative_owner
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

PERMIT, DENY, NONE = pb.OUTCOME_PERMIT, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("keys"), checkpoint_interval_ms=10))


def new_key() -> KeyPair:
    return KeyPair(hashlib.sha256(b"representative %d" % new_number()).digest())


def proof(key: KeyPair, subject: pb.Subject) -> bytes:
    owner = representative_owner(subject.scheme, subject.value)
    return prove_possession(key, origin=ORIGIN, owner=owner)


class Mother:
    """A representative with a key of her own, who signs what she states for a person."""

    def __init__(self, running: Running, subject: pb.Subject | None = None, **changed: Any) -> None:
        self.running, self.key = running, new_key()
        self.subject = running.enrol(new_identifier()) if subject is None else subject
        stated = authority(participant_id="", key=self.key.public_key, **changed)
        request = cs.PutAuthorityRequest(
            request_id=request_id(), subject=self.subject, attested=stated, possession=proof(self.key, self.subject)
        )
        answer = running.consents.PutAuthority(request, metadata=running.as_("app"))
        self.seq, self.tag = answer.authority_seq, event_of(answer.receipt).tag

    def sign(self, kind: EntryKind, message: Any, request: bytes, **more: Any) -> pb.SignedStatement:
        fields = {"key": self.key, "tag": self.tag, "time_ms": now_ms(self.running), **more}
        return sign_statement(fields.pop("key"), message, kind=kind, request=request, **fields)

    def grant(self, seq: int | None = None, **root: Any) -> str:
        request = request_id()
        message = st.GrantStatement(consent=consent(**root), authority_seq=self.seq if seq is None else seq)
        signed = self.sign(EntryKind.GRANT, message, request)
        write = cs.GrantConsentRequest(request_id=request, subject=self.subject, signed=signed)
        return self.running.consents.GrantConsent(write, metadata=self.running.as_("app")).consent_id

    def change(self, kind: EntryKind, consent_id: str, message: Any, ref: int, **more: Any) -> pb.Receipt:
        request = request_id()
        signed = self.sign(kind, message, request, ref=ref, **more)
        return change(self.running, kind, self.subject, consent_id, request_id=request, signed=signed)

    def put_key(self, message: st.KeyStatement, new: KeyPair | None = None, **more: Any) -> pb.Receipt:
        """Change a key: signed with the representative's, or attested by *who* with *method*."""
        request, who, method = request_id(), more.pop("who", "app"), more.pop("method", None)
        if method is None:
            stated: dict[str, Any] = {"signed": self.sign(EntryKind.KEY, message, request, **more)}
        else:
            message.attestation.method = method
            stated = {"attested": message}
        fields = {"request_id": request, "subject": self.subject, **stated}
        metadata = self.running.as_(who)
        if message.retired:
            return self.running.registry.RetireKey(rs.RetireKeyRequest(**fields), metadata=metadata).receipt
        assert new is not None
        possession = proof(new, self.subject)
        add = rs.AddKeyRequest(possession=possession, **fields)
        return self.running.registry.AddKey(add, metadata=metadata).receipt

    def end(self, seq: int | None = None, **more: Any) -> None:
        asked, seq = request_id(), self.seq if seq is None else seq
        signed = self.sign(EntryKind.AUTHORITY, st.AuthorityStatement(ended=True), asked, ref=seq, **more)
        request = cs.EndAuthorityRequest(request_id=asked, subject=self.subject, authority_seq=seq, signed=signed)
        self.running.consents.EndAuthority(request, metadata=self.running.as_("app"))


def outcome(running: Running, subject: pb.Subject, **asked: Any) -> int:
    return running.check(question(subject, **asked)).outcome


def test_a_mother_signs_what_she_does_for_her_child(running: Running) -> None:
    mother = Mother(running, birth_date="2020-02-29")
    given = mother.grant()
    (record,) = listed(running, mother.subject)
    assert record.authority_seq == mother.seq
    assert outcome(running, mother.subject) == PERMIT
    first, seq = record.lineage_seq, mother.seq
    mother.change(EntryKind.PAUSE, given, st.PauseStatement(lineage_seq=first, authority_seq=seq), first)
    assert outcome(running, mother.subject) == NONE
    mother.change(EntryKind.RESUME, given, st.ResumeStatement(lineage_seq=first, authority_seq=seq), first)
    amended = st.AmendStatement(
        consent=consent(categories=["CLIN.RX"]), lineage_seq=first, version=2, authority_seq=seq
    )
    request = request_id()
    write = cs.AmendConsentRequest(
        request_id=request, subject=mother.subject, consent_id=given, based_on_version=1,
        signed=mother.sign(EntryKind.AMEND, amended, request, ref=first),
    )  # fmt: skip
    running.consents.AmendConsent(write, metadata=running.as_("app"))
    assert outcome(running, mother.subject, categories=["CLIN.RX"]) == PERMIT
    (record,) = listed(running, mother.subject)
    mother.change(EntryKind.REVOKE, given, st.RevokeStatement(lineage_seq=first, authority_seq=seq), record.seq)
    assert outcome(running, mother.subject, categories=["CLIN.RX"]) == NONE


def test_her_permits_end_when_she_gives_the_authority_up(running: Running) -> None:
    mother = Mother(running)
    mother.grant()
    mother.grant(effect=pb.EFFECT_DENY, purposes=["TRAIN"])
    mother.end()
    assert [outcome(running, mother.subject, purpose=one) for one in ("TREAT", "TRAIN")] == [NONE, DENY]
    assert refusal(mother.grant) == "AUTHORITY_NOT_IN_FORCE"


def test_her_key_signs_nothing_that_does_not_name_the_authority(running: Running) -> None:
    mother = Mother(running)
    assert refusal(lambda: mother.grant(seq=0)) == "KEY_NOT_IN_FORCE"
    other = Mother(running, mother.subject)
    assert refusal(lambda: mother.grant(seq=other.seq)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: mother.end(other.seq)) == "KEY_NOT_IN_FORCE"
    own = new_key()
    statement = st.KeyStatement(key=own.public_key)
    request = request_id()
    add = rs.AddKeyRequest(
        request_id=request, subject=mother.subject, signed=mother.sign(EntryKind.KEY, statement, request),
        possession=proof_of(own, mother.subject),
    )  # fmt: skip
    assert refusal(lambda: running.registry.AddKey(add, metadata=running.as_("app"))) == "KEY_NOT_IN_FORCE"
    appoints = authority(capacity=AGENT, participant_id="app", evidence=[])
    put = cs.PutAuthorityRequest(
        request_id=request, subject=mother.subject, signed=mother.sign(EntryKind.AUTHORITY, appoints, request)
    )
    assert refusal(lambda: running.consents.PutAuthority(put, metadata=running.as_("app"))) == "KEY_NOT_IN_FORCE"


def test_nobody_else_acts_under_her_authority(running: Running) -> None:
    mother = Mother(running)
    message = st.GrantStatement(consent=consent(), authority_seq=mother.seq)
    write = cs.GrantConsentRequest(request_id=request_id(), subject=mother.subject, attested=message)
    assert refusal(lambda: running.consents.GrantConsent(write, metadata=running.as_("app"))) == "CALLER_NOT_ALLOWED"
    person = Person(running)
    guardian = Mother(running, person.subject)
    message = st.GrantStatement(consent=consent(), authority_seq=guardian.seq)
    assert refusal(lambda: person.grant(message=message)) == "CALLER_NOT_ALLOWED"
    foreign = Mother(running)
    foreign.tag = mother.tag
    message = st.GrantStatement(consent=consent(), authority_seq=mother.seq)
    request = request_id()
    write = cs.GrantConsentRequest(
        request_id=request, subject=mother.subject, signed=foreign.sign(EntryKind.GRANT, message, request)
    )
    assert refusal(lambda: running.consents.GrantConsent(write, metadata=running.as_("app"))) == "CALLER_NOT_ALLOWED"


def test_she_replaces_her_key_in_the_childs_chain(running: Running) -> None:
    mother, new = Mother(running), new_key()
    mother.put_key(st.KeyStatement(key=new.public_key, authority_seq=mother.seq), new)
    old = mother.key
    mother.key = new
    mother.put_key(st.KeyStatement(key=old.public_key, retired=True, authority_seq=mother.seq))
    mother.grant()
    assert outcome(running, mother.subject) == PERMIT
    mother.key = old
    assert refusal(mother.grant) == "KEY_NOT_IN_FORCE"


def test_a_key_that_she_lost_is_replaced_by_who_records_authorities(running: Running) -> None:
    mother, new = Mother(running), new_key()
    message = st.KeyStatement(key=new.public_key, authority_seq=mother.seq)
    assert refusal(lambda: mother.put_key(message, new, method="")) == "INVALID_REQUEST"
    assert refusal(lambda: mother.put_key(message, new, method="id-card", who="er")) == "CALLER_NOT_ALLOWED"
    mother.put_key(message, new, method="id-card")
    retired = st.KeyStatement(key=mother.key.public_key, retired=True, authority_seq=mother.seq)
    mother.put_key(retired, method="id-card")
    mother.key = new
    mother.grant()
    assert outcome(running, mother.subject) == PERMIT


def test_a_key_names_an_authority_of_a_key_that_is_in_force(running: Running) -> None:
    mother, new = Mother(running), new_key()
    register(running, "city", [st.PARTICIPANT_ROLE_RELAY], rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS])
    request = cs.PutAuthorityRequest(
        request_id=request_id(), subject=mother.subject, attested=authority(participant_id="city")
    )
    other = running.consents.PutAuthority(request, metadata=running.as_("app")).authority_seq
    for seq in (1, other, mother.seq + 1, 2**63):
        message = st.KeyStatement(key=new.public_key, authority_seq=seq)
        asking = lambda message=message: mother.put_key(message, new, method="id-card")  # noqa: E731
        assert refusal(asking) == "UNKNOWN_AUTHORITY"
    mother.end()
    message = st.KeyStatement(key=new.public_key, authority_seq=mother.seq)
    assert refusal(lambda: mother.put_key(message, new, method="id-card")) == "AUTHORITY_NOT_IN_FORCE"
    mother.put_key(st.KeyStatement(key=mother.key.public_key, retired=True, authority_seq=mother.seq))


def test_a_key_is_pinned_with_a_proof_and_for_one_authority(running: Running) -> None:
    mother = Mother(running)
    subject = running.enrol(new_identifier())

    def put(pair: KeyPair, possession: bytes, **changed: Any) -> None:
        stated = authority(**{"participant_id": "", "key": pair.public_key, **changed})
        request = cs.PutAuthorityRequest(
            request_id=request_id(), subject=subject, attested=stated, possession=possession
        )
        running.consents.PutAuthority(request, metadata=running.as_("app"))

    new = new_key()
    for wrong in (b"", proof(new, mother.subject), proof_of(new, subject), proof(mother.key, subject)):
        assert refusal(lambda wrong=wrong: put(new, wrong)) == "BAD_POSSESSION"
    assert refusal(lambda: put(mother.key, proof(mother.key, subject))) == "ALREADY_EXISTS"
    assert refusal(lambda: put(new, proof(new, subject), participant_id="app")) == "INVALID_REQUEST"
    assert refusal(lambda: put(new, proof(new, subject), key=b"")) == "INVALID_REQUEST"  # a proof of no key
    assert refusal(lambda: put(new, proof(new, subject), key=bytes(32))) == "INVALID_REQUEST"
    put(new, proof(new, subject))


def test_a_person_pins_the_key_of_an_agent(running: Running) -> None:
    person, agent = Person(running), new_key()
    asked = request_id()
    stated = authority(capacity=AGENT, participant_id="", key=agent.public_key, evidence=[])
    request = cs.PutAuthorityRequest(
        request_id=asked, subject=person.subject, signed=person.sign(EntryKind.AUTHORITY, stated, asked),
        possession=proof(agent, person.subject),
    )  # fmt: skip
    seq = running.consents.PutAuthority(request, metadata=running.as_("app")).authority_seq
    asked = request_id()
    message = st.GrantStatement(consent=consent(), authority_seq=seq)
    signed = sign_statement(
        agent, message, kind=EntryKind.GRANT, request=asked, tag=person.tag, time_ms=now_ms(running)
    )
    write = cs.GrantConsentRequest(request_id=asked, subject=person.subject, signed=signed)
    running.consents.GrantConsent(write, metadata=running.as_("app"))
    assert outcome(running, person.subject) == PERMIT
    # The person appoints no further key of the agent: they end the authority.
    new = new_key()
    asked = request_id()
    added = st.KeyStatement(key=new.public_key, authority_seq=seq)
    add = rs.AddKeyRequest(
        request_id=asked, subject=person.subject, signed=person.sign(EntryKind.KEY, added, asked),
        possession=proof(new, person.subject),
    )  # fmt: skip
    assert refusal(lambda: running.registry.AddKey(add, metadata=running.as_("app"))) == "KEY_NOT_IN_FORCE"


def test_a_key_of_a_participant_names_no_authority(running: Running) -> None:
    key = new_key()
    add = rs.AddKeyRequest(
        request_id=request_id(), participant_id="er", possession=proof_of(key, "er"),
        attested=st.KeyStatement(key=key.public_key, authority_seq=2),
    )  # fmt: skip
    assert refusal(lambda: running.registry.AddKey(add, metadata=running.as_("operator"))) == "INVALID_REQUEST"


def test_an_erasure_deletes_her_keys(running: Running) -> None:
    mother = Mother(running)
    add_authority(running)
    running.registry.EraseSubject(order(running, mother.subject), metadata=running.as_(AUTHORITY))
    with services(running).table.read() as snapshot:
        assert snapshot.key_ever(mother.key.public_key) is None
        assert snapshot.authority_keys(mother.tag, mother.seq) == {}
