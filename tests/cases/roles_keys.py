"""How a test changes keys of participants and of persons: attempts of ``cases.roles``."""

from typing import TYPE_CHECKING

from cases.daemons import request_id, sign_statement
from cases.services import add_key as add_participant_key
from cases.services import now_ms, proof_of, register
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.service.roles import Access, Whose
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

if TYPE_CHECKING:
    from cases.roles import Call

PERSONS = ("citizen", "citizen-key")


def _new_key(call: "Call") -> KeyPair:
    return KeyPair(request_id() * 2)


def _is_of_person(call: "Call") -> bool:
    """Return whether a call about a key is about a person's."""
    is_own = call.caller in PERSONS and call.whose is not Whose.OTHER
    return is_own or call.whose in (Whose.SUBJECT, Whose.UNKNOWN)


def _add_person_key(call: "Call", key: KeyPair) -> Access:
    subject = _person_of_key(call)
    request = rs.AddKeyRequest(request_id=request_id(), subject=subject, possession=proof_of(key, subject))
    message = st.KeyStatement(key=key.public_key)
    return call.plain(call.running.registry.AddKey, call.state(request, EntryKind.KEY, message))


def _person_of_key(call: "Call") -> pb.Subject:
    return call.world.person(call.whose)


def _retire_person_key(call: "Call", key: KeyPair) -> Access:
    subject = _person_of_key(call)
    if call.whose is not Whose.UNKNOWN:
        attested = st.KeyStatement(key=key.public_key, attestation=st.Attestation(method="passport"))
        adding = rs.AddKeyRequest(
            request_id=request_id(), subject=subject, attested=attested, possession=proof_of(key, subject)
        )
        call.running.registry.AddKey(adding, metadata=call.running.as_("app"))
    request = rs.RetireKeyRequest(request_id=request_id(), subject=subject)
    message = st.KeyStatement(key=key.public_key, retired=True)
    return call.plain(call.running.registry.RetireKey, call.state(request, EntryKind.KEY, message))


def _new_participant(call: "Call") -> str:
    """Register a participant that has no key; return its id."""
    name = f"n{request_id().hex()[:8]}"
    register(call.running, name, [st.PARTICIPANT_ROLE_HOLDER])
    return name


def _add_own_key(call: "Call", owner: str, key: KeyPair) -> None:
    """Add a further key of a participant, which signs it with the one that it has."""
    request = rs.AddKeyRequest(request_id=request_id(), participant_id=owner, possession=proof_of(key, owner))
    message, tag = st.KeyStatement(key=key.public_key), codec.public_tag(f"participant/{owner}")
    request.signed.CopyFrom(sign_statement(
        call.world.keys[owner], message, kind=EntryKind.KEY, tag=tag, request=request.request_id,
        time_ms=now_ms(call.running),
    ))  # fmt: skip
    call.running.registry.AddKey(request, metadata=call.running.as_(owner))


def add_key(call: "Call") -> Access:
    if _is_of_person(call):
        return _add_person_key(call, _new_key(call))
    key, owner = _new_key(call), call.caller if call.whose is Whose.OWN else _new_participant(call)
    request = rs.AddKeyRequest(request_id=request_id(), participant_id=owner, possession=proof_of(key, owner))
    message = st.KeyStatement(key=key.public_key)
    return call.plain(call.running.registry.AddKey, call.sign(request, EntryKind.KEY, message, owner))


def retire_key(call: "Call") -> Access:
    if _is_of_person(call):
        return _retire_person_key(call, _new_key(call))
    key, owner = _new_key(call), call.caller if call.whose is Whose.OWN else _new_participant(call)
    if owner in call.world.keys and owner != "left":
        _add_own_key(call, owner, key)
    elif call.whose is not Whose.OWN:
        add_participant_key(call.running, owner, key)
    request = rs.RetireKeyRequest(request_id=request_id(), participant_id=owner)
    message = st.KeyStatement(key=key.public_key, retired=True)
    return call.plain(call.running.registry.RetireKey, call.sign(request, EntryKind.KEY, message, owner))
