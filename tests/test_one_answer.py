"""One answer: an institution cannot tell who objected, gave no consent, has an unreadable one, or is not enrolled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message

from cases.daemons import Running, make_running, question, request_id
from cases.services import batch, batch_request, kind_of, new_identifier, refusal, seen, services
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.ledger import layout, reads
from consentd.policy.delegation import Capacity
from consentd.policy.evaluate import evaluate
from consentd.policy.reduce import NO_TAG, PLACEHOLDER
from consentd.sequencer.commands.write import NewEntry, Plan, Unremembered, WriteContext
from consentd.service import answerer, receipts
from consentd.statements import decisions
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import UNKNOWN_KIND

INSTITUTION = "clinic-b"
MASKED = ("decision_id", "decided_time_ms", "revision", "index", "leaf_hash", "proof")
"""Fields that differ from answer to answer, whoever is asked about. Tests compare everything else."""
HIDDEN = pb.Provision(effect=pb.EFFECT_DENY, labels=["HIV"], level="U")
"""A deny within a permit. Its condition names what the person denies."""
CONDITIONAL = {"supported_obligations": [pb.OBLIGATION_ENFORCE_RESIDUAL]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with persons whose chains have entries of an unknown kind."""
    running = make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10)
    yield running
    running.check_ledger(frozenset({UNKNOWN_KIND}))
    running.stop()


def masked(message: Message) -> bytes:
    """Return a response's bytes without the values of the masked fields; a proof's length depends on its index."""
    for field, value in message.ListFields():
        if field.name == "proof":
            message.ClearField("proof")
        elif field.name in MASKED and field.type == field.TYPE_BYTES:
            setattr(message, field.name, bytes(len(value)))
        elif field.name in MASKED and field.type == field.TYPE_STRING:
            setattr(message, field.name, "0" * len(value))
        elif field.name in MASKED and field.type == field.TYPE_MESSAGE:
            message.ClearField(field.name)
        elif field.name in MASKED:
            setattr(message, field.name, 1)
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                masked(inner)
    return message.SerializeToString(deterministic=True)


def people(running: Running) -> Iterator[pb.Subject]:
    """Yield persons whose data clinic-b may not have for other reasons."""
    yield running.enrol(new_identifier())
    objecting = running.enrol(new_identifier())
    running.grant(objecting, effect=pb.EFFECT_DENY, kind=pb.CONSENT_KIND_OBJECTION, categories=["CLIN.DX"])
    yield objecting
    later = running.enrol(new_identifier())
    running.grant(later, period=pb.Period(start_time_ms=4_000_000_000_000))
    yield later
    of_something_else = running.enrol(new_identifier())
    running.grant(of_something_else, purposes=["HRESCH"])
    yield of_something_else
    conditional = running.enrol(new_identifier())
    running.grant(conditional, categories=["CLIN.DX"], provisions=[HIDDEN])
    yield conditional
    unreadable = running.enrol(new_identifier())
    make_unreadable(running, unreadable)
    yield unreadable
    yield pb.Subject(scheme="mhid", value=new_identifier())  # not enrolled


@dataclass(frozen=True)
class LaterKind(Unremembered):
    """Writes an entry of a kind that this version does not know, as a later version might have written it."""

    identifier_hash: bytes

    def prepare(self, context: WriteContext) -> Plan[None]:
        tag = context.table.tag_of(self.identifier_hash)
        assert tag is not None
        kind: Any = 200
        entry = NewEntry(kind=kind, tag=tag, message=st.OutcomeStatement(), request_id=request_id())
        return Plan((context.draft(entry),), None)


def make_unreadable(running: Running, subject: pb.Subject) -> None:
    parts = services(running)
    identifier_hash = parts.vault.identifier_hash(subject.scheme, subject.value)
    parts.sequencer.submit(LaterKind(identifier_hash)).result()


def ask_all(running: Running, asked: pb.Question) -> list[Message]:
    """Return the response of every call that answers a question."""
    me = running.as_(INSTITUTION)
    authorize = ac.AuthorizeAccessRequest(request_id=request_id(), question=asked, wait_for=pb.WAIT_FOR_PUBLISHED)
    many = ac.BatchAuthorizeAccessesRequest(wait_for=pb.WAIT_FOR_PUBLISHED)
    many.requests.add(request_id=request_id(), question=asked)
    shared = pb.Question()
    shared.CopyFrom(asked)
    shared.ClearField("subject")
    return [
        running.policy.Check(ps.CheckRequest(question=asked), metadata=me),
        running.policy.BatchCheck(batch_request(questions=[asked]), metadata=me),
        running.policy.BatchCheck(batch_request(shared=shared, subjects=[asked.subject]), metadata=me),
        running.access.AuthorizeAccess(authorize, metadata=me),
        running.access.AuthorizeAccess(authorize, metadata=me),  # a repeat
        running.access.BatchAuthorizeAccesses(many, metadata=me),
    ]


@pytest.mark.parametrize("categories", [["CLIN.DX"], ["CLIN"], ["CLIN.DX", "NEW.CODE"], ["NEW.CODE"]])
def test_all_responses_to_an_institution_are_the_same_for_everybody(running: Running, categories: list[str]) -> None:
    responses = []
    for subject in people(running):
        asked = question(subject, categories=categories, **CONDITIONAL)
        responses.append([masked(one) for one in ask_all(running, asked)])
    assert responses == [responses[0]] * len(responses)


def test_a_partial_permit_shows_nothing_of_what_is_not_permitted(running: Running) -> None:
    answers = []
    *readable, _, _ = people(running)
    for subject in readable:
        running.grant(subject, categories=["CLIN.LAB"])
        seen_here = seen(running.check(question(subject, categories=["CLIN.LAB", "CLIN.DX"]), INSTITUTION))
        assert seen_here.tag
        assert [one.code for one in seen_here.reasons] == [pb.REASON_CODE_PERMITTED_BY_CONSENT]
        for field in ("tag", "ref", "reasons"):  # they name the consent that permits, which is another for each person
            seen_here.ClearField(field)
        answers.append(seen_here)
    assert answers == [answers[0]] * len(answers)
    assert (answers[0].outcome, list(answers[0].denied)) == (pb.OUTCOME_PARTIAL, ["CLIN.DX"])
    assert answers[0].valid_until_time_ms == 0


def test_conditions_are_for_the_holder_and_for_who_sees_reasons(running: Running, subject: pb.Subject) -> None:
    running.grant(subject, provisions=[HIDDEN])
    running.delegate("hospital-a", "er", Capacity.APPLICATION)
    permit = (pb.OUTCOME_PERMIT, ["HIV"], [pb.OBLIGATION_ENFORCE_RESIDUAL])
    for who, expected in {
        INSTITUTION: (pb.OUTCOME_DENY, [], []),
        "er": (pb.OUTCOME_DENY, [], []),  # an application of the holder
        "hospital-a": permit,
        "app": permit,
    }.items():
        asked = question(subject, **CONDITIONAL)
        single = running.check(asked, who)
        (item,) = batch(running, who, questions=[asked])
        for decision in (single, item.decision, running.authorize(asked, who).decision):
            named = [label for rule in decision.residual for label in rule.any_labels]
            assert (decision.outcome, named, list(decision.obligations)) == expected, who


def test_a_permit_says_which_labels_and_level_it_is_for(running: Running, subject: pb.Subject) -> None:
    """This follows from the question and the caller's rights, so persons with other consents get the same."""
    covering = running.enrol(new_identifier())
    for person, root in ((subject, {}), (covering, {"labels": ["*"], "level": "V"})):
        running.grant(person, **root)
        running.grant(person, labels=["HIV"], level="R")
        stated = {"labels": pb.CodeSet(values=["HIV"]), "level": "R"}
        for who, more, expected in (
            (INSTITUTION, {}, ([], "")),
            (INSTITUTION, CONDITIONAL, ([], "")),
            ("hospital-a", CONDITIONAL, (["*"], "V")),
            ("app", {**CONDITIONAL, "level": "R"}, (["*"], "R")),
            (INSTITUTION, stated, (["HIV"], "R")),
            ("app", {**stated, **CONDITIONAL}, (["HIV"], "R")),
            ("app", {**stated, "purpose": "HRESCH"}, ([], "")),
        ):
            asked = question(person, **more)
            answers = [running.check(asked, who), running.authorize(asked, who).decision]
            assert [(list(one.labels), one.level) for one in answers] == [expected] * 2, (who, more)
        request = ac.ListAccessesRequest(subject=person)
        records = running.access.ListAccesses(request, metadata=running.as_("app")).accesses
        assert (list(records[1].decision.labels), records[1].decision.level) == (["HIV"], "R")


def test_codes_that_the_vocabulary_lacks_are_listed_apart(running: Running, subject: pb.Subject) -> None:
    decision = running.check(question(subject, categories=["CLIN.DX", "NEW.CODE"]), INSTITUTION)
    assert (decision.outcome, list(decision.denied), list(decision.unknown)) == (
        pb.OUTCOME_DENY,
        ["CLIN.DX"],
        ["NEW.CODE"],
    )


def test_the_entry_records_the_answer_as_the_asker_got_it(running: Running) -> None:
    *enrolled, _ = people(running)
    for subject in enrolled:
        answer = running.authorize(question(subject), INSTITUTION)
        leaf = services(running).ledger.store.get(layout.leaf_key(answer.receipt.index))
        assert leaf is not None
        event = codec.decode_leaf(leaf)
        assert isinstance(event, codec.Event)
        assert (event.kind, event.ref) == (EntryKind.REFUSAL, 0)
        request = ac.ListAccessesRequest(subject=subject)
        (record,) = running.access.ListAccesses(request, metadata=running.as_("app")).accesses
        assert record.decision == answer.decision


# -- receipts ------------------------------------------------------------------------------------------------------


def test_a_refusal_has_a_receipt_without_its_leaf(running: Running, subject: pb.Subject) -> None:
    for who in (INSTITUTION, "app"):
        request = ac.AuthorizeAccessRequest(
            request_id=request_id(), question=question(subject), wait_for=pb.WAIT_FOR_PUBLISHED
        )
        answer = running.access.AuthorizeAccess(request, metadata=running.as_(who))
        fields = {field.name for field, _ in answer.receipt.ListFields()}
        assert fields == {"index", "leaf_hash", "published", "proof"}
        assert answer.access_seq == 0
        assert kind_of(running, answer.receipt) == EntryKind.REFUSAL


def test_a_leaf_hash_gives_no_right_to_a_leaf(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    access = running.authorize(question(subject), INSTITUTION).receipt
    refused = running.authorize(question(subject, purpose="HRESCH"), INSTITUTION).receipt
    other = running.enrol(new_identifier())

    def read(receipt: pb.Receipt, who: str, **more: object) -> ls.GetReceiptResponse:
        request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash, **more)
        return running.ledger.GetReceipt(request, metadata=running.as_(who) if who else None)

    def form(response: ls.GetReceiptResponse) -> str:
        if response.HasField("opening"):
            return "opening"
        return "leaf" if response.receipt.leaf else "reduced"

    cases: list[tuple[pb.Receipt, str, dict[str, object], str]] = [
        (access, "", {}, "reduced"),
        (access, "er", {}, "reduced"),
        (access, "app", {}, "reduced"),
        (access, "app", {"subject": other}, "reduced"),
        (access, "app", {"subject": subject}, "opening"),
        (access, "er", {"subject": subject}, "reduced"),
        (access, INSTITUTION, {}, "opening"),
        (access, "hospital-a", {}, "opening"),
        (access, "pipc", {}, "leaf"),
        (access, "operator", {}, "leaf"),
        (refused, INSTITUTION, {}, "reduced"),
        (refused, "hospital-a", {}, "reduced"),
        (refused, "app", {"subject": subject}, "opening"),
        (refused, "pipc", {}, "leaf"),
    ]
    for receipt, who, more, expected in cases:
        response = read(receipt, who, **more)
        assert (who, form(response)) == (who, expected)
        assert response.receipt.leaf_hash == receipt.leaf_hash
        if expected == "opening":
            event = codec.decode_leaf(response.receipt.leaf)
            assert isinstance(event, codec.Event)
            assert codec.commit(response.opening.salt, response.opening.statement) == event.commit


def test_an_answer_is_opened_only_for_who_may_know_it(running: Running, subject: pb.Subject) -> None:
    """The leaf hash is public. A party to an access could read with it the answer to another asker."""
    running.grant(subject, provisions=[HIDDEN])
    running.grant(subject, effect=pb.EFFECT_DENY, categories=["CLIN.RX"])
    everybody = {"app", "hospital-a", INSTITUTION}
    many = {"categories": ["CLIN.DX", "CLIN.RX"], "labels": pb.CodeSet()}
    for who, asked, expected in (
        ("app", question(subject, labels=pb.CodeSet()), everybody),
        (INSTITUTION, question(subject, labels=pb.CodeSet()), everybody),
        ("app", question(subject, **CONDITIONAL), {"app", "hospital-a"}),
        ("hospital-a", question(subject, **CONDITIONAL), {"app", "hospital-a"}),
        ("app", question(subject, **many), {"app"}),
        (INSTITUTION, question(subject, **many), {"app", INSTITUTION}),
    ):
        asked.actor.relays.append("app")
        receipt = running.authorize(asked, who).receipt
        request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
        answers = {one: running.ledger.GetReceipt(request, metadata=running.as_(one)) for one in everybody}
        assert {one for one, answer in answers.items() if answer.HasField("opening")} == expected
        assert {one for one, answer in answers.items() if answer.receipt.leaf} == expected


def test_a_refusal_is_not_opened_for_who_was_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open it took longer about a person who is enrolled, because each person has a key of their own."""
    refused = [running.authorize(question(subject), INSTITUTION).receipt for subject in people(running)]
    # No entry can be read or opened then.
    monkeypatch.setattr(receipts, "reads", SimpleNamespace(leaf_hash_at=reads.leaf_hash_at))
    for receipt in refused:
        request = ls.GetReceiptRequest(index=receipt.index, leaf_hash=receipt.leaf_hash)
        answer = running.ledger.GetReceipt(request, metadata=running.as_(INSTITUTION))
        assert not answer.receipt.leaf
        assert not answer.HasField("opening")


def test_a_leaf_and_its_hash_of_another_entry_are_no_entry(running: Running, subject: pb.Subject) -> None:
    running.grant(subject)
    receipt = running.authorize(question(subject), INSTITUTION).receipt
    wrong: list[Callable[[], ls.GetReceiptRequest]] = [
        lambda: ls.GetReceiptRequest(index=receipt.index),
        lambda: ls.GetReceiptRequest(index=receipt.index - 1, leaf=receipt.leaf),
        lambda: ls.GetReceiptRequest(index=1 << 60, leaf=receipt.leaf),
        lambda: ls.GetReceiptRequest(index=receipt.index, leaf_hash=bytes(32)),
    ]
    for make in wrong:
        assert refusal(lambda make=make: running.ledger.GetReceipt(make())) == "NOT_FOUND"


def test_the_bytes_of_a_reduced_batch_item_are_those_of_a_single_answer(running: Running, subject: pb.Subject) -> None:
    asked = question(subject)
    (item,) = batch(running, INSTITUTION, questions=[asked])
    assert masked(item.decision) == masked(running.check(asked, INSTITUTION))


def test_the_placeholder_matches_no_question(running: Running, subject: pb.Subject) -> None:
    with services(running).table.read() as snapshot:
        registry = snapshot.registry()
        asked = question(subject, categories=["CLIN"])
        parties = registry.parties(INSTITUTION, asked, 1)
        packed = decisions.pack_message(asked, registry.codebook, parties)
        verdict = evaluate(PLACEHOLDER, packed, registry.rules, 1)
        assert (verdict.permitted, verdict.denied, verdict.unknown) == (0, 0, 0)
        assert snapshot.subject(NO_TAG) is None


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_limit_of_a_batch_does_not_show_who_is_enrolled(
    running: Running, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    """The items that are refused are the same, whoever the persons are and however many consents they have."""
    many = running.enrol(new_identifier())
    for category in ("CLIN.DX", "CLIN.RX", "CLIN.LAB"):
        for _ in range(3):
            running.grant(many, categories=[category], holders=["er"])
    permitted = running.enrol(new_identifier())
    running.grant(permitted)
    running.grant(permitted, effect=pb.EFFECT_DENY, categories=["CLIN.RX"], kind=pb.CONSENT_KIND_OBJECTION)
    found = set()
    for subject in (*people(running), many, permitted, pb.Subject(scheme="mhid", value=new_identifier())):
        asked = [question(each) for each in [subject] * 40]
        shared = question(subject)
        shared.ClearField("subject")
        request: dict[str, Any] = {"shared": shared, "subjects": [subject] * 40} if is_shared else {"questions": asked}
        with monkeypatch.context() as patch:
            patch.setattr(answerer, "MAX_BATCH_ROWS", 50)
            answer = running.policy.BatchCheck(batch_request(**request), metadata=running.as_(INSTITUTION))
        found.add(tuple(one.WhichOneof("result") for one in answer.results))
    assert found == {("decision",) * 17 + ("error",) * 23}
