"""Legal holds of several authorities, the list of duties, and orders of erasure in a batch."""

from collections.abc import Iterator
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, make_running, reason_in, request_id, serve
from cases.erasures import (
    AUTHORITY,
    KEY,
    add_authority,
    end_hold,
    erase,
    holds,
    order,
    put_hold,
    repeat_pending,
    sign_hold,
)
from cases.fakes import HANG_S
from cases.services import add_key, add_reader, new_identifier, now_ms, refusal, register, services
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import NotReachedError, PreconditionError
from consentd.sequencer import erasures
from consentd.service import erasure as service
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, StatementSigner, pin

COURTS = {"court-a": KeyPair(b"\x71" * 32), "court-b": KeyPair(b"\x72" * 32)}
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10)
    add_authority(made)
    for name, key in COURTS.items():
        register(made, name, [st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY])
        made.add_caller(name)
        add_key(made, name, key)
    yield from serve(made)
    verifier = read_signing_key(made.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(made.config), origin=ORIGIN, log_verifier=verifier)
    assert replayed.faults == ()


def person(running: Running) -> pb.Subject:
    return running.enrol(new_identifier())


def put_signed(running: Running, subject: pb.Subject, who: str) -> int:
    request = sign_hold(running, subject, COURTS[who], who, until_ms=now_ms(running) + HOUR_MS)
    return running.registry.PutHold(request, metadata=running.as_(who)).seq


def end_signed(running: Running, subject: pb.Subject, who: str, seq: int) -> Any:
    request = sign_hold(running, subject, COURTS[who], who, ended=seq)
    return running.registry.EndHold(request, metadata=running.as_(who))


def client_of(running: Running, who: str) -> Client:
    trust = pin(read_signing_key(running.config.keys.log_key_file).verifier)
    return Client("", token=running.tokens[who], channel=running.channel, timeout_s=HANG_S, trust=trust)


def duties(running: Running, who: str = AUTHORITY, **fields: Any) -> list[rs.Duty]:
    """Return the duties of all pages."""
    found, token = list[rs.Duty](), ""
    while True:
        request = rs.ListDutiesRequest(page_token=token, **fields)
        page = running.registry.ListDuties(request, metadata=running.as_(who))
        found += page.duties
        token = page.next_page_token
        if not token:
            return found


# -- who ends a hold ------------------------------------------------------------------------------------------------


def test_a_hold_is_ended_by_who_put_it(running: Running) -> None:
    subject = person(running)
    of_a, of_operator = put_signed(running, subject, "court-a"), put_hold(running, subject, now_ms(running) + HOUR_MS)
    assert refusal(lambda: end_signed(running, subject, "court-b", of_a)) == "NOT_FOUND"
    assert refusal(lambda: end_hold(running, subject, of_a)) == "NOT_FOUND"
    assert refusal(lambda: end_signed(running, subject, "court-a", of_operator)) == "NOT_FOUND"
    assert [one.seq for one in holds(running, subject).holds] == [of_a, of_operator]
    end_signed(running, subject, "court-a", of_a)
    end_hold(running, subject, of_operator)
    assert refusal(lambda: end_signed(running, subject, "court-a", of_a)) == "NOT_FOUND"
    assert not holds(running, subject).is_held


def test_a_hold_whose_key_was_retired_is_ended_with_the_next_one(running: Running) -> None:
    subject, seq = person(running), 0
    seq = put_signed(running, subject, "court-b")
    following = KeyPair(b"\x73" * 32)
    add_key(running, "court-b", following)
    request = sign_hold(running, subject, following, "court-b", ended=seq)
    running.registry.EndHold(request, metadata=running.as_("court-b"))
    assert not holds(running, subject).is_held


# -- the list of duties ----------------------------------------------------------------------------------------------


def test_duties_are_listed_until_they_end_or_the_person_is_erased(running: Running) -> None:
    held, due = person(running), person(running)
    until_ms = now_ms(running) + HOUR_MS
    tags = {holds(running, one).tag: one for one in (held, due)}
    seqs = {one.value: put_hold(running, one, until_ms + at) for at, one in enumerate((held, due))}
    assert refusal(lambda: erase(running, order(running, due))) == "ERASURE_HELD"
    found = [one for one in duties(running) if one.tag in tags]
    assert [(one.tag, one.seq) for one in found] == sorted((one.tag, one.seq) for one in found)
    assert len(found) == 3
    assert all(one.is_held and one.time_ms for one in found)
    (erasure,) = (one for one in duties(running, erasures_only=True) if one.tag in tags)
    assert erasure.statement.erasure.ordered_by == AUTHORITY
    assert erasure.statement.erasure.due_time_ms == until_ms + 1
    before = [one for one in duties(running, before_time_ms=until_ms + 1) if one.tag in tags]
    assert [one.statement.hold.until_time_ms for one in before] == [until_ms]
    end_hold(running, due, seqs[due.value])
    (erasure,) = (one for one in duties(running, erasures_only=True) if one.tag in tags)
    assert not erasure.is_held
    erase(running, order(running, due))
    assert [one.seq for one in duties(running) if one.tag in tags] == [seqs[held.value]]


def test_a_long_list_of_duties_comes_in_pages(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        put_hold(running, person(running), now_ms(running) + HOUR_MS)
    whole = duties(running)
    assert len(whole) >= 5
    assert duties(running, page_size=1) == duties(running, page_size=len(whole)) == whole
    monkeypatch.setattr(service, "MAX_EXAMINED", 2)
    assert duties(running) == duties(running, page_size=2) == whole
    assert duties(running, erasures_only=True, before_time_ms=1) == []
    page = running.registry.ListDuties(rs.ListDutiesRequest(page_size=1), metadata=running.as_(AUTHORITY))
    other = rs.ListDutiesRequest(page_token=page.next_page_token, erasures_only=True)
    list_duties = running.registry.ListDuties
    assert refusal(lambda: list_duties(other, metadata=running.as_(AUTHORITY))) == "INVALID_PAGE"
    negative = rs.ListDutiesRequest(before_time_ms=-1)
    assert refusal(lambda: list_duties(negative, metadata=running.as_(AUTHORITY))) == "INVALID_REQUEST"


def test_an_operator_sees_the_holds_of_operators_without_tags_and_leaves_an_entry(running: Running) -> None:
    first, second = person(running), person(running)
    put_signed(running, first, "court-a")
    put_hold(running, second, now_ms(running) + HOUR_MS, reason="case 9")
    tag = holds(running, second).tag
    found = duties(running, "operator")
    assert {one.statement.attestation.attested_by for one in found} == {"operator/main"}
    assert any(one.statement.hold.reason == "case 9" for one in found)
    assert all(not one.tag for one in found)
    running.wait_published()
    request = ls.ListEntriesRequest(kinds=[EntryKind.READ])
    entries = running.ledger.ListEntries(request, metadata=running.as_(add_reader(running))).entries
    assert tag in {one.leaf[10:42] for one in entries}
    assert refusal(lambda: duties(running, "app")) == "CALLER_NOT_ALLOWED"


# -- orders in a batch -----------------------------------------------------------------------------------------------


def erase_all(running: Running, requests: list[rs.EraseSubjectRequest], **more: Any) -> list[rs.EraseSubjectResult]:
    batch = rs.BatchEraseSubjectsRequest(requests=requests, **more)

    def call() -> Any:
        answer = running.registry.BatchEraseSubjects(batch, metadata=running.as_(AUTHORITY))
        if any(reason_in(one.error) == "ERASURE_PENDING" for one in answer.results):  # a scrub reads old files
            return call()
        return answer

    return list(repeat_pending(call).results)


def test_a_batch_erases_each_person_or_says_why_not_and_copies_the_table_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [person(running) for _ in range(20)]
    requests = [order(running, one) for one in subjects]
    put_hold(running, subjects[3], now_ms(running) + HOUR_MS)
    requests[4].wait_for = pb.WAIT_FOR_PUBLISHED
    requests[5].signed.signature = bytes(64)
    requests.append(order(running, subjects[0]))  # the second order for a person
    unknown = pb.Subject(scheme="mhid", value=new_identifier())
    requests.append(order(running, unknown, tag=bytes(32)))
    copies, renew = [], erasures.renew
    monkeypatch.setattr(erasures, "renew", lambda *given, **more: (copies.append(1), renew(*given, **more)))
    results = erase_all(running, requests)
    assert len(copies) == 1
    reasons = {at: reason_in(one.error) for at, one in enumerate(results) if one.HasField("error")}
    assert reasons == {
        3: "ERASURE_HELD", 4: "INVALID_REQUEST", 5: "BAD_SIGNATURE", 20: "SUBJECT_NOT_FOUND", 21: "SUBJECT_NOT_FOUND"
    }
    vault = services(running).vault
    known = [vault.find(vault.identifier_hash(one.scheme, one.value)) is not None for one in subjects]
    assert [at for at, is_known in enumerate(known) if is_known] == [3, 4, 5]
    again = erase_all(running, [*requests[:3], requests[5]])
    assert [one.response.receipt.replayed for one in again] == [True, True, True, False]
    assert [one.response.receipt.index for one in again[:3]] == [one.response.receipt.index for one in results[:3]]
    single = erase(running, requests[0])  # the same order, alone
    assert (single.receipt.replayed, single.receipt.index) == (True, results[0].response.receipt.index)
    published = erase_all(running, [order(running, subjects[5])], wait_for=pb.WAIT_FOR_PUBLISHED)
    assert published[0].response.receipt.proof


def test_the_client_library_erases_a_batch_and_lists_duties(running: Running) -> None:
    client = client_of(running, AUTHORITY)
    subjects = [person(running) for _ in range(3)]
    put_hold(running, subjects[1], now_ms(running) + HOUR_MS)
    signers = [StatementSigner(key=KEY, origin=ORIGIN, tag=client.get_holds(one).tag) for one in subjects]
    order_of = st.ErasureStatement(legal_basis="STATUTE")
    orders = [(subject, order_of, signer) for subject, signer in zip(subjects, signers, strict=True)]
    ids = [request_id() for _ in orders]

    def erase_batch() -> Any:
        while True:
            found = client.batch_erase(orders, published=True, request_ids=ids)
            if not any(isinstance(one, NotReachedError) for one in found):  # a scrub reads old files
                return found

    first, held, last = erase_batch()
    assert (first.receipt.event.tag, last.receipt.event.tag) == (signers[0].tag, signers[2].tag)
    assert isinstance(held, PreconditionError)
    assert held.reason == "ERASURE_HELD"
    assert {one.tag for one in client.list_duties(erasures_only=True)} >= {signers[1].tag}
    assert client.batch_erase([]) == ()


def test_a_batch_that_is_too_long_or_of_nobody_with_the_right_is_refused(running: Running) -> None:
    requests = [rs.EraseSubjectRequest(request_id=request_id())] * 1001
    assert refusal(lambda: erase_all(running, requests)) == "TOO_LARGE"
    batch = rs.BatchEraseSubjectsRequest(requests=[order(running, person(running))])
    call = running.registry.BatchEraseSubjects
    assert refusal(lambda: call(batch, metadata=running.as_("app"))) == "CALLER_NOT_ALLOWED"
    assert erase_all(running, []) == []
    unknown = pb.Subject(scheme="mhid", value=new_identifier())
    long = [order(running, unknown, tag=bytes(32)) for _ in range(450)]
    assert sum(one.ByteSize() for one in long) > 1 << 16  # more than a single write may have
    assert {reason_in(one.error) for one in erase_all(running, long)} == {"SUBJECT_NOT_FOUND"}
    assert not services(running).erasures._hashes
