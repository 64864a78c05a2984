"""Participants sign what comes from them: their own keys, and, as public authorities, the mandates that they give."""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, make_running, request_id, serve, sign_statement
from cases.services import (
    add_key,
    attest_key,
    new_number,
    now_ms,
    participant,
    proof_of,
    put_mandate,
    refusal,
    register,
    retire_key,
)
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, StatementSigner, pin

COURT, READS = [st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY], [st.PARTICIPANT_RIGHT_READ_STATEMENTS]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("own"), checkpoint_interval_ms=10))


def new_key() -> KeyPair:
    return KeyPair(new_number().to_bytes(32))


def new_participant(running: Running, roles: list[int], **more: Any) -> tuple[str, KeyPair]:
    """Register a participant with a token and a key; return its id and the key."""
    name, key = f"p{new_number()}", new_key()
    register(running, name, roles, **more)
    running.add_caller(name)
    add_key(running, name, key)
    return name, key


def signed(running: Running, key: KeyPair, kind: int, message: Any, chain: str, used: bytes, **more: Any) -> Any:
    tag = codec.public_tag(f"participant/{chain}")
    return sign_statement(key, message, kind=kind, tag=tag, request=used, time_ms=now_ms(running), **more)


def change_key(
    running: Running, whose: str, key: KeyPair, by: KeyPair, *, retired: bool = False, who: str = "", **more: Any
) -> Any:
    """Add or retire a key, signed with the key *by*, and sent by *who* (default: the owner)."""
    used, message = request_id(), st.KeyStatement(key=key.public_key, retired=retired)
    made = signed(running, by, EntryKind.KEY, message, more.pop("chain", whose), used, **more)
    fields: dict[str, Any] = {"request_id": used, "participant_id": whose, "signed": made}
    metadata = running.as_(who or whose)
    if retired:
        return running.registry.RetireKey(rs.RetireKeyRequest(**fields), metadata=metadata)
    request = rs.AddKeyRequest(**fields, possession=proof_of(key, whose))
    return running.registry.AddKey(request, metadata=metadata)


def keys(running: Running, whose: str) -> set[bytes]:
    return set(participant(running, whose).keys)


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_participant_adds_and_retires_its_keys(running: Running) -> None:
    name, first = new_participant(running, [st.PARTICIPANT_ROLE_HOLDER])
    second, third = new_key(), new_key()
    change_key(running, name, second, first)
    change_key(running, name, third, second)
    change_key(running, name, first, third, retired=True)
    change_key(running, name, second, second, retired=True)
    assert keys(running, name) == {third.public_key}
    change_key(running, name, third, third, retired=True)  # the last one too: an operator attests the next
    assert keys(running, name) == set()
    assert refusal(lambda: change_key(running, name, new_key(), third)) == "KEY_NOT_IN_FORCE"
    attest_key(running, name, new_key())


@pytest.mark.parametrize("role", [1, 2, 3, 4, 5])
def test_participants_of_every_role_do(running: Running, role: int) -> None:
    name, first = new_participant(running, [role])
    second = new_key()
    change_key(running, name, second, first)
    assert keys(running, name) == {first.public_key, second.public_key}


def test_nobody_else_signs_a_key_of_a_participant(running: Running) -> None:
    (name, first), (other, theirs) = (new_participant(running, [st.PARTICIPANT_ROLE_HOLDER]) for _ in range(2))
    new = new_key()
    assert refusal(lambda: change_key(running, name, new, theirs)) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: change_key(running, name, first, theirs, retired=True)) == "KEY_NOT_IN_FORCE"
    for who in (other, "operator"):  # signed by the participant, and passed on by another
        assert refusal(lambda who=who: change_key(running, name, new, first, who=who)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: change_key(running, other, new, first, who=name)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: change_key(running, name, new, first, chain=other)) == "BAD_SIGNATURE"
    assert refusal(lambda: change_key(running, name, new, first, ref=1)) == "REF_MOVED"
    attested = rs.AddKeyRequest(
        request_id=request_id(), participant_id=name, attested=st.KeyStatement(key=new.public_key),
        possession=proof_of(new, name),
    )  # fmt: skip
    as_owner = {"metadata": running.as_(name)}
    assert refusal(lambda: running.registry.AddKey(attested, **as_owner)) == "CALLER_NOT_ALLOWED"
    retire_key(running, name, first.public_key)
    assert refusal(lambda: change_key(running, name, new, first)) == "KEY_NOT_IN_FORCE"
    register(running, other, [st.PARTICIPANT_ROLE_HOLDER], active=False)
    assert refusal(lambda: change_key(running, other, new, theirs)) == "CALLER_NOT_ALLOWED"


def test_the_first_key_is_attested(running: Running) -> None:
    name, key = f"p{new_number()}", new_key()
    register(running, name, [st.PARTICIPANT_ROLE_HOLDER])
    running.add_caller(name)
    assert refusal(lambda: change_key(running, name, key, key)) == "KEY_NOT_IN_FORCE"


# -- mandates -----------------------------------------------------------------------------------------------------


def mandate(running: Running, auditor: str, giver: str, **fields: Any) -> st.MandateStatement:
    stated = {"scope": "accesses", "reason": "order 12", "end_time_ms": now_ms(running) + 10**7, **fields}
    return st.MandateStatement(auditor=auditor, giver=giver, **stated)


def give(running: Running, message: st.MandateStatement, by: KeyPair, *, who: str = "", **more: Any) -> Any:
    """Put or end a mandate, signed with the key *by*, and sent by *who* (default: the giver)."""
    request_type, call = (
        (rs.EndMandateRequest, running.registry.EndMandate)
        if message.ended
        else (rs.PutMandateRequest, running.registry.PutMandate)
    )
    used = request_id()
    made = signed(running, by, EntryKind.MANDATE, message, more.pop("chain", message.auditor), used, **more)
    return call(request_type(request_id=used, signed=made), metadata=running.as_(who or message.giver))


def ended(auditor: str, giver: str = "") -> st.MandateStatement:
    return st.MandateStatement(auditor=auditor, giver=giver, ended=True)


@pytest.fixture
def auditor(running: Running) -> str:
    return new_participant(running, [st.PARTICIPANT_ROLE_AUDITOR], rights=READS)[0]


def has_mandate(running: Running, auditor: str) -> bool:
    return participant(running, auditor).HasField("mandate")


def test_a_public_authority_gives_a_mandate_and_ends_it(running: Running, auditor: str) -> None:
    (court, key), (other, theirs) = (new_participant(running, COURT) for _ in range(2))
    give(running, mandate(running, auditor, court), key)
    assert participant(running, auditor).mandate.giver == court
    running.wait_published()
    request = ls.ListEntriesRequest(kinds=[EntryKind.GRANT])
    assert running.ledger.ListEntries(request, metadata=running.as_(auditor)).withheld_count == 0
    assert refusal(lambda: give(running, ended(auditor, other), theirs)) == "NOT_FOUND"
    give(running, ended(auditor, court), key)
    assert not has_mandate(running, auditor)
    assert refusal(lambda: give(running, ended(auditor, court), key)) == "NOT_FOUND"
    give(running, mandate(running, auditor, court), key)
    give(running, mandate(running, auditor, other), theirs)  # the latest counts
    assert refusal(lambda: give(running, ended(auditor, court), key)) == "NOT_FOUND"
    end = rs.EndMandateRequest(request_id=request_id(), attested=ended(auditor))
    running.registry.EndMandate(end, metadata=running.as_("operator"))
    assert not has_mandate(running, auditor)
    put_mandate(running, auditor)
    assert refusal(lambda: give(running, ended(auditor, court), key)) == "NOT_FOUND"


def test_nobody_else_gives_one(running: Running, auditor: str) -> None:
    (court, key), (other, theirs) = (new_participant(running, COURT) for _ in range(2))
    bank, of_bank = new_participant(running, [st.PARTICIPANT_ROLE_RECIPIENT])
    made = mandate(running, auditor, court)
    assert refusal(lambda: give(running, made, theirs)) == "KEY_NOT_IN_FORCE"
    for who in (other, "operator", auditor):
        assert refusal(lambda who=who: give(running, made, key, who=who)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: give(running, mandate(running, auditor, bank), of_bank)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: give(running, mandate(running, auditor, ""), key, who=court)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: give(running, mandate(running, auditor, other), key, who=court)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: give(running, made, key, chain=court)) == "BAD_SIGNATURE"
    assert refusal(lambda: give(running, made, key, ref=1)) == "REF_MOVED"
    attested = rs.PutMandateRequest(request_id=request_id(), attested=made)
    by_operator = {"metadata": running.as_("operator")}
    assert refusal(lambda: running.registry.PutMandate(attested, **by_operator)) == "INVALID_REQUEST"
    assert refusal(lambda: give(running, mandate(running, auditor, court, end_time_ms=1), key)) == "INVALID_REQUEST"
    register(running, court, COURT, active=False)
    assert refusal(lambda: give(running, made, key)) == "CALLER_NOT_ALLOWED"
    register(running, court, [st.PARTICIPANT_ROLE_HOLDER])
    assert refusal(lambda: give(running, made, key)) == "CALLER_NOT_ALLOWED"
    assert not has_mandate(running, auditor)


def test_an_auditor_that_is_an_authority_gives_itself_none(running: Running) -> None:
    name, key = new_participant(running, [*COURT, st.PARTICIPANT_ROLE_AUDITOR], rights=READS)
    assert refusal(lambda: give(running, mandate(running, name, name), key)) == "INVALID_REQUEST"
    court, of_court = new_participant(running, COURT)
    give(running, mandate(running, name, court), of_court)
    assert has_mandate(running, name)


# -- the client library, and what it verifies --------------------------------------------------------------------------


def connected(running: Running, who: str) -> Client:
    log_key = read_signing_key(running.config.keys.log_key_file).verifier
    return Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens[who], trust=pin(log_key))


def test_a_client_signs_and_verifies_them(running: Running, auditor: str) -> None:
    (court, key), second = new_participant(running, COURT), new_key()
    signer = StatementSigner.of_participant(key, origin=ORIGIN, participant_id=court)
    with connected(running, court) as client:
        client.add_key(court, second.public_key, proof_of(second, court), signer=signer)
        other = StatementSigner.of_participant(second, origin=ORIGIN, participant_id=court)
        client.retire_key(court, key.public_key, signer=other)
        client.put_mandate(mandate(running, auditor, court), signer=other)
        client.end_mandate(auditor, giver=court, signer=other, published=True)
        found = client.public_history(f"participant/{auditor}").entries
        assert [(one.kind_name, one.author) for one in found[-2:]] == [("MANDATE", f"participant/{court}")] * 2
        assert f"mandate: {auditor} ← {court}, accesses" in found[-2].line()
        assert f"mandate: {auditor} ← {court}, ended  [signed by {court}]" in found[-1].line()
        own = client.public_history(f"participant/{court}").entries
        assert [(one.kind_name, one.author) for one in own[-2:]] == [("KEY", f"participant/{court}")] * 2
