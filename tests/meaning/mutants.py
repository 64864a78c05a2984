"""Change the evaluator's source in one place, and see whether the tests of policies notice it.

A *mutant* is the source of a module with one such change. Each is tried in stages (``trial.STAGES``) until one notices
it: the comparison with the reference, the laws, and the test modules of policies. Of each stage, the unchanged sources
are tried in the same way first, and must pass it. A test notices a mutant only if it is among those that passed then.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """A change in a module of ``consentd/policy``. The text *old* is there once; *new* takes its place."""

    module: str
    old: str
    new: str


MUTANTS = (
    # What rows hold
    Mutant("masks", "leaves &= ~one.leaves | covered", "pass"),
    Mutant("masks", "return closures.star if permit and unlimited else", "return closures.all if permit else"),
    Mutant("compile", "row.purposes | vocabulary.purpose.bits.get(BREAK_GLASS_PURPOSE, 0)", "row.purposes"),
    Mutant("compile", "purposes=named & purpose.bits", "purposes=purpose.bits"),
    Mutant("compile", "if basic else purpose.star", "if basic else purpose.all"),
    Mutant("compile", "categories=row.categories & unlabelled", "categories=row.categories"),
    Mutant("masks", "closures.permit if permit else closures.bits", "closures.below if permit else closures.bits"),
    Mutant("compile", "return [self.row(Node(replace(root, effect=Effect.DENY)), 0)]",
           "return [self.row(Node(replace(root, effect=Effect.DENY, purposes=())), 0)]"),
    Mutant("compile", "opens = stated.start_ms < end_ms", "opens = True"),
    # Codes
    Mutant("vocabulary", "bits[code.code] | above.get(code.parent, 0)", "bits[code.code]"),
    Mutant("vocabulary", "if code.implies:\n                permit", "if True:\n                permit"),
    Mutant("vocabulary", "elif code.implies:\n            star", "else:\n            star"),
    Mutant("vocabulary", "if code.code in never or code.parent in named:", "if code.code in never:"),
    Mutant("codebook", "action.above.get(_ACCESS, 0) if action.above[code] & collect else 0", "0"),
    # Participants
    Mutant("codebook", "frozenset((self._numbers[name],)) if name in self.abroad else ", ""),
    Mutant("codebook", "NO_GROUPS if name in self.abroad else ", ""),
    Mutant("side_blocks", "end > since and (start <= since or not permit)", "end > since"),
    Mutant("side_blocks", "(start <= since or not permit)", "start <= since"),
    Mutant("side_blocks", "end > since and (start", "(start"),
    Mutant("side_blocks", " or group_counts(named, groups, side & PERMIT, since)", ""),
    Mutant("side_blocks", "group_counts(named, groups, side & PERMIT, since)",
           "group_counts(named, groups, 0, since)"),
    Mutant("match_row", "UNKNOWN,\n            actors=parties.deny_actors",
           "UNKNOWN,\n            actors=parties.permit_actors"),
    Mutant("match_row", "actor_groups=parties.deny_groups,\n            holder_groups=parties.holder_groups,\n", ""),
    Mutant("match_row", "if more and shape.kind != UNKNOWNS:", "if more:"),
    Mutant("match_row", "actor_groups=groups if flags & GROUP else", "actor_groups="),
    Mutant("match_row", "holder_groups=parties.holder_groups if flags & GROUP else", "holder_groups="),
    Mutant("match_row", " and not (groups and group_counts(named, groups, permit, since))", ""),
    Mutant("match_row", " or (bool(groups) and group_counts(named, groups, permit, since))", ""),
    Mutant("match_row", "if lists or flags & GROUP:\n", "if lists:\n"),
    Mutant("match_row", "if lists or flags & GROUP:\n", "if flags & GROUP:\n"),
    Mutant("match_row", "if ends and shape.kind != UNKNOWNS:", "if ends:"),
    Mutant("match_row", "group_counts((rest[0],), groups, permit, since)",
           "group_counts((rest[0],), groups, 0, since)"),
    Mutant("match_row", "group_counts((rest[1],), groups, permit, since)",
           "group_counts((rest[1],), groups, 0, since)"),
    Mutant("match_row", "if end_ms <= self.now_ms:", "if end_ms < self.now_ms:"),
    Mutant("match_row", "            if lists:\n", "            if False:\n"),
    Mutant("match_row", "lists != compared or shape.actors is not actors", "lists != compared"),
    Mutant("match_row", "lists if lists & 0xFFFF and lists >> 16 else 0", "lists"),
    Mutant("match_row", "elif side != word:", "elif word < 0:"),
    Mutant("match_row", "ends or more & 0xFFFF or", "ends or"),
    Mutant("match_row", "more & 0xFFFF or flags & GROUP:", "more & 0xFFFF:"),
    Mutant("match_row", "if shape is NEVER or end_ms <= now_ms:", "if shape is NEVER:"),
    Mutant("match_row", " or holder not in shape.holders:\n                is_whole", ":\n                is_whole"),
    Mutant("match_row", "return shape.with_key(shape.key | IS_OPEN)", "return shape"),
    Mutant("side_blocks", "self._meets.get(8 * begin + side)", "self._meets.get(8 * begin)"),
    # Authorities
    Mutant("match_row", "if purposes & asked), default=rest[3])", "), default=rest[3])"),
    Mutant("match_row", "return None if ending[3] <= self.now_ms else ending", "return ending"),
    Mutant("match_row", "if ends or more & 0xFFFF or", "if more & 0xFFFF or"),
    Mutant("prepare", " or words[first + 2])", ")"),
    Mutant("prepare", "(words[first + 1] or words[first + 2])", "words[first + 2]"),
    Mutant("prepare", "if record[2] or record[1] & 0xFFFF:", "if record[2]:"),
    Mutant("compile", "self._end(purposes, stated.end_ms) if permit else (stated.end_ms, ())",
           "self._end(purposes, stated.end_ms)"),
    Mutant("compile", "end_ms = min(end_ms, last_ms)", "end_ms = last_ms"),
    Mutant("subject", "if row.flags & PERMIT else row for row in", "for row in"),
    # Labels, levels, resources, data period
    Mutant("fits", "elif key & IS_OPEN and not (", "elif not ("),
    Mutant("codebook", "level and resources is not None and parties.is_holder", "level and resources is not None"),
    Mutant("codebook", "else max(self.level, default)", "else self.level"),
    Mutant("side_blocks", "found = references <= limit if permit else", "found ="),
    Mutant("match_row", "NEVER if first > shape.first_by or last < shape.last_from",
           "NEVER if first > shape.first_by"),
    Mutant("match_row", "NEVER if first > shape.first_by or last < shape.last_from",
           "NEVER if last < shape.last_from"),
    Mutant("match_row", "else (end - 1, start + 1)", "else (end, start + 1)"),
    Mutant("match_row", "else (end - 1, start + 1)", "else (end - 1, start)"),
    Mutant("match_row", "(start, end) if flags & PERMIT else ", ""),
    Mutant("match_row", "return shape if key == shape.key else", "return shape if True else"),
    Mutant("fits", "question.level_of(data.level) > top", "question.level_of(data.level) >= top"),
    Mutant("fits", "elif top < (HIGHEST_LEVEL if case.is_strict else data.level)", "elif top < data.level"),
    Mutant("fits", "stated[0] & ~(labels | data.labels)", "stated[0] & ~labels"),
    Mutant("fits", "if case.is_strict and not key & NAMES_RESOURCES:", "if case.is_strict:"),
    Mutant("fits", "not labels and (not case.is_strict if stated is None else not stated[0])", "not labels"),
    Mutant("fits", "question.level_of(data.level) < level", "question.level_of(data.level) <= level"),
    Mutant("fits", "elif not open_fits and data.level < level", "elif data.level < level"),
    Mutant("fits", "labels & (stated[1] | data.labels_above)", "labels & (stated[0] | data.labels)"),
    Mutant("fits", "min(level, normal_level) if flags & NORMAL", "level if flags & NORMAL"),
    Mutant("compile", "min(level_number(root.level) or HIGHEST_LEVEL, self._normal_level)",
           "(level_number(root.level) or HIGHEST_LEVEL)"),
    Mutant("compile", "level_number(root.level) or HIGHEST_LEVEL, self._normal_level",
           "self._normal_level, HIGHEST_LEVEL"),
    Mutant("match_row", "mask |= leaves", "pass"),
    # Trees and layers
    Mutant("match", "add_tree(layer, permits & ~denies", "add_tree(layer, permits"),
    Mutant("match", "mask &= ~(permits | denies)", "pass"),
    Mutant("match", "while subtrees and subtrees[-1][0] <= node + below:", "while subtrees:"),
    Mutant("match", "mask & permits if kind == PERMITS else mask", "mask"),
    Mutant("prepare", "if flags & PAUSED:", "if False:"),
    Mutant("prepare", "self._add_tree(IMPLICIT, ids", "self._add_tree(layer, ids"),
    Mutant("shapes", "else UNKNOWNS if key & UNKNOWN else DENIES", "else DENIES"),
    Mutant("match", "found.until_ms = min(found.until_ms, start_ms)", "pass"),
    Mutant("match", "until = min(until, start_ms)", "pass"),
    Mutant("match", ",) = nodes\n        mask = shape.mask & fits", ",) = nodes\n        mask = fits"),
    Mutant("match", "reversed(nodes):\n        mask = shape.mask & fits", "reversed(nodes):\n        mask = fits"),
    Mutant("match", "if end_ms < found.until_ms:", "if False:"),
    Mutant("match", "if end_ms < until:", "if False:"),
    Mutant("match", "found.until_ms = until", "pass"),
    Mutant("match", "else (where, node)))", "else (where, 0)))"),
    Mutant("prepare", "if more or vocabulary > version or flags & ~HAS_SIDE:", "if more or vocabulary > version:"),
    Mutant("prepare", "if shape is NEVER or closed:", "if shape is NEVER:"),
    Mutant("prepare", "if not closed or flags & STATUTORY:", "if not closed:"),
    Mutant("prepare", "shape.count <= enough", "shape.count < enough"),
    Mutant("prepare", "alike.count <= enough", "alike.count < enough"),
    Mutant("prepare", "is_kept = start_ms <= now_ms and ", "is_kept = "),
    Mutant("prepare", "end_ms if start_ms <= now_ms else start_ms", "end_ms"),
    Mutant("prepare", "if not is_kept and changes_ms >= shape.until_ms:", "if not is_kept:"),
    Mutant("prepare", "if not is_kept and changes_ms >= alike.until_ms:", "if not is_kept:"),
    Mutant("prepare", "if changes_ms < shape.until_ms:", "if False:"),
    Mutant("prepare", "min(alike.until_ms, changes_ms)", "alike.until_ms"),
    Mutant("prepare", "key = layer, depths, *shapes", "key = depths, *shapes"),
    Mutant("prepare", "key = layer, depths, *shapes", "key = layer, *shapes"),
    Mutant("match_row", "if shape is NEVER or end_ms <= now_ms:\n                is_whole = False\n",
           "if shape is NEVER or end_ms <= now_ms:\n"),
    Mutant("match_row", "if ends or more & 0xFFFF or flags & GROUP:\n                is_whole = False\n",
           "if ends or more & 0xFFFF or flags & GROUP:\n"),
    Mutant("match_row", "block, since):\n                        is_whole = False\n", "block, since):\n"),
    Mutant("match_row", "holder not in shape.holders:\n                is_whole = False\n",
           "holder not in shape.holders:\n"),
    Mutant("match_row", "if start_ms > now_ms:\n                is_whole = False\n            elif", "if"),
    Mutant("prepare", "OPEN_END_MS if newest_first else ENOUGH", "ENOUGH"),
    Mutant("match_row", "purposes & question.deny_purposes", "purposes & question.purpose"),
    Mutant("match_row", "categories & leaves.deny_mask", "categories & leaves.mask"),
    Mutant("prepare", "key=lambda tree: tree[1][1], reverse=True", "key=lambda tree: tree[1][1]"),
    Mutant("evaluate", "found if is_same else match", "found if True else match"),
    Mutant("prepare", "if node and (enrolled or node[0].kind != PERMITS)", "if node"),
    Mutant("prepare", "rules.otherwise is None or not enrolled", "rules.otherwise is None"),
    Mutant("prepare", "STATUTE if flags & STATUTORY else CONSENT", "CONSENT"),
    Mutant("prepare", "known = vocabulary <= version and not", "known = not"),
    Mutant("prepare", "    elif until_ms < OPEN_END_MS:", "    elif not until_ms:"),
    Mutant("prepare", "if until_ms < OPEN_END_MS and shape.kind == PERMITS:", "if until_ms < OPEN_END_MS:"),
    Mutant("evaluate", "if asked is not None and asked < end:", "if asked is not None:"),
    Mutant("evaluate", "if asked <= start:", "if False:"),
    Mutant("rows", "(rest[2], end_ms) if end_ms > rest[2] else (0, 0)", "(rest[2], end_ms)"),
    Mutant("prepare", " and not flags & UNREADABLE", ""),
    Mutant("evaluate", "            unknowns &= ~denies\n", ""),
    Mutant("evaluate", "permits |= found.otherwise & left", "permits |= left"),
    Mutant("evaluate", "denies = left & ~(permits | unknowns)", "denies = left & ~permits"),
    Mutant("evaluate", "elif now_ms < end:", "elif now_ms <= end:"),
    Mutant("evaluate", "mask = categories & question.plain", "mask = categories & question.categories"),
    # Notices, recurrence
    Mutant("prepare", "flags & ~HAS_SIDE or until_ms < OPEN_END_MS:", "flags & ~HAS_SIDE:"),
    Mutant("prepare", "campaigns.get(notice, OPEN_END_MS)", "min(campaigns.values())"),
    Mutant("match_row", "ends >> USES_SHIFT and self._holder and shape.kind == PERMITS", "False"),
    Mutant("match_row", "used &= shape.mask", "pass"),
    Mutant("match_row", "left = shape.without(used)", "left = shape"),
    Mutant("shapes", "self.mask & ~mask, self.key", "self.mask & mask, self.key"),
    Mutant("codebook", " if question.action in codebook.transfers else 0", ""),
    Mutant("recurrence", "return -1, min(", "return 0, min("),
    Mutant("recurrence", "if one.holder == holder:", "if True:"),
    Mutant("recurrence", "until_ms = min(until_ms, one.until_ms)", "pass"),
    Mutant("recurrence", "if self.bound(middle) <= now_ms:", "if self.bound(middle) < now_ms:"),
    Mutant("recurrence", "* self.months + self.rest_ms) + 1", "* self.months + self.rest_ms)"),
    Mutant("recurrence", "min(moment.day, monthrange(year, month + 1)[1])", "min(moment.day, 28)"),
    Mutant("recurrence", "start_ms + number * self.rest_ms)", "start_ms + self.rest_ms)"),
    Mutant("transfers", "period_at(matcher.now_ms)[1]", "period_at(matcher.now_ms)[0]"),
    Mutant("transfers", "matcher.used_up = []", "pass"),
    Mutant("transfers", "matcher.recurrence = None", "pass"),
    Mutant("match", "mask = one.mask & fits[one.key]", "mask = one.mask"),
    Mutant("match", "found.until_ms = min(found.until_ms, one.start_ms)", "pass"),
    Mutant("match", "min(found.until_ms, one.end_ms, one.until_ms)", "min(found.until_ms, one.end_ms)"),
    Mutant("match", "counted = mask & decided[layer][PERMITS]", "counted = mask"),
    Mutant("evaluate", "undecided = left | decided[CONSENT][DENIES] & ~denies", "undecided = left"),
    Mutant("evaluate", "if mask & undecided and len(reasons) < most:", "if len(reasons) < most:"),
    Mutant("evaluate", "masks[2] & ~explained", "masks[2]"),
    Mutant("evaluate", "*(narrow.uses.items() if rest else ())", ""),
    # Conditions
    Mutant("codebook", "        and parties.gets_conditions\n", ""),
    Mutant("actor", "sees_reasons or asked.caller == asked.holder", "sees_reasons"),
    Mutant("actor", "sees_reasons or asked.caller == asked.holder", "True"),
    Mutant("residual", "labels = (ANY,) if question.residual else ()", "labels = ()"),
    Mutant("residual", 'LEVELS[-1] if question.residual else ""', '""'),
    Mutant("residual", "_codes(codebook.vocabulary.label, question.labels[0])", "()"),
    Mutant("evaluate", 'if verdict.permitted else ((), "")', ""),
    Mutant("evaluate", "until = min(until, narrow.until_ms)", "pass"),
    Mutant("residual", "if is_mixed and combining in _PERMIT_FIRST", "if False and combining in _PERMIT_FIRST"),
    Mutant("residual", "side.resources and not key & NORMAL", "side.resources"),
    Mutant("residual", "some = 0 if labels & data.labels else labels", "some = labels"),
    Mutant("residual", "block.blocks[4 * first :]", "block.blocks"),
    Mutant("residual", "while begin and subtrees[begin - 1][0] <= index + below:", "while begin:"),
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
    """Try each mutant with a text in its name, and print what noticed it; return how many nothing noticed.

    Raises:
        AssertionError: the text of a mutant is not in the source once; the unchanged sources do not pass a stage; a
            changed source cannot be imported; the files changed during the run.
    """
    chosen = [(mutant, changed(mutant)) for mutant in MUTANTS if only in name_of(mutant)]
    unchanged = _sources()
    passed: dict[str, list[str]] = {}
    unnoticed = 0
    for number, (mutant, source) in enumerate(chosen, 1):
        begun, by = time.monotonic(), None
        for stage in ("comparison", "laws", "tests"):
            if stage not in passed:
                passed[stage] = _passed(stage, unchanged)
            noticed = attempt(stage, unchanged | {mutant.module: source})["noticed"]
            if noticed is not None:
                if stage == "tests" and noticed not in passed[stage]:
                    raise AssertionError(f"the unchanged source did not pass this test: {noticed}")
                by = f"{stage}: {noticed}"
                break
        if _sources() != unchanged:
            raise AssertionError("the files have changed meanwhile: begin again")
        unnoticed += by is None
        print(f"{number:2} {name_of(mutant)}: {by or 'NOT NOTICED'} ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{len(chosen)} mutants, {unnoticed} not noticed", flush=True)
    return unnoticed


def _sources() -> dict[str, str]:
    """Read the source of each module that has a mutant."""
    modules = dict.fromkeys(mutant.module for mutant in MUTANTS)
    return {name: (ROOT / f"consentd/policy/{name}.py").read_text(encoding="utf-8") for name in modules}


def _passed(stage: str, unchanged: dict[str, str]) -> list[str]:
    """Try the unchanged sources; return the tests that passed."""
    found = attempt(stage, unchanged)
    if found["noticed"] is not None:
        raise AssertionError(f"the unchanged source does not pass: {stage}: {found['noticed']}")
    print(f"the unchanged source passes: {stage}", flush=True)
    return found.get("passed", [])


def attempt(stage: str, sources: dict[str, str]) -> dict[str, Any]:
    """Try sources in a process of their own; return what it found."""
    command = [sys.executable, "-m", "tests.meaning.trial", stage]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(sources), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"the trial itself failed: {done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
