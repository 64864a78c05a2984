"""A hostile participant over real gRPC: nobody gets an answer, a receipt or an entry by naming others (rule 10)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from cases.daemons import (
    GIVERS,
    ORIGIN,
    ROLES,
    Running,
    make_running,
    question,
    reason_in,
    reason_of,
    request_id,
    running_daemon,
    serve,
)
from cases.services import (
    FOREIGN_FIELD,
    Person,
    accesses,
    batch,
    new_identifier,
    now_ms,
    publish_rules,
    record,
    refusal,
    register,
    services,
)
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.core import codec
from consentd.cosigning.keyfiles import read_signing_key
from consentd.policy.delegation import Capacity
from consentd.policy.model import BREAK_GLASS_PURPOSE, SUBJECT
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import show

APPLICATION, PROCESSOR = Capacity.APPLICATION, Capacity.PROCESSOR
REFUSALS = ("ACTOR_NOT_ALLOWED", "CALLER_NOT_ALLOWED")
BREAKS_SHAPE = "BREAK_GLASS_SHAPE"  # the refusal of a check with purpose BTG


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon. After the tests its ledger verifies, and every recorded decision comes out again."""
    running = make_running(tmp_path_factory.mktemp("daemon"))
    yield from serve(running)
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(running.config), origin=ORIGIN, log_verifier=verifier)
    assert (replayed.faults, replayed.not_checked) == ((), {})
    assert replayed.same["ACCESS"] > 0


@pytest.fixture
def permitted(running: Running) -> pb.Subject:
    """A person who permits clinic-b, of whichever holder."""
    subject = running.enrol(new_identifier())
    running.grant(subject, holders=[])
    return subject


def actor(organisation: str = "clinic-b", **more: Any) -> pb.Actor:
    return pb.Actor(organisation=organisation, **more)


def assert_refused(running: Running, asked: pb.Question, who: str) -> None:
    """Assert that no RPC answers *who*, and that the ledger does not grow by an entry."""
    size = services(running).ledger.state.size
    shared = pb.Question()
    shared.CopyFrom(asked)
    shared.ClearField("subject")
    authorize = ac.AuthorizeAccessRequest(request_id=request_id(), question=asked)
    together = ac.BatchAuthorizeAccessesRequest(requests=[authorize])
    for call in (
        lambda: running.authorize(asked, who),
        lambda: running.access.BatchAuthorizeAccesses(together, metadata=running.as_(who)).results[0].error,
        lambda: running.check(asked, who),
        lambda: batch(running, who, questions=[asked])[0].error,
        lambda: batch(running, who, shared=shared, subjects=[asked.subject])[0].error,
    ):
        assert reason_for(call) in (REFUSALS if asked.purpose != BREAK_GLASS_PURPOSE else (*REFUSALS, BREAKS_SHAPE))
    entries = range(size, services(running).ledger.state.size)
    assert not [at for at in entries if services(running).ledger.store.get(b"l" + at.to_bytes(8))[1]]


def reason_for(call: Callable[[], Any]) -> str:
    """Return the reason with which a call, or the only item of its batch, is refused; empty: it is answered."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return reason_of(error)
    return reason_in(answer) if isinstance(answer, status_pb2.Status) else ""


@pytest.mark.parametrize(
    "changed",
    [
        {"actor": actor()},
        {"actor": actor(relays=["pipc"])},
        {"actor": actor(application="pipc")},
        {"actor": actor(on_behalf_of="pipc")},
        {"actor": actor("pipc")},
        {"actor": actor("pipc", on_behalf_of="clinic-b")},
        {"holder": "pipc"},
        {"actor": actor("pipc"), "holder": "pipc"},
        {"actor": actor(relays=["app", "pipc"])},
        {"actor": actor("group/carers", relays=["pipc"])},
        {"actor": actor("operator/first")},
        {"actor": actor(SUBJECT)},
        {"actor": actor(SUBJECT, relays=["pipc"])},
    ],
)
def test_naming_others_gives_nothing(running: Running, permitted: pb.Subject, changed: dict[str, Any]) -> None:
    """Neither to an auditor, who may ask nothing, nor to a relay, who has no delegation."""
    register(running, "pipc", ROLES["pipc"])
    assert_refused(running, question(permitted, **changed), "pipc")
    register(running, "pipc", [st.PARTICIPANT_ROLE_RELAY])
    assert_refused(running, question(permitted, **changed), "pipc")


@pytest.mark.parametrize(
    "changed",
    [
        {"actor": actor("er", on_behalf_of="clinic-b")},
        {"actor": actor("clinic-b", on_behalf_of="er")},
        {"actor": actor("clinic-b", application="er")},
        {"actor": actor("clinic-b", relays=["er"])},
        {"actor": actor(SUBJECT)},
    ],
)
def test_naming_others_gives_a_recipient_nothing(
    running: Running, permitted: pb.Subject, changed: dict[str, Any]
) -> None:
    assert_refused(running, question(permitted, **changed), "er")


@pytest.mark.parametrize(
    "place", [lambda asked: asked, lambda asked: asked.actor, lambda asked: asked.subject, lambda asked: asked.labels]
)
def test_a_question_with_an_unknown_field_is_refused(
    running: Running, permitted: pb.Subject, place: Callable[[pb.Question], Any]
) -> None:
    """It might name a participant that takes part too."""
    asked = question(permitted, labels=pb.CodeSet(values=["N"]))
    if place(asked) is not asked.labels:
        asked.ClearField("labels")
    place(asked).MergeFromString(FOREIGN_FIELD)
    assert refusal(lambda: running.check(asked, "clinic-b")) == "UNKNOWN_FIELD"
    assert refusal(lambda: running.authorize(asked, "clinic-b")) == "UNKNOWN_FIELD"


def test_a_group_is_no_organisation(running: Running) -> None:
    register(running, "clinic-g", [st.PARTICIPANT_ROLE_RECIPIENT], groups=["group/carers"])
    subject = running.enrol(new_identifier())
    running.grant(subject, actors=["group/carers"])
    for who in ("app", "hospital-a"):
        assert refusal(
            lambda who=who: running.check(question(subject, actor=actor("group/carers")), who)
        ) == "ACTOR_NOT_ALLOWED"  # fmt: skip
    assert running.check(question(subject, actor=actor("clinic-g"))).outcome == pb.OUTCOME_PERMIT


def test_rights_let_nobody_ask_for_others(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        for giver in GIVERS:
            running.delegate(giver, "app", ended=True)
        assert_refused(running, question(subject), "app")
        for ask in (running.check, running.authorize):  # an operator asks nothing about persons
            assert refusal(lambda ask=ask: ask(question(subject), "operator")) == "CALLER_NOT_ALLOWED"


def test_nobody_breaks_the_glass_by_naming_another(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        publish_rules(running, break_glass=[pb.Provision(effect=pb.EFFECT_PERMIT, categories=["CLIN"])])
        subject = running.enrol("SYN-000001")

        def emergency(organisation: str, **more: Any) -> pb.Question:
            urgent = pb.BreakGlass(justification="unconscious")
            return question(
                subject, purpose=BREAK_GLASS_PURPOSE, break_glass=urgent, actor=actor(organisation, **more)
            )

        assert running.authorize(emergency("er"), "er").decision.outcome == pb.OUTCOME_PERMIT
        for who in ("pipc", "clinic-b", "app"):  # the app's delegation is not one for emergencies
            assert_refused(running, emergency("er"), who)
            assert_refused(running, emergency("er", relays=[who]), who)
        assert_refused(running, emergency("clinic-b", on_behalf_of="er"), "clinic-b")
        assert_refused(running, emergency("er", on_behalf_of="clinic-b"), "er")
        # With delegations for it, both must have the right.
        running.delegate("er", "clinic-b", PROCESSOR, break_glass=True)
        running.delegate("clinic-b", "er", PROCESSOR, break_glass=True)
        for organisation, other in (("clinic-b", "er"), ("er", "clinic-b")):
            asked = emergency(organisation, on_behalf_of=other)
            assert running.authorize(asked, organisation).decision.outcome == pb.OUTCOME_DENY
        running.delegate("er", "app", break_glass=True)
        assert running.authorize(emergency("er"), "app").decision.outcome == pb.OUTCOME_PERMIT


@pytest.mark.parametrize(
    ("categories", "outcome", "reasons"),
    [
        (["CLIN.DX"], pb.OUTCOME_DENY, [pb.REASON_CODE_DENIED_BY_BREAK_GLASS]),
        (
            ["CLIN.DX", "HOROSCOPE"],
            pb.OUTCOME_DENY,
            [pb.REASON_CODE_DENIED_BY_BREAK_GLASS, pb.REASON_CODE_UNKNOWN_CATEGORY],
        ),
        (["HOROSCOPE"], pb.OUTCOME_INDETERMINATE, [pb.REASON_CODE_UNKNOWN_CATEGORY]),
    ],
)
def test_an_emergency_access_without_the_right_has_the_reasons_of_its_categories(
    running: Running, categories: list[str], outcome: int, reasons: list[int]
) -> None:
    asked = question(
        running.enrol(new_identifier()), purpose=BREAK_GLASS_PURPOSE, categories=categories, actor=actor(SUBJECT),
        break_glass=pb.BreakGlass(justification="unconscious"),
    )  # fmt: skip
    found = running.authorize(asked, "app").decision
    assert found.outcome == outcome
    assert [one.code for one in found.reasons] == reasons


def test_who_left_is_no_actor_no_holder_and_records_nothing(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject, holders=[])
        seq = running.authorize(question(subject), "clinic-b").access_seq
        used = request_id()
        record(running, subject, seq, request_id=used)
        for name in ("clinic-b", "hospital-a"):
            roles = ROLES[name]
            register(running, name, roles, active=False)
            assert running.check(question(subject)).outcome == pb.OUTCOME_NO_CONSENT
            answer = running.authorize(question(subject))
            assert answer.decision.outcome == pb.OUTCOME_NO_CONSENT
            assert answer.HasField("receipt")
            for call in (
                lambda name=name: record(running, subject, seq, name),
                lambda name=name: record(running, subject, seq, name, request_id=used),
                lambda name=name: running.authorize(question(subject), name),
            ):
                assert refusal(call) == "CALLER_NOT_ALLOWED"
            register(running, name, roles)
        assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
        register(running, "app", [st.PARTICIPANT_ROLE_RELAY], active=False)
        assert refusal(lambda: record(running, subject, seq, "app")) in ("CALLER_NOT_ALLOWED", "NOT_FOUND")
        assert_refused(running, question(subject), "app")
        assert refusal(lambda: running.check(question(subject, actor=actor(relays=["app"])), "clinic-b")) in REFUSALS


def test_a_deny_is_matched_against_the_caller(running: Running) -> None:
    subject = running.enrol(new_identifier())
    running.grant(subject)
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    for denied in ("app", "hospital-a"):
        root = {"effect": pb.EFFECT_DENY, "actors": [denied], "holders": [], "purposes": [], "categories": []}
        running.grant(subject, kind=pb.CONSENT_KIND_OBJECTION, **root)
    assert running.check(question(subject)).outcome == pb.OUTCOME_DENY
    assert running.check(question(subject), "clinic-b").outcome == pb.OUTCOME_PERMIT
    # A person who denies the hospital the use of data does not keep it from asking whether it may give data away.
    assert running.check(question(subject), "hospital-a").outcome == pb.OUTCOME_PERMIT


def test_a_delegation_that_ended_lets_nobody_ask(running: Running, permitted: pb.Subject) -> None:
    register(running, "carrier", [st.PARTICIPANT_ROLE_RELAY])
    running.tokens["carrier"] = running.tokens["app"]
    asked = question(permitted, holder="er", actor=actor(relays=["carrier"]))
    assert refusal(lambda: running.check(asked, "clinic-b")) == "ACTOR_NOT_ALLOWED"
    running.delegate("clinic-b", "carrier")
    assert running.check(asked, "clinic-b").outcome == pb.OUTCOME_PERMIT
    end_ms = now_ms(running) + 3_600_000
    running.delegate("clinic-b", "carrier", end_time_ms=end_ms)
    assert running.check(asked, "clinic-b").valid_until_time_ms == end_ms
    running.delegate("clinic-b", "carrier", ended=True)
    assert refusal(lambda: running.check(asked, "clinic-b")) == "ACTOR_NOT_ALLOWED"


def test_histories_name_all_who_took_part(running: Running, permitted: pb.Subject) -> None:
    running.delegate("clinic-b", "er", PROCESSOR)
    running.delegate("clinic-b", "app", APPLICATION)
    named = actor("er", on_behalf_of="clinic-b", relays=["app"], application="app", practitioner="dr-kim")
    running.authorize(question(permitted, actor=named))
    running.delegate("clinic-b", "er", PROCESSOR, ended=True)
    running.delegate("clinic-b", "app", APPLICATION, ended=True)
    (found,) = accesses(running, permitted)
    assert (found.asker, found.question.actor) == ("app", named)
    entry = st.AccessStatement(
        asked=st.AskedQuestion(question=found.question.SerializeToString(), asker=found.asker), decision=found.decision
    )
    for lang, by in (("en", "asked by app"), ("ko", "app 요청")):
        line = show.describe(entry, lang)
        assert "hospital-a → er for clinic-b with app via app, " in line
        assert line.endswith(by)


def test_a_person_asks_through_an_app_or_by_signature(running: Running) -> None:
    person = Person(running)
    running.grant(person.subject, actors=[SUBJECT])
    own = question(person.subject, actor=actor(SUBJECT))
    assert running.check(own).outcome == pb.OUTCOME_PERMIT
    assert running.check(question(person.subject, actor=actor("clinic-b"))).outcome == pb.OUTCOME_NO_CONSENT
    answer = running.authorize(own)
    assert answer.decision.outcome == pb.OUTCOME_PERMIT
    own_marketing = question(person.subject, actor=actor(SUBJECT), purpose="HMARKT")
    assert running.authorize(own_marketing).decision.outcome == pb.OUTCOME_NO_CONSENT

    def send(who: str, asked: pb.Question, signer: Person) -> ac.AuthorizeAccessResponse:
        request, time_ms, payload = request_id(), now_ms(running), asked.SerializeToString()
        text = codec.signed_message(
            origin=ORIGIN, kind=codec.QUESTION_KIND, tag=person.tag, ref=0, request_id=request,
            author_time_ms=time_ms, payload=payload,
        )  # fmt: skip
        signed = ac.SignedQuestion(
            question=payload, key=signer.key.public_key, signature=signer.key.sign(text), author_time_ms=time_ms,
            tag=person.tag,
        )  # fmt: skip
        write = ac.AuthorizeAccessRequest(request_id=request, signed_question=signed)
        return running.access.AuthorizeAccess(write, metadata=running.as_(who))

    assert send("hospital-a", own, person).decision.outcome == pb.OUTCOME_PERMIT
    assert refusal(lambda: send("clinic-b", own, person)) == "CALLER_NOT_ALLOWED"  # it stole the signed question
    named = question(person.subject, actor=actor(SUBJECT, application="clinic-b"))
    assert send("clinic-b", named, person).decision.outcome == pb.OUTCOME_PERMIT
    other = Person(running)
    assert refusal(lambda: send("hospital-a", own, other)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: send("app", own, other)) == "KEY_NOT_IN_FORCE"
    # The person's signature makes the caller no other institution.
    assert refusal(lambda: send("pipc", question(person.subject), person)) == "CALLER_NOT_ALLOWED"
    assert refusal(lambda: send("clinic-b", question(person.subject), person)) == "KEY_NOT_IN_FORCE"
