"""Reduce an answer for a caller who may not learn why data may not be transferred (policy.md, "One answer").

A person may have objected, may have given no consent, may have a consent that cannot be read, or may not be enrolled.
An institution gets the same answer in all four cases: DENY, with every category that is not permitted in ``denied``.
The permitted part of an answer keeps its reasons. Codes that the vocabulary does not have stay ``unknown``, because
they say nothing about the person.

The time of an answer must be the same too. So a question about a person who is not enrolled reads a row of the table
that does not exist, and evaluates ``PLACEHOLDER``, as if the person had consents. ``benchmarks/negatives.py`` compares
the times.
"""

from typing import Final

from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import Compiled
from consentd.policy.evaluate import Verdict
from consentd.policy.model import OPEN_END_MS, Effect, Outcome, ReasonCode
from consentd.policy.rows import ALL_16, ALL_64, ANY_NUMBER, PERMIT, Row, pack_rows
from consentd.policy.subject import Lineage, encode_subject

_NOBODY: Final = (1 << 32) - 2  # a number that no participant has
_ROW: Final = Row(_NOBODY, ANY_NUMBER, ALL_64, ALL_64, 0, OPEN_END_MS, 0, ALL_16, 0, PERMIT, 0, 0, 0)
PLACEHOLDER: Final = encode_subject(
    Lineage(number, number, 1, False, Compiled(0, 0, pack_rows([_ROW]), b"")) for number in range(1, 4)
)
"""A subject value of three consents that match no question."""
_FAULTS: Final = (ReasonCode.CLOCK, ReasonCode.DAMAGED_ROW)
NO_TAG: Final = bytes(32)
"""A tag that no person has."""


def reduce_verdict(verdict: Verdict, question: PackedQuestion) -> Verdict:
    """Return the reduced form of a verdict on *question*.

    A PERMIT is its own reduced form. So is the answer to a question that could not be answered because of a fault of
    ours: every asker gets it as it is.
    """
    if verdict.outcome is Outcome.PERMIT or any(reason[0] in _FAULTS for reason in verdict.reasons):
        return verdict
    refused = verdict.denied | verdict.without | verdict.unknown
    reasons = [reason for reason in verdict.reasons if reason[1] is Effect.PERMIT]
    refs = [verdict.ref if verdict.permitted else 0, 0]  # of what permits, of what denies
    reduced = Verdict((verdict.permitted, refused, 0, 0), reasons, refs, question, OPEN_END_MS)
    if verdict.permitted:
        reduced.conditions, reduced.obligations = verdict.conditions, verdict.obligations
    return reduced
