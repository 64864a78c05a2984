"""Persons call by themselves: with an ID token, or with a key of their own."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.authorities import authority
from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, consent, make_running, question, reason_of, request_id, serve, sign_statement
from cases.fakes import HANG_S
from cases.logins import HIGH, ISSUER, LOW, Provider, bearer, call_metadata
from cases.services import Person, new_identifier, now_ms, proof_of, refusal, register
from cases.services import add_key as add_participant_key
from consentd import limits
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.call_signature import HEADER, decode_call_signature, sign_call, verify_call_signature
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.possession import prove_possession, representative_owner
from consentd.cosigning.keyfiles import read_signing_key, write_private
from consentd.errors import InvalidError, MalformedError, NotFoundError, SignatureError
from consentd.sequencer.commands.callers import person_id, unenrolled_id
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import CallSigner, Client, StatementSigner, Trust


class World:
    """A daemon with an ID provider, whose participant is the app."""

    def __init__(self, directory: Path) -> None:
        self.provider = Provider(directory)
        self.running = make_running(directory, self.provider.config(), checkpoint_interval_ms=10)

    def login(self, subject: pb.Subject, **changed: Any) -> Any:
        return bearer(self.provider.token(subject.value, now_ms(self.running), **changed))

    def signed(self, person: Person, stub: Any, request: Any, **changed: Any) -> Any:
        """Return the metadata of a call of a *stub*'s method that the person signs."""
        fields = {
            "key": person.key, "method": stub._method.decode(), "message": request.SerializeToString(),
            "time_ms": now_ms(self.running), **changed,
        }  # fmt: skip
        return call_metadata(**fields)

    def call(self, person: Person, stub: Any, request: Any, **changed: Any) -> Any:
        """Call as a person by their own key."""
        return stub(request, metadata=self.signed(person, stub, request, **changed))

    def history(self, subject: pb.Subject, metadata: Any) -> list[Any]:
        self.running.wait_published()
        found, chains = [], 0
        for part in self.running.ledger.GetHistory(ls.GetHistoryRequest(subject=subject), metadata=metadata):
            chains += part.HasField("chain")
            found += part.entries.entries if chains == 1 else ()  # the first chain is the person's
        return found

    def statements(self, subject: pb.Subject) -> list[tuple[int, Any]]:
        """Return kind and payload of the entries of a person that are signed by the daemon."""
        found = []
        for entry in self.history(subject, self.running.as_("app")):
            kind = codec.decode_leaf(entry.leaf).kind
            message = payloads.decode_known_payload(kind, codec.decode_statement(entry.opening.statement).payload)
            found.append((kind, message))
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("daemon"))
    for _ in serve(made.running):
        yield made


@pytest.fixture
def subject(world: World) -> pb.Subject:
    return world.running.enrol(new_identifier())


@pytest.fixture
def person(world: World) -> Person:
    return Person(world.running)


def grant_request(subject: pb.Subject, **root: Any) -> cs.GrantConsentRequest:
    stated = st.GrantStatement(consent=consent(**root))
    return cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=stated)


# -- logins ---------------------------------------------------------------------------------------------------


def test_an_expired_login_is_named_also_where_anybody_may_ask(world: World, subject: pb.Subject) -> None:
    hour_ago = now_ms(world.running) - 3_600_000
    expired = bearer(world.provider.token(subject.value, hour_ago))
    running = world.running
    calls: list[Callable[[Any], Any]] = [
        lambda who: list(running.ledger.GetHistory(ls.GetHistoryRequest(subject=subject), metadata=who)),
        lambda who: running.consents.ListConsents(cs.ListConsentsRequest(subject=subject), metadata=who),
        lambda who: running.policy.Check(ps.CheckRequest(question=question(subject)), metadata=who),
    ]
    for call in calls:
        assert refusal(lambda call=call: call(expired)) == "CREDENTIAL_EXPIRED"
        assert refusal(lambda call=call: call(None)) == "UNAUTHENTICATED"
    assert running.ledger.GetCheckpoint(ls.GetCheckpointRequest(), metadata=expired).checkpoint


def test_a_citizen_lives_by_her_login(world: World) -> None:
    """From the enrolment to the history, with a login alone; then the entries say who answers for it."""
    running, subject = world.running, pb.Subject(scheme="mhid", value=new_identifier())
    login = world.login(subject)
    enrol = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject)
    first = running.registry.EnrolSubject(enrol, metadata=login)
    again = running.registry.EnrolSubject(enrol, metadata=login)
    assert (again.tag, again.receipt.replayed) == (first.tag, True)
    given = running.consents.GrantConsent(grant_request(subject), metadata=login)
    records = running.consents.ListConsents(cs.ListConsentsRequest(subject=subject), metadata=login).records
    assert [one.consent_id for one in records] == [given.consent_id]
    located = {"subject": subject, "consent_id": given.consent_id}
    amended = cs.AmendConsentRequest(
        request_id=request_id(), based_on_version=1, attested=st.AmendStatement(consent=consent(purposes=["HRESCH"])),
        **located,
    )  # fmt: skip
    assert running.consents.AmendConsent(amended, metadata=login).version == 2
    for method, request, message in (
        ("PauseConsent", cs.PauseConsentRequest, st.PauseStatement()),
        ("ResumeConsent", cs.ResumeConsentRequest, st.ResumeStatement()),
        ("RevokeConsent", cs.RevokeConsentRequest, st.RevokeStatement()),
    ):
        made = request(request_id=request_id(), attested=message, **located)
        getattr(running.consents, method)(made, metadata=login)
    assert len(world.history(subject, login)) == 6  # and no READ entry
    attestations = [message.attestation for _, message in world.statements(subject)]
    assert {one.attested_by for one in attestations} == {"app"}
    stated = {(one.authentication.issuer, one.authentication.acr, *one.authentication.amr) for one in attestations}
    assert stated == {(ISSUER, HIGH, "pwd", "otp")}
    assert all(one.authentication.auth_time_ms > 0 for one in attestations)


def test_what_citizens_wrote_is_replayed(tmp_path: Path) -> None:
    world = World(tmp_path)
    person, subject = Person(world.running), pb.Subject(scheme="mhid", value=new_identifier())
    login = world.login(subject)
    pair = new_key()
    key = pair.public_key
    enrol = rs.EnrolSubjectRequest(
        request_id=request_id(), subject=subject, subject_key=key, possession=proof_of(pair, subject)
    )
    world.running.registry.EnrolSubject(enrol, metadata=login)
    world.running.consents.GrantConsent(grant_request(subject), metadata=login)
    world.running.registry.RetireKey(retire_request(subject, key), metadata=login)
    adding = added_key(person, new_key())
    world.call(person, world.running.registry.AddKey, adding)
    again = key_request(person.subject, new_key(), method="passport")
    world.running.registry.AddKey(again, metadata=world.running.as_("app"))
    world.running.check_ledger()
    world.running.stop()
    verifier = read_signing_key(world.running.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(world.running.config), origin=ORIGIN, log_verifier=verifier)
    assert (replayed.faults, replayed.not_checked) == ((), {})


@pytest.mark.parametrize("is_enrolled", [True, False])
def test_another_person_is_as_an_unknown_one(world: World, subject: pb.Subject, is_enrolled: bool) -> None:
    running, login = world.running, world.login(subject)
    other = pb.Subject(scheme="mhid", value=new_identifier())
    if is_enrolled:
        running.enrol(other.value)
    asked = question(other, actor=pb.Actor(organisation="SUBJECT"))
    calls: list[Callable[[], Any]] = [
        lambda: world.history(other, login),
        lambda: running.consents.ListConsents(cs.ListConsentsRequest(subject=other), metadata=login),
        lambda: running.consents.GrantConsent(grant_request(other), metadata=login),
        lambda: running.access.ListAccesses(ac.ListAccessesRequest(subject=other), metadata=login),
        lambda: running.policy.Check(ps.CheckRequest(question=asked), metadata=login),
        lambda: running.registry.AddKey(
            key_request(other, new_key()),
            metadata=login,
        ),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error = caught.value
        assert (error.code(), reason_of(error), error.details()) == (
            grpc.StatusCode.NOT_FOUND, "SUBJECT_NOT_FOUND", "subject is not enrolled"
        )  # fmt: skip
    enrol = rs.EnrolSubjectRequest(request_id=request_id(), subject=other)
    assert refusal(lambda: running.registry.EnrolSubject(enrol, metadata=login)) == "CALLER_NOT_ALLOWED"


def test_a_citizen_asks_as_herself_alone(world: World, subject: pb.Subject) -> None:
    running, login = world.running, world.login(subject)
    own = question(subject, actor=pb.Actor(organisation="SUBJECT"))
    assert running.policy.Check(ps.CheckRequest(question=own), metadata=login).decision.outcome == pb.OUTCOME_NO_CONSENT
    of_clinic = ps.CheckRequest(question=question(subject))
    assert refusal(lambda: running.policy.Check(of_clinic, metadata=login)) == "CALLER_NOT_ALLOWED"
    then = ps.CheckRequest(question=own, consistency=pb.Consistency(at_exact=pb.ExactState(tree_size=1, time_ms=1)))
    assert refusal(lambda: running.policy.Check(then, metadata=login)) == "CALLER_NOT_ALLOWED"


def test_a_level_of_assurance_is_needed(world: World, subject: pb.Subject) -> None:
    running, low = world.running, world.login(subject, acr=LOW)
    assert world.history(subject, low)
    assert refusal(lambda: running.consents.GrantConsent(grant_request(subject), metadata=low)) == "ASSURANCE_TOO_LOW"
    none = world.login(subject, acr="urn:unknown")
    assert refusal(lambda: world.history(subject, none)) == "ASSURANCE_TOO_LOW"


@pytest.mark.parametrize("acr", [LOW, HIGH])
def test_a_citizen_writes_no_statutory_consent(world: World, subject: pb.Subject, acr: str) -> None:
    request = grant_request(subject, kind=pb.CONSENT_KIND_STATUTORY)
    request.attested.consent.legal_basis = "MA-21-3"
    login = world.login(subject, acr=acr)
    expected = "CALLER_NOT_ALLOWED" if acr == HIGH else "ASSURANCE_TOO_LOW"
    assert refusal(lambda: world.running.consents.GrantConsent(request, metadata=login)) == expected


def test_the_daemon_alone_states_a_login(world: World, subject: pb.Subject) -> None:
    running = world.running
    for who, attestation in (
        (running.as_("app"), st.Attestation(authentication=st.Authentication(issuer=ISSUER))),
        (world.login(subject), st.Attestation(authentication=st.Authentication(issuer=ISSUER))),
        (world.login(subject), st.Attestation(method="passport")),
        (world.login(subject), st.Attestation(attested_by="app")),
    ):
        request = grant_request(subject)
        request.attested.attestation.CopyFrom(attestation)
        assert refusal(partial(running.consents.GrantConsent, request, metadata=who)) == "INVALID_REQUEST"
    enrol = rs.EnrolSubjectRequest(
        request_id=request_id(), subject=pb.Subject(scheme="mhid", value=new_identifier()), method="passport"
    )
    login = world.login(enrol.subject)
    assert refusal(lambda: running.registry.EnrolSubject(enrol, metadata=login)) == "INVALID_REQUEST"


def test_a_login_is_no_representative_s(world: World, subject: pb.Subject) -> None:
    """It changes none of their keys, and reads under no authority."""
    running, login, key = world.running, world.login(subject), KeyPair(b"\x77" * 32)
    owner = representative_owner(subject.scheme, subject.value)
    possession = prove_possession(key, origin=ORIGIN, owner=owner)
    stated = authority(participant_id="", key=key.public_key, acts=[st.AUTHORITY_ACT_READ_HISTORY])
    put = cs.PutAuthorityRequest(request_id=request_id(), subject=subject, attested=stated, possession=possession)
    seq = running.consents.PutAuthority(put, metadata=running.as_("app")).authority_seq
    statement = st.KeyStatement(key=key.public_key, retired=True, authority_seq=seq)
    retire = rs.RetireKeyRequest(request_id=request_id(), subject=subject, attested=statement)
    assert refusal(lambda: running.registry.RetireKey(retire, metadata=login)) == "CALLER_NOT_ALLOWED"
    read = cs.ListConsentsRequest(subject=subject, authority_seq=seq)
    assert refusal(lambda: running.consents.ListConsents(read, metadata=login)) == "SUBJECT_NOT_FOUND"
    assert list(running.consents.ListConsents(read, metadata=running.as_("app")).records) == []


def test_a_citizen_does_not_state_what_was_shown(world: World, subject: pb.Subject) -> None:
    request, login = grant_request(subject), world.login(subject)
    request.served.notice_id = "notice"
    assert refusal(lambda: world.running.consents.GrantConsent(request, metadata=login)) == "CALLER_NOT_ALLOWED"


def test_a_login_counts_as_long_as_its_participant_acts_for_persons(tmp_path: Path) -> None:
    world = World(tmp_path)
    subject = world.running.enrol(new_identifier())
    login = world.login(subject)
    assert world.history(subject, login)
    receipt = world.running.consents.GrantConsent(grant_request(subject), metadata=login).receipt
    of_entry = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
    assert world.running.ledger.GetReceipt(of_entry, metadata=login).HasField("opening")
    register(world.running, "app", [st.PARTICIPANT_ROLE_RELAY], rights=[])
    reduced = world.running.ledger.GetReceipt(of_entry, metadata=login)  # as nobody
    assert (reduced.HasField("opening"), reduced.receipt.leaf) == (False, b"")
    for call in (
        lambda: world.history(subject, login),
        lambda: world.running.consents.GrantConsent(grant_request(subject), metadata=login),
    ):
        assert refusal(call) == "CALLER_NOT_ALLOWED"
    world.running.check_ledger()
    world.running.stop()


def test_a_participant_that_answers_for_logins_gives_itself_no_access(tmp_path: Path) -> None:
    """A recipient alone attests no consent to its own access: neither by its own word, nor by that of its logins."""
    provider = Provider(tmp_path)
    running = make_running(tmp_path, provider.config("clinic-b"), checkpoint_interval_ms=10)
    register(running, "clinic-b", [st.PARTICIPANT_ROLE_RECIPIENT], rights=[st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS])
    subject = running.enrol(new_identifier())
    login = bearer(provider.token(subject.value, now_ms(running)))
    request = grant_request(subject)
    assert refusal(lambda: running.consents.GrantConsent(request, metadata=login)) == "CALLER_NOT_ALLOWED"
    denies = grant_request(subject, effect=pb.EFFECT_DENY)
    assert running.consents.GrantConsent(denies, metadata=login).consent_id
    running.stop()


def test_a_token_is_one_credential(world: World, subject: pb.Subject, person: Person) -> None:
    login, request = world.login(subject), ls.GetHistoryRequest(subject=subject)
    signature = world.signed(person, world.running.ledger.GetHistory, request)
    app = world.running.as_("app")
    for metadata in ((*login, *login), (*app, *login), (*login, *signature), (*signature, *signature)):
        asked = cs.ListConsentsRequest(subject=subject)
        refused = refusal(partial(world.running.consents.ListConsents, asked, metadata=metadata))
        assert refused == "UNAUTHENTICATED"


def test_a_bad_token_is_nobody_where_nobody_may_call(world: World) -> None:
    metadata = bearer("a.b.c")
    assert world.running.ledger.GetCheckpoint(ls.GetCheckpointRequest(), metadata=metadata).checkpoint
    request = ls.GetHistoryRequest(subject=pb.Subject(scheme="mhid", value="X"))
    assert refusal(lambda: list(world.running.ledger.GetHistory(request, metadata=metadata))) == "INVALID_ID_TOKEN"


def test_a_log_line_has_no_identifier(world: World, subject: pb.Subject, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        refusal(lambda: world.history(pb.Subject(scheme="mhid", value="SYN-OTHER"), world.login(subject)))
        refusal(lambda: world.history(subject, world.login(subject, acr="urn:unknown")))
        world.running.daemon.service_state.call_log.flush()
    lines = [str(getattr(record, "fields", "")) + record.getMessage() for record in caplog.records]
    callers = [line for line in lines if "subject/" in line]
    assert callers
    assert not [line for line in lines if subject.value in line or "SYN-OTHER" in line or "login.test" in line]


def test_ids_of_persons_are_made_from_tags() -> None:
    ids = {person_id(b"\1" * 32), person_id(b"\2" * 32), unenrolled_id(b"\1" * 32)}
    assert len(ids) == 3
    assert all(one.startswith("subject/") and len(one) == 40 for one in ids)


# -- keys of their own ----------------------------------------------------------------------------------------


def test_a_citizen_calls_with_her_own_key(world: World, person: Person) -> None:
    running = world.running
    running.wait_published()
    request = ls.GetHistoryRequest(subject=person.subject)
    assert [part for part in world.call(person, running.ledger.GetHistory, request) if part.HasField("entries")]
    write_id = request_id()
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=consent()), write_id)
    grant = cs.GrantConsentRequest(request_id=write_id, subject=person.subject, signed=signed)
    first = world.call(person, running.consents.GrantConsent, grant)
    again = world.call(person, running.consents.GrantConsent, grant)  # replay protection of writes is the request_id
    assert (again.consent_id, again.receipt.replayed) == (first.consent_id, True)
    attested = grant_request(person.subject)
    assert refusal(lambda: world.call(person, running.consents.GrantConsent, attested)) == "INVALID_REQUEST"


def test_a_signed_call_may_be_sent_again_for_a_minute(world: World, person: Person) -> None:
    method, request = world.running.consents.ListConsents, cs.ListConsentsRequest(subject=person.subject)
    metadata = world.signed(person, method, request)
    assert method(request, metadata=metadata) is not None
    assert method(request, metadata=metadata) is not None


SIGNED_WRONG: dict[str, dict[str, Any]] = {
    "another method": {"method": "/consentd.v1.ConsentService/GetConsent"},
    "another message": {"message": b""},
    "another origin": {"origin": "consent.test/other"},
    "a minute ago": {"time_ms": -60_500},
    "in a minute": {"time_ms": 61_500},
    "a key of nobody": {"key": KeyPair(b"\x77" * 32)},
}


@pytest.mark.parametrize("name", SIGNED_WRONG)
def test_a_call_is_signed_for_one_call(world: World, person: Person, name: str) -> None:
    changed = dict(SIGNED_WRONG[name])
    if "time_ms" in changed:
        changed["time_ms"] += now_ms(world.running)
    request = cs.ListConsentsRequest(subject=person.subject)
    method = world.running.consents.ListConsents
    assert refusal(lambda: world.call(person, method, request, **changed)) == "INVALID_CALL_SIGNATURE"


def test_a_key_calls_for_its_own_person(world: World, person: Person) -> None:
    other, unknown = Person(world.running), pb.Subject(scheme="mhid", value=new_identifier())
    for subject in (other.subject, unknown):
        request = cs.ListConsentsRequest(subject=subject)
        assert refusal(partial(world.call, person, world.running.consents.ListConsents, request)) == "SUBJECT_NOT_FOUND"


def test_a_participants_key_signs_no_calls(world: World, person: Person) -> None:
    key = KeyPair(b"\x55" * 32)
    add_participant_key(world.running, "clinic-b", key)
    asked = cs.ListConsentsRequest(subject=person.subject)
    method = world.running.consents.ListConsents
    assert refusal(partial(world.call, person, method, asked, key=key)) == "INVALID_CALL_SIGNATURE"


@pytest.mark.parametrize("data", [b"", b"\1" * 136, b"\1" * 138, b"\2" + bytes(136), bytes(137)])
def test_a_header_of_another_form_is_malformed(world: World, person: Person, data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_call_signature(data)
    request = cs.ListConsentsRequest(subject=person.subject)
    method = world.running.consents.ListConsents
    assert refusal(partial(method, request, metadata=((HEADER, data),))) == "INVALID_CALL_SIGNATURE"


def test_the_time_of_a_call_differs_by_no_more_than_the_limit() -> None:
    key, named = KeyPair(b"\x11" * 32), {"origin": "o", "method": "/a/B"}
    found = decode_call_signature(sign_call(key, **named, time_ms=10**12, message=b"m"))
    for sign in (1, -1):
        verify_call_signature(found, **named, now_ms=10**12 + sign * limits.CALL_SKEW_MS)
        with pytest.raises(SignatureError):
            verify_call_signature(found, **named, now_ms=10**12 + sign * (limits.CALL_SKEW_MS + 1))


def test_the_example_of_a_call_signature_is_what_we_sign() -> None:
    page = (Path(__file__).parents[1] / "proto/callers.md").read_text(encoding="utf-8")
    shown = page.split("in hexadecimal:\n\n```\n")[1].split("```")[0].replace("\n", "")
    method = "/consentd.v1.LedgerService/GetCheckpoint"
    made = sign_call(
        KeyPair(bytes(range(32))), origin="consent.example.org/2025", method=method, time_ms=1_767_225_600_000,
        message=b"",
    )  # fmt: skip
    assert made.hex() == shown


# -- the client library and the command line ------------------------------------------------------------------


def test_the_client_calls_as_a_person(world: World, person: Person) -> None:
    running = world.running
    running.wait_published()
    pinned = read_signing_key(running.config.keys.log_key_file).verifier
    more = {"channel": running.channel, "timeout_s": HANG_S, "trust": Trust(ORIGIN, pinned)}
    by_key = Client("", call_signer=CallSigner(key=person.key, origin=ORIGIN), **more)
    assert [entry.seq for entry in by_key.history(person.subject).entries] == [1, 2]
    signer = StatementSigner(key=person.key, origin=ORIGIN, tag=person.tag)
    given = by_key.grant(person.subject, consent(), signer=signer)
    token = world.provider.token(person.subject.value, now_ms(running))
    by_login = Client("", token=token, **more)
    assert [one.consent_id for one in by_login.list_consents(person.subject)] == [given.consent_id]
    with pytest.raises(NotFoundError):
        list(by_key.list_consents(pb.Subject(scheme="mhid", value=new_identifier())))
    with pytest.raises(InvalidError):
        Client("", token=token, call_signer=CallSigner(key=person.key, origin=ORIGIN), **more)


def test_the_command_line_calls_as_a_person(world: World, person: Person, tmp_path: Path) -> None:
    running, key_file, token_file = world.running, tmp_path / "key", tmp_path / "token"
    write_private(key_file, person.key.seed.hex() + "\n")
    write_private(token_file, world.provider.token(person.subject.value, now_ms(running)))
    target = ("--target", f"127.0.0.1:{running.daemon.grpc_port}")
    named = ("consents", f"mhid:{person.subject.value}", *target)
    shown = CommandLine()
    assert shown(*named, "--id-token-file", token_file).status == 0
    assert shown(*named, "--subject-key", key_file, "--origin", ORIGIN).status == 0
    assert shown(*named, "--subject-key", key_file).status == 2
    assert shown(*named, "--subject-key", key_file, "--id-token-file", token_file, "--origin", ORIGIN).status == 2


# -- changes of keys ------------------------------------------------------------------------------------------


def key_request(subject: pb.Subject, key: KeyPair, *, method: str = "") -> rs.AddKeyRequest:
    stated = st.KeyStatement(key=key.public_key)
    if method:
        stated.attestation.method = method
    return rs.AddKeyRequest(
        request_id=request_id(), subject=subject, attested=stated, possession=proof_of(key, subject)
    )


def retire_request(subject: pb.Subject, key: bytes) -> rs.RetireKeyRequest:
    stated = st.KeyStatement(key=key, retired=True)
    return rs.RetireKeyRequest(request_id=request_id(), subject=subject, attested=stated)


def added_key(person: Person, new: KeyPair, *, key: KeyPair | None = None) -> rs.AddKeyRequest:
    """Return a request that adds the key *new*, signed with *key*, by default the person's."""
    write_id = request_id()
    signed = signed_key(person, st.KeyStatement(key=new.public_key), key or person.key, write_id)
    return rs.AddKeyRequest(
        request_id=write_id, subject=person.subject, signed=signed, possession=proof_of(new, person.subject)
    )


def retired_key(person: Person, old: bytes, *, key: KeyPair) -> rs.RetireKeyRequest:
    write_id = request_id()
    signed = signed_key(person, st.KeyStatement(key=old, retired=True), key, write_id)
    return rs.RetireKeyRequest(request_id=write_id, subject=person.subject, signed=signed)


def signed_key(person: Person, message: st.KeyStatement, key: KeyPair, write_id: bytes) -> pb.SignedStatement:
    return sign_statement(
        key, message, kind=EntryKind.KEY, tag=person.tag, request=write_id, time_ms=now_ms(person.running)
    )


def new_key() -> KeyPair:
    return KeyPair(request_id() * 2)


def test_a_login_adds_the_first_key_and_no_second_one(world: World, subject: pb.Subject) -> None:
    registry, login = world.running.registry, world.login(subject)
    registry.AddKey(key_request(subject, new_key()), metadata=login)
    second = key_request(subject, new_key())
    assert refusal(lambda: registry.AddKey(second, metadata=login)) == "CALLER_NOT_ALLOWED"


def test_a_key_that_was_retired_by_a_login_is_not_replaced_by_one(world: World, subject: pb.Subject) -> None:
    registry, login, key = world.running.registry, world.login(subject), new_key()
    registry.AddKey(key_request(subject, key), metadata=login)
    registry.RetireKey(retire_request(subject, key.public_key), metadata=login)
    again = key_request(subject, new_key())
    assert refusal(lambda: registry.AddKey(again, metadata=login)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: registry.AddKey(key_request(subject, key), metadata=world.running.as_("app"))) != ""


def test_a_person_rotates_her_key(world: World, person: Person) -> None:
    registry, new = world.running.registry, new_key()
    adding = added_key(person, new)
    world.call(person, registry.AddKey, adding)
    retiring = retired_key(person, person.key.public_key, key=new)
    world.call(person, registry.RetireKey, retiring, key=new)
    request = cs.ListConsentsRequest(subject=person.subject)
    method = world.running.consents.ListConsents
    assert world.call(person, method, request, key=new) is not None
    assert refusal(lambda: world.call(person, method, request)) == "INVALID_CALL_SIGNATURE"


def test_who_has_lost_a_key_is_identified_again(world: World, person: Person) -> None:
    registry, app, new = world.running.registry, world.running.as_("app"), new_key()
    assert refusal(lambda: registry.AddKey(key_request(person.subject, new), metadata=app)) == "INVALID_REQUEST"
    registry.AddKey(key_request(person.subject, new, method="passport, at a counter"), metadata=app)
    registry.RetireKey(retire_request(person.subject, person.key.public_key), metadata=app)
    stated = [message for kind, message in world.statements(person.subject) if kind == EntryKind.KEY]
    assert [one.attestation.method for one in stated] == ["", "passport, at a counter", ""]


def test_a_key_is_changed_by_its_owner(world: World, person: Person) -> None:
    registry, other, stranger = world.running.registry, Person(world.running), new_key()
    by_other = added_key(person, stranger, key=other.key)
    by_itself = added_key(person, stranger, key=stranger)
    for request in (by_other, by_itself):
        assert refusal(partial(world.call, person, registry.AddKey, request)) == "KEY_NOT_IN_FORCE"
    of_other = retire_request(person.subject, other.key.public_key)
    assert refusal(lambda: registry.RetireKey(of_other, metadata=world.running.as_("app"))) == "NOT_FOUND"
    taken = key_request(person.subject, other.key, method="passport")
    assert refusal(lambda: registry.AddKey(taken, metadata=world.running.as_("app"))) == "ALREADY_EXISTS"
    for who in ("clinic-b", "pipc"):
        request = key_request(person.subject, stranger, method="passport")
        refused = refusal(partial(registry.AddKey, request, metadata=world.running.as_(who)))
        assert refused == "CALLER_NOT_ALLOWED"
