"""The mutants of the evaluator (``python -m tests.meaning mutants`` tries them): each is a change of its source."""

import pytest

from meaning.mutants import MUTANTS, Mutant, attempt, changed, name_of


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_a_mutant_is_a_change_that_compiles(mutant: Mutant) -> None:
    compile(changed(mutant), mutant.module, "exec")


def test_there_are_enough_of_them_in_every_module() -> None:
    assert len(set(MUTANTS)) == len(MUTANTS) >= 30
    modules = {"actor", "compile", "match", "match_row", "side_blocks", "subject", "evaluate", "residual",
               "codebook", "vocabulary", "rows", "fits", "masks", "prepare", "shapes", "recurrence", "transfers"}
    assert {mutant.module for mutant in MUTANTS} == modules


def test_a_mutant_whose_text_is_not_there_is_an_error() -> None:
    with pytest.raises(AssertionError):
        changed(Mutant("compile", "a text that is nowhere", "pass"))


@pytest.mark.slow
def test_a_trial_takes_the_changed_source() -> None:
    wrong = changed(Mutant("evaluate", "permitted |= permits\n", "permitted |= denies\n"))
    assert attempt("comparison", {"evaluate": wrong})["noticed"] == "AssertionError"


@pytest.mark.slow
def test_a_source_that_cannot_be_imported_is_no_trial() -> None:
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        attempt("comparison", {"evaluate": "import nothing_of_this_name"})
