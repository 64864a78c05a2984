"""Run many cases, each group of cases from a seed of its own, so that a case that fails is found again."""

import random
import traceback
from collections import Counter

from cases.policy_agreement import check_answer
from cases.policy_laws import LAWS, try_law
from cases.policy_worlds import Draw, kind_of

GROUP = 1_000  # cases of one seed
QUESTIONS = 8  # questions about one world


def agree(*, cases: int, seed: int, stop: bool = False) -> int:
    """Compare the evaluator with the reference on so many questions; return in how many groups they differ.

    *stop*: raise the first difference instead.
    """
    kinds: Counter[str] = Counter()
    differ = resources = 0
    for number, at in enumerate(range(seed, seed + cases // GROUP), 1):
        draw = Draw(random.Random(at))
        try:
            for _ in range(GROUP // QUESTIONS):
                world = draw.any_world()
                for _ in range(QUESTIONS):
                    answer = check_answer(draw, world)
                    kinds[kind_of(answer)] += 1
                    if answer.residual:
                        resources += len(answer.permitted) + len(answer.denied) + len(answer.without_consent)
        except AssertionError:
            if stop:
                raise
            differ += 1
            print(f"seed {at}:", traceback.format_exc(), flush=True)
        if number % 10 == 0:
            _print(number * GROUP, kinds, resources, differ)
    _print(cases, kinds, resources, differ)
    return differ


def _print(cases: int, kinds: Counter[str], resources: int, differ: int) -> None:
    total = kinds.total() or 1
    shares = ", ".join(f"{kind} {100 * count / total:.1f} %" for kind, count in sorted(kinds.items()))
    print(f"{cases:,} questions, {resources:,} resources, {differ} groups differ; {shares}", flush=True)


def laws(*, cases: int, seed: int, only: str) -> int:
    """Try each law on so many cases; return how many groups of cases broke one."""
    broken = 0
    for name in (name for name in LAWS if only in name):
        could = failed = 0
        for at in range(seed, seed + cases // GROUP):
            draw = Draw(random.Random(f"{name} {at}"))
            try:
                could += sum(try_law(name, draw, QUESTIONS) for _ in range(GROUP // QUESTIONS))
            except AssertionError:
                failed += 1
                print(f"{name}, seed {at}:", traceback.format_exc(), flush=True)
        print(f"{name}: {cases:,} cases, of which {could:,} could break it; {failed} groups did", flush=True)
        broken += failed
    return broken
