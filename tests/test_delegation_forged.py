"""Delegations that no daemon writes: fsck, ``audit verify`` and ``audit replay`` name each of them and nothing else."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cases import delegations
from cases.audited import named, verify
from cases.audits import JOBS, LOG, ORIGIN, Forge
from cases.delegations import statement
from cases.ledgers import BANK, CITIZEN, LedgerCase, check_files, check_ledger
from cases.writes import Raw
from consentd.audit.evidence import make_evidence
from consentd.audit.replay import replay_decisions
from consentd.core import codec, ed25519
from consentd.core.evidence import Scope, parse_evidence
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError, VerificationError
from consentd.policy.delegation import Capacity
from consentd.statements.evidence import verify_evidence
from consentd.statements.payloads import decode_payload
from consentd.v1 import statement_pb2 as st
from consentd.verify.statements import verify_opening

HOSPITAL = ed25519.KeyPair(b"\x24" * 32)
CHAIN = codec.public_tag("participant/hospital")
BY_OPERATOR = {"attestation": st.Attestation(attested_by="operator")}
ATTESTED_BY_BANK = {"attestation": st.Attestation(attested_by="bank")}

FORGED: dict[str, dict[str, Any]] = {
    "signed by another participant": {"message": statement(), "key": BANK},
    "ended by another participant": {"message": statement(ended=True), "key": BANK},
    "ended by a person": {"message": statement(ended=True), "key": CITIZEN},
    "ended, attested by another participant": {"message": statement(ended=True, **ATTESTED_BY_BANK)},
    "given, attested by the taker": {"message": statement(attestation=st.Attestation(attested_by="relay"))},
    "in the chain of the taker": {"message": statement(**BY_OPERATOR), "tag": codec.public_tag("participant/relay")},
    "in the chain of another, who signed it": {
        "message": statement(), "tag": codec.public_tag("participant/bank"), "key": BANK,
    },
    "in the chain of a group": {
        "message": statement("group/hospitals", **BY_OPERATOR), "tag": codec.public_tag("participant/group/hospitals"),
    },
    "to a group": {"message": statement(taker="group/hospitals", **BY_OPERATOR)},
    "to nobody": {"message": statement(taker="nobody", **BY_OPERATOR)},
    "to the giver": {"message": statement(taker="hospital", **BY_OPERATOR)},
    "of a giver that is none": {
        "message": statement("nobody", **BY_OPERATOR), "tag": codec.public_tag("participant/nobody"),
    },
    "that ends before it starts": {"message": statement(start_time_ms=9, end_time_ms=8, **BY_OPERATOR)},
    "of a negative start": {"message": statement(start_time_ms=-1, **BY_OPERATOR)},
    "of no capacity": {"message": statement(capacity=0, **BY_OPERATOR)},
    "of an unknown capacity": {"message": statement(capacity=4, **BY_OPERATOR)},
    "that names a purpose twice": {"message": statement(purposes=["TREAT", "TREAT"], **BY_OPERATOR)},
    "that is ended and states more": {"message": statement(ended=True, break_glass=True, **BY_OPERATOR)},
    "that does not decode": {"message": b"\xff"},
}  # fmt: skip
BY_KEY_ALONE = {name for name, forged in FORGED.items() if "key" in forged or "attested by" in name}
"""What only those find who know keys and authors. A replay of decisions trusts that the ledger was verified."""


def begun() -> Forge:
    """Return a ledger with keys of two participants and a person, and right delegations in it."""
    forge = Forge()
    forge.begin()
    forge.participant("relay", roles=[st.PARTICIPANT_ROLE_RELAY], groups=["group/hospitals"])
    forge.add(EntryKind.DELEGATION, CHAIN, statement(**BY_OPERATOR))  # before the giver has a key
    for name, key in (("hospital", HOSPITAL), ("bank", BANK)):
        forge.add(EntryKind.KEY, codec.public_tag(f"participant/{name}"), st.KeyStatement(key=key.public_key))
    person = forge.enrol(0)
    attested_key = st.KeyStatement(key=CITIZEN.public_key, attestation=st.Attestation(attested_by="app"))
    forge.add(EntryKind.KEY, person, attested_key)
    forge.add(EntryKind.DELEGATION, CHAIN, statement(purposes=["TREAT"], end_time_ms=forge.time_ms), key=HOSPITAL)
    forge.add(EntryKind.DELEGATION, CHAIN, statement(ended=True), key=HOSPITAL)
    forge.add(EntryKind.DELEGATION, CHAIN, statement(taker="bank", capacity=Capacity.PROCESSOR), key=HOSPITAL)
    forge.add(EntryKind.DELEGATION, CHAIN, statement(taker="bank", capacity=Capacity.PROCESSOR, ended=True))
    forge.ask(person)
    return forge


def add(forge: Forge, forged: dict[str, Any]) -> int:
    """Append a forged delegation and entries after it, and seal; return the index of the forged one."""
    at = forge.size
    more = {"key": forged["key"]} if "key" in forged else {}
    forge.add(EntryKind.DELEGATION, forged.get("tag", CHAIN), forged["message"], **more)
    forge.add(EntryKind.DELEGATION, CHAIN, statement(break_glass=True), key=HOSPITAL)
    forge.seal()
    return at


def test_right_ones_are_proven_and_are_evidence(tmp_path: Path) -> None:
    forge = begun()
    forge.seal()
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    report = verify(export)
    assert (report.faults, report.not_checked) == ((), {})
    replayed = replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    assert (replayed.faults, replayed.not_checked) == ((), {})
    path = tmp_path / "evidence.json"
    make_evidence(export, path, Scope(participant="hospital"), origin=ORIGIN, log_verifier=LOG.verifier)
    evidence = parse_evidence(path.read_bytes())
    found = verify_evidence(evidence, origin=ORIGIN, log_verifier=LOG.verifier)
    assert (found.kinds["DELEGATION"], found.unproven, found.unknown, found.closed) == (5, 0, 0, 0)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_one_is_named_by_an_audit(tmp_path: Path, name: str) -> None:
    forge = begun()
    at = add(forge, FORGED[name])
    export = forge.write(tmp_path / "ledger", tmp_path / "openings")
    assert named(verify(export)) == [at]
    replayed = replay_decisions(export, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS)
    # That no operator attests a delegation of who has a key is another fault of some.
    found = sorted({fault.index for fault in replayed.faults})
    assert found in ([at], []) if name in BY_KEY_ALONE else found == [at]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LedgerCase]:
    case = LedgerCase(tmp_path)
    case.write(case.key("hospital", HOSPITAL.public_key))
    case.write(case.key("bank", BANK.public_key))
    case.enrol("citizen", CITIZEN)
    delegations.relay(case)
    yield case
    case.close()


def test_right_ones_are_no_fault_of_the_files(case: LedgerCase) -> None:
    case.write(delegations.write(case, statement(purposes=["TREAT"]), key=HOSPITAL))
    case.write(delegations.write(case, statement(ended=True), key=HOSPITAL))
    case.write(case.key("hospital", HOSPITAL.public_key, retired=True))
    case.write(delegations.write(case, statement()))
    case.seal()
    check_ledger(case)
    check_files(case)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_one_is_named_by_fsck(case: LedgerCase, name: str) -> None:
    forged = FORGED[name]
    message = forged["message"]
    payload = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
    at = case.ledger.state.size
    # The daemon's table applies nothing of it.
    raw = Raw(
        kind=EntryKind.DELEGATION, tag=forged.get("tag", CHAIN), payload=payload, author=forged.get("key"), message=None
    )
    case.write(raw)
    case.seal()
    assert named(case.fsck()) == [at]


# -- any payload ----------------------------------------------------------------------------------------------------

_KINDS = (EntryKind.DELEGATION, EntryKind.MANDATE)
_names = some.sampled_from(["hospital", "bank", "relay", "", "group/x", "é"]) | some.text(max_size=600)
_numbers = some.sampled_from([0, 1, -1, 4, 300]) | some.integers(-(1 << 31), (1 << 31) - 1)
_times = some.sampled_from([0, 1, -1]) | some.integers(-(1 << 63), (1 << 63) - 1)
_payloads = (
    some.binary(max_size=60)
    | some.builds(
        st.DelegationStatement, giver=_names, taker=_names, capacity=_numbers, purposes=some.lists(_names, max_size=3),
        start_time_ms=_times, end_time_ms=_times, break_glass=some.booleans(), ended=some.booleans(),
    ).map(lambda message: message.SerializeToString())
    | some.builds(
        st.MandateStatement, auditor=_names, scope=_names, reason=_names, end_time_ms=_times, ended=some.booleans()
    ).map(lambda message: message.SerializeToString())
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.sampled_from(_KINDS), _payloads, some.sampled_from([b"", b"\xfa\x07\x01x"]))
def test_any_payload_is_applied_or_refused(case: LedgerCase, kind: EntryKind, payload: bytes, more: bytes) -> None:
    event = codec.Event(kind, 0, CHAIN, 1, codec.ZERO_HASH, codec.ZERO_HASH, 0)
    assert case.table is not None
    with suppress(MalformedError, InvalidError), case.table.begin() as transaction:
        transaction.apply(event, decode_payload(kind, payload + more), index=transaction.size)
        transaction.registry()
        raise InvalidError("dropped")  # so that the next example finds the same table
    signed = codec.signed_message(
        origin=ORIGIN, kind=kind, tag=CHAIN, ref=0, request_id=bytes(16), author_time_ms=0, payload=payload + more
    )
    statement = codec.encode_statement(
        codec.Statement(HOSPITAL.public_key, HOSPITAL.sign(signed), bytes(16), 0, payload + more)
    )
    committed = replace(event, commit=codec.commit(bytes(32), statement))
    with suppress(VerificationError):
        verify_opening(committed, bytes(32) + statement, origin=ORIGIN)
