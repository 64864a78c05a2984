"""Keys that no signer has are refused wherever a key is registered, configured or named by a signature (RFC 8032)."""

from collections.abc import Iterator

import pytest

from cases.daemons import Running, consent, make_running, request_id, serve
from cases.ed25519_points import BASE, TORSION, P, encoded, plus, point_of, times
from cases.services import Person, add_key, new_identifier, participant, refusal, retire_key
from consentd.core import note
from consentd.core.ed25519 import KeyPair, check_public_key
from consentd.core.kinds import EntryKind
from consentd.core.quorum import parse_policy
from consentd.errors import MalformedError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

SMALL_ORDER = [encoded(times(k, TORSION)) for k in range(8)]
NOT_CANONICAL = [(y + P | sign << 255).to_bytes(32, "little") for y in range(19) for sign in (0, 1)]
NO_POINT = [y.to_bytes(32, "little") for y in range(2, 60) if point_of(y, 0) is None]
NEGATIVE_ZERO = [(1 | 1 << 255).to_bytes(32, "little"), (P - 1 | 1 << 255).to_bytes(32, "little")]
MIXED_ORDER = [encoded(plus(times(5, BASE), times(k, TORSION))) for k in range(1, 8)]
LENGTHS = [b"", bytes(31), bytes(33), KeyPair(bytes(32)).public_key + b"\0"]
REFUSED = [*SMALL_ORDER, *NOT_CANONICAL, *NO_POINT, *NEGATIVE_ZERO, *MIXED_ORDER, *LENGTHS]
SOME = [SMALL_ORDER[0], SMALL_ORDER[1], NOT_CANONICAL[4], NO_POINT[0], NEGATIVE_ZERO[0], MIXED_ORDER[0], bytes(31)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


def test_keys_of_signers_are_accepted_and_others_are_not() -> None:
    assert len(set(SMALL_ORDER)) == 8
    for seed in range(200):
        check_public_key(KeyPair(seed.to_bytes(32)).public_key)
        check_public_key(encoded(times(seed + 1, BASE)))
    for key in REFUSED:
        with pytest.raises(MalformedError):
            check_public_key(key)


@pytest.mark.parametrize("key", SOME)
def test_no_key_of_a_log_or_a_witness_is_such_a_key(key: bytes) -> None:
    for kind in (note.ED25519, note.COSIGNATURE):
        with pytest.raises(MalformedError):
            note.Verifier("log.test", key, kind)
        vkey = note.join_key("log.test", note.key_id_of("log.test", kind, key), kind, key)
        with pytest.raises(MalformedError):
            note.parse_vkey(vkey)
    with pytest.raises(MalformedError):
        parse_policy(f"witness a {vkey}\nquorum a\n".encode())


@pytest.mark.parametrize("key", SOME)
def test_nobody_registers_or_signs_with_such_a_key(running: Running, key: bytes) -> None:
    assert refusal(lambda: add_key(running, "clinic-b", key)) == "INVALID_REQUEST"
    assert refusal(lambda: retire_key(running, "clinic-b", key)) == "INVALID_REQUEST"
    assert list(participant(running, "clinic-b").keys) == []
    subject = pb.Subject(scheme="mhid", value=new_identifier())
    enrol = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject, subject_key=key)
    assert refusal(lambda: running.registry.EnrolSubject(enrol, metadata=running.as_("app"))) == "INVALID_REQUEST"
    person = Person(running)

    request = request_id()
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=consent()), request)
    signed.key, signed.signature = key, key[:32].ljust(32, b"\0") + bytes(32)
    assert refusal(lambda: person.send(signed, request)) == "BAD_SIGNATURE"
