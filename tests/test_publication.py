"""Which checkpoint is the target, and when its note is due: the decisions alone, at times that a test chooses."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from consentd.core import checkpoint, note
from consentd.core.checkpoint import Checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.quorum import parse_policy
from consentd.cosigning.publication import FRESH_MS, CosignedCheckpoint, Publication
from consentd.cosigning.witness_client import WitnessResponse, WitnessResult
from consentd.metrics import Metrics

LOG = note.Signer("log.test", KeyPair(b"l" * 32))
TIMEOUT_MS = 1_000


@dataclass(eq=False)
class FakeClient:
    """What the decisions need of a witness."""

    name: str
    size: int = 0
    verifiers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.signer = note.Signer(f"w.test/{self.name}", KeyPair(self.name.encode() * 32), note.COSIGNATURE)
        self.verifiers = {self.name: self.signer.verifier}


@dataclass
class Case:
    """A publication with two witnesses, ``a`` and ``b``, of which both are needed."""

    fail_open: bool = False
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.a, self.b = FakeClient("a"), FakeClient("b")
        lines = [f"witness {each.name} {note.format_vkey(each.signer.verifier)}\n" for each in (self.a, self.b)]
        policy = parse_policy("".join([*lines, "group both all a b\nquorum both\n"]).encode())
        self.publication = Publication(
            policy, timeout_ms=TIMEOUT_MS, fail_open=self.fail_open, metrics=self.metrics
        )

    def offer(self, size: int, now_ms: int = 0) -> None:
        text = checkpoint.format_checkpoint(Checkpoint(LOG.name, size, bytes(32)))
        point = checkpoint.parse_checkpoint(text)
        self.publication.offer(CosignedCheckpoint(point, text, (LOG.sign(text),), now_ms))
        self.publication.advance(now_ms)

    def cosign(self, client: FakeClient, now_ms: int) -> None:
        target = self.publication.target
        assert target is not None
        client.size = target.point.size
        line = client.signer.cosign(target.text, 1)
        response = WitnessResponse(WitnessResult.COSIGNED, "", {client.name: line})
        self.publication.add_response(target, client, response, now_ms)  # type: ignore[arg-type]

    def published(self, now_ms: int) -> tuple[int, int] | None:
        """Return size and number of cosignatures of the note that is due."""
        due = self.publication.take_due(now_ms)
        return None if due is None else (due.checkpoint.size, len(note.parse_note(due.note).unverified) - 1)


def test_a_target_is_due_once_with_its_quorum() -> None:
    case = Case()
    case.offer(3)
    case.cosign(case.a, 10)
    assert case.published(10) is None
    case.cosign(case.b, 20)
    assert [case.published(20), case.published(21)] == [(3, 2), None]
    assert case.publication.is_settled()


def test_the_next_target_is_the_latest_and_those_between_are_skipped() -> None:
    case = Case()
    for size in (3, 4, 5):
        case.offer(size)
    assert case.publication.target is not None
    assert case.publication.target.point.size == 3
    case.cosign(case.a, 10)
    case.cosign(case.b, 10)
    assert case.published(10) == (3, 2)
    assert case.publication.advance(11)
    assert case.publication.target.point.size == 5


def test_a_target_that_a_witness_has_passed_is_given_up() -> None:
    case = Case()
    case.offer(3)
    target = case.publication.target
    assert target is not None
    case.a.size = 9
    case.publication.add_response(target, case.a, WitnessResponse(WitnessResult.REFUSED), 5)  # type: ignore[arg-type]
    case.offer(10)
    assert case.publication.target is not target


@pytest.mark.parametrize(("fail_open", "due"), [(False, None), (True, (3, 1))])
def test_after_the_timeout_a_target_is_late_and_due_only_if_it_may_fail_open(
    fail_open: bool, due: tuple[int, int] | None
) -> None:
    case = Case(fail_open)
    case.offer(3)
    case.cosign(case.a, 10)
    assert case.publication.timeout_at_ms(10) == TIMEOUT_MS
    assert case.published(TIMEOUT_MS - 1) is None
    assert case.publication.has_quorum
    assert [case.published(TIMEOUT_MS), case.published(TIMEOUT_MS + 1)] == [due, None]
    assert not case.publication.has_quorum
    assert case.publication.is_settled()
    assert case.metrics.value("consentd_publish_failures_total") == 1
    case.cosign(case.b, TIMEOUT_MS + 2)  # a late cosignature is added all the same
    assert case.published(TIMEOUT_MS + 2) == (3, 2)
    assert case.publication.has_quorum


def test_old_cosignatures_do_not_count_and_new_ones_are_published() -> None:
    case = Case()
    case.offer(3)
    case.cosign(case.a, 0)
    case.cosign(case.b, 100)
    assert case.published(100) == (3, 2)
    assert case.published(FRESH_MS) is None
    assert not case.publication.has_quorum
    case.cosign(case.a, FRESH_MS + 1)
    assert case.published(FRESH_MS + 1) == (3, 2)
    assert case.publication.has_quorum
    case.cosign(case.b, FRESH_MS + 200)
    assert case.published(FRESH_MS + 200) == (3, 2)
    assert case.publication.has_quorum
