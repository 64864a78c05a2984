"""Run many cases, each group of cases from a seed of its own, so that a case that fails is found again."""

import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cases.policy_agreement import check_answer
from cases.policy_laws import LAWS
from cases.policy_scenes import draw_scene
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
                kind = draw.random.random()
                if kind < 0.2:
                    world = draw.represented(world)
                elif kind < 0.4:
                    world = draw.recurring(world)
                if draw.random.random() < 0.2:
                    world = draw.asked_again(world)
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
        _progress("agree", number, cases // GROUP)
    print(f"{cases:,} questions, {resources:,} resources, {differ} groups differ; {_shares(kinds)}", flush=True)
    return differ


def _shares(kinds: Counter[str]) -> str:
    total = kinds.total() or 1
    return ", ".join(f"{kind} {100 * count / total:.1f} %" for kind, count in sorted(kinds.items()))


def _progress(what: str, done: int, of: int) -> None:
    """Show on a terminal how many groups are done."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:,} of {of:,} groups", end="\n" if done == of else "", file=sys.stderr, flush=True)


@dataclass
class Tried:
    """What became of one law: how many cases were tried, how many of them could break it, and what broke it.

    *broken* has the seeds of the groups in which a case broke the law; the other cases of a group are then not tried.
    *seconds*: processor time for this law alone, without what the laws share.
    """

    cases: int = 0
    could: int = 0
    seconds: float = 0.0
    broken: tuple[int, ...] = ()


def laws(*, cases: int, seed: int, only: str = "", stop: bool = False) -> int:
    """Try each law on so many cases; return how many groups of cases broke one. *stop*: raise what breaks one first."""
    names = [name for name in LAWS if only in name]
    tried, kinds = {name: Tried() for name in names}, Counter[str]()
    begun = time.process_time()
    for number, at in enumerate(range(seed, seed + cases // GROUP), 1):
        for name in _try_group(at, names, tried, kinds, stop=stop):
            tried[name].broken += (at,)
        _progress("laws", number, cases // GROUP)
    for name, one in tried.items():
        print(
            f"{name}: {one.cases:,} cases, {one.could:,} of them ({100 * one.could / (one.cases or 1):.1f} %) could"
            f" break it, {len(one.broken)} groups did, {one.seconds:.1f} s",
            flush=True,
        )
    shared = time.process_time() - begun - sum(one.seconds for one in tried.values())
    print(f"answers before a law changes anything: {_shares(kinds)}; {shared:.1f} s for what laws share", flush=True)
    return sum(len(one.broken) for one in tried.values())


def _try_group(at: int, names: Sequence[str], tried: dict[str, Tried], kinds: Counter[str], *, stop: bool) -> list[str]:
    """Try laws on the cases of one seed; return the names of those that a case broke."""
    draw = Draw(random.Random(at))
    # A law draws from numbers of its own: without the other laws, its cases are the same.
    draws = {name: Draw(random.Random(f"{name} {at}")) for name in names}
    broken: list[str] = []
    for _ in range(GROUP // QUESTIONS):
        scene = draw_scene(draw)
        cases = list(scene.cases(draw, QUESTIONS))
        kinds.update(kind_of(case.answer(scene.world)) for case in cases)
        for name in names:
            if name in broken:
                continue
            one, begun = tried[name], time.process_time()
            try:
                check = LAWS[name](draws[name], scene)
                for case in cases:
                    one.cases += 1
                    one.could += check(case)
            except Exception as error:
                if stop:
                    error.add_note(f"{name}, seed {at}:")
                    raise
                if not isinstance(error, AssertionError):
                    raise
                broken.append(name)
                print(f"{name}, seed {at}:", traceback.format_exc(), flush=True)
            one.seconds += time.process_time() - begun
    return broken
