"""Encrypt and decrypt files with age (age-encryption.org/v1); no other module imports ``pyrage``.

Only X25519 recipients are accepted (``age1…``): the daemon needs no secret to make a backup. age authenticates each
piece of 64 KiB, so a file that was changed or cut off does not decrypt. It does not say who encrypted: everybody who
knows a recipient can. So what a backup contains is verified by other means (``restoring``).

``pyrage`` reads pieces of 8 KiB and writes pieces of 64 KiB. It raises its own error in the place of an error of the
file that it reads or writes, and none if the last write of a file fails. So ``Source`` and ``Sink`` keep their errors,
and these are looked at in any case.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import pyrage

from consentd.errors import CorruptionError, InvalidError
from consentd.secret_files import make_secret_file, read_secret_file

_NO_KEY = "No matching keys"
"""How the message of ``pyrage`` begins if no identity is one of the recipients."""


class Source:
    """A file that is read once, from its beginning; counts and hashes what was read.

    Attributes:
        size: how many bytes were read.
        error: what reading it raised.
    """

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None] = lambda count: None) -> None:
        """*on_bytes*: called with the number of bytes of each piece that was read; what it raises ends the work."""
        self._file, self._on_bytes = file, on_bytes
        self._hasher = hashlib.sha256()
        self.size = 0
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next piece; empty at the end."""
        try:
            piece = self._file.read(size)
            self._hasher.update(piece)
            self.size += len(piece)
            self._on_bytes(len(piece))
        except BaseException as error:
            self.error = error
            raise
        return piece

    def digest(self) -> bytes:
        """Return the SHA-256 of what was read."""
        return self._hasher.digest()


class Sink:
    """A file that is written once, from its beginning; counts and hashes what was written.

    Attributes:
        size: how many bytes were written.
        error: what writing it raised.
    """

    def __init__(self, file: BinaryIO, *, most: int | None = None) -> None:
        """*most*: more bytes than these are refused with ``CorruptionError``; None: any number."""
        self._file, self._most = file, most
        self._hasher = hashlib.sha256()
        self.size = 0
        self.error: BaseException | None = None

    def write(self, piece: bytes) -> int:
        """Write a piece; return its length."""
        try:
            if self._most is not None and self.size + len(piece) > self._most:
                raise CorruptionError(f"file of a backup is longer than its manifest says: {self._most} bytes")
            self._file.write(piece)
            self._hasher.update(piece)
            self.size += len(piece)
        except BaseException as error:
            self.error = error
            raise
        return len(piece)

    def flush(self) -> None:
        """Pass on what is buffered. Whoever opened the file syncs it."""
        self._file.flush()

    def digest(self) -> bytes:
        """Return the SHA-256 of what was written."""
        return self._hasher.digest()


class Recipients:
    """The public keys that files are encrypted to."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Parse recipients, ``age1…`` each.

        Raises:
            InvalidError: one is no X25519 recipient of age, or there is none.
        """
        if not texts:
            raise InvalidError("backup has no recipient: name one as `backup.recipients`")
        self._keys = [_recipient(text) for text in texts]

    def encrypt(self, source: Source, sink: Sink) -> None:
        """Encrypt *source* into *sink*. Raises what reading or writing raises."""
        try:
            pyrage.encrypt_io(source, sink, self._keys)
        except Exception:
            _raise_own(source, sink)
            raise
        _raise_own(source, sink)


class Identities:
    """The private keys that files are decrypted with. No repr shows a key."""

    def __init__(self, text: str) -> None:
        """Parse the text of an identity file: a key ``AGE-SECRET-KEY-1…`` in a line each; ``#`` begins a comment.

        Raises:
            InvalidError: a line is no such key, or there is none. The message shows no line.
        """
        lines = [line.strip() for line in text.splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise InvalidError("identity file has no key: `consentd backup new-key` makes one")
        try:
            self._keys = [pyrage.x25519.Identity.from_str(key) for key in keys]
        except pyrage.IdentityError as error:
            raise InvalidError("identity file has a line that is no X25519 key of age (AGE-SECRET-KEY-1…)") from error

    def decrypt(self, source: Source, sink: Sink, *, name: str) -> None:
        """Decrypt *source* into *sink*. What was written is to be dropped if this raises. *name*: for messages.

        Raises:
            InvalidError: none of these keys is one of the recipients.
            CorruptionError: the file was changed or cut off, or is not encrypted with age.
        """
        try:
            pyrage.decrypt_io(source, sink, self._keys)
        except Exception as error:
            _raise_own(source, sink)
            if str(error).startswith(_NO_KEY):
                what = f"identity opens no file of this backup: `{name}`: use the key of a recipient"
                raise InvalidError(what) from error
            raise CorruptionError(f"file of a backup does not decrypt: `{name}`: {error}") from error
        _raise_own(source, sink)


def make_identity(path: Path) -> str:
    """Make a key, write its private part to a new file, as ``age-keygen`` does, and return the recipient.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    made = pyrage.x25519.Identity.generate()
    recipient = str(made.to_public())
    make_secret_file(path, f"# public key: {recipient}\n{made}\n".encode())
    return recipient


def read_identities(path: Path) -> Identities:
    """Read an identity file, as ``age-keygen`` writes it. Raises as ``read_secret_file`` and ``Identities``."""
    return Identities(read_secret_file(path).decode("ascii", "replace"))


def _recipient(text: str) -> "pyrage.x25519.Recipient":
    try:
        return pyrage.x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        raise InvalidError(f"backup recipient is no X25519 recipient of age (age1…): `{text}`") from error


def _raise_own(source: Source, sink: Sink) -> None:
    """Raise the error of the file that was read or written, if there is one."""
    for error in (source.error, sink.error):
        if error is not None:
            raise error
