"""What a client remembers of verified histories."""

import json
from pathlib import Path
from typing import Any

import pytest

import consentd_client
from cases.small_ledgers import GRANTED, SUBJECT, TAG, reading, small
from consentd.core.kinds import EntryKind
from consentd.errors import (
    ProofError,
    StorageError,
)
from consentd_client import (
    FileMemory,
    RamMemory,
    ledger,
)


@pytest.fixture(params=["ram", "file"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return RamMemory() if request.param == "ram" else FileMemory(tmp_path / "memory.json")


def test_a_memory_never_goes_back(memory: Any) -> None:
    made = small()
    early = made.history()[0].head.checkpoint
    reading(made.history, memory=memory).history(SUBJECT)
    key = ledger.memory_key(SUBJECT)
    held = memory.history(key)
    assert (held.tag, len(held.entries)) == (TAG, 3)
    late = memory.checkpoint()
    memory.remember(early, key, consentd_client.RememberedHistory(TAG, held.entries[:1]))
    assert (memory.checkpoint(), memory.history(key)) == (late, held)
    memory.forget(key)
    memory.forget("nothing")
    assert (memory.checkpoint(), memory.history(key)) == (late, None)


def test_a_memory_lasts(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    made = small()
    made.add(EntryKind.ERASURE, TAG, b"")
    erased = made.history()
    for piece in erased[2:5]:
        piece.entries.entries[0].ClearField("opening")
    reading(erased, memory=FileMemory(path)).history(SUBJECT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SUBJECT.value not in path.read_text()
    again = reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    assert [entry.statement is None for entry in again.entries] == [True, True, True, False]
    assert not again.new
    assert json.loads(path.read_text())["version"] == 1


def test_a_memory_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    made = small()
    reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    before = path.read_bytes()
    made.person(GRANTED)
    (tmp_path / "memory.json.new").mkdir()  # so that the new file cannot be written
    with pytest.raises(StorageError):
        reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"version":2}', b'{"version":1,"checkpoint":"no note","histories":{}}', b"\xff",
     b'{"version":1,"checkpoint":null,"histories":{"k":{"tag":"zz","entries":[]}}}',
     b'{"version":1,"checkpoint":null,"histories":{"k":{"tag":"00","entries":[["a"]]}}}'],
)  # fmt: skip
def test_a_damaged_memory_is_no_evidence_against_the_daemon(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        reading(small().history, memory=FileMemory(path)).history(SUBJECT)
    assert path.read_bytes() == content


def test_a_memory_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    for memory in (FileMemory(tmp_path), FileMemory(tmp_path / "none" / "memory.json")):
        with pytest.raises(StorageError):
            reading(small().history, memory=memory).history(SUBJECT)


def test_a_changed_memory_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    made = small()
    reading(made.history, memory=FileMemory(path)).history(SUBJECT)
    content = json.loads(path.read_text())
    (held,) = content["histories"].values()
    del held["entries"][1]
    path.write_text(json.dumps(content))
    with pytest.raises(ProofError):
        reading(made.history, memory=FileMemory(path)).history(SUBJECT)
