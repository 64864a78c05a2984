"""The condition of a call on the state that it is answered from: reached, awaited or refused, by every RPC alike."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.authorities import add_representative, put_authority
from cases.daemons import Running, consent, question, reason_of, request_id, running_daemon
from cases.earlier_trees import at_exact
from cases.fakes import HANG_S
from cases.notices import make_notice
from cases.services import FOREIGN_FIELD, batch_request, new_identifier, refusal, services, wait_calls
from consentd.service import servicer
from consentd.service.consistency import MAX_AHEAD
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

LATEST = pb.Consistency(latest=pb.LatestState())


def at_least(size: int) -> pb.Consistency:
    return pb.Consistency(at_least_tree_size=size)


class World:
    """A daemon in which nothing is left to seal, so that it grows only by what a test writes."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.subject = running.enrol(new_identifier())
        self.consent_id = running.grant(self.subject)
        self.access_seq = running.authorize(question(self.subject)).access_seq
        add_representative(running)
        self.authority_seq = put_authority(running, self.subject)
        notice = make_notice("n1", title={"en": "n1"})
        request = rs.PublishNoticeRequest(request_id=request_id(), attested=notice)
        running.registry.PublishNotice(request, metadata=running.as_("operator"))

    def size(self) -> int:
        return self.running.wait_published().ledger.state.size

    def calls(self) -> dict[str, Callable[[pb.Consistency], Any]]:
        """Return, for each RPC with a condition, a function that begins a call with this condition."""
        running, asked, app = self.running, question(self.subject), self.running.as_("app")

        def begin(stub: Any, name: str, request: Any, who: Any = None) -> Callable[[pb.Consistency], Any]:
            def call(consistency: pb.Consistency) -> Any:
                message = type(request)()
                message.CopyFrom(request)
                message.consistency.CopyFrom(consistency)
                if hasattr(message, "request_id"):
                    message.request_id = request_id()
                return getattr(stub, name).future(message, metadata=who or app, timeout=HANG_S)

            return call

        return {
            "Check": begin(running.policy, "Check", ps.CheckRequest(question=asked)),
            "BatchCheck": begin(running.policy, "BatchCheck", batch_request(questions=[asked])),
            "AuthorizeAccess": begin(running.access, "AuthorizeAccess", ac.AuthorizeAccessRequest(question=asked), app),
            "GetAccess": begin(
                running.access, "GetAccess",
                ac.GetAccessRequest(subject=self.subject, access_seq=self.access_seq),
            ),
            "ListAccesses": begin(running.access, "ListAccesses", ac.ListAccessesRequest(subject=self.subject)),
            "GetConsent": begin(
                running.consents, "GetConsent",
                cs.GetConsentRequest(subject=self.subject, consent_id=self.consent_id),
            ),
            "ListConsents": begin(running.consents, "ListConsents", cs.ListConsentsRequest(subject=self.subject)),
            "GetAuthority": begin(
                running.consents, "GetAuthority",
                cs.GetAuthorityRequest(subject=self.subject, authority_seq=self.authority_seq),
            ),
            "ListAuthorities": begin(
                running.consents, "ListAuthorities", cs.ListAuthoritiesRequest(subject=self.subject)
            ),
            "GetParticipant": begin(
                running.registry, "GetParticipant", rs.GetParticipantRequest(participant_id="app")
            ),
            "ListParticipants": begin(running.registry, "ListParticipants", rs.ListParticipantsRequest()),
            "ListDelegations": begin(running.registry, "ListDelegations", rs.ListDelegationsRequest()),
            "GetVocabulary": begin(running.registry, "GetVocabulary", rs.GetVocabularyRequest()),
            "GetNotice": begin(running.registry, "GetNotice", rs.GetNoticeRequest(notice_id="n1")),
            "GetRules": begin(running.registry, "GetRules", rs.GetRulesRequest()),
        }  # fmt: skip


NAMES = (
    "Check", "BatchCheck", "AuthorizeAccess", "GetAccess", "ListAccesses", "GetConsent", "ListConsents",
    "GetAuthority", "ListAuthorities", "GetParticipant", "ListParticipants", "ListDelegations", "GetVocabulary",
    "GetNotice", "GetRules",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_daemon(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10) as running:
        yield World(running)
        running.check_ledger()


def revision_of(name: str, answer: Any) -> int:
    """Return the size of the state that an answer reflects."""
    if name == "BatchCheck":
        (result,) = answer.results
        return int(result.decision.revision.tree_size)
    found = answer.decision if name in ("Check", "AuthorizeAccess") else answer
    return int(found.revision.tree_size)


def refused(call: Any) -> str:
    return refusal(partial(call.result, HANG_S))


def test_every_rpc_with_a_condition_is_tested(world: World) -> None:
    files = (ac, cs, ps, rs)
    requests = [one for file in files for one in file.DESCRIPTOR.message_types_by_name.values()]
    having = {one.name.removesuffix("Request") for one in requests if "consistency" in one.fields_by_name}
    assert having == set(NAMES) == set(world.calls())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_reached_answers_at_once(world: World, name: str) -> None:
    call, size = world.calls()[name], world.size()
    for consistency in (pb.Consistency(), LATEST, at_least(0), at_least(1), at_least(size)):
        assert revision_of(name, call(consistency).result(HANG_S)) >= size


@pytest.mark.parametrize("name", NAMES)
def test_a_later_state_is_awaited_without_a_thread(world: World, name: str) -> None:
    call, size = world.calls()[name], world.size()
    waiting = [call(at_least(size + 1)) for _ in range(9)]  # more than any pool has threads
    wait_calls(world.running, "wait", 9)
    assert world.calls()[name](LATEST).result(HANG_S)  # what this writes, if anything, does not end the waits early
    world.running.enrol(new_identifier())
    for one in waiting:
        assert revision_of(name, one.result(HANG_S)) > size
    wait_calls(world.running, "wait", 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_does_not_come_is_refused(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "MAX_WAIT_S", 0.0)
    call, size = world.calls()[name], world.size()
    assert refused(call(at_least(size + 1_000))) == "REVISION_NOT_REACHED"


@pytest.mark.parametrize("name", NAMES)
def test_a_size_of_another_ledger_and_an_unknown_condition_are_refused(world: World, name: str) -> None:
    call, size = world.calls()[name], world.size()
    for strange in (at_least(size + 2 * MAX_AHEAD), at_least((1 << 64) - 1)):
        assert refused(call(strange)) == "INVALID_REQUEST"
    unknown = pb.Consistency.FromString(FOREIGN_FIELD)
    latest = pb.Consistency(latest=pb.LatestState.FromString(FOREIGN_FIELD))
    assert [refused(call(one)) for one in (unknown, latest)] == ["UNKNOWN_FIELD"] * 2
    if name not in ("Check", "BatchCheck"):
        assert refused(call(at_exact(size, 0))) == "INVALID_REQUEST"


def test_the_caller_that_waits_may_go(world: World) -> None:
    waiting = world.calls()["Check"](at_least(world.size() + 1_000))
    wait_calls(world.running, "wait", 1)
    waiting.cancel()
    wait_calls(world.running, "wait", 0)
    assert waiting.cancelled()


def test_a_batch_waits_once_for_the_largest_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    size, running = world.size(), world.running
    conditions = [None, at_least(size), at_least(size + 1), at_least(1 << 60), LATEST]
    requests = [
        ac.AuthorizeAccessRequest(request_id=request_id(), question=question(world.subject), consistency=one)
        for one in conditions
    ]
    batch = running.access.BatchAuthorizeAccesses.future(
        ac.BatchAuthorizeAccessesRequest(requests=requests), metadata=running.as_("app")
    )
    wait_calls(running, "wait", 1)
    running.enrol(new_identifier())
    results = batch.result(HANG_S).results
    assert [one.HasField("error") for one in results] == [False, False, False, True, False]
    monkeypatch.setattr(servicer, "MAX_WAIT_S", 0.0)
    (late,) = running.access.BatchAuthorizeAccesses(
        ac.BatchAuthorizeAccessesRequest(requests=[
            ac.AuthorizeAccessRequest(
                request_id=request_id(), question=question(world.subject), consistency=at_least(world.size() + 99)
            )
        ]), metadata=running.as_("app"),
    ).results  # fmt: skip
    assert late.HasField("error")


@pytest.mark.parametrize("name", ["ListAccesses", "ListConsents", "ListParticipants", "ListDelegations"])
def test_a_page_token_goes_with_the_condition_of_its_first_page(world: World, name: str) -> None:
    running, size = world.running, world.size()
    for _ in range(2):
        running.grant(world.subject)
        running.authorize(question(world.subject))
    stub = {"ListAccesses": running.access, "ListConsents": running.consents}.get(name, running.registry)
    module = {"ListAccesses": ac, "ListConsents": cs}.get(name, rs)
    request = getattr(module, f"{name}Request")(page_size=1, consistency=at_least(size))
    if hasattr(request, "subject"):
        request.subject.CopyFrom(world.subject)
    app = running.as_("app")
    token = getattr(stub, name)(request, metadata=app).next_page_token
    assert token
    request.page_token = token
    assert getattr(stub, name)(request, metadata=app)
    for other in (at_least(size - 1), at_least(size + 1), LATEST, None):
        request.ClearField("consistency")
        if other is not None:
            request.consistency.CopyFrom(other)
        assert refusal(partial(getattr(stub, name), request, metadata=app)) == "INVALID_PAGE"


def test_no_more_wait_than_the_pool_of_waits_holds(tmp_path: Path) -> None:
    extra = "max_calls = 16\nmax_calls_per_caller = 3"
    with running_daemon(tmp_path, grpc=extra, checkpoint_interval_ms=10) as running:
        world = World(running)
        check, size = world.calls()["Check"], world.size()
        waiting = [check(at_least(size + 1)) for _ in range(3)]
        wait_calls(running, "wait", 3)
        assert refused(check(at_least(size + 1))) == "REVISION_NOT_REACHED"  # at once: this caller has three waits
        assert check(LATEST).result(HANG_S)
        running.enrol(new_identifier())
        assert all(one.result(HANG_S) for one in waiting)
        running.check_ledger()


def test_a_daemon_that_stops_ends_the_waits(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        world = World(running)
        waiting = world.calls()["GetRules"](at_least(world.size() + 1_000))
        wait_calls(running, "wait", 1)
        running.daemon.stop()
        with pytest.raises(grpc.RpcError) as ended:
            waiting.result(HANG_S)
        assert reason_of(ended.value) == "REVISION_NOT_REACHED"


def test_waits_end_when_the_writer_fails(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=10) as running:
        world = World(running)
        waiting = world.calls()["Check"](at_least(world.size() + 1_000))
        wait_calls(running, "wait", 1)
        services(running).sequencer._stop_on(OSError("a fault"))
        assert refused(waiting) == "REVISION_NOT_REACHED"


def test_a_caller_that_got_its_size_from_a_receipt_never_waits(world: World) -> None:
    given = st.GrantStatement(consent=consent())
    request = cs.GrantConsentRequest(request_id=request_id(), subject=world.subject, attested=given)
    receipt = world.running.consents.GrantConsent(request, metadata=world.running.as_("app")).receipt
    asked = ps.CheckRequest(question=question(world.subject), consistency=at_least(receipt.revision.tree_size))
    answer = world.running.policy.Check(asked, metadata=world.running.as_("app"), timeout=HANG_S).decision
    assert answer.revision.tree_size >= receipt.revision.tree_size > receipt.index
