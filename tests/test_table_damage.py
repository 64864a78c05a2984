"""Damaged rows of the policy table decide nothing: every byte of a person's rows, and every kind of shared row."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, make_running, question, reason_of, request_id, serve
from cases.ledgers import flip
from cases.services import amend, batch, change, listed, new_identifier, record, register, services
from cases.stored_rows import get_stored, put_stored, rows_of, stored_as
from consentd.cli import tables
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import StorageError
from consentd.sequencer.commands.ledger import StatePruning
from consentd.table.checked_rows import DamagedRowError, seal_row
from consentd.table.table import Table
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

INSTITUTION = "clinic-b"  # has no right to see reasons


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("damage")))


class Person:
    """An enrolled person with two consents, and the keys of the person's rows."""

    def __init__(self, running: Running) -> None:
        self.subject = running.enrol(new_identifier())
        self.consent_id = running.grant(self.subject)
        running.grant(self.subject, purposes=["HRESCH"], labels=["HIV"])
        self.access_seq = running.authorize(question(self.subject), INSTITUTION).access_seq
        parts = services(running)
        identifier_hash = parts.vault.identifier_hash(self.subject.scheme, self.subject.value)
        with parts.table.read() as snapshot:
            tag = snapshot.tag_of(identifier_hash)
        assert tag is not None
        self.rows = {"i": b"i" + identifier_hash, "s": b"s" + tag}


@pytest.fixture
def person(running: Running) -> Person:
    return Person(running)


def table_of(running: Running) -> Table:
    return services(running).table


def outcome_of_call(call: Callable[[], Any]) -> str:
    """Return the status code with which a call ends, and its error's reason."""
    try:
        call()
    except grpc.RpcError as error:
        return f"{error.code().name} {reason_of(error)}"
    return "OK"


def is_undecided(decision: pb.Decision, reason: "pb.ReasonCode.ValueType") -> bool:
    return (
        decision.outcome == pb.OUTCOME_INDETERMINATE
        and [one.code for one in decision.reasons] == [reason]
        and list(decision.unknown) == ["CLIN.DX"]
        and not (decision.permitted or decision.denied or decision.without_consent or decision.tag or decision.ref)
    )


def size_of(running: Running) -> int:
    """Return the ledger's size, when all its entries are published and so no further seal is due."""
    return running.wait_published().ledger.state.size


@pytest.mark.parametrize("kind", ["i", "s"])
def test_each_flipped_byte_of_a_persons_row_decides_nothing_and_records_nothing(
    running: Running, person: Person, kind: str
) -> None:
    asked, table, key = question(person.subject), table_of(running), person.rows[kind]
    anybody = question(person.subject)
    anybody.ClearField("subject")
    stored = get_stored(table, key)
    assert stored is not None
    before = size_of(running)
    for at in range(len(stored)):
        with stored_as(table, key, flip(at, 1 << at % 8)(stored)):
            for who in ("app", INSTITUTION, "hospital-a"):
                assert is_undecided(running.check(asked, who), pb.REASON_CODE_DAMAGED_ROW)
            (alone,) = batch(running, INSTITUTION, questions=[asked])
            (shared,) = batch(running, INSTITUTION, shared=anybody, subjects=[person.subject])
            assert is_undecided(alone.decision, pb.REASON_CODE_DAMAGED_ROW)
            assert is_undecided(shared.decision, pb.REASON_CODE_DAMAGED_ROW)
            assert outcome_of_call(lambda: running.authorize(asked, INSTITUTION)) == "UNAVAILABLE STORAGE"
    assert size_of(running) == before
    assert running.authorize(asked, INSTITUTION).access_seq == person.access_seq + 1
    assert table.damaged >= 6 * len(stored)


@pytest.mark.parametrize("change_row", [lambda stored: stored[:-1], lambda stored: b"", lambda stored: None])
def test_a_row_that_is_cut_or_missing_decides_nothing(
    running: Running, person: Person, change_row: Callable[[bytes], bytes | None]
) -> None:
    table, key = table_of(running), person.rows["s"]
    stored = get_stored(table, key)
    assert stored is not None
    with stored_as(table, key, change_row(stored)):
        assert is_undecided(running.check(question(person.subject)), pb.REASON_CODE_DAMAGED_ROW)
        refused = outcome_of_call(lambda: running.authorize(question(person.subject)))
        assert refused == "UNAVAILABLE STORAGE"


def test_a_row_of_another_person_decides_nothing(running: Running, person: Person) -> None:
    """The check covers the key: a row that is whole, but of somebody else, is damaged too."""
    table, other = table_of(running), Person(running)
    for kind in ("i", "s"):
        with stored_as(table, person.rows[kind], get_stored(table, other.rows[kind])):
            assert is_undecided(running.check(question(person.subject)), pb.REASON_CODE_DAMAGED_ROW)


@pytest.mark.parametrize("kind", ["i", "s"])
def test_no_command_on_a_person_with_a_damaged_row_records_anything(
    running: Running, person: Person, kind: str
) -> None:
    subject, table, key = person.subject, table_of(running), person.rows[kind]
    enrol = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject, method="test")
    commands: dict[str, Callable[[], Any]] = {
        "grant": lambda: running.grant(subject),
        "a grant that is refused": lambda: running.grant(subject, kind=pb.CONSENT_KIND_TRANSFER_REQUEST),
        "amend": lambda: amend(running, subject, person.consent_id, 1),
        "pause": lambda: change(running, EntryKind.PAUSE, subject, person.consent_id),
        "resume": lambda: change(running, EntryKind.RESUME, subject, person.consent_id),
        "revoke": lambda: change(running, EntryKind.REVOKE, subject, person.consent_id),
        "outcome": lambda: record(running, subject, person.access_seq),
        "enrol": lambda: running.registry.EnrolSubject(enrol, metadata=running.as_("app")),
        "authorize": lambda: running.authorize(question(subject)),
        "break-glass": lambda: running.authorize(
            question(
                subject, actor=pb.Actor(organisation="er"), purpose="BTG",
                break_glass=pb.BreakGlass(justification="unconscious after an accident"),
            ), "er",
        ),
    }  # fmt: skip
    stored, before = get_stored(table, key), size_of(running)
    assert stored is not None
    with stored_as(table, key, flip(len(stored) // 2)(stored)):
        ended = {name: outcome_of_call(command) for name, command in commands.items()}
        assert set(ended.values()) == {"UNAVAILABLE STORAGE"}, ended
        running.grant(Person(running).subject)  # others are served
    assert services(running).sequencer.fault is None
    assert change(running, EntryKind.REVOKE, subject, person.consent_id).index > before
    assert running.check(question(subject)).outcome == pb.OUTCOME_NO_CONSENT


def test_a_repeat_of_an_access_is_not_answered_from_a_damaged_row(running: Running, person: Person) -> None:
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(person.subject))
    running.access.AuthorizeAccess(request, metadata=running.as_(INSTITUTION))
    table, key = table_of(running), person.rows["s"]
    with stored_as(table, key, flip(9)(get_stored(table, key) or b"")):
        repeated = outcome_of_call(lambda: running.access.AuthorizeAccess(request, metadata=running.as_(INSTITUTION)))
    assert repeated == "UNAVAILABLE STORAGE"


@pytest.mark.parametrize("kind", list("RpgkdvrcH#"))
def test_a_damaged_shared_row_decides_nothing_wrong_and_says_what_to_do(
    running: Running, person: Person, kind: str
) -> None:
    table = table_of(running)
    register(running, "grouped", [st.PARTICIPANT_ROLE_RECIPIENT], groups=["group/one"])
    right = running.check(question(person.subject)).outcome
    assert right == pb.OUTCOME_PERMIT
    rest, value = next(iter(rows_of(table, kind).items()))
    key = kind.encode() + rest
    stored, before = seal_row(key, value), size_of(running)
    checked, told = set(), set()
    for at in range(0, len(stored), max(1, len(stored) // 40)):
        with stored_as(table, key, flip(at)(stored)):
            table._cache.registry = None  # as in a process that has just begun
            for who in ("app", INSTITUTION, "hospital-a"):
                checked.add(is_undecided(running.check(question(person.subject), who), pb.REASON_CODE_DAMAGED_ROW))
            alone, malformed = batch(running, INSTITUTION, questions=[question(person.subject), pb.Question()])
            checked.add(is_undecided(alone.decision, pb.REASON_CODE_DAMAGED_ROW))
            assert malformed.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            try:
                running.authorize(question(person.subject), INSTITUTION)
            except grpc.RpcError as error:
                told.add((error.code().name, reason_of(error), "`consentd table rebuild`" in (error.details() or "")))
        table._cache.registry = None
    if kind in "Rpgdvrc":
        assert checked == {True}
        assert told == {("UNAVAILABLE", "STORAGE", True)}
        assert size_of(running) == before
    else:  # no decision needs these rows
        assert (checked, told) == ({False}, set())
    assert running.check(question(person.subject)).outcome == right
    assert running.authorize(question(person.subject), INSTITUTION).decision.outcome == right


def test_a_table_of_another_format_is_refused(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    running.stop()
    table = Table.open(running.config.table.path, map_size_mb=16)
    revision = get_stored(table, b"R") or b""
    put_stored(table, b"R", seal_row(b"R", revision[:-5] + b"\2"))
    with pytest.raises(Exception, match="consentd table rebuild"):
        table.read()
    put_stored(table, b"R", revision[:48] + b"\1")  # format 1: no check, and no time
    with pytest.raises(DamagedRowError, match="consentd table rebuild"):
        table.read()
    with table.begin_read():
        assert table.readers().slots == 1  # the refused views have ended their transactions
    table.close()


def test_the_damage_is_measured_and_logged_without_the_person(
    running: Running, person: Person, caplog: pytest.LogCaptureFixture
) -> None:
    table, key = table_of(running), person.rows["s"]
    table._check.damaged = 0
    with stored_as(table, key, flip(3)(get_stored(table, key) or b"")):
        running.check(question(person.subject))
        running.check(question(person.subject))
    assert b"\nconsentd_table_damaged 2.0\n" in services(running).metrics.render(with_private=False)
    (line,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert "table row of kind `s` is damaged" in line
    assert key[1:].hex() not in line


def test_an_access_is_not_recorded_if_the_vocabulary_of_a_consent_is_missing(running: Running) -> None:
    table, older = table_of(running), Person(running)
    stored = get_stored(table, b"v")
    vocabulary = running.registry.GetVocabulary(rs.GetVocabularyRequest(), metadata=running.as_("app")).vocabulary
    vocabulary.version += 1
    request = rs.PublishVocabularyRequest(request_id=request_id(), attested=vocabulary)
    running.registry.PublishVocabulary(request, metadata=running.as_("operator"))
    newer = Person(running)
    before = size_of(running)
    with stored_as(table, b"v", stored):
        table._cache.registry = None
        asked = question(newer.subject)
        answer = running.check(asked)
        assert answer.outcome == pb.OUTCOME_INDETERMINATE
        assert {one.code for one in answer.reasons} == {pb.REASON_CODE_UNREADABLE_CONSENT}
        assert outcome_of_call(lambda: running.authorize(asked)) == "UNAVAILABLE STORAGE"
        recorded = outcome_of_call(lambda: record(running, newer.subject, newer.access_seq))
        assert recorded == "UNAVAILABLE STORAGE"
        assert size_of(running) == before
        assert running.authorize(question(older.subject)).decision.outcome == pb.OUTCOME_PERMIT
    table._cache.registry = None
    assert running.authorize(question(newer.subject)).decision.outcome == pb.OUTCOME_PERMIT


def test_a_pruning_is_refused_while_a_row_is_damaged_and_disturbs_nobody(tmp_path: Path) -> None:
    running = make_running(tmp_path, retention_days=400)
    person, parts, table = Person(running), services(running), table_of(running)
    pruning = StatePruning(pruned=Pruned(1))
    before, key = size_of(running), person.rows["s"]
    with stored_as(table, key, flip(3)(get_stored(table, key) or b"")):
        with pytest.raises(StorageError, match="`consentd table rebuild`"):
            parts.sequencer.submit(pruning).result()
        assert size_of(running) == before
        assert b'consentd_shortages_total{step="batch"} 0' in parts.metrics.render(with_private=False)
        running.grant(Person(running).subject)
    assert parts.sequencer.submit(pruning).result().answer > before
    running.check_ledger()
    running.stop()


def test_consents_of_such_a_person_are_listed_from_the_ledger(running: Running, person: Person) -> None:
    table, key = table_of(running), person.rows["s"]
    whole = listed(running, person.subject)
    with stored_as(table, key, flip(3)(get_stored(table, key) or b"")):
        assert listed(running, person.subject) == whole
    assert len(whole) == 2


@pytest.mark.parametrize("kind", ["R", "k"])  # the rows that a start reads before any call
def test_a_daemon_does_not_start_on_a_damaged_row_and_says_what_to_do(tmp_path: Path, kind: str) -> None:
    running = make_running(tmp_path)
    running.stop()
    table = Table.open(running.config.table.path, map_size_mb=256)
    rest, value = next(iter(rows_of(table, kind).items()))
    stored = seal_row(kind.encode() + rest, value)
    put_stored(table, kind.encode() + rest, flip(3)(stored))
    table.close()
    with pytest.raises(DamagedRowError, match=f"`{kind}` is damaged.*`consentd table rebuild`"):
        Running(running.config, running.tokens)
    assert tables.rebuild(running.config, lambda done, of: None) > 0
    again = Running(running.config, running.tokens)
    again.enrol(new_identifier())
    again.check_ledger()
    again.stop()
