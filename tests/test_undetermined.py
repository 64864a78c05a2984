"""The answer to a question that cannot be answered because of a fault of ours: every asker gets it as it is."""

import random
from dataclasses import replace

import pytest

from cases.participants import pack
from cases.policy_worlds import CODEBOOK, RESIDUAL, Draw, World
from consentd.policy.evaluate import decision, evaluate, undetermined
from consentd.policy.model import OPEN_END_MS, Actor, Outcome, ReasonCode
from consentd.policy.reduce import PLACEHOLDER, reduce_verdict

ASKED = replace(
    Draw(random.Random(1)).question(), actor=Actor(organisation="a"), holder="r", purpose="TREAT", action="access",
    categories=("CLIN", "STRANGE"), break_glass=None, supported_obligations=RESIDUAL,
)  # fmt: skip


@pytest.mark.parametrize("code", [ReasonCode.CLOCK, ReasonCode.DAMAGED_ROW])
def test_every_category_is_unknown_to_every_asker(code: ReasonCode) -> None:
    question = pack(ASKED, CODEBOOK)
    verdict = undetermined(question, code)
    assert reduce_verdict(verdict, question) is verdict
    found = decision(verdict, question, CODEBOOK, World().compiled)
    assert found.outcome is Outcome.INDETERMINATE
    assert found.unknown == ("CLIN.A", "CLIN.B", "CLIN.C", "CLIN.D", "STRANGE")
    assert (found.permitted, found.denied, found.without_consent) == ((), (), ())
    assert [reason.code for reason in found.reasons] == [code, ReasonCode.UNKNOWN_CATEGORY]
    assert (found.obligations, found.residual, found.valid_until_ms, found.ref) == ((), (), OPEN_END_MS, 0)


def test_what_the_person_did_is_reduced() -> None:
    question = pack(ASKED, CODEBOOK)
    for value in (None, b"", PLACEHOLDER):
        verdict = reduce_verdict(evaluate(value, question, World().compiled, 0), question)
        assert (verdict.outcome, verdict.denied, verdict.reasons) == (Outcome.DENY, question.categories, [])
