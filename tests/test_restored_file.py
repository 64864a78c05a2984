"""The mark of a restored copy, ``restored.json``."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consentd.errors import CorruptionError, MalformedError, StorageError
from consentd.ledger.restored import (
    RESTORED_NAME,
    Restored,
    format_restored,
    parse_restored,
    read_restored,
    remove_restored,
    write_restored,
)

RESTORED = Restored("consent.example.org/é", 1234, bytes(range(32)), 1_700_000_000_000, 1_700_086_400_000)


def test_the_mark_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_restored(tmp_path) is None
    write_restored(tmp_path, RESTORED)
    assert read_restored(tmp_path) == RESTORED
    assert (tmp_path / RESTORED_NAME).stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [RESTORED_NAME]
    other = replace(RESTORED, tree_size=5)
    write_restored(tmp_path, other)
    assert read_restored(tmp_path) == other


def test_the_mark_is_removed(tmp_path: Path) -> None:
    remove_restored(tmp_path)
    write_restored(tmp_path, RESTORED)
    remove_restored(tmp_path)
    assert read_restored(tmp_path) is None
    with pytest.raises(StorageError):
        remove_restored(tmp_path / "absent")


def test_a_mark_that_cannot_be_read_or_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / RESTORED_NAME).mkdir()
    with pytest.raises(StorageError):
        read_restored(tmp_path)
    with pytest.raises(StorageError):
        write_restored(tmp_path, RESTORED)
    with pytest.raises(StorageError):
        remove_restored(tmp_path)


def changed(**fields: Any) -> bytes:
    value = json.loads(format_restored(RESTORED)) | fields
    return json.dumps({name: one for name, one in value.items() if one is not ...}).encode()


WRONG = {
    "empty": b"",
    "half": format_restored(RESTORED)[:40],
    "no UTF-8": b"\xff" + format_restored(RESTORED),
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "a name twice": format_restored(RESTORED).replace(b'"tree_size"', b'"format": 1, "tree_size"'),
    "more text": format_restored(RESTORED) + b"{}",
    "too long": format_restored(RESTORED) + b" " * 4096,
    "nested": b"[" * 4000,
    "no such number": changed().replace(b"1234", b"NaN"),
    "a fraction": changed().replace(b"1234", b"1234.0"),
    "a huge number": changed().replace(b"1234", b"9" * 4000),
    "format 2": changed(format=2),
    "format as text": changed(format="1"),
    "format as truth": changed(format=True),
    "no format": changed(format=...),
    "no origin": changed(origin=...),
    "unknown field": changed(note=""),
    "empty origin": changed(origin=""),
    "origin with a space": changed(origin="a b"),
    "origin is no text": changed(origin=1),
    "origin without UTF-8": changed(origin="\ud800"),
    "short root": changed(root="00"),
    "root in capitals": changed(root="AB" * 32),
    "root with a line end": changed(root="ab" * 32 + "\n"),
    "root is no text": changed(root=0),
    "negative size": changed(tree_size=-1),
    "size as text": changed(tree_size="1"),
    "size as truth": changed(tree_size=True),
    "size past 63 bits": changed(tree_size=1 << 63),
    "no time": changed(backup_time_ms=None),
    "a list as time": changed(restored_time_ms=[1]),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_a_mark_with_other_content_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(MalformedError):
        parse_restored(content)
    (tmp_path / RESTORED_NAME).write_bytes(content)
    with pytest.raises(CorruptionError):
        read_restored(tmp_path)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_mark_or_malformed(content: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_restored(content)


@given(st.integers(0, (1 << 63) - 1), st.binary(min_size=32, max_size=32))
def test_all_marks_are_read_back(number: int, root: bytes) -> None:
    restored = Restored("a", number, root, number, number)
    assert parse_restored(format_restored(restored)) == restored
