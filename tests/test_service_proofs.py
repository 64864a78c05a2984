"""Signed statements, receipts, proofs, histories: what clients and auditors verify."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from cases.daemons import ORIGIN, Running, consent, make_running, question, request_id, sign_statement
from cases.fakes import HANG_S, FakeClock
from cases.services import (
    FOREIGN_FIELD,
    Person,
    add_key,
    add_reader,
    amend,
    batch,
    event_of,
    new_identifier,
    new_number,
    now_ms,
    record,
    refusal,
    retire_key,
    services,
)
from consentd.core import checkpoint, codec, history, merkle
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key, write_private
from consentd.service import proofs, servicer
from consentd.service.auth import format_credential, make_token
from consentd.service.context import EndedCallError
from consentd.service.operator_roles import OperatorRole
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client
from consentd_client.history import collect_proof

# -- signed statements ---------------------------------------------------------------------------------------------


def test_a_person_signs_a_consents_whole_life(running: Running) -> None:
    person = Person(running)
    granted = person.grant()
    consent_id, seq = granted.consent_id, event_of(granted.receipt).seq
    request = request_id()
    amendment = st.AmendStatement(consent=consent(categories=["CLIN.DX"]), lineage_seq=seq, version=2)
    amended = running.consents.AmendConsent(
        cs.AmendConsentRequest(
            request_id=request,
            subject=person.subject,
            consent_id=consent_id,
            based_on_version=1,
            signed=person.sign(EntryKind.AMEND, amendment, request, ref=seq),
        ),
        metadata=running.as_("app"),
    )
    latest = event_of(amended.receipt).seq
    person.change(EntryKind.PAUSE, consent_id, st.PauseStatement(lineage_seq=seq), latest)
    person.change(EntryKind.RESUME, consent_id, st.ResumeStatement(lineage_seq=seq), latest)
    assert running.check(question(person.subject)).outcome == pb.OUTCOME_PERMIT
    person.change(EntryKind.REVOKE, consent_id, st.RevokeStatement(lineage_seq=seq, note="enough"), latest)
    assert running.check(question(person.subject)).outcome == pb.OUTCOME_NO_CONSENT


def _tampered(**changed: Any) -> Callable[[Person], Any]:
    def attack(person: Person) -> Any:
        request = request_id()
        signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=consent()), request)
        for name, value in changed.items():
            setattr(signed, name, value(getattr(signed, name)) if callable(value) else value)
        return person.send(signed, request)

    return attack


def _signed_by_clinic(person: Person) -> Any:
    key = KeyPair(new_number().to_bytes(32))
    add_key(person.running, "clinic-b", key)
    return person.grant(key=key)


def _attested(person: Person) -> Any:
    message = st.GrantStatement(consent=consent(), attestation=st.Attestation(attested_by="app"))
    return person.grant(message=message)


def _foreign_field(person: Person) -> Any:
    request = request_id()
    message = st.GrantStatement.FromString(st.GrantStatement(consent=consent()).SerializeToString() + FOREIGN_FIELD)
    return person.send(person.sign(EntryKind.GRANT, message, request), request)


def _other_lineage(person: Person) -> Any:
    granted = person.grant()
    return person.change(EntryKind.PAUSE, granted.consent_id, st.PauseStatement(lineage_seq=9), 3)


def _old_version(person: Person) -> Any:
    granted = person.grant()
    amend(person.running, person.subject, granted.consent_id, 1)
    return person.change(EntryKind.PAUSE, granted.consent_id, st.PauseStatement(lineage_seq=3), 3)


ATTACKS: list[tuple[str, str, Callable[[Person], Any]]] = [
    ("another person's key", "KEY_NOT_IN_FORCE", lambda person: person.grant(key=Person(person.running).key)),
    ("nobody's key", "KEY_NOT_IN_FORCE", lambda person: person.grant(key=KeyPair(b"\xee" * 32))),
    ("a participant's key", "KEY_NOT_IN_FORCE", _signed_by_clinic),
    ("another tag", "BAD_SIGNATURE", lambda person: person.grant(tag=b"\x01" * 32)),
    ("another kind", "BAD_SIGNATURE", lambda person: person.grant(kind=EntryKind.AMEND)),
    ("a ref where there is none", "REF_MOVED", lambda person: person.grant(ref=1)),
    ("the lineage of another", "REF_MOVED", _other_lineage),
    ("a version no longer in force", "REF_MOVED", _old_version),
    ("a clock behind", "AUTHOR_CLOCK", lambda person: person.grant(time_ms=now_ms(person.running) - 601_000)),
    ("a clock ahead", "AUTHOR_CLOCK", lambda person: person.grant(time_ms=now_ms(person.running) + 601_000)),
    ("the last of all clocks", "AUTHOR_CLOCK", lambda person: person.grant(time_ms=(1 << 63) - 1)),
    ("an attestation", "INVALID_REQUEST", _attested),
    ("a field of a later version", "UNKNOWN_FIELD", _foreign_field),
    ("payload, one bit", "BAD_SIGNATURE", _tampered(payload=lambda payload: payload[:-1] + bytes([payload[-1] ^ 1]))),
    ("payload, none", "BAD_SIGNATURE", _tampered(payload=b"")),
    ("payload, no message", "INVALID_REQUEST", _tampered(payload=b"\xff")),
    ("signature, one bit", "BAD_SIGNATURE", _tampered(signature=lambda old: bytes([old[0] ^ 1]) + old[1:])),
    ("signature, none", "BAD_SIGNATURE", _tampered(signature=b"")),
    ("signature, longer", "BAD_SIGNATURE", _tampered(signature=lambda old: old + b"\0")),
    ("key, none", "BAD_SIGNATURE", _tampered(key=b"")),
    ("key, longer", "BAD_SIGNATURE", _tampered(key=lambda old: old + b"\0")),
    ("key of small order", "BAD_SIGNATURE", _tampered(key=b"\x01" + bytes(31), signature=b"\x01" + bytes(63))),
    ("author_time_ms", "BAD_SIGNATURE", _tampered(author_time_ms=lambda old: old + 1)),
    ("author_time_ms, before 1970", "BAD_SIGNATURE", _tampered(author_time_ms=-1)),
    ("ref", "BAD_SIGNATURE", _tampered(ref=1)),
]


@pytest.mark.parametrize(("reason", "attack"), [one[1:] for one in ATTACKS], ids=[one[0] for one in ATTACKS])
def test_a_statement_that_its_author_did_not_sign_so_is_refused(
    running: Running, reason: str, attack: Callable[[Person], Any]
) -> None:
    person = Person(running)
    assert refusal(lambda: attack(person)) == reason
    assert person.grant().version == 1


def test_a_repeat_is_recognised_whatever_the_clock_says_by_then(tmp_path: Path) -> None:
    clock = FakeClock()
    running = make_running(tmp_path, daemon={"clock": clock})
    person, request = Person(running), request_id()
    signed = person.sign(EntryKind.GRANT, st.GrantStatement(consent=consent()), request)
    first = person.send(signed, request)
    clock.advance(3_600_000)
    again = person.send(signed, request)
    assert (again.receipt.replayed, again.consent_id) == (True, first.consent_id)
    assert refusal(lambda: person.grant(time_ms=signed.author_time_ms)) == "AUTHOR_CLOCK"
    running.stop()


def test_a_participant_signs_its_outcomes_while_its_key_is_in_force(running: Running, subject: pb.Subject) -> None:
    key = KeyPair(new_number().to_bytes(32))
    add_key(running, "clinic-b", key)
    running.grant(subject)
    answer = running.authorize(question(subject), "clinic-b")
    seq, tag = answer.access_seq, answer.decision.tag

    def send(who: str = "clinic-b", message: Any = None, ref: int = seq) -> pb.Receipt:
        request = request_id()
        signed = sign_statement(
            key,
            message or st.OutcomeStatement(status=st.TRANSFER_STATUS_RECEIVED),
            kind=EntryKind.OUTCOME,
            tag=tag,
            request=request,
            time_ms=now_ms(running),
            ref=ref,
        )
        return record(running, subject, seq, who, request_id=request, signed=signed)

    assert event_of(send()).kind == EntryKind.OUTCOME
    assert refusal(lambda: send("hospital-a")) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: send(ref=2)) == "REF_MOVED"
    claims = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, attestation=st.Attestation(attested_by="er"))
    assert refusal(lambda: send(message=claims)) == "INVALID_REQUEST"
    retire_key(running, "clinic-b", key.public_key)
    assert refusal(send) == "KEY_NOT_IN_FORCE"


def test_an_asker_signs_its_question(running: Running, subject: pb.Subject) -> None:
    key = KeyPair(new_number().to_bytes(32))
    add_key(running, "clinic-b", key)
    running.grant(subject)
    tag = running.check(question(subject)).tag

    def send(who: str = "clinic-b", tag: bytes = tag, **changed: Any) -> ac.AuthorizeAccessResponse:
        request = request_id()
        signed = sign_statement(
            key, question(subject), kind=codec.QUESTION_KIND, tag=tag, request=request, time_ms=now_ms(running)
        )
        asked = ac.SignedQuestion(
            question=signed.payload,
            key=signed.key,
            signature=signed.signature,
            author_time_ms=signed.author_time_ms,
            tag=tag,
        )
        for name, value in changed.items():
            setattr(asked, name, value)
        write = ac.AuthorizeAccessRequest(request_id=request, signed_question=asked)
        return running.access.AuthorizeAccess(write, metadata=running.as_(who))

    receipt = send().receipt
    services(running).sequencer.checkpoints.wait(receipt.index + 1, HANG_S)
    request = ls.ListEntriesRequest(start_index=receipt.index, page_size=1)
    opened = running.ledger.ListEntries(request, metadata=running.as_(add_reader(running)))
    payload = codec.decode_statement(opened.entries[0].opening.statement).payload
    assert st.AccessStatement.FromString(payload).asked.key == key.public_key
    assert refusal(lambda: send("hospital-a")) == "KEY_NOT_IN_FORCE"
    assert refusal(lambda: send(question=question(subject, holder="er").SerializeToString())) == "BAD_SIGNATURE"
    # A signed question without a signature is no question of anybody's, and must not be recorded beside a key.
    assert refusal(lambda: send(signature=b"")) == "BAD_SIGNATURE"
    assert refusal(lambda: send(author_time_ms=-1)) == "BAD_SIGNATURE"
    assert refusal(lambda: send(question=b"\xff")) == "INVALID_REQUEST"


# -- proofs --------------------------------------------------------------------------------------------------------


def verifier(running: Running) -> Any:
    return read_signing_key(running.config.keys.log_key_file).verifier


def test_a_published_receipt_verifies_offline(running: Running, subject: pb.Subject) -> None:
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject,
        attested=st.GrantStatement(consent=consent()), wait_for=pb.WAIT_FOR_PUBLISHED
    )
    receipt = running.consents.GrantConsent(request, metadata=running.as_("app")).receipt
    assert receipt.published
    point = checkpoint.verify_proof(
        receipt.proof, leaf_hash=merkle.leaf_hash(receipt.leaf), origin=ORIGIN, log_verifier=verifier(running)
    )
    assert point.size > receipt.index
    get = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
    get.leaf = receipt.leaf
    again = running.ledger.GetReceipt(get).receipt  # no credential: a caller that has the leaf gets it back
    checkpoint.verify_proof(
        again.proof, leaf_hash=merkle.leaf_hash(again.leaf), origin=ORIGIN, log_verifier=verifier(running)
    )
    get.leaf = receipt.leaf[:-1] + b"\1"
    assert refusal(lambda: running.ledger.GetReceipt(get)) == "NOT_FOUND"
    assert refusal(lambda: running.ledger.GetReceipt(ls.GetReceiptRequest(index=1 << 40))) == "NOT_FOUND"


def test_a_call_waits_no_longer_than_its_deadline_allows() -> None:
    for remaining, waits in ((None, 30), (60.0, 30), (10.0, 9.95), (0.01, 0)):
        context = SimpleNamespace(time_remaining=lambda remaining=remaining: remaining)
        assert servicer.remaining_s(context) == waits


def test_waits_for_publication_hold_up_no_check_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    running = make_running(tmp_path, daemon={"clock": clock})
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    wait = ac.AuthorizeAccessRequest(question=question(subject), wait_for=pb.WAIT_FOR_PUBLISHED)
    wait.request_id = request_id()
    monkeypatch.setattr(servicer, "MAX_WAIT_S", 0.1)
    late = running.access.AuthorizeAccess(wait, metadata=running.as_("app")).receipt
    assert (late.published, late.proof) == (False, b"")
    monkeypatch.setattr(servicer, "MAX_WAIT_S", HANG_S)
    waiting, some_done = [], threading.Semaphore(0)
    for _ in range(80):  # more than there are threads to wait on
        wait.request_id = request_id()
        waiting.append(running.access.AuthorizeAccess.future(wait, metadata=running.as_("app")))
        waiting[-1].add_done_callback(lambda _: some_done.release())
    for _ in range(50):
        assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    assert len(batch(running, questions=[question(subject)] * 1000)) == 1000
    assert not any(one.done() for one in waiting)
    while not all(one.done() for one in waiting):  # those behind the first 64 wait for a checkpoint of their own
        clock.advance(1_000)
        assert some_done.acquire(timeout=HANG_S)
    assert all(one.result().receipt.published for one in waiting)
    get = ls.GetReceiptRequest(index=late.index, leaf=late.leaf)
    receipt = running.ledger.GetReceipt(get).receipt
    checkpoint.verify_proof(
        receipt.proof, leaf_hash=merkle.leaf_hash(late.leaf), origin=ORIGIN, log_verifier=verifier(running)
    )
    running.stop()


def test_inclusion_and_consistency_verify(running: Running, subject: pb.Subject) -> None:
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject,
        attested=st.GrantStatement(consent=consent()), wait_for=pb.WAIT_FOR_PUBLISHED
    )
    receipt = running.consents.GrantConsent(request, metadata=running.as_("app")).receipt
    index = receipt.index
    latest = running.ledger.GetInclusionProof(ls.GetInclusionProofRequest(index=index)).revision.tree_size
    for size in {index + 1, latest - 1, latest} - {index}:
        found = running.ledger.GetInclusionProof(ls.GetInclusionProofRequest(index=index, tree_size=size))
        merkle.verify_inclusion(
            found.hashes,
            index=index,
            size=size,
            leaf_hash=receipt.leaf_hash,
            root=found.revision.root_hash,
        )
    for first in {1, 2, 3, index, latest}:
        request = ls.GetConsistencyProofRequest(first_tree_size=first, second_tree_size=latest)
        proof = running.ledger.GetConsistencyProof(request)
        merkle.verify_consistency(
            proof.hashes,
            size1=first,
            root1=proof.first.root_hash,
            size2=latest,
            root2=proof.second.root_hash,
        )
    wrong: list[Callable[[], Any]] = [
        lambda: running.ledger.GetInclusionProof(ls.GetInclusionProofRequest(index=5, tree_size=5)),
        lambda: running.ledger.GetInclusionProof(ls.GetInclusionProofRequest(index=(1 << 64) - 1)),
        lambda: running.ledger.GetConsistencyProof(ls.GetConsistencyProofRequest()),
        lambda: running.ledger.GetConsistencyProof(
            ls.GetConsistencyProofRequest(first_tree_size=4, second_tree_size=3)
        ),
    ]
    for call in wrong:
        assert refusal(call) == "INVALID_REQUEST"
    later = ls.GetInclusionProofRequest(index=0, tree_size=1 << 60)
    assert refusal(lambda: running.ledger.GetInclusionProof(later)) == "REVISION_NOT_REACHED"


def test_an_auditor_sees_what_the_mandate_covers_and_how_much_it_does_not(
    running: Running, subject: pb.Subject
) -> None:
    running.grant(subject)
    running.wait_published()

    def read(who: str, **more: Any) -> ls.ListEntriesResponse:
        return running.ledger.ListEntries(ls.ListEntriesRequest(**more), metadata=running.as_(who))

    page, whole = read("pipc"), read(add_reader(running))
    assert [one.leaf for one in page.entries] == [one.leaf for one in whole.entries][: len(page.entries)]
    closed = [one for one in page.entries if not one.HasField("opening")]
    assert page.withheld_count == len(closed) > 0
    public = {codec.public_tag("ledger"), codec.public_tag("participant/app"), codec.public_tag("rules/realm")}
    assert public <= {codec.decode_leaf(one.leaf).tag for one in page.entries if one.HasField("opening")}
    assert whole.withheld_count == 0
    for one in whole.entries:
        assert codec.commit(one.opening.salt, one.opening.statement) == codec.decode_leaf(one.leaf).commit
    grants = read("pipc", kinds=[st.ENTRY_KIND_GRANT])
    assert {codec.decode_leaf(one.leaf).kind for one in grants.entries} == {EntryKind.GRANT}
    assert grants.withheld_count == len(grants.entries) > 0
    leaves = running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=running.as_("pipc"))
    first = running.ledger.GetInclusionProof(ls.GetInclusionProofRequest(index=0))
    merkle.verify_inclusion(
        first.hashes, index=0, size=first.revision.tree_size, leaf_hash=merkle.leaf_hash(leaves.leaves[0]),
        root=first.revision.root_hash,
    )  # fmt: skip
    earlier = running.ledger.ListLeaves(ls.ListLeavesRequest(start_index=1 << 60), metadata=running.as_("pipc"))
    assert (list(earlier.leaves), earlier.next_page_token) == ([], "")
    for who in ("app", "hospital-a"):
        assert refusal(lambda who=who: read(who)) == "CALLER_NOT_ALLOWED"


def history_of(running: Running, who: str | None = None, **fields: Any) -> history.HistoryProof:
    metadata = None if who is None else running.as_(who)
    return collect_proof(running.ledger.GetHistory(ls.GetHistoryRequest(**fields), metadata=metadata))


def verified(running: Running, proof: history.HistoryProof) -> list[tuple[str, int]]:
    """Verify a proof; return the public name of each chain and how many entries it has."""
    sealed = history.verify_sealed_checkpoint(proof, origin=ORIGIN, log_verifier=verifier(running), held=None)
    return [(chain.public_name, len(history.verify_chain(chain, sealed=sealed))) for chain in proof.chains]


def test_a_history_comes_in_order_and_verifies(running: Running) -> None:
    key = KeyPair(new_number().to_bytes(32))
    add_key(running, "clinic-b", key)
    person = Person(running)
    person.grant()
    answer = running.authorize(question(person.subject), "clinic-b")
    request = request_id()
    signed = sign_statement(
        key,
        st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT),
        kind=EntryKind.OUTCOME,
        tag=person.tag,
        request=request,
        time_ms=now_ms(running),
        ref=answer.access_seq,
    )
    receipt = record(running, person.subject, answer.access_seq, request_id=request, signed=signed)
    services(running).sequencer.checkpoints.wait(receipt.index + 1, HANG_S)
    chains = verified(running, history_of(running, "app", subject=person.subject))
    assert chains[0] == ("", 5)
    # The chains of those whose keys signed it come along: the daemon's, and the clinic's.
    assert {name for name, _ in chains[1:]} == {"ledger", "participant/clinic-b"}
    latest = running.ledger.GetCheckpoint(ls.GetCheckpointRequest()).checkpoint
    point, _ = checkpoint.open_checkpoint(latest, ORIGIN, verifier(running))
    later = history_of(running, "app", subject=person.subject, known_count=3, known_tree_size=point.size)
    assert (later.chains[0].first_seq, len(later.chains[0].entries)) == (4, 2)
    # The proof of absence shows the key of another chain, so a name that a caller makes up has none.
    for who in (None, "clinic-b"):
        assert refusal(lambda who=who: history_of(running, who, public_name="participant/nobody")) == "NOT_FOUND"
    nobody = history_of(running, "pipc", public_name="participant/nobody")
    assert verified(running, nobody)[0] == ("participant/nobody", 0)
    assert verified(running, history_of(running, public_name="ledger"))[0] == ("ledger", 1)


def test_a_history_is_for_those_who_may_see_it(running: Running, subject: pb.Subject) -> None:
    running.wait_published()

    def read(who: str | None = "app", **fields: Any) -> Any:
        return history_of(running, who, **fields)

    assert refusal(lambda: read(None, subject=subject)) == "UNAUTHENTICATED"
    assert refusal(lambda: read("clinic-b", subject=subject)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: read(subject=pb.Subject(scheme="mhid", value="SYN-999999"))) == "SUBJECT_NOT_FOUND"
    assert refusal(read) == "INVALID_REQUEST"
    for fields in ({"known_count": 99}, {"known_count": (1 << 64) - 1}, {"known_tree_size": 1 << 50}):
        assert refusal(lambda fields=fields: read(subject=subject, **fields)) == "AHEAD_OF_LEDGER"


@dataclass
class Call:
    """A call by the app, as a handler sees it."""

    caller: str = "app"
    person: None = None
    roles: frozenset[OperatorRole] = frozenset()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float | None:
        return None

    def is_active(self) -> bool:
        return True

    def on_cancel(self, run: Callable[[], None]) -> None:
        """Nobody cancels the call."""

    def give_way(self) -> None:
        """There are no other calls."""

    def is_known(self) -> bool:
        return True

    def begin_wait(self) -> bool:
        return True


@pytest.mark.parametrize("ends", ["active", "rights"])
def test_a_reader_that_loses_its_right_gets_no_further_part(
    running: Running, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    subject = running.enrol(new_identifier())
    for _ in range(5):
        running.grant(subject)
    running.wait_published()
    monkeypatch.setattr(proofs, "CHUNK_BYTES", 1)  # one entry a message
    service = proofs.LedgerService(running.daemon.service_state)

    def stream(**chain: Any) -> Iterator[ls.GetHistoryResponse]:
        return iter(service.GetHistory(ls.GetHistoryRequest(**chain), Call()))

    whole = list(stream(subject=subject))
    assert len(whole) > 8
    started, public = stream(subject=subject), stream(public_name="participant/app")
    assert [next(started).WhichOneof("piece") for _ in range(4)] == ["head", "chain", "entries", "entries"]
    next(public)
    app = running.registry.GetParticipant(
        rs.GetParticipantRequest(participant_id="app"), metadata=running.as_("operator")
    ).participant
    changed = st.ParticipantStatement()
    app.ClearField("attestation")
    changed.CopyFrom(app)
    if ends == "active":
        changed.active = False
    else:
        del changed.rights[:]

    def register(statement: st.ParticipantStatement) -> None:
        request = rs.RegisterParticipantRequest(request_id=request_id(), attested=statement)
        running.registry.RegisterParticipant(request, metadata=running.as_("operator"))

    register(changed)
    try:
        with pytest.raises(EndedCallError) as caught:
            next(started)
        assert caught.value.status.code is grpc.StatusCode.PERMISSION_DENIED
        assert list(public)  # everybody may read public chains
    finally:
        register(app)
    assert len(list(stream(subject=subject))) >= len(whole)


def test_a_reader_whose_credential_is_removed_gets_no_further_part(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = running.enrol(new_identifier())
    running.wait_published()
    removed, tokens = threading.Event(), running.config.callers.credentials_file
    operator = Client("", token=running.tokens["operator"], channel=running.channel)
    whole = proofs.LedgerService._history

    def slow(self: proofs.LedgerService, *arguments: Any) -> Iterator[ls.GetHistoryResponse]:
        for number, message in enumerate(whole(self, *arguments)):
            assert number == 0 or removed.wait(HANG_S)
            yield message

    monkeypatch.setattr(proofs.LedgerService, "_history", slow)

    def read(token: str, **chain: Any) -> Iterator[ls.GetHistoryResponse]:
        metadata = (("authorization", f"Bearer {token}"),)
        return iter(running.ledger.GetHistory(ls.GetHistoryRequest(**chain), metadata=metadata, timeout=HANG_S))

    token = make_token()
    write_private(tokens, format_credential(token, "app"), append=True)
    running.daemon.reload_credentials()
    streams = [
        read(token, subject=subject), read(running.tokens["app"], subject=subject), read(token, public_name="ledger")
    ]  # fmt: skip
    added = operator.add_credential("app")
    revoked = read(added.token, subject=subject)
    assert [next(stream).WhichOneof("piece") for stream in (*streams, revoked)] == ["head"] * 4
    kept = [line for line in tokens.read_text().splitlines() if line != format_credential(token, "app").strip()]
    tokens.write_text("\n".join([*kept, ""]))
    running.daemon.reload_credentials()
    operator.revoke_credential(added.credential.credential_id)
    removed.set()
    for stream in (streams[0], revoked):
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
    assert all(list(stream) for stream in streams[1:])  # another credential of the caller, and a public chain
