"""Collect what the consents that recur say to a question about a transfer, when rows are matched (rule 13)."""

from consentd.policy.match_row import RowMatcher
from consentd.policy.shapes import UsedUp
from consentd.policy.subject import Ids
from consentd.policy.tree import Paths, Where


class Transfers:
    """Collects what a matcher finds of consents that recur: which they are, and which of their permits are used up."""

    def __init__(self, matcher: RowMatcher) -> None:
        self._matcher = matcher
        self.used_up: list[tuple[UsedUp, Ids, Where]] = []
        self.recurring: dict[int, int] = {}

    def collect(self, ids: Ids, path: str | Paths) -> None:
        """Take over what the matcher found of the rows of one tree. *path*: as in ``Tree``."""
        matcher = self._matcher
        if matcher.recurrence is not None:
            self.recurring[ids[1]] = matcher.recurrence.period_at(matcher.now_ms)[1]
            matcher.recurrence = None
            self.used_up += ((one, ids, path if isinstance(path, str) else (path, one.node)) for one in matcher.used_up)
            matcher.used_up = []
