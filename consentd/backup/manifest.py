"""The manifest of a set: which ledger it is of, as of when, and which files belong to it.

It is strict JSON, in the clear, so that an operator sees without a key what a set is and when it expires::

    {"format": 1, "kind": "ledger" or "vault", "backup_id": "32 hex digits", "name": "…", "origin": "…",
     "time_ms": …, "expires_time_ms": …, "checkpoint": "a signed note", "tree_size": …, "root": "64 hex digits",
     "map_root": "64 hex digits", "vault_state": "80 hex digits",
     "files": [{"name": "…", "size": …, "sha256": "…", "encrypted_size": …, "encrypted_sha256": "…"}, …]}

The two sets of a backup have the same ``backup_id``. ``tree_size``, ``root`` and ``map_root`` are those of the
ledger's state row, and ``checkpoint`` is the last one that was signed: of a tree of at most ``tree_size`` leaves. In
the set of a ledger, ``vault_state`` is the state of the vault that the ledger recorded; in that of a vault, it is the
vault's own.

Nothing signs the manifest. A restore compares it with what the files turn out to be.
"""

import enum
import json
import re
from dataclasses import dataclass
from typing import Any

from consentd import limits
from consentd.core.json_fields import check_format, parse_object, read_hex, read_number, read_object, read_text
from consentd.core.note import check_name
from consentd.errors import InvalidError, MalformedError

MANIFEST_NAME = "manifest.json"
"""Name of the file in a set's directory."""
MAX_BYTES = 64 << 20
"""Longest manifest that is read: 200,000 files. A store has a file for each 64 MiB."""
_FORMAT = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(f"[a-z0-9][a-z0-9._-]{{0,{limits.BACKUP_NAME_CHARACTERS - 1}}}")
_FIELDS = {
    "format", "kind", "backup_id", "name", "origin", "time_ms", "expires_time_ms", "checkpoint", "tree_size", "root",
    "map_root", "vault_state", "files",
}  # fmt: skip
_FILE_FIELDS = {"name", "size", "sha256", "encrypted_size", "encrypted_sha256"}


class SetKind(enum.Enum):
    """Which store a set has."""

    LEDGER = "ledger"
    VAULT = "vault"


@dataclass(frozen=True, slots=True)
class SetFile:
    """A file of a set: its name in the store, its size in bytes and its SHA-256, plain and encrypted."""

    name: str
    size: int
    sha256: bytes
    encrypted_size: int
    encrypted_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What both sets of a backup say, as the module's docstring explains."""

    backup_id: str
    name: str
    origin: str
    time_ms: int
    expires_time_ms: int
    checkpoint: bytes
    tree_size: int
    root: bytes
    map_root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest; its fields are explained in the module's docstring."""

    kind: SetKind
    of: Snapshot
    vault_state: bytes
    files: tuple[SetFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files, not encrypted."""
        return sum(file.size for file in self.files)


def check_backup_name(name: str) -> None:
    """Check that *name* can be a backup's name: it becomes the name of a directory. Raises ``InvalidError``."""
    if not _NAME.fullmatch(name):
        raise InvalidError(f"backup name is not of [a-z0-9._-], or begins with one of .-_, or is too long: `{name}`")


def format_manifest(manifest: Manifest) -> bytes:
    """Return the content of the file."""
    of = manifest.of
    fields = {
        "format": _FORMAT, "kind": manifest.kind.value, "backup_id": of.backup_id, "name": of.name, "origin": of.origin,
        "time_ms": of.time_ms, "expires_time_ms": of.expires_time_ms, "checkpoint": of.checkpoint.decode(),
        "tree_size": of.tree_size, "root": of.root.hex(), "map_root": of.map_root.hex(),
        "vault_state": manifest.vault_state.hex(),
        "files": [
            {
                "name": file.name, "size": file.size, "sha256": file.sha256.hex(),
                "encrypted_size": file.encrypted_size, "encrypted_sha256": file.encrypted_sha256.hex(),
            }
            for file in manifest.files
        ],
    }  # fmt: skip
    return json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n"


def parse_manifest(content: bytes) -> Manifest:
    """Return what a manifest says.

    Raises:
        MalformedError: it is not of the form that the module's docstring explains.
    """
    fields = parse_object(content, _FIELDS, max_bytes=MAX_BYTES, max_nesting=3)
    check_format(fields, _FORMAT)
    return Manifest(
        kind=_kind(fields), of=_snapshot(fields), vault_state=read_hex(fields, "vault_state", 40), files=_files(fields)
    )


def _snapshot(fields: dict[str, Any]) -> Snapshot:
    name, origin = read_text(fields, "name"), read_text(fields, "origin")
    check_name(origin)
    try:
        check_backup_name(name)
    except InvalidError as error:
        raise MalformedError(str(error)) from error
    return Snapshot(
        backup_id=read_hex(fields, "backup_id", 16).hex(), name=name, origin=origin,
        time_ms=read_number(fields, "time_ms"), expires_time_ms=read_number(fields, "expires_time_ms"),
        checkpoint=read_text(fields, "checkpoint").encode(), tree_size=read_number(fields, "tree_size"),
        root=read_hex(fields, "root", 32), map_root=read_hex(fields, "map_root", 32),
    )  # fmt: skip


def _kind(fields: dict[str, Any]) -> SetKind:
    try:
        return SetKind(read_text(fields, "kind"))
    except ValueError as error:
        raise MalformedError("kind is neither `ledger` nor `vault`") from error


def _files(fields: dict[str, Any]) -> tuple[SetFile, ...]:
    if not isinstance(fields["files"], list):
        raise MalformedError("files are no list")
    files = tuple(_file(read_object(value, _FILE_FIELDS)) for value in fields["files"])
    if len({file.name for file in files}) < len(files):
        raise MalformedError("a file is named twice")
    return files


def _file(fields: dict[str, Any]) -> SetFile:
    name = read_text(fields, "name")
    check_file_name(name)
    return SetFile(
        name, read_number(fields, "size"), read_hex(fields, "sha256", 32), read_number(fields, "encrypted_size"),
        read_hex(fields, "encrypted_sha256", 32),
    )  # fmt: skip


def check_file_name(name: str) -> None:
    """Check that *name* can be a file of a store, and leads out of no directory. Raises ``MalformedError``."""
    if not _FILE_NAME.fullmatch(name):
        raise MalformedError(f"file has an impossible name: `{name}`")
