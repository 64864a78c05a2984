"""Files that are replaced durably, and locked."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from consentd.errors import StorageError
from consentd.files import FileLock, read_file_if_exists, write_file


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "note"
    assert read_file_if_exists(path) is None
    for content in (b"one", b"another, longer", b"", [b"in ", b"pieces"]):
        write_file(path, content)
        assert read_file_if_exists(path) == (content if isinstance(content, bytes) else b"in pieces")
    assert os.listdir(tmp_path) == ["note"]


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "note"
    left_by_a_crash = path.with_name("note.new")
    left_by_a_crash.write_bytes(b"")
    left_by_a_crash.chmod(0o644)
    write_file(path, b"secret", is_private=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_read_or_written_is_a_storage_error(tmp_path: Path) -> None:
    failing: list[Callable[[], object]] = [
        lambda: write_file(tmp_path / "absent" / "note", b""),
        lambda: write_file(tmp_path, b""),
        lambda: read_file_if_exists(tmp_path),
        lambda: FileLock(tmp_path, program="daemon"),
    ]
    for fail in failing:
        with pytest.raises(StorageError):
            fail()
    assert os.listdir(tmp_path) == []


def test_a_file_written_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full writes a part of the bytes, and fails only at the next call."""
    write, free = os.write, 100

    def write_a_part(descriptor: int, content: bytes) -> int:
        nonlocal free
        if not free:
            raise OSError(errno.ENOSPC, "no space")
        written = write(descriptor, content[: min(free, 7)])
        free -= written
        return written

    path = tmp_path / "note"
    monkeypatch.setattr(os, "write", write_a_part)
    write_file(path, b"x" * 60)
    with pytest.raises(StorageError):
        write_file(path, b"y" * 60)
    assert read_file_if_exists(path) == b"x" * 60
    assert os.listdir(tmp_path) == ["note"]


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path, program="daemon")
    with pytest.raises(StorageError):
        FileLock(path, program="daemon")
    lock.verify()
    lock.close()
    FileLock(path, program="daemon", waits=True).close()
