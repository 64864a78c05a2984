"""The mutants of the evaluator (``python -m tests.meaning mutants`` tries them): each is a change of its source."""

import pytest

from meaning.mutants import MUTANTS, Mutant, changed, name_of


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_a_mutant_is_a_change_that_compiles(mutant: Mutant) -> None:
    compile(changed(mutant), mutant.module, "exec")


def test_there_are_enough_of_them_in_every_module() -> None:
    assert len(set(MUTANTS)) == len(MUTANTS) >= 30
    modules = {"compile", "match", "match_row", "evaluate", "residual", "codebook", "vocabulary"}
    assert {mutant.module for mutant in MUTANTS} == modules
