"""A statement that an author signed is recorded once: every verifier notices a second entry, and only that."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cases.audits import JOBS, LOG, ORIGIN, Forge, make_forge
from cases.histories import BANK, CITIZEN
from cases.ledgers import DAEMON, LedgerCase, Person
from cases.ledgers import LOG as CASE_LOG
from consentd.audit.replay import replay_decisions
from consentd.audit.verify import verify_ledger
from consentd.core import codec
from consentd.core.key_validity import FOREVER_MS, KeyValidity
from consentd.core.kinds import EntryKind, Owner
from consentd.core.recent_statements import REPEAT_WINDOW_MS, RecentStatements, decode_recent, encode_recent
from consentd.errors import AlreadyExistsError, MalformedError, ProofError
from consentd.sequencer.commands.consents import GrantConsent
from consentd.v1 import statement_pb2 as st
from consentd_client import HistoryFile, pin
from consentd_client.history import verify_history, verify_history_part
from consentd_client.history_file import HistoryState
from consentd_client.memory import FileMemory

CHAINS = ("ledger", "participant/bank")
TRUST = pin(CASE_LOG.verifier)
OWNERS = {1: Owner.LEDGER, 2: Owner.PARTICIPANT, 3: Owner.SUBJECT}


def event(time_ms: int, tag: bytes = bytes(32), kind: int = 200) -> codec.Event:
    return codec.Event(kind, time_ms, tag, 1, codec.ZERO_HASH, bytes(32), 0)


def validity(owner: Owner, tag: bytes = bytes(32)) -> KeyValidity:
    return KeyValidity(owner, 0, FOREVER_MS, tag if owner is Owner.SUBJECT else "")


@given(
    some.lists(
        some.tuples(some.sampled_from([0, 1, REPEAT_WINDOW_MS // 2, REPEAT_WINDOW_MS]), some.integers(1, 3),
                    some.integers(0, 2), some.integers(0, 1)),
        max_size=12,
    ),
    some.integers(0, 11),
)  # fmt: skip
def test_the_rule_is_what_a_plain_search_finds(steps: list[tuple[int, int, int, int]], saved_at: int) -> None:
    statements, time_ms, before = RecentStatements(), 0, []
    for at, (ms, key, number, tag_byte) in enumerate(steps):
        if at == saved_at:
            statements = RecentStatements(decode_recent(encode_recent(statements.rows())))
        time_ms += ms
        one = (bytes([tag_byte]) * 32, bytes([key]) * 32, bytes([number]) * 16)
        is_repeat = key != 1 and any(time_ms - was <= REPEAT_WINDOW_MS and one == other for was, other in before)
        before.append((time_ms, one))
        try:
            tag, author, request_id = one
            statements.add(event(time_ms, tag), author, request_id, (validity(OWNERS[key], tag),))
            assert not is_repeat
        except ProofError:
            assert is_repeat


def test_statements_older_than_the_window_are_forgotten() -> None:
    statements = RecentStatements()
    for at in range(1000):
        statements.add(event(at * 60_000), bytes(32), at.to_bytes(16), (validity(Owner.PARTICIPANT),))
    assert len(statements.rows()) == 21
    with pytest.raises(MalformedError):
        decode_recent(encode_recent(statements.rows())[:-1])


@pytest.mark.parametrize(
    ("owners", "is_refused"),
    [((), True), ((Owner.LEDGER,), False), ((Owner.SUBJECT,), True), ((Owner.LEDGER, Owner.SUBJECT), True)],
)
def test_whose_key_it_is(owners: Sequence[Owner], is_refused: bool) -> None:
    statements, validities = RecentStatements(), tuple(map(validity, owners))
    statements.add(event(1), bytes(32), bytes(16), validities)
    if not is_refused:
        statements.add(event(1), bytes(32), bytes(16), validities)
        return
    with pytest.raises(ProofError):
        statements.add(event(1), bytes(32), bytes(16), validities)


# -- a ledger whose daemon records a statement twice ------------------------------------------------------------------


def copied(grant: GrantConsent) -> GrantConsent:
    """Return the same statement as a request that the ledger does not remember."""
    return replace(grant, request=replace(grant.request, key=bytes(32)))


@pytest.fixture
def case(tmp_path: Path) -> Any:
    made = LedgerCase(tmp_path / "ledger")
    made.write(made.key("bank", BANK.public_key))
    yield made
    made.close()


def grant_twice(case: LedgerCase, *, between: bool = False) -> tuple[Person, int]:
    """Let the daemon record a grant twice; return the person, and the index of the second entry."""
    person = case.enrol("somebody", CITIZEN)
    grant = case.grant(person, signed=True)
    lineage = case.write(grant).entry.event.seq
    if between:
        case.write(case.change(person, lineage, EntryKind.REVOKE))
    case.seal()
    return person, case.write(copied(grant)).entry.index


def test_fsck_names_the_second_entry(case: LedgerCase) -> None:
    _, index = grant_twice(case, between=True)
    case.seal()
    assert [(fault.index, fault.what) for fault in case.fsck(table=None).faults] == [
        (index, "signed statement is recorded twice in its chain")
    ]


def test_a_client_notices_it_at_once_and_after_what_it_remembers(case: LedgerCase, tmp_path: Path) -> None:
    person = case.enrol("somebody", CITIZEN)
    grant = case.grant(person, signed=True)
    case.write(grant)
    case.seal()
    shown, remembered = verify_history(case.history(person.tag, *CHAINS), trust=TRUST)
    memory = FileMemory(tmp_path / "memory")
    memory.remember(case.history(person.tag).checkpoint, "somebody", remembered)
    file = HistoryFile(tmp_path / "history")
    proof = case.history(person.tag, *CHAINS)
    _, rows, part = verify_history_part(proof, trust=TRUST)
    keys = tuple(one for one in proof.chains[0].entries if codec.kind_of(one.leaf) == EntryKind.KEY)
    file.append(rows.entries, HistoryState(proof.checkpoint, part, keys), is_complete=True)
    case.write(copied(grant))
    case.seal()
    with pytest.raises(ProofError, match="recorded twice"):
        verify_history(case.history(person.tag, *CHAINS), trust=TRUST)
    news = case.history(person.tag, *CHAINS, held=shown.checkpoint, known=len(shown.entries))
    with pytest.raises(ProofError, match="recorded twice"):
        verify_history(
            news, trust=TRUST, remembered_checkpoint=shown.checkpoint,
            remembered=FileMemory(tmp_path / "memory").history("somebody"),
        )  # fmt: skip
    state = HistoryFile(tmp_path / "history").state
    assert state is not None
    assert state.part.recent == part.recent
    with pytest.raises(ProofError, match="recorded twice"):
        verify_history_part(news, trust=TRUST, remembered_checkpoint=shown.checkpoint, before=state.part)


def test_no_caller_can_make_an_honest_ledger_break_the_rule(case: LedgerCase) -> None:
    """Two callers choose one request_id, and an app enrols a person with the daemon's key as the person's own."""
    person = case.enrol("somebody", CITIZEN)
    request_id = b"r" * 16
    case.write(case.participant("app"))
    for asker in ("hospital", "app"):
        grant = case.grant(person, request_id=request_id, asker=asker)
        grant.message.attestation.attested_by = asker
        case.write(grant)
    signed = case.grant(person, signed=True, request_id=request_id)
    case.write(signed)
    for _ in range(2):
        with pytest.raises(AlreadyExistsError):
            case.enrol("somebody else", DAEMON)
    case.seal()
    assert case.fsck(table=None).faults == ()
    verify_history(case.history(person.tag, *CHAINS), trust=TRUST)


# -- auditors ---------------------------------------------------------------------------------------------------------


def person_of(forge: Forge) -> bytes:
    """Return a person whose key is stated, and who signed a statement with it."""
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.add(EntryKind.KEY, tag, st.KeyStatement(key=CITIZEN.public_key))
    return tag


def pause(forge: Forge, tag: bytes, **more: Any) -> int:
    forge.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2, key=CITIZEN, request_id=b"r" * 16, **more)
    return forge.size - 1


def audit(forge: Forge, directory: Path, **options: Any) -> list[int | None]:
    location = forge.write(directory / "ledger", directory / "openings")
    report = verify_ledger(location, origin=ORIGIN, log_verifier=LOG.verifier, **options)
    return [fault.index for fault in report.faults]


@pytest.mark.parametrize(("ms", "is_fault"), [(0, True), (REPEAT_WINDOW_MS, True), (REPEAT_WINDOW_MS + 1, False)])
def test_an_audit_names_the_second_entry_also_when_it_continues(tmp_path: Path, ms: int, is_fault: bool) -> None:
    forge = make_forge(300)
    tag = person_of(forge)
    pause(forge, tag)
    forge.seal()
    state = tmp_path / "state"
    assert audit(forge, tmp_path, state_path=state) == []
    forge.time_ms += ms
    index = pause(forge, tag, time_ms=forge.time_ms)
    forge.seal()
    assert audit(forge, tmp_path, state_path=state) == ([index] if is_fault else [])
    assert audit(forge, tmp_path) == ([index] if is_fault else [])


@pytest.mark.parametrize("key", [None, BANK])
def test_a_replay_names_a_request_that_is_recorded_twice(tmp_path: Path, key: Any) -> None:
    def replayed() -> list[int | None]:
        location = forge.write(tmp_path / "ledger", tmp_path / "openings")
        report = replay_decisions(
            location, origin=ORIGIN, log_verifier=LOG.verifier, jobs=JOBS, state_dir=tmp_path / "state"
        )
        return [fault.index for fault in report.faults]

    forge = make_forge(300)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.add(EntryKind.KEY, codec.public_tag("participant/bank"), st.KeyStatement(key=BANK.public_key))
    forge.ask(tag, key=key, request_id=b"r" * 16)
    forge.ask(tag, key=key, request_id=b"s" * 16)
    forge.seal()
    assert replayed() == []
    forge.ask(tag, key=key, request_id=b"r" * 16)
    index = forge.size - 1
    forge.ask(tag, key=key)
    forge.seal()
    assert replayed() == [index]
