"""Change the Rust evaluator (``consentd/gate/core``) in one place each, and see that the comparison notices it.

``python -m tests.meaning gate-mutants`` copies the sources, so that the files stay as they are. A mutant that does not
compile is an error here: it would be noticed by nobody.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from cases.gate_cases import CaseWriter
from cases.gate_programs import CARGO, SOURCE

CASES = 6_000


class GateMutant(NamedTuple):
    """A text of ``core/src/<module>.rs``, which is there once, and what it is replaced by."""

    module: str
    old: str
    new: str


MUTANTS = (
    GateMutant("matching", "mask == 0 || row.end_ms <= self.now_ms", "mask == 0 || row.end_ms < self.now_ms"),
    GateMutant("matching", "row.end_ms.min(self.permits_end_ms)", "row.end_ms"),
    GateMutant("matching", "if end_ms < row.end_ms && (end_ms <= self.now_ms || end_ms <= row.start_ms)",
               "if end_ms < row.end_ms && end_ms <= row.start_ms"),
    GateMutant("matching", "first <= start && last >= end", "first <= start"),
    GateMutant("matching", "first < end && last > start", "first <= end && last > start"),
    GateMutant("matching", "asked.iter().all(has)", "asked.iter().any(has)"),
    GateMutant("matching", "if is_paused && row.permits()", "if false && is_paused"),
    GateMutant("matching", "lineage.flags & UNREADABLE == 0 && lineage.vocabulary <= version",
               "lineage.flags & UNREADABLE == 0"),
    GateMutant("matching", "if is_enrolled || !row.permits()", "if true"),
    GateMutant("matching", "row.purposes & question.deny_purposes == 0", "row.purposes & question.purpose == 0"),
    GateMutant("matching", "actions & question.deny_actions == 0", "actions & question.action == 0"),
    GateMutant("matching", "node.mask &= !used;", ""),
    GateMutant("matching", "end_ms: node.end_ms.min(until_ms)", "end_ms: node.end_ms"),
    GateMutant("parties", "self.until > since && (self.from <= since || !permits)", "self.until > since"),
    GateMutant("parties", "found.permit_actors = vec![one.number]", "found.permit_actors = vec![0, one.number]"),
    GateMutant("parties", "self.caller.filter(|one| *one != asked.holder)", "self.caller"),
    GateMutant("parties", "one.start_ms <= self.now_ms && self.now_ms < one.end_ms", "self.now_ms < one.end_ms"),
    GateMutant("parties", "if at_ms > self.now_ms {", "if false {"),
    GateMutant("codebook", "self.level.max(default)", "self.level"),
    GateMutant("codebook", "&& parties.gets_conditions", ""),
    GateMutant("sensitivity", "level if self.is_normal() => level.min(normal_level)",
               "level if self.is_normal() => level"),
    GateMutant("sensitivity", "if case.is_strict { HIGHEST_LEVEL } else { data.level }", "data.level"),
    GateMutant("sensitivity", "None if case.is_strict && !key.names_resources => false,", ""),
    GateMutant("sensitivity", "key.labels & (above | data.labels_above) != 0", "key.labels & data.labels_above != 0"),
    GateMutant("trees", "mask &= !(permits | denies);", ""),
    GateMutant("trees", "(permits & !denies, denies, unknown)", "(permits, denies, unknown)"),
    GateMutant("trees", "*until_ms = (*until_ms).min(one.end_ms);", ""),
    GateMutant("layers", "permits &= !(denies | unknowns);", "permits &= !denies;"),
    GateMutant("layers", "permits |= found.otherwise & left;", ""),
    GateMutant("layers", "denies = left & !(permits | unknowns);", "denies = left & !permits;"),
    GateMutant("layers", "if row.mask & decided[row.layer as usize][row.kind as usize] == 0", "if row.mask == 0"),
    GateMutant("evaluate", "found.until_ms.min(best.until_ms)", "found.until_ms"),
    GateMutant("evaluate", "denied: denied | without | unknown", "denied: denied | without"),
    GateMutant("residual", "one.children.reverse();", ""),
    GateMutant("residual", "is_mixed && !combining.denies_first()", "is_mixed && combining.denies_first()"),
    GateMutant("residual", "if level == HIGHEST_LEVEL { 0 } else { level }", "level"),
    GateMutant("rows", "if lasting.clone().count() >= MOST_USES", "if false"),
    GateMutant("rows", "u32_at(one, 0) == holder", "true"),
)  # fmt: skip


def run(only: str = "") -> int:
    """Try each mutant whose module or text has *only* in it, and print what became of it.

    Return how many nobody noticed.
    """
    unnoticed = 0
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        file = work / "cases"
        with file.open("wb") as out:
            out.writelines(CaseWriter(seed=3).encoded(CASES))
        shutil.copytree(SOURCE, work / "gate")
        assert not _notices(work, file), "the unchanged source gives other answers"
        for number, mutant in enumerate(MUTANTS, 1):
            if only not in f"{mutant.module} {mutant.old}":
                continue
            path = work / "gate" / "core" / "src" / f"{mutant.module}.rs"
            source = path.read_text(encoding="utf-8")
            assert source.count(mutant.old) == 1, f"text is not there once: {mutant}"
            path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
            noticed = _notices(work, file)
            path.write_text(source, encoding="utf-8")
            unnoticed += not noticed
            print(f"{number:2} {mutant.module}: {mutant.old}: {'noticed' if noticed else 'NOT NOTICED'}", flush=True)
    print(f"{len(MUTANTS)} mutants, {unnoticed} not noticed", flush=True)
    return unnoticed


def _notices(work: Path, file: Path) -> bool:
    assert CARGO is not None, "cargo is not installed"
    target = work / "target"
    what = ["--profile", "checked", "--package", "consentd-table", "--bin", "compare_answers", "--target-dir", target]
    built = subprocess.run(
        [CARGO, "build", "--locked", *what], cwd=work / "gate", capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    program = target / "checked" / "compare_answers"
    return subprocess.run([program, file], capture_output=True, check=False).returncode != 0
