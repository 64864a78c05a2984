"""Make questions whose right answers are known: 60 % find no consent, 35 % are permitted, 5 % are denied."""

from collections.abc import Sequence
from itertools import accumulate
from random import Random

from benchmarks.world import PARTICIPANTS, RELAY, holder, recipient, subject
from consentd.v1 import consent_pb2 as pb

MIX = ((pb.OUTCOME_NO_CONSENT, 60), (pb.OUTCOME_PERMIT, 35), (pb.OUTCOME_DENY, 5))
HALF = ((pb.OUTCOME_NO_CONSENT, 45), (pb.OUTCOME_PERMIT, 50), (pb.OUTCOME_DENY, 5))
"""The mix in which half of the questions are permitted."""
ZIPF = 0.8

Mix = tuple[tuple["pb.Outcome.ValueType", int], ...]

Asked = tuple[pb.Question, "pb.Outcome.ValueType"]


def make_question(random: Random, number: int, outcome: "pb.Outcome.ValueType") -> pb.Question:
    """Return a question about subject *number* whose right outcome is *outcome*; DENY needs every fourth subject."""
    purpose, category, who = "TREAT", random.choice(("CLIN.DX", "CLIN.RX", "CLIN.LAB")), number
    if outcome == pb.OUTCOME_PERMIT and random.random() < 0.5:
        purpose, category, who = "CAREMGT", random.choice(("INS.RX", "LIFE.BP")), number + 13
    elif outcome == pb.OUTCOME_NO_CONSENT:
        who = number + random.choice((1, 2, 3, 5, 7, 11))
    elif outcome == pb.OUTCOME_DENY:
        assert number % 4 == 0, "only every fourth subject objects to somebody"
        who = number + 29
    return pb.Question(
        subject=subject(number),
        actor=pb.Actor(organisation=recipient(who), relays=[RELAY], automatic=True),
        holder=holder(random.randrange(PARTICIPANTS)),
        purpose=purpose,
        action="disclose",
        categories=[category],
    )


def make_questions(seed: int, count: int, subjects: int, mix: Mix = MIX) -> list[Asked]:
    """Return different questions, in the proportions of *mix*, about subjects chosen by Zipf's law."""
    random = Random(seed)
    ranks = list(accumulate(1 / rank**ZIPF for rank in range(1, subjects + 1)))
    numbers = random.choices(range(subjects), cum_weights=ranks, k=count)
    outcomes = random.choices([one for one, _ in mix], [fraction for _, fraction in mix], k=count)
    made = []
    for number, outcome in zip(numbers, outcomes, strict=True):
        # A fixed odd multiplier spreads the ranks over the identifiers, and so over the table's pages.
        location = number * 7_368_787 % subjects
        if outcome == pb.OUTCOME_DENY:
            location -= location % 4
        made.append((make_question(random, location, outcome), outcome))
    return made


def count_wrong(asked: Sequence[Asked], answered: Sequence[tuple[int, "pb.Outcome.ValueType"]]) -> int:
    """Count wrong answers; each is (index of the question, outcome)."""
    return sum(outcome != asked[location % len(asked)][1] for location, outcome in answered)
