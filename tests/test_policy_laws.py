"""The laws of a decision (policy.md, rule 12), on generated worlds, for all six combining names."""

import random
from dataclasses import replace

import pytest

from cases.policy_laws import LAWS
from cases.policy_scenes import draw_scene
from cases.policy_worlds import EARLIER, NUMBERS, PUBLISHED, VOCABULARIES, VOCABULARY, Draw, World
from consentd.policy import model
from consentd.policy.compile import compile_consent
from consentd.policy.subject import with_consent, with_state, without_consent
from consentd.policy.vocabulary import LEVEL_NUMBERS


@pytest.mark.parametrize("name", LAWS)
def test_law(name: str) -> None:
    """Each law on some hundred cases. ``python -m tests.meaning laws`` takes many more."""
    shared, own, scenes, could = Draw(random.Random(name)), Draw(random.Random(name[::-1])), 80, 0
    for _ in range(scenes):
        scene = draw_scene(shared)
        check = LAWS[name](own, scene)
        could += sum(check(case) for case in scene.cases(shared, 4))
    assert could > scenes / 2, "too few cases could break the law"


@pytest.mark.parametrize("seed", range(20))
def test_any_path_to_a_state_leads_to_the_same_bytes(seed: int) -> None:
    """Grants, amendments, pauses, resumes and revokes in any history: rebuilding from the end state is byte-equal."""
    draw = Draw(random.Random(seed))
    value = b""
    state: dict[int, model.StoredConsent] = {}
    for seq in range(1, 60):
        lineage = draw.random.choice([*state, seq])
        act = draw.random.choice(["write", "write", "pause", "resume", "revoke"])
        if act == "write" or lineage not in state:
            version = state[lineage].version + 1 if lineage in state else 1
            paused = lineage in state and state[lineage].paused
            stored = replace(draw.stored(lineage), seq=seq, version=version, paused=paused)
            state[lineage] = stored
            given = VOCABULARY if stored.since >= PUBLISHED else EARLIER
            compiled = compile_consent(stored, given, NUMBERS, normal_level=LEVEL_NUMBERS["N"])
            value = with_consent(value, stored, compiled)
        elif act == "revoke":
            del state[lineage]
            value = without_consent(value, lineage)
        else:
            state[lineage] = replace(state[lineage], paused=act == "pause")
            value = with_state(value, lineage, paused=act == "pause")
        rebuilt = list(state.values())
        draw.random.shuffle(rebuilt)
        assert World(rebuilt, vocabularies=VOCABULARIES).value == value
