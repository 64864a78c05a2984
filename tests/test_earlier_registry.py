"""Participants, vocabulary, notices and rules as an earlier tree has them: read from the public chains."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.command_lines import CommandLine
from cases.daemons import Running, make_running, reason_of, request_id
from cases.notices import make_notice
from cases.pruned_ledgers import World
from cases.services import add_key, participant, publish_rules, put_mandate, refusal, register, retire_key, services
from consentd.core.ed25519 import KeyPair
from consentd.ledger import reads
from consentd.service import earlier_registry
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client

PAIRS = [KeyPair(bytes([number]) * 32) for number in (0x51, 0x52, 0x53)]
KEYS = [pair.public_key for pair in PAIRS]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = make_running(tmp_path)
    yield running
    running.check_ledger()
    running.stop()


def size(running: Running) -> int:
    with services(running).table.read() as snapshot:
        return snapshot.size


def read(running: Running, name: str, who: str = "app", **fields: Any) -> Any:
    request = getattr(rs, f"Get{name}Request")(**fields)
    return getattr(running.registry, f"Get{name}")(request, metadata=running.as_(who))


def publish_notice(running: Running, notice_id: str, version: int) -> None:
    notice = make_notice(notice_id, version)
    request = rs.PublishNoticeRequest(request_id=request_id(), attested=notice)
    running.registry.PublishNotice(request, metadata=running.as_("operator"))


def publish_vocabulary(running: Running) -> None:
    message = read(running, "Vocabulary").vocabulary
    message.version += 1
    message.ClearField("attestation")
    name = f"T{message.version}"
    message.codes.add(kind=st.CODE_KIND_LABEL, code=name, name={"en": name})
    request = rs.PublishVocabularyRequest(request_id=request_id(), attested=message)
    running.registry.PublishVocabulary(request, metadata=running.as_("operator"))


def change_everything(running: Running) -> Iterator[None]:
    """Change each thing that is read, one step at a time."""
    steps: list[Callable[[], object]] = [
        lambda: publish_notice(running, "n1", 1),
        lambda: publish_vocabulary(running),
        lambda: register(running, "lab", [st.PARTICIPANT_ROLE_HOLDER]),
        lambda: publish_notice(running, "n1", 2),
        lambda: add_key(running, "lab", PAIRS[2]),
        lambda: publish_rules(running, recipient_may_attest=True),
        lambda: add_key(running, "lab", PAIRS[0]),
        lambda: publish_notice(running, "n12", 1),
        lambda: retire_key(running, "lab", KEYS[2]),
        lambda: publish_vocabulary(running),
        lambda: register(running, "pipc", [st.PARTICIPANT_ROLE_AUDITOR]),
        lambda: put_mandate(running, "pipc", scope="all", reason="order 12", end_time_ms=1 << 45),
        lambda: put_mandate(running, "pipc", scope="few", reason="order 13", end_time_ms=1 << 45),
        lambda: running.registry.EndMandate(
            rs.EndMandateRequest(request_id=request_id(), attested=st.MandateStatement(auditor="pipc", ended=True)),
            metadata=running.as_("operator"),
        ),
        lambda: register(running, "lab", [st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT], active=False),
        lambda: publish_rules(running, recipient_may_attest=False),
        lambda: publish_notice(running, "n1", 3),
    ]  # fmt: skip
    for step in steps:
        step()
        yield


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("Vocabulary", {}), ("Rules", {}), ("Notice", {"notice_id": "n1"}), ("Notice", {"notice_id": "n1", "version": 2}),
    ("Notice", {"notice_id": "n12"}), ("Participant", {"participant_id": "lab"}),
    ("Participant", {"participant_id": "pipc"}), ("Participant", {"participant_id": "app"}),
]  # fmt: skip


def answers(running: Running, **more: Any) -> list[Any]:
    """Return what each call answers, or the reason for which it is refused."""

    def ask(name: str, fields: dict[str, Any]) -> Any:
        try:
            return read(running, name, **fields, **more)
        except grpc.RpcError as error:
            return reason_of(error)

    return [ask(*one) for one in ASKED]


def stated(answered: list[Any]) -> list[Any]:
    """Return answers without their revisions."""
    copies = [one if isinstance(one, str) else type(one).FromString(one.SerializeToString()) for one in answered]
    for one in copies:
        if not isinstance(one, str):
            one.ClearField("revision")
    return copies


def test_an_earlier_tree_answers_as_it_did_when_it_was_the_latest(running: Running) -> None:
    # A seal may come between the calls of one step. It changes nothing but the revision.
    seen = [(size(running), stated(answers(running)))]
    seen += [(size(running), stated(answers(running))) for _ in change_everything(running)]
    assert len({count for count, _ in seen}) == len(seen) > 15
    for count, answered in seen:
        assert stated(answers(running, tree_size=count)) == answered, count
    assert stated(answers(running)) == seen[-1][1]
    # A tree between two of them ends with a seal, or within what one step wrote.
    for (first, before), (second, after) in pairwise(seen):
        for between in range(first + 1, second):
            found = answers(running, tree_size=between)
            for was, one, then in zip(before, stated(found), after, strict=True):
                assert one in (was, then)
            root = reads.root_at(services(running).ledger.store, between)
            for one in found:
                assert isinstance(one, str) or one.revision == pb.Revision(tree_size=between, root_hash=root)


def test_the_first_trees_have_nothing(running: Running) -> None:
    assert set(answers(running, tree_size=1)) == {"NOT_FOUND"}


def test_a_tree_that_is_not_there(running: Running) -> None:
    now = size(running)
    for name, fields in ASKED[:3]:
        for wanted, reason in ((now + 1, "REVISION_NOT_REACHED"), (now + 1_000_000, "INVALID_REQUEST")):
            assert refusal(lambda: read(running, name, **fields, tree_size=wanted)) == reason  # noqa: B023
        assert refusal(lambda: read(running, name, **fields, tree_size=2**64 - 1)) == "INVALID_REQUEST"  # noqa: B023


def test_names_that_nothing_has(running: Running) -> None:
    now = size(running)
    for strange in ("", "nobody", "app\0", "app/", "개인", "n" * 5_000):
        for name, fields in (("Participant", {"participant_id": strange}), ("Notice", {"notice_id": strange})):
            assert refusal(lambda: read(running, name, **fields, tree_size=now)) == "NOT_FOUND"  # noqa: B023


def test_a_chain_that_is_too_long_for_one_answer(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    register(running, "lab", [st.PARTICIPANT_ROLE_HOLDER])
    add_key(running, "lab", PAIRS[0])
    two = size(running)
    add_key(running, "lab", PAIRS[1])
    monkeypatch.setattr(earlier_registry, "MAX_ENTRIES", 2)
    wanted = {"participant_id": "lab"}
    assert list(read(running, "Participant", **wanted, tree_size=two).keys) == [KEYS[0]]
    assert refusal(lambda: read(running, "Participant", **wanted, tree_size=size(running))) == "TOO_LARGE"
    assert len(participant(running, "lab").keys) == 2


def test_the_client_and_the_verbs(running: Running) -> None:
    before = size(running)
    publish_vocabulary(running)
    register(running, "lab", [st.PARTICIPANT_ROLE_HOLDER])
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    with Client(target, token=running.tokens["app"]) as client:
        new, old = client.get_vocabulary(), client.get_vocabulary(tree_size=before)
        assert (new.version, old.version) == (old.version + 1, old.version)
        assert client.get_rules(tree_size=before) == client.get_rules()
        assert client.get_participant("app", tree_size=before).participant.participant_id == "app"
    talk = CommandLine({"CONSENTD_TOKEN": running.tokens["app"], "CONSENTD_TARGET": target})
    assert talk("participants", "show", "lab").status == 0
    assert talk("participants", "show", "lab", "--tree-size", before).status != 0
    assert len(talk("vocabulary", "--tree-size", before, "--json").objects) == len(old.codes)
    for wrong in (-1, 1 << 64):
        assert talk("vocabulary", "--tree-size", wrong).status == 2


def test_a_pruned_ledger_still_has_every_public_chain(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = size(world.running)
    asked = [("Rules", {}), ("Vocabulary", {}), ("Participant", {"participant_id": "app"})]
    was = [read(world.running, name, **fields, tree_size=before) for name, fields in asked]
    world.outlive(3)
    assert world.prune().start_size > before
    assert [read(world.running, name, **fields, tree_size=before) for name, fields in asked] == was
    world.running.check_ledger()
    world.running.stop()
