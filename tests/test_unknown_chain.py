"""The unknown chain: refusals about persons who are not enrolled are recorded, and only auditors see for whom."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import ORIGIN, Running, make_running, question, reason_of, request_id, running_daemon
from cases.fakes import FakeClock, FaultyStore
from cases.ledgers import Person, check_ledger
from cases.pruned_ledgers import PruningCase
from cases.services import (
    accesses,
    add_key,
    add_reader,
    event_of,
    kind_of,
    new_identifier,
    new_number,
    now_ms,
    publish_rules,
    refusal,
    seen,
    services,
)
from consentd.audit.live import LiveDaemon
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.cosigning.keyfiles import read_signing_key
from consentd.ledger import layout, reads
from consentd.ledger.ledger import Appended
from consentd.policy.model import BREAK_GLASS_PURPOSE
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st

INSTITUTION = "clinic-b"


def stranger() -> pb.Subject:
    """Return a person who is not enrolled."""
    return pb.Subject(scheme="mhid", value=new_identifier())


def event_at(running: Running, receipt: pb.Receipt) -> codec.Event:
    leaf = services(running).ledger.store.get(layout.leaf_key(receipt.index))
    assert leaf is not None
    event = codec.decode_leaf(leaf)
    assert isinstance(event, codec.Event)
    return event


def statement_of(running: Running, event: codec.Event) -> st.RefusalStatement:
    parts = services(running)
    payload = parts.vault.decrypt(event, reads.read_entry(parts.ledger.store, event.tag, event.seq).row or b"")[1]
    return payloads.parse(st.RefusalStatement, codec.decode_statement(payload).payload)


def test_a_refusal_about_a_stranger_is_an_entry_with_a_hash_in_place_of_the_identifier(running: Running) -> None:
    person = stranger()
    first, second = (running.authorize(question(person), who) for who in (INSTITUTION, "app"))
    events = [event_at(running, one.receipt) for one in (first, second)]
    assert events[0].tag == events[1].tag
    assert [event.seq for event in events] == [events[0].seq, events[0].seq + 1]
    assert (first.access_seq, first.decision.outcome) == (0, pb.OUTCOME_DENY)
    assert (second.access_seq, second.decision.outcome) == (0, pb.OUTCOME_NO_CONSENT)
    assert not second.decision.tag
    statement = statement_of(running, events[0])
    vault = services(running).vault
    assert statement.identifier_hash == vault.identifier_hash(person.scheme, person.value)
    asked = payloads.parse(pb.Question, statement.access.asked.question)
    assert (asked.HasField("subject"), asked.holder) == (False, "hospital-a")
    assert statement.access.decision == first.decision
    assert person.value.encode() not in statement.SerializeToString()
    with services(running).table.read() as snapshot:
        assert snapshot.tag_of(statement.identifier_hash) is None
        assert snapshot.subject(events[0].tag) is None


def test_a_repeat_about_a_stranger_gets_the_same_entry(running: Running) -> None:
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(stranger()))
    first, again = (running.access.AuthorizeAccess(request, metadata=running.as_(INSTITUTION)) for _ in range(2))
    assert (again.receipt.index, again.receipt.replayed) == (first.receipt.index, True)
    assert seen(again.current_decision) == seen(first.decision)


def test_each_month_of_korea_has_a_chain_of_its_own(tmp_path: Path) -> None:
    clock = FakeClock(wall_ms=1_772_290_799_000)  # 2026-02-28 23:59:59 KST
    running = make_running(tmp_path, daemon={"clock": clock})
    before = event_at(running, running.authorize(question(stranger())).receipt)
    clock.advance(2_000)
    after = event_at(running, running.authorize(question(stranger())).receipt)
    assert services(running).vault.unknown_chains() == {"2026-02": before.tag, "2026-03": after.tag}
    assert after.seq == 1
    running.check_ledger()
    running.stop()
    again = make_again(running, clock)
    assert event_at(again, again.authorize(question(stranger())).receipt).tag == after.tag
    again.stop()


def make_again(running: Running, clock: FakeClock) -> Running:
    return Running(running.config, running.tokens, clock=clock)


def test_the_chain_is_served_to_auditors_alone(running: Running) -> None:
    receipt = running.authorize(question(stranger()), INSTITUTION).receipt
    event = event_at(running, receipt)
    running.wait_published()
    for who in (INSTITUTION, "hospital-a", "app"):
        for more in ({}, {"subject": stranger()}):
            request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash, **more)
            answer = running.ledger.GetReceipt(request, metadata=running.as_(who))
            assert (answer.receipt.leaf, answer.HasField("opening")) == (b"", False)
    auditors: dict[str, bool] = {"pipc": False, "operator": False, add_reader(running): True}
    for who, opens in auditors.items():
        request = ls.ListEntriesRequest(start_index=receipt.index)
        entry = running.ledger.ListEntries(request, metadata=running.as_(who)).entries[0]
        assert codec.decode_leaf(entry.leaf) == event
        assert entry.HasField("opening") is opens


def test_audits_take_the_decisions_again(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        publish_rules(running, implicit_policy=pb.IMPLICIT_POLICY_ALL_NORMAL, combining=pb.COMBINING_PERMIT_UNLESS_DENY)
        enrolled = running.enrol(new_identifier())
        assert running.authorize(question(enrolled)).decision.outcome == pb.OUTCOME_PERMIT
        for who in (INSTITUTION, "app"):
            assert running.authorize(question(stranger()), who).decision.permitted == []
        running.check_ledger()
        verifier = read_signing_key(running.config.keys.log_key_file).verifier
        url, target = f"http://127.0.0.1:{running.daemon.http_port}", f"127.0.0.1:{running.daemon.grpc_port}"
        location = LiveDaemon(url=url, target=target, token=running.tokens[add_reader(running)])
        report = replay_decisions(location, origin=ORIGIN, log_verifier=verifier)
        assert (report.faults, report.not_checked) == ((), {})
        assert report.same == {"ACCESS": 1, "REFUSAL": 2}


def break_glass(running: Running, subject: pb.Subject) -> ac.AuthorizeAccessResponse:
    asked = question(
        subject, actor=pb.Actor(organisation="er"), purpose=BREAK_GLASS_PURPOSE,
        break_glass=pb.BreakGlass(justification="unconscious patient"),
    )  # fmt: skip
    return running.authorize(asked, "er")


def test_a_permit_by_break_glass_or_law_enrols(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        rule = pb.Provision(effect=pb.EFFECT_PERMIT, categories=["CLIN"])
        law = pb.Provision(effect=pb.EFFECT_PERMIT, purposes=["PUBHLTH"], categories=["CLIN"])
        publish_rules(running, break_glass=[rule], statutory=[law])
        patient, reported = stranger(), stranger()
        permitted = break_glass(running, patient)
        event = event_of(permitted.receipt)
        assert (event.kind, event.seq, permitted.access_seq) == (EntryKind.ACCESS, 2, 2)
        assert (permitted.decision.outcome, permitted.decision.tag) == (pb.OUTCOME_PERMIT, event.tag)
        (shown,) = accesses(running, patient)
        assert shown.seq == 2
        assert event_of(break_glass(running, patient).receipt).seq == 3
        by_law = running.authorize(question(reported, purpose="PUBHLTH"), INSTITUTION)
        assert event_of(by_law.receipt).seq == 2
        running.check_ledger()


def test_a_pruning_deletes_the_refusals_and_keeps_what_shows_the_kind_of_chain(tmp_path: Path) -> None:
    case = PruningCase(tmp_path)
    person = case.enrol("somebody")
    entries = [ask_about_a_stranger(case, person, number) for number in range(300)]
    case.seal()
    case.clock.advance(40 * DAY_MS)
    later = ask_about_a_stranger(case, person, 300)
    case.seal()
    case.prune()
    store, tag = case.store, entries[0].event.tag
    assert tag != later.event.tag
    left = list(reads.read_chain_with_gaps(store, tag))
    assert [entry.event.seq for entry in left if entry.index < 256] == [1]
    assert all(entry.row is None for entry in left)
    assert reads.read_entry(store, later.event.tag, 1).row is not None
    check_ledger(case)
    case.close()


def ask_about_a_stranger(case: PruningCase, person: Person, number: int) -> Appended:
    write = case.access(replace(person, identifier_hash=b"stranger" + number.to_bytes(24)))
    entry = case.write(write).entry
    assert entry is not None
    return entry


# -- pinned tags ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clinic_key(running: Running) -> KeyPair:
    key = KeyPair(new_number().to_bytes(32))
    add_key(running, INSTITUTION, key)
    return key


def ask_signed(running: Running, key: KeyPair, subject: pb.Subject, tag: bytes) -> ac.AuthorizeAccessResponse:
    request, asked = request_id(), question(subject).SerializeToString()
    fields: dict[str, Any] = {"request_id": request, "author_time_ms": now_ms(running)}
    signed = codec.signed_message(
        origin=ORIGIN, kind=codec.QUESTION_KIND, tag=tag, ref=0, payload=asked, **fields
    )
    message = ac.SignedQuestion(
        question=asked, key=key.public_key, signature=key.sign(signed), author_time_ms=fields["author_time_ms"], tag=tag
    )
    write = ac.AuthorizeAccessRequest(request_id=request, signed_question=message)
    return running.access.AuthorizeAccess(write, metadata=running.as_(INSTITUTION))


def pins(running: Running, subject: pb.Subject) -> Iterator[tuple[bytes, bool]]:
    """Yield tags, and whether an asker that pins the tag is answered about this person."""
    with services(running).table.read() as snapshot:
        tag = snapshot.tag_of(services(running).vault.identifier_hash(subject.scheme, subject.value))
    yield codec.ZERO_HASH, True
    yield b"\7" * 32, False
    if tag is not None:
        yield tag, True


def test_a_pinned_tag_of_another_person_gets_the_answer_of_no_consent(running: Running, clinic_key: KeyPair) -> None:
    permitting, refusing = running.enrol(new_identifier()), running.enrol(new_identifier())
    running.grant(permitting)
    denials = []
    for person in (permitting, refusing, stranger()):
        for tag, is_right in pins(running, person):
            answer = ask_signed(running, clinic_key, person, tag)
            permits = is_right and person is permitting
            assert bool(answer.access_seq) is permits
            assert kind_of(running, answer.receipt) == (EntryKind.ACCESS if permits else EntryKind.REFUSAL)
            if not permits:
                denials.append(seen(answer.decision))
    assert denials == [denials[0]] * 6
    assert refusal(lambda: ask_signed(running, clinic_key, permitting, b"short")) == "INVALID_REQUEST"


@pytest.mark.parametrize("persisted", [False, True])
def test_a_fault_of_the_vault_is_a_fault_of_storage_and_stops_nobody_else(tmp_path: Path, persisted: bool) -> None:
    running = make_running(tmp_path)
    known = running.enrol("SYN-1")
    running.grant(known)
    vault = services(running).vault
    inner = vault.store
    store = FaultyStore(inner)
    store.fail_write(persisted=persisted)
    vault.store = store
    before = running.wait_published().ledger.state.size
    with pytest.raises(grpc.RpcError) as failed:
        running.authorize(question(stranger()))
    assert (failed.value.code(), reason_of(failed.value)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE")
    assert services(running).ledger.state.size == before
    assert running.authorize(question(known)).decision.outcome == pb.OUTCOME_PERMIT
    vault.store = inner
    running.authorize(question(stranger()))
    running.check_ledger()
    running.stop()
