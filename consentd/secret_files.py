"""Make files of secrets; read them, and refuse those that others may read or replace. The standard library alone."""

import os
import stat
from pathlib import Path

from consentd.errors import FileReadError, InvalidError, StorageError

READ, WRITE = 0o077, 0o022
"""Mode bits that a file of secrets, and one that others may read but not change, must not have."""


def read_secret_file(path: Path) -> bytes:
    """Return the content of a file of secrets.

    Raises:
        FileReadError: the file cannot be read.
        InvalidError: as ``check_secret_file``.
    """
    descriptor = _open_checked(path, READ)
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error


def make_secret_file(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read (mode 0600), and its directory if that does not exist; sync.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # the next attempt would refuse to replace an incomplete file
            raise
    except OSError as error:
        raise StorageError(f"key file cannot be written: `{path}`: {error.strerror}") from error


def check_secret_file(path: Path, *, forbidden: int = READ) -> None:
    """Check that nobody but the user of this process can read a file of secrets.

    *forbidden*: the mode bits that it must not have; ``WRITE``: others may read the file, but not change it.

    Raises:
        FileReadError: the file cannot be opened.
        InvalidError: it is a symbolic link or no regular file; it belongs to another user; or others may read it.
    """
    os.close(_open_checked(path, forbidden))


def _unreadable(path: Path, error: OSError) -> FileReadError:
    return FileReadError(
        f"secret file cannot be read: `{path}`: {error.strerror}: correct its name or mode. If it is lost, restore it"
    )


def _open_checked(path: Path, forbidden: int) -> int:
    """Open a file for reading, and check it; follow no symbolic link, and wait for no writer of a pipe."""
    if path.is_symlink():
        # Whoever may write the directory that the link leads to could replace the secret.
        raise InvalidError(f"secret file is a symbolic link: `{path}`: name the file itself")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        # INVARIANT: the opened file is checked, so no other file can take its place after the check.
        _check(path, os.fstat(descriptor), forbidden)
    except InvalidError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidError(f"secret file is not a regular file: `{path}`")
    if found.st_uid not in (0, os.geteuid()):
        raise InvalidError(
            f"secret file belongs to another user: `{path}`: run `chown {os.geteuid()} {path}`, or run this as user "
            f"{found.st_uid}"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        may = "read by others" if forbidden == READ else "changed by others"
        how = "600" if forbidden == READ else "go-w"
        raise InvalidError(f"secret file can be {may}: `{path}` has mode {mode:04o}: run `chmod {how} {path}`")
