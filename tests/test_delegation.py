"""Delegations: their value, their entries, and what the policy table makes of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cases import delegations
from cases.delegations import statement
from cases.fakes import HANG_S
from cases.ledgers import BANK, CITIZEN, START_MS, LedgerCase, check_files, check_ledger
from cases.writes import Raw
from consentd.core import codec, ed25519
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.policy.delegation import Capacity, Delegation, check_delegation
from consentd.policy.model import OPEN_END_MS
from consentd.sequencer.commands import acting
from consentd.sequencer.commands.accesses import AuthorizeAccess
from consentd.statements.delegations import delegation_message, delegation_value
from consentd.statements.payloads import encode_payload
from consentd.table.registry import Registry
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

HOSPITAL = ed25519.KeyPair(b"\x24" * 32)
RELAYS = Delegation(giver="hospital", taker="relay", capacity=Capacity.RELAY)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LedgerCase]:
    case = LedgerCase(tmp_path)
    delegations.relay(case)
    yield case
    case.close()


def registry(case: LedgerCase) -> Registry:
    assert case.table is not None
    with case.table.read() as snapshot:
        return snapshot.registry()


def rows(case: LedgerCase) -> list[tuple[bytes, bytes]]:
    """Return all rows but the revision: the case seals when it is closed."""
    assert case.table is not None
    with case.table.read() as snapshot:
        return [row for row in snapshot.rows() if row[0] != b"R"]


# -- the value --------------------------------------------------------------------------------------------------

_PURPOSES = ("TREAT", "HRESCH", "CAREMGT")
_delegations = some.builds(
    lambda window, **rest: Delegation(giver="a", taker="b", start_ms=min(window), end_ms=max(window), **rest),
    window=some.sets(some.integers(0, 9) | some.just(OPEN_END_MS), min_size=2, max_size=2),
    capacity=some.sampled_from(Capacity),
    purposes=some.lists(some.sampled_from(_PURPOSES), unique=True).map(tuple),
    break_glass=some.booleans(),
)


@given(_delegations, some.integers(0, 10))
def test_a_delegation_is_in_force_from_its_start_to_just_before_its_end(one: Delegation, now_ms: int) -> None:
    check_delegation(one, _PURPOSES)
    assert one.is_in_force(now_ms) == (now_ms in range(one.start_ms, one.end_ms))
    for purpose in _PURPOSES:
        assert one.covers(purpose) == (purpose in (one.purposes or _PURPOSES))
    assert one.covers("BTG") == one.break_glass


@given(_delegations)
def test_a_statement_has_all_that_its_value_has(one: Delegation) -> None:
    assert delegation_value(delegation_message(one)) == one


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"taker": "hospital"}, "INVALID_REQUEST"),
        ({"capacity": 0}, "INVALID_REQUEST"),
        ({"capacity": 4}, "INVALID_REQUEST"),
        ({"start_time_ms": -1}, "INVALID_REQUEST"),
        ({"end_time_ms": -1}, "INVALID_REQUEST"),
        ({"start_time_ms": 5, "end_time_ms": 5}, "INVALID_REQUEST"),
        ({"start_time_ms": 6, "end_time_ms": 5}, "INVALID_REQUEST"),
        ({"start_time_ms": OPEN_END_MS}, "INVALID_REQUEST"),
        ({"start_time_ms": 253_402_300_800_001}, "INVALID_REQUEST"),
        ({"end_time_ms": 253_402_300_800_001}, "INVALID_REQUEST"),
        ({"purposes": ["TREAT", "TREAT"]}, "INVALID_REQUEST"),
        ({"purposes": [""]}, "INVALID_REQUEST"),
        ({"purposes": ["*"]}, "INVALID_REQUEST"),
        ({"purposes": ["BTG"]}, "INVALID_REQUEST"),
        ({"ended": True, "purposes": ["TREAT"]}, "INVALID_REQUEST"),
        ({"ended": True, "end_time_ms": 5}, "INVALID_REQUEST"),
        ({"ended": True, "break_glass": True}, "INVALID_REQUEST"),
        ({"purposes": ["NOSUCH"]}, "UNKNOWN_CODE"),
    ],
)
def test_a_statement_that_says_nothing_or_contradicts_itself_is_refused(
    case: LedgerCase, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        case.write(delegations.write(case, statement(**fields)))
    assert refused.value.reason == reason
    assert registry(case).delegations == {}


# -- who takes part -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("giver", "taker", "capacity", "reason"),
    [
        ("hospital", "nobody", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("nobody", "hospital", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("hospital", "", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("hospital", "operator", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("hospital", "SUBJECT", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("SUBJECT", "hospital", Capacity.PROCESSOR, "UNKNOWN_PARTICIPANT"),
        ("hospital", "group/hospitals", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("group/hospitals", "hospital", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("hospital", "left", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("left", "hospital", Capacity.APPLICATION, "UNKNOWN_PARTICIPANT"),
        ("hospital", "bank", Capacity.RELAY, "WRONG_ROLE"),
        ("hospital", "relay", Capacity.PROCESSOR, "WRONG_ROLE"),
        ("relay", "hospital", Capacity.PROCESSOR, "WRONG_ROLE"),
    ],
)
def test_giver_and_taker_are_active_participants_of_fitting_roles(
    case: LedgerCase, giver: str, taker: str, capacity: Capacity, reason: str
) -> None:
    case.write(case.participant("left"))
    left = case.participant("left")
    left.message.active = False
    left.message.groups.append("group/hospitals")
    case.write(left)
    with pytest.raises(PreconditionError) as refused:
        case.write(delegations.write(case, statement(giver, taker, capacity)))
    assert refused.value.reason == reason


def test_a_giver_has_a_limit_of_delegations(case: LedgerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "MAX_GIVEN", 2)
    for capacity in (Capacity.PROCESSOR, Capacity.APPLICATION):
        case.write(delegations.write(case, statement(taker="bank", capacity=capacity)))
    with pytest.raises(PreconditionError) as refused:
        case.write(delegations.write(case, statement()))
    assert refused.value.reason == "LIMIT_REACHED"
    case.write(delegations.write(case, statement(taker="bank", capacity=Capacity.APPLICATION, break_glass=True)))
    case.write(delegations.write(case, statement(taker="bank", capacity=Capacity.APPLICATION, ended=True)))
    case.write(delegations.write(case, statement()))


def test_the_giver_signs_and_nobody_else(case: LedgerCase) -> None:
    case.write(case.key("hospital", HOSPITAL.public_key))
    case.write(case.key("bank", BANK.public_key))
    case.write(delegations.write(case, statement(), key=HOSPITAL))
    assert registry(case).delegation("hospital", "relay", Capacity.RELAY) == RELAYS
    citizen = case.enrol("citizen", CITIZEN)
    assert citizen.key == CITIZEN
    for stranger in (BANK, CITIZEN, ed25519.KeyPair(b"\x77" * 32)):
        for message in (statement(capacity=Capacity.APPLICATION), statement(ended=True)):
            with pytest.raises(PreconditionError) as refused:
                case.write(delegations.write(case, message, key=stranger))
            assert refused.value.reason == "KEY_NOT_IN_FORCE"
    case.write(delegations.write(case, statement(ended=True), key=HOSPITAL))
    assert registry(case).delegation("hospital", "relay", Capacity.RELAY) is None
    case.seal()
    check_ledger(case)
    check_files(case)


# -- the table ----------------------------------------------------------------------------------------------------


def test_the_latest_statement_of_giver_taker_and_capacity_counts(case: LedgerCase) -> None:
    case.write(delegations.write(case, statement()))
    case.write(delegations.write(case, statement(taker="bank", capacity=Capacity.PROCESSOR, break_glass=True)))
    case.write(delegations.write(case, statement("bank", "hospital", Capacity.PROCESSOR)))
    case.write(delegations.write(case, statement(purposes=["TREAT"], end_time_ms=START_MS + 10**6)))
    found = registry(case)
    narrower = delegation_value(statement(purposes=["TREAT"], end_time_ms=START_MS + 10**6))
    assert found.delegation("hospital", "relay", Capacity.RELAY) == narrower
    processor = found.delegation("hospital", "bank", Capacity.PROCESSOR)
    assert processor is not None
    assert processor.break_glass
    assert found.delegation("hospital", "bank", Capacity.APPLICATION) is None
    assert found.delegation("bank", "hospital", Capacity.PROCESSOR) is not None
    case.write(delegations.write(case, statement(taker="bank", capacity=Capacity.PROCESSOR, ended=True)))
    with pytest.raises(NotFoundError):
        case.write(delegations.write(case, statement(taker="bank", capacity=Capacity.PROCESSOR, ended=True)))
    found = registry(case)
    assert found.delegation("hospital", "bank", Capacity.PROCESSOR) is None
    assert found.delegation("hospital", "relay", Capacity.RELAY) == narrower
    case.seal()
    check_files(case)


_changes = some.lists(
    some.tuples(
        some.sampled_from([("hospital", "bank"), ("bank", "hospital"), ("hospital", "shop")]),
        some.sampled_from([Capacity.PROCESSOR, Capacity.APPLICATION]),
        some.sampled_from([{}, {"purposes": ["TREAT"]}, {"break_glass": True}, {"ended": True}]),
    ),
    max_size=8,
)


@settings(max_examples=30)
@given(_changes, some.booleans())
def test_a_rebuilt_table_and_a_registry_changed_in_memory_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Any], one_batch: bool
) -> None:
    case = LedgerCase(tmp_path_factory.mktemp("case"))
    try:
        case.write(case.participant("shop"))
        writes = [delegations.write(case, statement(*pair, capacity, **more)) for pair, capacity, more in changes]
        refused = 0
        for future in case.write_together(writes) if one_batch else []:
            refused += future.exception() is not None
        for write in [] if one_batch else writes:
            try:
                case.write(write)
            except NotFoundError:
                refused += 1
        expected: dict[tuple[str, str, int], Any] = {}
        for pair, capacity, more in changes:
            ended = "ended" in more
            refused -= ended and (*pair, capacity) not in expected
            expected.pop((*pair, capacity), None)
            if not ended:
                expected[*pair, capacity] = delegation_value(statement(*pair, capacity, **more))
        assert refused == 0
        kept, changed = rows(case), registry(case)
        flat = {(one.giver, one.taker, one.capacity): one for of in changed.delegations.values() for one in of.values()}
        assert flat == expected
        case.rebuild_table()
        assert rows(case) == kept
        again = registry(case)
        assert again.generation == changed.generation
        assert {giver: of for giver, of in changed.delegations.items() if of} == again.delegations
    finally:
        case.close()


def test_a_change_of_a_delegation_reads_no_other_row(case: LedgerCase) -> None:
    before = registry(case)
    case.write(delegations.write(case, statement()))
    after = registry(case)
    assert after.participants is before.participants
    assert after.codebook is before.codebook
    assert after.rules is before.rules
    assert after.generation == before.generation + 1


def test_a_statement_with_an_unknown_field_gives_nothing(case: LedgerCase) -> None:
    case.write(delegations.write(case, statement()))
    payload = encode_payload(statement()) + b"\xfa\x07\x01x"
    later = st.DelegationStatement.FromString(payload)
    tag = codec.public_tag("participant/hospital")
    case.write(Raw(kind=EntryKind.DELEGATION, tag=tag, payload=payload, message=later))
    assert registry(case).delegations.get("hospital", {}) == {}
    kept = rows(case)
    case.rebuild_table()
    assert rows(case) == kept


def test_a_relay_asks_from_the_delegation_to_its_end_within_one_batch(case: LedgerCase) -> None:
    person = case.enrol("somebody")
    case.write(case.grant(person))

    def question() -> AuthorizeAccess:
        asked = case.access(person, asker="relay")
        asked.asked.asker = "relay"
        return asked

    begun, ended = delegations.write(case, statement()), delegations.write(case, statement(ended=True))
    futures = case.write_together([question(), begun, question(), ended, question()])
    outcomes = [future.exception(HANG_S) for future in futures]
    assert [type(outcome) for outcome in outcomes] == [DeniedError, type(None), type(None), type(None), DeniedError]
    assert futures[2].result().answer.decision.outcome == pb.OUTCOME_PERMIT
