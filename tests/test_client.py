"""The Python client: against a real daemon, and against daemons that lie, fail or forget."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import consentd_client
from cases.daemons import Running, consent, make_running, question
from cases.reference_tree import Naive
from consentd.core import bucketed, checkpoint, codec, merkle, note
from consentd.core.kinds import EntryKind
from consentd.errors import (
    ConflictError,
    ConsentdError,
    CorruptionError,
    DeniedError,
    InvalidError,
    MalformedError,
    NotFoundError,
    OverloadedError,
    ProofError,
    SignatureError,
    StorageError,
    VerificationError,
)
from consentd.server.keys import read_keys
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import error_reason_pb2 as er
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import (
    AsyncClient,
    Client,
    FileMemory,
    History,
    KeyPair,
    RamMemory,
    StatementSigner,
    Subject,
    Tls,
    TransferOutcome,
    Trust,
    ledger,
    operations,
    pin,
    policy,
    rpcs,
    transport,
    verify_receipt,
)
from consentd_client.base import ClientBase, ListMethod, Method

SENT = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, categories=["CLIN.DX"], resource_count=3)


# -- a real daemon ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = make_running(tmp_path_factory.mktemp("client"), checkpoint_interval_ms=10)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def trust(running: Running) -> Trust:
    return pin(note.format_vkey(read_keys(running.config).log.verifier))


@pytest.fixture
def client(running: Running, trust: Trust) -> Iterator[Client]:
    with connected(running, trust) as client:
        yield client


def connected(running: Running, trust: Trust | None, who: str = "app", **options: Any) -> Client:
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return Client(target, token=running.tokens[who], trust=trust, **options)


class Numbered:
    """Gives each test persons of its own."""

    count = 0


@pytest.fixture
def person() -> Subject:
    Numbered.count += 1
    return Subject(scheme="mhid", value=f"MH-{Numbered.count:04}")


def settled(client: Client, subject: Subject, **more: Any) -> History:
    """Read a history that reaches up to now: the next receipt with a proof says that a seal came after."""
    receipt = client.authorize_access(question(subject), published=True).receipt
    assert receipt is not None
    assert receipt.checkpoint is not None
    return client.history(subject, **more)


def test_life_of_a_consent(client: Client, person: Subject) -> None:
    enrolled = client.enrol(person, method="test")
    granted = client.grant(person, consent(), published=True)
    assert granted
    assert granted.receipt.checkpoint is not None
    assert client.check(question(person))
    answer = client.authorize_access(question(person))
    assert answer
    assert answer.access_seq == 3
    receipt = client.record_access(person, answer.access_seq, SENT)
    assert receipt.kind == EntryKind.OUTCOME
    proven = client.get_receipt(receipt)
    assert proven.checkpoint is not None
    assert proven.index == receipt.index
    amended = client.amend(person, granted.consent_id, consent(categories=["CLIN.DX"]), based_on_version=1)
    assert (bool(amended), amended.version) == (True, 2)
    client.pause(person, granted.consent_id)
    assert client.check(question(person)).outcome == pb.OUTCOME_NO_CONSENT
    client.resume(person, granted.consent_id)
    assert client.check(question(person))
    client.revoke(person, granted.consent_id, note="enough")
    assert not client.check(question(person))
    assert client.get_consent(person, granted.consent_id).state == cs.CONSENT_STATE_REVOKED
    assert list(client.list_consents(person)) == []
    assert [record.version for record in client.list_consents(person, include_revoked=True)] == [2]
    accesses = list(client.list_accesses(person))
    assert [(access.seq, access.refused, len(access.outcomes)) for access in accesses] == [(3, False, 1)]
    found = settled(client, person, tag=enrolled.tag)
    assert [entry.kind_name for entry in found.entries] == [
        "ENROL", "GRANT", "ACCESS", "OUTCOME", "AMEND", "PAUSE", "RESUME", "REVOKE", "REFUSAL",
    ]  # fmt: skip
    assert {entry.author for entry in found.entries} == {"ledger"}
    assert [entry.attested_by for entry in found.entries[:2]] == ["app", "app"]
    assert (found.is_absent, found.is_erased, found.unread) == (False, False, ())
    assert str(found.entries[2]).startswith("#3 ")
    assert "hospital-a → clinic-b, TREAT, disclose, CLIN.DX" in str(found.entries[2])
    assert "철회: #2 “enough”" in found.entries[7].line("ko")
    said = replace(found.entries[7], message=st.RevokeStatement(lineage_seq=2, note="\x1b[2J\n#9 GRANT\u202e"))
    assert "“\\u001b[2J\\u000a#9 GRANT\\u202e”" in said.line("en")  # nobody else writes a line of it


def test_the_same_life_in_asyncio(running: Running, trust: Trust, person: Subject) -> None:
    async def live() -> list[Any]:
        target = f"127.0.0.1:{running.daemon.grpc_port}"
        async with AsyncClient(target, token=running.tokens["app"], trust=trust) as client:
            await client.enrol(person)
            granted = await client.grant(person, consent())
            found: list[Any] = [bool(await client.check(question(person)))]
            answer = await client.authorize_access(question(person), published=True)
            found.append([record.consent_id async for record in client.list_consents(person)] == [granted.consent_id])
            found.append([entry.kind_name for entry in (await client.history(person)).entries])
            found.append(answer.receipt is not None and answer.receipt.checkpoint is not None)
            with pytest.raises(NotFoundError):
                await client.get_consent(person, "00" * 16)
            found.append(bool(await client.within(5.0).check(question(person))))
        found.append((await client.check(question(person))).outcome_name)
        return found

    assert asyncio.run(live()) == [True, True, ["ENROL", "GRANT", "ACCESS"], True, True, "INDETERMINATE"]


def test_both_clients_have_the_same_methods_texts_and_arguments() -> None:
    table = {name: value for name, value in vars(ClientBase).items() if isinstance(value, Method | ListMethod)}
    assert len(table) >= 30
    for kind in (Client, AsyncClient):
        assert not vars(kind).keys() & table.keys()  # neither client replaces one
        assert "Raises:" in (inspect.getdoc(kind.grant) or "")
        assert str(inspect.signature(kind.list_consents)).startswith("(context: ")


def test_every_remote_procedure_is_one_of_the_contract() -> None:
    named = {name: value for name, value in vars(rpcs).items() if isinstance(value, operations.Rpc)}
    assert len({rpc.path for rpc in named.values()}) == len(named) >= 30
    files = [ac, cs, ls, ps, rs]
    services = {service.full_name: service for file in files for service in file.DESCRIPTOR.services_by_name.values()}
    for rpc in named.values():
        service, _, method = rpc.path.removeprefix("/").partition("/")
        found = services[service].methods_by_name[method]
        assert (found.input_type, found.output_type) == (rpc.request.DESCRIPTOR, rpc.response.DESCRIPTOR)


def test_batches_answer_each_by_itself(client: Client, person: Subject) -> None:
    client.enrol(person)
    client.grant(person, consent())
    asked = [question(person), question(person, purpose="NOPE"), question(person, holder="clinic-b")]
    found = client.batch_check(asked)
    assert [answer.outcome_name for answer in found] == ["PERMIT", "INDETERMINATE", "NO_CONSENT"]
    assert isinstance(found[1].error, InvalidError)
    assert found[1].error.reason == "UNKNOWN_PURPOSE"
    shared = question(person)
    shared.ClearField("subject")
    assert [bool(answer) for answer in client.check_subjects(shared, [person, Subject(scheme="mhid", value="-")])] == [
        True, False,
    ]  # fmt: skip
    answers = client.batch_authorize(asked)
    assert [bool(answer) for answer in answers] == [True, False, False]
    receipts = client.batch_record([TransferOutcome(person, answers[0].access_seq, SENT)] * 1, published=True)
    assert [receipt.event.ref for receipt in receipts] == [answers[0].access_seq]
    assert client.batch_check([]) == client.batch_authorize([]) == client.batch_record([]) == ()


def test_a_person_signs_with_their_own_key(client: Client, trust: Trust, person: Subject) -> None:
    key = KeyPair(b"\x31" * 32)
    enrolled = client.enrol(person, subject_key=key.public_key)
    signer = StatementSigner(key=key, origin=trust.origin, tag=enrolled.tag)
    granted = client.grant(person, consent(), signer=signer)
    wider = consent(categories=["CLIN", "INS"])
    assert client.amend(person, granted.consent_id, wider, based_on_version=1, signer=signer)
    client.pause(person, granted.consent_id, signer=signer)
    client.resume(person, granted.consent_id, signer=signer)
    client.revoke(person, granted.consent_id, note="mine", signer=signer)
    found = settled(client, person, tag=enrolled.tag)
    assert [(entry.kind_name, entry.author) for entry in found.entries[1:7]] == [
        ("KEY", "ledger"), ("GRANT", "subject"), ("AMEND", "subject"), ("PAUSE", "subject"),
        ("RESUME", "subject"), ("REVOKE", "subject"),
    ]  # fmt: skip
    assert {entry.attested_by for entry in found.entries[2:7]} == {""}


def test_a_signature_for_another_chain_or_by_a_stranger_is_refused(
    client: Client, trust: Trust, person: Subject
) -> None:
    key = KeyPair(b"\x32" * 32)
    enrolled = client.enrol(person, subject_key=key.public_key)
    for signer in (
        StatementSigner(key=key, origin=trust.origin, tag=b"\x01" * 32),
        StatementSigner(key=key, origin="another", tag=enrolled.tag),
        StatementSigner(key=KeyPair(b"\x33" * 32), origin=trust.origin, tag=enrolled.tag),
    ):
        with pytest.raises((InvalidError, ConflictError)):
            client.grant(person, consent(), signer=signer)
    granted = client.grant(person, consent())
    stranger = StatementSigner(key=key, origin=trust.origin, tag=b"\x01" * 32)
    with pytest.raises(ProofError, match="another lineage"):
        client.revoke(person, granted.consent_id, signer=stranger)
    with pytest.raises(InvalidError, match="over its limit"):
        client.grant(
            person,
            consent(resources=["Observation/" + "x" * 60] * 300),
            signer=StatementSigner(key=key, origin=trust.origin, tag=enrolled.tag),
        )


def test_a_participant_signs_questions_and_outcomes(running: Running, trust: Trust, person: Subject) -> None:
    key = KeyPair(b"\x34" * 32)
    with connected(running, trust, "operator") as operator:
        operator.add_key("clinic-b", key.public_key)
        assert key.public_key in operator.get_participant("clinic-b").keys
    with connected(running, trust) as app:
        tag = app.enrol(person).tag
        app.grant(person, consent())
    signer = StatementSigner(key=key, origin=trust.origin, tag=tag)
    with connected(running, trust, "clinic-b") as clinic:
        answer = clinic.authorize_access(question(person), signer=signer)
        assert answer
        clinic.record_access(person, answer.access_seq, SENT, signer=signer, published=True)
    with connected(running, trust) as app:
        outcome = app.history(person).entries[-1]
    assert (outcome.kind_name, outcome.author) == ("OUTCOME", "participant/clinic-b")


def test_a_grant_that_lacks_items_is_refused_as_an_answer(client: Client, person: Subject) -> None:
    client.enrol(person)
    refused = client.grant(person, consent(kind=pb.CONSENT_KIND_TRANSFER_REQUEST))
    assert not refused
    assert refused.refused is not None
    assert refused.refused.reason == st.REFUSAL_REASON_R05_UNSPECIFIED_ITEMS
    assert (refused.consent_id, refused.version, refused.receipt.kind) == ("", 0, EntryKind.REFUSAL)


def test_a_repeat_gets_the_first_receipt(client: Client, person: Subject) -> None:
    client.enrol(person)
    request_id = consentd_client.new_request_id()
    first = client.grant(person, consent(), request_id=request_id)
    second = client.grant(person, consent(), request_id=request_id)
    assert (first.receipt.index, second.receipt.index) == (first.receipt.index,) * 2
    assert (first.receipt.replayed, second.receipt.replayed) == (False, True)
    with pytest.raises(ConflictError) as caught:
        client.grant(person, consent(categories=["INS"]), request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_errors_come_back_as_what_they_were(running: Running, client: Client, person: Subject) -> None:
    cases: list[tuple[Callable[[], object], type[ConsentdError], str]] = [
        (lambda: client.history(person), NotFoundError, "SUBJECT_NOT_FOUND"),
        (lambda: client.check_or_raise(question(person, purpose="NOPE")), InvalidError, "UNKNOWN_PURPOSE"),
        (lambda: client.enrol(Subject(scheme="rrn", value="1")), InvalidError, "INVALID_IDENTIFIER"),
        (lambda: client.register_participant(st.ParticipantStatement(
            participant_id="x", name=st.Text(en="x"), roles=[1])), DeniedError, "CALLER_NOT_ALLOWED"),
        (lambda: client.get_notice("none"), NotFoundError, "NOT_FOUND"),
    ]  # fmt: skip
    for call, kind, reason in cases:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.reason == reason
    client.enrol(person)
    with pytest.raises(ConflictError):
        client.enrol(person)
    ahead = question(person, consistency=pb.Consistency(at_least_tree_size=1 << 40))
    with pytest.raises(OverloadedError) as late:
        client.check_or_raise(ahead)
    assert late.value.reason == "REVISION_NOT_REACHED"
    with Client(f"127.0.0.1:{running.daemon.grpc_port}", token="nobody") as stranger:
        with pytest.raises(DeniedError) as unknown:
            stranger.get_rules()
        assert unknown.value.reason == "UNAUTHENTICATED"
        assert stranger.check(question(person)).outcome_name == "INDETERMINATE"


def test_the_registry(running: Running, trust: Trust) -> None:
    with connected(running, trust, "operator") as client:
        vocabulary = client.get_vocabulary()
        vocabulary.version += 1
        vocabulary.ClearField("attestation")
        assert client.publish_vocabulary(vocabulary).kind == EntryKind.VOCABULARY
        rules = client.get_rules()
        rules.version += 1
        rules.ClearField("attestation")
        assert client.publish_rules(rules).kind == EntryKind.RULES
        notice = st.NoticeStatement(notice_id="n1", version=1, title=st.Text(ko="고지"), content_sha256=b"\x01" * 32)
        client.publish_notice(notice)
        assert client.get_notice("n1").title.ko == "고지"
        key = KeyPair(b"\x35" * 32).public_key
        client.add_key("hospital-a", key)
        client.retire_key("hospital-a", key, published=True)
        assert list(client.get_participant("hospital-a").keys) == []
        assert "hospital-a" in {one.participant_id for one in client.list_participants()}
        found = client.public_history("participant/hospital-a")
        assert [entry.kind_name for entry in found.entries] == ["PARTICIPANT", "KEY", "KEY"]
        assert client.public_history("notice/never").is_absent
        (leaf_0,) = client.public_history("ledger").entries
        assert f"ledger: {trust.origin}" in str(leaf_0)
        assert client.public_history("rules/realm").entries[-1].message == running_rules(rules)
        with pytest.raises(InvalidError):
            client.public_history("")


def running_rules(rules: st.RulesStatement) -> st.RulesStatement:
    published = st.RulesStatement()
    published.CopyFrom(rules)
    published.attestation.attested_by = "operator"
    return published


def test_only_the_new_is_asked_for_and_the_whole_returned(
    running: Running, trust: Trust, person: Subject, tmp_path: Path
) -> None:
    memory = FileMemory(tmp_path / "memory.json")
    with connected(running, trust, memory=memory) as client:
        client.enrol(person)
        first = settled(client, person)
        assert [entry.is_new for entry in first.entries] == [True, True]
    channel = Recording(grpc.insecure_channel(f"127.0.0.1:{running.daemon.grpc_port}"))
    with connected(running, trust, memory=memory, channel=channel) as client:
        client.grant(person, consent())
        second = settled(client, person)
    request = channel.requests["/consentd.v1.LedgerService/GetHistory"][-1]
    assert request.known_count == 2
    assert request.known_tree_size == first.checkpoint.size
    assert [entry.kind_name for entry in second.entries] == ["ENROL", "REFUSAL", "GRANT", "ACCESS"]
    assert [entry.is_new for entry in second.entries] == [False, False, True, True]
    assert [entry.seq for entry in second.new] == [3, 4]
    assert [entry.author for entry in second.entries] == ["ledger"] * 4


def test_checkpoints_are_held_against_the_one_remembered(running: Running, trust: Trust, person: Subject) -> None:
    with connected(running, trust) as client:
        client.enrol(person, published=True)
        first = client.get_checkpoint()
        assert client.get_checkpoint().size >= first.size
        client.grant(person, consent(), published=True)
        assert client.get_checkpoint().size > first.size
        forged = checkpoint.Checkpoint(trust.origin, first.size, b"\x07" * 32)
        client.context.memory.remember(checkpoint.sign_checkpoint(forged, [read_keys(running.config).log]))
    rolled = RamMemory()
    ahead = checkpoint.Checkpoint(trust.origin, 1 << 40, b"\x07" * 32)
    rolled.remember(checkpoint.sign_checkpoint(ahead, [read_keys(running.config).log]))
    with connected(running, trust, memory=rolled) as client:
        with pytest.raises(ProofError, match="smaller than the one remembered") as caught:
            client.get_checkpoint()
        assert any("checkpoint remembered" in text for text in caught.value.__notes__)
        with pytest.raises(ProofError, match="smaller than the one held"):
            client.history(person)
    forked = RamMemory()
    forked.remember(checkpoint.sign_checkpoint(forged, [read_keys(running.config).log]))
    with connected(running, trust, memory=forked) as client:
        with pytest.raises(ProofError):
            client.get_checkpoint()
        with pytest.raises(ProofError):
            client.history(person)
    foreign = RamMemory()
    stranger = note.Signer("stranger.test", KeyPair(b"\x09" * 32))
    foreign.remember(checkpoint.sign_checkpoint(checkpoint.Checkpoint("stranger.test", 9, b"\x07" * 32), [stranger]))
    with connected(running, trust, memory=foreign) as client, pytest.raises(InvalidError):
        client.get_checkpoint()


def test_receipts_verify_offline_and_only_as_they_are(client: Client, trust: Trust, person: Subject) -> None:
    receipt = client.enrol(person, published=True).receipt
    assert verify_receipt(receipt.leaf, receipt.proof, trust, index=receipt.index) == receipt.checkpoint
    bad_leaf = bytes([*receipt.leaf[:-1], receipt.leaf[-1] ^ 1])
    for call in (
        lambda: verify_receipt(bad_leaf, receipt.proof, trust),
        lambda: verify_receipt(receipt.leaf, receipt.proof, trust, index=receipt.index + 1),
        lambda: verify_receipt(receipt.leaf, receipt.proof, Trust("another", trust.log_key)),
        lambda: verify_receipt(receipt.leaf, receipt.proof, pin(note.Verifier(trust.origin, bytes(32)))),
        lambda: verify_receipt(receipt.leaf, b"", trust),
    ):
        with pytest.raises(VerificationError):
            call()


def test_nothing_shown_names_a_person(client: Client, person: Subject) -> None:
    enrolled = client.enrol(person, published=True)
    granted = client.grant(person, consent())
    answer = client.authorize_access(question(person))
    found = settled(client, person)
    signer = StatementSigner(key=KeyPair(b"\x01" * 32), origin="o", tag=enrolled.tag)
    told = TransferOutcome(person, 3, SENT)
    shown = repr((enrolled, granted, answer, found, found.entries, signer, told, client.context))
    shown += "".join(map(str, found.entries))
    tag = enrolled.tag
    assert person.value not in shown
    assert tag.hex() not in shown
    assert repr(tag)[2:-1] not in shown
    assert person.value not in ledger.memory_key(person)


# -- daemons that fail, or answer nonsense --------------------------------------------------------------------


class FakeRpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, reason: str = "", domain: str = "consentd") -> None:
        self._code, self._reason, self._domain = code, reason, domain

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "said so"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        if not self._reason:
            return ()
        found = status_pb2.Status(code=self._code.value[0])
        found.details.add().Pack(error_details_pb2.ErrorInfo(reason=self._reason, domain=self._domain))
        return (("grpc-status-details-bin", found.SerializeToString()),)


Answer = Any
UNAVAILABLE = FakeRpcError(grpc.StatusCode.UNAVAILABLE)


class Stream(list[Any]):
    """The answer of a streaming call."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeChannel:
    """Answers each call with the next of its answers; an exception is raised, a function asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.methods: list[str] = []

    def unary_unary(self, method: str, request_serializer: Any, response_deserializer: Any) -> Any:
        def call(request: Any, timeout: float, metadata: Any) -> Any:
            self.methods.append(method)
            self.requests.append(request_serializer(request))
            answer = self.answers.pop(0)
            if callable(answer):
                answer = answer(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    unary_stream = unary_unary

    def close(self) -> None:
        pass


class Recording:
    """A real channel, whose requests are kept by method."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.requests: dict[str, list[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        def make(method: str, **options: Any) -> Any:
            call = getattr(self._channel, name)(method, **options)

            def record(request: Any, **more: Any) -> Any:
                kept = type(request)()
                kept.CopyFrom(request)
                self.requests.setdefault(method, []).append(kept)
                return call(request, **more)

            return record

        return make

    def close(self) -> None:
        self._channel.close()


def faking(*answers: Answer, **options: Any) -> tuple[Client, FakeChannel]:
    channel = FakeChannel(*answers)
    return Client("fake", channel=channel, backoff_s=0, **options), channel  # type: ignore[arg-type]  # as much as is used


def decided(outcome: int, **fields: Any) -> ps.CheckResponse:
    return ps.CheckResponse(decision=pb.Decision(outcome=outcome, **fields))  # type: ignore[arg-type]  # also unknown ones


ASKED = question(Subject(scheme="mhid", value="MH-1"))
RESIDUAL = pb.ResidualRule(effect=pb.EFFECT_PERMIT, categories=["CLIN.DX"])
UNUSABLE = {
    "unavailable": [UNAVAILABLE] * 3,
    "deadline": [FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED)],
    "internal": [FakeRpcError(grpc.StatusCode.INTERNAL, "INTERNAL")],
    "cancelled": [FakeRpcError(grpc.StatusCode.CANCELLED)],
    "unimplemented": [FakeRpcError(grpc.StatusCode.UNIMPLEMENTED)],
    "corruption": [FakeRpcError(grpc.StatusCode.DATA_LOSS, "CORRUPTION")],
    "foreign error": [grpc.RpcError()],
    "closed channel": [ValueError("Cannot invoke RPC on closed channel!")],
    "no decision": [ps.CheckResponse()],
    "unspecified outcome": [decided(0, permitted=["CLIN.DX"])],
    "outcome of a later version": [decided(9, permitted=["CLIN.DX"])],
    "permit of nothing": [decided(pb.OUTCOME_PERMIT)],
    "permit and deny": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], denied=["CLIN.RX"])],
    "permit and without": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], without_consent=["CLIN.RX"])],
    "permit and unknown": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], unknown=["X"])],
    "partial of all": [decided(pb.OUTCOME_PARTIAL, permitted=["CLIN.DX"])],
    "unknown obligation": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=[77])],
    "residual not supported": [
        decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=[1], residual=[RESIDUAL])
    ],
    "residual without its obligation": [decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], residual=[RESIDUAL])],
}


@pytest.mark.parametrize("answers", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_check_fails_closed(answers: list[Answer]) -> None:
    client, _ = faking(*answers)
    found = client.check(ASKED)
    assert not found
    assert found.outcome == pb.OUTCOME_INDETERMINATE
    assert not found.decision.permitted
    assert found.error is not None
    client, _ = faking(*answers)
    with pytest.raises(ConsentdError):
        client.check_or_raise(ASKED)
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if not errors:
        client, _ = faking(ps.BatchCheckResponse(results=[ps.CheckResult(decision=answers[0].decision)]))
        (found,) = client.batch_check([ASKED])
        assert found.outcome == pb.OUTCOME_INDETERMINATE
    else:
        client, _ = faking(*answers)
        assert [one.outcome for one in client.batch_check([ASKED, ASKED])] == [pb.OUTCOME_INDETERMINATE] * 2


def test_what_a_check_means_is_left_as_it_is() -> None:
    for outcome, fields, permits in (
        (pb.OUTCOME_PERMIT, {"permitted": ["CLIN.DX"]}, True),
        (pb.OUTCOME_PARTIAL, {"permitted": ["CLIN.DX"], "denied": ["CLIN.RX"]}, False),
        (pb.OUTCOME_DENY, {"denied": ["CLIN.DX"]}, False),
        (pb.OUTCOME_NO_CONSENT, {"without_consent": ["CLIN.DX"]}, False),
        (pb.OUTCOME_INDETERMINATE, {"unknown": ["CLIN.DX"]}, False),
    ):
        client, _ = faking(decided(outcome, **fields))
        found = client.check(ASKED)
        assert (found.outcome, bool(found), found.error) == (outcome, permits, None)
    supporting = pb.Question()
    supporting.CopyFrom(ASKED)
    supporting.supported_obligations.append(pb.OBLIGATION_ENFORCE_RESIDUAL)
    answer = decided(pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], obligations=[1], residual=[RESIDUAL])
    client, _ = faking(answer)
    assert client.check(supporting)


def test_a_batch_of_another_length_is_no_answer() -> None:
    client, _ = faking(ps.BatchCheckResponse())
    assert [one.outcome for one in client.batch_check([ASKED])] == [pb.OUTCOME_INDETERMINATE]
    client, _ = faking(ps.BatchCheckResponse(results=[ps.CheckResult()]))
    assert [one.outcome for one in client.batch_check([ASKED])] == [pb.OUTCOME_INDETERMINATE]
    client, _ = faking(ac.BatchAuthorizeAccessesResponse())
    with pytest.raises(ProofError):
        client.batch_authorize([ASKED])
    client, _ = faking(ac.BatchRecordAccessesResponse())
    with pytest.raises(ProofError):
        client.batch_record([TransferOutcome(ASKED.subject, 3, SENT)])


def event_receipt(kind: int, *, seq: int = 3, tag: bytes = b"\x05" * 32, **fields: Any) -> pb.Receipt:
    leaf = codec.encode_event(
        codec.Event(kind, 1, tag, seq, codec.ZERO_HASH if seq == 1 else b"\x01" * 32, b"\x02" * 32, 0)
    )
    made = {"index": 7, "leaf": leaf, "leaf_hash": merkle.leaf_hash(leaf)}
    return pb.Receipt(**{**made, **fields})


PERMIT = pb.Decision(outcome=pb.OUTCOME_PERMIT, permitted=["CLIN.DX"])


def test_no_receipt_no_data() -> None:
    access = ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS), access_seq=3)
    client, _ = faking(access)
    assert client.authorize_access(ASKED)
    client, _ = faking(ac.AuthorizeAccessResponse(decision=PERMIT))
    found = client.authorize_access(ASKED)
    assert (bool(found), found.outcome_name, str(found.error)) == (False, "INDETERMINATE", "permit has no receipt")
    refusal = event_receipt(EntryKind.REFUSAL, replayed=True)
    client, _ = faking(ac.AuthorizeAccessResponse(decision=PERMIT, receipt=refusal, access_seq=3))
    assert not client.authorize_access(ASKED)
    denied = pb.Decision(outcome=pb.OUTCOME_DENY, denied=["CLIN.DX"])
    client, _ = faking(ac.AuthorizeAccessResponse(decision=denied))
    assert client.authorize_access(ASKED).outcome == pb.OUTCOME_DENY
    for bad in (
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.GRANT), access_seq=3),
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS), access_seq=4),
        ac.AuthorizeAccessResponse(decision=PERMIT, receipt=pb.Receipt(leaf=b"x"), access_seq=3),
        ac.AuthorizeAccessResponse(
            decision=PERMIT, receipt=event_receipt(EntryKind.ACCESS, leaf_hash=bytes(32)), access_seq=3
        ),
        FakeRpcError(grpc.StatusCode.DEADLINE_EXCEEDED),
    ):
        client, _ = faking(bad)
        with pytest.raises(ConsentdError):
            client.authorize_access(ASKED)


def test_answers_that_contradict_their_receipts_are_caught() -> None:
    person, given = ASKED.subject, consent()
    grant = event_receipt(EntryKind.GRANT)
    for call, answer in (
        (lambda c: c.grant(person, given), cs.GrantConsentResponse(receipt=grant, consent_id="00" * 16, version=1)),
        (lambda c: c.grant(person, given), cs.GrantConsentResponse(receipt=grant, refused=cs.Refused())),
        (lambda c: c.grant(person, given), cs.GrantConsentResponse(receipt=event_receipt(EntryKind.REFUSAL))),
        (lambda c: c.revoke(person, "00" * 16), cs.RevokeConsentResponse(receipt=grant)),
        (
            lambda c: c.amend(person, "00" * 16, given, based_on_version=1),
            cs.AmendConsentResponse(receipt=event_receipt(EntryKind.REFUSAL), version=2),
        ),
        (lambda c: c.enrol(person), rs.EnrolSubjectResponse(receipt=event_receipt(EntryKind.ENROL, seq=1))),
    ):
        client, _ = faking(answer)
        with pytest.raises(ProofError):
            call(client)


def test_a_repeat_is_the_very_same_request() -> None:
    done = cs.RevokeConsentResponse(receipt=event_receipt(EntryKind.REVOKE))
    client, channel = faking(UNAVAILABLE, UNAVAILABLE, done)
    client.revoke(ASKED.subject, "00" * 16)
    assert len(channel.requests) == 3
    assert len(set(channel.requests)) == 1
    assert len(cs.RevokeConsentRequest.FromString(channel.requests[0]).request_id) == 16


def test_only_an_unreached_daemon_is_asked_again() -> None:
    for code in grpc.StatusCode:
        if code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE):
            continue
        client, channel = faking(FakeRpcError(code))
        with pytest.raises(ConsentdError):
            client.get_rules()
        assert len(channel.requests) == 1
    client, channel = faking(*[UNAVAILABLE] * 3)
    with pytest.raises(StorageError) as caught:
        client.revoke(ASKED.subject, "00" * 16, request_id=b"\x0a" * 16)
    assert len(channel.requests) == 3
    assert caught.value.__notes__ == ["request_id: " + "0a" * 16]


def test_a_flow_says_when_to_pause() -> None:
    session = operations.ClientContext(
        trust=None, memory=RamMemory(), new_request_id=lambda: bytes(16), now_ms=lambda: 0, attempts=3, backoff_s=0.5
    )
    flow = policy.check(session, ASKED)
    assert isinstance(next(flow), operations.UnaryCall)
    assert flow.throw(operations.UnavailableError("nobody")) == operations.Sleep(0.5)
    assert isinstance(flow.send(None), operations.UnaryCall)
    assert flow.throw(operations.UnavailableError("nobody")) == operations.Sleep(1.0)
    assert isinstance(flow.send(None), operations.UnaryCall)
    with pytest.raises(StopIteration) as done:
        flow.throw(operations.UnavailableError("nobody"))
    assert done.value.value.outcome == pb.OUTCOME_INDETERMINATE


def test_a_deadline_covers_repeats() -> None:
    client, channel = faking(UNAVAILABLE, UNAVAILABLE)
    found = client.within(-1.0).check(ASKED)
    assert (found.outcome_name, channel.requests) == ("INDETERMINATE", [])
    assert isinstance(found.error, StorageError)


def test_statuses_and_item_errors_map_back() -> None:
    codes: dict[grpc.StatusCode, type[ConsentdError]] = {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.ABORTED: ConflictError,
        grpc.StatusCode.PERMISSION_DENIED: DeniedError,
        grpc.StatusCode.UNAUTHENTICATED: DeniedError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
        grpc.StatusCode.UNAVAILABLE: StorageError,
        grpc.StatusCode.DATA_LOSS: CorruptionError,
        grpc.StatusCode.INTERNAL: StorageError,
    }
    for code, kind in codes.items():
        error = transport.rpc_error(FakeRpcError(code, "CLOCK"))
        assert isinstance(error, kind)
        assert error.reason == "CLOCK"
        item = transport.item_error(er.ItemError(code=code.value[0], reason=er.ERROR_REASON_CLOCK, message="m"))
        assert type(item) is type(error)
    foreign = transport.rpc_error(FakeRpcError(grpc.StatusCode.NOT_FOUND, "CLOCK", domain="elsewhere"))
    assert foreign.reason == "NOT_FOUND"
    assert transport.item_error(er.ItemError(code=5, reason=999)).reason == "NOT_FOUND"  # type: ignore[arg-type]  # a later one
    large = transport.status_error(8, "CLIENT: Received message larger than max (9 vs. 4)", ())
    assert (type(large), large.reason) == (InvalidError, "TOO_LARGE")
    garbled = transport.status_error(5, "m", [("grpc-status-details-bin", b"\xff")])
    assert garbled.reason == "NOT_FOUND"


def test_a_token_is_not_sent_in_the_clear() -> None:
    for target in ("consent.example.org:7400", "dns:///10.0.0.1:7400", "127.0.0.1.example:7400"):
        with pytest.raises(InvalidError, match="needs TLS"):
            Client(target, token="t")
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "unix:/run/consentd"):
        Client(target, token="t").close()
    with pytest.raises(InvalidError, match="token has characters"):
        Client("localhost:1", token="t\n")
    Client("consent.example.org:7400", token="t", tls=Tls()).close()
    with pytest.raises(InvalidError):
        Client("consent.example.org:7400", tls=Tls(cert_file=Path("c")))
    with pytest.raises(StorageError, match="cannot be read"):
        Client("consent.example.org:7400", tls=Tls(ca_file=Path("/nowhere/ca.pem")))


def test_what_needs_a_pin_says_so() -> None:
    client, channel = faking()
    for call in (lambda: client.history(ASKED.subject), client.get_checkpoint, lambda: client.public_history("ledger")):
        with pytest.raises(InvalidError, match="pinned"):
            call()
    assert channel.requests == []
    with pytest.raises(MalformedError):
        pin("no key")


def test_a_list_that_never_ends_is_ended() -> None:
    page = cs.ListConsentsResponse(records=[cs.ConsentRecord(version=1)], next_page_token="a")
    client, channel = faking(page, page)
    with pytest.raises(MalformedError):
        list(client.list_consents(ASKED.subject))
    assert len(channel.requests) == 2


# -- daemons that lie about a history -------------------------------------------------------------------------


ORIGIN = "consent.test/small"
LOG = note.Signer(ORIGIN, KeyPair(b"\x11" * 32))
DAEMON, CLINIC, PERSON, STRANGER = (KeyPair(bytes([n]) * 32) for n in (0x12, 0x13, 0x14, 0x15))
TAG = b"\x77" * 32
LEDGER_TAG, CLINIC_TAG = codec.public_tag("ledger"), codec.public_tag("participant/clinic-b")
SMALL = Trust(ORIGIN, LOG.verifier)
SUBJECT = Subject(scheme="mhid", value="MH-1")


class Small:
    """A ledger in a list: whatever stands in it is sealed, signed and proven as a daemon would."""

    def __init__(self, **stated: Any) -> None:
        self.leaves: list[bytes] = []
        self.chains: dict[bytes, list[ls.LedgerEntry]] = {}
        self.clock_ms: int | None = None  # None: a millisecond an entry
        self.cosigned: list[tuple[note.Signer, int]] = []  # who cosigns each checkpoint, and when
        log_key = note.format_vkey(LOG.verifier)
        fields = {"origin": ORIGIN, "verifier_keys": [log_key], "statement_key": DAEMON.public_key, **stated}
        self.add(EntryKind.LEDGER, LEDGER_TAG, st.LedgerStatement(**fields))

    def add(self, kind: int, tag: bytes, message: Any, *, key: KeyPair = DAEMON, origin: str = ORIGIN) -> None:
        chain = self.chains.setdefault(tag, [])
        time_ms, number = self.clock_ms or self.now_ms(), len(self.leaves)
        payload = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
        signed = codec.signed_message(
            origin=origin, kind=kind, tag=tag, ref=0, request_id=bytes(16), author_time_ms=time_ms, payload=payload
        )
        made = codec.encode_statement(codec.Statement(key.public_key, key.sign(signed), bytes(16), time_ms, payload))
        salt = number.to_bytes(32)
        prev = codec.chain_hash(chain[-1].leaf) if chain else codec.ZERO_HASH
        leaf = codec.encode_event(
            codec.Event(kind, time_ms, tag, len(chain) + 1, prev, codec.commit(salt, made), 0)
        )
        self.leaves.append(leaf)
        chain.append(ls.LedgerEntry(index=number, leaf=leaf, opening=ls.Opening(salt=salt, statement=made)))

    def person(self, *messages: Any, key: KeyPair = DAEMON) -> "Small":
        for message in messages:
            (kind,) = (kind for kind, known in payloads.MESSAGES.items() if isinstance(message, known))
            self.add(kind, TAG, message, key=key)
        return self

    def seal(self) -> None:
        """Seal as a daemon does; *history* then proves against this seal."""
        self.top, self.buckets = bucketed.Top(1), {0: b"", 1: b""}
        for tag, chain in self.chains.items():
            map_key = codec.map_key(tag)
            number = bucketed.bucket_of(map_key, 1)
            value = codec.map_value(tag, len(chain), codec.chain_hash(chain[-1].leaf))
            self.buckets[number] = bucketed.bucket_update(self.buckets[number], {map_key: value})
        for number, bucket in self.buckets.items():
            root = bucketed.bucket_root(bucket, 1)
            if root is not None:
                self.top.set(number, root)
        covers = len(self.leaves)
        seal = codec.Seal(self.now_ms(), covers, self.top.root(), len(self.chains), b"\x01" * 32)
        self.leaves.append(codec.encode_seal(seal))

    def now_ms(self) -> int:
        return 1_001_000 + len(self.leaves)

    def note(self) -> bytes:
        size = len(self.leaves)
        point = checkpoint.Checkpoint(ORIGIN, size, Naive(self.leaves).root(size))
        text = checkpoint.format_checkpoint(point)
        return note.format_note(text, [LOG.sign(text), *(by.cosign(text, at_s) for by, at_s in self.cosigned)])

    def history(self, request: ls.GetHistoryRequest | None = None) -> Stream:
        """Answer a request for the person's history, honestly."""
        request = request or ls.GetHistoryRequest()
        self.seal()
        size, tree = len(self.leaves), Naive(self.leaves)
        if request.known_tree_size > size:
            raise FakeRpcError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        head = ls.HistoryHead(
            checkpoint=self.note(), seal=self.leaves[-1], seal_inclusion=tree.path(size - 1, 0, size)
        )
        if 0 < request.known_tree_size < size:
            head.consistency.extend(tree.subproof(request.known_tree_size, 0, size, True))
        pieces = Stream([ls.GetHistoryResponse(head=head)])
        for tag, name in ((TAG, ""), (LEDGER_TAG, "ledger"), (CLINIC_TAG, "participant/clinic-b")):
            if tag in self.chains or tag == TAG:
                pieces += self.chain(tag, name, request.known_count if tag == TAG else 0)
        return pieces

    def chain(self, tag: bytes, name: str, known: int) -> list[ls.GetHistoryResponse]:
        entries = self.chains.get(tag, [])
        map_key = codec.map_key(tag)
        neighbour = self.top.plan_neighbour(bucketed.bucket_of(map_key, 1))
        present, proof = bucketed.prove(map_key, self.buckets[neighbour or 0], self.top)
        assert present == bool(entries)
        chain = ls.HistoryChain(
            tag=tag,
            public_name=name,
            count=len(entries),
            head=codec.chain_hash(entries[-1].leaf) if entries else b"",
            map_proof=proof,
            first_seq=known + 1,
        )
        pieces = [ls.GetHistoryResponse(chain=chain)]
        # One entry a piece, as a long history comes.
        pieces += [ls.GetHistoryResponse(entries=ls.HistoryEntries(entries=[entry])) for entry in entries[known:]]
        return pieces


ENROLLED = st.EnrolStatement(scheme="mhid", attestation=st.Attestation(attested_by="app"))
GRANTED = st.GrantStatement(consent=consent())
REVOKED = st.RevokeStatement(lineage_seq=2)


def small() -> Small:
    """Return a ledger with a participant that has a key, and a person with three entries."""
    made = Small()
    made.add(EntryKind.PARTICIPANT, CLINIC_TAG, st.ParticipantStatement(participant_id="clinic-b"))
    made.add(EntryKind.KEY, CLINIC_TAG, st.KeyStatement(key=CLINIC.public_key))
    return made.person(ENROLLED, GRANTED, REVOKED)


def reading(*answers: Answer, memory: Any = None, trust: Trust = SMALL) -> Client:
    return faking(*answers, trust=trust, memory=memory)[0]


def test_an_honest_history_is_shown() -> None:
    made = small()
    made.add(EntryKind.OUTCOME, TAG, SENT, key=CLINIC)
    made.add(EntryKind.KEY, TAG, st.KeyStatement(key=PERSON.public_key))
    made.person(GRANTED, key=PERSON)
    found = reading(made.history).history(SUBJECT, tag=TAG)
    assert [(entry.kind_name, entry.author) for entry in found.entries] == [
        ("ENROL", "ledger"), ("GRANT", "ledger"), ("REVOKE", "ledger"), ("OUTCOME", "participant/clinic-b"),
        ("KEY", "ledger"), ("GRANT", "subject"),
    ]  # fmt: skip
    assert found.entries[1].message == GRANTED
    assert found.seal_time_ms == found.entries[-1].time_ms + 1
    assert made.history()[0].head.seal_inclusion  # a tree worth proving in


Lie = Callable[[Stream], None]


def drop_last(pieces: Stream) -> None:
    del pieces[4]


def drop_middle(pieces: Stream) -> None:
    del pieces[3]


def drop_last_and_say_so(pieces: Stream) -> None:
    del pieces[4]
    pieces[1].chain.count -= 1
    pieces[1].chain.head = codec.chain_hash(pieces[3].entries.entries[0].leaf)


def say_none(pieces: Stream) -> None:
    del pieces[2:5]
    pieces[1].chain.count, pieces[1].chain.head = 0, b""


def change_leaf(pieces: Stream) -> None:
    entry = pieces[3].entries.entries[0]
    entry.leaf = entry.leaf[:9] + bytes([entry.leaf[9] ^ 1]) + entry.leaf[10:]


def change_statement(pieces: Stream) -> None:
    opening = pieces[3].entries.entries[0].opening
    opening.statement = opening.statement[:-1] + bytes([opening.statement[-1] ^ 1])


def change_salt(pieces: Stream) -> None:
    pieces[3].entries.entries[0].opening.salt = bytes(32)


def hide_statement(pieces: Stream) -> None:
    pieces[3].entries.entries[0].ClearField("opening")


def swap(pieces: Stream) -> None:
    pieces[3], pieces[4] = pieces[4], pieces[3]


def double(pieces: Stream) -> None:
    pieces.insert(4, pieces[3])


def other_tag(pieces: Stream) -> None:
    pieces[1].chain.tag = b"\x78" * 32


def name_it(pieces: Stream) -> None:
    pieces[1].chain.public_name = "ledger"


def start_later(pieces: Stream) -> None:
    del pieces[2]
    pieces[1].chain.first_seq = 2


def break_map(pieces: Stream) -> None:
    pieces[1].chain.map_proof = pieces[1].chain.map_proof[:-1] + b"\x00"


def other_seal(pieces: Stream) -> None:
    pieces[0].head.seal = codec.encode_seal(
        replace(codec.decode_leaf(pieces[0].head.seal), map_root=b"\x01" * 32)  # type: ignore[type-var]
    )


def no_ledger(pieces: Stream) -> None:
    place = next(n for n, piece in enumerate(pieces) if piece.chain.public_name == "ledger")
    del pieces[place : place + 2]


def ledger_twice(pieces: Stream) -> None:
    pieces.extend(pieces[5:7])


def needless_chain(pieces: Stream) -> None:
    place = next(n for n, piece in enumerate(pieces) if piece.chain.public_name == "ledger")
    pieces[place].chain.public_name = "notice/n"


def unsigned(pieces: Stream) -> None:
    head = pieces[0].head
    head.checkpoint = head.checkpoint.replace(ORIGIN.encode(), b"consent.test/other", 1)


def uncalled_consistency(pieces: Stream) -> None:
    pieces[0].head.consistency.append(bytes(32))


def no_head(pieces: Stream) -> None:
    del pieces[0]


def two_heads(pieces: Stream) -> None:
    pieces.insert(1, pieces[0])


def entries_first(pieces: Stream) -> None:
    pieces[1], pieces[2] = pieces[2], pieces[1]


def empty_piece(pieces: Stream) -> None:
    pieces.append(ls.GetHistoryResponse())


def head_only(pieces: Stream) -> None:
    del pieces[1:]


LIES = (
    drop_last, drop_middle, drop_last_and_say_so, say_none, change_leaf, change_statement, change_salt, hide_statement,
    swap, double, other_tag, name_it, start_later, break_map, other_seal, no_ledger, ledger_twice, needless_chain,
    unsigned, uncalled_consistency, no_head, two_heads, entries_first, empty_piece, head_only,
)  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_caught_and_not_remembered(lie: Lie) -> None:
    pieces = small().history()
    assert [piece.WhichOneof("piece") for piece in pieces[:5]] == ["head", "chain", "entries", "entries", "entries"]
    memory = RamMemory()
    lie(pieces)
    with pytest.raises(VerificationError):
        reading(pieces, memory=memory).history(SUBJECT)
    assert memory.checkpoint() is None
    assert memory.history(ledger.memory_key(SUBJECT)) is None


def test_every_byte_of_what_is_sent_counts() -> None:
    """Flip one bit in each field of bytes: nothing is shown, and nothing but a verification error is raised."""
    honest = small().history()
    caught = 0
    for at, piece in enumerate(honest):
        for position in range(0, piece.ByteSize(), 7):
            whole = bytearray(piece.SerializeToString())
            whole[position] ^= 4
            pieces = Stream(honest)
            try:
                pieces[at] = ls.GetHistoryResponse.FromString(bytes(whole))
            except Exception:  # noqa: BLE001  # no message any more: gRPC would not deliver it
                continue
            changed = pieces[at] != piece and not same_but_for_indexes(pieces[at], piece)
            try:
                found = reading(pieces).history(SUBJECT)
            except VerificationError:
                caught += 1
            else:
                assert not changed, (at, position)
                assert len(found.entries) == 3
    assert caught > 100


def same_but_for_indexes(one: ls.GetHistoryResponse, other: ls.GetHistoryResponse) -> bool:
    """An entry's index is not shown in a history, so it need not be proven; nor need unknown fields."""

    def bare(piece: ls.GetHistoryResponse) -> ls.GetHistoryResponse:
        copy = ls.GetHistoryResponse()
        copy.CopyFrom(piece)
        copy.DiscardUnknownFields()
        for entry in copy.entries.entries:
            entry.index = 0
        return copy

    return bare(one) == bare(other)


def test_a_statement_by_a_key_that_was_not_in_force_is_caught() -> None:
    for key in (STRANGER, CLINIC):  # nobody's; and a participant's, which may not speak for the person
        made = small()
        made.person(GRANTED, key=key)
        with pytest.raises(SignatureError):
            reading(made.history).history(SUBJECT)
    made = small()
    made.add(EntryKind.KEY, CLINIC_TAG, st.KeyStatement(key=CLINIC.public_key, retired=True))
    made.person(ENROLLED)
    made.add(EntryKind.OUTCOME, TAG, SENT, key=CLINIC)
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)
    made = small()
    made.add(EntryKind.GRANT, TAG, GRANTED, origin="another")
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)


WITNESSES = [note.Signer(f"w{n}.test", KeyPair(bytes([0x20 + n]) * 32), note.COSIGNATURE) for n in range(3)]
POLICY = "\n".join(
    [f"witness w{n} {note.format_vkey(one.verifier)}" for n, one in enumerate(WITNESSES)]
    + ["group all 2 w0 w1 w2", "quorum all", ""]
).encode()


def test_witnesses_that_are_pinned_must_have_cosigned(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_500  # a moment after the seal, by the small ledger's clock
    monkeypatch.setattr("consentd_client.base.time.time_ns", lambda: now_s * 1_000_000_000)
    trust = pin(LOG.verifier, policy=POLICY)
    first, second, third = WITNESSES
    stranger = note.Signer("w9.test", KeyPair(b"\x29" * 32), note.COSIGNATURE)
    for cosigned, holds in (
        ([(first, now_s), (third, now_s - 200)], True),
        ([(first, now_s), (second, now_s), (third, now_s)], True),
        ([], False),
        ([(first, now_s)], False),
        ([(first, now_s), (stranger, now_s)], False),
        ([(first, now_s), (first, now_s)], False),
        ([(first, now_s), (second, now_s - 400)], False),  # too long ago
    ):
        made = small()
        made.cosigned = cosigned
        client = reading(made.history, trust=trust)
        if holds:
            assert len(client.history(SUBJECT).entries) == 3
            assert reading(ls.GetCheckpointResponse(checkpoint=made.note()), trust=trust).get_checkpoint().size == 7
        else:
            with pytest.raises(SignatureError, match="no quorum"):
                client.history(SUBJECT)
            with pytest.raises(SignatureError, match="no quorum"):
                reading(ls.GetCheckpointResponse(checkpoint=made.note()), trust=trust).get_checkpoint()
    # A receipt is evidence for ever: its cosignatures may be old, but must be there.
    made = small()
    for cosigned, holds in (([(first, 10), (second, 20)], True), ([(first, 10)], False)):
        made.cosigned = cosigned
        path = Naive(made.leaves).path(0, 0, len(made.leaves))
        proof = checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, tuple(path), made.note()))
        if holds:
            assert verify_receipt(made.leaves[0], proof, trust).size == len(made.leaves)
        else:
            with pytest.raises(SignatureError, match="no quorum"):
                verify_receipt(made.leaves[0], proof, trust)
    with pytest.raises(MalformedError):
        pin(LOG.verifier, policy=b"nonsense")


def test_no_key_vouches_for_itself() -> None:
    for tag in (TAG, CLINIC_TAG):
        made = small()
        made.add(EntryKind.KEY, tag, st.KeyStatement(key=STRANGER.public_key), key=STRANGER)
        with pytest.raises(SignatureError):
            reading(made.history).history(SUBJECT)
    made = small()
    made.add(EntryKind.LEDGER, LEDGER_TAG, st.LedgerStatement(statement_key=STRANGER.public_key), key=STRANGER)
    with pytest.raises(SignatureError):
        reading(made.history).history(SUBJECT)


def test_keys_of_one_millisecond_may_rest_on_each_other() -> None:
    made = small()
    made.clock_ms = made.now_ms()
    # The clinic's second key, and one that it puts in force for the person, in a chain that is streamed before.
    made.add(EntryKind.KEY, CLINIC_TAG, st.KeyStatement(key=STRANGER.public_key))
    made.add(EntryKind.KEY, TAG, st.KeyStatement(key=PERSON.public_key), key=STRANGER)
    made.clock_ms = None
    made.person(GRANTED, key=PERSON)
    found = reading(made.history).history(SUBJECT)
    assert [entry.author for entry in found.entries[3:]] == ["participant/clinic-b", "subject"]


def test_a_ledger_that_is_not_the_pinned_one_is_caught() -> None:
    other = note.format_vkey(note.Signer(ORIGIN, STRANGER).verifier)
    for stated in ({"origin": "consent.test/other"}, {"verifier_keys": []}, {"verifier_keys": [other]}):
        with pytest.raises(ProofError):
            reading(Small(**stated).person(ENROLLED).history).history(SUBJECT)
    with pytest.raises(SignatureError):
        reading(small().history, trust=pin(other)).history(SUBJECT)


def test_a_tag_other_than_the_pinned_one_is_caught() -> None:
    with pytest.raises(ProofError, match="another chain"):
        reading(small().history).history(SUBJECT, tag=b"\x01" * 32)


def remembered(made: Small) -> RamMemory:
    memory = RamMemory()
    assert len(reading(made.history, memory=memory).history(SUBJECT).entries) == 3
    return memory


def test_a_history_goes_on_from_what_is_remembered() -> None:
    made = small()
    memory = remembered(made)
    made.person(GRANTED)
    client, channel = faking(made.history, trust=SMALL, memory=memory)
    found = client.history(SUBJECT)
    assert [entry.is_new for entry in found.entries] == [False, False, False, True]
    assert ls.GetHistoryRequest.FromString(channel.requests[0]).known_count == 3
    again = reading(made.history, memory=memory).history(SUBJECT)
    assert [entry.is_new for entry in again.entries] == [False] * 4
    assert [entry.message for entry in again.entries] == [entry.message for entry in found.entries]


def test_a_rollback_is_caught() -> None:
    old = small()
    before = old.history()
    made = small()
    memory = remembered(made)
    made.person(GRANTED)
    reading(made.history, memory=memory).history(SUBJECT)
    # It says that it knows no such size, so the evidence is asked for.
    client, channel = faking(old.history, before, trust=SMALL, memory=memory)
    with pytest.raises(ProofError, match="smaller than the one held") as caught:
        client.history(SUBJECT)
    assert ls.GetHistoryRequest.FromString(channel.requests[1]).known_count == 0
    assert [text.partition(":")[0] for text in caught.value.__notes__] == ["checkpoint shown", "checkpoint remembered"]
    # It shows the old state straight away.
    with pytest.raises(ProofError):
        reading(before, memory=memory).history(SUBJECT)


def test_a_rewritten_past_is_caught() -> None:
    memory = remembered(small())
    other = Small()
    other.add(EntryKind.PARTICIPANT, CLINIC_TAG, st.ParticipantStatement(participant_id="clinic-b"))
    other.person(ENROLLED, REVOKED, REVOKED, GRANTED, GRANTED)
    with pytest.raises(ProofError):
        reading(other.history, memory=memory).history(SUBJECT)


def test_a_chain_shortened_under_a_consistent_tree_is_caught() -> None:
    made = small()
    memory = remembered(made)
    made.add(EntryKind.NOTICE, codec.public_tag("notice/n"), st.NoticeStatement(notice_id="n"))
    kept = made.chains[TAG].pop()  # the tree still holds the leaf, the map does not
    with pytest.raises(ProofError, match="shorter than what is remembered"):
        reading(made.history, memory=memory).history(SUBJECT)
    made.chains[TAG].append(kept)
    assert len(reading(made.history, memory=memory).history(SUBJECT).entries) == 3


def test_another_tag_than_the_remembered_one_is_caught_until_it_is_forgotten() -> None:
    made = small()
    memory = RamMemory()
    key = ledger.memory_key(SUBJECT)
    honest = made.history()
    memory.remember(made.note(), key, consentd_client.RememberedHistory(b"\x01" * 32, ()))
    with pytest.raises(ProofError, match="another tag than the one remembered"):
        reading(made.history, memory=memory).history(SUBJECT)
    memory.forget(key)
    assert len(reading(made.history, memory=memory).history(SUBJECT).entries) == 3
    assert honest


def test_a_person_who_is_hidden_is_noticed() -> None:
    memory = remembered(small())
    hidden = FakeRpcError(grpc.StatusCode.NOT_FOUND, "SUBJECT_NOT_FOUND")
    with pytest.raises(NotFoundError, match="though a history of 3 entries is remembered"):
        reading(hidden, memory=memory).history(SUBJECT)
    with pytest.raises(NotFoundError, match=r"^said so$"):
        reading(hidden).history(SUBJECT)


def test_a_tag_without_entries_is_absent_and_nothing_more() -> None:
    found = reading(Small().history).history(SUBJECT)
    assert (found.is_absent, found.entries, found.is_erased) == (True, (), False)


def test_what_a_later_version_says_could_not_be_told() -> None:
    made = small()
    made.add(99, TAG, b"whatever")
    made.add(EntryKind.DISPUTE, TAG, b"\x0a\x00")
    made.add(EntryKind.GRANT, TAG, GRANTED.SerializeToString() + b"\xfa\x3f\x01x")  # a field of a later version
    made.add(EntryKind.REVOKE, TAG, b"\xff")
    found = reading(made.history).history(SUBJECT)
    assert [entry.kind_name for entry in found.unread] == ["99", "DISPUTE", "GRANT", "REVOKE"]
    assert "cannot be read by this version" in str(found.unread[0])
    assert {entry.author for entry in found.unread} == {"ledger"}


def test_an_erased_person_leaves_kinds_and_times() -> None:
    made = small()
    memory = remembered(made)
    made.add(EntryKind.ERASURE, TAG, b"")
    erased = made.history()
    for piece in erased[2:5]:
        piece.entries.entries[0].ClearField("opening")
    found = reading(erased).history(SUBJECT)
    assert found.is_erased
    assert [entry.statement is None for entry in found.entries] == [True, True, True, False]
    assert [entry.author for entry in found.entries] == ["", "", "", "ledger"]
    assert str(found.entries[0]).endswith("enrolled: (erased)")
    kept = reading(made.history, memory=memory).history(SUBJECT)
    assert (kept.is_erased, kept.entries[1].message) == (True, GRANTED)
    made.person(GRANTED)
    with pytest.raises(ProofError, match="follows an ERASURE"):
        reading(made.history, memory=memory).history(SUBJECT)


def test_a_stream_without_end_is_cut_off() -> None:
    pieces = small().history()
    client = reading(pieces)
    client.context = replace(client.context, max_stream_bytes=100)
    with pytest.raises(MalformedError, match="longer than"):
        client.history(SUBJECT)
    assert pieces.cancelled


# -- memory ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["ram", "file"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return RamMemory() if request.param == "ram" else FileMemory(tmp_path / "memory.json")


def test_a_memory_never_goes_back(memory: Any) -> None:
    made = small()
    early = made.history()[0].head.checkpoint
    reading(made.history, memory=memory).history(SUBJECT)
    key = ledger.memory_key(SUBJECT)
    held = memory.history(key)
    assert (held.tag, len(held.entries)) == (TAG, 3)
    late = memory.checkpoint()
    memory.remember(early, key, consentd_client.RememberedHistory(TAG, held.entries[:1]))
    assert (memory.checkpoint(), memory.history(key)) == (late, held)
    memory.forget(key)
    memory.forget("nothing")
    assert (memory.checkpoint(), memory.history(key)) == (late, None)


def test_a_memory_lasts(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    made = small()
    made.add(EntryKind.ERASURE, TAG, b"")
    erased = made.history()
    for piece in erased[2:5]:
        piece.entries.entries[0].ClearField("opening")
    reading(erased, memory=FileMemory(path)).history(SUBJECT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SUBJECT.value not in path.read_text()
    again = reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    assert [entry.statement is None for entry in again.entries] == [True, True, True, False]
    assert not again.new
    assert json.loads(path.read_text())["version"] == 1


def test_a_memory_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.json"
    made = small()
    reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    before = path.read_bytes()
    made.person(GRANTED)

    def fail(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="memory cannot be written"):
        reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"version":2}', b'{"version":1,"checkpoint":"no note","histories":{}}', b"\xff",
     b'{"version":1,"checkpoint":null,"histories":{"k":{"tag":"zz","entries":[]}}}',
     b'{"version":1,"checkpoint":null,"histories":{"k":{"tag":"00","entries":[["a"]]}}}'],
)  # fmt: skip
def test_a_damaged_memory_is_no_evidence_against_the_daemon(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="memory file"):
        reading(small().history, memory=FileMemory(path)).history(SUBJECT)
    assert path.read_bytes() == content


def test_a_memory_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    for memory in (FileMemory(tmp_path), FileMemory(tmp_path / "none" / "memory.json")):
        with pytest.raises(StorageError):
            reading(small().history, memory=memory).history(SUBJECT)


def test_a_changed_memory_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    made = small()
    reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    content = json.loads(path.read_text())
    (held,) = content["histories"].values()
    del held["entries"][1]
    path.write_text(json.dumps(content))
    with pytest.raises(ProofError):
        reading(made.history, memory=FileMemory(path)).history(SUBJECT)


def test_an_option_that_does_not_exist_is_an_error() -> None:
    options: dict[str, Any] = {"publishd": True}
    client, channel = faking()
    for call in (
        lambda: client.grant(SUBJECT, consent(), **options),
        lambda: client.revoke(SUBJECT, "00" * 16, **options),
        lambda: client.add_key("clinic-b", bytes(32), **options),
        lambda: client.record_access(SUBJECT, 3, SENT, **options),
        lambda: client.enrol(SUBJECT, signer=None),  # type: ignore[call-arg]  # an option of other writes
    ):
        with pytest.raises(TypeError):
            call()
    assert channel.requests == []
