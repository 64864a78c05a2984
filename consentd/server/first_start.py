"""Let one ledger begin with the keys that ``consentd keygen`` makes, and no second one.

A data directory whose disk is not mounted looks like that of a new ledger. A daemon that began one there would sign a
second tree under the same name. So keygen leaves a file beside the log key, the *mark of the first start*, and a ledger
begins only with it. The steps are such that after a crash between any two the daemon still starts in the same data
directory, and in no other:

1. The daemon draws a random number, and writes it to a file in the data directory.
2. It writes the number to the mark too. From now on the ledger can begin in this data directory alone.
3. It writes leaf 0.
4. It removes the mark, then the file in the data directory. From now on no ledger can begin with these keys.

The mark has one or two lines: the log key's verifier key, which includes the origin, and the number in hex digits.
"""

import os
import re
import secrets
from pathlib import Path

from consentd.config import Config
from consentd.core.note import Verifier, format_vkey
from consentd.errors import StorageError
from consentd.files import lock_directory, read_file_if_exists, sync, write_file

SUFFIX = ".first-start"
"""The mark's name is that of the log key with this suffix."""
DATA_NAME = "first-start"
"""Name of the file in the data directory."""
_NAME = "mark of the first start"
_MARK = re.compile(r"(?P<vkey>[^\n]+)\n(?:(?P<number>[0-9a-f]{32})\n)?")
_RUNBOOK = "see ops/RUNBOOK.md, `ledger refuses to open`"


def mark_path(config: Config) -> Path:
    """Return where the mark is: outside the data directory, whose disk may be absent."""
    path = config.keys.log_key_file
    return path.with_name(path.name + SUFFIX)


def format_mark(log_key: Verifier) -> str:
    """Return the content of a new mark."""
    return format_vkey(log_key) + "\n"


def check_first_start(config: Config, log_key: Verifier) -> None:
    """Check that a ledger may begin in the data directory of *config*. This reads files and writes none.

    Raises:
        StorageError: it may not; or a file cannot be read.
    """
    _read_number(config, log_key)


def note_first_start(config: Config, log_key: Verifier) -> None:
    """Note in which data directory the ledger begins: steps 1 and 2. Call this before leaf 0 is written.

    Raises:
        StorageError: the ledger may not begin here; or a file cannot be read or written.
    """
    path = mark_path(config)
    # Another daemon with these keys may start in another data directory just now. The data directory itself is locked.
    is_locked = path.parent.resolve() == config.ledger.data_dir.resolve()
    lock = None if is_locked else lock_directory(path.parent)
    try:
        if _read_number(config, log_key) is None:
            number = secrets.token_hex(16) + "\n"
            write_file(_data_path(config), number.encode(), is_private=True, name=_NAME)
            write_file(path, (format_mark(log_key) + number).encode(), is_private=True, name=_NAME)
    finally:
        if lock is not None:
            os.close(lock)


def end_first_start(config: Config) -> None:
    """Remove the mark and the file in the data directory: step 4. The ledger must have its leaf 0.

    Raises:
        StorageError: a file cannot be removed, or only the fsync of its directory failed.
    """
    for path in (mark_path(config), _data_path(config)):
        try:
            if path.exists():
                path.unlink()
                sync(path.parent)
        except OSError as error:
            raise StorageError(f"mark of the first start cannot be removed: `{path}`: {error.strerror}") from error


def _data_path(config: Config) -> Path:
    return config.ledger.data_dir / DATA_NAME


def _read_number(config: Config, log_key: Verifier) -> str | None:
    """Return the number in the mark, None before step 2, if a ledger may begin in the data directory."""
    path, data_dir = mark_path(config), config.ledger.data_dir
    content = read_file_if_exists(path, name=_NAME)
    if content is None:
        raise StorageError(
            f"no ledger is in the data directory, and none may begin there: `{data_dir}`: is its disk mounted? "
            f"`consentd keygen` makes `{path}` for one first start, and it is not there; {_RUNBOOK}"
        )
    found = _MARK.fullmatch(content.decode("utf-8", errors="replace"))
    if found is None:
        raise StorageError(f"mark of the first start is damaged: `{path}`; {_RUNBOOK}")
    if found["vkey"] != format_vkey(log_key):
        raise StorageError(f"mark of the first start is of another log key: `{path}`; {_RUNBOOK}")
    number = found["number"]
    if number is not None and read_file_if_exists(_data_path(config), name=_NAME) != f"{number}\n".encode():
        raise StorageError(
            f"ledger of these keys began in another data directory: `{data_dir}` is not it: is its disk mounted? "
            f"{_RUNBOOK}"
        )
    return number
