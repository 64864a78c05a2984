"""A short soak: all answers are right, and growth is seen."""

from pathlib import Path

import pytest

from cases.gate_programs import built, needs_cargo
from cases.processes import ENVIRONMENT
from cases.races import DAEMON, GATE
from soak.run import MOST_GROWTH, Soaked, soak


@needs_cargo
def test_the_gate_answers_while_consents_change(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(short_path))
    lines: list[str] = []
    found = soak(
        tmp_path, built("consentd-gate", "consentd-gate"), checks=1_000, each_round=500, persons=40, write=lines.append
    )
    assert found.checks == 1_000
    assert [len(found.memory[whom]) for whom in (GATE, DAEMON)] == [2, 2]
    assert len(lines) == 1


def test_growth_is_seen() -> None:
    first, most = 10 << 20, MOST_GROWTH[GATE]
    flat = Soaked(memory={GATE: [0, *[first] * 100], DAEMON: [first] * 101})
    assert flat.is_flat
    growing = Soaked(memory={GATE: [first + at * most // 50 for at in range(101)], DAEMON: [first] * 101})
    assert not growing.is_flat
    assert growing.growth(GATE) > most
