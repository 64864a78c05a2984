"""Operations that stop at a step until a test has done what it wants to do meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from cases.fakes import HANG_S
from consentd.service.operations import Follower
from consentd.v1 import admin_service_pb2 as ad


@dataclass(slots=True)
class Held:
    """An operation that is held.

    Attributes:
        follower: that of the operation, once it is at the step.
        reached: set when it is at the step.
        released: set this to let it go on.
    """

    follower: Follower | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def wait_ended(self) -> None:
        """Wait until somebody has ended the operation, which then ends where it is held."""
        assert self.follower is not None
        assert self.follower._ended.wait(HANG_S)


@contextmanager
def held_at(step: "ad.OperationStep.ValueType", number: int = 1) -> Iterator[Held]:
    """Hold the next operation at its report of *step* with this *number* (1: the first), until the block ends."""
    held, report, reports = Held(), Follower.report, list[int]()

    def report_late(self: Follower, at: "ad.OperationStep.ValueType", done: int = 0, total: int = 0) -> None:
        if at == step:
            reports.append(at)
            if len(reports) == number:
                held.follower = self
                held.reached.set()
                assert held.released.wait(HANG_S)
        report(self, at, done, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Follower, "report", report_late)
        try:
            yield held
        finally:
            held.released.set()


def join_operation() -> None:
    """Wait until no operation runs in this process."""
    for thread in threading.enumerate():
        if thread.name == "operation":
            thread.join(HANG_S)
            assert not thread.is_alive()
