"""Each call that records a statement has it in one of two forms, attested or signed, and drops nothing of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cases.daemons import Running, consent, make_running, question, request_id, serve, sign_statement
from cases.erasures import AUTHORITY, add_authority
from cases.services import (
    FOREIGN_FIELD,
    Person,
    add_key,
    amend,
    change,
    event_of,
    new_identifier,
    now_ms,
    proof_of,
    record,
    refusal,
    services,
)
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.ledger import reads
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, StatementSigner

SERVICES = {"consents": cs, "access": ac, "registry": rs}


def find_writes() -> dict[str, tuple[str, Any]]:
    """Return each RPC whose request has the oneof ``statement``: name → service, type of the request."""
    return {
        method.name: (name, GetMessageClass(method.input_type))
        for name, module in SERVICES.items()
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if "statement" in method.input_type.oneofs_by_name
    }


WRITES = find_writes()
ATTESTED = sorted(name for name, (_, kind) in WRITES.items() if "attested" in kind.DESCRIPTOR.fields_by_name)
SIGNED = sorted(name for name, (_, kind) in WRITES.items() if "signed" in kind.DESCRIPTOR.fields_by_name)
FILLED_IN = {
    "AmendConsent": ("lineage_seq", "version"), "RenewConsent": ("lineage_seq", "version"),
    "PauseConsent": ("lineage_seq",), "ResumeConsent": ("lineage_seq",),
    "RevokeConsent": ("lineage_seq",),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    for served in serve(make_running(tmp_path_factory.mktemp("forms"))):
        add_authority(served)
        yield served


def send(running: Running, name: str, request: Message) -> Callable[[], Any]:
    """Return the call, of somebody who may call the RPC: who may not is refused whatever the form is."""
    others = {"RecordAccess": "clinic-b", "RecordServed": "app", "PutAuthority": "app", "EndAuthority": "app"}
    who = {"EraseSubject": AUTHORITY, **others}.get(name, "operator")
    return lambda: getattr(getattr(running, WRITES[name][0]), name)(request, metadata=running.as_(who))


def attested(name: str, **fields: Any) -> Any:
    """Return a request of the RPC with a statement that has these fields, and with nothing else but a request_id."""
    request = WRITES[name][1](request_id=request_id())
    request.attested.MergeFrom(type(request.attested)(**fields))
    request.attested.SetInParent()
    return request


def stated_in(running: Running, receipt: pb.Receipt) -> Any:
    """Return the recorded statement of an entry."""
    event, opened = event_of(receipt), services(running)
    found = reads.open_entry(opened.vault, reads.read_entry(opened.ledger.store, event.tag, event.seq))
    assert found is not None
    return payloads.decode_payload(event.kind, codec.decode_statement(found[1]).payload)


def test_every_write_of_a_statement_has_the_same_form() -> None:
    assert set(WRITES) == {
        "GrantConsent", "AmendConsent", "RenewConsent", "PauseConsent", "ResumeConsent", "RevokeConsent",
        "RecordServed",
        "RecordAccess", "RegisterParticipant", "AddKey", "RetireKey", "PublishVocabulary", "PublishNotice",
        "PublishRules", "PutDelegation", "EndDelegation", "PutMandate", "EndMandate", "EraseSubject", "PutHold",
        "EndHold", "PutAuthority", "EndAuthority",
    }  # fmt: skip
    located = {"request_id", "wait_for", "subject", "consent_id", "based_on_version", "access_seq", "participant_id"}
    located |= {"seq", "authority_seq"}  # of the hold that EndHold ends, and of the authority that EndAuthority ends
    located |= {"possession"}  # by the key that AddKey adds, so no part of what the statement's author says
    located |= {"served"}  # a statement of its own, attested too, for an entry of its own
    located |= {"end_time_ms", "retention_until_time_ms"}  # all that RenewConsent changes in the version in force
    for name, (_, request_type) in WRITES.items():
        forms = [field.name for field in request_type.DESCRIPTOR.oneofs_by_name["statement"].fields]
        fields = request_type.DESCRIPTOR.fields_by_name
        if name == "EraseSubject":  # an authority orders it, and nobody attests the order
            assert forms == ["signed"]
        else:
            assert forms in (["attested"], ["attested", "signed"])
            assert "attestation" in fields["attested"].message_type.fields_by_name
        assert set(fields) - {"attested", "signed"} <= located
        if "signed" in forms:
            assert fields["signed"].message_type is pb.SignedStatement.DESCRIPTOR


@pytest.mark.parametrize("name", sorted(WRITES))
def test_a_request_without_a_statement_is_refused(running: Running, name: str) -> None:
    assert refusal(send(running, name, WRITES[name][1](request_id=request_id()))) == "INVALID_REQUEST"


@pytest.mark.parametrize("name", ATTESTED)
def test_what_the_daemon_fills_in_is_refused(running: Running, name: str) -> None:
    for whom in ("operator", "clinic-b"):
        request = attested(name, attestation=st.Attestation(attested_by=whom))
        assert refusal(send(running, name, request)) == "INVALID_REQUEST"
    for field in FILLED_IN.get(name, ()):
        assert refusal(send(running, name, attested(name, **{field: 1}))) == "INVALID_REQUEST"


def test_all_fields_that_the_daemon_fills_in_are_tried() -> None:
    for name in ATTESTED:
        fields = set(WRITES[name][1].DESCRIPTOR.fields_by_name["attested"].message_type.fields_by_name)
        # A caller may state served_seq, of an entry that is recorded; the daemon fills it in beside `served` alone.
        assert fields & {"lineage_seq"} <= set(FILLED_IN.get(name, ())), name


@pytest.mark.parametrize("name", sorted(WRITES))
def test_unknown_fields_are_refused_at_any_depth(running: Running, name: str) -> None:
    bare = WRITES[name][1](request_id=request_id(), signed=pb.SignedStatement()) if name in SIGNED else attested(name)
    bare.MergeFromString(FOREIGN_FIELD)
    assert refusal(send(running, name, bare)) == "UNKNOWN_FIELD"
    if name not in ATTESTED:
        return
    for place in (lambda one: one, lambda one: one.attested, lambda one: one.attested.attestation):
        request = attested(name)
        place(request).MergeFromString(FOREIGN_FIELD)
        assert refusal(send(running, name, request)) == "UNKNOWN_FIELD"


@pytest.mark.parametrize("name", sorted(WRITES))
def test_a_statement_that_is_too_large_is_refused(running: Running, name: str) -> None:
    if name in ATTESTED:
        long = st.Attestation(method="x" * codec.MAX_PAYLOAD)
        assert refusal(send(running, name, attested(name, attestation=long))) == "TOO_LARGE"
    if name in SIGNED:
        request = WRITES[name][1](request_id=request_id(), signed=pb.SignedStatement(payload=bytes(16_385)))
        assert refusal(send(running, name, request)) == "TOO_LARGE"


@pytest.mark.parametrize("name", SIGNED)
def test_a_signed_statement_has_no_attestation_and_no_unknown_field(running: Running, name: str) -> None:
    statement_type = type(attested(name).attested) if name in ATTESTED else st.ErasureStatement

    def signed(payload: bytes, more: bytes = b"") -> Any:
        given = pb.SignedStatement.FromString(pb.SignedStatement(payload=payload).SerializeToString() + more)
        return WRITES[name][1](request_id=request_id(), signed=given)

    for attestation in (st.Attestation(), st.Attestation(method="card"), st.Attestation(attested_by="app")):
        payload = statement_type(attestation=attestation).SerializeToString()
        assert refusal(send(running, name, signed(payload))) == "INVALID_REQUEST"
    assert refusal(send(running, name, signed(FOREIGN_FIELD))) == "UNKNOWN_FIELD"
    assert refusal(send(running, name, signed(b"", FOREIGN_FIELD))) == "UNKNOWN_FIELD"
    assert refusal(send(running, name, signed(b"\xff"))) == "INVALID_REQUEST"


def test_an_attested_statement_is_recorded_as_stated_and_names_the_caller(running: Running) -> None:
    person = running.enrol(new_identifier())
    card = st.Attestation(method="id-card")
    stated = st.GrantStatement(consent=consent(), attestation=card)
    grant = cs.GrantConsentRequest(request_id=request_id(), subject=person, attested=stated)
    granted = running.consents.GrantConsent(grant, metadata=running.as_("app"))
    named = st.Attestation(attested_by="app", method="id-card")
    assert stated_in(running, granted.receipt) == st.GrantStatement(consent=consent(), attestation=named)
    ended = st.RevokeStatement(note="moved away", attestation=card)
    revoked = change(running, EntryKind.REVOKE, person, granted.consent_id, attested=ended)
    seq = event_of(granted.receipt).seq
    assert stated_in(running, revoked) == st.RevokeStatement(lineage_seq=seq, note="moved away", attestation=named)
    key = KeyPair(bytes([0x41]) * 32)
    add = rs.AddKeyRequest(
        request_id=request_id(), participant_id="hospital-a", possession=proof_of(key, "hospital-a"),
        attested=st.KeyStatement(key=key.public_key, attestation=card),
    )  # fmt: skip
    added = running.registry.AddKey(add, metadata=running.as_("operator")).receipt
    assert stated_in(running, added).attestation == st.Attestation(attested_by="operator/main", method="id-card")


def test_the_hash_of_a_request_covers_its_whole_statement(running: Running) -> None:
    person = running.enrol(new_identifier())
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=person, attested=st.GrantStatement(consent=consent())
    )
    given = running.consents.GrantConsent(request, metadata=running.as_("app"))
    assert running.consents.GrantConsent(request, metadata=running.as_("app")).receipt.replayed
    request.attested.attestation.method = "id-card"
    as_app = {"metadata": running.as_("app")}
    assert refusal(lambda: running.consents.GrantConsent(request, **as_app)) == "REQUEST_ID_REUSED"
    used = request_id()
    change(running, EntryKind.REVOKE, person, given.consent_id, request_id=used, attested=st.RevokeStatement(note="a"))
    other = st.RevokeStatement(note="b")
    again = refusal(
        lambda: change(running, EntryKind.REVOKE, person, given.consent_id, request_id=used, attested=other)
    )
    assert again == "REQUEST_ID_REUSED"


def test_the_two_forms_are_two_contents(running: Running) -> None:
    key, person, used = KeyPair(bytes([0x42]) * 32), running.enrol(new_identifier()), request_id()
    add_key(running, "clinic-b", key)
    running.grant(person)
    answer, sent = running.authorize(question(person), "clinic-b"), st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    record(running, person, answer.access_seq, request_id=used, attested=sent)
    signed = sign_statement(
        key, sent, kind=EntryKind.OUTCOME, tag=answer.decision.tag, request=used, time_ms=now_ms(running),
        ref=answer.access_seq,
    )  # fmt: skip
    again = refusal(lambda: record(running, person, answer.access_seq, request_id=used, signed=signed))
    assert again == "REQUEST_ID_REUSED"


def test_a_call_ends_what_its_statement_says_it_ends(running: Running) -> None:
    key = KeyPair(bytes([0x43]) * 32).public_key
    wrong = {
        "AddKey": {"key": key, "retired": True}, "RetireKey": {"key": key},
        "PutDelegation": {"giver": "clinic-b", "taker": "app", "capacity": 1, "ended": True},
        "EndDelegation": {"giver": "clinic-b", "taker": "app", "capacity": 1},
        "PutMandate": {"auditor": "pipc", "ended": True}, "EndMandate": {"auditor": "pipc"},
    }  # fmt: skip
    for name, fields in wrong.items():
        assert refusal(send(running, name, attested(name, **fields))) == "INVALID_REQUEST"


def test_a_signed_amendment_states_its_lineage_and_an_attested_one_does_not(running: Running) -> None:
    person = Person(running)
    granted = person.grant()
    assert amend(running, person.subject, granted.consent_id, 1, categories=["CLIN.DX"]).version == 2


def test_a_client_refuses_a_method_beside_a_signature() -> None:
    signer = StatementSigner(key=KeyPair(bytes(32)), origin="o", tag=bytes(32))
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidError):
        client.grant(pb.Subject(scheme="mhid", value="x"), consent(), method="id-card", signer=signer)
