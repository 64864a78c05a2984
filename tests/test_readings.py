"""Readings: who reads a person's statements without acting for the person leaves an entry, one for each day."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, make_running, question
from cases.fakes import FakeClock
from cases.services import add_reader, event_of, new_identifier, put_mandate, register, services
from consentd.audit.live import LiveDaemon
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.cosigning.keyfiles import read_signing_key
from consentd.ledger import reads
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st

READER = "reader"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def running(tmp_path: Path, clock: FakeClock) -> Iterator[Running]:
    """A daemon with an auditor that has a mandate."""
    running = make_running(tmp_path, daemon={"clock": clock})
    register(running, "pipc", [st.PARTICIPANT_ROLE_AUDITOR], rights=[st.PARTICIPANT_RIGHT_READ_STATEMENTS])
    put_mandate(running, "pipc", end_time_ms=clock.wall_ms() + 100 * DAY_MS)
    add_reader(running)
    publish(running, clock)
    yield running
    publish(running, clock)
    running.check_ledger()
    running.stop()


def publish(running: Running, clock: FakeClock) -> None:
    clock.advance(1_000)
    running.wait_published()


def readings(running: Running, subject: pb.Subject) -> list[tuple[str, int, int]]:
    """Return reader, scope and mandate of the READ entries in a person's chain."""
    parts, found = services(running), []
    with parts.table.read() as snapshot:
        tag = snapshot.tag_of(parts.vault.identifier_hash(subject.scheme, subject.value))
    assert tag is not None
    for entry in reads.read_chain(parts.ledger.store, tag, 1):
        opened = reads.open_entry(parts.vault, entry)
        if entry.event.kind == EntryKind.READ and opened is not None:
            message = payloads.parse(st.ReadStatement, codec.decode_statement(opened[1]).payload)
            found.append((message.reader, message.scope, message.mandate_seq))
    return found


def read_all(running: Running, subject: pb.Subject, who: str) -> dict[int, Callable[[], Any]]:
    """Return the calls that read about one person, by scope."""
    me = {"metadata": running.as_(who)}
    consent_id = running.consents.ListConsents(cs.ListConsentsRequest(subject=subject), metadata=running.as_("app"))
    wanted = cs.GetConsentRequest(subject=subject, consent_id=consent_id.records[0].consent_id)
    return {
        st.READ_SCOPE_HISTORY: lambda: list(running.ledger.GetHistory(ls.GetHistoryRequest(subject=subject), **me)),
        st.READ_SCOPE_ACCESSES: lambda: running.access.ListAccesses(ac.ListAccessesRequest(subject=subject), **me),
        st.READ_SCOPE_CONSENTS: lambda: [
            running.consents.ListConsents(cs.ListConsentsRequest(subject=subject), **me),
            running.consents.GetConsent(wanted, **me),
        ],
    }


@pytest.mark.parametrize("scope", [st.READ_SCOPE_HISTORY, st.READ_SCOPE_ACCESSES, st.READ_SCOPE_CONSENTS])
def test_an_auditor_leaves_an_entry_and_the_persons_app_none(running: Running, clock: FakeClock, scope: int) -> None:
    subject = running.enrol(new_identifier())
    running.grant(subject)
    publish(running, clock)
    read_all(running, subject, "app")[scope]()
    assert readings(running, subject) == []
    read_all(running, subject, READER)[scope]()
    assert readings(running, subject) == [(READER, scope, 2)]


def test_there_is_one_entry_for_each_reader_person_and_day(running: Running, clock: FakeClock) -> None:
    first, second = (running.enrol(new_identifier()) for _ in range(2))
    running.grant(first)
    publish(running, clock)
    for _ in range(2):
        for call in read_all(running, first, READER).values():
            call()
    assert readings(running, first) == [(READER, st.READ_SCOPE_HISTORY, 2)]
    assert readings(running, second) == []
    clock.advance(DAY_MS)
    read_all(running, first, READER)[st.READ_SCOPE_ACCESSES]()
    assert readings(running, first)[1:] == [(READER, st.READ_SCOPE_ACCESSES, 2)]


def test_an_audit_leaves_an_entry_in_each_chain_that_it_reads(running: Running, clock: FakeClock) -> None:
    people = [running.enrol(new_identifier()) for _ in range(3)]
    running.authorize(question(pb.Subject(scheme="mhid", value=new_identifier())))
    publish(running, clock)
    for _ in range(2):
        page = running.ledger.ListEntries(ls.ListEntriesRequest(), metadata=running.as_("pipc"))
        assert page.withheld_count == 0
    for person in people:
        assert readings(running, person) == [("pipc", st.READ_SCOPE_STATEMENTS, 3)]
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    url, target = f"http://127.0.0.1:{running.daemon.http_port}", f"127.0.0.1:{running.daemon.grpc_port}"
    publish(running, clock)
    size = services(running).ledger.state.size
    report = replay_decisions(
        LiveDaemon(url=url, target=target, token=running.tokens["pipc"]), origin=ORIGIN, log_verifier=verifier
    )
    assert (report.faults, report.not_checked, report.entries) == ((), {}, size)
    assert services(running).ledger.state.size == size


def test_an_auditor_without_a_mandate_reads_no_statement_and_leaves_no_entry(
    running: Running, clock: FakeClock
) -> None:
    subject = running.enrol(new_identifier())
    publish(running, clock)
    clock.advance(200 * DAY_MS)
    page = running.ledger.ListEntries(ls.ListEntriesRequest(), metadata=running.as_("pipc"))
    assert page.withheld_count > 0
    assert readings(running, subject) == []


def test_one_entry_that_is_read_by_its_index_counts_too(running: Running, clock: FakeClock) -> None:
    subject = running.enrol(new_identifier())
    running.grant(subject)
    receipt = running.authorize(question(subject), "clinic-b").receipt
    assert event_of(receipt).kind == EntryKind.ACCESS
    request = ls.GetReceiptRequest(index=receipt.index, leaf=receipt.leaf)
    own = ls.GetReceiptRequest(index=receipt.index, leaf=receipt.leaf, subject=subject)
    for who, asked, opens in (("clinic-b", request, True), ("app", own, True), ("er", request, False)):
        answer = running.ledger.GetReceipt(asked, metadata=running.as_(who))
        assert answer.HasField("opening") is opens
        assert readings(running, subject) == []
    for who in ("pipc", READER):
        assert running.ledger.GetReceipt(own, metadata=running.as_(who)).HasField("opening")
    assert readings(running, subject) == [("pipc", st.READ_SCOPE_ENTRY, 3), (READER, st.READ_SCOPE_ENTRY, 2)]
