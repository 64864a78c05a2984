"""Read and write files of keys and tokens. Only a file's owner can read the file; no error message shows the text."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from consentd.core import note
from consentd.cosigning.mldsa import MldsaSigner, parse_mldsa_signing_key
from consentd.errors import InvalidError, MalformedError
from consentd.files import append_line
from consentd.secret_files import make_secret_file, read_secret_file

_Signer = TypeVar("_Signer")


def read_key_text(path: Path) -> str:
    """Return the text of a key file, without white space at the start and the end. Raises as ``read_secret_file``."""
    return read_secret_file(path).decode("ascii", "replace").strip()


def read_hex_key(path: Path) -> bytes:
    """Read a file with a key of 32 bytes, as 64 hex digits. Raises as ``read_signing_key``."""
    try:
        key = bytes.fromhex(read_key_text(path))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InvalidError(f"key file holds no key of 64 hex digits: `{path}`")
    return key


def read_signing_key(path: Path) -> note.Signer:
    """Read a file with the Ed25519 signing key (C2SP signed-note) of a log or a witness.

    Raises:
        StorageError: the file cannot be read.
        InvalidError: the file contains no such key, or others may read it; the message shows no secret.
    """
    return _read_key(path, note.parse_signing_key, "Ed25519")


def read_mldsa_key(path: Path) -> MldsaSigner:
    """Read a file with an ML-DSA-44 signing key; raises the same errors as ``read_signing_key``."""
    return _read_key(path, parse_mldsa_signing_key, "ML-DSA-44")


def _read_key(path: Path, parse: Callable[[str], _Signer], kind: str) -> _Signer:
    try:
        return parse(read_key_text(path))
    except MalformedError as error:
        raise InvalidError(f"key file holds no signing key: `{path}`; it must hold one of kind {kind}") from error


def write_private(path: Path, text: str, *, append: bool = False) -> None:
    """Write a text to a new file that only its owner can read (mode 0600), or *append* a line to an old one; sync.

    Raises:
        StorageError: the file cannot be written; or it exists, and *append* is false; or it does not, and *append* is
            true.
    """
    if append:
        append_line(path, text, name="key file")
        return
    make_secret_file(path, text.encode())
