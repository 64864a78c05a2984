"""How a refused call is answered: at once while refusals are few, and else after ``PARKED_S`` seconds.

A caller that is refused and calls again at once costs as much as a caller that is served. So each caller has a budget
of refusals, and all callers together have one. A refusal within both budgets is answered at once. A refusal beyond
them is *parked*: its answer is sent later, and until then it holds a stream of its connection, but no thread and no
place in a pool. This slows down every caller that waits for its answers before it calls again.

The transport's thread owns all values of these classes. Times are seconds of a clock that only moves forward.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")
A = TypeVar("A")

PARKED_S = 15.0
"""How long the answer to a parked call is kept back. decisions/0012 says what was measured."""


@dataclass(slots=True)
class _Bucket:
    """A budget of so many refusals a second, and of *burst* after a time without refusals."""

    per_s: float
    burst: float
    left: float
    filled_s: float

    def is_left(self, now_s: float) -> bool:
        self.left = min(self.burst, self.left + (now_s - self.filled_s) * self.per_s)
        self.filled_s = now_s
        return self.left >= 1.0


class RefusalBudget:
    """How many refusals are answered at once. Callers without a known credential are one caller."""

    PER_S, BURST = 25.0, 100.0
    ALL_PER_S, ALL_BURST = 100.0, 400.0
    MOST_CALLERS = 10_000

    def __init__(self) -> None:
        self._all = _Bucket(self.ALL_PER_S, self.ALL_BURST, self.ALL_BURST, 0.0)
        self._of_caller: OrderedDict[str, _Bucket] = OrderedDict()  # who was refused longest ago is first

    def take(self, caller: str, now_s: float, *, cost: float = 1.0) -> bool:
        """Take a refusal of *caller* from the budgets; return False, and take nothing, if one of them is used up.

        *cost*: how many ordinary refusals this one counts for. The last one may cost more than is left.
        """
        own = self._of_caller.get(caller)
        if own is None:
            own = self._of_caller[caller] = _Bucket(self.PER_S, self.BURST, self.BURST, now_s)
            if len(self._of_caller) > self.MOST_CALLERS:
                self._of_caller.popitem(last=False)  # its budget begins anew; the one of all callers still limits it
        self._of_caller.move_to_end(caller)
        if not (own.is_left(now_s) and self._all.is_left(now_s)):
            return False
        own.left -= cost
        self._all.left -= cost
        return True


class Parked(Generic[C, A]):
    """Calls whose answers are kept back, at most *most* of them. The call that was parked first is due first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._answers: OrderedDict[C, tuple[float, A]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def put(self, call: C, answer: A, now_s: float) -> tuple[C, A] | None:
        """Park *call*; return the call that must be answered now to make room for it, with its answer."""
        earlier = self.take_due(float("inf")) if len(self._answers) >= self.most else None
        self._answers[call] = (now_s + PARKED_S, answer)
        return earlier

    def take_due(self, now_s: float) -> tuple[C, A] | None:
        """Return one call whose time is over, with its answer; None: there is none."""
        for call, (due_s, answer) in self._answers.items():  # the first is due first
            if due_s > now_s:
                return None
            del self._answers[call]
            return call, answer
        return None

    def drop(self, call: C) -> None:
        """Forget a call that is over."""
        self._answers.pop(call, None)
