"""Reduce an answer for a caller who may not learn why data may not be transferred (policy.md, "One answer").

A person may have objected, may have given no consent, may have a consent that cannot be read, or may not be enrolled.
An institution gets the same answer in all four cases: DENY, with every category that is not permitted in ``denied``.
The permitted part of an answer keeps its reasons. Codes that the vocabulary does not have stay ``unknown``, because
they say nothing about the person.
"""

from consentd.policy.codebook import PackedQuestion
from consentd.policy.evaluate import Verdict
from consentd.policy.model import OPEN_END_MS, Effect, Outcome


def reduce_verdict(verdict: Verdict, question: PackedQuestion) -> Verdict:
    """Return the reduced form of a verdict on *question*. A PERMIT is its own reduced form."""
    if verdict.outcome is Outcome.PERMIT:
        return verdict
    refused = verdict.denied | verdict.without | verdict.unknown
    reasons = [reason for reason in verdict.reasons if reason[1] is Effect.PERMIT]
    refs = [verdict.ref if verdict.permitted else 0, 0]  # of what permits, of what denies
    reduced = Verdict((verdict.permitted, refused, 0, 0), reasons, refs, question, OPEN_END_MS)
    if verdict.permitted:
        reduced.conditions, reduced.obligations = verdict.conditions, verdict.obligations
    return reduced
