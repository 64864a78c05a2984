"""Who registers a key proves that they have its private key: at AddKey and at EnrolSubject."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, make_running, request_id, serve
from cases.services import Person, add_key, new_identifier, new_number, participant, proof_of, refusal, retire_key
from consentd.core import note
from consentd.core.ed25519 import KeyPair
from consentd.core.possession import (
    participant_owner,
    person_owner,
    possession_bytes,
    prove_possession,
    verify_possession,
)
from consentd.errors import MalformedError, SignatureError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

KEY, OTHER = KeyPair(b"\x81" * 32), KeyPair(b"\x82" * 32)
OWNER = participant_owner("clinic-b")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


# -- the proof ------------------------------------------------------------------------------------------------


def test_what_is_signed_is_what_the_page_says() -> None:
    owner = hashlib.sha256(b"subject/mrn/hospital-a:P-1").digest()
    signed = b"consentd/possession/v1\0" + hashlib.sha256(ORIGIN.encode()).digest() + owner + KEY.public_key
    person = person_owner("mrn/hospital-a", "P-1")
    assert possession_bytes(KEY.public_key, origin=ORIGIN, owner=person) == signed
    assert prove_possession(KEY, origin=ORIGIN, owner=person) == KEY.sign(signed)


def test_a_proof_is_for_one_key_one_owner_and_one_ledger() -> None:
    proof = prove_possession(KEY, origin=ORIGIN, owner=OWNER)
    verify_possession(KEY.public_key, proof, origin=ORIGIN, owner=OWNER)
    for key, origin, owner in (
        (OTHER.public_key, ORIGIN, OWNER),
        (KEY.public_key, ORIGIN + "2", OWNER),
        (KEY.public_key, ORIGIN, participant_owner("clinic-c")),
        (KEY.public_key, ORIGIN, person_owner("participant", "clinic-b")),
    ):
        with pytest.raises(SignatureError):
            verify_possession(key, proof, origin=origin, owner=owner)
    for key, possession in ((KEY.public_key, proof[:-1]), (KEY.public_key, b""), (KEY.public_key[:-1], proof)):
        with pytest.raises(MalformedError):
            verify_possession(key, possession, origin=ORIGIN, owner=OWNER)


def test_two_persons_are_two_owners() -> None:
    persons = [("a", "b:c"), ("a/b", "c"), ("a", "b/c"), ("a", "b"), ("a", "b ")]
    assert len({person_owner(*person) for person in persons}) == len(persons)


# -- the calls ------------------------------------------------------------------------------------------------


def adding(key: bytes, possession: bytes, owner: str | pb.Subject) -> rs.AddKeyRequest:
    request = rs.AddKeyRequest(
        request_id=request_id(), attested=st.KeyStatement(key=key, attestation=st.Attestation(method="visit")),
        possession=possession,
    )  # fmt: skip
    if isinstance(owner, str):
        request.participant_id = owner
    else:
        request.subject.CopyFrom(owner)
    return request


def enrolling(key: bytes, possession: bytes, subject: pb.Subject) -> rs.EnrolSubjectRequest:
    return rs.EnrolSubjectRequest(request_id=request_id(), subject=subject, subject_key=key, possession=possession)


def new_subject() -> pb.Subject:
    return pb.Subject(scheme="mhid", value=new_identifier())


Send = Callable[[Running, bytes, bytes], Any]


def to_participant(running: Running, key: bytes, possession: bytes) -> Any:
    return running.registry.AddKey(adding(key, possession, "clinic-b"), metadata=running.as_("operator"))


def to_person(running: Running, key: bytes, possession: bytes) -> Any:
    return running.registry.AddKey(adding(key, possession, Person(running).subject), metadata=running.as_("app"))


def to_new_person(running: Running, key: bytes, possession: bytes) -> Any:
    return running.registry.EnrolSubject(enrolling(key, possession, new_subject()), metadata=running.as_("app"))


@pytest.mark.parametrize("send", [to_participant, to_person, to_new_person])
def test_who_knows_a_public_key_does_not_lock_its_owner_out(running: Running, send: Send) -> None:
    victim = KeyPair(new_number().to_bytes(32))
    proofs = [
        b"", bytes(64), bytes(63), proof_of(victim, "hospital-a"), proof_of(victim, "er"),
        OTHER.sign(possession_bytes(victim.public_key, origin=ORIGIN, owner=OWNER)),
    ]  # fmt: skip
    for proof in proofs:
        assert refusal(lambda proof=proof: send(running, victim.public_key, proof)) == "BAD_POSSESSION"
    add_key(running, "hospital-a", victim)  # the owner's key is still free
    assert victim.public_key in participant(running, "hospital-a").keys


def test_a_proof_of_one_person_is_not_one_of_another(running: Running) -> None:
    key, mine, other = KeyPair(new_number().to_bytes(32)), new_subject(), new_subject()
    app = {"metadata": running.as_("app")}
    stolen = enrolling(key.public_key, proof_of(key, mine), other)
    assert refusal(lambda: running.registry.EnrolSubject(stolen, **app)) == "BAD_POSSESSION"
    running.registry.EnrolSubject(enrolling(key.public_key, proof_of(key, mine), mine), **app)


def test_a_key_in_force_vouches_for_no_key_of_somebody_else(running: Running) -> None:
    person, victim = Person(running), KeyPair(new_number().to_bytes(32))
    used = request_id()
    signed = person.sign(3, st.KeyStatement(key=victim.public_key), used)
    for proof in (b"", proof_of(person.key, person.subject)):
        request = rs.AddKeyRequest(request_id=used, subject=person.subject, signed=signed, possession=proof)
        sending = lambda request=request: running.registry.AddKey(request, metadata=running.as_("app"))  # noqa: E731
        assert refusal(sending) == "BAD_POSSESSION"
    request.possession = proof_of(victim, person.subject)
    running.registry.AddKey(request, metadata=running.as_("app"))


def test_a_proof_without_a_key_is_refused(running: Running) -> None:
    request = enrolling(b"", bytes(64), new_subject())
    assert refusal(lambda: running.registry.EnrolSubject(request, metadata=running.as_("app"))) == "INVALID_REQUEST"


def test_a_retirement_needs_no_proof(running: Running) -> None:
    key = KeyPair(new_number().to_bytes(32))
    add_key(running, "er", key)
    retire_key(running, "er", key.public_key)
    assert key.public_key not in participant(running, "er").keys


# -- the command line -----------------------------------------------------------------------------------------


def test_the_verb_makes_proofs(tmp_path: Path) -> None:
    run, file = CommandLine(), tmp_path / "key"
    file.write_text(KEY.seed.hex())
    file.chmod(0o600)
    for given, owner in (("er", "er"), ("a/b:P-1:2", pb.Subject(scheme="a/b", value="P-1:2"))):
        proven = run("key", "prove", given, file, "--origin", ORIGIN)
        assert proven.out.split() == [KEY.public_key.hex(), proof_of(KEY, owner).hex()]
    assert run("key", "prove", "er", file).status == 2  # for which ledger?
    named = run("key", "prove", "er", file, "--origin", ORIGIN)
    assert run.given(CONSENTD_ORIGIN=ORIGIN)("key", "prove", "er", file) == named
    log = note.format_vkey(note.Signer(ORIGIN, KeyPair(b"\x45" * 32)).verifier)
    assert run("key", "prove", "er", file, "--log-key", log) == named
    file.chmod(0o644)
    assert run("key", "prove", "er", file, "--origin", ORIGIN).status == 2
