"""Change the evaluator's source in one place, and see whether the tests of policies notice it.

A *mutant* is a copy of the source with one such change. First the comparison with the reference is run on it, as
``test_policy`` does in every run, and if that notices nothing, the test modules in ``MODULES``.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "test_vocabulary.py", "test_policy_compile.py", "test_decisions.py", "test_policy_bounds.py", "test_policy.py",
    "test_policy_laws.py",
)  # fmt: skip


class Mutant(NamedTuple):
    """A change in a module of ``consentd/policy``. The text *old* is there once; *new* takes its place."""

    module: str
    old: str
    new: str


MUTANTS = (
    # What rows hold
    Mutant("compile", "leaves &= ~one.leaves | covered", "pass"),
    Mutant("compile", "return closures.star if permit and unlimited else", "return closures.all if permit else"),
    Mutant("compile", "row.purposes | vocabulary.purpose.bits.get(BREAK_GLASS_PURPOSE, 0)", "row.purposes"),
    Mutant("compile", "purposes=named & purpose.bits", "purposes=purpose.bits"),
    Mutant("compile", "if basic else purpose.star", "if basic else purpose.all"),
    Mutant("compile", "categories=row.categories & unlabelled", "categories=row.categories"),
    Mutant("compile", 'level=root.level or "V"', 'level="V"'),
    Mutant("compile", "closures.permit if permit else closures.bits", "closures.below if permit else closures.bits"),
    Mutant("compile", "return [self.row(Node(replace(root, effect=Effect.DENY)), 0)]",
           "return [self.row(Node(replace(root, effect=Effect.DENY, purposes=())), 0)]"),
    Mutant("compile", "opens = stated.start_ms < stated.end_ms", "opens = True"),
    # Codes
    Mutant("vocabulary", "bits[code.code] | above.get(code.parent, 0)", "bits[code.code]"),
    Mutant("vocabulary", "if code.implies:\n                permit", "if True:\n                permit"),
    Mutant("vocabulary", "elif code.implies:\n            star", "else:\n            star"),
    Mutant("vocabulary", "if code.code in never or code.parent in named:", "if code.code in never:"),
    Mutant("codebook", "action.above.get(_ACCESS, 0) if action.above[code] & collect else 0", "0"),
    # Participants
    Mutant("codebook", "frozenset((self._numbers[name],)) if name in self._abroad else ", ""),
    Mutant("codebook", "NO_GROUPS if name in self._abroad else ", ""),
    Mutant("match_row", "end > since and (start <= since or not permit)", "end > since"),
    Mutant("match_row", "(start <= since or not permit)", "start <= since"),
    Mutant("match_row", "end > since and (start", "(start"),
    Mutant("match_row", "group_counts(number, groups, side & PERMIT, since)", "True"),
    Mutant("match_row", "(*row[:9], row[9] & ~PERMIT, *row[10:])", "row"),
    # Labels, levels, resources, data period
    Mutant("match_row", "elif key & IS_OPEN and not (", "elif not ("),
    Mutant("codebook", "level and resources is not None and parties.is_holder", "level and resources is not None"),
    Mutant("codebook", "else max(self.level, default)", "else self.level"),
    Mutant("match_row", "found = references <= limit if permit else", "found ="),
    Mutant("match_row", "first <= start and end <= last if permit", "first <= start if permit"),
    Mutant("match_row", "else start < last and", "else start <= last and"),
    Mutant("match_row", "question.level_of(data.level) > top", "question.level_of(data.level) >= top"),
    Mutant("match_row", "elif top < (HIGHEST_LEVEL if case.is_strict else data.level)", "elif top < data.level"),
    Mutant("match_row", "stated[0] & ~(labels | data.labels)", "stated[0] & ~labels"),
    Mutant("match_row", "if case.is_strict and not key & NAMES_RESOURCES:", "if case.is_strict:"),
    Mutant("match_row", "not labels and (not case.is_strict if stated is None else not stated[0])", "not labels"),
    Mutant("match_row", "question.level_of(data.level) < level", "question.level_of(data.level) <= level"),
    Mutant("match_row", "elif not open_fits and data.level < level", "elif data.level < level"),
    Mutant("match_row", "labels & (stated[1] | data.labels_above)", "labels & (stated[0] | data.labels)"),
    Mutant("match_row", "min(level, normal_level) if flags & NORMAL", "level if flags & NORMAL"),
    Mutant("match_row", "mask |= leaves", "pass"),
    # Trees and layers
    Mutant("match", "permitted[depth] |= permits & ~denies", "permitted[depth] |= permits"),
    Mutant("match", "rows[tree:], matcher, block, since, now_ms, silent=silent",
           "rows[tree:], matcher, block, since, now_ms, silent=0"),
    Mutant("match", "rows[:tree], matcher, block, since, now_ms, silent=silent",
           "rows[:tree], matcher, block, since, now_ms, silent=0"),
    Mutant("match", "else UNKNOWNS if key & UNKNOWN else DENIES", "else DENIES"),
    Mutant("match", "if start_ms < self.until_ms:", "if False:"),
    Mutant("match", "mask = mask and mask & fits[key]", "mask = mask and fits[key]"),
    Mutant("match", "if side and uses_reserved_at(side, only[8]):", "if False:"),
    Mutant("match", "not flags & ~HAS_SIDE and len(packed) == ROW_SIZE", "len(packed) == ROW_SIZE"),
    Mutant("match", "key=lambda tree: tree[1][1], reverse=True", "key=lambda tree: tree[1][1]"),
    Mutant("evaluate", "found if is_same else match", "found if True else match"),
    Mutant("match", "silent=not enrolled", "silent=False"),
    Mutant("match", "rules.otherwise is None or not enrolled", "rules.otherwise is None"),
    Mutant("match", "layer = STATUTE if flags & STATUTORY else CONSENT", "layer = CONSENT"),
    Mutant("match", "readable = vocabulary <= question.version and not", "readable = not"),
    Mutant("match", "vocabulary > version or reserved", "reserved"),
    Mutant("evaluate", "            unknowns &= ~denies\n", ""),
    Mutant("evaluate", "permits |= found.otherwise & left", "permits |= left"),
    Mutant("evaluate", "denies = left & ~(permits | unknowns)", "denies = left & ~permits"),
    Mutant("evaluate", "elif now_ms < end:", "elif now_ms <= end:"),
    Mutant("evaluate", "mask = categories & question.plain", "mask = categories & question.categories"),
    # Conditions
    Mutant("evaluate", "until = min(until, narrow.until_ms)", "pass"),
    Mutant("residual", "if is_mixed and combining in _PERMIT_FIRST", "if False and combining in _PERMIT_FIRST"),
    Mutant("residual", "side.resources and not row.flags & NORMAL", "side.resources"),
    Mutant("residual", "some = 0 if row.labels & data.labels else row.labels", "some = row.labels"),
    Mutant("residual", "if not question.level and level > data.level else 0", "if not question.level else 0"),
    Mutant("residual", "rest.append(Condition(CONSENT, Effect.DENY, unknown))", "pass"),
    Mutant("residual", "children += _within(exceptions, ~mask)", "pass"),
)  # fmt: skip


def name_of(mutant: Mutant) -> str:
    return f"{mutant.module}: {' '.join(mutant.old.split())} -> {' '.join(mutant.new.split())}"


def changed(mutant: Mutant, root: Path = ROOT) -> str:
    """Return the source of a mutant's module, changed."""
    source = (root / f"consentd/policy/{mutant.module}.py").read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, f"text is not there once: {mutant}"
    return source.replace(mutant.old, mutant.new)


def run(only: str = "") -> int:
    """Try each mutant with a text in its name, and print what noticed it; return how many nothing noticed."""
    unnoticed, chosen = 0, [mutant for mutant in MUTANTS if only in name_of(mutant)]
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in ("consentd", "clients/python", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        for name in ("pyproject.toml", "proto"):
            (copy / name).symlink_to(ROOT / name)
        if _fails(copy, "comparison"):
            raise AssertionError("the unchanged source fails")
        tests_needed = False
        for number, mutant in enumerate(chosen, 1):
            module = copy / f"consentd/policy/{mutant.module}.py"
            source = module.read_text(encoding="utf-8")
            module.write_text(changed(mutant, copy), encoding="utf-8")
            by = next((by for by in COMMANDS if _fails(copy, by)), None)
            tests_needed |= by == "tests"
            module.write_text(source, encoding="utf-8")
            unnoticed += by is None
            print(f"{number:2} {name_of(mutant)}: {by or 'NOT NOTICED'}", flush=True)
        if tests_needed and _fails(copy, "tests"):
            raise AssertionError("the unchanged source fails in the tests, so they notice nothing")
    print(f"{len(chosen)} mutants, {unnoticed} not noticed", flush=True)
    return unnoticed


COMMANDS = {
    "comparison": ["-c", "from meaning.bulk import agree; agree(cases=3_000, seed=1, stop=True)"],
    "tests": ["-m", "pytest", "-q", "-x", "-n", "0", *(f"tests/{name}" for name in MODULES)],
}


def _fails(copy: Path, by: str) -> bool:
    """Return whether one of ``COMMANDS`` fails with the source in *copy*."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(copy / name) for name in (".", "clients/python", "tests")),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, *COMMANDS[by]]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    return done.returncode != 0
