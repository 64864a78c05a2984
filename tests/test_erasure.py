"""EraseSubject: the entry, what is destroyed, what forbids it, and what everybody sees afterwards."""

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cases.daemons import ORIGIN, Running, make_config, make_running, question, reason_of, request_id, serve
from cases.erasures import AUTHORITY, KEY, add_authority, end_hold, erase, erase_once, holds, order, put_hold
from cases.fakes import HANG_S, FakeClock
from cases.services import (
    add_key,
    add_reader,
    event_of,
    new_identifier,
    now_ms,
    put_mandate,
    refusal,
    register,
    services,
)
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.cli import main
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, PreconditionError, StorageError
from consentd.ledger import erasure, layout
from consentd.ledger.erasure import ErasureList
from consentd.sequencer import erasures
from consentd.sequencer.commands.erasure import EraseSubject, PutDuty
from consentd.sequencer.commands.readings import RecordReading
from consentd.sequencer.commands.write import SignedEntry
from consentd.service.requests import content_hash, make_request
from consentd.store import Batch, Store
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, StatementSigner


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10)
    add_authority(made)
    yield from serve(made)
    verifier = read_signing_key(made.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(made.config), origin=ORIGIN, log_verifier=verifier)
    assert replayed.faults == ()


def person(running: Running) -> pb.Subject:
    subject = running.enrol(new_identifier())
    running.grant(subject)
    running.authorize(question(subject))
    return subject


def outcome(running: Running, request: rs.EraseSubjectRequest) -> str:
    """Return the reason with which an order is refused; empty: it is carried out."""
    try:
        erase_once(running, request)
    except grpc.RpcError as error:
        return reason_of(error)
    return ""


def statements(running: Running, tag: bytes) -> list[bytes]:
    start, end = layout.statement_key(tag, 0), layout.statement_key(tag, 1 << 62)
    return [key for key, _ in services(running).ledger.store.scan(start, end)]


def test_a_person_is_erased_with_all_that_the_stores_had(running: Running) -> None:
    subject, other = person(running), person(running)
    used, tag = services(running), holds(running, subject).tag
    hashed = used.vault.identifier_hash(subject.scheme, subject.value)
    before = sum(1 for _ in used.ledger.store.scan(b"q", b"r"))
    answer = erase(running, order(running, subject))
    event = event_of(answer.receipt)
    assert (event.kind, event.tag, event.ref) == (EntryKind.ERASURE, tag, 0)
    assert not used.vault.has_key(tag)
    assert used.vault.find(hashed) is None
    assert statements(running, tag) == [layout.statement_key(tag, event.seq)]
    # The requests of the enrolment, the consent and the access are forgotten, and that of the erasure is not.
    assert sum(1 for _ in used.ledger.store.scan(b"q", b"r")) == before - 3 + 1
    assert not list(used.ledger.store.scan(b"e", b"f"))
    assert refusal(lambda: holds(running, subject)) == "SUBJECT_NOT_FOUND"
    assert running.check(question(subject)).outcome == pb.OUTCOME_NO_CONSENT
    assert running.check(question(other)).permitted


def test_a_repeat_gets_the_same_receipt_and_other_content_is_refused(running: Running) -> None:
    subject = person(running)
    request = order(running, subject)
    first, again = erase(running, request), erase(running, request)
    assert (again.receipt.index, again.receipt.replayed) == (first.receipt.index, True)
    request.signed.payload += b"\x12\x01x"
    assert refusal(lambda: erase(running, request)) == "REQUEST_ID_REUSED"


def test_nothing_distinguishes_an_erased_person_from_one_who_was_never_enrolled(running: Running) -> None:
    erased, nobody = person(running), pb.Subject(scheme="mhid", value=new_identifier())
    erase(running, order(running, erased))
    app, auditor = running.as_("app"), running.as_(add_reader(running))

    def answers(subject: pb.Subject) -> list[object]:
        reads = (
            lambda: running.consents.ListConsents(cs.ListConsentsRequest(subject=subject), metadata=app),
            lambda: running.access.ListAccesses(ac.ListAccessesRequest(subject=subject), metadata=app),
            lambda: running.access.GetAccess(ac.GetAccessRequest(subject=subject, access_seq=3), metadata=app),
            lambda: list(running.ledger.GetHistory(ls.GetHistoryRequest(subject=subject), metadata=auditor)),
            lambda: holds(running, subject),
            lambda: running.grant(subject),
        )
        found: list[object] = []
        for read in reads:
            with pytest.raises(grpc.RpcError) as caught:
                read()
            found.append((caught.value.code(), caught.value.details(), reason_of(caught.value)))
        asked = running.authorize(question(subject))
        return [*found, asked.decision.outcome, len(asked.decision.reasons), bool(asked.receipt.leaf)]

    assert answers(erased) == answers(nobody)


def test_a_person_enrols_again_under_a_new_tag(running: Running) -> None:
    subject = person(running)
    tag, old = holds(running, subject).tag, order(running, subject)
    erase(running, old)
    running.enrol(subject.value)
    running.grant(subject)
    assert holds(running, subject).tag != tag
    assert running.check(question(subject)).permitted
    erase(running, old)  # a repeat is about the earlier chain
    assert running.check(question(subject)).permitted
    assert refusal(lambda: erase(running, order(running, subject, tag=tag))) == "BAD_SIGNATURE"


def test_an_order_needs_the_right_the_key_and_a_legal_basis(running: Running) -> None:
    subject = person(running)
    other = KeyPair(b"\x52" * 32)
    register(running, "court", [st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY])
    running.add_caller("court")
    add_key(running, "court", other)
    request = order(running, subject)
    assert refusal(lambda: erase(running, request, "court")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: erase(running, request, "operator")) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: erase(running, order(running, subject, key=other))) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: erase(running, order(running, subject, legal_basis="NONE"))) == "UNKNOWN_CODE"
    assert refusal(lambda: erase(running, order(running, subject, reason="x" * 5000))) == "TOO_LARGE"
    assert refusal(lambda: erase(running, rs.EraseSubjectRequest(request_id=request_id()))) == "INVALID_REQUEST"
    named = order(running, subject, reason=f"of {subject.value.lower()}")
    assert refusal(lambda: erase(running, named)) == "INVALID_REQUEST"
    attested = order(running, subject, attestation=st.Attestation(attested_by=AUTHORITY))
    assert refusal(lambda: erase(running, attested)) == "INVALID_REQUEST"
    assert running.check(question(subject)).permitted


def test_two_orders_at_once_erase_once(running: Running) -> None:
    subject = person(running)
    requests = [order(running, subject) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(erase, running, one) for one in requests]
    failed = [error for one in futures if isinstance(error := one.exception(HANG_S), grpc.RpcError)]
    assert [reason_of(error) for error in failed] == ["SUBJECT_NOT_FOUND"] * 3


def test_the_entry_is_opened_for_its_author_and_auditors_and_shows_others_nothing(running: Running) -> None:
    subject = person(running)
    receipt = erase(running, order(running, subject, reason="order 9")).receipt

    def opened(who: str) -> ls.GetReceiptResponse:
        request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
        return running.ledger.GetReceipt(request, metadata=running.as_(who))

    stated = st.ErasureStatement.FromString(opened(AUTHORITY).opening.statement[121:])
    assert (stated.legal_basis, stated.reason) == ("STATUTE", "order 9")
    assert opened("operator").HasField("opening")
    assert (bool(opened("pipc").receipt.leaf), opened("pipc").HasField("opening")) == (True, True)
    for other in ("app", "clinic-b"):
        assert (opened(other).receipt.leaf, opened(other).HasField("opening")) == (b"", False)


# -- holds ---------------------------------------------------------------------------------------------------------


def test_a_hold_makes_an_erasure_a_duty_until_it_ends(running: Running) -> None:
    subject, until_ms = person(running), now_ms(running) + 3_600_000
    first, second = put_hold(running, subject, until_ms), put_hold(running, subject, until_ms - 1)
    found = holds(running, subject)
    assert ([one.seq for one in found.holds], found.is_held) == ([first, second], True)
    assert found.erasure_due_time_ms == until_ms
    request = order(running, subject)
    for _ in range(2):  # a repeat is refused in the same way, and records nothing more
        with pytest.raises(grpc.RpcError) as caught:
            erase(running, request)
        assert reason_of(caught.value) == "ERASURE_HELD"
    running.wait_published()
    entries = running.ledger.ListEntries(
        ls.ListEntriesRequest(kinds=[EntryKind.DUTY]), metadata=running.as_(add_reader(running))
    ).entries
    duty = st.DutyStatement.FromString(entries[-1].opening.statement[121:])
    assert (duty.erasure.ordered_by, duty.erasure.due_time_ms) == (AUTHORITY, until_ms)
    assert len(entries) == 3
    end_hold(running, subject, first)
    assert refusal(lambda: erase(running, order(running, subject))) == "ERASURE_HELD"
    end_hold(running, subject, second)
    assert refusal(lambda: end_hold(running, subject, second)) == "NOT_FOUND"
    erase(running, order(running, subject))


def test_a_hold_of_the_same_batch_counts(running: Running) -> None:
    subject, used = person(running), services(running)
    tag, hashed = holds(running, subject).tag, used.vault.identifier_hash(subject.scheme, subject.value)
    ordered = order(running, subject, tag=tag)
    hold = st.HoldStatement(legal_basis="COURT", until_time_ms=now_ms(running) + 60_000)
    message = st.DutyStatement(hold=hold, attestation=st.Attestation(attested_by="operator/main"))
    asked = make_request("operator/main", request_id(), content_hash("test"))
    put = PutDuty(request=asked, identifier_hash=hashed, tag=tag, message=message)
    given = ordered.signed
    statement = codec.Statement(
        given.key, given.signature, ordered.request_id, given.author_time_ms, given.payload
    )
    erasing = EraseSubject(
        request=make_request(AUTHORITY, ordered.request_id, content_hash("test")), identifier_hash=hashed, tag=tag,
        message=st.ErasureStatement.FromString(given.payload),
        signed=SignedEntry(EntryKind.ERASURE, tag, 0, statement),
    )
    first, second = used.sequencer.call(lambda: [used.sequencer.submit(put), used.sequencer.submit(erasing)])
    assert first.result(HANG_S).entry.index + 1 == second.result(HANG_S).entry.index
    assert second.result(HANG_S).answer == hold.until_time_ms


def test_a_statutory_consent_holds_an_erasure(running: Running) -> None:
    subject = person(running)
    made = pb.Consent(kind=pb.CONSENT_KIND_STATUTORY, legal_basis="MA-21-3", language="ko")
    made.root.CopyFrom(
        pb.Provision(
            effect=pb.EFFECT_PERMIT, actors=["clinic-b"], holders=["hospital-a"], purposes=["TREAT"],
            categories=["CLIN"],
        )
    )
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=made)
    )
    granted = running.consents.GrantConsent(request, metadata=running.as_("operator"))
    assert holds(running, subject).is_held
    assert holds(running, subject).erasure_due_time_ms == 0  # it has no end
    assert refusal(lambda: erase(running, order(running, subject))) == "ERASURE_HELD"
    revoke = cs.RevokeConsentRequest(request_id=request_id(), subject=subject, consent_id=granted.consent_id)
    revoke.attested.SetInParent()
    running.consents.RevokeConsent(revoke, metadata=running.as_("operator"))
    erase(running, order(running, subject))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"until_ms": 1}, "INVALID_REQUEST"),
        ({"until_ms": 1 << 62}, "INVALID_REQUEST"),
        ({"legal_basis": "NONE"}, "UNKNOWN_CODE"),
        ({"ended": True}, "INVALID_REQUEST"),
        ({"who": AUTHORITY}, "CALLER_NOT_ALLOWED"),
        ({"who": "app"}, "CALLER_NOT_ALLOWED"),
    ],
)
def test_a_hold_that_is_none_is_refused(running: Running, fields: dict[str, object], reason: str) -> None:
    subject = person(running)
    given = {"until_ms": now_ms(running) + 60_000, **fields}
    assert refusal(lambda: put_hold(running, subject, **given)) == reason  # type: ignore[arg-type]
    assert not holds(running, subject).is_held


# -- what nothing may follow ---------------------------------------------------------------------------------------


def test_no_entry_follows_an_erasure(running: Running) -> None:
    """An auditor found the chain before, and an enrolment the old tag: neither writes to the erased chain."""
    subject = person(running)
    used, tag = services(running), holds(running, subject).tag
    hashed = used.vault.identifier_hash(subject.scheme, subject.value)
    put_mandate(running, "pipc")
    erase(running, order(running, subject))
    request = make_request("read/pipc", bytes(16), content_hash("Read", tag))
    late = RecordReading(request=request, tag=tag, message=st.ReadStatement(reader="pipc"))
    assert used.sequencer.submit(late).exception(HANG_S) is not None
    # As between the entry and the deletion: the vault still leads to the erased tag.
    batch = Batch()
    batch.put(b"i" + hashed, tag)
    used.vault.store.write(batch)
    running.enrol(subject.value)
    assert holds(running, subject).tag != tag


def test_an_erasure_waits_for_a_reader_of_the_old_files(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An iterator keeps the old files. The erasure is complete when it is read to its end, or given up."""
    subject, store = person(running), services(running).ledger.store
    store.compact_ranges([(b"", None)])  # the person's rows are in sorted files now
    reader = store.scan(b"c", b"d")
    next(reader)
    monkeypatch.setattr(erasures, "_FILES_S", 0)
    monkeypatch.setattr(erasures, "RETRY_S", 0.05)
    request = order(running, subject)
    assert refusal(lambda: erase_once(running, request)) == "ERASURE_PENDING"
    assert list(store.scan(b"e", b"f"))
    del reader
    monkeypatch.setattr(erasures, "_FILES_S", HANG_S)
    while outcome(running, request) == "ERASURE_PENDING":  # of an attempt that began before
        pass
    assert erase(running, request).receipt.replayed
    assert not list(store.scan(b"e", b"f"))


def test_a_repeat_that_names_another_person_keeps_no_identifier(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure stops before the vault, and is repeated with the same order beside another identifier."""
    subject, other, used = person(running), person(running), services(running)
    hashed = [used.vault.identifier_hash(one.scheme, one.value) for one in (subject, other)]

    def add(*_: object) -> None:
        raise StorageError("disk is full")

    request = order(running, subject)
    monkeypatch.setattr(erasures, "RETRY_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(ErasureList, "add", add)
        assert refusal(lambda: erase_once(running, request)) == "ERASURE_PENDING"
        request.subject.CopyFrom(other)
        assert refusal(lambda: erase_once(running, request)) == "ERASURE_PENDING"
    while outcome(running, request) == "ERASURE_PENDING":  # of an attempt that began before
        pass
    assert [used.vault.find(one) is None for one in hashed] == [True, False]
    assert running.check(question(other)).permitted


def test_what_a_failed_attempt_deleted_is_compacted_away_too(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the requests are deleted by then, and no list of them is left."""
    subject, store = person(running), services(running).ledger.store
    asked: list[object] = []

    def compact_vault(*_: object) -> None:
        raise StorageError("disk is full")

    def compact_ledger(store: Store, tags: Collection[bytes], requests: Collection[bytes] | None) -> None:
        asked.append(requests)
        compact(store, tags, requests)

    compact = erasure.compact_ledger
    monkeypatch.setattr(erasures, "RETRY_S", 0.05)
    monkeypatch.setattr(erasure, "compact_ledger", compact_ledger)
    request = order(running, subject)
    with monkeypatch.context() as patch:
        patch.setattr(erasure, "compact_vault", compact_vault)
        assert refusal(lambda: erase_once(running, request)) == "ERASURE_PENDING"
    while outcome(running, request) == "ERASURE_PENDING":  # of an attempt that began before
        pass
    assert asked[-1] is None
    asked.clear()
    erase(running, order(running, person(running)))
    assert asked[0]  # the keys of its own requests
    assert not list(store.scan(b"e", b"f"))


def test_a_refused_order_leaves_no_identifier_hash(running: Running) -> None:
    subject, expected = person(running), services(running).erasures._hashes
    seq = put_hold(running, subject, now_ms(running) + 3_600_000)
    request = order(running, subject)
    assert refusal(lambda: erase(running, request)) == "ERASURE_HELD"
    assert not expected
    end_hold(running, subject, seq)
    erase(running, order(running, subject))
    assert not expected


def test_many_persons_and_long_chains_are_deleted_in_parts(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_BATCH", 3)
    monkeypatch.setattr(erasure, "_PAGE", 2)
    people, store = [person(running) for _ in range(3)], services(running).ledger.store
    tags = [holds(running, one).tag for one in people]
    before = sum(1 for _ in store.scan(b"q", b"r"))
    parts = list(erasure.statement_rows(store, tags))
    assert len(parts) > len(people)
    assert all(len(batch) <= 5 for batch, _ in parts)
    for one in people:
        erase(running, order(running, one))
    # Three requests of each person are forgotten, and the one of the erasure is kept.
    assert sum(1 for _ in store.scan(b"q", b"r")) == before - 3 * 3 + 3
    assert [len(statements(running, tag)) for tag in tags] == [1, 1, 1]


# -- unknown chains, the client library and the command line --------------------------------------------------------


def test_an_unknown_chain_is_erased_when_its_retention_ends(tmp_path: Path) -> None:
    clock = FakeClock()
    first = make_running(tmp_path, daemon={"clock": clock})
    nobody = pb.Subject(scheme="mhid", value=new_identifier())
    assert not first.authorize(question(nobody)).decision.permitted
    (tag,) = services(first).vault.unknown_chains().values()
    first.stop()
    for days, is_kept in ((1090, True), (40, False)):
        clock.advance(days * 86_400_000)
        again = Running(make_config(tmp_path), first.tokens, clock=clock)
        used = services(again)
        complete = used.erasures.looked.wait(HANG_S)
        assert complete
        assert (used.vault.has_key(tag), bool(used.vault.unknown_chains())) == (is_kept, is_kept)
        clock.advance(1_000)  # a checkpoint is due
        again.check_ledger()
        again.stop()
    assert len((tmp_path / "data/erasures").read_text().splitlines()) == 1


def client_of(running: Running, who: str) -> Client:
    return Client("", token=running.tokens[who], channel=running.channel, timeout_s=HANG_S)


def test_the_client_orders_erasures_and_puts_holds(running: Running) -> None:
    subject, client, operator = person(running), client_of(running, AUTHORITY), client_of(running, "operator")
    order_of = st.ErasureStatement(legal_basis="STATUTE")
    signer = StatementSigner(key=KEY, origin=ORIGIN, tag=client.get_holds(subject).tag)
    with pytest.raises(InvalidError):
        client.erase(subject, order_of)
    hold = st.HoldStatement(legal_basis="COURT", until_time_ms=now_ms(running) + 60_000)
    put = operator.put_hold(subject, hold)
    signed = client.put_hold(subject, hold, signer=signer)
    assert [one.seq for one in client.get_holds(subject).holds] == [put.event.seq, signed.event.seq]
    with pytest.raises(PreconditionError):
        client.erase(subject, order_of, signer=signer)
    operator.end_hold(subject, put.event.seq)
    client.end_hold(subject, signed.event.seq, signer=signer)
    erased = client.erase(subject, order_of, signer=signer)
    assert erased.receipt.event.kind == EntryKind.ERASURE
    assert erased.receipt.event.time_ms <= erased.complete_time_ms <= now_ms(running)
    days = running.config.backup.retention_days
    assert erased.backups_until_time_ms - erased.complete_time_ms == days * 86_400_000


def test_an_operator_ends_no_hold_of_an_authority(running: Running) -> None:
    subject, client = person(running), client_of(running, AUTHORITY)
    signer = StatementSigner(key=KEY, origin=ORIGIN, tag=client.get_holds(subject).tag)
    hold = st.HoldStatement(legal_basis="COURT", until_time_ms=now_ms(running) + 60_000)
    seq = client.put_hold(subject, hold, signer=signer).event.seq
    assert refusal(lambda: end_hold(running, subject, seq)) == "NOT_FOUND"
    assert [one.seq for one in client.get_holds(subject).holds] == [seq]


def test_the_command_line_erases_a_list_of_persons(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [person(running) for _ in range(5)]
    listed, key, token = tmp_path / "persons", tmp_path / "key", tmp_path / "token"
    listed.write_text("".join(f"mhid:{one.value}\n" for one in subjects) + "mhid:SYN-NOBODY\n")
    key.write_text("51" * 32 + "\n")
    key.chmod(0o644)
    common = ["--target", f"127.0.0.1:{running.daemon.grpc_port}", "--token-file", str(token), "--json"]
    token.write_text(running.tokens["operator"])
    held = f"mhid:{subjects[0].value}"
    assert main(["subject", "hold", held, "--legal-basis", "COURT", "--until", "2999", *common]) == 0
    seq = json.loads(capsys.readouterr().out)["seq"]
    assert main(["subject", "holds", held, *common]) == 1
    capsys.readouterr()
    assert main(["subject", "duties", *common]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (seq, True, "", "COURT") in [(one["seq"], one["is_hold"], one["tag"], one["legal_basis"]) for one in shown]
    token.write_text(running.tokens[AUTHORITY])
    assert refusal(lambda: erase_once(running, order(running, subjects[0]))) == "ERASURE_HELD"
    assert main(["subject", "duties", "--erasures", "--before", "3000", *common]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert holds(running, subjects[0]).tag.hex() in [one["tag"] for one in shown if one["is_held"]]
    token.write_text(running.tokens["operator"])
    assert main(["subject", "end-hold", held, str(seq), *common]) == 0
    capsys.readouterr()
    token.write_text(running.tokens[AUTHORITY])
    vkey = format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    ordered = ["--file", str(listed), "--key", str(key), "--legal-basis", "STATUTE", "--log-key", vkey]
    assert main(["subject", "erase", *ordered, *common]) == 2  # others may read the key
    key.chmod(0o600)
    nowhere = [*ordered, "--token-file", str(token), "--target", "127.0.0.1:1"]
    assert main(["subject", "erase", *nowhere]) == 2
    capsys.readouterr()
    certificate = tmp_path / "certificate"
    stored = ["--certificate", str(certificate)]
    assert main(["subject", "erase", *ordered, *stored, *common]) == 1  # of the last one, who was never enrolled
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["index" in line for line in lines] == [True] * 5 + [False]
    for number, line in enumerate(lines[:5], 1):
        file = certificate.with_name(f"certificate.{number}")
        assert main(["verify", str(file), "--log-key", vkey, "--json"]) == 0
        proven = json.loads(capsys.readouterr().out)
        assert (proven["index"], proven["leaf"].split(",")[0]) == (line["index"], "ERASURE")
        fields = json.loads(file.read_bytes())
        assert fields["backups_until_time_ms"] == line["backups_until_time_ms"] > fields["complete_time_ms"]
        assert main(["receipt", str(file), "--log-key", vkey, *common]) == 0  # which keeps the times
        capsys.readouterr()
        assert json.loads(file.read_bytes()) == fields
    assert not certificate.with_name("certificate.6").exists()
    assert lines[-1]["reason"] == "SUBJECT_NOT_FOUND"
    assert [outcome(running, order(running, one, tag=bytes(32))) for one in subjects] == ["SUBJECT_NOT_FOUND"] * 5
